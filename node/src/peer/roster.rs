//! Who the members are, for those who greet them: from the membership, or from the configuration
//! before there is one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use openraft::async_runtime::WatchReceiver;

use super::hello::Roster;
use crate::{
    consensus::{
        membership::{LastIn, decode_membership},
        raft::Raft,
    },
    machine::{given_ids::node_id_record, query, version::FormatVersion},
    storage::state::StateStore,
};

/// The members of a cluster, as a node knows them at each stage of its start.
pub(crate) struct Members {
    first: BTreeMap<u64, String>,
    state: Arc<StateStore>,
    raft: OnceLock<Raft>,
    last_in: Arc<LastIn>,
}

impl Members {
    /// Before Raft runs: from the state, or the first members.
    pub(crate) fn new(
        first: BTreeMap<u64, String>,
        state: Arc<StateStore>,
        last_in: Arc<LastIn>,
    ) -> Arc<Members> {
        Arc::new(Members { first, state, raft: OnceLock::new(), last_in })
    }

    /// What whoever applies memberships tells this node of its own.
    pub(crate) fn last_in(&self) -> &Arc<LastIn> {
        &self.last_in
    }

    /// From now on Raft knows of changes that are not applied yet.
    pub(crate) fn follow(&self, raft: Raft) {
        assert!(self.raft.set(raft).is_ok(), "a node has one Raft");
    }

    fn in_state(&self) -> Option<(u64, BTreeMap<u64, String>)> {
        let membership = self.state.membership();
        if membership.encoded.is_empty() {
            return None;
        }
        // A membership that can't be read is noticed where Raft takes it from the state.
        let members = decode_membership(&membership.encoded).ok()?;
        let nodes = members.nodes().map(|(id, member)| (*id, member.peer_address.clone()));
        Some((membership.log_id.map_or(0, |log_id| log_id.index), nodes.collect()))
    }
}

impl Roster for Members {
    fn members(&self) -> BTreeMap<u64, String> {
        let effective: BTreeMap<u64, String> = match self.raft.get() {
            None => BTreeMap::new(),
            Some(raft) => {
                let metrics = raft.server_metrics();
                let metrics = metrics.borrow_watched();
                let nodes = metrics.membership_config.membership().nodes();
                nodes.map(|(id, member)| (*id, member.peer_address.clone())).collect()
            }
        };
        if !effective.is_empty() {
            return effective;
        }
        self.in_state().map_or_else(|| self.first.clone(), |(_, members)| members)
    }

    fn applied(&self) -> Option<(u64, BTreeSet<u64>)> {
        self.in_state().map(|(at, members)| (at, members.into_keys().collect()))
    }

    fn cluster_version(&self) -> Option<FormatVersion> {
        let meta = query::meta(&self.state.view());
        (meta.cluster_id != 0).then_some(meta.version)
    }

    fn epoch(&self) -> u64 {
        query::meta(&self.state.view()).restore_epoch
    }

    fn is_retired(&self, node_id: u64) -> bool {
        node_id_record(&self.state.view(), node_id).is_some_and(|record| record.retired)
    }

    fn last_in(&self) -> Option<u64> {
        self.last_in.index()
    }

    fn acknowledged(&self, node_id: u64) -> u64 {
        let Some(raft) = self.raft.get() else { return 0 };
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&node_id)?.as_ref());
        // What is committed is never overruled, so it must be there after any restart.
        let committed = metrics.local_committed.as_ref().map_or(0, |log_id| log_id.index);
        matched.map_or(0, |log_id| log_id.index.min(committed))
    }
}
