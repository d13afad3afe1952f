//! The session token: (format, cluster id, restore epoch, applied index), opaque to clients.

use bytes::{BufMut, Bytes, BytesMut};

/// Format of the token.
const VERSION: u8 = 1;

/// 1 + 16 + 8 + 8.
const TOKEN_BYTES: usize = 33;

/// Makes a token. The restore epoch says how often the cluster was restored from a backup, so that a token from
/// before a restore is told from one after it.
pub fn encode(cluster_id: u128, restore_epoch: u64, applied_index: u64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(TOKEN_BYTES);
    bytes.put_u8(VERSION);
    bytes.put_u128(cluster_id);
    bytes.put_u64(restore_epoch);
    bytes.put_u64(applied_index);
    bytes.freeze()
}

/// What a token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    cluster_id: u128,
    epoch: u64,
    /// The applied index that a state must have.
    pub index: u64,
}

impl Token {
    /// Whether it is from after a restore that is not in this epoch.
    pub fn is_later_than(&self, restore_epoch: u64) -> bool {
        self.epoch > restore_epoch
    }

    /// Whether it is of a cluster, by what a node has applied, which is up to an index. One of a later epoch may be: the
    /// restore that began it is below the token's index, and the node has yet to apply it. If it has applied that
    /// index, there was no such restore.
    pub fn is_of(&self, cluster_id: u128, restore_epoch: u64, applied_index: u64) -> bool {
        let is_to_come = self.epoch > restore_epoch && self.index > applied_index;
        self.cluster_id == cluster_id && (self.epoch == restore_epoch || is_to_come)
    }
}

/// Reads a token; nothing if it is none.
pub fn decode(token: &[u8]) -> Option<Token> {
    let token: &[u8; TOKEN_BYTES] = token.try_into().ok()?;
    let (version, rest) = token.split_at(1);
    let (cluster, rest) = rest.split_at(16);
    let (epoch, index) = rest.split_at(8);
    Some(Token {
        cluster_id: u128::from_be_bytes(cluster.try_into().ok()?),
        epoch: u64::from_be_bytes(epoch.try_into().ok()?),
        index: u64::from_be_bytes(index.try_into().ok()?),
    })
    .filter(|_| version == [VERSION])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusals() {
        let token = encode(7, 1, 42);
        let token = decode(&token).expect("it is one");
        assert_eq!(token.index, 42);
        assert!(token.is_of(7, 1, 42) && token.is_of(7, 1, 41));
        assert!(!token.is_of(8, 1, 42));
        assert!(!token.is_of(7, 2, 42), "from before a restore");
        assert!(token.is_of(7, 0, 41), "this node has not applied the restore yet");
        assert!(!token.is_of(7, 0, 42), "there was none");
        assert_eq!(decode(b""), None);
        assert_eq!(decode(&[0; TOKEN_BYTES]), None);
    }
}
