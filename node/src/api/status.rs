//! The error table: every reason that a request can fail for, with its code, reason and outcome.
//! Status codes for membership are in `cluster`, for what gRPC itself refuses in `layer`.

use std::time::Duration;

use tally_proto::{
    reason,
    status::StatusBuilder,
    v1::{self, CallStatus},
};
use tonic::Code;

use super::{Api, Call};
use crate::{
    consensus::error::{Error, LeaderHint, Limit, NotProposed, ReadError, Unknown},
    machine::{
        auth::AuthRefusal,
        command::{BoundReached, Found, Refusal, Reply, RestoreRefusal, StepPart},
        quota::{QuotaUnit, Scope},
    },
    port::room::{ANSWER_BYTES_MAX, NODE_ANSWER_BYTES_MAX},
};

/// How long a refused caller should wait before trying again.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Not RESOURCE_EXHAUSTED: time does not make room in a session's window, its own client does, by
/// answers to lower numbers. One that only waits and sends the same again does so until its session ends.
const SESSION_WINDOW_FULL: Code = Code::FailedPrecondition;

/// A field of a request that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// Its path in the request.
    pub field: String,
    /// What is wrong, with the limit.
    pub description: String,
}

impl Invalid {
    /// Names a field and what is wrong with it.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Invalid { field: field.into(), description: description.into() }
    }

    /// Puts the field below another one.
    #[must_use]
    pub fn below(self, parent: impl std::fmt::Display) -> Self {
        Invalid { field: format!("{parent}.{}", self.field), ..self }
    }
}

/// Whether a failed request was a write: then its status says what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It changes nothing.
    Read,
    /// It changes something.
    Write,
}

impl Api {
    /// INVALID_ARGUMENT, naming the field.
    pub(crate) fn invalid(&self, call: &Call, kind: Kind, invalid: &Invalid) -> CallStatus {
        self.invalid_for(call, kind, reason::INVALID_REQUEST, invalid)
    }

    /// INVALID_ARGUMENT with a reason of its own.
    pub(crate) fn invalid_for(
        &self,
        call: &Call,
        kind: Kind,
        reason: &str,
        invalid: &Invalid,
    ) -> CallStatus {
        let message = format!("{}: {}", invalid.field, invalid.description);
        let status = StatusBuilder::new(Code::InvalidArgument, reason, message)
            .field(&invalid.field, &invalid.description);
        self.finish(call, with_outcome(status, kind, v1::Outcome::NotApplied), None)
    }

    /// A write that was not applied, or whose outcome is unknown.
    pub(crate) fn write_error(&self, call: &Call, error: &Error, can_repeat: bool) -> CallStatus {
        match error {
            Error::NotProposed(refusal) => self.not_proposed(call, refusal),
            Error::Unknown(unknown) => {
                let code = match unknown {
                    Unknown::Deadline => Code::DeadlineExceeded,
                    _ if can_repeat => Code::Unavailable,
                    _ => Code::Unknown,
                };
                let mut status =
                    StatusBuilder::new(code, reason::OUTCOME_UNKNOWN, error.to_string())
                        .outcome(v1::Outcome::Unknown);
                if can_repeat {
                    status = status.retry_after(RETRY_AFTER);
                }
                tracing::debug!(request = %call.request_id, %unknown, "a write's outcome is unknown");
                self.finish(
                    call,
                    self.with_leader(status, self.consensus.leadership().hint()),
                    None,
                )
            }
        }
    }

    fn not_proposed(&self, call: &Call, refusal: &NotProposed) -> CallStatus {
        let (code, name) = not_proposed_code(refusal);
        let mut status =
            StatusBuilder::new(code, name, refusal.to_string()).outcome(v1::Outcome::NotApplied);
        let stays = matches!(refusal, NotProposed::Deadline | NotProposed::UpgradeNotFinalized(_));
        if !stays && code != SESSION_WINDOW_FULL {
            status = status.retry_after(RETRY_AFTER);
        }
        let hint = match refusal {
            NotProposed::NotLeader(Some(hint)) => Some(hint.clone()),
            _ => self.consensus.leadership().hint(),
        };
        self.finish(call, self.with_leader(status, hint), None)
    }

