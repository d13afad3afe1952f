// Plays the lab in Chromium as its users do, and asks the cluster itself whether what the page says is so.
//
//   node play.mjs TALLYD TALLY [--pictures DIR] [--only LESSON] [--web DIR]
//
// With --web the page's scripts are those of a directory, client/lab/web, and not those that TALLYD was built with.

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { gunzipSync } from 'node:zlib';
import { chromium } from 'playwright-core';
import { servedFrom } from './served.mjs';

const [tallyd, tally, ...flags] = process.argv.slice(2);
const flag = name => flags.includes(name) ? flags[flags.indexOf(name) + 1] : undefined;
const pictures = flag('--pictures'), only = flag('--only'), web = flag('--web');
if (pictures) mkdirSync(pictures, { recursive: true });

/** Lessons wait for elections, and the machine of a check may be busy; nothing is tried twice. */
const LESSON_MS = 90_000;
const PAGE_BYTES_MAX = 300_000;
/** A node that has not answered for so long is not shown as well. */
const ANSWERS_MS = 500;

/** A plan in a file. */
function planFile(text) {
  const path = join(mkdtempSync(join(tmpdir(), 'tally-plan-')), 'plan');
  writeFileSync(path, text);
  return path;
}

/** Starts a lab, and waits for its address. */
async function start(...more) {
  const lab = spawn(tallyd, ['lab', '--port', '0', '--no-browser', ...more], { stdio: ['ignore', 'pipe', 'inherit'] });
  const said = [], ended = new Promise(done => lab.on('exit', done));
  process.on('exit', () => lab.kill('SIGTERM'));
  const address = await new Promise((done, fail) => {
    createInterface({ input: lab.stdout }).on('line', line => {
      said.push(line);
      const found = line.match(/http:\/\/127\.0\.0\.1:\d+\//);
      if (found) done(found[0]);
    });
    ended.then(() => fail(new Error('the lab has ended')));
  });
  return { lab, ended, address, directory: said[0].match(/files in (\S+)/)[1] };
}
const { lab, ended, address, directory } = await start();

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: process.getuid() === 0 ? ['--no-sandbox'] : [],
});
const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
if (web) await servedFrom(context, web);
const page = await context.newPage();
const wrong = [], elsewhere = [];
page.on('console', message => { if (['error', 'warning'].includes(message.type())) wrong.push(message.text()); });
page.on('pageerror', error => wrong.push(String(error)));
page.on('request', request => { if (!request.url().startsWith(address)) elsewhere.push(request.url()); });

const state = async () => (await fetch(`${address}api/state`)).json();
const run = promisify(execFile);
/** What the command line says, which knows nothing of the lab. */
async function ask(...words) {
  const { nodes } = await state();
  const endpoints = nodes.map(node => node.client_address).join(',');
  const { stdout } = await run(tally, [...words, '--json', '--endpoints', endpoints, '--deadline', '10s']);
  return JSON.parse(stdout);
}
async function until(what, fact, ms = 30_000) {
  for (const began = Date.now(); Date.now() - began < ms; await new Promise(done => setTimeout(done, 100))) if (await fact()) return;
  assert.fail(`${what}: not within ${ms} ms`);
}
/** Waits until the page shows that all is well, by what the nodes said after this was asked: what it showed before may be
 *  of before the last click. */
const whole = async () => page.waitForFunction(since => Number(document.body.dataset.whole) > since, ((await state()).t ?? 0) + ANSWERS_MS, { timeout: 60_000 });
let checks = 0;
const ok = what => { checks += 1; console.log(`ok ${checks}: ${what}`); };

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
async function accessible(where) {
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => globalThis.axe.run());
    const told = violations.map(({ id, nodes }) => `${id}: ${nodes.map(node => `${node.html} ${node.failureSummary}`).join('; ')}`);
    assert.deepEqual(told, [], `axe, ${where}, ${colorScheme}`);
  }
  await page.emulateMedia({ colorScheme: 'light' });
}
async function picture(name) {
  if (!pictures) return;
  for (const [size, width] of [['wide', 1280], ['narrow', 390]]) for (const colorScheme of ['light', 'dark']) {
    await page.setViewportSize({ width, height: 900 });
    await page.emulateMedia({ colorScheme });
    await page.waitForTimeout(200);
    await page.screenshot({ path: `${pictures}/${name}-${size}-${colorScheme}.png`, fullPage: size === 'narrow' });
  }
  await page.setViewportSize({ width: 1280, height: 900 });
  await page.emulateMedia({ colorScheme: 'light' });
}

