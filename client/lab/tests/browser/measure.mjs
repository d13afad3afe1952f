// Measures the page of a lab of five nodes while 2,000 calls a second are answered: frames, and how far the page is
// behind. Then what a clean proxy adds to a call.
//
//   node measure.mjs TALLYD TALLY [SECONDS]
//
// Figures of the machine that it runs on, with the browser, the nodes and the clients on it: for people, not for CI.

import { execFile, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { chromium } from 'playwright-core';

const [tallyd, tally, seconds = '10'] = process.argv.slice(2);
const run = promisify(execFile);
const NODES = 5, RATE = 2000, CLIENTS = 16, BENCH = ['--clients', '4', '--duration', `${seconds}s`, '--warmup', '2s', '--json'];

const lab = spawn(tallyd, ['lab', '--nodes', String(NODES), '--port', '0', '--no-browser'], { stdio: ['ignore', 'pipe', 'inherit'] });
process.on('exit', () => lab.kill('SIGTERM'));
const address = await new Promise(done => createInterface({ input: lab.stdout }).on('line', line => {
  const found = line.match(/http:\/\/127\.0\.0\.1:\d+\//);
  if (found) done(found[0]);
}));
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: process.getuid() === 0 ? ['--no-sandbox'] : [],
});
const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
const began = Date.now();
await page.goto(address);
await page.waitForFunction(() => document.body.dataset.whole === 'true', null, { timeout: 60_000 });
console.log(`the page shows ${NODES} nodes and a leader after ${Date.now() - began} ms`);

const state = async () => (await fetch(`${address}api/state`)).json();
const ticks = () => Number(readFileSync(`/proc/${lab.pid}/stat`, 'utf8').split(') ')[1].split(' ').slice(11, 13).reduce((a, b) => Number(a) + Number(b)));

/** Frames of so many seconds, and the calls that the page was told of meanwhile. */
const frames = () => page.evaluate(async seconds => {
  const { lab } = await import('/lab.js');
  const gaps = [], first = lab.records.at(-1)?.seq ?? 0;
  await new Promise(done => {
    let last = performance.now();
    const end = last + seconds * 1000;
    const look = now => { gaps.push(now - last); last = now; now < end ? requestAnimationFrame(look) : done(); };
    requestAnimationFrame(now => { last = now; requestAnimationFrame(look); });
  });
  gaps.sort((a, b) => a - b);
  return { fps: gaps.length / seconds, p99: gaps[Math.floor(gaps.length * 0.99)], longest: gaps.at(-1), answers: ((lab.records.at(-1)?.seq ?? 0) - first) / seconds };
}, Number(seconds));
const told = ({ fps, p99, longest, answers }) => `${fps.toFixed(1)} frames a second, 99 of 100 within ${p99.toFixed(1)} ms, the longest ${longest.toFixed(0)} ms; ${answers.toFixed(0)} answers a second`;

console.log(`idle: ${told(await frames())}`);
await page.evaluate(async ([clients, rate]) => {
  const { lab } = await import('/lab.js');
  const levels = ['', 'linearizable', 'bounded:500', 'session', 'local'];
  for (let at = 0; at < clients; at++) await lab.client(1 + at % lab.state.nodes.length, levels[at % levels.length], rate / clients);
}, [CLIENTS, RATE]);
await page.waitForTimeout(3000);
const before = ticks();
const loaded = await frames();
console.log(`${RATE} calls a second asked for: ${told(loaded)}`);
console.log(`the lab's own process, its proxies and ${CLIENTS} clients: ${((ticks() - before) / Number(seconds)).toFixed(0)} % of a core`);
await page.evaluate(async () => (await import('/lab.js')).lab.do({ do: 'end-client', id: null }));
await browser.close();

// Whoever leads now is asked by both ways; its own port stands in its command line.
const { nodes } = await state();
const leader = nodes.find(node => node.role === 'leader');
const words = readFileSync(`/proc/${leader.pid}/cmdline`, 'utf8').split('\0');
const direct = words[words.indexOf('--client-listen') + 1];
for (const round of [1, 2, 3]) for (const [way, endpoint] of [['direct', direct], ['through the lab', leader.client_address]]) {
  const { stdout } = await run(tally, ['bench', 'add-hot', ...BENCH, '--endpoints', endpoint]);
  console.log(`round ${round}, ${way}: ${stdout.trim()}`);
}
lab.kill('SIGTERM');
