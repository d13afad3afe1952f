//! Who leads: what Raft's metrics say, in the form that the rest asks for.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use openraft::{
    RaftMetrics, ServerState, async_runtime::WatchReceiver, type_config::alias::InstantOf,
};
use tokio::time::Instant;

use super::{
    error::LeaderHint,
    others::Others,
    raft::Raft,
    types::{LogId, TypeConfig, term_of},
};

type Metrics = openraft::type_config::alias::WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>;

/// Watches who leads. Cheap to clone; each clone waits for itself.
#[derive(Clone)]
pub struct Leadership {
    raft: Raft,
    metrics: Metrics,
    others: Arc<dyn Others>,
}

impl std::fmt::Debug for Leadership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Leadership")
    }
}

/// Where writes go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leader {
    /// This node leads.
    Here {
        /// The term in which it leads.
        term: u64,
    },
    /// Another node leads.
    There {
        /// Its id.
        node_id: u64,
        /// Address of its peer port.
        peer_address: String,
        /// The term in which it leads.
        term: u64,
    },
}

impl Leadership {
    /// Over a running Raft.
    pub fn new(raft: &Raft, others: Arc<dyn Others>) -> Self {
        Leadership { raft: raft.clone(), metrics: raft.metrics(), others }
    }

    /// The term in which this node leads, if it does.
    pub fn term_as_leader(&self) -> Option<u64> {
        self.raft.as_leader().ok().map(|leader| leader.term())
    }

    /// The leader, if one is known.
    pub fn current(&self) -> Option<Leader> {
        if let Some(term) = self.term_as_leader() {
            return Some(Leader::Here { term });
        }
        let metrics = self.metrics.borrow_watched();
        let node_id = metrics.current_leader?;
        if node_id == self.others.node_id() {
            return None;
        }
        let member = metrics.membership_config.membership().get_node(&node_id)?;
        Some(Leader::There {
            node_id,
            peer_address: member.peer_address.clone(),
            term: metrics.current_term,
        })
    }

    /// The leader, waiting until one is known or the time is over.
    pub async fn wait_for_leader(&mut self, until: Instant) -> Option<Leader> {
        loop {
            if let Some(leader) = self.current() {
                return Some(leader);
            }
            match tokio::time::timeout_at(until, self.metrics.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return None,
            }
        }
    }

    /// Waits until the metrics change, or the time is over.
    pub async fn changed(&mut self, until: Instant) {
        if let Ok(Err(_)) = tokio::time::timeout_at(until, self.metrics.changed()).await {
            // Raft has ended, so nothing will change; without waiting, whoever asks again and again
            // would do so on a full core.
            tokio::time::sleep_until(until).await;
        }
    }

