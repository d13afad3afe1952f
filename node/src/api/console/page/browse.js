// Counters and keys, and one of them at four levels.
import { ask } from './ask.js';
import { $, fillRows, ms, shown } from './parts.js';

// ---- lists
let listed = null;
let newest = null;

// The newest state that an answer has told of; its session token asks for one that is as new.
export function sawToken(answer) {
  if (!answer?.session_token) return;
  if (!newest || newest.cluster_id !== answer.cluster_id || newest.applied_index <= answer.applied_index) newest = answer;
}
const session = () => $('session').value.trim() || (newest?.session_token ?? '');

function level(name) {
  if (name === 'bounded') return `bounded:${$('bound').value || 0}`;
  return name === 'session' ? `session:${session()}` : name;
}

// A value may have a MiB: so much of it is put into the page.
const LETTERS_MAX = 2000;
const valueOf = item => {
  const text = item.value ?? `0x${item.value_hex}`;
  const isCut = item.value_is_cut || text.length > LETTERS_MAX;
  return isCut ? `${text.slice(0, LETTERS_MAX).replace(/[\ud800-\udbff]$/, '')}… (${item.value_bytes} bytes)` : text;
};

async function list(after) {
  const kind = after === null ? $('kind').value : listed.kind;
  const prefix = after === null ? $('prefix').value : listed.prefix;
  const query = new URLSearchParams({ prefix, limit: 50, read: level($('level').value) });
  if (after !== null) query.set('after', after);
  $('found').textContent = 'reading…';
  try {
    const told = await ask(`/api/${kind}s?${query}`);
    sawToken(told.answer);
    listed = { kind, prefix, next: told.next, before: after === null ? 0 : listed.before + listed.count, count: told.items.length };
    fillRows($('items'), told.items.map(item => [
      { name: item.name, choose: () => choose(kind, item.name) }, { text: valueOf(item) }, { number: item.modified_revision }]));
    const which = told.items.length ? `${kind}s ${listed.before + 1} to ${listed.before + told.items.length}` : `no ${kind}s`;
    $('found').textContent = `${which}${told.next ? ', and there are more' : ''}; ${worth(told.answer)}, took ${ms(told.took_us / 1000)}`;
    $('more').hidden = !told.next;
  } catch (error) {
    fillRows($('items'), []);
    $('more').hidden = true;
    $('found').textContent = whyOf(error);
  }
}

const worth = answer => `${answer.level} at node ${answer.node_id}, ${stale(answer)}`;
const stale = answer => (answer.staleness_ms_max === null ? 'of no proven age' : `at most ${answer.staleness_ms_max} ms old`);
export const whyOf = error => `✕ ${error.message}`;

$('find').addEventListener('submit', event => { event.preventDefault(); list(null); });
$('more').addEventListener('click', () => list(listed.next));

// What was seen is not for whoever asks now.
export function forgetItems() {
  [listed, newest] = [null, null];
  for (const table of ['items', 'levels']) fillRows($(table), []);
  for (const line of ['found', 'read-said']) $(line).textContent = '';
  $('more').hidden = true;
}

// ---- one item
function choose(kind, name) {
  $('read-kind').value = kind;
  $('name').value = name;
  read();
  $('levels').scrollIntoView({ block: 'nearest' });
}

async function at(kind, name, wanted) {
  const asked = level(wanted);
  if (asked === 'session:') return [{ head: 'session' }, { text: 'no token has been seen yet: read again' }, {}, {}, {}, {}, {}, {}];
  const said = wanted === 'session' ? 'session' : asked;
  try {
    const told = await ask(`/api/${kind}?${new URLSearchParams({ name, read: asked })}`);
    const { answer, item } = told;
    return { answer, cells: [{ head: said }, { text: told.found ? valueOf(item) : `there is no such ${kind}` }, { word: answer.level },
      { number: answer.staleness_ms_max === null ? 'not proven' : `≤ ${answer.staleness_ms_max} ms` }, { number: item?.modified_revision ?? '' }, { number: answer.revision },
      { word: `${answer.node_id}, ${answer.role ?? 'no role'}` }, { number: ms(told.took_us / 1000) }] };
  } catch (error) {
    const best = error.body?.refused?.best_staleness_ms;
    return { cells: [{ head: said }, { text: whyOf(error), bad: true }, { word: 'refused' }, { number: typeof best === 'number' ? `best ${best} ms` : '' }, { number: '' }, { number: '' },
      { word: error.body?.answer ? `${error.body.answer.node_id}` : '' }, { number: error.body?.took_us === undefined ? '' : ms(error.body.took_us / 1000) }] };
  }
}

async function read() {
  const kind = $('read-kind').value, name = $('name').value;
  $('read-said').textContent = 'reading…';
  const rows = await Promise.all(['linearizable', 'bounded', 'session', 'local'].map(wanted => at(kind, name, wanted)));
  sawToken(rows[0].answer);
  fillRows($('levels'), rows.map(row => row.cells ?? row));
  $('read-said').textContent = `${kind} “${shown(name)}” at four levels`;
}
$('read').addEventListener('submit', event => { event.preventDefault(); read(); });
