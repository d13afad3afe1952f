//! What a process tells whoever watches it: slow operations, with where the time went; and as much of the rest
//! as is asked for while it runs.

use tally_client::{Client, Transport};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    eventually,
    nodes::{Cluster, free_port},
};

/// What a log's line says of a field, as a number.
fn number(line: &str, field: &str) -> f64 {
    let value = line.split(&format!("{field}=")).nth(1).and_then(|rest| rest.split(' ').next());
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {field}: {line}"))
}

/// Sends one request to a metrics port; gives the status and all that was answered.
async fn ask(address: &str, head: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let length = body.len();
    let request = format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.expect("it takes the request");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("it answers");
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_operation_is_told_with_where_the_time_went() {
    // Every one is, as one of three nodes that wait for each other's disks.
    let mut cluster = Cluster::started("slow", 3, &["--slow-operation-ms", "1"]).await;
    let (leader, _) = cluster.leader().await;
    for transport in [Transport::Stream, Transport::Unary] {
        let at = [cluster.node(leader).client.clone()];
        let client = Client::builder(at).transport(transport).build().expect("a client");
        let is_it =
            |line: &&str| line.contains("a slow operation") && line.contains("=\"CountersAdd\"");
        let before = cluster.node(leader).log_text().lines().filter(is_it).count();
        let line = eventually("a write that took longer than 1 ms", || async {
            client.counter("hits").add(1).await.expect("the write is applied");
            let log = cluster.nodes.iter().find(|node| node.id == leader)?.log_text();
            log.lines().filter(is_it).nth(before).map(str::to_owned)
        })
        .await;
        assert!(line.contains("ended=\"ok\""), "{line}");
        let total = number(&line, "total_ms");
        assert!(total > 1.0, "{line}");
        let parts = ["queue_ms", "log_ms", "quorum_ms", "apply_ms", "answer_ms"];
        let sum: f64 = parts.iter().map(|part| number(&line, part)).sum();
        // Each is cut to the µs.
        assert!((total - sum).abs() < 0.01, "{line}");
        assert!(number(&line, "log_ms") + number(&line, "quorum_ms") > 0.0, "{line}");
    }
    cluster.assert_running();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_logged_is_changed_while_it_runs() {
    let address = format!("127.0.0.1:{}", free_port());
    let flags = ["--metrics-listen", &address, "--log-filter", "warn"];
    let mut cluster = Cluster::started("log-filter", 1, &flags).await;
    let client = cluster.client();
    let host = format!("host: {address}");
    let (status, text) = ask(&address, &format!("GET /log-filter HTTP/1.1\r\n{host}"), "").await;
    assert!(status == 200 && text.ends_with("\r\n\r\nwarn\n"), "{text}");

    let put = |host: &str, filter: &'static str| {
        let (address, head) = (address.clone(), format!("PUT /log-filter HTTP/1.1\r\n{host}"));
        async move { ask(&address, &head, filter).await }
    };
    assert!(!cluster.node(1).log_text().contains("DEBUG"));
    let (status, text) = put(&host, "info,tally_node=debug\n").await;
    assert!(status == 200 && text.ends_with("info,tally_node=debug\n"), "{text}");
    eventually("a line of the new level", || async {
        let _ = client.counter("none").get().await;
        cluster.nodes[0].log_text().contains("DEBUG").then_some(())
    })
    .await;

    let (status, text) = put(&host, "tally_node=loud").await;
    assert_eq!(status, 400, "{text}");
    // Another host whose name leads here: what a web page could send.
    let (status, text) = put("host: evil.example", "off").await;
    assert_eq!(status, 403, "{text}");
    let (_, text) = ask(&address, &format!("GET /log-filter HTTP/1.1\r\n{host}"), "").await;
    assert!(text.ends_with("info,tally_node=debug\n"), "{text}");

    let (status, _) = put(&host, "info").await;
    assert_eq!(status, 200);
    let told = "the log filter is changed before=info,tally_node=debug now=\"info\"";
    let log = cluster.node(1).log_text();
    assert!(log.contains(told), "{log}");
}
