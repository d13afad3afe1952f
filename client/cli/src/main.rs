//! `tally`: the command line of Tally. One-shot commands, a benchmark, and a demonstration that
//! kills leaders and counts.

#![allow(missing_docs)]

mod apply;
mod args;
mod audit;
mod bench;
mod book;
mod counter;
mod demo;
mod fill;
mod kv;
mod load;
mod output;
mod procs;
mod session;
mod status;

use std::process::ExitCode;

use clap::CommandFactory as _;
use tally_client::{Client, Transport};

use crate::{
    args::{Arguments, Command},
    output::{Exit, Failure, Output},
};

const _: () = assert!(
    !tally_proto::seeded_bugs::COMPILED,
    "the shipped binaries are never built with seeded bugs"
);

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = match Arguments::understand(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => return Output { json: args::asks_for_json() }.usage(&error),
    };
    let output = Output { json: arguments.json };
    let many_tasks = matches!(
        arguments.command,
        Command::Bench(_) | Command::BenchEchoServer { .. } | Command::Demo(_) | Command::Fill(_)
    );
    let mut builder = if many_tasks {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    // As a node has: more threads than that wake each other more than they help. The echo server stays as
    // gRPC comes, since it is what others are compared with.
    if many_tasks && !matches!(arguments.command, Command::BenchEchoServer { .. }) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        builder.worker_threads((cores / 2).max(1));
        // One message with many answers wakes many callers at once. With tokio's LIFO slot the first one's
        // next call wakes the connection, which runs before the second caller does: a message for each.
        #[cfg(tokio_unstable)]
        builder.disable_lifo_slot();
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output.failure(&Failure::usage(format!("no runtime: {error}"))),
    };
    match runtime.block_on(run(arguments, output)) {
        Ok(exit) => exit.into(),
        Err(failure) => output.failure(&failure),
    }
}

async fn run(arguments: Arguments, output: Output) -> Result<Exit, Failure> {
    match &arguments.command {
        Command::Completions { shell } => {
            let mut command = Arguments::command();
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut command, "tally", &mut script);
            let printed = output::print(&script);
            printed
                .map(|()| Exit::Done)
                .map_err(|error| Failure::not_printed(&error, "the output could not be written"))
        }
        Command::Counter { command } => {
            counter::run(&client(&arguments)?, command, output).await.map(|()| Exit::Done)
        }
        Command::Kv { command } => {
            kv::run(&client(&arguments)?, command, output).await.map(|()| Exit::Done)
        }
        Command::Session { command } => {
            session::run(&client(&arguments)?, command, output).await.map(|()| Exit::Done)
        }
        Command::Apply(apply) => {
            apply::run(&client(&arguments)?, apply, output).await.map(|()| Exit::Done)
        }
        Command::Status(status) => {
            status::run(&client(&arguments)?, status, output).await.map(|()| Exit::Done)
        }
        Command::Bench(bench) => bench::run(&arguments, bench, output).await.map(|()| Exit::Done),
        Command::BenchEchoServer { value_size } => {
            bench::serve_echo(*value_size).await.map(|()| Exit::Done)
        }
        Command::Fill(fill) => fill::run(&arguments, fill, output).await.map(|()| Exit::Done),
        Command::Demo(demo) => demo::run(&arguments, demo, output).await,
    }
}

/// The client of a command that makes one call: it opens no session.
fn client(arguments: &Arguments) -> Result<Client, Failure> {
    let builder = Client::builder(arguments.endpoints.clone())
        .deadline(arguments.deadline.0)
        .transport(Transport::Stream)
        .one_shot();
    builder.build().map_err(|error| Failure::usage(error.message().to_owned()))
}
