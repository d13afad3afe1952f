//! Proof that this node led at a moment in the past: the round behind every linearizable read (Raft
//! dissertation, section 6.4).
//!
//! A round looks at Raft's state once, then asks every other voter one question, and counts the
//! answers until a majority of each voter set agrees. openraft has such a round too. It can't be used,
//! because it believes what it is told of replication: an answer to one append counts as an answer to
//! a later one that carries no entries (`drain_acked` takes both off its list, as they end at the same
//! entry), so an old answer that was held up on its way can prove leadership at a time at which the
//! follower had long voted for somebody else. Here, each answer is the answer to one question.
//!
//! # Why what is read afterwards is not stale
//! Let the round begin at time *t*, which is after the read arrived. At *t*, or a moment later, this
//! node's state says that it leads term *T*. The read index is at least the last entry committed
//! then, and at least an entry of term *T*, so it covers all that was acknowledged by *t* in term *T*
//! (here: a write is answered after it is applied) and in earlier terms (which this term's first
//! entry comes after). It remains that no leader of a term *U* > *T* has acknowledged anything before
//! *t*. Such a leader would have been elected before *t*, by a majority whose terms were at least *U*
//! from then on. But a majority answers, after *t*, that its term is at most *T*: terms never fall, not
//! across a restart either, since a vote is durable before it is told. Two majorities have a voter in
//! common, and that one can't have said both. While the voters change, there are two sets of them and
//! a majority of each is needed, here as there.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tally_proto::seeded_bugs;
use tokio::{sync::mpsc, time::Instant};

use super::{
    others::Others,
    raft::Raft,
    types::{self, LogId, TypeConfig, term_of},
};

/// After a round that no quorum answered, the next one waits this long.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// Why leadership could not be confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unconfirmed {
    /// Raft has ended.
    Stopped,
    /// This node does not lead, or leads a term that has no entry yet.
    NotLeader,
    /// No quorum answered in time.
    NoQuorum,
}

/// What Raft's own task says of this node at one moment, if it leads.
struct Leading {
    term: u64,
    read_index: LogId,
    voter_sets: Vec<BTreeSet<u64>>,
    /// Of the other voters.
    addresses: Vec<(u64, String)>,
}

type RaftState = openraft::RaftState<TypeConfig>;

impl Leading {
    fn of(state: &RaftState, me: u64) -> Option<Leading> {
        let vote = state.vote_ref();
        if !state.server_state.is_leader() || !vote.committed || vote.leader_id.voted_for != me {
            return None;
        }
        let members = state.membership_state.effective();
        let voters: BTreeSet<u64> = members.voter_ids().collect();
        let asked = |id: &u64| {
            *id != me && (voters.contains(id) || seeded_bugs::is_on("learner-counts-for-reads"))
        };
        let addresses = members.nodes().filter(|(id, _)| asked(id));
        Some(Leading {
            term: vote.leader_id.term,
            read_index: read_index(state, vote.leader_id.term)?,
            voter_sets: members.get_joint_config().clone(),
            addresses: addresses.map(|(id, node)| (*id, node.peer_address.clone())).collect(),
        })
    }

    fn has_quorum(&self, agreed: &BTreeSet<u64>) -> bool {
        if seeded_bugs::is_on("learner-counts-for-reads") {
            return self.voter_sets.iter().all(|voters| 2 * agreed.len() > voters.len());
        }
        let has_majority =
            |voters: &BTreeSet<u64>| 2 * voters.intersection(agreed).count() > voters.len();
        self.voter_sets.iter().all(has_majority)
    }
}

/// The last entry known to be committed; before one of this term is, a new leader does not know what
/// the one before it has acknowledged, and the last entry of its log stands for it: all that is
/// committed lies at or before it.
fn read_index(state: &RaftState, term: u64) -> Option<LogId> {
    let of_this_term = |log_id: &LogId| term_of(log_id) == term;
    let committed = state.local_committed().copied();
    if seeded_bugs::is_on("read-index-before-noop") {
        return committed;
    }
    let last = || {
        state
            .log_ids
            .last()
            .map(|last| types::log_id(last.committed_leader_id().term, last.index()))
    };
    committed.filter(of_this_term).or_else(|| last().filter(of_this_term))
}

/// Confirms that this node leads, by a round that begins after this call: what to apply before
/// reading. A round that no quorum answers within half an election timeout is begun again.
pub(crate) async fn round_here(
    raft: &Raft,
    others: &Arc<dyn Others>,
    until: Instant,
    election_timeout_max: Duration,
) -> Result<LogId, Unconfirmed> {
    loop {
        let me = others.node_id();
        let leading = raft.with_raft_state(move |state| Leading::of(state, me)).await;
        let leading = leading.map_err(|_| Unconfirmed::Stopped)?.ok_or(Unconfirmed::NotLeader)?;
        let attempt_until = until.min(Instant::now() + election_timeout_max / 2);
        if seeded_bugs::is_on("read-without-quorum-round")
            || is_confirmed(&leading, others, attempt_until).await
        {
            return Ok(leading.read_index);
        }
        if Instant::now() + RETRY_DELAY >= until {
            return Err(Unconfirmed::NoQuorum);
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

/// Asks the other voters until a quorum agrees. The questions run to their end by themselves: calls
/// that are given up, one in each round, would make a peer close the connection.
async fn is_confirmed(leading: &Leading, others: &Arc<dyn Others>, until: Instant) -> bool {
    let mut agreed = BTreeSet::from([others.node_id()]);
    if leading.has_quorum(&agreed) {
        return true;
    }
    let (tell, mut answers) = mpsc::channel(leading.addresses.len().max(1));
    for (node_id, address) in &leading.addresses {
        let (others, node_id, address) = (Arc::clone(others), *node_id, address.clone());
        let (tell, term) = (tell.clone(), leading.term);
        tokio::spawn(async move {
            match others.highest_term(node_id, &address, until).await {
                Ok(highest) if highest <= term => drop(tell.send(node_id).await),
                Ok(highest) => {
                    tracing::debug!(node_id, highest, term, "a voter knows a later term")
                }
                Err(error) => tracing::debug!(node_id, ?error, "a voter does not say its term"),
            }
        });
    }
    drop(tell);
    while let Some(node_id) = answers.recv().await {
        agreed.insert(node_id);
        if leading.has_quorum(&agreed) {
            return true;
        }
    }
    false
}
