//! A crash between any two steps of disk and store, and what opens afterwards.
//!
//! Each test runs a scenario once to count its steps, then once per step with the world standing
//! still from that step on, cuts the power, and opens. Every run is repeated with several seeds:
//! they decide what the crash keeps of what was not synced.

use std::future::Future;

use super::*;
use crate::snapshot::SnapshotInfo;

const SEEDS: u64 = 6;

/// Runs `scenario` on a node that `prepare` made, crashes it at every step, and hands what opens
/// to `check`. `purged` is how far the log is purged by then.
async fn crash_everywhere<S, F>(
    prepare: impl AsyncFn(&Node) -> S,
    scenario: impl Fn(Arc<StateStore>, S) -> F,
    purged: Option<LogId>,
    check: impl Fn(&Node, &StateStore, usize),
) where
    F: Future<Output = ()>,
{
    let mut steps = None;
    for seed in 0..SEEDS {
        for stop in 0.. {
            let node = Node::new(seed);
            let prepared = prepare(&node).await;
            let state = node.open(purged).await.unwrap();
            node.steps.stop_at(steps.map(|_| stop));
            node.steps.run(scenario(state.clone(), prepared)).await;
            let total = *steps.get_or_insert_with(|| node.steps.log().len());
            drop(state);
            node.crash();
            let state = node.open(purged).await.unwrap_or_else(|error| {
                panic!("seed {seed}, step {stop} of {:?}: {error}", node.steps.log())
            });
            check_whole(&state);
            check(&node, &state, stop);
            assert!(node.disk.names("snap").iter().all(|name| !name.ends_with(".tmp")));
            // Rebuilding would hide a missing flush: a crash alone must never make it necessary.
            let names = [node.disk.names("snap"), node.stores.names()].concat();
            assert!(names.iter().all(|name| !name.contains("damaged")), "{stop}: {names:?}");
            // And once more: what an open does must not depend on finishing it.
            drop(state);
            node.crash();
            check_whole(&node.open(purged).await.unwrap());
            if stop >= total {
                break;
            }
        }
    }
    assert!(steps.unwrap() > 2, "the scenario has no steps to crash at");
}

#[tokio::test]
async fn a_crash_in_a_flush_leaves_the_state_before_or_after() {
    crash_everywhere(
        async |node: &Node| {
            let state = node.open(None).await.unwrap();
            (1..=10).for_each(|index| commit(&state, index));
            state.flush_now().await.unwrap();
        },
        |state, ()| async move {
            for index in 11..=25 {
                commit(&state, index);
                if index % 5 == 0 {
                    state.flush_now().await.unwrap();
                }
            }
        },
        None,
        |_, state, _| {
            let applied = state.applied().unwrap();
            assert!([10, 15, 20, 25].contains(&applied.index), "{applied} was never flushed");
        },
    )
    .await;
}

#[tokio::test]
async fn a_crash_in_a_build_leaves_a_whole_snapshot_or_the_one_before() {
    crash_everywhere(
        async |node: &Node| {
            let state = node.open(None).await.unwrap();
            (1..=10).for_each(|index| commit(&state, index));
            state.build_snapshot().await.unwrap();
        },
        |state, ()| async move {
            (11..=20).for_each(|index| commit(&state, index));
            let built = state.build_snapshot().await.unwrap();
            assert_eq!(built.last_log_id, id(20));
        },
        Some(id(10)),
        |node, state, _| {
            let snapshot = state.current_snapshot().unwrap();
            assert!([10, 20].contains(&snapshot.last_log_id.index));
            assert!(node.disk.read(&snapshot.path).is_some());
        },
    )
    .await;
}

/// A snapshot of a leader at 40, as bytes.
async fn leader_snapshot() -> (SnapshotInfo, Vec<u8>) {
    let leader = Node::new(99);
    let state = leader.open(None).await.unwrap();
    (1..=40).for_each(|index| commit(&state, index));
    let info = state.build_snapshot().await.unwrap();
    (info.clone(), leader.disk.read(&info.path).unwrap())
}

#[tokio::test]
async fn a_crash_in_an_install_leaves_the_old_state_or_the_new_one() {
    crash_everywhere(
        async |node: &Node| {
            let state = node.open(None).await.unwrap();
            (1..=10).for_each(|index| commit(&state, index));
            state.build_snapshot().await.unwrap();
            leader_snapshot().await
        },
        |state, (info, bytes)| async move {
            commit(&state, 11);
            let mut receiver = state.begin_receive().await.unwrap();
            receiver.write(&bytes).await.unwrap();
            let received = receiver.finish(info.last_log_id).await.unwrap();
            state.install_snapshot(received).await.unwrap();
            assert_eq!(check_whole(&state), 40);
        },
        Some(id(10)),
        |node, state, _| {
            let applied = state.applied().unwrap().index;
            assert!([10, 40].contains(&applied), "{applied} is neither state");
            assert_eq!(state.current_snapshot().unwrap().last_log_id.index, applied);
            assert_eq!(node.disk.names("snap").len(), 1, "{:?}", node.disk.names("snap"));
        },
    )
    .await;
}

