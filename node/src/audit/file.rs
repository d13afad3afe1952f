//! The file: private, followed by its name, put aside when it is full.
//!
//! - **Followed**: before each write the name is looked at. If it leads to another file than the one that is open, or
//!   to none, as somebody has moved or removed it, the file is opened again. What was in hand is written there.
//! - **Put aside**: `audit.log` becomes `audit.log.1`, that `.2`, and so on; the last is removed. A line is never in
//!   two files.
//! - **One node's**: the file is locked. Two nodes with one file would put aside what the other writes.
//! - **Whole lines**: when a write fails half way, as on a full disk, the half is cut off again. Behind a half that was
//!   left all the same, by a power cut, the next line begins on a line of its own.

use std::{
    fs::{File, OpenOptions, Permissions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};

use super::{Settings, Sink};
use crate::env::spaced::Spaced;

/// A new file is its owner's alone.
const MODE: u32 = 0o600;

/// See the module's doc.
pub(super) struct FileSink {
    path: PathBuf,
    file_bytes: u64,
    files: usize,
    open: Option<Opened>,
    not_rotated: Spaced,
}

struct Opened {
    file: File,
    device: u64,
    inode: u64,
    size: u64,
    mode: u32,
}

impl FileSink {
    pub(super) fn new(settings: &Settings) -> FileSink {
        FileSink {
            path: settings.file.clone(),
            file_bytes: settings.file_bytes,
            files: settings.files,
            open: None,
            not_rotated: Spaced::default(),
        }
    }

    /// Opens the file, or makes it.
    pub(super) fn open(&mut self) -> io::Result<()> {
        self.open = None;
        self.open = Some(Opened::open(&self.path, None)?);
        Ok(())
    }

    /// The file that the name leads to.
    fn follow(&mut self) -> io::Result<&mut Opened> {
        let is_it = match (&mut self.open, std::fs::metadata(&self.path)) {
            (Some(open), Ok(found)) => {
                // Somebody else may have emptied it.
                open.size = found.len();
                (open.device, open.inode) == (found.dev(), found.ino())
            }
            _ => false,
        };
        if !is_it {
            self.open()?;
        }
        Ok(self.open.as_mut().expect("it was just opened"))
    }

    fn aside(&self, number: usize) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }

    /// Puts the file aside and begins another.
    fn rotate(&mut self) -> io::Result<()> {
        let mode = match &self.open {
            Some(open) => {
                open.file.sync_data()?;
                open.mode
            }
            None => MODE,
        };
        if self.files == 0 {
            std::fs::remove_file(&self.path)?;
        } else {
            for number in (1..self.files).rev() {
                rename_if_there(&self.aside(number), &self.aside(number + 1))?;
            }
            rename_if_there(&self.path, &self.aside(1))?;
        }
        // As many as there were when more were to be kept.
        let mut number = self.files + 1;
        while std::fs::remove_file(self.aside(number)).is_ok() {
            number += 1;
        }
        self.open = None;
        self.open = Some(Opened::open(&self.path, Some(mode))?);
        Ok(())
    }
}

impl Sink for FileSink {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let file_bytes = if self.file_bytes == 0 { u64::MAX } else { self.file_bytes };
        let size = self.follow()?.size;
        let line = line_end(lines, 0);
        let mut end = lines.len();
        if size > 0 && size.saturating_add(line as u64) > file_bytes {
            match self.rotate() {
                Ok(()) => {}
                Err(error) if self.open.is_some() => {
                    // A larger file is better than lines that are lost.
                    if let Some(times) = self.not_rotated.happened() {
                        tracing::error!(times, %error, "the audit log's file can't be put aside");
                    }
                    return self.follow()?.write(lines);
                }
                Err(error) => return Err(error),
            }
        }
        let open = self.follow()?;
        let room = file_bytes.saturating_sub(open.size);
        if (end as u64) > room {
            let room = usize::try_from(room).unwrap_or(usize::MAX).min(end);
            let fits = lines[..room].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            end = fits.max(line);
        }
        open.write(&lines[..end])
    }

    fn sync(&mut self) -> io::Result<()> {
        self.open.as_ref().map_or(Ok(()), |open| open.file.sync_data())
    }
}

impl Opened {
    fn open(path: &Path, mode: Option<u32>) -> io::Result<Opened> {
        let told =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        // Opening a pipe must not wait for its reader.
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(MODE)
            .custom_flags(flags.cast_signed())
            .open(path)
            .map_err(told)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(told(io::Error::new(ErrorKind::InvalidInput, "is not a regular file")));
        }
        // Two that put aside what the other writes would lose it. Where locks can't be had, nothing is said.
        if let Err(Errno::WOULDBLOCK) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            let error = "is written by another process; each node needs a file of its own";
            return Err(told(io::Error::new(ErrorKind::ResourceBusy, error)));
        }
        let mut size = found.len();
        if let Some(mode) = mode
            && size == 0
        {
            // As the one before, which somebody may have given to a group.
            file.set_permissions(Permissions::from_mode(mode)).map_err(told)?;
        }
        let mut last = [b'\n'];
        if size > 0 {
            file.read_exact_at(&mut last, size - 1).map_err(told)?;
        }
        if last != *b"\n" {
            file.write_all(b"\n").map_err(told)?;
            size += 1;
        }
        let mode = file.metadata()?.mode() & 0o777;
        Ok(Opened { file, device: found.dev(), inode: found.ino(), size, mode })
    }

    /// Writes whole lines, as many as go in.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        let error = loop {
            match self.file.write(&lines[written..]) {
                Ok(0) => break io::Error::from(ErrorKind::WriteZero),
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break error,
            }
            if written == lines.len() {
                self.size += written as u64;
                return Ok(written);
            }
        };
        let whole = lines[..written].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.size += whole as u64;
        if whole < written {
            self.file.set_len(self.size)?;
        }
        // What is wrong is met again with the next line.
        if whole > 0 { Ok(whole) } else { Err(error) }
    }
}

/// Where the line that begins here ends.
fn line_end(lines: &[u8], begin: usize) -> usize {
    lines[begin..].iter().position(|byte| *byte == b'\n').map_or(lines.len(), |at| begin + at + 1)
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
