//! What a node says of itself: the line that it answers clients and peers with.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use tally_proto::v1;
use tokio::time::Instant;

use crate::{
    audit::Counts,
    backup::schedule,
    consensus::{Consensus, leader::Role},
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
    /// What its audit log counts, if it keeps one.
    fn audit_log(&self) -> Option<Counts>;
    /// The backups that it makes by itself, if it does.
    fn backups(&self) -> Option<schedule::Counts>;
    /// What clients may have, and wanted.
    fn limits(&self) -> Limits;
    /// Why it serves LOCAL reads only, if so.
    fn local_reads_only(&self) -> Option<String>;
}

/// What a client may have of a node, and how often one wanted more.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Its share of what others leave.
    pub share_percent: u8,
    /// It is only counted who wants more.
    pub report_only: bool,
    /// How often one had, or would have had, more.
    pub shares_exceeded: u64,
    /// How often a user asked for more than its roles allow.
    pub rates_exceeded: u64,
}

/// The texts of one answer have so many bytes at most: what is above is cut at a line.
pub const REPORT_BYTES_MAX: usize = 2 << 20;

/// A text that a node has to say of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    /// Its name, as of a file.
    pub name: String,
    /// What is in it.
    pub text: String,
    /// Why it is missing or not whole, if so.
    pub problem: String,
}

impl Text {
    /// A whole one.
    pub fn new(name: &str, text: String) -> Text {
        Text { name: name.to_owned(), text, problem: String::new() }
    }

    /// One that can't be had.
    pub fn missing(name: &str, problem: impl fmt::Display) -> Text {
        Text { name: name.to_owned(), text: String::new(), problem: problem.to_string() }
    }

    /// Leaves out its end, or its beginning, so that it has no more bytes than that.
    pub fn shorten(&mut self, bytes_max: usize, keep_end: bool) {
        let len = self.text.len();
        if len <= bytes_max {
            return;
        }
        let lines = |text: &str| text.lines().count();
        let before = lines(&self.text);
        let cut = match keep_end {
            // Behind the first line that begins within what may stay.
            true => {
                let from = (len - bytes_max..).find(|at| self.text.is_char_boundary(*at));
                let from = from.unwrap_or(len);
                let from = self.text[from..].find('\n').map_or(len, |end| from + end + 1);
                self.text[from..].to_owned()
            }
            false => {
                let to = (0..=bytes_max).rev().find(|at| self.text.is_char_boundary(*at));
                let to = to.unwrap_or(0);
                let to = self.text[..to].rfind('\n').map_or(0, |end| end + 1);
                self.text[..to].to_owned()
            }
        };
        let gone = before - lines(&cut);
        self.text = cut;
        let which = if keep_end { "first" } else { "last" };
        let problem = format!("too long for an answer: its {which} {gone} lines were left out");
        self.problem = match self.problem.is_empty() {
            true => problem,
            false => format!("{}; {problem}", self.problem),
        };
    }
}

impl From<Text> for v1::DiagnosticFile {
    fn from(Text { name, text, problem }: Text) -> Self {
        v1::DiagnosticFile { name, text, problem }
    }
}

impl From<v1::DiagnosticFile> for Text {
    fn from(file: v1::DiagnosticFile) -> Self {
        Text { name: file.name, text: file.text, problem: file.problem }
    }
}

/// What a node can tell of itself at length. Nothing secret and no stored value is in it.
#[async_trait]
pub trait Tells: Send + Sync + 'static {
    /// What it measures, in Prometheus's text format.
    fn metrics(&self) -> Text;
    /// Everything else that explains it to somebody who can't look at it.
    async fn diagnosis(&self) -> Vec<Text>;
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
    /// What it tells at length.
    pub tells: Arc<dyn Tells>,
    /// What it has, and who leads.
    pub consensus: Consensus,
    /// When it started.
    pub started: Instant,
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
        let (report, formats) = (&self.report, self.consensus.own_formats());
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
            audit_log: report.audit_log().map(audit_log_to_wire),
            limits: Some(limits_to_wire(report.limits())),
            backups: report.backups().map(backups_to_wire),
            // From the records, where all lines are together.
            drained: false,
            format_min: formats.min.0,
            format_max: formats.max.0,
            cluster_version: meta.version.0,
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            membership_open: self.consensus.is_joint(),
            restore_under_way: meta.restore.is_under_way(),
            restore_epoch: meta.restore_epoch,
        }
    }
}

fn audit_log_to_wire(counts: Counts) -> v1::AuditLogStatus {
    v1::AuditLogStatus {
        must_not_drop: counts.must_not_drop,
        written_lines: counts.written_lines,
        written_bytes: counts.written_bytes,
        dropped_lines: counts.dropped_lines,
        refused_requests: counts.refused_requests,
        queued_bytes: counts.queued_bytes,
        error: counts.error,
    }
}

fn backups_to_wire(counts: schedule::Counts) -> v1::BackupStatus {
    v1::BackupStatus {
        interval_ms: counts.interval_ms,
        last_wall_time_ms: counts.last_wall_time_ms,
        last_revision: counts.last_revision,
        last_bytes: counts.last_bytes,
        made: counts.made,
        failed: counts.failed,
        error: counts.error,
    }
}

fn limits_to_wire(limits: Limits) -> v1::LimitStatus {
    let Limits { share_percent, report_only, shares_exceeded, rates_exceeded } = limits;
    let share_percent = u32::from(share_percent);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_shortened_by_whole_lines() {
        let whole = || Text::new("log", "é one\né two\né three\n".to_owned());
        let mut text = whole();
        text.shorten(text.text.len(), true);
        assert_eq!(text, whole());
        // One byte less cuts into a letter.
        text.shorten(whole().text.len() - 1, true);
        assert_eq!(text.text, "é two\né three\n");
        assert_eq!(text.problem, "too long for an answer: its first 1 lines were left out");
        let mut text = whole();
        text.shorten(9, false);
        assert_eq!(text.text, "é one\n");
        assert_eq!(text.problem, "too long for an answer: its last 2 lines were left out");
        text.shorten(2, true);
        assert_eq!(text.text, "");
    }
}