#[tokio::test]
async fn a_finished_install_is_durable() {
    for seed in 0..20 {
        let node = Node::new(seed);
        let state = node.open(None).await.unwrap();
        commit(&state, 1);
        let (info, bytes) = leader_snapshot().await;
        let mut receiver = state.begin_receive().await.unwrap();
        receiver.write(&bytes).await.unwrap();
        let received = receiver.finish(info.last_log_id).await.unwrap();
        state.install_snapshot(received).await.unwrap();
        node.crash();
        // The log has jumped: nothing below 40 is there any more.
        let state = node.open(Some(id(40))).await.unwrap();
        assert_eq!((check_whole(&state), state.purge_limit()), (40, Some(id(40))));
    }
}

#[tokio::test]
async fn a_crash_while_opening_does_not_matter() {
    for seed in 0..SEEDS {
        for stop in 0..30 {
            let node = Node::new(seed);
            let state = node.open(None).await.unwrap();
            (1..=10).for_each(|index| commit(&state, index));
            state.build_snapshot().await.unwrap();
            drop(state);
            node.stores.damage("state/00000001", "bit rot");
            node.steps.stop_at(Some(stop));
            node.steps.run(async { drop(node.open(Some(id(10))).await) }).await;
            node.crash();
            let state = node.open(Some(id(10))).await.unwrap();
            assert_eq!(check_whole(&state), 10, "seed {seed}, step {stop}");
            let kept = crate::byte_store::StoreFactory::list(&node.stores, "state");
            assert!(kept.await.unwrap().contains(&"00000001.damaged".into()));
        }
        for stop in 0..12 {
            let node = Node::new(seed);
            node.steps.stop_at(Some(stop));
            node.steps.run(async { drop(node.open(None).await) }).await;
            node.crash();
            assert_eq!(check_whole(&node.open(None).await.unwrap()), 0, "seed {seed}, step {stop}");
        }
    }
}

#[tokio::test]
async fn a_failing_disk_or_store_is_fatal_or_leaves_everything_as_it_was() {
    for fail in 0..60 {
        let node = Node::new(fail as u64);
        let state = node.open(None).await.unwrap();
        (1..=10).for_each(|index| commit(&state, index));
        state.build_snapshot().await.unwrap();
        (11..=20).for_each(|index| commit(&state, index));
        let (info, bytes) = leader_snapshot().await;
        node.steps.fail_at(fail);
        let outcome: Result<(), StateError> = async {
            state.flush_now().await?;
            state.build_snapshot().await?;
            let mut receiver = state.begin_receive().await?;
            receiver.write(&bytes).await?;
            let received = receiver.finish(info.last_log_id).await?;
            state.install_snapshot(received).await?;
            Ok(())
        }
        .await;
        let told = node.fatal.lock().unwrap().clone();
        match outcome {
            Ok(()) => assert_eq!((told.len(), check_whole(&state)), (0, 40)),
            Err(StateError::Fatal(reason)) => {
                assert_eq!(told, [reason]);
                assert!(matches!(state.flush_now().await, Err(StateError::Fatal(_))));
                assert!(matches!(state.wait_for_room().await, Err(StateError::Fatal(_))));
            }
            Err(StateError::Snapshot(error)) => {
                assert!(told.is_empty(), "{error} is an answer, not the end: {told:?}");
                assert_eq!(check_whole(&state), 20);
                commit(&state, 21);
                state.build_snapshot().await.unwrap();
            }
            Err(error) => panic!("{error}"),
        }
        drop(state);
        node.crash();
        let state = node.open(Some(id(10))).await.unwrap();
        assert!([10, 20, 21, 40].contains(&check_whole(&state)), "failed at {fail}");
    }
}

/// The log's jump comes before the new state: at no step is the state ahead of its log, and a crash
/// before the jump leaves the old state, with nothing in the way of the next install.
#[tokio::test]
async fn a_crash_in_an_install_never_leaves_a_state_ahead_of_its_log() {
    let (info, bytes) = leader_snapshot().await;
    let mut outcomes = std::collections::BTreeSet::new();
    for seed in 0..SEEDS {
        for stop in 0..40 {
            let node = Node::new(seed);
            let log = Arc::new(Mutex::new(LogExtent { purged: None, last: Some(id(11)) }));
            let its_log = log.clone();
            let hooks = StateHooks {
                log_reaches: Arc::new(move |log_id| {
                    *its_log.lock().unwrap() =
                        LogExtent { purged: Some(log_id), last: Some(log_id) };
                    Box::pin(async { Ok(()) })
                }),
                ..node.hooks()
            };
            let at_first = *log.lock().unwrap();
            let state = node.open_behind(hooks, at_first).await.unwrap();
            (1..=11).for_each(|index| commit(&state, index));
            state.flush_now().await.unwrap();
            let mut receiver = state.begin_receive().await.unwrap();
            receiver.write(&bytes).await.unwrap();
            let received = receiver.finish(info.last_log_id).await.unwrap();
            node.steps.stop_at(Some(stop));
            node.steps.run(async { drop(state.install_snapshot(received).await) }).await;
            drop(state);
            node.crash();
            let log = *log.lock().unwrap();
            let state = node.open_behind(node.hooks(), log).await.unwrap_or_else(|error| {
                panic!("seed {seed}, step {stop}: {error}");
            });
            let applied = check_whole(&state);
            assert_eq!(applied, if log.purged.is_some() { 40 } else { 11 }, "{seed}, {stop}");
            let newest = state.current_snapshot().map(|snapshot| snapshot.last_log_id);
            assert!(newest <= state.applied(), "a snapshot of what this log never had");
            outcomes.insert(applied);
        }
    }
    assert_eq!(outcomes.into_iter().collect::<Vec<_>>(), [11, 40]);
}
