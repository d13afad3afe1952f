// The picture of a cluster: nodes on a ring, between any two places a link in each direction, and what travels on them.

import { el, inks, mark, roleWords, say, svg } from './parts.js';

const W = 520, H = 400, R = 41;

/** Clients are in the middle, and have the number 0. */
export const place = id => id === 0 ? 'clients' : `node ${id}`;
export const pairs = ids => ids.flatMap((a, at) => ids.slice(at + 1).map(b => [a, b]));

function ring(ids) {
  const places = { 0: [W / 2, H / 2 + 12] };
  ids.forEach((id, at) => {
    const angle = (at / ids.length) * 2 * Math.PI - Math.PI / 2;
    places[id] = [W / 2 + 195 * Math.cos(angle), H / 2 + 18 + 145 * Math.sin(angle)];
  });
  return places;
}

/** The ends of a direction: beside the middle, so that both are seen. */
function ends(places, a, b) {
  const [[x1, y1], [x2, y2]] = [places[a], places[b]];
  const long = Math.hypot(x2 - x1, y2 - y1), [ux, uy] = [(x2 - x1) / long, (y2 - y1) / long];
  const [from, to, aside] = [a === 0 ? 42 : R + 3, b === 0 ? 42 : R + 3, 5];
  return [x1 + ux * from + uy * aside, y1 + uy * from - ux * aside, x2 - ux * to + uy * aside, y2 - uy * to - ux * aside];
}

/** The picture of nodes with these numbers, in a box. `clients`: they are in it. `choose` is told of a node (id, '') or a link
 *  (0, 'a-b') that is chosen; without it nothing can be. Gives what it is changed by. */
export function cluster(box, ids, { clients = false, choose, label }) {
  const places = ring(ids), nodes = {}, ways = {}, links = {}, written = new Set(), notes = svg('g', { class: 'notes', 'aria-hidden': 'true' });
  const pressed = action => choose ? { role: 'button', tabindex: 0, onclick: action, onkeydown: event => {
    if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); action(); }
  } } : {};

  function way(from, to) {
    const [x1, y1, x2, y2] = ends(places, from, to), at = .36;
    const line = svg('line', { x1, y1, x2, y2 }), back = Math.atan2(y1 - y2, x1 - x2);
    const tip = [.4, -.4].map(turn => svg('line', { x1: x2, y1: y2, x2: x2 + 9 * Math.cos(back + turn), y2: y2 + 9 * Math.sin(back + turn) }));
    const [x, y] = [x1 + (x2 - x1) * at, y1 + (y2 - y1) * at];
    const chip = svg('rect', { class: 'chip', x: x - 32, y: y - 11, width: 64, height: 22, rx: 5 }), said = svg('text', { x, y: y + 4.5, class: 'mark' });
    notes.append(chip, said);
    ways[`${from}-${to}`] = { line, chip, said, way: [x1, y1, x2, y2], x, y };
    return svg('g', {}, line, tip);
  }
  const drawnLinks = pairs(clients ? [0, ...ids] : ids).map(([a, b]) => {
    const [x1, y1, x2, y2] = [...places[a], ...places[b]];
    return links[`${a}-${b}`] = svg('g', { class: 'link', ...pressed(() => choose(0, `${a}-${b}`)) }, svg('line', { class: 'hit', x1, y1, x2, y2 }), way(a, b), way(b, a));
  });
  const drawnNodes = ids.map(id => {
    const [x, y] = places[id];
    const role = svg('text', { x, y: y + 14, class: 'small role' }), beside = svg('text', { x, y: y + (y < H / 2 ? -R - 10 : R + 21), class: 'small' });
    const group = svg('g', { class: 'node', ...pressed(() => choose(id, '')) },
      svg('circle', { class: 'ring', cx: x, cy: y, r: R + 6 }), svg('circle', { class: 'body', cx: x, cy: y, r: R }), svg('text', { x, y: y - 2 }, `node ${id} `), role, beside);
    nodes[id] = { group, role, beside };
    return group;
  });
  const [x, y] = places[0];
  const middle = clients && svg('g', { class: 'clients' }, svg('rect', { x: x - 40, y: y - 15, width: 80, height: 30, rx: 6 }), svg('text', { x, y: y + 5 }, 'clients'));
  const drawn = svg('svg', { viewBox: `0 0 ${W} ${H}`, role: choose ? 'group' : 'img', 'aria-label': label }, drawnLinks, notes, middle || null, drawnNodes);
  const above = el('canvas', { 'aria-hidden': 'true' });
  let pen = null, isFitted = false;
  // What travels moves in every frame, and nothing else does: it is drawn above the picture, as a change within that would
  // have the browser lay it out and paint it anew.
  new ResizeObserver(([{ contentRect: { width, height } }]) => {
    const scale = Math.min(width / W, height / H), fine = devicePixelRatio || 1;
    Object.assign(above, { width: Math.round(width * fine), height: Math.round(height * fine) });
    Object.assign(above.style, { width: `${width}px`, height: `${height}px` });
    pen = above.getContext('2d');
    pen.setTransform(scale * fine, 0, 0, scale * fine, (width - W * scale) / 2 * fine, (height - H * scale) / 2 * fine);
    isFitted = true;
  }).observe(drawn);
  box.classList.add('cluster');
  box.replaceChildren(drawn, above);

  return {
    /** A node is shown as `is`, with words beside it; `name` is for who does not see it. */
    node(id, { is, beside = '', name, isChosen }) {
      const part = nodes[id];
      mark(part.group, 'class', `node ${is}${isChosen ? ' chosen' : ''}`);
      // Who speaks to the page says what is to be seen, so the name begins with it.
      say(part.role, `${roleWords(is)} `);
      say(part.beside, beside);
      if (name) mark(part.group, 'aria-label', name);
    },
    /** One direction of a link: cut, or with words of what else is wrong with it. */
    way(from, to, { isCut, said = '' }) {
      const part = ways[`${from}-${to}`];
      mark(part.line, 'class', isCut ? 'cut' : said ? 'slow' : '');
      say(part.said, isCut ? '× cut' : said);
      mark(part.chip, 'visibility', isCut || said ? 'visible' : 'hidden');
      if (isCut || said) written.add(part); else written.delete(part);
    },
    /** A link, both ways. */
    link(a, b, { name, isChosen }) {
      mark(links[`${a}-${b}`], 'class', `link${isChosen ? ' chosen' : ''}`);
      if (name) mark(links[`${a}-${b}`], 'aria-label', name);
    },
    /** Nodes that are not there yet are not shown, nor are their links. */
    show(there) {
      const visibility = is => is ? 'visible' : 'hidden';
      for (const id of ids) mark(nodes[id].group, 'visibility', visibility(there.has(id)));
      for (const [a, b] of pairs(ids)) {
        mark(links[`${a}-${b}`], 'visibility', visibility(there.has(a) && there.has(b)));
        if (!there.has(a) || !there.has(b)) for (const [from, to] of [[a, b], [b, a]]) this.way(from, to, {});
      }
    },
    /** Where a message is that has gone a part of its way; nowhere behind what is written on a link. */
    at(from, to, part) {
      const [x1, y1, x2, y2] = ways[`${from}-${to}`].way, x = x1 + (x2 - x1) * part, y = y1 + (y2 - y1) * part;
      for (const chip of written) if (Math.abs(x - chip.x) < 35 && Math.abs(y - chip.y) < 14) return null;
      return [x, y];
    },
    /** Whether it has got another size since it was asked: what travels is to be drawn anew. */
    wasFitted() { const was = isFitted; isFitted = false; return was; },
    /** Draws messages: of each kind, where they are; and what was lost. None before the picture has a size. */
    travel(points, lost = []) {
      if (!pen) return;
      pen.clearRect(-W, -H, 3 * W, 3 * H);
      points.forEach((places, kind) => {
        if (!places.length) return;
        pen.beginPath();
        for (const [x, y] of places) SHAPES[kind](pen, x, y);
        pen.fillStyle = pen.strokeStyle = inks()[KINDS[kind].ink];
        pen.lineWidth = 2;
        if (KINDS[kind].isHollow) pen.stroke(); else pen.fill();
      });
      pen.fillStyle = inks().bad;
      pen.font = 'bold 16px system-ui, sans-serif';
      for (const [x, y] of lost) pen.fillText('×', x - 5, y + 5);
    },
  };
}

