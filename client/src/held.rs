//! Sessions of all clients, for an operator: who holds them, and ending some.

use std::{future::IntoFuture as _, time::Duration};

use serde::Serialize;
use tally_proto::v1;

use crate::{
    answer::{Header, Page},
    call::{Read, Sending, answers},
    client::Client,
    error::Result,
    paging::{Items, Pages},
    plan::Plan,
    words::as_millis,
};

/// A list of sessions that is sent when it is awaited.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let list: tally_client::ListSessions = client.list_sessions();
/// println!("{} are open", list.await?.sessions_open);
/// # Ok(()) }
/// ```
pub type ListSessions = Read<v1::SessionsListRequest>;

/// One page of open sessions, the oldest first. It is consistent in itself; two pages are two reads.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let mut page = client.list_sessions().await?;
/// while let Some(next) = page.next_page_token.take() {
///     page = client.list_sessions().page_token(next).await?;
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SessionPage {
    /// The sessions, ascending by id. With an owner asked for, a page may be empty though more follows.
    pub sessions: Vec<SessionInfo>,
    /// Token of the next page, unless this is the last.
    pub next_page_token: Option<String>,
    /// Sessions of all owners, those that have ended and are not removed yet included.
    pub sessions_open: u64,
    /// At most this many.
    pub sessions_max: u64,
    /// One address may hold this much, in percent, of the places that no other holds, if it opens at the
    /// node that answered.
    pub share_percent: u32,
    /// The owners that hold the most, as many as were asked for, the most first.
    pub owners: Vec<SessionOwner>,
    /// What the answer is worth.
    pub header: Header,
}

/// One open session.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// for session in client.list_sessions().await?.sessions {
///     println!("{} of {}", session.session_id, session.owner);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct SessionInfo {
    /// Its id.
    pub session_id: u64,
    /// Who opened it: the IP address that the node saw which took the call. Empty if not known.
    pub owner: String,
    /// Idle time, in log time, after which it ends. In JSON `idle_timeout_ms`.
    #[serde(rename = "idle_timeout_ms", serialize_with = "as_millis")]
    pub idle_timeout: Duration,
    /// It was not used for this long at least, in log time; longer by a 64th of its idle time at most. In
    /// JSON `idle_for_ms`.
    #[serde(rename = "idle_for_ms", serialize_with = "as_millis")]
    pub idle_for: Duration,
    /// It ends in so much log time, unless it is used before. In JSON `expires_in_ms`.
    #[serde(rename = "expires_in_ms", serialize_with = "as_millis")]
    pub expires_in: Duration,
    /// Answers that are remembered under it.
    pub answers: u64,
    /// Their bytes.
    pub answer_bytes: u64,
    /// The lowest number whose caller has no answer yet, as far as its client has said.
    pub lowest_unanswered: u64,
    /// Wall clock of the leader when it was opened, in ms since 1970.
    pub opened_wall_time_ms: u64,
}

/// An owner of sessions.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// for owner in client.list_sessions().owners(10).await?.owners {
///     println!("{} holds {}", owner.owner, owner.sessions);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct SessionOwner {
    /// Its IP address.
    pub owner: String,
    /// Sessions that it holds, those that have ended and are not removed yet included.
    pub sessions: u64,
}

impl Client {
    /// Shows the sessions that are open, of all clients. Linearizable by default.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let page = client.list_sessions().owner("10.0.0.7").page_size(1000).await?;
    /// # Ok(()) }
    /// ```
    pub fn list_sessions(&self) -> ListSessions {
        Read::new(self, v1::SessionsListRequest::default())
    }

    /// Ends a session, whoever opened it; whether it was open. Its client is told with its next write, and
    /// opens another; what became of its writes that had no answer yet can then not be found out, unless
    /// they have keys. It is safe to do twice.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let was_open = client.end_session(4711).await?;
    /// # Ok(()) }
    /// ```
    pub async fn end_session(&self, session_id: u64) -> Result<bool> {
        let request = v1::SessionsCloseRequest { session_id };
        Ok(self.shared.drive(request, Plan::default()).await?.closed)
    }
}

