//! `Stream.Exchange`: order, nonsense, back-pressure, and streams that end half-way.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tally_node::config::Config;
use tally_proto::{
    reason,
    v1::{self, Outcome, answer::Response, call::Request, stream_client::StreamClient},
};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::{
    client::{Exchange, Failure, unary},
    cluster::{Cluster, PATIENCE, eventually},
    requests::*,
};

fn call(id: u64, request: Request) -> v1::Call {
    v1::Call { id, request: Some(request), ..Default::default() }
}

#[tokio::test]
async fn every_call_of_many_packs_is_answered_by_its_id() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let mut stream = Exchange::open(&channel).await;
    let mut id = 0;
    for _ in 0..4 {
        let pack = (0..1024).map(|_| {
            id += 1;
            if id % 3 == 0 { call(id, get("none")) } else { call(id, add("a", 1)) }
        });
        stream.send(pack.collect()).await;
    }
    let mut answers = BTreeMap::new();
    for _ in 0..id {
        let answer = stream.next().await.expect("the stream lives").expect("the stream lives");
        assert!(answers.insert(answer.id, answer.response).is_none(), "one answer each");
    }
    for (id, response) in answers {
        match response.expect("a response") {
            Response::Error(error) if id % 3 == 0 => assert_eq!(error.code, Code::NotFound as i32),
            Response::CountersAdd(_) => assert_ne!(id % 3, 0),
            other => panic!("call {id}: {other:?}"),
        }
    }
    let now = answer!(CountersGet, unary(&channel, get("a")).await.expect("it is there"));
    assert_eq!(now.counter.expect("it").value, 4096 - 4096 / 3);
}

/// What a call may take in all where a test is about what it waits for: longer than the test does.
const FAR_MS: u32 = 3 * PATIENCE.as_millis() as u32;

/// Adds over a stream at one node, each under a key until it is applied. Says why any was not at first.
///
/// Some answer comes within [`PATIENCE`], however long the one takes that is behind all others on a slow
/// machine; writes that wait for each other would wait until their deadlines.
async fn add_over_a_stream(
    channel: tonic::transport::Channel,
    who: u64,
    adds: u64,
) -> BTreeSet<String> {
    let keyed = |id| {
        let key = format!("{who}-{id}");
        let add = add_with("a", 1, |request| request.options = under_key(&key));
        v1::Call { deadline_ms: FAR_MS, ..call(id, add) }
    };
    let mut stream = Exchange::open(&channel).await;
    stream.send((1..=adds).map(keyed).collect()).await;
    let mut unanswered: BTreeSet<u64> = (1..=adds).collect();
    let mut reasons = BTreeSet::new();
    while !unanswered.is_empty() {
        let answer = tokio::time::timeout(PATIENCE, stream.next()).await.expect("it moves on");
        let answer = answer.expect("the stream lives").expect("the stream lives");
        match answer.response.expect("a response") {
            Response::CountersAdd(_) => {
                assert!(unanswered.remove(&answer.id), "call {} was answered before", answer.id);
            }
            Response::Error(status) => {
                reasons.insert(Failure::from(status).details.reason);
                tokio::time::sleep(Duration::from_millis(10)).await;
                stream.send(vec![keyed(answer.id)]).await;
            }
            other => panic!("call {}: {other:?}", answer.id),
        }
    }
    reasons
}

/// What waits for room does so at whichever node it came to; only unary writes are refused.
fn little_room(config: &mut Config) {
    config.writes_in_flight = 2;
    config.limit_share_percent = 100;
}

#[tokio::test]
async fn no_write_of_a_stream_is_refused_for_want_of_room_at_the_leader() {
    const ADDS: u64 = 200;
    let cluster = Cluster::start_with(3, little_room).await;
    let streams: Vec<_> = (cluster.ids().into_iter())
        .map(|id| tokio::spawn(add_over_a_stream(cluster.channel(id), id, ADDS)))
        .collect();
    for stream in streams {
        let reasons = stream.await.expect("all were applied");
        assert!(!reasons.contains(reason::TOO_MANY_IN_FLIGHT), "{reasons:?}");
    }
    let now = unary(&cluster.channel(1), get("a")).await.expect("it is there");
    assert_eq!(answer!(CountersGet, now).counter.expect("it").value, 3 * ADDS as i64);
}

