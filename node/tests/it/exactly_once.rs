//! Exactly once: sessions and idempotency keys, and the refusals that belong to them.

use std::time::Duration;

use tally_proto::{
    reason,
    v1::{self, Outcome, call::Request},
};
use tokio::time::Instant;
use tonic::{Code, transport::Channel};

use crate::{
    client::{Exchange, Failure, fails_both_ways, unary},
    cluster::Cluster,
    requests::*,
};

async fn session(channel: &Channel) -> u64 {
    let opened = unary(channel, open_session()).await.expect("a session opens");
    answer!(SessionsOpen, opened).session_id
}

fn add_under(name: &str, delta: i64, options: Option<v1::WriteOptions>) -> Request {
    add_with(name, delta, |add| add.options = options)
}

/// Adds, and gives the change and what was said of the write.
async fn added(
    channel: &Channel,
    name: &str,
    delta: i64,
    options: Option<v1::WriteOptions>,
) -> (v1::CounterChange, v1::WriteInfo) {
    let response = unary(channel, add_under(name, delta, options)).await;
    let response = answer!(CountersAdd, response.expect("the add is applied"));
    (response.change.expect("a change"), response.write.expect("said of every write"))
}

#[tokio::test]
async fn a_stamp_is_executed_once() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let id = session(&channel).await;
    let (first, write) = added(&channel, "a", 5, under_session(stamp(id, 1))).await;
    assert!(!write.replayed);
    let (again, write) = added(&channel, "a", 5, under_session(stamp(id, 1))).await;
    assert!(write.replayed);
    assert_eq!(first, again);
    // Numbers come in any order and with gaps.
    for sequence in [9, 3] {
        let (_, write) = added(&channel, "a", 1, under_session(stamp(id, sequence))).await;
        assert!(!write.replayed);
    }
    let (now, _) = added(&channel, "a", 0, None).await;
    assert_eq!(now.value, 7);
}

#[tokio::test]
async fn a_refusal_is_remembered_under_its_stamp_and_under_its_key() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let id = session(&channel).await;
    for options in [under_session(stamp(id, 1)), under_key("order-1")] {
        unary(&channel, configure("stock", Some(0), None)).await.expect("it is configured");
        unary(&channel, set("stock", 0)).await.expect("it is empty");
        let take = add_under("stock", -1, options);
        let refused = unary(&channel, take.clone()).await.expect_err("nothing is in stock");
        let refused = Failure::from(refused);
        assert_eq!(refused.details.reason, reason::BELOW_FLOOR);
        unary(&channel, set("stock", 10)).await.expect("it is filled");
        let again = Failure::from(unary(&channel, take).await.expect_err("it was refused"));
        assert_eq!(again.row(), refused.row());
        assert_eq!(again.details.bound, refused.details.bound);
        let outcome = again.details.outcome.expect("it was a write");
        assert!(outcome.replayed && outcome.decided_in_apply);
    }
}

#[tokio::test]
async fn sequence_numbers_that_can_not_be_executed_are_refused() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let id = session(&channel).await;
    added(&channel, "a", 1, under_session(stamp(id, 1))).await;

    let other = add_under("a", 2, under_session(stamp(id, 1)));
    let failure = fails_both_ways(&channel, other).await;
    let not_applied = Some(Outcome::NotApplied);
    assert_eq!(failure.row(), (Code::InvalidArgument, reason::SEQUENCE_REUSED, not_applied));

    let far = add_under("a", 1, under_session(stamp(id, 65_537)));
    let failure = fails_both_ways(&channel, far).await;
    assert_eq!(failure.row(), (Code::FailedPrecondition, reason::SESSION_WINDOW_FULL, not_applied));
    assert_eq!(failure.details.retry_after, None, "time alone does not make room");
    let outcome = failure.details.outcome.expect("it was a write");
    assert!(!outcome.decided_in_apply, "it may be executed once the window has moved");

    let answered = v1::SessionStamp { session_id: id, sequence: 5, lowest_unanswered: 5 };
    added(&channel, "a", 1, under_session(answered)).await;
    let old = add_under("a", 1, under_session(stamp(id, 1)));
    let failure = fails_both_ways(&channel, old).await;
    let unknown = Some(Outcome::Unknown);
    assert_eq!(failure.row(), (Code::FailedPrecondition, reason::SEQUENCE_TOO_OLD, unknown));
}

