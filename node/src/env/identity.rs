//! Who a data directory belongs to: the file `IDENTITY`.
//!
//! It is written before anything else and says the format of the directory, the node that owns it,
//! a random *incarnation* (a directory that was wiped and filled again has another one), the
//! cluster once it is known, and the incarnations of the other nodes as they introduced themselves.
//!
//! Why incarnations: a voter that comes back with an empty disk has forgotten its vote and its log.
//! Under its old id it could vote twice in one term, or help to elect a leader that lacks entries
//! which it had acknowledged. Peers remember the incarnation that they first met under an id, and a
//! node that meets a peer which remembers another one refuses to run.
//!
//! The same holds for a part of a directory that is lost, or put back from an older copy. So each
//! start is written down before the node takes part: where its log had got to, which is how a log that
//! is gone or older is told ([`Identity::log_sequence`]), and a number with a random nonce, which the
//! peers remember too, so that a whole directory that is put back from a copy made before its last
//! start is told by them ([`Start`]). `docs/storage-format.md` has the table of what is seen by whom.

mod recovery;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tally_proto::seeded_bugs;
use tokio::sync::Mutex;

pub use self::recovery::Recovering;
use crate::{
    machine::version::{self, FormatRange, FormatVersion},
    storage::disk::{Disk, OpenMode, replace_file},
};

/// Format of a data directory that any release reads, as long as its cluster has the first version of the formats …
const FIRST_DATA_FORMAT: u32 = 1;

/// … and of one whose cluster has another version, which is in the file: a release from before clusters had one refuses
/// it, before it has changed anything. The newest that this release reads.
pub const DATA_FORMAT: u32 = 2;

const FILE: &str = "IDENTITY";
const NEW_FILE: &str = "IDENTITY.new";

/// Largest file that is read; it holds a few hundred bytes.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// Longest text that is remembered of another node: incarnations and nonces have 32 digits.
const TOLD_BYTES_MAX: usize = 64;

/// Nodes of which something is remembered: those that ever were members. More than any cluster has in its life,
/// and few enough that the file stays readable, whatever others say.
const NODES_MAX: usize = 1024;

/// A node's line in the file, twice: its incarnation, and its last start.
const _: () = assert!(NODES_MAX * 2 * (TOLD_BYTES_MAX + 128) < FILE_BYTES_MAX);

/// Refuses what would let others fill the file.
fn check_told(text: &str, known: usize) -> io::Result<()> {
    let problem = if text.len() > TOLD_BYTES_MAX {
        format!("it has {} bytes, and {TOLD_BYTES_MAX} at most are remembered", text.len())
    } else if known >= NODES_MAX {
        format!("{NODES_MAX} nodes are remembered already")
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
}

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    format: u32,
    node_id: u64,
    incarnation: String,
    cluster_id: Option<String>,
    #[serde(default)]
    peers: BTreeMap<u64, String>,
    /// This directory's last start.
    #[serde(default)]
    start: Start,
    /// Sequence of the log's next frame when it was last opened; none before it first was.
    #[serde(default)]
    log_sequence: Option<u64>,
    /// The last start of each peer that introduced itself.
    #[serde(default)]
    peer_starts: BTreeMap<u64, Start>,
    /// Log index of the membership by which the node was first seen to be a member of its cluster.
    #[serde(default)]
    member_since: Option<u64>,
    /// … and is none any more, by a membership at this log index.
    #[serde(default)]
    removed_at: Option<u64>,
    /// Version of the formats that the cluster has, if it ever had another one than the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster_version: Option<FormatVersion>,
    /// A recovery from a lost quorum that was begun and is not written to the log yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recovering: Option<Recovering>,
    /// Members of before such a recovery: nodes that are not listened to.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    lost: BTreeSet<u64>,
    /// The cluster went on without this node, in this epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left_behind_in: Option<u64>,
}

/// One start of a node on its directory: how many there were, and a nonce, so that two directories
/// that both count their n-th start (one of them a copy) are told from each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// 1 for the first; 0 before it.
    pub number: u64,
    /// Random bits in hexadecimal.
    pub nonce: String,
}

