//! How far the other nodes are, as they say themselves: who becomes a voter, and who is to lead next, is chosen by that.
//!
//! A leader knows from its own replication what is in a node's log. That comes far quicker than it is applied: a new
//! node may have all of the log and a sixth of the state. As a voter it counts for majorities at once, which is safe;
//! elected, it answers nobody until it has worked off the rest. So it is asked for its applied index, right before it is
//! decided. What it says is old by the time that it took, and only ever too low: nodes do not fall back.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{Consensus, leader::matched};

/// How long a node may take to say it. Others wait meanwhile: for a leader that stops, or for an operator's step.
const PATIENCE: Duration = Duration::from_millis(500);

/// Applied indexes of other nodes, of those that said it.
#[derive(Debug, Clone, Default)]
pub(super) struct Applied(BTreeMap<u64, u64>);

impl Consensus {
    /// Asks all who could lead next.
    pub(super) async fn successors_applied(&self) -> Applied {
        let now = self.voters_now();
        self.ask_applied(now.voters.difference(&now.silent).copied().collect()).await
    }

    /// Asks nodes, all at once.
    pub(super) async fn ask_applied(&self, nodes: BTreeSet<u64>) -> Applied {
        let (_, members) = self.members();
        let until = Instant::now() + PATIENCE;
        let mut answers = FuturesUnordered::new();
        for (id, member) in members {
            if id == self.node_id() || !nodes.contains(&id) {
                continue;
            }
            let others = Arc::clone(&self.inner.others);
            answers.push(async move {
                (id, others.applied_index(id, &member.peer_address, until).await)
            });
        }
        let mut applied = Applied::default();
        while let Some((id, answer)) = answers.next().await {
            match answer {
                Ok(index) => drop(applied.0.insert(id, index)),
                Err(error) => {
                    tracing::debug!(node_id = id, ?error, "it does not say what it has applied");
                }
            }
        }
        applied
    }

    /// Entries that a node has not applied of what is committed. Of one that did not say it, nothing is known.
    pub(super) fn lag_of(&self, node_id: u64, applied: &Applied) -> Option<u64> {
        if node_id == self.node_id() {
            return Some(0);
        }
        let applied = applied.0.get(&node_id)?;
        Some(self.leadership().commit_index().saturating_sub(*applied))
    }

    /// A node's log has all that is committed.
    pub(super) fn has_all(&self, node_id: u64) -> bool {
        let matched = matched(&self.leadership().metrics(), node_id);
        matched.is_some_and(|matched| matched >= self.leadership().commit_index())
    }

    /// Who is to lead next: of the other voters that may lead, the one that has applied most. One that does not say it
    /// is chosen only if none does, and one that was not heard of lately only if there is no other; among equals the one
    /// whose log is furthest along.
    pub(super) fn furthest_voter(&self, applied: &Applied) -> Option<u64> {
        let (me, drained) = (self.node_id(), self.drained());
        let now = self.voters_now();
        let replication = self.leadership().metrics().replication.unwrap_or_default();
        let may = replication
            .into_iter()
            .filter(|(id, _)| *id != me && now.voters.contains(id) && !drained.contains(id))
            .map(|(id, matched)| Candidate {
                is_heard: !now.silent.contains(&id),
                applied: applied.0.get(&id).copied(),
                matched: matched.map(|log_id| log_id.index),
                id: Reverse(id),
            });
        may.max().map(|next| next.id.0)
    }
}

/// A voter that may lead; the greatest is the best.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    is_heard: bool,
    applied: Option<u64>,
    matched: Option<u64>,
    id: Reverse<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new node has the log long before it has applied it: seen in a replacement, in which it was handed the cluster
    /// and answered nobody for a minute.
    #[test]
    fn who_has_applied_most_is_the_best_to_lead() {
        let candidate = |id, is_heard, applied, matched| Candidate {
            is_heard,
            applied,
            matched,
            id: Reverse(id),
        };
        let ordered = [
            candidate(1, false, None, Some(900)),
            candidate(2, true, None, Some(900)),
            candidate(3, true, Some(100), Some(900)),
            candidate(5, true, Some(880), Some(890)),
            candidate(6, true, Some(880), Some(900)),
            candidate(4, true, Some(880), Some(900)),
        ];
        assert!(ordered.is_sorted(), "{ordered:?}");
    }
}
