//! Real nodes in this process: real sockets, real files in temporary directories, the network
//! between them cuttable, and each in a runtime of its own, so that one can be killed.
//!
//! When a cluster is dropped it checks that no node panicked and that none wanted to end its
//! process, unless the test took those reasons first.

use std::{
    collections::BTreeMap,
    future::Future,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, Once, PoisonError,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tally_node::{
    config::{Config, InitialCluster},
    consensus::leader::Leader,
    env::Env,
    machine::version::FormatRange,
    node::{Node, NodeError},
    storage::{
        simulated_disk::{CrashMode, SimulatedDisk},
        simulated_store::SimulatedStores,
    },
};
use tokio::{runtime::Runtime, time::Instant};
use tonic::transport::{Channel, Endpoint};

use crate::{
    disk::{Gate, GaugedDisk},
    network::{CutNetwork, Switchboard},
};

/// Upper end of the election timeout in these tests.
pub(crate) const ELECTION_TIMEOUT_MAX: Duration = Duration::from_millis(450);

/// Within this time a node must say that there is no quorum: two election timeouts, and some room
/// for a busy machine.
pub(crate) const NO_QUORUM_WITHIN: Duration = Duration::from_millis(2 * 450 + 250);

/// A machine on which a sleeping task wakes this late says nothing of how long a node took.
pub(crate) const TOO_LATE_TO_JUDGE: Duration = Duration::from_millis(50);

/// Longest time that anything in these tests may take which must happen at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Panics on threads of nodes.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Names of the threads on which nodes run begin with one of these.
const NODE_THREADS: [&str; 2] = ["node-", "tally-"];

fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or_default();
            if NODE_THREADS.iter().any(|prefix| name.starts_with(prefix)) {
                PANICS.fetch_add(1, Ordering::SeqCst);
            }
            before(info);
        }));
    });
}

/// A port that nobody listens on. Below the range from which the system takes the ports of outgoing
/// connections, so that none of those gets it first.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 12_000 + u16::try_from(std::process::id() % 150).expect("below 150") * 120;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 1200;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// Some nodes.
pub(crate) struct Cluster {
    nodes: BTreeMap<u64, Member>,
    pub(crate) switchboard: Arc<Switchboard>,
    /// Removes the directories when it is dropped.
    _dir: tempfile::TempDir,
}

struct Member {
    config: Config,
    running: Option<Running>,
    free_bytes: Arc<Mutex<Option<u64>>>,
    syncs: Gate,
    fatal: Arc<Mutex<Vec<String>>>,
    /// In place of real files, where a test cuts the power.
    simulated: Option<Simulated>,
    /// Versions of the formats that it reads.
    formats: FormatRange,
}

impl Member {
    fn new(config: Config) -> Member {
        Member {
            config,
            running: None,
            free_bytes: Arc::default(),
            syncs: Gate::default(),
            fatal: Arc::default(),
            simulated: None,
            formats: FormatRange::OURS,
        }
    }
}

/// Storage that survives its node, and forgets what was not synced when the power is cut.
pub(crate) struct Simulated {
    pub(crate) disk: SimulatedDisk,
    pub(crate) stores: SimulatedStores,
}

