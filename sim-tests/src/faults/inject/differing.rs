//! A replica whose state differs: a bit of what it has stored flips, it has to find out, and is replaced.
//!
//! **What is asked of it.** It is found out once that bit is overwritten and the replicas compare themselves, or when
//! it counts its state for a snapshot: that there is a time limit for this is `is_calm`, as nothing counts as mended
//! before. From then on it answers LOCAL reads only (`run/verdict`), also after it was started again, until the operator
//! has put another machine into its place. No other node is found to differ (`invariants`).
//!
//! **What is not.** That it is found out if it got a whole new state first, from another node or, when it was started, from
//! a snapshot of its own disk: then there is nothing to find.

use tally_node::consensus::compare;
use turmoil::Sim;

use super::{Injector, RESTART_AFTER_MS};
use crate::{
    cluster::{Condition, host_of},
    faults::plan::Target,
    trace_event, workload,
};

/// How a node with a flipped bit is damaged.
pub(super) const STORED_BIT: &str = "a stored bit";

/// A verdict is on the disk after so long at a node with which nothing is wrong: one that could not be written, as a
/// disk has an error now and then, is written again after a second.
const KEPT_WITHIN_MS: u64 = 4_000;

/// For so long after a node has got another state it still counts as damaged: what it has told of the one before is
/// judged when others have told, too.
const TOLD_MS: u64 = 10_000;

/// A node in whose stored state a bit has flipped.
#[derive(Debug, Default)]
pub(super) struct Differing {
    /// From when it is found out until it is replaced.
    hold_ms: u64,
    found_out: bool,
    /// The store in which it is: a new state is in another one.
    store: String,
    /// Since then it has found out and nothing else is wrong with it.
    well_since_ms: Option<u64>,
    /// The run of its process that was looked at.
    boots: u64,
    /// When it was first seen to have another state.
    other_state_ms: Option<u64>,
    /// It has had that for long, and has nothing to find out. (By what it told before it may, where others were out of
    /// reach since.)
    is_whole: bool,
}

impl Injector {
    pub(super) fn flip_stored_bit(
        &mut self,
        sim: &mut Sim<'_>,
        target: Target,
        hold_ms: u64,
        now_ms: u64,
    ) -> Result<(), &'static str> {
        let id = self.resolve_running(target)?;
        self.may_damage(id)?;
        let stores = self.cluster.machine(id).stores().clone();
        // While the power is off: what a process has read it may know from memory, and then it writes it once more.
        self.cluster.cut_power(sim, id);
        self.restart_at.insert(id, now_ms + RESTART_AFTER_MS);
        // Of several, who knows which one it goes on with.
        let mut names = stores.names().into_iter().filter(|name| !name.contains('.'));
        let (Some(store), None) = (names.next(), names.next()) else {
            return Err("it is changing its state's store");
        };
        if stores.rot(workload::is_overwritten).is_none() {
            return Err("it has not stored it yet");
        }
        trace_event!(&host_of(id), "a bit of its stored state flips");
        self.invariants.differs(id);
        self.damaged.insert(id, STORED_BIT);
        self.differing.insert(id, Differing { hold_ms, store, ..Differing::default() });
        Ok(())
    }

    pub(super) fn watch_differing(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        for (id, mut differing) in std::mem::take(&mut self.differing) {
            if self.retired.contains(&id) {
                if differing.found_out {
                    self.happens("a replica that differs replaced");
                }
                continue;
            }
            self.look_whether_it_stays_so(id, &mut differing);
            let machine = self.cluster.machine(id);
            // (A start may make it of a snapshot, and tells nobody.)
            if machine.condition() == Condition::Running
                && !machine.stores().names().contains(&differing.store)
            {
                self.invariants.gets_another_state(id);
            }
            let found_out_ms = self.invariants.found_out_ms(id);
            if found_out_ms.is_some() && !differing.found_out {
                differing.found_out = true;
                trace_event!(&host_of(id), "has found that its state differs");
                self.happens("a replica that differs found out");
            }
            if self.being_replaced.contains_key(&id) {
                self.differing.insert(id, differing);
                continue;
            }
            match found_out_ms {
                Some(at_ms)
                    if (self.healed || now_ms >= at_ms + differing.hold_ms)
                        && self.is_its_turn(id) =>
                {
                    self.look_whether_it_is_kept(id, &differing, now_ms);
                    self.replace(sim, id);
                }
                Some(_) => {
                    // (One that was started again before its verdict was on the disk may not know it any more.)
                    let since = differing.well_since_ms.unwrap_or(now_ms);
                    let is_to_keep_it = self.is_well(id) && self.knows_that_it_differs(id);
                    differing.well_since_ms = is_to_keep_it.then_some(since);
                }
                None if self.invariants.has_another_state(id) => {
                    let since = *differing.other_state_ms.get_or_insert(now_ms);
                    if now_ms >= since + TOLD_MS && !differing.is_whole {
                        trace_event!(&host_of(id), "has another state, without the flipped bit");
                        differing.is_whole = true;
                        self.damaged.remove(&id);
                    }
                }
                None => {}
            }
            self.differing.insert(id, differing);
        }
    }

    /// Whether nothing is left to find out, nor to replace.
    pub(super) fn is_differing_over(&self) -> bool {
        self.differing.values().all(|differing| differing.is_whole && !differing.found_out)
    }

    /// Whether it may be replaced now. One that found out when it counted as whole waits for what was damaged since.
    fn is_its_turn(&mut self, id: u64) -> bool {
        if self.damaged.get(&id) == Some(&STORED_BIT) {
            return true;
        }
        let is_free = self.damaged.is_empty() && self.being_replaced.is_empty();
        if is_free {
            self.damaged.insert(id, STORED_BIT);
        }
        is_free
    }

    fn knows_that_it_differs(&self, id: u64) -> bool {
        self.cluster.consensus(id).is_some_and(|consensus| consensus.comparisons().differs())
    }

    /// What it has found out, and has on its disk, it knows when it is started again.
    fn look_whether_it_stays_so(&mut self, id: u64, differing: &mut Differing) {
        let machine = self.cluster.machine(id);
        if differing.boots == machine.boots() || machine.condition() != Condition::Running {
            return;
        }
        let Some(consensus) = self.cluster.consensus(id) else { return };
        differing.boots = machine.boots();
        if !differing.found_out || !machine.disk().contents().contains_key(compare::FILE) {
            return;
        }
        self.happens("a replica that differs started anew");
        if !consensus.comparisons().differs() {
            self.failures.push(format!(
                "node {id} had found that its state differs, and does not know it any more"
            ));
        }
    }

    fn look_whether_it_is_kept(&mut self, id: u64, differing: &Differing, now_ms: u64) {
        let is_due = differing.well_since_ms.is_some_and(|since| now_ms - since >= KEPT_WITHIN_MS);
        let disk = self.cluster.machine(id).disk().clone();
        let is_due = is_due && self.is_well(id) && self.knows_that_it_differs(id);
        if is_due && !disk.contents().contains_key(compare::FILE) {
            self.failures.push(format!(
                "node {id} has found that its state differs, and has not stored it in {KEPT_WITHIN_MS} ms"
            ));
        }
    }
}
