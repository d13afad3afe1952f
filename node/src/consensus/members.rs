//! Membership: learners, voters, and who leads, changed by joint consensus one step at a time.

use std::{collections::BTreeSet, time::Duration};

use openraft::{
    ChangeMembers, RaftMetrics,
    errors::{ClientWriteError, RaftError},
};
use tally_proto::seeded_bugs;
use tokio::time::Instant;

use super::{
    Consensus,
    confirm::Unconfirmed,
    leader::Leader,
    types::{Member, TypeConfig},
};

/// A learner that is further behind is not made a voter yet: as one, it would be counted for
/// majorities that it can't help to reach.
const PROMOTION_LAG_MAX: u64 = 1000;

/// Why a membership change did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// Only the leader changes the membership.
    #[error("this node is not the leader")]
    NotLeader,
    /// No quorum is reached, so nothing was proposed.
    #[error("no quorum confirms that this node leads")]
    NoQuorum,
    /// The request does not fit the membership.
    #[error("{0}")]
    Refused(String),
    /// It was handed over; whether it is done can be seen in the status.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

type WriteError = RaftError<TypeConfig, ClientWriteError<TypeConfig>>;

impl From<WriteError> for MemberError {
    fn from(error: WriteError) -> Self {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => MemberError::NotLeader,
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
                MemberError::Refused(error.to_string())
            }
            RaftError::APIError(ClientWriteError::PreconditionFailed(error)) => {
                MemberError::Refused(error.to_string())
            }
            RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => {
                MemberError::Unknown("leadership was lost".to_owned())
            }
            RaftError::Fatal(_) => MemberError::ShuttingDown,
        }
    }
}

/// Ids of voters and all members, committed or not.
fn members_of(metrics: &RaftMetrics<TypeConfig>) -> (BTreeSet<u64>, Vec<(u64, Member)>) {
    let membership = metrics.membership_config.membership();
    let voters = membership.voter_ids().collect();
    let members = membership.nodes().map(|(id, member)| (*id, member.clone())).collect();
    (voters, members)
}

impl Consensus {
    /// Refuses what only a leader with a quorum can do.
    pub fn must_lead(&self) -> Result<(), MemberError> {
        match self.leadership().term_as_leader() {
            Some(_) if self.quorum_lost() => Err(MemberError::NoQuorum),
            Some(_) => Ok(()),
            None => Err(MemberError::NotLeader),
        }
    }

    /// Whether a node is a member, committed or not.
    pub fn is_member(&self, node_id: u64) -> bool {
        self.members().1.iter().any(|(id, _)| *id == node_id)
    }

    /// Refuses voters of whom no majority has been heard of lately: the change could never be
    /// committed, or nothing after it.
    fn must_have_quorum(&self, voters: &BTreeSet<u64>) -> Result<(), MemberError> {
        let silent = self.leadership().silent(voters, self.no_quorum_after());
        let heard = voters.len() - silent.len();
        if 2 * heard > voters.len() {
            return Ok(());
        }
        Err(MemberError::Refused(format!(
            "it would leave no quorum: of the voters {voters:?} it would have, {silent:?} have not been \
             heard of for {} ms",
            self.no_quorum_after().as_millis()
        )))
    }

    /// Ids of voters and of all members.
    pub fn members(&self) -> (BTreeSet<u64>, Vec<(u64, Member)>) {
        members_of(&self.leadership().metrics())
    }

    /// Answers a request that asks for what is so already. What a leader shows as the membership may
    /// be an entry that no quorum has yet, its own or one that it inherited, and the next leader may
    /// overrule it. So it counts only if its entry is committed as far as this node knows; and a
    /// quorum round, which begins before the membership is looked at, says that this node still led
    /// then, so that nobody else had committed a later one. (The read index of that round is no proof
    /// of the entry: it is at least the first entry of the leader's term, which may not be committed.)
    async fn confirm(
        &self,
        is_so: impl FnOnce(&BTreeSet<u64>, &[(u64, Member)]) -> bool,
    ) -> Result<(), MemberError> {
        let until = Instant::now() + self.no_quorum_after();
        self.confirm_leading(until).await.map_err(|error| match error {
            Unconfirmed::Stopped => MemberError::ShuttingDown,
            Unconfirmed::NotLeader => MemberError::NotLeader,
            Unconfirmed::NoQuorum => MemberError::NoQuorum,
        })?;
        let metrics = self.leadership().metrics();
        let at = metrics.membership_config.log_id().as_ref().map_or(0, |log_id| log_id.index);
        let committed = metrics.local_committed.as_ref().map_or(0, |log_id| log_id.index);
        let (voters, members) = members_of(&metrics);
        if at <= committed && is_so(&voters, &members) {
            return Ok(());
        }
        Err(MemberError::Unknown("a change of the membership is under way".to_owned()))
    }

    /// Adds a node that receives the log and has no vote.
    pub async fn add_learner(&self, node_id: u64, peer_address: String) -> Result<(), MemberError> {
        self.must_lead()?;
        let (_, members) = self.members();
        if let Some((_, member)) = members.iter().find(|(id, _)| *id == node_id) {
            if member.peer_address == peer_address {
                let is_member = |(id, member): &(u64, Member)| {
                    *id == node_id && member.peer_address == peer_address
                };
                return self.confirm(|_, members| members.iter().any(is_member)).await;
            }
            return Err(MemberError::Refused(format!(
                "node {node_id} is a member at {}; an id is never used again",
                member.peer_address
            )));
        }
        self.raft().add_learner(node_id, Member { peer_address }, false).await?;
        Ok(())
    }