// --- Who may ---------------------------------------------------------------------------------
{
  const post = (headers, body = '{"do":"heal"}') => fetch(`${address}api/command`, { method: 'POST', headers, body });
  assert.equal((await post({})).status, 403, 'a page of another site has no token');
  const { port } = new URL(address);
  const foreign = await run('curl', ['-s', '-o', '/dev/null', '-w', '%{http_code}', '-H', `Host: evil.example:${port}`, address]);
  assert.equal(foreign.stdout, '421', 'a name that was made to point here is not served');
  ok('no token, or another host: refused');
}
// --- What it weighs -----------------------------------------------------------------------------
{
  const { stdout: index } = await run('curl', ['-s', '--output', '-', address], { encoding: 'buffer' });
  const text = gunzipSync(index).toString();
  const paths = ['base.css', 'style.css', 'parts.js', 'cluster.js', 'main.js', 'lab.js', 'lanes.js', 'lesson.js', 'lessons.js', 'messages.js', 'meters.js', 'picture.js', 'plan.js', 'scene.js', 'icon.svg'];
  let bytes = index.length;
  for (const path of paths) bytes += (await run('curl', ['-s', '--output', '-', address + path], { encoding: 'buffer' })).stdout.length;
  assert.match(text, /lab-token/);
  assert.ok(bytes < PAGE_BYTES_MAX, `${bytes} bytes`);
  ok(`the page is ${bytes} bytes, packed`);
}

