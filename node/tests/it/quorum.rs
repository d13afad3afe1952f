//! Without a quorum, without a leader, at the deadline, on the way down: an error in time that says
//! on which side of "proposed" the write was.

use std::time::Duration;

use tally_proto::{
    reason,
    v1::{self, Outcome, call::Request},
};
use tokio::time::Instant;
use tonic::{Code, transport::Channel};

use crate::{
    client::{Asked, Exchange, Failure, fails_both_ways, streamed_asked, unary, unary_asked},
    cluster::{
        Cluster, ELECTION_TIMEOUT_MAX, NO_QUORUM_WITHIN, PATIENCE, TOO_LATE_TO_JUDGE, eventually,
        how_late,
    },
    requests::*,
};

const NOT_APPLIED: Option<Outcome> = Some(Outcome::NotApplied);
const UNKNOWN: Option<Outcome> = Some(Outcome::Unknown);

/// An answer that must come within the time in which a missing quorum is to be noticed, as far as this
/// machine can tell: one that was not noticed shows in the answer too, which then is about the deadline.
async fn in_time<T>(answer: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let (answer, late) = how_late(answer).await;
    let took = began.elapsed();
    let is_in_time = took < NO_QUORUM_WITHIN || late > TOO_LATE_TO_JUDGE;
    assert!(is_in_time, "after {took:?}, and a sleeper woke {late:?} late at most");
    answer
}

/// Sends a request that must fail within that time.
async fn fails_in_time(channel: &Channel, request: Request) -> Failure {
    let failed = in_time(unary(channel, request)).await;
    let failure = Failure::from(failed.expect_err("there is no quorum"));
    failure.assert_complete();
    failure
}

/// A session opened at the leader.
async fn session(channel: &Channel) -> u64 {
    answer!(SessionsOpen, unary(channel, open_session()).await.expect("it opens")).session_id
}

#[tokio::test]
async fn a_write_that_the_leader_proposed_alone_is_unknown() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let channel = cluster.channel(leader);
    let id = session(&channel).await;
    // The followers make nothing durable, so nothing is committed, and yet there is a quorum until all of
    // these were proposed.
    for follower in cluster.ids().into_iter().filter(|id| *id != leader) {
        cluster.syncs(follower).shut();
    }
    let short = proposed_before_its_deadline(&channel).await;
    let plain = add("plain", 1);
    let keyed = add_with("keyed", 1, |add| add.options = under_key("order-1"));
    let stamped = add_with("stamped", 1, |add| add.options = under_session(stamp(id, 1)));
    let mut calls = Vec::new();
    for request in [plain, keyed, stamped] {
        let before = cluster.last_log_index(leader);
        let channel = channel.clone();
        calls.push(tokio::spawn(async move { unary(&channel, request).await }));
        eventually("it is proposed", || cluster.last_log_index(leader) > before).await;
    }
    cluster.isolate(leader);
    let mut failures = Vec::new();
    for call in calls {
        let ended = in_time(call).await.expect("it ends");
        let failure = Failure::from(ended.expect_err("it can't be committed"));
        failure.assert_complete();
        failures.push(failure);
    }
    let [plain, keyed, stamped] = failures.try_into().expect("there are three");
    assert_eq!(plain.row(), (Code::Unknown, reason::OUTCOME_UNKNOWN, UNKNOWN));
    assert_eq!(plain.details.retry_after, None, "sending it again is not safe");
    for repeatable in [keyed, stamped] {
        assert_eq!(repeatable.row(), (Code::Unavailable, reason::OUTCOME_UNKNOWN, UNKNOWN));
        assert!(repeatable.details.retry_after.is_some(), "sending it again is safe");
    }
    assert_eq!(short.row(), (Code::DeadlineExceeded, reason::OUTCOME_UNKNOWN, UNKNOWN));
    short.assert_complete();
}

