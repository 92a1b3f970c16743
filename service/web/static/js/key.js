// The access key: asked for, tried, kept in the tab's session storage, forgotten.

import { call, events, key } from './api.js';
import { byId } from './dom.js';

export function build() {
  const dialog = byId('key-dialog');
  byId('key-button').addEventListener('click', () => ask(''));
  byId('key-cancel').addEventListener('click', () => dialog.close());
  byId('key-forget').addEventListener('click', () => {
    key.set(null);
    dialog.close();
  });
  byId('key-form').addEventListener('submit', (event) => {
    event.preventDefault();
    tryKey(byId('key-input').value.trim());
  });
  events.addEventListener('unauthorized', () => {
    ask(key.get() ? 'The key is not known, was revoked, or has expired.' : '');
  });
  events.addEventListener('key', showState);
  showState();
}

/** The button says which key is in use, by the part of it that is no secret. */
function showState() {
  const used = key.get();
  const button = byId('key-button');
  button.textContent = used ? `Key ${used.split('_')[1]?.slice(0, 6) ?? ''}…` : 'Access key';
  button.setAttribute('aria-label', used ? `Change the access key ${button.textContent}` : 'Give an access key');
}

function ask(problem) {
  const dialog = byId('key-dialog');
  tell(problem);
  byId('key-forget').hidden = key.get() === null;
  if (dialog.open) return;
  byId('key-input').value = '';
  dialog.showModal();
}

async function tryKey(given) {
  try {
    // A header takes no other characters, and a key has none.
    if (!/^[\x21-\x7e]+$/.test(given)) return tell('A key has letters, digits, - and _ only.');
    await call('GET', '/v1/info', { key: given });
  } catch (error) {
    // Any other refusal, such as too many calls, still means that the key is one.
    if (error.status === 401) return tell('The key is not known, was revoked, or has expired.');
    if (error.status === 0) return tell('The service does not answer, so the key could not be tried.');
  }
  key.set(given);
  byId('key-dialog').close();
}

function tell(problem) {
  const told = byId('key-told');
  told.textContent = problem;
  told.hidden = !problem;
}
