//! Backups that this node makes by itself, into a directory: one each interval, of which the newest are kept.
//!
//! A file gets its name when it is whole: it is written beside it, synced, read again from the disk and found right. So
//! whatever ends this in the middle leaves what was there before, and something called `.partial` that the next one
//! replaces. Older ones are removed behind a new one that is right, and never else.
//!
//! Leaves out: where else copies are kept. A directory on the node's own disk is lost with it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tally_proto::backup::{Footer, Header, Reader};
use tokio::{sync::watch, time::Instant};

use super::Maker;
use crate::consensus::{Consensus, cluster_id::format_cluster_id, read::Level};

/// How long a backup waits for a read index: without a quorum it is tried again later.
const ROUND_MAX: Duration = Duration::from_secs(10);

/// When one that failed is tried again, unless the interval is shorter.
const RETRY: Duration = Duration::from_secs(60);

/// Wall clocks jump: it is looked at least so often whether one is due.
const LOOK: Duration = Duration::from_secs(30);

/// Nodes that are started together make their first ones so far apart, as long as that is a part of their interval.
const APART: Duration = Duration::from_secs(60);

/// Where to, how often, and how many.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Made if it is missing, for its owner alone.
    pub directory: PathBuf,
    /// From one to the next.
    pub interval: Duration,
    /// The newest of this cluster's that stay.
    pub kept: usize,
    /// This node.
    pub node_id: u64,
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

/// A backup on the disk.
struct Made {
    path: PathBuf,
    header: Header,
    bytes: u64,
}

/// Makes them until the node stops. Blocks its thread.
pub(crate) async fn run(
    settings: Settings,
    consensus: Consensus,
    told: Arc<Told>,
    mut stop: watch::Receiver<bool>,
) {
    let interval_ms = u64::try_from(settings.interval.as_millis()).unwrap_or(u64::MAX);
    told.change(|counts| counts.interval_ms = interval_ms);
    let until_known = Instant::now() + Duration::from_secs(60 * 60 * 24 * 365);
    let cluster_id = tokio::select! {
        _ = stop.wait_for(|stop| *stop) => return,
        _ = consensus.cluster_id().wait(until_known) => consensus.cluster_id().get(),
    };
    let Some(cluster_id) = cluster_id else { return };
    let cluster = format_cluster_id(cluster_id);
    let apart = APART.min(settings.interval / 8) * u32::try_from(settings.node_id % 8).unwrap_or(0);
    let mut due_ms = consensus.clock().wall_ms() + apart.as_millis() as u64;
    if let Some(newest) = newest(&settings.directory, &cluster) {
        let Made { header, bytes, .. } = newest;
        due_ms = header.wall_time_ms.saturating_add(interval_ms);
        told.change(|counts| {
            counts.last_wall_time_ms = header.wall_time_ms;
            counts.last_revision = header.revision;
            counts.last_bytes = bytes;
        });
    }
    loop {
        // A clock that was set back must not put it off for longer than an interval.
        let now_ms = consensus.clock().wall_ms();
        let wait = Duration::from_millis(due_ms.saturating_sub(now_ms).min(interval_ms));
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(wait.min(LOOK)) => {}
        }
        if wait > LOOK {
            continue;
        }
        let made = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            made = make(&settings.directory, &cluster, &consensus) => made,
        };
        let now_ms = consensus.clock().wall_ms();
        match made {
            Ok(Made { path, header, bytes }) => {
                let (file, revision) = (path.display(), header.revision);
                tracing::info!(%file, revision, bytes, "a backup was made");
                due_ms = now_ms + interval_ms;
                told.change(|counts| {
                    counts.last_wall_time_ms = header.wall_time_ms;
                    counts.last_revision = header.revision;
                    counts.last_bytes = bytes;
                    counts.made += 1;
                    counts.error.clear();
                });
                remove_older(&settings, &cluster);
            }
            Err(problem) => {
                tracing::error!(%problem, "a backup could not be made");
                due_ms = now_ms + RETRY.min(settings.interval).as_millis() as u64;
                told.change(|counts| {
                    counts.failed += 1;
                    counts.error = problem;
                });
            }
        }
    }
}

