//! Which entries have requests that are traced.
//!
//! An entry's contexts travel beside it, never in it: what is on disk and what is applied is the same whether
//! anything is traced or not. The leader's log takes them from the proposal, a follower's from the message that brought
//! the entry; for replication and for apply they are found again here, where the entries are read back without them.
//!
//! Contexts that are lost (the node began anew, the follower was far behind) are spans that are missing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::types::{Contexts, LogId};
use crate::env::traces::{CONTEXT_BYTES, TraceContext, Tracer};

/// So many traced entries are known at once; the oldest are forgotten. A second of them at a rate that is a lot.
const ENTRIES_MAX: usize = 4096;

/// Requests of one entry that are traced at most: what is above is not worth its bytes.
pub(crate) const CONTEXTS_MAX: usize = 64;

/// By index and term.
type Known = BTreeMap<(u64, u64), Arc<[TraceContext]>>;

/// What a node knows of traced entries. Nothing is kept while the tracer is off.
#[derive(Debug, Clone, Default)]
pub struct TracedEntries {
    tracer: Tracer,
    entries: Arc<Mutex<Known>>,
}

fn key(log_id: &LogId) -> (u64, u64) {
    (log_id.index, log_id.leader_id.term)
}

impl TracedEntries {
    /// None yet.
    pub fn new(tracer: Tracer) -> TracedEntries {
        TracedEntries { tracer, entries: Arc::default() }
    }

    /// What spans are told to.
    pub(crate) fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An entry with contexts is appended.
    pub(crate) fn put(&self, log_id: &LogId, contexts: &Arc<[TraceContext]>) {
        if !self.tracer.is_on() {
            return;
        }
        let mut entries = self.lock();
        entries.insert(key(log_id), Arc::clone(contexts));
        while entries.len() > ENTRIES_MAX {
            entries.pop_first();
        }
    }

    /// The contexts of an entry.
    pub(crate) fn get(&self, log_id: &LogId) -> Contexts {
        if !self.tracer.is_on() {
            return None;
        }
        self.lock().get(&key(log_id)).cloned()
    }
}

/// As it goes to other nodes.
pub(crate) fn to_bytes(contexts: &Contexts) -> Vec<u8> {
    let contexts = contexts.as_deref().unwrap_or_default();
    contexts.iter().flat_map(|context| context.to_bytes()).collect()
}

/// As it comes from them.
pub(crate) fn from_bytes(bytes: &[u8]) -> Contexts {
    if bytes.is_empty() {
        return None;
    }
    let bytes = &bytes[..bytes.len().min(CONTEXTS_MAX * CONTEXT_BYTES)];
    let contexts = TraceContext::all_from_bytes(bytes);
    (!contexts.is_empty()).then(|| contexts.into())
}

#[cfg(test)]
mod tests {
    use super::{super::types::log_id, *};
    use crate::env::traces::{Span, Traces};

    struct Deaf;

    impl Traces for Deaf {
        fn samples(&self) -> bool {
            true
        }

        fn new_id(&self) -> u64 {
            1
        }

        fn now_ns(&self) -> u64 {
            0
        }

        fn take(&self, _: Span) {}
    }

    #[test]
    fn the_oldest_are_forgotten_and_none_is_kept_while_it_is_off() {
        let contexts: Arc<[TraceContext]> = Arc::new([TraceContext { trace_id: 1, span_id: 2 }]);
        let off = TracedEntries::default();
        off.put(&log_id(1, 1), &contexts);
        assert_eq!((off.get(&log_id(1, 1)), off.lock().len()), (None, 0));
        let on = TracedEntries::new(Tracer::new(Some(Arc::new(Deaf))));
        for index in 1..=ENTRIES_MAX as u64 + 1 {
            on.put(&log_id(1, index), &contexts);
        }
        assert_eq!(on.get(&log_id(1, 1)), None);
        assert_eq!(on.get(&log_id(1, 2)).as_deref(), Some(&contexts[..]));
        assert_eq!(on.get(&log_id(2, 2)), None, "another leader's is another entry");
    }

    #[test]
    fn contexts_go_to_other_nodes_and_not_too_many() {
        let many: Contexts =
            Some(vec![TraceContext { trace_id: 1, span_id: 2 }; 2 * CONTEXTS_MAX].into());
        let come = from_bytes(&to_bytes(&many));
        assert_eq!(come.as_deref().map(<[_]>::len), Some(CONTEXTS_MAX));
        assert_eq!((to_bytes(&None).len(), from_bytes(&[]), from_bytes(b"short")), (0, None, None));
    }
}