#[tokio::test]
async fn a_closed_session_executes_nothing() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let id = session(&channel).await;
    added(&channel, "a", 1, under_session(stamp(id, 1))).await;
    let close = Request::SessionsClose(v1::SessionsCloseRequest { session_id: id });
    for was_open in [true, false] {
        let closed = unary(&channel, close.clone()).await.expect("closing is always fine");
        assert_eq!(answer!(SessionsClose, closed).closed, was_open);
    }
    let renew = v1::SessionsRenewRequest { session_id: id, lowest_unanswered: 0 };
    for request in [add_under("a", 1, under_session(stamp(id, 1))), Request::SessionsRenew(renew)] {
        let failure = fails_both_ways(&channel, request).await;
        let row = (Code::FailedPrecondition, reason::SESSION_EXPIRED, Some(Outcome::Unknown));
        assert_eq!(failure.row(), row);
    }
    assert_eq!(added(&channel, "a", 0, None).await.0.value, 1);
}

#[tokio::test]
async fn a_key_is_executed_once_and_for_one_request() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let (first, write) = added(&channel, "a", 5, under_key("order-1")).await;
    assert!(!write.replayed && write.kept_until_log_time_ms > 0 && write.kept_for_ms > 0);
    let (again, repeated) = added(&channel, "a", 5, under_key("order-1")).await;
    assert_eq!(first, again);
    assert!(repeated.replayed);
    assert_eq!(repeated.kept_until_log_time_ms, write.kept_until_log_time_ms);

    let failure = fails_both_ways(&channel, add_under("a", 6, under_key("order-1"))).await;
    let row = (Code::AlreadyExists, reason::IDEMPOTENCY_KEY_REUSED, Some(Outcome::NotApplied));
    assert_eq!(failure.row(), row);
    let put = put_with("a", "x", |put| put.options = under_key("order-1"));
    assert_eq!(fails_both_ways(&channel, put).await.row(), row);
    assert_eq!(added(&channel, "a", 0, None).await.0.value, 5);
}

#[tokio::test]
async fn a_live_key_answers_even_when_the_session_is_gone() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let (one, other) = (session(&channel).await, session(&channel).await);
    let both = |id, sequence| {
        Some(v1::WriteOptions {
            session: Some(stamp(id, sequence)),
            idempotency_key: Some("order-1".into()),
            idempotency_window_ms: 60_000,
        })
    };
    let (first, write) = added(&channel, "a", 5, both(one, 1)).await;
    assert!(!write.replayed);
    assert!(write.kept_for_ms <= 60_000, "the shorter window that was asked for");
    let (again, write) = added(&channel, "a", 5, both(other, 7)).await;
    assert!(write.replayed, "the key answers under another session");
    assert_eq!(first, again);
    let (again, write) = added(&channel, "a", 5, under_session(stamp(other, 7))).await;
    assert!(write.replayed, "and the answer was recorded under that session");
    assert_eq!(first, again);
    let close = Request::SessionsClose(v1::SessionsCloseRequest { session_id: one });
    unary(&channel, close).await.expect("it closes");
    let (again, write) = added(&channel, "a", 5, both(one, 2)).await;
    assert!(write.replayed, "the key answers when the session is gone");
    assert_eq!(first, again);
}

