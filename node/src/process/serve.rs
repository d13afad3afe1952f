//! `tallyd serve`: one node as a process.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

#[cfg(feature = "otlp")]
use super::traces;
use super::{
    EXIT_FATAL, EXIT_REFUSED, environment, join, recent::RecentLines, telemetry,
    test_faults::with_test_faults,
};
#[cfg(feature = "otlp")]
use crate::env::traces::Traces;
use crate::{
    config::{Config, HotItemNames, InitialCluster, LogFormat, PeerVia, Ratio, UpgradeFinalize},
    env::{Env, Logs, descriptors},
    machine::version::{FormatRange, FormatVersion},
    node::{Node, system_error_needs_a_person},
    storage::real_disk::RealDisk,
};

/// One optional flag and environment variable for each key of the configuration.
macro_rules! arguments {
    ($($(#[doc = $doc:literal])* $key:ident: $type:ty = $env:literal),* $(,)?) => {
        /// Flags of `tallyd serve`. Each overrides its environment variable, which overrides the
        /// file, which overrides the default.
        #[derive(Debug, Args)]
        pub struct Arguments {
            /// Configuration file (TOML); the keys are the flags with underscores.
            #[arg(long, env = "TALLY_CONFIG", value_name = "FILE")]
            config: Option<PathBuf>,
            /// Print the configuration that counts, and exit.
            #[arg(long)]
            print_config: bool,
            /// End when the process that started this one, with this id, ends.
            #[arg(long, hide = true, value_name = "PID")]
            exit_with_parent: Option<i32>,
            /// Read and write versions of the formats up to this one only, as an older release does: for tests.
            #[arg(long, hide = true, value_name = "VERSION")]
            test_format_max: Option<u32>,
            #[command(flatten)]
            join: join::Arguments,
            $($(#[doc = $doc])* #[arg(long, env = $env)] $key: Option<$type>,)*
        }

        impl Arguments {
            /// Versions of the formats that the node reads.
            pub(super) fn formats(&self) -> FormatRange {
                let FormatRange { min, max } = FormatRange::OURS;
                let max_said = self.test_format_max.map(FormatVersion);
                FormatRange { min, max: max_said.map_or(max, |said| max.min(said)) }
            }

            fn override_config(&self, config: &mut Config) {
                $(if let Some(value) = &self.$key {
                    config.$key = value.clone();
                })*
            }
        }
    };
}

arguments! {
    /// Id of this node: 1 or more, never used again after the node was removed.
    node_id: u64 = "TALLY_NODE_ID",
    /// Directory of everything that this node stores.
    data_dir: PathBuf = "TALLY_DATA_DIR",
    /// Address to listen on for clients.
    client_listen: String = "TALLY_CLIENT_LISTEN",
    /// Address to listen on for other nodes.
    peer_listen: String = "TALLY_PEER_LISTEN",
    /// Address to listen on for scrapers and probes; beyond loopback under the client port's TLS; empty: none.
    metrics_listen: String = "TALLY_METRICS_LISTEN",
    /// Address to listen on for browsers, which see the cluster there; under the client port's TLS; empty: none.
    console_listen: String = "TALLY_CONSOLE_LISTEN",
    /// Address of the client port as clients reach it.
    client_advertise: String = "TALLY_CLIENT_ADVERTISE",
    /// Address of the peer port as other nodes reach it.
    peer_advertise: String = "TALLY_PEER_ADVERTISE",
    /// Where this node reaches some others, 2=host:port,..., if not where the membership says (a proxy, NAT).
    peer_via: PeerVia = "TALLY_PEER_VIA",
    /// For tests: a file that says what is wrong with this node's wall clock and disk, looked at ten times a second.
    test_faults_file: PathBuf = "TALLY_TEST_FAULTS_FILE",
    /// The first members, 1=host:port,2=host:port,... (peer ports); forms the cluster once.
    initial_cluster: InitialCluster = "TALLY_INITIAL_CLUSTER",
    /// Form the cluster when a majority of the first members is there; without it all must be.
    form_without_all: bool = "TALLY_FORM_WITHOUT_ALL",
    /// Name of the cluster in its nodes' certificates, tally://NAME/node/ID.
    cluster_name: String = "TALLY_CLUSTER_NAME",
    /// TLS of the client port: certificate with its chain (PEM).
    client_tls_cert_file: PathBuf = "TALLY_CLIENT_TLS_CERT_FILE",
    /// Key of that certificate (PEM).
    client_tls_key_file: PathBuf = "TALLY_CLIENT_TLS_KEY_FILE",
    /// CAs of clients that show who they are (PEM); a client may show nothing.
    client_tls_ca_file: PathBuf = "TALLY_CLIENT_TLS_CA_FILE",
    /// Mutual TLS between nodes: this node's certificate with its chain (PEM).
    peer_tls_cert_file: PathBuf = "TALLY_PEER_TLS_CERT_FILE",
    /// Key of that certificate (PEM).
    peer_tls_key_file: PathBuf = "TALLY_PEER_TLS_KEY_FILE",
    /// CAs that sign for the nodes (PEM).
    peer_tls_ca_file: PathBuf = "TALLY_PEER_TLS_CA_FILE",
    /// Listen on other addresses than loopback without TLS: whoever reaches them reads and writes everything.
    insecure_listen_without_tls: bool = "TALLY_INSECURE_LISTEN_WITHOUT_TLS",
    /// Heartbeats of a leader, in ms.
    heartbeat_interval_ms: u64 = "TALLY_HEARTBEAT_INTERVAL_MS",
    /// Lower end of the election timeout, in ms.
    election_timeout_ms_min: u64 = "TALLY_ELECTION_TIMEOUT_MS_MIN",
    /// Upper end of the election timeout, in ms.
    election_timeout_ms_max: u64 = "TALLY_ELECTION_TIMEOUT_MS_MAX",
    /// Log entries that may be under way at once.
    entries_in_flight: usize = "TALLY_ENTRIES_IN_FLIGHT",
    /// Writes that may wait or be under way at once; more are refused, or wait on their streams.
    writes_in_flight: usize = "TALLY_WRITES_IN_FLIGHT",
    /// Bytes of those writes.
    write_bytes_in_flight: usize = "TALLY_WRITE_BYTES_IN_FLIGHT",
    /// Build a snapshot after so many bytes of log.
    snapshot_after_log_bytes: u64 = "TALLY_SNAPSHOT_AFTER_LOG_BYTES",
    /// Build a snapshot after so many entries.
    snapshot_after_entries: u64 = "TALLY_SNAPSHOT_AFTER_ENTRIES",
    /// Entries kept behind a snapshot.
    log_entries_kept: u64 = "TALLY_LOG_ENTRIES_KEPT",
    /// Bytes of segments that these may take at most.
    log_bytes_kept: u64 = "TALLY_LOG_BYTES_KEPT",
    /// Size of a segment of the log, in bytes.
    log_segment_bytes: u64 = "TALLY_LOG_SEGMENT_BYTES",
    /// Recent log entries kept in memory, in bytes.
    log_cache_bytes: u64 = "TALLY_LOG_CACHE_BYTES",
    /// Applied changes kept in memory before a flush, in bytes.
    dirty_bytes_max: u64 = "TALLY_DIRTY_BYTES_MAX",
    /// Time between two flushes of the state, in ms.
    flush_interval_ms: u64 = "TALLY_FLUSH_INTERVAL_MS",
    /// From one comparison of the replicas' states to the next, in ms.
    state_compare_interval_ms: u64 = "TALLY_STATE_COMPARE_INTERVAL_MS",
    /// Cache of the state on disk, in bytes.
    state_cache_bytes: u64 = "TALLY_STATE_CACHE_BYTES",
    /// Held on the disk for flushes, in bytes; with less than half of it free, writes are refused.
    disk_reserve_bytes: u64 = "TALLY_DISK_RESERVE_BYTES",
    /// First start of a cluster: at most this many sessions.
    sessions_max: u64 = "TALLY_SESSIONS_MAX",
    /// Percent of the places which others leave that the clients of one address may hold.
    sessions_share_percent: u8 = "TALLY_SESSIONS_SHARE_PERCENT",
    /// Percent of the node's room which others leave that one client may have.
    limit_share_percent: u8 = "TALLY_LIMIT_SHARE_PERCENT",
    /// Limits of clients are not enforced, only counted.
    limit_report_only: bool = "TALLY_LIMIT_REPORT_ONLY",
    /// First start of a cluster: idle time of a session, in ms.
    session_idle_ms: u64 = "TALLY_SESSION_IDLE_MS",
    /// First start of a cluster: window of an idempotency key, in ms.
    idempotency_window_ms: u64 = "TALLY_IDEMPOTENCY_WINDOW_MS",
    /// First start of a cluster: bytes of remembered idempotency keys.
    idempotency_bytes_max: u64 = "TALLY_IDEMPOTENCY_BYTES_MAX",
    /// Who finalizes an upgrade, after which no node can go back: an operator, or the leader by itself.
    upgrade_finalize: UpgradeFinalize = "TALLY_UPGRADE_FINALIZE",
    /// Callers must show who they are; switches it on on the first start of a cluster.
    authentication: bool = "TALLY_AUTHENTICATION",
    /// Listen beyond loopback without it: whoever reaches the port reads and writes everything.
    insecure_listen_without_authentication: bool = "TALLY_INSECURE_LISTEN_WITHOUT_AUTHENTICATION",
    /// File of the audit log: who asked for what, and what came of it.
    audit_log_file: PathBuf = "TALLY_AUDIT_LOG_FILE",
    /// Put it aside when it would grow above so many bytes; 0: never.
    audit_log_file_bytes: u64 = "TALLY_AUDIT_LOG_FILE_BYTES",
    /// Keep so many that were put aside.
    audit_log_files: usize = "TALLY_AUDIT_LOG_FILES",
    /// Record reads, too.
    audit_log_reads: bool = "TALLY_AUDIT_LOG_READS",
    /// Refuse requests that can't be recorded, instead of dropping their lines.
    audit_log_must_not_drop: bool = "TALLY_AUDIT_LOG_MUST_NOT_DROP",
    /// Make backups by itself, into this directory.
    backup_dir: PathBuf = "TALLY_BACKUP_DIR",
    /// Or into an S3-compatible object store, s3://bucket/prefix.
    backup_to: String = "TALLY_BACKUP_TO",
    /// Where that store is, https://host:port; empty: Amazon's of the region.
    backup_s3_endpoint: String = "TALLY_BACKUP_S3_ENDPOINT",
    /// Region of the bucket.
    backup_s3_region: String = "TALLY_BACKUP_S3_REGION",
    /// The bucket is the first part of the path; without it a part of the host's name.
    backup_s3_path_style: bool = "TALLY_BACKUP_S3_PATH_STYLE",
    /// File of the credentials, for its owner alone; empty: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY.
    backup_s3_credentials_file: PathBuf = "TALLY_BACKUP_S3_CREDENTIALS_FILE",
    /// CAs that sign for the store (PEM); empty: those that the operating system trusts.
    backup_s3_ca_file: PathBuf = "TALLY_BACKUP_S3_CA_FILE",
    /// Send backups to a store on another machine without TLS: whoever is on the way reads everything.
    insecure_backup_without_tls: bool = "TALLY_INSECURE_BACKUP_WITHOUT_TLS",
    /// From one backup to the next, in ms.
    backup_interval_ms: u64 = "TALLY_BACKUP_INTERVAL_MS",
    /// Keep so many backups.
    backups_kept: usize = "TALLY_BACKUPS_KEPT",
    /// Threads that answer and run Raft; 0: half the cores.
    worker_threads: usize = "TALLY_WORKER_THREADS",
    /// How long a shutdown waits for what is in flight, in ms.
    shutdown_grace_ms: u64 = "TALLY_SHUTDOWN_GRACE_MS",
    /// Tell operations in the log that take longer, in ms; 0: none.
    slow_operation_ms: u64 = "TALLY_SLOW_OPERATION_MS",
    /// What the metrics show of the names of the most used counters and keys.
    hot_item_names: HotItemNames = "TALLY_HOT_ITEM_NAMES",
    /// Logs for people or for machines.
    log_format: LogFormat = "TALLY_LOG_FORMAT",
    /// Which logs, e.g. `info` or `tally_node=debug`.
    log_filter: String = "TALLY_LOG_FILTER",
    /// OpenTelemetry collector for spans of sampled requests, http://host:port; empty: no traces.
    traces_otlp_endpoint: String = "TALLY_TRACES_OTLP_ENDPOINT",
    /// Of the requests whose callers do not decide so many are traced, 0 to 1.
    traces_sample_ratio: Ratio = "TALLY_TRACES_SAMPLE_RATIO",
}

impl Arguments {
    /// The configuration that counts.
    pub(super) fn config(&self) -> Result<Config, String> {
        environment_is_ours()?;
        let mut config = match &self.config {
            None => Config::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| format!("{}: {error}", path.display()))?;
                toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?
            }
        };
        self.override_config(&mut config);
        // One that joins gets its id from the cluster.
        if !self.join.is_given() {
            config.validate().map_err(|error| error.to_string())?;
        }
        Ok(config)
    }
}

/// Refuses variables that are named like ours and mean nothing.
pub(super) fn environment_is_ours() -> Result<(), String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let flags = Arguments::augment_args(clap::Command::new("serve"));
    environment::problem(names, &flags).map_or(Ok(()), Err)
}

/// How a process ends whose work was to print. A reader that has gone away wants no more.
pub fn printed(written: io::Result<()>) -> ExitCode {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let _ = writeln!(io::stderr(), "tallyd: the output could not be written: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Runs one node until it is told to stop.
pub fn run(arguments: Arguments) -> ExitCode {
    let config = match arguments.config() {
        Ok(config) => config,
        Err(problem) => {
            eprintln!("tallyd: configuration: {problem}");
            return ExitCode::from(2);
        }
    };
    let printed = toml::to_string(&config).expect("the configuration has only plain values");
    if arguments.print_config {
        let mut stdout = io::stdout().lock();
        return self::printed(stdout.write_all(printed.as_bytes()).and_then(|()| stdout.flush()));
    }
    if let Some(parent) = arguments.exit_with_parent {
        let signal = Some(rustix::process::Signal::TERM);
        if let Err(error) = rustix::process::set_parent_process_death_signal(signal) {
            eprintln!("tallyd: can't follow the parent process: {error}");
        }
        // It may have ended before this one asked for the signal, which then never comes.
        if rustix::process::Pid::as_raw(rustix::process::getppid()) != parent {
            eprintln!("tallyd: the process {parent} that started this one has ended");
            return ExitCode::SUCCESS;
        }
    }
    let join = match arguments.join.read() {
        Ok(join) => join,
        Err(problem) => {
            eprintln!("tallyd: configuration: {problem}");
            return ExitCode::from(2);
        }
    };
    let recent = RecentLines::default();
    let logs = match telemetry::start(&config, recent.clone()) {
        Ok(logs) => logs,
        Err(problem) => {
            eprintln!("tallyd: configuration: {problem}");
            return ExitCode::from(2);
        }
    };
    let one_line = printed.trim().replace('\n', "; ");
    tracing::info!(version = env!("BUILD_VERSION"), profile = env!("BUILD_PROFILE"), config = %one_line, "starting");

    descriptors::raise_limit();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(config.worker_threads()).enable_all();
    // An entry's answers wake many calls at once. With tokio's LIFO slot the first of them to end wakes
    // its connection, which runs before the second one does: a write to the socket for each answer.
    // In the order in which they were woken, the connection runs last, and writes once.
    #[cfg(tokio_unstable)]
    runtime.disable_lifo_slot();
    let runtime = runtime.build().expect("a runtime can be made while the process starts");
    let code = runtime.block_on(serve(config, join, (logs, arguments.formats()), recent));
    // Whatever still runs (a peer's stream) has nothing left to do.
    runtime.shutdown_background();
    code
}

async fn serve(
    config: Config,
    join: Option<join::Join>,
    (logs, formats): (Arc<dyn Logs>, FormatRange),
    recent: RecentLines,
) -> ExitCode {
    let refused = |problem: &dyn std::fmt::Display| {
        tracing::error!(%problem, "the node does not run");
        eprintln!("tallyd: {problem}");
        ExitCode::from(u8::try_from(EXIT_REFUSED).expect("the code fits"))
    };
    // What may be over at the next start ends with the code after which a supervisor starts again.
    let failed = |problem: &dyn std::fmt::Display| {
        refused(problem);
        ExitCode::from(u8::try_from(EXIT_FATAL).expect("the code fits"))
    };
    let of_system = |error: &std::io::Error| match system_error_needs_a_person(error) {
        true => refused(error),
        false => failed(error),
    };
    // Held until the process ends: two processes must never write one directory.
    let _lock = match RealDisk::new(config.data_dir.clone()).and_then(|disk| disk.lock()) {
        Ok(lock) => lock,
        Err(error) => return of_system(&error),
    };
    let env = match Env::real(&config.data_dir, config.store_cache_bytes()) {
        Ok(env) => Env { logs: Some(logs), surroundings: Some(Arc::new(recent)), formats, ..env },
        Err(error) => return of_system(&error),
    };
    let env = match config.test_faults_file.as_os_str().is_empty() {
        true => env,
        false => match with_test_faults(env, config.test_faults_file.clone()) {
            Ok(env) => env,
            Err(problem) => return refused(&problem),
        },
    };
    let mut stop = match stop_signals() {
        Ok(stop) => stop,
        Err(error) => return of_system(&error),
    };
    let (config, enters) = match join {
        None => (config, None),
        Some(join) => tokio::select! {
            identified = join.identified(&env, config) => match identified {
                Ok((config, true)) => (config, Some(join)),
                Ok((config, false)) => (config, None),
                Err(problem) => return refused(&problem),
            },
            () = stop.wait() => return ExitCode::SUCCESS,
        },
    };
    #[cfg(feature = "otlp")]
    let (env, _spans) = match traces::Otlp::start(&config) {
        Ok(traces) => {
            let traces = traces.map(Arc::new);
            let told = traces.clone().map(|traces| traces as Arc<dyn Traces>);
            (Env { traces: told, ..env }, LastSpans(traces))
        }
        Err(problem) => return refused(&problem),
    };
    #[cfg(not(feature = "otlp"))]
    if !config.traces_otlp_endpoint.is_empty() {
        return refused(&"traces_otlp_endpoint: this program was built without traces");
    }
    if let Some(join) = enters {
        tokio::spawn(join.enter(config.node_id, config.peer_address()));
    }
    let mut node = tokio::select! {
        started = Node::start(config, env) => match started {
            Ok(node) => node,
            Err(problem) if problem.needs_a_person() => return refused(&problem),
            Err(problem) => return failed(&problem),
        },
        () = stop.wait() => return ExitCode::SUCCESS,
    };
    tracing::info!(
        clients = node.client_address(),
        peers = node.peer_address(),
        "the node answers"
    );
    tokio::select! {
        () = stop.wait() => {
            tracing::info!("shutting down");
            node.shutdown().await;
            tracing::info!("the node has stopped");
            ExitCode::SUCCESS
        }
        reason = node.refused() => refused(&reason),
    }
}

/// Spans that wait when the node has stopped are still sent.
#[cfg(feature = "otlp")]
struct LastSpans(Option<Arc<traces::Otlp>>);

#[cfg(feature = "otlp")]
impl Drop for LastSpans {
    fn drop(&mut self) {
        if let Some(traces) = self.0.take() {
            // The exporter's connection is driven by this runtime, so it must not be held up.
            tokio::task::block_in_place(|| traces.stop());
        }
    }
}

struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

fn stop_signals() -> std::io::Result<Stop> {
    Ok(Stop {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
    })
}

impl Stop {
    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_flag_and_environment_variable() {
        use clap::Args as _;

        let serve = Arguments::augment_args(clap::Command::new("serve"));
        for (key, _) in toml::Table::try_from(Config::default()).unwrap() {
            let flag = key.replace('_', "-");
            let argument =
                serve.get_arguments().find(|argument| argument.get_long() == Some(&flag));
            let argument = argument.unwrap_or_else(|| panic!("{key} has no flag"));
            let variable = format!("TALLY_{}", key.to_uppercase());
            assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(&*variable));
        }
    }
}
