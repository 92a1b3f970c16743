// Live figures of the service out of /metrics, as long as somebody looks.

import { call } from './api.js';
import { lineChart } from './chart.js';
import { byId, h, show } from './dom.js';
import { histogram, parse, quantile, sum } from './metrics.js';
import { bytes, count, errorBox, milliseconds } from './words.js';

const PAUSE_MS = 2000, KEPT = 60, WINDOW = 5;
const STAGES = ['decode', 'detect', 'align', 'embed', 'search'];
// What this page and those who watch the service ask for is no work.
const IDLE = new Set(['none', '/metrics', '/v1/info', '/v1/health/live', '/v1/health/ready']);
const LOAD = new Set(['overloaded', 'rate_limited', 'deadline_exceeded']);
const works = ({ route }) => !IDLE.has(route);

/** `{at, samples}`, oldest first. */
let moments = [];
let timer = null;

export function start() {
  stop();
  timer = setInterval(() => { if (!document.hidden) look(); }, PAUSE_MS);
  look();
}

export function stop() {
  clearInterval(timer);
  timer = null;
}

async function look() {
  try {
    const samples = parse(await call('GET', '/metrics'));
    const last = moments.at(-1);
    // Counters that went back: another process.
    if (last && sum(samples, 'process_start_time_seconds') !== sum(last.samples, 'process_start_time_seconds')) {
      moments = [];
    }
    moments = [...moments, { at: performance.now() / 1000, samples }].slice(-KEPT - 1);
    if (timer === null) return;
    show(byId('status-told'));
    draw();
  } catch (error) {
    if (error.status === 403 || error.status === 401) stop();
    const hint = error.status === 403 ? h('p', {}, 'Live figures need a key with the scope admin.') : null;
    show(byId('status-told'), error.code === 'unreachable' ? null : errorBox(error, hint));
  }
}

function draw() {
  const rates = [], middle = [], slow = [];
  for (let i = 1; i < moments.length; i++) {
    const [before, now] = [moments[Math.max(0, i - WINDOW)], moments[i]];
    const times = histogram(before.samples, now.samples, 'likeness_request_seconds', works);
    rates.push(times.count / (now.at - before.at));
    middle.push(quantile(times, 0.5));
    slow.push(quantile(times, 0.95));
  }
  const rate = rates.at(-1) ?? 0, most = KEPT;
  const shown = (value) => (value === null || value === undefined ? '–' : milliseconds(value));
  show(byId('status-live'),
    lineChart({
      label: 'Throughput', most, words: `${rate.toFixed(1)} requests a second, over the last two minutes`,
      lines: [{ name: 'requests a second', values: rates, now: rate.toFixed(1) }],
    }),
    lineChart({
      label: 'Latency', most, words: `Half of the requests within ${shown(middle.at(-1))}, 95 % within ${shown(slow.at(-1))}`,
      lines: [
        { name: 'median', values: middle, now: shown(middle.at(-1)) },
        { name: '95 %', values: slow, now: shown(slow.at(-1)) },
      ],
    }),
    stages(), counters());
}

/** Where the time of the work goes, on average since the start of the service, or in what is kept here. */
function stages() {
  const first = moments[0].samples, last = moments.at(-1).samples;
  const means = (before) => STAGES.map((stage) => {
    const { count: n, sum: total } =
      histogram(before, last, 'likeness_stage_seconds', (labels) => labels.stage === stage);
    return { stage, n, mean: n ? total / n : 0 };
  });
  const recent = means(first);
  const live = recent.some(({ n }) => n > 0);
  const rows = live ? recent : means([]);
  const top = Math.max(1e-9, ...rows.map(({ mean }) => mean));
  return h('section', { class: 'card stages' },
    h('h2', {}, 'Time of a stage ', h('small', {}, live ? 'mean of the last two minutes' : 'mean since the start')),
    h('dl', {}, rows.map(({ stage, n, mean }) => {
      const bar = h('span', { class: 'length' });
      bar.style.width = `${(100 * mean) / top}%`;
      return [h('dt', {}, stage), h('dd', {}, h('span', { class: 'track', 'aria-hidden': 'true' }, bar),
        h('span', { class: 'number' }, n ? milliseconds(mean) : '–'))];
    })));
}

function counters() {
  const { samples } = moments.at(-1);
  const up = Date.now() / 1000 - sum(samples, 'process_start_time_seconds');
  const facts = [
    ['Up for', duration(up)],
    ['Requests', count(sum(samples, 'likeness_requests_total', works))],
    ['Refused for load', count(sum(samples, 'likeness_refused_total', ({ reason }) => LOAD.has(reason)))],
    ['Waiting now', count(sum(samples, 'likeness_queue_length'))],
    ['Memory', bytes(sum(samples, 'process_resident_memory_bytes'))],
  ];
  return h('section', { class: 'card counters' }, h('h2', {}, 'Since the start'),
    h('dl', {}, facts.map(([name, value]) => [h('dt', {}, name), h('dd', {}, value)])));
}

function duration(seconds) {
  if (seconds < 90) return count(Math.max(0, Math.round(seconds)), 'second');
  if (seconds < 5400) return count(Math.round(seconds / 60), 'minute');
  return seconds < 129600 ? count(Math.round(seconds / 3600), 'hour') : count(Math.round(seconds / 86400), 'day');
}
