//! What a node says of its disk and of its client port, for its status.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::{
    api::rates::Rates,
    audit::{AuditLog, Counts},
    backup::schedule,
    consensus::Consensus,
    env::{shares::ShareRule, storage_guard::StorageGuard},
    port::{Slots, room::NodeRoom},
    status::{Limits, SelfReport},
    storage::{state::StateStore, wal::Wal},
    tls::{Certificate, Tls},
};

/// What the node says of itself.
pub(super) struct Report {
    pub(super) backups: Option<Arc<schedule::Told>>,
    pub(super) log: Wal,
    pub(super) state: Arc<StateStore>,
    pub(super) guard: Arc<StorageGuard>,
    pub(super) local_reads_only: AtomicBool,
    pub(super) slots: Arc<Slots>,
    pub(super) tls: Arc<Tls>,
    pub(super) audit: Option<Arc<AuditLog>>,
    pub(super) room: Arc<NodeRoom>,
    pub(super) rates: Arc<Rates>,
    pub(super) consensus: Consensus,
    pub(super) share: ShareRule,
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
        if let Some(reason) = self.consensus.comparisons().why_nothing_is_written() {
            return reason;
        }
        if self.slots.refused_lately() {
            return format!(
                "clients' connections are refused: it can have {} at once",
                self.slots.max()
            );
        }
        if let Some(bytes) = self.guard.has_no_room_for() {
            return format!(
                "the disk has no room for a snapshot of {bytes} bytes beside the reserve: free some"
            );
        }
        String::new()
    }

    fn certificates(&self) -> Vec<Certificate> {
        self.tls.certificates()
    }

    fn audit_log(&self) -> Option<Counts> {
        self.audit.as_ref().map(|log| log.counts())
    }

    fn backups(&self) -> Option<schedule::Counts> {
        self.backups.as_ref().map(|told| told.counts())
    }

    fn limits(&self) -> Limits {
        let writes = self.consensus.shares_exceeded();
        Limits {
            share_percent: self.share.percent,
            report_only: self.share.report_only,
            shares_exceeded: self.slots.shares_exceeded() + self.room.shares_exceeded() + writes,
            rates_exceeded: self.rates.exceeded(),
        }
    }

    fn local_reads_only(&self) -> Option<String> {
        if let Some(reason) = self.consensus.comparisons().why_it_differs() {
            return Some(format!("its state differs: {reason}"));
        }
        self.local_reads_only.load(Ordering::Relaxed).then(|| {
            "it started on a disk without room for its reserve, and takes part again when there is"
                .to_owned()
        })
    }
}
