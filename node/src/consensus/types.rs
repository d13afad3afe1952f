//! The types that openraft is instantiated with.
//!
//! Leader ids are those of the Raft paper: a term has one leader, and a log id is (term, index).

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    env::traces::TraceContext,
    machine::command::Reply,
    storage::snapshot::receive::{ReceivedSnapshot, SnapshotReader},
};

openraft::declare_raft_types!(
    /// Tally's instantiation of openraft.
    pub TypeConfig:
        D = EntryPayload,
        R = Replies,
        NodeId = u64,
        Node = Member,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = super::runtime::Runtime,
);

/// The contexts of an entry's commands that are traced; nearly always none.
pub(crate) type Contexts = Option<Arc<[TraceContext]>>;

/// What one log entry carries: an encoded [`crate::machine::command::Batch`].
///
/// It stays encoded from the leader's proposal to every replica's apply, so that the log and the
/// transport copy bytes and know nothing of commands.
#[derive(Clone, PartialEq, Eq)]
pub struct EntryPayload {
    /// The batch.
    pub batch: Bytes,
    /// Contexts of its commands that are traced: beside the entry, and not stored with it.
    pub(crate) traced: Contexts,
}

impl fmt::Debug for EntryPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} bytes", self.batch.len())
    }
}

impl fmt::Display for EntryPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying one entry leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replies {
    /// The replies to its commands, in their order; empty for entries without commands.
    pub replies: Arc<Vec<Reply>>,
    /// Revision of the store after the whole entry: the state that its log index names.
    pub revision: u64,
    /// When this node applied it, for who looks where the time went.
    pub applied: Option<AppliedAt>,
}

/// When an entry was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppliedAt {
    /// When the step began that it was applied in.
    pub began: Instant,
    /// How long that took.
    pub took: Duration,
}

impl fmt::Display for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} replies", self.replies.len())
    }
}

/// What the membership stores of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Address of its peer port.
    pub peer_address: String,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.peer_address)
    }
}

/// (term, index).
pub type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
/// A vote: term, candidate, and whether a quorum granted it.
pub type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
/// A log entry.
pub type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
/// Voters and learners, with the log id that set them.
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
/// What describes a snapshot.
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
/// Called when an append is durable.
pub type IoFlushed = openraft::storage::IOFlushed<TypeConfig>;
/// A snapshot: what describes it, and where its bytes are.
pub type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// Makes a log id.
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

/// The term of a log id.
pub fn term_of(log_id: &LogId) -> u64 {
    log_id.leader_id.term
}

/// The bytes of a snapshot.
#[derive(Debug)]
pub enum SnapshotData {
    /// Being read, to be sent.
    Outgoing(SnapshotReader),
    /// Received whole, checked and durable, to be installed.
    Received(ReceivedSnapshot),
}
