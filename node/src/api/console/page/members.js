// Steps of the membership: each is shown before it is done.
import { Refused, ask } from './ask.js';
import { whyOf } from './browse.js';
import { $, el, fillRows } from './parts.js';
import { look, replace } from './replace.js';

// What the preview that is shown is of: its path, or what is to be replaced.
let previewed = null;

// What the form asks for: a path with its query, and of a replacement what it is of.
function wanted() {
  const what = $('what').value, address = $('address').value.trim();
  if (what === 'replace') return { replaces: { old: Number($('member').value), address } };
  const query = new URLSearchParams();
  if ($('member').value !== '') query.set('node', $('member').value);
  if (what === 'undrain') query.set('undo', '1');
  if (what === 'add-learner') query.set('address', address);
  if (['promote', 'remove'].includes(what) && $('fewer').checked) query.set('accept_fewer_failures', '1');
  return { path: `/api/members/${what === 'undrain' ? 'drain' : what}`, query: String(query) };
}

let isReplacing = false;
function formChanged() {
  const what = $('what').value, hasAddress = ['add-learner', 'replace'].includes(what);
  $('for-address').hidden = !hasAddress;
  $('address').required = hasAddress;
  $('whose-address').textContent = what === 'replace' ? 'the other node’s peer address' : 'its peer address';
  $('for-fewer').hidden = !['promote', 'remove'].includes(what);
  $('member').required = !['add-learner', 'transfer-leader'].includes(what);
  $('member').placeholder = what === 'transfer-leader' ? 'has applied most' : what === 'add-learner' ? 'as it says' : 'id';
  if (isReplacing) return;
  $('preview').hidden = true;
  previewed = null;
}
$('step').addEventListener('input', formChanged);
formChanged();

// What was seen is not for whoever asks now.
export function forgetSteps() {
  isReplacing = false;
  for (const line of ['step-said', 'may-change']) $(line).textContent = '';
  formChanged();
}

const ids = list => (list.length ? list.join(', ') : 'none');
function showSides(note, { before, after }, steps = []) {
  $('plan-note').textContent = note;
  const rows = [['voters', side => ids(side.voters)], ['learners', side => ids(side.learners)], ['quorum', side => side.quorum], ['failures tolerated', side => side.tolerated_failures],
    ['voters that do not answer', side => (side.silent ? ids(side.silent) : '')], ['further failures until writes stop', side => side.spare]];
  const none = { voters: [], learners: [], silent: [] };
  fillRows($('plan'), rows.map(([name, of]) => [{ head: name }, { word: of(before ?? none) ?? '' }, { word: of(after ?? none) ?? '' }]));
  $('replacing').hidden = !steps.length;
  $('replacing').replaceChildren(...steps.map(({ says, isDone, isNext }) => el('li', { 'aria-current': isNext && 'step' }, `${isDone ? '✓ ' : ''}${says}${isNext ? ' (next)' : ''}`)));
  $('preview').hidden = false;
}
function showPlan(plan, isDone) {
  const notes = [plan.note, plan.is_so ? 'It is so already.' : '', typeof plan.lag_entries === 'number' ? `It is ${plan.lag_entries} entries behind.` : ''];
  const refused = `✕ It would be refused: ${plan.refusal}${plan.passes ? ' That passes by itself.' : ''}`;
  showSides(plan.refusal ? refused : `${isDone ? '✓ It is done.' : '✓ It can be done.'} ${notes.filter(Boolean).join(' ')}`, plan);
}
function showReplacement(seen) {
  if (seen.refusal) showSides(`✕ It would be refused: ${seen.refusal}`, seen);
  else showSides(seen.isDone ? `✓ ${seen.says}` : `✓ It can be done, in this order. ${seen.note}`, seen, seen.steps);
}

async function preview() {
  const asked = wanted(), key = JSON.stringify(asked);
  previewed = null;
  $('preview').hidden = true;
  $('step-said').textContent = 'asking…';
  try {
    const seen = asked.replaces ? await look(asked.replaces) : (await ask(`${asked.path}?${asked.query}&preview=1`, 'PUT')).plan;
    // The form was changed while the answer was under way.
    if (JSON.stringify(wanted()) !== key) return;
    if (asked.replaces) showReplacement(seen); else showPlan(seen, false);
    $('step-said').textContent = seen.refusal ? 'Preview: it would be refused.' : 'Preview: nothing is done yet.';
    $('do').disabled = Boolean(seen.refusal || seen.is_so || seen.isDone);
    previewed = asked;
  } catch (error) {
    $('step-said').textContent = whyOf(error);
  }
}
$('step').addEventListener('submit', event => { event.preventDefault(); if (!isReplacing) preview(); });

$('do').addEventListener('click', async () => {
  if (!previewed) return;
  const { path, query, replaces } = previewed;
  previewed = null;
  $('do').disabled = true;
  $('step-said').textContent = 'doing it…';
  if (replaces) { await doReplace(replaces); return; }
  try {
    const told = await ask(`${path}?${query}`, 'PUT');
    showPlan(told.plan, true);
    $('do').disabled = true;
    $('step-said').textContent = `✓ Done${told.leader_id ? `: node ${told.leader_id} leads` : ''}.`;
  } catch (error) {
    const outcome = error instanceof Refused && error.body.refused.outcome === 'NOT_APPLIED' ? 'Nothing was changed.' : 'Whether it was done is not known: look at the nodes.';
    $('step-said').textContent = `${whyOf(error)} ${outcome}`;
  }
});

$('stop').addEventListener('click', () => { isReplacing = false; $('stop').disabled = true; });
async function doReplace(replaces) {
  isReplacing = true;
  Object.assign($('stop'), { hidden: false, disabled: false });
  try {
    const seen = await replace(replaces, { goesOn: () => isReplacing, shows: showReplacement, says: text => { $('step-said').textContent = text; } });
    $('step-said').textContent = seen.isDone ? `✓ Done: ${seen.says}` : 'Stopped. What is done stays done: the same preview goes on from there.';
  } catch (error) {
    $('step-said').textContent = `${whyOf(error)} What is done stays done: the same preview shows how far it came, and goes on from there.`;
  }
  isReplacing = false;
  $('stop').hidden = true;
}
