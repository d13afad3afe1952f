// Says when a lab of five nodes asks its first question, and measures its page while 2,000 calls a second are answered:
// frames, how far the page is behind, and what of a core the page and its browser take. Then what a clean proxy adds to a
// call.
//
//   node measure.mjs TALLYD TALLY [SECONDS] [--adds N] [--reads LEVEL:N]... [--told N] [--web DIR] [--pin] [--page-only]
//
// Without --adds and --reads the 2,000 calls are adds and reads of every level in equal parts. With --pin the browser has the
// machine's second core for itself, the nodes and the lab the first one. --web as for play.mjs. With --told the page is
// told of so many answers a second, made of those that came by changing their times: what the page can show where the nodes have
// too little of the machine to answer as many.
//
// Figures of the machine that it runs on, with the browser, the nodes and the clients on it: for people, not for CI.

import { execFile, execFileSync, spawn } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { parseArgs, promisify } from 'node:util';
import { chromium } from 'playwright-core';
import { servedFrom } from './served.mjs';

const { values: flags, positionals: [tallyd, tally, seconds = '10'] } = parseArgs({ allowPositionals: true, options: {
  adds: { type: 'string' }, reads: { type: 'string', multiple: true }, told: { type: 'string' }, web: { type: 'string' }, pin: { type: 'boolean' }, 'page-only': { type: 'boolean' } } });
const run = promisify(execFile);
const NODES = 5, PER_CLIENT = 125, BENCH = ['--clients', '4', '--duration', `${seconds}s`, '--warmup', '2s', '--json'];
const EACH = ['', 'linearizable', 'bounded:500', 'session', 'local'];
/** What is asked for, as [level, calls a second]; no level: adds. */
const MIX = flags.adds || flags.reads
  ? [['', Number(flags.adds ?? 0)], ...(flags.reads ?? []).map(each => [each.slice(0, each.lastIndexOf(':')), Number(each.split(':').at(-1))])]
  : EACH.map(level => [level, 2000 / EACH.length]);
const RATE = MIX.reduce((sum, [, rate]) => sum + rate, 0);
// Who is started from here inherits it.
if (flags.pin) execFileSync('taskset', ['-acp', '1', String(process.pid)]);

const words = [...flags.pin ? ['taskset', '-c', '0'] : [], tallyd, 'lab', '--nodes', String(NODES), '--port', '0', '--no-browser'];
const started = Date.now();
const lab = spawn(words[0], words.slice(1), { stdio: ['ignore', 'pipe', 'inherit'] });
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
if (flags.web) await servedFrom(page, flags.web);
if (flags.told) await page.addInitScript(multiplied, Number(flags.told));
const began = Date.now();
await page.goto(address);
await page.waitForFunction(() => Number(document.body.dataset.whole) > 0, null, { timeout: 60_000 });
console.log(`the page shows ${NODES} nodes and a leader after ${Date.now() - began} ms`);
await page.locator('#lesson-list a').first().click();
await page.locator('#lesson[data-state=asking]').waitFor();
console.log(`the first lesson asks for a prediction ${Date.now() - started} ms after \`tallyd lab\` was started, the browser's start included`);
await page.goto('about:blank');
await page.goto(address);
await page.waitForFunction(() => Number(document.body.dataset.whole) > 0, null, { timeout: 60_000 });
console.log(`load of the machine: ${readFileSync('/proc/loadavg', 'utf8').trim()}`);

/** In the page: has an event of the lab tell of more answers than came. What this costs is counted as the page's. */
function multiplied(perSecond) {
  const Real = EventSource;
  globalThis.EventSource = class {
    constructor(url) {
      const kept = new Map();
      let seq = 0, before = 0;
      new Real(url).onmessage = ({ data }) => {
        const event = JSON.parse(data), { t } = event.state, since = before || t - 100;
        for (const record of event.records) kept.set(record.client, record);
        const each = [...kept.values()], count = each.length ? Math.round(perSecond * (t - since) / 1000) : 0;
        event.records = Array.from({ length: count }, (_, at) => {
          const record = each[at % each.length], end = since + (t - since) * at / count;
          return { ...record, seq: ++seq, start: end - (record.end - record.start), end };
        });
        before = t;
        this.onmessage({ data: JSON.stringify(event) });
      };
    }
  };
}

