// The cut: a space-time diagram of one snapshot. One line per branch, time to the right, messages as
// arrows, markers in another stroke, the cut through the recordings, what crosses it counted.
import { html, useEffect, useMemo, useRef, useState } from './vendor/htm-preact/standalone.module.js';
import { bank, getCut, sumOf, whole } from './store.js';
import { Button, Icon, Mark, count, ms, num, outcomeOf, rem, useWidth } from './parts.js';
import { bandKinds } from './charts.js';

const plainMax = 260; // messages drawn that do not cross
const labelMax = 14;  // of those that cross, labelled in a dense diagram

// read pairs what /api/cut says: messages by channel and number, markers by channel.
export function read({ snapshot, branches, events, left_out, missing }) {
  const rows = new Map(branches.map((b, i) => [b, i]));
  const messages = new Map(), markers = new Map(), records = new Map();
  for (const e of events) {
    if (!rows.has(e.branch) || (e.snapshot_id && e.snapshot_id !== snapshot.snapshot_id)) continue; // another snapshot's
    if (e.kind === 'record') { records.set(e.branch, e); continue; }
    const sent = e.kind === 'send' || e.kind === 'marker_sent';
    const [src, dst] = sent ? [e.branch, e.peer] : [e.peer, e.branch];
    if (!rows.has(src) || !rows.has(dst)) continue;
    const isMarker = e.kind.startsWith('marker');
    const into = isMarker ? markers : messages, key = isMarker ? `${src}>${dst}` : `${src}>${dst}>${e.n}`;
    if (!into.has(key)) into.set(key, { key, src, dst, n: e.n, money: e.money, from: null, to: null, crosses: false });
    const m = into.get(key);
    m[sent ? 'from' : 'to'] = e;
    m.crosses ||= e.crosses === true;
  }
  const list = [...messages.values()];
  const balances = new Map(snapshot.branches?.map((b) => [b.name, b.balance]));
  return { snapshot, branches, rows, records, balances, markers: [...markers.values()], messages: list, crossing: list.filter((m) => m.crosses), leftOut: left_out, missing: missing ?? [], events };
}

// byOrder gives each event the place that Lamport's clock does: after what came before it on its
// branch, and after its sending.
function byOrder(d) {
  const place = new Map(), last = new Map(), sendOf = new Map();
  for (const m of [...d.messages, ...d.markers]) if (m.from && m.to) sendOf.set(m.to, m.from);
  const todo = new Map(d.branches.map((b) => [b, []]));
  for (const e of [...d.events].sort((a, b) => a.at_ms - b.at_ms)) todo.get(e.branch)?.push(e);
  for (let moved = true; moved;) {
    moved = false;
    for (const [b, list] of todo) {
      while (list.length) {
        const from = sendOf.get(list[0]);
        if (from && !place.has(from)) break;
        const e = list.shift();
        const at = 1 + Math.max(last.get(b) ?? 0, from ? place.get(from) : 0);
        place.set(e, at);
        last.set(b, at);
        moved = true;
      }
    }
  }
  for (const list of todo.values()) for (const e of list) place.set(e, (last.get(e.branch) ?? 0) + 1);
  return (e) => place.get(e);
}

// window is what of the axis is shown: the cut, and about as much before and after it.
function extent(d, x) {
  const cut = [...d.records.values()].map(x);
  const ends = d.markers.flatMap((m) => (m.to ? [x(m.to)] : []));
  const lo = Math.min(...cut), hi = Math.max(...cut, ...ends), s = Math.max(hi - lo, 1e-6);
  const must = d.crossing.flatMap((m) => [m.from, m.to].filter(Boolean).map(x));
  return [Math.min(lo - 0.55 * s, ...must), Math.max(hi + 0.3 * s, ...must)];
}

