//! Which cluster this node belongs to, how often that was restored from a backup, and whether it asks who calls: what
//! each call asks of the state, kept beside it as a record takes a look-up and a decoding.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::{sync::Notify, time::Instant};

use crate::machine::records::Meta;

/// The cluster's id, once it is known; it never changes then. Clones are handles.
#[derive(Debug, Clone, Default)]
pub struct ClusterId {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// As a number and as it is written.
    id: OnceLock<(u128, String)>,
    /// As of what this node has applied.
    restore_epoch: AtomicU64,
    is_restored: AtomicBool,
    authentication: AtomicBool,
    known: Notify,
}

impl ClusterId {
    /// As a number, once known.
    pub fn get(&self) -> Option<u128> {
        self.inner.id.get().map(|(id, _)| *id)
    }

    /// How often the cluster was restored from a backup, or any that its backup came from, as far as this node has
    /// applied its log.
    pub fn restore_epoch(&self) -> u64 {
        self.inner.restore_epoch.load(Ordering::Acquire)
    }

    /// A restore is under way, as far as this node has applied its log.
    pub fn is_restored(&self) -> bool {
        self.inner.is_restored.load(Ordering::Acquire)
    }

    /// Authentication is on, as far as this node has applied its log.
    pub fn asks_who(&self) -> bool {
        self.inner.authentication.load(Ordering::Acquire)
    }

    /// What was applied says so, or came with a snapshot. The epoch never falls, and is there before the restore is
    /// said to be over: whoever was known before either is told that it is under way, or is of an epoch before.
    pub fn saw(&self, meta: &Meta) {
        let is_restored = meta.restore.is_under_way();
        self.inner.restore_epoch.fetch_max(meta.restore_epoch, Ordering::AcqRel);
        self.inner.is_restored.store(is_restored, Ordering::Release);
        self.inner.authentication.store(meta.auth.enabled, Ordering::Release);
    }

    /// As it goes on the wire; empty while it is not known.
    pub fn text(&self) -> String {
        self.inner.id.get().map_or_else(String::new, |(_, text)| text.clone())
    }

    /// Learns it.
    ///
    /// # Panics
    /// If it is known already, and another one.
    pub fn set(&self, id: u128) {
        let (known, _) = self.inner.id.get_or_init(|| (id, format_cluster_id(id)));
        assert_eq!(*known, id, "the cluster id changed");
        self.inner.known.notify_waiters();
    }

    /// Waits until it is known; false if it is not by then.
    pub async fn wait(&self, until: Instant) -> bool {
        let known = async {
            loop {
                let mut learned = std::pin::pin!(self.inner.known.notified());
                // Registered before looking, so that what is learned in between is not missed.
                learned.as_mut().enable();
                if self.inner.id.get().is_some() {
                    return;
                }
                learned.await;
            }
        };
        tokio::time::timeout_at(until, known).await.is_ok()
    }
}

/// A cluster id as people and messages write it.
pub fn format_cluster_id(id: u128) -> String {
    format!("{id:032x}")
}
