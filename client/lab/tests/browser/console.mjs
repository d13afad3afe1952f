// Looks at the console in Chromium as its users do, and asks the cluster itself whether what the page says is so.
//
//   node console.mjs TALLYD TALLY [--pictures DIR]

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { createServer, request } from 'node:http';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';
import { openCluster, secureCluster, until } from './console-nodes.mjs';

const [tallyd, tally, ...flags] = process.argv.slice(2);
const pictures = flags.includes('--pictures') ? flags[flags.indexOf('--pictures') + 1] : undefined;
if (pictures) mkdirSync(pictures, { recursive: true });
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1));

const EVIL = 'evil.example';
const [open, secure] = await Promise.all([openCluster(tallyd, tally), secureCluster(tallyd, tally)]);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  // A name of somebody else's that leads to this machine.
  args: [`--host-resolver-rules=MAP ${EVIL} 127.0.0.1`, ...(process.getuid() === 0 ? ['--no-sandbox'] : [])],
});
const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ignoreHTTPSErrors: true });
const wrong = [], elsewhere = [];
/** Chromium itself tells of each refused or unanswered request as of an error, and of a header that it has no use for where
 * another name than this machine's is asked for without TLS: expected where a check does that. */
const EXPECTED = /^(Failed to load resource|The Cross-Origin-Opener-Policy header has been ignored)/;
let mayFail = false;
async function visit(address) {
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.on('console', message => {
    if (!['error', 'warning'].includes(message.type())) return;
    if (!(mayFail && EXPECTED.test(message.text()))) wrong.push(message.text());
  });
  page.on('pageerror', error => wrong.push(String(error)));
  page.on('request', request => { if (!request.url().startsWith(address) && !request.url().startsWith('data:')) elsewhere.push(request.url()); });
  await page.goto(address);
  return page;
}

let checks = 0;
const ok = what => { checks += 1; console.log(`ok ${checks}: ${what}`); };
const rows = (page, id) => page.locator(`#${id} tbody tr`).evaluateAll(rows => rows.map(row => [...row.cells].map(cell => cell.textContent)));
const said = (page, id) => page.locator(`#${id}`).textContent();
const says = (page, id, text) => page.waitForFunction(([id, text]) => document.getElementById(id).textContent.includes(text), [id, text]);

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
/** Light and dark, narrow and wide: axe finds nothing, and nothing hangs out. */
async function looks(page, name) {
  for (const [size, width] of [['narrow', 390], ['wide', 1280]]) for (const colorScheme of ['dark', 'light']) {
    await page.setViewportSize({ width, height: 900 });
    await page.emulateMedia({ colorScheme });
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => globalThis.axe.run());
    const told = violations.map(({ id, nodes }) => `${id}: ${nodes.map(node => `${node.html} ${node.failureSummary}`).join('; ')}`);
    assert.deepEqual(told, [], `axe, ${name}, ${size}, ${colorScheme}`);
    const out = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.ok(out <= 0, `${name}: ${out} pixels hang out at ${width}`);
    if (!pictures) continue;
    await page.evaluate(() => scrollTo(0, 0));
    await page.screenshot({ path: `${pictures}/${name}-${size}-${colorScheme}.png`, fullPage: true });
  }
}

// --- The nodes, as the command line tells of them ----------------------------------------------------
const HTML = 'shop/<img src=x onerror="document.title=\'owned\'">', TURNED = 'shop/\u202egpj.exe\u0007';
const DIGITS = '9223372036854775807';
await open.ask(['counter', 'add', 'shop/stock', '41']);
await open.ask(['counter', 'add', HTML, '7']);
await open.ask(['counter', 'add', TURNED, '8']);
await open.ask(['counter', 'set', 'shop/most', DIGITS]);
await open.shell(Array.from({ length: 60 }, (_, at) => `counter set many/${String(at).padStart(2, '0')} ${at}`));
await open.ask(['kv', 'put', 'cart/7', 'two books\nand a pen']);
await open.ask(['kv', 'put', 'cart/8', 'ß'.repeat(200)]);
await open.ask(['kv', 'put', 'cart/9', 'x'.repeat(30_000)]);
const status = await open.ask(['status']);
const follower = status.nodes.find(node => node.role === 'follower').id, leader = status.health.leader;
const other = 6 - follower - leader;
const page = await visit(open.nodes[follower - 1].console);
await says(page, 'state', `Node ${leader} leads in term`);
{
  const shown = await rows(page, 'nodes'), { nodes } = await open.ask(['status']);
  assert.equal(shown.length, 3);
  for (const node of nodes) {
    const [id, role, term, , , applied, , version, address] = shown.find(row => row[0] === String(node.id));
    assert.deepEqual([id, role.replace('★ ', ''), term, version, address], [String(node.id), node.role, String(node.term), node.version, node.address]);
    assert.ok(Number(applied) <= node.applied_index && Number(applied) > 0, 'applied, a moment ago');
  }
  assert.match(await said(page, 'about'), new RegExp(`Node ${follower} was asked\\. Cluster ${status.header.cluster_id}`));
  assert.match(await said(page, 'quorum'), /3 of 3 voters answer; the quorum is 2/);
  ok('nodes, roles, terms and applied entries are what `tally status` says');
}

