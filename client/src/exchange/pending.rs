//! Callers that wait for an answer, from when their call is queued until they are told.
//!
//! It promises that each of them is told once, also at its deadline and at the end of the stream, and
//! whether its call was sent. Leaves out: how a call gets into a pack (`pack`), and the stream itself.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tally_proto::v1;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, timeout_at},
};
use tonic::Code;

use crate::wire::Response;

/// While calls run out of time, deadlines are looked at this rarely: one may be told this much late.
const SWEEP_PAUSE: Duration = Duration::from_millis(5);

/// What became of one call on one stream.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The node answered; perhaps with an error.
    Answer(Response),
    /// No answer came. If it was sent, nobody here knows what the node did with it.
    Broken { sent: bool, status: v1::CallStatus },
    /// Nothing listens at the node's address: it was not sent.
    Refused(v1::CallStatus),
}

/// A caller that waits for an answer.
#[derive(Debug)]
pub(super) struct Waiter {
    reply: oneshot::Sender<Reply>,
    until: Instant,
    /// It was put into a pack.
    pub(super) sent: bool,
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
pub(super) struct Pending {
    state: Mutex<PendingState>,
    /// A deadline is earlier than what the sweep waits for, or the stream has ended.
    earlier: Notify,
    /// The node owes answers, or the stream has ended.
    pub(super) owing: Notify,
}

#[derive(Debug, Default)]
pub(super) struct PendingState {
    pub(super) closed: bool,
    pub(super) waiters: BTreeMap<u64, Waiter>,
    /// When deadlines are looked at next; no deadline of a waiter is earlier, but for the pause.
    pub(super) sweep_at: Option<Instant>,
    /// Since when the node owes answers and has said nothing.
    pub(super) silent_since: Option<Instant>,
}

impl Pending {
    pub(super) fn lock(&self) -> MutexGuard<'_, PendingState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a caller wait; not if the stream has ended.
    pub(super) fn register(&self, id: u64, until: Instant) -> Option<oneshot::Receiver<Reply>> {
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

    pub(super) fn complete(&self, answers: Vec<v1::Answer>) {
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
    pub(super) fn refuse_queued(&self) {
        let queued = take_out(&mut self.lock().waiters, |waiter| !waiter.sent);
        for waiter in queued {
            waiter.give_up(local(Code::Unavailable, "the stream ended"));
        }
    }

    /// No answer can come any more.
    pub(super) fn close(&self, status: &v1::CallStatus) {
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
pub(super) async fn sweep(pending: Arc<Pending>) {
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

/// An error that this side noticed: it has no details.
pub(crate) fn local(code: Code, message: &str) -> v1::CallStatus {
    v1::CallStatus { code: code as i32, message: message.to_owned(), details: Vec::new() }
}