    /// A refusal that was decided in apply.
    pub(crate) fn refused(
        &self,
        call: &Call,
        refusal: &Refusal,
        reply: &Reply,
        header: v1::ResponseHeader,
        has_session: bool,
    ) -> CallStatus {
        let (code, name) = refusal_code(refusal);
        let mut status = StatusBuilder::new(code, name, refusal.to_string());
        // Two refusals of the mechanism itself say nothing of an earlier attempt with that number.
        let outcome = match refusal {
            Refusal::SequenceTooOld { .. } | Refusal::SessionExpired { .. } => v1::Outcome::Unknown,
            _ => v1::Outcome::NotApplied,
        };
        status = status.detail(&v1::WriteOutcome {
            outcome: outcome as i32,
            decided_in_apply: is_remembered(refusal, has_session),
            replayed: reply.replayed,
            decided_at_revision: Some(reply.revision),
        });
        status = refusal_details(status, refusal);
        self.finish(call, status, Some(header))
    }

    /// A read that could not be given what it asked for.
    pub(crate) fn read_error(&self, call: &Call, error: &ReadError) -> CallStatus {
        let (code, name) = match error {
            ReadError::NoQuorum { .. } | ReadError::NotCatchingUp { .. } => {
                (Code::Unavailable, reason::NO_QUORUM)
            }
            ReadError::ShuttingDown => (Code::Unavailable, reason::SHUTTING_DOWN),
            ReadError::StalenessBoundExceeded { .. } => {
                (Code::FailedPrecondition, reason::STALENESS_BOUND_EXCEEDED)
            }
            ReadError::TokenOfAnotherCluster => {
                (Code::FailedPrecondition, reason::TOKEN_OF_ANOTHER_CLUSTER)
            }
            ReadError::TokenNotReached { .. } => (Code::Unavailable, reason::TOKEN_NOT_REACHED),
            ReadError::StateDiffers { .. } => (Code::Unavailable, reason::STATE_DIFFERS),
            ReadError::Deadline => (Code::DeadlineExceeded, reason::DEADLINE_EXCEEDED),
            ReadError::Overloaded { .. } => (Code::ResourceExhausted, reason::TOO_MANY_IN_FLIGHT),
        };
        let mut status = StatusBuilder::new(code, name, error.to_string());
        if let ReadError::StalenessBoundExceeded { best_ms, .. } = error {
            status = status.detail(&v1::StalenessFailure { best_ms: *best_ms });
        }
        if matches!(code, Code::Unavailable | Code::ResourceExhausted) {
            status = status.retry_after(RETRY_AFTER);
        }
        let hint = self.consensus.leadership().hint();
        self.finish(call, self.with_leader(status, hint), None)
    }

    /// A call whose answer found no room before its deadline: earlier ones are not read.
    pub(crate) fn no_room_for_answer(&self, call: &Call, kind: Kind) -> CallStatus {
        let message = format!(
            "at most {ANSWER_BYTES_MAX} bytes of answers may wait on a connection, and \
             {NODE_ANSWER_BYTES_MAX} on the node, and earlier ones are not read"
        );
        let status =
            StatusBuilder::new(Code::ResourceExhausted, reason::TOO_MANY_BYTES_IN_FLIGHT, message);
        let status = with_outcome(status.retry_after(RETRY_AFTER), kind, v1::Outcome::NotApplied);
        self.finish(call, status, None)
    }

    /// A Get of what does not exist.
    pub(crate) fn not_found(
        &self,
        call: &Call,
        name: &'static str,
        message: String,
        header: v1::ResponseHeader,
    ) -> CallStatus {
        self.finish(call, StatusBuilder::new(Code::NotFound, name, message), Some(header))
    }

