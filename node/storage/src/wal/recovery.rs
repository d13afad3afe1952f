//! Opening: finds the end of the log, tells a torn tail from damage, and makes what it accepts
//! durable.
//!
//! First everything is read and judged, and nothing is changed; a refusal leaves the files as they
//! were. Then, if all is well: the torn tail is zeroed, the last segment synced (its kept but
//! unsynced frames are part of the log from here on), and files that hold nothing needed removed.
//! Each of these may be cut short by a crash and is simply done again.

use std::{collections::BTreeMap, io, sync::Arc};

use bytes::Bytes;
use tally_seeded_bugs as seeded_bugs;

use super::{
    frame::{self, Salt, frame_bytes},
    log::{Log, Place, Slot},
    record::{LogState, Record},
    segment::{self, FRAMES_START, HeaderBlock, InUse, SegmentHeader},
    types::{LogId, Recovered, WalError, WalOptions, doing},
};
use crate::disk::{Disk, File, OpenMode};

const FIRST_SEGMENT: u64 = 1;
const MIN_SEGMENT_BYTES: u64 = 2 * FRAMES_START;
const ZERO_BYTES: usize = 1 << 20;

/// A log that was found or begun, ready for the writer.
pub(super) struct Opened {
    pub log: Log,
    pub state: LogState,
    pub salts: BTreeMap<u64, Salt>,
    pub in_use: Vec<InUse>,
    /// The last segment, and where its frames end.
    pub header: SegmentHeader,
    pub file: Box<dyn File>,
    pub offset: u64,
    pub next_sequence: u64,
    pub chain: u32,
    pub cut_bytes: u64,
}

impl Opened {
    pub(super) fn recovered(&self) -> Recovered {
        Recovered {
            vote: self.state.vote,
            // A hint stands behind the entries that it speaks of; clamped all the same, because a
            // node that believes in entries that it lacks does not start.
            committed: match (self.state.committed, self.state.last) {
                (Some(hint), Some(last)) if hint.index <= last.index => Some(hint),
                (hint, last) => hint.and(last),
            },
            purged: self.state.purged,
            last: self.state.last,
            cut_bytes: self.cut_bytes,
            next_sequence: self.next_sequence,
        }
    }
}

/// A segment that has begun.
struct Begun {
    header: SegmentHeader,
    whole: bool,
}

/// What the directory holds.
#[derive(Default)]
struct Found {
    /// The newest unbroken row of begun segments, oldest first.
    row: Vec<Begun>,
    /// Files of this log that are not part of the row.
    others: Vec<String>,
}

pub(super) async fn open(disk: &Arc<dyn Disk>, options: &WalOptions) -> Result<Opened, WalError> {
    if options.segment_bytes < MIN_SEGMENT_BYTES {
        return Err(WalError::Options(format!(
            "segments of {} bytes; at least {MIN_SEGMENT_BYTES} are needed",
            options.segment_bytes
        )));
    }
    let found = find(disk, &options.directory).await?;
    let mut replay = Replay::new(options);
    for at in 0..found.row.len() {
        replay.segment(disk, &found.row, at).await?;
    }
    replay.check_whole(&found.row)?;
    check_ours(options, &found.row, replay.next_sequence)?;
    // Judged; from here on the disk is changed.
    let directory = &options.directory;
    make_directory(disk, directory).await?;
    if found.row.is_empty() {
        remove(disk, directory, &found.others).await?;
        return begin(disk, options).await;
    }
    let file = replay.settle(disk, &found.row).await?;
    remove(disk, directory, &found.others).await?;
    replay.opened(file)
}

/// Whether this is the log that was here before, and of this data directory.
///
/// The sequence of frames only grows: an open makes durable what it accepts before it is told of, and
/// whoever opened the log keeps what it had reached then. So an older copy is told from the log itself,
/// if it was taken before that open; of a later one the log says nothing.
fn check_ours(options: &WalOptions, row: &[Begun], next_sequence: u64) -> Result<(), WalError> {
    for header in row.iter().map(|begun| &begun.header) {
        if let (Some(found), Some(own)) = (header.owner, options.owner)
            && found != own
        {
            let file = segment::path(&options.directory, header.number);
            return Err(WalError::AnotherOwner { file, found, own });
        }
    }
    let directory = options.directory.clone();
    match options.sequence_min {
        Some(_) if row.is_empty() => Err(WalError::Missing { directory }),
        Some(expected) if next_sequence < expected => {
            Err(WalError::Older { directory, found: next_sequence, expected })
        }
        _ => Ok(()),
    }
}

/// Makes the directory and its name, and those above it, durable.
async fn make_directory(disk: &Arc<dyn Disk>, directory: &str) -> Result<(), WalError> {
    let made = async {
        disk.create_dir_all(directory).await?;
        disk.sync_dir("").await?;
        for (at, _) in directory.match_indices('/') {
            disk.sync_dir(&directory[..at]).await?;
        }
        Ok(())
    };
    doing(made.await, || format!("making {directory}"))
}

async fn remove(disk: &Arc<dyn Disk>, directory: &str, files: &[String]) -> Result<(), WalError> {
    for file in files {
        doing(disk.remove_file(file).await, || format!("removing {file}"))?;
    }
    doing(disk.sync_dir(directory).await, || format!("syncing {directory}"))
}

