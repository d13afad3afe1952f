//! `run`, `replay`, `determinism`.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, IsTerminal as _, Write as _},
    num::NonZero,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use clap::Args;
use tally_player::junit;
use tally_sim::{
    knobs::Knobs,
    player,
    run::run as run_seed,
    scenarios::{self, BRINGS},
    story,
    trace::Keep,
};

use crate::child::{DetailName, Report, Seed, Seeds, for_each, fresh_seed, jobs, stopwatch};

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
    /// A scenario in place of what the seeds draw; see `scenarios`. `all` runs each of them.
    #[arg(long, value_name = "NAME|all", conflicts_with = "minutes")]
    scenario: Option<String>,
    /// Seeds at once; as many as there are processors unless given.
    #[arg(long)]
    jobs: Option<NonZero<usize>>,
    /// Go on after a seed that fails.
    #[arg(long)]
    keep_going: bool,
    /// Fail where something never happened over all seeds that should: a run that proves nothing.
    #[arg(long)]
    not_vacuous: bool,
    /// Print the outcome as one JSON object.
    #[arg(long)]
    json: bool,
    /// Write a JUnit report.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write what clients saw, one JSON-lines file a seed, into this directory.
    #[arg(long, value_name = "DIR")]
    history: Option<PathBuf>,
    /// Write a page that plays it into this directory, for each seed that fails.
    #[arg(long, value_name = "DIR")]
    html: Option<PathBuf>,
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

/// Of all runs at most so many may end with a check that had no verdict: which write of unknown
/// outcome made which revision is a search that may outlast its budget, where outcomes were lost by
/// the hundred. Two of 120 did when this was set.
const NOT_JUDGED_PERCENT_MAX: u64 = 5;

/// Of all writes that callers waited for at most so many may end UNKNOWN: a node that says so where it
/// could know would pass every other check. It was 5 when this was set.
const UNKNOWN_PERCENT_MAX: u64 = 10;

/// Where nobody watches, a line of progress for so many seeds.
const SEEDS_PER_LINE: u64 = 10;

