//! Status and membership.

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesOrdered};
use tally_proto::{
    reason,
    status::StatusBuilder,
    v1::{self, CallStatus},
};
use tokio::time::Instant;
use tonic::Code;

use super::{Answered, Api, Call, status::Invalid, status::Kind, who::Reads};
use crate::{
    consensus::{
        guard::SESSION_ANSWER_BYTES_TOTAL_MAX, members::MemberError, read::Provided, tables,
    },
    machine::{self, query},
    peer::ask,
};

/// How long a peer has to answer before the table says that it did not.
const PEER_STATUS_TIMEOUT: Duration = Duration::from_millis(500);

/// How long the node at a new member's address has to answer, as it may just be starting.
const PROBE_PATIENCE: Duration = Duration::from_millis(2000);

/// How long a transfer of leadership may take.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(3);

impl Api {
    pub(crate) async fn cluster_status(
        &self,
        call: &Call,
        request: v1::ClusterStatusRequest,
    ) -> Answered<v1::ClusterStatusResponse> {
        self.may_read(call, &self.consensus.state().view(), Reads::Monitor)?;
        let own = self.node.own.line();
        let header = self.header(Provided::Local, None, own.applied_index, own.revision);
        let mut nodes =
            if request.local_only { vec![own.clone()] } else { self.ask_all(own.clone()).await };
        for node in &mut nodes {
            node.lag_entries = own.commit_index.saturating_sub(node.applied_index);
        }
        let share_percent = self.node.sessions_share_percent;
        let dedup = dedup_status(&self.consensus.state().view(), share_percent);
        Ok(v1::ClusterStatusResponse { header: Some(header), nodes, dedup: Some(dedup) })
    }