/// Nodes that are full of writes for each other, as each was the leader of the other, must not wait for
/// each other.
#[tokio::test]
async fn streams_whose_writes_wait_for_room_survive_changes_of_leader() {
    const ADDS: u64 = 400;
    let cluster = Cluster::start_with(3, little_room).await;
    let ids = cluster.ids();
    let streams: Vec<_> = (ids.iter())
        .map(|id| tokio::spawn(add_over_a_stream(cluster.channel(*id), *id, ADDS)))
        .collect();
    for turn in 0..4 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let leader = cluster.leader().await;
        let to = ids[(leader as usize + turn % 2) % ids.len()];
        let consensus = cluster.node(leader).consensus();
        // It may be another's by now; then the next turn moves it.
        let _ = consensus.transfer_leader(Some(to), Duration::from_secs(1)).await;
    }
    for stream in streams {
        stream.await.expect("all were applied");
    }
    let now = unary(&cluster.channel(1), get("a")).await.expect("it is there");
    assert_eq!(answer!(CountersGet, now).counter.expect("it").value, 3 * ADDS as i64);
}

#[tokio::test]
async fn a_call_without_a_request_fails_alone() {
    let cluster = Cluster::start(1).await;
    let mut stream = Exchange::open(&cluster.channel(1)).await;
    let failed = stream.call(v1::Call { id: 7, ..Default::default() }).await;
    let failure = Failure::from(failed.expect_err("it asks for nothing"));
    failure.assert_complete();
    assert_eq!(failure.row().0, Code::InvalidArgument);
    assert_eq!(failure.details.fields[0].0, "request");
    stream.call(call(8, add("a", 1))).await.expect("the stream goes on");
    // An id is free again once its call is answered.
    stream.call(call(8, add("a", 1))).await.expect("the stream goes on");
}

/// Sends a pack that breaks the stream's rules, and gives what the stream ends with.
async fn breaks(cluster: &Cluster, calls: Vec<v1::Call>) -> Failure {
    let mut stream = Exchange::open(&cluster.channel(1)).await;
    stream.send(calls).await;
    loop {
        match stream.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a broken stream ends with an error"),
            Err(status) => return Failure::from(status),
        }
    }
}

#[tokio::test]
async fn a_stream_that_breaks_its_own_rules_ends_with_an_error() {
    let cluster = Cluster::start(1).await;
    let twice = vec![call(1, add("a", 1)), call(1, add("a", 1))];
    let many = (0..1025).map(|id| call(id, get("none"))).collect();
    for (calls, field, part) in
        [(twice, "calls.id", "call 1 is still under way"), (many, "calls", "1024 calls")]
    {
        let failure = breaks(&cluster, calls).await;
        assert_eq!(
            (failure.code, &*failure.details.reason),
            (Code::InvalidArgument, reason::INVALID_REQUEST)
        );
        assert_eq!(failure.details.fields[0].0, field);
        assert!(failure.message.contains(part), "{failure:?}");
        assert_eq!(
            failure.outcome(),
            Some(Outcome::Unknown),
            "calls that were sent before may have been applied"
        );
    }
    Exchange::open(&cluster.channel(1)).await.call(call(1, add("b", 1))).await.expect("it lives");
}

#[tokio::test]
async fn a_call_above_the_limit_fails_and_a_pack_above_the_transports_ends_the_stream() {
    let cluster = Cluster::start(1).await;
    let mut stream = Exchange::open(&cluster.channel(1)).await;
    let large = call(1, put("k", vec![0; 2 * 1024 * 1024 + 1]));
    let failure = Failure::from(stream.call(large).await.expect_err("it is too large"));
    assert_eq!(failure.row().0, Code::InvalidArgument);
    assert!(failure.message.contains("2097152"), "{failure:?}");
    stream.call(call(2, add("a", 1))).await.expect("the stream goes on");
    let failure = breaks(&cluster, vec![call(1, put("k", vec![0; 16 * 1024 * 1024]))]).await;
    assert_eq!(failure.row().0, Code::InvalidArgument);
    assert_eq!(failure.details.reason, reason::INVALID_REQUEST);
}

/// Resident memory of this process, in bytes.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux says");
    let pages: u64 = statm.split(' ').nth(1).expect("resident").parse().expect("a number");
    pages * 4096
}

/// How a flood went.
#[derive(Debug)]
enum Flood {
    /// All was taken.
    Taken,
    /// One was not taken for so long as it was waited.
    Stalled,
    /// Behind so many packs the node ended the stream.
    Ended(u64),
}

/// Sends packs and never reads an answer.
async fn flood(
    cluster: &Cluster,
    pack: impl Fn(u64) -> Vec<v1::Call>,
    packs_max: u64,
    patience: Duration,
) -> Flood {
    let (packs, queue) = mpsc::channel(1);
    let mut client = StreamClient::new(cluster.channel(1));
    let _answers = client.exchange(ReceiverStream::new(queue)).await.expect("a stream opens");
    for n in 0..packs_max {
        let pack = v1::StreamExchangeRequest { calls: pack(n) };
        let sent = packs.send(pack);
        match tokio::time::timeout(patience, sent).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Flood::Ended(n),
            Err(_) => return Flood::Stalled,
        }
    }
    // What is small enough waits in the buffers of HTTP/2; the node has time to run it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    Flood::Taken
}

