// The bank as the page knows it: what the stream said, all of it bounded. Views read `bank` and are
// drawn again when it changes; single moves go only to those who listen for them.
import { useEffect, useReducer } from './vendor/htm-preact/standalone.module.js';

const keep = { points: 1200, snapshots: 240, faults: 200, bands: 400, notices: 4 };
const silence = 4000; // ms without a state until the launcher counts as lost

export const bank = {
  link: 'connecting', // connecting, live or lost
  lostAt: 0,          // Date.now() when it was
  hello: null,
  state: null,        // the last state message
  running: new Map(), // snapshots in progress: id to {initiator, at}
  snapshots: [],      // records, oldest first
  last: null,         // the newest complete record
  faults: [],         // newest first
  bands: [],          // {branch, peer, kind, from, to}: times when something was down; to is null while it is
  notices: [],        // outcomes of controls, newest last: {key, text, bad}
  said: '',           // for screen readers
  points: { t: [], rate: [], sum: [], naive: [] },
  notShown: 0,        // transfers left out of the animation lately
  wall: 0,            // ms of the wall clock at 0 of the bank's clock
};

let at = 0, atLocal = 0; // the bank's clock, and ours when it said so
// speed is how fast the bank's clock goes: of a replay 0 when it is stopped. pace is that of its last playing.
const speed = () => (bank.hello?.replay ? bank.hello.speed : 1);
let paced = 1;
export const pace = () => paced;
// now is the bank's clock in ms. It stands still when the launcher is lost.
export const now = () => at + (bank.link === 'live' ? speed() * Math.min(performance.now() - atLocal, 2000) : 0);

const listeners = new Set();
let due = 0;
function changed() {
  due ||= setTimeout(() => { due = 0; for (const f of listeners) f(); }, 60);
}
export function useBank() {
  const [, draw] = useReducer((n) => n + 1, 0);
  useEffect(() => { listeners.add(draw); return () => listeners.delete(draw); }, []);
  return bank;
}

const movers = new Set();
export function onMoves(f) { movers.add(f); return () => movers.delete(f); }

export const sumOf = (r) => r.in_branches + r.in_transit;
export const whole = (r) => r.status !== 'incomplete';
// startOf is when a snapshot began, on the bank's clock.
export const startOf = (r) => Date.parse(r.started_at) - bank.wall;

function cap(list, n) { if (list.length > n) list.splice(0, list.length - n); }

let noticeKey = 0;
function notice(text, bad = false) {
  const n = { key: ++noticeKey, text, bad };
  bank.notices.push(n);
  cap(bank.notices, keep.notices);
  bank.said = text;
  setTimeout(() => { bank.notices = bank.notices.filter((x) => x !== n); changed(); }, bad ? 9000 : 5000);
  changed();
}

// Bands

const opens = { killed: 'down', exited: 'down', hung: 'silent', failed: 'down', restarting: 'restarting', paused: 'paused', cut: 'cut' };

const openBands = (branch) => bank.bands.filter((b) => b.branch === branch && b.to === null && b.kind !== 'cut');

function openBand(branch, kind, from, peer = '') {
  bank.bands.push({ branch, peer, kind, from, to: null });
  cap(bank.bands, keep.bands);
}

const faultWords = { killed: 'was killed', exited: 'ended', paused: 'is paused', resumed: 'goes on', restarting: 'is started again', ready: 'is ready', hung: 'does not answer', failed: 'could not be started', cut: 'was cut off', healed: 'is linked again' };
function fault(f) {
  const who = f.peer ? `${f.branch} – ${f.peer}` : f.branch;
  const word = faultWords[f.kind] ?? f.kind;
  f.text = f.text?.includes(f.branch) ? f.text : `${who} ${word}${f.text && f.text !== word ? `: ${f.text}` : ''}`;
  bank.faults.unshift({ ...f, key: `${f.at_ms} ${f.branch} ${f.kind} ${f.peer ?? ''}` });
  bank.faults.length = Math.min(bank.faults.length, keep.faults);
  bank.said = f.text;
  const kind = opens[f.kind];
  if (f.kind === 'healed' || kind === 'cut') {
    for (const b of bank.bands) {
      if (b.kind === 'cut' && b.to === null && b.branch === f.branch && b.peer === f.peer) b.to = f.at_ms;
    }
  } else {
    for (const b of openBands(f.branch)) b.to = f.at_ms;
  }
  if (kind) openBand(f.branch, kind, f.at_ms, f.peer);
}

// What the stream does not say as a fault (it began before the page did) is seen in the state.
const seen = { paused: 'paused', suspect: 'silent', backoff: 'down', failed: 'down', starting: 'restarting', away: 'silent' };
function reconcile(s) {
  for (const b of s.branches) {
    const open = openBands(b.name);
    if (b.state === 'ready' || b.state === 'remote') for (const band of open) band.to = s.at_ms;
    else if (seen[b.state] && open.length === 0) openBand(b.name, seen[b.state], s.at_ms);
  }
}

// Messages

function forget() {
  bank.points = { t: [], rate: [], sum: [], naive: [] };
  bank.bands = [];
  bank.faults = [];
  bank.running.clear();
}

