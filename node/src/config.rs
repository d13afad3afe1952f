//! The configuration of one node: one documented struct, one default, one validation.
//!
//! A value comes from the command line, else from the environment (`TALLY_…`), else from the file,
//! else from [`Config::default`]. Unknown keys in the file are refused. What counts in the end is
//! printed when the node starts.
//!
//! Its keys belong to many parts of a node, and stand together all the same: a file of keys without
//! sections is what an operator writes, several checks compare keys of two parts, and the reference in
//! `docs/configuration.md` is checked against all of them at once. A part is given what it
//! needs as values: only the process, the composition root and `consensus::raft_config` read this.

mod backup;
mod members;

use std::{net::IpAddr, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

pub use self::members::{InitialCluster, PeerVia};
use crate::machine::{command::Settings, limits};

/// Configuration of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Id of this node in its cluster: 1 or more, never used again after the node was removed.
    pub node_id: u64,
    /// Directory of everything that this node stores.
    pub data_dir: PathBuf,
    /// Address to listen on for clients.
    pub client_listen: String,
    /// Address to listen on for other nodes.
    pub peer_listen: String,
    /// Address to listen on for scrapers and probes. On loopback it is open and in plain HTTP, else under the TLS of
    /// the client port, and asks who is there as that does. Empty: no such port.
    pub metrics_listen: String,
    /// Address to listen on for browsers: a page that shows the cluster and what is in it. It has the TLS of the client
    /// port, and asks who is there as that does. Empty: no such port.
    pub console_listen: String,
    /// Address of the client port as clients reach it. Empty: `client_listen`.
    pub client_advertise: String,
    /// Address of the peer port as other nodes reach it. Empty: `peer_listen`.
    pub peer_advertise: String,
    /// Where this node reaches some of the others, `2=host:port,…`, if not at their addresses in the membership:
    /// through a translation of addresses, a tunnel or a proxy. Of this node alone, and only for what it dials.
    pub peer_via: PeerVia,
    /// For tests of whoever uses a cluster: a file that says what is wrong with this node's wall clock and disk. See
    /// `process/test_faults`.
    pub test_faults_file: PathBuf,
    /// The first members, `1=host:port,2=host:port,…` (peer ports). Forms the cluster once, on nodes
    /// with empty directories; ignored by a node that has one. Empty on a node that will be added
    /// as a learner.
    pub initial_cluster: InitialCluster,
    /// Form the cluster when a majority of `initial_cluster` is there. Without it every first member
    /// must be seen: else two nodes of three that lost their data would form a new, empty cluster.
    pub form_without_all: bool,
    /// Name of the cluster in the certificates of its nodes, `tally://NAME/node/ID`. Only with peer_tls_cert_file.
    pub cluster_name: String,
    /// TLS of the client port: certificate with its chain (PEM). Empty: no TLS.
    pub client_tls_cert_file: PathBuf,
    /// … and its key.
    pub client_tls_key_file: PathBuf,
    /// CAs whose clients are known by their certificates (PEM). A client may still show none. Empty: none is asked
    /// for.
    pub client_tls_ca_file: PathBuf,
    /// Mutual TLS between nodes: certificate of this node with its chain (PEM). Empty: no TLS.
    pub peer_tls_cert_file: PathBuf,
    /// … and its key.
    pub peer_tls_key_file: PathBuf,
    /// CAs that sign for the nodes (PEM).
    pub peer_tls_ca_file: PathBuf,
    /// Listen on addresses other than loopback without TLS: whoever reaches them reads and writes everything.
    pub insecure_listen_without_tls: bool,
    /// Heartbeats of a leader, in ms.
    pub heartbeat_interval_ms: u64,
    /// A follower that hears nothing for a random time between this, in ms, …
    pub election_timeout_ms_min: u64,
    /// … and this, in ms, asks for votes. Reads and writes say NO_QUORUM after twice this.
    pub election_timeout_ms_max: u64,
    /// Entries that may be under way at once; more wait and share the next one.
    pub entries_in_flight: usize,
    /// Writes that may wait or be under way at once. More are refused as unary calls, and wait on a
    /// stream.
    pub writes_in_flight: usize,
    /// Bytes of those writes.
    pub write_bytes_in_flight: usize,
    /// A snapshot is built when the log has grown by this many bytes since the last one.
    pub snapshot_after_log_bytes: u64,
    /// … or by this many entries.
    pub snapshot_after_entries: u64,
    /// Entries that are kept behind a snapshot, for followers that are a little behind …
    pub log_entries_kept: u64,
    /// … and at most so many bytes of segments.
    pub log_bytes_kept: u64,
    /// Size of one segment of the log, in bytes. At least 8 MiB.
    pub log_segment_bytes: u64,
    /// Recent log entries kept in memory, in bytes.
    pub log_cache_bytes: u64,
    /// Applied changes kept in memory before they are flushed to the state, in bytes.
    pub dirty_bytes_max: u64,
    /// At most so long, in ms, between two flushes of the state. The log carries durability.
    pub flush_interval_ms: u64,
    /// While this node leads and something is applied, the replicas compare their states this often, in ms.
    pub state_compare_interval_ms: u64,
    /// Cache of the state on disk, in bytes; 2 to 4 times the data is good. A quarter holds single
    /// records that were read, the rest is the storage engine's.
    pub state_cache_bytes: u64,
    /// Held on the disk for flushes, in bytes; writes are refused when it can't be held, or less
    /// than half as much is free besides. 0: computed from the sizes above.
    pub disk_reserve_bytes: u64,
    /// For a cluster's first start: at most this many open sessions.
    pub sessions_max: u64,
    /// Percent of the session table's places, those aside which others hold, that the clients of one
    /// address may hold. 1 to 100. Of the node that takes a call, at any time.
    pub sessions_share_percent: u8,
    /// Percent of this node's room for connections, calls, writes and their bytes, as far as others leave it,
    /// that one client may have: a user, or whoever calls from an address. 1 to 100.
    pub limit_share_percent: u8,
    /// Shares and rates are not enforced, only counted: what they would have refused.
    pub limit_report_only: bool,
    /// For a cluster's first start: idle time of a session, in ms of log time.
    pub session_idle_ms: u64,
    /// For a cluster's first start: window of an idempotency key, in ms of log time.
    pub idempotency_window_ms: u64,
    /// For a cluster's first start: bytes of remembered idempotency keys.
    pub idempotency_bytes_max: u64,
    /// Who finalizes an upgrade once all members run the new release, after which none can go back: an operator
    /// (`tally cluster upgrade finalize`), or this node by itself while it leads.
    pub upgrade_finalize: UpgradeFinalize,
    /// Callers must show who they are: a token or a certificate. On a cluster's first start it is switched on
    /// in the cluster, with a first token in the file `admin-token`; a node that has this serves nobody where
    /// it is off.
    pub authentication: bool,
    /// Listen for clients on an address beyond loopback without authentication: whoever reaches the port reads
    /// and writes everything.
    pub insecure_listen_without_authentication: bool,
    /// File of the audit log: who asked for what, and what came of it. Empty: none is kept.
    pub audit_log_file: PathBuf,
    /// When it would grow above this it is put aside, with a number; 0: never.
    pub audit_log_file_bytes: u64,
    /// So many that were put aside are kept; the oldest is removed.
    pub audit_log_files: usize,
    /// Record reads, too. Those that are refused are recorded in any case.
    pub audit_log_reads: bool,
    /// Refuse requests that can't be recorded. Without it their lines are dropped, and counted.
    pub audit_log_must_not_drop: bool,
    /// Directory into which the node makes backups by itself. Empty: it makes none.
    pub backup_dir: PathBuf,
    /// Or into an S3-compatible object store, `s3://bucket/prefix`. Empty: it makes none.
    pub backup_to: String,
    /// Where that store is, `https://host:port`. Empty: Amazon's of the region.
    pub backup_s3_endpoint: String,
    /// Region of the bucket, part of what is signed.
    pub backup_s3_region: String,
    /// The bucket is the first part of the path; without it a part of the host's name.
    pub backup_s3_path_style: bool,
    /// File of the credentials, which its owner alone may read. Empty: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and
    /// AWS_SESSION_TOKEN of the environment.
    pub backup_s3_credentials_file: PathBuf,
    /// CAs that sign for the store (PEM). Empty: those that the operating system trusts.
    pub backup_s3_ca_file: PathBuf,
    /// Send backups to a store on another machine without TLS: whoever is on the way reads everything.
    pub insecure_backup_without_tls: bool,
    /// From one to the next, in ms. At least 1000.
    pub backup_interval_ms: u64,
    /// So many of the newest are kept, 1 to 10,000.
    pub backups_kept: usize,
    /// Threads that answer clients and peers and run Raft; 0: half as many as there are cores, at
    /// least one. The log and the state have one more each.
    pub worker_threads: usize,
    /// How long a shutdown waits for what is in flight, in ms.
    pub shutdown_grace_ms: u64,
    /// Operations that take longer than this, in ms, are told in the log. 0: none.
    pub slow_operation_ms: u64,
    /// What the metrics show of the names of the most used counters and keys.
    pub hot_item_names: HotItemNames,
    /// Logs for people or for machines.
    pub log_format: LogFormat,
    /// Which logs: a level, and levels of modules.
    pub log_filter: String,
    /// OpenTelemetry collector for spans of sampled requests, `http://host:port` (OTLP over gRPC). Empty: no traces.
    pub traces_otlp_endpoint: String,
    /// Of the requests whose callers do not decide so many are traced, 0 to 1.
    pub traces_sample_ratio: Ratio,
}

