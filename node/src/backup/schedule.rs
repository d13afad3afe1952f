//! Backups that this node makes by itself, into a directory or an object store: one each interval, of which the newest
//! are kept.
//!
//! Where they go is a [`Destination`], which gives a name only to what it has found right. Older ones are removed
//! behind a new one that is right, and never else. One that fails is tried again, later each time, for as long as the
//! node runs: a node that gave up would be one whose backups nobody misses until they are needed. While a backup is being
//! restored into the cluster none is made, as it would be one of a part of it; that ends, so it is not tried later each
//! time.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tally_proto::backup::Header;
use tokio::{sync::watch, time::Instant};

use super::{Maker, Part, names::Names};
use crate::{
    consensus::{Consensus, cluster_id::format_cluster_id, read::Level},
    env::Clock,
    machine::query,
};

/// How long a backup waits for a read index: without a quorum it is tried again later.
const ROUND_MAX: Duration = Duration::from_secs(10);

/// When one that failed is tried again, unless the interval is shorter; twice as late each time that it fails again …
const RETRY: Duration = Duration::from_secs(60);

/// … up to this. Whoever has mended what was wrong does not wait for longer.
const RETRY_MAX: Duration = Duration::from_secs(60 * 60);

/// Wall clocks jump: it is looked at least so often whether one is due.
const LOOK: Duration = Duration::from_secs(30);

/// Nodes that are started together make their first ones so far apart, as long as that is a part of their interval.
const APART: Duration = Duration::from_secs(60);

/// How often, and how many.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// From one to the next.
    pub interval: Duration,
    /// The newest of this cluster's that stay.
    pub kept: usize,
    /// This node.
    pub node_id: u64,
}

/// A backup that is whole and right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    pub name: String,
    pub header: Header,
    pub bytes: u64,
}

/// A backup that is being made.
#[async_trait]
pub(crate) trait Parts: Send {
    fn header(&self) -> &Header;

    /// How large it may become.
    fn about_bytes(&self) -> u64;

    /// The next bytes of it.
    async fn part(&mut self) -> Result<Part, String>;
}

/// Where backups come from.
#[async_trait]
pub(crate) trait Source: Send + Sync {
    /// Begins one that has all that was acknowledged before.
    async fn begin(&self) -> Result<Box<dyn Parts>, String>;

    /// There is none now because a backup is being restored.
    fn is_being_restored(&self) -> bool;
}

/// Where backups go.
#[async_trait]
pub(crate) trait Destination: Send + Sync {
    /// The newest of this cluster's that is there.
    async fn newest(&self, names: &Names) -> Result<Option<Made>, String>;

    /// Makes one, reads it again and finds it right, and only then gives it its name: whatever ends this in the middle,
    /// nothing bears a backup's name that is none.
    async fn make(&self, names: &Names, source: &dyn Source) -> Result<Made, String>;

    /// Removes this cluster's that are more than are kept, behind one that was just made.
    async fn remove_older(&self, names: &Names, kept: usize, made: &str) -> Result<(), String>;

    /// Where one is, for people.
    fn shown(&self, name: &str) -> String;
}

#[async_trait]
impl Source for Consensus {
    async fn begin(&self) -> Result<Box<dyn Parts>, String> {
        let until = Instant::now() + ROUND_MAX;
        let round = self.reads().permit(&Level::Linearizable, until).await;
        round.map(drop).map_err(|error| error.to_string())?;
        let index = self.state().applied().map_or(0, |applied| applied.index);
        let maker = Maker::open_patiently(self, index, std::future::pending()).await;
        let maker = maker.map_err(|error| error.to_string())?;
        Ok(Box::new(maker.ok_or_else(|| "the node is shutting down".to_owned())?))
    }

    fn is_being_restored(&self) -> bool {
        query::meta(&self.state().view()).restore.is_under_way()
    }
}

#[async_trait]
impl Parts for Maker {
    fn header(&self) -> &Header {
        &self.header
    }

    fn about_bytes(&self) -> u64 {
        self.records.info().size
    }

    async fn part(&mut self) -> Result<Part, String> {
        Maker::part(self).await.map_err(|error| error.to_string())
    }
}

/// What has become of it since the node started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// From one to the next, in ms.
    pub interval_ms: u64,
    /// When the newest was made, by its own header: also one from before this start. 0: there is none.
    pub last_wall_time_ms: u64,
    /// Its revision.
    pub last_revision: u64,
    /// Its size.
    pub last_bytes: u64,
    /// How many were made.
    pub made: u64,
    /// How many could not be.
    pub failed: u64,
    /// Why the last attempt failed; empty: it did not.
    pub error: String,
}

/// [`Counts`], for whoever asks.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<Counts>);

