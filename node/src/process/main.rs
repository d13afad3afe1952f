//! `tallyd`: runs one node (`serve`), or a small cluster on this machine (`dev`), or asks a node how
//! it is (`health`).

mod allocator;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use tally_node::process::{dev, health, serve, serve::printed};

const _: () = assert!(
    !tally_proto::seeded_bugs::COMPILED,
    "the shipped binaries are never built with seeded bugs"
);

#[derive(Parser)]
#[command(
    name = "tallyd",
    version,
    about = "A node of Tally, the replicated counter and key store"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a three-node cluster on this machine, each node a process of its own.
    Dev(dev::Arguments),
    /// Runs one node.
    Serve(Box<serve::Arguments>),
    /// Asks a node whether it serves: exit code 0 if it does, else 1.
    Health(health::Arguments),
}

/// Says what clap has to say: help to standard output, a mistake to standard error.
fn not_run(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        let _ = error.print();
        return ExitCode::from(2);
    }
    printed(error.print().and_then(|()| io::stdout().flush()))
}

fn main() -> ExitCode {
    allocator::configure();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return not_run(&error),
    };
    match arguments.command {
        Command::Dev(arguments) => dev::run(arguments),
        Command::Serve(arguments) => serve::run(*arguments),
        Command::Health(arguments) => health::run(arguments),
    }
}
