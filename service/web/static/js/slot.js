// A place for one photo: dropped, pasted, chosen or from the webcam; shown with what the service found in it.

import { call, form, info } from './api.js';
import { takePhoto } from './camera.js';
import { h, show } from './dom.js';
import { cropList, indexOfBox, markedPhoto } from './faces.js';
import { count, errorBox } from './words.js';

const FOR_LATER = new Set(['unreachable', 'not_ready', 'unauthorized']);

/**
 * `change` is told when a photo comes or goes, `found` when its faces are known or cannot be.
 *
 * Properties: `file`; `bitmap` (null where the browser cannot show it); `detection`, the answer of `/v1/detect`;
 * `error`, why there is none.
 */
export class PhotoSlot extends EventTarget {
  #label;
  #url = null;
  #parts = {};
  #turn = 0;
  #abort = null;
  #alignment = null;

  constructor(place, label) {
    super();
    this.#label = label;
    this.#forget();
    this.#build(place);
  }

  /** A photo in the place of the one before. Resolves when its faces are known. */
  async set(file) {
    this.clear();
    const turn = ++this.#turn;
    this.file = file;
    this.#url = URL.createObjectURL(file);
    this.#abort = new AbortController();
    this.#busy(true);
    this.#parts.drop.classList.remove('empty');
    this.#say(`${file.name}: looking for faces …`);
    show(this.#parts.stage, h('div', { class: 'photo' }, h('img', { src: this.#url, alt: file.name })));
    this.dispatchEvent(new Event('change'));
    const found = call('POST', '/v1/detect', { form: form({ image: file }), signal: this.#abort.signal });
    const [bitmap, detection, facts] = await Promise.allSettled([createImageBitmap(file), found, info()]);
    if (turn !== this.#turn) return;
    this.#busy(false);
    this.bitmap = bitmap.value ?? null;
    this.detection = detection.value ?? null;
    this.#alignment = facts.value?.alignment ?? null;
    this.error = detection.reason ?? null;
    this.mark(null);
    this.dispatchEvent(new Event('found'));
  }

  /** Ask again about a photo that could not be asked about: the service was away, or there was no key. */
  retry() {
    if (FOR_LATER.has(this.error?.code)) this.set(this.file);
  }

  clear() {
    this.#turn++;
    this.#abort?.abort();
    if (this.#url) URL.revokeObjectURL(this.#url);
    const had = this.file !== null;
    this.#forget();
    this.#busy(false);
    this.#empty();
    if (had) this.dispatchEvent(new Event('change'));
  }

  /** The index of the face with this box. */
  faceAt(box) {
    return indexOfBox(this.detection.faces, box);
  }

  /** Draw the photo, the face of index `chosen` before the others. */
  mark(chosen) {
    const { detection, file } = this;
    if (this.bitmap === null) show(this.#parts.stage, h('p', { class: 'hint' }, 'The browser cannot show this photo.'));
    if (detection === null) {
      // Whoever may search may perhaps not detect: then there is the photo, and that is all.
      this.#say(file.name);
      show(this.#parts.found, this.error.code === 'forbidden' ? null : errorBox(this.error));
      return;
    }
    const faces = count(detection.faces.length, 'face');
    const { width, height } = detection.image;
    this.#say(`${file.name}, ${width} × ${height}, ${faces}`);
    if (this.bitmap === null) return;
    show(this.#parts.stage, markedPhoto(this.#url, `${this.#label}: ${file.name}, ${faces} found`, detection, chosen));
    if (detection.faces.length === 0) {
      show(this.#parts.found, errorBox({ code: 'face_not_found', message: `${this.#label} shows no face.` }));
    } else if (this.#alignment) {
      show(this.#parts.found, cropList(this.bitmap, detection, this.#alignment, this.#label));
    }
  }

  #forget() {
    this.file = this.bitmap = this.detection = this.error = this.#url = null;
  }

  #build(place) {
    const title = `${this.#label.toLowerCase().replace(/\W+/g, '-')}-slot`;
    const input = h('input', {
      type: 'file', accept: 'image/jpeg,image/png,image/webp,image/bmp', class: 'unseen',
      on: { change: () => { if (input.files[0]) this.set(input.files[0]); input.value = ''; } },
    });
    const p = this.#parts = {
      stage: h('div', { class: 'stage' }),
      found: h('div', { class: 'found' }),
      line: h('p', { class: 'hint line', role: 'status' }),
      remove: h('button', {
        type: 'button', class: 'quiet', 'aria-label': `Remove ${this.#label}`, on: { click: () => this.#remove(input) },
      }, 'Remove'),
    };
    p.drop = h('section', { class: 'slot card', 'aria-labelledby': title },
      h('div', { class: 'slot-head' },
        h('h2', { id: title }, this.#label),
        h('span', { class: 'gap' }),
        h('button', { type: 'button', on: { click: () => this.#fromCamera() } }, 'Webcam', h('span', { class: 'unseen' }, ` for ${this.#label}`)),
        h('label', { class: 'button' }, input, 'Browse', h('span', { class: 'unseen' }, ` for ${this.#label}`))),
      p.stage, h('div', { class: 'caption' }, p.line, p.remove), p.found);
    takeDrops(p.drop, (files) => this.set(files[0]));
    show(place, p.drop);
    this.#empty();
  }

  #empty() {
    const { drop, stage, found, remove } = this.#parts;
    drop.classList.add('empty');
    remove.hidden = true;
    this.#say('');
    show(found);
    show(stage, h('p', { class: 'invite' }, 'Drop a photo here, or paste one'));
  }

  #busy(busy) {
    this.#parts.drop.setAttribute('aria-busy', String(busy));
    this.#parts.remove.hidden = this.file === null;
  }

  #say(text) {
    this.#parts.line.textContent = text;
  }

  #remove(input) {
    this.clear();
    input.focus();
  }

  async #fromCamera() {
    const photo = await takePhoto();
    if (photo) await this.set(photo);
  }
}

/** Let files be dropped on `element`; it has the class `over` while some are above it. */
export function takeDrops(element, take) {
  let depth = 0;
  const leave = () => { depth = 0; element.classList.remove('over'); };
  element.addEventListener('dragenter', (event) => {
    event.preventDefault();
    depth++;
    element.classList.add('over');
  });
  element.addEventListener('dragleave', () => { if (--depth <= 0) leave(); });
  element.addEventListener('dragover', (event) => event.preventDefault());
  element.addEventListener('drop', (event) => {
    event.preventDefault();
    event.stopPropagation();
    leave();
    if (event.dataTransfer.files.length) take([...event.dataTransfer.files], event.dataTransfer);
  });
}
