//! Reads segments from the first to the last, follows their records, and judges where the last one ends:
//! at a torn tail, or at damage.
//!
//! Leaves out: which files there are, and what is made of those that are not needed; that is `recovery`.

use std::{collections::BTreeMap, io, sync::Arc};

use bytes::Bytes;
use tally_seeded_bugs as seeded_bugs;

use super::{Begun, FIRST_SEGMENT, Opened, missing, zero};
use crate::{
    disk::{Disk, File, OpenMode},
    wal::{
        frame::{self, Salt, frame_bytes},
        log::{Log, Place, Slot},
        record::{LogState, Record},
        segment::{self, FRAMES_START, InUse, SegmentHeader},
        types::{LogId, WalError, WalOptions, doing},
    },
};

/// Reads segments and follows their records.
pub(super) struct Replay<'a> {
    options: &'a WalOptions,
    log: Log,
    state: LogState,
    salts: BTreeMap<u64, Salt>,
    in_use: Vec<InUse>,
    /// Of the segment being read, then of the last.
    header: Option<SegmentHeader>,
    offset: u64,
    pub(super) next_sequence: u64,
    chain: u32,
    /// Where the bytes behind a torn tail's start become zeros; `offset` where no tail is torn.
    tail_end: u64,
    /// What a seeded bug brings back; else empty.
    cut_off: BTreeMap<u64, (LogId, Slot)>,
}

