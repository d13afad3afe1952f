//! How fast the streams of one client are read while another asks for little.
//!
//! [Turns](super::propose) decide who is proposed next. What comes before them has an order of its own: a node reads
//! what its clients have sent as it comes, on one thread, and whoever sends a thousand calls at once has
//! them read before the one call of another that came a moment later. So while the proposer finds that heavy clients
//! hold up light ones, streams of a client that has much under way go on reading only when its turn has taken most of
//! that, and let everybody else's tasks run before each call. More would only wait in its lane.
//!
//! **Nobody waits for ever**: what is waited for is the client's own writes, and each of those ends by its
//! deadline at the latest.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::admission::Room;
use crate::env::shares::Identity;

/// Writes and bytes of writes under way from which a client is one that lets others pass.
const MUCH: [usize; 2] = [64, 16 * 1024];
/// With more than these under way its streams are not read: two entries' worth, which is what turns let a heavy client
/// have, and as much again for the next ones, so that there is always something to propose.
const TOO_MUCH: [usize; 2] = [256, 64 * 1024];
/// They are read again from here on.
const LITTLE: [usize; 2] = [192, 48 * 1024];

/// Whether light clients wait for heavy ones, as the proposer last found.
#[derive(Debug, Clone, Default)]
pub(super) struct Crowd(Arc<AtomicBool>);

impl Crowd {
    pub(super) fn set(&self, is_there: bool) {
        self.0.store(is_there, Ordering::Relaxed);
    }

    /// Lets others pass, if they wait and this client has much under way.
    pub(super) async fn pace(&self, room: &Room, identity: Identity) {
        if !self.0.load(Ordering::Relaxed) || !room.has_more_than(identity, MUCH) {
            return;
        }
        tokio::task::yield_now().await;
        room.wait_while_above(identity, TOO_MUCH, LITTLE).await;
    }
}
