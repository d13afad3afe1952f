//! What is known of the byte store between two flushes: where its next record is.
//!
//! Housekeeping looks at the first record of several ranges with every entry, and in nearly all of
//! them the store has nothing, or the same record as the time before. The store changes only while a
//! flush writes to it, so until then the first look can be remembered.
//!
//! **Why it is never wrong.** What a flush writes is in the frozen map from before its first write
//! until after its last one, and readers believe that map first; for its keys it does not matter what
//! is said here, and for all other keys the store does not change. When the frozen map is let go of,
//! under the lock that readers hold, everything here is forgotten.

use std::{
    collections::BTreeMap,
    io,
    ops::{Bound, ControlFlow},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use crate::byte_store::ByteStore;

/// Looks remembered at most; lists of users look at as many places as they have pages.
const LOOKS_MAX: usize = 256;

type Record = (Bytes, Bytes);

/// Where a look began, and the first record from there on; `None` if there is none to the end.
#[derive(Debug, Default)]
pub(super) struct Gaps(Mutex<BTreeMap<Bytes, Option<Record>>>);

impl Gaps {
    /// The store's first record at or after `start`.
    pub(super) fn first(&self, store: &dyn ByteStore, start: &[u8]) -> io::Result<Option<Record>> {
        let up_to_start = (Bound::Unbounded, Bound::Included(start));
        if let Some((_, first)) = self.looks().range::<[u8], _>(up_to_start).next_back() {
            match first {
                None => return Ok(None),
                Some((key, _)) if key.as_ref() >= start => return Ok(first.clone()),
                Some(_) => {}
            }
        }
        let mut first = None;
        store.scan(start, None, &mut |key, value| {
            first = Some((Bytes::copy_from_slice(key), value.clone()));
            ControlFlow::Break(())
        })?;
        let mut looks = self.looks();
        if looks.len() >= LOOKS_MAX {
            looks.clear();
        }
        looks.insert(Bytes::copy_from_slice(start), first.clone());
        Ok(first)
    }

    /// The store has changed.
    pub(super) fn forget(&mut self) {
        self.looks().clear();
    }

    fn looks(&self) -> MutexGuard<'_, BTreeMap<Bytes, Option<Record>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
