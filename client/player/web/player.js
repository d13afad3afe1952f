// Plays the recording that this page holds. Its format is told in client/player/src/lib.rs.
const $ = id => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';

async function unpack(page, id) {
  const element = page.getElementById(id);
  if (!element) return null;
  const packed = atob(element.textContent);
  const bytes = new Uint8Array(packed.length);
  for (let at = 0; at < packed.length; at++) bytes[at] = packed.charCodeAt(at);
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Response(plain).json();
}

const head = await unpack(document, 'head');
const end = head.lasted_ms;
const view = { t: 0, span: 6000, playing: false, chosen: null, named: new Set(), node: '', text: '', onlyNamed: false };

// What is in windows, each read when it is first shown.
const windows = new Map();
function windowAt(number) {
  if (number < 0 || number * head.window_ms > end) return null;
  const known = windows.get(number);
  if (known) return known.data;
  const entry = { data: null };
  windows.set(number, entry);
  unpack(document, `window-${number}`).then(data => {
    if (data) {
      const from = number * head.window_ms;
      for (const operation of data.operations) { operation.from = from + operation.call; operation.to = operation.took === null ? Infinity : operation.from + operation.took; }
      for (const message of data.messages) message[2] += from;
      data.byNode = new Map();
      for (const [ms, node, ...log] of data.logs) {
        if (!data.byNode.has(node)) data.byNode.set(node, []);
        data.byNode.get(node).push([from + ms, ...log]);
      }
    }
    entry.data = data;
    changed = true;
    listsAreOld = true;
  });
  return null;
}
const numberOf = ms => Math.floor(Math.max(0, Math.min(ms, end)) / head.window_ms);
function* windowsIn(from, to) {
  // A call may have begun in the window before.
  for (let number = numberOf(from) - 1; number <= numberOf(to); number++) {
    const data = windowAt(number);
    if (data) yield data;
  }
}

// The index of the last entry whose time (by `ms`) is not after t; -1 if there is none.
function lastBefore(list, t, ms = entry => entry[0]) {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ms(list[middle]) <= t) low = middle + 1; else high = middle;
  }
  return low - 1;
}

const rolesOf = new Map(head.nodes.map(node => [node, head.roles.filter(role => role[1] === node)]));
const roleAt = (node, t) => { const list = rolesOf.get(node); const at = lastBefore(list, t); return at < 0 ? null : { role: list[at][2], term: list[at][3] }; };
const logAt = (node, t) => {
  const list = windowAt(numberOf(t))?.byNode.get(node);
  if (!list) return null;
  const at = lastBefore(list, t);
  return at < 0 ? null : list[at].slice(1);
};
const cutsAt = t => { const at = lastBefore(head.cuts, t); return at < 0 ? [] : head.cuts[at][1]; };
const isResting = role => !role || ['down', 'stopped', 'failed', 'starting', 'paused'].includes(role.role);

// Colours of the page, for what is drawn.
let colours = {};
function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ['back', 'fore', 'dim', 'line', 'panel', 'leader', 'candidate', 'good', 'bad', 'unknown', 'read', 'write'])
    colours[name] = style.getPropertyValue(`--${name}`).trim();
}
readColours();
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { readColours(); changed = true; });