// draw computes the picture in px.
export function draw(d, width, zoom, scale) {
  const n = d.branches.length;
  const row = n <= 4 ? 96 : n <= 8 ? 68 : n <= 16 ? 44 : 30;
  const narrow = width < 560;
  const letters = Math.min(narrow ? 10 : 22, Math.max(...d.branches.map((b) => b.length)));
  const left = letters * 8.2 * rem() + 20, right = narrow ? 14 : 28, top = 46, bottom = 40;
  const inner = Math.max(240, (width - left - right) * zoom);
  const w = left + inner + right, h = top + (n - 1) * row + bottom + 26;
  const x = scale === 'order' ? byOrder(d) : (e) => e.at_ms;
  const [lo, hi] = extent(d, x);
  const px = (v) => left + ((v - lo) / (hi - lo)) * inner;
  const py = (b) => top + d.rows.get(b) * row + 14;
  const cut = d.branches.filter((b) => d.records.has(b)).map((b) => ({ b, x: px(x(d.records.get(b))), y: py(b), e: d.records.get(b) }));
  const near = (m) => { const t = m.to ?? m.from; return Math.min(Math.abs(x(t) - x(d.records.get(m.dst) ?? t)), Math.abs(x(m.from ?? t) - x(d.records.get(m.src) ?? t))); };
  const inside = (m) => { const a = m.from ? x(m.from) : x(m.to), b = m.to ? x(m.to) : x(m.from); return b >= lo && a <= hi; };
  const plain = d.messages.filter((m) => !m.crosses && m.from && m.to && inside(m)).sort((a, b) => near(a) - near(b)).slice(0, plainMax);
  const arrow = (m, halo = 5) => {
    const y1 = py(m.src), y2 = py(m.dst), up = Math.sign(y2 - y1);
    const x1 = m.from ? px(x(m.from)) : px(lo), x2 = m.to ? px(x(m.to)) : w - right;
    const len = Math.hypot(x2 - x1, y2 - y1) || 1, ux = (x2 - x1) / len, uy = (y2 - y1) / len;
    const ex = x2 - ux * halo * 0.6, ey = y2 - uy * halo * 0.6;
    return { ...m, x1, y1, x2: ex, y2: ey, up, head: `M${f(ex)} ${f(ey)}L${f(ex - ux * 8 - uy * 3.400)} ${f(ey - uy * 8 + ux * 3.400)}L${f(ex - ux * 8 + uy * 3.400)} ${f(ey - uy * 8 - ux * 3.400)}Z` };
  };
  const notDrawn = d.messages.length - plain.length - d.crossing.length;
  const placed = [];
  return { w, h, left, right, top, row, inner, letters, dense: n > 8 || d.crossing.length > 40, lo, hi, px, py, cut, n,
    plain: plain.map((m) => arrow(m)), crossing: d.crossing.map((m) => { const a = arrow(m); a.at = crossAt(a, cut); return { ...a, label: labelAt(a, cut, placed) }; }), markers: d.markers.filter((m) => m.from && m.to && inside(m)).map((m) => arrow(m)),
    leftOut: d.leftOut + notDrawn, zero: Math.min(...cut.map((c) => x(c.e))), order: scale === 'order' };
}
const f = (v) => v.toFixed(1);

// crossAt is where an arrow meets the cut: straight between neighbouring recordings.
function crossAt(a, cut) {
  for (let i = 1; i < cut.length; i++) {
    const p = cut[i - 1], q = cut[i];
    const d = (a.x2 - a.x1) * (q.y - p.y) - (a.y2 - a.y1) * (q.x - p.x);
    if (Math.abs(d) < 1e-9) continue;
    const t = ((p.x - a.x1) * (q.y - p.y) - (p.y - a.y1) * (q.x - p.x)) / d;
    const u = ((p.x - a.x1) * (a.y2 - a.y1) - (p.y - a.y1) * (a.x2 - a.x1)) / d;
    if (t >= 0 && t <= 1 && u >= 0 && u <= 1) return { x: a.x1 + t * (a.x2 - a.x1), y: a.y1 + t * (a.y2 - a.y1), t };
  }
  return { x: (a.x1 + a.x2) / 2, y: (a.y1 + a.y2) / 2, t: 0.5 };
}

