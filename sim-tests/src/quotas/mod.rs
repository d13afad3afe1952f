//! Quotas in a simulation: what must hold of them, judged from two sides.
//!
//! The *log* says what was decided: each write is done or refused as a second, simple model of quotas says at its place
//! (`quotas/log`), which counts what is used anew each time. *Who lists quotas* (`workload/quotas`) is told what is
//! used in a state that the answer names, and it has to be what the model had after that entry.
//!
//! Clients' own view of a refusal, that the write was not done and that a repeat may be, is the history's to judge.
//! That replicas hold equal quotas is seen where whole states are compared.

mod log;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tally_client::proto::{Quota, QuotaScope};
use tally_node::{
    env::Observer,
    machine::{
        command::Reply,
        quota::{QuotaLimits, Scope},
    },
};

use self::log::{Listed, Log};
use crate::entries::{Judge, shown_to};

/// All that is known of quotas in one run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Book {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    log: Log,
    /// Lists that were told, with the log index of their state, until the model is as far.
    told: Vec<(u64, Vec<Listed>)>,
    wrong: Vec<String>,
    counts: BTreeMap<String, u64>,
}

impl Book {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees what a node appends and applies, before whoever watches beside.
    pub(crate) fn observer(&self, beside: Arc<dyn Observer>) -> Arc<dyn Observer> {
        shown_to(self.clone(), beside)
    }

    /// Somebody was told these quotas, of the state after this log index.
    pub(crate) fn listed(&self, applied: u64, quotas: &[Quota]) {
        self.lock().told.push((applied, quotas.iter().map(listed).collect()));
    }

    pub(crate) fn happened(&self, what: &str) {
        *self.lock().counts.entry(what.to_owned()).or_default() += 1;
    }

    /// What is wrong, since it was last asked for.
    pub(crate) fn take_wrong(&self) -> Vec<String> {
        let shared = &mut *self.lock();
        let judged = shared.log.judged();
        let due = shared.told.extract_if(.., |(applied, _)| *applied <= judged);
        for (applied, told) in due {
            shared.wrong.extend(shared.log.differs(applied, &told));
            *shared.counts.entry("quotas: lists compared".to_owned()).or_default() += 1;
        }
        shared.wrong.append(&mut shared.log.wrong);
        std::mem::take(&mut shared.wrong)
    }

    /// How often things happened.
    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        let shared = self.lock();
        let mut counts = shared.counts.clone();
        let of_log = shared.log.counts.iter();
        counts.extend(of_log.map(|(what, count)| (format!("quotas: {what}"), *count)));
        counts
    }
}

fn listed(quota: &Quota) -> Listed {
    let limits = quota.limits.unwrap_or_default();
    Listed {
        scope: if quota.scope() == QuotaScope::Counters { Scope::Counters } else { Scope::Keys },
        prefix: quota.prefix.clone(),
        limits: QuotaLimits {
            soft_items: limits.soft_items,
            hard_items: limits.hard_items,
            soft_bytes: limits.soft_bytes,
            hard_bytes: limits.hard_bytes,
        },
        used: (quota.used_items, quota.used_bytes),
        sure: !quota.counting,
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
