//! The arguments of `tally bench`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tally_client::Transport;

use crate::args::{History, Keep, Read, Time};

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
    /// Callers, 1 to 1,000,000.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) clients: u32,
    /// Calls that each caller has in flight, 1 to 65,536.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) depth: u32,
    /// Connections that the callers share, 1 to 1024.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) connections: u32,
    /// Open loop: start so many operations a second (0.1 to 10,000,000), whether or not earlier ones are answered.
    /// Latency counts from the moment at which an operation was to start.
    #[arg(long, value_name = "OPS_PER_S", value_parser = rate, conflicts_with = "depth")]
    pub(crate) rate: Option<f64>,
    /// Open loop: at most so many operations in flight, 1 to 1,000,000. One that would be too many is not
    /// started, and counted.
    #[arg(long, default_value_t = 10_000, requires = "rate", value_name = "CALLS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) in_flight: u32,
    /// Send each operation at most this often (tally only): with 1 a refusal is counted as an error as
    /// soon as it comes.
    #[arg(long, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_attempts: Option<u32>,
    /// How long to measure: a number with ms, s, m or h. A closed loop in which nothing has ended by then
    /// goes on until something has.
    #[arg(long, default_value = "10s", value_name = "TIME")]
    pub(crate) duration: Time,
    /// How long to run before measuring: a number with ms, s, m or h.
    #[arg(long, default_value = "1s", value_name = "TIME")]
    pub(crate) warmup: Time,
    /// The promise that reads ask for.
    #[command(flatten)]
    pub(crate) read: Read,
    /// Counters, or keys, over which the load is spread.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) spread: u64,
    /// Bytes of each value, up to 1 MiB.
    #[arg(long, default_value_t = 256, value_name = "BYTES")]
    pub(crate) value_size: usize,
    /// What the workload reads is there already: write nothing before it starts, and remove nothing at the
    /// end.
    #[arg(long)]
    pub(crate) no_prepare: bool,
    #[command(flatten)]
    pub(crate) keep: Keep,
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

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if !(0.1..=10_000_000.0).contains(&rate) {
        return Err("a rate is between 0.1 and 10,000,000 operations a second".to_owned());
    }
    Ok(rate)
}
