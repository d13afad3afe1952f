//! The state while one entry is applied: decoded records over the overlay.
//!
//! Hot records (the meta record, counters, keys, sessions) are decoded at most once for each entry
//! and written back at its end, so a thousand commands on one counter cost one read and one write.
//! Everything else (remembered answers, indexes) goes to the overlay directly. No record is
//! reachable both ways, so the two can't disagree.

use std::{collections::HashMap, rc::Rc};

use bytes::Bytes;
use foldhash::fast::RandomState;
use tally_seeded_bugs as seeded_bugs;

use super::{
    auth::Caller,
    item::{CounterRecord, KeyRecord},
    keys::{RecordKey, Space},
    owner::Owner,
    quota::{Scope, counter_bytes, key_bytes},
    quotas::Quotas,
    records::{Meta, OwnerRecord, Record, SessionRecord, decode_stored},
    reply::Refusal,
    rights::{NotKnown, Rights},
    view::{Overlay, View},
};

/// Decoded records of one space, by encoded key.
///
/// A command asks for the same record several times in a row (read, look whether it exists, write),
/// and a hot one is what the next command asks for too. So the last one is tried before the rest is
/// searched.
#[derive(Debug)]
pub(super) struct Cache<R> {
    slots: Vec<(Bytes, Slot<R>)>,
    /// Nothing is done in its order. Its seed is of this process, as clients choose the names.
    by_key: HashMap<Bytes, usize, RandomState>,
    last: usize,
    /// While recording: what each written slot held before, in the order of the writes.
    journal: Vec<(usize, Slot<R>)>,
    recording: bool,
}

#[derive(Debug, Clone)]
struct Slot<R> {
    record: Option<R>,
    dirty: bool,
}

impl<R: Record> Cache<R> {
    fn new() -> Self {
        let (slots, by_key, journal) = (Vec::new(), HashMap::default(), Vec::new());
        Cache { slots, by_key, last: 0, journal, recording: false }
    }

    /// Where a record is, if it was read before.
    fn find(&mut self, key: &[u8]) -> Option<usize> {
        if self.slots.get(self.last).is_none_or(|(last, _)| last != key) {
            self.last = *self.by_key.get(key)?;
        }
        Some(self.last)
    }

    fn get<V: View + ?Sized>(&mut self, view: &V, key: &[u8]) -> Option<&R> {
        let at = match self.find(key) {
            Some(at) => at,
            None => {
                let record = view.get(key).map(|bytes| decode_stored(key, &bytes));
                let key = Bytes::copy_from_slice(key);
                self.last = self.slots.len();
                self.by_key.insert(key.clone(), self.last);
                self.slots.push((key, Slot { record, dirty: false }));
                self.last
            }
        };
        self.slots[at].1.record.as_ref()
    }

    fn set(&mut self, key: &[u8], record: Option<R>) {
        let at = self.find(key).expect("a record is read, then written");
        let before = std::mem::replace(&mut self.slots[at].1, Slot { record, dirty: true });
        if self.recording {
            self.journal.push((at, before));
        }
    }

    fn roll_back(&mut self) {
        // Backwards: if a slot was written twice, what it held first wins.
        if seeded_bugs::is_on("rolled-back-in-order") {
            self.journal.reverse();
        }
        for (at, slot) in self.journal.drain(..).rev() {
            self.slots[at].1 = slot;
        }
        self.recording = false;
    }

    fn commit(&mut self) {
        self.journal.clear();
        self.recording = false;
    }

    /// Keys of the records that were written, in the order in which they were first read.
    fn written(&self) -> impl Iterator<Item = &Bytes> {
        self.slots.iter().filter(|(_, slot)| slot.dirty).map(|(key, _)| key)
    }

    /// Writes back what is not written yet. The records stay here, and may be written again.
    fn write_back<V: View + ?Sized>(&mut self, overlay: &mut Overlay<'_, V>) {
        assert!(!self.recording, "what may be rolled back is not written back");
        for (key, slot) in &mut self.slots {
            if std::mem::take(&mut slot.dirty) {
                match &slot.record {
                    Some(record) => overlay.put(key.clone(), record.encode()),
                    None => overlay.delete(key.clone()),
                }
            }
        }
    }
}

/// What a roll-back restores of the meta record: all that an operation can change. (Counts of
/// sessions and remembered answers are not undone, since what changes them is not.)
#[derive(Debug, Clone, Copy)]
struct Mark {
    revision: u64,
    counters: u64,
    keys: u64,
}

