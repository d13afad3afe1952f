// Plays a recording: what it shows at a moment, and how one goes through it.

import { $, cells, dark, drawOutcome, el, fillCells, fillRows, inks, outcomeKeys, roleWords, say, sharp } from './parts.js';
import { KINDS, cluster, kindKeys, pairs } from './cluster.js';
import { cutsAt, end, head, isResting, lastBefore, logAt, numberOf, roleAt, rolesOf, unpack, windowAt, windowsIn } from './recording.js';

const view = { t: 0, span: 6000, playing: false, chosen: null, named: new Set(), node: '', text: '', onlyNamed: false, kinds: KINDS.map(() => true) };
let changed = true, listsAreOld = true;
addEventListener('window-read', () => { changed = listsAreOld = true; });
dark.addEventListener('change', () => { changed = true; });

// ---- the picture
const picture = cluster($('picture'), head.nodes, { label: 'The nodes and the links between them. The table below says the same.' });
let drawn = '';
function drawPicture(t) {
  const cuts = cutsAt(t), roles = new Map(head.nodes.map(node => [node, roleAt(node, t)]));
  const key = JSON.stringify([cuts, ...roles]);
  if (key === drawn) return;
  drawn = key;
  const isCut = (from, to) => cuts.some(cut => cut[0] === from && cut[1] === to);
  for (const [a, b] of pairs(head.nodes)) for (const [from, to] of [[a, b], [b, a]]) picture.way(from, to, { isCut: isCut(from, to) });
  for (const [node, role] of roles) if (role) picture.node(node, { is: role.role, beside: isResting(role) ? '' : `term ${role.term}` });
  picture.show(new Set(head.nodes.filter(node => roles.get(node))));
  $('links').textContent = cuts.length === 0 ? 'All links between nodes are whole.'
    : `Messages are lost: ${cuts.map(([from, to]) => `${from} → ${to}`).join(', ')}.`;
}

const LONGEST_MS = 4000; // of a message on its way
const LOST_MS = 40, LOST_PART = .6; // how long one that is lost is seen, and how far it comes
/** As what a message is drawn: it may have several things in it. */
const kindOf = has => KINDS.findIndex(({ of }, at) => at === KINDS.length - 1 || of.some(word => has & 1 << head.message_words.indexOf(word)));
function drawMessages(t, since) {
  const points = KINDS.map(() => []), lost = [], ways = new Map();
  for (const data of windowsIn(t - LONGEST_MS, t)) {
    const last = lastBefore(data.messages, t, message => message[2]);
    for (let at = last; at >= 0 && data.messages[at][2] > since - LONGEST_MS; at--) {
      const [from, to, sent, took, has] = data.messages[at], isLost = took < 0, lasts = isLost ? LOST_MS : Math.max(took, 1);
      if (sent + lasts < since) continue;
      const kind = kindOf(has);
      if (!view.kinds[kind]) continue;
      const name = isLost ? `lost ${KINDS[kind].name}` : KINDS[kind].name;
      ways.set(name, [...ways.get(name) ?? [], `${from} → ${to}`]);
      const where = picture.at(from, to, Math.min(1, (t - sent) / lasts) * (isLost ? LOST_PART : 1));
      if (where) (isLost ? lost : points[kind]).push(where);
    }
  }
  picture.travel(points, lost);
  // While it plays nobody could read it.
  say($('under-way'), view.playing || !ways.size ? '' : `On their way: ${[...ways].map(([name, each]) => `${name} ${each.join(', ')}`).join('; ')}.`);
}
$('kinds').hidden = !head.message_words.length;
$('kinds').append(...kindKeys((key, kind, at) => el('label', {}, el('input', { type: 'checkbox', checked: true, onchange: event => { view.kinds[at] = event.target.checked; changed = true; } }), ' ', key, kind.name)),
  el('li', {}, el('span', { class: 'key bad', 'aria-hidden': 'true' }, '×'), 'lost'));