/// A write that was proposed and not committed when its deadline passed. Which deadline is long enough to
/// be proposed depends on the machine.
async fn proposed_before_its_deadline(channel: &Channel) -> Failure {
    let mut deadline = Duration::from_millis(100);
    loop {
        let answer = streamed_asked(channel, add("short", 1), &Asked::within(deadline)).await;
        let failure = Failure::from(answer.expect_err("it can't be committed"));
        if failure.details.reason != reason::NOT_PROPOSED || deadline > PATIENCE {
            return failure;
        }
        deadline *= 2;
    }
}

#[tokio::test]
async fn a_leader_without_quorum_says_so_and_proposes_nothing() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let channel = cluster.channel(leader);
    unary(&channel, add("a", 5)).await.expect("there is a quorum");
    cluster.isolate(leader);
    tokio::time::sleep(2 * ELECTION_TIMEOUT_MAX).await;

    for _ in 0..2 {
        let write = fails_in_time(&channel, add("a", 1)).await;
        assert_eq!(write.row(), (Code::Unavailable, reason::NO_QUORUM, NOT_APPLIED));
        assert!(write.details.retry_after.is_some());
        let read = fails_in_time(&channel, get("a")).await;
        assert_eq!(read.row(), (Code::Unavailable, reason::NO_QUORUM, None));
        assert!(read.details.retry_after.is_some());
    }
    let both = fails_both_ways(&channel, add("a", 1)).await;
    assert_eq!(both.details.reason, reason::NO_QUORUM);
    reads_without_quorum(&channel, 5).await;

    // The others have a leader, and go on.
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    let other = cluster.channel(others[0]);
    until_written(&other, "a").await;
    cluster.switchboard.mend();
    cluster.settled().await;
    let read = unary(&channel, get("a")).await.expect("the old leader follows now");
    assert_eq!(answer!(CountersGet, read).counter.expect("it is there").value, 6);
}

/// What works without a quorum, and what does not: the reads that say what they are.
async fn reads_without_quorum(channel: &Channel, value: i64) {
    let local = unary(channel, get_at("a", at_level(v1::ReadLevel::Local))).await;
    let local = answer!(CountersGet, local.expect("LOCAL needs no quorum"));
    assert_eq!(local.header.expect("a header").consistency(), v1::ReadLevel::Local);
    assert_eq!(local.counter.expect("it is there").value, value);

    let refused = fails_in_time(channel, get_at("a", bounded(1, false))).await;
    let row = (Code::FailedPrecondition, reason::STALENESS_BOUND_EXCEEDED, None);
    assert_eq!(refused.row(), row);
    let best = refused.details.staleness.as_ref().expect("the best that could be proven").best_ms;
    assert!(best.is_some_and(|best| best > 1), "an older proof is there: {best:?}");

    let fallback = unary(channel, get_at("a", bounded(1, true))).await.expect("it falls back");
    let header = header(&fallback);
    assert_eq!(header.consistency(), v1::ReadLevel::Local, "the answer says what it is");
    assert!(header.staleness_ms_max.is_some_and(|ms| ms > 1), "and how old it may be");
}

