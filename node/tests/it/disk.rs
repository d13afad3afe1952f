//! A disk that can pretend how much of it is free.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use tally_node::storage::disk::{Disk, File, OpenMode};

/// The real disk but for [`Disk::free_bytes`].
#[derive(Debug)]
pub(crate) struct GaugedDisk {
    pub(crate) real: Arc<dyn Disk>,
    /// What to say; `None` for the truth.
    pub(crate) free: Arc<Mutex<Option<u64>>>,
}

#[async_trait::async_trait]
impl Disk for GaugedDisk {
    async fn create_dir_all(&self, path: &str) -> io::Result<()> {
        self.real.create_dir_all(path).await
    }

    async fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.real.list(path).await
    }

    async fn open(&self, path: &str, mode: OpenMode) -> io::Result<Box<dyn File>> {
        self.real.open(path, mode).await
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.real.rename(from, to).await
    }

    async fn remove_file(&self, path: &str) -> io::Result<()> {
        self.real.remove_file(path).await
    }

    async fn remove_file_aside(&self, path: &str) -> io::Result<()> {
        self.real.remove_file_aside(path).await
    }

    async fn remove_dir_all(&self, path: &str) -> io::Result<()> {
        self.real.remove_dir_all(path).await
    }

    async fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.real.sync_dir(path).await
    }

    async fn hold_space(&self, path: &str, bytes: u64) -> io::Result<()> {
        self.real.hold_space(path, bytes).await
    }

    async fn free_bytes(&self) -> io::Result<u64> {
        let pretended = *self.free.lock().unwrap_or_else(PoisonError::into_inner);
        match pretended {
            Some(free) => Ok(free),
            None => self.real.free_bytes().await,
        }
    }
}
