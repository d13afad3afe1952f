//! The composition root: one node, from its configuration and its environment.
//!
//! ```text
//!            Identity ─ whose directory is this
//!            Wal ───── log and vote           ┐ storage
//!            StateStore ─ state and snapshots ┘
//!   Peers, Greeter, PeerService (peer port)
//!            Raft over log_store, apply, peer::network
//!            Consensus (tasks around it)
//!            Api (client port)
//! ```
//!
//! Leaves out what a node that runs is asked (`node/running`), what ties log and state to each other
//! (`node/stored`), how it meets its peers (`node/peering`), and what it says until then (`node/starting`). Production and simulation call the same
//! [`Node::start`]; they differ in their [`Env`] only.

mod beside;
mod console;
mod diagnosis;
mod error;
mod eyes;
mod moves;
mod peering;
mod quotas;
pub mod recover;
mod report;
mod running;
mod starting;
mod stored;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};
use tonic::service::Routes;

pub use self::error::{NodeError, system_error_needs_a_person};
use self::{
    beside::{follow_cluster_id, hand_over_when_full},
    diagnosis::Teller,
    eyes::{Eyes, EyesPort},
    peering::{Met, Newcomer},
    quotas::watch_quotas,
    report::Report,
    starting::{Starting, WaitingPort},
    stored::Stored,
};
use crate::{
    api::{self, Api, NodeFacts, rates::Rates},
    audit::{self, AuditLog},
    backup::{directory::Directory, schedule, store::InStore},
    config::{Config, HotItemNames, UpgradeFinalize},
    consensus::{
        Consensus, Foundation,
        apply::{self, StateMachine, Versions},
        compare::Comparisons,
        first_token::{self, FirstToken},
        log_store::LogStore,
        raft::Raft,
        raft_config::raft_config,
        sending::Sending,
        snapshots::{self, SnapshotBuilds},
        tables, tasks,
        traced::TracedEntries,
        types::Member,
    },
    env::{
        Env, identity::Identity, shares::ShareRule, storage_guard::StorageGuard, traces::Tracer,
    },
    metrics::{Metrics, hot::Names},
    peer::{hello::NotWelcome, network::NetworkFactory, peers::Peers},
    port::{Entrance, Slots, room::NodeRoom},
    status::{OwnStatus, SelfReport},
    storage::{state::StateStore, wal::SpaceState},
    tls::{self, Tls},
};

/// Logs of its parts have its name too: one filter finds them all, and traces of a seed can be compared
/// wherever a line is written.
const LOGS: &str = module_path!();

/// A running node.
#[derive(Debug)]
pub struct Node {
    consensus: Consensus,
    peers: Peers,
    api: Api,
    state: Arc<StateStore>,
    client_address: String,
    peer_address: String,
    stop: watch::Sender<bool>,
    stop_peers: watch::Sender<bool>,
    client_server: JoinHandle<()>,
    peer_server: JoinHandle<()>,
    metrics: Arc<Metrics>,
    eyes: EyesPort,
    console_address: Option<String>,
    slots: Arc<Slots>,
    room: Arc<NodeRoom>,
    audit: Option<Arc<AuditLog>>,
    tasks: Vec<JoinHandle<()>>,
    refused: mpsc::Receiver<NotWelcome>,
    shutdown_grace: Duration,
}