// --- Rates, while there is load: writes are counted by the leader, to which the library brings them -------------------
const RATE = 100;
await page.locator('#of').selectOption('all');
const bench = spawn(tally, ['bench', 'add-hot', '--rate', String(RATE), '--duration', '10m', '--warmup', '0s', '--endpoints', open.nodes[follower - 1].client], { stdio: 'ignore' });
const benched = new Promise(done => bench.once('exit', done));
process.on('exit', () => bench.kill('SIGKILL'));

// --- A browser of counters and keys ------------------------------------------------------------------------
const escaped = text => text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, letter => `‹U+${letter.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}›`);
async function list(kind, prefix, level = 'linearizable') {
  await page.locator('#kind').selectOption(kind);
  await page.locator('#prefix').fill(prefix);
  await page.locator('#level').selectOption(level);
  await page.getByRole('button', { name: 'Show', exact: true }).click();
  await page.waitForFunction(level => document.getElementById('found').textContent.includes(`; ${level} at node`), level);
}
{
  for (const level of ['local', 'session', 'bounded', 'linearizable']) {
    await list('counter', 'shop/', level);
    const { items } = await open.ask(['counter', 'list', 'shop/', '--json=strings']);
    assert.equal(items.length, 4);
    assert.deepEqual(await rows(page, 'items'), items.map(item => [escaped(item.name), String(item.value), String(item.modified_revision)]), level);
  }
  assert.ok((await rows(page, 'items')).some(([, value]) => value === DIGITS), 'all digits');
  assert.ok((await rows(page, 'items')).some(([name]) => name === 'shop/‹U+202E›gpj.exe‹U+0007›'));
  assert.equal(await page.locator('#items img').count(), 0);
  assert.equal(await page.title(), 'Tally console');
  ok('counters at each level are what `tally counter list` says; names are text, whatever is in them');
  await list('counter', 'many/');
  assert.equal((await rows(page, 'items')).length, 50);
  await page.getByRole('button', { name: 'Next page' }).click();
  await says(page, 'found', 'counters 51 to 60');
  assert.deepEqual((await rows(page, 'items')).map(([name]) => name), Array.from({ length: 10 }, (_, at) => `many/${50 + at}`));
  await list('key', 'cart/');
  const { items } = await open.ask(['kv', 'scan', 'cart/']);
  const shown = await rows(page, 'items');
  assert.deepEqual(shown.map(([name, , revision]) => [name, revision]), items.map(item => [item.key, String(item.modified_revision)]));
  assert.deepEqual(shown.map(([, value]) => value), ['two books‹U+000A›and a pen', `${'ß'.repeat(128)}… (400 bytes)`, `${'x'.repeat(256)}… (30000 bytes)`]);
  ok('pages follow each other, and long values are cut in lists');
}

