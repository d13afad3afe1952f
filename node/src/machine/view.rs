//! What the machine sees of storage: a view of records to read, and a set of writes to leave behind.
//!
//! The machine never fails for local reasons, so neither do these: a storage error below a [`View`]
//! ends the process (a node that can't read its own state has nothing true to say), see
//! `storage::state`.

use std::{collections::BTreeMap, ops::ControlFlow};

use bytes::Bytes;

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

/// Writes that become part of the state together: `None` deletes.
///
/// Ordered, so that every replica hands the same bytes in the same order to the store below.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Writes {
    /// The records.
    pub records: BTreeMap<Bytes, Option<Bytes>>,
}

impl Writes {
    /// Stores a record.
    pub fn put(&mut self, key: Bytes, value: Bytes) {
        self.records.insert(key, Some(value));
    }

    /// Deletes a record.
    pub fn delete(&mut self, key: Bytes) {
        self.records.insert(key, None);
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

    /// Stores a record.
    pub fn put(&mut self, key: Bytes, value: Bytes) {
        self.writes.put(key, value);
    }

    /// Deletes a record.
    pub fn delete(&mut self, key: Bytes) {
        self.writes.delete(key);
    }
}

impl<V: View + ?Sized> View for Overlay<'_, V> {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        match self.writes.records.get(key) {
            Some(written) => written.clone(),
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
    above: &BTreeMap<Bytes, Option<Bytes>>,
    start: &[u8],
    end: &[u8],
    visit: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    scan_below: impl FnOnce(&mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>),
) {
    use std::ops::Bound::{Excluded, Included};

    if start >= end {
        return;
    }
    let mut above = above.range::<[u8], _>((Included(start), Excluded(end))).peekable();
    let mut stopped = false;
    scan_below(&mut |key, value| {
        while let Some((above_key, written)) =
            above.next_if(|(above_key, _)| above_key.as_ref() < key)
        {
            if let Some(written) = written
                && visit(above_key, written).is_break()
            {
                stopped = true;
                return ControlFlow::Break(());
            }
        }
        let flow = match above.next_if(|(above_key, _)| above_key.as_ref() == key) {
            Some((_, Some(written))) => visit(key, written),
            Some((_, None)) => ControlFlow::Continue(()),
            None => visit(key, value),
        };
        stopped = flow.is_break();
        flow
    });
    if stopped {
        return;
    }
    for (above_key, written) in above {
        if let Some(written) = written
            && visit(above_key, written).is_break()
        {
            return;
        }
    }
}
