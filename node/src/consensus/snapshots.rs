//! When a node builds a snapshot: each time that the log has grown by so many bytes or entries since the
//! last one. The log is purged behind it, down to so many entries, and of large ones to so many bytes, but not beyond a
//! snapshot that is on its way to another node ([`Sending`]).
//!
//! The voters take turns. All of them count the same entries and bytes, so they would all build at the
//! same moment, while writes need a majority of them at their best. So their first ones lie apart, by a
//! third of a round where there are three voters, and the later ones follow from there. Bytes are
//! counted from a node's start: nodes that were started at different moments, and build by bytes, are as
//! far apart as that makes them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use openraft::{async_runtime::WatchReceiver, errors::Fatal};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior},
};

use super::{
    Consensus,
    members::MemberError,
    raft::Raft,
    sending::{Purge, Sending},
    types::TypeConfig,
};
use crate::{
    env::storage_guard::StorageGuard,
    storage::{state::StateStore, wal::Wal},
};

/// How often it is looked whether a snapshot is due.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// How often it is looked, while one is built, whether it is there: the log is purged behind it at once, and not only when
/// it is looked next whether another one is due.
const BUILT_INTERVAL: Duration = Duration::from_millis(20);

/// How often who waits for a snapshot looks whether it is there, and asks for it again: one that was under way may end
/// before what is waited for.
const WAITED_INTERVAL: Duration = Duration::from_millis(100);

/// Entries that are purged from the log together, as each purge is a record in it; never more than what is kept on purpose.
const PURGE_BATCH_MAX: u64 = 256;

/// Who asks for snapshots beside those that are due: a few operators.
pub const ASKED_MAX: usize = 16;

/// Why none was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotBegun {
    /// The disk has no room for one, as a sentence.
    NoRoom(String),
    /// The node is shutting down.
    ShuttingDown,
}

/// Asks for a snapshot now. The answer is why there can be none, or that it is begun, or there.
pub type SnapshotAsked = oneshot::Sender<Result<(), String>>;

impl Consensus {
    /// Has a snapshot built of at least what is applied now, and waits until it is stored; its last log index.
    pub async fn build_snapshot(&self, until: Instant) -> Result<u64, MemberError> {
        let wanted = self.state().applied().map_or(0, |applied| applied.index);
        loop {
            let current = self.state().current_snapshot();
            let built = current.map_or(0, |snapshot| snapshot.last_log_id.index);
            if built >= wanted {
                return Ok(built);
            }
            if Instant::now() >= until {
                let how_far = format!("the snapshot is not stored yet: it ends at {built}");
                return Err(MemberError::Unknown(how_far));
            }
            self.ask_for_snapshot().await.map_err(|not_begun| match not_begun {
                NotBegun::NoRoom(reason) => MemberError::NotNow(reason),
                NotBegun::ShuttingDown => MemberError::ShuttingDown,
            })?;
            tokio::time::sleep_until(until.min(Instant::now() + WAITED_INTERVAL)).await;
        }
    }

    /// Has a snapshot begun of what is applied now, if there is room for one. Nothing more is begun where one is being
    /// built: whether that one reaches far enough is seen when it is there.
    pub async fn ask_for_snapshot(&self) -> Result<(), NotBegun> {
        let (asked, answered) = oneshot::channel();
        if self.inner.snapshots.send(asked).await.is_err() {
            return Err(NotBegun::ShuttingDown);
        }
        match answered.await {
            Ok(begun) => begun.map_err(NotBegun::NoRoom),
            Err(_) => Err(NotBegun::ShuttingDown),
        }
    }
}

