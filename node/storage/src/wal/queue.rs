//! What the handles and the writer share: the log in memory, and the bounded queue between them.
//!
//! One mutex guards both, so that what is asked for enters the memory and the queue in one order.
//! It is held for memory operations only, never across the disk or a callback.

use std::{
    collections::{BTreeMap, VecDeque},
    io, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::{Notify, watch};

use super::{
    frame::Salt,
    log::{Log, Place, after},
    types::{Ballot, Callback, Entry, LogId, SpaceState, WalOptions},
};
use crate::disk::Disk;

/// Something that the writer does.
pub(super) enum Task {
    /// Entries; `stamp` is the first one's.
    Append {
        entries: Vec<Entry>,
        stamp: u64,
    },
    Vote(Ballot),
    Truncate(Option<LogId>),
    Purge {
        upto: LogId,
        jump: bool,
    },
    /// Only the sync.
    Flush,
}

pub(super) struct Op {
    pub task: Task,
    /// End of the log after this.
    pub end: u64,
    pub done: Option<Callback>,
}

/// How far the log is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Synced {
    /// Entries below this index, and truncations before them.
    pub end: u64,
    /// No more will come.
    pub stopped: bool,
}

#[derive(Default)]
pub(super) struct State {
    pub log: Log,
    pub vote: Option<Ballot>,
    pub committed: Option<LogId>,
    /// The committed hint is newer than the one on disk.
    pub hint_waits: bool,
    pub salts: BTreeMap<u64, Salt>,
    ops: Vec<Op>,
    queued_bytes: usize,
    next_stamp: u64,
    /// Ops queued so far, and how many of them are durable.
    queued: u64,
    done: u64,
    /// Truncations that are not durable: the op's number and the end they leave.
    cuts: VecDeque<(u64, u64)>,
    pub stopped: Option<String>,
    pub closing: bool,
    /// The writer waits for work without a timer.
    writer_sleeps: bool,
    retry_space: bool,
}

pub(super) struct Shared {
    pub disk: Arc<dyn Disk>,
    pub options: WalOptions,
    state: Mutex<State>,
    /// Wakes the writer.
    pub work: Notify,
    /// Wakes appends that wait for the queue.
    room: Notify,
    pub synced: watch::Sender<Synced>,
    pub space: watch::Sender<SpaceState>,
    pub disk_bytes: AtomicU64,
    /// Highest term of a vote that is durable.
    pub saved_term: AtomicU64,
}

/// What the writer is to do now.
pub(super) enum Work {
    Batch,
    Close,
    RetrySpace,
    Nothing { hint_waits: bool },
}

/// The error of every call after the writer stopped.
fn stopped(why: &str) -> io::Error {
    io::Error::other(format!("the log has stopped: {why}"))
}