/// Why a directory can't be used by this node.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It can't be read or written.
    #[error("{FILE} in the data directory: {0}")]
    Io(#[from] io::Error),
    /// It is not what this version writes.
    #[error(
        "{FILE} in the data directory can't be read: {0}. Nothing was changed; restore the file, or rejoin under a new node id with an empty directory"
    )]
    Damaged(String),
    /// It is of a newer version.
    #[error(
        "{FILE}: the data directory has format {found}, and this version reads up to {DATA_FORMAT}. Start the newer version again; nothing was changed"
    )]
    NewerFormat {
        /// What was found.
        found: u32,
    },
    /// Its cluster has a version of the formats that this release does not read.
    #[error("{FILE}: {}. Nothing was changed", version::unreadable(*cluster, *node))]
    ClusterVersion {
        /// The cluster's.
        cluster: FormatVersion,
        /// This release's.
        node: FormatRange,
    },
    /// It belongs to another node.
    #[error(
        "{FILE}: the data directory belongs to node {owner}, not to node {asked}. Start with node id {owner}, or give node {asked} its own directory; nothing was changed"
    )]
    AnotherNode {
        /// Whose it is.
        owner: u64,
        /// Who asked.
        asked: u64,
    },
    /// It belongs to another cluster.
    #[error(
        "{FILE}: the data directory belongs to cluster {own}, and the state in it is of cluster {theirs}: the directory was put together from two. Put this node's own state/ and snap/ back, or use an empty directory with a new node id"
    )]
    AnotherCluster {
        /// The directory's.
        own: String,
        /// The state's.
        theirs: String,
    },
    /// The node was taken out of its cluster.
    #[error(
        "node {node_id} was removed from its cluster (by log entry {at}) and serves nothing. An id is never used again: to add this machine anew, start it with an empty directory and a new node id (`tally cluster members` says which one is free), then `tally cluster add`. Its data was not touched"
    )]
    Removed {
        /// The node.
        node_id: u64,
        /// Log index of the membership that lacks it.
        at: u64,
    },
    /// The cluster went on without the node.
    #[error(
        "the cluster of node {node_id} goes on without it, in epoch {epoch} (`tallyd recover` began one): what \
         this node holds is of an epoch before, and it serves nothing. An id is never used again: to add this machine \
         anew, wipe its data directory and join (`tallyd serve --join ADDRESS`), or start it under a new node id and \
         `tally cluster add`. Its data was not touched"
    )]
    LeftBehind {
        /// The node.
        node_id: u64,
        /// The epoch.
        epoch: u64,
    },
    /// There is data without an identity.
    #[error(
        "the data directory holds {found:?} but no {FILE}: it was not made by Tally, or the file was lost. Nothing was changed; restore the file, or use an empty directory with a new node id"
    )]
    Headless {
        /// What is there.
        found: String,
    },
}

/// The identity of an open data directory.
#[derive(Debug)]
pub struct Identity {
    disk: Arc<dyn Disk>,
    node_id: u64,
    incarnation: String,
    /// Guards the file: one writer at a time.
    content: Mutex<Content>,
}

/// What a directory says of itself before it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredIdentity {
    /// Whose it is.
    pub node_id: u64,
    /// The node was a member of its cluster when it last ran.
    pub is_member: bool,
}

impl Identity {
    /// What is stored in a directory; nothing in an empty one.
    pub async fn stored(disk: &dyn Disk) -> Result<Option<StoredIdentity>, IdentityError> {
        let content = read(disk).await?;
        Ok(content.map(|content| StoredIdentity {
            node_id: content.node_id,
            is_member: content.member_since.is_some(),
        }))
    }

