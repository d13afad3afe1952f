//! One stream of appends: which requests are sent and when, which answers are owed, and when it ends.
//!
//! It promises that a stream which can bring nothing any more ends in an error, so that openraft opens
//! another: where what the peer needs is purged, where an answer is owed for too long, and where the peer
//! comes back after a silence. Leaves out: opening it, and over which connection; that is `network`.

#[cfg(test)]
mod tests;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use openraft::{
    errors::RPCError,
    raft::{AppendEntriesRequest, StreamAppendResult},
};
use tally_proto::peer::v1 as wire;
use tokio::sync::watch;

use super::{PurgedUpTo, network_error};
use crate::{consensus::types::TypeConfig, peer::convert};

/// Whether a request of replication is empty because its entries are purged.
///
/// A reader of the log answers such a request with nothing (`consensus::log_store`), which openraft
/// takes for a heartbeat: it asks for the same entries again, for ever, and never learns that the
/// follower got a snapshot meanwhile and needs later ones. Found by the simulator (seed 44: a
/// follower that stood still until its leader was replaced). So the stream ends in an error instead.
fn is_purged(request: &AppendEntriesRequest<TypeConfig>, purged: Option<u64>) -> bool {
    let next = request.prev_log_id.as_ref().map_or(0, |prev| prev.index + 1);
    request.entries.is_empty() && purged.is_some_and(|purged| next <= purged)
}

/// How long a request that says nothing but how far the log is committed waits for one with entries,
/// which says it too.
///
/// While writes come, that saves two of the five messages of an entry (commit and its answer, for
/// each follower). When no more come, followers learn of the last one that much later, so a read of
/// it at a follower, at a level that waits for it, takes that much longer. No promise depends on when
/// a follower learns what is committed: its reads wait for the index that they need.
const COMMIT_HOLD: Duration = Duration::from_millis(1);

/// Requests as they are sent.
pub(super) struct Outgoing<S> {
    pub(super) first: Option<AppendEntriesRequest<TypeConfig>>,
    pub(super) requests: S,
    /// Without entries; waits for [`COMMIT_HOLD`], and is left out if another request comes.
    pub(super) held: Option<AppendEntriesRequest<TypeConfig>>,
    /// Ends the wait.
    pub(super) hold: Option<Pin<Box<tokio::time::Sleep>>>,
    /// No more requests come.
    pub(super) ended: bool,
    /// Where it is replication, which ends when it asks for what is purged.
    pub(super) purged: Option<PurgedUpTo>,
    pub(super) progress: Arc<Progress>,
    pub(super) cluster_id: String,
    pub(super) target: u64,
}

impl<S> Outgoing<S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    /// The next that is to be sent now.
    fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<AppendEntriesRequest<TypeConfig>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        loop {
            if self.ended {
                return Poll::Ready(self.held.take());
            }
            match self.requests.poll_next_unpin(cx) {
                Poll::Ready(Some(request)) if request.entries.is_empty() => {
                    // A later one knows all that an earlier one does, and does not start the wait
                    // again.
                    if self.held.replace(request).is_none() {
                        let until = tokio::time::Instant::now() + COMMIT_HOLD;
                        match &mut self.hold {
                            Some(hold) => hold.as_mut().reset(until),
                            hold => *hold = Some(Box::pin(tokio::time::sleep_until(until))),
                        }
                    }
                }
                Poll::Ready(Some(request)) => {
                    self.held = None;
                    return Poll::Ready(Some(request));
                }
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => {
                    let (Some(_), Some(hold)) = (&self.held, &mut self.hold) else {
                        return Poll::Pending;
                    };
                    ready!(hold.as_mut().poll(cx));
                    return Poll::Ready(self.held.take());
                }
            }
        }
    }
}

impl<S> Stream for Outgoing<S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    type Item = wire::AppendRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(request) = ready!(self.poll_request(cx)) else {
            return Poll::Ready(None);
        };
        if self.purged.as_ref().is_some_and(|purged| is_purged(&request, purged())) {
            self.progress.met_purged.store(true, Ordering::Relaxed);
            return Poll::Ready(None);
        }
        self.progress.sent.fetch_add(1, Ordering::Relaxed);
        let request = convert::append_to_wire(request, self.cluster_id.clone(), self.target);
        Poll::Ready(Some(request))
    }
}

/// How an append stream goes.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Requests that were sent.
    sent: AtomicU64,
    /// It ended because the next entries are purged.
    met_purged: AtomicBool,
    /// It ended because an answer did not come, or may be long in coming.
    pub(super) owes_an_answer: AtomicBool,
}

/// The answers of an append stream; one that is owed for too long ends it, and so does the end of a silence,
/// as the connection may be slower to notice that than a new one.
pub(super) fn timed_answers(
    answers: tonic::Streaming<wire::AppendResponse>,
    progress: Arc<Progress>,
    timeout: Duration,
    comings_back: Option<watch::Receiver<u64>>,
) -> impl Stream<Item = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>> {
    let answered = 0_u64;
    stream::unfold(Some((answers, answered, comings_back)), move |state| {
        let progress = Arc::clone(&progress);
        async move {
            let (mut answers, answered, mut comings_back) = state?;
            let next = loop {
                let came_back = async {
                    match &mut comings_back {
                        Some(comings_back) => comings_back.changed().await.is_ok(),
                        None => std::future::pending().await,
                    }
                };
                let next = tokio::select! {
                    biased;
                    next = tokio::time::timeout(timeout, answers.message()) => next,
                    true = came_back => {
                        progress.owes_an_answer.store(true, Ordering::Relaxed);
                        let error = network_error("the peer has come back after a silence");
                        return Some((Err(RPCError::Network(error)), None));
                    }
                };
                match next {
                    Ok(next) => break next,
                    // Nothing is owed: an idle stream may stay silent.
                    Err(_) if progress.sent.load(Ordering::Relaxed) == answered => {}
                    Err(_) => {
                        progress.owes_an_answer.store(true, Ordering::Relaxed);
                        let error = network_error("the peer owes an answer for too long");
                        return Some((Err(RPCError::Network(error)), None));
                    }
                }
            };
            match next {
                Ok(Some(response)) => {
                    let result = convert::append_result_from_wire(response)
                        .map_err(|error| RPCError::Network(network_error(error)));
                    Some((result, Some((answers, answered + 1, comings_back))))
                }
                Ok(None) if progress.met_purged.load(Ordering::Relaxed) => {
                    let error = network_error("what the peer needs next is purged from the log");
                    Some((Err(RPCError::Network(error)), None))
                }
                Ok(None) => None,
                Err(status) => Some((Err(RPCError::Network(network_error(status))), None)),
            }
        }
    })
}
