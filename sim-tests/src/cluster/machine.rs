//! One machine of a simulated cluster: its disk, its stores and its clock, which outlive the process on it,
//! and each run of that process.

use std::{
    cell::{Cell, RefCell},
    fmt,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tally_node::{
    config::{Config, UpgradeFinalize},
    consensus::Consensus,
    env::{Env, Observer},
    machine::version::FormatRange,
    node::Node,
    peer::peers::Peers,
    storage::{simulated_disk::SimulatedDisk, simulated_store::SimulatedStores},
};
use tokio::sync::Notify;
use turmoil::Sim;

use super::{LOGS, Releases};
use crate::env::{
    Life, SeededRandom, SharedLife, SimulatedClock, SimulatedNetwork, Tasks, WallClock, Wires, mix,
};

/// What a machine is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The process starts: it opens its data and looks for its peers.
    Starting,
    /// The node runs.
    Running,
    /// The process was stopped in good order.
    Stopped,
    /// The process was killed, or the power cut.
    Down,
    /// The node did not start, or ended itself, and says why.
    Failed(String),
}

/// One machine: what outlives the process on it.
pub struct Machine {
    pub(super) id: u64,
    /// Its turmoil host.
    pub(super) host: String,
    pub(super) seed: u64,
    pub(super) config: Config,
    pub(super) releases: Releases,
    /// What the present run of its process reads.
    pub(super) formats: Cell<FormatRange>,
    /// How often that was an older release than before.
    pub(super) went_back: Cell<u64>,
    pub(super) disk: SimulatedDisk,
    pub(super) wires: Wires,
    pub(super) stores: SimulatedStores,
    pub(super) store_latency_us: Arc<AtomicU64>,
    /// The step of its stores that is to fail, once; 0 for none …
    pub(super) store_failures: Arc<AtomicU64>,
    /// … and how many did.
    pub(super) store_errors: Arc<AtomicU64>,
    pub(super) wall_clock: Arc<WallClock>,
    pub(super) boots: Cell<u64>,
    pub(super) condition: RefCell<Condition>,
    pub(super) life: RefCell<SharedLife>,
    pub(super) consensus: RefCell<Option<Consensus>>,
    pub(super) peers: RefCell<Option<Peers>>,
    pub(super) stop: Rc<Notify>,
    /// Whether the process ended for what only a person can mend.
    pub(super) needs_a_person: Cell<bool>,
    /// The machine that has this one's address instead, while it is down.
    pub(super) guest: RefCell<Option<Rc<Machine>>>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("id", &self.id)
            .field("condition", &self.condition)
            .finish_non_exhaustive()
    }
}

/// A step of a store as a number; one that can't be made to fail is no step.
pub(super) fn failing(step: &str) -> u64 {
    match step {
        "store write" => 1,
        "store flush" => 2,
        _ => u64::MAX,
    }
}

impl Machine {
    /// What it is doing.
    pub fn condition(&self) -> Condition {
        match self.life().reason() {
            Some(reason) => Condition::Failed(reason),
            None => self.condition.borrow().clone(),
        }
    }

    /// Whether its process is of an older release.
    pub fn is_older(&self) -> bool {
        self.formats.get() != FormatRange::OURS
    }

    /// How often it was started with an older release than before, since it was last asked.
    pub fn take_went_back(&self) -> u64 {
        self.went_back.take()
    }

    /// Its disk, for faults.
    pub fn disk(&self) -> &SimulatedDisk {
        &self.disk
    }

    /// Its state's stores, for faults.
    pub fn stores(&self) -> &SimulatedStores {
        &self.stores
    }

    /// Its wall clock, for faults.
    pub fn wall_clock(&self) -> &WallClock {
        &self.wall_clock
    }

    /// How often its process was started.
    pub fn boots(&self) -> u64 {
        self.boots.get()
    }

    /// Time that changes of its state's stores take.
    pub fn set_store_latency(&self, latency: Duration) {
        self.store_latency_us.store(latency.as_micros() as u64, Ordering::Relaxed);
    }

    /// Lets the next flush of its state's store fail, or the next write to it.
    pub fn fail_store(&self, flush: bool) {
        let step = if flush { "store flush" } else { "store write" };
        self.store_failures.store(failing(step), Ordering::Relaxed);
    }

    /// Errors that its disk and its stores have had.
    pub fn io_errors(&self) -> u64 {
        self.disk.counts().errors + self.store_errors.load(Ordering::Relaxed)
    }

