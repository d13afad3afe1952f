//! From files to what a handshake takes. All that can be wrong with the files is found here, and not by the first
//! caller.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, UnixTime},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    time_provider::TimeProvider,
    version::TLS13,
};
use tally_certificates::{Facts, date, node_name};

use super::{
    Caller, Certificate, TlsError,
    files::{Contents, keys},
    verify::{Answering, Called, Calling, named},
};
use crate::env::Clock;

/// What HTTP/2 is called where protocols are negotiated …
const HTTP2: &[u8] = b"h2";

/// … and HTTP/1.1.
const HTTP1: &[u8] = b"http/1.1";

/// What a port is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Clients call; they may show who they are.
    OfClients,
    /// Nodes call, and are called.
    OfPeers {
        /// The cluster in their names.
        cluster: String,
        /// This one.
        node_id: u64,
    },
}

impl Wanted {
    /// "client" or "peer".
    pub(super) fn port(&self) -> &'static str {
        match self {
            Wanted::OfClients => "client",
            Wanted::OfPeers { .. } => "peer",
        }
    }

    /// Who shows these certificates, which were verified: its own, and what leads from there to its CA.
    pub(super) fn caller(&self, shown: &[CertificateDer<'_>]) -> Caller {
        let Some(own) = shown.first() else { return Caller::Unknown };
        match self {
            Wanted::OfClients => {
                let facts: Result<Vec<Facts>, _> = shown.iter().map(|der| Facts::of(der)).collect();
                let facts = facts.unwrap_or_default();
                let name = facts.first().and_then(Facts::name);
                let not_after_ms = facts.iter().map(|facts| facts.not_after_ms).min().unwrap_or(0);
                name.map_or(Caller::Unknown, |name| Caller::Client {
                    name: name.to_owned(),
                    not_after_ms,
                })
            }
            Wanted::OfPeers { cluster, .. } => {
                named(own, cluster).map_or(Caller::Unknown, Caller::Node)
            }
        }
    }
}

/// What one look at the files gave.
pub(super) struct Loaded {
    pub(super) server: Arc<ServerConfig>,
    /// For the port with pages, which speaks HTTP/1.1.
    pub(super) pages: Arc<ServerConfig>,
    /// To call other nodes.
    pub(super) dialler: Option<Arc<ClientConfig>>,
    pub(super) certificates: Vec<Certificate>,
    pub(super) digest: [u8; 32],
}

/// The node's clock, for rustls.
struct Now(Arc<dyn Clock>);

impl std::fmt::Debug for Now {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Now")
    }
}

impl TimeProvider for Now {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(self.0.wall_ms()))
    }
}

fn unix_time(ms: u64) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_millis(ms))
}

impl Loaded {
    pub(super) fn new(
        contents: &Contents,
        wanted: &Wanted,
        clock: &Arc<dyn Clock>,
    ) -> Result<Loaded, TlsError> {
        let (certificate_key, key_key, ca_key) = keys(wanted.port());
        let wrong = |key: &'static str, error: &dyn std::fmt::Display| TlsError {
            key,
            problem: error.to_string(),
        };
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(roots(&contents.ca).map_err(|problem| wrong(ca_key, &problem))?);
        let time: Arc<dyn TimeProvider> = Arc::new(Now(Arc::clone(clock)));
        let certificates = certificates(contents, wanted.port())?;

