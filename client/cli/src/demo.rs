//! `tally demo`: clients count, leaders are killed, and then the books are audited.

use std::{
    net::{IpAddr, ToSocketAddrs as _, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::Args;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tally_client::{
    Client, NodeInfo, Outcome, Status,
    history::{Part, Request},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::{
    args::{Common, DEFAULT_ENDPOINTS, History},
    audit::{Account, Verdict, audit},
    book::{Book, OBSERVER},
    load::{Failed, Recorder, grouped, micros},
    output::{Exit, Failure, Output, note, progress, progress_done},
    procs::{self, OwnCluster},
};

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// How often the leader is killed.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Concurrent clients.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) clients: u32,
    /// Seconds of load between two kills, at least; a killed node also has to be back.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    #[command(flatten)]
    pub(crate) history: History,
}

/// Counters that the load is spread over, besides the hot one.
const SPREAD: usize = 15;
/// So long that an outage ends before it: an add whose outcome stays unknown blurs the audit.
const DEADLINE: Duration = Duration::from_secs(60);
/// A cluster that answers within this time is the one to use.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// A new cluster has elected its first leader within this time.
const STARTS_WITHIN: Duration = Duration::from_secs(45);
/// A killed node is back within this time, or nobody restarts it.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// A supervisor takes a node that dies sooner than this after its start for broken.
const RUNS_FOR: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Serialize)]
struct Kill {
    round: u32,
    node_id: u64,
    pid: u32,
    /// From the signal to the first acknowledged add that was sent after it.
    first_success_ms: u64,
    /// From the signal until the node answered again.
    back_ms: u64,
}

/// What clients and the one who kills share.
struct Shared {
    client: Client,
    counters: Vec<String>,
    recorder: Recorder,
    book: Book,
    began: Instant,
    stop: AtomicBool,
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
    let (watcher, own) = reach(common).await?;
    let result = tokio::select! {
        result = demonstrate(common, demo, &watcher) => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::unable("interrupted".to_owned())),
    };
    progress_done();
    if let Some(own) = own {
        let keep = result.as_ref().map_or(true, |(_, verdict)| !verdict.passed());
        if let Some(directory) = own.stop(keep).await {
            note(&format!("the nodes' data and logs are kept in {}", directory.display()));
        }
    }
    let (report, verdict) = result?;
    let printed = output.result(&report, |report| show(report, &verdict));
    if verdict.passed() {
        printed?;
    }
    Ok(if verdict.passed() { Exit::Done } else { Exit::AuditFailed })
}

/// A client of the cluster that is there, or of one that is started.
async fn reach(common: &Common) -> Result<(Client, Option<OwnCluster>), Failure> {
    let builder = Client::builder(common.endpoints.clone()).deadline(ANSWERS_WITHIN).one_shot();
    let client = builder.build()?;
    let unreachable = match client.status().await {
        Ok(status) => {
            note(&format!("using the cluster at {}", common.endpoints.join(",")));
            leader(&status)?;
            return Ok((client, None));
        }
        Err(error) => error,
    };
    if common.endpoints.join(",") != DEFAULT_ENDPOINTS {
        return Err(unreachable.into());
    }
    let mut own = OwnCluster::start().map_err(|error| Failure::unable(error.to_string()))?;
    note(&format!("no cluster answers; starting one, its log is {}", own.log().display()));
    let began = Instant::now();
    loop {
        sleep(Duration::from_millis(200)).await;
        if let Ok(status) = client.status().await
            && status.nodes.iter().all(|node| node.reachable)
            && leader(&status).is_ok()
        {
            // A supervisor takes a node that dies at once for broken.
            sleep(RUNS_FOR).await;
            return Ok((client, Some(own)));
        }
        if began.elapsed() > STARTS_WITHIN || own.has_ended() {
            let log = own.log();
            own.stop(true).await;
            let message = format!("the new cluster does not serve; see {}", log.display());
            return Err(Failure::unable(message));
        }
    }
}

fn leader(status: &Status) -> Result<&NodeInfo, Failure> {
    let leaders = status.nodes.iter().filter(|node| node.reachable && node.role == "leader");
    leaders
        .max_by_key(|node| node.term)
        .ok_or_else(|| Failure::unable("the cluster has no leader".to_owned()))
}

/// Refuses to kill what may be a stranger: the process must be a node, and the node's address one of
/// this machine's.
fn killable(node: &NodeInfo) -> Result<(), Failure> {
    let addresses = node.address.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
    let is_here = |ip: IpAddr| UdpSocket::bind((ip, 0)).is_ok();
    let local = addresses.is_ok_and(|all| all.iter().any(|address| is_here(address.ip())));
    if local && procs::is_node(node.pid) {
        return Ok(());
    }
    Err(Failure::unable(format!(
        "node {} at {} says that it is process {}, which is no tallyd on this machine: not killed",
        node.id, node.address, node.pid
    )))
}

