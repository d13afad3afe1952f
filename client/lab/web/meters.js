// Meters for each level, and where each lies between availability, latency and consistency: all measured.

import { fill, lab, table } from './lab.js';
import { $, el, ms, say, svg } from './parts.js';

export function meters() {
  const { meters } = lab.state, box = $('meters');
  const share = meter => `${Math.round(100 * meter.answered / meter.asked)} % of ${meter.asked}`;
  fill(box, meters.length ? table('Meters', ['asked for', 'answered', 'refused', 'no word', 'p50', 'p99', 'stalest seen', 'oldest proven'],
    meters.map(meter => [meter.what === 'add' ? 'adds' : meter.what, share(meter), meter.refused, meter.silent, ms(meter.p50), ms(meter.p99),
      meter.what === 'add' ? '–' : ms(meter.seen_max), ms(meter.proven_max)])) : el('p', {}, 'Nothing was asked. Start a client.'));
  const broken = meters.filter(meter => meter.understated);
  say($('broken'), broken.length ? `A promise was broken: ${broken.map(meter => `${meter.understated} answers at ${meter.what} were staler than proven`).join('; ')}.` : '');
}

// What was measured while nothing was wrong, and while something was: by level.
const sums = new Map();
const KEPT = 500;

const isFaulty = state => state.links.some(link => link.cut) || state.nodes.some(node => node.process !== 'running');

export function gather() {
  const faulty = isFaulty(lab.state);
  for (const record of lab.fresh_records) {
    if (!record.client) continue;
    const what = record.kind === 'add' ? 'adds' : record.asked;
    if (!sums.has(what)) sums.set(what, { asked: 0, answered: 0, seen: 0, latencies: [] });
    const sum = sums.get(what);
    if (faulty) {
      sum.asked += 1;
      sum.answered += record.came === 'ok';
      sum.seen = Math.max(sum.seen, record.seen_ms ?? 0);
    } else if (record.came === 'ok') {
      sum.latencies.push(record.end - record.start);
      if (sum.latencies.length > KEPT) sum.latencies.shift();
    }
  }
}
export const forget = () => sums.clear();

const median = values => values.toSorted((a, b) => a - b)[values.length >> 1];

/** Right: answers while the network is cut (A); up: answers fast while it is not (L). */
export function quadrant() {
  const W = 560, H = 300, L = 70, B = 44, LETTER = 7.2, box = $('quadrant');
  const points = [...sums].filter(([, sum]) => sum.asked >= 10 && sum.latencies.length >= 10).map(([what, sum]) =>
    ({ what, share: sum.answered / sum.asked, latency: median(sum.latencies), seen: sum.seen }));
  const open = [...sums].filter(([what]) => !points.some(point => point.what === what));
  const y = latency => 30 + (H - B - 50) * Math.min(1, Math.max(0, Math.log10(latency / .3) / Math.log10(1000 / .3)));
  const x = share => L + 15 + (W - L - 150) * share;
  const taken = [];
  const drawn = svg('svg', { viewBox: `0 0 ${W} ${H}`, role: 'img', 'aria-label': `Measured: ${points.map(point =>
    `${point.what}: ${Math.round(point.share * 100)} % answered under faults, ${ms(point.latency)} without, stalest ${ms(point.seen)}`).join('; ') || 'nothing yet'}` },
  svg('line', { class: 'axis', x1: L, y1: H - B, x2: W - 10, y2: H - B }), svg('line', { class: 'axis', x1: L, y1: 10, x2: L, y2: H - B }),
  [.5, 5, 50, 500].map(at => [svg('line', { class: 'grid', x1: L, x2: W - 10, y1: y(at), y2: y(at) }), svg('text', { class: 'small', x: L - 6, y: y(at) + 4, 'text-anchor': 'end' }, `${at} ms`)]),
  [0, .5, 1].map(at => [svg('line', { class: 'grid', x1: x(at), x2: x(at), y1: 10, y2: H - B }), svg('text', { class: 'small', x: x(at), y: H - B + 16, 'text-anchor': 'middle' }, `${at * 100} %`)]),
  svg('text', { class: 'small', x: L, y: H - 8 }, 'answered while a link is cut or a node is down (P: C ← → A)'),
  svg('text', { class: 'small', x: L + 8, y: 12 }, 'median latency while all is well (E: C ↓ ↑ L)'),
  points.map(point => {
    const at = [x(point.share), y(point.latency)];
    const name = `${point.what}${point.what === 'adds' ? '' : `, stalest ${ms(point.seen)}`}`, wide = name.length * LETTER, isLeft = point.share > .5;
    const from = isLeft ? at[0] - 11 - wide : at[0] + 11;
    let ly = at[1] + 4;
    while (taken.some(other => from < other.to && other.from < from + wide && Math.abs(other.y - ly) < 15)) ly += 15;
    taken.push({ from, to: from + wide, y: ly });
    return [svg('circle', { cx: at[0], cy: at[1], r: 6 }), svg('text', isLeft ? { x: at[0] - 11, y: ly, 'text-anchor': 'end' } : { x: at[0] + 11, y: ly }, name)];
  }));
  const note = open.length || !points.length ? `Still to measure: ${open.map(([what, sum]) => `${what} (${sum.latencies.length < 10 ? 'while all is well' : 'under a fault'})`).join(', ') || 'clients while all is well, and under a fault'}.` : 'EL is up and to the right: fast, and always answered, and as stale as it says. PC/EC is down and to the left.';
  box.replaceChildren(drawn, el('p', {}, note));
}
