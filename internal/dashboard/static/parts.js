// Small parts that all views share: figures, words, icons, theme.
import { html, useEffect, useRef, useState } from './vendor/htm-preact/standalone.module.js';

// num groups digits from five on: 3970, 40 000.
export const num = (n) => {
  const s = String(Math.abs(n));
  const grouped = s.length < 5 ? s : s.replace(/\B(?=(\d{3})+$)/g, '\u202f');
  return (n < 0 ? '−' : '') + grouped;
};
export const signed = (n) => (n > 0 ? '+' : '') + num(n);
export const ms = (v) => (v >= 10000 ? `${(v / 1000).toFixed(1)} s` : v >= 100 ? `${Math.round(v)} ms` : `${v.toFixed(1)} ms`);
export const clockText = (v) => {
  const s = Math.max(0, Math.floor(v / 1000));
  return `${Math.floor(s / 60)}:${String(s % 60).padStart(2, '0')}`;
};
export const span = (v) => (v < 1000 ? `${Math.round(v)} ms` : v < 90000 ? `${(v / 1000).toFixed(v < 10000 ? 1 : 0)} s` : v < 5.4e6 ? `${Math.round(v / 60000)} min` : `${(v / 3.6e6).toFixed(1)} h`);
export const count = (n, one, many = one + 's') => `${num(n)} ${n === 1 ? one : many}`;

// States of a process: the word people read, its icon, its tone.
const states = {
  ready: ['ready', 'check', 'ok'],
  running: ['linking up', 'link', 'wait'],
  starting: ['starting', 'restart', 'wait'],
  suspect: ['no answer', 'ask', 'wait'],
  stopping: ['stopping', 'stop', 'off'],
  backoff: ['restarting', 'restart', 'wait'],
  failed: ['failed', 'cross', 'bad'],
  stopped: ['stopped', 'stop', 'off'],
  paused: ['paused', 'pause', 'off'],
  remote: ['remote', 'remote', 'ok'],
  away: ['no answer', 'remote', 'wait'],
};
export function stateOf(s) {
  const [word, icon, tone] = states[s] ?? [s || 'unknown', 'ask', 'off'];
  return { word, icon, tone };
}
export const outcomes = {
  consistent: ['consistent', 'check', 'ok'],
  inconsistent: ['inconsistent', 'cross', 'bad'],
  incomplete: ['incomplete', 'clock', 'wait'],
};
export const outcomeOf = (s) => { const [word, icon, tone] = outcomes[s] ?? [s, 'ask', 'off']; return { word, icon, tone }; };

