//! `tallyd`: runs one node (`serve`), or a small cluster on this machine (`dev`), or asks a node how
//! it is (`health`).

mod allocator;
mod definition;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{FromArgMatches as _, Parser, Subcommand};
use tally_node::process::{dev, health, recover, serve, serve::printed};

const _: () = assert!(
    !tally_proto::seeded_bugs::COMPILED,
    "the shipped binaries are never built with seeded bugs"
);

#[derive(Parser)]
#[command(
    name = "tallyd",
    version = definition::VERSION,
    propagate_version = true,
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
    /// Opens a cluster in the browser, to break and to watch: read levels, cut links, lessons.
    #[cfg(feature = "lab")]
    Lab(tally_lab::Arguments),
    /// Runs a command beside a cluster that is broken by a plan: a test of any service, in any language.
    #[cfg(feature = "lab")]
    Chaos(tally_lab::chaos::Arguments),
    /// Runs one node.
    Serve(Box<serve::Arguments>),
    /// Makes a stopped node the only voter of its cluster, where the quorum is lost for good: the last resort.
    Recover(Box<recover::Arguments>),
    /// Asks a node whether it serves: exit code 0 if it does, else 1.
    Health(health::Arguments),
    /// Prints a script that completes commands and options in a shell.
    Completions {
        /// The shell in which it will run.
        shell: clap_complete::Shell,
    },
    /// Prints the manual page of a command, as roff: `tallyd man serve | man -l -`.
    Man(definition::Man),
    /// Shows the version, the commit and the date of the build.
    Version,
}

fn understood() -> Result<Arguments, clap::Error> {
    let mut definition = definition::of::<Arguments>();
    let matches = definition.try_get_matches_from_mut(std::env::args_os())?;
    Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut definition))
}

/// Says what clap has to say: help to standard output, a mistake to standard error.
fn not_run(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        let _ = error.print();
        return ExitCode::from(2);
    }
    printed(error.print().and_then(|()| io::stdout().flush()))
}

/// This program is each node's, too.
#[cfg(feature = "lab")]
fn lab(name: &str, run: impl FnOnce(&std::path::Path) -> ExitCode) -> ExitCode {
    match std::env::current_exe() {
        Ok(program) => run(&program),
        Err(error) => {
            eprintln!("tallyd {name}: this program: {error}");
            ExitCode::FAILURE
        }
    }
}

fn main() -> ExitCode {
    allocator::configure();
    let arguments = match understood() {
        Ok(arguments) => arguments,
        Err(error) => return not_run(&error),
    };
    match arguments.command {
        Command::Dev(arguments) => dev::run(arguments),
        #[cfg(feature = "lab")]
        Command::Lab(arguments) => lab("lab", |program| tally_lab::run(&arguments, program)),
        #[cfg(feature = "lab")]
        Command::Chaos(arguments) => {
            lab("chaos", |program| tally_lab::chaos::run(&arguments, program))
        }
        Command::Serve(arguments) => serve::run(*arguments),
        Command::Recover(arguments) => recover::run(*arguments),
        Command::Health(arguments) => health::run(arguments),
        Command::Completions { shell } => {
            definition::completions(definition::of::<Arguments>(), shell)
        }
        Command::Man(asked) => definition::man(definition::of::<Arguments>(), &asked),
        Command::Version => definition::version(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_argument_has_a_help() {
        fn walk(command: &clap::Command, path: &str, silent: &mut Vec<String>) {
            let path = format!("{path} {}", command.get_name());
            if command.get_about().is_none() {
                silent.push(path.clone());
            }
            for argument in command.get_arguments() {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                if help.trim().is_empty() {
                    silent.push(format!("{path} {}", argument.get_id()));
                }
            }
            for command in command.get_subcommands() {
                walk(command, &path, silent);
            }
        }
        let mut definition = definition::of::<Arguments>();
        definition.build();
        definition.clone().debug_assert();
        let mut silent = Vec::new();
        walk(&definition, "", &mut silent);
        assert!(silent.is_empty(), "no help: {silent:#?}");

        let serve = definition.find_subcommand_mut("serve").unwrap().render_help().to_string();
        for told in ["--heartbeat-interval-ms <MS>", "[default: 60] [10 or more]", "[1 to 1024]"] {
            assert!(serve.contains(told), "{told}: {serve}");
        }
    }
}
