//! The place of an entry in the replicated log, as storage knows it.

use std::fmt;

use super::wal;

/// (term, index): the term in which a leader made the entry, and its place.
///
/// Ordered by term first, as Raft orders logs. Storage has a type of its own so that it does not
/// depend on the consensus library; the two are converted at the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Term of the leader that made the entry.
    pub term: u64,
    /// Position in the log.
    pub index: u64,
}

impl LogId {
    /// A log id of its parts.
    pub fn new(term: u64, index: u64) -> Self {
        LogId { term, index }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.term, self.index)
    }
}

impl From<wal::LogId> for LogId {
    fn from(log_id: wal::LogId) -> Self {
        LogId { term: log_id.term, index: log_id.index }
    }
}

impl From<LogId> for wal::LogId {
    fn from(log_id: LogId) -> Self {
        wal::LogId { term: log_id.term, index: log_id.index }
    }
}
