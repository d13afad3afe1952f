//! What can be asked of the state machine: one documented variant each. (Operations on counters and keys
//! are in [`super::operation`], what is answered in [`super::reply`]; all have their names here.)
//!
//! These types are what the log holds (see [`super::codec`] for the bytes), so a variant's position
//! is part of the on-disk format: append new ones, never reorder. They know nothing of the wire;
//! the api converts.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use super::{
    auth::{AuthCommand, Caller},
    canonical::Fingerprint,
    item::{Bounds, CounterChange, CounterRecord, Found, KeyChange, KeyRecord, Target},
    node_ids::NodeIdCommand,
    operation::*,
    owner::Owner,
    quota::QuotaCommand,
    records::Settings,
    reply::{Answer, BoundReached, Kept, OperationAnswer, Refusal, Reply, StepPart},
    restore::{RestoreBegin, RestoreCommand, RestorePhase, RestoreRefusal},
    version::FormatVersion,
};

/// One log entry: commands that were proposed together. They are applied in order, each atomic in
/// itself; sharing an entry means nothing to their meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Log time that the leader stamped, in milliseconds. Apply takes the highest so far.
    pub log_time_ms: u64,
    /// The leader's wall clock, in milliseconds since 1970. Stored for display, decides nothing.
    pub wall_time_ms: u64,
    /// The commands.
    pub commands: Vec<Command>,
}

/// One request of one client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Session stamp, if the write has one.
    pub session: Option<SessionStamp>,
    /// Idempotency key, if the write has one.
    pub idempotency: Option<IdempotencyKey>,
    /// SHA-256 of the canonical encoding of `action` ([`super::fingerprint`]): what "the same
    /// request" means. All zero where neither session nor key is given.
    pub fingerprint: Fingerprint,
    /// What to do.
    pub action: Action,
    /// Who asks for it; nobody while authentication is off, and for what a node asks for by itself. It lies
    /// beside the command in the log, so that one without it has the bytes that it always had
    /// ([`super::codec`]).
    #[serde(skip)]
    pub caller: Option<Caller>,
}

/// Number of a write in its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStamp {
    /// The session: log index of the entry that opened it.
    pub session_id: u64,
    /// Number of the write, from 1.
    pub sequence: u64,
    /// Lowest number whose caller has no answer yet; the watermark rises to it.
    pub lowest_unanswered: u64,
}

/// A name that the application chose for a write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// The key, 1..=128 bytes.
    pub key: String,
    /// How long to remember it, in log time; already clamped to the limits by the api. 0: the
    /// cluster's window.
    pub window_ms: u64,
}

/// What a command does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// One operation.
    Single(Operation),
    /// Several operations, all or nothing.
    Apply(ApplyStep),
    /// Opens a session; its id is the log index of the entry, so a [`Batch`] holds at most one.
    OpenSession {
        /// Idle time after which it ends, in ms of log time; 0: the cluster's default.
        idle_timeout_ms: u64,
    },
    /// Keeps a session alive and raises its watermark.
    RenewSession {
        /// The session.
        session_id: u64,
        /// Lowest number whose caller has no answer yet; 0 leaves the watermark.
        lowest_unanswered: u64,
    },
    /// Ends a session and drops its answers.
    CloseSession {
        /// The session.
        session_id: u64,
    },
    /// Only carries log time, so that what is due expires while nobody writes.
    Tick,
    /// The cluster's first command: gives it its id and the settings that apply depends on.
    CreateCluster {
        /// The id: 128 random bits.
        cluster_id: u128,
        /// Settings equal on every replica.
        settings: Settings,
    },
    /// [`Action::OpenSession`] for somebody, who may hold only so many. (That variant is of logs from
    /// before sessions had owners; what it opens has none, and is under the limit of all only.)
    OpenOwnedSession {
        /// Idle time after which it ends, in ms of log time; 0: the cluster's default.
        idle_timeout_ms: u64,
        /// Who opens it.
        owner: Owner,
        /// Percent of the places which no other owner holds that this one may hold, 1 to 100. It
        /// travels in the entry, not in a node's memory: the replicas decide by what they read there,
        /// whatever each of them is configured to.
        share_percent: u8,
    },
    /// Changes users, roles and tokens.
    Auth(AuthCommand),
    /// [`Action::CreateCluster`] with authentication on from the first moment.
    CreateSecureCluster {
        /// The id: 128 random bits.
        cluster_id: u128,
        /// Settings equal on every replica.
        settings: Settings,
        /// SHA-256 of the secret of the first token.
        secret_hash: [u8; 32],
    },
    /// A step of the restore of a backup.
    Restore(RestoreCommand),
    /// Gives ids to nodes, and retires them.
    NodeId(NodeIdCommand),
    /// Changes quotas.
    Quota(QuotaCommand),
    /// Replicas compare their states after the entry that carries it. It changes nothing but what every entry does;
    /// whoever applies it takes the hash.
    Compare,
    /// From here on the cluster has this version of the formats ([`super::gate`]), if it had a lower one.
    RaiseVersion {
        /// The version.
        to: FormatVersion,
    },
    /// [`Action::CreateCluster`], or with a secret [`Action::CreateSecureCluster`], of a cluster that has this version
    /// from the first moment.
    CreateClusterAt {
        /// The id: 128 random bits.
        cluster_id: u128,
        /// Settings equal on every replica.
        settings: Settings,
        /// SHA-256 of the secret of the first token, if authentication is on from the first moment.
        secret_hash: Option<[u8; 32]>,
        /// The version, which all first members read.
        version: FormatVersion,
    },
}

impl Action {
    /// Whether it is one that nodes ask for by themselves, and that no request becomes.
    pub fn is_own(&self) -> bool {
        matches!(
            self,
            Action::Tick
                | Action::Compare
                | Action::CreateCluster { .. }
                | Action::CreateSecureCluster { .. }
                | Action::NodeId(_)
                | Action::RaiseVersion { .. }
                | Action::CreateClusterAt { .. }
                | Action::Restore(RestoreCommand::Recover(_))
        )
    }

    /// Whether it opens a session: a log entry has at most one that does.
    pub fn opens_session(&self) -> bool {
        matches!(self, Action::OpenSession { .. } | Action::OpenOwnedSession { .. })
    }
}

/// Several operations in one atomic step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyStep {
    /// All must hold for `operations` to run.
    pub conditions: Vec<Condition>,
    /// Run if they do.
    pub operations: Vec<Operation>,
    /// Run if one does not; empty: the step is refused.
    pub else_operations: Vec<Operation>,
}

/// One condition of an [`ApplyStep`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// What is looked at.
    pub target: Target,
    /// What must hold.
    pub test: Test,
}

/// What a condition compares. The api has checked that it fits the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Test {
    /// The item exists, or does not.
    Exists(bool),
    /// The stored revision (0 for a missing item) compared with this one.
    Revision(Comparison, u64),
    /// The counter's value compared with this one; false for a missing counter.
    CounterValue(Comparison, i64),
    /// The key's value compared bytewise with this one; false for a missing key.
    KeyValue(Comparison, Bytes),
}

/// Stored value on the left, given one on the right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparison {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}
