//! The key spaces of the replicated state: which record lives where.
//!
//! Every key begins with the one-byte ordinal of its space, so that spaces are contiguous and can
//! be scanned alone. Numbers are big-endian, so that byte order is numeric order: the expiry
//! indexes depend on it. Strings come last in a key and need no terminator.
//!
//! Ordinals are on disk in snapshots and backups: they are frozen. A space that is given up leaves
//! its ordinal behind unused. Ordinals from [`MACHINE_END`] up belong to the storage below, which
//! keeps records of its own (such as the applied log id) in the same store.

use std::borrow::Cow;

use bytes::Bytes;

use tally_seeded_bugs as seeded_bugs;

use super::{auth::Scope, owner::Owner};

/// First ordinal that is not the machine's.
pub const MACHINE_END: u8 = 0x80;

/// A key space. The discriminant is the first byte of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Space {
    /// The one record about the whole store.
    Meta = 0x01,
    /// Counters by name.
    Counter = 0x10,
    /// Keys.
    Key = 0x11,
    /// Sessions by id.
    Session = 0x20,
    /// Remembered answers by session and sequence number.
    SessionAnswer = 0x21,
    /// Sessions by the log time at which they end.
    SessionExpiry = 0x22,
    /// Sessions with answers that nobody can ask for any more.
    SessionGarbage = 0x23,
    /// How many sessions each owner holds.
    SessionOwner = 0x24,
    /// Idempotency keys.
    Idempotency = 0x30,
    /// Idempotency keys by the log time at which they expire.
    IdempotencyExpiry = 0x31,
    /// Users by id.
    User = 0x40,
    /// Ids of users by name.
    UserId = 0x41,
    /// Roles by name.
    Role = 0x42,
    /// Tokens by id.
    Token = 0x43,
    /// How much the users of a role may ask for, by its name.
    RoleLimit = 0x44,
    /// Ids that are, or were, some node's.
    NodeId = 0x50,
    /// Users, roles and tokens of a backup that is being restored, by their own keys.
    Staged = 0x51,
    /// Quotas by scope and prefix.
    Quota = 0x52,
}

impl Space {
    /// Bounds of a scan over the whole space.
    pub fn range(self) -> ([u8; 1], [u8; 1]) {
        ([self as u8], [self as u8 + 1])
    }

    /// Bounds of a scan over the strings of this space that begin with `prefix`.
    pub fn prefix_range(self, prefix: &str) -> (Vec<u8>, Vec<u8>) {
        let mut start = Vec::with_capacity(1 + prefix.len());
        start.push(self as u8);
        start.extend_from_slice(prefix.as_bytes());
        let mut end = start.clone();
        // The ordinal is below 0xff, so there always is a byte that can be raised.
        while end.last() == Some(&0xff) {
            end.pop();
        }
        *end.last_mut().expect("the ordinal is left") += 1;
        (start, end)
    }

    fn from_ordinal(ordinal: u8) -> Option<Space> {
        Some(match ordinal {
            0x01 => Space::Meta,
            0x10 => Space::Counter,
            0x11 => Space::Key,
            0x20 => Space::Session,
            0x21 => Space::SessionAnswer,
            0x22 => Space::SessionExpiry,
            0x23 => Space::SessionGarbage,
            0x24 => Space::SessionOwner,
            0x30 => Space::Idempotency,
            0x31 => Space::IdempotencyExpiry,
            0x40 => Space::User,
            0x41 => Space::UserId,
            0x42 => Space::Role,
            0x43 => Space::Token,
            0x44 => Space::RoleLimit,
            0x50 => Space::NodeId,
            0x51 => Space::Staged,
            0x52 => Space::Quota,
            _ => return None,
        })
    }
}

