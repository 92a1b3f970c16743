// Gallery: which there are, who is in one, enrolling and deleting.

import { call, galleryPath, info } from './api.js';
import { confirmed } from './confirm.js';
import { byId, h, show } from './dom.js';
import { enrolPanel } from './enrol_panel.js';
import { choose, chosenGallery, galleries } from './galleries.js';
import { deleteWithReceipt, personList } from './persons.js';
import { count, day, errorBox } from './words.js';

/** Panels by gallery, which stay, so that a run goes on and can be stopped after others were looked at. */
const panels = new Map();

export function build() {
  byId('gallery-form').addEventListener('submit', async (event) => {
    event.preventDefault();
    const id = byId('gallery-id').value;
    try {
      await call('PUT', galleryPath(id), { json: {} });
      byId('gallery-id').value = '';
      show(byId('galleries-told'));
      choose(id);
      await enter();
    } catch (error) {
      show(byId('galleries-told'), errorBox(error));
    }
  });
}

/** @param {Element|null} note what has just happened, to be told above the gallery */
export async function enter(note = null) {
  const [found, facts] = [await galleries(), await info()];
  show(byId('galleries'), found.map(pick),
    found.length === 0 && h('li', { class: 'hint' }, 'There is none yet.'));
  const open = found.find(({ id }) => id === chosenGallery());
  const move = open && served(open, facts) && await moving(open.id);
  show(byId('gallery-open'), note, open ? opened(open, facts, move) :
    h('p', { class: 'card hint' }, 'A gallery holds the persons among whom is searched. Make one to begin.'));
}

export function forget() {
  panels.clear();
  show(byId('galleries'));
  show(byId('gallery-open'));
}

function pick({ id, name, persons, faces }) {
  const current = id === chosenGallery();
  return h('li', {}, h('button', {
    type: 'button', class: 'pick', 'aria-current': current ? 'true' : null,
    on: { click: () => look(id) },
  }, h('b', {}, name ?? id), h('span', {}, `${count(persons, 'person')}, ${count(faces, 'photo')}`)));
}

async function look(id) {
  choose(id);
  await enter();
  byId('galleries').querySelector('[aria-current]')?.focus();
}

function opened(gallery, facts, move) {
  const { id, name, description, persons, faces, created_at: created, retention_days: days } = gallery;
  if (!panels.has(id)) panels.set(id, enrolPanel(id, () => enter()));
  return [
    h('header', { class: 'card gallery-head' },
      h('div', {}, h('h2', {}, name ?? id),
        h('p', { class: 'hint' }, [description, `${count(persons, 'person')}, ${count(faces, 'photo')}`,
          `since ${day(created)}`, days && `erased after ${count(days, 'day')}`].filter(Boolean).join(' · '))),
      h('button', { type: 'button', class: 'risky', on: { click: () => erase(gallery) } }, 'Delete the gallery')),
    served(gallery, facts) ? move : h('p', { class: 'told warn' },
      'This gallery was made with another bundle: it can be exported and deleted, not searched or enrolled into.'),
    panels.get(id),
    personList(id, tellErased),
  ];
}

function served({ embedding_contract: contract }, { bundles }) {
  return bundles.some((bundle) => bundle.embedding_contract === contract);
}

/** A line for a gallery that is on its way to another bundle, and a key that may know. */
async function moving(id) {
  const { phase, target, progress } = await call('GET', galleryPath(id, 'migration')).catch(() => ({ phase: 'none' }));
  if (phase === 'none') return null;
  const words = { embedding: 'On its way', cut_over: 'Moved', rolled_back: 'Rolled back' }[phase] ?? phase;
  return h('p', { class: 'told' },
    `${words}: ${progress.persons_moved} of ${count(progress.persons, 'person')} are with bundle ` +
    `${target.bundle ?? 'that is not loaded'}, ${count(progress.faces_waiting, 'photo')} wait.`);
}

async function erase({ id, name, persons, faces }) {
  const text = `${count(persons, 'person')} with ${count(faces, 'photo')} are erased for good; no backup brings them back.`;
  if (!(await confirmed(`Delete the gallery ${name ?? id}?`, text, 'Delete'))) return;
  try {
    await tellErased(await deleteWithReceipt(galleryPath(id)));
    panels.delete(id);
  } catch (error) {
    show(byId('galleries-told'), errorBox(error));
  }
}

/** The focus goes to what is told, as the button that was pressed is gone. */
async function tellErased(receipt) {
  const told = h('p', { class: 'told good', tabindex: '-1' }, 'Erased.',
    receipt && h('span', { class: 'hint' }, 'Receipt ', h('code', {}, receipt)));
  await enter(told);
  told.focus();
}
