//! What nodes send each other.

use prost::Message;
use tally_machine::codec;
use tally_node::peer::fuzzing as door;
use tally_proto::peer::v1 as wire;

use crate::{allocation::bounded, choose};

/// An entry of an append is two bytes and may take 80; a vector doubles.
const TIMES: usize = 256;
const BESIDES: usize = 64 * 1024;

fn same<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<M> {
    let message = bounded(bytes.len(), TIMES, BESIDES, || M::decode(bytes)).ok()?;
    let again = M::decode(&message.encode_to_vec()[..]).expect("what was written is read");
    assert_eq!(again, message, "a message changes when it is written and read");
    Some(message)
}

/// Which message, then its bytes.
pub(crate) fn message(bytes: &[u8]) {
    let Some((which, bytes)) = choose(bytes, KINDS) else { return };
    match which {
        0 => {
            if let Some(append) = same::<wire::AppendRequest>(bytes) {
                for entry in append.entries {
                    if let Some(wire::entry::Payload::Batch(batch)) = entry.payload {
                        let _ = codec::decode_batch(&batch);
                    }
                }
                door::append(bytes);
            }
        }
        1 => {
            same::<wire::AppendResponse>(bytes);
            door::append_result(bytes);
        }
        2 => {
            same::<wire::VoteRequest>(bytes);
            door::vote(bytes);
        }
        3 => {
            same::<wire::VoteResponse>(bytes);
            door::vote_response(bytes);
        }
        4 => drop(same::<wire::PreVoteRequest>(bytes)),
        5 => drop(same::<wire::TransferLeaderRequest>(bytes)),
        6 => {
            use wire::install_snapshot_request::Part;
            let message = same::<wire::InstallSnapshotRequest>(bytes);
            if let Some(Part::Head(head)) = message.and_then(|message| message.part) {
                members(&head.membership, door::stored_members);
            }
        }
        7 => drop(same::<wire::HelloRequest>(bytes)),
        8 => drop(same::<wire::HelloResponse>(bytes)),
        9 => {
            for forwarded in
                same::<wire::ProposeRequest>(bytes).into_iter().flat_map(|it| it.commands)
            {
                let _ = codec::decode_command(&forwarded.command);
            }
        }
        10 => {
            use wire::forwarded_result::Result as Forwarded;
            for result in same::<wire::ProposeResponse>(bytes).into_iter().flat_map(|it| it.results)
            {
                if let Some(Forwarded::Reply(reply)) = result.result {
                    let _ = codec::decode_reply(&reply);
                }
            }
        }
        11 => drop(same::<wire::ReadIndexResponse>(bytes)),
        12 => drop(same::<wire::StatusResponse>(bytes)),
        13 => members(bytes, door::members),
        _ => members(bytes, door::stored_members),
    }
}

pub(crate) const KINDS: usize = 15;

fn members(bytes: &[u8], read: fn(&[u8]) -> Option<Vec<u8>>) {
    // A set makes a node for one number.
    // Nothing stands for no membership yet.
    if bytes.is_empty() {
        return;
    }
    if let Some(once) = bounded(bytes.len(), TIMES, BESIDES, || read(bytes)) {
        assert!(once.len() <= bytes.len(), "the one encoding is longer than another one");
        assert_eq!(
            read(&[bytes, &[0]].concat()),
            None,
            "something is in the bytes that nobody reads"
        );
        assert_eq!(read(&once), Some(once), "a membership changes when it is written and read");
    }
}