    /// Ends an error with whoever leads.
    pub(crate) fn finish_with_leader(&self, call: &Call, status: StatusBuilder) -> CallStatus {
        let hint = self.consensus.leadership().hint();
        self.finish(call, self.with_leader(status, hint), None)
    }

    fn with_leader(&self, status: StatusBuilder, hint: Option<LeaderHint>) -> StatusBuilder {
        match hint {
            None => status,
            Some(hint) => status.detail(&v1::LeaderHint {
                node_id: hint.node_id,
                address: hint.address.unwrap_or_default(),
                term: hint.term,
            }),
        }
    }

    /// Ends an error to one who is not to learn anything of the state.
    pub(crate) fn without_state(&self, call: &Call, status: StatusBuilder) -> CallStatus {
        status.detail(&v1::RequestId { id: call.request_id.exact() }).build()
    }

    fn finish(
        &self,
        call: &Call,
        status: StatusBuilder,
        header: Option<v1::ResponseHeader>,
    ) -> CallStatus {
        let header = header.unwrap_or_else(|| self.local_header());
        status
            .detail(&v1::AnswerState { header: Some(header) })
            .detail(&v1::RequestId { id: call.request_id.exact() })
            .build()
    }
}

pub(crate) fn with_outcome(
    status: StatusBuilder,
    kind: Kind,
    outcome: v1::Outcome,
) -> StatusBuilder {
    match kind {
        Kind::Read => status,
        Kind::Write => status.outcome(outcome),
    }
}

/// Whether a later attempt is certain to meet the same refusal. Only such a one may turn an UNKNOWN
/// of an earlier attempt into NOT_APPLIED.
fn is_remembered(refusal: &Refusal, has_session: bool) -> bool {
    match refusal {
        // A full table can't remember the key, but the session remembers.
        Refusal::DedupTableFull { .. } => has_session,
        Refusal::SessionTableFull { .. }
        | Refusal::SessionShareFull { .. }
        | Refusal::SequenceTooOld { .. }
        | Refusal::SequenceOutOfWindow { .. }
        | Refusal::SessionExpired { .. }
        // The right may be given in the next moment.
        | Refusal::Unauthenticated
        | Refusal::PermissionDenied { .. }
        | Refusal::Auth(_)
        // What is under the key is known when the backup is restored.
        | Refusal::RestoreUnderWay
        | Refusal::Restore(_)
        // It may be finalized in the next moment.
        | Refusal::UpgradeNotFinalized { .. }
        | Refusal::QuotaTableFull { .. } => false,
        // So may the room.
        _ => !refusal.is_of_the_moment(),
    }
}

/// Code and reason of a write that was not proposed.
pub(super) fn not_proposed_code(refusal: &NotProposed) -> (Code, &'static str) {
    match refusal {
        NotProposed::NotLeader(_) => (Code::Unavailable, reason::NOT_LEADER),
        NotProposed::NoQuorum { .. } => (Code::Unavailable, reason::NO_QUORUM),
        NotProposed::ShuttingDown => (Code::Unavailable, reason::SHUTTING_DOWN),
        NotProposed::StateDiffers { .. } => (Code::Unavailable, reason::STATE_DIFFERS),
        NotProposed::NoStateMajority { .. } => (Code::Unavailable, reason::NO_STATE_MAJORITY),
        NotProposed::Overloaded { limit: Limit::SessionWindow, .. } => {
            (SESSION_WINDOW_FULL, reason::SESSION_WINDOW_FULL)
        }
        NotProposed::Overloaded { limit, .. } => (Code::ResourceExhausted, limit.reason()),
        NotProposed::Deadline => (Code::DeadlineExceeded, reason::NOT_PROPOSED),
        NotProposed::UpgradeNotFinalized(_) => {
            (Code::FailedPrecondition, reason::UPGRADE_NOT_FINALIZED)
        }
    }
}

