//! What a follower asks of its leader, and a node of its peers: each one call with a deadline.

use tally_proto::peer::v1 as wire;
use tally_proto::v1::NodeStatus;
use tokio::time::Instant;

use super::peers::{DialFailed, Peers, Shared};

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

/// Metadata on a failed call that the peer refused before it did anything: it is starting, or the
/// call is not meant for it. Without it a failure may have come after the peer acted.
pub(super) const NOT_ACTED_ON: &str = "tally-not-acted-on";

/// The time left until a moment, as it goes on the wire.
pub(crate) fn ms_left(until: Instant) -> u32 {
    u32::try_from(until.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(u32::MAX)
}

/// The call failed because no connection could be made, or was turned away at the peer's door.
/// Every other failure may have come after the peer acted on it.
fn never_sent(status: &tonic::Status) -> bool {
    if status.metadata().contains_key(NOT_ACTED_ON) {
        return true;
    }
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<DialFailed>() {
            return true;
        }
        cause = error.source();
    }
    false
}

async fn timed<T>(
    peers: &Peers,
    node_id: u64,
    connection: Shared,
    until: Instant,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, AskError> {
    let began = Instant::now();
    match tokio::time::timeout_at(until, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) if never_sent(&status) => Err(AskError::NeverSent(status.to_string())),
        Ok(Err(status)) => Err(AskError::Transport(status.to_string())),
        Err(_) => {
            // A client's deadline may be far too short to say anything of the connection, which others
            // share. One that is dead is found by its keepalive.
            if connection == Shared::Control || began.elapsed() >= peers.connect_timeout() {
                peers.drop_client(node_id, connection);
            }
            Err(AskError::Transport("no answer in time".to_owned()))
        }
    }
}

/// A read index from the leader, by a quorum round that began after the question arrived there.
pub async fn read_index(
    peers: &Peers,
    node_id: u64,
    address: &str,
    until: Instant,
) -> Result<u64, AskError> {
    use wire::read_index_response::Result as Answer;

    let request = wire::ReadIndexRequest {
        cluster_id: peers.cluster_id_text(),
        target_node_id: node_id,
        timeout_ms: ms_left(until),
    };
    let mut client = peers.client(node_id, address, Shared::Control);
    match timed(peers, node_id, Shared::Control, until, client.read_index(request)).await?.result {
        Some(Answer::ReadIndex(log_id)) => Ok(log_id.index),
        Some(Answer::Refusal(refusal)) => Err(AskError::Refused(refusal)),
        None => Err(AskError::Transport("the answer is empty".to_owned())),
    }
}

/// The highest term that a voter has seen, at a moment after the question arrived there.
pub async fn highest_term(
    peers: &Peers,
    node_id: u64,
    address: &str,
    until: Instant,
) -> Result<u64, AskError> {
    let request =
        wire::TermRequest { cluster_id: peers.cluster_id_text(), target_node_id: node_id };
    let mut client = peers.client(node_id, address, Shared::Control);
    Ok(timed(peers, node_id, Shared::Control, until, client.term(request)).await?.term)
}

/// Forwards commands to the leader, once.
pub async fn propose(
    peers: &Peers,
    node_id: u64,
    address: &str,
    commands: Vec<wire::ForwardedCommand>,
    until: Instant,
) -> Result<Vec<wire::ForwardedResult>, AskError> {
    let request = wire::ProposeRequest {
        cluster_id: peers.cluster_id_text(),
        target_node_id: node_id,
        commands,
    };
    let mut client = peers.client(node_id, address, Shared::Forwarding);
    Ok(timed(peers, node_id, Shared::Forwarding, until, client.propose(request)).await?.results)
}

/// Introduces this node to a peer.
pub async fn hello(
    peers: &Peers,
    node_id: u64,
    address: &str,
    request: wire::HelloRequest,
    until: Instant,
) -> Result<wire::HelloResponse, AskError> {
    let mut client = peers.client(node_id, address, Shared::Control);
    timed(peers, node_id, Shared::Control, until, client.hello(request)).await
}

/// Introduces this node to whoever answers at an address, on a connection of its own.
pub async fn hello_at(
    peers: &Peers,
    address: &str,
    request: wire::HelloRequest,
    until: Instant,
) -> Result<wire::HelloResponse, String> {
    // Nobody has the id 0, so that the call is meant for no known directory.
    let mut client = peers.dial(0, address);
    match tokio::time::timeout_at(until, client.hello(request)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// A peer's own line of the status table.
pub async fn status(
    peers: &Peers,
    node_id: u64,
    address: &str,
    until: Instant,
) -> Result<NodeStatus, AskError> {
    let request = wire::StatusRequest { cluster_id: peers.cluster_id_text() };
    let mut client = peers.client(node_id, address, Shared::Control);
    timed(peers, node_id, Shared::Control, until, client.status(request))
        .await?
        .node
        .ok_or_else(|| AskError::Transport("the answer is empty".to_owned()))
}
