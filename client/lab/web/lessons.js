// The lessons. Each sets its scene, and its answer is computed from what the cluster answered, never from a book.
//
// `lab` is the lesson's own: once the lesson was left, it does nothing more. `explained` are the answers that the text
// explains; another one, as on a machine that is too busy, stands without it.

import { told } from './lab.js';
import { ms } from './parts.js';

/** A call as a line of the trace: what the node said. */
const traced = record => `${(record.start / 1000).toFixed(2)} s  ${record.kind === 'add' ? 'add' : `${record.asked} read`} at node ${record.node} → ${told(record)}${record.message ? `  "${record.message}"` : ''}${record.applied != null ? `  (by node ${record.by}, ${record.role}, term ${record.term}, applied ${record.applied})` : ''}`;
const took = record => record.end - record.start;
const median = values => values.toSorted((a, b) => a - b)[values.length >> 1];
const other = (state, old) => state.nodes.find(node => node.answers && node.role === 'leader' && node.id !== old)?.id;
/** Asks until an answer comes: for what is to be read when all is well again. */
async function value(lab, counter) {
  for (let left = 20; left; left--) {
    const record = await lab.get(lab.leader() || 1, 'linearizable', { counter });
    if (record.came === 'ok') return record.value;
    await lab.wait(200);
  }
  throw new Error('no linearizable answer, though all is healed');
}
/** Adds, and again while it is refused: a leader of a moment ago does not know yet that a majority hears it. */
async function written(lab, node, more = {}) {
  for (let left = 40; ; left--) {
    const record = await lab.add(node, { patience_ms: 3000, ...more });
    if (record.came === 'ok') return record;
    if (!left || record.came !== 'refused') throw new Error(`an add at node ${node}: ${told(record)}`);
    await lab.wait(200);
  }
}
/** A counter of this run's own, so that nothing else counts in it. */
const own = what => `${what}-${Math.random().toString(36).slice(2, 8)}`;
const many = async (count, ask) => { const all = []; for (let at = 0; at < count; at++) all.push(await ask(at)); return all; };

