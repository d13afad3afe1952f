//! Reads a snapshot file and believes nothing in it before its crc was right.

use std::io;

use bytes::Bytes;

use super::{
    SnapshotInfo,
    format::{
        BLOCK_BYTES_MAX, BLOCK_PREFIX_BYTES, Block, FOOTER_BYTES, HEADER_BODY_BYTES_MAX,
        HEADER_PREFIX_BYTES, Header, KIND_BLOCK, KIND_FOOTER, MAGIC, VERSION,
    },
};
use crate::{
    codec::Input,
    disk::{Disk, File, OpenMode, open_patiently},
};

/// Why a snapshot file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Its bytes are not what was written.
    #[error("{path}: damaged at byte {offset}: {reason}")]
    Damaged {
        /// The file.
        path: String,
        /// Where the damaged part begins.
        offset: u64,
        /// What is wrong there.
        reason: &'static str,
    },
    /// A later release wrote it.
    #[error(
        "{path}: has format version {version}, and this release reads up to {VERSION}. Start the \
         newer release again; nothing was deleted"
    )]
    NewerFormat {
        /// The file.
        path: String,
        /// Its version.
        version: u32,
    },
    /// The disk failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the disk said.
        source: io::Error,
    },
}

/// An open snapshot file, read from its beginning to its end.
#[derive(Debug)]
pub struct SnapshotFile {
    path: String,
    file: Box<dyn File>,
    header: Header,
    offset: u64,
    crc: u32,
    blocks: u64,
    records: u64,
    last_key: Bytes,
}

impl SnapshotFile {
    /// Opens the file and checks its header.
    pub async fn open(disk: &dyn Disk, path: &str) -> Result<Self, SnapshotError> {
        let file = open_patiently(disk, path, OpenMode::Read)
            .await
            .map_err(|source| SnapshotError::Io { path: path.into(), source })?;
        let header = Header {
            last_log_id: crate::log_id::LogId::new(0, 0),
            membership: super::Membership::default(),
        };
        let mut opened = SnapshotFile {
            path: path.into(),
            file,
            header,
            offset: 0,
            crc: 0,
            blocks: 0,
            records: 0,
            last_key: Bytes::new(),
        };
        opened.header = opened.read_header().await?;
        Ok(opened)
    }

    /// How many of its bytes were read.
    pub fn position(&self) -> u64 {
        self.offset
    }

    /// What the header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The records of the next block, or `None` after the footer, when all of the file was right.
    pub async fn next_block(&mut self) -> Result<Option<Vec<(Bytes, Bytes)>>, SnapshotError> {
        let begin = self.offset;
        let prefix = self.peek(begin, FOOTER_BYTES).await?;
        match prefix.first() {
            Some(&KIND_BLOCK) => self.read_block(begin).await.map(Some),
            Some(&KIND_FOOTER) => self.check_footer(begin).await.map(|()| None),
            Some(_) => Err(self.damaged(begin, "neither a block nor the footer begins here")),
            None => Err(self.damaged(begin, "the file ends without its footer")),
        }
    }

    async fn read_header(&mut self) -> Result<Header, SnapshotError> {
        let mut prefix = Input(self.take(HEADER_PREFIX_BYTES, "the header is cut off").await?);
        if prefix.take(MAGIC.len()).as_deref() != Some(&MAGIC[..]) {
            return Err(self.damaged(0, "this is no snapshot file"));
        }
        let version = prefix.u32().expect("the prefix was read whole");
        if version > VERSION {
            return Err(SnapshotError::NewerFormat { path: self.path.clone(), version });
        }
        let body_len = prefix.u32().expect("the prefix was read whole") as usize;
        if version == 0 || body_len > HEADER_BODY_BYTES_MAX {
            return Err(self.damaged(0, "the header makes no sense"));
        }
        let body = self.take(body_len, "the header is cut off").await?;
        let crc_found = self.crc;
        let crc = Input(self.take(4, "the header is cut off").await?).u32();
        if crc != Some(crc_found) {
            return Err(self.damaged(0, "the header's crc is wrong"));
        }
        Header::decode_body(body).ok_or_else(|| self.damaged(0, "the header makes no sense"))
    }

