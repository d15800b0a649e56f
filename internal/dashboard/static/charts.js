// Charts over time, with the faults as shaded bands behind them.
import { html, useEffect, useRef } from './vendor/htm-preact/standalone.module.js';
import { bank, now, startOf, sumOf, whole } from './store.js';
import { clockText, colour, ms, num, rem, signed, themeChanged } from './parts.js';

const longest = 120, shortest = 30; // seconds of the time axis

// Kinds of bands: word, colour, pattern. The pattern and the word tell them apart without the colour.
export const bandKinds = {
  down: { word: 'down', ink: '--bad', path: 'M0 8L8 0M-2 2L2 -2M6 10L10 6' },
  restarting: { word: 'restarting', ink: '--wait', path: 'M0 4h3' },
  paused: { word: 'paused', ink: '--pause', path: 'M4 0v8' },
  silent: { word: 'no answer', ink: '--wait', path: 'M4 0v8M0 4h8' },
  cut: { word: 'link cut', ink: '--cut', path: 'M0 2h8M0 6h8' },
};
const patterns = new Map();
themeChanged.addEventListener('change', () => patterns.clear());
function pattern(g, kind) {
  if (!patterns.has(kind)) {
    const tile = Object.assign(document.createElement('canvas'), { width: 8, height: 8 });
    const t = tile.getContext('2d');
    t.strokeStyle = colour(bandKinds[kind].ink);
    t.lineWidth = 1;
    t.globalAlpha = 0.55;
    t.stroke(new Path2D(bandKinds[kind].path));
    t.globalAlpha = 0.12;
    t.fillStyle = t.strokeStyle;
    t.fillRect(0, 0, 8, 8);
    patterns.set(kind, g.createPattern(tile, 'repeat'));
  }
  return patterns.get(kind);
}

function drawBands(u) {
  const g = u.ctx, { left, top, width, height } = u.bbox, scale = devicePixelRatio || 1;
  g.save();
  g.beginPath();
  g.rect(left, top, width, height);
  g.clip();
  let labelled = -1e9;
  for (const b of bank.bands) {
    const x0 = u.valToPos(b.from / 1000, 'x', true), x1 = u.valToPos((b.to ?? now()) / 1000, 'x', true);
    const w = Math.max(3 * scale, x1 - x0);
    if (x0 + w < left || x0 > left + width) continue;
    g.fillStyle = pattern(g, b.kind);
    g.fillRect(x0, top, w, height);
    g.fillStyle = colour(bandKinds[b.kind].ink);
    g.fillRect(x0, top, w, 3 * scale);
    if (x0 - labelled < 80 * scale) continue;
    labelled = x0;
    g.font = `${10 * scale * rem()}px Inter, system-ui, sans-serif`;
    g.textBaseline = 'top';
    const text = `${b.branch} ${bandKinds[b.kind].word}`, from = Math.max(x0, left), fits = from + g.measureText(text).width < left + width;
    g.textAlign = fits ? 'left' : 'right';
    g.fillText(text, fits ? from + 3 * scale : from - 3 * scale, top + 5 * scale);
  }
  g.restore();
}

function options(el, { series, range, unit }) {
  const soft = () => colour('--soft'), line = () => colour('--line');
  const axis = { stroke: soft, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1, size: 4 }, font: `${11 * rem()}px Inter, system-ui, sans-serif`, gap: 4 };
  return {
    width: el.clientWidth || 300, height: 150, padding: [8, 8, 0, 0], legend: { show: false },
    cursor: { drag: { x: false, y: false }, points: { show: false } },
    scales: { x: { time: false, range: () => { const t = now() / 1000; return [t - Math.min(longest, Math.max(shortest, t - (bank.points.t[0] ?? t))), t]; } }, y: { range } },
    axes: [
      { ...axis, size: 26 * rem(), space: 60 * rem(), values: (_, v) => v.map((s) => (s < 0 ? '' : clockText(s * 1000))) },
      { ...axis, size: (unit ? 62 : 52) * rem(), space: 30, values: (_, v) => v.map((n) => (unit ? unit(n) : num(Math.round(n * 10) / 10))) },
    ],
    series: [{}, ...series.map((s) => ({ ...s, stroke: () => colour(s.ink), fill: s.fade && (() => colour(s.fade)), points: { show: s.dots ?? false, size: 5, fill: () => colour(s.ink) } }))],
    hooks: { drawClear: [drawBands] },
  };
}

