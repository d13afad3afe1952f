//! Snapshots that are on their way to other nodes, and the log that is kept for them.
//!
//! Who was sent a snapshot up to entry *s* needs entry *s* + 1 next. If the log was purged beyond that while the snapshot
//! travelled, the node needs another one, and where the log grows by a round of snapshots in the time that one takes to
//! arrive, another one after that, for ever. So what follows a snapshot that is being sent is not purged. openraft sees to
//! that only once it streams entries.
//!
//! - For as long as the snapshot travels and is installed, and [`CAUGHT_UP_BY`] after that: openraft learns that it has
//!   arrived only behind whatever else it has to do, and asks for the next entries then. From there on openraft puts a purge
//!   off for as long as it streams them. A stream that breaks lets go of that: a node that is still working off what was
//!   written while a long transfer took place may need another snapshot then.
//! - For [`HELD_MAX`] at most, so that nobody who takes parts of a snapshot without an end has the log of others grow without
//!   one. It is told when the log is kept, and when it is not kept any longer.
//! - Not while this node's disk is nearly full: the log has to give its room back, or nobody writes any more.
//! - An attempt that failed holds nothing: the next one sends the newest snapshot, which is never behind a purge.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tally_proto::seeded_bugs;
use tokio::time::Instant;

use crate::env::{Event, Observer};

/// What is purged is kept for so long at most for one attempt. A snapshot of some gigabytes travels in less over a tenth of a
/// gigabit, and a log that grows by 10 MB a second takes 6 GB meanwhile.
const HELD_MAX: Duration = Duration::from_secs(600);

/// After a snapshot was installed, until its node asks for entries.
const CAUGHT_UP_BY: Duration = Duration::from_secs(5);

/// A snapshot that is sent within this holds nothing up that anybody would notice: it is not told.
const WORTH_TELLING: Duration = Duration::from_secs(10);

/// The snapshots that this node sends. Clones share them.
#[derive(Clone, Default)]
pub struct Sending {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    observer: Option<Arc<dyn Observer>>,
    /// By a number of their own: one node may be sent two, in two terms.
    sent: Mutex<BTreeMap<u64, Sent>>,
    next: AtomicU64,
    counts: [AtomicU64; 2],
}

/// A snapshot on its way, or just arrived.
#[derive(Debug, Clone, Copy)]
struct Sent {
    node_id: u64,
    /// The last entry in it.
    index: u64,
    began: Instant,
    arrived: Option<Instant>,
    told: Told,
}

/// What was said of the log behind a snapshot. Each is said once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Nothing,
    Kept,
    Purged,
}

/// What a purge is decided by, beside the snapshots themselves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Purge {
    /// What would be purged.
    pub(super) upto: u64,
    /// This node's disk is nearly full.
    pub(super) disk_nearly_full: bool,
}

impl Sent {
    fn is_held(&self, now: Instant, purge: Purge) -> bool {
        let has_caught_up = self.arrived.is_some_and(|arrived| now >= arrived + CAUGHT_UP_BY);
        !has_caught_up && now < self.began + HELD_MAX && !purge.disk_nearly_full
    }
}

/// How sending has ended so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendingCounts {
    /// They were installed.
    pub installed: u64,
    /// They were not: the node was away or refused, or took no part of it for too long.
    pub failed: u64,
}

impl fmt::Debug for Sending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").field("sent", &self.sent()).finish_non_exhaustive()
    }
}

impl Sending {
    /// Nothing is sent yet.
    pub fn new(observer: Option<Arc<dyn Observer>>) -> Sending {
        Sending { inner: Arc::new(Inner { observer, ..Inner::default() }) }
    }

    /// A snapshot up to this entry is sent to a node from here on, until what is returned is dropped.
    pub fn begin(&self, node_id: u64, index: u64) -> OnItsWay {
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        let sent = Sent { node_id, index, began, arrived: None, told: Told::Nothing };
        // Said first: what is purged from now on is purged beside it.
        self.observe(Event::SnapshotSent { to: node_id, index });
        self.sent().insert(number, sent);
        OnItsWay { sending: self.clone(), number }
    }

