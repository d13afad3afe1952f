//! The hash by which replicas of a state are compared, and backups with them.
//!
//! It is a sum: each record counts `SHA-256(length of its key u32, key, value)`, read as a number of 256 bits
//! (big-endian, as the length is), and the hash of a state is the sum over its records modulo 2^256. So it does not
//! depend on the order in which records came to be, and a change costs two hashes, of the record before and after,
//! however large the state is. Who has all records can count it without having seen any change, in any order.
//!
//! Three sums are kept side by side ([`StateHash`]): of the data, of what else a backup holds, and of the rest. A backup's
//! hashes are the first, and the first two together; replicas compare all three.
//!
//! **What it finds** is records that differ by a fault. It does not withstand somebody who chooses records so that two
//! states have the same sum: the sums of chosen hashes can be steered with far less work than a hash alone. Nobody gains
//! by that here, as it takes the rights to write whatever is wanted.

use std::fmt;

use sha2::{Digest, Sha256};

/// Bytes of a sum.
pub const SUM_BYTES: usize = 32;

/// Bytes of all sums of a state.
pub const STATE_HASH_BYTES: usize = 3 * SUM_BYTES;

/// A sum of hashes of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Sum {
    /// The lowest first.
    limbs: [u64; 4],
}

impl Sum {
    /// Of one record.
    pub fn of(key: &[u8], value: &[u8]) -> Sum {
        let mut hash = Sha256::new();
        // In front of the key, so that no two records are the same bytes. Keys are short.
        hash.update((key.len() as u32).to_be_bytes());
        hash.update(key);
        hash.update(value);
        Sum::from_bytes(hash.finalize().into())
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Sum) -> Sum {
        let mut limbs = [0; 4];
        let mut carry = false;
        for (at, limb) in limbs.iter_mut().enumerate() {
            let (sum, over) = self.limbs[at].overflowing_add(other.limbs[at]);
            let (sum, over_again) = sum.overflowing_add(u64::from(carry));
            (*limb, carry) = (sum, over || over_again);
        }
        Sum { limbs }
    }

    /// What is left without those.
    #[must_use]
    pub fn minus(self, other: Sum) -> Sum {
        let mut limbs = [0; 4];
        let mut borrow = false;
        for (at, limb) in limbs.iter_mut().enumerate() {
            let (rest, under) = self.limbs[at].overflowing_sub(other.limbs[at]);
            let (rest, under_again) = rest.overflowing_sub(u64::from(borrow));
            (*limb, borrow) = (rest, under || under_again);
        }
        Sum { limbs }
    }

    /// The number, big-endian.
    pub fn to_bytes(self) -> [u8; SUM_BYTES] {
        let mut bytes = [0; SUM_BYTES];
        for (chunk, limb) in bytes.chunks_exact_mut(8).zip(self.limbs.iter().rev()) {
            chunk.copy_from_slice(&limb.to_be_bytes());
        }
        bytes
    }

    /// What [`to_bytes`](Self::to_bytes) gave.
    pub fn from_bytes(bytes: [u8; SUM_BYTES]) -> Sum {
        let mut limbs = [0; 4];
        for (chunk, limb) in bytes.chunks_exact(8).zip(limbs.iter_mut().rev()) {
            *limb = u64::from_be_bytes(chunk.try_into().expect("it has eight bytes"));
        }
        Sum { limbs }
    }
}

/// Which sum a record counts in, by the first byte of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Counters and keys.
    Data,
    /// What else a backup holds: remembered idempotency keys; users, roles, tokens and their limits; quotas.
    Kept,
    /// What no backup holds: sessions, indexes, ids of nodes, and the record about the whole.
    Rest,
}

impl Part {
    /// Of a record with this key.
    pub fn of(key: &[u8]) -> Part {
        match key.first() {
            Some(0x10 | 0x11) => Part::Data,
            Some(0x30 | 0x40..=0x44 | 0x52) => Part::Kept,
            _ => Part::Rest,
        }
    }
}

/// The hash of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct StateHash {
    data: Sum,
    kept: Sum,
    rest: Sum,
}

impl StateHash {
    fn part(&mut self, key: &[u8]) -> &mut Sum {
        match Part::of(key) {
            Part::Data => &mut self.data,
            Part::Kept => &mut self.kept,
            Part::Rest => &mut self.rest,
        }
    }

