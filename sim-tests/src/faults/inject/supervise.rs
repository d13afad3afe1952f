//! Supervision, as an init system would: a node that ended itself is started again after a while. One
//! whose disk was damaged and does not come back is replaced by the operator. Also those that are stopped
//! and started one after the other.

use tally_node::consensus::Consensus;
use turmoil::Sim;

use super::{Injector, RESTART_AFTER_MS, Undo, differing::STORED_BIT, set_up};
use crate::{
    cluster::{Condition, host_of},
    faults::operator::Task,
    trace_event,
};

impl Injector {
    pub(super) fn supervise(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        for id in self.members() {
            let machine = self.cluster.machine(id);
            if machine.disk().is_dead() && !machine.life().is_over() {
                // A power cut between two disk operations has struck.
                trace_event!(&host_of(id), "the power failed between two disk operations");
                self.count_power_cut(id);
                self.cluster.cut_power(sim, id);
                let down_ms = self.down_ms.remove(&id).unwrap_or(RESTART_AFTER_MS);
                self.restart_at.insert(id, now_ms + down_ms);
            }
            let Condition::Failed(reason) = machine.condition() else { continue };
            if self.restart_at.contains_key(&id) || self.being_replaced.contains_key(&id) {
                continue;
            }
            if self.learns_that_it_leaves(id, &reason) || self.is_sent_away(id, &reason) {
                continue;
            }
            trace_event!(&host_of(id), "ended itself: {reason}");
            if machine.life().lost_power() {
                self.count_power_cut(id);
            }
            let errors = machine.io_errors();
            let errors_before = self.errors_seen.insert(id, errors).unwrap_or(0);
            let explained = errors > errors_before || machine.life().lost_power();
            self.cluster.cut_power(sim, id);
            // (One whose state differs goes on until it has been seen what becomes of it.)
            if self.damaged.get(&id).is_some_and(|how| *how != STORED_BIT) {
                self.replace(sim, id);
                continue;
            }
            if !explained {
                self.failures.push(format!("node {id}: {reason}"));
            }
            self.restart_at.insert(id, now_ms + RESTART_AFTER_MS);
        }
        if self.healed {
            for id in self.members() {
                let condition = self.cluster.machine(id).condition();
                if matches!(condition, Condition::Down | Condition::Stopped)
                    && !self.being_replaced.contains_key(&id)
                {
                    self.restart_at.entry(id).or_insert(now_ms);
                }
            }
        }
        let lost: Vec<u64> =
            self.replace_at.iter().filter(|(_, at)| **at <= now_ms).map(|(id, _)| *id).collect();
        for id in lost {
            self.replace_at.remove(&id);
            if !self.being_replaced.contains_key(&id) && !self.retired.contains(&id) {
                self.restart_at.remove(&id);
                self.cluster.cut_power(sim, id);
                self.replace(sim, id);
            }
        }
        let due: Vec<u64> =
            self.restart_at.iter().filter(|(_, at)| **at <= now_ms).map(|(id, _)| *id).collect();
        for id in due {
            self.restart_at.remove(&id);
            trace_event!(&host_of(id), "is started");
            self.cluster.restart(sim, id);
        }
    }

    /// Power that failed between two disk operations may have met a moment that is looked for.
    pub(super) fn count_power_cut(&mut self, id: u64) {
        if self.cluster.machine(id).disk().died_at_segment() {
            self.happens("the power failed as a used file became the log's next segment");
        }
        if self.traps.take_sprung_over_cut(id) {
            self.happens("the power failed in an install over a log just cut back");
        }
    }

    /// The second of two power cuts, a little after the first.
    pub(super) fn cut_second(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        let due = self.second_cuts.extract_if(.., |(at_ms, ..)| *at_ms <= now_ms);
        for (_, id, until_ms) in due.collect::<Vec<_>>() {
            if self.is_up(id) {
                self.cluster.cut_power(sim, id);
                self.undo.push((until_ms, Undo::Restart(id)));
            }
        }
    }

    /// One node after the other is stopped and started, the next one when the one before is back.
    pub(super) fn roll(&mut self, sim: &mut Sim<'_>) {
        let Some(id) = self.rolling.last().copied() else { return };
        if let Some((before, index)) = self.rolls_behind {
            if !self.may_roll_on(before, index) {
                return;
            }
            self.rolls_behind = None;
            self.cluster.stop(id);
            return;
        }
        let gone = self.retired.contains(&id) || self.being_replaced.contains_key(&id);
        match self.cluster.machine(id).condition() {
            // It was asked to stop, and has not yet.
            Condition::Running | Condition::Starting if !gone => return,
            Condition::Stopped if !gone => {
                trace_event!(&host_of(id), "is started, in its turn");
                self.cluster.restart(sim, id);
            }
            // Something else happened to it meanwhile, and takes its own course.
            _ => {}
        }
        self.rolling.pop();
        let committed = self.committed();
        match self.rolling.last() {
            Some(next) if self.rolls_hastily => self.cluster.stop(*next),
            Some(_) => self.rolls_behind = Some((id, committed)),
            None => {}
        }
    }

    /// The highest commit index that some node knows of.
    fn committed(&self) -> u64 {
        let nodes = self.members().into_iter().filter_map(|id| self.cluster.consensus(id));
        nodes.map(|consensus| consensus.leadership().commit_index()).max().unwrap_or(0)
    }

    /// Whether a node that was restarted knows a leader and has caught up, or has left.
    fn may_roll_on(&self, id: u64, index: u64) -> bool {
        let gone = self.retired.contains(&id) || self.being_replaced.contains_key(&id);
        let is_back = |consensus: Consensus| {
            let leadership = consensus.leadership();
            let applied = leadership.last_applied().map_or(0, |(_, index)| index);
            leadership.current().is_some() && applied >= index
        };
        gone || self.cluster.consensus(id).is_some_and(is_back)
    }

    pub(super) fn replace(&mut self, sim: &mut Sim<'_>, old: u64) {
        let new = self.next_id;
        self.next_id += 1;
        self.replacements_left = self.replacements_left.saturating_sub(1);
        self.cluster.add(sim, new);
        set_up(&self.cluster, &self.knobs, &self.invariants, new);
        trace_event!(&host_of(new), "is a new machine, for the place of {}", host_of(old));
        self.being_replaced.insert(old, new);
        self.asked.remove(&old);
        self.asked.insert(new);
        self.desk.ask(Task::Replace { old, new });
    }
}
