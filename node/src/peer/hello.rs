//! How nodes meet: each introduces itself to each, again and again, and both learn the other's
//! client address, cluster and incarnation, and what it has promised.
//!
//! # What ends a node
//! Only what proves that it must not run, said by a node that it knows ([`NotWelcome`]): that it comes
//! with an empty, another or an older directory under a known id (see `identity`), or that it was
//! removed. Whatever else another machine says ends nobody. An address that leads to another cluster or
//! another node is a mistake of whoever wrote it, or a machine that got a used address: the peer that
//! should be there is unreachable, warned of once, and shown in the status ([`Peers::trouble`]). Nothing
//! is learned from strangers, so that they can't make a node remember wrong directories either.
//!
//! # Before a node takes part in Raft
//! - One with data has greeted every member once: who was removed, or has forgotten something that a
//!   peer remembers, learns it before it votes or serves. A peer that does not answer at once is not
//!   waited for, as nobody knows whether it ever comes.
//! - One that joins a cluster has been introduced to one of its nodes.
//! - One that is to form a cluster has seen every first member. With a majority of them, two nodes of
//!   three that were wiped would form a new cluster beside the old one and serve an empty store to its
//!   clients. (`form_without_all` says that this is wanted.) One that meets a cluster which exists joins
//!   that.
//!
//! # What nodes remember of each other
//! The incarnation and the last start durably, and in memory the highest term and the furthest entry
//! that a node said it holds, or that a leader has seen it acknowledge. It travels with every
//! introduction, so that a second peer knows soon what the first was told. A node that comes back with
//! less is an older copy of itself.

mod epoch;
mod error;
mod formats;
mod memory;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tally_proto::{peer::v1 as wire, seeded_bugs};
use tokio::{sync::Notify, time::Instant};

pub use self::{
    epoch::{Asker, There, is_there},
    error::{NotAddable, NotWelcome},
};
use super::{ask, peers::Peers};
use crate::{
    consensus::compare::Comparisons,
    env::identity::Identity,
    machine::version::{FormatRange, FormatVersion},
    storage::wal::Wal,
};

/// Logs of its parts have its name too: one filter finds them all, and traces of a seed can be compared
/// wherever a line is written.
const LOGS: &str = module_path!();

/// How often a node introduces itself to each peer.
const INTERVAL: Duration = Duration::from_millis(1000);

/// … while it waits to be admitted.
const INTERVAL_WHILE_WAITING: Duration = Duration::from_millis(50);

/// How long one introduction may take.
const TIMEOUT: Duration = Duration::from_millis(1000);

/// A node that waits says for whom after this, as nodes that start together meet sooner …
const WAITING_TOLD_AFTER: Duration = Duration::from_secs(1);

/// … and then this often.
const WAITING_TOLD_EVERY: Duration = Duration::from_secs(5);

/// Who the members are, as the node that greets knows.
pub trait Roster: Send + Sync + 'static {
    /// Addresses of the peer ports of all members, committed or not; of the first members before there
    /// is a membership. Empty on a node that waits to be added.
    fn members(&self) -> BTreeMap<u64, String>;

    /// The membership that is applied here: its log index, and who belongs to it.
    fn applied(&self) -> Option<(u64, BTreeSet<u64>)>;

    /// Restore epoch of the state that is applied here.
    fn epoch(&self) -> u64;

    /// Whether an id is that of a node that was taken out, or is about to be, by that state.
    fn is_retired(&self, node_id: u64) -> bool;

    /// The last membership, of those that were applied since the process started, that this node was in: its log index.
    fn last_in(&self) -> Option<u64>;

    /// The last committed entry that a node has acknowledged, if this node leads and knows.
    fn acknowledged(&self, node_id: u64) -> u64;

    /// The version of the formats that the cluster has, as far as this node has applied; none before it knows a cluster.
    fn cluster_version(&self) -> Option<FormatVersion>;
}

/// Who answers at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub node_id: u64,
    /// Its data directory.
    pub incarnation: String,
    /// Versions of the formats that it reads.
    pub formats: FormatRange,
}

