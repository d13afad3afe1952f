//! From a connection that was accepted to one that is spoken on: TLS, where the port has it, and words for those who
//! speak something else.
//!
//! # Bounds
//! A connection that sends nothing holds its slot and a buffer of a few bytes until the handshake's time is over.
//! What has sent something may hold as much as a handshake takes (64 KiB), so of those there are
//! [`HANDSHAKES_MAX`] at once; others wait, and their bytes with the system. One address waits for itself first, as for
//! connections: it may have a share of what others leave. The accept loop waits for none of it.

use std::{io, net::IpAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Semaphore,
    time::timeout,
};

use super::{Port, slots};
use crate::{
    env::{
        Connection,
        shares::{Identity, ShareRule, Shares},
        spaced::Spaced,
    },
    machine::command::Owner,
    tls::{Caller, Secured, Spoken},
};

/// Handshakes under way in a port.
const HANDSHAKES_MAX: usize = 1024;

/// What TLS begins with: the type of a record, "handshake".
pub(super) const TLS_BEGINS: u8 = 22;

/// HTTP/2's INADEQUATE_SECURITY.
const INADEQUATE_SECURITY: u8 = 12;

const SPEAKS_TLS: &str = "this port speaks TLS";

const HTTP1_ANSWER: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n\
    This port speaks TLS and HTTP/2 (gRPC): use https://\n";

/// What a port knows of those who come.
#[derive(Debug)]
pub(super) struct Door {
    handshakes: Semaphore,
    shares: Arc<Shares<1>>,
    without_tls: Spaced,
    with_tls: Spaced,
    failed: Spaced,
}

impl Door {
    /// Of whose handshakes those of one address may be what the rule says.
    pub(super) fn new(share: ShareRule) -> Self {
        Door {
            handshakes: Semaphore::new(HANDSHAKES_MAX),
            shares: Shares::new([HANDSHAKES_MAX], share),
            without_tls: Spaced::default(),
            with_tls: Spaced::default(),
            failed: Spaced::default(),
        }
    }

    /// Somebody spoke TLS to a port without it.
    pub(super) fn met_tls(&self, port: &Port, from: Option<IpAddr>) {
        record(port, from, "it speaks TLS, and this port does not");
        if let Some(times) = self.with_tls.happened() {
            let (port, from) = (port.name, told(from));
            tracing::warn!(
                port,
                times,
                from,
                "a caller speaks TLS to a port without it: set {port}_tls_cert_file, or call without TLS"
            );
        }
    }

    /// The connection to speak on, and who calls. None if there will be none.
    pub(super) async fn pass(
        &self,
        port: &Port,
        connection: Connection,
    ) -> Option<(Connection, Caller)> {
        let Some(tls) = &port.tls else { return Some((connection, Caller::Unknown)) };
        let from = connection.from();
        match timeout(port.http2.handshake_time_max, self.shake_hands(port, tls, connection)).await
        {
            Ok(Ok(passed)) => passed,
            Ok(Err(error)) => {
                record(port, from, &explained(&error));
                if let Some(times) = self.failed.happened() {
                    let (port, from) = (port.name, told(from));
                    tracing::warn!(
                        port,
                        times,
                        from,
                        "no TLS with a caller: {}",
                        explained(&error)
                    );
                }
                None
            }
            Err(_) => {
                record(port, from, "no TLS in time");
                tracing::debug!(port = port.name, from = told(from), "no TLS in time");
                None
            }
        }
    }

    async fn shake_hands(
        &self,
        port: &Port,
        tls: &Secured,
        mut connection: Connection,
    ) -> io::Result<Option<(Connection, Caller)>> {
        let mut head = [0; 16];
        let read = match connection.read(&mut head).await {
            // Who only looks whether the port is open.
            Ok(0) | Err(_) => return Ok(None),
            Ok(read) => read,
        };
        let head = &head[..read];
        if head[0] != TLS_BEGINS {
            self.met_plain(port, connection, head).await;
            return Ok(None);
        }
        let whose = Identity::of(None, connection.from().map(Owner::new));
        let _share = self.shares.wait(whose, [1]).await;
        let _permit = self.handshakes.acquire().await;
        tls.accept(connection, head, Spoken::Http2).await.map(Some)
    }

    async fn met_plain(&self, port: &Port, mut connection: Connection, head: &[u8]) {
        record(port, connection.from(), "it speaks no TLS, and this port does");
        if let Some(times) = self.without_tls.happened() {
            let (port, from) = (port.name, told(connection.from()));
            tracing::warn!(port, times, from, "a caller speaks no TLS to a port that has it");
        }
        if b"PRI * HTTP/2.0".starts_with(&head[..head.len().min(14)]) {
            slots::go_away(connection, INADEQUATE_SECURITY, SPEAKS_TLS).await;
        } else if [&b"GET "[..], b"POST", b"HEAD"].iter().any(|method| head.starts_with(method)) {
            let _ = connection.write_all(HTTP1_ANSWER).await;
            let _ = connection.shutdown().await;
        }
    }
}

