//! One node and the connection to it.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::Either;
use tally_proto::{http2::LIBRARY, v1::CallStatus};
use tokio::time::{Instant, timeout_at};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::{
    cause::{root_cause, with_cause},
    connect::connect,
    exchange::{Answers, Exchange, Reply, local},
    wire::{self, Bearer, Request},
};

/// How calls travel.
///
/// ```
/// use tally_client::{Client, Transport};
///
/// let builder = Client::builder(["127.0.0.1:7401"]).transport(Transport::Unary);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// All calls share one multiplexed stream to each node. By far the cheapest.
    #[default]
    Stream,
    /// Each call is a unary call of its own, as other languages make it.
    Unary,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Connecting = Pin<Box<dyn Future<Output = Result<Channel, BoxError>> + Send>>;

/// Makes connections. Replaced by a simulation.
#[derive(Clone)]
pub(crate) struct Connector(Arc<dyn Fn(Endpoint) -> Connecting + Send + Sync>);

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl Connector {
    pub(crate) fn new<F, C, E>(connect: F) -> Self
    where
        F: Fn(Endpoint) -> C + Send + Sync + 'static,
        C: Future<Output = Result<Channel, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Self(Arc::new(move |endpoint| {
            let connecting = connect(endpoint);
            Box::pin(async move { connecting.await.map_err(Into::into) })
        }))
    }
}

impl Default for Connector {
    fn default() -> Self {
        Self::new(connect)
    }
}

/// An attempt that failed, while its call goes on ([`Builder::on_trouble`](crate::Builder::on_trouble)).
///
/// ```
/// let builder = tally_client::Client::builder(["127.0.0.1:7401"]);
/// let builder = builder.on_trouble(|trouble: &tally_client::Trouble<'_>| {
///     eprintln!("{}: {}", trouble.node, trouble.message);
/// });
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Trouble<'a> {
    /// Address of the node that was asked.
    pub node: &'a str,
    /// The reason for programs; empty if no node gave one.
    pub reason: &'a str,
    /// For people.
    pub message: &'a str,
    /// Nothing listens at that address.
    pub nobody_listens: bool,
}

type Tell = Arc<dyn Fn(&Trouble<'_>) + Send + Sync>;

/// There is no connection, so nothing was sent.
struct Unsent {
    status: CallStatus,
    nobody_listens: bool,
}

impl From<Unsent> for Reply {
    fn from(Unsent { status, nobody_listens }: Unsent) -> Self {
        if nobody_listens { Self::Refused(status) } else { Self::Broken { sent: false, status } }
    }
}

/// How to reach nodes.
#[derive(Clone, Default)]
pub(crate) struct Network {
    pub(crate) transport: Transport,
    pub(crate) connector: Connector,
    /// Who watches over each stream, by the node's address.
    pub(crate) watch: Option<Arc<dyn Fn(String, Answers) + Send + Sync>>,
    /// Who is told of attempts that fail.
    pub(crate) trouble: Option<Tell>,
    /// The token that each call shows.
    pub(crate) token: Option<Bearer>,
    /// Nodes are spoken to over TLS.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<crate::Tls>,
}

impl Network {
    pub(crate) fn is_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    /// How to connect to an address.
    pub(crate) fn endpoint(&self, address: &str) -> Result<Endpoint, BoxError> {
        let scheme = if self.is_tls() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(LIBRARY.keepalive_interval);
        #[cfg(feature = "tls")]
        let endpoint = match &self.tls {
            Some(tls) => endpoint.tls_config(tls.config()?)?,
            None => endpoint,
        };
        Ok(LIBRARY.apply(endpoint))
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("transport", &self.transport).finish_non_exhaustive()
    }
}

/// A connection is made within this time, or another node is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Node {
    /// `host:port`.
    pub(crate) address: String,
    link: Mutex<Option<Link>>,
    /// Only one task connects; the others wait for it.
    connecting: tokio::sync::Mutex<()>,
    /// Why there was no connection the last time that this was found out.
    why_none: Mutex<String>,
}

#[derive(Debug, Clone)]
enum Link {
    Stream(Arc<Exchange>),
    Unary(Channel, Option<Bearer>),
}

