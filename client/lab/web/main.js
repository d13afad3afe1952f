// The page: what comes from the lab is drawn, and what is done here goes to it.

import { connect, isWhole, lab, labWhile } from './lab.js';
import { $, el, say } from './parts.js';
import * as messages from './messages.js';
import * as picture from './picture.js';
import * as lanes from './lanes.js';
import * as meters from './meters.js';
import { open, progress } from './lesson.js';
import * as plan from './plan.js';
import { LESSONS } from './lessons.js';
import * as scene from './scene.js';

let follows = true;
let received = 0, told = 0, slow = 0, started = false, opened = null, leader = 0;

lab.listeners.add(() => {
  received = performance.now();
  if (!started) {
    started = true;
    begin();
  }
  messages.gather();
  picture.update();
  lanes.list();
  meters.gather();
  plan.gather();
  // For who drives the page by a program: since when all is well (0: it is not), and of when the words and tables are.
  document.body.dataset.whole = isWhole(lab.state) ? Math.min(...lab.state.nodes.map(node => node.at)) : 0;
  if (received - slow > 500) {
    slow = received;
    document.body.dataset.words = lab.state.t;
    health();
    meters.meters();
    meters.quadrant();
    if ($('table').open) picture.asTable();
    if ($('answers').open) lanes.asTable();
  }
  lines();
});

function begin() {
  const whole = (text, command) => el('button', { type: 'button', onclick: () => lab.do(command).catch(error => { $('live').textContent = error.message; }) }, text);
  const cut = (text, name) => whole(text, { do: 'cut', name });
  const reset = whole('Reset', { do: 'reset' });
  reset.addEventListener('click', () => { messages.forget(); meters.forget(); plan.forget(); });
  // Two are a minority of five.
  const minority = lab.state.nodes.length >= 5 ? [cut('Minority of two', 'minority-of-two')] : [];
  $('named').replaceChildren(cut('Leader alone', 'leader-alone'), cut('A follower alone', 'follower-alone'), ...minority, cut('Bridge', 'bridge'), cut('All apart', 'all'), whole('Heal all links', { do: 'heal' }), reset);
  lanes.form();
  route();
  requestAnimationFrame(frame);
}

function frame(now) {
  if (!document.hidden) {
    picture.frame(now);
    // Between two states the lanes go on, so that they do not jerk.
    lanes.draw(lab.lost ? 0 : Math.min(200, now - received));
  }
  requestAnimationFrame(frame);
}

function health() {
  const { nodes } = lab.state, up = nodes.filter(node => node.answers).length;
  const leads = nodes.filter(node => node.answers && node.role === 'leader');
  const who = leads.length === 0 ? 'nobody leads' : leads.map(node => `node ${node.id} leads in term ${node.term}`).join(', ');
  say($('health'), `${up} of ${nodes.length} nodes answer; ${who}${leads.length > 1 ? ': one of them only thinks so' : ''}`);
  const now = lab.leader();
  if (now !== leader) {
    leader = now;
    $('live').textContent = who;
  }
}

function lines() {
  for (const line of lab.fresh_lines) {
    if (line.seq <= told) continue;
    told = line.seq;
    const list = $('lines');
    list.append(el('li', line.node ? {} : { class: 'deed' }, `${(line.at / 1000).toFixed(2).padStart(7)} ${line.node ? `node ${line.node}` : 'lab   '}  ${line.text}`));
    if (list.childElementCount > 300) list.firstElementChild.remove();
    if (follows) list.scrollTop = list.scrollHeight;
    if (!line.node) $('live').textContent = line.text;
  }
}

// Who scrolls up reads; who scrolls to the end follows.
for (const kind of ['wheel', 'keyup', 'pointerup']) {
  $('lines').addEventListener(kind, () => setTimeout(() => {
    const list = $('lines');
    follows = list.scrollHeight - list.scrollTop - list.clientHeight < 30;
  }, 100), { passive: true });
}

function listed() {
  const done = progress();
  $('lesson-list').replaceChildren(...LESSONS.map(lesson => el('li', {}, el('a', { href: `#/lesson/${lesson.name}` }, lesson.title), done[lesson.name] ? ` (done${done[lesson.name] === 'right' ? ', foreseen' : ''})` : '')));
}

function show(is) {
  $('lessons').hidden = !is;
  $('open-lessons').setAttribute('aria-expanded', String(is));
  if (is) listed();
}
$('open-lessons').onclick = () => show($('lessons').hidden);

/** `#/lesson/NAME`, `#/scene/…`, or nothing. Another one is no address of this page, such as that of the skip link. */
async function route() {
  if (location.hash === opened || !/^(#\/.*)?$/.test(location.hash)) return;
  const mine = opened = location.hash;
  const [, kind, rest] = mine.split('/');
  const lesson = LESSONS.find(each => kind === 'lesson' && each.name === rest);
  const isKnown = lesson || kind === 'scene' || !kind;
  show(!kind || !isKnown);
  open(lesson);
  try {
    if (!isKnown) throw new Error('it names no lesson and no scene');
    if (kind === 'scene') await scene.set(scene.read(rest), labWhile(() => mine === opened));
  } catch (error) {
    // Whoever has gone on to somewhere else is not told of this.
    if (mine !== opened) return;
    $('share-said').replaceChildren(`This address can’t be gone to: ${error.message}.`);
    $('share-row').scrollIntoView({ block: 'nearest' });
  }
}
addEventListener('hashchange', () => { if (started) route(); });
addEventListener('lesson-done', listed);

// --- Sharing --------------------------------------------------------------------------------------

$('share').onclick = async () => {
  const address = `${location.origin}/#/scene/${scene.now()}`;
  await share(address, el('a', { href: address }, address));
};

$('plan').onclick = async () => {
  const text = plan.plan();
  if (text) await share(text, el('pre', { id: 'plan-text', tabindex: 0, role: 'group', 'aria-label': 'Plan' }, text));
  else $('share-said').replaceChildren('Nothing was done yet: no link, node, disk or clock was changed.');
};

/** Shows `what` at once, in place of what was shared before, and copies `text`. A browser may ask somebody first whether
 *  a page may copy: until then nobody is to take the text of before for this one. */
async function share(text, what) {
  const copied = el('span', {});
  $('share-said').replaceChildren(copied, what);
  if (await navigator.clipboard?.writeText(text).then(() => true, () => false)) copied.replaceChildren('Copied: ');
}

connect();
