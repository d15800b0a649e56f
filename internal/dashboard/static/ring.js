// The ring: branches, the channels between them, and money moving along them. Nodes and channels are
// SVG, drawn when the state changes; what moves is on a canvas above, drawn each frame.
import { html, useEffect, useMemo, useRef } from './vendor/htm-preact/standalone.module.js';
import { bank, now, onMoves, pace } from './store.js';
import { colour, iconPath, num, rem, stateOf, still, themeChanged, useWidth } from './parts.js';

const ringMax = 24; // branches in the ring; the list has all

const lag = 450;     // ms behind the bank: by then most arrivals are known
const slowest = 380; // ms that a dot takes at least, or nobody would see it
const dotMax = 600;

// layout spaces n nodes evenly along an ellipse, and sizes them by the room between them.
function layout(n, w, h) {
  const most = w < 500 ? 42 : 60 * rem();
  const margin = w < 500 ? 46 : n > 8 ? 56 : most + 12;
  const rx = w / 2 - margin, ry = h / 2 - margin;
  const start = n === 4 ? -0.75 * Math.PI : n === 2 ? -Math.PI : -0.5 * Math.PI;
  const point = (a) => ({ x: w / 2 + rx * Math.cos(a), y: h / 2 + ry * Math.sin(a) });
  const steps = 1440;
  const length = [0];
  for (let i = 1; i <= steps; i++) {
    const p = point(start + (2 * Math.PI * (i - 1)) / steps), q = point(start + (2 * Math.PI * i) / steps);
    length.push(length[i - 1] + Math.hypot(q.x - p.x, q.y - p.y));
  }
  const nodes = [];
  for (let k = 0, i = 0; k < n; k++) {
    while (length[i] < (length[steps] * k) / n) i++;
    // Four stand at the corners, whatever the width.
    nodes.push(n === 4 ? { x: w / 2 + rx * 0.86 * (k % 3 ? 1 : -1), y: h / 2 + ry * 0.94 * (k < 2 ? -1 : 1) } : point(start + (2 * Math.PI * i) / steps));
  }
  const gap = n < 2 ? w : Math.min(...nodes.map((p, i) => { const q = nodes[(i + 1) % n]; return Math.hypot(p.x - q.x, p.y - q.y); }));
  return { nodes, r: Math.max(21, Math.min(most, gap * 0.42)) };
}

// curve is a channel's path from rim to rim, bent so that its two directions are apart, and in a large
// ring drawn towards the middle, so that it passes by the other branches.
function curve(a, b, r, middle, pull) {
  const dx = b.x - a.x, dy = b.y - a.y, d = Math.hypot(dx, dy) || 1;
  const bend = 10 + d * 0.11, mx = (a.x + b.x) / 2, my = (a.y + b.y) / 2;
  const c = { x: mx - (dy / d) * bend + (middle.x - mx) * pull, y: my + (dx / d) * bend + (middle.y - my) * pull };
  const rim = (p, extra) => {
    const ex = c.x - p.x, ey = c.y - p.y, e = Math.hypot(ex, ey) || 1;
    return { x: p.x + (ex / e) * (r + extra), y: p.y + (ey / e) * (r + extra) };
  };
  return { a: rim(a, 3), c, b: rim(b, 6) };
}
const trace = ({ a, c, b }) => `M${a.x.toFixed(1)} ${a.y.toFixed(1)}Q${c.x.toFixed(1)} ${c.y.toFixed(1)} ${b.x.toFixed(1)} ${b.y.toFixed(1)}`;
function along({ a, c, b }, t) {
  const u = 1 - t;
  return { x: u * u * a.x + 2 * u * t * c.x + t * t * b.x, y: u * u * a.y + 2 * u * t * c.y + t * t * b.y };
}

