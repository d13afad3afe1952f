//! `tally fill`: makes a cluster large, quickly, to see what size costs.
//!
//! It writes as fast as it can: counters and keys many to an atomic step, everything else with many
//! calls in flight. What it made it removes again, unless it is to be kept. Done twice with the same numbers
//! it writes the same names again, but opens further sessions.

use std::{
    future::Future,
    ops::Range,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
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
    time::{Instant, sleep, timeout},
};
use tonic::transport::Channel;

use crate::{
    args::{Common, Keep},
    bench::{counter_name, key_name},
    cleanup::{Trace, Traces},
    interrupts::Interrupts,
    load::grouped,
    output::{Exit, Failure, Output, note, progress, progress_done},
    prefix::Kind,
    session::Closed,
    tls::Secrets,
    waiting::Waiting,
};

#[derive(Debug, Args)]
pub(crate) struct Fill {
    /// Counters to create, `fill/c/00000000` and so on.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) counters: u64,
    /// Keys to put, `fill/k/00000000` and so on.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) keys: u64,
    /// Bytes of each key's value, up to 1 MiB.
    #[arg(long, default_value_t = 256, value_name = "BYTES")]
    pub(crate) value_size: usize,
    /// Sessions to open, and to leave open for as long as the cluster allows. It ends, with status 3, when
    /// the cluster has no more places for this address.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) sessions: u64,
    /// Adds under an idempotency key of their own, remembered for the cluster's window.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) idempotency_keys: u64,
    /// Use the names of `bench`, so that it finds its counters and keys there. Keeps all of it.
    #[arg(long)]
    pub(crate) for_bench: bool,
    /// Start the numbers in names here.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) first: u64,
    #[command(flatten)]
    pub(crate) keep: Keep,
}

