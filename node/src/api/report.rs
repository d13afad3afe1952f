//! What nodes tell of themselves at length: metrics, and what a debug bundle is made of.
//!
//! The asked node asks another one itself, over the peer port, as for the status: whoever can reach one node sees
//! all of them. Whether the caller may is decided here, once.

use std::time::Duration;

use tally_proto::v1;
use tokio::time::Instant;

use super::{Answered, Api, Call, status::Invalid, status::Kind, who::Reads};
use crate::{peer::ask, status::Text};

/// How long a peer has to tell its metrics …
const METRICS_PATIENCE: Duration = Duration::from_secs(1);

/// … and everything else: it looks at its disk for that.
const DIAGNOSIS_PATIENCE: Duration = Duration::from_secs(5);

/// Who is to be asked.
pub(super) enum Asked {
    /// This node.
    Own,
    /// A peer, at an address.
    Peer(u64, String),
}

impl Api {
    pub(crate) async fn cluster_metrics(
        &self,
        call: &Call,
        request: v1::ClusterMetricsRequest,
    ) -> Answered<v1::ClusterMetricsResponse> {
        self.may_read(call, &self.consensus.state().view(), Reads::Monitor)?;
        let (node_id, asked) = self.asked(call, request.node_id)?;
        let text = match asked {
            Asked::Own => self.node.own.tells.metrics(),
            Asked::Peer(id, address) => {
                let until = call.deadline.min(Instant::now() + METRICS_PATIENCE);
                let told = ask::metrics(self.node.greeter.peers(), id, &address, until).await;
                told.unwrap_or_else(|error| Text::missing("", error.reason()))
            }
        };
        let Text { text, problem, .. } = text;
        Ok(v1::ClusterMetricsResponse { header: Some(self.local_header()), node_id, text, problem })
    }

    pub(crate) async fn cluster_diagnose(
        &self,
        call: &Call,
        request: v1::ClusterDiagnoseRequest,
    ) -> Answered<v1::ClusterDiagnoseResponse> {
        self.may_operate(call)?;
        let (node_id, asked) = self.asked(call, request.node_id)?;
        let told = match asked {
            Asked::Own => Ok(self.node.own.tells.diagnosis().await),
            Asked::Peer(id, address) => {
                let until = call.deadline.min(Instant::now() + DIAGNOSIS_PATIENCE);
                ask::diagnosis(self.node.greeter.peers(), id, &address, until).await
            }
        };
        let (texts, problem) = match told {
            Ok(texts) => (texts, String::new()),
            Err(error) => (Vec::new(), error.reason().to_owned()),
        };
        let files = texts.into_iter().map(Into::into).collect();
        let header = Some(self.local_header());
        Ok(v1::ClusterDiagnoseResponse { header, node_id, files, problem })
    }

    /// Who is to answer: this node, or which other.
    pub(super) fn asked(&self, call: &Call, node_id: u64) -> Answered<(u64, Asked)> {
        let own = self.node.own.node_id;
        if node_id == 0 || node_id == own {
            return Ok((own, Asked::Own));
        }
        let (_, members) = self.consensus.members();
        match members.into_iter().find(|(id, _)| *id == node_id) {
            Some((id, member)) => Ok((id, Asked::Peer(id, member.peer_address))),
            None => {
                let invalid = Invalid::new("node_id", format!("no member has the id {node_id}"));
                Err(self.invalid(call, Kind::Read, &invalid))
            }
        }
    }
}
