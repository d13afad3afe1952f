//! A door for the fuzz targets (`sim-tests/fuzz`) to decoders that nobody else needs by themselves. Each takes
//! bytes and gives back, where they are read, the bytes that the encoder makes of what was read.

use bytes::Bytes;

use crate::{
    state,
    wal::{self, WalOptions},
};

/// The frame at the start of the bytes: its kind and payload, and the frame made anew.
pub fn frame(bytes: &[u8], salt: u64) -> Option<(u8, Vec<u8>, Vec<u8>)> {
    wal::fuzzing::frame(bytes, salt)
}

/// Looks for proof that a frame had been durable, and for any frame.
pub fn scan(bytes: &[u8], from: usize, salt: u64, bad: u64) -> (Option<usize>, bool) {
    wal::fuzzing::scan(bytes, from, salt, bad)
}

/// A record of the log, made anew.
pub fn record(kind: u8, payload: &[u8]) -> Option<Vec<u8>> {
    wal::fuzzing::record(kind, payload)
}

/// What the header block of a segment says: the block made anew, if it has begun.
pub fn header_block(block: &[u8], number: u64) -> Option<Vec<u8>> {
    wal::fuzzing::header_block(block, number)
}

/// Frames with these records, as a segment with this salt has them.
pub fn frames(records: &[(u8, &[u8])], salt: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    wal::fuzzing::frames(&mut bytes, records, salt);
    bytes
}

/// A segment that holds these records, whatever they say, with right checksums and sequences; and that claims
/// to be so long.
pub fn segment(
    records: &[(u8, &[u8])],
    number: u64,
    claimed: u64,
    options: &WalOptions,
) -> Vec<u8> {
    wal::fuzzing::segment(records, number, claimed, options)
}

/// The state store's own record, made anew.
pub fn state_meta(record: &Bytes) -> Option<Bytes> {
    state::fuzzing::meta(record)
}

/// The generation that a pointer file names, and the file made anew.
pub fn pointer(bytes: &[u8]) -> Option<(u64, String)> {
    state::fuzzing::pointer(bytes)
}

/// The state store's own record and a pointer file, as they are written.
pub fn state_seeds() -> (Bytes, String) {
    state::fuzzing::seeds()
}
