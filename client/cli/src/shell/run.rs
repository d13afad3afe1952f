//! Running one line.

use std::{
    future::IntoFuture as _,
    io::{self, IsTerminal as _},
    sync::Arc,
    time::Duration,
};

use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    time::{Instant, timeout},
};

use super::{
    clients::{self, Clients, Wanted},
    complete::Names,
    grammar::{self, Effect, Understood, elsewhere},
    line::Line,
    settings::{self, Asked, Settings},
};
use crate::{
    Arguments, Command,
    args::{Common, Time},
    input::{self, Input},
    output::{Exit, Failure, Output, escaped, line as say, note, word},
    tls::TlsOptions,
    version,
};

/// How long it may take to find out where a node is.
const NODE_WITHIN: Duration = Duration::from_secs(2);

/// How a line ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Line(Exit),
    /// The shell ends.
    Quit,
}

/// What lasts from line to line.
pub(super) struct Shell {
    /// What the shell was started with, and lines that say nothing else have, too.
    common: Common,
    pub(super) settings: Settings,
    clients: Clients,
    pub(super) names: Arc<Names>,
    /// Standard output was closed by whoever read it.
    pub(super) nobody_reads: bool,
    /// Ctrl-C ended the last line: what was to follow is not wanted either.
    pub(super) is_cut_short: bool,
}

impl Shell {
    pub(super) fn new(common: &Common, runtime: Handle) -> Self {
        let deadline = format!("{}ms", common.deadline.0.as_millis());
        // Rounded to how one would write it.
        let deadline = deadline.strip_suffix("000ms").map_or(deadline.clone(), |s| format!("{s}s"));
        Self {
            common: common.clone(),
            settings: Settings::new(deadline, common.verbose),
            clients: Clients::default(),
            names: Arc::new(Names::new(runtime)),
            nobody_reads: false,
            is_cut_short: false,
        }
    }

    pub(super) fn output(&self) -> Output {
        crate::output(&self.common)
    }

    /// What a line that says nothing of it is sent to.
    fn wanted(&self) -> Wanted {
        let deadline = self.settings.deadline.parse().unwrap_or(Time(Duration::from_secs(10))).0;
        Wanted {
            endpoints: self.common.endpoints.clone(),
            node: self.settings.node.clone(),
            deadline,
            tls: self.common.tls.clone(),
        }
    }

    /// Says what is there, within a moment.
    pub(super) async fn greeting(&mut self, within: Duration) -> String {
        const KEYS: &str = "\\help for help, \\quit or Ctrl-D to leave.";
        let program = format!("Tally shell {}", env!("CARGO_PKG_VERSION"));
        let clients = (self.clients.get(&self.wanted()), crate::nodes_for_a_moment(&self.common));
        let (client, hasty) = match clients {
            (Ok(client), Ok(hasty)) => (client, hasty),
            (Err(failure), _) | (_, Err(failure)) => {
                return format!("{program}: {}\n{KEYS}", failure.text());
            }
        };
        self.names.ask(client);
        let found = match timeout(within, hasty.status().into_future()).await {
            Ok(Ok(status)) => {
                let cluster = word(&status.header.cluster_id).into_owned();
                format!("cluster {cluster}\n{}", status.health().summary)
            }
            other => {
                let why = match other {
                    Ok(Err(error)) => escaped(error.message()),
                    _ => {
                        let at: Vec<_> =
                            self.common.endpoints.iter().map(|at| escaped(at)).collect();
                        format!("no answer from {} within {} s", at.join(", "), within.as_secs())
                    }
                };
                format!(
                    "no cluster yet: {why}\nEach command tries again; `tallyd dev` starts a cluster on this \
                     machine."
                )
            }
        };
        format!("{program}, {found}\n{KEYS}")
    }

    pub(super) async fn line(&mut self, line: Line) -> Ended {
        self.is_cut_short = false;
        match line {
            Line::Own(words) => self.own(&words).await,
            Line::Command(words, given) => match words.as_slice() {
                // Whoever does not know the backslash wants out, too.
                [word] if word == "quit" || word == "exit" => Ended::Quit,
                words => {
                    input::set(given.map_or(Input::Commands, Input::Given));
                    let began = Instant::now();
                    let exit = self.command(words).await;
                    if self.settings.timing {
                        let took = began.elapsed().as_secs_f64() * 1e3;
                        note(&format!("Time: {took:.3} ms"));
                    }
                    Ended::Line(exit)
                }
            },
        }
    }

    /// Does one of the shell's own commands.
    async fn own(&mut self, words: &[String]) -> Ended {
        let done = match self.settings.own(words) {
            Ok(Asked::Quit) => return Ended::Quit,
            Ok(Asked::Nothing) => Ok(Exit::Done),
            Ok(Asked::Say(text)) => say(&text).map(|()| Exit::Done),
            Ok(Asked::Help(command)) if command.is_empty() => {
                say(&settings::help()).map(|()| Exit::Done)
            }
            Ok(Asked::Help(command)) => {
                let words: Vec<_> = std::iter::once("help".to_owned()).chain(command).collect();
                return Ended::Line(self.command(&words).await);
            }
            Ok(Asked::Node(named)) => self.pin(&named).await,
            Err(problem) => Err(Failure::usage(problem)),
        };
        Ended::Line(self.ended(done, self.output()))
    }

