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

use std::io::Write as _;

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
    let mut times: Vec<_> = (0..RUNS)
        .map(|_| {
            let mut work = (workload.prepare)();
            let began = Instant::now();
            measured_section(&mut *work);
            began.elapsed().as_nanos() as f64 / f64::from(workload.operations)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let (least, median, most) = (times[0], times[RUNS / 2], times[RUNS - 1]);
    line(&format!(
        "{:<20} {median:>9.0} ns an operation  ({least:.0} to {most:.0}, {RUNS} runs)",
        workload.name
    ));
}

fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
