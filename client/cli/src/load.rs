//! What callers measure, together.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use tally_client::{Error, Outcome};

/// Latencies are kept to three digits, up to this.
const LATENCY_MAX: Duration = Duration::from_secs(600);

/// Why an operation did not succeed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) reason: String,
    /// Nobody knows whether it was done.
    pub(crate) unknown: bool,
}

impl Failed {
    #[cfg(feature = "peers")]
    pub(crate) fn because(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), unknown: true }
    }

    /// The target has no such operation.
    pub(crate) fn unsupported() -> Self {
        Self { reason: "UNSUPPORTED".to_owned(), unknown: false }
    }
}

impl From<&Error> for Failed {
    fn from(error: &Error) -> Self {
        let unknown = error.outcome() == Some(Outcome::Unknown);
        Self { reason: error.reason().to_owned(), unknown }
    }
}

/// Latencies of one kind.
#[derive(Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        let max = LATENCY_MAX.as_micros() as u64;
        let histogram = Histogram::new_with_bounds(1, max, 3);
        Self(histogram.unwrap_or_else(|_| unreachable!("the bounds are valid")))
    }
}

impl Latencies {
    pub(crate) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    fn add(&mut self, other: &Self) {
        // All are made with the same limits, so none is too wide to be added.
        let _ = self.0.add(&other.0);
    }

    /// Quantiles in microseconds, as JSON.
    pub(crate) fn figures(&self) -> Map<String, Value> {
        let mut figures = Map::new();
        for (name, quantile) in
            [("p50_us", 0.5), ("p95_us", 0.95), ("p99_us", 0.99), ("p999_us", 0.999)]
        {
            figures.insert(name.to_owned(), json!(self.0.value_at_quantile(quantile)));
        }
        figures.insert("max_us".to_owned(), json!(self.0.max()));
        figures.insert("mean_us".to_owned(), json!(self.0.mean().round()));
        figures
    }

    /// The same under other names, and fewer of them.
    fn few_figures(&self, prefix: &str) -> impl Iterator<Item = (String, Value)> {
        let figures = self.figures();
        ["p50_us", "p99_us", "max_us"]
            .into_iter()
            .map(move |name| (format!("{prefix}_{name}"), figures[name].clone()))
    }
}

/// Callers share histograms: one each would not fit into memory, one for all would be contended.
const SHARDS: usize = 16;

/// Successes, failures and latencies of all callers.
#[derive(Debug)]
pub(crate) struct Recorder {
    shards: Vec<Mutex<Latencies>>,
    /// How long it took to fail.
    failures: Mutex<Latencies>,
    /// How late operations started; only the open loop has it.
    lateness: Mutex<Latencies>,
    started: AtomicU64,
    not_started: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
    unknown: AtomicU64,
    reasons: Mutex<BTreeMap<String, u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            failures: Mutex::default(),
            lateness: Mutex::default(),
            started: AtomicU64::new(0),
            not_started: AtomicU64::new(0),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            reasons: Mutex::default(),
        }
    }

    pub(crate) fn done(&self, caller: usize, latency: Duration) {
        self.done.fetch_add(1, Ordering::Relaxed);
        lock(&self.shards[caller % SHARDS]).record(latency);
    }

    pub(crate) fn failed(&self, failed: &Failed, latency: Duration) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        if failed.unknown {
            self.unknown.fetch_add(1, Ordering::Relaxed);
        }
        lock(&self.failures).record(latency);
        *lock(&self.reasons).entry(failed.reason.clone()).or_default() += 1;
    }

    /// The open loop started an operation, so much later than it was to start.
    pub(crate) fn started(&self, lateness: Duration) {
        self.started.fetch_add(1, Ordering::Relaxed);
        lock(&self.lateness).record(lateness);
    }

    /// The open loop could not start an operation: too many were in flight.
    pub(crate) fn not_started(&self) {
        self.not_started.fetch_add(1, Ordering::Relaxed);
    }

    /// Operations done so far.
    pub(crate) fn operations(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Operations that failed so far.
    pub(crate) fn errors(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Writes so far of which nobody knows whether they were applied.
    pub(crate) fn unknown(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }

    /// The figures, as JSON.
    pub(crate) fn figures(&self) -> Map<String, Value> {
        let mut all = Latencies::default();
        for shard in &self.shards {
            all.add(&lock(shard));
        }
        let mut figures = all.figures();
        figures.insert("errors".to_owned(), json!(self.errors()));
        figures.insert("unknown".to_owned(), json!(self.unknown()));
        figures.insert("error_reasons".to_owned(), json!(*lock(&self.reasons)));
        if self.errors() > 0 {
            figures.extend(lock(&self.failures).few_figures("error"));
        }
        figures
    }

    /// What only the open loop has, as JSON.
    pub(crate) fn open_figures(&self) -> Map<String, Value> {
        let mut figures = Map::new();
        let count = |counter: &AtomicU64| json!(counter.load(Ordering::Relaxed));
        figures.insert("started".to_owned(), count(&self.started));
        figures.insert("not_started".to_owned(), count(&self.not_started));
        figures.extend(lock(&self.lateness).few_figures("late"));
        figures
    }
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Microseconds as people read them.
pub(crate) fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{:.2} ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_of_all_callers() {
        let recorder = Recorder::new();
        for caller in 0..100 {
            recorder.done(caller, Duration::from_micros(caller as u64 + 1));
        }
        let figures = recorder.figures();
        assert_eq!(recorder.operations(), 100);
        assert_eq!((&figures["p50_us"], &figures["max_us"]), (&json!(50), &json!(100)));
        recorder.done(0, Duration::from_secs(100_000));
        assert!(recorder.figures()["max_us"].as_u64().unwrap() >= 600_000_000);
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1234567), "1,234,567");
        assert_eq!((micros(999), micros(1500)), ("999 µs".into(), "1.50 ms".into()));
    }
}
