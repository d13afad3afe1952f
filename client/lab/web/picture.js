// The picture: nodes on a ring, clients in its middle, and between any two places a link in each direction.

import { el, fill, lab, svg, table } from './lab.js';
import { KINDS, WORDS, arrived, count, isBetweenNodes } from './messages.js';

const W = 520, H = 400, R = 38;
const chosen = { node: 0, link: '' };
/** What is under way in the picture, by kind. */
const marks = KINDS.map(() => []);
/** A mark travels for so long; those of one state follow each other, so that none covers another. So many of a kind are
 *  drawn at once: of five nodes each has one on every link. */
const TRAVEL_MS = 450, NEXT_MS = 50, MARKS_MAX = 100;
let places, parts, refill = '';

export const place = id => id === 0 ? 'clients' : `node ${id}`;
const pairs = ids => ids.flatMap((a, at) => ids.slice(at + 1).map(b => [a, b]));

function make(ids) {
  places = { 0: [W / 2, H / 2 + 12] };
  ids.forEach((id, at) => {
    const angle = (at / ids.length) * 2 * Math.PI - Math.PI / 2;
    places[id] = [W / 2 + 195 * Math.cos(angle), H / 2 + 18 + 145 * Math.sin(angle)];
  });
  parts = { links: {}, nodes: {}, notes: svg('g', { class: 'notes', 'aria-hidden': 'true' }) };
  const links = pairs([0, ...ids]).map(link);
  const nodes = ids.map(node);
  const [x, y] = places[0];
  const clients = svg('g', { class: 'clients' }, svg('rect', { x: x - 40, y: y - 15, width: 80, height: 30, rx: 6 }), svg('text', { x, y: y + 5 }, 'clients'));
  const drawn = svg('svg', { viewBox: `0 0 ${W} ${H}`, role: 'group',
    'aria-label': 'Nodes, clients and links. Each node and link is a button; the table below says the same.' },
    links, parts.notes, clients, nodes);
  parts.dots = el('canvas', { class: 'dots', 'aria-hidden': 'true' });
  document.getElementById('picture').replaceChildren(drawn, parts.dots);
  new ResizeObserver(([entry]) => fit(entry.contentRect)).observe(drawn);
}

/** Marks move in every frame, and nothing else does: they are drawn above the picture, as a change within it would have the
 *  browser lay it out and paint it anew. */
function fit({ width, height }) {
  const scale = Math.min(width / W, height / H), fine = devicePixelRatio || 1, { dots } = parts;
  Object.assign(dots, { width: Math.round(width * fine), height: Math.round(height * fine) });
  Object.assign(dots.style, { width: `${width}px`, height: `${height}px` });
  parts.pen = dots.getContext('2d');
  parts.pen.setTransform(scale * fine, 0, 0, scale * fine, (width - W * scale) / 2 * fine, (height - H * scale) / 2 * fine);
}
const still = matchMedia('(prefers-reduced-motion: reduce)'), dark = matchMedia('(prefers-color-scheme: dark)');

/** The ends of a direction: beside the middle, so that both are seen. */
function ends(a, b) {
  const [[x1, y1], [x2, y2]] = [places[a], places[b]];
  const long = Math.hypot(x2 - x1, y2 - y1), [ux, uy] = [(x2 - x1) / long, (y2 - y1) / long];
  const [from, to, aside] = [a === 0 ? 42 : R + 3, b === 0 ? 42 : R + 3, 5];
  return [x1 + ux * from + uy * aside, y1 + uy * from - ux * aside, x2 - ux * to + uy * aside, y2 - uy * to - ux * aside];
}

function pressed(action) {
  return { onclick: action, onkeydown: event => {
    if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); action(); }
  } };
}