/// What is shown of the names of hot items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum HotItemNames {
    /// Hot items are not looked for.
    Off,
    /// A hash of the name.
    Hashed,
    /// The name.
    Shown,
}

/// Who finalizes an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum UpgradeFinalize {
    /// An operator.
    Manual,
    /// The leader.
    Auto,
}

/// Shape of the logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line an event.
    Human,
    /// One JSON object an event.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            node_id: 0,
            data_dir: PathBuf::from("tally-data"),
            client_listen: "127.0.0.1:7401".to_owned(),
            peer_listen: "127.0.0.1:7501".to_owned(),
            metrics_listen: "127.0.0.1:7601".to_owned(),
            console_listen: String::new(),
            client_advertise: String::new(),
            peer_advertise: String::new(),
            peer_via: PeerVia::default(),
            test_faults_file: PathBuf::new(),
            initial_cluster: InitialCluster::default(),
            form_without_all: false,
            cluster_name: "tally".to_owned(),
            client_tls_cert_file: PathBuf::new(),
            client_tls_key_file: PathBuf::new(),
            client_tls_ca_file: PathBuf::new(),
            peer_tls_cert_file: PathBuf::new(),
            peer_tls_key_file: PathBuf::new(),
            peer_tls_ca_file: PathBuf::new(),
            insecure_listen_without_tls: false,
            heartbeat_interval_ms: 60,
            election_timeout_ms_min: 180,
            election_timeout_ms_max: 300,
            entries_in_flight: 8,
            writes_in_flight: 131_072,
            write_bytes_in_flight: 16 * 1024 * 1024,
            snapshot_after_log_bytes: 256 * 1024 * 1024,
            snapshot_after_entries: 500_000,
            log_entries_kept: 10_000,
            log_bytes_kept: 512 * 1024 * 1024,
            log_segment_bytes: 16 * 1024 * 1024,
            log_cache_bytes: 64 * 1024 * 1024,
            dirty_bytes_max: 64 * 1024 * 1024,
            flush_interval_ms: 30_000,
            state_compare_interval_ms: 30_000,
            state_cache_bytes: 512 * 1024 * 1024,
            disk_reserve_bytes: 0,
            sessions_max: limits::SESSIONS_MAX_DEFAULT,
            sessions_share_percent: limits::SESSIONS_SHARE_PERCENT_DEFAULT,
            limit_share_percent: 75,
            limit_report_only: false,
            session_idle_ms: limits::SESSION_IDLE_MS_DEFAULT,
            idempotency_window_ms: limits::IDEMPOTENCY_WINDOW_MS_DEFAULT,
            idempotency_bytes_max: limits::IDEMPOTENCY_BYTES_MAX_DEFAULT,
            upgrade_finalize: UpgradeFinalize::Manual,
            authentication: false,
            insecure_listen_without_authentication: false,
            audit_log_file: PathBuf::new(),
            audit_log_file_bytes: 100 * 1024 * 1024,
            audit_log_files: 10,
            audit_log_reads: false,
            audit_log_must_not_drop: false,
            backup_dir: PathBuf::new(),
            backup_to: String::new(),
            backup_s3_endpoint: String::new(),
            backup_s3_region: "us-east-1".to_owned(),
            backup_s3_path_style: true,
            backup_s3_credentials_file: PathBuf::new(),
            backup_s3_ca_file: PathBuf::new(),
            insecure_backup_without_tls: false,
            backup_interval_ms: 24 * 60 * 60 * 1000,
            backups_kept: 7,
            worker_threads: 0,
            shutdown_grace_ms: 5_000,
            slow_operation_ms: 500,
            hot_item_names: HotItemNames::Hashed,
            log_format: LogFormat::Human,
            log_filter: "info".to_owned(),
            traces_otlp_endpoint: String::new(),
            traces_sample_ratio: Ratio(0.01),
        }
    }
}

