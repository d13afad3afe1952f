//! `tally counter`.

use clap::{Args, Subcommand};
use tally_client::{Client, CounterChange, CounterValue, Page, counter::Expect};

use crate::{
    args::{self, Pages, Read, Write},
    output::{Exit, Failure, Output, word},
    pages,
    prefix::{self, Kind, Many},
    worth,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Counter {
    /// Moves a counter by a signed delta; a missing one is created at 0 first.
    #[command(allow_negative_numbers = true)]
    Add {
        /// The counter's name, 1 to 512 bytes.
        name: String,
        /// What to add: a signed 64-bit integer.
        #[arg(default_value_t = 1)]
        delta: i64,
        /// The value must not fall below this, for this write alone.
        #[arg(long)]
        floor: Option<i64>,
        /// The value must not rise above this, for this write alone.
        #[arg(long)]
        ceiling: Option<i64>,
        /// At a bound, move as far as it allows instead of refusing.
        #[arg(long)]
        saturate: bool,
        /// Refuse to create the counter.
        #[arg(long)]
        fail_if_missing: bool,
        #[command(flatten)]
        write: Write,
    },
    /// Reads counters; several are read at one point in the history.
    Get {
        /// The counters' names; up to 128 are read at once.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        read: Read,
    },
    /// Replaces a value, within its stored bounds.
    #[command(allow_negative_numbers = true)]
    Set {
        /// The counter's name, 1 to 512 bytes.
        name: String,
        /// The new value: a signed 64-bit integer.
        value: i64,
        #[command(flatten)]
        write: Write,
    },
    /// Replaces a value that is as expected (compare and set).
    #[command(allow_negative_numbers = true)]
    Cas {
        /// The counter's name, 1 to 512 bytes.
        name: String,
        /// The new value: a signed 64-bit integer.
        value: i64,
        #[command(flatten)]
        expect: Expected,
        #[command(flatten)]
        write: Write,
    },
    /// Removes a counter with its bounds, or all whose name starts with a prefix.
    Delete {
        /// The counter's name, 1 to 512 bytes.
        #[arg(required_unless_present = "prefix", conflicts_with = "prefix")]
        name: Option<String>,
        #[command(flatten)]
        many: Many,
        #[command(flatten)]
        write: Write,
    },
    /// Lists counters whose name starts with a prefix.
    List {
        /// What the names start with. Default: all are listed.
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
        #[command(flatten)]
        pages: Pages,
        #[command(flatten)]
        read: Read,
    },
    /// Replaces both stored bounds; one that is not named is removed.
    #[command(allow_negative_numbers = true)]
    Configure {
        /// The counter's name, 1 to 512 bytes.
        name: String,
        /// Lowest value allowed, for every writer.
        #[arg(long)]
        floor: Option<i64>,
        /// Highest value allowed, for every writer.
        #[arg(long)]
        ceiling: Option<i64>,
        #[command(flatten)]
        write: Write,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Expected {
    /// Only if this is the value.
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
    pub(crate) expect: Option<i64>,
    /// Only if this revision was the last to change it.
    #[arg(long, value_name = "REVISION")]
    pub(crate) expect_revision: Option<u64>,
    /// Only if it does not exist.
    #[arg(long)]
    pub(crate) expect_absent: bool,
}

/// Adds what every write can carry.
macro_rules! with {
    ($call:expr, $write:expr) => {{
        let mut call = $call;
        let write: &args::Write = $write;
        if let Some(key) = &write.idempotency_key {
            call = call.idempotency_key(key);
        }
        if let Some(window) = write.idempotency_window {
            call = call.idempotency_window(window.0);
        }
        call
    }};
}
pub(crate) use with;

pub(crate) async fn run(
    client: &Client,
    command: &Counter,
    output: Output,
) -> Result<Exit, Failure> {
    match command {
        Counter::Add { name, delta, floor, ceiling, saturate, fail_if_missing, write } => {
            let mut add = client.counter(name).add(*delta);
            if let Some(floor) = floor {
                add = add.floor(*floor);
            }
            if let Some(ceiling) = ceiling {
                add = add.ceiling(*ceiling);
            }
            if *saturate {
                add = add.saturate();
            }
            if *fail_if_missing {
                add = add.fail_if_missing();
            }
            output.written(&with!(add, write).await?, changed)?;
        }
        Counter::Get { names, read } => return get(client, names, read, output).await,
        Counter::Set { name, value, write } => {
            output.written(&with!(client.counter(name).set(*value), write).await?, changed)?;
        }
        Counter::Cas { name, value, expect, write } => {
            let expect = match (expect.expect, expect.expect_revision) {
                (Some(value), _) => Expect::Value(value),
                (_, Some(revision)) => Expect::Revision(revision),
                _ => Expect::Absent,
            };
            let call = client.counter(name).compare_and_set(expect, *value);
            output.written(&with!(call, write).await?, changed)?;
        }
        Counter::Delete { name, many, write } => {
            let Some(name) = name else {
                return prefix::run(client, Kind::Counter, many, output).await;
            };
            many.is_for_one()?;
            let change = with!(client.counter(name).delete(), write).await?;
            output.written(&change, |change| {
                if change.existed {
                    format!("deleted; it was {}", change.value_before)
                } else {
                    "it did not exist".to_owned()
                }
            })?;
        }
        Counter::List { prefix, pages, read } => list(client, prefix, pages, read, output).await?,
        Counter::Configure { name, floor, ceiling, write } => {
            let mut configure = client.counter(name).configure();
            if let Some(floor) = floor {
                configure = configure.floor(*floor);
            }
            if let Some(ceiling) = ceiling {
                configure = configure.ceiling(*ceiling);
            }
            output.written(&with!(configure, write).await?, |change| {
                match change.write.values_hidden {
                    true => HIDDEN.to_owned(),
                    false => format!("{}{}", change.value, bounds(change.floor, change.ceiling)),
                }
            })?;
        }
    }
    Ok(Exit::Done)
}

/// In place of a value that the caller may change and not read.
const HIDDEN: &str = "done; its value is not yours to read";

/// The value alone, so that a script can use it; what is worth a remark comes behind it.
fn changed(change: &CounterChange) -> String {
    let mut text = match change.write.values_hidden {
        // What is 0 in the answer is not known: it is no value to go on with.
        true => HIDDEN.to_owned(),
        false => change.value.to_string(),
    };
    if !change.write.values_hidden && change.delta_applied != change.delta_requested {
        text += &format!("  (moved by {} of {})", change.delta_applied, change.delta_requested);
    }
    if change.write.replayed {
        text += "  (counted before; nothing was done now)";
    }
    text
}

fn bounds(floor: Option<i64>, ceiling: Option<i64>) -> String {
    let floor = floor.map(|floor| format!("  floor {floor}")).unwrap_or_default();
    let ceiling = ceiling.map(|ceiling| format!("  ceiling {ceiling}")).unwrap_or_default();
    floor + &ceiling
}

async fn get(
    client: &Client,
    names: &[String],
    read: &args::Read,
    output: Output,
) -> Result<Exit, Failure> {
    if let [name] = names {
        let counter = client.counter(name).get().level(read.read.clone()).await?;
        output.result(&counter, |counter| counter.value.to_string())?;
        worth::tell(&counter.header, output);
        return Ok(Exit::Done);
    }
    let batch = client.counters().batch_get(names).level(read.read.clone()).await?;
    output.result(&batch, |batch| {
        let missing = batch.missing.iter().map(|name| format!("{}  does not exist", word(name)));
        batch.items.iter().map(row).chain(missing).collect::<Vec<_>>().join("\n")
    })?;
    worth::tell(&batch.header, output);
    // As if each had been asked for alone.
    Ok(if batch.missing.is_empty() { Exit::Done } else { Exit::NotFound })
}

fn row(counter: &CounterValue) -> String {
    format!("{}  {}{}", word(&counter.name), counter.value, bounds(counter.floor, counter.ceiling))
}

async fn list(
    client: &Client,
    prefix: &str,
    pages: &args::Pages,
    read: &args::Read,
    output: Output,
) -> Result<(), Failure> {
    let fetch = async |token: Option<String>, _| {
        let mut list = client.counters().list().prefix(prefix).page_size(pages.size());
        if let Some(token) = token {
            list = list.page_token(token);
        }
        list.level(read.read.clone()).await
    };
    let text =
        |page: &Page<CounterValue>, _| page.items.iter().map(row).collect::<Vec<_>>().join("\n");
    pages::show(pages, output, fetch, text).await
}
