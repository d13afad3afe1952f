//! Liveness while faults last: a majority that is connected must make progress, whatever the rest
//! does.
//!
//! Raft promises it of any majority of healthy nodes that reach each other both ways, once their
//! network is calm: they elect a leader, and what it is asked gets committed. The others may be dead,
//! cut off, deaf or half connected; a leader among them that nobody can answer must not be followed
//! for ever.
//!
//! And whoever is well and reaches the leader gets what was committed, also when nobody asks for more.
//!
//! # Which majorities
//! A set of nodes is looked at if it is a majority by the membership of each of its nodes, committed or
//! not: of both sets of voters, while they change. Whoever of them leads, or stands for election, then
//! finds a quorum among them. (By the newest membership alone it would be a guess: an entry that a leader
//! could not commit may be the newest, and be overruled.) Every such set is watched for itself, so that a
//! node that comes or goes does not begin the time of the others anew.

use std::collections::{BTreeMap, BTreeSet};

use tally_proto::http2::PEER;

use super::inject::Injector;
use crate::{cluster::Cluster, invariants::Invariants, knobs::Knobs, trace_event};

/// How often it is looked at, in simulated ms.
pub(crate) const LOOK_EVERY_MS: u64 = 100;

/// Watches every connected majority.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    cores: BTreeMap<BTreeSet<u64>, Core>,
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

#[derive(Debug)]
struct Core {
    boots: Vec<u64>,
    since_ms: u64,
    committed: u64,
    /// Since then some link was cut in one direction.
    one_way: bool,
    /// Since then one of them was one whose state differs.
    differs: bool,
}

/// A node whose state differs leads only if nobody else can: where it alone has all that is committed, it stands for
/// election after so many election timeouts without a leader, the pause between two looks included.
const STANDS_LATER_ELECTIONS: u64 = 11;

impl Reach {
    /// Looks at the cluster; says so if a connected majority has committed nothing for too long.
    pub(crate) fn look(
        &mut self,
        injector: &Injector,
        cluster: &Cluster,
        invariants: &Invariants,
        knobs: &Knobs,
        now_ms: u64,
    ) -> Option<String> {
        let healthy: Vec<u64> =
            injector.members().into_iter().filter(|id| injector.is_healthy(*id)).collect();
        let calm = injector.is_network_calm(now_ms);
        let voters: BTreeMap<u64, Vec<BTreeSet<u64>>> =
            healthy.iter().map(|id| (*id, voters(cluster, *id))).collect();
        let is_core = |core: &BTreeSet<u64>| {
            calm && !core.is_empty()
                && core.iter().all(|a| {
                    is_majority(core, &voters[a])
                        && core.iter().all(|b| a == b || injector.is_linked(*a, *b))
                })
        };
        let committed = invariants.committed();
        let one_way = injector.has_one_way();
        let mut cores = BTreeMap::new();
        let mut too_long = None;
        for set in subsets(&healthy).filter(is_core) {
            let boots = set.iter().map(|id| cluster.machine(*id).boots()).collect();
            let differs = set.iter().any(|id| differs(cluster, *id));
            let begins = Core { boots, since_ms: now_ms, committed, one_way, differs };
            let before = self.cores.remove(&set).filter(|before| before.boots == begins.boots);
            // Whoever reaches all of them may lead them, also one that came back since, or is slow: it has
            // nothing to do where nobody asks (seed 648).
            let reaching = injector.members().into_iter();
            let reaching =
                reaching.filter(|a| set.iter().all(|b| a == b || injector.is_linked(*a, *b)));
            let core = match before {
                Some(before) if committed > before.committed => {
                    before.waited(&set, now_ms, knobs);
                    begins
                }
                Some(before) if !has_nothing_to_do(cluster, reaching) => {
                    let (one_way, differs) = (before.one_way || one_way, before.differs || differs);
                    Core { one_way, differs, ..before }
                }
                _ => begins,
            };
            let patience_ms = core.patience_ms(knobs);
            if now_ms - core.since_ms > patience_ms {
                too_long.get_or_insert_with(|| {
                    format!(
                        "nodes {set:?} are a majority, healthy, and connected both ways, and nothing \
                         was committed for {patience_ms} ms"
                    )
                });
            }
            cores.insert(set, core);
        }
        self.cores = cores;
        too_long
    }

    /// Says so if a node that reaches the leader does not get what was committed.
    pub(crate) fn look_who_lags(
        &mut self,
        injector: &Injector,
        cluster: &Cluster,
        knobs: &Knobs,
        now_ms: u64,
    ) -> Option<String> {
        let leader = cluster.leader().filter(|id| injector.is_healthy(*id));
        let leads = leader.and_then(|id| {
            // (One whose state differs leads until it has handed over, and sends its state to nobody.)
            let consensus = cluster.consensus(id).filter(|_| !differs(cluster, id))?;
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
        let in_the_cluster: BTreeSet<u64> = injector.members().into_iter().collect();
        // Who was taken out is not looked at any more, and nobody waits for it (seed 479).
        self.behind.retain(|id, _| in_the_cluster.contains(id));
        for id in in_the_cluster {
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
        self.behind.iter().find(|(_, behind)| now_ms - behind.since_ms > catch_up_ms(knobs)).map(
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

/// As long as it may take to get what was committed, through a snapshot if need be, from a slow disk.
fn catch_up_ms(knobs: &Knobs) -> u64 {
    8_000 + 8 * knobs.election_ms_max
}

impl Core {
    /// How long a connected majority may take to commit something: six election timeouts, and the messages
    /// and syncs in between. One until the last leader is given up, one until somebody stands for election,
    /// one for each connection that turns out to be dead (the time that connecting may take), one for each
    /// vote that is split, or lost by a node whose log is short. Measured, the longest took 4.2 of them.
    ///
    /// A leader that sends and hears nothing is followed for longer: until its peers close connections on
    /// which it does not answer. And one whose state differs waits for others to lead before it stands itself.
    fn patience_ms(&self, knobs: &Knobs) -> u64 {
        let step_ms = knobs.latency_ms_max + knobs.disk_sync_us / 1000;
        let half_dead = (PEER.keepalive_interval + PEER.keepalive_timeout).as_millis() as u64;
        let half_dead_ms = if self.one_way { half_dead } else { 0 };
        let elections = 6 + if self.differs { STANDS_LATER_ELECTIONS } else { 0 };
        elections * knobs.election_ms_max + 20 * step_ms + 500 + half_dead_ms
    }

    fn waited(&self, set: &BTreeSet<u64>, now_ms: u64, knobs: &Knobs) {
        let (ms, patience_ms) = (now_ms - self.since_ms, self.patience_ms(knobs));
        if ms > 2 * knobs.election_ms_max {
            trace_event!("reach", "{set:?} committed nothing for {ms} of {patience_ms} ms");
        }
    }
}

/// Whether a node has found that its state differs.
fn differs(cluster: &Cluster, id: u64) -> bool {
    cluster.consensus(id).is_some_and(|consensus| consensus.comparisons().differs())
}

/// The voters as a node has them in its log: one set, or two.
fn voters(cluster: &Cluster, id: u64) -> Vec<BTreeSet<u64>> {
    let Some(consensus) = cluster.consensus(id) else { return Vec::new() };
    let metrics = consensus.leadership().metrics();
    metrics.membership_config.membership().get_joint_config().clone()
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
