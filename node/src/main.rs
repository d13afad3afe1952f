//! `tallyd`: runs one node (`serve`), or a small cluster on this machine (`dev`), or asks a node how
//! it is (`health`).

mod allocator;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tally_node::{dev, health, serve};

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

fn main() -> ExitCode {
    allocator::configure();
    match Arguments::parse().command {
        Command::Dev(arguments) => dev::run(arguments),
        Command::Serve(arguments) => serve::run(*arguments),
        Command::Health(arguments) => health::run(arguments),
    }
}
