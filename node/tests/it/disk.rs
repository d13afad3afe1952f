//! A disk that can pretend how much of it is free, and hold up whoever wants something durable.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use tally_node::storage::disk::{Disk, File, OpenMode};
use tokio::sync::watch;

/// The real disk but for [`Disk::free_bytes`] and, while the gate is shut, [`File::sync`].
#[derive(Debug)]
pub(crate) struct GaugedDisk {
    pub(crate) real: Arc<dyn Disk>,
    /// What to say; `None` for the truth.
    pub(crate) free: Arc<Mutex<Option<u64>>>,
    pub(crate) syncs: Gate,
}

/// Open, or shut until the test opens it: what waits behind it waits for an event, however fast the
/// machine is.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    is_open: watch::Sender<bool>,
    shuts_with: Arc<Mutex<Option<String>>>,
}

impl Default for Gate {
    fn default() -> Self {
        Gate { is_open: watch::Sender::new(true), shuts_with: Arc::default() }
    }
}

impl Gate {
    pub(crate) fn shut(&self) {
        self.is_open.send_replace(false);
    }

    /// Shuts as soon as a file of this name is made, or one whose name begins with what stands before a `*`; before anything
    /// is done with it.
    pub(crate) fn shut_with(&self, name: &str) {
        *self.shuts_with.lock().unwrap_or_else(PoisonError::into_inner) = Some(name.to_owned());
    }

    pub(crate) fn is_shut(&self) -> bool {
        !*self.is_open.borrow()
    }

    fn opened(&self, name: &str) {
        let mut shuts_with = self.shuts_with.lock().unwrap_or_else(PoisonError::into_inner);
        let is_awaited = |awaited: &str| match awaited.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == awaited,
        };
        if shuts_with.take_if(|awaited| is_awaited(awaited)).is_some() {
            self.shut();
        }
    }

    pub(crate) fn open(&self) {
        self.is_open.send_replace(true);
    }

    async fn pass(&self) {
        let open = self.is_open.subscribe().wait_for(|is_open| *is_open).await.map(|_| ());
        open.expect("the gate lives as long as whoever waits at it");
    }
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
        if matches!(mode, OpenMode::CreateNew) {
            self.syncs.opened(path);
        }
        let real = self.real.open(path, mode).await?;
        Ok(Box::new(GaugedFile { real, syncs: self.syncs.clone() }))
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

#[derive(Debug)]
struct GaugedFile {
    real: Box<dyn File>,
    syncs: Gate,
}

#[async_trait::async_trait]
impl File for GaugedFile {
    async fn len(&self) -> io::Result<u64> {
        self.real.len().await
    }

    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.real.read_at(offset, len).await
    }

    async fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.real.write_at(offset, bytes).await
    }

    async fn allocate(&mut self, len: u64) -> io::Result<()> {
        self.real.allocate(len).await
    }

    async fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.real.truncate(len).await
    }

    async fn sync(&mut self) -> io::Result<()> {
        self.syncs.pass().await;
        self.real.sync().await
    }

    async fn sync_aside(&mut self) -> io::Result<()> {
        self.real.sync_aside().await
    }
}