const STRIP = 16, strips = []; // entries; one strip for each row
function drawNodes(t) {
  const there = head.nodes.filter(node => roleAt(node, t)), logs = there.map(node => logAt(node, t));
  const newest = Math.max(0, ...logs.map(log => log?.[0] ?? 0));
  fillRows($('nodes'), there.map((node, at) => {
    const { role, term } = roleAt(node, t), log = isResting({ role }) ? null : logs[at];
    strips[at] ??= cells(STRIP);
    fillCells(strips[at], newest - STRIP + 1, log && { last: log[0], committed: log[1], applied: log[2] });
    return [{ head: node }, { word: roleWords(role), leader: role === 'leader' }, { number: term || '' }, ...(log ?? ['', '', '']).map(index => ({ number: index })), { element: strips[at] }];
  }));
}

// ---- lines and calls that are asked for
const isFault = line => line[1] === 'fault';
const isLeader = line => /^leads in term|this node leads/.test(line[2]);
const isBroken = line => line[1] === 'BROKEN';
const lowered = head.lines.map(line => `${line[1]} ${line[2]}`.toLowerCase());
function isAskedLine(at) {
  if (view.node && !head.lines[at][2].includes(`node ${view.node}`) && head.lines[at][1] !== `node ${view.node}`) return false;
  return !view.text || lowered[at].includes(view.text);
}
function isAskedCall(operation) {
  if (view.onlyNamed && !view.named.has(operation.number)) return false;
  if (view.node && `${operation.node}` !== view.node) return false;
  return !view.text || `client ${operation.client} ${operation.text}`.toLowerCase().includes(view.text);
}

// ---- the time line
const ROW = 16, LABEL = 84;
let rows = [];
function drawLanes(t) {
  const from = t - view.span / 2, to = t + view.span / 2;
  const calls = new Map();
  for (const data of windowsIn(from, to)) for (const operation of data.operations) {
    if (operation.from > to || operation.to < from || !isAskedCall(operation)) continue;
    if (!calls.has(operation.client)) calls.set(operation.client, []);
    calls.get(operation.client).push(operation);
  }
  const clients = [...calls.keys()].sort((a, b) => a - b);
  rows = [{ kind: 'faults' }, ...head.nodes.map(node => ({ kind: 'node', node })), ...clients.map(client => ({ kind: 'client', client, calls: calls.get(client) }))];
  const canvas = $('lanes');
  const height = 22 + rows.length * ROW;
  canvas.style.height = `${height}px`;
  const [pen, width] = sharp(canvas, height);
  const x = ms => LABEL + (ms - from) / view.span * (width - LABEL);
  pen.font = '11px system-ui, sans-serif';
  pen.textBaseline = 'middle';
  // The scale.
  const step = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000].find(step => step / view.span * (width - LABEL) > 60) ?? 20000;
  pen.fillStyle = inks().dim;
  pen.strokeStyle = inks().line;
  for (let ms = Math.max(0, Math.ceil(from / step) * step); ms <= Math.min(end, to); ms += step) {
    pen.beginPath(); pen.moveTo(x(ms), 16); pen.lineTo(x(ms), height); pen.stroke();
    pen.fillText(`${ms / 1000} s`, x(ms) + 2, 8);
  }
  pen.save();
  pen.beginPath(); pen.rect(LABEL, 16, width - LABEL, height); pen.clip();
  rows.forEach((row, at) => {
    const y = 18 + at * ROW, middle = y + ROW / 2;
    if (row.kind === 'faults') {
      let free = -Infinity;
      for (const line of head.lines) {
        if (!isFault(line) || line[0] < from - view.span || line[0] > to) continue;
        const left = x(line[0]);
        pen.fillStyle = inks().warn;
        pen.beginPath(); pen.moveTo(left, y + 2); pen.lineTo(left + 7, y + 2); pen.lineTo(left, y + ROW - 3); pen.fill();
        if (left > free) { pen.fillStyle = inks().fore; pen.fillText(line[2].slice(0, 70), left + 10, middle); free = left + 10 + pen.measureText(line[2].slice(0, 70)).width; }
      }
    } else if (row.kind === 'node') {
      const list = rolesOf.get(row.node);
      for (let entry = Math.max(0, lastBefore(list, from)); entry < list.length && list[entry][0] <= to; entry++) {
        const [ms, , role, term] = list[entry];
        const left = Math.max(LABEL, x(ms)), right = Math.min(width, x(list[entry + 1]?.[0] ?? end));
        if (right < LABEL) continue;
        pen.fillStyle = role === 'leader' ? inks().good : role === 'candidate' ? inks().warn : inks().line;
        if (role === 'leader') pen.fillRect(left, y + 2, right - left, ROW - 5);
        else if (role === 'candidate') for (let bar = left; bar < right; bar += 5) pen.fillRect(bar, y + 2, Math.min(3, right - bar), ROW - 5);
        else if (['follower', 'learner'].includes(role)) pen.fillRect(left, middle - 2, right - left, 3);
        pen.fillStyle = role === 'leader' ? inks().back : inks().dim;
        const label = role === 'leader' ? `leader, term ${term}` : role === 'follower' ? '' : role;
        const wide = pen.measureText(label).width;
        if (wide >= right - left - 4) continue;
        if (role === 'candidate') { pen.fillStyle = inks().panel; pen.fillRect(left + 2, y + 1, wide + 4, ROW - 3); pen.fillStyle = inks().warn; }
        pen.fillText(label, left + 4, middle);
      }
    } else for (const operation of row.calls) {
      const left = Math.max(LABEL - 5, x(operation.from)), right = Math.min(width + 5, x(Math.min(operation.to, end))), wide = Math.max(2, right - left);
      drawOutcome(pen, { ok: operation.is_read ? 'read' : 'write', fail: 'refused', unknown: 'unknown' }[operation.status], { left, top: y + 3, wide, high: ROW - 6 });
      if (view.named.has(operation.number) || operation.number === view.chosen) { pen.strokeStyle = inks().fore; pen.lineWidth = 2; pen.strokeRect(left - 1.5, y + 1, wide + 3, ROW - 2); pen.lineWidth = 1; }
    }
  });
  pen.strokeStyle = inks().fore;
  pen.beginPath(); pen.moveTo(x(t), 16); pen.lineTo(x(t), height); pen.stroke();
  pen.restore();
  pen.fillStyle = inks().fore;
  rows.forEach((row, at) => pen.fillText(row.kind === 'faults' ? 'faults' : row.kind === 'node' ? `node ${row.node}` : `client ${row.client}`, 4, 18 + at * ROW + ROW / 2));
}
function hit(event) {
  const canvas = $('lanes'), box = canvas.getBoundingClientRect();
  const ms = view.t - view.span / 2 + (event.clientX - box.left - LABEL) / (box.width - LABEL) * view.span;
  const row = rows[Math.floor((event.clientY - box.top - 18) / ROW)];
  const slack = view.span / (box.width - LABEL) * 3;
  const calls = row?.calls?.filter(operation => operation.from - slack <= ms && ms <= operation.to + slack) ?? [];
  return { ms, operation: calls[calls.length - 1] };
}

