//! The one place where committed entries become state: openraft's state machine over `machine` and
//! the state store.
//!
//! Entries that are ready together are applied together: through one overlay, into one commit that
//! carries their records, the last applied log id and the membership. Nobody is answered before
//! that commit, so nobody can act on an answer that a reader could not see yet.
//!
//! Nothing here can fail for the entry's sake: what can't be decoded was damaged or made by a newer
//! version, and a replica that skipped it would differ from the others for ever; it stops instead.

mod versions;

use std::{io, sync::Arc, time::Duration};

use futures_util::{FutureExt, Stream, StreamExt};
use openraft::{
    EntryPayload as Payload, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};
use tokio::{sync::watch, time::Instant};

use self::versions::Ready;
pub use self::versions::Versions;
use super::{
    cluster_id::ClusterId,
    compare::Comparisons,
    membership::{LastIn, decode_membership, encode_membership},
    traced::TracedEntries,
    types::{
        self, AppliedAt, Entry, LogId, Replies, Snapshot, SnapshotData, SnapshotMeta,
        StoredMembership, TypeConfig, term_of,
    },
};
use crate::{
    env::{Event, Observer, traces::Value},
    machine::{
        self,
        command::Action,
        query,
        view::{Overlay, Writes},
    },
    metrics::Metrics,
    storage::{
        disk::{is_exhausted, is_full},
        log_id::LogId as StorageLogId,
        snapshot::{Membership, SnapshotInfo, reader::SnapshotError},
        state::{SnapshotRequests, StateError, StateStore},
    },
};

/// At most this many entries in one commit, so that its writes stay bounded.
const ENTRIES_PER_COMMIT_MAX: usize = 64;

/// No further entry joins a commit of this many bytes: some 700 commands on counters, a few
/// milliseconds. (One entry alone may have 2,048 commands.) Nothing else of the node runs on this thread
/// meanwhile, heartbeats included, and a node that is silent for an election timeout loses its leadership.
const COMMIT_BYTES: usize = 64 << 10;

/// How long a snapshot waits that gave way.
const PAUSE_AFTER_ABANDONED: Duration = Duration::from_millis(500);

/// … and one that found no room: the flushes between two attempts need what there is.
const PAUSE_AFTER_FULL_DISK: Duration = Duration::from_secs(5);

/// … and one of a state that is not what was written: it will not be again, and openraft can't be told so.
const PAUSE_AFTER_ROTTEN: Duration = Duration::from_secs(60);

/// openraft's state machine.
#[derive(Clone)]
pub struct StateMachine {
    state: Arc<StateStore>,
    snapshots: SnapshotRequests,
    applied: Arc<watch::Sender<u64>>,
    observer: Option<Arc<dyn Observer>>,
    traced: TracedEntries,
    metrics: Arc<Metrics>,
    cluster_id: ClusterId,
    versions: Option<Versions>,
    last_in: Arc<LastIn>,
    comparisons: Comparisons,
    #[cfg(feature = "seeded-bugs")]
    applier: Option<super::kept::Applier>,
}

impl std::fmt::Debug for StateMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StateMachine")
    }
}

/// What a state machine stands on.
pub struct Foundation {
    /// The state.
    pub state: Arc<StateStore>,
    /// Asks for snapshots of it.
    pub snapshots: SnapshotRequests,
    /// Tells those who wait how far it is.
    pub applied: watch::Sender<u64>,
    /// Sees what is applied, in simulations.
    pub observer: Option<Arc<dyn Observer>>,
    /// Which entries are traced.
    pub traced: TracedEntries,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Which cluster this is.
    pub cluster_id: ClusterId,
    /// Learns of entries after which replicas are compared.
    pub comparisons: Comparisons,
    /// Learns of memberships that the node is in.
    pub last_in: Arc<LastIn>,
}

impl std::fmt::Debug for Foundation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Foundation")
    }
}

