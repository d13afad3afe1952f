//! `tally`: the command line of Tally. One-shot commands, a benchmark, and a demonstration that
//! kills leaders and counts.

#![allow(missing_docs)]

mod apply;
mod args;
mod audit;
mod auth;
mod backup;
mod bench;
mod book;
mod cert;
mod cleanup;
mod cluster;
mod counter;
mod debug;
mod demo;
mod fill;
mod input;
mod interrupts;
mod json;
mod key;
mod kv;
mod load;
mod manual;
mod output;
mod pages;
mod prefix;
mod procs;
mod quota;
mod session;
mod shell;
mod status;
mod tls;
mod top;
mod version;
mod waiting;
mod worth;

use std::{ffi::OsString, process::ExitCode, time::Duration};

use clap::{CommandFactory as _, Parser, Subcommand};
use tally_client::{Client, Transport};

use crate::{
    args::Common,
    output::{Exit, Failure, Output, escaped},
    waiting::Waiting,
};

/// A one-shot call gives up after this long if nothing listens at any endpoint. A node that is started
/// again listens within a second or two.
const UNHEARD_MAX: Duration = Duration::from_secs(2);

const _: () = assert!(
    !tally_proto::seeded_bugs::COMPILED,
    "the shipped binaries are never built with seeded bugs"
);

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Talks to a Tally cluster: replicated counters and keys, each write counted exactly once.
#[derive(Debug, Parser)]
#[command(name = "tally", version = version::LINE, about, propagate_version = true)]
#[command(after_help = "Exit status:
  0  done
  1  demo only: the audit found something lost or counted twice
  2  the command line is wrong
  3  refused: decided by the cluster, sending the same again gets the same
  4  not applied by this call: sending it again is safe. Under an --idempotency-key that you chose,
     an earlier call may have been applied: send it again under the same key to know
  5  unknown: it may have been applied; send it again only with the same --idempotency-key
  6  done, a write too, but the output could not be written
  7  status --check only: the cluster is degraded
  8  status --check only: no leader or no quorum, so writes are not answered
  9  what was to be read, or some of it, does not exist
 10  a node found the request wrong, e.g. a name that is too long
 11  --one-point only: something was written while it was read, each time; nothing was printed
130  cut short by Ctrl-C or SIGTERM")]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