/// Makes one, and gives it its name.
async fn make(directory: &Path, cluster: &str, consensus: &Consensus) -> Result<Made, String> {
    let round = consensus.reads().permit(&Level::Linearizable, Instant::now() + ROUND_MAX).await;
    round.map(drop).map_err(|error| error.to_string())?;
    let index = consensus.state().applied().map_or(0, |applied| applied.index);
    let partial = directory.join(format!("tally-{}.partial", &cluster[..8]));
    let at = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| format!("{path}: {error}")
    };
    let mut file = begin(directory, &partial).map_err(at(&partial))?;
    let never = std::future::pending();
    let maker = Maker::open_patiently(consensus, index, never).await;
    let mut maker = maker
        .map_err(|error| error.to_string())?
        .ok_or_else(|| "the node is shutting down".to_owned())?;
    let footer = loop {
        let part = maker.part().await.map_err(|error| error.to_string())?;
        file.write_all(&part.data).map_err(at(&partial))?;
        if let Some(footer) = part.footer {
            break footer;
        }
        // Whoever stops the node is not to wait for it.
        tokio::task::yield_now().await;
    };
    file.sync_all().map_err(at(&partial))?;
    drop(file);
    let (header, found, bytes) = read(&partial)?;
    if (&header, found) != (&maker.header, footer) {
        return Err(format!("{}: it is not what was written", partial.display()));
    }
    let path = directory.join(name(cluster, &header));
    fs::rename(&partial, &path).map_err(at(&path))?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(at(directory))?;
    Ok(Made { path, header, bytes })
}

fn begin(directory: &Path, partial: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    match fs::remove_file(partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(partial)
}

/// Reads a backup whole.
fn read(path: &Path) -> Result<(Header, Footer, u64), String> {
    let all = || {
        let (mut file, mut reader) = (File::open(path)?, Reader::new());
        while reader.next_block_of(&mut file)?.is_some() {}
        let bytes = reader.bytes();
        let (header, footer) = reader.finish()?;
        Ok((header, footer, bytes))
    };
    all().map_err(|error: io::Error| format!("{}: {error}", path.display()))
}

/// `tally-42251adc-r00000000000000001234-20261129T1113Z.backup`. In the order of names they are in that of revisions,
/// which grow with a cluster, whatever its clocks say.
fn name(cluster: &str, header: &Header) -> String {
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    let date = tally_certificates::date(header.wall_time_ms);
    let (day, minute) = date.split_once(' ').unwrap_or((&date, ""));
    let (day, minute) = (digits(day), digits(minute));
    format!("{}{:020}-{day}T{minute}Z.backup", begins(cluster), header.revision)
}

fn begins(cluster: &str) -> String {
    format!("tally-{}-r", &cluster[..8])
}

/// This cluster's, the newest first.
fn all(directory: &Path, cluster: &str) -> Vec<PathBuf> {
    let begins = begins(cluster);
    let is_one = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(&begins) && name.ends_with(".backup")
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_one).collect();
    paths.sort();
    paths.reverse();
    paths
}

/// The newest that is right.
fn newest(directory: &Path, cluster: &str) -> Option<Made> {
    all(directory, cluster).into_iter().find_map(|path| match read(&path) {
        Ok((header, _, bytes)) => Some(Made { path, header, bytes }),
        Err(problem) => {
            tracing::error!(%problem, "a backup is not right any more");
            None
        }
    })
}

fn remove_older(settings: &Settings, cluster: &str) {
    for path in all(&settings.directory, cluster).into_iter().skip(settings.kept) {
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(file = %path.display(), %error, "an old backup could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "42251adc3323cb936f6b4c9d1eaf8bc9";

    #[test]
    fn names_are_in_the_order_of_revisions() {
        let name = |revision, wall_time_ms| {
            name(CLUSTER, &Header { revision, wall_time_ms, ..Header::default() })
        };
        let first = name(1234, 1_790_000_061_000);
        assert_eq!(first, "tally-42251adc-r00000000000000001234-20260921T1414Z.backup");
        // Its clock was set back.
        assert!(name(1235, 1_690_000_061_000) > first);
    }

    #[test]
    fn the_newest_of_this_cluster_stay_and_nothing_else_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| fs::write(dir.path().join(name), "x").unwrap();
        for revision in 1..=5 {
            file(&name(CLUSTER, &Header { revision, ..Header::default() }));
        }
        let others = ["tally-00000000-r1.backup", "tally-42251adc.partial", "notes"];
        others.into_iter().for_each(file);
        let settings = Settings {
            directory: dir.path().to_owned(),
            interval: Duration::from_secs(1),
            kept: 2,
            node_id: 1,
        };
        remove_older(&settings, CLUSTER);
        let left = all(dir.path(), CLUSTER);
        assert_eq!(left.len(), 2);
        assert!(left[0].to_str().unwrap().contains("-r00000000000000000005-"), "{left:?}");
        assert!(others.iter().all(|other| dir.path().join(other).exists()));
        assert!(newest(dir.path(), CLUSTER).is_none(), "none of them is right");
    }
}
