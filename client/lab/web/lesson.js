// One lesson: a situation, a prediction, what happens, what was measured, and something to try.

import { lab, labWhile } from './lab.js';
import { $, el } from './parts.js';
import { LESSONS } from './lessons.js';
import * as messages from './messages.js';
import * as meters from './meters.js';
import * as plan from './plan.js';

const KEPT = 'tally-lab-lessons';

/** What was done before: `right` if it was foreseen. A browser that keeps nothing is no reason to fail. */
export function progress() {
  try { return JSON.parse(localStorage.getItem(KEPT)) ?? {}; } catch { return {}; }
}
function keep(name, how) {
  const done = progress();
  // Foreseen once is foreseen.
  if (done[name] !== 'right') done[name] = how;
  try { localStorage.setItem(KEPT, JSON.stringify(done)); } catch { /* It is shown all the same. */ }
  dispatchEvent(new Event('lesson-done'));
}

let running = 0;

/** Opens a lesson, or none. */
export function open(lesson) {
  const box = $('lesson');
  running += 1;
  box.hidden = !lesson;
  box.replaceChildren();
  delete box.dataset.state;
  document.title = lesson ? `${lesson.title} · The lab · Tally` : 'The lab · Tally';
  if (!lesson) return;
  const at = LESSONS.indexOf(lesson), next = LESSONS[at + 1];
  const title = el('h2', { id: 'lesson-title', tabindex: -1 }, `${at + 1} of ${LESSONS.length}: ${lesson.title}`);
  const status = el('p', { role: 'status', tabindex: -1 }, 'The scene is being set …');
  const go = el('button', { type: 'button', class: 'main', disabled: true }, 'See what happens');
  const choices = lesson.options.map(([id, text]) => el('label', {}, el('input', { type: 'radio', name: 'prediction', value: id }), text));
  const question = el('fieldset', {}, el('legend', {}, lesson.question), choices);
  const steps = el('ol', { 'aria-label': 'What is done' }), result = el('div', { class: 'result' });
  box.append(title, el('div', { class: 'cols' }, el('div', {}, lesson.situation.map(text => el('p', {}, text)), lesson.sources ? el('p', { class: 'sources' }, 'What they say: ', lesson.sources.flatMap(([name, href], at) => [at ? ', ' : '', el('a', { href, rel: 'noreferrer' }, name)]), '.') : null, question, el('p', {}, go)), el('div', {}, status, steps, result)));
  title.focus({ preventScroll: true });
  box.scrollIntoView({ block: 'start' });
  play(lesson, next, { box, status, go, question, steps, result }, running);
}

async function play(lesson, next, page, mine) {
  const { box, status, go, question, steps, result } = page;
  const gone = () => mine !== running;
  const step = text => { if (gone()) throw new Error('left'); steps.append(el('li', {}, text)); };
  try {
    box.dataset.state = 'setting';
    const leader = await lab.fresh();
    if (gone()) return;
    // What was done and measured before is not of this scene.
    messages.forget();
    meters.forget();
    plan.forget();
    const scene = { lab: labWhile(() => !gone()), leader, followers: lab.followers(), began: lab.state.t };
    await lesson.setup?.(scene, step);
    if (gone()) return;
    status.textContent = `The scene is set: node ${scene.leader} leads. What do you expect?`;
    box.dataset.state = 'asking';
    const chosen = () => question.querySelector(':checked')?.value;
    question.onchange = () => { go.disabled = false; };
    go.disabled = !chosen();
    await new Promise(done => { go.onclick = done; });
    if (gone()) return;
    // What is disabled loses the focus: it goes to where it will be said what came of it.
    if (question.contains(document.activeElement) || document.activeElement === go) status.focus({ preventScroll: true });
    go.disabled = true;
    question.disabled = true;
    const predicted = chosen();
    box.dataset.state = 'running';
    status.textContent = 'It happens …';
    scene.began = lab.state.t;
    const measured = await lesson.run(scene, step);
    // The line that explains it may be a tenth of a second behind.
    await lab.wait(250);
    if (gone()) return;
    status.textContent = 'Measured just now:';
    const right = measured.answer === predicted;
    const meant = lesson.options.find(([id]) => id === measured.answer);
    keep(lesson.name, right ? 'right' : 'done');
    const line = measured.line?.();
    result.append(...[
      el('p', { class: 'verdict' }, right ? 'As you expected. ' : 'Not what you expected. ', meant ? `What happened: ${meant[1]}` : `None of these happened this time; the figures say what did.`),
      lesson.explained.includes(measured.answer) ? el('p', {}, measured.text) : meant ? el('p', {}, 'As a rule something else happens; the figures say how it came to this.') : null,
      el('dl', {}, measured.facts.map(([what, value]) => [el('dt', {}, what), el('dd', {}, String(value))])),
      el('p', {}, 'The line that explains it:'),
      el('pre', {}, line ? `${(line.at / 1000).toFixed(2)} s  node ${line.node}  ${line.text}` : measured.trace),
      el('p', {}, el('strong', {}, 'Try: '), lesson.try),
      el('p', {}, el('button', { type: 'button', onclick: () => open(lesson) }, 'Once more'), ' ', next ? el('a', { href: `#/lesson/${next.name}` }, `Next: ${next.title}`) : el('a', { href: '#/' }, 'That was the last: all lessons'))].filter(Boolean));
    box.dataset.answer = measured.answer;
    // Counters and what they hold by this lesson: a test asks the cluster for the same.
    box.dataset.check = JSON.stringify(measured.check ?? {});
    box.dataset.state = 'done';
  } catch (error) {
    if (gone()) return;
    status.textContent = `It could not be played: ${error.message}. `;
    status.append(el('button', { type: 'button', onclick: () => open(lesson) }, 'Once more'));
    box.dataset.state = 'failed';
  }
}
