//! Looks at a cluster while a simulation runs.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
};

use tally_player::{Window, window_of, windows_of};
use turmoil::Sim;

use crate::{
    cluster::{Cluster, Condition, PEER_PORT, host_of},
    faults::links::Links,
    trace::{self, Passage, Passed},
};

/// How often it looks, in simulated ms: what changes and changes back in between is not seen.
const LOOK_EVERY_MS: u64 = 10;

/// What a node shows.
type Log = (u64, u64, u64);

/// Nodes, roles and cut links.
type Seen = (Vec<u64>, Vec<(u64, u64, &'static str, u64)>, Vec<(u64, Vec<(u64, u64)>)>);

/// Records what the nodes of a cluster do. See the [module](super).
#[derive(Debug, Clone, Default)]
pub struct Recorder {
    hosts: BTreeMap<IpAddr, u64>,
    role: BTreeMap<u64, (&'static str, u64)>,
    log: BTreeMap<u64, Log>,
    cut: Vec<(u64, u64)>,
    roles: Vec<(u64, u64, &'static str, u64)>,
    logs: Vec<(u64, u64, Log)>,
    cuts: Vec<(u64, Vec<(u64, u64)>)>,
    passed: Vec<Passed>,
}

impl Recorder {
    /// Looks, if it is time to: once each tick. `links` are those that the simulation cuts, if it does so by them.
    pub fn look(&mut self, sim: &Sim<'_>, cluster: &Cluster, links: Option<&Links>, now_ms: u64) {
        if !now_ms.is_multiple_of(LOOK_EVERY_MS) {
            return;
        }
        let ids = cluster.ids();
        for id in &ids {
            if !self.role.contains_key(id) {
                self.hosts.insert(sim.lookup(host_of(*id)), *id);
            }
            let (role, log) = seen(cluster, *id);
            if self.role.insert(*id, role) != Some(role) {
                self.roles.push((now_ms, *id, role.0, role.1));
            }
            if let Some(log) = log
                && self.log.insert(*id, log) != Some(log)
            {
                self.logs.push((now_ms, *id, log));
            }
        }
        let Some(links) = links else { return };
        let pairs = ids.iter().flat_map(|from| ids.iter().map(move |to| (*from, *to)));
        let is_cut =
            |(from, to): &(u64, u64)| from != to && links.is_cut(&host_of(*from), &host_of(*to));
        let cut: Vec<(u64, u64)> = pairs.filter(is_cut).collect();
        if cut != self.cut {
            self.cuts.push((now_ms, cut.clone()));
            self.cut = cut;
        }
    }

    /// The same, with the messages that this thread's trace kept.
    pub(crate) fn with_messages(mut self) -> Self {
        self.passed = trace::passed();
        self
    }

    /// The nodes, their roles and the cut links, as a recording has them.
    pub(super) fn seen(&self) -> Seen {
        (self.role.keys().copied().collect(), self.roles.clone(), self.cuts.clone())
    }

    /// All else, by window.
    pub(super) fn windows(self, lasted_ms: u64) -> Vec<Window> {
        let mut windows = vec![Window::default(); windows_of(lasted_ms)];
        let mut last = BTreeMap::new();
        let mut logs = self.logs.iter().peekable();
        for (at, window) in windows.iter_mut().enumerate() {
            let carried = last.iter().map(|(id, log): (&u64, &Log)| (0, *id, log.0, log.1, log.2));
            window.logs.extend(carried);
            while let Some((ms, id, log)) = logs.next_if(|log| window_of(log.0, lasted_ms).0 == at)
            {
                last.insert(*id, *log);
                let within = ms - window_of(*ms, lasted_ms).1;
                window.logs.push((within, *id, log.0, log.1, log.2));
            }
        }
        for (from, to, sent, took) in self.messages() {
            let (window, from_ms) = window_of(sent, lasted_ms);
            windows[window].messages.push((from, to, sent - from_ms, took));
        }
        windows
    }

    /// What was sent between nodes, with how long it took. What one connection brings in one direction comes in
    /// the order in which it was sent.
    fn messages(&self) -> Vec<(u64, u64, u64, i64)> {
        let mut under_way: BTreeMap<(SocketAddr, SocketAddr), VecDeque<usize>> = BTreeMap::new();
        let mut messages = Vec::new();
        for Passed { ms, what, from, to } in &self.passed {
            let is_peers = from.port() == PEER_PORT || to.port() == PEER_PORT;
            let nodes = (self.hosts.get(&from.ip()), self.hosts.get(&to.ip()));
            let (true, (Some(source), Some(target))) = (is_peers, nodes) else { continue };
            let on_it = under_way.entry((*from, *to)).or_default();
            match what {
                Passage::Sent => {
                    on_it.push_back(messages.len());
                    messages.push((*source, *target, *ms, -1));
                }
                Passage::Arrived => {
                    if let Some(at) = on_it.pop_front() {
                        let (.., sent, took) = &mut messages[at];
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