// --- Without a lesson -----------------------------------------------------------------------------
await page.goto(address);
await whole();
await accessible('the first page');
ok('axe finds nothing on the first page, light and dark');
if (!only) {
  await page.getByRole('button', { name: 'Start a client' }).click();
  await page.getByLabel('What it does').selectOption('local');
  await page.getByRole('button', { name: 'Start a client' }).click();
  await until('both clients are answered', async () => (await state()).meters.filter(meter => meter.answered > 3).length === 2);
  await page.getByText('The picture as a table').click();
  await page.getByText('The newest answers as a table').click();
  await page.waitForTimeout(700);
  await accessible('with clients and tables');
  await picture('first');
  // The table is the cluster's own word.
  const rows = await page.evaluate(() => [...document.querySelector('#table-body table').tBodies[0].rows].map(row => [...row.cells].map(cell => cell.textContent)));
  const { nodes } = await ask('status');
  for (const node of nodes) {
    const row = rows.find(row => row[0] === `node ${node.id}`);
    assert.deepEqual([row[1], row[2], Number(row[3])], [node.role, 'well', node.term], `node ${node.id}`);
    assert.ok(Number(row[7]) <= node.applied_index, 'applied, a moment ago');
  }
  ok('roles, terms and applied entries are what `tally status` says');
  const value = async () => (await ask('counter', 'get', 'hits')).value;
  const before = await value();
  await until('the counter grows', async () => (await value()) > before);
  await page.getByRole('button', { name: 'End all' }).click();
  ok('what the page’s client adds is in the cluster');

  // --- What travels on the links ---
  const told = () => page.evaluate(() => Object.fromEntries([...document.querySelectorAll('#kinds li')].map(each => [each.dataset.kind, Number(each.querySelector('b').textContent)])));
  /** By link, of the table: what has arrived between nodes since the scene began. */
  const carried = async () => {
    await page.waitForFunction(since => Number(document.body.dataset.words) >= since, (await state()).t);
    const [words, ...rows] = await page.evaluate(() => [...document.querySelectorAll('#table-body table')[1].rows].map(row => [...row.cells].map(cell => cell.textContent)));
    return Object.fromEntries(rows.filter(([link]) => !link.includes('clients')).map(row => [row[0], Object.fromEntries(words.map((word, at) => [word, Number(row[at])]).slice(2))]));
  };
  const leads = async () => { await whole(); return (await state()).nodes.find(node => node.role === 'leader').id; };
  /** Which kinds the picture draws from now on, until it draws one that is waited for: by the inks of its legend, one for each. */
  const drawn = (ms, awaited) => page.evaluate(([ms, awaited]) => new Promise(done => {
    const canvas = document.querySelector('#picture canvas'), seen = new Set(), began = performance.now();
    const pen = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });
    const inks = [...document.querySelectorAll('#kinds li')].map(each => [each.dataset.kind, getComputedStyle(each.querySelector('.key')).color.match(/\d+/g).map(Number)]);
    const look = () => {
      pen.clearRect(0, 0, canvas.width, canvas.height);
      pen.drawImage(canvas, 0, 0);
      const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
      for (let at = 0; at < data.length; at += 4) {
        if (data[at + 3] !== 255) continue;
        for (const [kind, ink] of inks) if (ink.every((part, of) => part === data[at + of])) seen.add(kind);
      }
      if (performance.now() - began < ms && !seen.has(awaited)) requestAnimationFrame(look); else done([...seen]);
    };
    look();
  }), [ms, awaited]);
  assert.ok((await told()).appends > 0, 'adds are appends with entries');
  {
    const leader = await leads();
    const [before, links] = [await told(), await carried()], kinds = await drawn(3000), [now, linksNow] = [await told(), await carried()];
    assert.equal(now.votes, before.votes, 'in rest nobody asks for votes');
    assert.ok(now.heartbeats > before.heartbeats + 10, `${before.heartbeats} and ${now.heartbeats} heartbeats`);
    for (const [link, is] of Object.entries(linksNow)) {
      const beats = is.heartbeats - links[link].heartbeats, fromLeader = link.startsWith(`node ${leader} `);
      assert.ok(fromLeader ? beats > 5 : beats === 0, `${beats} heartbeats from ${link}, and node ${leader} leads`);
    }
    assert.ok(kinds.includes('heartbeats') && !kinds.includes('votes'), `drawn: ${kinds}`);
    ok('in rest the leader’s heartbeats are told and drawn, and no votes');
  }
  for (const strike of ['cut off', 'killed']) {
    const leader = await leads();
    const [links, { nodes }] = [await carried(), await state()], { term } = nodes.find(node => node.id === leader);
    // In the moment in which the page first shows another leader: what it has told of votes by then.
    const elected = page.evaluate(leader => new Promise(done => {
      const votes = () => Number(document.querySelector('#kinds [data-kind=votes] b').textContent), before = votes();
      const watcher = new MutationObserver(() => {
        const other = [...document.querySelectorAll('#picture .node.leader')].map(each => Number(each.getAttribute('aria-label').match(/^node (\d+) /)[1])).find(id => id !== leader);
        if (other) { watcher.disconnect(); done({ leader: other, votes: votes() - before }); }
      });
      watcher.observe(document.getElementById('picture'), { subtree: true, attributes: true });
    }), leader);
    const kinds = drawn(30_000, 'votes');
    if (strike === 'cut off') await page.getByRole('button', { name: 'Leader alone' }).click();
    else {
      await page.locator(`.node[aria-label^="node ${leader} "]`).click();
      await page.getByRole('button', { name: 'Kill' }).click();
    }
    const next = await elected;
    assert.ok(next.votes > 0, `node ${next.leader} leads, by ${next.votes} votes that were told`);
    const third = [1, 2, 3].find(id => id !== leader && id !== next.leader), ways = [`node ${next.leader} to node ${third}`, `node ${third} to node ${next.leader}`];
    await until('the table tells of the votes, asked for and given', async () => { const now = await carried(); return ways.every(way => now[way].votes > links[way].votes); });
    const now = await carried();
    for (const id of [next.leader, third]) for (const way of [`node ${leader} to node ${id}`, `node ${id} to node ${leader}`]) {
      assert.equal(now[way].votes, links[way].votes, `${way}, and node ${leader} is ${strike}`);
    }
    assert.ok((await state()).nodes.find(node => node.id === next.leader).term > term);
    assert.ok((await kinds).includes('votes'), `drawn: ${await kinds}`);
    ok(`the leader was ${strike}: votes are told and drawn, on the links that carry any, no later than the leader that they made`);
    if (strike === 'cut off') await page.getByRole('button', { name: 'Heal all links' }).click();
    else await page.getByRole('button', { name: 'Start again' }).click();
  }
  await whole();
  await page.getByRole('button', { name: 'Reset' }).click();
  assert.equal((await told()).votes, 0, 'another scene');

  // --- A cut that is shown is a cut that is felt, and by the keyboard alone ---
  const reads = async node => run(tally, ['counter', 'get', 'hits', '--read', 'local', '--endpoints', node.client_address, '--deadline', '1500ms']).then(() => true, () => false);
  const [first] = (await state()).nodes;
  assert.ok(await reads(first));
  await page.locator('.link[aria-label^="link clients and node 1:"]').focus();
  await page.keyboard.press('Enter');
  await page.keyboard.press('Enter');
  await page.locator('.link[aria-label*="clients to node 1 cut"]').waitFor();
  assert.ok(!(await reads(first)), 'a client feels the cut');
  await page.keyboard.press('Enter');
  await page.locator('.link[aria-label*="clients to node 1 clean"]').waitFor();
  await until('the client is answered again', () => reads(first));
  ok('a link cut with the keyboard is cut for `tally`, and healed for it');

  /** Steps through a select of the panel by arrows; the focus stays on it, or the next key would kill or cut. */
  const steps = async (of, label, keys) => {
    await page.locator(of).first().focus();
    await page.keyboard.press('Enter');
    await page.locator('#panel').getByLabel(label).focus();
    for (const [key, says] of keys) {
      await page.keyboard.press(key);
      await page.locator(`${of}[aria-label*="${says}"]`).waitFor();
      await page.waitForFunction(is => document.querySelector('#panel select:focus')?.selectedOptions[0].textContent === is, says.replace('clock ', ''), { timeout: 5_000 });
    }
    await page.locator('#panel').getByLabel(label).selectOption('0');
    await page.locator(`${of}[aria-label*="${keys.at(-1)[1]}"]`).waitFor({ state: 'detached' });
  };
  await steps('.link[aria-label^="link node 1 and node 2:"]', 'slow', [['ArrowDown', '20 ms'], ['ArrowDown', '50 ms'], ['ArrowUp', '20 ms']]);
  await steps('.node[aria-label^="node 2 "]', 'its clock', [['ArrowDown', 'clock 1 s ahead'], ['ArrowDown', 'clock 1 h ahead']]);
  ok('a select of the panel is stepped through by arrows, and keeps the focus');

  await page.locator('.node[aria-label^="node 2 "]').click();
  const pid = (await state()).nodes[1].pid;
  await page.getByRole('button', { name: 'Pause' }).click();
  await page.locator('.node[aria-label^="node 2 paused"]').waitFor();
  assert.match(readFileSync(`/proc/${pid}/stat`, 'utf8'), /\) T /);
  await page.getByRole('button', { name: 'Go on' }).click();
  await page.getByRole('button', { name: 'Kill' }).click();
  await page.locator('.node[aria-label^="node 2 dead"]').waitFor();
  assert.ok(!existsSync(`/proc/${pid}`), 'the process is gone');
  await page.getByRole('button', { name: 'Start again' }).click();
  await whole();
  ok('pause, go on, kill and start again are done to the process');

  await page.locator('.node[aria-label^="node 3 "]').click();
  const third = async () => (await ask('status')).nodes.find(node => node.id === 3);
  await page.getByRole('button', { name: 'Fill its disk' }).click();
  await page.locator('.node[aria-label*="disk full"]').waitFor();
  await until('the node says that its disk is nearly full', async () => (await third()).disk_nearly_full);
  await page.getByLabel('its clock').selectOption('3600000');
  await page.locator('.node[aria-label*="clock 1 h ahead"]').waitFor();
  await page.getByRole('button', { name: 'Copy an address' }).click();
  assert.match(await page.locator('#share-said a').getAttribute('href'), /full_\d\.clock3600000/);
  await page.getByRole('button', { name: 'Give its disk room' }).click();
  await page.getByLabel('its clock').selectOption('0');
  await until('the node says that there is room', async () => !(await third()).disk_nearly_full);
  await page.getByRole('button', { name: 'Copy what was done' }).click();
  const plan = await page.locator('#plan-text').innerText();
  /** Another cluster has another leader: a plan that named ids would do something else there. */
  const roles = line => new RegExp(line.source.replaceAll('ROLE', '(leader|follower [12])'));
  assert.doesNotMatch(plan, /node \d/);
  for (const line of [/for \d+ms cut-clients ROLE$/, /pause ROLE$/, /kill ROLE$/, /full-disk ROLE$/, /clock ROLE \+3600000ms$/]) {
    assert.ok(plan.split('\n').some(each => roles(line).test(each)), `${line}:\n${plan}`);
  }
  if (pictures) writeFileSync(`${pictures}/plan.txt`, plan);
  const read = await run(tallyd, ['chaos', '--plan', planFile(plan), '--print-plan', '--', 'true']);
  assert.match(read.stdout + read.stderr, /clock (leader|follower( 2)?) \+1h/);
  ok('what was done is a plan that chaos reads');

  // --- What a plan can't say exactly, it says so ---
  const copied = async () => { await page.getByRole('button', { name: 'Copy what was done' }).click(); return page.locator('#share-said').innerText(); };
  await page.getByRole('button', { name: 'Reset' }).click();
  // What the page exports is what the page has heard: its picture says when.
  const pageHears = (what, is) => until(`the page hears that ${what}`, async () => is(await page.locator('.link').evaluateAll(links => links.map(link => link.getAttribute('aria-label')))));
  const link = async (label, change) => {
    await page.locator(`.link[aria-label^="link ${label}:"]`).click();
    for (const [name, value] of Object.entries(change)) await page.locator('#panel').getByLabel(name).selectOption(value);
    const is = `${change.slow} ms −${change.loses} %`;
    await pageHears(`${label} is so`, labels => labels.some(each => each.startsWith(`link ${label}:`) && each.split(is).length === 3));
    await page.getByRole('button', { name: 'Heal all links' }).click();
    await pageHears('it is over', labels => labels.every(each => each.split(' clean').length === 3));
  };
  await link('node 1 and node 2', { slow: '100', loses: '10' });
  await link('clients and node 3', { slow: '50', loses: '30' });
  const lines = (await copied()).split('\n').filter(each => /^(# )?at /.test(each));
  const expected = [/slow ROLE 100ms   # in the lab to ROLE alone, both ways$/, /lossy ROLE 10%   # in the lab to ROLE alone, both ways$/,
    /slow-answers ROLE 50ms   # in the lab requests of clients to it and its answers$/, /^# .*no word for: ROLE, of .* 30 % were lost$/].map(roles);
  for (const line of expected) assert.ok(lines.some(each => line.test(each)), `${line}:\n${lines.join('\n')}`);
  assert.equal(lines.length, expected.length, lines.join('\n'));
  const said = await run(tallyd, ['chaos', '--plan', planFile(lines.join('\n')), '--print-plan', '--', 'true']);
  assert.match(said.stdout + said.stderr, /slow-answers (leader|follower( 2)?) 50ms/);
  ok('a link that is slow or loses is told with what a plan does instead');
  await page.getByRole('button', { name: 'Reset' }).click();
  await whole();
  await page.getByRole('button', { name: 'Bridge' }).click();
  await pageHears('a link is cut', labels => labels.filter(each => each.split(' cut').length === 3).length === 1);
  const bridge = (await copied()).match(/one-way .*/g);
  assert.deepEqual(bridge?.toSorted(), ['one-way follower 2 to leader', 'one-way leader to follower 2'], 'the last follower, whoever leads');
  await page.getByRole('button', { name: 'Heal all links' }).click();
  await whole();
  ok('a plan names who leads and follows, and no node');
  ok('a full disk is full for the node, and a clock is set, by clicking');

  // --- Sharing ---
  await page.getByRole('button', { name: 'A follower alone' }).click();
  await page.getByRole('button', { name: 'Start a client' }).click();
  await page.locator('.node[aria-label^="node 3 "]').click();
  await page.getByLabel('its clock').selectOption('3600000');
  await page.locator('.node[aria-label*="clock 1 h ahead"]').waitFor();
  await page.locator('.link[aria-label*=" cut"]').nth(1).waitFor();
  await page.locator('#client-list button').first().waitFor();
  await page.getByRole('button', { name: /Copy an address/ }).click();
  const shared = await page.locator('#share-said a').getAttribute('href');
  await page.getByRole('button', { name: 'Reset' }).click();
  await until('all is reset', async () => { const now = await state(); return !now.links.some(link => link.cut) && !now.clients.length && !now.nodes.some(node => node.clock_offset_ms); });
  await page.goto(shared);
  await until('the shared scene is set', async () => { const now = await state(); return now.links.filter(link => link.cut).length === 4 && now.clients.length === 1 && now.nodes.filter(node => node.clock_offset_ms === 3600000).length === 1; });
  ok('an address sets the same scene');
  for (const [bad, says] of [['scene/%E0%A4%A', /URI/], ['scene', /there is none/], ['scene/0.9.1.0.0~~', /9 is not from 0 to 3/], ['scene/~1.foo~', /“1.foo”/],
    ['scene/~~1.5.nonsense', /no client/], ['scene/~~1.9999.local', /9999 is not from 1 to 500/], ['lesson/nope', /no lesson/]]) {
    await page.goto(`${address}#/${bad}`);
    await page.waitForFunction(() => document.querySelector('#share-said').textContent.includes('can’t be gone to'));
    assert.match(await page.locator('#share-said').innerText(), says, bad);
    assert.equal((await state()).clients.length, 1, `${bad}: what was there is left alone`);
  }
  ok('an address that is none says why, and does nothing');

  // --- A lesson that was left does nothing more ---
  const lesson = page.locator('#lesson'), asks = () => until('it asks', async () => await lesson.getAttribute('data-state') === 'asking', LESSON_MS);
  await page.goto(`${address}#/lesson/hot-counter`);
  await asks();
  await lesson.getByRole('radio').first().check();
  await lesson.getByRole('button', { name: 'See what happens' }).click();
  await until('its clients run', async () => (await state()).clients.length > 0);
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute('role')), 'status', 'the focus is where it will be said');
  await page.goto(`${address}#/lesson/quorum-lost`);
  await page.waitForFunction(() => document.querySelector('#lesson').dataset.state === 'setting' || document.querySelector('#lesson-title').textContent.includes('quorum'));
  await asks();
  // The other one would have ended all clients after three seconds.
  await page.waitForTimeout(4_000);
  assert.deepEqual((await state()).clients.map(client => client.per_second), [5], 'the client of this lesson runs');
  ok('a lesson that was left does nothing in the next one');
}

