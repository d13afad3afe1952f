//! The one form of all encoded bytes: the first is the version of the format, the rest is postcard.
//!
//! A reader knows every version up to its own and refuses a newer one by name instead of guessing.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

/// Version of all formats but those that have their own.
pub const FORMAT_VERSION: u8 = 1;

/// Bytes that can't be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// There are none.
    #[error("an encoded {what} is empty")]
    Empty {
        /// What it was to be.
        what: &'static str,
    },
    /// A version that this release does not know.
    #[error("an encoded {what} has format {found}, this release reads up to {known}")]
    Version {
        /// What it was to be.
        what: &'static str,
        /// The version found.
        found: u8,
        /// The newest that is known.
        known: u8,
    },
    /// The version is known, the bytes make no sense.
    #[error("an encoded {what} is corrupt: {reason}")]
    Corrupt {
        /// What it was to be.
        what: &'static str,
        /// Where decoding stopped.
        reason: postcard::Error,
    },
    /// Something follows a complete value.
    #[error("an encoded {what} is followed by {bytes} bytes too many")]
    Trailing {
        /// What it was to be.
        what: &'static str,
        /// How many.
        bytes: usize,
    },
}

/// Most values fit into this. A buffer that grows a byte at a time (a fingerprint is 32 of them)
/// costs more than the encoding.
const SMALL_BYTES: usize = 256;

pub(super) fn encode<T: Serialize>(value: &T) -> Bytes {
    encode_as(FORMAT_VERSION, value)
}

/// Encodes what has versions of its own.
pub(super) fn encode_as<T: Serialize>(version: u8, value: &T) -> Bytes {
    let value = (version, value);
    let mut small = [0; SMALL_BYTES];
    match postcard::to_slice(&value, &mut small) {
        Ok(bytes) => Bytes::copy_from_slice(bytes),
        Err(_) => postcard::to_stdvec(&value).expect("plain data in memory can be encoded").into(),
    }
}

pub(super) fn decode<T: DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, CodecError> {
    decode_rest(what, versioned(what, bytes)?)
}

/// Decodes what follows the version.
pub(super) fn decode_rest<T: DeserializeOwned>(
    what: &'static str,
    rest: &[u8],
) -> Result<T, CodecError> {
    let (value, rest) =
        postcard::take_from_bytes(rest).map_err(|reason| CodecError::Corrupt { what, reason })?;
    if !rest.is_empty() {
        return Err(CodecError::Trailing { what, bytes: rest.len() });
    }
    Ok(value)
}

/// What follows the version, if it is the one that most have.
pub(super) fn versioned<'a>(what: &'static str, bytes: &'a [u8]) -> Result<&'a [u8], CodecError> {
    Ok(version(what, bytes, FORMAT_VERSION)?.1)
}

/// The version and what follows it, if it is one up to the newest that is known.
pub(super) fn version<'a>(
    what: &'static str,
    bytes: &'a [u8],
    known: u8,
) -> Result<(u8, &'a [u8]), CodecError> {
    let (&found, rest) = bytes.split_first().ok_or(CodecError::Empty { what })?;
    if !(FORMAT_VERSION..=known).contains(&found) {
        return Err(CodecError::Version { what, found, known });
    }
    Ok((found, rest))
}
