//! Whether the cluster kept its promises while it was broken: clients that know what they may be told.
//!
//! Each writer adds 1 under an idempotency key, sends it again, at any node, until it is answered, and only then makes
//! the next. So in the end every add has been acknowledged, and the counter must be exactly how many there were: a lost
//! one would make it less, one that was counted twice more. An add of 1 is told the value after it, so no two keys
//! may be told the same one. A linearizable read must not miss an add that was acknowledged before it began, nor see one
//! that nobody had begun.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, task::JoinSet};

use crate::{
    calls::{Ask, Level},
    lab::{Call, Lab},
    links::lock,
    record::{Came, Record},
};

const WRITERS: u64 = 4;
const READERS: u64 = 2;
const COUNTERS: usize = 2;

/// Between two calls of a client: enough to notice what breaks, and little beside what is tested.
const PAUSE: Duration = Duration::from_millis(20);

/// How long an answer is waited for before the next node is asked.
const PATIENCE: Duration = Duration::from_millis(1_000);

/// Once everything is mended, every add must be answered within this.
const RECOVERY: Duration = Duration::from_secs(30);

/// Further calls are made and judged, and not kept for the report.
const RECORDS_MAX: usize = 200_000;

/// A promise that was not kept.
#[derive(Debug, Clone)]
pub(super) struct Wrong {
    pub(super) promise: Promise,
    pub(super) what: String,
    pub(super) at_ms: f64,
    /// Records that show it.
    pub(super) records: Vec<usize>,
}

/// What is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Promise {
    Counted,
    Fresh,
    Agree,
    Recover,
    RunsOn,
}

impl Promise {
    pub(super) const ALL: [Promise; 5] =
        [Promise::Counted, Promise::Fresh, Promise::Agree, Promise::Recover, Promise::RunsOn];

    pub(super) fn told(self) -> &'static str {
        match self {
            Promise::Counted => "every acknowledged add is counted once",
            Promise::Fresh => "linearizable reads miss nothing",
            Promise::Agree => "all nodes have the same state in the end",
            Promise::Recover => "all is answered once everything is mended",
            Promise::RunsOn => "no node ends by itself",
        }
    }
}

/// A key that was told a value, and the number of its record if that is kept.
#[derive(Debug, Clone)]
struct Told {
    key: String,
    record: Option<usize>,
}

/// The clients, and what they found.
pub(super) struct Audit {
    lab: Arc<Lab>,
    seed: u64,
    counters: [String; COUNTERS],
    /// Adds that were begun, of each counter.
    begun: [AtomicI64; COUNTERS],
    /// Which key was told which value.
    told: Mutex<BTreeMap<(usize, i64), Told>>,
    records: Mutex<Vec<Record>>,
    calls: AtomicUsize,
    wrong: Mutex<Vec<Wrong>>,
}

impl Audit {
    pub(super) fn new(lab: Arc<Lab>, seed: u64) -> Arc<Audit> {
        Arc::new(Audit {
            lab,
            seed,
            counters: std::array::from_fn(|at| format!("tally-chaos/{at}")),
            begun: std::array::from_fn(|_| AtomicI64::new(0)),
            told: Mutex::default(),
            records: Mutex::default(),
            calls: AtomicUsize::new(0),
            wrong: Mutex::default(),
        })
    }

