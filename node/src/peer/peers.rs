//! The peers: their addresses, connections, and what they said of themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tally_proto::{http2::PEER, peer::v1::peer_client::PeerClient, seeded_bugs};
use tokio::{sync::watch, time::Instant};
use tonic::{
    metadata::{AsciiMetadataValue, MetadataMap},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint, Uri},
};

use super::PEER_MESSAGE_BYTES_MAX;
use crate::{
    consensus::cluster_id::ClusterId, env::Network, machine::version::FormatRange, tls::Secured,
};

/// So long without an answer is a silence: the least time after which TCP sends again on Linux, so below it no
/// connection has begun to back off. A busy peer that misses one heartbeat and answers the next has not
/// been silent.
const SILENCE: Duration = Duration::from_millis(200);

/// A peer that answers no introduction for so long is told of in the log. A restart takes less.
const UNREACHABLE_TOLD_AFTER: Duration = Duration::from_secs(2);

/// As many lines of one snapshot: it is sent, and reasons why it is not taken.
const SNAPSHOT_NEWS_MAX: usize = 8;

/// No connection could be made. Kept apart from every other failure because it proves that nothing
/// was sent.
#[derive(Debug, thiserror::Error)]
#[error("can't connect: {0}")]
pub struct DialFailed(#[source] io::Error);

/// A client of one peer.
pub type Client = PeerClient<InterceptedService<Channel, Stamp>>;

/// Who calls: node id and incarnation.
const FROM: &str = "tally-from";

/// The incarnation that a call is meant for.
const TO: &str = "tally-to";

/// The incarnation of a node by the state's records ([`crate::machine::given_ids`]), if it has one there.
pub type Recorded = Arc<dyn Fn(u64) -> Option<String> + Send + Sync>;

/// Which data directory each node has.
#[derive(Default)]
struct Incarnations {
    /// Of those that were met.
    met: Mutex<BTreeMap<u64, String>>,
    /// Of those that were given their id by the log. A node that was added is a member before each of the others has met
    /// it. If another directory comes to its address in between, under its id and of no cluster yet, it would take the
    /// log from whoever has not met the first one, and be counted as it: a member that forgot what it acknowledged and
    /// voted for. (Simulator: seed 1796043595142024.)
    recorded: OnceLock<Recorded>,
}

impl Incarnations {
    fn of(&self, node_id: u64) -> Option<String> {
        let met = lock(&self.met).get(&node_id).cloned();
        if seeded_bugs::is_on("record-of-a-directory-unread") {
            return met;
        }
        // Looked for without the lock: the state has one of its own.
        met.or_else(|| self.recorded.get().and_then(|recorded| recorded(node_id)))
    }
}

impl fmt::Debug for Incarnations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incarnations").field("met", &self.met).finish_non_exhaustive()
    }
}

/// Puts on every call who makes it and which data directory it is meant for.
///
/// An id and an address are not enough to know a peer by: a node of another cluster that has no
/// cluster id yet may have both. Its incarnation it can't have, so it refuses what is meant for the
/// node that was there before, at its door ([`Peers::check_stamp`]).
#[derive(Debug, Clone)]
pub struct Stamp {
    from: Option<AsciiMetadataValue>,
    target: u64,
    incarnations: Arc<Incarnations>,
}

impl Interceptor for Stamp {
    fn call(
        &mut self,
        mut request: tonic::Request<()>,
    ) -> Result<tonic::Request<()>, tonic::Status> {
        let metadata = request.metadata_mut();
        if let Some(from) = &self.from {
            metadata.insert(FROM, from.clone());
        }
        if let Some(to) = self.incarnations.of(self.target).and_then(|to| to.parse().ok()) {
            metadata.insert(TO, to);
        }
        Ok(request)
    }
}

/// What this node knows of its peers. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    node_id: u64,
    incarnation: String,
    /// Of the peers that are known.
    incarnations: Arc<Incarnations>,
    /// Members of before a recovery of this node.
    lost: Mutex<BTreeSet<u64>>,
    network: Arc<dyn Network>,
    connect_timeout: Duration,
    cluster_id: ClusterId,
    tls: Option<Arc<Secured>>,
    formats: FormatRange,
    /// Other ways to some of them.
    via: BTreeMap<u64, String>,
    peers: Mutex<BTreeMap<u64, Peer>>,
}

