//! A Tally cluster inside a turmoil simulation: yours or ours.
//!
//! ```
//! use std::time::Duration;
//! use tally_sim::Cluster;
//!
//! let seed = 42;
//! tally_sim::prepare_thread(seed);
//! let mut sim = tally_sim::builder(seed).simulation_duration(Duration::from_secs(30)).build();
//! let cluster = Cluster::builder(seed).nodes(3).start(&mut sim);
//!
//! let client = cluster.client(1);
//! sim.client("shop", async move {
//!     let client = client.build()?;
//!     let change = client.counter("sold").add(1).await?;
//!     assert_eq!(change.value, 1);
//!     Ok(())
//! });
//! sim.run().expect("the shop sells");
//! ```
//!
//! Each node is a turmoil host (`tally-1`, `tally-2`, …), so every fault that turmoil knows can be
//! used on it: `sim.partition("tally-1", "tally-2")`. Use [`Cluster::cut_power`],
//! [`Cluster::kill`] and [`Cluster::restart`] instead of turmoil's `crash` and `bounce`: a machine
//! also has a disk, and a power cut takes from it what was not synced.
//!
//! A simulation must be alone on its thread, from its first host to its end
//! ([`crate::prepare_thread`]): then the same seed gives the same run.

mod machine;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tally_client::Client;
use tally_node::{
    config::{Config, InitialCluster},
    consensus::Consensus,
    env::Observer,
    machine::version::FormatRange,
    storage::{simulated_disk::SimulatedDisk, simulated_store::SimulatedStores},
};
use turmoil::Sim;

use self::machine::failing;
pub use self::machine::{Condition, Machine};
use crate::env::{Wires, connect_client, mix, simulated_ms};

/// Logs of its parts have its name too: one filter finds them all, and traces of a seed can be compared
/// wherever a line is written.
const LOGS: &str = module_path!();

/// Port for clients, on every node.
pub const CLIENT_PORT: u16 = 7401;
/// Port for other nodes.
pub const PEER_PORT: u16 = 7501;
/// Port for clients of a machine that has another one's address: clients of this cluster find nobody.
pub const STRANGERS_CLIENT_PORT: u16 = 7402;

/// Makes the observer of one node.
pub type ObserverOf = Rc<dyn Fn(u64) -> Arc<dyn Observer>>;

/// Settings of a [`Cluster`].
pub struct Builder {
    seed: u64,
    nodes: u64,
    config: Config,
    observer: Option<ObserverOf>,
    releases: Releases,
}

/// Which releases nodes have.
#[derive(Debug, Clone, Copy, Default)]
struct Releases {
    /// Until then each start draws one; in simulated ms.
    mixed_until_ms: u64,
}

impl Releases {
    /// What the node of a machine reads that is started now. The first node is of the older release for as long as there
    /// is one, so that the cluster begins with that one's version, whoever forms it.
    fn formats(self, seed: u64, id: u64, boots: u64) -> FormatRange {
        let draws_older = mix(seed, &[0x4e1, id, boots]).is_multiple_of(2);
        match !self.are_one() && (id == 1 || draws_older) {
            true => FormatRange::UNSAID,
            false => FormatRange::OURS,
        }
    }

    /// Whether the older release is gone.
    fn are_one(self) -> bool {
        simulated_ms().unwrap_or(0) >= self.mixed_until_ms
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("seed", &self.seed).field("nodes", &self.nodes).finish()
    }
}

impl Builder {
    /// How many nodes: 3 unless this is called.
    #[must_use]
    pub fn nodes(mut self, nodes: u64) -> Self {
        self.nodes = nodes;
        self
    }

    /// Changes the configuration that all nodes share. Ids, addresses and members are set later.
    #[must_use]
    pub fn config(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Until then, in simulated ms, each start of a node draws its release: this one, or one that reads the first version
    /// of the formats only. Nodes that start later have this one, and finalize the upgrade by themselves.
    #[must_use]
    pub fn releases_mixed_until(mut self, until_ms: u64) -> Self {
        self.releases.mixed_until_ms = until_ms;
        self
    }

    /// Lets an observer see each node's log and state.
    #[must_use]
    pub fn observer(mut self, observer: ObserverOf) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Adds the nodes to the simulation; they start with its first step.
    pub fn start(self, sim: &mut Sim<'_>) -> Cluster {
        let members: BTreeMap<u64, String> =
            (1..=self.nodes).map(|id| (id, format!("{}:{PEER_PORT}", host_of(id)))).collect();
        let cluster = Cluster {
            shared: Rc::new(Shared {
                seed: self.seed,
                config: self.config,
                observer: self.observer,
                releases: self.releases,
                wires: Wires::default(),
                machines: RefCell::default(),
                made: Cell::new(0),
                tokens: RefCell::default(),
            }),
        };
        for id in members.keys() {
            cluster.register(sim, *id, InitialCluster(members.clone()));
        }
        cluster
    }
}

/// A cluster in a simulation. Clones are handles to the same cluster.
#[derive(Clone)]
pub struct Cluster {
    shared: Rc<Shared>,
}

struct Shared {
    seed: u64,
    config: Config,
    observer: Option<ObserverOf>,
    releases: Releases,
    wires: Wires,
    machines: RefCell<BTreeMap<u64, Rc<Machine>>>,
    /// How many machines were made.
    made: Cell<u64>,
    /// What its clients show, and what its operator does, once there is something.
    tokens: RefCell<Option<(String, String)>>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("ids", &self.ids()).finish()
    }
}

