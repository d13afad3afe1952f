//! The last resort (`tallyd recover`): a node whose cluster has lost its quorum for good is made the only voter of a new
//! epoch. What of that is in the log, and why it is right, is in `consensus::recovery`.
//!
//! It works on the directory of a node that is stopped, and looks before it does anything: what the node holds, who
//! else answers, and what would be lost. It refuses where there is a better way. Leaves out: what is printed and asked for
//! (`process::recover`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::Instant;

pub use crate::peer::hello::There;

use super::{LOGS, NodeError, open_audit_log, stored, stored::Stored, tls_settings};
use crate::{
    audit::AuditLog,
    config::Config,
    consensus::{
        cluster_id::ClusterId,
        compare::Comparisons,
        recovery::{self, LastMembership},
    },
    env::{
        Env,
        identity::{Identity, IdentityError},
        storage_guard::StorageGuard,
    },
    machine::query,
    metrics::Metrics,
    peer::{
        hello::{self, Asker},
        peers::Peers,
    },
    storage::{state::StateStore, wal::Wal},
    tls::Tls,
};

/// How long another member has to answer: many times what a node that runs needs.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long the audit log has to be written.
const AUDIT_LOG_GRACE: Duration = Duration::from_secs(5);

/// Why nothing is done.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The node can't be opened, as at a start.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// There is a better way, or nothing to recover.
    #[error("{0}")]
    Refused(String),
}

impl From<std::io::Error> for RecoverError {
    fn from(error: std::io::Error) -> Self {
        RecoverError::Node(error.into())
    }
}

impl From<IdentityError> for RecoverError {
    fn from(error: IdentityError) -> Self {
        RecoverError::Node(error.into())
    }
}

fn refused<T>(why: String) -> Result<T, RecoverError> {
    Err(RecoverError::Refused(why))
}

/// Another member of before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Its id.
    pub node_id: u64,
    /// Address of its peer port.
    pub address: String,
    /// It had a vote.
    pub is_voter: bool,
    /// What it said, or why it did not answer.
    pub answered: Result<There, String>,
}

/// What was found in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The node.
    pub node_id: u64,
    /// Its cluster, as it is written.
    pub cluster_id: String,
    /// The epoch that it is in.
    pub epoch: u64,
    /// Term and index of the last entry of its log.
    pub last: (u64, u64),
    /// What it knows to be committed.
    pub committed: u64,
    /// What its state on the disk is after.
    pub applied: u64,
    /// Revision of that state.
    pub revision: u64,
    /// Log index of the last membership.
    pub membership_at: u64,
    /// It has a vote in it.
    pub is_voter: bool,
    /// Ids of all voters.
    pub voters: BTreeSet<u64>,
    /// The others.
    pub others: Vec<Lost>,
}

/// A stopped node, opened and looked at.
pub struct Opened {
    found: Found,
    identity: Arc<Identity>,
    log: Wal,
    state: Arc<StateStore>,
    audit: Option<Arc<AuditLog>>,
    peer_address: String,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("found", &self.found).finish_non_exhaustive()
    }
}

/// Writes a line of the audit log about a recovery.
pub(super) fn told(audit: &Arc<AuditLog>, what: &str, lost: &BTreeSet<u64>) {
    let mut line = audit.line("recover");
    line.word("what", what);
    line.word("lost_nodes", &ids(lost));
    line.write();
}

/// Ids as people read them.
pub fn ids(ids: &BTreeSet<u64>) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Opens a stopped node's directory and looks at what a recovery would do. Nothing is changed but what a start changes.
pub async fn open(config: &Config, env: &Env) -> Result<Opened, RecoverError> {
    let node_id = config.node_id;
    if Identity::stored(&*env.disk).await?.is_none() {
        return refused(format!(
            "{} holds no node: is it another directory (data_dir)? Nothing was changed",
            config.data_dir.display()
        ));
    }
    let identity =
        Arc::new(Identity::open(Arc::clone(&env.disk), node_id, env.random.next_u128()).await?);
    identity.check_version(env.formats).await?;
    let comparisons = Comparisons::open(node_id, Arc::clone(&env.disk)).await?;
    if comparisons.differs() {
        return refused(format!(
            "the state of node {node_id} was found to differ from that of a majority, so nothing may go on from it: \
             recover another node that is left, or restore a backup into a new cluster (`tally restore`)"
        ));
    }
    let metrics = Metrics::new(config.slow_operation_ms, super::names(config.hot_item_names));
    let guard =
        StorageGuard::open(Arc::clone(&env.disk), config.disk_reserve(), config.log_segment_bytes)
            .await?;
    let nonce = env.random.next_u128();
    let Stored { log, state, .. } =
        stored::open(config, env, &identity, nonce, &guard, &metrics.storage).await?;
    let audit = open_audit_log(config, env)?;
    let found = look(config, env, &identity, &log, &state).await?;
    Ok(Opened { found, identity, log, state, audit, peer_address: config.peer_address() })
}

