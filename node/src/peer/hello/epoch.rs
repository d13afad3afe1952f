//! Nodes of before a recovery from a lost quorum (`tallyd recover`): how one that comes back is told, and learns it.
//!
//! **Claim.** Who is told here that it was left behind is no member of the cluster any more; and every member of before
//! a recovery is told so by the node that went on, from the moment that the recovery was begun.
//!
//! **It relies on** the order of the log: the epoch only rises, and whoever has applied a membership has applied all
//! that raised the epoch before it.
//!
//! **The steps.** 1. The node that went on knows the others by what its own directory says of the recovery, before
//! anything is applied. 2. Any other node answers by its state: it reads its epoch at log index *a*, and then finds
//! that the caller is not in its membership at *b*, not before *a*. The caller looks at its own membership, in which it
//! is, at *c*, and then at its epoch, at *d*, not before *c*. If the epoch that answers is the higher one, *a* is above
//! *d*, of two nodes of one log: so the caller was in the membership at *c* and is out of it at *b* above. It was removed,
//! then or by a recovery, and must not run. Of two nodes of different logs (that of before a recovery and that of
//! after it) the higher epoch is that of after.
//!
//! **What breaks it:** an epoch that is read after the membership on the side that answers, or before it on the side
//! that asks: a node that is added meanwhile would end. (`a_quorum_lost_for_good_goes_on_from_the_node_that_is_left`.)

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
    Ok(There { held_index, left_behind_in: response.left_behind_in })
}

impl Greeter {
    pub(super) fn epoch(&self) -> u64 {
        self.roster.get().map_or(0, |roster| roster.epoch())
    }

    /// The epoch in which the cluster goes on without a caller; 0 if it is not known to.
    pub(super) fn left_behind(&self, request: &wire::HelloRequest) -> u64 {
        // First the epoch, then the membership.
        let epoch = self.epoch();
        if self.peers.is_lost(request.node_id) {
            // What raises the epoch may not be applied yet.
            return epoch.max(request.restore_epoch + 1);
        }
        let Some((_, members)) = self.roster.get().and_then(|roster| roster.applied()) else {
            return 0;
        };
        // Nobody who waits to be added is told anything of the kind.
        let is_of_before = epoch > request.restore_epoch
            && !request.empty
            && !request.cluster_id.is_empty()
            && !members.contains(&request.node_id)
            && !self.belongs(request.node_id);
        if is_of_before { epoch } else { 0 }
    }

    /// A peer says that the cluster goes on without this node, in an epoch; or, with 0, nothing of the kind.
    pub(super) fn heed_epoch(&self, peer: u64, left_behind_in: u64) -> Result<(), NotWelcome> {
        let node_id = self.identity.node_id();
        // First the membership, then the epoch.
        let is_member = self
            .roster
            .get()
            .and_then(|roster| roster.applied())
            .is_some_and(|(_, members)| members.contains(&node_id));
        if is_member && left_behind_in > self.epoch() {
            return Err(NotWelcome::LeftBehind { node_id, peer, epoch: left_behind_in });
        }
        Ok(())
    }
}