    /// Every member's line, side by side; one that does not answer is shown as that.
    async fn ask_all(&self, own: v1::NodeStatus) -> Vec<v1::NodeStatus> {
        let (voters, members) = self.consensus.members();
        let peers = self.node.greeter.peers();
        let until = Instant::now() + PEER_STATUS_TIMEOUT;
        let mut answers = FuturesOrdered::new();
        for (id, member) in members {
            let own = own.clone();
            let is_voter = voters.contains(&id);
            answers.push_back(async move {
                if id == own.id {
                    return own;
                }
                match ask::status(peers, id, &member.peer_address, until).await {
                    Ok(status) => status,
                    Err(_) => {
                        let role = if is_voter { v1::Role::Follower } else { v1::Role::Learner };
                        v1::NodeStatus {
                            id,
                            role: role as i32,
                            address: peers.client_address(id).unwrap_or_default(),
                            peer_address: member.peer_address,
                            reachable: false,
                            note: peers.trouble(id).unwrap_or_default(),
                            ..v1::NodeStatus::default()
                        }
                    }
                }
            });
        }
        let nodes: Vec<_> = answers.collect().await;
        // A node that is no member yet shows at least itself.
        if nodes.is_empty() { vec![own] } else { nodes }
    }

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
            MemberError::Refused(_) => {
                (Code::FailedPrecondition, reason::MEMBERSHIP_REFUSED, v1::Outcome::NotApplied)
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

    /// Runs a membership change within the call's deadline.
    async fn change<T>(
        &self,
        call: &Call,
        change: impl Future<Output = Result<T, MemberError>>,
    ) -> Answered<T> {
        match tokio::time::timeout_at(call.deadline, change).await {
            Ok(result) => result.map_err(|error| self.member_error(call, &error)),
            Err(_) => {
                let error = MemberError::Unknown("the deadline passed".to_owned());
                Err(self.member_error(call, &error))
            }
        }
    }

    fn member_id(&self, call: &Call, node_id: u64) -> Answered<u64> {
        if node_id == 0 {
            let invalid = Invalid::new("node_id", "must be above 0");
            return Err(self.invalid(call, Kind::Write, &invalid));
        }
        Ok(node_id)
    }

    pub(crate) async fn cluster_add_learner(
        &self,
        call: &Call,
        request: v1::ClusterAddLearnerRequest,
    ) -> Answered<v1::ClusterAddLearnerResponse> {
        self.may_operate(call)?;
        let node_id = self.member_id(call, request.node_id)?;
        if !request.peer_address.contains(':') {
            let invalid = Invalid::new("peer_address", "must be host:port");
            return Err(self.invalid(call, Kind::Write, &invalid));
        }
        let address = request.peer_address;
        self.change(call, async {
            self.consensus.must_lead()?;
            if !self.consensus.is_member(node_id) {
                // What is wrong with an address is better known before it is in the log.
                let until = call.deadline.min(Instant::now() + PROBE_PATIENCE);
                let probed = self.node.greeter.probe(node_id, &address, until).await;
                probed.map_err(|reason| MemberError::Refused(reason.to_string()))?;
            }
            self.consensus.add_learner(node_id, address).await
        })
        .await?;
        Ok(v1::ClusterAddLearnerResponse { header: Some(self.member_header()) })
    }

    pub(crate) async fn cluster_promote(
        &self,
        call: &Call,
        request: v1::ClusterPromoteRequest,
    ) -> Answered<v1::ClusterPromoteResponse> {
        self.may_operate(call)?;
        let node_id = self.member_id(call, request.node_id)?;
        self.change(call, self.consensus.promote(node_id)).await?;
        Ok(v1::ClusterPromoteResponse { header: Some(self.member_header()) })
    }

    pub(crate) async fn cluster_remove(
        &self,
        call: &Call,
        request: v1::ClusterRemoveRequest,
    ) -> Answered<v1::ClusterRemoveResponse> {
        self.may_operate(call)?;
        let node_id = self.member_id(call, request.node_id)?;
        let was_met = self.node.greeter.has_met(node_id).await;
        self.change(call, self.consensus.remove(node_id, was_met)).await?;
        Ok(v1::ClusterRemoveResponse { header: Some(self.member_header()) })
    }

    pub(crate) async fn cluster_transfer_leader(
        &self,
        call: &Call,
        request: v1::ClusterTransferLeaderRequest,
    ) -> Answered<v1::ClusterTransferLeaderResponse> {
        self.may_operate(call)?;
        let to = (request.node_id != 0).then_some(request.node_id);
        let transfer = self.consensus.transfer_leader(to, TRANSFER_PATIENCE);
        let leader_id = self.change(call, transfer).await?;
        Ok(v1::ClusterTransferLeaderResponse { header: Some(self.member_header()), leader_id })
    }
}

/// The fill of the tables behind exactly-once.
fn dedup_status(view: &impl machine::view::View, sessions_share_percent: u8) -> v1::DedupStatus {
    let meta = query::meta(view);
    let settings = meta.settings;
    let first = query::first_idempotency_expiry(view);
    let bytes_per_key = match meta.idempotency_keys {
        0 => machine::idempotency_entry_bytes(TYPICAL_KEY_BYTES, TYPICAL_RECORD_BYTES),
        keys => meta.idempotency_bytes.div_ceil(keys),
    };
    let window_seconds = settings.idempotency_window_ms as f64 / 1000.0;
    let keys_max = settings.idempotency_bytes_max as f64 / bytes_per_key.max(1) as f64;
    v1::DedupStatus {
        sessions: meta.sessions,
        sessions_max: settings.sessions_max,
        session_bytes: meta.session_answer_bytes,
        session_bytes_max: SESSION_ANSWER_BYTES_TOTAL_MAX,
        keys: meta.idempotency_keys,
        key_bytes: meta.idempotency_bytes,
        key_bytes_max: settings.idempotency_bytes_max,
        first_expiry_in_ms: first
            .as_ref()
            .map_or(0, |first| first.expires_at_ms.saturating_sub(meta.log_time_ms)),
        oldest_key_age_ms: first
            .as_ref()
            .map_or(0, |first| meta.log_time_ms.saturating_sub(first.stored_at_ms)),
        sustainable_keys_per_second: keys_max / window_seconds,
        key_bytes_warning: tables::KEYS.is_filling(&meta),
        key_window_ms: settings.idempotency_window_ms,
        sessions_warning: tables::SESSIONS.is_filling(&meta),
        sessions_share_percent: u32::from(sessions_share_percent),
    }
}

/// What an empty table assumes of its first keys, in bytes.
const TYPICAL_KEY_BYTES: usize = 36;
const TYPICAL_RECORD_BYTES: usize = 80;
