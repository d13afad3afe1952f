//! Numbers that say how the storage does, and the shapes in which they are kept: counters and histograms that
//! cost an atomic addition or two.
//!
//! They belong to one node and are handed to it; nothing here is of the process. Relaxed everywhere: each number
//! stands for itself, and who reads several at once may see one that is newer than another.
//!
//! Leaves out: names, units and meanings for whoever reads them from outside; those are the node's.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// Whether anything is counted: not in what is built to measure what counting costs (deploy/bench/secure.sh).
const COUNTS: bool = !cfg!(feature = "unmetered");

/// Counts what happens.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// It happened so often. Says how often it had before.
    pub fn add(&self, count: u64) -> u64 {
        if !COUNTS {
            return 0;
        }
        self.0.fetch_add(count, Ordering::Relaxed)
    }

    /// How often it has.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How much there is of something now.
#[derive(Debug, Default)]
pub struct Level(AtomicU64);

impl Level {
    /// There is so much.
    pub fn set(&self, now: u64) {
        self.0.store(now, Ordering::Relaxed);
    }

    /// How much was there last.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A histogram as it is shown: for each bucket its upper end, inclusive, and what is in it; then what is above all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What was counted in each bucket; one more than there are bounds.
    pub counts: Vec<u64>,
    /// The sum of all values, in the unit of the histogram.
    pub sum: u64,
}

impl Snapshot {
    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Width of the finest bucket of [`Durations`].
const STEP_NS: u64 = 2_500;

/// Durations from 10 µs to a minute in four buckets an octave (10, 12.5, 15, 17.5, 20, 25 … µs), so that a
/// quantile is read with an error of a quarter at most.
#[derive(Debug)]
pub struct Durations {
    buckets: [AtomicU64; DURATION_BOUNDS + 1],
    sum_ns: AtomicU64,
}

/// Bounds of [`Durations`]: the last one is 62.9 s.
pub const DURATION_BOUNDS: usize = 91;

impl Default for Durations {
    fn default() -> Self {
        Durations { buckets: [const { AtomicU64::new(0) }; _], sum_ns: AtomicU64::new(0) }
    }
}

impl Durations {
    /// The upper end of a bucket, in ns.
    pub fn bound_ns(bucket: usize) -> u64 {
        let (octave, quarter) = match bucket.checked_sub(1) {
            None => return 4 * STEP_NS,
            Some(above) => (above / 4, above % 4),
        };
        ((5 + quarter as u64) << octave) * STEP_NS
    }

    /// It took so long.
    pub fn record(&self, took: Duration) {
        if !COUNTS {
            return;
        }
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(ns)].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// What was recorded, in ns.
    pub fn snapshot(&self) -> Snapshot {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        Snapshot { counts, sum: self.sum_ns.load(Ordering::Relaxed) }
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }
}

fn bucket_of(ns: u64) -> usize {
    // Bounds belong to the bucket below them.
    let steps = ns.saturating_sub(1) / STEP_NS;
    if steps < 4 {
        return 0;
    }
    let octave = steps.ilog2() - 2;
    let quarter = (steps >> octave) & 3;
    (1 + 4 * octave as usize + quarter as usize).min(DURATION_BOUNDS)
}

/// Sizes and numbers in buckets of powers of two, from 1 to 2^20.
#[derive(Debug, Default)]
pub struct Sizes {
    buckets: [AtomicU64; SIZE_BOUNDS + 1],
    sum: AtomicU64,
}

/// Bounds of [`Sizes`].
pub const SIZE_BOUNDS: usize = 21;

impl Sizes {
    /// The upper end of a bucket.
    pub fn bound(bucket: usize) -> u64 {
        1 << bucket
    }

    /// It was so large.
    pub fn record(&self, size: u64) {
        if !COUNTS {
            return;
        }
        let bucket = (u64::BITS - size.saturating_sub(1).leading_zeros()) as usize;
        self.buckets[bucket.min(SIZE_BOUNDS)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(size, Ordering::Relaxed);
    }

    /// What was recorded.
    pub fn snapshot(&self) -> Snapshot {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        Snapshot { counts, sum: self.sum.load(Ordering::Relaxed) }
    }
}

/// Moments that are remembered: of more syncs than entries wait for their answers.
const MOMENTS_MAX: usize = 256;

/// When the newest entries of the log became durable here.
#[derive(Debug, Default)]
pub struct Synced(Mutex<VecDeque<(u64, Instant)>>);

impl Synced {
    /// All entries up to an index are, since now.
    pub fn note(&self, index: u64) {
        if !COUNTS {
            return;
        }
        let mut moments = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A log that was cut off has other entries there.
        while moments.back().is_some_and(|(last, _)| *last >= index) {
            moments.pop_back();
        }
        if moments.len() == MOMENTS_MAX {
            moments.pop_front();
        }
        moments.push_back((index, Instant::now()));
    }