export function Ring({ selected, onSelect, focusChannel }) {
  const [box, w] = useWidth(720);
  const s = bank.state;
  const all = bank.hello.roster.map((b) => b.name);
  const names = all.slice(0, ringMax);
  const h = Math.round(w < 500 ? Math.max(350, w) : Math.min(w * 0.75, Math.max(names.length > 8 ? 540 : 390, innerHeight - 500)));
  const place = useMemo(() => {
    const { nodes, r } = layout(names.length, w, h);
    const at = new Map(names.map((name, i) => [name, nodes[i]]));
    const curves = new Map();
    for (const src of names) for (const dst of names) if (src !== dst) curves.set(`${src}>${dst}`, curve(at.get(src), at.get(dst), r, { x: w / 2, y: h / 2 }, names.length > 5 ? 0.4 : 0));
    const web = [...curves.values()].map(trace).join('');
    return { at, r, curves, web };
  }, [w, h, names.join(), rem()]);
  const idle = new Set((s?.branches ?? []).filter((b) => b.state !== 'ready' && b.state !== 'remote').map((b) => b.name));
  const shown = (s?.channels ?? []).filter((c) => place.curves.has(`${c.src}>${c.dst}`))
    .map((c) => ({ ...c, severed: !c.up && !idle.has(c.src) && !idle.has(c.dst) })); // not just for want of an end
  const labelled = new Set(shown.filter((c) => c.in_transit > 0).sort((a, b) => b.in_transit - a.in_transit)
    .filter((c, i) => names.length <= 5 || i < 5 || selected === c.src || selected === c.dst));
  const dense = names.length > 8; // then the idle channels are one path, or drawing them costs too much
  const drawn = dense ? shown.filter((c) => c.in_transit > 0 || c.severed || c.refused) : shown;
  return html`<div class=${`ring ${dense ? 'dense' : ''}`} ref=${box}>
    <svg width=${w} height=${h} viewBox=${`0 0 ${w} ${h}`} aria-hidden="true">
      ${dense && html`<path class="web" d=${place.web} />`}
      <g>${drawn.map((c) => html`<${Channel} key=${`${c.src}>${c.dst}`} c=${c} path=${place.curves.get(`${c.src}>${c.dst}`)}
        dim=${selected && selected !== c.src && selected !== c.dst} focus=${focusChannel === `${c.src}>${c.dst}`} />`)}</g>
      <g>${drawn.map((c) => html`<${Label} key=${`${c.src}>${c.dst}`} c=${c} path=${place.curves.get(`${c.src}>${c.dst}`)} on=${labelled.has(c)} />`)}</g>
    </svg>
    <${Dots} w=${w} h=${h} place=${place} />
    <svg class="nodes" width=${w} height=${h} viewBox=${`0 0 ${w} ${h}`} role="group" aria-label="Branches">
      ${names.map((name) => html`<${Node} key=${name} b=${s?.branches.find((b) => b.name === name) ?? { name, state: 'starting', balance: 0 }}
        p=${place.at.get(name)} r=${place.r} selected=${selected === name} onSelect=${onSelect} />`)}
    </svg>
    <p class="under">${all.length > names.length && `${num(all.length - names.length)} more branches are in the list, not in the ring. `}
      ${still() ? 'Motion is reduced: money on its way is shown in figures.' : bank.notShown >= 1 && `A sample moves here: about ${num(Math.round(bank.notShown * 10))} transfers a second are not shown.`}</p>
  </div>`;
}

function Channel({ c, path, dim, focus }) {
  const active = c.in_transit > 0;
  const width = active ? 1.6 + 5 * Math.sqrt(Math.min(1, c.in_transit / (bank.hello.total / bank.hello.roster.length))) : 1;
  const classes = ['channel', active && 'active', !c.up && 'down', c.severed && 'severed', c.refused && 'refused', dim && 'dim', focus && 'focus'];
  return html`<path class=${classes.filter(Boolean).join(' ')} stroke-width=${width.toFixed(2)} d=${trace(path)} />`;
}

