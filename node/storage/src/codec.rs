//! The few fixed-width encodings that the state's own records and files share.
//!
//! Little-endian and written by hand: these bytes are read by later releases, so nothing but this
//! file may decide what they look like.

use bytes::{BufMut, Bytes, BytesMut};

use super::log_id::LogId;

/// Appends "none" or a log id.
pub(super) fn put_log_id(to: &mut BytesMut, log_id: Option<LogId>) {
    match log_id {
        None => to.put_u8(0),
        Some(log_id) => {
            to.put_u8(1);
            to.put_u64_le(log_id.term);
            to.put_u64_le(log_id.index);
        }
    }
}

/// Appends bytes behind their length.
pub(super) fn put_bytes(to: &mut BytesMut, bytes: &[u8]) {
    to.put_u32_le(u32::try_from(bytes.len()).expect("a field is shorter than 4 GiB"));
    to.put_slice(bytes);
}

/// Takes values off the front of bytes that nobody vouches for: `None` when they run out.
#[derive(Debug)]
pub(super) struct Input(pub(super) Bytes);

impl Input {
    pub(super) fn take(&mut self, len: usize) -> Option<Bytes> {
        (len <= self.0.len()).then(|| self.0.split_to(len))
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N).map(|bytes| bytes.as_ref().try_into().expect("took N bytes"))
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn bytes(&mut self) -> Option<Bytes> {
        let len = self.u32()?;
        self.take(usize::try_from(len).ok()?)
    }

    /// The outer `None` means malformed. No id has the last index, as there would be none after it.
    pub(super) fn log_id(&mut self) -> Option<Option<LogId>> {
        match self.u8()? {
            0 => Some(None),
            1 => {
                let id = LogId { term: self.u64()?, index: self.u64()? };
                (id.index < u64::MAX).then_some(Some(id))
            }
            _ => None,
        }
    }
}