#[tokio::test]
async fn a_client_that_never_reads_is_not_read_any_more() {
    let cluster = Cluster::start(1).await;
    // 100 MB of requests, if the node took them all.
    let name = "n".repeat(500);
    let pack = |n: u64| (0..200).map(|at| call(n * 200 + at, get(&name))).collect();
    // The node ends a call whose answers nobody takes for ten seconds: nothing here is for a slow machine to decide.
    let flooded = flood(&cluster, pack, 1000, Duration::from_secs(60)).await;
    let Flood::Ended(taken) = flooded else { panic!("it goes on reading: {flooded:?}") };
    assert!(
        taken < 500,
        "the node takes no 100 MB from a client that reads nothing: {taken} packs"
    );
    assert!(taken > 20, "back-pressure begins late enough to keep a pipeline full: {taken}");
    unary(&cluster.channel(1), add("a", 1)).await.expect("others are served");
}

#[tokio::test]
async fn large_answers_that_nobody_reads_do_not_pile_up() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    for n in 0..3 {
        unary(&channel, put(&format!("k{n}"), vec![1; 1024 * 1024 - 600])).await.expect("stored");
    }
    let before = resident_bytes();
    // Every scan is a few bytes, and its answer is 3 MiB: 3 GB, if all were made.
    let pack = |n: u64| (0..10).map(|at| call(n * 10 + at, scan(|_| {}))).collect();
    flood(&cluster, pack, 100, Duration::from_millis(700)).await;
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 400 * 1024 * 1024, "answers hold {} MiB", grown / 1024 / 1024);
    unary(&channel, add("a", 1)).await.expect("others are served");
}

#[tokio::test]
async fn a_write_whose_caller_went_away_keeps_its_room_until_it_is_answered() {
    const PLACES: usize = 20;
    // No entry is decided before the test says so: the first waits for the disk, and what is sent behind
    // it in the queue. (Without a quorum it would be for the clock to say how long they wait.)
    let cluster = Cluster::start_with(1, |config| {
        config.entries_in_flight = 1;
        config.writes_in_flight = PLACES;
        config.limit_share_percent = 100;
    })
    .await;
    let channel = cluster.channel(1);
    unary(&channel, add("a", 1)).await.expect("the node takes writes");
    let consensus = cluster.node(1).consensus();
    // To see that no room is left is to take some for a moment, and so to refuse a write now and then.
    let is_full = || consensus.try_admit(tally_node::env::shares::Identity::Nobody, 0).is_none();
    cluster.syncs(1).shut();
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..PLACES {
        let channel = channel.clone();
        let request = add(&format!("k{n}"), 1);
        calls.spawn(async move {
            let refused = async || {
                let failed = unary(&channel, request.clone()).await.map_err(Failure::from).err();
                failed.is_some_and(|failed| failed.details.reason == reason::TOO_MANY_IN_FLIGHT)
            };
            while refused().await {}
        });
    }
    eventually("all room is taken", is_full).await;
    calls.shutdown().await;
    // The node reads the frames of one connection in their order: when it answers what was asked after the
    // calls were dropped, it knows that their callers have gone.
    for _ in 0..2 {
        unary(&channel, get_at("a", at_level(v1::ReadLevel::Local)))
            .await
            .expect("the node answers");
    }
    assert!(is_full(), "writes are under way that nobody waits for");
    cluster.syncs(1).open();
    // The bound is the one outside; a drain that ran into its own would look as if all had ended.
    let ended = consensus.drain(Instant::now() + 2 * PATIENCE);
    tokio::time::timeout(PATIENCE, ended).await.expect("and they end");
}

#[tokio::test]
async fn a_stream_that_is_dropped_half_way_leaves_nothing_behind() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    for round in 0..10 {
        let stream = Exchange::open(&channel).await;
        let pack = (0..500).map(|id| call(id, add("a", 1)));
        stream.send(pack.collect()).await;
        if round % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(stream);
    }
    let ended = cluster.node(1).consensus().drain(Instant::now() + 2 * PATIENCE);
    tokio::time::timeout(PATIENCE, ended).await.expect("all writes ended");
    let now = unary(&channel, add("a", 0)).await.expect("it answers");
    let value = answer!(CountersAdd, now).change.expect("a change").value;
    assert!((0..=5000).contains(&value));
}