impl Node {
    /// Starts a node. When this returns it answers on both ports; it may still look for a leader.
    pub async fn start(config: Config, env: Env) -> Result<Node, NodeError> {
        let starting = Starting::new(config.node_id);
        let started = Instant::now();
        let metrics = Metrics::new(config.slow_operation_ms, names(config.hot_item_names));
        let tls = Tls::open(&tls_settings(&config), &env.clock)?;
        let audit = open_audit_log(&config, &env)?;
        let (eyes, eyes_port) = Eyes::open(
            &config,
            &env,
            Arc::clone(&metrics),
            Arc::clone(&starting),
            tls.client(),
            audit.clone(),
        )
        .await;
        let waiting_port =
            WaitingPort::open(&config, &env, Arc::clone(&starting), tls.client(), audit.clone());
        let (incarnation, nonce) = (env.random.next_u128(), env.random.next_u128());
        let identity = Identity::open(Arc::clone(&env.disk), config.node_id, incarnation).await?;
        identity.check_version(env.formats).await?;
        let identity = Arc::new(identity);

        starting.goes_on("it waits for room on its disk");
        let reserve_bytes = config.disk_reserve();
        let guard =
            StorageGuard::open(Arc::clone(&env.disk), reserve_bytes, config.log_segment_bytes)
                .await?;
        let local_reads_only = guard.flushes_may_fail();
        if local_reads_only {
            tracing::error!(
                free = guard.free_bytes(),
                reserve_bytes,
                "the disk is nearly full: local reads only, until there is room for the reserve"
            );
        }

        starting.goes_on("it reads its log and its state");
        let Stored { log, recovered, state, finished_recovery } =
            stored::open(&config, &env, &identity, nonce, &guard, &metrics.storage).await?;
        if let (true, Some(audit)) = (finished_recovery, &audit) {
            recover::told(audit, "finished", &identity.lost().await);
        }
        let flush_interval = Duration::from_millis(config.flush_interval_ms);
        let (snapshot_requests, upkeep) = state.upkeep(flush_interval);
        let flush_guard = Arc::clone(&guard);
        let may_begin = async move {
            if local_reads_only {
                flush_guard.wait_held().await;
            }
        };
        env.threads.run_blocking("tally-state", Box::pin(upkeep.run(may_begin)));

        let election_timeout_max = Duration::from_millis(config.election_timeout_ms_max);
        let started_empty = recovered.last.is_none() && state.applied().is_none();
        let comparisons = Comparisons::open(config.node_id, Arc::clone(&env.disk)).await?;
        let newcomer = Newcomer {
            identity: &identity,
            log: &log,
            state: &state,
            comparisons: &comparisons,
            started_empty,
        };
        let Met {
            peers,
            cluster_id,
            greeter,
            members,
            service,
            peer_address,
            peer_server,
            stop_peers,
            greeting,
            refused,
            clients_max,
        } = peering::meet(&config, &env, newcomer, &starting, tls.peer(), audit.clone()).await?;
        let mut running = vec![greeting, tokio::spawn(Arc::clone(&tls).watch())];
        let (stop, stopped) = watch::channel(false);
        let appended_bytes = Arc::new(AtomicU64::new(0));
        let (applied_sender, applied) = watch::channel(0);
        let applied_seen = applied.clone();
        let tracer = Tracer::new(env.traces.clone());
        let traced = TracedEntries::new(tracer.clone());
        let machine = StateMachine::new(apply::Foundation {
            state: Arc::clone(&state),
            snapshots: snapshot_requests,
            applied: applied_sender,
            observer: env.observer.clone(),
            traced: traced.clone(),
            metrics: Arc::clone(&metrics),
            cluster_id: cluster_id.clone(),
            comparisons: comparisons.clone(),
            last_in: Arc::clone(members.last_in()),
        })
        .with_versions(Versions { formats: env.formats, identity: Arc::clone(&identity) });
        #[cfg(feature = "seeded-bugs")]
        let machine = machine.with_applier(crate::consensus::kept::Applier {
            node_id: config.node_id,
            clock: Arc::clone(&env.clock),
        });
        let sending = Sending::new(env.observer.clone());
        let raft = start_raft(
            &config,
            &peers,
            sending.clone(),
            LogStore::new(
                log.clone(),
                Arc::clone(&state),
                Arc::clone(&appended_bytes),
                env.observer.clone(),
                traced,
            ),
            machine,
            comparisons.clone(),
            local_reads_only,
        )
        .await?;
        if started_empty && !greeter.has_met_a_cluster() {
            form_cluster(&config, &raft).await;
        }
        members.follow(raft.clone());

        let share = share_of(&config);
        let (disk_sender, disk_nearly_full) = watch::channel(!guard.is_held());
        let (snapshots, asked) = mpsc::channel(snapshots::ASKED_MAX);
        let consensus = Consensus::start(Foundation {
            snapshots,
            comparisons,
            sending: sending.clone(),
            raft: raft.clone(),
            state: Arc::clone(&state),
            applied,
            others: Arc::new(peers.clone()),
            cluster_id,
            clock: Arc::clone(&env.clock),
            observer: env.observer.clone(),
            fatal: Arc::clone(&env.fatal),
            election_timeout_max,
            entries_in_flight: config.entries_in_flight,
            writes_in_flight: config.writes_in_flight,
            write_bytes_in_flight: config.write_bytes_in_flight,
            share,
            disk_nearly_full: disk_nearly_full.clone(),
            tracer,
            metrics: Arc::clone(&metrics),
        });

        let slots = Slots::new(clients_max, share);
        let room = NodeRoom::new(share);
        let rates = Rates::new(config.limit_report_only);
        let backups = make_backups(&config, &env, &consensus, &stopped);
        let report = Arc::new(Report {
            backups,
            log: log.clone(),
            state: Arc::clone(&state),
            guard: Arc::clone(&guard),
            local_reads_only: AtomicBool::new(local_reads_only),
            slots: Arc::clone(&slots),
            tls: Arc::clone(&tls),
            audit: audit.clone(),
            room: Arc::clone(&room),
            rates: Arc::clone(&rates),
            consensus: consensus.clone(),
            share,
        });
        let space = log.space();
        let has_segment = move || *space.borrow() == SpaceState::Ok;
        let changed = Arc::clone(&state);
        let dirty_bytes = move || changed.unflushed_bytes();
        running.push(tokio::spawn(Arc::clone(&guard).watch(has_segment, dirty_bytes, disk_sender)));
        let hand_over = hand_over_when_full(consensus.clone(), disk_nearly_full.clone());
        running.push(tokio::spawn(hand_over));
        running.push(tokio::spawn(follow_cluster_id(
            consensus.clone(),
            identity,
            applied_seen,
            env.clone(),
        )));
        running.push(tokio::spawn(tasks::create_cluster(
            consensus.clone(),
            Arc::clone(&env.random),
            config.settings(),
            config.authentication.then(|| FirstToken {
                disk: Arc::clone(&env.disk),
                shown_path: config.data_dir.join(first_token::FILE).display().to_string(),
            }),
            Arc::clone(&env.fatal),
        )));
        running.push(tokio::spawn(tasks::tick(consensus.clone())));
        running.push(tokio::spawn(consensus.clone().heed_comparisons()));
        let compare_interval = Duration::from_millis(config.state_compare_interval_ms);
        running.push(tokio::spawn(consensus.clone().compare_replicas(compare_interval)));
        running.push(tokio::spawn(consensus.clone().end_open_changes()));
        if config.upgrade_finalize == UpgradeFinalize::Auto {
            running.push(tokio::spawn(consensus.clone().finalize_by_itself()));
        }
        let seen = Arc::clone(&report);
        let takes_part = move || !seen.local_reads_only.load(Ordering::Relaxed);
        running.push(tokio::spawn(consensus.clone().heed_drain(takes_part)));
        running.push(tokio::spawn(tables::watch(Arc::clone(&state))));
        running.push(tokio::spawn(watch_quotas(Arc::clone(&state), Arc::clone(&metrics))));
        let snapshots = SnapshotBuilds {
            raft: raft.clone(),
            node_id: config.node_id,
            appended_bytes,
            state: Arc::clone(&state),
            log: log.clone(),
            log_entries_kept: config.log_entries_kept,
            log_bytes_kept: config.log_bytes_kept,
            sending,
            guard: Arc::clone(&guard),
            disk_nearly_full,
            after_bytes: config.snapshot_after_log_bytes,
            after_entries: config.snapshot_after_entries,
            asked,
        };
        running.push(tokio::spawn(snapshots.run()));

        waiting_port.close().await;
        let listener = listen(&env, "client_listen", &config.client_listen).await?;
        let client_address = listener.local_address();
        let own = Arc::new(OwnStatus {
            node_id: config.node_id,
            client_address: config.client_address(),
            peer_address: config.peer_address(),
            pid: env.threads.process_id(),
            report: Arc::clone(&report) as Arc<dyn SelfReport>,
            tells: Teller::new(
                &config,
                &env,
                Arc::clone(&report),
                consensus.clone(),
                peers.clone(),
                &eyes,
            ),
            consensus: consensus.clone(),
            started,
        });
        running.push(tokio::spawn(moves::watch(consensus.clone(), Arc::clone(&greeter))));
        let api = Api::new(
            consensus.clone(),
            NodeFacts {
                own: Arc::clone(&own),
                sessions_share_percent: config.sessions_share_percent,
                authentication: config.authentication,
                rates,
                random: Arc::clone(&env.random),
                threads: Arc::clone(&env.threads),
                greeter,
                audit: audit.clone(),
                stopping: stopped.clone(),
                metrics: Arc::clone(&metrics),
            },
        );
        eyes.run(eyes::Running {
            consensus: consensus.clone(),
            report: Arc::clone(&report),
            reserve_bytes,
            api: api.clone(),
        });
        let operates = Arc::new(api.clone());
        if local_reads_only {
            running.push(tokio::spawn(async move {
                guard.wait_held().await;
                tracing::info!("there is room for the reserve again: the node takes part");
                report.local_reads_only.store(false, Ordering::Relaxed);
                service.take_part(own, operates);
                raft.runtime_config().elect(true);
            }));
        } else {
            service.take_part(own, operates);
        }
        let parts = console::Parts {
            api: api.clone(),
            room: Arc::clone(&room),
            tls: tls.client(),
            audit: audit.clone(),
            stopped: stopped.clone(),
        };
        let (console_address, console) = console::open(&config, &env, parts).await.unzip();
        running.extend(console);
        let (health, health_service) = tonic_health::server::health_reporter();
        let routes = Routes::new(health_service);
        let client_server = tokio::spawn(api::server::serve(
            api.clone(),
            Entrance { listener, tls: tls.client() },
            health,
            routes,
            Arc::clone(&slots),
            Arc::clone(&room),
            stopped,
        ));

        Ok(Node {
            consensus,
            peers,
            api,
            state,
            client_address,
            peer_address,
            stop,
            stop_peers,
            client_server,
            peer_server,
            metrics,
            eyes: eyes_port,
            console_address,
            slots,
            room,
            audit,
            tasks: running,
            refused,
            shutdown_grace: Duration::from_millis(config.shutdown_grace_ms),
        })
    }
}

