//! What the log does while nothing goes wrong.

use std::{sync::Arc, time::Duration};

use super::harness::*;
use crate::{
    real_disk::RealDisk,
    simulated_disk::SimulatedDisk,
    wal::{Recovered, WalOptions},
};

#[tokio::test]
async fn entries_are_readable_before_and_after_they_are_durable_and_after_a_restart() {
    let disk = SimulatedDisk::new(1);
    let log = open(&disk).await.unwrap();
    assert_eq!(log.recovered, Recovered { next_sequence: 1, ..Recovered::default() });
    let mut model = Model::default();
    for n in 0..100 {
        let some = vec![entry(1, n * 2, 0, 300), entry(1, n * 2 + 1, 0, 10)];
        model.entries.extend(some.clone());
        let appended = log.wal.append(some.clone(), Box::new(|_| ()));
        appended.await.unwrap();
        assert_eq!(log.wal.read(n * 2..n * 2 + 2, 10_000).await.unwrap(), some);
    }
    log.wal.save_vote(ballot(3)).await.unwrap();
    log.wal.save_committed(Some(id(1, 150))).unwrap();
    model.vote = Some(ballot(3));
    assert_eq!(log.wal.synced_index(), Some(199));
    assert_eq!(read_all(&log.wal).await, model);
    assert!(disk.contents().len() > 3, "several segments");

    log.wal.close().await.unwrap();
    log.wal.save_vote(ballot(4)).await.unwrap_err();
    disk.crash();
    let log = open(&disk).await.unwrap();
    assert_eq!(log.recovered.vote, Some(ballot(3)));
    assert_eq!(log.recovered.committed, Some(id(1, 150)));
    assert_eq!(log.recovered.last, Some(id(1, 199)));
    assert_eq!(log.recovered.cut_bytes, 0);
    assert_eq!(log.wal.synced_index(), Some(199));
    assert_eq!(read_all(&log.wal).await, model);
}

#[tokio::test]
async fn a_purge_gives_segments_back_and_a_jump_goes_on_behind_itself() {
    let disk = SimulatedDisk::new(1);
    let log = open(&disk).await.unwrap();
    for n in 0..200 {
        append(&log.wal, vec![entry(1, n, 0, 300)]).await.unwrap();
    }
    let before = log.wal.disk_bytes();
    log.wal.purge(id(1, 189)).await.unwrap();
    assert_eq!(log.wal.first_index(), 190);
    log.wal.flush().await.unwrap();
    for n in 200..400 {
        append(&log.wal, vec![entry(1, n, 0, 300)]).await.unwrap();
        log.wal.purge(id(1, n - 5)).await.unwrap();
    }
    log.wal.flush().await.unwrap();
    assert!(log.wal.disk_bytes() < before, "{} of {before}", log.wal.disk_bytes());
    assert_eq!(read_all(&log.wal).await.entries.len(), 5);

    log.wal.purge(id(7, 1000)).await.unwrap();
    log.wal.flush().await.unwrap();
    assert_eq!(log.wal.last(), Some(id(7, 1000)));
    assert_eq!(log.wal.log_id(1000), Some(id(7, 1000)));
    append(&log.wal, vec![entry(6, 1001, 0, 3)]).await.unwrap_err();
    append(&log.wal, vec![entry(7, 1001, 0, 3)]).await.unwrap();
    log.wal.close().await.unwrap();
    let log = open(&disk).await.unwrap();
    assert_eq!(log.recovered.purged, Some(id(7, 1000)));
    assert_eq!(read_all(&log.wal).await.entries, [entry(7, 1001, 0, 3)]);
}

