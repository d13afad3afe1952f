//! TLS on the client port: who is let in, who is told what, and what those cost that do not go on.

use std::{path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tally_certificates::{Authority, Lifetime, Pair, Paths, now_ms, write_pair, write_public};
use tally_client::{Client, Tls};
use tally_node::config::Config;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::TlsConnector;

use crate::cluster::{Cluster, PATIENCE};

/// The cluster in the certificates of these tests.
pub(crate) const CLUSTER: &str = "shop";

const HOUR_MS: u64 = 3600 * 1000;

/// A CA, and a directory for what it signs.
pub(crate) struct Pki {
    pub(crate) authority: Authority,
    dir: tempfile::TempDir,
}

pub(crate) fn good() -> Lifetime {
    Lifetime::days(90)
}

/// Over since an hour.
pub(crate) fn ended() -> Lifetime {
    Lifetime { from_ms: now_ms() - 48 * HOUR_MS, until_ms: now_ms() - HOUR_MS }
}

/// Good in an hour.
pub(crate) fn early() -> Lifetime {
    Lifetime { from_ms: now_ms() + HOUR_MS, until_ms: now_ms() + 48 * HOUR_MS }
}

impl Pki {
    pub(crate) fn new() -> Pki {
        let authority = Authority::new("a test's CA", good()).unwrap();
        let pki = Pki { authority, dir: tempfile::tempdir().unwrap() };
        pki.trust(&[&pki.authority]);
        pki
    }

    /// Writes the file of CAs that all nodes read.
    pub(crate) fn trust(&self, authorities: &[&Authority]) {
        let all: String = authorities.iter().map(|ca| ca.pair().certificate.as_str()).collect();
        write_public(&self.ca(), &all).unwrap();
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    pub(crate) fn node(&self, id: u64, lifetime: Lifetime) -> Pair {
        self.authority.node(CLUSTER, id, &["127.0.0.1".to_owned()], lifetime).unwrap()
    }

    pub(crate) fn paths(&self, id: u64) -> Paths {
        Paths::new(self.dir.path(), &format!("node-{id}"))
    }

    /// Gives a node its certificate, good for both ports.
    pub(crate) fn give(&self, id: u64, pair: &Pair) {
        write_pair(&self.paths(id), pair).unwrap();
    }

    /// TLS of the client port.
    pub(crate) fn of_clients(&self, config: &mut Config) {
        let paths = self.paths(config.node_id);
        if !paths.exist() {
            self.give(config.node_id, &self.node(config.node_id, good()));
        }
        (config.client_tls_cert_file, config.client_tls_key_file) = (paths.certificate, paths.key);
    }

    /// … and of clients that show who they are.
    pub(crate) fn of_known_clients(&self, config: &mut Config) {
        self.of_clients(config);
        config.client_tls_ca_file = self.ca();
    }

    /// TLS between nodes.
    pub(crate) fn of_peers(&self, config: &mut Config) {
        self.of_clients(config);
        (config.peer_tls_cert_file, config.peer_tls_key_file) =
            (config.client_tls_cert_file.clone(), config.client_tls_key_file.clone());
        config.peer_tls_ca_file = self.ca();
        config.cluster_name = CLUSTER.to_owned();
    }

    /// What a client trusts.
    pub(crate) fn trusting(&self) -> Tls {
        Tls::new().trust_only(self.authority.pair().certificate.as_bytes())
    }
}

/// For rustls itself, where the library would not do what is to be tried.
pub(crate) fn connector(ca: &Authority, shown: Option<&Pair>) -> TlsConnector {
    connector_for(ca, shown, b"h2")
}

pub(crate) fn connector_for(ca: &Authority, shown: Option<&Pair>, protocol: &[u8]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let pem = ca.pair().certificate.as_bytes();
    roots.add(CertificateDer::from_pem_slice(pem).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![chain], key).unwrap()
        }
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsConnector::from(Arc::new(config))
}

pub(crate) fn localhost() -> ServerName<'static> {
    ServerName::try_from("127.0.0.1").unwrap()
}

fn client(cluster: &Cluster, tls: Option<Tls>) -> Client {
    let endpoints = cluster.ids().into_iter().map(|id| cluster.client_address(id));
    let builder = Client::builder(endpoints).deadline(PATIENCE);
    match tls {
        Some(tls) => builder.tls(tls),
        None => builder,
    }
    .build()
    .unwrap()
}

/// What a client is told that is not let in.
async fn refused(cluster: &Cluster, tls: Option<Tls>) -> String {
    let client = client(cluster, tls);
    let error = client.counter("hits").get().max_attempts(2).await.unwrap_err();
    error.to_string()
}

