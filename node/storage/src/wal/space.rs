//! Space ahead of need: the next segment, and old ones to be used again.
//!
//! All that changes the directory happens here, while nothing depends on it yet: when the writer
//! moves into the prepared segment, its name, length and blocks are durable already, so the move
//! itself is a write like any other and can't meet a full disk.

use std::{io, sync::Arc};

use super::{segment, types::WalOptions};
use crate::disk::{Disk, File, OpenMode, is_exhausted, is_full};

/// Bytes allocated in one step, so that appends don't wait for a whole segment of zeros.
const SLICE_BYTES: u64 = 1 << 20;

/// A segment that can be begun.
#[derive(Debug)]
pub(super) struct Prepared {
    pub number: u64,
    pub file: Box<dyn File>,
    pub bytes: u64,
}

/// How far a step got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The next segment is there.
    Ready,
    /// More steps are needed.
    More,
    /// The disk is full, or there is no descriptor for a file.
    Full,
}

#[derive(Debug)]
pub(super) struct Space {
    disk: Arc<dyn Disk>,
    options: WalOptions,
    /// Number of the segment to prepare, which is the one after the writer's.
    next: u64,
    ready: Option<Prepared>,
    /// A new file, and how many bytes of it are allocated.
    partial: Option<(Box<dyn File>, u64)>,
    /// Numbers of old segments kept as spares.
    spares: Vec<u64>,
}

impl Space {
    pub(super) fn new(disk: Arc<dyn Disk>, options: WalOptions, next: u64) -> Space {
        Space { disk, options, next, ready: None, partial: None, spares: Vec::new() }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready.is_some()
    }

    /// Files held beside the segments in use.
    pub(super) fn held_bytes(&self) -> u64 {
        let spares = self.spares.len() as u64 * self.options.segment_bytes;
        let partial = self.partial.as_ref().map_or(0, |(_, bytes)| *bytes);
        spares + partial + self.ready.as_ref().map_or(0, |ready| ready.bytes)
    }

    /// Takes the prepared segment. The one after it may be prepared only once its header is synced:
    /// recovery concludes from a later file that this one had begun.
    pub(super) fn take(&mut self) -> Option<Prepared> {
        let ready = self.ready.take()?;
        self.next = ready.number + 1;
        Some(ready)
    }

    /// Does one step towards the next segment. An error is a failed write or sync.
    pub(super) async fn step(&mut self) -> io::Result<Progress> {
        if self.ready.is_some() {
            return Ok(Progress::Ready);
        }
        let done = match self.spares.last().copied() {
            Some(spare) => self.reuse(spare).await,
            None => self.allocate_slice().await,
        };
        match done {
            Err(error) if is_full(&error) || is_exhausted(&error) => Ok(Progress::Full),
            done => done,
        }
    }

    async fn reuse(&mut self, spare: u64) -> io::Result<Progress> {
        let directory = &self.options.directory;
        let path = segment::path(directory, self.next);
        let spare = segment::spare_path(directory, spare);
        // First what may find no descriptor: it has changed nothing then.
        let mut file = self.disk.open(&spare, OpenMode::ReadWrite).await?;
        self.disk.rename(&spare, &path).await?;
        self.spares.pop();
        // A file that was being allocated under that name has given way, with its space.
        self.partial = None;
        // The frames behind it may stay: they are of another salt.
        let blank = [0; segment::FRAMES_START as usize];
        file.write_at(0, &blank).await?;
        file.sync().await?;
        self.disk.sync_dir(directory).await?;
        let bytes = self.options.segment_bytes;
        self.ready = Some(Prepared { number: self.next, file, bytes });
        Ok(Progress::Ready)
    }

    async fn allocate_slice(&mut self) -> io::Result<Progress> {
        let path = segment::path(&self.options.directory, self.next);
        let (mut file, have) = match self.partial.take() {
            Some(partial) => partial,
            None => (self.disk.open(&path, OpenMode::CreateNew).await?, 0),
        };
        let want = (have + SLICE_BYTES).min(self.options.segment_bytes);
        let allocated = file.allocate(want).await;
        if let Err(error) = allocated {
            self.partial = Some((file, have));
            return Err(error);
        }
        file.sync().await?;
        if want < self.options.segment_bytes {
            self.partial = Some((file, want));
            return Ok(Progress::More);
        }
        self.disk.sync_dir(&self.options.directory).await?;
        self.ready = Some(Prepared { number: self.next, file, bytes: want });
        Ok(Progress::Ready)
    }

    /// Gives old segments (number and length) up: keeps some as spares, removes the others.
    ///
    /// A power cut in between may leave any of their names. That is harmless: whatever comes back
    /// lies before segments that hold a whole log without it.
    pub(super) async fn give_up(&mut self, old: &[(u64, u64)]) -> io::Result<()> {
        let directory = &self.options.directory;
        for (number, bytes) in old {
            let path = segment::path(directory, *number);
            let keep = *bytes == self.options.segment_bytes
                && self.spares.len() < self.options.spare_segments;
            if keep {
                self.disk.rename(&path, &segment::spare_path(directory, *number)).await?;
                self.spares.push(*number);
            } else {
                self.disk.remove_file(&path).await?;
            }
        }
        self.disk.sync_dir(directory).await
    }
}