/// Sums over all seeds.
#[derive(Debug, Default)]
struct Total {
    seeds: u64,
    simulated_ms: u64,
    /// Checks without a verdict …
    undecided: u64,
    /// … and runs that had one: they were not judged.
    not_judged: u64,
    counts: BTreeMap<String, u64>,
    /// How often each scenario brought about what it must.
    brought: BTreeMap<(&'static str, &'static str), u64>,
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
    for directory in [&arguments.history, &arguments.html].into_iter().flatten() {
        std::fs::create_dir_all(directory)
            .map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    if let Some(file) = &arguments.junit {
        tally_player::can_write(file).map_err(|error| error.to_string())?;
    }
    let until = arguments.minutes.map(|minutes| Duration::from_secs_f64(60.0 * minutes));
    let total = Mutex::new(Total::default());
    let is_terminal = io::stderr().is_terminal();
    let scenarios = scenarios(arguments.scenario.as_deref());
    let each = scenarios.len() as u64;
    let runs =
        Seeds { first: seeds.first.saturating_mul(each), end: seeds.end.saturating_mul(each) };
    for_each(runs, jobs(arguments.jobs), |number| {
        if until.is_some_and(|until| elapsed() >= until) {
            return Ok(false);
        }
        let mut one = Seed::new(number / each, arguments.seconds);
        one.scenario.clone_from(&scenarios[(number % each) as usize]);
        one.history.clone_from(&arguments.history);
        let report = one.spawn()?;
        if let Some(directory) = arguments.html.as_ref().filter(|_| !report.passed()) {
            play_into(directory, &one)?;
        }
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        total.add(&report, &one);
        // On a terminal one line that changes; in a pipe or a log a line now and then.
        if is_terminal || total.seeds.is_multiple_of(SEEDS_PER_LINE) {
            let (start, end) = if is_terminal { ("\r", " ") } else { ("", "\n") };
            let _ = write!(
                io::stderr(),
                "{start}{} seeds, {} failed, {:.0} simulated s in {:.0} s{end}",
                total.seeds,
                total.failed.len(),
                total.simulated_ms as f64 / 1e3,
                elapsed().as_secs_f64()
            );
        }
        Ok(report.passed() || arguments.keep_going)
    })?;
    if is_terminal {
        eprintln!();
    }
    let mut total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    if arguments.not_vacuous {
        total.fail_if_vacuous();
    }
    total.fail_if_not_brought();
    if let Some(path) = &arguments.junit {
        std::fs::write(path, total.junit(elapsed()))
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if arguments.json {
        say!("{}", total.json(elapsed()));
    } else {
        total.print(elapsed());
    }
    Ok(total.failed.is_empty())
}

/// The scenarios that are asked for; one that is none stands for what the seeds draw.
fn scenarios(asked: Option<&str>) -> Vec<Option<String>> {
    match asked {
        Some("all") => scenarios::all().map(|scenario| Some(scenario.name.to_owned())).collect(),
        asked => vec![asked.map(ToOwned::to_owned)],
    }
}

impl Total {
    fn add(&mut self, report: &Report, how: &Seed) {
        self.seeds += 1;
        self.simulated_ms += report.simulated_ms;
        self.undecided += report.undecided;
        self.not_judged += u64::from(report.undecided > 0);
        for (name, count) in &report.counts {
            *self.counts.entry(name.clone()).or_default() += count;
        }
        for (scenario, what) in BRINGS {
            if how.scenario.as_deref() == Some(*scenario) {
                let count = report.counts.get(*what).copied().unwrap_or(0);
                *self.brought.entry((scenario, what)).or_default() += count;
            }
        }
        if let (Some(scenario), Some(missing)) = (&how.scenario, &report.missing) {
            self.fail(format!(
                "{scenario} at seed {} does not show its lesson: its story lacks `{missing}`; see \
                 it: tally-sim replay --scenario {scenario} --seed {}",
                how.number(),
                how.number()
            ));
        }
        if report.passed() {
            return;
        }
        let told = report.violations.iter().map(|violation| {
            format!("{} at {} ms: {}", violation.kind, violation.at_ms, violation.what)
        });
        let told: Vec<String> = told.collect();
        let seed = how.number();
        let scenario = how.scenario.as_ref().map(|name| format!(" --scenario {name}"));
        eprintln!("\nseed {seed}{} FAILED", scenario.unwrap_or_default());
        for line in &told {
            eprintln!("  {line}");
        }
        let words = how.words();
        eprintln!("  see it:    tally-sim replay {words} --html seed-{seed}.html");
        eprintln!("  read it:   tally-sim replay {words}");
        eprintln!("  shrink it: tally-sim shrink {words}");
        self.failed.push((seed, told));
    }

    /// What never happened was not tested, and what was not judged did not pass.
    fn fail_if_vacuous(&mut self) {
        if self.not_judged * 100 > self.seeds * NOT_JUDGED_PERCENT_MAX {
            self.fail(format!(
                "{} of {} runs ended with a check that had no verdict, and at most {} % may",
                self.not_judged, self.seeds, NOT_JUDGED_PERCENT_MAX
            ));
        }
        let of = |name: &str| self.counts.get(name).copied().unwrap_or(0);
        let unknown = of("writes unknown").saturating_sub(of("writes given up by their callers"));
        let writes = of("writes acknowledged") + of("writes refused") + unknown;
        if unknown * 100 > writes * UNKNOWN_PERCENT_MAX {
            self.fail(format!(
                "{unknown} of {writes} writes ended UNKNOWN, and at most {UNKNOWN_PERCENT_MAX} % may"
            ));
        }
        let never: Vec<&String> =
            self.counts.iter().filter(|(_, count)| **count == 0).map(|(name, _)| name).collect();
        if !never.is_empty() || self.counts.is_empty() {
            self.fail(format!("vacuous: over all seeds these never happened: {never:?}"));
        }
    }

    /// A scenario that never got into its situation shows nothing of it.
    fn fail_if_not_brought(&mut self) {
        for ((scenario, what), count) in std::mem::take(&mut self.brought) {
            if count == 0 {
                self.fail(format!("vacuous: {scenario} did not bring about: {what}"));
            }
        }
    }

    /// Something is wrong with all runs together.
    fn fail(&mut self, what: String) {
        eprintln!("\n{what}");
        self.failed.push((0, vec![what]));
    }

    fn rate(&self, took: Duration) -> f64 {
        self.simulated_ms as f64 / 1e3 / took.as_secs_f64().max(1e-9)
    }

    fn print(&self, took: Duration) {
        say!(
            "{} seeds, {} failed; {:.0} simulated seconds in {:.1} s ({:.1} a second)",
            self.seeds,
            self.failed.len(),
            self.simulated_ms as f64 / 1e3,
            took.as_secs_f64(),
            self.rate(took)
        );
        for (name, count) in &self.counts {
            say!("{count:>12}  {name}");
        }
        say!("{:>12}  checks of a history without a verdict", self.undecided);
        say!("{:>12}  runs that were not judged for it", self.not_judged);
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
            "simulated_seconds_per_second": self.rate(took),
            "undecided": self.undecided,
            "not_judged": self.not_judged,
            "counts": self.counts,
        })
    }

    fn junit(&self, took: Duration) -> String {
        let case = |name, failure| junit::Case { class: "tally-sim", name, failure };
        let passed = self.seeds.saturating_sub(self.failed.len() as u64);
        let mut cases = vec![case(format!("{passed} seeds passed"), None)];
        cases.extend(self.failed.iter().map(|(seed, violations)| {
            let message = format!("tally-sim replay --seed {seed}");
            let failure = junit::Failure { message, text: violations.join("\n") };
            case(format!("seed {seed}"), Some(failure))
        }));
        junit::report("tally-sim", took.as_secs_f64(), &cases)
    }
}

/// Columns of a paragraph.
const COLUMNS: usize = 100;

/// A paragraph in lines.
fn folded(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is one");
        if line.is_empty() {
            word.clone_into(line);
        } else if line.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines.push(word.to_owned());
        } else {
            *line += " ";
            *line += word;
        }
    }
    lines.join("\n")
}