// ---- the picture
const centre = { x: 220, y: 165, r: 118 };
const place = new Map(head.nodes.map((node, at) => {
  const angle = -Math.PI / 2 + (2 * Math.PI * at) / head.nodes.length;
  return [node, { x: centre.x + centre.r * Math.cos(angle) * 1.25, y: centre.y + centre.r * Math.sin(angle) }];
}));
function svg(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}
const WORDS = { leader: '★ leader', candidate: '? candidate', follower: 'follower', learner: 'learner', starting: '… starting', stopped: '■ stopped', paused: '❚❚ paused', down: '✕ down', failed: '✕ ended itself' };
let drawn = '';
function drawPicture(t) {
  const cuts = cutsAt(t);
  const roles = head.nodes.map(node => roleAt(node, t));
  const key = JSON.stringify([cuts, roles]);
  if (key === drawn) return;
  drawn = key;
  const picture = $('picture');
  picture.replaceChildren(svg('title', {}, 'The nodes and the links between them'));
  for (const [at, from] of head.nodes.entries()) for (const to of head.nodes.slice(at + 1)) {
    const roleA = roles[at], roleB = roles[head.nodes.indexOf(to)];
    if (!roleA || !roleB) continue;
    const there = cuts.some(cut => cut[0] === from && cut[1] === to), back = cuts.some(cut => cut[0] === to && cut[1] === from);
    const a = place.get(from), b = place.get(to);
    const line = { x1: a.x, y1: a.y, x2: b.x, y2: b.y, stroke: 'var(--line)', 'stroke-width': 2 };
    if (there || back) Object.assign(line, { stroke: 'var(--bad)', 'stroke-dasharray': '5 5' });
    picture.append(svg('line', line));
    if (there || back) {
      // Beside the node whose messages are lost, or in the middle.
      const share = there && back ? .5 : there ? .3 : .7;
      picture.append(svg('text', { x: a.x + (b.x - a.x) * share, y: a.y + (b.y - a.y) * share + 5, style: 'fill: var(--bad); font-weight: 700; font-size: 18px' }, '✕'));
    }
  }
  for (const [at, node] of head.nodes.entries()) {
    const role = roles[at];
    if (!role) continue;
    const { x, y } = place.get(node);
    const resting = isResting(role);
    const ring = { cx: x, cy: y, r: 34, fill: 'var(--panel)', stroke: 'var(--dim)', 'stroke-width': 2 };
    if (role.role === 'leader') Object.assign(ring, { stroke: 'var(--leader)', 'stroke-width': 5 });
    if (role.role === 'candidate') Object.assign(ring, { stroke: 'var(--candidate)', 'stroke-width': 4, 'stroke-dasharray': '9 4' });
    if (resting) Object.assign(ring, { 'stroke-dasharray': '2 5', fill: 'var(--back)' });
    picture.append(svg('circle', ring));
    picture.append(svg('text', { x, y: y - 6, style: 'font-weight: 700' }, `node ${node}`));
    picture.append(svg('text', { x, y: y + 9, style: 'font-size: 11px' }, WORDS[role.role] ?? role.role));
    if (!resting) picture.append(svg('text', { x, y: y + 23, style: 'font-size: 11px' }, `term ${role.term}`));
  }
  $('links').textContent = cuts.length === 0 ? 'All links between nodes are whole.'
    : `Messages are lost: ${cuts.map(([from, to]) => `${from} → ${to}`).join(', ')}.`;
}

// A canvas as sharp as the screen is.
function sharp(canvas, height) {
  const scale = devicePixelRatio || 1, width = canvas.clientWidth;
  height ??= canvas.clientHeight;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const pen = canvas.getContext('2d');
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  return [pen, width, height];
}

const RING = 36;
const LONGEST_MS = 4000; // of a message on its way
function drawMessages(t, since) {
  const canvas = $('messages');
  const [pen, width] = sharp(canvas);
  const scale = width / 440;
  for (const data of windowsIn(t - LONGEST_MS, t)) {
    const last = lastBefore(data.messages, t, message => message[2]);
    for (let at = last; at >= 0 && data.messages[at][2] > since - LONGEST_MS; at--) {
      const [from, to, sent, took] = data.messages[at];
      const lost = took < 0, lasts = lost ? 40 : Math.max(took, 1);
      if (sent + lasts < since) continue;
      const done = Math.min(1, (t - sent) / lasts) * (lost ? .6 : 1);
      const a = place.get(from), b = place.get(to);
      // From the edge of one circle to that of the other.
      const edge = RING / Math.hypot(b.x - a.x, b.y - a.y);
      const way = edge + done * (1 - 2 * edge);
      const x = (a.x + (b.x - a.x) * way) * scale, y = (a.y + (b.y - a.y) * way) * scale;
      pen.fillStyle = lost ? colours.bad : colours.fore;
      if (lost) { pen.font = '12px system-ui'; pen.fillText('×', x - 4, y + 4); } else { pen.beginPath(); pen.arc(x, y, 2.6, 0, 7); pen.fill(); }
    }
  }
}

