// The one place that calls the service. Errors come out as ApiError, whatever went wrong.

const KEY = 'likeness.key';

/** `unauthorized`, `unreachable` and `key` (another key is used from now on) are told here. */
export const events = new EventTarget();

class ApiError extends Error {
  /** status 0, code `unreachable`: no answer at all. `retryAfter` is in seconds. */
  constructor(status, code, message, { details = {}, requestId = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, details, requestId, retryAfter });
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  /** null forgets it. */
  set(value) {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
    events.dispatchEvent(new Event('key'));
  },
};

/**
 * The answer's JSON, or its text where it is none; null of an empty one.
 *
 * @param {{json?: object, form?: FormData, signal?: AbortSignal, headers?: object, key?: string}} more
 */
export async function call(method, path, { json, form, signal, headers = {}, key: other } = {}) {
  const used = other ?? key.get();
  const sent = { ...headers };
  if (used) sent.authorization = `Bearer ${used}`;
  if (json !== undefined) sent['content-type'] = 'application/json';
  let answer, text;
  try {
    const body = json === undefined ? form : JSON.stringify(json);
    answer = await fetch(path, { method, headers: sent, body, signal, cache: 'no-store' });
    text = await answer.text();
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    events.dispatchEvent(new Event('unreachable'));
    throw new ApiError(0, 'unreachable', 'There was no answer from the service.');
  }
  const isJson = (answer.headers.get('content-type') ?? '').startsWith('application/json');
  if (answer.ok) return isJson ? JSON.parse(text) : text || null;
  const error = refusal(answer, isJson ? JSON.parse(text) : {});
  if (error.status === 401 && other === undefined) events.dispatchEvent(new Event('unauthorized'));
  if (error.code === 'not_ready') events.dispatchEvent(new Event('unreachable'));
  throw error;
}

/** All items of a list that comes in pages. */
export async function all(path, field) {
  const items = [];
  let cursor = null;
  do {
    const page = await call('GET', `${path}?${query({ limit: 1000, cursor })}`);
    items.push(...page[field]);
    cursor = page.cursor;
  } while (cursor);
  return items;
}

export function query(fields) {
  return new URLSearchParams(Object.entries(fields).filter(([, value]) => value !== null && value !== undefined));
}

/** A multipart body; a field that is null is left out, and so are the names of files, which tell who is in a photo. */
export function form(fields) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value instanceof Blob) body.append(name, value, 'photo');
    else if (value !== null) body.append(name, value);
  }
  return body;
}

/** `/v1/galleries/…` of ids, each escaped. */
export function galleryPath(gallery, ...rest) {
  // Browsers take these for steps up in the address, however they are escaped: something else would be asked for.
  const step = [gallery, ...rest].find((id) => id === '.' || id === '..');
  if (step) throw new ApiError(0, 'invalid_request', `Browsers cannot ask for the id ${step}; the Python client can.`);
  return ['/v1/galleries', ...[gallery, ...rest].map(encodeURIComponent)].join('/');
}

let told = null;

/** `/v1/info`, asked for once for each key. */
export function info() {
  told ??= call('GET', '/v1/info').catch((error) => {
    told = null;
    throw error;
  });
  return told;
}

events.addEventListener('key', () => { told = null; });
events.addEventListener('unreachable', () => { told = null; });

function refusal(answer, body) {
  const error = body.error ?? {};
  const seconds = Number.parseFloat(answer.headers.get('retry-after') ?? '');
  return new ApiError(answer.status, error.code ?? 'internal', error.message ?? `Status ${answer.status}.`, {
    details: error.details ?? {},
    requestId: body.request_id ?? answer.headers.get('x-request-id'),
    retryAfter: Number.isFinite(seconds) ? seconds : null,
  });
}
