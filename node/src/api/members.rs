//! Changes of the membership, asked of any node.
//!
//! **Who decides.** A node that does not lead asks the leader, once, and names the caller by the user and the token
//! that it has found (`who`), as it does for a write. Whether that caller may do it is decided by the leader, by a state
//! that is as new as the moment at which it was asked: it waits for a read index first. The node that forwards has no
//! say, neither for nor against, and its own rights (a node may do everything on the peer port) are nobody's. What breaks
//! it: a decision by the state of the node that was asked, which may be behind, or the caller taken from who sends the
//! message. (`a_change_of_the_cluster_that_is_forwarded_is_its_callers`.)
//!
//! **What is known of a failure.** As of a write: a leader to which no connection could be made has seen nothing, so
//! another is looked for; a question that was sent and not answered has an unknown outcome. Each step may be asked for
//! again: one that was done is answered as done (`is_so`).
//!
//! It is recorded at the node that was asked (`audited`).

use std::time::Duration;

use async_trait::async_trait;
use tally_proto::{
    peer::v1::{self as wire, operate_request::Change, operate_response::Result as Done},
    reason,
    status::StatusBuilder,
    v1::{self, CallStatus},
};
use tokio::time::Instant;
use tonic::Code;

use super::{
    Answered, Api, Call, Who,
    report::Asked,
    status::{Invalid, Kind},
};
use crate::{
    consensus::{
        WhenFull,
        leader::Leader,
        members::{MemberError, Newcomer},
        others::{AskError, ms_left},
        plan::{Plan, Step, Voters},
        read::Level,
        upgrade::{MemberFormats, UpgradePlan},
    },
    machine::{auth::Caller, version::FormatRange},
    peer::{ask, hello::NotAddable, service::Operates},
};

/// How long the node at a new member's address has to answer, as it may just be starting.
const PROBE_PATIENCE: Duration = Duration::from_millis(2000);

/// How long a transfer of leadership may take.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(3);

/// How long to wait before a leader that can't be reached is looked for again.
const REDIAL_DELAY: Duration = Duration::from_millis(20);

impl Api {
    fn member_header(&self) -> v1::ResponseHeader {
        let mut header = self.local_header();
        header.set_consistency(v1::ReadLevel::Linearizable);
        header
    }

    fn member_error(&self, call: &Call, error: &MemberError) -> CallStatus {
        let (code, name, outcome) = match error {
            MemberError::NotLeader => {
                (Code::Unavailable, reason::NOT_LEADER, v1::Outcome::NotApplied)
            }
            MemberError::NoQuorum => {
                (Code::Unavailable, reason::NO_QUORUM, v1::Outcome::NotApplied)
            }
            MemberError::NotNow(_) => {
                (Code::Unavailable, reason::NOT_PROPOSED, v1::Outcome::NotApplied)
            }
            MemberError::Refused(_) => {
                (Code::FailedPrecondition, reason::MEMBERSHIP_REFUSED, v1::Outcome::NotApplied)
            }
            MemberError::UpgradeRefused(_) => {
                (Code::FailedPrecondition, reason::UPGRADE_REFUSED, v1::Outcome::NotApplied)
            }
            MemberError::Unknown(_) => {
                (Code::Unavailable, reason::OUTCOME_UNKNOWN, v1::Outcome::Unknown)
            }
            MemberError::ShuttingDown => {
                (Code::Unavailable, reason::SHUTTING_DOWN, v1::Outcome::Unknown)
            }
        };
        let status = StatusBuilder::new(code, name, error.to_string()).outcome(outcome);
        self.finish_with_leader(call, status)
    }

    /// What is wrong with a request by itself.
    fn check_change(&self, call: &Call, change: &Change) -> Answered<()> {
        let node_id = match change {
            Change::AddLearner(request) if !request.peer_address.contains(':') => {
                let invalid = Invalid::new("peer_address", "must be host:port");
                return Err(self.invalid(call, Kind::Write, &invalid));
            }
            Change::ClaimNodeId(request) if !is_incarnation(&request.incarnation) => {
                let invalid =
                    Invalid::new("incarnation", "must be 32 hexadecimal digits, not all 0");
                return Err(self.invalid(call, Kind::Write, &invalid));
            }
            Change::Promote(request) => request.node_id,
            Change::Remove(request) => request.node_id,
            Change::Drain(request) => request.node_id,
            // None is said, or 0: whoever answers at the address, the asked node, who has applied most.
            Change::ClaimNodeId(_)
            | Change::AddLearner(_)
            | Change::Snapshot(_)
            | Change::FinalizeUpgrade(_)
            | Change::TransferLeader(_) => return Ok(()),
        };
        if node_id == 0 {
            let invalid = Invalid::new("node_id", "must be above 0");
            return Err(self.invalid(call, Kind::Write, &invalid));
        }
        Ok(())
    }

