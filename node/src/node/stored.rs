//! A node's log and state: opened one after the other, and tied to each other.
//!
//! The state never is on the disk ahead of the synced log, and the log reaches what the state has applied:
//! both are promises of one about the other, so they are kept here, where both are known. Leaves out:
//! everything above them.

use std::{
    io,
    sync::{Arc, OnceLock, Weak},
};

use tally_proto::seeded_bugs;

use super::{LOGS, NodeError};
use crate::{
    config::Config,
    consensus::recovery,
    env::{
        Env, Event, Observer,
        identity::{Identity, IdentityError},
        storage_guard::StorageGuard,
    },
    machine::query,
    storage::{
        meters::StorageMeters,
        state::{LogExtent, StateHooks, StateOptions, StateStore},
        wal::{self, Wal, WalOptions},
    },
};

/// What is on the disk, opened.
pub(super) struct Stored {
    pub(super) log: Wal,
    /// What the log had when it was opened.
    pub(super) recovered: wal::Recovered,
    pub(super) state: Arc<StateStore>,
    /// A recovery that was begun before (`tallyd recover`) has been finished now.
    pub(super) finished_recovery: bool,
}

/// Opens both, and makes them fit each other.
pub(super) async fn open(
    config: &Config,
    env: &Env,
    identity: &Identity,
    nonce: u128,
    guard: &Arc<StorageGuard>,
    meters: &Arc<StorageMeters>,
) -> Result<Stored, NodeError> {
    let (log, recovered) = open_log(config, env, identity, meters).await?;
    let measured: Arc<OnceLock<Weak<StateStore>>> = Arc::default();
    let hooks = hooks(env, &log, guard, &measured);
    let options = StateOptions {
        dirty_bytes_max: usize::try_from(config.dirty_bytes_max).unwrap_or(usize::MAX),
        record_cache_bytes: config.record_cache_bytes(),
        hash_seed: env.random.next_u128() as u64,
        meters: Arc::clone(meters),
    };
    let state = StateStore::open(
        Arc::clone(&env.disk),
        Arc::clone(&env.stores),
        options,
        hooks,
        LogExtent {
            purged: recovered.purged.map(Into::into),
            last: recovered.last.map(Into::into),
        },
    )
    .await?;
    // Where the file `IDENTITY` did not say it: the process ended between a snapshot's installation and that.
    let (cluster, node) = (query::meta(&state.view()).version, env.formats);
    if !node.has(cluster) {
        return Err(IdentityError::ClusterVersion { cluster, node }.into());
    }
    // Log and state fit each other: a run begins.
    identity.begin_run(recovered.next_sequence, nonce).await?;
    let finished_recovery = recovery::finish(&log, identity).await?;
    measured.get_or_init(|| Arc::downgrade(&state));
    if let Some(applied) = state.applied() {
        // What the state has applied is committed, so where the log has another entry it gives way.
        reach(&log, applied.into(), env.observer.as_deref()).await?;
    }
    Ok(Stored { log, recovered, state, finished_recovery })
}

/// Opens the log and starts its thread.
async fn open_log(
    config: &Config,
    env: &Env,
    identity: &Identity,
    meters: &Arc<StorageMeters>,
) -> Result<(Wal, wal::Recovered), NodeError> {
    let mut options = WalOptions::new(env.random.next_u128() as u64);
    options.segment_bytes = config.log_segment_bytes;
    options.cache_bytes = usize::try_from(config.log_cache_bytes).unwrap_or(usize::MAX);
    // As many as a snapshot gives up, which is as many as the log needs until the next one: a
    // new segment is written twice, and first with zeros. The disk holds no more by this than it
    // did right before the snapshot.
    let segments = config.snapshot_after_log_bytes.div_ceil(config.log_segment_bytes);
    options.spare_segments = usize::try_from(segments).unwrap_or(usize::MAX);
    options.meters = Arc::clone(meters);
    options.owner = Some(identity.incarnation_number()?);
    if !seeded_bugs::is_on("lost-log-accepted") {
        options.sequence_min = identity.log_sequence().await;
    }
    let opened = Wal::open(Arc::clone(&env.disk), options, Arc::clone(&env.fatal)).await?;
    let (log, writer, recovered) = opened;
    env.threads.run_blocking("tally-log", Box::pin(writer.run()));
    if let Some(observer) = &env.observer {
        tell_what_was_found(observer.as_ref(), &log, &recovered).await?;
    }
    Ok((log, recovered))
}

/// What the state asks of the log and of the room on the disk.
fn hooks(
    env: &Env,
    log: &Wal,
    guard: &Arc<StorageGuard>,
    measured: &Arc<OnceLock<Weak<StateStore>>>,
) -> StateHooks {
    let (hooks_log, hooks_guard) = (log.clone(), Arc::clone(guard));
    let room_guard = Arc::clone(guard);
    let (jumping_log, jumps_seen_by) = (log.clone(), env.observer.clone());
    let hooks_state = Arc::clone(measured);
    StateHooks {
        wait_log_synced: Arc::new(move |index| {
            let log = hooks_log.clone();
            Box::pin(async move { log.wait_synced(index).await })
        }),
        room_to_flush: Arc::new(move |dirty_bytes| {
            let guard = Arc::clone(&hooks_guard);
            let state = hooks_state.get().and_then(Weak::upgrade);
            Box::pin(async move {
                let state_bytes = state.and_then(|state| state.size_bytes().ok());
                guard.make_room_to_flush(state_bytes, dirty_bytes).await
            })
        }),
        room_for: Arc::new(move |bytes| {
            let guard = Arc::clone(&room_guard);
            Box::pin(async move { guard.has_room_for(bytes).await })
        }),
        log_reaches: Arc::new(move |log_id| {
            let (log, observer) = (jumping_log.clone(), jumps_seen_by.clone());
            Box::pin(async move { reach(&log, log_id.into(), observer.as_deref()).await })
        }),
        fatal: Arc::clone(&env.fatal),
    }
}

/// Tells an observer what the log holds, so that it can be compared with what was promised.
async fn tell_what_was_found(
    observer: &dyn Observer,
    log: &Wal,
    recovered: &wal::Recovered,
) -> io::Result<()> {
    let (cut_bytes, vote, last) = (recovered.cut_bytes, recovered.vote, recovered.last);
    observer.observe(Event::LogOpened { cut_bytes, vote, last });
    for entry in log.read(log.first_index()..u64::MAX, usize::MAX).await? {
        let (term, index) = (entry.log_id.term, entry.log_id.index);
        observer.observe(Event::Found { term, index, payload: &entry.payload });
    }
    Ok(())
}

/// Makes the log reach a committed entry, durably: where it has another entry there, or none, it jumps.
async fn reach(log: &Wal, entry: wal::LogId, observer: Option<&dyn Observer>) -> io::Result<()> {
    let is_behind = log.purged().is_none_or(|purged| purged.index < entry.index);
    if is_behind && log.log_id(entry.index) != Some(entry) {
        tracing::info!(target: LOGS, %entry, "the log goes on behind an entry that it does not have");
        if let Some(observer) = observer {
            observer.observe(Event::Purged { index: entry.index, jump: true });
        }
        log.purge(entry).await?;
    }
    // Also where it has the entry: others that conflict with it were truncated before.
    log.flush().await
}
