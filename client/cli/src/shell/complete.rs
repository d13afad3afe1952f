//! What Tab offers: commands and options from the definition of the command line, and the names of counters and keys
//! that the cluster has. It never waits for the cluster for long: what it does not say in time is not offered.

use std::{
    ffi::{OsStr, OsString},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use clap::Command;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, complete};
use tally_client::{Client, ReadLevel, Status};
use tokio::runtime::Handle;

use super::{line::typed, settings};
use crate::output::escaped;

/// A pause in typing that nobody minds.
const ANSWERS_WITHIN: Duration = Duration::from_millis(300);

/// Names that are asked for: more than one looks through.
const NAMES_MAX: u16 = 100;

/// Asks the cluster for what Tab offers. It is not called from within the runtime.
pub(super) struct Names {
    runtime: Handle,
    /// The client that the last line had.
    client: Mutex<Option<Client>>,
}

/// What a name is of.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    Key,
}

impl Names {
    pub(super) fn new(runtime: Handle) -> Self {
        Self { runtime, client: Mutex::default() }
    }

    pub(super) fn ask(&self, client: Client) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client);
    }

    fn client(&self) -> Option<Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The answer to a question that is a convenience.
    fn within<T>(&self, question: impl Future<Output = tally_client::Result<T>>) -> Option<T> {
        let answer = async { tokio::time::timeout(ANSWERS_WITHIN, question).await };
        self.runtime.block_on(answer).ok()?.ok()
    }

    fn names(&self, kind: Kind, prefix: &str) -> Vec<String> {
        let Some(client) = self.client() else { return Vec::new() };
        // What any node knows is good enough here, and is there without a quorum, too.
        let names = match kind {
            Kind::Counter => {
                let list = client.counters().list().prefix(prefix).page_size(NAMES_MAX);
                let page = self.within(list.level(ReadLevel::Local).into_future());
                page.map(|page| page.items.into_iter().map(|counter| counter.name).collect())
            }
            Kind::Key => {
                let scan = client.keys().scan().prefix(prefix).page_size(NAMES_MAX).keys_only();
                let page = self.within(scan.level(ReadLevel::Local).into_future());
                page.map(|page| page.items.into_iter().map(|item| item.key).collect())
            }
        };
        names.unwrap_or_default()
    }

    fn nodes(&self) -> Vec<String> {
        let status = self.client().and_then(|client| self.within(client.status().into_future()));
        let ids = |status: Status| status.nodes.iter().map(|node| node.id.to_string()).collect();
        status.map(ids).unwrap_or_default()
    }
}

/// Something that can stand in place of the word at the cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    /// For the list of them.
    pub(super) shown: String,
    /// In quotes, where it needs them.
    pub(super) text: String,
}

/// What a line that is typed up to the cursor may go on with, and where that begins.
pub(super) fn offers(
    text: &str,
    definition: Command,
    names: &std::sync::Arc<Names>,
) -> (usize, Vec<Offer>) {
    let at = text.rfind('\n').map_or(0, |newline| newline + 1);
    if let Some(own) = text[at..].trim_start().strip_prefix('\\') {
        let start = text.rfind(char::is_whitespace).map_or(0, |gap| gap + 1);
        return own_commands(own, start.max(text.len() - own.len() - 1), names);
    }
    let Some(typed) = typed(text) else { return (text.len(), Vec::new()) };
    let before = typed.before.strip_prefix(&["tally".to_owned()]).unwrap_or(&typed.before);
    let mut words: Vec<OsString> = before.iter().map(OsString::from).collect();
    words.push(OsString::from(&typed.word));
    let index = words.len() - 1;
    let mut definition = with_names(definition, "", names);
    let here = std::env::current_dir().ok();
    let found = complete(&mut definition, words, index, here.as_deref()).unwrap_or_default();
    let found = found.iter().filter(|candidate| !candidate.is_hide_set());
    let found: Vec<String> =
        found.filter_map(|candidate| candidate.get_value().to_str()).map(str::to_owned).collect();
    // Options are many: they come when they are asked for, or when there is nothing else.
    let (options, others): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|word| word.starts_with('-'));
    let chosen = if others.is_empty() || typed.word.starts_with('-') { options } else { others };
    (typed.start, chosen.iter().filter_map(|word| offer(word)).collect())
}

fn offer(word: &str) -> Option<Offer> {
    // It could be quoted, but not typed.
    if word.chars().any(char::is_control) {
        return None;
    }
    let mut text = shlex::try_quote(word).ok()?.into_owned();
    // A folder goes on.
    if !word.ends_with('/') || text.ends_with('\'') {
        text.push(' ');
    }
    Some(Offer { shown: escaped(word), text })
}

/// Gives the arguments that name something in the cluster what they are completed with.
fn with_names(command: Command, parent: &str, names: &std::sync::Arc<Names>) -> Command {
    let own = command.get_name().to_owned();
    let kind = match parent {
        "counter" => Some(Kind::Counter),
        "kv" => Some(Kind::Key),
        _ => None,
    };
    let command = command.mut_args(|argument| {
        let names = names.clone();
        match (kind, argument.get_id().as_str()) {
            (_, "read") => argument.add(ArgValueCompleter::new(levels)),
            (Some(kind), "name" | "names" | "key" | "keys" | "prefix" | "start" | "end") => {
                argument.add(ArgValueCompleter::new(move |word: &OsStr| {
                    let word = word.to_str().unwrap_or_default();
                    names.names(kind, word).into_iter().map(CompletionCandidate::new).collect()
                }))
            }
            _ => argument,
        }
    });
    command.mut_subcommands(|command| with_names(command, &own, names))
}

const LEVELS: [&str; 4] = ["linearizable", "bounded:200ms", "session", "local"];

fn levels(word: &OsStr) -> Vec<CompletionCandidate> {
    let word = word.to_str().unwrap_or_default();
    let levels = LEVELS.iter().filter(|level| level.starts_with(word));
    levels.map(CompletionCandidate::new).collect()
}

/// Completes one of the shell's own commands, behind its backslash.
fn own_commands(typed: &str, start: usize, names: &Names) -> (usize, Vec<Offer>) {
    let plain = |word: String| Offer { shown: word.clone(), text: word + " " };
    let Some((name, value)) = typed.split_once(char::is_whitespace) else {
        let found = settings::OWN.iter().filter(|(name, ..)| name.starts_with(typed));
        return (start, found.map(|(name, ..)| plain(format!("\\{name}"))).collect());
    };
    let value = value.trim_start();
    let values: Vec<String> = match name {
        "read" => LEVELS.map(str::to_owned).to_vec(),
        "node" => names.nodes().into_iter().chain(["any".to_owned()]).collect(),
        "timing" | "verbose" | "history" => vec!["on".to_owned(), "off".to_owned()],
        _ => Vec::new(),
    };
    (start, values.into_iter().filter(|it| it.starts_with(value)).map(plain).collect())
}

#[cfg(test)]
#[path = "complete_tests.rs"]
mod tests;
