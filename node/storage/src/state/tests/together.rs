//! Commits, flushes, builds and readers at the same time.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use tokio::sync::Notify;

use super::*;

#[tokio::test]
async fn a_flush_waits_for_the_log() {
    let node = Node::new(20);
    let (asked, synced) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    let mut hooks = node.hooks();
    hooks.wait_log_synced = {
        let (asked, synced) = (asked.clone(), synced.clone());
        Arc::new(move |index| {
            let (asked, synced) = (asked.clone(), synced.clone());
            Box::pin(async move {
                asked.store(index, Ordering::SeqCst);
                synced.notified().await;
                Ok(())
            })
        })
    };
    let state = node.open_with(hooks, None).await.unwrap();
    (1..=3).for_each(|index| commit(&state, index));
    let steps_before = node.steps.log().len();
    let mut flush = Box::pin(state.flush_now());
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut flush).await.is_err());
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    assert_eq!(node.steps.log().len(), steps_before, "the store was touched before the log's sync");
    commit(&state, 4);
    assert_eq!(check_whole(&state), 4, "commits and reads go on");
    synced.notify_one();
    flush.await.unwrap();
    assert_eq!(state.flushed_applied(), Some(id(3)), "what came later is not in this flush");
}

#[tokio::test]
async fn a_cancelled_flush_is_made_good_by_the_next() {
    for stop in 0..4 {
        let node = Node::new(21);
        let state = node.open(None).await.unwrap();
        (1..=3).for_each(|index| commit(&state, index));
        node.steps.stop_at(Some(stop));
        let _ = tokio::time::timeout(Duration::from_millis(5), state.flush_now()).await;
        node.steps.stop_at(None);
        commit(&state, 4);
        assert_eq!(check_whole(&state), 4);
        state.flush_now().await.unwrap();
        assert_eq!(state.flushed_applied(), Some(id(4)));
        assert_eq!(check_whole(&state), 4);
    }
}

#[tokio::test]
async fn a_full_map_makes_commits_wait_for_the_flush() {
    let mut node = Node::new(22);
    node.options.dirty_bytes_max = 2000;
    let state = node.open(None).await.unwrap();
    let flusher = tokio::spawn(state.clone().run_flusher(Duration::from_secs(3600)));
    let mut highest = 0;
    for index in 1..=500 {
        state.wait_for_room().await.unwrap();
        commit(&state, index);
        highest = highest.max(state.dirty_bytes());
    }
    assert!(highest < 3000, "{highest} bytes were dirty with a limit of 2000");
    assert_eq!(check_whole(&state), 500);
    flusher.abort();
}