// --- Lessons -------------------------------------------------------------------------------------
await page.goto(`${address}#/`);
const lessons = await page.locator('#lesson-list a').evaluateAll(links => links.map(link => link.hash.split('/')[2]));
assert.ok(lessons.length >= 12);
for (const name of only ? [only] : lessons) {
  if (!(await page.locator('#lessons').isVisible())) await page.getByRole('button', { name: 'Lessons' }).click();
  await page.locator(`#lesson-list a[href="#/lesson/${name}"]`).click();
  const box = page.locator('#lesson'), is = async (...states) => {
    await until(`${name}: ${states}`, async () => [...states, 'failed'].includes(await box.getAttribute('data-state')), LESSON_MS);
    assert.notEqual(await box.getAttribute('data-state'), 'failed', await box.innerText());
  };
  await is('asking');
  assert.ok(await box.getByRole('button', { name: 'See what happens' }).isDisabled(), 'a prediction is asked for first');
  await box.getByRole('radio').first().check();
  await box.getByRole('button', { name: 'See what happens' }).click();
  await is('done');
  const answer = await box.getAttribute('data-answer');
  assert.notEqual(answer, 'other', `${name}: ${await box.innerText()}`);
  const explains = await box.locator('pre').innerText();
  assert.match(explains, /node \d|counter /, explains);
  await picture(name);
  await accessible(name);
  await fetch(`${address}api/state`);
  for (const [counter, value] of Object.entries(JSON.parse(await box.getAttribute('data-check')))) {
    await page.getByRole('button', { name: 'Heal all links' }).click();
    assert.equal((await ask('counter', 'get', counter)).value, value, `${name}: ${counter}`);
  }
  ok(`lesson ${name}: ${answer}`);
  if (name !== lessons[0] && name !== only) continue;
  // What is exported begins with the scene that was set last.
  await page.getByRole('button', { name: 'A follower alone' }).click();
  await page.locator('.link[aria-label*=" cut"]').first().waitFor();
  const plan = async () => { await page.getByRole('button', { name: 'Copy what was done' }).click(); return page.locator('#share-said').innerText(); };
  const cut = /^at \d+ms for \d+ms cut /m;
  assert.match(await plan(), cut);
  await box.getByRole('button', { name: 'Once more' }).click();
  await is('asking');
  assert.doesNotMatch(await plan(), cut, 'what was done before is no part of it');
  ok('once more is a new beginning, also of what is exported');
}
const kept = await page.evaluate(() => JSON.parse(localStorage.getItem('tally-lab-lessons')));
assert.deepEqual(Object.keys(kept), only ? [only] : lessons);
assert.ok((await state()).meters.every(meter => meter.understated === 0), 'no answer was staler than proven');

