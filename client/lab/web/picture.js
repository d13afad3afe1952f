// The picture, and what is done to what is chosen in it.

import { fill, lab, table } from './lab.js';
import { WORDS, arrived, count, isBetweenNodes } from './messages.js';
import { KINDS, cluster, pairs, place } from './cluster.js';
import { $, cells, el, fillCells, roleWords, say } from './parts.js';

const chosen = { node: 0, link: '' };
/** What is under way in the picture, by kind. */
const under_way = KINDS.map(() => []);
/** A mark travels for so long; those of one state follow each other, so that none covers another. So many of a kind are
 *  drawn at once: of five nodes each has one on every link. */
const TRAVEL_MS = 450, NEXT_MS = 50, MARKS_MAX = 100;
const still = matchMedia('(prefers-reduced-motion: reduce)');
let picture, isEmpty = true, refill = '';

function choose(node, link) {
  Object.assign(chosen, { node, link });
  refill = '';
  update();
  $('panel').querySelector('button')?.focus();
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
  picture ??= cluster($('picture'), state.nodes.map(node => node.id), { clients: true, choose,
    label: 'Nodes, clients and links. Each node and link is a button; the table below says the same.' });
  for (const each of state.nodes) {
    const is = condition(each), ill = ills(each);
    const term = each.answers ? `term ${each.term}` : is === 'dead' || is === 'paused' ? 'says nothing' : '';
    picture.node(each.id, { is, beside: [term, ill].filter(Boolean).join(' · '), isChosen: chosen.node === each.id,
      name: `node ${each.id} ${is} ${term}; applied ${each.applied}${ill && `; ${ill}`}` });
  }
  const found = {};
  for (const link of state.links) {
    found[`${link.from}-${link.to}`] = link;
    picture.way(link.from, link.to, { isCut: link.cut, said: fault(link) });
    // One mark for each tenth of a second in which something of a kind arrived.
    for (const kind of arrived(link)) if (under_way[kind].length < MARKS_MAX) under_way[kind].push({ ...link, began: performance.now() + kind * NEXT_MS });
  }
  for (const [a, b] of pairs([0, ...state.nodes.map(node => node.id)])) {
    const said = [[a, b], [b, a]].map(([from, to]) => `${place(from)} to ${place(to)} ${fault(found[`${from}-${to}`]) || 'clean'}`);
    picture.link(a, b, { isChosen: chosen.link === `${a}-${b}`, name: `link ${place(a)} and ${place(b)}: ${said.join(', ')}` });
  }
  panel(state, found);
  strips(state);
}

/** Moves the marks; called for each frame. */
export function frame(now) {
  if (!picture) return;
  for (const each of under_way) while (each.length && (now - each[0].began > TRAVEL_MS || still.matches)) each.shift();
  const wasEmpty = isEmpty && !picture.wasFitted();
  isEmpty = under_way.every(each => !each.length);
  if (isEmpty && wasEmpty) return;
  const at = ({ from, to, began }) => now < began ? null : picture.at(from, to, (now - began) / TRAVEL_MS);
  picture.travel(under_way.map(each => each.map(at).filter(Boolean)));
}

