//! The metrics port: what it answers at `/metrics`, `/livez`, `/readyz` and `/log-filter`, and to whom, from the moment
//! a node begins to start until it has stopped.
//!
//! A port that can't be opened is warned of and missed, no more: a node is there to serve, and whoever watches
//! it sees that it is not to be seen.

mod export;
mod recorded;

use std::{
    fmt::Write as _,
    sync::{Arc, OnceLock, atomic::AtomicU64},
    time::Duration,
};

use async_trait::async_trait;
use http::{Method, StatusCode, header};
use tokio::{sync::watch, task::JoinHandle};

use super::{LOGS, listen, report::Report, starting::Starting};
use crate::{
    api::{
        Api,
        starting::Waits,
        who::{Asks, NotAllowed},
    },
    audit::{AuditLog, Line},
    config::{Config, is_loopback},
    consensus::Consensus,
    env::{Clock, Env, Logs, Threads},
    metrics::{Metrics, text::Format},
    port::plain::{self, Asked, Gate, Page, Pages},
    tls::Secured,
};

/// A proof of currency that is older says that linearizable reads do not work: the probe behind gRPC's health asks for
/// one every 400 ms (`api::server`), and goes by the same age.
const PROOF_AGE_MAX: Duration = Duration::from_millis(1000);

const HELP: &str = "/metrics         what is measured (docs/metrics.md)\n\
                    /livez           200 while the process runs\n\
                    /readyz          200 if the node can do all it is there for, else 503 with the reasons\n\
                    /readyz?verbose  all checks\n\
                    /log-filter      what is logged; PUT changes it\n";

/// How much of the checks is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    None,
    Reasons,
    All,
}

/// What the port looks at.
pub(super) struct Eyes {
    metrics: Arc<Metrics>,
    starting: Arc<Starting>,
    node_id: u64,
    clock: Arc<dyn Clock>,
    threads: Arc<dyn Threads>,
    logs: Option<Arc<dyn Logs>>,
    started_at_ms: u64,
    /// Only who is on this machine reaches the port.
    on_loopback: bool,
    audit: Option<Arc<AuditLog>>,
    running: OnceLock<Running>,
    last_scrape_ns: AtomicU64,
}

/// What a node has that takes part.
pub(super) struct Running {
    pub(super) consensus: Consensus,
    pub(super) report: Arc<Report>,
    pub(super) reserve_bytes: u64,
    pub(super) api: Api,
}

