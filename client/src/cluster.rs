//! The nodes, as one of them sees them.

use std::time::Duration;

use serde::{Serialize, Serializer, ser::SerializeMap as _};
use tally_proto::v1;

use crate::{
    answer::Header,
    call::{Read, answers},
    client::Client,
    words::{Role, as_millis, millis},
};

/// The nodes of a cluster, as the asked one sees them.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// for node in client.status().await?.nodes {
///     let role = node.role.map_or("unreachable".to_owned(), |role| role.to_string());
///     println!("{} {role} {}", node.id, node.applied_index);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// Every member, ascending by id.
    pub nodes: Vec<NodeInfo>,
    /// Fill of the tables behind exactly-once, on the asked node.
    pub dedup: DedupTables,
    /// The next id for a new node, above all that were ever used as far as the asked node knows; 0 from a node that
    /// does not say it.
    pub next_node_id: u64,
    /// Header of the asked node.
    pub header: Header,
}

/// One member.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let status = client.status().await?;
/// let behind = status.nodes.iter().filter(|node| node.lag_entries > 1000).count();
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeInfo {
    /// Its id.
    pub id: u64,
    /// Its role; nothing if it did not answer. In JSON that is `unreachable`.
    pub role: Option<Role>,
    /// It has a vote.
    pub is_voter: bool,
    /// Address of its client port.
    pub address: String,
    /// Address of its peer port.
    pub peer_address: String,
    /// It answered.
    pub reachable: bool,
    /// Its process id.
    pub pid: u32,
    /// Its term.
    pub term: u64,
    /// Last index in its log.
    pub last_log_index: u64,
    /// Its commit index.
    pub commit_index: u64,
    /// Its applied index.
    pub applied_index: u64,
    /// Log index of its newest snapshot.
    pub snapshot_index: u64,
    /// Entries up to this index are purged from its log.
    pub purged_index: u64,
    /// Entries that it is behind the asked node's commit index.
    pub lag_entries: u64,
    /// Bytes of its log on disk.
    pub log_bytes: u64,
    /// Bytes of its state on disk.
    pub state_bytes: u64,
    /// Bytes free on its disk.
    pub disk_free_bytes: u64,
    /// Writes are refused because the disk is nearly full.
    pub disk_nearly_full: bool,
    /// The leader that it knows of; 0 for none.
    pub leader_id: u64,
    /// Version of its binary.
    pub version: String,
    /// What it last complained of, if anything.
    pub note: String,
    /// Revision of its store.
    pub revision: u64,
    /// Log time of its store, counted from the cluster's beginning. In JSON `log_time_ms`.
    pub log_time: Duration,
    /// It serves local reads only, and why, if so.
    pub local_reads_only: String,
    /// The certificates that it uses; none without TLS.
    pub certificates: Vec<Certificate>,
    /// Its audit log, if it keeps one.
    pub audit_log: Option<AuditLogInfo>,
    /// Limits of its clients; `None` from a node of a release without them.
    pub limits: Option<Limits>,
    /// The backups that it makes by itself, if it does.
    pub backups: Option<BackupInfo>,
    /// It was told not to lead ([`Client::drain`]), as far as the asked node has applied.
    pub drained: bool,
    /// The oldest version of the formats that it reads; 0 from a node of a release that does not say it.
    pub format_min: u32,
    /// The newest.
    pub format_max: u32,
    /// The version that the cluster has, as far as it has applied.
    pub cluster_version: u32,
    /// How long it runs. In JSON `uptime_ms`.
    pub uptime: Duration,
    /// A change of the voters has begun and not ended, as far as it knows.
    pub membership_open: bool,
    /// A backup is being restored, or a restore taken back, as far as it has applied.
    pub restore_under_way: bool,
    /// Its epoch of the cluster: how often that was restored from a backup, or went on without its quorum (`tallyd
    /// recover`), as far as the node has applied.
    pub restore_epoch: u64,
}

