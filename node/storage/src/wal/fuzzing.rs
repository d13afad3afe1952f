//! The log's part of the door for fuzz targets (`crate::fuzzing`).

use super::{
    frame::{self, Salt},
    record::Record,
    segment::{self, HeaderBlock, SegmentHeader},
    types::WalOptions,
};

pub(crate) fn frame(bytes: &[u8], salt: u64) -> Option<(u8, Vec<u8>, Vec<u8>)> {
    let salt = Salt::new(salt);
    let (header, payload) = frame::decode(bytes, salt)?;
    let mut again = Vec::new();
    let said = (header.sequence, header.durable, header.chain);
    frame::encode(&mut again, salt, said, header.kind, |buf| buf.extend_from_slice(payload));
    Some((header.kind, payload.to_vec(), again))
}

pub(crate) fn scan(bytes: &[u8], from: usize, salt: u64, bad: u64) -> (Option<usize>, bool) {
    let salt = Salt::new(salt);
    (frame::find_proof(bytes, from, salt, bad), frame::any_behind(bytes, from, salt))
}

pub(crate) fn record(kind: u8, payload: &[u8]) -> Option<Vec<u8>> {
    let record = Record::decode(kind, payload)?;
    assert_eq!(record.kind(), kind, "a record has the kind that it was read as");
    let mut again = Vec::new();
    record.encode(&mut again);
    assert!(again.len() <= record.bytes_max(), "a record is as long as it says at most");
    Some(again)
}

pub(crate) fn header_block(block: &[u8], number: u64) -> Option<Vec<u8>> {
    match segment::decode(block, number) {
        HeaderBlock::Begun { header, .. } => {
            assert_eq!(header.number, number, "a header is of the file's number");
            let mut again = Vec::new();
            header.encode(&mut again);
            Some(again)
        }
        HeaderBlock::NotBegun => None,
        HeaderBlock::Newer(version) => {
            assert!(version > segment::VERSION, "what is known is not newer");
            None
        }
    }
}

pub(crate) fn segment(
    records: &[(u8, &[u8])],
    number: u64,
    claimed: u64,
    options: &WalOptions,
) -> Vec<u8> {
    let header = SegmentHeader {
        bytes: claimed,
        number,
        salt: segment::salt(options.salt_seed, number),
        sequence: 1,
        chain: 0,
        owner: options.owner,
    };
    let mut file = Vec::new();
    header.encode(&mut file);
    frames(&mut file, records, header.salt);
    let length = usize::try_from(options.segment_bytes).expect("a segment fits in memory");
    file.resize(length.max(file.len()), 0);
    file
}

pub(crate) fn frames(to: &mut Vec<u8>, records: &[(u8, &[u8])], salt: u64) {
    let mut chain = 0;
    for ((kind, payload), sequence) in records.iter().zip(1..) {
        let put = |buf: &mut Vec<u8>| buf.extend_from_slice(payload);
        chain = frame::encode(to, Salt::new(salt), (sequence, sequence - 1, chain), *kind, put);
    }
}