    /// Makes a learner a voter.
    pub async fn promote(&self, node_id: u64) -> Result<(), MemberError> {
        self.must_lead()?;
        let (voters, members) = self.members();
        if voters.contains(&node_id) {
            let metrics = self.leadership().metrics();
            let is_open = metrics.membership_config.membership().get_joint_config().len() > 1;
            if is_open && !seeded_bugs::is_on("joint-left-open") {
                return self.finish_promotion(node_id).await;
            }
            return self.confirm(|voters, _| voters.contains(&node_id)).await;
        }
        if !members.iter().any(|(id, _)| *id == node_id) {
            return Err(MemberError::Refused(format!("node {node_id} is not a learner")));
        }
        let is_silent = !self
            .leadership()
            .silent(&BTreeSet::from([node_id]), self.no_quorum_after())
            .is_empty();
        let metrics = self.leadership().metrics();
        let matched = metrics
            .replication
            .and_then(|replication| replication.get(&node_id).cloned().flatten());
        let Some(matched) = matched.filter(|_| !is_silent).map(|log_id| log_id.index) else {
            return Err(MemberError::Refused(format!(
                "node {node_id} has not been heard of for {} ms; as a voter it would be counted for \
                 majorities that it can't help to reach",
                self.no_quorum_after().as_millis()
            )));
        };
        let behind = self.leadership().commit_index().saturating_sub(matched);
        if behind > PROMOTION_LAG_MAX {
            return Err(MemberError::Refused(format!(
                "node {node_id} is {behind} entries behind; it may be {PROMOTION_LAG_MAX} at most"
            )));
        }
        #[cfg(feature = "seeded-bugs")]
        if seeded_bugs::is_on("voter-swapped-in-one-step") {
            return self.swap_in(node_id, voters).await;
        }
        let mut with_it = voters;
        with_it.insert(node_id);
        self.must_have_quorum(&with_it)?;
        let change = ChangeMembers::AddVoterIds(BTreeSet::from([node_id]));
        self.raft().change_membership(change, false).await?;
        Ok(())
    }

    /// Ends a change of the voters that another leader, or a caller who went away, has left between its
    /// two entries: openraft takes the second step for whoever asked for the first, and nobody else does.
    /// The node is in one of the two sets, so it may be a voter of the one alone that is to come; it was
    /// asked for, and the others decide without the old set from then on.
    async fn finish_promotion(&self, node_id: u64) -> Result<(), MemberError> {
        let change = ChangeMembers::AddVoterIds(BTreeSet::from([node_id]));
        self.raft().change_membership(change, false).await?;
        Ok(())
    }

    /// Takes a member out. One that is none any more is removed already; one that was never met never
    /// was one.
    pub async fn remove(&self, node_id: u64, was_met: bool) -> Result<(), MemberError> {
        self.must_lead()?;
        let (voters, members) = self.members();
        if !members.iter().any(|(id, _)| *id == node_id) {
            if !was_met {
                let reason = format!("node {node_id} is no member, and was never met as one");
                return Err(MemberError::Refused(reason));
            }
            let is_member = |(id, _): &(u64, Member)| *id == node_id;
            return self.confirm(|_, members| !members.iter().any(is_member)).await;
        }
        if voters.len() == 1 && voters.contains(&node_id) {
            let reason = format!("node {node_id} is the only voter");
            return Err(MemberError::Refused(reason));
        }
        let ids = BTreeSet::from([node_id]);
        let change = if voters.contains(&node_id) {
            let without_it = voters.into_iter().filter(|id| *id != node_id).collect();
            self.must_have_quorum(&without_it)?;
            ChangeMembers::RemoveVoters(ids)
        } else {
            ChangeMembers::RemoveNodes(ids)
        };
        self.raft().change_membership(change, false).await?;
        Ok(())
    }

    /// Hands leadership to a voter, or to the one that is furthest along, and waits until somebody
    /// else leads.
    pub async fn transfer_leader(
        &self,
        to: Option<u64>,
        patience: Duration,
    ) -> Result<u64, MemberError> {
        self.must_lead()?;
        let me = self.node_id();
        let metrics = self.leadership().metrics();
        let (voters, _) = self.members();
        let to = match to {
            Some(to) if to == me => return Ok(me),
            Some(to) if voters.contains(&to) => to,
            Some(to) => return Err(MemberError::Refused(format!("node {to} is not a voter"))),
            None => {
                let replication = metrics.replication.unwrap_or_default();
                let furthest = replication
                    .into_iter()
                    .filter(|(id, _)| *id != me && voters.contains(id))
                    .max_by_key(|(id, matched)| {
                        (matched.as_ref().map(|log_id| log_id.index), std::cmp::Reverse(*id))
                    });
                match furthest {
                    Some((id, _)) => id,
                    None => {
                        return Err(MemberError::Refused("there is no other voter".to_owned()));
                    }
                }
            }
        };
        if self.raft().trigger().transfer_leader(to).await.is_err() {
            return Err(MemberError::ShuttingDown);
        }
        let until = Instant::now() + patience;
        let mut leadership = self.leadership().clone();
        loop {
            match leadership.current() {
                Some(Leader::There { node_id, .. }) => return Ok(node_id),
                Some(Leader::Here { .. }) | None if Instant::now() >= until => {
                    return Err(MemberError::Unknown(format!(
                        "node {to} did not take over within {} ms",
                        patience.as_millis()
                    )));
                }
                Some(Leader::Here { .. }) | None => leadership.changed(until).await,
            }
        }
    }
}