/// The open port.
pub(super) struct EyesPort {
    /// Held by the node: what is told on its other ports comes from here as well, with this port or without.
    _eyes: Arc<Eyes>,
    address: Option<String>,
    stop: watch::Sender<bool>,
    serving: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for EyesPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EyesPort").field("address", &self.address).finish_non_exhaustive()
    }
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
        tls: Option<Arc<Secured>>,
        audit: Option<Arc<AuditLog>>,
    ) -> (Arc<Eyes>, EyesPort) {
        let on_loopback = is_loopback(&config.metrics_listen);
        let eyes = Arc::new(Eyes {
            metrics,
            starting,
            node_id: config.node_id,
            clock: Arc::clone(&env.clock),
            threads: Arc::clone(&env.threads),
            logs: env.logs.clone(),
            started_at_ms: env.clock.wall_ms(),
            on_loopback,
            audit: audit.clone(),
            running: OnceLock::new(),
            last_scrape_ns: AtomicU64::new(0),
        });
        let (stop, stopped) = watch::channel(false);
        let mut port = EyesPort { _eyes: Arc::clone(&eyes), address: None, stop, serving: None };
        if config.metrics_listen.is_empty() {
            return (eyes, port);
        }
        match listen(env, "metrics_listen", &config.metrics_listen).await {
            Ok(listener) => {
                port.address = Some(listener.local_address());
                let pages = Arc::clone(&eyes) as Arc<dyn Pages>;
                let connections_max = env.network.sockets().metrics_max;
                let tls = tls.filter(|_| !on_loopback);
                let share = super::share_of(config);
                let gate = Gate { port: "metrics", listener, tls, connections_max, share, audit };
                port.serving = Some(tokio::spawn(plain::serve(pages, gate, stopped)));
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
                    "for two election timeouts no leader, or no majority that stores what is written, has been heard of"
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

    fn readiness(&self, detail: Detail) -> Page {
        let checks = self.checks();
        let is_ready = checks.iter().all(|(_, why)| why.is_none());
        let mut body = String::new();
        for (name, why) in &checks {
            match why {
                Some(why) if detail != Detail::None => drop(writeln!(body, "[-] {name}: {why}")),
                None if detail == Detail::All => drop(writeln!(body, "[+] {name}")),
                _ => {}
            }
        }
        body.push_str(if is_ready { "ready\n" } else { "not ready\n" });
        let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        Page::text(status, body)
    }
}

/// Who may have what.
impl Eyes {
    /// Whether somebody may see more than whether the node is well, or change something. On loopback everybody may
    /// see: who is on the machine sees its processes too. To change something takes the right to, or, where nobody is
    /// asked who he is, to be on the machine. A change is recorded, and whoever is refused for who it is.
    async fn may(&self, asked: &Asked, changes: bool) -> Result<(), Page> {
        let mut recorded = self.record(asked, changes)?;
        let allowed = self.decide(asked, changes, recorded.as_mut()).await;
        if let Some(line) = recorded {
            recorded::write(line, changes, allowed.as_ref().err());
        }
        allowed
    }

    async fn decide(
        &self,
        asked: &Asked,
        changes: bool,
        line: Option<&mut Line>,
    ) -> Result<(), Page> {
        if self.on_loopback && !changes {
            return Ok(());
        }
        let Some(Running { api, .. }) = self.running.get() else {
            let why = "the node has not read its state yet, and so can't know who may\n";
            return Err(Page::text(StatusCode::SERVICE_UNAVAILABLE, why));
        };
        match api.may_watch(&asked.headers, asked.caller.as_ref(), changes, line).await {
            Ok(Asks::WhoItIs) => Ok(()),
            Ok(Asks::Nobody)
                if !changes || (self.on_loopback && asked.host().is_some_and(is_loopback)) =>
            {
                Ok(())
            }
            Ok(Asks::Nobody) => {
                let why = "without authentication this is for callers on the node's machine\n";
                Err(Page::text(StatusCode::FORBIDDEN, why))
            }
            Err(NotAllowed::Unknown(why)) => Err(Page::text(StatusCode::UNAUTHORIZED, why + "\n")),
            Err(NotAllowed::Denied(why)) => Err(Page::text(StatusCode::FORBIDDEN, why + "\n")),
        }
    }

    fn set_log_filter(&self, filter: &str) -> Page {
        let Some(logs) = &self.logs else { return no_logs() };
        let before = logs.filter();
        // Before it is so, as it may be the end of what is told.
        tracing::info!(target: LOGS, %before, now = filter, "the log filter is changed");
        match logs.set_filter(filter) {
            Ok(()) => Page::text(StatusCode::OK, format!("{filter}\n")),
            Err(wrong) => Page::text(StatusCode::BAD_REQUEST, format!("{wrong}\n")),
        }
    }

    /// Makes a page on a thread for what blocks, so that who scrapes holds up nobody who writes.
    async fn made(self: Arc<Self>, make: impl FnOnce(&Eyes) -> Page + Send + 'static) -> Page {
        let made = tokio::task::spawn_blocking(move || make(&self)).await;
        made.unwrap_or_else(|_| {
            Page::text(StatusCode::INTERNAL_SERVER_ERROR, "the page could not be made\n")
        })
    }
}

fn no_logs() -> Page {
    Page::text(StatusCode::NOT_FOUND, "the logs of this node are somebody else's\n")
}

#[async_trait]
impl Pages for Eyes {
    async fn page(self: Arc<Self>, asked: Asked) -> Page {
        let is_put = asked.method == Method::PUT;
        match (&*asked.path, is_put) {
            // That it is answered at all is the answer.
            ("/livez", false) => Page::text(StatusCode::OK, "alive\n"),
            ("/readyz", false) => {
                let verbose = asked
                    .query
                    .split('&')
                    .any(|word| matches!(word, "verbose" | "verbose=true" | "verbose=1"));
                let detail = match self.may(&asked, false).await {
                    Ok(()) if verbose => Detail::All,
                    Ok(()) => Detail::Reasons,
                    Err(_) => Detail::None,
                };
                self.made(move |eyes| eyes.readiness(detail)).await
            }
            ("/metrics", false) => match self.may(&asked, false).await {
                Ok(()) => {
                    let accept = asked.headers.get(header::ACCEPT);
                    let accept = accept.and_then(|value| value.to_str().ok()).unwrap_or_default();
                    let format = Format::asked(accept);
                    self.made(move |eyes| eyes.metrics(format)).await
                }
                Err(refused) => refused,
            },
            ("/log-filter", is_put) => match self.may(&asked, is_put).await {
                Ok(()) if is_put => self.set_log_filter(asked.body.trim()),
                Ok(()) => match &self.logs {
                    Some(logs) => Page::text(StatusCode::OK, format!("{}\n", logs.filter())),
                    None => no_logs(),
                },
                Err(refused) => refused,
            },
            ("/livez" | "/readyz" | "/metrics", true) => {
                Page::text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n")
            }
            _ => Page::text(
                StatusCode::NOT_FOUND,
                format!("there is no such page; these are:\n{HELP}"),
            ),
        }
    }
}
