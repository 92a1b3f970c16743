// The page: which view is open, and whether the service answers.

import { events, key } from './api.js';
import { byId, h, show } from './dom.js';
import * as gallery from './gallery.js';
import * as keys from './key.js';
import * as search from './search.js';
import * as status from './status.js';
import * as verify from './verify.js';
import { errorBox } from './words.js';

const VIEWS = { verify, gallery, search, status };
const AGAIN_MS = 3000;
let open = null;
let waiting = null;

function build() {
  keys.build();
  for (const view of Object.values(VIEWS)) view.build();
  addEventListener('hashchange', () => go(true));
  events.addEventListener('key', () => {
    // Whoever forgets the key leaves: what it has shown goes with it.
    if (key.get() === null) for (const view of Object.values(VIEWS)) view.forget?.();
    enter();
  });
  events.addEventListener('unreachable', waitForService);
  document.addEventListener('paste', (event) => {
    const files = [...event.clipboardData.files].filter((file) => file.type.startsWith('image/'));
    if (files.length && open.paste) {
      event.preventDefault();
      open.paste(files);
    }
  });
  // A photo dropped beside its place must not take the page away.
  for (const kind of ['dragover', 'drop']) addEventListener(kind, (event) => event.preventDefault());
  go(false);
}

/** Open the view that the address names. */
function go(moved) {
  const name = Object.hasOwn(VIEWS, location.hash.slice(1)) ? location.hash.slice(1) : 'verify';
  open?.leave?.();
  open = VIEWS[name];
  for (const other of Object.keys(VIEWS)) {
    byId(`view-${other}`).hidden = other !== name;
    const link = document.querySelector(`nav a[href="#${other}"]`);
    if (other === name) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  document.title = `${byId(`${name}-title`).textContent} · Likeness`;
  if (moved) byId('content').focus({ preventScroll: true });
  enter();
}

async function enter() {
  const entered = open;
  try {
    await entered.enter();
    setState('ready', 'Ready');
  } catch (error) {
    if (entered !== open) return;
    // The banner and the dialog for the key say these already.
    if (['unreachable', 'not_ready'].includes(error.code)) return;
    if (error.status === 401) return setState('shut', 'Key needed');
    banner(errorBox(error));
    return;
  }
  if (waiting === null) banner();
}

function setState(kind, word) {
  byId('state').dataset.kind = kind;
  show(byId('state').querySelector('.word'), word);
}

function banner(...content) {
  byId('banner').hidden = content.length === 0;
  show(byId('banner'), content);
}

/** Ask until the service is ready, then go on where we were. */
function waitForService() {
  if (waiting !== null) return;
  setState('down', 'No answer');
  waiting = setInterval(async () => {
    let why;
    try {
      const answer = await fetch('/v1/health/ready', { cache: 'no-store' });
      if (answer.ok) {
        clearInterval(waiting);
        waiting = null;
        banner();
        return enter();
      }
      why = 'It is starting or stopping.';
    } catch {
      why = 'Is it running?';
    }
    tellDown(why);
  }, AGAIN_MS);
  tellDown('Is it running?');
}

function tellDown(why) {
  const text = `The service does not answer. ${why} The page goes on by itself as soon as it is ready.`;
  if (byId('banner').textContent !== text) banner(h('p', { class: 'told bad' }, text));
}

build();
