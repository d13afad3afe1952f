//! Session tokens: which state a reader has seen.

use std::{
    fmt,
    str::FromStr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidToken;

impl fmt::Display for InvalidToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a session token is an even number of hexadecimal digits")
    }
}

impl std::error::Error for InvalidToken {}

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

/// Keeps the token of the newest state that any answer has shown, and whose it is.
///
/// # What a session read may rely on
/// Claim: what [`newest`](Self::newest) gives covers every state that this client was shown and every
/// write that was acknowledged to it before, or is nothing.
///
/// 1. The token only rises: all of it is of one cluster, whose nodes apply one log, so that the higher
///    applied index is the newer state. A header of another cluster never replaces it.
/// 2. An answer without a token (from a node that does not know its cluster yet, in releases that sent
///    such answers) shows a state that nothing here covers. It is counted, and from then on there is no
///    token: a session read is linearizable instead.
/// 3. A linearizable read that began after that answer covers it, so its token does as well.
#[derive(Debug, Default)]
pub(crate) struct TokenKeeper {
    kept: Mutex<Kept>,
    /// Answers so far that showed a state without its token.
    untold: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    /// Empty until a node has named it.
    cluster_id: String,
    applied_index: u64,
    token: Bytes,
    /// So many of the untold states are covered by the token.
    covered: u64,
    /// Headers of the cluster so far: whether it has been heard of since.
    heard: u64,
}

impl TokenKeeper {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a header. False if it is one of another cluster: then nothing is.
    pub(crate) fn saw(&self, header: &ResponseHeader) -> bool {
        if header.cluster_id.is_empty() {
            return true;
        }
        let mut kept = self.lock();
        if kept.cluster_id.is_empty() {
            kept.cluster_id.clone_from(&header.cluster_id);
        } else if kept.cluster_id != header.cluster_id {
            return false;
        }
        kept.heard += 1;
        let is_newer = kept.token.is_empty() || kept.applied_index < header.applied_index;
        if is_newer && !header.session_token.is_empty() {
            kept.applied_index = header.applied_index;
            kept.token = header.session_token.clone();
        }
        true
    }

    /// Nothing speaks against a node's being of this client's cluster.
    pub(crate) fn is_cluster(&self, id: &str) -> bool {
        let kept = self.lock();
        id.is_empty() || kept.cluster_id.is_empty() || kept.cluster_id == id
    }

    /// The cluster that this client talks to, once a node has named it.
    pub(crate) fn cluster_id(&self) -> String {
        self.lock().cluster_id.clone()
    }

    /// An answer showed a state, and no token came with it.
    pub(crate) fn saw_untold(&self) {
        self.untold.fetch_add(1, Ordering::SeqCst);
    }

    /// How many such answers there were: what a linearizable read that begins now will cover.
    pub(crate) fn untold(&self) -> u64 {
        self.untold.load(Ordering::SeqCst)
    }

    /// A linearizable read that began when there were so many has brought a token.
    pub(crate) fn covered(&self, untold: u64) {
        if untold > 0 {
            let mut kept = self.lock();
            kept.covered = kept.covered.max(untold);
        }
    }

    /// Headers of the cluster so far.
    pub(crate) fn heard(&self) -> u64 {
        self.lock().heard
    }

    /// The cluster was restored, or is another one: what was seen before can't be waited for. Not if
    /// somebody has heard of the cluster since there were so many headers: then it is there.
    pub(crate) fn forget(&self, heard: u64) -> bool {
        let mut kept = self.lock();
        if kept.heard != heard {
            return false;
        }
        *kept = Kept { covered: self.untold(), heard: heard + 1, ..Kept::default() };
        true
    }

    /// The newest token, if it covers all that was shown.
    pub(crate) fn newest(&self) -> Option<SessionToken> {
        let kept = self.lock();
        let covers_all = kept.covered >= self.untold();
        (covers_all && !kept.token.is_empty()).then(|| SessionToken(kept.token.clone()))
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

    fn newest(keeper: &TokenKeeper) -> Option<Bytes> {
        keeper.newest().map(|token| token.0)
    }

    #[test]
    fn keeps_the_highest_of_its_cluster_and_none_of_another() {
        let keeper = TokenKeeper::default();
        assert_eq!(keeper.newest(), None);
        for (cluster, index, is_ours, kept) in [
            ("a", 5, true, "a5"),
            ("a", 3, true, "a5"),
            ("b", 7, false, "a5"),
            ("a", 9, true, "a9"),
            ("b", 20, false, "a9"),
        ] {
            assert_eq!(keeper.saw(&header(cluster, index)), is_ours, "{cluster}{index}");
            assert_eq!(newest(&keeper).unwrap(), kept.as_bytes());
        }
        assert!(keeper.forget(keeper.heard()));
        assert_eq!((keeper.newest(), keeper.cluster_id()), (None, String::new()));
        assert!(keeper.saw(&header("b", 2)));
        assert_eq!(newest(&keeper).unwrap(), b"b2".as_slice());
    }

    #[test]
    fn a_cluster_that_was_heard_of_since_is_not_forgotten() {
        let keeper = TokenKeeper::default();
        keeper.saw(&header("a", 5));
        let heard = keeper.heard();
        keeper.saw(&header("a", 5));
        assert!(!keeper.forget(heard));
        assert_eq!(newest(&keeper).unwrap(), b"a5".as_slice());
    }

    #[test]
    fn what_came_without_a_token_is_covered_by_a_linearizable_read_that_began_later() {
        let keeper = TokenKeeper::default();
        keeper.saw(&header("a", 5));
        let before = keeper.untold();
        keeper.saw_untold();
        assert_eq!(keeper.newest(), None);
        // One that began before does not cover it, nor does any other answer.
        keeper.saw(&header("a", 6));
        keeper.covered(before);
        assert_eq!(keeper.newest(), None);
        let after = keeper.untold();
        keeper.saw(&header("a", 8));
        keeper.covered(after);
        assert_eq!(newest(&keeper).unwrap(), b"a8".as_slice());
    }

    #[test]
    fn text_form_round_trips() {
        let token = SessionToken(Bytes::from_static(&[0, 255, 16]));
        assert_eq!(token.to_string().parse(), Ok(token));
        assert_eq!("".parse::<SessionToken>(), Err(InvalidToken));
        assert_eq!("abc".parse::<SessionToken>(), Err(InvalidToken));
    }
}