#[derive(Default)]
struct Peer {
    /// Where it is by the newest membership that is known here.
    address: Option<String>,
    control: Option<(String, Client)>,
    forwarding: Option<(String, Client)>,
    client_address: Option<String>,
    /// Versions of the formats that it reads, and when it last said so.
    formats: Option<(FormatRange, Instant)>,
    /// Since when no heartbeat was answered.
    silent_since: Option<Instant>,
    /// Counts how often it came back after a silence.
    came_back: Option<watch::Sender<u64>>,
    /// Why it can't be reached though somebody answers, if so.
    trouble: Option<String>,
    /// What was last warned of.
    warned: String,
    /// Since when it answers no introduction, and why.
    unmet: Option<Unmet>,
    /// The snapshot that it is being sent: its index, and what was told of it.
    snapshot: Option<(u64, Vec<String>)>,
}

/// A peer that answers no introduction.
struct Unmet {
    since: Instant,
    reason: String,
    /// The log has a line of it, so it will have one when the peer is back.
    told: bool,
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

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("node_id", &self.inner.node_id).finish_non_exhaustive()
    }
}

impl Peers {
    /// Nobody is known yet.
    pub fn new(
        node_id: u64,
        incarnation: &str,
        network: Arc<dyn Network>,
        connect_timeout: Duration,
        cluster_id: ClusterId,
        tls: Option<Arc<Secured>>,
        (formats, via): (FormatRange, BTreeMap<u64, String>),
    ) -> Self {
        Peers {
            inner: Arc::new(Inner {
                node_id,
                incarnation: incarnation.to_owned(),
                incarnations: Arc::default(),
                lost: Mutex::default(),
                network,
                connect_timeout,
                cluster_id,
                tls,
                formats,
                via,
                peers: Mutex::new(BTreeMap::new()),
            }),
        }
    }

    /// This node.
    pub fn node_id(&self) -> u64 {
        self.inner.node_id
    }

    /// Which cluster this is.
    pub fn cluster_id(&self) -> &ClusterId {
        &self.inner.cluster_id
    }

    /// How long it may take to connect, and so how long a silent connection is believed in.
    pub fn connect_timeout(&self) -> Duration {
        self.inner.connect_timeout
    }

    /// Where to look for the incarnations of those that were not met.
    pub fn set_recorded(&self, recorded: Recorded) {
        let is_first = self.inner.incarnations.recorded.set(recorded).is_ok();
        assert!(is_first, "a node has one state");
    }

    /// The incarnation of a node, if it was met, or by the state's records.
    pub fn incarnation_of(&self, node_id: u64) -> Option<String> {
        self.inner.incarnations.of(node_id)
    }

    /// Learns the incarnation of a peer.
    pub fn set_incarnation(&self, node_id: u64, incarnation: &str) {
        let mut incarnations = lock(&self.inner.incarnations.met);
        if incarnations.get(&node_id).is_none_or(|known| known != incarnation) {
            incarnations.insert(node_id, incarnation.to_owned());
        }
    }

    /// Whether a call is meant for this node's data directory, and comes from one that is known or not
    /// known yet. A call without a stamp comes from somebody who knows nobody yet.
    pub fn check_stamp(&self, metadata: &MetadataMap) -> Result<(), String> {
        let text = |key| metadata.get(key).and_then(|value| value.to_str().ok());
        if seeded_bugs::is_on("wiped-disk-votes") {
            return Ok(());
        }
        if text(TO).is_some_and(|to| to != self.inner.incarnation) {
            return Err("this is not the data directory that the call is meant for".to_owned());
        }
        let Some((id, incarnation)) = stamped_from(metadata) else { return Ok(()) };
        if self.is_lost(id) {
            return Err(format!(
                "node {id} is of an epoch before this node went on without it (`tallyd recover`)"
            ));
        }
        match self.inner.incarnations.of(id) {
            Some(known) if known != incarnation => {
                Err(format!("node {id} is known with another data directory"))
            }
            _ => Ok(()),
        }
    }

    /// These nodes were left behind by a recovery: their calls are refused.
    pub fn set_lost(&self, lost: BTreeSet<u64>) {
        *lock(&self.inner.lost) = lost;
    }

    /// Whether a recovery left a node behind.
    pub fn is_lost(&self, node_id: u64) -> bool {
        lock(&self.inner.lost).contains(&node_id)
    }

    /// Why a peer can't be reached though somebody answers at its address.
    pub fn trouble(&self, node_id: u64) -> Option<String> {
        lock(&self.inner.peers).get(&node_id)?.trouble.clone()
    }

