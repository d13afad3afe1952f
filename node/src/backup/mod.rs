//! Backups that this node makes: part by part for whoever asks over the network ([`begin`]), and by itself
//! ([`schedule`]), into a [`directory`] or an object [`store`].
//!
//! A backup is read from a snapshot's file, which stands still and which a lease keeps: nothing of the state waits
//! for it, neither commits nor flushes nor the next snapshot. It is made on a thread of its own, as each byte goes
//! through four hashes and a compression: on one that answers clients each part would hold them up for milliseconds.

pub(crate) mod directory;
mod names;
pub(crate) mod schedule;
#[cfg(test)]
mod schedule_tests;
pub(crate) mod store;

use std::{future::Future, time::Duration};

use bytes::Bytes;
use tally_proto::backup::{BLOCK_BYTES_MAX, Footer, Header, Writer};
use tokio::{sync::mpsc, time::sleep};

use crate::{
    consensus::{Consensus, snapshots::NotBegun},
    env::Threads,
    machine::{
        keys::Space,
        limits,
        records::{Meta, Record},
        reply::Refusal,
        restore::{self, is_in_backup},
    },
    storage::{
        snapshot::{reader::SnapshotError, receive::SnapshotRecords},
        state::StateError,
    },
};

/// A part has at least so many bytes, but for the last.
pub(crate) const PART_BYTES: usize = 512 << 10;

/// How often it is looked whether the snapshot is there.
const SNAPSHOT_POLL: Duration = Duration::from_millis(50);

/// Parts that are made ahead of whoever asks: one, so that the next is made while the last is sent.
const PARTS_AHEAD: usize = 1;

const _: () = assert!(
    PART_BYTES + BLOCK_BYTES_MAX + 4096 < limits::ANSWER_BYTES_MAX,
    "a part fits in an answer"
);
const _: () = assert!(BLOCK_BYTES_MAX <= restore::BLOCK_BYTES_MAX, "a block fits in a request");

/// The next bytes of a backup.
#[derive(Debug, Clone, Default)]
pub(crate) struct Part {
    pub(crate) data: Bytes,
    /// What the backup's end says, with the last part.
    pub(crate) footer: Option<Footer>,
    /// Bytes of the snapshot that were read …
    pub(crate) done_bytes: u64,
    /// … of so many.
    pub(crate) total_bytes: u64,
}

/// Why there is no backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotMade {
    /// The state is a part of what is being restored, or of what is taken back of it. It ends by itself.
    #[error("{}", Refusal::RestoreUnderWay)]
    RestoreUnderWay,
    /// There is no snapshot to read it from, and no room for one, as a sentence.
    #[error("a backup is read from a snapshot, and {0}")]
    NoRoom(String),
    /// The state can't be read, or is not what was written.
    #[error("{0}")]
    Failed(String),
}

impl From<StateError> for NotMade {
    fn from(error: StateError) -> Self {
        NotMade::Failed(error.to_string())
    }
}

impl From<SnapshotError> for NotMade {
    fn from(error: SnapshotError) -> Self {
        StateError::from(error).into()
    }
}

/// Makes a backup that reaches an entry, which this node has applied. Parts come in order; dropped, it is given up.
pub(crate) fn begin(
    threads: &dyn Threads,
    consensus: Consensus,
    index: u64,
) -> mpsc::Receiver<Result<Part, NotMade>> {
    let (sender, parts) = mpsc::channel(PARTS_AHEAD);
    let making = async move {
        let made = async {
            let gone = sender.closed();
            let Some(mut maker) = Maker::open_patiently(&consensus, index, gone).await? else {
                return Ok(());
            };
            loop {
                let part = maker.part().await?;
                let is_last = part.footer.is_some();
                if sender.send(Ok(part)).await.is_err() || is_last {
                    return Ok(());
                }
            }
        };
        let made: Result<(), NotMade> = made.await;
        if let Err(why) = made {
            // Whoever asked may have gone.
            let _ = sender.send(Err(why)).await;
        }
    };
    threads.run_blocking("tally-backup", Box::pin(making));
    parts
}

