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

async fn send(from: &StateStore, to: &StateStore) -> crate::snapshot::SnapshotInfo {
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
    to.commit(
        Writes { records: [("stray".into(), Change::Put("must go".into()))].into() },
        id(2),
        None,
    );
    send(&from, &to).await;
    assert_eq!(check_whole(&to), 40);
    assert_eq!((to.flushed_applied(), to.purge_limit()), (Some(id(40)), Some(id(40))));
    follower.crash();
    let to = follower.open(Some(id(40))).await.unwrap();
    assert_eq!(check_whole(&to), 40);
    assert_eq!(follower.disk.names("snap"), ["1-40.snap"]);
}

#[tokio::test]
async fn installing_what_is_applied_already_is_refused() {
    let node = Node::new(6);
    let state = node.open(None).await.unwrap();
    (1..=5).for_each(|index| commit(&state, index));
    state.build_snapshot().await.unwrap();
    let bytes = node.disk.read("snap/1-5.snap").unwrap();
    let mut receiver = state.begin_receive().await.unwrap();
    receiver.write(&bytes).await.unwrap();
    let received = receiver.finish(id(5)).await.unwrap();
    let refused = state.install_snapshot(received).await;
    assert!(matches!(refused, Err(StateError::SnapshotBehind { .. })));
    assert_eq!(node.disk.names("snap"), ["1-5.snap"]);
}

#[tokio::test]
async fn equal_states_make_byte_identical_snapshots() {
    // One built from live commits in many flushes, the other from an installed snapshot and more.
    let (one, other) = (Node::new(12), Node::new(13));
    let (a, b) = (one.open(None).await.unwrap(), other.open(None).await.unwrap());
    for index in 1..=60 {
        commit(&a, index);
        if index % 9 == 0 {
            a.flush_now().await.unwrap();
        }
        if index == 30 {
            a.build_snapshot().await.unwrap();
            send(&a, &b).await;
        }
        if index > 30 {
            commit(&b, index);
        }
    }
    let (a, b) = (a.build_snapshot().await.unwrap(), b.build_snapshot().await.unwrap());
    assert_eq!(a, b);
    assert_eq!(one.disk.read(&a.path), other.disk.read(&b.path));
}

#[tokio::test]
async fn a_snapshot_that_is_being_read_stays() {
    let node = Node::new(14);
    let state = node.open(None).await.unwrap();
    commit(&state, 1);
    state.build_snapshot().await.unwrap();
    let reader = state.open_snapshot_reader().await.unwrap();
    commit(&state, 2);
    state.build_snapshot().await.unwrap();
    assert_eq!(node.disk.names("snap"), ["1-1.snap", "1-2.snap"]);
    drop(reader);
    commit(&state, 3);
    state.build_snapshot().await.unwrap();
    assert_eq!(node.disk.names("snap"), ["1-3.snap"]);
}

#[tokio::test]
async fn nothing_can_be_made_a_snapshot_of() {
    let state = Node::new(15).open(None).await.unwrap();
    assert!(matches!(state.build_snapshot().await, Err(StateError::NothingApplied)));
}

#[tokio::test]
#[should_panic(expected = "keeps for itself")]
async fn the_state_stores_own_keys_can_not_be_written() {
    let state = Node::new(16).open(None).await.unwrap();
    state.commit(Writes { records: [("\0x".into(), Change::Delete)].into() }, id(1), None);
}

#[tokio::test]
#[should_panic(expected = "already")]
async fn applied_never_goes_back() {
    let state = Node::new(17).open(None).await.unwrap();
    commit(&state, 2);
    commit(&state, 2);
}

#[tokio::test]
async fn the_own_record_is_invisible() {
    let state = Node::new(18).open(None).await.unwrap();
    commit(&state, 1);
    state.flush_now().await.unwrap();
    assert_eq!(state.view().get(b"\0state"), None);
    assert_eq!(contents(&state), model(1));
}
