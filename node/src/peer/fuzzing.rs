//! The peer port's part of the door for the fuzz targets (`sim-tests/fuzz`).
//!
//! Each message is read, and what was read written and read again: the second writing must be as the first.

use std::fmt::Debug;

use prost::Message;
use tally_proto::peer::v1 as wire;

use super::convert::{self, Malformed};
use crate::consensus::membership;

/// Reads a message, and what is made of it, and writes that.
fn check<M, T>(
    bytes: &[u8],
    read: impl Fn(M) -> Result<T, Malformed>,
    write: impl Fn(T) -> M,
) -> bool
where
    M: Message + Default + Clone + PartialEq + Debug,
{
    let Ok(message) = M::decode(bytes) else { return false };
    let Ok(value) = read(message) else { return false };
    let once = write(value);
    let Ok(value) = read(once.clone()) else { panic!("what was written can't be read: {once:?}") };
    assert_eq!(write(value), once, "a message changes when it is read and written");
    true
}

/// An append; whether it can be read.
pub fn append(bytes: &[u8]) -> bool {
    check::<wire::AppendRequest, _>(bytes, convert::append_from_wire, |request| {
        convert::append_to_wire(request, String::new(), 0)
    })
}

/// The answer to one.
pub fn append_result(bytes: &[u8]) -> bool {
    check::<wire::AppendResponse, _>(bytes, convert::append_result_from_wire, |result| {
        convert::append_result_to_wire(&result)
    })
}

/// A request for a vote.
pub fn vote(bytes: &[u8]) -> bool {
    check::<wire::VoteRequest, _>(
        bytes,
        |request| convert::vote_request_from_wire(&request),
        |request| convert::vote_request_to_wire(&request, String::new(), 0),
    )
}

/// The answer to one.
pub fn vote_response(bytes: &[u8]) -> bool {
    check::<wire::VoteResponse, _>(
        bytes,
        |response| convert::vote_response_from_wire(&response),
        |response| convert::vote_response_to_wire(&response),
    )
}

/// A membership, as the log and the messages have it; the bytes made anew.
pub fn members(bytes: &[u8]) -> Option<Vec<u8>> {
    let members = membership::decode_membership(bytes).ok()?;
    Some(membership::encode_membership(&members).to_vec())
}

/// A membership with its log id, as the state and snapshots have it; the bytes made anew.
pub fn stored_members(bytes: &[u8]) -> Option<Vec<u8>> {
    let members = membership::decode_stored_membership(bytes).ok()?;
    Some(membership::encode_stored_membership(&members).to_vec())
}