function panel(state, links) {
  const box = $('panel');
  const told = doing => doing.catch(error => alert(error.message));
  // The name of a control stays what it is while its text and what it does change with the state.
  const does = (name, text, command) => el('button', { type: 'button', 'data-control': name, onclick: () => told(lab.do(command)) }, text);
  const picks = (name, text, options, pick) => el('label', {}, text, el('select', { 'data-control': name, onchange: event => told(pick(Number(event.target.value))) }, options));
  let content, key;
  if (chosen.node) {
    const { process, disk_full, clock_offset_ms } = lab.node(chosen.node), node = chosen.node;
    key = `node ${node} ${process} ${disk_full} ${clock_offset_ms}`;
    const clock = [-86400000, -3600000, -1000, 0, 1000, 3600000, 86400000];
    content = () => [`Node ${node}: `, process === 'running'
      ? [does('run', 'Kill', { do: 'kill', node }), does('pause', 'Pause', { do: 'pause', node })]
      : does('run', process === 'dead' ? 'Start again' : 'Go on', { do: 'start', node }),
      does('disk', disk_full ? 'Give its disk room' : 'Fill its disk', { do: 'disk', node, full: !disk_full }),
      picks('clock', 'its clock', clock.map(value => el('option', { value, selected: value === clock_offset_ms }, value ? `${far(Math.abs(value))} ${value > 0 ? 'ahead' : 'behind'}` : 'right')),
        offset_ms => lab.do({ do: 'clock', node, offset_ms }))];
  } else if (chosen.link) {
    const [a, b] = chosen.link.split('-').map(Number), ways = [links[`${a}-${b}`], links[`${b}-${a}`]];
    key = `link ${chosen.link} ${ways.map(fault)}`;
    const cut = (from, to, both, is) => does(both ? 'both' : `from ${from}`, `${is ? 'Cut' : 'Heal'} ${both ? 'both ways' : `${place(from)} → ${place(to)}`}`, { do: 'link', from, to, both, cut: is });
    const pick = (name, field, values, unit) => picks(field, name, values.map(value => el('option', { value, selected: ways[0][field] === value }, `${value} ${unit}`)),
      value => lab.link(a, b, { [field]: value }));
    content = () => [`${place(a)} and ${place(b)}: `, cut(a, b, true, !(ways[0].cut && ways[1].cut)), cut(a, b, false, !ways[0].cut),
      cut(b, a, false, !ways[1].cut), pick('slow', 'delay_ms', [0, 20, 50, 100, 200, 500, 1000, 2000], 'ms'), pick('loses', 'loss_percent', [0, 5, 10, 30, 50, 70], '%')];
  } else {
    key = 'none';
    content = () => [el('p', {}, 'Choose a node or a link, by mouse or with Tab and Enter. A mark on a link is a tenth of a second in which such messages arrived.')];
  }
  if (key === refill) return;
  // What was pressed goes with the others: the focus stays on what has its name, or else, as after `Pause`, in this place.
  const had = box.contains(document.activeElement), name = document.activeElement.dataset?.control;
  refill = key;
  box.replaceChildren(el('div', { class: 'row' }, ...content().flat()));
  if (had) (box.querySelector(`[data-control="${name}"]`) ?? box.querySelector('button'))?.focus();
}

const CELLS = 18;
function strips(state) {
  const box = $('nodes');
  if (box.childElementCount !== state.nodes.length) {
    box.replaceChildren(...state.nodes.map(() => el('div', { class: 'strip' }, el('b'), cells(CELLS), el('span', { class: 'said' }))));
  }
  const first = Math.max(0, Math.max(...state.nodes.map(node => node.last)) - CELLS) + 1;
  state.nodes.forEach((node, at) => {
    const [name, strip, said] = box.children[at].children;
    say(name, `node ${node.id} ${roleWords(condition(node))}`);
    fillCells(strip, first, node);
    say(said, node.at === 0 ? '' : `log ${node.last} appended, ${node.committed} committed, ${node.applied} applied${node.answers ? '' : ' (last heard)'}`);
  });
}

/** The same for those who do not see it. */
export function asTable() {
  const { state } = lab;
  fill($('table-body'),
    table('Nodes', ['node', 'is', 'machine', 'term', 'takes for leader', 'appended', 'committed', 'applied', 'process', 'clients at'],
      state.nodes.map(node => [`node ${node.id}`, condition(node), ills(node) || 'well', node.term, node.leader || 'nobody', node.last, node.committed, node.applied, node.pid ?? 'none', node.client_address])),
    table('Links, and the messages between nodes since the scene began', ['link', 'is', ...WORDS], state.links.map(link => [`${place(link.from)} to ${place(link.to)}`, fault(link) || 'clean',
      ...WORDS.map(word => isBetweenNodes(link) ? count(link, word) : '–')])));
}