/// Adds one until it is applied; it may be refused, or left unknown, while a leader is elected.
async fn until_written(channel: &Channel, counter: &str) {
    let request = add_with(counter, 1, |add| add.options = under_key("until-written"));
    let until = Instant::now() + PATIENCE;
    while let Err(status) = unary(channel, request.clone()).await {
        let failure = Failure::from(status);
        assert!(Instant::now() < until, "never written: {failure:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_follower_that_is_cut_off_says_so_in_time() {
    let cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let channel = cluster.channel(follower);
    unary(&channel, add("a", 5)).await.expect("it is forwarded");
    unary(&channel, get("a")).await.expect("it is read");
    cluster.isolate(follower);

    // At once, and when it has given its leader up.
    for _ in 0..2 {
        let (write, read) =
            tokio::join!(fails_in_time(&channel, add("b", 1)), fails_in_time(&channel, get("a")));
        assert_eq!(read.row(), (Code::Unavailable, reason::NO_QUORUM, None));
        assert_ne!(write.outcome(), None);
        tokio::time::sleep(2 * ELECTION_TIMEOUT_MAX).await;
    }
    // By now it knows better than to send a write into the void.
    let write = fails_in_time(&channel, add("b", 1)).await;
    assert_eq!(write.row(), (Code::Unavailable, reason::NO_QUORUM, NOT_APPLIED));
    reads_without_quorum(&channel, 5).await;
    cluster.switchboard.mend();
    cluster.settled().await;
    until_written(&channel, "a").await;
}

#[tokio::test]
async fn a_follower_whose_leader_died_waits_for_another_or_says_why_not() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let channel = cluster.channel(follower);
    unary(&channel, add("a", 1)).await.expect("it is forwarded");
    cluster.kill(leader).await;
    let keyed = add_with("b", 1, |add| add.options = under_key("order-1"));
    let failed = in_time(unary(&channel, keyed)).await;
    if let Err(status) = failed {
        let failure = Failure::from(status);
        assert_eq!(failure.code, Code::Unavailable, "sending it again is safe: {failure:?}");
        assert!(failure.details.retry_after.is_some());
        failure.assert_complete();
    }
    until_written(&channel, "a").await;
}

#[tokio::test]
async fn a_node_without_its_peers_answers_in_time() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    unary(&cluster.channel(leader), add("a", 5)).await.expect("there is a quorum");
    let caught_up = get_at("a", at_level(v1::ReadLevel::Linearizable));
    unary(&cluster.channel(follower), caught_up).await.expect("it has caught up");
    for id in cluster.ids().into_iter().filter(|id| *id != follower) {
        cluster.kill(id).await;
    }
    let channel = cluster.channel(follower);
    let (write, read) =
        tokio::join!(fails_in_time(&channel, add("a", 1)), fails_in_time(&channel, get("a")));
    assert_eq!(write.outcome(), NOT_APPLIED, "{write:?}");
    assert_eq!(read.row(), (Code::Unavailable, reason::NO_QUORUM, None));
    reads_without_quorum(&channel, 5).await;

    // Restarted, it has no proof at all and knows only an old leader.
    cluster.stop(follower).await;
    cluster.start_node(follower).await.expect("its directory is fine");
    let channel = cluster.channel(follower);
    let (write, read) =
        tokio::join!(fails_in_time(&channel, add("a", 1)), fails_in_time(&channel, get("a")));
    assert_eq!(write.outcome(), NOT_APPLIED, "{write:?}");
    assert_eq!(read.row(), (Code::Unavailable, reason::NO_QUORUM, None));
    let refused = fails_in_time(&channel, get_at("a", bounded(1000, false))).await;
    assert_eq!(refused.details.staleness.expect("said").best_ms, None, "nothing is proven");
    let local = unary(&channel, get_at("a", at_level(v1::ReadLevel::Local))).await;
    let local = answer!(CountersGet, local.expect("LOCAL needs no quorum"));
    assert_eq!(local.counter.expect("it is there").value, 5);
    assert_eq!(local.header.expect("a header").staleness_ms_max, None, "and it says so");
}

