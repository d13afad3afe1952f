//! Writes that another node has to order: forwarded to the leader once, and what came of them.

use tally_proto::peer::v1 as wire;
use tokio::time::Instant;

use super::{
    Consensus,
    error::{LeaderHint, Limit, NotProposed, Unknown},
    others::AskError,
    propose::{AnsweredBy, Applied, Outcome},
    tasks,
};
use crate::machine::codec;

impl Consensus {
    /// Sends a write to the leader, once: a second hop could meet a third leader. `None` if no
    /// connection could be made, so that the write never left.
    pub(super) async fn forward(
        &self,
        forwarded: wire::ForwardedCommand,
        leader: u64,
        peer_address: &str,
        deadline: Instant,
    ) -> Option<Outcome> {
        self.inner.metrics.writes.forwarded.add(1);
        let mut quorum_lost = self.inner.quorum_lost.clone();
        let asking = self.inner.others.propose(leader, peer_address, forwarded, deadline);
        tokio::pin!(asking);
        let answer = tokio::select! {
            biased;
            answer = &mut asking => answer,
            true = async { quorum_lost.wait_for(|lost| *lost).await.is_ok() } => {
                // If it is just being refused a connection, nothing was sent.
                let moment = tasks::quorum_check_period(self.inner.election_timeout_max);
                match tokio::time::timeout(moment, asking).await {
                    Ok(answer) => answer,
                    Err(_) => return Some(Err(Unknown::QuorumLost.into())),
                }
            }
        };
        match answer {
            Ok(result) => Some(self.forwarded_result(leader, result)),
            Err(AskError::NeverSent(reason)) => {
                tracing::debug!(leader, %reason, "the leader can't be reached");
                None
            }
            Err(AskError::Refused(refusal)) => Some(Err(self.refusal(refusal).into())),
            Err(AskError::Transport(_)) if Instant::now() >= deadline => {
                Some(Err(Unknown::Deadline.into()))
            }
            Err(AskError::Transport(reason)) => Some(Err(Unknown::Transport(reason).into())),
        }
    }

    fn forwarded_result(&self, leader: u64, result: wire::ForwardedResult) -> Outcome {
        use wire::forwarded_result::Result as Forwarded;

        match result.result {
            Some(Forwarded::Reply(bytes)) => match codec::decode_reply(&bytes) {
                Ok(reply) => Ok(Applied {
                    reply,
                    log_index: result.applied_index,
                    term: result.applied_term,
                    revision: result.applied_revision,
                    leader: u128::from_str_radix(&result.cluster_id, 16).ok().map(|cluster_id| {
                        AnsweredBy {
                            node_id: leader,
                            term: result.leader_term,
                            cluster_id,
                            restore_epoch: result.restore_epoch,
                        }
                    }),
                    times: None,
                }),
                Err(error) => Err(Unknown::Transport(error.to_string()).into()),
            },
            Some(Forwarded::Refusal(refusal)) => Err(self.refusal(refusal).into()),
            Some(Forwarded::Unknown(reason)) => Err(Unknown::AtLeader(reason).into()),
            Some(Forwarded::DeadlinePassed(_)) => Err(Unknown::Deadline.into()),
            None => Err(Unknown::Transport("the answer is empty".to_owned()).into()),
        }
    }

    /// A peer's refusal, as this node's.
    fn refusal(&self, refusal: wire::Refusal) -> NotProposed {
        let overloaded =
            |limit| NotProposed::Overloaded { limit, message: refusal.message.clone() };
        match refusal.reason() {
            wire::RefusalReason::NotLeader | wire::RefusalReason::Unspecified => {
                let hint = (refusal.leader_id != 0).then(|| LeaderHint {
                    node_id: refusal.leader_id,
                    address: self.inner.others.client_address(refusal.leader_id),
                    term: refusal.leader_term,
                });
                NotProposed::NotLeader(hint)
            }
            wire::RefusalReason::NoQuorum => NotProposed::NoQuorum { waited_ms: 0 },
            wire::RefusalReason::ShuttingDown => NotProposed::ShuttingDown,
            wire::RefusalReason::Overloaded => overloaded(Limit::InFlight),
            wire::RefusalReason::OverloadedBytes => overloaded(Limit::InFlightBytes),
            wire::RefusalReason::Share => overloaded(Limit::Share),
            wire::RefusalReason::SessionBytes => overloaded(Limit::SessionBytes),
            wire::RefusalReason::SessionWindow => overloaded(Limit::SessionWindow),
            wire::RefusalReason::DiskNearlyFull => overloaded(Limit::Disk),
            wire::RefusalReason::StateDiffers => {
                NotProposed::StateDiffers { reason: refusal.message }
            }
            wire::RefusalReason::NoStateMajority => {
                NotProposed::NoStateMajority { reason: refusal.message }
            }
            wire::RefusalReason::Deadline => NotProposed::Deadline,
            wire::RefusalReason::UpgradeNotFinalized => {
                NotProposed::UpgradeNotFinalized(refusal.message)
            }
        }
    }
}

/// A refusal as it goes to the peer that forwarded.
pub(crate) fn refusal_to_wire(refusal: &NotProposed) -> wire::Refusal {
    // Without the reason, which the other side puts in front of it again.
    let message = match refusal {
        NotProposed::Overloaded { message, .. } => message.clone(),
        NotProposed::StateDiffers { reason } | NotProposed::NoStateMajority { reason } => {
            reason.clone()
        }
        _ => refusal.to_string(),
    };
    let mut answer = wire::Refusal { message, ..wire::Refusal::default() };
    let reason = match refusal {
        NotProposed::NotLeader(hint) => {
            if let Some(hint) = hint {
                answer.leader_id = hint.node_id;
                answer.leader_term = hint.term;
            }
            wire::RefusalReason::NotLeader
        }
        NotProposed::NoQuorum { .. } => wire::RefusalReason::NoQuorum,
        NotProposed::ShuttingDown => wire::RefusalReason::ShuttingDown,
        NotProposed::Overloaded { limit: Limit::InFlight, .. } => wire::RefusalReason::Overloaded,
        NotProposed::Overloaded { limit: Limit::InFlightBytes, .. } => {
            wire::RefusalReason::OverloadedBytes
        }
        NotProposed::Overloaded { limit: Limit::Share, .. } => wire::RefusalReason::Share,
        NotProposed::Overloaded { limit: Limit::SessionBytes, .. } => {
            wire::RefusalReason::SessionBytes
        }
        NotProposed::Overloaded { limit: Limit::SessionWindow, .. } => {
            wire::RefusalReason::SessionWindow
        }
        NotProposed::Overloaded { limit: Limit::Disk, .. } => wire::RefusalReason::DiskNearlyFull,
        NotProposed::StateDiffers { .. } => wire::RefusalReason::StateDiffers,
        NotProposed::NoStateMajority { .. } => wire::RefusalReason::NoStateMajority,
        NotProposed::Deadline => wire::RefusalReason::Deadline,
        NotProposed::UpgradeNotFinalized(_) => wire::RefusalReason::UpgradeNotFinalized,
    };
    answer.set_reason(reason);
    answer
}
