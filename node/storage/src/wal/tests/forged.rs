//! Bytes with right checksums that no writer of ours makes: what a fuzzer found that an open believed, or that
//! ended the process.

use bytes::Bytes;

use super::harness::*;
use crate::{
    disk::{Disk, OpenMode},
    simulated_disk::SimulatedDisk,
    wal::{
        LogId, WalError,
        frame::{self, Salt},
        record::{LogState, Record},
        segment::SegmentHeader,
    },
};

const SALT: u64 = 7;

/// A disk with one file, of a segment that has these records.
async fn disk(name: &str, claimed: u64, records: &[Record<'_>]) -> SimulatedDisk {
    let header =
        SegmentHeader { bytes: claimed, number: 1, salt: SALT, sequence: 1, chain: 0, owner: None };
    let (mut bytes, mut chain) = (Vec::new(), 0);
    header.encode(&mut bytes);
    for (record, sequence) in records.iter().zip(1..) {
        let said = (sequence, sequence - 1, chain);
        let put = |buf: &mut Vec<u8>| record.encode(buf);
        chain = frame::encode(&mut bytes, Salt::new(SALT), said, record.kind(), put);
    }
    bytes.resize(options().segment_bytes as usize, 0);
    let disk = SimulatedDisk::new(1);
    let mount = disk.mount();
    mount.create_dir_all("wal").await.unwrap();
    let mut file = mount.open(&format!("wal/{name}.wal"), OpenMode::CreateNew).await.unwrap();
    file.write_at(0, &bytes).await.unwrap();
    disk
}

async fn reason(disk: &SimulatedDisk) -> String {
    let before = disk.contents();
    let refused = open(disk).await.err();
    let Some(WalError::Corrupt { reason, .. }) = refused else { panic!("it opens: {refused:?}") };
    assert_eq!(disk.contents(), before, "a refusal changes nothing");
    reason
}

const FIRST: Record<'_> =
    Record::State(LogState { vote: None, committed: None, purged: None, last: None });

#[tokio::test]
async fn a_file_that_is_numbered_before_the_first_is_nobody_s() {
    let disk = disk("00000000", options().segment_bytes, &[FIRST]).await;
    let theirs = disk.contents().remove("wal/00000000.wal").unwrap();
    let log = open(&disk).await.unwrap();
    append(&log.wal, vec![entry(1, 0, 0, 10)]).await.unwrap();
    log.wal.close().await.unwrap();
    assert_eq!(disk.contents()["wal/00000000.wal"], theirs);
    assert_eq!(open(&disk).await.unwrap().recovered.last, Some(id(1, 0)));
}

#[tokio::test]
async fn a_segment_claims_no_impossible_length() {
    for claimed in [0, 1, 8192, 16 * 1024 - 1] {
        let said = reason(&disk("00000001", claimed, &[FIRST]).await).await;
        assert!(said.contains(&format!("{claimed} bytes")), "{said}");
    }
    for claimed in [16 * 1024 + 1, 1 << 40, u64::MAX] {
        reason(&disk("00000001", claimed, &[FIRST]).await).await;
    }
}

#[tokio::test]
async fn what_a_record_names_must_be_in_the_log() {
    let payload = Bytes::from_static(b"payload");
    let entries = [0, 1, 2].map(|index| Record::Entry(id(1, index), 1, &payload));
    let with = |last: Record<'static>| async move {
        let records = [&[FIRST][..], &entries, &[last]].concat();
        disk("00000001", options().segment_bytes, &records).await
    };
    let right: [(Record<'_>, Option<LogId>); 4] = [
        (Record::Truncate(Some(id(1, 1))), Some(id(1, 1))),
        (Record::Truncate(None), None),
        (Record::Purge { upto: id(1, 1), jump: false }, Some(id(1, 2))),
        (Record::Purge { upto: id(4, 70), jump: true }, Some(id(4, 70))),
    ];
    for (record, last) in right {
        let log = open(&with(record).await).await.unwrap();
        assert_eq!(log.recovered.last, last, "{record:?}");
    }
    for record in [
        Record::Truncate(Some(id(2, 1))),
        Record::Truncate(Some(id(1, 9))),
        Record::Purge { upto: id(2, 1), jump: false },
        Record::Purge { upto: id(1, 9), jump: false },
        Record::Entry(id(1, 4), 1, b"after a hole"),
        Record::Entry(id(1, u64::MAX), 1, b"after which there is none"),
    ] {
        reason(&with(record).await).await;
    }
}
