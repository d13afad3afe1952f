//! A node that runs: what it is asked, and how it ends.
//!
//! Leaves out: what it is made of; that is `node`.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{LOGS, Node};
use crate::{
    api::Api,
    consensus::Consensus,
    metrics::Metrics,
    peer::{hello::NotWelcome, peers::Peers},
};

/// How long a shutdown waits for the audit log, which is longer than a disk takes that works.
const AUDIT_LOG_GRACE: Duration = Duration::from_secs(5);

/// How long a shutdown waits for peers to close their connections, which they seldom do.
const PEER_PORT_GRACE: Duration = Duration::from_millis(20);

impl Node {
    /// Address that the client port listens on.
    pub fn client_address(&self) -> &str {
        &self.client_address
    }

    /// Address that the peer port listens on.
    pub fn peer_address(&self) -> &str {
        &self.peer_address
    }

    /// Address that the metrics port listens on, if there is one.
    pub fn metrics_address(&self) -> Option<&str> {
        self.eyes.address()
    }

    /// Address that the console listens on, if there is one.
    pub fn console_address(&self) -> Option<&str> {
        self.console_address.as_deref()
    }

    /// What it counts.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Consensus, for tests and simulations that look inside.
    pub fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// What is known of the other nodes, for tests and simulations that look inside.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// The operations, for callers in the same process.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Connections to the client port.
    pub fn client_connections(&self) -> usize {
        self.slots.used()
    }

    /// Bytes of clients' requests, and of answers to them, that are held now and are not small.
    pub fn held_bytes(&self) -> (usize, usize) {
        self.room.held_bytes()
    }

    /// Waits until peers refuse this node; never returns otherwise.
    pub async fn refused(&mut self) -> NotWelcome {
        match self.refused.recv().await {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// Stops in good order: new writes are refused, leadership goes to somebody else if possible,
    /// what is under way ends, the state is flushed.
    pub async fn shutdown(self) {
        let until = Instant::now() + self.shutdown_grace;
        self.consensus.refuse_writes();
        if self.consensus.leadership().term_as_leader().is_some() {
            let patience = until.saturating_duration_since(Instant::now()) / 2;
            match self.consensus.transfer_leader(None, patience).await {
                Ok(leader) => tracing::info!(target: LOGS, leader, "handed leadership over"),
                Err(error) => {
                    tracing::info!(target: LOGS, %error, "leadership was not handed over");
                }
            }
        }
        self.consensus.drain(until).await;
        tracing::debug!(target: LOGS, "no write is under way");
        let _ = self.stop.send(true);
        let mut client_server = self.client_server;
        if tokio::time::timeout_at(until, &mut client_server).await.is_err() {
            tracing::info!(target: LOGS, "calls that are under way are given up");
            client_server.abort();
        }
        tracing::debug!(target: LOGS, "the client port is closed");
        for task in &self.tasks {
            task.abort();
        }
        if self.consensus.raft().shutdown().await.is_err() {
            tracing::warn!(target: LOGS, "consensus did not end by itself");
        }
        // Only now: reads that are under way may wait for what the new leader sends. And not for
        // long, as peers keep their streams open for ever.
        let _ = self.stop_peers.send(true);
        let mut peer_server = self.peer_server;
        if tokio::time::timeout(PEER_PORT_GRACE, &mut peer_server).await.is_err() {
            peer_server.abort();
        }
        if let Some(audit) = &self.audit {
            // It has time of its own: what it holds was promised to be recorded.
            audit.close(Instant::now() + AUDIT_LOG_GRACE).await;
        }
        if let Err(error) = self.state.close().await {
            tracing::warn!(target: LOGS, %error, "the state was not flushed; the log has what is missing");
        }
        self.eyes.close().await;
    }
}
