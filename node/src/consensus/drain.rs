//! Nodes that are not to lead: drained, for as long as an operator wants it.
//!
//! **Claim.** A node that has applied that it is drained stands for no election while anybody else can lead, and hands
//! leadership over if it has it; and a cluster never is without a leader because of it.
//!
//! **It relies on** the record of the node's id, which is replicated, so that every node knows who is drained, the leader
//! that decides of the next one among them; and on openraft, which begins no election by itself while it is told not to
//! (`RuntimeConfigHandle::elect`).
//!
//! **The steps.** The leader refuses to drain the last voter that it hears and that may lead. It chooses none that is
//! drained when it hands leadership over, at an operator's wish or when it stops. The node itself looks at its record
//! again and again. It still votes, so it counts for every majority; and since it holds what it has acknowledged, it
//! may hold alone, of those that are there, what is committed: nobody else can be elected then, and nobody could tell it
//! otherwise, as that takes a leader. So one that has heard of no leader for [`STANDS_AFTER`] stands as anybody does, and
//! hands leadership over as soon as another voter has all of its log.
//!
//! A node whose state differs from that of a majority ([`super::compare`]) is kept from leading in the same way.
//!
//! **What breaks it:** a drained node that never stands (`a_drained_node_leads_if_nobody_else_can`); a choice of who is
//! to lead that does not look at who is drained (`a_drained_node_leads_again_only_when_told`). One that starts from a
//! state of before it was drained may stand before it has caught up, and hands over then.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::{
    Consensus,
    members::MemberError,
    plan::{PROMOTION_LAG_MAX, Plan, Step},
};
use crate::machine::{given_ids::node_ids, node_ids::NodeIdCommand};

/// A drained node stands itself after so many times the time after which a quorum counts as lost. Others need up to two
/// elections to find a leader among them.
const STANDS_AFTER: u32 = 5;

/// How long leadership may take to go to somebody else.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(3);

impl Consensus {
    /// Nodes that are not to lead, as far as this node has applied.
    pub fn drained(&self) -> BTreeSet<u64> {
        let ids = node_ids(&self.state().view());
        ids.into_iter().filter(|(_, record)| record.drained).map(|(id, _)| id).collect()
    }

    /// Keeps a voter from leading, or lets it again. One that leads has handed leadership over when this is answered.
    pub async fn drain_node(
        &self,
        node_id: u64,
        undo: bool,
        met: &[u64],
    ) -> Result<Plan, MemberError> {
        self.must_lead()?;
        let _one = self.one_change()?;
        let plan = self.allowed(&Step::Drain { node_id, undo }, met).await?;
        if plan.is_so {
            return Ok(plan);
        }
        let used = self.used_ids(met);
        self.node_ids(NodeIdCommand::Drain { node_id, drained: !undo, used }).await?;
        if !undo && node_id == self.node_id() {
            self.transfer_leader(None, HAND_OVER_PATIENCE).await?;
        }
        Ok(plan)
    }

    /// Somebody who may lead is there, has all that is committed in its log, and little of it to apply. A leader that
    /// waits for one who is down serves nobody meanwhile; nor does one that has yet to apply what it leads with.
    async fn is_there_a_successor(&self) -> bool {
        let applied = self.successors_applied().await;
        let is_there = |node_id| {
            let nodes = BTreeSet::from([node_id]);
            self.leadership().silent(&nodes, self.no_quorum_after()).is_empty()
        };
        let has_little_to_do =
            |id| self.lag_of(id, &applied).is_some_and(|lag| lag <= PROMOTION_LAG_MAX);
        self.furthest_voter(&applied)
            .is_some_and(|next| is_there(next) && self.has_all(next) && has_little_to_do(next))
    }

    /// Stands for elections as the node's record says, for as long as the node runs; not at all while it does not take
    /// part.
    pub async fn heed_drain(self, takes_part: impl Fn() -> bool) {
        let mut was_drained = false;
        let started = Instant::now();
        loop {
            let differs = self.comparisons().differs();
            let is_drained = differs || self.drained().contains(&self.node_id());
            if is_drained {
                let longest = STANDS_AFTER * self.no_quorum_after();
                let heard = self.leadership().since_leader_heard().await;
                // One that has heard of none since it started is without one since then.
                let silence = heard.unwrap_or_else(|| started.elapsed());
                let stands = takes_part() && silence > longest;
                self.raft().runtime_config().elect(stands);
                if self.must_lead().is_ok() && self.is_there_a_successor().await {
                    match self.transfer_leader(None, HAND_OVER_PATIENCE).await {
                        Ok(leader) => {
                            tracing::info!(leader, "not to lead: handed leadership over");
                        }
                        Err(error) => tracing::debug!(%error, "not to lead, and leads on"),
                    }
                }
            } else if was_drained {
                self.raft().runtime_config().elect(takes_part());
            }
            if is_drained != was_drained {
                let may = if is_drained { "is not to" } else { "may" };
                let why = if differs { "its state differs" } else { "`tally cluster drain`" };
                tracing::info!("this node {may} lead ({why})");
                was_drained = is_drained;
            }
            tokio::time::sleep(self.no_quorum_after() / 4).await;
        }
    }
}