impl StateMachine {
    /// Over the state.
    pub fn new(foundation: Foundation) -> Self {
        let Foundation {
            state,
            snapshots,
            applied,
            observer,
            traced,
            metrics,
            cluster_id,
            comparisons,
            last_in,
        } = foundation;
        StateMachine {
            state,
            snapshots,
            applied: Arc::new(applied),
            observer,
            traced,
            metrics,
            cluster_id,
            comparisons,
            last_in,
            versions: None,
            #[cfg(feature = "seeded-bugs")]
            applier: None,
        }
    }

    /// Refuses entries that this node does not read, and writes the cluster's version down.
    #[must_use]
    pub fn with_versions(self, versions: Versions) -> Self {
        StateMachine { versions: Some(versions), ..self }
    }

    /// Says whose clock and id apply would be impure with.
    #[cfg(feature = "seeded-bugs")]
    pub(crate) fn with_applier(self, applier: super::kept::Applier) -> Self {
        StateMachine { applier: Some(applier), ..self }
    }

    fn observe(&self, event: Event<'_>) {
        if let Some(observer) = &self.observer {
            observer.observe(event);
        }
    }

    /// What was applied before this process, or came with a snapshot or the cluster's first entry.
    async fn look_at_state(&self) -> io::Result<()> {
        let meta = query::meta(&self.state.view());
        self.cluster_id.saw(&meta);
        match &self.versions {
            Some(versions) => versions.has_become(meta.version).await,
            None => Ok(()),
        }
    }

    async fn look_at(&self, entry: Entry) -> io::Result<Ready> {
        let ready = Ready::of(entry)?;
        if let Some(versions) = &self.versions {
            versions.look_at(&ready).await?;
        }
        Ok(ready)
    }

    fn tell_applied(&self) {
        let index = self.state.applied().map_or(0, |applied| applied.index);
        self.applied.send_if_modified(|value| std::mem::replace(value, index) != index);
    }

    /// Applies entries in their order and commits them as one: all, or those up to the first after which replicas
    /// are compared, as that is about the state after it and nothing more. As many replies as that were.
    fn apply_together(&self, entries: &[Ready]) -> io::Result<Vec<Replies>> {
        #[cfg(feature = "seeded-bugs")]
        self.applier.iter().for_each(super::kept::Applier::enter);
        let began_ns = self.traced.tracer().now_ns();
        let began = Instant::now();
        let mut writes = Writes::default();
        let mut membership = None;
        let mut after = None;
        let mut replies = Vec::with_capacity(entries.len());
        let mut is_compared = false;
        let view = self.state.view();
        for Ready { entry, batch } in entries {
            replies.push(match (&entry.payload, batch) {
                (Payload::Membership(members), _) => {
                    self.last_in.applied(entry.log_id.index, members);
                    membership = Some(Membership {
                        log_id: Some(to_storage(&entry.log_id)),
                        encoded: encode_membership(members),
                    });
                    Replies::default()
                }
                (_, None) => Replies::default(),
                (_, Some(batch)) => {
                    let mut overlay = Overlay::new(&view, &mut writes);
                    let index = entry.log_id.index;
                    is_compared = batch.commands.iter().any(|it| it.action == Action::Compare);
                    let replies = Arc::new(machine::apply(&mut overlay, index, batch));
                    let meta = query::meta(&overlay);
                    let revision = meta.revision;
                    after = Some(meta);
                    Replies { replies, revision, applied: None }
                }
            });
            if is_compared {
                break;
            }
        }
        drop(view);
        let entries = &entries[..replies.len()];
        #[cfg(feature = "seeded-bugs")]
        if tally_proto::seeded_bugs::is_on("waiters-by-index") {
            let indexes = entries.iter().map(|ready| ready.entry.log_id.index);
            let each = indexes.zip(&replies);
            each.for_each(|(index, replies)| super::kept::keep_replies(index, replies));
        }
        let last = entries.last().expect("there is at least the entry that was waited for");
        self.state.commit(writes, to_storage(&last.entry.log_id), membership);
        if is_compared {
            let index = last.entry.log_id.index;
            self.comparisons.applied(index);
            if !self.state.compare_here() {
                tracing::info!(index, "not compared: earlier states wait to be flushed");
            }
        }
        if let Some(observer) = &self.observer {
            for (Ready { entry, .. }, replies) in entries.iter().zip(&replies) {
                let (term, index) = (term_of(&entry.log_id), entry.log_id.index);
                observer.observe(Event::Applied { term, index, replies: &replies.replies });
            }
        }
        // Before anybody is answered: the answer's token has it.
        after.iter().for_each(|meta| self.cluster_id.saw(meta));
        self.tell_applied();
        if self.traced.tracer().is_on() {
            self.tell_traced(entries, began_ns);
        }
        let took = began.elapsed();
        let mut commands = 0;
        for replies in &mut replies {
            commands += replies.replies.len() as u64;
            replies.applied = Some(AppliedAt { began, took });
        }
        self.metrics.writes.apply.record(took);
        self.metrics.writes.applied_commands.add(commands);
        Ok(replies)
    }

