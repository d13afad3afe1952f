//! Membership: learners, voters, and who leads, changed by joint consensus one step at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use openraft::{
    ChangeMembers, RaftMetrics,
    errors::{ClientWriteError, RaftError},
};
use tally_proto::seeded_bugs;
use tokio::time::Instant;

use super::{
    Consensus,
    confirm::Unconfirmed,
    error::{Error, NotProposed},
    leader::Leader,
    plan::{Plan, Step, used_id},
    tasks::own_command,
    types::{Member, TypeConfig},
};
use crate::machine::{
    command::{Action, Answer},
    node_ids::NodeIdCommand,
    version::{self, FormatRange},
};

/// A node that is to become a member, as it said when it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newcomer {
    /// Its id.
    pub node_id: u64,
    /// Where its peers reach it.
    pub peer_address: String,
    /// Its data directory.
    pub incarnation: String,
    /// Versions of the formats that it reads.
    pub formats: FormatRange,
}

/// Why a membership change did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// Only the leader changes the membership.
    #[error("this node is not the leader")]
    NotLeader,
    /// No quorum is reached, so nothing was proposed.
    #[error("no quorum confirms that this node leads")]
    NoQuorum,
    /// Nothing was done, and it may work in a moment.
    #[error("not now: {0}")]
    NotNow(String),
    /// The request does not fit the membership.
    #[error("{0}")]
    Refused(String),
    /// An upgrade can't be finalized; or a node can't be added whose release does not read the cluster's version.
    #[error("{0}")]
    UpgradeRefused(String),
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
            // Of the second of two entries: somebody else has written it, or another one.
            RaftError::APIError(ClientWriteError::PreconditionFailed(error)) => {
                MemberError::Unknown(error.to_string())
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

    /// Adds a node that receives the log and has no vote. It must have been asked which directory it has.
    pub async fn add_learner(&self, newcomer: Newcomer, met: &[u64]) -> Result<Plan, MemberError> {
        let Newcomer { node_id, peer_address, incarnation, formats } = newcomer;
        self.must_lead()?;
        let _one = self.one_change()?;
        let (address, directory) = (peer_address.clone(), incarnation.clone());
        let step = Step::AddLearner { node_id, peer_address: address, incarnation: directory };
        let plan = self.allowed(&step, met).await?;
        if plan.is_so {
            let is_member = |(id, member): &(u64, Member)| {
                *id == node_id && member.peer_address == peer_address
            };
            self.confirm(|_, members| members.iter().any(is_member)).await?;
            return Ok(plan);
        }
        let claim = NodeIdCommand::Claim { node_id, incarnation, used: self.used_ids(met) };
        match self.node_ids(claim).await? {
            Answer::NodeIdClaimed { .. } => {}
            Answer::NodeIdRefused { next_id } => {
                return Err(MemberError::Refused(used_id(node_id, next_id)));
            }
            other => unreachable!("a claim is answered with {other}"),
        }
        // An upgrade may have been finalized since it was asked, also one of unknown outcome. None can be now, as that
        // takes the same lock; and one that this leader proposed before is in the log before the claim, so applied.
        let version = self.cluster_version();
        if !formats.has(version) {
            return Err(MemberError::UpgradeRefused(version::not_a_member(
                node_id, formats, version,
            )));
        }
        self.raft().add_learner(node_id, Member { peer_address }, false).await?;
        Ok(plan)
    }

    /// One change of the membership at a time: each is judged by what it finds.
    pub(super) fn one_change(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, MemberError> {
        let held = self.inner.changing_members.try_lock();
        held.map_err(|_| {
            MemberError::NotNow("another change of the membership is under way".to_owned())
        })
    }

    /// Gives a data directory the next free id, or the one that it has been given before.
    pub async fn claim_node_id(
        &self,
        incarnation: String,
        met: &[u64],
    ) -> Result<u64, MemberError> {
        let claim = NodeIdCommand::Claim { node_id: 0, incarnation, used: self.used_ids(met) };
        match self.node_ids(claim).await? {
            Answer::NodeIdClaimed { node_id } => Ok(node_id),
            _ => Err(MemberError::Refused(
                "this data directory is that of a node which was taken out of the cluster, or there is no free id \
                 above those that were used: use an empty directory, and say an id"
                    .to_owned(),
            )),
        }
    }

    /// The plan of a step that may be done.
    pub(super) async fn allowed(&self, step: &Step, met: &[u64]) -> Result<Plan, MemberError> {
        let mut plan = self.plan(step, met).await;
        match plan.refusal.take() {
            Some(refusal) => Err(MemberError::Refused(refusal)),
            None => Ok(plan),
        }
    }

    /// Writes what becomes of an id of a node. Nothing of the membership changes with it.
    pub(super) async fn node_ids(&self, command: NodeIdCommand) -> Result<Answer, MemberError> {
        let until = Instant::now() + self.no_quorum_after();
        match self.write_here(own_command(Action::NodeId(command)), None, until).await {
            Ok(applied) => {
                applied.reply.result.map_err(|refusal| MemberError::NotNow(refusal.to_string()))
            }
            Err(Error::NotProposed(NotProposed::NotLeader(_))) => Err(MemberError::NotLeader),
            Err(Error::NotProposed(NotProposed::NoQuorum { .. })) => Err(MemberError::NoQuorum),
            Err(Error::NotProposed(NotProposed::ShuttingDown)) => Err(MemberError::ShuttingDown),
            Err(Error::NotProposed(error)) => Err(MemberError::NotNow(error.to_string())),
            Err(Error::Unknown(error)) => Err(MemberError::Unknown(error.to_string())),
        }
    }

    /// Makes a learner a voter.
    pub async fn promote(
        &self,
        node_id: u64,
        accept_fewer_failures: bool,
        met: &[u64],
    ) -> Result<Plan, MemberError> {
        self.must_lead()?;
        let _one = self.one_change()?;
        let (voters, _) = self.members();
        if voters.contains(&node_id) {
            let plan = self.plan(&Step::Promote { node_id, accept_fewer_failures }, met).await;
            if self.is_joint() && !seeded_bugs::is_on("joint-left-open") {
                self.finish_promotion(node_id).await?;
            } else {
                self.confirm(|voters, _| voters.contains(&node_id)).await?;
            }
            return Ok(Plan { is_so: true, refusal: None, ..plan });
        }
        let plan = self.allowed(&Step::Promote { node_id, accept_fewer_failures }, met).await?;
        #[cfg(feature = "seeded-bugs")]
        if seeded_bugs::is_on("voter-swapped-in-one-step") {
            self.swap_in(node_id, voters).await?;
            return Ok(plan);
        }
        self.change_voters(ChangeMembers::AddVoterIds(BTreeSet::from([node_id]))).await?;
        Ok(plan)
    }

    /// Changes the membership, by two entries where voters change: a joint one, and behind that the one that ends it.
    ///
    /// **Claim.** [`MemberError::NotLeader`] means that nothing was written. openraft answers with the one error of one who
    /// does not lead before the first entry and before the second, when leadership was lost between them, or is being handed
    /// over. In the latter case the joint entry is committed, and the change is ended by whoever leads next
    /// ([`Self::end_open_changes`]): that it was not applied would be false. The two are told apart by the last membership
    /// in this node's log: openraft shows that in its metrics as soon as it is appended, so long before the entry is
    /// committed, which it waits for between the two. One that came from another leader meanwhile makes an unknown outcome
    /// of a change that was not written, which is the safe way round. What breaks it: a membership that is compared by its
    /// voters, which a later entry may have as well.
    async fn change_voters(&self, change: ChangeMembers<u64, Member>) -> Result<(), MemberError> {
        let last = || *self.leadership().metrics().membership_config.log_id();
        let before = last();
        match self.raft().change_membership(change, false).await {
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) if last() != before => {
                Err(MemberError::Unknown(
                    "leadership was lost between the two entries of the change; the next leader ends it".to_owned(),
                ))
            }
            changed => Ok(changed.map(drop)?),
        }
    }

    /// A change of the voters has begun and not ended.
    pub fn is_joint(&self) -> bool {
        let metrics = self.leadership().metrics();
        metrics.membership_config.membership().get_joint_config().len() > 1
    }

    /// Ends a change of the voters that nobody else ends: its caller went away, or another leader began it. The second
    /// step is always the same, to the later of the two sets, whoever takes it. It is given up to two
    /// [`Consensus::no_quorum_after`]s, in which whoever began it takes the step himself.
    pub async fn end_open_changes(self) {
        let mut open: Option<(u64, Instant)> = None;
        loop {
            tokio::time::sleep(self.no_quorum_after() / 2).await;
            let leads = self.leadership().term_as_leader().is_some();
            if !leads || !self.is_joint() || seeded_bugs::is_on("joint-left-open") {
                open = None;
                continue;
            }
            let metrics = self.leadership().metrics();
            let at = metrics.membership_config.log_id().as_ref().map_or(0, |log_id| log_id.index);
            let committed = metrics.local_committed.as_ref().map_or(0, |log_id| log_id.index);
            let since = match open {
                Some((index, since)) if index == at => since,
                _ => Instant::now(),
            };
            open = Some((at, since));
            if at > committed || since.elapsed() < self.no_quorum_after() {
                continue;
            }
            let change = ChangeMembers::AddVoterIds(BTreeSet::new());
            match self.raft().change_membership(change, false).await {
                Ok(_) => {
                    tracing::info!(index = at, "a change of the voters that was left open is ended")
                }
                Err(error) => tracing::debug!(%error, "an open change of the voters stays open"),
            }
        }
    }

    /// Ends a change of the voters that another leader, or a caller who went away, has left between its
    /// two entries: openraft takes the second step for whoever asked for the first, and nobody else does.
    /// The node is in one of the two sets, so it may be a voter of the one alone that is to come; it was
    /// asked for, and the others decide without the old set from then on.
    async fn finish_promotion(&self, node_id: u64) -> Result<(), MemberError> {
        self.change_voters(ChangeMembers::AddVoterIds(BTreeSet::from([node_id]))).await
    }

    /// Takes a member out. One that is none any more is removed already. Before that its id is retired, so that no
    /// directory can come back under it ([`crate::machine::given_ids`]).
    pub async fn remove(
        &self,
        node_id: u64,
        accept_fewer_failures: bool,
        met: &[u64],
    ) -> Result<Plan, MemberError> {
        self.must_lead()?;
        let _one = self.one_change()?;
        let plan = self.allowed(&Step::Remove { node_id, accept_fewer_failures }, met).await?;
        if plan.is_so {
            let is_member = |(id, _): &(u64, Member)| *id == node_id;
            self.confirm(|_, members| !members.iter().any(is_member)).await?;
            return Ok(plan);
        }
        self.node_ids(NodeIdCommand::Retire { node_id, used: self.used_ids(met) }).await?;
        let (voters, _) = self.members();
        let ids = BTreeSet::from([node_id]);
        let change = match voters.contains(&node_id) {
            true => ChangeMembers::RemoveVoters(ids),
            false => ChangeMembers::RemoveNodes(ids),
        };
        self.change_voters(change).await?;
        Ok(plan)
    }

    /// Writes into the membership where a member is now, if this node leads and nothing else changes it. False: it is
    /// written there already, or the node is no member any more.
    pub async fn readdress(&self, node_id: u64, peer_address: String) -> Result<bool, MemberError> {
        self.must_lead()?;
        let _one = self.one_change()?;
        let (_, members) = self.members();
        let is_so =
            |(id, member): &(u64, Member)| *id == node_id && member.peer_address == peer_address;
        let is_member = members.iter().any(|(id, _)| *id == node_id);
        if !is_member || members.iter().any(is_so) {
            return Ok(false);
        }
        let nodes = BTreeMap::from([(node_id, Member { peer_address })]);
        // Two nodes never have one id here: whoever answers at the address is the member's directory.
        self.raft().change_membership(ChangeMembers::SetNodes(nodes), true).await?;
        Ok(true)
    }

    /// Hands leadership to a voter, or to the one that has applied most, and waits until somebody else leads: who that
    /// is. A node that was named and does not take over may have been overtaken by another, who is named then.
    pub async fn transfer_leader(
        &self,
        to: Option<u64>,
        patience: Duration,
    ) -> Result<u64, MemberError> {
        self.must_lead()?;
        let plan = self.allowed(&Step::TransferLeader { to }, &[]).await?;
        let to = plan.node_id;
        if plan.is_so {
            return Ok(to);
        }
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
