//! What a follower asks of its leader, and a node of its peers: each one call with a deadline.

use std::time::Duration;

use async_trait::async_trait;
use tally_proto::peer::v1 as wire;
use tally_proto::v1::NodeStatus;
use tokio::time::Instant;
use tonic::metadata::MetadataValue;

use super::peers::{DialFailed, Peers, Shared};
use crate::{
    consensus::others::{AskError, Others, ms_left},
    machine::version::FormatRange,
    status::Text,
};

/// Metadata on a failed call that the peer refused before it did anything: it is starting, or the
/// call is not meant for it. Without it a failure may have come after the peer acted.
pub(super) const NOT_ACTED_ON: &str = "tally-not-acted-on";

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

/// What a person is told of a failed call: of a connection the innermost cause, which says more than "transport
/// error".
fn reason_of(status: &tonic::Status) -> String {
    let mut causes =
        std::iter::successors(std::error::Error::source(status), |error| error.source());
    if let Some(cause) = causes.by_ref().find(|cause| cause.is::<DialFailed>()).or(causes.last()) {
        return cause.to_string();
    }
    match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    }
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
        Ok(Err(status)) if never_sent(&status) => Err(AskError::NeverSent(reason_of(&status))),
        Ok(Err(status)) => Err(AskError::Transport(reason_of(&status))),
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

#[async_trait]
impl Others for Peers {
    fn node_id(&self) -> u64 {
        Peers::node_id(self)
    }

    fn client_address(&self, node_id: u64) -> Option<String> {
        Peers::client_address(self, node_id)
    }

    fn own_formats(&self) -> FormatRange {
        Peers::own_formats(self)
    }

    fn formats(&self, node_id: u64) -> Option<(FormatRange, Duration)> {
        Peers::formats(self, node_id)
    }

    async fn propose(
        &self,
        leader: u64,
        address: &str,
        command: wire::ForwardedCommand,
        until: Instant,
    ) -> Result<wire::ForwardedResult, AskError> {
        let request = wire::ProposeRequest {
            cluster_id: self.cluster_id().text(),
            target_node_id: leader,
            commands: vec![command],
        };
        let mut client = self.client(leader, address, Shared::Forwarding);
        let call = client.propose(request);
        let answer = timed(self, leader, Shared::Forwarding, until, call).await?;
        let [result] = <[_; 1]>::try_from(answer.results)
            .map_err(|_| AskError::Transport("one answer was expected".to_owned()))?;
        Ok(result)
    }

    async fn read_index(
        &self,
        leader: u64,
        address: &str,
        until: Instant,
    ) -> Result<u64, AskError> {
        use wire::read_index_response::Result as Answer;

        let request = wire::ReadIndexRequest {
            cluster_id: self.cluster_id().text(),
            target_node_id: leader,
            timeout_ms: ms_left(until),
        };
        let mut client = self.client(leader, address, Shared::Control);
        let call = client.read_index(request);
        match timed(self, leader, Shared::Control, until, call).await?.result {
            Some(Answer::ReadIndex(log_id)) => Ok(log_id.index),
            Some(Answer::Refusal(refusal)) => Err(AskError::Refused(refusal)),
            None => Err(AskError::Transport("the answer is empty".to_owned())),
        }
    }

    async fn applied_index(
        &self,
        node_id: u64,
        address: &str,
        until: Instant,
    ) -> Result<u64, AskError> {
        let told = status(self, node_id, address, until).await?;
        match told.id == node_id {
            true => Ok(told.applied_index),
            false => Err(AskError::Transport(format!("node {} is there", told.id))),
        }
    }

    async fn highest_term(
        &self,
        node_id: u64,
        address: &str,
        until: Instant,
    ) -> Result<u64, AskError> {
        let request =
            wire::TermRequest { cluster_id: self.cluster_id().text(), target_node_id: node_id };
        let mut client = self.client(node_id, address, Shared::Control);
        Ok(timed(self, node_id, Shared::Control, until, client.term(request)).await?.term)
    }
}

/// Forwards a change of the cluster to the leader, once.
pub async fn operate(
    peers: &Peers,
    leader: u64,
    address: &str,
    request: wire::OperateRequest,
    until: Instant,
) -> Result<wire::OperateResponse, AskError> {
    let cluster_id = peers.cluster_id().text();
    let request = wire::OperateRequest { cluster_id, target_node_id: leader, ..request };
    let mut client = peers.client(leader, address, Shared::Forwarding);
    let call = async {
        let answer = client.operate(request).await;
        // A leader of a release that does not know the call did nothing.
        answer.map_err(|mut status| {
            if status.code() == tonic::Code::Unimplemented {
                status.metadata_mut().insert(NOT_ACTED_ON, MetadataValue::from_static("1"));
            }
            status
        })
    };
    timed(peers, leader, Shared::Forwarding, until, call).await
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

/// Introduces this node to whoever answers at an address, on a connection of its own. With TLS it has to be the node
/// that is meant.
pub async fn hello_at(
    peers: &Peers,
    node_id: u64,
    address: &str,
    request: wire::HelloRequest,
    until: Instant,
) -> Result<wire::HelloResponse, String> {
    let mut client = peers.dial_unmet(node_id, address);
    match tokio::time::timeout_at(until, client.hello(request)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(reason_of(&status)),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// A peer's metrics.
pub async fn metrics(
    peers: &Peers,
    node_id: u64,
    address: &str,
    until: Instant,
) -> Result<Text, AskError> {
    let mut texts = tell(peers, node_id, address, wire::TellAbout::Metrics, until).await?;
    texts.pop().ok_or_else(|| AskError::Transport("the answer is empty".to_owned()))
}

/// What a peer says of itself at length.
pub async fn diagnosis(
    peers: &Peers,
    node_id: u64,
    address: &str,
    until: Instant,
) -> Result<Vec<Text>, AskError> {
    tell(peers, node_id, address, wire::TellAbout::Diagnosis, until).await
}

async fn tell(
    peers: &Peers,
    node_id: u64,
    address: &str,
    about: wire::TellAbout,
    until: Instant,
) -> Result<Vec<Text>, AskError> {
    let request = wire::TellRequest {
        cluster_id: peers.cluster_id().text(),
        target_node_id: node_id,
        about: about as i32,
    };
    // On a connection that carries megabytes, so that no heartbeat waits behind it.
    let mut client = peers.client(node_id, address, Shared::Forwarding);
    let call = client.tell(request);
    let answer = timed(peers, node_id, Shared::Forwarding, until, call).await?;
    Ok(answer.files.into_iter().map(Text::from).collect())
}

/// A peer's own line of the status table.
pub async fn status(
    peers: &Peers,
    node_id: u64,
    address: &str,
    until: Instant,
) -> Result<NodeStatus, AskError> {
    let request = wire::StatusRequest { cluster_id: peers.cluster_id().text() };
    let mut client = peers.client(node_id, address, Shared::Control);
    timed(peers, node_id, Shared::Control, until, client.status(request))
        .await?
        .node
        .ok_or_else(|| AskError::Transport("the answer is empty".to_owned()))
}
