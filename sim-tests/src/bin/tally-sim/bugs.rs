//! `bugs`: the bugs on purpose, and whether the simulator catches each.

use std::{
    num::NonZero,
    sync::{Mutex, PoisonError},
};

use clap::Args;
use tally_sim::bugs::{BUGS, INEXPRESSIBLE, SHOWN_BY_SEED, SHOWN_BY_TWO_RUNS, SHOWN_IN};

use crate::child::{DetailName, Seed, Seeds, for_each, jobs, stopwatch};

#[derive(Debug, Args)]
pub(crate) struct BugsArguments {
    /// Run each bug until it is caught, and fail if one is not. Needs a build with the feature
    /// `seeded-bugs`.
    #[arg(long)]
    check: bool,
    /// Only these.
    #[arg(long, value_delimiter = ',', value_name = "NAME,NAME,…")]
    only: Option<Vec<String>>,
    /// At most so many seeds for each.
    #[arg(long, default_value_t = 40)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Not at first the seed that has shown it before: says how many seeds it takes.
    #[arg(long)]
    in_order: bool,
    /// Simulated seconds of each seed.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Bugs at once; as many as there are processors unless given.
    #[arg(long)]
    jobs: Option<NonZero<usize>>,
}

/// The name of a bug, from the list.
pub(crate) fn named(name: &str) -> Result<&'static str, String> {
    if !cfg!(feature = "seeded-bugs") {
        return Err("this build has no bugs on purpose: build with --features seeded-bugs".into());
    }
    let bug = BUGS.iter().find(|bug| bug.name == name);
    bug.map(|bug| bug.name).ok_or_else(|| format!("there is no bug {name:?}"))
}

/// Lists the bugs, or checks that each is caught.
pub(crate) fn bugs(arguments: &BugsArguments) -> Result<bool, String> {
    let wanted = |name: &str| {
        arguments.only.as_ref().is_none_or(|only| only.iter().any(|wanted| wanted == name))
    };
    let chosen: Vec<_> = BUGS.iter().filter(|bug| wanted(bug.name)).collect();
    if !arguments.check {
        for bug in chosen {
            say!(
                "{}  ({:?})\n    breaks: {}\n    at:     {}",
                bug.name,
                bug.family,
                bug.breaks,
                bug.place
            );
        }
        for (name, reason) in INEXPRESSIBLE {
            say!("{name}: can't be put into this code: {reason}");
        }
        return Ok(true);
    }
    let elapsed = stopwatch();
    let missed = Mutex::new(Vec::new());
    let all = Seeds { first: 0, end: chosen.len() as u64 };
    for_each(all, jobs(arguments.jobs), |at| {
        let bug = chosen[at as usize];
        named(bug.name)?;
        let scenario = SHOWN_IN.iter().find(|(name, _)| *name == bug.name).map(|(_, it)| *it);
        let place = scenario.map_or(String::new(), |scenario| format!(" of `{scenario}`"));
        let mut acted = 0;
        let known = SHOWN_BY_SEED.iter().find(|(name, _)| *name == bug.name).map(|(_, seed)| *seed);
        let known = known.filter(|_| !arguments.in_order);
        let seeds = known.into_iter().chain(arguments.from..arguments.from + arguments.seeds);
        for (tried, number) in seeds.enumerate() {
            let mut seed = Seed::new(number, arguments.seconds);
            seed.bug = Some(bug.name.to_owned());
            seed.scenario = scenario.map(str::to_owned);
            let (shown, its_acts) = shows(&mut seed)?;
            acted += its_acts;
            if let Some((kind, what)) = shown {
                let what: String = what.chars().take(110).collect();
                let no_more = match known {
                    Some(known) if tried > 0 => format!(" (seed {known} shows it no more)"),
                    _ => String::new(),
                };
                say!(
                    "{:<28} caught by seed {number:>3}{place}, the {}. tried{no_more}, acted {acted} times: {kind}: {what}",
                    bug.name,
                    tried + 1,
                );
                return Ok(true);
            }
        }
        say!(
            "{:<28} NOT CAUGHT in {} seeds{place}, acted {acted} times",
            bug.name,
            arguments.seeds
        );
        missed.lock().unwrap_or_else(PoisonError::into_inner).push(bug.name);
        Ok(true)
    })?;
    let missed = missed.into_inner().unwrap_or_else(PoisonError::into_inner);
    say!(
        "{} of {} bugs caught in {:.0} s",
        chosen.len() - missed.len(),
        chosen.len(),
        elapsed().as_secs_f64()
    );
    Ok(missed.is_empty())
}

type Shown = Option<(String, String)>;

/// Runs a seed; says how it shows that something is wrong, if it does, and how often the bug's line
/// was reached until then.
fn shows(seed: &mut Seed) -> Result<(Shown, u64), String> {
    let two_runs = seed.bug.as_deref() == Some(SHOWN_BY_TWO_RUNS);
    if two_runs {
        seed.detail = Some(DetailName::Everything);
    }
    let report = seed.spawn()?;
    if two_runs {
        let again = seed.spawn()?;
        let differ = (report.lines, report.digest) != (again.lines, again.digest);
        let what = format!("two runs differ: {} and {} lines", report.lines, again.lines);
        let shown = differ.then(|| ("determinism".to_owned(), what));
        return Ok((shown, report.acted));
    }
    let first = report.violations.into_iter().next();
    Ok((first.map(|violation| (violation.kind, violation.what)), report.acted))
}