        let by_ca = |optional: bool| {
            let builder = WebPkiClientVerifier::builder_with_provider(
                Arc::clone(&roots),
                Arc::clone(&provider),
            );
            let builder = if optional { builder.allow_unauthenticated() } else { builder };
            builder.build().map_err(|error| wrong(ca_key, &error))
        };
        let builder = ServerConfig::builder_with_details(Arc::clone(&provider), Arc::clone(&time))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| wrong(certificate_key, &error))?;
        let builder = match wanted {
            Wanted::OfClients if contents.ca.is_empty() => builder.with_no_client_auth(),
            Wanted::OfClients => builder.with_client_cert_verifier(by_ca(true)?),
            Wanted::OfPeers { cluster, .. } => {
                let (chain, cluster) = (by_ca(false)?, cluster.clone());
                builder.with_client_cert_verifier(Arc::new(Calling { chain, cluster }))
            }
        };
        let mut server =
            builder.with_single_cert(contents.chain.clone(), contents.key.clone_key()).map_err(
                |error| wrong(key_key, &format!("it does not fit {certificate_key}: {error}")),
            )?;
        server.alpn_protocols = vec![HTTP2.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut pages = server.clone();
        pages.alpn_protocols = vec![HTTP1.to_vec()];

        let dialler = match wanted {
            Wanted::OfClients => None,
            Wanted::OfPeers { cluster, node_id } => {
                let verifier =
                    Answering { provider: Arc::clone(&provider), roots, cluster: cluster.clone() };
                is_own(contents, &verifier, *node_id, &certificates[0])
                    .map_err(|problem| wrong(certificate_key, &problem))?;
                Some(Arc::new(
                    dialler(contents, provider, time, verifier)
                        .map_err(|error| wrong(key_key, &error))?,
                ))
            }
        };
        let (server, pages) = (Arc::new(server), Arc::new(pages));
        Ok(Loaded { server, pages, dialler, certificates, digest: contents.digest })
    }

    /// Files whose time is over, or has not come, do not take the place of good ones.
    pub(super) fn in_place_of(self, present: &Loaded, now_ms: u64) -> Result<Loaded, TlsError> {
        let is_good = |certificate: &Certificate| {
            (certificate.not_before_ms..certificate.not_after_ms).contains(&now_ms)
        };
        let bad = self.certificates.iter().find(|certificate| !is_good(certificate));
        match bad {
            Some(Certificate { key, not_before_ms, not_after_ms, .. })
                if present.certificates.iter().all(is_good) =>
            {
                let (from, until) = (date(*not_before_ms), date(*not_after_ms));
                Err(TlsError {
                    key,
                    problem: format!("it is good from {from} to {until}, and not now"),
                })
            }
            _ => Ok(self),
        }
    }
}

pub(super) fn roots(ca: &[CertificateDer<'static>]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in ca {
        roots.add(certificate.clone()).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

fn dialler(
    contents: &Contents,
    provider: Arc<CryptoProvider>,
    time: Arc<dyn TimeProvider>,
    accepts: Answering,
) -> Result<ClientConfig, rustls::Error> {
    let verifier = Called { provider: Arc::clone(&provider), accepts };
    let mut dialler = ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(contents.chain.clone(), contents.key.clone_key())?;
    dialler.alpn_protocols = vec![HTTP2.to_vec()];
    dialler.resumption = Resumption::disabled();
    Ok(dialler)
}

/// Whether a node's own certificate is one that its peers will take, but for the time.
fn is_own(
    contents: &Contents,
    verifier: &Answering,
    node_id: u64,
    certificate: &Certificate,
) -> Result<(), String> {
    let own = node_name(&verifier.cluster, node_id);
    match named(&contents.chain[0], &verifier.cluster) {
        Ok(found) if found == node_id => {}
        Ok(found) => return Err(format!("it is that of node {found}, and this is {own}")),
        Err(wrong) => return Err(format!("{wrong}; this is {own} (node_id and cluster_name)")),
    }
    let then = unix_time(certificate.not_after_ms.saturating_sub(1000));
    verifier
        .verify_chain(&contents.chain[0], &contents.chain[1..], then)
        .map_err(|error| format!("peer_tls_ca_file does not lead to it: {error}"))
}

/// What is told of the files.
fn certificates(contents: &Contents, port: &'static str) -> Result<Vec<Certificate>, TlsError> {
    let (certificate_key, _, ca_key) = keys(port);
    let facts = |key: &'static str, all: &[CertificateDer<'static>]| {
        let all: Result<Vec<Facts>, _> = all.iter().map(|der| Facts::of(der)).collect();
        all.map_err(|error| TlsError { key, problem: error.to_string() })
    };
    let of = |key: &'static str, facts: &Facts, not_after_ms: u64| Certificate {
        key,
        name: facts.name().unwrap_or_default().to_owned(),
        not_before_ms: facts.not_before_ms,
        not_after_ms,
    };
    let chain = facts(certificate_key, &contents.chain)?;
    let first_end = chain.iter().map(|facts| facts.not_after_ms).min().unwrap_or(0);
    let mut told = vec![of(certificate_key, &chain[0], first_end)];
    let ca = facts(ca_key, &contents.ca)?;
    if let Some(last) = ca.iter().max_by_key(|facts| facts.not_after_ms) {
        told.push(of(ca_key, last, last.not_after_ms));
    }
    Ok(told)
}