impl Shared {
    pub(super) fn new(disk: Arc<dyn Disk>, options: WalOptions, state: State) -> Arc<Shared> {
        let end = state.log.end();
        let saved_term = state.vote.map_or(0, |vote| vote.term);
        Arc::new(Shared {
            disk,
            options,
            state: Mutex::new(state),
            work: Notify::new(),
            room: Notify::new(),
            synced: watch::Sender::new(Synced { end, stopped: false }),
            space: watch::Sender::new(SpaceState::Ok),
            disk_bytes: AtomicU64::new(0),
            saved_term: AtomicU64::new(saved_term),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, while the log runs.
    pub(super) fn running(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        match &state.stopped {
            Some(why) => Err(stopped(why)),
            None if state.closing => Err(stopped("it was closed")),
            None => Ok(state),
        }
    }

    /// Waits until `bytes` more fit into the queue, then does `enter` under the lock.
    pub(super) async fn when_room<T>(
        &self,
        bytes: usize,
        enter: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            {
                let mut state = self.running()?;
                if state.queued_bytes == 0 || state.queued_bytes + bytes <= self.options.queue_bytes
                {
                    let entered = enter(&mut state)?;
                    state.queued_bytes += bytes;
                    drop(state);
                    self.work.notify_one();
                    return Ok(entered);
                }
                room.as_mut().enable();
            }
            room.await;
        }
    }

    /// Takes all that is queued, and the hint, into `ops` (which is empty).
    pub(super) fn take_work(&self, ops: &mut Vec<Op>, hint: &mut Option<Option<LogId>>) -> Work {
        let mut state = self.state();
        state.writer_sleeps = false;
        if !state.ops.is_empty() {
            mem::swap(ops, &mut state.ops);
            state.queued_bytes = 0;
            *hint = state.take_hint();
            drop(state);
            self.room.notify_waiters();
            return Work::Batch;
        }
        if state.closing {
            *hint = state.take_hint();
            return Work::Close;
        }
        if mem::take(&mut state.retry_space) {
            return Work::RetrySpace;
        }
        Work::Nothing { hint_waits: state.hint_waits }
    }

    /// Says that the writer will sleep until it is woken; false if there is something to do.
    pub(super) fn go_to_sleep(&self) -> bool {
        let mut state = self.state();
        state.writer_sleeps = state.ops.is_empty() && !state.closing && !state.hint_waits;
        state.writer_sleeps
    }

    /// Publishes what became durable; the callbacks are the caller's to complete.
    pub(super) fn publish(&self, ops: &[Op], placed: &mut Vec<(u64, u64, Place)>) {
        let mut state = self.state();
        for (index, stamp, place) in placed.drain(..) {
            state.log.place(index, stamp, place);
        }
        state.log.evict(self.options.cache_bytes);
        state.done += ops.len() as u64;
        let done = state.done;
        while state.cuts.front().is_some_and(|(op, _)| *op <= done) {
            state.cuts.pop_front();
        }
        if let Some(op) = ops.last() {
            // Entries that a queued truncation takes away don't count as durable any more.
            let cut = state.cuts.iter().map(|(_, end)| *end).min().unwrap_or(u64::MAX);
            self.synced.send_modify(|synced| synced.end = op.end.min(cut));
        }
    }

    /// Ends everything: nothing is completed after this.
    pub(super) fn stop(&self, why: &str) {
        let mut state = self.state();
        state.stopped.get_or_insert_with(|| why.to_owned());
        let dropped = mem::take(&mut state.ops);
        drop(state);
        // Their callbacks may hold anything: not under the lock.
        drop(dropped);
        self.synced.send_modify(|synced| synced.stopped = true);
        self.room.notify_waiters();
    }

    /// Lets the writer finish what is queued, and end.
    pub(super) fn close(&self) {
        self.state().closing = true;
        self.work.notify_one();
        self.room.notify_waiters();
    }

    /// Has the writer try again to get space.
    pub(super) fn retry_space(&self) {
        self.state().retry_space = true;
        self.work.notify_one();
    }

    pub(super) fn save_committed(&self, committed: Option<LogId>) -> io::Result<()> {
        let mut state = self.running()?;
        if state.committed == committed {
            return Ok(());
        }
        state.committed = committed;
        state.hint_waits = true;
        let wake = mem::take(&mut state.writer_sleeps);
        drop(state);
        // A busy writer finds it by itself.
        if wake {
            self.work.notify_one();
        }
        Ok(())
    }

    pub(super) fn set_disk_bytes(&self, bytes: u64) {
        self.disk_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn set_space(&self, space: SpaceState) {
        self.space.send_if_modified(|now| std::mem::replace(now, space) != space);
    }

    pub(super) fn synced_end(&self) -> u64 {
        self.synced.borrow().end
    }

    /// Takes entries that a truncation drops out of what counts as durable.
    pub(super) fn cut(&self, state: &mut State, keep: Option<LogId>) {
        let cut = (state.queued, after(keep));
        state.cuts.push_back(cut);
        self.synced.send_modify(|synced| synced.end = synced.end.min(cut.1));
    }
}

impl State {
    pub(super) fn new(
        log: Log,
        vote: Option<Ballot>,
        committed: Option<LogId>,
        salts: BTreeMap<u64, Salt>,
    ) -> State {
        State { log, vote, committed, salts, ..State::default() }
    }

    pub(super) fn queue(&mut self, task: Task, done: Option<Callback>) {
        self.queued += 1;
        let end = self.log.end();
        self.ops.push(Op { task, end, done });
    }

    pub(super) fn stamps(&mut self, count: usize) -> u64 {
        let first = self.next_stamp;
        self.next_stamp += count as u64;
        first
    }

    pub(super) fn take_hint(&mut self) -> Option<Option<LogId>> {
        mem::take(&mut self.hint_waits).then_some(self.committed)
    }
}
