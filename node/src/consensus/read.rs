//! The read levels: what must be true before the state may be read, and what can be said of the
//! answer. Only this module makes a [`ReadPermit`], and only a permit reads the state for a client.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tally_proto::seeded_bugs;
use tokio::{sync::watch, time::Instant};

use super::{
    compare::Comparisons,
    error::ReadError,
    read_index::{Confirmed, ReadIndex},
};
use crate::{
    env::Clock,
    metrics::{LEVELS, Metrics},
    storage::state::{StateStore, StateView},
};

/// What a read asks for. See `docs/consistency.md`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Level {
    /// Sees every write acknowledged before the read began.
    Linearizable,
    /// Never older than this.
    Bounded {
        /// The bound, in ms.
        staleness_ms_max: u64,
        /// Answer with [`Level::Local`] if it can't be proven.
        fallback: bool,
    },
    /// At least as new as this.
    Session {
        /// Applied index of the token.
        index: u64,
        /// How long to wait for it.
        wait: Duration,
    },
    /// What is here.
    Local,
}

/// The promise that an answer keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provided {
    /// Linearizable.
    Linearizable,
    /// No older than asked.
    Bounded,
    /// No older than the token.
    Session,
    /// Some past state.
    Local,
}

const _: () = assert!(Provided::Local as usize + 1 == LEVELS.len());

/// Why [`Staleness::ms_max`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// A quorum round that began after the question arrived.
    ReadIndex,
    /// A round that was asked for earlier, and whose index has been applied since.
    EarlierReadIndex,
}

/// How old the state can be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staleness {
    /// In ms, when the value is read.
    pub ms_max: u64,
    /// Why.
    pub ground: Ground,
}

/// The right to read one state, with what can be said of it.
pub struct ReadPermit<'a> {
    /// The state, frozen.
    pub view: StateView<'a>,
    /// The promise kept.
    pub provided: Provided,
    /// Its greatest age, if proven.
    pub staleness: Option<Staleness>,
}

impl std::fmt::Debug for ReadPermit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadPermit")
            .field("provided", &self.provided)
            .field("staleness", &self.staleness)
            .finish_non_exhaustive()
    }
}

/// Gives permits.
#[derive(Clone)]
pub struct Reads {
    read_index: ReadIndex,
    state: Arc<StateStore>,
    applied: watch::Receiver<u64>,
    clock: Arc<dyn Clock>,
    proofs: Arc<Proofs>,
    comparisons: Comparisons,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Reads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reads")
    }
}

/// The newest question whose index is applied: the state is no older than that question. The value
/// is its boot-time in ms plus one; 0 for none.
#[derive(Debug, Default)]
struct Proofs {
    newest_asked_boot_ms_plus_one: AtomicU64,
}

impl Proofs {
    /// To be called only once the state has applied the confirmed index.
    fn learn(&self, confirmed: Confirmed) {
        self.newest_asked_boot_ms_plus_one.fetch_max(confirmed.asked_boot_ms + 1, Ordering::AcqRel);
    }

    fn staleness_ms(&self, now_boot_ms: u64) -> Option<u64> {
        let asked = self.newest_asked_boot_ms_plus_one.load(Ordering::Acquire).checked_sub(1)?;
        Some(age_ms_max(asked, now_boot_ms))
    }
}

/// Both moments are whole milliseconds, cut off: up to one more may lie between them.
fn age_ms_max(asked_boot_ms: u64, now_boot_ms: u64) -> u64 {
    now_boot_ms.saturating_sub(asked_boot_ms) + 1
}

impl Reads {
    /// Over a running node.
    pub(super) fn new(
        read_index: ReadIndex,
        state: Arc<StateStore>,
        applied: watch::Receiver<u64>,
        clock: Arc<dyn Clock>,
        comparisons: Comparisons,
        metrics: Arc<Metrics>,
    ) -> Self {
        let proofs = Arc::default();
        Reads { read_index, state, applied, clock, proofs, comparisons, metrics }
    }

