//! Writes a snapshot file, block by block.

use std::io;

use bytes::{BufMut, BytesMut};

use super::format::{Block, Header, KIND_FOOTER};
use crate::disk::File;

/// Bytes written between two syncs. One sync of the whole file at the end would hand the device
/// hundreds of megabytes at once, and the log's syncs would wait behind them: with 8 MiB, and three nodes
/// that built at the same time on one disk, a write waited for 160 ms.
const SYNC_EVERY_BYTES: u64 = 1 << 20;

/// A snapshot file that is being written.
#[derive(Debug)]
pub struct SnapshotWriter {
    file: Box<dyn File>,
    written: u64,
    synced: u64,
    crc: u32,
    blocks: u64,
    records: u64,
}

impl SnapshotWriter {
    /// Begins the file, which is new and empty.
    pub async fn begin(file: Box<dyn File>, header: &Header) -> io::Result<Self> {
        let mut writer =
            SnapshotWriter { file, written: 0, synced: 0, crc: 0, blocks: 0, records: 0 };
        writer.append(&header.encode()).await?;
        Ok(writer)
    }

    /// Appends a block.
    pub async fn block(&mut self, block: &Block) -> io::Result<()> {
        assert!(!block.is_empty(), "an empty block would make equal states differ");
        self.blocks += 1;
        self.records += u64::from(block.records());
        self.append(&block.encode()).await?;
        if self.written - self.synced >= SYNC_EVERY_BYTES {
            self.file.sync_aside().await?;
            self.synced = self.written;
        }
        Ok(())
    }

    /// Bytes so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Ends the file and makes its bytes durable; answers with its length. Its name is up to the
    /// caller.
    pub async fn finish(mut self) -> io::Result<u64> {
        let mut footer = BytesMut::new();
        footer.put_u8(KIND_FOOTER);
        footer.put_u64_le(self.blocks);
        footer.put_u64_le(self.records);
        footer.put_u32_le(crc32c::crc32c_append(self.crc, &footer));
        self.append(&footer).await?;
        self.file.sync_aside().await?;
        Ok(self.written)
    }

    async fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(self.written, bytes).await?;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }
}
