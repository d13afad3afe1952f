//! `tally bench`: a closed loop. Each caller has one call in flight and makes the next one when it
//! is answered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use serde_json::{Map, Value, json};
use tally_client::{
    Client, Result,
    apply::Operation,
    history::{Part, Request},
};
use tokio::time::{Instant, sleep};

use crate::{
    args::{Arguments, Bench, Way, Workload},
    book::{Book, OBSERVER},
    load::{Recorder, grouped, micros},
    output::{Failure, Output, progress, progress_done},
    procs,
};

/// Counters and keys of a benchmark start with this.
const PREFIX: &str = "bench/";
/// What every account holds at first; a transfer moves 1.
const ACCOUNT: i64 = 1_000_000;
/// Items that one atomic step prepares: within its 128 operations and 2 MiB.
const PREPARE_OPERATIONS: u64 = 128;
const PREPARE_BYTES: usize = 1024 * 1024;
/// Steps that prepare at once.
const PREPARE_TASKS: u64 = 16;

const WARMUP: u8 = 0;
const MEASURE: u8 = 1;
const STOP: u8 = 2;

struct Shared {
    arguments: Bench,
    value: Bytes,
    recorder: Recorder,
    book: Arc<Book>,
    phase: AtomicU8,
}

pub(crate) async fn run(
    arguments: &Arguments,
    bench: &Bench,
    output: Output,
) -> Result<(), Failure> {
    let mut clients = Vec::new();
    for _ in 0..bench.connections {
        let builder = Client::builder(arguments.endpoints.clone()).deadline(arguments.deadline.0);
        clients.push(builder.transport(bench.transport.into()).connect().await?);
    }
    let book = Arc::new(Book::open(bench.history.history.as_deref())?);
    prepare(&clients[0], &book, bench).await?;
    let shared = Arc::new(Shared {
        arguments: Bench {
            read: crate::args::Read { read: bench.read.read.clone() },
            pids: bench.pids.clone(),
            history: crate::args::History { history: bench.history.history.clone() },
            ..*bench
        },
        value: vec![b'v'; bench.value_size].into(),
        recorder: Recorder::new(),
        book,
        phase: AtomicU8::new(WARMUP),
    });
    let callers: Vec<_> = (0..bench.clients as usize)
        .map(|index| {
            let client = clients[index % clients.len()].clone();
            tokio::spawn(caller(shared.clone(), client, index))
        })
        .collect();
    sleep(bench.warmup.0).await;
    let cpu_before = cpu_time(&bench.pids)?;
    let began = Instant::now();
    shared.phase.store(MEASURE, Ordering::Relaxed);
    watch(&shared, began, bench.duration.0).await;
    shared.phase.store(STOP, Ordering::Relaxed);
    let elapsed = began.elapsed();
    // Before the last calls are answered, so that only operations that count are paid for.
    let operations = shared.recorder.operations();
    let cpu = cpu_time(&bench.pids)?.zip(cpu_before).map(|(after, before)| after - before);
    for caller in callers {
        let _ = caller.await;
    }
    last_look(&clients[0], &shared).await?;
    for client in &clients {
        client.close().await;
    }
    let history = shared.book.close()?;
    let mut result = figures(&shared, operations, elapsed, cpu);
    if let Some(path) = history {
        result.insert("history".to_owned(), json!(path.display().to_string()));
    }
    output.result(&result, show);
    Ok(())
}

fn cpu_time(pids: &[u32]) -> Result<Option<Duration>, Failure> {
    if pids.is_empty() {
        return Ok(None);
    }
    procs::cpu_time(pids).map(Some).map_err(|error| Failure::usage(format!("--pids: {error}")))
}

/// Shows the rate of each second.
async fn watch(shared: &Shared, began: Instant, duration: Duration) {
    let mut before = 0;
    while began.elapsed() < duration {
        sleep((duration - began.elapsed()).min(Duration::from_secs(1))).await;
        let operations = shared.recorder.operations();
        progress(&format!(
            "{:5.1} s  {:>10} operations/s  {} errors",
            began.elapsed().as_secs_f64(),
            grouped(operations - before),
            shared.recorder.errors()
        ));
        before = operations;
    }
    progress_done();
}

