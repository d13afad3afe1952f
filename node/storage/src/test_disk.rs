//! The simulated disk of the tests of this directory, with a stop between any two steps of disk and
//! byte stores together.

use std::{
    future::Future,
    io,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{
    disk::{Disk, File, OpenMode},
    simulated_disk::SimulatedDisk,
    simulated_store::IoHook,
};

/// Counts the steps of disk and stores, and stops for good at one of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Steps(Arc<Mutex<StepsInner>>, Arc<Notify>);

#[derive(Debug, Default)]
struct StepsInner {
    taken: usize,
    stop_at: Option<usize>,
    fail_at: Option<usize>,
    log: Vec<&'static str>,
}

impl Steps {
    pub(super) fn stop_at(&self, step: Option<usize>) {
        *self.0.lock().unwrap() = StepsInner { stop_at: step, ..StepsInner::default() };
    }

    /// Runs a scenario to its end, or to the step where the world stands still.
    pub(super) async fn run(&self, scenario: impl Future<Output = ()>) {
        tokio::select! {
            () = scenario => {}
            () = self.1.notified() => {}
        }
    }

    pub(super) fn fail_at(&self, step: usize) {
        *self.0.lock().unwrap() = StepsInner { fail_at: Some(step), ..StepsInner::default() };
    }

    pub(super) fn log(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().log.clone()
    }

    pub(super) async fn step(&self, name: &'static str) -> io::Result<()> {
        let (stops, fails) = {
            let mut inner = self.0.lock().unwrap();
            let step = inner.taken;
            inner.taken += 1;
            inner.log.push(name);
            (inner.stop_at.is_some_and(|at| step >= at), inner.fail_at == Some(step))
        };
        if stops {
            self.1.notify_one();
            std::future::pending::<()>().await;
        }
        tokio::task::yield_now().await;
        match fails {
            true => Err(io::Error::other(format!("injected at {name}"))),
            false => Ok(()),
        }
    }

    pub(super) fn hook(&self) -> IoHook {
        let steps = self.clone();
        Arc::new(move |name| {
            let steps = steps.clone();
            Box::pin(async move { steps.step(name).await })
        })
    }
}

/// A [`SimulatedDisk`] whose every change is one of the [`Steps`].
#[derive(Debug, Clone)]
pub(super) struct TestDisk {
    disk: SimulatedDisk,
    steps: Steps,
}

impl TestDisk {
    pub(super) fn new(seed: u64, steps: Steps) -> Self {
        TestDisk { disk: SimulatedDisk::new(seed), steps }
    }

    /// For one life of the process: it fails after the next crash.
    pub(super) fn mount(&self) -> Self {
        TestDisk { disk: self.disk.mount(), steps: self.steps.clone() }
    }

    pub(super) fn crash(&self) {
        self.disk.crash();
    }

    /// Bit rot in a file.
    pub(super) fn flip_bit(&self, path: &str, bit: usize) {
        let flipped = self.disk.flip_bit(path, (bit / 8) as u64, (bit % 8) as u8);
        assert!(flipped, "{path} has no bit {bit}");
    }

    pub(super) fn read(&self, path: &str) -> Option<Vec<u8>> {
        self.disk.contents().remove(path)
    }

    /// Puts a durable file there, whatever was there before.
    pub(super) async fn write(&self, path: &str, bytes: &[u8]) {
        let _ = self.disk.remove_file(path).await;
        let mut file = self.disk.open(path, OpenMode::CreateNew).await.unwrap();
        file.write_at(0, bytes).await.unwrap();
        file.sync().await.unwrap();
        self.disk.sync_dir(path.rsplit_once('/').unwrap().0).await.unwrap();
    }

    /// The names of the files in a directory.
    pub(super) fn names(&self, directory: &str) -> Vec<String> {
        let prefix = format!("{directory}/");
        self.disk
            .contents()
            .into_keys()
            .filter_map(|path| path.strip_prefix(&prefix).map(Into::into))
            .collect()
    }
}

#[async_trait]
impl Disk for TestDisk {
    async fn create_dir_all(&self, path: &str) -> io::Result<()> {
        self.steps.step("mkdir").await?;
        self.disk.create_dir_all(path).await
    }

    async fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.disk.list(path).await
    }

    async fn open(&self, path: &str, mode: OpenMode) -> io::Result<Box<dyn File>> {
        if mode == OpenMode::CreateNew {
            self.steps.step("create file").await?;
        }
        let file = self.disk.open(path, mode).await?;
        Ok(Box::new(TestFile { file, steps: self.steps.clone() }))
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.steps.step("rename").await?;
        self.disk.rename(from, to).await
    }

    async fn remove_file(&self, path: &str) -> io::Result<()> {
        self.steps.step("remove file").await?;
        self.disk.remove_file(path).await
    }

    async fn remove_file_aside(&self, path: &str) -> io::Result<()> {
        self.steps.step("remove file").await?;
        self.disk.remove_file_aside(path).await
    }

    async fn remove_dir_all(&self, path: &str) -> io::Result<()> {
        self.steps.step("remove dir").await?;
        self.disk.remove_dir_all(path).await
    }

    async fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.steps.step("sync dir").await?;
        self.disk.sync_dir(path).await
    }

    async fn hold_space(&self, path: &str, bytes: u64) -> io::Result<()> {
        self.steps.step("hold space").await?;
        self.disk.hold_space(path, bytes).await
    }

    async fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes().await
    }
}

#[derive(Debug)]
struct TestFile {
    file: Box<dyn File>,
    steps: Steps,
}

#[async_trait]
impl File for TestFile {
    async fn len(&self) -> io::Result<u64> {
        self.file.len().await
    }

    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.file.read_at(offset, len).await
    }

    async fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.steps.step("write").await?;
        self.file.write_at(offset, bytes).await
    }

    async fn allocate(&mut self, len: u64) -> io::Result<()> {
        self.steps.step("allocate").await?;
        self.file.allocate(len).await
    }

    async fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.steps.step("truncate").await?;
        self.file.truncate(len).await
    }

    async fn sync(&mut self) -> io::Result<()> {
        self.steps.step("sync file").await?;
        self.file.sync().await
    }
}