    /// Sends everything to one node from here on.
    async fn pin(&mut self, named: &str) -> Result<Exit, Failure> {
        let pinned = if named.bytes().all(|byte| byte.is_ascii_digit()) {
            // Where it is, another node may have to say.
            let wanted = Wanted { node: None, ..self.wanted() };
            let client = self.clients.get(&wanted)?;
            let status = client.status().deadline(NODE_WITHIN).await.map_err(|error| {
                let why = escaped(error.message());
                Failure::unable(format!("where node {named} is, no node says: {why}"))
            })?;
            clients::find(named, &status).map_err(Failure::usage)?
        } else {
            let default = tally_client::Client::builder([named]).build();
            default.map_err(|error| Failure::usage(error.message().to_owned()))?;
            settings::Pinned { id: None, address: with_port(named) }
        };
        self.settings.node = Some(pinned);
        self.names.ask(self.clients.get(&self.wanted())?);
        Ok(Exit::Done)
    }

    /// Runs a command line, and says what is wrong with it, if something is.
    async fn command(&mut self, words: &[String]) -> Exit {
        let definition = grammar::definition(&self.settings, self.clients.token().as_ref());
        // Whoever types it without its arguments is told, too, that they would not help.
        let name = words.iter().find(|word| *word != "tally").map_or("", String::as_str);
        if elsewhere(name).is_some() {
            return self.ended(Err(not_here(name)), self.output());
        }
        match grammar::understand(definition, words) {
            // It stood behind an option.
            Ok(understood) if elsewhere(&understood.name).is_some() => {
                self.ended(Err(not_here(&understood.name)), self.output())
            }
            Ok(mut understood) => {
                understood.arguments.common.inherit(&self.common, self.settings.verbose);
                let output = crate::output(&understood.arguments.common);
                let done = self.perform(understood, output).await;
                self.ended(done, output)
            }
            Err(error) => {
                let is_wrong = error.use_stderr();
                self.output().usage(&error);
                if is_wrong { Exit::Usage } else { Exit::Done }
            }
        }
    }

    async fn perform(&mut self, line: Understood, output: Output) -> Result<Exit, Failure> {
        let Understood { arguments: Arguments { common, command }, effect, .. } = line;
        let mut wanted = self.wanted();
        wanted.deadline = common.deadline.0;
        if !common.endpoints.is_empty() {
            (wanted.endpoints, wanted.node) = (common.endpoints, None);
        }
        if common.tls != TlsOptions::default() {
            wanted.tls = common.tls;
        }
        let client = self.clients.get(&wanted)?;
        self.names.ask(client.clone());
        let waiting = self.clients.waiting.clone();
        waiting.begin();
        let work = async {
            match &command {
                Command::Version(asked) => {
                    version::run((!asked.client).then_some(&client), output).await
                }
                command => crate::ask(&client, command, output).await,
            }
        };
        // From here on only: an earlier one was meant for something else.
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            done = waiting.tell(wanted.deadline, work) => done,
            _ = interrupt.recv(), if effect != Effect::ToldByItself => {
                self.is_cut_short = true;
                if io::stderr().is_terminal() {
                    // Behind the ^C that the terminal shows.
                    eprintln!();
                }
                Err(cut_short(effect))
            }
        }
    }

    /// Prints what failed, and returns the status of the line.
    fn ended(&mut self, done: Result<Exit, Failure>, output: Output) -> Exit {
        let exit = match done {
            Ok(exit) => exit,
            Err(failure) => {
                output.failure(&failure);
                self.nobody_reads |= failure.is_nobody_there();
                failure.exit()
            }
        };
        self.is_cut_short |= exit == Exit::CutShort;
        exit
    }
}

fn not_here(name: &str) -> Failure {
    let why = elsewhere(name).unwrap_or_default();
    Failure::usage(format!("`tally {name}` is not run in the shell: {why}"))
}

/// What whoever pressed Ctrl-C has to know.
fn cut_short(effect: Effect) -> Failure {
    match effect {
        Effect::Nothing | Effect::ToldByItself => {
            Failure::cut_short("cut short; nothing was to be changed".to_owned())
        }
        Effect::Part => Failure::cut_short(
            "cut short; a part of it may have been done, and the same command does the rest"
                .to_owned(),
        ),
        Effect::Write(key) => Failure::cut_short_write(&key),
    }
}

/// An address that names no port has the port that nodes have by default.
fn with_port(named: &str) -> String {
    let has_port = named.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { named.to_owned() } else { format!("{named}:7401") }
}

impl Common {
    /// Takes from the shell what a line does not say.
    fn inherit(&mut self, shell: &Common, verbose: bool) {
        self.json = self.json.or(shell.json);
        self.verbose |= verbose;
    }
}