impl<'a> Replay<'a> {
    pub(super) fn new(options: &'a WalOptions) -> Replay<'a> {
        Replay {
            options,
            log: Log::default(),
            state: LogState::default(),
            salts: BTreeMap::new(),
            in_use: Vec::new(),
            header: None,
            offset: 0,
            next_sequence: 0,
            chain: 0,
            tail_end: 0,
            cut_off: BTreeMap::new(),
        }
    }

    fn corrupt(&self, number: u64, offset: u64, reason: impl Into<String>) -> WalError {
        let file = segment::path(&self.options.directory, number);
        WalError::Corrupt { file, offset, reason: reason.into() }
    }

    pub(super) async fn segment(
        &mut self,
        disk: &Arc<dyn Disk>,
        row: &[Begun],
        at: usize,
    ) -> Result<(), WalError> {
        let header = row[at].header;
        let number = header.number;
        let path = segment::path(&self.options.directory, number);
        let read = async {
            let file = disk.open(&path, OpenMode::Read).await?;
            file.read_at(0, usize::try_from(header.bytes).map_err(io::Error::other)?).await
        };
        let bytes = doing(read.await, || format!("reading {path}"))?;
        if (bytes.len() as u64) < header.bytes {
            let reason = format!("the file ends here; it was {} bytes long", header.bytes);
            return Err(self.corrupt(number, bytes.len() as u64, reason));
        }
        if at == 0 {
            self.next_sequence = header.sequence;
            self.chain = header.chain;
        } else if (header.sequence, header.chain) != (self.next_sequence, self.chain) {
            // The segment before was synced as a whole before this one began.
            let reason =
                format!("the frame here is damaged; segment {number} follows on a later one");
            return Err(self.corrupt(number - 1, self.offset, reason));
        }
        self.header = Some(header);
        self.salts.insert(number, header.frame_salt());
        self.in_use.push(InUse { number, bytes: header.bytes, end: 0 });
        self.offset = FRAMES_START;
        self.frames(header, &bytes)?;
        if at == 0 && self.offset == FRAMES_START && number != FIRST_SEGMENT {
            // The first segment alone begins without anything to say.
            let proof = format!("segment {number} has begun and does not say the state before it");
            return Err(missing(&self.options.directory, number - 1, &proof));
        }
        if at + 1 == row.len() {
            self.judge_tail(header, &bytes)?;
        }
        Ok(())
    }

    /// Follows frames up to the first that does not check out.
    fn frames(&mut self, header: SegmentHeader, bytes: &[u8]) -> Result<(), WalError> {
        let salt = header.frame_salt();
        while let Some((frame, payload)) = bytes
            .get(self.offset as usize..)
            .and_then(|rest| frame::decode(rest, salt))
            .filter(|(frame, _)| (frame.sequence, frame.chain) == (self.next_sequence, self.chain))
        {
            let length = frame_bytes(payload.len());
            let place = Place { segment: header.number, offset: self.offset, bytes: length as u32 };
            let Some(record) = Record::decode(frame.kind, payload) else {
                let reason = format!("the record of kind {} makes no sense", frame.kind);
                return Err(self.corrupt(header.number, self.offset, reason));
            };
            self.record(&record, place)
                .map_err(|reason| self.corrupt(header.number, self.offset, reason))?;
            self.chain = frame.crc;
            self.next_sequence += 1;
            self.offset += length as u64;
        }
        Ok(())
    }

    fn record(&mut self, record: &Record<'_>, place: Place) -> Result<(), String> {
        let head = place.offset == FRAMES_START;
        if head != matches!(record, Record::State(_)) {
            return Err("a segment's first record, and no other, says the state before it".into());
        }
        match record {
            Record::State(state) if self.in_use.len() == 1 => {
                self.log.last = state.last;
                self.log.purged = state.purged;
            }
            Record::State(state)
                if *state != self.state && !seeded_bugs::is_on("truncate-in-memory") =>
            {
                return Err(format!("it says {state:?}, the records before say {:?}", self.state));
            }
            Record::Entry(id, kind, payload) => {
                if id.index != self.log.end() {
                    return Err(format!("entry {id} follows {:?}", self.log.last));
                }
                let cached = Some((*kind, Bytes::copy_from_slice(payload)));
                // Stamps matter for entries that are being written only.
                let slot = Slot { term: id.term, stamp: u64::MAX, place: Some(place), cached };
                let forgotten = match seeded_bugs::is_on("truncate-in-memory") {
                    true => self.cut_off.remove(&id.index),
                    false => None,
                };
                let (id, slot) = forgotten.unwrap_or((*id, slot));
                self.log.push(id, slot);
                self.log.evict(self.options.cache_bytes);
                if let Some(segment) = self.in_use.last_mut() {
                    segment.end = segment.end.max(id.index + 1);
                }
            }
            Record::Truncate(keep) => {
                if seeded_bugs::is_on("truncate-in-memory") {
                    self.keep_cut_off(*keep);
                }
                self.knows(*keep, "a truncation")?;
                self.log.truncate(*keep);
            }
            Record::Purge { upto, jump } => {
                if !jump {
                    self.knows(Some(*upto), "a purge")?;
                }
                self.log.purge(*upto, *jump);
            }
            Record::State(_) | Record::Vote(_) | Record::Committed(_) | Record::Seal => {}
        }
        self.state.apply(record);
        if seeded_bugs::is_on("truncate-in-memory") {
            self.state.last = self.log.last;
        }
        if self.log.last != self.state.last || self.log.purged != self.state.purged {
            return Err(format!(
                "the log ends at {:?}, not as {:?} says",
                self.log.last, self.state
            ));
        }
        Ok(())
    }

    /// Whether an id is that of the entry at its index, as far as that is known: of entries in segments that were
    /// given up it is not.
    fn knows(&self, id: Option<LogId>, what: &str) -> Result<(), String> {
        match id.and_then(|id| self.log.log_id(id.index)) {
            Some(known) if Some(known) != id => {
                Err(format!("{what} names {id:?}, and the log has {known:?}"))
            }
            _ => Ok(()),
        }
    }

    /// What a truncation takes away is still on disk; it is there again after a restart if the
    /// truncation is not.
    fn keep_cut_off(&mut self, keep: Option<LogId>) {
        for (id, slot) in self.log.behind(keep) {
            self.cut_off.entry(id.index).or_insert((id, slot));
        }
    }

    /// What is behind the last good frame: nothing, a torn tail, or proof of damage.
    fn judge_tail(&mut self, header: SegmentHeader, bytes: &[u8]) -> Result<(), WalError> {
        let start = self.offset as usize;
        let salt = header.frame_salt();
        if let Some(proof) = frame::find_proof(bytes, start, salt, self.next_sequence) {
            let reason =
                format!("the frame here is damaged; the frame at byte {proof} says it was synced");
            return Err(self.corrupt(header.number, self.offset, reason));
        }
        // A batch is written with zeros behind it. Where they are, and no frame of this segment comes
        // later, the log ends as it was written; old frames of a recycled segment may follow.
        let rest = bytes.get(start..).unwrap_or_default();
        let blank = rest.iter().take(frame::HEADER_BYTES).all(|byte| *byte == 0);
        self.tail_end = self.offset;
        if !blank || frame::any_behind(bytes, start, salt) {
            let dirty = rest.iter().rposition(|byte| *byte != 0);
            self.tail_end += dirty.map_or(0, |at| at as u64 + 1);
        }
        Ok(())
    }

    /// A log with a hole at its start lacks a segment.
    pub(super) fn check_whole(&self, row: &[Begun]) -> Result<(), WalError> {
        match row.first() {
            Some(first) if !self.log.is_whole() => {
                let number = first.header.number.saturating_sub(1);
                let start = self.log.start();
                let proof =
                    format!("entries before {start} are not purged and in no later segment");
                Err(missing(&self.options.directory, number, &proof))
            }
            _ => Ok(()),
        }
    }

    /// Makes the accepted log durable and the rest of its last segment zero.
    pub(super) async fn settle(
        &mut self,
        disk: &Arc<dyn Disk>,
        row: &[Begun],
    ) -> Result<Box<dyn File>, WalError> {
        let directory = &self.options.directory;
        let mut last = None;
        for begun in row {
            let newest = row.last().is_some_and(|last| last.header == begun.header);
            if begun.whole && !newest {
                continue;
            }
            let path = segment::path(directory, begun.header.number);
            let settled = async {
                let mut file = disk.open(&path, OpenMode::ReadWrite).await?;
                if !begun.whole {
                    let mut block = Vec::new();
                    begun.header.encode(&mut block);
                    file.write_at(0, &block).await?;
                }
                if newest {
                    zero(&mut file, self.offset, self.tail_end).await?;
                }
                file.sync().await?;
                Ok(file)
            };
            last = Some(doing(settled.await, || format!("settling {path}"))?);
        }
        last.ok_or_else(|| WalError::Options("no segment to settle".into()))
    }

    pub(super) fn opened(mut self, file: Box<dyn File>) -> Result<Opened, WalError> {
        if seeded_bugs::is_on("truncate-in-memory") {
            self.state.last = self.log.last;
        }
        let Some(header) = self.header else {
            return Err(WalError::Options("no segment was read".into()));
        };
        Ok(Opened {
            log: self.log,
            state: self.state,
            salts: self.salts,
            in_use: self.in_use,
            header,
            file,
            offset: self.offset,
            next_sequence: self.next_sequence,
            chain: self.chain,
            cut_bytes: self.tail_end - self.offset,
        })
    }
}
