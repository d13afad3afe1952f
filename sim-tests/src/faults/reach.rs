//! Liveness while faults last: a majority that is connected must make progress, whatever the rest
//! does.
//!
//! Raft promises it of any majority of healthy nodes that reach each other both ways, once their
//! network is calm: they elect a leader, and what it is asked gets committed. The others may be dead,
//! cut off, deaf or half connected; a leader among them that nobody can answer must not be followed
//! for ever.

use std::collections::BTreeSet;

use super::inject::Injector;
use crate::{cluster::Cluster, invariants::Invariants, knobs::Knobs};

/// How often it is looked at, in simulated ms.
pub const LOOK_EVERY_MS: u64 = 100;

/// Watches one connected majority at a time.
#[derive(Debug, Default)]
pub struct Reach {
    core: BTreeSet<u64>,
    boots: Vec<u64>,
    since_ms: u64,
    committed: u64,
}

impl Reach {
    /// Looks at the cluster; says so if a connected majority has committed nothing for too long.
    pub fn look(
        &mut self,
        injector: &Injector,
        cluster: &Cluster,
        invariants: &Invariants,
        knobs: &Knobs,
        now_ms: u64,
    ) -> Option<String> {
        let healthy: Vec<u64> =
            injector.members().into_iter().filter(|id| injector.is_healthy(*id)).collect();
        let voters = voters(cluster, &healthy);
        let is_core = |core: &BTreeSet<u64>| {
            is_majority(core, &voters)
                && core.iter().all(|a| {
                    healthy.contains(a) && core.iter().all(|b| a == b || injector.is_linked(*a, *b))
                })
        };
        let boots = |core: &BTreeSet<u64>| -> Vec<u64> {
            core.iter().map(|id| cluster.machine(*id).boots()).collect()
        };
        let goes_on = injector.is_network_calm(now_ms)
            && is_core(&self.core)
            && self.boots == boots(&self.core);
        let committed = invariants.committed();
        // Whoever reaches all of them may lead them, also one that came back since.
        let reaching = healthy
            .iter()
            .filter(|a| self.core.iter().all(|b| *a == b || injector.is_linked(**a, *b)))
            .copied();
        let progress = committed > self.committed || has_nothing_to_do(cluster, reaching);
        if !goes_on || progress {
            if !goes_on {
                self.core = if injector.is_network_calm(now_ms) {
                    subsets(&healthy).filter(is_core).max_by_key(BTreeSet::len).unwrap_or_default()
                } else {
                    BTreeSet::new()
                };
                self.boots = boots(&self.core);
            }
            (self.since_ms, self.committed) = (now_ms, committed);
            return None;
        }
        let patience_ms = 8_000 + 8 * knobs.election_ms_max;
        (now_ms - self.since_ms > patience_ms).then(|| {
            format!(
                "nodes {:?} are a majority, healthy, and connected both ways, and nothing was \
                 committed for {patience_ms} ms",
                self.core
            )
        })
    }
}

/// The voters by the newest membership that one of these nodes knows: one set, or two.
fn voters(cluster: &Cluster, nodes: &[u64]) -> Vec<BTreeSet<u64>> {
    let known = nodes.iter().filter_map(|id| {
        let metrics = cluster.consensus(*id)?.leadership().metrics();
        let membership = metrics.membership_config;
        let index = membership.log_id().as_ref().map_or(0, |log_id| log_id.index);
        Some((index, membership.membership().get_joint_config().clone()))
    });
    known.max_by_key(|(index, _)| *index).map(|(_, voters)| voters).unwrap_or_default()
}

fn is_majority(core: &BTreeSet<u64>, voters: &[BTreeSet<u64>]) -> bool {
    !voters.is_empty() && voters.iter().all(|set| 2 * set.intersection(core).count() > set.len())
}

/// The newest leader among them has committed all that it was given: nobody asks for anything.
fn has_nothing_to_do(cluster: &Cluster, nodes: impl Iterator<Item = u64>) -> bool {
    let leads = |id| {
        let consensus = cluster.consensus(id)?;
        let term = consensus.leadership().term_as_leader()?;
        Some((term, consensus))
    };
    nodes.filter_map(leads).max_by_key(|(term, _)| *term).is_some_and(|(_, consensus)| {
        let leadership = consensus.leadership();
        leadership.metrics().last_log_index.unwrap_or(0) <= leadership.commit_index()
    })
}

/// There are few nodes, so all sets of them are looked at.
fn subsets(ids: &[u64]) -> impl Iterator<Item = BTreeSet<u64>> {
    (0_u64..1 << ids.len()).map(|mask| {
        let is_in = |(at, _): &(usize, &u64)| mask >> at & 1 == 1;
        ids.iter().enumerate().filter(is_in).map(|(_, id)| *id).collect()
    })
}
