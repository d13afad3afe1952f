//! Commits, views, flushes and snapshots while nothing fails.

use super::*;

#[tokio::test]
async fn a_new_state_is_empty_and_opens_again() {
    let node = Node::new(1);
    for _ in 0..2 {
        let state = node.open(None).await.unwrap();
        assert_eq!(check_whole(&state), 0);
        assert_eq!((state.purge_limit(), state.flushed_applied()), (None, None));
        node.crash();
    }
}

#[tokio::test]
async fn what_was_flushed_survives_and_nothing_is_mixed() {
    let node = Node::new(2);
    let state = node.open(None).await.unwrap();
    for index in 1..=20 {
        commit(&state, index);
        assert_eq!(check_whole(&state), index);
    }
    state.flush_now().await.unwrap();
    assert_eq!(state.flushed_applied(), Some(id(20)));
    for index in 21..=30 {
        commit(&state, index);
    }
    node.crash();
    let state = node.open(None).await.unwrap();
    assert_eq!(check_whole(&state), 20);
}

#[tokio::test]
async fn a_snapshot_is_the_state_at_its_log_id() {
    let node = Node::new(3);
    let state = node.open(None).await.unwrap();
    for index in 1..=30 {
        commit(&state, index);
    }
    let info = state.build_snapshot().await.unwrap();
    assert_eq!((info.last_log_id, &info.membership), (id(30), &membership(21)));
    assert_eq!(state.purge_limit(), Some(id(30)));
    assert_eq!(node.disk.names("snap"), ["1-30.snap"]);
    node.crash();
    let state = node.open(Some(id(30))).await.unwrap();
    assert_eq!(check_whole(&state), 30);
    assert_eq!(state.current_snapshot(), Some(info));
}

async fn send(from: &StateStore, to: &StateStore) -> crate::storage::snapshot::SnapshotInfo {
    let mut reader = from.open_snapshot_reader().await.unwrap().unwrap();
    let mut receiver = to.begin_receive().await.unwrap();
    while let Some(chunk) = reader.next_chunk(100).await.unwrap() {
        receiver.write(&chunk).await.unwrap();
    }
    let received = receiver.finish(reader.info().last_log_id).await.unwrap();
    to.install_snapshot(received).await.unwrap()
}

#[tokio::test]
async fn installing_replaces_and_does_not_merge() {
    let (leader, follower) = (Node::new(4), Node::new(5));
    let from = leader.open(None).await.unwrap();
    for index in 1..=40 {
        commit(&from, index);
    }
    from.build_snapshot().await.unwrap();
    let to = follower.open(None).await.unwrap();
    commit(&to, 1);
    to.commit(Writes { records: [("stray".into(), Some("must go".into()))].into() }, id(2), None);
    send(&from, &to).await;
    assert_eq!(check_whole(&to), 40);
    assert_eq!((to.flushed_applied(), to.purge_limit()), (Some(id(40)), Some(id(40))));
    follower.crash();
    let to = follower.open(Some(id(40))).await.unwrap();
    assert_eq!(check_whole(&to), 40);
    assert_eq!(follower.disk.names("snap"), ["1-40.snap"]);
}