/// What backups a node makes by itself, into a directory of its own.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// for node in client.status().await?.nodes {
///     let newest = node.backups.map(|backups| backups.last_revision);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct BackupInfo {
    /// From one to the next, in ms.
    pub interval_ms: u64,
    /// When the newest was made, in ms since 1970; it may be from before the node started. 0: there is none.
    pub last_wall_time_ms: u64,
    /// Its revision.
    pub last_revision: u64,
    /// Its size.
    pub last_bytes: u64,
    /// How many were made since the node started.
    pub made: u64,
    /// How many attempts failed since then.
    pub failed: u64,
    /// Why the last attempt failed; empty: it did not.
    pub error: String,
}

/// What a node's audit log counts since the node started.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// for node in client.status().await?.nodes {
///     let dropped = node.audit_log.map_or(0, |log| log.dropped_lines);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct AuditLogInfo {
    /// Requests are refused while they can't be recorded.
    pub must_not_drop: bool,
    /// Lines in the file.
    pub written_lines: u64,
    /// Their bytes.
    pub written_bytes: u64,
    /// Lines that were dropped, as there was no room for them.
    pub dropped_lines: u64,
    /// Requests that were refused, as there was no room for their lines.
    pub refused_requests: u64,
    /// Bytes of lines that wait to be written, and of places held for those to come.
    pub queued_bytes: u64,
    /// Why the file can't be written now; empty: it can be.
    pub error: String,
}

/// What a client of a node may have, and how often one wanted more since the node started.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// for node in client.status().await?.nodes {
///     let refused = node.limits.map_or(0, |limits| limits.rates_exceeded);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Limits {
    /// One client, a user or an address, may have so many percent of what others leave of the node's
    /// connections, streams, calls, writes under way and bytes of all of these.
    pub share_percent: u32,
    /// Shares and rates are only counted, and nobody is refused for them.
    pub report_only: bool,
    /// How often a client had, or would have had, more than its share.
    pub shares_exceeded: u64,
    /// How often a user asked for more operations a second than its roles allow.
    pub rates_exceeded: u64,
}

/// A certificate that a node uses.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// for node in client.status().await?.nodes {
///     let first = node.certificates.iter().min_by_key(|certificate| certificate.not_after_wall_time_ms);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Certificate {
    /// Key of the configuration that names its file, e.g. `client_tls_cert_file`.
    pub key: String,
    /// Whose it is: the first URI among its alternative names, else the first host name, else the common name.
    pub name: String,
    /// It is good from this on, in ms since 1970 by the wall clock.
    pub not_before_wall_time_ms: u64,
    /// It ends then, or one that leads from it to its CA does.
    pub not_after_wall_time_ms: u64,
}

/// Fill of the tables behind exactly-once.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let dedup = client.status().await?.dedup;
/// println!("{} of {} bytes", dedup.key_bytes, dedup.key_bytes_max);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct DedupTables {
    /// Open sessions.
    pub sessions: u64,
    /// At most this many.
    pub sessions_max: u64,
    /// Bytes of remembered answers of sessions.
    pub session_bytes: u64,
    /// At most this many.
    pub session_bytes_max: u64,
    /// Live idempotency keys.
    pub keys: u64,
    /// Their bytes.
    pub key_bytes: u64,
    /// At most this many.
    pub key_bytes_max: u64,
    /// Log time left until the key that expires first does. In JSON `first_expiry_in_ms`.
    #[serde(rename = "first_expiry_in_ms", serialize_with = "as_millis")]
    pub first_expiry_in: Duration,
    /// Age of the oldest live key, in log time. In JSON `oldest_key_age_ms`.
    #[serde(rename = "oldest_key_age_ms", serialize_with = "as_millis")]
    pub oldest_key_age: Duration,
    /// Keyed writes a second that the table can sustain.
    pub sustainable_keys_per_second: f64,
    /// The table is more than 70 % full.
    pub key_bytes_warning: bool,
    /// Default window of an idempotency key, in log time. In JSON `key_window_ms`.
    #[serde(rename = "key_window_ms", serialize_with = "as_millis")]
    pub key_window: Duration,
    /// The table of sessions is more than 80 % full.
    pub sessions_warning: bool,
    /// One address may hold this much, in percent, of the places for sessions that no other holds.
    pub sessions_share_percent: u32,
}

