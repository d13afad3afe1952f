//! The write-ahead log: single frames, and whole logs that are opened.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use tally_storage::{
    disk::{Disk, OpenMode},
    fuzzing as door,
    simulated_disk::SimulatedDisk,
    wal::{Ballot, Entry, LogId, Recovered, Wal, WalError, WalOptions},
};

use crate::{Pieces, choose, now};

const SALT: u64 = 42;

fn options() -> WalOptions {
    WalOptions {
        segment_bytes: 16 << 10,
        cache_bytes: 500,
        queue_bytes: 64 << 10,
        spare_segments: 1,
        seal_after: Duration::from_secs(1),
        space_retry: Duration::from_secs(1),
        ..WalOptions::new(SALT)
    }
}

/// A frame, a record by itself, or the header block of a segment.
pub(crate) fn frame(bytes: &[u8]) {
    let Some((which, bytes)) = choose(bytes, 4) else { return };
    match which {
        0 => {
            if let Some((kind, payload, again)) = door::frame(bytes, SALT) {
                // The bytes between header, payload and the next frame are not looked at.
                assert_eq!(again[..36], bytes[..36], "a frame changes when it is read and written");
                assert_eq!(again[40..40 + payload.len()], bytes[40..40 + payload.len()]);
                record(kind, &payload);
            }
        }
        1 => {
            let Some((&kind, payload)) = bytes.split_first() else { return };
            record(kind, payload);
        }
        2 => {
            let Some((number, block)) = bytes.split_first_chunk::<8>() else { return };
            let number = u64::from_le_bytes(*number);
            if let Some(again) = door::header_block(block, number) {
                assert_eq!(door::header_block(&again, number), Some(again));
            }
        }
        _ => {
            let Some((from, rest)) = bytes.split_first_chunk::<2>() else { return };
            let from = usize::from(u16::from_le_bytes(*from));
            let (proof, any) = door::scan(rest, from, SALT, 5);
            assert!(proof.is_none_or(|at| any && at >= from && at % 8 == 0 && at < rest.len()));
        }
    }
}

fn record(kind: u8, payload: &[u8]) {
    if let Some(again) = door::record(kind, payload) {
        assert_eq!(again, payload, "a record has one encoding");
    }
}

/// What a log holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Held {
    vote: Option<Ballot>,
    purged: Option<LogId>,
    entries: Vec<Entry>,
}

async fn open(disk: &SimulatedDisk) -> Result<(Recovered, Held), WalError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.mount());
    let fatal = Arc::new(|why: String| panic!("the log failed: {why}"));
    let (wal, _writer, recovered) = Wal::open(disk, options(), fatal).await?;
    Ok((recovered, held(&wal).await))
}

async fn held(wal: &Wal) -> Held {
    let (mut at, mut entries) = (wal.first_index(), Vec::new());
    let end = wal.last().map_or(0, |last| last.index.saturating_add(1));
    while at < end {
        let some = wal.read(at..end, 4096).await.expect("what was recovered is read");
        assert!(!some.is_empty(), "the log has a hole at {at} before {end}");
        assert_eq!(some[0].log_id.index, at, "entries are where they should be");
        at += some.len() as u64;
        entries.extend(some);
    }
    Held { vote: wal.vote(), purged: wal.purged(), entries }
}

/// A log of three segments, and what it held after each step of its writing.
struct Written {
    disk: SimulatedDisk,
    files: Vec<String>,
    steps: Vec<Held>,
}

fn written() -> &'static Written {
    static WRITTEN: std::sync::OnceLock<Written> = std::sync::OnceLock::new();
    WRITTEN.get_or_init(|| now(write()))
}

async fn write() -> Written {
    let disk = SimulatedDisk::new(3);
    let fatal = Arc::new(|why: String| panic!("the log failed: {why}"));
    let (wal, writer, _) =
        Wal::open(Arc::new(disk.mount()), options(), fatal).await.expect("an empty directory");
    let writing = writer.run();
    let mut steps = vec![Held::default()];
    let asking = async {
        for round in 0..14u64 {
            let term = 1 + round / 3;
            let last = wal.last().map_or(0, |last| last.index + 1);
            if round % 3 == 0 {
                let vote = Ballot { term, node_id: Some(1), committed: false };
                wal.save_vote(vote).await.expect("it is the next");
                steps.push(held(&wal).await);
            }
            let entries: Vec<Entry> = (0..4)
                .map(|n| Entry {
                    log_id: LogId { term, index: last + n },
                    kind: 1,
                    payload: Bytes::from(vec![(last + n) as u8; 40 + 160 * (n as usize)]),
                })
                .collect();
            // One frame after the other may be the last that is there.
            let before = held(&wal).await;
            for n in 1..=entries.len() {
                let mut step = before.clone();
                step.entries.extend_from_slice(&entries[..n]);
                steps.push(step);
            }
            wal.append(entries, Box::new(|_| {})).await.expect("they follow");
            if round == 8 {
                let keep = LogId { term, index: last + 1 };
                wal.truncate_after(Some(keep)).await.expect("it is there");
                steps.push(held(&wal).await);
            }
            if round == 6 {
                wal.purge(LogId { term: 1, index: 5 }).await.expect("it is there");
                steps.push(held(&wal).await);
            }
            wal.flush().await.expect("the disk is whole");
        }
        wal.close().await.expect("the disk is whole");
    };
    // `join` without another crate: the writer ends when the log is closed.
    futures_util::future::join(writing, asking).await;
    let mut files: Vec<String> = disk.contents().into_keys().collect();
    files.retain(|name| name.ends_with(".wal"));
    Written { disk, files, steps }
}

