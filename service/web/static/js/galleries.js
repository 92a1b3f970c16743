// The galleries of the service, and the one that is looked at, for all views.

import { all } from './api.js';

let chosen = null;

/** All galleries that the key is for. */
export async function galleries() {
  const found = await all('/v1/galleries', 'galleries');
  if (!found.some(({ id }) => id === chosen)) chosen = found[0]?.id ?? null;
  return found;
}

/** Id of the gallery that is looked at; null where there is none. */
export function chosenGallery() {
  return chosen;
}

export function choose(id) {
  chosen = id;
}
