//! The committed entries of the log, one after the other, whoever applies them first: for judges of the log.

use std::collections::BTreeMap;

use tally_node::machine::command::Batch;

/// What was appended anywhere, until the first node applies it.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    /// By index and term.
    appended: BTreeMap<u64, BTreeMap<u64, Batch>>,
    judged: u64,
}

impl Entries {
    pub(crate) fn appended(&mut self, term: u64, index: u64, payload: &[u8]) {
        if index <= self.judged {
            return;
        }
        // Blank entries and memberships are none.
        if let Ok(batch) = tally_node::machine::codec::decode_batch(payload) {
            self.appended.entry(index).or_default().insert(term, batch);
        }
    }

    /// The commands of an entry that a node applies, if it is the first to do so and there are any.
    pub(crate) fn applied(&mut self, term: u64, index: u64) -> Option<Batch> {
        if index <= self.judged {
            return None;
        }
        self.judged = index;
        let batch = self.appended.remove(&index).and_then(|mut terms| terms.remove(&term));
        self.appended = self.appended.split_off(&index);
        batch
    }

    /// The last entry that any node has applied.
    pub(crate) fn judged(&self) -> u64 {
        self.judged
    }
}
