//! No retry counts twice, and no verdict claims more than is known.

use std::time::{Duration, Instant};

use tally_client::{Client, Outcome, proto as v1, reason};
use tonic::Code;

use crate::{
    fake::{Act, Cluster},
    model::refusal,
};

/// A moment on the clock of the test itself.
#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client();
    cluster.script(0, [Act::ExecuteAndBreak]);
    let change = client.counter("hits").add(1).await.unwrap();
    assert!(change.write.replayed);
    assert_eq!((change.value, cluster.value("hits")), (1, 1));
}

#[tokio::test]
async fn a_broken_stream_loses_no_write_of_its_many() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    cluster
        .script(0, (0..60).map(|n| if n % 20 == 19 { Act::ExecuteAndBreak } else { Act::Answer }));
    let writers: Vec<_> = (0..200)
        .map(|_| {
            let hits = client.counter("hits");
            tokio::spawn(async move { hits.add(1).await })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    assert_eq!(cluster.value("hits"), 201);
}

#[tokio::test]
async fn an_answer_that_never_comes_is_asked_for_again() {
    let cluster = Cluster::start(1).await;
    let timeout = Duration::from_millis(100);
    let client = cluster.builder().attempt_timeout(timeout).build().unwrap();
    cluster.script(0, [Act::ExecuteSilently, Act::Silence]);
    assert_eq!(client.counter("hits").add(1).await.unwrap().value, 1);
    assert_eq!(cluster.nodes[0].seen.lock().unwrap().writes, 3);
}

#[tokio::test]
async fn the_stamp_is_the_same_at_each_attempt() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    cluster.script(0, [Act::Break, Act::Break, Act::ExecuteAndBreak]);
    client.counter("hits").add(1).await.unwrap();
    client.counter("hits").add(1).await.unwrap();
    let stamps = cluster.nodes[0].seen.lock().unwrap().stamps.clone();
    assert_eq!(stamps, [(1, 1), (1, 1), (1, 1), (1, 1), (2, 2)]);
}

/// Unknown first, then refusals that say nothing about the first attempt.
async fn unknown_then(first: Act, then: &str) -> tally_client::Error {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    let refused = refusal(Code::Unavailable, then, v1::Outcome::NotApplied, false);
    cluster.script(0, [first]);
    cluster.script(0, (0..1000).map(|_| Act::Refuse(refused.clone().into())));
    let add = client.counter("hits").add(1).deadline(Duration::from_millis(400));
    add.await.unwrap_err()
}

#[tokio::test]
async fn unknown_sticks_through_refusals_outside_of_apply() {
    for then in [reason::NOT_LEADER, reason::NO_QUORUM, reason::SHUTTING_DOWN] {
        for first in [Act::ExecuteAndBreak, Act::Break, Act::ExecuteLater(Duration::ZERO)] {
            let error = unknown_then(first.clone(), then).await;
            assert_eq!(error.outcome(), Some(Outcome::Unknown), "{first:?} then {then}");
            assert_eq!(error.reason(), reason::OUTCOME_UNKNOWN);
            assert!(!error.is_decided());
            assert!(error.attempts() >= 2, "a refusal came after the unknown attempt");
        }
    }
}

#[tokio::test]
async fn refusals_alone_are_definite() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    cluster.elect(9);
    let add = client.counter("hits").add(1).deadline(Duration::from_millis(300));
    let error = add.await.unwrap_err();
    assert_eq!(error.outcome(), Some(Outcome::NotApplied));
    assert_eq!(error.reason(), reason::NOT_LEADER);
    assert!(!error.is_decided());
}

#[tokio::test]
async fn a_refusal_in_apply_settles_an_unknown_attempt() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    cluster.script(0, [Act::ExecuteAndBreak]);
    let error = client.counter("stock").add(-1).floor(0).await.unwrap_err();
    assert_eq!(error.outcome(), Some(Outcome::NotApplied));
    assert_eq!(error.reason(), reason::BELOW_FLOOR);
    assert!(error.is_decided());
    assert_eq!(error.attempts(), 2);
}

