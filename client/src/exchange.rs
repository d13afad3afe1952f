//! One multiplexed stream to one node: calls of all tasks travel in packs, answers come back in any
//! order.
//!
//! There is no timer. A pack holds whatever was queued when the connection was ready for it: one
//! call for a lone caller, at once, and many under load. A call counts as *sent* from the moment it
//! is put into a pack; one that is still queued when the stream breaks certainly did not arrive.

use std::{
    collections::BTreeMap,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{Stream, future::select};
use prost::Message as _;
use tally_proto::{
    status::from_tonic,
    v1::{self, stream_client::StreamClient},
};
use tokio::{
    sync::{
        Notify,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::{Instant, timeout_at},
};
use tonic::{Code, transport::Channel};

use crate::wire::{MESSAGE_BYTES_MAX, Request, Response};

/// A node takes at most this many calls in one pack.
const PACK_CALLS_MAX: usize = 1024;
/// A pack is not filled above this, so that a small call does not wait behind many large ones.
const PACK_BYTES_MAX: usize = 1024 * 1024;
/// Calls that wait for the connection. Further callers wait for room here. No more than a node that stood
/// still can take at once.
const QUEUE_CALLS_MAX: usize = tally_proto::http2::SMALL_PACKS_WAITING_MAX;
/// While calls run out of time, deadlines are looked at this rarely: one may be told this much late.
const SWEEP_PAUSE: Duration = Duration::from_millis(5);

/// What became of one call on one stream.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The node answered; perhaps with an error.
    Answer(Response),
    /// No answer came. If it was sent, nobody here knows what the node did with it.
    Broken { sent: bool, status: v1::CallStatus },
}

/// A caller that waits for an answer.
#[derive(Debug)]
struct Waiter {
    reply: oneshot::Sender<Reply>,
    until: Instant,
    /// It was put into a pack.
    sent: bool,
}

impl Waiter {
    fn answer(self, reply: Reply) {
        // The caller may be leaving.
        let _ = self.reply.send(reply);
    }

    /// Says that no answer will come.
    fn give_up(self, status: v1::CallStatus) {
        let sent = self.sent;
        self.answer(Reply::Broken { sent, status });
    }
}

/// Calls under way, queued or sent. Whoever takes a waiter out answers it (an answer, the deadline,
/// the end of the stream) or is the caller itself, who leaves; a queued call without a waiter is not
/// sent. All of it happens under one lock, so "was it sent" has one answer.
///
/// # Deadlines
/// Timers for each call took an eighth of a pipelined client's CPU. So one task sleeps until the
/// earliest deadline and looks through all calls then: about once in the time that a call may take, or
/// as often as [`SWEEP_PAUSE`] allows while calls do run out of time. (It is a task of the runtime in
/// which the stream was opened: one that is no longer driven keeps no deadlines.)
#[derive(Debug, Default)]
struct Pending {
    state: Mutex<PendingState>,
    /// A deadline is earlier than what the sweep waits for, or the stream has ended.
    earlier: Notify,
    /// The node owes answers, or the stream has ended.
    owing: Notify,
}

#[derive(Debug, Default)]
struct PendingState {
    closed: bool,
    waiters: BTreeMap<u64, Waiter>,
    /// When deadlines are looked at next; no deadline of a waiter is earlier, but for the pause.
    sweep_at: Option<Instant>,
    /// Since when the node owes answers and has said nothing.
    silent_since: Option<Instant>,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, PendingState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a caller wait; not if the stream has ended.
    fn register(&self, id: u64, until: Instant) -> Option<oneshot::Receiver<Reply>> {
        let (reply, answered) = oneshot::channel();
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        state.waiters.insert(id, Waiter { reply, until, sent: false });
        let is_earliest = state.sweep_at.is_none_or(|at| until < at);
        if is_earliest {
            state.sweep_at = Some(until);
        }
        drop(state);
        if is_earliest {
            self.earlier.notify_one();
        }
        Some(answered)
    }

    fn complete(&self, answers: Vec<v1::Answer>) {
        let mut done = Vec::with_capacity(answers.len());
        {
            let mut state = self.lock();
            for answer in answers {
                if let Some(waiter) = state.waiters.remove(&answer.id) {
                    done.push((waiter, answer.response));
                }
            }
            state.silent_since = (!state.waiters.is_empty()).then(Instant::now);
        }
        for (waiter, response) in done {
            match response {
                Some(response) => waiter.answer(Reply::Answer(response)),
                None => waiter.give_up(local(Code::Internal, "the node's answer is empty")),
            }
        }
    }

    /// Answers those whose deadline has passed.
    fn sweep(&self, now: Instant) {
        let overdue = {
            let mut state = self.lock();
            let overdue = take_out(&mut state.waiters, |waiter| waiter.until <= now);
            let earliest = state.waiters.values().map(|waiter| waiter.until).min();
            state.sweep_at = earliest.map(|earliest| earliest.max(now + SWEEP_PAUSE));
            overdue
        };
        for waiter in overdue {
            waiter.give_up(local(Code::DeadlineExceeded, "no answer before the deadline"));
        }
    }

    /// The sending side is gone: what is queued is never sent.
    fn refuse_queued(&self) {
        let queued = take_out(&mut self.lock().waiters, |waiter| !waiter.sent);
        for waiter in queued {
            waiter.give_up(local(Code::Unavailable, "the stream ended"));
        }
    }

    /// No answer can come any more.
    fn close(&self, status: &v1::CallStatus) {
        let waiters = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.waiters)
        };
        self.earlier.notify_one();
        self.owing.notify_one();
        for waiter in waiters.into_values() {
            waiter.give_up(status.clone());
        }
    }
}