    /// Waits until this node does not lead; at once if it does not.
    pub async fn lost(&self) {
        // Not the whole metrics, which change with every entry.
        let mut metrics = self.raft.server_metrics();
        while metrics.borrow_watched().state == ServerState::Leader {
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// What to tell a client about the leader.
    pub fn hint(&self) -> Option<LeaderHint> {
        let metrics = self.metrics.borrow_watched();
        let node_id = metrics.current_leader?;
        Some(LeaderHint {
            node_id,
            address: self.others.client_address(node_id),
            term: metrics.current_term,
        })
    }

    /// This node's role and term, from one look.
    pub fn role(&self) -> (Role, u64) {
        let metrics = self.metrics.borrow_watched();
        let role = match metrics.state {
            ServerState::Leader => Role::Leader,
            ServerState::Learner => Role::Learner,
            ServerState::Follower | ServerState::Candidate | ServerState::Shutdown => {
                Role::Follower
            }
        };
        (role, metrics.current_term)
    }

    /// How long ago a quorum last acknowledged this leader; `None` if it does not lead.
    pub fn since_quorum_ack(&self) -> Option<Duration> {
        let leader = self.raft.as_leader().ok()?;
        if self.is_only_voter() {
            // It is its own quorum, and sends nothing that could be acknowledged.
            return Some(Duration::ZERO);
        }
        leader.last_quorum_acked().map(elapsed_since)
    }

    /// How long ago the leader of this node's term was last heard; `None` if it never was.
    pub async fn since_leader_heard(&self) -> Option<Duration> {
        // A leader's message renews its vote.
        let heard = self.raft.with_raft_state(|state| state.vote_last_modified()).await;
        heard.ok().flatten().map(elapsed_since)
    }

    /// Of these nodes, those that this leader has not heard of for so long, or never; all if it does
    /// not lead.
    pub fn silent(&self, nodes: &BTreeSet<u64>, longest: Duration) -> BTreeSet<u64> {
        let me = self.others.node_id();
        let metrics = self.metrics.borrow_watched();
        let heard = |id: &u64| {
            let acked = metrics.heartbeat.as_ref().and_then(|all| *all.get(id)?);
            acked.is_some_and(|at| elapsed_since(at.into_inner()) <= longest)
        };
        nodes.iter().copied().filter(|id| *id != me && !heard(id)).collect()
    }

    /// Whether what this leader writes can be stored by a quorum; heartbeats are answered by nodes, too, that can't store
    /// anything now. A voter counts if it was heard of within `longest` and is not known to need a snapshot first. Of one
    /// that has acknowledged nothing to this leader yet that is not known, as right after an election.
    pub fn writing(&self, longest: Duration) -> Writing {
        let metrics = self.metrics();
        let me = self.others.node_id();
        let membership = metrics.membership_config.membership();
        let silent = self.silent(&membership.voter_ids().collect(), longest);
        let counts = |id: &u64| {
            *id == me || !silent.contains(id) && needs_snapshot(&metrics, *id) != Some(true)
        };
        let mut configs = membership.get_joint_config().iter();
        Writing {
            has_quorum: configs
                .all(|voters| 2 * voters.iter().filter(|id| counts(id)).count() > voters.len()),
            last_index: metrics.last_log_index.unwrap_or(0),
            commit_index: metrics.local_committed.as_ref().map_or(0, LogId::index),
        }
    }

    /// A node has acknowledged nothing to this leader, or its log ends before this one begins: it acknowledges nothing
    /// that is written now before it has been sent a snapshot.
    pub fn lacks_log(&self, node_id: u64) -> bool {
        node_id != self.others.node_id() && needs_snapshot(&self.metrics(), node_id) != Some(false)
    }

    /// This node knows members, by the newest membership in its log, and that one is none of them.
    pub fn is_no_member(&self, node_id: u64) -> bool {
        let metrics = self.metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        membership.nodes().next().is_some() && membership.get_node(&node_id).is_none()
    }

    fn is_only_voter(&self) -> bool {
        let metrics = self.metrics.borrow_watched();
        let me = self.others.node_id();
        metrics.membership_config.membership().voter_ids().all(|id| id == me)
    }

    /// The newest metrics.
    pub fn metrics(&self) -> RaftMetrics<TypeConfig> {
        // Cloned at once: a borrow that is held can block Raft's own task.
        self.metrics.borrow_watched().clone()
    }

    /// The commit index, as far as this node knows.
    pub fn commit_index(&self) -> u64 {
        let metrics = self.metrics.borrow_watched();
        metrics.local_committed.as_ref().map_or(0, LogId::index)
    }

    /// Term and index of the last applied entry, as Raft's own task knows it.
    pub fn last_applied(&self) -> Option<(u64, u64)> {
        let metrics = self.metrics.borrow_watched();
        metrics.last_applied.as_ref().map(|id| (term_of(id), id.index()))
    }
}

/// Whether writes get on; see [`Leadership::writing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writing {
    /// Enough voters could store an entry.
    pub has_quorum: bool,
    /// The last index of the leader's log.
    pub last_index: u64,
    /// The commit index. Behind the last one, something is under way.
    pub commit_index: u64,
}

/// What Raft is about, for whoever watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// This node leads.
    pub leads: bool,
    /// Who leads, as far as it knows.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
    /// The commit index, as far as it knows.
    pub commit_index: u64,
    /// How many voters there are.
    pub voters: usize,
    /// On the leader: the other members.
    pub peers: Vec<PeerOutlook>,
}

/// What a leader knows of another member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerOutlook {
    /// Its id.
    pub id: u64,
    /// Entries of the leader's log that it has not acknowledged.
    pub lag_entries: u64,
    /// Since it last acknowledged anything, if it ever did.
    pub silence: Option<Duration>,
}

impl Leadership {
    /// What Raft is about now.
    pub fn outlook(&self) -> Outlook {
        let metrics = self.metrics();
        let (me, last) = (self.others.node_id(), metrics.last_log_index.unwrap_or(0));
        let heard = metrics.heartbeat.unwrap_or_default();
        let replication = metrics.replication.unwrap_or_default();
        let peers = replication.iter().filter(|(id, _)| **id != me).map(|(id, matched)| {
            let heard = heard.get(id).and_then(Option::as_ref);
            PeerOutlook {
                id: *id,
                lag_entries: last.saturating_sub(matched.as_ref().map_or(0, LogId::index)),
                silence: heard.map(|at| elapsed_since(at.into_inner())),
            }
        });
        Outlook {
            leads: self.term_as_leader().is_some(),
            leader: metrics.current_leader,
            term: metrics.current_term,
            commit_index: metrics.local_committed.as_ref().map_or(0, LogId::index),
            voters: metrics.membership_config.membership().voter_ids().count(),
            peers: peers.collect(),
        }
    }
}

/// The last log index that a node has acknowledged to this leader, if it has any.
pub(super) fn matched(metrics: &RaftMetrics<TypeConfig>, node_id: u64) -> Option<u64> {
    metrics.replication.as_ref()?.get(&node_id)?.as_ref().map(|matched| matched.index)
}

/// Whether this leader's log begins behind a node's end; not known of one that has acknowledged nothing to it.
fn needs_snapshot(metrics: &RaftMetrics<TypeConfig>, node_id: u64) -> Option<bool> {
    let purged = metrics.purged.as_ref().map_or(0, LogId::index);
    matched(metrics, node_id).map(|matched| matched < purged)
}

fn elapsed_since(at: InstantOf<TypeConfig>) -> Duration {
    let now = <TypeConfig as openraft::type_config::TypeConfigExt>::now();
    openraft::Instant::saturating_duration_since(&now, at)
}

/// Role of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Orders all writes of its term.
    Leader,
    /// A voter that does not lead.
    Follower,
    /// Receives the log, has no vote.
    Learner,
}

/// How long a task waits for a leader before it says that there is none.
pub fn no_quorum_after(election_timeout_max: Duration) -> Duration {
    2 * election_timeout_max
}
