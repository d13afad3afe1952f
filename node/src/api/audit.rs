//! What a request leaves in the audit log: who asked for what, whether that was allowed, and what came of it.
//!
//! Every request has a [`Record`] from before it is looked at until its outcome is known. It is begun in the three
//! places through which requests come in, with what [`super::requests`] knows of all of them: `unary::serve`,
//! `stream::run`, and `direct` for single writes of a stream. So a method that is added to the table is recorded, and
//! it does not compile before it says what it is about ([`Audited`], in [`super::audited`]).
//!
//! The node that took the request from its client records it, and no other: whoever forwards a write tells the leader
//! nothing that the leader would record.
//!
//! # Places
//! A request that is always recorded has its place in the log's queue before it runs; if none can be had and the log
//! must not drop lines, it is refused. Reads that are recorded only when they are refused have no place: nothing was
//! done, and if the line finds none either, the caller is told of that instead of the decision. So what is not recorded
//! is not told.
//!
//! Dropped before its outcome is known, since its caller went away, a record says just that.

use std::{borrow::Cow, sync::Arc};

use tally_proto::{
    reason,
    status::{Details, StatusBuilder},
    v1::{self, CallStatus},
};
use tokio::time::Instant;
use tonic::Code;

use super::{
    Api, Call,
    audited::{Asked, Audited, Method, Part, Told},
    status::{Kind, not_proposed_code, refusal_code, with_outcome},
};
use crate::{
    audit::{AuditLog, Line},
    consensus::{error::Error, propose::Outcome},
    machine::{
        auth::Caller,
        command::{Owner, Refusal, StepPart},
        users,
    },
};

/// The audit log's kind of a request, in `kind`.
const REQUEST: &str = "request";

/// Longest path of a method that is not known, in bytes.
const PATH_BYTES_MAX: usize = 128;

/// How a request came.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    /// By itself.
    Unary,
    /// On a stream with this number.
    Stream(u64),
}

/// What was decided about who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// It may.
    Allowed,
    /// It is not known.
    Unauthenticated,
    /// It lacks a permission.
    PermissionDenied,
    /// The request failed before that was looked at, or nobody knows.
    Undecided,
}

/// What came of a request.
#[derive(Debug)]
struct Verdict {
    decision: Decision,
    code: Code,
    reason: Cow<'static, str>,
    /// For what changes something.
    outcome: v1::Outcome,
    is_applied: bool,
    replayed: bool,
    revision: Option<u64>,
    /// Another node, which ordered it.
    leader: Option<u64>,
    /// Which rule refused; nothing that may have values in it.
    why: Option<String>,
    /// The field that was wrong.
    field: Option<String>,
    /// The part of an atomic step that was refused.
    part: Option<StepPart>,
    /// The token that was made.
    made_token: Option<u64>,
}

/// A request under way. Written when it is dropped.
#[derive(Debug)]
pub(super) struct Record {
    line: Option<Line>,
    node_id: u64,
    began: Instant,
    is_change: bool,
    /// It is recorded whatever comes of it.
    is_wanted: bool,
    is_dry_run: bool,
    /// Of an atomic step.
    parts: Vec<Part>,
    verdict: Option<Verdict>,
}

impl Api {
    /// Begins the record of a request, if this node keeps an audit log. An error if it must be recorded and can't be.
    pub(super) fn record(
        &self,
        (method, request): (Method, &dyn Audited),
        call: &Call,
        from: Option<Owner>,
        way: Way,
    ) -> Result<Option<Box<Record>>, CallStatus> {
        let Some(log) = &self.node.audit else { return Ok(None) };
        let mut line = log.line(REQUEST);
        line.word("method", &method.name());
        match &call.request_id {
            super::RequestId::Given(id) => line.word("request_id", id),
            made @ super::RequestId::Made(..) => line.word("request_id", &made.to_string()),
        }
        if let Some(from) = from {
            line.word("from", &from.to_string());
        }
        if let Way::Stream(number) = way {
            line.number("stream", number);
        }
        let mut asked = Asked { line: &mut line, parts: Vec::new(), is_dry_run: false };
        request.tell(&mut asked);
        let Asked { parts, is_dry_run, .. } = asked;
        let is_wanted = method.is_change || log.records_reads();
        if is_wanted && line.reserve().is_err() {
            let kind = if method.is_change { Kind::Write } else { Kind::Read };
            return Err(self.not_recorded(call, kind));
        }
        Ok(Some(Box::new(Record {
            line: Some(line),
            node_id: self.node.own.node_id,
            began: Instant::now(),
            is_change: method.is_change,
            is_wanted,
            is_dry_run,
            parts,
            verdict: None,
        })))
    }

