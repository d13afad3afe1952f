//! Room for writes: how many, and how many of their bytes, may wait or be under way on one node.
//!
//! What is admitted waits in a queue, so the limits bound memory and, with what the node does a second,
//! how long a write waits. Beyond them unary writes are refused at once; those of streams wait for room in
//! their order, within the limits of their stream (`api::stream`). A forwarded write does at the leader
//! what it did before; those that wait there have room at the node that they came to, which bounds them: by as
//! much again for each other node.

use std::sync::Arc;

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::error::{Limit, NotProposed};
use crate::env::{
    shares::{Identity, Share, ShareRule, Shares},
    spaced::Spaced,
    traces::{TraceContext, Tracer},
};

/// What a write does when a queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Refuse: overload is an answer.
    Refuse,
    /// Wait for room, until the deadline.
    Wait,
}

/// Room for one write, given back when it is dropped.
#[derive(Debug)]
pub struct Admission {
    when_full: WhenFull,
    identity: Identity,
    /// The restore epoch by which its caller is known, if that is said.
    known_at: Option<u64>,
    /// Of a request that is traced.
    traced: Option<Box<Waits>>,
    _place: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
    _share: Share<2>,
}

/// A traced request that waits for its entry.
#[derive(Debug)]
pub(super) struct Waits {
    pub(super) request: TraceContext,
    pub(super) since_ns: u64,
}

impl Admission {
    /// It is for a request that is traced, if there is a context.
    pub fn traced(mut self, request: Option<TraceContext>, tracer: &Tracer) -> Admission {
        self.traced = request.map(|request| Box::new(Waits { request, since_ns: tracer.now_ns() }));
        self
    }

    /// It is for a caller who is known by the state of this restore epoch.
    pub fn known_at(mut self, restore_epoch: Option<u64>) -> Admission {
        self.known_at = restore_epoch;
        self
    }

    /// The restore epoch by which the caller is known.
    pub(super) fn restore_epoch(&self) -> Option<u64> {
        self.known_at
    }

    /// What waits, if it is traced.
    pub(super) fn waits(&self) -> Option<&Waits> {
        self.traced.as_deref()
    }

    /// Whose write it is.
    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// What it would have done without room.
    pub(super) fn when_full(&self) -> WhenFull {
        self.when_full
    }
}

/// The room there is.
#[derive(Debug)]
pub(super) struct Room {
    places: Arc<Semaphore>,
    places_max: usize,
    bytes: Arc<Semaphore>,
    bytes_max: usize,
    /// Places and bytes.
    shares: Arc<Shares<2>>,
    refusals: Spaced,
}

impl Room {
    /// For so many writes, of so many bytes together, of which one identity may have what the rule
    /// says.
    pub(super) fn new(places_max: usize, bytes_max: usize, share: ShareRule) -> Room {
        let places = Arc::new(Semaphore::new(places_max));
        let bytes = Arc::new(Semaphore::new(bytes_max));
        let shares = Shares::new([places_max, bytes_max], share);
        Room { places, places_max, bytes, bytes_max, shares, refusals: Spaced::default() }
    }

    /// Room for one write.
    pub(super) async fn admit(
        &self,
        identity: Identity,
        size_bytes: usize,
        when_full: WhenFull,
        deadline: Instant,
    ) -> Result<Admission, NotProposed> {
        match when_full {
            WhenFull::Refuse => self.admit_now(identity, size_bytes),
            WhenFull::Wait => {
                let all = async {
                    // Its own share first: who waits for that must not stand in front of others.
                    let share = self.shares.wait(identity, [1, size_bytes]).await;
                    let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
                    let bytes = Arc::clone(&self.bytes);
                    let bytes = bytes.acquire_many_owned(permits(size_bytes)).await.ok()?;
                    Some(Admission {
                        when_full,
                        identity,
                        known_at: None,
                        traced: None,
                        _place: place,
                        _bytes: bytes,
                        _share: share,
                    })
                };
                match tokio::time::timeout_at(deadline, all).await {
                    Ok(Some(admission)) => Ok(admission),
                    Ok(None) => Err(NotProposed::ShuttingDown),
                    Err(_) => Err(NotProposed::Deadline),
                }
            }
        }
    }

