//! Cuts that last until something has happened, not for a time.
//!
//! Some things need a node to come back at the right moment: a deposed leader while those who asked
//! it still wait, a follower just when the log that it needs is gone. At random times that is rare.

use turmoil::Sim;

use super::{Injector, Undo};
use crate::{
    cluster::host_of,
    faults::links::{Taken, Trouble},
    trace_event,
};

/// Cuts that wait for something end after so long anyway.
const PATIENCE_MS: u64 = 12_000;

/// What a cut waits for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Until {
    /// Somebody leads in a later term; and a while longer.
    Deposed {
        /// The term of the leader that was cut off.
        term: u64,
        /// How much longer, in ms.
        longer_ms: u64,
    },
    /// The others have given up the log that this node needs.
    LeftBehind(u64),
}

/// A cut that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    until: Until,
    taken: Taken,
    patience_ends_ms: u64,
}

impl Injector {
    /// Cuts a node off from the other nodes until something has happened.
    pub(super) fn cut_until(
        &mut self,
        sim: &mut Sim<'_>,
        id: u64,
        until: Until,
        now_ms: u64,
    ) -> Result<(), &'static str> {
        let taken = self.between(&[id], &self.others(id), Trouble::Cut);
        if taken.is_empty() {
            return Err("there is no such link");
        }
        self.links.take(sim, &taken);
        self.waiting.push(Waiting { until, taken, patience_ends_ms: now_ms + PATIENCE_MS });
        Ok(())
    }

    /// Ends the cuts whose time has come.
    pub(super) fn look_whether_happened(&mut self, now_ms: u64) {
        for cut in std::mem::take(&mut self.waiting) {
            let ends_ms = match cut.until {
                _ if now_ms >= cut.patience_ends_ms => Some(now_ms),
                Until::Deposed { term, longer_ms } => {
                    let newer = |id: u64| {
                        let consensus = self.cluster.consensus(id)?;
                        consensus.leadership().term_as_leader().filter(|newer| *newer > term)
                    };
                    let deposed = self.members().into_iter().find_map(newer).is_some();
                    deposed.then_some(now_ms + longer_ms)
                }
                Until::LeftBehind(id) => self.is_left_behind(id).then_some(now_ms),
            };
            match ends_ms {
                Some(ends_ms) => {
                    trace_event!("fault", "it has happened: {:?}", cut.until);
                    self.undo.push((ends_ms, Undo::Links(cut.taken)));
                }
                None => self.waiting.push(cut),
            }
        }
    }

    /// Whether some other node that leads has purged entries that this one lacks.
    fn is_left_behind(&self, id: u64) -> bool {
        let metrics = |id: u64| Some(self.cluster.consensus(id)?.leadership().metrics());
        let Some(own) = metrics(id) else {
            // It is down; what it has can't be asked, so it stays cut off.
            return false;
        };
        let last = match own.state.is_leader() {
            // What only it has is overruled: it may have more log than the others, and lack theirs.
            true => own.local_committed.map_or(0, |committed| committed.index),
            false => own.last_log_index.unwrap_or(0),
        };
        let leader = self.cluster.leader().filter(|leader| *leader != id);
        let purged = leader.and_then(metrics).and_then(|metrics| metrics.purged);
        let behind = purged.is_some_and(|purged| purged.index > last);
        if behind {
            trace_event!(&host_of(id), "is left behind: it has {last} of the log");
        }
        behind
    }
}
