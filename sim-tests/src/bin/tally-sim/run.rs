//! `run`, `replay`, `determinism`.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _, Write as _},
    num::NonZero,
    path::PathBuf,
    str::FromStr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::Args;
use tally_sim::{
    run::{Options, Outcome, run as run_seed},
    trace::{Detail, Keep},
};

/// `A..B` (B excluded) or one seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seeds {
    first: u64,
    end: u64,
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

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Seeds to run, `A..B` without B, or one.
    #[arg(long, default_value = "0..20", conflicts_with = "minutes")]
    seeds: Seeds,
    /// Run fresh seeds for so long, in real minutes. The first one is printed.
    #[arg(long)]
    minutes: Option<f64>,
    /// Simulated seconds of each seed.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seeds at once; as many as there are processors unless given.
    #[arg(long)]
    jobs: Option<NonZero<usize>>,
    /// Go on after a seed that fails.
    #[arg(long)]
    keep_going: bool,
    /// Print the outcome as one JSON object.
    #[arg(long)]
    json: bool,
    /// Write a JUnit report.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write what clients saw, one JSON-lines file a seed, into this directory.
    #[arg(long, value_name = "DIR")]
    history: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArguments {
    /// The seed.
    #[arg(long)]
    seed: u64,
    /// Simulated seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Also what node and client log (`logs`), or every message (`everything`).
    #[arg(long, default_value = "events")]
    detail: DetailName,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum DetailName {
    Events,
    Logs,
    Everything,
}

#[derive(Debug, Args)]
pub(crate) struct DeterminismArguments {
    /// Seeds to run twice, `A..B` without B, or one.
    #[arg(long, default_value = "0..5")]
    seeds: Seeds,
    /// Simulated seconds of each run.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seeds at once; as many as there are processors unless given.
    #[arg(long)]
    jobs: Option<NonZero<usize>>,
}

fn jobs(asked: Option<NonZero<usize>>) -> usize {
    asked.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZero::get)
}

/// The real time since some moment: for progress, never for what is simulated.
#[allow(clippy::disallowed_methods)]
fn stopwatch() -> impl Fn() -> Duration {
    let began = std::time::Instant::now();
    move || began.elapsed()
}

/// A seed that nobody has run, for runs by time.
#[allow(clippy::disallowed_methods)]
fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| now.as_millis() as u64 * 1000)
}

/// Sums over all seeds.
#[derive(Debug, Default)]
struct Total {
    seeds: u64,
    simulated_ms: u64,
    counts: BTreeMap<&'static str, u64>,
    failed: Vec<(u64, Vec<String>)>,
}

/// Runs seeds. True if all passed.
pub(crate) fn run(arguments: &RunArguments) -> Result<bool, String> {
    let elapsed = stopwatch();
    let seeds = match arguments.minutes {
        None => arguments.seeds,
        Some(_) => {
            let first = fresh_seed();
            eprintln!("fresh seeds from {first}");
            Seeds { first, end: u64::MAX }
        }
    };
    if let Some(directory) = &arguments.history {
        std::fs::create_dir_all(directory)
            .map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    let until = arguments.minutes.map(|minutes| Duration::from_secs_f64(60.0 * minutes));
    let options = Options { seconds: arguments.seconds, ..Options::default() };
    let next = AtomicU64::new(seeds.first);
    let stop = AtomicBool::new(false);
    let total = Mutex::new(Total::default());
    let progress = io::stderr().is_terminal();
    std::thread::scope(|scope| {
        for _ in 0..jobs(arguments.jobs) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let late = until.is_some_and(|until| elapsed() >= until);
                    if seed >= seeds.end || late || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let outcome = run_seed(seed, &options);
                    if let Some(directory) = &arguments.history
                        && let Err(error) = write_history(directory, &outcome)
                    {
                        eprintln!("{}: {error}", directory.display());
                    }
                    if !outcome.passed() && !arguments.keep_going {
                        stop.store(true, Ordering::Relaxed);
                    }
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    total.add(&outcome, arguments.seconds);
                    if progress {
                        let _ = write!(
                            io::stderr(),
                            "\r{} seeds, {} failed, {:.0} simulated s in {:.0} s ",
                            total.seeds,
                            total.failed.len(),
                            total.simulated_ms as f64 / 1e3,
                            elapsed().as_secs_f64()
                        );
                    }
                }
            });
        }
    });
    if progress {
        eprintln!();
    }
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = &arguments.junit {
        std::fs::write(path, total.junit(elapsed()))
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if arguments.json {
        println!("{}", total.json(elapsed()));
    } else {
        total.print(elapsed());
    }
    Ok(total.failed.is_empty())
}

