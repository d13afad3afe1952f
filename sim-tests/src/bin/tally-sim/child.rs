//! Seeds in processes of their own.
//!
//! tokio numbers its tasks in one counter for the whole process and orders some work by it, so two
//! simulations in one process may differ by what ran before them. In a process of its own each seed
//! is the same every time, one that stands still can be killed, and several run beside each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read as _, Write as _},
    num::NonZero,
    path::PathBuf,
    process::{Command, Stdio},
    str::FromStr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use clap::Args;
use serde::{Deserialize, Serialize};
use tally_sim::{
    run::{Options, Violation, run},
    story,
    trace::{Detail, Keep},
};

/// A seed may take this long for each simulated second, in real time, on a very slow machine.
const SLOWEST: Duration = Duration::from_secs(10);

/// `A..B` (B excluded) or one seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seeds {
    pub(crate) first: u64,
    pub(crate) end: u64,
}

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
        let (first, end) = match text.split_once("..") {
            Some((first, end)) => (number(first)?, number(end)?),
            None => (number(text)?, number(text)?.saturating_add(1)),
        };
        if first >= end {
            return Err("there is no seed in it".to_owned());
        }
        Ok(Seeds { first, end })
    }
}

/// How one seed is run; also the command line of the process that runs it.
#[derive(Debug, Clone, Args)]
pub(crate) struct Seed {
    /// The seed. Of a scenario it is the one that shows it, unless given.
    #[arg(value_name = "SEED", conflicts_with = "seed")]
    pub(crate) first: Option<u64>,
    /// The same.
    #[arg(long, required_unless_present_any = ["scenario", "first", "plan"])]
    pub(crate) seed: Option<u64>,
    /// Simulated seconds.
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u64,
    /// Of the seed's faults, only those with these numbers.
    #[arg(long, value_delimiter = ',', value_name = "N,N,…")]
    pub(crate) only: Option<Vec<usize>>,
    /// Run with this bug switched on (builds with `seeded-bugs`).
    #[arg(long)]
    pub(crate) bug: Option<String>,
    /// A scenario in place of what the seed draws.
    #[arg(long)]
    pub(crate) scenario: Option<String>,
    /// A plan of `tallyd chaos`, or one that the lab wrote down, in place of what the seed draws.
    #[arg(long, value_name = "FILE", conflicts_with = "scenario")]
    pub(crate) plan: Option<PathBuf>,
    /// The whole trace, and how much becomes part of it. `replay` of a seed prints events unless told
    /// otherwise.
    #[arg(long)]
    pub(crate) detail: Option<DetailName>,
    /// Tell what happens in short: faults, leaders, calls that were refused or shown something old, promises
    /// kept. `replay` of a scenario does so unless it is given `--detail`.
    #[arg(long, conflicts_with = "detail")]
    pub(crate) story: bool,
    /// Write a page that plays the run into this file: nodes, messages, faults, calls of clients and broken promises
    /// on one time line. It needs nothing but a browser.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["detail", "story"])]
    pub(crate) html: Option<PathBuf>,
    /// Write what clients saw into this directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) history: Option<PathBuf>,
    /// Judge a scenario's lesson though the seed is not its own.
    #[arg(long, hide = true)]
    pub(crate) lesson: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum DetailName {
    /// Faults, roles, what is applied, what users ask and are told.
    Events,
    /// … and what node and client log.
    Logs,
    /// … and every message of the network.
    Everything,
}

impl DetailName {
    fn name(self) -> &'static str {
        match self {
            DetailName::Events => "events",
            DetailName::Logs => "logs",
            DetailName::Everything => "everything",
        }
    }
}

/// What came of a seed, as its process reports it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) violations: Vec<Violation>,
    pub(crate) counts: BTreeMap<String, u64>,
    /// Numbers of the faults that were installed, each with what it is.
    pub(crate) faults: Vec<(usize, String)>,
    pub(crate) undecided: u64,
    /// How often the line of the bug that was switched on was reached.
    pub(crate) acted: u64,
    pub(crate) simulated_ms: u64,
    pub(crate) lines: u64,
    pub(crate) digest: u64,
    /// Of a scenario at its own seed, or where its lesson is to be judged: what its story should have had, and had not.
    pub(crate) missing: Option<String>,
}

