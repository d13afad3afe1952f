//! A client stays with its cluster and never forgets what it was shown, whatever single nodes say.

use std::{sync::atomic::Ordering, time::Duration};

use tally_client::{Client, ReadLevel, reason};
use tally_proto::{
    status::StatusBuilder,
    v1::{self, answer::Response},
};
use tonic::Code;

use crate::{
    fake::{Act, Cluster},
    model::refusal,
};

fn shutting_down() -> Response {
    let (code, why) = (Code::Unavailable, reason::SHUTTING_DOWN);
    Response::Error(StatusBuilder::new(code, why, why).build())
}

fn reads(cluster: &Cluster) -> Vec<usize> {
    cluster.nodes.iter().map(|node| node.seen.lock().unwrap().reads).collect()
}

async fn session_read(client: &Client) -> tally_client::Result<i64> {
    let read = client.counter("hits").get().level(ReadLevel::session());
    read.await.map(|counter| counter.value)
}

/// A cluster of one node and, among the same endpoints, a node of another one. The client has counted
/// once in its own, and has a token for that.
async fn with_a_stranger() -> (Cluster, Cluster, Client) {
    let (own, other) = (Cluster::start(1).await, Cluster::start(1).await);
    other.model().cluster_id = "other".into();
    // It refuses the first write without a word of its cluster, so the client meets its own first.
    let refused = refusal(Code::Unavailable, reason::NOT_LEADER, v1::Outcome::NotApplied, false);
    other.script(0, [Act::Refuse(refused.into())]);
    let endpoints = own.endpoints().into_iter().chain(other.endpoints());
    let client = Client::builder(endpoints).seed(1).one_shot().build().unwrap();
    assert_eq!(client.counter("hits").add(1).await.unwrap().value, 1);
    other.nodes[0].script.lock().unwrap().clear();
    (own, other, client)
}

#[tokio::test]
async fn a_node_of_another_cluster_does_not_cost_the_token() {
    let (own, other, client) = with_a_stranger().await;
    for _ in 0..2 {
        // The next one to ask is the other.
        own.nodes[0].refuses_reads.lock().unwrap().push_back(shutting_down());
        assert_eq!(session_read(&client).await.unwrap(), 1);
    }
    assert!(reads(&other)[0] > 0, "the other was asked");
    let token = client.session_token().unwrap().to_string();
    let own: String = b"fake".iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(token.ends_with(&own), "{token}");
}

#[tokio::test]
async fn an_answer_of_another_cluster_is_no_answer() {
    let (own, other, client) = with_a_stranger().await;
    other.model().counters.insert("hits".into(), 1000);
    own.nodes[0].refuses_reads.lock().unwrap().push_back(shutting_down());
    assert_eq!(client.counter("hits").get().await.unwrap().value, 1);
    let refused = refusal(Code::Unavailable, reason::SHUTTING_DOWN, v1::Outcome::NotApplied, false);
    own.script(0, [Act::Refuse(refused.into())]);
    assert_eq!(client.counter("hits").add(1).await.unwrap().value, 2);
    assert_eq!((own.value("hits"), other.value("hits")), (2, 1001), "both were asked");
}

#[tokio::test]
async fn another_clusters_refusal_settles_nothing() {
    let (own, other, client) = with_a_stranger().await;
    own.script(0, [Act::ExecuteAndBreak]);
    own.script(0, (0..1000).map(|_| Act::Break));
    // There it would fall below its floor.
    let add = client.counter("hits").add(-1).floor(0).deadline(Duration::from_millis(300));
    let error = add.await.unwrap_err();
    assert!(other.writes() > 1, "the other was asked");
    assert_eq!(error.outcome(), Some(tally_client::Outcome::Unknown), "{error}");
}

#[tokio::test]
async fn a_cluster_that_is_gone_is_told_of_once() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    cluster.shared.term.store(40, Ordering::SeqCst);
    client.counter("hits").add(1).await.unwrap();
    cluster.make_anew(&[("hits", 7)]);
    let before = reads(&cluster);
    let error = session_read(&client).await.unwrap_err();
    assert_eq!(error.reason(), reason::TOKEN_OF_ANOTHER_CLUSTER);
    let asked: Vec<_> =
        reads(&cluster).iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(asked, [1, 1, 1], "each was asked once");
    assert_eq!(client.session_token(), None);
    assert_eq!(session_read(&client).await.unwrap(), 7);
    assert_eq!(client.counter("hits").add(1).await.unwrap().value, 8);
    assert_eq!(session_read(&client).await.unwrap(), 8);
}

#[tokio::test]
async fn who_only_writes_learns_of_a_new_cluster_too() {
    let cluster = Cluster::start(2).await;
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    cluster.make_anew(&[]);
    let error = client.counter("hits").add(1).await.unwrap_err();
    assert!(error.message().contains("is of cluster fake-new"), "{error}");
    // Its session was not there, so nothing was executed.
    assert_eq!(error.outcome(), Some(tally_client::Outcome::NotApplied));
    assert_eq!(client.counter("hits").add(1).await.unwrap().value, 1);
}

#[tokio::test]
async fn a_node_that_is_behind_is_no_reason_to_fail() {
    let cluster = Cluster::start(3).await;
    cluster.elect(2);
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    for node in &cluster.nodes[..2] {
        node.is_behind.store(true, Ordering::SeqCst);
    }
    for _ in 0..3 {
        assert_eq!(session_read(&client).await.unwrap(), 1);
    }
    assert!(cluster.writes() <= 2, "the leader is still known");

    cluster.nodes[2].is_behind.store(true, Ordering::SeqCst);
    let (token, before) = (client.session_token(), reads(&cluster));
    let error = session_read(&client).await.unwrap_err();
    assert_eq!(error.reason(), reason::TOKEN_NOT_REACHED);
    let asked: Vec<_> =
        reads(&cluster).iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!((asked, client.session_token()), (vec![1, 1, 1], token));
}

#[tokio::test]
async fn a_token_that_was_brought_says_nothing_of_the_own_one() {
    let cluster = Cluster::start(2).await;
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    let token = client.session_token();
    let brought = ReadLevel::Session(Some("0000000000000001ff".parse().unwrap()));
    let error = client.counter("hits").get().level(brought).await.unwrap_err();
    assert_eq!(error.reason(), reason::TOKEN_OF_ANOTHER_CLUSTER);
    assert_eq!(reads(&cluster).iter().filter(|&&reads| reads > 0).count(), 2, "both were asked");
    assert_eq!(client.session_token(), token);
}

#[tokio::test]
async fn a_write_without_a_token_makes_the_next_session_read_linearizable() {
    let cluster = Cluster::start(3).await;
    cluster.elect(1);
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    assert_eq!(session_read(&client).await.unwrap(), 1);
    cluster.script(1, [Act::AnswerUntold]);
    client.counter("hits").add(1).await.unwrap();
    assert_eq!(client.session_token(), None, "what there is does not cover the write");
    let asked = || cluster.nodes[1].seen.lock().unwrap().read_options.last().cloned();
    assert_eq!(session_read(&client).await.unwrap(), 2);
    assert_eq!(asked(), Some(None), "the leader was asked for a linearizable read");
    assert!(client.session_token().is_some());
    let before = reads(&cluster);
    assert_eq!(session_read(&client).await.unwrap(), 2);
    let node = reads(&cluster).iter().zip(before).position(|(after, before)| *after > before);
    let seen = cluster.nodes[node.unwrap()].seen.lock().unwrap();
    assert!(seen.read_options.last().unwrap().is_some(), "it has a token again");
}