    /// The last entry that may be purged, if any is held; says so where it keeps back what would be purged, and where what
    /// a node is being sent does not keep it back.
    pub(super) fn held(&self, purge: Purge) -> Option<u64> {
        if seeded_bugs::is_on("purge-overtakes-a-snapshot") {
            return None;
        }
        let (now, upto) = (Instant::now(), purge.upto);
        let mut all = self.sent();
        for sent in all.values_mut().filter(|sent| sent.index < upto) {
            let Sent { node_id, index, began, .. } = *sent;
            let (seconds, is_held) = ((now - began).as_secs(), sent.is_held(now, purge));
            if !is_held && sent.arrived.is_none() && sent.told < Told::Purged {
                sent.told = Told::Purged;
                tracing::warn!(
                    node_id,
                    index,
                    upto,
                    disk_nearly_full = purge.disk_nearly_full,
                    "the log is purged, though a node is being sent a snapshot for {seconds} s: it will need another one"
                );
            } else if is_held && now - began >= WORTH_TELLING && sent.told < Told::Kept {
                sent.told = Told::Kept;
                tracing::info!(
                    node_id,
                    index,
                    upto,
                    "the log is kept behind a snapshot that a node is being sent for {seconds} s already, or has just got"
                );
            }
        }
        all.retain(|_, sent| sent.arrived.is_none() || sent.is_held(now, purge));
        all.values().filter(|sent| sent.is_held(now, purge)).map(|sent| sent.index).min()
    }

    /// So many are on their way.
    pub fn under_way(&self) -> usize {
        self.sent().values().filter(|sent| sent.arrived.is_none()).count()
    }

    /// How sending has ended so far.
    pub fn counts(&self) -> SendingCounts {
        let [installed, failed] = &self.inner.counts;
        SendingCounts {
            installed: installed.load(Ordering::Relaxed),
            failed: failed.load(Ordering::Relaxed),
        }
    }

    fn sent(&self) -> MutexGuard<'_, BTreeMap<u64, Sent>> {
        self.inner.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn observe(&self, event: Event<'_>) {
        if let Some(observer) = &self.inner.observer {
            observer.observe(event);
        }
    }
}

/// A snapshot on its way. Dropped, it has not arrived.
#[derive(Debug)]
pub struct OnItsWay {
    sending: Sending,
    number: u64,
}

impl OnItsWay {
    /// Its node has installed it.
    pub fn arrived(self) {
        if let Some(sent) = self.sending.sent().get_mut(&self.number) {
            sent.arrived = Some(Instant::now());
        }
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        let [installed, failed] = &self.sending.inner.counts;
        let ended = {
            let mut all = self.sending.sent();
            let Some(sent) = all.get(&self.number).copied() else { return };
            if sent.arrived.is_none() {
                all.remove(&self.number);
            }
            sent
        };
        let count = if ended.arrived.is_some() { installed } else { failed };
        count.fetch_add(1, Ordering::Relaxed);
        self.sending.observe(Event::SnapshotSentEnds { to: ended.node_id, index: ended.index });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(sending: &Sending) -> Option<u64> {
        sending.held(Purge { upto: 100, disk_nearly_full: false })
    }

    #[tokio::test(start_paused = true)]
    async fn what_follows_a_snapshot_is_held_until_its_node_can_ask_for_it() {
        let sending = Sending::default();
        assert_eq!(held(&sending), None);
        let (second, third) = (sending.begin(2, 40), sending.begin(3, 60));
        assert_eq!((held(&sending), sending.under_way()), (Some(40), 2));
        second.arrived();
        assert_eq!((held(&sending), sending.under_way()), (Some(40), 1), "it asks next");
        tokio::time::advance(CAUGHT_UP_BY).await;
        assert_eq!(held(&sending), Some(60));
        drop(third);
        assert_eq!(held(&sending), None, "the next attempt sends a newer one");
        assert_eq!(sending.counts(), SendingCounts { installed: 1, failed: 1 });
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_held_for_ever() {
        let sending = Sending::default();
        let endless = sending.begin(2, 40);
        tokio::time::advance(HELD_MAX - Duration::from_millis(1)).await;
        assert_eq!(held(&sending), Some(40));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!((held(&sending), sending.under_way()), (None, 1));
        // Nor does it hold anything for having arrived after that.
        endless.arrived();
        assert_eq!((held(&sending), sending.under_way()), (None, 0));
        assert!(sending.sent().is_empty(), "it is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn two_to_one_node_hold_what_the_older_one_needs() {
        let sending = Sending::default();
        let (old, new) = (sending.begin(2, 40), sending.begin(2, 50));
        assert_eq!(held(&sending), Some(40));
        drop(old);
        assert_eq!(held(&sending), Some(50));
        drop(new);
        assert_eq!(held(&sending), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_is_nearly_full_gets_its_room_back() {
        let sending = Sending::default();
        let held = |disk_nearly_full| sending.held(Purge { upto: 100, disk_nearly_full });
        let on_its_way = sending.begin(2, 40);
        assert_eq!((held(false), held(true)), (Some(40), None));
        let told = || sending.sent().values().map(|sent| sent.told).collect::<Vec<_>>();
        assert_eq!(told(), [Told::Purged], "also where it was not told before that it is kept");
        assert_eq!(held(false), Some(40), "what is left is");
        drop(on_its_way);
    }
}
