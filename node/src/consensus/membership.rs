//! The membership as bytes: in the log, in the state and on the wire; and what its majorities are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use openraft::Membership;
use serde::{Deserialize, Serialize};
use tally_proto::seeded_bugs;

use super::types::{Member, StoredMembership, term_of};

/// The last membership, of those that were applied since the process started, that a node was in.
///
/// A node that is added and taken out again at once may apply both before it looks at its state again; without this it
/// would not know that it was ever in, and so not that it is out (`an_id_that_was_a_members_is_nobodys_again`).
#[derive(Debug)]
pub struct LastIn {
    node_id: u64,
    index: AtomicU64,
}

impl LastIn {
    /// Of a node that was in none yet.
    pub fn new(node_id: u64) -> Arc<LastIn> {
        Arc::new(LastIn { node_id, index: AtomicU64::new(0) })
    }

    /// A membership is applied. They come in the order of the log.
    pub fn applied(&self, index: u64, membership: &Membership<u64, Member>) {
        if membership.nodes().any(|(id, _)| *id == self.node_id) {
            self.index.store(index, Ordering::Release);
        }
    }

    /// Its log index, if there was one.
    pub fn index(&self) -> Option<u64> {
        Some(self.index.load(Ordering::Acquire)).filter(|index| *index > 0)
    }
}

/// Whether those that count are a majority of the voters: of each set, while they change.
pub fn is_majority(voters: &[BTreeSet<u64>], counts: impl Fn(u64) -> bool) -> bool {
    voters.iter().all(|set| set.iter().filter(|id| counts(**id)).count() > set.len() / 2)
}

/// Bytes that are no membership.
#[derive(Debug, thiserror::Error)]
#[error("membership can't be decoded: {0}")]
pub struct Undecodable(postcard::Error);

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
pub fn decode_membership(bytes: &[u8]) -> Result<Membership<u64, Member>, Undecodable> {
    let (encoded, rest): (EncodedMembership, _) =
        postcard::take_from_bytes(bytes).map_err(Undecodable)?;
    // What follows would be lost when it is written again.
    if encoded.version != MEMBERSHIP_VERSION || !rest.is_empty() {
        return Err(Undecodable(postcard::Error::DeserializeBadEncoding));
    }
    Membership::new(encoded.configs, encoded.members).map_err(|_| {
        // Bytes that decode, and name no possible membership.
        Undecodable(postcard::Error::DeserializeBadEncoding)
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
pub fn decode_stored_membership(bytes: &[u8]) -> Result<StoredMembership, Undecodable> {
    if bytes.is_empty() {
        return Ok(StoredMembership::default());
    }
    let (log_id, rest): (Option<(u64, u64)>, &[u8]) =
        postcard::take_from_bytes(bytes).map_err(Undecodable)?;
    let log_id = log_id.map(|(term, index)| super::types::log_id(term, index));
    Ok(StoredMembership::new(log_id, decode_membership(rest)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_membership_that_came_and_went_is_known() {
        let of = |ids: &[u64]| {
            let members = ids.iter().map(|id| (*id, Member { peer_address: "a:1".to_owned() }));
            Membership::new(vec![BTreeSet::from([1])], members.collect::<BTreeMap<_, _>>()).unwrap()
        };
        let last_in = LastIn::new(4);
        last_in.applied(3, &of(&[1, 2]));
        assert_eq!(last_in.index(), None, "it was in none");
        for (index, ids) in [(5, &[1, 2, 4][..]), (6, &[1, 4]), (9, &[1, 2])] {
            last_in.applied(index, &of(ids));
        }
        assert_eq!(last_in.index(), Some(6), "the last that it was in");
    }

    #[test]
    fn what_follows_a_membership_is_not_ignored() {
        let members = [(1, Member { peer_address: "a:1".to_owned() })];
        let one = Membership::new(vec![BTreeSet::from([1])], BTreeMap::from(members)).unwrap();
        let bytes = encode_membership(&one);
        assert_eq!(decode_membership(&bytes).unwrap(), one);
        let longer = [&bytes[..], &[0]].concat();
        assert!(decode_membership(&longer).is_err());
        let stored = encode_stored_membership(&StoredMembership::new(None, one));
        assert!(decode_stored_membership(&stored).is_ok());
        assert!(decode_stored_membership(&[&stored[..], &[7]].concat()).is_err());
        for length in 1..bytes.len() {
            assert!(decode_membership(&bytes[..length]).is_err(), "{length} bytes");
        }
    }
}
