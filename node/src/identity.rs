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

use std::{collections::BTreeMap, io, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::storage::disk::{Disk, OpenMode, open_patiently};

/// Format of the data directory that this version writes and reads.
pub const DATA_FORMAT: u32 = 1;

const FILE: &str = "IDENTITY";
const NEW_FILE: &str = "IDENTITY.new";

/// Largest file that is read; it holds a few hundred bytes.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    format: u32,
    node_id: u64,
    incarnation: String,
    cluster_id: Option<String>,
    #[serde(default)]
    peers: BTreeMap<u64, String>,
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
        "{FILE}: the data directory belongs to cluster {own}, and the peers are of cluster {theirs}. Check the addresses, or use an empty directory with a new node id; nothing was changed"
    )]
    AnotherCluster {
        /// The directory's.
        own: String,
        /// The peers'.
        theirs: String,
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

impl Identity {
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
                    format: DATA_FORMAT,
                    node_id,
                    incarnation: format!("{new_incarnation:032x}"),
                    cluster_id: None,
                    peers: BTreeMap::new(),
                };
                write(&*disk, &content).await?;
                content
            }
        };
        if content.node_id != node_id {
            let owner = content.node_id;
            return Err(IdentityError::AnotherNode { owner, asked: node_id });
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
        content.peers.insert(node_id, incarnation.to_owned());
        write(&*self.disk, &content).await?;
        Ok(incarnation.to_owned())
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
    match disk.remove_file(NEW_FILE).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = open_patiently(disk, NEW_FILE, OpenMode::CreateNew).await?;
    file.write_at(0, &bytes).await?;
    file.sync().await?;
    drop(file);
    disk.rename(NEW_FILE, FILE).await?;
    disk.sync_dir("").await
}