/// The least that `audit_log_file_bytes` may be: some lines, so that files are not put aside all the time.
const AUDIT_LOG_FILE_BYTES_MIN: u64 = 64 * 1024;

/// The most that `audit_log_files` may be: each is renamed when one is put aside.
const AUDIT_LOG_FILES_MAX: usize = 1000;

/// The least that `backup_interval_ms` may be: each reads all of the state.
const BACKUP_INTERVAL_MS_MIN: u64 = 1000;

/// The most that `backups_kept` may be: their names are read with each.
const BACKUPS_KEPT_MAX: usize = 10_000;

/// The least that `state_compare_interval_ms` may be: each comparison flushes the state of every node …
const STATE_COMPARE_INTERVAL_MS_MIN: u64 = 100;

/// … and the most: replicas compare themselves at least once a minute.
const STATE_COMPARE_INTERVAL_MS_MAX: u64 = 60_000;

/// The most that `writes_in_flight` may be: memory for their queue.
const WRITES_IN_FLIGHT_MAX: usize = 1 << 20;

/// The least that `write_bytes_in_flight` may be, so that the largest write finds room …
const WRITE_BYTES_IN_FLIGHT_MIN: usize = 4 << 20;

/// … and the most.
const WRITE_BYTES_IN_FLIGHT_MAX: usize = 1 << 30;

