//! The bytes of a backup: a file of its own format, which a node makes ([`Writer`]) and which is read without a cluster
//! ([`Reader`]). Both work on bytes in memory, a block at a time; where those come from and go to is not their
//! business. A file that is written to is a [`SteadyFile`].
//!
//! ```text
//! header  magic "TALLYBAK", version u32 (2), length of body u32, body, crc32c of all of the header u32
//! block   'B', compression u8, length as stored u32, length u32, records u32, crc32c of these and what is stored u32,
//!         what is stored. Uncompressed: key length u32, value length u32, key, value; repeated
//! footer  'E', blocks u64, records u64, bytes of all blocks uncompressed u64, state hash, data hash, content,
//!         SHA-256 of the whole file before it; nothing follows
//! ```
//!
//! Integers are little-endian, hashes have 32 bytes. Compression is 0 (none) or 1 (an LZ4 block); a block that would not
//! get smaller is stored as it is. Keys strictly ascend through the whole file.
//!
//! - **State hash**: the sum over all records that [`tally_state_hash`] is, the same by which replicas compare
//!   themselves.
//! - **Data hash**: the same over counters and keys alone, whose keys begin with 0x10 and 0x11. It does not change
//!   while remembered idempotency keys expire, so a cluster into which the backup was restored can be compared.
//! - Both were others in version 1, which is read as ever: SHA-256 over all records in their order, each as key length
//!   u64, key, value length u64, value (big-endian).
//! - **Content**: a hash chain over the uncompressed blocks, `SHA-256(chain before, block)` from 32 zeros. It names the
//!   backup: what is restored is checked against it, block by block.
//!
//! **The same state gives the same bytes**, but for what the header says of the making: the wall time, and the node's
//! version. Blocks are cut by the sizes of records alone, and compression is a function of a block and of the version
//! of what compresses it.
//!
//! A reader believes no length before it has checked it against a limit, and no record before its block's crc was
//! right.

mod read;
mod steady;
mod write;

pub use self::{
    read::{Reader, Unreadable},
    steady::SteadyFile,
    write::Writer,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tally_state_hash::StateHash;

/// First bytes of every backup.
pub const MAGIC: [u8; 8] = *b"TALLYBAK";
/// The format that this release writes, and the newest that it reads.
pub const VERSION: u32 = 2;
/// The version whose hashes are of the records in their order.
const VERSION_OF_ORDERED_HASHES: u32 = 1;
/// A block is cut once it has so many bytes: one command of a restore each.
pub const BLOCK_BYTES_MIN: usize = 256 << 10;
/// No block has more, uncompressed: what is missing to the least, and one record of the greatest size. It fits a
/// request.
pub const BLOCK_BYTES_MAX: usize = BLOCK_BYTES_MIN + RECORD_BYTES_MAX;
/// No record has more: a value of 1 MiB, its key, and what is around both.
pub const RECORD_BYTES_MAX: usize = (1 << 20) + 8192;
/// No header has a longer body.
pub const HEADER_BODY_BYTES_MAX: usize = 1024;

const HEADER_PREFIX_BYTES: usize = 16;
const BLOCK_PREFIX_BYTES: usize = 18;
const FOOTER_BYTES: usize = 1 + 3 * 8 + 4 * 32;
const KIND_BLOCK: u8 = b'B';
const KIND_FOOTER: u8 = b'E';
const STORED: u8 = 0;
const LZ4: u8 = 1;
/// First bytes of the keys of counters and keys.
const DATA: std::ops::Range<u8> = 0x10..0x12;

/// What a backup says of itself in front.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// The cluster that it was made of.
    pub cluster_id: u128,
    /// How often that had been restored.
    pub restore_epoch: u64,
    /// It is the state at this revision.
    pub revision: u64,
    /// Log time of the state, in ms.
    pub log_time_ms: u64,
    /// Log index of the last entry in it.
    pub applied_index: u64,
    /// Term of that entry.
    pub applied_term: u64,
    /// When it was made, by the node's wall clock, in ms since 1970.
    pub wall_time_ms: u64,
    /// Counters in it.
    pub counters: u64,
    /// Keys in it.
    pub keys: u64,
    /// Remembered idempotency keys in it, those that have expired but are not removed yet included.
    pub idempotency_keys: u64,
    /// Users in it.
    pub users: u64,
    /// Authentication was on.
    pub auth_enabled: bool,
    /// The last id of a user or token.
    pub auth_last_id: u64,
    /// Version of the node that made it.
    pub version: String,
}

impl Header {
    fn encode(&self, version: u32) -> BytesMut {
        let mut body = BytesMut::new();
        body.put_u128_le(self.cluster_id);
        for number in self.numbers() {
            body.put_u64_le(number);
        }
        let made_by = &self.version.as_bytes()[..self.version.len().min(256)];
        body.put_u16_le(made_by.len() as u16);
        body.put_slice(made_by);
        let mut header = BytesMut::new();
        header.put_slice(&MAGIC);
        header.put_u32_le(version);
        header.put_u32_le(body.len() as u32);
        header.put_slice(&body);
        header.put_u32_le(crc32c::crc32c(&header));
        header
    }

