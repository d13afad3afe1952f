//! Arguments that several commands share. Those of one command stand beside it.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, ValueEnum as _};
use tally_client::{Builder, ReadLevel};

use crate::{
    json::Integers,
    output::Failure,
    tls::{Secrets, TlsOptions},
};

/// Items on a page, at most: what a node gives.
pub(crate) const PAGE_SIZE_MAX: u16 = 1000;
const PAGE_SIZE_DEFAULT: u16 = 100;

/// Where a cluster that was started by hand usually is.
pub(crate) const DEFAULT_ENDPOINTS: &str = "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403";

/// Behind the options of the command itself in its help.
pub(crate) const GLOBAL: &str = "Global options";

/// What every command has.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Addresses of some nodes, host:port or host (port 7401), separated by commas. Default: those in
    /// the environment variable TALLY_ENDPOINTS, else 127.0.0.1:7401, :7402 and :7403.
    // Not clap's `env`: what comes from there it shows in usage lines, as if it were required.
    #[arg(long, global = true, value_delimiter = ',', value_name = "HOST:PORT,...", help_heading = GLOBAL)]
    pub(crate) endpoints: Vec<String>,
    /// Print one JSON object, also for an error; --all and --watch print a line of JSON for each page or look.
    /// Integers are numbers; with --json=strings they are strings, for readers that round those above 2^53.
    // With an equals sign only, so that what follows is never taken for it.
    #[arg(long, global = true, value_enum, value_name = "INTEGERS", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "numbers", hide_possible_values = true, help_heading = GLOBAL)]
    pub(crate) json: Option<Integers>,
    /// Say on standard error what each read is worth: its promise, the node, its greatest age. On a terminal
    /// it is said of reads that are not linearizable in any case.
    #[arg(long, short, global = true, help_heading = GLOBAL)]
    pub(crate) verbose: bool,
    #[command(flatten, next_help_heading = GLOBAL)]
    pub(crate) tls: TlsOptions,
    /// How long a call may take in all, its retries included: a number with ms, s, m or h.
    #[arg(long, global = true, default_value = "10s", value_name = "TIME", help_heading = GLOBAL)]
    pub(crate) deadline: Time,
}

impl Common {
    /// A client of the endpoints, with TLS as it was asked for.
    pub(crate) fn builder(&self) -> Result<Builder, Failure> {
        Ok(Secrets::read(&self.tls, &self.endpoints)?.builder(self.endpoints.clone()))
    }

    /// Takes what was not given from the environment.
    pub(crate) fn look_around(&mut self) {
        if self.endpoints.is_empty() {
            self.endpoints = default_endpoints().split(',').map(str::to_owned).collect();
        }
        self.tls.look_around();
    }
}

/// The endpoints of a command line that names none.
pub(crate) fn default_endpoints() -> String {
    std::env::var("TALLY_ENDPOINTS").unwrap_or_else(|_| DEFAULT_ENDPOINTS.to_owned())
}

/// Whether this process, whose arguments are wrong, was asked for JSON, and which.
pub(crate) fn asks_for_json() -> Option<Integers> {
    let arguments = std::env::args_os().skip(1);
    let mut arguments = arguments.take_while(|argument| argument != "--");
    arguments.find_map(|argument| match argument.to_str()?.strip_prefix("--json")? {
        "" => Some(Integers::Numbers),
        given => {
            given.strip_prefix('=').map(|form| Integers::from_str(form, false).unwrap_or_default())
        }
    })
}

