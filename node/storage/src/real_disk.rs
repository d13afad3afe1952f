//! The disk contract on real files.
//!
//! Every operation is a plain system call that runs to its end inside one poll: on a thread of the
//! caller's own that is the fastest way to a durable byte, and on a shared runtime the caller has
//! accepted that it blocks.
//!
//! What it promises beyond the contract: nothing. What it relies on: that `fdatasync` reaches stable
//! storage, on the file and on the directory, and that the device below does not lie about it.

use std::{
    fs, io,
    io::{Read as _, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use rustix::fs::{FallocateFlags, FlockOperation};

use super::disk::{Disk, File, OpenMode, is_exhausted, pause_without};

/// Bytes of zeros written at once while space is allocated.
const ZERO_BYTES: usize = 256 * 1024;

/// For so many bytes there is memory, whether they are there or not.
const READ_BYTES_TRUSTED: usize = 1 << 20;
static ZEROS: [u8; ZERO_BYTES] = [0; ZERO_BYTES];

/// How much of a large file is given back at once, and what others get in between. On ext4 with
/// `discard`, removing 300 MB held up an fdatasync of another file for 45 to 70 ms; in these pieces, for
/// less than 9. RocksDB's `SstFileManager` removes files in this way, too.
const REMOVED_AT_ONCE_BYTES: u64 = 1 << 20;
const PAUSE_BETWEEN_REMOVALS: Duration = Duration::from_millis(2);

/// Name of the lock file in the data directory.
const LOCK_FILE: &str = "LOCK";

/// One node's data directory.
#[derive(Debug, Clone)]
pub struct RealDisk {
    root: PathBuf,
}

/// Holds a data directory for one process until it is dropped (or the process ends, however it
/// ends: the kernel lets go of the lock then).
#[derive(Debug)]
pub struct DirLock {
    _file: fs::File,
}

impl RealDisk {
    /// Opens a data directory, and makes it durably where it is missing.
    pub fn new(root: PathBuf) -> io::Result<RealDisk> {
        create_dir_durably(&root).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", root.display()))
        })?;
        Ok(RealDisk { root })
    }

    /// Takes the data directory for this process, so that a second one started by mistake can't
    /// write into the same log.
    pub fn lock(&self) -> io::Result<DirLock> {
        let path = self.root.join(LOCK_FILE);
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder)?;
                return Err(io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    format!(
                        "the data directory {} is in use by another process (process id {}, from \
                         {}); stop that one, or give this node a directory of its own",
                        self.root.display(),
                        if holder.trim().is_empty() { "unknown" } else { holder.trim() },
                        path.display(),
                    ),
                ));
            }
            Err(error) => return Err(error.into()),
        }
        // Only the message above wants it: a full disk is no reason not to start.
        match file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
            written => written?,
        }
        Ok(DirLock { _file: file })
    }

    fn path(&self, path: &str) -> PathBuf {
        debug_assert!(
            Path::new(path)
                .components()
                .all(|part| matches!(part, std::path::Component::Normal(_))),
            "the path {path:?} leaves the data directory"
        );
        self.root.join(path)
    }
}

/// Makes a directory and those above it where they are missing, with entries that survive a power
/// cut: one whose own entry is lost takes everything in it along.
pub fn create_dir_durably(path: &Path) -> io::Result<()> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
    if let Some(present) = path.ancestors().nth(missing.len())
        && present.metadata().is_ok_and(|metadata| !metadata.is_dir())
    {
        let (at, kind) = (present.display(), io::ErrorKind::NotADirectory);
        let why = format!("{at} is a file, not a directory: move it away, or name another place");
        return Err(io::Error::new(kind, why));
    }
    fs::create_dir_all(path)?;
    for made in &missing {
        sync_directory(parent(made))?;
    }
    if missing.is_empty() {
        // It may have been made just now, by somebody who did not sync or was killed before he did.
        match sync_directory(parent(path)) {
            // Whoever may not even read the directory above did not make this one.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            synced => synced?,
        }
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        // The root is its own.
        None => path,
        _ => Path::new("."),
    }
}