    /// Reads the identity, or makes one in an empty directory.
    pub async fn open(
        disk: Arc<dyn Disk>,
        node_id: u64,
        new_incarnation: u128,
    ) -> Result<Identity, IdentityError> {
        let content = match read(&*disk).await? {
            Some(content) => content,
            None => {
                refuse_headless(&*disk).await?;
                let content = Content {
                    format: FIRST_DATA_FORMAT,
                    node_id,
                    incarnation: format!("{new_incarnation:032x}"),
                    cluster_id: None,
                    peers: BTreeMap::new(),
                    start: Start::default(),
                    log_sequence: None,
                    peer_starts: BTreeMap::new(),
                    member_since: None,
                    removed_at: None,
                    cluster_version: None,
                    recovering: None,
                    lost: BTreeSet::new(),
                    left_behind_in: None,
                };
                write(&*disk, &content).await?;
                content
            }
        };
        if content.node_id != node_id {
            let owner = content.node_id;
            return Err(IdentityError::AnotherNode { owner, asked: node_id });
        }
        if let Some(at) = content.removed_at {
            return Err(IdentityError::Removed { node_id, at });
        }
        if let Some(epoch) = content.left_behind_in {
            return Err(IdentityError::LeftBehind { node_id, epoch });
        }
        let incarnation = content.incarnation.clone();
        Ok(Identity { disk, node_id, incarnation, content: Mutex::new(content) })
    }

    /// Id of the node.
    pub fn node_id(&self) -> u64 {
        self.node_id
    }

    /// The directory's incarnation.
    pub fn incarnation(&self) -> &str {
        &self.incarnation
    }

    /// The directory's incarnation as a number.
    pub fn incarnation_number(&self) -> Result<u128, IdentityError> {
        u128::from_str_radix(&self.incarnation, 16)
            .map_err(|error| IdentityError::Damaged(format!("incarnation: {error}")))
    }

    /// Where the log had got to when it was last opened; none if it never was.
    pub async fn log_sequence(&self) -> Option<u64> {
        self.content.lock().await.log_sequence
    }

    /// Writes down, durably, that a run begins whose log is at a sequence. To be called once the log is
    /// open and before the node takes part in anything: a crash before it leaves a log that is further
    /// than is written here, which is what a run leaves too.
    pub async fn begin_run(&self, log_sequence: u64, nonce: u128) -> io::Result<()> {
        let mut content = self.content.lock().await;
        content.start = Start { number: content.start.number + 1, nonce: format!("{nonce:032x}") };
        content.log_sequence = Some(log_sequence);
        write(&*self.disk, &content).await
    }

    /// The present run.
    pub async fn start(&self) -> Start {
        self.content.lock().await.start.clone()
    }

    /// A membership at this log index is applied here, of which the node is a member or not. Remembers,
    /// durably, that it is one, and says whether it was removed: by a membership after the one that it
    /// was a member by.
    ///
    /// One before that says nothing. A node that is still catching up has not been seen to be a member;
    /// and one that has, and crashed, may start from a state that was flushed before it became one, since
    /// this file is written at once and the state much later.
    pub async fn saw_membership(&self, at: u64, is_member: bool) -> io::Result<bool> {
        let mut content = self.content.lock().await;
        match content.member_since {
            Some(since) => {
                let is_later = at > since || seeded_bugs::is_on("removed-by-an-older-state");
                Ok(!is_member && is_later)
            }
            None if is_member => {
                content.member_since = Some(at);
                write(&*self.disk, &content).await?;
                Ok(false)
            }
            None => Ok(false),
        }
    }

    /// Remembers, durably, that the node was removed: it does not start again.
    pub async fn removed(&self, at: u64) -> io::Result<()> {
        let mut content = self.content.lock().await;
        content.removed_at = Some(at);
        write(&*self.disk, &content).await
    }

    /// Refuses a directory whose cluster has a version of the formats that this node does not read.
    pub async fn check_version(&self, node: FormatRange) -> Result<(), IdentityError> {
        let cluster = self.content.lock().await.cluster_version.unwrap_or_default();
        match node.has(cluster) {
            true => Ok(()),
            false => Err(IdentityError::ClusterVersion { cluster, node }),
        }
    }

    /// Writes down, durably, which version of the formats the cluster has, before anything of that version is written.
    pub async fn raise_version(&self, version: FormatVersion) -> io::Result<()> {
        let mut content = self.content.lock().await;
        if version <= content.cluster_version.unwrap_or_default() {
            return Ok(());
        }
        content.cluster_version = Some(version);
        content.format = DATA_FORMAT;
        write(&*self.disk, &content).await
    }

