//! What readers see: dirty map over frozen maps over byte store, of which a cache holds some.

use std::{collections::VecDeque, ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use tally_seeded_bugs as seeded_bugs;

use super::{
    cache::Cache,
    gaps::Gaps,
    hash::{self, HASH_KEY},
    meta::{FIRST_KEY, META_KEY, Meta},
};
use crate::{
    byte_store::{ByteStore, Records},
    log_id::LogId,
    snapshot::Membership,
};
use tally_state_hash::StateHash;

use tally_machine::{
    changes::Key,
    view::{Change, View, Writes, merge_scan},
};

/// What a record in the map takes beside its bytes: its place in a table, which is two thirds full on
/// average, and its key's in a tree.
const RECORD_OVERHEAD_BYTES: usize = 160;

/// … and a remembered answer, of which the map counts the places itself.
const ANSWER_OVERHEAD_BYTES: usize = 16;

/// Frozen maps at most that wait for a flush: the one that is written, and one or two of comparisons that came
/// meanwhile. More only come while a snapshot is built for minutes, and a read looks through all of them.
const FROZEN_MAX: usize = 3;

/// First bytes of the machine's records about sessions. Only seeded bugs tell them from others.
pub(super) const SESSION_KEYS: std::ops::Range<u8> = 0x20..0x25;

/// What a record in the map counts.
fn record_bytes(key: &[u8], change: &Change) -> usize {
    let value = change.value().map_or(0, Bytes::len);
    match Key::is_answer(key) {
        true => value + ANSWER_OVERHEAD_BYTES,
        false => key.len() + value + RECORD_OVERHEAD_BYTES,
    }
}

/// The three layers, and what they are the state of. Behind one lock.
#[derive(Debug)]
pub(super) struct Core {
    /// Written since the last freeze. The only layer that changes in place.
    dirty: Records,
    dirty_bytes: usize,
    /// Changes since the last freeze, those that came to nothing included: what a restart would have
    /// to do again.
    changes: usize,
    /// What flushes move into the byte store, the oldest first; only that is being written. Readers look here
    /// first, so they never see how far it got.
    frozen: VecDeque<Frozen>,
    pub(super) store: Arc<dyn ByteStore>,
    /// What was read from the store lately.
    pub(super) cache: Arc<Cache>,
    /// Where the store has no records.
    gaps: Gaps,
    /// What all layers together are the state of.
    pub(super) meta: Meta,
    /// What the byte store held when a flush last returned.
    pub(super) flushed: Meta,
    /// The hash of its records then.
    pub(super) flushed_hash: StateHash,
}

/// A dirty map that no longer changes.
#[derive(Debug, Clone)]
pub(super) struct Frozen {
    /// With the meta record in it.
    pub(super) records: Arc<Records>,
    pub(super) meta: Meta,
    pub(super) bytes: usize,
    /// The hash of the state with it, once it is known: before any of it is written.
    pub(super) hash: Option<StateHash>,
    /// Somebody waits for the hash.
    pub(super) is_compared: bool,
}

impl Core {
    pub(super) fn new(
        store: Arc<dyn ByteStore>,
        cache: Cache,
        meta: Meta,
        hash: StateHash,
    ) -> Self {
        Core {
            dirty: Records::new(),
            dirty_bytes: 0,
            changes: 0,
            frozen: VecDeque::new(),
            store,
            cache: Arc::new(cache),
            gaps: Gaps::default(),
            flushed: meta.clone(),
            flushed_hash: hash,
            meta,
        }
    }

    /// Bytes that count against the room for commits: all in memory but for one frozen map.
    pub(super) fn dirty_bytes(&self) -> usize {
        let beside: usize = self.frozen.iter().skip(1).map(|frozen| frozen.bytes).sum();
        self.dirty_bytes + self.dirty.answer_overhead_bytes() + beside
    }

    /// Bytes of all changes in memory.
    pub(super) fn unflushed_bytes(&self) -> usize {
        self.dirty_bytes() + self.frozen.front().map_or(0, |frozen| frozen.bytes)
    }

    pub(super) fn changes(&self) -> usize {
        self.changes
    }

    pub(super) fn commit(
        &mut self,
        writes: Writes,
        applied: LogId,
        membership: Option<Membership>,
    ) {
        assert!(
            self.meta.applied < Some(applied),
            "{applied} was committed to a state that is at {:?} already",
            self.meta.applied
        );
        if let Some((first, _)) = writes.records.iter().next() {
            assert!(
                first.as_ref() >= FIRST_KEY,
                "{first:?} is in the range of keys that the state store keeps for itself"
            );
        }
        self.changes += writes.records.len();
        for (key, change) in writes.records {
            self.change(key, change);
        }
        self.meta.applied = Some(applied);
        if let Some(membership) = membership {
            self.meta.membership = membership;
        }
    }

    /// Puts one change into the dirty map.
    ///
    /// An insert stays one only if no layer below has the key, deleted or not. The machine says that
    /// the *state* does not have it; a layer can have it all the same, under a deletion in a layer
    /// above. If that is the dirty map, [`Change::then`] makes the insert a put; if it is a frozen
    /// one, the look below does; otherwise the store does not have it, as nothing hides it.
    fn change(&mut self, key: Key, change: Change) {
        let Core { dirty, dirty_bytes, frozen, .. } = self;
        let is_frozen = |key: &[u8]| frozen.iter().any(|frozen| frozen.records.get(key).is_some());
        dirty.update(key, |key, before| {
            let after = match (before, change) {
                (Some(before), change) => {
                    *dirty_bytes -= record_bytes(key, before);
                    before.then(change)
                }
                (None, Change::Insert(value)) if is_frozen(key) => Some(Change::Put(value)),
                (None, change) => Some(change),
            };
            *dirty_bytes += after.as_ref().map_or(0, |change| record_bytes(key, change));
            after
        });
    }

    /// The dirty map becomes a frozen one, which a flush is to write. False if it has nothing that the layer
    /// below has not.
    pub(super) fn freeze(&mut self) -> bool {
        let below = self.frozen.back().map_or(&self.flushed, |frozen| &frozen.meta);
        if self.dirty.is_empty() && self.meta == *below {
            return false;
        }
        let room = Records::with_room_of(&self.dirty);
        let bytes = self.dirty_bytes + self.dirty.answer_overhead_bytes();
        let mut records = std::mem::replace(&mut self.dirty, room);
        self.dirty_bytes = 0;
        self.changes = 0;
        if seeded_bugs::is_on("sessions-in-memory-only") {
            let is_session = |key: &Key| SESSION_KEYS.contains(&key.bytes()[0]);
            (self.dirty, records) = records.into_iter().partition(|(key, _)| is_session(key));
            self.dirty_bytes =
                self.dirty.iter().map(|(key, change)| record_bytes(&key, change)).sum();
        }
        records.insert(META_KEY, Change::Put(self.meta.encode()));
        self.frozen.push_back(Frozen {
            records: Arc::new(records),
            meta: self.meta.clone(),
            bytes,
            hash: None,
            is_compared: false,
        });
        true
    }

    /// The hash of the state as it is now is to be known once it is flushed. False if too much waits for that
    /// already.
    pub(super) fn compare_here(&mut self) -> bool {
        if self.frozen.len() >= FROZEN_MAX {
            return false;
        }
        self.freeze();
        match self.frozen.back_mut() {
            Some(frozen) => frozen.is_compared = true,
            // The byte store is that state already: a start with nothing to apply again.
            None => return false,
        }
        true
    }

    /// What is to be written next.
    pub(super) fn oldest_frozen(&self) -> Option<&Frozen> {
        self.frozen.front()
    }

    /// The hash of the state with the oldest frozen map, of which nothing was written yet. It is written with it.
    pub(super) fn set_hash(&mut self, hash: StateHash) {
        let frozen = self.frozen.front_mut().expect("its hash was made of a frozen map");
        assert!(frozen.hash.is_none(), "the hash of a flush is made once");
        frozen.hash = Some(hash);
        let record = hash::encode(frozen.meta.applied, &hash);
        let records = Arc::get_mut(&mut frozen.records);
        records
            .expect("nobody else has what was frozen before it is written")
            .insert(HASH_KEY, Change::Put(record));
    }

    /// The oldest frozen map is durable in the store; hands it back so that it is dropped elsewhere.
    pub(super) fn thaw(&mut self) -> Frozen {
        let frozen = self.frozen.pop_front().expect("a flush ended that never began");
        self.gaps.forget();
        self.flushed = frozen.meta.clone();
        self.flushed_hash = frozen.hash.expect("a flush makes the hash before it writes");
        frozen
    }

    pub(super) fn get(&self, key: &[u8]) -> std::io::Result<Option<Bytes>> {
        if key < FIRST_KEY {
            return Ok(None);
        }
        if let Some(written) = self.dirty.get(key) {
            return Ok(written.value().cloned());
        }
        let mut newest_first = self.frozen.iter().rev();
        if let Some(written) = newest_first.find_map(|frozen| frozen.records.get(key)) {
            return Ok(written.value().cloned());
        }
        if let Some(value) = self.cache.get(key) {
            return Ok(Some(value));
        }
        let value = self.store.get(key)?;
        if let Some(value) = &value {
            self.cache.hold(key, value);
        }
        Ok(value)
    }

    pub(super) fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> std::io::Result<()> {
        let start = start.max(FIRST_KEY);
        let mut result = Ok(());
        merge_scan(&self.dirty, start, end, visit, |visit| {
            result = self.scan_below(self.frozen.len(), start, end, visit);
        });
        result
    }

    /// Scans so many of the frozen maps, from the oldest on, and the store.
    fn scan_below(
        &self,
        layers: usize,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> std::io::Result<()> {
        let Some(next) = layers.checked_sub(1) else {
            return self.scan_store(start, end, visit);
        };
        let mut result = Ok(());
        merge_scan(&self.frozen[next].records, start, end, visit, |visit| {
            result = self.scan_below(next, start, end, visit);
        });
        result
    }
}

impl Core {
    fn scan_store(
        &self,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> std::io::Result<()> {
        let Some((key, value)) = self.gaps.first(self.store.as_ref(), start)? else {
            return Ok(());
        };
        if key.as_ref() >= end || visit(&key, &value).is_break() {
            return Ok(());
        }
        // The smallest key above this one.
        self.store.scan(&[&key[..], &[0]].concat(), Some(end), visit)
    }
}

/// The state at one point in time, for as long as this is held.
///
/// It holds a lock that commits wait for, and a second view taken on the same thread may wait
/// behind such a commit: read what is needed, at most a page, and let it go. It can't be held
/// across an `await` of a spawned task, which the compiler sees to.
#[derive(Debug)]
pub struct StateView<'a> {
    pub(super) core: std::sync::RwLockReadGuard<'a, Core>,
    pub(super) state: &'a super::StateStore,
}

impl StateView<'_> {
    /// The last entry that this is the state after.
    pub fn applied(&self) -> Option<LogId> {
        self.core.meta.applied
    }

    /// The membership as of [`Self::applied`].
    pub fn membership(&self) -> &Membership {
        &self.core.meta.membership
    }
}

impl View for StateView<'_> {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.core.get(key).unwrap_or_else(|error| self.state.read_failed(&error))
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) {
        self.core.scan(start, end, visit).unwrap_or_else(|error| self.state.read_failed(&error));
    }
}