async fn find(disk: &Arc<dyn Disk>, directory: &str) -> Result<Found, WalError> {
    let names = match disk.list(directory).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        listed => doing(listed, || format!("listing {directory}"))?,
    };
    let mut found = Found::default();
    let mut blocks = BTreeMap::new();
    for name in names {
        if let Some(number) = segment::number(&name) {
            blocks.insert(number, read_header(disk, directory, number).await?);
        } else if name.ends_with(".spare") {
            // Not kept: after a crash a spare may be a second name of a segment in use.
            found.others.push(format!("{directory}/{name}"));
        }
    }
    // Only the newest may be prepared and not begun. A file after one that has no header says that
    // the header was there and synced.
    if let Some((number, None)) = blocks.last_key_value().map(|(n, b)| (*n, b)) {
        blocks.pop_last();
        found.others.push(segment::path(directory, number));
        if number != FIRST_SEGMENT && blocks.last_key_value().is_none_or(|(n, _)| n + 1 != number) {
            return Err(missing(directory, number - 1, &format!("segment {number} is there")));
        }
    }
    while let Some((number, begun)) = blocks.pop_last() {
        let follows = found.row.last().is_none_or(|next: &Begun| next.header.number == number + 1);
        match begun {
            Some(begun) if follows => found.row.push(begun),
            None if found.row.is_empty() => {
                return Err(WalError::Corrupt {
                    file: segment::path(directory, number),
                    offset: 0,
                    reason: "it has no valid header, but a later segment says it had one".into(),
                });
            }
            _ => {
                found.others.push(segment::path(directory, number));
                let older = blocks.keys().map(|number| segment::path(directory, *number));
                found.others.extend(older);
                break;
            }
        }
    }
    found.row.reverse();
    Ok(found)
}

async fn read_header(
    disk: &Arc<dyn Disk>,
    directory: &str,
    number: u64,
) -> Result<Option<Begun>, WalError> {
    let file = segment::path(directory, number);
    let read =
        async { disk.open(&file, OpenMode::Read).await?.read_at(0, FRAMES_START as usize).await };
    let block = doing(read.await, || format!("reading {file}"))?;
    match segment::decode(&block, number) {
        HeaderBlock::Begun { header, whole } => Ok(Some(Begun { header, whole })),
        HeaderBlock::NotBegun => Ok(None),
        HeaderBlock::Newer(found) => {
            Err(WalError::NewerVersion { file, found, supported: segment::VERSION })
        }
    }
}

fn missing(directory: &str, number: u64, proof: &str) -> WalError {
    let file = segment::path(directory, number);
    WalError::Corrupt { file, offset: 0, reason: format!("it is missing, but {proof}") }
}

/// The first segment of a new log.
async fn begin(disk: &Arc<dyn Disk>, options: &WalOptions) -> Result<Opened, WalError> {
    let header = SegmentHeader {
        bytes: options.segment_bytes,
        number: FIRST_SEGMENT,
        salt: segment::salt(options.salt_seed, FIRST_SEGMENT),
        sequence: 1,
        chain: 0,
        owner: options.owner,
    };
    let path = segment::path(&options.directory, FIRST_SEGMENT);
    let made = async {
        let mut file = disk.open(&path, OpenMode::CreateNew).await?;
        file.allocate(options.segment_bytes).await?;
        file.sync().await?;
        disk.sync_dir(&options.directory).await?;
        let mut block = Vec::new();
        header.encode(&mut block);
        file.write_at(0, &block).await?;
        file.sync().await?;
        Ok(file)
    };
    let file = doing(made.await, || format!("making {path}"))?;
    Ok(Opened {
        log: Log::default(),
        state: LogState::default(),
        salts: BTreeMap::from([(FIRST_SEGMENT, header.frame_salt())]),
        in_use: vec![InUse { number: FIRST_SEGMENT, bytes: options.segment_bytes, end: 0 }],
        header,
        file,
        offset: FRAMES_START,
        next_sequence: 1,
        chain: 0,
        cut_bytes: 0,
    })
}

/// Reads segments and follows their records.
struct Replay<'a> {
    options: &'a WalOptions,
    log: Log,
    state: LogState,
    salts: BTreeMap<u64, Salt>,
    in_use: Vec<InUse>,
    /// Of the segment being read, then of the last.
    header: Option<SegmentHeader>,
    offset: u64,
    next_sequence: u64,
    chain: u32,
    /// Where the bytes behind a torn tail's start become zeros; `offset` where no tail is torn.
    tail_end: u64,
    /// What a seeded bug brings back; else empty.
    cut_off: BTreeMap<u64, (LogId, Slot)>,
}

impl<'a> Replay<'a> {
    fn new(options: &'a WalOptions) -> Replay<'a> {
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

    async fn segment(
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
                self.log.truncate(*keep);
            }
            Record::Purge { upto, jump } => self.log.purge(*upto, *jump),
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
    fn check_whole(&self, row: &[Begun]) -> Result<(), WalError> {
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
    async fn settle(
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

    fn opened(mut self, file: Box<dyn File>) -> Result<Opened, WalError> {
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

async fn zero(file: &mut Box<dyn File>, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; ZERO_BYTES.min((to - from) as usize)];
    let mut at = from;
    while at < to {
        let n = zeros.len().min((to - at) as usize);
        file.write_at(at, &zeros[..n]).await?;
        at += n as u64;
    }
    Ok(())
}