function Diagram({ d, g, svgRef, lit }) {
  const line = g.cut.map((c) => `${f(c.x)} ${f(c.y)}`).join('L');
  const first = g.cut[0], last = g.cut.at(-1);
  const path = first && `M${f(first.x)} ${g.top - 18}L${line}L${f(last.x)} ${f(last.y + 22)}`;
  const s = d.snapshot;
  const downs = bank.bands.filter((b) => b.kind !== 'cut' && d.rows.has(b.branch) && !g.order);
  const labelled = new Set([...g.crossing].sort((a, b) => b.money - a.money).slice(0, g.dense ? labelMax : 200).map((m) => m.key));
  return html`<svg ref=${svgRef} class=${`diagram ${g.dense ? 'dense' : ''}`} width=${g.w} height=${g.h} viewBox=${`0 0 ${f(g.w)} ${f(g.h)}`} xmlns="http://www.w3.org/2000/svg" role="img"
      aria-label=${`Space-time diagram of snapshot ${s.snapshot_id}: ${count(d.crossing.length, 'message')} cross the cut. The table below lists them.`}>
    <rect class="ground" width=${g.w} height=${g.h} />
    ${path && html`<path class="before" d=${`${path}L${g.left} ${f(last.y + 22)}L${g.left} ${g.top - 18}Z`} />
      <text class="side" x=${f(first.x - 12)} y=${g.top - 22} text-anchor="end">before the cut</text><text class="side" x=${f(first.x + 12)} y=${g.top - 22}>after it</text>`}
    ${d.branches.map((b) => html`<g key=${b}><line class="life" x1=${g.left} x2=${g.w - g.right} y1=${g.py(b)} y2=${g.py(b)} />
      <text class="who" x=${g.left - 10} y=${g.py(b) + 4.500} text-anchor="end">${b.length > g.letters ? `${b.slice(0, g.letters - 4)}…${b.slice(-3)}` : b}</text><title>${b}</title></g>`)}
    ${downs.map((b) => { const x1 = Math.max(g.left, g.px(b.from)), x2 = Math.min(g.w - g.right, b.to === null ? g.w : g.px(b.to)); return x2 > x1 && html`<g class=${`outage ${b.kind}`}>
      <rect x=${f(x1)} y=${g.py(b.branch) - 7} width=${f(Math.max(3, x2 - x1))} height="14" rx="3" /><text x=${f(x1 + 5)} y=${g.py(b.branch) + 20}>${bandKinds[b.kind].word}</text></g>`; })}
    <clipPath id="shown"><rect x=${g.left} y="0" width=${f(g.w - g.left - g.right + 6)} height=${g.h} /></clipPath>
    <g class="plain" clip-path="url(#shown)">${g.plain.map((m) => html`<g key=${m.key} class="msg"><line x1=${f(m.x1)} y1=${f(m.y1)} x2=${f(m.x2)} y2=${f(m.y2)} /><path d=${m.head} /><title>${title(m)}</title></g>`)}</g>
    <g class="markers" clip-path="url(#shown)">${g.markers.map((m) => html`<g key=${m.key} class="marker"><line x1=${f(m.x1)} y1=${f(m.y1)} x2=${f(m.x2)} y2=${f(m.y2)} /><path d=${m.head} /><title>${`marker ${m.src} → ${m.dst}`}</title></g>`)}</g>
    ${path && html`<path class="cutline halo" d=${path} /><path class="cutline" d=${path} />`}
    <g class="crossings">${g.crossing.map((m) => { const t = num(m.money), wide = t.length * 7.4 * rem() + 12, tall = 18 * rem(); return html`<g key=${m.key} class=${`msg crosses ${lit === m.key ? 'lit' : ''}`} data-key=${m.key}><line x1=${f(m.x1)} y1=${f(m.y1)} x2=${f(m.x2)} y2=${f(m.y2)} /><path d=${m.head} />
      <circle cx=${f(m.at.x)} cy=${f(m.at.y)} r="3" /><g transform=${`translate(${f(m.label.x)} ${f(m.label.y)})`}>${(labelled.has(m.key) || lit === m.key) && html`<rect x=${f(-wide / 2)} y=${f(-tall / 2)} width=${f(wide)} height=${f(tall)} rx=${f(tall / 2)} /><text y=${f(4 * rem())} text-anchor="middle">${t}</text>`}</g><title>${title(m)}</title></g>`; })}</g>
    ${g.cut.map((c) => { const began = c.b === s.initiator; return html`<g key=${c.b} class=${`recorded ${began ? 'began' : ''}`} transform=${`translate(${f(c.x)} ${f(c.y)})`}>
      <circle r=${began ? 7.500 : 5.500} />${g.row >= 40 && html`<text x="9" y="-9">${num(d.balances.get(c.b) ?? 0)}</text>`}<title>${`${c.b} records its balance: ${num(d.balances.get(c.b) ?? 0)}${began ? ', and begins the snapshot' : ''}`}</title></g>`; })}
    <${Axis} g=${g} />
  </svg>`;
}
const title = (m) => `${num(m.money)} from ${m.src} to ${m.dst}, number ${m.n}${m.crosses ? ': sent before the cut, received after it' : ''}`;