    /// Has a change decided and done by the leader: here, or there.
    async fn operate_somewhere(&self, call: &Call, change: Change) -> Answered<Done> {
        self.check_change(call, &change)?;
        let until = call.deadline.min(Instant::now() + self.consensus.no_quorum_after());
        let mut leadership = self.consensus.leadership().clone();
        loop {
            match leadership.wait_for_leader(until).await {
                Some(Leader::Here { .. }) => return self.operate_here(call, change).await,
                Some(Leader::There { node_id, peer_address, .. })
                    if !self.consensus.quorum_lost() =>
                {
                    let asked = self.operate_there(call, &change, node_id, &peer_address).await;
                    if let Some(answered) = asked {
                        return answered;
                    }
                }
                Some(Leader::There { .. }) | None => {}
            }
            if Instant::now() >= until {
                return Err(self.member_error(call, &MemberError::NoQuorum));
            }
            leadership.changed((Instant::now() + REDIAL_DELAY).min(until)).await;
        }
    }

    /// Nothing if the question never left.
    async fn operate_there(
        &self,
        call: &Call,
        change: &Change,
        leader: u64,
        address: &str,
    ) -> Option<Answered<Done>> {
        let caller = self.caller(&call.who);
        let request = wire::OperateRequest {
            request_id: call.request_id.exact(),
            deadline_ms: ms_left(call.deadline),
            caller: caller.map(|Caller { user, token }| wire::OperateCaller {
                user,
                token,
                restore_epoch: call.who.known_at(),
            }),
            change: Some(change.clone()),
            ..wire::OperateRequest::default()
        };
        tracing::debug!(request = %call.request_id, leader, "a change of the cluster is forwarded");
        let peers = self.node.greeter.peers();
        let unknown =
            |reason: &str| self.member_error(call, &MemberError::Unknown(reason.to_owned()));
        Some(match ask::operate(peers, leader, address, request, call.deadline).await {
            Ok(wire::OperateResponse { result: Some(Done::Error(status)) }) => Err(status),
            Ok(wire::OperateResponse { result: Some(done) }) => Ok(done),
            Ok(wire::OperateResponse { result: None }) => Err(unknown("the answer is empty")),
            Err(AskError::NeverSent(reason)) => {
                tracing::debug!(leader, %reason, "the leader can't be asked");
                return None;
            }
            Err(AskError::Refused(refusal)) => Err(unknown(&refusal.message)),
            Err(AskError::Transport(reason)) => Err(unknown(&reason)),
        })
    }

    /// Decides for the caller and does it, if this node leads.
    async fn operate_here(&self, call: &Call, change: Change) -> Answered<Done> {
        let refused = |error: MemberError| self.member_error(call, &error);
        self.consensus.must_lead().map_err(refused)?;
        let level = Level::Linearizable;
        let permit = self.consensus.reads().permit(&level, call.deadline).await;
        permit.map_err(|error| self.can_not_say(call, Kind::Write, &error))?;
        self.may_operate(call)?;
        match tokio::time::timeout_at(call.deadline, self.change(call, change)).await {
            Ok(result) => result.map_err(refused),
            Err(_) => Err(refused(MemberError::Unknown("the deadline passed".to_owned()))),
        }
    }

