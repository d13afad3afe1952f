//! A node that says nothing: it is given up for a newer leader, and not because the leader is elsewhere.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use tally_client::{Builder, Client, ReadLevel};
use tokio::net::TcpListener;

use crate::fake::{Act, Cluster, FAR, eventually};

type Troubles = Arc<Mutex<Vec<String>>>;

/// A client that tells of its troubles.
fn client(builder: Builder) -> (Client, Troubles) {
    let troubles = Troubles::default();
    let seen = Arc::clone(&troubles);
    let builder = builder.deadline(FAR).one_shot();
    let builder =
        builder.on_trouble(move |trouble| seen.lock().unwrap().push(trouble.message.to_owned()));
    (builder.build().unwrap(), troubles)
}

/// A cluster whose leader is not the node that its clients ask first, which is told.
async fn asked_first() -> (Cluster, usize) {
    let cluster = Cluster::start(3).await;
    let read = cluster.client();
    read.counter("hits").get().level(ReadLevel::Local).await.ok();
    let reads = |node: &usize| cluster.nodes[*node].seen.lock().unwrap().reads;
    let first = (0..3).find(|node| reads(node) > 0).expect("one was asked");
    cluster.shared.leader.store((first + 1) % 3, Ordering::SeqCst);
    (cluster, first)
}

#[tokio::test]
async fn what_a_follower_is_slow_with_is_waited_for() {
    let (cluster, first) = asked_first().await;
    let statuses = || cluster.nodes[first].seen.lock().unwrap().statuses;
    cluster.script(first, [Act::Slow]);
    let (client, troubles) = client(cluster.builder());
    let before = statuses();
    let add = tokio::spawn(async move { client.counter("hits").add(1).await });
    // It is slow for so long that it is asked whether it is there.
    eventually("it was suspected", || statuses() > before || cluster.writes() > 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.hurry();
    assert_eq!(add.await.unwrap().unwrap().value, 1);
    assert_eq!(*troubles.lock().unwrap(), [""; 0]);
    assert_eq!(cluster.writes(), 1);
}

#[tokio::test]
async fn a_leader_that_says_nothing_is_given_up_for_a_newer_one() {
    let (cluster, first) = asked_first().await;
    let (client, troubles) = client(cluster.builder());
    // Now it knows who leads, in which term.
    client.counter("hits").add(1).await.unwrap();
    let silent = (first + 1) % 3;
    cluster.script(silent, [Act::Silence]);
    let so_far = cluster.writes();
    let add = tokio::spawn(async move { client.counter("hits").add(1).await });
    cluster.has_seen(so_far + 1).await;
    cluster.elect((first + 2) % 3);
    assert_eq!(add.await.unwrap().unwrap().value, 2);
    let troubles = troubles.lock().unwrap();
    let newer = "it is silent, and another node leads in a newer term";
    assert!(troubles.iter().any(|trouble| trouble == newer), "{troubles:?}");
}

/// A client that is new has nothing that a leader could be newer than.
#[tokio::test]
async fn a_node_that_stands_still_is_given_up_by_a_new_client() {
    let cluster = Cluster::start(1).await;
    // Connections are made, by the kernel, and nobody is there.
    let still = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoints = [still.local_addr().unwrap().to_string(), cluster.nodes[0].address.clone()];
    // Which of the two is asked first is drawn.
    for seed in 0..16 {
        let (client, troubles) = client(Client::builder(endpoints.clone()).seed(seed));
        client.counter("hits").add(1).await.unwrap();
        let troubles = troubles.lock().unwrap();
        match troubles.as_slice() {
            [] => {}
            [one] => {
                assert_eq!(one, "it does not say how it is, and another node leads");
                return;
            }
            more => panic!("{more:?}"),
        }
    }
    panic!("it was never asked first");
}
