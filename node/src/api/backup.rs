//! Backups, and restoring one.
//!
//! A backup is read from a snapshot's file, which stands still and which a lease keeps: nothing of the state waits
//! for it, neither commits nor flushes nor the next snapshot. What a client that is slow, or gone, can hold is that
//! file's room on the disk, until it has not asked for [`IDLE_MAX`]. In memory a backup is a part that was not
//! answered yet and one that may be asked for again: a few MiB.
//!
//! **A backup is not older than what was acknowledged when it was asked for.** It is opened behind a linearizable
//! read, which says which entry this node has applied by then, and made of a snapshot that reaches it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tally_proto::{
    backup::{Header, Writer},
    reason,
    status::StatusBuilder,
    v1::{self, CallStatus, backup_restore_request::Step},
};
use tokio::time::Instant;
use tonic::Code;

use super::{
    Answered, Api, Call,
    status::{Invalid, Kind, with_outcome},
    who::Reads,
};
use crate::{
    machine::{
        command::{Action, Answer, Refusal, RestoreBegin, RestoreCommand, RestorePhase},
        keys::Space,
        limits, query,
        records::{Meta, Record},
        restore::{self, is_in_backup},
    },
    storage::{snapshot::receive::SnapshotRecords, state::StateError},
};

/// Backups that a node makes at once: each reads all of the state from the disk.
const BACKUPS_MAX: usize = 2;

/// A backup that nobody has asked for in this time is given up.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// A part has at least so many bytes, but for the last.
const PART_BYTES: usize = 512 << 10;

/// How long a call waits for the snapshot before it says that there is nothing yet …
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(2);

/// … and the call that waits for it is refused once it took so long in all: a state of the largest size that nodes are
/// made for is written in a tenth of that, so something else is wrong, and the node's log says what.
const SNAPSHOT_TIME_MAX: Duration = Duration::from_secs(600);

/// … and how often it looks.
const SNAPSHOT_POLL: Duration = Duration::from_millis(50);

const _: () = assert!(
    PART_BYTES + tally_proto::backup::BLOCK_BYTES_MAX + 4096 < limits::ANSWER_BYTES_MAX,
    "a part fits in an answer"
);
const _: () = assert!(
    tally_proto::backup::BLOCK_BYTES_MAX <= restore::BLOCK_BYTES_MAX,
    "a block fits in a request"
);

/// The backups that are open on this node.
#[derive(Clone, Default)]
pub(super) struct Backups {
    open: Arc<Mutex<BTreeMap<u64, Arc<Open>>>>,
}

impl std::fmt::Debug for Backups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backups").finish_non_exhaustive()
    }
}

struct Open {
    /// The snapshot must reach this entry.
    index: u64,
    began: Instant,
    last_used: Mutex<Instant>,
    source: tokio::sync::Mutex<Source>,
}

/// Where a backup is.
#[derive(Default)]
struct Source {
    /// None before the snapshot is there.
    file: Option<(SnapshotRecords, Writer)>,
    /// Parts that were made.
    parts: u64,
    /// The last of them.
    last: Part,
}

#[derive(Clone, Default)]
struct Part {
    data: Bytes,
    is_last: bool,
    done_bytes: u64,
    total_bytes: u64,
}

