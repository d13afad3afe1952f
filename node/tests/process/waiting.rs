//! A node that waits for its peers: it says for whom, wherever somebody looks.

use std::time::Duration;

use tally_client::{Client, Outcome, Transport};
use tally_proto::reason;

use crate::support::{
    eventually,
    load::Book,
    nodes::{Cluster, TALLYD},
};

async fn health(address: &str) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(TALLYD);
    command.args(["health", "--address", address]).kill_on_drop(true);
    let output = command.output().await.expect("it can be started");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// One of three first members is there. Its log, its health and its client port say whom it waits for, a
/// write is known not to be applied, and when the others come the same address serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_waits_says_for_whom() {
    let mut cluster = Cluster::new("waiting", 3, &[]);
    let address = cluster.nodes[0].client.clone();
    cluster.nodes[0].start();
    let said = eventually("its health names what it waits for", || async {
        let (code, said) = health(&address).await;
        assert_eq!(code, Some(1), "{said}");
        (said.contains("node 2 (") && said.contains("node 3 (")).then_some(said)
    })
    .await;
    for part in ["NOT_SERVING", "Connection refused", "all of initial_cluster"] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }

    for transport in [Transport::Stream, Transport::Unary] {
        let builder = Client::builder([address.clone()]).transport(transport);
        let client = builder.deadline(Duration::from_secs(1)).build().expect("well-formed");
        let refused = client.counter("hits").add(1).await.expect_err("there is no cluster");
        assert_eq!(refused.reason(), reason::NODE_STARTING, "{transport:?}: {refused}");
        assert_eq!(refused.outcome(), Some(Outcome::NotApplied), "{transport:?}: {refused}");
        assert!(refused.message().contains("node 3 ("), "{transport:?}: {refused}");
        let refused = client.counter("hits").get().await.expect_err("there is no cluster");
        assert_eq!(refused.reason(), reason::NODE_STARTING, "{transport:?}: {refused}");
    }
    let log = cluster.nodes[0].log_text();
    assert!(log.contains("to form the cluster it waits for node 2 ("), "{log}");

    cluster.nodes[1].start();
    cluster.nodes[2].start();
    cluster.leader().await;
    let (code, said) = eventually("it serves at the same address", || async {
        let answer = health(&address).await;
        (answer.0 == Some(0)).then_some(answer)
    })
    .await;
    assert_eq!((code, said.trim()), (Some(0), "SERVING"));
    let client = Client::builder([address]).build().expect("well-formed");
    Book::default().add(&client, "hits").await.expect("a healthy cluster");
    cluster.assert_running();
}
