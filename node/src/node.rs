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
//! Production and simulation call the same [`Node::start`]; they differ in their
//! [`Env`] only.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tally_proto::seeded_bugs;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};
use tonic::service::Routes;

use crate::{
    api::{self, Api, NodeFacts},
    config::Config,
    consensus::{
        Consensus, Foundation,
        apply::StateMachine,
        cluster_id::{ClusterId, format_cluster_id},
        log_store::LogStore,
        raft::Raft,
        raft_config::raft_config,
        snapshots::SnapshotBuilds,
        tables, tasks,
        types::Member,
    },
    env::{
        Env, Event, Observer, descriptors,
        identity::{Identity, IdentityError},
        storage_guard::StorageGuard,
    },
    machine::query,
    peer::{
        self,
        hello::{self, Admission, Greeter, NotWelcome, Roster},
        network::NetworkFactory,
        peers::Peers,
        roster::Members,
        service::PeerService,
    },
    port::{Slots, room::NodeRoom},
    status::{OwnStatus, SelfReport},
    storage::{
        snapshot::reader::SnapshotError,
        state::{LogExtent, StateError, StateHooks, StateOptions, StateStore},
        wal::{self, SpaceState, Wal, WalError, WalOptions},
    },
};

/// How long a shutdown waits for peers to close their connections, which they seldom do.
const PEER_PORT_GRACE: Duration = Duration::from_millis(20);

/// Why a node does not start, or stops.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory is not this node's to use.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log can't be used.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The state can't be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The peers do not want this node.
    #[error(transparent)]
    NotWelcome(#[from] NotWelcome),
    /// A port can't be listened on.
    #[error("can't listen on {address} ({key}): {error}")]
    Listen {
        /// The configuration's key.
        key: &'static str,
        /// The address.
        address: String,
        /// Why not.
        error: io::Error,
    },
    /// Consensus does not start.
    #[error("consensus does not start: {0}")]
    Raft(String),
    /// The disk can't be read.
    #[error("the data directory: {0}")]
    Io(#[from] io::Error),
}

impl NodeError {
    /// Whether only a person can mend it. Else the system failed in a way that may be over at the next
    /// start (an I/O error, a full disk, no descriptors left).
    pub fn needs_a_person(&self) -> bool {
        let system = match self {
            NodeError::Identity(IdentityError::Io(error))
            | NodeError::Wal(WalError::Io { source: error, .. })
            | NodeError::State(
                StateError::Io { source: error, .. }
                | StateError::Snapshot(SnapshotError::Io { source: error, .. }),
            )
            | NodeError::Listen { error, .. }
            | NodeError::Io(error) => error,
            NodeError::State(StateError::Fatal(_)) | NodeError::Raft(_) => return false,
            NodeError::Identity(_)
            | NodeError::Wal(_)
            | NodeError::State(_)
            | NodeError::NotWelcome(_) => return true,
        };
        system_error_needs_a_person(system)
    }
}

/// The same of an error of the system: a path, an address or a permission that is wrong stays wrong.
pub fn system_error_needs_a_person(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::AddrInUse
            | io::ErrorKind::ResourceBusy
            | io::ErrorKind::AddrNotAvailable
    )
}

/// With room for fewer connections of clients than this a node says so when it starts.
const CLIENT_CONNECTIONS_FEW: usize = 500;

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
    slots: Arc<Slots>,
    room: Arc<NodeRoom>,
    tasks: Vec<JoinHandle<()>>,
    refused: mpsc::Receiver<NotWelcome>,
    shutdown_grace: Duration,
}

