//! Room for what callers send and are sent: bytes of a connection, and of the node.
//!
//! # Nobody waits for a waiter
//! Room of the connection is taken first, then the client's share of the node's, then room of the node, each in the order of asking. Who has
//! room for an answer never waits for room for a request. Who has room for a request may wait for room
//! for an answer; that comes back when answers are read, when their deadlines pass, when their
//! connection is closed since it does not read, or when they don't move while the node has little room left.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{SMALL_BYTES, Shape};
use crate::{
    env::shares::{Identity, Share, ShareRule, Shares},
    machine::{command::Owner, limits},
};

/// Bytes of the requests of one connection: those being received, and those of calls under way on its
/// streams.
pub(crate) const REQUEST_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes of the answers of one connection, those under way included.
pub(crate) const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of requests above [`SMALL_BYTES`], of all connections: eight that use all they may.
pub(crate) const NODE_REQUEST_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Bytes of answers above [`SMALL_BYTES`], of all connections: as many.
pub(crate) const NODE_ANSWER_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Calls of streams that are under way, of all connections: eight windows of a session.
pub(crate) const NODE_CALLS_MAX: usize = 8 * limits::SESSION_WINDOW as usize;

/// Streams that are open, of all connections, as many as there may be of those: a client needs one. One that does
/// nothing costs some 26 KiB in a build that is not optimised, so those of one address come to 320 MB at most.
pub(crate) const NODE_STREAMS_MAX: usize = 16_384;

/// Unary calls that are open, of all connections. Each costs about as much, and may have headers of 16 KiB and a request
/// of [`SMALL_BYTES`] that nobody else counts.
pub(crate) const NODE_OPEN_CALLS_MAX: usize = 32_768;

/// The room of a port.
#[derive(Debug)]
pub(crate) struct NodeRoom {
    requests: Bytes,
    answers: Bytes,
    calls: Arc<Semaphore>,
    call_shares: Arc<Shares<1>>,
    stream_shares: Arc<Shares<1>>,
    open_shares: Arc<Shares<1>>,
}

/// Bytes of the node, and what of them one client has: whoever calls from an address, as they are held before it
/// is known who calls.
#[derive(Debug)]
struct Bytes {
    free: Arc<Semaphore>,
    shares: Arc<Shares<1>>,
}

impl Bytes {
    fn new(max: usize, share: ShareRule) -> Bytes {
        Bytes { free: Arc::new(Semaphore::new(max)), shares: Shares::new([max], share) }
    }
}

impl NodeRoom {
    /// Of which one client may have what the rule says.
    pub(crate) fn new(share: ShareRule) -> Arc<NodeRoom> {
        Arc::new(NodeRoom {
            requests: Bytes::new(NODE_REQUEST_BYTES_MAX, share),
            answers: Bytes::new(NODE_ANSWER_BYTES_MAX, share),
            calls: Arc::new(Semaphore::new(NODE_CALLS_MAX)),
            call_shares: Shares::new([NODE_CALLS_MAX], share),
            stream_shares: Shares::new([NODE_STREAMS_MAX], share),
            open_shares: Shares::new([NODE_OPEN_CALLS_MAX], share),
        })
    }

    /// How often a client would have had more than its share.
    pub(crate) fn shares_exceeded(&self) -> u64 {
        let bytes = self.requests.shares.exceeded() + self.answers.shares.exceeded();
        let calls = self.call_shares.exceeded() + self.open_shares.exceeded();
        bytes + calls + self.stream_shares.exceeded()
    }

    /// A client begins a stream, unless it has as many as it may.
    pub(crate) fn stream(&self, identity: Identity) -> Option<Share<1>> {
        self.stream_shares.take(identity, [1]).ok()
    }

    /// A call begins that is no stream, unless its address has as many as it may: one that may stay open for ever is
    /// counted with the streams.
    pub(super) fn open_call(&self, identity: Identity, shape: Shape) -> Option<Share<1>> {
        let shares = match shape {
            Shape::Unary => &self.open_shares,
            Shape::Watch | Shape::Stream => &self.stream_shares,
        };
        shares.take(identity, [1]).ok()
    }

    /// Less than half of the room for answers is left: whoever holds some and does nothing with it keeps
    /// others out.
    pub(super) fn is_short(&self) -> bool {
        self.answers.free.available_permits() < NODE_ANSWER_BYTES_MAX / 2
    }

