//! Opening: finds the end of the log, tells a torn tail from damage, and makes what it accepts
//! durable.
//!
//! First everything is read and judged, and nothing is changed; a refusal leaves the files as they
//! were. Then, if all is well: the torn tail is zeroed, the last segment synced (its kept but
//! unsynced frames are part of the log from here on), and files that hold nothing needed removed.
//! Each of these may be cut short by a crash and is simply done again.

mod replay;

use std::{collections::BTreeMap, io, sync::Arc};

use self::replay::Replay;
use super::{
    frame::Salt,
    log::Log,
    record::LogState,
    segment::{self, FRAMES_START, HeaderBlock, InUse, SegmentHeader},
    types::{Recovered, WalError, WalOptions, doing},
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
        HeaderBlock::Begun { header, .. } if header.bytes < MIN_SEGMENT_BYTES => {
            let reason = format!("it claims to be {} bytes long in all", header.bytes);
            Err(WalError::Corrupt { file, offset: 0, reason })
        }
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