/// Name of a node's turmoil host.
pub fn host_of(id: u64) -> String {
    format!("tally-{id}")
}

impl Cluster {
    /// Settings of a cluster; everything that its nodes draw follows from `seed`.
    pub fn builder(seed: u64) -> Builder {
        let config = Config {
            // Nobody scrapes there, and a port would have a task of its own.
            metrics_listen: String::new(),
            heartbeat_interval_ms: 100,
            election_timeout_ms_min: 400,
            election_timeout_ms_max: 800,
            log_segment_bytes: 1024 * 1024,
            disk_reserve_bytes: 64 * 1024,
            shutdown_grace_ms: 2_000,
            ..Config::default()
        };
        Builder { seed, nodes: 3, config, observer: None, releases: Releases::default() }
    }

    /// Ids of all machines that ever belonged to it.
    pub fn ids(&self) -> Vec<u64> {
        self.shared.machines.borrow().keys().copied().collect()
    }

    /// Addresses for clients.
    pub fn addresses(&self) -> Vec<String> {
        self.ids().into_iter().map(|id| format!("{}:{CLIENT_PORT}", host_of(id))).collect()
    }

    /// A client's settings: it knows all nodes, connects through the simulated network, and draws
    /// from the cluster's seed and this number. Build and use it inside a turmoil host.
    pub fn client(&self, number: u64) -> tally_client::Builder {
        let builder = Client::builder(self.addresses())
            .seed(mix(self.shared.seed, &[0xc11e, number]))
            .connector(connect_client);
        self.shown_by(builder)
    }

    /// A client that shows what clients show.
    pub(crate) fn shown_by(&self, builder: tally_client::Builder) -> tally_client::Builder {
        match &*self.shared.tokens.borrow() {
            Some((token, _)) => builder.bearer_token(token.clone()),
            None => builder,
        }
    }

    /// From now on its clients show the one token, and its operator the other.
    pub(crate) fn shows(&self, clients: &str, operator: &str) {
        *self.shared.tokens.borrow_mut() = Some((clients.to_owned(), operator.to_owned()));
    }

    /// The token that its operator shows.
    pub(crate) fn operators_token(&self) -> Option<String> {
        self.shared.tokens.borrow().as_ref().map(|(_, operator)| operator.clone())
    }

    /// A machine.
    pub fn machine(&self, id: u64) -> Rc<Machine> {
        Rc::clone(self.shared.machines.borrow().get(&id).expect("there is a machine with this id"))
    }

    /// What passes between its machines and everybody, to watch and to slow down.
    pub fn wires(&self) -> &Wires {
        &self.shared.wires
    }

    /// Consensus of a node that runs, to look inside.
    pub fn consensus(&self, id: u64) -> Option<Consensus> {
        self.machine(id).consensus()
    }

    /// The node that leads in the highest term, if one says that it leads.
    pub fn leader(&self) -> Option<u64> {
        let leads = |id: u64| {
            let term = self.consensus(id)?.leadership().term_as_leader()?;
            Some((term, id))
        };
        self.ids().into_iter().filter_map(leads).max().map(|(_, id)| id)
    }

    /// The power of a machine fails: the process is gone, and what its disk had not synced.
    pub fn cut_power(&self, sim: &mut Sim<'_>, id: u64) {
        self.kill(sim, id);
        self.machine(id).disk.crash();
    }

    /// The process ends, as by `kill -9`: what it wrote stays, synced or not.
    pub fn kill(&self, sim: &mut Sim<'_>, id: u64) {
        let machine = self.machine(id);
        if let Some(guest) = machine.guest.borrow_mut().take() {
            guest.end();
        }
        // Before its host is crashed: what it writes while it is dropped goes nowhere.
        machine.end();
        sim.crash(host_of(id));
        machine.stores.crash();
    }

    /// Starts a machine's node again, whatever it is doing.
    pub fn restart(&self, sim: &mut Sim<'_>, id: u64) {
        let condition = self.machine(id).condition();
        match condition {
            Condition::Running | Condition::Starting => self.kill(sim, id),
            // It ended itself: what it had not synced may be gone.
            Condition::Failed(_) => self.cut_power(sim, id),
            Condition::Stopped | Condition::Down => {}
        }
        if let Some(guest) = self.machine(id).guest.borrow_mut().take() {
            // Its address is its own again.
            guest.end();
            sim.crash(host_of(id));
        }
        self.machine(id).set(Condition::Starting);
        sim.bounce(host_of(id));
    }

