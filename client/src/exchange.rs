//! One multiplexed stream to one node: calls of all tasks travel in packs, answers come back in any
//! order.
//!
//! There is no timer. A pack holds whatever was queued when the connection was ready for it: one
//! call for a lone caller, at once, and many under load. A call counts as *sent* from the moment it
//! is put into a pack; one that is still queued when the stream breaks certainly did not arrive.

mod pack;
mod pending;
#[cfg(test)]
mod tests;

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::select;
use prost::Message as _;
use tally_proto::v1::{self, stream_client::StreamClient};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::{Instant, timeout_at},
};
use tonic::{Code, transport::Channel};

pub(crate) use self::pending::{Reply, local};
use self::{
    pack::{Packer, Queued},
    pending::{Pending, sweep},
};
use crate::{
    cause::with_cause,
    traces,
    wire::{Bearer, MESSAGE_BYTES_MAX, Request},
};

/// Calls that wait for the connection. Further callers wait for room here. No more than a node that stood
/// still can take at once.
const QUEUE_CALLS_MAX: usize = tally_proto::http2::SMALL_PACKS_WAITING_MAX;

/// One stream to one node.
#[derive(Debug)]
pub(crate) struct Exchange {
    queue: mpsc::Sender<Queued>,
    pending: Arc<Pending>,
    next_id: AtomicU64,
}

impl Exchange {
    /// Opens a stream. Calls can be queued at once; they do not wait for the node's first word.
    pub(crate) fn open(channel: Channel, token: Option<&Bearer>) -> Self {
        let (queue, queued) = mpsc::channel(QUEUE_CALLS_MAX);
        let pending = Arc::new(Pending::default());
        let packer = Packer::new(queued, pending.clone());
        let mut request = tonic::Request::new(packer);
        Bearer::show(token, &mut request);
        tokio::spawn(run(channel, request, Closing(pending.clone())));
        tokio::spawn(sweep(pending.clone()));
        Self { queue, pending, next_id: AtomicU64::new(1) }
    }

    /// Whether answers come.
    pub(crate) fn answers(&self) -> Answers {
        Answers(self.pending.clone())
    }

    /// It can take no more calls.
    pub(crate) fn is_closed(&self) -> bool {
        self.queue.is_closed() || self.pending.lock().closed
    }

    /// Queues a call, whose answer can be waited for until then. It is not asynchronous itself, so that
    /// the future does not hold the request, too.
    pub(crate) fn call(&self, request: Request, until: Instant) -> Calling {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let call = v1::Call {
            id,
            deadline_ms: milliseconds(until.saturating_duration_since(Instant::now())),
            request_id: String::new(),
            traceparent: traces::current(),
            request: Some(request),
        };
        let Some(answered) = self.pending.register(id, until) else {
            return Calling::Ended;
        };
        let waiting = Waiting { pending: self.pending.clone(), id, answered };
        match self.queue.try_send(Queued { bytes: call.encoded_len(), call }) {
            Ok(()) => Calling::Queued(waiting),
            Err(TrySendError::Closed(_)) => Calling::Ended,
            Err(TrySendError::Full(queued)) => {
                let queue = self.queue.clone();
                let sending = async move {
                    match timeout_at(until, queue.send(queued)).await {
                        Ok(Ok(())) => std::future::pending().await,
                        Ok(Err(_)) => not_sent(Code::Unavailable, ENDED),
                        Err(_) => not_sent(Code::DeadlineExceeded, "too many calls were waiting"),
                    }
                };
                // The end of the stream is told to those without a place, too, and first.
                Calling::Waits(Box::pin(async move {
                    select(pin!(waiting.reply()), pin!(sending)).await.factor_first().0
                }))
            }
        }
    }
}

/// The answers that a stream owes.
pub(crate) struct Answers(Arc<Pending>);

impl Answers {
    /// Waits until the node has said nothing for so long though it owes answers; false if the stream has
    /// ended.
    pub(crate) async fn fall_silent(&self, for_so_long: Duration) -> bool {
        loop {
            let owing = self.0.owing.notified();
            let since = {
                let state = self.0.lock();
                if state.closed {
                    return false;
                }
                state.silent_since
            };
            match since {
                None => owing.await,
                Some(since) if since.elapsed() >= for_so_long => return true,
                Some(since) => {
                    let _ended = timeout_at(since + for_so_long, owing).await;
                }
            }
        }
    }

    /// Waits for them no longer. Whoever does is told that nobody knows what became of the call.
    pub(crate) fn give_up(&self, why: &str) {
        self.0.close(&local(Code::Unavailable, why));
    }
}

const ENDED: &str = "the stream has ended";

/// A call that was made.
pub(crate) enum Calling {
    /// It is in the queue.
    Queued(Waiting),
    /// It waits for a place there.
    Waits(Pin<Box<dyn Future<Output = Reply> + Send>>),
    /// The stream takes no more calls.
    Ended,
}

impl Calling {
    /// What became of it.
    pub(crate) async fn reply(self) -> Reply {
        match self {
            Self::Queued(waiting) => waiting.reply().await,
            Self::Waits(reply) => reply.await,
            Self::Ended => not_sent(Code::Unavailable, ENDED),
        }
    }
}

fn not_sent(code: Code, message: &str) -> Reply {
    Reply::Broken { sent: false, status: local(code, message) }
}

/// A deadline on the wire: never 0, which would ask for the node's default.
fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX).max(1)
}

/// A caller that leaves before it was answered takes its waiter with it, and a call that is still
/// queued then is never sent.
pub(crate) struct Waiting {
    pending: Arc<Pending>,
    id: u64,
    answered: oneshot::Receiver<Reply>,
}

impl Waiting {
    async fn reply(mut self) -> Reply {
        // A waiter is taken out to be answered, so no reply is a defect: assume the worst.
        (&mut self.answered).await.unwrap_or_else(|_| Reply::Broken {
            sent: true,
            status: local(Code::Unknown, "no answer"),
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.answered.is_terminated() {
            self.pending.lock().waiters.remove(&self.id);
        }
    }
}

/// Ends the waiting of all, also if the task that would say so is dropped.
struct Closing(Arc<Pending>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close(&local(Code::Unavailable, "the stream ended"));
    }
}

/// Runs the stream until it ends, then tells everybody who still waits.
async fn run(channel: Channel, packer: tonic::Request<Packer>, closing: Closing) {
    let pending = &closing.0;
    let mut client = StreamClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let status = match client.exchange(packer).await {
        Err(status) => with_cause(&status),
        Ok(response) => {
            let mut answers = response.into_inner();
            loop {
                match answers.message().await {
                    Ok(Some(pack)) => pending.complete(pack.answers),
                    Ok(None) => break local(Code::Unavailable, "the node ended the stream"),
                    Err(status) => break with_cause(&status),
                }
            }
        }
    };
    // Whatever the node says about the stream as a whole is no answer to any call in it.
    let status = v1::CallStatus { details: Vec::new(), ..status };
    pending.close(&status);
}
