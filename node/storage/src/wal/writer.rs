//! The writer: the only one who writes to the log's files while it runs.

use std::{io, mem, sync::Arc, time::Duration};

use tally_seeded_bugs as seeded_bugs;
use tokio::time::{Instant, timeout};

use super::{
    frame::{self, frame_bytes},
    log::{Place, after},
    queue::{Op, Shared, State, Task, Work},
    record::{LogState, Record},
    recovery::Opened,
    segment::{self, FRAMES_START, InUse, SegmentHeader},
    slow::SlowSyncs,
    space::{Progress, Space},
    types::{Fatal, LogId, SpaceState, WalError, WalOptions, doing},
};
use crate::disk::{Disk, File};

/// A write or sync failed. What it says goes to `fatal`.
struct Failed(String);

/// The writing half of the log: [`WalWriter::run`] it.
pub struct WalWriter {
    shared: Arc<Shared>,
    fatal: Fatal,
    header: SegmentHeader,
    file: Box<dyn File>,
    /// Frames that are not written yet, and where in the file they go.
    buf: Vec<u8>,
    buf_at: u64,
    next_sequence: u64,
    /// Sequence of the last synced frame.
    synced: u64,
    /// Crc of the last frame.
    chain: u32,
    /// What the records so far lead to.
    state: LogState,
    /// Segments in use, ours last.
    in_use: Vec<InUse>,
    space: Space,
    /// When to try for space again, while there is none.
    retry_at: Option<Instant>,
    /// Synced frames that no frame speaks of yet.
    unsealed: bool,
    /// The buffer or the file has what a sync must cover before anything else is done.
    must_sync: bool,
    /// Purged, but the old segments are still there.
    reclaim: bool,
    placed: Vec<(u64, u64, Place)>,
    slow: SlowSyncs,
}

impl std::fmt::Debug for WalWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WalWriter")
            .field("segment", &self.header.number)
            .field("next_sequence", &self.next_sequence)
            .finish_non_exhaustive()
    }
}

impl Drop for WalWriter {
    fn drop(&mut self) {
        // Does nothing after a clean end; else whoever waits learns that no answer will come.
        if !self.shared.synced.borrow().stopped {
            self.shared.stop("its writer was dropped");
        }
    }
}

impl WalWriter {
    /// Takes over what recovery found, and begins the first segment of a new log.
    pub(super) async fn start(
        disk: Arc<dyn Disk>,
        options: WalOptions,
        opened: Opened,
        fatal: Fatal,
    ) -> Result<(Arc<Shared>, WalWriter), WalError> {
        let state = opened.state;
        let committed = opened.recovered().committed;
        let log = State::new(opened.log, state.vote, committed, opened.salts);
        let next = opened.header.number + 1;
        let space = Space::new(Arc::clone(&disk), options.clone(), next);
        let mut writer = WalWriter {
            shared: Shared::new(disk, options, log),
            fatal,
            header: opened.header,
            file: opened.file,
            buf: Vec::new(),
            buf_at: opened.offset,
            next_sequence: opened.next_sequence,
            synced: opened.next_sequence - 1,
            chain: opened.chain,
            state,
            in_use: opened.in_use,
            space,
            retry_at: None,
            unsealed: opened.next_sequence > 1,
            must_sync: false,
            reclaim: true,
            placed: Vec::new(),
            slow: SlowSyncs::default(),
        };
        let head = async {
            if writer.buf_at == FRAMES_START {
                writer.put(Record::State(writer.state));
                writer.flush_buf().await?;
                writer.sync().await?;
            }
            writer.give_up_old().await?;
            while writer.prepare().await? == Progress::More {}
            Ok(())
        }
        .await;
        let head = head.map_err(|Failed(why)| io::Error::other(why));
        doing(head, || "beginning the log".to_owned())?;
        Ok((Arc::clone(&writer.shared), writer))
    }

    /// Writes until the last handle is gone, [`super::Wal::close`] is called, or the disk fails.
    pub async fn run(mut self) {
        let ended = self.serve().await;
        match ended {
            Ok(()) => self.shared.synced.send_modify(|synced| synced.stopped = true),
            Err(Failed(why)) => {
                // First: nobody may be told anything once this is called.
                self.shared.stop(&why);
                (self.fatal)(why);
            }
        }
    }

    async fn serve(&mut self) -> Result<(), Failed> {
        let mut ops = Vec::new();
        let mut hint = None;
        loop {
            match self.shared.take_work(&mut ops, &mut hint) {
                Work::Batch => {
                    self.write_batch(&mut ops, hint.take()).await?;
                    if !self.space.is_ready() && self.retry_at.is_none_or(|at| at <= Instant::now())
                    {
                        self.prepare().await?;
                    }
                }
                Work::Close => return self.finish(hint.take()).await,
                Work::RetrySpace => drop(self.prepare().await?),
                Work::Nothing { hint_waits } => self.idle(hint_waits).await?,
            }
        }
    }