impl Node {
    /// Starts a node. When this returns it answers on both ports; it may still look for a leader.
    pub async fn start(config: Config, env: Env) -> Result<Node, NodeError> {
        let (incarnation, nonce) = (env.random.next_u128(), env.random.next_u128());
        let identity = Identity::open(Arc::clone(&env.disk), config.node_id, incarnation).await?;
        let identity = Arc::new(identity);

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

        let mut options = WalOptions::new(env.random.next_u128() as u64);
        options.segment_bytes = config.log_segment_bytes;
        options.cache_bytes = usize::try_from(config.log_cache_bytes).unwrap_or(usize::MAX);
        // As many as a snapshot gives up, which is as many as the log needs until the next one: a
        // new segment is written twice, and first with zeros. The disk holds no more by this than it
        // did right before the snapshot.
        let segments = config.snapshot_after_log_bytes.div_ceil(config.log_segment_bytes);
        options.spare_segments = usize::try_from(segments).unwrap_or(usize::MAX);
        options.owner = Some(identity.incarnation_number()?);
        if !seeded_bugs::is_on("lost-log-accepted") {
            options.sequence_min = identity.log_sequence().await;
        }
        let opened = Wal::open(Arc::clone(&env.disk), options, Arc::clone(&env.fatal)).await?;
        let (log, writer, recovered) = opened;
        env.threads.run_blocking("tally-log", Box::pin(writer.run()));
        if let Some(observer) = &env.observer {
            tell_what_was_found(observer.as_ref(), &log, &recovered).await?;
        }

        let (hooks_log, hooks_guard) = (log.clone(), Arc::clone(&guard));
        let room_guard = Arc::clone(&guard);
        let (jumping_log, jumps_seen_by) = (log.clone(), env.observer.clone());
        let measured: Arc<OnceLock<Weak<StateStore>>> = Arc::default();
        let hooks_state = Arc::clone(&measured);
        let hooks = StateHooks {
            wait_log_synced: Arc::new(move |index| {
                let log = hooks_log.clone();
                Box::pin(async move { log.wait_synced(index).await })
            }),
            room_to_flush: Arc::new(move || {
                let guard = Arc::clone(&hooks_guard);
                let state = hooks_state.get().and_then(Weak::upgrade);
                Box::pin(async move {
                    let state_bytes = state.and_then(|state| state.size_bytes().ok());
                    guard.make_room_to_flush(state_bytes).await
                })
            }),
            room_for: Arc::new(move |bytes| {
                let guard = Arc::clone(&room_guard);
                Box::pin(async move { guard.has_room_for(bytes).await })
            }),
            log_reaches: Arc::new(move |log_id| {
                let (log, observer) = (jumping_log.clone(), jumps_seen_by.clone());
                Box::pin(async move { reach(&log, log_id.into(), observer.as_deref()).await })
            }),
            fatal: Arc::clone(&env.fatal),
        };
        let options = StateOptions {
            dirty_bytes_max: usize::try_from(config.dirty_bytes_max).unwrap_or(usize::MAX),
            record_cache_bytes: config.record_cache_bytes(),
            hash_seed: env.random.next_u128() as u64,
        };
        let state = StateStore::open(
            Arc::clone(&env.disk),
            Arc::clone(&env.stores),
            options,
            hooks,
            LogExtent {
                purged: recovered.purged.map(Into::into),
                last: recovered.last.map(Into::into),
            },
        )
        .await?;
        // Log and state fit each other: a run begins.
        identity.begin_run(recovered.next_sequence, nonce).await?;
        measured.get_or_init(|| Arc::downgrade(&state));
        if let Some(applied) = state.applied() {
            // What the state has applied is committed, so where the log has another entry it gives way.
            reach(&log, applied.into(), env.observer.as_deref()).await?;
        }
        let mut running = Vec::new();
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
        let network = Arc::clone(&env.network);
        let incarnation = identity.incarnation();
        let cluster_id = ClusterId::default();
        let connect_timeout = election_timeout_max;
        let peers =
            Peers::new(config.node_id, incarnation, network, connect_timeout, cluster_id.clone());
        for (id, incarnation) in identity.known().await {
            peers.set_incarnation(id, &incarnation);
        }
        learn_known_cluster(&cluster_id, &identity, &state).await?;

        let started_empty = recovered.last.is_none() && state.applied().is_none();
        let greeter = Greeter::new(hello::Foundation {
            identity: Arc::clone(&identity),
            peers: peers.clone(),
            log: log.clone(),
            client_address: config.client_address(),
            admission: admission(&config, started_empty),
        });
        let members = Members::new(config.initial_cluster.0.clone(), Arc::clone(&state));
        greeter.set_roster(Arc::clone(&members) as Arc<dyn Roster>);

        let (stop, stopped) = watch::channel(false);
        let service = PeerService::new(Arc::clone(&greeter));
        let listener = listen(&env, "peer_listen", &config.peer_listen).await?;
        let peer_address = listener.local_address();
        let (stop_peers, peers_stopped) = watch::channel(false);
        let sockets = env.network.sockets();
        if sockets.clients_max < CLIENT_CONNECTIONS_FEW {
            tracing::warn!(
                clients_max = sockets.clients_max,
                wanted = descriptors::ENOUGH + CLIENT_CONNECTIONS_FEW,
                "few file descriptors: raise the limit on open files of this process, or a snapshot \
                 may not be installed, and few clients can connect"
            );
        }
        let peer_server = tokio::spawn(peer::server::serve(
            service.clone(),
            listener,
            Arc::clone(&env.clock),
            Slots::new(sockets.peers_max),
            peers_stopped,
        ));

        let (refuse, mut refused) = mpsc::channel(1);
        running.push(tokio::spawn(Arc::clone(&greeter).run(election_timeout_max, move |reason| {
            drop(refuse.try_send(reason));
        })));
        tokio::select! {
            biased;
            Some(reason) = refused.recv() => return Err(reason.into()),
            () = greeter.admitted() => {}
        }

        let appended_bytes = Arc::new(AtomicU64::new(0));
        let (applied_sender, applied) = watch::channel(0);
        let applied_seen = applied.clone();
        let machine = StateMachine::new(
            Arc::clone(&state),
            snapshot_requests,
            applied_sender,
            env.observer.clone(),
        );
        #[cfg(feature = "seeded-bugs")]
        let machine = machine.with_applier(crate::consensus::kept::Applier {
            node_id: config.node_id,
            clock: Arc::clone(&env.clock),
        });
        let raft = start_raft(
            &config,
            &peers,
            LogStore::new(
                log.clone(),
                Arc::clone(&state),
                Arc::clone(&appended_bytes),
                env.observer.clone(),
            ),
            machine,
            local_reads_only,
        )
        .await?;
        if started_empty && !greeter.has_met_a_cluster() {
            form_cluster(&config, &raft).await;
        }
        members.follow(raft.clone());

        let (disk_sender, disk_nearly_full) = watch::channel(!guard.is_held());
        let consensus = Consensus::start(Foundation {
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
            disk_nearly_full: disk_nearly_full.clone(),
        });

        let slots = Slots::new(sockets.clients_max);
        let report = Arc::new(Report {
            log: log.clone(),
            state: Arc::clone(&state),
            guard: Arc::clone(&guard),
            local_reads_only: AtomicBool::new(local_reads_only),
            slots: Arc::clone(&slots),
        });
        let space = log.space();
        let has_segment = move || *space.borrow() == SpaceState::Ok;
        running.push(tokio::spawn(Arc::clone(&guard).watch(has_segment, disk_sender)));
        running.push(tokio::spawn(hand_over_when_full(consensus.clone(), disk_nearly_full)));
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
        )));
        running.push(tokio::spawn(tasks::tick(consensus.clone())));
        running.push(tokio::spawn(tables::watch(Arc::clone(&state))));
        let snapshots = SnapshotBuilds {
            raft: raft.clone(),
            node_id: config.node_id,
            appended_bytes,
            state: Arc::clone(&state),
            log: log.clone(),
            log_bytes_kept: config.log_bytes_kept,
            guard: Arc::clone(&guard),
            after_bytes: config.snapshot_after_log_bytes,
            after_entries: config.snapshot_after_entries,
        };
        running.push(tokio::spawn(snapshots.run()));

        let listener = listen(&env, "client_listen", &config.client_listen).await?;
        let client_address = listener.local_address();
        let own = Arc::new(OwnStatus {
            node_id: config.node_id,
            client_address: config.client_address(),
            peer_address: config.peer_address(),
            pid: env.threads.process_id(),
            report: Arc::clone(&report) as Arc<dyn SelfReport>,
            consensus: consensus.clone(),
        });
        let api = Api::new(
            consensus.clone(),
            NodeFacts {
                own: Arc::clone(&own),
                sessions_share_percent: config.sessions_share_percent,
                greeter,
                stopping: stopped.clone(),
            },
        );
        if local_reads_only {
            running.push(tokio::spawn(async move {
                guard.wait_held().await;
                tracing::info!("there is room for the reserve again: the node takes part");
                report.local_reads_only.store(false, Ordering::Relaxed);
                service.take_part(own);
                raft.runtime_config().elect(true);
            }));
        } else {
            service.take_part(own);
        }
        let (health, health_service) = tonic_health::server::health_reporter();
        let routes = Routes::new(health_service);
        let room = NodeRoom::new();
        let client_server = tokio::spawn(api::server::serve(
            api.clone(),
            listener,
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
            slots,
            room,
            tasks: running,
            refused,
            shutdown_grace: Duration::from_millis(config.shutdown_grace_ms),
        })
    }

    /// Address that the client port listens on.
    pub fn client_address(&self) -> &str {
        &self.client_address
    }

    /// Address that the peer port listens on.
    pub fn peer_address(&self) -> &str {
        &self.peer_address
    }

    /// Consensus, for tests and simulations that look inside.
    pub fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// What is known of the other nodes, for tests and simulations that look inside.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// The operations, for callers in the same process.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Connections to the client port.
    pub fn client_connections(&self) -> usize {
        self.slots.used()
    }

    /// Bytes of clients' requests, and of answers to them, that are held now and are not small.
    pub fn held_bytes(&self) -> (usize, usize) {
        self.room.held_bytes()
    }

    /// Waits until peers refuse this node; never returns otherwise.
    pub async fn refused(&mut self) -> NotWelcome {
        match self.refused.recv().await {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// Stops in good order: new writes are refused, leadership goes to somebody else if possible,
    /// what is under way ends, the state is flushed.
    pub async fn shutdown(self) {
        let until = Instant::now() + self.shutdown_grace;
        self.consensus.refuse_writes();
        if self.consensus.leadership().term_as_leader().is_some() {
            let patience = until.saturating_duration_since(Instant::now()) / 2;
            match self.consensus.transfer_leader(None, patience).await {
                Ok(leader) => tracing::info!(leader, "handed leadership over"),
                Err(error) => tracing::info!(%error, "leadership was not handed over"),
            }
        }
        self.consensus.drain(until).await;
        tracing::debug!("no write is under way");
        let _ = self.stop.send(true);
        let mut client_server = self.client_server;
        if tokio::time::timeout_at(until, &mut client_server).await.is_err() {
            tracing::info!("calls that are under way are given up");
            client_server.abort();
        }
        tracing::debug!("the client port is closed");
        for task in &self.tasks {
            task.abort();
        }
        if self.consensus.raft().shutdown().await.is_err() {
            tracing::warn!("consensus did not end by itself");
        }
        // Only now: reads that are under way may wait for what the new leader sends. And not for
        // long, as peers keep their streams open for ever.
        let _ = self.stop_peers.send(true);
        let mut peer_server = self.peer_server;
        if tokio::time::timeout(PEER_PORT_GRACE, &mut peer_server).await.is_err() {
            peer_server.abort();
        }
        if let Err(error) = self.state.close().await {
            tracing::warn!(%error, "the state was not flushed; the log has what is missing");
        }
    }
}

/// Tells an observer what the log holds, so that it can be compared with what was promised.
async fn tell_what_was_found(
    observer: &dyn Observer,
    log: &Wal,
    recovered: &wal::Recovered,
) -> io::Result<()> {
    let (cut_bytes, vote, last) = (recovered.cut_bytes, recovered.vote, recovered.last);
    observer.observe(Event::LogOpened { cut_bytes, vote, last });
    for entry in log.read(log.first_index()..u64::MAX, usize::MAX).await? {
        let (term, index) = (entry.log_id.term, entry.log_id.index);
        observer.observe(Event::Found { term, index, payload: &entry.payload });
    }
    Ok(())
}

/// Makes the log reach a committed entry, durably: where it has another entry there, or none, it jumps.
async fn reach(log: &Wal, entry: wal::LogId, observer: Option<&dyn Observer>) -> io::Result<()> {
    let is_behind = log.purged().is_none_or(|purged| purged.index < entry.index);
    if is_behind && log.log_id(entry.index) != Some(entry) {
        tracing::info!(%entry, "the log goes on behind an entry that it does not have");
        if let Some(observer) = observer {
            observer.observe(Event::Purged { index: entry.index, jump: true });
        }
        log.purge(entry).await?;
    }
    // Also where it has the entry: others that conflict with it were truncated before.
    log.flush().await
}

/// When a node takes part.
fn admission(config: &Config, started_empty: bool) -> Admission {
    let first = &config.initial_cluster.0;
    if !started_empty {
        return Admission::WithData;
    }
    if first.is_empty() {
        return Admission::Joins;
    }
    let others: BTreeSet<u64> = first.keys().copied().filter(|id| *id != config.node_id).collect();
    // Itself and these make a majority.
    let majority = first.len() / 2;
    let without_all = config.form_without_all || seeded_bugs::is_on("wiped-majority-forms");
    let needed = if without_all { majority } else { others.len() };
    Admission::Forms { others, needed }
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

/// A restarted node knows its cluster from its own files.
async fn learn_known_cluster(
    cluster_id: &ClusterId,
    identity: &Identity,
    state: &StateStore,
) -> Result<(), NodeError> {
    let in_state = query::meta(&state.view()).cluster_id;
    if in_state != 0 {
        identity.learn_cluster(&format_cluster_id(in_state)).await?;
    }
    if let Some(known) = identity.cluster_id().await
        && let Ok(id) = u128::from_str_radix(&known, 16)
    {
        cluster_id.set(id);
    }
    Ok(())
}

async fn start_raft(
    config: &Config,
    peers: &Peers,
    log: LogStore,
    machine: StateMachine,
    local_reads_only: bool,
) -> Result<Raft, NodeError> {
    let wrong = |error: &dyn std::fmt::Display| NodeError::Raft(error.to_string());
    let raft_config = raft_config(config, !local_reads_only);
    let raft_config = Arc::new(raft_config.validate().map_err(|error| wrong(&error))?);
    let append_timeout = Duration::from_millis(4 * config.election_timeout_ms_max);
    let purged_log = log.log().clone();
    let purged = Arc::new(move || purged_log.purged().map(|purged| purged.index));
    let network = NetworkFactory::new(peers.clone(), purged, append_timeout);
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

/// Once the state knows the cluster's id, so do the peers' messages and the identity file.
async fn follow_cluster_id(
    consensus: Consensus,
    identity: Arc<Identity>,
    mut applied: watch::Receiver<u64>,
    env: Env,
) {
    loop {
        let cluster_id = query::meta(&consensus.state().view()).cluster_id;
        if cluster_id != 0 {
            consensus.cluster_id().set(cluster_id);
            let text = format_cluster_id(cluster_id);
            match identity.learn_cluster(&text).await {
                Ok(()) => return,
                Err(error @ IdentityError::AnotherCluster { .. }) => {
                    (env.fatal)(error.to_string());
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "the cluster id could not be stored yet");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            }
        }
        // A node that has applied something and does not know its cluster gives answers without a token.
        if applied.changed().await.is_err() {
            return;
        }
    }
}

/// Lets a leader whose disk is nearly full hand over. Once for each time that it gets full: where
/// every disk is full, leadership must not go round for ever.
async fn hand_over_when_full(consensus: Consensus, mut nearly_full: watch::Receiver<bool>) {
    while nearly_full.changed().await.is_ok() {
        let is_full = *nearly_full.borrow_and_update();
        if is_full && consensus.leadership().term_as_leader().is_some() {
            let handed = consensus.transfer_leader(None, Duration::from_secs(1)).await;
            tracing::info!(?handed, "a leader with a full disk hands over");
        }
    }
}

/// What the node says of itself.
struct Report {
    log: Wal,
    state: Arc<StateStore>,
    guard: Arc<StorageGuard>,
    local_reads_only: AtomicBool,
    slots: Arc<Slots>,
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

    fn local_reads_only(&self) -> Option<String> {
        self.local_reads_only.load(Ordering::Relaxed).then(|| {
            "it started on a disk without room for its reserve, and takes part again when there is"
                .to_owned()
        })
    }
}
