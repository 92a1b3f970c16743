// Folders of photos, dropped or chosen, sorted into persons. Ids are those that `likeness enrol` makes, so that the
// same folder enrolled either way is the same gallery.

const ENDINGS = /\.(jpe?g|png|webp|bmp)$/i;
const ID = /^[A-Za-z0-9._:-]{1,128}$/;
// An id that `labelled` made.
const MADE = /:[0-9a-f]{32}$/;

/** The files of a drop, folders and all, as `{path, file}`. Must be called before the event's handler awaits. */
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  const found = await Promise.all(entries.map((entry) => filesOf(entry, entry.name)));
  return found.flat();
}

/** The files of an input, as `{path, file}`. */
export function chosenFiles(input) {
  return [...input.files].map((file) => ({ path: file.webkitRelativePath || file.name, file }));
}

/**
 * Persons and their photos: `{id, name, photos: [{path, file}]}`, by name. Hidden files and folders are left out, and
 * so are files that are no photos by their endings.
 *
 * @param {'folders'|'files'} by what a person is named by: the folder that a photo lies in, or its file, less number
 *     and ending
 */
export async function personsOf(files, by) {
  const persons = new Map();
  for (const photo of photosOf(files)) {
    const name = by === 'folders' ? folderOf(photo.path) || stem(photo.path) : stem(photo.path);
    if (!persons.has(name)) persons.set(name, { id: await personId(name), name, photos: [] });
    persons.get(name).photos.push(photo);
  }
  return [...persons.values()].sort((a, b) => a.name.localeCompare(b.name));
}

/** What the persons are most likely named by: by files where all photos lie in one place and differ in name. */
export function likelyNaming(files) {
  const photos = photosOf(files);
  const places = new Set(photos.map(({ path }) => folderOf(path)));
  return places.size === 1 && new Set(photos.map(({ path }) => stem(path))).size > 1 ? 'files' : 'folders';
}

/** The id of a photo's face: what is left of the file's name as plain letters, and a digest of person and photo. */
export async function faceId(person, { file }) {
  const content = new Uint8Array(await file.arrayBuffer());
  const before = new TextEncoder().encode(`${person}/`);
  const whole = new Uint8Array(before.length + content.length);
  whole.set(before);
  whole.set(content, before.length);
  return labelled(file.name, whole);
}

/** The part of a face's id that tells person and photo, whatever the file is called. */
export function digestOf(id) {
  return id.slice(id.lastIndexOf(':') + 1);
}

async function personId(name) {
  if (ID.test(name) && !MADE.test(name)) return name;
  return labelled(name, new TextEncoder().encode(name));
}

async function labelled(name, content) {
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', content));
  const hex = [...digest.subarray(0, 16)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  const plain = name.normalize('NFKD').replace(/[^\0-\x7f]/g, '');
  return `${plain.replace(/[^A-Za-z0-9.-]+/g, '_').slice(0, 90)}:${hex}`;
}

function photosOf(files) {
  const hidden = (path) => path.split('/').some((part) => part.startsWith('.'));
  return files.filter(({ path }) => ENDINGS.test(path) && !hidden(path));
}

function folderOf(path) {
  return path.split('/').at(-2) ?? '';
}

function stem(path) {
  const file = path.split('/').at(-1).replace(ENDINGS, '');
  return file.replace(/[\s._-]*\(?\d+\)?$/, '') || file;
}

async function filesOf(entry, path) {
  if (entry.isFile) return [{ path, file: await new Promise((resolve, reject) => entry.file(resolve, reject)) }];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    // A hundred at a time, until there are none.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return found;
    found.push(...(await Promise.all(some.map((inner) => filesOf(inner, `${path}/${inner.name}`)))).flat());
  }
}
