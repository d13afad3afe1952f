// Plays a recording in Chromium: by keys, by clicks, beside another, and with a broken promise.
//
//   node player.mjs PAGE OTHER BROKEN [--pictures DIR]
//
// PAGE is a run of a scenario, OTHER another run of it, BROKEN one that broke a promise.

import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { chromium } from 'playwright-core';

const [page, other, broken, ...flags] = process.argv.slice(2);
const pictures = flags.includes('--pictures') ? flags[flags.indexOf('--pictures') + 1] : undefined;
if (pictures) mkdirSync(pictures, { recursive: true });
const OPENS_MS = 2_000, BYTES_MAX = 20_000_000;
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: process.getuid() === 0 ? ['--no-sandbox'] : [],
});
const wrong = [], elsewhere = [];
let checks = 0;
const check = (is, what) => { assert.ok(is, what); checks += 1; };

async function open(file, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 1000 }, bypassCSP: false, ...options });
  const tab = await context.newPage();
  tab.on('console', message => { if (['error', 'warning'].includes(message.type())) wrong.push(message.text()); });
  tab.on('pageerror', error => wrong.push(String(error)));
  tab.on('request', request => { if (!/^(file|data):/.test(request.url())) elsewhere.push(request.url()); });
  await tab.goto(pathToFileURL(file).href);
  await tab.waitForSelector('body[data-ready=yes]');
  // Its calls are there, so the window is read.
  await tab.waitForFunction(() => document.querySelectorAll('#calls li').length > 0 || document.querySelector('#calls-count').textContent);
  return tab;
}
const text = (tab, id) => tab.locator(id).innerText();
const now = async tab => Number.parseFloat(await text(tab, '#now'));
/** Where the recording stands once it has moved from `before`. */
async function moved(tab, before) {
  await tab.waitForFunction(before => Number.parseFloat(document.querySelector('#now').innerText) !== before, before);
  return now(tab);
}

// What it weighs, and how long it takes to open.
check(statSync(page).size < BYTES_MAX, `${page} is too large`);
const began = performance.now();
const tab = await open(page);
check(performance.now() - began < OPENS_MS, 'it opens in time');
check((await text(tab, '#verdict')).includes('every promise was kept'), 'it passed');

// By keys alone.
await tab.keyboard.press('Home');
const faults = [];
for (let at = 0; at < 3; at++) {
  const stood = await now(tab);
  await tab.keyboard.press('f');
  faults.push(await moved(tab, stood));
  check((await text(tab, '#chosen')).includes('fault'), 'a fault is told');
}
check(faults[0] < faults[1] && faults[1] < faults[2], `faults one after the other: ${faults}`);
const before = await now(tab);
await tab.keyboard.press('ArrowLeft');
const stopped = await moved(tab, before);
check(stopped < before, 'an event back');
await tab.keyboard.press(' ');
check(await moved(tab, stopped) > stopped, 'it plays');
await tab.keyboard.press(' ');
const paused = await now(tab);
await tab.waitForTimeout(300);
check(await now(tab) === paused, 'and pauses');

// What is drawn stands in the table: one leader at most in each term.
const roles = await tab.locator('#nodes tbody tr').evaluateAll(rows => rows.map(row => [...row.cells].slice(0, 3).map(cell => cell.textContent)));
check(roles.length >= 3, `nodes: ${JSON.stringify(roles)}`);
const leaders = roles.filter(role => role[1].includes('leader')).map(role => role[2]);
check(new Set(leaders).size === leaders.length, `one leader in a term: ${JSON.stringify(roles)}`);

// Messages travel, and those of kinds that nobody wants to see are not drawn.
const frame = () => tab.evaluate(() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done))));
const drawn = () => tab.evaluate(() => {
  const canvas = document.querySelector('#picture canvas'), { width, height } = canvas;
  // Read from a copy: a canvas that is read is drawn on more slowly.
  const pen = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  pen.drawImage(canvas, 0, 0);
  return pen.getImageData(0, 0, width, height).data.some((part, at) => at % 4 === 3 && part);
});
for (let left = 500; left && !await drawn(); left--) { await tab.keyboard.press('.'); await frame(); }
check(await drawn(), 'messages are drawn');
check(/^On their way: .* \d → \d/.test(await text(tab, '#under-way')), 'and told');
const kinds = tab.locator('#kinds input');
assert.deepEqual(await tab.locator('#kinds li').evaluateAll(kinds => kinds.map(kind => kind.dataset.kind)), ['votes', 'appends', 'heartbeats', 'snapshot parts', 'all else', null].map(kind => kind ?? undefined));
for (const kind of await kinds.all()) await kind.uncheck();
await frame();
check(!await drawn() && !await text(tab, '#under-way'), 'and none, if none is wanted');
for (const kind of await kinds.all()) await kind.check();
await frame();
check(await drawn(), 'and again');
await tab.evaluate(() => document.activeElement.blur());

