// Another node in a node's place: the steps of `tally cluster replace`, each asked for when the one before it is done.
//
// How far a replacement has come is read from the members alone, before each step: a page that was closed, or a node that
// was asked and ended, leaves nothing that another page does not find. The old one is removed last, so where it is gone
// nothing is left to do.
import { Refused, ask } from './ask.js';

const LOOK_EVERY_MS = 1000;
// Looks in a row that may find nobody who can say it, for a reason that passes: half a minute.
const PASSING_MAX = 30;
const PASSES = ['NOT_LEADER', 'NO_ANSWER', 'OUTCOME_UNKNOWN', 'NO_QUORUM', 'NOT_PROPOSED', 'SHUTTING_DOWN'];

const change = (step, query) => ask(`/api/members/${step}?${new URLSearchParams(query)}`, 'PUT');
const planOf = async (step, query) => (await change(step, { ...query, preview: 1 })).plan;
const without = (list, id) => list.filter(each => each !== id);
const withId = (list, id) => [...without(list, id), id].sort((one, other) => one - other);
function side(voters, learners) {
  const quorum = Math.floor(voters.length / 2) + 1;
  return { voters, learners, quorum, tolerated_failures: voters.length - quorum };
}

/** What is done of it, what comes next, and what the members are before and after all of it; or why it is refused. */
export async function look({ old, address }) {
  const going = await planOf('remove', { node: old }), before = going.before ?? undefined;
  const isMember = before && [...before.voters, ...before.learners].includes(old);
  if (!isMember && !going.is_so) return { before, refusal: going.refusal };
  const coming = await planOf('add-learner', { address });
  if (coming.refusal) return { before, refusal: coming.refusal };
  const id = coming.node_id, votes = before?.voters.includes(id);
  if (going.is_so) {
    if (!coming.is_so) return { before, refusal: `node ${old} is gone already, and node ${id} is no member, so it did not take its place. To have one more member, add a learner.` };
    return { before, after: before, isDone: true, says: `node ${id} has the place of node ${old}: it is a ${votes ? 'voter' : 'learner, and stays one'}.` };
  }
  if (id === old) return { before, refusal: `the node there is node ${old} itself: start the other one with an empty directory under the next free id, ${coming.next_node_id}.` };
  const { nodes, answer } = await ask('/api/status');
  // Of a learner a learner takes the place.
  const wasVoter = before.voters.includes(old), leads = nodes.some(node => node.id === old && node.leader_id === old);
  const steps = [
    { says: `add node ${id} as a learner`, isDone: coming.is_so, step: 'add-learner', query: { address } },
    wasVoter && { says: `give node ${id} a vote, once it has caught up`, isDone: votes, step: 'promote', query: { node: id } },
    leads && { says: `hand leadership over, which node ${old} has`, isDone: false, step: 'transfer-leader', query: {} },
    { says: `remove node ${old}`, isDone: false, step: 'remove', query: { node: old } },
  ].filter(Boolean);
  const next = steps.find(each => !each.isDone);
  next.isNext = true;
  const after = wasVoter ? side(withId(without(before.voters, old), id), without(before.learners, id)) : side(before.voters, withId(without(before.learners, old), id));
  const note = answer.node_id === old ? `This page asks node ${old}, which ends with it: another node’s console goes on.` : '';
  return { before, after, steps, next, note };
}

/** Does it, a step after the other, as long as the page wants it to. */
export async function replace(what, { goesOn, shows, says }) {
  for (let passing = 0; ; await new Promise(done => setTimeout(done, LOOK_EVERY_MS))) {
    try {
      const seen = await look(what);
      shows(seen);
      if (seen.isDone || !goesOn()) return seen;
      if (seen.refusal) throw new Error(seen.refusal);
      const { step, query, says: does } = seen.next;
      const plan = await planOf(step, query);
      if (plan.refusal && !plan.passes) throw new Error(plan.refusal);
      passing = 0;
      if (plan.refusal) { says(`waiting to ${does}: ${plan.refusal}`); continue; }
      says(`${does}…`);
      await change(step, query);
    } catch (error) {
      const { reason, outcome } = error instanceof Refused ? error.body.refused : {};
      // Between a look and its step a learner may have fallen back: the next look tells.
      const passes = outcome === 'UNKNOWN' || [...PASSES, 'MEMBERSHIP_REFUSED'].includes(reason);
      if (!passes || (passing += 1) > PASSING_MAX) throw error;
      if (!goesOn()) throw error;
      says(`${error.message}; asking again…`);
    }
  }
}