fn take_out(waiters: &mut BTreeMap<u64, Waiter>, is_it: impl Fn(&Waiter) -> bool) -> Vec<Waiter> {
    let ids: Vec<_> =
        waiters.iter().filter(|(_, waiter)| is_it(waiter)).map(|(id, _)| *id).collect();
    ids.into_iter().filter_map(|id| waiters.remove(&id)).collect()
}

/// Answers calls at their deadlines until the stream has ended.
async fn sweep(pending: Arc<Pending>) {
    loop {
        let earlier = pending.earlier.notified();
        let sweep_at = {
            let state = pending.lock();
            if state.closed {
                return;
            }
            state.sweep_at
        };
        match sweep_at {
            None => earlier.await,
            Some(at) => {
                if timeout_at(at, earlier).await.is_err() {
                    pending.sweep(Instant::now());
                }
            }
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
        let packer = Packer::new(queued, pending.clone());
        tokio::spawn(run(channel, packer, Closing(pending.clone())));
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

/// An error that this side noticed: it has no details.
pub(crate) fn local(code: Code, message: &str) -> v1::CallStatus {
    v1::CallStatus { code: code as i32, message: message.to_owned(), details: Vec::new() }
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
async fn run(channel: Channel, packer: Packer, closing: Closing) {
    let pending = &closing.0;
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

#[derive(Debug)]
struct Queued {
    call: v1::Call,
    bytes: usize,
}

/// The stream's sending side: makes a pack of what is queued whenever the connection wants one.
struct Packer {
    queued: mpsc::Receiver<Queued>,
    pending: Arc<Pending>,
    /// Taken from the queue, not yet in a pack.
    ready: Vec<Queued>,
    has_yielded: bool,
}

impl Drop for Packer {
    fn drop(&mut self) {
        // Closed first: a call that comes later finds no queue, one that came before is refused here.
        self.queued.close();
        self.pending.refuse_queued();
    }
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
    fn new(queued: mpsc::Receiver<Queued>, pending: Arc<Pending>) -> Self {
        Self { queued, pending, ready: Vec::new(), has_yielded: false }
    }

    /// The next pack, empty if all callers have left; nothing if the stream has ended.
    fn pack(&mut self) -> Option<Vec<v1::Call>> {
        let mut state = self.pending.lock();
        if state.closed {
            // The connection may hold on to this side of an ended stream: nobody must wait for that.
            self.queued.close();
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
        for Queued { call, .. } in self.ready.drain(..count) {
            if let Some(waiter) = state.waiters.get_mut(&call.id) {
                waiter.sent = true;
                calls.push(call);
            }
        }
        if state.silent_since.is_none() && !calls.is_empty() {
            state.silent_since = Some(Instant::now());
            self.pending.owing.notify_one();
        }
        Some(calls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A stream's sending side, and its queue.
    struct Sending {
        queue: mpsc::Sender<Queued>,
        pending: Arc<Pending>,
    }

    impl Sending {
        fn new() -> (Self, Packer) {
            let (queue, queued) = mpsc::channel(QUEUE_CALLS_MAX);
            let pending = Arc::new(Pending::default());
            (Self { queue, pending: pending.clone() }, Packer::new(queued, pending))
        }

        fn call(&self, id: u64, bytes: usize, within: Duration) -> oneshot::Receiver<Reply> {
            let answered = self.pending.register(id, Instant::now() + within).unwrap();
            let call = v1::Call { id, ..Default::default() };
            self.queue.try_send(Queued { call, bytes }).unwrap();
            answered
        }
    }

    impl Packer {
        fn take(&mut self) -> Option<Vec<u64>> {
            while let Ok(queued) = self.queued.try_recv() {
                self.ready.push(queued);
            }
            Some(self.pack()?.iter().map(|call| call.id).collect())
        }
    }

    fn was_sent(mut answered: oneshot::Receiver<Reply>) -> bool {
        match answered.try_recv() {
            Ok(Reply::Broken { sent, .. }) => sent,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_was_in_a_pack_was_sent_even_if_nobody_says_goodbye() {
        let (sending, mut packer) = Sending::new();
        let mut first = sending.call(1, 10, LONG);
        assert_eq!(packer.take(), Some(vec![1]));
        let second = sending.call(2, 10, LONG);
        drop(packer);
        assert!(!was_sent(second));
        assert!(first.try_recv().is_err(), "its answer may still come");
        drop(Closing(sending.pending));
        assert!(was_sent(first));
    }

    #[tokio::test]
    async fn an_ended_stream_sends_nothing_more() {
        let (sending, mut packer) = Sending::new();
        let first = sending.call(1, 10, LONG);
        assert_eq!(packer.take(), Some(vec![1]));
        let second = sending.call(2, 10, LONG);
        sending.pending.close(&local(Code::Unavailable, "ended"));
        assert!(was_sent(first) && !was_sent(second));
        assert_eq!(packer.take(), None);
        assert!(sending.queue.is_closed());
        assert!(sending.pending.register(3, Instant::now() + LONG).is_none());
    }

    #[tokio::test]
    async fn who_has_left_is_not_sent() {
        let (sending, mut packer) = Sending::new();
        let answered = sending.call(1, 10, LONG);
        drop(Waiting { pending: sending.pending.clone(), id: 1, answered });
        assert_eq!(packer.take(), Some(vec![]));
        assert!(sending.pending.lock().waiters.is_empty());
    }

    #[tokio::test]
    async fn packs_are_bounded() {
        let (sending, mut packer) = Sending::new();
        let _answers: Vec<_> =
            [(1, 2 * PACK_BYTES_MAX), (2, PACK_BYTES_MAX / 2), (3, PACK_BYTES_MAX)]
                .map(|(id, bytes)| sending.call(id, bytes, LONG))
                .into();
        for id in 1..=3 {
            assert_eq!(packer.take(), Some(vec![id]));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_told_from_idleness_and_from_slowness() {
        let (sending, mut packer) = Sending::new();
        let answers = Answers(sending.pending.clone());
        let second = Duration::from_secs(1);
        // Nobody asks for anything.
        assert!(timeout_at(Instant::now() + LONG, answers.fall_silent(second)).await.is_err());
        let calls = [1, 2, 3].map(|id| sending.call(id, 10, LONG));
        assert!(timeout_at(Instant::now() + LONG / 2, answers.fall_silent(second)).await.is_err());
        assert_eq!(packer.take(), Some(vec![1, 2, 3]));
        let begun = Instant::now();
        // An answer comes in time, and again.
        for id in [1, 2] {
            tokio::time::sleep(Duration::from_millis(900)).await;
            sending.pending.complete(vec![v1::Answer { id, response: None }]);
        }
        assert!(answers.fall_silent(second).await);
        assert_eq!(begun.elapsed(), Duration::from_millis(2800));
        answers.give_up("another one leads");
        assert!(!answers.fall_silent(second).await);
        let [_, _, third] = calls;
        assert!(was_sent(third));
    }

    #[tokio::test(start_paused = true)]
    async fn each_deadline_is_kept_whatever_comes_before_or_after() {
        let (sending, mut packer) = Sending::new();
        tokio::spawn(sweep(sending.pending.clone()));
        let started = Instant::now();
        let late = sending.call(1, 10, Duration::from_millis(300));
        assert_eq!(packer.take(), Some(vec![1]));
        tokio::time::sleep(Duration::from_millis(1)).await;
        // Earlier than what the sweep waits for by now; never sent.
        let early = sending.call(2, 10, Duration::from_millis(100));
        assert!(matches!(early.await, Ok(Reply::Broken { sent: false, .. })));
        assert_eq!(started.elapsed().as_millis(), 101);
        assert_eq!(packer.take(), Some(vec![]));
        assert!(matches!(late.await, Ok(Reply::Broken { sent: true, .. })));
        assert_eq!(started.elapsed().as_millis(), 300);
        // After a time without calls, too.
        tokio::time::sleep(LONG).await;
        assert_eq!(sending.pending.lock().sweep_at, None);
        let started = Instant::now();
        let last = sending.call(3, 10, Duration::from_millis(10));
        assert!(matches!(last.await, Ok(Reply::Broken { sent: false, .. })));
        assert_eq!(started.elapsed().as_millis(), 10);
    }
}
