// Real nodes with consoles, for console.mjs: three that ask nobody who he is, and one with TLS and users.

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
/** A node is ready long before; a bound is there only so that the check ends. */
const PATIENCE_MS = 30_000;

/** Small, and as slow in elections as the lab's: the machine of a check may be busy. */
const SMALL = ['--log-segment-bytes=8388608', '--log-cache-bytes=4194304', '--dirty-bytes-max=4194304', '--state-cache-bytes=8388608',
  '--metrics-listen=', '--worker-threads=1', '--shutdown-grace-ms=500',
  '--heartbeat-interval-ms=100', '--election-timeout-ms-min=500', '--election-timeout-ms-max=900'];

export async function until(what, fact, ms = PATIENCE_MS) {
  for (const began = Date.now(); Date.now() - began < ms; await new Promise(done => setTimeout(done, 50))) if (await fact()) return;
  assert.fail(`${what}: not within ${ms} ms`);
}

/** Ports that are free, given back before the nodes take them: a node that is started again has to find its own. */
export async function freePorts(count) {
  const held = await Promise.all(Array.from({ length: count }, () => new Promise((done, fail) => {
    const server = createServer().once('error', fail).listen(0, '127.0.0.1', () => done(server));
  })));
  const ports = held.map(server => server.address().port);
  await Promise.all(held.map(server => new Promise(done => server.close(done))));
  return ports;
}

const lives = pid => existsSync(`/proc/${pid}`) && !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));

export class Cluster {
  /** So many nodes below a directory of their own, each with these flags besides. */
  static async start(tallyd, tally, { count, scheme = 'http', flags = () => [], words = [] }) {
    const directory = mkdtempSync(join(tmpdir(), 'tally-console-'));
    const ports = await freePorts(count * 3);
    const nodes = Array.from({ length: count }, (_, at) => ({ id: at + 1, client: `127.0.0.1:${ports[at * 3]}`, peer: `127.0.0.1:${ports[at * 3 + 1]}`, console: `${scheme}://127.0.0.1:${ports[at * 3 + 2]}/` }));
    const cluster = Object.assign(new Cluster(), { tallyd, tally, directory, nodes, flags, words });
    // Whatever ends this process: nodes end with it, also if it is killed (--exit-with-parent).
    process.on('exit', () => {
      for (const { child } of nodes) child?.kill('SIGKILL');
      rmSync(directory, { recursive: true, force: true, maxRetries: 5 });
    });
    return cluster;
  }

  /** One more, with an empty directory, which waits to be added; says its peer address. */
  async startAnother(id) {
    const [client, peer, page] = await freePorts(3);
    this.nodes.push({ id, client: `127.0.0.1:${client}`, peer: `127.0.0.1:${peer}`, console: `http://127.0.0.1:${page}/` });
    this.startNode(id, []);
    return `127.0.0.1:${peer}`;
  }

  startNode(id, initial = ['--initial-cluster', this.nodes.map(({ id, peer }) => `${id}=${peer}`).join(',')]) {
    const node = this.nodes[id - 1];
    const log = openSync(join(this.directory, `node-${id}.log`), 'a');
    node.child = spawn(this.tallyd, ['serve', '--exit-with-parent', String(process.pid), '--node-id', String(id), '--data-dir', join(this.directory, `node-${id}`),
      '--client-listen', node.client, '--peer-listen', node.peer, '--console-listen', new URL(node.console).host,
      ...initial, ...SMALL, ...this.flags(this.directory)], { stdio: ['ignore', 'ignore', log], cwd: this.directory });
    node.ended = new Promise(done => node.child.once('exit', done));
  }

  log(id) { return readFileSync(join(this.directory, `node-${id}.log`), 'utf8'); }

  /** What the command line says through gRPC, which knows nothing of the console. */
  async ask(words, { node, token } = {}) {
    const endpoints = node ? this.nodes[node - 1].client : this.nodes.map(({ client }) => client).join(',');
    const env = { ...process.env, TALLY_TOKEN: token ?? '' };
    const json = words.some(word => word.startsWith('--json')) ? [] : ['--json'];
    const { stdout } = await run(this.tally, [...words, ...json, '--endpoints', endpoints, '--deadline', '10s', ...this.words], { env, cwd: this.directory }).catch(error => {
      if (error.stdout) return error;
      throw error;
    });
    return stdout.trim().startsWith('{') ? JSON.parse(stdout) : stdout.trim();
  }

  /** Many commands, a line each. */
  async shell(lines) {
    const child = spawn(this.tally, ['shell', '--endpoints', this.nodes.map(({ client }) => client).join(',')], { stdio: ['pipe', 'ignore', 'inherit'] });
    child.stdin.end(`${lines.join('\n')}\n`);
    assert.equal(await new Promise(done => child.once('exit', done)), 0);
  }

  signal(id, signal) { this.nodes[id - 1].child.kill(signal); }

  async kill(id) {
    this.signal(id, 'SIGKILL');
    await this.nodes[id - 1].ended;
  }

  /** All end in good order, and nothing of them is left. */
  async stop() {
    for (const { child } of this.nodes) { child.kill('SIGTERM'); child.kill('SIGCONT'); }
    await Promise.all(this.nodes.map(({ ended }) => ended));
    assert.ok(!this.nodes.some(({ child }) => lives(child.pid)), 'a node is left');
    rmSync(this.directory, { recursive: true, force: true });
    assert.ok(!existsSync(this.directory), this.directory);
  }
}

/** Three nodes that ask nobody who he is. */
export async function openCluster(tallyd, tally) {
  const cluster = await Cluster.start(tallyd, tally, { count: 3, flags: () => ['--hot-item-names', 'shown'] });
  for (const { id } of cluster.nodes) cluster.startNode(id);
  await until('three nodes answer', async () => (await cluster.ask(['status'])).health?.voters_answering === 3);
  return cluster;
}

/** One node with TLS and users: its administrator's token, one that watches, and one that reads what begins with `mine/`. */
export async function secureCluster(tallyd, tally) {
  const words = ['--tls-ca', 'certificates/ca.crt'];
  const pair = ['--client-tls-cert-file', 'certificates/node-1.crt', '--client-tls-key-file', 'certificates/node-1.key'];
  const cluster = await Cluster.start(tallyd, tally, { count: 1, scheme: 'https', words, flags: () => ['--authentication', 'true', ...pair] });
  await run(tally, ['cert', 'init'], { cwd: cluster.directory });
  await run(tally, ['cert', 'node', '1', '--hosts', '127.0.0.1,localhost'], { cwd: cluster.directory });
  cluster.startNode(1);
  const file = join(cluster.directory, 'node-1', 'admin-token');
  await until('the first token is there', () => existsSync(file) && readFileSync(file, 'utf8').trim());
  const admin = readFileSync(file, 'utf8').trim();
  const auth = (...words) => cluster.ask(['auth', ...words], { token: admin });
  await auth('role', 'put', 'watcher', '--monitor');
  await auth('role', 'put', 'mine', '--allow', 'read:counter:mine/', '--allow', 'read:key:mine/');
  const tokens = {};
  for (const user of ['watcher', 'mine']) {
    await auth('user', 'put', user, '--role', user);
    tokens[user] = (await auth('token', 'create', user)).token;
    assert.match(tokens[user], /^tally_/);
  }
  return Object.assign(cluster, { tokens: { admin, ...tokens } });
}