    /// A record came.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        let part = self.part(key);
        *part = part.plus(Sum::of(key, value));
    }

    /// A record that was there went.
    pub fn remove(&mut self, key: &[u8], value: &[u8]) {
        let part = self.part(key);
        *part = part.minus(Sum::of(key, value));
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &StateHash) -> StateHash {
        StateHash {
            data: self.data.plus(other.data),
            kept: self.kept.plus(other.kept),
            rest: self.rest.plus(other.rest),
        }
    }

    /// Over counters and keys.
    pub fn data(&self) -> [u8; SUM_BYTES] {
        self.data.to_bytes()
    }

    /// Over all that a backup holds: the state hash of one.
    pub fn backup(&self) -> [u8; SUM_BYTES] {
        self.data.plus(self.kept).to_bytes()
    }

    /// Over all records.
    pub fn all(&self) -> [u8; SUM_BYTES] {
        self.data.plus(self.kept).plus(self.rest).to_bytes()
    }

    /// The three sums.
    pub fn to_bytes(&self) -> [u8; STATE_HASH_BYTES] {
        let mut bytes = [0; STATE_HASH_BYTES];
        let sums = [self.data, self.kept, self.rest];
        for (chunk, sum) in bytes.chunks_exact_mut(SUM_BYTES).zip(sums) {
            chunk.copy_from_slice(&sum.to_bytes());
        }
        bytes
    }

    /// What [`to_bytes`](Self::to_bytes) gave; nothing if it has another length.
    pub fn from_bytes(bytes: &[u8]) -> Option<StateHash> {
        let bytes: &[u8; STATE_HASH_BYTES] = bytes.try_into().ok()?;
        let sum = |at: usize| {
            let part = &bytes[at * SUM_BYTES..(at + 1) * SUM_BYTES];
            Sum::from_bytes(part.try_into().expect("it has the bytes of a sum"))
        };
        Some(StateHash { data: sum(0), kept: sum(1), rest: sum(2) })
    }
}

/// The sum over all records, in hexadecimal digits; with a precision, as many of them.
impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.all().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDS: [(&[u8], &[u8]); 4] =
        [(b"\x10a", b"1"), (b"\x11a", b""), (b"\x30k", b"answer"), (b"\x20s", b"session")];

    fn hash_of<'a>(records: impl IntoIterator<Item = &'a (&'a [u8], &'a [u8])>) -> StateHash {
        let mut hash = StateHash::default();
        records.into_iter().for_each(|(key, value)| hash.add(key, value));
        hash
    }

    #[test]
    fn the_order_does_not_matter_and_what_went_leaves_nothing_behind() {
        let all = hash_of(&RECORDS);
        assert_eq!(hash_of(RECORDS.iter().rev()), all);
        let mut changed = all;
        changed.add(b"\x10b", b"2");
        changed.remove(b"\x10a", b"1");
        assert_ne!((changed.data(), changed.all()), (all.data(), all.all()));
        changed.add(b"\x10a", b"1");
        changed.remove(b"\x10b", b"2");
        assert_eq!(changed, all);
        assert_eq!(hash_of(&RECORDS[..2]).plus(&hash_of(&RECORDS[2..])), all);
    }

    #[test]
    fn each_record_counts_where_it_belongs() {
        let all = hash_of(&RECORDS);
        assert_eq!(all.data(), hash_of(&RECORDS[..2]).all());
        assert_eq!(all.backup(), hash_of(&RECORDS[..3]).all());
        assert_ne!(all.all(), all.backup());
        // A byte that moves from the key to the value makes another record.
        assert_ne!(Sum::of(b"\x10ab", b"c"), Sum::of(b"\x10a", b"bc"));
    }

    #[test]
    fn carries_and_borrows_go_all_the_way() {
        let one = Sum { limbs: [1, 0, 0, 0] };
        let largest = Sum { limbs: [u64::MAX; 4] };
        assert_eq!(largest.plus(one), Sum::default());
        assert_eq!(Sum::default().minus(one), largest);
        let middle = Sum { limbs: [0, 1, 0, 0] };
        assert_eq!(middle.minus(one), Sum { limbs: [u64::MAX, 0, 0, 0] });
        assert_eq!(middle.minus(one).plus(one), middle);
        assert_eq!(largest.plus(largest), largest.minus(one));
    }

    #[test]
    fn bytes_come_back() {
        let all = hash_of(&RECORDS);
        assert_eq!(StateHash::from_bytes(&all.to_bytes()), Some(all));
        assert_eq!(StateHash::from_bytes(&all.to_bytes()[1..]), None);
        assert_eq!(StateHash::from_bytes(&[]), None);
        let one = Sum { limbs: [1, 0, 0, 0] };
        assert_eq!(one.to_bytes()[31], 1, "the lowest byte comes last");
    }

    /// Pins the hash: backups have it, and nodes of neighbouring releases compare it.
    #[test]
    fn the_hash_is_frozen() {
        assert_eq!(hash_of(&RECORDS).to_string(), FROZEN);
        assert_eq!(format!("{:.16}", hash_of(&RECORDS)), FROZEN[..16], "the beginning of it");
    }

    const FROZEN: &str = "8e9e41e972ca71b0edb4c6e4ec02e88310fdf8d3b29479cfa2bd71cacffba0fe";
}