    /// Room for one write, or that there is none at once.
    pub(super) fn admit_now(
        &self,
        identity: Identity,
        size_bytes: usize,
    ) -> Result<Admission, NotProposed> {
        let share = self.shares.take(identity, [1, size_bytes]).map_err(|which| {
            let what = ["writes", "bytes of writes"][which];
            let message = format!("this client has its share of the {what} that may be under way");
            self.overloaded(Limit::Share, message)
        })?;
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| self.too_many())?;
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(permits(size_bytes));
        let bytes = bytes.map_err(|_| {
            self.overloaded(
                Limit::InFlightBytes,
                format!("at most {} bytes of writes may be under way", self.bytes_max),
            )
        })?;
        Ok(Admission {
            when_full: WhenFull::Refuse,
            identity,
            known_at: None,
            traced: None,
            _place: place,
            _bytes: bytes,
            _share: share,
        })
    }

    /// How often a client would have had more than its share.
    pub(super) fn shares_exceeded(&self) -> u64 {
        self.shares.exceeded()
    }

    /// Places that are taken, and how many there are.
    pub(super) fn places(&self) -> (usize, usize) {
        (self.places_max - self.places.available_permits().min(self.places_max), self.places_max)
    }

    /// Why a write is refused when all places are taken.
    pub(super) fn too_many(&self) -> NotProposed {
        let message = format!("at most {} writes may be under way", self.places_max);
        self.overloaded(Limit::InFlight, message)
    }

    fn overloaded(&self, limit: Limit, message: String) -> NotProposed {
        if let Some(times) = self.refusals.happened() {
            tracing::warn!(times, limit = limit.reason(), "writes are refused: {message}");
        }
        NotProposed::Overloaded { limit, message }
    }

    /// Waits until all of it is free.
    pub(super) async fn all_free(&self) {
        let all = permits(self.places_max);
        drop(self.places.acquire_many(all).await);
    }
}

fn permits(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(refused: Result<Admission, NotProposed>) -> &'static str {
        match refused {
            Err(NotProposed::Overloaded { limit, .. }) => limit.reason(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn each_limit_refuses_by_its_name_and_gives_back_what_it_took() {
        let room = Room::new(2, 100, ShareRule { percent: 100, report_only: true });
        let admit = |bytes| room.admit_now(Identity::Nobody, bytes);
        let first = admit(90).unwrap();
        assert_eq!(reason(admit(20)), tally_proto::reason::TOO_MANY_BYTES_IN_FLIGHT);
        // The place that it had taken before it found no bytes is free again.
        let second = admit(10).unwrap();
        assert_eq!(reason(admit(0)), tally_proto::reason::TOO_MANY_IN_FLIGHT);
        drop((first, second));
        room.all_free().await;
        admit(100).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn one_client_has_its_share_and_another_finds_room() {
        let room = Room::new(4, 100, ShareRule { percent: 50, report_only: false });
        let (one, other) = (Identity::User(1), Identity::User(2));
        let held = [room.admit_now(one, 1).unwrap(), room.admit_now(one, 1).unwrap()];
        assert_eq!(reason(room.admit_now(one, 1)), tally_proto::reason::SHARE_EXCEEDED);
        let soon = Instant::now() + std::time::Duration::from_secs(1);
        let waited = room.admit(one, 1, WhenFull::Wait, soon).await;
        assert_eq!(waited.unwrap_err(), NotProposed::Deadline);
        room.admit_now(other, 50).unwrap();
        drop(held);
        room.admit(one, 1, WhenFull::Wait, Instant::now()).await.unwrap();
        assert_eq!(room.shares_exceeded(), 2);
    }
}