function drawOverview() {
  const [pen, width, height] = sharp($('overview'), 26);
  const x = ms => ms / end * width;
  const leaders = head.roles.filter(role => role[2] === 'leader');
  pen.fillStyle = inks().good;
  for (const [ms, node] of leaders) {
    const list = rolesOf.get(node), at = lastBefore(list, ms);
    pen.fillRect(x(ms), 16, Math.max(1, x(list[at + 1]?.[0] ?? end) - x(ms)), 6);
  }
  pen.fillStyle = inks().warn;
  for (const line of head.lines) if (isFault(line)) pen.fillRect(x(line[0]), 6, 2, 8);
  pen.fillStyle = inks().bad;
  for (const broken of head.violations) { pen.beginPath(); pen.moveTo(x(broken.happened_ms) - 5, 0); pen.lineTo(x(broken.happened_ms) + 5, 0); pen.lineTo(x(broken.happened_ms), 9); pen.fill(); }
  pen.fillStyle = inks().fore;
  pen.fillRect(x(view.t), 0, 1, height);
}

// ---- lists
const LINES_MAX = 400, CALLS_MAX = 300;
let asked = [], shownFrom = -1, callsKey = '', shownCalls = [];
function item(list, time, text, marks, go) {
  list.append(el('li', { class: marks, onclick: go }, el('time', {}, (time / 1000).toFixed(3)), text));
}
function drawStory() {
  if (listsAreOld) { asked = head.lines.keys().filter(isAskedLine).toArray(); shownFrom = -1; }
  const now = lastBefore(asked, view.t, at => head.lines[at][0]);
  const first = Math.max(0, Math.min(asked.length - LINES_MAX, Math.floor((now - LINES_MAX / 2) / 100) * 100));
  const list = $('story');
  if (first !== shownFrom) {
    shownFrom = first;
    list.replaceChildren();
    for (const at of asked.slice(first, first + LINES_MAX)) {
      const line = head.lines[at];
      item(list, line[0], `${line[1]}  ${line[2]}`, isBroken(line) ? 'bad' : isFault(line) ? 'fault' : '', () => { go(line[0]); choose(`${line[1]}: ${line[2]}`); });
    }
    $('story-count').textContent = `${asked.length} of ${head.lines.length} lines`;
  }
  const before = list.querySelector('.now'), element = list.children[now - first];
  if (before !== element) {
    before?.classList.remove('now');
    before?.removeAttribute('aria-current');
    if (element) { element.classList.add('now'); element.setAttribute('aria-current', 'time'); list.scrollTop = element.offsetTop - list.offsetTop - list.clientHeight / 2; }
  }
}
function drawCalls() {
  const from = view.t - view.span / 2, to = view.t + view.span / 2;
  const key = `${Math.round(from / 100)} ${view.span} ${view.chosen}`;
  if (!listsAreOld && key === callsKey || view.playing) return;
  callsKey = key;
  const all = [];
  for (const data of windowsIn(from, to)) for (const operation of data.operations) if (operation.from <= to && operation.to >= from && isAskedCall(operation)) all.push(operation);
  all.sort((a, b) => a.from - b.from);
  const now = lastBefore(all, view.t, operation => operation.from);
  const first = Math.max(0, Math.min(all.length, now + CALLS_MAX / 2) - CALLS_MAX);
  shownCalls = all.slice(first, first + CALLS_MAX);
  const list = $('calls');
  list.replaceChildren();
  shownCalls.forEach((operation, at) => {
    const chosen = operation.number === view.chosen;
    const marks = [chosen && 'chosen', view.named.has(operation.number) && 'bad', first + at === now && 'now'].filter(Boolean).join(' ');
    item(list, operation.from, operation.text.slice(1, -1), marks, () => chooseCall(operation));
  });
  const shown = list.querySelector('.chosen') ?? list.querySelector('.now');
  if (shown) list.scrollTop = shown.offsetTop - list.offsetTop - list.clientHeight / 2;
  $('calls-count').textContent = all.length > CALLS_MAX ? `${CALLS_MAX} of the ${all.length} in the span, around this moment` : `${all.length} in the span`;
}
function choose(text) { $('chosen').textContent = text; }
function chooseCall(operation) {
  view.chosen = operation.number;
  choose(`call ${operation.number}: ${operation.text}`);
  listsAreOld = changed = true;
}

