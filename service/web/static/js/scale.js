// Similarity on a scale, with a flag for the threshold of each error rate.

import { h } from './dom.js';
import { cosine, oneIn } from './words.js';

/**
 * @param {number} similarity
 * @param {{threshold: number, label: string}[]} flags
 * @param {number} threshold the one that decided
 */
export function similarityScale(similarity, flags, threshold) {
  const low = Math.min(-0.2, Math.floor(similarity * 5) / 5);
  const at = (value) => `${(100 * (value - low)) / (1 - low)}%`;
  const place = (element, value) => {
    element.style.left = at(value);
    return element;
  };
  const sorted = [...flags].sort((a, b) => a.threshold - b.threshold);
  // Least strict highest, so that no flag crosses the pole of another.
  const poles = sorted.map((flag, i) => {
    const pole = place(h('span', { class: flag.threshold === threshold ? 'pole used' : 'pole' },
      h('span', { class: 'flag' }, flag.label)), flag.threshold);
    pole.style.setProperty('--row', String(sorted.length - i));
    return pole;
  });
  const reached = h('span', { class: 'reached' });
  reached.style.left = at(threshold);
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((value) => place(h('span', { class: 'tick' }, String(value)), value));
  const marker = place(h('span', { class: similarity >= threshold ? 'marker match' : 'marker no' },
    h('span', { class: 'value' }, cosine(similarity))), similarity);
  const words = sorted.map((flag) => `${flag.label} at ${cosine(flag.threshold)}`).join(', ');
  const scale = h('div', {
    class: 'scale', role: 'img',
    'aria-label': `Similarity ${cosine(similarity)}, on a scale that ends at 1. Thresholds: ${words}.`,
  }, poles, h('span', { class: 'bar' }, reached), ticks, marker);
  scale.style.setProperty('--rows', String(sorted.length));
  return scale;
}

/** Flags of operating points, named by their false match rates. */
export function flagsOf(points) {
  return points.map(({ threshold, fmr }) => ({ threshold, label: fmr === null ? 'threshold' : oneIn(fmr) }));
}