/// The state while one entry is applied.
pub(super) struct Work<'o, 'v, V: ?Sized> {
    pub(super) overlay: &'o mut Overlay<'v, V>,
    pub(super) meta: Meta,
    meta_stored: Option<Meta>,
    counters: Cache<CounterRecord>,
    keys: Cache<KeyRecord>,
    sessions: Cache<SessionRecord>,
    pub(super) quotas: Quotas,
    pub(super) log_index: u64,
    pub(super) wall_time_ms: u64,
    mark: Option<Mark>,
    /// Where the first end of a session is looked for: what this entry removed lies below, and
    /// looking through it again for each removal would cost the square of their number.
    pub(super) ended_from: Bytes,
    /// The same for idempotency keys.
    pub(super) expired_from: Bytes,
    /// For encoding keys without an allocation for each look-up.
    buffer: Vec<u8>,
    /// What callers may do, each looked up once for each entry, and anew when it changes within one.
    rights: HashMap<Option<Caller>, Result<Rc<Rights>, NotKnown>, RandomState>,
    /// What a change of users, roles and tokens that is refused half-way takes back.
    pub(super) auth_undo: Vec<(Bytes, Option<Bytes>)>,
}

impl<'o, 'v, V: View + ?Sized> Work<'o, 'v, V> {
    pub(super) fn new(
        overlay: &'o mut Overlay<'v, V>,
        log_index: u64,
        log_time_ms: u64,
        wall_time_ms: u64,
        housekeeping_items: usize,
    ) -> Self {
        let key = RecordKey::Meta.encode();
        let meta_stored: Option<Meta> = overlay.get(&key).map(|bytes| decode_stored(&key, &bytes));
        let mut meta = meta_stored.unwrap_or_default();
        // Log time never falls, whatever a new leader stamps.
        meta.log_time_ms = meta.log_time_ms.max(log_time_ms);
        Work {
            overlay,
            meta,
            meta_stored,
            counters: Cache::new(),
            keys: Cache::new(),
            sessions: Cache::new(),
            quotas: Quotas::new(housekeeping_items),
            log_index,
            wall_time_ms,
            mark: None,
            ended_from: Bytes::copy_from_slice(&Space::SessionExpiry.range().0),
            expired_from: Bytes::copy_from_slice(&Space::IdempotencyExpiry.range().0),
            buffer: Vec::with_capacity(64),
            rights: HashMap::default(),
            auth_undo: Vec::new(),
        }
    }

    /// Writes everything back.
    pub(super) fn finish(mut self) {
        assert!(self.mark.is_none(), "an entry ends between two commands, not inside one");
        self.write_items_back();
        self.sessions.write_back(self.overlay);
        self.quotas.flush(self.overlay);
        if self.meta_stored != Some(self.meta) {
            self.overlay.put(RecordKey::Meta.encode(), self.meta.encode());
        }
    }

    /// Writes counters and keys back before the end of the entry, so that a scan finds them.
    pub(super) fn write_items_back(&mut self) {
        self.counters.write_back(self.overlay);
        self.keys.write_back(self.overlay);
    }

    /// Writes items back and forgets them and the quotas, of which there are none, for what goes past them.
    pub(super) fn forget_items(&mut self) {
        self.write_items_back();
        (self.counters, self.keys) = (Cache::new(), Cache::new());
        self.quotas.forget();
    }

    /// Begins what [`Work::roll_back`] can undo: writes to counters and keys with what quotas are charged for them,
    /// and revisions.
    pub(super) fn begin(&mut self) {
        assert!(self.mark.is_none(), "one command begins before the one before it ended");
        let Meta { revision, counters, keys, .. } = self.meta;
        self.mark = Some(Mark { revision, counters, keys });
        self.counters.recording = true;
        self.keys.recording = true;
        self.quotas.begin();
    }

    /// Restores counters, keys and the revision as they were at [`Work::begin`].
    pub(super) fn roll_back(&mut self) {
        let mark = self.mark.take().expect("what is rolled back has begun");
        self.meta.revision = mark.revision;
        self.meta.counters = mark.counters;
        self.meta.keys = mark.keys;
        self.counters.roll_back();
        self.keys.roll_back();
        self.quotas.roll_back();
    }

    /// Keeps what was written since [`Work::begin`].
    pub(super) fn commit(&mut self) {
        assert!(self.mark.take().is_some(), "what is committed has begun");
        self.counters.commit();
        self.keys.commit();
        self.quotas.commit();
    }

    /// Takes the next revision.
    pub(super) fn next_revision(&mut self) -> u64 {
        self.meta.revision += 1;
        self.meta.revision
    }

