//! A node whose cluster has lost its quorum for good goes on alone: the log's side of `tallyd recover`.
//!
//! It writes two entries behind the last one of the log: the command that begins a new epoch
//! ([`crate::machine::restore::Recovery`]), and a membership with this node as the only voter. As any other node it then
//! starts, elects itself, and so commits its whole log.
//!
//! **Claim.** 1. Whatever this node acknowledged is in the new epoch: no entry of its log is dropped. So a write is lost
//! only if all of the quorum that acknowledged it are lost nodes. 2. No log of the new epoch is mixed with one of before.
//! 3. A crash at any point leaves the directory as it was, or is finished by the next that opens it.
//!
//! **It relies on** Raft's rule that an entry is committed once a majority of voters holds it, on `IDENTITY` being
//! replaced as a whole, and on the log, which keeps the order of what it is asked for.
//!
//! **The steps.** 1. `IDENTITY` says what is to be written and where, and whom not to listen to any more
//! ([`Identity::begin_recovery`]). A crash before that is nothing. From then on no lost node is answered (`peer::peers`)
//! and nothing but [`finish`] uses the directory. 2. A vote for itself, in a term above all that it has seen, is made
//! durable. 3. Both entries are appended with that term, the epoch first, and synced. A crash before the sync leaves
//! none of them, the first, or both; `finish` drops the first and writes both anew. So a membership of this node alone is
//! never there without the epoch before it. Entries behind the commit index stay: nobody can say whether they were
//! committed, and with one that was, an acknowledged write would go. 4. `IDENTITY` says that it is done. A crash before
//! that finds both, and writes only this.
//!
//! Entries of the lost nodes can have the same index, and even the same term. They never meet these: the lost nodes'
//! calls are refused, no member of the new epoch has their addresses, and their ids are never given again.
//!
//! **What breaks it:** a log that is used between the steps, or a membership before the epoch.
//! (`a_recovery_that_crashed_is_finished`, and in `tests/process/recover.rs` the whole of it.)

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use openraft::Membership;

use super::{
    log_store::{KIND_BATCH, KIND_MEMBERSHIP},
    membership::{decode_membership, encode_membership, is_majority},
    tasks::own_command,
    types::Member,
};
use crate::{
    env::identity::{Identity, Recovering},
    machine::{
        codec::encode_batch,
        command::{Action, Batch},
        restore::{Recovery, RestoreCommand},
    },
    storage::{
        state::StateStore,
        wal::{Ballot, Entry, LogId, Wal},
    },
};

/// The last membership of a node that is stopped: the last one of its log, committed or not, or else that of its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastMembership {
    /// Log index of its entry.
    pub at: u64,
    /// Voters; two sets while a change is under way, each of which needs a majority.
    pub voters: Vec<BTreeSet<u64>>,
    /// Addresses of all members' peer ports.
    pub members: BTreeMap<u64, String>,
}

impl LastMembership {
    fn new(at: u64, membership: &Membership<u64, Member>) -> LastMembership {
        LastMembership {
            at,
            voters: membership.get_joint_config().clone(),
            members: membership
                .nodes()
                .map(|(id, member)| (*id, member.peer_address.clone()))
                .collect(),
        }
    }

    /// Reads it; none where there is no cluster.
    pub async fn read(log: &Wal, state: &StateStore) -> io::Result<Option<LastMembership>> {
        let in_state = state.membership();
        let mut last = match in_state.encoded.is_empty() {
            true => None,
            false => {
                let membership = decode_membership(&in_state.encoded).map_err(io::Error::other)?;
                let at = in_state.log_id.map_or(0, |log_id| log_id.index);
                Some(LastMembership::new(at, &membership))
            }
        };
        let mut next = log.first_index();
        loop {
            let entries = log.read(next..u64::MAX, READ_BYTES).await?;
            let Some(end) = entries.last().map(|entry| entry.log_id.index) else { break };
            for entry in entries.iter().filter(|entry| entry.kind == KIND_MEMBERSHIP) {
                let membership = decode_membership(&entry.payload).map_err(io::Error::other)?;
                last = Some(LastMembership::new(entry.log_id.index, &membership));
            }
            next = end + 1;
        }
        Ok(last)
    }

    /// Whether these nodes could decide.
    pub fn is_quorum(&self, there: &BTreeSet<u64>) -> bool {
        is_majority(&self.voters, |id| there.contains(&id))
    }

    /// All voters.
    pub fn voter_ids(&self) -> BTreeSet<u64> {
        self.voters.iter().flatten().copied().collect()
    }
}

/// So much of the log is read at once.
const READ_BYTES: usize = 4 << 20;

/// What a recovery of a stopped node is to write. `members`: all of before.
pub fn plan(log: &Wal, node_id: u64, members: &BTreeSet<u64>, peer_address: String) -> Recovering {
    let voted = log.vote().map_or(0, |vote| vote.term);
    let last = log.last();
    Recovering {
        term: voted.max(log.saved_term()).max(last.map_or(0, |last| last.term)) + 1,
        index: last.map_or(0, |last| last.index + 1),
        lost: members.iter().copied().filter(|id| *id != node_id).collect(),
        peer_address,
    }
}

/// Finishes a recovery that was begun, if one was; true if this did.
pub async fn finish(log: &Wal, identity: &Identity) -> io::Result<bool> {
    let Some(recovering) = identity.recovering().await else { return Ok(false) };
    let Recovering { term, index, .. } = recovering;
    let membership_at = LogId { term, index: index + 1 };
    if log.log_id(membership_at.index) != Some(membership_at) {
        if log.last().is_some_and(|last| last.index >= index) {
            let before = index.checked_sub(1).and_then(|before| log.log_id(before));
            log.truncate_after(before).await?;
        }
        let (node_id, committed) = (Some(identity.node_id()), false);
        log.save_vote(Ballot { term, node_id, committed }).await?;
        log.append(entries(&recovering, identity.node_id()), Box::new(drop)).await?;
        log.flush().await?;
    }
    identity.finish_recovery().await?;
    tracing::warn!(
        node_id = identity.node_id(),
        lost = ?recovering.lost,
        log_index = index,
        "the node goes on alone in a new epoch: what only the lost nodes held is gone"
    );
    Ok(true)
}

fn entries(recovering: &Recovering, node_id: u64) -> Vec<Entry> {
    let Recovering { term, index, lost, peer_address } = recovering;
    let recovery = Recovery { node_id, lost: lost.iter().copied().collect() };
    let epoch = Batch {
        // Time goes on from where the state is.
        log_time_ms: 0,
        wall_time_ms: 0,
        commands: vec![own_command(Action::Restore(RestoreCommand::Recover(recovery)))],
    };
    let member = Member { peer_address: peer_address.clone() };
    let alone =
        Membership::new(vec![BTreeSet::from([node_id])], BTreeMap::from([(node_id, member)]));
    let alone = alone.expect("a voter that is a member is a membership");
    let log_id = |index| LogId { term: *term, index };
    vec![
        Entry { log_id: log_id(*index), kind: KIND_BATCH, payload: encode_batch(&epoch) },
        Entry {
            log_id: log_id(index + 1),
            kind: KIND_MEMBERSHIP,
            payload: encode_membership(&alone),
        },
    ]
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
