//! How nodes meet: each introduces itself to each, again and again, and both learn the other's
//! client address, cluster and incarnation.
//!
//! Two mistakes end a node here, before they can cost an acknowledged write: addresses that lead to
//! another cluster, and an empty directory under an id that a peer already met with another one (see
//! `identity`). A node with an empty directory takes no part in Raft until it was introduced: to a
//! majority of the first members, itself included, where it forms a cluster; to anybody, where it
//! joins one. What nodes know of each other travels with every introduction, so that a second peer
//! knows soon what the first was told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tally_proto::{peer::v1 as wire, seeded_bugs};
use tokio::{sync::Notify, time::Instant};

use super::{ask, peers::Peers};
use crate::identity::Identity;

/// How often a node introduces itself to each peer.
const INTERVAL: Duration = Duration::from_millis(1000);

/// … while it waits to be admitted.
const INTERVAL_WHILE_WAITING: Duration = Duration::from_millis(50);

/// How long one introduction may take.
const TIMEOUT: Duration = Duration::from_millis(1000);

/// Why a node must not run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotWelcome {
    /// Peers met another directory under this id.
    #[error(
        "node {node_id} has an empty or another data directory than the one that its peers met \
         ({known}, and this is {own}): what it had acknowledged and voted for is lost to it. \
         The way out: put the old directory back; or remove node {node_id} from the cluster \
         (Cluster.Remove) and add this one under a new id (Cluster.AddLearner, then Promote)"
    )]
    AnotherIncarnation {
        /// The node.
        node_id: u64,
        /// What peers know.
        known: String,
        /// What it is.
        own: String,
    },
    /// A peer is of another cluster.
    #[error(
        "the peer at {address} is of cluster {theirs}, and this data directory of cluster {own}. \
         Check the addresses; nothing was changed"
    )]
    AnotherCluster {
        /// The peer's address.
        address: String,
        /// Its cluster.
        theirs: String,
        /// This node's.
        own: String,
    },
    /// A peer's address leads to a node with another id.
    #[error(
        "the address {address} of node {expected} is answered by node {found}; check the addresses"
    )]
    AnotherNode {
        /// The peer's address.
        address: String,
        /// Who should be there.
        expected: u64,
        /// Who is.
        found: u64,
    },
}

/// Meets the peers.
#[derive(Debug)]
pub struct Greeter {
    identity: Arc<Identity>,
    peers: Peers,
    client_address: String,
    started_empty: bool,
    /// How many other nodes must know this one before it takes part.
    needed: usize,
    met: Mutex<BTreeSet<u64>>,
    admitted: AtomicBool,
    changed: Notify,
}

impl Greeter {
    /// A node with data is admitted at once; an empty one when `needed` others know it.
    pub fn new(
        identity: Arc<Identity>,
        peers: Peers,
        client_address: String,
        started_empty: bool,
        needed: usize,
    ) -> Arc<Greeter> {
        Arc::new(Greeter {
            identity,
            peers,
            client_address,
            started_empty,
            needed,
            met: Mutex::default(),
            admitted: AtomicBool::new(!started_empty || needed == 0),
            changed: Notify::new(),
        })
    }

    /// The node may take part in Raft.
    pub fn is_admitted(&self) -> bool {
        self.admitted.load(Ordering::Acquire)
    }

    /// Waits until it may.
    pub async fn admitted(&self) {
        loop {
            let changed = self.changed.notified();
            if self.is_admitted() {
                return;
            }
            changed.await;
        }
    }

    fn count(&self, node_id: u64) {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        met.insert(node_id);
        if met.len() >= self.needed && !self.admitted.swap(true, Ordering::AcqRel) {
            self.changed.notify_waiters();
        }
    }

    async fn known(&self) -> Vec<wire::KnownNode> {
        let mut known = self.identity.known().await;
        known.insert(self.identity.node_id(), self.identity.incarnation().to_owned());
        known
            .into_iter()
            .map(|(node_id, incarnation)| wire::KnownNode { node_id, incarnation })
            .collect()
    }

