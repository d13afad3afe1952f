//! TLS on the two ports: which certificates are used, whom they prove, and what happens when their files change.
//!
//! TLS 1.3 alone, by rustls with the provider `ring`, which is named in each configuration: there is no default of
//! the process. A node without these files speaks plain HTTP/2, as simulated ones do, and nothing here runs.
//!
//! # Who is who
//! - **Client port**: the node shows a certificate. A client that shows one is verified, and known by its name
//!   ([`Caller::Client`]) until it ends; one that shows none is nobody in particular. Where no CA is configured none is asked for.
//! - **Peer port**: both sides show one, and it has to name a node of this cluster: `tally://CLUSTER/node/3`, as a
//!   URI among its alternative names (`cluster_name`). Who calls checks that it reached the node that it meant
//!   ([`Secured::connect`]); who is called learns which node calls ([`Caller::Node`]), and `peer::service` compares
//!   that with what the node says of itself. So one node's key can't speak for another.
//!
//! Nothing is resumed: each connection is proven by itself, by the certificates that are in use when it is made. A
//! connection that is open goes on when they change, or end; who a client is by a certificate that has ended is over,
//! also on a connection from before (`api::who`).
//!
//! Leaves out: how handshakes are bounded (`port`).

mod ask;
mod files;
mod material;
mod prefixed;
mod uses;
mod verify;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub use self::{
    ask::{Asking, Trusted},
    uses::Certificate,
};
use self::{
    files::Contents,
    material::{Loaded, Wanted},
    prefixed::Prefixed,
    uses::Warnings,
};
use crate::env::{Clock, Connection};

/// So long an alert has to reach a caller that is refused.
const ALERT_TIME_MAX: Duration = Duration::from_secs(1);

/// How often the files are looked at. One that changes is in use within twice this.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The files of one port. Empty paths: no TLS.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// Certificate, with the chain that leads to its CA (PEM).
    pub certificate: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
    /// CAs whose certificates are taken from the other side (PEM).
    pub ca: PathBuf,
}

impl Files {
    fn is_set(&self) -> bool {
        !self.certificate.as_os_str().is_empty()
    }
}

/// What TLS is made of.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// This node.
    pub node_id: u64,
    /// The cluster in the names of its nodes.
    pub cluster_name: String,
    /// Of the client port.
    pub client: Files,
    /// Of the peer port.
    pub peer: Files,
}

/// Why TLS can't be had with these files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct TlsError {
    /// The configuration's key.
    pub key: &'static str,
    /// What is wrong, with the file's path.
    pub problem: String,
}

/// What is spoken above TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// gRPC.
    Http2,
    /// Pages for probes and scrapers.
    Http1,
}

/// Who a connection comes from, as far as a certificate proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Nobody in particular.
    Unknown,
    /// A client with this name, until its certificate ends, in ms since 1970.
    Client {
        /// The name.
        name: String,
        /// The first end in the chain that it showed.
        not_after_ms: u64,
    },
    /// A node of this cluster.
    Node(u64),
}

/// Both ports.
#[derive(Debug)]
pub struct Tls {
    client: Option<Arc<Secured>>,
    peer: Option<Arc<Secured>>,
}

impl Tls {
    /// Reads the files. A certificate whose time is over is no error: others refuse it, and the log says why.
    pub fn open(settings: &Settings, clock: &Arc<dyn Clock>) -> Result<Arc<Tls>, TlsError> {
        let open = |files: &Files, wanted: fn(&Settings) -> Wanted| {
            let wanted = wanted(settings);
            let secured = || Secured::open(files.clone(), wanted, Arc::clone(clock)).map(Arc::new);
            files.is_set().then(secured).transpose()
        };
        let tls = Tls {
            client: open(&settings.client, |_| Wanted::OfClients)?,
            peer: open(&settings.peer, |settings| Wanted::OfPeers {
                cluster: settings.cluster_name.clone(),
                node_id: settings.node_id,
            })?,
        };
        for secured in tls.ports() {
            secured.tell();
        }
        Ok(Arc::new(tls))
    }

    fn ports(&self) -> impl Iterator<Item = &Arc<Secured>> {
        self.client.iter().chain(&self.peer)
    }

    /// That of the client port, if it has any.
    pub fn client(&self) -> Option<Arc<Secured>> {
        self.client.clone()
    }

    /// That of the peer port, if it has any.
    pub fn peer(&self) -> Option<Arc<Secured>> {
        self.peer.clone()
    }

    /// The certificates in use.
    pub fn certificates(&self) -> Vec<Certificate> {
        self.ports().flat_map(|secured| secured.loaded().certificates.clone()).collect()
    }

