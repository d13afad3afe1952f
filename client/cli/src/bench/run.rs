//! One measurement: warm-up, the loop, what the servers and this process used meanwhile.

mod closed;
mod open;

use std::{
    io::{self, IsTerminal as _},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    servers::{Servers, Usage, Watched},
    target::Target,
};
use crate::{
    bench::args::Bench,
    interrupts::Interrupts,
    load::{Recorder, grouped},
    output::{Failure, note, progress, progress_done},
    procs,
    waiting::SILENT_FOR,
};

pub(super) const WARMUP: u8 = 0;
pub(super) const MEASURE: u8 = 1;
pub(super) const STOP: u8 = 2;

/// How often it is looked whether anything has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What the callers share.
pub(super) struct Shared {
    pub(super) bench: Bench,
    pub(super) recorder: Recorder,
    phase: AtomicU8,
}

impl Shared {
    pub(super) fn phase(&self) -> u8 {
        self.phase.load(Ordering::Relaxed)
    }

    fn enter(&self, phase: u8) {
        self.phase.store(phase, Ordering::Relaxed);
    }
}

/// What a run measured.
pub(super) struct Measured {
    pub(super) shared: Arc<Shared>,
    /// Operations that ended while it was measured.
    pub(super) operations: u64,
    pub(super) elapsed: Duration,
    pub(super) usage: Option<Usage>,
    pub(super) client_cpu: Option<Duration>,
    /// Somebody ended it before its time.
    pub(super) cut_short: bool,
}

/// Who cut it short does not wait longer than this for calls that are under way.
const CALLS_WITHIN: Duration = Duration::from_secs(5);

/// Runs the load against a target that is prepared. Nothing, if it is cut short before it is measured.
pub(super) async fn run(
    target: &Target,
    bench: &Bench,
    servers: Servers,
    interrupts: &Interrupts,
) -> Result<Option<Measured>, Failure> {
    let shared = Arc::new(Shared {
        bench: bench.clone(),
        recorder: Recorder::new(),
        phase: AtomicU8::new(WARMUP),
    });
    let mut callers = Vec::new();
    for index in 0..bench.clients as usize {
        callers.push(target.caller(index).await?);
    }
    let mut tasks = JoinSet::new();
    if let Some(rate) = bench.rate {
        let schedule = open::Schedule::new(rate, bench.warmup.0, bench.duration.0);
        let (shared, runtime) = (shared.clone(), tokio::runtime::Handle::current());
        tasks.spawn_blocking(move || open::dispatch(&shared, callers, schedule, &runtime));
    } else {
        for (index, caller) in callers.into_iter().enumerate() {
            tasks.spawn(closed::call(shared.clone(), caller, index));
        }
    }
    if interrupts.work(sleep(bench.warmup.0)).await.is_none() {
        shared.enter(STOP);
        finish(tasks, interrupts).await;
        return Ok(None);
    }
    let mut servers = servers.watch();
    let client_before = own_cpu();
    let began = Instant::now();
    let operations_before = shared.recorder.operations();
    shared.enter(MEASURE);
    watch(&shared, &mut servers, began, interrupts).await;
    // The open loop ends by itself, when all is started that was to start.
    if bench.rate.is_none() {
        interrupts.work(at_least_one(&shared)).await;
    }
    let cut_short = interrupts.is_cut_short();
    if bench.rate.is_none() || cut_short {
        shared.enter(STOP);
    }
    let elapsed = began.elapsed();
    // Before the last calls are answered, so that only operations that count are paid for.
    let operations = shared.recorder.operations() - operations_before;
    servers.look();
    let usage = servers.usage();
    let client_cpu = own_cpu().zip(client_before).map(|(after, before)| after - before);
    finish(tasks, interrupts).await;
    Ok(Some(Measured { shared, operations, elapsed, usage, client_cpu, cut_short }))
}

/// The last calls end by their own deadlines, or are given up by who cut it short.
async fn finish(mut tasks: JoinSet<()>, interrupts: &Interrupts) {
    let all = async { while tasks.join_next().await.is_some() {} };
    let given_up = async {
        interrupts.first().await;
        sleep(SILENT_FOR).await;
        if io::stderr().is_terminal() {
            note("cut short; waiting for calls that have no answer yet, Ctrl-C does not");
        }
        sleep(CALLS_WITHIN).await;
    };
    tokio::select! {
        _ = interrupts.ending(all) => {}
        () = given_up => {}
    }
}

/// A closed loop in which nothing ended has measured nothing, so it goes on until something has: its
/// calls end by their own deadlines.
async fn at_least_one(shared: &Shared) {
    while shared.recorder.operations() + shared.recorder.errors() == 0 {
        sleep(LOOK_AGAIN).await;
    }
}

fn own_cpu() -> Option<Duration> {
    procs::cpu_time(&[std::process::id()]).ok()
}

/// Shows the rate of each second, and sees what the servers use.
async fn watch(shared: &Shared, servers: &mut Watched, began: Instant, interrupts: &Interrupts) {
    let duration = shared.bench.duration.0;
    let mut before = shared.recorder.operations();
    let mut is_on = true;
    while is_on && began.elapsed() < duration {
        let second = (duration - began.elapsed()).min(Duration::from_secs(1));
        let asleep = Instant::now();
        is_on = interrupts.work(sleep(second)).await.is_some();
        let operations = shared.recorder.operations();
        let rate = (operations - before) as f64 / asleep.elapsed().as_secs_f64();
        progress(&format!(
            "{:5.1} s  {:>10} operations/s  {} errors",
            began.elapsed().as_secs_f64(),
            grouped(rate as u64),
            shared.recorder.errors()
        ));
        before = operations;
        servers.look();
    }
    progress_done();
}