    /// Looks for this node in what a peer knows, and learns the rest.
    async fn learn(&self, known: &[wire::KnownNode]) -> Result<(), NotWelcome> {
        let own = self.identity.incarnation();
        for node in known {
            if node.node_id != self.identity.node_id() {
                if let Err(error) = self.identity.meet(node.node_id, &node.incarnation).await {
                    tracing::warn!(%error, "a peer's incarnation could not be stored");
                }
            } else if node.incarnation != own && !seeded_bugs::is_on("wiped-disk-votes") {
                return Err(NotWelcome::AnotherIncarnation {
                    node_id: node.node_id,
                    known: node.incarnation.clone(),
                    own: own.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Answers a peer's introduction.
    pub async fn answer(
        &self,
        request: wire::HelloRequest,
    ) -> Result<wire::HelloResponse, tonic::Status> {
        let own = self.peers.cluster_id_text();
        if !own.is_empty() && !request.cluster_id.is_empty() && own != request.cluster_id {
            tracing::warn!(
                node = request.node_id,
                cluster = request.cluster_id,
                "a node of another cluster introduced itself"
            );
            // It is told where it is, so that it can end; nothing is learned from it.
            return Ok(wire::HelloResponse {
                cluster_id: own,
                node_id: self.identity.node_id(),
                ..wire::HelloResponse::default()
            });
        }
        let known = self
            .identity
            .meet(request.node_id, &request.incarnation)
            .await
            .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        if known == request.incarnation || seeded_bugs::is_on("wiped-disk-votes") {
            self.peers.set_client_address(request.node_id, &request.client_address);
            // The caller may be what this node waited for: a leader that greets its learner.
            if self.learn(&request.known).await.is_ok() {
                self.count(request.node_id);
            }
        } else {
            tracing::warn!(
                node = request.node_id,
                "a node with another data directory than the one met before introduced itself"
            );
        }
        Ok(wire::HelloResponse {
            cluster_id: own,
            node_id: self.identity.node_id(),
            client_address: self.client_address.clone(),
            incarnation: self.identity.incarnation().to_owned(),
            known: self.known().await,
        })
    }

    /// Introduces this node to one peer.
    async fn greet(&self, node_id: u64, address: &str) -> Result<(), NotWelcome> {
        let own_cluster = self.peers.cluster_id_text();
        let request = wire::HelloRequest {
            cluster_id: own_cluster.clone(),
            node_id: self.identity.node_id(),
            client_address: self.client_address.clone(),
            incarnation: self.identity.incarnation().to_owned(),
            empty: self.started_empty,
            target_node_id: node_id,
            known: self.known().await,
        };
        let until = Instant::now() + TIMEOUT;
        let response = match ask::hello(&self.peers, node_id, address, request, until).await {
            Ok(response) => response,
            Err(error) => {
                tracing::trace!(peer = node_id, ?error, "a peer could not be greeted");
                return Ok(());
            }
        };
        if !own_cluster.is_empty()
            && !response.cluster_id.is_empty()
            && own_cluster != response.cluster_id
        {
            return Err(NotWelcome::AnotherCluster {
                address: address.to_owned(),
                theirs: response.cluster_id,
                own: own_cluster,
            });
        }
        if response.node_id != node_id {
            return Err(NotWelcome::AnotherNode {
                address: address.to_owned(),
                expected: node_id,
                found: response.node_id,
            });
        }
        self.learn(&response.known).await?;
        self.peers.set_client_address(node_id, &response.client_address);
        self.count(node_id);
        Ok(())
    }

    /// Greets whoever is a member, for as long as the node runs.
    pub async fn run(
        self: Arc<Self>,
        members: impl Fn() -> BTreeMap<u64, String> + Send,
        refuse: impl Fn(NotWelcome) + Send,
    ) {
        loop {
            for (node_id, address) in members() {
                if node_id == self.identity.node_id() {
                    continue;
                }
                if let Err(reason) = self.greet(node_id, &address).await {
                    refuse(reason);
                    return;
                }
            }
            let pause = if self.is_admitted() { INTERVAL } else { INTERVAL_WHILE_WAITING };
            tokio::time::sleep(pause).await;
        }
    }
}
