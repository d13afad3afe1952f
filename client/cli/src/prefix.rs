//! Removing all counters, or keys, whose name starts with a prefix.
//!
//! As many as one atomic step takes go in one: all or none. More of them go in steps, each atomic and each
//! exactly once by itself; what is there in between, others can see. Done again after it was broken off, it
//! goes on with what is left. It removes what it found when it counted: names that come behind the last of
//! those meanwhile stay.

use std::{
    io::{self, IsTerminal as _},
    ops::AsyncFnMut,
};

use clap::Args;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use serde_json::{Map, Value, json};
use tally_client::{Client, Error, OperationResult, apply::Operation};

use crate::{
    args::PAGE_SIZE_MAX,
    interrupts::Interrupts,
    load::grouped,
    output::{Exit, Failure, Output, note, progress, progress_done, word},
};

/// Operations of one atomic step, at most.
const STEP_OPERATIONS: usize = 128;

/// Steps under way at once.
const STEPS: usize = 8;

/// Names that a dry run shows.
const SHOWN: usize = 10;

#[derive(Debug, Args)]
pub(crate) struct Many {
    /// Delete all whose name starts with this: up to 128 in one atomic step, more in several. Safe to repeat.
    #[arg(long, conflicts_with_all = ["idempotency_key"], value_name = "PREFIX")]
    pub(crate) prefix: Option<String>,
    /// Count them, show the first, and delete nothing.
    #[arg(long, requires = "prefix")]
    pub(crate) dry_run: bool,
    /// An empty prefix is meant: delete all there are.
    #[arg(long, requires = "prefix")]
    pub(crate) all_of_them: bool,
}

impl Many {
    /// What is for many is no flag of a command for one: a dry run that deletes would be the worst of all.
    // clap does not ask for what an argument requires where that conflicts with another one.
    pub(crate) fn is_for_one(&self) -> Result<(), Failure> {
        if self.dry_run || self.all_of_them {
            let message = "--dry-run and --all-of-them go with --prefix; nothing was deleted";
            return Err(Failure::usage(message.to_owned()));
        }
        Ok(())
    }
}

/// What is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Key,
}

impl Kind {
    /// The part of the command line that is about it.
    pub(crate) fn command(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Key => "kv",
        }
    }

    /// So many of them, in words.
    pub(crate) fn count(self, count: u64) -> String {
        let one = match self {
            Self::Counter => "counter",
            Self::Key => "key",
        };
        format!("{} {one}{}", grouped(count), if count == 1 { "" } else { "s" })
    }

    fn delete(self, name: String) -> Operation {
        match self {
            Self::Counter => Operation::counter_delete(name),
            Self::Key => Operation::key_delete(name),
        }
    }
}

/// Names on a page.
struct Names {
    names: Vec<String>,
    next: Option<String>,
    revision: u64,
}

async fn page(
    client: &Client,
    kind: Kind,
    prefix: &str,
    size: u16,
    token: Option<String>,
) -> Result<Names, Error> {
    match kind {
        Kind::Counter => {
            let mut list = client.counters().list().prefix(prefix).page_size(size);
            if let Some(token) = token {
                list = list.page_token(token);
            }
            let page = list.await?;
            let names = page.items.into_iter().map(|counter| counter.name).collect();
            Ok(Names { names, next: page.next_page_token, revision: page.header.revision })
        }
        Kind::Key => {
            let mut scan = client.keys().scan().prefix(prefix).keys_only().page_size(size);
            if let Some(token) = token {
                scan = scan.page_token(token);
            }
            let page = scan.await?;
            let names = page.items.into_iter().map(|item| item.key).collect();
            Ok(Names { names, next: page.next_page_token, revision: page.header.revision })
        }
    }
}

/// The first of them, if there is any.
pub(crate) async fn first(
    client: &Client,
    kind: Kind,
    prefix: &str,
) -> Result<Option<String>, Error> {
    Ok(page(client, kind, prefix, 1, None).await?.names.into_iter().next())
}

/// What there is, before any of it is removed.
#[derive(Debug, Default)]
struct Found {
    count: u64,
    /// The first of them, as many as one step takes.
    first: Vec<String>,
    last: String,
    revision: u64,
}

impl Found {
    fn steps(&self) -> u64 {
        self.count.div_ceil(STEP_OPERATIONS as u64)
    }

    fn is_one_step(&self) -> bool {
        self.steps() <= 1
    }
}

