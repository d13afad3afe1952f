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

use serde_json::{Map, Value, json};

pub(crate) use self::{
    args::Bench,
    target::serve_echo,
    workload::{counter as counter_name, key as key_name},
};
use self::{
    args::{Baseline, TargetName},
    servers::Servers,
    target::Target,
};
use crate::{
    args::Common,
    cleanup::Traces,
    interrupts::Interrupts,
    output::{self, Exit, Failure, Output},
    waiting::Waiting,
};

/// Profiles whose figures say something.
const MEASURED_PROFILES: [&str; 2] = ["dist", "release"];

pub(crate) async fn run(common: &Common, bench: &Bench, output: Output) -> Result<Exit, Failure> {
    // The nodes are most often of the same build.
    if !MEASURED_PROFILES.contains(&env!("BUILD_PROFILE")) {
        output::note(concat!(
            "built in the profile ",
            env!("BUILD_PROFILE"),
            ", which compiles fast and runs slowly; measure with one built by cargo build --profile dist"
        ));
    }
    let interrupts = Interrupts::listen();
    let nothing = || Failure::cut_short("cut short before anything was measured".to_owned());
    // Named by hand, so a wrong one is a mistake; what ends later is not.
    let named = Servers::of(&bench.pids)?;
    let ground = interrupts.work(ground(bench)).await.ok_or_else(nothing)??;
    if bench.target != TargetName::Tally {
        let target = Target::connect(common, bench).await?;
        return measure(&target, bench, named, &ground, &interrupts, output).await;
    }
    let waiting = Waiting::default();
    let client = crate::client(common, &waiting)?;
    let reached = async {
        // Nobody there is said, and ends it, before a load is made.
        waiting.tell(common.deadline.0, client.status().into_future()).await?;
        let target = Target::connect(common, bench).await?;
        let traces = if bench.keep.keep || bench.no_prepare {
            Traces::default()
        } else {
            let look = Traces::look(&client, workload::traces(bench.workload));
            waiting.tell(common.deadline.0, look).await?
        };
        Ok::<_, Failure>((target, traces))
    };
    let (target, traces) = interrupts.work(reached).await.ok_or_else(nothing)??;
    let done = measure(&target, bench, named, &ground, &interrupts, output).await;
    if let Some(tally) = target.tally() {
        interrupts.ending(tally.end_sessions()).await;
    }
    traces.remove(common, &client, &interrupts).await;
    done
}

/// What the ground allows, as far as that is asked for.
#[derive(Default)]
struct Ground {
    fsync: Option<Map<String, Value>>,
    echo: Option<Map<String, Value>>,
}

async fn ground(bench: &Bench) -> Result<Ground, Failure> {
    let mut ground = Ground::default();
    if let Some(directory) = &bench.fsync_dir {
        ground.fsync = Some(baseline::fsync(directory).await?);
    }
    if bench.baseline == Some(Baseline::Echo) {
        ground.echo = Some(baseline::echo(bench).await?);
    }
    Ok(ground)
}

/// Measures, and prints it.
async fn measure(
    target: &Target,
    bench: &Bench,
    named: Servers,
    ground: &Ground,
    interrupts: &Interrupts,
    output: Output,
) -> Result<Exit, Failure> {
    let nothing = || Failure::cut_short("cut short before anything was measured".to_owned());
    interrupts.work(target.prepare(bench)).await.ok_or_else(nothing)??;
    let servers = match target.tally() {
        Some(tally) if bench.pids.is_empty() => Servers::local_nodes(tally.client()).await,
        _ => named,
    };
    let measured = run::run(target, bench, servers, interrupts).await?;
    let measured = measured.ok_or_else(nothing)?;
    let cut_short = measured.cut_short;
    let mut result = figures::figures(&measured);
    if let Some(tally) = target.tally()
        && let Some(ended) = interrupts.ending(tally.end_history(bench)).await
        && let Some(history) = ended?
    {
        result.insert("history".to_owned(), json!(history));
    }
    let (echo, fsync) = (ground.echo.clone(), ground.fsync.clone());
    let ratios = baseline::ratios(bench, &result, echo.as_ref(), fsync.as_ref());
    for (name, part) in [("baseline", echo), ("fsync", fsync)] {
        if let Some(part) = part {
            result.insert(name.to_owned(), Value::Object(part));
        }
    }
    if !ratios.is_empty() {
        result.insert("ratios".to_owned(), Value::Object(ratios));
    }
    output.result(&result, |result| figures::show(result) + &baseline::show(result))?;
    Ok(if cut_short { Exit::CutShort } else { Exit::Done })
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
