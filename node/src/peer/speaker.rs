//! That a node speaks for itself: what a call says of its sender is what the certificate of its connection proves.
//!
//! Without TLS between nodes nothing is proven, and each is taken at its word.
//!
//! # Why one node's key can't speak for another
//! Claim: with TLS between nodes, no call is acted on that names another sender than the node whose key made its
//! connection. It relies on `tls`, which lets nobody onto a peer port whose certificate names no node of this
//! cluster, and on `port`, which puts that node into the extensions of each request of the connection. Each call
//! says who sends it in its stamp, checked before its method runs ([`Speaker::check_stamp`]); the methods that carry
//! a sender in their message check that too ([`Speaker::check`]): the introduction, and the ballots of a candidate
//! and of a leader, each of which only the node itself sends. A method that lacks a check fails
//! `another_nodes_certificate_speaks_for_nobody` in `tests/operate/tls_peers.rs`.
//!
//! Leaves out: what a node tells of others (`hello`: what it remembers of them), which any member may.

use http::Extensions;
use tonic::{Request, Status, metadata::MetadataMap};

use super::peers::stamped_from;
use crate::port::CallingNode;

/// The node that a call comes from, if that is proven.
#[derive(Debug, Clone, Copy)]
pub(super) struct Speaker(Option<u64>);

impl Speaker {
    pub(super) fn of<T>(request: &Request<T>) -> Speaker {
        Speaker::within(request.extensions())
    }

    fn within(extensions: &Extensions) -> Speaker {
        Speaker(extensions.get::<CallingNode>().map(|node| node.0))
    }

    /// Who sends a call: proven, or as its stamp says.
    pub(super) fn sender(self, metadata: &MetadataMap) -> Option<u64> {
        self.0.or_else(|| stamped_from(metadata).map(|(id, _)| id))
    }

    /// Refuses what somebody else is said to have sent.
    pub(super) fn check(self, claimed: Option<u64>) -> Result<(), Status> {
        let Some(proven) = self.0 else { return Ok(()) };
        if claimed == Some(proven) {
            return Ok(());
        }
        let claimed = claimed.map_or_else(|| "nobody".to_owned(), |id| format!("node {id}"));
        tracing::error!(
            proven,
            claimed,
            "a call is refused: it says that it comes from another node than its certificate"
        );
        Err(Status::permission_denied(format!(
            "the certificate is that of node {proven}, and the call says that it comes from {claimed}"
        )))
    }

    /// The same of a call's stamp.
    pub(super) fn check_stamp(self, metadata: &MetadataMap) -> Result<(), Status> {
        match self.0 {
            None => Ok(()),
            Some(_) => self.check(stamped_from(metadata).map(|(id, _)| id)),
        }
    }
}
