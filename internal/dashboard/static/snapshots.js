// The list of snapshots: a strip of the newest, percentiles, a table.
import { html } from './vendor/htm-preact/standalone.module.js';
import { bank, startOf, sumOf, whole } from './store.js';
import { Icon, Mark, clockText, count, ms, num, outcomeOf } from './parts.js';
import { BandKey, DurationChart, SumChart } from './charts.js';

const stripMax = 60;

function percentile(sorted, p) {
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.ceil((p / 100) * sorted.length) - 1)] : null;
}

export function Snapshots() {
  const list = bank.snapshots, strip = list.slice(-stripMax);
  const times = list.filter(whole).map((r) => r.duration_ms).sort((a, b) => a - b);
  const by = (status) => list.filter((r) => r.status === status).length;
  const n = bank.hello.roster.length;
  return html`<div class="snapshots">
    <section class="panel" aria-label="The last snapshots"><h2>The last ${Math.min(stripMax, strip.length) || ''} snapshots</h2>
      <${Strip} list=${strip} />
      <dl class="figures">
        ${['consistent', 'inconsistent', 'incomplete'].map((s) => html`<div key=${s}><dt><${Mark} of=${outcomeOf(s)} /></dt><dd>${num(by(s))}</dd></div>`)}
        ${[50, 90, 99].map((p) => html`<div key=${p}><dt>${p === 50 ? 'half take at most' : `${p} % take at most`}</dt><dd>${times.length ? ms(percentile(times, p)) : '–'}</dd></div>`)}
        <div><dt>the longest</dt><dd>${times.length ? ms(times.at(-1)) : '–'}</dd></div>
      </dl><p class="under">Of the ${count(list.length, 'snapshot')} that this page knows.</p></section>
    <section class="panel charts" aria-label="Over time"><div class="two"><${DurationChart} /><${SumChart} /></div><${BandKey} /></section>
    <section class="panel" aria-label="Table of snapshots"><div class="scroller" tabindex="0" role="region" aria-label="Table, can be scrolled"><table class="wide"><caption class="hidden">Snapshots, newest first</caption>
      <thead><tr><th scope="col" class="n">id</th><th scope="col">outcome</th><th scope="col">began at</th><th scope="col" class="n">in branches</th><th scope="col" class="n">in transit</th><th scope="col" class="n">sum</th><th scope="col" class="n">duration</th><th scope="col" class="n">answered</th><th scope="col" class="n">time</th></tr></thead>
      <tbody>${[...list].reverse().slice(0, 120).map((r) => html`<tr key=${r.snapshot_id} class=${r.status}><th scope="row" class="n"><a href=${`#/snapshot/${r.snapshot_id}`}>${r.snapshot_id}</a></th><td><${Mark} of=${outcomeOf(r.status)} /></td><td>${r.initiator}</td>
        ${whole(r) ? html`<td class="n">${num(r.in_branches)}</td><td class="n transit">${num(r.in_transit)}</td><td class="n"><b>${num(sumOf(r))}</b></td>` : html`<td colspan="3">waited for ${r.waiting_for?.join(', ') ?? 'a branch'}</td>`}
        <td class="n">${ms(r.duration_ms)}</td><td class="n">${n - (r.waiting_for?.length ?? 0)}/${n}</td><td class="n">${Number.isFinite(startOf(r)) && startOf(r) >= 0 ? clockText(startOf(r)) : 'earlier run'}</td></tr>`)}</tbody></table></div></section>
  </div>`;
}

function Strip({ list }) {
  const top = Math.max(1, ...list.map((r) => r.duration_ms));
  if (list.length === 0) return html`<p class="under">None yet.</p>`;
  return html`<ol class="strip">${list.map((r) => { const o = outcomeOf(r.status), h = Math.max(4, 72 * Math.sqrt(r.duration_ms / top)); return html`<li key=${r.snapshot_id}>
    <a href=${`#/snapshot/${r.snapshot_id}`} class=${o.tone} aria-label=${`Snapshot ${r.snapshot_id}: ${o.word}, ${ms(r.duration_ms)}`} title=${`${r.snapshot_id}: ${o.word}, ${ms(r.duration_ms)}`}><${Icon} name=${o.icon} /><span style=${{ height: `${h}px` }}></span></a></li>`; })}</ol>
    <p class="under">Height: how long it took (root scale, the tallest ${ms(top)}). Newest on the right.</p>`;
}
