// What was done since the last reset, as a plan: `tally-sim replay 1 --plan FILE` does the same to a simulated cluster,
// the same way each time, and `tallyd chaos --plan FILE` to a real one while tests run.

import { lab } from './lab.js';

/** From one state of the lab to the next; faults that differ by less began together. */
const TURN_MS = 250;

let spans = [], open = new Map(), began = 0;

/** What is wrong now, each under a name of its own. */
function faults({ nodes, links }) {
  const found = new Map(), ids = nodes.map(node => node.id), cut = new Set(links.filter(link => link.cut).map(link => `${link.from}-${link.to}`));
  const alone = ids.filter(id => ids.every(other => other === id || (cut.has(`${id}-${other}`) && cut.has(`${other}-${id}`))));
  const covered = (from, to) => alone.includes(from) || alone.includes(to);
  if (alone.length === ids.length) found.set('cut all', { word: 'cut all' });
  // Of two, each is alone.
  else for (const id of alone) found.set(`cut ${id}`, { word: 'cut', node: id });
  for (const link of links) {
    const { from, to, delay_ms, loss_percent } = link, clients = from === 0 || to === 0, node = from || to;
    if (link.cut && clients) {
      const both = cut.has(`${to}-${from}`);
      found.set(`clients ${node}`, { word: 'cut-clients', node, only: both ? '' : `only ${from ? 'its answers were cut' : 'requests to it were cut'}` });
    } else if (link.cut && !covered(from, to)) found.set(`one-way ${from} ${to}`, { word: 'one-way', node: from, to });
    if (delay_ms) found.set(`slow ${node} ${delay_ms}`, { word: 'slow', node, more: `${delay_ms}ms` });
    if (loss_percent) found.set(`lossy ${node} ${loss_percent}`, { word: 'lossy', node, more: `${loss_percent}%` });
  }
  for (const { id, process, disk_full, clock_offset_ms: ms } of nodes) {
    if (process === 'dead') found.set(`kill ${id}`, { word: 'kill', node: id });
    if (process === 'paused') found.set(`pause ${id}`, { word: 'pause', node: id });
    if (disk_full) found.set(`full ${id}`, { word: 'full-disk', node: id });
    if (ms) found.set(`clock ${id} ${ms}`, { word: 'clock', node: id, more: `${ms > 0 ? '+' : '-'}${Math.abs(ms)}ms` });
  }
  return found;
}

/** To be called for each state. */
export function gather() {
  const { state } = lab, now = faults(state);
  for (const [name, fault] of now) {
    // Who led when it began: another cluster has another leader.
    if (!open.has(name)) open.set(name, { ...fault, from: state.t, leader: lab.leader() });
  }
  for (const [name, fault] of open) {
    if (now.has(name)) continue;
    open.delete(name);
    spans.push({ ...fault, until: state.t });
  }
}

/** Begins anew. */
export function forget() {
  spans = [];
  open = new Map();
  began = lab.state?.t ?? 0;
}

/** The plan, or nothing if nothing was done. */
export function plan() {
  const all = [...spans, ...[...open.values()].map(fault => ({ ...fault, until: lab.state.t }))].sort((a, b) => a.from - b.from);
  if (!all.length) return '';
  const time = ms => `${Math.max(0, Math.round(ms / 100) * 100)}ms`;
  const lines = all.map(({ word, node, to, more, only, from, until, leader }) => {
    const who = id => id === leader ? 'leader' : `node ${id}`;
    const whom = node ? ` ${who(node)}` : '';
    return `at ${time(from - began)} for ${time(Math.max(until - from, TURN_MS))} ${word}${whom}${to ? ` to ${who(to)}` : ''}${more ? ` ${more}` : ''}${only ? `   # ${only}` : ''}`;
  });
  return ['# What was done in the lab. The same to a simulated cluster, the same way each time:', '#   tally-sim replay 1 --plan FILE', ...new Set(lines)].join('\n') + '\n';
}