    /// A request that was not let in, as it can't be recorded.
    fn not_recorded(&self, call: &Call, kind: Kind) -> CallStatus {
        if let Some(log) = &self.node.audit {
            log.refused_request();
        }
        let message = "the audit log of this node can't take another line, and must not drop any";
        let status = StatusBuilder::new(Code::Unavailable, reason::AUDIT_LOG_UNAVAILABLE, message)
            .retry_after(super::status::RETRY_AFTER);
        self.without_state(call, with_outcome(status, kind, v1::Outcome::NotApplied))
    }

    /// Ends the record of a request that has this answer or error; the error that is to be given, which is another
    /// if it could not be recorded.
    pub(super) fn recorded(
        &self,
        record: Option<Box<Record>>,
        call: &Call,
        answered: Result<Told, &CallStatus>,
    ) -> Option<CallStatus> {
        let mut record = record?;
        record.verdict = Some(match answered {
            Ok(told) => Verdict::of_answer(&told, record.node_id),
            Err(status) => Verdict::of_status(status, record.node_id),
        });
        let must_not_drop = self.node.audit.as_ref().is_some_and(|log| log.must_not_drop());
        let is_lost = !record.write() && answered.is_err() && must_not_drop;
        let kind = if record.is_change { Kind::Write } else { Kind::Read };
        is_lost.then(|| self.not_recorded(call, kind))
    }

    /// Who asked, as fields: who it is, or what it showed if that does not count.
    pub(super) fn who_fields(
        &self,
        line: &mut Line,
        known: Option<Option<Caller>>,
        shown: (Option<u64>, Option<&str>),
    ) {
        let (token, certificate) = shown;
        let how = match known {
            None => "unknown",
            Some(None) => "anonymous",
            Some(Some(caller)) => {
                let user = users::user(&self.consensus.state().view(), caller.user);
                line.word("user", &user.map(|user| user.name).unwrap_or_default());
                if caller.token == 0 { "certificate" } else { "token" }
            }
        };
        line.word("how", how);
        if let Some(token) = token {
            line.number("token", token);
        }
        if let Some(certificate) = certificate {
            line.word("certificate", certificate);
        }
    }
}

impl Record {
    /// Where who asked is told.
    pub(super) fn line(&mut self) -> &mut Line {
        self.line.as_mut().expect("it is taken when the record ends")
    }

    /// It has a line already.
    pub(super) fn only_if_refused(&mut self) {
        self.is_wanted = false;
    }

    /// The outcome of a write that no task waits for. The record is still to be dropped.
    pub(super) fn decide(&mut self, outcome: &Outcome) {
        self.verdict = Some(Verdict::of_outcome(outcome));
    }

    /// Whether it was written, or need not be.
    fn write(&mut self) -> bool {
        let Some(mut line) = self.line.take() else { return true };
        let mut verdict = self.verdict.take().unwrap_or_else(Verdict::gone);
        verdict.is_applied &= !self.is_dry_run;
        let is_refused =
            matches!(verdict.decision, Decision::Unauthenticated | Decision::PermissionDenied);
        if !self.is_wanted && !is_refused {
            return true;
        }
        verdict.tell(&mut line, self.is_change, &self.parts);
        let took_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        line.number("took_us", took_us);
        line.write()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.write();
    }
}

impl Verdict {
    fn new(decision: Decision, code: Code, reason: impl Into<Cow<'static, str>>) -> Verdict {
        Verdict {
            decision,
            code,
            reason: reason.into(),
            outcome: v1::Outcome::NotApplied,
            is_applied: false,
            replayed: false,
            revision: None,
            leader: None,
            why: None,
            field: None,
            part: None,
            made_token: None,
        }
    }

    /// The caller went away first.
    fn gone() -> Verdict {
        let verdict = Verdict::new(Decision::Undecided, Code::Cancelled, "CALLER_GONE");
        Verdict { outcome: v1::Outcome::Unknown, ..verdict }
    }

