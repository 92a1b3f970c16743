// Prometheus' text format, and what can be read from two of them.

/** `{name, labels, value}` for each line that is a sample. */
export function parse(text) {
  const samples = [];
  for (const line of text.split('\n')) {
    const found = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!found) continue;
    const labels = Object.fromEntries(
      [...(found[2] ?? '').matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name, value]) => [name, value]));
    samples.push({ name: found[1], labels, value: Number(found[3].replace('Inf', 'Infinity')) });
  }
  return samples;
}

/** The sum of all samples of a name that `wanted` takes. */
export function sum(samples, name, wanted = () => true) {
  return samples.reduce((total, one) => total + (one.name === name && wanted(one.labels) ? one.value : 0), 0);
}

/** What a histogram has taken in between two moments: count, sum, and cumulated counts by upper bound. */
export function histogram(before, after, name, wanted = () => true) {
  const difference = (suffix) =>
    sum(after, `${name}_${suffix}`, wanted) - sum(before, `${name}_${suffix}`, wanted);
  const buckets = new Map();
  for (const [samples, sign] of [[after, 1], [before, -1]]) {
    for (const one of samples) {
      if (one.name !== `${name}_bucket` || !wanted(one.labels)) continue;
      const bound = Number(one.labels.le.replace('Inf', 'Infinity'));
      buckets.set(bound, (buckets.get(bound) ?? 0) + sign * one.value);
    }
  }
  return { count: difference('count'), sum: difference('sum'), buckets: [...buckets].sort(([a], [b]) => a - b) };
}

/** A quantile, linear within its bucket; null of nothing. */
export function quantile({ count, buckets }, q) {
  if (count <= 0) return null;
  const rank = q * count;
  let low = 0, below = 0;
  for (const [bound, cumulated] of buckets) {
    if (cumulated >= rank) {
      if (bound === Infinity) return low;
      return low + ((bound - low) * (rank - below)) / Math.max(1e-12, cumulated - below);
    }
    [low, below] = [bound, cumulated];
  }
  return low;
}
