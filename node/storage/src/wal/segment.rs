//! Segment files: names and headers.

use super::frame::Salt;

/// Newest format version. Version 1 had no owner.
pub(super) const VERSION: u32 = 2;
/// Where frames begin. The header's two copies lie in different 4 KiB blocks, so that no single bad
/// block makes a segment look like one that was never begun.
pub(super) const FRAMES_START: u64 = 8192;
const COPIES_AT: [usize; 2] = [0, 4096];
const MAGIC: &[u8; 8] = b"TALLYWAL";
/// What every version has, its crc at the end.
const COMMON_BYTES: usize = 52;
/// … and behind it the owner with a crc of its own, seeded with the one before.
const HEADER_BYTES: usize = COMMON_BYTES + 20;

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// Length of the file.
    pub bytes: u64,
    /// Its place among the segments; the first is 1.
    pub number: u64,
    pub salt: u64,
    /// Sequence of its first frame.
    pub sequence: u64,
    /// Crc of the last frame of the segment before.
    pub chain: u32,
    /// Incarnation of the data directory that it was made in; none in format version 1.
    pub owner: Option<u128>,
}

/// A segment that may hold something needed.
#[derive(Debug, Clone, Copy)]
pub(super) struct InUse {
    pub number: u64,
    pub bytes: u64,
    /// After the highest index of any entry in it, truncated ones included.
    pub end: u64,
}

/// What the header block of a segment file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderBlock {
    /// A header that belongs to the file's name. `whole` if both copies are good.
    Begun { header: SegmentHeader, whole: bool },
    /// None: never begun, or torn while it was.
    NotBegun,
    /// A valid header of a format that is not known here.
    Newer(u32),
}

impl SegmentHeader {
    pub(super) fn frame_salt(&self) -> Salt {
        Salt::new(self.salt)
    }

    /// Appends the header block.
    pub(super) fn encode(&self, buf: &mut Vec<u8>) {
        let start = buf.len();
        buf.resize(start + FRAMES_START as usize, 0);
        for at in COPIES_AT {
            let copy = &mut buf[start + at..start + at + HEADER_BYTES];
            copy[..8].copy_from_slice(MAGIC);
            let version = if self.owner.is_some() { VERSION } else { 1 };
            copy[8..12].copy_from_slice(&version.to_le_bytes());
            copy[12..20].copy_from_slice(&self.bytes.to_le_bytes());
            copy[20..28].copy_from_slice(&self.number.to_le_bytes());
            copy[28..36].copy_from_slice(&self.salt.to_le_bytes());
            copy[36..44].copy_from_slice(&self.sequence.to_le_bytes());
            copy[44..48].copy_from_slice(&self.chain.to_le_bytes());
            let crc = crc32c::crc32c(&copy[..48]);
            copy[48..COMMON_BYTES].copy_from_slice(&crc.to_le_bytes());
            if let Some(owner) = self.owner {
                copy[52..68].copy_from_slice(&owner.to_le_bytes());
                let crc = crc32c::crc32c_append(crc, &copy[52..68]);
                copy[68..].copy_from_slice(&crc.to_le_bytes());
            }
        }
    }
}

/// Reads the header block of the segment that is named `number`. A header of another number is what
/// a recycled file still had in it.
pub(super) fn decode(block: &[u8], number: u64) -> HeaderBlock {
    let copies = COPIES_AT.map(|at| block.get(at..at + HEADER_BYTES).and_then(decode_copy));
    let newer = copies.iter().flatten().find(|(version, _)| *version > VERSION);
    if let Some((version, _)) = newer {
        return HeaderBlock::Newer(*version);
    }
    let good = copies.map(|copy| copy.map(|(_, h)| h).filter(|h| h.number == number));
    match good[0].or(good[1]) {
        Some(header) => HeaderBlock::Begun { header, whole: good[0] == good[1] },
        None => HeaderBlock::NotBegun,
    }
}

fn decode_copy(copy: &[u8]) -> Option<(u32, SegmentHeader)> {
    let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| copy[at + i]));
    let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| copy[at + i]));
    if copy[..8] != *MAGIC || u32_at(48) != crc32c::crc32c(&copy[..48]) {
        return None;
    }
    let owner = match u32_at(8) {
        2 if u32_at(68) != crc32c::crc32c_append(u32_at(48), &copy[52..68]) => return None,
        2 => Some(u128::from_le_bytes(std::array::from_fn(|i| copy[52 + i]))),
        _ => None,
    };
    let header = SegmentHeader {
        bytes: u64_at(12),
        number: u64_at(20),
        salt: u64_at(28),
        sequence: u64_at(36),
        chain: u32_at(44),
        owner,
    };
    Some((u32_at(8), header))
}

/// Path of a segment.
pub(super) fn path(directory: &str, number: u64) -> String {
    format!("{directory}/{number:08}.wal")
}

/// Path of an old segment that waits to be used again.
pub(super) fn spare_path(directory: &str, number: u64) -> String {
    format!("{directory}/{number:08}.spare")
}

/// The number in a segment's file name. The first is 1, so what is named 0 is nobody's.
pub(super) fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wal")?;
    (digits.len() >= 8 && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| digits.parse().ok().filter(|number| *number > 0))
        .flatten()
}

/// A salt for a segment: the splitmix64 step, so that near numbers give unlike salts.
pub(super) fn salt(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
