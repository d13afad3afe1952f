// What was done since the last reset, as a plan: `tally-sim replay 1 --plan FILE` does the same to a simulated cluster,
// the same way each time, and `tallyd chaos --plan FILE` to a real one while tests run. It speaks of the leader and of
// the first to the last follower as they were when a fault began, and of no node by its id: elsewhere another one leads,
// and a plan with ids would cut other links there.

import { lab } from './lab.js';

/** From one state of the lab to the next; faults that differ by less began together. */
const TURN_MS = 250;

let spans = [], open = new Map(), before = new Set(), latest = null;

/** What is wrong now, each under a name of its own. */
function faults({ nodes, links }) {
  const found = new Map(), ids = nodes.map(node => node.id), cut = new Set(links.filter(link => link.cut).map(link => `${link.from}-${link.to}`));
  const alone = ids.filter(id => ids.every(other => other === id || (cut.has(`${id}-${other}`) && cut.has(`${other}-${id}`))));
  const covered = (from, to) => alone.includes(from) || alone.includes(to);
  if (alone.length === ids.length) found.set('cut all', { word: 'cut all' });
  // Of two, each is alone.
  else for (const id of alone) found.set(`cut ${id}`, { word: 'cut', node: id });
  for (const link of links) {
    const { from, to } = link, clients = from === 0 || to === 0, node = from || to;
    if (link.cut && clients) {
      const both = cut.has(`${to}-${from}`);
      found.set(`clients ${node}`, { word: 'cut-clients', node, only: both ? '' : `only ${from ? 'its answers were cut' : 'requests to it were cut'}` });
    } else if (link.cut && !covered(from, to)) found.set(`one-way ${from} ${to}`, { word: 'one-way', node: from, to });
  }
  worse(found, ids, links, 'slow', 'delay_ms', 'ms');
  worse(found, ids, links, 'lossy', 'loss_percent', '%');
  for (const { id, process, disk_full, clock_offset_ms: ms } of nodes) {
    if (process === 'dead') found.set(`kill ${id}`, { word: 'kill', node: id });
    if (process === 'paused') found.set(`pause ${id}`, { word: 'pause', node: id });
    if (disk_full) found.set(`full ${id}`, { word: 'full-disk', node: id });
    if (ms) found.set(`clock ${id} ${ms}`, { word: 'clock', node: id, more: `${ms > 0 ? '+' : '-'}${Math.abs(ms)}ms` });
  }
  return found;
}

/** Links that are slow, or lose. A plan says so of all links between a node and the others, and of a node's answers to
 *  clients; what was less than that is told beside it. */
function worse(found, ids, links, word, field, unit) {
  const by = Object.fromEntries(links.map(link => [`${link.from}-${link.to}`, link[field]]));
  const around = {};
  for (const id of ids) {
    const values = new Set(ids.filter(other => other !== id).flatMap(other => [by[`${id}-${other}`], by[`${other}-${id}`]]));
    if (values.size === 1) [around[id]] = values;
  }
  const say = (node, value, only, as = word) => found.set(`${as} ${node} ${value} ${only}`, { word: as, node, more: `${value}${unit}`, only });
  for (const id of ids) {
    const [asked, answered] = [by[`0-${id}`], by[`${id}-0`]], value = Math.max(asked, answered);
    if (around[id]) say(id, around[id], '');
    if (!value) continue;
    const which = asked && answered ? 'requests of clients to it and its answers' : asked ? 'requests of clients to it' : 'its answers to clients';
    if (word === 'slow') say(id, value, asked ? `in the lab ${which}` : '', 'slow-answers');
    else found.set(`${word} clients ${id} ${value}`, { word: `no word for: node ${id}, of ${which} ${value} % were lost` });
  }
  for (const a of ids) for (const b of ids) {
    const [forth, back] = [by[`${a}-${b}`], by[`${b}-${a}`]], value = Math.max(forth, back);
    if (a > b || !value || [a, b].some(id => around[id] >= value)) continue;
    const how = forth === back ? 'both ways' : forth && back ? 'and less the other way' : 'one way';
    const [from, to] = forth >= back ? [a, b] : [b, a];
    say(from, value, `in the lab to node ${to} alone, ${how}`);
  }
}

/** To be called for each state. */
export function gather() {
  const { state } = lab, now = faults(state);
  for (const name of before) if (!now.has(name)) before.delete(name);
  for (const [name, fault] of now) {
    if (open.has(name) || before.has(name)) continue;
    // Those of one deed have one time, and mean the same nodes.
    if (!latest || state.t - latest.from > TURN_MS) latest = { from: state.t, leader: lab.led };
    open.set(name, { ...fault, ...latest });
  }
  for (const [name, fault] of open) {
    if (now.has(name)) continue;
    open.delete(name);
    spans.push({ ...fault, until: state.t });
  }
}

/** Begins anew. What is wrong at this moment was done before, and is no part of it for as long as it lasts. */
export function forget() {
  spans = [];
  open = new Map();
  before = new Set(lab.state ? faults(lab.state).keys() : []);
  latest = null;
}

/** The plan, or nothing if nothing was done. */
export function plan() {
  const all = [...spans, ...[...open.values()].map(fault => ({ ...fault, until: lab.state.t }))].sort((a, b) => a.from - b.from);
  if (!all.length) return '';
  const time = ms => `${Math.max(0, Math.round(ms / 100) * 100)}ms`, ids = lab.state.nodes.map(node => node.id), began = all[0].from;
  const lines = all.map(({ word, node, to, more, only, from, until, leader }) => {
    const role = id => id === leader ? 'leader' : `follower ${ids.filter(other => other !== leader).indexOf(id) + 1}`;
    const named = text => text.replace(/node (\d+)/, (_, id) => role(Number(id)));
    const at = `at ${time(from - began)} for ${time(Math.max(until - from, TURN_MS))}`;
    if (word.startsWith('no word')) return `# ${at} ${named(word)}`;
    return `${at} ${word}${node ? ` ${role(node)}` : ''}${to ? ` to ${role(to)}` : ''}${more ? ` ${more}` : ''}${only ? `   # ${named(only)}` : ''}`;
  });
  const nodes = ids.length === 3 ? '' : ` --nodes ${ids.length}`;
  return ['# What was done in the lab. The same to a simulated cluster, the same way each time, and to a real one beside tests:',
    '#   tally-sim replay 1 --plan FILE', `#   tallyd chaos${nodes} --plan FILE -- COMMAND`, ...new Set(lines)].join('\n') + '\n';
}
