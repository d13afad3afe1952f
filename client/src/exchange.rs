//! One multiplexed stream to one node: calls of all tasks travel in packs, answers come back in any
//! order.
//!
//! There is no timer. A pack holds whatever was queued when the connection was ready for it: one
//! call for a lone caller, at once, and many under load. A call counts as *sent* from the moment it
//! is put into a pack; one that is still queued when the stream breaks certainly did not arrive.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::Stream;
use prost::Message as _;
use tally_proto::{
    status::from_tonic,
    v1::{self, stream_client::StreamClient},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};
use tonic::{Code, transport::Channel};

use crate::wire::{MESSAGE_BYTES_MAX, Request, Response};

/// A node takes at most this many calls in one pack.
const PACK_CALLS_MAX: usize = 1024;
/// A pack is not filled above this, so that a small call does not wait behind many large ones.
const PACK_BYTES_MAX: usize = 1024 * 1024;
/// Calls that wait for the connection. Further callers wait for room here.
const QUEUE_CALLS_MAX: usize = 8 * 1024;

/// What became of one call on one stream.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The node answered; perhaps with an error.
    Answer(Response),
    /// No answer came. If it was sent, nobody here knows what the node did with it.
    Broken { sent: bool, status: v1::CallStatus },
}

/// Answers one caller, whatever happens: dropped, it says that no answer can come any more.
#[derive(Debug)]
struct Waiter {
    reply: Option<oneshot::Sender<Reply>>,
    sent: bool,
}

impl Waiter {
    fn answer(mut self, reply: Reply) {
        if let Some(sender) = self.reply.take() {
            // The caller may have left at its deadline.
            let _ = sender.send(reply);
        }
    }

    fn has_left(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(sender) = self.reply.take() {
            let status = local(Code::Unavailable, "the stream ended");
            let _ = sender.send(Reply::Broken { sent: self.sent, status });
        }
    }
}

#[derive(Debug)]
struct Queued {
    call: v1::Call,
    bytes: usize,
    waiter: Waiter,
}

/// Calls in flight. A call enters and leaves under one lock, so "was it sent" has one answer.
#[derive(Debug, Default)]
struct Pending(Mutex<PendingState>);

#[derive(Debug, Default)]
struct PendingState {
    closed: bool,
    waiters: BTreeMap<u64, Waiter>,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, PendingState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn complete(&self, answers: Vec<v1::Answer>) {
        let mut done = Vec::with_capacity(answers.len());
        {
            let mut state = self.lock();
            for answer in answers {
                if let (Some(waiter), Some(response)) =
                    (state.waiters.remove(&answer.id), answer.response)
                {
                    done.push((waiter, response));
                }
            }
        }
        for (waiter, response) in done {
            waiter.answer(Reply::Answer(response));
        }
    }

    fn close(&self, status: &v1::CallStatus) {
        let waiters = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.waiters)
        };
        for waiter in waiters.into_values() {
            waiter.answer(Reply::Broken { sent: true, status: status.clone() });
        }
    }
}

/// One stream to one node.
#[derive(Debug)]
pub(crate) struct Exchange {
    queue: mpsc::Sender<Queued>,
    pending: Arc<Pending>,
    next_id: AtomicU64,
}

impl Exchange {
    /// Opens a stream. Calls can be queued at once; they do not wait for the node's first word.
    pub(crate) fn open(channel: Channel) -> Self {
        let (queue, queued) = mpsc::channel(QUEUE_CALLS_MAX);
        let pending = Arc::new(Pending::default());
        let packer =
            Packer { queued, pending: pending.clone(), ready: Vec::new(), has_yielded: false };
        tokio::spawn(run(channel, packer, pending.clone()));
        Self { queue, pending, next_id: AtomicU64::new(1) }
    }

    /// It can take no more calls.
    pub(crate) fn is_closed(&self) -> bool {
        self.queue.is_closed() || self.pending.lock().closed
    }

