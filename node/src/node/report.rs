//! What a node says of its disk and of its client port, for its status.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::{
    env::storage_guard::StorageGuard,
    port::Slots,
    status::SelfReport,
    storage::{state::StateStore, wal::Wal},
    tls::{Certificate, Tls},
};

/// What the node says of itself.
pub(super) struct Report {
    pub(super) log: Wal,
    pub(super) state: Arc<StateStore>,
    pub(super) guard: Arc<StorageGuard>,
    pub(super) local_reads_only: AtomicBool,
    pub(super) slots: Arc<Slots>,
    pub(super) tls: Arc<Tls>,
}

impl SelfReport for Report {
    fn log_bytes(&self) -> u64 {
        self.log.disk_bytes()
    }

    fn state_bytes(&self) -> u64 {
        self.state.size_bytes().unwrap_or(0)
    }

    fn disk_free_bytes(&self) -> u64 {
        self.guard.free_bytes()
    }

    fn note(&self) -> String {
        if self.slots.refused_lately() {
            return format!(
                "clients' connections are refused: it can have {} at once",
                self.slots.max()
            );
        }
        String::new()
    }

    fn certificates(&self) -> Vec<Certificate> {
        self.tls.certificates()
    }

    fn local_reads_only(&self) -> Option<String> {
        self.local_reads_only.load(Ordering::Relaxed).then(|| {
            "it started on a disk without room for its reserve, and takes part again when there is"
                .to_owned()
        })
    }
}