    fn of_answer(told: &Told, node_id: u64) -> Verdict {
        Verdict {
            is_applied: true,
            replayed: told.replayed,
            revision: told.revision,
            leader: another(told.node_id, node_id),
            made_token: told.made_token,
            ..Verdict::new(Decision::Allowed, Code::Ok, "")
        }
    }

    fn of_outcome(outcome: &Outcome) -> Verdict {
        let applied = match outcome {
            Ok(applied) => applied,
            Err(Error::NotProposed(refusal)) => {
                let (code, reason) = not_proposed_code(refusal);
                return Verdict::new(Decision::Undecided, code, reason);
            }
            Err(Error::Unknown(_)) => {
                let verdict =
                    Verdict::new(Decision::Undecided, Code::Unknown, reason::OUTCOME_UNKNOWN);
                return Verdict { outcome: v1::Outcome::Unknown, ..verdict };
            }
        };
        let reply = &applied.reply;
        let mut verdict = match &reply.result {
            Ok(_) => {
                let told = Told { revision: Some(reply.revision), ..Told::default() };
                Verdict::of_answer(&told, 0)
            }
            Err(refusal) => {
                let (code, reason) = refusal_code(refusal);
                let (part, refusal) = match refusal {
                    Refusal::Step { part, refusal } => (Some(*part), &**refusal),
                    refusal => (None, refusal),
                };
                let outcome = match refusal {
                    Refusal::SequenceTooOld { .. } | Refusal::SessionExpired { .. } => {
                        v1::Outcome::Unknown
                    }
                    _ => v1::Outcome::NotApplied,
                };
                let why = matches!(
                    refusal,
                    Refusal::Unauthenticated | Refusal::PermissionDenied { .. } | Refusal::Auth(_)
                );
                Verdict {
                    outcome,
                    part,
                    why: why.then(|| refusal.to_string()),
                    revision: Some(reply.revision),
                    ..Verdict::new(decision(code, true), code, reason)
                }
            }
        };
        verdict.replayed = reply.replayed;
        verdict.leader = applied.leader.as_ref().map(|leader| leader.node_id);
        verdict
    }

    fn of_status(status: &CallStatus, node_id: u64) -> Verdict {
        let details = Details::parse_call(status);
        let code = Code::from(status.code);
        let written = details.outcome.unwrap_or_default();
        let was_applied = written.decided_at_revision.is_some();
        let decision = decision(code, was_applied || code == Code::NotFound);
        let why = matches!(decision, Decision::Unauthenticated | Decision::PermissionDenied);
        let header = details.header.unwrap_or_default();
        Verdict {
            outcome: written.outcome(),
            replayed: written.replayed,
            revision: written.decided_at_revision,
            leader: another(header.node_id, node_id).filter(|_| was_applied),
            why: why.then(|| status.message.clone()),
            field: details.fields.into_iter().next().map(|(field, _)| field),
            part: details.step.and_then(part_of),
            ..Verdict::new(decision, code, details.reason)
        }
    }

    /// Its fields.
    fn tell(&self, line: &mut Line, is_change: bool, parts: &[Part]) {
        line.word(
            "decision",
            match self.decision {
                Decision::Allowed => "allowed",
                Decision::Unauthenticated => reason::UNAUTHENTICATED,
                Decision::PermissionDenied => reason::PERMISSION_DENIED,
                Decision::Undecided => "undecided",
            },
        );
        line.word("code", code_name(self.code));
        if !self.reason.is_empty() {
            line.word("reason", &self.reason);
        }
        if let Some(why) = &self.why {
            line.word("why", why);
        }
        if let Some(field) = &self.field {
            line.word("field", field);
        }
        if is_change {
            let outcome = match (self.is_applied, self.outcome) {
                (true, _) => "APPLIED",
                (false, v1::Outcome::NotApplied) => "NOT_APPLIED",
                (false, _) => "UNKNOWN",
            };
            line.word("outcome", outcome);
            line.flag("replayed", self.replayed);
        }
        if let Some(revision) = self.revision {
            line.number("revision", revision);
        }
        if let Some(token) = self.made_token {
            line.number("made_token", token);
        }
        if let Some(leader) = self.leader {
            line.number("forwarded_to", leader);
        }
        if !parts.is_empty()
            && let Some(part) = self.refused_part(parts)
        {
            part.tell_refused(line);
        }
    }

