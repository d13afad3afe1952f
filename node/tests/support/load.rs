//! Writers that count what was acknowledged, and the audit of what the cluster then holds.
//!
//! A counter is moved by +1 only. So the value after each acknowledged add is that add's own: the
//! same value acknowledged twice means that an acknowledged add was lost or rolled back, and in the
//! end `acknowledged <= value <= acknowledged + unknown` must hold.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tally_client::{Client, Error, Outcome};
use tokio::{task::JoinHandle, time::Instant};

use super::{eventually, report};

/// The counter that every writer moves now and then.
pub(crate) const HOT: &str = "hot";

/// What became of the writes at one counter.
#[derive(Debug, Default)]
struct Tally {
    acknowledged: i64,
    unknown: i64,
    not_applied: i64,
    /// The value after each acknowledged add.
    values: HashSet<i64>,
}

/// What became of the puts at one writer's own key, whose values count up.
#[derive(Debug, Default, Clone, Copy)]
struct Puts {
    acknowledged: u64,
    tried: u64,
}

#[derive(Debug, Default)]
struct Record {
    counters: BTreeMap<String, Tally>,
    keys: BTreeMap<String, Puts>,
    /// When each term's leader acknowledged its first write.
    first_of_term: BTreeMap<u64, Instant>,
    /// The last acknowledged add, and the longest time without one since that was last asked for.
    last: Option<Instant>,
    longest_gap: Duration,
    errors: BTreeMap<String, u64>,
    violations: Vec<String>,
}

/// What was written so far. It outlives the writers: several loads can add to one book.
#[derive(Debug, Default, Clone)]
pub(crate) struct Book(Arc<Mutex<Record>>);

impl Book {
    fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn acknowledged(&self) -> i64 {
        self.lock().counters.values().map(|tally| tally.acknowledged).sum()
    }

    pub(crate) fn unknown(&self) -> i64 {
        self.lock().counters.values().map(|tally| tally.unknown).sum()
    }

    pub(crate) fn not_applied(&self) -> i64 {
        self.lock().counters.values().map(|tally| tally.not_applied).sum()
    }

    pub(crate) fn errors(&self) -> BTreeMap<String, u64> {
        self.lock().errors.clone()
    }

    /// Acknowledged adds at one counter.
    pub(crate) fn acknowledged_at(&self, name: &str) -> i64 {
        self.lock().counters.get(name).map_or(0, |tally| tally.acknowledged)
    }

    /// When a leader of a later term than this acknowledged its first write.
    pub(crate) fn first_after_term(&self, term: u64) -> Option<Instant> {
        self.lock().first_of_term.range(term + 1..).map(|(_, at)| *at).min()
    }

    /// The longest time between two acknowledged adds since this was last asked for.
    pub(crate) fn longest_gap(&self) -> Duration {
        std::mem::take(&mut self.lock().longest_gap)
    }

    /// Adds one to a counter.
    pub(crate) async fn add(&self, client: &Client, name: &str) -> Result<(), Error> {
        let result = client.counter(name).add(1).await;
        let mut record = self.lock();
        let tally = record.counters.entry(name.to_owned()).or_default();
        match result {
            Ok(change) => {
                tally.acknowledged += 1;
                if !tally.values.insert(change.value) || change.value != change.value_before + 1 {
                    let what = format!("{name}: acknowledged again or wrong: {change:?}");
                    record.violations.push(what);
                }
                let now = Instant::now();
                record.first_of_term.entry(change.header.term).or_insert(now);
                if let Some(last) = record.last.replace(now) {
                    record.longest_gap = record.longest_gap.max(now - last);
                }
                Ok(())
            }
            Err(error) => {
                match error.outcome() {
                    Some(Outcome::NotApplied) => tally.not_applied += 1,
                    _ => tally.unknown += 1,
                }
                *record.errors.entry(error.to_string()).or_default() += 1;
                Err(error)
            }
        }
    }

