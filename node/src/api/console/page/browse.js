// Counters and keys, one of them at four levels, and steps of the membership.
import { $, Refused, ask, fill, shown, took } from './base.js';

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
    fill($('items'), told.items.map(item => [
      { name: item.name, choose: () => choose(kind, item.name) }, { text: valueOf(item) }, { number: item.modified_revision }]));
    const which = told.items.length ? `${kind}s ${listed.before + 1} to ${listed.before + told.items.length}` : `no ${kind}s`;
    $('found').textContent = `${which}${told.next ? ', and there are more' : ''}; ${worth(told.answer)}, took ${took(told.took_us)}`;
    $('more').hidden = !told.next;
  } catch (error) {
    fill($('items'), []);
    $('more').hidden = true;
    $('found').textContent = whyOf(error);
  }
}

const worth = answer => `${answer.level} at node ${answer.node_id}, ${stale(answer)}`;
const stale = answer => (answer.staleness_ms_max === null ? 'of no proven age' : `at most ${answer.staleness_ms_max} ms old`);
const whyOf = error => `✕ ${error.message}`;

$('find').addEventListener('submit', event => { event.preventDefault(); list(null); });
$('more').addEventListener('click', () => list(listed.next));

// What was seen is not for whoever asks now.
export function forget() {
  [listed, newest] = [null, null];
  for (const table of ['items', 'levels']) fill($(table), []);
  for (const line of ['found', 'read-said', 'step-said', 'may-change']) $(line).textContent = '';
  $('more').hidden = true;
  formChanged();
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
      { word: `${answer.node_id}, ${answer.role ?? 'no role'}` }, { number: took(told.took_us) }] };
  } catch (error) {
    const best = error.body?.refused?.best_staleness_ms;
    return { cells: [{ head: said }, { text: whyOf(error), bad: true }, { word: 'refused' }, { number: typeof best === 'number' ? `best ${best} ms` : '' }, { number: '' }, { number: '' },
      { word: error.body?.answer ? `${error.body.answer.node_id}` : '' }, { number: error.body?.took_us === undefined ? '' : took(error.body.took_us) }] };
  }
}

async function read() {
  const kind = $('read-kind').value, name = $('name').value;
  $('read-said').textContent = 'reading…';
  const rows = await Promise.all(['linearizable', 'bounded', 'session', 'local'].map(wanted => at(kind, name, wanted)));
  sawToken(rows[0].answer);
  fill($('levels'), rows.map(row => row.cells ?? row));
  $('read-said').textContent = `${kind} “${shown(name)}” at four levels`;
}
$('read').addEventListener('submit', event => { event.preventDefault(); read(); });

// ---- members
let previewed = null;

function stepPath() {
  const what = $('what').value;
  const query = new URLSearchParams();
  if ($('member').value !== '') query.set('node', $('member').value);
  if (what === 'undrain') query.set('undo', '1');
  if (what === 'add-learner') query.set('address', $('address').value.trim());
  if (['promote', 'remove'].includes(what) && $('fewer').checked) query.set('accept_fewer_failures', '1');
  return [`/api/members/${what === 'undrain' ? 'drain' : what}`, query];
}

function formChanged() {
  const what = $('what').value;
  $('for-address').hidden = what !== 'add-learner';
  $('address').required = what === 'add-learner';
  $('for-fewer').hidden = !['promote', 'remove'].includes(what);
  $('member').required = !['add-learner', 'transfer-leader'].includes(what);
  $('member').placeholder = what === 'transfer-leader' ? 'has applied most' : what === 'add-learner' ? 'as it says' : 'id';
  $('preview').hidden = true;
  previewed = null;
}
$('step').addEventListener('input', formChanged);
formChanged();

const ids = list => (list.length ? list.join(', ') : 'none');
function showPlan(plan, isDone) {
  const notes = [plan.note, plan.is_so ? 'It is so already.' : '', typeof plan.lag_entries === 'number' ? `It is ${plan.lag_entries} entries behind.` : ''];
  $('plan-note').textContent = plan.refusal ? `✕ It would be refused: ${plan.refusal}${plan.passes ? ' That passes by itself.' : ''}` : `${isDone ? '✓ It is done.' : '✓ It can be done.'} ${notes.filter(Boolean).join(' ')}`;
  const rows = [['voters', side => ids(side.voters)], ['learners', side => ids(side.learners)], ['quorum', side => side.quorum], ['failures tolerated', side => side.tolerated_failures],
    ['voters that do not answer', side => ids(side.silent)], ['further failures until writes stop', side => side.spare]];
  const none = { voters: [], learners: [], silent: [] };
  fill($('plan'), rows.map(([name, of]) => [{ head: name }, { word: of(plan.before ?? none) ?? '' }, { word: of(plan.after ?? none) ?? '' }]));
  $('preview').hidden = false;
}

async function preview() {
  const [path, query] = stepPath();
  previewed = null;
  $('preview').hidden = true;
  $('step-said').textContent = 'asking…';
  try {
    const told = await ask(`${path}?${new URLSearchParams([...query, ['preview', '1']])}`, 'PUT');
    const [now, with_] = stepPath();
    // The form was changed while the answer was under way.
    if (now !== path || String(with_) !== String(query)) return;
    showPlan(told.plan, false);
    $('step-said').textContent = told.plan.refusal ? 'Preview: it would be refused.' : 'Preview: nothing is done yet.';
    $('do').disabled = Boolean(told.plan.refusal) || told.plan.is_so;
    previewed = `${path}?${query}`;
  } catch (error) {
    $('step-said').textContent = whyOf(error);
  }
}
$('step').addEventListener('submit', event => { event.preventDefault(); preview(); });

$('do').addEventListener('click', async () => {
  if (!previewed) return;
  const path = previewed;
  previewed = null;
  $('do').disabled = true;
  $('step-said').textContent = 'doing it…';
  try {
    const told = await ask(path, 'PUT');
    showPlan(told.plan, true);
    $('do').disabled = true;
    $('step-said').textContent = `✓ Done${told.leader_id ? `: node ${told.leader_id} leads` : ''}.`;
  } catch (error) {
    const outcome = error instanceof Refused && error.body.refused.outcome === 'NOT_APPLIED' ? 'Nothing was changed.' : 'Whether it was done is not known: look at the nodes.';
    $('step-said').textContent = `${whyOf(error)} ${outcome}`;
  }
});