    /// Sends a call and waits for its answer, until then.
    pub(crate) async fn call(&self, request: Request, until: Instant) -> Reply {
        let (reply, answered) = oneshot::channel();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let call = v1::Call {
            id,
            deadline_ms: milliseconds(until.saturating_duration_since(Instant::now())),
            request_id: String::new(),
            request: Some(request),
        };
        let bytes = call.encoded_len();
        let queued = Queued { call, bytes, waiter: Waiter { reply: Some(reply), sent: false } };
        let mut waiting = Waiting { pending: &self.pending, id, answered, done: false };
        match timeout_at(until, self.queue.send(queued)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return not_sent(Code::Unavailable, "the stream has ended"),
            Err(_) => return not_sent(Code::DeadlineExceeded, "too many calls were waiting"),
        }
        match timeout_at(until, &mut waiting.answered).await {
            Ok(Ok(reply)) => {
                waiting.done = true;
                reply
            }
            // Nobody dropped the waiter's promise in an orderly way: assume the worst.
            Ok(Err(_)) => Reply::Broken { sent: true, status: local(Code::Unknown, "no answer") },
            Err(_) => waiting.leave(),
        }
    }
}

fn not_sent(code: Code, message: &str) -> Reply {
    Reply::Broken { sent: false, status: local(code, message) }
}

/// An error that this side noticed: it has no details.
pub(crate) fn local(code: Code, message: &str) -> v1::CallStatus {
    v1::CallStatus { code: code as i32, message: message.to_owned(), details: Vec::new() }
}

/// A deadline on the wire: never 0, which would ask for the node's default.
fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX).max(1)
}

/// A caller that waits. One that leaves, at its deadline or because its future was dropped, takes
/// its entry with it, and a call that is still queued then is never sent.
struct Waiting<'a> {
    pending: &'a Pending,
    id: u64,
    answered: oneshot::Receiver<Reply>,
    done: bool,
}

impl Waiting<'_> {
    fn leave(mut self) -> Reply {
        self.done = true;
        // Closed before the lock is taken: a packer that comes later sees it and leaves the call out.
        self.answered.close();
        let waiter = self.pending.lock().waiters.remove(&self.id);
        if let Ok(reply) = self.answered.try_recv() {
            return reply;
        }
        let status = local(Code::DeadlineExceeded, "no answer before the deadline");
        Reply::Broken { sent: waiter.is_some(), status }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.answered.close();
            self.pending.lock().waiters.remove(&self.id);
        }
    }
}

/// Runs the stream until it ends, then tells everybody who still waits.
async fn run(channel: Channel, packer: Packer, pending: Arc<Pending>) {
    let mut client = StreamClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let status = match client.exchange(packer).await {
        Err(status) => from_tonic(&status),
        Ok(response) => {
            let mut answers = response.into_inner();
            loop {
                match answers.message().await {
                    Ok(Some(pack)) => pending.complete(pack.answers),
                    Ok(None) => break local(Code::Unavailable, "the node ended the stream"),
                    Err(status) => break from_tonic(&status),
                }
            }
        }
    };
    // Whatever the node says about the stream as a whole is no answer to any call in it.
    let status = v1::CallStatus { details: Vec::new(), ..status };
    pending.close(&status);
}

/// The stream's sending side: makes a pack of what is queued whenever the connection wants one.
struct Packer {
    queued: mpsc::Receiver<Queued>,
    pending: Arc<Pending>,
    /// Taken from the queue, not yet in a pack.
    ready: Vec<Queued>,
    has_yielded: bool,
}

impl Stream for Packer {
    type Item = v1::StreamExchangeRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if this.ready.is_empty() {
                this.has_yielded = false;
                if ready!(this.queued.poll_recv_many(cx, &mut this.ready, PACK_CALLS_MAX)) == 0 {
                    return Poll::Ready(None);
                }
            }
            if !this.has_yielded {
                // The scheduler runs a task that was just woken next. Standing back once lets the
                // other callers, woken by the same pack of answers, queue theirs too; a lone caller
                // waits for nobody.
                this.has_yielded = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let room = PACK_CALLS_MAX.saturating_sub(this.ready.len());
            if room > 0 {
                // Pending or closed makes no difference: there is something to send.
                let _ = this.queued.poll_recv_many(cx, &mut this.ready, room);
            }
            let Some(calls) = this.pack() else { return Poll::Ready(None) };
            if !calls.is_empty() {
                return Poll::Ready(Some(v1::StreamExchangeRequest { calls }));
            }
        }
    }
}

