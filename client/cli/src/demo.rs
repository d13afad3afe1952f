//! `tally demo`: clients count, leaders are killed, and then the books are audited.

mod kills;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::Args;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use serde_json::{Map, Value, json};
use tally_client::{
    Client, Outcome,
    history::{Part, Request},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use self::kills::{Kill, kill_leaders, killable, leader};
use crate::{
    args::{Common, DEFAULT_ENDPOINTS, History, Keep},
    audit::{Account, Verdict, audit},
    book::{Book, OBSERVER},
    cleanup::{Trace, Traces, tell_left},
    interrupts::Interrupts,
    load::{Failed, Recorder, grouped, micros},
    output::{Exit, Failure, Output, note, progress, progress_done},
    prefix::Kind,
    procs::OwnCluster,
    waiting::Waiting,
};

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// How often the leader is killed, 1 to 1000 times.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Concurrent clients, 1 to 10,000.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) clients: u32,
    /// Seconds of load between two kills, 1 to 3600, at least; a killed node also has to be back.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    #[command(flatten)]
    pub(crate) keep: Keep,
    #[command(flatten)]
    pub(crate) history: History,
}

/// Counters that the load is spread over, besides the hot one.
const SPREAD: usize = 15;
/// So long that an outage ends before it: an add whose outcome stays unknown blurs the audit.
const DEADLINE: Duration = Duration::from_secs(60);
/// Who cut it short does not wait longer for adds that have no answer: those count as unknown.
const ADDS_WITHIN: Duration = Duration::from_secs(5);
/// A cluster that answers within this time is the one to use.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// A new cluster has elected its first leader within this time.
const STARTS_WITHIN: Duration = Duration::from_secs(45);
/// A supervisor takes a node that dies sooner than this after its start for broken.
const RUNS_FOR: Duration = Duration::from_secs(3);

/// What clients and the one who kills share.
struct Shared {
    client: Client,
    counters: Vec<String>,
    recorder: Recorder,
    book: Book,
    began: Instant,
    stop: AtomicBool,
    /// Nobody waits any more for adds that have no answer.
    give_up: watch::Sender<bool>,
    successes: Mutex<Successes>,
}

#[derive(Debug)]
struct Successes {
    last: Instant,
    longest_gap: Duration,
    /// The first success of an add that was sent after this moment is waited for.
    waiting_since: Option<Instant>,
    first_after: Option<Instant>,
}

impl Shared {
    fn successes(&self) -> MutexGuard<'_, Successes> {
        self.successes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn succeeded(&self, sent: Instant) {
        let now = Instant::now();
        let mut successes = self.successes();
        successes.longest_gap =
            successes.longest_gap.max(now.saturating_duration_since(successes.last));
        successes.last = now;
        if successes.first_after.is_none()
            && successes.waiting_since.is_some_and(|since| sent >= since)
        {
            successes.first_after = Some(now);
        }
    }
}

pub(crate) async fn run(common: &Common, demo: &Demo, output: Output) -> Result<Exit, Failure> {
    let interrupts = Interrupts::listen();
    let (watcher, own) = reach(common, &interrupts).await?;
    let mut made = Made::default();
    let result = demonstrate(common, demo, &watcher, &interrupts, &mut made).await;
    let Made { traces, client } = made;
    if let Some(client) = client {
        interrupts.ending(timeout(ADDS_WITHIN, client.close())).await;
    }
    progress_done();
    let passed = result.as_ref().map_or(true, |(_, verdict)| verdict.passed());
    let printed = match &result {
        Ok((report, verdict)) => output.result(report, |report| show(report, verdict)),
        Err(_) => Ok(()),
    };
    if let Some(own) = own {
        let keep = !passed || (result.is_err() && !interrupts.is_cut_short());
        if let Some(directory) = own.stop(keep).await {
            note(&format!("the nodes' data and logs are kept in {}", directory.display()));
        }
    } else if !passed {
        tell_left("the audit failed, so its counters stay to be looked at", &traces, common);
    } else if !demo.keep.keep {
        let client = crate::client(common, &Waiting::default())?;
        Traces::own(traces).remove(common, &client, &interrupts).await;
    }
    let (_, verdict) = result?;
    if !verdict.passed() {
        return Ok(Exit::AuditFailed);
    }
    printed?;
    Ok(if interrupts.is_cut_short() { Exit::CutShort } else { Exit::Done })
}