    async fn change(&self, call: &Call, change: Change) -> Result<Done, MemberError> {
        self.consensus.has_listened().await;
        let met = self.node.greeter.met_ids().await;
        let header = || Some(self.member_header());
        Ok(match change {
            Change::AddLearner(request) => {
                let plan = self.add_learner(call, request, &met).await?;
                let plan = Some(Box::new(plan_to_wire(plan)));
                Done::AddLearner(v1::ClusterAddLearnerResponse { header: header(), plan })
            }
            Change::Promote(v1::ClusterPromoteRequest {
                node_id,
                preview,
                accept_fewer_failures,
            }) => {
                let step = Step::Promote { node_id, accept_fewer_failures };
                let plan = match preview {
                    true => self.consensus.plan(&step, &met).await,
                    false => self.consensus.promote(node_id, accept_fewer_failures, &met).await?,
                };
                let plan = Some(Box::new(plan_to_wire(plan)));
                Done::Promote(v1::ClusterPromoteResponse { header: header(), plan })
            }
            Change::Remove(v1::ClusterRemoveRequest {
                node_id,
                preview,
                accept_fewer_failures,
            }) => {
                let step = Step::Remove { node_id, accept_fewer_failures };
                let plan = match preview {
                    true => self.consensus.plan(&step, &met).await,
                    false => self.consensus.remove(node_id, accept_fewer_failures, &met).await?,
                };
                let plan = Some(Box::new(plan_to_wire(plan)));
                Done::Remove(v1::ClusterRemoveResponse { header: header(), plan })
            }
            Change::ClaimNodeId(v1::ClusterClaimNodeIdRequest { incarnation }) => {
                let node_id = self.consensus.claim_node_id(incarnation, &met).await?;
                let header = header();
                Done::ClaimNodeId(v1::ClusterClaimNodeIdResponse { header, node_id })
            }
            Change::Drain(v1::ClusterDrainRequest { node_id, undo, preview }) => {
                let plan = match preview {
                    true => self.consensus.plan(&Step::Drain { node_id, undo }, &met).await,
                    false => self.consensus.drain_node(node_id, undo, &met).await?,
                };
                let plan = Some(Box::new(plan_to_wire(plan)));
                Done::Drain(v1::ClusterDrainResponse { header: header(), plan })
            }
            Change::FinalizeUpgrade(v1::ClusterFinalizeUpgradeRequest { preview }) => {
                let plan = match preview {
                    true => self.consensus.plan_upgrade(),
                    false => self.consensus.finalize_upgrade().await?,
                };
                let plan = Some(Box::new(upgrade_to_wire(plan)));
                Done::FinalizeUpgrade(v1::ClusterFinalizeUpgradeResponse { header: header(), plan })
            }
            Change::Snapshot(_) => unreachable!("every node does that, and not as the leader"),
            Change::TransferLeader(v1::ClusterTransferLeaderRequest { node_id, preview }) => {
                let to = (node_id != 0).then_some(node_id);
                let plan = self.consensus.plan(&Step::TransferLeader { to }, &met).await;
                let leader_id = match preview {
                    true => self.node.own.node_id,
                    false => self.consensus.transfer_leader(to, TRANSFER_PATIENCE).await?,
                };
                let plan = Some(Box::new(plan_to_wire(plan)));
                Done::TransferLeader(v1::ClusterTransferLeaderResponse {
                    header: header(),
                    leader_id,
                    plan,
                })
            }
        })
    }

    async fn add_learner(
        &self,
        call: &Call,
        request: v1::ClusterAddLearnerRequest,
        met: &[u64],
    ) -> Result<Plan, MemberError> {
        let v1::ClusterAddLearnerRequest { node_id, peer_address, preview } = request;
        let mut incarnation = String::new();
        let mut formats = FormatRange::UNSAID;
        let mut not_addable = None;
        let mut node_id = node_id;
        if !self.consensus.is_member(node_id) {
            // What is wrong with an address is better known before it is in the log.
            let until = call.deadline.min(Instant::now() + PROBE_PATIENCE);
            match self.node.greeter.probe(node_id, &peer_address, until).await {
                Ok(found) => {
                    (node_id, incarnation, formats) =
                        (found.node_id, found.incarnation, found.formats);
                }
                Err(reason) => not_addable = Some(reason),
            }
        }
        if preview {
            let step = Step::AddLearner { node_id, peer_address, incarnation };
            let plan = self.consensus.plan(&step, met).await;
            let refusal = not_addable.map(|reason| reason.to_string()).or(plan.refusal);
            return Ok(Plan { refusal, ..plan });
        }
        match not_addable {
            Some(reason @ NotAddable::OtherFormats { .. }) => {
                Err(MemberError::UpgradeRefused(reason.to_string()))
            }
            Some(reason) => Err(MemberError::Refused(reason.to_string())),
            None => {
                let newcomer = Newcomer { node_id, peer_address, incarnation, formats };
                self.consensus.add_learner(newcomer, met).await
            }
        }
    }

    pub(crate) async fn cluster_snapshot(
        &self,
        call: &Call,
        request: v1::ClusterSnapshotRequest,
    ) -> Answered<v1::ClusterSnapshotResponse> {
        let (_, asked) = self.asked(call, request.node_id)?;
        let Asked::Peer(node_id, address) = asked else {
            return self.snapshot_here(call).await;
        };
        let change = Change::Snapshot(v1::ClusterSnapshotRequest { node_id });
        match self.operate_there(call, &change, node_id, &address).await {
            Some(Ok(Done::Snapshot(response))) => Ok(response),
            Some(Ok(_)) => Err(self.another_answer(call)),
            Some(Err(status)) => Err(status),
            None => {
                let reason = format!("node {node_id} is not reached at {address}");
                Err(self.member_error(call, &MemberError::NotNow(reason)))
            }
        }
    }