#[tokio::test]
async fn a_late_first_attempt_does_not_count_again() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    cluster.script(0, [Act::ExecuteLater(Duration::from_millis(50))]);
    assert_eq!(client.counter("hits").add(1).await.unwrap().value, 1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(cluster.value("hits"), 1);
}

#[tokio::test]
async fn a_late_attempt_of_a_write_given_up_never_executes_once_forgotten() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    cluster.script(0, [Act::ExecuteLater(Duration::from_millis(200))]);
    cluster.script(0, (0..100).map(|_| Act::Silence));
    let add = client.counter("hits").add(1).deadline(Duration::from_millis(50));
    assert_eq!(add.await.unwrap_err().outcome(), Some(Outcome::Unknown));
    cluster.nodes[0].script.lock().unwrap().clear();
    // Its number is given up, so this write carries a watermark above it.
    client.counter("other").add(1).await.unwrap();
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(cluster.value("hits"), 1);
}

#[tokio::test]
async fn the_deadline_holds_and_says_what_is_known() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    cluster.script(0, [Act::Silence]);
    let began = now();
    let add = client.counter("hits").add(1).deadline(Duration::from_millis(200));
    let error = add.await.unwrap_err();
    assert!(began.elapsed() < Duration::from_millis(400), "{:?}", began.elapsed());
    assert_eq!((error.code(), error.outcome()), (Code::DeadlineExceeded, Some(Outcome::Unknown)));
}

#[tokio::test]
async fn nobody_there_is_definite() {
    let client = Client::builder(["127.0.0.1:1", "127.0.0.1:2"]).build().unwrap();
    let add = client.counter("hits").add(1).deadline(Duration::from_millis(100));
    let error = add.await.unwrap_err();
    assert_eq!(error.outcome(), Some(Outcome::NotApplied));
    assert!(error.message().contains("refused"), "{error}");
    let get = client.counter("hits").get().deadline(Duration::from_millis(100));
    assert_eq!(get.await.unwrap_err().outcome(), None);
}

#[tokio::test]
async fn an_expired_session_is_replaced_for_a_number_never_sent() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    cluster.script(0, [Act::ExpireSessions]);
    assert_eq!(client.counter("hits").add(1).await.unwrap().value, 2);
    assert_eq!(client.counter("hits").add(1).await.unwrap().value, 3);
    assert_eq!(cluster.model().sessions.len(), 1);
}

#[tokio::test]
async fn a_write_that_may_not_be_sent_again_still_leaves_its_ended_session() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    cluster.script(0, [Act::ExpireSessions]);
    let error = client.counter("hits").add(1).max_attempts(1).await.unwrap_err();
    assert_eq!(error.reason(), reason::SESSION_EXPIRED);
    assert_eq!(error.outcome(), Some(Outcome::NotApplied));
    assert_eq!(client.counter("hits").add(1).max_attempts(1).await.unwrap().value, 2);
}

#[tokio::test]
async fn an_expired_session_leaves_a_number_that_was_sent_unknown() {
    for act in [Act::ExecuteExpireAndBreak, Act::Break] {
        let cluster = Cluster::start(1).await;
        let client = cluster.client();
        client.counter("hits").add(1).await.unwrap();
        cluster.script(0, [act, Act::ExpireSessions]);
        let error = client.counter("hits").add(1).await.unwrap_err();
        assert_eq!(error.outcome(), Some(Outcome::Unknown));
        assert_eq!(error.reason(), reason::SESSION_EXPIRED);
        assert!(cluster.value("hits") <= 2);
    }
}

#[tokio::test]
async fn an_idempotency_key_outlives_its_session() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    cluster.script(0, [Act::ExecuteExpireAndBreak]);
    let change = client.counter("hits").add(1).idempotency_key("order-1").await.unwrap();
    assert!(change.write.replayed);
    cluster.script(0, [Act::Break, Act::ExpireSessions]);
    client.counter("hits").add(1).idempotency_key("order-2").await.unwrap();
    assert_eq!(cluster.value("hits"), 3);
}