function link([a, b]) {
  const way = (from, to) => {
    const [x1, y1, x2, y2] = ends(from, to);
    const line = svg('line', { x1, y1, x2, y2 });
    const back = Math.atan2(y1 - y2, x1 - x2);
    const tip = [0.4, -0.4].map(turn => svg('line', { x1: x2, y1: y2, x2: x2 + 9 * Math.cos(back + turn), y2: y2 + 9 * Math.sin(back + turn) }));
    const at = 0.36;
    const [mx, my] = [x1 + (x2 - x1) * at, y1 + (y2 - y1) * at];
    const chip = svg('rect', { class: 'chip', x: mx - 32, y: my - 11, width: 64, height: 22, rx: 5 });
    const mark = svg('text', { x: mx, y: my + 4.5, class: 'mark' });
    parts.links[`${from}-${to}`] = { line, mark, chip, way: [x1, y1, x2, y2], x: mx, y: my };
    return { body: svg('g', {}, line, tip), note: [chip, mark] };
  };
  const [x1, y1, x2, y2] = [...places[a], ...places[b]];
  const [forth, back] = [way(a, b), way(b, a)];
  const group = svg('g', { class: 'link', role: 'button', tabindex: 0, ...pressed(() => choose(0, `${a}-${b}`)) },
    svg('line', { class: 'hit', x1, y1, x2, y2 }), forth.body, back.body);
  // Beside the buttons: their names say the same.
  parts.notes.append(...forth.note, ...back.note);
  parts.links[`${a}=${b}`] = group;
  return group;
}

function node(id) {
  const [x, y] = places[id];
  const role = svg('text', { x, y: y + 14, class: 'small' }), term = svg('text', { x, y: y + (y < H / 2 ? -R - 10 : R + 21), class: 'small' });
  const group = svg('g', { class: 'node', role: 'button', tabindex: 0, ...pressed(() => choose(id, '')) },
    svg('circle', { class: 'ring', cx: x, cy: y, r: R + 6 }), svg('circle', { class: 'body', cx: x, cy: y, r: R }),
    svg('text', { x, y: y - 2 }, `node ${id} `), role, term);
  parts.nodes[id] = { group, role, term };
  return group;
}

function choose(node, link) {
  Object.assign(chosen, { node, link });
  refill = '';
  update();
  document.getElementById('panel').querySelector('button')?.focus();
}

/** What a node is, in a word. */
export function condition(node) {
  if (node.process === 'dead') return 'dead';
  if (node.process === 'paused') return 'paused';
  return node.answers ? node.role : 'starting';
}
/** What is wrong with its machine. */
export function ills(node) {
  const offset = node.clock_offset_ms, said = [];
  if (node.disk_full) said.push('disk full');
  if (offset) said.push(`clock ${far(Math.abs(offset))} ${offset > 0 ? 'ahead' : 'behind'}`);
  return said.join(', ');
}
export const far = ms => ms >= 86400000 ? `${ms / 86400000} d` : ms >= 3600000 ? `${ms / 3600000} h` : `${ms / 1000} s`;
export function fault(link) {
  const said = [];
  if (link.cut) said.push('cut');
  if (link.delay_ms) said.push(`${link.delay_ms} ms`);
  if (link.loss_percent) said.push(`−${link.loss_percent} %`);
  return said.join(' ');
}

export function update() {
  const { state } = lab;
  if (!parts) { make(state.nodes.map(node => node.id)); strips(state); }
  for (const each of state.nodes) {
    const part = parts.nodes[each.id], is = condition(each);
    attribute(part.group, 'class', `node ${is} ${chosen.node === each.id ? 'chosen' : ''}`);
    const term = each.answers ? `term ${each.term}` : is === 'dead' || is === 'paused' ? 'says nothing' : '', ill = ills(each);
    // Who speaks to the page says what is to be seen, so the name begins with it.
    set(part.role, `${is} `);
    set(part.term, [term, ill].filter(Boolean).join(' · '));
    label(part.group, `node ${each.id} ${is} ${term}; applied ${each.applied}${ill && `; ${ill}`}`);
  }
  const found = {};
  parts.chips = [];
  for (const link of state.links) {
    const part = parts.links[`${link.from}-${link.to}`], said = fault(link);
    found[`${link.from}-${link.to}`] = link;
    attribute(part.line, 'class', link.cut ? 'cut' : said ? 'slow' : '');
    set(part.mark, link.cut ? '× cut' : said);
    attribute(part.chip, 'visibility', said ? 'visible' : 'hidden');
    if (said) parts.chips.push(part);
    // One mark for each tenth of a second in which something of a kind arrived.
    for (const kind of arrived(link)) if (marks[kind].length < MARKS_MAX) marks[kind].push({ way: part.way, began: performance.now() + kind * NEXT_MS });
  }
  for (const [a, b] of pairs([0, ...state.nodes.map(node => node.id)])) {
    const group = parts.links[`${a}=${b}`];
    const said = [[a, b], [b, a]].map(([from, to]) => `${place(from)} to ${place(to)} ${fault(found[`${from}-${to}`]) || 'clean'}`);
    attribute(group, 'class', `link ${chosen.link === `${a}-${b}` ? 'chosen' : ''}`);
    label(group, `link ${place(a)} and ${place(b)}: ${said.join(', ')}`);
  }
  panel(state, found);
  strips(state);
}

