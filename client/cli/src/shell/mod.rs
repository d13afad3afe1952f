//! `tally shell`: the commands of the command line, one after the other, over one client.
//!
//! A line is a command line (`grammar`), taken apart as a POSIX shell would (`line`); those that begin with a
//! backslash are the shell's own, and change settings (`settings`). At a terminal there are an editor, a history and
//! completion (`editor`, `complete`); from a pipe come lines alone, and the first that fails ends it.

mod clients;
mod complete;
mod editor;
mod grammar;
mod line;
mod run;
mod settings;

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

use self::{
    editor::{LineEditor, Typed},
    line::lines,
    run::{Ended, Shell},
};
use crate::{
    args::Common,
    interrupts,
    output::{Exit, Failure, escaped, line as say, note},
};

const SHELL_HELP: &str = "From a pipe, each line is run as it comes. The first that fails ends the shell with its exit
status, and what follows is not run; --keep-going goes on, and the exit status is that of the first.

Lines are remembered in $XDG_STATE_HOME/tally/history (~/.local/state/tally/history), readable by you
alone; in the file that TALLY_SHELL_HISTORY names; or nowhere, if that is empty. A line that begins with a
space is not.

`\\help` lists what the shell has besides the commands of the command line.";

#[derive(Debug, Args)]
#[command(after_help = SHELL_HELP)]
pub(crate) struct ShellOptions {
    /// In a pipe, go on behind a line that failed.
    #[arg(long, short)]
    keep_going: bool,
    /// Remember no line in a file.
    #[arg(long)]
    no_history: bool,
}

/// How long a shell that begins waits to say which cluster it has found.
const GREETS_WITHIN: Duration = Duration::from_secs(1);

/// Runs lines until there are no more.
pub(crate) fn run(runtime: &Runtime, common: &Common, options: &ShellOptions) -> ExitCode {
    interrupts::end_at_sigterm();
    let mut shell = Shell::new(common, runtime.handle().clone());
    let done = if io::stdin().is_terminal() && io::stdout().is_terminal() {
        let history = (!options.no_history).then(editor::history_path).flatten();
        at_a_terminal(runtime, &mut shell, history)
    } else {
        Ok(runtime.block_on(from_a_pipe(&mut shell, options.keep_going)))
    };
    match done {
        Ok(exit) => exit.into(),
        Err(failure) => shell.output().failure(&failure),
    }
}

fn at_a_terminal(
    runtime: &Runtime,
    shell: &mut Shell,
    history: Option<PathBuf>,
) -> Result<Exit, Failure> {
    let unable = |error: rustyline::error::ReadlineError| Failure::unable(error.to_string());
    let (mut editor, problem) =
        LineEditor::open(Arc::clone(&shell.names), history).map_err(unable)?;
    if let Some(problem) = problem {
        note(&format!("-- {}", escaped(&problem)));
    }
    say(&runtime.block_on(shell.greeting(GREETS_WITHIN)))?;
    loop {
        let text = match editor.read(&shell.settings.prompt()).map_err(unable)? {
            Typed::Text(text) => text,
            Typed::Nothing => continue,
            Typed::End => return Ok(Exit::Done),
        };
        if shell.settings.history
            && let Err(error) = editor.remember(&text)
        {
            shell.settings.history = false;
            note(&format!("-- lines are no longer remembered: {error}"));
        }
        for line in lines(&text).unwrap_or_default() {
            match runtime.block_on(shell.line(line)) {
                Ended::Quit => return Ok(Exit::Done),
                Ended::Line(Exit::Done) => {}
                Ended::Line(exit) => note(&format!("-- status {}: {}", exit as u8, meaning(exit))),
            }
            // Nor is anything run that was pasted behind it.
            if shell.is_cut_short {
                break;
            }
        }
    }
}

/// Runs what comes, and returns the exit status of the first line that failed.
async fn from_a_pipe(shell: &mut Shell, keep_going: bool) -> Exit {
    // One for as long as lines come. With one for each line, a Ctrl-C between a command and the next line would be
    // nobody's: a signal that was listened to once no longer ends the process by itself.
    let Ok(mut interrupt) = signal(SignalKind::interrupt()) else { return Exit::Usage };
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let (mut text, mut number, mut first) = (String::new(), 0_u64, Exit::Done);
    loop {
        let next = match next_line(&mut input, &mut interrupt).await {
            Ok(next) => next,
            Err(exit) => return exit,
        };
        let Some(next) = next else {
            if text.is_empty() {
                return first;
            }
            note(&format!("-- line {number}: what is open is not closed, and was not run"));
            return if first == Exit::Done { Exit::Usage } else { first };
        };
        number += 1;
        text += &next;
        let Some(lines) = lines(&text) else {
            text.push('\n');
            continue;
        };
        text.clear();
        for line in lines {
            match shell.line(line).await {
                Ended::Quit => return first,
                Ended::Line(Exit::Done) => {}
                Ended::Line(exit) => {
                    first = if first == Exit::Done { exit } else { first };
                    let meaning = meaning(exit);
                    let ended = format!("-- line {number}: status {}, {meaning}", exit as u8);
                    if !keep_going || shell.is_cut_short || exit == Exit::NotPrinted {
                        note(&format!("{ended}; what follows was not run"));
                        return first;
                    }
                    note(&ended);
                }
            }
        }
        if shell.nobody_reads {
            return first;
        }
    }
}

type Lines = tokio::io::Lines<BufReader<tokio::io::Stdin>>;

/// Waits for the next line. Ctrl-C ends that, too, also one that came while the last command was just over. (One that
/// cuts a command short ends the lines.)
async fn next_line(input: &mut Lines, interrupt: &mut Signal) -> Result<Option<String>, Exit> {
    tokio::select! {
        biased;
        _ = interrupt.recv() => Err(Exit::CutShort),
        line = input.next_line() => line.map_err(|error| {
            note(&format!("-- standard input: {error}"));
            Exit::Usage
        }),
    }
}

/// An exit status in a few words.
fn meaning(exit: Exit) -> &'static str {
    match exit {
        Exit::Done => "done",
        Exit::AuditFailed => "the audit found something",
        Exit::Usage => "the line is wrong, and nothing was sent",
        Exit::Refused => "refused",
        Exit::NotApplied => "not done; sending it again is safe",
        Exit::Unknown => "unknown, whether it was applied",
        Exit::NotPrinted => "done, and not printed",
        Exit::Degraded => "the cluster is degraded",
        Exit::NoWrites => "writes are not answered",
        Exit::NotFound => "it does not exist",
        Exit::WrongRequest => "a node found the request wrong",
        Exit::NotOnePoint => "it was written to while it was read, each time",
        Exit::CutShort => "cut short",
    }
}
