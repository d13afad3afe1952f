//! Calls to a cluster in good health.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use tally_client::{Client, Code, Outcome, ReadLevel, Transport, reason};
use tally_proto::v1;
use tokio::time::Instant;

use crate::{
    fake::{Act, Cluster, FAR, eventually},
    model::{refusal, refusal_for},
};

#[tokio::test]
async fn adds_and_reads_over_the_stream() {
    let cluster = Cluster::start(1).await;
    let client = Client::connect(cluster.endpoints()).await.unwrap();
    let hits = client.counter("hits");
    assert_eq!(hits.add(1).await.unwrap().value, 1);
    assert_eq!(hits.add(41).await.unwrap().value_before, 1);
    assert_eq!(hits.get().await.unwrap().value, 42);
    assert_eq!(client.keys().put("k", "v").await.unwrap().revision, cluster.model().log_index);
    let error = client.counter("none").get().await.unwrap_err();
    assert_eq!((error.reason(), error.outcome()), (reason::COUNTER_NOT_FOUND, None));
}

#[tokio::test]
async fn finds_the_leader_and_stays_with_it() {
    let cluster = Cluster::start(3).await;
    cluster.elect(2);
    let client = cluster.client();
    for _ in 0..10 {
        client.counter("hits").add(1).await.unwrap();
    }
    assert_eq!(cluster.value("hits"), 10);
    assert!(cluster.writes() <= 12, "{} sent for 10 writes", cluster.writes());
    cluster.elect(1);
    client.counter("hits").add(1).await.unwrap();
    assert_eq!(cluster.nodes[1].seen.lock().unwrap().writes, 1);
}

#[tokio::test]
async fn a_client_outlives_its_only_endpoint() {
    let cluster = Cluster::start(3).await;
    let client = Client::builder([cluster.nodes[0].address.clone()]).deadline(FAR).build().unwrap();
    client.counter("hits").add(1).await.unwrap();
    eventually("it asks who the members are", || {
        cluster.nodes[0].seen.lock().unwrap().statuses > 0
    })
    .await;
    client.counter("hits").add(1).await.unwrap();
    cluster.end(0);
    cluster.elect(2);
    client.counter("hits").add(1).await.unwrap();
    assert_eq!(cluster.value("hits"), 3);
}

#[tokio::test]
async fn unary_calls_do_the_same() {
    let cluster = Cluster::start(3).await;
    cluster.elect(1);
    let client = cluster.builder().one_shot().transport(Transport::Unary).build().unwrap();
    let change = client.counter("hits").add(1).idempotency_key("one").await.unwrap();
    assert!(!change.write.replayed);
    let change = client.counter("hits").add(1).idempotency_key("one").await.unwrap();
    assert!(change.write.replayed);
    assert_eq!(client.counter("hits").get().await.unwrap().value, 1);
}

#[tokio::test]
async fn unary_calls_are_stamped_too() {
    let cluster = Cluster::start(3).await;
    cluster.elect(2);
    let client = cluster.builder().transport(Transport::Unary).connect().await.unwrap();
    cluster.script(2, [Act::Answer, Act::ExecuteAndBreak]);
    client.counter("hits").add(1).await.unwrap();
    let change = client.counter("hits").add(1).await.unwrap();
    assert!(change.write.replayed);
    assert_eq!(cluster.value("hits"), 2);
}

#[tokio::test]
async fn one_shot_writes_carry_a_random_key_with_a_short_window() {
    let cluster = Cluster::start(1).await;
    let client = cluster.builder().one_shot().build().unwrap();
    client.counter("hits").add(1).await.unwrap();
    client.counter("hits").add(1).await.unwrap();
    client.counter("hits").add(1).idempotency_key("mine").await.unwrap();
    let seen = cluster.nodes[0].seen.lock().unwrap();
    assert_eq!(seen.stamps, []);
    assert_eq!((seen.keys[0].0.len(), seen.keys[0].1), (32, 60_000));
    assert_ne!(seen.keys[0].0, seen.keys[1].0);
    assert_eq!(seen.keys[2], ("mine".to_owned(), 0));
}

/// A node that was paused a moment ago, or is behind, says that an attempt's time is over. That is a part of
/// the call's, and the others have answers.
#[tokio::test]
async fn a_node_too_slow_for_an_attempt_is_not_the_end_of_a_read() {
    let cluster = Cluster::start(3).await;
    let slow = |node: usize, times: usize| {
        let not_applied = v1::Outcome::NotApplied;
        let over = refusal(Code::DeadlineExceeded, reason::DEADLINE_EXCEEDED, not_applied, false);
        let refuses = &cluster.nodes[node].refuses_reads;
        refuses.lock().unwrap().extend(std::iter::repeat_n(over, times));
    };
    slow(1, 1000);
    slow(2, 1000);
    // Which node is asked first is drawn.
    for seed in 0..8 {
        let client = cluster.builder().seed(seed).build().unwrap();
        assert_eq!(client.counters().list().await.unwrap().items, []);
    }
    let asked = |node: usize| cluster.nodes[node].seen.lock().unwrap().reads;
    assert!(asked(1) + asked(2) > 0, "a slow one was asked");
    // When the call's own time is over, that is what is told.
    slow(0, 1000);
    let client = cluster.builder().build().unwrap();
    let read = client.counters().list().deadline(Duration::from_millis(300));
    let error = read.await.unwrap_err();
    assert_eq!((error.code(), error.outcome()), (Code::DeadlineExceeded, None));
    assert!(error.attempts() > 2, "{error}");
}

