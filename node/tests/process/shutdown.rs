//! SIGTERM: leadership goes to somebody else, what is in flight ends, nobody notices.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use crate::support::{
    eventually,
    load::{Book, Load},
    nodes::Cluster,
    report,
};

/// How long a shutdown waits at most for what is in flight, by default.
const GRACE: Duration = Duration::from_secs(5);

/// The leader is told to stop under load, again and again: no write fails, the process ends with
/// status 0, and another one leads soon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminated_leader() {
    let mut cluster = Cluster::started("terminated-leader", 3, &[]).await;
    let client = cluster.client();
    let book = Book::default();
    let load = Load::start(&client, 8, &book);
    let mut times = Vec::new();
    for _ in 0..4 {
        cluster.caught_up().await;
        let (leader, term) = cluster.leader().await;
        let before = book.acknowledged();
        eventually("some load", || async { (book.acknowledged() > before + 20).then_some(()) })
            .await;
        let told = Instant::now();
        cluster.node(leader).signal(Signal::TERM);
        let status = cluster.node(leader).wait_ended().await;
        let gone = told.elapsed();
        let first = eventually("a write acknowledged by the next leader", || async {
            book.first_after_term(term)
        })
        .await;
        times.push((first.saturating_duration_since(told), gone));
        assert_eq!(status.code(), Some(0), "a node that is told to stop ends with status 0");
        let log = cluster.node(leader).log_text();
        assert!(log.contains("the node has stopped"), "it stopped in good order");
        cluster.node(leader).start();
    }
    load.stop().await;
    report(&format!(
        "terminated_leader: (first write of the next leader, process gone): {times:?}"
    ));
    book.report("terminated_leader");
    cluster.assert_running();
    book.audit(&client).await;
    assert_eq!((book.unknown(), book.not_applied()), (0, 0), "no write fails");
    // On a busy machine one may take long; if all do, something is waited for that never ends.
    let fastest = times.iter().map(|(_, gone)| *gone).min().expect("there are some");
    assert!(fastest < GRACE / 2, "the processes took long to end: {times:?}");
}

/// All nodes are told to stop at once; the data is there when they start again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_terminated() {
    let mut cluster = Cluster::started("all-terminated", 3, &[]).await;
    let client = cluster.client();
    let book = Book::default();
    let load = Load::start(&client, 4, &book);
    for _ in 0..2 {
        let before = book.acknowledged();
        eventually("some load", || async { (book.acknowledged() > before + 50).then_some(()) })
            .await;
        for node in &cluster.nodes {
            node.signal(Signal::TERM);
        }
        for node in &mut cluster.nodes {
            let status = node.wait_ended().await;
            assert_eq!(status.code(), Some(0), "node {} ended with {status}", node.id);
        }
        cluster.start_all();
        cluster.leader().await;
    }
    load.stop().await;
    for node in &cluster.nodes {
        let log = node.log_text();
        let errors: Vec<_> = log.lines().filter(|line| line.contains(" ERROR ")).collect();
        assert!(errors.is_empty(), "a clean stop is no error, for node {}: {errors:#?}", node.id);
    }
    book.report("all_terminated");
    cluster.assert_running();
    book.audit(&client).await;
}