    /// Follows the files, and warns before certificates end, for as long as the node runs.
    pub async fn watch(self: Arc<Self>) {
        if self.ports().next().is_none() {
            return;
        }
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            for secured in self.ports() {
                let secured = Arc::clone(secured);
                // Files block. If the runtime ends, so does this.
                if tokio::task::spawn_blocking(move || secured.look()).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// One port's TLS.
pub struct Secured {
    files: Files,
    wanted: Wanted,
    clock: Arc<dyn Clock>,
    loaded: RwLock<Arc<Loaded>>,
    seen: Mutex<Seen>,
}

/// What the last look found.
#[derive(Debug, Default)]
struct Seen {
    /// A content that can't be used, and whether that was told.
    broken: Option<(Option<[u8; 32]>, bool)>,
    warnings: Warnings,
}

impl std::fmt::Debug for Secured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secured").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Secured {
    fn open(files: Files, wanted: Wanted, clock: Arc<dyn Clock>) -> Result<Secured, TlsError> {
        let contents = Contents::read(&files, wanted.port())?;
        let loaded = Arc::new(Loaded::new(&contents, &wanted, &clock)?);
        let (loaded, seen) = (RwLock::new(loaded), Mutex::default());
        Ok(Secured { files, wanted, clock, loaded, seen })
    }

    fn loaded(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says what is in use.
    fn tell(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let certificates = &self.loaded().certificates;
        for Certificate { key, name, not_after_ms, .. } in certificates {
            let until = tally_certificates::date(*not_after_ms);
            tracing::info!(key, name, %until, "a certificate is in use");
        }
        seen.warnings = Warnings::default();
        seen.warnings.look(certificates, self.clock.wall_ms());
    }

    /// Looks whether the files have changed. What can't be used is told once, and what was in use stays.
    fn look(&self) {
        let present = self.loaded();
        let contents = Contents::read(&self.files, self.wanted.port());
        let digest = contents.as_ref().ok().map(|contents| contents.digest);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if digest == Some(present.digest) {
            seen.broken = None;
            seen.warnings.look(&present.certificates, self.clock.wall_ms());
            return;
        }
        let loaded = contents
            .and_then(|contents| Loaded::new(&contents, &self.wanted, &self.clock))
            .and_then(|loaded| loaded.in_place_of(&present, self.clock.wall_ms()));
        match loaded {
            Ok(loaded) => {
                *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
                seen.broken = None;
                drop(seen);
                tracing::info!(port = self.wanted.port(), "the certificates have changed");
                self.tell();
            }
            Err(problem) => {
                // Somebody who replaces two files does it one after the other: told only if it lasts.
                let before = seen.broken.replace((digest, false));
                if before.is_some_and(|(broken, _)| broken == digest) {
                    if before.is_some_and(|(_, told)| !told) {
                        tracing::error!(
                            %problem,
                            "the certificates have changed and can't be used: those from before stay"
                        );
                    }
                    seen.broken = Some((digest, true));
                }
                seen.warnings.look(&present.certificates, self.clock.wall_ms());
            }
        }
    }

    /// Shakes hands with somebody who connected, of whom `head` has been read already.
    pub(crate) async fn accept(
        &self,
        connection: Connection,
        head: &[u8],
        spoken: Spoken,
    ) -> io::Result<(Connection, Caller)> {
        let (stream, from) = connection.into_parts();
        let loaded = self.loaded();
        let acceptor = TlsAcceptor::from(match spoken {
            Spoken::Http2 => Arc::clone(&loaded.server),
            Spoken::Http1 => Arc::clone(&loaded.pages),
        });
        let accepting = acceptor.accept(Prefixed::new(head, stream)).into_fallible();
        let stream = match accepting.await {
            Ok(stream) => stream,
            Err((error, stream)) => {
                let _ = tokio::time::timeout(ALERT_TIME_MAX, read_out(stream)).await;
                return Err(verify::in_words(error));
            }
        };
        let certificates = stream.get_ref().1.peer_certificates();
        let caller = self.wanted.caller(certificates.unwrap_or_default());
        Ok((Connection::again(stream, from), caller))
    }

    /// Shakes hands as a node with another one, over a connection to its peer port, and checks that it is this one.
    pub(crate) async fn connect(
        &self,
        connection: Connection,
        node_id: u64,
    ) -> io::Result<Connection> {
        let loaded = self.loaded();
        let dialler = loaded.dialler.clone().ok_or(io::ErrorKind::Unsupported)?;
        let name = ServerName::try_from(verify::asked_name(node_id)).map_err(io::Error::other)?;
        let (stream, from) = connection.into_parts();
        let connecting = TlsConnector::from(dialler).connect(name, stream).await;
        let stream = connecting.map_err(verify::in_words)?;
        Ok(Connection::again(stream, from))
    }
}

/// Closes our side, and reads what the other one sent: the system drops an alert that is under way to somebody whose
/// bytes nobody wanted.
async fn read_out(mut stream: Prefixed) -> io::Result<()> {
    stream.shutdown().await?;
    let mut sent = [0; 1024];
    while stream.read(&mut sent).await? > 0 {}
    Ok(())
}
