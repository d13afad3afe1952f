//! What has the replicas compared while a node runs: its own hashes go where they are judged, its verdict to its disk, and
//! the command into the log while it leads. What is judged, and why it is right, is in [`super::compare`].

use std::time::Duration;

use tokio::time::Instant;

use super::{Consensus, membership::decode_membership, tasks::own_command};
use crate::machine::command::Action;

/// How often it is looked whether a comparison is due; more often where they come more often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Deadline of the command.
const COMPARE_DEADLINE: Duration = Duration::from_secs(5);

/// How long it is waited before the verdict is written again, after that failed.
const WRITE_AGAIN_AFTER: Duration = Duration::from_secs(1);

impl Consensus {
    /// Takes note of the node's own hashes and of what becomes of its verdict, for as long as the node runs.
    pub async fn heed_comparisons(self) {
        let comparisons = self.comparisons().clone();
        let (mut compared, mut rotten) = (self.state().compared(), self.state().rotten());
        let mut verdict = comparisons.watch();
        let mut is_kept = verdict.borrow_and_update().differs.is_some();
        loop {
            let hashes = compared.borrow_and_update().clone();
            hashes.iter().for_each(|state| comparisons.knows_own(state));
            let found = rotten.borrow_and_update().clone();
            if let Some(reason) = found {
                comparisons.knows_rotten(&reason);
            }
            let reason = verdict.borrow_and_update().differs.clone();
            if let Some(reason) = reason.filter(|_| !is_kept) {
                while let Err(error) = comparisons.keep(&reason).await {
                    tracing::error!(%error, "that the state differs could not be stored yet");
                    tokio::time::sleep(WRITE_AGAIN_AFTER).await;
                }
                is_kept = true;
            }
            tokio::select! {
                changed = compared.changed() => if changed.is_err() { return },
                changed = rotten.changed() => if changed.is_err() { return },
                changed = verdict.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Has the replicas compared, for as long as the node runs: while it leads, so often if anything is applied. Whoever
    /// leads, it is looked here whether those that have not told of a comparison had their time.
    pub async fn compare_replicas(self, interval: Duration) {
        loop {
            tokio::time::sleep(LOOK_EVERY.min(interval / 4)).await;
            self.comparisons().look();
            if self.leadership().term_as_leader().is_none() || self.quorum_lost() {
                continue;
            }
            let applied = self.state().applied().map_or(0, |applied| applied.index);
            let members = decode_membership(&self.state().membership().encoded);
            let Ok(members) = members else { continue };
            let members = members.nodes().map(|(id, _)| *id).collect();
            if self.comparisons().is_due(applied, interval, &members) {
                let deadline = Instant::now() + COMPARE_DEADLINE;
                let asked = self.write_here(own_command(Action::Compare), None, deadline).await;
                if let Err(error) = asked {
                    tracing::debug!(%error, "the replicas could not be compared yet");
                }
            }
        }
    }
}