    /// Somebody else answers at a peer's address. Its shared connections are given up, as the next ones
    /// may lead elsewhere.
    pub fn set_trouble(&self, node_id: u64, trouble: &str) {
        self.warn_of(node_id, trouble);
        let mut peers = lock(&self.inner.peers);
        let peer = peers.entry(node_id).or_default();
        peer.trouble = Some(trouble.to_owned());
        (peer.control, peer.forwarding) = (None, None);
    }

    /// Nobody else answers at the peer's address any more.
    pub fn clear_trouble(&self, node_id: u64) {
        let mut peers = lock(&self.inner.peers);
        let Some(peer) = peers.get_mut(&node_id) else { return };
        if peer.trouble.take().is_some() {
            peer.warned.clear();
            drop(peers);
            tracing::info!(node = node_id, "nobody else answers at the node's address any more");
        }
    }

    /// Warns of something about a peer, once for as long as it is the same.
    pub fn warn_of(&self, node_id: u64, what: &str) {
        let mut peers = lock(&self.inner.peers);
        let peer = peers.entry(node_id).or_default();
        if peer.warned == what {
            return;
        }
        what.clone_into(&mut peer.warned);
        drop(peers);
        tracing::warn!(node = node_id, "{what}");
    }

    /// A peer did not answer an introduction. The log says so once, when that has lasted.
    pub fn not_met(&self, node_id: u64, address: &str, reason: &str) {
        let mut peers = lock(&self.inner.peers);
        let unmet = peers.entry(node_id).or_default().unmet.get_or_insert_with(|| Unmet {
            since: Instant::now(),
            reason: String::new(),
            told: false,
        });
        if unmet.reason != reason {
            reason.clone_into(&mut unmet.reason);
        }
        let tell = !unmet.told && unmet.since.elapsed() >= UNREACHABLE_TOLD_AFTER;
        unmet.told |= tell;
        // Heartbeats take the lock, too, and who reads the log may be slow.
        drop(peers);
        if tell {
            tracing::warn!(node = node_id, address, reason, "a node can't be reached");
        }
    }

    /// A peer answered an introduction.
    pub fn met(&self, node_id: u64) {
        let mut peers = lock(&self.inner.peers);
        let Some(unmet) = peers.get_mut(&node_id).and_then(|peer| peer.unmet.take()) else {
            return;
        };
        drop(peers);
        if unmet.told {
            let silent_ms = unmet.since.elapsed().as_millis() as u64;
            tracing::info!(node = node_id, silent_ms, "a node is reached again");
        }
    }

    /// Whether it was not told yet of a snapshot for a peer that it is not taken for this reason; without a
    /// reason, that it is sent.
    pub fn is_news_of_snapshot(&self, node_id: u64, index: u64, reason: &str) -> bool {
        let mut peers = lock(&self.inner.peers);
        let (of, told) =
            peers.entry(node_id).or_default().snapshot.get_or_insert_with(|| (index, Vec::new()));
        if *of != index {
            (*of, *told) = (index, Vec::new());
        }
        let is_news = told.len() < SNAPSHOT_NEWS_MAX && !told.iter().any(|known| known == reason);
        if is_news {
            told.push(reason.to_owned());
        }
        is_news
    }

    /// The snapshot has arrived: the next one is news.
    pub fn forget_snapshot(&self, node_id: u64) {
        if let Some(peer) = lock(&self.inner.peers).get_mut(&node_id) {
            peer.snapshot = None;
        }
    }

    /// Why a peer answers no introduction, if it does not.
    pub fn unmet_reason(&self, node_id: u64) -> Option<String> {
        Some(lock(&self.inner.peers).get(&node_id)?.unmet.as_ref()?.reason.clone())
    }

    /// Where a peer is by the newest membership. A connection that was made for it keeps the address that it had then.
    pub fn set_address(&self, node_id: u64, address: &str) {
        let mut peers = lock(&self.inner.peers);
        let peer = peers.entry(node_id).or_default();
        if peer.address.as_deref() != Some(address) {
            peer.address = Some(address.to_owned());
        }
    }