fn record(port: &Port, from: Option<IpAddr>, why: &str) {
    if let Some(log) = &port.audit {
        log.connection_refused(port.name, from, why);
    }
}

pub(super) fn told(from: Option<IpAddr>) -> String {
    from.map_or_else(|| "?".to_owned(), |from| from.to_string())
}

/// What rustls and the other side's alerts say, with what it means here.
pub(super) fn explained(error: &io::Error) -> String {
    let text = error.to_string();
    let meant = [
        ("alert: UnknownCA", "the caller does not trust the CA of this node's certificate"),
        ("alert: BadCertificate", "the caller does not take this node's certificate"),
        ("alert: CertificateUnknown", "the caller does not take this node's certificate"),
        (
            "alert: CertificateExpired",
            "this node's certificate has ended, or the caller's clock is wrong",
        ),
        ("NotValidForName", "the caller asks for another name"),
        ("UnknownIssuer", "no CA in the ca_file signed the caller's certificate"),
        ("peer sent no certificates", "the caller shows no certificate"),
    ];
    match meant.iter().find(|(said, _)| text.contains(said)) {
        Some((_, meant)) => format!("{meant} ({text})"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, path::Path};

    use http::{Request, Response};
    use tally_certificates::{Authority, Lifetime, Paths, write_pair};
    use tally_proto::http2;
    use tokio::sync::watch;
    use tonic::body::Body;

    use super::super::{ClientName, Shape, Slots, deadline, room::NodeRoom, serve};
    use crate::{
        env::{Env, shares::ShareRule},
        port::Port,
        tls::{Asking, Files, Settings, Tls, Trusted},
    };

    /// What is in the request's extensions, as a header of its answer.
    async fn told(request: Request<Body>) -> Result<Response<Body>, Infallible> {
        let name = request.extensions().get::<ClientName>().map(|shown| shown.name.as_str());
        let answer = Response::builder().header("name", name.unwrap_or("nobody"));
        Ok(answer.body(Body::empty()).expect("names are header values here"))
    }

    /// Who somebody with this certificate is in two requests of one connection.
    async fn who(address: &str, ca: &Path, shown: Option<&Paths>) -> Vec<String> {
        let shown = shown.map(|paths| (paths.certificate.as_path(), paths.key.as_path()));
        let asking = Asking::new(Trusted::Ca(ca), shown).unwrap();
        let stream = asking.connect(address).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut names = Vec::new();
        for _ in 0..2 {
            let request = Request::post("http://node.test/x").body(()).unwrap();
            let (response, _) = sender.send_request(request, true).unwrap();
            let response = response.await.unwrap();
            names.push(response.headers()["name"].to_str().unwrap().to_owned());
        }
        names
    }

    #[tokio::test]
    async fn each_request_brings_the_name_in_the_certificate_of_its_connection() {
        let dir = tempfile::tempdir().unwrap();
        let paths = |name| Paths::new(dir.path(), name);
        let authority = Authority::new("a test's CA", Lifetime::days(9)).unwrap();
        write_pair(&paths("ca"), authority.pair()).unwrap();
        let hosts = ["127.0.0.1".to_owned()];
        let node = authority.node("shop", 1, &hosts, Lifetime::days(9)).unwrap();
        write_pair(&paths("node"), &node).unwrap();
        let (plain, uri) = ("billing", "spiffe://shop/billing");
        for (file, name) in [("plain", plain), ("uri", uri)] {
            write_pair(&paths(file), &authority.client(name, Lifetime::days(9)).unwrap()).unwrap();
        }

        let env = Env::real(dir.path(), 1 << 20).unwrap();
        let (own, ca) = (paths("node"), paths("ca").certificate);
        let client = Files { certificate: own.certificate, key: own.key, ca: ca.clone() };
        let settings = Settings { client, ..Settings::default() };
        let port = Port {
            name: "client",
            http2: http2::CLIENT_PORT,
            message_bytes_max: 1024,
            deadline_default: deadline::DEADLINE_DEFAULT,
            shape_of: |_| Shape::Unary,
            slots: Slots::new(8, ShareRule::NONE),
            room: NodeRoom::new(ShareRule::NONE),
            keeps_alive: true,
            tls: Tls::open(&settings, &env.clock).unwrap().client(),
            audit: None,
        };
        let listener = env.network.listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_address();
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(serve(port, tower::service_fn(told), listener, stopped));
        assert_eq!(who(&address, &ca, None).await, ["nobody"; 2]);
        assert_eq!(who(&address, &ca, Some(&paths("plain"))).await, [plain; 2]);
        assert_eq!(who(&address, &ca, Some(&paths("uri"))).await, [uri; 2]);
        let a_node = who(&address, &ca, Some(&paths("node"))).await;
        assert_eq!(a_node, ["tally://shop/node/1"; 2], "to the client port it is a client");
        stop.send(true).unwrap();
        tokio::time::timeout(http2::CLIENT_PORT.handshake_time_max, serving)
            .await
            .unwrap()
            .unwrap();
    }
}
