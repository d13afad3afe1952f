//! The one record that says what the other records of a byte store are.
//!
//! It is written in the same batch as the records it speaks of, always. That is the whole of the
//! protection against a state that is older or newer than its applied id.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    codec::{Input, put_bytes, put_log_id},
    log_id::LogId,
    snapshot::Membership,
};

/// Keys that begin with this byte are the state store's own; the machine's begin above it.
pub(super) const FIRST_KEY: &[u8] = &[1];
/// Where the record is.
pub(super) const META_KEY: Bytes = Bytes::from_static(b"\0state");
/// The format that this release writes, and the newest that it reads. Later formats keep the
/// version as the first two bytes.
pub(super) const VERSION: u16 = 1;

/// Which entry the records are the state after, and the membership as of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) applied: Option<LogId>,
    pub(super) membership: Membership,
}

/// Why a record is not one of ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum MetaError {
    Damaged,
    NewerFormat(u16),
}

impl Meta {
    pub(super) fn encode(&self) -> Bytes {
        let mut record = BytesMut::new();
        record.put_u16_le(VERSION);
        put_log_id(&mut record, self.applied);
        put_log_id(&mut record, self.membership.log_id);
        put_bytes(&mut record, &self.membership.encoded);
        let crc = crc32c::crc32c(&record);
        record.put_u32_le(crc);
        record.freeze()
    }

    pub(super) fn decode(record: &Bytes) -> Result<Self, MetaError> {
        let version = Input(record.clone()).u16().ok_or(MetaError::Damaged)?;
        if version > VERSION {
            return Err(MetaError::NewerFormat(version));
        }
        Self::decode_current(record).ok_or(MetaError::Damaged)
    }

    fn decode_current(record: &Bytes) -> Option<Self> {
        let covered = record.len().checked_sub(4)?;
        let mut crc = Input(record.slice(covered..));
        if crc.u32()? != crc32c::crc32c(&record[..covered]) {
            return None;
        }
        let mut input = Input(record.slice(..covered));
        input.u16()?;
        let applied = input.log_id()?;
        let membership = Membership { log_id: input.log_id()?, encoded: input.bytes()? };
        input.0.is_empty().then_some(Meta { applied, membership })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_every_flipped_bit_is_found() {
        let meta = Meta {
            applied: Some(LogId::new(3, 90)),
            membership: Membership {
                log_id: Some(LogId::new(1, 1)),
                encoded: Bytes::from_static(b"three voters"),
            },
        };
        let record = meta.encode();
        assert_eq!(Meta::decode(&record), Ok(meta));
        for bit in 0..record.len() * 8 {
            let mut flipped = record.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Meta::decode(&flipped.into()).is_err(), "bit {bit} flipped unnoticed");
        }
    }

    /// The checksum of nothing is zero, so four zeros are a record with a right checksum, and were a panic.
    #[test]
    fn a_record_that_was_zeroed_is_damaged_however_short_it_is() {
        for length in 0..64 {
            let zeros = Bytes::from(vec![0; length]);
            assert_eq!(Meta::decode(&zeros), Err(MetaError::Damaged), "{length} bytes");
        }
        for covered in [&[][..], &[0], &[0, 0], &[1, 0], &[1, 0, 0]] {
            let sealed = [covered, &crc32c::crc32c(covered).to_le_bytes()].concat();
            assert!(Meta::decode(&sealed.into()).is_err(), "{covered:?}");
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        assert_eq!(Meta::decode(&Bytes::from_static(&[9, 0])), Err(MetaError::NewerFormat(9)));
    }
}