/// When an empty node takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It has data.
    WithData,
    /// It forms a cluster with these, of whom so many others must be there.
    Forms {
        /// The others.
        others: BTreeSet<u64>,
        /// How many of them.
        needed: usize,
    },
    /// It waits to be added to a cluster.
    Joins,
}

/// What a [`Greeter`] stands on.
pub struct Foundation {
    /// Whose directory this is.
    pub identity: Arc<Identity>,
    /// The peers.
    pub peers: Peers,
    /// The log, which says what the node has promised.
    pub log: Wal,
    /// Address of the client port.
    pub client_address: String,
    /// Address of the peer port as it was set on purpose, or nothing.
    pub peer_address: String,
    /// When the node takes part.
    pub admission: Admission,
    /// Hashes of states, which are told with every introduction.
    pub comparisons: Comparisons,
}

impl std::fmt::Debug for Foundation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Foundation")
    }
}

/// Meets the peers.
pub struct Greeter {
    identity: Arc<Identity>,
    peers: Peers,
    log: Wal,
    client_address: String,
    peer_address: String,
    admission: Admission,
    comparisons: Comparisons,
    roster: OnceLock<Arc<dyn Roster>>,
    /// First members that answered, and were no strangers.
    met: Mutex<BTreeSet<u64>>,
    /// A node of a cluster that exists has been met.
    cluster_met: AtomicBool,
    /// The highest that each node has said it has promised: term of its vote, entry that it holds.
    told: Mutex<BTreeMap<u64, (u64, u64)>>,
    /// Members that say they have another address than the membership has for them.
    moved: Mutex<BTreeMap<u64, String>>,
    admitted: AtomicBool,
    changed: Notify,
}

