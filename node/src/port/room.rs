//! Room for what callers send and are sent: bytes of a connection, and of the node.
//!
//! # Nobody waits for a waiter
//! Room of the connection is taken first, then room of the node, each in the order of asking. Who has
//! room for an answer never waits for room for a request. Who has room for a request may wait for room
//! for an answer; that comes back when answers are read, when their deadlines pass, when their
//! connection is closed since it does not read, or when they don't move while the node has little room left.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::SMALL_BYTES;
use crate::machine::limits;

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

/// The room of a port.
#[derive(Debug)]
pub(crate) struct NodeRoom {
    requests: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    calls: Arc<Semaphore>,
}

impl NodeRoom {
    pub(crate) fn new() -> Arc<NodeRoom> {
        Arc::new(NodeRoom {
            requests: Arc::new(Semaphore::new(NODE_REQUEST_BYTES_MAX)),
            answers: Arc::new(Semaphore::new(NODE_ANSWER_BYTES_MAX)),
            calls: Arc::new(Semaphore::new(NODE_CALLS_MAX)),
        })
    }

    /// Less than half of the room for answers is left: whoever holds some and does nothing with it keeps
    /// others out.
    pub(super) fn is_short(&self) -> bool {
        self.answers.available_permits() < NODE_ANSWER_BYTES_MAX / 2
    }

    /// Bytes of requests and of answers that are held now.
    pub(crate) fn held_bytes(&self) -> (usize, usize) {
        (
            NODE_REQUEST_BYTES_MAX - self.requests.available_permits(),
            NODE_ANSWER_BYTES_MAX - self.answers.available_permits(),
        )
    }
}

/// The room of one connection.
#[derive(Debug)]
pub(crate) struct ConnectionRoom {
    node: Arc<NodeRoom>,
    requests: Arc<Semaphore>,
    answers: Arc<Semaphore>,
}

/// Room for some bytes, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    own: OwnedSemaphorePermit,
    node: Option<OwnedSemaphorePermit>,
}

impl Held {
    pub(crate) fn bytes(&self) -> usize {
        self.own.num_permits()
    }

    /// Takes another one in, of the same kind.
    pub(crate) fn merge(&mut self, other: Held) {
        self.own.merge(other.own);
        match (&mut self.node, other.node) {
            (Some(node), Some(other)) => node.merge(other),
            (node @ None, other) => *node = other,
            (Some(_), None) => {}
        }
    }
}

/// A place for one call of a stream.
pub(crate) type Place = OwnedSemaphorePermit;

impl ConnectionRoom {
    pub(crate) fn new(node: Arc<NodeRoom>) -> Arc<ConnectionRoom> {
        Arc::new(ConnectionRoom {
            node,
            requests: Arc::new(Semaphore::new(REQUEST_BYTES_MAX)),
            answers: Arc::new(Semaphore::new(ANSWER_BYTES_MAX)),
        })
    }

    pub(super) fn node(&self) -> &NodeRoom {
        &self.node
    }

    /// Room for a request, or for a call of a stream.
    pub(crate) async fn request(self: Arc<Self>, bytes: usize) -> Held {
        take(&self.requests, &self.node.requests, bytes.min(REQUEST_BYTES_MAX)).await
    }

    /// Room for an answer.
    pub(crate) async fn answer(&self, bytes: usize) -> Held {
        take(&self.answers, &self.node.answers, bytes.min(ANSWER_BYTES_MAX)).await
    }

    /// A place for a call of a stream.
    pub(crate) async fn place(&self) -> Place {
        Arc::clone(&self.node.calls).acquire_owned().await.expect(NEVER_CLOSED)
    }
}

const NEVER_CLOSED: &str = "the room of a port is never closed";

async fn take(own: &Arc<Semaphore>, node: &Arc<Semaphore>, bytes: usize) -> Held {
    let permits = u32::try_from(bytes).expect("the limits fit");
    let own = Arc::clone(own).acquire_many_owned(permits).await.expect(NEVER_CLOSED);
    let node = if bytes > SMALL_BYTES {
        Some(Arc::clone(node).acquire_many_owned(permits).await.expect(NEVER_CLOSED))
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
        let node = NodeRoom::new();
        let mut held = Vec::new();
        for _ in 0..NODE_ANSWER_BYTES_MAX / ANSWER_BYTES_MAX {
            let connection = ConnectionRoom::new(Arc::clone(&node));
            held.push(now(connection.answer(ANSWER_BYTES_MAX)).expect("the node has room"));
            assert!(now(connection.answer(1)).is_none(), "the connection has used its own");
        }
        let another = ConnectionRoom::new(Arc::clone(&node));
        assert!(now(another.answer(SMALL_BYTES + 1)).is_none(), "the node has no more");
        assert!(now(another.answer(SMALL_BYTES)).is_some(), "small ones are not counted there");
        assert_eq!(node.held_bytes(), (0, NODE_ANSWER_BYTES_MAX));
        held.clear();
        assert!(now(another.answer(SMALL_BYTES + 1)).is_some());
        assert_eq!(node.held_bytes(), (0, 0));
    }

    #[test]
    fn room_that_was_merged_comes_back_whole() {
        let node = NodeRoom::new();
        let connection = ConnectionRoom::new(Arc::clone(&node));
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
}