    /// Bytes of requests and of answers that are held now.
    pub(crate) fn held_bytes(&self) -> (usize, usize) {
        (
            NODE_REQUEST_BYTES_MAX - self.requests.free.available_permits(),
            NODE_ANSWER_BYTES_MAX - self.answers.free.available_permits(),
        )
    }
}

/// The room of one connection.
#[derive(Debug)]
pub(crate) struct ConnectionRoom {
    node: Arc<NodeRoom>,
    /// Where it comes from.
    identity: Identity,
    requests: Arc<Semaphore>,
    answers: Arc<Semaphore>,
}

/// Room for some bytes, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    own: OwnedSemaphorePermit,
    node: Option<(OwnedSemaphorePermit, Share<1>)>,
}

impl Held {
    pub(crate) fn bytes(&self) -> usize {
        self.own.num_permits()
    }

    /// Takes another one in, of the same kind.
    pub(crate) fn merge(&mut self, other: Held) {
        self.own.merge(other.own);
        match (&mut self.node, other.node) {
            (Some((node, share)), Some((other, its_share))) => {
                node.merge(other);
                share.merge(its_share);
            }
            (node @ None, other) => *node = other,
            (Some(_), None) => {}
        }
    }
}

/// A place for one call of a stream.
#[derive(Debug)]
pub(crate) struct Place {
    _place: OwnedSemaphorePermit,
    _share: Share<1>,
}

impl ConnectionRoom {
    /// Of a connection from an address, if it is one.
    pub(crate) fn new(node: Arc<NodeRoom>, from: Option<IpAddr>) -> Arc<ConnectionRoom> {
        Arc::new(ConnectionRoom {
            node,
            identity: Identity::of(None, from.map(Owner::new)),
            requests: Arc::new(Semaphore::new(REQUEST_BYTES_MAX)),
            answers: Arc::new(Semaphore::new(ANSWER_BYTES_MAX)),
        })
    }

    pub(crate) fn node(&self) -> &NodeRoom {
        &self.node
    }

    /// Whoever the connection comes from.
    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// Room for a request, or for a call of a stream.
    pub(crate) async fn request(self: Arc<Self>, bytes: usize) -> Held {
        take(&self.requests, &self.node.requests, self.identity, bytes.min(REQUEST_BYTES_MAX)).await
    }

    /// Room for an answer.
    pub(crate) async fn answer(&self, bytes: usize) -> Held {
        take(&self.answers, &self.node.answers, self.identity, bytes.min(ANSWER_BYTES_MAX)).await
    }

    /// A place for a call of a stream.
    pub(crate) async fn place(&self, identity: Identity) -> Place {
        let share = self.node.call_shares.wait(identity, [1]).await;
        let place = Arc::clone(&self.node.calls).acquire_owned().await.expect(NEVER_CLOSED);
        Place { _place: place, _share: share }
    }
}

const NEVER_CLOSED: &str = "the room of a port is never closed";

async fn take(own: &Arc<Semaphore>, node: &Bytes, identity: Identity, bytes: usize) -> Held {
    let permits = u32::try_from(bytes).expect("the limits fit");
    let own = Arc::clone(own).acquire_many_owned(permits).await.expect(NEVER_CLOSED);
    let node = if bytes > SMALL_BYTES {
        let share = node.shares.wait(identity, [bytes]).await;
        let free = Arc::clone(&node.free);
        Some((free.acquire_many_owned(permits).await.expect(NEVER_CLOSED), share))
    } else {
        None
    };
    Held { own, node }
}

/// Where the room of answers waits for their bytes: who makes an answer puts it here, and the body of the
/// response takes it along when the bytes come by.
#[derive(Debug, Clone, Default)]
pub(crate) struct Along(Arc<Mutex<Option<Held>>>);

impl Along {
    /// With the room of one answer.
    pub(crate) fn with(held: Held) -> Along {
        Along(Arc::new(Mutex::new(Some(held))))
    }

    pub(crate) fn put(&self, held: Held) {
        let mut along = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *along {
            None => *along = Some(held),
            Some(along) => along.merge(held),
        }
    }