impl Read<v1::SessionsListRequest> {
    /// Only those of this owner: an IP address, without a port.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let page = client.list_sessions().owner("10.0.0.7").await?;
    /// # Ok(()) }
    /// ```
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.request.owner = owner.into();
        self
    }

    /// Shows so many owners besides, those that hold the most: 0 by default, at most 100.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let owners = client.list_sessions().owners(10).await?.owners;
    /// # Ok(()) }
    /// ```
    pub fn owners(mut self, owners: u16) -> Self {
        self.request.owners_max = u32::from(owners);
        self
    }

    /// At most this many on a page: 100 by default, at most 1000.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let page = client.list_sessions().page_size(10).await?;
    /// # Ok(()) }
    /// ```
    pub fn page_size(mut self, size: u16) -> Self {
        self.request.page_size = i32::from(size);
        self
    }

    /// The next page of the same list.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let first = client.list_sessions().await?;
    /// if let Some(token) = first.next_page_token {
    ///     let second = client.list_sessions().page_token(token).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub fn page_token(mut self, token: impl Into<String>) -> Self {
        self.request.page_token = token.into();
        self
    }

    /// All pages, as a stream, from the first or from the page token on: [`Pages`] says what it promises.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let mut pages = client.list_sessions().pages();
    /// while let Some(page) = pages.next().await {
    ///     println!("{}", page?.sessions.len());
    /// }
    /// # Ok(()) }
    /// ```
    pub fn pages(self) -> Pages<SessionPage> {
        let first = self.request.page_token.clone();
        let ask = move |token: &str| self.clone().page_token(token).into_future();
        Pages::new(ask, &first, |page| page.next_page_token.clone())
    }

    /// All sessions of the list, as a stream, from the first page or from the page token on: [`Items`] says what it
    /// promises. A large [`page_size`](Self::page_size) takes fewer calls.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// use futures_util::TryStreamExt as _;
    ///
    /// let all: Vec<_> = client.list_sessions().page_size(1000).items().try_collect().await?;
    /// # Ok(()) }
    /// ```
    pub fn items(self) -> Items<SessionInfo> {
        let first = self.request.page_token.clone();
        let ask = move |token: &str| -> Sending<Page<SessionInfo>> {
            let answered = self.clone().page_token(token).into_future();
            Box::pin(async move {
                let SessionPage { sessions: items, next_page_token, header, .. } = answered.await?;
                Ok(Page { items, next_page_token, header })
            })
        };
        Items::new(Pages::new(ask, &first, |page| page.next_page_token.clone()))
    }
}

impl From<v1::SessionInfo> for SessionInfo {
    fn from(session: v1::SessionInfo) -> Self {
        Self {
            session_id: session.session_id,
            owner: session.owner,
            idle_timeout: Duration::from_millis(session.idle_timeout_ms),
            idle_for: Duration::from_millis(session.idle_for_ms),
            expires_in: Duration::from_millis(session.expires_in_ms),
            answers: session.answers,
            answer_bytes: session.answer_bytes,
            lowest_unanswered: session.lowest_unanswered,
            opened_wall_time_ms: session.opened_wall_time_ms,
        }
    }
}

impl From<v1::SessionOwner> for SessionOwner {
    fn from(owner: v1::SessionOwner) -> Self {
        Self { owner: owner.owner, sessions: owner.sessions }
    }
}

answers! {
    Read<v1::SessionsListRequest> -> SessionPage:
        |answer: v1::SessionsListResponse| SessionPage {
            sessions: answer.sessions.into_iter().map(SessionInfo::from).collect(),
            next_page_token: Some(answer.next_page_token).filter(|token| !token.is_empty()),
            sessions_open: answer.sessions_open,
            sessions_max: answer.sessions_max,
            share_percent: answer.share_percent,
            owners: answer.owners.into_iter().map(SessionOwner::from).collect(),
            header: Header::of(answer.header),
        };
}