#[tokio::test]
async fn without_room_a_flush_is_put_off_and_nothing_is_lost() {
    let node = Node::new(23);
    let has_room = Arc::new(AtomicBool::new(false));
    let looked_at = has_room.clone();
    let hooks = StateHooks {
        room_to_flush: Arc::new(move |_| {
            let has_room = looked_at.load(Ordering::SeqCst);
            Box::pin(async move { Ok(has_room) })
        }),
        ..node.hooks()
    };
    let state = node.open_with(hooks, None).await.unwrap();
    commit(&state, 1);
    assert!(matches!(state.flush_now().await, Err(StateError::NoRoomToFlush)));
    assert!(matches!(state.build_snapshot().await, Err(StateError::NoRoomToFlush)));
    commit(&state, 2);
    assert_eq!(state.flushed_applied(), None);
    assert_eq!(check_whole(&state), 2);

    has_room.store(true, Ordering::SeqCst);
    state.flush_now().await.unwrap();
    assert_eq!(state.flushed_applied(), Some(id(2)));
    assert_eq!(check_whole(&state), 2);

    commit(&state, 3);
    has_room.store(false, Ordering::SeqCst);
    assert!(matches!(state.close().await, Err(StateError::NoRoomToFlush)), "it ends all the same");
    node.crash();
    let state = node.open(None).await.unwrap();
    assert_eq!(state.applied(), Some(id(2)), "the log has the rest");
    assert!(node.fatal.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_inserted_and_deleted_between_two_flushes_leaves_nothing() {
    let node = Node::new(26);
    let state = node.open(None).await.unwrap();
    let one = |index: u64, change: fn(&mut Writes)| {
        let mut writes = Writes::default();
        change(&mut writes);
        state.commit(writes, id(index), None);
    };
    one(1, |writes| writes.insert("a".into(), "1".into()));
    one(2, |writes| writes.put("a".into(), "2".into()));
    assert!(state.dirty_bytes() > 0);
    one(3, |writes| writes.delete("a".into()));
    assert_eq!(state.dirty_bytes(), 0);

    // One that a flush has taken down is deleted there too, and comes again as a put.
    one(4, |writes| writes.insert("a".into(), "4".into()));
    state.flush_now().await.unwrap();
    one(5, |writes| writes.delete("a".into()));
    one(6, |writes| writes.insert("a".into(), "6".into()));
    one(7, |writes| writes.delete("a".into()));
    assert!(state.dirty_bytes() > 0, "the store has it");
    assert_eq!(state.view().get(b"a"), None);
    state.flush_now().await.unwrap();
    assert_eq!(state.view().get(b"a"), None);
}

#[tokio::test]
async fn a_snapshot_built_while_commits_go_on_is_the_state_at_its_log_id() {
    let node = Node::new(23);
    let state = node.open(None).await.unwrap();
    (1..=20).for_each(|index| state.commit(big(index), id(index), None));
    let building = tokio::spawn({
        let state = state.clone();
        async move { state.build_snapshot().await }
    });
    // It would change the byte store under the build, if it did not wait.
    let flushing = tokio::spawn({
        let state = state.clone();
        async move {
            loop {
                state.flush_now().await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    let mut during = 0;
    for index in 21..=2000 {
        if building.is_finished() {
            break;
        }
        state.commit(effect(index), id(index), None);
        during += 1;
        tokio::task::yield_now().await;
    }
    let info = building.await.unwrap().unwrap();
    flushing.abort();
    assert!(during > 5, "only {during} commits happened during the build");
    let at = info.last_log_id.index;
    let bytes = node.disk.read(&info.path).unwrap();

    let mut expected = model(at);
    for index in 1..=at.min(20) {
        expected.extend(big(index).records.into_iter().filter_map(|(key, value)| {
            let key = key.bytes();
            key.starts_with(b"big").then(|| (key.to_vec(), value.value().unwrap().to_vec()))
        }));
    }
    let other = Node::new(24);
    let to = other.open(None).await.unwrap();
    let mut receiver = to.begin_receive().await.unwrap();
    receiver.write(&bytes).await.unwrap();
    to.install_snapshot(receiver.finish(info.last_log_id).await.unwrap()).await.unwrap();
    assert_eq!(contents(&to), expected);
}

#[tokio::test]
async fn a_build_gives_way_to_writes() {
    let mut node = Node::new(25);
    node.options.dirty_bytes_max = 200_000;
    let state = node.open(None).await.unwrap();
    let flusher = tokio::spawn(state.clone().run_flusher(Duration::from_secs(3600)));
    for index in 1..=20 {
        state.wait_for_room().await.unwrap();
        state.commit(big(index), id(index), None);
    }
    let building = tokio::spawn({
        let state = state.clone();
        async move { state.build_snapshot().await }
    });
    build_has_begun(&node).await;
    for index in 21..=40 {
        state.wait_for_room().await.unwrap();
        state.commit(big(index), id(index), None);
    }
    assert!(matches!(building.await.unwrap(), Err(StateError::SnapshotAbandoned)));
    assert_eq!(node.disk.names("snap"), [""; 0]);
    assert_eq!(state.applied(), Some(id(40)));
    assert!(state.build_snapshot().await.is_ok(), "the next one may succeed");
    flusher.abort();
}

/// Several reads of one view, checked against each other. Answers with what was applied.
fn read_one_view(state: &StateStore, last: u64) -> u64 {
    let view = state.view();
    let applied = view.applied().map_or(0, |applied| applied.index);
    assert!(applied >= last, "reads went back");
    let index = view
        .get(b"index")
        .map_or(0, |index| String::from_utf8(index.to_vec()).unwrap().parse().unwrap());
    assert_eq!(index, applied, "a read is of another commit than the applied id");
    let mut keys = 0;
    view.scan(b"key ", b"key~", &mut |_, _| {
        keys += 1;
        ControlFlow::Continue(())
    });
    assert_eq!(keys, applied.min(5), "a scan at {applied} saw half a commit");
    applied
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn views_never_see_half_a_commit() {
    let mut node = Node::new(26);
    node.options.dirty_bytes_max = 20_000;
    let state = node.open(None).await.unwrap();
    let flusher = tokio::spawn(state.clone().run_flusher(Duration::from_millis(1)));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let state = state.clone();
            tokio::spawn(async move {
                let mut last = 0;
                while last < 1500 {
                    last = read_one_view(&state, last);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for index in 1..=1500 {
        state.wait_for_room().await.unwrap();
        commit(&state, index);
        tokio::task::yield_now().await;
    }
    for reader in readers {
        reader.await.unwrap();
    }
    flusher.abort();
}

#[tokio::test]
async fn an_install_makes_a_build_give_way() {
    let (leader, node) = (Node::new(27), Node::new(28));
    let from = leader.open(None).await.unwrap();
    (1..=40).for_each(|index| commit(&from, index));
    let info = from.build_snapshot().await.unwrap();
    let state = node.open(None).await.unwrap();
    (1..=20).for_each(|index| state.commit(big(index), id(index), None));
    let mut receiver = state.begin_receive().await.unwrap();
    receiver.write(&leader.disk.read(&info.path).unwrap()).await.unwrap();
    let received = receiver.finish(info.last_log_id).await.unwrap();
    let building = tokio::spawn({
        let state = state.clone();
        async move { state.build_snapshot().await }
    });
    build_has_begun(&node).await;
    state.install_snapshot(received).await.unwrap();
    assert!(matches!(building.await.unwrap(), Err(StateError::SnapshotAbandoned)));
    assert_eq!(check_whole(&state), 40);
}

#[tokio::test]
async fn a_cancelled_install_leaves_the_old_state_or_ends_the_process() {
    let leader = Node::new(29);
    let from = leader.open(None).await.unwrap();
    (1..=40).for_each(|index| commit(&from, index));
    let info = from.build_snapshot().await.unwrap();
    let bytes = leader.disk.read(&info.path).unwrap();
    let (mut went_on, mut ended) = (0, 0);
    for stop in 0..24 {
        let node = Node::new(30);
        let state = node.open(None).await.unwrap();
        (1..=3).for_each(|index| commit(&state, index));
        let mut receiver = state.begin_receive().await.unwrap();
        receiver.write(&bytes).await.unwrap();
        let received = receiver.finish(info.last_log_id).await.unwrap();
        node.steps.stop_at(Some(stop));
        node.steps.run(async { drop(state.install_snapshot(received).await) }).await;
        node.steps.stop_at(None);
        if !node.fatal.lock().unwrap().is_empty() {
            ended += 1;
            continue;
        }
        went_on += 1;
        if check_whole(&state) == 3 {
            // What the cancelled one left behind is in nobody's way.
            commit(&state, 4);
            state.flush_now().await.unwrap();
            let mut receiver = state.begin_receive().await.unwrap();
            receiver.write(&bytes).await.unwrap();
            let received = receiver.finish(info.last_log_id).await.unwrap();
            state.install_snapshot(received).await.unwrap();
        }
        assert_eq!(check_whole(&state), 40);
    }
    assert!(went_on > 5 && ended > 2, "{went_on} went on, {ended} ended");
}

/// Writes that never pause would have a build abandoned for ever, and the log grow with it.
#[tokio::test]
async fn a_build_that_was_abandoned_gets_more_room_and_in_the_end_writes_wait_for_it() {
    let mut node = Node::new(31);
    node.options.dirty_bytes_max = 200_000;
    let state = node.open(None).await.unwrap();
    let flusher = tokio::spawn(state.clone().run_flusher(Duration::from_secs(3600)));
    for index in 1..=20 {
        state.wait_for_room().await.unwrap();
        state.commit(big(index), id(index), None);
    }
    let writing = tokio::spawn({
        let state = state.clone();
        async move {
            for index in 21.. {
                state.wait_for_room().await.unwrap();
                state.commit(big(index), id(index), None);
                tokio::task::yield_now().await;
            }
        }
    });
    let (mut abandoned, mut highest) = (0, 0);
    loop {
        let building = state.build_snapshot();
        tokio::pin!(building);
        let built = loop {
            tokio::select! {
                biased;
                built = &mut building => break built,
                () = tokio::task::yield_now() => highest = state.dirty_bytes().max(highest),
            }
        };
        match built {
            Ok(_) => break,
            Err(StateError::SnapshotAbandoned) => abandoned += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(abandoned <= super::super::ABANDONED_MAX, "it has no end");
    }
    writing.abort();
    flusher.abort();
    assert!(abandoned > 0, "the writes were too slow to show anything");
    let limit = 200_000 * (1 + super::super::ABANDONED_MAX as usize) + 100_000;
    assert!(highest < limit, "{highest} bytes of {limit}");
    assert!(node.fatal.lock().unwrap().is_empty());
}