impl Packer {
    /// The next pack, empty if all callers have left; nothing if the stream has ended.
    fn pack(&mut self) -> Option<Vec<v1::Call>> {
        let mut state = self.pending.lock();
        if state.closed {
            drop(state);
            self.refuse_what_is_queued();
            return None;
        }
        let mut bytes = 0;
        let mut fits = |queued: &Queued| {
            let first = bytes == 0;
            bytes += queued.bytes;
            first || bytes <= PACK_BYTES_MAX
        };
        let count = self.ready.iter().take_while(|queued| fits(queued)).count();
        let mut calls = Vec::with_capacity(count);
        for Queued { call, mut waiter, .. } in self.ready.drain(..count) {
            if !waiter.has_left() {
                waiter.sent = true;
                state.waiters.insert(call.id, waiter);
                calls.push(call);
            }
        }
        Some(calls)
    }

    /// The connection may hold on to this side of an ended stream: nobody must wait for that.
    fn refuse_what_is_queued(&mut self) {
        self.ready.clear();
        self.queued.close();
        while self.queued.try_recv().is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(id: u64) -> (Queued, oneshot::Receiver<Reply>) {
        let (reply, answered) = oneshot::channel();
        let call = v1::Call { id, ..Default::default() };
        (Queued { call, bytes: 10, waiter: Waiter { reply: Some(reply), sent: false } }, answered)
    }

    fn packer() -> (mpsc::Sender<Queued>, Packer) {
        let (queue, queued) = mpsc::channel(QUEUE_CALLS_MAX);
        let pending = Arc::new(Pending::default());
        (queue, Packer { queued, pending, ready: Vec::new(), has_yielded: false })
    }

    fn was_sent(answered: oneshot::Receiver<Reply>) -> bool {
        match answered.blocking_recv() {
            Ok(Reply::Broken { sent, .. }) => sent,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_in_a_pack_was_sent_even_if_nobody_says_goodbye() {
        let (queue, mut packer) = packer();
        let (first, first_answered) = queued(1);
        let (second, second_answered) = queued(2);
        packer.ready.push(first);
        assert_eq!(packer.pack().map(|calls| calls.len()), Some(1));
        queue.try_send(second).unwrap();
        drop(packer);
        assert!(was_sent(first_answered));
        assert!(!was_sent(second_answered));
    }

    #[test]
    fn an_ended_stream_sends_nothing_more() {
        let (queue, mut packer) = packer();
        let (sent, sent_answered) = queued(1);
        packer.ready.push(sent);
        assert!(packer.pack().is_some());
        packer.pending.close(&local(Code::Unavailable, "ended"));
        let (late, late_answered) = queued(2);
        let (later, later_answered) = queued(3);
        packer.ready.push(late);
        queue.try_send(later).unwrap();
        assert!(packer.pack().is_none());
        assert!(was_sent(sent_answered));
        assert!(!was_sent(late_answered) && !was_sent(later_answered));
        assert!(queue.is_closed());
    }

    #[test]
    fn who_has_left_is_not_sent() {
        let (_queue, mut packer) = packer();
        let (left, answered) = queued(1);
        drop(answered);
        packer.ready.push(left);
        assert_eq!(packer.pack().map(|calls| calls.len()), Some(0));
        assert!(packer.pending.lock().waiters.is_empty());
    }

    #[test]
    fn packs_are_bounded() {
        let (_queue, mut packer) = packer();
        let mut answers = Vec::new();
        for (id, bytes) in [(1, 2 * PACK_BYTES_MAX), (2, PACK_BYTES_MAX / 2), (3, PACK_BYTES_MAX)] {
            let (mut call, answered) = queued(id);
            call.bytes = bytes;
            packer.ready.push(call);
            answers.push(answered);
        }
        for id in 1..=3 {
            let calls = packer.pack().unwrap();
            assert_eq!(calls.iter().map(|call| call.id).collect::<Vec<_>>(), [id]);
        }
    }
}
