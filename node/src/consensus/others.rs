//! What consensus asks of the other nodes. How it reaches them is not known here: `peer` does it.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use tally_proto::peer::v1 as wire;
use tokio::time::Instant;

use crate::machine::version::FormatRange;

/// The other nodes, as far as consensus speaks to them by itself. (Raft's messages go through
/// openraft's own network traits.)
#[async_trait]
pub trait Others: fmt::Debug + Send + Sync + 'static {
    /// This node.
    fn node_id(&self) -> u64;

    /// Another node's client address, if it has said it.
    fn client_address(&self, node_id: u64) -> Option<String>;

    /// Versions of the formats that this node reads.
    fn own_formats(&self) -> FormatRange;

    /// Those that another node reads, and how long ago it last said so, if it did since this node started.
    fn formats(&self, node_id: u64) -> Option<(FormatRange, Duration)>;

    /// Forwards a command to the leader, once.
    async fn propose(
        &self,
        leader: u64,
        address: &str,
        command: wire::ForwardedCommand,
        until: Instant,
    ) -> Result<wire::ForwardedResult, AskError>;

    /// A read index from the leader, by a quorum round that began after the question arrived there.
    async fn read_index(&self, leader: u64, address: &str, until: Instant)
    -> Result<u64, AskError>;

    /// What another node has applied, at a moment after the question arrived there.
    async fn applied_index(
        &self,
        node_id: u64,
        address: &str,
        until: Instant,
    ) -> Result<u64, AskError>;

    /// The highest term that a voter has seen, at a moment after the question arrived there.
    async fn highest_term(
        &self,
        node_id: u64,
        address: &str,
        until: Instant,
    ) -> Result<u64, AskError>;
}

/// Why there is no answer.
#[derive(Debug)]
pub enum AskError {
    /// The peer refused; nothing happened there.
    Refused(wire::Refusal),
    /// No connection could be made, or the peer turned the call away at the door: nothing happened
    /// there.
    NeverSent(String),
    /// The call failed: whether the peer acted on it can't be known.
    Transport(String),
}

impl AskError {
    /// What a person is told.
    pub fn reason(&self) -> &str {
        match self {
            AskError::Refused(_) => "it refuses",
            AskError::NeverSent(reason) | AskError::Transport(reason) => reason,
        }
    }
}

/// The time left until a moment, as it goes on the wire.
pub fn ms_left(until: Instant) -> u32 {
    u32::try_from(until.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(u32::MAX)
}