// ---- time
let before = 0, drawnAt = 0;
function go(t) {
  view.t = Math.max(0, Math.min(end, t));
  changed = true;
}
function pause() { view.playing = false; $('play').textContent = '▶ play'; listsAreOld = changed = true; }
function play() {
  if (view.playing) return pause();
  if (view.t >= end) view.t = 0;
  view.playing = true;
  $('play').textContent = '❚❚ pause';
}
function frame(real) {
  if (view.playing) {
    go(view.t + Math.min(100, real - before) * Number($('speed').value));
    if (view.t >= end) pause();
  }
  before = real;
  if (changed) {
    changed = false;
    const since = Math.min(drawnAt, view.t);
    drawPicture(view.t);
    drawMessages(view.t, view.playing ? since : view.t);
    drawNodes(view.t);
    drawLanes(view.t);
    drawOverview();
    drawStory();
    drawCalls();
    listsAreOld = false;
    $('now').textContent = `${(view.t / 1000).toFixed(3)} s`;
    $('scrub').value = view.t;
    drawnAt = view.t;
    const address = `#t=${Math.round(view.t)}`;
    if (!view.playing && location.hash !== address) history.replaceState(null, '', address);
  }
  requestAnimationFrame(frame);
}
// To the next line, or the one before, for which a test holds.
function toLine(test, forward = true) {
  const lines = asked.filter(at => test(head.lines[at]));
  const at = lastBefore(lines, forward ? view.t : view.t - .5, at => head.lines[at][0]);
  const line = head.lines[lines[forward ? at + 1 : at]];
  if (!line) return choose(forward ? 'There is no later one.' : 'There is no earlier one.');
  go(line[0]);
  choose(`${(line[0] / 1000).toFixed(3)} s, ${line[1]}: ${line[2]}`);
}
let shownBroken = -1;
function showBroken(at) {
  const broken = head.violations[at];
  if (!broken) return;
  shownBroken = at;
  pause();
  view.named = new Set(broken.operations);
  view.chosen = broken.operations.at(-1) ?? null;
  // Nothing that is asked for hides what it names.
  $('only-named').checked = view.onlyNamed = false;
  $('by-node').value = $('by-text').value = view.node = view.text = '';
  listsAreOld = true;
  go(broken.happened_ms);
  choose(`${broken.kind}: ${broken.what}`);
  $('lanes').scrollIntoView({ block: 'nearest' });
}

