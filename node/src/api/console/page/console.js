// Asks the node every two seconds, and shows what it says.
import { Outdated, Refused, TOKEN, ask, asked, asksAnew } from './ask.js';
import { forgetItems, sawToken } from './browse.js';
import { forgetSteps } from './members.js';
import { hottest, rates, scraped } from './metrics.js';
import { $, fillRows, roleWords, say, svg } from './parts.js';

const EVERY_MS = 2000;
// Rates are over at least one interval and at most this.
const WINDOW_MS = 10500;
const PAST_MS = 120000;

const time = seconds => (seconds === Infinity ? '> 63 s' : seconds < 1e-3 ? `≤ ${(seconds * 1e6).toPrecision(3)} µs` : seconds < 1 ? `≤ ${(seconds * 1e3).toPrecision(3)} ms` : `≤ ${seconds.toPrecision(3)} s`);
const rate = each => (each === 0 ? '0' : each < 10 ? each.toFixed(1) : Math.round(each).toLocaleString('en'));

function tell(text, look) {
  say($('state'), text);
  $('state').className = `verdict ${look}`;
}

// ---- the nodes
function showStatus(told) {
  sawToken(told.answer);
  const { answer, nodes } = told;
  const leader = nodes.find(node => node.role === 'leader');
  const enough = told.voters_reachable >= told.quorum;
  tell(!enough ? `✕ Only ${told.voters_reachable} of ${told.voters} voters answer node ${answer.node_id}: fewer than the quorum of ${told.quorum}` :
    leader ? `✓ Node ${leader.id} leads in term ${leader.term}` : '✕ No node says that it leads', enough && leader ? 'good' : 'bad');
  $('about').textContent = `Node ${answer.node_id} was asked. Cluster ${answer.cluster_id || '(not known yet)'}; revision ${answer.revision}; ${told.authentication ? 'callers show who they are' : 'callers are not asked who they are'}.`;
  $('quorum').textContent = `${told.voters_reachable} of ${told.voters} voters answer; the quorum is ${told.quorum}.${told.dedup ? memory(told.dedup) : ''}`;
  fillRows($('nodes'), nodes.map(node => [{ head: node.id }, roleCell(node), ...['term', 'last_log_index', 'commit_index', 'applied_index', 'lag_entries'].map(name => ({ number: node.reachable ? node[name] : '' })),
    { word: node.version }, { word: node.address }, notesCell(node)]));
  $('may-change').textContent = told.changes ? 'Each step is shown before it is done. It takes the right to administer where callers show who they are.' :
    'Read-only here: without authentication, changes are for callers on the node’s own machine.';
  $('who').hidden = !told.authentication;
  $('step').hidden = !told.changes;
  offerNodes(nodes);
  showSections(true, true);
}
const memory = dedup => ` Sessions: ${dedup.sessions} of ${dedup.sessions_max}${dedup.sessions_warning ? ' (filling up)' : ''}. Idempotency keys: ${dedup.keys}${dedup.key_bytes_warning ? ' (filling up)' : ''}.`;
function roleCell(node) {
  if (!node.reachable) return { word: `${roleWords('silent')} (${node.is_voter ? 'voter' : 'learner'})`, bad: true };
  return { word: roleWords(node.role ?? 'no role'), leader: node.role === 'leader' };
}
function notesCell(node) {
  const notes = [node.drained ? 'drained' : '', node.disk_nearly_full ? '✕ disk nearly full' : '', node.local_reads_only ? `✕ local reads only: ${node.local_reads_only}` : '', node.note].filter(Boolean);
  return { text: notes.join('; '), bad: notes.some(note => note !== 'drained') };
}
function offerNodes(nodes) {
  const select = $('of');
  const wanted = nodes.map(node => String(node.id));
  const have = [...select.options].slice(2).map(option => option.value);
  if (wanted.join() === have.join()) return;
  const chosen = select.value;
  while (select.options.length > 2) select.remove(2);
  for (const id of wanted) select.add(new Option(`node ${id}`, id));
  select.value = wanted.includes(chosen) || chosen === 'all' ? chosen : '0';
}

