//! The disk contract: the few file operations that the log, the snapshots and the small files need.
//!
//! Two things stand behind it: real files, and a simulated disk that loses, tears and refuses. The
//! write-ahead log and the snapshot code are written against this and run unchanged on both.
//!
//! What a crash (power cut) may do, and all that the code above may rely on:
//! - bytes written and not covered by a returned [`File::sync`] are kept, lost or torn at any
//!   512-byte sector, in any order;
//! - bytes covered by a returned `sync` stay. So does the length of the file;
//! - a created, renamed or removed directory entry is durable once [`Disk::sync_dir`] of its
//!   directory returned; before that it may be there or not, each entry for itself. A rename is
//!   atomic: the new name shows the old file or the new one, never a mixture;
//! - after a failed `write_at` or `sync` nothing is known about the bytes; the caller ends the
//!   process instead of trying again on the same file.
//!
//! The methods are async so that a simulation can take simulated time; on real files each runs to
//! its end inside one poll. Who calls them from a shared runtime accepts that, or uses a thread of
//! his own (the log writer does).
//!
//! Paths are relative to the node's data directory, with `/` between parts.

use std::{fmt::Debug, io, time::Duration};

use async_trait::async_trait;
use rustix::io::Errno;

/// How [`Disk::open`] opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Existing file, only read.
    Read,
    /// Existing file, read and written.
    ReadWrite,
    /// New file, read and written; an existing one is an error.
    CreateNew,
}

/// How long somebody waits who found no file descriptor.
const PAUSE_WITHOUT_DESCRIPTOR: Duration = Duration::from_millis(50);

/// … and how often he says so: about every ten seconds.
const PAUSES_UNTOLD: u32 = 200;

/// Whether the process or the machine has used up its file descriptors or its memory for them. A call
/// that fails so while it opens or makes something has done nothing, and may be made again later, as on
/// a full disk. It says nothing of the disk.
pub fn is_exhausted(error: &io::Error) -> bool {
    let used_up = [Errno::MFILE, Errno::NFILE, Errno::NOMEM].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|raw| used_up.contains(&raw))
}

/// Whether there is no room on the disk.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Opens a file as soon as there is a descriptor for it.
pub async fn open_patiently(
    disk: &dyn Disk,
    path: &str,
    mode: OpenMode,
) -> io::Result<Box<dyn File>> {
    let mut pauses = 0;
    loop {
        match disk.open(path, mode).await {
            Err(error) if is_exhausted(&error) => pause_without(&mut pauses, path, &error).await,
            opened => return opened,
        }
    }
}

/// Removes a file; a missing one is fine.
pub async fn remove_if_there(disk: &dyn Disk, path: &str) -> io::Result<()> {
    match disk.remove_file(path).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Gives a small file of a directory this content, by way of another name: after this returns a crash can't bring the
/// old content back, and a crash on the way leaves the old one or the new one.
pub async fn replace_file(
    disk: &dyn Disk,
    directory: &str,
    path: &str,
    by_way_of: &str,
    content: &[u8],
) -> io::Result<()> {
    remove_if_there(disk, by_way_of).await?;
    let mut file = open_patiently(disk, by_way_of, OpenMode::CreateNew).await?;
    file.write_at(0, content).await?;
    file.sync().await?;
    drop(file);
    disk.rename(by_way_of, path).await?;
    disk.sync_dir(directory).await
}

/// To be waited for before something is tried again that found no descriptor.
pub(super) async fn pause_without(pauses: &mut u32, path: &str, error: &io::Error) {
    if pauses.is_multiple_of(PAUSES_UNTOLD) {
        tracing::error!(path, %error, "a file can't be opened; it is tried again");
    }
    *pauses = pauses.wrapping_add(1);
    tokio::time::sleep(PAUSE_WITHOUT_DESCRIPTOR).await;
}

/// The files of one data directory.
#[async_trait]
pub trait Disk: Debug + Send + Sync + 'static {
    /// Makes a directory and those above it. The entries are durable after `sync_dir` of each
    /// parent.
    async fn create_dir_all(&self, path: &str) -> io::Result<()>;

    /// Names in a directory, sorted. A missing directory is `NotFound`.
    async fn list(&self, path: &str) -> io::Result<Vec<String>>;

    /// Opens a file. Where there is no descriptor for it (see [`is_exhausted`]) it has done nothing.
    async fn open(&self, path: &str, mode: OpenMode) -> io::Result<Box<dyn File>>;

    /// Renames a file over whatever has the new name.
    async fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    async fn remove_file(&self, path: &str) -> io::Result<()>;

    /// The same, piece by piece and without blocking the thread, as others' syncs may wait for a file
    /// system that gives back hundreds of megabytes. A crash may leave a shorter file. If the future is
    /// dropped it happens at any later time, so only for a name that is never used again.
    async fn remove_file_aside(&self, path: &str) -> io::Result<()>;

    /// Removes a directory with everything in it; a missing one is fine.
    async fn remove_dir_all(&self, path: &str) -> io::Result<()>;

    /// Makes the entries of a directory durable. `""` is the data directory itself. Waits for a
    /// descriptor if it needs one.
    async fn sync_dir(&self, path: &str) -> io::Result<()>;

    /// Holds so much space in a file whose bytes mean nothing, made where it is missing: the file is
    /// grown or cut, and never written. Where there is no room it fails with `StorageFull` and holds
    /// what it held before. A power cut may undo it.
    async fn hold_space(&self, path: &str, bytes: u64) -> io::Result<()>;

    /// Bytes that can still be written.
    async fn free_bytes(&self) -> io::Result<u64>;
}

/// One open file.
///
/// `Sync`, so that a future which reads through a shared handle may move between threads.
#[expect(clippy::len_without_is_empty, reason = "a length that fails is no container's length")]
#[async_trait]
pub trait File: Debug + Send + Sync + 'static {
    /// Its length in bytes.
    async fn len(&self) -> io::Result<u64>;

    /// Reads up to `len` bytes from `offset`; fewer only at the end of the file.
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>>;

    /// Writes all of `bytes` at `offset`, growing the file where needed.
    async fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Holds space for `len` bytes from the file's start, so that writing there can't meet a full
    /// disk; new bytes read as zero, and the file is at least `len` long afterwards. A `sync` makes
    /// the space and the length durable. Fails with `StorageFull` where there is no room, and has
    /// then changed nothing that matters; calling it again later is fine.
    async fn allocate(&mut self, len: u64) -> io::Result<()>;

    /// Cuts the file to `len` bytes.
    async fn truncate(&mut self, len: u64) -> io::Result<()>;

    /// Makes everything written so far durable (fdatasync). May block the thread meanwhile.
    async fn sync(&mut self) -> io::Result<()>;

    /// The same, without blocking the thread: for files that are written beside more urgent work.
    async fn sync_aside(&mut self) -> io::Result<()> {
        self.sync().await
    }
}
