//! What it means to drop a call that is under way: the write may happen, and nothing waits for it.

use std::{
    future::{Future, IntoFuture},
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};

use tally_client::ReadLevel;

use crate::fake::{Act, Cluster, FAR, eventually};

#[tokio::test]
async fn a_dropped_write_may_happen_and_its_number_is_given_up() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    cluster.script(0, [Act::Slow]);
    let dropped = tokio::spawn(client.counter("hits").add(10).into_future());
    cluster.has_seen(2).await;
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    assert_eq!(cluster.value("hits"), 1, "not yet");

    // The next write says that nobody waits for the number any more, so the cluster forgets it.
    client.counter("hits").add(100).await.unwrap();
    let stamps = cluster.nodes[0].seen.lock().unwrap().stamps.clone();
    assert_eq!(stamps, [(1, 1), (2, 2), (3, 3)]);

    cluster.hurry();
    // The task that was held is woken before this call goes out and its answer comes back.
    assert_eq!(client.counter("hits").get().await.unwrap().value, 101);
    // The node came to it after its number was given up: it is not executed any more. Had it come before, it
    // would have been: `a_write_that_was_executed_before_it_was_dropped_stays`.
    assert_eq!(cluster.value("hits"), 101);
}

#[tokio::test]
async fn a_write_that_was_executed_before_it_was_dropped_stays() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    cluster.script(0, [Act::ExecuteSilently]);
    let dropped = tokio::spawn(client.counter("hits").add(10).into_future());
    eventually("it is executed", || cluster.value("hits") == 10).await;
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    assert_eq!(client.counter("hits").add(1).await.unwrap().value, 11);
}

#[tokio::test]
async fn dropped_writes_leave_room_in_the_window() {
    let cluster = Cluster::start(1).await;
    cluster.model().window = 4;
    let client = cluster.client();
    cluster.script(0, vec![Act::Silence; 4]);
    let dropped: Vec<_> =
        (0..4).map(|_| tokio::spawn(client.counter("hits").add(1).into_future())).collect();
    cluster.has_seen(4).await;
    let next = tokio::spawn(client.counter("hits").add(1).deadline(FAR).into_future());
    tokio::task::yield_now().await;
    assert_eq!(cluster.writes(), 4, "the window is full");
    dropped.iter().for_each(|call| call.abort());
    assert_eq!(next.await.unwrap().unwrap().value, 1);
}

#[tokio::test]
async fn a_write_that_was_dropped_before_it_was_polled_is_never_sent() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    drop(client.counter("hits").add(10).into_future());
    client.counter("hits").add(1).await.unwrap();
    assert_eq!((cluster.writes(), cluster.value("hits")), (1, 1));
}

#[tokio::test]
async fn a_write_that_was_dropped_in_the_queue_is_not_sent() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    {
        // Queued by this poll, and the task that sends has not run since.
        let mut call = pin!(client.counter("hits").add(10).into_future());
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    client.counter("hits").add(1).await.unwrap();
    assert_eq!((cluster.writes(), cluster.value("hits")), (2, 2));
}

/// A caller's own timeout is a drop.
#[tokio::test]
async fn under_a_key_a_dropped_write_can_be_asked_for_again() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    cluster.script(0, [Act::ExecuteSilently]);
    let order = || client.counter("stock").add(-1).idempotency_key("order-4711");
    let timeout = tokio::time::timeout(Duration::from_millis(200), order().into_future()).await;
    assert!(timeout.is_err());
    let change = order().await.unwrap();
    assert!(change.write.replayed, "the first one was counted");
    assert_eq!(cluster.value("stock"), -1);
    let seen = client.counter("stock").get().level(ReadLevel::Local).await.unwrap();
    assert_eq!(seen.value, -1);
}
