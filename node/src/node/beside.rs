//! What a node does beside its parts, because it takes two of them: the cluster's id goes from the state
//! to the peers and the identity file, and a leader whose disk fills up hands over.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::LOGS;
use crate::{
    consensus::{Consensus, cluster_id::format_cluster_id},
    env::{
        Env,
        identity::{Identity, IdentityError},
    },
    machine::query,
};

/// Once the state knows the cluster's id, so do the peers' messages and the identity file.
pub(super) async fn follow_cluster_id(
    consensus: Consensus,
    identity: Arc<Identity>,
    mut applied: watch::Receiver<u64>,
    env: Env,
) {
    loop {
        let cluster_id = query::meta(&consensus.state().view()).cluster_id;
        if cluster_id != 0 {
            consensus.cluster_id().set(cluster_id);
            let text = format_cluster_id(cluster_id);
            match identity.learn_cluster(&text).await {
                Ok(()) => return,
                Err(error @ IdentityError::AnotherCluster { .. }) => {
                    (env.fatal)(error.to_string());
                    return;
                }
                Err(error) => {
                    tracing::warn!(target: LOGS, %error, "the cluster id could not be stored yet");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            }
        }
        // A node that has applied something and does not know its cluster gives answers without a token.
        if applied.changed().await.is_err() {
            return;
        }
    }
}

/// Lets a leader whose disk is nearly full hand over. Once for each time that it gets full: where
/// every disk is full, leadership must not go round for ever.
pub(super) async fn hand_over_when_full(
    consensus: Consensus,
    mut nearly_full: watch::Receiver<bool>,
) {
    while nearly_full.changed().await.is_ok() {
        let is_full = *nearly_full.borrow_and_update();
        if is_full && consensus.leadership().term_as_leader().is_some() {
            let handed = consensus.transfer_leader(None, Duration::from_secs(1)).await;
            tracing::info!(target: LOGS, ?handed, "a leader with a full disk hands over");
        }
    }
}