    pub(super) fn take(&self) -> Option<Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

const _: () = {
    assert!(REQUEST_BYTES_MAX >= 2 * limits::REQUEST_BYTES_MAX);
    assert!(ANSWER_BYTES_MAX >= 2 * limits::ANSWER_BYTES_MAX);
    assert!(NODE_REQUEST_BYTES_MAX >= 2 * REQUEST_BYTES_MAX);
    assert!(NODE_ANSWER_BYTES_MAX >= 2 * ANSWER_BYTES_MAX);
    // What a semaphore takes at once.
    assert!(ANSWER_BYTES_MAX <= u32::MAX as usize);
};

#[cfg(test)]
mod tests {
    use std::future::Future;

    use super::*;

    fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(future).poll(&mut context) {
            std::task::Poll::Ready(done) => Some(done),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn a_connection_waits_for_itself_first_and_for_the_node_when_all_use_it() {
        let node = NodeRoom::new(ShareRule::NONE);
        let mut held = Vec::new();
        for _ in 0..NODE_ANSWER_BYTES_MAX / ANSWER_BYTES_MAX {
            let connection = ConnectionRoom::new(Arc::clone(&node), None);
            held.push(now(connection.answer(ANSWER_BYTES_MAX)).expect("the node has room"));
            assert!(now(connection.answer(1)).is_none(), "the connection has used its own");
        }
        let another = ConnectionRoom::new(Arc::clone(&node), None);
        assert!(now(another.answer(SMALL_BYTES + 1)).is_none(), "the node has no more");
        assert!(now(another.answer(SMALL_BYTES)).is_some(), "small ones are not counted there");
        assert_eq!(node.held_bytes(), (0, NODE_ANSWER_BYTES_MAX));
        held.clear();
        assert!(now(another.answer(SMALL_BYTES + 1)).is_some());
        assert_eq!(node.held_bytes(), (0, 0));
    }

    #[test]
    fn room_that_was_merged_comes_back_whole() {
        let node = NodeRoom::new(ShareRule::NONE);
        let connection = ConnectionRoom::new(Arc::clone(&node), None);
        let along = Along::default();
        for bytes in [10, SMALL_BYTES + 1, 20, SMALL_BYTES + 2] {
            along.put(now(connection.answer(bytes)).expect("there is room"));
        }
        let held = along.take().expect("it was put there");
        assert_eq!(held.bytes(), 2 * SMALL_BYTES + 33);
        assert_eq!(node.held_bytes().1, 2 * SMALL_BYTES + 3);
        drop(held);
        assert_eq!(node.held_bytes().1, 0);
        assert!(now(connection.answer(ANSWER_BYTES_MAX)).is_some());
    }

    #[test]
    fn calls_that_are_open_are_shared_by_address() {
        let node = NodeRoom::new(ShareRule { percent: 75, report_only: false });
        let from = |last| ConnectionRoom::new(Arc::clone(&node), Some([10, 0, 0, last].into()));
        for (shape, max) in [(Shape::Unary, NODE_OPEN_CALLS_MAX), (Shape::Watch, NODE_STREAMS_MAX)]
        {
            let open = |from: &ConnectionRoom| node.open_call(from.identity(), shape);
            let (one, other) = (from(1), from(2));
            let held: Vec<_> = std::iter::from_fn(|| open(&one)).collect();
            assert_eq!(held.len(), max * 3 / 4, "{shape:?}");
            let others: Vec<_> = std::iter::from_fn(|| open(&other)).collect();
            assert_eq!(others.len(), max / 4 * 3 / 4, "{shape:?}");
            drop(held);
            assert!(open(&other).is_some(), "what is given back is there for all");
        }
    }

    #[test]
    fn whoever_uses_all_it_may_leaves_room_for_another_address() {
        let node = NodeRoom::new(ShareRule { percent: 75, report_only: false });
        let from = |last| Some(IpAddr::from([10, 0, 0, last]));
        let mut held = Vec::new();
        for _ in 0..NODE_ANSWER_BYTES_MAX / ANSWER_BYTES_MAX {
            let connection = ConnectionRoom::new(Arc::clone(&node), from(1));
            held.extend(now(connection.answer(ANSWER_BYTES_MAX)));
        }
        assert_eq!(held.len(), 6);
        let another = ConnectionRoom::new(Arc::clone(&node), from(2));
        held.push(now(another.answer(ANSWER_BYTES_MAX)).expect("others left some"));
        assert_eq!(node.shares_exceeded(), 2);
    }
}