/// The key of a record, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKey<'a> {
    /// See [`Space::Meta`].
    Meta,
    /// See [`Space::Counter`].
    Counter(&'a str),
    /// See [`Space::Key`].
    Key(&'a str),
    /// See [`Space::Session`].
    Session(u64),
    /// See [`Space::SessionAnswer`].
    SessionAnswer {
        /// The session.
        session_id: u64,
        /// Number of the write in it.
        sequence: u64,
    },
    /// See [`Space::SessionExpiry`].
    SessionExpiry {
        /// Log time at which it ends.
        expires_at_ms: u64,
        /// The session.
        session_id: u64,
    },
    /// See [`Space::SessionGarbage`].
    SessionGarbage(u64),
    /// See [`Space::SessionOwner`].
    SessionOwner(Owner),
    /// See [`Space::Idempotency`].
    Idempotency(&'a str),
    /// See [`Space::IdempotencyExpiry`].
    IdempotencyExpiry {
        /// Log time at which it expires.
        expires_at_ms: u64,
        /// The idempotency key.
        key: &'a str,
    },
    /// See [`Space::User`].
    User(u64),
    /// See [`Space::UserId`].
    UserId(&'a str),
    /// See [`Space::Role`].
    Role(&'a str),
    /// See [`Space::Token`].
    Token(u64),
    /// See [`Space::RoleLimit`].
    RoleLimit(&'a str),
    /// See [`Space::NodeId`].
    NodeId(u64),
    /// See [`Space::Staged`].
    Staged(&'a [u8]),
    /// See [`Space::Quota`].
    Quota {
        /// Counters or keys.
        scope: Scope,
        /// What their names begin with.
        prefix: &'a str,
    },
}

/// Bytes that are no key of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No bytes.
    #[error("a record's key is empty")]
    Empty,
    /// The first byte names no space that this version knows.
    #[error("key space {0:#04x} is unknown: written by a newer version, or corrupt")]
    UnknownSpace(u8),
    /// The rest does not fit the space.
    #[error("a key in space {0:?} is malformed")]
    Malformed(Space),
}

impl<'a> RecordKey<'a> {
    /// The space it lives in.
    pub fn space(&self) -> Space {
        match self {
            RecordKey::Meta => Space::Meta,
            RecordKey::Counter(_) => Space::Counter,
            RecordKey::Key(_) => Space::Key,
            RecordKey::Session(_) => Space::Session,
            RecordKey::SessionAnswer { .. } => Space::SessionAnswer,
            RecordKey::SessionExpiry { .. } => Space::SessionExpiry,
            RecordKey::SessionGarbage(_) => Space::SessionGarbage,
            RecordKey::SessionOwner(_) => Space::SessionOwner,
            RecordKey::Idempotency(_) => Space::Idempotency,
            RecordKey::IdempotencyExpiry { .. } => Space::IdempotencyExpiry,
            RecordKey::User(_) => Space::User,
            RecordKey::UserId(_) => Space::UserId,
            RecordKey::Role(_) => Space::Role,
            RecordKey::Token(_) => Space::Token,
            RecordKey::RoleLimit(_) => Space::RoleLimit,
            RecordKey::NodeId(_) => Space::NodeId,
            RecordKey::Staged(_) => Space::Staged,
            RecordKey::Quota { .. } => Space::Quota,
        }
    }

    /// Replaces what is in `buffer` by the key's bytes: for look-ups that should not allocate.
    pub fn encode_into(&self, buffer: &mut Vec<u8>) {
        buffer.clear();
        buffer.push(self.space() as u8);
        match self {
            RecordKey::Meta => {}
            RecordKey::Counter(name)
            | RecordKey::Key(name)
            | RecordKey::Idempotency(name)
            | RecordKey::UserId(name)
            | RecordKey::Role(name)
            | RecordKey::RoleLimit(name) => {
                buffer.extend_from_slice(name.as_bytes());
            }
            RecordKey::Staged(key) => buffer.extend_from_slice(key),
            RecordKey::Session(id)
            | RecordKey::SessionGarbage(id)
            | RecordKey::User(id)
            | RecordKey::Token(id)
            | RecordKey::NodeId(id) => {
                buffer.extend_from_slice(&id.to_be_bytes());
            }
            RecordKey::SessionOwner(owner) => buffer.extend_from_slice(&owner.octets()),
            RecordKey::SessionAnswer { session_id, sequence } => {
                buffer.extend_from_slice(&session_id.to_be_bytes());
                buffer.extend_from_slice(&sequence.to_be_bytes());
            }
            RecordKey::SessionExpiry { expires_at_ms, session_id } => {
                buffer.extend_from_slice(&expires_at_ms.to_be_bytes());
                buffer.extend_from_slice(&session_id.to_be_bytes());
            }
            RecordKey::IdempotencyExpiry { expires_at_ms, key } => {
                buffer.extend_from_slice(&expires_at_ms.to_be_bytes());
                buffer.extend_from_slice(key.as_bytes());
            }
            RecordKey::Quota { scope, prefix } => {
                buffer.push(match scope {
                    Scope::Counters => 0,
                    Scope::Keys => 1,
                });
                buffer.extend_from_slice(prefix.as_bytes());
            }
        }
    }

    /// The key's bytes.
    pub fn encode(&self) -> Bytes {
        let mut buffer = Vec::with_capacity(32);
        self.encode_into(&mut buffer);
        buffer.into()
    }

    /// The key that these bytes are.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, KeyError> {
        let (&ordinal, rest) = bytes.split_first().ok_or(KeyError::Empty)?;
        let space = Space::from_ordinal(ordinal).ok_or(KeyError::UnknownSpace(ordinal))?;
        let malformed = KeyError::Malformed(space);
        let text = |bytes: &'a [u8]| std::str::from_utf8(bytes).map_err(|_| malformed);
        let (first, second) = match space {
            Space::Meta
            | Space::Counter
            | Space::Key
            | Space::Idempotency
            | Space::UserId
            | Space::Role
            | Space::RoleLimit
            | Space::Staged
            | Space::Quota
            | Space::SessionOwner => (0, rest),
            _ => number(rest).ok_or(malformed)?,
        };
        let ends = |rest: &[u8]| if rest.is_empty() { Ok(()) } else { Err(malformed) };
        Ok(match space {
            Space::Meta => {
                ends(rest)?;
                RecordKey::Meta
            }
            Space::Counter => RecordKey::Counter(text(rest)?),
            Space::Key => RecordKey::Key(text(rest)?),
            Space::Idempotency => RecordKey::Idempotency(text(rest)?),
            Space::UserId => RecordKey::UserId(text(rest)?),
            Space::Role => RecordKey::Role(text(rest)?),
            Space::RoleLimit => RecordKey::RoleLimit(text(rest)?),
            Space::Staged => RecordKey::Staged(rest),
            Space::Quota => {
                let (scope, prefix) = rest.split_first().ok_or(malformed)?;
                let scope = match scope {
                    0 => Scope::Counters,
                    1 => Scope::Keys,
                    _ => return Err(malformed),
                };
                RecordKey::Quota { scope, prefix: text(prefix)? }
            }
            Space::User => {
                ends(second)?;
                RecordKey::User(first)
            }
            Space::Token => {
                ends(second)?;
                RecordKey::Token(first)
            }
            Space::NodeId => {
                ends(second)?;
                RecordKey::NodeId(first)
            }
            Space::SessionOwner => {
                let octets = <[u8; 16]>::try_from(rest).map_err(|_| malformed)?;
                RecordKey::SessionOwner(Owner::from_octets(octets))
            }
            Space::Session => {
                ends(second)?;
                RecordKey::Session(first)
            }
            Space::SessionGarbage => {
                ends(second)?;
                RecordKey::SessionGarbage(first)
            }
            Space::SessionAnswer => {
                let (sequence, rest) = number(second).ok_or(malformed)?;
                ends(rest)?;
                RecordKey::SessionAnswer { session_id: first, sequence }
            }
            Space::SessionExpiry => {
                let (session_id, rest) = number(second).ok_or(malformed)?;
                ends(rest)?;
                RecordKey::SessionExpiry { expires_at_ms: first, session_id }
            }
            Space::IdempotencyExpiry => {
                RecordKey::IdempotencyExpiry { expires_at_ms: first, key: text(second)? }
            }
        })
    }
}

/// In front of a key that belongs to a user, with the user's id and this once more behind it. The api lets
/// nobody's key begin with it.
pub const USERS_KEY_MARK: char = '\u{1}';

/// A key as it is stored. Each user has keys of its own: else one could find out another's, or take them before
/// the other does. User 0 is everybody while authentication is off.
pub(super) fn key_of_user(key: &str, user: u64) -> Cow<'_, str> {
    match user {
        0 => Cow::Borrowed(key),
        _ if seeded_bugs::is_on("keys-are-everybodys") => Cow::Borrowed(key),
        _ => Cow::Owned(format!("{USERS_KEY_MARK}{user}{USERS_KEY_MARK}{key}")),
    }
}

/// The key as its user knows it.
pub fn key_as_given(stored: &str) -> &str {
    let behind_user = |marked: &'_ str| marked.find(USERS_KEY_MARK).map(|at| at + 1);
    match stored.strip_prefix(USERS_KEY_MARK) {
        Some(marked) => behind_user(marked).map_or(stored, |at| &marked[at..]),
        None => stored,
    }
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pins the bytes: a failure here means that old snapshots can't be read.
    #[test]
    fn ordinals_are_frozen() {
        for (key, bytes) in [
            (RecordKey::Meta, &b"\x01"[..]),
            (RecordKey::Counter("a"), b"\x10a"),
            (RecordKey::Key("a"), b"\x11a"),
            (RecordKey::Session(258), b"\x20\0\0\0\0\0\0\x01\x02"),
            (
                RecordKey::SessionAnswer { session_id: 1, sequence: 2 },
                b"\x21\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02",
            ),
            (
                RecordKey::SessionExpiry { expires_at_ms: 1, session_id: 2 },
                b"\x22\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02",
            ),
            (RecordKey::SessionGarbage(1), b"\x23\0\0\0\0\0\0\0\x01"),
            (
                RecordKey::SessionOwner("10.0.0.7".parse().unwrap()),
                b"\x24\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\x07",
            ),
            (
                RecordKey::SessionOwner("2001:db8::1".parse().unwrap()),
                b"\x24\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01",
            ),
            (RecordKey::Idempotency("a"), b"\x30a"),
            (
                RecordKey::IdempotencyExpiry { expires_at_ms: 1, key: "a" },
                b"\x31\0\0\0\0\0\0\0\x01a",
            ),
            (RecordKey::User(1), b"\x40\0\0\0\0\0\0\0\x01"),
            (RecordKey::UserId("a"), b"\x41a"),
            (RecordKey::Role("a"), b"\x42a"),
            (RecordKey::Token(1), b"\x43\0\0\0\0\0\0\0\x01"),
            (RecordKey::RoleLimit("a"), b"\x44a"),
            (RecordKey::NodeId(1), b"\x50\0\0\0\0\0\0\0\x01"),
            (RecordKey::Staged(b"\x42a"), b"\x51\x42a"),
            (RecordKey::Quota { scope: Scope::Counters, prefix: "" }, b"\x52\0"),
            (RecordKey::Quota { scope: Scope::Keys, prefix: "a" }, b"\x52\x01a"),
        ] {
            assert_eq!(key.encode().as_ref(), bytes, "{key:?}");
            assert_eq!(RecordKey::decode(bytes), Ok(key));
            assert!(bytes[0] < MACHINE_END, "{key:?} lives in the machine's part");
        }
    }

    #[test]
    fn what_is_no_key_is_named() {
        assert_eq!(RecordKey::decode(b""), Err(KeyError::Empty));
        assert_eq!(RecordKey::decode(b"\x7f"), Err(KeyError::UnknownSpace(0x7f)));
        assert_eq!(RecordKey::decode(b"\x20\x01"), Err(KeyError::Malformed(Space::Session)));
        let owner = RecordKey::decode(b"\x24\x01");
        assert_eq!(owner, Err(KeyError::Malformed(Space::SessionOwner)));
        assert_eq!(RecordKey::decode(b"\x01\x01"), Err(KeyError::Malformed(Space::Meta)));
        assert_eq!(RecordKey::decode(b"\x10\xff"), Err(KeyError::Malformed(Space::Counter)));
        assert_eq!(RecordKey::decode(b"\x52"), Err(KeyError::Malformed(Space::Quota)));
        assert_eq!(RecordKey::decode(b"\x52\x02a"), Err(KeyError::Malformed(Space::Quota)));
    }

    proptest! {
        #[test]
        fn round_trips(name in ".{0,40}", first: u64, second: u64) {
            for key in [
                RecordKey::Counter(&name),
                RecordKey::Key(&name),
                RecordKey::Session(first),
                RecordKey::SessionGarbage(first),
                RecordKey::SessionOwner(Owner::from_octets(
                    (u128::from(first) << 64 | u128::from(second)).to_be_bytes(),
                )),
                RecordKey::SessionAnswer { session_id: first, sequence: second },
                RecordKey::SessionExpiry { expires_at_ms: first, session_id: second },
                RecordKey::Idempotency(&name),
                RecordKey::IdempotencyExpiry { expires_at_ms: first, key: &name },
                RecordKey::User(first),
                RecordKey::UserId(&name),
                RecordKey::Role(&name),
                RecordKey::Token(first),
                RecordKey::RoleLimit(&name),
                RecordKey::NodeId(first),
                RecordKey::Staged(name.as_bytes()),
                RecordKey::Quota { scope: Scope::Counters, prefix: &name },
                RecordKey::Quota { scope: Scope::Keys, prefix: &name },
            ] {
                let bytes = key.encode();
                prop_assert_eq!(RecordKey::decode(&bytes), Ok(key));
            }
        }

        #[test]
        fn byte_order_is_the_order_of_what_is_meant(
            a: (u64, u64), b: (u64, u64), x in ".{0,8}", y in ".{0,8}",
        ) {
            let answer = |(session_id, sequence)| RecordKey::SessionAnswer { session_id, sequence };
            prop_assert_eq!(answer(a).encode().cmp(&answer(b).encode()), a.cmp(&b));
            let expiry = |at, key| RecordKey::IdempotencyExpiry { expires_at_ms: at, key }.encode();
            prop_assert_eq!(expiry(a.0, &x).cmp(&expiry(b.0, &y)), (a.0, &x).cmp(&(b.0, &y)));
            prop_assert_eq!(
                RecordKey::Counter(&x).encode().cmp(&RecordKey::Counter(&y).encode()),
                x.cmp(&y)
            );
        }

        #[test]
        fn a_prefix_range_holds_what_begins_with_it(prefix in ".{0,4}", name in ".{0,8}") {
            let (start, end) = Space::Key.prefix_range(&prefix);
            let key = RecordKey::Key(&name).encode();
            let inside = start.as_slice() <= key.as_ref() && key.as_ref() < end.as_slice();
            prop_assert_eq!(inside, name.starts_with(&prefix));
        }
    }
}
