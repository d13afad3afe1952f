//! Raft's messages on their way out: openraft's network traits over the peer service.
//!
//! Three things that openraft leaves to its user, each met by running it:
//! - deadlines: every call has one, and a connection that missed it is dropped, not trusted again;
//! - a stream that can't be opened must still take its first request, or openraft opens streams in
//!   a loop without delay: it sleeps its back-off only while the request stream is polled;
//! - `pre_vote` grants and `transfer_leader` fails unless they are implemented.

mod appends;

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
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
use tokio::{sync::watch, time::Instant};

use self::appends::{Outgoing, Progress, timed_answers};
use super::{
    convert,
    peers::{Client, Peers, Shared},
};
use crate::{
    consensus::{
        SNAPSHOT_CHUNK_BYTES,
        compare::Comparisons,
        membership,
        sending::Sending,
        types::{Member, Snapshot, SnapshotData, TypeConfig, Vote},
    },
    storage::snapshot::receive::SnapshotReader,
};

/// The index up to which this node's log is purged.
pub type PurgedUpTo = Arc<dyn Fn() -> Option<u64> + Send + Sync>;

/// Makes a connection for each peer.
#[derive(Clone)]
pub struct NetworkFactory {
    peers: Peers,
    purged: PurgedUpTo,
    /// An append that has been sent and is not answered for this long ends its stream.
    append_answer_timeout: Duration,
    comparisons: Comparisons,
    sending: Sending,
}

impl NetworkFactory {
    /// Over these peers.
    pub fn new(
        peers: Peers,
        purged: PurgedUpTo,
        append_answer_timeout: Duration,
        comparisons: Comparisons,
        sending: Sending,
    ) -> Self {
        NetworkFactory { peers, purged, append_answer_timeout, comparisons, sending }
    }
}

impl std::fmt::Debug for NetworkFactory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetworkFactory").field("peers", &self.peers).finish_non_exhaustive()
    }
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, member: &Member) -> Connection {
        self.connection(target, member, Appends::Entries)
    }

    async fn new_heartbeat_client(&mut self, target: u64, member: &Member) -> Connection {
        self.connection(target, member, Appends::Heartbeats)
    }
}

impl NetworkFactory {
    fn connection(&self, target: u64, member: &Member, appends: Appends) -> Connection {
        Connection {
            peers: self.peers.clone(),
            purged: Arc::clone(&self.purged),
            target,
            address: member.peer_address.clone(),
            appends,
            bulk: None,
            progress: Arc::default(),
            append_answer_timeout: self.append_answer_timeout,
            comparisons: self.comparisons.clone(),
            sending: self.sending.clone(),
        }
    }
}

/// What the appends of a connection are. It can't be told from a request: replication, too, begins
/// without entries when it has only a commit index to tell, and goes on with megabytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Appends {
    /// They keep a leader: over the control connection, and whatever the follower needs.
    Heartbeats,
    /// They bring entries: over a connection of their own, until those are purged.
    Entries,
}

/// One peer, as openraft sees it.
pub struct Connection {
    peers: Peers,
    purged: PurgedUpTo,
    target: u64,
    /// Where it was when it was last called. It may move: openraft keeps a stream of appends through a change of the
    /// addresses.
    address: String,
    appends: Appends,
    /// Entries and snapshots travel on a connection of their own, so that a heartbeat or a vote
    /// never waits behind a megabyte.
    bulk: Option<Client>,
    /// How the last stream of appends went.
    progress: Arc<Progress>,
    append_answer_timeout: Duration,
    comparisons: Comparisons,
    sending: Sending,
}

fn unreachable(reason: impl ToString) -> Unreachable<TypeConfig> {
    Unreachable::from_string(reason)
}

