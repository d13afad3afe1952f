//! Raft's messages, between openraft's types and the wire. Total in both directions but for what a
//! peer left out, which is an error that names the field.

use openraft::{
    EntryPayload as Payload,
    impls::leader_id_std::LeaderId,
    raft::{
        AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest, VoteResponse,
    },
};
use tally_proto::peer::v1 as wire;

use crate::consensus::{
    membership::{Undecodable, decode_membership, encode_membership},
    traced,
    types::{self, Entry, EntryPayload, LogId, TypeConfig, Vote, term_of},
};

/// What is wrong with a message of a peer.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// A required field is not there.
    #[error("the peer's message lacks `{0}`")]
    Missing(&'static str),
    /// A membership can't be decoded.
    #[error("the peer's {0}")]
    Membership(#[from] Undecodable),
}

pub(crate) fn log_id_to_wire(log_id: &LogId) -> wire::LogId {
    wire::LogId { term: term_of(log_id), index: log_id.index() }
}

pub(crate) fn log_id_from_wire(log_id: &wire::LogId) -> LogId {
    types::log_id(log_id.term, log_id.index)
}

pub(crate) fn vote_to_wire(vote: &Vote) -> wire::Ballot {
    wire::Ballot {
        term: vote.leader_id.term,
        node_id: Some(vote.leader_id.voted_for),
        committed: vote.committed,
    }
}

pub(crate) fn vote_from_wire(ballot: Option<&wire::Ballot>) -> Result<Vote, Malformed> {
    let ballot = ballot.ok_or(Malformed::Missing("ballot"))?;
    let node_id = ballot.node_id.ok_or(Malformed::Missing("ballot.node_id"))?;
    Ok(Vote {
        leader_id: LeaderId { term: ballot.term, voted_for: node_id },
        committed: ballot.committed,
    })
}

pub(crate) fn entry_to_wire(entry: Entry) -> wire::Entry {
    let mut trace_contexts = Vec::new();
    let payload = match entry.payload {
        Payload::Blank => None,
        Payload::Normal(EntryPayload { batch, traced }) => {
            trace_contexts = traced::to_bytes(&traced);
            Some(wire::entry::Payload::Batch(batch))
        }
        Payload::Membership(membership) => {
            Some(wire::entry::Payload::Membership(encode_membership(&membership)))
        }
    };
    let log_id = Some(log_id_to_wire(&entry.log_id));
    wire::Entry { log_id, payload, trace_contexts: trace_contexts.into() }
}

pub(crate) fn entry_from_wire(entry: wire::Entry) -> Result<Entry, Malformed> {
    let log_id = log_id_from_wire(&entry.log_id.ok_or(Malformed::Missing("entry.log_id"))?);
    let payload = match entry.payload {
        None => Payload::Blank,
        Some(wire::entry::Payload::Batch(batch)) => {
            let traced = traced::from_bytes(&entry.trace_contexts);
            Payload::Normal(EntryPayload { batch, traced })
        }
        Some(wire::entry::Payload::Membership(bytes)) => {
            Payload::Membership(decode_membership(&bytes)?)
        }
    };
    Ok(Entry { log_id, payload })
}

pub(crate) fn append_to_wire(
    request: AppendEntriesRequest<TypeConfig>,
    cluster_id: String,
    target_node_id: u64,
) -> wire::AppendRequest {
    wire::AppendRequest {
        cluster_id,
        target_node_id,
        ballot: Some(vote_to_wire(&request.vote)),
        previous: request.prev_log_id.as_ref().map(log_id_to_wire),
        entries: request.entries.into_iter().map(entry_to_wire).collect(),
        leader_commit: request.leader_commit.as_ref().map(log_id_to_wire),
    }
}

pub(crate) fn append_from_wire(
    request: wire::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, Malformed> {
    Ok(AppendEntriesRequest {
        vote: vote_from_wire(request.ballot.as_ref())?,
        prev_log_id: request.previous.as_ref().map(log_id_from_wire),
        entries: request.entries.into_iter().map(entry_from_wire).collect::<Result<Vec<_>, _>>()?,
        leader_commit: request.leader_commit.as_ref().map(log_id_from_wire),
    })
}

pub(crate) fn append_result_to_wire(
    result: &StreamAppendResult<TypeConfig>,
) -> wire::AppendResponse {
    use wire::append_response::Result as Wire;
    let result = match result {
        Ok(matched) => {
            Wire::Success(wire::PartialSuccess { matched: matched.as_ref().map(log_id_to_wire) })
        }
        Err(StreamAppendError::Conflict(at)) => Wire::Conflict(log_id_to_wire(at)),
        Err(StreamAppendError::HigherVote(vote)) => Wire::HigherBallot(vote_to_wire(vote)),
    };
    wire::AppendResponse { result: Some(result) }
}

pub(crate) fn append_result_from_wire(
    response: wire::AppendResponse,
) -> Result<StreamAppendResult<TypeConfig>, Malformed> {
    use wire::append_response::Result as Wire;
    Ok(match response.result.ok_or(Malformed::Missing("result"))? {
        Wire::Success(success) => Ok(success.matched.as_ref().map(log_id_from_wire)),
        Wire::Conflict(at) => Err(StreamAppendError::Conflict(log_id_from_wire(&at))),
        Wire::HigherBallot(ballot) => {
            Err(StreamAppendError::HigherVote(vote_from_wire(Some(&ballot))?))
        }
    })
}

pub(crate) fn vote_request_to_wire(
    request: &VoteRequest<TypeConfig>,
    cluster_id: String,
    target_node_id: u64,
) -> wire::VoteRequest {
    wire::VoteRequest {
        cluster_id,
        target_node_id,
        ballot: Some(vote_to_wire(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(log_id_to_wire),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(crate) fn vote_request_from_wire(
    request: &wire::VoteRequest,
) -> Result<VoteRequest<TypeConfig>, Malformed> {
    Ok(VoteRequest {
        vote: vote_from_wire(request.ballot.as_ref())?,
        last_log_id: request.last_log_id.as_ref().map(log_id_from_wire),
        leadership_transfer: request.leadership_transfer,
    })
}

pub(crate) fn vote_response_to_wire(response: &VoteResponse<TypeConfig>) -> wire::VoteResponse {
    wire::VoteResponse {
        ballot: Some(vote_to_wire(&response.vote)),
        granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(log_id_to_wire),
    }
}

pub(crate) fn vote_response_from_wire(
    response: &wire::VoteResponse,
) -> Result<VoteResponse<TypeConfig>, Malformed> {
    Ok(VoteResponse {
        vote: vote_from_wire(response.ballot.as_ref())?,
        vote_granted: response.granted,
        last_log_id: response.last_log_id.as_ref().map(log_id_from_wire),
    })
}
