//! The committed entries of the log, one after the other, whoever applies them first: for judges of the log.

use std::{collections::BTreeMap, sync::Arc};

use tally_node::{
    env::{Event, Observer},
    machine::command::{Batch, Reply},
};

/// Whoever judges the log by what nodes append and apply.
pub(crate) trait Judge: Send + Sync + 'static {
    fn appended(&self, term: u64, index: u64, payload: &[u8]);
    fn applied(&self, term: u64, index: u64, replies: &[Reply]);
}

/// Shows a judge what a node appends and applies, before whoever watches beside sees it.
pub(crate) fn shown_to(judge: impl Judge, beside: Arc<dyn Observer>) -> Arc<dyn Observer> {
    Arc::new(Watch { judge, beside })
}

struct Watch<J> {
    judge: J,
    beside: Arc<dyn Observer>,
}

impl<J: Judge> Observer for Watch<J> {
    fn observe(&self, event: Event<'_>) {
        match event {
            Event::Appended { term, index, payload, voters: None } => {
                self.judge.appended(term, index, payload);
            }
            Event::Applied { term, index, replies } => self.judge.applied(term, index, replies),
            _ => {}
        }
        self.beside.observe(event);
    }
}

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
