//! What bugs on purpose remember of what was applied: built for simulations alone.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use super::types::Replies;
use crate::{env::Clock, machine};

/// At most this many replies are kept, over all nodes.
const REPLIES_MAX: usize = 65_536;

thread_local! {
    static REPLIES: RefCell<BTreeMap<(u64, u64), Replies>> = const { RefCell::new(BTreeMap::new()) };
}

/// Who applies.
#[derive(Clone)]
pub(crate) struct Applier {
    /// The node's id.
    pub(crate) node_id: u64,
    /// Its clock.
    pub(crate) clock: Arc<dyn Clock>,
}

impl Applier {
    /// What this thread applies next, it applies for this node.
    pub(super) fn enter(&self) {
        machine::bugs::enter(self.node_id, self.clock.wall_ms());
    }
}

/// Keeps the replies of an entry that was just applied.
pub(super) fn keep_replies(index: u64, replies: &Replies) {
    REPLIES.with_borrow_mut(|kept| {
        kept.insert((machine::bugs::node_id(), index), replies.clone());
        while kept.len() > REPLIES_MAX {
            kept.pop_first();
        }
    });
}

/// The replies of whatever entry a node has applied at an index.
pub(super) fn replies(node_id: u64, index: u64) -> Option<Replies> {
    REPLIES.with_borrow(|kept| kept.get(&(node_id, index)).cloned())
}
