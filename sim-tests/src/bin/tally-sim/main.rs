//! `tally-sim`: runs seeds of the simulator, replays and shrinks them, judges histories.
//!
//! Exit codes: 0 if all is well, 1 if something was violated, 2 if it was asked for something that
//! it can't do.

mod bugs;
mod child;
mod run;
mod shrink;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use tally_sim::{
    check::{Assumptions, file::check_file_with},
    scenarios,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "tally-sim", version, about = "Deterministic simulation of a Tally cluster")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs seeds, or for some minutes, and checks what must hold.
    Run(run::RunArguments),
    /// Runs one seed and prints what happens: simulated time, node, event. The same each time.
    Replay(child::Seed),
    /// Looks for the fewest faults with which a seed still fails.
    Shrink(child::Seed),
    /// Runs each seed twice and compares whole traces.
    Determinism(run::DeterminismArguments),
    /// Lists the scenarios that teach: what each shows, and what to look at.
    Scenarios,
    /// Lists the bugs on purpose, or checks that each is caught.
    Bugs(bugs::BugsArguments),
    /// Judges a history: one operation a line, as a run, `tally demo` and `tally bench` record it.
    Check(CheckArguments),
    /// One seed, as `run` starts it.
    #[command(hide = true)]
    Seed(child::Seed),
}

#[derive(Debug, clap::Args)]
struct CheckArguments {
    /// The file, JSON lines.
    file: PathBuf,
    /// The store was empty when the history began.
    #[arg(long)]
    from_the_beginning: bool,
    /// Others wrote to other names at the same time.
    #[arg(long)]
    others_write: bool,
    /// Print the verdict as one JSON object.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let all_well = match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Replay(arguments) => run::replay(&arguments),
        Command::Shrink(arguments) => shrink::shrink(&arguments),
        Command::Determinism(arguments) => run::determinism(&arguments),
        Command::Scenarios => Ok(scenarios()),
        Command::Bugs(arguments) => bugs::bugs(&arguments),
        Command::Check(arguments) => check(&arguments),
        Command::Seed(arguments) => child::seed(&arguments).map(|()| true),
    };
    match all_well {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(problem) => {
            eprintln!("tally-sim: {problem}");
            ExitCode::from(2)
        }
    }
}

fn scenarios() -> bool {
    for scenario in scenarios::all() {
        println!("{}\n    {}", scenario.name, scenario.shows);
        println!("    look at: {}", scenario.look_at);
        println!("    tally-sim replay --scenario {} --seed 1\n", scenario.name);
    }
    true
}

fn check(arguments: &CheckArguments) -> Result<bool, String> {
    let assumptions = Assumptions {
        from_the_beginning: arguments.from_the_beginning,
        others_write: arguments.others_write,
        ..Assumptions::default()
    };
    let report =
        check_file_with(&arguments.file, assumptions).map_err(|error| error.to_string())?;
    if arguments.json {
        println!("{}", serde_json::to_string(&report).map_err(|error| error.to_string())?);
    } else {
        println!("{report}");
    }
    Ok(report.passed)
}
