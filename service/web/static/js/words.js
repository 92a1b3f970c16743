// Numbers and errors in words.

import { h } from './dom.js';

const NUMBER = new Intl.NumberFormat('en');
const TITLES = {
  unreachable: 'The service does not answer',
  unauthorized: 'The access key is missing or not known',
  forbidden: 'The access key is not for this',
  rate_limited: 'Too many calls with this key',
  overloaded: 'The service is busy',
  not_ready: 'The service is starting or stopping',
  deadline_exceeded: 'The service took too long',
  image_too_large: 'The photo is too large',
  unsupported_media_type: 'Not a photo that can be read',
  invalid_image: 'The photo is damaged',
  face_not_found: 'No face was found',
  multiple_faces: 'There are several faces',
  face_too_small: 'The face is too small',
  face_quality_too_low: 'The photo is not good enough',
  model_mismatch: 'Made with another bundle',
  conflict: 'The id is taken',
  gallery_not_found: 'There is no such gallery',
  person_not_found: 'There is no such person',
  face_id_not_found: 'There is no such face',
  insufficient_storage: 'The disk of the service is full',
  invalid_request: 'The request was refused',
  internal: 'A defect of the service',
};
const HINTS = {
  unreachable: 'Is it running? The page goes on by itself as soon as it answers again.',
  unauthorized: 'Give another one with the button at the top.',
  forbidden: 'Use a key that has the scope; likeness keys create --scopes makes one.',
  image_too_large: 'Send a smaller file.',
  unsupported_media_type: 'JPEG, PNG, WebP and BMP are accepted.',
  invalid_image: 'Send the original file again.',
  face_not_found: 'Is the face whole, not covered, and larger than some 20 pixels?',
  face_too_small: 'Send a larger photo, or one from nearer by.',
  insufficient_storage: 'Nothing was written. Deleting still works.',
  internal: 'Its log tells more under the request id.',
};

/** 13,194 */
export function count(value, noun, plural = `${noun}s`) {
  const text = NUMBER.format(value);
  return noun ? `${text} ${value === 1 ? noun : plural}` : text;
}

/** An error rate: `1 in 10,000`. */
export function oneIn(rate) {
  const whole = Number((1 / rate).toPrecision(rate < 1e-3 ? 2 : 3));
  return `1 in ${NUMBER.format(whole >= 10 ? Math.round(whole) : Number(whole.toFixed(1)))}`;
}

/** A rate as a share: `2.0 %`. */
export function share(rate) {
  const percent = rate * 100;
  return `${percent >= 10 ? percent.toFixed(0) : percent >= 0.1 ? percent.toFixed(1) : percent.toPrecision(1)} %`;
}

/** A cosine. */
export function cosine(value) {
  return value.toFixed(3).replace('-', '−');
}

export function bytes(value) {
  const units = ['B', 'kB', 'MB', 'GB'];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, value)) / 3));
  const scaled = value / 1000 ** power;
  return `${scaled < 10 && power ? scaled.toFixed(1) : Math.round(scaled)} ${units[power]}`;
}

export function milliseconds(seconds) {
  const ms = seconds * 1000;
  return ms >= 1000 ? `${(ms / 1000).toFixed(1)} s` : `${ms >= 10 ? ms.toFixed(0) : ms.toFixed(1)} ms`;
}

export function day(text) {
  return new Date(text).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'short' });
}

/** An error as a box: what happened, what the service said, what to do. */
export function errorBox(error, ...more) {
  const retry = error.retryAfter ? `Try again in ${count(Math.ceil(error.retryAfter), 'second')}.` : null;
  const hint = [429, 503].includes(error.status) ? retry : HINTS[error.code];
  return h('div', { class: 'told bad', role: 'alert' },
    h('strong', {}, TITLES[error.code] ?? 'Something went wrong'),
    h('p', {}, error.message),
    hint && h('p', {}, hint),
    more,
    error.requestId && h('p', { class: 'hint' }, 'Request id ', h('code', {}, error.requestId)));
}
