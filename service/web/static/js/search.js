// Search: one photo, who of a gallery it is, or nobody.

import { call, form, galleryPath, info } from './api.js';
import { byId, h, offer, say, show } from './dom.js';
import { cropOf } from './faces.js';
import { choose, chosenGallery, galleries } from './galleries.js';
import { PhotoSlot } from './slot.js';
import { cosine, count, errorBox, oneIn, share } from './words.js';

/** Candidates of one face among several. */
const MOST_OF_MANY = 3;

let slot;
let running = null;

export function build() {
  slot = new PhotoSlot(byId('search-photo'), 'Probe');
  slot.addEventListener('change', reset);
  slot.addEventListener('found', () => { if (ready()) search(); });
  byId('search-form').addEventListener('submit', (event) => {
    event.preventDefault();
    search();
  });
  byId('search-form').addEventListener('change', () => {
    choose(byId('search-gallery').value);
    if (ready()) search();
  });
}

export async function enter() {
  const found = await galleries();
  offer(byId('search-gallery'),
    found.map(({ id, name, persons }) => [id, `${name ?? id}, ${count(persons, 'person')}`]), chosenGallery());
  if (slot.file === null) show(byId('search-result'), found.length ? invite() : nowhere());
  byId('search-go').disabled = !ready();
  slot.retry();
}

export function forget() {
  slot.clear();
  show(byId('search-gallery'));
}

export function paste(files) {
  slot.set(files[0]);
}

function ready() {
  return slot.file !== null && chosenGallery() !== null;
}

function reset() {
  running?.abort();
  byId('search-go').disabled = !ready();
  show(byId('search-result'), slot.file === null && invite());
}

function invite() {
  return h('p', { class: 'card hint' }, 'Give a photo, and the most similar persons of the gallery stand here.');
}

function nowhere() {
  return h('p', { class: 'card hint' }, 'There is no gallery yet: ', h('a', { href: '#gallery' }, 'make one'), '.');
}

async function search() {
  const place = byId('search-result');
  running?.abort();
  const mine = running = new AbortController();
  place.setAttribute('aria-busy', 'true');
  try {
    const body = form({ image: slot.file, faces: byId('search-faces').value, fpir: byId('search-fpir').value });
    const answer = await call('POST', galleryPath(chosenGallery(), 'search'), { form: body, signal: mine.signal });
    const { alignment } = await info();
    if (mine.signal.aborted) return;
    if (answer.probes.length === 0) {
      show(place, errorBox({ code: 'face_not_found', message: 'The photo shows no face, so nobody was looked for.' }));
      return;
    }
    show(place, answer.probes.map((probe, i) => card(probe, i, answer, alignment)), rates(answer));
    say([...place.querySelectorAll('.big')].map(({ textContent }) => textContent).join('. '));
  } catch (error) {
    if (error.name !== 'AbortError') show(place, errorBox(error));
  } finally {
    if (running === mine) place.removeAttribute('aria-busy');
  }
}

function card(probe, i, answer, alignment) {
  const many = answer.probes.length > 1;
  const { threshold } = answer.operating_point;
  return h('section', { class: 'card probe-card', 'aria-label': many ? `Face ${i + 1}` : 'Answer' },
    h('div', { class: 'probe-side' }, probeCrop(probe, alignment)),
    h('div', { class: 'candidates-side' },
      decision(probe),
      probe.candidates.length
        ? h('ol', { class: 'candidates' }, probe.candidates.slice(0, many ? MOST_OF_MANY : undefined).map((found) => candidate(found, threshold)))
        : h('p', { class: 'hint' }, 'Nobody is enrolled in this gallery.')));
}

/** The probe's aligned crop; without landmarks, for keys that may not detect, there is none. */
function probeCrop({ box }, alignment) {
  if (!slot.bitmap || !slot.detection) return h('p', { class: 'hint' }, 'Crops need the scope verify.');
  const index = slot.faceAt(box);
  const face = slot.detection.faces[index];
  const number = slot.detection.faces.length > 1 ? ` ${index + 1}` : '';
  return h('figure', { class: 'crop' },
    cropOf(slot.bitmap, slot.detection.image, face, alignment, `Aligned crop of the probe${number}`),
    h('figcaption', {}, `Probe${number}`));
}

function decision({ decision: decided, ambiguous, candidates: [first] }) {
  if (decided !== 'identified') {
    return h('div', { class: 'verdict no' }, h('p', { class: 'big' }, 'Unknown: nobody of this gallery'),
      first && h('p', {}, 'The most similar persons stay below the threshold.'));
  }
  return h('div', { class: 'verdict match' }, h('p', { class: 'big' }, `Identified: ${first.name ?? first.person_id}`),
    ambiguous && h('p', { class: 'told warn' }, 'Ambiguous: a second person is nearly as similar. Somebody should look.'));
}

function candidate({ person_id: id, name, similarity, rank }, threshold) {
  const reaches = similarity >= threshold;
  const length = h('span', { class: reaches ? 'length match' : 'length' });
  length.style.width = `${100 * Math.max(0, similarity)}%`;
  const pole = h('span', { class: 'at' });
  pole.style.left = `${100 * Math.max(0, threshold)}%`;
  return h('li', { class: reaches ? 'candidate reaches' : 'candidate' },
    h('span', { class: 'rank', 'aria-hidden': 'true' }, String(rank)),
    h('span', { class: 'names' }, h('b', {}, name ?? id), name && name !== id && h('code', { title: id }, id)),
    h('span', { class: 'track', 'aria-hidden': 'true' }, length, pole),
    h('span', { class: 'number' }, cosine(similarity)),
    h('span', { class: 'unseen' }, reaches ? ', reaches the threshold' : ', below the threshold'));
}

function rates({ operating_point: point, gallery_size: { persons, faces } }) {
  return h('p', { class: 'hint' },
    `The threshold is ${cosine(point.threshold)} among ${count(persons, 'person')} with ${count(faces, 'photo')}`,
    point.fpir === null ? '.' : `: ${oneIn(point.fpir)} searches for a stranger names somebody`,
    point.fnir === null ? '' : `, and ${share(point.fnir)} of those for an enrolled person miss`, '.');
}