async fn caller(shared: Arc<Shared>, client: Client, index: usize) {
    let mut random = SmallRng::seed_from_u64(shared.arguments.seed ^ (index as u64) << 20);
    loop {
        let began = Instant::now();
        let phase_at_start = shared.phase.load(Ordering::Relaxed);
        if phase_at_start == STOP {
            return;
        }
        let result = operation(&shared, &client, index as u64 + 1, &mut random).await;
        // Only what began and ended while it was measured counts.
        if phase_at_start == MEASURE && shared.phase.load(Ordering::Relaxed) == MEASURE {
            match &result {
                Ok(()) => shared.recorder.done(index, began.elapsed()),
                Err(error) => shared.recorder.failed(error),
            }
        }
        if result.is_err() {
            // A cluster that refuses at once is not to be asked in a tight loop.
            sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn operation(
    shared: &Shared,
    client: &Client,
    caller: u64,
    random: &mut SmallRng,
) -> Result<()> {
    let Bench { workload, spread, .. } = shared.arguments;
    let kind = match workload {
        Workload::Mixed => match random.random_range(0..10) {
            0..7 => Workload::Get,
            7..9 => Workload::AddSpread,
            _ => Workload::Put,
        },
        other => other,
    };
    let item = random.random_range(0..spread);
    let book = &shared.book;
    match kind {
        Workload::AddHot | Workload::AddSpread => {
            let name =
                if kind == Workload::AddHot { format!("{PREFIX}hot") } else { counter(item) };
            let add = client.counter(&name).add(1);
            book.call(caller, || Part::incr(name, 1).into(), add).await.map(drop)
        }
        Workload::Put => {
            let put = client.keys().put(key(item), shared.value.clone());
            let request = || Part::put(key(item), shared.value.clone()).into();
            book.call(caller, request, put).await.map(drop)
        }
        Workload::Get | Workload::Mixed => {
            let level = shared.arguments.read.read.clone();
            let request = || Request::from(Part::read(key(item))).level(&level);
            let get = client.keys().get(key(item)).level(level.clone());
            book.call(caller, request, get).await.map(drop)
        }
        Workload::ApplyTransfer => {
            let other = (item + random.random_range(1..spread.max(2))) % spread.max(2);
            let (from, to) = (account(item), account(other));
            let transfer = client
                .apply()
                .then(Operation::counter_add(&from, -1).floor(0))
                .then(Operation::counter_add(&to, 1));
            let request = || Request::apply([Part::incr(from, -1).floor(0), Part::incr(to, 1)]);
            book.call(caller, request, transfer).await.map(drop)
        }
    }
}

fn counter(item: u64) -> String {
    format!("{PREFIX}c/{item:08}")
}

fn key(item: u64) -> String {
    format!("{PREFIX}k/{item:08}")
}

fn account(item: u64) -> String {
    format!("{PREFIX}account/{item:08}")
}

/// Writes what the workload reads or takes from.
async fn prepare(client: &Client, book: &Arc<Book>, bench: &Bench) -> Result<(), Failure> {
    let value: Bytes = vec![b'v'; bench.value_size].into();
    let make: fn(u64, &Bytes) -> (Operation, Part) = match bench.workload {
        Workload::Get | Workload::Mixed => |item, value| {
            let part = Part::put(key(item), value.clone());
            (Operation::key_put(key(item), value.clone()), part)
        },
        Workload::ApplyTransfer => |item, _| {
            let part = Part::set(account(item), ACCOUNT);
            (Operation::counter_set(account(item), ACCOUNT), part)
        },
        Workload::AddHot | Workload::AddSpread | Workload::Put => return Ok(()),
    };
    let by_bytes = (PREPARE_BYTES / (bench.value_size + 64)).max(1) as u64;
    let step = by_bytes.min(PREPARE_OPERATIONS);
    let spread = bench.spread;
    let tasks: Vec<_> = (0..PREPARE_TASKS)
        .map(|task| {
            let (client, book, value) = (client.clone(), book.clone(), value.clone());
            tokio::spawn(async move {
                let firsts = (task * step..spread).step_by((step * PREPARE_TASKS) as usize);
                for first in firsts {
                    let mut apply = client.apply();
                    let mut parts = Vec::new();
                    for item in first..(first + step).min(spread) {
                        let (operation, part) = make(item, &value);
                        apply = apply.then(operation);
                        parts.push(part);
                    }
                    book.call(OBSERVER, || Request::apply(parts), apply).await?;
                }
                Ok::<(), tally_client::Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(|error| Failure::unable(error.to_string()))??;
    }
    Ok(())
}

/// A history ends with what all the adds came to.
async fn last_look(client: &Client, shared: &Shared) -> Result<(), Failure> {
    /// Names that one batch read takes.
    const NAMES_MAX: u64 = 128;
    let bench = &shared.arguments;
    let names: Vec<String> = match bench.workload {
        Workload::AddHot => vec![format!("{PREFIX}hot")],
        Workload::AddSpread => (0..bench.spread.min(NAMES_MAX)).map(counter).collect(),
        Workload::ApplyTransfer => (0..bench.spread.min(NAMES_MAX)).map(account).collect(),
        Workload::Put | Workload::Get | Workload::Mixed => return Ok(()),
    };
    if bench.history.history.is_some() {
        let look = client.counters().batch_get(names.clone());
        shared.book.call(OBSERVER, || Request::batch_get(names), look).await?;
    }
    Ok(())
}

fn figures(
    shared: &Shared,
    operations: u64,
    elapsed: Duration,
    cpu: Option<Duration>,
) -> Map<String, Value> {
    let bench = &shared.arguments;
    let seconds = elapsed.as_secs_f64();
    let rate = operations as f64 / seconds;
    let mut result = Map::new();
    let mut put = |name: &str, value: Value| result.insert(name.to_owned(), value);
    put("workload", json!(name_of(bench.workload)));
    put("transport", json!(if bench.transport == Way::Stream { "stream" } else { "unary" }));
    put("clients", json!(bench.clients));
    put("connections", json!(bench.connections));
    put("duration_s", json!((seconds * 1000.0).round() / 1000.0));
    put("operations", json!(operations));
    put("ops_per_second", json!((rate * 10.0).round() / 10.0));
    if let Some(cpu) = cpu {
        put("server_cpu_s", json!(cpu.as_secs_f64()));
        let each = cpu.as_secs_f64() * 1e6 / operations.max(1) as f64;
        put("server_cpu_us_per_op", json!((each * 100.0).round() / 100.0));
    }
    result.extend(shared.recorder.figures());
    result
}

fn name_of(workload: Workload) -> String {
    use clap::ValueEnum as _;
    workload.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn show(result: &Map<String, Value>) -> String {
    let number = |name: &str| result.get(name).and_then(Value::as_f64).unwrap_or_default();
    let latency = |name: &str| micros(number(name) as u64);
    let mut text = format!(
        "{} operations/s\nlatency  p50 {}  p95 {}  p99 {}  p99.9 {}  max {}\nerrors   {}",
        grouped(number("ops_per_second") as u64),
        latency("p50_us"),
        latency("p95_us"),
        latency("p99_us"),
        latency("p999_us"),
        latency("max_us"),
        number("errors"),
    );
    if let Some(reasons) = result["error_reasons"].as_object().filter(|all| !all.is_empty()) {
        text += &format!("  {}", Value::Object(reasons.clone()));
    }
    if result.contains_key("server_cpu_us_per_op") {
        text += &format!("\nserver CPU  {} µs per operation", number("server_cpu_us_per_op"));
    }
    text
}