#[tokio::test]
async fn a_full_table_of_keys_refuses_new_keys_and_keeps_its_promises() {
    let small = |config: &mut tally_node::config::Config| config.idempotency_bytes_max = 400;
    let cluster = Cluster::start_with(1, small).await;
    let channel = cluster.channel(1);
    let (first, _) = added(&channel, "a", 1, under_key("first")).await;
    let mut keys = (0..8).map(|n| format!("key-{n}"));
    let refused = loop {
        let key = keys.next().expect("400 bytes do not hold eight keys");
        if unary(&channel, add_under("a", 1, under_key(&key))).await.is_err() {
            break key;
        }
    };
    let failure = fails_both_ways(&channel, add_under("a", 1, under_key(&refused))).await;
    let row = (Code::ResourceExhausted, reason::DEDUP_TABLE_FULL, Some(Outcome::NotApplied));
    assert_eq!(failure.row(), row);
    assert!(failure.details.retry_after.is_some());
    assert!(
        !failure.details.outcome.expect("it was a write").decided_in_apply,
        "nothing remembers this refusal, so it proves nothing about an earlier attempt"
    );

    let id = session(&channel).await;
    let both = Some(v1::WriteOptions {
        session: Some(stamp(id, 1)),
        idempotency_key: Some(refused),
        idempotency_window_ms: 0,
    });
    let failure = fails_both_ways(&channel, add_under("a", 1, both)).await;
    assert_eq!(failure.row(), row);
    assert!(failure.details.outcome.expect("it was a write").decided_in_apply, "the session does");

    let (again, write) = added(&channel, "a", 1, under_key("first")).await;
    assert!(write.replayed, "a promise that runs is never evicted");
    assert_eq!(first, again);
    let status = answer!(ClusterStatus, unary(&channel, status()).await.expect("it answers"));
    assert!(status.dedup.expect("it is shown").key_bytes_warning);
}

#[tokio::test]
async fn remembered_answers_of_one_session_are_bounded_in_bytes() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let id = session(&channel).await;
    unary(&channel, put("large", vec![1; 16_000])).await.expect("it is stored");
    let read_all = |sequence| {
        apply(|step| {
            step.operations = vec![step_read("large")];
            step.options = under_session(stamp(id, sequence));
        })
    };
    let mut stream = Exchange::open(&channel).await;
    let call = |sequence| v1::Call {
        id: sequence,
        deadline_ms: 60_000,
        request: Some(read_all(sequence)),
        ..Default::default()
    };
    // 64 MiB are allowed; the answers of these calls hold a little more.
    let calls = 64 * 1024 * 1024 / 16_000 + 10;
    for pack in (1..=calls).collect::<Vec<u64>>().chunks(100) {
        stream.send(pack.iter().copied().map(call).collect()).await;
        for _ in pack {
            stream.next().await.expect("the stream lives").expect("an answer");
        }
    }
    let failure = fails_both_ways(&channel, read_all(calls + 1)).await;
    let row = (Code::ResourceExhausted, reason::TOO_MANY_SESSION_BYTES, Some(Outcome::NotApplied));
    assert_eq!(failure.row(), row);
    assert!(failure.message.contains("67108864"), "it names the limit: {failure:?}");
    assert!(failure.details.retry_after.is_some());
    // Answers that the client has are dropped, and there is room again.
    let renew = v1::SessionsRenewRequest { session_id: id, lowest_unanswered: calls + 1 };
    unary(&channel, Request::SessionsRenew(renew)).await.expect("it is renewed");
    let until = Instant::now() + Duration::from_secs(10);
    while unary(&channel, read_all(calls + 1)).await.is_err() {
        assert!(Instant::now() < until, "there is never room again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_full_table_of_sessions_refuses_new_ones_and_evicts_none() {
    let small = |config: &mut tally_node::config::Config| config.sessions_max = 1;
    let cluster = Cluster::start_with(1, small).await;
    let channel = cluster.channel(1);
    let id = session(&channel).await;
    let failure = fails_both_ways(&channel, open_session()).await;
    let row = (Code::ResourceExhausted, reason::SESSION_TABLE_FULL, Some(Outcome::NotApplied));
    assert_eq!(failure.row(), row);
    assert!(failure.details.retry_after.is_some());
    added(&channel, "a", 1, under_session(stamp(id, 1))).await;
    let close = Request::SessionsClose(v1::SessionsCloseRequest { session_id: id });
    unary(&channel, close).await.expect("it closes");
    session(&channel).await;
}
