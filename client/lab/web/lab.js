// The data: what the lab sends, and what it can be told to do. See docs/lab.md for the interface.

import { $, el, ms } from './parts.js';

const token = document.querySelector('meta[name=lab-token]').content;

/** How many records are kept for the charts, and lines for the list. */
const RECORDS_MAX = 20000, LINES_MAX = 400;

export const lab = {
  state: null, records: [], lines: [], listeners: new Set(), lost: false,
  /** Who led last, also while nobody does. */
  led: 0,

  /** Does a command; a refusal is an error with the lab's words. Commands go one after the other, as two requests of
   *  a page may overtake each other; calls do not wait for each other. */
  do(command) {
    if (command.do === 'call') return this.send(command);
    const done = this.before.then(() => this.send(command));
    this.before = done.catch(() => {});
    return done;
  },
  before: Promise.resolve(),
  async send(command) {
    const response = await fetch('/api/command', {
      method: 'POST', headers: { 'x-lab-token': token }, body: JSON.stringify(command),
    });
    const answer = await response.json().catch(() => ({ error: response.statusText }));
    if (!response.ok) throw new Error(answer.error);
    return answer;
  },
  /** Makes one call to one node; gives its record, whatever came. */
  add(node, more = {}) { return this.do({ do: 'call', node, ...more }); },
  get(node, level, more = {}) { return this.do({ do: 'call', node, level, ...more }); },
  link(from, to, change, both = true) { return this.do({ do: 'link', from, to, both, ...change }); },
  client(node, level = '', per_second = 5, counter = 'hits') {
    return this.do({ do: 'client', node, level, per_second, counter });
  },

  node(id) { return this.state.nodes.find(node => node.id === id); },
  /** Of the nodes that say that they lead, the one of the highest term. */
  leader() {
    return leaders(this.state).sort((a, b) => b.term - a.term)[0]?.id ?? 0;
  },
  followers() { return this.state.nodes.map(node => node.id).filter(id => id !== this.leader()); },
  /** Waits until a fact of the state is so; an error says what did not come about. */
  until(what, fact, ms = 15000) {
    return new Promise((done, fail) => {
      const began = performance.now();
      const look = () => {
        const found = this.state && fact(this.state);
        if (found || performance.now() - began > ms) {
          this.listeners.delete(look);
          found ? done(found) : fail(new Error(`${what}: not within ${ms / 1000} s`));
        }
      };
      this.listeners.add(look);
      look();
    });
  },
  wait(ms) { return new Promise(done => setTimeout(done, ms)); },
  /** The scene of every lesson: healed, all run, one leader, and all followers are up to date. */
  async fresh() {
    await this.do({ do: 'reset' });
    // What the nodes said before that may be of another scene.
    const since = this.state.t + 200;
    await this.until('all nodes answer and one leads', state => isWhole(state) && state.nodes.every(node => node.at > since), 30000);
    return this.leader();
  },
  /** The newest line that has this in it, since a time. */
  line(pattern, since = 0) {
    return this.lines.findLast(line => line.at >= since && line.node > 0 && pattern.test(line.text));
  },
};

/** The lab for as long as something lasts, such as a lesson: afterwards whatever is asked of it throws, as the scene is
 *  another's by then. Commands that were given before go before the reset of the next scene. */
export function labWhile(lasts) {
  const mine = Object.create(lab), check = () => { if (!lasts()) throw new Error('left'); };
  mine.do = command => { check(); return lab.do(command); };
  mine.wait = async ms => { await lab.wait(ms); check(); };
  mine.until = async (...what) => { const found = await lab.until(...what); check(); return found; };
  return mine;
}

const leaders = state => state.nodes.filter(node => node.answers && node.role === 'leader');

export function isWhole(state) {
  const [leader, second] = leaders(state);
  return leader && !second && state.nodes.every(node => node.answers && node.leader === leader.id
    && node.term === leader.term && node.applied >= leader.applied);
}

export function connect() {
  const events = new EventSource('/api/events');
  // What a connection begins with is of before: how the links and nodes were by then, its state does not say.
  let isFirst = true;
  events.onopen = () => { isFirst = true; };
  events.onmessage = message => {
    const told = JSON.parse(message.data);
    if (!told.state.nodes) return;
    // After a connection broke, some come again.
    const [record, line] = [lab.records.at(-1)?.seq ?? 0, lab.lines.at(-1)?.seq ?? 0];
    const records = told.records.filter(each => each.seq > record);
    lab.records.push(...records);
    lab.lines.push(...told.lines.filter(each => each.seq > line));
    if (lab.records.length > RECORDS_MAX) lab.records.splice(0, lab.records.length - RECORDS_MAX);
    if (lab.lines.length > LINES_MAX) lab.lines.splice(0, lab.lines.length - LINES_MAX);
    lab.fresh_records = isFirst ? [] : records;
    isFirst = false;
    lab.fresh_lines = told.lines;
    lab.state = told.state;
    lab.led = lab.leader() || lab.led || told.state.nodes[0].id;
    lab.lost = false;
    for (const listener of [...lab.listeners]) listener();
  };
  events.onerror = () => {
    lab.lost = true;
    $('health').textContent = 'The lab has ended, or is out of reach.';
  };
}

/** Words for what came of a call. */
export function told(record) {
  if (record.came === 'ok') {
    const stale = record.seen_ms > 0 ? `, misses a write acknowledged ${ms(record.seen_ms)} before` : '';
    const proven = record.proven_ms != null ? `, proven no older than ${record.proven_ms} ms` : '';
    return `${record.value}${record.provided ? ` (${record.provided}${proven})` : ''}${record.replayed ? ', replayed' : ''}${stale}`;
  }
  // Without a node's reason no node has said anything.
  const why = record.reason || (['Cancelled', 'DeadlineExceeded'].includes(record.code) ? 'no answer in time' : record.code);
  return { refused: `refused: ${why}`, unknown: `UNKNOWN: ${why}`, silence: `no answer: ${why}` }[record.came];
}

/** Fills a box with tables. Where they have the shape of those that are there, only texts change: who reads them cell
 *  by cell keeps the place. */
export function fill(box, ...tables) {
  const cells = tables => tables.flatMap(each => [...each.querySelectorAll('th, td')]);
  const shape = tables => tables.map(each => each.rows?.length).join();
  const there = [...box.children];
  if (!there.length || shape(there) !== shape(tables)) { box.replaceChildren(...tables); return; }
  const made = cells(tables);
  cells(there).forEach((cell, at) => { if (cell.textContent !== made[at].textContent) cell.textContent = made[at].textContent; });
}

/** A table. */
export function table(caption, heads, rows) {
  return el('table', {}, el('caption', { class: 'unseen' }, caption),
    el('thead', {}, el('tr', {}, heads.map(head => el('th', { scope: 'col' }, head)))),
    el('tbody', {}, rows.map(row => el('tr', {}, row.map((cell, at) => at === 0
      ? el('th', { scope: 'row' }, String(cell)) : el('td', {}, String(cell)))))));
}