const STRIP = 16; // entries
function drawNodes(t) {
  const body = $('nodes').tBodies[0];
  const shown = head.nodes.filter(node => roleAt(node, t));
  while (body.rows.length < shown.length) {
    const row = body.insertRow();
    for (let cell = 0; cell < 6; cell++) row.insertCell();
    row.insertCell().append(document.createElement('canvas'));
  }
  while (body.rows.length > shown.length) body.deleteRow(-1);
  const logs = shown.map(node => logAt(node, t));
  const newest = Math.max(0, ...logs.map(log => log?.[0] ?? 0));
  shown.forEach((node, at) => {
    const role = roleAt(node, t), log = logs[at], cells = body.rows[at].cells;
    const texts = [node, WORDS[role.role] ?? role.role, role.term || '', ...(log && !isResting(role) ? log : ['', '', ''])];
    texts.forEach((text, cell) => { if (cells[cell].textContent !== `${text}`) cells[cell].textContent = text; });
    const [pen, width, height] = sharp(cells[6].firstChild, 12);
    if (!log || isResting(role)) return;
    const [last, committed, applied] = log, wide = width / STRIP;
    for (let cell = 0; cell < STRIP; cell++) {
      const index = newest - STRIP + 1 + cell;
      if (index < 0 || index > last) continue;
      const x = cell * wide;
      pen.strokeStyle = pen.fillStyle = index <= committed ? colours.good : colours.dim;
      if (index <= applied) pen.fillRect(x + .5, .5, wide - 1.5, height - 1);
      else {
        pen.strokeRect(x + 1, 1, wide - 2.5, height - 2);
        if (index <= committed) { pen.beginPath(); pen.moveTo(x + 1, height - 1); pen.lineTo(x + wide - 1.5, 1); pen.stroke(); }
      }
    }
  });
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
  pen.fillStyle = colours.dim;
  pen.strokeStyle = colours.line;
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
        pen.fillStyle = colours.unknown;
        pen.beginPath(); pen.moveTo(left, y + 2); pen.lineTo(left + 7, y + 2); pen.lineTo(left, y + ROW - 3); pen.fill();
        if (left > free) { pen.fillStyle = colours.fore; pen.fillText(line[2].slice(0, 70), left + 10, middle); free = left + 10 + pen.measureText(line[2].slice(0, 70)).width; }
      }
    } else if (row.kind === 'node') {
      const list = rolesOf.get(row.node);
      for (let entry = Math.max(0, lastBefore(list, from)); entry < list.length && list[entry][0] <= to; entry++) {
        const [ms, , role, term] = list[entry];
        const left = Math.max(LABEL, x(ms)), right = Math.min(width, x(list[entry + 1]?.[0] ?? end));
        if (right < LABEL) continue;
        pen.fillStyle = role === 'leader' ? colours.leader : role === 'candidate' ? colours.candidate : colours.line;
        if (role === 'leader') pen.fillRect(left, y + 2, right - left, ROW - 5);
        else if (role === 'candidate') for (let bar = left; bar < right; bar += 5) pen.fillRect(bar, y + 2, Math.min(3, right - bar), ROW - 5);
        else if (['follower', 'learner'].includes(role)) pen.fillRect(left, middle - 2, right - left, 3);
        pen.fillStyle = role === 'leader' ? colours.back : colours.dim;
        const label = role === 'leader' ? `leader, term ${term}` : role === 'follower' ? '' : role;
        if (pen.measureText(label).width < right - left - 4) pen.fillText(label, left + 4, middle);
      }
    } else for (const operation of row.calls) {
      const left = Math.max(LABEL - 5, x(operation.from)), right = Math.min(width + 5, x(Math.min(operation.to, end))), wide = Math.max(2, right - left);
      const colour = operation.status === 'fail' ? colours.bad : operation.status === 'unknown' ? colours.unknown : operation.is_read ? colours.read : colours.write;
      pen.strokeStyle = pen.fillStyle = colour;
      pen.setLineDash(operation.status === 'unknown' ? [3, 2] : []);
      if (operation.status === 'ok' && !operation.is_read) pen.fillRect(left, y + 3, wide, ROW - 6);
      else pen.strokeRect(left + .5, y + 3.5, Math.max(1, wide - 1), ROW - 7);
      pen.setLineDash([]);
      if (operation.status !== 'ok' && wide > 9) pen.fillText(operation.status === 'fail' ? '×' : '?', left + 2, middle);
      if (view.named.has(operation.number) || operation.number === view.chosen) { pen.strokeStyle = colours.fore; pen.lineWidth = 2; pen.strokeRect(left - 1.5, y + 1, wide + 3, ROW - 2); pen.lineWidth = 1; }
    }
  });
  pen.strokeStyle = colours.fore;
  pen.beginPath(); pen.moveTo(x(t), 16); pen.lineTo(x(t), height); pen.stroke();
  pen.restore();
  pen.fillStyle = colours.fore;
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
  pen.fillStyle = colours.leader;
  for (const [ms, node] of leaders) {
    const list = rolesOf.get(node), at = lastBefore(list, ms);
    pen.fillRect(x(ms), 16, Math.max(1, x(list[at + 1]?.[0] ?? end) - x(ms)), 6);
  }
  pen.fillStyle = colours.unknown;
  for (const line of head.lines) if (isFault(line)) pen.fillRect(x(line[0]), 6, 2, 8);
  pen.fillStyle = colours.bad;
  for (const broken of head.violations) { pen.beginPath(); pen.moveTo(x(broken.happened_ms) - 5, 0); pen.lineTo(x(broken.happened_ms) + 5, 0); pen.lineTo(x(broken.happened_ms), 9); pen.fill(); }
  pen.fillStyle = colours.fore;
  pen.fillRect(x(view.t), 0, 1, height);
}

