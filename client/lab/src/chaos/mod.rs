//! `tallyd chaos`: somebody else's tests beside a cluster that breaks.
//!
//! It starts real nodes behind the lab's proxies, runs a command with their addresses in its environment, and strikes
//! them by a plan that a seed draws, or that was given. Beside it, clients of its own watch what the cluster promises.
//! The command's exit code is the result, or [`BROKEN`] where the cluster is what failed.
//!
//! The plan of a seed is the same every time; who leads when it strikes, and which call is under way, is not: these
//! are real processes. What has to be the same to the letter is for the simulator (`tally-sim`).

mod audit;
mod command;
mod faults;
pub mod plan;
mod report;

use std::{
    borrow::Cow,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use tally_player::Recording;
use tokio::{sync::watch, time::Instant};

use self::{
    audit::{Audit, Promise, Wrong},
    command::Ended,
    faults::Faults,
    plan::{Plan, Source, Style},
    report::{COMMAND, Watched},
};
use crate::{commands::leader, ends::Ends, lab::Lab, nodes::Process};

/// The exit code where the cluster broke a promise.
pub const BROKEN: u8 = 99;

/// The exit code where nothing could be tested, as that of `timeout` and `docker run`.
pub const NOT_RUN: u8 = 125;

/// A cluster that does not elect within this never will.
const START: Duration = Duration::from_secs(30);

/// Flags of `tallyd chaos`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Draws the plan. Without it a new one, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// `gentle` (one fault at a time, a majority always well), `rough` (several, and sometimes no majority), or a file.
    #[arg(long, default_value = "gentle", value_name = "gentle|rough|FILE")]
    plan: String,
    /// Number of nodes: 3 or 5.
    #[arg(long, default_value_t = 3, value_parser = crate::three_or_five)]
    nodes: u64,
    /// Write a page that plays what happened into this file.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write a JUnit report into this file.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Print the plan, to be edited and given back, and run nothing.
    #[arg(long)]
    print_plan: bool,
    /// What to run, with its arguments. Its environment has TALLY_ENDPOINTS.
    #[arg(last = true, required_unless_present = "print_plan", value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs a command beside a cluster that breaks. `tallyd` is the program whose `serve` is a node.
pub fn run(arguments: &Arguments, tallyd: &Path) -> ExitCode {
    let forgotten = if arguments.print_plan { Ok(()) } else { forget_earlier(arguments) };
    let told = forgotten.and_then(|()| source(arguments)).and_then(|(source, seed)| {
        if arguments.print_plan {
            print!("{}", source.round(0));
            return Ok(ExitCode::SUCCESS);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        runtime.block_on(play(arguments, tallyd, &source, seed)).map_err(|error| error.to_string())
    });
    told.unwrap_or_else(|why| {
        eprintln!("tallyd chaos: {why}");
        ExitCode::from(NOT_RUN)
    })
}

/// The plan, and the seed.
fn source(arguments: &Arguments) -> Result<(Source, u64), String> {
    let seed = arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let style = match &*arguments.plan {
        "gentle" => Style::Gentle,
        "rough" => Style::Rough,
        file => {
            let told = |why: String| format!("the plan {file}: {why}");
            let text = std::fs::read_to_string(file).map_err(|error| told(error.to_string()))?;
            let plan = Plan::parse(&text, arguments.nodes).map_err(told)?;
            return Ok((Source::Given(plan), seed));
        }
    };
    Ok((Source::Drawn(style, seed), seed))
}

/// What an earlier run has left in a file would pass for what came of this one, should nothing come of it.
fn forget_earlier(arguments: &Arguments) -> Result<(), String> {
    let files = [&arguments.report, &arguments.junit].into_iter().flatten();
    // What a link leads to, a terminal or a pipe may be somebody else's.
    let is_file =
        |file: &&PathBuf| std::fs::symlink_metadata(file).is_ok_and(|about| about.is_file());
    for file in files.filter(is_file) {
        // A file in a directory of somebody else can be emptied, and not removed.
        std::fs::remove_file(file)
            .or_else(|_| std::fs::write(file, ""))
            .map_err(|error| named(file, &error).to_string())?;
    }
    Ok(())
}

async fn play(
    arguments: &Arguments,
    tallyd: &Path,
    source: &Source,
    seed: u64,
) -> io::Result<ExitCode> {
    let began = Instant::now();
    for file in [&arguments.report, &arguments.junit].into_iter().flatten() {
        tally_player::can_write(file)?;
    }
    let mut ends = Ends::caught()?;
    let lab = Lab::start(arguments.nodes, tallyd).await?;
    let played = watched(arguments, &lab, source, seed, &mut ends).await;
    lab.nodes.stop().await;
    let Played { ended, wrong, seen, audit } = played?;
    let title = format!("chaos, plan {}, seed {seed}", arguments.plan);
    let recording = Recording {
        command: arguments.again(seed),
        ..report::recording(title, lab.now() as u64, seen, &audit.records(), &wrong)
    };
    let written = || {
        if let Some(file) = &arguments.report {
            recording.write_html(file).map_err(|error| named(file, &error))?;
        }
        if let Some(file) = &arguments.junit {
            let seconds = began.elapsed().as_secs_f64();
            let text = report::junit(seed, seconds, ended.failed().as_deref(), &wrong);
            std::fs::write(file, text).map_err(|error| named(file, &error))?;
        }
        Ok::<_, io::Error>(())
    };
    for wrong in &wrong {
        eprintln!("tallyd chaos: BROKEN: {}: {}", wrong.promise.told(), wrong.what);
    }
    let verdict = if wrong.is_empty() {
        "the cluster kept its promises"
    } else {
        "the cluster broke a promise"
    };
    eprintln!("tallyd chaos: the command: {}; {verdict} ({})", ended.status, audit.told());
    if ended.code() != 0 || !wrong.is_empty() {
        eprintln!("tallyd chaos: the same faults again: {}", arguments.again(seed));
    }
    let code = if wrong.is_empty() { ended.code() } else { BROKEN };
    if let Err(error) = written() {
        eprintln!("tallyd chaos: {error}");
        // What was found counts for more than where it stands.
        return Ok(ExitCode::from(if code == 0 { NOT_RUN } else { code }));
    }
    Ok(ExitCode::from(code))
}

fn named(file: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", file.display()))
}

impl Arguments {
    /// What brings the same plan again, as a shell takes it.
    fn again(&self, seed: u64) -> String {
        // Only a word with a zero byte can't be quoted, and no command line can have one.
        let quoted = |word: &str| shlex::try_quote(word).map_or(word.to_owned(), Cow::into_owned);
        let plan = quoted(&self.plan);
        let words: Vec<_> =
            self.command.iter().map(|word| quoted(&word.to_string_lossy())).collect();
        let nodes =
            if self.nodes == 3 { String::new() } else { format!(" --nodes {}", self.nodes) };
        format!("tallyd chaos --seed {seed} --plan {plan}{nodes} -- {}", words.join(" "))
    }
}

struct Played {
    ended: Ended,
    wrong: Vec<Wrong>,
    seen: Watched,
    audit: Arc<Audit>,
}

/// The run itself, with everything that goes on beside the command.
async fn watched(
    arguments: &Arguments,
    lab: &Arc<Lab>,
    source: &Source,
    seed: u64,
    ends: &mut Ends,
) -> io::Result<Played> {
    let (stop_looking, stop_seen) = watch::channel(false);
    let looking = tokio::spawn(report::look(Arc::clone(lab), stop_seen));
    tokio::select! {
        served = serves(lab) => served?,
        () = ends.come() => return Err(io::Error::other("told to stop before the command began")),
    }
    let audit = Audit::new(Arc::clone(lab), seed);
    let (stop_clients, stopped) = watch::channel(false);
    let clients = audit.start(&stopped);
    eprint!("tallyd chaos: seed {seed}, the plan ({}):\n{}", arguments.plan, source.round(0));

    let faults = Arc::new(Faults::new(Arc::clone(lab)));
    let command = start(arguments, lab).await?;
    let (stop_faults, stopped) = watch::channel(false);
    let playing = tokio::spawn({
        let (faults, source) = (Arc::clone(&faults), source.clone());
        async move { faults.play(&source, stopped).await }
    });
    let ended = command.ended(ends).await;
    lab.tell(0, format!("{COMMAND}is over"));
    stop_faults.send_replace(true);
    playing.await.map_err(io::Error::other)?;
    stop_clients.send_replace(true);
    audit.end(clients).await;
    for id in lab.nodes.ids().filter(|id| lab.nodes.process(*id).1 == Process::Dead) {
        audit.wrong(Promise::RunsOn, format!("node {id} does not run in the end"), lab.now(), &[]);
    }
    for what in faults.ended() {
        audit.wrong(Promise::RunsOn, what, lab.now(), &[]);
    }
    stop_looking.send_replace(true);
    let seen = looking.await.map_err(io::Error::other)?;
    Ok(Played { ended: ended?, wrong: audit.found(), seen, audit })
}

/// Waits until somebody leads.
async fn serves(lab: &Lab) -> io::Result<()> {
    let electing = async {
        while leader(lab).is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(START, electing)
        .await
        .map_err(|_| io::Error::other(format!("the nodes elected no leader in {START:?}")))
}

async fn start(arguments: &Arguments, lab: &Lab) -> io::Result<command::Running> {
    let endpoints: Vec<String> =
        lab.nodes.ids().map(|id| lab.nodes.addresses(id).client_via.to_string()).collect();
    let program = arguments.command.first().expect("clap asks for a command");
    lab.tell(0, format!("{COMMAND}begins: {}", program.to_string_lossy()));
    command::start(&arguments.command, &endpoints.join(",")).await
}
