//! The metrics port, asked over real connections: what is exported is what is documented, moves when something
//! happens, and is what the probes go by.

use std::{collections::BTreeMap, path::Path, time::Duration};

use tally_client::Client;
use tally_node::{
    config::HotItemNames,
    metrics::{
        catalog::{CATALOG, Family, Kind},
        page::page,
    },
};
use tally_proto::v1::{self, counters_client::CountersClient};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::transport::Channel;

use crate::cluster::{Cluster, PATIENCE};

/// What the port answered.
pub(crate) struct Answer {
    status: u16,
    head: String,
    pub(crate) body: String,
}

async fn send(address: &str, request: &str) -> Answer {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        Ok::<_, std::io::Error>(String::from_utf8(bytes).expect("it is text"))
    };
    let text =
        tokio::time::timeout(PATIENCE, exchange).await.expect("it ends").expect("it answers");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Answer { status: status.expect("a status"), head: head.to_lowercase(), body: body.to_owned() }
}

pub(crate) async fn get(address: &str, path: &str, accept: &str) -> Answer {
    send(address, &format!("GET {path} HTTP/1.1\r\nhost: {address}\r\naccept: {accept}\r\n\r\n"))
        .await
}

/// Samples by name and labels.
pub(super) async fn scrape(address: &str) -> BTreeMap<String, f64> {
    let answer = get(address, "/metrics", "").await;
    assert_eq!(answer.status, 200);
    let samples = answer.body.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

fn address(cluster: &Cluster, id: u64) -> String {
    cluster.node(id).metrics_address().expect("it has a metrics port").to_owned()
}

fn addresses(cluster: &Cluster) -> BTreeMap<u64, String> {
    cluster.ids().into_iter().map(|id| (id, address(cluster, id))).collect()
}

fn counters(cluster: &Cluster, id: u64) -> CountersClient<Channel> {
    CountersClient::new(cluster.channel(id))
}

fn add_to_hits() -> v1::CountersAddRequest {
    v1::CountersAddRequest { name: "hits".into(), delta: 1, ..Default::default() }
}

async fn observed() -> Cluster {
    let mut cluster = Cluster::prepare(3, |config| {
        config.metrics_listen = "127.0.0.1:0".to_owned();
        config.hot_item_names = HotItemNames::Shown;
    });
    cluster.start_all().await;
    cluster.settled().await;
    cluster
}

/// Compares, or writes anew with UPDATE_METRICS_PAGE=1.
fn check_page() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    if std::env::var_os("UPDATE_METRICS_PAGE").is_some() {
        std::fs::write(&path, page()).expect("the page can be written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page(),
        "docs/metrics.md is not what the code registers: UPDATE_METRICS_PAGE=1 writes it"
    );
}

#[tokio::test]
async fn what_a_node_exports_is_what_the_page_says() {
    check_page();
    let cluster = observed().await;
    let leader = cluster.leader().await;
    let mut client = counters(&cluster, leader);
    client.add(add_to_hits()).await.expect("the write is applied");
    let get_nothing = v1::CountersGetRequest { name: "none".into(), ..Default::default() };
    client.get(get_nothing).await.expect_err("there is no such counter");

    let address = address(&cluster, leader);
    let families: BTreeMap<&str, &Family> =
        CATALOG.iter().flat_map(|(_, families)| families.iter()).map(|it| (it.name, *it)).collect();
    let text = get(&address, "/metrics", "text/plain").await;
    assert!(text.head.contains("content-type: text/plain; version=0.0.4"), "{}", text.head);
    let mut told = BTreeMap::new();
    for line in text.body.lines() {
        if let Some(line) = line.strip_prefix("# TYPE ") {
            let (name, kind) = line.split_once(' ').expect("a name and a type");
            assert!(
                told.insert(name.to_owned(), kind.to_owned()).is_none(),
                "{name} is there twice"
            );
        }
    }
    for (name, family) in &families {
        let kind = if family.kind == Kind::Info { "gauge" } else { family.kind.name() };
        assert_eq!(told.remove(*name).as_deref(), Some(kind), "{name}");
    }
    assert!(told.is_empty(), "not in the catalogue: {told:?}");

    let mut sampled = BTreeMap::new();
    for name in scrape(&address).await.keys() {
        let (name, labels) = name.split_once('{').unwrap_or((name, ""));
        let ends = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let ends =
            ends.filter(|base| families.get(base).is_some_and(|it| it.kind == Kind::Histogram));
        let family = families[ends.unwrap_or(name)];
        let labels = labels.trim_end_matches('}').split("\",").filter_map(|it| it.split_once('='));
        let labels: Vec<&str> = labels.map(|(name, _)| name).filter(|name| *name != "le").collect();
        assert_eq!(labels, family.labels, "{name}");
        *sampled.entry(family.name).or_insert(0) += 1;
    }
    let none: Vec<_> = families.keys().filter(|name| !sampled.contains_key(*name)).collect();
    // There is no audit log, no TLS, no backup and no quota here, and nothing was hot for a whole window.
    let absent = [
        &"tally_audit_log_failing",
        &"tally_audit_log_lines_total",
        &"tally_audit_log_queued_bytes",
        &"tally_audit_log_refused_requests_total",
        &"tally_audit_log_written_bytes_total",
        &"tally_backup_interval_seconds",
        &"tally_backup_last_bytes",
        &"tally_backup_last_revision",
        &"tally_backup_last_success_timestamp_seconds",
        &"tally_backups_total",
        &"tally_certificate_not_after_timestamp_seconds",
        &"tally_certificate_not_before_timestamp_seconds",
        &"tally_hot_item_operations_per_second",
        &"tally_quota_counting",
        &"tally_quota_items",
        &"tally_quota_items_max",
        &"tally_quota_max_bytes",
        &"tally_quota_size_bytes",
        &"tally_quota_soft_passed",
    ];
    assert_eq!(none, absent, "without a sample on a leader");

    let open = get(&address, "/metrics", "application/openmetrics-text; version=1.0.0").await;
    assert!(open.head.contains("content-type: application/openmetrics-text; version=1.0.0"));
    assert!(open.body.ends_with("# EOF\n"), "{}", open.body);
    assert!(open.body.contains("# TYPE tally_requests counter\n"));
}

#[tokio::test]
async fn numbers_move_with_what_happens() {
    let cluster = observed().await;
    let leader = cluster.leader().await;
    let addresses = addresses(&cluster);
    let follower = addresses.keys().copied().find(|id| *id != leader).expect("there are others");
    let before = scrape(&addresses[&leader]).await;

    // Through the library, packed on a stream.
    let endpoints = [format!("http://{}", cluster.client_address(leader))];
    let client = Client::connect(endpoints).await.expect("the library connects");
    for _ in 0..10 {
        client.counter("hits").add(1).await.expect("the write is applied");
    }

    // By hand: forwarded by a follower, read at two levels, refused, and sent again.
    let mut at_follower = counters(&cluster, follower);
    let options = v1::WriteOptions { idempotency_key: Some("once".into()), ..Default::default() };
    for _ in 0..2 {
        let add = v1::CountersAddRequest { options: Some(options.clone()), ..add_to_hits() };
        at_follower.add(add).await.expect("the write is applied");
    }
    for level in [v1::ReadLevel::Linearizable, v1::ReadLevel::Local] {
        let read = v1::ReadOptions { level: level as i32, ..Default::default() };
        let get = v1::CountersGetRequest { name: "hits".into(), read: Some(read) };
        at_follower.get(get).await.expect("it is there");
    }
    let get = v1::CountersGetRequest { name: "none".into(), ..Default::default() };
    at_follower.get(get).await.expect_err("it is not there");

    let (led, followed) = (scrape(&addresses[&leader]).await, scrape(&addresses[&follower]).await);
    let grew = |name: &str| led[name] - before.get(name).copied().unwrap_or(0.0);
    let adds = "{method=\"CountersAdd\",transport=\"stream\",outcome=\"ok\"}";
    assert_eq!(grew(&format!("tally_requests_total{adds}")), 10.0);
    assert_eq!(grew(&format!("tally_request_duration_seconds_count{adds}")), 10.0);
    assert!(grew(&format!("tally_request_duration_seconds_sum{adds}")) > 0.0);
    assert_eq!(led["tally_requests_in_flight{method=\"CountersAdd\",transport=\"stream\"}"], 0.0);
    assert!(grew("tally_entry_commands_count") >= 10.0);
    assert!(grew("tally_log_sync_duration_seconds_count") >= 10.0);
    assert!(grew("tally_log_written_bytes_total") > 100.0);
    assert!(grew("tally_applied_commands_total") >= 12.0);
    assert_eq!(led["tally_is_leader"], 1.0);
    assert_eq!(led["tally_voters"], 3.0);
    assert_eq!(led["tally_counters"], 1.0);
    assert_eq!(led["tally_idempotency_keys"], 1.0);
    assert_eq!(led["tally_ready{check=\"quorum\"}"], 1.0);
    let peer = format!("tally_peer_lag_entries{{peer=\"{follower}\"}}");
    assert!(led[&peer] < 10.0, "{peer} is {}", led[&peer]);
    assert!(led["process_resident_memory_bytes"] > 1e6);

    assert_eq!(followed["tally_is_leader"], 0.0);
    assert_eq!(followed["tally_leader_id"], leader as f64);
    assert_eq!(followed["tally_forwarded_writes_total"], 2.0);
    assert_eq!(followed["tally_replays_total{by=\"key\"}"], 1.0);
    assert!(followed["tally_reads_total{level=\"linearizable\"}"] >= 1.0);
    assert_eq!(followed["tally_reads_total{level=\"local\"}"], 1.0);
    assert!(followed["tally_read_staleness_seconds_count{level=\"linearizable\"}"] >= 1.0);
    assert!(followed["tally_read_proof_age_seconds"] < PATIENCE.as_secs_f64());
    let missing = "tally_request_errors_total{method=\"CountersGet\",reason=\"COUNTER_NOT_FOUND\"}";
    assert_eq!(followed[missing], 1.0);
    let refused =
        "tally_requests_total{method=\"CountersGet\",transport=\"unary\",outcome=\"refused\"}";
    assert_eq!(followed[refused], 1.0);
}

#[tokio::test]
async fn readiness_says_why_not() {
    let mut cluster = observed().await;
    let leader = cluster.leader().await;
    let addresses = addresses(&cluster);
    let address = &addresses[&leader];
    let ready = async |wanted: bool| {
        let asked = async {
            loop {
                let answer = get(address, "/readyz", "").await;
                if (answer.status == 200) == wanted {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("it comes to that")
    };
    assert_eq!(ready(true).await.body, "ready\n");
    let verbose = get(address, "/readyz?verbose", "").await;
    for check in ["started", "not_shutting_down", "leader", "quorum", "linearizable_reads", "disk"]
    {
        assert!(verbose.body.contains(&format!("[+] {check}\n")), "{}", verbose.body);
    }

    for id in addresses.keys().filter(|id| **id != leader) {
        cluster.kill(*id).await;
    }
    let answer = ready(false).await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("[-] "), "{}", answer.body);
    assert!(answer.body.ends_with("not ready\n"), "{}", answer.body);
    // A node without a quorum has nothing wrong with it: a restart would not help.
    assert_eq!(get(address, "/livez", "").await.status, 200);
    let lost = async {
        while scrape(address).await["tally_has_quorum"] > 0.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, lost).await.expect("the quorum is seen to be lost");
    let verbose = get(address, "/readyz?verbose", "").await;
    assert!(verbose.body.contains("[-] quorum: "), "{}", verbose.body);
    assert!(verbose.body.contains("[+] disk\n"), "{}", verbose.body);
}

#[tokio::test]
async fn the_port_takes_what_it_can_and_no_more() {
    let cluster = observed().await;
    let leader = cluster.leader().await;
    let address = address(&cluster, leader);

    assert_eq!(get(&address, "/", "").await.status, 404);
    let post = format!("POST /metrics HTTP/1.1\r\nhost: {address}\r\ncontent-length: 0\r\n\r\n");
    let post = send(&address, &post).await;
    assert_eq!(post.status, 405);
    assert!(post.head.contains("allow: get, head, put"), "{}", post.head);
    let put = format!("PUT /metrics HTTP/1.1\r\nhost: {address}\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(send(&address, &put).await.status, 405);
    let head = send(&address, &format!("HEAD /livez HTTP/1.1\r\nhost: {address}\r\n\r\n")).await;
    assert_eq!((head.status, &*head.body), (200, ""));
    let long = format!("GET /{} HTTP/1.1\r\nhost: {address}\r\n\r\n", "x".repeat(64 * 1024));
    assert!((400..500).contains(&send(&address, &long).await.status));

    // Connections that say nothing take its places until their time is over; clients go on meanwhile.
    let mut silent = Vec::new();
    for _ in 0..32 {
        silent.push(TcpStream::connect(&address).await.expect("the system connects"));
    }
    let mut refused = silent.pop().expect("there are some");
    let mut nothing = Vec::new();
    let closed =
        tokio::time::timeout(Duration::from_secs(4), refused.read_to_end(&mut nothing)).await;
    assert!(matches!(closed, Ok(Ok(0) | Err(_))), "one too many is closed at once: {closed:?}");
    counters(&cluster, leader).add(add_to_hits()).await.expect("the write is applied");
    let freed = async {
        loop {
            let request = format!("GET /livez HTTP/1.1\r\nhost: {address}\r\n\r\n");
            let mut stream = TcpStream::connect(&address).await.expect("the system connects");
            let mut text = String::new();
            if stream.write_all(request.as_bytes()).await.is_ok()
                && stream.read_to_string(&mut text).await.is_ok()
                && text.ends_with("alive\n")
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, freed).await.expect("silent connections lose their places");
}

#[tokio::test]
async fn a_port_that_is_taken_costs_the_metrics_and_not_the_node() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let address = taken.local_addr().expect("it has an address").to_string();
    let mut cluster = Cluster::prepare(1, |config| config.metrics_listen = address.clone());
    cluster.start_all().await;
    let leader = cluster.leader().await;
    assert_eq!(cluster.node(leader).metrics_address(), None);
    counters(&cluster, leader).add(add_to_hits()).await.expect("the write is applied");
}

#[tokio::test]
async fn an_audit_log_is_measured_where_there_is_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("audit.log");
    let mut cluster = Cluster::prepare(1, |config| {
        config.metrics_listen = "127.0.0.1:0".to_owned();
        config.audit_log_file = file.clone();
    });
    cluster.start_all().await;
    let leader = cluster.leader().await;
    counters(&cluster, leader).add(add_to_hits()).await.expect("the write is applied");
    let address = address(&cluster, leader);
    let written = async {
        loop {
            let samples = scrape(&address).await;
            if samples["tally_audit_log_lines_total{result=\"written\"}"] >= 2.0 {
                return samples;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let samples = tokio::time::timeout(PATIENCE, written).await.expect("lines are written");
    assert!(samples["tally_audit_log_written_bytes_total"] > 100.0);
    assert_eq!(samples["tally_audit_log_lines_total{result=\"dropped\"}"], 0.0);
    assert_eq!(samples["tally_audit_log_refused_requests_total"], 0.0);
    assert_eq!(samples["tally_audit_log_failing"], 0.0);
}
