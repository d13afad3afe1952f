//! One measurement: warm-up, the loop, what the servers and this process used meanwhile.

mod closed;
mod open;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    servers::{Servers, Usage},
    target::Target,
};
use crate::{
    bench::args::Bench,
    load::{Recorder, grouped},
    output::{Failure, progress, progress_done},
    procs,
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
}

/// Runs the load against a target that is prepared.
pub(super) async fn run(
    target: &Target,
    bench: &Bench,
    servers: &Servers,
) -> Result<Measured, Failure> {
    let shared = Arc::new(Shared {
        bench: bench.clone(),
        recorder: Recorder::new(),
        phase: AtomicU8::new(WARMUP),
    });
    let mut callers = Vec::new();
    for index in 0..bench.clients as usize {
        callers.push(target.caller(index).await?);
    }
    let mut tasks = Vec::new();
    if let Some(rate) = bench.rate {
        let schedule = open::Schedule::new(rate, bench.warmup.0, bench.duration.0);
        let (shared, runtime) = (shared.clone(), tokio::runtime::Handle::current());
        tasks.push(tokio::task::spawn_blocking(move || {
            open::dispatch(&shared, callers, schedule, &runtime);
        }));
    } else {
        for (index, caller) in callers.into_iter().enumerate() {
            tasks.push(tokio::spawn(closed::call(shared.clone(), caller, index)));
        }
    }
    sleep(bench.warmup.0).await;
    let usage_before = servers.usage()?;
    let client_before = own_cpu();
    let began = Instant::now();
    let operations_before = shared.recorder.operations();
    shared.enter(MEASURE);
    let memory = watch(&shared, servers, began).await;
    // The open loop ends by itself, when all is started that was to start.
    if bench.rate.is_none() {
        at_least_one(&shared).await;
        shared.enter(STOP);
    }
    let elapsed = began.elapsed();
    // Before the last calls are answered, so that only operations that count are paid for.
    let operations = shared.recorder.operations() - operations_before;
    let usage = servers.usage()?.zip(usage_before).map(|(after, before)| after.since(&before));
    let client_cpu = own_cpu().zip(client_before).map(|(after, before)| after - before);
    for task in tasks {
        let _ = task.await;
    }
    let usage = usage.map(|usage| usage.with_memory(memory));
    Ok(Measured { shared, operations, elapsed, usage, client_cpu })
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

/// Shows the rate of each second; returns the most memory that was seen, of each server.
async fn watch(shared: &Shared, servers: &Servers, began: Instant) -> Vec<u64> {
    let duration = shared.bench.duration.0;
    let mut before = shared.recorder.operations();
    let mut memory = servers.memory();
    while began.elapsed() < duration {
        let second = (duration - began.elapsed()).min(Duration::from_secs(1));
        let asleep = Instant::now();
        sleep(second).await;
        let operations = shared.recorder.operations();
        let rate = (operations - before) as f64 / asleep.elapsed().as_secs_f64();
        progress(&format!(
            "{:5.1} s  {:>10} operations/s  {} errors",
            began.elapsed().as_secs_f64(),
            grouped(rate as u64),
            shared.recorder.errors()
        ));
        before = operations;
        for (most, now) in memory.iter_mut().zip(servers.memory()) {
            *most = now.max(*most);
        }
    }
    progress_done();
    memory
}
