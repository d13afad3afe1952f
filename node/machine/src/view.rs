//! What the machine sees of storage: a view of records to read, and a set of writes to leave behind.
//!
//! The machine never fails for local reasons, so neither do these: a storage error below a [`View`]
//! ends the process (a node that can't read its own state has nothing true to say), see
//! `storage::state`.

use std::ops::ControlFlow;

use bytes::Bytes;

pub use super::changes::Change;
use super::changes::{Changes, Key};

/// Records in ascending byte order of their keys, as of one applied index.
pub trait View {
    /// The value of a record.
    fn get(&self, key: &[u8]) -> Option<Bytes>;

    /// Visits records with `start <= key < end` in ascending order until `visit` breaks.
    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    );
}

impl From<Option<Bytes>> for Change {
    fn from(value: Option<Bytes>) -> Change {
        value.map_or(Change::Delete, Change::Put)
    }
}

/// Writes that become part of the state together.
///
/// Ordered, so that every replica hands the same bytes in the same order to the store below.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Writes {
    /// The records.
    pub records: Changes,
}

impl Writes {
    /// Stores a record.
    pub fn put(&mut self, key: Bytes, value: Bytes) {
        self.change(key.into(), Change::Put(value));
    }

    /// Stores a record that is not in the state. A promise of the caller's, not a check.
    pub fn insert(&mut self, key: Bytes, value: Bytes) {
        self.change(key.into(), Change::Insert(value));
    }

    /// Deletes a record.
    pub fn delete(&mut self, key: Bytes) {
        self.change(key.into(), Change::Delete);
    }

    /// Stores an answer under a session's number, which has none in the state. See [`Writes::insert`].
    pub fn insert_answer(&mut self, session_id: u64, sequence: u64, value: Bytes) {
        self.change(Key::Answer { session_id, sequence }, Change::Insert(value));
    }

    /// Deletes an answer of a session.
    pub fn delete_answer(&mut self, session_id: u64, sequence: u64) {
        self.change(Key::Answer { session_id, sequence }, Change::Delete);
    }

    fn change(&mut self, key: Key, change: Change) {
        self.records.update(key, |_, before| match before {
            Some(before) => before.then(change),
            None => Some(change),
        });
    }
}

/// A view with writes on top of it: what later commands of the same batch see.
#[derive(Debug)]
pub struct Overlay<'a, V: ?Sized> {
    below: &'a V,
    writes: &'a mut Writes,
}

impl<'a, V: View + ?Sized> Overlay<'a, V> {
    /// Writes go to `writes`; reads look there first.
    pub fn new(below: &'a V, writes: &'a mut Writes) -> Self {
        Overlay { below, writes }
    }

    /// What is below, for a bug on purpose.
    #[cfg(feature = "seeded-bugs")]
    pub(crate) fn below(&self) -> &'a V {
        self.below
    }

    /// Stores a record.
    pub fn put(&mut self, key: Bytes, value: Bytes) {
        self.writes.put(key, value);
    }

    /// Stores a record that is not there yet. See [`Writes::insert`].
    pub fn insert(&mut self, key: Bytes, value: Bytes) {
        self.writes.insert(key, value);
    }

    /// Deletes a record.
    pub fn delete(&mut self, key: Bytes) {
        self.writes.delete(key);
    }

    /// Stores an answer that is not there yet. See [`Writes::insert_answer`].
    pub fn insert_answer(&mut self, session_id: u64, sequence: u64, value: Bytes) {
        self.writes.insert_answer(session_id, sequence, value);
    }

    /// Deletes an answer of a session.
    pub fn delete_answer(&mut self, session_id: u64, sequence: u64) {
        self.writes.delete_answer(session_id, sequence);
    }
}

impl<V: View + ?Sized> View for Overlay<'_, V> {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        match self.writes.records.get(key) {
            Some(change) => change.value().cloned(),
            None => self.below.get(key),
        }
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) {
        merge_scan(&self.writes.records, start, end, visit, |visit| {
            self.below.scan(start, end, visit);
        });
    }
}

/// Visits `below` with `above` laid over it, in ascending order.
pub fn merge_scan(
    above: &Changes,
    start: &[u8],
    end: &[u8],
    visit: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    scan_below: impl FnOnce(&mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>),
) {
    if start >= end {
        return;
    }
    let mut above = above.range(start, end).peekable();
    let mut stopped = false;
    scan_below(&mut |key, value| {
        while let Some((above_key, written)) =
            above.next_if(|(above_key, _)| above_key.as_ref() < key)
        {
            if let Some(written) = written.value()
                && visit(&above_key, written).is_break()
            {
                stopped = true;
                return ControlFlow::Break(());
            }
        }
        let flow = match above.next_if(|(above_key, _)| above_key.as_ref() == key) {
            Some((_, written)) => match written.value() {
                Some(written) => visit(key, written),
                None => ControlFlow::Continue(()),
            },
            None => visit(key, value),
        };
        stopped = flow.is_break();
        flow
    });
    if stopped {
        return;
    }
    for (above_key, written) in above {
        if let Some(written) = written.value()
            && visit(&above_key, written).is_break()
        {
            return;
        }
    }
}
