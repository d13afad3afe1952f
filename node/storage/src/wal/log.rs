//! The log in memory: where each entry is, and recent entries themselves.

use std::{collections::VecDeque, ops::Range};

use bytes::Bytes;

use super::types::{Entry, LogId};

/// Where an entry's frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub segment: u64,
    pub offset: u64,
    /// Bytes of the frame.
    pub bytes: u32,
}

/// What memory has of one entry.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub term: u64,
    /// Tells this entry from a truncated one that had the same index.
    pub stamp: u64,
    /// Known once it is durable.
    pub place: Option<Place>,
    /// Kind and payload while they are kept.
    pub cached: Option<(u8, Bytes)>,
}

/// A position of an entry with what is needed to read it.
#[derive(Debug, Clone)]
pub(super) enum Found {
    Cached(Entry),
    OnDisk(LogId, Place),
}

/// Entries `(purged, last]`, or as many at the end of that as there are slots for.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
    slots: VecDeque<Slot>,
    cached_bytes: usize,
    /// Index below which nothing is cached.
    cached_from: u64,
}

/// The index after an id; 0 after none.
pub(super) fn after(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}

impl Log {
    /// Index that the next entry must have.
    pub(super) fn end(&self) -> u64 {
        after(self.last)
    }

    /// Index of the first slot.
    pub(super) fn start(&self) -> u64 {
        self.end() - self.slots.len() as u64
    }

    /// Whether every entry that is not purged has its slot.
    pub(super) fn is_whole(&self) -> bool {
        self.start() == after(self.purged)
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.start())?).ok()?)
    }

    /// The id of the entry at an index.
    pub(super) fn log_id(&self, index: u64) -> Option<LogId> {
        if let Some(known) =
            [self.purged, self.last].into_iter().flatten().find(|id| id.index == index)
        {
            return Some(known);
        }
        self.slot(index).map(|slot| LogId { term: slot.term, index })
    }

    pub(super) fn push(&mut self, id: LogId, slot: Slot) {
        assert_eq!(id.index, self.end(), "an entry leaves a hole in the log");
        if let Some((_, payload)) = &slot.cached {
            self.cached_bytes += payload.len();
        }
        self.slots.push_back(slot);
        self.last = Some(id);
    }

    /// What is behind `keep`.
    pub(super) fn behind(&self, keep: Option<LogId>) -> Vec<(LogId, Slot)> {
        let indexes = after(keep).max(self.start())..self.end();
        let slot = |index| Some((self.log_id(index)?, self.slot(index)?.clone()));
        indexes.filter_map(slot).collect()
    }

    /// Drops what is behind `keep`.
    pub(super) fn truncate(&mut self, keep: Option<LogId>) {
        let cut = self.end().saturating_sub(after(keep));
        if cut == 0 {
            return;
        }
        for _ in 0..cut.min(self.slots.len() as u64) {
            let dropped = self.slots.pop_back();
            self.forget(dropped);
        }
        self.last = keep;
        self.cached_from = self.cached_from.min(self.end());
    }

    /// Drops what is at or before `upto`; with a jump everything.
    pub(super) fn purge(&mut self, upto: LogId, jump: bool) {
        if jump {
            self.slots.clear();
            self.cached_bytes = 0;
            self.last = Some(upto);
        } else {
            while !self.slots.is_empty() && self.start() <= upto.index {
                let dropped = self.slots.pop_front();
                self.forget(dropped);
            }
        }
        self.purged = Some(upto);
    }

    fn forget(&mut self, slot: Option<Slot>) {
        if let Some((_, payload)) = slot.and_then(|slot| slot.cached) {
            self.cached_bytes -= payload.len();
        }
    }

    /// Index of the last entry that lies before this segment: one entry's frame is behind that of the
    /// entry before it, and what is not durable yet will lie behind all of them.
    pub(super) fn last_before(&self, segment: u64) -> Option<u64> {
        let lies_before = |slot: &Slot| slot.place.is_some_and(|place| place.segment < segment);
        let count = self.slots.partition_point(lies_before) as u64;
        (self.start() + count).checked_sub(1).filter(|_| count > 0)
    }

    /// Notes where an entry is, unless it was truncated or purged meanwhile.
    pub(super) fn place(&mut self, index: u64, stamp: u64, place: Place) {
        let start = self.start();
        let slot = index.checked_sub(start).and_then(|at| self.slots.get_mut(at as usize));
        if let Some(slot) = slot.filter(|slot| slot.stamp == stamp) {
            slot.place = Some(place);
        }
    }

    /// Lets go of the oldest payloads that can be read from disk, down to `limit` bytes.
    pub(super) fn evict(&mut self, limit: usize) {
        let start = self.start();
        self.cached_from = self.cached_from.clamp(start, self.end());
        while self.cached_bytes > limit && self.cached_from < self.end() {
            let slot = &mut self.slots[(self.cached_from - start) as usize];
            if slot.place.is_none() {
                return;
            }
            if let Some((_, payload)) = slot.cached.take() {
                self.cached_bytes -= payload.len();
            }
            self.cached_from += 1;
        }
    }

    /// Entries of a range of indexes, clipped to what there is: as many as fit into `bytes_max`, and
    /// at least one.
    pub(super) fn find(&self, range: Range<u64>, bytes_max: usize) -> Vec<Found> {
        let mut found = Vec::new();
        let mut bytes = 0;
        for index in range.start.max(self.start())..range.end.min(self.end()) {
            let Some(slot) = self.slot(index) else { break };
            let log_id = LogId { term: slot.term, index };
            let (one, len) = match (&slot.cached, slot.place) {
                (Some((kind, payload)), _) => {
                    let entry = Entry { log_id, kind: *kind, payload: payload.clone() };
                    (Found::Cached(entry), payload.len())
                }
                (None, Some(place)) => (Found::OnDisk(log_id, place), place.bytes as usize),
                (None, None) => unreachable!("entry {log_id} is neither in memory nor on disk"),
            };
            bytes += len;
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(one);
        }
        found
    }

    /// Whether an entry is still where it was found.
    pub(super) fn is_at(&self, index: u64, place: Place) -> bool {
        self.slot(index).is_some_and(|slot| slot.place == Some(place))
    }
}
