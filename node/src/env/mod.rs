//! Everything that a node takes from outside: network, disk, clock, randomness, threads, and the
//! way to die.
//!
//! [`crate::node::Node::start`] gets one [`Env`] and nothing below it reaches for the operating
//! system by another way, so the same node runs on real sockets and files ([`Env::real`]) and,
//! unchanged, inside a deterministic simulation that brings its own.

use std::{
    collections::BTreeSet,
    fmt, io,
    net::IpAddr,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tally_proto::gathered::Gathered;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub mod descriptors;
pub mod identity;
pub mod shares;
pub mod spaced;
pub mod storage_guard;
pub mod traces;
pub mod usage;

use self::{descriptors::Sockets, traces::Traces, usage::Usage};
use crate::{
    machine::{command::Reply, version::FormatRange},
    storage::{
        byte_store::StoreFactory,
        disk::Disk,
        real_disk::RealDisk,
        sled_store::{SledFactory, SledOptions},
        wal::{Ballot, LogId},
    },
};

/// Exit code after a storage error, or a broken invariant: start again, the data is checked then.
pub const EXIT_FATAL: i32 = 70;

/// What a node needs from outside.
#[derive(Clone)]
pub struct Env {
    /// Sockets.
    pub network: Arc<dyn Network>,
    /// The data directory.
    pub disk: Arc<dyn Disk>,
    /// Opens the byte stores that hold the state machine.
    pub stores: Arc<dyn StoreFactory>,
    /// Clocks.
    pub clock: Arc<dyn Clock>,
    /// Randomness for ids.
    pub random: Arc<dyn Random>,
    /// Where the log writer and the state store's upkeep run.
    pub threads: Arc<dyn Threads>,
    /// Ends the node at once, without running another line of its code. Called when going on could
    /// break a promise: a failed fsync, a broken invariant of storage.
    pub fatal: Fatal,
    /// Told what happens to log and state. Nobody listens in production.
    pub observer: Option<Arc<dyn Observer>>,
    /// Where spans go of requests that are traced. Nowhere, unless it is configured.
    pub traces: Option<Arc<dyn Traces>>,
    /// What is known around the node, for a debug bundle.
    pub surroundings: Option<Arc<dyn Surroundings>>,
    /// What the process logs, if that can be changed while it runs.
    pub logs: Option<Arc<dyn Logs>>,
    /// Versions of the formats that the node reads and writes: those of this release. Tests and simulations play an
    /// older release with fewer.
    pub formats: FormatRange,
}

/// What a process knows that no node in it does.
pub trait Surroundings: Send + Sync + 'static {
    /// The last lines of its log, from the level info up.
    fn recent_log(&self) -> RecentLog;

    /// The program and the machine: a line of `name value` each.
    fn machine(&self) -> String;
}

/// The last lines of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecentLog {
    /// The lines.
    pub lines: String,
    /// Lines before them that are no longer kept.
    pub forgotten: u64,
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env").finish_non_exhaustive()
    }
}

/// Ends the node, saying why.
pub type Fatal = Arc<dyn Fn(String) + Send + Sync>;

/// Sees what each node does to its log and its state, so that a simulation can compare the nodes.
pub trait Observer: Send + Sync + 'static {
    /// Called where it happens, in its order.
    fn observe(&self, event: Event<'_>);
}

