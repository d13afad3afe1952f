//! The byte store on sled 1.0 alpha. No other file of the project sees sled.
//!
//! sled's `flush` is honest (it returns after fsync), and that is what makes it fit. The rest of
//! this file exists because of what was measured, or read in its source, around that:
//!
//! - **Creation is not durable by itself.** sled writes its settings file (`durability_cookie`) and
//!   its directories without fsync; a power cut then leaves a store that never opens again. So the
//!   whole tree and the parent directory are fsynced before a store is handed out.
//! - **Nothing may flush but us.** Durability has to be a prefix at the points that the layer above
//!   chooses. With `flush_every_ms(None)` sled flushes whenever *any* handle is dropped, and every
//!   iterator holds one: each scan would flush, in the reader's thread. With an interval set it
//!   leaves flushing to its own thread, so the interval is set to one that never passes.
//! - **Its durability is per flush, not per batch**: a flush makes one epoch durable, whole or not
//!   at all. As nothing else flushes, a batch may be applied in small pieces, and is: a sled batch
//!   keeps every leaf that it touches locked to its end, and readers would stand still for as long
//!   as 64 MiB take.
//! - **Deletes go one by one.** A sled batch never merges the leaves that it empties; a range that
//!   is filled and emptied for ever (remembered answers are) would grow the store for ever. `remove`
//!   merges. Its merge can deadlock against another writer; there is one writer thread.
//! - **After a failed flush the next one hangs for ever**, also the one in `Drop`. So the first error
//!   (or panic) poisons the store: nothing is called again and nothing is dropped; the process ends.
//! - **A damaged file may hang it**, make it panic, or fail a read much later. Opening runs in a
//!   thread of its own under a timeout, and reads everything once.
//! - A handle is `Send` and not `Sync`: readers borrow one each from a pool.

use std::{
    fmt, fs, io,
    mem::ManuallyDrop,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::byte_store::{ByteStore, Records, StoreFactory, Visit};

/// Records per leaf. Written into the store when it is created and can't change afterwards. Small
/// leaves keep writes to a store larger than its cache bearable (23k/s against 5k/s with sled's
/// default of 1024, measured) and readers' waits short.
const LEAF_FANOUT: usize = 128;

/// Records per sled batch: how long readers of the leaves in it wait.
const PIECE_RECORDS: usize = 256;

/// Idle handles kept for readers; more readers at once make handles of their own.
const READERS_IDLE_MAX: usize = 64;

/// Commands waiting for the writer thread. The layer above sends one at a time.
const COMMANDS_MAX: usize = 4;

type Db = sled::Db<LEAF_FANOUT>;

/// How sled is opened.
#[derive(Debug, Clone)]
pub struct SledOptions {
    /// Memory that sled aims at for its cache. It takes more than this: plan for three times the
    /// data, and set it to two to four times the data.
    pub cache_bytes: usize,
    /// How long opening may take before the directory counts as damaged. sled opens in a tenth of
    /// a second, but runs `sync` on the way, which waits for everybody's writes, and then all of it
    /// is read once: some seconds for each gigabyte.
    pub open_timeout: Duration,
}

impl Default for SledOptions {
    fn default() -> Self {
        SledOptions { cache_bytes: 512 << 20, open_timeout: Duration::from_secs(120) }
    }
}

/// Makes and opens sled stores below a data directory.
#[derive(Debug, Clone)]
pub struct SledFactory {
    root: PathBuf,
    options: SledOptions,
}

impl SledFactory {
    /// Stores below `root`, which is the node's data directory.
    pub fn new(root: PathBuf, options: SledOptions) -> Self {
        SledFactory { root, options }
    }

    async fn open_at(&self, path: &str) -> io::Result<Arc<dyn ByteStore>> {
        let directory = self.root.join(path);
        let options = self.options.clone();
        let opening = off_thread("sled-open", move || {
            let db = ManuallyDrop::new(open_durably(&directory, &options)?);
            read_all(&db)?;
            Ok(ManuallyDrop::into_inner(db))
        });
        let db = match tokio::time::timeout(self.options.open_timeout, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(damaged(format!(
                "sled did not open it within {} s, which it does on damaged files",
                self.options.open_timeout.as_secs()
            ))),
        };
        let db = db.map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", self.root.join(path).display()))
        })?;
        Ok(Arc::new(SledStore::start(db, self.root.join(path))?))
    }
}

#[async_trait]
impl StoreFactory for SledFactory {
    async fn create(&self, path: &str) -> io::Result<Arc<dyn ByteStore>> {
        let directory = self.root.join(path);
        off_thread("sled-create", move || fs::create_dir(&directory)).await?;
        self.open_at(path).await
    }

