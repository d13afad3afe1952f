//! Records of the byte store that were read lately, as it holds them.
//!
//! A read of the store walks its index and locks a leaf; most of what a busy node reads it has read or
//! written a moment before: a counter that is added to again, a key that is put again, a session.
//!
//! **Why it is never wrong.** What is in here equals what the store holds, for every key that is not in
//! the frozen map; readers look there first.
//!
//! - A reader puts in what it has just read from the store, while it holds the lock of the layers. What
//!   the store holds for a key that is not frozen does not change under that lock: only flushes write,
//!   and what a flush writes was frozen under the lock, taken for writing, before it began.
//! - A flush brings every frozen record up to date in here ([`Cache::update`]) before it lets go of the
//!   frozen map. Until then nobody reads those keys in here, and nobody puts them in, as the frozen map
//!   has them.
//! - An installed snapshot comes with a cache of its own, and an empty one.
//!
//! That a record is missing says nothing, so evictions do no harm, and absent records are not held.

use std::sync::Arc;

use bytes::Bytes;
use foldhash::{SharedSeed, quality::SeedableRandomState};
use quick_cache::{
    OptionsBuilder, Weighter,
    sync::{Cache as Concurrent, DefaultLifecycle},
};

use tally_machine::{changes::KeyBytes, view::Change};

use crate::meters::StorageMeters;

/// What a record takes beside its bytes: two `Bytes`, and its places in a table and in a list.
const RECORD_OVERHEAD_BYTES: usize = 120;

/// A guess, for the number of records that are remembered as having been evicted.
const RECORD_BYTES: usize = 256;

/// Parts with a lock of their own.
const SHARDS: usize = 16;

/// A record with a longer value is not held: it would push out hundreds of others.
const VALUE_BYTES_MAX: usize = 16 << 10;

#[derive(Debug, Clone, Copy)]
struct ByBytes;

impl Weighter<Bytes, Bytes> for ByBytes {
    fn weight(&self, key: &Bytes, value: &Bytes) -> u64 {
        (key.len() + value.len() + RECORD_OVERHEAD_BYTES) as u64
    }
}

/// See the module.
pub(super) struct Cache {
    records: Option<Concurrent<Bytes, Bytes, ByBytes, SeedableRandomState>>,
    meters: Arc<StorageMeters>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

impl Cache {
    /// Of at most so many bytes; without any it holds nothing.
    pub(super) fn new(bytes_max: usize, hash_seed: u64, meters: Arc<StorageMeters>) -> Cache {
        if bytes_max == 0 {
            return Cache { records: None, meters };
        }
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .estimated_items_capacity(bytes_max.div_ceil(RECORD_BYTES))
            .weight_capacity(bytes_max as u64)
            .build()
            .expect("both capacities are given");
        // A hash that clients can't foresee, as they choose the names.
        let hasher = SeedableRandomState::with_seed(hash_seed, SharedSeed::global_fixed());
        let records =
            Concurrent::with_options(options, ByBytes, hasher, DefaultLifecycle::default());
        Cache { records: Some(records), meters }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Bytes> {
        let found = self.records.as_ref()?.get(key);
        match found.is_some() {
            true => self.meters.cache_hits.add(1),
            false => self.meters.cache_misses.add(1),
        };
        found
    }

    /// The same for whoever reads for no client: it counts as no use of the record.
    pub(super) fn peek(&self, key: &[u8]) -> Option<Bytes> {
        self.records.as_ref()?.peek(key)
    }

    /// Holds what the store was just found to hold. See the module for when this may be called.
    pub(super) fn hold(&self, key: &[u8], value: &Bytes) {
        if let Some(records) = &self.records
            && value.len() <= VALUE_BYTES_MAX
        {
            records.insert(Bytes::copy_from_slice(key), value.clone());
        }
    }

    /// Brings up to date what is held of records that a flush has written; says how many those were.
    pub(super) fn update<'a>(
        &self,
        written: impl Iterator<Item = (KeyBytes<'a>, &'a Change)>,
    ) -> usize {
        let Some(records) = &self.records else { return 0 };
        let mut count = 0;
        for (key, change) in written {
            count += 1;
            match change.value() {
                // What was written and not read is not put in: it may be read never. A copy, as the
                // bytes may be a part of something larger.
                Some(value) if value.len() <= VALUE_BYTES_MAX => {
                    if records.contains_key(&key[..]) {
                        let value = Bytes::copy_from_slice(value);
                        let _ = records.replace(key.to_bytes(), value, true);
                    }
                }
                _ => drop(records.remove(&key[..])),
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::byte_store::Records;

    fn bytes(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn written(changes: &[(&str, Change)]) -> Records {
        changes.iter().map(|(key, change)| (bytes(key), change.clone())).collect()
    }

    fn of_bytes(bytes_max: usize) -> Cache {
        Cache::new(bytes_max, 7, Arc::default())
    }

    #[test]
    fn a_flush_changes_what_is_held_and_adds_nothing() {
        let cache = of_bytes(1 << 20);
        for key in ["changed", "deleted", "grown", "left"] {
            cache.hold(key.as_bytes(), &bytes("old"));
        }
        let records = written(&[
            ("changed", Change::Put(bytes("new"))),
            ("deleted", Change::Delete),
            ("grown", Change::Put(Bytes::from(vec![0; VALUE_BYTES_MAX + 1]))),
            ("unread", Change::Insert(bytes("new"))),
        ]);
        assert_eq!(cache.update(records.iter()), 4);
        assert_eq!(cache.get(b"changed"), Some(bytes("new")));
        assert_eq!(cache.get(b"left"), Some(bytes("old")));
        for gone in ["deleted", "grown", "unread"] {
            assert_eq!(cache.get(gone.as_bytes()), None, "{gone}");
        }
        assert_eq!((cache.meters.cache_hits.get(), cache.meters.cache_misses.get()), (2, 3));
    }

    /// A record that no longer fits is not left as it was.
    #[test]
    fn a_value_that_outgrows_the_cache_is_let_go_of() {
        let cache = of_bytes(2000);
        cache.hold(b"a", &bytes("old"));
        assert_eq!(cache.get(b"a"), Some(bytes("old")));
        cache.update(written(&[("a", Change::Put(Bytes::from(vec![0; 8000])))]).iter());
        assert_eq!(cache.get(b"a"), None);
    }

    #[test]
    fn it_holds_no_more_than_it_may() {
        let cache = of_bytes(100_000);
        for n in 0..10_000_u32 {
            cache.hold(&n.to_be_bytes(), &bytes("some value"));
        }
        let held = (0..10_000_u32).filter(|n| cache.get(&n.to_be_bytes()).is_some()).count();
        assert!((100..=100_000 / RECORD_OVERHEAD_BYTES).contains(&held), "{held}");
        assert!(of_bytes(0).get(b"a").is_none());
    }
}
