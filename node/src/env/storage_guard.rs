//! Room on the disk, held before it is needed.
//!
//! A disk that runs full must not end a node: writes are refused while there is still room for what
//! was accepted. But a threshold alone does not hold that room, because somebody else's file may
//! take all of it between two looks. So it is held in a file, `RESERVE`:
//!
//! - **While there is room** the file has its full size, and nothing is refused.
//! - **When little is free besides**, writes are refused (deletes are not) and a leader hands over.
//!   A flush that finds too little first lets go of most of the file. What is left of it is for the
//!   next start, which needs some room before it can read anything.
//!   How little is too little depends on what flushes write: the state's engine writes whole leaves
//!   anew, so a few large values can cost many times their size. Twice what the state has lately
//!   grown by in one flush has to be free, with room for what waits in memory, and half the reserve
//!   at least.
//! - **When a flush would not find room with that either**, since somebody else took it or values are
//!   large, it is put off until there is, and writes are refused: what was committed stays in memory
//!   and in the log, which has its space. If the map in memory is full, commits wait, and only local
//!   reads go on. What a flush needs is never known; it is taken for what the largest of the last ones
//!   added, and its own changes besides (`Growth::needed`).
//! - **When there is room again**, the file takes its full size back, and then writes are accepted.
//!
//! If a flush meets a full disk half-way (somebody filled it after the flush had begun), the process ends, as after any failed write. The next
//! start lets go of the rest of the file and tries with that. One that finds nothing left to let go
//! of, or gets too little from it, does not flush at all and serves local reads only, until the
//! whole reserve is held again: a node can't end in the same way over and over.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex, watch},
    time::{Instant, MissedTickBehavior},
};

use crate::storage::disk::{Disk, OpenMode, is_exhausted, is_full};

const FILE: &str = "RESERVE";

/// How often the disk is looked at.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// A start needs at least this much to open the state.
const START_BYTES_MIN: u64 = 1024 * 1024;

/// What a start may need besides the log's next segment.
const START_BYTES: u64 = 4 * 1024 * 1024;

/// For so long it counts that there was no room for a snapshot. A leader offers one again at least every few seconds,
/// and a node looks twice a second whether it can build one.
const LOOKED_FOR_LATELY: Duration = Duration::from_secs(15);

/// What the first flush of a start may write anew beside its changes, as nothing is known of those before: two leaves of
/// 128 records of the greatest size (`sled_store`), or all of a smaller state.
const LEAVES_BYTES: u64 = 256 * 1024 * 1024;

/// So many flushes say what the next one may need.
const FLUSHES_REMEMBERED: usize = 16;

/// What flushes add to the state's files.
#[derive(Debug, Default)]
struct Growth {
    state_bytes: Option<u64>,
    recent: VecDeque<u64>,
}

impl Growth {
    fn learn(&mut self, state_bytes: u64) {
        if let Some(before) = self.state_bytes.replace(state_bytes) {
            self.recent.push_back(state_bytes.saturating_sub(before));
            if self.recent.len() > FLUSHES_REMEMBERED {
                self.recent.pop_front();
            }
        }
    }

    fn largest(&self) -> u64 {
        self.recent.iter().copied().max().unwrap_or(0)
    }

    /// What a flush of so many bytes of changes may add to the state's files. A flush that meets a full disk ends the
    /// process, so it is better too much than too little: leaves that were written anew lately may be again.
    fn needed(&self, dirty_bytes: u64) -> u64 {
        let leaves = match self.recent.is_empty() {
            true => self.state_bytes.unwrap_or(0).min(LEAVES_BYTES),
            false => self.largest(),
        };
        START_BYTES.max(leaves + with_slack(dirty_bytes))
    }
}

/// Room in the state's files for so many bytes: the engine has sizes for what it stores, the next one a quarter more.
fn with_slack(bytes: u64) -> u64 {
    bytes + bytes / 4
}