    async fn open(&self, path: &str) -> io::Result<Arc<dyn ByteStore>> {
        // sled would make a new, empty store here, which is a total loss that looks like success.
        if !self.root.join(path).join("durability_cookie").exists() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{}: there is no sled store here", self.root.join(path).display()),
            ));
        }
        self.open_at(path).await
    }

    async fn list(&self, parent: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join(parent))? {
            let entry = entry?;
            if entry.file_type()?.is_dir()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.root.join(from), self.root.join(to));
        off_thread("sled-rename", move || {
            if to.exists() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs::rename(&from, &to)?;
            sync_path(parent(&from)?)?;
            sync_path(parent(&to)?)
        })
        .await
    }

    async fn remove(&self, path: &str) -> io::Result<()> {
        let directory = self.root.join(path);
        off_thread("sled-remove", move || match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        })
        .await
    }
}

/// Opens (or fills an empty directory), and fsyncs everything that sled itself does not.
fn open_durably(directory: &Path, options: &SledOptions) -> io::Result<Db> {
    let cookie = directory.join("durability_cookie");
    // A power cut during the creation leaves it empty, and sled then refuses it. Nothing was
    // acknowledged before it was synced, so sled may write it again; the fan-out is a constant.
    if fs::metadata(&cookie).is_ok_and(|cookie| cookie.len() == 0) {
        fs::remove_file(&cookie)?;
    }
    let config = sled::Config::new()
        .path(directory)
        .cache_capacity_bytes(options.cache_bytes)
        .zstd_compression_level(1)
        // Never, and unlike `None` without a flush at the end of every iterator.
        .flush_every_ms(Some(usize::MAX));
    let db = no_panic(|| config.open::<LEAF_FANOUT>()).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => damaged(error.to_string()),
        _ => error,
    })?;
    sync_tree(directory)?;
    sync_path(parent(directory)?)?;
    Ok(db)
}

/// Damage in a leaf would otherwise be found by a reader some day, which ends the process, at every
/// start again. Found here, it makes the state be rebuilt. On the way it fills the cache.
fn read_all(db: &Db) -> io::Result<()> {
    for record in db.iter() {
        record.map_err(|error| damaged(format!("not all of it can be read: {error}")))?;
    }
    Ok(())
}

/// One open sled store: a pool of handles for readers, and a thread that writes.
struct SledStore {
    directory: PathBuf,
    readers: Arc<Readers>,
    commands: mpsc::Sender<Command>,
}

enum Command {
    Write(Arc<Records>, oneshot::Sender<io::Result<()>>),
    Flush(oneshot::Sender<io::Result<()>>),
    Close(oneshot::Sender<()>),
}

impl fmt::Debug for SledStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledStore").finish_non_exhaustive()
    }
}

impl SledStore {
    fn start(db: Db, directory: PathBuf) -> io::Result<Self> {
        let readers = Arc::new(Readers {
            idle: Mutex::new(vec![Box::new(ManuallyDrop::new(db.clone()))]),
            poisoned: AtomicBool::new(false),
        });
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let of_thread = readers.clone();
        thread::Builder::new()
            .name("sled-writer".into())
            .spawn(move || run_writer(ManuallyDrop::new(db), &of_thread, receiver))?;
        Ok(SledStore { directory, readers, commands })
    }

