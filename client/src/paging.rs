//! Lists and scans as streams: of their pages, or of what is on them.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
    vec,
};

use futures_core::{FusedStream, Stream};

use crate::{
    answer::{Header, Page},
    call::Sending,
    error::Result,
};

/// Asks for the page at a token; the first one's is empty.
type Ask<P> = Box<dyn Fn(&str) -> Sending<P> + Send>;

/// All pages of a list or scan, one after the other. Made by `pages()` of the call.
///
/// It is a [`Stream`] of the crate `futures-core`, so that `StreamExt` of `futures` and `tokio-stream` goes
/// with it; [`next`](Self::next) needs neither.
///
/// # What it promises
/// - Each page is a call of its own, with the deadline, the retries and the read level of the call that this
///   was made from. It is asked for when it is polled for: nothing is asked ahead of its reader.
/// - Each page is consistent in itself. Two pages are two reads: what is written between them may be on the
///   later one and missing on the earlier one. What exists all the while is seen exactly once, and names
///   rise from page to page. Where all headers have one [`revision`](Header::revision), nothing was written
///   to the store in between, and all pages together are of one state.
/// - With [`ReadLevel::Local`](crate::ReadLevel::Local) and
///   [`ReadLevel::Bounded`](crate::ReadLevel::Bounded) a later page may show an older state than an earlier
///   one, when another node answers. At the other levels no page is older than the one before.
/// - The first error is the last item. [`next_page_token`](Self::next_page_token) is then the token of the
///   page that failed, to go on from there.
/// - Dropping it, at any moment, ends it; a page that was under way is not waited for.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let mut pages = client.counters().list().prefix("page/").page_size(1000).pages();
/// while let Some(page) = pages.next().await {
///     let page = page?;
///     println!("{} counters at revision {}", page.items.len(), page.header.revision);
/// }
/// # Ok(()) }
/// ```
#[must_use = "a page is asked for when the stream is polled"]
pub struct Pages<P> {
    ask: Ask<P>,
    token_of: fn(&P) -> Option<String>,
    /// Token of the page that comes next, or is under way.
    next: Option<String>,
    asking: Option<Sending<P>>,
    ended: bool,
}

impl<P> Pages<P> {
    pub(crate) fn new(
        ask: impl Fn(&str) -> Sending<P> + Send + 'static,
        first: &str,
        token_of: fn(&P) -> Option<String>,
    ) -> Self {
        let next = Some(first.to_owned()).filter(|token| !token.is_empty());
        Self { ask: Box::new(ask), token_of, next, asking: None, ended: false }
    }

    /// The next page; nothing after the last. It is [`Stream`]'s, without a crate for it. A future of it that
    /// is dropped loses nothing: the next one goes on.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let mut pages = client.counters().list().pages();
    /// while let Some(page) = pages.next().await {
    ///     println!("{}", page?.items.len());
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn next(&mut self) -> Option<Result<P>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Token of the page that comes next; after an error, of the one that failed. Nothing before the first
    /// page and after the last.
    ///
    /// ```no_run
    /// # fn example(client: tally_client::Client) {
    /// let pages = client.keys().scan().pages();
    /// assert_eq!(pages.next_page_token(), None);
    /// # }
    /// ```
    pub fn next_page_token(&self) -> Option<&str> {
        self.next.as_deref()
    }
}

impl<P> fmt::Debug for Pages<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Pages");
        debug.field("next_page_token", &self.next).field("ended", &self.ended);
        debug.finish_non_exhaustive()
    }
}

impl<P> Stream for Pages<P> {
    type Item = Result<P>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<P>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        let asking =
            this.asking.get_or_insert_with(|| (this.ask)(this.next.as_deref().unwrap_or_default()));
        let answered = ready!(asking.as_mut().poll(context));
        this.asking = None;
        match &answered {
            Ok(page) => {
                this.next = (this.token_of)(page);
                this.ended = this.next.is_none();
            }
            Err(_) => this.ended = true,
        }
        Poll::Ready(Some(answered))
    }
}

impl<P> FusedStream for Pages<P> {
    fn is_terminated(&self) -> bool {
        self.ended
    }
}

/// All that a list or scan finds, page after page. Made by `items()` of the call.
///
/// It promises what [`Pages`] does. No page is asked for before everything on the one before was taken.
/// [`header`](Self::header) is that of the page which the last item was on.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let mut users = client.keys().scan().prefix("user/").page_size(1000).items();
/// while let Some(user) = users.next().await {
///     println!("{}", user?.key);
/// }
/// # Ok(()) }
/// ```
#[must_use = "a page is asked for when the stream is polled"]
pub struct Items<T> {
    pages: Pages<Page<T>>,
    page: vec::IntoIter<T>,
    header: Option<Header>,
}

impl<T> Items<T> {
    pub(crate) fn new(pages: Pages<Page<T>>) -> Self {
        Self { pages, page: Vec::new().into_iter(), header: None }
    }

    /// The next one; nothing after the last. It is [`Stream`]'s, without a crate for it. A future of it that is
    /// dropped loses nothing: the next one goes on.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let mut counters = client.counters().list().items();
    /// while let Some(counter) = counters.next().await {
    ///     println!("{}", counter?.name);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn next(&mut self) -> Option<Result<T>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Header of the page which the last item was on: what that answer is worth. Nothing before the first
    /// page.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let mut counters = client.counters().list().items();
    /// while let Some(counter) = counters.next().await {
    ///     let counter = counter?;
    ///     let revision = counters.header().map(|header| header.revision);
    ///     println!("{} = {} at {revision:?}", counter.name, counter.value);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// Token of the page after the one that is being read; after an error, of the one that failed.
    ///
    /// ```no_run
    /// # fn example(client: tally_client::Client) {
    /// let counters = client.counters().list().items();
    /// assert_eq!(counters.next_page_token(), None);
    /// # }
    /// ```
    pub fn next_page_token(&self) -> Option<&str> {
        self.pages.next_page_token()
    }
}

impl<T> fmt::Debug for Items<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Items");
        debug.field("left_on_page", &self.page.len()).field("pages", &self.pages);
        debug.finish_non_exhaustive()
    }
}

impl<T> Unpin for Items<T> {}

impl<T> Stream for Items<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<T>>> {
        let this = &mut *self;
        loop {
            if let Some(item) = this.page.next() {
                return Poll::Ready(Some(Ok(item)));
            }
            // A page may be empty, and another one follow.
            match ready!(Pin::new(&mut this.pages).poll_next(context)) {
                Some(Ok(page)) => {
                    this.header = Some(page.header);
                    this.page = page.items.into_iter();
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl<T> FusedStream for Items<T> {
    fn is_terminated(&self) -> bool {
        self.page.as_slice().is_empty() && self.pages.is_terminated()
    }
}