/// What is to be ended, and removed.
#[derive(Default)]
struct Made {
    traces: Vec<Trace>,
    client: Option<Client>,
}

fn cut_short() -> Failure {
    Failure::cut_short("cut short before anything was counted".to_owned())
}

/// A client of the cluster that is there, or of one that is started.
async fn reach(
    common: &Common,
    interrupts: &Interrupts,
) -> Result<(Client, Option<OwnCluster>), Failure> {
    let builder = common.builder()?.deadline(ANSWERS_WITHIN).one_shot();
    let watcher = builder.build()?;
    let is_default = common.endpoints.join(",") == DEFAULT_ENDPOINTS;
    let waiting = Waiting::default();
    let (asked, patience) = if is_default {
        (watcher.clone(), ANSWERS_WITHIN)
    } else {
        (crate::client(common, &waiting)?, common.deadline.0)
    };
    let status = waiting.tell(patience, asked.status().into_future());
    let unreachable = match interrupts.work(status).await.ok_or_else(cut_short)? {
        Ok(status) => {
            note(&format!("using the cluster at {}", common.endpoints.join(",")));
            leader(&status)?;
            return Ok((watcher, None));
        }
        Err(error) => error,
    };
    if !is_default {
        return Err(unreachable.into());
    }
    let mut own = OwnCluster::start().map_err(|error| Failure::unable(error.to_string()))?;
    note(&format!("no cluster answers; starting one, its log is {}", own.log().display()));
    let began = Instant::now();
    loop {
        sleep(Duration::from_millis(200)).await;
        if interrupts.is_cut_short() {
            own.stop(false).await;
            return Err(cut_short());
        }
        if let Ok(status) = watcher.status().await
            && status.nodes.iter().all(|node| node.reachable)
            && leader(&status).is_ok()
        {
            // A supervisor takes a node that dies at once for broken.
            interrupts.work(sleep(RUNS_FOR)).await;
            return Ok((watcher, Some(own)));
        }
        if began.elapsed() > STARTS_WITHIN || own.has_ended() {
            let log = own.log();
            own.stop(true).await;
            let message = format!("the new cluster does not serve; see {}", log.display());
            return Err(Failure::unable(message));
        }
    }
}

async fn demonstrate(
    common: &Common,
    demo: &Demo,
    watcher: &Client,
    interrupts: &Interrupts,
    made: &mut Made,
) -> Result<(Map<String, Value>, Verdict), Failure> {
    let (began, run) = (Instant::now(), std::process::id());
    let prepared = async {
        let status = watcher.status().await?;
        status.nodes.iter().filter(|node| node.reachable).try_for_each(killable)?;
        let builder = common.builder()?.deadline(DEADLINE);
        let client = builder.connect().await?;
        let book = Book::open(demo.history.history.as_deref())?;
        let prefix = format!("demo/{run}-{}/", status.header.revision);
        let counters = counters(&client, &book, &prefix).await?;
        Ok::<_, Failure>((client, book, prefix, counters))
    };
    let (client, book, prefix, counters) =
        interrupts.work(prepared).await.ok_or_else(cut_short)??;
    made.traces.push(Trace::Prefix(Kind::Counter, prefix));
    made.client = Some(client.clone());
    let shared = Arc::new(Shared {
        counters,
        client,
        recorder: Recorder::new(),
        book,
        began,
        stop: AtomicBool::new(false),
        give_up: watch::Sender::new(false),
        successes: Mutex::new(Successes {
            last: began,
            longest_gap: Duration::ZERO,
            waiting_since: None,
            first_after: None,
        }),
    });
    let clients: Vec<_> = (0..demo.clients as usize)
        .map(|index| tokio::spawn(count(shared.clone(), index)))
        .collect();
    let reporter = tokio::spawn(report(shared.clone(), demo.clients));
    let mut kills = Vec::new();
    let killed = interrupts.work(kill_leaders(demo, watcher, &shared, &mut kills)).await;
    shared.stop.store(true, Ordering::Relaxed);
    reporter.abort();
    let books = collect(&shared, clients, interrupts).await?;
    killed.unwrap_or(Ok(()))?;
    let mut accounts = read_back(&shared, books, interrupts).await?;
    if let Some(path) = shared.book.close()? {
        note(&format!("judge the history with: tally-sim check {}", path.display()));
    }
    let verdict = audit(&mut accounts);
    let cut_short = interrupts.is_cut_short();
    Ok((describe(&shared, demo, &kills, &accounts, &verdict, cut_short), verdict))
}