// ---- the page
$('outcomes').append(...outcomeKeys([['write', 'write answered'], ['read', 'read answered'], ['refused', 'no effect'], ['unknown', 'unknown']]));
$('about').append(...head.about.split('`').map((part, at) => (at % 2 ? el('code', {}, part) : part)));
$('command').textContent = head.command;
$('digest').textContent = head.digest && `digest ${head.digest}`;
$('verdict').textContent = head.passed ? `✓ every promise was kept in ${end / 1000} ${head.simulated ? 'simulated ' : ''}seconds` : `✕ ${head.violations.length} promise(s) broken`;
$('verdict').classList.add(head.passed ? 'good' : 'bad');
$('scrub').max = end;
for (const node of head.nodes) $('by-node').append(new Option(node, node));
if (head.violations.length) {
  $('broken').hidden = false;
  head.violations.forEach((broken, at) => {
    const asks = broken.operations.length ? `show the ${broken.operations.length} call(s) it names` : 'show where';
    // Long ones scroll, and a region that scrolls has to be reached by the keyboard.
    const label = `Broken promise ${at + 1} of ${head.violations.length}`;
    $('broken').append(el('pre', { tabindex: 0, role: 'group', 'aria-label': label }, `${broken.kind}, noticed at ${broken.at_ms / 1000} s: ${broken.what}`), el('button', { onclick: () => showBroken(at) }, asks));
  });
}
$('play').addEventListener('click', play);
$('previous').addEventListener('click', () => { pause(); toLine(() => true, false); });
$('next').addEventListener('click', () => { pause(); toLine(() => true); });
$('fault').addEventListener('click', () => { pause(); toLine(isFault); });
$('leader').addEventListener('click', () => { pause(); toLine(isLeader); });
$('scrub').addEventListener('input', event => { pause(); go(Number(event.target.value)); });
$('span').addEventListener('change', event => { view.span = Number(event.target.value); changed = true; });
$('by-node').addEventListener('change', event => { view.node = event.target.value; listsAreOld = changed = true; });
$('by-text').addEventListener('input', event => { view.text = event.target.value.toLowerCase().trim(); listsAreOld = changed = true; });
$('only-named').addEventListener('change', event => { view.onlyNamed = event.target.checked; listsAreOld = changed = true; });
$('overview').addEventListener('click', event => { pause(); go(event.offsetX / event.target.clientWidth * end); });
new ResizeObserver(() => { changed = true; }).observe(document.body);
let dragged = null;
$('lanes').addEventListener('pointerdown', event => { dragged = { x: event.clientX, t: view.t, moved: false }; $('lanes').setPointerCapture(event.pointerId); });
$('lanes').addEventListener('pointermove', event => {
  if (!dragged) return;
  const by = event.clientX - dragged.x;
  if (Math.abs(by) < 4 && !dragged.moved) return;
  dragged.moved = true;
  pause();
  go(dragged.t - by / ($('lanes').clientWidth - LABEL) * view.span);
});
$('lanes').addEventListener('pointerup', event => {
  const was = dragged;
  dragged = null;
  if (was?.moved) return;
  const { ms, operation } = hit(event);
  if (operation) chooseCall(operation); else { pause(); go(ms); }
});
$('story').addEventListener('keydown', event => {
  if (!['ArrowUp', 'ArrowDown'].includes(event.key)) return;
  event.preventDefault();
  pause();
  toLine(() => true, event.key === 'ArrowDown');
});
$('calls').addEventListener('keydown', event => {
  if (!['ArrowUp', 'ArrowDown'].includes(event.key)) return;
  event.preventDefault();
  const at = shownCalls.findIndex(operation => operation.number === view.chosen);
  const next = shownCalls[at < 0 ? 0 : at + (event.key === 'ArrowDown' ? 1 : -1)];
  if (next) chooseCall(next);
});
addEventListener('keydown', event => {
  const tag = event.target.tagName;
  if (event.ctrlKey || event.metaKey || event.altKey || tag === 'SELECT' || tag === 'INPUT') return;
  if (event.key === ' ' && tag === 'BUTTON') return;
  // What hangs out of a region is come to by the arrows, Home and End.
  const box = event.target.closest('.scroll');
  if (box && box.scrollWidth > box.clientWidth && /^(Arrow|Home$|End$)/.test(event.key)) return;
  const spans = [...$('span').options].map(option => Number(option.value));
  const other = by => { const at = spans[spans.indexOf(view.span) + by]; if (at) { view.span = at; $('span').value = at; changed = true; } };
  const keys = {
    ' ': play, ArrowLeft: () => $('previous').click(), ArrowRight: () => $('next').click(), ',': () => { pause(); go(view.t - 2); }, '.': () => { pause(); go(view.t + 2); },
    f: () => $('fault').click(), l: () => $('leader').click(), v: () => showBroken((shownBroken + 1) % Math.max(1, head.violations.length)),
    '+': () => other(-1), '-': () => other(1), Home: () => { pause(); go(0); }, End: () => { pause(); go(end); },
  };
  const does = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (does) { does(); event.preventDefault(); }
});

