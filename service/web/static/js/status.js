// Status: the bundle, its licence, what it runs on, its error rates; live figures are in live.js.

import { info } from './api.js';
import { byId, h, show } from './dom.js';
import * as live from './live.js';
import { bytes, cosine, count, oneIn, share } from './words.js';

const PROVIDERS = {
  CPUExecutionProvider: 'CPU', CUDAExecutionProvider: 'GPU (CUDA)', TensorrtExecutionProvider: 'GPU (TensorRT)',
};

export function build() {}

export async function enter() {
  live.start();
  const facts = await info();
  show(byId('status-facts'), bundleTile(facts), licenceTile(facts), deviceTile(facts), limitsTile(facts));
  show(byId('status-points'), pointsCard(facts));
}

export function leave() {
  live.stop();
}

function bundleTile({ bundle, bundles, embedding_contract: contract, embedding_dimension: dimension, version }) {
  return tile('Bundle', `${bundle.name}, version ${bundle.version}`,
    [['Embeddings', `${dimension} numbers`],
      ['Contract', h('code', { title: contract }, `${contract.slice(0, 12)}…`)],
      bundles.length > 1 && ['Beside it', bundles.slice(1).map(({ name }) => name).join(', ')],
      ['Service', `version ${version}`]]);
}

function licenceTile({ bundle }) {
  const words = bundle.commercial_use ? 'Commercial use is permitted' : 'Not for commercial use';
  return tile('Licence of the weights', bundle.licence, [], h('p', {
    class: `told ${bundle.commercial_use ? 'good' : 'warn'}`,
  }, words));
}

function deviceTile({ provider, search, gallery_backend: backend }) {
  const name = (runs) => PROVIDERS[runs] ?? runs;
  const same = provider.detector === provider.embedder;
  return tile('Runs on', same ? name(provider.embedder) : `${name(provider.detector)}, ${name(provider.embedder)}`,
    [['Detector', provider.detector], ['Embedder', provider.embedder],
      search && ['Search', `${search.mode}, ${search.device}`], backend && ['Store', backend]]);
}

function limitsTile({ limits }) {
  return tile('Limits', `${bytes(limits.max_body_bytes)} a request`,
    [['Photo', `${(limits.max_pixels / 1e6).toFixed(0)} megapixels`],
      ['Smallest face', `${limits.min_face_size} px`],
      ['Kinds', limits.media_types.map((type) => type.replace('image/', '')).join(', ')]]);
}

function tile(title, value, facts, ...more) {
  return h('section', { class: 'tile card' }, h('h2', {}, title), h('p', { class: 'value' }, value),
    facts.length ? h('dl', {}, facts.filter(Boolean).map(([name, fact]) => [h('dt', {}, name), h('dd', {}, fact)]))
      : null, more);
}

function pointsCard({ operating_points: points, calibration }) {
  const interval = ([low, high]) => `${share(low).replace(' %', '')} to ${share(high)}`;
  const row = (point) => h('tr', {},
    h('th', { scope: 'row' }, oneIn(point.fmr)),
    h('td', {}, cosine(point.threshold)),
    h('td', {}, share(point.fnmr)),
    h('td', {}, point.fnmr_interval ? interval(point.fnmr_interval) : '–'));
  return h('div', { class: 'card scroll' },
    h('table', {},
      h('caption', {}, 'Thresholds and their error rates'),
      h('thead', {}, h('tr', {},
        h('th', { scope: 'col' }, 'False match rate'), h('th', { scope: 'col' }, 'Threshold'),
        h('th', { scope: 'col' }, 'Missed'), h('th', { scope: 'col' }, '95 % interval'))),
      h('tbody', {}, points.map(row))),
    calibration && h('p', { class: 'hint' },
      `Measured on ${calibration.dataset}: ${count(calibration.persons, 'person')}, ` +
      `${count(calibration.photos, 'photo')}, ${count(calibration.genuine)} genuine and ` +
      `${count(calibration.impostor)} impostor comparisons.`));
}