    fn numbers(&self) -> [u64; 12] {
        [
            self.restore_epoch,
            self.revision,
            self.log_time_ms,
            self.applied_index,
            self.applied_term,
            self.wall_time_ms,
            self.counters,
            self.keys,
            self.idempotency_keys,
            self.users,
            u64::from(self.auth_enabled),
            self.auth_last_id,
        ]
    }

    fn decode(mut body: &[u8]) -> Option<Self> {
        if body.len() < 16 + 12 * 8 + 2 {
            return None;
        }
        let mut header = Self { cluster_id: body.get_u128_le(), ..Self::default() };
        let mut number = || body.get_u64_le();
        header.restore_epoch = number();
        header.revision = number();
        header.log_time_ms = number();
        header.applied_index = number();
        header.applied_term = number();
        header.wall_time_ms = number();
        header.counters = number();
        header.keys = number();
        header.idempotency_keys = number();
        header.users = number();
        header.auth_enabled = match number() {
            0 => false,
            1 => true,
            _ => return None,
        };
        header.auth_last_id = number();
        if body.len() != 2 + usize::from(u16::from_le_bytes([body[0], body[1]])) {
            return None;
        }
        header.version = String::from_utf8(body[2..].to_vec()).ok()?;
        Some(header)
    }
}

/// What a backup says of itself at its end, and what a reader found to be so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Footer {
    /// Blocks.
    pub blocks: u64,
    /// Records.
    pub records: u64,
    /// Bytes of all blocks, uncompressed.
    pub block_bytes: u64,
    /// The hash over all records.
    pub state_hash: [u8; 32],
    /// The same over counters and keys.
    pub data_hash: [u8; 32],
    /// The hash chain over the blocks.
    pub content: [u8; 32],
}

impl Footer {
    fn encode(&self) -> BytesMut {
        let mut footer = BytesMut::with_capacity(FOOTER_BYTES);
        footer.put_u8(KIND_FOOTER);
        footer.put_u64_le(self.blocks);
        footer.put_u64_le(self.records);
        footer.put_u64_le(self.block_bytes);
        footer.put_slice(&self.state_hash);
        footer.put_slice(&self.data_hash);
        footer.put_slice(&self.content);
        footer
    }
}

/// What goes into the footer, gathered from the blocks as they go by: the same for who writes and for who reads.
struct Sums {
    blocks: u64,
    records: u64,
    block_bytes: u64,
    hashes: Hashes,
    content: [u8; 32],
}

/// Over the records, by the version of the format.
enum Hashes {
    Sum(StateHash),
    Ordered { state: Box<Sha256>, data: Box<Sha256> },
}

impl Hashes {
    fn record(&mut self, key: &[u8], value: &[u8]) {
        let (state, data) = match self {
            Hashes::Sum(hash) => return hash.add(key, value),
            Hashes::Ordered { state, data } => (state, data),
        };
        let in_data = key.first().is_some_and(|first| DATA.contains(first));
        for hash in [Some(state), in_data.then_some(data)].into_iter().flatten() {
            hash.update((key.len() as u64).to_be_bytes());
            hash.update(key);
            hash.update((value.len() as u64).to_be_bytes());
            hash.update(value);
        }
    }

    /// Over all records, and over counters and keys.
    fn finish(&self) -> ([u8; 32], [u8; 32]) {
        let finish = |hash: &Sha256| hash.clone().finalize().into();
        match self {
            Hashes::Sum(hash) => (hash.backup(), hash.data()),
            Hashes::Ordered { state, data } => (finish(state), finish(data)),
        }
    }
}

impl Sums {
    fn new(version: u32) -> Self {
        let hashes = match version {
            VERSION_OF_ORDERED_HASHES => {
                Hashes::Ordered { state: Box::default(), data: Box::default() }
            }
            _ => Hashes::Sum(StateHash::default()),
        };
        Self { blocks: 0, records: 0, block_bytes: 0, hashes, content: [0; 32] }
    }

    fn record(&mut self, key: &[u8], value: &[u8]) {
        self.records += 1;
        self.hashes.record(key, value);
    }

    fn block(&mut self, payload: &[u8]) {
        self.blocks += 1;
        self.block_bytes += payload.len() as u64;
        let mut chain = Sha256::new();
        chain.update(self.content);
        chain.update(payload);
        self.content = chain.finalize().into();
    }

    fn footer(&self) -> Footer {
        let (state_hash, data_hash) = self.hashes.finish();
        Footer {
            blocks: self.blocks,
            records: self.records,
            block_bytes: self.block_bytes,
            state_hash,
            data_hash,
            content: self.content,
        }
    }
}

/// The records of a block, uncompressed; nothing if they make no sense.
pub fn records(payload: &Bytes) -> Option<Vec<(Bytes, Bytes)>> {
    let mut rest = payload.clone();
    let mut records = Vec::new();
    while !rest.is_empty() {
        if rest.len() < 8 {
            return None;
        }
        let (key, value) = (rest.get_u32_le() as usize, rest.get_u32_le() as usize);
        if rest.len() < key.checked_add(value)? {
            return None;
        }
        records.push((rest.split_to(key), rest.split_to(value)));
    }
    Some(records)
}

#[cfg(test)]
mod tests;