#[derive(Debug, Args)]
pub(crate) struct Write {
    /// A name for this write, e.g. an order number, 1 to 128 bytes: the same key with the same request
    /// is applied once, however often it is sent. Default: a random one, remembered for a minute.
    #[arg(long, value_name = "KEY", value_parser = idempotency_key)]
    pub(crate) idempotency_key: Option<String>,
    /// How long the cluster remembers the key: a number with ms, s, m or h, at least 1m and at most the
    /// cluster's own window. Default: the cluster's own window.
    #[arg(long, value_name = "TIME", requires = "idempotency_key")]
    pub(crate) idempotency_window: Option<Time>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Read {
    /// The promise asked for: linearizable, bounded:200ms, session, session:TOKEN or local.
    #[arg(long, default_value = "linearizable", value_name = "LEVEL", value_parser = read_level)]
    pub(crate) read: ReadLevel,
}

#[derive(Debug, Args)]
pub(crate) struct Pages {
    /// At most this many on a page, 1 to 1000. Default: 100, and 1000 with --all.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=i64::from(PAGE_SIZE_MAX)))]
    pub(crate) limit: Option<u16>,
    /// Go on from here: the token that the page before ended with.
    #[arg(long, value_name = "TOKEN")]
    pub(crate) page_token: Option<String>,
    /// Follow the pages to the end. Each page is a read of its own: whether all of them are one point of the
    /// history is said at the end.
    #[arg(long)]
    pub(crate) all: bool,
    /// Print the pages of --all only if they are one point of the history: what is written meanwhile has them
    /// read again, a few times, and then it ends with status 11. Holds all of them in memory.
    #[arg(long, requires = "all")]
    pub(crate) one_point: bool,
}

impl Pages {
    pub(crate) fn size(&self) -> u16 {
        self.limit.unwrap_or(if self.all { PAGE_SIZE_MAX } else { PAGE_SIZE_DEFAULT })
    }
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Keep {
    /// Leave what it made in the cluster. Without this it removes it when it ends, also when Ctrl-C cuts it
    /// short; where there was something of the same names before, all of it stays.
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct History {
    /// Write all that is asked and answered to a file, a line of JSON each: `tally-sim check FILE`
    /// judges it. Nobody else may write to the cluster meanwhile.
    #[arg(long, value_name = "FILE")]
    pub(crate) history: Option<PathBuf>,
}

/// A duration such as 200ms, 10s, 5m or 1h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 =
            number.parse().map_err(|_| format!("{text:?} is no time; 200ms, 10s, 5m, 1h are"))?;
        let ms = match unit {
            "ms" => Some(1),
            "s" => Some(1_000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            _ => None,
        };
        let ms = ms.ok_or_else(|| format!("{text:?} has no unit: ms, s, m or h"))?;
        let ms = number.checked_mul(ms).filter(|ms| *ms <= 366 * 24 * 3_600_000);
        Ok(Self(Duration::from_millis(ms.ok_or_else(|| format!("{text:?} is too long"))?)))
    }
}

/// An empty one, from a variable that is not set, would protect nothing.
fn idempotency_key(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err(
            "it is empty, and would protect nothing: name the write, or leave it out".to_owned()
        );
    }
    Ok(text.to_owned())
}

pub(crate) fn read_level(text: &str) -> Result<ReadLevel, String> {
    match text.split_once(':') {
        None if text == "linearizable" => Ok(ReadLevel::Linearizable),
        None if text == "local" => Ok(ReadLevel::Local),
        // What this process has seen: of use to one that goes on reading.
        None if text == "session" => Ok(ReadLevel::Session(None)),
        Some(("bounded", bound)) => Ok(ReadLevel::bounded(bound.parse::<Time>()?.0)),
        Some(("session", token)) => {
            let token = token.parse().map_err(|error| format!("{error}"))?;
            Ok(ReadLevel::Session(Some(token)))
        }
        _ => Err("levels are linearizable, bounded:200ms, session:TOKEN and local".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_levels() {
        assert_eq!("200ms".parse(), Ok(Time(Duration::from_millis(200))));
        assert_eq!("2h".parse(), Ok(Time(Duration::from_secs(7200))));
        for wrong in ["", "10", "ms", "1d", "99999999999999999999s", "-1s"] {
            assert!(wrong.parse::<Time>().is_err(), "{wrong}");
        }
        assert_eq!(read_level("bounded:200ms"), Ok(ReadLevel::bounded(Duration::from_millis(200))));
        assert_eq!(read_level("session:00ff"), Ok(ReadLevel::Session("00ff".parse().ok())));
        for wrong in ["", "strong", "bounded", "bounded:", "session:", "session:xy", "local:1"] {
            assert!(read_level(wrong).is_err(), "{wrong}");
        }
    }
}
