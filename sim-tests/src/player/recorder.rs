//! Looks at a cluster while a simulation runs.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
};

use tally_player::{Log, Message, Seen};
use turmoil::Sim;

use crate::{
    cluster::{Cluster, Condition, PEER_PORT, host_of},
    faults::links::Links,
    trace::{self, Passage, Passed},
};

/// How often it looks, in simulated ms: what changes and changes back in between is not seen.
const LOOK_EVERY_MS: u64 = 10;

/// Records what the nodes of a cluster do. See the [module](super).
#[derive(Debug, Clone, Default)]
pub struct Recorder {
    hosts: BTreeMap<IpAddr, u64>,
    seen: Seen,
}

impl Recorder {
    /// Looks, if it is time to: once each tick. `links` are those that the simulation cuts, if it does so by them.
    pub fn look(&mut self, sim: &Sim<'_>, cluster: &Cluster, links: Option<&Links>, now_ms: u64) {
        if !now_ms.is_multiple_of(LOOK_EVERY_MS) {
            return;
        }
        let ids = cluster.ids();
        for id in &ids {
            if !self.seen.knows(*id) {
                self.hosts.insert(sim.lookup(host_of(*id)), *id);
            }
            let ((role, term), log) = seen(cluster, *id);
            self.seen.role(now_ms, *id, role, term);
            if let Some(log) = log {
                self.seen.log(now_ms, *id, log);
            }
        }
        let Some(links) = links else { return };
        let pairs = ids.iter().flat_map(|from| ids.iter().map(move |to| (*from, *to)));
        let is_cut =
            |(from, to): &(u64, u64)| from != to && links.is_cut(&host_of(*from), &host_of(*to));
        self.seen.cut(now_ms, pairs.filter(is_cut).collect());
    }

    /// The same, with the messages that this thread's trace kept.
    pub(crate) fn with_messages(mut self) -> Self {
        self.seen.messages = self.messages(&trace::passed());
        self
    }

    /// What was seen.
    pub(super) fn into_seen(self) -> Seen {
        self.seen
    }

    /// What was sent between nodes, with how long it took. What one connection brings in one direction comes in
    /// the order in which it was sent.
    fn messages(&self, passed: &[Passed]) -> Vec<Message> {
        let mut under_way: BTreeMap<(SocketAddr, SocketAddr), VecDeque<usize>> = BTreeMap::new();
        let mut messages = Vec::new();
        for Passed { ms, what, from, to, has } in passed {
            let is_peers = from.port() == PEER_PORT || to.port() == PEER_PORT;
            let nodes = (self.hosts.get(&from.ip()), self.hosts.get(&to.ip()));
            let (true, (Some(source), Some(target))) = (is_peers, nodes) else { continue };
            let on_it = under_way.entry((*from, *to)).or_default();
            match what {
                Passage::Sent => {
                    on_it.push_back(messages.len());
                    messages.push((*source, *target, *ms, -1, *has));
                }
                Passage::Arrived => {
                    if let Some(at) = on_it.pop_front() {
                        let (_, _, sent, took, _) = &mut messages[at];
                        *took = ms.saturating_sub(*sent) as i64;
                    }
                }
            }
        }
        messages
    }
}

/// A node's role with its term, and its log.
fn seen(cluster: &Cluster, id: u64) -> ((&'static str, u64), Option<Log>) {
    let resting = match cluster.machine(id).condition() {
        Condition::Running => None,
        Condition::Starting => Some("starting"),
        Condition::Stopped => Some("stopped"),
        Condition::Down => Some("down"),
        Condition::Failed(_) => Some("failed"),
    };
    let Some(consensus) = cluster.consensus(id) else {
        return ((resting.unwrap_or("starting"), 0), None);
    };
    let metrics = consensus.leadership().metrics();
    let name = resting.unwrap_or(if metrics.state.is_leader() {
        "leader"
    } else if metrics.state.is_candidate() {
        "candidate"
    } else if metrics.state.is_learner() {
        "learner"
    } else {
        "follower"
    });
    let applied = consensus.state().applied().map_or(0, |applied| applied.index);
    let log = (metrics.last_log_index.unwrap_or(0), consensus.leadership().commit_index(), applied);
    ((name, metrics.current_term), Some(log))
}