    pub(super) fn start(self: &Arc<Self>, stop: &watch::Receiver<bool>) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        for client in 1..=WRITERS {
            let (audit, stop) = (Arc::clone(self), stop.clone());
            clients.spawn(async move { audit.write(client, &stop).await });
        }
        for client in WRITERS + 1..=WRITERS + READERS {
            let (audit, stop) = (Arc::clone(self), stop.clone());
            clients.spawn(async move { audit.read(client, &stop).await });
        }
        clients
    }

    /// What came of a call, and the number of its record if it is kept.
    async fn call(
        &self,
        client: u64,
        node: u64,
        counter: usize,
        ask: &Ask,
    ) -> (Record, Option<usize>) {
        let counter = &*self.counters[counter];
        let record = self.lab.call(Call { client, node, counter, ask, patience: PATIENCE }).await;
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut records = lock(&self.records);
        let number = (records.len() < RECORDS_MAX).then_some(records.len());
        if number.is_some() {
            records.push(record.clone());
        }
        (record, number)
    }

    fn next_node(&self, node: u64) -> u64 {
        node % self.lab.nodes.count() + 1
    }

    async fn write(&self, client: u64, stop: &watch::Receiver<bool>) {
        let counter = client as usize % COUNTERS;
        let mut node = self.next_node(client);
        for number in 0.. {
            if *stop.borrow() {
                return;
            }
            let key = format!("chaos-{}-{client}-{number}", self.seed);
            let ask = Ask::Add { delta: 1, key: Some(key.clone()) };
            self.begun[counter].fetch_add(1, Ordering::SeqCst);
            loop {
                let (answer, record) = self.call(client, node, counter, &ask).await;
                if let (Came::Ok, Some(value)) = (answer.came, answer.value) {
                    self.acknowledged(counter, value, Told { key, record }, answer.end);
                    break;
                }
                node = self.next_node(node);
                tokio::time::sleep(PAUSE).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn acknowledged(&self, counter: usize, value: i64, told: Told, at_ms: f64) {
        let begun = self.begun[counter].load(Ordering::SeqCst);
        let name = &self.counters[counter];
        if !(1..=begun).contains(&value) {
            let what = format!("{name}: {begun} adds of 1 were begun, and one was told {value}");
            self.wrong(Promise::Counted, what, at_ms, &[told.record]);
        }
        let before = lock(&self.told).insert((counter, value), told.clone());
        if let Some(before) = before {
            let what = format!("{name}: {} and {} were both told {value}", before.key, told.key);
            self.wrong(Promise::Counted, what, at_ms, &[before.record, told.record]);
        }
    }

    async fn read(&self, client: u64, stop: &watch::Receiver<bool>) {
        let ask = Ask::Get { level: Level::Linearizable };
        let (mut node, mut counter) = (1, 0);
        while !*stop.borrow() {
            let (record, at) = self.call(client, node, counter, &ask).await;
            if let (Came::Ok, Some(value)) = (record.came, record.value) {
                self.judge_read(counter, value, &record, at);
            }
            node = self.next_node(node);
            counter = (counter + 1) % COUNTERS;
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn judge_read(&self, counter: usize, value: i64, record: &Record, at: Option<usize>) {
        let name = &self.counters[counter];
        let begun = self.begun[counter].load(Ordering::SeqCst);
        if value > begun {
            let what = format!("{name}: a read saw {value}, and {begun} adds of 1 were begun");
            self.wrong(Promise::Fresh, what, record.end, &[at]);
        }
        if let Some(stale) = record.seen_ms.filter(|stale| *stale > 0.0) {
            let what = format!(
                "{name}: a linearizable read at node {} saw {value}, and a higher one had been acknowledged \
                 {stale:.1} ms before it began",
                record.node
            );
            self.wrong(Promise::Fresh, what, record.end, &[at]);
        }
    }

    pub(super) fn wrong(
        &self,
        promise: Promise,
        what: String,
        at_ms: f64,
        records: &[Option<usize>],
    ) {
        let records = records.iter().flatten().copied().collect();
        lock(&self.wrong).push(Wrong { promise, what, at_ms, records });
    }

    /// Everything is mended: what is under way is answered, and all is added up.
    pub(super) async fn end(&self, mut clients: JoinSet<()>) {
        let all = async { while clients.join_next().await.is_some() {} };
        if tokio::time::timeout(RECOVERY, all).await.is_err() {
            let left = clients.len();
            let what =
                format!("{left} clients had no answer {RECOVERY:?} after everything was mended");
            return self.wrong(Promise::Recover, what, self.lab.now(), &[]);
        }
        for counter in 0..COUNTERS {
            let begun = self.begun[counter].load(Ordering::SeqCst);
            match self.value_within(counter, 1, &Level::Linearizable, |_| true).await {
                None => {
                    let what = format!("{} can't be read", self.counters[counter]);
                    return self.wrong(Promise::Recover, what, self.lab.now(), &[]);
                }
                Some(value) if value != begun => {
                    let name = &self.counters[counter];
                    let what =
                        format!("{name}: {begun} adds of 1 were acknowledged, and it is {value}");
                    self.wrong(Promise::Counted, what, self.lab.now(), &[]);
                }
                Some(_) => {}
            }
            for node in self.lab.nodes.ids() {
                let is_same = |value| value == begun;
                if self.value_within(counter, node, &Level::Local, is_same).await.is_none() {
                    let name = &self.counters[counter];
                    let what =
                        format!("{name} is not {begun} at node {node}, {RECOVERY:?} after the end");
                    self.wrong(Promise::Agree, what, self.lab.now(), &[]);
                }
            }
        }
    }

    /// The value at a node as soon as it is as wanted.
    async fn value_within(
        &self,
        counter: usize,
        node: u64,
        level: &Level,
        is_wanted: impl Fn(i64) -> bool,
    ) -> Option<i64> {
        let ask = Ask::Get { level: level.clone() };
        let reading = async {
            loop {
                let (record, _) = self.call(0, node, counter, &ask).await;
                let value = record.value.filter(|_| record.came == Came::Ok);
                if let Some(value) = value.filter(|value| is_wanted(*value)) {
                    return value;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::time::timeout(RECOVERY, reading).await.ok()
    }

    /// What was found.
    pub(super) fn found(&self) -> Vec<Wrong> {
        lock(&self.wrong).clone()
    }

    pub(super) fn records(&self) -> Vec<Record> {
        lock(&self.records).clone()
    }

    /// In a line: how much was checked.
    pub(super) fn told(&self) -> String {
        let adds: i64 = self.begun.iter().map(|begun| begun.load(Ordering::SeqCst)).sum();
        let calls = self.calls.load(Ordering::Relaxed);
        format!("{adds} adds of our own, {calls} calls")
    }
}