impl Backups {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Open>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a backup up once nobody has asked for it long enough.
    async fn watch(self, id: u64) {
        loop {
            let Some(open) = self.lock().get(&id).cloned() else { return };
            let until = open.last_used() + IDLE_MAX;
            drop(open);
            if Instant::now() >= until {
                self.lock().remove(&id);
                tracing::info!(backup = id, "a backup that nobody asks for any more was given up");
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

impl Open {
    fn last_used(&self) -> Instant {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

impl Api {
    pub(crate) async fn backup_open(
        &self,
        call: &Call,
        request: v1::BackupOpenRequest,
    ) -> Answered<v1::BackupOpenResponse> {
        self.may_operate(call)?;
        let level = request.local.then(|| v1::ReadOptions {
            level: v1::ReadLevel::Local as i32,
            ..v1::ReadOptions::default()
        });
        let (index, header, is_restored) = {
            let permit = self.permit(call, level, Reads::Anything).await?;
            let index = permit.view.applied().map_or(0, |applied| applied.index);
            let is_restored = query::meta(&permit.view).restore.is_under_way();
            (index, self.read_header(&permit), is_restored)
        };
        if is_restored {
            return Err(self.restore_under_way(call, Kind::Write));
        }
        let id = self.node.random.next_u128() as u64 | 1;
        let open = Arc::new(Open {
            index,
            began: Instant::now(),
            last_used: Mutex::new(Instant::now()),
            source: tokio::sync::Mutex::default(),
        });
        {
            let mut all = self.backups.lock();
            if all.len() >= BACKUPS_MAX {
                drop(all);
                let message = format!(
                    "this node makes {BACKUPS_MAX} backups already; one that nobody asks for is given up after {} s",
                    IDLE_MAX.as_secs()
                );
                let status =
                    StatusBuilder::new(Code::ResourceExhausted, reason::TOO_MANY_BACKUPS, message);
                let status = status.outcome(v1::Outcome::NotApplied).retry_after(IDLE_MAX);
                return Err(self.finish_with_leader(call, status));
            }
            all.insert(id, open);
        }
        tokio::spawn(self.backups.clone().watch(id));
        tracing::info!(request = %call.request_id, backup = id, index, "a backup begins");
        Ok(v1::BackupOpenResponse { header: Some(header), backup_id: id })
    }

    pub(crate) async fn backup_read(
        &self,
        call: &Call,
        request: v1::BackupReadRequest,
    ) -> Answered<v1::BackupReadResponse> {
        self.may_operate(call)?;
        let id = request.backup_id;
        let open = self.backups.lock().get(&id).cloned();
        let open = open.ok_or_else(|| self.no_such_backup(call))?;
        open.touch();
        let mut source = open.source.lock().await;
        let part = match request.part {
            part if part == source.parts => self.next_part(&open, &mut source, call).await,
            part if part + 1 == source.parts => Ok(source.last.clone()),
            _ => {
                let description = format!("must be {}, or the one before", source.parts);
                return Err(self.invalid(call, Kind::Read, &Invalid::new("part", description)));
            }
        };
        open.touch();
        let part = part.map_err(|error| {
            self.backups.lock().remove(&id);
            tracing::error!(backup = id, %error, "a backup failed");
            let message = format!("the backup failed: {error}");
            let status = StatusBuilder::new(Code::NotFound, reason::BACKUP_NOT_FOUND, message);
            self.finish_with_leader(call, status)
        })?;
        let Part { data, is_last, done_bytes, total_bytes } = part;
        if data.is_empty() && !is_last {
            self.may_wait_on(call, id, &open)?;
        }
        if is_last {
            tracing::debug!(
                backup = id,
                bytes = done_bytes,
                "the last part of a backup is answered"
            );
        }
        Ok(v1::BackupReadResponse {
            header: Some(self.local_header()),
            data,
            last: is_last,
            done_bytes,
            total_bytes,
        })
    }

    /// Whether a snapshot may still come. A full disk holds it up for as long as it is full, which nobody is to wait
    /// for without being told.
    fn may_wait_on(&self, call: &Call, id: u64, open: &Open) -> Result<(), CallStatus> {
        let (code, reason, message) = if self.consensus.disk_nearly_full() {
            let why = "a backup is read from a snapshot, and this node's disk has no room for a new one: ask another \
                       node, or make room";
            (Code::ResourceExhausted, reason::DISK_NEARLY_FULL, why.to_owned())
        } else if open.began.elapsed() > SNAPSHOT_TIME_MAX {
            let why = format!(
                "a backup is read from a snapshot, and this node has built none in {} s; its log says why",
                SNAPSHOT_TIME_MAX.as_secs()
            );
            (Code::NotFound, reason::BACKUP_NOT_FOUND, why)
        } else {
            return Ok(());
        };
        self.backups.lock().remove(&id);
        tracing::warn!(backup = id, reason, "a backup was given up: no snapshot could be built");
        Err(self.finish_with_leader(call, StatusBuilder::new(code, reason, message)))
    }

    async fn next_part(
        &self,
        open: &Open,
        source: &mut Source,
        call: &Call,
    ) -> Result<Part, StateError> {
        if source.last.is_last {
            return Ok(source.last.clone());
        }
        if source.file.is_none() {
            let until = call.deadline.min(Instant::now() + SNAPSHOT_PATIENCE);
            match self.snapshot_from(open.index, until).await? {
                Some(mut records) => {
                    let writer = self.begin_file(&mut records).await?;
                    source.file = Some((records, writer));
                }
                None => return Ok(Part::default()),
            }
        }
        let (records, writer) = source.file.as_mut().expect("it was just opened");
        let total_bytes = records.info().size;
        let mut is_last = false;
        while writer.waiting_bytes() < PART_BYTES && !is_last {
            match records.next_block().await? {
                Some(block) => add(writer, &block),
                None => {
                    writer.finish();
                    is_last = true;
                }
            }
            tokio::task::yield_now().await;
        }
        let done_bytes = records.position();
        source.last = Part { data: writer.take(), is_last, done_bytes, total_bytes };
        source.parts += 1;
        if is_last {
            // The snapshot's file can go.
            source.file = None;
        }
        Ok(source.last.clone())
    }

    /// A snapshot that reaches an entry, which is built if need be; none if that takes longer.
    async fn snapshot_from(
        &self,
        index: u64,
        until: Instant,
    ) -> Result<Option<SnapshotRecords>, StateError> {
        loop {
            let state = self.consensus.state();
            let reaches = state.current_snapshot().is_some_and(|it| it.last_log_id.index >= index);
            if reaches {
                return state.open_snapshot_records().await;
            }
            // Raft builds one at a time, and is asked again for what it did not begin.
            if self.consensus.raft().trigger().snapshot().await.is_err() || Instant::now() >= until
            {
                return Ok(None);
            }
            tokio::time::sleep(SNAPSHOT_POLL).await;
        }
    }

    /// Reads the first records, of which the first of all speaks for the whole state.
    async fn begin_file(&self, records: &mut SnapshotRecords) -> Result<Writer, StateError> {
        let block = records.next_block().await?.unwrap_or_default();
        let meta = block.iter().find(|(key, _)| key[..] == [Space::Meta as u8]);
        let meta = match meta.map(|(_, value)| Meta::decode(value)) {
            Some(Ok(meta)) => meta,
            Some(Err(error)) => {
                return Err(StateError::Fatal(format!("reading a snapshot: {error}")));
            }
            None => Meta::default(),
        };
        let last = records.info().last_log_id;
        let mut writer = Writer::new(&Header {
            cluster_id: meta.cluster_id,
            restore_epoch: meta.restore_epoch,
            revision: meta.revision,
            log_time_ms: meta.log_time_ms,
            applied_index: last.index,
            applied_term: last.term,
            wall_time_ms: self.consensus.clock().wall_ms(),
            counters: meta.counters,
            keys: meta.keys,
            idempotency_keys: meta.idempotency_keys,
            users: meta.auth.users,
            auth_enabled: meta.auth.enabled,
            auth_last_id: meta.auth.last_id,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        });
        add(&mut writer, &block);
        Ok(writer)
    }

    fn no_such_backup(&self, call: &Call) -> CallStatus {
        let message = format!(
            "this node knows no such backup: another one opened it, it was started again, or nobody asked for {} s",
            IDLE_MAX.as_secs()
        );
        let status = StatusBuilder::new(Code::NotFound, reason::BACKUP_NOT_FOUND, message);
        self.finish_with_leader(call, status)
    }

    /// What everybody is told while a backup is being restored.
    pub(super) fn restore_under_way(&self, call: &Call, kind: Kind) -> CallStatus {
        let message = Refusal::RestoreUnderWay.to_string();
        let status = StatusBuilder::new(Code::Unavailable, reason::RESTORE_UNDER_WAY, message);
        let status = status.retry_after(Duration::from_secs(1));
        self.finish_with_leader(call, with_outcome(status, kind, v1::Outcome::NotApplied))
    }

    pub(crate) async fn backup_restore(
        &self,
        call: &Call,
        request: v1::BackupRestoreRequest,
    ) -> Answered<v1::BackupRestoreResponse> {
        let action = restore_command(request.step).map(Action::Restore);
        let written = self.write(call, action, None).await?;
        let Answer::Restored { phase, next } = *written.answer() else {
            unreachable!("the machine answered {:?} to a step of a restore", written.answer())
        };
        let phase = match phase {
            RestorePhase::Nothing => v1::BackupRestorePhase::Nothing,
            RestorePhase::UnderWay => v1::BackupRestorePhase::UnderWay,
            RestorePhase::Aborting => v1::BackupRestorePhase::Aborting,
            RestorePhase::Done => v1::BackupRestorePhase::Done,
        };
        let header = Some(written.into_header());
        Ok(v1::BackupRestoreResponse { header, phase: phase as i32, next_block: next })
    }
}

/// Gives a backup what it has of a snapshot's records.
fn add(writer: &mut Writer, records: &[(Bytes, Bytes)]) {
    for (key, value) in records.iter().filter(|(key, _)| is_in_backup(key)) {
        writer.record(key, value);
    }
}

fn restore_command(step: Option<Step>) -> Result<RestoreCommand, Invalid> {
    let content = |field: &str, bytes: &Bytes| {
        <[u8; 32]>::try_from(&bytes[..]).map_err(|_| Invalid::new(field, "must have 32 bytes"))
    };
    Ok(match step {
        None => return Err(Invalid::new("step", "is required")),
        Some(Step::Begin(begin)) => RestoreCommand::Begin(RestoreBegin {
            content: content("begin.content", &begin.content)?,
            blocks: begin.blocks,
            epoch: begin.restore_epoch,
            revision: begin.revision,
            log_time_ms: begin.log_time_ms,
            auth_enabled: begin.auth_enabled,
            auth_last_id: begin.auth_last_id,
        }),
        Some(Step::Block(block)) if block.payload.len() > restore::BLOCK_BYTES_MAX => {
            let description = format!("must have at most {} bytes", restore::BLOCK_BYTES_MAX);
            return Err(Invalid::new("block.payload", description));
        }
        Some(Step::Block(block)) => {
            RestoreCommand::Block { number: block.number, payload: block.payload }
        }
        Some(Step::Finish(bytes)) => RestoreCommand::Finish { content: content("finish", &bytes)? },
        Some(Step::Abort(_)) => RestoreCommand::Abort,
    })
}
