//! Who leads and who belongs, told in the log: one line for each change, for whoever reads what happened
//! last night.
//!
//! Only what changes seldom is told, so that a day without faults has no line, and an election has two or
//! three. What openraft itself logs is one line for each failed heartbeat, vote and append; it is kept
//! below (`process::telemetry`), so whatever an operator has to know is told here, by `peer` and by `storage`.

use std::{collections::BTreeSet, sync::Arc};

use openraft::{ServerState, async_runtime::WatchReceiver, metrics::RaftServerMetrics};

use super::{
    raft::Raft,
    types::{TypeConfig, term_of},
};
use crate::metrics::Metrics;

/// Who led when it was last told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Led {
    /// Nobody, as far as this node knows.
    ByNobody,
    /// A node, in a term.
    By { node_id: u64, term: u64 },
}

/// Tells of leaders and members until Raft ends.
pub(super) async fn tell(raft: Raft, me: u64, metrics: Arc<Metrics>) {
    let mut server = raft.server_metrics();
    // It must not be what keeps Raft.
    drop(raft);
    let mut led = Led::ByNobody;
    let (mut members_at, mut belongs) = (None, false);
    let mut stood = None;
    loop {
        let now = server.borrow_watched().clone();
        // Several of a term are one: it stands once in each.
        let stands = (now.state == ServerState::Candidate).then_some(now.vote.leader_id.term);
        if stands.is_some() && stands != stood {
            stood = stands;
            metrics.consensus.elections.add(1);
        }
        if led != leader_of(&now) {
            metrics.consensus.leader_changes.add(1);
        }
        tell_leader(&mut led, leader_of(&now), me);
        let at = now.membership_config.log_id().as_ref().map(|id| (term_of(id), id.index()));
        if at != members_at {
            members_at = at;
            tell_members(&now, me, &mut belongs);
        }
        if server.changed().await.is_err() {
            return;
        }
    }
}

fn leader_of(metrics: &RaftServerMetrics<TypeConfig>) -> Led {
    match metrics.current_leader {
        None => Led::ByNobody,
        Some(node_id) => Led::By { node_id, term: metrics.vote.leader_id.term },
    }
}

fn tell_leader(led: &mut Led, now: Led, me: u64) {
    if *led == now {
        return;
    }
    match (*led, now) {
        (Led::By { node_id, term }, _) if node_id == me => {
            tracing::info!(term, "this node has lost leadership");
        }
        (Led::By { node_id, term }, Led::ByNobody) => {
            tracing::info!(leader = node_id, term, "the leader is lost: no other is known yet");
        }
        _ => {}
    }
    if let Led::By { node_id, term } = now {
        match node_id == me {
            true => tracing::info!(term, "this node leads"),
            false => tracing::info!(leader = node_id, term, "a leader is known"),
        }
    }
    *led = now;
}

fn tell_members(metrics: &RaftServerMetrics<TypeConfig>, me: u64, belongs: &mut bool) {
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let learners: BTreeSet<u64> = membership.learner_ids().collect();
    if voters.is_empty() && learners.is_empty() {
        return;
    }
    let index = metrics.membership_config.log_id().as_ref().map_or(0, |id| id.index());
    // Between the two steps of a change both sets have to agree.
    let is_changing = membership.get_joint_config().len() > 1;
    tracing::info!(index, ?voters, ?learners, is_changing, "the members");
    let belonged = std::mem::replace(belongs, voters.contains(&me) || learners.contains(&me));
    // One that is being added reads of memberships without it, too.
    if belonged && !*belongs {
        tracing::warn!(index, "this node is no longer among the members");
    }
}

/// Tells of a quorum, or a leader, that is silent, or of its return.
pub(super) fn tell_quorum(is_lost: bool, leads: bool) {
    match (is_lost, leads) {
        (true, true) => tracing::warn!(
            "no quorum: of a majority of the voters nothing is heard, or it stores nothing; writes are refused, and \
             linearizable reads unless those voters still answer"
        ),
        (true, false) => tracing::warn!(
            "no leader is heard: writes are refused here, and so are linearizable reads"
        ),
        (false, true) => {
            tracing::info!("a majority of the voters answers again, and stores what is written")
        }
        (false, false) => tracing::info!("a leader is heard again"),
    }
}
