//! `tally man` and `tally completions`: what is made from the definition of the command line.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Args, Command};

use crate::output::{Exit, Failure, print};

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The command whose page is printed, e.g. `counter add`. Default: the program itself.
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
    /// Write a page for each command into this directory instead, which is made if it is missing.
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

/// Prints the page of one command, or writes those of all.
pub(crate) fn man(mut definition: Command, asked: &Man) -> Result<Exit, Failure> {
    if let Some(dir) = &asked.dir {
        // It would have a page for each command a second time.
        definition = definition.disable_help_subcommand(true);
        definition.build();
        let written = fs::create_dir_all(dir).and_then(|()| write_pages(&definition, dir));
        return written
            .map(|()| Exit::Done)
            .map_err(|error| Failure::usage(format!("{}: {error}", dir.display())));
    }
    definition.build();
    let mut command = &definition;
    for word in &asked.command {
        command = command.find_subcommand(word).ok_or_else(|| {
            Failure::usage(format!("there is no command {:?}", asked.command.join(" ")))
        })?;
    }
    let mut bytes = Vec::new();
    page(command).render(&mut bytes)?;
    shown(&bytes)
}

fn page(command: &Command) -> clap_mangen::Man {
    let version = concat!("Tally ", env!("CARGO_PKG_VERSION"));
    clap_mangen::Man::new(command.clone()).source(version).manual("Tally")
}

fn write_pages(command: &Command, dir: &Path) -> io::Result<()> {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        write_pages(command, dir)?;
    }
    page(command).generate_to(dir).map(|_| ())
}

/// Prints what completes this program's commands in a shell.
pub(crate) fn completions(
    mut definition: Command,
    shell: clap_complete::Shell,
) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut definition, "tally", &mut script);
    shown(&script)
}

fn shown(bytes: &[u8]) -> Result<Exit, Failure> {
    let printed = print(bytes);
    printed
        .map(|()| Exit::Done)
        .map_err(|error| Failure::not_printed(&error, "the output could not be written"))
}