impl Told {
    /// As of now.
    pub(crate) fn counts(&self) -> Counts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Makes them until the node stops. Blocks its thread.
pub(crate) async fn run(
    settings: Settings,
    destination: Box<dyn Destination>,
    consensus: Consensus,
    told: Arc<Told>,
    mut stop: watch::Receiver<bool>,
) {
    let until_known = Instant::now() + Duration::from_secs(60 * 60 * 24 * 365);
    told.change(|counts| counts.interval_ms = settings.interval_ms());
    let cluster_id = tokio::select! {
        _ = stop.wait_for(|stop| *stop) => return,
        _ = consensus.cluster_id().wait(until_known) => consensus.cluster_id().get(),
    };
    let Some(cluster_id) = cluster_id else { return };
    let names = Names::new(&format_cluster_id(cluster_id), settings.node_id);
    let clock = Arc::clone(consensus.clock());
    let keeper = Keeper::new(settings, destination, names, clock, told);
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = keeper.keep(&consensus) => {}
    }
}

impl Settings {
    fn interval_ms(&self) -> u64 {
        u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Makes backups of one cluster.
pub(super) struct Keeper {
    settings: Settings,
    destination: Box<dyn Destination>,
    names: Names,
    clock: Arc<dyn Clock>,
    told: Arc<Told>,
    failed_in_a_row: u32,
    /// Whether it is known what was there before this start.
    has_looked: bool,
}

impl Keeper {
    pub(super) fn new(
        settings: Settings,
        destination: Box<dyn Destination>,
        names: Names,
        clock: Arc<dyn Clock>,
        told: Arc<Told>,
    ) -> Self {
        Self { settings, destination, names, clock, told, failed_in_a_row: 0, has_looked: false }
    }

    /// Does not end.
    pub(super) async fn keep(mut self, source: &dyn Source) {
        let mut due_ms = self.clock.wall_ms();
        loop {
            // A clock that was set back must not put it off for longer than an interval.
            let wait_ms = due_ms.saturating_sub(self.clock.wall_ms());
            let wait = Duration::from_millis(wait_ms.min(self.settings.interval_ms()));
            tokio::time::sleep(wait.min(LOOK)).await;
            if wait > LOOK {
                continue;
            }
            due_ms = match self.turn(source).await {
                Ok(due_ms) => {
                    self.failed_in_a_row = 0;
                    self.told.change(|counts| counts.error.clear());
                    due_ms
                }
                Err(problem) => {
                    tracing::error!(%problem, "a backup could not be made");
                    self.told.change(|counts| {
                        counts.failed += 1;
                        counts.error = problem;
                    });
                    self.failed_in_a_row = match source.is_being_restored() {
                        true => 1,
                        false => self.failed_in_a_row.saturating_add(1),
                    };
                    let retry = self.retry_after().as_millis() as u64;
                    self.clock.wall_ms().saturating_add(retry)
                }
            };
        }
    }

    /// Makes one, or looks what is there. When the next is due.
    async fn turn(&mut self, source: &dyn Source) -> Result<u64, String> {
        let interval_ms = self.settings.interval_ms();
        if !self.has_looked {
            let newest = self.destination.newest(&self.names).await?;
            self.has_looked = true;
            return Ok(match newest {
                Some(newest) => {
                    self.tell(&newest);
                    newest.header.wall_time_ms.saturating_add(interval_ms)
                }
                None => {
                    let place = u32::try_from(self.settings.node_id % 8).unwrap_or(0);
                    let apart = APART.min(self.settings.interval / 8) * place;
                    self.clock.wall_ms() + apart.as_millis() as u64
                }
            });
        }
        let made = self.destination.make(&self.names, source).await?;
        let file = self.destination.shown(&made.name);
        let (revision, bytes) = (made.header.revision, made.bytes);
        tracing::info!(%file, revision, bytes, "a backup was made");
        self.tell(&made);
        self.told.change(|counts| counts.made += 1);
        let due_ms = self.clock.wall_ms().saturating_add(interval_ms);
        let removed = self.destination.remove_older(&self.names, self.settings.kept, &made.name);
        // There are more than were asked for, and none too few.
        if let Err(problem) = removed.await {
            tracing::warn!(%problem, "old backups could not be removed");
        }
        Ok(due_ms)
    }

    fn tell(&self, newest: &Made) {
        self.told.change(|counts| {
            counts.last_wall_time_ms = newest.header.wall_time_ms;
            counts.last_revision = newest.header.revision;
            counts.last_bytes = newest.bytes;
        });
    }

    fn retry_after(&self) -> Duration {
        let doublings = self.failed_in_a_row.saturating_sub(1).min(16);
        RETRY.saturating_mul(1 << doublings).min(RETRY_MAX).min(self.settings.interval)
    }
}
