//! Hot items: which counters and keys are used most, by a sketch of bounded size.
//!
//! "Space-Saving" (Metwally, Agrawal, El Abbadi 2005): so many names with a count each; a name that is not among
//! them takes the place of the one with the lowest count, and goes on from that count. What is used in more than
//! one of [`NAMES_MAX`] of the operations is always there; a count is never too low, and too high by at most the
//! lowest.
//!
//! Off the hot path: of the requests of a kind one in [`ONE_IN`] is looked at, and none waits for the sketch:
//! while somebody else holds it, the request goes uncounted. What is told is the last whole window, so that what was hot yesterday is not.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{catalog, text::Exposition};
use crate::storage::meters::Counter;

/// One request in so many is looked at. A prime, so that what clients do in turns is not always met at the same turn.
pub const ONE_IN: u64 = 61;

/// Names in the sketch: an item with a hundredth of all operations is found for certain.
const NAMES_MAX: usize = 128;

/// Names that are told.
const TOLD_MAX: usize = 10;

/// How long is counted before it is told. Shorter than most scrapers' interval, so that each window is seen once.
const WINDOW: Duration = Duration::from_secs(15);

/// What is shown of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Names {
    /// Nothing: no item is counted.
    #[default]
    Off,
    /// The first 16 hexadecimal digits of its SHA-256: it can be looked up by who knows the names.
    Hashed,
    /// All of it.
    Shown,
}

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ItemKind {
    /// A counter.
    Counter,
    /// A key.
    Key,
}

impl ItemKind {
    fn name(self) -> &'static str {
        match self {
            ItemKind::Counter => "counter",
            ItemKind::Key => "key",
        }
    }
}

/// The sketch of one node.
#[derive(Debug)]
pub struct HotItems {
    names: Names,
    /// Requests that have a task, so that one more addition does not matter.
    asked: Counter,
    windows: Mutex<Windows>,
}

#[derive(Debug)]
struct Windows {
    began: Instant,
    counting: Sketch,
    /// The last whole window: the hottest first, in operations a second.
    told: Vec<(ItemKind, String, f64)>,
}

impl HotItems {
    /// Nothing yet.
    pub fn new(names: Names) -> HotItems {
        let windows =
            Windows { began: Instant::now(), counting: Sketch::default(), told: Vec::new() };
        HotItems { names, asked: Counter::default(), windows: Mutex::new(windows) }
    }

    /// Whether the request of this number is to be counted.
    pub fn wants(&self, number: u64) -> bool {
        number.is_multiple_of(ONE_IN) && self.names != Names::Off
    }

    /// Whether the next request is to be counted, of those that have no number.
    pub fn wants_next(&self) -> bool {
        self.names != Names::Off && self.wants(self.asked.add(1))
    }

    /// An operation on an item, which [`Self::wants`] asked for.
    pub fn count(&self, kind: ItemKind, name: &str) {
        if let Ok(mut windows) = self.windows.try_lock() {
            windows.turn(self.names);
            windows.counting.count(kind, name);
        }
    }

    /// A name or a prefix, as it is shown in metrics and where they are spoken of. The empty prefix, which names
    /// nothing, is shown.
    pub fn shown(&self, name: &str) -> String {
        if name.is_empty() { String::new() } else { shown(self.names, name.to_owned()) }
    }

    /// Writes the hottest of the last window.
    pub(super) fn write(&self, out: &mut Exposition) {
        let told = {
            let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
            windows.turn(self.names);
            windows.told.clone()
        };
        let mut samples = out.family(&catalog::HOT_ITEMS);
        for (kind, name, rate) in told {
            samples.value(&[kind.name(), &name], format_args!("{rate:.1}"));
        }
    }
}

impl Windows {
    /// Begins the next window if this one is over.
    fn turn(&mut self, names: Names) {
        let elapsed = self.began.elapsed();
        if elapsed < WINDOW {
            return;
        }
        self.began = Instant::now();
        let sketch = std::mem::take(&mut self.counting);
        let seconds = elapsed.as_secs_f64();
        let told = sketch.hottest().into_iter().map(|((kind, name), count)| {
            let rate = (count * ONE_IN) as f64 / seconds;
            (kind, shown(names, name), rate)
        });
        self.told = told.collect();
    }
}

fn shown(names: Names, name: String) -> String {
    match names {
        Names::Shown => name,
        Names::Off | Names::Hashed => {
            let digest = Sha256::digest(name.as_bytes());
            digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
        }
    }
}

#[derive(Debug, Default)]
struct Sketch {
    counts: BTreeMap<(ItemKind, String), u64>,
}

impl Sketch {
    fn count(&mut self, kind: ItemKind, name: &str) {
        let key = (kind, name.to_owned());
        if let Some(count) = self.counts.get_mut(&key) {
            *count += 1;
            return;
        }
        let mut before = 0;
        if self.counts.len() == NAMES_MAX {
            let lowest = self.counts.iter().min_by_key(|(_, count)| **count);
            let (coldest, count) = lowest.expect("there are some");
            before = *count;
            let coldest = coldest.clone();
            self.counts.remove(&coldest);
        }
        self.counts.insert(key, before + 1);
    }

    fn hottest(self) -> Vec<((ItemKind, String), u64)> {
        let mut all: Vec<_> = self.counts.into_iter().collect();
        // Stable, so equal ones stay in the order of their names.
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        all.truncate(TOLD_MAX);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::text::Format;

    fn text(hot: &HotItems) -> String {
        let mut text = Exposition::new(Format::Prometheus);
        hot.write(&mut text);
        text.finish()
    }

    #[test]
    fn what_is_hot_is_found_among_many_that_are_not() {
        let mut sketch = Sketch::default();
        for n in 0..10_000 {
            sketch.count(ItemKind::Key, &format!("cold-{n}"));
            if n % 20 == 0 {
                sketch.count(ItemKind::Counter, "hot");
            }
        }
        assert_eq!(sketch.counts.len(), NAMES_MAX);
        let ((kind, name), count) = sketch.hottest().swap_remove(0);
        assert_eq!((kind, &*name), (ItemKind::Counter, "hot"));
        let too_high = count - 500;
        assert!(
            too_high <= 10_500 / NAMES_MAX as u64,
            "{count}: never too low, and a little too high"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_window_is_told_and_then_forgotten() {
        let hot = HotItems::new(Names::Shown);
        for _ in 0..150 {
            hot.count(ItemKind::Counter, "sto\"ck");
        }
        assert!(!text(&hot).contains("stock"), "its window is not over");
        tokio::time::advance(WINDOW).await;
        let line =
            "tally_hot_item_operations_per_second{kind=\"counter\",item=\"sto\\\"ck\"} 610.0";
        assert!(text(&hot).contains(line), "{}", text(&hot));
        tokio::time::advance(WINDOW).await;
        assert!(!text(&hot).contains("sto"), "{}", text(&hot));
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_hashed_or_not_even_counted() {
        let hot = HotItems::new(Names::Hashed);
        assert!(hot.wants(0) && hot.wants(ONE_IN) && !hot.wants(1));
        hot.count(ItemKind::Key, "alice@example.org");
        tokio::time::advance(WINDOW).await;
        // printf %s alice@example.org | sha256sum | cut -c 1-16
        assert!(text(&hot).contains("item=\"7a64adf28737ea90\""), "{}", text(&hot));
        assert!(!HotItems::new(Names::Off).wants(0));
    }
}
