// Makes the pictures of docs/pictures that show the lab and the player, of what happens while it runs: for people, and not
// for CI. The console's is `all-wide-light.png` of `.ci/console DIRECTORY --pictures DIR`.
//
//   CHROMIUM=/usr/bin/chromium node pictures.mjs TALLYD RECORDING DIR
//
// RECORDING is a page that `tally-sim replay --scenario minority-leader --html FILE` has made.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';
import { chromium } from 'playwright-core';

const [tallyd, recording, directory] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: process.getuid() === 0 ? ['--no-sandbox'] : [],
});
const save = (page, name, clip) => page.screenshot({ path: join(directory, `${name}.png`), fullPage: true, clip });
const lab = spawn(tallyd, ['lab', '--port', '0', '--no-browser'], { stdio: ['ignore', 'pipe', 'inherit'] });
process.on('exit', () => lab.kill('SIGTERM'));
const address = await new Promise((done, fail) => {
  createInterface({ input: lab.stdout }).on('line', line => { const found = line.match(/http:\S+/); if (found) done(found[0]); });
  lab.on('exit', () => fail(new Error('the lab has ended')));
});

const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
await page.goto(address);
await page.waitForFunction(() => Number(document.body.dataset.whole) > 0, null, { timeout: 60_000 });
// What was asked while the nodes started is out of the lanes by then.
await page.waitForTimeout(12_000);
await page.evaluate(async () => {
  const { lab } = await import('/lab.js');
  const leader = lab.leader(), [near] = lab.followers();
  for (const [node, level] of [[near, ''], [leader, 'local'], [leader, 'linearizable'], [near, 'bounded:200'], [near, 'local']]) await lab.client(node, level, 5);
});
await page.waitForTimeout(8_000);
await page.getByRole('button', { name: 'Leader alone' }).click();
// A refused read takes a second, and less than ten of a kind are no measure.
await page.waitForTimeout(13_000);
await page.locator('.link[aria-label^="link node 1 and node 3"]').click();
await page.evaluate(() => scrollTo(0, 0));
await page.waitForTimeout(600);
await save(page, 'lab');

await page.getByRole('button', { name: 'Reset' }).click();
await page.goto(`${address}#/lesson/minority-leader`);
const lesson = page.locator('#lesson'), is = state => page.locator(`#lesson[data-state=${state}]`).waitFor({ timeout: 90_000 });
await is('asking');
await lesson.getByRole('radio').nth(1).check();
await lesson.getByRole('button', { name: 'See what happens' }).click();
await is('done');
await page.waitForTimeout(500);
await save(page, 'lab-lesson', { x: 0, y: 0, width: 1280, height: 1400 });
await page.setViewportSize({ width: 390, height: 900 });
await page.emulateMedia({ colorScheme: 'dark' });
await page.waitForTimeout(500);
await save(page, 'lab-narrow-dark', { x: 0, y: 0, width: 390, height: 1500 });
lab.removeAllListeners('exit');
lab.kill('SIGTERM');

// Around the first election behind the first fault: where votes and most other kinds of messages are under way.
const player = await browser.newPage({ viewport: { width: 1280, height: 1100 } });
await player.goto(pathToFileURL(resolve(recording)).href);
await player.waitForSelector('body[data-ready=yes]');
for (const key of ['f', 'l']) await player.keyboard.press(key);
await player.selectOption('#span', '2000');
await player.evaluate(() => document.activeElement.blur());
/** How many kinds are drawn just now, by the inks of the legend, votes above all; what was lost is no kind. */
const kinds = () => player.evaluate(() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {
  const canvas = document.querySelector('#picture canvas'), { width, height } = canvas;
  const pen = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  pen.drawImage(canvas, 0, 0);
  const { data } = pen.getImageData(0, 0, width, height), seen = new Set();
  const inks = [...document.querySelectorAll('#kinds [data-kind] .key')].map(key => getComputedStyle(key).color.match(/\d+/g).join());
  for (let at = 0; at < data.length; at += 4) if (data[at + 3] === 255) seen.add(`${data[at]},${data[at + 1]},${data[at + 2]}`);
  done(inks.reduce((sum, ink, kind) => sum + seen.has(ink) * (kind ? 1 : 5), 0));
}))));
let most = 0, at = 0;
for (let steps = 0; steps < 75; steps++) await player.keyboard.press(',');
for (let steps = 0; steps < 150; steps++) {
  await player.keyboard.press('.');
  const now = await kinds();
  if (now > most) [most, at] = [now, await player.evaluate(() => Number(location.hash.slice(3)))];
}
assert.ok(most > 1, 'messages of several kinds');
await player.evaluate(at => { const scrub = document.getElementById('scrub'); scrub.value = at; scrub.dispatchEvent(new Event('input')); }, at);
await player.waitForTimeout(500);
await save(player, 'player');
await browser.close();
