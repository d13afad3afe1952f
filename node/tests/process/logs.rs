//! What the logs of the nodes say of a bad hour: each thing once, and nothing else.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::{
    eventually,
    load::{Book, Load},
    nodes::Cluster,
};

/// Lines that a node may write of all that this test does to it, its start and its stop included.
const LINES_MAX: usize = 40;

/// The lines that have all of these.
fn lines<'a>(log: &'a str, parts: &[&str]) -> Vec<&'a str> {
    log.lines().filter(|line| parts.iter().all(|part| line.contains(part))).collect()
}

/// Under load a follower stands still, the leader dies and comes back, and all stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_hour_is_told_once() {
    let mut cluster = Cluster::started("logs", 3, &[]).await;
    let client = cluster.client();
    let book = Book::default();
    let load = Load::start(&client, 8, &book);
    let (leader, term) = cluster.leader().await;
    let ids: Vec<u64> = cluster.nodes.iter().map(|node| node.id).collect();
    let paused = *ids.iter().find(|id| **id != leader).expect("there are three");

    cluster.node(paused).signal(Signal::STOP);
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster.node(paused).signal(Signal::CONT);
    cluster.caught_up().await;
    for id in ids.iter().filter(|id| **id != paused) {
        let node = format!("node={paused} ");
        eventually("the node is said to be back", || async {
            let log = cluster.nodes.iter().find(|node| node.id == *id)?.log_text();
            (!lines(&log, &[&node, "reached again"]).is_empty()).then_some(())
        })
        .await;
        let log = cluster.node(*id).log_text();
        assert_eq!(
            lines(&log, &[&node, "WARN a node can't be reached", "address="]).len(),
            1,
            "{log}"
        );
        assert_eq!(lines(&log, &[&node, "reached again", "silent_ms="]).len(), 1, "{log}");
    }

    cluster.node(leader).kill();
    eventually("a write of a later leader", || async { book.first_after_term(term) }).await;
    cluster.node(leader).start();
    cluster.caught_up().await;
    let (now, later) = cluster.leader().await;
    let log = cluster.node(now).log_text();
    assert_eq!(lines(&log, &["this node leads", &format!("term={later}")]).len(), 1, "{log}");

    load.stop().await;
    cluster.assert_running();
    for node in &cluster.nodes {
        node.signal(Signal::TERM);
    }
    for id in ids {
        assert_eq!(cluster.node(id).wait_ended().await.code(), Some(0));
        let log = cluster.node(id).log_text();
        assert!(lines(&log, &["ERROR"]).is_empty(), "{log}");
        assert!(log.contains("the members"), "{log}");
        assert!(log.lines().count() <= LINES_MAX, "{} lines: {log}", log.lines().count());
    }
}