/// What an [`Observer`] sees.
#[derive(Debug)]
pub enum Event<'a> {
    /// The log was opened; so many bytes of a torn tail were cut off.
    LogOpened {
        /// Bytes that were zeroed.
        cut_bytes: u64,
        /// The vote in it.
        vote: Option<Ballot>,
        /// The last entry in it, or the last one purged from it.
        last: Option<LogId>,
    },
    /// An entry was found in the log when it was opened; told in the order of indexes.
    Found {
        /// Its term.
        term: u64,
        /// Its log index.
        index: u64,
        /// Its bytes.
        payload: &'a [u8],
    },
    /// A vote is on stable storage: from here on the node may tell it.
    VoteSaved(Ballot),
    /// An entry was handed to the log.
    Appended {
        /// Its term.
        term: u64,
        /// Its log index.
        index: u64,
        /// Its bytes.
        payload: &'a [u8],
        /// The voters that it names, if it changes them: one set, or two in joint consensus.
        voters: Option<&'a [BTreeSet<u64>]>,
    },
    /// An entry and all before it are on stable storage: from here on the node acknowledges it.
    AppendSynced {
        /// Its term.
        term: u64,
        /// Its log index.
        index: u64,
    },
    /// Entries behind an index were dropped from the log, as another leader has overruled them.
    Truncated {
        /// The last entry that stays; 0 if none does.
        keep: u64,
    },
    /// The log's entries up to an index are about to be given up.
    Purged {
        /// The last that goes.
        index: u64,
        /// The log does not hold that entry, so everything goes.
        jump: bool,
    },
    /// An entry was applied: it is committed.
    Applied {
        /// Its term.
        term: u64,
        /// Its log index.
        index: u64,
        /// What apply decided.
        replies: &'a [Reply],
    },
    /// A round that confirms who leads gave these reads their read index.
    ReadRound {
        /// Reads that waited for it.
        reads: usize,
        /// This node led.
        leading: bool,
    },
    /// A snapshot was built.
    SnapshotBuilt {
        /// The last entry in it.
        index: u64,
    },
    /// A snapshot is about to be sent: what follows it is not purged from the log until that ends.
    SnapshotSent {
        /// To this node.
        to: u64,
        /// The last entry in it.
        index: u64,
    },
    /// It was installed there, or not.
    SnapshotSentEnds {
        /// To this node.
        to: u64,
        /// The last entry in it.
        index: u64,
    },
    /// A snapshot of another node is about to replace the state.
    SnapshotReceived {
        /// The last entry in it.
        index: u64,
    },
    /// A snapshot of another node replaced the state.
    SnapshotInstalled {
        /// The last entry in it.
        index: u64,
    },
}

/// Sockets.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// Listens on an address.
    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>>;

    /// How many connections there may be.
    fn sockets(&self) -> Sockets {
        Sockets::MANY
    }

    /// Connects to an address.
    async fn connect(&self, address: &str) -> io::Result<Connection>;
}

/// Accepts connections.
#[async_trait]
pub trait Listener: Send + Sync + 'static {
    /// The next connection.
    async fn accept(&mut self) -> io::Result<Connection>;

    /// The address that is listened on, with the port that the system chose if it was asked to.
    fn local_address(&self) -> String;
}

/// A byte stream in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// One connection.
pub struct Connection {
    stream: Gathered<Box<dyn Stream>>,
    from: Option<IpAddr>,
}

impl Connection {
    /// Wraps a stream.
    pub fn new(stream: impl Stream) -> Self {
        Connection { stream: Gathered::new(Box::new(stream)), from: None }
    }

    /// Wraps a stream that was accepted, and notes from whose address: a client's share of what is
    /// limited goes by it.
    pub fn accepted(stream: impl Stream, from: IpAddr) -> Self {
        Connection { from: Some(from), ..Connection::new(stream) }
    }

    /// The stream below and who connected, for a layer between ([`Connection::again`]). Nothing may have been
    /// written that was not flushed.
    pub(crate) fn into_parts(self) -> (Box<dyn Stream>, Option<IpAddr>) {
        (self.stream.into_inner(), self.from)
    }

    /// A connection again, over what was put on top of its stream.
    pub(crate) fn again(stream: impl Stream, from: Option<IpAddr>) -> Self {
        Connection { from, ..Connection::new(stream) }
    }

    /// Who connected, if that is known.
    pub(crate) fn from(&self) -> Option<IpAddr> {
        self.from
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Clocks. Timers are tokio's.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since some fixed moment of this machine's boot; counts through suspend, never
    /// steps, and says nothing about another machine's.
    fn boot_ms(&self) -> u64;

    /// Wall clock in milliseconds since 1970, for display.
    fn wall_ms(&self) -> u64;
}

/// Randomness for ids.
pub trait Random: Send + Sync + 'static {
    /// 128 random bits.
    fn next_u128(&self) -> u128;