/// Tells what happened in a seed, in short. True if it passed.
fn tell(arguments: &Seed) -> Result<bool, String> {
    let options = arguments.options(Keep::Story)?;
    let outcome = run_seed(arguments.number(), &options);
    if let Some(scenario) = options.scenario {
        let shows = format!("{}: {}", scenario.name, scenario.shows);
        say!("{}\n{}\n", folded(&shows), folded(&format!("Look at: {}", scenario.look_at)));
    }
    for line in story::told(&story::lines(&outcome)) {
        say!("{line}");
    }
    let seed = arguments.number();
    let how = match (&arguments.scenario, &arguments.plan) {
        (Some(name), _) => format!("--scenario {name} --seed {seed}"),
        (None, Some(plan)) => format!("--plan {} --seed {seed}", plan.display()),
        (None, None) => format!("--seed {seed}"),
    };
    say!("\nthe whole trace: tally-sim replay {how} --detail events");
    say!("{} lines, digest {:016x}", outcome.trace.count, outcome.trace.digest);
    Ok(outcome.passed())
}

/// Writes the page of a run. True if it passed.
fn play(arguments: &Seed, file: &Path) -> Result<bool, String> {
    tally_player::can_write(file).map_err(|error| error.to_string())?;
    let options = arguments.options(Keep::Recording)?;
    let mut outcome = run_seed(arguments.number(), &options);
    // One that panicked has no more than its story.
    let recorder = outcome.recorder.take().unwrap_or_default();
    let command = format!("tally-sim replay {}", arguments.words());
    let recording = player::of_outcome(&outcome, recorder, options.scenario, command);
    let problem = |error| format!("{}: {error}", file.display());
    recording.write_html(file).map_err(problem)?;
    let bytes = fs::metadata(file).map_err(problem)?.len();
    for violation in &outcome.violations {
        say!("VIOLATED {} at {} ms: {}", violation.kind, violation.at_ms, violation.what);
    }
    say!(
        "{}: {:.1} MB, {} operations, digest {:016x}",
        file.display(),
        bytes as f64 / 1e6,
        outcome.records.len(),
        outcome.trace.digest
    );
    Ok(outcome.passed())
}

/// The same in a process of its own, as each seed has.
fn play_into(directory: &Path, seed: &Seed) -> Result<(), String> {
    let name = match &seed.scenario {
        Some(scenario) => format!("{scenario}-{}.html", seed.number()),
        None => format!("seed-{}.html", seed.number()),
    };
    let executable = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(executable);
    command.arg("replay").args(seed.words().split(' ')).arg("--html").arg(directory.join(name));
    let ended = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    ended.map(drop).map_err(|error| format!("a process can't be started: {error}"))
}

/// Prints what happens in a seed, as it happens; of a scenario its story; or writes its page. True if it passed.
pub(crate) fn replay(arguments: &Seed) -> Result<bool, String> {
    if let Some(file) = &arguments.html {
        return play(arguments, file);
    }
    if arguments.story
        || ((arguments.scenario.is_some() || arguments.plan.is_some())
            && arguments.detail.is_none())
    {
        return tell(arguments);
    }
    let options = arguments.options(Keep::Print)?;
    if options.scenario.is_none() {
        let knobs = serde_json::to_string(&Knobs::draw(arguments.number()));
        say!("{}", knobs.map_err(|error| error.to_string())?);
    }
    let outcome = run_seed(arguments.number(), &options);
    for violation in &outcome.violations {
        say!("VIOLATED {} at {} ms: {}", violation.kind, violation.at_ms, violation.what);
    }
    say!("{} lines, digest {:016x}", outcome.trace.count, outcome.trace.digest);
    Ok(outcome.passed())
}

/// Runs each seed twice. True if all traces were equal.
pub(crate) fn determinism(arguments: &DeterminismArguments) -> Result<bool, String> {
    let elapsed = stopwatch();
    let sum = Mutex::new((0, 0, Vec::new()));
    for_each(arguments.seeds, jobs(arguments.jobs), |seed| {
        let mut one = Seed::new(seed, arguments.seconds);
        one.detail = Some(DetailName::Everything);
        let (first, second) = (one.spawn()?, one.spawn()?);
        let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
        sum.0 += 1;
        sum.1 += first.lines;
        // A trace without lines would equal any other one without.
        if first.lines == 0 || (first.lines, first.digest) != (second.lines, second.digest) {
            eprintln!("seed {seed} DIFFERS: {} and {} lines", first.lines, second.lines);
            eprintln!("  see it: compare the output of two runs of");
            eprintln!(
                "  tally-sim replay --detail everything --seed {seed} --seconds {}",
                one.seconds
            );
            sum.2.push(seed);
        }
        Ok(true)
    })?;
    let (seeds, lines, differing) = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    say!(
        "{} of {seeds} seeds had the same trace twice; {lines} lines compared in {:.1} s",
        seeds - differing.len() as u64,
        elapsed().as_secs_f64()
    );
    Ok(differing.is_empty())
}
