//! A call, what the calls of one connection share, and how far its answer has gone.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::{sync::Notify, task::AbortHandle, time::Instant};

use super::{
    Shape,
    room::{ConnectionRoom, Held, NodeRoom},
};
use crate::env::shares::Share;

/// An answer that h2 holds for longer than this, since nobody reads it, closes its connection. Large
/// ones of unary calls go without the others: at their deadlines, or, while the node has little room left
/// for answers, when nothing of them has moved for this time. It may take half as long again.
pub(crate) const UNREAD_TIME_MAX: Duration = Duration::from_secs(10);

/// Answers are counted by when they were made, in so many steps, and this one.
pub(super) const UNREAD_STEPS: usize = 2;
const AGES: usize = UNREAD_STEPS + 2;

/// What a stop leaves for last answers to get out to a client that does not end its connection.
const LINGER: Duration = Duration::from_millis(100);

/// What the calls of one connection share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) room: Arc<ConnectionRoom>,
    pub(super) from: Option<IpAddr>,
    /// It has begun HTTP/2.
    pub(super) begun: AtomicBool,
    /// What came first is TLS, where none is spoken.
    pub(super) speaks_tls: AtomicBool,
    /// The call that was just begun, until it has its task.
    pub(super) next: Mutex<Option<Arc<Call>>>,
    /// Calls begun in all, and open now.
    pub(super) calls: AtomicUsize,
    pub(super) open: AtomicUsize,
    /// Calls that a stop waits for.
    pub(super) awaited: AtomicUsize,
    pub(super) quiet: Notify,
    /// Parts of answers that h2 holds, by when they were made.
    pub(super) unsent: [AtomicUsize; AGES],
    pub(super) now: AtomicUsize,
    /// Large answers of unary calls.
    large: Mutex<Vec<Large>>,
}

/// A large answer of a unary call, and whether it moves.
#[derive(Debug)]
struct Large {
    pub(super) going: Weak<Going>,
    pub(super) call: Weak<Call>,
    /// Parts that had gone at the last look, and for how many looks it was no more.
    pub(super) gone: usize,
    pub(super) looks: usize,
}

impl Shared {
    pub(super) fn new(room: Arc<ConnectionRoom>, from: Option<IpAddr>) -> Arc<Shared> {
        Arc::new(Shared {
            room,
            from,
            begun: AtomicBool::new(false),
            speaks_tls: AtomicBool::new(false),
            next: Mutex::default(),
            calls: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            awaited: AtomicUsize::new(0),
            quiet: Notify::new(),
            unsent: Default::default(),
            now: AtomicUsize::new(0),
            large: Mutex::default(),
        })
    }

    /// To be called at each look, with whether the node lacks room: ends the calls whose large answers
    /// nobody reads. One that is read slowly keeps its time as long as it moves at all.
    pub(super) fn give_up_unread(&self, is_short: bool) {
        let mut large = self.large.lock().unwrap_or_else(PoisonError::into_inner);
        large.retain_mut(|answer| {
            let Some(going) = answer.going.upgrade() else { return false };
            let gone = going.gone();
            answer.looks = if gone == answer.gone { answer.looks + 1 } else { 0 };
            answer.gone = gone;
            let is_unread = is_short && answer.looks > UNREAD_STEPS;
            if is_unread && let Some(call) = answer.call.upgrade() {
                call.task.get().inspect(|task| task.abort());
            }
            !is_unread
        });
    }

    /// To be called at each look. True if some answer is held for longer than it may be.
    pub(super) fn grow_older(&self) -> bool {
        let now = (self.now.load(Ordering::Relaxed) + 1) % AGES;
        let oldest = (now + 1) % AGES;
        let is_old = self.unsent[oldest].load(Ordering::Relaxed) > 0;
        self.now.store(now, Ordering::Relaxed);
        is_old
    }

    /// Waits until no call is awaited, and has not been for a while.
    pub(super) async fn wait_quiet(&self) {
        loop {
            let quiet = self.quiet.notified();
            if self.awaited.load(Ordering::Acquire) > 0 {
                quiet.await;
                continue;
            }
            tokio::time::sleep(LINGER).await;
            if self.awaited.load(Ordering::Acquire) == 0 {
                return;
            }
        }
    }
}

/// A part of an answer that h2 holds.
pub(super) struct Unsent {
    call: Arc<Call>,
    made: usize,
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.call.connection.unsent[self.made].fetch_sub(1, Ordering::Relaxed);
    }
}