/// What one client may have of a node's room.
fn share_of(config: &Config) -> ShareRule {
    ShareRule { percent: config.limit_share_percent, report_only: config.limit_report_only }
}

fn names(shown: HotItemNames) -> Names {
    match shown {
        HotItemNames::Off => Names::Off,
        HotItemNames::Hashed => Names::Hashed,
        HotItemNames::Shown => Names::Shown,
    }
}

/// What the configuration says of TLS.
fn tls_settings(config: &Config) -> tls::Settings {
    tls::Settings {
        node_id: config.node_id,
        cluster_name: config.cluster_name.clone(),
        client: tls::Files {
            certificate: config.client_tls_cert_file.clone(),
            key: config.client_tls_key_file.clone(),
            ca: config.client_tls_ca_file.clone(),
        },
        peer: tls::Files {
            certificate: config.peer_tls_cert_file.clone(),
            key: config.peer_tls_key_file.clone(),
            ca: config.peer_tls_ca_file.clone(),
        },
    }
}

/// The audit log, if there is to be one.
fn open_audit_log(config: &Config, env: &Env) -> Result<Option<Arc<AuditLog>>, NodeError> {
    if config.audit_log_file.as_os_str().is_empty() {
        return Ok(None);
    }
    let settings = audit::Settings {
        file: config.audit_log_file.clone(),
        file_bytes: config.audit_log_file_bytes,
        files: config.audit_log_files,
        reads: config.audit_log_reads,
        must_not_drop: config.audit_log_must_not_drop,
    };
    AuditLog::open(settings, config.node_id, Arc::clone(&env.clock), &*env.threads)
        .map(Some)
        .map_err(NodeError::AuditLog)
}