    /// 256 random bits: a secret.
    fn next_secret(&self) -> [u8; 32] {
        let mut secret = [0; 32];
        secret[..16].copy_from_slice(&self.next_u128().to_be_bytes());
        secret[16..].copy_from_slice(&self.next_u128().to_be_bytes());
        secret
    }
}

/// Which logs the process writes.
pub trait Logs: Send + Sync + 'static {
    /// A level, and levels of modules.
    fn filter(&self) -> String;

    /// Another one from now on, or what is wrong with it.
    fn set_filter(&self, filter: &str) -> Result<(), String>;
}

/// Where work goes that blocks.
pub trait Threads: Send + Sync + 'static {
    /// Runs a future that blocks on the disk inside its polls: on a thread of its own, or, in a
    /// simulation where the disk only takes simulated time, as a task.
    fn run_blocking(&self, name: &str, work: BoxFuture<'static, ()>);

    /// The process's id, for those who want to send it a signal; 0 where there is none.
    fn process_id(&self) -> u32;

    /// What the process uses of the machine; nothing where there is none.
    fn usage(&self) -> Option<Usage> {
        None
    }
}

impl Env {
    /// The real machine, with a data directory and a cache for the state machine.
    pub fn real(data_dir: &Path, cache_bytes: usize) -> io::Result<Env> {
        Ok(Env {
            network: Arc::new(RealNetwork),
            disk: Arc::new(RealDisk::new(data_dir.to_path_buf())?),
            stores: Arc::new(SledFactory::new(
                data_dir.to_path_buf(),
                SledOptions { cache_bytes, ..SledOptions::default() },
            )),
            clock: Arc::new(RealClock),
            random: Arc::new(RealRandom),
            threads: Arc::new(RealThreads),
            fatal: Arc::new(|reason| {
                tracing::error!(%reason, "ending the process: going on could break a promise");
                // No destructor runs: after a failed fsync nothing may be written again.
                std::process::exit(EXIT_FATAL)
            }),
            observer: None,
            traces: None,
            surroundings: None,
            logs: None,
            formats: FormatRange::OURS,
        })
    }
}

struct RealNetwork;

#[async_trait]
impl Network for RealNetwork {
    fn sockets(&self) -> Sockets {
        Sockets::of_this_process()
    }

    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(RealListener(tokio::net::TcpListener::bind(address).await?)))
    }

    async fn connect(&self, address: &str) -> io::Result<Connection> {
        let stream = tokio::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection::new(stream))
    }
}

struct RealListener(tokio::net::TcpListener);

#[async_trait]
impl Listener for RealListener {
    async fn accept(&mut self) -> io::Result<Connection> {
        let (stream, from) = self.0.accept().await?;
        stream.set_nodelay(true)?;
        Ok(Connection::accepted(stream, from.ip()))
    }

    fn local_address(&self) -> String {
        self.0.local_addr().map_or_else(|_| String::new(), |address| address.to_string())
    }
}

struct RealClock;

impl Clock for RealClock {
    fn boot_ms(&self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        now.tv_sec.cast_unsigned() * 1000 + now.tv_nsec.cast_unsigned() / 1_000_000
    }

    fn wall_ms(&self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        now.tv_sec.cast_unsigned() * 1000 + now.tv_nsec.cast_unsigned() / 1_000_000
    }
}

struct RealRandom;

impl Random for RealRandom {
    fn next_u128(&self) -> u128 {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the system's random numbers are available");
        u128::from_le_bytes(bytes)
    }
}

struct RealThreads;

impl Threads for RealThreads {
    fn run_blocking(&self, name: &str, work: BoxFuture<'static, ()>) {
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build()
                    .expect("a runtime without I/O needs nothing that could be missing")
                    .block_on(work);
            })
            .expect("a thread can be started while the node starts");
    }

    fn process_id(&self) -> u32 {
        std::process::id()
    }

    fn usage(&self) -> Option<Usage> {
        Some(Usage::of_this_process())
    }
}
