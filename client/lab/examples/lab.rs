//! The lab around a `tallyd` that is built already, to work on the lab without building the node each time:
//! `cargo run -p tally-lab --example lab -- --tallyd target/debug/tallyd`.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

#[derive(Parser)]
struct Program {
    /// The program.
    #[arg(long)]
    tallyd: PathBuf,
    #[command(flatten)]
    lab: tally_lab::Arguments,
}

fn main() -> ExitCode {
    let arguments = Program::parse();
    tally_lab::run(&arguments.lab, &arguments.tallyd)
}
