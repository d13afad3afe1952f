//! Who means no good, or is cut off: what the console makes of it, and what everybody else notices of it.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use super::{GET, Got, PUT, Sends, address, ask, ask_once, exchange, with_console};
use crate::{
    auth::client,
    client::unary,
    cluster::{Cluster, PATIENCE},
    requests::add,
};

/// Waits for what happens sooner or later.
async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let all = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect(what);
}

async fn still_answers(cluster: &Cluster) {
    let got = ask(cluster, 1, GET, "/api/counters?limit=1").await;
    assert_eq!(got.status, 200, "{}", got.body);
}

/// Sends bytes, and gives back the status of what comes, if anything does before the connection is closed.
async fn raw(cluster: &Cluster, bytes: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect(address(cluster, 1)).await.expect("the system connects");
    let exchange = async {
        // It may be closed before all is taken.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await.expect("it ends");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer.split(' ').nth(1).and_then(|status| status.parse().ok())
}

#[tokio::test]
async fn what_is_too_long_or_means_nothing_is_refused_and_changes_nothing() {
    let cluster = Cluster::start_with(1, with_console).await;
    let long = |bytes: usize| "x".repeat(bytes);
    // Longer than a head may be.
    for bytes in [17 * 1024, 1 << 20] {
        let request =
            format!("GET /api/key?name={} HTTP/1.1\r\nhost: localhost\r\n\r\n", long(bytes));
        let status = raw(&cluster, request.as_bytes()).await;
        assert!(matches!(status, None | Some(414 | 431)), "{bytes}: {status:?}");
        let request =
            format!("GET /api/status HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", long(bytes));
        let status = raw(&cluster, request.as_bytes()).await;
        assert!(matches!(status, None | Some(431)), "{bytes}: {status:?}");
    }
    // Each word that is not asked for is refused, however many there are.
    let many = (0..2000).map(|number| format!("w{number}=")).collect::<Vec<_>>().join("&");
    let token = "00".repeat(4000);
    for query in [
        format!("key?name={}", long(15_000)),
        format!("keys?prefix={}", long(15_000)),
        format!("keys?after={}", long(15_000)),
        format!("key?name=a&read=session:{token}"),
        format!("key?name=a&read={}", long(10_000)),
        format!("key?name=a&{many}"),
        "key?name=a&read=bounded:99999999999999999999".to_owned(),
        "keys?limit=18446744073709551615".to_owned(),
        "metrics?node=-1".to_owned(),
    ] {
        let got = ask(&cluster, 1, GET, &format!("/api/{query}")).await;
        let shown = &query[..query.len().min(60)];
        assert_eq!((got.status, &*got.reason()), (400, "INVALID_REQUEST"), "{shown}: {}", got.body);
    }
    // A body is not what says what is to be done.
    let bytes = 5000;
    let put = format!(
        "PUT /api/members/drain?node=1 HTTP/1.1\r\nhost: localhost\r\nx-tally-console: 1\r\ncontent-length: {bytes}\r\n\r\n{}",
        long(bytes)
    );
    assert_eq!(raw(&cluster, put.as_bytes()).await, Some(400));
    for bytes in
        [&b"\0\xff\xfe\x01"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\0\x01"]
    {
        let status = raw(&cluster, bytes).await;
        assert!(matches!(status, None | Some(400..=505)), "{bytes:?}: {status:?}");
    }
    for path in ["/../api/status", "//api/status", "/api/status/", "/API/status"] {
        assert_eq!(ask(&cluster, 1, GET, path).await.reason(), "NO_SUCH_PAGE", "{path}");
    }
    assert_eq!(ask(&cluster, 1, GET, "/api/status").await.json()["nodes"][0]["drained"], false);
    still_answers(&cluster).await;
}

#[tokio::test]
async fn a_thousand_connections_keep_neither_clients_nor_other_addresses_out() {
    let cluster = Cluster::start_with(1, with_console).await;
    let mut silent = Vec::new();
    for _ in 0..1000 {
        silent.push(TcpStream::connect(address(&cluster, 1)).await.expect("the system connects"));
    }
    // Of 24 connections one address has 18.
    eventually("all but its share are closed", async || {
        silent.retain(|stream| !is_closed(stream));
        silent.len() <= 18
    })
    .await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.2:0".parse().expect("an address")).expect("all of 127/8 is this machine");
    let other = socket.connect(address(&cluster, 1).parse().expect("an address")).await;
    let got = exchange(other.expect("it connects"), GET, "/api/status").await;
    assert_eq!(got.status, 200, "{}", got.body);
    let channel = cluster.channel(1);
    let answer = unary(&channel, add("alive", 1));
    tokio::time::timeout(PATIENCE, answer).await.expect("in time").expect("clients are served");
    drop(silent);
    eventually("it answers whoever had too many", async || {
        let stream = TcpStream::connect(address(&cluster, 1)).await.expect("the system connects");
        answers(stream).await
    })
    .await;
}

fn is_closed(stream: &TcpStream) -> bool {
    match stream.try_read(&mut [0]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

async fn answers(mut stream: TcpStream) -> bool {
    let mut answer = String::new();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.is_ok()
        && stream.read_to_string(&mut answer).await.is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

#[tokio::test]
async fn names_and_values_are_json_whatever_is_in_them() {
    let cluster = Cluster::start_with(1, with_console).await;
    let all = client(&cluster, &[1], "");
    let names = [
        "</script><img src=x onerror=alert(1)>",
        "a\r\nset-cookie: b=1\r\n\r\nc",
        "\u{202e}gpj.exe",
        "\u{0}\u{7}\u{1b}[2J",
        "\u{2028}\u{feff}",
    ];
    for (name, value) in names.into_iter().zip(1..) {
        all.counter(name).add(value).await.unwrap();
        all.keys().put(name, name).await.unwrap();
    }
    for (path, named) in [("/api/counters", false), ("/api/keys", true)] {
        let got = ask(&cluster, 1, GET, path).await;
        assert!(got.head.contains("content-type: application/json"), "{}", got.head);
        assert!(!got.head.contains("set-cookie"), "{}", got.head);
        let told = got.json();
        let items = told["items"].as_array().expect("a list");
        let mut shown =
            items.iter().map(|item| item["name"].as_str().expect("a name")).collect::<Vec<_>>();
        let mut expected = names.to_vec();
        shown.sort_unstable();
        expected.sort_unstable();
        assert_eq!(shown, expected);
        for item in items.iter().filter(|_| named) {
            assert_eq!(item["value"], item["name"]);
        }
    }
    let got =
        ask(&cluster, 1, GET, "/api/counter?name=a%0D%0Aset-cookie%3A+b%3D1%0D%0A%0D%0Ac").await;
    assert_eq!(got.json()["item"]["value"], "2", "{}", got.body);
    // What is said of a wrong word is text, too.
    let got = ask(&cluster, 1, GET, "/api/counter?%0d%0ax:y%3Cb%3E=1&name=a").await;
    assert_eq!((got.status, got.head.contains("x:y")), (400, false), "{}", got.head);
}

#[tokio::test]
async fn what_a_browser_says_another_site_has_sent_is_not_run() {
    let cluster = Cluster::start_with(1, with_console).await;
    let drain = "/api/members/drain?node=1&preview=1";
    for site in ["cross-site", "same-site", "Same-Origin", ""] {
        let headers = format!("sec-fetch-site: {site}\r\nx-tally-console: 1\r\n");
        for (method, path) in [("GET", "/api/status"), ("HEAD", "/api/status"), ("PUT", drain)] {
            let got = ask(&cluster, 1, Sends { method, headers: &headers, ..GET }, path).await;
            assert_eq!(got.status, 403, "{site} {method}: {}", got.body);
        }
        assert_eq!(ask(&cluster, 1, Sends { headers: &headers, ..GET }, "/").await.status, 200);
    }
    for site in ["same-origin", "none"] {
        let headers = format!("sec-fetch-site: {site}\r\n");
        let got = ask(&cluster, 1, Sends { headers: &headers, ..GET }, "/api/status").await;
        assert_eq!(got.status, 200, "{site}: {}", got.body);
    }
}

#[tokio::test]
async fn beyond_loopback_without_tls_a_node_is_asked_by_its_own_name_alone() {
    let cluster = Cluster::start_with(1, |config| {
        config.console_listen = "0.0.0.0:0".to_owned();
        config.insecure_listen_without_tls = true;
        config.insecure_listen_without_authentication = true;
    })
    .await;
    for (host, status) in
        [("evil.example", 403), ("", 403), ("127.0.0.1:7701", 200), ("localhost", 200)]
    {
        let got = ask(&cluster, 1, Sends { host, ..GET }, "/api/status").await;
        assert_eq!(got.status, status, "{host}: {}", got.body);
        let got = ask(&cluster, 1, Sends { host, ..PUT }, "/api/members/drain?node=1").await;
        assert_eq!((got.status, &*got.reason()), (403, "FORBIDDEN_HERE"), "{host}");
    }
}

#[tokio::test]
async fn a_follower_that_is_cut_off_keeps_the_promises_it_can_and_says_why_not_the_others() {
    let cluster = Cluster::start_with(3, with_console).await;
    let all = client(&cluster, &[1, 2, 3], "");
    all.counter("stock").add(41).await.unwrap();
    cluster.caught_up().await;
    let follower = cluster.follower().await;
    let before = ask(&cluster, follower, GET, "/api/counter?name=stock").await.json();
    let token = before["answer"]["session_token"].as_str().expect("a token").to_owned();
    cluster.isolate(follower);
    let read = async |level: &str| -> Got {
        ask_once(&cluster, follower, GET, &format!("/api/counter?name=stock&read={level}")).await
    };
    eventually("what was proven is too old", async || read("bounded:1").await.status != 200).await;
    let bounded = read("bounded:1").await;
    assert_eq!((bounded.status, &*bounded.reason()), (409, "STALENESS_BOUND_EXCEEDED"));
    assert!(bounded.json()["refused"]["best_staleness_ms"].as_u64() > Some(1), "{}", bounded.body);
    let strict = read("linearizable").await;
    assert_eq!((strict.status, &*strict.reason()), (503, "NO_QUORUM"), "{}", strict.body);
    assert!(strict.json().get("item").is_none(), "{}", strict.body);
    for level in ["local", &format!("session:{token}")] {
        let told = read(level).await.json();
        assert_eq!(told["item"]["value"], "41", "{level}: {told:#}");
    }
    // The others go on; what they have done since can't be asked for here.
    let others = cluster.ids().into_iter().filter(|id| *id != follower).collect::<Vec<_>>();
    client(&cluster, &others, "").counter("stock").add(1).await.unwrap();
    let newer = ask(&cluster, others[0], GET, "/api/counter?name=stock").await.json();
    assert_eq!(newer["item"]["value"], "42", "{newer:#}");
    let token = newer["answer"]["session_token"].as_str().expect("a token").to_owned();
    let refused = read(&format!("session:{token}")).await;
    assert_eq!(
        (refused.status, &*refused.reason()),
        (503, "TOKEN_NOT_REACHED"),
        "{}",
        refused.body
    );
    assert!(!refused.body.contains("\"41\""), "{}", refused.body);
    let told = ask_once(&cluster, follower, GET, "/api/status").await.json();
    assert_eq!(
        (&told["voters"], &told["voters_reachable"], &told["quorum"]),
        (&3.into(), &1.into(), &2.into()),
        "{told:#}"
    );
    let silent = |node: &&Value| node["reachable"] == false && node["role"].is_null();
    assert_eq!(told["nodes"].as_array().expect("nodes").iter().filter(silent).count(), 2);
    // A step is not said to be done by who can't know.
    let step = ask_once(&cluster, follower, PUT, "/api/members/transfer-leader").await;
    assert!(matches!(step.status, 409 | 503 | 504), "{}", step.body);
    let outcome = step.json()["refused"]["outcome"].clone();
    assert!(outcome == "NOT_APPLIED" || outcome == "UNKNOWN", "{}", step.body);
}
