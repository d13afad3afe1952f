//! Users, roles and tokens in a simulation: what must hold of them, judged from two sides.
//!
//! The *log* says what was decided: each committed command names who asked for it, and its reply is held against a
//! second, simple model of rights (`rights/model`) that follows the changes of the log in their order
//! (`rights/log`). The *guests* (`workload/guests`) know who they are and what they were told, by whichever way
//! their call went: each answer names the state that it is of, and is held against the rights there
//! (`rights/calls`). What a node takes a caller for shows on that side alone; what nobody was told on the other.
//!
//! It leaves out what all of it rests on: that replicas hold equal users, roles and tokens. Those are part of the
//! state, whose hashes `invariants` compares.

mod calls;
mod log;
mod model;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tally_node::{env::Observer, machine::command::Reply};

use self::{calls::Known, log::Log, model::Rights};
pub(crate) use self::{
    calls::{Asked, Freshness, Told},
    model::Need,
};
use crate::{
    cluster::Cluster,
    entries::{Judge, shown_to},
    env::EPOCH_MS,
};

/// At most so many are told of one run.
const WRONG_MAX: usize = 20;

/// All that is known of rights in one run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Book {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    log: Log,
    calls: Vec<(Asked, Told)>,
    acked: Vec<(u64, u64)>,
    clocks: (i64, i64),
    counts: BTreeMap<String, u64>,
}

/// What makes an add the only one of its kind.
pub(crate) fn mark_of_add(name: &str, delta: i64) -> String {
    format!("{name} {delta}")
}

impl Book {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees what a node appends and applies, before whoever watches beside.
    pub(crate) fn observer(&self, beside: Arc<dyn Observer>) -> Arc<dyn Observer> {
        shown_to(self.clone(), beside)
    }

    /// Notes how wrong the nodes' wall clocks are at a simulated moment.
    pub(crate) fn look_at_clocks(&self, cluster: &Cluster, now_ms: u64) {
        let clocks = &mut self.lock().clocks;
        for id in cluster.ids() {
            let error = cluster.machine(id).wall_clock().error_ms(now_ms);
            *clocks = (clocks.0.min(error), clocks.1.max(error));
        }
    }

    /// A change of rights was acknowledged: its entry.
    pub(crate) fn acknowledged(&self, at_ms: u64, index: u64) {
        self.lock().acked.push((at_ms, index));
    }

    /// A write that is the only one of its kind is about to be asked for, with this token.
    pub(crate) fn asks(&self, mark: String, token: Option<u64>) {
        self.lock().log.shown.insert(mark, token);
    }

    /// A call is over.
    pub(crate) fn told(&self, asked: Asked, told: Told) {
        self.happened(match told.reason.as_str() {
            "" => "guests: answered".to_owned(),
            reason => format!("guests told: {reason}"),
        });
        if told.replayed {
            self.happened("guests: a remembered answer".to_owned());
        }
        if told.hidden {
            self.happened("guests: an answer without values".to_owned());
        }
        self.lock().calls.push((asked, told));
    }

    pub(crate) fn happened(&self, what: String) {
        *self.lock().counts.entry(what).or_default() += 1;
    }

    /// What the log shows to be wrong, since it was last asked for.
    pub(crate) fn take_wrong(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().log.wrong)
    }

    /// What guests were told that is wrong.
    pub(crate) fn judge(&self) -> Vec<String> {
        let shared = self.lock();
        let none = Rights::default();
        let known = Known {
            versions: &shared.log.versions,
            acked: &shared.acked,
            clocks: shared.clocks,
            epoch_ms: EPOCH_MS,
            none: &none,
        };
        let wrong = shared.calls.iter().filter_map(|(asked, told)| {
            let wrong = known.judge(asked, told)?;
            Some(format!("{wrong}: {asked:?} was told {told:?}"))
        });
        wrong.take(WRONG_MAX).collect()
    }

    /// How often things happened.
    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        let shared = self.lock();
        let mut counts = shared.counts.clone();
        counts.extend(
            shared.log.counts.iter().map(|(what, count)| (format!("rights: {what}"), *count)),
        );
        counts
    }
}

impl Judge for Book {
    fn appended(&self, term: u64, index: u64, payload: &[u8]) {
        self.lock().log.appended(term, index, payload);
    }

    fn applied(&self, term: u64, index: u64, replies: &[Reply]) {
        self.lock().log.applied(term, index, replies);
    }
}