fn network_error(reason: impl ToString) -> NetworkError<TypeConfig> {
    NetworkError::from_string(reason)
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Connection {
    /// Goes where the peer is now.
    fn follow(&mut self) {
        if let Some(address) = self.peers.moved_from(self.target, &self.address) {
            self.address = address;
            self.bulk = None;
        }
    }

    fn control(&mut self) -> Client {
        self.follow();
        self.peers.client(self.target, &self.address, Shared::Control)
    }

    fn bulk(&mut self) -> Client {
        self.follow();
        let (peers, target, address) = (&self.peers, self.target, &self.address);
        self.bulk.get_or_insert_with(|| peers.dial(target, address)).clone()
    }

    /// Runs one small call with its deadline.
    async fn call<T>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, RPCError<TypeConfig>> {
        match tokio::time::timeout(deadline, call).await {
            Ok(Ok(response)) => {
                self.peers.answered(self.target);
                Ok(response.into_inner())
            }
            Ok(Err(status)) => {
                self.peers.not_answered(self.target);
                Err(RPCError::Unreachable(unreachable(status)))
            }
            Err(_) => {
                self.peers.not_answered(self.target);
                self.peers.drop_client(self.target, Shared::Control);
                Err(RPCError::Unreachable(unreachable("the peer did not answer in time")))
            }
        }
    }

    /// Opens a stream of appends; one of replication ends in an error when it asks for what is purged.
    fn open_append<'s, S>(
        &'s mut self,
        mut requests: S,
        option: RPCOption,
        appends: Appends,
    ) -> BoxFuture<'s, Opened<'s>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        Box::pin(async move {
            let Some(first) = requests.next().await else {
                return Ok(stream::empty().boxed());
            };
            if self.progress.owes_an_answer.load(Ordering::Relaxed) {
                // It may be dead, and would take the next requests as silently. What it holds may still
                // arrive, behind what is sent from here on: `PeerService::append` expects that.
                self.bulk = None;
            }
            let mut client = match appends {
                Appends::Heartbeats => self.control(),
                Appends::Entries => self.bulk(),
            };
            let purged = (appends == Appends::Entries).then(|| Arc::clone(&self.purged));

            let progress = Arc::new(Progress::default());
            self.progress = Arc::clone(&progress);
            // From before the stream is opened: it must not miss that the peer comes back meanwhile.
            let comings_back = match appends {
                Appends::Heartbeats => None,
                Appends::Entries => Some(self.peers.comings_back(self.target)),
            };
            let outgoing = Outgoing {
                first: Some(first),
                requests,
                held: None,
                hold: None,
                ended: false,
                purged,
                progress: Arc::clone(&progress),
                cluster_id: self.peers.cluster_id().text(),
                target: self.target,
            };

            match tokio::time::timeout(option.soft_ttl(), client.append(outgoing)).await {
                Ok(Ok(response)) => {
                    let answers = response.into_inner();
                    let timeout = self.append_answer_timeout;
                    Ok(timed_answers(answers, progress, timeout, comings_back).boxed())
                }
                Ok(Err(status)) => {
                    if appends == Appends::Heartbeats {
                        self.peers.not_answered(self.target);
                    }
                    Err(RPCError::Unreachable(unreachable(status)))
                }
                Err(_) => {
                    match appends {
                        Appends::Heartbeats => {
                            self.peers.not_answered(self.target);
                            self.peers.drop_client(self.target, Shared::Control);
                        }
                        Appends::Entries => self.bulk = None,
                    }
                    Err(RPCError::Unreachable(unreachable("the stream did not open in time")))
                }
            }
        })
    }
}

/// An append stream's answers, or why it could not be opened.
type Opened<'s> = Result<
    BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
    RPCError<TypeConfig>,
