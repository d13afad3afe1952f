//! Reading a backup, and believing nothing in it before it was checked.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use sha2::{Digest, Sha256};

use super::{
    BLOCK_BYTES_MAX, BLOCK_PREFIX_BYTES, FOOTER_BYTES, Footer, HEADER_BODY_BYTES_MAX,
    HEADER_PREFIX_BYTES, Header, KIND_BLOCK, KIND_FOOTER, LZ4, MAGIC, STORED, Sums, VERSION,
    records,
};

/// Why bytes are no backup.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unreadable {
    /// It begins otherwise.
    NoBackup,
    /// A later release made it.
    NewerFormat(u32),
    /// Its bytes are not those that were written.
    Damaged {
        /// Where what is damaged begins.
        offset: u64,
        /// What is wrong there.
        reason: &'static str,
    },
    /// It ends too early.
    CutOff {
        /// Where it ends.
        offset: u64,
    },
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoBackup => write!(f, "it is no backup of Tally"),
            Self::NewerFormat(version) => write!(
                f,
                "it has format version {version}, and this release reads up to {VERSION}: use a newer one"
            ),
            Self::Damaged { offset, reason } => {
                write!(f, "it is damaged at byte {offset}: {reason}")
            }
            Self::CutOff { offset } => {
                write!(f, "it ends at byte {offset}, before its footer: the backup was cut short")
            }
        }
    }
}

impl std::error::Error for Unreadable {}

impl From<Unreadable> for io::Error {
    fn from(unreadable: Unreadable) -> Self {
        Self::new(io::ErrorKind::InvalidData, unreadable)
    }
}

/// How much is read of a source at a time. A megabyte is far above what a read costs by itself, and no memory to speak
/// of.
const PIECE_BYTES: usize = 1 << 20;

/// Takes the bytes of a backup in pieces of any size and gives its blocks. It holds one block, and what it was given
/// of the next.
pub struct Reader {
    held: BytesMut,
    offset: u64,
    header: Option<Header>,
    footer: Option<Footer>,
    /// Of the version that the header names.
    sums: Sums,
    counted: [u64; 4],
    file: Sha256,
    last_key: Bytes,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            held: BytesMut::new(),
            offset: 0,
            header: None,
            footer: None,
            sums: Sums::new(VERSION),
            counted: [0; 4],
            file: Sha256::new(),
            last_key: Bytes::new(),
        }
    }
}

