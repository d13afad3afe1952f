//! `tally-sim`: runs seeds of the simulator, replays and shrinks them, judges histories.

mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Something was violated.
const EXIT_VIOLATED: u8 = 1;

#[derive(Parser)]
#[command(name = "tally-sim", version, about = "Deterministic simulation of a Tally cluster")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs seeds, or for some minutes, and checks what must hold. Exit code 1 if something did not.
    Run(run::RunArguments),
    /// Runs one seed and prints what happened: simulated time, node, event. The same each time.
    Replay(run::ReplayArguments),
    /// Runs each seed twice and compares whole traces. Exit code 1 if they differ.
    Determinism(run::DeterminismArguments),
}

fn main() -> ExitCode {
    let violated = match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Replay(arguments) => run::replay(&arguments),
        Command::Determinism(arguments) => run::determinism(&arguments),
    };
    match violated {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_VIOLATED),
        Err(problem) => {
            eprintln!("tally-sim: {problem}");
            ExitCode::from(2)
        }
    }
}
