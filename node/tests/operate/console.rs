//! The console: what it answers a browser, to whom, and what no other site makes of it.

mod steps;
mod strangers;

use serde_json::Value;
use tally_client::Client;
use tally_proto::v1::{AuthPermission, AuthRole, AuthScope, AuthUser, auth_change_request::Change};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    audit::Logs,
    auth::{change, client, secure_with, token, user},
    cluster::{Cluster, PATIENCE, eventually},
    tls::{Pki, connector_for, good, localhost},
};

/// What somebody sends.
#[derive(Clone, Copy)]
struct Sends<'a> {
    method: &'a str,
    host: &'a str,
    token: &'a str,
    headers: &'a str,
}

const GET: Sends<'static> = Sends { method: "GET", host: "localhost", token: "", headers: "" };
const PUT: Sends<'static> = Sends { method: "PUT", headers: "x-tally-console: 1\r\n", ..GET };

/// What came back.
struct Got {
    status: u16,
    head: String,
    body: String,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    /// The reason of a refusal.
    fn reason(&self) -> String {
        self.json()["refused"]["reason"].as_str().unwrap_or_default().to_owned()
    }
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    what: Sends<'_>,
    path: &str,
) -> Got {
    let Sends { method, host, token, headers } = what;
    let token = match token {
        "" => String::new(),
        token => format!("authorization: Bearer {token}\r\n"),
    };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{token}{headers}content-length: 0\r\n\r\n"
    );
    let exchange = async {
        stream.write_all(request.as_bytes()).await.expect("it takes a request");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("it answers");
        text
    };
    let text = tokio::time::timeout(PATIENCE, exchange).await.expect("it ends");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status: {head}"));
    Got { status, head: head.to_lowercase(), body: body.to_owned() }
}

/// The console of a node, as this machine reaches it.
fn address(cluster: &Cluster, id: u64) -> String {
    let told = cluster.node(id).console_address().expect("it has a console");
    let (_, port) = told.rsplit_once(':').expect("host and port");
    format!("127.0.0.1:{port}")
}

async fn ask_once(cluster: &Cluster, id: u64, what: Sends<'_>, path: &str) -> Got {
    let stream = TcpStream::connect(address(cluster, id)).await.expect("the system connects");
    exchange(stream, what, path).await
}

/// Asks again where a refusal says when to, as the library does: on a busy machine a leader may be lost at any time.
async fn ask(cluster: &Cluster, id: u64, what: Sends<'_>, path: &str) -> Got {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let got = ask_once(cluster, id, what, path).await;
        let again = (got.status == 503).then(|| got.json()["refused"]["retry_after_ms"].as_u64());
        match again.flatten() {
            Some(ms) if tokio::time::Instant::now() < until => {
                tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
            }
            _ => return got,
        }
    }
}

fn with_console(config: &mut tally_node::config::Config) {
    config.console_listen = "127.0.0.1:0".to_owned();
}

#[tokio::test]
async fn the_page_is_there_where_it_was_asked_for_and_loads_nothing_from_elsewhere() {
    let off = Cluster::start(1).await;
    assert_eq!(off.node(1).console_address(), None, "it is off by default");
    let cluster = Cluster::start_with(1, with_console).await;
    let page = ask(&cluster, 1, GET, "/").await;
    assert_eq!(page.status, 200);
    assert!(page.head.contains("content-type: text/html"), "{}", page.head);
    let mut scripts = vec!["/console.css".to_owned()];
    for path in ["/console.js", "/browse.js"] {
        let script = ask(&cluster, 1, GET, path).await;
        assert!(script.head.contains("content-type: text/javascript"), "{}", script.head);
        let imports = script.body.split("from './").skip(1);
        scripts
            .extend(imports.map(|rest| format!("/{}", rest.split('\'').next().expect("a name"))));
    }
    assert!(scripts.len() >= 4, "{scripts:?}");
    for path in scripts.iter().map(String::as_str).chain(["/", "/console.js"]) {
        let got = ask(&cluster, 1, GET, path).await;
        assert_eq!(got.status, 200, "{path}");
        for policy in [
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';",
            "base-uri 'none'",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
        ] {
            assert!(got.head.contains(policy), "{path}: {}", got.head);
        }
        assert!(
            !got.body.contains("innerHTML") && !got.body.contains("insertAdjacentHTML"),
            "{path}"
        );
        let elsewhere = got.body.replace("http://www.w3.org/2000/svg", "");
        assert!(!elsewhere.contains("http:") && !elsewhere.contains("https:"), "{path}");
    }
    let there_is_none = ask(&cluster, 1, GET, "/api/nothing").await;
    assert_eq!((there_is_none.status, &*there_is_none.reason()), (404, "NO_SUCH_PAGE"));
    for (method, path) in
        [("OPTIONS", "/api/members/drain"), ("POST", "/api/status"), ("PUT", "/api/status")]
    {
        let got = ask(&cluster, 1, Sends { method, ..PUT }, path).await;
        assert_eq!(got.status, 405, "{method} {path}");
        assert!(!got.head.contains("access-control"), "{}", got.head);
    }
    assert_eq!(ask(&cluster, 1, GET, "/api/members/drain?node=1").await.status, 405);
}