impl Reader {
    /// Nothing was read yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// More bytes of it. Ask for [blocks](Self::next_block) until there is none before giving more.
    pub fn give(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The header, once it was read: after the first [`next_block`](Self::next_block) that had all of it.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// The next block, uncompressed and checked; nothing if more bytes are needed, or after the last.
    pub fn next_block(&mut self) -> Result<Option<Bytes>, Unreadable> {
        if self.header.is_none() && !self.read_header()? {
            return Ok(None);
        }
        if self.footer.is_some() {
            return match self.held.is_empty() {
                true => Ok(None),
                false => Err(self.damaged("something follows the footer")),
            };
        }
        match self.held.first() {
            None => Ok(None),
            Some(&KIND_BLOCK) => self.read_block(),
            Some(&KIND_FOOTER) => {
                self.read_footer()?;
                match self.footer.is_some() && !self.held.is_empty() {
                    true => Err(self.damaged("something follows the footer")),
                    false => Ok(None),
                }
            }
            Some(_) => Err(self.damaged("neither a block nor the footer begins here")),
        }
    }

    /// The next block, of what a source has from here on; nothing after its last byte. Ask until then, so that all of
    /// it was looked at, and [`finish`](Self::finish).
    pub fn next_block_of(&mut self, source: &mut impl io::Read) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(block) = self.next_block()? {
                return Ok(Some(block));
            }
            let held = self.held.len();
            self.held.resize(held + PIECE_BYTES, 0);
            let read = source.read(&mut self.held[held..]);
            self.held.truncate(held + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// How many bytes it was given.
    pub fn bytes(&self) -> u64 {
        self.offset + self.held.len() as u64
    }

    /// All bytes were given: what the backup holds, if it was whole and all of it was right.
    pub fn finish(mut self) -> Result<(Header, Footer), Unreadable> {
        while self.next_block()?.is_some() {}
        match (self.header, self.footer) {
            (Some(header), Some(footer)) => Ok((header, footer)),
            _ => Err(Unreadable::CutOff { offset: self.offset + self.held.len() as u64 }),
        }
    }

    fn read_header(&mut self) -> Result<bool, Unreadable> {
        let prefix = &self.held[..self.held.len().min(MAGIC.len())];
        if *prefix != MAGIC[..prefix.len()] {
            return Err(Unreadable::NoBackup);
        }
        if self.held.len() < HEADER_PREFIX_BYTES {
            return Ok(false);
        }
        let mut prefix = &self.held[MAGIC.len()..HEADER_PREFIX_BYTES];
        let (version, body) = (prefix.get_u32_le(), prefix.get_u32_le() as usize);
        if version > VERSION {
            return Err(Unreadable::NewerFormat(version));
        }
        if version == 0 || body > HEADER_BODY_BYTES_MAX {
            return Err(self.damaged("the header makes no sense"));
        }
        let (end, all) = (HEADER_PREFIX_BYTES + body, HEADER_PREFIX_BYTES + body + 4);
        if self.held.len() < all {
            return Ok(false);
        }
        if (&self.held[end..all]).get_u32_le() != crc32c::crc32c(&self.held[..end]) {
            return Err(self.damaged("the header's crc is wrong"));
        }
        let header = Header::decode(&self.held[HEADER_PREFIX_BYTES..end]);
        self.header = Some(header.ok_or_else(|| self.damaged("the header makes no sense"))?);
        self.sums = Sums::new(version);
        self.pass(all);
        Ok(true)
    }

    fn read_block(&mut self) -> Result<Option<Bytes>, Unreadable> {
        if self.held.len() < BLOCK_PREFIX_BYTES {
            return Ok(None);
        }
        let mut prefix = &self.held[1..BLOCK_PREFIX_BYTES];
        let compression = prefix.get_u8();
        let (stored, len) = (prefix.get_u32_le() as usize, prefix.get_u32_le() as usize);
        let (in_block, crc) = (prefix.get_u32_le(), prefix.get_u32_le());
        if len == 0 || len > BLOCK_BYTES_MAX || stored > len {
            return Err(self.damaged("a block's length makes no sense"));
        }
        let all = BLOCK_PREFIX_BYTES + stored;
        if self.held.len() < all {
            return Ok(None);
        }
        let bytes = &self.held[BLOCK_PREFIX_BYTES..all];
        let covered = crc32c::crc32c(&self.held[..BLOCK_PREFIX_BYTES - 4]);
        if crc != crc32c::crc32c_append(covered, bytes) {
            return Err(self.damaged("a block's crc is wrong"));
        }
        let payload = match compression {
            STORED if stored == len => Bytes::copy_from_slice(bytes),
            LZ4 => match lz4_flex::block::decompress(bytes, len) {
                Ok(payload) if payload.len() == len => payload.into(),
                _ => return Err(self.damaged("a block can't be decompressed")),
            },
            _ => return Err(self.damaged("a block's compression is unknown")),
        };
        self.count(&payload, in_block)?;
        self.pass(all);
        Ok(Some(payload))
    }

    fn count(&mut self, payload: &Bytes, in_block: u32) -> Result<(), Unreadable> {
        let records = records(payload).filter(|records| records.len() == in_block as usize);
        let records = records.ok_or_else(|| self.damaged("a block's records make no sense"))?;
        for (key, value) in records {
            if key <= self.last_key {
                return Err(self.damaged("keys are not in ascending order"));
            }
            self.sums.record(&key, &value);
            match key[0] {
                0x10 => self.counted[0] += 1,
                0x11 => self.counted[1] += 1,
                0x30 => self.counted[2] += 1,
                0x40 => self.counted[3] += 1,
                _ => {}
            }
            self.last_key = key;
        }
        // The key is a slice of the block; a copy lets the block go.
        self.last_key = Bytes::copy_from_slice(&self.last_key);
        self.sums.block(payload);
        Ok(())
    }

    fn read_footer(&mut self) -> Result<(), Unreadable> {
        if self.held.len() < FOOTER_BYTES {
            return Ok(());
        }
        let end = FOOTER_BYTES - 32;
        let mut file = self.file.clone();
        file.update(&self.held[..end]);
        if file.finalize()[..] != self.held[end..FOOTER_BYTES] {
            return Err(self.damaged("the file's SHA-256 is wrong"));
        }
        let footer = self.sums.footer();
        if footer.encode()[..] != self.held[..end] {
            return Err(self.damaged("blocks or records are missing, or are others"));
        }
        if let Some(header) = &self.header
            && self.counted != [header.counters, header.keys, header.idempotency_keys, header.users]
        {
            return Err(self.damaged("the header counts other records than there are"));
        }
        self.footer = Some(footer);
        self.pass(FOOTER_BYTES);
        Ok(())
    }

    fn pass(&mut self, len: usize) {
        self.file.update(&self.held[..len]);
        self.held.advance(len);
        self.offset += len as u64;
    }

    fn damaged(&self, reason: &'static str) -> Unreadable {
        Unreadable::Damaged { offset: self.offset, reason }
    }
}
