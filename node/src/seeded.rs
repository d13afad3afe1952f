//! What some seeded bugs need to know and must not: the clock and the id of the node that applies an
//! entry, and the replies of what it applied by index alone.
//!
//! `consensus::apply` says who applies, just before it does. It is kept for the thread, as the switch
//! is: all nodes of a simulation share one. Without the cargo feature nothing is kept and nobody asks.

use crate::consensus::types::Replies;

#[cfg(feature = "seeded-bugs")]
mod kept {
    use std::{
        cell::{Cell, RefCell},
        collections::BTreeMap,
        sync::Arc,
    };

    use crate::{consensus::types::Replies, env::Clock};

    /// At most this many replies are kept, over all nodes.
    pub(super) const REPLIES_MAX: usize = 65_536;

    thread_local! {
        pub(super) static NODE: Cell<u64> = const { Cell::new(0) };
        pub(super) static WALL_MS: Cell<u64> = const { Cell::new(0) };
        pub(super) static REPLIES: RefCell<BTreeMap<(u64, u64), Replies>> =
            const { RefCell::new(BTreeMap::new()) };
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
        pub(crate) fn enter(&self) {
            NODE.set(self.node_id);
            WALL_MS.set(self.clock.wall_ms());
        }
    }
}

#[cfg(feature = "seeded-bugs")]
pub(crate) use kept::Applier;

/// The wall clock of the node that applies.
pub(crate) fn wall_ms() -> u64 {
    #[cfg(feature = "seeded-bugs")]
    return kept::WALL_MS.get();
    #[cfg(not(feature = "seeded-bugs"))]
    0
}

/// Makes one bit of a hash touch many.
pub(crate) const HASH_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// What seeds the hash maps of the node that applies.
pub(crate) fn node_hash() -> u64 {
    #[cfg(feature = "seeded-bugs")]
    return kept::NODE.get().wrapping_mul(HASH_FACTOR);
    #[cfg(not(feature = "seeded-bugs"))]
    0
}

/// Keeps the replies of an entry that was just applied.
pub(crate) fn keep_replies(index: u64, replies: &Replies) {
    #[cfg(feature = "seeded-bugs")]
    kept::REPLIES.with_borrow_mut(|kept| {
        kept.insert((kept::NODE.get(), index), replies.clone());
        while kept.len() > kept::REPLIES_MAX {
            kept.pop_first();
        }
    });
    #[cfg(not(feature = "seeded-bugs"))]
    let _ = (index, replies);
}

/// The replies of whatever entry a node has applied at an index.
pub(crate) fn replies(node_id: u64, index: u64) -> Option<Replies> {
    #[cfg(feature = "seeded-bugs")]
    return kept::REPLIES.with_borrow(|kept| kept.get(&(node_id, index)).cloned());
    #[cfg(not(feature = "seeded-bugs"))]
    {
        let _ = (node_id, index);
        None
    }
}
