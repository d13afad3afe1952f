// Answers over time: one lane for each client, writes above reads, so that a stale read is seen as such.

import { fill, lab, table, told } from './lab.js';
import { $, dark, drawOutcome, el, inks, ms, outcomeKeys } from './parts.js';

/** EDGE: so much beyond the newest moment is drawn already, as what comes right now would be cut off there. */
const WINDOW_MS = 20000, LANE = 26, LEFT = 118, EDGE = 16;

const name = client => `${client.level || 'adds'} at ${client.node}`;

/** Lanes: running clients, and one for all other calls if there were any: those by hand, and of clients that ended. */
function lanes() {
  const clients = lab.state.clients.map(client => ({ id: client.id, name: name(client), writes: !client.level }));
  clients.sort((a, b) => b.writes - a.writes || a.id - b.id);
  const since = lab.state.t - WINDOW_MS, known = new Set(clients.map(client => client.id)), key = [...known].join();
  // Only what is new is looked through, unless another client ran or ended.
  if (key !== others.key) Object.assign(others, { key, seq: 0, end: 0 });
  for (let at = lab.records.length - 1; at >= 0 && lab.records[at].seq > others.seq; at--) {
    if (!known.has(lab.records[at].client)) { others.end = Math.max(others.end, lab.records[at].end); break; }
  }
  others.seq = lab.records.at(-1)?.seq ?? 0;
  if (others.end > since) clients.push({ id: -1, name: 'by hand' });
  return { clients, known, since };
}
const others = { key: '', seq: 0, end: 0 };

/** They are those of the state, of which there are ten a second and sixty frames. */
let laid = {};
function lanesNow() {
  if (laid.state !== lab.state) {
    laid = { state: lab.state, ...lanes() };
    laid.key = JSON.stringify(laid.clients);
  }
  return laid;
}

/** What is drawn already, and moves to the left as time passes: each answer is drawn once, as there may be 2,000 new ones
 *  a second and all of the last 20 seconds are shown in each frame. */
const past = { canvas: document.createElement('canvas'), key: '', until: 0, seq: 0, last: new Map() };

/** Asked of the page when it changes: a question in each frame would have the page laid out for it. */
let room = 0;
new ResizeObserver(([entry]) => { room = Math.round(entry.contentRect.width); }).observe($('lanes').parentElement);

export function draw(offset) {
  const canvas = $('lanes');
  const { clients, known, since, key: named } = lanesNow();
  const width = room || canvas.clientWidth, height = Math.max(1, clients.length) * LANE + 24, scale = devicePixelRatio || 1;
  const now = lab.state.t + offset, pixels = (width - LEFT) * scale / WINDOW_MS;
  const key = [width, height, scale, dark.matches, named].join();
  if (key !== past.key) {
    for (const [each, more] of [[canvas, 0], [past.canvas, EDGE]]) Object.assign(each, { width: Math.round((width + more) * scale), height: Math.round(height * scale) });
    canvas.style.height = `${height}px`;
    Object.assign(past, { key, until: now, seq: 0, last: new Map() });
  }
  // By whole pixels, so that nothing blurs.
  const moved = Math.floor((now - past.until) * pixels);
  if (moved > 0 && !past.seq) past.until = now;
  else if (moved > 0) {
    const pen = past.canvas.getContext('2d');
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.globalCompositeOperation = 'copy';
    pen.drawImage(past.canvas, -moved, 0);
    pen.globalCompositeOperation = 'source-over';
    past.until += moved / pixels;
  }
  const newest = lab.records.at(-1)?.seq ?? 0;
  if (newest > past.seq) answers(clients, known, since, width, scale);
  else if ((moved <= 0 || !past.seq) && past.drawn === key) return;
  past.drawn = key;
  frame(canvas, clients, { width, height, scale, now });
}

/** What came of a call, as it is drawn. */
function outcome({ came, kind, seen_ms }) {
  if (came !== 'ok') return came === 'refused' ? 'refused' : 'unknown';
  return seen_ms > 0 ? 'stale' : kind === 'add' ? 'write' : 'read';
}
$('outcomes').append(...outcomeKeys([['write', 'write answered'], ['read', 'read answered'], ['stale', 'stale answer'], ['refused', 'refused'], ['unknown', 'unknown, or no answer']]));

