//! Session tokens: which state a reader has seen.

use std::{
    fmt,
    str::FromStr,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use tally_proto::v1::ResponseHeader;

/// An opaque token for a state of the store. A read at [`ReadLevel::Session`] sees at least that
/// state, on any node. It can be handed to another process as text.
///
/// [`ReadLevel::Session`]: crate::ReadLevel::Session
///
/// ```
/// use tally_client::SessionToken;
///
/// let token: SessionToken = "0aff".parse()?;
/// assert_eq!(token.to_string(), "0aff");
/// # Ok::<(), tally_client::InvalidToken>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionToken(pub(crate) Bytes);

/// A text that is no session token.
///
/// ```
/// assert!("not hexadecimal".parse::<tally_client::SessionToken>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a session token is an even number of hexadecimal digits")]
pub struct InvalidToken;

impl fmt::Display for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for SessionToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
        let digits = digits.filter(|digits| !digits.is_empty() && digits.len().is_multiple_of(2));
        let pairs = digits.ok_or(InvalidToken)?;
        Ok(Self(pairs.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()))
    }
}

impl serde::Serialize for SessionToken {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Keeps the token of the newest state that any answer has shown.
#[derive(Debug, Default)]
pub(crate) struct TokenKeeper(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    cluster_id: String,
    applied_index: u64,
    token: Bytes,
}

impl TokenKeeper {
    pub(crate) fn saw(&self, header: &ResponseHeader) {
        if header.session_token.is_empty() {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = !kept.token.is_empty() && kept.cluster_id == header.cluster_id;
        if !known {
            kept.cluster_id.clone_from(&header.cluster_id);
        }
        if !known || kept.applied_index < header.applied_index {
            kept.applied_index = header.applied_index;
            kept.token = header.session_token.clone();
        }
    }

    /// The cluster was restored, or is another one: what was seen before can't be waited for.
    pub(crate) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Kept::default();
    }

    pub(crate) fn newest(&self) -> Option<SessionToken> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (!kept.token.is_empty()).then(|| SessionToken(kept.token.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(cluster: &str, applied_index: u64) -> ResponseHeader {
        ResponseHeader {
            cluster_id: cluster.into(),
            applied_index,
            session_token: Bytes::from(format!("{cluster}{applied_index}")),
            ..Default::default()
        }
    }

    #[test]
    fn keeps_the_highest_of_its_cluster() {
        let keeper = TokenKeeper::default();
        assert_eq!(keeper.newest(), None);
        for (cluster, index, newest) in
            [("a", 5, "a5"), ("a", 3, "a5"), ("a", 9, "a9"), ("b", 2, "b2"), ("b", 1, "b2")]
        {
            keeper.saw(&header(cluster, index));
            assert_eq!(keeper.newest().unwrap().0, newest.as_bytes());
        }
        keeper.forget();
        assert_eq!(keeper.newest(), None);
    }

    #[test]
    fn text_form_round_trips() {
        let token = SessionToken(Bytes::from_static(&[0, 255, 16]));
        assert_eq!(token.to_string().parse(), Ok(token));
        assert_eq!("".parse::<SessionToken>(), Err(InvalidToken));
        assert_eq!("abc".parse::<SessionToken>(), Err(InvalidToken));
    }
}