    /// What a caller may do, as of now.
    pub(super) fn rights(&mut self, caller: Option<Caller>) -> Result<Rc<Rights>, NotKnown> {
        let overlay = &*self.overlay;
        #[cfg(feature = "seeded-bugs")]
        if seeded_bugs::is_on("rights-as-committed") {
            return Rights::of(overlay.below(), caller).map(Rc::new);
        }
        let rights = self.rights.entry(caller);
        rights.or_insert_with(|| Rights::of(overlay, caller).map(Rc::new)).clone()
    }

    /// Users, roles or tokens change.
    pub(super) fn forget_rights(&mut self) {
        self.rights.clear();
    }

    pub(super) fn counter(&mut self, name: &str) -> Option<CounterRecord> {
        RecordKey::Counter(name).encode_into(&mut self.buffer);
        self.counters.get(&*self.overlay, &self.buffer).copied()
    }

    /// Stores or deletes a counter that was read before. Refused if a quota does not allow one more.
    pub(super) fn set_counter(
        &mut self,
        name: &str,
        record: Option<CounterRecord>,
    ) -> Result<(), Refusal> {
        if let Some(CounterRecord { value, bounds, .. }) = record {
            let above = bounds.floor.is_none_or(|floor| floor <= value);
            let below = bounds.ceiling.is_none_or(|ceiling| value <= ceiling);
            let unchecked = seeded_bugs::is_on("bounds-before-proposing");
            assert!(
                above && below || unchecked,
                "counter {name:?} would be stored outside its own bounds"
            );
        }
        let existed = self.counter(name).is_some();
        // One that stays has the bytes that it had.
        let bytes = |exists: bool| exists.then(|| counter_bytes(name));
        self.charge(Scope::Counters, name, bytes(existed), bytes(record.is_some()))?;
        count(&mut self.meta.counters, existed, record.is_some());
        self.counters.set(&self.buffer, record);
        Ok(())
    }

    pub(super) fn key(&mut self, key: &str) -> Option<KeyRecord> {
        RecordKey::Key(key).encode_into(&mut self.buffer);
        self.keys.get(&*self.overlay, &self.buffer).cloned()
    }

    /// Stores or deletes a key that was read before. Refused if a quota does not allow what it gets more.
    pub(super) fn set_key(&mut self, key: &str, record: Option<KeyRecord>) -> Result<(), Refusal> {
        let bytes = |record: &KeyRecord| key_bytes(key, record.value.len());
        let before = self.key(key).as_ref().map(bytes);
        self.charge(Scope::Keys, key, before, record.as_ref().map(bytes))?;
        count(&mut self.meta.keys, before.is_some(), record.is_some());
        self.keys.set(&self.buffer, record);
        Ok(())
    }

    /// A session's record, also if it has ended and is not removed yet.
    pub(super) fn session_record(&mut self, session_id: u64) -> Option<SessionRecord> {
        RecordKey::Session(session_id).encode_into(&mut self.buffer);
        self.sessions.get(&*self.overlay, &self.buffer).copied()
    }

    /// Stores or deletes a session that was read before.
    pub(super) fn set_session_record(&mut self, session_id: u64, record: Option<SessionRecord>) {
        let before = self.session_record(session_id);
        count(&mut self.meta.sessions, before.is_some(), record.is_some());
        self.sessions.set(&self.buffer, record);
        // A session has the same owner for as long as it is there.
        if before.is_some() != record.is_some()
            && let Some(owner) = record.or(before).and_then(|session| session.owner)
        {
            let mut sessions = self.sessions_of(owner);
            count(&mut sessions, before.is_some(), record.is_some());
            let key = RecordKey::SessionOwner(owner).encode();
            match sessions {
                0 => self.overlay.delete(key),
                _ => self.overlay.put(key, OwnerRecord { sessions }.encode()),
            }
        }
    }

    /// Sessions that an owner holds, those that have ended but are not removed yet included.
    pub(super) fn sessions_of(&self, owner: Owner) -> u64 {
        let key = RecordKey::SessionOwner(owner).encode();
        let record = self.overlay.get(&key).map(|bytes| decode_stored::<OwnerRecord>(&key, &bytes));
        record.map_or(0, |record| record.sessions)
    }

    /// Ids of the sessions that this entry has touched, in ascending order.
    pub(super) fn touched_sessions(&self) -> Vec<u64> {
        let id = |key: &Bytes| match RecordKey::decode(key) {
            Ok(RecordKey::Session(id)) => id,
            other => panic!("the cache of sessions holds a key of something else: {other:?}"),
        };
        let mut ids: Vec<_> = self.sessions.written().map(id).collect();
        ids.sort_unstable();
        ids
    }
}

/// Keeps a count of records right when one is written.
fn count(count: &mut u64, existed: bool, exists: bool) {
    match (existed, exists) {
        (false, true) => *count += 1,
        (true, false) => *count -= 1,
        _ => {}
    }
}
