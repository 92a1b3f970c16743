// The persons of a gallery, page by page, and the enrolled faces of each.

import { all, call, galleryPath, query } from './api.js';
import { confirmed } from './confirm.js';
import { h, show } from './dom.js';
import { count, day, errorBox } from './words.js';

const PAGE = 50;

/** The list; `changed` is told the receipt when somebody or something was deleted. */
export function personList(gallery, changed) {
  const list = h('ul', { class: 'persons', 'aria-label': 'Persons' });
  const more = h('div', {});

  async function load(cursor) {
    try {
      const page = await call('GET', `${galleryPath(gallery, 'persons')}?${query({ limit: PAGE, cursor })}`);
      list.append(...page.persons.map((person) => personItem(gallery, person, changed)));
      show(more, page.cursor && h('button', { type: 'button', on: { click: () => load(page.cursor) } }, 'Show more'),
        list.childElementCount === 0 && h('p', { class: 'hint' }, 'Nobody is enrolled yet.'));
    } catch (error) {
      show(more, errorBox(error));
    }
  }

  load(null);
  return h('section', { class: 'card stack', 'aria-labelledby': 'persons-title' },
    h('h3', { id: 'persons-title' }, 'Persons'), list, more);
}

function personItem(gallery, person, changed) {
  const place = h('div', { class: 'person-open' });
  const details = h('details', {},
    h('summary', {},
      h('span', { class: 'names' }, h('b', {}, person.name ?? person.id),
        person.name && person.name !== person.id && h('code', {}, person.id)),
      h('span', { class: 'hint' }, count(person.faces, 'photo'))),
    place);
  details.addEventListener('toggle', () => { if (details.open) open(); });

  async function open() {
    try {
      const faces = await all(galleryPath(gallery, 'persons', person.id, 'faces'), 'faces');
      show(place, facts(person),
        h('ul', { class: 'faces', 'aria-label': 'Enrolled faces' }, faces.map((face) => faceItem(face, eraseFace))),
        h('div', { class: 'buttons' },
          h('button', { type: 'button', class: 'risky', on: { click: erasePerson } }, `Delete ${person.name ?? person.id}`)));
    } catch (error) {
      show(place, errorBox(error));
    }
  }

  async function erasePerson() {
    const who = person.name ?? person.id;
    const text = `${who} and ${count(person.faces, 'enrolled face')} are erased for good; no backup brings them back.`;
    if (await confirmed(`Delete ${who}?`, text, 'Delete')) await erase([person.id]);
  }

  async function eraseFace({ face_id: id }) {
    const text = `The face ${id} of ${person.name ?? person.id} is erased; the other faces stay.`;
    if (await confirmed('Delete this face?', text, 'Delete')) await erase([person.id, 'faces', id]);
  }

  async function erase(rest) {
    try {
      changed(await deleteWithReceipt(galleryPath(gallery, 'persons', ...rest)));
    } catch (error) {
      place.append(errorBox(error));
    }
  }

  return h('li', {}, details);
}

/** Delete what is at `path`; the answer is the receipt, as the audit log has it. */
export async function deleteWithReceipt(path) {
  const answer = await call('DELETE', path, { headers: { prefer: 'return=representation' } });
  return answer?.receipt ?? null;
}

function facts({ metadata, created_at: created, expires_at: expires }) {
  const shown = [['Since', day(created)], expires && ['Until', day(expires)],
    ...Object.entries(metadata).map(([name, value]) => [name, String(value)])];
  return h('dl', {}, shown.filter(Boolean).map(([name, value]) => [h('dt', {}, name), h('dd', {}, value)]));
}

function faceItem(face, erase) {
  const { face_id: id, quality, box, created_at: created } = face;
  const words = [box && `${box.width.toFixed(0)} × ${box.height.toFixed(0)} px`,
    quality?.inter_eye_distance && `${quality.inter_eye_distance.toFixed(0)} px eye to eye`,
    quality?.sharpness && `sharpness ${quality.sharpness.toFixed(0)}`, day(created)];
  return h('li', {},
    h('span', { class: 'names' }, h('code', {}, id), h('span', { class: 'hint' }, words.filter(Boolean).join(', '))),
    h('button', { type: 'button', 'aria-label': `Delete face ${id}`, on: { click: () => erase(face) } }, 'Delete'));
}