function Axis({ g }) {
  const y = g.h - 26;
  const span = g.hi - g.lo, rough = span / Math.max(3, g.inner / 110), p = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * p).find((k) => k >= rough);
  const ticks = [];
  for (let v = Math.ceil((g.lo - g.zero) / step) * step; v <= g.hi - g.zero; v += step) ticks.push(v);
  return html`<g class="axis"><line x1=${g.left} x2=${g.w - g.right} y1=${y} y2=${y} />
    ${g.order ? html`<text x=${g.left} y=${y + 17}>in the order of events (Lamport’s clock), not to scale</text>`
    : ticks.map((v) => html`<g key=${v} transform=${`translate(${f(g.px(v + g.zero))} ${y})`}><line y2="5" /><text y="17" text-anchor="middle">${Math.abs(v) < 1e-9 ? '0 ms' : `${+v.toPrecision(4)}`.replace('-', '−')}</text></g>`)}</g>`;
}

// labelAt moves a label along its arrow, away from those placed before it and from the recordings, whose
// balances stand there.
function labelAt(a, cut, placed) {
  const len = Math.hypot(a.x2 - a.x1, a.y2 - a.y1) || 1;
  const crowded = (p) => cut.some((c) => Math.abs(c.x + 14 - p.x) < 42 && Math.abs(c.y - 6 - p.y) < 24)
    || placed.some((q) => Math.abs(q.x - p.x) < 36 * rem() && Math.abs(q.y - p.y) < 19 * rem());
  const point = (t) => ({ x: a.x1 + t * (a.x2 - a.x1), y: a.y1 + t * (a.y2 - a.y1) });
  for (let step = 0; step < 90; step += 10) {
    for (const sign of [1, -1]) {
      const t = a.at.t + (sign * step) / len, p = point(t);
      if (t > 0.08 && t < 0.92 && !crowded(p)) { placed.push(p); return p; }
    }
  }
  return a.at;
}

