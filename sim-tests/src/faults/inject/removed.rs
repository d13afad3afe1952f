//! Nodes that were removed and go on running, some for ever; some are started again later.
//!
//! Clients know their addresses and go on asking. Whoever was a member and reaches one learns it and ends
//! itself, for a person to look after, and does not start again.

use std::collections::BTreeSet;

use tally_node::consensus::membership::decode_membership;
use turmoil::Sim;

use super::Injector;
use crate::{
    cluster::{Cluster, Condition, host_of},
    trace_event,
};

/// What a node says that was removed.
const REMOVED: &str = "was removed from its cluster";

/// A removed node that reaches a member which has applied that it is none any more learns it in this
/// time: it greets every second, a greeting on a connection that is dead takes a second, and the next
/// one makes a new connection.
const LEARNS_WITHIN_MS: u64 = 6_000;

/// A node that was taken out, and whose machine is there.
#[derive(Debug, Default)]
pub(super) struct Removed {
    /// Since when it could have learned it.
    could_learn_ms: Option<u64>,
    /// It has said that it knows, and has stored it.
    knows: bool,
    /// Errors of its disk, as last seen while its process ran.
    disk_errors: u64,
    /// When its process is started anew.
    starts_again_ms: Option<u64>,
    /// How often the process had been started when it knew.
    boots: u64,
}

impl Injector {
    /// A member is none any more. A process that runs goes on.
    pub(super) fn retire(&mut self, sim: &mut Sim<'_>, id: u64, now_ms: u64) {
        self.leaving.remove(&id);
        self.being_replaced.remove(&id);
        self.restart_at.remove(&id);
        self.retired.push(id);
        if self.damaged.remove(&id).is_some() {
            if self.cluster.machine(id).condition() != Condition::Down {
                self.cluster.kill(sim, id);
            }
            return;
        }
        trace_event!(&host_of(id), "is no member any more");
        self.taken_out_ms.insert(id, now_ms);
        let starts_again_ms = match id % 3 {
            0 => None,
            1 => Some(now_ms + 3_000),
            _ => Some(now_ms + 9_000),
        };
        self.removed.insert(id, Removed { starts_again_ms, ..Removed::default() });
        if self.is_up(id) {
            self.happens("a removed node left running");
        }
    }

    /// Whether the process of a member may end for this reason: it leaves, and learned of it.
    pub(super) fn learns_that_it_leaves(&self, id: u64, reason: &str) -> bool {
        self.leaving.contains(&id) && reason.contains(REMOVED)
    }

    /// Removed nodes learn that they are, and serve nothing then.
    pub(super) fn watch_removed(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        for (id, mut removed) in std::mem::take(&mut self.removed) {
            let machine = self.cluster.machine(id);
            if machine.disk().is_dead() && !machine.life().is_over() {
                self.cluster.cut_power(sim, id);
            }
            match machine.condition() {
                Condition::Failed(reason) if reason.contains(REMOVED) => {
                    if removed.boots != machine.boots() {
                        trace_event!(&host_of(id), "ended itself: {reason}");
                        let again = removed.knows;
                        self.happens(match again {
                            false => "a removed node that ended itself",
                            true => "a removed node that does not start again",
                        });
                        if !machine.needs_a_person() {
                            self.failures.push(format!(
                                "node {id} was removed, and asks to be started again: {reason}"
                            ));
                        }
                    }
                    // Its power or its disk may have failed just as it stored that (seed 3007): then it learns it anew.
                    let failed = machine.disk().is_dead()
                        || machine.disk().counts().errors > removed.disk_errors;
                    removed.knows |= !failed;
                    removed.boots = machine.boots();
                    removed.could_learn_ms = None;
                }
                Condition::Running if removed.knows && removed.boots != machine.boots() => {
                    self.failures
                        .push(format!("node {id} was removed, knew it, and serves all the same"));
                }
                Condition::Running | Condition::Starting => {
                    removed.disk_errors = machine.disk().counts().errors;
                    let by = self.who_tells(id).filter(|_| self.is_network_calm(now_ms));
                    let since = by.map(|_| removed.could_learn_ms.unwrap_or(now_ms));
                    removed.could_learn_ms = since;
                    if let (Some(by), Some(since)) = (by, since)
                        && now_ms - since > LEARNS_WITHIN_MS
                    {
                        self.failures.push(format!(
                            "node {id} was removed, reaches node {by} that knows, and runs on for {} ms",
                            now_ms - since
                        ));
                    }
                }
                Condition::Failed(_) | Condition::Stopped | Condition::Down => {
                    removed.could_learn_ms = None;
                }
            }
            if removed.starts_again_ms.is_some_and(|at_ms| at_ms <= now_ms) {
                removed.starts_again_ms = None;
                removed.could_learn_ms = None;
                trace_event!(&host_of(id), "is started again, though it was removed");
                self.cluster.restart(sim, id);
            }
            self.removed.insert(id, removed);
        }
    }

    /// A member that a removed node reaches, knows, and that has applied the removal. None too where the
    /// removed node itself has not applied that it was ever a member: it waits to be added, for ever.
    fn who_tells(&self, id: u64) -> Option<u64> {
        if !self.is_well(id) || !applied_members(&self.cluster, id)?.contains(&id) {
            return None;
        }
        let known = self.cluster.consensus(id)?.members().1;
        let tells = |peer: &u64| {
            known.iter().any(|(known, _)| known == peer)
                && self.is_healthy(*peer)
                && self.is_linked(id, *peer)
                && applied_members(&self.cluster, *peer).is_some_and(|all| !all.contains(&id))
        };
        self.members().into_iter().find(tells)
    }
}

/// The members as of what a node has applied.
fn applied_members(cluster: &Cluster, id: u64) -> Option<BTreeSet<u64>> {
    let membership = cluster.consensus(id)?.state().membership();
    let members = decode_membership(&membership.encoded).ok()?;
    Some(members.nodes().map(|(id, _)| *id).collect())
}