/// Holds room on the disk. See the module.
#[derive(Debug)]
pub struct StorageGuard {
    disk: Arc<dyn Disk>,
    /// Size of the whole reserve.
    reserve_bytes: u64,
    /// The part of it that only a start lets go of.
    start_bytes: u64,
    /// Size of the file now. Whoever changes the file holds this.
    file_bytes: Mutex<u64>,
    held: watch::Sender<bool>,
    free_bytes: AtomicU64,
    /// `file_bytes`, for whoever watches.
    held_bytes: AtomicU64,
    flushes_may_fail: bool,
    /// The last flush was put off.
    flushes_wait: AtomicBool,
    /// Changes that wait in memory for flushes, when it was last looked.
    dirty_bytes: AtomicU64,
    /// The last file for which there was no room: its size, and when that was found.
    no_room: std::sync::Mutex<Option<(u64, Instant)>>,
    growth: std::sync::Mutex<Growth>,
}

impl StorageGuard {
    /// Takes the reserve, or lets go of it if there is too little room to start. Waits where there
    /// is none at all: ending would only be followed by the next start.
    pub async fn open(
        disk: Arc<dyn Disk>,
        reserve_bytes: u64,
        segment_bytes: u64,
    ) -> io::Result<Arc<StorageGuard>> {
        let file_bytes = match disk.open(FILE, OpenMode::Read).await {
            Ok(file) => file.len().await?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let mut guard = StorageGuard {
            disk,
            reserve_bytes,
            start_bytes: (segment_bytes + START_BYTES).min(reserve_bytes / 2),
            file_bytes: Mutex::new(file_bytes),
            held: watch::channel(false).0,
            free_bytes: AtomicU64::new(0),
            held_bytes: AtomicU64::new(file_bytes),
            flushes_may_fail: false,
            flushes_wait: AtomicBool::new(false),
            dirty_bytes: AtomicU64::new(0),
            no_room: std::sync::Mutex::default(),
            growth: std::sync::Mutex::default(),
        };
        guard.make_room_to_start().await?;
        guard.look().await?;
        let is_used_up = file_bytes == 0 || guard.free_bytes() < guard.low_bytes();
        guard.flushes_may_fail = !guard.is_held() && is_used_up;
        Ok(Arc::new(guard))
    }

    /// This start can't rely on room for a flush: nothing may be flushed before the whole reserve is
    /// held.
    pub fn flushes_may_fail(&self) -> bool {
        self.flushes_may_fail
    }

    async fn make_room_to_start(&self) -> io::Result<()> {
        let mut file_bytes = self.file_bytes.lock().await;
        if self.measure().await? < self.start_bytes && *file_bytes > 0 {
            // The larger part first: the rest is for a start after this one.
            let keep = if *file_bytes > self.start_bytes { self.start_bytes } else { 0 };
            self.resize(&mut file_bytes, keep).await?;
        }
        let mut is_told = false;
        while self.measure().await? < START_BYTES_MIN {
            if !is_told {
                tracing::error!("the disk is full: the node starts as soon as there is room");
                is_told = true;
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
        Ok(())
    }

    /// Whether the whole reserve is held.
    pub fn is_held(&self) -> bool {
        *self.held.borrow()
    }

    /// Waits until the whole reserve is held.
    pub async fn wait_held(&self) {
        // The sender lives as long as `self`.
        let _ = self.held.subscribe().wait_for(|held| *held).await;
    }

    /// Bytes free besides the reserve, when it was last looked.
    pub fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the reserve that were let go of, for a flush or for a start.
    pub fn used_bytes(&self) -> u64 {
        self.reserve_bytes.saturating_sub(self.held_bytes.load(Ordering::Relaxed))
    }

    /// Whether a snapshot of this size, or a state made of one, leaves enough room besides.
    pub async fn has_room_for(&self, bytes: u64) -> io::Result<bool> {
        let has_room =
            self.is_held() && self.measure().await? >= bytes.saturating_add(self.low_bytes());
        let lacks = (!has_room).then(|| (bytes, Instant::now()));
        let mut no_room = self.no_room.lock().unwrap_or_else(PoisonError::into_inner);
        let lacked = std::mem::replace(&mut *no_room, lacks);
        if lacks.is_some() && lacked.is_none() {
            let free = self.free_bytes();
            tracing::warn!(bytes, free, "the disk has no room for a snapshot beside the reserve");
        }
        Ok(has_room)
    }

    /// The size of the snapshot for which there is no room, if one was looked for lately. Whoever needs it asks again
    /// many times as often.
    pub fn has_no_room_for(&self) -> Option<u64> {
        let no_room = *self.no_room.lock().unwrap_or_else(PoisonError::into_inner);
        no_room.filter(|(_, at)| at.elapsed() < LOOKED_FOR_LATELY).map(|(bytes, _)| bytes)
    }

    /// To be called before each flush, with the size of the state's files if it is known, and of the changes: lets go of
    /// the reserve if the flush may need it. False if there is too little room all the same: then
    /// the flush has to wait for more.
    pub async fn make_room_to_flush(
        &self,
        state_bytes: Option<u64>,
        dirty_bytes: u64,
    ) -> io::Result<bool> {
        let needed = {
            let mut growth = self.growth();
            // Between two tries of one flush nothing was written, and nothing is learnt: not that flushes need nothing.
            let was_put_off = self.flushes_wait.load(Ordering::Relaxed);
            if let Some(state_bytes) = state_bytes.filter(|_| !was_put_off) {
                growth.learn(state_bytes);
            }
            growth.needed(dirty_bytes)
        };
        let mut file_bytes = self.file_bytes.lock().await;
        let low = self.low_bytes().max(needed);
        if *file_bytes > self.start_bytes && self.measure().await? < low {
            tracing::warn!("the disk is nearly full: a flush may use the reserve");
            self.held.send_replace(false);
            self.resize(&mut file_bytes, self.start_bytes).await?;
        }
        let free = self.measure().await?;
        let has_room = free >= needed;
        if self.flushes_wait.swap(!has_room, Ordering::Relaxed) == has_room {
            match has_room {
                true => tracing::info!("there is room for flushes of the state again"),
                false => {
                    tracing::error!(
                        free,
                        needed,
                        "the disk has no room for a flush: the state waits for some"
                    );
                }
            }
        }
        Ok(has_room)
    }

    /// Looks at the disk from time to time, takes the reserve back when there is room, and says when
    /// writes have to be refused. It asks whether the log has its next segment, and how many bytes of changes wait in
    /// memory.
    pub async fn watch(
        self: Arc<Self>,
        has_segment: impl Fn() -> bool,
        dirty_bytes: impl Fn() -> u64,
        nearly_full: watch::Sender<bool>,
    ) {
        let mut interval = tokio::time::interval(CHECK_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut held = self.held.subscribe();
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                // A flush has just let go of it.
                _ = held.changed() => {}
            }
            self.dirty_bytes.store(dirty_bytes(), Ordering::Relaxed);
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "the free space can't be read, or not be held");
                continue;
            }
            let free = self.free_bytes();
            let waits = self.flushes_wait.load(Ordering::Relaxed);
            let is_full = !self.is_held() || free < self.low_bytes() || !has_segment() || waits;
            let was_full = *nearly_full.borrow();
            if is_full && !was_full {
                tracing::warn!(free, "the disk is nearly full: writes are refused");
            } else if was_full && !is_full {
                tracing::info!(free, "there is room on the disk again");
            }
            nearly_full.send_if_modified(|now| std::mem::replace(now, is_full) != is_full);
        }
    }