#[tokio::test]
async fn a_deadline_that_passes_in_the_queue_was_never_proposed() {
    // One entry at a time: the first write waits for the disk and holds the place, the others wait behind it.
    let cluster = Cluster::start_with(1, |config| config.entries_in_flight = 1).await;
    let channel = cluster.channel(1);
    unary(&channel, add("a", 1)).await.expect("the node takes writes");
    cluster.syncs(1).shut();
    let before = cluster.last_log_index(1);
    let first = tokio::spawn({
        let channel = channel.clone();
        async move { unary(&channel, add("a", 1)).await }
    });
    eventually("the first is proposed", || cluster.last_log_index(1) > before).await;
    let asked = Asked { timeout: Some(Duration::from_millis(80)), request_id: "mine".into() };
    let (one, other) = tokio::join!(
        unary_asked(&channel, add("a", 1), &asked),
        streamed_asked(&channel, add("a", 1), &asked),
    );
    let mut failures = vec![Failure::from(other.expect_err("late"))];
    let one = Failure::from(one.expect_err("late"));
    // The node answers a little before the deadline. On a machine that is too busy for that, the
    // client's own timer comes first and knows nothing.
    if one.code != Code::Cancelled {
        failures.push(one);
    }
    for failure in failures {
        assert_eq!(failure.row(), (Code::DeadlineExceeded, reason::NOT_PROPOSED, NOT_APPLIED));
        failure.assert_complete();
        assert_eq!(failure.details.request_id.as_deref(), Some("mine"));
    }
    cluster.syncs(1).open();
    let first = first.await.expect("it ends").expect("it is applied");
    assert_eq!(answer!(CountersAdd, first).change.expect("a change").value, 2);
    let now = answer!(CountersGet, unary(&channel, get("a")).await.expect("it is there"));
    assert_eq!(now.counter.expect("it").value, 2, "the others were never proposed");
}

#[tokio::test]
async fn a_deadline_of_a_millisecond_does_no_harm() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let asked = Asked::within(Duration::from_millis(1));
    let mut applied = 0;
    for _ in 0..50 {
        if streamed_asked(&channel, add("a", 1), &asked).await.map_err(Failure::from).is_ok() {
            applied += 1;
        }
        let _ = unary_asked(&channel, add("b", 1), &asked).await;
    }
    let now = answer!(CountersAdd, unary(&channel, add("a", 0)).await.expect("it answers"));
    assert!(now.change.expect("a change").value >= applied);
}

#[tokio::test]
async fn a_node_on_its_way_down_refuses_writes_and_says_so() {
    let mut cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let mut stream = Exchange::open(&channel).await;
    let call = |id, request| v1::Call { id, request: Some(request), ..Default::default() };
    stream.call(call(1, add("a", 1))).await.expect("it is applied");
    // The first step of a shutdown; the last one ends the stream.
    cluster.node(1).consensus().refuse_writes();
    let failure = Failure::from(stream.call(call(2, add("a", 1))).await.expect_err("too late"));
    assert_eq!(failure.row(), (Code::Unavailable, reason::SHUTTING_DOWN, NOT_APPLIED));
    assert!(failure.details.retry_after.is_some());
    let local = stream.call(call(3, get_at("a", at_level(v1::ReadLevel::Local)))).await;
    assert_eq!(answer!(CountersGet, local.expect("reads go on")).counter.expect("it").value, 1);
    cluster.begin_shutdown(1).await.expect("it ends");
    assert!(stream.next().await.is_ok_and(|answer| answer.is_none()), "the stream ends in order");
}

