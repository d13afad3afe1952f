//! The upkeep: who asks it, and when it ends.

use std::{
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;

use super::*;
use crate::{snapshot::SnapshotInfo, state::SnapshotRequests};

/// A state that takes some pieces to go through, and its upkeep, as a task.
async fn start(node: &Node) -> (Arc<StateStore>, SnapshotRequests, JoinHandle<()>) {
    let state = node.open(None).await.unwrap();
    (1..=20).for_each(|index| state.commit(big(index), id(index), None));
    let (requests, upkeep) = state.upkeep(Duration::from_secs(3600));
    (state, requests, tokio::spawn(upkeep.run(async {})))
}

async fn begin_build(
    node: &Node,
    requests: &SnapshotRequests,
) -> JoinHandle<Result<SnapshotInfo, StateError>> {
    let requests = requests.clone();
    let asking = tokio::spawn(async move { requests.build().await });
    build_has_begun(node).await;
    asking
}

#[tokio::test]
async fn whoever_asks_gets_a_snapshot_and_whoever_goes_away_does_not_cancel_it() {
    let node = Node::new(40);
    let (state, requests, _upkeep) = start(&node).await;
    assert_eq!(requests.build().await.unwrap().last_log_id, id(20));
    commit(&state, 21);
    begin_build(&node, &requests).await.abort();
    let again = requests.build().await.unwrap();
    assert_eq!(again.last_log_id, id(21));
    assert_eq!(state.current_snapshot(), Some(again));
}

/// It may run on a thread that nobody can abort. A node that is gone must not keep its directory.
#[tokio::test]
async fn it_ends_with_the_last_who_could_ask_in_the_middle_of_a_build() {
    let node = Node::new(41);
    let (state, requests, upkeep) = start(&node).await;
    begin_build(&node, &requests).await.abort();
    drop(requests);
    upkeep.await.unwrap();
    assert_eq!(state.current_snapshot(), None, "the build came to its end");
    assert_eq!(Arc::strong_count(&state), 1, "somebody still has the state");
    assert_eq!(state.build_snapshot().await.unwrap().last_log_id, id(20), "another can build");
}

#[tokio::test]
async fn a_build_gives_way_to_the_end_of_the_process() {
    let node = Node::new(42);
    let (state, requests, _upkeep) = start(&node).await;
    let building = begin_build(&node, &requests).await;
    state.close().await.unwrap();
    assert!(matches!(building.await.unwrap(), Err(StateError::SnapshotAbandoned)));
    assert!(matches!(requests.build().await, Err(StateError::Fatal(_))));
    assert!(node.fatal.lock().unwrap().is_empty(), "a good end is not a failure");
}

#[tokio::test]
async fn it_begins_when_it_may() {
    let node = Node::new(43);
    let state = node.open(None).await.unwrap();
    commit(&state, 1);
    let (requests, upkeep) = state.upkeep(Duration::from_millis(1));
    let (begin, may_begin) = tokio::sync::oneshot::channel();
    let upkeep = tokio::spawn(upkeep.run(async { may_begin.await.unwrap() }));
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(state.flushed_applied(), None, "it was flushed before that was allowed");
    begin.send(()).unwrap();
    assert_eq!(requests.build().await.unwrap().last_log_id, id(1));
    drop(requests);
    upkeep.await.unwrap();
}

/// How large it becomes is known only on the way: it stops before it takes what flushes need, and whoever asks next whether
/// there is room asks for more than it had.
#[tokio::test]
async fn a_snapshot_leaves_the_room_of_flushes() {
    let node = Node::new(44);
    let looks_left = Arc::new(AtomicU64::new(2));
    let looks = looks_left.clone();
    let room_for = Arc::new(move |_| -> BoxFuture<'static, io::Result<bool>> {
        let left = looks.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        Box::pin(async move { Ok(left.is_ok()) })
    });
    let state = node.open_with(StateHooks { room_for, ..node.hooks() }, None).await.unwrap();
    commit(&state, 1);
    let small = state.build_snapshot().await.unwrap();
    assert_eq!(state.next_snapshot_bytes(), small.size, "nothing says that it will be more");
    for index in 2..=60 {
        let mut writes = effect(index);
        writes.put(format!("large {index}").into(), vec![index as u8; 100_000].into());
        state.commit(writes, id(index), None);
    }
    let Err(StateError::NoRoomForSnapshot { bytes }) = state.build_snapshot().await else {
        panic!("there was room for two looks alone");
    };
    assert!((3 << 20..5_000_000).contains(&bytes), "{bytes}: what was written, and a step");
    assert_eq!(state.next_snapshot_bytes(), bytes);
    assert_eq!(node.disk.names("snap").len(), 1, "the room is given back, and the last one stays");
    assert_eq!(state.current_snapshot(), Some(small));
    assert!(!state.is_building_snapshot() && node.fatal.lock().unwrap().is_empty());

    looks_left.store(u64::MAX, SeqCst);
    let built = state.build_snapshot().await.unwrap();
    assert!(built.size > 5_900_000);
    assert_eq!(state.next_snapshot_bytes(), built.size, "what it is, and no guess any more");
}