impl Node {
    pub(crate) fn new(address: String) -> Self {
        Self {
            address,
            link: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(()),
            why_none: Mutex::default(),
        }
    }

    /// Sends one call and waits for its answer, until then.
    pub(crate) fn call(
        &self,
        network: &Network,
        request: Request,
        until: Instant,
    ) -> impl Future<Output = Reply> + Send {
        match self.open_link() {
            Some(Link::Stream(exchange)) => Either::Left(exchange.call(request, until).reply()),
            // Boxed, since it is large: a call over an open stream does not carry it around.
            link => Either::Right(Box::pin(async move {
                let link = match link {
                    Some(link) => link,
                    None => match self.connect_until(network, until).await {
                        Ok(link) => link,
                        Err(unsent) => return unsent.into(),
                    },
                };
                match link {
                    Link::Stream(exchange) => exchange.call(request, until).reply().await,
                    Link::Unary(channel, token) => {
                        unary(channel, token.as_ref(), request, until).await
                    }
                }
            })),
        }
    }

    /// There is a connection.
    pub(crate) fn is_connected(&self) -> bool {
        self.open_link().is_some()
    }

    fn open_link(&self) -> Option<Link> {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        match &*link {
            Some(Link::Stream(exchange)) if exchange.is_closed() => None,
            link => link.clone(),
        }
    }

    async fn connect_until(&self, network: &Network, until: Instant) -> Result<Link, Unsent> {
        let connected = timeout_at(until, self.connect(network)).await;
        let mut why_none = self.why_none.lock().unwrap_or_else(PoisonError::into_inner);
        match connected {
            Ok(Ok(link)) => {
                why_none.clear();
                Ok(link)
            }
            Ok(Err(unsent)) => {
                why_none.clone_from(&unsent.status.message);
                Err(unsent)
            }
            // Whoever gives up in the middle of an attempt knows no more than the one before has said: a certificate
            // for another name is not a slow network.
            Err(_) => {
                let mut message = format!("{}: no connection before the deadline", self.address);
                if !why_none.is_empty() {
                    message = format!("{message}; the attempt before: {why_none}");
                }
                let status = local(Code::DeadlineExceeded, &message);
                Err(Unsent { status, nobody_listens: false })
            }
        }
    }

    async fn connect(&self, network: &Network) -> Result<Link, Unsent> {
        let _guard = self.connecting.lock().await;
        if let Some(link) = self.open_link() {
            return Ok(link);
        }
        let unavailable = |why: &dyn fmt::Display| Unsent {
            status: local(Code::Unavailable, &format!("{}: {why}", self.address)),
            nobody_listens: false,
        };
        let endpoint = network.endpoint(&self.address).map_err(|error| unavailable(&error))?;
        let connecting = (network.connector.0)(endpoint);
        let channel = timeout_at(Instant::now() + CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| unavailable(&"connecting took too long"))?
            .map_err(|error| {
                let cause = root_cause(&*error);
                let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
                let nobody_listens = kind == Some(io::ErrorKind::ConnectionRefused);
                Unsent { nobody_listens, ..unavailable(&cause) }
            })?;
        let link = match network.transport {
            Transport::Stream => {
                let exchange = Exchange::open(channel, network.token.as_ref());
                if let Some(watch) = &network.watch {
                    watch(self.address.clone(), exchange.answers());
                }
                Link::Stream(Arc::new(exchange))
            }
            Transport::Unary => Link::Unary(channel, network.token.clone()),
        };
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = Some(link.clone());
        Ok(link)
    }
}

async fn unary(
    channel: Channel,
    token: Option<&Bearer>,
    request: Request,
    until: Instant,
) -> Reply {
    let timeout = until.saturating_duration_since(Instant::now());
    match timeout_at(until, wire::unary(channel, token, request, timeout)).await {
        Ok(Ok(response)) => Reply::Answer(response),
        Ok(Err(status)) => {
            let status = with_cause(&status);
            if status.details.is_empty() {
                // Not a node's word. It may have been sent.
                return Reply::Broken { sent: true, status };
            }
            Reply::Answer(wire::Response::Error(status))
        }
        Err(_) => {
            let status = local(Code::DeadlineExceeded, "no answer before the deadline");
            Reply::Broken { sent: true, status }
        }
    }
}
