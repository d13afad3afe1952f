//! The arguments.

use std::{ffi::OsString, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use tally_client::{ReadLevel, Transport};

use crate::output::escaped;

/// Where a cluster that was started by hand usually is.
pub(crate) const DEFAULT_ENDPOINTS: &str = "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403";

/// Talks to a Tally cluster: replicated counters and keys, each write counted exactly once.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
#[command(after_help = "Exit status:
  0  done
  1  demo only: the audit found something lost or counted twice
  2  the command line is wrong
  3  refused: decided by the cluster, sending the same again gets the same
  4  not applied by this call: sending it again is safe. Under an --idempotency-key that you chose,
     an earlier call may have been applied: send it again under the same key to know
  5  unknown: it may have been applied; send it again only with the same --idempotency-key
  6  done, a write too, but the output could not be written")]
pub(crate) struct Arguments {
    /// Addresses of some nodes, separated by commas. Default: those in the environment variable
    /// TALLY_ENDPOINTS, else 127.0.0.1:7401, :7402 and :7403.
    // Not clap's `env`: what comes from there it shows in usage lines, as if it were required.
    #[arg(long, global = true, value_delimiter = ',')]
    pub(crate) endpoints: Vec<String>,
    /// Print one JSON object, also for an error. 64-bit integers are numbers.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How long a call may take in all, its retries included.
    #[arg(long, global = true, default_value = "10s", value_name = "TIME")]
    pub(crate) deadline: Time,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    /// The arguments of this process.
    pub(crate) fn understand(
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, clap::Error> {
        let arguments: Vec<OsString> = arguments.into_iter().collect();
        let mut arguments = Self::try_parse_from(&arguments).map_err(|error| {
            // clap repeats what it does not understand as it is; it shall not move the cursor.
            let plain = arguments.iter().map(|argument| escaped(&argument.to_string_lossy()));
            Self::try_parse_from(plain).err().unwrap_or(error)
        })?;
        if arguments.endpoints.is_empty() {
            let listed = std::env::var("TALLY_ENDPOINTS");
            let listed = listed.as_deref().unwrap_or(DEFAULT_ENDPOINTS);
            arguments.endpoints = listed.split(',').map(str::to_owned).collect();
        }
        Ok(arguments)
    }
}

/// Whether this process, whose arguments are wrong, was asked for JSON.
pub(crate) fn asks_for_json() -> bool {
    let arguments = std::env::args_os().skip(1);
    arguments.take_while(|argument| argument != "--").any(|argument| argument == "--json")
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Counters: named signed 64-bit integers.
    Counter {
        #[command(subcommand)]
        command: Counter,
    },
    /// Keys: names for values of up to 1 MiB.
    Kv {
        #[command(subcommand)]
        command: Kv,
    },
    /// Sessions of clients: who holds them, and ending some.
    Session {
        #[command(subcommand)]
        command: Session,
    },
    /// Runs an atomic step over counters and keys, given as JSON.
    Apply(Apply),
    /// Shows the nodes: roles, terms, log and applied index, lag, disk.
    Status(Status),
    /// Measures throughput and latency: in a closed loop, or at a fixed rate.
    Bench(Box<Bench>),
    /// Fills a cluster quickly with counters, keys, sessions and idempotency keys.
    Fill(Fill),
    /// Answers `bench --target echo`: what gRPC alone can do here.
    #[command(hide = true)]
    BenchEchoServer {
        /// Bytes of the value in each answer.
        #[arg(long, default_value_t = 256)]
        value_size: usize,
    },
    /// Kills leaders under load and counts: nothing lost, nothing counted twice.
    Demo(Demo),
    /// Prints a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Counter {
    /// Moves a counter by a signed delta; a missing one is created at 0 first.
    #[command(allow_negative_numbers = true)]
    Add {
        name: String,
        /// What to add.
        #[arg(default_value_t = 1)]
        delta: i64,
        /// The value must not fall below this.
        #[arg(long)]
        floor: Option<i64>,
        /// The value must not rise above this.
        #[arg(long)]
        ceiling: Option<i64>,
        /// At a bound, move as far as it allows instead of refusing.
        #[arg(long)]
        saturate: bool,
        /// Refuse to create the counter.
        #[arg(long)]
        fail_if_missing: bool,
        #[command(flatten)]
        write: Write,
    },
    /// Reads counters; several are read at one point in the history.
    Get {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        read: Read,
    },
    /// Replaces a value, within its stored bounds.
    #[command(allow_negative_numbers = true)]
    Set {
        name: String,
        value: i64,
        #[command(flatten)]
        write: Write,
    },
    /// Replaces a value that is as expected (compare and set).
    #[command(allow_negative_numbers = true)]
    Cas {
        name: String,
        /// The new value.
        value: i64,
        #[command(flatten)]
        expect: Expect,
        #[command(flatten)]
        write: Write,
    },
    /// Removes a counter with its bounds.
    Delete {
        name: String,
        #[command(flatten)]
        write: Write,
    },
    /// Lists counters whose name starts with a prefix.
    List {
        #[arg(default_value = "")]
        prefix: String,
        #[command(flatten)]
        pages: Pages,
        #[command(flatten)]
        read: Read,
    },
    /// Replaces both stored bounds; one that is not named is removed.
    #[command(allow_negative_numbers = true)]
    Configure {
        name: String,
        /// Lowest value allowed, for every writer.
        #[arg(long)]
        floor: Option<i64>,
        /// Highest value allowed, for every writer.
        #[arg(long)]
        ceiling: Option<i64>,
        #[command(flatten)]
        write: Write,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Expect {
    /// Only if this is the value.
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
    pub(crate) expect: Option<i64>,
    /// Only if this revision was the last to change it.
    #[arg(long, value_name = "REVISION")]
    pub(crate) expect_revision: Option<u64>,
    /// Only if it does not exist.
    #[arg(long)]
    pub(crate) expect_absent: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Kv {
    /// Stores a value.
    Put {
        key: String,
        /// The value; `-` reads it from standard input.
        #[arg(required_unless_present = "file", conflicts_with = "file")]
        value: Option<String>,
        /// Reads the value from a file.
        #[arg(long)]
        file: Option<PathBuf>,
        /// Only if the key does not exist.
        #[arg(long, conflicts_with_all = ["if_present", "if_revision", "if_value"])]
        if_absent: bool,
        #[command(flatten)]
        condition: Condition,
        #[command(flatten)]
        write: Write,
    },
    /// Writes a value to standard output, byte for byte; with several keys, as a list.
    Get {
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
        #[command(flatten)]
        read: Read,
    },
    /// Removes a key.
    Delete {
        key: String,
        #[command(flatten)]
        condition: Condition,
        #[command(flatten)]
        write: Write,
    },
    /// Lists keys whose name starts with a prefix, with their values.
    Scan {
        #[arg(default_value = "")]
        prefix: String,
        /// First key, inclusive.
        #[arg(long, default_value = "")]
        start: String,
        /// Last key, exclusive.
        #[arg(long, default_value = "")]
        end: String,
        /// Leave the values out.
        #[arg(long)]
        keys_only: bool,
        #[command(flatten)]
        pages: Pages,
        #[command(flatten)]
        read: Read,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Session {
    /// Lists open sessions, the oldest first, and who holds the most.
    List(SessionList),
    /// Ends sessions, whoever opened them. A client that lives opens another with its next write; what
    /// became of its writes that have no answer yet can then not be found out.
    Close(SessionClose),
}

#[derive(Debug, Args)]
pub(crate) struct SessionList {
    /// Only the sessions that clients at this IP address opened.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) owner: Option<String>,
    /// Show so many owners, those that hold the most (100 at most).
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=100))]
    pub(crate) owners: u16,
    #[command(flatten)]
    pub(crate) pages: Pages,
    #[command(flatten)]
    pub(crate) read: Read,
}

#[derive(Debug, Args)]
#[group(id = "which", required = true, multiple = true)]
pub(crate) struct SessionClose {
    /// Ids, as `session list` shows them.
    #[arg(value_name = "ID", conflicts_with = "owner", group = "which")]
    pub(crate) ids: Vec<u64>,
    /// All sessions that clients at this IP address have opened so far; needs --yes.
    #[arg(long, value_name = "ADDRESS", group = "which")]
    pub(crate) owner: Option<String>,
    /// Do end all of an owner's.
    #[arg(long, conflicts_with = "ids")]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Condition {
    /// Only if the key exists.
    #[arg(long)]
    pub(crate) if_present: bool,
    /// Only if this revision was the last to change the key.
    #[arg(long, value_name = "REVISION", conflicts_with = "if_present")]
    pub(crate) if_revision: Option<u64>,
    /// Only if the key has this value.
    #[arg(long, value_name = "VALUE", conflicts_with_all = ["if_present", "if_revision"])]
    pub(crate) if_value: Option<String>,
}

pub(crate) const APPLY_HELP: &str = r#"Format: one JSON object; unknown fields are refused.
  conditions  all must hold. Each names a `counter` or a `key`, and one of
              `exists` (true or false), `value`, `revision`. A value or revision is
              compared for equality, or as {">=": 1} with == != < <= > >=.
  operations  run if they do, all or none. Later ones see earlier ones.
  else        run if a condition does not hold. Without it the step is refused.

Operations:
  {"counter_add": {"name", "delta", "floor"?, "ceiling"?, "saturate"?, "fail_if_missing"?}}
  {"counter_get": {"name"}}
  {"counter_set": {"name", "value"}}
  {"counter_compare_and_set": {"name", "value",
      "expect_value" or "expect_revision" or "expect_absent": true}}
  {"counter_delete": {"name"}}
  {"counter_configure": {"name", "floor"?, "ceiling"?}}
  {"key_put": {"key", "value" or "value_base64",
      "if_absent"? or "if_present"? or "if_revision"? or "if_value"?}}
  {"key_get": {"key"}}
  {"key_delete": {"key", "if_present"? or "if_revision"? or "if_value"?}}

Example: take one unit of stock and write the order, or count who was turned away.
  tally apply --idempotency-key order-4711 <<'END'
  {"conditions": [{"counter": "stock", "value": {">=": 1}}],
   "operations": [{"counter_add": {"name": "stock", "delta": -1}},
                  {"key_put": {"key": "order/4711", "value": "1 unit"}}],
   "else":       [{"counter_add": {"name": "turned-away", "delta": 1}}]}
  END"#;

#[derive(Debug, Args)]
#[command(after_help = APPLY_HELP)]
pub(crate) struct Apply {
    /// The file; `-` is standard input.
    #[arg(default_value = "-")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) write: Write,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Ask only one node, and let it not ask the others.
    #[arg(long)]
    pub(crate) local: bool,
    /// Show the table again every so often.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "1s")]
    pub(crate) watch: Option<Time>,
}

#[derive(Debug, Args)]
pub(crate) struct Write {
    /// A name for this write, e.g. an order number: the same key with the same request is applied
    /// once, however often it is sent. Default: a random one, remembered for a minute.
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// How long the cluster remembers the key. Default: the cluster's own window.
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
    /// At most this many on a page (1000 at most).
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) limit: u16,
    /// Go on from here: the token that the page before ended with.
    #[arg(long, value_name = "TOKEN")]
    pub(crate) page_token: Option<String>,
    /// Follow the pages to the end. Each page is a read of its own.
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Bench {
    /// What each caller does.
    #[arg(value_enum)]
    pub(crate) workload: Workload,
    /// Whom it is done to, at the endpoints. Other systems than Tally need the feature `peers`.
    #[arg(long, value_enum, default_value_t = TargetName::Tally)]
    pub(crate) target: TargetName,
    /// How calls to Tally travel.
    #[arg(long, value_enum, default_value_t = Way::Stream)]
    pub(crate) transport: Way,
    /// Callers.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) clients: u32,
    /// Calls that each caller has in flight.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) depth: u32,
    /// Connections that the callers share.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) connections: u32,
    /// Open loop: start so many operations a second, whether or not earlier ones are answered.
    /// Latency counts from the moment at which an operation was to start.
    #[arg(long, value_name = "OPS_PER_S", value_parser = rate, conflicts_with = "depth")]
    pub(crate) rate: Option<f64>,
    /// Open loop: at most so many operations in flight. One that would be too many is not started,
    /// and counted.
    #[arg(long, default_value_t = 10_000, requires = "rate", value_name = "CALLS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) in_flight: u32,
    /// Send each operation at most this often (tally only): with 1 a refusal is counted as an error as
    /// soon as it comes.
    #[arg(long, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_attempts: Option<u32>,
    /// How long to measure. A closed loop in which nothing has ended by then goes on until something
    /// has.
    #[arg(long, default_value = "10s", value_name = "TIME")]
    pub(crate) duration: Time,
    /// How long to run before measuring.
    #[arg(long, default_value = "1s", value_name = "TIME")]
    pub(crate) warmup: Time,
    /// The promise that reads ask for.
    #[command(flatten)]
    pub(crate) read: Read,
    /// Counters, or keys, over which the load is spread.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) spread: u64,
    /// Bytes of each value.
    #[arg(long, default_value_t = 256, value_name = "BYTES")]
    pub(crate) value_size: usize,
    /// What the workload reads is there already: write nothing before it starts.
    #[arg(long)]
    pub(crate) no_prepare: bool,
    /// Redis only: acknowledge writes without waiting for a replica.
    #[cfg(feature = "peers")]
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Seed of the callers' choices.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Processes of the servers, on this machine, for their CPU time and memory. Default: the
    /// nodes, if all of them run here.
    #[arg(long, value_delimiter = ',', value_name = "PID,..")]
    pub(crate) pids: Vec<u32>,
    /// First measures what the ground allows, in the same run: gRPC alone, against a server without
    /// storage that this command starts and stops.
    #[arg(long, value_enum)]
    pub(crate) baseline: Option<Baseline>,
    /// First measures an append of 4 KiB with its fdatasync in this directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) fsync_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) history: History,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TargetName {
    Tally,
    /// A server that only answers: `tally bench-echo-server`.
    Echo,
    #[cfg(feature = "peers")]
    Etcd,
    #[cfg(feature = "peers")]
    Redis,
    #[cfg(feature = "peers")]
    Nats,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Baseline {
    Echo,
}

#[derive(Debug, Args)]
pub(crate) struct Fill {
    /// Counters to create, `fill/c/00000000` and so on.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) counters: u64,
    /// Keys to put, `fill/k/00000000` and so on.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) keys: u64,
    /// Bytes of each key's value.
    #[arg(long, default_value_t = 256, value_name = "BYTES")]
    pub(crate) value_size: usize,
    /// Sessions to open, and to leave open for as long as the cluster allows. It ends, with status 3, when
    /// the cluster has no more places for this address.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) sessions: u64,
    /// Adds under an idempotency key of their own, remembered for the cluster's window.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) idempotency_keys: u64,
    /// Use the names of `bench`, so that it finds its counters and keys there.
    #[arg(long)]
    pub(crate) for_bench: bool,
    /// Start the numbers in names here.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) first: u64,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct History {
    /// Write all that is asked and answered to a file, a line of JSON each: `tally-sim check FILE`
    /// judges it. Nobody else may write to the cluster meanwhile.
    #[arg(long, value_name = "FILE")]
    pub(crate) history: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// Adds 1 to one counter.
    AddHot,
    /// Adds 1 to a random counter.
    AddSpread,
    /// Puts a value under a random key.
    Put,
    /// Gets a random key; keys are written first.
    Get,
    /// 70 % get, 20 % add-spread, 10 % put.
    Mixed,
    /// Moves 1 between two random accounts in one atomic step.
    ApplyTransfer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    Stream,
    Unary,
}

impl From<Way> for Transport {
    fn from(way: Way) -> Self {
        match way {
            Way::Stream => Self::Stream,
            Way::Unary => Self::Unary,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// How often the leader is killed.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Concurrent clients.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) clients: u32,
    /// Seconds of load between two kills, at least; a killed node also has to be back.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    #[command(flatten)]
    pub(crate) history: History,
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

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if !(0.1..=10_000_000.0).contains(&rate) {
        return Err("a rate is between 0.1 and 10,000,000 operations a second".to_owned());
    }
    Ok(rate)
}

fn read_level(text: &str) -> Result<ReadLevel, String> {
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
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

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