// --- One item at four levels --------------------------------------------------------------------------------
async function levels(kind, name) {
  await page.locator('#read-kind').selectOption(kind);
  await page.locator('#name').fill(name);
  await page.getByRole('button', { name: 'Read', exact: true }).click();
  await says(page, 'read-said', `${kind} “${escaped(name)}” at four levels`);
  return rows(page, 'levels');
}
{
  await page.locator('#bound').fill('60000');
  for (const [kind, name, words] of [['counter', 'shop/most', ['counter', 'get']], ['counter', HTML, ['counter', 'get']], ['key', 'cart/7', ['kv', 'get']]]) {
    const shown = await levels(kind, name);
    assert.deepEqual(shown.map(row => row[2]), ['linearizable', 'bounded', 'session', 'local']);
    for (const [at, level] of ['linearizable', 'bounded:60000ms', `session:${status.header.session_token}`, 'local'].entries()) {
      const told = await open.ask([...words, name, '--read', level, '--json=strings'], { node: follower });
      assert.deepEqual([shown[at][1], shown[at][4]], [escaped(String(told.value)), String(told.modified_revision)], `${name}, ${level}`);
      assert.equal(shown[at][6], `${told.header.node_id}, ${told.header.role}`, level);
      if (at < 2) assert.match(shown[at][3], /^≤ \d+ ms$/);
    }
  }
  assert.deepEqual((await levels('counter', 'nobody')).map(row => row[1]), Array(4).fill('there is no such counter'));
  // A value of 30,000 letters is not poured over the page.
  assert.match((await levels('key', 'cart/9'))[0][1], /^x{1000,5000}… \(30000 bytes\)$/);
  ok('one item at four levels is what `tally` reads there, with what each answer is worth');
}
{
  await page.waitForFunction(() => [...document.querySelectorAll('#rates tbody tr')].some(row => row.cells[0].textContent === 'CountersAdd'));
  await page.waitForFunction(() => document.querySelectorAll('#hot tbody tr').length);
  await until('the rate is that of the load', async () => {
    const add = (await rows(page, 'rates')).find(([method]) => method === 'CountersAdd');
    return add && Number(add[1]) > RATE / 2 && Number(add[1]) < RATE * 1.5;
  });
  for (const [method, , notOk, p50, p99] of await rows(page, 'rates')) assert.match(`${method} ${notOk} ${p50} ${p99}`, /^\S+ [\d.,]+ (≤ [\d.e+]+ (µs|ms|s)|> 63 s) (≤ [\d.e+]+ (µs|ms|s)|> 63 s)$/);
  await levels('counter', 'shop/stock');
  await list('counter', 'shop/');
  await looks(page, 'all');
  assert.match(await said(page, 'window'), /^over the last \d+ s$/);
  await page.locator('#of').selectOption('0');
  await page.waitForFunction(() => /over the last/.test(document.getElementById('window').textContent));
  assert.ok(!(await rows(page, 'rates')).some(([method]) => method === 'CountersAdd'), 'a follower has counted none of them');
  bench.kill('SIGKILL');
  await benched;
  ok('rates are those of the load, hot counters are seen; axe finds nothing, narrow and wide, light and dark');
}

// --- Steps of the membership -----------------------------------------------------------------------------------
async function preview(what, node, { fewer = false } = {}) {
  await page.locator('#what').selectOption(what);
  await page.locator('#member').fill(String(node));
  if (fewer) await page.locator('#fewer').check();
  await page.getByRole('button', { name: 'Preview' }).click();
  await says(page, 'step-said', 'Preview:');
  return rows(page, 'plan');
}
const drained = async () => (await open.ask(['status'])).nodes.filter(node => node.drained).map(node => node.id);
const sides = plan => {
  const ids = list => (list.length ? list.join(', ') : 'none');
  return [plan.before, plan.after].map(side => [ids(side.voters), ids(side.learners), side.quorum, side.tolerated_failures, ids(side.silent), side.spare].map(String));
};
{
  const shown = await preview('remove', other, { fewer: true });
  const told = await open.ask(['cluster', 'remove', String(other), '--accept-fewer-failures', '--preview']);
  const [plan] = (told.plan ?? told.error?.plan ?? told).steps;
  assert.deepEqual([1, 2].map(side => shown.map(row => row[side])), sides(plan));
  assert.match(await said(page, 'plan-note'), plan.refusal ? /It would be refused/ : /It can be done/);
  await looks(page, 'preview');
  await page.locator('#fewer').uncheck();
  await page.getByRole('button', { name: 'Preview' }).click();
  await says(page, 'step-said', 'it would be refused');
  assert.ok(await page.getByRole('button', { name: 'Do it' }).isDisabled());
  assert.equal((await open.ask(['status'])).health.voters, 3, 'it was only shown');
  await preview('drain', other);
  assert.deepEqual(await drained(), []);
  await page.getByRole('button', { name: 'Do it' }).click();
  await says(page, 'step-said', '✓ Done');
  assert.deepEqual(await drained(), [other]);
  await page.waitForFunction(id => [...document.querySelectorAll('#nodes tbody tr')].some(row => row.cells[0].textContent === id && row.cells[9].textContent.includes('drained')), String(other));
  ok('a preview is what `tally cluster … --preview` says and changes nothing; what is done is done to the cluster');
}

