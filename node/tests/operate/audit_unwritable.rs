//! An audit log that can't be written, in both modes; and connections that are refused before they ask anything.

use std::time::Duration;

use tally_client::{Code, Outcome, Transport, reason};
use tally_node::{config::Config, node::NodeError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    audit::{Logs, assert_fields, once},
    cluster::{Cluster, eventually},
    tls::{Pki, connector, localhost},
};

/// Takes the folder away, in which the file would have to be made again.
fn take_away(logs: &Logs) {
    std::fs::rename(logs.folder(), logs.folder().with_extension("away")).unwrap();
}

fn bring_back(logs: &Logs) {
    std::fs::rename(logs.folder().with_extension("away"), logs.folder()).unwrap();
}

async fn own_audit_log(cluster: &Cluster) -> tally_client::AuditLogInfo {
    let status = once(cluster, 1, "", Transport::Unary).status().await.unwrap();
    status.nodes[0].audit_log.clone().expect("it keeps one")
}

#[tokio::test]
async fn where_lines_may_be_dropped_requests_go_on_and_what_waits_is_written_later() {
    let logs = Logs::new();
    let cluster = Cluster::start_with(1, |config| logs.keep(config)).await;
    let client = once(&cluster, 1, "", Transport::Unary);
    client.counter("before").add(1).await.unwrap();
    logs.about(1, "before").await;
    take_away(&logs);
    for number in 0..20 {
        client.counter(format!("meanwhile/{number}")).add(1).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let told = own_audit_log(&cluster).await;
    assert!(!told.must_not_drop && told.error.contains("node-1.log"), "{told:?}");
    client.counter("late").add(1).await.unwrap();
    bring_back(&logs);
    for number in 0..20 {
        logs.about(1, &format!("meanwhile/{number}")).await;
    }
    logs.about(1, "late").await;
    let told = own_audit_log(&cluster).await;
    assert_eq!((told.error.as_str(), told.dropped_lines, told.refused_requests), ("", 0, 0));
}

#[tokio::test]
async fn a_log_that_must_not_drop_lets_nothing_in_that_it_can_t_record() {
    let logs = Logs::new();
    let keep = |config: &mut Config| {
        logs.keep(config);
        config.audit_log_must_not_drop = true;
    };
    let cluster = Cluster::start_with(1, keep).await;
    let stream = once(&cluster, 1, "", Transport::Stream);
    let unary = once(&cluster, 1, "", Transport::Unary);
    for client in [&stream, &unary] {
        client.counter("stock").add(1).await.unwrap();
    }
    take_away(&logs);
    // Whichever line is the next finds out, and waits.
    let _ = unary.counter("finds out").add(1).max_attempts(1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    for client in [&stream, &unary] {
        let add = client.counter("stock").add(1).max_attempts(1);
        let refused = add.await.expect_err("it can't be recorded");
        assert_eq!(refused.reason(), reason::AUDIT_LOG_UNAVAILABLE, "{refused}");
        assert_eq!(refused.code(), Code::Unavailable);
        assert_eq!(refused.outcome(), Some(Outcome::NotApplied));
        // Reads that need no line go on.
        assert_eq!(client.counter("stock").get().await.unwrap().value, 2);
    }
    let another = once(&cluster, 1, "", Transport::Stream);
    assert_eq!(another.counter("stock").get().await.unwrap().value, 2, "over a new stream");
    let step = unary.apply().then(tally_client::apply::Operation::counter_add("stock", 1));
    let refused = step.max_attempts(1).await.expect_err("it can't be recorded");
    assert_eq!(refused.reason(), reason::AUDIT_LOG_UNAVAILABLE);
    let told = own_audit_log(&cluster).await;
    assert!(told.must_not_drop && !told.error.is_empty(), "{told:?}");
    assert!(told.refused_requests >= 3, "{told:?}");
    bring_back(&logs);
    let missing = logs.only(1, "what is missing", |line| line["kind"] == "dropped").await;
    let refused = told.refused_requests.into();
    assert_fields(&missing, &[("dropped", 0.into()), ("requests_refused", refused)]);
    assert_eq!(own_audit_log(&cluster).await.error, "");
    for client in [&stream, &unary] {
        client.counter("after").add(1).await.unwrap();
    }
    assert_eq!(unary.counter("stock").get().await.unwrap().value, 2);
}

#[tokio::test]
async fn a_node_whose_audit_log_has_no_folder_does_not_start() {
    let logs = Logs::new();
    for must_not_drop in [false, true] {
        let mut cluster = Cluster::prepare(1, |config| {
            config.audit_log_file = logs.folder().join("none/audit.log");
            config.audit_log_must_not_drop = must_not_drop;
        });
        let error = cluster.start_node(1).await.expect_err("there is no such folder");
        assert!(matches!(error, NodeError::AuditLog(_)), "{error:?}");
        assert!(error.needs_a_person());
        assert!(error.to_string().contains("none/audit.log"), "{error}");
    }
}

#[tokio::test]
async fn a_stop_brings_what_is_queued_into_the_file_and_a_start_goes_on_in_it() {
    let logs = Logs::new();
    let mut cluster = Cluster::start_with(1, |config| logs.keep(config)).await;
    let client = once(&cluster, 1, "", Transport::Unary);
    for number in 0..50 {
        client.counter(format!("n/{number}")).add(1).await.unwrap();
    }
    drop(client);
    cluster.stop(1).await;
    let lines = logs.lines(1);
    let adds = lines.iter().filter(|line| line["method"] == "tally.v1.Counters/Add").count();
    assert_eq!(adds, 50);
    assert_eq!(lines.last().unwrap()["kind"], "stop");
    cluster.start_node(1).await.unwrap();
    eventually("a start", || logs.lines(1).last().is_some_and(|line| line["kind"] == "start"))
        .await;
    assert_eq!(logs.lines(1)[..lines.len()], lines);
}

#[tokio::test]
async fn connections_that_are_refused_are_recorded_with_the_reason() {
    let (pki, logs) = (Pki::new(), Logs::new());
    let keep = |config: &mut Config| {
        pki.of_known_clients(config);
        logs.keep(config);
    };
    let cluster = Cluster::start_with(1, keep).await;
    let address = cluster.client_address(1);
    let connect = || tokio::net::TcpStream::connect(&address);
    let refused = |why: &'static str| {
        move |line: &serde_json::Value| {
            line["kind"] == "connection_refused" && line["why"].as_str().unwrap().contains(why)
        }
    };
    let mut plain = connect().await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let line = logs.only(1, "no TLS", refused("speaks no TLS")).await;
    assert_fields(&line, &[("port", "client".into()), ("from", "127.0.0.1".into())]);

    let stranger = Pki::new();
    let pair = stranger.authority.client("billing", crate::tls::good()).unwrap();
    let shown = connector(&pki.authority, Some(&pair));
    let mut stream = shown.connect(localhost(), connect().await.unwrap()).await.unwrap();
    let _ = stream.read(&mut [0; 16]).await.expect_err("its CA is not known");
    logs.only(1, "another CA", refused("no CA in the ca_file")).await;

    let ended = pki.authority.client("billing", crate::tls::ended()).unwrap();
    let shown = connector(&pki.authority, Some(&ended));
    let mut stream = shown.connect(localhost(), connect().await.unwrap()).await.unwrap();
    let _ = stream.read(&mut [0; 16]).await.expect_err("it is over");
    logs.only(1, "one that is over", refused("expired")).await;

    let plain_logs = Logs::new();
    let open = Cluster::start_with(1, |config| plain_logs.keep(config)).await;
    let tcp = tokio::net::TcpStream::connect(open.client_address(1)).await.unwrap();
    connector(&pki.authority, None).connect(localhost(), tcp).await.expect_err("it speaks none");
    plain_logs.only(1, "TLS", refused("speaks TLS, and this port does not")).await;
}