function Chart({ title, value, note, data, spec }) {
  const size = rem();
  const box = useRef(null), plot = useRef(null);
  useEffect(() => {
    plot.current = new uPlot(options(box.current, spec), data, box.current);
    const sized = new ResizeObserver(() => plot.current.setSize({ width: box.current.clientWidth, height: 150 }));
    const themed = () => plot.current.redraw(false, true);
    sized.observe(box.current);
    themeChanged.addEventListener('change', themed);
    return () => { sized.disconnect(); themeChanged.removeEventListener('change', themed); plot.current.destroy(); };
  }, [size]);
  useEffect(() => { plot.current.setData(data); }, [data[0].length, data[0].at(-1), Math.round(now() / 250)]);
  return html`<figure class="chart"><figcaption><span>${title}</span><strong>${value}</strong>${note && html`<em>${note}</em>`}</figcaption>
    <div ref=${box} aria-hidden="true"></div></figure>`;
}

const fromZero = (_, __, max) => [0, Math.max(1, (max ?? 1) * 1.15)];
const aroundTotal = (_, min, max) => {
  const total = bank.hello.total, reach = Math.max(total * 0.02, 2, Math.abs((min ?? total) - total), Math.abs((max ?? total) - total)) * 1.15;
  return [total - reach, total + reach * 0.7];
};
const rate = { series: [{ ink: '--accent', fade: '--accent-faint', width: 1.5 }], range: fromZero };
const sums = { series: [{ ink: '--transit', width: 1.2, dash: [3, 3] }, { ink: '--ok', width: 3 }], range: aroundTotal };
const durations = { series: [{ ink: '--cut', width: 1, dots: true }], range: fromZero, unit: (n) => ms(n).replace('.0 ', ' ') };

const isWhole = (v) => (v >= 100 ? Math.round(v) : Math.round(v * 10) / 10);
export function RateChart() {
  const p = bank.points;
  return html`<${Chart} title="Transfers a second" value=${num(isWhole(bank.state?.transfers_per_s ?? 0))} data=${[p.t, p.rate]} spec=${rate} />`;
}
export function SumChart() {
  const p = bank.points, naive = bank.state?.naive_sum ?? 0;
  return html`<${Chart} title="The sum" value=${bank.last ? num(sumOf(bank.last)) : '–'} data=${[p.t, p.naive, p.sum]} spec=${sums}
    note=${html`<span class="key solid">in a snapshot</span> <span class="key dashed">balances added up: ${num(naive)} (${signed(naive - bank.hello.total)})</span>`} />`;
}
export function DurationChart() {
  const list = bank.snapshots.filter((r) => whole(r) && Number.isFinite(startOf(r))).sort((a, b) => startOf(a) - startOf(b));
  return html`<${Chart} title="A snapshot takes" value=${bank.last ? ms(bank.last.duration_ms) : '–'} spec=${durations}
    data=${[list.map((r) => startOf(r) / 1000), list.map((r) => r.duration_ms)]} />`;
}
export function BandKey() {
  return html`<p class="bandkey"><span>Shaded: a branch or link that was</span>${Object.entries(bandKinds).map(([k, b]) => html`<span key=${k} class=${`band ${k}`}>
    <svg viewBox="0 0 24 12" aria-hidden="true"><rect width="24" height="12" /><path d=${{ down: 'M-2 12L10 0M4 12L16 0M10 12L22 0M16 12L28 0', restarting: 'M2 4h4M10 4h4M18 4h4M6 8h4M14 8h4', paused: 'M4 0v12M10 0v12M16 0v12M22 0v12', silent: 'M4 0v12M10 0v12M16 0v12M22 0v12M0 6h24', cut: 'M0 3h24M0 6h24M0 9h24' }[k]} /></svg>${b.word}</span>`)}</p>`;
}