    fn tell_traced(&self, entries: &[Ready], began_ns: u64) {
        for Ready { entry, .. } in entries {
            if let Some(contexts) = self.traced.get(&entry.log_id) {
                let attributes = [
                    ("tally.log_index", Value::Number(entry.log_id.index)),
                    ("tally.entries", Value::Number(entries.len() as u64)),
                ];
                self.traced.tracer().end_all(&contexts, "apply", began_ns, &attributes, None);
            }
        }
    }
}

fn payload_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        Payload::Normal(payload) => payload.batch.len(),
        Payload::Blank | Payload::Membership(_) => 0,
    }
}

/// A log id as storage knows it.
pub fn to_storage(log_id: &LogId) -> StorageLogId {
    StorageLogId::new(term_of(log_id), log_id.index)
}

/// A log id as openraft knows it.
pub fn from_storage(log_id: StorageLogId) -> LogId {
    types::log_id(log_id.term, log_id.index)
}

fn membership_from_storage(membership: &Membership) -> io::Result<StoredMembership> {
    if membership.encoded.is_empty() {
        return Ok(StoredMembership::default());
    }
    let members = decode_membership(&membership.encoded).map_err(io::Error::other)?;
    Ok(StoredMembership::new(membership.log_id.map(from_storage), members))
}

