// The guided tour: six captions on the live bank. Each says what to look at, shows it in figures, and
// does the step's deed by a button.
import { html, useEffect, useRef } from './vendor/htm-preact/standalone.module.js';
import { bank, control, now, sumOf, whole } from './store.js';
import { Button, Icon, count, ms, num, signed } from './parts.js';

export const steps = 6;

// story is what the tour remembers from step to step: the kill of step five.
const story = { snapshot: null, branch: '', killedAt: 0 };
const baseId = () => bank.snapshots.at(-1)?.snapshot_id ?? 0;

// until waits for a condition on the bank, at most 10 s.
async function until(ask) {
  for (let i = 0; i < 200; i++) {
    const v = ask();
    if (v) return v;
    await new Promise((go) => setTimeout(go, 50));
  }
  return null;
}

// killInSnapshot begins a snapshot, waits until it is under way, and kills a branch that did not begin it.
async function killInSnapshot() {
  const before = Math.max(baseId(), ...bank.running.keys(), 0);
  const names = bank.hello.roster.map((b) => b.name);
  control('snapshot'); // answers when the snapshot is complete
  const id = await until(() => [...bank.running.keys()].find((k) => k > before) ?? (baseId() > before && baseId()));
  if (!id) return;
  const began = bank.running.get(id)?.initiator ?? names[0];
  const victim = names.find((n) => n !== began && bank.state.branches.find((b) => b.name === n)?.state === 'ready');
  if (!victim) return;
  Object.assign(story, { snapshot: id, branch: victim, killedAt: now() });
  await control('kill', victim);
}

// busiest is the channel with most money on it, kept for a moment so that it can be read.
const held = { key: '', until: 0 };
export function busiest() {
  if (Date.now() > held.until || !held.key) {
    const c = [...(bank.state?.channels ?? [])].sort((a, b) => b.in_transit - a.in_transit)[0];
    if (c?.in_transit > 0) Object.assign(held, { key: `${c.src}>${c.dst}`, until: Date.now() + 4000 });
  }
  return held.key;
}

const captions = {
  1: ['A channel', () => html`<p>Between two branches there are two channels, one each way. A channel delivers in order, and every message exactly once, whatever is killed. Money on it has left one balance and has not reached the other: it is <b>in transit</b>.</p><${Channel} />`],
  2: ['Adding up balances gives the wrong sum', () => html`<p>Nobody can read all balances at one instant. Money on its way is in no balance, and money that moves between two readings counts twice or not at all. So the plain sum wobbles, while a snapshot’s sum does not.</p><${Naive} />`],
  3: ['Markers', () => html`<p>One branch records its balance and sends a <b>marker</b> on each of its channels. A branch that gets its first marker records too, and sends markers on. What still arrives on a channel before that channel’s marker was sent before the cut: it counts as in transit. Nobody stops paying.</p>
    <${Deed} icon="snapshot" onClick=${() => control('snapshot')}>Take a snapshot</${Deed}>`],
  4: ['The cut', () => html`<p>A snapshot over time. The cut runs through the instants at which the branches recorded. No arrow runs from after the cut to before it: that is what makes it consistent. The thick arrows cross it forwards: they are the money in transit.</p>`],
  5: ['A kill in the middle of a snapshot', () => html`<p>Now a snapshot begins, and while its markers are on their way a branch is killed (<code>kill -9</code>): no time to say goodbye, nothing saved at the end.</p>
    <${Deed} icon="kill" onClick=${killInSnapshot}>Snapshot, then kill</${Deed}><${Kill} />`],
  6: ['The recovery', () => html`<p>Each change was on the disk before anyone heard of it. So the branch comes back with its balance, its channels and its part of the snapshot; its peers send again what it had not made durable; and the snapshot completes.</p><${Kill} /><${Recovery} />`],
};

// Deed is a button that does something to the bank: none in a record.
function Deed({ icon, onClick, children }) {
  if (!bank.hello.controls) return html`<p class="soft">This is the record of a run: nothing can be done in it any more. Move the slider to where it happened.</p>`;
  return html`<${Button} icon=${icon} onClick=${onClick}>${children}</${Button}>`;
}