    async fn read_block(&mut self, begin: u64) -> Result<Vec<(Bytes, Bytes)>, SnapshotError> {
        let prefix = self.take(BLOCK_PREFIX_BYTES, "a block is cut off").await?;
        let covered = prefix.slice(..BLOCK_PREFIX_BYTES - 4);
        let mut prefix = Input(prefix.slice(1..));
        let payload_len = prefix.u32().expect("the prefix was read whole") as usize;
        let records = prefix.u32().expect("the prefix was read whole");
        let crc = prefix.u32().expect("the prefix was read whole");
        if payload_len > BLOCK_BYTES_MAX {
            return Err(self.damaged(begin, "a block is longer than any can be"));
        }
        let payload = self.take(payload_len, "a block is cut off").await?;
        if crc != crc32c::crc32c_append(crc32c::crc32c(&covered), &payload) {
            return Err(self.damaged(begin, "a block's crc is wrong"));
        }
        let records = Block::decode(payload, records)
            .ok_or_else(|| self.damaged(begin, "a block's records make no sense"))?;
        for (key, _) in &records {
            if *key <= self.last_key {
                return Err(self.damaged(begin, "keys are not in ascending order"));
            }
            self.last_key = key.clone();
        }
        self.blocks += 1;
        self.records += records.len() as u64;
        // The key is a slice of the block; a copy lets the block go.
        self.last_key = Bytes::copy_from_slice(&self.last_key);
        Ok(records)
    }

    async fn check_footer(&mut self, begin: u64) -> Result<(), SnapshotError> {
        let footer = self.take(FOOTER_BYTES - 4, "the footer is cut off").await?;
        let crc_found = self.crc;
        let mut footer = Input(footer.slice(1..));
        let counts = (footer.u64(), footer.u64());
        let crc = Input(self.take(4, "the footer is cut off").await?).u32();
        if crc != Some(crc_found) {
            return Err(self.damaged(begin, "the file's crc is wrong"));
        }
        if counts != (Some(self.blocks), Some(self.records)) {
            return Err(self.damaged(begin, "blocks or records are missing"));
        }
        if !self.peek(self.offset, 1).await?.is_empty() {
            return Err(self.damaged(self.offset, "something follows the footer"));
        }
        Ok(())
    }

    async fn take(&mut self, len: usize, otherwise: &'static str) -> Result<Bytes, SnapshotError> {
        let bytes = self.peek(self.offset, len).await?;
        if bytes.len() < len {
            return Err(self.damaged(self.offset, otherwise));
        }
        self.crc = crc32c::crc32c_append(self.crc, &bytes);
        self.offset += len as u64;
        Ok(bytes)
    }

    async fn peek(&mut self, offset: u64, len: usize) -> Result<Bytes, SnapshotError> {
        match self.file.read_at(offset, len).await {
            Ok(bytes) => Ok(bytes.into()),
            Err(source) => Err(SnapshotError::Io { path: self.path.clone(), source }),
        }
    }

    fn damaged(&self, offset: u64, reason: &'static str) -> SnapshotError {
        SnapshotError::Damaged { path: self.path.clone(), offset, reason }
    }
}

/// Reads the whole file and says what it is, if all of it is right.
pub async fn verify(disk: &dyn Disk, path: &str) -> Result<SnapshotInfo, SnapshotError> {
    let mut file = SnapshotFile::open(disk, path).await?;
    while file.next_block().await?.is_some() {
        tokio::task::yield_now().await;
    }
    let Header { last_log_id, membership } = file.header;
    Ok(SnapshotInfo { last_log_id, membership, path: path.into(), size: file.offset })
}