impl std::fmt::Debug for Greeter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Greeter").field("admission", &self.admission).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Greeter {
    /// Nobody has been met yet.
    pub fn new(foundation: Foundation) -> Arc<Greeter> {
        let Foundation {
            identity,
            peers,
            log,
            client_address,
            peer_address,
            admission,
            comparisons,
        } = foundation;
        let alone = matches!(&admission, Admission::Forms { needed: 0, .. });
        Arc::new(Greeter {
            identity,
            peers,
            log,
            client_address,
            peer_address,
            admission,
            comparisons,
            roster: OnceLock::new(),
            met: Mutex::default(),
            cluster_met: AtomicBool::new(false),
            told: Mutex::default(),
            moved: Mutex::default(),
            admitted: AtomicBool::new(alone),
            changed: Notify::new(),
        })
    }

    /// The peers.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// The node may take part in Raft.
    pub fn is_admitted(&self) -> bool {
        self.admitted.load(Ordering::Acquire)
    }

    /// Whether a node of a cluster that exists has been met: an empty node joins that.
    pub fn has_met_a_cluster(&self) -> bool {
        self.cluster_met.load(Ordering::Acquire)
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

    fn admit(&self) {
        if !self.admitted.swap(true, Ordering::AcqRel) {
            self.changed.notify_waiters();
        }
    }

    fn is_empty(&self) -> bool {
        self.admission != Admission::WithData && !self.is_admitted()
    }

    fn members(&self) -> BTreeMap<u64, String> {
        self.roster.get().map(|roster| roster.members()).unwrap_or_default()
    }

    /// A node that is no stranger was met.
    fn count(&self, node_id: u64, its_cluster: &str) {
        if !its_cluster.is_empty() {
            self.cluster_met.store(true, Ordering::Release);
        }
        let mut met = lock(&self.met);
        met.insert(node_id);
        let is_enough = match &self.admission {
            // After its first round of greetings.
            Admission::WithData => false,
            Admission::Joins => true,
            Admission::Forms { others, needed } => {
                self.has_met_a_cluster() || met.intersection(others).count() >= *needed
            }
        };
        if is_enough {
            self.admit();
        }
    }

    fn is_another_cluster(&self, theirs: &str) -> bool {
        let own = self.peers.cluster_id().text();
        if seeded_bugs::is_on("another-cluster-accepted") {
            return false;
        }
        !own.is_empty() && !theirs.is_empty() && own != theirs
    }

    /// Answers a peer's introduction.
    pub async fn answer(
        &self,
        request: wire::HelloRequest,
    ) -> Result<wire::HelloResponse, tonic::Status> {
        let mut response = wire::HelloResponse {
            cluster_id: self.peers.cluster_id().text(),
            node_id: self.identity.node_id(),
            incarnation: self.identity.incarnation().to_owned(),
            formats: Some(self.formats()),
            ..wire::HelloResponse::default()
        };
        if self.is_another_cluster(&request.cluster_id) {
            let cluster = &request.cluster_id;
            self.peers.warn_of(
                request.node_id,
                &format!("a node that says it is this one introduced itself, of cluster {cluster}"),
            );
            // It is told where it is; nothing is learned from it.
            return Ok(response);
        }
        response.left_behind_in = self.left_behind(&request);
        if response.left_behind_in > 0 {
            // It is told so, by name, and nothing is learned from it.
            self.peers.warn_of(request.node_id, "a node of an earlier epoch introduced itself");
            return Ok(response);
        }
        // What was remembered before is what the answer has to say, so it is made first.
        response.known = self.known().await;
        if !self.is_known(request.node_id, &request.incarnation).await
            && !seeded_bugs::is_on("wiped-disk-votes")
        {
            self.peers.warn_of(
                request.node_id,
                "a node with another data directory than the one met before introduced itself",
            );
        } else if self.belongs(request.node_id) {
            let node = wire::KnownNode {
                node_id: request.node_id,
                incarnation: request.incarnation,
                promised: request.promised,
            };
            self.remember(&node).await;
            self.comparisons.learn(
                request.node_id,
                &request.state_reports,
                request.compares_states,
            );
            response.state_reports = self.comparisons.reports();
            self.peers.set_client_address(request.node_id, &request.client_address);
            self.learn_formats(request.node_id, request.formats.as_ref());
            self.note_address(request.node_id, request.peer_address);
            // The caller may be what this node waited for: a leader that greets its learner. What it
            // knows of this node is looked at when it is greeted itself.
            if self.learn(request.node_id, &request.known).await.is_ok() {
                self.count(request.node_id, &request.cluster_id);
            }
        } else if let Some((at, members)) = self.roster.get().and_then(|roster| roster.applied())
            && !members.contains(&request.node_id)
        {
            response.not_a_member_as_of = at;
        }
        response.client_address.clone_from(&self.client_address);
        response.promised = Some(self.promised().await);
        response.last_log_id =
            self.log.last().map(|last| wire::LogId { term: last.term, index: last.index });
        response.compares_states = true;
        Ok(response)
    }

    async fn introduction(&self, target_node_id: u64) -> wire::HelloRequest {
        wire::HelloRequest {
            cluster_id: self.peers.cluster_id().text(),
            node_id: self.identity.node_id(),
            client_address: self.client_address.clone(),
            incarnation: self.identity.incarnation().to_owned(),
            empty: self.is_empty(),
            target_node_id,
            known: self.known().await,
            promised: Some(self.promised().await),
            formats: Some(self.formats()),
            peer_address: self.peer_address.clone(),
            state_reports: self.comparisons.reports(),
            compares_states: true,
            restore_epoch: self.epoch(),
        }
    }

    /// A member says where it is. Nothing changes by that: it is only looked at.
    fn note_address(&self, node_id: u64, says: String) {
        let is_new = self.members().get(&node_id).is_some_and(|known| *known != says);
        let mut moved = lock(&self.moved);
        match is_new && !says.is_empty() {
            true => moved.insert(node_id, says),
            false => moved.remove(&node_id),
        };
    }

    /// Members that are not where the membership has them, by what they say of themselves: each answers there under its
    /// id, with the directory that it is known by.
    pub async fn moved(&self, until: Instant) -> Vec<(u64, String)> {
        // Whoever leads hears nothing from itself.
        self.note_address(self.identity.node_id(), self.peer_address.clone());
        let says: Vec<_> = lock(&self.moved).clone().into_iter().collect();
        let mut there = Vec::new();
        for (node_id, address) in says {
            let is_it = match self.probe(node_id, &address, until).await {
                Ok(_) if node_id != self.identity.node_id() => true,
                Ok(found) => found.incarnation == self.identity.incarnation(),
                Err(error) => {
                    tracing::debug!(node = node_id, %address, %error, "is not where it says it is");
                    false
                }
            };
            if is_it {
                there.push((node_id, address));
            }
        }
        there
    }

    /// Introduces this node to one peer.
    async fn greet(
        &self,
        node_id: u64,
        address: &str,
        timeout: Duration,
    ) -> Result<(), NotWelcome> {
        let request = self.introduction(node_id).await;
        let until = Instant::now() + timeout;
        let response = match ask::hello(&self.peers, node_id, address, request, until).await {
            Ok(response) => response,
            Err(error) => {
                self.peers.not_met(node_id, address, error.reason());
                self.peers.clear_trouble(node_id);
                return Ok(());
            }
        };
        let trouble = if self.is_another_cluster(&response.cluster_id) {
            Some(format!("a node of cluster {} answers at {address}", response.cluster_id))
        } else if response.node_id != node_id {
            Some(format!("node {} answers at {address}", response.node_id))
        } else if !self.is_known(node_id, &response.incarnation).await {
            Some(format!("a node with another data directory answers at {address}"))
        } else {
            None
        };
        if let Some(trouble) = trouble {
            self.peers.set_trouble(node_id, &trouble);
            return Ok(());
        }
        self.peers.met(node_id);
        self.peers.clear_trouble(node_id);
        self.compare_formats(node_id, &response)?;
        self.heed_epoch(node_id, response.left_behind_in)?;
        self.learn(node_id, &response.known).await?;
        if let Some(roster) = self.roster.get()
            && let Some((at, members)) = roster.applied()
            && members.contains(&self.identity.node_id())
            && response.not_a_member_as_of > at
            && !seeded_bugs::is_on("removed-runs-on")
        {
            let at = response.not_a_member_as_of;
            return Err(NotWelcome::Removed { node_id: self.identity.node_id(), at });
        }
        let met = wire::KnownNode {
            node_id,
            incarnation: response.incarnation.clone(),
            promised: response.promised.clone(),
        };
        self.remember(&met).await;
        self.comparisons.learn(node_id, &response.state_reports, response.compares_states);
        self.peers.set_client_address(node_id, &response.client_address);
        self.learn_formats(node_id, response.formats.as_ref());
        self.count(node_id, &response.cluster_id);
        Ok(())
    }

    /// Whether the node at an address can be added under an id (0: under its own), asked of itself.
    pub async fn probe(
        &self,
        node_id: u64,
        address: &str,
        until: Instant,
    ) -> Result<Found, NotAddable> {
        let address = address.to_owned();
        let response = loop {
            let request = self.introduction(node_id).await;
            let attempt = until.min(Instant::now() + TIMEOUT);
            match ask::hello_at(&self.peers, node_id, &address, request, attempt).await {
                Ok(response) => break response,
                Err(reason) if Instant::now() + INTERVAL_WHILE_WAITING >= until => {
                    return Err(NotAddable::Silent { node_id, address, reason });
                }
                Err(_) => tokio::time::sleep(INTERVAL_WHILE_WAITING).await,
            }
        };
        if self.is_another_cluster(&response.cluster_id) {
            return Err(NotAddable::AnotherCluster { address, theirs: response.cluster_id });
        }
        if node_id != 0 && response.node_id != node_id {
            return Err(NotAddable::AnotherNode { node_id, address, found: response.node_id });
        }
        let node_id = response.node_id;
        if !self.is_known(node_id, &response.incarnation).await {
            return Err(NotAddable::UsedId { node_id });
        }
        let formats = self.can_read_what_the_cluster_has(node_id, &response)?;
        Ok(Found { node_id, incarnation: response.incarnation, formats })
    }

    /// Ids of all nodes that were ever met.
    pub async fn met_ids(&self) -> Vec<u64> {
        self.identity.known().await.into_keys().collect()
    }

    /// Who the members are is known from here on.
    pub fn set_roster(&self, roster: Arc<dyn Roster>) {
        assert!(self.roster.set(roster).is_ok(), "a greeter gets its roster once");
    }

    /// Greets whoever is a member, for as long as the node runs, and says why it must not.
    pub async fn run(self: Arc<Self>, first_round: Duration, refuse: impl Fn(NotWelcome) + Send) {
        let mut timeout = first_round;
        let mut tell_at = Instant::now() + WAITING_TOLD_AFTER;
        loop {
            let members = self.members();
            members.iter().for_each(|(id, address)| self.peers.set_address(*id, address));
            let others = members.iter().filter(|(id, _)| **id != self.identity.node_id());
            let greetings = others.map(|(id, address)| self.greet(*id, address, timeout));
            let refused = join_all(greetings).await.into_iter().find_map(Result::err);
            let refused = match refused {
                None => self.look_at_membership().await,
                refused => refused,
            };
            if let Some(reason) = refused {
                let stored = match reason {
                    NotWelcome::Removed { at, .. } => self.identity.removed(at).await,
                    NotWelcome::LeftBehind { epoch, .. } => self.identity.left_behind(epoch).await,
                    _ => Ok(()),
                };
                if let Err(error) = stored {
                    tracing::warn!(%error, "that the node was removed could not be stored");
                }
                refuse(reason);
                return;
            }
            if self.admission == Admission::WithData {
                self.admit();
            }
            timeout = TIMEOUT;
            if !self.is_admitted() && Instant::now() >= tell_at {
                tell_at = Instant::now() + WAITING_TOLD_EVERY;
                tracing::warn!("{}", self.waits_for());
            }
            let pause = if self.is_admitted() { INTERVAL } else { INTERVAL_WHILE_WAITING };
            tokio::time::sleep(pause).await;
        }
    }

    /// Whether the node's own log says that it was removed.
    async fn look_at_membership(&self) -> Option<NotWelcome> {
        let roster = self.roster.get()?;
        let (at, members) = roster.applied()?;
        let node_id = self.identity.node_id();
        if seeded_bugs::is_on("removed-runs-on") {
            return None;
        }
        // It may have come and gone since this was looked at last.
        let saw = match roster.last_in() {
            Some(last_in) => self.identity.saw_membership(last_in, true).await,
            None => Ok(false),
        };
        let saw = match saw {
            Ok(_) => self.identity.saw_membership(at, members.contains(&node_id)).await,
            failed => failed,
        };
        match saw {
            Ok(removed) => removed.then_some(NotWelcome::Removed { node_id, at }),
            Err(error) => {
                tracing::warn!(%error, "that the node is a member could not be stored");
                None
            }
        }
    }

    /// What keeps the node from taking part, as a sentence.
    pub fn waits_for(&self) -> String {
        let Admission::Forms { others, needed } = &self.admission else {
            return match self.admission {
                Admission::WithData => "it asks its peers whether it may take part",
                _ => "it waits to be added to a cluster (`tally cluster add`)",
            }
            .to_owned();
        };
        let met = lock(&self.met).clone();
        let addresses = self.members();
        let missing = others.difference(&met).map(|id| {
            let address = addresses.get(id).map_or("", String::as_str);
            let trouble = self
                .peers
                .trouble(*id)
                .or_else(|| Some(format!("{address}: {}", self.peers.unmet_reason(*id)?)));
            format!("node {id} ({})", trouble.unwrap_or_else(|| address.to_owned()))
        });
        let missing: Vec<String> = missing.collect();
        let more = needed.saturating_sub(met.intersection(others).count());
        let which = match more == missing.len() {
            true => String::new(),
            false => format!("{more} of "),
        };
        let enough = match *needed == others.len() {
            true => "all of initial_cluster, or a majority with form_without_all",
            false => "a majority of initial_cluster",
        };
        format!("to form the cluster it waits for {which}{}; it takes {enough}", missing.join(", "))
    }
}