    /// What somebody may is decided by this node's own state: nothing that is replicated changes, and a node that is cut
    /// off may need it most.
    async fn snapshot_here(&self, call: &Call) -> Answered<v1::ClusterSnapshotResponse> {
        self.may_operate(call)?;
        let built = self.consensus.build_snapshot(call.deadline).await;
        let log_index = built.map_err(|error| self.member_error(call, &error))?;
        let node_id = self.node.own.node_id;
        let header = Some(self.local_header());
        Ok(v1::ClusterSnapshotResponse { header, node_id, log_index })
    }

    /// The leader has answered something else than what it was asked.
    fn another_answer(&self, call: &Call) -> CallStatus {
        let reason = "the leader's answer is to another question".to_owned();
        self.member_error(call, &MemberError::Unknown(reason))
    }
}

/// Calls that the leader decides, whoever is asked.
macro_rules! led {
    ($($call:ident: $change:ident($request:ident) -> $response:ident;)*) => {
        impl Api {
            $(pub(crate) async fn $call(
                &self,
                call: &Call,
                request: v1::$request,
            ) -> Answered<v1::$response> {
                match self.operate_somewhere(call, Change::$change(request)).await? {
                    Done::$change(response) => Ok(response),
                    _ => Err(self.another_answer(call)),
                }
            })*
        }
    };
}

led! {
    cluster_add_learner: AddLearner(ClusterAddLearnerRequest) -> ClusterAddLearnerResponse;
    cluster_promote: Promote(ClusterPromoteRequest) -> ClusterPromoteResponse;
    cluster_remove: Remove(ClusterRemoveRequest) -> ClusterRemoveResponse;
    cluster_transfer_leader: TransferLeader(ClusterTransferLeaderRequest) -> ClusterTransferLeaderResponse;
    cluster_drain: Drain(ClusterDrainRequest) -> ClusterDrainResponse;
    cluster_finalize_upgrade: FinalizeUpgrade(ClusterFinalizeUpgradeRequest) -> ClusterFinalizeUpgradeResponse;
    cluster_claim_node_id: ClaimNodeId(ClusterClaimNodeIdRequest) -> ClusterClaimNodeIdResponse;
}

#[async_trait]
impl Operates for Api {
    async fn operate(&self, request: wire::OperateRequest) -> wire::OperateResponse {
        let now = Instant::now();
        let deadline = now + Duration::from_millis(u64::from(request.deadline_ms));
        let call = self.call_until(now, deadline, &request.request_id, WhenFull::Refuse);
        let who = request.caller.map_or_else(Who::default, |caller| {
            let wire::OperateCaller { user, token, restore_epoch } = caller;
            Who::forwarded(Caller { user, token }, restore_epoch)
        });
        let call = Call { who, ..call };
        let result = match request.change {
            Some(Change::Snapshot(_)) => self.snapshot_here(&call).await.map(Done::Snapshot),
            Some(change) => self.operate_here(&call, change).await,
            None => {
                // A newer node's question: nothing was done.
                let error = MemberError::Refused("the leader does not know this change".to_owned());
                Err(self.member_error(&call, &error))
            }
        };
        wire::OperateResponse { result: Some(result.unwrap_or_else(Done::Error)) }
    }
}

fn is_incarnation(text: &str) -> bool {
    text.len() == 32
        && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
        && text.bytes().any(|digit| digit != b'0')
}

fn voters_to_wire(voters: Voters) -> v1::ClusterVoters {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    v1::ClusterVoters {
        quorum: number(voters.quorum()),
        tolerated_failures: number(voters.tolerated_failures()),
        spare: i32::try_from(voters.spare()).unwrap_or(i32::MAX),
        voters: voters.voters.into_iter().collect(),
        learners: voters.learners.into_iter().collect(),
        silent: voters.silent.into_iter().collect(),
    }
}

fn plan_to_wire(plan: Plan) -> v1::ClusterPlan {
    v1::ClusterPlan {
        before: Some(voters_to_wire(plan.before)),
        after: Some(voters_to_wire(plan.after)),
        node_id: plan.node_id,
        is_so: plan.is_so,
        refusal: plan.refusal.unwrap_or_default(),
        passes: plan.passes,
        note: plan.note.unwrap_or_default(),
        lag_entries: plan.lag_entries,
        next_node_id: plan.next_node_id,
    }
}

fn upgrade_to_wire(plan: UpgradePlan) -> v1::UpgradePlan {
    let member = |MemberFormats { node_id, said }| v1::MemberFormats {
        node_id,
        format_min: said.map_or(0, |(formats, _)| formats.min.0),
        format_max: said.map_or(0, |(formats, _)| formats.max.0),
        heard_ms_ago: said.map(|(_, ago)| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
    };
    v1::UpgradePlan {
        version: plan.version.0,
        to: plan.to.0,
        is_so: plan.is_so,
        refusal: plan.refusal.unwrap_or_default(),
        passes: plan.passes,
        members: plan.members.into_iter().map(member).collect(),
    }
}
