//! The handle: what the rest of the node does with the log.

use std::{
    fmt, io,
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use tokio::sync::{oneshot, watch};

use super::{
    frame,
    log::{Found, Place, Slot, after},
    queue::{Shared, Task},
    record, recovery, segment,
    types::{Ballot, Callback, Entry, Fatal, LogId, Recovered, SpaceState, WalError, WalOptions},
    writer::WalWriter,
};
use crate::{
    disk::{Disk, OpenMode, open_patiently},
    meters::StorageMeters,
};

/// Bytes read at once from a segment.
const READ_BYTES_MAX: u64 = 1 << 20;

/// A handle to the log; clones are handles to the same log. When the last is dropped the writer
/// finishes what is queued and ends.
#[derive(Clone)]
pub struct Wal {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal")
            .field("purged", &self.purged())
            .field("last", &self.last())
            .field("synced_index", &self.synced_index())
            .finish_non_exhaustive()
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

impl Wal {
    /// Opens the log, or begins one. What it found is durable when this returns.
    ///
    /// Nothing is written until the returned writer runs. `fatal` is called once if a write or sync
    /// fails, then or later; nothing is acknowledged after that.
    pub async fn open(
        disk: Arc<dyn Disk>,
        options: WalOptions,
        fatal: Fatal,
    ) -> Result<(Wal, WalWriter, Recovered), WalError> {
        let opened = recovery::open(&disk, &options).await?;
        let recovered = opened.recovered();
        let (shared, writer) = WalWriter::start(disk, options, opened, fatal).await?;
        Ok((Wal { inner: Arc::new(Inner { shared }) }, writer, recovered))
    }

    /// Adds entries, which are readable when this returns, and durable when `on_durable` is called.
    ///
    /// Waits only where the queue is full. The first entry follows the last one of the log (0 in an
    /// empty one), and terms do not fall; anything else is `InvalidInput`, changes nothing and drops
    /// the callback.
    pub async fn append(&self, entries: Vec<Entry>, on_durable: Callback) -> io::Result<()> {
        let shared = &self.inner.shared;
        let bytes = entries.iter().map(|entry| entry.payload.len()).sum();
        let longest = entries.iter().map(|entry| entry.payload.len()).max().unwrap_or(0);
        let limit = shared.options.payload_bytes_max();
        if longest > limit {
            return Err(invalid(format!("an entry of {longest} bytes; at most {limit} fit")));
        }
        shared
            .when_room(bytes, |state| {
                check_order(state.log.last, &entries)?;
                let stamp = state.stamps(entries.len());
                for (n, entry) in entries.iter().enumerate() {
                    let cached = Some((entry.kind, entry.payload.clone()));
                    let stamp = stamp + n as u64;
                    let slot = Slot { term: entry.log_id.term, stamp, place: None, cached };
                    state.log.push(entry.log_id, slot);
                }
                state.queue(Task::Append { entries, stamp }, Some(on_durable));
                Ok(())
            })
            .await
    }

    /// Saves the vote; it is durable when this returns. Its term must not fall.
    pub async fn save_vote(&self, ballot: Ballot) -> io::Result<()> {
        let (done, wait) = completion();
        self.inner
            .shared
            .when_room(0, |state| {
                if let Some(now) = state.vote.filter(|now| now.term > ballot.term) {
                    return Err(invalid(format!("a vote in term {} after {now:?}", ballot.term)));
                }
                state.vote = Some(ballot);
                state.queue(Task::Vote(ballot), Some(done));
                Ok(())
            })
            .await?;
        durable(wait).await?;
        self.inner.shared.saved_term.fetch_max(ballot.term, Ordering::AcqRel);
        Ok(())
    }

    /// Keeps a hint of what is committed. It reaches the disk behind everything asked for before it,
    /// with the next write or soon after, without a sync of its own.
    pub fn save_committed(&self, committed: Option<LogId>) -> io::Result<()> {
        self.inner.shared.save_committed(committed)
    }

    /// Drops the entries behind `keep`. They are gone for readers when this returns, and for good
    /// when anything asked for later is durable (or after [`Wal::flush`]).
    pub async fn truncate_after(&self, keep: Option<LogId>) -> io::Result<()> {
        let shared = &self.inner.shared;
        shared
            .when_room(0, |state| {
                if after(keep) < after(state.log.purged) {
                    let purged = state.log.purged;
                    return Err(invalid(format!("truncation to {keep:?}, purged to {purged:?}")));
                }
                if after(keep) >= state.log.end() {
                    return Ok(());
                }
                let known = keep.and_then(|id| state.log.log_id(id.index));
                if keep != known {
                    return Err(invalid(format!("truncation to {keep:?}, the log has {known:?}")));
                }
                state.log.truncate(keep);
                state.queue(Task::Truncate(keep), None);
                shared.cut(state, keep);
                Ok(())
            })
            .await
    }

    /// Drops the entries up to and with `upto`. Segments that hold nothing else are used again or
    /// removed once this is durable; [`Wal::flush`] waits for that.
    ///
    /// If the log ends before `upto`, or has another entry there, all of it is dropped and it goes
    /// on at the index after `upto`.
    pub async fn purge(&self, upto: LogId) -> io::Result<()> {
        let shared = &self.inner.shared;
        shared
            .when_room(0, |state| {
                if after(Some(upto)) <= after(state.log.purged) {
                    return Ok(());
                }
                let jump = state.log.log_id(upto.index) != Some(upto);
                state.log.purge(upto, jump);
                state.queue(Task::Purge { upto, jump }, None);
                if jump {
                    shared.cut(state, Some(upto));
                }
                Ok(())
            })
            .await
    }

    /// Index of the entry to purge up to so that `bytes` of segments stay, in whole ones: at least the
    /// one that is written. None where there are no more.
    pub fn index_behind(&self, bytes: u64) -> Option<u64> {
        let shared = &self.inner.shared;
        let segments = (bytes / shared.options.segment_bytes).max(1);
        let state = shared.state();
        let (newest, _) = state.salts.last_key_value()?;
        state.log.last_before((newest + 1).checked_sub(segments)?)
    }

    /// Returns when all that was asked for before is durable.
    pub async fn flush(&self) -> io::Result<()> {
        let (done, wait) = completion();
        self.inner
            .shared
            .when_room(0, |state| {
                state.queue(Task::Flush, Some(done));
                Ok(())
            })
            .await?;
        durable(wait).await
    }

    /// Reads entries of a range of indexes, clipped to what the log has: as many as `bytes_max`
    /// bytes allow, and at least one if there is any.
    ///
    /// `InvalidData` says that an entry's bytes on disk have changed.
    pub async fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let found = self.inner.shared.state().log.find(range, bytes_max);
        let mut entries = Vec::with_capacity(found.len());
        let mut at = 0;
        while let Some(next) = found.get(at) {
            match next {
                Found::Cached(entry) => {
                    entries.push(entry.clone());
                    at += 1;
                }
                Found::OnDisk(..) => {
                    let run = run_on_disk(&found[at..]);
                    at += run.len();
                    if self.read_run(&run, &mut entries).await? {
                        continue;
                    }
                    if run[0].0.index >= self.first_index() {
                        // Truncated while it was read, with all that was found behind it.
                        break;
                    }
                    // Purged while it was read: what was asked for begins behind it now.
                    entries.clear();
                }
            }
        }
        Ok(entries)
    }

    /// Reads entries that lie near each other in one segment. False if they went away meanwhile.
    async fn read_run(&self, run: &[(LogId, Place)], entries: &mut Vec<Entry>) -> io::Result<bool> {
        let shared = &self.inner.shared;
        let (Some((_, first)), Some((id, last))) = (run.first(), run.last()) else {
            return Ok(true);
        };
        let path = segment::path(&shared.options.directory, first.segment);
        let gone = || !shared.state().log.is_at(run[0].0.index, *first);
        let salt = shared.state().salts.get(&first.segment).copied();
        let bytes = async {
            let file = open_patiently(shared.disk.as_ref(), &path, OpenMode::Read).await?;
            let len = last.offset + u64::from(last.bytes) - first.offset;
            file.read_at(first.offset, len as usize).await
        }
        .await;
        let (salt, bytes) = match (salt, bytes) {
            (Some(salt), Ok(bytes)) => (salt, bytes),
            _ if gone() => return Ok(false),
            (_, Err(error)) => return Err(error),
            (None, _) => unreachable!("entry {id} is in segment {}, unknown", first.segment),
        };
        for (id, place) in run {
            let from = (place.offset - first.offset) as usize;
            let entry = bytes
                .get(from..from + place.bytes as usize)
                .and_then(|bytes| frame::decode(bytes, salt))
                .and_then(|(header, payload)| record::entry(header.kind, payload));
            match entry {
                Some((found, kind, payload)) if found == *id => {
                    entries.push(Entry { log_id: *id, kind, payload });
                }
                _ if gone() => return Ok(false),
                _ => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("entry {id} at byte {} of {path} is damaged", place.offset),
                    ));
                }
            }
        }
        Ok(true)
    }

    /// The id of the entry at an index, or of the last purged one.
    pub fn log_id(&self, index: u64) -> Option<LogId> {
        self.inner.shared.state().log.log_id(index)
    }

    /// The last purged entry.
    pub fn purged(&self) -> Option<LogId> {
        self.inner.shared.state().log.purged
    }

    /// Index of the first entry, or of the one to come.
    pub fn first_index(&self) -> u64 {
        after(self.purged())
    }

    /// The last entry, or the last purged one where there is none.
    pub fn last(&self) -> Option<LogId> {
        self.inner.shared.state().log.last
    }

    /// The highest term of a vote that is durable.
    pub fn saved_term(&self) -> u64 {
        self.inner.shared.saved_term.load(Ordering::Acquire)
    }

    /// The last vote asked for.
    pub fn vote(&self) -> Option<Ballot> {
        self.inner.shared.state().vote
    }

    /// The last committed hint asked for.
    pub fn committed(&self) -> Option<LogId> {
        self.inner.shared.state().committed
    }

    /// All entries up to this one, and every truncation before them, are durable.
    pub fn synced_index(&self) -> Option<u64> {
        self.inner.shared.synced_end().checked_sub(1)
    }

    /// Returns when [`Wal::synced_index`] has reached `index`. A flush of the state machine waits
    /// here, so that it is never ahead of its own log.
    pub async fn wait_synced(&self, index: u64) -> io::Result<()> {
        let mut synced = self.inner.shared.synced.subscribe();
        let reached = synced
            .wait_for(|synced| synced.end > index || synced.stopped)
            .await
            .map_err(io::Error::other)?
            .end;
        if reached > index {
            return Ok(());
        }
        Err(io::Error::other(format!("the log stopped before entry {index} was durable")))
    }

    /// What it counts.
    pub fn meters(&self) -> &Arc<StorageMeters> {
        &self.inner.shared.options.meters
    }

    /// Bytes that the segments take on disk, those held ahead of need included.
    pub fn disk_bytes(&self) -> u64 {
        self.inner.shared.disk_bytes.load(Ordering::Relaxed)
    }

    /// Whether there is room to go on; see [`SpaceState`].
    pub fn space(&self) -> watch::Receiver<SpaceState> {
        self.inner.shared.space.subscribe()
    }

    /// Has the writer try for space now instead of at its next time.
    pub fn retry_space(&self) {
        self.inner.shared.retry_space();
    }

    /// Finishes what is queued, syncs, and ends the writer. Later calls fail.
    pub async fn close(&self) -> io::Result<()> {
        let shared = &self.inner.shared;
        shared.close();
        let mut synced = shared.synced.subscribe();
        synced.wait_for(|synced| synced.stopped).await.map_err(io::Error::other)?;
        match &shared.state().stopped {
            Some(why) => Err(io::Error::other(why.clone())),
            None => Ok(()),
        }
    }
}

