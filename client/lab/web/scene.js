// A scene in an address: links that are not clean, nodes that are not well, and clients. In terms of who leads, as
// another cluster has another leader: 0 are clients, 1 is the leader, then its followers.

import { lab } from './lab.js';
import * as messages from './messages.js';
import * as meters from './meters.js';
import * as plan from './plan.js';

/** What the lab takes, as docs/lab.md has it. */
const DELAY_MS_MAX = 5000, LOSS_PERCENT_MAX = 90, PER_SECOND_MAX = 500, CLOCK_MS_MAX = 10 * 366 * 86400000, CLIENTS_MAX = 32;
const LEVEL = /^(|linearizable|session|local|bounded:[1-9]\d{0,8})$/;

const order = () => [0, lab.led, ...lab.state.nodes.map(node => node.id).filter(id => id !== lab.led)];

/** The scene of now, as an address has it. */
export function now() {
  const places = order(), at = id => places.indexOf(id);
  const links = lab.state.links.filter(link => link.cut || link.delay_ms || link.loss_percent)
    .map(link => [at(link.from), at(link.to), Number(link.cut), link.delay_ms, link.loss_percent].join('.'));
  const nodes = lab.state.nodes.flatMap(node => [node.process !== 'running' && node.process, node.disk_full && 'full', node.clock_offset_ms && `clock${node.clock_offset_ms}`]
    .filter(Boolean).map(is => `${at(node.id)}.${is}`));
  const clients = lab.state.clients.map(client => `${at(client.node)}.${client.per_second}.${client.level}`);
  return [links, nodes, clients].map(each => each.join('_')).join('~');
}

/** What is done to set the scene of an address: a list of commands, whose nodes are places. Throws where a part is none,
 *  before anything is done. */
export function read(text) {
  if (!text) throw new Error('there is none in it');
  const parts = decodeURIComponent(text).split('~').map(each => each.split('_').filter(Boolean)), last = lab.state.nodes.length;
  if (parts.length > 3) throw new Error('it has more than links, nodes and clients');
  const [links, nodes = [], clients = []] = parts;
  if (clients.length > CLIENTS_MAX) throw new Error(`${CLIENTS_MAX} clients are enough`);
  const whole = (text, least, most, part) => {
    if (!/^-?\d{1,15}$/.test(text ?? '') || Number(text) < least || Number(text) > most) throw new Error(`“${part}”: ${text ?? 'nothing'} is not from ${least} to ${most}`);
    return Number(text);
  };
  const commands = [];
  for (const part of clients) {
    const [node, rate, level, more] = part.split('.');
    if (!LEVEL.test(level ?? '?') || more != null) throw new Error(`“${part}” is no client`);
    commands.push({ do: 'client', node: whole(node, 1, last, part), level, per_second: whole(rate, 1, PER_SECOND_MAX, part), counter: 'hits' });
  }
  for (const part of links) {
    const [from, to, cut, delay, loss, more] = part.split('.');
    if (from === to || more != null) throw new Error(`“${part}” is no link`);
    commands.push({ do: 'link', from: whole(from, 0, last, part), to: whole(to, 0, last, part), both: false, cut: whole(cut, 0, 1, part) === 1,
      delay_ms: whole(delay, 0, DELAY_MS_MAX, part), loss_percent: whole(loss, 0, LOSS_PERCENT_MAX, part) });
  }
  for (const part of nodes) {
    const [at, is, more] = part.split('.'), node = whole(at, 1, last, part);
    if (more == null && is === 'full') commands.push({ do: 'disk', node, full: true });
    else if (more == null && is?.startsWith('clock')) commands.push({ do: 'clock', node, offset_ms: whole(is.slice(5), -CLOCK_MS_MAX, CLOCK_MS_MAX, part) });
    else if (more == null && (is === 'dead' || is === 'paused')) commands.push({ do: is === 'dead' ? 'kill' : 'pause', node });
    else throw new Error(`“${part}” is nothing that a node can be`);
  }
  return commands;
}

/** Sets it, in a lab that is healed first. `mine` is the lab for as long as the address stays. */
export async function set(commands, mine) {
  await mine.fresh();
  messages.forget();
  meters.forget();
  plan.forget();
  const places = order();
  for (const command of commands) {
    const at = Object.fromEntries(['node', 'from', 'to'].filter(name => name in command).map(name => [name, places[command[name]]]));
    await mine.do({ ...command, ...at });
  }
}