    /// Measures the free space, and takes the reserve if it is not held and there is room for it.
    async fn look(&self) -> io::Result<()> {
        let mut file_bytes = self.file_bytes.lock().await;
        let free = self.measure().await?;
        let missing = self.reserve_bytes.saturating_sub(*file_bytes);
        if self.is_held() || (missing > 0 && free < missing.saturating_add(self.low_bytes())) {
            return Ok(());
        }
        match self.resize(&mut file_bytes, self.reserve_bytes).await {
            Ok(()) => {
                self.held.send_replace(true);
                self.measure().await?;
                Ok(())
            }
            // Somebody else was faster.
            Err(error) if is_full(&error) || is_exhausted(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// With less than this besides the reserve, writes are refused.
    fn low_bytes(&self) -> u64 {
        let dirty_bytes = self.dirty_bytes.load(Ordering::Relaxed);
        (self.reserve_bytes / 2).max(2 * self.growth().largest() + with_slack(dirty_bytes))
    }

    fn growth(&self) -> std::sync::MutexGuard<'_, Growth> {
        self.growth.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn measure(&self) -> io::Result<u64> {
        let free = self.disk.free_bytes().await?;
        self.free_bytes.store(free, Ordering::Relaxed);
        Ok(free)
    }

    async fn resize(&self, file_bytes: &mut u64, bytes: u64) -> io::Result<()> {
        if bytes > 0 {
            self.disk.hold_space(FILE, bytes).await?;
        } else {
            match self.disk.remove_file(FILE).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        *file_bytes = bytes;
        self.held_bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::simulated_disk::SimulatedDisk;

    const SEGMENT: u64 = 8 << 20;
    const RESERVE: u64 = 32 << 20;

    async fn open(disk: &SimulatedDisk) -> Arc<StorageGuard> {
        StorageGuard::open(Arc::new(disk.mount()), RESERVE, SEGMENT).await.unwrap()
    }

    fn full_but(disk: &SimulatedDisk, left: u64) {
        let used: usize = disk.contents().values().map(Vec::len).sum();
        disk.set_capacity(Some(used as u64 + left));
    }

    #[tokio::test]
    async fn a_flush_lets_go_of_it_and_room_brings_it_back() {
        let disk = SimulatedDisk::new(1);
        disk.set_capacity(Some(200 << 20));
        let guard = open(&disk).await;
        assert!(guard.is_held());
        assert_eq!(guard.free_bytes(), (200 << 20) - RESERVE);
        guard.make_room_to_flush(None, 0).await.unwrap();
        assert!(guard.is_held(), "there is room");

        let (sender, mut nearly_full) = watch::channel(false);
        tokio::spawn(Arc::clone(&guard).watch(|| true, || 0, sender));
        full_but(&disk, 0);
        nearly_full.wait_for(|full| *full).await.unwrap();
        assert!(guard.is_held(), "only a flush needs it");
        guard.make_room_to_flush(None, 0).await.unwrap();
        assert!(!guard.is_held());
        assert_eq!(guard.measure().await.unwrap(), RESERVE - guard.start_bytes);
        assert_eq!(guard.used_bytes(), RESERVE - guard.start_bytes);

        disk.set_capacity(Some(200 << 20));
        nearly_full.wait_for(|full| !*full).await.unwrap();
        assert!(guard.is_held());
    }

    #[tokio::test]
    async fn flushes_wait_when_somebody_takes_the_reserve() {
        let disk = SimulatedDisk::new(1);
        disk.set_capacity(Some(200 << 20));
        let guard = open(&disk).await;
        full_but(&disk, 0);
        assert!(guard.make_room_to_flush(None, 0).await.unwrap(), "it has what it held");
        full_but(&disk, START_BYTES - 1);
        assert!(!guard.make_room_to_flush(None, 0).await.unwrap());
        full_but(&disk, START_BYTES);
        assert!(guard.make_room_to_flush(None, 0).await.unwrap());
    }

    #[tokio::test]
    async fn a_start_on_a_full_disk_uses_the_rest_and_is_not_held() {
        let disk = SimulatedDisk::new(1);
        disk.set_capacity(Some(200 << 20));
        let guard = open(&disk).await;
        full_but(&disk, 0);
        guard.make_room_to_flush(None, 0).await.unwrap();
        drop(guard);
        full_but(&disk, 5 << 20);
        let guard = open(&disk).await;
        assert_eq!((guard.is_held(), guard.flushes_may_fail()), (false, false));
        assert_eq!(guard.free_bytes(), guard.start_bytes + (5 << 20));
        drop(guard);
        // The one after that has nothing to let go of.
        let guard = open(&disk).await;
        assert_eq!((guard.is_held(), guard.flushes_may_fail()), (false, true));
    }

    #[tokio::test]
    async fn large_flushes_ask_for_more_room() {
        let disk = SimulatedDisk::new(1);
        disk.set_capacity(Some(200 << 20));
        let guard = open(&disk).await;
        assert_eq!(guard.low_bytes(), RESERVE / 2);
        for state_bytes in [1 << 20, 2 << 20, 42 << 20, 20 << 20] {
            guard.make_room_to_flush(Some(state_bytes), 0).await.unwrap();
        }
        assert_eq!(guard.low_bytes(), 80 << 20);
        for _ in 0..FLUSHES_REMEMBERED {
            guard.make_room_to_flush(Some(20 << 20), 0).await.unwrap();
        }
        assert_eq!(guard.low_bytes(), RESERVE / 2);
    }

    /// A flush that was begun with too little room ended the process: values of 1 MiB filled a disk, and the flush after
    /// they were refused needed more than was left.
    #[tokio::test]
    async fn a_flush_that_may_not_fit_is_put_off_and_writes_are_refused_meanwhile() {
        let disk = SimulatedDisk::new(1);
        disk.set_capacity(Some(300 << 20));
        let guard = open(&disk).await;
        let (sender, nearly_full) = watch::channel(false);
        tokio::spawn(Arc::clone(&guard).watch(|| true, || 16 << 20, sender));
        for state_bytes in [1 << 20, 61 << 20, 121 << 20] {
            assert!(guard.make_room_to_flush(Some(state_bytes), 40 << 20).await.unwrap());
        }
        assert_eq!(guard.growth().needed(40 << 20), 110 << 20, "as the last, and its changes");
        full_but(&disk, 80 << 20);
        for _ in 0..2 * FLUSHES_REMEMBERED {
            let again = guard.make_room_to_flush(Some(121 << 20), 40 << 20).await.unwrap();
            assert!(!again, "however often it is tried");
        }
        assert!(!guard.is_held(), "all is given that there is");
        let mut nearly_full = nearly_full;
        nearly_full.wait_for(|full| *full).await.unwrap();
        // Fewer changes need less.
        assert!(guard.make_room_to_flush(Some(121 << 20), 1 << 20).await.unwrap());
        disk.set_capacity(Some(600 << 20));
        assert!(guard.make_room_to_flush(Some(121 << 20), 40 << 20).await.unwrap());
        nearly_full.wait_for(|full| !*full).await.unwrap();
        assert_eq!(guard.low_bytes(), (120 << 20) + (20 << 20));
    }

    /// Of the state that a start finds nothing is known: it may be one leaf.
    #[test]
    fn the_first_flush_may_write_all_of_a_small_state_anew() {
        let mut growth = Growth::default();
        growth.learn(100 << 20);
        assert_eq!(growth.needed(8 << 20), 110 << 20);
        growth.learn(101 << 20);
        assert_eq!(growth.needed(8 << 20), 11 << 20);
        let mut growth = Growth::default();
        growth.learn(100 << 30);
        assert_eq!(growth.needed(0), LEAVES_BYTES);
    }

    #[tokio::test]
    async fn a_reserve_that_is_whole_helps_a_start_too() {
        let disk = SimulatedDisk::new(1);
        disk.set_capacity(Some(200 << 20));
        drop(open(&disk).await);
        full_but(&disk, 0);
        let guard = open(&disk).await;
        assert_eq!((guard.is_held(), guard.flushes_may_fail()), (false, false));
        assert_eq!(guard.free_bytes(), RESERVE - guard.start_bytes);
    }

    #[tokio::test]
    async fn a_start_without_any_room_waits() {
        let disk = SimulatedDisk::new(1);
        disk.set_capacity(Some(100));
        let started = open(&disk);
        tokio::pin!(started);
        assert!(tokio::time::timeout(2 * CHECK_INTERVAL, &mut started).await.is_err());
        disk.set_capacity(Some(200 << 20));
        let guard = started.await;
        tokio::spawn(Arc::clone(&guard).watch(|| true, || 0, watch::channel(true).0));
        guard.wait_held().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_there_was_no_room_for_is_told_for_a_while() {
        let disk = Arc::new(SimulatedDisk::new(1));
        disk.set_capacity(Some(200 << 20));
        let guard = StorageGuard::open(disk.clone(), RESERVE, SEGMENT).await.unwrap();
        assert!(guard.has_room_for(100 << 20).await.unwrap());
        assert_eq!(guard.has_no_room_for(), None);
        assert!(!guard.has_room_for(190 << 20).await.unwrap());
        assert_eq!(guard.has_no_room_for(), Some(190 << 20));
        tokio::time::advance(LOOKED_FOR_LATELY).await;
        assert_eq!(guard.has_no_room_for(), None, "nobody asks any more");
        assert!(!guard.has_room_for(190 << 20).await.unwrap());
        disk.set_capacity(Some(400 << 20));
        assert!(guard.has_room_for(190 << 20).await.unwrap());
        assert_eq!(guard.has_no_room_for(), None);
    }
}
