//! The state store over real files and sled, as a node runs it.

use std::path::Path;

use super::*;
use crate::{
    real_disk::RealDisk,
    sled_store::{SledFactory, SledOptions},
};

async fn open(root: &Path, purged: Option<LogId>) -> Result<Arc<StateStore>, StateError> {
    let options =
        SledOptions { cache_bytes: 8 << 20, open_timeout: std::time::Duration::from_secs(10) };
    StateStore::open(
        Arc::new(RealDisk::new(root.into()).unwrap()),
        Arc::new(SledFactory::new(root.into(), options)),
        StateOptions::default(),
        Node::new(0).hooks(),
        LogExtent { purged, last: Some(id(u64::MAX)) },
    )
    .await
}

/// The files as they are, which is what a killed process leaves.
fn copy(from: &Path) -> tempfile::TempDir {
    fn copy_tree(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => copy_tree(&entry.path(), &to),
                false => drop(std::fs::copy(entry.path(), to).unwrap()),
            }
        }
    }
    let to = tempfile::tempdir().unwrap();
    copy_tree(from, to.path());
    to
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_killed_rebuilt_and_replaced() {
    let leader = tempfile::tempdir().unwrap();
    let state = open(leader.path(), None).await.unwrap();
    (1..=50).for_each(|index| commit(&state, index));
    state.flush_now().await.unwrap();
    (51..=80).for_each(|index| commit(&state, index));
    let killed = copy(leader.path());
    let after = open(killed.path(), None).await.unwrap();
    assert_eq!(check_whole(&after), 50);

    let info = state.build_snapshot().await.unwrap();
    let follower = tempfile::tempdir().unwrap();
    let to = open(follower.path(), None).await.unwrap();
    commit(&to, 1);
    let mut reader = state.open_snapshot_reader().await.unwrap().unwrap();
    let mut receiver = to.begin_receive().await.unwrap();
    while let Some(chunk) = reader.next_chunk(1000).await.unwrap() {
        receiver.write(&chunk).await.unwrap();
    }
    to.install_snapshot(receiver.finish(info.last_log_id).await.unwrap()).await.unwrap();
    assert_eq!(check_whole(&to), 80);
    commit(&to, 81);
    assert!(to.size_bytes().unwrap() > 0);
    to.close().await.unwrap();
    let to = open(follower.path(), Some(id(80))).await.unwrap();
    assert_eq!(check_whole(&to), 81);
    let generations: Vec<_> = std::fs::read_dir(follower.path().join("state")).unwrap().collect();
    assert_eq!(generations.len(), 2, "the pointer and one generation: {generations:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_files_of_sled_lead_to_an_older_state_or_to_the_snapshot() {
    let root = tempfile::tempdir().unwrap();
    let state = open(root.path(), None).await.unwrap();
    for index in 1..=40 {
        commit(&state, index);
        state.flush_now().await.unwrap();
        if index == 20 {
            state.build_snapshot().await.unwrap();
        }
    }
    state.close().await.unwrap();
    for part in ["metadata", "slabs"] {
        let mut outcomes = BTreeMap::new();
        for seed in 0..12 {
            let damaged = copy(root.path());
            damage(&damaged.path().join("state/00000001").join(part), seed);
            let state = open(damaged.path(), Some(id(20))).await.unwrap();
            let applied = check_whole(&state);
            assert!(applied >= 20);
            let rebuilt = damaged.path().join("state/00000001.damaged").exists();
            *outcomes.entry((rebuilt, applied)).or_insert(0) += 1;
        }
        println!("{part}: (rebuilt, applied): {outcomes:?}");
        assert!(outcomes.keys().any(|(rebuilt, _)| *rebuilt), "{part}: no damage: {outcomes:?}");
    }
}

/// Flips one bit in every file.
fn damage(directory: &Path, seed: usize) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if !bytes.is_empty() {
            let at = bytes.len() * seed / 12;
            bytes[at] ^= 0x10;
            std::fs::write(&path, bytes).unwrap();
        }
    }
}

#[tokio::test]
async fn a_store_in_use_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let state = open(root.path(), None).await.unwrap();
    commit(&state, 1);
    let error = open(root.path(), None).await.unwrap_err();
    assert!(matches!(error, StateError::Io { .. }), "{error}");
    assert!(root.path().join("state/00000001").exists(), "a running node's state was moved");
    state.flush_now().await.unwrap();
}