// ---- requests
const scrapes = new Map();
let past = [];
async function scrape(node) {
  const text = await asked(`/api/metrics${node === '0' ? '' : `?node=${node}`}`);
  const now = performance.now();
  const known = (scrapes.get(node) ?? []).filter(scrape => now - scrape.at < WINDOW_MS);
  scrapes.set(node, [...known, scraped(text, now)]);
}
async function showRates(nodes) {
  const of = $('of').value;
  const wanted = of === 'all' ? nodes.filter(node => node.reachable).map(node => String(node.id)) : [of];
  const told = await Promise.allSettled(wanted.map(scrape));
  // Meanwhile another was chosen.
  if ($('of').value !== of) return;
  const failed = told.find(each => each.status === 'rejected');
  const lists = wanted.filter((_, at) => told[at].status === 'fulfilled').map(node => scrapes.get(node));
  if (failed && !lists.length) {
    $('window').textContent = `✕ ${failed.reason.message}`;
    fillRows($('rates'), []);
    return;
  }
  const hot = hottest(lists.map(list => list.at(-1)));
  $('hot-said').textContent = hot.length ? '' : 'Nothing is used so much that it was seen in the last 15 s.';
  fillRows($('hot'), hot.map(({ kind, item, rate: each }) => [{ word: kind }, { text: item }, { number: rate(each) }]));
  const pairs = lists.filter(list => list.length > 1).map(list => [list[0], list.at(-1)]);
  if (!pairs.length) return;
  const { seconds, total, rows } = rates(pairs);
  const missing = wanted.length - lists.length;
  $('window').textContent = `over the last ${seconds.toFixed(0)} s${missing ? `; ✕ ${missing} of ${wanted.length} nodes did not tell theirs` : ''}`;
  fillRows($('rates'), rows.map(row => [{ head: row.method }, { number: rate(row.rate) }, { number: rate(row.notOk), bad: row.notOk > 0 }, { number: time(row.p50) }, { number: time(row.p99) }]));
  showPast(total);
}
function showPast(total) {
  const now = performance.now();
  past = [...past.filter(([at]) => now - at < PAST_MS), [now, total]];
  const top = Math.max(1, ...past.map(([, each]) => each));
  const points = past.map(([at, each]) => `${(600 - (now - at) / PAST_MS * 600).toFixed(1)},${(57 - each / top * 54).toFixed(1)}`).join(' ');
  $('past').replaceChildren(svg('polyline', { points }));
  $('past-text').textContent = `${rate(total)} requests a second now; at most ${rate(top)} in the last two minutes. This page's own are among them.`;
}
function forgetRates() {
  scrapes.clear();
  past = [];
  for (const table of ['rates', 'hot']) fillRows($(table), []);
  $('past').replaceChildren();
  for (const line of ['past-text', 'hot-said']) $(line).textContent = '';
  $('window').textContent = 'waiting for a second scrape';
}
$('of').addEventListener('change', () => { forgetRates(); turn(); });

// ---- the round
// `anew`: who asks has changed while a round was under way.
let paused = false, stopped = false, busy = false, anew = false, again = null, silentSince = null;
async function turn() {
  clearTimeout(again);
  if (paused || stopped || document.hidden || busy) return;
  busy = true;
  try {
    const told = await ask('/api/status');
    silentSince = null;
    showStatus(told);
    $('all').classList.remove('old');
    $('updated').textContent = `updated at ${new Date().toLocaleTimeString('en-GB')}`;
    await showRates(told.nodes);
  } catch (error) {
    failed(error);
  } finally {
    busy = false;
    if (!stopped) again = setTimeout(turn, anew ? 0 : EVERY_MS);
    anew = false;
  }
}
function failed(error) {
  if (error instanceof Outdated) return;
  $('all').classList.add('old');
  if (!(error instanceof Refused)) {
    silentSince ??= new Date().toLocaleTimeString('en-GB');
    tell(`✕ ${error.message} since ${silentSince}. What is below is from before.`, 'bad');
    $('updated').textContent = `✕ no answer since ${silentSince}`;
    return;
  }
  silentSince = null;
  if (error.status !== 401 && error.status !== 403) {
    tell(`✕ ${error.message}`, 'bad');
    return;
  }
  // Asking again and again would tell nothing new.
  stopped = true;
  forgetNodes();
  $('about').textContent = error.message;
  $('updated').textContent = 'nodes are not shown';
  const { reason } = error.body.refused;
  $('who').hidden = reason === 'FORBIDDEN_HERE';
  showSections(false, error.status === 403 && reason !== 'FORBIDDEN_HERE');
  if (error.status === 401) {
    tell('✕ This cluster asks who you are: give a token', 'bad');
    $('token').focus();
  } else if (reason === 'FORBIDDEN_HERE') tell('✕ This console does not answer a page at this address', 'bad');
  // Who may see no nodes may still see what its rights are on.
  else tell('✕ Nodes and metrics are not for you to see; counters and keys may be', 'bad');
}
// What is for whoever watches, and the rest.
function showSections(watched, rest) {
  for (const section of $('all').children) section.hidden = !(section.matches('.watched') ? watched : rest);
}
function forgetNodes() {
  $('all').classList.remove('old');
  fillRows($('nodes'), []);
  for (const line of ['about', 'quorum']) $(line).textContent = '';
  offerNodes([]);
  forgetRates();
  $('window').textContent = '';
}
$('pause').addEventListener('click', () => {
  paused = !paused;
  $('pause').setAttribute('aria-pressed', String(paused));
  $('updated').textContent = paused ? 'paused' : 'going on';
  turn();
});
document.addEventListener('visibilitychange', turn);
$('who').addEventListener('submit', event => {
  event.preventDefault();
  const token = $('token').value.trim();
  $('token').value = '';
  // What no header can hold is no token, and would not be sent.
  if (!/^[\x21-\x7e]+$/.test(token)) { tell('✕ That is no token: one has neither spaces nor letters beyond ASCII', 'bad'); return; }
  sessionStorage.setItem(TOKEN, token);
  asAnother();
});
$('forget').addEventListener('click', () => { sessionStorage.removeItem(TOKEN); $('token').value = ''; asAnother(); });
function asAnother() {
  asksAnew();
  forgetNodes();
  forgetItems();
  forgetSteps();
  begin();
}
function begin() {
  $('token').placeholder = sessionStorage.getItem(TOKEN) ? 'one is used' : 'none';
  [stopped, anew] = [false, busy];
  turn();
}

begin();