function Label({ c, path, on }) {
  const last = useRef('');
  if (c.in_transit > 0) last.current = num(c.in_transit);
  const p = along(path, 0.36), mid = along(path, 0.5);
  const width = last.current.length * 8 * rem() + 14, tall = 20 * rem();
  return html`<g>
    ${(c.severed || c.refused) && html`<g class="cross" transform=${`translate(${mid.x.toFixed(1)} ${mid.y.toFixed(1)})`}><path d="M-4 -4L4 4M4 -4L-4 4" /></g>`}
    <g class=${`amount ${on ? 'on' : ''}`} transform=${`translate(${p.x.toFixed(1)} ${p.y.toFixed(1)})`}>
    <rect x=${-width / 2} y=${-tall / 2} width=${width} height=${tall} rx=${tall / 2} /><text y=${4.5 * rem()}>${last.current}</text></g></g>`;
}

function Node({ b, p, r, selected, onSelect }) {
  const st = stateOf(b.state);
  const share = Math.max(0, Math.min(1, b.balance / bank.hello.total));
  const roomy = r >= 34;
  const size = Math.min(r * 0.42, (r * 2.7) / Math.max(4, num(b.balance).length));
  const name = b.name.length > r / 4.200 ? `${b.name.slice(0, 2)}…${b.name.slice(-2)}` : b.name;
  const choose = (e) => { if (e.type === 'click' || e.key === 'Enter' || e.key === ' ') { e.preventDefault(); onSelect(selected ? null : b.name); } };
  return html`<g class=${`node ${st.tone} ${selected ? 'selected' : ''}`} transform=${`translate(${p.x.toFixed(1)} ${p.y.toFixed(1)})`} data-branch=${b.name}
      role="button" tabindex="0" aria-pressed=${selected} aria-label=${`${b.name}: ${st.word}, balance ${num(b.balance)}`} onClick=${choose} onKeyDown=${choose}>
    <circle class="halo" r=${r + 5} />
    <circle class="disc" r=${r} />
    <circle class="share" r=${r - 3} transform="rotate(-90)" pathLength="100" stroke-dasharray=${`${(100 * share).toFixed(1)} 100`} />
    <text class="name" y=${roomy ? -r * 0.36 : -r * 0.3} font-size=${Math.max(9.500, r * 0.23).toFixed(1)}>${name}</text>
    <text class="balance" y=${size * 0.36 + (roomy ? 0 : r * 0.06)} font-size=${size.toFixed(1)}>${num(b.balance)}</text>
    <g class="state" transform=${`translate(0 ${(r * 0.52).toFixed(1)})`}>
      ${roomy ? html`<path class="glyph" transform=${`translate(${-st.word.length * r * 0.058 - 9} -6.500) scale(.82)`} d=${iconPath(st.icon)} />
        <text x="8" y="4" font-size=${Math.max(9.500, r * 0.2).toFixed(1)}>${st.word}</text>`
      : html`<path class="glyph" transform="translate(-6.500 -6.500) scale(.82)" d=${iconPath(st.icon)} />`}
    </g>
    <title>${`${b.name}: ${st.word}`}</title>
  </g>`;
}

