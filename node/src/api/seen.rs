//! What a request leaves behind for whoever watches: a place in the metrics, and a line in the log if it was slow.
//!
//! A request is counted once: when it begins, and when its answer is known or its caller has gone.

use std::{sync::OnceLock, time::Duration};

use tally_proto::{reason, status::Details, v1::CallStatus};
use tokio::time::Instant;
use tonic::Code;

use super::{Call, status};
use crate::{
    consensus::{
        error::Error,
        propose::{Outcome, Times},
    },
    machine::command::Action,
    metrics::{
        Metrics,
        hot::ItemKind,
        requests::{Ended, Method, Transport},
    },
};

/// Where the time of a call's write went: set when its outcome is known.
pub(crate) type WriteTimes = OnceLock<Times>;

/// A request under way that has a task. Dropped before it ended, it was abandoned.
pub(super) struct Under<'a> {
    metrics: &'a Metrics,
    of: (Method, Transport),
    began: Instant,
    is_over: bool,
}

impl<'a> Under<'a> {
    /// It begins.
    pub(super) fn begin(
        metrics: &'a Metrics,
        began: Instant,
        of: (Method, Transport),
    ) -> Under<'a> {
        metrics.requests.begin(of.0, of.1);
        Under { metrics, of, began, is_over: false }
    }

    /// It ended, with this error if with one.
    pub(super) fn end(mut self, call: &Call, error: Option<&CallStatus>) {
        self.is_over = true;
        let took = self.began.elapsed();
        let (ended, reason) = match error {
            None => (Ended::Ok, None),
            Some(status) => {
                let code = Code::from_i32(status.code);
                (ended_with(code), Some(Details::parse_call(status).reason))
            }
        };
        let times = call.times.get();
        told(self.metrics, call, self.of, (ended, reason.as_deref()), took, times);
    }
}

impl Drop for Under<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.metrics.requests.end(self.of, Ended::Abandoned, None, self.began.elapsed());
        }
    }
}

/// A single write of a stream has landed.
pub(super) fn landed(metrics: &Metrics, call: &Call, method: Method, outcome: &Outcome) {
    let ended = match outcome {
        Ok(applied) => match &applied.reply.result {
            Ok(_) => (Ended::Ok, None),
            Err(refusal) => {
                let (code, reason) = status::refusal_code(refusal);
                (ended_with(code), Some(reason))
            }
        },
        Err(Error::NotProposed(refusal)) => {
            let (code, reason) = status::not_proposed_code(refusal);
            (ended_with(code), Some(reason))
        }
        Err(Error::Unknown(_)) => (Ended::Failed, Some(reason::OUTCOME_UNKNOWN)),
    };
    let times = outcome.as_ref().ok().and_then(|applied| applied.times.as_ref());
    told(metrics, call, (method, Transport::Stream), ended, call.began.elapsed(), times);
}

/// A single write of a stream did not become one.
pub(super) fn refused(metrics: &Metrics, call: &Call, method: Method, error: &CallStatus) {
    let ended = ended_with(Code::from_i32(error.code));
    let reason = Details::parse_call(error).reason;
    let ended = (ended, Some(&*reason));
    told(metrics, call, (method, Transport::Stream), ended, call.began.elapsed(), None);
}

/// Whose an error is: by its code, as a client decides whether the same could do later or elsewhere.
fn ended_with(code: Code) -> Ended {
    match code {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented => Ended::Refused,
        _ => Ended::Failed,
    }
}

fn told(
    metrics: &Metrics,
    call: &Call,
    of: (Method, Transport),
    (ended, reason): (Ended, Option<&str>),
    took: Duration,
    times: Option<&Times>,
) {
    metrics.requests.end(of, ended, reason, took);
    if metrics.slow.is_slow(took) {
        tell_slow(metrics, call, of.0, (ended, reason), took, times);
    }
}

#[cold]
fn tell_slow(
    metrics: &Metrics,
    call: &Call,
    method: Method,
    (ended, reason): (Ended, Option<&str>),
    took: Duration,
    times: Option<&Times>,
) {
    metrics.requests.slow(method);
    let Some(untold) = metrics.slow.tell() else { return };
    let (request, method, ended) = (&call.request_id, method.name(), ended.name());
    let reason = reason.unwrap_or_default();
    // To the µs: what is behind it says nothing.
    let ms = |duration: Duration| duration.as_micros() as f64 / 1e3;
    let total_ms = ms(took);
    let Some(Times { proposed, log_us, quorum_us, apply_us }) = times else {
        // A read, a write that another node ordered, or one that nobody knows more of.
        tracing::warn!(%request, method, ended, reason, total_ms, untold, "a slow operation");
        return;
    };
    let part = |us: &u32| Duration::from_micros(u64::from(*us));
    let (log, quorum, apply) = (part(log_us), part(quorum_us), part(apply_us));
    let queue = proposed.saturating_duration_since(call.began);
    let answer = took.saturating_sub(queue + log + quorum + apply);
    let (queue_ms, log_ms, quorum_ms) = (ms(queue), ms(log), ms(quorum));
    let (apply_ms, answer_ms) = (ms(apply), ms(answer));
    tracing::warn!(
        %request, method, ended, reason, total_ms, queue_ms, log_ms, quorum_ms, apply_ms,
        answer_ms, untold, "a slow operation"
    );
}

/// Counts the item of a write for the hot ones; atomic steps have several, and are not counted.
pub(super) fn count_hot(metrics: &Metrics, action: &Action) {
    if let Action::Single(operation) = action {
        let kind = if operation.is_on_key() { ItemKind::Key } else { ItemKind::Counter };
        metrics.hot.count(kind, operation.item_name());
    }
}