    async fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<io::Result<()>>) -> Command,
    ) -> io::Result<()> {
        let (answer, answered) = oneshot::channel();
        let gone = || io::Error::other("sled's writer thread has ended");
        self.commands.send(command(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

#[async_trait]
impl ByteStore for SledStore {
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.readers.with(|db| Ok(db.get(key)?.map(|value| Bytes::copy_from_slice(&value))))
    }

    fn scan(&self, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> io::Result<()> {
        if end.is_some_and(|end| end <= start) {
            return Ok(());
        }
        self.readers.with(|db| {
            let records = match end {
                Some(end) => db.range(start..end),
                None => db.range(start..),
            };
            for record in records {
                let (key, value) = record?;
                if let ControlFlow::Break(()) = visit(&key, &Bytes::copy_from_slice(&value)) {
                    break;
                }
            }
            Ok(())
        })
    }

    async fn write(&self, batch: Arc<Records>) -> io::Result<()> {
        self.ask(|answer| Command::Write(batch, answer)).await
    }

    async fn flush(&self) -> io::Result<()> {
        self.ask(Command::Flush).await
    }

    async fn close(&self) {
        let (answer, answered) = oneshot::channel();
        if self.commands.send(Command::Close(answer)).await.is_ok() {
            // An error means that the thread ended without closing: nothing left to wait for.
            let _ = answered.await;
        }
    }

    fn size_bytes(&self) -> io::Result<u64> {
        // Not sled's own count, which fails when a file goes while it looks: a flush removes files
        // of its own, and an install the whole directory. Neither is a failure of this store.
        tree_bytes(&self.directory)
    }
}

/// A handle. It is boxed, as a handle is some kilobytes that would be copied with every read, and it
/// is never dropped by accident: dropping the last one flushes.
type Handle = Box<ManuallyDrop<Db>>;

/// Handles for readers.
struct Readers {
    idle: Mutex<Vec<Handle>>,
    poisoned: AtomicBool,
}

impl Readers {
    fn with<T>(&self, read: impl FnOnce(&Db) -> io::Result<T>) -> io::Result<T> {
        self.check()?;
        let db = self.borrow()?;
        let result = no_panic(|| read(&db));
        if result.is_err() {
            self.poisoned.store(true, Ordering::SeqCst);
            return result;
        }
        let mut idle = self.idle.lock().expect("no panic while the pool is locked");
        if idle.len() < READERS_IDLE_MAX {
            idle.push(db);
        } else {
            drop(idle);
            // One of many handles: this neither flushes nor closes.
            drop(ManuallyDrop::into_inner(*db));
        }
        result
    }

    fn borrow(&self) -> io::Result<Handle> {
        let mut idle = self.idle.lock().expect("no panic while the pool is locked");
        match idle.len() {
            0 => Err(io::Error::other("the store is closed")),
            // The last one stays behind as the pattern for others.
            1 => Ok(idle[0].clone()),
            _ => Ok(idle.pop().expect("there are two")),
        }
    }

    fn check(&self) -> io::Result<()> {
        match self.poisoned.load(Ordering::SeqCst) {
            true => Err(io::Error::other("sled has failed before; nothing is known about it")),
            false => Ok(()),
        }
    }
}

fn run_writer(db: ManuallyDrop<Db>, readers: &Readers, mut commands: mpsc::Receiver<Command>) {
    let guarded = |step: &mut dyn FnMut() -> io::Result<()>| {
        readers.check()?;
        no_panic(step).inspect_err(|_| readers.poisoned.store(true, Ordering::SeqCst))
    };
    while let Some(command) = commands.blocking_recv() {
        match command {
            Command::Write(batch, answer) => {
                // Nobody waits any more if the caller was cancelled; the write counts all the same.
                let _ = answer.send(guarded(&mut || write_in_pieces(&db, &batch)));
            }
            Command::Flush(answer) => {
                let _ = answer.send(guarded(&mut || db.flush().map(drop)));
            }
            Command::Close(answer) => {
                if readers.check().is_ok() {
                    let mut idle = readers.idle.lock().expect("no panic while the pool is locked");
                    idle.drain(..).for_each(|db| drop(ManuallyDrop::into_inner(*db)));
                    drop(idle);
                    drop(ManuallyDrop::into_inner(db));
                }
                let _ = answer.send(());
                return;
            }
        }
    }
}

/// Atomic against a crash because no flush can come in between, see the module.
fn write_in_pieces(db: &Db, batch: &Records) -> io::Result<()> {
    let mut piece = sled::Batch::default();
    let mut in_piece = 0;
    for (key, value) in batch {
        let Some(value) = value.value() else { continue };
        piece.insert(key.as_ref(), value.as_ref());
        in_piece += 1;
        if in_piece == PIECE_RECORDS {
            db.apply_batch(std::mem::take(&mut piece))?;
            in_piece = 0;
        }
    }
    if in_piece > 0 {
        db.apply_batch(piece)?;
    }
    for (key, _) in batch.iter().filter(|(_, change)| change.value().is_none()) {
        db.remove(key)?;
    }
    Ok(())
}

/// Runs a piece of blocking work in a thread of its own; a panic in it is damage.
async fn off_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (answer, answered) = oneshot::channel();
    thread::Builder::new().name(name.into()).spawn(move || {
        // If the caller gave up, what was opened is forgotten, not dropped: dropping may hang.
        if let Err(unwanted) = answer.send(no_panic(work)) {
            std::mem::forget(unwanted);
        }
    })?;
    answered.await.map_err(|_| io::Error::other("the thread ended without an answer"))?
}

/// sled panics on some damage; that is an error of this store like any other.
fn no_panic<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(damaged(format!("sled panicked: {message}")))
    })
}

fn damaged(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

fn parent(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::other("a store has a parent directory"))
}

fn sync_path(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// Bytes of the files in a directory. What goes meanwhile does not count.
fn tree_bytes(directory: &Path) -> io::Result<u64> {
    let or_gone = |result: io::Result<u64>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        counted => counted,
    };
    or_gone(fs::read_dir(directory).and_then(|entries| {
        let mut bytes = 0;
        for entry in entries {
            let entry = entry?;
            bytes += or_gone(entry.metadata().and_then(|found| match found.is_dir() {
                true => tree_bytes(&entry.path()),
                false => Ok(found.len()),
            }))?;
        }
        Ok(bytes)
    }))
}

/// Fsyncs a directory with everything in it.
fn sync_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            sync_path(&entry.path())?;
        }
    }
    sync_path(directory)
}
