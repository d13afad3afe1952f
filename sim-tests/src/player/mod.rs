//! A run as a recording that a page plays: nodes and their logs, messages, faults, what clients asked and were
//! told, and where a promise broke.
//!
//! A [`Recorder`] looks at a cluster while a simulation runs; with what the trace kept ([`crate::trace::Keep`]) and
//! the history of its clients it becomes a [`Recording`], which [`Recording::write_html`] writes as one
//! file that needs nothing else. It looks and changes nothing: the digest of the trace is that of a run that
//! nobody records. `tally-sim replay --html` is made of these, and a service that is tested with
//! [`Cluster`] uses them in the same way (`tests/shop.rs`).
//!
//! # The format
//! JSON, [`FORMAT`]. Times are simulated ms since the run began. What is little and needed at once is in the head,
//! [`Recording`]; the rest is cut into windows of [`WINDOW_MS`], each a [`Window`] of its own, so that a page
//! reads what it shows and no more. In the file each is gzip in base64 in a `script` element that no browser runs:
//! `head`, `window-0`, `window-1` and so on.

mod page;
mod recorder;

use std::{collections::BTreeSet, fs, io, path::Path};

use serde::Serialize;
use tally_client::history::{Record, Status};

pub use self::recorder::Recorder;
use crate::{
    check::show,
    run::{Outcome, Violation},
    scenarios::Scenario,
    story, trace,
};

/// Name of the format, with its version.
pub const FORMAT: &str = "tally-recording/1";

/// How long a window is, in simulated ms.
pub const WINDOW_MS: u64 = 20_000;

/// A run, but for what is in its windows.
#[derive(Debug, Clone, Serialize)]
pub struct Recording {
    /// [`FORMAT`].
    pub format: &'static str,
    /// What it is a run of.
    pub title: String,
    /// What is to be seen in it; empty if nobody said.
    pub about: String,
    /// The command line that shows it again.
    pub command: String,
    /// Whether all promises were kept.
    pub passed: bool,
    /// Digest of the trace, as `replay` prints it.
    pub digest: String,
    /// How long it took.
    pub simulated_ms: u64,
    /// [`WINDOW_MS`].
    pub window_ms: u64,
    /// Nodes, also those that came later.
    pub nodes: Vec<u64>,
    /// Promises that were broken.
    pub violations: Vec<Broken>,
    /// The story: when, who, what.
    pub lines: Vec<(u64, String, String)>,
    /// Whenever it changed: when, which node, its role (`leader`, `candidate`, `follower`, `learner`, `starting`,
    /// `stopped`, `down`, `failed`), its term.
    pub roles: Vec<(u64, u64, &'static str, u64)>,
    /// Whenever links changed: when, and all directions between nodes in which messages are lost then.
    pub cuts: Vec<(u64, Vec<(u64, u64)>)>,
    /// What is in no other field, by window.
    #[serde(skip)]
    pub windows: Vec<Window>,
}

/// A promise that was broken.
#[derive(Debug, Clone, Serialize)]
pub struct Broken {
    /// Which check found it.
    pub kind: String,
    /// What is wrong.
    pub what: String,
    /// When that was noticed: what clients saw is judged once all is over.
    pub at_ms: u64,
    /// When it happened, as far as the operations that are named tell.
    pub happened_ms: u64,
    /// Numbers of the operations that are named.
    pub operations: Vec<usize>,
}

/// What happened from one moment to the next [`WINDOW_MS`] later. Times count from its beginning.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Window {
    /// Whenever it changed: when, which node, and the last log index, the commit index and the applied index
    /// there. The first ones of a window are what was so before.
    pub logs: Vec<(u64, u64, u64, u64, u64)>,
    /// Messages between nodes: from, to, when one was sent, and how long it took; -1 if it never arrived.
    pub messages: Vec<(u64, u64, u64, i64)>,
    /// What clients asked in it.
    pub operations: Vec<Operation>,
}

/// A call of a client.
#[derive(Debug, Clone, Serialize)]
pub struct Operation {
    /// Its number in the history.
    pub number: usize,
    /// Who asked.
    pub client: u64,
    /// When, with parts of a ms.
    pub call: f64,
    /// How long the answer took, in ms; none if there was none.
    pub took: Option<f64>,
    /// `ok`, `fail` (no effect) or `unknown`.
    pub status: Status,
    /// Whether it only read.
    pub is_read: bool,
    /// Names of counters and keys.
    pub names: Vec<String>,
    /// Which node answered, if that is known.
    pub node: Option<u64>,
    /// All of it, as the checker quotes it.
    pub text: String,
}

fn ms(ns: u64) -> f64 {
    (ns / 1000) as f64 / 1e3
}