    /// Where a peer is by the newest membership, if that is not here.
    pub fn moved_from(&self, node_id: u64, here: &str) -> Option<String> {
        let peers = lock(&self.inner.peers);
        let known = peers.get(&node_id)?.address.as_deref();
        known.filter(|known| *known != here).map(str::to_owned)
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

    /// Versions of the formats that this node reads.
    pub fn own_formats(&self) -> FormatRange {
        self.inner.formats
    }

    /// A peer has said which versions of the formats it reads.
    pub fn heard_formats(&self, node_id: u64, formats: FormatRange) {
        lock(&self.inner.peers).entry(node_id).or_default().formats =
            Some((formats, Instant::now()));
    }

    /// What a peer has said of that, and how long ago it last did.
    pub fn formats(&self, node_id: u64) -> Option<(FormatRange, Duration)> {
        let (formats, at) = lock(&self.inner.peers).get(&node_id)?.formats?;
        Some((formats, at.elapsed()))
    }

    /// A heartbeat, or another call of Raft on the control connection, was not answered.
    pub fn not_answered(&self, node_id: u64) {
        let mut peers = lock(&self.inner.peers);
        peers.entry(node_id).or_default().silent_since.get_or_insert_with(Instant::now);
    }

    /// … was answered. After a silence the peer has come back: see [`Peers::comings_back`].
    pub fn answered(&self, node_id: u64) {
        let mut peers = lock(&self.inner.peers);
        let Some(peer) = peers.get_mut(&node_id) else { return };
        if peer.silent_since.take().is_some_and(|since| since.elapsed() >= SILENCE)
            && let Some(came_back) = &peer.came_back
        {
            came_back.send_modify(|count| *count += 1);
        }
    }

    /// Changes when a peer has come back after a silence. A connection from before it may still wait for
    /// TCP's next retransmission, which is up to twice the silence away, while new ones come through.
    pub fn comings_back(&self, node_id: u64) -> watch::Receiver<u64> {
        let mut peers = lock(&self.inner.peers);
        let peer = peers.entry(node_id).or_default();
        peer.came_back.get_or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// A shared client of a peer.
    pub fn client(&self, node_id: u64, address: &str, connection: Shared) -> Client {
        let mut peers = lock(&self.inner.peers);
        let shared = peers.entry(node_id).or_default().shared(connection);
        match shared {
            Some((known, client)) if known == address => client.clone(),
            _ => {
                let client = self.dial(node_id, address);
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
    pub fn dial(&self, node_id: u64, address: &str) -> Client {
        self.dial_as(node_id, node_id, address)
    }

    /// The same of a node that has not been met: what is called is meant for no known directory. With TLS it has to
    /// be the one with this id all the same.
    pub fn dial_unmet(&self, node_id: u64, address: &str) -> Client {
        // Nobody has the id 0.
        self.dial_as(0, node_id, address)
    }

    /// Only here an address is used to go there. All else compares and hands on the address of the membership, which
    /// the way to it says nothing of; who answers there has to be that node all the same ([`Stamp`], TLS).
    fn way_to<'a>(&'a self, node_id: u64, address: &'a str) -> &'a str {
        self.inner.via.get(&node_id).map_or(address, String::as_str)
    }

    fn dial_as(&self, target: u64, node_id: u64, address: &str) -> Client {
        let tls = self.inner.tls.clone();
        let network = Arc::clone(&self.inner.network);
        let timeout = self.inner.connect_timeout;
        let address = self.way_to(node_id, address).to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let (network, tls) = (Arc::clone(&network), tls.clone());
            let address = address.clone();
            async move {
                let connecting = async {
                    let connection = network.connect(&address).await?;
                    match &tls {
                        None => Ok(connection),
                        Some(tls) => tls.connect(connection, node_id).await,
                    }
                };
                match tokio::time::timeout(timeout, connecting).await {
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
        let stamp = Stamp {
            from: format!("{}:{}", self.inner.node_id, self.inner.incarnation).parse().ok(),
            target,
            incarnations: Arc::clone(&self.inner.incarnations),
        };
        PeerClient::with_interceptor(channel, stamp)
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
    }
}

/// Who a call says it comes from: node id and incarnation.
pub(super) fn stamped_from(metadata: &MetadataMap) -> Option<(u64, &str)> {
    let (id, incarnation) = metadata.get(FROM)?.to_str().ok()?.split_once(':')?;
    Some((id.parse().ok()?, incarnation))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing below can panic half-way through a change, so a poisoned lock still guards the truth.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{Connection, Listener};

    struct NoNetwork;

    #[async_trait::async_trait]
    impl Network for NoNetwork {
        async fn listen(&self, _: &str) -> io::Result<Box<dyn Listener>> {
            Err(io::ErrorKind::Unsupported.into())
        }

        async fn connect(&self, _: &str) -> io::Result<Connection> {
            Err(io::ErrorKind::ConnectionRefused.into())
        }
    }

    fn peers() -> Peers {
        Peers::new(
            1,
            "own",
            Arc::new(NoNetwork),
            Duration::from_secs(1),
            ClusterId::default(),
            None,
            (FormatRange::OURS, BTreeMap::from([(3, "proxy:1".to_owned())])),
        )
    }

    /// Missed heartbeats alone must not end streams: a busy peer misses one now and then, and a slow disk
    /// none.
    #[tokio::test(start_paused = true)]
    async fn a_peer_comes_back_after_a_silence_and_not_after_one_missed_heartbeat() {
        let peers = peers();
        let comings_back = peers.comings_back(2);
        let mut count = comings_back.clone();
        peers.answered(2);
        peers.not_answered(2);
        tokio::time::sleep(SILENCE / 2).await;
        peers.not_answered(2);
        peers.answered(2);
        assert!(!count.has_changed().unwrap(), "it was late once");
        for _ in 0..3 {
            peers.not_answered(2);
            tokio::time::sleep(SILENCE / 2).await;
        }
        assert!(!count.has_changed().unwrap(), "it is still silent");
        peers.answered(2);
        assert!(count.has_changed().unwrap());
        count.borrow_and_update();
        peers.answered(2);
        assert!(!count.has_changed().unwrap(), "once for each silence");
    }

    #[test]
    fn only_the_node_that_it_names_is_reached_by_another_way() {
        let peers = peers();
        assert_eq!((peers.way_to(2, "b:1"), peers.way_to(3, "c:1")), ("b:1", "proxy:1"));
        peers.set_address(3, "c:1");
        assert_eq!(peers.moved_from(3, "c:1"), None, "it has not moved");
    }

    #[test]
    fn each_thing_about_a_snapshot_is_news_once() {
        let peers = peers();
        let mut news = vec![];
        for (index, reason) in [
            (7, ""),
            (7, "refused"),
            (7, ""),
            (7, "refused"),
            (7, "too long"),
            (9, ""),
            (9, "refused"),
        ] {
            news.push(peers.is_news_of_snapshot(2, index, reason));
        }
        assert_eq!(news, [true, true, false, false, true, true, true]);
        let told = (0..100).filter(|n| peers.is_news_of_snapshot(2, 9, &format!("reason {n}")));
        assert_eq!(
            told.count(),
            SNAPSHOT_NEWS_MAX - 2,
            "reasons that differ each time are no way around"
        );
        peers.forget_snapshot(2);
        assert!(peers.is_news_of_snapshot(2, 9, ""));
    }

    #[test]
    fn a_call_for_another_directory_or_from_one_is_told() {
        let peers = peers();
        peers.set_incarnation(2, "two");
        let stamped = |from: &str, to: Option<&str>| {
            let mut metadata = MetadataMap::new();
            metadata.insert(FROM, from.parse().unwrap());
            if let Some(to) = to {
                metadata.insert(TO, to.parse().unwrap());
            }
            peers.check_stamp(&metadata).is_ok()
        };
        assert!(stamped("2:two", Some("own")));
        assert!(stamped("2:two", None), "who does not know this node yet says nothing of it");
        assert!(stamped("3:anything", Some("own")), "somebody new");
        assert!(!stamped("2:other", Some("own")), "not the node 2 that was met");
        assert!(!stamped("2:two", Some("other")), "not meant for this directory");
        assert!(peers.check_stamp(&MetadataMap::new()).is_ok());
    }

    /// A node that was added is a member before the others have met it.
    #[test]
    fn the_directory_of_who_was_not_met_is_looked_for_in_the_records() {
        let peers = peers();
        peers.set_recorded(Arc::new(|id| (id == 4).then(|| "four".to_owned())));
        let comes = |from: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert(FROM, from.parse().unwrap());
            peers.check_stamp(&metadata).is_ok()
        };
        assert!(comes("4:four") && comes("5:anything"));
        assert!(!comes("4:other"), "its id was given to another directory");
        let meant_for = |target: u64| {
            let incarnations = Arc::clone(&peers.inner.incarnations);
            let stamp = Stamp { from: None, target, incarnations }.call(tonic::Request::new(()));
            let stamped = stamp.unwrap();
            stamped.metadata().get(TO).map(|to| to.to_str().unwrap().to_owned())
        };
        assert_eq!(meant_for(4).as_deref(), Some("four"));
        assert_eq!(meant_for(5), None);
        peers.set_incarnation(5, "five");
        assert_eq!(meant_for(5).as_deref(), Some("five"), "who was met is known");
    }
}
