//! The contract of disks and files, over the disk in memory: what each operation does once the disk has
//! let it through.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use rand::Rng as _;

use super::{
    SimulatedDisk,
    content::Content,
    lock,
    state::{Fate, Node, State, Step, end, parent},
};
use crate::disk::{Disk, File, OpenMode};

/// `EIO`.
const EIO: i32 = 5;

fn error(kind: io::ErrorKind, path: &str) -> io::Error {
    io::Error::new(kind, format!("{kind}: {path}"))
}

#[async_trait]
impl Disk for SimulatedDisk {
    async fn create_dir_all(&self, path: &str) -> io::Result<()> {
        let (mut state, fate) = self.enter(self.mounted, Step::Name).await?;
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for part in ends.map(|at| &path[..at]).filter(|part| !part.is_empty()) {
            match state.names.get(part) {
                Some(Node::Directory) => {}
                Some(Node::File(_)) => return Err(error(io::ErrorKind::AlreadyExists, part)),
                None => state.set_name(part, Some(Node::Directory)),
            }
        }
        end(fate)
    }

    async fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let (state, _) = self.enter(self.mounted, Step::Read).await?;
        if !state.is_directory(path) {
            return Err(error(io::ErrorKind::NotFound, path));
        }
        let names = state.names.keys().filter(|name| parent(name) == path);
        Ok(names.map(|name| name.rsplit('/').next().unwrap_or(name).to_owned()).collect())
    }

    async fn open(&self, path: &str, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let create = mode == OpenMode::CreateNew;
        let step = if create { Step::Name } else { Step::Read };
        let (mut state, fate) = self.enter(self.mounted, step).await?;
        let content = match state.names.get(path) {
            Some(_) if create => return Err(error(io::ErrorKind::AlreadyExists, path)),
            Some(Node::Directory) => return Err(error(io::ErrorKind::IsADirectory, path)),
            Some(Node::File(content)) => Arc::clone(content),
            None if create && state.is_directory(parent(path)) => {
                let content = Arc::<Mutex<Content>>::default();
                state.set_name(path, Some(Node::File(Arc::clone(&content))));
                content
            }
            None => return Err(error(io::ErrorKind::NotFound, path)),
        };
        end(fate)?;
        Ok(Box::new(SimulatedFile {
            disk: self.clone(),
            epoch: state.counts.crashes,
            content,
            writable: mode != OpenMode::Read,
            of_log: is_of_log(path),
        }))
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (mut state, fate) = self.enter(self.mounted, Step::Name).await?;
        let Some(node @ Node::File(_)) = state.names.get(from).cloned() else {
            return Err(error(io::ErrorKind::NotFound, from));
        };
        if !state.is_directory(parent(to)) {
            return Err(error(io::ErrorKind::NotFound, to));
        }
        if matches!(state.names.get(to), Some(Node::Directory)) {
            return Err(error(io::ErrorKind::IsADirectory, to));
        }
        if from != to {
            state.set_name(to, Some(node));
            state.set_name(from, None);
        }
        end(fate)
    }

    async fn remove_file(&self, path: &str) -> io::Result<()> {
        let (mut state, fate) = self.enter(self.mounted, Step::Name).await?;
        if !matches!(state.names.get(path), Some(Node::File(_))) {
            return Err(error(io::ErrorKind::NotFound, path));
        }
        state.set_name(path, None);
        end(fate)
    }

    async fn remove_file_aside(&self, path: &str) -> io::Result<()> {
        let mut file = self.open(path, OpenMode::ReadWrite).await?;
        let len = file.len().await?;
        let left = self.state().rng.random_range(0..=len);
        file.truncate(left).await?;
        self.remove_file(path).await
    }

    async fn remove_dir_all(&self, path: &str) -> io::Result<()> {
        let (mut state, fate) = self.enter(self.mounted, Step::Name).await?;
        let below = format!("{path}/");
        let gone: Vec<String> = (state.names.keys())
            .filter(|name| *name == path || name.starts_with(&below))
            .cloned()
            .collect();
        for name in gone {
            state.set_name(&name, None);
        }
        end(fate)
    }

    async fn sync_dir(&self, path: &str) -> io::Result<()> {
        let (mut state, fate) = self.enter(self.mounted, Step::Sync).await?;
        if !state.is_directory(path) {
            return Err(error(io::ErrorKind::NotFound, path));
        }
        end(fate)?;
        if state.sync_fails(is_of_log(path)) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        state.sync_names(path);
        Ok(())
    }

    async fn hold_space(&self, path: &str, bytes: u64) -> io::Result<()> {
        if self.state().capacity.is_none() {
            // There is room without end, so what is held need not be there.
            return Ok(());
        }
        let opened = match self.open(path, OpenMode::ReadWrite).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.open(path, OpenMode::CreateNew).await
            }
            opened => opened,
        };
        let mut file = opened?;
        match bytes < file.len().await? {
            true => file.truncate(bytes).await,
            false => file.allocate(bytes).await,
        }
    }

    async fn free_bytes(&self) -> io::Result<u64> {
        let (state, _) = self.enter(self.mounted, Step::Read).await?;
        Ok(state.capacity.map_or(u64::MAX, |all| all.saturating_sub(state.used_bytes())))
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    epoch: u64,
    content: Arc<Mutex<Content>>,
    writable: bool,
    of_log: bool,
}