#[tokio::test]
async fn unknown_names_the_key_to_send_again() {
    let cluster = Cluster::start(1).await;
    let client = cluster.builder().one_shot().build().unwrap();
    cluster.script(0, [Act::ExecuteAndBreak]);
    cluster.script(0, (0..1000).map(|_| Act::Silence));
    let add = client.counter("hits").add(1).deadline(Duration::from_millis(200));
    let error = add.await.unwrap_err();
    assert_eq!(error.outcome(), Some(Outcome::Unknown));
    cluster.nodes[0].script.lock().unwrap().clear();
    let key = error.idempotency_key().unwrap();
    let change = client.counter("hits").add(1).idempotency_key(key).await.unwrap();
    assert!(change.write.replayed);
    assert_eq!(cluster.value("hits"), 1);
}

#[tokio::test]
async fn a_full_key_table_settles_nothing_without_a_session() {
    let full =
        refusal(Code::ResourceExhausted, reason::DEDUP_TABLE_FULL, v1::Outcome::NotApplied, true);
    for (one_shot, first, outcome) in [
        (true, Some(Act::Break), Outcome::Unknown),
        (true, None, Outcome::NotApplied),
        (false, Some(Act::Break), Outcome::NotApplied),
    ] {
        let cluster = Cluster::start(1).await;
        let builder = cluster.builder();
        let client = if one_shot { builder.one_shot() } else { builder }.build().unwrap();
        cluster.script(0, first.into_iter().chain([Act::Refuse(full.clone().into())]));
        let error = client.counter("hits").add(1).idempotency_key("k").await.unwrap_err();
        assert_eq!(error.outcome(), Some(outcome), "one shot: {one_shot}");
    }
}

#[tokio::test]
async fn a_refusal_that_was_not_proposed_says_nothing_of_earlier_calls_under_a_chosen_key() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    let add = || {
        let add = client.counter("hits").add(1).idempotency_key("order-1");
        add.deadline(Duration::from_millis(200))
    };
    cluster.script(0, [Act::ExecuteAndBreak]);
    cluster.script(0, (0..1000).map(|_| Act::Silence));
    assert_eq!(add().await.unwrap_err().outcome(), Some(Outcome::Unknown));

    cluster.nodes[0].script.lock().unwrap().clear();
    cluster.elect(9);
    let error = add().await.unwrap_err();
    assert_eq!(error.outcome(), Some(Outcome::NotApplied));
    assert!(error.speaks_of_this_call_only());
    assert!(error.to_string().contains("an earlier one"), "{error}");
    // A key of the library's own has no earlier call.
    let own = client.counter("hits").add(1).deadline(Duration::from_millis(200));
    let error = own.await.unwrap_err();
    assert!(!error.speaks_of_this_call_only(), "{error}");

    cluster.elect(0);
    assert!(add().await.unwrap().write.replayed);
}

#[tokio::test]
async fn only_a_decision_under_the_key_speaks_of_the_key() {
    let refused = |why, decided| {
        Act::Refuse(refusal(Code::FailedPrecondition, why, v1::Outcome::NotApplied, decided).into())
    };
    for (act, this_call_only) in [
        (refused(reason::BELOW_FLOOR, true), false),
        (refused(reason::IDEMPOTENCY_KEY_REUSED, true), false),
        // The table was full, so the key is not remembered, whatever a session remembers.
        (refused(reason::DEDUP_TABLE_FULL, true), true),
        (refused("name", false), true),
    ] {
        let cluster = Cluster::start(1).await;
        cluster.script(0, [act.clone()]);
        let client = cluster.client();
        let error = client.counter("hits").add(1).idempotency_key("k").await.unwrap_err();
        assert_eq!(error.speaks_of_this_call_only(), this_call_only, "{act:?}");
    }
}