#[tokio::test]
async fn all_but_so_many_bytes_can_be_purged_in_whole_segments() {
    let disk = SimulatedDisk::new(1);
    // Without the seals of pauses, so that the last segment has room for what comes behind.
    let options = WalOptions { seal_after: Duration::from_secs(60), ..options() };
    let segment = options.segment_bytes;
    let log = open_with(Arc::new(disk.mount()), options).await.unwrap();
    assert_eq!(log.wal.index_behind(0), None);
    for n in 0..380 {
        append(&log.wal, vec![entry(1, n, 0, 300)]).await.unwrap();
    }
    assert_eq!(log.wal.index_behind(100 * segment), None, "there are not that many");
    let one = log.wal.index_behind(segment).unwrap();
    assert_eq!(log.wal.index_behind(0), Some(one), "the newest one is being written");
    let three = log.wal.index_behind(4 * segment - 1).unwrap();
    assert!(three < one && one < 379, "{three}, {one}");

    log.wal.purge(id(1, three)).await.unwrap();
    log.wal.flush().await.unwrap();
    // The three, the next one, and one spare.
    assert!(log.wal.disk_bytes() <= 5 * segment, "{}", log.wal.disk_bytes());
    assert_eq!(log.wal.index_behind(3 * segment), None, "that is what is left");
    assert_eq!(log.wal.index_behind(segment), Some(one));
    log.wal.close().await.unwrap();
    let log = open(&disk).await.unwrap();
    assert_eq!(log.wal.index_behind(segment), Some(one), "a restart knows it, too");
    // What is not durable yet will lie in the newest segment or behind it.
    log.wal.append(vec![entry(1, 380, 0, 300)], Box::new(|_| ())).await.unwrap();
    assert_eq!(log.wal.index_behind(segment), Some(one));
}

#[tokio::test]
async fn what_would_make_a_hole_is_refused_and_changes_nothing() {
    let disk = SimulatedDisk::new(1);
    let log = open(&disk).await.unwrap();
    append(&log.wal, vec![entry(2, 1, 0, 1)]).await.unwrap_err();
    append(&log.wal, vec![entry(2, 0, 0, 1), entry(2, 1, 0, 1)]).await.unwrap();
    append(&log.wal, vec![entry(2, 3, 0, 1)]).await.unwrap_err();
    append(&log.wal, vec![entry(1, 2, 0, 1)]).await.unwrap_err();
    let long = options().payload_bytes_max() + 1;
    append(&log.wal, vec![entry(2, 2, 0, long)]).await.unwrap_err();
    append(&log.wal, vec![entry(2, 2, 0, long - 1)]).await.unwrap();
    log.wal.truncate_after(Some(id(1, 0))).await.unwrap_err();
    log.wal.save_vote(ballot(5)).await.unwrap();
    log.wal.save_vote(ballot(4)).await.unwrap_err();
    assert_eq!(log.wal.last(), Some(id(2, 2)));
    log.wal.close().await.unwrap();
    let log = open(&disk).await.unwrap();
    assert_eq!(log.recovered.last, Some(id(2, 2)));
    assert_eq!(log.recovered.vote, Some(ballot(5)));
}

#[tokio::test]
async fn synced_falls_with_a_truncation_until_what_replaces_it_is_durable() {
    let disk = SimulatedDisk::new(1);
    let log = open(&disk).await.unwrap();
    append(&log.wal, (0..10).map(|n| entry(1, n, 0, 9)).collect()).await.unwrap();
    assert_eq!(log.wal.synced_index(), Some(9));
    log.wal.truncate_after(Some(id(1, 4))).await.unwrap();
    log.wal.append(vec![entry(2, 5, 1, 9)], Box::new(|_| ())).await.unwrap();
    assert_eq!(log.wal.synced_index(), Some(4));
    log.wal.wait_synced(5).await.unwrap();
    assert_eq!(log.wal.synced_index(), Some(5));
    assert_eq!(log.wal.read(5..6, 1).await.unwrap(), [entry(2, 5, 1, 9)]);
}

#[tokio::test]
async fn the_same_code_runs_on_real_files() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(dir.path().to_path_buf()).unwrap();
    let mut model = Model::default();
    for life in 0..3 {
        let log = open_with(Arc::new(disk.clone()), options()).await.unwrap();
        assert_eq!(read_all(&log.wal).await, model);
        for _ in 0..60 {
            let one = entry(1, model.end(), life, 400);
            append(&log.wal, vec![one.clone()]).await.unwrap();
            model.entries.push(one);
        }
        let upto = id(1, model.end() - 30);
        log.wal.purge(upto).await.unwrap();
        model.purge(upto);
        log.wal.close().await.unwrap();
        log.writer.await.unwrap();
    }
    assert_eq!(WalOptions::new(0).payload_bytes_max(), (16 << 20) / 3);
}
