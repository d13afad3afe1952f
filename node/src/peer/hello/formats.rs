//! What nodes say of the versions of the formats that they read, and who can't belong to a cluster because of it.
//!
//! A node that is behind its cluster ends, with the way on, before it takes part: it would meet entries that it can't
//! read. Only a node that it knows says so ([`super`]). Leaves out what the cluster does with it
//! (`consensus::upgrade`).

use tally_proto::peer::v1 as wire;

use super::{Greeter, NotAddable, NotWelcome};
use crate::machine::version::{FormatRange, FormatVersion};

/// A node that says nothing is of a release from before nodes did.
fn said(formats: Option<&wire::Formats>) -> FormatRange {
    formats.map_or(FormatRange::UNSAID, |formats| FormatRange::said(formats.min, formats.max))
}

impl Greeter {
    fn cluster_version(&self) -> Option<FormatVersion> {
        self.roster.get()?.cluster_version()
    }

    /// What this node says.
    pub(super) fn formats(&self) -> wire::Formats {
        let FormatRange { min, max } = self.peers.own_formats();
        let cluster_version = self.cluster_version().map_or(0, |version| version.0);
        wire::Formats { min: min.0, max: max.0, cluster_version }
    }

    /// Remembers what a node of this cluster says.
    pub(super) fn learn_formats(&self, node_id: u64, formats: Option<&wire::Formats>) {
        self.peers.heard_formats(node_id, said(formats));
    }

    /// Whether this node reads what its cluster has, as a peer knows it.
    pub(super) fn compare_formats(
        &self,
        peer: u64,
        response: &wire::HelloResponse,
    ) -> Result<(), NotWelcome> {
        let cluster = response.formats.as_ref().map_or(0, |formats| formats.cluster_version);
        let (cluster, node) = (FormatVersion(cluster), self.peers.own_formats());
        if cluster.0 == 0 || node.has(cluster) {
            return Ok(());
        }
        Err(NotWelcome::ClusterVersion { peer, cluster, node })
    }

    /// What a node reads that is to be added, if that is what this cluster has.
    pub(super) fn can_read_what_the_cluster_has(
        &self,
        node_id: u64,
        response: &wire::HelloResponse,
    ) -> Result<FormatRange, NotAddable> {
        let formats = said(response.formats.as_ref());
        match self.cluster_version() {
            None => Ok(formats),
            Some(cluster) if formats.has(cluster) => Ok(formats),
            Some(cluster) => Err(NotAddable::OtherFormats { node_id, formats, cluster }),
        }
    }
}