#[tokio::test]
async fn an_item_is_read_at_each_level_with_what_the_answer_is_worth() {
    let mut cluster = Cluster::start_with(3, with_console).await;
    let all = client(&cluster, &[1, 2, 3], "");
    all.counter("a b/<i>\"&").add(i64::MAX).await.unwrap();
    for number in 0..5 {
        all.counter(format!("stock/{number}")).add(number).await.unwrap();
    }
    all.keys().put("greeting", "hello").await.unwrap();
    all.keys().put("bytes", vec![0xff, 0]).await.unwrap();
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);

    let path = |read: &str| format!("/api/counter?name=a+b%2F%3Ci%3E%22%26&read={read}");
    let first = ask(&cluster, follower, GET, &path("linearizable")).await.json();
    assert_eq!(first["item"]["value"], i64::MAX.to_string(), "{first:#}");
    assert_eq!(first["item"]["name"], "a b/<i>\"&");
    let token = first["answer"]["session_token"].as_str().expect("a token").to_owned();
    for (read, level) in [
        ("linearizable".to_owned(), "linearizable"),
        ("bounded:60000".to_owned(), "bounded"),
        (format!("session:{token}"), "session"),
        ("local".to_owned(), "local"),
    ] {
        let told = ask(&cluster, follower, GET, &path(&read)).await.json();
        assert_eq!(told["answer"]["level"], level, "{told:#}");
        assert_eq!(told["answer"]["node_id"], follower, "{told:#}");
        assert_eq!(told["found"], true, "{told:#}");
        let stale = told["answer"]["staleness_ms_max"].as_u64();
        assert!(stale.is_some() || level == "local" || level == "session", "{told:#}");
        assert!(told["took_us"].as_u64().is_some_and(|took| took > 0), "{told:#}");
    }
    let missing = ask(&cluster, leader, GET, "/api/counter?name=nobody").await;
    let told = missing.json();
    assert_eq!((missing.status, &told["found"]), (200, &Value::Bool(false)), "{told:#}");
    assert_eq!(told["answer"]["level"], "linearizable", "also that there is none is an answer");
    let told = ask(&cluster, leader, GET, "/api/key?name=greeting").await.json();
    assert_eq!(
        (&told["item"]["value"], &told["item"]["value_hex"]),
        (&"hello".into(), &Value::Null)
    );
    let told = ask(&cluster, leader, GET, "/api/keys?prefix=by").await.json();
    assert_eq!(told["items"][0]["value_hex"], "ff00", "{told:#}");

    // Pages, by the API's own tokens.
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/api/counters?prefix=stock/&limit=2&after={after}");
        let told = ask(&cluster, leader, GET, &path).await.json();
        let items = told["items"].as_array().expect("a list");
        assert!(items.len() <= 2);
        names.extend(items.iter().map(|item| item["name"].as_str().expect("a name").to_owned()));
        match told["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => break,
        }
    }
    assert_eq!(names, (0..5).map(|number| format!("stock/{number}")).collect::<Vec<_>>());

    for wrong in [
        "/api/counter",
        "/api/counter?name=a&read=soon",
        "/api/counter?name=a&name=b",
        "/api/counter?name=%ff",
        "/api/counters?limit=1001",
        "/api/counters?after=nonsense",
        "/api/status?local_only=1",
    ] {
        let got = ask(&cluster, leader, GET, wrong).await;
        assert_eq!((got.status, &*got.reason()), (400, "INVALID_REQUEST"), "{wrong}: {}", got.body);
    }

    let told = ask(&cluster, follower, GET, "/api/status").await.json();
    assert_eq!((&told["voters"], &told["quorum"]), (&3.into(), &2.into()), "{told:#}");
    let leads =
        told["nodes"].as_array().expect("nodes").iter().find(|node| node["role"] == "leader");
    assert_eq!(leads.expect("a leader")["id"], leader);
    let metrics = ask(&cluster, follower, GET, &format!("/api/metrics?node={leader}")).await;
    assert!(metrics.body.contains("\ntally_is_leader 1\n"), "{}", metrics.body);

    // Without a quorum a promise is refused with its reason, and what needs none is kept.
    for id in cluster.ids().into_iter().filter(|id| *id != follower) {
        cluster.kill(id).await;
    }
    let refused = ask_once(&cluster, follower, GET, &path("linearizable")).await;
    assert_eq!((refused.status, &*refused.reason()), (503, "NO_QUORUM"), "{}", refused.body);
    let told = ask(&cluster, follower, GET, &path("local")).await.json();
    assert_eq!(told["item"]["value"], i64::MAX.to_string());
    let told = ask(&cluster, follower, GET, "/api/status").await.json();
    assert_eq!((&told["voters_reachable"], &told["quorum"]), (&1.into(), &2.into()), "{told:#}");
}

