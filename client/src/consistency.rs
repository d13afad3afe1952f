//! The promise that a read asks for.

use std::time::Duration;

use tally_proto::v1::{self, ReadOptions};

use crate::token::{SessionToken, TokenKeeper};

/// The promise that a read asks for. The answer's [`Header`](crate::Header) says what it got.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// use std::time::Duration;
/// use tally_client::ReadLevel;
///
/// let exact = client.counter("hits").get().await?;
/// let cheap = client.counter("hits").get().level(ReadLevel::Local).await?;
/// let fresh = ReadLevel::bounded(Duration::from_millis(200));
/// let recent = client.counter("hits").get().level(fresh).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ReadLevel {
    /// Sees every write acknowledged before the read began, anywhere.
    #[default]
    Linearizable,
    /// Never older than this, from any node that can prove it.
    Bounded {
        /// The oldest state that may be read.
        max_staleness: Duration,
        /// Answer at [`ReadLevel::Local`] when no node can prove the bound.
        allow_fallback: bool,
    },
    /// Own writes are seen and reads never go back, on any node. Without a token: what this client
    /// has seen so far. If it has no token that covers all of that (nothing was seen yet, or a node
    /// acknowledged a write without saying of which state), the read is linearizable instead: it is never
    /// weaker than asked for.
    ///
    /// A node that is of another cluster, or does not reach the token's state in time, is no reason to
    /// fail: every other node is asked first. When all that answer are of another cluster, this client's
    /// is gone. The caller is told so once ([`TOKEN_OF_ANOTHER_CLUSTER`]); then the client begins anew.
    ///
    /// [`TOKEN_OF_ANOTHER_CLUSTER`]: crate::reason::TOKEN_OF_ANOTHER_CLUSTER
    Session(Option<SessionToken>),
    /// What the asked node has, at once, also without a quorum.
    Local,
}

impl ReadLevel {
    /// Never older than this; refused when that can't be proven.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tally_client::ReadLevel;
    ///
    /// let level = ReadLevel::bounded(Duration::from_millis(200));
    /// assert_ne!(level, ReadLevel::Local);
    /// ```
    pub fn bounded(max_staleness: Duration) -> Self {
        Self::Bounded { max_staleness, allow_fallback: false }
    }

    /// Own writes are seen and reads never go back.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// use tally_client::ReadLevel;
    ///
    /// client.counter("hits").add(1).await?;
    /// let seen = client.counter("hits").get().level(ReadLevel::session()).await?;
    /// # Ok(()) }
    /// ```
    pub fn session() -> Self {
        Self::Session(None)
    }

    pub(crate) fn options(&self, tokens: &TokenKeeper) -> Option<ReadOptions> {
        let mut options = ReadOptions::default();
        let level = match self {
            Self::Linearizable => return None,
            Self::Bounded { max_staleness, allow_fallback } => {
                let whole = u64::try_from(max_staleness.as_millis()).unwrap_or(u64::MAX);
                options.max_staleness_ms = whole;
                options.allow_fallback = *allow_fallback;
                v1::ReadLevel::Bounded
            }
            Self::Session(token) => match token.clone().or_else(|| tokens.newest()) {
                Some(token) => {
                    options.session_token = token.0;
                    v1::ReadLevel::Session
                }
                // Nothing was seen yet, or no token covers all that was: a linearizable read sees it in
                // any case, and brings a token that covers it.
                None => return None,
            },
            Self::Local => v1::ReadLevel::Local,
        };
        options.level = level as i32;
        Some(options)
    }
}