#[tokio::test]
async fn a_shutdown_waits_for_what_is_under_way_and_refuses_the_rest() {
    // Room for one write only, to see when it is under way; and more grace than anything here takes.
    let mut cluster = Cluster::start_with(3, |config| {
        config.writes_in_flight = 1;
        config.limit_share_percent = 100;
        config.shutdown_grace_ms = 60_000;
    })
    .await;
    let follower = cluster.follower().await;
    let channel = cluster.channel(follower);
    unary(&channel, add("a", 1)).await.expect("it is forwarded");
    let caught_up = unary(&channel, get("a")).await;
    caught_up.expect("it has applied it");
    let mut stream = Exchange::open(&channel).await;
    // A write that waits for a leader whose disk stands still is under way, and the shutdown waits for it.
    for id in cluster.ids() {
        cluster.syncs(id).shut();
    }
    let held = tokio::spawn({
        let channel = channel.clone();
        let keyed = add_with("a", 1, |add| add.options = under_key("order-1"));
        async move {
            loop {
                match unary(&channel, keyed.clone()).await.map_err(Failure::from) {
                    // Whoever looks for room takes some for a moment.
                    Err(failure) if failure.details.reason == reason::TOO_MANY_IN_FLIGHT => {}
                    ended => return ended,
                }
            }
        }
    });
    let consensus = cluster.node(follower).consensus().clone();
    eventually("the write is under way", || {
        consensus.try_admit(tally_node::env::shares::Identity::Nobody, 0).is_none()
    })
    .await;
    let down = cluster.begin_shutdown(follower);
    eventually("the node is on its way down", || consensus.is_shutting_down()).await;
    let failure = fails_both_ways(&channel, add("a", 1)).await;
    assert_eq!(failure.row(), (Code::Unavailable, reason::SHUTTING_DOWN, NOT_APPLIED));
    assert!(failure.details.retry_after.is_some());
    let local = unary(&channel, get_at("a", at_level(v1::ReadLevel::Local))).await;
    let local = answer!(CountersGet, local.expect("reads go on"));
    assert_eq!(local.counter.expect("it is there").value, 1);

    assert!(!down.is_finished(), "a write is under way");
    for id in cluster.ids() {
        cluster.syncs(id).open();
    }
    // Where the leader heard of no quorum meanwhile, it can't say what became of it.
    if let Err(failure) = held.await.expect("it ends") {
        assert_eq!(failure.details.reason, reason::OUTCOME_UNKNOWN, "{failure:?}");
    }
    assert!(matches!(stream.next().await, Ok(None)), "the stream ends in good order");
    down.await.expect("the shutdown ends");
}

#[tokio::test]
async fn a_full_disk_refuses_writes_but_not_deletes_and_recovers() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    unary(&channel, add("a", 1)).await.expect("there is room");
    cluster.set_free_bytes(1, Some(10));
    let consensus = cluster.node(1).consensus();
    eventually("the node sees the full disk", || consensus.disk_nearly_full()).await;
    let failure = fails_both_ways(&channel, add("a", 1)).await;
    let row = (Code::ResourceExhausted, reason::DISK_NEARLY_FULL, NOT_APPLIED);
    assert_eq!(failure.row(), row);
    assert!(failure.details.retry_after.is_some());
    unary(&channel, get("a")).await.expect("reads go on");
    let shown = answer!(ClusterStatus, unary(&channel, status()).await.expect("it answers"));
    assert!(shown.nodes[0].disk_nearly_full);
    unary(&channel, delete("a")).await.expect("a delete is the way back to room");
    cluster.set_free_bytes(1, None);
    eventually("the node sees the room", || !consensus.disk_nearly_full()).await;
    unary(&channel, add("a", 1)).await.expect("there is room");
}

#[tokio::test]
async fn too_many_bytes_under_way_are_refused_by_name() {
    let cluster = Cluster::start_with(1, |config| config.limit_share_percent = 100).await;
    // What is admitted waits for the disk, and holds its room meanwhile.
    cluster.syncs(1).shut();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let channel = cluster.channel(1);
        for n in 0..12 {
            let channel = channel.clone();
            let request = put(&format!("k{n}"), vec![0; 1024 * 1024]);
            calls.spawn(async move { unary(&channel, request).await });
        }
    }
    let mut refused = 0;
    while let Some(done) = calls.join_next().await {
        // From the first on that is refused, the others need not wait.
        cluster.syncs(1).open();
        if let Err(status) = done.expect("no panic") {
            let failure = Failure::from(status);
            assert_eq!(failure.details.reason, reason::TOO_MANY_BYTES_IN_FLIGHT);
            assert_eq!((failure.code, failure.outcome()), (Code::ResourceExhausted, NOT_APPLIED));
            assert!(failure.message.contains("16777216"), "it names the limit: {failure:?}");
            assert!(failure.details.retry_after.is_some());
            refused += 1;
        }
    }
    assert!(refused > 0, "24 MiB can't be under way at once");
}