#[tokio::test]
async fn who_asks_sees_what_its_rights_are_on_and_nothing_of_its_neighbours() {
    let (cluster, first) = secure_with(1, with_console).await;
    let admin = client(&cluster, &[1], &first);
    for (name, value) in [("mine/a", 1), ("mine/b", 2), ("theirs/secret", 471_147)] {
        admin.counter(name).add(value).await.unwrap();
        admin.keys().put(name, format!("v{value}")).await.unwrap();
    }
    let read: &[_] = &[AuthPermission::Read];
    let mine = user(
        &admin,
        "mine",
        &[(AuthScope::Counters, "mine/", read), (AuthScope::Keys, "mine/", read)],
    )
    .await;
    let data = [
        "/api/status",
        "/api/metrics",
        "/api/counter?name=mine/a&read=local",
        "/api/counter?name=nobody",
        "/api/key?name=mine/a",
        "/api/counters?prefix=mine/",
        "/api/keys",
    ];
    // The page itself knows nothing, and asks for a token.
    assert_eq!(ask(&cluster, 1, GET, "/").await.status, 200);
    for path in data {
        for token in ["", "nonsense", "tally_2_00"] {
            let got = ask(&cluster, 1, Sends { token, ..GET }, path).await;
            assert_eq!((got.status, &*got.reason()), (401, "UNAUTHENTICATED"), "{path}");
            assert!(got.head.contains("www-authenticate: bearer"), "{}", got.head);
            assert!(!got.body.contains("471147") && got.json().get("items").is_none(), "{path}");
        }
    }
    let as_mine = Sends { token: &mine, ..GET };
    for kind in ["counter", "key"] {
        let own = ask(&cluster, 1, as_mine, &format!("/api/{kind}?name=mine/a")).await;
        assert_eq!((own.status, &own.json()["found"]), (200, &Value::Bool(true)), "{}", own.body);
        let list = ask(&cluster, 1, as_mine, &format!("/api/{kind}s?prefix=mine/&limit=1")).await;
        let told = list.json();
        assert_eq!(told["items"].as_array().map(Vec::len), Some(1), "{told:#}");
        let next = told["next"].as_str().expect("a second page");
        let rest =
            ask(&cluster, 1, as_mine, &format!("/api/{kind}s?prefix=mine/&after={next}")).await;
        assert_eq!(rest.json()["items"].as_array().map(Vec::len), Some(1), "{}", rest.body);
        assert!(rest.json()["next"].is_null(), "a neighbour is not even counted: {}", rest.body);
        // Whether a neighbour is there makes no difference, at no level.
        for level in ["linearizable", "local"] {
            let there = format!("/api/{kind}?name=theirs/secret&read={level}");
            let not_there = format!("/api/{kind}?name=theirs/nobody&read={level}");
            let (there, not_there) = (
                ask(&cluster, 1, as_mine, &there).await,
                ask(&cluster, 1, as_mine, &not_there).await,
            );
            assert_eq!((there.status, &*there.reason()), (403, "PERMISSION_DENIED"));
            assert_eq!((not_there.status, &*not_there.reason()), (403, "PERMISSION_DENIED"));
            assert!(
                !there.body.contains("471147") && there.json()["answer"].is_null(),
                "{}",
                there.body
            );
        }
        for prefix in ["", "m", "theirs/", "mine"] {
            let got = ask(&cluster, 1, as_mine, &format!("/api/{kind}s?prefix={prefix}")).await;
            assert_eq!(got.status, 403, "{prefix:?}: {}", got.body);
            assert!(!got.body.contains("secret"), "{}", got.body);
        }
    }
    for path in ["/api/status", "/api/metrics"] {
        let got = ask(&cluster, 1, as_mine, path).await;
        assert_eq!(got.status, 403, "{}", got.body);
        assert!(!got.body.contains("tally_") && got.json().get("nodes").is_none(), "{}", got.body);
    }
    let as_admin = Sends { token: &first, ..GET };
    for path in data {
        assert_eq!(ask(&cluster, 1, as_admin, path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_change_takes_the_right_to_it_and_is_recorded_with_its_callers_address() {
    let logs = Logs::new();
    let (cluster, first) = secure_with(3, |config| {
        with_console(config);
        logs.keep(config);
    })
    .await;
    let admin = client(&cluster, &[1, 2, 3], &first);
    let watcher = AuthRole { name: "watcher".into(), monitor: true, ..AuthRole::default() };
    change(&admin, Change::PutRole(watcher)).await;
    let put = AuthUser { name: "watcher".into(), roles: vec!["watcher".to_owned()] };
    change(&admin, Change::PutUser(put)).await;
    let watcher = token(&admin, "watcher", 0).await.1;
    let (asked, drained) = (cluster.leader().await, cluster.follower().await);
    assert_eq!(
        ask(&cluster, asked, Sends { token: &watcher, ..GET }, "/api/status").await.status,
        200
    );

    let drain = format!("/api/members/drain?node={drained}");
    let preview = format!("{drain}&preview=1");
    let is_drained = async || admin.status().await.unwrap().nodes.iter().any(|node| node.drained);
    for path in [&drain, &preview] {
        let plain = Sends { token: &first, headers: "", ..PUT };
        let got = ask(&cluster, asked, plain, path).await;
        assert_eq!((got.status, &*got.reason()), (403, "FORBIDDEN_HERE"), "{}", got.body);
        for (token, status) in [("", 401), (&*watcher, 403)] {
            let got = ask(&cluster, asked, Sends { token, ..PUT }, path).await;
            assert_eq!(got.status, status, "{}", got.body);
        }
    }
    // What is misspelt is not taken for a wish to do it.
    for wrong in ["&preview=0", "&preveiw=1", "&preview=1&preview=1"] {
        let as_admin = Sends { token: &first, ..PUT };
        let got = ask(&cluster, asked, as_admin, &format!("{drain}{wrong}")).await;
        assert_eq!(got.status, 400, "{wrong}: {}", got.body);
    }
    let as_admin = Sends { token: &first, ..PUT };
    let shown = ask(&cluster, asked, as_admin, &preview).await;
    let told = shown.json();
    assert_eq!((shown.status, &told["preview"]), (200, &Value::Bool(true)), "{told:#}");
    assert_eq!(told["plan"]["before"]["quorum"], 2, "{told:#}");
    assert!(!is_drained().await, "it was only shown");
    let done = ask(&cluster, asked, as_admin, &drain).await;
    assert_eq!(done.status, 200, "{}", done.body);
    // Each node says it of itself, as soon as it has applied it.
    while !is_drained().await {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let refused = ask(&cluster, asked, as_admin, "/api/members/promote?node=77").await;
    assert_eq!(&*refused.reason(), "MEMBERSHIP_REFUSED", "{}", refused.body);
    assert_eq!(refused.json()["refused"]["outcome"], "NOT_APPLIED");

    let line = logs
        .only(asked, "the change", |line| {
            line["method"] == "tally.v1.Cluster/Drain"
                && line["decision"] == "allowed"
                && line["dry_run"] != true
        })
        .await;
    assert_eq!((&line["from"], &line["user"]), (&"127.0.0.1".into(), &"admin".into()), "{line:#}");
    let is_denied = |line: &Value| {
        line["method"] == "tally.v1.Cluster/Drain"
            && line["user"] == "watcher"
            && line["dry_run"] != true
    };
    let line = logs.only(asked, "who may not", is_denied).await;
    assert_eq!(line["from"], "127.0.0.1", "{line:#}");
    let other_site = |line: &Value| line["kind"] == "page" && line["path"] == "/api/members/drain";
    eventually("what another site could send", || logs.lines(asked).iter().any(other_site)).await;
    assert!(!logs.text(asked).contains(&first), "a token is in the audit log");
}

#[tokio::test]
async fn without_authentication_other_sites_read_nothing_and_change_nothing() {
    let cluster = Cluster::start_with(1, with_console).await;
    client(&cluster, &[1], "").counter("secret").add(471_147).await.unwrap();
    let item = "/api/counter?name=secret";
    // A name of theirs that leads to this machine.
    for host in ["evil.example", "localhost.evil.example:7701", "127.0.0.1.evil.example", ""] {
        let got = ask(&cluster, 1, Sends { host, ..GET }, item).await;
        assert_eq!((got.status, &*got.reason()), (403, "FORBIDDEN_HERE"), "{host}");
        assert!(!got.body.contains("471147"));
        let got = ask(&cluster, 1, Sends { host, ..PUT }, "/api/members/drain?node=1").await;
        assert_eq!(got.status, 403, "{host}");
    }
    for host in ["localhost", "127.0.0.1:7701", "[::1]:7701"] {
        let got = ask(&cluster, 1, Sends { host, ..GET }, item).await;
        assert_eq!(got.json()["item"]["value"], "471147", "{host}");
        assert!(!got.head.contains("access-control"), "{}", got.head);
    }
    for headers in [
        "",
        "x-tally-console: 0\r\n",
        "origin: http://evil.example\r\ncontent-type: text/plain\r\n",
    ] {
        let got = ask(&cluster, 1, Sends { headers, ..PUT }, "/api/members/drain?node=1").await;
        assert_eq!((got.status, &*got.reason()), (403, "FORBIDDEN_HERE"), "{headers}");
    }
    let got = ask(&cluster, 1, PUT, "/api/members/transfer-leader?preview=1").await;
    assert_eq!(got.status, 200, "{}", got.body);
    assert_eq!(ask(&cluster, 1, GET, "/api/status").await.json()["changes"], true);
}

#[tokio::test]
async fn it_has_the_tls_of_the_client_port_and_from_afar_nobody_changes_who_is_not_asked() {
    let pki = Pki::new();
    let start = async |authentication: bool, logs: &Logs| {
        Cluster::start_with(1, |config| {
            pki.of_known_clients(config);
            logs.keep(config);
            config.console_listen = "0.0.0.0:0".to_owned();
            config.authentication = authentication;
            config.insecure_listen_without_authentication = !authentication;
        })
        .await
    };
    let over_tls = async |cluster: &Cluster, shown, what, path: &str| {
        let tls = connector_for(&pki.authority, shown, b"http/1.1");
        let stream = TcpStream::connect(address(cluster, 1)).await.expect("the system connects");
        exchange(tls.connect(localhost(), stream).await.expect("TLS"), what, path).await
    };
    let logs = Logs::new();
    let open = start(false, &logs).await;
    let plain = ask(&open, 1, GET, "/").await;
    assert_eq!(plain.status, 400, "{}", plain.body);
    assert!(plain.body.contains("https://"), "{}", plain.body);
    logs.only(1, "the caller without TLS", |line| {
        line["kind"] == "connection_refused" && line["port"] == "console"
    })
    .await;
    let far = Sends { host: "node1.example", ..GET };
    let told = over_tls(&open, None, far, "/api/status").await.json();
    assert_eq!(
        (&told["changes"], &told["authentication"]),
        (&false.into(), &false.into()),
        "{told:#}"
    );
    let put = Sends { host: "localhost", ..PUT };
    let got = over_tls(&open, None, put, "/api/members/drain?node=1&preview=1").await;
    assert_eq!((got.status, &*got.reason()), (403, "FORBIDDEN_HERE"), "{}", got.body);
    drop(open);

    let other_logs = Logs::new();
    let asks = start(true, &other_logs).await;
    let file = asks.data_dir(1).join("admin-token");
    eventually("the first token is there", || file.exists()).await;
    let first = std::fs::read_to_string(&file).expect("it can be read");
    let admin = Client::builder([asks.client_address(1)])
        .tls(pki.trusting())
        .bearer_token(first.trim())
        .build()
        .expect("a client");
    let role = AuthRole { name: "boss".into(), admin: true, ..AuthRole::default() };
    change(&admin, Change::PutRole(role)).await;
    let put = AuthUser { name: "cn-boss".into(), roles: vec!["boss".to_owned()] };
    change(&admin, Change::PutUser(put)).await;
    let shown = pki.authority.client("cn-boss", good()).expect("a certificate");
    assert_eq!(over_tls(&asks, None, far, "/api/status").await.status, 401);
    assert_eq!(over_tls(&asks, Some(&shown), far, "/api/status").await.status, 200);
    // A browser shows the certificate for whichever page sends the request, but not the header.
    let preview = "/api/members/transfer-leader?preview=1";
    let bare = Sends { method: "PUT", ..far };
    assert_eq!(over_tls(&asks, Some(&shown), bare, preview).await.status, 403);
    let own = Sends { host: "node1.example", ..PUT };
    assert_eq!(over_tls(&asks, Some(&shown), own, preview).await.status, 200);
}
