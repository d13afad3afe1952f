//! Log time: elapsed time of the cluster, stamped into entries by the leader.
//!
//! The stamp is what the leader found when its term began, plus what its own boot-time clock has
//! counted since. Found is the highest stamp in its log or snapshot, read after it won: it is read
//! from the state once that holds an entry of this node's own term, because then every entry before
//! that one (all that the leader had when it won) is applied and counted.
//!
//! So elections and downtime count as nothing, nobody's wall clock matters, and a window is never
//! shorter than promised: the clock starts when it is read, never before. Apply takes
//! `max(previous, stamp)`, and entries of one term carry stamps that do not fall.
//!
//! A restore may move the state's log time beyond that ([`crate::machine::restore`]): then it is read again, and
//! counted on from there. Without, it would stand still until the leader's reckoning had caught up, for as long as the
//! lost cluster had lived, and nothing would expire.

use std::sync::Arc;

use tally_proto::seeded_bugs;
use tokio::{sync::watch, time::Instant};

use super::{
    error::NotProposed,
    leader::{Leadership, no_quorum_after},
};
use crate::{env::Clock, machine::query, storage::state::StateStore};

/// The leader's reckoning of log time.
pub struct LogTime {
    clock: Arc<dyn Clock>,
    state: Arc<StateStore>,
    applied: watch::Receiver<u64>,
    election_timeout_max: std::time::Duration,
    reckoning: Option<Reckoning>,
}

/// Valid for one term.
#[derive(Clone, Copy)]
struct Reckoning {
    term: u64,
    found_ms: u64,
    started_boot_ms: u64,
}

impl LogTime {
    /// Nothing is found yet.
    pub fn new(
        clock: Arc<dyn Clock>,
        state: Arc<StateStore>,
        applied: watch::Receiver<u64>,
        election_timeout_max: std::time::Duration,
    ) -> Self {
        LogTime { clock, state, applied, election_timeout_max, reckoning: None }
    }

    /// The stamp for an entry of `term`, in which this node leads.
    pub async fn stamp(
        &mut self,
        term: u64,
        leadership: &mut Leadership,
    ) -> Result<u64, NotProposed> {
        let mut reckoning = match self.reckoning {
            Some(reckoning) if reckoning.term == term => reckoning,
            _ => self.find(term, leadership).await?,
        };
        if seeded_bugs::is_on("log-time-jumps") {
            return Ok(self.clock.wall_ms());
        }
        let now_boot_ms = self.clock.boot_ms();
        let elapsed_ms = now_boot_ms.saturating_sub(reckoning.started_boot_ms);
        let found_ms = query::meta(&self.state.view()).log_time_ms;
        if found_ms <= reckoning.found_ms + elapsed_ms {
            return Ok(reckoning.found_ms + elapsed_ms);
        }
        reckoning = Reckoning { term, found_ms, started_boot_ms: now_boot_ms };
        self.reckoning = Some(reckoning);
        Ok(found_ms)
    }

    /// The state that it is read from.
    #[cfg(feature = "seeded-bugs")]
    pub(super) fn state(&self) -> &StateStore {
        &self.state
    }

    /// Waits until the state holds an entry of this term, then reads its log time.
    async fn find(
        &mut self,
        term: u64,
        leadership: &mut Leadership,
    ) -> Result<Reckoning, NotProposed> {
        let wait = no_quorum_after(self.election_timeout_max);
        let until = Instant::now() + wait;
        loop {
            let found_ms = {
                let view = self.state.view();
                let holds_own_entry = view.applied().is_some_and(|applied| applied.term == term);
                holds_own_entry.then(|| query::meta(&view).log_time_ms)
            };
            if let Some(found_ms) = found_ms {
                let started_boot_ms = self.clock.boot_ms();
                let reckoning = Reckoning { term, found_ms, started_boot_ms };
                self.reckoning = Some(reckoning);
                return Ok(reckoning);
            }
            if leadership.term_as_leader() != Some(term) {
                return Err(NotProposed::NotLeader(leadership.hint()));
            }
            let applied = tokio::select! {
                applied = self.applied.changed() => applied,
                () = leadership.changed(until) => Ok(()),
            };
            if applied.is_err() {
                // Raft has ended, and its state machine with it. A closed channel does not wait:
                // asking again would be a loop on a full core (found by the simulator, seed 67).
                return Err(NotProposed::ShuttingDown);
            }
            if Instant::now() >= until {
                let waited_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                return Err(NotProposed::NoQuorum { waited_ms });
            }
        }
    }
}