function Channel() {
  const c = bank.state?.channels?.find((x) => `${x.src}>${x.dst}` === busiest());
  return c && html`<p class="live"><span>${c.src} → ${c.dst}</span><b class="transit">${num(c.in_transit)}</b><span>on its way now; ${count(c.sent_count, 'transfer')} sent, ${num(c.received_count)} received</span></p>`;
}
function Naive() {
  const p = bank.points.naive.slice(-240), total = bank.hello.total;
  const right = p.filter((v) => v === total).length;
  return html`<div class="versus"><p><span>balances added up</span><b class="transit">${num(bank.state?.naive_sum ?? 0)}</b><span>${signed((bank.state?.naive_sum ?? 0) - total)}; in the last minute between ${num(Math.min(...p, total))} and ${num(Math.max(...p, 0))}, right ${Math.round((100 * right) / Math.max(1, p.length))} % of the time</span></p>
    <p><span>snapshot ${bank.last?.snapshot_id ?? ''}</span><b class="ok">${bank.last ? num(sumOf(bank.last)) : '–'} <${Icon} name="check" /></b><span>${num(bank.snapshots.filter((r) => r.status === 'consistent').length)} of the last ${count(bank.snapshots.filter(whole).length, 'snapshot')} were right</span></p></div>`;
}
function Kill() {
  if (!story.snapshot) return bank.hello.controls && html`<p class="soft">Nothing was killed by the tour yet.</p>`;
  const b = bank.state?.branches.find((x) => x.name === story.branch), r = bank.snapshots.find((x) => x.snapshot_id === story.snapshot);
  const back = bank.faults.find((f) => f.branch === story.branch && f.kind === 'ready' && f.at_ms > story.killedAt);
  const done = (yes, text) => html`<li class=${yes ? 'done' : ''}><${Icon} name=${yes ? 'check' : 'clock'} /><span>${text}</span></li>`;
  return html`<ol class="steps">${done(true, `snapshot ${story.snapshot} began`)}${done(true, `${story.branch} was killed`)}
    ${done(back, back ? `${story.branch} is back after ${ms(Math.max(0, back.at_ms - story.killedAt))}` : `${story.branch}: ${b?.state ?? 'gone'}`)}
    ${done(r && whole(r), r ? html`snapshot ${story.snapshot}: <b>${num(r.in_branches)} + ${num(r.in_transit)} = ${num(sumOf(r))}</b>, ${r.status}` : `snapshot ${story.snapshot} waits`)}</ol>`;
}
function Recovery() {
  if (!story.snapshot) return bank.hello.controls && html`<p><a href="#/tour/5">Back to the kill</a></p>`;
  return html`<p><a href=${`#/snapshot/${story.snapshot}`}>See its cut, with the outage drawn in</a></p>`;
}

export function Tour({ step }) {
  const card = useRef(null);
  useEffect(() => { card.current?.focus({ preventScroll: true }); }, [step]);
  const [heading, Body] = captions[step];
  return html`<aside class="tour" ref=${card} tabindex="-1" role="dialog" aria-label=${`Tour, step ${step} of ${steps}: ${heading}`}>
    <header><span class="step">${step} of ${steps}</span><h2>${heading}</h2><a class="button quiet" href="#/" aria-label="End the tour"><${Icon} name="cross" /></a></header>
    <div class="body"><${Body} /></div>
    <footer>${step > 1 ? html`<a class="button" href=${`#/tour/${step - 1}`}>Back</a>` : html`<span></span>`}
      <ol class="beads" aria-hidden="true">${Array.from({ length: steps }, (_, i) => html`<li class=${i + 1 === step ? 'on' : ''}></li>`)}</ol>
      ${step < steps ? html`<a class="button primary" href=${`#/tour/${step + 1}`}>Next</a>` : html`<a class="button primary" href="#/">To the bank</a>`}</footer>
  </aside>`;
}