    /// Since when the entry at this index is; nothing if it is not, or has been for long.
    pub fn since(&self, index: u64) -> Option<Instant> {
        let moments = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = moments.partition_point(|(last, _)| *last < index);
        let is_known = at > 0 || moments.len() < MOMENTS_MAX;
        moments.get(at).filter(|_| is_known).map(|(_, since)| *since)
    }
}

/// What the log and the state of one node count.
#[derive(Debug, Default)]
pub struct StorageMeters {
    /// From an append of entries to the log until they are durable, the wait for the writer included.
    pub append: Durations,
    /// When what was appended last became so.
    pub synced: Synced,
    /// One write of frames to the log's file.
    pub log_write: Durations,
    /// One sync of it.
    pub log_sync: Durations,
    /// Bytes of frames that were written.
    pub log_written_bytes: Counter,
    /// One flush of the state, from its first record to the end of its sync.
    pub flush: Durations,
    /// Records that flushes wrote.
    pub flushed_records: Counter,
    /// One snapshot that was built.
    pub snapshot: Durations,
    /// Records that were found in the cache …
    pub cache_hits: Counter,
    /// … and those that the byte store was asked for.
    pub cache_misses: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_four_an_octave_and_inclusive() {
        let bounds: Vec<u64> = (0..DURATION_BOUNDS).map(Durations::bound_ns).collect();
        assert_eq!(bounds[..6], [10_000, 12_500, 15_000, 17_500, 20_000, 25_000]);
        assert!(bounds.is_sorted_by(|a, b| a < b));
        assert_eq!(bounds[DURATION_BOUNDS - 1], 62_914_560_000, "a minute is inside");
        for (bucket, bound) in bounds.iter().enumerate() {
            assert_eq!(bucket_of(*bound), bucket, "{bound} ns");
            assert_eq!(bucket_of(bound + 1), bucket + 1, "{bound} ns and one more");
        }
        assert_eq!((bucket_of(0), bucket_of(u64::MAX)), (0, DURATION_BOUNDS));
    }

    #[test]
    fn a_quantile_is_off_by_a_quarter_at_most() {
        let durations = Durations::default();
        for us in 1..=100_000 {
            durations.record(Duration::from_micros(us));
        }
        let Snapshot { counts, sum } = durations.snapshot();
        assert_eq!(sum, 100_000 * 100_001 / 2 * 1_000);
        for (wanted, exact_us) in [(50_000, 50_000.0), (99_000, 99_000.0), (99_900, 99_900.0)] {
            let mut seen = 0;
            let below = |count: &&u64| {
                seen += **count;
                seen < wanted
            };
            let bucket = counts.iter().take_while(below).count();
            let found_us = Durations::bound_ns(bucket) as f64 / 1_000.0;
            assert!((1.0..=1.25).contains(&(found_us / exact_us)), "{found_us} for {exact_us}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_is_durable_since_the_first_sync_that_reached_it() {
        let synced = Synced::default();
        let began = Instant::now();
        for index in [3, 5] {
            synced.note(index);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let since = |index| synced.since(index).map(|since| (since - began).as_millis());
        assert_eq!(
            [since(2), since(3), since(4), since(5), since(6)],
            [Some(0), Some(0), Some(1), Some(1), None]
        );
        synced.note(4);
        assert_eq!([since(3), since(4), since(5)], [Some(0), Some(2), None], "it was cut off at 3");
        for index in 10..10 + MOMENTS_MAX as u64 {
            synced.note(index);
        }
        assert_eq!(since(7), None, "that was long ago");
        assert!(since(11).is_some());
    }

    #[test]
    fn sizes_go_by_powers_of_two() {
        let sizes = Sizes::default();
        for size in [0, 1, 2, 3, 4, 5, 1 << 20, (1 << 20) + 1] {
            sizes.record(size);
        }
        let Snapshot { counts, sum } = sizes.snapshot();
        assert_eq!(counts[..4], [2, 1, 2, 1]);
        assert_eq!((counts[20], counts[21]), (1, 1));
        assert_eq!(sum, 15 + (1 << 21) + 1);
        assert_eq!(Sizes::bound(20), 1 << 20);
    }
}
