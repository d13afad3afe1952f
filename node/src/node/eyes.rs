//! The metrics port: what it answers at `/metrics`, `/livez` and `/readyz`, from the moment a node begins to start
//! until it has stopped.
//!
//! A port that can't be opened is warned of and missed, no more: a node is there to serve, and whoever watches
//! it sees that it is not to be seen.

use std::{
    fmt::Write as _,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use super::{LOGS, listen, report::Report, starting::Starting};
use crate::{
    api::starting::Waits,
    config::Config,
    consensus::{Consensus, cluster_id::format_cluster_id, leader::Outlook},
    env::{Clock, Env, Threads},
    machine::query,
    metrics::{
        Metrics, catalog,
        text::{Exposition, Format},
    },
    port::plain::{self, Asked, Page, Pages},
};

/// A proof of currency that is older says that linearizable reads do not work: the probe behind gRPC's health asks for
/// one every 400 ms (`api::server`), and goes by the same age.
const PROOF_AGE_MAX: Duration = Duration::from_millis(1000);

const HELP: &str = "/metrics         what is measured (docs/metrics.md)\n\
                    /livez           200 while the process runs\n\
                    /readyz          200 if the node can do all it is there for, else 503 with the reasons\n\
                    /readyz?verbose  all checks\n";

/// What the port looks at.
pub(super) struct Eyes {
    metrics: Arc<Metrics>,
    starting: Arc<Starting>,
    node_id: u64,
    clock: Arc<dyn Clock>,
    threads: Arc<dyn Threads>,
    started_at_ms: u64,
    running: OnceLock<Running>,
    last_scrape_ns: AtomicU64,
}

/// What a node has that takes part.
pub(super) struct Running {
    pub(super) consensus: Consensus,
    pub(super) report: Arc<Report>,
    pub(super) reserve_bytes: u64,
}

/// The open port.
#[derive(Debug)]
pub(super) struct EyesPort {
    address: Option<String>,
    stop: watch::Sender<bool>,
    serving: Option<JoinHandle<()>>,
}

impl EyesPort {
    /// Where it listens, if it does.
    pub(super) fn address(&self) -> Option<&str> {
        self.address.as_deref()
    }

    /// Closes it.
    pub(super) async fn close(mut self) {
        let _ = self.stop.send(true);
        if let Some(serving) = self.serving.take() {
            let _ = serving.await;
        }
    }
}

impl Drop for EyesPort {
    /// A start that fails leaves no port behind.
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

impl Eyes {
    /// Opens the port, if one is configured.
    pub(super) async fn open(
        config: &Config,
        env: &Env,
        metrics: Arc<Metrics>,
        starting: Arc<Starting>,
    ) -> (Arc<Eyes>, EyesPort) {
        let eyes = Arc::new(Eyes {
            metrics,
            starting,
            node_id: config.node_id,
            clock: Arc::clone(&env.clock),
            threads: Arc::clone(&env.threads),
            started_at_ms: env.clock.wall_ms(),
            running: OnceLock::new(),
            last_scrape_ns: AtomicU64::new(0),
        });
        let (stop, stopped) = watch::channel(false);
        let mut port = EyesPort { address: None, stop, serving: None };
        if config.metrics_listen.is_empty() {
            return (eyes, port);
        }
        match listen(env, "metrics_listen", &config.metrics_listen).await {
            Ok(listener) => {
                port.address = Some(listener.local_address());
                let pages = Arc::clone(&eyes) as Arc<dyn Pages>;
                let connections_max = env.network.sockets().metrics_max;
                let serving = plain::serve(pages, listener, connections_max, stopped);
                port.serving = Some(tokio::spawn(serving));
            }
            Err(error) => {
                tracing::warn!(target: LOGS, %error, "the node goes on without its metrics port");
            }
        }
        (eyes, port)
    }

    /// From now on the node takes part.
    pub(super) fn run(&self, running: Running) {
        let _ = self.running.set(running);
    }

    /// Each check: its name, and why it does not hold.
    fn checks(&self) -> Vec<(&'static str, Option<String>)> {
        let Some(Running { consensus, report, .. }) = self.running.get() else {
            return vec![("started", Some(self.starting.what_for()))];
        };
        let proof_age = consensus.reads().staleness_ms().map(Duration::from_millis);
        let why = |holds: bool, why: &dyn Fn() -> String| (!holds).then(why);
        vec![
            ("started", None),
            (
                "not_shutting_down",
                why(!consensus.is_shutting_down(), &|| "it is shutting down".to_owned()),
            ),
            (
                "leader",
                why(consensus.leadership().current().is_some(), &|| {
                    "no leader is known".to_owned()
                }),
            ),
            (
                "quorum",
                why(!consensus.quorum_lost(), &|| {
                    "no majority, or no leader, has been heard of for two election timeouts"
                        .to_owned()
                }),
            ),
            (
                "linearizable_reads",
                why(proof_age.is_some_and(|age| age <= PROOF_AGE_MAX), &|| match proof_age {
                    None => "no quorum has confirmed yet that its state is current".to_owned(),
                    Some(age) => format!("its state was last confirmed {} ms ago", age.as_millis()),
                }),
            ),
            (
                "disk",
                why(!consensus.disk_nearly_full(), &|| {
                    let free = report.guard.free_bytes();
                    format!(
                        "nearly full: {free} bytes are free beside what can be held for flushes"
                    )
                }),
            ),
            ("takes_part", crate::status::SelfReport::local_reads_only(&**report)),
        ]
    }

    fn readiness(&self, verbose: bool) -> Page {
        let checks = self.checks();
        let is_ready = checks.iter().all(|(_, why)| why.is_none());
        let mut body = String::new();
        for (name, why) in &checks {
            match why {
                Some(why) => drop(writeln!(body, "[-] {name}: {why}")),
                None if verbose => drop(writeln!(body, "[+] {name}")),
                None => {}
            }
        }
        body.push_str(if is_ready { "ready\n" } else { "not ready\n" });
        let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        Page::text(status, body)
    }

    fn metrics(&self, format: Format) -> Page {
        let began = Instant::now();
        let mut out = Exposition::new(format);
        self.write_process(&mut out);
        self.metrics.write(&mut out);
        if let Some(running) = self.running.get() {
            running.write(&mut out);
        }
        let before = Duration::from_nanos(self.last_scrape_ns.load(Ordering::Relaxed));
        out.single(&catalog::SCRAPE_DURATION, before.as_secs_f64());
        let body = out.finish();
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.last_scrape_ns.store(took, Ordering::Relaxed);
        Page { status: StatusCode::OK, content_type: format.content_type(), body }
    }

    fn write_process(&self, out: &mut Exposition) {
        out.family(&catalog::BUILD).value(&[env!("BUILD_VERSION"), env!("BUILD_PROFILE")], 1);
        let cluster_id = self.running.get().and_then(|it| it.consensus.cluster_id().get());
        let cluster_id = cluster_id.map(format_cluster_id).unwrap_or_default();
        out.family(&catalog::NODE).value(&[&self.node_id.to_string(), &cluster_id], 1);
        let mut ready = out.family(&catalog::READY);
        for (name, why) in self.checks() {
            ready.value(&[name], u8::from(why.is_none()));
        }
        let seconds = |ms: u64| ms as f64 / 1e3;
        out.single(&catalog::WALL_CLOCK, seconds(self.clock.wall_ms()));
        out.single(&catalog::START_TIME, seconds(self.started_at_ms));
        if let Some(usage) = self.threads.usage() {
            out.single(&catalog::CPU, usage.cpu_seconds);
            out.single(&catalog::MEMORY, usage.resident_bytes);
            out.single(&catalog::OPEN_FILES, usage.open_files);
            out.single(&catalog::MAX_FILES, usage.open_files_max);
        }
    }
}

impl Running {
    /// What is read when it is asked for.
    fn write(&self, out: &mut Exposition) {
        let Running { consensus, report, reserve_bytes } = self;
        out.single(&catalog::CLIENT_CONNECTIONS, report.slots.used());
        out.single(&catalog::CLIENT_CONNECTIONS_MAX, report.slots.max());
        out.single(&catalog::CLIENT_CONNECTIONS_REFUSED, report.slots.refused());
        let (used, max) = consensus.writes_in_flight();
        out.single(&catalog::PROPOSALS_WAITING, consensus.proposals_waiting());
        out.single(&catalog::WRITES_IN_FLIGHT, used);
        out.single(&catalog::WRITES_IN_FLIGHT_MAX, max);
        self.write_consensus(out);
        self.write_tables(out);
        let state = &report.state;
        let snapshot = state.current_snapshot();
        out.single(&catalog::LOG_BYTES, report.log.disk_bytes());
        out.single(&catalog::STATE_BYTES, state.size_bytes().unwrap_or(0));
        out.single(&catalog::SNAPSHOT_BYTES, snapshot.as_ref().map_or(0, |built| built.size));
        let index = snapshot.as_ref().map_or(0, |built| built.last_log_id.index);
        out.single(&catalog::SNAPSHOT_INDEX, index);
        out.single(&catalog::DIRTY_BYTES, state.dirty_bytes());
        out.single(&catalog::DISK_FREE, report.guard.free_bytes());
        out.single(&catalog::DISK_RESERVE, reserve_bytes);
        out.single(&catalog::DISK_NEARLY_FULL, u8::from(consensus.disk_nearly_full()));
    }

    fn write_consensus(&self, out: &mut Exposition) {
        let consensus = &self.consensus;
        let applied = consensus.state().applied().map_or(0, |applied| applied.index);
        let Outlook { leads, leader, term, commit_index, voters, peers } =
            consensus.leadership().outlook();
        out.single(&catalog::IS_LEADER, u8::from(leads));
        out.single(&catalog::LEADER_ID, leader.unwrap_or(0));
        out.single(&catalog::HAS_QUORUM, u8::from(!consensus.quorum_lost()));
        out.single(&catalog::TERM, term);
        out.single(&catalog::VOTERS, voters);
        out.single(&catalog::COMMIT_INDEX, commit_index);
        out.single(&catalog::APPLIED_INDEX, applied);
        out.single(&catalog::APPLY_LAG, commit_index.saturating_sub(applied));
        let mut lag = out.family(&catalog::PEER_LAG);
        for peer in &peers {
            lag.value(&[&peer.id.to_string()], peer.lag_entries);
        }
        let mut silence = out.family(&catalog::PEER_SILENCE);
        for peer in &peers {
            if let Some(heard) = peer.silence {
                silence.value(&[&peer.id.to_string()], heard.as_secs_f64());
            }
        }
        let mut age = out.family(&catalog::READ_PROOF_AGE);
        if let Some(ms) = consensus.reads().staleness_ms() {
            age.value(&[], Duration::from_millis(ms).as_secs_f64());
        }
    }

    fn write_tables(&self, out: &mut Exposition) {
        let meta = query::meta(&self.consensus.state().view());
        out.single(&catalog::SESSIONS, meta.sessions);
        out.single(&catalog::SESSIONS_MAX, meta.settings.sessions_max);
        out.single(&catalog::SESSION_ANSWERS, meta.session_answers);
        out.single(&catalog::SESSION_ANSWER_BYTES, meta.session_answer_bytes);
        out.single(&catalog::KEYS, meta.idempotency_keys);
        out.single(&catalog::KEYS_SIZE, meta.idempotency_bytes);
        out.single(&catalog::KEYS_MAX, meta.settings.idempotency_bytes_max);
        out.single(&catalog::COUNTERS, meta.counters);
        out.single(&catalog::STORED_KEYS, meta.keys);
    }
}

impl Pages for Eyes {
    fn page(&self, asked: &Asked) -> Page {
        let verbose = asked
            .query
            .split('&')
            .any(|word| matches!(word, "verbose" | "verbose=true" | "verbose=1"));
        match &*asked.path {
            "/metrics" => self.metrics(Format::asked(&asked.accept)),
            // That it is answered at all is the answer.
            "/livez" => Page::text(StatusCode::OK, "alive\n"),
            "/readyz" => self.readiness(verbose),
            _ => Page::text(
                StatusCode::NOT_FOUND,
                format!("there is no such page; these are:\n{HELP}"),
            ),
        }
    }
}