fn remove_in_pieces(path: &Path) -> io::Result<()> {
    // One that can't be written to may still be removed.
    if let Ok(file) = fs::OpenOptions::new().write(true).open(path) {
        let metadata = file.metadata()?;
        // Under another name somebody else keeps it.
        let mut len = if metadata.nlink() == 1 { metadata.len() } else { 0 };
        while len > REMOVED_AT_ONCE_BYTES {
            len -= REMOVED_AT_ONCE_BYTES;
            file.set_len(len)?;
            #[expect(clippy::disallowed_methods, reason = "a simulation has no real files")]
            std::thread::sleep(PAUSE_BETWEEN_REMOVALS);
        }
    }
    fs::remove_file(path)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// Opens something as soon as there is a descriptor for it.
async fn opened<T>(path: &Path, mut open: impl FnMut() -> io::Result<T> + Send) -> io::Result<T> {
    let mut pauses = 0;
    loop {
        match open() {
            Err(error) if is_exhausted(&error) => {
                pause_without(&mut pauses, &path.display().to_string(), &error).await;
            }
            opened => return opened,
        }
    }
}

#[async_trait]
impl Disk for RealDisk {
    async fn create_dir_all(&self, path: &str) -> io::Result<()> {
        fs::create_dir_all(self.path(path))
    }

    async fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        let directory = self.path(path);
        for entry in opened(&directory, || fs::read_dir(&directory)).await? {
            let name = entry?.file_name();
            names.push(name.into_string().map_err(|name| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the file name {name:?} in {path:?} is not UTF-8"),
                )
            })?);
        }
        names.sort();
        Ok(names)
    }

    async fn open(&self, path: &str, mode: OpenMode) -> io::Result<Box<dyn File>> {
        // Nobody else's to read: what clients store, and a cluster's first token.
        let file = fs::OpenOptions::new()
            .read(true)
            .write(mode != OpenMode::Read)
            .create_new(mode == OpenMode::CreateNew)
            .mode(0o600)
            .open(self.path(path))?;
        Ok(Box::new(RealFile { file }))
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    async fn remove_file(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.path(path))
    }

    async fn remove_file_aside(&self, path: &str) -> io::Result<()> {
        let path = self.path(path);
        tokio::task::spawn_blocking(move || remove_in_pieces(&path))
            .await
            .map_err(io::Error::other)?
    }

    async fn remove_dir_all(&self, path: &str) -> io::Result<()> {
        match fs::remove_dir_all(self.path(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    async fn sync_dir(&self, path: &str) -> io::Result<()> {
        let path = self.path(path);
        let directory = opened(&path, || fs::File::open(&path)).await?;
        directory.sync_all()
    }

    async fn hold_space(&self, path: &str, bytes: u64) -> io::Result<()> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.path(path))?;
        let old = file.metadata()?.len();
        if bytes < old {
            return file.set_len(bytes);
        }
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                RealFile { file }.allocate(bytes).await
            }
            Err(error) => {
                let _ = file.set_len(old);
                Err(error.into())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn free_bytes(&self) -> io::Result<u64> {
        let space = rustix::fs::statvfs(&self.root)?;
        // f_bavail, not f_bfree: the blocks kept for root are not ours to count on.
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }
}

#[derive(Debug)]
struct RealFile {
    file: fs::File,
}

#[async_trait]
impl File for RealFile {
    async fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        // Lengths are read from files too: one that was damaged must not be believed further than there are
        // bytes.
        let len = if len > READ_BYTES_TRUSTED {
            let there = self.file.metadata()?.len().saturating_sub(offset);
            len.min(usize::try_from(there).unwrap_or(usize::MAX))
        } else {
            len
        };
        let mut bytes = vec![0; len];
        let mut filled = 0;
        while filled < len {
            match self.file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    async fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    async fn allocate(&mut self, len: u64) -> io::Result<()> {
        let old = self.file.metadata()?.len();
        if len <= old {
            return Ok(());
        }
        let fill = || -> io::Result<()> {
            match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), old, len - old) {
                // Where the file system can't allocate ahead, writing the zeros does it.
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
                Err(error) => return Err(error.into()),
            }
            // Allocated blocks are "unwritten" until something is written to them, and the first
            // write to each would change the file's metadata, which the next fdatasync then has to
            // journal. Zeros now keep that out of every append.
            let mut at = old;
            while at < len {
                let n = ZERO_BYTES.min((len - at) as usize);
                self.file.write_all_at(&ZEROS[..n], at)?;
                at += n as u64;
            }
            Ok(())
        };
        fill().inspect_err(|_| {
            // Gives back what was taken before the room ran out; if this fails too, the file is
            // only longer than it had to be.
            let _ = self.file.set_len(old);
        })
    }

    async fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    async fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    async fn sync_aside(&mut self) -> io::Result<()> {
        let file = self.file.try_clone()?;
        tokio::task::spawn_blocking(move || file.sync_data()).await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_the_place_of_a_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        for root in [file.clone(), file.join("a/b")] {
            let refused = RealDisk::new(root).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::NotADirectory);
            let told = format!("{} is a file, not a directory", file.display());
            assert!(refused.to_string().contains(&told), "{refused}");
        }
    }

    #[test]
    fn a_second_process_is_told_who_holds_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(dir.path().join("a/b")).unwrap();
        let held = disk.lock().unwrap();

        let refused = disk.lock().unwrap_err().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        assert!(refused.contains("a/b"), "{refused}");

        drop(held);
        disk.lock().unwrap();
    }
}
