//! One seed: a cluster, its users, its faults, and what came of it.
//!
//! A run has three parts. Faults strike and users work; then everything is mended and users go on;
//! then users end, and an auditor reads everything. Safety is checked all the way through, liveness
//! at the end: within [`LIVENESS_MS`] after the mending every node must run, the auditor must get
//! its answers, and all nodes must hold the same state.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    panic::AssertUnwindSafe,
    rc::Rc,
    sync::{
        Arc, Once,
        atomic::{AtomicU64, Ordering},
        mpsc::RecvTimeoutError,
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tally_client::history::{Record, Status};
use tally_proto::reason;
use turmoil::Sim;

use crate::{
    TICK_MS,
    check::{Assumptions, judge_with},
    cluster::{Cluster, host_of},
    env::machine_clock,
    faults::{
        inject::{Done, Fate, Injector},
        moments::Traps,
        operator::{self, Desk},
        plan,
        reach::{self, Reach},
    },
    invariants::{Invariants, NodeCounts},
    kinds::{self, Counts},
    knobs::Knobs,
    scenarios::Scenario,
    trace::{self, Detail, Keep, Recorded},
    trace_event,
    workload::{self, Workload},
};

/// After the mending, everything must work within this many simulated ms.
pub const LIVENESS_MS: u64 = 30_000;

/// Whole states are compared this often, in simulated ms.
const COMPARE_EVERY_MS: u64 = 200;

/// Each sector that was not synced survives a power cut about every second time; all of so many only
/// if power cuts do nothing.
const SECTORS_AT_RISK_MIN: u64 = 24;

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
    /// Which check found it: `safety`, `history`, `liveness`, `harness`, `panic`.
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
        }
    }

    /// Whether nothing was violated.
    pub fn passed(&self) -> bool {
        self.violations.is_empty()
    }
}

/// A simulation whose time stands still for this long, in real time, is caught in a loop.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// What a simulation whose time is over shows as its progress. Judging what clients saw has a budget of
/// its own, which on a machine that does other things too may take longer than [`STUCK_AFTER`].
const OVER: u64 = u64::MAX;

/// Runs a seed, on a thread of its own.
pub fn run(seed: u64, options: &Options) -> Outcome {
    keep_panics_quiet();
    let (options, progress) = (options.clone(), Arc::new(AtomicU64::new(0)));
    let (done, outcome) = std::sync::mpsc::channel();
    let its_progress = Arc::clone(&progress);
    std::thread::Builder::new()
        .name(format!("seed-{seed}"))
        .stack_size(16 << 20)
        .spawn(move || {
            let _ = done.send(on_this_thread(seed, &options, &its_progress));
        })
        .expect("a thread can be started");
    let mut seen_ms = 0;
    loop {
        match outcome.recv_timeout(STUCK_AFTER) {
            Ok(outcome) => return outcome,
            Err(RecvTimeoutError::Disconnected) => unreachable!("a simulation's panics are caught"),
            Err(RecvTimeoutError::Timeout) => {
                let now_ms = progress.load(Ordering::Relaxed);
                if now_ms == seen_ms && now_ms != OVER {
                    // Its thread can't be stopped; the process that runs it can.
                    return stuck(seed, now_ms);
                }
                seen_ms = now_ms;
            }
        }
    }
}

/// Some node or client goes round without waiting for anything, so simulated time can't pass.
fn stuck(seed: u64, at_ms: u64) -> Outcome {
    let what = "simulated time stands still: something goes round in a loop and never waits";
    Outcome {
        violations: vec![Violation { kind: "livelock".to_owned(), what: what.to_owned(), at_ms }],
        simulated_ms: at_ms,
        ..Outcome::empty(seed)
    }
}

thread_local! {
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A panic inside a simulation is a finding, told once, with its place.
fn keep_panics_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let in_simulation =
                std::thread::current().name().is_some_and(|name| name.starts_with("seed-"));
            if !in_simulation {
                return before(info);
            }
            let told = info.to_string().replace('\n', " ");
            LAST_PANIC.with_borrow_mut(|last| {
                if last.is_none() {
                    // A second one while it unwinds ends the process, and this is all that is left.
                    eprintln!("{told}");
                    *last = Some(told);
                }
            });
        }));
    });
}

