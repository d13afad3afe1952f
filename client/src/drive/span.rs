//! What `tracing` is told of a call: one span, from its first poll to its end.
//!
//! It is named `tally.call`, at the level DEBUG, with the target `tally_client::call`. Its fields are the
//! operation, the node that was asked last, the attempts and the outcome: nothing that a user has stored or
//! named. Failed attempts are events inside it.
//!
//! Where nobody looks at it, a call pays the load of one atomic, and carries one empty pointer.

use std::sync::Arc;

use tracing::{Span, field::Empty};

use crate::{
    error::{Outcome, Result},
    node::Node,
    wire::{self, Request},
};

/// The span of a call that somebody looks at, and what is said of it in the end: by whoever drops it.
pub(super) struct CallSpan {
    span: Span,
    node: Option<Arc<Node>>,
    attempts: u32,
    outcome: &'static str,
}

impl CallSpan {
    /// The span of this call, if somebody looks at it.
    pub(super) fn open(request: &Request) -> Option<Box<Self>> {
        let span = tracing::debug_span!(
            target: "tally_client::call",
            "tally.call",
            operation = wire::name(request),
            node = Empty,
            attempts = Empty,
            outcome = Empty,
        );
        if span.is_disabled() {
            return None;
        }
        Some(Box::new(Self { span, node: None, attempts: 0, outcome: "dropped" }))
    }

    /// To be in it.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// It is sent, once more.
    pub(super) fn attempt(&mut self, node: &Arc<Node>) {
        self.node = Some(node.clone());
        self.attempts += 1;
    }

    /// It has ended.
    pub(super) fn end<T>(&mut self, ended: &Result<T>) {
        self.outcome = match ended.as_ref().map_err(|error| error.outcome()) {
            Ok(_) => "ok",
            Err(Some(Outcome::NotApplied)) => "NOT_APPLIED",
            Err(Some(Outcome::Unknown)) => "UNKNOWN",
            Err(None) => "failed",
        };
    }
}

impl Drop for CallSpan {
    fn drop(&mut self) {
        if let Some(node) = &self.node {
            self.span.record("node", &*node.address);
        }
        self.span.record("attempts", self.attempts);
        self.span.record("outcome", self.outcome);
    }
}
