//! Backups that clients ask for ([`crate::backup`] makes them), and restoring one.
//!
//! What a client that is slow, or gone, can hold is the snapshot's room on the disk, until it has not asked for
//! [`IDLE_MAX`]. One that failed has nothing more than the reason, which is kept for whoever asks again: a client does so
//! after an answer that says that it may. In memory a backup is the part that is made, one that waits, and one that may be asked for again: a few
//! MiB.
//!
//! **A backup is not older than what was acknowledged when it was asked for.** It is opened behind a linearizable
//! read, which says which entry this node has applied by then, and made of a snapshot that reaches it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tally_proto::{
    reason,
    status::StatusBuilder,
    v1::{self, CallStatus, backup_restore_request::Step},
};
use tokio::{sync::mpsc, time::Instant};
use tonic::Code;

use super::{
    Answered, Api, Call,
    status::{Invalid, Kind, with_outcome},
    who::Reads,
};
use crate::{
    backup::{self, NotMade, Part},
    machine::{
        command::{Action, Answer, Refusal, RestoreBegin, RestoreCommand, RestorePhase},
        query, restore,
    },
};

/// Backups that a node makes at once: each reads all of the state from the disk. One whose last part was answered is
/// made: it is kept for whoever lost that answer, until its place is wanted.
const BACKUPS_MAX: usize = 2;

/// A backup that nobody has asked for in this time is given up.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// How long a call waits for the snapshot before it says that there is nothing yet …
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(2);

/// … and the call that waits for it is refused once it took so long in all: a state of the largest size that nodes are
/// made for is written in a tenth of that, so something else is wrong, and the node's log says what.
const SNAPSHOT_TIME_MAX: Duration = Duration::from_secs(600);

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
    began: Instant,
    /// The last part was answered, or there will be none.
    is_over: AtomicBool,
    last_used: Mutex<Instant>,
    source: tokio::sync::Mutex<Source>,
}

/// Where a backup is.
struct Source {
    parts: mpsc::Receiver<Result<Part, NotMade>>,
    /// Parts that were taken.
    taken: u64,
    /// The last of them.
    last: Part,
    /// Why there is no next one: whoever asks again is told the same.
    given_up: Option<GivenUp>,
}

/// Why a backup that was begun does not come to its end.
#[derive(Debug, Clone)]
struct GivenUp {
    code: Code,
    reason: &'static str,
    message: String,
}

impl From<NotMade> for GivenUp {
    fn from(why: NotMade) -> Self {
        let (code, reason, message) = match &why {
            NotMade::RestoreUnderWay => {
                (Code::Unavailable, reason::RESTORE_UNDER_WAY, why.to_string())
            }
            NotMade::NoRoom(_) => {
                let message = format!("{why}; or ask another node");
                (Code::ResourceExhausted, reason::DISK_NEARLY_FULL, message)
            }
            NotMade::Failed(error) => {
                let message = format!("the backup failed: {error}");
                (Code::NotFound, reason::BACKUP_NOT_FOUND, message)
            }
        };
        GivenUp { code, reason, message }
    }
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
                if self.lock().remove(&id).is_some_and(|open| !open.is_over()) {
                    tracing::info!(
                        backup = id,
                        "a backup that nobody asks for any more was given up"
                    );
                }
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

impl Open {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn last_used(&self) -> Instant {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

impl Source {
    /// The next part, or an empty one if it is not there in time: the node still makes the snapshot.
    async fn next_part(&mut self, deadline: Instant) -> Result<Part, GivenUp> {
        if let Some(why) = &self.given_up {
            return Err(why.clone());
        }
        if self.last.footer.is_some() {
            return Ok(self.last.clone());
        }
        let until = deadline.min(Instant::now() + SNAPSHOT_PATIENCE);
        match tokio::time::timeout_at(until, self.parts.recv()).await {
            Ok(Some(part)) => {
                self.last = part?;
                self.taken += 1;
                Ok(self.last.clone())
            }
            Ok(None) => Err(NotMade::Failed("the node is shutting down".to_owned()).into()),
            Err(_) => Ok(Part::default()),
        }
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
        self.may_be_backed_up(call)?;
        let id = self.node.random.next_u128() as u64 | 1;
        {
            let mut all = self.backups.lock();
            if all.len() >= BACKUPS_MAX {
                let made = all.iter().filter(|(_, open)| open.is_over());
                if let Some(id) = made.min_by_key(|(_, open)| open.last_used()).map(|(id, _)| *id) {
                    all.remove(&id);
                }
            }
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
            all.insert(id, Arc::new(self.begin_backup(index)));
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
            part if part == source.taken => source.next_part(call.deadline).await,
            part if part + 1 == source.taken => Ok(source.last.clone()),
            _ => {
                let description = format!("must be {}, or the one before", source.taken);
                return Err(self.invalid(call, Kind::Read, &Invalid::new("part", description)));
            }
        };
        open.touch();
        let part = match part {
            Ok(_) if source.taken == 0 => self.may_wait_on(&open).and(part),
            part => part,
        };
        let Part { data, footer, done_bytes, total_bytes } = part.map_err(|why| {
            if !open.is_over.swap(true, Ordering::Relaxed) {
                let GivenUp { reason, message, .. } = &why;
                tracing::warn!(backup = id, reason, why = message, "a backup was given up");
            }
            // Nothing is built or read any more for somebody who is refused.
            source.parts.close();
            source.last = Part::default();
            let status = StatusBuilder::new(why.code, why.reason, why.message.clone());
            source.given_up = Some(why);
            self.finish_with_leader(call, status)
        })?;
        let is_last = footer.is_some();
        if is_last {
            open.is_over.store(true, Ordering::Relaxed);
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
    fn may_wait_on(&self, open: &Open) -> Result<(), GivenUp> {
        let (code, reason, message) = if let Some(why) =
            self.consensus.comparisons().why_it_differs()
        {
            (Code::Unavailable, reason::STATE_DIFFERS, format!("this node's state differs: {why}"))
        } else if self.consensus.disk_nearly_full() {
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
        Err(GivenUp { code, reason, message })
    }

    /// A state that differs is no source of backups, also not of one that nobody promised anything of.
    fn may_be_backed_up(&self, call: &Call) -> Result<(), CallStatus> {
        let Some(reason) = self.consensus.comparisons().why_it_differs() else { return Ok(()) };
        let message = format!("this node's state differs: {reason}; ask another node for a backup");
        let status = StatusBuilder::new(Code::Unavailable, reason::STATE_DIFFERS, message);
        Err(self.finish_with_leader(call, status.outcome(v1::Outcome::NotApplied)))
    }

    fn begin_backup(&self, index: u64) -> Open {
        let parts = backup::begin(&*self.node.threads, self.consensus.clone(), index);
        let source = Source { parts, taken: 0, last: Part::default(), given_up: None };
        let now = Instant::now();
        let source = tokio::sync::Mutex::new(source);
        Open { began: now, is_over: AtomicBool::default(), last_used: Mutex::new(now), source }
    }

    fn no_such_backup(&self, call: &Call) -> CallStatus {
        let message = format!(
            "this node knows no such backup: another one opened it, it was started again, it is made and gave its place to \
             another, or nobody asked for {} s",
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