export const LESSONS = [
  {
    name: 'two-of-three', title: 'Why two of three', tags: ['quorum'],
    situation: ['A write is acknowledged when a majority of the nodes has it on disk. First one node is killed, then a second one. After each, a client adds 1.'],
    question: 'Which of the two adds is acknowledged?',
    options: [['both', 'Both: one node is left, and it has the data.'], ['first', 'The first only: two of three are a majority, one is not.'], ['none', 'Neither: a node is missing.']],
    explained: ['first'],
    async run({ lab, leader, followers }, step) {
      step(`Node ${followers[0]} is killed.`);
      await lab.do({ do: 'kill', node: followers[0] });
      await lab.wait(500);
      const first = await lab.add(leader, { patience_ms: 3000 });
      step(`The first add: ${told(first)}`);
      const rest = followers.slice(1, 1 + Math.floor(lab.state.nodes.length / 2));
      for (const node of rest) await lab.do({ do: 'kill', node });
      step(`Killed besides: ${rest.join(', ')}.`);
      await lab.wait(1500);
      const second = await lab.add(leader, { patience_ms: 3000 });
      step(`The second add: ${told(second)}`);
      // One without an answer says nothing of who agreed.
      const answer = first.came === 'unknown' ? 'other' : first.came !== 'ok' ? 'none' : second.came === 'ok' ? 'both' : 'first';
      return { answer, text: 'A majority has to agree, so that any two majorities share a node: what one has acknowledged, the next knows. Less than a majority could do no harm only by doing nothing.',
        facts: [['first add', told(first)], ['took', ms(took(first))], ['second add', told(second)], ['took', ms(took(second))]], trace: traced(second) };
    },
    try: 'Start one node again (choose it in the picture) and add at any node: how long until an add is answered?',
  },
  {
    name: 'minority-leader', title: 'A leader that does not know it was deposed', tags: ['read'],
    situation: ['The leader is cut off from the other nodes. They elect a new one, which takes writes. The old leader is alive, and clients still reach it.', 'Now two reads are asked of the old leader: a linearizable one and a local one.'],
    question: 'What does the old leader answer?',
    options: [['both-refuse', 'It refuses both: it can tell that it is cut off.'], ['lin-refuses', 'It refuses the linearizable read and answers the local one, with an old value.'], ['both-old', 'It answers both, with an old value.']],
    explained: ['lin-refuses'],
    async run({ lab, leader }, step) {
      await lab.do({ do: 'cut', name: 'leader-alone' });
      step(`Node ${leader}, which leads, is cut off from the others.`);
      const next = await lab.until('a new leader', state => other(state, leader));
      step(`Node ${next} leads in term ${lab.node(next).term}.`);
      const add = await written(lab, next);
      step(`An add at node ${next}: ${told(add)}`);
      await lab.wait(1000);
      const strong = await lab.get(leader, 'linearizable', { patience_ms: 3000 }), local = await lab.get(leader, 'local');
      step(`The old leader, linearizable: ${told(strong)}`);
      step(`The old leader, local: ${told(local)}`);
      const old = record => record.came === 'ok' && record.seen_ms > 0;
      const answer = strong.came !== 'ok' && local.came !== 'ok' ? 'both-refuse' : strong.came !== 'ok' && old(local) ? 'lin-refuses' : old(strong) && old(local) ? 'both-old' : 'other';
      return { answer, text: `A linearizable read asks a majority first whether this node still leads; nobody answers, so it is refused. A local read asks nobody. It misses a write that had been acknowledged ${ms(local.seen_ms)} before.`,
        facts: [['acknowledged by the new leader', add.value], ['linearizable at the old one', told(strong)], ['local at the old one', told(local)], ['how old', ms(local.seen_ms)]], trace: traced(local) };
    },
    try: 'Heal all links and read at the old leader again, local. How long does it take to hold the new value?',
  },
  {
    name: 'lost-answer', title: 'The answer is lost, so the add is sent again', tags: ['exactly once'],
    situation: ['A client adds 1. The node does it, but the answer is lost on the way back. The client can’t know that, and sends the add again.', 'This is played twice: once with a bare add, once with an idempotency key, the same for both sendings.'],
    question: 'How much is counted?',
    options: [['1-1', '1 in both: TCP delivers once.'], ['2-1', '2 with the bare add, 1 with the key.'], ['2-2', '2 in both: it was sent twice.']],
    explained: ['2-1'],
    async run({ lab, leader }, step) {
      const twice = async (counter, key) => {
        await lab.link(leader, 0, { cut: true }, false);
        const lost = await lab.add(leader, { counter, key, patience_ms: 700 });
        step(`${key ? 'With a key' : 'Bare'}: ${told(lost)}`);
        await lab.link(leader, 0, { cut: false }, false);
        const again = await lab.add(leader, { counter, key, patience_ms: 3000 });
        step(`Sent again: ${told(again)}`);
        return again;
      };
      const [bare, keyed] = [own('bare'), own('keyed')];
      await twice(bare);
      const replay = await twice(keyed, own('order'));
      const counts = [await value(lab, bare), await value(lab, keyed)];
      return { answer: counts.join('-'), check: { [bare]: counts[0], [keyed]: counts[1] }, text: 'The first sending was done each time: only its answer was lost. The key is stored with the counter, through the same log, so the second sending finds the answer of the first.',
        facts: [['counted, bare', counts[0]], ['counted, with a key', counts[1]], ['the second answer was a replay', replay.replayed]], trace: traced(replay) };
    },
    try: 'The client library gives every write a number of its session, so that it need not be told. Which answer would a client get that sends a key again with another amount?',
  },
  {
    name: 'read-your-writes', title: 'Read your own write, on another node', tags: ['session'],
    situation: ['A user’s click adds 1 at the leader and is acknowledged. The page that comes next is read from a follower, to which the link is slow: what the leader sends takes 600 ms.', 'It is read twice: local, and with the token that came with the add’s answer.'],
    setup: async ({ lab, leader, followers }) => { await lab.link(leader, followers[0], { delay_ms: 600 }, false); await lab.wait(1500); },
    question: 'What does the user see?',
    options: [['neither', 'Both reads miss the click.'], ['token', 'The local read misses it; the one with the token waits, and has it.'], ['both', 'Both have it: it was acknowledged.']],
    explained: ['token'],
    async run({ lab, leader, followers }, step) {
      const counter = own('clicks'), [behind] = followers;
      await written(lab, leader, { counter });
      await lab.wait(1500);
      const add = await lab.add(leader, { counter, patience_ms: 3000 });
      step(`The add: ${told(add)}`);
      const local = await lab.get(behind, 'local', { counter });
      step(`Local, at node ${behind}: ${told(local)}`);
      const session = await lab.get(behind, 'session', { counter, token: add.token, patience_ms: 4000 });
      step(`With the token: ${told(session)}, after ${ms(took(session))}`);
      const has = record => record.came === 'ok' && record.value >= add.value;
      const answer = has(local) ? 'both' : has(session) ? 'token' : 'neither';
      return { answer, text: `The token says which state its holder has seen. The follower waits until it has that state, here ${ms(took(session))}; a session pays for that only when a node is behind.`,
        facts: [['acknowledged', add.value], ['local', told(local)], ['with the token', told(session)], ['the token waited', ms(took(session))]], trace: traced(session) };
    },
    try: 'Make the link fast again and read at that follower, local, right after an add. How often do you lose the race?',
  },
  {
    name: 'bounded', title: 'Not older than half a second, or nothing', tags: ['bounded'],
    situation: ['A client reads at a follower with a bound: the state must be proven to be no older than 500 ms. It asks 20 times a second. The follower has just asked the leader, so its proof is fresh, when it is cut off from the other nodes.'],
    question: 'What does the client get once the follower is cut off?',
    options: [['at-once', 'Refusals, at once.'], ['runs-out', 'Answers for about half a second more, then refusals.'], ['goes-on', 'Answers, for as long as it asks.']],
    explained: ['runs-out'],
    async setup({ lab }) { const node = lab.followers().at(-1); await lab.client(lab.leader(), '', 10); await lab.client(node, 'bounded:500', 20); await lab.wait(1500); },
    async run({ lab, leader }, step) {
      const node = lab.state.clients.find(client => client.level)?.node, before = lab.state.t;
      const fresh = await lab.get(node, 'linearizable', { patience_ms: 3000 });
      const cut = fresh.end;
      await Promise.all(lab.state.nodes.filter(each => each.id !== node).map(each => lab.link(node, each.id, { cut: true })));
      step(`Node ${node} is cut off.`);
      await lab.wait(3500);
      const reads = lab.records.filter(record => record.asked === 'bounded:500' && record.end > before && record.client);
      const ok = reads.filter(record => record.came === 'ok'), refused = reads.filter(record => record.came === 'refused');
      const lasted = Math.max(0, (ok.at(-1)?.end ?? cut) - cut), oldest = Math.max(0, ...ok.map(record => record.proven_ms ?? 0)), seen = Math.max(0, ...ok.map(record => record.seen_ms ?? 0));
      step(`${ok.length} answers, ${refused.length} refusals.`);
      const answer = refused.length === 0 ? 'goes-on' : lasted < 150 ? 'at-once' : lasted < 1500 ? 'runs-out' : 'other';
      return { answer, text: 'The follower’s newest proof ages. Until it is 500 ms old it is good enough, and answers come without asking anybody. Then there is none younger to be had, and it says so rather than break the bound.',
        facts: [['answers came for', ms(lasted)], ['oldest proven of these', ms(oldest)], ['stalest seen of these', ms(seen)], ['refused since', refused.length]], trace: refused.length ? traced(refused[0]) : 'no refusal' };
    },
    try: 'Start local reads at the same node beside it: they go on. By how much do they lag after ten seconds?',
  },
  {
    name: 'no-fault', title: 'Nothing is wrong, and consistency costs all the same', tags: ['PACELC'],
    situation: ['The E of PACELC: else, when there is no fault, it is latency against consistency. The nodes are put 40 ms apart, as in three cities; nothing fails. Clients sit beside a follower and read there at three levels: local, bounded to 1 s, linearizable.'],
    setup: async ({ lab }) => { const ids = lab.state.nodes.map(node => node.id); for (const a of ids) for (const b of ids) if (a < b) await lab.link(a, b, { delay_ms: 40 }); await lab.wait(2500); },
    question: 'What does the median read take?',
    options: [['same', 'About the same at each level: nothing is wrong.'], ['two', 'Local is at once; the other two take a trip or more to the others.'], ['one', 'Local and bounded are at once; linearizable takes trips to the others.']],
    explained: ['one'],
    async run({ lab, followers }, step) {
      const [node] = followers, all = {};
      await lab.get(node, 'bounded:1000', { patience_ms: 3000 });
      for (const level of ['local', 'bounded:1000', 'linearizable']) {
        const reads = await many(15, () => lab.get(node, level, { patience_ms: 3000 }));
        all[level] = reads.filter(record => record.came === 'ok');
        if (!all[level].length) throw new Error(`no ${level} read was answered`);
        step(`${level}: ${ms(median(all[level].map(took)))}, ${all[level].length} of 15 answered`);
      }
      const [local, bounded, linear] = ['local', 'bounded:1000', 'linearizable'].map(level => median(all[level].map(took)));
      const far = value => value >= 40;
      const answer = !far(linear) ? 'same' : far(bounded) ? 'two' : far(local) ? 'other' : 'one';
      return { answer, text: 'A linearizable read at a follower asks the leader, which asks a majority: there and back, twice. A bounded read lives on the last proof while it is young enough, and only sometimes asks. A local one never does, and promises nothing.',
        facts: [['p50 local', ms(local)], ['p50 bounded to 1 s', ms(bounded)], ['p50 linearizable', ms(linear)], ['one way between nodes', '40 ms']], trace: traced(all.linearizable.at(-1)) };
    },
    try: 'Which level would you choose for a price, for a balance, for a number of likes? Start clients of each level, then cut a link: the quadrant shows the trade.',
  },
  {
    name: 'one-way-cut', title: 'A link that is cut one way', tags: ['elections'],
    situation: ['The leader’s words no longer reach one follower. All else arrives: that follower’s words reach the leader, and the other nodes hear all. Hearing no heartbeat, it would like an election.'],
    question: 'What becomes of the leader?',
    options: [['stays', 'It stays: the others still hear it, and the follower asks before it starts an election.'], ['falls', 'A new election is held, and the term rises.'], ['storm', 'One election after the other, for as long as the link is cut.']],
    explained: ['stays'],
    async run({ lab, leader, followers }, step) {
      const term = lab.node(leader).term, [deaf] = followers;
      await lab.link(leader, deaf, { cut: true }, false);
      step(`Node ${leader} no longer reaches node ${deaf}; the other way all arrives.`);
      const adds = [];
      for (let at = 0; at < 10; at++) { adds.push(await lab.add(leader)); await lab.wait(300); }
      const now = Math.max(...lab.state.nodes.map(node => node.term)), ok = adds.filter(record => record.came === 'ok').length;
      step(`Term ${term} before, ${now} after; ${ok} of 10 adds answered.`);
      const answer = now === term ? 'stays' : now === term + 1 ? 'falls' : 'storm';
      return { answer, text: 'Before a node raises the term it asks whether it would be elected (pre-vote). Those that still hear a leader say no, so one deaf node disturbs nobody. Without that, its higher term would depose a leader that works.',
        facts: [['term before', term], ['term after', now], ['adds answered', `${ok} of 10`], ['the deaf node takes for leader', lab.node(deaf).leader || 'nobody']], line: () => lab.line(/leader|election|vote|reached/, lab.state.t - 6000), trace: traced(adds.at(-1)) };
    },
    try: 'Turn it round: cut that follower’s words to the leader and not the leader’s to it. Does the follower notice anything?',
  },
  {
    name: 'sleeping-leader', title: 'A leader that slept', tags: ['read'],
    situation: ['The leader’s process is stopped for some seconds, as by a long pause of a garbage collector or of a virtual machine. The others elect a new leader, which takes a write. While it sleeps, a linearizable read is sent to the old one.', 'When it wakes, it has not looked at any clock yet: as far as it knows, it leads.'],
    question: 'What does the read get when the old leader wakes?',
    options: [['old', 'The old value: it wakes as leader and answers.'], ['new', 'The new value.'], ['refused', 'A refusal, or no answer in time.']],
    explained: ['new', 'refused'],
    async run({ lab, leader }, step) {
      await lab.do({ do: 'pause', node: leader });
      step(`Node ${leader} sleeps.`);
      const next = await lab.until('a new leader', state => other(state, leader));
      const add = await written(lab, next);
      step(`Node ${next} leads, and added: ${told(add)}`);
      const asking = lab.get(leader, 'linearizable', { patience_ms: 6000 });
      await lab.wait(700);
      await lab.do({ do: 'start', node: leader });
      step(`Node ${leader} wakes.`);
      const read = await asking;
      step(`The read: ${told(read)}`);
      const answer = read.came !== 'ok' ? 'refused' : read.value >= add.value ? 'new' : 'old';
      return { answer, text: 'It asks a majority whether it still leads before it answers, and learns of the new term. It then follows, asks the new leader, and answers with what that knows, or refuses. A leader that trusted a lease and a clock might have answered with the old value.',
        facts: [['written meanwhile', add.value], ['the read', told(read)], ['missed', read.seen_ms == null ? '–' : ms(read.seen_ms)]], trace: traced(read) };
    },
    try: 'Do it again with local reads running at the old leader. Is the first one after it woke stale?',
  },
  {
    name: 'quorum-lost', title: 'A quorum lost, and back', tags: ['quorum'],
    situation: ['All nodes but one are paused, then woken. Clients add at the one that is left, five times a second, all the while.'],
    setup: async ({ lab, leader }) => { await lab.client(leader, '', 5); await lab.wait(1000); },
    question: 'How do adds come back?',
    options: [['alone', 'By themselves, within some seconds of the nodes’ waking.'], ['restart', 'They do not: the node that was alone has to be started again.'], ['never-gone', 'They never stopped: the leader was there all the time.']],
    explained: ['alone'],
    async run({ lab, leader, followers }, step) {
      for (const node of followers) await lab.do({ do: 'pause', node });
      const lost = lab.state.t;
      step(`Paused: ${followers.join(', ')}.`);
      await lab.wait(4000);
      for (const node of followers) await lab.do({ do: 'start', node });
      const back = lab.state.t;
      step('They wake.');
      await lab.until('an add is answered', () => lab.records.some(record => record.kind === 'add' && record.came === 'ok' && record.start > back), 10000).catch(() => {});
      const adds = lab.records.filter(record => record.kind === 'add' && record.client && record.end > lost + 500);
      const during = adds.filter(record => record.start > lost + 500 && record.end < back), okDuring = during.filter(record => record.came === 'ok').length;
      const first = adds.find(record => record.came === 'ok' && record.end > back);
      const failed = adds.find(record => record.came !== 'ok');
      step(`${during.length} adds without a quorum, ${okDuring} of them answered.`);
      const answer = !during.length ? 'other' : okDuring ? 'never-gone' : first ? 'alone' : 'restart';
      return { answer, text: 'Nothing has to be repaired: what was acknowledged is on the disks of a majority, and as soon as one can talk it elects a leader that has it all.',
        facts: [['adds asked without a quorum', during.length], ['of them answered', okDuring], ['first answer after they woke', first ? ms(first.end - back) : 'none in 10 s']], trace: failed ? traced(failed) : 'no add failed' };
    },
    try: 'Kill the two and start them again. What takes longer, and which line of the nodes’ logs says why?',
  },
  {
    name: 'unknown', title: 'Unknown is an answer', tags: ['exactly once'],
    situation: ['Two bare adds end in the word UNKNOWN. Of the first the answer is lost on its way from the leader. The second is sent to a leader that has just been cut off from all other nodes. Then all is healed.'],
    question: 'How many of the two were counted?',
    options: [['0', 'None: unknown means that it failed.'], ['1', 'One of them.'], ['2', 'Both: they are done when all is healed.']],
    explained: ['1'],
    async run({ lab, leader }, step) {
      const counter = own('unknown');
      await lab.link(leader, 0, { cut: true }, false);
      const first = await lab.add(leader, { counter, patience_ms: 700 });
      await lab.link(leader, 0, { cut: false }, false);
      step(`The answer was lost: ${told(first)}`);
      await lab.until('one leader', state => state.nodes.every(node => node.leader === lab.leader()));
      const now = lab.leader();
      await lab.do({ do: 'cut', name: 'leader-alone' });
      const second = await lab.add(now, { counter, patience_ms: 3000 });
      step(`The leader was alone: ${told(second)}`);
      await lab.until('a new leader', state => other(state, now));
      await lab.do({ do: 'heal' });
      await lab.wait(1500);
      const counted = await value(lab, counter);
      step(`Counted: ${counted}`);
      return { answer: second.came === 'unknown' && first.came === 'unknown' ? String(counted) : 'other', check: { [counter]: counted }, text: 'From where the client stands the two look alike. The first was done. The second was in the log of a leader that no longer led; the next leader’s log replaced it. So an honest answer is UNKNOWN, and the way out is a key: sending the same again under it is safe in both cases.',
        facts: [['first', told(first)], ['second', told(second)], ['counted', counted]], trace: traced(second) };
    },
    try: 'Play it again and heal at once, before another leader is elected. Does the second add count then?',
  },
  {
    name: 'hot-counter', title: 'The hot counter', tags: ['throughput'],
    situation: ['Sixteen clients add to one and the same counter, as fast as they get answers, for three seconds. Every add waits for a majority’s disks.'],
    question: 'How many entries does the log need for these adds?',
    options: [['more', 'At least one for each add: they change the same counter, so they queue.'], ['fewer', 'Fewer: adds that wait share an entry and its fsync.']],
    explained: ['fewer'],
    async run({ lab, leader }, step) {
      const counter = own('hot');
      await written(lab, leader, { counter });
      await lab.wait(300);
      const before = { ...lab.node(leader) };
      for (let at = 0; at < 16; at++) await lab.client(leader, '', 500, counter);
      await lab.wait(3000);
      await lab.do({ do: 'end-client', id: null });
      await lab.wait(500);
      const after = lab.node(leader), adds = after.revision - before.revision, entries = after.applied - before.applied;
      const meter = lab.state.meters.find(each => each.what === 'add'), counted = await value(lab, counter);
      step(`${adds} adds, ${entries} log entries.`);
      return { answer: entries < adds * .9 ? 'fewer' : 'more', check: { [counter]: counted }, text: `On average ${(adds / entries).toFixed(1)} adds shared one entry: while one is on its way to the disks, the next ones gather. Each is applied in its place, with its own revision and its own answer, so nothing is lost by it.`,
        facts: [['adds', adds], ['log entries', entries], ['the counter has', counted], ['p50 of an add', ms(meter?.p50)]], trace: `node ${leader}: revision ${before.revision} → ${after.revision}, applied ${before.applied} → ${after.applied}` };
    },
    try: 'Start a single add client at 500/s. How many does it reach, and what is it waiting for?',
  },
  {
    name: 'bridge', title: 'Two that do not see each other, and one that sees both', tags: ['cuts'],
    situation: ['The link between the leader and one follower is cut, both ways. The other node reaches both. A linearizable read is asked of every node.'],
    question: 'Who can answer?',
    options: [['all', 'All nodes.'], ['not-cut', 'All but the follower that can’t reach the leader.'], ['bridge', 'The node between them only.']],
    explained: ['not-cut'],
    async run({ lab, leader }, step) {
      const { follower } = await lab.do({ do: 'cut', name: 'bridge' });
      step(`Nodes ${leader} and ${follower} do not reach each other.`);
      await lab.wait(2500);
      const reads = [];
      for (const { id } of lab.state.nodes) { reads.push(await lab.get(id, 'linearizable', { patience_ms: 4000 })); step(`Node ${id}: ${told(reads.at(-1))}`); }
      const failed = reads.filter(record => record.came !== 'ok').map(record => record.node);
      const now = lab.leader();
      const answer = failed.length === 0 ? 'all' : failed.length === 1 && (failed[0] === follower || failed[0] === leader) ? 'not-cut' : failed.length === reads.length - 1 ? 'bridge' : 'other';
      return { answer, text: `The leader still has a majority (itself and the node between), so it goes on. The cut-off follower can’t ask it for a read index, and does not go through a third node: it refuses. It disturbs nobody either. Node ${now} leads now, node ${leader} led before.`,
        facts: [...reads.map(record => [`node ${record.node}`, told(record)]), ['term', lab.node(now)?.term ?? '–']], trace: traced(reads.find(record => record.came !== 'ok') ?? reads[0]) };
    },
    try: 'A client of the cut-off follower needs an answer: which level gets one, and how old is it?',
  },
  {
    name: 'lossy', title: 'A network that loses packets', tags: ['latency'],
    situation: ['Every link between nodes loses 30 % of what is sent. TCP sends again after 200 ms, then 400 ms and so on. A client adds 40 times with a key for each, and sends again what got no answer.'],
    setup: async ({ lab }) => { const ids = lab.state.nodes.map(node => node.id); for (const a of ids) for (const b of ids) if (a < b) await lab.link(a, b, { loss_percent: 30 }); },
    question: 'What suffers?',
    options: [['count', 'The count: some adds are lost or counted twice.'], ['latency', 'Latency: the slow ones are very slow, but the count is exact.'], ['nothing', 'Nothing that can be seen.']],
    explained: ['latency'],
    async run({ lab, leader }, step) {
      const counter = own('lossy'), latencies = [];
      let sendings = 0;
      for (let at = 0; at < 40; at++) {
        const key = own('lossy'), began = performance.now();
        for (let left = 12; ; left--) {
          sendings += 1;
          const record = await lab.add(lab.leader() || leader, { counter, key, patience_ms: 2000 });
          if (record.came === 'ok') break;
          if (!left) throw new Error('twelve sendings without an answer');
          await lab.wait(100);
        }
        latencies.push(performance.now() - began);
        if (at % 10 === 9) step(`${at + 1} adds, in ${sendings} sendings.`);
      }
      await lab.do({ do: 'heal' });
      await lab.until('one leader', state => state.nodes.some(node => node.answers && node.role === 'leader'));
      const counted = await value(lab, counter), worst = Math.max(...latencies), half = median(latencies);
      return { answer: counted !== 40 ? 'count' : worst > 150 ? 'latency' : 'nothing', check: { [counter]: counted }, text: 'A loss is a delay for the program above TCP, and a majority hides the slower follower: one of two answers is enough. What remains is a long tail, perhaps an election, and a count that is exact.',
        facts: [['adds', 40], ['sendings', sendings], ['counted', counted], ['p50', ms(half)], ['slowest', ms(worst)]], trace: `counter ${counter} = ${counted} after ${sendings} sendings of 40 adds`, line: () => lab.line(/leader is known|election|reached/, lab.state.t - 20000) };
    },
    try: 'Make only one link lossy, at 70 %. Does the median notice? Now the leader’s links to both.',
  },
  {
    name: 'full-disk', title: 'A disk runs full', tags: ['disk'],
    situation: ['Clients add at the leader, five times a second. Its disk runs full, and later the disks of all. Each node holds some room in reserve, so it notices while it can still write.'],
    setup: async ({ lab, leader }) => { await lab.client(leader, '', 5); await lab.wait(1000); },
    question: 'The leader’s disk is full. What becomes of adds that are sent to it?',
    options: [['go-on', 'They go on: another node leads.'], ['refused', 'They are refused until somebody makes room.'], ['ended', 'The node ends.']],
    explained: ['go-on'],
    async run({ lab, leader }, step) {
      await lab.do({ do: 'disk', node: leader, full: true });
      await lab.until('another node leads', state => other(state, leader), 5000).catch(() => {});
      await lab.wait(1000);
      const one = await lab.add(leader, { patience_ms: 3000 });
      step(`Its disk is full; an add sent to it: ${told(one)}`);
      for (const { id } of lab.state.nodes) await lab.do({ do: 'disk', node: id, full: true });
      await lab.wait(1500);
      const all = await lab.add(leader, { patience_ms: 3000 });
      step(`All disks are full; an add: ${told(all)}`);
      const read = await lab.get(leader, 'linearizable');
      step(`… and a linearizable read: ${told(read)}`);
      for (const { id } of lab.state.nodes) await lab.do({ do: 'disk', node: id, full: false });
      await lab.wait(1500);
      const again = await written(lab, leader);
      step(`There is room again; an add: ${told(again)}`);
      const ended = lab.node(leader).process === 'dead';
      return { answer: ended ? 'ended' : one.came === 'ok' ? 'go-on' : 'refused', text: 'A leader that can still write hands over to one that has room, so a full disk is no outage. Where no node has room, writes are refused with a reason, reads and deletes go on, and nothing has to be repaired: it ends by itself when there is room.',
        facts: [['add, the leader’s disk full', told(one)], ['add, all disks full', told(all)], ['linearizable read meanwhile', told(read)], ['add, room again', told(again)]], trace: traced(all), line: () => lab.line(/hands over/, lab.state.t - 15000) };
    },
    try: 'Fill a follower’s disk instead. Does anybody notice, and what does the log of that node say?',
  },
  {
    name: 'clock', title: 'A clock is set forward', tags: ['exactly once'],
    situation: ['An add is sent under an idempotency key, which the cluster remembers for a day. Then the leader’s clock is set a week ahead, and the same add is sent again. Reads with a bound on staleness run all the while.'],
    setup: async ({ lab, followers }) => { await lab.client(followers[0], 'bounded:500', 10); await lab.wait(1000); },
    question: 'How often is it counted?',
    options: [['1', 'Once.'], ['2', 'Twice: by that clock the key has been forgotten.'], ['none', 'The second is refused: the clock is wrong.']],
    explained: ['1'],
    async run({ lab, leader }, step) {
      const counter = own('clock'), key = own('key');
      const first = await written(lab, leader, { counter, key });
      step(`Under the key: ${told(first)}`);
      await lab.do({ do: 'clock', node: leader, offset_ms: 7 * 86400000 });
      await lab.wait(1000);
      const since = lab.state.t;
      const second = await lab.add(leader, { counter, key, patience_ms: 3000 });
      step(`A week later, by the leader’s clock: ${told(second)}`);
      await lab.wait(1500);
      const bounded = lab.records.filter(record => record.asked.startsWith('bounded') && record.start > since);
      const answered = bounded.filter(record => record.came === 'ok').length;
      const lies = bounded.filter(record => record.seen_ms > (record.proven_ms ?? Infinity)).length;
      step(`Bounded reads meanwhile: ${answered} of ${bounded.length} answered, ${lies} staler than proven.`);
      const counted = await value(lab, counter);
      await lab.do({ do: 'clock', node: leader, offset_ms: 0 });
      return { answer: second.came === 'refused' ? 'none' : String(counted), check: { [counter]: counted }, text: 'No promise hangs on what time it is. The leader stamps into the log how much time has passed, by a clock that only counts; every node forgets by that. Ages are measured by each node for itself in the same way.',
        facts: [['first', told(first)], ['a week ahead', told(second)], ['counted', counted], ['bounded reads answered', `${answered} of ${bounded.length}`], ['staler than proven', lies]], trace: traced(second), line: () => lab.line(/wall_clock_offset_ms: [1-9]/, lab.state.t - 15000) };
    },
    try: 'Set a follower’s clock a day back, and kill the leader. Does the new leader forget anything, or remember it for longer?',
  },
  {
    name: 'others', title: 'What others would have done here', tags: ['PACELC'],
    situation: ['The leader is cut off with one client; the majority elects another leader and takes writes. The client on the lonely side writes, and then reads.', 'Other systems, by their own documents. etcd: reads are linearizable by default and need a quorum; a serializable read is served by one member and may be stale. Redis with WAIT: its page says that WAIT does not make Redis a strongly consistent store, and that acknowledged writes can still be lost in a failover. An AP store such as Cassandra at consistency level ONE: either side takes writes, and of two writes of one value the later timestamp wins when they meet; its counters add up both sides, and an increment sent again counts again.'],
    sources: [['etcd: API guarantees', 'https://etcd.io/docs/v3.5/learning/api_guarantees/'], ['Redis: WAIT', 'https://redis.io/docs/latest/commands/wait/'], ['Cassandra: Dynamo', 'https://cassandra.apache.org/doc/latest/cassandra/architecture/dynamo.html'], ['DataStax: query idempotence', 'https://docs.datastax.com/en/datastax-drivers/developing/query-idempotence.html']],
    question: 'And Tally: what happens to the write on the lonely side?',
    options: [['taken', 'It is acknowledged there, and merged later.'], ['lost', 'It is acknowledged there, and lost when the sides meet.'], ['refused', 'It is not acknowledged.']],
    explained: ['refused'],
    async run({ lab, leader }, step) {
      const counter = own('sides');
      await written(lab, leader, { counter });
      await lab.do({ do: 'cut', name: 'leader-alone' });
      const lonely = await lab.add(leader, { counter, delta: 10, patience_ms: 3000 });
      step(`The lonely side adds 10: ${told(lonely)}`);
      const next = await lab.until('a new leader', state => other(state, leader));
      const there = await written(lab, next, { counter, delta: 100 });
      step(`The majority adds 100: ${told(there)}`);
      const read = await lab.get(leader, 'local', { counter });
      step(`The lonely side reads, local: ${told(read)}`);
      await lab.do({ do: 'heal' });
      await lab.wait(1500);
      const end = await value(lab, counter);
      step(`When they meet: ${end}`);
      const answer = lonely.came !== 'ok' ? 'refused' : end === 111 ? 'taken' : 'lost';
      return { answer, check: { [counter]: end }, text: 'For writes and linearizable reads Tally is PC/EC, as etcd is: no answer rather than a wrong one. Its local reads are PA/EL, and say what they are worth. The AP store answers both sides and has to merge: where the last write wins, one side’s adds are forgotten; where counters add up, an add whose answer was lost can’t be sent again safely.',
        facts: [['lonely side', told(lonely)], ['majority', told(there)], ['lonely side, local', told(read)], ['in the end', end]], trace: traced(lonely) };
    },
    try: 'Run clients of all levels at the lonely leader while all is well, then cut it off: the quadrant puts the answers of one system where books put different systems.',
  },
];
