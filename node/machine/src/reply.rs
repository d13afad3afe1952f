//! What the state machine answers: one documented variant each.
//!
//! Answers are remembered, so a variant's position is part of the format on disk: append new ones, never
//! reorder. They know nothing of the wire; the api converts.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    item::{CounterChange, CounterRecord, Found, KeyChange, KeyRecord, Target},
    owner::Owner,
    quota::{Over, QuotaUnit, Scope},
    restore::RestorePhase,
    version::FormatVersion,
};

/// The answer to one command, decided in apply and equal on every replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// What was decided.
    pub result: Result<Answer, Refusal>,
    /// Revision of the store after the command; for a replay, that of the original.
    pub revision: u64,
    /// The stored answer of an earlier attempt.
    pub replayed: bool,
    /// With an idempotency key: until when it is remembered.
    pub kept: Option<Kept>,
    /// Some of it was left out, as the caller may not read it: what is 0 there is not known. It depends on
    /// who asks, so it is not stored, and [`super::codec::encode_reply`] carries it by itself.
    #[serde(skip)]
    pub hidden: bool,
}

/// How long an idempotency key is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Log time at which it expires, in ms.
    pub until_log_time_ms: u64,
    /// Log time that was left when the answer was given, in ms.
    pub for_ms: u64,
}

/// A success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`super::command::Action::Single`].
    Single(OperationAnswer),
    /// To [`super::command::Action::Apply`].
    Apply {
        /// `else_operations` ran.
        else_branch: bool,
        /// One for each operation of the branch.
        answers: Vec<OperationAnswer>,
    },
    /// To [`super::command::Action::OpenSession`].
    SessionOpened {
        /// The id.
        session_id: u64,
        /// The idle time that counts, in ms of log time.
        idle_timeout_ms: u64,
    },
    /// To [`super::command::Action::RenewSession`].
    SessionRenewed,
    /// To [`super::command::Action::CloseSession`].
    SessionClosed {
        /// It was open.
        existed: bool,
    },
    /// To [`super::command::Action::Tick`] and [`super::command::Action::CreateCluster`].
    Done,
    /// To [`super::command::Action::Auth`].
    AuthChanged {
        /// Id of the user or token that it made, else 0.
        id: u64,
    },
    /// To [`super::command::Action::Restore`].
    Restored {
        /// How far it is.
        phase: RestorePhase,
        /// The block that is awaited next.
        next: u64,
    },
    /// To [`super::node_ids::NodeIdCommand::Claim`]: the data directory has this id.
    NodeIdClaimed {
        /// The id.
        node_id: u64,
    },
    /// To the same: the id is another's, or was, or the directory has another one.
    NodeIdRefused {
        /// The next one above all that were ever used; 0 if there is none.
        next_id: u64,
    },
    /// To [`super::command::Action::Quota`].
    QuotaChanged {
        /// There was a quota with this scope and prefix.
        existed: bool,
    },
}

/// The answer to one operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperationAnswer {
    /// A counter was written (or, where nothing changed, could have been).
    CounterChanged(CounterChange),
    /// A counter was read.
    CounterRead(Option<CounterRecord>),
    /// A key was written.
    KeyChanged(KeyChange),
    /// A key was read.
    KeyRead(Option<KeyRecord>),
}

