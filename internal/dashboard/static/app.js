// The page: which view is shown, what stands on all of them (head, banners, sum, outcomes), replay.
import { html, render, useEffect, useState } from './vendor/htm-preact/standalone.module.js';
import { bank, connect, control, now, pace, seek, useBank } from './store.js';
import { Button, Icon, clockText, nextTheme, settings, span, toggleLarger } from './parts.js';
import { Bank, Hero } from './bank.js';
import { Cut } from './cut.js';
import { Snapshots } from './snapshots.js';
import { Tour, busiest, steps } from './tour.js';

// route reads the address: #/ #/cut #/snapshot/10 #/snapshots #/tour/3.
function route() {
  const [, view = '', arg] = location.hash.match(/^#\/(\w*)(?:\/(\d+))?/) ?? [];
  if (view === 'snapshot' && arg) return { view: 'cut', id: Number(arg) };
  if (view === 'tour') return { view: 'tour', step: Math.min(steps, Math.max(1, Number(arg ?? 1))) };
  return { view: ['cut', 'snapshots'].includes(view) ? view : 'bank' };
}
function useRoute() {
  const [r, set] = useState(route());
  useEffect(() => {
    const on = () => set(route());
    addEventListener('hashchange', on);
    return () => removeEventListener('hashchange', on);
  }, []);
  return r;
}

function App() {
  useBank();
  const r = useRoute();
  const [selected, select] = useState(null);
  const tab = r.view === 'tour' ? 'tour' : r.view;
  const name = { bank: 'bank', cut: r.id ? `snapshot ${r.id}` : 'the cut', snapshots: 'snapshots', tour: 'tour' }[tab];
  useEffect(() => { document.title = `${bank.hello?.broken_rule ? 'RULE OFF · ' : ''}cutbank · ${name}`; });
  return html`<${Head} tab=${tab} />
    <${Banners} />
    <main id="main" class=${`view-${r.view} ${bank.link}`} tabindex="-1">
      ${!bank.hello ? html`<p class="wait">${bank.link === 'lost' ? 'No launcher answers here. This page tries again each second.' : 'Asking the launcher …'}</p>` : html`
        <${Hero} />
        ${bank.hello.replay && html`<${Replay} />`}
        ${r.view === 'snapshots' ? html`<${Snapshots} />`
        : r.view === 'tour' ? html`<div class="tourgrid"><div>${r.step === 4 ? html`<${Cut} pace=${12000} moving />` : html`<${Bank} ringOnly focusChannel=${r.step === 1 ? busiest() : ''} />`}</div><${Tour} step=${r.step} /></div>`
        : r.view === 'cut' ? html`<${Cut} id=${r.id} />` : html`<${Bank} selected=${selected} onSelect=${select} />`}`}
    </main>
    <div class="notices">${bank.notices.map((n) => html`<p key=${n.key} class=${n.bad ? 'bad' : 'ok'}><${Icon} name=${n.bad ? 'cross' : 'check'} />${n.text}</p>`)}</div>
    <div class="hidden" role="status" aria-live="polite">${bank.said}</div>`;
}

const tabs = [['bank', '#/', 'The bank'], ['cut', '#/cut', 'The cut'], ['snapshots', '#/snapshots', 'Snapshots'], ['tour', '#/tour/1', 'Tour']];
const themeNames = { auto: 'as the system', light: 'light', dark: 'dark' };
function Head({ tab }) {
  const [, again] = useState(0);
  const live = bank.link === 'live';
  const word = bank.link === 'lost' ? 'lost' : !live ? 'connecting' : bank.hello?.replay ? 'replay' : 'live';
  return html`<header class="top"><a class="brand" href="#/" aria-label="cutbank"><img src="/static/icon.svg" alt="" width="26" height="26" /><span>cutbank</span></a>
    <nav aria-label="Views">${tabs.map(([key, href, text]) => html`<a key=${key} href=${href} aria-current=${tab === key ? 'page' : undefined}>${text}</a>`)}</nav>
    <span class="tools">
      ${bank.hello?.controls && html`<${Button} icon="snapshot" onClick=${() => control('snapshot')}>Take a snapshot</${Button}>`}
      <span class=${`mark link ${bank.link === 'lost' ? 'bad' : live ? 'ok' : 'wait'}`}><${Icon} name=${bank.link === 'lost' ? 'lost' : live ? 'live' : 'clock'} />${word}</span>
      <${Button} quiet icon="larger" label="Larger, for a projector" title="Larger, for a projector" pressed=${settings.larger} onClick=${() => { toggleLarger(); again((n) => n + 1); }} />
      <${Button} quiet icon=${{ auto: 'auto', light: 'sun', dark: 'moon' }[settings.theme]} label=${`Colours: ${themeNames[settings.theme]}`} title=${`Colours: ${themeNames[settings.theme]}`} onClick=${() => { nextTheme(); again((n) => n + 1); }} />
    </span></header>`;
}

function Banners() {
  const rule = bank.hello?.broken_rule, wrong = bank.last?.status === 'inconsistent';
  return html`<div class="banners">
    ${bank.link === 'lost' && html`<p class="bad" role="alert"><${Icon} name="lost" /><span><b>The launcher is lost</b> ${bank.lostAt ? `since ${span(Date.now() - bank.lostAt)}` : ''}. What stands here is what it said last; this page goes on by itself when it is back.</span></p>`}
    ${rule && html`<p class="rule"><${Icon} name="warn" /><span><b>A rule is switched off: ${rule}.</b> This bank is made to go wrong, for teaching; no figure of it can be trusted.</span></p>`}
    ${wrong && html`<p class="bad" role="alert"><${Icon} name="cross" /><span><b>The books do not balance</b> in snapshot ${bank.last.snapshot_id}. <a href=${`#/snapshot/${bank.last.snapshot_id}`}>See its cut</a></span></p>`}
  </div>`;
}

// Replay is the slider through a recorded run. While it is dragged the time that is wished for is shown.
function Replay() {
  const [wish, want] = useState(null);
  const { speed, duration_ms: end } = bank.hello;
  const at = Math.min(wish ?? now(), end);
  const go = (to, v = speed) => seek(v && to >= end ? 0 : to, v);
  const playing = speed > 0 && at < end;
  return html`<section class="panel replay" aria-label="Replay">
    <${Button} icon=${playing ? 'pause' : 'resume'} onClick=${() => go(at, playing ? 0 : pace())}>${playing ? 'Stop' : at >= end ? 'Play again' : 'Play'}</${Button}>
    <label class="slider"><span class="hidden">Time</span><input type="range" min="0" max=${end} step="100" value=${at} aria-valuetext=${clockText(at)}
      onInput=${(e) => want(Number(e.target.value))} onChange=${(e) => { go(Number(e.target.value)); setTimeout(() => want(null), 300); }} /></label>
    <span class="time">${clockText(at)} / ${clockText(end)}</span>
    <span class="group" role="group" aria-label="Speed">${[0.25, 1, 4, 16].map((v) => html`<${Button} key=${v} pressed=${pace() === v} onClick=${() => go(at, v)} label=${`Speed ${v}`}>${v === 0.25 ? '¼' : v}×</${Button}>`)}</span></section>`;
}

connect();
render(html`<${App} />`, document.getElementById('app'));
