//! Micro-benchmarks of what every write pays: the machine, the log, the encodings.
//!
//! ```text
//! cargo bench -p tally-node --bench micro [-- NAME]     operations a second, and the time of a run
//! deploy/bench/instructions.sh [--update]               instructions an operation, compared
//! cargo bench -p tally-node --bench micro -- --encodings  a log entry in other encodings
//! ```
//!
//! Seconds differ from machine to machine and from minute to minute; instructions hardly do. So the
//! same fixed work can also be done once (`--once NAME`), for a tool that counts them. The log's disk is
//! the simulated one, in memory: what is measured is our code and not a disk.

#![allow(missing_docs)]

mod encodings;
mod workloads;

use std::io::Write as _;

use divan::{Bencher, counter::ItemsCount};

use crate::workloads::{ALL, Workload};

fn main() {
    // cargo adds `--bench`.
    let arguments: Vec<_> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--operations"] => ALL.iter().for_each(|it| line(&format!("{it} {}", it.operations))),
        ["--once", name] => match ALL.iter().find(|it| it.name == name) {
            Some(workload) => measured_section(&mut *(workload.prepare)()),
            None => {
                line(&format!("there is no {name}; --operations shows what there is"));
                std::process::exit(2);
            }
        },
        ["--encodings"] => encodings::compare(),
        _ => divan::main(),
    }
}

#[divan::bench(args = ALL, sample_count = 15, sample_size = 1)]
fn micro(bencher: Bencher<'_, '_>, workload: &Workload) {
    bencher
        .counter(ItemsCount::new(workload.operations))
        .with_inputs(workload.prepare)
        .bench_local_values(|mut work| measured_section(&mut *work));
}

/// What is counted: found by its name, so it must stay a function of its own.
#[inline(never)]
fn measured_section(work: &mut dyn FnMut()) {
    work();
}

fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