const state = async () => (await fetch(`${address}api/state`)).json();
const stat = pid => { try { return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' '); } catch { return null; } };
/** Processes below one, and it. */
function family(pid) {
  const all = readdirSync('/proc').filter(name => /^\d+$/.test(name)).map(name => [Number(name), Number(stat(name)?.[1])]);
  const found = new Set([pid]);
  for (let more = true; more;) {
    const before = found.size;
    for (const [child, parent] of all) if (found.has(parent)) found.add(child);
    more = found.size > before;
  }
  return [...found];
}
/** What processes took of the CPU since they began, in 1/100 s. */
const ticks = pids => pids.map(stat).filter(Boolean).reduce((sum, it) => sum + Number(it[11]) + Number(it[12]), 0);
const nodesOf = () => family(lab.pid).filter(pid => pid !== lab.pid);
const browserOf = () => family(process.pid).filter(pid => pid !== process.pid && !family(lab.pid).includes(pid));

// Of the page's main thread, in time of the CPU: as much on a machine that is busy with others.
const devtools = await page.context().newCDPSession(page);
await devtools.send('Performance.enable', { timeDomain: 'threadTicks' });
const cost = async () => Object.fromEntries((await devtools.send('Performance.getMetrics')).metrics.map(({ name, value }) => [name, value]));
/** Runs something for the given time, and says what of a core each took. */
async function costs(what) {
  const took = () => [ticks([lab.pid]), ticks(nodesOf()), ticks(browserOf())];
  const [before, cpu] = [await cost(), took()];
  const told = await what();
  const [after, later] = [await cost(), took()];
  const percent = name => ((after[name] - before[name]) / Number(seconds) * 100).toFixed(1);
  const [own, nodes, browsers] = later.map((value, at) => ((value - cpu[at]) / Number(seconds)).toFixed(0));
  return `${told}\n  of a core: the page's main thread ${percent('TaskDuration')} % (scripts ${percent('ScriptDuration')}, styles ${percent('RecalcStyleDuration')}, layout ${percent('LayoutDuration')}), all of the browser ${browsers} %, the lab with its clients and proxies ${own} %, the nodes ${nodes} %`;
}

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

console.log(await costs(async () => `idle: ${told(await frames())}`));
await page.evaluate(async ([mix, most]) => {
  const { lab } = await import('/lab.js');
  let at = 0;
  for (const [level, rate] of mix) {
    const clients = Math.ceil(rate / most);
    for (let one = 0; one < clients; one++) await lab.client(1 + at++ % lab.state.nodes.length, level, Math.round(rate / clients));
  }
}, [MIX, PER_CLIENT]);
await page.waitForTimeout(3000);
const mix = MIX.map(([level, rate]) => `${rate} ${level || 'adds'}`).join(', ');
console.log(await costs(async () => `${RATE} calls a second asked for (${mix}): ${told(await frames())}`));
console.log(`load of the machine: ${readFileSync('/proc/loadavg', 'utf8').trim()}`);
await page.evaluate(async () => (await import('/lab.js')).lab.do({ do: 'end-client', id: null }));
await browser.close();
if (flags['page-only']) process.exit();

// Whoever leads now is asked by both ways; its own port stands in its command line.
const { nodes } = await state();
const leader = nodes.find(node => node.role === 'leader');
const said = readFileSync(`/proc/${leader.pid}/cmdline`, 'utf8').split('\0');
const direct = said[said.indexOf('--client-listen') + 1];
for (const round of [1, 2, 3]) for (const [way, endpoint] of [['direct', direct], ['through the lab', leader.client_address]]) {
  const { stdout } = await run(tally, ['bench', 'add-hot', ...BENCH, '--endpoints', endpoint]);
  console.log(`round ${round}, ${way}: ${stdout.trim()}`);
}
lab.kill('SIGTERM');
