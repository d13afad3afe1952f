//! The metrics port where other machines reach it: TLS, and who may see what.

use tally_client::Client;
use tally_proto::v1::{AuthRole, AuthUser, auth_change_request::Change};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::TlsConnector;

use crate::{
    audit::Logs,
    auth::{change, token, user},
    cluster::{Cluster, PATIENCE, eventually},
    tls::{Pki, connector_for, good, localhost},
};

/// The port of node 1, as this machine reaches it.
fn address(cluster: &Cluster) -> String {
    let told = cluster.node(1).metrics_address().expect("it has a metrics port");
    let (_, port) = told.rsplit_once(':').expect("host and port");
    format!("127.0.0.1:{port}")
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> (u16, String) {
    let exchange = async {
        stream.write_all(request.as_bytes()).await.expect("it takes a request");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("it answers");
        text
    };
    let text = tokio::time::timeout(PATIENCE, exchange).await.expect("it ends");
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status: {text}")), text)
}

/// Over TLS, with a token if there is one.
async fn get(cluster: &Cluster, tls: &TlsConnector, path: &str, token: &str) -> (u16, String) {
    send(cluster, tls, &format!("GET {path}"), token, "").await
}

async fn send(
    cluster: &Cluster,
    tls: &TlsConnector,
    what: &str,
    token: &str,
    body: &str,
) -> (u16, String) {
    let stream = TcpStream::connect(address(cluster)).await.expect("the system connects");
    let stream = tls.connect(localhost(), stream).await.expect("TLS");
    let token = match token {
        "" => String::new(),
        token => format!("authorization: Bearer {token}\r\n"),
    };
    let length = body.len();
    let head = format!("{what} HTTP/1.1\r\nhost: x\r\n{token}content-length: {length}\r\n\r\n");
    ask(stream, &format!("{head}{body}")).await
}

async fn far(pki: &Pki, authentication: bool, logs: &Logs) -> Cluster {
    Cluster::start_with(1, |config| {
        pki.of_known_clients(config);
        logs.keep(config);
        config.metrics_listen = "0.0.0.0:0".to_owned();
        config.authentication = authentication;
        config.insecure_listen_without_authentication = !authentication;
    })
    .await
}

#[tokio::test]
async fn beyond_loopback_it_speaks_tls_and_who_watches_shows_that_he_may() {
    let (pki, logs) = (Pki::new(), Logs::new());
    let cluster = far(&pki, true, &logs).await;
    let file = cluster.data_dir(1).join("admin-token");
    eventually("the first token is there", || file.exists()).await;
    let first = std::fs::read_to_string(&file).expect("it can be read");
    let first = first.trim();
    let admin = Client::builder([cluster.client_address(1)])
        .tls(pki.trusting())
        .bearer_token(first)
        .build()
        .expect("a client");
    let clerk = user(&admin, "clerk", &[]).await;
    let watcher = AuthRole { name: "watcher".into(), monitor: true, ..AuthRole::default() };
    change(&admin, Change::PutRole(watcher)).await;
    for name in ["prometheus", "cn-prometheus"] {
        let roles = vec!["watcher".to_owned()];
        change(&admin, Change::PutUser(AuthUser { name: name.into(), roles })).await;
    }
    let watcher = token(&admin, "prometheus", 0).await.1;

    let nobody = connector_for(&pki.authority, None, b"http/1.1");
    for path in ["/metrics", "/log-filter"] {
        let (status, text) = get(&cluster, &nobody, path, "").await;
        assert_eq!(status, 401, "{text}");
        assert!(text.to_lowercase().contains("www-authenticate: bearer"), "{text}");
        assert!(!text.contains("tally_"), "{text}");
        assert_eq!(get(&cluster, &nobody, path, "tally_2_00").await.0, 401);
        let (status, text) = get(&cluster, &nobody, path, &clerk).await;
        assert_eq!(status, 403, "{text}");
        assert!(text.contains("lacks monitor") && !text.contains("tally_"), "{text}");
    }
    let (status, text) = get(&cluster, &nobody, "/metrics", &watcher).await;
    assert_eq!(status, 200, "{text}");
    for key in ["client_tls_cert_file", "client_tls_ca_file"] {
        let end = format!("tally_certificate_not_after_timestamp_seconds{{key=\"{key}\",name=");
        let line = text.lines().find(|line| line.starts_with(&end)).expect(&end);
        let end: f64 = line.rsplit_once(' ').expect("a value").1.parse().expect("a number");
        let days = (end - tally_certificates::now_ms() as f64 / 1e3) / 86_400.0;
        assert!((89.0..91.0).contains(&days), "{line}");
    }
    // A certificate whose name is a user's does, too.
    let shown = pki.authority.client("cn-prometheus", good()).expect("a certificate");
    let known = connector_for(&pki.authority, Some(&shown), b"http/1.1");
    assert_eq!(get(&cluster, &known, "/metrics", "").await.0, 200);

    // Probes ask without anything, and learn no more than whether the node is well.
    assert_eq!(get(&cluster, &nobody, "/livez", "").await.0, 200);
    let (status, text) = get(&cluster, &nobody, "/readyz?verbose", "").await;
    assert_eq!(status, 200);
    assert!(text.ends_with("\r\nready\n") && !text.contains("[+]"), "{text}");
    let (_, text) = get(&cluster, &nobody, "/readyz?verbose", &watcher).await;
    assert!(text.contains("[+] quorum\n"), "{text}");

    // To change something is another right.
    for (token, status) in [("", 401), (&*clerk, 403), (&*watcher, 403), (first, 404)] {
        let (told, text) = send(&cluster, &nobody, "PUT /log-filter", token, "debug").await;
        // This process's logs are the test's.
        assert_eq!(told, status, "{text}");
    }

    // Without TLS nothing is to be had, and it says why.
    let plain = TcpStream::connect(address(&cluster)).await.expect("the system connects");
    let (status, text) = ask(plain, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(status, 400);
    assert!(text.contains("https://"), "{text}");

    // What was refused for who asked is recorded, and who changes something.
    let of = |path: &str, how: &str, decision: &str| {
        let pages = logs.lines(1).into_iter().filter(|line| line["kind"] == "page");
        let is_it = |line: &serde_json::Value| {
            line["path"] == path && line["how"] == how && line["decision"] == decision
        };
        pages.filter(is_it).collect::<Vec<_>>()
    };
    let refused = |line: &serde_json::Value| {
        line["kind"] == "connection_refused" && line["port"] == "metrics"
    };
    logs.only(1, "the caller without TLS", refused).await;
    for path in ["/metrics", "/log-filter"] {
        assert!(of(path, "unknown", "UNAUTHENTICATED").len() >= 2, "{path}");
        let denied = of(path, "token", "PERMISSION_DENIED");
        assert!(denied.iter().any(|line| line["user"] == "clerk"), "{path}: {denied:#?}");
    }
    let changed = of("/log-filter", "token", "allowed");
    assert_eq!(changed.len(), 1, "{changed:#?}");
    let line = &changed[0];
    assert_eq!(
        (&line["user"], &line["log_filter"]),
        (&"admin".into(), &"debug".into()),
        "{line:#}"
    );
    assert!(of("/metrics", "token", "allowed").is_empty(), "what is only seen is not recorded");
    assert!(of("/readyz", "unknown", "UNAUTHENTICATED").is_empty(), "nor probes");
    assert!(!logs.text(1).contains(first), "a token is in the audit log");
}

/// Whoever takes all places of one address leaves some for another.
#[tokio::test]
async fn one_address_can_not_keep_the_scrapers_out() {
    let cluster =
        Cluster::start_with(1, |config| config.metrics_listen = "127.0.0.1:0".to_owned()).await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(address(&cluster)).await.expect("the system connects"));
    }
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.2:0".parse().expect("an address")).expect("all of 127/8 is this machine");
    let stream = socket.connect(address(&cluster).parse().expect("an address")).await;
    let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let (status, text) = ask(stream.expect("it connects"), request).await;
    assert_eq!(status, 200, "{text}");
}

#[tokio::test]
async fn where_nobody_is_asked_who_he_is_everybody_sees_and_nobody_afar_changes() {
    let (pki, logs) = (Pki::new(), Logs::new());
    let cluster = far(&pki, false, &logs).await;
    let nobody = connector_for(&pki.authority, None, b"http/1.1");
    assert_eq!(get(&cluster, &nobody, "/metrics", "").await.0, 200);
    let (status, text) = send(&cluster, &nobody, "PUT /log-filter", "", "debug").await;
    assert_eq!(status, 403, "{text}");
    let big = "x".repeat(5000);
    assert_eq!(send(&cluster, &nobody, "PUT /log-filter", "", &big).await.0, 400);
}
