//! Why a node must not run, and why another one can't be added: with what is remembered, and the way out
//! for a person.

use crate::machine::version::{self, FormatRange, FormatVersion};

/// Why a node must not run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotWelcome {
    /// Peers met another directory under this id.
    #[error(
        "node {node_id} has an empty or another data directory than the one that its peers met \
         ({known}, and this is {own}): what it had acknowledged and voted for is lost to it. \
         The way out: put the old directory back; or start this machine with an empty directory under a new id \
         (`tally cluster members` says which one is free) and put it into the place of node {node_id}: \
         `tally cluster replace {node_id} ADDRESS`"
    )]
    AnotherIncarnation {
        /// The node.
        node_id: u64,
        /// What peers know.
        known: String,
        /// What it is.
        own: String,
    },
    /// Peers were told more than this directory knows.
    #[error(
        "the data directory of node {node_id} is an older copy of itself: node {peer} remembers that it \
         {remembered}, and {now}. What it has acknowledged and voted for since the copy was made is lost \
         to it. The way out: put the newer directory back; or start this machine with an empty directory under a \
         new id (`tally cluster members` says which one is free) and put it into the place of node {node_id}: \
         `tally cluster replace {node_id} ADDRESS`"
    )]
    OlderCopy {
        /// The node.
        node_id: u64,
        /// Who remembers.
        peer: u64,
        /// What.
        remembered: String,
        /// What the directory has instead.
        now: String,
    },
    /// The cluster has a version of the formats that this node does not read.
    #[error("node {peer} says: {}", version::unreadable(*cluster, *node))]
    ClusterVersion {
        /// Who says it.
        peer: u64,
        /// The cluster's.
        cluster: FormatVersion,
        /// Those that this node reads.
        node: FormatRange,
    },
    /// The cluster went on without this node.
    #[error(
        "the cluster of node {node_id} goes on without it: node {peer} is of epoch {epoch} of it (`tallyd recover` begins \
         one where the quorum is lost), and what this node holds is of an epoch before. It serves nothing. An id is \
         never used again: to add this machine anew, wipe its data directory and join (`tallyd serve --join ADDRESS`), \
         or start it under a new node id and `tally cluster add`. Its data was not touched"
    )]
    LeftBehind {
        /// The node.
        node_id: u64,
        /// Who says so.
        peer: u64,
        /// The epoch.
        epoch: u64,
    },
    /// The cluster has removed this node.
    #[error(
        "node {node_id} was removed from its cluster (by log entry {at} or one before) and serves \
         nothing. An id is never used again: to add this machine anew, start it with an empty directory \
         and a new node id (`tally cluster members` says which one is free), then `tally cluster add`. Its data was \
         not touched"
    )]
    Removed {
        /// The node.
        node_id: u64,
        /// Log index of a committed membership that lacks it.
        at: u64,
    },
}

/// 0 is a node whose id was not said.
fn the_node(node_id: &u64) -> String {
    match node_id {
        0 => "the node, with an id that nobody had,".to_owned(),
        node_id => format!("node {node_id}"),
    }
}

/// Why an address is not that of a node which can be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAddable {
    /// Nobody answers there.
    #[error("no node answers at {address} ({reason}); start {} there first", the_node(.node_id))]
    Silent {
        /// Who should be there.
        node_id: u64,
        /// Where.
        address: String,
        /// What went wrong.
        reason: String,
    },
    /// Somebody else answers.
    #[error("the node at {address} is node {found}, not node {node_id}")]
    AnotherNode {
        /// Who should be there.
        node_id: u64,
        /// Where.
        address: String,
        /// Who is.
        found: u64,
    },
    /// It belongs elsewhere.
    #[error("the node at {address} is of cluster {theirs}")]
    AnotherCluster {
        /// Where.
        address: String,
        /// Whose it is.
        theirs: String,
    },
    /// The id was met before, with another directory.
    #[error(
        "node {node_id} was met with another data directory before; an id is never used again, not \
         with an emptied directory either. Start it under a new one: `tally cluster members` says which is free"
    )]
    UsedId {
        /// The id.
        node_id: u64,
    },
    /// It does not read what the cluster has.
    #[error("{}", version::not_a_member(*node_id, *formats, *cluster))]
    OtherFormats {
        /// The node.
        node_id: u64,
        /// Those that it reads.
        formats: FormatRange,
        /// The cluster's.
        cluster: FormatVersion,
    },
}
