// Small things that all pages have: elements, inks, words and marks.

export const $ = id => document.getElementById(id);

/** An element with attributes and children; `on…` are listeners. */
export function el(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}
export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS('http://www.w3.org/2000/svg', name), attributes, children);
}
function filled(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) made.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(key, value === true ? '' : value);
  }
  made.append(...children.flat(Infinity).filter(child => child != null));
  return made;
}

/** Says something only where it is not said already: who reads or selects it just now is left alone. */
export function say(element, text) { if (element.textContent !== String(text)) element.textContent = text; }
export function mark(element, name, text) { if (element.getAttribute(name) !== text) element.setAttribute(name, text); }

// ---- inks
export const dark = matchMedia('(prefers-color-scheme: dark)');
let known = null;
dark.addEventListener('change', () => { known = null; });
/** The palette of base.css, for what is drawn on a canvas. */
export function inks() {
  const style = () => getComputedStyle(document.documentElement);
  known ??= Object.fromEntries(['back', 'panel', 'soft', 'line', 'fore', 'dim', 'accent', 'good', 'bad', 'warn', 'read'].map(ink => [ink, style().getPropertyValue(`--${ink}`).trim()]));
  return known;
}

/** Empties a canvas and makes it as sharp as the screen is; gives its pen, its width and its height. */
export function sharp(canvas, height = canvas.clientHeight) {
  const scale = devicePixelRatio || 1, width = canvas.clientWidth;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const pen = canvas.getContext('2d');
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  return [pen, width, height];
}

// ---- words
const ROLES = { leader: '★ leader', candidate: '? candidate', starting: '… starting', stopped: '■ stopped', paused: '❚❚ paused', down: '✕ down', dead: '✕ dead', failed: '✕ failed', silent: '✕ no answer' };
/** What a node is, with a mark where it is more or less than a follower: nothing hangs on a colour. */
export const roleWords = role => ROLES[role] ?? role;

/** How long something took. */
export function ms(value) {
  if (value == null) return '–';
  if (value >= 999.5) return `${(value / 1000).toPrecision(3)} s`;
  if (value >= 10 || value === 0) return `${Math.round(value)} ms`;
  return value >= 1 ? `${value.toFixed(1)} ms` : `${Math.round(value * 1000)} µs`;
}

/** What can't be seen, or turns what is around it, is shown by its number. */
export const shown = text => String(text).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, letter => `‹U+${letter.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}›`);

// ---- tables
/** Rows of a table; a cell is `{ head | word | number | text | name: what }`, with `bad`, `leader` and `choose`. One that stays
 *  as it was is left alone, for whoever reads it just now; one with an `element` has that in it. */
export function fillRows(table, rows) {
  const body = table.tBodies[0];
  while (body.rows.length > rows.length) body.deleteRow(-1);
  for (const [at, cells] of rows.entries()) {
    const row = body.rows[at] ?? body.insertRow();
    while (row.cells.length > cells.length) row.deleteCell(-1);
    for (const [number, cell] of cells.entries()) fillCell(row, number, cell);
  }
}
function fillCell(row, at, cell) {
  const old = row.cells[at];
  if (cell.element) {
    if (old?.firstElementChild !== cell.element) { const made = el('td', {}, cell.element); if (old) old.replaceWith(made); else row.append(made); }
    return;
  }
  const kind = Object.keys(cell)[0] ?? 'word';
  const text = shown(cell[kind] ?? '');
  const look = [kind, cell.bad ? 'bad' : '', cell.leader ? 'leader' : ''].filter(Boolean).join(' ');
  if (old && !cell.choose && old.dataset.said === text && old.className === look && !old.firstElementChild?.matches('button')) return;
  const made = el(kind === 'head' ? 'th' : 'td', { scope: kind === 'head' && 'row', class: look, 'data-said': text });
  const inner = el('bdi', {}, text);
  if (cell.choose) {
    if (text === '') inner.textContent = '(empty name)';
    made.append(el('button', { type: 'button', onclick: cell.choose }, inner));
  } else made.append(inner);
  if (old) old.replaceWith(made); else row.append(made);
}

// ---- logs
/** A strip for so many of a log's entries. */
export const cells = count => el('span', { class: 'cells', 'aria-hidden': 'true' }, Array.from({ length: count }, () => el('i')));
/** Shows a log in it, as far as that goes from the entry `first`; none where nothing is known of it. */
export function fillCells(strip, first, log) {
  for (const [slot, cell] of [...strip.children].entries()) {
    const index = first + slot;
    const is = !log || index < 1 || index > log.last ? 'none' : index <= log.applied ? 'applied' : index <= log.committed ? 'committed' : 'appended';
    if (cell.className !== is) cell.className = is;
  }
}

// ---- what came of a call
const OUTCOMES = {
  write: { ink: 'accent', isFull: true },
  read: { ink: 'read' },
  stale: { ink: 'warn', mark: 'S' },
  refused: { ink: 'bad', mark: '×' },
  unknown: { ink: 'warn', mark: '?', dash: [3, 2] },
};
/** Draws a call as a bar of a lane: an answered write is full, an answered read hollow, and all else has a mark. `isMarked`:
 *  also where the bar is too small for it. */
export function drawOutcome(pen, name, { left, top, wide, high }, isMarked = false) {
  const outcome = OUTCOMES[name];
  pen.fillStyle = pen.strokeStyle = inks()[outcome.ink];
  // What is too narrow to be hollow would be a blur.
  if (outcome.isFull || (!outcome.mark && wide < 4)) { pen.fillRect(left, top, wide, high); return; }
  if (outcome.mark) {
    pen.globalAlpha = .3;
    pen.fillRect(left, top, wide, high);
    pen.globalAlpha = 1;
  }
  pen.lineWidth = 1;
  if (outcome.dash) pen.setLineDash(outcome.dash);
  pen.strokeRect(left + .5, top + .5, Math.max(1, wide - 1), high - 1);
  if (outcome.dash) pen.setLineDash([]);
  if (!outcome.mark || (wide <= 9 && !isMarked)) return;
  const before = [pen.textAlign, pen.textBaseline, pen.font];
  [pen.textAlign, pen.textBaseline, pen.font] = ['center', 'middle', 'bold 12px system-ui, sans-serif'];
  pen.fillText(outcome.mark, wide > 9 ? left + wide - 6 : left + wide / 2, top + high / 2 + .5);
  [pen.textAlign, pen.textBaseline, pen.font] = before;
}
/** What those bars mean, for a page's legend; `names` are those that it has. */
export function outcomeKeys(names) {
  const key = ([name, told]) => el('li', {}, el('span', { class: `key ${OUTCOMES[name].ink} ${OUTCOMES[name].mark ? '' : OUTCOMES[name].isFull ? 'box full' : 'box'}`, 'aria-hidden': 'true' }, OUTCOMES[name].mark ?? ''), told);
  return names.map(key);
}