/// Code and reason of a refusal decided in apply.
pub(super) fn refusal_code(refusal: &Refusal) -> (Code, &'static str) {
    match refusal {
        Refusal::CounterNotFound { .. } => (Code::NotFound, reason::COUNTER_NOT_FOUND),
        Refusal::BelowFloor { .. } => (Code::FailedPrecondition, reason::BELOW_FLOOR),
        Refusal::AboveCeiling { .. } => (Code::FailedPrecondition, reason::ABOVE_CEILING),
        Refusal::Overflow { .. } => (Code::OutOfRange, reason::OVERFLOW),
        Refusal::ConditionFailed { .. } => (Code::Aborted, reason::CONDITION_FAILED),
        Refusal::AnswerTooLarge { .. } => (Code::InvalidArgument, reason::ANSWER_TOO_LARGE),
        Refusal::Step { refusal, .. } => refusal_code(refusal),
        Refusal::IdempotencyKeyReused { .. } => {
            (Code::AlreadyExists, reason::IDEMPOTENCY_KEY_REUSED)
        }
        Refusal::DedupTableFull { .. } => (Code::ResourceExhausted, reason::DEDUP_TABLE_FULL),
        Refusal::SessionTableFull { .. } | Refusal::SessionShareFull { .. } => {
            (Code::ResourceExhausted, reason::SESSION_TABLE_FULL)
        }
        Refusal::SequenceReused { .. } => (Code::InvalidArgument, reason::SEQUENCE_REUSED),
        Refusal::SequenceTooOld { .. } => (Code::FailedPrecondition, reason::SEQUENCE_TOO_OLD),
        Refusal::SequenceOutOfWindow { .. } => (SESSION_WINDOW_FULL, reason::SESSION_WINDOW_FULL),
        Refusal::SessionExpired { .. } => (Code::FailedPrecondition, reason::SESSION_EXPIRED),
        Refusal::Unauthenticated => (Code::Unauthenticated, reason::UNAUTHENTICATED),
        Refusal::PermissionDenied { .. } => (Code::PermissionDenied, reason::PERMISSION_DENIED),
        Refusal::BoundHidden { which, .. } => match which {
            BoundReached::Floor => (Code::FailedPrecondition, reason::BELOW_FLOOR),
            BoundReached::Ceiling => (Code::FailedPrecondition, reason::ABOVE_CEILING),
            BoundReached::Integer => (Code::OutOfRange, reason::OVERFLOW),
        },
        Refusal::Auth(refusal) => auth_refusal_code(refusal),
        Refusal::RestoreUnderWay => (Code::Unavailable, reason::RESTORE_UNDER_WAY),
        Refusal::Restore(RestoreRefusal::NotEmpty { .. }) => {
            (Code::FailedPrecondition, reason::CLUSTER_NOT_EMPTY)
        }
        Refusal::Restore(_) => (Code::FailedPrecondition, reason::RESTORE_REFUSED),
        Refusal::UpgradeNotFinalized { .. } => {
            (Code::FailedPrecondition, reason::UPGRADE_NOT_FINALIZED)
        }
        Refusal::QuotaExceeded { .. } | Refusal::QuotaHidden { .. } => {
            (Code::ResourceExhausted, reason::QUOTA_EXCEEDED)
        }
        Refusal::QuotaTableFull { .. } => (Code::ResourceExhausted, reason::QUOTA_TABLE_FULL),
    }
}