// Icons on a field of 16 × 16, strokes.
const paths = {
  check: 'M3 8.5l3.3 3.3L13 4.8',
  cross: 'M4 4l8 8M12 4l-8 8',
  link: 'M6.5 9.5l3-3M7 4.5l1.2-1.2a3 3 0 0 1 4.4 4.4L11.400 8.900M9 11.500l-1.200 1.200a3 3 0 0 1-4.400-4.400L4.600 7.100',
  restart: 'M13 8a5 5 0 1 1-1.6-3.700M13 2v3.200h-3.200',
  ask: 'M5.500 6a2.500 2.500 0 1 1 3.600 2.200c-.8.4-1.100.9-1.100 1.800M8 12.800v.2',
  stop: 'M4.500 4.500h7v7h-7z',
  pause: 'M5.500 3.500v9M10.500 3.500v9',
  resume: 'M5 3.500l7.500 4.500L5 12.500z',
  remote: 'M8 2.500a5.500 5.500 0 1 0 0 11 5.500 5.500 0 0 0 0-11zM2.500 8h11M8 2.500c-3.600 3.600-3.600 7.400 0 11M8 2.500c3.600 3.600 3.600 7.400 0 11',
  clock: 'M8 2.500a5.500 5.500 0 1 0 0 11 5.500 5.500 0 0 0 0-11zM8 5v3.200l2.200 1.300',
  kill: 'M9 1.800L4 9h3.600L7 14.200 12 7H8.400z',
  reset: 'M3 8a5 5 0 1 0 1.600-3.700M3 2v3.200h3.200M8 5.500v2.700l1.800 1',
  cut: 'M3 4.500a1.700 1.700 0 1 0 3.400 0 1.700 1.700 0 0 0-3.400 0zM3 11.500a1.700 1.700 0 1 0 3.400 0 1.700 1.700 0 0 0-3.400 0zM6 5.500l7.500 6M6 10.500l7.500-6',
  snapshot: 'M2.500 4.500h11M2.500 8h11M2.500 11.500h11M9.500 2c-.5 3-3 3.500-2.500 6s3 3 2.500 6',
  sun: 'M8 5.200a2.800 2.800 0 1 0 0 5.600 2.800 2.800 0 0 0 0-5.600zM8 1.500v1.300M8 13.200v1.300M1.500 8h1.300M13.200 8h1.300M3.400 3.400l.9.9M11.700 11.700l.9.9M3.400 12.600l.9-.9M11.700 4.300l.9-.9',
  moon: 'M13 9.600A5.600 5.600 0 1 1 6.400 3a4.400 4.400 0 0 0 6.600 6.600z',
  auto: 'M8 2.500a5.500 5.500 0 1 0 0 11zM8 2.500a5.500 5.500 0 0 1 0 11',
  larger: 'M1.500 12.500L5 3.500l3.500 9M2.700 9.500h4.600M12 5.500v5M9.500 8h5',
  warn: 'M8 2.200l6.300 11.300H1.700zM8 6.500v3.300M8 11.600v.2',
  lost: 'M2 2l12 12M5 8.500a4.300 4.300 0 0 1 2-1.100M9.800 7.900c.5.200.9.400 1.200.7M2.800 6a7.500 7.500 0 0 1 2.400-1.500M8 4a7.500 7.500 0 0 1 5.200 2M8 11.800v.2',
  live: 'M8 6.600a1.400 1.400 0 1 0 0 2.800 1.400 1.400 0 0 0 0-2.800zM4.800 11.200a4.500 4.500 0 0 1 0-6.400M11.200 4.800a4.500 4.500 0 0 1 0 6.400',
  pin: 'M6 2.500h4l-.5 4.500 2.500 2.500H4L6.500 7zM8 9.500v4',
  save: 'M8 2.500v7.500M4.800 7L8 10.200 11.200 7M3 13.300h10',
  more: 'M3.500 6l4.500 4.500L12.500 6',
};
export const iconPath = (name) => paths[name];
export const Icon = ({ name }) => html`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true" focusable="false"><path d=${paths[name]} /></svg>`;
// Mark is an icon with its word: no state is told by colour alone.
export const Mark = ({ of }) => html`<span class=${`mark ${of.tone}`}><${Icon} name=${of.icon} />${of.word}</span>`;

export const Button = ({ icon, children, onClick, title, label, quiet, pressed }) => html`
  <button type="button" class=${quiet ? 'quiet' : ''} onClick=${onClick} title=${title} aria-label=${label} aria-pressed=${pressed}>
    ${icon && html`<${Icon} name=${icon} />`}${children && html`<span>${children}</span>`}</button>`;

// useWidth is the width of an element in px, kept up to date.
export function useWidth(fallback = 800) {
  const ref = useRef(null);
  const [width, set] = useState(fallback);
  useEffect(() => {
    const o = new ResizeObserver(([e]) => set(Math.round(e.contentRect.width)));
    o.observe(ref.current);
    return () => o.disconnect();
  }, []);
  return [ref, width];
}

// Theme: what the system says, unless the reader has chosen.
const themes = ['auto', 'light', 'dark'];
const store = { get(k) { try { return localStorage.getItem(k); } catch { return null; } }, set(k, v) { try { localStorage.setItem(k, v); } catch { /* private window */ } } };
export const settings = { theme: store.get('cutbank-theme') ?? 'auto', larger: store.get('cutbank-larger') === 'yes' };
if (!themes.includes(settings.theme)) settings.theme = 'auto';
// rem is how much larger than usual the reader wants things.
export const rem = () => (settings.larger ? 20 / 15 : 1);
export const themeChanged = new EventTarget();
function apply() {
  const root = document.documentElement;
  root.dataset.theme = settings.theme;
  root.classList.toggle('larger', settings.larger);
  themeChanged.dispatchEvent(new Event('change'));
}
export function nextTheme() {
  settings.theme = themes[(themes.indexOf(settings.theme) + 1) % themes.length];
  store.set('cutbank-theme', settings.theme);
  apply();
}
export function toggleLarger() {
  settings.larger = !settings.larger;
  store.set('cutbank-larger', settings.larger ? 'yes' : 'no');
  apply();
}
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', apply);
apply();

// colour resolves a custom property for canvases.
let probe;
export function colour(name) {
  if (!probe) {
    probe = document.createElement('span');
    probe.hidden = true;
    document.body.append(probe);
  }
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}
const reduced = matchMedia('(prefers-reduced-motion: reduce)');
export const still = () => reduced.matches;
