//! Nodes of before a recovery from a lost quorum (`tallyd recover`): how one that comes back is told, and learns it.
//!
//! **Claim.** Who is told here that it was left behind is no member of the cluster any more; and every member of before
//! a recovery is told so by the node that went on, from the moment that the recovery was begun.
//!
//! **It relies on** the order of the log: the epoch only rises, and whoever has applied a membership has applied all
//! that raised the epoch before it.
//!
//! **The steps.** 1. The node that went on knows the others by what its own directory says of the recovery, before
//! anything is applied. 2. Any other node answers by its state: it finds that the caller's id is retired, and after that
//! that it is not in its membership. A retired id is never given again, and no member is added under one
//! (`machine::given_ids`), so it stays out. 3. Who is told so need not have applied anything: what it held may not be in
//! its state yet. It believes what a node says that it knows by its directory.
//!
//! **What breaks it:** a membership that is read before the ids: a member whose removal is under way would be told. Or
//! an answer by the membership alone: a node that was just added is not in it yet.
//! (`a_quorum_lost_for_good_goes_on_from_the_node_that_is_left`.)

use tally_proto::peer::v1 as wire;
use tokio::time::Instant;

use super::{Greeter, NotWelcome};
use crate::peer::{ask, peers::Peers};

/// A node that is stopped, and asks whether others are there.
#[derive(Debug)]
pub struct Asker<'a> {
    /// The peers, by its own addresses.
    pub peers: &'a Peers,
    /// Its data directory.
    pub incarnation: &'a str,
    /// Address of its client port.
    pub client_address: String,
    /// Restore epoch of its state.
    pub restore_epoch: u64,
}

/// What another member says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct There {
    /// The last entry that it knows to be committed and holds.
    pub held_index: u64,
    /// Term and index of the last entry of its log, committed or not. Older releases do not say it.
    pub last: Option<(u64, u64)>,
    /// It is of this epoch, in which the asker is no member any more; 0: it is not.
    pub left_behind_in: u64,
}

/// Asks whether a member is there, which is known by its directory; or why it is not.
pub async fn is_there(
    asker: &Asker<'_>,
    node_id: u64,
    address: &str,
    known: Option<&String>,
    until: Instant,
) -> Result<There, String> {
    let peers = asker.peers;
    // As it would introduce itself at a start, but for what it has promised: that is told when it runs.
    let request = wire::HelloRequest {
        cluster_id: peers.cluster_id().text(),
        node_id: peers.node_id(),
        client_address: asker.client_address.clone(),
        incarnation: asker.incarnation.to_owned(),
        target_node_id: node_id,
        compares_states: true,
        restore_epoch: asker.restore_epoch,
        ..wire::HelloRequest::default()
    };
    let response = ask::hello_at(peers, node_id, address, request, until).await?;
    let own = peers.cluster_id().text();
    if !own.is_empty() && !response.cluster_id.is_empty() && own != response.cluster_id {
        return Err(format!("a node of cluster {} answers there", response.cluster_id));
    }
    if response.node_id != node_id {
        return Err(format!("node {} answers there", response.node_id));
    }
    if known.is_some_and(|known| *known != response.incarnation) {
        return Err("a node with another data directory answers there".to_owned());
    }
    let held_index = response.promised.map_or(0, |promised| promised.held_index);
    let last = response.last_log_id.map(|last| (last.term, last.index));
    Ok(There { held_index, last, left_behind_in: response.left_behind_in })
}

impl Greeter {
    pub(super) fn epoch(&self) -> u64 {
        self.roster.get().map_or(0, |roster| roster.epoch())
    }

    /// The epoch in which the cluster goes on without a caller; 0 if it is not known to.
    pub(super) fn left_behind(&self, request: &wire::HelloRequest) -> u64 {
        let epoch = self.epoch();
        if self.peers.is_lost(request.node_id) {
            // What raises the epoch may not be applied yet.
            return epoch.max(request.restore_epoch + 1);
        }
        let Some(roster) = self.roster.get() else { return 0 };
        // In this order.
        let is_retired = roster.is_retired(request.node_id);
        let is_out = roster.applied().is_some_and(|(_, it)| !it.contains(&request.node_id));
        if epoch > request.restore_epoch && is_retired && is_out { epoch } else { 0 }
    }

    /// A peer says that the cluster goes on without this node, in an epoch; or, with 0, nothing of the kind.
    pub(super) fn heed_epoch(&self, peer: u64, left_behind_in: u64) -> Result<(), NotWelcome> {
        if left_behind_in > self.epoch() {
            let node_id = self.identity.node_id();
            return Err(NotWelcome::LeftBehind { node_id, peer, epoch: left_behind_in });
        }
        Ok(())
    }
}
