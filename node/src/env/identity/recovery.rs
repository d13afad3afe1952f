//! What a data directory says of a recovery from a lost quorum: of its own, and of one that left it behind.
//!
//! A recovery is written down here before the log is touched, so that a crash in its middle is finished by whoever
//! opens the directory next (`consensus::recovery`).

use std::{collections::BTreeSet, io};

use serde::{Deserialize, Serialize};

use super::{Identity, write};

/// A recovery that was begun: all that it takes to finish it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovering {
    /// Term of the entries that it writes: above each that this node has seen.
    pub term: u64,
    /// Index of the first of them.
    pub index: u64,
    /// The other members of before.
    pub lost: BTreeSet<u64>,
    /// Address of this node's peer port.
    pub peer_address: String,
}

impl Identity {
    /// Writes down, durably, that a recovery begins. From here on the lost nodes are not listened to, and the directory
    /// is not used before the recovery is finished.
    pub async fn begin_recovery(&self, recovering: Recovering) -> io::Result<()> {
        let mut content = self.content.lock().await;
        content.lost.extend(&recovering.lost);
        content.recovering = Some(recovering);
        write(&*self.disk, &content).await
    }

    /// The recovery that was begun and is not finished.
    pub async fn recovering(&self) -> Option<Recovering> {
        self.content.lock().await.recovering.clone()
    }

    /// Writes down, durably, that it is in the log.
    pub async fn finish_recovery(&self) -> io::Result<()> {
        let mut content = self.content.lock().await;
        content.recovering = None;
        write(&*self.disk, &content).await
    }

    /// Nodes that a recovery of this directory left behind.
    pub async fn lost(&self) -> BTreeSet<u64> {
        self.content.lock().await.lost.clone()
    }

    /// Remembers, durably, that the cluster goes on without this node: it does not start again.
    pub async fn left_behind(&self, epoch: u64) -> io::Result<()> {
        let mut content = self.content.lock().await;
        content.left_behind_in = Some(epoch);
        write(&*self.disk, &content).await
    }
}
