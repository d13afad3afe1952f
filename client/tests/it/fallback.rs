//! A cluster without a place for a session: writes go under keys, exactly once all the same.

use std::time::Duration;

use tally_client::{Client, Outcome, proto as v1, reason};
use tonic::Code;

use crate::{
    fake::{Act, Cluster},
    model::refusal,
};

/// Longer than a client does without a session after it was refused one.
const LONG: Duration = Duration::from_secs(16);

/// A cluster that has no place, and a client of it.
async fn full() -> (Cluster, Client) {
    let cluster = Cluster::start(1).await;
    cluster.model().sessions_full = true;
    let client = cluster.client();
    (cluster, client)
}

fn keys(cluster: &Cluster) -> Vec<String> {
    let seen = cluster.nodes[0].seen.lock().unwrap();
    assert!(seen.stamps.is_empty(), "a write had a number");
    seen.keys.iter().map(|(key, _)| key.clone()).collect()
}

async fn let_pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn without_a_place_for_a_session_writes_go_under_keys() {
    let (cluster, client) = full().await;
    for n in 1..=5 {
        assert_eq!(client.counter("hits").add(1).await.unwrap().value, n);
    }
    assert_eq!(cluster.model().opens, 1, "a session is not asked for with each write");
    let keys = keys(&cluster);
    assert!(keys.iter().all(|key| key.len() == 32), "{keys:?}");
    let others: std::collections::BTreeSet<_> = keys.iter().collect();
    assert_eq!(others.len(), 5, "each write has a key of its own");
}

#[tokio::test]
async fn the_key_is_the_same_at_each_attempt() {
    let (cluster, client) = full().await;
    let lost = refusal(Code::Unavailable, reason::NO_QUORUM, v1::Outcome::NotApplied, false);
    let acts = [Act::ExecuteAndBreak, Act::Break, Act::Refuse(lost.into()), Act::ExecuteAndBreak];
    cluster.script(0, acts);
    let change = client.counter("hits").add(1).await.unwrap();
    assert!(change.write.replayed);
    assert_eq!((change.value, cluster.value("hits")), (1, 1));
    let keys = keys(&cluster);
    assert_eq!(keys.len(), 5);
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[tokio::test]
async fn unknown_sticks_and_the_error_names_the_key() {
    let (cluster, client) = full().await;
    let lost = refusal(Code::Unavailable, reason::NO_QUORUM, v1::Outcome::NotApplied, false);
    cluster.script(0, [Act::ExecuteAndBreak, Act::Refuse(lost.into())]);
    let error = client.counter("hits").add(1).max_attempts(2).await.unwrap_err();
    assert_eq!(error.outcome(), Some(Outcome::Unknown));
    let key = error.idempotency_key().expect("under which it can be found out").to_owned();
    assert!(!error.speaks_of_this_call_only());
    let again = client.counter("hits").add(1).idempotency_key(key).await.unwrap();
    assert!(again.write.replayed);
    assert_eq!(cluster.value("hits"), 1);
}

#[tokio::test]
async fn a_key_of_the_caller_is_enough() {
    let (cluster, client) = full().await;
    client.counter("hits").add(1).idempotency_key("order-1").await.unwrap();
    client.counter("hits").add(1).idempotency_key("order-1").await.unwrap();
    assert_eq!(cluster.value("hits"), 1);
    assert_eq!(keys(&cluster), ["order-1", "order-1"]);
}

#[tokio::test]
async fn a_session_is_asked_for_again_after_a_while() {
    let (cluster, client) = full().await;
    client.counter("hits").add(1).await.unwrap();
    let_pass(LONG).await;
    client.counter("hits").add(1).await.unwrap();
    assert_eq!(cluster.model().opens, 2, "once, and refused again");
    cluster.model().sessions_full = false;
    client.counter("hits").add(1).await.unwrap();
    assert_eq!(cluster.model().opens, 2, "too early");
    let_pass(LONG).await;
    client.counter("hits").add(1).await.unwrap();
    client.counter("hits").add(1).await.unwrap();
    assert_eq!((cluster.value("hits"), cluster.model().opens), (5, 3));
    let stamps = cluster.nodes[0].seen.lock().unwrap().stamps.clone();
    assert_eq!(stamps, [(1, 1), (2, 2)], "then numbers are used");
}

#[tokio::test]
async fn many_writes_at_once_ask_once() {
    let (cluster, client) = full().await;
    let writers: Vec<_> = (0..50)
        .map(|_| {
            let hits = client.counter("hits");
            tokio::spawn(async move { hits.add(1).await })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    assert_eq!((cluster.value("hits"), cluster.model().opens), (50, 1));
}

#[tokio::test]
async fn a_session_that_ends_and_is_not_replaced_is_left_where_nothing_was_executed() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    cluster.script(0, [Act::Break, Act::ExpireSessionsForGood]);
    // The first attempt may have been executed under its number, which nobody can ask any more.
    let error = client.counter("hits").add(1).await.unwrap_err();
    assert_eq!(error.outcome(), Some(Outcome::Unknown));
    assert_eq!(cluster.value("hits"), 1);

    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    cluster.script(0, [Act::ExpireSessionsForGood]);
    assert_eq!(client.counter("hits").add(1).await.unwrap().value, 2);
    let keys = cluster.nodes[0].seen.lock().unwrap().keys.clone();
    let sent: Vec<usize> = keys.iter().map(|(key, _)| key.len()).collect();
    assert_eq!(sent, [0, 0, 32], "by a number, again, and then by a key");
}

#[tokio::test]
async fn with_a_key_of_the_caller_a_session_may_be_left_at_any_time() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    cluster.script(0, [Act::ExecuteAndBreak, Act::ExpireSessionsForGood]);
    let change = client.counter("hits").add(1).idempotency_key("order-1").await.unwrap();
    assert!(change.write.replayed);
    assert_eq!(cluster.value("hits"), 2);
}