impl Operation {
    fn of(number: usize, record: &Record) -> Operation {
        let parts = record.ops.iter().chain(&record.else_ops);
        let names = std::iter::once(&record.part).chain(parts).filter_map(|part| part.key.clone());
        let conditions = record.when.iter().map(|when| when.key.clone());
        let names: BTreeSet<String> = names.chain(conditions).collect();
        Operation {
            number,
            client: record.client,
            call: ms(record.call),
            took: record.ret.map(|ret| ms(ret.saturating_sub(record.call))),
            status: record.status,
            is_read: record.is_read(),
            names: names.into_iter().collect(),
            node: record.node,
            text: show(record),
        }
    }
}

impl Broken {
    /// The checker quotes the operations that it speaks of.
    fn of(violation: &Violation, operations: &[Operation]) -> Broken {
        let named = operations.iter().filter(|operation| violation.what.contains(&operation.text));
        let (mut numbers, mut happened_ms) = (Vec::new(), violation.at_ms);
        for operation in named {
            numbers.push(operation.number);
            let end = operation.call + operation.took.unwrap_or_default();
            happened_ms = if numbers.len() == 1 { end as u64 } else { happened_ms.max(end as u64) };
        }
        Broken {
            kind: violation.kind.clone(),
            what: violation.what.clone(),
            at_ms: violation.at_ms,
            happened_ms,
            operations: numbers,
        }
    }
}

impl Recording {
    /// A run of the simulator.
    pub fn of(
        outcome: &Outcome,
        recorder: Recorder,
        scenario: Option<&Scenario>,
        command: &str,
    ) -> Self {
        let title = match scenario {
            Some(scenario) => format!("{}, seed {}", scenario.name, outcome.seed),
            None => format!("seed {}", outcome.seed),
        };
        let about = scenario.map_or(String::new(), |scenario| {
            format!("{} Look at: {}.", scenario.shows, scenario.look_at)
        });
        let line = |line: story::Line| (line.ms, line.who, line.text);
        let lines = story::lines(outcome).into_iter().map(line).collect();
        let mut recording =
            Recording::new(title, outcome.simulated_ms, recorder, lines, &outcome.records);
        recording.about = about;
        command.clone_into(&mut recording.command);
        recording.digest = format!("{:016x}", outcome.trace.digest);
        recording.judged(&outcome.violations);
        recording
    }

    /// Any simulation that is over: its story is what this thread's trace kept, with whatever was told it by
    /// [`trace_event!`](crate::trace_event), and `records` are what clients saw, if they recorded it.
    pub fn of_this_thread(
        title: impl Into<String>,
        simulated_ms: u64,
        recorder: Recorder,
        records: &[Record],
    ) -> Self {
        let line = |line: story::Line| (line.ms, line.who, line.text);
        let lines = story::of_heard(&trace::heard()).into_iter().map(line).collect();
        Recording::new(title.into(), simulated_ms, recorder.with_messages(), lines, records)
    }

    fn new(
        title: String,
        simulated_ms: u64,
        recorder: Recorder,
        lines: Vec<(u64, String, String)>,
        records: &[Record],
    ) -> Self {
        let mut recording = Recording {
            format: FORMAT,
            title,
            about: String::new(),
            command: String::new(),
            passed: true,
            digest: String::new(),
            simulated_ms,
            window_ms: WINDOW_MS,
            nodes: recorder.nodes(),
            violations: Vec::new(),
            lines,
            roles: recorder.roles(),
            cuts: recorder.cuts(),
            windows: Vec::new(),
        };
        let windows = simulated_ms / WINDOW_MS + 1;
        recording.windows = recorder.windows(windows as usize);
        for (number, record) in records.iter().enumerate() {
            let mut operation = Operation::of(number, record);
            let window = (operation.call as u64 / WINDOW_MS).min(windows - 1);
            operation.call -= (window * WINDOW_MS) as f64;
            recording.windows[window as usize].operations.push(operation);
        }
        recording
    }

    /// Says which promises were broken.
    pub fn judged(&mut self, violations: &[Violation]) {
        let whole = |(window, operation): (usize, &Operation)| Operation {
            call: operation.call + (window as u64 * WINDOW_MS) as f64,
            ..operation.clone()
        };
        let operations: Vec<Operation> = if violations.is_empty() {
            Vec::new()
        } else {
            let windows = self.windows.iter().enumerate();
            windows
                .flat_map(|(at, window)| window.operations.iter().map(move |one| (at, one)))
                .map(whole)
                .collect()
        };
        self.violations = violations.iter().map(|broken| Broken::of(broken, &operations)).collect();
        self.passed = violations.is_empty();
    }

    /// Writes it as one page.
    pub fn write_html(&self, path: &Path) -> io::Result<()> {
        fs::write(path, page::html(self)?)
    }
}

#[cfg(test)]
mod tests;
