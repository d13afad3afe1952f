//! Calls before they are made: each is a builder that is sent when it is awaited.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use crate::{client::Client, consistency::ReadLevel, error::Result, plan::Plan, shared::Shared};

/// A call on its way. Nothing is sent before it is first polled.
///
/// # Dropping it
/// Dropping this future (an `abort`, a `select`, a timeout around it) ends the waiting, and no more is sent. It
/// takes nothing back:
/// - A **write** that was dropped before it was polled, or while it waited in the queue, does not happen. One
///   that was sent may have happened, or **may still happen**, exactly once or not at all, and nobody is told
///   which: it is [`Outcome::Unknown`](crate::Outcome::Unknown), without an error to say so.
/// - Its number in the session is given up: no later write waits for it, it takes no room in the window, and
///   the next write tells the cluster to forget its answer. Once a node has heard that, a write that it still
///   has on its way is not executed any more.
/// - To find out, name the write with an
///   [`idempotency_key`](Write::idempotency_key) and send the same again under the same key: it is answered as
///   the first time, and counted once.
/// - A **read** or a page of a stream that is dropped has changed nothing.
///
/// A [`deadline`](Write::deadline) on the call instead ends with an error that says what is known.
///
/// ```no_run
/// # fn example(client: tally_client::Client) {
/// use std::future::IntoFuture;
///
/// let sent: tally_client::call::Sending<_> = client.counter("hits").add(1).into_future();
/// # }
/// ```
pub type Sending<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// A write that is sent when it is awaited, and may happen though its future is dropped before its answer
/// ([`Sending`]). It has methods of its own for each kind of request,
/// e.g. [`floor`](crate::counter::Add::floor) of an add.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// use std::time::Duration;
///
/// let write = client.counter("stock").add(-1).floor(0);
/// let change = write.idempotency_key("order-4711").deadline(Duration::from_secs(2)).await?;
/// # Ok(()) }
/// ```
#[must_use = "a write is sent when it is awaited"]
#[derive(Clone)]
pub struct Write<R> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) request: R,
    pub(crate) plan: Plan,
}

/// A read that is sent when it is awaited.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// use tally_client::ReadLevel;
///
/// let read = client.counter("hits").get();
/// let hits = read.level(ReadLevel::Local).await?;
/// # Ok(()) }
/// ```
#[must_use = "a read is sent when it is awaited"]
#[derive(Clone)]
pub struct Read<R> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) request: R,
    pub(crate) plan: Plan,
}

impl<R: std::fmt::Debug> std::fmt::Debug for Write<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Write").field(&self.request).finish()
    }
}

impl<R: std::fmt::Debug> std::fmt::Debug for Read<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Read").field(&self.request).finish()
    }
}

impl<R> Write<R> {
    pub(crate) fn new(client: &Client, request: R) -> Self {
        Self { shared: client.shared.clone(), request, plan: Plan::default() }
    }

    /// A name that the application chose for this write, e.g. an order number, of up to 128 bytes.
    /// The same key with the same request is applied once, also when another process sends it
    /// again; with another request it is refused. An empty one is refused too, as it would protect nothing. If
    /// this call fails before the cluster has decided anything, its outcome says nothing of earlier calls
    /// under the key
    /// ([`Error::speaks_of_this_call_only`](crate::Error::speaks_of_this_call_only)).
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// client.counter("stock").add(-1).idempotency_key("order-4711").await?;
    /// # Ok(()) }
    /// ```
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.plan.key = Some(key.into());
        self
    }

    /// How long the cluster remembers the key: at least a minute, at most and by default the
    /// cluster's own window (24 h unless configured).
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// use std::time::Duration;
    ///
    /// let write = client.counter("stock").add(-1).idempotency_key("order-4711");
    /// write.idempotency_window(Duration::from_secs(3600)).await?;
    /// # Ok(()) }
    /// ```
    pub fn idempotency_window(mut self, window: Duration) -> Self {
        self.plan.key_window = window;
        self
    }

    /// How long it may take in all, its retries included.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// use std::time::Duration;
    ///
    /// client.counter("hits").add(1).deadline(Duration::from_millis(300)).await?;
    /// # Ok(()) }
    /// ```
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.plan.deadline = Some(deadline);
        self
    }

    /// How often it may be sent in all, at least once: as often as the deadline allows by default. (A
    /// write that opens the session first waits for that as long as ever.) With 1 it fails at
    /// the first attempt that fails, e.g. for a caller that would rather be refused at once than wait
    /// while the cluster is overloaded. The error's outcome is as true as ever.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// client.counter("hits").add(1).max_attempts(1).await?;
    /// # Ok(()) }
    /// ```
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.plan.max_attempts = Some(attempts);
        self
    }
}

impl<R> Read<R> {
    pub(crate) fn new(client: &Client, request: R) -> Self {
        Self { shared: client.shared.clone(), request, plan: Plan::default() }
    }

    /// The promise asked for; linearizable by default.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let hits = client.counter("hits").get().level(tally_client::ReadLevel::Local).await?;
    /// # Ok(()) }
    /// ```
    pub fn level(mut self, level: ReadLevel) -> Self {
        self.plan.level = level;
        self
    }

    /// How long it may take in all, its retries included.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// use std::time::Duration;
    ///
    /// let hits = client.counter("hits").get().deadline(Duration::from_millis(300)).await?;
    /// # Ok(()) }
    /// ```
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.plan.deadline = Some(deadline);
        self
    }

    /// How often it may be sent in all: as often as the deadline allows by default. With 1 it fails at
    /// the first attempt that fails, e.g. for a caller that would rather be refused at once than wait
    /// while the cluster is overloaded.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let hits = client.counter("hits").get().max_attempts(1).await?;
    /// # Ok(()) }
    /// ```
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.plan.max_attempts = Some(attempts);
        self
    }
}

/// Says what awaiting a call of this request gives.
macro_rules! answers {
    ($($wrapper:ident<$request:ty> -> $answer:ty: $map:expr;)*) => {
        $(impl std::future::IntoFuture for crate::call::$wrapper<$request> {
            type Output = crate::Result<$answer>;
            type IntoFuture = crate::call::Sending<$answer>;

            fn into_future(self) -> Self::IntoFuture {
                let is_write = stringify!($wrapper) == "Write";
                let size = crate::drive::check_size(&self.request, is_write);
                let request = crate::wire::Rpc::request(self.request);
                let mut call = crate::drive::Call::new(self.shared, request, self.plan);
                Box::pin(async move {
                    size?;
                    Ok($map(call.answer_to::<$request>().await?))
                })
            }
        })*
    };
}
pub(crate) use answers;
