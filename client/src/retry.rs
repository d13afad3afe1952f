//! What to do after a failed attempt, and what may be said in the end: a pure state machine.
//!
//! Its one law is that UNKNOWN sticks to the logical write. Once one attempt may have reached the
//! log, later refusals such as "not leader" say nothing about that attempt. Only a refusal that was
//! decided in apply *under the same session number or idempotency key* does: it occupies that
//! number or key, so the earlier attempt can never execute.
//!
//! A node of another cluster, and one that does not have the state asked for, says nothing of what the
//! others would: each is asked before the caller is told.

use std::time::Duration;

use tally_proto::{reason, seeded_bugs};
use tonic::Code;

use crate::{error::Error, failure::Failure, outcome::Outcome, wire::Class};

/// What makes a write safe to send again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stamps {
    pub(crate) session: bool,
    pub(crate) key: bool,
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Send it again under the same stamps.
    Again(Pause),
    /// Send it to a node that has not said this yet; if there is none, tell the caller.
    Another,
    /// Its number certainly never executed and never will: send it under a new session.
    NewSession,
    /// Tell the caller.
    Fail(Error),
}

/// How long to wait before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pause {
    /// Not at all: another node can be asked at once.
    None,
    /// As the backoff says.
    Backoff,
    /// As the node asked for, at least.
    AtLeast(Duration),
}

/// The attempts at one logical call.
#[derive(Debug)]
pub(crate) struct Retry {
    class: Class,
    stamps: Stamps,
    /// How many nodes there are to ask; that many attempts need no pause between them.
    nodes: u32,
    /// At most this many attempts.
    attempts_max: u32,
    attempts: u32,
    immediate: u32,
    unknown: bool,
    /// A node said that the cluster is another one.
    another_cluster: bool,
    /// A node said something else.
    this_cluster: bool,
    last: Option<Box<Failure>>,
    /// Some attempt met more than an address at which nothing listens.
    somebody_listens: bool,
}

