//! Bits that flip: where recovery must refuse, and where it must go on.

use std::sync::Arc;

use super::harness::*;
use crate::{
    disk::{Disk, OpenMode},
    simulated_disk::SimulatedDisk,
    wal::{
        LogId, WalError,
        frame::{self, Salt, frame_bytes},
        segment::{self, FRAMES_START, HeaderBlock},
    },
};

/// Where each frame of a file begins and ends.
fn frames(bytes: &[u8], number: u64) -> Vec<(usize, usize)> {
    let HeaderBlock::Begun { header, .. } = segment::decode(bytes, number) else { return vec![] };
    let mut at = FRAMES_START as usize;
    let mut found = Vec::new();
    while let Some((frame, _)) = frame::decode(&bytes[at..], header.frame_salt()) {
        let end = at + frame_bytes(frame.length as usize);
        found.push((at, end));
        at = end;
    }
    found
}

/// A log of some segments, closed in order, all of it durable.
async fn closed_log() -> SimulatedDisk {
    let disk = SimulatedDisk::new(3);
    let log = open(&disk).await.unwrap();
    for n in 0..40 {
        append(&log.wal, vec![entry(1, n, 0, 500)]).await.unwrap();
    }
    log.wal.save_vote(ballot(5)).await.unwrap();
    log.wal.close().await.unwrap();
    disk.crash();
    disk
}

async fn refusal(disk: &SimulatedDisk) -> (String, u64) {
    let before = disk.contents();
    let refused = open(disk).await.err();
    let Some(WalError::Corrupt { file, offset, reason }) = refused else {
        panic!("opened over damage: {refused:?}")
    };
    assert!(!reason.is_empty());
    assert_eq!(disk.contents(), before, "a refusal changes nothing");
    (file, offset)
}

#[tokio::test]
async fn a_bit_flipped_anywhere_in_what_later_frames_cover_is_refused_by_name() {
    let original = closed_log().await;
    let files = original.contents();
    let mut refused = 0;
    for (file, bytes) in &files {
        let number = segment::number(file.rsplit('/').next().unwrap()).unwrap();
        let mut frames = frames(bytes, number);
        let newest = !files.contains_key(&segment::path("wal", number + 2));
        if newest {
            // The last frame is the seal, which nothing covers.
            frames.pop();
        }
        for (start, end) in frames {
            for offset in (start..end).step_by(37).chain([start, start + 4, start + 36, end - 9]) {
                let disk = original.fork(1);
                assert!(disk.flip_bit(file, offset as u64, (offset % 8) as u8));
                let damaged = &disk.contents()[file][start..];
                if frame::decode(damaged, salt(bytes, number)).is_some() {
                    // It hit the padding, which says nothing.
                    continue;
                }
                assert_eq!(refusal(&disk).await, (file.clone(), start as u64), "at {offset}");
                refused += 1;
            }
        }
    }
    assert!(refused > 500, "{refused}");
}