    /// Puts the next value of a writer's own key.
    async fn put(&self, client: &Client, key: &str) -> Result<(), Error> {
        let value = {
            let mut record = self.lock();
            let puts = record.keys.entry(key.to_owned()).or_default();
            puts.tried += 1;
            puts.tried
        };
        let result = client.keys().put(key, format!("{value:0>64}")).await;
        let mut record = self.lock();
        match result {
            Ok(_) => {
                record.keys.get_mut(key).expect("made above").acknowledged = value;
                Ok(())
            }
            Err(error) => {
                *record.errors.entry(error.to_string()).or_default() += 1;
                Err(error)
            }
        }
    }

    /// A linearizable read must see what was acknowledged before it began.
    async fn read(&self, client: &Client, name: &str) {
        let before = self.acknowledged_at(name);
        // A read that fails says nothing, and a counter that is missing was not acknowledged.
        let Ok(counter) = client.counter(name).get().await else { return };
        if counter.value < before {
            let what = format!("{name}: read {} after {before}: {counter:?}", counter.value);
            self.lock().violations.push(what);
        }
    }

    /// Compares linearizable reads with what was acknowledged. Panics on a difference.
    pub(crate) async fn audit(&self, client: &Client) {
        let names: Vec<String> = self.lock().counters.keys().cloned().collect();
        for name in &names {
            let value = eventually(&format!("a linearizable read of {name}"), || async {
                match client.counter(name).get().await {
                    Ok(counter) => Some(counter.value),
                    Err(error) if error.reason() == tally_client::reason::COUNTER_NOT_FOUND => {
                        Some(0)
                    }
                    Err(_) => None,
                }
            })
            .await;
            let record = self.lock();
            let tally = &record.counters[name];
            let (least, most) = (tally.acknowledged, tally.acknowledged + tally.unknown);
            assert!(least <= value, "{name}: {value}, but {least} were acknowledged: LOST");
            assert!(value <= most, "{name}: {value}, but at most {most}: COUNTED TWICE");
        }
        let keys: Vec<String> = self.lock().keys.keys().cloned().collect();
        for key in &keys {
            let stored = eventually(&format!("a linearizable read of key {key}"), || async {
                match client.keys().get(key.clone()).await {
                    Ok(item) => String::from_utf8_lossy(&item.value).parse::<u64>().ok(),
                    Err(error) if error.reason() == tally_client::reason::KEY_NOT_FOUND => Some(0),
                    Err(_) => None,
                }
            })
            .await;
            let puts = self.lock().keys[key];
            assert!(
                (puts.acknowledged..=puts.tried).contains(&stored),
                "key {key} is {stored}, and {puts:?}"
            );
        }
        let violations = self.lock().violations.clone();
        assert!(violations.is_empty(), "{violations:#?}");
    }

    /// One line for the test's output.
    pub(crate) fn report(&self, test: &str) {
        report(&format!(
            "{test}: {} adds acknowledged, {} unknown, {} not applied, errors {:?}",
            self.acknowledged(),
            self.unknown(),
            self.not_applied(),
            self.errors(),
        ));
    }
}

/// Writers and a reader in the background.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts writers that share one client.
    pub(crate) fn start(client: &Client, writers: usize, book: &Book) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let turns = Arc::new(AtomicU64::new(0));
        let mut tasks = Vec::new();
        for writer in 0..writers {
            let (client, book) = (client.clone(), book.clone());
            let (stop, turns) = (Arc::clone(&stop), Arc::clone(&turns));
            tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let turn = turns.fetch_add(1, Ordering::Relaxed);
                    let done = match turn % 8 {
                        0..5 => book.add(&client, HOT).await,
                        5 | 6 => book.add(&client, &format!("own-{writer}")).await,
                        _ => book.put(&client, &format!("key-{writer}")).await,
                    };
                    if done.is_err() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }));
        }
        let (client, book, stopped) = (client.clone(), book.clone(), Arc::clone(&stop));
        tasks.push(tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                book.read(&client, HOT).await;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }));
        Load { stop, tasks }
    }

    /// Lets the writers end what they have begun.
    pub(crate) async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            task.await.expect("a writer does not panic");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