// Where two runs part.
$('other').addEventListener('change', async event => {
  const file = event.target.files[0];
  if (!file) return;
  const told = text => say($('difference'), text);
  const page = new DOMParser().parseFromString(await file.text(), 'text/html');
  const other = await unpack(page, 'head').catch(() => null);
  if (other?.format !== head.format) return told('That is no recording of this format.');
  const shown = line => line ? `${line[1]}: ${line[2]}` : 'nothing more';
  const at = Math.max(head.lines.length, other.lines.length);
  let part = null;
  for (let line = 0; line < at && !part; line++)
    if (`${head.lines[line]}` !== `${other.lines[line]}`) part = { ms: Math.min(head.lines[line]?.[0] ?? Infinity, other.lines[line]?.[0] ?? Infinity), here: shown(head.lines[line]), there: shown(other.lines[line]) };
  for (let number = 0; number * head.window_ms <= (part?.ms ?? end); number++) {
    const [here, there] = await Promise.all([unpack(document, `window-${number}`), unpack(page, `window-${number}`)]);
    const count = Math.max(here?.operations.length ?? 0, there?.operations.length ?? 0);
    let found = false;
    for (let operation = 0; operation < count && !found; operation++) {
      const one = here?.operations[operation], two = there?.operations[operation];
      if (one?.text === two?.text) continue;
      found = true;
      const ms = number * head.window_ms + Math.min(one?.call ?? Infinity, two?.call ?? Infinity);
      if (!part || ms < part.ms) part = { ms, here: one?.text ?? 'nothing', there: two?.text ?? 'nothing' };
    }
    if (found) break;
  }
  if (!part) return told(head.digest === other.digest ? 'Both are the same, to the digest.' : 'Their stories and calls are the same; their digests differ.');
  pause();
  go(part.ms);
  told(`They part at ${(part.ms / 1000).toFixed(3)} s. Here ${part.here}. There ${part.there}.`);
});

const asksFor = Number(new URLSearchParams(location.hash.slice(1)).get('t'));
if (asksFor) go(asksFor); else if (head.violations.length) showBroken(0);
document.body.dataset.ready = 'yes';
requestAnimationFrame(frame);
