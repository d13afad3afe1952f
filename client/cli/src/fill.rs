//! `tally fill`: makes a cluster large, quickly, to see what size costs.
//!
//! It writes as fast as it can: counters and keys many to an atomic step, everything else with many
//! calls in flight. Done twice with the same numbers it writes the same names again, but opens
//! further sessions.

use std::{
    future::Future,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use serde_json::{Map, Value, json};
use tally_client::{Client, apply::Operation, proto as v1, reason};
use tally_proto::status::{Details, from_tonic};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::transport::{Channel, Endpoint};

use crate::{
    args::Common,
    bench::{counter_name, key_name},
    load::grouped,
    output::{Failure, Output, progress, progress_done},
};

#[derive(Debug, Args)]
pub(crate) struct Fill {
    /// Counters to create, `fill/c/00000000` and so on.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) counters: u64,
    /// Keys to put, `fill/k/00000000` and so on.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) keys: u64,
    /// Bytes of each key's value.
    #[arg(long, default_value_t = 256, value_name = "BYTES")]
    pub(crate) value_size: usize,
    /// Sessions to open, and to leave open for as long as the cluster allows. It ends, with status 3, when
    /// the cluster has no more places for this address.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) sessions: u64,
    /// Adds under an idempotency key of their own, remembered for the cluster's window.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) idempotency_keys: u64,
    /// Use the names of `bench`, so that it finds its counters and keys there.
    #[arg(long)]
    pub(crate) for_bench: bool,
    /// Start the numbers in names here.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) first: u64,
}

/// Operations of one atomic step: as many as one may have.
const STEP_OPERATIONS: u64 = 128;
/// Bytes of the values in one atomic step: half of what a request may have.
const STEP_BYTES: usize = 1024 * 1024;
/// Calls in flight: enough to fill the log's batches, few enough to leave room for other callers.
const CALLS: usize = 1024;
/// Steps in flight, each of many operations.
const STEPS: usize = 32;
/// A session of somebody who vanished: it stays open for as long as a cluster allows.
const SESSION_IDLE_MS: u64 = 24 * 60 * 60 * 1000;
/// Attempts to open one session: it is asked of a node directly, without the library's retries.
const ATTEMPTS: u32 = 20;

pub(crate) async fn run(common: &Common, fill: &Fill, output: Output) -> Result<(), Failure> {
    let builder = Client::builder(common.endpoints.clone()).deadline(common.deadline.0);
    let client = builder.connect().await?;
    let names = Arc::new(Names { for_bench: fill.for_bench });
    let value: Bytes = vec![b'v'; fill.value_size].into();
    let mut result = Map::new();
    let mut done = |what: &str, count: u64, took: Duration| {
        if count > 0 {
            let seconds = (took.as_secs_f64() * 1000.0).round() / 1000.0;
            result.insert(what.to_owned(), json!({ "count": count, "seconds": seconds }));
        }
    };

    let range = |count: u64| fill.first..fill.first + count;
    let (steps, of) = (client.clone(), names.clone());
    let took = in_steps("counters", range(fill.counters), STEP_OPERATIONS, move |items| {
        let add = |apply: tally_client::apply::Apply, item| {
            apply.then(Operation::counter_set(of.counter(item), 1))
        };
        let step = items.fold(steps.apply(), add);
        async move { step.await.map(drop).map_err(Failure::from) }
    });
    done("counters", fill.counters, took.await?);

    let by_bytes = (STEP_BYTES / (fill.value_size + 64)).max(1) as u64;
    let (steps, of) = (client.clone(), names.clone());
    let took = in_steps("keys", range(fill.keys), by_bytes.min(STEP_OPERATIONS), move |items| {
        let put = |apply: tally_client::apply::Apply, item| {
            apply.then(Operation::key_put(of.key(item), value.clone()))
        };
        let step = items.fold(steps.apply(), put);
        async move { step.await.map(drop).map_err(Failure::from) }
    });
    done("keys", fill.keys, took.await?);

    let writes = client.clone();
    let took = many("idempotency keys", range(fill.idempotency_keys), 1, CALLS, move |item| {
        let key = format!("fill-{:010}", item.start);
        let add = writes.counter("fill/idempotent").add(1).idempotency_key(key);
        async move { add.await.map(drop).map_err(Failure::from) }
    });
    done("idempotency_keys", fill.idempotency_keys, took.await?);

    let channels = channels(&common.endpoints)?;
    let opened = Arc::new(Opened::default());
    let its_opened = opened.clone();
    let took = many("sessions", range(fill.sessions), 1, CALLS, move |item| {
        let channel = channels[item.start as usize % channels.len()].clone();
        let opened = its_opened.clone();
        async move { open_session(channel, &opened).await }
    });
    let took = took.await?;
    let count = opened.count.load(Ordering::Relaxed);
    done("sessions", count, took);

    client.close().await;
    let Some(why) = opened.refused.get() else { return output.written(&result, show) };
    let is_printed = !result.is_empty();
    if is_printed {
        output.written(&result, show)?;
    }
    let message = format!(
        "{} of {} sessions were opened, then: {why}\n`tally session list` shows who holds them, `tally \
         session close` ends some. Clients of the\nlibrary that get none write under idempotency keys.",
        grouped(count),
        grouped(fill.sessions)
    );
    Err(Failure::no_place(message, is_printed))
}

/// How far the sessions are.
#[derive(Default)]
struct Opened {
    count: AtomicU64,
    /// There is no place for more, and why: the rest is not asked for.
    refused: OnceLock<String>,
}

fn show(result: &Map<String, Value>) -> String {
    let line = |(what, value): (&String, &Value)| {
        let count = value["count"].as_u64().unwrap_or_default();
        let seconds = value["seconds"].as_f64().unwrap_or_default();
        let rate = (count as f64 / seconds.max(0.001)) as u64;
        format!("{what}: {} in {seconds:.1} s, {} a second", grouped(count), grouped(rate))
    };
    result.iter().map(line).collect::<Vec<_>>().join("\n")
}

struct Names {
    for_bench: bool,
}

impl Names {
    fn counter(&self, item: u64) -> String {
        if self.for_bench { counter_name(item) } else { format!("fill/c/{item:08}") }
    }

    fn key(&self, item: u64) -> String {
        if self.for_bench { key_name(item) } else { format!("fill/k/{item:08}") }
    }
}

async fn in_steps<F, R>(
    what: &str,
    items: std::ops::Range<u64>,
    step: u64,
    call: F,
) -> Result<Duration, Failure>
where
    F: Fn(std::ops::Range<u64>) -> R,
    R: Future<Output = Result<(), Failure>> + Send + 'static,
{
    many(what, items, step, STEPS, call).await
}

/// Makes a call for each step of the range, so many at once, and shows how far it is.
async fn many<F, R>(
    what: &str,
    items: std::ops::Range<u64>,
    step: u64,
    at_once: usize,
    call: F,
) -> Result<Duration, Failure>
where
    F: Fn(std::ops::Range<u64>) -> R,
    R: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let began = Instant::now();
    if items.is_empty() {
        return Ok(Duration::ZERO);
    }
    let count = items.end - items.start;
    let done = AtomicU64::new(0);
    let shown = async {
        loop {
            sleep(Duration::from_secs(1)).await;
            let done = done.load(Ordering::Relaxed);
            progress(&format!("{what}: {:>12} of {}", grouped(done), grouped(count)));
        }
    };
    let filled = async {
        let mut calls = JoinSet::new();
        let ended = |call: Option<Result<Result<(), Failure>, tokio::task::JoinError>>| {
            done.fetch_add(step, Ordering::Relaxed);
            match call {
                Some(Ok(result)) => result,
                Some(Err(error)) => Err(Failure::unable(error.to_string())),
                None => Ok(()),
            }
        };
        for first in items.clone().step_by(step as usize) {
            if calls.len() >= at_once {
                ended(calls.join_next().await)?;
            }
            calls.spawn(call(first..(first + step).min(items.end)));
        }
        while !calls.is_empty() {
            ended(calls.join_next().await)?;
        }
        Ok::<(), Failure>(())
    };
    tokio::select! {
        result = filled => result?,
        () = shown => {}
    }
    progress_done();
    Ok(began.elapsed())
}