    /// Errors that its state's stores have had.
    pub fn store_errors(&self) -> u64 {
        self.store_errors.load(Ordering::Relaxed)
    }

    /// The present run of its process.
    pub fn life(&self) -> SharedLife {
        Arc::clone(&self.life.borrow())
    }

    /// Its node's consensus, while it runs.
    pub fn consensus(&self) -> Option<Consensus> {
        self.consensus.borrow().clone().filter(|_| !self.life().is_over())
    }

    /// What its node knows of the others, while it runs.
    pub fn peers(&self) -> Option<Peers> {
        self.peers.borrow().clone().filter(|_| !self.life().is_over())
    }

    fn forget(&self) {
        self.consensus.borrow_mut().take();
        self.peers.borrow_mut().take();
    }

    /// The machine that has its address instead, if one has.
    pub fn guest(&self) -> Option<Rc<Machine>> {
        self.guest.borrow().clone()
    }

    /// Whether its process ended with the exit code for what only a person can mend.
    pub fn needs_a_person(&self) -> bool {
        self.needs_a_person.get()
    }

    /// Its turmoil host.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The power fails of a machine that is none of the cluster's.
    pub(crate) fn cut_power(&self, sim: &mut Sim<'_>) {
        self.end();
        sim.crash(self.host.clone());
        self.stores.crash();
        self.disk.crash();
    }

    /// It is started again, after its power has failed.
    pub(crate) fn start(&self, sim: &mut Sim<'_>) {
        self.set(Condition::Starting);
        sim.bounce(self.host.clone());
    }

    /// Its process is gone. Its host is to be crashed next.
    pub(super) fn end(&self) {
        self.life().kill();
        self.forget();
        self.set(Condition::Down);
    }

    pub(super) fn set(&self, condition: Condition) {
        *self.condition.borrow_mut() = condition;
    }

    /// One run of its process.
    pub(super) async fn live(&self, seed: u64, observer: Option<Arc<dyn Observer>>) {
        self.boots.set(self.boots.get() + 1);
        let life = Arc::new(Life::default());
        *self.life.borrow_mut() = Arc::clone(&life);
        self.set(Condition::Starting);
        self.needs_a_person.set(false);
        let before = self.formats.get();
        let now = self.releases.formats(self.seed, self.id, self.boots.get());
        self.formats.set(now);
        if self.boots.get() > 1 && now.max < before.max {
            self.went_back.set(self.went_back.get() + 1);
        }
        let env = self.environment(seed, &life, observer);
        let mut config = self.config.clone();
        if self.releases.are_one() {
            config.upgrade_finalize = UpgradeFinalize::Auto;
        }
        let mut node = match Node::start(config, env).await {
            Ok(node) => node,
            Err(error) => {
                self.needs_a_person.set(error.needs_a_person());
                life.end(format!("does not start: {error}"), self.disk.is_dead());
                return;
            }
        };
        *self.consensus.borrow_mut() = Some(node.consensus().clone());
        *self.peers.borrow_mut() = Some(node.peers().clone());
        self.set(Condition::Running);
        tokio::select! {
            biased;
            reason = node.refused() => {
                // As `serve` ends the process.
                self.needs_a_person.set(true);
                life.end(format!("refused by its peers: {reason}"), false);
            }
            () = self.stop.notified() => {
                node.shutdown().await;
                self.forget();
                life.kill();
                self.set(Condition::Stopped);
            }
        }
    }

    fn environment(
        &self,
        seed: u64,
        life: &SharedLife,
        observer: Option<Arc<dyn Observer>>,
    ) -> Env {
        let (ended, disk) = (Arc::clone(life), self.disk.clone());
        Env {
            network: Arc::new(SimulatedNetwork::new(
                self.host.clone(),
                Arc::clone(life),
                self.wires.clone(),
            )),
            disk: Arc::new(self.disk.mount()),
            stores: Arc::new(self.stores.clone()),
            clock: Arc::new(SimulatedClock::boot(Arc::clone(&self.wall_clock))),
            random: Arc::new(SeededRandom::new(mix(self.seed, &[0x1d, seed, self.boots.get()]))),
            threads: Arc::new(Tasks),
            fatal: Arc::new(move |reason| {
                if ended.is_over() {
                    return;
                }
                tracing::error!(target: LOGS, %reason, "the process ends itself");
                ended.end(reason, disk.is_dead());
                // Nothing that a process computes after its end reaches its disk.
                disk.crash_after_steps(0);
            }),
            observer,
            traces: None,
            surroundings: None,
            logs: None,
            formats: self.formats.get(),
        }
    }
}
