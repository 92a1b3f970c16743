// Small charts in SVG: lines over the last minutes.

import { h, s } from './dom.js';

const WIDTH = 300, HEIGHT = 72, PAD = 3;

/**
 * A chart of some lines, oldest value first; null is a gap.
 *
 * @param {{label: string, words: string, lines: {name: string, values: (number|null)[], now: string}[], most: number}}
 *     it `words` is for those who do not see it, `most` how many values fit.
 */
export function lineChart({ label, words, lines, most }) {
  const top = Math.max(1e-9, ...lines.flatMap(({ values }) => values.filter((value) => value !== null)));
  const x = (i, n) => WIDTH - PAD - ((n - 1 - i) * (WIDTH - 2 * PAD)) / (most - 1);
  const y = (value) => HEIGHT - PAD - (value / top) * (HEIGHT - 2 * PAD);
  const path = (values) => values.map((value, i) => {
    if (value === null) return '';
    const begins = i === 0 || values[i - 1] === null;
    return `${begins ? 'M' : 'L'}${x(i, values.length).toFixed(1)} ${y(value).toFixed(1)}`;
  }).join('') || 'M0 0';
  return h('figure', { class: 'chart card' },
    h('figcaption', {}, h('span', {}, label),
      lines.map(({ name, now }, i) => h('span', { class: `now line-${i}` }, h('b', {}, now), ` ${name}`))),
    s('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': words },
      s('path', { class: 'base', d: `M0 ${HEIGHT - PAD}H${WIDTH}` }),
      lines.map(({ values }, i) => s('path', { class: `line-${i}`, d: path(values) }))));
}