>;

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let requests = Box::pin(stream::once(async move { request }));
        let mut answers = self.open_append(requests, option, Appends::Heartbeats).await?;
        let answer = match answers.next().await {
            Some(answer) => answer.map(AppendEntriesResponse::from),
            None => Err(RPCError::Network(network_error("the peer closed the stream"))),
        };
        drop(answers);
        match &answer {
            Ok(_) => self.peers.answered(self.target),
            Err(_) => self.peers.not_answered(self.target),
        }
        answer
    }

    fn stream_append<'s, S>(
        &'s mut self,
        requests: S,
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
        let appends = self.appends;
        self.open_append(requests, option, appends)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request =
            convert::vote_request_to_wire(&request, self.peers.cluster_id().text(), self.target);
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
            convert::vote_request_to_wire(&request, self.peers.cluster_id().text(), self.target);
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
        if self.comparisons.differs() {
            // Whoever lacks entries that only a snapshot has gets it from the next leader.
            let reason = "the state of this node differs: it is sent to nobody";
            return Err(StreamingError::Unreachable(unreachable(reason)));
        }
        let SnapshotData::Outgoing(reader) = snapshot.snapshot else {
            let error = network_error("a received snapshot is not sent on before it is installed");
            return Err(StreamingError::Network(error));
        };
        let (node, index) =
            (self.target, snapshot.meta.last_log_id.as_ref().map_or(0, |id| id.index()));
        let bytes = reader.info().size;
        let began = Instant::now();
        // openraft tries again many times a second for as long as the node is away.
        if self.peers.is_news_of_snapshot(node, index, "") {
            tracing::info!(
                node,
                index,
                bytes,
                "sending a snapshot: the log no longer has what the node lacks"
            );
        }
        let peers = self.peers.clone();
        let not_sent = |reason: &str| {
            if peers.is_news_of_snapshot(node, index, reason) {
                tracing::warn!(node, index, reason, "a snapshot was not taken");
            }
        };
        let head = wire::SnapshotHead {
            cluster_id: self.peers.cluster_id().text(),
            target_node_id: self.target,
            ballot: Some(convert::vote_to_wire(&vote)),
            last_log_id: snapshot.meta.last_log_id.as_ref().map(convert::log_id_to_wire),
            membership: membership::encode_stored_membership(&snapshot.meta.last_membership),
            size_bytes: reader.info().size,
        };
        // From here on the log that follows it stays, however this ends.
        let on_its_way = self.sending.begin(node, index);
        let mut client = self.bulk();
        let (taken, parts) = watch::channel(());
        let sending = client.install_snapshot(snapshot_chunks(head, reader, taken));
        let sent = tokio::select! {
            sent = sending => Ok(sent),
            reason = until_it_stalls(parts, option.hard_ttl()) => Err(reason),
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        match sent {
            Ok(Ok(response)) => {
                let its = convert::vote_from_wire(response.into_inner().ballot.as_ref())
                    .map_err(|error| StreamingError::Network(network_error(error)))?;
                // Whoever knows a later leader answers so, and has installed nothing.
                if its > vote {
                    not_sent("it knows a later leader, or another candidate");
                } else {
                    let elapsed_ms = began.elapsed().as_millis() as u64;
                    tracing::info!(node, index, bytes, elapsed_ms, "a snapshot was sent");
                    self.peers.forget_snapshot(node);
                    on_its_way.arrived();
                }
                Ok(SnapshotResponse::new(its))
            }
            Ok(Err(status)) => {
                not_sent(status.message());
                Err(StreamingError::Unreachable(unreachable(status)))
            }
            Err(reason) => {
                not_sent(reason);
                self.bulk = None;
                Err(StreamingError::Unreachable(unreachable(reason)))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = wire::TransferLeaderRequest {
            cluster_id: self.peers.cluster_id().text(),
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

/// A node that has all of a snapshot installs it within this, or has failed at it. (A million items take some seconds.) Whether
/// it is still there at all is seen sooner, by its connection.
const INSTALLS_WITHIN: Duration = Duration::from_secs(600);

/// Ends, with the reason, when no part was taken for so long, or when all were and it is not installed either. How long all
/// parts take together does not matter: a snapshot that comes on is not begun anew.
async fn until_it_stalls(mut taken: watch::Receiver<()>, limit: Duration) -> &'static str {
    loop {
        match tokio::time::timeout(limit, taken.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                tokio::time::sleep(INSTALLS_WITHIN).await;
                return "it was sent, and not installed in time";
            }
            Err(_) => return "no part of it was taken for too long",
        }
    }
}

/// The head, then the file; tells of each part that is taken, until all are. A read error ends the stream early, and the
/// receiver, which knows the size, refuses what it got.
fn snapshot_chunks(
    head: wire::SnapshotHead,
    reader: SnapshotReader,
    taken: watch::Sender<()>,
) -> impl Stream<Item = wire::InstallSnapshotRequest> {
    use wire::install_snapshot_request::Part;

    let first = wire::InstallSnapshotRequest { part: Some(Part::Head(head)) };
    let chunks = stream::unfold((reader, taken), |(mut reader, taken)| async move {
        match reader.next_chunk(SNAPSHOT_CHUNK_BYTES).await {
            Ok(Some(chunk)) => {
                taken.send_replace(());
                let part = wire::InstallSnapshotRequest { part: Some(Part::Chunk(chunk)) };
                Some((part, (reader, taken)))
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

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_may_take_as_long_as_its_parts_come_on() {
        let (taken, parts) = watch::channel(());
        let began = Instant::now();
        let slow = async move {
            for _ in 0..20 {
                tokio::time::sleep(LIMIT - Duration::from_secs(1)).await;
                taken.send_replace(());
            }
            // All are taken: what is left is to install them.
        };
        let (reason, ()) = tokio::join!(until_it_stalls(parts, LIMIT), slow);
        assert_eq!(reason, "it was sent, and not installed in time");
        assert_eq!(began.elapsed(), 20 * (LIMIT - Duration::from_secs(1)) + INSTALLS_WITHIN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_of_which_nothing_is_taken_is_begun_anew() {
        let (taken, parts) = watch::channel(());
        taken.send_replace(());
        let began = Instant::now();
        assert_eq!(until_it_stalls(parts, LIMIT).await, "no part of it was taken for too long");
        assert_eq!(began.elapsed(), LIMIT);
        drop(taken);
    }
}
