//! `tally-sim`: runs seeds of the simulator, replays and shrinks them, judges histories.
//!
//! Exit codes: 0 if all is well, 1 if something was violated, 2 if it was asked for something that
//! it can't do.

#[macro_use]
mod say;
mod bugs;
mod child;
mod run;
mod shrink;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
};

use clap::{Parser, Subcommand};
use tally_sim::{
    check::{Assumptions, file::check_file_with},
    run::Violation,
    scenarios::{self, Scenario},
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
    Scenarios(ScenariosArguments),
    /// Lists the bugs on purpose, or checks that each is caught.
    Bugs(bugs::BugsArguments),
    /// Judges a history: one operation a line, as a run, `tally demo` and `tally bench` record it.
    Check(CheckArguments),
    /// One seed, as `run` starts it.
    #[command(hide = true)]
    Seed(child::Seed),
}

#[derive(Debug, clap::Args)]
struct ScenariosArguments {
    /// Run each at the seed that is printed, and fail if it does not show its lesson there.
    #[arg(long)]
    check: bool,
    /// For each that does not, the first of these seeds at which it does: `1..30`.
    #[arg(long, requires = "check", value_name = "A..B")]
    find: Option<child::Seeds>,
    /// Only this one.
    #[arg(long)]
    scenario: Option<String>,
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
        Command::Replay(arguments) => run::replay(&at_its_seed(arguments)),
        Command::Shrink(arguments) => shrink::shrink(&arguments),
        Command::Determinism(arguments) => run::determinism(&arguments),
        Command::Scenarios(arguments) if arguments.check => check_scenarios(&arguments),
        Command::Scenarios(_) => Ok(scenarios()),
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

/// A scenario for which no seed is given is replayed at the one that shows it.
fn at_its_seed(mut arguments: child::Seed) -> child::Seed {
    let scenario = arguments.scenario.as_deref().and_then(scenarios::named);
    if let (None, Some(scenario)) = (arguments.given(), scenario) {
        arguments.seed = Some(scenario.seed);
    }
    arguments
}

/// Runs each scenario at the seed that is printed for it. True if all show their lessons, and nothing is
/// violated.
fn check_scenarios(arguments: &ScenariosArguments) -> Result<bool, String> {
    let is_asked = |name: &str| arguments.scenario.as_deref().is_none_or(|only| only == name);
    let all: Vec<_> = scenarios::all().filter(|scenario| is_asked(scenario.name)).collect();
    let failed = AtomicUsize::new(0);
    let numbers = child::Seeds { first: 0, end: all.len() as u64 };
    child::for_each(numbers, child::jobs(None), |number| {
        let scenario = all[number as usize];
        let wrong = wrong_at(scenario, scenario.seed)?;
        let verdict = if wrong.is_empty() { "shows its lesson" } else { "FAILED" };
        say!("{:<50} seed {}  {verdict}", scenario.name, scenario.seed);
        for wrong in &wrong {
            say!("    {wrong}");
        }
        if let Some(seeds) = arguments.find.filter(|_| !wrong.is_empty()) {
            for seed in seeds.first..seeds.end {
                if wrong_at(scenario, seed)?.is_empty() {
                    say!("    seed {seed} shows it");
                    break;
                }
            }
        }
        failed.fetch_add(usize::from(!wrong.is_empty()), Ordering::Relaxed);
        Ok(true)
    })?;
    Ok(failed.into_inner() == 0)
}

/// Why a scenario does not show its lesson at a seed; empty if it does.
fn wrong_at(scenario: &Scenario, seed: u64) -> Result<Vec<String>, String> {
    let mut seed = child::Seed::new(seed, 60);
    seed.scenario = Some(scenario.name.to_owned());
    seed.lesson = true;
    let report = seed.spawn()?;
    let broken = |broken: &Violation| format!("{}: {}", broken.kind, broken.what);
    let mut wrong: Vec<String> = report.violations.iter().map(broken).collect();
    if scenario.lesson.is_empty() {
        wrong.push("it has no lesson".to_owned());
    }
    wrong.extend(report.missing.map(|pattern| format!("its story lacks `{pattern}`")));
    Ok(wrong)
}

fn scenarios() -> bool {
    for scenario in scenarios::all() {
        say!("{}\n    {}", scenario.name, scenario.shows);
        say!("    look at: {}", scenario.look_at);
        say!("    tally-sim replay --scenario {} --seed {}\n", scenario.name, scenario.seed);
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
        say!("{}", serde_json::to_string(&report).map_err(|error| error.to_string())?);
    } else {
        say!("{report}");
    }
    Ok(report.passed)
}
