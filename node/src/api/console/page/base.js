// How the node is asked, and how what it says is put into tables: names and values into text alone.

export const $ = id => document.getElementById(id);
const PATIENCE_MS = 12000;
export const TOKEN = 'tally-console-token';

// ---- asking
export class Refused extends Error {
  constructor(status, body) {
    const { reason, message } = body.refused;
    super(`${reason}: ${message}`);
    this.status = status;
    this.body = body;
  }
}
/** Who asks has changed meanwhile: what came is not for whoever looks now. */
export class Outdated extends Error {}
let era = 0;
export function asksAnew() { era += 1; }
// As text.
export async function asked(path, method = 'GET') {
  const headers = {}, of = era;
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.authorization = `Bearer ${token}`;
  if (method === 'PUT') headers['x-tally-console'] = '1';
  let response, text;
  try {
    response = await fetch(path, { method, headers, cache: 'no-store', redirect: 'error', signal: AbortSignal.timeout(PATIENCE_MS) });
    text = await response.text();
  } catch {
    throw new Error('the node does not answer');
  }
  if (of !== era) throw new Outdated('who asks has changed: ask again');
  if (response.ok) return text;
  let body;
  try { body = JSON.parse(text); } catch { body = {}; }
  body.refused ??= { reason: `HTTP ${response.status}`, message: text.trim() };
  throw new Refused(response.status, body);
}
export const ask = async (path, method) => JSON.parse(await asked(path, method));

// ---- showing
// What can't be seen, or turns what is around it, is shown by its number.
export const shown = text => String(text).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, letter => `‹U+${letter.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}›`);
export const took = micros => (micros < 1e3 ? `${micros} µs` : micros < 999.5e3 ? `${(micros / 1e3).toPrecision(3)} ms` : `${(micros / 1e6).toPrecision(3)} s`);
// Rows of a table. A cell that stays as it was is left alone, for whoever reads it just now.
export function fill(table, rows) {
  const body = table.tBodies[0];
  while (body.rows.length > rows.length) body.deleteRow(-1);
  for (const [at, cells] of rows.entries()) {
    const row = body.rows[at] ?? body.insertRow();
    while (row.cells.length > cells.length) row.deleteCell(-1);
    for (const [number, cell] of cells.entries()) fillCell(row, number, cell);
  }
}
function fillCell(row, at, cell) {
  const kind = Object.keys(cell)[0] ?? 'word';
  const text = shown(cell[kind] ?? '');
  const look = [kind, cell.bad ? 'bad' : '', cell.leader ? 'leader' : ''].filter(Boolean).join(' ');
  const old = row.cells[at];
  if (old && !cell.choose && old.dataset.said === text && old.className === look && !old.firstElementChild?.matches('button')) return;
  const made = document.createElement(kind === 'head' ? 'th' : 'td');
  if (kind === 'head') made.scope = 'row';
  made.className = look;
  made.dataset.said = text;
  const inner = document.createElement('bdi');
  inner.textContent = text;
  if (cell.choose) {
    const button = document.createElement('button');
    button.type = 'button';
    button.addEventListener('click', cell.choose);
    button.append(inner);
    if (text === '') { inner.textContent = '(empty name)'; }
    made.append(button);
  } else made.append(inner);
  if (old) old.replaceWith(made); else row.append(made);
}
