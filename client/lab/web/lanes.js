// Answers over time: one lane for each client, writes above reads, so that a stale read is seen as such.

import { el, fill, lab, ms, table, told } from './lab.js';

const WINDOW_MS = 20000, LANE = 26, LEFT = 118;

const name = client => `${client.level || 'adds'} at ${client.node}`;

/** Lanes: running clients, and one for the calls by hand if there were any. */
function lanes() {
  const clients = lab.state.clients.map(client => ({ id: client.id, name: name(client), writes: !client.level }));
  clients.sort((a, b) => b.writes - a.writes || a.id - b.id);
  const since = lab.state.t - WINDOW_MS;
  const known = new Set(clients.map(client => client.id));
  if (lab.records.some(record => record.end > since && !known.has(record.client))) clients.push({ id: -1, name: 'by hand' });
  return { clients, known, since };
}

export function draw(offset) {
  const canvas = document.getElementById('lanes');
  const { clients, known, since } = lanes();
  const width = canvas.clientWidth, height = Math.max(1, clients.length) * LANE + 24, scale = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    Object.assign(canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
    canvas.style.height = `${height}px`;
  }
  const pen = canvas.getContext('2d'), style = getComputedStyle(document.documentElement);
  const ink = key => style.getPropertyValue(`--${key}`);
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = '12px system-ui, sans-serif';
  const now = lab.state.t + offset, x = at => LEFT + (at - (now - WINDOW_MS)) / WINDOW_MS * (width - LEFT);
  pen.fillStyle = ink('dim');
  pen.strokeStyle = ink('line');
  for (let s = 0; s <= 20; s += 5) {
    const at = x(now - s * 1000);
    pen.beginPath(); pen.moveTo(at, 0); pen.lineTo(at, height - 18); pen.stroke();
    pen.textAlign = s === 0 ? 'right' : 'center';
    pen.fillText(s ? `−${s} s` : 'now', at, height - 5);
  }
  pen.textAlign = 'left';
  if (!clients.length) pen.fillText('No client runs. Start one above.', LEFT + 8, 16);
  const rows = new Map(clients.map((client, at) => [client.id, at]));
  clients.forEach((client, at) => { pen.fillStyle = ink('ink'); pen.fillText(client.name, 2, at * LANE + 17, LEFT - 6); });
  const colours = { ok: ink('green'), refused: ink('red'), unknown: ink('amber'), silence: ink('amber') };
  const drawn = new Map();
  for (let at = lab.records.length - 1; at >= 0; at--) {
    const record = lab.records[at];
    if (record.end < since - 2000) break;
    const row = rows.get(known.has(record.client) ? record.client : -1);
    const [from, to] = [Math.max(LEFT, x(record.start)), Math.max(x(record.end), x(record.start) + 2)];
    if (row === undefined || to < LEFT) continue;
    const kind = record.came === 'ok' ? record.seen_ms > 0 ? 'stale' : 'ok' : record.came;
    // What would lie on what is drawn already is left out: 2,000 answers a second are no more to be seen.
    const beside = drawn.get(row);
    if (beside?.kind === kind && beside.from - from < (kind === 'ok' ? 2 : 7)) continue;
    drawn.set(row, { kind, from });
    const y = row * LANE + 5;
    pen.fillStyle = kind === 'stale' ? ink('amber') : colours[kind];
    if (kind === 'ok') { pen.fillRect(from, y + 3, to - from, 10); continue; }
    pen.globalAlpha = .3;
    pen.fillRect(from, y, to - from, 16);
    pen.globalAlpha = 1;
    pen.fillText({ stale: 'S', refused: '×', unknown: '?', silence: '?' }[kind], to - 6, y + 13);
  }
}

export function list() {
  const box = document.getElementById('client-list');
  const key = JSON.stringify(lab.state.clients);
  if (box.dataset.key !== key) {
    box.dataset.key = key;
    box.replaceChildren(...lab.state.clients.map(client => el('li', {}, el('button', { type: 'button', 'aria-label': `${name(client)}, ${client.per_second}/s: end it`,
      onclick: () => lab.do({ do: 'end-client', id: client.id }) }, `${name(client)}, ${client.per_second}/s`, el('span', { 'aria-hidden': 'true' }, ' ✕')))));
  }
}

export function asTable() {
  const newest = lab.records.slice(-15).reverse();
  fill(document.getElementById('answers-body'), table('Answers', ['asked', 'what', 'came', 'took', 'by', 'applied'], newest.map(record => [
    `${(record.start / 1000).toFixed(2)} s`, `${record.kind === 'add' ? 'add' : `${record.asked} read`} at node ${record.node}`, told(record), ms(record.end - record.start),
    record.by ? `node ${record.by}, ${record.role}` : '–', record.applied ?? '–'])));
}

export function form() {
  const form = document.getElementById('new-client');
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