fn check_order(last: Option<LogId>, entries: &[Entry]) -> io::Result<()> {
    let mut last = last;
    for entry in entries {
        let id = entry.log_id;
        if id.index != after(last) || last.is_some_and(|last| last.term > id.term) {
            return Err(invalid(format!("entry {id} can't follow {last:?}")));
        }
        last = Some(id);
    }
    Ok(())
}

/// The places at the start of `found` that one read of one segment covers.
fn run_on_disk(found: &[Found]) -> Vec<(LogId, Place)> {
    let mut run: Vec<(LogId, Place)> = Vec::new();
    for one in found {
        let Found::OnDisk(id, place) = one else { break };
        if let Some((_, first)) = run.first() {
            let bytes = (place.offset + u64::from(place.bytes)).checked_sub(first.offset);
            if place.segment != first.segment || bytes.is_none_or(|bytes| bytes > READ_BYTES_MAX) {
                break;
            }
        }
        run.push((*id, *place));
    }
    run
}

fn completion() -> (Callback, oneshot::Receiver<io::Result<()>>) {
    let (done, wait) = oneshot::channel();
    (Box::new(move |result| drop(done.send(result))), wait)
}

async fn durable(wait: oneshot::Receiver<io::Result<()>>) -> io::Result<()> {
    wait.await.unwrap_or_else(|_| Err(io::Error::other("the log stopped before this was durable")))
}
