//! The command line of `tallyd` as it is shown: in help, in manual pages, in completions. What `serve` takes stands
//! in the configuration, so defaults come from there, and the tests compare limits with what it refuses.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Command, CommandFactory};
use tally_node::{config::Config, process::serve::printed};

/// In one line, for `--version`.
pub(crate) const VERSION: &str = env!("BUILD_VERSION");

/// Least and greatest value of a key of the configuration, where it refuses others.
const LIMITS: [(&str, u64, Option<u64>); 19] = [
    ("node_id", 1, None),
    ("heartbeat_interval_ms", 10, None),
    ("entries_in_flight", 1, Some(1024)),
    ("writes_in_flight", 1, Some(1_048_576)),
    ("write_bytes_in_flight", 4 << 20, Some(1 << 30)),
    ("log_segment_bytes", 8 << 20, None),
    ("dirty_bytes_max", 4 << 20, None),
    ("snapshot_after_log_bytes", 1, None),
    ("snapshot_after_entries", 1, None),
    ("flush_interval_ms", 1, None),
    ("state_compare_interval_ms", 100, Some(60_000)),
    ("sessions_share_percent", 1, Some(100)),
    ("limit_share_percent", 1, Some(100)),
    ("session_idle_ms", 10_000, Some(86_400_000)),
    ("idempotency_window_ms", 60_000, None),
    ("audit_log_files", 0, Some(1000)),
    ("backup_interval_ms", 1000, None),
    ("backups_kept", 1, Some(10_000)),
    ("worker_threads", 0, Some(1024)),
];

/// A limit that another key sets.
fn relation(key: &str) -> Option<&'static str> {
    match key {
        "election_timeout_ms_min" => Some("at least twice heartbeat_interval_ms"),
        "election_timeout_ms_max" => Some("above election_timeout_ms_min"),
        _ => None,
    }
}

fn limit(key: &str) -> Option<String> {
    if let Some(relation) = relation(key) {
        return Some(relation.to_owned());
    }
    let (_, least, greatest) = LIMITS.iter().find(|(limited, ..)| *limited == key)?;
    Some(match greatest {
        Some(greatest) => format!("{least} to {greatest}"),
        None => format!("{least} or more"),
    })
}

/// The unit of a key, as the name of its value.
fn unit(key: &str) -> Option<&'static str> {
    let ends = |ending: &[&str]| ending.iter().any(|ending| key.ends_with(ending));
    match key {
        _ if ends(&["_ms", "_ms_min", "_ms_max"]) => Some("MS"),
        _ if ends(&["_bytes", "_bytes_max", "bytes_kept", "bytes_in_flight"]) => Some("BYTES"),
        _ if ends(&["_percent"]) => Some("PERCENT"),
        _ if ends(&["_listen", "_advertise"]) => Some("HOST:PORT"),
        _ if ends(&["entries", "entries_kept", "in_flight", "_max", "threads", "_id"]) => Some("N"),
        "data_dir" => Some("DIR"),
        _ if ends(&["_file"]) => Some("FILE"),
        "cluster_name" => Some("NAME"),
        _ => None,
    }
}

/// Adds to the help of `serve` what its configuration knows.
fn explained(serve: Command) -> Command {
    let defaults = toml::Table::try_from(Config::default()).expect("it has only plain values");
    serve.mut_args(|argument| {
        let key = argument.get_id().to_string();
        let Some(default) = defaults.get(&key) else { return argument };
        let mut words = Vec::new();
        match default.to_string() {
            // An id that must be given, and addresses that follow from others.
            none if none == "\"\"" || key == "node_id" => {}
            default => words.push(format!("[default: {}]", default.trim_matches('"'))),
        }
        // That of the id stands in its description.
        words.extend(limit(&key).filter(|_| key != "node_id").map(|limit| format!("[{limit}]")));
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let help = [vec![help], words].concat().join(" ");
        let argument = argument.help(help.trim().to_owned());
        match unit(&key) {
            Some(unit) => argument.value_name(unit),
            None => argument,
        }
    })
}

