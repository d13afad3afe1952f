//! One seed: a cluster, its users, its faults, and what came of it.
//!
//! A run has three parts. Faults strike and users work; then everything is mended and users go on;
//! then users end, and an auditor reads everything. Safety is checked all the way through, liveness
//! at the end: within [`LIVENESS_MS`] after the mending every node must run, the auditor must get
//! its answers, and all nodes must hold the same state.
//!
//! Leaves out: the thread that a run has to itself (`run/thread`), and what came of one that is over
//! (`run/verdict`).

mod thread;
mod verdict;

use std::{
    cell::Cell,
    collections::BTreeSet,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tally_client::history::Record;
use turmoil::Sim;

use self::thread::LAST_PANIC;
pub use self::thread::run;
use crate::{
    TICK_MS,
    cluster::{Cluster, host_of},
    env::machine_clock,
    faults::{
        inject::{Done, Injector},
        moments::Traps,
        operator::{self, Desk},
        plan,
        reach::{self, Reach},
    },
    invariants::Invariants,
    kinds::Counts,
    knobs::Knobs,
    player::Recorder,
    quotas, rights,
    scenarios::Scenario,
    trace::{self, Detail, Keep, Recorded},
    trace_event,
    workload::{self, Workload},
};

/// After the mending, everything must work within this many simulated ms.
pub const LIVENESS_MS: u64 = 30_000;

/// Whole states are compared this often, in simulated ms.
const COMPARE_EVERY_MS: u64 = 200;

/// The host that reads everything in the end.
const AUDITOR: &str = "auditor";

/// How a seed is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Simulated seconds.
    pub seconds: u64,
    /// What becomes part of the trace.
    pub detail: Detail,
    /// What is kept of it.
    pub keep: Keep,
    /// Of the faults, only those with these numbers.
    pub only: Option<BTreeSet<usize>>,
    /// A scenario in place of what the seed draws.
    pub scenario: Option<&'static Scenario>,
    /// A bug that is switched on. Only in builds with `seeded-bugs`.
    pub bug: Option<&'static str>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            seconds: 60,
            detail: Detail::Events,
            keep: Keep::Digest,
            only: None,
            scenario: None,
            bug: None,
        }
    }
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which check found it: `safety`, `history`, `rights`, `quotas`, `liveness`, `harness`, `panic`.
    pub kind: String,
    /// What is wrong.
    pub what: String,
    /// When it was noticed, in simulated ms.
    pub at_ms: u64,
}

/// What came of a seed.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What it drew.
    pub knobs: Knobs,
    /// What was violated; empty if all is well.
    pub violations: Vec<Violation>,
    /// How often things happened.
    pub counts: Counts,
    /// Checks of the history that ended without a verdict: neither passed nor failed.
    pub undecided: u64,
    /// How often the line of the bug that is switched on was reached.
    pub acted: u64,
    /// What became of its faults.
    pub faults: Vec<Done>,
    /// Simulated time.
    pub simulated_ms: u64,
    /// The trace.
    pub trace: Recorded,
    /// What clients saw.
    pub records: Vec<Record>,
    /// What a story is told from, if it was kept.
    pub heard: Vec<trace::Heard>,
    /// What was recorded for the player, if it was.
    pub recorder: Option<Recorder>,
}

impl Outcome {
    fn empty(seed: u64) -> Outcome {
        Outcome {
            seed,
            knobs: Knobs::draw(seed),
            violations: Vec::new(),
            counts: Counts::new(),
            undecided: 0,
            acted: 0,
            faults: Vec::new(),
            simulated_ms: 0,
            trace: Recorded::default(),
            records: Vec::new(),
            heard: Vec::new(),
            recorder: None,
        }
    }

    /// Whether nothing was violated.
    pub fn passed(&self) -> bool {
        self.violations.is_empty()
    }
}

/// What the auditor is asked and has done.
#[derive(Debug, Default)]
struct Audit {
    wanted: Cell<bool>,
    done: Cell<bool>,
}

