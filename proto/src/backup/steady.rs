use std::{
    fs::File,
    io::{self, Write as _},
};

/// So much is flushed at once: tens of milliseconds of a disk that is no better than it must be.
const FLUSH_BYTES: usize = 8 << 20;

/// A file that is flushed as it grows. A system that gathers hundreds of megabytes and flushes them at the end holds
/// up whoever wants something durable on that disk meanwhile, and where a backup is written that may well be a
/// node with its log.
#[derive(Debug)]
pub struct SteadyFile {
    file: File,
    unflushed: usize,
}

impl SteadyFile {
    /// Writes to the end of a file.
    pub fn new(file: File) -> SteadyFile {
        SteadyFile { file, unflushed: 0 }
    }

    /// Writes all of it, and flushes what has gathered if that is much.
    ///
    /// # Errors
    /// As the system says.
    pub fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        self.file.write_all(data)?;
        self.unflushed += data.len();
        if self.unflushed >= FLUSH_BYTES {
            self.file.sync_data()?;
            self.unflushed = 0;
        }
        Ok(())
    }

    /// Makes all of it durable, its size included. Its name is the caller's: a directory is flushed for that.
    ///
    /// # Errors
    /// As the system says.
    pub fn finish(self) -> io::Result<()> {
        self.file.sync_all()
    }
}