async fn look(
    config: &Config,
    env: &Env,
    identity: &Identity,
    log: &Wal,
    state: &StateStore,
) -> Result<Found, RecoverError> {
    let node_id = config.node_id;
    let Some(last) = LastMembership::read(log, state).await? else {
        return refused(format!(
            "node {node_id} never was in a cluster: there is nothing to recover. Start it (`tallyd serve`)"
        ));
    };
    let voters = last.voter_ids();
    if last.is_quorum(&BTreeSet::from([node_id])) {
        return refused(format!(
            "node {node_id} is the only voter of its cluster, and needs nobody else: start it (`tallyd serve`)"
        ));
    }
    let meta = query::meta(&state.view());
    let others = ask_others(config, env, (identity, meta.restore_epoch), &last).await?;
    let index =
        |it: Option<crate::storage::wal::LogId>| it.map_or((0, 0), |id| (id.term, id.index));
    Ok(Found {
        node_id,
        cluster_id: identity.cluster_id().await.unwrap_or_default(),
        epoch: meta.restore_epoch,
        last: index(log.last()),
        committed: index(log.committed()).1,
        applied: state.applied().map_or(0, |applied| applied.index),
        revision: meta.revision,
        membership_at: last.at,
        is_voter: voters.contains(&node_id),
        voters,
        others,
    })
    .and_then(|found| judged(found, &last))
}

/// Refuses what would lose more than it has to.
fn judged(found: Found, last: &LastMembership) -> Result<Found, RecoverError> {
    let there: BTreeMap<u64, There> = found
        .others
        .iter()
        .filter_map(|other| Some((other.node_id, *other.answered.as_ref().ok()?)))
        .collect();
    let node_id = found.node_id;
    let newer = found.others.iter().find_map(|other| {
        let epoch = other.answered.as_ref().ok()?.left_behind_in;
        (epoch > 0).then_some((other.node_id, epoch))
    });
    if let Some((other, epoch)) = newer {
        return refused(format!(
            "the cluster goes on without this node: node {other} is of its epoch {epoch}. Wipe this node's data directory \
             and join (`tallyd serve --join ADDRESS`). Nothing was changed"
        ));
    }
    let answering = ids(&there.keys().copied().collect());
    let with_it: BTreeSet<u64> = there.keys().copied().chain([node_id]).collect();
    if last.is_quorum(&with_it) {
        return refused(format!(
            "the quorum is not lost: of the voters {} these answer: {answering}. With node {node_id} that is a quorum, and \
             nothing has to be lost: start this node (`tallyd serve`). Nothing was changed",
            ids(&found.voters)
        ));
    }
    let (term, index) = found.last;
    if let Some((other, there)) = with_more(&there, found.last) {
        let its = match there.last {
            Some((term, index)) => format!("its log ends at index {index}, term {term}"),
            None => format!("holds the log up to committed entry {}", there.held_index),
        };
        return refused(format!(
            "node {other} answers, and {its}; this one's ends at index {index}, term {term}. A log whose last term is higher \
             has all that was committed before, whatever the indexes. Less is lost if node {other} is the one that goes \
             on: stop it, and recover it instead. (If it must not be, stop it, and do this again.) Nothing was changed"
        ));
    }
    Ok(found)
}

/// Whether another node's log holds what one that ends at this term and index may lack.
///
/// **Claim.** Of two logs the one that ends in the higher term, and with one term the longer one, holds every committed
/// entry that either of them holds.
///
/// **It relies on** what Raft's elections rely on (section 5.4): a leader has all that was committed in terms before its
/// own, and two logs with an entry of one index and term are the same up to it.
///
/// **The steps.** The last entry of the one log is of a leader of its term, so that log is this leader's up to there. What
/// was committed in an earlier term that leader had before its first entry, so it is in that log, too. What was committed
/// in the same term was this leader's as well, at an index up to the end of a log that ends in this term: the longer one
/// has it. So an index says nothing between two terms: entries that a leader without a quorum wrote make its log the
/// longer one, and what others acknowledged in a later term is not in it.
///
/// An older release says only up to where what it holds is committed. That is compared with the index, which can be wrong
/// in that very case: all that could be done is to refuse wherever such a node answers.
///
/// **What breaks it:** a comparison by index alone (`a_later_term_is_further_than_a_longer_log`).
fn has_more(there: &There, (term, index): (u64, u64)) -> bool {
    match there.last {
        Some(last) => last > (term, index),
        None => there.held_index > index,
    }
}