function set(element, text) { if (element.textContent !== text) element.textContent = text; }
function attribute(element, name, text) { if (element.getAttribute(name) !== text) element.setAttribute(name, text); }
function label(element, text) { attribute(element, 'aria-label', text); }

/** The shape of each kind, around a point: none needs its colour to be told from another. */
const SHAPES = [
  (pen, x, y) => { pen.moveTo(x, y - 7); pen.lineTo(x + 7, y); pen.lineTo(x, y + 7); pen.lineTo(x - 7, y); pen.closePath(); },
  (pen, x, y) => pen.rect(x - 4, y - 4, 8, 8),
  (pen, x, y) => { pen.moveTo(x + 4, y); pen.arc(x, y, 4, 0, 2 * Math.PI); },
  (pen, x, y) => { pen.moveTo(x, y - 6); pen.lineTo(x + 6, y + 5); pen.lineTo(x - 6, y + 5); pen.closePath(); },
  (pen, x, y) => { pen.moveTo(x + 2.5, y); pen.arc(x, y, 2.5, 0, 2 * Math.PI); },
];

/** Moves the marks; called for each frame. */
export function frame(now) {
  if (!parts?.pen) return;
  for (const each of marks) while (each.length && (now - each[0].began > TRAVEL_MS || still.matches)) each.shift();
  const isClean = marks.every(each => !each.length);
  if (isClean && parts.isClean) return;
  const { pen, chips } = parts;
  pen.clearRect(-W, -H, 3 * W, 3 * H);
  parts.isClean = isClean;
  if (parts.isDark !== dark.matches) {
    const style = getComputedStyle(parts.dots);
    Object.assign(parts, { isDark: dark.matches, inks: KINDS.map(({ ink }) => style.getPropertyValue(`--${ink}`)) });
  }
  marks.forEach((each, kind) => {
    if (!each.length) return;
    pen.beginPath();
    for (const { began, way: [x1, y1, x2, y2] } of each) {
      const part = (now - began) / TRAVEL_MS, x = x1 + (x2 - x1) * part, y = y1 + (y2 - y1) * part;
      // Behind what is written on a link.
      if (part < 0 || chips.some(chip => Math.abs(x - chip.x) < 35 && Math.abs(y - chip.y) < 14)) continue;
      SHAPES[kind](pen, x, y);
    }
    pen.fillStyle = pen.strokeStyle = parts.inks[kind];
    pen.lineWidth = 2;
    if (KINDS[kind].isHollow) pen.stroke(); else pen.fill();
  });
}

