// What was found in a photo, drawn: boxes and landmarks over it, and the aligned crops beside it.

import { alignedCrop } from './align.js';
import { h, s } from './dom.js';
import { count } from './words.js';

const MOST_CROPS = 24;

/** The photo with boxes and landmarks over it; both scale with the page. `chosen` is the index of one face, or null. */
export function markedPhoto(url, alt, { image, faces }, chosen = null) {
  const { width, height } = image;
  const overlay = s('svg', { viewBox: `0 0 ${width} ${height}`, class: 'overlay', 'aria-hidden': 'true' });
  const tags = [];
  faces.forEach((face, i) => {
    const { x, y, width: w, height: high } = face.box;
    const kind = chosen === null ? 'face' : i === chosen ? 'face chosen' : 'face other';
    overlay.append(s('g', { class: kind },
      s('rect', { x, y, width: w, height: high }),
      // A line without length and with a round end: a dot that keeps its size.
      (face.landmarks ?? []).map(([px, py]) => s('path', { d: `M${px} ${py}h0` }))));
    if (faces.length > 1) tags.push(tag(i, face.box, image, kind));
  });
  return h('div', { class: 'photo' }, h('img', { src: url, alt }), overlay, tags);
}

/** The aligned crops of `faces`, with numbers that tell what is in the photo. */
export function cropList(bitmap, detection, alignment, name) {
  const { image, faces } = detection;
  const shown = faces.slice(0, MOST_CROPS);
  const items = shown.map((face, i) => h('li', {},
    cropOf(bitmap, image, face, alignment, `Aligned crop of face ${i + 1}, ${name}`),
    h('div', { class: 'facts' },
      faces.length > 1 && h('span', { class: 'tag' }, String(i + 1)),
      h('span', {}, `${face.quality.inter_eye_distance.toFixed(0)} px eye to eye`),
      h('span', {}, turned(face.quality)),
      h('span', {}, `score ${face.detection_score.toFixed(2)}`))));
  const more = faces.length - shown.length;
  return [
    h('ul', { class: 'crops', 'aria-label': `Aligned crops, ${name}` }, items),
    more > 0 && h('p', { class: 'hint' }, `and ${count(more, 'smaller face')}`),
  ].filter(Boolean);
}

/** One aligned crop, as the embedder sees it. `image` is the size of the upright photo as the service told it. */
export function cropOf(bitmap, image, face, alignment, label) {
  return alignedCrop(bitmap, image, face.landmarks, alignment, label);
}

/** The index of the face in `faces` whose box is `box`. */
export function indexOfBox(faces, box) {
  const off = ({ box: other }) => Math.hypot(other.x - box.x, other.y - box.y, other.width - box.width);
  const offs = faces.map(off);
  return offs.indexOf(Math.min(...offs));
}

function turned({ yaw_degrees: yaw, roll_degrees: roll }) {
  const parts = [];
  if (Math.abs(yaw) >= 8) parts.push(`turned ${Math.abs(yaw).toFixed(0)}°`);
  if (Math.abs(roll) >= 8) parts.push(`tilted ${Math.abs(roll).toFixed(0)}°`);
  return parts.join(', ') || 'frontal';
}

function tag(i, box, { width, height }, kind) {
  // Above the box, so that it covers no face; in it where there is no room.
  const place = box.y > 0.08 * height ? 'above' : 'inside';
  const element = h('span', { class: `tag ${place} ${kind}`, 'aria-hidden': 'true' }, String(i + 1));
  element.style.left = `${(100 * Math.max(0, box.x)) / width}%`;
  element.style.top = `${(100 * Math.max(0, box.y)) / height}%`;
  return element;
}
