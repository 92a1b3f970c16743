// Verify: two photos, one decision.

import { call, form, info } from './api.js';
import { byId, h, offer, say, show } from './dom.js';
import { cropOf } from './faces.js';
import { flagsOf, similarityScale } from './scale.js';
import { PhotoSlot } from './slot.js';
import { cosine, errorBox, oneIn, share } from './words.js';

const slots = [];
let running = null;

export function build() {
  for (const [place, label] of [['verify-a', 'Photo A'], ['verify-b', 'Photo B']]) {
    const slot = new PhotoSlot(byId(place), label);
    slot.addEventListener('change', reset);
    slot.addEventListener('found', () => { if (slots.every((s) => s.detection?.faces.length)) compare(); });
    slots.push(slot);
  }
  byId('verify-form').addEventListener('submit', (event) => {
    event.preventDefault();
    compare();
  });
  for (const id of ['verify-fmr', 'verify-faces']) {
    byId(id).addEventListener('change', () => { if (ready()) compare(); });
  }
}

export async function enter() {
  const { operating_points: points } = await info();
  offer(byId('verify-fmr'), points.map(({ fmr }) => [String(fmr), oneIn(fmr)]), byId('verify-fmr').value || '0.0001');
  slots.forEach((slot) => slot.retry());
}

export function forget() {
  slots.forEach((slot) => slot.clear());
}

/** Files that were pasted. */
export function paste(files) {
  const free = slots.find((slot) => slot.file === null) ?? slots[1];
  free.set(files[0]);
  if (files[1]) slots[1].set(files[1]);
}

function ready() {
  return slots.every((slot) => slot.file !== null);
}

function reset() {
  running?.abort();
  byId('verify-go').disabled = !ready();
  show(byId('verify-result'));
}

async function compare() {
  const place = byId('verify-result');
  running?.abort();
  const mine = running = new AbortController();
  place.setAttribute('aria-busy', 'true');
  try {
    const fmr = byId('verify-fmr').value;
    const body = form({
      image_a: slots[0].file, image_b: slots[1].file, faces: byId('verify-faces').value, fmr: fmr || null,
    });
    const answer = await call('POST', '/v1/verify', { form: body, signal: mine.signal });
    const { operating_points: points, alignment, calibration } = await info();
    if (mine.signal.aborted) return;
    const faces = [answer.face_a, answer.face_b];
    slots.forEach((slot, i) => slot.detection && slot.mark(slot.faceAt(faces[i].box)));
    const told = verdict(answer, calibration);
    say(told.textContent);
    show(place, told, card(answer, faces, points, alignment), table(answer, points));
  } catch (error) {
    if (error.name === 'AbortError') return;
    error.message = error.message.replace(/\bimage_([ab])\b/g, (_, letter) => `Photo ${letter.toUpperCase()}`);
    show(place, errorBox(error, error.code === 'multiple_faces' && largestButton()));
  } finally {
    if (running === mine) place.removeAttribute('aria-busy');
  }
}

function largestButton() {
  const choose = () => {
    byId('verify-faces').value = 'largest';
    compare();
  };
  return h('button', { type: 'button', on: { click: choose } }, 'Compare the largest');
}

function verdict({ match, similarity, operating_point: point, faces_found: found }, calibration) {
  const reaches = match ? 'reaches' : 'stays below';
  const several = found.map((n, i) => (n > 1 ? `photo ${'AB'[i]} shows ${n} faces` : null)).filter(Boolean);
  return h('div', { class: `verdict ${match ? 'match' : 'no'}` },
    h('p', { class: 'big' }, match ? 'Match: the same person' : 'No match: different persons'),
    h('p', {}, `The similarity ${cosine(similarity)} ${reaches} the threshold ${cosine(point.threshold)}`,
      point.fmr === null ? '.' : `, which ${oneIn(point.fmr)} pairs of different persons reach.`),
    point.fnmr === null ? null : h('p', {},
      `Of two photos of one person ${share(point.fnmr)} stay below it`,
      point.fnmr_interval && ` (95 % interval ${share(point.fnmr_interval[0])} to ${share(point.fnmr_interval[1])})`,
      calibration && `, as measured on ${calibration.dataset}`, '.'),
    several.length ? h('p', {}, `${sentence(several.join(', '))}: the largest was compared.`) : null);
}

function card({ similarity, operating_point: point }, faces, points, alignment) {
  const crops = slots.map((slot, i) => slot.bitmap && slot.detection &&
    cropOf(slot.bitmap, slot.detection.image, faces[i], alignment, `Aligned crop of photo ${'AB'[i]}`));
  return h('div', { class: 'card compared' },
    crops[0] && h('figure', { class: 'crop' }, crops[0], h('figcaption', {}, 'A')),
    h('div', { class: 'scale-side' }, similarityScale(similarity, flagsOf(points), point.threshold)),
    crops[1] && h('figure', { class: 'crop' }, crops[1], h('figcaption', {}, 'B')));
}

function table({ similarity, operating_point: used }, points) {
  const row = (point) => h('tr', { class: point.threshold === used.threshold ? 'used' : null },
    h('th', { scope: 'row' }, oneIn(point.fmr)),
    h('td', {}, cosine(point.threshold)),
    h('td', {}, share(point.fnmr)),
    h('td', {}, similarity >= point.threshold ? 'match' : 'no match'));
  return h('div', { class: 'card scroll' }, h('table', {},
    h('caption', {}, 'The decision at each error rate'),
    h('thead', {}, h('tr', {},
      h('th', { scope: 'col' }, 'False match rate'),
      h('th', { scope: 'col' }, 'Threshold'),
      h('th', { scope: 'col' }, 'Missed'),
      h('th', { scope: 'col' }, 'Decision'))),
    h('tbody', {}, points.map(row))));
}

function sentence(text) {
  return text[0].toUpperCase() + text.slice(1);
}