fn snapshot_meta(info: &SnapshotInfo) -> io::Result<SnapshotMeta> {
    Ok(SnapshotMeta {
        last_log_id: Some(from_storage(info.last_log_id)),
        last_membership: membership_from_storage(&info.membership)?,
    })
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        self.look_at_state().await?;
        self.tell_applied();
        let membership = membership_from_storage(&self.state.membership())?;
        Ok((self.state.applied().map(from_storage), membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let mut together = Vec::new();
        let mut responders = Vec::new();
        while let Some(first) = entries.next().await {
            let (entry, responder) = first?;
            let mut bytes = payload_bytes(&entry);
            together.push(self.look_at(entry).await?);
            responders.push(responder);
            while together.len() < ENTRIES_PER_COMMIT_MAX && bytes < COMMIT_BYTES {
                let Some(Some(next)) = entries.next().now_or_never() else { break };
                let (entry, responder) = next?;
                bytes += payload_bytes(&entry);
                together.push(self.look_at(entry).await?);
                responders.push(responder);
            }
            let mut replies = Vec::with_capacity(together.len());
            while replies.len() < together.len() {
                self.state.wait_for_room().await.map_err(io::Error::other)?;
                replies.extend(self.apply_together(&together[replies.len()..])?);
            }
            if together.iter().any(|ready| ready.raises().is_some()) {
                self.look_at_state().await?;
            }
            let more_waits = together.len() == ENTRIES_PER_COMMIT_MAX || bytes >= COMMIT_BYTES;
            together.clear();
            for (responder, replies) in responders.drain(..).zip(replies) {
                if let Some(responder) = responder {
                    responder.send(replies);
                }
            }
            // A long queue of entries is always ready, so nothing else would make this task wait.
            if more_waits {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> io::Result<()> {
        let received = match snapshot {
            SnapshotData::Received(received) => received,
            // The state store restores itself from its own snapshot when it is opened, so openraft
            // never finds one that is ahead of the state.
            SnapshotData::Outgoing(_) => {
                return Err(io::Error::other("the local snapshot is ahead of the state"));
            }
        };
        // Entries that conflict with the snapshot were truncated before it came here. That becomes
        // durable together with the log's jump, before the state is the snapshot's
        // (`StateHooks::log_reaches`): else the log could still have other entries after a power cut, at
        // indexes that are committed.
        let began = Instant::now();
        let last_index = meta.last_log_id.as_ref().map_or(0, |last| last.index);
        tracing::info!(index = last_index, "installing a snapshot from the leader");
        self.observe(Event::SnapshotReceived { index: last_index });
        self.state.install_snapshot(received).await.map_err(io::Error::other)?;
        let index = self.state.applied().map_or(0, |applied| applied.index);
        let elapsed_ms = began.elapsed().as_millis() as u64;
        tracing::info!(index, elapsed_ms, "a snapshot was installed");
        self.observe(Event::SnapshotInstalled { index });
        self.look_at_state().await?;
        self.tell_applied();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let Some(reader) = self.state.open_snapshot_reader().await.map_err(io::Error::other)?
        else {
            return Ok(None);
        };
        let meta = snapshot_meta(reader.info())?;
        Ok(Some(Snapshot { meta, snapshot: SnapshotData::Outgoing(reader) }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let info = loop {
            match self.snapshots.build().await {
                Ok(info) => break info,
                // Something else went first. openraft can't be told that there is none, so: again.
                Err(StateError::SnapshotAbandoned) => {
                    tracing::info!(
                        "a snapshot gave way to something more urgent and is begun again"
                    );
                    tokio::time::sleep(PAUSE_AFTER_ABANDONED).await;
                }
                // What was written is removed, and a full disk is no reason to end.
                Err(StateError::Snapshot(SnapshotError::Io { source, .. }))
                    if is_full(&source) || is_exhausted(&source) =>
                {
                    tracing::warn!(error = %source, "a snapshot finds no room; it is begun again later");
                    tokio::time::sleep(PAUSE_AFTER_FULL_DISK).await;
                }
                // Whoever looks after comparisons knows. Nothing of this state goes anywhere.
                Err(error @ StateError::Rotten { .. }) => {
                    tracing::error!(%error, "no snapshot is built");
                    tokio::time::sleep(PAUSE_AFTER_ROTTEN).await;
                }
                // openraft can't be told so either. Nothing is written before there is room for more than what was.
                Err(error @ StateError::NoRoomForSnapshot { .. }) => {
                    tracing::warn!(%error, "a snapshot finds no room; it is begun again when there is some");
                    let has_room = async || {
                        let bytes = self.state.next_snapshot_bytes();
                        self.state.has_room_for(bytes).await.unwrap_or(false)
                    };
                    while !has_room().await {
                        tokio::time::sleep(PAUSE_AFTER_FULL_DISK).await;
                    }
                }
                Err(StateError::NoRoomToFlush) => tokio::time::sleep(PAUSE_AFTER_FULL_DISK).await,
                Err(error) => return Err(io::Error::other(error)),
            }
        };
        let reader = self.state.open_snapshot_reader().await.map_err(io::Error::other)?;
        let reader = reader.ok_or_else(|| io::Error::other("the snapshot just built is gone"))?;
        self.observe(Event::SnapshotBuilt { index: info.last_log_id.index });
        let meta = snapshot_meta(&info)?;
        Ok(Snapshot { meta, snapshot: SnapshotData::Outgoing(reader) })
    }
}