/// A backup that is being made.
struct Maker {
    records: SnapshotRecords,
    header: Header,
    writer: Writer,
}

impl Maker {
    /// Begins as soon as there is a snapshot that reaches an entry, which is built if need be; none if what is given up
    /// for comes first.
    async fn open_patiently(
        consensus: &Consensus,
        index: u64,
        given_up: impl Future<Output = ()>,
    ) -> Result<Option<Maker>, NotMade> {
        let mut given_up = std::pin::pin!(given_up);
        loop {
            let state = consensus.state();
            let reaches = state.current_snapshot().is_some_and(|it| it.last_log_id.index >= index);
            // One that is replaced between the two looks is replaced by a newer one.
            if reaches && let Some(records) = state.open_snapshot_records().await? {
                return Maker::begin(consensus, records).await.map(Some);
            }
            // One is built at a time, so this is asked again for what was not begun. Where there is no room for one nobody is
            // to wait, and nothing is built on for somebody who has been refused.
            match consensus.ask_for_snapshot().await {
                Ok(()) => {}
                Err(NotBegun::NoRoom(why)) => return Err(NotMade::NoRoom(why)),
                Err(NotBegun::ShuttingDown) => return Ok(None),
            }
            tokio::select! {
                () = &mut given_up => return Ok(None),
                () = sleep(SNAPSHOT_POLL) => {}
            }
        }
    }

    /// Reads the first records, of which the first of all speaks for the whole state.
    ///
    /// **Claim.** No backup has a part of a restore. Whether one is under way is in the record of the whole state, which is
    /// written in the commit of the entry that begins or ends it; a snapshot is of one moment between two commits, and it
    /// alone is what the backup is made of. So it is asked here, of the very records that would be copied: whatever was
    /// looked at before is about another moment, and a restore may begin between that look and the snapshot. What breaks
    /// it: a way to a backup that does not lead through here. (`a_state_that_is_being_restored_is_not_backed_up`.)
    async fn begin(consensus: &Consensus, mut records: SnapshotRecords) -> Result<Maker, NotMade> {
        let block = records.next_block().await?.unwrap_or_default();
        let meta = block.iter().find(|(key, _)| key[..] == [Space::Meta as u8]);
        let meta = match meta.map(|(_, value)| Meta::decode(value)) {
            Some(Ok(meta)) => meta,
            Some(Err(error)) => {
                return Err(NotMade::Failed(format!("reading a snapshot: {error}")));
            }
            None => Meta::default(),
        };
        if meta.restore.is_under_way() {
            return Err(NotMade::RestoreUnderWay);
        }
        let last = records.info().last_log_id;
        let header = Header {
            cluster_id: meta.cluster_id,
            restore_epoch: meta.restore_epoch,
            revision: meta.revision,
            log_time_ms: meta.log_time_ms,
            applied_index: last.index,
            applied_term: last.term,
            wall_time_ms: consensus.clock().wall_ms(),
            counters: meta.counters,
            keys: meta.keys,
            idempotency_keys: meta.idempotency_keys,
            users: meta.auth.users,
            auth_enabled: meta.auth.enabled,
            auth_last_id: meta.auth.last_id,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let mut writer = Writer::new(&header);
        add(&mut writer, &block);
        Ok(Maker { records, header, writer })
    }

    async fn part(&mut self) -> Result<Part, StateError> {
        let mut footer = None;
        while self.writer.waiting_bytes() < PART_BYTES && footer.is_none() {
            match self.records.next_block().await? {
                Some(block) => add(&mut self.writer, &block),
                None => footer = Some(self.writer.finish()),
            }
        }
        Ok(Part {
            data: self.writer.take(),
            footer,
            done_bytes: self.records.position(),
            total_bytes: self.records.info().size,
        })
    }
}

/// Gives a backup what it has of a snapshot's records.
fn add(writer: &mut Writer, records: &[(Bytes, Bytes)]) {
    for (key, value) in records.iter().filter(|(key, _)| is_in_backup(key)) {
        writer.record(key, value);
    }
}
