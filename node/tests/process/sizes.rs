//! Clusters that grow and shrink while clients write, and what a node serves that does not vote.

use std::time::Duration;

use tally_client::{Client, Consistency, ReadLevel, Role};

use crate::{
    members::{Operator, goes_on},
    support::{
        load::{Book, Load},
        nodes::Cluster,
    },
};

/// Reads at one node, at each level that it serves without asking another one.
async fn serves(address: &str, node: u64, written: &Client) {
    let at = Client::builder([address]).build().expect("an address");
    let bounded = ReadLevel::bounded(Duration::from_secs(5));
    let token = written.session_token().expect("it has written");
    let levels = [
        (bounded, Consistency::Bounded),
        (ReadLevel::Session(Some(token)), Consistency::Session),
        (ReadLevel::Local, Consistency::Local),
    ];
    for (level, kept) in levels {
        let asked = format!("{level:?}");
        let read = at.counter("seen").get().level(level).await;
        let read = read.unwrap_or_else(|error| panic!("{asked}: {error}"));
        let header = &read.header;
        assert_eq!((header.node_id, header.role), (node, Role::Learner), "{asked}");
        assert_eq!((read.value, header.consistency), (7, kept), "{asked}");
    }
}

/// One node becomes three by two commands, gets a learner for reads, and is one node again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_becomes_three_and_one_again() {
    let test = "one_node_becomes_three_and_one_again";
    let mut cluster = Cluster::started("sizes", 1, &[]).await;
    let Some(operator) = Operator::of(test, &cluster.addresses()) else { return };
    let (client, book) = (cluster.client(), Book::default());
    let load = Load::start(&client, 4, &book);
    goes_on(&book).await;
    for id in [2, 3, 4] {
        let address = cluster.newcomer(id, &["--node-id", &id.to_string()]).peer.clone();
        cluster.node(id).start();
        let add = ["cluster", "add", &id.to_string(), &address].map(str::to_owned);
        let mut add: Vec<&str> = add.iter().map(String::as_str).collect();
        if id == 4 {
            add.push("--learner");
        }
        operator.runs(&add).await.done(&[]);
        goes_on(&book).await;
    }
    assert_eq!(operator.ids("voters").await, [1, 2, 3]);
    // Reads that take nothing of the voters.
    client.counter("seen").add(7).await.expect("three are there");
    cluster.caught_up().await;
    let learner = cluster.node(4).client.clone();
    serves(&learner, 4, &client).await;
    operator.runs(&["cluster", "remove", "4"]).await.done(&[]);
    // Whoever leads may go, too.
    operator.gets_done(&["cluster", "transfer-leader", "3"]).await;
    for id in ["3", "2"] {
        let remove = ["cluster", "remove", id];
        if id == "3" {
            operator.runs(&remove).await.refused(&["--accept-fewer-failures"]);
        }
        operator.gets_done(&[&remove[..], &["--accept-fewer-failures"]].concat()).await;
        goes_on(&book).await;
    }
    assert_eq!(operator.ids("voters").await, [1]);
    load.stop().await;
    book.report(test);
    book.audit(&client).await;
    assert_eq!((book.unknown(), book.not_applied()), (0, 0), "no write fails");
}

/// Five voters, of whom two may fail, become three, of whom one may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_become_three() {
    let test = "five_become_three";
    let cluster = Cluster::started("five-to-three", 5, &[]).await;
    let Some(operator) = Operator::of(test, &cluster.addresses()) else { return };
    let (client, book) = (cluster.client(), Book::default());
    let load = Load::start(&client, 4, &book);
    goes_on(&book).await;
    let (leader, _) = cluster.leader().await;
    let other = leader % 5 + 1;
    for id in [other, leader] {
        let remove =
            ["cluster", "remove", &id.to_string(), "--accept-fewer-failures"].map(str::to_owned);
        let remove: Vec<&str> = remove.iter().map(String::as_str).collect();
        operator.gets_done(&remove).await;
        goes_on(&book).await;
    }
    let voters = operator.ids("voters").await;
    assert!(
        voters.len() == 3 && !voters.contains(&leader) && !voters.contains(&other),
        "{voters:?}"
    );
    load.stop().await;
    book.report(test);
    book.audit(&client).await;
    assert_eq!((book.unknown(), book.not_applied()), (0, 0), "no write fails");
}
