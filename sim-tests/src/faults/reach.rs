//! Liveness while faults last: a majority that is connected must make progress, whatever the rest
//! does.
//!
//! Raft promises it of any majority of healthy nodes that reach each other both ways, once their
//! network is calm: they elect a leader, and what it is asked gets committed. The others may be dead,
//! cut off, deaf or half connected; a leader among them that nobody can answer must not be followed
//! for ever.
//!
//! And whoever is well and reaches the leader gets what was committed, also when nobody asks for more.

use std::collections::{BTreeMap, BTreeSet};

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
    behind: BTreeMap<u64, Behind>,
}

/// A node that is to apply what was committed at some moment, from its leader.
#[derive(Debug, PartialEq, Eq)]
struct Behind {
    since_ms: u64,
    committed: u64,
    /// The leader's, and its own.
    boots: (u64, u64),
    term: u64,
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
        let patience_ms = patience_ms(knobs);
        (now_ms - self.since_ms > patience_ms).then(|| {
            format!(
                "nodes {:?} are a majority, healthy, and connected both ways, and nothing was \
                 committed for {patience_ms} ms",
                self.core
            )
        })
    }
}

impl Reach {
    /// Says so if a node that reaches the leader does not get what was committed.
    pub fn look_who_lags(
        &mut self,
        injector: &Injector,
        cluster: &Cluster,
        knobs: &Knobs,
        now_ms: u64,
    ) -> Option<String> {
        let leader = cluster.leader().filter(|id| injector.is_healthy(*id));
        let leads = leader.and_then(|id| {
            let consensus = cluster.consensus(id)?;
            let term = consensus.leadership().term_as_leader()?;
            Some((id, term, consensus.leadership().commit_index()))
        });
        let Some((leader, term, committed)) = leads.filter(|_| injector.is_network_calm(now_ms))
        else {
            self.behind.clear();
            return None;
        };
        let metrics = cluster.consensus(leader)?.leadership().metrics();
        let members: BTreeSet<u64> =
            metrics.membership_config.membership().nodes().map(|(id, _)| *id).collect();
        for id in injector.members() {
            let boots = (cluster.machine(leader).boots(), cluster.machine(id).boots());
            let applied = cluster.consensus(id).and_then(|consensus| consensus.state().applied());
            let applied = applied.map_or(0, |applied| applied.index);
            let reaches = id != leader
                && members.contains(&id)
                && injector.is_healthy(id)
                && injector.is_linked(id, leader);
            let goes_on = self.behind.get(&id).is_some_and(|behind| {
                reaches
                    && (behind.boots, behind.term) == (boots, term)
                    && applied < behind.committed
            });
            if !goes_on {
                self.behind.remove(&id);
                if reaches && applied < committed {
                    let behind = Behind { since_ms: now_ms, committed, boots, term };
                    self.behind.insert(id, behind);
                }
            }
        }
        self.behind.iter().find(|(_, behind)| now_ms - behind.since_ms > patience_ms(knobs)).map(
            |(id, behind)| {
                format!(
                    "node {id} is healthy and connected with its leader, node {leader}, and has not \
                     applied entry {} for {} ms, which was committed before",
                    behind.committed,
                    now_ms - behind.since_ms
                )
            },
        )
    }
}

fn patience_ms(knobs: &Knobs) -> u64 {
    8_000 + 8 * knobs.election_ms_max
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