/// The next attempt would come after the deadline. What is told is how long it went on, and not how long it might have.
#[tokio::test]
async fn a_call_that_ends_early_says_when_it_ended() {
    let cluster = Cluster::start(1).await;
    let wait = Duration::from_secs(120);
    let full = Code::ResourceExhausted;
    let busy = refusal_for(wait, full, reason::NOT_PROPOSED, v1::Outcome::NotApplied);
    cluster.script(0, [Act::Refuse(Box::new(busy))]);
    let error = cluster.client().counter("hits").add(1).await.unwrap_err();
    assert_eq!((error.code(), error.attempts()), (Code::DeadlineExceeded, 1));
    let said = error.message().strip_prefix("gave up after ").expect("how long");
    let (ms, rest) = said.split_once(" ms and 1 attempt; the last: ").expect("how often");
    assert!(
        ms.parse::<u128>().unwrap() < FAR.as_millis() / 2 && rest == reason::NOT_PROPOSED,
        "{error}"
    );
}

/// An address at which nothing listens.
fn nobodys() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn who_does_not_want_to_wait_for_nobody_does_not() {
    let at = [nobodys(), nobodys()];
    let troubles = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&troubles);
    let builder = Client::builder(at.clone()).deadline(FAR).one_shot();
    let builder = builder.give_up_unheard(Duration::from_millis(200)).on_trouble(move |trouble| {
        seen.lock().unwrap().insert((trouble.node.to_owned(), trouble.nobody_listens));
    });
    let client = builder.build().unwrap();
    let write = client.counter("hits").add(1).await.unwrap_err();
    assert_eq!((write.nobody_listens(), write.outcome()), (true, Some(Outcome::NotApplied)));
    for address in &at {
        assert!(write.message().contains(address), "{write}");
        assert!(troubles.lock().unwrap().contains(&(address.clone(), true)));
    }
    let read = client.counter("hits").get().await.unwrap_err();
    assert_eq!((read.nobody_listens(), read.outcome()), (true, None));
    // Where somebody listens it is worth waiting, and so it is for who did not say otherwise.
    let cluster = Cluster::start(1).await;
    cluster.elect(9);
    let both = [at[0].clone(), cluster.nodes[0].address.clone()];
    for builder in [
        Client::builder(both).give_up_unheard(Duration::from_millis(200)),
        Client::builder(at.clone()),
    ] {
        let client = builder.deadline(Duration::from_millis(600)).one_shot().build().unwrap();
        let error = client.counter("hits").add(1).await.unwrap_err();
        assert_eq!((error.nobody_listens(), error.code()), (false, Code::DeadlineExceeded));
    }
}

#[tokio::test]
async fn an_empty_idempotency_key_is_refused_before_anything_is_sent() {
    let cluster = Cluster::start(1).await;
    for client in [cluster.client(), cluster.builder().one_shot().build().unwrap()] {
        let error = client.counter("hits").add(1).idempotency_key("").await.unwrap_err();
        assert_eq!(error.reason(), reason::INVALID_REQUEST);
        assert_eq!(error.outcome(), Some(Outcome::NotApplied));
        assert!(error.message().contains("idempotency key is empty"), "{error}");
    }
    assert_eq!(cluster.nodes[0].seen.lock().unwrap().writes, 0);
}

#[tokio::test]
async fn a_session_read_carries_the_newest_token() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    let newest = client.session_token().unwrap();
    let read = client.counter("hits").get().level(ReadLevel::session()).await.unwrap();
    assert_eq!(read.value, 1);
    let sent = cluster
        .nodes
        .iter()
        .find_map(|node| node.seen.lock().unwrap().read_options.last().cloned().flatten());
    let sent = sent.unwrap().session_token;
    let text: String = sent.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(text, newest.to_string());
}

#[tokio::test]
async fn close_ends_the_session_and_so_does_drop() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    client.close().await;
    assert_eq!(cluster.model().closed, 1);
    client.counter("hits").add(1).await.unwrap();
    drop(client);
    eventually("the session is closed", || cluster.model().closed == 2).await;
}

#[tokio::test]
async fn an_idle_session_is_renewed() {
    let cluster = Cluster::start(1).await;
    cluster.model().idle_timeout_ms = 300;
    let client = cluster.client();
    let began = Instant::now();
    client.counter("hits").add(1).await.unwrap();
    let renewals = || cluster.model().renewals;
    eventually("it is renewed again and again", || renewals() >= 3).await;
    let most = began.elapsed().as_millis() / 100;
    assert!(u128::from(renewals()) <= most, "{} renewals, {most} of 100 ms", renewals());
}
