// The bank: the sum as the page's hero, the ring, the list of branches with their controls, faults.
import { html, useState } from './vendor/htm-preact/standalone.module.js';
import { bank, control, now, startOf, sumOf } from './store.js';
import { Button, Icon, Mark, clockText, count, ms, num, outcomeOf, signed, span, stateOf } from './parts.js';
import { Ring } from './ring.js';
import { BandKey, DurationChart, RateChart, SumChart } from './charts.js';

const listMax = 64; // rows of the list of branches

const atWork = (b) => b.state === 'ready' || b.state === 'remote';

// Hero is the sum of the newest complete snapshot, and beside it what adding up balances gives.
export function Hero() {
  const r = bank.last, s = bank.state;
  const ready = s?.branches.filter(atWork).length ?? 0, n = bank.hello.roster.length;
  const naive = s?.naive_sum ?? 0, off = naive - bank.hello.total;
  const waiting = s?.branches.filter((b) => !atWork(b)) ?? [];
  const [oldest] = [...bank.running].filter(([, x]) => now() - x.at > 2500);
  return html`<section class="hero" aria-label="The sum">
    ${r ? html`<${Equation} r=${r} />` : html`<div class="equation pending"><span class="result">${num(bank.hello.total)}</span><span class="caption">to be found: the first snapshot is on its way</span></div>`}
    <dl class="aside">
      <div class="naive"><dt>Balances added up, uncoordinated</dt><dd>${num(naive)} <span class=${off ? 'off' : ''}>${off ? `${signed(off)}` : 'right, by luck'}</span></dd></div>
      <div><dt>Branches ready</dt><dd>${num(ready)}<small> of ${num(n)}</small></dd></div>
      <div><dt>Transfers a second</dt><dd>${num(Math.round(s?.transfers_per_s ?? 0))}</dd></div>
    </dl>
    <p class="story">${r && html`<a href=${`#/snapshot/${r.snapshot_id}`}>Snapshot ${r.snapshot_id}</a> <${Mark} of=${outcomeOf(r.status)} />
      <span>${r.initiator} began it${bank.hello.replay ? '' : `, ${span(Math.max(0, now() - startOf(r)))} ago`}; it took ${ms(r.duration_ms)}, and all ${num(r.branches.length)} branches answered.</span>`}
      ${oldest && html`<span class="mark wait"><${Icon} name="clock" />snapshot ${oldest[0]} has been under way for ${span(now() - oldest[1].at)}${waiting.length > 0 && waiting.length < 4 && `: it waits for ${waiting.map((b) => b.name).join(', ')}`}</span>`}</p>
  </section>`;
}

function Equation({ r }) {
  const good = r.status === 'consistent', sum = sumOf(r);
  const digits = num(r.in_branches).length + num(r.in_transit).length + num(sum).length;
  const words = `Snapshot ${r.snapshot_id}: ${r.in_branches} in branches plus ${r.in_transit} in transit make ${sum}, ${good ? 'as it must' : `but it must be ${r.total}`}`;
  return html`<div class=${`equation ${good ? '' : 'wrong'} ${digits > 18 ? 'long' : digits > 12 ? 'longer' : digits > 10 ? 'wide' : ''}`} role="img" aria-label=${words}>
    <span class="term"><b>${num(r.in_branches)}</b><i>in branches</i></span><span class="op">+</span>
    <span class="term transit"><b>${num(r.in_transit)}</b><i>in transit</i></span>
    <span class="result"><span>=</span> <b>${num(sum)}</b><${Icon} name=${good ? 'check' : 'cross'} /></span>
    ${!good && html`<span class="caption">${r.imbalance > 0 ? `${num(r.imbalance)} too much` : r.imbalance < 0 ? `${num(-r.imbalance)} missing` : 'a channel differs'}: the books do not balance</span>`}
  </div>`;
}

// Bank is the ring with the list of branches beside it; in the tour the ring alone.
export function Bank({ selected, onSelect = () => {}, focusChannel, ringOnly }) {
  const under = bank.hello.roster.length > 8 || selected; // the list is long: the faults stand under the ring
  return html`<div class=${`bank ${ringOnly ? 'alone' : ''}`}>
    <div class="column"><section class="panel ringpanel" aria-label="The ring"><${Ring} selected=${selected} onSelect=${onSelect} focusChannel=${focusChannel} />
      <p class="legend"><span class="key dot">money on its way</span><span class="key diamond">marker</span><span class="key pulse">a branch records</span></p></section>${under && !ringOnly && html`<${Faults} />`}</div>
    ${!ringOnly && html`<div class="column"><${Branches} selected=${selected} onSelect=${onSelect} />${!under && html`<${Faults} />`}</div>`}
    <section class="panel charts" aria-label="Over time"><div class=${ringOnly ? 'two' : 'three'}><${SumChart} /><${RateChart} />${!ringOnly && html`<${DurationChart} />`}</div><${BandKey} /></section>
  </div>`;
}

function Branches({ selected, onSelect }) {
  const list = bank.state?.branches ?? [];
  let rows = list;
  if (list.length > listMax) {
    const first = list.filter((b) => !atWork(b) || b.name === selected).slice(0, listMax);
    rows = [...first, ...list.filter((b) => !first.includes(b))].slice(0, listMax);
  }
  const top = Math.max(1, ...list.map((b) => b.balance));
  return html`<section class="panel branches" aria-label="Branches">
    <ul>${rows.map((b) => html`<${Row} key=${b.name} b=${b} top=${top} open=${selected === b.name} onSelect=${onSelect} dense=${rows.length > 6} />`)}</ul>
    ${list.length > rows.length && html`<p class="under">${num(list.length - rows.length)} more are not shown; those in trouble come first.</p>`}
  </section>`;
}