fn channels(endpoints: &[String]) -> Result<Vec<Channel>, Failure> {
    let channel = |at: &String| {
        let endpoint = Endpoint::from_shared(format!("http://{at}"));
        let endpoint = endpoint.map_err(|error| Failure::usage(format!("{at}: {error}")))?;
        Ok(endpoint.tcp_nodelay(true).connect_lazy())
    };
    endpoints.iter().map(channel).collect()
}

/// Opens a session and forgets it. The library would end it together with its client.
async fn open_session(channel: Channel, opened: &Opened) -> Result<(), Failure> {
    if opened.refused.get().is_some() {
        return Ok(());
    }
    let mut client = v1::sessions_client::SessionsClient::new(channel);
    let mut attempt = 0;
    loop {
        attempt += 1;
        let request = v1::SessionsOpenRequest { idle_timeout_ms: SESSION_IDLE_MS };
        match client.open(request).await {
            Ok(_) => {
                opened.count.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            Err(status)
                if Details::parse_call(&from_tonic(&status)).reason
                    == reason::SESSION_TABLE_FULL =>
            {
                let _ = opened.refused.set(status.message().to_owned());
                return Ok(());
            }
            Err(status) if attempt >= ATTEMPTS => {
                return Err(Failure::unable(format!("no session: {}", status.message())));
            }
            Err(_) => sleep(Duration::from_millis(20 << attempt.min(6))).await,
        }
    }
}
