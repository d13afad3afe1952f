//! What opens, what is rebuilt, and what is refused.

use super::*;
use crate::{byte_store::StoreFactory, disk::Disk};

/// Flushed to 20, snapshot at 10, cleanly stopped.
async fn node_at_20() -> Node {
    let node = Node::new(7);
    let state = node.open(None).await.unwrap();
    (1..=10).for_each(|index| commit(&state, index));
    state.build_snapshot().await.unwrap();
    (11..=20).for_each(|index| commit(&state, index));
    state.close().await.unwrap();
    node
}

async fn refusal(node: &Node, purged: u64) -> String {
    let before = (node.disk.names("state"), node.disk.names("snap"));
    let stores = node.stores.list("state").await.unwrap();
    let error = node.open(Some(id(purged))).await.unwrap_err();
    assert_eq!(
        before,
        (node.disk.names("state"), node.disk.names("snap")),
        "a refusal moved files"
    );
    assert_eq!(stores, node.stores.list("state").await.unwrap(), "a refusal moved a store");
    error.to_string()
}

#[tokio::test]
async fn a_damaged_store_is_rebuilt_from_the_snapshot_and_set_aside() {
    let node = node_at_20().await;
    node.stores.damage("state/00000001", "crc wrong");
    let state = node.open(Some(id(10))).await.unwrap();
    assert_eq!(check_whole(&state), 10, "the log replays the rest");
    assert_eq!(node.stores.list("state").await.unwrap(), ["00000001.damaged", "00000002"]);
}

#[tokio::test]
async fn a_store_that_was_silently_rolled_back_is_noticed() {
    let node = node_at_20().await;
    node.stores.roll_back("state/00000001");
    let state = node.open(Some(id(10))).await.unwrap();
    assert_eq!(check_whole(&state), 10);
}

#[tokio::test]
async fn a_store_behind_the_log_is_rebuilt() {
    let node = Node::new(8);
    let state = node.open(None).await.unwrap();
    (1..=10).for_each(|index| commit(&state, index));
    state.build_snapshot().await.unwrap();
    drop(state);
    // A store of an earlier time, as a restored backup of this directory alone would be.
    let old = node.stores.create("state/00000005").await.unwrap();
    let meta = crate::state::meta::Meta { applied: Some(id(3)), ..Default::default() };
    let record = (crate::state::meta::META_KEY, Change::Put(meta.encode()));
    old.write(Arc::new([record].into())).await.unwrap();
    old.flush().await.unwrap();
    crate::state::layout::write_pointer(&node.disk, 5).await.unwrap();
    let state = node.open(Some(id(10))).await.unwrap();
    assert_eq!(check_whole(&state), 10);
    assert!(node.stores.list("state").await.unwrap().contains(&"00000005.damaged".into()));
}