// Dots: the animation. Each dot is one transfer (round) or marker (diamond) between its sending and
// its arrival; one whose arrival is not known yet slows down before the door of the receiver.
function Dots({ w, h, place }) {
  const canvas = useRef(null);
  const live = useRef(null);
  live.current = { w, h, place };
  useEffect(() => {
    const dots = new Map(), early = new Map(), pulses = [];
    const key = (src, dst, e) => `${src}>${dst}>${e.kind.startsWith('marker') ? `m${e.snapshot_id}` : e.n}`;
    const off = onMoves((events) => {
      if (still() || document.hidden) return;
      for (const e of events) {
        if (e.kind === 'record') pulses.push({ branch: e.branch, t: e.at_ms });
        else if (e.kind === 'send' || e.kind === 'marker_sent') {
          const k = key(e.branch, e.peer, e);
          const end = early.get(k);
          early.delete(k);
          dots.set(k, { ch: `${e.branch}>${e.peer}`, marker: e.kind === 'marker_sent', money: e.money, t0: e.at_ms, t1: end ?? null, p: 0 });
        } else {
          const k = key(e.peer, e.branch, e), d = dots.get(k);
          if (d) d.t1 = e.at_ms;
          else early.set(k, e.at_ms);
        }
      }
      for (const m of [dots, early]) while (m.size > dotMax) m.delete(m.keys().next().value);
      if (pulses.length > 100) pulses.splice(0, pulses.length - 100);
    });
    let ink = {};
    const inks = () => { ink = { money: colour('--transit-fill'), rim: colour('--panel'), marker: colour('--cut') }; };
    inks();
    themeChanged.addEventListener('change', inks);
    let frame = 0, before = 0, drained = 0, drawn = false;
    const draw = () => {
      frame = requestAnimationFrame(draw);
      const c = canvas.current, { w, h, place } = live.current;
      if (!c || (!drawn && dots.size === 0 && pulses.length === 0)) return;
      const scale = devicePixelRatio || 1;
      if (c.width !== Math.round(w * scale) || c.height !== Math.round(h * scale)) { c.width = Math.round(w * scale); c.height = Math.round(h * scale); }
      const g = c.getContext('2d');
      g.setTransform(scale, 0, 0, scale, 0, 0);
      g.clearRect(0, 0, w, h);
      const t = now() - lag * pace(), dt = Math.max(0, Math.min(200 * pace(), t - before));
      if (Math.abs(t - before) > 2000 * pace() && before) { dots.clear(); early.clear(); pulses.length = 0; }
      before = t;
      if (t - drained > 1000) {
        drained = t;
        const empty = new Set((bank.state?.channels ?? []).filter((ch) => ch.items === 0).map((ch) => `${ch.src}>${ch.dst}`));
        for (const [k, d] of dots) if (d.t1 === null && ((empty.has(d.ch) && t - d.t0 > 1500) || t - d.t0 > 60000)) dots.delete(k);
      }
      drawn = dots.size + pulses.length > 0;
      for (let i = pulses.length - 1; i >= 0; i--) if (!pulse(g, place, pulses[i], t, ink)) pulses.splice(i, 1);
      for (const [k, d] of dots) if (!step(g, place, d, t, dt, ink)) dots.delete(k);
    };
    frame = requestAnimationFrame(draw);
    return () => { off(); cancelAnimationFrame(frame); themeChanged.removeEventListener('change', inks); };
  }, []);
  return html`<canvas ref=${canvas} aria-hidden="true"></canvas>`;
}

function step(g, place, d, t, dt, ink) {
  if (t < d.t0) return true;
  if (d.t1 === null) d.p += (0.94 - d.p) * Math.min(1, dt / (260 * pace()));
  else {
    const left = Math.max(d.t1, d.t0 + slowest * pace()) - t;
    d.p = left <= 0 ? 1 : d.p + (1 - d.p) * Math.min(1, dt / (left + dt));
  }
  const path = place.curves.get(d.ch);
  if (!path || d.p >= 1) return false;
  const { x, y } = along(path, d.p);
  g.beginPath();
  if (d.marker) { g.moveTo(x, y - 6); g.lineTo(x + 6, y); g.lineTo(x, y + 6); g.lineTo(x - 6, y); g.closePath(); } else {
    g.arc(x, y, 3 + 5 * Math.sqrt(Math.min(1, d.money / (bank.hello.total / bank.hello.roster.length))), 0, 7);
  }
  g.fillStyle = d.marker ? ink.rim : ink.money;
  g.strokeStyle = d.marker ? ink.marker : ink.rim;
  g.lineWidth = d.marker ? 2 : 1.2;
  g.fill();
  g.stroke();
  return true;
}

function pulse(g, place, { branch, t: began }, t, ink) {
  const p = place.at.get(branch), age = (t - began) / (900 * pace());
  if (!p || age >= 1) return false;
  if (age < 0) return true;
  g.beginPath();
  g.arc(p.x, p.y, place.r + 3 + 16 * age, 0, 7);
  g.globalAlpha = 1 - age;
  g.lineWidth = 3;
  g.strokeStyle = ink.marker;
  g.stroke();
  g.globalAlpha = 1;
  return true;
}