struct Run<'a> {
    seed: u64,
    knobs: Knobs,
    sim: Sim<'a>,
    cluster: Cluster,
    injector: Injector,
    invariants: Invariants,
    reach: Reach,
    workload: Workload,
    /// Where users have rights.
    rights: Option<rights::Book>,
    /// Where there are quotas.
    quotas: Option<quotas::Book>,
    audit: Rc<Audit>,
    now_ms: u64,
    end_ms: u64,
    progress: Arc<AtomicU64>,
    violations: Vec<Violation>,
    recorder: Option<Recorder>,
}

impl Run<'_> {
    fn new(seed: u64, knobs: &Knobs, options: &Options, progress: Arc<AtomicU64>) -> Self {
        let end_ms = options.seconds * 1000;
        let mut builder = crate::builder(seed);
        builder
            .simulation_duration(Duration::from_millis(end_ms + 3 * LIVENESS_MS))
            .max_message_latency(Duration::from_millis(knobs.latency_ms_max))
            .repair_rate(1.0);
        let mut sim = builder.build();
        let invariants = Invariants::default();
        let (observers, traps) = (invariants.clone(), Traps::default());
        let watch = traps.clone();
        let rights = knobs.rights.then(rights::Book::default);
        let quotas = knobs.quotas.then(quotas::Book::default);
        let (judges, counts) = (rights.clone(), quotas.clone());
        let cluster = Cluster::builder(seed)
            .nodes(knobs.nodes)
            .config(|config| knobs.configure(config))
            .releases_mixed_until(knobs.releases_mixed_until_ms.unwrap_or(0))
            .observer(Rc::new(move |id| {
                let observer = watch.observer(id, observers.observer(id));
                let observer = match &judges {
                    Some(rights) => rights.observer(observer),
                    None => observer,
                };
                match &counts {
                    Some(quotas) => quotas.observer(observer),
                    None => observer,
                }
            }))
            .start(&mut sim);
        let books = (rights.clone(), quotas.clone());
        let workload = Workload::start(&mut sim, &cluster, knobs, books, seed);
        let desk = Desk::default();
        let (at_work, its_cluster) = (desk.clone(), cluster.clone());
        sim.client(operator::HOST, async move {
            at_work.work(its_cluster).await;
            Ok(())
        });
        let audit = Rc::new(Audit::default());
        let auditing = audit_everything(Rc::clone(&audit), workload.clone(), cluster.clone());
        sim.client(AUDITOR, async move {
            auditing.await;
            Ok(())
        });
        let mut plan = match options.scenario {
            Some(scenario) if !knobs.rights => scenario.plan(),
            _ => plan::draw(seed, knobs, faults_end(end_ms)),
        };
        if let Some(only) = &options.only {
            plan.retain(|planned| only.contains(&planned.number));
        }
        let client_hosts = workload::HOSTS.iter().map(|host| (*host).to_owned()).collect();
        let watched = (traps, invariants.clone(), workload.clone());
        let injector =
            Injector::new(cluster.clone(), desk, knobs.clone(), client_hosts, plan, watched);
        Run {
            seed,
            knobs: knobs.clone(),
            sim,
            cluster,
            injector,
            invariants,
            reach: Reach::default(),
            workload,
            rights,
            quotas,
            audit,
            now_ms: 0,
            end_ms,
            progress,
            violations: Vec::new(),
            recorder: (options.keep == Keep::Recording).then(Recorder::default),
        }
    }

    fn go(&mut self) {
        let heal_ms = faults_end(self.end_ms);
        let users_end_ms = on_tick(self.end_ms - self.end_ms / 8);
        while self.violations.is_empty() {
            if self.now_ms == heal_ms {
                self.injector.heal(&mut self.sim);
            }
            if self.now_ms == users_end_ms {
                trace_event!("driver", "users end");
                self.workload.stop();
            }
            if !self.step() {
                return;
            }
            let all_done = self.now_ms > users_end_ms && self.is_all_well();
            if all_done && self.now_ms >= self.end_ms {
                let not_so = self.injector.told_and_not_so();
                self.violate("safety", not_so.into_iter().collect());
                return;
            }
            if !all_done && self.now_ms > heal_ms + LIVENESS_MS {
                self.liveness_violated();
                return;
            }
        }
    }

    /// One tick of simulated time. False if the simulation itself has ended.
    fn step(&mut self) -> bool {
        let now = Duration::from_millis(self.now_ms);
        trace::set_now(now);
        machine_clock::set(now);
        self.injector.step(&mut self.sim, self.now_ms);
        if let Some(recorder) = &mut self.recorder {
            recorder.look(&self.sim, &self.cluster, Some(self.injector.links()), self.now_ms);
        }
        let with_states = self.now_ms.is_multiple_of(COMPARE_EVERY_MS);
        self.invariants.look(&self.cluster, self.now_ms, with_states);
        let safety = self.invariants.take_violations();
        self.violate("safety", safety);
        let wrong = self.workload.take_wrong();
        self.violate("history", wrong);
        if let Some(rights) = self.rights.clone() {
            rights.look_at_clocks(&self.cluster, self.now_ms);
            self.violate("rights", rights.take_wrong());
        }
        if let Some(quotas) = self.quotas.clone() {
            self.violate("quotas", quotas.take_wrong());
        }
        let failures = self.injector.take_failures();
        self.violate("liveness", failures);
        if self.now_ms.is_multiple_of(reach::LOOK_EVERY_MS) {
            let stands_still = self.reach.look(
                &self.injector,
                &self.cluster,
                &self.invariants,
                &self.knobs,
                self.now_ms,
            );
            self.violate("liveness", stands_still.into_iter().collect());
            let lags =
                self.reach.look_who_lags(&self.injector, &self.cluster, &self.knobs, self.now_ms);
            self.violate("liveness", lags.into_iter().collect());
        }
        let stepped = self.sim.step();
        // One that ended a task of a node and not the run.
        let panicked = LAST_PANIC.with_borrow_mut(Option::take);
        self.violate("panic", panicked.into_iter().collect());
        if let Err(error) = stepped {
            self.violate("harness", vec![format!("the simulation ended: {error}")]);
            return false;
        }
        self.now_ms += TICK_MS;
        self.progress.store(self.now_ms, Ordering::Relaxed);
        true
    }

    /// Everything is mended, everybody has ended, the auditor has read, and all nodes agree.
    fn is_all_well(&self) -> bool {
        if !self.injector.is_calm() || !self.workload.is_over() {
            return false;
        }
        if !self.audit.wanted.replace(true) {
            trace_event!("driver", "the auditor reads everything");
        }
        self.audit.done.get()
            && (self.now_ms < self.end_ms
                || Invariants::converged(&self.cluster, &self.injector.members()).is_some())
    }

    fn liveness_violated(&mut self) {
        let mut what = format!("{LIVENESS_MS} ms after the faults ended");
        if !self.injector.is_calm() {
            what += &format!(", not everything is mended ({:?})", self.injector);
        }
        if !self.workload.is_over() {
            what += ", some call has not ended";
        }
        if !self.audit.done.get() {
            what += ", the auditor could not read everything";
        }
        for id in self.injector.members() {
            let machine = self.cluster.machine(id);
            let applied = self
                .cluster
                .consensus(id)
                .and_then(|consensus| consensus.state().applied())
                .map_or(0, |applied| applied.index);
            what += &format!("; {} {:?}, applied {applied}", host_of(id), machine.condition());
        }
        self.violate("liveness", vec![what]);
    }

    fn violate(&mut self, kind: &str, what: Vec<String>) {
        let at_ms = self.now_ms;
        self.violations.extend(what.into_iter().map(|what| {
            trace_event!("driver", "VIOLATED ({kind}): {what}");
            Violation { kind: kind.to_owned(), what, at_ms }
        }));
    }
}

/// When everything is mended.
fn faults_end(end_ms: u64) -> u64 {
    on_tick(end_ms * 3 / 4)
}

/// The last tick that begins at or before a moment.
fn on_tick(ms: u64) -> u64 {
    ms / TICK_MS * TICK_MS
}

/// Waits until it is wanted, then writes and reads until that works.
async fn audit_everything(audit: Rc<Audit>, workload: Workload, cluster: Cluster) {
    while !audit.wanted.get() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // One for all attempts: of many machines most may be gone, and it goes on where it has stopped.
    let client = cluster.client(2_000).deadline(Duration::from_secs(5)).build();
    let client = client.expect("the settings are valid");
    loop {
        if workload.audit(&client).await {
            audit.done.set(true);
            trace_event!(AUDITOR, "has read everything");
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
