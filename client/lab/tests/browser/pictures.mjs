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
await page.waitForFunction(() => document.body.dataset.whole === 'true', null, { timeout: 60_000 });
// What was asked while the nodes started is out of the lanes by then.
await page.waitForTimeout(12_000);
await page.evaluate(async () => {
  const { lab } = await import('/lab.js');
  const leader = lab.leader(), [near] = lab.followers();
  for (const [node, level] of [[near, ''], [leader, 'local'], [leader, 'linearizable'], [near, 'bounded:200'], [near, 'local']]) await lab.client(node, level, 5);
});
await page.waitForTimeout(8_000);
await page.getByRole('button', { name: 'Leader alone' }).click();
await page.waitForTimeout(8_000);
await page.locator('.link').first().click();
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

// A moment after the first fault: until messages are under way, and some are lost.
const player = await browser.newPage({ viewport: { width: 1280, height: 1100 } });
await player.goto(pathToFileURL(resolve(recording)).href);
await player.waitForSelector('body[data-ready=yes]');
await player.keyboard.press('f');
await player.selectOption('#span', '2000');
await player.evaluate(() => document.activeElement.blur());
const colours = () => player.evaluate(() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {
  const canvas = document.querySelector('#picture canvas'), { width, height } = canvas;
  const pen = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  pen.drawImage(canvas, 0, 0);
  const { data } = pen.getImageData(0, 0, width, height), seen = new Set();
  for (let at = 0; at < data.length; at += 4) if (data[at + 3] === 255) seen.add(`${data[at]},${data[at + 1]},${data[at + 2]}`);
  done(seen.size);
}))));
let most = 0, at = 0;
for (let steps = 0; steps < 400; steps++) {
  await player.keyboard.press('.');
  const now = await colours();
  if (now > most) [most, at] = [now, await player.evaluate(() => Number(location.hash.slice(3)))];
}
assert.ok(most > 1, 'messages of several kinds');
await player.evaluate(at => { const scrub = document.getElementById('scrub'); scrub.value = at; scrub.dispatchEvent(new Event('input')); }, at);
await player.waitForTimeout(500);
await save(player, 'player');
await browser.close();
