//! The client: what all handles share, and how it is made.

use std::{
    fmt,
    future::Future,
    sync::{Arc, Weak},
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tally_proto::v1;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::{
    cause::root_cause,
    error::{Error, Result},
    node::{Connector, Network, Transport, Trouble},
    plan::Plan,
    routing::{Router, Scheme, split_scheme},
    shared::{Patience, Sessions, Shared, Stamping},
    silence,
    token::{SessionToken, TokenKeeper},
    wire::Bearer,
};

/// A call may take this long in all, its retries included.
const DEADLINE: Duration = Duration::from_secs(10);

/// A client of one cluster. Clones share one session, one set of connections and one token; make
/// one client for a process and clone it for each task. Its connections, and the deadlines of calls
/// over them, live in the tokio runtime in which the first call was made.
///
/// ```no_run
/// # async fn example() -> tally_client::Result<()> {
/// use tally_client::Client;
///
/// let client = Client::connect(["127.0.0.1:7401", "127.0.0.1:7402", "127.0.0.1:7403"]).await?;
/// let change = client.counter("hits").add(1).await?;
/// println!("{}", change.value);
/// client.close().await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("router", &self.shared.router).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects to a cluster by the addresses of some of its nodes: `host:port`, or `host` for port 7401. With
    /// `http://` before it that is the same; `https://` is TLS, and takes the feature `tls`.
    ///
    /// It succeeds when one of them answers. Use [`Builder::build`] to connect at the first call.
    ///
    /// ```no_run
    /// # async fn example() -> tally_client::Result<()> {
    /// let client = tally_client::Client::connect(["127.0.0.1:7401", "127.0.0.1:7402"]).await?;
    /// # Ok(()) }
    /// ```
    pub async fn connect<I>(endpoints: I) -> Result<Self>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self::builder(endpoints).connect().await
    }

    /// A client with settings of its own.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tally_client::Client;
    ///
    /// let builder = Client::builder(["127.0.0.1:7401"]).deadline(Duration::from_secs(2));
    /// ```
    pub fn builder<I>(endpoints: I) -> Builder
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Builder {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            network: Network::default(),
            patience: Patience { deadline: DEADLINE, attempt_timeout: None, unheard_max: None },
            stamping: Stamping::Session { idle_timeout: Duration::ZERO },
            seed: None,
            token: None,
        }
    }

    /// The token of the newest state that this client has seen. Another process that reads at
    /// session level with it sees at least that state. Nothing if there is no token that covers all that
    /// was seen: before the first answer, or when a node acknowledged a write without a token. The next
    /// linearizable read brings one.
    ///
    /// ```no_run
    /// # fn example(client: tally_client::Client) {
    /// if let Some(token) = client.session_token() {
    ///     println!("{token}");
    /// }
    /// # }
    /// ```
    pub fn session_token(&self) -> Option<SessionToken> {
        self.shared.tokens.newest()
    }

    /// Ends the session, so that the cluster need not remember its answers until it is idle for
    /// too long. Writes that are still in flight may then fail with an unknown outcome. Dropping
    /// the last clone does the same in the background.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) {
    /// client.close().await;
    /// # }
    /// ```
    pub async fn close(&self) {
        self.shared.close_session().await;
    }
}

/// Settings of a [`Client`].
///
/// ```no_run
/// # async fn example() -> tally_client::Result<()> {
/// use std::time::Duration;
/// use tally_client::Client;
///
/// let client = Client::builder(["127.0.0.1:7401"])
///     .deadline(Duration::from_secs(2))
///     .connect()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Builder {
    endpoints: Vec<String>,
    network: Network,
    patience: Patience,
    stamping: Stamping,
    seed: Option<u64>,
    token: Option<String>,
}

/// Without its token.
impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut builder = f.debug_struct("Builder");
        builder.field("endpoints", &self.endpoints).field("network", &self.network);
        builder.field("patience", &self.patience).field("stamping", &self.stamping);
        builder.field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// The port of a node's client port by default, where an endpoint names none.
const PORT_DEFAULT: u16 = 7401;

