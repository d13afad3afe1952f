//! The hash of the state, kept as it changes.
//!
//! # How
//!
//! The byte store holds the hash of its own records in a record of its own, written in the same batch as they are. A
//! flush makes the next one of it: for each record that it is about to write, what the store holds under that key is
//! taken out of the sum and the new value is put in ([`after`]). So it costs what was changed since the last flush and
//! not what is stored, a record that changed a thousand times is hashed twice, and applying an entry costs nothing.
//!
//! # What holds
//!
//! - **It belongs to the applied id**: the record names it, and one that names another is not believed but counted
//!   anew ([`stored_or_counted`]). That is what a release does that finds a store without one, or with one that an
//!   older release left behind; it happens once, before the node serves.
//! - **It is the hash of what was written, not of what is there.** Bytes that rot in the store leave it as it is. When
//!   such a record is overwritten, what rotted is taken out and not what had been put in, so the sum differs from that
//!   of the other replicas from then on. One that is not overwritten is found by whoever counts all records: the build of
//!   a snapshot does, and refuses to go on when it comes to another sum ([`StateError::Rotten`]).
//! - **Once for each flush.** A flush that was cancelled may have written its batch or not, so what the store holds says
//!   nothing any more: the hash is made before the first write, and kept with what is flushed.
//!
//! [`StateError::Rotten`]: super::StateError::Rotten

use std::{io, ops::ControlFlow};

use bytes::{BufMut, Bytes, BytesMut};
use tally_machine::{changes::KeyBytes, view::Change};
use tally_state_hash::{STATE_HASH_BYTES, StateHash};

use super::{
    cache::Cache,
    meta::{FIRST_KEY, Meta},
};
use crate::{
    byte_store::ByteStore,
    codec::{Input, put_log_id},
    log_id::LogId,
};

/// Where the record is.
pub(super) const HASH_KEY: Bytes = Bytes::from_static(b"\0hash");
/// The format that this release writes. One of another format is counted anew.
const VERSION: u16 = 1;

/// The record.
pub(super) fn encode(applied: Option<LogId>, hash: &StateHash) -> Bytes {
    let mut record = BytesMut::new();
    record.put_u16_le(VERSION);
    put_log_id(&mut record, applied);
    record.put_slice(&hash.to_bytes());
    let crc = crc32c::crc32c(&record);
    record.put_u32_le(crc);
    record.freeze()
}

/// The hash in a record, if it is that of the state after this entry.
fn decode(record: &Bytes, applied: Option<LogId>) -> Option<StateHash> {
    let covered = record.len().checked_sub(4)?;
    if Input(record.slice(covered..)).u32()? != crc32c::crc32c(&record[..covered]) {
        return None;
    }
    let mut input = Input(record.slice(..covered));
    if input.u16()? != VERSION || input.log_id()? != applied {
        return None;
    }
    StateHash::from_bytes(&input.take(STATE_HASH_BYTES)?).filter(|_| input.0.is_empty())
}

/// The hash that a store holds of its records, or what they come to.
pub(super) fn stored_or_counted(store: &dyn ByteStore, meta: &Meta) -> io::Result<StateHash> {
    let stored = store.get(&HASH_KEY)?.and_then(|record| decode(&record, meta.applied));
    if let Some(hash) = stored {
        return Ok(hash);
    }
    let mut hash = StateHash::default();
    let mut records = 0_u64;
    store.scan(FIRST_KEY, None, &mut |key, value| {
        hash.add(key, value);
        records += 1;
        ControlFlow::Continue(())
    })?;
    tracing::info!(records, "the state had no hash yet: it was counted");
    Ok(hash)
}

/// The hash after some more of a flush's changes, of which the store has none yet.
pub(super) fn after<'a>(
    mut hash: StateHash,
    changes: impl Iterator<Item = (KeyBytes<'a>, &'a Change)>,
    store: &dyn ByteStore,
    cache: &Cache,
) -> io::Result<(StateHash, usize)> {
    let mut count = 0;
    for (key, change) in changes {
        count += 1;
        if &key[..] < FIRST_KEY {
            continue;
        }
        // An insert says that the store does not have it.
        if !matches!(change, Change::Insert(_)) {
            let before = match cache.peek(&key) {
                Some(value) => Some(value),
                None => store.get(&key)?,
            };
            if let Some(before) = before {
                hash.remove(&key, &before);
            }
        }
        if let Some(value) = change.value() {
            hash.add(&key, value);
        }
    }
    Ok((hash, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_believed_for_its_own_entry_only_and_no_flipped_bit_passes() {
        let mut hash = StateHash::default();
        hash.add(b"\x10a", b"1");
        let applied = Some(LogId::new(2, 7));
        let record = encode(applied, &hash);
        assert_eq!(decode(&record, applied), Some(hash));
        assert_eq!(decode(&record, Some(LogId::new(2, 8))), None);
        assert_eq!(decode(&record, None), None);
        for bit in 0..record.len() * 8 {
            let mut flipped = record.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped.into(), applied), None, "bit {bit} flipped unnoticed");
        }
        for length in 0..record.len() {
            assert_eq!(decode(&Bytes::from(vec![0; length]), applied), None);
        }
    }
}
