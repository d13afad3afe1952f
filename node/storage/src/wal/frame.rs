//! Frames: one record each, with what tells torn from rotten (see the module above).

use tally_seeded_bugs as seeded_bugs;

/// Bytes of a frame's header.
pub(super) const HEADER_BYTES: usize = 40;
/// Frames start at multiples of this.
pub(super) const ALIGN: usize = 8;

/// What seeds the crc of every frame of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Salt {
    seed: u32,
    tag: u32,
}

impl Salt {
    pub(super) fn new(salt: u64) -> Salt {
        Salt { seed: crc32c::crc32c(&salt.to_le_bytes()), tag: salt as u32 }
    }
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Crc of this header; the next frame's `chain`.
    pub crc: u32,
    pub length: u32,
    pub sequence: u64,
    /// Sequence of the last frame known to be synced when this one was written.
    pub durable: u64,
    /// Crc of the frame before.
    pub chain: u32,
    pub payload_crc: u32,
    pub kind: u8,
}

/// Bytes that a frame takes with a payload of `length`.
pub(super) fn frame_bytes(length: usize) -> usize {
    (HEADER_BYTES + length).next_multiple_of(ALIGN)
}

/// Appends a frame to `buf`; `payload` appends its payload. Returns the frame's crc.
pub(super) fn encode(
    buf: &mut Vec<u8>,
    salt: Salt,
    (sequence, durable, chain): (u64, u64, u32),
    kind: u8,
    payload: impl FnOnce(&mut Vec<u8>),
) -> u32 {
    let start = buf.len();
    buf.resize(start + HEADER_BYTES, 0);
    payload(buf);
    let length = buf.len() - start - HEADER_BYTES;
    let payload_crc = crc32c::crc32c(&buf[start + HEADER_BYTES..]);
    let header = &mut buf[start..start + HEADER_BYTES];
    header[4..8].copy_from_slice(&(length as u32).to_le_bytes());
    header[8..16].copy_from_slice(&sequence.to_le_bytes());
    header[16..24].copy_from_slice(&durable.to_le_bytes());
    header[24..28].copy_from_slice(&chain.to_le_bytes());
    header[28..32].copy_from_slice(&payload_crc.to_le_bytes());
    header[32..36].copy_from_slice(&salt.tag.to_le_bytes());
    header[36] = kind;
    let crc = crc32c::crc32c_append(salt.seed, &header[4..]);
    header[..4].copy_from_slice(&crc.to_le_bytes());
    buf.resize(start + frame_bytes(length), 0);
    crc
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

/// The header at the start of `bytes`, if it is a valid one of this segment.
pub(super) fn header(bytes: &[u8], salt: Salt) -> Option<Header> {
    let bytes = bytes.get(..HEADER_BYTES)?;
    // The tag first: a scan for frames looks at every eighth byte of a segment.
    if u32_at(bytes, 32) != salt.tag {
        return None;
    }
    let crc = u32_at(bytes, 0);
    if crc != crc32c::crc32c_append(salt.seed, &bytes[4..]) {
        return None;
    }
    Some(Header {
        crc,
        length: u32_at(bytes, 4),
        sequence: u64_at(bytes, 8),
        durable: u64_at(bytes, 16),
        chain: u32_at(bytes, 24),
        payload_crc: u32_at(bytes, 28),
        kind: bytes[36],
    })
}

/// The header and payload of the frame at the start of `bytes`, if both are valid.
pub(super) fn decode(bytes: &[u8], salt: Salt) -> Option<(Header, &[u8])> {
    let header = header(bytes, salt)?;
    let payload = bytes.get(HEADER_BYTES..HEADER_BYTES.checked_add(header.length as usize)?)?;
    let whole =
        crc32c::crc32c(payload) == header.payload_crc || seeded_bugs::is_on("torn-tail-accepted");
    whole.then_some((header, payload))
}

/// Looks behind a bad frame for one that says the bad one had been durable; its offset in `bytes`.
///
/// Valid headers are proof enough: whatever became of a frame's payload, its header was written
/// after the sync that it speaks of.
pub(super) fn find_proof(bytes: &[u8], from: usize, salt: Salt, bad: u64) -> Option<usize> {
    (from.next_multiple_of(ALIGN)..bytes.len()).step_by(ALIGN).find(|at| {
        header(&bytes[*at..], salt)
            .is_some_and(|found| found.sequence > bad && found.durable >= bad)
    })
}

/// Whether any frame of this segment begins behind `from`.
pub(super) fn any_behind(bytes: &[u8], from: usize, salt: Salt) -> bool {
    (from.next_multiple_of(ALIGN)..bytes.len())
        .step_by(ALIGN)
        .any(|at| header(&bytes[at..], salt).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(salt: u64, sequence: u64, durable: u64, payload: &[u8]) -> Vec<u8> {
        let mut buf = Vec::new();
        encode(&mut buf, Salt::new(salt), (sequence, durable, 77), 4, |buf| {
            buf.extend_from_slice(payload);
        });
        buf
    }

    #[test]
    fn a_frame_reads_back_under_its_own_salt_only() {
        for len in [0, 1, 7, 8, 9, 1000] {
            let payload = vec![5; len];
            let buf = one(1, 10, 9, &payload);
            assert_eq!(buf.len(), frame_bytes(len));
            let (header, found) = decode(&buf, Salt::new(1)).unwrap();
            assert_eq!(
                (header.sequence, header.durable, header.chain, header.kind),
                (10, 9, 77, 4)
            );
            assert_eq!(found, payload);
            assert_eq!(decode(&buf, Salt::new(2)), None);
            // Another salt with the same tag differs in the crc's seed.
            assert_eq!(decode(&buf, Salt::new(1 + (1 << 32))), None);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let buf = one(1, 10, 9, b"payload of some length");
        for bit in 0..(HEADER_BYTES + 22) * 8 {
            let mut bad = buf.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bad, Salt::new(1)), None, "bit {bit}");
        }
        for len in 0..HEADER_BYTES + 22 {
            assert_eq!(decode(&buf[..len], Salt::new(1)), None, "length {len}");
        }
    }

    #[test]
    fn proof_is_a_later_frame_that_says_the_bad_one_was_durable() {
        let salt = Salt::new(1);
        let place = |frame: &[u8]| [vec![9; 64], frame.to_vec()].concat();
        let covers = place(&one(1, 12, 10, b""));
        assert_eq!(find_proof(&covers, 0, salt, 10), Some(64));
        assert_eq!(find_proof(&covers, 3, salt, 9), Some(64));
        // Written before the bad one was synced; by another life; the bad frame itself.
        assert_eq!(find_proof(&covers, 0, salt, 11), None);
        assert_eq!(find_proof(&covers, 0, Salt::new(2), 10), None);
        assert_eq!(find_proof(&place(&one(1, 10, 10, b"")), 0, salt, 10), None);
    }
}