// A filter leaves what it says.
await tab.fill('#by-text', 'leads in term');
await tab.waitForFunction(() => {
  const lines = [...document.querySelectorAll('#story li')].map(line => line.innerText);
  return lines.length > 0 && lines.every(line => line.includes('leads in term'));
});
checks += 1;
await tab.fill('#by-text', '');

// A click on a call tells it whole.
await tab.locator('#calls li').first().click();
check(/^call \d+: \[client \d+: /.test(await text(tab, '#chosen')), 'a call is told');

// Beside itself, and beside another run.
await tab.setInputFiles('#other', page);
await tab.waitForFunction(() => document.querySelector('#difference').textContent.includes('Both are the same'));
checks += 1;
await tab.setInputFiles('#other', other);
await tab.waitForFunction(() => document.querySelector('#difference').textContent.includes('They part at'));
checks += 1;

// Frames while it plays.
await tab.selectOption('#speed', '1');
await tab.evaluate(() => document.activeElement.blur());
await tab.keyboard.press('Home');
await tab.keyboard.press(' ');
const frames = await tab.evaluate(() => new Promise(done => {
  let frames = 0;
  const from = performance.now();
  const frame = () => { frames += 1; if (performance.now() - from < 2000) requestAnimationFrame(frame); else done(frames / 2); };
  requestAnimationFrame(frame);
}));
check(frames > 10, `${frames} frames a second`);
await tab.keyboard.press(' ');

// A broken promise: the page opens there, and its calls are marked.
const failed = await open(broken);
check((await text(failed, '#verdict')).includes('broken'), 'it failed');
check(await failed.locator('#broken pre').count() > 0, 'what is broken is said');
const named = await text(failed, '#broken button >> nth=0');
if (/show the \d+/.test(named)) {
  await failed.locator('#broken button').first().click();
  await failed.check('#only-named');
  await failed.locator('#calls li.bad').first().waitFor();
  checks += 1;
}

// Whoever has asked for something else sees what a broken promise names all the same.
await failed.selectOption('#by-node', { index: 1 });
await failed.fill('#by-text', 'a word that no call has');
await failed.waitForFunction(() => document.querySelector('#calls-count').textContent === '0 in the span');
await failed.locator('#broken button').first().click();
await failed.waitForFunction(() => document.querySelectorAll('#calls li.bad').length > 0);
check(await failed.inputValue('#by-node') === '' && await failed.inputValue('#by-text') === '', 'nothing else is asked for');

// On a narrow page the arrows move what hangs out of its region, and not the time.
const narrow = await open(page, { viewport: { width: 320, height: 640 } });
check(await narrow.getAttribute('#now', 'aria-live') === 'off', 'the time is not told in every frame');
await narrow.locator('.scroll').focus();
const stands = await now(narrow);
await narrow.keyboard.press('ArrowRight');
await narrow.waitForFunction(() => document.querySelector('.scroll').scrollLeft > 0);
check(await now(narrow) === stands, 'the time stays');
await narrow.evaluate(() => document.activeElement.blur());
await narrow.keyboard.press('ArrowRight');
check(await moved(narrow, stands) > stands, 'and moves elsewhere');

// For everybody: light and dark, narrow and wide.
for (const [file, colorScheme, width] of [[page, 'light', 1280], [broken, 'dark', 1280], [broken, 'light', 400], [page, 'dark', 400]]) {
  const seen = await open(file, { colorScheme, viewport: { width, height: 900 }, bypassCSP: true });
  await seen.addScriptTag({ content: axe });
  const found = await seen.evaluate(() => axe.run());
  assert.deepEqual(found.violations.map(one => `${one.id}: ${one.nodes.map(node => node.html).join(' ')}`), [], `axe: ${colorScheme}, ${width}`);
  const wide = await seen.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  check(wide <= 0, `nothing hangs out at ${width}: ${wide}`);
  if (pictures) await seen.screenshot({ path: `${pictures}/player-${file === page ? 'kept' : 'broken'}-${width}-${colorScheme}.png`, fullPage: width < 1000 });
}
assert.deepEqual(wrong, [], 'the console');
assert.deepEqual(elsewhere, [], 'requests to elsewhere');
await browser.close();
console.log(`the player: ${checks} checks passed, ${frames} frames a second`);