function Row({ b, top, open, onSelect, dense }) {
  const st = stateOf(b.state), id = `branch-${b.name}`;
  const paused = b.state === 'paused', may = bank.hello.controls;
  return html`<li class=${`row ${open ? 'open' : ''} ${dense ? 'dense' : ''}`} data-branch=${b.name}>
    <div class="head">
      <button type="button" class="name" aria-expanded=${open} aria-controls=${id} onClick=${() => onSelect(open ? null : b.name)}><${Icon} name="more" />${b.name}</button>
      <${Mark} of=${st} />
      <span class="money" aria-label=${`balance ${num(b.balance)}`}>${num(b.balance)}</span>
      ${may && html`<span class="quick">
        <${Button} icon="kill" label=${`Kill ${b.name}`} title="kill -9: it is started again" onClick=${() => control('kill', b.name)}>Kill</${Button}>
        <${Button} icon=${paused ? 'resume' : 'pause'} label=${`${paused ? 'Resume' : 'Pause'} ${b.name}`} title=${paused ? 'let its process go on' : 'stop its process, as a hang; others go on'} onClick=${() => control(paused ? 'resume' : 'pause', b.name)}>${paused ? 'Resume' : 'Pause'}</${Button}></span>`}
      <svg class="bar" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true"><rect width="100" height="4" /><rect class="full" width=${(100 * b.balance) / top} height="4" /></svg>
    </div>
    ${open && html`<${Detail} b=${b} id=${id} may=${may} />`}
  </li>`;
}

const actions = [ // besides those of the row
  ['restart', 'restart', 'Restart', 'end it in order and start it again'],
  ['reset', 'reset', 'Reset', 'forget its failures and start it now'],
];
function Detail({ b, id, may }) {
  const channels = bank.state.channels ?? [];
  const peers = bank.hello.roster.map((r) => r.name).filter((n) => n !== b.name);
  const find = (src, dst) => channels.find((c) => c.src === src && c.dst === dst);
  return html`<div class="detail" id=${id}>
    ${may && html`<div class="actions" role="group" aria-label=${`Controls of ${b.name}`}>${actions.map(([verb, icon, word, title]) => html`<${Button} key=${verb} icon=${icon} title=${title} onClick=${() => control(verb, b.name)}>${word}</${Button}>`)}</div>`}
    <dl class="facts">
      <div><dt>process</dt><dd>${b.pid || '–'}</dd></div><div><dt>incarnation</dt><dd>${num(b.incarnation)}</dd></div>
      <div><dt>restarts</dt><dd>${num(b.restarts)}</dd></div><div><dt>up for</dt><dd>${b.uptime_ms ? span(b.uptime_ms) : '–'}</dd></div>
      <div><dt>last exit</dt><dd>${b.last_exit || 'none'}</dd></div></dl>
    ${channels.length > 0 && html`<table><caption>Channels of ${b.name}</caption><thead><tr><th scope="col">with</th><th scope="col" class="n">out: on its way</th><th scope="col" class="n">in: on its way</th><th scope="col" class="n">sent / received</th><th scope="col">link</th></tr></thead>
    <tbody>${peers.map((p) => { const out = find(b.name, p), into = find(p, b.name); return out && into && html`<tr key=${p}><th scope="row">${p}</th><td class="n transit">${num(out.in_transit)}</td><td class="n transit">${num(into.in_transit)}</td><td class="n">${num(out.sent_count)} / ${num(into.received_count)}</td>
      <td>${out.refused || into.refused ? html`<span class="mark bad" title=${out.refused || into.refused}><${Icon} name="cross" />refused</span>` : html`<span class=${`mark ${out.up ? 'ok' : 'wait'}`}><${Icon} name=${out.up ? 'link' : 'cross'} />${out.up ? 'up' : 'down'}</span>`}
      ${may && html` <${Button} icon="cut" quiet label=${`Cut the link between ${b.name} and ${p}`} onClick=${() => control('cut', b.name, p)}>Cut</${Button}>`}</td></tr>`; })}</tbody></table>`}
  </div>`;
}

const faultIcons = { killed: 'kill', exited: 'stop', paused: 'pause', resumed: 'resume', restarting: 'restart', ready: 'check', hung: 'ask', failed: 'cross', cut: 'cut', healed: 'link' };
function Faults() {
  const [all, show] = useState(false);
  const list = bank.faults.slice(0, all ? 100 : 6);
  return html`<section class="panel faults" aria-label="What happened"><h2>What happened</h2>
    ${list.length === 0 ? html`<p class="under">${bank.hello.replay ? 'Nothing since the time was moved: play it.' : 'Nothing has failed so far. Kill a branch and watch the sum.'}</p>`
    : html`<ol>${list.map((f) => html`<li key=${f.key} class=${f.kind}><time>${clockText(f.at_ms)}</time><${Icon} name=${faultIcons[f.kind] ?? 'ask'} /><span>${f.text}</span></li>`)}</ol>`}
    ${bank.faults.length > 6 && html`<${Button} quiet onClick=${() => show(!all)}>${all ? 'Fewer' : `All ${count(bank.faults.length, 'event')}`}</${Button}>`}
  </section>`;
}