/// One call. In the extensions of its request.
#[derive(Debug)]
pub(crate) struct Call {
    pub(super) connection: Arc<Shared>,
    pub(super) shape: Shape,
    pub(super) message_bytes_max: usize,
    /// When a unary call must be answered. It begins with the headers.
    pub(super) answer_by: Option<Instant>,
    /// A stop waits for it.
    pub(super) is_awaited: AtomicBool,
    /// Ends it: h2 resets it then.
    pub(super) task: OnceLock<AbortHandle>,
    /// Its part of the calls that its address may have open, until nothing of it is left.
    pub(super) share: OnceLock<Share<1>>,
}

impl Call {
    /// A call that came over no HTTP/2 but over a port for pages, the only one of its connection: from an address, with
    /// the node's room for calls and answers, and to be answered by a time.
    pub(crate) fn alone(
        node: Arc<NodeRoom>,
        from: Option<IpAddr>,
        message_bytes_max: usize,
        answer_by: Instant,
    ) -> Arc<Call> {
        Arc::new(Call {
            connection: Shared::new(ConnectionRoom::new(node, from), from),
            shape: Shape::Unary,
            message_bytes_max,
            answer_by: Some(answer_by),
            is_awaited: AtomicBool::new(false),
            task: OnceLock::new(),
            share: OnceLock::new(),
        })
    }

    pub(crate) fn room(&self) -> &Arc<ConnectionRoom> {
        &self.connection.room
    }

    /// Whose address the connection came from.
    pub(crate) fn from(&self) -> Option<IpAddr> {
        self.connection.from
    }

    /// Whether its address may have one more call open. A stream takes its share itself, once it is known whose it is.
    pub(crate) fn may_begin(&self) -> bool {
        if self.shape == Shape::Stream {
            return true;
        }
        let room = self.room();
        match room.node().open_call(room.identity(), self.shape) {
            Some(share) => self.share.set(share).is_ok(),
            None => false,
        }
    }

    pub(crate) fn answer_by(&self) -> Option<Instant> {
        self.answer_by
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    pub(super) fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    /// A message has come in whole.
    pub(super) fn received(&self) {
        if self.shape == Shape::Unary {
            self.await_end();
        }
    }

    pub(super) fn await_end(&self) {
        if !self.is_awaited.swap(true, Ordering::AcqRel) {
            self.connection.awaited.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Its answer is a large one. Those that have gone are forgotten at the next look: there are no more
    /// of them until then than a connection can carry.
    pub(super) fn watch(self: &Arc<Self>, going: &Arc<Going>) {
        let mut large = self.connection.large.lock().unwrap_or_else(PoisonError::into_inner);
        large.retain(|answer| answer.going.strong_count() > 0);
        let (going, call) = (Arc::downgrade(going), Arc::downgrade(self));
        large.push(Large { going, call, gone: 0, looks: 0 });
    }

    pub(super) fn unsent(self: &Arc<Self>) -> Unsent {
        let made = self.connection.now.load(Ordering::Relaxed);
        self.connection.unsent[made].fetch_add(1, Ordering::Relaxed);
        Unsent { call: Arc::clone(self), made }
    }
}

/// A call that has its task, until that ends.
pub(super) struct Open(pub(super) Arc<Call>);

impl Drop for Open {
    fn drop(&mut self) {
        let shared = &self.0.connection;
        shared.open.fetch_sub(1, Ordering::AcqRel);
        let is_awaited = self.0.is_awaited.load(Ordering::Acquire);
        if is_awaited && shared.awaited.fetch_sub(1, Ordering::AcqRel) == 1 {
            shared.quiet.notify_waiters();
        }
    }
}

/// The bytes of one answer on their way out.
#[derive(Debug, Default)]
pub(super) struct Going {
    /// Parts that h2 holds, and those that have gone.
    pub(super) parts: AtomicUsize,
    pub(super) gone: AtomicUsize,
    pub(super) sent: AtomicWaker,
    /// All of it is held until the last part has gone: the parts share one allocation.
    pub(super) _room: Option<Held>,
}

impl Going {
    /// How many parts have gone, which grows while somebody reads.
    pub(super) fn gone(&self) -> usize {
        self.gone.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_old_only_when_it_waited_the_whole_time() {
        let shared = Shared::new(
            ConnectionRoom::new(
                super::super::room::NodeRoom::new(crate::env::shares::ShareRule::NONE),
                None,
            ),
            None,
        );
        let call = Arc::new(Call {
            connection: Arc::clone(&shared),
            shape: Shape::Unary,
            message_bytes_max: 0,
            answer_by: None,
            is_awaited: AtomicBool::new(false),
            task: OnceLock::new(),
            share: OnceLock::new(),
        });
        for begin in 0..2 * AGES {
            let unsent = call.unsent();
            for look in 0..UNREAD_STEPS {
                assert!(!shared.grow_older(), "begun at {begin}, look {look}");
            }
            assert!(shared.grow_older(), "begun at {begin}");
            drop(unsent);
        }
    }
}