/** Draws the answers that came since it was called last. */
function answers(clients, known, since, width, scale) {
  const pen = past.canvas.getContext('2d');
  const x = at => LEFT + (at - (past.until - WINDOW_MS)) / WINDOW_MS * (width - LEFT);
  const rows = new Map(clients.map((client, at) => [client.id, at]));
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  let first = lab.records.length;
  while (first > 0 && lab.records[first - 1].seq > past.seq && lab.records[first - 1].end >= since - 2000) first -= 1;
  for (const record of lab.records.slice(first)) {
    const row = rows.get(known.has(record.client) ? record.client : -1);
    const [from, to] = [x(record.start), Math.max(x(record.end), x(record.start) + 2)];
    if (row === undefined || to < LEFT) continue;
    const kind = outcome(record), isMarked = !['write', 'read'].includes(kind);
    // What would lie on what is drawn already is left out.
    const beside = past.last.get(row);
    if (beside?.kind === kind && Math.abs(record.start - beside.start) / WINDOW_MS * (width - LEFT) < (isMarked ? 7 : 1)) continue;
    past.last.set(row, { kind, start: record.start });
    const y = row * LANE + 5;
    drawOutcome(pen, kind, isMarked ? { left: from, top: y, wide: to - from, high: 16 } : { left: from, top: y + 3, wide: to - from, high: 10 }, isMarked);
  }
  past.seq = lab.records.at(-1).seq;
}

/** What stands still, and what was drawn before. */
function frame(canvas, clients, { width, height, scale, now }) {
  const pen = canvas.getContext('2d'), ink = inks(), left = Math.ceil(LEFT * scale);
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (canvas.width > left) pen.drawImage(past.canvas, left, 0, canvas.width - left, canvas.height, left, 0, canvas.width - left, canvas.height);
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.font = '12px system-ui, sans-serif';
  pen.fillStyle = ink.dim;
  pen.strokeStyle = ink.line;
  const x = at => LEFT + (at - (now - WINDOW_MS)) / WINDOW_MS * (width - LEFT);
  for (let s = 0; s <= 20; s += 5) {
    const at = x(now - s * 1000);
    pen.beginPath(); pen.moveTo(at, 0); pen.lineTo(at, height - 18); pen.stroke();
    pen.textAlign = s === 0 ? 'right' : 'center';
    pen.fillText(s ? `−${s} s` : 'now', at, height - 5);
  }
  pen.textAlign = 'left';
  if (!clients.length) pen.fillText('No client runs. Start one above.', LEFT + 8, 16);
  pen.fillStyle = ink.fore;
  clients.forEach((client, at) => pen.fillText(client.name, 2, at * LANE + 17, LEFT - 6));
}

export function list() {
  const box = $('client-list');
  const key = JSON.stringify(lab.state.clients);
  if (box.dataset.key !== key) {
    box.dataset.key = key;
    // Whoever ended a client by the keyboard goes on at its neighbour, or where the next one is started.
    const at = [...box.children].findIndex(each => each.contains(document.activeElement)), id = box.children[at]?.dataset.client;
    box.replaceChildren(...lab.state.clients.map(client => el('li', { 'data-client': client.id }, el('button', { type: 'button', 'aria-label': `${name(client)}, ${client.per_second}/s: end it`,
      onclick: () => lab.do({ do: 'end-client', id: client.id }) }, `${name(client)}, ${client.per_second}/s`, el('span', { 'aria-hidden': 'true' }, ' ✕')))));
    if (at < 0) return;
    const same = [...box.children].find(each => each.dataset.client === id) ?? box.children[Math.min(at, box.childElementCount - 1)];
    (same?.firstElementChild ?? $('new-client').querySelector('button')).focus();
  }
}

export function asTable() {
  const newest = lab.records.slice(-15).reverse();
  fill($('answers-body'), table('Answers', ['asked', 'what', 'came', 'took', 'by', 'applied'], newest.map(record => [
    `${(record.start / 1000).toFixed(2)} s`, `${record.kind === 'add' ? 'add' : `${record.asked} read`} at node ${record.node}`, told(record), ms(record.end - record.start),
    record.by ? `node ${record.by}, ${record.role}` : '–', record.applied ?? '–'])));
}

export function form() {
  const form = $('new-client');
  const select = (label, name, options) => el('label', {}, label, el('select', { name }, options.map(([value, text]) => el('option', { value }, text))));
  const refused = el('span', { role: 'alert' });
  form.replaceChildren(
    select('', 'level', [['', 'adds'], ['linearizable', 'linearizable reads'], ['bounded:200', 'reads bounded to 200 ms'], ['bounded:1000', 'reads bounded to 1 s'], ['session', 'session reads'], ['local', 'local reads']]),
    select('at', 'node', lab.state.nodes.map(node => [node.id, `node ${node.id}`])),
    select('', 'rate', [[2, '2/s'], [5, '5/s'], [20, '20/s'], [100, '100/s'], [500, '500/s']]),
    el('button', {}, 'Start a client'), el('button', { type: 'button', onclick: () => lab.do({ do: 'end-client', id: null }) }, 'End all'), refused);
  form.querySelector('[name=level]').setAttribute('aria-label', 'What it does');
  form.querySelector('[name=rate]').setAttribute('aria-label', 'How often');
  form.rate.value = '5';
  form.onsubmit = event => {
    event.preventDefault();
    refused.textContent = '';
    lab.client(Number(form.node.value), form.level.value, Number(form.rate.value)).catch(error => { refused.textContent = error.message; });
  };
}
