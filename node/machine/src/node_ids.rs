//! What is stored of the ids of nodes, and what is asked of them. What becomes of it is in
//! [`super::given_ids`].

use serde::{Deserialize, Serialize};

/// What is done with the id of a node. It is a leader's own command: who may ask for it is decided before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeIdCommand {
    /// Gives an id to a data directory.
    Claim {
        /// The id; 0 for the next one above all that were ever used.
        node_id: u64,
        /// The directory.
        incarnation: String,
        /// Ids that the leader knows to be used, members of before there were records among them.
        used: Vec<u64>,
    },
    /// From now on nobody can claim it: its node is about to be taken out.
    Retire {
        /// The id.
        node_id: u64,
        /// As above.
        used: Vec<u64>,
    },
    /// Its node is not to lead, or may again.
    Drain {
        /// The id.
        node_id: u64,
        /// It is not to.
        drained: bool,
        /// As above.
        used: Vec<u64>,
    },
}

/// An id that is, or was, some node's. It is never removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeIdRecord {
    /// The data directory that has it; empty: it is not known here, and no other can claim it.
    pub incarnation: String,
    /// The node was taken out of the cluster, or was about to be.
    pub retired: bool,
    /// The node is not to lead.
    pub drained: bool,
}