    /// Waits until the level's promise can be kept, then freezes the state.
    pub async fn permit(
        &self,
        level: &Level,
        deadline: Instant,
    ) -> Result<ReadPermit<'_>, ReadError> {
        let permit = self.when_permitted(level, deadline).await?;
        if permit.provided != Provided::Local {
            // Also after the wait, in which it may have been found out.
            self.check_own_state()?;
        }
        // In the order of `metrics::LEVELS`.
        let level = permit.provided as usize;
        self.metrics.reads.permits[level].add(1);
        if let Some(staleness) = permit.staleness {
            let ms_max = Duration::from_millis(staleness.ms_max);
            self.metrics.reads.staleness[level].record(ms_max);
        }
        Ok(permit)
    }

    async fn when_permitted(
        &self,
        level: &Level,
        deadline: Instant,
    ) -> Result<ReadPermit<'_>, ReadError> {
        match *level {
            Level::Linearizable => {
                self.prove(deadline).await?;
                Ok(self.freeze(Provided::Linearizable, Ground::ReadIndex))
            }
            Level::Bounded { staleness_ms_max, fallback } => {
                match self.bounded(staleness_ms_max, deadline).await {
                    Err(
                        ReadError::StalenessBoundExceeded { .. }
                        | ReadError::Overloaded { .. }
                        | ReadError::StateDiffers { .. },
                    ) if fallback => Ok(self.freeze(Provided::Local, Ground::EarlierReadIndex)),
                    other => other,
                }
            }
            Level::Session { index, wait } => {
                if !seeded_bugs::is_on("session-token-ignored") {
                    self.reach_token(index, wait, deadline).await?;
                }
                Ok(self.freeze(Provided::Session, Ground::EarlierReadIndex))
            }
            Level::Local => Ok(self.freeze(Provided::Local, Ground::EarlierReadIndex)),
        }
    }

    /// A state that differs from that of a majority keeps no promise, however new it is.
    fn check_own_state(&self) -> Result<(), ReadError> {
        match self.comparisons.why_it_differs() {
            Some(_) if seeded_bugs::is_on("differing-replica-answers") => Ok(()),
            Some(reason) => Err(ReadError::StateDiffers { reason }),
            None => Ok(()),
        }
    }

    /// A read index by a round that begins now, applied.
    pub async fn prove(&self, deadline: Instant) -> Result<(), ReadError> {
        self.check_own_state()?;
        let confirmed = self.read_index.confirm(deadline).await?;
        if seeded_bugs::is_on("proof-before-applied") {
            self.proofs.learn(confirmed);
        }
        if !seeded_bugs::is_on("read-before-applied") {
            self.catch_up(confirmed.index, deadline).await?;
        }
        self.proofs.learn(confirmed);
        Ok(())
    }

    async fn bounded(&self, bound_ms: u64, deadline: Instant) -> Result<ReadPermit<'_>, ReadError> {
        self.check_own_state()?;
        let permit = self.freeze(Provided::Bounded, Ground::EarlierReadIndex);
        if permit.staleness.is_some_and(|staleness| staleness.ms_max <= bound_ms) {
            return Ok(permit);
        }
        drop(permit);
        // Without a round of its own, another read's proof may still have come meanwhile.
        let ground = match self.prove(deadline).await {
            Ok(()) => Ground::ReadIndex,
            Err(
                ReadError::NoQuorum { .. } | ReadError::NotCatchingUp { .. } | ReadError::Deadline,
            ) => Ground::EarlierReadIndex,
            Err(other) => return Err(other),
        };
        let permit = self.freeze(Provided::Bounded, ground);
        match permit.staleness {
            Some(staleness) if staleness.ms_max <= bound_ms => Ok(permit),
            staleness => Err(ReadError::StalenessBoundExceeded {
                bound_ms,
                best_ms: staleness.map(|staleness| staleness.ms_max),
            }),
        }
    }

    async fn reach_token(
        &self,
        index: u64,
        wait: Duration,
        deadline: Instant,
    ) -> Result<(), ReadError> {
        let started = Instant::now();
        let until = deadline.min(started + wait);
        self.wait_applied(index, until).await.map_err(|error| match error {
            ReadError::Deadline => ReadError::TokenNotReached {
                token_index: index,
                applied_index: *self.applied.borrow(),
                waited_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            },
            other => other,
        })
    }

    /// Waits until the state has applied a read index, for as long as it gets nearer: a node that gets no
    /// entries for as long as it looks for a leader has no quorum behind it that would be of use.
    async fn catch_up(&self, index: u64, deadline: Instant) -> Result<(), ReadError> {
        let patience = self.read_index.patience();
        let mut applied = *self.applied.borrow();
        while applied < index {
            let until = deadline.min(Instant::now() + patience);
            match self.wait_applied(applied + 1, until).await {
                Err(ReadError::Deadline) if until < deadline => {
                    let waited_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
                    return Err(ReadError::NotCatchingUp { index, applied, waited_ms });
                }
                waited => waited?,
            }
            applied = *self.applied.borrow();
        }
        Ok(())
    }

    /// Waits until the state has applied an index.
    pub async fn wait_applied(&self, index: u64, until: Instant) -> Result<(), ReadError> {
        if *self.applied.borrow() >= index {
            return Ok(());
        }
        let mut applied = self.applied.clone();
        match tokio::time::timeout_at(until, applied.wait_for(|applied| *applied >= index)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::ShuttingDown),
            Err(_) => Err(ReadError::Deadline),
        }
    }

    /// Freezes the state. Its age is counted after it is frozen, against a proof that was learned
    /// when the state had already applied the proof's index: so it is never understated.
    fn freeze(&self, provided: Provided, ground: Ground) -> ReadPermit<'_> {
        // The order matters: a proof read before the freeze is true of the frozen state, which can
        // only be newer; one read after might be true of a later state only.
        let asked = self.proofs.newest_asked_boot_ms_plus_one.load(Ordering::Acquire);
        let view = self.state.view();
        let staleness = asked
            .checked_sub(1)
            .map(|asked| Staleness { ms_max: age_ms_max(asked, self.clock.boot_ms()), ground });
        ReadPermit { view, provided, staleness }
    }

    /// How old this node's state can be at most, now.
    pub fn staleness_ms(&self) -> Option<u64> {
        self.proofs.staleness_ms(self.clock.boot_ms())
    }
}
