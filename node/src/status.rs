//! What a node says of itself: the line that it answers clients and peers with.

use std::{fmt, sync::Arc};

use tally_proto::v1;

use crate::{
    consensus::{Consensus, leader::Role},
    env::shares::ShareRule,
    machine::query,
    tls::Certificate,
};

/// What a node says of itself that is not consensus's to know.
pub trait SelfReport: Send + Sync + 'static {
    /// Bytes of the log on disk.
    fn log_bytes(&self) -> u64;
    /// Bytes of the state on disk.
    fn state_bytes(&self) -> u64;
    /// Bytes free on the disk.
    fn disk_free_bytes(&self) -> u64;
    /// What it last complained of.
    fn note(&self) -> String;
    /// The certificates in use.
    fn certificates(&self) -> Vec<Certificate>;
    /// What clients may have, and wanted.
    fn limits(&self) -> Limits;
    /// Why it serves LOCAL reads only, if so.
    fn local_reads_only(&self) -> Option<String>;
}

/// What a client may have of a node, and how often one wanted more.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Its share.
    pub share: ShareRule,
    /// How often one had, or would have had, more.
    pub shares_exceeded: u64,
    /// How often a user asked for more than its roles allow.
    pub rates_exceeded: u64,
}

/// A node, as it knows itself.
pub struct OwnStatus {
    /// Its id.
    pub node_id: u64,
    /// Address of its client port, as others reach it.
    pub client_address: String,
    /// Address of its peer port, as others reach it.
    pub peer_address: String,
    /// Its process id; 0 where there is none.
    pub pid: u32,
    /// What changes.
    pub report: Arc<dyn SelfReport>,
    /// What it has, and who leads.
    pub consensus: Consensus,
}

impl fmt::Debug for OwnStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnStatus").field("node_id", &self.node_id).finish_non_exhaustive()
    }
}

impl OwnStatus {
    /// Its own line.
    pub fn line(&self) -> v1::NodeStatus {
        let leadership = self.consensus.leadership();
        let metrics = leadership.metrics();
        let (role, term) = leadership.role();
        let state = self.consensus.state();
        let view = state.view();
        let meta = query::meta(&view);
        let applied_index = view.applied().map_or(0, |applied| applied.index);
        drop(view);
        // What is on the disk. (Raft's own figure lacks a snapshot that came from another node.)
        let snapshot = state.current_snapshot();
        let report = &self.report;
        v1::NodeStatus {
            id: self.node_id,
            role: role_to_wire(role) as i32,
            address: self.client_address.clone(),
            peer_address: self.peer_address.clone(),
            reachable: true,
            pid: self.pid,
            term,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            commit_index: leadership.commit_index(),
            applied_index,
            snapshot_index: snapshot.map_or(0, |snapshot| snapshot.last_log_id.index),
            purged_index: metrics.purged.map_or(0, |log_id| log_id.index),
            lag_entries: 0,
            log_bytes: report.log_bytes(),
            state_bytes: report.state_bytes(),
            disk_free_bytes: report.disk_free_bytes(),
            disk_nearly_full: self.consensus.disk_nearly_full(),
            leader_id: metrics.current_leader.unwrap_or(0),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            note: report.note(),
            revision: meta.revision,
            log_time_ms: meta.log_time_ms,
            local_reads_only: report.local_reads_only().unwrap_or_default(),
            certificates: report.certificates().into_iter().map(certificate_to_wire).collect(),
            limits: Some(limits_to_wire(report.limits())),
        }
    }
}

fn limits_to_wire(limits: Limits) -> v1::LimitStatus {
    let Limits { share: ShareRule { percent, report_only }, shares_exceeded, rates_exceeded } =
        limits;
    let share_percent = u32::from(percent);
    v1::LimitStatus { share_percent, report_only, shares_exceeded, rates_exceeded }
}

fn certificate_to_wire(certificate: Certificate) -> v1::Certificate {
    v1::Certificate {
        key: certificate.key.to_owned(),
        name: certificate.name,
        not_before_wall_time_ms: certificate.not_before_ms,
        not_after_wall_time_ms: certificate.not_after_ms,
    }
}

/// A role as messages name it.
pub(crate) fn role_to_wire(role: Role) -> v1::Role {
    match role {
        Role::Leader => v1::Role::Leader,
        Role::Follower => v1::Role::Follower,
        Role::Learner => v1::Role::Learner,
    }
}
