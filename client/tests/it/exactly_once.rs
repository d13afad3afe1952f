//! No retry counts twice, and no verdict claims more than is known.

use std::{future::IntoFuture as _, time::Duration};

use tally_client::{Client, Outcome, proto as v1, reason};
use tokio::time::Instant;
use tonic::Code;

use crate::{
    fake::{Act, Cluster, FAR},
    model::{refusal, refusal_for},
};

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
    // One more for each answer that the machine is too busy to give within an attempt.
    assert!(cluster.writes() >= 3, "{} attempts", cluster.writes());
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

/// A refusal that was not decided in apply.
fn not_applied(why: &str) -> Act {
    Act::Refuse(refusal(Code::Unavailable, why, v1::Outcome::NotApplied, false).into())
}

/// One that asks to wait for longer than the call has time, which ends it: the deadline decides, and
/// not how much this machine got done before it.
fn not_applied_and_wait() -> Act {
    let (why, not_applied) = (reason::NO_QUORUM, v1::Outcome::NotApplied);
    Act::Refuse(refusal_for(2 * FAR, Code::Unavailable, why, not_applied).into())
}

#[tokio::test]
async fn unknown_sticks_through_refusals_outside_of_apply() {
    for then in [reason::NOT_LEADER, reason::NO_QUORUM, reason::SHUTTING_DOWN] {
        for first in [Act::ExecuteAndBreak, Act::Break, Act::ExecuteLater] {
            for ends_by_deadline in [false, true] {
                let cluster = Cluster::start(1).await;
                let client = cluster.client();
                let last =
                    if ends_by_deadline { not_applied_and_wait() } else { not_applied(then) };
                cluster.script(0, [first.clone(), not_applied(then), last]);
                let add = client.counter("hits").add(1);
                let add = if ends_by_deadline { add } else { add.max_attempts(3) };
                let error = add.await.unwrap_err();
                assert_eq!(error.outcome(), Some(Outcome::Unknown), "{first:?} then {then}");
                assert_eq!(error.reason(), reason::OUTCOME_UNKNOWN);
                assert!(!error.is_decided());
                assert_eq!(error.attempts(), 3, "refusals came after the unknown attempt");
            }
        }
    }
}

#[tokio::test]
async fn refusals_alone_are_definite() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    cluster.elect(9);
    let error = client.counter("hits").add(1).max_attempts(3).await.unwrap_err();
    assert_eq!(error.outcome(), Some(Outcome::NotApplied));
    assert_eq!(error.reason(), reason::NOT_LEADER);
    assert!(!error.is_decided());
    cluster.script(0, [not_applied(reason::NOT_LEADER), not_applied_and_wait()]);
    let error = client.counter("hits").add(1).await.unwrap_err();
    assert_eq!(error.outcome(), Some(Outcome::NotApplied));
    assert_eq!((error.reason(), error.attempts()), (reason::NO_QUORUM, 2));
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
    cluster.script(0, [Act::ExecuteLater]);
    assert_eq!(client.counter("hits").add(1).await.unwrap().value, 1);
    cluster.hurry();
    client.counter("other").add(1).await.unwrap();
    assert_eq!(cluster.writes(), 3);
    assert_eq!(cluster.value("hits"), 1);
}

#[tokio::test]
async fn a_late_attempt_of_a_write_given_up_never_executes_once_forgotten() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    cluster.script(0, [Act::ExecuteLater]);
    cluster.script(0, (0..100).map(|_| Act::Silence));
    let add = client.counter("hits").add(1).into_future();
    let error = cluster.let_deadline_pass(add, 3).await.unwrap_err();
    assert_eq!(error.outcome(), Some(Outcome::Unknown));
    cluster.nodes[0].script.lock().unwrap().clear();
    // Its number is given up, so this write carries a watermark above it.
    client.counter("other").add(1).await.unwrap();
    cluster.hurry();
    client.counter("other").add(1).await.unwrap();
    assert_eq!(cluster.value("hits"), 1);
}

#[tokio::test]
async fn the_deadline_holds_and_says_what_is_known() {
    // Below the keepalive of a connection, which has nothing to do with it.
    let deadline = Duration::from_secs(8);
    let cluster = Cluster::start(1).await;
    let client = cluster.builder().attempt_timeout(FAR).build().unwrap();
    client.counter("hits").add(1).await.unwrap();
    cluster.script(0, [Act::Silence]);
    let began = Instant::now();
    let add = client.counter("hits").add(1).deadline(deadline).into_future();
    let add = async move { (add.await, Instant::now()) };
    let (ended, at) = cluster.let_deadline_pass(add, 2).await;
    let (error, took) = (ended.unwrap_err(), at - began);
    assert!((deadline..deadline + Duration::from_millis(100)).contains(&took), "{took:?}");
    assert_eq!((error.code(), error.outcome()), (Code::DeadlineExceeded, Some(Outcome::Unknown)));
}

#[tokio::test]
async fn nobody_there_is_definite() {
    let nodes = ["127.0.0.1:1", "127.0.0.1:2"];
    let client = Client::builder(nodes).one_shot().build().unwrap();
    let error = client.counter("hits").add(1).max_attempts(3).await.unwrap_err();
    assert_eq!(error.outcome(), Some(Outcome::NotApplied));
    assert!(error.message().contains("refused"), "{error}");
    let error = client.counter("hits").get().max_attempts(3).await.unwrap_err();
    assert_eq!(error.outcome(), None);
    // Without a session there is no write, and it can end by its deadline only.
    let client = Client::builder(nodes).build().unwrap();
    let add = client.counter("hits").add(1).deadline(Duration::from_millis(100));
    assert_eq!(add.await.unwrap_err().outcome(), Some(Outcome::NotApplied));
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
    let add = client.counter("hits").add(1).into_future();
    let error = cluster.let_deadline_pass(add, 2).await.unwrap_err();
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