/** Messages that are told apart, and how each is drawn. `of` are the words for them in data (docs/lab.md). */
export const KINDS = [
  { name: 'votes', mark: '◆', of: ['votes'], ink: 'warn' },
  { name: 'appends', mark: '■', of: ['appends'], ink: 'accent' },
  { name: 'heartbeats', mark: '○', of: ['heartbeats'], ink: 'good', isHollow: true },
  { name: 'snapshot parts', mark: '▲', of: ['snapshots'], ink: 'fore' },
  { name: 'all else', mark: '•', of: ['answers', 'others'], ink: 'dim' },
];
/** The shape of each kind, around a point: none needs its colour to be told from another. */
const SHAPES = [
  (pen, x, y) => { pen.moveTo(x, y - 7); pen.lineTo(x + 7, y); pen.lineTo(x, y + 7); pen.lineTo(x - 7, y); pen.closePath(); },
  (pen, x, y) => pen.rect(x - 4, y - 4, 8, 8),
  (pen, x, y) => { pen.moveTo(x + 4, y); pen.arc(x, y, 4, 0, 2 * Math.PI); },
  (pen, x, y) => { pen.moveTo(x, y - 6); pen.lineTo(x + 6, y + 5); pen.lineTo(x - 6, y + 5); pen.closePath(); },
  (pen, x, y) => { pen.moveTo(x + 2.5, y); pen.arc(x, y, 2.5, 0, 2 * Math.PI); },
];
/** A legend's entry for each kind; what is behind its name is for the page to say. */
export const kindKeys = more => KINDS.map((kind, at) => el('li', { 'data-kind': kind.name }, more(el('span', { class: `key ${kind.ink}`, 'aria-hidden': 'true' }, kind.mark), kind, at)));
