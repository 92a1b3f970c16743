// Gallery: which there are, who is in one, enrolling and deleting.

import { call, galleryPath, info } from './api.js';
import { confirmed } from './confirm.js';
import { byId, h, show } from './dom.js';
import { enrolPanel } from './enrol_panel.js';
import { choose, chosenGallery, galleries } from './galleries.js';
import { deleteWithReceipt, personList } from './persons.js';
import { count, day, errorBox } from './words.js';

/** The panel stays while a gallery is open, so that a run goes on when other views are looked at. */
let panel = { gallery: null, element: null };

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
  show(byId('gallery-open'), note, open ? opened(open, facts) :
    h('p', { class: 'card hint' }, 'A gallery holds the persons among whom is searched. Make one to begin.'));
}

function pick({ id, name, persons, faces }) {
  const current = id === chosenGallery();
  return h('li', {}, h('button', {
    type: 'button', class: 'pick', 'aria-current': current ? 'true' : null,
    on: { click: () => { choose(id); enter(); } },
  }, h('b', {}, name ?? id), h('span', {}, `${count(persons, 'person')}, ${count(faces, 'photo')}`)));
}

function opened(gallery, facts) {
  const { id, name, description, persons, faces, created_at: created, retention_days: days } = gallery;
  if (panel.gallery !== id) panel = { gallery: id, element: enrolPanel(id, () => enter()) };
  return [
    h('header', { class: 'card gallery-head' },
      h('div', {}, h('h2', {}, name ?? id),
        h('p', { class: 'hint' }, [description, `${count(persons, 'person')}, ${count(faces, 'photo')}`,
          `since ${day(created)}`, days && `erased after ${count(days, 'day')}`].filter(Boolean).join(' · '))),
      h('button', { type: 'button', on: { click: () => erase(gallery) } }, 'Delete the gallery')),
    gallery.embedding_contract !== facts.embedding_contract && h('p', { class: 'told warn' },
      'This gallery was made with another bundle: it can be exported and deleted, not searched or enrolled into.'),
    panel.element,
    personList(id, (receipt) => enter(erased(receipt))),
  ];
}

async function erase({ id, name, persons, faces }) {
  const text = `${count(persons, 'person')} with ${count(faces, 'photo')} are erased for good; no backup brings them back.`;
  if (!(await confirmed(`Delete the gallery ${name ?? id}?`, text, 'Delete'))) return;
  try {
    await enter(erased(await deleteWithReceipt(galleryPath(id))));
  } catch (error) {
    show(byId('galleries-told'), errorBox(error));
  }
}

function erased(receipt) {
  return h('p', { class: 'told good', role: 'status' }, 'Erased.',
    receipt && h('span', { class: 'hint' }, 'Receipt ', h('code', {}, receipt)));
}
