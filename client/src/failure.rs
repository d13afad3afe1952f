//! How one attempt at a call failed.

use tally_proto::{
    reason,
    status::{Details, StatusBuilder},
    v1,
};
use tonic::Code;

use crate::{cause::Stranger, exchange::local, outcome::Outcome};

/// How a failed attempt ended.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// It left this process.
    pub(crate) sent: bool,
    /// The error: a node's, or one that this side noticed.
    pub(crate) status: v1::CallStatus,
    /// Its details; empty if no node of ours made it.
    pub(crate) details: Details,
    /// A node of another cluster made it.
    of_another_cluster: bool,
    /// Nothing listens at the node's address.
    pub(crate) nobody_listens: bool,
    /// Whoever answers at the node's address has another API.
    pub(crate) is_stranger: bool,
}

impl Failure {
    pub(crate) fn new(sent: bool, status: v1::CallStatus) -> Self {
        let details = Details::parse_call(&status);
        Self {
            sent,
            status,
            details,
            of_another_cluster: false,
            nobody_listens: false,
            is_stranger: false,
        }
    }

    /// Who answers seems to be no node. It may stand before nodes, so nothing is known of what was sent; and it
    /// may be there for a moment (a balancer while its nodes start), unless it is a server of another API, or of TLS.
    pub(crate) fn of_stranger(sent: bool, stranger: &Stranger) -> Self {
        let status = local(Code::Unavailable, &stranger.message);
        Self { is_stranger: stranger.stays, ..Self::new(sent, status) }
    }

    pub(crate) fn refused(status: v1::CallStatus) -> Self {
        Self { nobody_listens: true, ..Self::new(false, status) }
    }

    /// A node of another cluster answered. What it did there, it did to another store: it may have
    /// executed the write, and has decided nothing about this cluster's numbers and keys.
    pub(crate) fn of_another_cluster(said: Option<Self>, message: String) -> Self {
        let executed = said.as_ref().is_none_or(|said| {
            said.reason() != reason::SESSION_EXPIRED && said.outcome() == Outcome::Unknown
        });
        let outcome = if executed { v1::Outcome::Unknown } else { v1::Outcome::NotApplied };
        let header = said.and_then(|said| said.details.header);
        let status = StatusBuilder::new(Code::FailedPrecondition, reason::ANOTHER_CLUSTER, message)
            .outcome(outcome)
            .detail(&v1::AnswerState { header })
            .build();
        Self { of_another_cluster: true, ..Self::new(true, status) }
    }

    /// The node is of another cluster, or the token is, as far as it can tell.
    pub(crate) fn names_another_cluster(&self) -> bool {
        self.of_another_cluster || self.reason() == reason::TOKEN_OF_ANOTHER_CLUSTER
    }

    pub(crate) fn reason(&self) -> &str {
        &self.details.reason
    }

    pub(crate) fn code(&self) -> Code {
        Code::from(self.status.code)
    }

    /// What became of this attempt alone.
    pub(crate) fn outcome(&self) -> Outcome {
        match self.details.outcome.as_ref().map(v1::WriteOutcome::outcome) {
            Some(v1::Outcome::NotApplied) => Outcome::NotApplied,
            Some(_) => Outcome::Unknown,
            None if self.sent => Outcome::Unknown,
            None => Outcome::NotApplied,
        }
    }

    /// Decided in apply, under the stamps that the write carried.
    pub(crate) fn is_decided(&self) -> bool {
        self.details.outcome.as_ref().is_some_and(|outcome| outcome.decided_in_apply)
    }

    /// What was to be read does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        self.code() == Code::NotFound
    }
}