// --- By the keyboard alone ---------------------------------------------------------------------------------------
{
  const tabTo = async selector => {
    for (let left = 90; left; left--) {
      await page.keyboard.press('Tab');
      if (await page.evaluate(selector => document.activeElement.matches(selector), selector)) {
        const seen = await page.evaluate(() => { const box = document.activeElement.getBoundingClientRect(), bar = document.querySelector('.bar'); return bar.contains(document.activeElement) || box.top >= bar.getBoundingClientRect().bottom - 1; });
        assert.ok(seen, `${selector} has the focus and is behind the bar`);
        return;
      }
    }
    assert.fail(`Tab never reaches ${selector}`);
  };
  await page.reload();
  await says(page, 'state', 'leads in term');
  await tabTo('#kind');
  await page.keyboard.press('ArrowDown');
  await tabTo('#prefix');
  await page.keyboard.type('cart/7');
  await page.keyboard.press('Enter');
  await says(page, 'found', 'keys 1 to 1');
  await tabTo('#items button');
  await page.keyboard.press('Enter');
  await says(page, 'read-said', 'key “cart/7” at four levels');
  await tabTo('#what');
  await page.keyboard.press('End');
  const what = () => page.locator('#what').inputValue();
  for (let steps = await page.locator('#what option').count(); steps && await what() !== 'undrain'; steps--) await page.keyboard.press('ArrowUp');
  assert.equal(await what(), 'undrain');
  await tabTo('#member');
  await page.keyboard.type(String(other));
  await page.keyboard.press('Enter');
  await says(page, 'step-said', 'Preview:');
  await tabTo('#do');
  await page.keyboard.press('Enter');
  await says(page, 'step-said', '✓ Done');
  assert.deepEqual(await drained(), []);
  await page.keyboard.press('Shift+Tab');
  await tabTo('#member');
  ok('by the keyboard alone: a list, an item at four levels, a drain that is ended');
}

// --- A follower that is cut off -------------------------------------------------------------------------------------
{
  mayFail = true;
  await page.locator('#bound').fill('50');
  for (const id of [leader, other]) open.signal(id, 'SIGSTOP');
  await says(page, 'state', 'Only 1 of 3 voters answer');
  await until('bounded staleness runs out', async () => (await levels('counter', 'shop/stock'))[1][2] === 'refused');
  const [strict, bounded, session, local] = await rows(page, 'levels');
  assert.match(strict[1], /^✕ (NO_QUORUM|NO_LEADER|LEADER_UNREACHABLE|READ_INDEX_TIMEOUT|DEADLINE_EXCEEDED)\b/);
  assert.match(`${bounded[1]} ${bounded[3]}`, /^✕ .*best \d+ ms$/);
  assert.deepEqual([session[1], session[2], local[1], local[2]], ['41', 'session', '41', 'local']);
  await looks(page, 'cut-off');
  for (const id of [leader, other]) open.signal(id, 'SIGCONT');
  await says(page, 'state', 'leads in term');
  assert.deepEqual((await levels('counter', 'shop/stock')).map(row => row[1]).filter(value => value === '41').length >= 3, true);
  ok('cut off, the page says which promises can’t be kept, and goes on when they can');

  await open.kill(follower);
  await says(page, 'state', 'the node does not answer since');
  await says(page, 'updated', 'no answer since');
  assert.equal((await rows(page, 'nodes')).length, 3, 'what was seen last stays');
  open.startNode(follower);
  await says(page, 'updated', 'updated at');
  await says(page, 'state', 'leads in term');
  mayFail = false;
  ok('a node that dies is said to be silent, and shown again once it is back');
}

