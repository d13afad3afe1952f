//! What bugs on purpose answer too early, or to the wrong waiters: built for simulations alone.

use std::time::Duration;

use super::{Applied, Waiter};
use crate::{
    consensus::{kept::replies, raft::Raft},
    machine::{
        self,
        command::{Action, Batch, Command, Reply},
        query,
        view::{Overlay, Writes},
    },
    storage::state::StateStore,
};

/// Waiters that are answered with whatever is applied at their entry's index.
pub(super) struct ByIndex {
    node_id: u64,
    index: u64,
}

impl ByIndex {
    /// How often it is looked whether there are replies.
    const LOOK_AGAIN: Duration = Duration::from_millis(1);
    /// … and how often at most.
    const LOOKS_MAX: usize = 60_000;

    /// Of the entry that was just handed over.
    pub(super) async fn of_last(raft: &Raft) -> Option<ByIndex> {
        let last = raft.with_raft_state(|state| state.log_ids.last().map(|last| last.index()));
        Some(ByIndex { node_id: *raft.node_id(), index: last.await.ok().flatten()? })
    }

    pub(super) async fn deliver(self, term: u64, waiters: Vec<Waiter>) {
        let log_index = self.index;
        for _ in 0..Self::LOOKS_MAX {
            if let Some(replies) = replies(self.node_id, log_index) {
                let revision = replies.revision;
                for (reply, waiter) in replies.replies.iter().cloned().zip(waiters) {
                    let (leader, times) = (None, None);
                    waiter.send(Ok(Applied { reply, log_index, term, revision, leader, times }));
                }
                return;
            }
            tokio::time::sleep(Self::LOOK_AGAIN).await;
        }
    }
}

/// What a batch would be answered now.
pub(super) fn foresee(state: &StateStore, batch: &Batch) -> (u64, u64, Vec<Reply>) {
    let view = state.view();
    let index = view.applied().map_or(0, |applied| applied.index) + 1;
    let mut writes = Writes::default();
    let mut overlay = Overlay::new(&view, &mut writes);
    let replies = machine::apply(&mut overlay, index, batch);
    (index, query::meta(&overlay).revision, replies)
}

/// Whether a command is a client's write.
pub(super) fn writes(command: &Command) -> bool {
    matches!(command.action, Action::Single(_) | Action::Apply(_))
}
