//! What bugs on purpose decide where nothing is to be decided: built for simulations alone.

use std::collections::BTreeSet;

use openraft::ChangeMembers;
use tally_proto::seeded_bugs;

use super::{Consensus, members::MemberError, propose::Applied};
use crate::machine::{self, command::Command, query};

impl Consensus {
    /// What is decided in apply, decided before on a state that may be an old one.
    pub(super) fn decide_before_proposing(&self, command: &Command) -> Option<Applied> {
        let state = &self.inner.state;
        let reply = if seeded_bugs::is_on("dedup-at-leader-only") {
            machine::bugs::remembered(&state.view(), command)
        } else if seeded_bugs::is_on("bounds-before-proposing") {
            machine::bugs::refused_by_bounds(&state.view(), command)
        } else {
            None
        };
        let reply = reply?;
        let at = state.applied()?;
        let revision = query::meta(&state.view()).revision;
        let (log_index, term) = (at.index, at.term);
        Some(Applied { reply, log_index, term, revision, leader: None, times: None })
    }

    /// What is done instead of a promotion: the learner takes the place of the voter that is furthest
    /// behind, at once. (Its entry in the log lacks the old voters: `membership`.)
    pub(super) async fn swap_in(
        &self,
        node_id: u64,
        mut voters: BTreeSet<u64>,
    ) -> Result<(), MemberError> {
        let replication = self.leadership().metrics().replication.unwrap_or_default();
        let furthest_behind = replication
            .into_iter()
            .filter(|(id, _)| *id != self.node_id() && voters.contains(id))
            .min_by_key(|(id, matched)| (matched.as_ref().map(|log_id| log_id.index), *id));
        if let Some((id, _)) = furthest_behind {
            voters.remove(&id);
        }
        voters.insert(node_id);
        self.raft().change_membership(ChangeMembers::ReplaceAllVoters(voters), true).await?;
        Ok(())
    }
}