impl Client {
    /// Asks one node for the state of all. It needs no quorum.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// println!("{} nodes", client.status().await?.nodes.len());
    /// # Ok(()) }
    /// ```
    pub fn status(&self) -> Read<v1::ClusterStatusRequest> {
        let mut read = Read::new(self, v1::ClusterStatusRequest { local_only: false });
        read.plan.any_node = true;
        read
    }

    /// Asks for what a node measures, in Prometheus's text format; 0 is whichever node answers. The asked node asks
    /// the other one: it takes no connection to it. While authentication is on it takes the right `monitor`. The
    /// answer is the message of the API as it is ([`proto`](crate::proto)): `problem` says why there is no text,
    /// if so.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// for node in client.status().await?.nodes {
    ///     println!("{}", client.metrics(node.id).await?.text);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn metrics(&self, node_id: u64) -> Read<v1::ClusterMetricsRequest> {
        let mut read = Read::new(self, v1::ClusterMetricsRequest { node_id });
        read.plan.any_node = true;
        read
    }

    /// Asks for what explains a node to somebody who can't look at it: its configuration without secrets, the last
    /// lines of its log, the layout of its storage, versions; 0 is whichever node answers. While authentication
    /// is on it takes a role that is admin. The answer is the message of the API as it is
    /// ([`proto`](crate::proto)): `problem` says why there are no files, if so.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// for file in client.diagnose(1).await?.files {
    ///     println!("{}: {} bytes {}", file.name, file.text.len(), file.problem);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn diagnose(&self, node_id: u64) -> Read<v1::ClusterDiagnoseRequest> {
        let mut read = Read::new(self, v1::ClusterDiagnoseRequest { node_id });
        read.plan.any_node = true;
        read
    }
}

impl Read<v1::ClusterStatusRequest> {
    /// Only the asked node; it does not ask its peers.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let asked = client.status().local_only().await?;
    /// # Ok(()) }
    /// ```
    pub fn local_only(mut self) -> Self {
        self.request.local_only = true;
        self
    }
}

/// What a node that did not answer would have said is null, and not zero.
impl Serialize for NodeInfo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        macro_rules! known {
            ($($field:ident)*) => { $(map.serialize_entry(stringify!($field), &self.$field)?;)* };
        }
        macro_rules! answered {
            ($($field:ident)*) => {
                $(map.serialize_entry(stringify!($field), &self.reachable.then_some(&self.$field))?;)*
            };
        }
        known!(id);
        match self.role {
            Some(role) => map.serialize_entry("role", &role)?,
            None => map.serialize_entry("role", "unreachable")?,
        }
        known!(is_voter address peer_address reachable);
        answered!(pid term last_log_index commit_index applied_index snapshot_index purged_index);
        answered!(lag_entries log_bytes state_bytes disk_free_bytes disk_nearly_full leader_id);
        answered!(version);
        known!(note);
        answered!(revision);
        let log_time_ms = self.reachable.then(|| millis(self.log_time));
        map.serialize_entry("log_time_ms", &log_time_ms)?;
        answered!(local_reads_only certificates audit_log limits backups);
        known!(drained);
        answered!(format_min format_max cluster_version);
        let uptime_ms = self.reachable.then(|| millis(self.uptime));
        map.serialize_entry("uptime_ms", &uptime_ms)?;
        answered!(membership_open restore_under_way);
        answered!(restore_epoch);
        map.end()
    }
}