async fn count(client: &Client, kind: Kind, prefix: &str) -> Result<Found, Error> {
    let mut found = Found::default();
    let mut token = None;
    loop {
        let page = page(client, kind, prefix, PAGE_SIZE_MAX, token).await?;
        found.count += page.names.len() as u64;
        found.revision = page.revision;
        if let Some(last) = page.names.last() {
            found.last.clone_from(last);
        }
        let room = STEP_OPERATIONS - found.first.len();
        found.first.extend(page.names.into_iter().take(room));
        token = page.next;
        if token.is_none() {
            return Ok(found);
        }
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Removed {
    pub(crate) deleted: u64,
    /// Somebody else deleted them meanwhile.
    gone: u64,
    steps: u64,
}

/// One atomic step: how many of them there were.
async fn step(client: &Client, kind: Kind, names: Vec<String>) -> Result<(u64, u64), Error> {
    let asked = names.len() as u64;
    let names = names.into_iter();
    let applied = names.fold(client.apply(), |step, name| step.then(kind.delete(name))).await?;
    let existed = |result: &&OperationResult| match result {
        OperationResult::CounterChange(change) => change.existed,
        OperationResult::KeyChange(change) => change.existed,
        _ => false,
    };
    let deleted = applied.results.iter().filter(existed).count() as u64;
    Ok((deleted, asked - deleted))
}

/// Removes names as they come, many steps at once. All steps that were begun have ended when it returns.
async fn remove_names(
    client: &Client,
    kind: Kind,
    mut more: impl AsyncFnMut() -> Result<Option<Vec<String>>, Error>,
    removed: &mut Removed,
    mut tell: impl FnMut(&Removed),
) -> Result<(), Error> {
    let mut under_way = FuturesUnordered::new();
    let mut names = Vec::new();
    let mut is_end = false;
    let mut failed = None;
    loop {
        while !is_end && failed.is_none() && names.len() < STEP_OPERATIONS {
            match more().await {
                Ok(Some(found)) => names.extend(found),
                Ok(None) => is_end = true,
                Err(error) => failed = Some(error),
            }
        }
        if failed.is_none() && !names.is_empty() && under_way.len() < STEPS {
            let rest = names.split_off(names.len().min(STEP_OPERATIONS));
            under_way.push(step(client, kind, std::mem::replace(&mut names, rest)));
            continue;
        }
        match under_way.next().await {
            Some(Ok((deleted, gone))) => {
                removed.deleted += deleted;
                removed.gone += gone;
                removed.steps += 1;
                tell(removed);
            }
            Some(Err(error)) => failed = failed.or(Some(error)),
            None => return failed.map_or(Ok(()), Err),
        }
    }
}

/// Removes what begins with the prefix, up to a name.
async fn remove_up_to(
    client: &Client,
    kind: Kind,
    prefix: &str,
    last: Option<&str>,
    removed: &mut Removed,
    tell: impl FnMut(&Removed),
) -> Result<(), Error> {
    let mut token = Some(None);
    let more = async || {
        let Some(from) = token.take() else { return Ok(None) };
        let page = page(client, kind, prefix, PAGE_SIZE_MAX, from).await?;
        let is_past = |name: &String| last.is_some_and(|last| name.as_str() > last);
        let is_end = page.names.last().is_some_and(is_past);
        token = page.next.filter(|_| !is_end).map(Some);
        Ok(Some(page.names.into_iter().filter(|name| !is_past(name)).collect()))
    };
    remove_names(client, kind, more, removed, tell).await
}

/// Removes all of it, without a word.
pub(crate) async fn remove(
    client: &Client,
    kind: Kind,
    prefix: &str,
    removed: &mut Removed,
) -> Result<(), Error> {
    remove_up_to(client, kind, prefix, None, removed, |_| {}).await
}

/// Removes these, without a word.
pub(crate) async fn remove_these(
    client: &Client,
    kind: Kind,
    names: Vec<String>,
    removed: &mut Removed,
) -> Result<(), Error> {
    let mut names = Some(names).filter(|names| !names.is_empty());
    remove_names(client, kind, async || Ok(names.take()), removed, |_| {}).await
}

pub(crate) async fn run(
    client: &Client,
    kind: Kind,
    asked: &Many,
    output: Output,
) -> Result<Exit, Failure> {
    let prefix = asked.prefix.as_deref().unwrap_or_default();
    check(kind, prefix, asked.all_of_them)?;
    let interrupts = Interrupts::listen();
    let interrupted = || Failure::cut_short("cut short; nothing was deleted".to_owned());
    let found = interrupts.work(count(client, kind, prefix)).await.ok_or_else(interrupted)??;
    if asked.dry_run {
        return output
            .result(&dry(prefix, &found), |_| dry_text(kind, &found))
            .map(|()| Exit::Done);
    }
    if !found.is_one_step() && !output.json {
        note(&format!(
            "-- {}: one atomic step takes {STEP_OPERATIONS}, so they go in {} of them, each atomic by itself, \
             and not at one point of the history",
            kind.count(found.count),
            grouped(found.steps())
        ));
    }
    let mut removed = Removed::default();
    let shows = io::stderr().is_terminal();
    let tell = |removed: &Removed| {
        if shows {
            let of = grouped(found.count);
            progress(&format!("deleted {:>12} of {of}", grouped(removed.deleted)));
        }
    };
    let done = if found.is_one_step() {
        let names = found.first.clone();
        interrupts.work(remove_these(client, kind, names, &mut removed)).await
    } else {
        let last = Some(found.last.as_str());
        let work = remove_up_to(client, kind, prefix, last, &mut removed, tell);
        let done = interrupts.work(work).await;
        if shows {
            progress_done();
        }
        done
    };
    match done {
        Some(Ok(())) => {
            output.written(&result(prefix, &removed), |_| text(kind, &removed))?;
            Ok(Exit::Done)
        }
        Some(Err(error)) => {
            Err(Failure::broken_off(error, &so_far(kind, &removed), removed.deleted))
        }
        None => Err(Failure::cut_short(so_far(kind, &removed))),
    }
}

fn check(kind: Kind, prefix: &str, all_of_them: bool) -> Result<(), Failure> {
    let plural = kind.count(0);
    let plural = plural.trim_start_matches("0 ");
    match (prefix.is_empty(), all_of_them) {
        (true, false) => Err(Failure::usage(format!(
            "the prefix is empty, which would delete all {plural} of the cluster: --all-of-them, if that is meant"
        ))),
        (false, true) => Err(Failure::usage(format!(
            "--all-of-them is for an empty prefix, and this one is {}",
            word(prefix)
        ))),
        _ => Ok(()),
    }
}

/// What to say of it when it did not come to its end.
fn so_far(kind: Kind, removed: &Removed) -> String {
    format!(
        "deleted {} so far, and perhaps, now or later, those of steps that have no answer; the same command goes on from there",
        kind.count(removed.deleted)
    )
}

fn dry(prefix: &str, found: &Found) -> Map<String, Value> {
    let mut result = Map::new();
    let mut put = |name: &str, value: Value| result.insert(name.to_owned(), value);
    put("dry_run", json!(true));
    put("prefix", json!(prefix));
    put("would_delete", json!(found.count));
    put("steps", json!(found.steps()));
    put("atomic", json!(found.is_one_step()));
    put("first", json!(found.first.iter().take(SHOWN).collect::<Vec<_>>()));
    put("revision", json!(found.revision));
    result
}

fn dry_text(kind: Kind, found: &Found) -> String {
    let mut text = format!("would delete {}{}", kind.count(found.count), steps(found.steps()));
    let names = found.first.iter().take(SHOWN);
    text.extend(names.map(|name| format!("\n  {}", word(name))));
    if found.count > SHOWN as u64 {
        text += &format!("\n  and {} more", grouped(found.count - SHOWN as u64));
    }
    text
}

fn steps(steps: u64) -> String {
    match steps {
        0 => String::new(),
        1 => " in one atomic step".to_owned(),
        _ => format!(" in {} atomic steps: not at one point of the history", grouped(steps)),
    }
}

fn result(prefix: &str, removed: &Removed) -> Map<String, Value> {
    let mut result = Map::new();
    let mut put = |name: &str, value: Value| result.insert(name.to_owned(), value);
    put("dry_run", json!(false));
    put("prefix", json!(prefix));
    put("deleted", json!(removed.deleted));
    put("gone_meanwhile", json!(removed.gone));
    put("steps", json!(removed.steps));
    put("atomic", json!(removed.steps <= 1));
    result
}

fn text(kind: Kind, removed: &Removed) -> String {
    let mut text = format!("deleted {}{}", kind.count(removed.deleted), steps(removed.steps));
    if removed.gone > 0 {
        text += &format!("; {} were gone before", grouped(removed.gone));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_prefix_has_to_be_meant() {
        assert!(check(Kind::Key, "a", false).is_ok());
        assert!(check(Kind::Key, "", true).is_ok());
        assert!(check(Kind::Key, "", false).is_err());
        assert!(check(Kind::Counter, "a", true).is_err());
    }

    #[test]
    fn more_than_one_step_is_not_one_point() {
        let found = |count| Found { count, ..Found::default() };
        assert!(found(0).is_one_step() && found(128).is_one_step());
        assert_eq!((found(129).is_one_step(), found(129).steps()), (false, 2));
        let removed = Removed { deleted: 1300, gone: 2, steps: 11 };
        let told = "deleted 1,300 keys in 11 atomic steps: not at one point of the history; 2 were gone before";
        assert_eq!(text(Kind::Key, &removed), told);
        let removed = Removed { deleted: 1, gone: 0, steps: 1 };
        assert_eq!(text(Kind::Counter, &removed), "deleted 1 counter in one atomic step");
    }
}