/// The definition with all that is known of it.
pub(crate) fn of<T: CommandFactory>() -> Command {
    T::command().mut_subcommand("serve", explained)
}

/// Flags of `tallyd man`.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The command whose page is printed. Default: the program itself.
    command: Option<String>,
    /// Write a page for each command into this directory instead, which is made if it is missing.
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

/// Prints the manual page of one command, or writes those of all.
pub(crate) fn man(mut definition: Command, asked: &Man) -> ExitCode {
    definition = definition.disable_help_subcommand(true);
    definition.build();
    if let Some(dir) = &asked.dir {
        return match fs::create_dir_all(dir).and_then(|()| write_pages(&definition, dir)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => wrong(&format!("{}: {error}", dir.display())),
        };
    }
    let command = match &asked.command {
        None => Some(&definition),
        Some(name) => definition.find_subcommand(name),
    };
    let Some(command) = command else { return wrong("there is no such command") };
    let mut bytes = Vec::new();
    print(page(command).render(&mut bytes).map(|()| bytes))
}

/// Prints what completes the commands of this program in a shell.
pub(crate) fn completions(mut definition: Command, shell: clap_complete::Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut definition, "tallyd", &mut script);
    print(Ok(script))
}

/// Prints what this program is.
pub(crate) fn version() -> ExitCode {
    let (version, commit) = (env!("CARGO_PKG_VERSION"), env!("BUILD_COMMIT"));
    let built = env!("BUILD_BUILT");
    print(Ok(format!("tallyd {version}\ncommit: {commit}\nbuilt: {built}\n").into_bytes()))
}

fn page(command: &Command) -> clap_mangen::Man {
    let version = concat!("Tally ", env!("CARGO_PKG_VERSION"));
    // Pages of programs that administrators run.
    clap_mangen::Man::new(command.clone()).section("8").source(version).manual("Tally")
}

fn write_pages(command: &Command, dir: &Path) -> io::Result<()> {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        write_pages(command, dir)?;
    }
    page(command).generate_to(dir).map(|_| ())
}

fn print(bytes: io::Result<Vec<u8>>) -> ExitCode {
    let mut stdout = io::stdout().lock();
    printed(bytes.and_then(|bytes| stdout.write_all(&bytes)).and_then(|()| stdout.flush()))
}

fn wrong(problem: &str) -> ExitCode {
    eprintln!("tallyd: {problem}");
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The problem of a configuration that is right but for one key.
    fn refused(key: &str, value: i64) -> Option<String> {
        let mut table = toml::Table::try_from(Config::default()).unwrap();
        table.insert("node_id".to_owned(), 1.into());
        table.insert(key.to_owned(), value.into());
        let config = match table.try_into::<Config>() {
            Ok(config) => config,
            Err(error) => return Some(format!("{key}: {error}")),
        };
        let wrong = config.validate().err().filter(|wrong| wrong.key == key);
        wrong.map(|wrong| wrong.to_string())
    }

    #[test]
    fn limits_are_those_of_the_configuration() {
        let defaults = toml::Table::try_from(Config::default()).unwrap();
        for (key, default) in &defaults {
            if !default.is_integer() || relation(key).is_some() {
                continue;
            }
            let (least, greatest) = match LIMITS.iter().find(|(limited, ..)| limited == key) {
                Some((_, least, greatest)) => (*least, *greatest),
                None => (0, None),
            };
            let (least, huge) = (i64::try_from(least).unwrap(), i64::MAX);
            assert!(refused(key, least).is_none(), "{key} may be {least}");
            assert!(least == 0 || refused(key, least - 1).is_some(), "{key} is {least} at least");
            match greatest.map(|greatest| i64::try_from(greatest).unwrap()) {
                Some(greatest) => {
                    assert!(refused(key, greatest).is_none(), "{key} may be {greatest}");
                    assert!(refused(key, greatest + 1).is_some(), "{key} is {greatest} at most");
                }
                // The type's own limit aside.
                None => {
                    assert!(refused(key, huge).is_none_or(|why| why.contains("integer")), "{key}")
                }
            }
        }
    }
}