function panel(state, links) {
  const box = document.getElementById('panel');
  const does = (text, command) => el('button', { type: 'button', onclick: () => lab.do(command).catch(error => alert(error.message)) }, text);
  let content, key;
  if (chosen.node) {
    const { process, disk_full, clock_offset_ms } = lab.node(chosen.node), node = chosen.node;
    key = `node ${node} ${process} ${disk_full} ${clock_offset_ms}`;
    const clock = [-86400000, -3600000, -1000, 0, 1000, 3600000, 86400000];
    content = () => [`Node ${node}: `, process === 'running'
      ? [does('Kill', { do: 'kill', node }), does('Pause', { do: 'pause', node })]
      : does(process === 'dead' ? 'Start again' : 'Go on', { do: 'start', node }),
      does(disk_full ? 'Give its disk room' : 'Fill its disk', { do: 'disk', node, full: !disk_full }),
      el('label', {}, 'its clock', el('select', { onchange: event => lab.do({ do: 'clock', node, offset_ms: Number(event.target.value) }) },
        clock.map(value => el('option', { value, selected: value === clock_offset_ms }, value ? `${far(Math.abs(value))} ${value > 0 ? 'ahead' : 'behind'}` : 'right'))))];
  } else if (chosen.link) {
    const [a, b] = chosen.link.split('-').map(Number), ways = [links[`${a}-${b}`], links[`${b}-${a}`]];
    key = `link ${chosen.link} ${ways.map(fault)}`;
    const cut = (from, to, both, is) => does(`${is ? 'Cut' : 'Heal'} ${both ? 'both ways' : `${place(from)} → ${place(to)}`}`, { do: 'link', from, to, both, cut: is });
    const pick = (name, field, values, unit) => el('label', {}, name, el('select', { onchange: event =>
      lab.link(a, b, { [field]: Number(event.target.value) }) }, values.map(value => el('option', { value, selected: ways[0][field] === value }, `${value} ${unit}`))));
    content = () => [`${place(a)} and ${place(b)}: `, cut(a, b, true, !(ways[0].cut && ways[1].cut)), cut(a, b, false, !ways[0].cut),
      cut(b, a, false, !ways[1].cut), pick('slow', 'delay_ms', [0, 20, 50, 100, 200, 500, 1000, 2000], 'ms'), pick('loses', 'loss_percent', [0, 5, 10, 30, 50, 70], '%')];
  } else {
    key = 'none';
    content = () => [el('p', {}, 'Choose a node or a link, by mouse or with Tab and Enter. A mark on a link is a tenth of a second in which such messages arrived.')];
  }
  if (key === refill) return;
  // The button that was pressed goes with the others: the focus stays in this place.
  const had = box.contains(document.activeElement);
  refill = key;
  box.replaceChildren(el('div', { class: 'row' }, ...content().flat()));
  if (had) box.querySelector('button')?.focus();
}

const CELLS = 18;
function strips(state) {
  const box = document.getElementById('nodes');
  if (box.childElementCount !== state.nodes.length) {
    box.replaceChildren(...state.nodes.map(() => el('div', { class: 'strip' }, el('b'), el('span', { class: 'cells', 'aria-hidden': 'true' },
      Array.from({ length: CELLS }, () => el('i'))), el('span', { class: 'said' }))));
  }
  const last = Math.max(...state.nodes.map(node => node.last)), first = Math.max(0, last - CELLS) + 1;
  state.nodes.forEach((node, at) => {
    const [name, cells, said] = box.children[at].children;
    set(name, `node ${node.id} ${condition(node)}`);
    [...cells.children].forEach((cell, slot) => {
      const index = first + slot;
      const kind = index > node.last ? 'none' : index <= node.applied ? 'applied' : index <= node.committed ? 'committed' : 'appended';
      if (cell.className !== kind) cell.className = kind;
    });
    set(said, node.at === 0 ? '' : `log ${node.last} appended, ${node.committed} committed, ${node.applied} applied${node.answers ? '' : ' (last heard)'}`);
  });
}

/** The same for those who do not see it. */
export function asTable() {
  const { state } = lab;
  fill(document.getElementById('table-body'),
    table('Nodes', ['node', 'is', 'machine', 'term', 'takes for leader', 'appended', 'committed', 'applied', 'process', 'clients at'],
      state.nodes.map(node => [`node ${node.id}`, condition(node), ills(node) || 'well', node.term, node.leader || 'nobody', node.last, node.committed, node.applied, node.pid ?? 'none', node.client_address])),
    table('Links, and the messages between nodes since the scene began', ['link', 'is', ...WORDS], state.links.map(link => [`${place(link.from)} to ${place(link.to)}`, fault(link) || 'clean',
      ...WORDS.map(word => isBetweenNodes(link) ? count(link, word) : '–')])));
}