/// Whether a path is the log's directory or a file in it.
fn is_of_log(path: &str) -> bool {
    path == "wal" || path.starts_with("wal/")
}

impl SimulatedFile {
    /// A segment's first bytes, unless they only blank what was there.
    fn begins(&self, bytes: &[u8]) {
        let is_used = lock(&self.content).bytes.iter().any(|byte| *byte != 0);
        let mut state = self.disk.state();
        if is_used && bytes.iter().any(|byte| *byte != 0) && state.steps_left.is_none() {
            state.steps_left = state.steps_from_segment.take();
            state.at_segment = state.steps_left.is_some();
        }
    }

    async fn enter(&self, step: Step) -> io::Result<(MutexGuard<'_, State>, Fate)> {
        if step != Step::Read && !self.writable {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "opened for reading only"));
        }
        self.disk.enter(Some(self.epoch), step).await
    }
}

#[async_trait]
impl File for SimulatedFile {
    async fn len(&self) -> io::Result<u64> {
        let _entered = self.enter(Step::Read).await?;
        Ok(lock(&self.content).bytes.len() as u64)
    }

    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let (mut state, _) = self.enter(Step::Read).await?;
        if state.read_fails() {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let content = lock(&self.content);
        let start = (offset as usize).min(content.bytes.len());
        let end = start.saturating_add(len).min(content.bytes.len());
        Ok(content.bytes[start..end].to_vec())
    }

    async fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.of_log && offset == 0 {
            self.begins(bytes);
        }
        let (mut state, fate) = self.enter(Step::Write).await?;
        let grown =
            (offset + bytes.len() as u64).saturating_sub(lock(&self.content).bytes.len() as u64);
        state.check_room(grown)?;
        let fails = state.write_fails(self.of_log);
        // After a failed write nothing is known about the bytes: they may be there.
        if !fails || state.rng.random_bool(0.5) {
            lock(&self.content).write(offset as usize, bytes);
        }
        if fails {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        end(fate)
    }

    async fn allocate(&mut self, len: u64) -> io::Result<()> {
        let (mut state, fate) = self.enter(Step::Write).await?;
        let old = lock(&self.content).bytes.len() as u64;
        state.check_room(len.saturating_sub(old))?;
        if len > old {
            lock(&self.content).resize(len as usize);
        }
        end(fate)
    }

    async fn truncate(&mut self, len: u64) -> io::Result<()> {
        let (mut state, fate) = self.enter(Step::Write).await?;
        state.check_room(len.saturating_sub(lock(&self.content).bytes.len() as u64))?;
        lock(&self.content).resize(len as usize);
        end(fate)
    }

    async fn sync(&mut self) -> io::Result<()> {
        let (mut state, fate) = self.enter(Step::Sync).await?;
        end(fate)?;
        let mut content = lock(&self.content);
        if state.sync_fails(self.of_log) {
            content.fail_sync();
            return Err(io::Error::from_raw_os_error(EIO));
        }
        content.sync();
        Ok(())
    }
}
