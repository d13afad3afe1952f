//! `tally kv`.

use std::{
    io::{self, IsTerminal as _, Read as _},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use tally_client::{Client, KeyChange, KeyValue};

use crate::{
    args::{self, Pages, Read, Write},
    counter::{more, with},
    output::{Exit, Failure, Output, print, word},
    worth,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Kv {
    /// Stores a value.
    Put {
        key: String,
        /// The value; `-` reads it from standard input.
        #[arg(required_unless_present = "file", conflicts_with = "file")]
        value: Option<String>,
        /// Reads the value from a file.
        #[arg(long)]
        file: Option<PathBuf>,
        /// Only if the key does not exist.
        #[arg(long, conflicts_with_all = ["if_present", "if_revision", "if_value"])]
        if_absent: bool,
        #[command(flatten)]
        condition: Condition,
        #[command(flatten)]
        write: Write,
    },
    /// Writes a value to standard output, byte for byte; with several keys, as a list.
    Get {
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
        #[command(flatten)]
        read: Read,
    },
    /// Removes a key.
    Delete {
        key: String,
        #[command(flatten)]
        condition: Condition,
        #[command(flatten)]
        write: Write,
    },
    /// Lists keys whose name starts with a prefix, with their values.
    Scan {
        #[arg(default_value = "")]
        prefix: String,
        /// First key, inclusive.
        #[arg(long, default_value = "")]
        start: String,
        /// Last key, exclusive.
        #[arg(long, default_value = "")]
        end: String,
        /// Leave the values out.
        #[arg(long)]
        keys_only: bool,
        #[command(flatten)]
        pages: Pages,
        #[command(flatten)]
        read: Read,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Condition {
    /// Only if the key exists.
    #[arg(long)]
    pub(crate) if_present: bool,
    /// Only if this revision was the last to change the key.
    #[arg(long, value_name = "REVISION", conflicts_with = "if_present")]
    pub(crate) if_revision: Option<u64>,
    /// Only if the key has this value.
    #[arg(long, value_name = "VALUE", conflicts_with_all = ["if_present", "if_revision"])]
    pub(crate) if_value: Option<String>,
}

pub(crate) async fn run(client: &Client, command: &Kv, output: Output) -> Result<Exit, Failure> {
    match command {
        Kv::Put { key, value, file, if_absent, condition, write } => {
            let value = value_of(value.as_deref(), file.as_deref())?;
            let mut put = client.keys().put(key, value);
            if *if_absent {
                put = put.if_absent();
            }
            if condition.if_present {
                put = put.if_present();
            }
            if let Some(revision) = condition.if_revision {
                put = put.if_revision(revision);
            }
            if let Some(value) = &condition.if_value {
                put = put.if_value(value.clone());
            }
            output.written(&with!(put, write).await?, changed)?;
        }
        Kv::Get { keys, read } => return get(client, keys, read, output).await,
        Kv::Delete { key, condition, write } => {
            let mut delete = client.keys().delete(key);
            if condition.if_present {
                delete = delete.if_present();
            }
            if let Some(revision) = condition.if_revision {
                delete = delete.if_revision(revision);
            }
            if let Some(value) = &condition.if_value {
                delete = delete.if_value(value.clone());
            }
            let change = with!(delete, write).await?;
            output.written(&change, |change| {
                if change.existed { "deleted" } else { "it did not exist" }.to_owned()
            })?;
        }
        Kv::Scan { prefix, start, end, keys_only, pages, read } => {
            let mut token = pages.page_token.clone();
            loop {
                let mut scan = client.keys().scan().prefix(prefix).start(start).end(end);
                scan = scan.page_size(pages.limit);
                if *keys_only {
                    scan = scan.keys_only();
                }
                if let Some(token) = token {
                    scan = scan.page_token(token);
                }
                let page = scan.level(read.read.clone()).await?;
                output.result(&page, |page| {
                    let rows = page.items.iter().map(|item| row(item, *keys_only));
                    rows.collect::<Vec<_>>().join("\n")
                })?;
                worth::tell(&page.header, output);
                token = page.next_page_token;
                if !more(&token, pages, output) {
                    return Ok(Exit::Done);
                }
            }
        }
    }
    Ok(Exit::Done)
}

fn value_of(value: Option<&str>, file: Option<&Path>) -> Result<Vec<u8>, Failure> {
    match (value, file) {
        (_, Some(file)) => std::fs::read(file)
            .map_err(|error| Failure::usage(format!("{}: {error}", file.display()))),
        (Some("-"), None) => {
            let mut value = Vec::new();
            io::stdin().read_to_end(&mut value)?;
            Ok(value)
        }
        (Some(value), None) => Ok(value.as_bytes().to_vec()),
        (None, None) => Err(Failure::usage("a value or --file is needed".to_owned())),
    }
}

fn changed(change: &KeyChange) -> String {
    let remark = if change.write.replayed { "  (stored before; nothing was done now)" } else { "" };
    format!("revision {}{remark}", change.revision)
}

/// One line for a value: text as it is if that is clear, else quoted.
fn row(item: &KeyValue, keys_only: bool) -> String {
    let key = word(&item.key);
    if keys_only {
        return key.into_owned();
    }
    match std::str::from_utf8(&item.value) {
        Ok(text) => format!("{key}  {}", word(text)),
        _ => format!("{key}  \"{}\"", item.value.escape_ascii()),
    }
}

async fn get(
    client: &Client,
    keys: &[String],
    read: &args::Read,
    output: Output,
) -> Result<Exit, Failure> {
    if let [key] = keys {
        let item = client.keys().get(key).level(read.read.clone()).await?;
        if output.json {
            output.result(&item, |_| String::new())?;
            return Ok(Exit::Done);
        }
        // Byte for byte for a program; for who looks, the next prompt begins on a line of its own.
        let ends_its_line = item.value.ends_with(b"\n") || !io::stdout().is_terminal();
        let printed =
            print(&item.value).and_then(|()| if ends_its_line { Ok(()) } else { print(b"\n") });
        printed.map_err(|error| Failure::not_printed(&error, "the value could not be written"))?;
        worth::tell(&item.header, output);
        return Ok(Exit::Done);
    }
    let batch = client.keys().batch_get(keys).level(read.read.clone()).await?;
    output.result(&batch, |batch| {
        let missing = batch.missing.iter().map(|key| format!("{}  does not exist", word(key)));
        let items = batch.items.iter().map(|item| row(item, false));
        items.chain(missing).collect::<Vec<_>>().join("\n")
    })?;
    worth::tell(&batch.header, output);
    // As if each had been asked for alone.
    Ok(if batch.missing.is_empty() { Exit::Done } else { Exit::NotFound })
}