// ---- lists
const LINES_MAX = 400, CALLS_MAX = 300;
let asked = [], listsAreOld = true, shownFrom = -1, callsKey = '', shownCalls = [];
function item(list, time, text, marks, go) {
  const element = document.createElement('li');
  const when = document.createElement('time');
  when.textContent = (time / 1000).toFixed(3);
  element.append(when, text);
  element.className = marks;
  element.addEventListener('click', go);
  list.append(element);
  return element;
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
let changed = true, before = 0, drawnAt = 0;
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
  $('only-named').checked = view.onlyNamed = false;
  go(broken.happened_ms);
  choose(`${broken.kind}: ${broken.what}`);
  $('lanes').scrollIntoView({ block: 'nearest' });
}

// ---- the page
$('about').textContent = head.about;
$('command').textContent = head.command;
$('digest').textContent = head.digest && `digest ${head.digest}`;
$('verdict').textContent = head.passed ? `✓ every promise was kept in ${end / 1000} ${head.simulated ? 'simulated ' : ''}seconds` : `✕ ${head.violations.length} promise(s) broken`;
$('verdict').classList.add(head.passed ? 'good' : 'bad');
$('scrub').max = end;
for (const node of head.nodes) $('by-node').append(new Option(node, node));
if (head.violations.length) {
  $('broken').hidden = false;
  head.violations.forEach((broken, at) => {
    const text = document.createElement('pre');
    text.textContent = `${broken.kind}, noticed at ${broken.at_ms / 1000} s: ${broken.what}`;
    const button = document.createElement('button');
    button.textContent = broken.operations.length ? `show the ${broken.operations.length} call(s) it names` : 'show where';
    button.addEventListener('click', () => showBroken(at));
    $('broken').append(text, button);
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
  const say = text => { $('difference').textContent = text; };
  const page = new DOMParser().parseFromString(await file.text(), 'text/html');
  const other = await unpack(page, 'head').catch(() => null);
  if (other?.format !== head.format) return say('That is no recording of this format.');
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
  if (!part) return say(head.digest === other.digest ? 'Both are the same, to the digest.' : 'Their stories and calls are the same; their digests differ.');
  pause();
  go(part.ms);
  say(`They part at ${(part.ms / 1000).toFixed(3)} s. Here ${part.here}. There ${part.there}.`);
});

const asksFor = Number(new URLSearchParams(location.hash.slice(1)).get('t'));
if (asksFor) go(asksFor); else if (head.violations.length) showBroken(0);
document.body.dataset.ready = 'yes';
requestAnimationFrame(frame);