async fn demonstrate(
    common: &Common,
    demo: &Demo,
    watcher: &Client,
) -> Result<(Map<String, Value>, Verdict), Failure> {
    let status = watcher.status().await?;
    status.nodes.iter().filter(|node| node.reachable).try_for_each(killable)?;
    let client = Client::builder(common.endpoints.clone()).deadline(DEADLINE).connect().await?;
    let book = Book::open(demo.history.history.as_deref())?;
    let run = std::process::id();
    let began = Instant::now();
    let shared = Arc::new(Shared {
        counters: counters(&client, &book, run, status.header.revision).await?,
        client,
        recorder: Recorder::new(),
        book,
        began,
        stop: AtomicBool::new(false),
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
    let kills = kill_leaders(demo, watcher, &shared).await;
    shared.stop.store(true, Ordering::Relaxed);
    reporter.abort();
    let books = collect(&shared, clients).await?;
    let kills = kills?;
    let mut accounts = read_back(&shared, books).await?;
    shared.client.close().await;
    if let Some(path) = shared.book.close()? {
        note(&format!("judge the history with: tally-sim check {}", path.display()));
    }
    let verdict = audit(&mut accounts);
    Ok((describe(&shared, demo, &kills, &accounts, &verdict), verdict))
}

/// Counters that are new, so that they start at 0.
async fn counters(
    client: &Client,
    book: &Book,
    run: u32,
    revision: u64,
) -> Result<Vec<String>, Failure> {
    let name = |item: usize| match item {
        0 => format!("demo/{run}-{revision}/hot"),
        item => format!("demo/{run}-{revision}/{item}"),
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
    while !shared.stop.load(Ordering::Relaxed) {
        let item = if random.random() { 0 } else { random.random_range(1..=SPREAD) };
        let sent = Instant::now();
        let counter = &shared.counters[item];
        let request = || Request::from(Part::incr(counter, 1));
        let add = shared.client.counter(counter).add(1);
        match shared.book.call(index as u64 + 1, request, add).await {
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

async fn kill_leaders(
    demo: &Demo,
    watcher: &Client,
    shared: &Shared,
) -> Result<Vec<Kill>, Failure> {
    let mut kills = Vec::new();
    for round in 1..=demo.rounds {
        sleep(Duration::from_secs(demo.seconds)).await;
        let status = wait_for(watcher, BACK_WITHIN, |status| leader(status).is_ok()).await?;
        let victim = leader(&status)?.clone();
        killable(&victim)?;
        let killed = Instant::now();
        {
            let mut successes = shared.successes();
            successes.waiting_since = Some(killed);
            successes.first_after = None;
        }
        procs::kill(victim.pid).map_err(|error| Failure::unable(error.to_string()))?;
        note(&format!(
            "round {round} of {}: SIGKILL to node {}, leader of term {} (process {})",
            demo.rounds, victim.id, victim.term, victim.pid
        ));
        let is_back = |status: &Status| {
            let other = |node: &&NodeInfo| node.id == victim.id && node.pid != victim.pid;
            status.nodes.iter().find(other).is_some_and(|node| node.reachable)
        };
        wait_for(watcher, BACK_WITHIN, is_back).await?;
        let back_ms = killed.elapsed().as_millis() as u64;
        let first_success_ms = loop {
            let successes = shared.successes().first_after;
            if let Some(first) = successes {
                break (first - killed).as_millis() as u64;
            }
            sleep(Duration::from_millis(20)).await;
        };
        note(&format!(
            "round {round} of {}: writes again after {first_success_ms} ms; node {} back after \
             {back_ms} ms",
            demo.rounds, victim.id
        ));
        kills.push(Kill { round, node_id: victim.id, pid: victim.pid, first_success_ms, back_ms });
        sleep(RUNS_FOR).await;
    }
    Ok(kills)
}

/// Asks for the status until it is as wanted.
async fn wait_for(
    watcher: &Client,
    patience: Duration,
    wanted: impl Fn(&Status) -> bool,
) -> Result<Status, Failure> {
    let began = Instant::now();
    loop {
        if let Ok(status) = watcher.status().await
            && wanted(&status)
        {
            return Ok(status);
        }
        if began.elapsed() > patience {
            return Err(Failure::unable(format!(
                "the cluster did not become whole again within {} s: does somebody start a killed \
                 node again?",
                patience.as_secs()
            )));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// The books of all clients, counter by counter.
async fn collect(
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
async fn read_back(shared: &Shared, mut books: Vec<Account>) -> Result<Vec<Account>, Failure> {
    let names = || shared.counters.clone();
    let look = shared.client.counters().batch_get(names());
    let batch = shared.book.call(OBSERVER, || Request::batch_get(names()), look).await?;
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
) -> Map<String, Value> {
    let mut report = Map::new();
    let mut put = |name: &str, value: Value| report.insert(name.to_owned(), value);
    put("passed", json!(verdict.passed()));
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
    let mut text = format!(
        "\nleaders killed   {}\nacknowledged     {}\napplied          {}\nlost             \
         {}\ncounted twice    {}\nunknown          {}\nlongest pause    {} ms between two \
         successful writes\nlatency          p50 {}  p99 {}  p99.9 {}  max {}\n",
        number("rounds"),
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