fn write_history(directory: &std::path::Path, outcome: &Outcome) -> io::Result<()> {
    let path = directory.join(format!("seed-{}.jsonl", outcome.seed));
    let mut file = io::BufWriter::new(std::fs::File::create(path)?);
    for record in &outcome.records {
        serde_json::to_writer(&mut file, record)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

impl Total {
    fn add(&mut self, outcome: &Outcome, seconds: u64) {
        self.seeds += 1;
        self.simulated_ms += outcome.simulated_ms;
        for (name, count) in &outcome.counts {
            *self.counts.entry(name).or_default() += count;
        }
        if outcome.passed() {
            return;
        }
        let told = outcome.violations.iter().map(|violation| {
            format!("{} at {} ms: {}", violation.kind, violation.at_ms, violation.what)
        });
        let told: Vec<String> = told.collect();
        eprintln!("\nseed {} FAILED", outcome.seed);
        for line in &told {
            eprintln!("  {line}");
        }
        eprintln!("  see it: tally-sim replay --seed {} --seconds {seconds}", outcome.seed);
        self.failed.push((outcome.seed, told));
    }

    fn rate(&self, took: Duration) -> f64 {
        self.simulated_ms as f64 / 1e3 / took.as_secs_f64().max(1e-9)
    }

    fn print(&self, took: Duration) {
        println!(
            "{} seeds, {} passed, {} failed; {:.0} simulated seconds in {:.1} s ({:.1} a second)",
            self.seeds,
            self.seeds - self.failed.len() as u64,
            self.failed.len(),
            self.simulated_ms as f64 / 1e3,
            took.as_secs_f64(),
            self.rate(took)
        );
        for (name, count) in &self.counts {
            println!("{count:>12}  {name}");
        }
    }

    fn json(&self, took: Duration) -> serde_json::Value {
        let failed = self.failed.iter().map(
            |(seed, violations)| serde_json::json!({ "seed": seed, "violations": violations }),
        );
        serde_json::json!({
            "seeds": self.seeds,
            "failed": failed.collect::<Vec<_>>(),
            "simulated_seconds": self.simulated_ms as f64 / 1e3,
            "seconds": took.as_secs_f64(),
            "counts": self.counts,
        })
    }

    fn junit(&self, took: Duration) -> String {
        let mut text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"tally-sim\" \
             tests=\"{}\" failures=\"{}\" time=\"{:.3}\">\n",
            self.seeds,
            self.failed.len(),
            took.as_secs_f64()
        );
        let passed = self.seeds - self.failed.len() as u64;
        text += &format!("  <testcase classname=\"tally-sim\" name=\"{passed} seeds passed\"/>\n");
        for (seed, violations) in &self.failed {
            let told = escape(&violations.join("\n"));
            text += &format!(
                "  <testcase classname=\"tally-sim\" name=\"seed {seed}\">\n    <failure \
                 message=\"tally-sim replay --seed {seed}\">{told}</failure>\n  </testcase>\n"
            );
        }
        text + "</testsuite>\n"
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Prints what happened in a seed. True if it passed.
pub(crate) fn replay(arguments: &ReplayArguments) -> Result<bool, String> {
    let detail = match arguments.detail {
        DetailName::Events => Detail::Events,
        DetailName::Logs => Detail::Logs,
        DetailName::Everything => Detail::Everything,
    };
    let options =
        Options { seconds: arguments.seconds, detail, keep: Keep::Lines, ..Options::default() };
    let outcome = run_seed(arguments.seed, &options);
    let mut out = io::BufWriter::new(io::stdout().lock());
    let told = (|| -> io::Result<()> {
        writeln!(out, "{}", serde_json::to_string(&outcome.knobs)?)?;
        for line in &outcome.trace.lines {
            writeln!(out, "{line}")?;
        }
        for violation in &outcome.violations {
            writeln!(
                out,
                "VIOLATED {} at {} ms: {}",
                violation.kind, violation.at_ms, violation.what
            )?;
        }
        let digest = outcome.trace.digest;
        writeln!(out, "{} lines, digest {digest:016x}", outcome.trace.count)?;
        out.flush()
    })();
    match told {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(true),
        Err(error) => Err(error.to_string()),
        Ok(()) => Ok(outcome.passed()),
    }
}

/// Runs each seed twice. True if all traces were equal.
pub(crate) fn determinism(arguments: &DeterminismArguments) -> Result<bool, String> {
    let elapsed = stopwatch();
    let options = Options {
        seconds: arguments.seconds,
        detail: Detail::Everything,
        keep: Keep::Hashes,
        ..Options::default()
    };
    let next = AtomicU64::new(arguments.seeds.first);
    let lines = AtomicU64::new(0);
    let differing = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs(arguments.jobs) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= arguments.seeds.end {
                        return;
                    }
                    let first = run_seed(seed, &options).trace;
                    let second = run_seed(seed, &options).trace;
                    lines.fetch_add(first.count, Ordering::Relaxed);
                    if first == second {
                        continue;
                    }
                    let at = first.hashes.iter().zip(&second.hashes).take_while(|(a, b)| a == b);
                    let at = at.count();
                    eprintln!(
                        "seed {seed} DIFFERS: {} and {} lines, the first other one is line {}",
                        first.count,
                        second.count,
                        at + 1
                    );
                    for line in lines_around(seed, &options, at) {
                        eprintln!("  {line}");
                    }
                    differing.lock().unwrap_or_else(PoisonError::into_inner).push(seed);
                }
            });
        }
    });
    let differing = differing.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seeds = arguments.seeds.end - arguments.seeds.first;
    println!(
        "{} of {seeds} seeds had the same trace twice; {} lines compared in {:.1} s",
        seeds - differing.len() as u64,
        lines.into_inner(),
        elapsed().as_secs_f64()
    );
    Ok(differing.is_empty())
}

/// What a third run says around a line.
fn lines_around(seed: u64, options: &Options, at: usize) -> Vec<String> {
    let options = Options { keep: Keep::Lines, ..options.clone() };
    let lines = run_seed(seed, &options).trace.lines;
    let from = at.saturating_sub(3).min(lines.len());
    lines[from..(at + 3).min(lines.len())].to_vec()
}