fn on_this_thread(seed: u64, options: &Options, progress: &Arc<AtomicU64>) -> Outcome {
    let _trace = trace::begin(options.detail, options.keep);
    machine_clock::set(Duration::ZERO);
    crate::prepare_thread(seed);
    #[cfg(feature = "seeded-bugs")]
    tally_proto::seeded_bugs::switch_on(options.bug);
    let mut knobs = Knobs::draw(seed);
    if let Some(scenario) = options.scenario {
        knobs = Knobs::calm(seed);
        (scenario.knobs)(&mut knobs);
    }
    let ran = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let mut run = Run::new(seed, &knobs, options, Arc::clone(progress));
        run.go();
        progress.store(OVER, Ordering::Relaxed);
        run.into_outcome()
    }));
    let acted = tally_proto::seeded_bugs::acted();
    match ran {
        Ok(outcome) => Outcome { acted, ..outcome },
        Err(_) => {
            let what = LAST_PANIC.with_borrow_mut(Option::take).unwrap_or_default();
            trace_event!("panic", "{what}");
            Outcome {
                violations: vec![Violation { kind: "panic".to_owned(), what, at_ms: 0 }],
                trace: trace::recorded(),
                acted,
                ..Outcome::empty(seed)
            }
        }
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
    audit: Rc<Audit>,
    now_ms: u64,
    end_ms: u64,
    progress: Arc<AtomicU64>,
    violations: Vec<Violation>,
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
        let cluster = Cluster::builder(seed)
            .nodes(knobs.nodes)
            .config(|config| knobs.configure(config))
            .observer(Rc::new(move |id| watch.observer(id, observers.observer(id))))
            .start(&mut sim);
        let workload = Workload::start(&mut sim, &cluster, knobs, seed);
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
            Some(scenario) => scenario.plan(),
            None => plan::draw(seed, knobs, faults_end(end_ms)),
        };
        if let Some(only) = &options.only {
            plan.retain(|planned| only.contains(&planned.number));
        }
        let client_hosts = workload::HOSTS.iter().map(|host| (*host).to_owned()).collect();
        let watched = (traps, invariants.clone());
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
            audit,
            now_ms: 0,
            end_ms,
            progress,
            violations: Vec::new(),
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
        let with_states = self.now_ms.is_multiple_of(COMPARE_EVERY_MS);
        self.invariants.look(&self.cluster, self.now_ms, with_states);
        let safety = self.invariants.take_violations();
        self.violate("safety", safety);
        let wrong = self.workload.take_wrong();
        self.violate("history", wrong);
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

    fn into_outcome(mut self) -> Outcome {
        let records = self.workload.records();
        let mut counts = self.counts(&records);
        let mut undecided = 0;
        let doubts = self.doubts(&records);
        self.violate("harness", doubts);
        if self.violations.is_empty() {
            let whole = Assumptions { from_the_beginning: true, ..Assumptions::default() };
            let verdict = judge_with(&records, whole);
            let broken = verdict
                .violations
                .iter()
                .map(|violation| format!("{:?}: {}", violation.rule, violation.message))
                .collect();
            self.violate("history", broken);
            let claims = self.claims(&records);
            self.violate("history", claims);
            for (name, count) in [
                ("revisions explained", verdict.counts.revisions),
                ("unknown writes that were applied", verdict.counts.unknown_applied),
                ("writes sent again under a key", verdict.counts.replayed),
                ("refusals explained", verdict.counts.refusals),
                ("staleness claims checked", verdict.counts.staleness_claims),
                ("session reads checked", verdict.counts.session_reads),
                ("sums of transfers checked", verdict.counts.transfer_sums),
            ] {
                counts.insert(name.to_owned(), count);
            }
            undecided = verdict.counts.undecided;
        }
        Outcome {
            seed: self.seed,
            knobs: self.knobs,
            violations: self.violations,
            counts,
            undecided,
            acted: 0,
            faults: self.injector.done().to_vec(),
            simulated_ms: self.now_ms,
            trace: trace::recorded(),
            records,
        }
    }

    /// What answers say of themselves and the history alone can't judge.
    fn claims(&self, records: &[Record]) -> Vec<String> {
        let of_numbers =
            [reason::SEQUENCE_REUSED, reason::SEQUENCE_TOO_OLD, reason::SESSION_WINDOW_FULL];
        let mut wrong = Vec::new();
        for record in records {
            let reason = record.reason.as_deref().unwrap_or_default();
            if workload::uses_library(record.client) && of_numbers.contains(&reason) {
                wrong.push(format!(
                    "client {} was told {reason}, and the library uses each number once and in its \
                     window",
                    record.client
                ));
            }
            // What an answer is of is one state. (A refused write tells instead at which revision it was
            // decided, after which its log entry may have led to more.)
            let refused = !record.is_read() && record.status != Status::Ok;
            let is_of = |after: u64, told: u64| told == after || refused && told < after;
            if let (Some(applied), Some(revision)) = (record.applied, record.revision)
                && !self
                    .invariants
                    .revision_after(applied)
                    .is_some_and(|after| is_of(after, revision))
            {
                wrong.push(format!(
                    "client {} was told a state at applied index {applied} with revision {revision}; \
                     after that entry it was {:?}",
                    record.client,
                    self.invariants.revision_after(applied)
                ));
            }
        }
        wrong
    }

    /// What shows that this run proves less than it seems to: the harness itself is wrong.
    fn doubts(&self, records: &[Record]) -> Vec<String> {
        let mut doubts = Vec::new();
        for (from, to, bytes) in self.cluster.wires().crossed() {
            doubts.push(format!("{bytes} bytes from {from} reached {to} though the link was cut"));
        }
        let disks =
            self.cluster.ids().into_iter().map(|id| self.cluster.machine(id).disk().counts());
        let (at_risk, harmed) = disks.fold((0, 0), |(at_risk, harmed), disk| {
            (at_risk + disk.sectors_at_risk, harmed + disk.sectors_lost + disk.sectors_torn)
        });
        if at_risk >= SECTORS_AT_RISK_MIN && harmed == 0 {
            doubts.push(format!("power cuts could take {at_risk} sectors, and took none"));
        }
        let calls = self.workload.calls();
        let is_whole = self.violations.is_empty() && self.workload.is_over();
        if is_whole && records.len() as u64 != calls {
            doubts.push(format!("users made {calls} calls, and {} are recorded", records.len()));
        }
        doubts
    }

    fn counts(&self, records: &[Record]) -> Counts {
        let NodeCounts {
            elections,
            applied,
            truncations,
            snapshots_built,
            snapshots_installed,
            torn_tails,
            states_compared,
            replays,
            rounds_shared_leading,
            rounds_shared_following,
            large_installs,
        } = self.invariants.counts();
        let disks =
            self.cluster.ids().into_iter().map(|id| self.cluster.machine(id).disk().counts());
        let disks: Vec<_> = disks.collect();
        let stores =
            self.cluster.ids().into_iter().map(|id| self.cluster.machine(id).store_errors());
        let stores: Vec<u64> = stores.collect();
        let of = |is: &dyn Fn(&Record) -> bool| records.iter().filter(|r| is(r)).count() as u64;
        let with_reason = |reason: &str| of(&|r| r.reason.as_deref() == Some(reason));
        let faults = |fate: fn(&Fate) -> bool| {
            self.injector.done().iter().filter(|done| fate(&done.fate)).count() as u64
        };
        let mut counts = kinds::of_records(records);
        let all = [
            ("elections", elections),
            ("entries applied", applied),
            ("logs truncated", truncations),
            ("snapshots built", snapshots_built),
            ("snapshots installed", snapshots_installed),
            ("torn tails cut", torn_tails),
            ("states compared", states_compared),
            ("remembered answers given", replays),
            ("rounds shared by several reads at a leader", rounds_shared_leading),
            ("rounds shared by several reads elsewhere", rounds_shared_following),
            ("snapshots of several blocks installed", large_installs),
            ("sectors lost in power cuts", disks.iter().map(|disk| disk.sectors_lost).sum()),
            ("sectors torn in power cuts", disks.iter().map(|disk| disk.sectors_torn).sum()),
            ("disk errors", disks.iter().map(|disk| disk.errors).sum()),
            ("errors of the state's store", stores.iter().sum()),
            ("calls", records.len() as u64),
            ("writes acknowledged", of(&|r| !r.is_read() && r.status == Status::Ok)),
            ("writes refused", of(&|r| !r.is_read() && r.status == Status::Fail)),
            ("writes unknown", of(&|r| r.status == Status::Unknown)),
            ("reads answered", of(&|r| r.is_read() && r.status == Status::Ok)),
            ("reads refused", of(&|r| r.is_read() && r.status == Status::Fail)),
            ("bounded reads refused", with_reason("STALENESS_BOUND_EXCEEDED")),
            ("no quorum", with_reason("NO_QUORUM")),
            ("bounds refused", with_reason("BELOW_FLOOR") + with_reason("ABOVE_CEILING")),
            ("conditions failed", with_reason("CONDITION_FAILED")),
            ("faults installed", faults(|fate| *fate == Fate::Installed)),
            ("faults skipped", faults(|fate| *fate != Fate::Installed)),
        ];
        counts.extend(all.map(|(name, count)| (name.to_owned(), count)));
        let members = self.injector.happened().iter();
        counts.extend(members.map(|(name, count)| ((*name).to_owned(), *count)));
        // Clients go on asking nodes that were taken out.
        let taken_out = self.injector.taken_out();
        let by_removed = |record: &Record| {
            let removed_ms = record.node.and_then(|node| taken_out.get(&node));
            removed_ms.is_some_and(|at_ms| record.call > at_ms * 1_000_000)
        };
        counts.insert("calls that a removed node answered".to_owned(), of(&by_removed));
        for (name, count) in self.workload.happened() {
            *counts.entry(name).or_default() += count;
        }
        counts
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