    /// The cluster, once known.
    pub async fn cluster_id(&self) -> Option<String> {
        self.content.lock().await.cluster_id.clone()
    }

    /// Learns the cluster, durably; it can't change.
    pub async fn learn_cluster(&self, cluster_id: &str) -> Result<(), IdentityError> {
        let mut content = self.content.lock().await;
        match &content.cluster_id {
            Some(own) if own == cluster_id => Ok(()),
            Some(own) => Err(IdentityError::AnotherCluster {
                own: own.clone(),
                theirs: cluster_id.to_owned(),
            }),
            None => {
                content.cluster_id = Some(cluster_id.to_owned());
                Ok(write(&*self.disk, &content).await?)
            }
        }
    }

    /// Remembers, durably, the incarnation under which a peer is first met, and says which one is
    /// known.
    pub async fn meet(&self, node_id: u64, incarnation: &str) -> io::Result<String> {
        let mut content = self.content.lock().await;
        if let Some(known) = content.peers.get(&node_id) {
            return Ok(known.clone());
        }
        check_told(incarnation, content.peers.len())?;
        content.peers.insert(node_id, incarnation.to_owned());
        write(&*self.disk, &content).await?;
        Ok(incarnation.to_owned())
    }

    /// Remembers, durably, a start of a peer, if it is later than the one known, and says which one is
    /// known. Of two with one number the first is kept: the other is of a copy.
    pub async fn saw_start(&self, node_id: u64, start: Start) -> io::Result<Start> {
        let mut content = self.content.lock().await;
        let known = content.peer_starts.get(&node_id);
        if let Some(known) = known.filter(|known| known.number >= start.number) {
            return Ok(known.clone());
        }
        let others = content.peer_starts.keys().filter(|other| **other != node_id).count();
        check_told(&start.nonce, others)?;
        content.peer_starts.insert(node_id, start.clone());
        write(&*self.disk, &content).await?;
        Ok(start)
    }

    /// The last starts of peers that are known.
    pub async fn peer_starts(&self) -> BTreeMap<u64, Start> {
        self.content.lock().await.peer_starts.clone()
    }

    /// The incarnations that are known.
    pub async fn known(&self) -> BTreeMap<u64, String> {
        self.content.lock().await.peers.clone()
    }
}

async fn read(disk: &dyn Disk) -> Result<Option<Content>, IdentityError> {
    let file = match disk.open(FILE, OpenMode::Read).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let bytes = file.read_at(0, FILE_BYTES_MAX).await?;
    let damaged = |error: String| IdentityError::Damaged(error);
    // The format first: a newer one may not read as ours.
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    let format = value.get("format").and_then(serde_json::Value::as_u64);
    let format = format.and_then(|format| u32::try_from(format).ok());
    match format {
        None => Err(damaged("it has no format".to_owned())),
        Some(found) if found > DATA_FORMAT => Err(IdentityError::NewerFormat { found }),
        Some(_) => {
            serde_json::from_value(value).map(Some).map_err(|error| damaged(error.to_string()))
        }
    }
}

/// Data without an identity is somebody's, and not ours to write into.
async fn refuse_headless(disk: &dyn Disk) -> Result<(), IdentityError> {
    let names = match disk.list("").await {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    // A crash while the identity was first written leaves the new file; the lock file is empty.
    let found = names.into_iter().find(|name| {
        !matches!(name.as_str(), NEW_FILE | "LOCK" | "lost+found" | "dev.log" | "pid")
    });
    match found {
        Some(found) => Err(IdentityError::Headless { found }),
        None => Ok(()),
    }
}

/// Replaces the file: new name, fsync, rename, fsync of the directory. A crash at any step leaves
/// the old content or the new one.
async fn write(disk: &dyn Disk, content: &Content) -> io::Result<()> {
    let bytes = serde_json::to_vec_pretty(content).map_err(io::Error::other)?;
    replace_file(disk, "", FILE, NEW_FILE, &bytes).await
}

#[cfg(test)]
mod tests;