    /// Lets another machine have the address of one that is down, until that one is started again. It
    /// is none of this cluster's: a node with this id of a cluster with these first members.
    pub fn let_in(
        &self,
        sim: &mut Sim<'_>,
        at: u64,
        id: u64,
        first: BTreeMap<u64, String>,
    ) -> Rc<Machine> {
        let config = self.shared.config.clone();
        let first = InitialCluster(first);
        let guest = self.make(&host_of(at), id, first, STRANGERS_CLIENT_PORT, config);
        let machine = self.machine(at);
        assert!(machine.condition() == Condition::Down, "its address must be free");
        *machine.guest.borrow_mut() = Some(Rc::clone(&guest));
        sim.bounce(host_of(at));
        guest
    }

    /// A machine of another cluster, on a host of its own, configured as those of this one but for what is changed here.
    pub fn stranger(
        &self,
        sim: &mut Sim<'_>,
        host: &str,
        id: u64,
        first: BTreeMap<u64, String>,
        change: impl FnOnce(&mut Config),
    ) -> Rc<Machine> {
        let mut config = self.shared.config.clone();
        change(&mut config);
        let machine = self.make(host, id, InitialCluster(first), CLIENT_PORT, config);
        self.host(sim, &machine, None);
        machine
    }

    /// Asks a node to stop in good order, as SIGTERM does. It is [`Condition::Stopped`] when it has.
    pub fn stop(&self, id: u64) {
        self.machine(id).stop.notify_one();
    }

    /// Adds a machine with an empty disk, ready to be added to the cluster as a learner.
    pub fn add(&self, sim: &mut Sim<'_>, id: u64) {
        self.register(sim, id, InitialCluster::default());
    }

    fn register(&self, sim: &mut Sim<'_>, id: u64, initial_cluster: InitialCluster) {
        let config = self.shared.config.clone();
        let machine = self.make(&host_of(id), id, initial_cluster, CLIENT_PORT, config);
        let observer = self.shared.observer.as_ref().map(|make| make(id));
        let before = self.shared.machines.borrow_mut().insert(id, Rc::clone(&machine));
        assert!(before.is_none(), "an id is never used twice");
        self.host(sim, &machine, observer);
    }

    fn host(&self, sim: &mut Sim<'_>, machine: &Rc<Machine>, observer: Option<Arc<dyn Observer>>) {
        let (seed, machine) = (self.shared.seed, Rc::clone(machine));
        sim.host(machine.host.clone(), move || {
            let guest = machine.guest.borrow().clone();
            // Nobody watches strangers, whose log is another one.
            let observer = observer.clone().filter(|_| guest.is_none());
            let machine = guest.unwrap_or_else(|| Rc::clone(&machine));
            async move {
                machine.live(seed, observer).await;
                Ok(())
            }
        });
    }

    fn make(
        &self,
        host: &str,
        id: u64,
        initial_cluster: InitialCluster,
        client_port: u16,
        config: Config,
    ) -> Rc<Machine> {
        let made = self.shared.made.replace(self.shared.made.get() + 1);
        let seed = mix(self.shared.seed, &[0xd15c, id, made]);
        let config = Config {
            node_id: id,
            client_listen: format!("0.0.0.0:{client_port}"),
            peer_listen: format!("0.0.0.0:{PEER_PORT}"),
            client_advertise: format!("{host}:{client_port}"),
            peer_advertise: format!("{host}:{PEER_PORT}"),
            initial_cluster,
            ..config
        };
        let store_latency_us = Arc::new(AtomicU64::new(0));
        let latency = Arc::clone(&store_latency_us);
        let store_failures = Arc::new(AtomicU64::new(0));
        let store_errors = Arc::new(AtomicU64::new(0));
        let (fail, failed) = (Arc::clone(&store_failures), Arc::clone(&store_errors));
        let disk = SimulatedDisk::new(seed);
        let below = disk.clone();
        let stores = SimulatedStores::with_hook(
            mix(seed, &[1]),
            Arc::new(move |step| {
                let pause = Duration::from_micros(latency.load(Ordering::Relaxed));
                let below = below.clone();
                let (fail, failed) = (Arc::clone(&fail), Arc::clone(&failed));
                Box::pin(async move {
                    if !pause.is_zero() {
                        tokio::time::sleep(pause).await;
                    }
                    // They lie on the same disk, so its power fails between their steps as well.
                    if below.step_elsewhere().is_err() {
                        std::future::pending().await
                    }
                    if fail.load(Ordering::Relaxed) == failing(step) {
                        fail.store(0, Ordering::Relaxed);
                        failed.fetch_add(1, Ordering::Relaxed);
                        return Err(std::io::Error::other("an error of the simulated store"));
                    }
                    Ok(())
                })
            }),
        );
        Rc::new(Machine {
            id,
            host: host.to_owned(),
            seed,
            config,
            releases: self.shared.releases,
            formats: Cell::default(),
            went_back: Cell::default(),
            disk,
            wires: self.shared.wires.clone(),
            stores,
            store_latency_us,
            store_failures,
            store_errors,
            wall_clock: Arc::default(),
            boots: Cell::new(0),
            condition: RefCell::new(Condition::Starting),
            life: RefCell::default(),
            consensus: RefCell::new(None),
            peers: RefCell::new(None),
            stop: Rc::default(),
            needs_a_person: Cell::new(false),
            guest: RefCell::new(None),
        })
    }
}
