//! Raft's messages on their way out: openraft's network traits over the peer service.
//!
//! Three things that openraft leaves to its user, each met by running it:
//! - deadlines: every call has one, and a connection that missed it is dropped, not trusted again;
//! - a stream that can't be opened must still take its first request, or openraft opens streams in
//!   a loop without delay: it sleeps its back-off only while the request stream is polled;
//! - `pre_vote` grants and `transfer_leader` fails unless they are implemented.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use openraft::{
    base::{BoxFuture, BoxStream},
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{RPCOption, RaftNetworkFactory, v2::RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use tally_proto::peer::v1 as wire;

use super::{
    SNAPSHOT_CHUNK_BYTES, convert,
    peers::{Client, Peers},
};
use crate::{
    consensus::types::{Member, Snapshot, SnapshotData, TypeConfig, Vote},
    storage::snapshot::receive::SnapshotReader,
};

/// Makes a connection for each peer.
#[derive(Debug, Clone)]
pub struct NetworkFactory {
    peers: Peers,
    /// An append that has been sent and is not answered for this long ends its stream.
    append_answer_timeout: Duration,
}

impl NetworkFactory {
    /// Over these peers.
    pub fn new(peers: Peers, append_answer_timeout: Duration) -> Self {
        NetworkFactory { peers, append_answer_timeout }
    }
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, member: &Member) -> Connection {
        Connection {
            peers: self.peers.clone(),
            target,
            address: member.peer_address.clone(),
            bulk: None,
            append_answer_timeout: self.append_answer_timeout,
        }
    }
}

/// One peer, as openraft sees it.
#[derive(Debug)]
pub struct Connection {
    peers: Peers,
    target: u64,
    address: String,
    /// Entries and snapshots travel on a connection of their own, so that a heartbeat or a vote
    /// never waits behind a megabyte.
    bulk: Option<Client>,
    append_answer_timeout: Duration,
}

fn unreachable(reason: impl ToString) -> Unreachable<TypeConfig> {
    Unreachable::from_string(reason)
}

fn network_error(reason: impl ToString) -> NetworkError<TypeConfig> {
    NetworkError::from_string(reason)
}

impl Connection {
    fn control(&self) -> Client {
        self.peers.control(self.target, &self.address)
    }

    fn bulk(&mut self) -> Client {
        let peers = &self.peers;
        let address = &self.address;
        self.bulk.get_or_insert_with(|| peers.dial(address)).clone()
    }