impl Builder {
    /// How long a call may take in all, its retries included. Default 10 s; each call can ask for
    /// another.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = tally_client::Client::builder(["127.0.0.1:7401"]);
    /// let builder = builder.deadline(Duration::from_secs(2));
    /// ```
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.patience.deadline = deadline;
        self
    }

    /// How long one attempt may take before another node is asked. By default a quarter of the
    /// call's deadline, at least 1 s and at most 5 s.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = tally_client::Client::builder(["127.0.0.1:7401"]);
    /// let builder = builder.attempt_timeout(Duration::from_secs(1));
    /// ```
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.patience.attempt_timeout = Some(timeout);
        self
    }

    /// Gives up after this long, and not only at the deadline, while nothing listens at any of the addresses
    /// that a call was sent to: where each connection is refused at once, and nothing was ever sent. For a
    /// program that somebody started by hand, and perhaps without a cluster. By default a call goes on
    /// until its deadline, since nodes that are started again listen again.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = tally_client::Client::builder(["127.0.0.1:7401"]);
    /// let builder = builder.give_up_unheard(Duration::from_secs(2));
    /// ```
    #[must_use]
    pub fn give_up_unheard(mut self, after: Duration) -> Self {
        self.patience.unheard_max = Some(after);
        self
    }

    /// Is told of each attempt that fails, while its call goes on: for a word to whoever waits, or to be
    /// counted. It is called by the tasks that wait, and must not block.
    ///
    /// ```
    /// # let builder = tally_client::Client::builder(["127.0.0.1:7401"]);
    /// let builder = builder.on_trouble(|trouble| eprintln!("{}", trouble.message));
    /// ```
    #[must_use]
    pub fn on_trouble(mut self, tell: impl Fn(&Trouble<'_>) + Send + Sync + 'static) -> Self {
        self.network.trouble = Some(Arc::new(tell));
        self
    }

    /// How calls travel.
    ///
    /// ```
    /// # let builder = tally_client::Client::builder(["127.0.0.1:7401"]);
    /// let builder = builder.transport(tally_client::Transport::Unary);
    /// ```
    #[must_use]
    pub fn transport(mut self, transport: Transport) -> Self {
        self.network.transport = transport;
        self
    }

    /// Ends the session when it was idle for this long (in time that the cluster counts). Default:
    /// the cluster's, 1 h. A living client renews its session by itself.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = tally_client::Client::builder(["127.0.0.1:7401"]);
    /// let builder = builder.session_idle_timeout(Duration::from_secs(600));
    /// ```
    #[must_use]
    pub fn session_idle_timeout(mut self, idle_timeout: Duration) -> Self {
        self.stamping = Stamping::Session { idle_timeout };
        self
    }

    /// Opens no session. Each write carries a random idempotency key instead, which the cluster
    /// remembers for one minute, or 30 s longer than the call's deadline if that is more. For a process
    /// that makes one call and ends.
    ///
    /// A client that opens a session does the same while the cluster has no place for one
    /// (`SESSION_TABLE_FULL`, for all clients or for those of its address), and asks for one again every
    /// 10 to 15 s. Its writes are exactly once either way; each takes room in the table of idempotency
    /// keys until its window is over.
    ///
    /// ```
    /// # let builder = tally_client::Client::builder(["127.0.0.1:7401"]);
    /// let builder = builder.one_shot();
    /// ```
    #[must_use]
    pub fn one_shot(mut self) -> Self {
        self.stamping = Stamping::OneShot;
        self
    }

    /// Seeds everything that this client draws at random: jitter, the first endpoint, one-shot
    /// keys. For simulations; without it the operating system seeds it.
    ///
    /// ```
    /// # let builder = tally_client::Client::builder(["127.0.0.1:7401"]);
    /// let builder = builder.seed(42);
    /// ```
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Makes connections in another way, e.g. through a simulated network.
    ///
    /// ```
    /// use tonic::transport::Endpoint;
    ///
    /// # let builder = tally_client::Client::builder(["127.0.0.1:7401"]);
    /// let builder = builder.connector(|endpoint: Endpoint| async move {
    ///     // A simulation calls `endpoint.connect_with_connector(..)` here.
    ///     tally_client::connect(endpoint).await
    /// });
    /// ```
    #[must_use]
    pub fn connector<F, C, E>(mut self, connect: F) -> Self
    where
        F: Fn(Endpoint) -> C + Send + Sync + 'static,
        C: Future<Output = Result<Channel, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.network.connector = Connector::new(connect);
        self
    }

    /// Speaks TLS to all nodes, as this says; also to those whose addresses other nodes tell of. Endpoints with
    /// `https://` do the same with [`Tls::new`](crate::Tls::new).
    ///
    /// Nodes speak it with `client_tls_cert_file`.
    ///
    /// ```
    /// # let builder = tally_client::Client::builder(["127.0.0.1:7401"]);
    /// let builder = builder.tls(tally_client::Tls::new().server_name("tally.internal"));
    /// ```
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    #[must_use]
    pub fn tls(mut self, tls: crate::Tls) -> Self {
        self.network.tls = Some(tls);
        self
    }

    /// Shows this token with each call: who the caller is, where the cluster asks for it. Over a network it
    /// takes TLS: whoever reads the token can use it. Not to be mixed up with a
    /// [`SessionToken`], which says what was seen.
    ///
    /// ```
    /// # let builder = tally_client::Client::builder(["127.0.0.1:7401"]);
    /// let builder = builder.bearer_token("tally_3_0f…");
    /// ```
    #[must_use]
    pub fn bearer_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// A client that connects at its first call.
    ///
    /// ```
    /// let client = tally_client::Client::builder(["127.0.0.1:7401"]).build()?;
    /// # Ok::<(), tally_client::Error>(())
    /// ```
    pub fn build(self) -> Result<Client> {
        let invalid = |message: String| {
            Error::local(Code::InvalidArgument, crate::reason::INVALID_REQUEST, message)
        };
        if self.endpoints.is_empty() {
            return Err(invalid("no endpoints were given".to_owned()));
        }
        let mut network = self.network;
        if let Some(token) = &self.token {
            // Not shown: it is a secret.
            let bearer = Bearer::new(token);
            network.token = Some(
                bearer.ok_or_else(|| invalid("the token has other signs than text".to_owned()))?,
            );
        }
        let endpoints = addresses(&self.endpoints, &mut network).map_err(invalid)?;
        let mut random = match self.seed {
            Some(seed) => SmallRng::seed_from_u64(seed),
            None => {
                let mut seed = [0; 32];
                getrandom::fill(&mut seed)
                    .map_err(|error| invalid(format!("no random numbers: {error}")))?;
                SmallRng::from_seed(seed)
            }
        };
        let start = random.random_range(0..endpoints.len());
        let shared = Arc::new_cyclic(|client: &Weak<Shared>| {
            let client = client.clone();
            let watch = move |address, answers| {
                tokio::spawn(silence::watch(client.clone(), address, answers));
            };
            Shared::new(
                Router::new(endpoints, start),
                Network { watch: Some(Arc::new(watch)), ..network },
                Sessions::new(self.stamping),
                TokenKeeper::default(),
                self.patience,
                random,
            )
        });
        Ok(Client { shared })
    }

    /// A client that has reached a node.
    ///
    /// ```no_run
    /// # async fn example() -> tally_client::Result<()> {
    /// let client = tally_client::Client::builder(["127.0.0.1:7401"]).connect().await?;
    /// # Ok(()) }
    /// ```
    pub async fn connect(self) -> Result<Client> {
        let client = self.build()?;
        let request = v1::ClusterStatusRequest { local_only: true };
        let any = Plan { any_node: true, ..Plan::default() };
        client.shared.drive(request, any).await?;
        Ok(client)
    }
}

