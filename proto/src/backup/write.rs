//! Making a backup.

use bytes::{BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};

use super::{
    BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, BLOCK_PREFIX_BYTES, Footer, Header, KIND_BLOCK, LZ4, STORED,
    Sums, VERSION,
};

/// Takes records in their order and gives the bytes of a backup, which it holds until they are [taken](Self::take).
pub struct Writer {
    out: BytesMut,
    block: BytesMut,
    in_block: u32,
    sums: Sums,
    file: Sha256,
    last_key: Vec<u8>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("blocks", &self.sums.blocks).finish_non_exhaustive()
    }
}

impl Writer {
    /// Begins with the header.
    pub fn new(header: &Header) -> Self {
        Self::of_version(header, VERSION)
    }

    /// In an older format: what this release still reads, tests write.
    pub(super) fn of_version(header: &Header, version: u32) -> Self {
        let mut writer = Self {
            out: BytesMut::new(),
            block: BytesMut::new(),
            in_block: 0,
            sums: Sums::new(version),
            file: Sha256::new(),
            last_key: Vec::new(),
        };
        writer.append(&header.encode(version));
        writer
    }

    /// The next record.
    ///
    /// # Panics
    /// If its key is not above the one before, or it is longer than any can be.
    pub fn record(&mut self, key: &[u8], value: &[u8]) {
        assert!(*key > *self.last_key, "records of a backup come in the order of their keys");
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.block.put_u32_le(u32::try_from(key.len()).expect("a key is short"));
        self.block.put_u32_le(u32::try_from(value.len()).expect("a value is short"));
        self.block.put_slice(key);
        self.block.put_slice(value);
        self.in_block += 1;
        self.sums.record(key, value);
        assert!(self.block.len() <= BLOCK_BYTES_MAX, "a record is longer than any can be");
        if self.block.len() >= BLOCK_BYTES_MIN {
            self.end_block();
        }
    }

    /// All records were given: ends the backup, and says what its footer does.
    pub fn finish(&mut self) -> Footer {
        if self.in_block > 0 {
            self.end_block();
        }
        let footer = self.sums.footer();
        self.append(&footer.encode());
        let hash = self.file.clone().finalize();
        self.out.put_slice(&hash);
        footer
    }

    /// Bytes that wait to be taken.
    pub fn waiting_bytes(&self) -> usize {
        self.out.len()
    }

    /// What there is so far and was not taken yet.
    pub fn take(&mut self) -> Bytes {
        self.out.split().freeze()
    }

    fn end_block(&mut self) {
        let payload = std::mem::take(&mut self.block);
        self.sums.block(&payload);
        let packed = lz4_flex::block::compress(&payload);
        let (compression, stored) = match packed.len() < payload.len() {
            true => (LZ4, &packed[..]),
            false => (STORED, &payload[..]),
        };
        let mut prefix = BytesMut::with_capacity(BLOCK_PREFIX_BYTES);
        prefix.put_u8(KIND_BLOCK);
        prefix.put_u8(compression);
        prefix.put_u32_le(stored.len() as u32);
        prefix.put_u32_le(payload.len() as u32);
        prefix.put_u32_le(std::mem::take(&mut self.in_block));
        let crc = crc32c::crc32c_append(crc32c::crc32c(&prefix), stored);
        prefix.put_u32_le(crc);
        self.append(&prefix);
        self.append(stored);
    }

    fn append(&mut self, bytes: &[u8]) {
        self.file.update(bytes);
        self.out.put_slice(bytes);
    }
}