impl Report {
    pub(crate) fn passed(&self) -> bool {
        self.violations.is_empty()
    }
}

impl Seed {
    pub(crate) fn new(seed: u64, seconds: u64) -> Self {
        Seed {
            first: None,
            seed: Some(seed),
            seconds,
            only: None,
            bug: None,
            scenario: None,
            plan: None,
            detail: None,
            story: false,
            html: None,
            history: None,
            lesson: false,
        }
    }

    /// The seed that was asked for.
    pub(crate) fn given(&self) -> Option<u64> {
        self.seed.or(self.first)
    }

    /// How it is asked for.
    pub(crate) fn words(&self) -> String {
        let mut words = format!("--seed {} --seconds {}", self.number(), self.seconds);
        if let Some(scenario) = &self.scenario {
            words += &format!(" --scenario {scenario}");
        }
        if let Some(plan) = &self.plan {
            words += &format!(" --plan {}", plan.display());
        }
        if let Some(only) = &self.only {
            let only: Vec<String> = only.iter().map(ToString::to_string).collect();
            words += &format!(" --only {}", only.join(","));
        }
        if let Some(bug) = &self.bug {
            words += &format!(" --bug {bug}");
        }
        words
    }

    pub(crate) fn number(&self) -> u64 {
        self.given().unwrap_or(1)
    }

    pub(crate) fn options(&self, keep: Keep) -> Result<Options, String> {
        let mut options = Options {
            seconds: self.seconds,
            detail: match self.detail.unwrap_or(DetailName::Events) {
                DetailName::Events => Detail::Events,
                DetailName::Logs => Detail::Logs,
                DetailName::Everything => Detail::Everything,
            },
            keep,
            only: self.only.as_ref().map(|only| only.iter().copied().collect::<BTreeSet<_>>()),
            ..Options::default()
        };
        if let Some(name) = &self.bug {
            options.bug = Some(crate::bugs::named(name)?);
        }
        if let Some(name) = &self.scenario {
            options.scenario = Some(
                tally_sim::scenarios::named(name)
                    .ok_or_else(|| format!("there is no scenario {name:?}"))?,
            );
        }
        if let Some(path) = &self.plan {
            let told = |problem: &dyn std::fmt::Display| format!("{}: {problem}", path.display());
            let text = std::fs::read_to_string(path).map_err(|error| told(&error))?;
            let scenario =
                tally_sim::scenarios::of_plan(&text).map_err(|problem| told(&problem))?;
            options.scenario = Some(Box::leak(Box::new(scenario)));
        }
        Ok(options)
    }

    /// Runs it in a process of its own.
    pub(crate) fn spawn(&self) -> Result<Report, String> {
        let executable = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(executable);
        command.arg("seed").args(["--seed", &self.number().to_string()]);
        let detail = self.detail.unwrap_or(DetailName::Events).name();
        command.args(["--seconds", &self.seconds.to_string(), "--detail", detail]);
        if let Some(only) = &self.only {
            let only: Vec<String> = only.iter().map(ToString::to_string).collect();
            command.arg(format!("--only={}", only.join(",")));
        }
        if let Some(bug) = &self.bug {
            command.args(["--bug", bug]);
        }
        if let Some(scenario) = &self.scenario {
            command.args(["--scenario", scenario]);
        }
        if let Some(plan) = &self.plan {
            command.arg("--plan").arg(plan);
        }
        if self.lesson {
            command.arg("--lesson");
        }
        if let Some(history) = &self.history {
            command.arg("--history").arg(history);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let spawned = command.spawn();
        let mut child = spawned.map_err(|error| format!("a process can't be started: {error}"))?;
        let mut output = child.stdout.take().expect("its output is piped");
        let (sender, read) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = output.read_to_string(&mut text);
            let _ = sender.send(text);
        });
        let errors = child.stderr.take().expect("its errors are piped");
        let last_words = std::thread::spawn(move || last_words(errors));
        let patience = SLOWEST * u32::try_from(self.seconds).unwrap_or(u32::MAX);
        let text = read.recv_timeout(patience.max(Duration::from_secs(120)));
        if text.is_err() {
            let _ = child.kill();
        }
        let status = child.wait().map_err(|error| error.to_string())?;
        let _ = reader.join();
        let last_words = last_words.join().unwrap_or_default();
        let failed = |what: String| Report {
            seed: self.number(),
            violations: vec![Violation { kind: "harness".to_owned(), what, at_ms: 0 }],
            ..Report::default()
        };
        Ok(match text {
            Err(_) => failed("its process did not end in time, and was killed".to_owned()),
            Ok(text) => serde_json::from_str(&text).unwrap_or_else(|_| {
                failed(format!("its process ended with {status}: {last_words}"))
            }),
        })
    }
}

