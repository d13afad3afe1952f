//! Which cluster this node belongs to, and how often that was restored from a backup.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use tokio::{sync::Notify, time::Instant};

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

    /// What was applied says so. It never falls.
    pub fn saw_restore_epoch(&self, epoch: u64) {
        self.inner.restore_epoch.fetch_max(epoch, Ordering::AcqRel);
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
