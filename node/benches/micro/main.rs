//! Micro-benchmarks of what every write pays: the machine, the log, the encodings.
//!
//! ```text
//! cargo bench -p tally-node --bench micro [-- NAME]     nanoseconds an operation
//! deploy/bench/instructions.sh [--update]               instructions an operation, compared
//! cargo bench -p tally-node --bench micro -- --encodings  a log entry in other encodings
//! ```
//!
//! Seconds differ from machine to machine and from minute to minute; instructions hardly do. So the
//! same fixed work can also be done once (`--once NAME`), for a tool that counts them.

#![allow(missing_docs)]

mod encodings;
mod workloads;

use std::{io::Write as _, time::Duration};

use tokio::time::Instant;

use crate::workloads::{ALL, Workload};

/// Times each workload is measured; the middle one counts.
const RUNS: usize = 15;

fn main() {
    // cargo adds `--bench`.
    let arguments: Vec<_> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--list"] => ALL.iter().for_each(|it| line(&format!("{} {}", it.name, it.operations))),
        ["--once", name] => match ALL.iter().find(|it| it.name == name) {
            Some(workload) => measured_section(&mut *(workload.prepare)()),
            None => {
                line(&format!("there is no {name}; --list shows what there is"));
                std::process::exit(2);
            }
        },
        ["--encodings"] => encodings::compare(),
        [] => ALL.iter().for_each(time),
        [part] => ALL.iter().filter(|it| it.name.contains(part)).for_each(time),
        _ => {
            line("usage: micro [NAME | --list | --once NAME | --encodings]");
            std::process::exit(2);
        }
    }
}

/// What is counted: found by its name, so it must stay a function of its own.
#[inline(never)]
fn measured_section(work: &mut dyn FnMut()) {
    work();
}

fn time(workload: &Workload) {
    let times = sorted_times(|| {
        let mut work = (workload.prepare)();
        let began = Instant::now();
        measured_section(&mut *work);
        began.elapsed()
    });
    let of = |run: usize| times[run].as_nanos() as f64 / f64::from(workload.operations);
    let (least, median, most) = (of(0), of(RUNS / 2), of(RUNS - 1));
    line(&format!(
        "{:<20} {median:>9.0} ns an operation  ({least:.0} to {most:.0}, {RUNS} runs)",
        workload.name
    ));
}

/// What [`RUNS`] runs took, the fastest first.
fn sorted_times(run: impl FnMut() -> Duration) -> Vec<Duration> {
    let mut times: Vec<_> = std::iter::repeat_with(run).take(RUNS).collect();
    times.sort_unstable();
    times
}

fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