/// A node and its runtime.
struct Running {
    node: Option<Node>,
    runtime: Option<Runtime>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Cluster {
    /// Nodes 1 to `size`, started, with a leader that each of them knows.
    pub(crate) async fn start(size: u64) -> Cluster {
        Self::start_with(size, |_| {}).await
    }

    /// … with another configuration.
    pub(crate) async fn start_with(size: u64, change: impl Fn(&mut Config)) -> Cluster {
        let mut cluster = Self::prepare(size, change);
        cluster.start_all().await;
        cluster
    }

    pub(crate) async fn start_all(&mut self) {
        let ids = self.ids();
        self.start_these(&ids).await;
    }

    /// Starts these nodes together.
    pub(crate) async fn start_these(&mut self, ids: &[u64]) {
        let mut starting = Vec::new();
        for id in ids.iter().copied() {
            starting.push((id, self.launch(id)));
        }
        for (id, launched) in starting {
            let node = launched.await.expect("the node starts");
            self.adopt(id, node);
        }
        self.settled().await;
    }

    /// Configured, not started.
    pub(crate) fn prepare(size: u64, change: impl Fn(&mut Config)) -> Cluster {
        count_panics();
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let switchboard = Arc::new(Switchboard::default());
        let peers: BTreeMap<u64, String> = (1..=size).map(|id| (id, free_address())).collect();
        let mut nodes = BTreeMap::new();
        for (id, address) in &peers {
            switchboard.name(address, *id);
            let mut config = Config {
                node_id: *id,
                data_dir: dir.path().join(format!("node-{id}")),
                client_listen: free_address(),
                peer_listen: address.clone(),
                // A test that wants the port asks for one.
                metrics_listen: String::new(),
                initial_cluster: InitialCluster(peers.clone()),
                heartbeat_interval_ms: 50,
                election_timeout_ms_min: 250,
                election_timeout_ms_max: 450,
                log_segment_bytes: 8 * 1024 * 1024,
                state_cache_bytes: 8 * 1024 * 1024,
                disk_reserve_bytes: 1024,
                shutdown_grace_ms: 500,
                ..Config::default()
            };
            change(&mut config);
            config.validate().expect("the test's configuration is valid");
            nodes.insert(*id, Member::new(config));
        }
        Cluster { nodes, switchboard, _dir: dir }
    }

    /// Configures one more node, which waits to be added when it is started.
    pub(crate) fn add(&mut self, id: u64) {
        let address = free_address();
        self.switchboard.name(&address, id);
        let any = self.nodes.values().next().expect("there are nodes").config.clone();
        let config = Config {
            node_id: id,
            data_dir: self._dir.path().join(format!("node-{id}")),
            client_listen: free_address(),
            peer_listen: address,
            initial_cluster: InitialCluster::default(),
            ..any
        };
        let before = self.nodes.insert(id, Member::new(config));
        assert!(before.is_none(), "an id is never used twice");
    }

    /// Gives a node that does not run another address for its peers.
    pub(crate) fn move_node(&mut self, id: u64) {
        let address = free_address();
        self.switchboard.name(&address, id);
        let member = self.nodes.get_mut(&id).expect("a node of this cluster");
        member.config.peer_listen = address;
        let address = member.config.peer_listen.clone();
        self.advertise(id, &address);
    }

    /// A node that does not run says from its next start on that its peer port is there.
    pub(crate) fn advertise(&mut self, id: u64, peer_address: &str) {
        let member = self.nodes.get_mut(&id).expect("a node of this cluster");
        assert!(member.running.is_none(), "it is stopped");
        member.config.peer_advertise = peer_address.to_owned();
    }

    /// Started over simulated storage, so that [`Cluster::cut_power`] can be called.
    pub(crate) async fn start_simulated(size: u64) -> Cluster {
        Self::start_simulated_with(size, |_| {}).await
    }

    /// … with another configuration.
    pub(crate) async fn start_simulated_with(size: u64, change: impl Fn(&mut Config)) -> Cluster {
        let mut cluster = Self::prepare(size, change);
        for (id, member) in &mut cluster.nodes {
            let disk = SimulatedDisk::new(*id);
            disk.set_crash_mode(CrashMode::LoseUnsynced);
            member.simulated = Some(Simulated { disk, stores: SimulatedStores::new(*id) });
        }
        cluster.start_all().await;
        cluster
    }

    /// The storage of a node of [`Cluster::start_simulated`].
    pub(crate) fn simulated(&self, id: u64) -> &Simulated {
        self.nodes[&id].simulated.as_ref().expect("the cluster is simulated")
    }

    /// Ends a node, and everything on its disk that was not synced.
    pub(crate) async fn cut_power(&mut self, id: u64) {
        // The disk first: from here on no sync returns, so nothing more is acknowledged.
        self.simulated(id).disk.crash();
        self.simulated(id).stores.crash();
        self.kill(id).await;
        // Its log could not be written any more, which it noticed.
        self.take_fatal(id);
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn data_dir(&self, id: u64) -> PathBuf {
        self.nodes[&id].config.data_dir.clone()
    }

    /// The configuration of a node; counts from its next start on.
    pub(crate) fn config(&mut self, id: u64) -> &mut Config {
        &mut self.nodes.get_mut(&id).expect("a node of this cluster").config
    }

    /// Versions of the formats that a node reads from its next start on, as one of another release.
    pub(crate) fn read_formats(&mut self, id: u64, formats: FormatRange) {
        self.nodes.get_mut(&id).expect("a node of this cluster").formats = formats;
    }

    pub(crate) fn node(&self, id: u64) -> &Node {
        let running = self.nodes[&id].running.as_ref();
        running.and_then(|running| running.node.as_ref()).expect("the node runs")
    }

    /// Starts a node, and waits until it runs.
    pub(crate) async fn start_node(&mut self, id: u64) -> Result<(), NodeError> {
        let started = self.launch(id).await;
        match started {
            Ok(node) => self.adopt(id, node),
            Err(error) => {
                self.kill(id).await;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Begins to start a node. Several must be under way before the first of them can run.
    pub(crate) fn launch(
        &mut self,
        id: u64,
    ) -> impl Future<Output = Result<Node, NodeError>> + use<> {
        let member = self.nodes.get_mut(&id).expect("a node of this cluster");
        let env = environment(member, &self.switchboard);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            // As on a real machine, a task that waits for the disk holds up no other.
            .worker_threads(2)
            .thread_name(format!("node-{id}"))
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let starting = runtime.spawn(Node::start(member.config.clone(), env));
        member.running = Some(Running { node: None, runtime: Some(runtime) });
        async move {
            tokio::time::timeout(PATIENCE, starting)
                .await
                .expect("a node starts or says why not, in time")
                .expect("a node does not panic while it starts")
        }
    }

    /// Takes a node that was launched, and runs now.
    pub(crate) fn adopt(&mut self, id: u64, node: Node) {
        let member = self.nodes.get_mut(&id).expect("a node of this cluster");
        member.running.as_mut().expect("it was launched").node = Some(node);
    }

    /// Ends a node without a word: no task of it runs another line. It can't start again on the same
    /// directory, see [`Cluster::stop`].
    pub(crate) async fn kill(&mut self, id: u64) {
        let member = self.nodes.get_mut(&id).expect("a node of this cluster");
        let Some(mut running) = member.running.take() else { return };
        let runtime = running.runtime.take().expect("it is taken here only");
        tokio::task::spawn_blocking(move || {
            runtime.shutdown_timeout(Duration::from_secs(5));
            drop(running);
        })
        .await
        .expect("the runtime ends");
    }

    /// Stops a node in good order, so that it can start again in this process: a killed one's byte
    /// store stays locked until the process ends.
    pub(crate) async fn stop(&mut self, id: u64) {
        self.begin_shutdown(id).await.expect("the shutdown ends");
        self.kill(id).await;
        let state = self.data_dir(id).join("state");
        eventually("the stopped node lets go of its state", || !is_locked(&state)).await;
    }

    /// Begins an orderly shutdown of a node; what comes back ends with it.
    pub(crate) fn begin_shutdown(&mut self, id: u64) -> tokio::task::JoinHandle<()> {
        let member = self.nodes.get_mut(&id).expect("a node of this cluster");
        let running = member.running.as_mut().expect("the node runs");
        let node = running.node.take().expect("the node runs");
        running.runtime.as_ref().expect("the node runs").spawn(node.shutdown())
    }

    /// Whether a node has been told that it must not run.
    pub(crate) async fn is_refused(&mut self, id: u64) -> bool {
        let member = self.nodes.get_mut(&id).expect("a node of this cluster");
        let running = member.running.as_mut().expect("the node runs");
        let node = running.node.as_mut().expect("the node runs");
        tokio::time::timeout(Duration::ZERO, node.refused()).await.is_ok()
    }

    /// Why a node is refused by its peers.
    pub(crate) async fn refused(&mut self, id: u64) -> String {
        let member = self.nodes.get_mut(&id).expect("a node of this cluster");
        let running = member.running.as_mut().expect("the node runs");
        let node = running.node.as_mut().expect("the node runs");
        let reason = tokio::time::timeout(PATIENCE, node.refused()).await;
        reason.expect("the node is refused in time").to_string()
    }

    /// The reasons for which a node wanted to end its process.
    pub(crate) fn take_fatal(&self, id: u64) -> Vec<String> {
        std::mem::take(&mut self.nodes[&id].fatal.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Pretends that so much is free on a node's disk; `None` for the truth.
    pub(crate) fn set_free_bytes(&self, id: u64, free: Option<u64>) {
        *self.nodes[&id].free_bytes.lock().unwrap_or_else(PoisonError::into_inner) = free;
    }

    /// Index of the last entry in a node's log, durable or not.
    pub(crate) fn last_log_index(&self, id: u64) -> u64 {
        self.node(id).consensus().leadership().metrics().last_log_index.unwrap_or_default()
    }

    /// What the syncs of a node's log pass through.
    pub(crate) fn syncs(&self, id: u64) -> &Gate {
        &self.nodes[&id].syncs
    }

    pub(crate) fn running_ids(&self) -> Vec<u64> {
        let running = self.nodes.iter().filter(|(_, member)| member.running.is_some());
        running.map(|(id, _)| *id).collect()
    }

    /// Waits until every running node knows the same leader, the cluster's id and the leader's
    /// client address, and has applied the first entries.
    pub(crate) async fn settled(&self) {
        let ids = self.running_ids();
        eventually("the nodes agree on a leader", || self.leader_agreed(&ids).is_some()).await;
    }

    /// Waits until every running node has applied what the leader has in its log.
    pub(crate) async fn caught_up(&self) {
        let ids = self.running_ids();
        eventually("the nodes have all applied all entries", || {
            let Some(leader) = self.leader_agreed(&ids) else { return false };
            let last = self.last_log_index(leader);
            let applied = |id: &u64| {
                let state = self.node(*id).consensus().state();
                state.applied().is_some_and(|applied| applied.index >= last)
            };
            ids.iter().all(applied)
        })
        .await;
    }

    fn leader_agreed(&self, ids: &[u64]) -> Option<u64> {
        let leader = *ids.iter().find(|id| self.leads(**id))?;
        ids.iter().all(|id| self.follows(*id, leader)).then_some(leader)
    }

    fn leads(&self, id: u64) -> bool {
        let leadership = self.node(id).consensus().leadership();
        // An old leader that was cut off believes in itself for ever.
        leadership.term_as_leader().is_some()
            && leadership.since_quorum_ack().is_some_and(|since| since < ELECTION_TIMEOUT_MAX)
    }

    fn follows(&self, id: u64, leader: u64) -> bool {
        let consensus = self.node(id).consensus();
        if consensus.cluster_id().get().is_none() {
            return false;
        }
        match consensus.leadership().current() {
            Some(Leader::Here { .. }) => id == leader,
            Some(Leader::There { node_id, .. }) => {
                let hint = consensus.leadership().hint();
                node_id == leader && hint.is_some_and(|hint| hint.address.is_some())
            }
            None => false,
        }
    }

    /// The node that leads, and a quorum says so.
    pub(crate) async fn leader(&self) -> u64 {
        let ids = self.running_ids();
        let find = || ids.iter().copied().find(|id| self.leads(*id));
        eventually("some node leads", || find().is_some()).await;
        find().expect("it was just found")
    }

    /// A running node that does not lead.
    pub(crate) async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        let mut ids = self.running_ids().into_iter();
        ids.find(|id| *id != leader).expect("there are followers")
    }

    /// Cuts a node off from all others.
    pub(crate) fn isolate(&self, id: u64) {
        for other in self.ids().into_iter().filter(|other| *other != id) {
            self.switchboard.cut(id, other);
        }
    }

    pub(crate) fn client_address(&self, id: u64) -> String {
        self.nodes[&id].config.client_listen.clone()
    }

    pub(crate) fn peer_address(&self, id: u64) -> String {
        self.nodes[&id].config.peer_listen.clone()
    }

    /// A connection to a node's client port.
    pub(crate) fn channel(&self, id: u64) -> Channel {
        channel_to(&self.client_address(id))
    }
}

/// A connection to an address.
pub(crate) fn channel_to(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect_lazy()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for (id, member) in &self.nodes {
            let fatal = member.fatal.lock().unwrap_or_else(PoisonError::into_inner);
            assert!(fatal.is_empty(), "node {id} wanted to end its process: {fatal:?}");
        }
        let panics = PANICS.load(Ordering::SeqCst);
        assert_eq!(panics, 0, "threads of nodes panicked; see the output above");
    }
}

fn environment(member: &Member, switchboard: &Arc<Switchboard>) -> Env {
    let config = &member.config;
    let cache = config.store_cache_bytes();
    let mut env = Env::real(&config.data_dir, cache).expect("the directory can be made");
    env.network = Arc::new(CutNetwork {
        node_id: config.node_id,
        switchboard: Arc::clone(switchboard),
        real: env.network,
    });
    if let Some(simulated) = &member.simulated {
        env.disk = Arc::new(simulated.disk.mount());
        env.stores = Arc::new(simulated.stores.clone());
    }
    let (free, syncs) = (Arc::clone(&member.free_bytes), member.syncs.clone());
    env.disk = Arc::new(GaugedDisk { real: env.disk, free, syncs });
    env.formats = member.formats;
    let fatal = Arc::clone(&member.fatal);
    env.fatal = Arc::new(move |reason| {
        fatal.lock().unwrap_or_else(PoisonError::into_inner).push(reason);
    });
    env
}

/// How late this machine is: the longest that a sleeping task overslept while something was awaited.
pub(crate) async fn how_late<T>(awaited: impl Future<Output = T>) -> (T, Duration) {
    const NAP: Duration = Duration::from_millis(10);
    let mut late = Duration::ZERO;
    let watch = async {
        loop {
            let asleep = Instant::now();
            tokio::time::sleep(NAP).await;
            late = late.max(asleep.elapsed().saturating_sub(NAP));
        }
    };
    let result = tokio::select! {
        biased;
        result = awaited => result,
        () = watch => unreachable!("it watches for ever"),
    };
    (result, late)
}

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether the byte store of a generation below this directory is open.
fn is_locked(state: &Path) -> bool {
    let Ok(generations) = std::fs::read_dir(state) else { return false };
    generations.filter_map(Result::ok).filter(|entry| entry.path().is_dir()).any(|entry| {
        let dir = std::fs::File::open(entry.path()).expect("the directory can be opened");
        rustix::fs::flock(&dir, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err()
    })
}

/// Every file below a directory, with its bytes.
pub(crate) fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("the directory can be read") {
            let path = entry.expect("the directory can be read").path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                found.insert(path.clone(), std::fs::read(&path).expect("the file can be read"));
            }
        }
    }
    found
}
