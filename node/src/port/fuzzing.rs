//! The ports' part of the door for the fuzz targets (`sim-tests/fuzz`).

use super::authority::Authority;

/// Passes on bytes that come in pieces of these lengths, again and again; the rest as one.
pub fn pass(bytes: &mut [u8], pieces: &[usize]) {
    let mut authority = Authority::default();
    let mut rest = bytes;
    for length in pieces {
        let (piece, others) = rest.split_at_mut((*length).min(rest.len()));
        authority.pass(piece);
        rest = others;
    }
    authority.pass(rest);
}
