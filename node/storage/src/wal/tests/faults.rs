//! A full disk, failing writes and syncs, a full queue, and the end of the writer.

use std::{
    io,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use super::harness::*;
use crate::{
    disk::{Disk, File, OpenMode},
    simulated_disk::{CrashMode, Latency, SimulatedDisk},
    wal::{SpaceState, WalOptions},
};

#[tokio::test]
async fn a_full_disk_is_told_ahead_holds_writes_back_and_heals_by_itself() {
    let disk = SimulatedDisk::new(1);
    // Room for two segments and a half.
    disk.set_capacity(Some(40 << 10));
    let log = open(&disk).await.unwrap();
    let mut space = log.wal.space();
    assert_eq!(*space.borrow(), SpaceState::Ok);
    let mut next = 0;
    while *space.borrow() == SpaceState::Ok {
        append(&log.wal, vec![entry(1, next, 0, 300)]).await.unwrap();
        next += 1;
        tokio::task::yield_now().await;
    }
    // The second segment has just begun: what is asked for now still fits.
    for _ in 0..8 {
        append(&log.wal, vec![entry(1, next, 0, 300)]).await.unwrap();
        next += 1;
    }
    log.wal.save_vote(ballot(2)).await.unwrap();
    assert_eq!(log.fatal.lock().unwrap().len(), 0, "a full disk is no failed write");

    disk.set_capacity(None);
    space.wait_for(|space| *space == SpaceState::Ok).await.unwrap();
    for _ in 0..50 {
        append(&log.wal, vec![entry(1, next, 0, 300)]).await.unwrap();
        next += 1;
    }
    log.wal.close().await.unwrap();
    disk.crash();
    assert_eq!(open(&disk).await.unwrap().recovered.last, Some(id(1, next - 1)));
}

#[tokio::test]
async fn appends_past_the_last_room_wait_and_lose_nothing() {
    let disk = SimulatedDisk::new(1);
    disk.set_capacity(Some(40 << 10));
    let log = open(&disk).await.unwrap();
    let count = Arc::new(Mutex::new(0));
    for next in 0..60 {
        let count = Arc::clone(&count);
        let done = Box::new(move |result: std::io::Result<()>| {
            result.unwrap();
            let mut count = count.lock().unwrap();
            assert_eq!(*count, next, "callbacks come in order");
            *count += 1;
        });
        log.wal.append(vec![entry(1, next, 0, 500)], done).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(*count.lock().unwrap() < 60);
    assert_eq!(*log.wal.space().borrow(), SpaceState::NearlyFull);
    disk.set_capacity(None);
    log.wal.retry_space();
    log.wal.wait_synced(59).await.unwrap();
    log.wal.flush().await.unwrap();
    assert_eq!(*count.lock().unwrap(), 60);
    assert!(log.fatal.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_purge_gives_room_on_a_full_disk() {
    let disk = SimulatedDisk::new(1);
    disk.set_capacity(Some(40 << 10));
    let log = open(&disk).await.unwrap();
    let space = log.wal.space();
    let mut next = 0;
    for _ in 0..10 {
        let start = next;
        while *space.borrow() == SpaceState::Ok && next < start + 40 {
            append(&log.wal, vec![entry(1, next, 0, 300)]).await.unwrap();
            next += 1;
            tokio::task::yield_now().await;
        }
        append(&log.wal, vec![entry(1, next, 0, 300)]).await.unwrap();
        next += 1;
        log.wal.purge(id(1, next - 2)).await.unwrap();
        log.wal.flush().await.unwrap();
        let mut space = log.wal.space();
        space.wait_for(|space| *space == SpaceState::Ok).await.unwrap();
    }
    assert!(next > 100, "{next}");
}

#[tokio::test]
async fn a_failed_write_or_sync_is_fatal_and_completes_nothing() {
    for sync in [false, true] {
        let disk = SimulatedDisk::new(1);
        let log = open(&disk).await.unwrap();
        append(&log.wal, vec![entry(1, 0, 0, 30)]).await.unwrap();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        if sync {
            disk.fail_syncs(1)
        } else {
            disk.fail_writes(1)
        }
        append(&log.wal, vec![entry(1, 1, 0, 30)]).await.unwrap_err();
        let said = log.fatal.lock().unwrap().clone();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("wal/00000001.wal"), "{said:?}");
        // The disk is well again, but what it holds is not known.
        append(&log.wal, vec![entry(1, 2, 0, 30)]).await.unwrap_err();
        log.wal.save_vote(ballot(9)).await.unwrap_err();
        log.wal.flush().await.unwrap_err();
        log.wal.wait_synced(1).await.unwrap_err();
        log.wal.close().await.unwrap_err();
        assert_eq!(log.wal.synced_index(), Some(0));
        log.writer.await.unwrap();
    }
}

#[tokio::test]
async fn a_full_queue_makes_appends_wait_until_the_writer_drained_it() {
    let disk = SimulatedDisk::new(1);
    let slow = Duration::from_millis(5);
    disk.set_latency(Latency { sync: slow, ..Latency::default() });
    let small = WalOptions { queue_bytes: 1000, ..options() };
    let log = open_with(Arc::new(disk.mount()), small).await.unwrap();
    let start = tokio::time::Instant::now();
    for next in 0..40 {
        log.wal.append(vec![entry(1, next, 0, 500)], Box::new(|_| ())).await.unwrap();
    }
    assert!(start.elapsed() > slow * 8, "{:?}", start.elapsed());
    log.wal.wait_synced(39).await.unwrap();
    assert!(disk.counts().syncs < 60, "two appends share a sync");
}

#[tokio::test]
async fn dropping_the_last_handle_ends_the_writer_after_its_work() {
    let disk = SimulatedDisk::new(1);
    let log = open(&disk).await.unwrap();
    log.wal.append(vec![entry(1, 0, 0, 30)], Box::new(|_| ())).await.unwrap();
    log.wal.save_committed(Some(id(1, 0))).unwrap();
    drop(log.wal);
    log.writer.await.unwrap();
    disk.crash();
    let recovered = open(&disk).await.unwrap().recovered;
    assert_eq!(recovered.last, Some(id(1, 0)));
    assert_eq!(recovered.committed, Some(id(1, 0)));
}

#[tokio::test]
async fn a_writer_that_is_dropped_answers_whoever_waits() {
    let disk = SimulatedDisk::new(1);
    let log = open(&disk).await.unwrap();
    disk.set_latency(Latency { sync: Duration::from_secs(60), ..Latency::default() });
    let wal = log.wal.clone();
    let vote = tokio::spawn(async move { wal.save_vote(ballot(1)).await });
    tokio::time::sleep(Duration::from_millis(5)).await;
    log.writer.abort();
    vote.await.unwrap().unwrap_err();
    log.wal.wait_synced(3).await.unwrap_err();
}

#[tokio::test]
async fn the_committed_hint_reaches_the_disk_of_an_idle_log() {
    let disk = SimulatedDisk::new(1);
    let log = open(&disk).await.unwrap();
    append(&log.wal, vec![entry(1, 0, 0, 30)]).await.unwrap();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    let syncs = disk.counts().syncs;
    log.wal.save_committed(Some(id(1, 0))).unwrap();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(disk.counts().syncs, syncs);
    let left = disk.fork(1);
    assert_eq!(open(&left).await.unwrap().recovered.committed, Some(id(1, 0)));
}

/// A killed process leaves its unsynced writes in the kernel; the next one sees them, serves them,
/// and only then the power fails.
#[tokio::test]
async fn what_an_open_found_survives_even_if_it_was_never_synced_before() {
    let disk = SimulatedDisk::new(1);
    disk.set_crash_mode(CrashMode::LoseUnsynced);
    let log = open(&disk).await.unwrap();
    disk.set_latency(Latency { sync: Duration::from_secs(60), ..Latency::default() });
    log.wal.append(vec![entry(1, 0, 0, 30)], Box::new(|_| ())).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    log.writer.abort();
    disk.set_latency(Latency::default());

    let log = open(&disk).await.unwrap();
    assert_eq!(log.recovered.last, Some(id(1, 0)));
    assert_eq!(log.wal.synced_index(), Some(0));
    disk.crash();
    assert_eq!(open(&disk).await.unwrap().recovered.last, Some(id(1, 0)));
}

/// A disk of a process that has no file descriptor left, while `is_exhausted` says so: what opens a file
/// fails, what has one goes on.
#[derive(Debug, Clone)]
struct WithoutDescriptors {
    disk: SimulatedDisk,
    is_exhausted: Arc<std::sync::atomic::AtomicBool>,
}

#[async_trait::async_trait]
impl Disk for WithoutDescriptors {
    async fn create_dir_all(&self, path: &str) -> io::Result<()> {
        self.disk.create_dir_all(path).await
    }

    async fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.disk.list(path).await
    }

    async fn open(&self, path: &str, mode: OpenMode) -> io::Result<Box<dyn File>> {
        if self.is_exhausted.load(Ordering::SeqCst) {
            return Err(rustix::io::Errno::MFILE.into());
        }
        self.disk.open(path, mode).await
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to).await
    }

    async fn remove_file(&self, path: &str) -> io::Result<()> {
        self.disk.remove_file(path).await
    }

    async fn remove_file_aside(&self, path: &str) -> io::Result<()> {
        self.disk.remove_file_aside(path).await
    }

    async fn remove_dir_all(&self, path: &str) -> io::Result<()> {
        self.disk.remove_dir_all(path).await
    }

    async fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.disk.sync_dir(path).await
    }

    async fn hold_space(&self, path: &str, bytes: u64) -> io::Result<()> {
        self.disk.hold_space(path, bytes).await
    }

    async fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes().await
    }
}