#[tokio::test]
async fn clients_call_over_tls_1_3_and_check_whom_they_call() {
    let pki = Pki::new();
    let cluster = Cluster::start_with(1, |config| pki.of_clients(config)).await;
    let change = client(&cluster, Some(pki.trusting())).counter("hits").add(1).await.unwrap();
    assert_eq!(change.value, 1);

    let stranger = Authority::new("another CA", good()).unwrap();
    let other_ca = Tls::new().trust_only(stranger.pair().certificate.as_bytes());
    let unknown = refused(&cluster, Some(other_ca)).await;
    assert!(unknown.contains("UnknownIssuer"), "{unknown}");
    let elsewhere = refused(&cluster, Some(pki.trusting().server_name("other.test"))).await;
    assert!(elsewhere.contains("not valid for name"), "{elsewhere}");

    // Nothing older is spoken.
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS12]).unwrap();
    let old = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let stream = TcpStream::connect(cluster.client_address(1)).await.unwrap();
    let old = TlsConnector::from(Arc::new(old)).connect(localhost(), stream).await.unwrap_err();
    assert!(old.to_string().contains("ProtocolVersion"), "{old}");
}

#[tokio::test]
async fn a_certificate_is_taken_while_it_is_good() {
    for (lifetime, said) in [(ended(), "expired"), (early(), "not valid yet")] {
        let pki = Pki::new();
        pki.give(1, &pki.node(1, lifetime));
        let cluster = Cluster::start_with(1, |config| pki.of_clients(config)).await;
        let refusal = refused(&cluster, Some(pki.trusting())).await;
        assert!(refusal.contains(said), "{refusal}");
    }
}

#[tokio::test]
async fn a_client_may_show_who_it_is_and_then_it_has_to_be_true() {
    let pki = Pki::new();
    let cluster = Cluster::start_with(1, |config| pki.of_known_clients(config)).await;
    let with = |pair: Pair| Some(pki.trusting().identity(pair.certificate, pair.key));
    let named = |lifetime| pki.authority.client("billing", lifetime).unwrap();
    for tls in [Some(pki.trusting()), with(named(good()))] {
        client(&cluster, tls).counter("hits").add(1).await.unwrap();
    }
    let stranger = Authority::new("another CA", good()).unwrap();
    for (pair, said) in [
        (named(ended()), "CertificateExpired"),
        // TLS has one word for both.
        (named(early()), "CertificateExpired"),
        (stranger.client("billing", good()).unwrap(), "UnknownCA"),
    ] {
        let refusal = refused(&cluster, with(pair)).await;
        assert!(refusal.contains(said), "{refusal}");
    }
}

/// Each side is told what it did, and at once: nobody waits for a port to become another.
#[tokio::test]
async fn tls_and_plain_connections_that_meet_say_so() {
    let pki = Pki::new();
    let secured = Cluster::start_with(1, |config| pki.of_clients(config)).await;
    let began = Instant::now();
    let error = client(&secured, None).counter("hits").get().await.unwrap_err().to_string();
    assert!(error.contains("speaks TLS, and was called without"), "{error}");

    let mut web = TcpStream::connect(secured.client_address(1)).await.unwrap();
    web.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    web.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("https://"), "{answer}");

    let plain = Cluster::start(1).await;
    let tls = Some(pki.trusting());
    let error = client(&plain, tls).counter("hits").get().await.unwrap_err().to_string();
    assert!(error.contains("speaks no TLS, and was called with it"), "{error}");
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    client(&plain, None).counter("hits").add(1).await.unwrap();
}

/// A hundred that say nothing, and as many that stop in the middle of their first word.
#[tokio::test]
async fn half_open_connections_hold_nobody_up_and_end() {
    let pki = Pki::new();
    let cluster = Cluster::start_with(1, |config| pki.of_clients(config)).await;
    let served = client(&cluster, Some(pki.trusting()));
    served.counter("hits").add(1).await.unwrap();
    let mut silent = Vec::new();
    for said in [&b""[..], &[22, 3, 1, 1, 0, 1, 0, 0]] {
        for _ in 0..100 {
            let mut stream = TcpStream::connect(cluster.client_address(1)).await.unwrap();
            stream.write_all(said).await.unwrap();
            silent.push(stream);
        }
    }
    let others = || cluster.node(1).client_connections();
    crate::cluster::eventually("all have their places", || others() > 200).await;
    // Meanwhile old and new clients are served, as if there was nobody.
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let began = Instant::now();
        let new = client(&cluster, Some(pki.trusting()));
        new.counter("hits").add(1).await.unwrap();
        served.counter("hits").add(1).await.unwrap();
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    let mut rest = Vec::new();
    for mut stream in silent {
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        read.expect("it is closed in time").expect("it is closed in good order");
    }
    assert!(rest.is_empty(), "they were told nothing: {rest:?}");
    crate::cluster::eventually("their places are free", || others() < 50).await;
    served.counter("hits").add(1).await.unwrap();
}