/// A refusal decided in apply. Nothing changed, but for what remembers the refusal itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// A counter that must exist does not.
    #[error("counter {name:?} does not exist")]
    CounterNotFound {
        /// Its name.
        name: String,
    },
    /// The floor is in the way.
    #[error("counter {name:?} is {value} and must not fall below {floor}")]
    BelowFloor {
        /// Name of the counter.
        name: String,
        /// Its value, unchanged.
        value: i64,
        /// The tighter floor.
        floor: i64,
    },
    /// The ceiling is in the way.
    #[error("counter {name:?} is {value} and must not rise above {ceiling}")]
    AboveCeiling {
        /// Name of the counter.
        name: String,
        /// Its value, unchanged.
        value: i64,
        /// The tighter ceiling.
        ceiling: i64,
    },
    /// The result does not fit in int64.
    #[error("counter {name:?} is {value}: the result does not fit in a signed 64-bit integer")]
    Overflow {
        /// Name of the counter.
        name: String,
        /// Its value, unchanged.
        value: i64,
    },
    /// A compare or condition failed.
    #[error("condition on {target} failed: {found}")]
    ConditionFailed {
        /// What was looked at.
        target: Target,
        /// What is stored there.
        found: Found,
    },
    /// The reads of an Apply return too much.
    #[error("the reads of one atomic step may return {bytes_max} bytes together")]
    AnswerTooLarge {
        /// The limit.
        bytes_max: u64,
    },
    /// One part of an Apply was refused.
    #[error("{part}: {refusal}")]
    Step {
        /// Which part.
        part: StepPart,
        /// Why.
        refusal: Box<Refusal>,
    },
    /// The idempotency key is live for another request.
    #[error("idempotency key {key:?} was used for another request")]
    IdempotencyKeyReused {
        /// The key.
        key: String,
    },
    /// The idempotency table is full; not remembered under the key.
    #[error("the idempotency table holds its maximum of {bytes_max} bytes")]
    DedupTableFull {
        /// The limit.
        bytes_max: u64,
    },
    /// The session table is full.
    #[error("the session table holds its maximum of {sessions_max} sessions")]
    SessionTableFull {
        /// The limit.
        sessions_max: u64,
    },
    /// The sequence number is remembered for another request.
    #[error("sequence number {sequence} was used for another request in this session")]
    SequenceReused {
        /// The number.
        sequence: u64,
    },
    /// The sequence number is below the watermark: its answer is gone.
    #[error("sequence number {sequence} is below the watermark {watermark} of its session")]
    SequenceTooOld {
        /// The number.
        sequence: u64,
        /// The watermark.
        watermark: u64,
    },
    /// The sequence number is too far above the watermark.
    #[error(
        "sequence number {sequence} is not within {window} numbers from the watermark {watermark}"
    )]
    SequenceOutOfWindow {
        /// The number.
        sequence: u64,
        /// The watermark.
        watermark: u64,
        /// The limit.
        window: u64,
    },
    /// The session is not, or no longer, open.
    #[error("session {session_id} has ended")]
    SessionExpired {
        /// The session.
        session_id: u64,
    },
    /// The session table has room, but not for this owner.
    #[error(
        "the session table has no more room for {owner}: sessions it holds: {held}, sessions it may \
         hold: {share_max}, {share_percent} % of what the others leave of {sessions_max}"
    )]
    SessionShareFull {
        /// Who opens.
        owner: Owner,
        /// Sessions that it holds.
        held: u64,
        /// As many as it may hold now.
        share_max: u64,
        /// The percentage.
        share_percent: u8,
        /// The limit of all.
        sessions_max: u64,
    },
    /// Nobody that the cluster knows. Never remembered.
    #[error("the caller is not known: authentication is on, and it showed nothing that counts")]
    Unauthenticated,
    /// The caller may not do it. Never remembered.
    #[error("user {user:?} lacks {lacks} on {on}")]
    PermissionDenied {
        /// The user.
        user: String,
        /// The permissions that it lacks.
        lacks: String,
        /// On what.
        on: String,
    },
    /// A bound of the counter is in the way, and the caller may not read the counter.
    #[error("counter {name:?} must not pass {which}")]
    BoundHidden {
        /// Name of the counter.
        name: String,
        /// Which one.
        which: BoundReached,
    },
    /// A change of users, roles and tokens.
    #[error("{0}")]
    Auth(super::auth::AuthRefusal),
    /// A backup is being restored, and until that is done nothing else happens. Never remembered.
    #[error(
        "a backup is being restored into this cluster: until that is done nothing is written, and no item is read"
    )]
    RestoreUnderWay,
    /// A step of a restore.
    #[error("{0}")]
    Restore(super::restore::RestoreRefusal),
    /// The cluster does not have the version of the formats that brought this. Never remembered.
    #[error("{}", super::version::not_finalized(*needed, *version))]
    UpgradeNotFinalized {
        /// The version that it takes.
        needed: FormatVersion,
        /// The cluster's.
        version: FormatVersion,
    },
    /// A quota does not allow as much more. Never remembered.
    #[error(
        "the quota on {} does not allow {grows_by} more: {used} of {limit} {unit} are used",
        Over(*scope, prefix)
    )]
    QuotaExceeded {
        /// Scope of the quota.
        scope: Scope,
        /// Prefix of the quota.
        prefix: String,
        /// Which hard limit.
        unit: QuotaUnit,
        /// What is used.
        used: u64,
        /// The limit.
        limit: u64,
        /// How much more it would be.
        grows_by: u64,
    },
    /// The same, to one who may not read everything that the quota is about. Never remembered.
    #[error("the quota on {} does not allow more {unit}", Over(*scope, prefix))]
    QuotaHidden {
        /// Scope of the quota.
        scope: Scope,
        /// Prefix of the quota.
        prefix: String,
        /// Which hard limit.
        unit: QuotaUnit,
    },
    /// There are as many quotas as there can be. Never remembered.
    #[error("there are {quotas_max} quotas already, the maximum")]
    QuotaTableFull {
        /// The limit.
        quotas_max: u64,
    },
}

impl Refusal {
    /// Whether the same write may be done in the next moment, without anything that its caller would have to change
    /// about it: somebody makes room. Such a refusal leaves no trace.
    pub fn is_of_the_moment(&self) -> bool {
        match self {
            Refusal::Step { refusal, .. } => refusal.is_of_the_moment(),
            Refusal::QuotaExceeded { .. } | Refusal::QuotaHidden { .. } => true,
            _ => false,
        }
    }
}

/// A bound, without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BoundReached {
    /// The floor.
    Floor,
    /// The ceiling.
    Ceiling,
    /// The end of what a signed 64-bit integer holds.
    Integer,
}

impl fmt::Display for BoundReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BoundReached::Floor => "its floor",
            BoundReached::Ceiling => "its ceiling",
            BoundReached::Integer => "what a signed 64-bit integer holds",
        })
    }
}

/// The part of an Apply that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepPart {
    /// This condition.
    Condition(u32),
    /// This operation of `operations`.
    Operation(u32),
    /// This operation of `else_operations`.
    ElseOperation(u32),
}

impl fmt::Display for StepPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StepPart::Condition(index) => write!(f, "condition {index}"),
            StepPart::Operation(index) => write!(f, "operation {index}"),
            StepPart::ElseOperation(index) => write!(f, "else operation {index}"),
        }
    }
}