/// The endpoints as `host:port`, and in the network whether they are spoken to over TLS: all or none.
fn addresses(given: &[String], network: &mut Network) -> Result<Vec<String>, String> {
    let split = || given.iter().map(|at| split_scheme(at.trim()));
    let has = |wanted| split().find(|(scheme, _)| *scheme == wanted).map(|(_, at)| at);
    let (https, http) = (has(Scheme::Https), has(Scheme::Http));
    #[cfg(not(feature = "tls"))]
    if let Some(at) = https {
        return Err(format!(
            "https://{at} asks for TLS, and this program is built without it (the feature `tls` of tally-client)"
        ));
    }
    #[cfg(feature = "tls")]
    if https.is_some() && network.tls.is_none() {
        if let Some(at) = has(Scheme::None) {
            return Err(format!(
                "{at:?} says nothing of TLS, and another endpoint asks for it: all do or none"
            ));
        }
        network.tls = Some(crate::Tls::new());
    }
    if let (true, Some(at)) = (network.is_tls(), http) {
        return Err(format!(
            "http://{at} is without TLS, and this client is told to speak it: all do or none"
        ));
    }
    let endpoints = split().map(|(_, at)| with_port(at)).collect::<Result<Vec<_>, _>>()?;
    if let Some(first) = endpoints.first() {
        // What is wrong with certificates and keys is said now, and not at the first call.
        network.endpoint(first).map_err(|error| format!("TLS: {}", root_cause(&*error)))?;
    }
    Ok(endpoints)
}

