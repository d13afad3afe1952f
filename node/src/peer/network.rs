//! Raft's messages on their way out: openraft's network traits over the peer service.
//!
//! Three things that openraft leaves to its user, each met by running it:
//! - deadlines: every call has one, and a connection that missed it is dropped, not trusted again;
//! - a stream that can't be opened must still take its first request, or openraft opens streams in
//!   a loop without delay: it sleeps its back-off only while the request stream is polled;
//! - `pre_vote` grants and `transfer_leader` fails unless they are implemented.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
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
use tokio::sync::watch;

use super::{
    convert,
    peers::{Client, Peers, Shared},
};
use crate::{
    consensus::{
        SNAPSHOT_CHUNK_BYTES, membership,
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
}

impl NetworkFactory {
    /// Over these peers.
    pub fn new(peers: Peers, purged: PurgedUpTo, append_answer_timeout: Duration) -> Self {
        NetworkFactory { peers, purged, append_answer_timeout }
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
    address: String,
    appends: Appends,
    /// Entries and snapshots travel on a connection of their own, so that a heartbeat or a vote
    /// never waits behind a megabyte.
    bulk: Option<Client>,
    /// How the last stream of appends went.
    progress: Arc<Progress>,
    append_answer_timeout: Duration,
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

/// Whether a request of replication is empty because its entries are purged.
///
/// A reader of the log answers such a request with nothing (`consensus::log_store`), which openraft
/// takes for a heartbeat: it asks for the same entries again, for ever, and never learns that the
/// follower got a snapshot meanwhile and needs later ones. Found by the simulator (seed 44: a
/// follower that stood still until its leader was replaced). So the stream ends in an error instead.
fn is_purged(request: &AppendEntriesRequest<TypeConfig>, purged: Option<u64>) -> bool {
    let next = request.prev_log_id.as_ref().map_or(0, |prev| prev.index + 1);
    request.entries.is_empty() && purged.is_some_and(|purged| next <= purged)
}

impl Connection {
    fn control(&self) -> Client {
        self.peers.client(self.target, &self.address, Shared::Control)
    }

    fn bulk(&mut self) -> Client {
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

/// How long a request that says nothing but how far the log is committed waits for one with entries,
/// which says it too.
///
/// While writes come, that saves two of the five messages of an entry (commit and its answer, for
/// each follower). When no more come, followers learn of the last one that much later, so a read of
/// it at a follower, at a level that waits for it, takes that much longer. No promise depends on when
/// a follower learns what is committed: its reads wait for the index that they need.
const COMMIT_HOLD: Duration = Duration::from_millis(1);

/// Requests as they are sent.
struct Outgoing<S> {
    first: Option<AppendEntriesRequest<TypeConfig>>,
    requests: S,
    /// Without entries; waits for [`COMMIT_HOLD`], and is left out if another request comes.
    held: Option<AppendEntriesRequest<TypeConfig>>,
    /// Ends the wait.
    hold: Option<Pin<Box<tokio::time::Sleep>>>,
    /// No more requests come.
    ended: bool,
    /// Where it is replication, which ends when it asks for what is purged.
    purged: Option<PurgedUpTo>,
    progress: Arc<Progress>,
    cluster_id: String,
    target: u64,
}

impl<S> Outgoing<S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    /// The next that is to be sent now.
    fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<AppendEntriesRequest<TypeConfig>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        loop {
            if self.ended {
                return Poll::Ready(self.held.take());
            }
            match self.requests.poll_next_unpin(cx) {
                Poll::Ready(Some(request)) if request.entries.is_empty() => {
                    // A later one knows all that an earlier one does, and does not start the wait
                    // again.
                    if self.held.replace(request).is_none() {
                        let until = tokio::time::Instant::now() + COMMIT_HOLD;
                        match &mut self.hold {
                            Some(hold) => hold.as_mut().reset(until),
                            hold => *hold = Some(Box::pin(tokio::time::sleep_until(until))),
                        }
                    }
                }
                Poll::Ready(Some(request)) => {
                    self.held = None;
                    return Poll::Ready(Some(request));
                }
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => {
                    let (Some(_), Some(hold)) = (&self.held, &mut self.hold) else {
                        return Poll::Pending;
                    };
                    ready!(hold.as_mut().poll(cx));
                    return Poll::Ready(self.held.take());
                }
            }
        }
    }
}

impl<S> Stream for Outgoing<S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    type Item = wire::AppendRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(request) = ready!(self.poll_request(cx)) else {
            return Poll::Ready(None);
        };
        if self.purged.as_ref().is_some_and(|purged| is_purged(&request, purged())) {
            self.progress.met_purged.store(true, Ordering::Relaxed);
            return Poll::Ready(None);
        }
        self.progress.sent.fetch_add(1, Ordering::Relaxed);
        let request = convert::append_to_wire(request, self.cluster_id.clone(), self.target);
        Poll::Ready(Some(request))
    }
}

/// How an append stream goes.
#[derive(Debug, Default)]
struct Progress {
    /// Requests that were sent.
    sent: AtomicU64,
    /// It ended because the next entries are purged.
    met_purged: AtomicBool,
    /// It ended because an answer did not come, or may be long in coming.
    owes_an_answer: AtomicBool,
}

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
        let SnapshotData::Outgoing(reader) = snapshot.snapshot else {
            let error = network_error("a received snapshot is not sent on before it is installed");
            return Err(StreamingError::Network(error));
        };
        let head = wire::SnapshotHead {
            cluster_id: self.peers.cluster_id().text(),
            target_node_id: self.target,
            ballot: Some(convert::vote_to_wire(&vote)),
            last_log_id: snapshot.meta.last_log_id.as_ref().map(convert::log_id_to_wire),
            membership: membership::encode_stored_membership(&snapshot.meta.last_membership),
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

/// The answers of an append stream; one that is owed for too long ends it, and so does the end of a silence,
/// as the connection may be slower to notice that than a new one.
fn timed_answers(
    answers: tonic::Streaming<wire::AppendResponse>,
    progress: Arc<Progress>,
    timeout: Duration,
    comings_back: Option<watch::Receiver<u64>>,
) -> impl Stream<Item = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>> {
    let answered = 0_u64;
    stream::unfold(Some((answers, answered, comings_back)), move |state| {
        let progress = Arc::clone(&progress);
        async move {
            let (mut answers, answered, mut comings_back) = state?;
            let next = loop {
                let came_back = async {
                    match &mut comings_back {
                        Some(comings_back) => comings_back.changed().await.is_ok(),
                        None => std::future::pending().await,
                    }
                };
                let next = tokio::select! {
                    biased;
                    next = tokio::time::timeout(timeout, answers.message()) => next,
                    true = came_back => {
                        progress.owes_an_answer.store(true, Ordering::Relaxed);
                        let error = network_error("the peer has come back after a silence");
                        return Some((Err(RPCError::Network(error)), None));
                    }
                };
                match next {
                    Ok(next) => break next,
                    // Nothing is owed: an idle stream may stay silent.
                    Err(_) if progress.sent.load(Ordering::Relaxed) == answered => {}
                    Err(_) => {
                        progress.owes_an_answer.store(true, Ordering::Relaxed);
                        let error = network_error("the peer owes an answer for too long");
                        return Some((Err(RPCError::Network(error)), None));
                    }
                }
            };
            match next {
                Ok(Some(response)) => {
                    let result = convert::append_result_from_wire(response)
                        .map_err(|error| RPCError::Network(network_error(error)));
                    Some((result, Some((answers, answered + 1, comings_back))))
                }
                Ok(None) if progress.met_purged.load(Ordering::Relaxed) => {
                    let error = network_error("what the peer needs next is purged from the log");
                    Some((Err(RPCError::Network(error)), None))
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

#[cfg(test)]
mod tests {
    use openraft::entry::RaftEntry as _;

    use super::*;
    use crate::consensus::types::{self, Entry};

    /// A request for what follows `prev`, with this many entries.
    fn request(prev: Option<u64>, entries: u64) -> AppendEntriesRequest<TypeConfig> {
        let first = prev.map_or(0, |prev| prev + 1);
        AppendEntriesRequest {
            vote: Vote::new(1, 1),
            prev_log_id: prev.map(|prev| types::log_id(1, prev)),
            entries: (first..first + entries)
                .map(|index| Entry::new_blank(types::log_id(1, index)))
                .collect(),
            leader_commit: None,
        }
    }

    /// A follower stood still for ever because such a request was taken for a heartbeat.
    #[test]
    fn replication_ends_where_its_entries_are_purged() {
        assert!(is_purged(&request(Some(4), 0), Some(5)));
        assert!(is_purged(&request(None, 0), Some(0)));
        // Nothing to send, or nothing purged of what comes next.
        assert!(!is_purged(&request(Some(5), 0), Some(5)));
        assert!(!is_purged(&request(Some(4), 0), None));
        // What was read before it was purged may go.
        assert!(!is_purged(&request(Some(4), 2), Some(5)));
    }

    type Requests = futures_util::stream::BoxStream<'static, AppendEntriesRequest<TypeConfig>>;

    fn outgoing(requests: Requests) -> Outgoing<Requests> {
        Outgoing {
            first: Some(request(Some(4), 1)),
            requests,
            held: None,
            hold: None,
            ended: false,
            purged: None,
            progress: Arc::default(),
            cluster_id: String::new(),
            target: 2,
        }
    }

    /// What is sent, as the number of entries in each, and after how long.
    async fn sent(requests: Requests) -> Vec<(usize, Duration)> {
        let began = tokio::time::Instant::now();
        outgoing(requests).map(|sent| (sent.entries.len(), began.elapsed())).collect().await
    }

    /// Requests, each this long after the one before.
    fn paced(requests: Vec<(u64, AppendEntriesRequest<TypeConfig>)>) -> Requests {
        stream::iter(requests)
            .then(|(after_us, request)| async move {
                if after_us > 0 {
                    tokio::time::sleep(Duration::from_micros(after_us)).await;
                }
                request
            })
            .boxed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_index_rides_with_the_next_entry() {
        let zero = Duration::ZERO;
        let soon =
            vec![(0, request(Some(5), 0)), (0, request(Some(5), 0)), (0, request(Some(5), 2))];
        assert_eq!(sent(paced(soon)).await, [(1, zero), (2, zero)]);

        // None comes.
        let alone = paced(vec![(0, request(Some(5), 0))]).chain(stream::pending()).boxed();
        let mut alone = outgoing(alone);
        assert_eq!(alone.next().await.map(|sent| sent.entries.len()), Some(1));
        let began = tokio::time::Instant::now();
        assert_eq!(alone.next().await.map(|sent| sent.entries.len()), Some(0));
        assert!(began.elapsed() >= COMMIT_HOLD && began.elapsed() <= 2 * COMMIT_HOLD);
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_commit_index_is_sent_when_requests_keep_coming_without_entries() {
        let empty = |_| (600, request(Some(5), 0));
        let commits = paced((0..10).map(empty).collect());
        let sent = sent(commits).await;
        assert!((3..=6).contains(&sent.len()), "{sent:?}");
        let gaps = sent.windows(2).map(|two| two[1].1 - two[0].1);
        assert!(gaps.max() <= Some(3 * COMMIT_HOLD), "{sent:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_commit_index_is_sent_when_requests_end() {
        let sent = sent(paced(vec![(0, request(Some(5), 0))])).await;
        assert_eq!(sent.iter().map(|(entries, _)| *entries).collect::<Vec<_>>(), [1, 0]);
    }
}
