//! What a node answers its peers.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{Stream, StreamExt, future::join_all};
use openraft::raft::{AppendEntriesRequest, StreamAppendError, TransferLeaderRequest};
use tally_proto::{
    peer::v1::{self as wire, peer_server::Peer},
    seeded_bugs,
};
use tokio::time::Instant;
use tonic::{
    Request, Response, Status, Streaming,
    metadata::{MetadataMap, MetadataValue},
};

use super::{ask::NOT_ACTED_ON, convert, hello::Greeter, speaker::Speaker};
use crate::{
    consensus::{
        Consensus, WhenFull,
        confirm::Unconfirmed,
        error::{Error, NotProposed, Unknown},
        forward::refusal_to_wire,
        membership,
        raft::Raft,
        types::{self, Snapshot, SnapshotData, SnapshotMeta, TypeConfig},
    },
    env::{
        shares::Identity,
        traces::{Ended, Side, TraceContext},
    },
    machine::{
        codec::{self, size_hint},
        command::Owner,
    },
    status::OwnStatus,
};

/// At most this many commands in one forwarded message.
const FORWARDED_MAX: usize = 1024;

/// How much of a forwarded write's deadline is left for its answer, where it waited for room in vain.
const TIME_FOR_ANSWER_MAX: Duration = Duration::from_millis(100);

/// The peer port's service. It answers introductions from the start, and Raft's messages once the
/// node takes part.
#[derive(Clone)]
pub struct PeerService {
    greeter: Arc<Greeter>,
    node: Arc<OnceLock<Arc<OwnStatus>>>,
    operates: Arc<OnceLock<Arc<dyn Operates>>>,
}

/// What decides and does what another node was asked to change in the cluster.
#[async_trait]
pub trait Operates: Send + Sync + 'static {
    /// Does it if this node leads, for the caller that is named; it is not forwarded again.
    async fn operate(&self, request: wire::OperateRequest) -> wire::OperateResponse;
}

impl std::fmt::Debug for PeerService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PeerService")
    }
}

type AppendStream = Pin<Box<dyn Stream<Item = Result<wire::AppendResponse, Status>> + Send>>;