    /// Nothing is queued: gets space, seals, or sleeps.
    async fn idle(&mut self, hint_waits: bool) -> Result<(), Failed> {
        let now = Instant::now();
        let starved = !self.space.is_ready();
        if starved && self.retry_at.is_none_or(|at| at <= now) {
            self.prepare().await?;
            return Ok(());
        }
        let seal = (self.unsealed || hint_waits).then_some(self.shared.options.seal_after);
        let retry = self.retry_at.filter(|_| starved).map(|at| at - now);
        let shared = Arc::clone(&self.shared);
        let work = shared.work.notified();
        let Some(nap) = [seal, retry].into_iter().flatten().min() else {
            if shared.go_to_sleep() {
                work.await;
            }
            return Ok(());
        };
        let woken = nap > Duration::ZERO && timeout(nap, work).await.is_ok();
        if !woken && seal == Some(nap) {
            self.seal().await?;
        }
        Ok(())
    }

    /// Writes what makes the last sync known to a later recovery, and the hint if there is a new one.
    async fn seal(&mut self) -> Result<(), Failed> {
        // Any frame says what is durable, so the hint does for a seal.
        let hint = self.shared.state().take_hint();
        self.put_hint_or_seal(hint).await?;
        self.flush_buf().await?;
        self.unsealed = false;
        if self.must_sync {
            self.sync().await?;
        }
        Ok(())
    }

    async fn put_hint_or_seal(&mut self, hint: Option<Option<LogId>>) -> Result<(), Failed> {
        let record = hint.map_or(Record::Seal, Record::Committed);
        self.write(record).await?;
        Ok(())
    }

    async fn finish(&mut self, hint: Option<Option<LogId>>) -> Result<(), Failed> {
        if hint.is_some() || self.unsealed {
            self.put_hint_or_seal(hint).await?;
        }
        self.flush_buf().await?;
        self.sync().await
    }

