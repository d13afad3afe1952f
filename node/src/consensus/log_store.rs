//! openraft's log over the write-ahead log: conversions, and two rules that openraft does not know.
//!
//! - What is purged must be held elsewhere, durably ([`StateStore::purge_limit`]). A purge is asked
//!   for with that in mind (`snapshots`); it is checked all the same, because breaking it would only show after a power
//!   cut. A purge beyond the limit is an error that ends the node before anything is lost.
//! - A read for replication ends at [`APPEND_BYTES_MAX`], so that a message between nodes does.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use openraft::{
    EntryPayload as Payload, LogState, RaftLogReader, impls::leader_id_std::LeaderId,
    storage::RaftLogStorage,
};
use tally_proto::seeded_bugs;
use tokio::time::Instant;

use super::{
    APPEND_BYTES_MAX,
    membership::{decode_membership, encode_membership},
    traced::TracedEntries,
    types::{self, Entry, EntryPayload, IoFlushed, LogId, TypeConfig, Vote, term_of},
};
use crate::{
    env::{Event, Observer, traces::Value},
    storage::{
        state::StateStore,
        wal::{self, Ballot, Wal},
    },
};

/// Kinds of entries in the log; part of the on-disk format.
pub(super) const KIND_BLANK: u8 = 0;
pub(super) const KIND_BATCH: u8 = 1;
pub(super) const KIND_MEMBERSHIP: u8 = 2;

/// openraft's log storage. Clones share the log.
#[derive(Clone)]
pub struct LogStore {
    log: Wal,
    state: Arc<StateStore>,
    /// Payload bytes appended since the start: what snapshots are timed by.
    appended_bytes: Arc<AtomicU64>,
    observer: Option<Arc<dyn Observer>>,
    traced: TracedEntries,
}

impl Debug for LogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogStore").field("log", &self.log).finish_non_exhaustive()
    }
}

impl LogStore {
    /// Over an open log. `state` says how far it may be purged.
    pub fn new(
        log: Wal,
        state: Arc<StateStore>,
        appended_bytes: Arc<AtomicU64>,
        observer: Option<Arc<dyn Observer>>,
        traced: TracedEntries,
    ) -> Self {
        LogStore { log, state, appended_bytes, observer, traced }
    }

    /// The log.
    pub fn log(&self) -> &Wal {
        &self.log
    }
}

pub(super) fn to_wal(log_id: &LogId) -> wal::LogId {
    wal::LogId { term: term_of(log_id), index: log_id.index }
}

fn from_wal(log_id: wal::LogId) -> LogId {
    types::log_id(log_id.term, log_id.index)
}

fn ballot(vote: &Vote) -> Ballot {
    Ballot {
        term: vote.leader_id.term,
        node_id: Some(vote.leader_id.voted_for),
        committed: vote.committed,
    }
}

fn vote(ballot: Ballot) -> Option<Vote> {
    let voted_for = ballot.node_id?;
    Some(Vote { leader_id: LeaderId { term: ballot.term, voted_for }, committed: ballot.committed })
}

fn entry_to_wal(entry: Entry) -> wal::Entry {
    let (kind, payload) = match entry.payload {
        Payload::Blank => (KIND_BLANK, Bytes::new()),
        Payload::Normal(EntryPayload { batch, .. }) => (KIND_BATCH, batch),
        Payload::Membership(members) => (KIND_MEMBERSHIP, encode_membership(&members)),
    };
    wal::Entry { log_id: to_wal(&entry.log_id), kind, payload }
}

fn entry_from_wal(entry: wal::Entry) -> io::Result<Entry> {
    let payload = match entry.kind {
        KIND_BLANK => Payload::Blank,
        KIND_BATCH => Payload::Normal(EntryPayload { batch: entry.payload, traced: None }),
        KIND_MEMBERSHIP => {
            Payload::Membership(decode_membership(&entry.payload).map_err(io::Error::other)?)
        }
        kind => {
            let message =
                format!("entry {} is of kind {kind}, made by a newer version", entry.log_id);
            return Err(io::Error::other(message));
        }
    };
    Ok(Entry { log_id: from_wal(entry.log_id), payload })
}

/// The voters that an entry names, if it is one that does.
fn voters_in(kind: u8, payload: &[u8]) -> Option<Vec<BTreeSet<u64>>> {
    let members = (kind == KIND_MEMBERSHIP).then(|| decode_membership(payload));
    members?.ok().map(|members| members.get_joint_config().clone())
}

