//! The bytes of a snapshot file.
//!
//! ```text
//! header  magic "TALLYSNP", version u32, length of body u32,
//!         body: last log id, membership's log id, membership, crc32c of all of the header
//! block   'B', payload length u32, records u32, crc32c of these and the payload, payload
//!         payload: key length u32, value length u32, key, value; repeated; keys strictly ascend,
//!         from one block to the next too
//! footer  'E', blocks u64, records u64, crc32c of the whole file before it; nothing follows
//! ```
//!
//! Integers are little-endian. Two crcs cover each byte: a block's own finds damage before its
//! records are used, the file's finds a lost, doubled or exchanged block.
//!
//! **The same state gives the same bytes on every replica**: no clock, no node id, no random
//! number, and blocks are cut by the sizes of the records alone. So files can be compared.

use bytes::{BufMut, Bytes, BytesMut};

use super::Membership;
use crate::{
    codec::{Input, put_bytes, put_log_id},
    log_id::LogId,
};

/// First bytes of every snapshot file.
pub const MAGIC: [u8; 8] = *b"TALLYSNP";
/// The format that this release writes, and the newest that it reads.
pub const VERSION: u32 = 1;
/// A block is cut once its payload has reached this: small enough to be read, sent and checked in
/// one go, large enough that headers and calls do not count.
pub const BLOCK_BYTES_MIN: usize = 256 << 10;
/// No block is longer. A larger length in a file is damage, and is not believed to the point of
/// allocating for it.
pub const BLOCK_BYTES_MAX: usize = 64 << 20;
/// Bytes before the header's body.
pub(super) const HEADER_PREFIX_BYTES: usize = 16;
/// No header body is longer: it holds a membership.
pub(super) const HEADER_BODY_BYTES_MAX: usize = 16 << 20;
/// Bytes before a block's payload.
pub(super) const BLOCK_PREFIX_BYTES: usize = 13;
/// Bytes of the footer.
pub(super) const FOOTER_BYTES: usize = 21;
/// First byte of a block.
pub(super) const KIND_BLOCK: u8 = b'B';
/// First byte of the footer.
pub(super) const KIND_FOOTER: u8 = b'E';

/// What the header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The last entry in the snapshot.
    pub last_log_id: LogId,
    /// The membership as of that entry.
    pub membership: Membership,
}

impl Header {
    pub(super) fn encode(&self) -> BytesMut {
        let mut body = BytesMut::new();
        put_log_id(&mut body, Some(self.last_log_id));
        put_log_id(&mut body, self.membership.log_id);
        put_bytes(&mut body, &self.membership.encoded);
        let mut header = BytesMut::new();
        header.put_slice(&MAGIC);
        header.put_u32_le(VERSION);
        header.put_u32_le(u32::try_from(body.len()).expect("a membership is small"));
        header.put_slice(&body);
        let crc = crc32c::crc32c(&header);
        header.put_u32_le(crc);
        header
    }

    pub(super) fn decode_body(body: Bytes) -> Option<Self> {
        let mut body = Input(body);
        let last_log_id = body.log_id()??;
        let membership = Membership { log_id: body.log_id()?, encoded: body.bytes()? };
        body.0.is_empty().then_some(Header { last_log_id, membership })
    }
}

/// Records of one block while it is filled.
#[derive(Debug, Default)]
pub struct Block {
    payload: BytesMut,
    records: u32,
}

impl Block {
    /// Appends a record.
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        self.payload.put_u32_le(u32::try_from(key.len()).expect("a key is short"));
        self.payload.put_u32_le(u32::try_from(value.len()).expect("a value is below 4 GiB"));
        self.payload.put_slice(key);
        self.payload.put_slice(value);
        self.records += 1;
        assert!(
            self.payload.len() <= BLOCK_BYTES_MAX,
            "a record of {} bytes does not fit a snapshot block",
            key.len() + value.len()
        );
    }

    /// Whether it is time to write it.
    pub fn is_full(&self) -> bool {
        self.payload.len() >= BLOCK_BYTES_MIN
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Its records.
    pub(super) fn records(&self) -> u32 {
        self.records
    }

    pub(super) fn encode(&self) -> BytesMut {
        let mut block = BytesMut::with_capacity(BLOCK_PREFIX_BYTES + self.payload.len());
        block.put_u8(KIND_BLOCK);
        block.put_u32_le(u32::try_from(self.payload.len()).expect("a block is small"));
        block.put_u32_le(self.records);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&block), &self.payload);
        block.put_u32_le(crc);
        block.put_slice(&self.payload);
        block
    }

    /// The records of a payload whose crc was right; `None` if it is malformed all the same.
    pub(super) fn decode(payload: Bytes, records: u32) -> Option<Vec<(Bytes, Bytes)>> {
        let mut payload = Input(payload);
        let mut decoded = Vec::new();
        for _ in 0..records {
            let key_len = payload.u32()?;
            let value_len = payload.u32()?;
            let key = payload.take(usize::try_from(key_len).ok()?)?;
            decoded.push((key, payload.take(usize::try_from(value_len).ok()?)?));
        }
        payload.0.is_empty().then_some(decoded)
    }
}