    /// One write, one sync, then the callbacks.
    async fn write_batch(
        &mut self,
        ops: &mut Vec<Op>,
        hint: Option<Option<LogId>>,
    ) -> Result<(), Failed> {
        #[expect(
            clippy::needless_range_loop,
            reason = "holding the op across an await would make the future stay on one thread: its \
                      callback is not Sync"
        )]
        for at in 0..ops.len() {
            let task = &ops[at].task;
            self.write_task(task).await?;
        }
        // Behind the entries that it speaks of, so that it never stands without them.
        if let Some(hint) = hint {
            self.write(Record::Committed(hint)).await?;
        }
        if seeded_bugs::is_on("ack-before-fsync") {
            let appends = ops.iter_mut().filter(|op| matches!(op.task, Task::Append { .. }));
            appends.filter_map(|op| op.done.take()).for_each(|done| done(Ok(())));
        }
        self.flush_buf().await?;
        let unsynced = seeded_bugs::is_on("vote-without-fsync")
            && ops.iter().all(|op| matches!(op.task, Task::Vote(_)));
        if !unsynced {
            self.sync().await?;
        }
        let mut placed = mem::take(&mut self.placed);
        self.shared.publish(ops, &mut placed);
        self.placed = placed;
        for op in ops.drain(..) {
            if let Some(done) = op.done {
                done(Ok(()));
            }
        }
        if self.reclaim {
            self.give_up_old().await?;
        }
        Ok(())
    }

    async fn write_task(&mut self, task: &Task) -> Result<(), Failed> {
        match task {
            Task::Append { entries, stamp } => {
                for (n, entry) in entries.iter().enumerate() {
                    let record = Record::Entry(entry.log_id, entry.kind, &entry.payload);
                    let place = self.write(record).await?;
                    self.placed.push((entry.log_id.index, stamp + n as u64, place));
                }
            }
            Task::Vote(vote) => drop(self.write(Record::Vote(*vote)).await?),
            Task::Truncate(keep) => drop(self.write(Record::Truncate(*keep)).await?),
            Task::Purge { upto, jump } => {
                self.write(Record::Purge { upto: *upto, jump: *jump }).await?;
                self.reclaim = true;
            }
            Task::Flush => {}
        }
        Ok(())
    }

    /// Adds a record to the buffer, in the next segment if it does not fit into this one.
    async fn write(&mut self, record: Record<'_>) -> Result<Place, Failed> {
        let end = self.buf_at + (self.buf.len() + frame_bytes(record.bytes_max())) as u64;
        if end > self.header.bytes {
            self.next_segment().await?;
        }
        Ok(self.put(record))
    }

    fn put(&mut self, record: Record<'_>) -> Place {
        let start = self.buf.len();
        let offset = self.buf_at + start as u64;
        let links = (self.next_sequence, self.synced, self.chain);
        let salt = self.header.frame_salt();
        self.chain =
            frame::encode(&mut self.buf, salt, links, record.kind(), |buf| record.encode(buf));
        self.next_sequence += 1;
        self.note(&record);
        Place { segment: self.header.number, offset, bytes: (self.buf.len() - start) as u32 }
    }

    /// Keeps the state that the next segment's head will say.
    fn note(&mut self, record: &Record<'_>) {
        self.state.apply(record);
        if let (Record::Entry(id, ..), Some(segment)) = (record, self.in_use.last_mut()) {
            segment.end = segment.end.max(after(Some(*id)));
        }
    }

    /// Moves into the prepared segment. The one before is synced first: a segment's header says that
    /// everything before it is durable.
    async fn next_segment(&mut self) -> Result<(), Failed> {
        self.flush_buf().await?;
        if !seeded_bugs::is_on("segment-begun-too-early") {
            self.sync().await?;
        }
        let next = loop {
            if let Some(next) = self.space.take() {
                break next;
            }
            match self.prepare().await? {
                Progress::Ready | Progress::More => {}
                // Everything waits, and nothing is lost or acknowledged, until there is room.
                Progress::Full => {
                    let _ =
                        timeout(self.shared.options.space_retry, self.shared.work.notified()).await;
                }
            }
        };
        self.file = next.file;
        self.header = SegmentHeader {
            bytes: next.bytes,
            number: next.number,
            salt: segment::salt(self.shared.options.salt_seed, next.number),
            sequence: self.next_sequence,
            chain: self.chain,
            owner: self.shared.options.owner,
        };
        self.shared.state().salts.insert(next.number, self.header.frame_salt());
        self.in_use.push(InUse { number: next.number, bytes: next.bytes, end: 0 });
        self.buf_at = 0;
        self.header.encode(&mut self.buf);
        self.put(Record::State(self.state));
        self.must_sync = true;
        Ok(())
    }

    async fn flush_buf(&mut self) -> Result<(), Failed> {
        if self.buf.is_empty() {
            return Ok(());
        }
        let frames = self.buf.len() as u64;
        // Zeros where the next frame will begin: there a recycled segment still has old bytes, and
        // recovery would have to take them for a torn tail.
        let room = self.header.bytes - self.buf_at - frames;
        self.buf.resize(self.buf.len() + frame::HEADER_BYTES.min(room as usize), 0);
        let began = Instant::now();
        let written = self.file.write_at(self.buf_at, &self.buf).await;
        let meters = &self.shared.options.meters;
        meters.log_write.record(began.elapsed());
        meters.log_written_bytes.add(frames);
        self.check(written, "writing")?;
        self.buf_at += frames;
        self.buf.clear();
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), Failed> {
        let began = Instant::now();
        let synced = self.file.sync().await;
        self.shared.options.meters.log_sync.record(began.elapsed());
        self.slow.ended(began);
        if !seeded_bugs::is_on("sync-error-overlooked") {
            self.check(synced, "syncing")?;
        }
        self.synced = self.next_sequence - 1;
        self.unsealed = true;
        self.must_sync = false;
        Ok(())
    }

    fn check(&self, result: io::Result<()>, what: &str) -> Result<(), Failed> {
        result.map_err(|error| {
            let path = segment::path(&self.shared.options.directory, self.header.number);
            Failed(format!("{what} {path} failed: {error}"))
        })
    }

    /// One step towards the next segment, and what follows for the layers above.
    async fn prepare(&mut self) -> Result<Progress, Failed> {
        let progress = self.space.step().await;
        let progress =
            progress.map_err(|error| Failed(format!("preparing a log segment failed: {error}")))?;
        let options = &self.shared.options;
        self.retry_at = (progress == Progress::Full).then(|| Instant::now() + options.space_retry);
        match progress {
            Progress::Ready => self.shared.set_space(SpaceState::Ok),
            Progress::Full => self.shared.set_space(SpaceState::NearlyFull),
            Progress::More => {}
        }
        self.count_bytes();
        Ok(progress)
    }

    /// Gives up the oldest segments that hold no entry that is still needed.
    ///
    /// Called after the purge is durable; votes and all else in them are said again at the head of
    /// every later segment.
    async fn give_up_old(&mut self) -> Result<(), Failed> {
        self.reclaim = false;
        let purged = after(self.state.purged);
        let newest = self.in_use.len() - 1;
        let count = self.in_use[..newest].iter().take_while(|old| old.end <= purged).count();
        if count == 0 {
            return Ok(());
        }
        let old: Vec<(u64, u64)> =
            self.in_use.drain(..count).map(|old| (old.number, old.bytes)).collect();
        let given_up = self.space.give_up(&old).await;
        given_up.map_err(|error| Failed(format!("removing old log segments failed: {error}")))?;
        let mut state = self.shared.state();
        for (number, _) in old {
            state.salts.remove(&number);
        }
        drop(state);
        self.retry_at = None;
        self.count_bytes();
        Ok(())
    }

    fn count_bytes(&self) {
        let used: u64 = self.in_use.iter().map(|segment| segment.bytes).sum();
        self.shared.set_disk_bytes(used + self.space.held_bytes());
    }
}
