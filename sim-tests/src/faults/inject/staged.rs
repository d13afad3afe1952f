//! Situations of several steps, each of which waits for the one before.
//!
//! That a cluster comes out of them rests on a rule of the library beneath which nothing else needs; at
//! random times they hardly ever come about (`docs/judged-versions.md`).

use turmoil::Sim;

use super::{Injector, Undo, until::Until};
use crate::{
    cluster::host_of,
    faults::{
        links::{Taken, Trouble},
        operator::Task,
        plan::Target,
    },
    trace_event,
};

/// A situation that does not come about is given up after so long.
const PATIENCE_MS: u64 = 6_000;

/// A machine that is to start anew is down for so long.
const DOWN_MS: u64 = 300;

/// Waits for who stands.
#[derive(Debug)]
pub(super) struct UnheardVote {
    leader: u64,
    term: u64,
    others: [u64; 2],
    /// The links between the leader and the others.
    taken: Taken,
    patience_ends_ms: u64,
}

/// Waits for a change of the voters in the leader's log.
#[derive(Debug)]
pub(super) struct UnheardChange {
    leader: u64,
    /// Changes that began before.
    joints: u64,
    patience_ends_ms: u64,
}

impl Injector {
    /// Cuts the leader off, and waits for one of the other two to stand.
    pub(super) fn expect_unheard_vote(
        &mut self,
        sim: &mut Sim<'_>,
        now_ms: u64,
    ) -> Result<(), &'static str> {
        let leader = self.resolve_running(Target::Leader)?;
        let consensus = self.cluster.consensus(leader);
        let term = consensus.and_then(|consensus| consensus.leadership().term_as_leader());
        let term = term.ok_or("nobody leads")?;
        let others: [u64; 2] =
            self.others(leader).try_into().map_err(|_| "there are not three nodes")?;
        if !others.iter().all(|id| self.is_healthy(*id)) || !self.being_replaced.is_empty() {
            return Err("the others are not well");
        }
        let taken = self.between(&[leader], &others, Trouble::Cut);
        self.links.take(sim, &taken);
        let patience_ends_ms = now_ms + PATIENCE_MS;
        self.unheard_votes.push(UnheardVote { leader, term, others, taken, patience_ends_ms });
        Ok(())
    }

    /// Once somebody stands, the third one hears nothing of it and is gone for long, and the old leader
    /// starts anew.
    pub(super) fn look_who_stands(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        for expected in std::mem::take(&mut self.unheard_votes) {
            let UnheardVote { leader, term, others: [one, other], .. } = expected;
            let stands = |id: u64| self.traps.stood_in(id) > term;
            let third = match (stands(one), stands(other)) {
                _ if now_ms >= expected.patience_ends_ms => None,
                (true, false) => Some(other),
                (false, true) => Some(one),
                (false, false) => {
                    self.unheard_votes.push(expected);
                    continue;
                }
                (true, true) => None,
            };
            self.links.give_back(sim, &expected.taken);
            let Some(third) = third.filter(|third| self.is_up(*third) && self.is_up(leader)) else {
                continue;
            };
            trace_event!("fault", "a vote that {} does not hear", host_of(third));
            // Its connections go with its process, and what is on its way to it.
            for id in [third, leader] {
                self.cluster.cut_power(sim, id);
                self.undo.push((now_ms + DOWN_MS, Undo::Restart(id)));
            }
            let away = self.between(&[third], &self.others(third), Trouble::Cut);
            self.links.take(sim, &away);
            // Longer than a majority may take to elect.
            let until = now_ms + 12_000 + 8 * self.knobs.election_ms_max;
            self.undo.push((until, Undo::Links(away)));
        }
    }

    /// Cuts the leader off until it needs a snapshot, and asks it for a change of the voters.
    pub(super) fn promote_while_cut_off(
        &mut self,
        sim: &mut Sim<'_>,
        now_ms: u64,
    ) -> Result<(), &'static str> {
        let (leader, learner) = self.who_promotes()?;
        self.cut_until(sim, leader, Until::LeftBehind(leader), now_ms)?;
        self.desk.ask(Task::TryPromotion { at: leader, learner });
        Ok(())
    }

    /// Asks the leader for a change of the voters that nobody else is to hear of. It is a promotion, as that is
    /// one entry: before a removal the node's id is retired by an entry of its own.
    pub(super) fn overrule_promotion(&mut self, now_ms: u64) -> Result<(), &'static str> {
        let (leader, learner) = self.who_promotes()?;
        let joints = self.invariants.joints();
        let patience_ends_ms = now_ms + PATIENCE_MS;
        self.unheard_changes.push(UnheardChange { leader, joints, patience_ends_ms });
        self.desk.ask(Task::TryPromotion { at: leader, learner });
        Ok(())
    }

    fn who_promotes(&self) -> Result<(u64, u64), &'static str> {
        let leader = self.resolve_running(Target::Leader)?;
        if !self.desk.is_idle() {
            return Err("the operator has something else to do");
        }
        let learner = self.learners.iter().copied().find(|id| self.is_up(*id));
        Ok((leader, learner.ok_or("there is no learner")?))
    }

    /// Once a change of the voters is in a log, which is the leader's first, what it sends of it is lost: it
    /// asked a majority before, so it can't be cut off earlier, and a message takes longer than a step of this.
    /// With the power of all others goes what is on its way to them; the learner's too, which would stand with
    /// that entry and be elected.
    pub(super) fn look_who_changes(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        for expected in std::mem::take(&mut self.unheard_changes) {
            let UnheardChange { leader, joints, patience_ends_ms } = expected;
            if now_ms >= patience_ends_ms || !self.is_up(leader) {
                continue;
            }
            if self.invariants.joints() == joints {
                self.unheard_changes.push(expected);
                continue;
            }
            trace_event!("fault", "a change of the voters that only {} has", host_of(leader));
            let mut others = self.others(leader);
            others.retain(|id| self.is_up(*id));
            for id in others {
                self.cluster.cut_power(sim, id);
                self.undo.push((now_ms + DOWN_MS, Undo::Restart(id)));
            }
            let cut = self.cut_until(sim, leader, Until::LeftBehind(leader), now_ms);
            if let Err(why) = cut {
                trace_event!("fault", "it is not cut off: {why}");
            }
        }
    }
}
