//! Why consensus said no, shaped by what the caller may conclude.
//!
//! The line that matters runs between [`NotProposed`] (nothing happened, and nothing will) and
//! [`Unknown`] (it was handed over, and may be applied now, later or never). It is drawn in
//! `propose`, at the moment of handing over.

use std::fmt;

use tally_proto::reason;

/// Who leads, as far as this node knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderHint {
    /// Node id of the leader.
    pub node_id: u64,
    /// Address of its client port, if known.
    pub address: Option<String>,
    /// The term in which it leads.
    pub term: u64,
}

/// A write, or the quorum round of a read, that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing was handed over.
    #[error("{0}")]
    NotProposed(#[from] NotProposed),
    /// It was handed over.
    #[error("the outcome is unknown: {0}")]
    Unknown(#[from] Unknown),
}

/// Refused before anything was handed over to the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotProposed {
    /// This node does not lead.
    #[error("this node is not the leader")]
    NotLeader(Option<LeaderHint>),
    /// No leader with a quorum was found within two election timeouts.
    #[error("no leader with a quorum was found{}", within(*waited_ms))]
    NoQuorum {
        /// How long was waited, in ms; 0 if it was known before.
        waited_ms: u64,
    },
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// A queue is full.
    #[error("{limit}: {message}")]
    Overloaded {
        /// Name of the limit.
        limit: Limit,
        /// What it is.
        message: String,
    },
    /// The cluster does not have the version of the formats that it takes.
    #[error("{0}")]
    UpgradeNotFinalized(String),
    /// This node's state differs from that of a majority of the voters.
    #[error("this node's state differs: {reason}")]
    StateDiffers {
        /// How, and what to do.
        reason: String,
    },
    /// The voters' states differ, and no majority of them agrees.
    #[error("{reason}")]
    NoStateMajority {
        /// Who has which.
        reason: String,
    },
    /// The deadline passed in the queue.
    #[error("the deadline passed before the write was proposed")]
    Deadline,
}

fn within(waited_ms: u64) -> String {
    if waited_ms == 0 { String::new() } else { format!(" within {waited_ms} ms") }
}

/// The limits that refuse a write before it is proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Requests that wait or are being replicated.
    InFlight,
    /// Their bytes.
    InFlightBytes,
    /// What of both one client may have.
    Share,
    /// Remembered answers of one session, or of all.
    SessionBytes,
    /// Sequence numbers of one session.
    SessionWindow,
    /// Room on the disk.
    Disk,
}

impl Limit {
    /// The reason in the error's `ErrorInfo`.
    pub fn reason(self) -> &'static str {
        match self {
            Limit::InFlight => reason::TOO_MANY_IN_FLIGHT,
            Limit::InFlightBytes => reason::TOO_MANY_BYTES_IN_FLIGHT,
            Limit::Share => reason::SHARE_EXCEEDED,
            Limit::SessionBytes => reason::TOO_MANY_SESSION_BYTES,
            Limit::SessionWindow => reason::SESSION_WINDOW_FULL,
            Limit::Disk => reason::DISK_NEARLY_FULL,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

/// Handed over, and nobody here knows what became of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// The deadline passed while it was being replicated.
    #[error("the deadline passed after the write was proposed")]
    Deadline,
    /// Another leader took over while it was being replicated.
    #[error("leadership was lost after the write was proposed")]
    LeadershipLost,
    /// The leader reached no quorum for two election timeouts.
    #[error("the quorum was lost after the write was proposed")]
    QuorumLost,
    /// The node stopped, or an installed snapshot covered the entry.
    #[error("nobody waits for the entry any more: the node stopped or installed a snapshot")]
    WaiterGone,
    /// The leader that it was forwarded to did not answer.
    #[error("the leader did not answer the forwarded write: {0}")]
    Transport(String),
    /// The leader that it was forwarded to does not know either.
    #[error("the leader does not know: {0}")]
    AtLeader(String),
}

/// Why a read could not be given what it asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader with a quorum was found within two election timeouts.
    #[error("no leader with a quorum confirmed a read index within {waited_ms} ms")]
    NoQuorum {
        /// How long was waited, in ms.
        waited_ms: u64,
    },
    /// The read index is confirmed, and no entry on the way to it arrives.
    #[error(
        "this node has applied {applied} and does not get the entries up to the read index {index}: none \
         for {waited_ms} ms"
    )]
    NotCatchingUp {
        /// The read index.
        index: u64,
        /// Where this node is.
        applied: u64,
        /// How long was waited, in ms.
        waited_ms: u64,
    },
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// The bound can't be proven.
    #[error("no state younger than {bound_ms} ms can be proven")]
    StalenessBoundExceeded {
        /// The bound asked for, in ms.
        bound_ms: u64,
        /// The best that can be proven, in ms.
        best_ms: Option<u64>,
    },
    /// The token is of another cluster, or of another life of this one.
    #[error("the session token is of another cluster or of another restore epoch")]
    TokenOfAnotherCluster,
    /// The token was not reached in time.
    #[error(
        "applied index {applied_index} did not reach the token's {token_index} in {waited_ms} ms"
    )]
    TokenNotReached {
        /// Index of the token.
        token_index: u64,
        /// Where this node is.
        applied_index: u64,
        /// How long was waited, in ms.
        waited_ms: u64,
    },
    /// This node's state differs from that of a majority of the voters.
    #[error("this node's state differs: {reason}")]
    StateDiffers {
        /// How, and what to do.
        reason: String,
    },
    /// The deadline passed.
    #[error("the deadline passed before the read could be served")]
    Deadline,
    /// Too many reads wait.
    #[error("too many reads wait for a read index (at most {max})")]
    Overloaded {
        /// The limit.
        max: usize,
    },
}