// Download: the picture as a file that stands alone, styles written into it.
const styled = ['fill', 'fill-opacity', 'stroke', 'stroke-opacity', 'stroke-width', 'stroke-dasharray', 'stroke-linecap', 'stroke-linejoin', 'opacity', 'font-family', 'font-size', 'font-weight'];
export function standalone(svg) {
  const copy = svg.cloneNode(true);
  const from = svg.querySelectorAll('*'), to = copy.querySelectorAll('*');
  from.forEach((el, i) => {
    const style = getComputedStyle(el);
    for (const p of styled) { const v = style.getPropertyValue(p); if (v && v !== 'none' || p === 'fill') to[i].setAttribute(p, v); }
    to[i].removeAttribute('class');
  });
  return new XMLSerializer().serializeToString(copy);
}
function save(name, type, text) {
  const a = Object.assign(document.createElement('a'), { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 10000);
}

// useCut loads a cut once; what is asked for in between is kept until the new one is there.
function useCut(id) {
  const [cut, set] = useState({ id: null, data: null, error: '' });
  useEffect(() => {
    if (!id) return undefined;
    let gone = false;
    const load = (tries) => getCut(id).then((raw) => !gone && set({ id, raw, data: read(raw), error: '' }), (e) => {
      if (gone) return;
      if (tries > 0) setTimeout(() => load(tries - 1), 400);
      else set({ id, data: null, error: e.message });
    });
    load(3);
    return () => { gone = true; };
  }, [id]);
  return cut;
}

// Cut shows snapshot `id`; without one it follows the newest, at most every `pace` ms. The tour wants
// one in which money was on its way.
export function Cut({ id, pace = 3500, moving = false }) {
  const newest = (moving && bank.snapshots.findLast((r) => whole(r) && r.in_transit > 0) || bank.last)?.snapshot_id ?? null;
  const [followed, follow] = useState(newest);
  const since = useRef(0);
  const want = id ?? followed;
  const { id: got, raw, data, error } = useCut(want);
  useEffect(() => {
    // Not before the last one is there, or a slow launcher would never be heard out.
    if (id || !newest || newest === followed || (followed && got !== followed)) return undefined;
    const t = setTimeout(() => { since.current = Date.now(); follow(newest); }, Math.max(0, pace - (Date.now() - since.current)));
    return () => clearTimeout(t);
  }, [id, newest, followed, got, pace]);
  const [box, width] = useWidth(1000);
  const svg = useRef(null);
  const [zoom, setZoom] = useState(1);
  const [scaleWish, setScale] = useState('');
  const [lit, light] = useState('');
  const scale = scaleWish || (data && data.snapshot.duration_ms < 20 ? 'order' : 'time');
  const bandsNow = bank.bands.length + bank.bands.filter((b) => b.to === null).length;
  const picture = useMemo(() => {
    if (!data || data.records.size === 0) return null;
    const g = draw(data, width, zoom, scale);
    return { g, view: html`<${Diagram} d=${data} g=${g} svgRef=${svg} lit=${lit} />` };
  }, [data, width, zoom, scale, lit, bandsNow, rem()]);
  useEffect(() => { // what is looked at is the cut
    if (zoom > 1 && picture?.g.cut.length) box.current.scrollLeft = picture.g.cut.reduce((sum, c) => sum + c.x, 0) / picture.g.cut.length - width / 2;
  }, [zoom, got]);
  const list = bank.snapshots.filter(whole);
  const at = list.findIndex((r) => r.snapshot_id === want);
  const s = data?.snapshot;
  return html`<section class="panel cutview" aria-label="The cut">
    <div class="toolbar"><h2>${want ? `Snapshot ${want}` : 'No snapshot yet'}</h2>${s && html`<${Mark} of=${outcomeOf(s.status)} />`}
      <span class="group" role="group" aria-label="Which snapshot">
        ${at > 0 ? html`<a class="button" href=${`#/snapshot/${list[at - 1].snapshot_id}`} aria-label="The snapshot before">‹</a>` : html`<span class="button off" aria-hidden="true">‹</span>`}
        ${at >= 0 && at < list.length - 1 ? html`<a class="button" href=${`#/snapshot/${list[at + 1].snapshot_id}`} aria-label="The snapshot after">›</a>` : html`<span class="button off" aria-hidden="true">›</span>`}
        ${id ? html`<a class="button" href="#/cut"><${Icon} name="live" /><span>Follow the newest</span></a>` : want && html`<a class="button" href=${`#/snapshot/${want}`}><${Icon} name="pin" /><span>Pin this one</span></a>`}</span>
      <span class="group" role="group" aria-label="Scale"><${Button} pressed=${scale === 'time'} onClick=${() => setScale('time')}>By time</${Button}><${Button} pressed=${scale === 'order'} onClick=${() => setScale('order')}>By order</${Button}></span>
      <span class="group" role="group" aria-label="Zoom"><${Button} label="Zoom out" onClick=${() => setZoom(Math.max(1, zoom / 2))}>−</${Button}><${Button} label="Zoom in" onClick=${() => setZoom(Math.min(16, zoom * 2))}>+</${Button}></span>
      <span class="group" role="group" aria-label="Download"><${Button} icon="save" label="Download as SVG" onClick=${() => svg.current && save(`snapshot-${got}.svg`, 'image/svg+xml', standalone(svg.current))}>SVG</${Button}>
        <${Button} icon="save" label="Download as JSON" onClick=${() => raw && save(`snapshot-${got}.json`, 'application/json', JSON.stringify(raw, null, 1))}>JSON</${Button}></span>
    </div>
    <p class="sentence">${s ? html`<${Sentence} s=${s} d=${data} />` : error ? html`<span class="mark bad"><${Icon} name="cross" />${error}</span>` : 'Loading …'}</p>
    <div class="scroller" ref=${box} tabindex="0" role="region" aria-label="Diagram, can be scrolled">${picture?.view}
      ${data && !picture && html`<p class="under">What happened around this snapshot is no longer known; its record is below.</p>`}</div>
    ${picture && html`<p class="legend"><span class="key line">a message</span><span class="key thick">a message that crosses the cut: in transit</span><span class="key dashline">a marker</span><span class="key cutkey">the cut</span><span class="key ringdot">a branch records its balance</span>
      ${picture.g.leftOut > 0 && html`<span class="leftout">${count(picture.g.leftOut, 'event or message', 'events and messages')} farther from the cut not drawn</span>`}</p>`}
    ${data && html`<${Tables} d=${data} light=${light} />`}
  </section>`;
}

function Sentence({ s, d }) {
  if (s.status === 'incomplete') return html`No sum: ${s.waiting_for?.join(', ') ?? 'a branch'} did not answer.`;
  const counted = s.channels.reduce((a, c) => a + c.count, 0), good = s.status === 'consistent';
  return html`<span>${num(s.in_branches)} in branches + <b class="transit">${num(s.in_transit)} in transit</b> (${count(counted, 'message')} crossed the cut) = <b class=${good ? 'ok' : 'bad'}>${num(sumOf(s))} <${Icon} name=${good ? 'check' : 'cross'} /></b>
    <span class="soft"> in ${ms(s.duration_ms)}.</span>${d.records.size > 0 && d.crossing.length !== counted && html` <span class="soft">${count(d.crossing.length, 'of them is', 'of them are')} known one by one and drawn.</span>`}
    ${d.missing.length > 0 && html` <span class="soft">The events of ${d.missing.join(', ')} around it are no longer known.</span>`}</span>`;
}

function Tables({ d, light }) {
  const s = d.snapshot;
  return html`<div class="tables">
    <table><caption>In branches</caption><thead><tr><th scope="col">branch</th><th scope="col" class="n">balance</th><th scope="col">first marker from</th><th scope="col" class="n">incarnation</th></tr></thead>
      <tbody>${s.branches.map((b) => html`<tr key=${b.name}><th scope="row">${b.name}</th><td class="n">${num(b.balance)}</td><td>${b.first_marker_from || 'none: began it'}</td><td class="n">${num(b.incarnation)}</td></tr>`)}</tbody></table>
    <table><caption>In transit</caption><thead><tr><th scope="col">channel</th><th scope="col" class="n">money</th><th scope="col" class="n">messages</th></tr></thead>
      <tbody>${s.channels.filter((c) => c.count > 0 || c.amount > 0).slice(0, 60).map((c) => html`<tr key=${c.src + c.dst} tabindex="0" onMouseEnter=${() => light(d.crossing.find((m) => m.src === c.src && m.dst === c.dst)?.key ?? '')} onFocus=${() => light(d.crossing.find((m) => m.src === c.src && m.dst === c.dst)?.key ?? '')} onMouseLeave=${() => light('')} onBlur=${() => light('')}>
        <th scope="row">${c.src} → ${c.dst}</th><td class="n transit">${num(c.amount)}</td><td class="n">${num(c.count)}</td></tr>`)}
        ${!s.channels.some((c) => c.count > 0) && html`<tr><td colspan="3">nothing was on its way</td></tr>`}</tbody></table></div>`;
}
