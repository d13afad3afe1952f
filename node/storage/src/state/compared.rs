//! Hashes of the state at entries that asked for them, and what was found out about the state's own records.

use tally_state_hash::StateHash;
use tokio::sync::watch;

use super::{StateStore, error::StateError, meta::Meta};
use crate::{log_id::LogId, snapshot::Membership};

/// As many hashes are kept: comparisons come a long way apart, and whoever looks does so at once.
const KEPT_MAX: usize = 8;

/// What the state was after one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateAt {
    /// The entry.
    pub applied: LogId,
    /// The membership as of it.
    pub membership: Membership,
    /// The hash of all records.
    pub hash: StateHash,
}

/// See [`StateStore::compared`] and [`StateStore::rotten`].
#[derive(Debug)]
pub(super) struct Compared {
    hashes: watch::Sender<Vec<StateAt>>,
    rotten: watch::Sender<Option<String>>,
}

impl Default for Compared {
    fn default() -> Self {
        Compared { hashes: watch::channel(Vec::new()).0, rotten: watch::channel(None).0 }
    }
}

impl StateStore {
    /// Has the hash of the state as it is now made known, to whoever looks at [`Self::compared`], with the next flush.
    /// To be called right after the commit whose state is meant. False if as much waits for that already as may: then
    /// there will be none.
    pub fn compare_here(&self) -> bool {
        let will_be_known = self.core_mut().compare_here();
        self.flush_wanted.notify_one();
        will_be_known
    }

    /// The last hashes that were asked for, the newest last.
    pub fn compared(&self) -> watch::Receiver<Vec<StateAt>> {
        self.compared.hashes.subscribe()
    }

    /// Whether the state was found not to hold what had been written to it, and how.
    pub fn rotten(&self) -> watch::Receiver<Option<String>> {
        self.compared.rotten.subscribe()
    }

    /// The hash of the state as it was last flushed, with the entry that it is the state after.
    pub fn flushed_hash(&self) -> (Option<LogId>, StateHash) {
        let core = self.core();
        (core.flushed.applied, core.flushed_hash)
    }

    pub(super) fn tell_hash(&self, meta: Meta, hash: StateHash) {
        let Meta { applied, membership } = meta;
        let applied = applied.expect("a state that is compared has an entry that asked for it");
        self.compared.hashes.send_modify(|hashes| {
            hashes.push(StateAt { applied, membership, hash });
            let more = hashes.len().saturating_sub(KEPT_MAX);
            hashes.drain(..more);
        });
    }

    /// Compares what all records come to with what they came to when they were written.
    pub(super) fn check_count(
        &self,
        applied: LogId,
        written: &StateHash,
        counted: &StateHash,
    ) -> Result<(), StateError> {
        if written == counted {
            return Ok(());
        }
        let (counted, written) = (counted.to_string(), written.to_string());
        let error = StateError::Rotten { applied, counted, written };
        self.compared.rotten.send_replace(Some(error.to_string()));
        Err(error)
    }
}
