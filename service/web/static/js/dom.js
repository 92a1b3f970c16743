// Making elements. Text is only ever set as text, so nothing that comes from a file or an answer can become markup.

const SVG = 'http://www.w3.org/2000/svg';

/** An element. `attributes` may hold `on: {event: listener}`; null and false leave one out. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An element of SVG. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export function byId(id) {
  return document.getElementById(id);
}

/** Put `children` in the place of what `element` holds; null and false are left out. */
export function show(element, ...children) {
  element.replaceChildren(...present(children));
}

/** Tell those who hear the page what has just come of what they did. */
export function say(text) {
  byId('said').textContent = text;
}

/** Options of a select, `[value, text]` each; what was chosen stays chosen where it is still there. */
export function offer(select, options, chosen) {
  const before = chosen ?? select.value;
  show(select, options.map(([value, text]) => h('option', { value }, text)));
  if (options.some(([value]) => value === before)) select.value = before;
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'on') for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...present(children));
  return element;
}

/** So that `condition && h(…)` can stand among children. */
function present(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}