/// A log whose files were changed, or one of records that somebody made up.
pub(crate) fn segment(bytes: &[u8]) {
    let Some((which, bytes)) = choose(bytes, 2) else { return };
    if which == 0 { damaged(bytes) } else { made_up(bytes) }
}

/// Each four bytes change one byte of one file, or cut it. What is there then is refused, or is the log as it
/// was after some step. (That somebody makes a checksum right on purpose takes four such changes at once.)
fn damaged(bytes: &[u8]) {
    let written = written();
    let disk = written.disk.fork(1);
    let mut changed = false;
    now(async {
        let mount = disk.mount();
        for change in bytes.chunks_exact(4).take(24) {
            let name = &written.files[usize::from(change[0] & 0x3f) % written.files.len()];
            let Ok(mut file) = mount.open(name, OpenMode::ReadWrite).await else { continue };
            let at = u64::from(u16::from_le_bytes([change[1], change[2]]));
            changed = true;
            match change[0] >> 6 {
                3 => file.truncate(at).await.expect("a file is cut"),
                2 if at % 7 == 0 => {
                    drop(file);
                    mount.remove_file(name).await.expect("it is there");
                }
                _ => {
                    let was = file.read_at(at, 1).await.expect("a byte is read");
                    let Some(was) = was.first() else { continue };
                    file.write_at(at, &[was ^ change[3]]).await.expect("a byte is written");
                }
            }
        }
    });
    let before = disk.contents();
    match now(open(&disk)) {
        Ok((recovered, held)) => {
            assert!(written.steps.contains(&held), "it never was so: {recovered:?} {held:?}");
            if !changed {
                assert_eq!(Some(&held), written.steps.last(), "nothing was changed");
            }
            let (again, same) = now(open(&disk)).expect("what was opened opens again");
            assert_eq!((again.cut_bytes, same), (0, held), "an open leaves something to do");
        }
        Err(error) => {
            assert!(changed, "nothing was changed: {error}");
            assert!(!error.to_string().is_empty());
            assert_eq!(disk.contents(), before, "a refusal changes something: {error}");
        }
    }
}

/// The number of the segment, the length that it claims, and records, all with right checksums.
fn made_up(bytes: &[u8]) {
    let Some(([number, length], rest)) = bytes.split_first_chunk::<2>() else { return };
    let number = u64::from(number % 3);
    let claimed = match length % 8 {
        0 => 0,
        1 => u64::MAX,
        2 => 8 << 10,
        3 => 1 << 40,
        _ => options().segment_bytes,
    };
    let records: Vec<(u8, &[u8])> = Pieces(rest)
        .filter_map(|piece| piece.split_first().map(|(kind, payload)| (*kind, payload)))
        .take(64)
        .collect();
    let file = door::segment(&records, number, claimed, &options());
    let disk = SimulatedDisk::new(1);
    now(async {
        let mount = disk.mount();
        mount.create_dir_all("wal").await.expect("a directory is made");
        let name = format!("wal/{number:08}.wal");
        let mut made = mount.open(&name, OpenMode::CreateNew).await.expect("it is not there");
        made.write_at(0, &file).await.expect("there is room");
        made.sync().await.expect("it is there");
        mount.sync_dir("wal").await.expect("it is there");
        mount.sync_dir("").await.expect("it is there");
    });
    let before: BTreeMap<_, _> = disk.contents();
    match now(open(&disk)) {
        Ok((recovered, held)) => {
            let last = held.entries.last().map(|entry| entry.log_id).or(held.purged);
            assert_eq!(recovered.last, last, "the log ends elsewhere than it says");
            let (again, same) = now(open(&disk)).expect("what was opened opens again");
            // A log that begins has a first record by its second open.
            assert!(again.next_sequence >= recovered.next_sequence, "the log went back");
            let next_sequence = again.next_sequence;
            let expected = Recovered { cut_bytes: 0, next_sequence, ..recovered };
            assert_eq!((again, same), (expected, held), "an open changes what is there");
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!(disk.contents(), before, "a refusal changes something: {error}");
        }
    }
}

/// A record for a seed of [`made_up`].
pub(crate) fn seed_record(to: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    crate::piece(to, &[&[kind], payload].concat());
}
