//! ReadIndex rounds, shared by all reads that wait (Raft dissertation, section 6.4).
//!
//! One task runs one round at a time. Reads that arrive while a round is under way wait for the
//! next, because a round proves only what was acknowledged before it *began*; everybody who waits
//! when it begins shares its result. On the leader a round asks the other voters (`confirm`); on a follower it is one
//! question to the leader, which runs a round that begins after the question arrived.
//!
//! A result carries the boot-time at which this node asked. Once the state has applied the index,
//! it is no older than that moment: the proof behind bounded staleness, with no clock but this
//! node's own.

use std::{sync::Arc, time::Duration};

use tally_proto::seeded_bugs;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    confirm::{Unconfirmed, round_here},
    error::ReadError,
    leader::{Leader, Leadership, no_quorum_after},
    others::{AskError, Others},
    raft::Raft,
};
use crate::{
    env::{Clock, Event, Observer},
    metrics::Metrics,
};

/// At most this many reads wait for a round.
pub const WAITING_READS_MAX: usize = 65_536;

/// After a failed question to the leader, the next one waits this long, unless the leader changes.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// A confirmed read index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmed {
    /// Apply up to here before reading.
    pub index: u64,
    /// Boot-time of this node when it asked.
    pub asked_boot_ms: u64,
}

type Waiter = oneshot::Sender<Result<Confirmed, ReadError>>;

/// Asks for rounds. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ReadIndex {
    waiters: mpsc::Sender<Waiter>,
    patience: Duration,
}

impl ReadIndex {
    /// How long it is looked for a leader with a quorum.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// A round that begins after this call. Where a round before it fails, the next would end too
    /// late for those who have waited through both: each waits for two election timeouts at most.
    pub async fn confirm(&self, deadline: Instant) -> Result<Confirmed, ReadError> {
        let (waiter, answer) = oneshot::channel();
        self.waiters.try_send(waiter).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ReadError::Overloaded { max: WAITING_READS_MAX },
            mpsc::error::TrySendError::Closed(_) => ReadError::ShuttingDown,
        })?;
        let until = deadline.min(Instant::now() + self.patience);
        match tokio::time::timeout_at(until, answer).await {
            Ok(Ok(confirmed)) => confirmed,
            Ok(Err(_)) => Err(ReadError::ShuttingDown),
            Err(_) if until == deadline => Err(ReadError::Deadline),
            Err(_) => Err(no_quorum(self.patience)),
        }
    }
}

fn no_quorum(waited: Duration) -> ReadError {
    ReadError::NoQuorum { waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX) }
}

/// The task that runs the rounds.
pub(super) struct Rounds {
    raft: Raft,
    leadership: Leadership,
    others: Arc<dyn Others>,
    clock: Arc<dyn Clock>,
    election_timeout_max: Duration,
    waiters: mpsc::Receiver<Waiter>,
    observer: Option<Arc<dyn Observer>>,
    metrics: Arc<Metrics>,
}

impl Rounds {
    pub(super) fn new(
        raft: Raft,
        leadership: Leadership,
        others: Arc<dyn Others>,
        clock: Arc<dyn Clock>,
        election_timeout_max: Duration,
        observer: Option<Arc<dyn Observer>>,
        metrics: Arc<Metrics>,
    ) -> (ReadIndex, Rounds) {
        let (sender, waiters) = mpsc::channel(WAITING_READS_MAX);
        let rounds = Rounds {
            raft,
            leadership,
            others,
            clock,
            election_timeout_max,
            waiters,
            observer,
            metrics,
        };
        (ReadIndex { waiters: sender, patience: no_quorum_after(election_timeout_max) }, rounds)
    }

    /// Runs until nobody can ask any more.
    pub(super) async fn run(mut self) {
        let mut waiting = Vec::new();
        while self.waiters.recv_many(&mut waiting, WAITING_READS_MAX).await > 0 {
            waiting.retain(|waiter| !waiter.is_closed());
            if waiting.is_empty() {
                continue;
            }
            let began = Instant::now();
            let result = self.round().await;
            let meters = &self.metrics.consensus;
            match result {
                Ok(_) => meters.rounds_ok.record(began.elapsed()),
                Err(_) => meters.rounds_failed.record(began.elapsed()),
            }
            meters.round_reads.record(waiting.len() as u64);
            if seeded_bugs::is_on("read-joins-running-round") {
                waiting.extend(std::iter::from_fn(|| self.waiters.try_recv().ok()));
            }
            if let (Some(observer), Ok(_)) = (&self.observer, &result) {
                let leading = self.leadership.term_as_leader().is_some();
                observer.observe(Event::ReadRound { reads: waiting.len(), leading });
            }
            for waiter in waiting.drain(..) {
                let _ = waiter.send(result.clone());
            }
        }
    }

    /// One round, tried again on whoever leads until two election timeouts are over.
    async fn round(&mut self) -> Result<Confirmed, ReadError> {
        let patience = no_quorum_after(self.election_timeout_max);
        let until = Instant::now() + patience;
        loop {
            let asked_boot_ms = self.clock.boot_ms();
            let index = match self.leadership.wait_for_leader(until).await {
                None => None,
                Some(Leader::Here { .. }) => self.ask_here(until).await?,
                Some(Leader::There { .. }) if seeded_bugs::is_on("follower-read-local") => Some(0),
                Some(Leader::There { node_id, peer_address, .. }) => {
                    self.ask_there(node_id, &peer_address, until).await
                }
            };
            if let Some(index) = index {
                if seeded_bugs::is_on("staleness-from-reply") {
                    return Ok(Confirmed { index, asked_boot_ms: self.clock.boot_ms() });
                }
                return Ok(Confirmed { index, asked_boot_ms });
            }
            if Instant::now() >= until {
                return Err(no_quorum(patience));
            }
            // Not until the metrics change: asking changes them, so a leader that is refused at once
            // would ask again without ever waiting.
            tokio::time::sleep_until((Instant::now() + RETRY_DELAY).min(until)).await;
        }
    }

    async fn ask_here(&self, until: Instant) -> Result<Option<u64>, ReadError> {
        match round_here(&self.raft, &self.others, until, self.election_timeout_max).await {
            Ok(confirmed) => Ok(Some(confirmed.index())),
            Err(Unconfirmed::Stopped) => Err(ReadError::ShuttingDown),
            Err(Unconfirmed::NotLeader | Unconfirmed::NoQuorum) => Ok(None),
        }
    }

    async fn ask_there(&self, node_id: u64, address: &str, until: Instant) -> Option<u64> {
        match self.others.read_index(node_id, address, until).await {
            Ok(index) => Some(index),
            Err(AskError::Refused(refusal)) => {
                tracing::debug!(leader = node_id, ?refusal, "no read index from the leader");
                None
            }
            Err(AskError::Transport(error) | AskError::NeverSent(error)) => {
                tracing::debug!(leader = node_id, %error, "no read index from the leader");
                None
            }
        }
    }
}