// --- By the keyboard alone -------------------------------------------------------------------------
if (!only) {
  await page.goto('about:blank');
  await page.goto(address);
  await whole();
  const tabTo = async selector => {
    for (let left = 120; left; left--) {
      await page.keyboard.press('Tab');
      if (await page.evaluate(selector => document.activeElement.matches(selector), selector)) return;
    }
    assert.fail(`Tab never reaches ${selector}`);
  };
  await tabTo('#lesson-list a');
  await page.keyboard.press('Enter');
  await until('it asks', async () => await page.locator('#lesson').getAttribute('data-state') === 'asking');
  await tabTo('#lesson input[type=radio]');
  await page.keyboard.press('ArrowDown');
  await tabTo('#lesson button.main');
  await page.keyboard.press('Enter');
  await until('it is played', async () => await page.locator('#lesson').getAttribute('data-state') === 'done', LESSON_MS);
  ok('a lesson by the keyboard alone');
}
assert.deepEqual(wrong, [], 'the console');
assert.deepEqual(elsewhere, [], 'requests to elsewhere');
ok('nothing in the console, nothing from elsewhere');

// --- And it leaves nothing ---
const pids = (await state()).nodes.map(node => node.pid).filter(Boolean);
await browser.close();
lab.kill('SIGTERM');
assert.equal(await ended, 0);
assert.ok(!existsSync(directory), `${directory} is left`);
for (const pid of pids) assert.ok(!existsSync(`/proc/${pid}`), `node process ${pid} is left`);
ok('no process and no directory is left');