impl From<v1::NodeStatus> for NodeInfo {
    fn from(node: v1::NodeStatus) -> Self {
        Self {
            role: node.reachable.then(|| Role::of(node.role)),
            is_voter: matches!(node.role(), v1::Role::Leader | v1::Role::Follower),
            id: node.id,
            address: node.address,
            peer_address: node.peer_address,
            drained: node.drained,
            format_min: node.format_min,
            format_max: node.format_max,
            cluster_version: node.cluster_version,
            uptime: Duration::from_millis(node.uptime_ms),
            membership_open: node.membership_open,
            restore_under_way: node.restore_under_way,
            restore_epoch: node.restore_epoch,
            reachable: node.reachable,
            pid: node.pid,
            term: node.term,
            last_log_index: node.last_log_index,
            commit_index: node.commit_index,
            applied_index: node.applied_index,
            snapshot_index: node.snapshot_index,
            purged_index: node.purged_index,
            lag_entries: node.lag_entries,
            log_bytes: node.log_bytes,
            state_bytes: node.state_bytes,
            disk_free_bytes: node.disk_free_bytes,
            disk_nearly_full: node.disk_nearly_full,
            leader_id: node.leader_id,
            version: node.version,
            note: node.note,
            revision: node.revision,
            log_time: Duration::from_millis(node.log_time_ms),
            local_reads_only: node.local_reads_only,
            certificates: node.certificates.into_iter().map(Certificate::from).collect(),
            audit_log: node.audit_log.map(AuditLogInfo::from),
            limits: node.limits.map(|limits| Limits {
                share_percent: limits.share_percent,
                report_only: limits.report_only,
                shares_exceeded: limits.shares_exceeded,
                rates_exceeded: limits.rates_exceeded,
            }),
            backups: node.backups.map(|backups| BackupInfo {
                interval_ms: backups.interval_ms,
                last_wall_time_ms: backups.last_wall_time_ms,
                last_revision: backups.last_revision,
                last_bytes: backups.last_bytes,
                made: backups.made,
                failed: backups.failed,
                error: backups.error,
            }),
        }
    }
}

impl From<v1::AuditLogStatus> for AuditLogInfo {
    fn from(log: v1::AuditLogStatus) -> Self {
        Self {
            must_not_drop: log.must_not_drop,
            written_lines: log.written_lines,
            written_bytes: log.written_bytes,
            dropped_lines: log.dropped_lines,
            refused_requests: log.refused_requests,
            queued_bytes: log.queued_bytes,
            error: log.error,
        }
    }
}

impl From<v1::Certificate> for Certificate {
    fn from(certificate: v1::Certificate) -> Self {
        Self {
            key: certificate.key,
            name: certificate.name,
            not_before_wall_time_ms: certificate.not_before_wall_time_ms,
            not_after_wall_time_ms: certificate.not_after_wall_time_ms,
        }
    }
}

impl From<v1::DedupStatus> for DedupTables {
    fn from(dedup: v1::DedupStatus) -> Self {
        Self {
            sessions: dedup.sessions,
            sessions_max: dedup.sessions_max,
            session_bytes: dedup.session_bytes,
            session_bytes_max: dedup.session_bytes_max,
            keys: dedup.keys,
            key_bytes: dedup.key_bytes,
            key_bytes_max: dedup.key_bytes_max,
            first_expiry_in: Duration::from_millis(dedup.first_expiry_in_ms),
            oldest_key_age: Duration::from_millis(dedup.oldest_key_age_ms),
            sustainable_keys_per_second: dedup.sustainable_keys_per_second,
            key_bytes_warning: dedup.key_bytes_warning,
            key_window: Duration::from_millis(dedup.key_window_ms),
            sessions_warning: dedup.sessions_warning,
            sessions_share_percent: dedup.sessions_share_percent,
        }
    }
}

answers! {
    Read<v1::ClusterStatusRequest> -> Status:
        |answer: v1::ClusterStatusResponse| Status {
            nodes: answer.nodes.into_iter().map(NodeInfo::from).collect(),
            dedup: answer.dedup.map(DedupTables::from).unwrap_or_default(),
            next_node_id: answer.next_node_id,
            header: Header::of(answer.header),
        };
    Read<v1::ClusterMetricsRequest> -> v1::ClusterMetricsResponse: |answer| answer;
    Read<v1::ClusterDiagnoseRequest> -> v1::ClusterDiagnoseResponse: |answer| answer;
}
