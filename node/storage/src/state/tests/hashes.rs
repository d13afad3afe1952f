//! The hash that is kept: of what was written, at the entries that asked for it, across everything.

use super::*;

#[tokio::test]
async fn each_comparison_is_of_the_state_at_its_entry_whatever_comes_after() {
    let node = Node::new(1);
    let state = node.open(None).await.unwrap();
    let mut compared = state.compared();
    for index in 1..=40 {
        commit(&state, index);
        if index % 10 == 5 {
            // The first three find room, and readers look through them.
            assert_eq!(state.compare_here(), index < 35, "at {index}");
            check_whole(&state);
        }
    }
    assert!(!compared.has_changed().unwrap(), "nothing was flushed");
    state.flush_now().await.unwrap();
    let known: Vec<u64> = compared.borrow_and_update().iter().map(|it| it.applied.index).collect();
    assert_eq!(known, [5, 15, 25]);
    check_hashes(&state);
    assert_eq!(state.flushed_applied(), Some(id(40)));
    commit(&state, 41);
    assert!(state.compare_here(), "there is room again");
    state.flush_now().await.unwrap();
    assert_eq!(compared.borrow_and_update().len(), 4);
    check_hashes(&state);
}

#[tokio::test]
async fn it_comes_back_after_a_restart_and_a_store_without_one_is_counted() {
    let node = Node::new(1);
    let state = node.open(None).await.unwrap();
    (1..=20).for_each(|index| commit(&state, index));
    state.flush_now().await.unwrap();
    let written = state.flushed_hash();
    state.close().await.unwrap();
    node.crash();
    let state = node.open(None).await.unwrap();
    assert_eq!(state.flushed_hash(), written);
    // As an older release leaves it: its own record is of an earlier entry than the state.
    let store = state.core().store.clone();
    let stale = super::super::hash::encode(Some(id(3)), &StateHash::default());
    let records = [(super::super::hash::HASH_KEY, Change::Put(stale))];
    store.write(Arc::new(records.into_iter().collect())).await.unwrap();
    store.flush().await.unwrap();
    node.crash();
    let state = node.open(None).await.unwrap();
    assert_eq!(state.flushed_hash(), written);
}

/// A bit flips in a stored value. What is kept is the hash of what was written.
#[tokio::test]
async fn a_flipped_byte_shows_when_all_is_counted_and_when_it_is_overwritten() {
    let node = Node::new(1);
    let state = node.open(None).await.unwrap();
    (1..=20).for_each(|index| commit(&state, index));
    state.flush_now().await.unwrap();
    node.stores.rot(|key| key == b"key 0019").unwrap();
    assert_eq!(state.flushed_hash().1, hash_of(&model(20)), "nobody has looked at it");
    let rotten = state.rotten();
    let error = state.build_snapshot().await.unwrap_err();
    assert!(matches!(error, StateError::Rotten { .. }), "{error}");
    assert_eq!(*rotten.borrow(), Some(error.to_string()));
    assert_eq!(state.current_snapshot(), None);
    // Entry 24 deletes it, and takes out of the sum what is there.
    (21..=24).for_each(|index| commit(&state, index));
    assert!(state.compare_here());
    state.flush_now().await.unwrap();
    let compared = state.compared().borrow().clone();
    assert_eq!(contents(&state), model(24), "the state itself is right again");
    assert_ne!(compared[0].hash, hash_of(&model(24)), "and it is known that it was not");
}
