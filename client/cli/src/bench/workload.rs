//! What callers do, whomever they do it to: the names, and the choice of the next step.

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use super::args::{Bench, Workload};
use crate::{cleanup::Trace, prefix::Kind};

/// Counters and keys of a benchmark start with this.
const PREFIX: &str = "bench/";

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Adds 1 to the counter that all share.
    AddHot,
    /// Adds 1 to one of many counters.
    Add(u64),
    Put(u64),
    Get(u64),
    /// Moves 1 from an account to another one.
    Transfer(u64, u64),
}

/// Draws steps: the same ones for the same seed and caller.
#[derive(Debug)]
pub(crate) struct Choice {
    workload: Workload,
    spread: u64,
    random: SmallRng,
}

impl Choice {
    pub(crate) fn new(bench: &Bench, caller: u64) -> Self {
        Self {
            workload: bench.workload,
            spread: bench.spread,
            random: SmallRng::seed_from_u64(bench.seed ^ caller << 20),
        }
    }

    pub(crate) fn next(&mut self) -> Step {
        let workload = match self.workload {
            Workload::Mixed => match self.random.random_range(0..10) {
                0..7 => Workload::Get,
                7..9 => Workload::AddSpread,
                _ => Workload::Put,
            },
            other => other,
        };
        let item = self.random.random_range(0..self.spread);
        match workload {
            Workload::AddHot => Step::AddHot,
            Workload::AddSpread => Step::Add(item),
            Workload::Put => Step::Put(item),
            Workload::Get | Workload::Mixed => Step::Get(item),
            Workload::ApplyTransfer => {
                let accounts = self.spread.max(2);
                Step::Transfer(item, (item + self.random.random_range(1..accounts)) % accounts)
            }
        }
    }
}

/// The name on the command line.
pub(crate) fn name<T: clap::ValueEnum>(value: &T) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// What the workload needs before it starts.
pub(crate) fn needs_keys(workload: Workload) -> bool {
    matches!(workload, Workload::Get | Workload::Mixed)
}

/// What the workload writes.
pub(crate) fn traces(workload: Workload) -> Vec<Trace> {
    let counters = |part| Trace::Prefix(Kind::Counter, format!("{PREFIX}{part}/"));
    let keys = || Trace::Prefix(Kind::Key, format!("{PREFIX}k/"));
    match workload {
        Workload::AddHot => vec![Trace::Name(Kind::Counter, hot())],
        Workload::AddSpread => vec![counters("c")],
        Workload::Put | Workload::Get => vec![keys()],
        Workload::Mixed => vec![counters("c"), keys()],
        Workload::ApplyTransfer => vec![counters("account")],
    }
}

pub(crate) fn hot() -> String {
    format!("{PREFIX}hot")
}

pub(crate) fn counter(item: u64) -> String {
    format!("{PREFIX}c/{item:08}")
}

pub(crate) fn key(item: u64) -> String {
    format!("{PREFIX}k/{item:08}")
}

pub(crate) fn account(item: u64) -> String {
    format!("{PREFIX}account/{item:08}")
}
