// Enrolling many photos: a few at a time, each with its own outcome, patient with a busy service.

import { all, call, form, galleryPath } from './api.js';
import { digestOf, faceId } from './folder.js';

const WORKERS = 3;
const PATIENCE_S = 3;
const FOR_LATER = new Set(['overloaded', 'rate_limited', 'not_ready', 'deadline_exceeded', 'unreachable']);
const OF_THE_PHOTO = new Set([413, 415, 422]);

/** One run; whoever shows it looks at its counts now and then. */
export class Enrolment {
  #gallery;
  #options;
  #queue;
  #known = new Map();
  #abort = new AbortController();
  #calls = 0;
  #mostCalls = WORKERS;

  /**
   * @param {{id: string, name: string, photos: {path: string, file: File}[]}[]} persons
   * @param {{faces: string, quality: string}} options as `…/faces` takes them
   */
  constructor(gallery, persons, options) {
    this.#gallery = gallery;
    this.#options = options;
    this.#queue = persons.flatMap((person) => person.photos.map((photo) => ({ person, photo })));
    this.total = this.#queue.length;
    this.enrolled = this.present = 0;
    /** @type {{path: string, error: Error}[]} */
    this.rejected = [];
    /** performance.now() until when the service has asked to be left alone. */
    this.waitsUntil = 0;
  }

  get done() {
    return this.enrolled + this.present + this.rejected.length;
  }

  get cancelled() {
    return this.#abort.signal.aborted;
  }

  /** What is enrolled stays. */
  cancel() {
    this.#abort.abort();
  }

  /** Resolves when all is done or it was cancelled; rejects with an error that is not one photo's own. */
  async run() {
    try {
      await Promise.all(Array.from({ length: WORKERS }, () => this.#work()));
    } catch (error) {
      if (!this.cancelled) {
        this.cancel();
        throw error;
      }
    }
  }

  async #work() {
    for (let job = this.#queue.shift(); job && !this.cancelled; job = this.#queue.shift()) {
      await this.#enrol(job);
    }
  }

  async #enrol({ person, photo }) {
    let face;
    try {
      face = await faceId(person.id, photo);
    } catch (error) {
      this.rejected.push({ path: photo.path, error: { code: 'invalid_image', message: `It cannot be read: ${error.message}` } });
      return;
    }
    const known = await this.#facesOf(person);
    if (known.has(digestOf(face))) {
      this.present++;
      return;
    }
    try {
      const body = { images: photo.file, ...this.#options, face_ids: face };
      await this.#patiently('POST', [person.id, 'faces'], () => ({ form: form(body) }));
      known.add(digestOf(face));
      this.enrolled++;
    } catch (error) {
      if (error.code === 'conflict' && error.details.face === face) {
        // Sent before, by a try whose answer was lost.
        this.present++;
      } else if (OF_THE_PHOTO.has(error.status)) {
        this.rejected.push({ path: photo.path, error: { ...error, ...error.details.rejected?.[0] } });
      } else {
        throw error;
      }
    }
  }

  /** Digests of the photos that the person has; a person who is not there is made. Once for each person. */
  #facesOf(person) {
    if (!this.#known.has(person.id)) this.#known.set(person.id, this.#prepare(person));
    return this.#known.get(person.id);
  }

  async #prepare(person) {
    try {
      const faces = await this.#again(() => all(galleryPath(this.#gallery, 'persons', person.id, 'faces'), 'faces'));
      return new Set(faces.map(({ face_id: id }) => digestOf(id)));
    } catch (error) {
      if (error.code !== 'person_not_found') throw error;
      await this.#patiently('PUT', [person.id], () => ({ json: { name: person.name } }));
      return new Set();
    }
  }

  #patiently(method, place, content) {
    const path = galleryPath(this.#gallery, 'persons', ...place);
    return this.#again(() => call(method, path, { ...content(), signal: this.#abort.signal }));
  }

  /**
   * Ask until there is an answer that is not `later`. All workers wait as long as one was told to; where it is the key
   * that may not ask so often, fewer ask at once from then on.
   */
  async #again(ask) {
    for (;;) {
      await this.#wait();
      this.#calls++;
      try {
        return await ask();
      } catch (error) {
        if (!FOR_LATER.has(error.code)) throw error;
        if (error.code === 'rate_limited') this.#mostCalls = Math.max(1, this.#mostCalls - 1);
        const until = performance.now() + 1000 * (error.retryAfter ?? PATIENCE_S);
        this.waitsUntil = Math.max(this.waitsUntil, until);
      } finally {
        this.#calls--;
      }
    }
  }

  async #wait() {
    while (performance.now() < this.waitsUntil || this.#calls >= this.#mostCalls) {
      this.#abort.signal.throwIfAborted();
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    this.#abort.signal.throwIfAborted();
  }
}
