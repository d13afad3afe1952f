//! `tally bench`: a load, and what became of it.
//!
//! A closed loop shows how much a cluster can do, an open loop how long callers wait at a given
//! load. Other systems are called with the same steps, so that figures can be compared.

mod args;
mod baseline;
mod figures;
mod run;
mod servers;
mod tally;
mod target;
mod workload;

use serde_json::{Value, json};

use self::{args::Baseline, servers::Servers, target::Target};
pub(crate) use self::{
    args::Bench,
    target::serve_echo,
    workload::{counter as counter_name, key as key_name},
};
use crate::{
    args::Common,
    output::{Failure, Output},
};

pub(crate) async fn run(common: &Common, bench: &Bench, output: Output) -> Result<(), Failure> {
    let fsync = match &bench.fsync_dir {
        Some(directory) => Some(baseline::fsync(directory).await?),
        None => None,
    };
    let echo = match bench.baseline {
        Some(Baseline::Echo) => Some(baseline::echo(bench).await?),
        None => None,
    };
    let target = Target::connect(&common.endpoints, common.deadline.0, bench).await?;
    target.prepare(bench).await?;
    let servers = match (&bench.pids[..], target.tally()) {
        ([], Some(tally)) => Servers::local_nodes(tally.client()).await,
        (pids, _) => Servers::of(pids),
    };
    let measured = run::run(&target, bench, &servers).await?;
    let mut result = figures::figures(&measured);
    if let Some(tally) = target.tally()
        && let Some(history) = tally.close(bench).await?
    {
        result.insert("history".to_owned(), json!(history));
    }
    let ratios = baseline::ratios(bench, &result, echo.as_ref(), fsync.as_ref());
    for (name, part) in [("baseline", echo), ("fsync", fsync)] {
        if let Some(part) = part {
            result.insert(name.to_owned(), Value::Object(part));
        }
    }
    if !ratios.is_empty() {
        result.insert("ratios".to_owned(), Value::Object(ratios));
    }
    output.result(&result, |result| figures::show(result) + &baseline::show(result))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{Arguments, Command};

    /// The arguments of a bench, as they come from the command line.
    pub(super) fn bench(arguments: &[&str]) -> Bench {
        let all = ["tally", "bench"].iter().chain(arguments);
        let Command::Bench(bench) = Arguments::parse_from(all).command else {
            panic!("this is a bench");
        };
        *bench
    }

    #[test]
    fn an_open_loop_is_of_no_depth() {
        let parse = |rest: &[&str]| {
            Arguments::try_parse_from(["tally", "bench", "put"].iter().chain(rest)).is_ok()
        };
        assert!(parse(&["--rate", "1000", "--in-flight", "64"]));
        assert!(!parse(&["--rate", "1000", "--depth", "8"]));
        assert!(!parse(&["--in-flight", "64"]));
        assert!(!parse(&["--rate", "0"]));
        assert_eq!(bench(&["put", "--depth", "8"]).depth, 8);
    }
}
