//! The session token: (format, cluster id, restore epoch, applied index), opaque to clients.

use bytes::{BufMut, Bytes, BytesMut};

/// Format of the token.
const VERSION: u8 = 1;

/// 1 + 16 + 8 + 8.
const TOKEN_BYTES: usize = 33;

/// How often this cluster was restored from a backup. Part of the token from the first release on,
/// so that a token from before a restore can be told from one after it.
pub const RESTORE_EPOCH: u64 = 0;

/// Makes a token.
pub fn encode(cluster_id: u128, applied_index: u64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(TOKEN_BYTES);
    bytes.put_u8(VERSION);
    bytes.put_u128(cluster_id);
    bytes.put_u64(RESTORE_EPOCH);
    bytes.put_u64(applied_index);
    bytes.freeze()
}

/// What is wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadToken {
    /// It is no token.
    Malformed,
    /// It is one of another cluster or epoch.
    OfAnotherCluster,
}

/// The applied index of a token of this cluster and epoch.
pub fn decode(token: &[u8], cluster_id: u128) -> Result<u64, BadToken> {
    let token: &[u8; TOKEN_BYTES] = token.try_into().map_err(|_| BadToken::Malformed)?;
    let (version, rest) = token.split_at(1);
    let (cluster, rest) = rest.split_at(16);
    let (epoch, index) = rest.split_at(8);
    if version != [VERSION] {
        return Err(BadToken::Malformed);
    }
    if cluster != cluster_id.to_be_bytes() || epoch != RESTORE_EPOCH.to_be_bytes() {
        return Err(BadToken::OfAnotherCluster);
    }
    Ok(u64::from_be_bytes(index.try_into().map_err(|_| BadToken::Malformed)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusals() {
        let token = encode(7, 42);
        assert_eq!(decode(&token, 7), Ok(42));
        assert_eq!(decode(&token, 8), Err(BadToken::OfAnotherCluster));
        assert_eq!(decode(b"", 7), Err(BadToken::Malformed));
        assert_eq!(decode(&[0; TOKEN_BYTES], 7), Err(BadToken::Malformed));
    }
}