    /// The part of an atomic step that was refused. One that its caller may not do is named by what it is about and
    /// which permission it lacks.
    fn refused_part<'a>(&self, parts: &'a [Part]) -> Option<&'a Part> {
        if let Some(part) = self.part {
            let (list, index) = match part {
                StepPart::Condition(index) => ("conditions", index),
                StepPart::Operation(index) => ("operations", index),
                StepPart::ElseOperation(index) => ("else_operations", index),
            };
            return parts.iter().find(|part| part.list == list && part.index == index as usize);
        }
        let why = self.why.as_ref().filter(|_| self.decision == Decision::PermissionDenied)?;
        parts.iter().find(|part| part.is_denied(why))
    }
}

/// What a code says of who asked. `was_decided`: it was looked at, at the latest with the error.
fn decision(code: Code, was_decided: bool) -> Decision {
    match code {
        Code::Unauthenticated => Decision::Unauthenticated,
        Code::PermissionDenied => Decision::PermissionDenied,
        _ if was_decided => Decision::Allowed,
        _ => Decision::Undecided,
    }
}

fn another(node_id: u64, own: u64) -> Option<u64> {
    (node_id != 0 && node_id != own).then_some(node_id)
}

fn part_of(step: v1::StepFailure) -> Option<StepPart> {
    use v1::step_failure::Part;

    Some(match step.part? {
        Part::ConditionIndex(index) => StepPart::Condition(index),
        Part::OperationIndex(index) if step.else_branch => StepPart::ElseOperation(index),
        Part::OperationIndex(index) => StepPart::Operation(index),
    })
}

/// As gRPC spells it.
pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// A stream, from its opening to its end.
#[derive(Debug)]
pub(super) struct StreamRecord {
    /// The line of its end, whose place is held.
    end: Option<Line>,
    began: Instant,
    pub(super) number: u64,
    requests: u64,
}

impl Api {
    /// Records that a stream is opened, if this node keeps an audit log.
    pub(super) fn stream_record(
        &self,
        call: &Call,
        from: Option<Owner>,
        shown: (Option<u64>, Option<&str>),
    ) -> Result<Option<StreamRecord>, CallStatus> {
        let Some(log) = &self.node.audit else { return Ok(None) };
        let number = self.next_stream.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let tell = |line: &mut Line| {
            line.number("stream", number);
            if let Some(from) = from {
                line.word("from", &from.to_string());
            }
        };
        let (mut open, mut end) = (log.line("stream_open"), log.line("stream_close"));
        tell(&mut open);
        tell(&mut end);
        let (token, certificate) = shown;
        if let Some(token) = token {
            open.number("token", token);
        }
        if let Some(certificate) = certificate {
            open.word("certificate", certificate);
        }
        if open.reserve_in_queue().is_err() || end.reserve_in_queue().is_err() {
            return Err(self.not_recorded(call, Kind::Write));
        }
        open.write();
        Ok(Some(StreamRecord { end: Some(end), began: Instant::now(), number, requests: 0 }))
    }
}

impl StreamRecord {
    /// Another request came over it.
    pub(super) fn count(&mut self) {
        self.requests += 1;
    }
}

impl Drop for StreamRecord {
    fn drop(&mut self) {
        if let Some(mut end) = self.end.take() {
            end.number("requests", self.requests);
            let open_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            end.number("open_ms", open_ms);
            end.write();
        }
    }
}

/// A call that never reached its operation: its method is not known, or its bytes are no request.
pub(super) fn record_unread(
    log: &Arc<AuditLog>,
    path: &str,
    from: Option<Owner>,
    (code, reason): (Code, String),
) {
    let mut line = log.line(REQUEST);
    let path = path.trim_start_matches('/');
    let end = (0..=path.len().min(PATH_BYTES_MAX)).rev().find(|end| path.is_char_boundary(*end));
    line.word("method", &path[..end.unwrap_or(0)]);
    if let Some(from) = from {
        line.word("from", &from.to_string());
    }
    let mut verdict = Verdict::new(Decision::Undecided, code, reason);
    verdict.outcome = v1::Outcome::NotApplied;
    verdict.tell(&mut line, true, &[]);
    line.write();
}
