//! Packs, back-pressure and the watermark.

use std::{future::IntoFuture as _, time::Duration};

use tally_client::{Client, Transport};

use crate::fake::{Act, Cluster};

async fn add_many(client: &Client, count: usize) {
    let writers: Vec<_> = (0..count)
        .map(|_| {
            let hits = client.counter("hits");
            tokio::spawn(async move { hits.add(1).await })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
}

/// Calls per message, over 50 rounds of 64 closed loops.
async fn calls_per_message() -> f64 {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    let loops: Vec<_> = (0..64)
        .map(|_| {
            let hits = client.counter("hits");
            tokio::spawn(async move {
                for _ in 0..50 {
                    hits.add(1).await.unwrap();
                }
            })
        })
        .collect();
    for a_loop in loops {
        a_loop.await.unwrap();
    }
    assert_eq!(cluster.value("hits"), 64 * 50 + 1);
    let packs = cluster.nodes[0].seen.lock().unwrap().packs.clone();
    let calls = packs.iter().sum::<usize>() as f64 / packs.len() as f64;
    println!("{calls:.1} calls per message");
    calls
}

#[tokio::test]
async fn concurrent_callers_share_messages() {
    let calls = calls_per_message().await;
    assert!(calls > 8.0, "{calls:.1} calls per message");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_callers_share_messages_on_two_threads() {
    let calls = calls_per_message().await;
    assert!(calls > 2.0, "{calls:.1} calls per message");
}

#[tokio::test]
async fn a_lone_caller_is_one_message_at_once() {
    let cluster = Cluster::start(1).await;
    let stream = cluster.client();
    let unary = cluster.builder().transport(Transport::Unary).build().unwrap();
    let (mut fastest, mut floor) = (Duration::MAX, Duration::MAX);
    for _ in 0..200 {
        for (client, fastest) in [(&stream, &mut fastest), (&unary, &mut floor)] {
            let began = tokio::time::Instant::now();
            client.counter("hits").add(1).await.unwrap();
            *fastest = began.elapsed().min(*fastest);
        }
    }
    assert_eq!(cluster.nodes[0].seen.lock().unwrap().packs, [1; 200]);
    // A timer would be in the way of every call, and has a resolution of one millisecond. What else a call
    // takes is for the machine, and a call without a stream takes it too.
    let timer = Duration::from_millis(1);
    assert!(fastest < floor + timer, "{fastest:?} at best, and {floor:?} without a stream");
}

#[tokio::test]
async fn a_full_window_makes_writers_wait() {
    let cluster = Cluster::start(1).await;
    cluster.model().window = 16;
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    cluster.script(0, [Act::Slow]);
    // The model asserts that no number outside of the window is ever sent.
    let adding = tokio::spawn(async move { add_many(&client, 300).await });
    cluster.has_seen(1 + 16).await;
    cluster.hurry();
    adding.await.unwrap();
    assert_eq!(cluster.value("hits"), 301);
    let model = cluster.model();
    let most = model.sessions.values().map(|session| session.most_above_watermark).max();
    assert_eq!(most, Some(16));
}

#[tokio::test]
async fn the_watermark_follows_the_lowest_unanswered_number() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    cluster.script(0, [Act::Answer, Act::Slow]);
    client.counter("hits").add(1).await.unwrap();
    let slow = tokio::spawn(client.counter("hits").add(1).into_future());
    cluster.has_seen(2).await;
    for _ in 0..3 {
        client.counter("hits").add(1).await.unwrap();
    }
    cluster.hurry();
    slow.await.unwrap().unwrap();
    client.counter("hits").add(1).await.unwrap();
    let stamps = cluster.nodes[0].seen.lock().unwrap().stamps.clone();
    assert_eq!(stamps, [(1, 1), (2, 2), (3, 2), (4, 2), (5, 2), (6, 6)]);
    let session = cluster.model().sessions.values().next().unwrap().watermark;
    assert_eq!(session, 6);
}

#[tokio::test]
async fn a_caller_that_leaves_gives_its_number_up() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    cluster.script(0, [Act::Silence]);
    let add = tokio::spawn(client.counter("hits").add(1).into_future());
    cluster.has_seen(2).await;
    add.abort();
    assert!(add.await.unwrap_err().is_cancelled());
    client.counter("hits").add(1).await.unwrap();
    assert_eq!(cluster.nodes[0].seen.lock().unwrap().stamps.last(), Some(&(3, 3)));
}

#[tokio::test]
async fn a_request_that_no_node_takes_is_not_sent() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    let error = client.keys().put("k", vec![0; 3 << 20]).await.unwrap_err();
    assert_eq!(error.outcome(), Some(tally_client::Outcome::NotApplied));
    assert!(error.message().contains("REQUEST_BYTES_MAX"), "{error}");
    assert_eq!(cluster.writes(), 0);
}

#[tokio::test]
async fn large_values_do_not_fill_one_message() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    let puts: Vec<_> = (0..8)
        .map(|n| tokio::spawn(client.keys().put(format!("k{n}"), vec![n; 900_000]).into_future()))
        .collect();
    for put in puts {
        put.await.unwrap().unwrap();
    }
    let packs = cluster.nodes[0].seen.lock().unwrap().packs.clone();
    assert_eq!(packs, [1; 8]);
}