/// An endpoint as it was given, with the port that nodes have by default where it names none.
fn with_port(given: &str) -> Result<String, String> {
    let wrong = |why: &str| format!("{given:?} is not an endpoint: {why}");
    if given.is_empty() || given.contains(|c: char| c.is_whitespace() || "/?#@".contains(c)) {
        return Err(wrong("host:port is, or host alone for port 7401"));
    }
    if given.bytes().all(|byte| byte.is_ascii_digit()) {
        // As a name it would be an address of one number, such as 0.0.33.53.
        return Err(wrong("it is a number, and a host comes before the port"));
    }
    let (host, port) = match given.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(|| wrong("a ] is missing"))?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong("no IPv6 address in [ ]"))?;
            match port {
                "" => (format!("[{host}]"), None),
                port => {
                    let port = port.strip_prefix(':');
                    (format!("[{host}]"), Some(port.ok_or_else(|| wrong("a : is missing"))?))
                }
            }
        }
        None if given.parse::<std::net::Ipv6Addr>().is_ok() => {
            return Err(wrong("an IPv6 address stands in [ ], as in [::1]:7401"));
        }
        None => match given.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (given.to_owned(), None),
        },
    };
    if host.is_empty() {
        return Err(wrong("the host is missing"));
    }
    let port = match port {
        None => PORT_DEFAULT,
        Some(port) => match port.parse() {
            Ok(port) if port > 0 => port,
            _ => return Err(wrong("a port is a number from 1 to 65535")),
        },
    };
    let endpoint = format!("{host}:{port}");
    Endpoint::from_shared(format!("http://{endpoint}"))
        .map_err(|_| wrong("host:port is, or host alone for port 7401"))?;
    Ok(endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_has_a_host_and_the_default_port() {
        for (given, endpoint) in [
            ("localhost", "localhost:7401"),
            ("localhost:80", "localhost:80"),
            ("10.0.0.7", "10.0.0.7:7401"),
            ("node-1.tally.svc:9000", "node-1.tally.svc:9000"),
            ("[::1]", "[::1]:7401"),
            ("[::1]:7402", "[::1]:7402"),
        ] {
            assert_eq!(with_port(given).as_deref(), Ok(endpoint));
        }
        for (given, why) in [
            ("", "host:port is"),
            ("8501", "it is a number"),
            (":7401", "the host is missing"),
            ("localhost:", "a port is a number"),
            ("localhost:0", "a port is a number"),
            ("localhost:65536", "a port is a number"),
            ("localhost:http", "a port is a number"),
            ("http://localhost:7401", "host:port is"),
            ("a b:7401", "host:port is"),
            ("::1", "in [ ]"),
            ("[::1", "a ] is missing"),
            ("[::1]7401", "a : is missing"),
            ("[localhost]:7401", "no IPv6 address"),
        ] {
            let error = with_port(given).unwrap_err();
            assert!(error.contains(why), "{given}: {error}");
        }
    }

    fn refused(endpoints: &[&str]) -> String {
        let refused = Client::builder(endpoints.iter().copied()).build().unwrap_err();
        assert_eq!(refused.reason(), crate::reason::INVALID_REQUEST);
        refused.message().to_owned()
    }

    #[test]
    #[cfg(not(feature = "tls"))]
    fn https_is_refused_by_a_program_that_can_not_speak_it() {
        for endpoints in [&["https://tally.example"][..], &["a:7401", "https://b:7401"]] {
            let message = refused(endpoints);
            assert!(message.contains("built without it"), "{message}");
        }
        assert!(Client::builder(["http://tally.example/"]).build().is_ok());
    }

    #[test]
    #[cfg(feature = "tls")]
    fn tls_is_for_all_endpoints_or_none() {
        assert!(refused(&["a:7401", "https://b:7401"]).contains("all do or none"));
        assert!(refused(&["http://a", "https://b"]).contains("all do or none"));
        let tls = |tls: crate::Tls| Client::builder(["a"]).tls(tls).build();
        let both = Client::builder(["http://a"]).tls(crate::Tls::new()).build().unwrap_err();
        assert!(both.message().contains("http://a is without TLS"), "{both}");
        let no_pem = tls(crate::Tls::new().trust_only("not a certificate")).unwrap_err();
        assert!(no_pem.message().starts_with("TLS: no certificate"), "{no_pem}");
        let no_key = crate::Tls::new().trust_only(include_str!("../tests/it/tls/ca.pem"));
        assert!(tls(no_key.clone()).is_ok());
        let no_key = tls(no_key.identity("neither", "nor")).unwrap_err();
        assert!(no_key.message().starts_with("TLS: "), "{no_key}");
    }
}
