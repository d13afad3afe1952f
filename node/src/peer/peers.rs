//! The peers: their addresses, connections, and what they said of themselves.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tally_proto::{http2::PEER, peer::v1::peer_client::PeerClient, seeded_bugs};
use tonic::transport::{Channel, Endpoint, Uri};

use super::PEER_MESSAGE_BYTES_MAX;
use crate::env::Network;

/// No connection could be made. Kept apart from every other failure because it proves that nothing
/// was sent.
#[derive(Debug, thiserror::Error)]
#[error("can't connect: {0}")]
pub struct DialFailed(#[source] io::Error);

/// A client of one peer.
pub type Client = PeerClient<Channel>;

/// What this node knows of its peers. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    node_id: u64,
    network: Arc<dyn Network>,
    connect_timeout: Duration,
    /// Id of the cluster, once known; never changes then. As a number and as it is written.
    cluster_id: OnceLock<(u128, String)>,
    peers: Mutex<BTreeMap<u64, Peer>>,
}

#[derive(Default)]
struct Peer {
    control: Option<(String, Client)>,
    forwarding: Option<(String, Client)>,
    client_address: Option<String>,
}

impl Peer {
    fn shared(&mut self, connection: Shared) -> &mut Option<(String, Client)> {
        match connection {
            Shared::Control => &mut self.control,
            Shared::Forwarding => &mut self.forwarding,
        }
    }
}

/// The connections to a peer that all calls of a kind share, so that none begins with a handshake.
/// (Entries and snapshots have one for each stream: see `network`.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    /// Heartbeats, votes, questions: small, and late is as bad as lost.
    Control,
    /// Clients' writes, as large as they like and with deadlines as short: a heartbeat must neither
    /// wait behind them nor lose its connection when one of them is given up.
    Forwarding,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("node_id", &self.inner.node_id).finish_non_exhaustive()
    }
}

impl Peers {
    /// Nobody is known yet.
    pub fn new(node_id: u64, network: Arc<dyn Network>, connect_timeout: Duration) -> Self {
        Peers {
            inner: Arc::new(Inner {
                node_id,
                network,
                connect_timeout,
                cluster_id: OnceLock::new(),
                peers: Mutex::new(BTreeMap::new()),
            }),
        }
    }

    /// This node.
    pub fn node_id(&self) -> u64 {
        self.inner.node_id
    }

    /// The cluster's id as it goes on the wire; empty while it is not known.
    pub fn cluster_id_text(&self) -> String {
        self.inner.cluster_id.get().map_or_else(String::new, |(_, text)| text.clone())
    }

    /// The cluster's id, once known.
    pub fn cluster_id(&self) -> Option<u128> {
        self.inner.cluster_id.get().map(|(id, _)| *id)
    }

    /// Learns the cluster's id. It can't change.
    pub fn set_cluster_id(&self, id: u128) {
        let (known, _) = self.inner.cluster_id.get_or_init(|| (id, format_cluster_id(id)));
        assert_eq!(*known, id, "the cluster id changed");
    }

    /// Learns a peer's client address.
    pub fn set_client_address(&self, node_id: u64, address: &str) {
        let mut peers = lock(&self.inner.peers);
        let peer = peers.entry(node_id).or_default();
        if peer.client_address.as_deref() != Some(address) {
            peer.client_address = Some(address.to_owned());
        }
    }

    /// A peer's client address, if it has said it.
    pub fn client_address(&self, node_id: u64) -> Option<String> {
        lock(&self.inner.peers).get(&node_id)?.client_address.clone()
    }

    /// A shared client of a peer.
    pub fn client(&self, node_id: u64, address: &str, connection: Shared) -> Client {
        let mut peers = lock(&self.inner.peers);
        let shared = peers.entry(node_id).or_default().shared(connection);
        match shared {
            Some((known, client)) if known == address => client.clone(),
            _ => {
                let client = self.dial(address);
                *shared = Some((address.to_owned(), client.clone()));
                client
            }
        }
    }

    /// Forgets a shared connection of a peer after it failed to answer in time: a connection can be
    /// dead for minutes before TCP says so.
    pub fn drop_client(&self, node_id: u64, connection: Shared) {
        if seeded_bugs::is_on("leader-never-steps-down") {
            return;
        }
        if let Some(peer) = lock(&self.inner.peers).get_mut(&node_id) {
            *peer.shared(connection) = None;
        }
    }

    /// A client with a connection of its own, made when first used.
    pub fn dial(&self, address: &str) -> Client {
        let network = Arc::clone(&self.inner.network);
        let timeout = self.inner.connect_timeout;
        let target = address.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let network = Arc::clone(&network);
            let target = target.clone();
            async move {
                match tokio::time::timeout(timeout, network.connect(&target)).await {
                    Ok(Ok(connected)) => Ok(TokioIo::new(connected)),
                    Ok(Err(error)) => Err(DialFailed(error)),
                    Err(_) => Err(DialFailed(io::Error::from(io::ErrorKind::TimedOut))),
                }
            }
        });
        // The connector decides where to; the URI is only what HTTP/2 wants to be told.
        let mut endpoint = Endpoint::from_static("http://peer.tally");
        if !seeded_bugs::is_on("leader-never-steps-down") {
            endpoint = endpoint.http2_keep_alive_interval(PEER.keepalive_interval);
        }
        let channel = PEER.apply(endpoint).connect_with_connector_lazy(connector);
        PeerClient::new(channel)
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
    }
}

/// A cluster id as people and messages write it.
pub fn format_cluster_id(id: u128) -> String {
    format!("{id:032x}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing below can panic half-way through a change, so a poisoned lock still guards the truth.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