/// Once with new segments and once with spares: neither way to the next segment is half gone when there
/// is no descriptor, and what was appended is read back, from files that have to be opened.
#[tokio::test]
async fn a_process_without_descriptors_is_told_ahead_and_heals_by_itself() {
    for spares in [0, 4] {
        let disk = SimulatedDisk::new(1);
        let is_exhausted = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let without =
            WithoutDescriptors { disk: disk.mount(), is_exhausted: Arc::clone(&is_exhausted) };
        let options = WalOptions { spare_segments: spares, ..options() };
        let log = open_with(Arc::new(without), options).await.unwrap();
        let mut next = 0;
        for _ in 0..200 {
            append(&log.wal, vec![entry(1, next, 0, 300)]).await.unwrap();
            next += 1;
        }
        log.wal.purge(id(1, next - 1)).await.unwrap();
        log.wal.flush().await.unwrap();
        let first = next;
        is_exhausted.store(true, Ordering::SeqCst);
        let mut space = log.wal.space();
        // The next segment is there; the one after it can't be begun.
        while *space.borrow() == SpaceState::Ok {
            append(&log.wal, vec![entry(1, next, 0, 300)]).await.unwrap();
            next += 1;
            tokio::task::yield_now().await;
        }
        assert_eq!(log.fatal.lock().unwrap().len(), 0, "nothing is lost for that");
        is_exhausted.store(false, Ordering::SeqCst);
        space.wait_for(|space| *space == SpaceState::Ok).await.unwrap();
        for _ in 0..100 {
            append(&log.wal, vec![entry(1, next, 0, 300)]).await.unwrap();
            next += 1;
        }

        is_exhausted.store(true, Ordering::SeqCst);
        let reading = log.wal.read(first..next, usize::MAX);
        tokio::pin!(reading);
        let early = tokio::time::timeout(Duration::from_millis(120), &mut reading).await;
        assert!(early.is_err(), "a read waits for a descriptor");
        is_exhausted.store(false, Ordering::SeqCst);
        assert_eq!(reading.await.unwrap().len(), (next - first) as usize);
        log.wal.close().await.unwrap();
        disk.crash();
        assert_eq!(open(&disk).await.unwrap().recovered.last, Some(id(1, next - 1)));
    }
}
