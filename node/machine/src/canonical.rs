//! The pieces of the canonical encoding that "the same request" is judged by; [`super::fingerprint`] says
//! how they are put together, and why they are frozen.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::item::Bounds;

/// Digest of a request without its session, key, deadline, request id and node.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..4] {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// Small pieces are gathered before they are hashed: most actions fit into this as a whole.
const BUFFER_BYTES: usize = 256;

/// Takes the pieces of a canonical encoding.
pub(crate) struct Canonical {
    hash: Sha256,
    buffer: [u8; BUFFER_BYTES],
    filled: usize,
}

impl Canonical {
    pub(super) fn new() -> Canonical {
        Canonical { hash: Sha256::new(), buffer: [0; BUFFER_BYTES], filled: 0 }
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        if bytes.len() > BUFFER_BYTES - self.filled {
            self.hash.update(&self.buffer[..self.filled]);
            self.filled = 0;
        }
        match self.buffer[self.filled..].get_mut(..bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.filled += bytes.len();
            }
            None => self.hash.update(bytes),
        }
    }

    pub(super) fn finish(mut self) -> [u8; 32] {
        self.hash.update(&self.buffer[..self.filled]);
        self.hash.finalize().into()
    }

    pub(super) fn tag(&mut self, tag: u8) {
        self.put(&[tag]);
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.tag(u8::from(value));
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.put(&value.to_be_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.u64(bytes.len() as u64);
        self.put(bytes);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(super) fn bounds(&mut self, bounds: &Bounds) {
        for bound in [bounds.floor, bounds.ceiling] {
            self.bool(bound.is_some());
            if let Some(bound) = bound {
                self.i64(bound);
            }
        }
    }
}