/// The task that sees to snapshots.
pub struct SnapshotBuilds {
    /// Raft, which is told to build one.
    pub raft: Raft,
    /// This node.
    pub node_id: u64,
    /// Bytes appended to the log since the start.
    pub appended_bytes: Arc<AtomicU64>,
    /// The state, which knows the last snapshot.
    pub state: Arc<StateStore>,
    /// The log, which is purged behind the last snapshot.
    pub log: Wal,
    /// Entries of it that are kept there, …
    pub log_entries_kept: u64,
    /// … and at most so many bytes of them.
    pub log_bytes_kept: u64,
    /// The snapshots that are on their way to others.
    pub sending: Sending,
    /// Whether there is room for one.
    pub guard: Arc<StorageGuard>,
    /// Whether the log has to give back what it keeps for others.
    pub disk_nearly_full: watch::Receiver<bool>,
    /// Bytes of a round.
    pub after_bytes: u64,
    /// Entries of a round.
    pub after_entries: u64,
    /// Who wants one at once.
    pub asked: mpsc::Receiver<SnapshotAsked>,
}

impl std::fmt::Debug for SnapshotBuilds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotBuilds").finish_non_exhaustive()
    }
}

impl SnapshotBuilds {
    /// Runs until Raft ends.
    pub async fn run(mut self) {
        let mut interval = tokio::time::interval(CHECK_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut bytes_at_last = None;
        let mut tried = None;
        let mut begun = None;
        loop {
            let asked = tokio::select! {
                _ = interval.tick() => None,
                () = tokio::time::sleep(BUILT_INTERVAL), if begun.is_some() => {
                    if self.built() < begun {
                        continue;
                    }
                    begun = None;
                    None
                }
                Some(asked) = self.asked.recv() => Some(asked),
            };
            let applied = self.state.applied().map_or(0, |applied| applied.index);
            let appended = self.appended_bytes.load(Ordering::Relaxed);
            let current = self.state.current_snapshot();
            if self.purge().await.is_err() {
                return;
            }
            let last = current.as_ref().map(|snapshot| snapshot.last_log_id.index).max(tried);
            let turn = self.turn();
            let is_due = applied > last.unwrap_or(0)
                && (turn.has_come(last, applied, self.after_entries)
                    || turn.has_come(bytes_at_last, appended, self.after_bytes));
            if !is_due && asked.is_none() {
                continue;
            }
            // Who asks, asks again and again, also beside what is written of the snapshot that is wanted.
            let asked = match asked {
                Some(asked) if self.state.is_building_snapshot() => {
                    let _ = asked.send(Ok(()));
                    continue;
                }
                asked => asked,
            };
            // A snapshot that takes the room of the next flush would end the process.
            let size = self.state.next_snapshot_bytes();
            let has_room = self.guard.has_room_for(size).await.unwrap_or(false);
            let is_begun = if has_room {
                bytes_at_last = Some(appended);
                tried = Some(applied);
                begun = tried;
                // Nothing happens where one is being built.
                if self.raft.trigger().snapshot().await.is_err() {
                    return;
                }
                Ok(())
            } else {
                Err(format!(
                    "there is no room on the disk for a snapshot of {size} bytes beside the reserve: free some"
                ))
            };
            if let Some(asked) = asked {
                // Who asked may have gone.
                let _ = asked.send(is_begun);
            }
        }
    }

    /// Has Raft purge the oldest entries that a snapshot holds, where the log has more of them, or more bytes, than are to
    /// be kept. Raft does so once no follower is in the middle of being sent them; one that needs them
    /// later gets the snapshot.
    async fn purge(&self) -> Result<(), Fatal<TypeConfig>> {
        let Some(stored) = self.state.purge_limit().map(|limit| limit.index) else {
            return Ok(());
        };
        let purged = self.log.purged().map_or(0, |purged| purged.index);
        let by_entries = due_by_entries(purged, stored, self.log_entries_kept);
        let by_bytes = self.log.index_behind(self.log_bytes_kept).map(|upto| upto.min(stored));
        let Some(upto) = by_entries.max(by_bytes).filter(|upto| *upto > purged) else {
            return Ok(());
        };
        let disk_nearly_full = *self.disk_nearly_full.borrow();
        let held = self.sending.held(Purge { upto, disk_nearly_full });
        let upto = held.map_or(upto, |held| held.min(upto));
        if upto <= purged {
            return Ok(());
        }
        self.raft.trigger().purge_log(upto).await
    }

    /// The last entry in the newest snapshot that Raft knows of.
    fn built(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        metrics.borrow_watched().snapshot.as_ref().map(|last| last.index())
    }

    fn turn(&self) -> Turn {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters = metrics.membership_config.membership().voter_ids();
        let (mut before, mut all) = (0, 0);
        for id in voters {
            before += u64::from(id < self.node_id);
            all += 1;
        }
        // A learner holds nobody up.
        Turn { number: before, of: all.max(1) }
    }
}

/// Up to where the log is to be purged, of what is stored elsewhere, so that so many entries are kept.
fn due_by_entries(purged: u64, stored: u64, kept: u64) -> Option<u64> {
    let upto = stored.checked_sub(kept)?;
    (upto >= purged + kept.clamp(1, PURGE_BATCH_MAX)).then_some(upto)
}

/// A voter's place among all of them.
#[derive(Debug, Clone, Copy)]
struct Turn {
    number: u64,
    of: u64,
}

impl Turn {
    /// Whether a round has passed since `last`; the first one, where there is no last, is shorter by the
    /// voter's share of it.
    fn has_come(self, last: Option<u64>, now: u64, round: u64) -> bool {
        let head_start = match last {
            Some(_) => 0,
            None => u128::from(round) * u128::from(self.number) / u128::from(self.of),
        };
        let grown = u128::from(now.saturating_sub(last.unwrap_or(0)));
        grown + head_start >= u128::from(round)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Moments out of 0..=100 at which a voter builds that looks at each of them.
    fn builds(number: u64, of: u64, round: u64) -> Vec<u64> {
        let turn = Turn { number, of };
        let mut last = None;
        let mut builds = Vec::new();
        for now in 1..=100 {
            if turn.has_come(last, now, round) {
                builds.push(now);
                last = Some(now);
            }
        }
        builds
    }

    #[test]
    fn entries_are_purged_in_batches_down_to_those_that_are_kept() {
        assert_eq!(due_by_entries(0, 9, 10), None);
        assert_eq!(due_by_entries(0, 19, 10), None, "fewer than a batch");
        assert_eq!(due_by_entries(0, 20, 10), Some(10));
        assert_eq!(due_by_entries(10, 29, 10), None);
        assert_eq!(due_by_entries(10, 1_000, 10), Some(990));
        // None is kept: each purge takes what there is.
        assert_eq!((due_by_entries(0, 0, 0), due_by_entries(0, 1, 0)), (None, Some(1)));
        let kept = 10_000;
        assert_eq!(due_by_entries(100, kept + 355, kept), None);
        assert_eq!(due_by_entries(100, kept + 356, kept), Some(356));
    }

    #[test]
    fn voters_take_turns() {
        assert_eq!(builds(0, 3, 30), [30, 60, 90]);
        assert_eq!(builds(1, 3, 30), [20, 50, 80]);
        assert_eq!(builds(2, 3, 30), [10, 40, 70, 100]);
        assert_eq!(builds(0, 1, 40), [40, 80]);
        // More voters than entries in a round: still once in each.
        assert_eq!(builds(4, 5, 1).len(), 100);
    }

    /// Whoever was last, there is a whole round to the next one, and never more.
    #[test]
    fn a_round_is_a_round() {
        for number in 0..5 {
            let turn = Turn { number, of: 5 };
            for last in [0, 7, u64::MAX - 1000] {
                assert!(!turn.has_come(Some(last), last + 999, 1000));
                assert!(turn.has_come(Some(last), last + 1000, 1000));
            }
            assert!(turn.has_come(None, 1000, 1000));
            // Another process may have built a newer one than this one has counted.
            assert!(!turn.has_come(Some(10), 3, 1000));
        }
    }
}