/// Of what a process says before it ends itself, this much is kept.
const LAST_WORDS_BYTES: u64 = 4096;

/// What a process writes to its error output, as one line.
fn last_words(mut errors: impl io::Read) -> String {
    let mut text = Vec::new();
    let _ = (&mut errors).take(LAST_WORDS_BYTES).read_to_end(&mut text);
    // It must not wait for somebody to read the rest.
    let _ = io::copy(&mut errors, &mut io::sink());
    String::from_utf8_lossy(&text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The process of one seed: prints its report.
pub(crate) fn seed(arguments: &Seed) -> Result<(), String> {
    let mut options = arguments.options(Keep::Digest)?;
    // Its lesson is promised at the seed that is printed for it.
    let is_judged = |seed| arguments.lesson || seed == arguments.number();
    let taught = options.scenario.filter(|scenario| is_judged(scenario.seed));
    let taught = taught.filter(|_| arguments.only.is_none() && arguments.bug.is_none());
    if taught.is_some() {
        options.keep = Keep::Story;
    }
    let outcome = run(arguments.number(), &options);
    let missing = taught.and_then(|scenario| story::missing(scenario, &story::lines(&outcome)));
    if let Some(directory) = &arguments.history {
        let path = directory.join(format!("seed-{}.jsonl", outcome.seed));
        write_history(&path, &outcome.records)
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let report = Report {
        seed: outcome.seed,
        violations: outcome.violations,
        counts: outcome.counts,
        acted: outcome.acted,
        faults: outcome
            .faults
            .iter()
            .filter(|done| done.is_installed())
            .map(|done| (done.planned.number, format!("{} ms {}", done.at_ms, done.planned)))
            .collect(),
        undecided: outcome.undecided,
        simulated_ms: outcome.simulated_ms,
        lines: outcome.trace.count,
        digest: outcome.trace.digest,
        missing: missing.map(str::to_owned),
    };
    say!("{}", serde_json::to_string(&report).map_err(|error| error.to_string())?);
    Ok(())
}

fn write_history(
    path: &std::path::Path,
    records: &[tally_client::history::Record],
) -> io::Result<()> {
    let mut file = io::BufWriter::new(std::fs::File::create(path)?);
    for record in records {
        serde_json::to_writer(&mut file, record)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

pub(crate) fn jobs(asked: Option<NonZero<usize>>) -> usize {
    asked.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZero::get)
}

/// Does something for each seed, several at once, until one says that it is enough.
pub(crate) fn for_each(
    seeds: Seeds,
    jobs: usize,
    work: impl Fn(u64) -> Result<bool, String> + Sync,
) -> Result<(), String> {
    let next = AtomicU64::new(seeds.first);
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end || enough.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let goes_on = work(seed).inspect_err(|_| enough.store(true, Ordering::Relaxed))?;
                if !goes_on {
                    enough.store(true, Ordering::Relaxed);
                }
            }
        };
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })
}

/// The real time since some moment: for progress, never for what is simulated.
#[allow(clippy::disallowed_methods)]
pub(crate) fn stopwatch() -> impl Fn() -> Duration {
    let began = std::time::Instant::now();
    move || began.elapsed()
}

/// A seed that nobody has run yet.
#[allow(clippy::disallowed_methods)]
pub(crate) fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| now.as_millis() as u64 * 1000)
}
