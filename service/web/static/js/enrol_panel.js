// Enrolling a folder: drop it, look who was found in it, start, watch, stop.

import { h, say, show } from './dom.js';
import { Enrolment } from './enrol.js';
import { chosenFiles, droppedFiles, likelyNaming, personsOf } from './folder.js';
import { takeDrops } from './slot.js';
import { count, errorBox } from './words.js';

const MOST_NAMES = 12;

/** The panel of a gallery; `enrolled` is called when a run has ended. */
export function enrolPanel(gallery, enrolled) {
  const told = h('div', { class: 'stack' });
  const folder = picker('Choose a folder', { webkitdirectory: true });
  const photos = picker('Choose photos', { accept: 'image/jpeg,image/png,image/webp,image/bmp' });
  const drop = h('div', { class: 'drop' },
    h('p', {}, 'Drop a folder here, one sub-folder a person, or photos named after persons'),
    h('div', { class: 'buttons' }, folder, photos));
  const panel = h('section', { class: 'card stack', 'aria-labelledby': 'enrol-title' },
    h('h3', { id: 'enrol-title' }, 'Enrol'), drop, told);
  if (!isSecureContext) {
    show(drop, h('p', {}, 'Browsers let pages enrol folders on https addresses and on localhost only.'));
    return panel;
  }
  for (const label of [folder, photos]) {
    const input = label.querySelector('input');
    input.addEventListener('change', () => {
      const files = chosenFiles(input);
      input.value = '';
      preview(files);
    });
  }
  takeDrops(drop, async (_, transfer) => preview(await droppedFiles(transfer)));

  async function preview(files, by = likelyNaming(files)) {
    const persons = await personsOf(files, by);
    const total = persons.reduce((sum, { photos: own }) => sum + own.length, 0);
    if (total === 0) {
      show(told, errorBox({ code: 'invalid_image', message: `There is no photo among ${count(files.length, 'file')}.` }));
      return;
    }
    const naming = select([['folders', 'their folders'], ['files', 'their file names']], by);
    naming.addEventListener('change', () => preview(files, naming.value));
    const faces = select([['single', 'refuse the photo'], ['largest', 'take the largest']]);
    const quality = select([['enrol', 'strict'], ['probe', 'lenient'], ['off', 'take any']]);
    const start = h('button', { type: 'button', class: 'main' }, `Enrol ${count(total, 'photo')}`);
    start.addEventListener('click', () => run(persons, { faces: faces.value, quality: quality.value }));
    const names = persons.slice(0, MOST_NAMES).map(({ name, photos: own }) =>
      h('li', {}, name, ' ', h('span', { class: 'hint' }, count(own.length, 'photo'))));
    show(told,
      h('p', { role: 'status' }, h('b', {}, count(persons.length, 'person')), `, ${count(total, 'photo')}`,
        files.length > total && `; ${count(files.length - total, 'other file')} left out`),
      h('ul', { class: 'names-list', 'aria-label': 'Persons found' }, names,
        persons.length > MOST_NAMES && h('li', { class: 'hint' }, `and ${count(persons.length - MOST_NAMES)} more`)),
      h('div', { class: 'options' }, h('label', {}, 'Persons are named by', naming),
        h('label', {}, 'Of several faces', faces), h('label', {}, 'Poor photos', quality)),
      h('div', { class: 'buttons' }, start,
        h('button', { type: 'button', on: { click: () => show(told) } }, 'Leave it')));
  }

  async function run(persons, options) {
    const work = new Enrolment(gallery, persons, options);
    const bar = h('progress', { max: work.total, value: 0, 'aria-label': 'Photos done' });
    const line = h('p', {});
    const stop = h('button', { type: 'button', on: { click: () => work.cancel() } }, 'Stop');
    const refused = rejections(work);
    const failed = h('div', {});
    drop.hidden = true;
    show(told, bar, line, h('div', { class: 'buttons' }, stop), refused.element, failed);
    stop.focus();
    const tick = () => {
      bar.value = work.done;
      const wait = Math.ceil((work.waitsUntil - performance.now()) / 1000);
      line.textContent = `${count(work.done)} of ${count(work.total, 'photo')}: ${outcome(work)}` +
        (wait > 0 ? `. The service is busy; going on in ${count(wait, 'second')}` : '');
      refused.update();
    };
    const clock = setInterval(tick, 250);
    const leaving = (event) => event.preventDefault();
    addEventListener('beforeunload', leaving);
    try {
      await work.run();
    } catch (error) {
      show(failed, errorBox(error));
    }
    clearInterval(clock);
    removeEventListener('beforeunload', leaving);
    tick();
    line.textContent = `${work.cancelled ? 'Stopped after ' : ''}${line.textContent}.`;
    say(line.textContent);
    const close = h('button', { type: 'button', on: { click: () => show(told) } }, 'Close');
    const watched = document.activeElement === stop;
    stop.replaceWith(close);
    if (watched) close.focus();
    drop.hidden = false;
    enrolled();
  }

  return panel;
}

function outcome({ enrolled, present, rejected }) {
  return [`${count(enrolled)} enrolled`, present && `${count(present)} already there`, `${count(rejected.length)} rejected`]
    .filter(Boolean).join(', ');
}

/** The list of photos that were rejected, which grows. */
function rejections(work) {
  const list = h('ul', { class: 'rejected' });
  const element = h('details', { open: true, hidden: true }, h('summary', {}, 'Rejected photos'), list);
  const update = () => {
    element.hidden = work.rejected.length === 0;
    for (const { path, error } of work.rejected.slice(list.childElementCount)) {
      list.append(h('li', {}, h('code', {}, path), h('span', {}, error.message.replace('images[0]', 'the photo'))));
    }
  };
  return { element, update };
}

function picker(text, attributes) {
  return h('label', { class: 'button' }, h('input', { type: 'file', multiple: true, class: 'unseen', ...attributes }), text);
}

function select(options, chosen) {
  return h('select', {}, options.map(([value, text]) => h('option', { value, selected: value === chosen }, text)));
}