impl LogStore {
    async fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let entries = self.log.read(from..to, bytes_max).await?;
        let mut entries: Vec<Entry> =
            entries.into_iter().map(entry_from_wal).collect::<io::Result<_>>()?;
        if self.traced.tracer().is_on() {
            for entry in &mut entries {
                if let Payload::Normal(payload) = &mut entry.payload {
                    payload.traced = self.traced.get(&entry.log_id);
                }
            }
        }
        Ok(entries)
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
    where
        R: RangeBounds<u64> + Clone + Debug + Send,
    {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        self.read(from, to, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, from: u64, to: u64) -> io::Result<Vec<Entry>> {
        let entries = self.read(from, to, APPEND_BYTES_MAX).await?;
        // Claim: an append never carries entries that leave a hole behind the one that it names as
        // the entry before. openraft takes what comes from here for a row that begins at `from`, and
        // names `from - 1`. It purges nothing that a stream under way still needs, except in the
        // moment after a stream has failed: then it purges first, and the old stream may be asked
        // for one more request before it is dropped. What is read then begins behind the purged
        // entries, and a follower that gets it must end itself, as its log would have a hole. Nothing
        // at all makes a message without entries, and `peer::network` ends the stream at it, so that
        // openraft looks again at what the follower needs.
        match entries.first() {
            Some(first) if first.log_id.index != from => Ok(Vec::new()),
            _ => Ok(entries),
        }
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log.vote().and_then(vote))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        Ok(LogState {
            last_purged_log_id: self.log.purged().map(from_wal),
            last_log_id: self.log.last().map(from_wal),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.log.save_vote(ballot(vote)).await?;
        if let Some(observer) = &self.observer {
            observer.observe(Event::VoteSaved(ballot(vote)));
        }
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.log.save_committed(committed.as_ref().map(to_wal))
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        // Recovery has clamped it to the last entry: a leader may commit through its followers
        // before its own sync returns, and a power cut then leaves the hint ahead of the log.
        Ok(self.log.committed().map(from_wal))
    }

    async fn append<I>(&mut self, entries: I, callback: IoFlushed) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        // What is traced of them; where nothing is, this makes nothing.
        let mut traced = Vec::new();
        let take = |entry: Entry| {
            if let Payload::Normal(EntryPayload { traced: Some(contexts), .. }) = &entry.payload {
                self.traced.put(&entry.log_id, contexts);
                traced.push((entry.log_id.index, Arc::clone(contexts)));
            }
            entry_to_wal(entry)
        };
        let entries: Vec<wal::Entry> = entries.into_iter().map(take).collect();
        let tracing = (!traced.is_empty()).then(|| {
            let tracer = self.traced.tracer().clone();
            (tracer.now_ns(), tracer, traced, entries.len())
        });
        let bytes: usize = entries.iter().map(|entry| entry.payload.len()).sum();
        self.appended_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(observer) = &self.observer {
            for wal::Entry { log_id, kind, payload } in &entries {
                let voters = voters_in(*kind, payload);
                let (term, index) = (log_id.term, log_id.index);
                let voters = voters.as_deref();
                observer.observe(Event::Appended { term, index, payload, voters });
            }
        }
        let (began, meters) = (Instant::now(), Arc::clone(self.log.meters()));
        let last = entries.last().map(|entry| entry.log_id);
        let told = self.observer.clone().zip(last);
        let synced = move |result: io::Result<()>| {
            meters.append.record(began.elapsed());
            if let (Some(last), Ok(())) = (last, &result) {
                meters.synced.note(last.index);
            }
            if let (Some((observer, last)), Ok(())) = (&told, &result) {
                observer.observe(Event::AppendSynced { term: last.term, index: last.index });
            }
            if let Some((began_ns, tracer, traced, together)) = &tracing {
                let error = result.as_ref().err().map(ToString::to_string);
                for (index, contexts) in traced {
                    let attributes = [
                        ("tally.log_index", Value::Number(*index)),
                        ("tally.entries", Value::Number(*together as u64)),
                    ];
                    tracer.end_all(contexts, "append", *began_ns, &attributes, error.as_deref());
                }
            }
            callback.io_completed(result);
        };
        self.log.append(entries, Box::new(synced)).await
    }

    async fn truncate_after(&mut self, keep: Option<LogId>) -> io::Result<()> {
        if let Some(observer) = &self.observer {
            observer.observe(Event::Truncated { keep: keep.as_ref().map_or(0, |keep| keep.index) });
        }
        self.log.truncate_after(keep.as_ref().map(to_wal)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let limit = self.state.purge_limit();
        let mut upto = to_wal(&upto);
        if seeded_bugs::is_on("purge-to-applied") {
            let applied = self.state.applied();
            upto = applied.map_or(upto, |applied| upto.max(applied.into()));
        } else if limit.is_none_or(|limit| wal::LogId::from(limit) < upto) {
            // Ends the node, as openraft would go on as if it were done.
            let held = format!("{limit:?} is held durably");
            return Err(io::Error::other(format!(
                "a purge up to {upto} was asked for, and {held}"
            )));
        }
        if let Some(observer) = &self.observer {
            let jump = self.log.log_id(upto.index) != Some(upto);
            observer.observe(Event::Purged { index: upto.index, jump });
        }
        self.log.purge(upto).await
    }
}