// --- Another node in the place of one: begun, stopped, and gone on with by another page ------------------------------------
{
  const address = await open.startAnother(4);
  const replaces = async page => {
    await page.locator('#what').selectOption('replace');
    await page.locator('#member').fill(String(leader));
    await page.locator('#address').fill(address);
    await page.getByRole('button', { name: 'Preview' }).click();
    await says(page, 'step-said', 'Preview:');
    return page.locator('#replacing li').allTextContents();
  };
  // Of a member: the node that waits to be added knows of nobody yet.
  const members = async () => (await open.ask(['status'], { node: follower })).nodes.map(node => node.id);
  // Whoever leads is to go, and by now that may be another one than at first.
  await open.ask(['cluster', 'transfer-leader', String(leader), '--yes'], { node: follower });
  await says(page, 'state', `Node ${leader} leads in term`);
  const steps = ['add node 4 as a learner', 'give node 4 a vote, once it has caught up', `hand leadership over, which node ${leader} has`, `remove node ${leader}`];
  assert.deepEqual(await replaces(page), [`${steps[0]} (next)`, ...steps.slice(1)]);
  const kept = [follower, other].sort().join(', ');
  assert.deepEqual((await rows(page, 'plan')).slice(0, 4), [['voters', '1, 2, 3', `${kept}, 4`], ['learners', 'none', 'none'], ['quorum', '2', '2'], ['failures tolerated', '1', '1']]);
  await looks(page, 'replacement');
  assert.equal((await members()).length, 3, 'it was only shown');
  // It is stopped while it looks for the second step: what that asks for waits until the button was pressed.
  const held = {};
  [held.came, held.freed] = ['come', 'free'].map(name => new Promise(done => { held[name] = done; }));
  await page.route(/\/api\/members\/promote/, async route => { held.come(); await held.freed; await route.continue(); });
  await page.getByRole('button', { name: 'Do it' }).click();
  await held.came;
  await page.getByRole('button', { name: 'Stop after this step' }).click();
  held.free();
  await says(page, 'step-said', 'Stopped.');
  await page.unroute(/\/api\/members\/promote/);
  assert.ok((await members()).includes(leader), 'it was stopped before the end');
  const another = await visit(open.nodes[follower - 1].console);
  await says(another, 'state', 'leads in term');
  const left = await replaces(another);
  assert.equal(left[0], `✓ ${steps[0]}`);
  assert.equal(left.filter(step => step.endsWith('(next)')).length, 1, left.join('; '));
  await another.getByRole('button', { name: 'Do it' }).click();
  await says(another, 'step-said', `✓ Done: node 4 has the place of node ${leader}: it is a voter.`);
  assert.deepEqual((await members()).sort(), [follower, other, 4].sort());
  await open.nodes[leader - 1].ended;
  assert.deepEqual(await replaces(another), [], 'nothing is left to do');
  assert.match(await said(another, 'plan-note'), new RegExp(`^✓ node 4 has the place of node ${leader}: it is a voter`));
  await another.close();
  ok('a node is replaced, step by step, and by another page from where the first one stopped');
}

// --- Other people's pages ---------------------------------------------------------------------------------------------
{
  const target = open.nodes[follower - 1].console, { port } = new URL(target);
  const raw = (method, path, headers) => new Promise((done, fail) => {
    const sent = request({ host: '127.0.0.1', port, method, path, headers }, answer => {
      let text = '';
      answer.setEncoding('utf8').on('data', part => { text += part; }).on('end', () => done({ status: answer.statusCode, headers: answer.headers, text }));
    });
    sent.on('error', fail).end();
  });
  const refused = await raw('GET', '/api/counters', { host: `${EVIL}:${port}` });
  assert.deepEqual([refused.status, JSON.parse(refused.text).refused.reason], [403, 'FORBIDDEN_HERE']);
  const preflight = await raw('OPTIONS', '/api/members/drain?node=1', { origin: `http://${EVIL}`, 'access-control-request-method': 'PUT', 'access-control-request-headers': 'x-tally-console' });
  assert.ok(preflight.status >= 400 && !Object.keys(preflight.headers).some(name => name.startsWith('access-control')));

  // A page of another site, in a browser that reaches the console.
  const site = createServer((_, answer) => answer.setHeader('content-type', 'text/html').end('<!doctype html><title>nice page</title>'));
  await new Promise(done => site.listen(0, '127.0.0.1', done));
  const theirs = await context.newPage();
  await theirs.goto(`http://${EVIL}:${site.address().port}/`);
  const got = await theirs.evaluate(async ([target, node]) => {
    const tried = async (path, options) => { try { const answer = await fetch(target + path, options); return `${answer.type} ${await answer.text()}`; } catch (error) { return `✕ ${error.name}`; } };
    const loaded = (tag, path) => new Promise(done => { const made = document.createElement(tag); made.onload = () => done('loaded'); made.onerror = () => done('✕'); made.src = target + path; document.body.append(made); });
    const drain = `api/members/drain?node=${node}`;
    return [await tried('api/counters'), await tried('api/counters', { mode: 'no-cors' }), await tried(drain, { method: 'PUT', headers: { 'x-tally-console': '1' } }),
      await tried(drain, { method: 'PUT' }), await tried(drain, { method: 'POST', mode: 'no-cors', body: 'x' }), await loaded('script', 'api/counters'), await loaded('img', 'api/status')];
  }, [target, other]);
  // `opaque`: sent, refused as no method of the console's, and nothing of the answer is told.
  assert.deepEqual(got, [...Array(4).fill('✕ TypeError'), 'opaque ', '✕', '✕']);
  await theirs.evaluate(target => { const frame = document.createElement('iframe'); frame.src = target; document.body.append(frame); return new Promise(done => { frame.onload = done; }); }, target);
  assert.ok(theirs.frames().slice(1).every(frame => !frame.url().startsWith('http')), 'it is not framed');
  await theirs.close();
  await new Promise(done => site.close(done).closeAllConnections());
  assert.deepEqual(await drained(), []);

  // A name of theirs that was made to lead here: to the browser it is one site with the console.
  mayFail = true;
  const rebound = await visit(`http://${EVIL}:${port}/`);
  await says(rebound, 'about', 'FORBIDDEN_HERE');
  assert.deepEqual([await rows(rebound, 'nodes'), await rebound.evaluate(async () => (await (await fetch('/api/counters')).json()).refused.reason)], [[], 'FORBIDDEN_HERE']);
  mayFail = false;
  await rebound.close();
  ok('another site reads nothing, changes nothing, frames nothing, under its own name or one that leads here');
}
await page.close();

