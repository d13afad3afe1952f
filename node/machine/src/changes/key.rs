//! Keys of changes: an answer's as two numbers, any other as its bytes; and both as bytes, in the order
//! of which changes are seen.
//!
//! Leaves out: where changes lie in memory (`changes`).

use std::{fmt, ops::Deref};

use bytes::Bytes;

use super::CHUNK;
use crate::keys::Space;

/// Bytes of an answer's key: the space, the session and the number.
pub(super) const ANSWER_KEY_BYTES: usize = 1 + 2 * 8;

/// The key of a change.
#[derive(Clone, PartialEq, Eq)]
pub enum Key {
    /// Of an answer that is remembered under a session.
    Answer {
        /// The session.
        session_id: u64,
        /// Number of the write in it.
        sequence: u64,
    },
    /// Any other.
    Other(Bytes),
}

impl Key {
    /// Whether these bytes are the key of an answer.
    pub fn is_answer(bytes: &[u8]) -> bool {
        Place::of(bytes).is_some()
    }

    /// Its bytes.
    pub fn bytes(&self) -> KeyBytes<'_> {
        match self {
            Key::Answer { session_id, sequence } => Place::new(*session_id, *sequence).bytes(),
            Key::Other(bytes) => KeyBytes(Inner::Other(bytes)),
        }
    }
}

impl From<Bytes> for Key {
    fn from(bytes: Bytes) -> Key {
        match Place::of(&bytes) {
            Some(place) => place.key(),
            None => Key::Other(bytes),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().fmt(f)
    }
}

/// The bytes of a key in the map.
#[derive(Clone, Copy)]
pub struct KeyBytes<'a>(pub(super) Inner<'a>);

#[derive(Clone, Copy)]
pub(super) enum Inner<'a> {
    Answer([u8; ANSWER_KEY_BYTES]),
    Other(&'a Bytes),
}

impl KeyBytes<'_> {
    /// As bytes that live on.
    pub fn to_bytes(&self) -> Bytes {
        match &self.0 {
            Inner::Answer(bytes) => Bytes::copy_from_slice(bytes),
            Inner::Other(bytes) => Bytes::clone(bytes),
        }
    }
}

impl Deref for KeyBytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Inner::Answer(bytes) => bytes,
            Inner::Other(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for KeyBytes<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for KeyBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x?}", &self[..])
    }
}

/// Session and number of an answer, in the order of their keys.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(pub(super) u128);

impl Place {
    pub(super) fn new(session_id: u64, sequence: u64) -> Place {
        Place(u128::from(session_id) << 64 | u128::from(sequence))
    }

    /// The place whose key these bytes are, if they are an answer's.
    pub(super) fn of(key: &[u8]) -> Option<Place> {
        match key.split_first() {
            Some((&space, rest)) if space == Space::SessionAnswer as u8 => {
                Some(Place(u128::from_be_bytes(rest.try_into().ok()?)))
            }
            _ => None,
        }
    }

    /// Which chunk it is in, and where in that. No chunk has numbers of two sessions.
    pub(super) fn chunk(self) -> (u128, usize) {
        (self.0 / CHUNK as u128, (self.0 % CHUNK as u128) as usize)
    }

    pub(super) fn of_chunk(chunk: u128, at: usize) -> Place {
        Place(chunk * CHUNK as u128 + at as u128)
    }

    pub(super) fn key(self) -> Key {
        Key::Answer { session_id: (self.0 >> 64) as u64, sequence: self.0 as u64 }
    }

    pub(super) fn bytes(self) -> KeyBytes<'static> {
        let mut bytes = [0; ANSWER_KEY_BYTES];
        bytes[0] = Space::SessionAnswer as u8;
        bytes[1..].copy_from_slice(&self.0.to_be_bytes());
        KeyBytes(Inner::Answer(bytes))
    }

    /// The first place whose key is at or after `key`; `None` if there is none.
    pub(super) fn at_or_after(key: &[u8]) -> Option<Place> {
        let space = Space::SessionAnswer as u8;
        match key.split_first() {
            None => Some(Place(0)),
            Some((&first, _)) if first < space => Some(Place(0)),
            Some((&first, _)) if first > space => None,
            Some((_, rest)) => {
                let mut number = [0; ANSWER_KEY_BYTES - 1];
                let shared = rest.len().min(number.len());
                number[..shared].copy_from_slice(&rest[..shared]);
                let number = u128::from_be_bytes(number);
                // A longer key comes right after the one that it begins with.
                let after = u128::from(rest.len() > ANSWER_KEY_BYTES - 1);
                number.checked_add(after).map(Place)
            }
        }
    }
}