#[tokio::test]
async fn a_lost_store_without_a_snapshot_that_reaches_is_refused_with_the_way_out() {
    let node = node_at_20().await;
    node.stores.damage("state/00000001", "crc wrong");
    let error = refusal(&node, 15).await;
    for part in ["state/00000001", "crc wrong", "1-10", "1-15", "join again as a new member"] {
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
}

#[tokio::test]
async fn a_lost_store_is_begun_anew_while_the_log_is_whole() {
    let node = Node::new(9);
    let state = node.open(None).await.unwrap();
    commit(&state, 1);
    state.close().await.unwrap();
    node.stores.damage("state/00000001", "crc wrong");
    let state = node.open(None).await.unwrap();
    assert_eq!(check_whole(&state), 0, "the log replays everything");
}

#[tokio::test]
async fn a_damaged_pointer_keeps_every_generation() {
    let node = node_at_20().await;
    node.disk.flip_bit("state/CURRENT", 200);
    let state = node.open(Some(id(10))).await.unwrap();
    assert_eq!(check_whole(&state), 10);
    assert_eq!(node.stores.list("state").await.unwrap(), ["00000001.damaged", "00000002"]);
}

#[tokio::test]
async fn every_flipped_bit_of_a_snapshot_is_found() {
    let node = Node::new(10);
    let state = node.open(None).await.unwrap();
    (1..=6).for_each(|index| commit(&state, index));
    let info = state.build_snapshot().await.unwrap();
    state.close().await.unwrap();
    for bit in 0..usize::try_from(info.size).unwrap() * 8 {
        node.disk.flip_bit(&info.path, bit);
        let error = crate::snapshot::reader::verify(&node.disk, &info.path).await;
        assert!(error.is_err(), "bit {bit} flipped unnoticed");
        node.disk.flip_bit(&info.path, bit);
    }
    let whole = node.disk.read(&info.path).unwrap();
    for cut in 0..whole.len() {
        node.disk.write(&info.path, &whole[..cut]).await;
        let error = crate::snapshot::reader::verify(&node.disk, &info.path).await;
        assert!(error.is_err(), "cut to {cut} bytes unnoticed");
    }
    node.disk.write(&info.path, &[&whole[..], b"x"].concat()).await;
    assert!(crate::snapshot::reader::verify(&node.disk, &info.path).await.is_err());
}

#[tokio::test]
async fn a_damaged_snapshot_is_set_aside_and_the_store_serves() {
    let node = node_at_20().await;
    node.disk.flip_bit("snap/1-10.snap", 700);
    let state = node.open(Some(id(10))).await.unwrap();
    assert_eq!(check_whole(&state), 20);
    assert_eq!((state.current_snapshot(), state.purge_limit()), (None, None));
    assert_eq!(node.disk.names("snap"), ["1-10.snap.damaged"]);
    assert_eq!(state.build_snapshot().await.unwrap().last_log_id, id(20));
}

#[tokio::test]
async fn a_damaged_snapshot_is_not_received() {
    let node = node_at_20().await;
    let mut bytes = node.disk.read("snap/1-10.snap").unwrap();
    let other = Node::new(11);
    let state = other.open(None).await.unwrap();
    let receive = async |bytes: &[u8], announced| {
        let mut receiver = state.begin_receive().await.unwrap();
        receiver.write(bytes).await.unwrap();
        receiver.finish(announced).await
    };
    assert!(receive(&bytes, id(11)).await.is_err(), "another one was announced");
    let last = bytes.len() - 30;
    bytes[last] ^= 4;
    assert!(receive(&bytes, id(10)).await.is_err());
    bytes[last] ^= 4;
    let received = receive(&bytes, id(10)).await.unwrap();
    // What was refused is gone, what waits to be installed is not.
    let waiting = state.begin_receive().await.unwrap();
    assert_eq!(other.disk.names("snap").len(), 2, "{:?}", other.disk.names("snap"));
    drop(waiting);
    state.install_snapshot(received).await.unwrap();
    assert_eq!(check_whole(&state), 10);
}

#[tokio::test]
async fn newer_formats_are_refused_by_name() {
    let node = node_at_20().await;
    let mut newer = node.disk.read("snap/1-10.snap").unwrap();
    newer[8] = 9;
    node.disk.write("snap/1-10.snap", &newer).await;
    let error = refusal(&node, 10).await;
    assert!(error.contains("snap/1-10.snap") && error.contains("version 9"), "{error}");

    let node = node_at_20().await;
    node.disk.write("state/CURRENT", b"tally state 3\nsomething else\n").await;
    let error = refusal(&node, 10).await;
    assert!(error.contains("state/CURRENT") && error.contains("version 3"), "{error}");

    let node = node_at_20().await;
    let store = node.stores.open("state/00000001").await.unwrap();
    let record = (crate::state::meta::META_KEY, Change::Put(Bytes::from_static(&[8, 0, 1])));
    store.write(Arc::new([record].into())).await.unwrap();
    let error = refusal(&node, 10).await;
    assert!(error.contains("state/00000001") && error.contains("version 8"), "{error}");
}

#[tokio::test]
async fn left_overs_are_removed() {
    let node = node_at_20().await;
    node.stores.create("state/00000009").await.unwrap();
    node.disk.write("snap/incoming-3.tmp", b"half").await;
    node.disk.write("snap/build.tmp", b"half").await;
    node.disk.write("snap/1-5.snap", b"an older one").await;
    let state = node.open(Some(id(10))).await.unwrap();
    assert_eq!(check_whole(&state), 20);
    assert_eq!(node.stores.list("state").await.unwrap(), ["00000001"]);
    assert_eq!(node.disk.names("snap"), ["1-10.snap"]);
    assert!(node.disk.list("state").await.unwrap().contains(&"CURRENT".into()));
}

/// The log was lost, or is an older copy: a state that is ahead of it must not be served.
#[tokio::test]
async fn a_state_ahead_of_its_log_is_refused() {
    let node = node_at_20().await;
    for last in [None, Some(id(19))] {
        let log = LogExtent { purged: None, last };
        let error = node.open_behind(node.hooks(), log).await.unwrap_err().to_string();
        for part in ["1-20", "the log ends", "older copy", "Nothing was changed"] {
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
    }
    assert_eq!(node.stores.list("state").await.unwrap(), ["00000001"]);
    let log = LogExtent { purged: None, last: Some(id(20)) };
    assert_eq!(check_whole(&node.open_behind(node.hooks(), log).await.unwrap()), 20);
}
