//! Random histories of commits, flushes, snapshots, installs, crashes and starts against a model.

use proptest::{prelude::*, sample::Index};

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Commit(u8),
    Flush,
    CutFlush(u8),
    Compare,
    Snapshot,
    Purge,
    Install(u8),
    CutInstall(u8, Index),
    Crash,
    Damage,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..8_u8).prop_map(Step::Commit),
        3 => Just(Step::Flush),
        2 => (0..5_u8).prop_map(Step::CutFlush),
        2 => Just(Step::Compare),
        2 => Just(Step::Snapshot),
        2 => Just(Step::Purge),
        1 => (1..20_u8).prop_map(Step::Install),
        2 => (1..20_u8, any::<Index>()).prop_map(|(by, at)| Step::CutInstall(by, at)),
        3 => Just(Step::Crash),
        1 => Just(Step::Damage),
    ];
    prop::collection::vec(step, 1..40)
}

/// The steps that an install takes, roughly; the cut is somewhere in there.
const INSTALL_STEPS: usize = 22;

/// A node, and a model of its write-ahead log: what a start would replay.
struct History {
    node: Node,
    state: Arc<StateStore>,
    /// What is applied in memory.
    applied: u64,
    /// The applied id that a flush last acknowledged.
    flushed: u64,
    /// The log has nothing up to here.
    purged: u64,
    /// Where the hash was asked for, since the last start.
    asked: Vec<u64>,
}

impl History {
    async fn take(&mut self, step: Step) {
        match step {
            Step::Commit(count) => {
                for _ in 0..count {
                    self.applied += 1;
                    commit(&self.state, self.applied);
                }
            }
            Step::Flush => {
                self.state.flush_now().await.unwrap();
                self.flushed = self.applied;
            }
            Step::CutFlush(at) => {
                self.node.steps.stop_at(Some(at.into()));
                self.run(async |state| drop(state.flush_now().await)).await;
                self.restart().await;
            }
            Step::Compare => {
                // Without a flush in between there is room for a few.
                let will_be_known = self.state.compare_here();
                if will_be_known {
                    self.asked.push(self.applied);
                }
            }
            Step::Snapshot => match self.state.build_snapshot().await {
                Ok(info) => {
                    assert_eq!(info.last_log_id, id(self.applied));
                    self.flushed = self.applied;
                }
                Err(StateError::NothingApplied) => assert_eq!(self.applied, 0),
                Err(error) => panic!("{error}"),
            },
            Step::Purge => {
                let limit = self.state.purge_limit().map_or(0, |limit| limit.index);
                self.purged = self.purged.max(limit);
            }
            Step::Install(by) => {
                let to = self.applied + u64::from(by);
                install(&self.state, to).await;
                (self.applied, self.flushed, self.purged) = (to, to, to);
            }
            Step::CutInstall(by, at) => {
                let to = self.applied + u64::from(by);
                self.node.steps.stop_at(Some(at.index(INSTALL_STEPS)));
                self.run(async move |state| install(&state, to).await).await;
                self.restart().await;
            }
            Step::Crash => self.restart().await,
            Step::Damage => {
                // Only what has a substitute may be damaged: the snapshot covers the purged part.
                let names = self.node.stores.names();
                let current = names.iter().rfind(|name| !name.contains('.')).unwrap();
                self.node.stores.damage(current, "bit rot");
                self.flushed = self.purged;
                self.restart().await;
            }
        }
        assert_eq!(check_whole(&self.state), self.applied);
        check_hashes(&self.state);
        let known = self.state.compared().borrow().clone();
        for StateAt { applied, .. } in known {
            assert!(self.asked.contains(&applied.index), "nobody asked for the hash at {applied}");
        }
    }

    async fn run(&self, scenario: impl AsyncFnOnce(Arc<StateStore>)) {
        self.node.steps.run(scenario(self.state.clone())).await;
    }

    /// Power cut, start, and the log replays what it has.
    async fn restart(&mut self) {
        self.node.crash();
        self.asked.clear();
        self.state = self.node.open((self.purged > 0).then(|| id(self.purged))).await.unwrap();
        let found = check_whole(&self.state);
        assert!(found >= self.flushed, "{found} came back, {} was flushed", self.flushed);
        assert!(found >= self.purged, "{found} came back, the log begins after {}", self.purged);
        self.flushed = found;
        // The log has everything that was applied; an install that got through is above it.
        self.applied = self.applied.max(found);
        for index in found + 1..=self.applied {
            commit(&self.state, index);
        }
    }
}

async fn install(state: &StateStore, to: u64) {
    let leader = Node::new(to);
    let from = leader.open(None).await.unwrap();
    (1..=to).for_each(|index| commit(&from, index));
    let info = from.build_snapshot().await.unwrap();
    let mut receiver = state.begin_receive().await.unwrap();
    receiver.write(&leader.disk.read(&info.path).unwrap()).await.unwrap();
    let received = receiver.finish(info.last_log_id).await.unwrap();
    state.install_snapshot(received).await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_opens_is_the_state_at_its_applied_id(seed in any::<u64>(), steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let node = Node::new(seed);
            let state = node.open(None).await.unwrap();
            let mut history = History { node, state, applied: 0, flushed: 0, purged: 0, asked: Vec::new() };
            for step in steps {
                history.take(step).await;
            }
        });
    }
}
