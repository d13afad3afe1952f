//! Changing who belongs to the cluster.

use tally_proto::v1;

use crate::{
    call::{Write, answers},
    client::Client,
};

impl Client {
    /// Adds a node that receives the log and has no vote. It must be running at the address of its peer port, with an
    /// empty data directory; 0 is whatever id it has (with TLS between nodes the id has to be said). Any node may be
    /// asked, and sent again it changes nothing. While authentication is on it takes a role that is admin, as do the
    /// other changes. Request and answer are the messages of the API ([`proto`](crate::proto)): `plan` says what the
    /// voters were and are.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// client.add_learner(4, "10.0.0.4:7501").await?;
    /// # Ok(()) }
    /// ```
    pub fn add_learner(
        &self,
        node_id: u64,
        peer_address: impl Into<String>,
    ) -> Write<v1::ClusterAddLearnerRequest> {
        let peer_address = peer_address.into();
        Write::new(self, v1::ClusterAddLearnerRequest { node_id, peer_address, preview: false })
    }

    /// Makes a learner a voter. Refused while it is far behind, or has not been heard of.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// client.promote(4).await?;
    /// # Ok(()) }
    /// ```
    pub fn promote(&self, node_id: u64) -> Write<v1::ClusterPromoteRequest> {
        Write::new(self, v1::ClusterPromoteRequest { node_id, ..Default::default() })
    }

    /// Takes a member out. Its id is never used again. Refused if that would leave no quorum, or, unless it is said
    /// ([`accept_fewer_failures`](Write::accept_fewer_failures)), if fewer voters could fail then than now.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let plan = client.remove(3).preview().await?.plan.unwrap_or_default();
    /// if plan.refusal.is_empty() {
    ///     client.remove(3).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub fn remove(&self, node_id: u64) -> Write<v1::ClusterRemoveRequest> {
        Write::new(self, v1::ClusterRemoveRequest { node_id, ..Default::default() })
    }

    /// Hands leadership to a voter; 0 is the one that has applied most.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// println!("node {} leads", client.transfer_leader(0).await?.leader_id);
    /// # Ok(()) }
    /// ```
    pub fn transfer_leader(&self, node_id: u64) -> Write<v1::ClusterTransferLeaderRequest> {
        Write::new(self, v1::ClusterTransferLeaderRequest { node_id, preview: false })
    }

    /// Keeps a voter from leading, until it is [undone](Write::undo): it hands leadership over if it has it, and stands
    /// for no election while anybody else can lead. Refused for the last one that may.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// client.drain(3).await?;
    /// // Its machine is seen to.
    /// client.drain(3).undo().await?;
    /// # Ok(()) }
    /// ```
    pub fn drain(&self, node_id: u64) -> Write<v1::ClusterDrainRequest> {
        Write::new(self, v1::ClusterDrainRequest { node_id, ..Default::default() })
    }

    /// Gives the cluster the newest version of the formats that all members read. From then on no node can go back to a
    /// release that does not read it. Refused while a member does not, or was not heard. Request and answer are the
    /// messages of the API ([`proto`](crate::proto)).
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let plan = client.finalize_upgrade().preview().await?.plan.unwrap_or_default();
    /// if plan.refusal.is_empty() {
    ///     client.finalize_upgrade().await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub fn finalize_upgrade(&self) -> Write<v1::ClusterFinalizeUpgradeRequest> {
        Write::new(self, v1::ClusterFinalizeUpgradeRequest { preview: false })
    }

    /// Has a node (0: the asked one) build a snapshot of its state, and waits until it is stored. Sent again it goes on
    /// waiting; a large state takes longer than a call's usual deadline.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let minute = std::time::Duration::from_secs(60);
    /// println!("up to {}", client.snapshot(3).deadline(minute).await?.log_index);
    /// # Ok(()) }
    /// ```
    pub fn snapshot(&self, node_id: u64) -> Write<v1::ClusterSnapshotRequest> {
        Write::new(self, v1::ClusterSnapshotRequest { node_id })
    }
}

macro_rules! previews {
    ($($request:ident)*) => {
        $(impl Write<v1::$request> {
            /// Asks what it would do, and changes nothing: `plan` has the voters before and after, and why it would be
            /// refused, if so.
            ///
            /// ```no_run
            /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
            /// let plan = client.remove(3).preview().await?.plan.unwrap_or_default();
            /// println!("{:?}: {}", plan.after, plan.refusal);
            /// # Ok(()) }
            /// ```
            pub fn preview(mut self) -> Self {
                self.request.preview = true;
                self
            }
        })*
    };
}

previews! {
    ClusterAddLearnerRequest ClusterPromoteRequest ClusterRemoveRequest ClusterTransferLeaderRequest
    ClusterDrainRequest
}

impl Write<v1::ClusterFinalizeUpgradeRequest> {
    /// Asks what it would do, and changes nothing: `plan` says which version the cluster would have, and why it would be
    /// refused, if so.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let plan = client.finalize_upgrade().preview().await?.plan.unwrap_or_default();
    /// println!("from {} to {}: {}", plan.version, plan.to, plan.refusal);
    /// # Ok(()) }
    /// ```
    pub fn preview(mut self) -> Self {
        self.request.preview = true;
        self
    }
}

impl Write<v1::ClusterDrainRequest> {
    /// The node may lead again.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// client.drain(3).undo().await?;
    /// # Ok(()) }
    /// ```
    pub fn undo(mut self) -> Self {
        self.request.undo = true;
        self
    }
}

macro_rules! accepts {
    ($($request:ident)*) => {
        $(impl Write<v1::$request> {
            /// Does it though fewer voters may fail afterwards than may fail now. A step that loses the quorum is
            /// refused all the same.
            ///
            /// ```no_run
            /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
            /// client.remove(3).accept_fewer_failures().await?;
            /// # Ok(()) }
            /// ```
            pub fn accept_fewer_failures(mut self) -> Self {
                self.request.accept_fewer_failures = true;
                self
            }
        })*
    };
}

accepts! {
    ClusterPromoteRequest ClusterRemoveRequest
}

answers! {
    Write<v1::ClusterAddLearnerRequest> -> v1::ClusterAddLearnerResponse: |answer| answer;
    Write<v1::ClusterPromoteRequest> -> v1::ClusterPromoteResponse: |answer| answer;
    Write<v1::ClusterRemoveRequest> -> v1::ClusterRemoveResponse: |answer| answer;
    Write<v1::ClusterTransferLeaderRequest> -> v1::ClusterTransferLeaderResponse: |answer| answer;
    Write<v1::ClusterDrainRequest> -> v1::ClusterDrainResponse: |answer| answer;
    Write<v1::ClusterFinalizeUpgradeRequest> -> v1::ClusterFinalizeUpgradeResponse: |answer| answer;
    Write<v1::ClusterSnapshotRequest> -> v1::ClusterSnapshotResponse: |answer| answer;
}