impl Retry {
    pub(crate) fn new(class: Class, stamps: Stamps, nodes: usize) -> Self {
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX).max(1);
        let attempts_max = u32::MAX;
        let (attempts, immediate, unknown, last) = (0, 0, false, None);
        let (another_cluster, this_cluster) = (false, false);
        Self {
            class,
            stamps,
            nodes,
            attempts_max,
            attempts,
            immediate,
            unknown,
            another_cluster,
            this_cluster,
            last,
            somebody_listens: false,
        }
    }

    /// Gives up after this many attempts.
    pub(crate) fn at_most(self, attempts: Option<u32>) -> Self {
        Self { attempts_max: attempts.unwrap_or(u32::MAX), ..self }
    }

    /// Whether the write may go on under its key alone: nothing can have been executed, or ever will be,
    /// under its number, or the key was on every attempt and decides under any session and none.
    pub(crate) fn may_leave_session(&self) -> bool {
        !self.unknown || self.stamps.key
    }

    /// From now on it has a key and no session.
    pub(crate) fn leave_session(&mut self) {
        debug_assert!(
            self.may_leave_session(),
            "an attempt of unknown outcome would be left behind"
        );
        self.stamps = Stamps { session: false, key: true };
        // That its session ended said something of its number, and says nothing of its key.
        self.last.take_if(|last| last.reason() == reason::SESSION_EXPIRED);
    }

    /// Some attempt may have been executed.
    pub(crate) fn is_unknown(&self) -> bool {
        self.unknown
    }

    /// Takes note of a failed attempt.
    pub(crate) fn failed(&mut self, failure: Box<Failure>) -> Next {
        self.attempts += 1;
        self.somebody_listens |= !failure.nobody_listens;
        if failure.names_another_cluster() {
            self.another_cluster = true;
        } else if !failure.reason().is_empty() {
            self.this_cluster = true;
        }
        let next = match self.class {
            Class::Write => self.write_failed(&failure),
            Class::Change => self.change_failed(&failure),
            Class::Read | Class::Control => self.step(&failure),
        };
        self.remember(failure);
        match next {
            Step::Again(_) | Step::Another | Step::NewSession
                if self.attempts >= self.attempts_max =>
            {
                Next::Fail(self.error(None))
            }
            Step::Another => Next::Another,
            Step::Again(pause) => Next::Again(pause),
            Step::NewSession => Next::NewSession,
            Step::Fail => Next::Fail(self.error(None)),
            Step::Decided => {
                self.unknown = false;
                Next::Fail(self.error(None))
            }
        }
    }

    /// Keeps the failure that says most: an attempt that was only cut short by the deadline tells a
    /// caller less than the refusal before it, and one of another cluster less than one of this. What is
    /// unknown is kept apart, and stays.
    fn remember(&mut self, failure: Box<Failure>) {
        let worth = |failure: &Failure| match failure.reason() {
            "" | reason::NOT_PROPOSED | reason::DEADLINE_EXCEEDED => 0,
            _ if failure.names_another_cluster() => 1,
            _ => 2,
        };
        if self.last.as_deref().is_none_or(|last| worth(last) <= worth(&failure)) {
            self.last = Some(failure);
        }
    }

    /// All nodes that answered say that the cluster is another one.
    pub(crate) fn all_name_another_cluster(&self) -> bool {
        self.another_cluster && !self.this_cluster
    }

    /// There is nobody left to ask.
    pub(crate) fn asked_all(&self) -> Error {
        self.error(None)
    }

    /// The deadline has passed, or comes before another attempt; so long the call went on.
    pub(crate) fn gave_up(&self, after: Duration) -> Error {
        self.error(Some(after))
    }

    /// Each node was asked, and nothing listens at any of the addresses.
    pub(crate) fn nobody_listens(&self) -> bool {
        self.attempts >= self.nodes && !self.somebody_listens
    }

    /// It is not worth waiting for somebody to listen.
    pub(crate) fn unheard(&self, addresses: &[String]) -> Error {
        debug_assert!(!self.unknown, "an attempt was sent to an address where nothing listens");
        self.error(None).of_nobody(addresses)
    }

    fn write_failed(&mut self, failure: &Failure) -> Step {
        let stamped = self.stamps.session || self.stamps.key;
        if failure.reason() == reason::SESSION_EXPIRED && self.stamps.session {
            // The node can't know whether this number was executed before its session ended. This
            // side does: it was not if no earlier attempt can have been. With a key, that key
            // decides, under any session.
            if !self.unknown || self.stamps.key {
                return Step::NewSession;
            }
            return Step::Fail;
        }
        if self.decides(failure) {
            return Step::Decided;
        }
        if seeded_bugs::is_on("unknown-forgotten") && failure.outcome() == Outcome::NotApplied {
            self.unknown = false;
        }
        if failure.outcome() == Outcome::Unknown {
            self.unknown = true;
            if !stamped || failure.reason() == reason::SEQUENCE_TOO_OLD {
                return Step::Fail;
            }
        }
        self.step(failure)
    }

    /// The refusal speaks for all attempts, not only for the one that it answers.
    fn decides(&self, failure: &Failure) -> bool {
        if !failure.is_decided() || failure.outcome() != Outcome::NotApplied {
            return false;
        }
        if failure.reason() == reason::DEDUP_TABLE_FULL && !self.stamps.session {
            // The table had no room to remember this refusal, so an earlier copy that is still on
            // its way may find room and execute.
            return !self.unknown;
        }
        self.stamps.session || self.stamps.key || !self.unknown
    }

    fn change_failed(&mut self, failure: &Failure) -> Step {
        if failure.outcome() == Outcome::Unknown {
            self.unknown = true;
            return Step::Fail;
        }
        self.step(failure)
    }

    /// Whether another attempt can help, given that it is allowed.
    fn step(&mut self, failure: &Failure) -> Step {
        if failure.names_another_cluster() {
            return Step::Another;
        }
        if failure.is_decided() {
            return Step::Fail;
        }
        match failure.reason() {
            // Of this address. Another may be a node's, and if none is, waiting makes none of them one.
            _ if failure.is_stranger => Step::Another,
            reason::NOT_LEADER => self.elsewhere(),
            reason::NO_QUORUM
            | reason::NOT_PROPOSED
            | reason::OUTCOME_UNKNOWN
            | reason::SESSION_WINDOW_FULL => Step::Again(pause(failure)),
            reason::SHUTTING_DOWN | reason::NODE_STARTING | reason::AUDIT_LOG_UNAVAILABLE => {
                self.elsewhere()
            }
            // Of this attempt, which has a part of the call's time: one node was too slow for it (it may
            // be behind, or paused a moment ago), which says nothing of the others. When the call's own
            // time is over is not for a node to say.
            reason::DEADLINE_EXCEEDED => self.elsewhere(),
            // Of this node's release: another's may have it.
            reason::UNIMPLEMENTED => Step::Another,
            reason::STALENESS_BOUND_EXCEEDED | reason::TOKEN_NOT_REACHED => Step::Another,
            // Somebody has to make room, which may be the caller itself.
            reason::SESSION_TABLE_FULL
            | reason::DEDUP_TABLE_FULL
            | reason::QUOTA_EXCEEDED
            | reason::QUOTA_TABLE_FULL => Step::Fail,
            "" if !failure.sent => self.elsewhere(),
            _ => match failure.code() {
                Code::Unavailable | Code::ResourceExhausted => Step::Again(pause(failure)),
                // What a broken connection or a proxy says; a node of ours would give a reason.
                Code::Unknown | Code::Internal | Code::Cancelled | Code::DeadlineExceeded
                    if failure.reason().is_empty() =>
                {
                    self.elsewhere()
                }
                _ => Step::Fail,
            },
        }
    }

    /// At once while there are nodes that were not asked, then with a pause.
    fn elsewhere(&mut self) -> Step {
        self.immediate += 1;
        Step::Again(if self.immediate < self.nodes { Pause::None } else { Pause::Backoff })
    }

    fn error(&self, gave_up_after: Option<Duration>) -> Error {
        let timed_out = gave_up_after.is_some() && seeded_bugs::is_on("timeout-not-applied");
        let outcome = match self.class {
            Class::Write if timed_out => Some(Outcome::NotApplied),
            Class::Write | Class::Change if self.unknown => Some(Outcome::Unknown),
            Class::Write | Class::Change => Some(self.outcome_of_last()),
            Class::Read | Class::Control => None,
        };
        Error::after(self.last.as_deref(), outcome, self.attempts, gave_up_after)
    }

    /// Nothing is unknown from earlier attempts: the last one counts. SESSION_EXPIRED of a number
    /// that was never sent before is definite, whatever the node had to say.
    fn outcome_of_last(&self) -> Outcome {
        match &self.last {
            Some(last) if last.reason() == reason::SESSION_EXPIRED && self.stamps.session => {
                Outcome::NotApplied
            }
            Some(last) => last.outcome(),
            None => Outcome::NotApplied,
        }
    }
}

enum Step {
    Again(Pause),
    Another,
    NewSession,
    Fail,
    /// Fail, and nothing that happened before is open any more.
    Decided,
}

fn pause(failure: &Failure) -> Pause {
    failure.details.retry_after.map_or(Pause::Backoff, Pause::AtLeast)
}

/// Exponential backoff with full jitter above a half.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// Shorter than an election takes, so that the first retries find the new leader soon.
    const FIRST: Duration = Duration::from_millis(10);
    /// A cluster without quorum is asked this rarely by each call.
    const MAX: Duration = Duration::from_millis(250);

    pub(crate) fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// The next wait; `random` is uniform in 0..1.
    pub(crate) fn wait(&mut self, pause: Pause, random: f64) -> Duration {
        let jittered = |wait: Duration| wait.mul_f64(0.5 + 0.5 * random);
        match pause {
            Pause::None => Duration::ZERO,
            Pause::Backoff => {
                let wait = jittered(self.next);
                self.next = (self.next * 2).min(Self::MAX);
                wait
            }
            // Asked to wait: later than asked by up to a quarter, so that not all come at once.
            Pause::AtLeast(least) => least + least.mul_f64(0.25 * random),
        }
    }
}

#[cfg(test)]
mod tests;
