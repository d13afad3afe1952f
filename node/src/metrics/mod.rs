//! What a node counts of itself while it runs: a registry for each node, made by its wiring and handed down.
//!
//! Never of the process: many nodes live in one, in tests and in simulations. Nothing here draws randomness, waits,
//! or runs by itself; who reads it is `node::eyes`.
//!
//! Leaves out: what can be asked when somebody scrapes (who leads, how large the log is); that is read there and then.

pub mod catalog;
pub mod hot;
pub mod page;
pub mod requests;
pub mod slow;
pub mod text;

use std::sync::Arc;

use self::{
    hot::{HotItems, Names},
    requests::Requests,
    slow::Slow,
    text::Exposition,
};
use crate::storage::meters::{Counter, Durations, Level, Sizes, StorageMeters};

/// The registry of one node.
#[derive(Debug)]
pub struct Metrics {
    /// The golden signals.
    pub requests: Requests,
    /// Which operations are told as slow.
    pub slow: Slow,
    /// The most used items.
    pub hot: HotItems,
    /// From the queue to the state.
    pub writes: WriteMeters,
    /// Elections and rounds.
    pub consensus: ConsensusMeters,
    /// Reads by their promise.
    pub reads: ReadMeters,
    /// Log and state.
    pub storage: Arc<StorageMeters>,
}

/// What the proposer and apply count.
#[derive(Debug, Default)]
pub struct WriteMeters {
    /// Commands in an entry.
    pub entry_commands: Sizes,
    /// Its bytes.
    pub entry_bytes: Sizes,
    /// Commands that have left the queue and wait for their client's turn.
    pub waiting_turn: Level,
    /// How long its oldest command waited.
    pub queue: Durations,
    /// From there until it is durable here.
    pub log: Durations,
    /// From there until it is applied.
    pub quorum: Durations,
    /// One step of applying.
    pub apply: Durations,
    /// Commands that were applied.
    pub applied_commands: Counter,
    /// Writes that went on to the leader.
    pub forwarded: Counter,
    /// Answers from memory, by session …
    pub replays_by_session: Counter,
    /// … and by key.
    pub replays_by_key: Counter,
}

/// What is counted of elections and of rounds for reads.
#[derive(Debug, Default)]
pub struct ConsensusMeters {
    /// This node stood.
    pub elections: Counter,
    /// It saw another leader, or none.
    pub leader_changes: Counter,
    /// Rounds that gave a read index …
    pub rounds_ok: Durations,
    /// … and those that did not.
    pub rounds_failed: Durations,
    /// Reads that shared one.
    pub round_reads: Sizes,
}

/// Levels of reads, as they are counted.
pub const LEVELS: [&str; 4] = ["linearizable", "bounded", "session", "local"];

/// Reads, by their place in [`LEVELS`].
#[derive(Debug, Default)]
pub struct ReadMeters {
    /// How many.
    pub permits: [Counter; LEVELS.len()],
    /// How old the state was at most.
    pub staleness: [Durations; LEVELS.len()],
}

impl Metrics {
    /// Of a node that tells operations above so many ms as slow, and names hot items so.
    pub fn new(slow_operation_ms: u64, names: Names) -> Arc<Metrics> {
        Arc::new(Metrics {
            requests: Requests::default(),
            slow: Slow::above_ms(slow_operation_ms),
            hot: HotItems::new(names),
            writes: WriteMeters::default(),
            consensus: ConsensusMeters::default(),
            reads: ReadMeters::default(),
            storage: Arc::default(),
        })
    }

    /// Writes all that is counted here.
    pub fn write(&self, out: &mut Exposition) {
        self.requests.write(out);
        self.hot.write(out);
        self.writes.write(out);
        self.consensus.write(out);
        self.reads.write(out);
        write_storage(&self.storage, out);
    }
}

impl WriteMeters {
    fn write(&self, out: &mut Exposition) {
        out.family(&catalog::ENTRY_COMMANDS).sizes(&[], &self.entry_commands);
        out.family(&catalog::ENTRY_SIZE).sizes(&[], &self.entry_bytes);
        out.family(&catalog::QUEUE_DURATION).durations(&[], &self.queue);
        out.family(&catalog::LOG_DURATION).durations(&[], &self.log);
        out.family(&catalog::QUORUM_DURATION).durations(&[], &self.quorum);
        out.family(&catalog::APPLY_DURATION).durations(&[], &self.apply);
        out.single(&catalog::APPLIED_COMMANDS, self.applied_commands.get());
        out.single(&catalog::FORWARDED_WRITES, self.forwarded.get());
        let mut replays = out.family(&catalog::REPLAYS);
        replays.value(&["session"], self.replays_by_session.get());
        replays.value(&["key"], self.replays_by_key.get());
    }
}

impl ConsensusMeters {
    fn write(&self, out: &mut Exposition) {
        out.single(&catalog::ELECTIONS, self.elections.get());
        out.single(&catalog::LEADER_CHANGES, self.leader_changes.get());
        let mut rounds = out.family(&catalog::READ_ROUNDS);
        rounds.durations(&["ok"], &self.rounds_ok);
        rounds.durations(&["failed"], &self.rounds_failed);
        out.family(&catalog::READ_ROUND_READS).sizes(&[], &self.round_reads);
    }
}

impl ReadMeters {
    fn write(&self, out: &mut Exposition) {
        let mut permits = out.family(&catalog::READS);
        for (level, count) in LEVELS.iter().zip(&self.permits) {
            permits.value(&[level], count.get());
        }
        let mut staleness = out.family(&catalog::STALENESS);
        for (level, ages) in LEVELS.iter().zip(&self.staleness) {
            staleness.durations(&[level], ages);
        }
    }
}

fn write_storage(storage: &StorageMeters, out: &mut Exposition) {
    out.family(&catalog::APPEND_DURATION).durations(&[], &storage.append);
    out.family(&catalog::LOG_WRITE_DURATION).durations(&[], &storage.log_write);
    out.family(&catalog::LOG_SYNC_DURATION).durations(&[], &storage.log_sync);
    out.single(&catalog::LOG_WRITTEN, storage.log_written_bytes.get());
    out.family(&catalog::SNAPSHOT_DURATION).durations(&[], &storage.snapshot);
    out.family(&catalog::FLUSH_DURATION).durations(&[], &storage.flush);
    out.single(&catalog::FLUSHED_RECORDS, storage.flushed_records.get());
    let mut lookups = out.family(&catalog::CACHE);
    lookups.value(&["hit"], storage.cache_hits.get());
    lookups.value(&["miss"], storage.cache_misses.get());
}
