//! A run as a recording that a page plays ([`tally_player`]): nodes and their logs, messages, faults, what clients
//! asked and were told, and where a promise broke.
//!
//! A [`Recorder`] looks at a cluster while a simulation runs; with what the trace kept ([`crate::trace::Keep`]) and
//! the history of its clients it becomes a [`Recording`]. It looks and changes nothing: the digest of the trace is that
//! of a run that nobody records. `tally-sim replay --html` is made of these, and a service that is tested with
//! [`Cluster`](crate::Cluster) uses them in the same way (`tests/shop.rs`).

mod recorder;

use std::collections::BTreeSet;

use tally_client::history::{Record, Status};
use tally_player::{Broken, Came, Operation};

pub use self::recorder::Recorder;
use crate::{
    check::show,
    run::{Outcome, Violation},
    scenarios::Scenario,
    story, trace,
};
pub use tally_player::Recording;

fn ms(ns: u64) -> f64 {
    (ns / 1000) as f64 / 1e3
}

fn operation(number: usize, record: &Record) -> Operation {
    let parts = record.ops.iter().chain(&record.else_ops);
    let names = std::iter::once(&record.part).chain(parts).filter_map(|part| part.key.clone());
    let conditions = record.when.iter().map(|when| when.key.clone());
    let names: BTreeSet<String> = names.chain(conditions).collect();
    Operation {
        number,
        client: record.client,
        call: ms(record.call),
        took: record.ret.map(|ret| ms(ret.saturating_sub(record.call))),
        status: match record.status {
            Status::Ok => Came::Ok,
            Status::Fail => Came::Fail,
            Status::Unknown => Came::Unknown,
        },
        is_read: record.is_read(),
        names: names.into_iter().collect(),
        node: record.node,
        text: show(record),
    }
}

/// The checker quotes the calls that it speaks of.
fn broken(violation: &Violation, records: &[Record]) -> Broken {
    let Violation { kind, what, at_ms } = violation.clone();
    let is_named = |(_, record): &(usize, &Record)| what.contains(&show(record));
    let named: Vec<(usize, &Record)> = records.iter().enumerate().filter(is_named).collect();
    let ends = named.iter().map(|(_, record)| record.ret.unwrap_or(record.call) / 1_000_000);
    let happened_ms = ends.max().unwrap_or(at_ms);
    let operations = named.into_iter().map(|(number, _)| number).collect();
    Broken { kind, what, at_ms, happened_ms, operations }
}

fn recorded(
    title: String,
    lasted_ms: u64,
    recorder: Recorder,
    told: Vec<story::Line>,
    records: &[Record],
) -> Recording {
    let operations = records.iter().enumerate().map(|(number, record)| operation(number, record));
    let recording = Recording::new(title, lasted_ms, recorder.into_seen(), operations);
    let lines = told.into_iter().map(|line| (line.ms, line.who, line.text)).collect();
    Recording { lines, ..recording }
}

/// A run of the simulator; `command` shows it again.
pub fn of_outcome(
    outcome: &Outcome,
    recorder: Recorder,
    scenario: Option<&Scenario>,
    command: String,
) -> Recording {
    let title = match scenario {
        Some(scenario) => format!("{}, seed {}", scenario.name, outcome.seed),
        None => format!("seed {}", outcome.seed),
    };
    let about = scenario.map_or(String::new(), |scenario| {
        format!("{} Look at: {}.", scenario.shows, scenario.look_at)
    });
    let told = story::lines(outcome);
    let violations = outcome.violations.iter().map(|one| broken(one, &outcome.records));
    let recording = recorded(title, outcome.simulated_ms, recorder, told, &outcome.records);
    Recording {
        about,
        command,
        digest: format!("{:016x}", outcome.trace.digest),
        passed: outcome.passed(),
        violations: violations.collect(),
        ..recording
    }
}

/// Any simulation that is over: its story is what this thread's trace kept, with whatever was told it by
/// [`trace_event!`](crate::trace_event), and `records` are what clients saw, if they recorded it.
pub fn of_this_thread(
    title: impl Into<String>,
    lasted_ms: u64,
    recorder: Recorder,
    records: &[Record],
) -> Recording {
    let told = story::of_heard(&trace::heard());
    recorded(title.into(), lasted_ms, recorder.with_messages(), told, records)
}

#[cfg(test)]
mod tests;
