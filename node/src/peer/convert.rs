//! Raft's messages, between openraft's types and the wire. Total in both directions but for what a
//! peer left out, which is an error that names the field.

use bytes::Bytes;
use openraft::{
    EntryPayload as Payload, Membership,
    impls::leader_id_std::LeaderId,
    raft::{
        AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest, VoteResponse,
    },
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use tally_proto::{peer::v1 as wire, seeded_bugs};

use crate::consensus::types::{
    Entry, EntryPayload, LogId, Member, StoredMembership, TypeConfig, Vote,
};

/// What is wrong with a message of a peer.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// A required field is not there.
    #[error("the peer's message lacks `{0}`")]
    Missing(&'static str),
    /// A membership can't be decoded.
    #[error("the peer's membership can't be decoded: {0}")]
    Membership(postcard::Error),
}

/// Makes a log id.
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

/// The term of a log id.
pub fn term_of(log_id: &LogId) -> u64 {
    log_id.leader_id.term
}

pub(crate) fn log_id_to_wire(log_id: &LogId) -> wire::LogId {
    wire::LogId { term: term_of(log_id), index: log_id.index() }
}

pub(crate) fn log_id_from_wire(log_id: &wire::LogId) -> LogId {
    self::log_id(log_id.term, log_id.index)
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

/// A membership in the encoding that the log, the state and the wire share.
#[derive(Serialize, Deserialize)]
struct EncodedMembership {
    /// Format of what follows.
    version: u8,
    /// Voters; two sets while a change is under way (joint consensus).
    configs: Vec<BTreeSet<u64>>,
    /// All members, learners included.
    members: BTreeMap<u64, Member>,
}

const MEMBERSHIP_VERSION: u8 = 1;

/// Encodes a membership.
pub fn encode_membership(membership: &Membership<u64, Member>) -> Bytes {
    let mut configs = membership.get_joint_config().clone();
    if seeded_bugs::is_on("voter-swapped-in-one-step") {
        configs.drain(..configs.len().saturating_sub(1));
    }
    let encoded = EncodedMembership {
        version: MEMBERSHIP_VERSION,
        configs,
        members: membership.nodes().map(|(id, member)| (*id, member.clone())).collect(),
    };
    postcard::to_stdvec(&encoded).expect("a membership has only serialisable parts").into()
}

/// Decodes a membership.
pub fn decode_membership(bytes: &[u8]) -> Result<Membership<u64, Member>, Malformed> {
    let encoded: EncodedMembership = postcard::from_bytes(bytes).map_err(Malformed::Membership)?;
    if encoded.version != MEMBERSHIP_VERSION {
        return Err(Malformed::Membership(postcard::Error::DeserializeBadEncoding));
    }
    Membership::new(encoded.configs, encoded.members).map_err(|_| {
        // Bytes that decode, and name no possible membership.
        Malformed::Membership(postcard::Error::DeserializeBadEncoding)
    })
}

/// Encodes a membership with the log id that set it.
pub fn encode_stored_membership(membership: &StoredMembership) -> Bytes {
    let log_id = membership.log_id().as_ref().map(|id| (term_of(id), id.index()));
    let mut bytes = postcard::to_stdvec(&log_id).expect("a log id has only serialisable parts");
    bytes.extend_from_slice(&encode_membership(membership.membership()));
    bytes.into()
}

/// Decodes what [`encode_stored_membership`] made; nothing stands for no membership yet.
pub fn decode_stored_membership(bytes: &[u8]) -> Result<StoredMembership, Malformed> {
    if bytes.is_empty() {
        return Ok(StoredMembership::default());
    }
    let (log_id, rest): (Option<(u64, u64)>, &[u8]) =
        postcard::take_from_bytes(bytes).map_err(Malformed::Membership)?;
    let log_id = log_id.map(|(term, index)| self::log_id(term, index));
    Ok(StoredMembership::new(log_id, decode_membership(rest)?))
}

pub(crate) fn entry_to_wire(entry: Entry) -> wire::Entry {
    let payload = match entry.payload {
        Payload::Blank => None,
        Payload::Normal(EntryPayload(batch)) => Some(wire::entry::Payload::Batch(batch)),
        Payload::Membership(membership) => {
            Some(wire::entry::Payload::Membership(encode_membership(&membership)))
        }
    };
    wire::Entry { log_id: Some(log_id_to_wire(&entry.log_id)), payload }
}

pub(crate) fn entry_from_wire(entry: wire::Entry) -> Result<Entry, Malformed> {
    let log_id = log_id_from_wire(&entry.log_id.ok_or(Malformed::Missing("entry.log_id"))?);
    let payload = match entry.payload {
        None => Payload::Blank,
        Some(wire::entry::Payload::Batch(batch)) => Payload::Normal(EntryPayload(batch)),
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
