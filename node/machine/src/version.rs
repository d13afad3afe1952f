//! The versions of the formats: which one a cluster has, and which ones a node reads. (What needs which is in
//! [`super::gate`].)
//!
//! A cluster has one version, in its state ([`super::records::Meta`]). What a version brought is not written before the
//! cluster has it: neither as an entry of the log, nor as a record, nor as a message that older nodes can't read. It
//! rises by an entry ([`super::command::Action::RaiseVersion`]), which the leader proposes only once every member has said that it reads
//! what comes then. Until that entry any node may go back to the release before; from it on none may.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Version of all formats together: of the log, the state, and what nodes say to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FormatVersion(pub u32);

impl FormatVersion {
    /// That of the first release, and of every cluster that never had another one.
    pub const FIRST: FormatVersion = FormatVersion(1);

    /// Clusters have a version.
    pub const CLUSTER_VERSION: FormatVersion = FormatVersion(2);

    /// The newest that this release reads and writes.
    pub const MAX: FormatVersion = FormatVersion::CLUSTER_VERSION;
}

impl Default for FormatVersion {
    fn default() -> Self {
        FormatVersion::FIRST
    }
}

impl fmt::Display for FormatVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Versions that a node reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormatRange {
    /// The oldest.
    pub min: FormatVersion,
    /// The newest.
    pub max: FormatVersion,
}

impl FormatRange {
    /// Those of this release. The oldest rises only with a release that says so, and whose predecessor reads both.
    pub const OURS: FormatRange =
        FormatRange { min: FormatVersion::FIRST, max: FormatVersion::MAX };

    /// Those of a node that does not say them: it is of a release from before nodes did.
    pub const UNSAID: FormatRange =
        FormatRange { min: FormatVersion::FIRST, max: FormatVersion::FIRST };

    /// What a node has said; 0 is nothing.
    pub fn said(min: u32, max: u32) -> FormatRange {
        match max {
            0 => FormatRange::UNSAID,
            max => FormatRange { min: FormatVersion(min), max: FormatVersion(max) },
        }
    }

    /// Whether a cluster of this version is one that the node can belong to.
    pub fn has(self, version: FormatVersion) -> bool {
        (self.min..=self.max).contains(&version)
    }
}

impl Default for FormatRange {
    fn default() -> Self {
        FormatRange::OURS
    }
}

impl fmt::Display for FormatRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.min == self.max {
            true => self.min.fmt(f),
            false => write!(f, "{} to {}", self.min, self.max),
        }
    }
}

/// What is said of what the cluster's version does not have.
pub fn not_finalized(needed: FormatVersion, version: FormatVersion) -> String {
    format!(
        "this takes version {needed} of the formats, and the cluster has version {version}: an upgrade is not finalized. \
         Once all members run the new release, `tally cluster upgrade finalize` does that"
    )
}

/// What is said of a node that is to become a member of a cluster whose version it does not read.
pub fn not_a_member(node_id: u64, node: FormatRange, cluster: FormatVersion) -> String {
    format!(
        "node {node_id} reads version {node} of the formats, and this cluster has version {cluster}: start it with a \
         release that reads that"
    )
}

/// What is said to a node whose cluster has a version that it does not read.
pub fn unreadable(cluster: FormatVersion, node: FormatRange) -> String {
    let way = match cluster > node.max {
        true => {
            "an upgrade was finalized, and from then on there is no way back: start the newer release again"
        }
        false => {
            "this release is too new for it: start the one before again, finalize the upgrade to that \
             (`tally cluster upgrade finalize`), and then come back to this one"
        }
    };
    format!(
        "the cluster has version {cluster} of the formats, and this release reads version {node}: {way}"
    )
}