    /// Runs one small call with its deadline.
    async fn call<T>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, RPCError<TypeConfig>> {
        match tokio::time::timeout(deadline, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(RPCError::Unreachable(unreachable(status))),
            Err(_) => {
                self.peers.drop_control(self.target);
                Err(RPCError::Unreachable(unreachable("the peer did not answer in time")))
            }
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let requests = Box::pin(stream::once(async move { request }));
        let mut answers = self.stream_append(requests, option).await?;
        match answers.next().await {
            Some(answer) => answer.map(AppendEntriesResponse::from),
            None => Err(RPCError::Network(network_error("the peer closed the stream"))),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut requests: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        Box::pin(async move {
            let Some(first) = requests.next().await else {
                return Ok(stream::empty().boxed());
            };
            let is_heartbeat = first.entries.is_empty();
            let mut client = if is_heartbeat { self.control() } else { self.bulk() };

            let cluster_id = self.peers.cluster_id_text();
            let target = self.target;
            let sent = Arc::new(AtomicU64::new(0));
            let counter = Arc::clone(&sent);
            let outgoing = stream::once(async move { first }).chain(requests).map(move |request| {
                counter.fetch_add(1, Ordering::Relaxed);
                convert::append_to_wire(request, cluster_id.clone(), target)
            });

            match tokio::time::timeout(option.soft_ttl(), client.append(outgoing)).await {
                Ok(Ok(response)) => {
                    let answers = response.into_inner();
                    Ok(timed_answers(answers, sent, self.append_answer_timeout).boxed())
                }
                Ok(Err(status)) => Err(RPCError::Unreachable(unreachable(status))),
                Err(_) => {
                    self.bulk = None;
                    self.peers.drop_control(self.target);
                    Err(RPCError::Unreachable(unreachable("the stream did not open in time")))
                }
            }
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request =
            convert::vote_request_to_wire(&request, self.peers.cluster_id_text(), self.target);
        let mut client = self.control();
        let response = self.call(option.soft_ttl(), client.vote(request)).await?;
        convert::vote_response_from_wire(&response)
            .map_err(|error| RPCError::Network(network_error(error)))
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let vote =
            convert::vote_request_to_wire(&request, self.peers.cluster_id_text(), self.target);
        let mut client = self.control();
        let request = wire::PreVoteRequest { vote: Some(vote) };
        let response = self.call(option.soft_ttl(), client.pre_vote(request)).await?;
        response
            .vote
            .ok_or(convert::Malformed::Missing("vote"))
            .and_then(|vote| convert::vote_response_from_wire(&vote))
            .map_err(|error| RPCError::Network(network_error(error)))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::Outgoing(reader) = snapshot.snapshot else {
            let error = network_error("a received snapshot is not sent on before it is installed");
            return Err(StreamingError::Network(error));
        };
        let head = wire::SnapshotHead {
            cluster_id: self.peers.cluster_id_text(),
            target_node_id: self.target,
            ballot: Some(convert::vote_to_wire(&vote)),
            last_log_id: snapshot.meta.last_log_id.as_ref().map(convert::log_id_to_wire),
            membership: convert::encode_stored_membership(&snapshot.meta.last_membership),
            size_bytes: reader.info().size,
        };
        let mut client = self.bulk();
        let chunks = snapshot_chunks(head, reader);
        let sending = client.install_snapshot(chunks);
        let sent = tokio::select! {
            sent = tokio::time::timeout(option.hard_ttl(), sending) => sent,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        match sent {
            Ok(Ok(response)) => convert::vote_from_wire(response.into_inner().ballot.as_ref())
                .map(SnapshotResponse::new)
                .map_err(|error| StreamingError::Network(network_error(error))),
            Ok(Err(status)) => Err(StreamingError::Unreachable(unreachable(status))),
            Err(_) => {
                self.bulk = None;
                Err(StreamingError::Unreachable(unreachable("the snapshot took too long")))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = wire::TransferLeaderRequest {
            cluster_id: self.peers.cluster_id_text(),
            target_node_id: self.target,
            from_ballot: Some(convert::vote_to_wire(request.from_leader())),
            to_node_id: *request.to_node_id(),
            last_log_id: request.last_log_id().map(convert::log_id_to_wire),
        };
        let mut client = self.control();
        let response = self.call(option.soft_ttl(), client.transfer_leader(request)).await?;
        if response.accepted {
            return Ok(Ok(()));
        }
        Err(RPCError::Network(network_error(response.reason)))
    }
}

/// The answers of an append stream; one that is owed for too long ends it.
fn timed_answers(
    answers: tonic::Streaming<wire::AppendResponse>,
    sent: Arc<AtomicU64>,
    timeout: Duration,
) -> impl Stream<Item = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>> {
    let answered = 0_u64;
    stream::unfold(Some((answers, answered)), move |state| {
        let sent = Arc::clone(&sent);
        async move {
            let (mut answers, answered) = state?;
            let next = loop {
                match tokio::time::timeout(timeout, answers.message()).await {
                    Ok(next) => break next,
                    // Nothing is owed: an idle stream may stay silent.
                    Err(_) if sent.load(Ordering::Relaxed) == answered => {}
                    Err(_) => {
                        let error = network_error("the peer owes an answer for too long");
                        return Some((Err(RPCError::Network(error)), None));
                    }
                }
            };
            match next {
                Ok(Some(response)) => {
                    let result = convert::append_result_from_wire(response)
                        .map_err(|error| RPCError::Network(network_error(error)));
                    Some((result, Some((answers, answered + 1))))
                }
                Ok(None) => None,
                Err(status) => Some((Err(RPCError::Network(network_error(status))), None)),
            }
        }
    })
}

/// The head, then the file. A read error ends the stream early, and the receiver, which knows the
/// size, refuses what it got.
fn snapshot_chunks(
    head: wire::SnapshotHead,
    reader: SnapshotReader,
) -> impl Stream<Item = wire::InstallSnapshotRequest> {
    use wire::install_snapshot_request::Part;

    let first = wire::InstallSnapshotRequest { part: Some(Part::Head(head)) };
    let chunks = stream::unfold(reader, |mut reader| async move {
        match reader.next_chunk(SNAPSHOT_CHUNK_BYTES).await {
            Ok(Some(chunk)) => {
                Some((wire::InstallSnapshotRequest { part: Some(Part::Chunk(chunk)) }, reader))
            }
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(%error, "a snapshot could not be read to its end");
                None
            }
        }
    });
    stream::once(async move { first }).chain(chunks)
}