/// Who has most, of those that have more than a log that ends so: by the ends of their logs, and of those that do not say
/// them by what is committed.
fn with_more(there: &BTreeMap<u64, There>, own: (u64, u64)) -> Option<(u64, There)> {
    let with_more = there.iter().filter(|(_, it)| has_more(it, own));
    with_more.max_by_key(|(_, it)| (it.last, it.held_index)).map(|(id, it)| (*id, *it))
}

/// Asks the other members whether they are there.
async fn ask_others(
    config: &Config,
    env: &Env,
    (identity, restore_epoch): (&Identity, u64),
    last: &LastMembership,
) -> Result<Vec<Lost>, RecoverError> {
    let tls = Tls::open(&tls_settings(config), &env.clock).map_err(NodeError::from)?;
    let cluster_id = ClusterId::default();
    if let Some(Ok(id)) = identity.cluster_id().await.map(|id| u128::from_str_radix(&id, 16)) {
        cluster_id.set(id);
    }
    let peers = Peers::new(
        config.node_id,
        identity.incarnation(),
        Arc::clone(&env.network),
        PATIENCE,
        cluster_id,
        tls.peer(),
        (env.formats, config.peer_via.0.clone()),
    );
    let asker = Asker {
        peers: &peers,
        incarnation: identity.incarnation(),
        client_address: config.client_address(),
        restore_epoch,
    };
    let known = identity.known().await;
    let until = Instant::now() + PATIENCE;
    let voters = last.voter_ids();
    let others = last.members.iter().filter(|(id, _)| **id != config.node_id);
    let asked = others.map(async |(id, address)| {
        let answered = hello::is_there(&asker, *id, address, known.get(id), until).await;
        Lost { node_id: *id, address: address.clone(), is_voter: voters.contains(id), answered }
    });
    Ok(join_all(asked).await)
}

impl Opened {
    /// What was found.
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// Makes the node the only voter of a new epoch. From its first step on it is finished by the next start, whatever
    /// happens here.
    pub async fn recover(&self) -> Result<(), RecoverError> {
        let members = self.found.others.iter().map(|other| other.node_id).collect();
        let plan =
            recovery::plan(&self.log, self.found.node_id, &members, self.peer_address.clone());
        tracing::warn!(
            target: LOGS,
            node_id = self.found.node_id,
            lost = ?plan.lost,
            term = plan.term,
            log_index = plan.index,
            "a recovery from a lost quorum begins: this node goes on alone"
        );
        self.tell("begun", &plan.lost);
        let lost = plan.lost.clone();
        self.identity.begin_recovery(plan).await?;
        recovery::finish(&self.log, &self.identity).await?;
        self.tell("done", &lost);
        Ok(())
    }

    fn tell(&self, what: &str, lost: &BTreeSet<u64>) {
        if let Some(audit) = &self.audit {
            told(audit, what, lost);
        }
    }

    /// Closes all of it.
    pub async fn close(self) -> Result<(), RecoverError> {
        self.log.close().await?;
        if let Err(error) = self.state.close().await {
            tracing::warn!(target: LOGS, %error, "the state was not flushed; the log has what is missing");
        }
        if let Some(audit) = &self.audit {
            audit.close(Instant::now() + AUDIT_LOG_GRACE).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(held_index: u64, last: Option<(u64, u64)>) -> There {
        There { held_index, last, left_behind_in: 0 }
    }

    /// A leader that was cut off wrote up to entry 25 of term 3; the others went on without it in term 4.
    #[test]
    fn a_later_term_is_further_than_a_longer_log() {
        for (other, own, is_further) in [
            (there(23, Some((4, 23))), (3, 25), true),
            (there(20, Some((3, 25))), (4, 23), false),
            (there(20, Some((3, 26))), (3, 25), true),
            (there(20, Some((3, 25))), (3, 25), false),
            (there(20, Some((3, 24))), (3, 25), false),
            (there(26, None), (3, 25), true),
            (there(25, None), (3, 25), false),
        ] {
            assert_eq!(has_more(&other, own), is_further, "{other:?} beside {own:?}");
        }
    }

    #[test]
    fn who_is_named_has_more_than_all_that_answer() {
        let mut all =
            BTreeMap::from([(1, there(20, Some((3, 30)))), (2, there(23, Some((4, 23))))]);
        assert_eq!(with_more(&all, (3, 25)).map(|(id, _)| id), Some(2));
        assert_eq!(with_more(&all, (4, 23)), None);
        // One of an older release, beside one that has less.
        all.insert(3, there(40, None));
        assert_eq!(with_more(&all, (4, 23)).map(|(id, _)| id), Some(3));
    }
}
