//! A view that lives in memory: for tests, scripts and the simulator's model of a replica.

use std::{collections::BTreeMap, ops::ControlFlow};

use bytes::Bytes;

use super::view::{Change, View, Writes};

/// Records in an ordered map.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct MemoryView {
    /// The records.
    pub records: BTreeMap<Bytes, Bytes>,
}

impl MemoryView {
    /// Makes `writes` part of the state.
    pub fn commit(&mut self, writes: Writes) {
        for (key, change) in writes.records {
            let key = key.bytes().to_bytes();
            match change {
                Change::Put(value) => drop(self.records.insert(key, value)),
                Change::Insert(value) => {
                    let before = self.records.insert(key, value);
                    assert_eq!(before, None, "a record was inserted that was there already");
                }
                Change::Delete => drop(self.records.remove(&key)),
            }
        }
    }
}

impl View for MemoryView {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.records.get(key).cloned()
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) {
        use std::ops::Bound::{Excluded, Included};

        if start >= end {
            return;
        }
        for (key, value) in self.records.range::<[u8], _>((Included(start), Excluded(end))) {
            if visit(key, value).is_break() {
                return;
            }
        }
    }
}