fn malformed(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

/// What is turned away at the door, before Raft sees it, says so: who forwarded a write then knows
/// that it was not applied.
fn at_the_door(mut status: Status) -> Status {
    status.metadata_mut().insert(NOT_ACTED_ON, MetadataValue::from_static("1"));
    status
}

impl PeerService {
    /// Before the node takes part.
    pub fn new(greeter: Arc<Greeter>) -> Self {
        PeerService { greeter, node: Arc::default(), operates: Arc::default() }
    }

    /// From now on it does.
    pub fn take_part(&self, node: Arc<OwnStatus>, operates: Arc<dyn Operates>) {
        assert!(self.operates.set(operates).is_ok(), "a node starts to take part once");
        assert!(self.node.set(node).is_ok(), "a node starts to take part once");
    }

    /// The node, if the call is meant for this data directory and comes from one that is known.
    fn node(&self, metadata: &MetadataMap, speaker: Speaker) -> Result<&OwnStatus, Status> {
        speaker.check_stamp(metadata).map_err(at_the_door)?;
        if !self.greeter.is_admitted() {
            return Err(at_the_door(Status::unavailable("the node has not been introduced yet")));
        }
        self.greeter
            .peers()
            .check_stamp(metadata)
            .map_err(|reason| at_the_door(Status::failed_precondition(reason)))?;
        let node = self.node.get().map(AsRef::as_ref);
        node.ok_or_else(|| at_the_door(Status::unavailable("the node is starting")))
    }

    /// The node, if a message is meant for it.
    fn meant_for(
        &self,
        metadata: &MetadataMap,
        speaker: Speaker,
        cluster_id: &str,
        target_node_id: u64,
    ) -> Result<&Consensus, Status> {
        let consensus = &self.node(metadata, speaker)?.consensus;
        check_target(consensus, cluster_id, target_node_id)?;
        Ok(consensus)
    }
}

/// Who sends a ballot: the candidate, or the leader.
fn sender(ballot: Option<&wire::Ballot>) -> Option<u64> {
    ballot?.node_id
}

/// Refuses what is meant for another node or cluster, before Raft sees it.
fn check_target(consensus: &Consensus, cluster_id: &str, target: u64) -> Result<(), Status> {
    let own = consensus.cluster_id().text();
    let is_another = !own.is_empty() && !cluster_id.is_empty() && own != cluster_id;
    if is_another && !seeded_bugs::is_on("another-cluster-accepted") {
        return Err(at_the_door(Status::failed_precondition(format!(
            "this node is of cluster {own}, not of {cluster_id}"
        ))));
    }
    let me = consensus.node_id();
    if target != me {
        let reason = format!("this is node {me}, not {target}");
        return Err(at_the_door(Status::failed_precondition(reason)));
    }
    Ok(())
}

/// Refuses who is no member: only members are taken at their word about who their callers are, and are told what this node
/// knows of itself. A node's key outlives its membership, and may never have had one. Looked at is the newest membership in
/// this node's log: a leader, which most of this is for, has added whoever was added.
fn check_member(
    consensus: &Consensus,
    metadata: &MetadataMap,
    speaker: Speaker,
) -> Result<(), Status> {
    let sender = speaker.sender(metadata);
    let Some(id) = sender.filter(|id| consensus.leadership().is_no_member(*id)) else {
        return Ok(());
    };
    tracing::warn!(node = id, "a call is refused: it comes from a node that is no member");
    let reason = format!("node {id} is no member of the cluster, as far as this node knows");
    Err(at_the_door(Status::failed_precondition(reason)))
}

/// What a seeded bug does with an append: the log ends with its last entry, also where it is an old
/// one that arrives late and all that follows has long been acknowledged.
async fn truncate_behind(raft: &Raft, request: &AppendEntriesRequest<TypeConfig>) {
    let Some(last) = request.entries.last() else { return };
    let known = raft.with_raft_state(|state| {
        let committed = state.local_committed().map_or(0, |committed| committed.index());
        (committed, *state.vote_ref())
    });
    let Ok((committed, vote)) = known.await else { return };
    if vote != request.vote {
        return;
    }
    // Raft itself cuts off what conflicts, so it is told of a conflict at the first entry behind.
    let behind = types::log_id(0, last.log_id.index().max(committed) + 1);
    let conflict = AppendEntriesRequest {
        vote,
        prev_log_id: Some(behind),
        entries: Vec::new(),
        leader_commit: None,
    };
    let _ = raft.append_entries(conflict).await;
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn hello(
        &self,
        request: Request<wire::HelloRequest>,
    ) -> Result<Response<wire::HelloResponse>, Status> {
        let speaker = Speaker::of(&request);
        speaker.check_stamp(request.metadata())?;
        speaker.check(Some(request.get_ref().node_id))?;
        self.greeter.answer(request.into_inner()).await.map(Response::new)
    }

    type AppendStream = AppendStream;

    async fn append(
        &self,
        request: Request<Streaming<wire::AppendRequest>>,
    ) -> Result<Response<AppendStream>, Status> {
        let speaker = Speaker::of(&request);
        let consensus = self.node(request.metadata(), speaker)?.consensus.clone();
        let raft = consensus.raft().clone();
        // The first message that is not for this node, or not readable, ends the stream: Raft's
        // order of messages allows no gap.
        let requests = request.into_inner().scan((), move |(), message| {
            let accepted = message.and_then(|message| {
                check_target(&consensus, &message.cluster_id, message.target_node_id)?;
                speaker.check(sender(message.ballot.as_ref()))?;
                convert::append_from_wire(message).map_err(malformed)
            });
            if let Err(status) = &accepted {
                tracing::debug!(%status, "an append stream ends");
            }
            std::future::ready(accepted.ok())
        });
        let mut requests = requests.boxed();
        if seeded_bugs::is_on("duplicate-append-truncates") {
            let raft = raft.clone();
            requests = requests
                .then(move |request| {
                    let raft = raft.clone();
                    async move {
                        truncate_behind(&raft, &request).await;
                        request
                    }
                })
                .boxed();
        }
        let results = raft.stream_append(requests);
        let answers = results.map(|result| match result {
            Ok(result) => {
                if let Err(StreamAppendError::Conflict(at)) = &result {
                    tracing::debug!(%at, "the log does not hold the entry before");
                }
                Ok(convert::append_result_to_wire(&result))
            }
            Err(fatal) => Err(stopped(fatal)),
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn vote(
        &self,
        request: Request<wire::VoteRequest>,
    ) -> Result<Response<wire::VoteResponse>, Status> {
        let speaker = Speaker::of(&request);
        let (metadata, _, request) = request.into_parts();
        let consensus =
            self.meant_for(&metadata, speaker, &request.cluster_id, request.target_node_id)?;
        speaker.check(sender(request.ballot.as_ref())).map_err(at_the_door)?;
        let vote = convert::vote_request_from_wire(&request).map_err(malformed)?;
        let response = consensus.raft().vote(vote).await.map_err(stopped)?;
        Ok(Response::new(convert::vote_response_to_wire(&response)))
    }

    async fn pre_vote(
        &self,
        request: Request<wire::PreVoteRequest>,
    ) -> Result<Response<wire::PreVoteResponse>, Status> {
        let speaker = Speaker::of(&request);
        let (metadata, _, request) = request.into_parts();
        let request = request.vote.ok_or_else(|| malformed(convert::Malformed::Missing("vote")))?;
        let consensus =
            self.meant_for(&metadata, speaker, &request.cluster_id, request.target_node_id)?;
        speaker.check(sender(request.ballot.as_ref())).map_err(at_the_door)?;
        let vote = convert::vote_request_from_wire(&request).map_err(malformed)?;
        let response = consensus.raft().pre_vote(vote).await.map_err(stopped)?;
        let vote = Some(convert::vote_response_to_wire(&response));
        Ok(Response::new(wire::PreVoteResponse { vote }))
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::TransferLeaderRequest>,
    ) -> Result<Response<wire::TransferLeaderResponse>, Status> {
        let speaker = Speaker::of(&request);
        let (metadata, _, request) = request.into_parts();
        let consensus =
            self.meant_for(&metadata, speaker, &request.cluster_id, request.target_node_id)?;
        speaker.check(sender(request.from_ballot.as_ref())).map_err(at_the_door)?;
        let from = convert::vote_from_wire(request.from_ballot.as_ref()).map_err(malformed)?;
        let last = request.last_log_id.as_ref().map(convert::log_id_from_wire);
        let transfer = TransferLeaderRequest::new(from, request.to_node_id, last);
        let result = consensus.raft().handle_transfer_leader(transfer).await.map_err(stopped)?;
        Ok(Response::new(match result {
            Ok(()) => wire::TransferLeaderResponse { accepted: true, reason: String::new() },
            Err(error) => {
                wire::TransferLeaderResponse { accepted: false, reason: error.to_string() }
            }
        }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<wire::InstallSnapshotRequest>>,
    ) -> Result<Response<wire::InstallSnapshotResponse>, Status> {
        use wire::install_snapshot_request::Part;

        let speaker = Speaker::of(&request);
        let (metadata, _, mut parts) = request.into_parts();
        let head = match parts.message().await?.and_then(|message| message.part) {
            Some(Part::Head(head)) => head,
            _ => return Err(malformed(convert::Malformed::Missing("head"))),
        };
        let consensus =
            self.meant_for(&metadata, speaker, &head.cluster_id, head.target_node_id)?;
        speaker.check(sender(head.ballot.as_ref())).map_err(at_the_door)?;
        let vote = convert::vote_from_wire(head.ballot.as_ref()).map_err(malformed)?;
        let membership =
            membership::decode_stored_membership(&head.membership).map_err(malformed)?;
        let last_log_id = head.last_log_id.as_ref().map(convert::log_id_from_wire);
        let last = last_log_id
            .as_ref()
            .ok_or_else(|| malformed(convert::Malformed::Missing("head.last_log_id")))?;
        let announced = crate::storage::log_id::LogId::new(types::term_of(last), last.index);

        let state = consensus.state();
        // What can't be installed need not be received: the leader asks again.
        if !state.has_room_for(head.size_bytes).await.map_err(stopped)? {
            let reason = "the disk has no room for the snapshot";
            return Err(Status::resource_exhausted(reason));
        }
        let mut receiver = state.begin_receive().await.map_err(stopped)?;
        while let Some(message) = parts.message().await? {
            match message.part {
                Some(Part::Chunk(chunk)) if receiver.received() >= head.size_bytes => {
                    let extra = chunk.len();
                    return Err(malformed(format!("{extra} bytes more than the head announced")));
                }
                Some(Part::Chunk(chunk)) => receiver.write(&chunk).await.map_err(stopped)?,
                _ => return Err(malformed(convert::Malformed::Missing("chunk"))),
            }
        }
        let received = receiver.finish(announced).await.map_err(malformed)?;
        let meta = SnapshotMeta { last_log_id, last_membership: membership };
        let snapshot = Snapshot { meta, snapshot: SnapshotData::Received(received) };
        let response =
            consensus.raft().install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        let ballot = Some(convert::vote_to_wire(&response.vote));
        Ok(Response::new(wire::InstallSnapshotResponse { ballot }))
    }

    async fn term(
        &self,
        request: Request<wire::TermRequest>,
    ) -> Result<Response<wire::TermResponse>, Status> {
        let speaker = Speaker::of(&request);
        let (metadata, _, request) = request.into_parts();
        let consensus =
            self.meant_for(&metadata, speaker, &request.cluster_id, request.target_node_id)?;
        // From Raft's own task, which grants votes: what it says now it has not outrun anywhere.
        let vote = consensus.raft().with_raft_state(|state| *state.vote_ref()).await;
        let term = vote.map_err(stopped)?.leader_id.term;
        Ok(Response::new(wire::TermResponse { term }))
    }

    async fn read_index(
        &self,
        request: Request<wire::ReadIndexRequest>,
    ) -> Result<Response<wire::ReadIndexResponse>, Status> {
        use wire::read_index_response::Result as Answer;

        let speaker = Speaker::of(&request);
        let (metadata, _, request) = request.into_parts();
        let consensus =
            self.meant_for(&metadata, speaker, &request.cluster_id, request.target_node_id)?;
        check_member(consensus, &metadata, speaker)?;
        // Never passed on: a node that does not lead says so, and the caller looks again.
        let until = Instant::now() + Duration::from_millis(u64::from(request.timeout_ms));
        let result = match consensus.confirm_leading(until).await {
            Ok(confirmed) => Answer::ReadIndex(convert::log_id_to_wire(&confirmed)),
            Err(Unconfirmed::NotLeader | Unconfirmed::Stopped) => {
                let hint = consensus.leadership().hint();
                Answer::Refusal(refusal_to_wire(&NotProposed::NotLeader(hint)))
            }
            Err(Unconfirmed::NoQuorum) => {
                let waited_ms = u64::from(request.timeout_ms);
                Answer::Refusal(refusal_to_wire(&NotProposed::NoQuorum { waited_ms }))
            }
        };
        Ok(Response::new(wire::ReadIndexResponse { result: Some(result) }))
    }

    async fn propose(
        &self,
        request: Request<wire::ProposeRequest>,
    ) -> Result<Response<wire::ProposeResponse>, Status> {
        let speaker = Speaker::of(&request);
        let (metadata, _, request) = request.into_parts();
        let consensus =
            self.meant_for(&metadata, speaker, &request.cluster_id, request.target_node_id)?;
        check_member(consensus, &metadata, speaker)?;
        if request.commands.len() > FORWARDED_MAX {
            return Err(malformed(format!("at most {FORWARDED_MAX} commands may be forwarded")));
        }
        let results =
            join_all(request.commands.into_iter().map(|command| run(consensus, command))).await;
        Ok(Response::new(wire::ProposeResponse { results }))
    }

    async fn operate(
        &self,
        request: Request<wire::OperateRequest>,
    ) -> Result<Response<wire::OperateResponse>, Status> {
        let speaker = Speaker::of(&request);
        let (metadata, _, request) = request.into_parts();
        let consensus =
            self.meant_for(&metadata, speaker, &request.cluster_id, request.target_node_id)?;
        check_member(consensus, &metadata, speaker)?;
        let operates = self.operates.get();
        let operates =
            operates.ok_or_else(|| at_the_door(Status::unavailable("the node is starting")))?;
        Ok(Response::new(operates.operate(request).await))
    }

    async fn status(
        &self,
        request: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusResponse>, Status> {
        let node = self.node(request.metadata(), Speaker::of(&request))?;
        check_target(&node.consensus, &request.get_ref().cluster_id, node.node_id)?;
        Ok(Response::new(wire::StatusResponse { node: Some(node.line()) }))
    }

    async fn tell(
        &self,
        request: Request<wire::TellRequest>,
    ) -> Result<Response<wire::TellResponse>, Status> {
        let speaker = Speaker::of(&request);
        let node = self.node(request.metadata(), speaker)?;
        let asked = request.get_ref();
        check_target(&node.consensus, &asked.cluster_id, asked.target_node_id)?;
        check_member(&node.consensus, request.metadata(), speaker)?;
        let texts = match asked.about() {
            wire::TellAbout::Metrics => vec![node.tells.metrics()],
            wire::TellAbout::Diagnosis => node.tells.diagnosis().await,
            wire::TellAbout::Unspecified => {
                return Err(Status::unimplemented("it does not know what is asked of it"));
            }
        };
        let files = texts.into_iter().map(Into::into).collect();
        Ok(Response::new(wire::TellResponse { files }))
    }
}

#[cfg(feature = "seeded-bugs")]
mod bugs {
    use tally_proto::seeded_bugs;

    use crate::machine::command::{Caller, Command};

    /// A forwarded command speaks for the node that forwards it, and nodes may do everything: it goes on as the
    /// cluster's first user.
    pub(super) fn as_the_forwarder(mut command: Command) -> Command {
        if command.caller.is_some() && seeded_bugs::is_on("forwarder-speaks") {
            command.caller = Some(Caller { user: 1, token: 0 });
        }
        command
    }
}

/// Runs one forwarded command here, or says that this node does not lead: it is not forwarded again.
async fn run(consensus: &Consensus, forwarded: wire::ForwardedCommand) -> wire::ForwardedResult {
    use wire::forwarded_result::Result as Answer;

    let command = match codec::decode_command(&forwarded.command) {
        Ok(command) => command,
        Err(error) => {
            // A newer follower's command: refused before anything happened.
            let refusal = wire::Refusal { message: error.to_string(), ..wire::Refusal::default() };
            let result = Some(Answer::Refusal(refusal));
            return wire::ForwardedResult { result, ..wire::ForwardedResult::default() };
        }
    };
    #[cfg(feature = "seeded-bugs")]
    let command = bugs::as_the_forwarder(command);
    tracing::debug!(request = %forwarded.request_id, "a forwarded write");
    let patience = Duration::from_millis(u64::from(forwarded.deadline_ms));
    let deadline = Instant::now() + patience;
    // The same door as for the leader's own callers, so that its limits count both.
    let size = size_hint(&command);
    let from = <[u8; 16]>::try_from(&forwarded.client_address[..]);
    let identity = Identity::of(command.caller, from.ok().map(Owner::from_octets));
    let admitted = match forwarded.waits_for_room {
        false => consensus.admit(identity, size, WhenFull::Refuse, deadline).await,
        // The answer that there was none has to arrive before the deadline.
        true => {
            let for_answer = (patience / 10).min(TIME_FOR_ANSWER_MAX);
            consensus.admit_while_leading(identity, size, deadline - for_answer).await
        }
    };
    let tracer = consensus.tracer();
    let span = TraceContext::from_bytes(&forwarded.trace_context).and_then(|it| tracer.below(it));
    let outcome = match admitted {
        Ok(admission) => {
            let admission = admission.traced(span.as_ref().map(|span| span.context), tracer);
            let admission = admission.known_at(forwarded.restore_epoch);
            consensus.write_here(command, Some(admission), deadline).await
        }
        Err(refusal) => Err(refusal.into()),
    };
    if let Some(span) = &span {
        let error = outcome.is_err().then(|| "it was not applied, as far as is known".to_owned());
        tracer.end(span, "forwarded write", Side::Server, Ended { error, ..Ended::default() });
    }
    let mut result = wire::ForwardedResult::default();
    result.result = Some(match outcome {
        Ok(applied) => {
            result.applied_index = applied.log_index;
            result.applied_term = applied.term;
            result.applied_revision = applied.revision;
            result.leader_term = consensus.leadership().role().1;
            result.cluster_id = consensus.cluster_id().text();
            result.restore_epoch = consensus.cluster_id().restore_epoch();
            Answer::Reply(codec::encode_reply(&applied.reply))
        }
        Err(Error::NotProposed(refusal)) => Answer::Refusal(refusal_to_wire(&refusal)),
        Err(Error::Unknown(Unknown::Deadline)) => Answer::DeadlinePassed(true),
        Err(Error::Unknown(unknown)) => Answer::Unknown(unknown.to_string()),
    });
    result
}
