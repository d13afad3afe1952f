//! What can be asked of the state machine and what it answers: one documented variant each.
//!
//! These types are what the log holds (see [`super::codec`] for the bytes), so a variant's position
//! is part of the on-disk format: append new ones, never reorder. They know nothing of the wire;
//! the api converts.

use std::{fmt, net::IpAddr, str::FromStr};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

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
}

/// Digest of a request without its session, key, deadline, request id and node.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..4] {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
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
}

impl Action {
    /// Whether it opens a session: a log entry has at most one that does.
    pub fn opens_session(&self) -> bool {
        matches!(self, Action::OpenSession { .. } | Action::OpenOwnedSession { .. })
    }
}

/// Who opened a session: the address from which its client called, as the node that took the call saw
/// it, without the port. Clients behind one address (a NAT, a proxy, one machine) are one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner(IpAddr);

impl Owner {
    /// Of an address. An IPv4 address is the same owner however a socket spells it.
    pub fn new(address: IpAddr) -> Owner {
        Owner(address.to_canonical())
    }

    /// As sixteen bytes, equal only for equal owners.
    pub fn octets(self) -> [u8; 16] {
        match self.0 {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        }
    }

    /// The owner with these octets.
    pub fn from_octets(octets: [u8; 16]) -> Owner {
        Owner::new(IpAddr::from(octets))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Owner {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Owner, Self::Err> {
        text.parse().map(Owner::new)
    }
}

/// Settings that decide answers, so they are part of the replicated state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// At most this many open sessions.
    pub sessions_max: u64,
    /// Idle time of a session that asks for none, in ms of log time.
    pub session_idle_ms: u64,
    /// Window of an idempotency key that asks for none, and the longest allowed, in ms of log time.
    pub idempotency_window_ms: u64,
    /// At most this many bytes of remembered idempotency keys and answers.
    pub idempotency_bytes_max: u64,
}

/// Operations on counters and keys, alone or inside an [`ApplyStep`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Moves a counter.
    CounterAdd {
        /// Name of the counter.
        name: String,
        /// What to add.
        delta: i64,
        /// Bounds of this request.
        bounds: Bounds,
        /// What happens at a bound.
        on_violation: OnViolation,
        /// Refuse, instead of creating it at 0, if it is missing.
        must_exist: bool,
    },
    /// Reads a counter (inside an [`ApplyStep`] only).
    CounterGet {
        /// Name of the counter.
        name: String,
    },
    /// Replaces a counter's value.
    CounterSet {
        /// Name of the counter.
        name: String,
        /// The new value.
        value: i64,
    },
    /// Replaces a counter's value if what is stored is as expected.
    CounterCompareAndSet {
        /// Name of the counter.
        name: String,
        /// What must be stored.
        expect: CounterExpectation,
        /// The new value.
        value: i64,
    },
    /// Removes a counter and its bounds.
    CounterDelete {
        /// Name of the counter.
        name: String,
    },
    /// Replaces a counter's stored bounds; creates a missing one at 0.
    CounterConfigure {
        /// Name of the counter.
        name: String,
        /// The bounds to store.
        bounds: Bounds,
    },
    /// Stores a key.
    KeyPut {
        /// The key.
        key: String,
        /// The value.
        value: Bytes,
        /// What must hold.
        expect: KeyExpectation,
    },
    /// Reads a key (inside an [`ApplyStep`] only).
    KeyGet {
        /// The key.
        key: String,
    },
    /// Removes a key.
    KeyDelete {
        /// The key.
        key: String,
        /// What must hold.
        expect: KeyExpectation,
    },
}

/// Bounds of a counter; `None` is the limit of int64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bounds {
    /// Lowest value allowed.
    pub floor: Option<i64>,
    /// Highest value allowed.
    pub ceiling: Option<i64>,
}

/// What an Add does that would pass a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnViolation {
    /// Nothing changes.
    #[default]
    Reject,
    /// Moves to the bound, never against the sign of delta.
    Saturate,
}

/// What a compare-and-set expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CounterExpectation {
    /// This value.
    Value(i64),
    /// This revision.
    Revision(u64),
    /// No such counter.
    Absent,
}

/// What a write on a key expects.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum KeyExpectation {
    /// Nothing.
    #[default]
    Any,
    /// No such key.
    Absent,
    /// The key exists.
    Present,
    /// This revision.
    Revision(u64),
    /// The key exists and has this value.
    Value(Bytes),
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

/// What a condition looks at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// A counter.
    Counter(String),
    /// A key.
    Key(String),
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
    /// To [`Action::Single`].
    Single(OperationAnswer),
    /// To [`Action::Apply`].
    Apply {
        /// `else_operations` ran.
        else_branch: bool,
        /// One for each operation of the branch.
        answers: Vec<OperationAnswer>,
    },
    /// To [`Action::OpenSession`].
    SessionOpened {
        /// The id.
        session_id: u64,
        /// The idle time that counts, in ms of log time.
        idle_timeout_ms: u64,
    },
    /// To [`Action::RenewSession`].
    SessionRenewed,
    /// To [`Action::CloseSession`].
    SessionClosed {
        /// It was open.
        existed: bool,
    },
    /// To [`Action::Tick`] and [`Action::CreateCluster`].
    Done,
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

/// What happened to a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterChange {
    /// Value before; 0 if it did not exist.
    pub value_before: i64,
    /// Value after.
    pub value: i64,
    /// Delta asked for; for others than Add, the difference saturated to int64.
    pub delta_requested: i64,
    /// Delta applied, saturated to int64.
    pub delta_applied: i64,
    /// Revision of the change, or of the store if nothing changed.
    pub revision: u64,
    /// It existed before.
    pub existed: bool,
    /// Stored bounds after; before, for a delete.
    pub bounds: Bounds,
}

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    /// Revision of the change, or of the store if nothing changed.
    pub revision: u64,
    /// It existed before.
    pub existed: bool,
    /// Revision that last changed it before; 0 if it did not exist.
    pub previous_revision: u64,
}

/// A counter as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterRecord {
    /// Its value.
    pub value: i64,
    /// Its bounds.
    pub bounds: Bounds,
    /// Revision that created it.
    pub created_revision: u64,
    /// Revision that last changed it.
    pub modified_revision: u64,
    /// Wall clock of the leader at the last change, for display.
    pub modified_wall_time_ms: u64,
}

/// A key as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Its value.
    pub value: Bytes,
    /// Revision that created it.
    pub created_revision: u64,
    /// Revision that last changed it.
    pub modified_revision: u64,
    /// Wall clock of the leader at the last change, for display.
    pub modified_wall_time_ms: u64,
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
}

/// What a failed condition found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// No such item.
    Nothing,
    /// A counter.
    Counter {
        /// Its value.
        value: i64,
        /// Revision that last changed it.
        modified_revision: u64,
    },
    /// A key.
    Key {
        /// Its value, if at most 1 KiB.
        value: Option<Bytes>,
        /// Size of its value.
        size_bytes: u64,
        /// Revision that last changed it.
        modified_revision: u64,
    },
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

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Counter(name) => write!(f, "counter {name:?}"),
            Target::Key(key) => write!(f, "key {key:?}"),
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::Nothing => write!(f, "it does not exist"),
            Found::Counter { value, modified_revision } => {
                write!(f, "its value is {value}, at revision {modified_revision}")
            }
            Found::Key { size_bytes, modified_revision, .. } => {
                write!(f, "its value has {size_bytes} bytes, at revision {modified_revision}")
            }
        }
    }
}
