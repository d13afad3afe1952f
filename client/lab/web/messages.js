// What travels between nodes, by what it is: since the state before for the picture, since the scene began for words.

import { lab } from './lab.js';
import { KINDS, kindKeys } from './cluster.js';
import { $, el, say } from './parts.js';

const REST = KINDS.length - 1;

/** Words of the table, in its order. */
export const WORDS = ['votes', 'appends', 'heartbeats', 'answers', 'snapshots', 'others'];

/** Of each link: what it had carried as of the newest state, and when the scene began; and what came between two states. */
let last = new Map(), scene = new Map(), fresh = new Map();

const name = ({ from, to }) => `${from}-${to}`;
export const isBetweenNodes = ({ from, to }) => from !== 0 && to !== 0;

/** Called for each state, before it is drawn. */
export function gather() {
  for (const link of lab.state.links) {
    const { carried, bytes } = link, key = name(link), before = last.get(key) ?? carried;
    const kinds = KINDS.flatMap(({ of }, at) => of.some(word => carried[word] > before[word]) ? [at] : []);
    // Bytes that are none of these: of clients, or with which no message became whole.
    fresh.set(key, kinds.length || !bytes ? kinds : [REST]);
    last.set(key, carried);
    if (!scene.has(key)) scene.set(key, carried);
  }
  said();
}

/** Which kinds arrived over a link since the state before. */
export const arrived = link => fresh.get(name(link)) ?? [];

/** How many messages of a word arrived over a link since the scene began. */
export const count = (link, word) => link.carried[word] - scene.get(name(link))[word];

/** A scene begins now. */
export function forget() {
  scene = new Map(last);
  if (lab.state) said();
}

/** What the marks mean, with the number of each since the scene began. */
function said() {
  const list = $('kinds');
  if (!list.childElementCount) {
    list.append(...kindKeys((key, kind) => [key, `${kind.name} `, el('b')]));
  }
  KINDS.forEach(({ of }, at) => {
    let sum = 0;
    for (const link of lab.state.links) for (const word of of) sum += count(link, word);
    say(list.children[at].lastElementChild, sum);
  });
}