impl Fill {
    /// What it writes that can be removed: idempotency keys are forgotten by the cluster, after its window.
    fn traces(&self) -> Vec<Trace> {
        let all = [
            (self.counters, Trace::Prefix(Kind::Counter, "fill/c/".to_owned())),
            (self.keys, Trace::Prefix(Kind::Key, "fill/k/".to_owned())),
            (self.idempotency_keys, Trace::Name(Kind::Counter, "fill/idempotent".to_owned())),
        ];
        all.into_iter().filter(|(count, _)| *count > 0).map(|(_, trace)| trace).collect()
    }
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
/// Closing what was opened takes no longer.
const SESSIONS_WITHIN: Duration = Duration::from_secs(30);
/// Attempts to open one session: it is asked of a node directly, without the library's retries.
const ATTEMPTS: u32 = 20;

pub(crate) async fn run(common: &Common, fill: &Fill, output: Output) -> Result<Exit, Failure> {
    let interrupts = Interrupts::listen();
    let keep = fill.keep.keep || fill.for_bench;
    let waiting = Waiting::default();
    let one_shot = crate::client(common, &waiting)?;
    let reached = async {
        // Nobody there is said, and ends it, before anything else.
        waiting.tell(common.deadline.0, one_shot.status().into_future()).await?;
        let builder = common.builder()?.deadline(common.deadline.0);
        let client = builder.connect().await?;
        let look = Traces::look(&one_shot, if keep { Vec::new() } else { fill.traces() });
        Ok::<_, Failure>((client, waiting.tell(common.deadline.0, look).await?))
    };
    let nothing = || Failure::cut_short("cut short before anything was written".to_owned());
    let (client, traces) = interrupts.work(reached).await.ok_or_else(nothing)??;
    let opened = Arc::new(Opened::default());
    let done = write(common, fill, &client, &opened, &interrupts, output).await;
    interrupts.ending(client.close()).await;
    if !keep {
        traces.remove(common, &one_shot, &interrupts).await;
        close(&one_shot, &opened, &interrupts).await;
    }
    done
}

/// Ends the sessions that were opened.
async fn close(client: &Client, opened: &Opened, interrupts: &Interrupts) {
    let ids = std::mem::take(&mut *opened.ids.lock().unwrap_or_else(PoisonError::into_inner));
    if ids.is_empty() {
        return;
    }
    let count = ids.len() as u64;
    let mut closed = Closed::default();
    let closing = timeout(SESSIONS_WITHIN, closed.close(client, ids));
    if let Some(Ok(Ok(()))) = interrupts.ending(closing).await {
        note(&format!("-- closed {} sessions that it opened; --keep leaves them", grouped(count)));
    } else {
        note(&format!(
            "-- not all of the {} sessions that it opened were closed: `tally session list` shows them, and \
             `tally session close` ends them; by themselves they end after a day",
            grouped(count)
        ));
    }
}

/// Writes all that is asked for, and prints how long it took.
async fn write(
    common: &Common,
    fill: &Fill,
    client: &Client,
    opened: &Arc<Opened>,
    interrupts: &Interrupts,
    output: Output,
) -> Result<Exit, Failure> {
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
    let set = move |items: Range<u64>| {
        let add = |apply: tally_client::apply::Apply, item| {
            apply.then(Operation::counter_set(of.counter(item), 1))
        };
        let step = items.fold(steps.apply(), add);
        async move { step.await.map(drop).map_err(Failure::from) }
    };
    let (ended, took) =
        many("counters", range(fill.counters), STEP_OPERATIONS, STEPS, set, interrupts).await?;
    done("counters", ended, took);

    let by_bytes = (STEP_BYTES / (fill.value_size + 64)).max(1) as u64;
    let (steps, of) = (client.clone(), names.clone());
    let put = move |items: Range<u64>| {
        let put = |apply: tally_client::apply::Apply, item| {
            apply.then(Operation::key_put(of.key(item), value.clone()))
        };
        let step = items.fold(steps.apply(), put);
        async move { step.await.map(drop).map_err(Failure::from) }
    };
    let step = by_bytes.min(STEP_OPERATIONS);
    let (ended, took) = many("keys", range(fill.keys), step, STEPS, put, interrupts).await?;
    done("keys", ended, took);

    let writes = client.clone();
    let add = move |item: Range<u64>| {
        let key = format!("fill-{:010}", item.start);
        let add = writes.counter("fill/idempotent").add(1).idempotency_key(key);
        async move { add.await.map(drop).map_err(Failure::from) }
    };
    let what = "idempotency keys";
    let (ended, took) = many(what, range(fill.idempotency_keys), 1, CALLS, add, interrupts).await?;
    done("idempotency_keys", ended, took);

    let channels = channels(common)?;
    let its_opened = opened.clone();
    let open = move |item: Range<u64>| {
        let channel = channels[item.start as usize % channels.len()].clone();
        let opened = its_opened.clone();
        async move { open_session(channel, &opened).await }
    };
    let (_, took) = many("sessions", range(fill.sessions), 1, CALLS, open, interrupts).await?;
    let count = opened.count();
    done("sessions", count, took);

    let is_printed = !result.is_empty();
    let cut_short = interrupts.is_cut_short();
    result.insert("cut_short".to_owned(), json!(cut_short));
    let Some(why) = opened.refused.get() else {
        output.written(&result, show)?;
        return Ok(if cut_short { Exit::CutShort } else { Exit::Done });
    };
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
    ids: Mutex<Vec<u64>>,
    /// There is no place for more, and why: the rest is not asked for.
    refused: OnceLock<String>,
}

impl Opened {
    fn count(&self) -> u64 {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }
}

fn show(result: &Map<String, Value>) -> String {
    let line = |(what, value): (&String, &Value)| {
        let count = value.get("count")?.as_u64()?;
        let seconds = value.get("seconds")?.as_f64()?;
        let rate = (count as f64 / seconds.max(0.001)) as u64;
        Some(format!("{what}: {} in {seconds:.1} s, {} a second", grouped(count), grouped(rate)))
    };
    let cut_short = result.get("cut_short") == Some(&Value::Bool(true));
    let cut_short = cut_short.then(|| "cut short".to_owned());
    result.iter().filter_map(line).chain(cut_short).collect::<Vec<_>>().join("\n")
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

/// Makes a call for each step of the range, so many at once, and shows how far it is. How many items are
/// done in the end, and how long that took: not all, if it is cut short.
async fn many<F, R>(
    what: &str,
    items: Range<u64>,
    step: u64,
    at_once: usize,
    call: F,
    interrupts: &Interrupts,
) -> Result<(u64, Duration), Failure>
where
    F: Fn(Range<u64>) -> R,
    R: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let began = Instant::now();
    if items.is_empty() || interrupts.is_cut_short() {
        return Ok((0, Duration::ZERO));
    }
    let count = items.end - items.start;
    let done = AtomicU64::new(0);
    let so_far = || done.load(Ordering::Relaxed).min(count);
    let shown = async {
        loop {
            sleep(Duration::from_secs(1)).await;
            progress(&format!("{what}: {:>12} of {}", grouped(so_far()), grouped(count)));
        }
    };
    // Who cuts it short drops the calls that are under way.
    let filled = async {
        let mut calls = JoinSet::new();
        let ended = |call: Option<Result<Result<(), Failure>, tokio::task::JoinError>>| {
            match call {
                Some(Ok(result)) => result?,
                Some(Err(error)) => return Err(Failure::unable(error.to_string())),
                None => return Ok(()),
            }
            done.fetch_add(step, Ordering::Relaxed);
            Ok(())
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
        result = interrupts.work(filled) => result.unwrap_or(Ok(()))?,
        () = shown => {}
    }
    progress_done();
    Ok((so_far(), began.elapsed()))
}

fn channels(common: &Common) -> Result<Vec<Channel>, Failure> {
    let secrets = Secrets::read(&common.tls, &common.endpoints)?;
    let channel = |at: &String| {
        let endpoint = secrets.endpoint(at);
        let endpoint = endpoint.map_err(|error| Failure::usage(format!("{at}: {error}")))?;
        Ok(endpoint.tcp_nodelay(true).connect_lazy())
    };
    common.endpoints.iter().map(channel).collect()
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
            Ok(answer) => {
                let id = answer.into_inner().session_id;
                opened.ids.lock().unwrap_or_else(PoisonError::into_inner).push(id);
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