// --- Nor if it is killed, a paused node included; its files go when the next lab starts ---
{
  const killed = await start();
  const their = async ({ address } = killed) => (await (await fetch(`${address}api/state`)).json()).nodes ?? [];
  const answers = lab => until('the nodes answer', async () => { const nodes = await their(lab); return nodes.length && nodes.every(node => node.answers); });
  await answers();
  const command = async (body, { address } = killed) => {
    const page = gunzipSync((await run('curl', ['-s', '--output', '-', address], { encoding: 'buffer' })).stdout).toString();
    const token = page.match(/lab-token" content="([^"]+)"/)[1];
    return fetch(`${address}api/command`, { method: 'POST', headers: { 'x-lab-token': token }, body });
  };
  const minority = '{"do":"cut","name":"minority-of-two"}';
  const refused = await command(minority);
  assert.equal(refused.status, 400);
  assert.match((await refused.json()).error, /--nodes 5/, 'two of three are no minority');
  assert.equal((await command('{"do":"pause","node":1}')).status, 200);
  const pids = (await their()).map(node => node.pid);
  killed.lab.kill('SIGKILL');
  await killed.ended;
  const lives = pid => existsSync(`/proc/${pid}`) && !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  await until('no node outlives it', async () => !pids.some(lives));
  assert.ok(existsSync(killed.directory));
  const next = await start('--nodes', '5');
  assert.ok(!existsSync(killed.directory), `${killed.directory} is left`);
  ok('nor of a lab that was killed, but for files, which the next one removes');

  // Two of five, of whom one led: the other three choose another leader.
  await answers(next);
  await until('somebody leads', async () => (await their(next)).some(node => node.role === 'leader'));
  const cut = await (await command(minority, next)).json();
  const two = [cut.leader, cut.follower];
  const sides = async () => (await (await fetch(`${next.address}api/state`)).json()).links.filter(link => link.cut).map(link => two.includes(link.from) + two.includes(link.to));
  await until('the state tells of the cut', async () => (await sides()).length > 0);
  assert.deepEqual(await sides(), Array(12).fill(1));
  await until('the other three have a leader', async () => (await their(next)).some(node => node.role === 'leader' && !two.includes(node.id)));
  next.lab.kill('SIGTERM');
  assert.equal(await next.ended, 0);
  ok('a minority of two, with five nodes');
}
console.log(`${checks} checks passed`);
