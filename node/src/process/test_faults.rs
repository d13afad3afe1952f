//! A clock and a disk that are wrong on purpose, for tests of whoever uses a cluster: what the simulator does to nodes
//! inside of it, for a real process. `test_faults_file` names a file that is looked at ten times a second:
//!
//! ```toml
//! wall_clock_offset_ms = 3_600_000   # the wall clock is an hour ahead
//! disk_is_full = true                # nothing is free on the disk
//! ```
//!
//! A missing file is no fault. It is the [`Env`] that lies: no other part of the node knows.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde::Deserialize;

use crate::{
    env::{Clock, Env},
    storage::disk::{Disk, File, OpenMode},
};

/// How often the file is looked at.
const LOOKED_AT_EVERY: Duration = Duration::from_millis(100);

/// A longer file is somebody else's.
const FILE_BYTES_MAX: usize = 4096;

/// What is wrong.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
struct Wrong {
    wall_clock_offset_ms: i64,
    disk_is_full: bool,
}

impl Wrong {
    fn read(path: &Path) -> Result<Wrong, String> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Wrong::default()),
            Err(error) => return Err(error.to_string()),
        };
        if text.len() > FILE_BYTES_MAX {
            return Err(format!("it has more than {FILE_BYTES_MAX} bytes"));
        }
        toml::from_str(&text).map_err(|error| error.to_string())
    }
}

#[derive(Debug, Default)]
struct Faults {
    wall_clock_offset_ms: AtomicI64,
    disk_is_full: AtomicBool,
}

impl Faults {
    fn set(&self, wrong: &Wrong) {
        self.wall_clock_offset_ms.store(wrong.wall_clock_offset_ms, Ordering::Relaxed);
        self.disk_is_full.store(wrong.disk_is_full, Ordering::Relaxed);
    }
}

/// The same machine with what the file says. Follows the file for as long as the process runs.
pub(super) fn with_test_faults(env: Env, path: PathBuf) -> Result<Env, String> {
    let told = |why: String| format!("test_faults_file: {}: {why}", path.display());
    let mut now = Wrong::read(&path).map_err(told)?;
    let faults = Arc::new(Faults::default());
    faults.set(&now);
    tracing::warn!(file = %path.display(), "the clock and the disk of this node are what a file says: it is for tests only");
    let followed = Arc::clone(&faults);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOOKED_AT_EVERY).await;
            // Whoever writes it may not be done.
            let Ok(wrong) = Wrong::read(&path) else { continue };
            if wrong != now {
                tracing::warn!(?wrong, "for a test");
                followed.set(&wrong);
                now = wrong;
            }
        }
    });
    Ok(Env {
        clock: Arc::new(WrongClock { clock: env.clock, faults: Arc::clone(&faults) }),
        disk: Arc::new(FullDisk { disk: env.disk, faults }),
        ..env
    })
}

struct WrongClock {
    clock: Arc<dyn Clock>,
    faults: Arc<Faults>,
}

impl Clock for WrongClock {
    fn boot_ms(&self) -> u64 {
        self.clock.boot_ms()
    }

    fn wall_ms(&self) -> u64 {
        let offset = self.faults.wall_clock_offset_ms.load(Ordering::Relaxed);
        self.clock.wall_ms().saturating_add_signed(offset)
    }
}

/// Has no room left, while it is to be full: as for a node that looks before it takes room, which it does.
#[derive(Debug)]
struct FullDisk {
    disk: Arc<dyn Disk>,
    faults: Arc<Faults>,
}

impl FullDisk {
    fn is_full(&self) -> bool {
        self.faults.disk_is_full.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Disk for FullDisk {
    async fn create_dir_all(&self, path: &str) -> io::Result<()> {
        self.disk.create_dir_all(path).await
    }

    async fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.disk.list(path).await
    }

    async fn open(&self, path: &str, mode: OpenMode) -> io::Result<Box<dyn File>> {
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
        // Less of it is given back; more there is not.
        let held = match self.disk.open(path, OpenMode::Read).await {
            Ok(file) => file.len().await?,
            Err(_) => 0,
        };
        if self.is_full() && bytes > held {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.disk.hold_space(path, bytes).await
    }

    async fn free_bytes(&self) -> io::Result<u64> {
        if self.is_full() { Ok(0) } else { self.disk.free_bytes().await }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_is_wrong() {
        let path = std::env::temp_dir().join(format!("tally-test-faults-{}", std::process::id()));
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Wrong::read(&path)
        };
        let ahead = Wrong { wall_clock_offset_ms: 3_600_000, disk_is_full: false };
        assert_eq!(read("wall_clock_offset_ms = 3_600_000"), Ok(ahead));
        let full = Wrong { wall_clock_offset_ms: -5, disk_is_full: true };
        assert_eq!(read("disk_is_full = true\nwall_clock_offset_ms = -5"), Ok(full));
        assert_eq!(read(""), Ok(Wrong::default()));
        assert!(read("disk_is_ful = true").unwrap_err().contains("disk_is_ful"));
        assert!(read(&" ".repeat(5000)).is_err());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(Wrong::read(&path), Ok(Wrong::default()));
    }

    #[tokio::test]
    async fn a_disk_that_is_full_gives_room_back_and_takes_none() {
        let disk = Arc::new(crate::storage::simulated_disk::SimulatedDisk::new(1));
        disk.set_capacity(Some(1 << 20));
        let faults = Arc::new(Faults::default());
        let full = FullDisk { disk, faults: Arc::clone(&faults) };
        full.hold_space("RESERVE", 1000).await.unwrap();
        assert!(full.free_bytes().await.unwrap() > 0);
        faults.set(&Wrong { disk_is_full: true, ..Wrong::default() });
        assert_eq!(full.free_bytes().await.unwrap(), 0);
        assert_eq!(
            full.hold_space("RESERVE", 1001).await.unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        full.hold_space("RESERVE", 500).await.unwrap();
        faults.set(&Wrong::default());
        full.hold_space("RESERVE", 1000).await.unwrap();
    }
}