fn salt(bytes: &[u8], number: u64) -> Salt {
    match segment::decode(bytes, number) {
        HeaderBlock::Begun { header, .. } => header.frame_salt(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn one_damaged_copy_of_a_header_is_mended_and_two_are_refused() {
    let original = closed_log().await;
    for file in original.contents().keys().filter(|file| {
        frames(&original.contents()[*file], segment::number(&file[4..]).unwrap()).len() > 1
    }) {
        let disk = original.fork(1);
        disk.flip_bit(file, 30, 1);
        let log = open(&disk).await.unwrap();
        assert_eq!(log.recovered.last, Some(LogId { term: 1, index: 39 }));
        log.wal.close().await.unwrap();
        disk.flip_bit(file, 4096 + 30, 1);
        let log = open(&disk).await.unwrap();
        log.wal.close().await.unwrap();
        disk.flip_bit(file, 30, 1);
        disk.flip_bit(file, 4096 + 30, 1);
        let (named, _) = refusal(&disk).await;
        assert_eq!(&named, file);
    }
}

#[tokio::test]
async fn a_missing_or_cut_segment_is_refused() {
    let original = closed_log().await;
    let files: Vec<String> = original.contents().into_keys().collect();
    assert!(files.len() >= 4, "{files:?}");
    for file in &files[..files.len() - 2] {
        let disk = original.fork(1);
        disk.mount().remove_file(file).await.unwrap();
        let (named, _) = refusal(&disk).await;
        assert_eq!(&named, file);
        let disk = original.fork(1);
        let mut cut = disk.mount().open(file, OpenMode::ReadWrite).await.unwrap();
        cut.truncate(FRAMES_START + 100).await.unwrap();
        assert_eq!(refusal(&disk).await, (file.clone(), FRAMES_START + 100));
    }
}

#[tokio::test]
async fn a_bit_flipped_in_what_was_never_synced_is_a_torn_tail() {
    for (back, sure) in [(1, 4), (2, 4), (3, 4)] {
        let disk = SimulatedDisk::new(1);
        let log = open(&disk).await.unwrap();
        append(&log.wal, (0..5).map(|n| entry(1, n, 0, 50)).collect()).await.unwrap();
        // Three entries whose sync never returns; a process kill keeps all they wrote.
        disk.fail_syncs(1);
        append(&log.wal, (5..8).map(|n| entry(1, n, 0, 50)).collect()).await.unwrap_err();
        let disk = disk.fork(1);
        let file = "wal/00000001.wal";
        let frames = frames(&disk.contents()[file], 1);
        let hit = frames[frames.len() - back];
        disk.flip_bit(file, hit.0 as u64 + 45, 3);

        let log = open(&disk).await.unwrap();
        let last = 8 - back as u64 - 1;
        assert!(last >= sure, "a durable entry was cut");
        assert_eq!(log.recovered.last, Some(id(1, last)));
        assert!(log.recovered.cut_bytes > 0);
        append(&log.wal, vec![entry(2, last + 1, 9, 50)]).await.unwrap();
        log.wal.close().await.unwrap();
        let log = open(&disk).await.unwrap();
        assert_eq!(log.recovered.cut_bytes, 0);
        assert_eq!(read_all(&log.wal).await.entries[last as usize + 1], entry(2, last + 1, 9, 50));
    }
}

#[tokio::test]
async fn a_frame_in_the_place_of_another_is_refused() {
    let original = closed_log().await;
    let file = "wal/00000001.wal";
    let bytes = &original.contents()[file];
    for is_entry in [true, false] {
        let mut alike = frames(bytes, 1);
        alike.retain(|(start, end)| (end - start > 500) == is_entry && end - start < 600);
        let (&(from, end), &(to, to_end)) = (&alike[4], &alike[9]);
        assert_eq!(end - from, to_end - to);
        // A write that the device put in the wrong place: its checksum and its salt are right.
        let disk = original.fork(1);
        let mut handle = disk.mount().open(file, OpenMode::ReadWrite).await.unwrap();
        handle.write_at(to as u64, &bytes[from..end]).await.unwrap();
        assert_eq!(refusal(&disk).await, (file.to_owned(), to as u64));
    }
}

#[tokio::test]
async fn an_idle_log_is_soon_covered_by_its_seal() {
    let disk = SimulatedDisk::new(1);
    let log = open(&disk).await.unwrap();
    append(&log.wal, vec![entry(1, 0, 0, 50)]).await.unwrap();
    let syncs = disk.counts().syncs;
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(disk.counts().syncs, syncs, "a seal costs no sync");
    let disk = disk.fork(1);
    let file = "wal/00000001.wal";
    let frames = frames(&disk.contents()[file], 1);
    let (entry, _) = frames[frames.len() - 2];
    disk.flip_bit(file, entry as u64 + 50, 0);
    assert_eq!(refusal(&disk).await, (file.to_owned(), entry as u64));
}

#[tokio::test]
async fn damage_found_by_a_read_names_the_entry_and_the_file() {
    let disk = SimulatedDisk::new(1);
    let log = open(&disk).await.unwrap();
    append(&log.wal, (0..10).map(|n| entry(1, n, 0, 200)).collect()).await.unwrap();
    let file = "wal/00000001.wal";
    let (start, _) = frames(&disk.contents()[file], 1)[3];
    disk.flip_bit(file, start as u64 + 70, 0);
    let error = log.wal.read(0..10, 100_000).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("entry 1.2 at byte"), "{error}");
    assert!(error.to_string().contains(file), "{error}");
}

#[tokio::test]
async fn a_newer_format_is_refused_by_name_and_version() {
    let disk = closed_log().await;
    let file = "wal/00000002.wal";
    let mut bytes = disk.contents()[file][..52].to_vec();
    bytes[8] = 9;
    let crc = crc32c::crc32c(&bytes[..48]).to_le_bytes();
    bytes[48..52].copy_from_slice(&crc);
    let mut handle = disk.mount().open(file, OpenMode::ReadWrite).await.unwrap();
    handle.write_at(0, &bytes).await.unwrap();
    let before = disk.contents();
    let refused = open(&disk).await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refused.contains(file) && refused.contains("version 9"), "{refused}");
    assert_eq!(disk.contents(), before);
}

/// The payload of an entry may hold a copy of any frame, even of this segment's earlier life.
#[tokio::test]
async fn frames_of_an_earlier_life_of_a_recycled_segment_stay_dead() {
    let disk = SimulatedDisk::new(1);
    let log = open(&disk).await.unwrap();
    let mut next = 0;
    // Recycles several times, then leaves a segment that is begun and almost empty.
    for _ in 0..5 {
        let number = disk.contents().len();
        for _ in 0..16 {
            append(&log.wal, vec![entry(1, next, 0, 460)]).await.unwrap();
            next += 1;
        }
        log.wal.purge(id(1, next - 2)).await.unwrap();
        log.wal.flush().await.unwrap();
        assert!(number <= 5, "segments are used again");
    }
    log.wal.close().await.unwrap();
    let contents = disk.contents();
    let stale = contents.values().any(|bytes| {
        let tail = &bytes[bytes.len() - 2000..];
        tail.iter().any(|byte| *byte != 0)
    });
    assert!(stale, "recycled segments keep old frames behind the new ones");
    let disk = disk.fork(2);
    let log = open(&disk).await.unwrap();
    assert_eq!(log.recovered.cut_bytes, 0, "old frames are no torn tail");
    assert_eq!(log.recovered.last, Some(id(1, next - 1)));
    assert_eq!(read_all(&log.wal).await.entries.len(), 1);
}

/// A log written by version 1 of the format opens with every later program.
#[tokio::test]
async fn a_version_1_log_opens() {
    let fixture: &[u8] = include_bytes!("../fixtures/v1.wal");
    let disk = SimulatedDisk::new(1);
    let mount = disk.mount();
    mount.create_dir_all("wal").await.unwrap();
    let mut file = mount.open("wal/00000001.wal", OpenMode::CreateNew).await.unwrap();
    file.write_at(0, fixture).await.unwrap();
    let log = open(&disk).await.unwrap();
    assert_eq!(log.recovered.vote, Some(ballot(4)));
    assert_eq!(log.recovered.committed, Some(id(2, 6)));
    assert_eq!(log.recovered.purged, Some(id(1, 2)));
    assert_eq!(log.recovered.last, Some(id(2, 7)));
    assert_eq!(read_all(&log.wal).await.entries, fixture_entries());
}

fn fixture_entries() -> Vec<crate::wal::Entry> {
    let first = (3..6).map(|n| entry(1, n, 0, 20));
    first.chain((6..8).map(|n| entry(2, n, 1, 20))).collect()
}

/// Writes the fixture anew; only for a new format version, under a new name.
#[tokio::test]
#[ignore = "writes the fixture"]
async fn write_fixture() {
    let disk = SimulatedDisk::new(1);
    let log = open_with(Arc::new(disk.mount()), options()).await.unwrap();
    append(&log.wal, (0..9).map(|n| entry(1, n, 0, 20)).collect()).await.unwrap();
    log.wal.truncate_after(Some(id(1, 5))).await.unwrap();
    append(&log.wal, (6..8).map(|n| entry(2, n, 1, 20)).collect()).await.unwrap();
    log.wal.purge(id(1, 2)).await.unwrap();
    log.wal.save_vote(ballot(4)).await.unwrap();
    log.wal.save_committed(Some(id(2, 6))).unwrap();
    log.wal.close().await.unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/wal/fixtures/v1.wal");
    std::fs::write(path, &disk.contents()["wal/00000001.wal"]).unwrap();
}