/// Begins to make backups into a directory or an object store, if there is one.
fn make_backups(
    config: &Config,
    env: &Env,
    consensus: &Consensus,
    stopped: &watch::Receiver<bool>,
) -> Option<Arc<schedule::Told>> {
    let destination: Box<dyn schedule::Destination> =
        match config.backup_store().expect("the configuration was checked") {
            Some(store) => {
                // The thread that makes backups has no I/O of its own.
                let runtime = Handle::current();
                let open = Arc::new(move || store.open(&runtime));
                Box::new(InStore { open, location: config.backup_to.clone() })
            }
            None if config.backup_dir.as_os_str().is_empty() => return None,
            None => Box::new(Directory(config.backup_dir.clone())),
        };
    let settings = schedule::Settings {
        interval: Duration::from_millis(config.backup_interval_ms),
        kept: config.backups_kept,
        node_id: config.node_id,
    };
    let told = Arc::<schedule::Told>::default();
    let (consensus, stopped) = (consensus.clone(), stopped.clone());
    let making = schedule::run(settings, destination, consensus, Arc::clone(&told), stopped);
    env.threads.run_blocking("tally-backups", Box::pin(making));
    Some(told)
}

async fn listen(
    env: &Env,
    key: &'static str,
    address: &str,
) -> Result<Box<dyn crate::env::Listener>, NodeError> {
    env.network.listen(address).await.map_err(|error| NodeError::Listen {
        key,
        address: address.to_owned(),
        error,
    })
}

