//! The status of all nodes.

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesOrdered};
use tally_proto::v1;
use tokio::time::Instant;

use super::{Answered, Api, Call, who::Reads};
use crate::{
    consensus::{guard::SESSION_ANSWER_BYTES_TOTAL_MAX, read::Provided, tables},
    machine::{self, query},
    peer::ask,
};

/// How long a peer has to answer before the table says that it did not.
const PEER_STATUS_TIMEOUT: Duration = Duration::from_millis(500);

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
        let drained = self.consensus.drained();
        let (voters, _) = self.consensus.members();
        for node in &mut nodes {
            // As far as this node knows: one that was made a voter a moment ago may not know it yet itself.
            if node.role() == v1::Role::Learner && voters.contains(&node.id) {
                node.set_role(v1::Role::Follower);
            }
            node.lag_entries = own.commit_index.saturating_sub(node.applied_index);
            node.drained = drained.contains(&node.id);
        }
        let share_percent = self.node.sessions_share_percent;
        let dedup = dedup_status(&self.consensus.state().view(), share_percent);
        let next_node_id = self.consensus.next_node_id(&self.node.greeter.met_ids().await);
        let (header, dedup) = (Some(header), Some(dedup));
        Ok(v1::ClusterStatusResponse { header, nodes, dedup, next_node_id })
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