/// Counters that are new, so that they start at 0.
async fn counters(client: &Client, book: &Book, prefix: &str) -> Result<Vec<String>, Failure> {
    let name = |item: usize| match item {
        0 => format!("{prefix}hot"),
        item => format!("{prefix}{item}"),
    };
    let names: Vec<_> = (0..=SPREAD).map(name).collect();
    let look = client.counters().batch_get(names.clone());
    let batch = book.call(OBSERVER, || Request::batch_get(names.clone()), look).await?;
    match batch.items.first() {
        None => Ok(names),
        Some(counter) => Err(Failure::unable(format!("{} exists already", counter.name))),
    }
}

/// One client: adds 1, half of the time to the counter that all share.
async fn count(shared: Arc<Shared>, index: usize) -> Vec<Account> {
    let mut random = SmallRng::seed_from_u64(index as u64);
    let mut books = vec![Account::default(); shared.counters.len()];
    let mut give_up = shared.give_up.subscribe();
    while !shared.stop.load(Ordering::Relaxed) {
        let item = if random.random() { 0 } else { random.random_range(1..=SPREAD) };
        let sent = Instant::now();
        let counter = &shared.counters[item];
        let request = || Request::from(Part::incr(counter, 1));
        let add = shared.client.counter(counter).add(1);
        let result = tokio::select! {
            result = shared.book.call(index as u64 + 1, request, add) => result,
            _ = give_up.wait_for(|give_up| *give_up) => {
                books[item].unknown += 1;
                break;
            }
        };
        match result {
            Ok(change) => {
                shared.succeeded(sent);
                shared.recorder.done(index, sent.elapsed());
                books[item].acknowledged += 1;
                books[item].values.push(change.value);
            }
            Err(error) => {
                shared.recorder.failed(&Failed::from(&error), sent.elapsed());
                if error.outcome() != Some(Outcome::NotApplied) {
                    books[item].unknown += 1;
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    books
}

async fn report(shared: Arc<Shared>, clients: u32) {
    let mut before = 0;
    loop {
        sleep(Duration::from_secs(1)).await;
        let done = shared.recorder.operations();
        let gap = shared.successes().longest_gap;
        progress(&format!(
            "{:5.0} s  {clients} clients  {:>8} adds/s  {:>10} acknowledged  {} unknown  longest \
             pause {} ms",
            shared.began.elapsed().as_secs_f64(),
            grouped(done - before),
            grouped(done),
            shared.recorder.unknown(),
            gap.as_millis()
        ));
        before = done;
    }
}

/// The books of all clients, counter by counter.
async fn collect(
    shared: &Shared,
    clients: Vec<JoinHandle<Vec<Account>>>,
    interrupts: &Interrupts,
) -> Result<Vec<Account>, Failure> {
    let give_up = async {
        interrupts.first().await;
        interrupts.ending(sleep(ADDS_WITHIN)).await;
        shared.give_up.send_replace(true);
        std::future::pending().await
    };
    tokio::select! {
        books = collect_all(shared, clients) => books,
        never = give_up => never,
    }
}

async fn collect_all(
    shared: &Shared,
    clients: Vec<JoinHandle<Vec<Account>>>,
) -> Result<Vec<Account>, Failure> {
    let name = |counter: &String| Account { counter: counter.clone(), ..Account::default() };
    let mut books: Vec<_> = shared.counters.iter().map(name).collect();
    for client in clients {
        let patience = DEADLINE + Duration::from_secs(1);
        let own = timeout(patience, client).await;
        let own = own.map_err(|_| Failure::unable("a client does not end".to_owned()))?;
        let own = own.map_err(|error| Failure::unable(format!("a client failed: {error}")))?;
        for (book, own) in books.iter_mut().zip(own) {
            book.acknowledged += own.acknowledged;
            book.unknown += own.unknown;
            book.values.extend(own.values);
        }
    }
    Ok(books)
}

/// What the counters hold, by one linearizable read.
async fn read_back(
    shared: &Shared,
    mut books: Vec<Account>,
    interrupts: &Interrupts,
) -> Result<Vec<Account>, Failure> {
    let names = || shared.counters.clone();
    let look = shared.client.counters().batch_get(names());
    let look = shared.book.call(OBSERVER, || Request::batch_get(names()), look);
    let unread = || Failure::cut_short("cut short, and the counters were not read".to_owned());
    let batch = interrupts.ending(look).await.ok_or_else(unread)??;
    for counter in batch.items {
        if let Some(book) = books.iter_mut().find(|book| book.counter == counter.name) {
            book.applied = counter.value;
        }
    }
    Ok(books)
}

fn describe(
    shared: &Shared,
    demo: &Demo,
    kills: &[Kill],
    accounts: &[Account],
    verdict: &Verdict,
    cut_short: bool,
) -> Map<String, Value> {
    let mut report = Map::new();
    let mut put = |name: &str, value: Value| report.insert(name.to_owned(), value);
    put("passed", json!(verdict.passed()));
    put("cut_short", json!(cut_short));
    put("clients", json!(demo.clients));
    put("rounds", json!(demo.rounds));
    put("seconds", json!(shared.began.elapsed().as_secs()));
    put("acknowledged", json!(verdict.acknowledged));
    put("applied", json!(verdict.applied));
    put("lost", json!(verdict.lost));
    put("counted_twice", json!(verdict.counted_twice));
    put("wrong_values", json!(verdict.wrong_values));
    put("longest_pause_ms", json!(shared.successes().longest_gap.as_millis() as u64));
    put("kills", json!(kills));
    put("counters", json!(accounts));
    report.extend(shared.recorder.figures());
    report
}

fn show(report: &Map<String, Value>, verdict: &Verdict) -> String {
    let number = |name: &str| report.get(name).and_then(Value::as_u64).unwrap_or_default();
    let killed = report.get("kills").and_then(Value::as_array).map_or(0, Vec::len);
    let mut text = String::new();
    if report.get("cut_short") == Some(&Value::Bool(true)) {
        text += &format!("\ncut short in round {} of {}", killed + 1, number("rounds"));
    }
    text += &format!(
        "\nleaders killed   {}\nacknowledged     {}\napplied          {}\nlost             \
         {}\ncounted twice    {}\nunknown          {}\nlongest pause    {} ms between two \
         successful writes\nlatency          p50 {}  p99 {}  p99.9 {}  max {}\n",
        killed,
        grouped(verdict.acknowledged),
        grouped(u64::try_from(verdict.applied).unwrap_or_default()),
        verdict.lost,
        verdict.counted_twice,
        verdict.unknown,
        number("longest_pause_ms"),
        micros(number("p50_us")),
        micros(number("p99_us")),
        micros(number("p999_us")),
        micros(number("max_us")),
    );
    text += match (verdict.passed(), verdict.unknown) {
        (true, 0) => "PASSED: every acknowledged add is there, and each counted exactly once.",
        (true, _) => {
            "PASSED: nothing is proven lost or counted twice. Adds with an unknown outcome could \
             each\nhide one fault; run it again for an exact audit."
        }
        (false, _) => "FAILED: see the counters with --json.",
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_report_has_the_fields_that_the_page_shows() {
        let page = include_str!("../../../docs/command-line.md");
        let (_, shown) = page.split_once("```json\n// tally demo ").unwrap();
        let shown = shown.split_once('\n').unwrap().1.split("```").next().unwrap();
        let shown: Value = serde_json::from_str(shown).unwrap();
        let now = Instant::now();
        let shared = Shared {
            client: Client::builder(["127.0.0.1:1"]).build().unwrap(),
            counters: Vec::new(),
            recorder: Recorder::new(),
            book: Book::open(None).unwrap(),
            began: now,
            stop: AtomicBool::new(false),
            give_up: watch::Sender::new(false),
            successes: Mutex::new(Successes {
                last: now,
                longest_gap: Duration::ZERO,
                waiting_since: None,
                first_after: None,
            }),
        };
        let demo = Demo {
            rounds: 1,
            clients: 1,
            seconds: 1,
            keep: Keep { keep: false },
            history: History { history: None },
        };
        let kills = [Kill { round: 1, node_id: 1, pid: 1, first_success_ms: 1, back_ms: 1 }];
        let mut accounts = [Account::default()];
        let verdict = audit(&mut accounts);
        let report = Value::Object(describe(&shared, &demo, &kills, &accounts, &verdict, false));
        let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&report), names(&shown));
        for list in ["kills", "counters"] {
            assert_eq!(names(&report[list][0]), names(&shown[list][0]), "{list}");
        }
    }
}