async fn start_raft(
    config: &Config,
    peers: &Peers,
    sending: Sending,
    log: LogStore,
    machine: StateMachine,
    comparisons: Comparisons,
    local_reads_only: bool,
) -> Result<Raft, NodeError> {
    let wrong = |error: &dyn std::fmt::Display| NodeError::Raft(error.to_string());
    let raft_config = raft_config(config, !local_reads_only);
    let raft_config = Arc::new(raft_config.validate().map_err(|error| wrong(&error))?);
    let append_timeout = Duration::from_millis(config.election_timeout_ms_max.saturating_mul(4));
    let purged_log = log.log().clone();
    let purged = Arc::new(move || purged_log.purged().map(|purged| purged.index));
    let network = NetworkFactory::new(peers.clone(), purged, append_timeout, comparisons, sending);
    Raft::new(config.node_id, raft_config, network, log, machine)
        .await
        .map_err(|error| wrong(&error))
}

/// Writes the first entry of a cluster that is being formed.
///
/// Every first member writes the same one, so it does not matter who is first. One that was already
/// reached by a leader has a log, and is told so here.
async fn form_cluster(config: &Config, raft: &Raft) {
    let first = config.initial_cluster.0.iter();
    let members: BTreeMap<u64, Member> =
        first.map(|(id, address)| (*id, Member { peer_address: address.clone() })).collect();
    if members.is_empty() {
        return;
    }
    if let Err(error) = raft.initialize(members).await {
        tracing::info!(%error, "the cluster is formed already");
    }
}