fn auth_refusal_code(refusal: &AuthRefusal) -> (Code, &'static str) {
    match refusal {
        AuthRefusal::NoSuchRole(_) => (Code::NotFound, reason::ROLE_NOT_FOUND),
        AuthRefusal::NoSuchUser(_) => (Code::NotFound, reason::USER_NOT_FOUND),
        AuthRefusal::NoSuchToken(_) => (Code::NotFound, reason::TOKEN_NOT_FOUND),
        AuthRefusal::RoleInUse { .. } => (Code::FailedPrecondition, reason::ROLE_IN_USE),
        AuthRefusal::LastAdmin => (Code::FailedPrecondition, reason::LAST_ADMIN),
        AuthRefusal::Full { .. } => (Code::ResourceExhausted, reason::AUTH_TABLE_FULL),
        AuthRefusal::AlreadyEnabled => (Code::FailedPrecondition, reason::AUTHENTICATION_ENABLED),
    }
}

/// The details that let a program act on a refusal without reading its message.
fn refusal_details(status: StatusBuilder, refusal: &Refusal) -> StatusBuilder {
    match refusal {
        Refusal::BelowFloor { value, floor: bound, .. }
        | Refusal::AboveCeiling { value, ceiling: bound, .. } => {
            status.detail(&v1::BoundFailure { value: *value, bound: Some(*bound) })
        }
        Refusal::Overflow { value, .. } => {
            status.detail(&v1::BoundFailure { value: *value, bound: None })
        }
        Refusal::ConditionFailed { found, .. } => status.detail(&found_to_wire(found)),
        Refusal::QuotaExceeded { scope, prefix, unit, used, limit, grows_by } => {
            status.detail(&v1::QuotaFailure {
                used: Some(*used),
                limit: Some(*limit),
                grows_by: Some(*grows_by),
                ..quota_failure(*scope, prefix, *unit)
            })
        }
        Refusal::QuotaHidden { scope, prefix, unit } => {
            status.detail(&quota_failure(*scope, prefix, *unit))
        }
        Refusal::Step { part, refusal } => {
            refusal_details(status.detail(&part_to_wire(*part)), refusal)
        }
        Refusal::DedupTableFull { .. }
        | Refusal::SessionTableFull { .. }
        | Refusal::SessionShareFull { .. }
        | Refusal::RestoreUnderWay => status.retry_after(Duration::from_secs(1)),
        _ => status,
    }
}

/// No RetryInfo with it: somebody has to make room, which no pause does.
fn quota_failure(scope: Scope, prefix: &str, unit: QuotaUnit) -> v1::QuotaFailure {
    v1::QuotaFailure {
        scope: quota_scope_to_wire(scope) as i32,
        prefix: prefix.to_owned(),
        unit: match unit {
            QuotaUnit::Items => v1::QuotaUnit::Items,
            QuotaUnit::Bytes => v1::QuotaUnit::Bytes,
        } as i32,
        ..v1::QuotaFailure::default()
    }
}

pub(super) fn quota_scope_to_wire(scope: Scope) -> v1::QuotaScope {
    match scope {
        Scope::Counters => v1::QuotaScope::Counters,
        Scope::Keys => v1::QuotaScope::Keys,
    }
}

fn found_to_wire(found: &Found) -> v1::ConditionFailure {
    match found {
        Found::Nothing | Found::Hidden => v1::ConditionFailure::default(),
        Found::Counter { value, modified_revision } => v1::ConditionFailure {
            exists: true,
            modified_revision: *modified_revision,
            counter_value: Some(*value),
            ..v1::ConditionFailure::default()
        },
        Found::Key { value, size_bytes, modified_revision } => v1::ConditionFailure {
            exists: true,
            modified_revision: *modified_revision,
            value_size_bytes: *size_bytes,
            value: value.clone(),
            ..v1::ConditionFailure::default()
        },
    }
}

fn part_to_wire(part: StepPart) -> v1::StepFailure {
    use v1::step_failure::Part;

    let (part, else_branch) = match part {
        StepPart::Condition(index) => (Part::ConditionIndex(index), false),
        StepPart::Operation(index) => (Part::OperationIndex(index), false),
        StepPart::ElseOperation(index) => (Part::OperationIndex(index), true),
    };
    v1::StepFailure { part: Some(part), else_branch }
}