function clock(ms) {
  // Another run of the launcher, or the slider of a replay was moved.
  if (ms < at - 1000 || (bank.hello?.replay && ms > at + 3000 * Math.max(1, paced))) forget();
  at = ms;
  atLocal = performance.now();
}

function addSnapshot(r) {
  bank.running.delete(r.snapshot_id);
  if (bank.snapshots.at(-1)?.bank_id !== r.bank_id) bank.snapshots = []; // of another bank, whose ids began anew
  const i = bank.snapshots.findIndex((s) => s.snapshot_id >= r.snapshot_id);
  if (i < 0) bank.snapshots.push(r);
  else bank.snapshots.splice(i, bank.snapshots[i].snapshot_id === r.snapshot_id ? 1 : 0, r);
  cap(bank.snapshots, keep.snapshots);
  bank.last = bank.snapshots.findLast(whole) ?? null;
}

async function history() {
  const list = await get('/api/snapshots?limit=60').catch(() => []);
  if (bank.hello.replay) { bank.snapshots = []; bank.last = null; } // those of the time before it was moved
  for (const r of list) if (!bank.snapshots.some((s) => s.snapshot_id === r.snapshot_id)) addSnapshot(r);
  changed();
}

const handlers = {
  hello(h) {
    if (bank.hello) renewToken();
    bank.hello = h;
    if (h.replay && h.speed > 0) paced = h.speed;
    bank.wall = Date.parse(h.started_at);
    bank.notShown = 0;
    history();
  },
  state(s) {
    clock(s.at_ms);
    bank.state = s;
    reconcile(s);
    const p = bank.points;
    const t = s.at_ms / 1000;
    if (p.t.length && t <= p.t.at(-1)) return;
    p.t.push(t);
    p.rate.push(s.transfers_per_s);
    p.sum.push(bank.last ? sumOf(bank.last) : null);
    p.naive.push(s.naive_sum);
    for (const list of Object.values(p)) cap(list, keep.points);
  },
  moves(m) {
    bank.notShown = bank.notShown * 0.7 + m.left_out * 0.3;
    for (const f of movers) f(m.events);
  },
  snapshot_started(s) {
    bank.running.set(s.id, { initiator: s.initiator, at: now() });
    if (bank.running.size > 64) bank.running.delete(bank.running.keys().next().value);
  },
  snapshot(r) {
    addSnapshot(r);
    if (r.status === 'inconsistent') bank.said = `Snapshot ${r.snapshot_id}: the books do not balance`;
  },
  fault,
};

let source = null, heard = 0;
function lost() {
  if (bank.link === 'lost') return;
  bank.link = 'lost';
  bank.lostAt = Date.now();
  bank.said = 'The launcher is lost';
  changed();
}

// connect opens the stream. The browser redials a broken one by itself, with Last-Event-ID; one that
// it gave up (an answer that is no stream) or that went silent is opened anew.
export function connect() {
  source?.close();
  source = new EventSource('/api/stream');
  heard = Date.now();
  source.onerror = lost;
  for (const [type, handle] of Object.entries(handlers)) {
    source.addEventListener(type, (e) => {
      heard = Date.now();
      if (bank.link !== 'live') {
        if (bank.link === 'lost') { atLocal = performance.now(); bank.said = 'The launcher is back'; }
        bank.link = 'live';
      }
      handle(JSON.parse(e.data));
      if (type !== 'moves') changed(); // those are drawn on a canvas
    });
  }
}
setInterval(() => {
  if (Date.now() - heard > silence) lost();
  if (bank.link === 'lost') changed();
  if (source?.readyState === EventSource.CLOSED || Date.now() - heard > 3 * silence) connect();
}, 1000);

// Requests

async function get(path) {
  const answer = await fetch(path);
  const body = await answer.json().catch(() => ({ error: `${path}: ${answer.status}` }));
  if (!answer.ok) throw new Error(body.error ?? `${path}: ${answer.status}`);
  return body;
}
export const getCut = (id) => get(`/api/cut/${id}`);

// The token of this run; another run of the launcher has another one, which its page tells.
let token = Promise.resolve(document.querySelector('meta[name=cutbank-token]').content);
function renewToken() {
  token = fetch('/').then((a) => a.text()).then((text) => new DOMParser().parseFromString(text, 'text/html').querySelector('meta[name=cutbank-token]').content).catch(() => '');
}
async function post(path, body) {
  const headers = { 'Content-Type': 'application/json', 'X-Cutbank-Token': await token };
  const answer = await fetch(path, { method: 'POST', headers, body: JSON.stringify(body) });
  return answer.json().catch(() => ({ error: `the launcher answered ${answer.status}` }));
}

// control asks the launcher for something and shows its answer.
export async function control(verb, branch = '', peer = '') {
  const answer = await post('/api/control', { verb, branch, peer }).catch(() => ({ error: 'the launcher does not answer' }));
  if (answer.error) notice(answer.error, true);
  else notice(answer.text || 'done');
  return answer;
}
export async function seek(to, speed) {
  const answer = await post('/api/replay', { to_ms: Math.round(to), speed }).catch(() => ({ error: 'the launcher does not answer' }));
  if (answer.error) notice(answer.error, true);
}
