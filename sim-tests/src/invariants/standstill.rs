//! While a leader's writes do not get on, it says so: it has no quorum, whatever answers its heartbeats.
//!
//! Whoever writes is to be told, instead of waiting for the deadline. It is judged from outside, by the indexes that the
//! leader shows: entries behind the commit index, and that index the same all the while.

use std::{collections::BTreeMap, time::Duration};

use tally_node::consensus::Consensus;

/// How often it is looked, in simulated ms.
pub(super) const LOOK_EVERY_MS: u64 = 50;

/// In so many times the patience with a quorum an entry has to be committed, as nodes count it.
const STANDSTILL: u32 = 5;

/// The nodes look four times in an election timeout, and we do not look all the time either.
const LATE: Duration = Duration::from_millis(250);

/// What a leader's writes wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waits {
    boot: u64,
    term: u64,
    commit_index: u64,
    since_ms: u64,
}

/// The leaders whose writes wait.
#[derive(Debug, Default)]
pub(super) struct Standstills(BTreeMap<u64, Waits>);

impl Standstills {
    /// Looks at a node that runs, or at one that does not (`None`). Says what is wrong.
    pub(super) fn look(
        &mut self,
        id: u64,
        boot: u64,
        consensus: Option<&Consensus>,
        now_ms: u64,
    ) -> Option<String> {
        let before = self.0.remove(&id);
        let consensus = consensus?;
        let term = consensus.leadership().term_as_leader()?;
        let metrics = consensus.leadership().metrics();
        let commit_index = metrics.local_committed.map_or(0, |committed| committed.index);
        if metrics.last_log_index.unwrap_or(0) <= commit_index {
            return None;
        }
        let now = Waits { boot, term, commit_index, since_ms: now_ms };
        let since_ms = before
            .filter(|before| Waits { since_ms: now_ms, ..*before } == now)
            .map_or(now_ms, |before| before.since_ms);
        self.0.insert(id, Waits { since_ms, ..now });
        let waited = Duration::from_millis(now_ms - since_ms);
        (waited > STANDSTILL * consensus.no_quorum_after() + LATE && !consensus.quorum_lost()).then(
            || {
                format!(
                    "it leads in term {term}, has committed nothing behind {commit_index} for {} ms though there is more, \
                     and does not say that it has no quorum",
                    waited.as_millis()
                )
            },
        )
    }
}