impl Arguments {
    /// The arguments of this process.
    fn understand(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let arguments: Vec<OsString> = arguments.into_iter().collect();
        let mut arguments = Self::try_parse_from(&arguments).map_err(|error| {
            // clap repeats what it does not understand as it is; it shall not move the cursor.
            let plain = arguments.iter().map(|argument| escaped(&argument.to_string_lossy()));
            Self::try_parse_from(plain).err().unwrap_or(error)
        })?;
        arguments.common.look_around();
        Ok(arguments)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Counters: named signed 64-bit integers.
    Counter {
        #[command(subcommand)]
        command: counter::Counter,
    },
    /// Keys: names for values of up to 1 MiB.
    Kv {
        #[command(subcommand)]
        command: kv::Kv,
    },
    /// Sessions of clients: who holds them, and ending some.
    Session {
        #[command(subcommand)]
        command: session::Session,
    },
    /// Users, roles and tokens: who may do what.
    Auth {
        #[command(subcommand)]
        command: auth::Auth,
    },
    /// Quotas: how many items there may be with a prefix, and how many bytes they may have.
    Quota {
        #[command(subcommand)]
        command: quota::Quota,
    },
    /// Runs an atomic step over counters and keys, given as JSON.
    Apply(apply::Apply),
    /// Makes certificates for development and small clusters: a CA, and what it signs for nodes and clients.
    Cert {
        #[command(subcommand)]
        command: cert::Cert,
    },
    /// Writes a backup of the whole cluster to a file, while it works.
    Backup(backup::Backup),
    /// Restores a backup into a new, empty cluster, at any node. Begun again with the same file it goes on where it
    /// stopped.
    Restore(backup::Restore),
    /// Shows the nodes: roles, terms, log and applied index, lag, disk.
    Status(status::StatusOptions),
    /// Shows the nodes as they work: rates, latencies, lag, syncs, the most used items; a live view on a terminal.
    Top(top::Top),
    /// Members: shows, adds, promotes, removes and replaces them, and says who leads.
    Cluster {
        #[command(subcommand)]
        command: cluster::Cluster,
    },
    /// Gathers what explains a cluster to somebody who can't look at it.
    Debug {
        #[command(subcommand)]
        command: debug::Debug,
    },
    /// Measures throughput and latency: in a closed loop, or at a fixed rate.
    Bench(Box<bench::Bench>),
    /// Fills a cluster quickly with counters, keys, sessions and idempotency keys.
    Fill(fill::Fill),
    /// Answers `bench --target echo`: what gRPC alone can do here.
    #[command(hide = true)]
    BenchEchoServer {
        /// Bytes of the value in each answer.
        #[arg(long, default_value_t = 256)]
        value_size: usize,
    },
    /// Kills leaders under load and counts: nothing lost, nothing counted twice.
    Demo(demo::Demo),
    /// Prints a script that completes commands and options in a shell.
    Completions {
        /// The shell in which it will run.
        shell: clap_complete::Shell,
    },
    /// Prints the manual page of a command, as roff: `tally man status | man -l -`.
    Man(manual::Man),
    /// Runs commands as they are typed, with history and completion; or from a pipe, a line each.
    Shell(shell::ShellOptions),
    /// Shows the version, the commit and the date of the build, and the versions that the nodes run.
    Version(version::VersionOptions),
}

fn main() -> ExitCode {
    let arguments = match Arguments::understand(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => return Output::new(args::asks_for_json(), false).usage(&error),
    };
    let output = output(&arguments.common);
    // The client of a shell lives on while somebody types.
    let is_shell = matches!(arguments.command, Command::Shell(_));
    let many_tasks = matches!(
        arguments.command,
        Command::Bench(_) | Command::BenchEchoServer { .. } | Command::Demo(_) | Command::Fill(_)
    );
    let mut builder = if many_tasks || is_shell {
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
    if is_shell {
        builder.worker_threads(1);
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output.failure(&Failure::usage(format!("no runtime: {error}"))),
    };
    if let Command::Shell(options) = &arguments.command {
        let status = shell::run(&runtime, &arguments.common, options);
        // It may still read a line that nobody wants any more.
        runtime.shutdown_background();
        return status;
    }
    let status = match runtime.block_on(run(arguments, output)) {
        Ok(exit) => exit.into(),
        Err(failure) => output.failure(&failure),
    };
    // Who cut it short does not wait for what is still under way.
    runtime.shutdown_background();
    status
}

fn output(common: &Common) -> Output {
    Output::new(common.json, common.verbose)
}

async fn run(arguments: Arguments, output: Output) -> Result<Exit, Failure> {
    let Arguments { common, command } = &arguments;
    if let Command::Backup(backup) = command
        && let Some(of_file) = backup.of_file()
    {
        return backup::look(of_file, output).await;
    }
    match command {
        Command::Completions { shell } => manual::completions(Arguments::command(), *shell),
        Command::Man(man) => manual::man(Arguments::command(), man),
        Command::Version(asked) => {
            let client = (!asked.client).then(|| nodes_for_a_moment(common)).transpose()?;
            version::run(client.as_ref(), output).await
        }
        Command::Bench(bench) => bench::run(common, bench, output).await,
        Command::BenchEchoServer { value_size } => {
            bench::serve_echo(*value_size).await.map(|()| Exit::Done)
        }
        Command::Fill(fill) => fill::run(common, fill, output).await,
        Command::Demo(demo) => demo::run(common, demo, output).await,
        Command::Cert { command } => cert::run(command, output),
        Command::Shell(_) => unreachable!("it has run"),
        Command::Counter { .. }
        | Command::Kv { .. }
        | Command::Session { .. }
        | Command::Auth { .. }
        | Command::Quota { .. }
        | Command::Apply(_)
        | Command::Status(_)
        | Command::Cluster { .. }
        | Command::Debug { .. }
        | Command::Backup(_)
        | Command::Restore(_)
        | Command::Top(_) => {
            let waiting = Waiting::default();
            let client = client(common, &waiting)?;
            if let Command::Top(top) = command {
                // It draws, and says itself what is in the way.
                return top::run(&client, top, output).await;
            }
            if matches!(command, Command::Backup(_) | Command::Restore(_)) {
                // Many calls, each with a deadline: they say themselves how far they are.
                return ask(&client, command, output).await;
            }
            waiting.tell(common.deadline.0, ask(&client, command, output)).await
        }
    }
}

/// Runs a command that makes one call, or a few.
async fn ask(client: &Client, command: &Command, output: Output) -> Result<Exit, Failure> {
    match command {
        Command::Counter { command } => return counter::run(client, command, output).await,
        Command::Kv { command } => return kv::run(client, command, output).await,
        Command::Session { command } => session::run(client, command, output).await?,
        Command::Auth { command } => return auth::run(client, command, output).await,
        Command::Quota { command } => quota::run(client, command, output).await?,
        Command::Apply(apply) => apply::run(client, apply, output).await?,
        Command::Status(status) => return status::run(client, status, output).await,
        Command::Debug { command } => return debug::run(client, command, output).await,
        Command::Cluster { command } => return cluster::run(client, command, output).await,
        Command::Backup(asked) => return backup::back_up(client, asked, output).await,
        Command::Restore(asked) => return backup::restore(client, asked, output).await,
        other => unreachable!("{other:?} has a client of its own"),
    }
    Ok(Exit::Done)
}

/// The client of a command that makes one call: it opens no session, and whoever started it by hand
/// does not wait long for nodes that nobody has started.
pub(crate) fn client(common: &Common, waiting: &Waiting) -> Result<Client, Failure> {
    let waiting = waiting.clone();
    let builder = common
        .builder()?
        .deadline(common.deadline.0)
        .transport(Transport::Stream)
        .give_up_unheard(UNHEARD_MAX)
        .on_trouble(move |trouble| waiting.note(trouble))
        .one_shot();
    builder.build().map_err(|error| Failure::usage(error.message().to_owned()))
}

/// A client for what is nice to know, and not worth a wait.
fn nodes_for_a_moment(common: &Common) -> Result<Client, Failure> {
    let deadline = common.deadline.0.min(version::NODES_WITHIN);
    let builder = common.builder()?.deadline(deadline).one_shot();
    let builder = builder.give_up_unheard(version::UNHEARD_MAX);
    builder.build().map_err(|error| Failure::usage(error.message().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn everything_has_a_help_and_global_options_stand_at_its_end() {
        fn walk(command: &clap::Command, path: &str, silent: &mut Vec<String>) {
            if command.get_about().is_none() {
                silent.push(path.to_owned());
            }
            for argument in command.get_arguments() {
                let id = argument.get_id();
                if argument.get_help().is_none_or(|help| help.to_string().trim().is_empty()) {
                    silent.push(format!("{path} {id}"));
                }
            }
            for command in command.get_subcommands() {
                walk(command, &format!("{path} {}", command.get_name()), silent);
            }
        }
        let mut definition = Arguments::command();
        definition.build();
        let mut silent = Vec::new();
        walk(&definition, "", &mut silent);
        assert!(silent.is_empty(), "no help: {silent:#?}");

        let add = definition.find_subcommand_mut("counter").unwrap();
        let help = add.find_subcommand_mut("add").unwrap().render_help().to_string();
        let (own, global) = help.split_once(args::GLOBAL).expect(&help);
        assert!(own.contains("--floor") && !own.contains("--endpoints"), "{help}");
        assert!(global.contains("--endpoints") && !global.contains("--floor"), "{help}");
    }

    #[test]
    fn negative_deltas_and_values() {
        for arguments in [
            vec!["tally", "counter", "add", "stock", "-5", "--floor", "-10"],
            vec!["tally", "counter", "set", "stock", "-5"],
            vec!["tally", "counter", "cas", "stock", "-5", "--expect", "-6"],
            vec!["tally", "counter", "configure", "stock", "--floor", "-1"],
        ] {
            Arguments::try_parse_from(&arguments).unwrap_or_else(|error| panic!("{error}"));
        }
        assert!(Arguments::try_parse_from(["tally", "counter", "cas", "stock", "5"]).is_err());
    }
}