const _: () = assert!(WRITE_BYTES_IN_FLIGHT_MIN >= 2 * limits::REQUEST_BYTES_MAX);

/// What is wrong with a configuration: the key, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct ConfigError {
    /// The key.
    pub key: &'static str,
    /// What is wrong.
    pub problem: String,
}

impl Config {
    /// The part of the cache that holds single records, in bytes.
    pub fn record_cache_bytes(&self) -> usize {
        usize::try_from(self.state_cache_bytes / 4).unwrap_or(usize::MAX)
    }

    /// The storage engine's part of the cache, in bytes.
    pub fn store_cache_bytes(&self) -> usize {
        let bytes = self.state_cache_bytes - self.state_cache_bytes / 4;
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// The threads to start, on this machine.
    pub fn worker_threads(&self) -> usize {
        match self.worker_threads {
            0 => std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1)),
            given => given,
        }
    }

    /// Checks everything that can be checked without starting.
    pub fn validate(&self) -> Result<(), ConfigError> {
        fn check(
            ok: bool,
            key: &'static str,
            problem: impl FnOnce() -> String,
        ) -> Result<(), ConfigError> {
            if ok { Ok(()) } else { Err(ConfigError { key, problem: problem() }) }
        }
        check(self.node_id > 0, "node_id", || "must be 1 or more".to_owned())?;
        let has_data_dir = !self.data_dir.as_os_str().is_empty();
        check(has_data_dir, "data_dir", || "must name a directory".to_owned())?;
        for (key, address) in [
            ("client_listen", &self.client_listen),
            ("peer_listen", &self.peer_listen),
            ("client_advertise", &self.client_address()),
            ("peer_advertise", &self.peer_address()),
        ] {
            check(is_address(address), key, || format!("{address:?} is not host:port"))?;
        }
        for (key, address) in
            [("metrics_listen", &self.metrics_listen), ("console_listen", &self.console_listen)]
        {
            check(address.is_empty() || is_address(address), key, || {
                format!("{address:?} is not host:port")
            })?;
        }
        for (key, address) in
            [("client_advertise", self.client_address()), ("peer_advertise", self.peer_address())]
        {
            check(!is_unspecified(&address), key, || {
                format!("{address:?} can't be reached from elsewhere; set {key}")
            })?;
        }
        let members = &self.initial_cluster.0;
        check(
            members.is_empty() || members.contains_key(&self.node_id),
            "initial_cluster",
            || format!("does not name this node, {}", self.node_id),
        )?;
        self.validate_tls()?;
        self.validate_audit_log()?;
        check(self.heartbeat_interval_ms >= 10, "heartbeat_interval_ms", || {
            "must be at least 10".to_owned()
        })?;
        check(
            self.election_timeout_ms_min >= self.heartbeat_interval_ms.saturating_mul(2),
            "election_timeout_ms_min",
            || "must be at least twice heartbeat_interval_ms".to_owned(),
        )?;
        check(
            self.election_timeout_ms_max > self.election_timeout_ms_min,
            "election_timeout_ms_max",
            || "must be above election_timeout_ms_min".to_owned(),
        )?;
        self.validate_backups()?;
        check(self.worker_threads <= 1024, "worker_threads", || "must be at most 1024".to_owned())?;
        check((1..=1024).contains(&self.entries_in_flight), "entries_in_flight", || {
            "must be 1 to 1024".to_owned()
        })?;
        check(
            (1..=WRITES_IN_FLIGHT_MAX).contains(&self.writes_in_flight),
            "writes_in_flight",
            || format!("must be 1 to {WRITES_IN_FLIGHT_MAX}"),
        )?;
        let bytes = WRITE_BYTES_IN_FLIGHT_MIN..=WRITE_BYTES_IN_FLIGHT_MAX;
        check(bytes.contains(&self.write_bytes_in_flight), "write_bytes_in_flight", || {
            format!("must be {} to {}", bytes.start(), bytes.end())
        })?;
        check(self.log_segment_bytes >= 8 * 1024 * 1024, "log_segment_bytes", || {
            "must be at least 8388608 (8 MiB), so that the largest entry fits".to_owned()
        })?;
        check(self.dirty_bytes_max >= 4 * 1024 * 1024, "dirty_bytes_max", || {
            "must be at least 4194304 (4 MiB), so that the writes of one entry fit".to_owned()
        })?;
        check(self.snapshot_after_log_bytes > 0, "snapshot_after_log_bytes", || {
            "must be above 0".to_owned()
        })?;
        check(self.snapshot_after_entries > 0, "snapshot_after_entries", || {
            "must be above 0".to_owned()
        })?;
        check(self.flush_interval_ms > 0, "flush_interval_ms", || "must be above 0".to_owned())?;
        let compare = STATE_COMPARE_INTERVAL_MS_MIN..=STATE_COMPARE_INTERVAL_MS_MAX;
        check(
            compare.contains(&self.state_compare_interval_ms),
            "state_compare_interval_ms",
            || format!("must be {} to {}", compare.start(), compare.end()),
        )?;
        let endpoint = &self.traces_otlp_endpoint;
        check(endpoint.is_empty() || is_http_url(endpoint), "traces_otlp_endpoint", || {
            format!("{endpoint:?} is not http://host:port")
        })?;
        check((1..=100).contains(&self.sessions_share_percent), "sessions_share_percent", || {
            "must be 1 to 100".to_owned()
        })?;
        check((1..=100).contains(&self.limit_share_percent), "limit_share_percent", || {
            "must be 1 to 100".to_owned()
        })?;
        let idle = limits::SESSION_IDLE_MS_MIN..=limits::SESSION_IDLE_MS_MAX;
        check(idle.contains(&self.session_idle_ms), "session_idle_ms", || {
            format!("must be {} to {}", idle.start(), idle.end())
        })?;
        check(
            self.idempotency_window_ms >= limits::IDEMPOTENCY_WINDOW_MS_MIN,
            "idempotency_window_ms",
            || format!("must be at least {}", limits::IDEMPOTENCY_WINDOW_MS_MIN),
        )?;
        Ok(())
    }

    fn validate_audit_log(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem: String| Err(ConfigError { key, problem });
        if self.audit_log_file.as_os_str().is_empty() {
            for (key, is_set) in [
                ("audit_log_reads", self.audit_log_reads),
                ("audit_log_must_not_drop", self.audit_log_must_not_drop),
            ] {
                if is_set {
                    return wrong(key, "is set, and audit_log_file is not".to_owned());
                }
            }
        }
        if self.audit_log_file_bytes != 0 && self.audit_log_file_bytes < AUDIT_LOG_FILE_BYTES_MIN {
            let problem = format!("must be 0 or at least {AUDIT_LOG_FILE_BYTES_MIN}");
            return wrong("audit_log_file_bytes", problem);
        }
        if self.audit_log_files > AUDIT_LOG_FILES_MAX {
            let problem = format!("must be at most {AUDIT_LOG_FILES_MAX}");
            return wrong("audit_log_files", problem);
        }
        Ok(())
    }

    /// Checks which files of TLS are named, and that nothing is listened on in the open by accident.
    fn validate_tls(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem: String| Err(ConfigError { key, problem });
        let is_set = |path: &PathBuf| !path.as_os_str().is_empty();
        let (client_cert, client_key) =
            (is_set(&self.client_tls_cert_file), is_set(&self.client_tls_key_file));
        if client_cert != client_key {
            let (missing, other) = match client_cert {
                true => ("client_tls_key_file", "client_tls_cert_file"),
                false => ("client_tls_cert_file", "client_tls_key_file"),
            };
            return wrong(missing, format!("is not set, and {other} is"));
        }
        if is_set(&self.client_tls_ca_file) && !client_cert {
            return wrong(
                "client_tls_cert_file",
                "is not set, and client_tls_ca_file is".to_owned(),
            );
        }
        let peer = [
            ("peer_tls_cert_file", is_set(&self.peer_tls_cert_file)),
            ("peer_tls_key_file", is_set(&self.peer_tls_key_file)),
            ("peer_tls_ca_file", is_set(&self.peer_tls_ca_file)),
        ];
        if let (Some((set, _)), Some((missing, _))) =
            (peer.iter().find(|(_, is_set)| *is_set), peer.iter().find(|(_, is_set)| !is_set))
        {
            return wrong(
                missing,
                format!("is not set, and {set} is: nodes prove who they are to each other"),
            );
        }
        if !tally_certificates::is_cluster_name(&self.cluster_name) {
            let problem = "must be 1 to 64 letters, digits, '-', '_' and '.'".to_owned();
            return wrong("cluster_name", problem);
        }
        for (key, address, port, has_tls, files) in [
            (
                "client_listen",
                &self.client_listen,
                "client",
                client_cert,
                "cert_file and client_tls_key_file",
            ),
            (
                "peer_listen",
                &self.peer_listen,
                "peer",
                peer[0].1,
                "cert_file, peer_tls_key_file and peer_tls_ca_file",
            ),
            (
                "metrics_listen",
                &self.metrics_listen,
                "client",
                client_cert || self.metrics_listen.is_empty(),
                "cert_file and client_tls_key_file",
            ),
            (
                "console_listen",
                &self.console_listen,
                "client",
                client_cert || self.console_listen.is_empty(),
                "cert_file and client_tls_key_file",
            ),
        ] {
            if !has_tls && !self.insecure_listen_without_tls && !is_loopback(address) {
                return wrong(
                    key,
                    format!(
                        "{address:?} is reached from other machines, and without TLS whoever reaches it, or is on \
                         the way, reads and changes everything. Set {port}_tls_{files}, or give that up with \
                         insecure_listen_without_tls = true"
                    ),
                );
            }
        }
        let asks = self.authentication || self.insecure_listen_without_authentication;
        for (key, address, what) in [
            ("client_listen", &self.client_listen, "reads and changes everything"),
            ("metrics_listen", &self.metrics_listen, "reads the metrics"),
            ("console_listen", &self.console_listen, "reads everything"),
        ] {
            if !asks && !address.is_empty() && !is_loopback(address) {
                let problem = format!(
                    "{address:?} is reached from other machines, and without authentication whoever reaches it {what}. \
                     Set authentication = true, or give that up with insecure_listen_without_authentication = true"
                );
                return wrong(key, problem);
            }
        }
        Ok(())
    }

    /// Address of the client port, as clients reach it.
    pub fn client_address(&self) -> String {
        if self.client_advertise.is_empty() {
            self.client_listen.clone()
        } else {
            self.client_advertise.clone()
        }
    }

    /// Address of the peer port, as other nodes reach it.
    pub fn peer_address(&self) -> String {
        if !self.peer_advertise.is_empty() {
            return self.peer_advertise.clone();
        }
        match self.initial_cluster.0.get(&self.node_id) {
            Some(address) => address.clone(),
            None => self.peer_listen.clone(),
        }
    }

    /// The same, if somebody has set it: empty if it is only where the node listens.
    pub fn peer_address_on_purpose(&self) -> String {
        let is_set =
            !self.peer_advertise.is_empty() || self.initial_cluster.0.contains_key(&self.node_id);
        if is_set { self.peer_address() } else { String::new() }
    }

    /// The settings that become part of the replicated state when the cluster is created.
    pub fn settings(&self) -> Settings {
        Settings {
            sessions_max: self.sessions_max,
            session_idle_ms: self.session_idle_ms,
            idempotency_window_ms: self.idempotency_window_ms,
            idempotency_bytes_max: self.idempotency_bytes_max,
        }
    }

    /// What is held on the disk: room for one full dirty map as it becomes a flush and a
    /// snapshot, and for one segment of the log, twice over.
    pub fn disk_reserve(&self) -> u64 {
        if self.disk_reserve_bytes > 0 {
            return self.disk_reserve_bytes;
        }
        self.dirty_bytes_max.saturating_add(self.log_segment_bytes).saturating_mul(2)
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn is_unspecified(address: &str) -> bool {
    address.starts_with("0.0.0.0:") || address.starts_with("[::]:")
}

/// Whether only this machine reaches it. Of a name nothing is known but for `localhost`.
pub(crate) fn is_loopback(address: &str) -> bool {
    let host = host_of(address);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The host of an address, without its port if it has one, and without the brackets of IPv6.
pub(crate) fn host_of(address: &str) -> &str {
    let host = match address.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => host,
        _ => address,
    };
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// A share of all, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Ratio(f64);

// It is never what differs from itself.
impl Eq for Ratio {}

impl Ratio {
    /// Of 2^64 draws so many.
    pub fn of_draws(self) -> u128 {
        (self.0 * 2_f64.powi(64)) as u128
    }
}

impl TryFrom<f64> for Ratio {
    type Error = String;

    fn try_from(ratio: f64) -> Result<Self, String> {
        match (0.0..=1.0).contains(&ratio) {
            true => Ok(Ratio(ratio)),
            false => Err(format!("{ratio} is not 0 to 1")),
        }
    }
}

impl From<Ratio> for f64 {
    fn from(ratio: Ratio) -> f64 {
        ratio.0
    }
}

impl FromStr for Ratio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ratio: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
        Ratio::try_from(ratio)
    }
}

/// Whether an endpoint can be dialled without TLS: no name, password or path is in it.
fn is_http_url(url: &str) -> bool {
    let rest = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
    rest.is_some_and(|address| !address.contains(['/', '@', '?', '#']) && is_address(address))
}

#[cfg(test)]
mod tests;