// --- With TLS and users -------------------------------------------------------------------------------------------------
{
  const { admin, watcher, mine } = secure.tokens;
  for (const name of ['mine/a', 'theirs/b']) await secure.ask(['counter', 'set', name, '5'], { token: admin });
  mayFail = true;
  const page = await visit(secure.nodes[0].console);
  await says(page, 'state', 'give a token');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'token');
  assert.deepEqual(await rows(page, 'nodes'), []);
  await looks(page, 'asks');
  const use = async token => {
    await page.locator('#token').fill(token);
    await page.keyboard.press('Enter');
  };
  const show = async prefix => {
    await page.locator('#prefix').fill(prefix);
    await page.getByRole('button', { name: 'Show', exact: true }).click();
    await page.waitForFunction(() => document.getElementById('found').textContent !== 'reading…');
    return said(page, 'found');
  };
  const transfer = async () => {
    await page.locator('#member').fill('');
    await page.getByRole('button', { name: 'Preview' }).click();
    await page.waitForFunction(() => document.getElementById('step-said').textContent !== 'asking…');
    return said(page, 'step-said');
  };
  await use('not a token, but ünïcode');
  await says(page, 'state', 'That is no token');
  await use('tally_2_00');
  await says(page, 'about', 'UNAUTHENTICATED');

  await use(watcher);
  await says(page, 'state', 'Node 1 leads in term');
  assert.match(await show('mine/'), /PERMISSION_DENIED/);
  assert.match(await transfer(), /PERMISSION_DENIED/);
  assert.ok(await page.locator('#preview').isHidden());
  assert.equal(await page.evaluate(() => document.cookie + JSON.stringify(localStorage)), '{}');
  ok('who watches sees nodes, and neither items nor previews');

  await use(mine);
  await says(page, 'about', 'PERMISSION_DENIED');
  assert.deepEqual(await rows(page, 'nodes'), [], 'what another saw is gone');
  assert.match(await show('mine/'), /counters 1 to 1/);
  assert.deepEqual((await rows(page, 'items')).map(([name, value]) => [name, value]), [['mine/a', '5']]);
  assert.match(await show('theirs/'), /PERMISSION_DENIED/);
  assert.deepEqual(await rows(page, 'items'), []);
  assert.match(await transfer(), /PERMISSION_DENIED/);
  await looks(page, 'mine');
  ok('who may read some counters sees those, and no change is looked at');

  await use(admin);
  await says(page, 'state', 'Node 1 leads in term');
  assert.match(await show(''), /counters 1 to 2/);
  assert.match(await transfer(), /Preview: it would be refused/);
  await page.getByRole('button', { name: 'Forget it' }).click();
  await says(page, 'state', 'give a token');
  assert.deepEqual([await rows(page, 'nodes'), await rows(page, 'items'), await rows(page, 'hot')], [[], [], []], 'what was seen with it is gone');
  await page.close();
  mayFail = false;
  ok('who administers sees all; a forgotten token takes along what was seen with it');
}
assert.deepEqual(wrong, [], 'the browser’s console');
assert.deepEqual(elsewhere, [], 'requests to elsewhere');
ok('no error in the browser, and no request to elsewhere');
await browser.close();
await Promise.all([open.stop(), secure.stop()]);
ok('no process and no file is left');
console.log(`${checks} checks passed`);
process.exit(0);
