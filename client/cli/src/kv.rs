//! `tally kv`.

use std::{
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use tally_client::{Client, KeyChange, KeyValue, Page};

use crate::{
    args::{self, Pages, Read, Write},
    counter::with,
    input,
    load::grouped,
    output::{Exit, Failure, Output, print, word},
    pages,
    prefix::{self, Kind, Many},
    worth,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Kv {
    /// Stores a value.
    Put {
        /// The key, 1 to 512 bytes.
        key: String,
        /// The value, up to 1 MiB; `-` reads it from standard input.
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
        /// The keys; up to 128 are read at once.
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
        #[command(flatten)]
        values: Values,
        #[command(flatten)]
        read: Read,
    },
    /// Removes a key, or all whose name starts with a prefix.
    Delete {
        /// The key, 1 to 512 bytes.
        #[arg(required_unless_present = "prefix", conflicts_with = "prefix")]
        key: Option<String>,
        #[command(flatten)]
        many: Many,
        #[command(flatten)]
        condition: Condition,
        #[command(flatten)]
        write: Write,
    },
    /// Lists keys whose name starts with a prefix, with their values.
    Scan {
        /// What the keys start with. Default: all are listed.
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
        /// First key, inclusive. Default: the first there is.
        #[arg(long, default_value = "", hide_default_value = true, value_name = "KEY")]
        start: String,
        /// Where to end: the first key that is left out. Default: behind the last.
        #[arg(long, default_value = "", hide_default_value = true, value_name = "KEY")]
        end: String,
        /// Leave the values out.
        #[arg(long)]
        keys_only: bool,
        #[command(flatten)]
        values: Values,
        #[command(flatten)]
        pages: Pages,
        #[command(flatten)]
        read: Read,
    },
}

/// How much of a value stands in a line of a list.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Values {
    /// In a list, show so many bytes of a value, and its size if it is longer; all of it with 0 or `all`.
    /// Default: 64 on a terminal, and all in a pipe. JSON has all of it in any case.
    #[arg(long, value_name = "BYTES", value_parser = values_max)]
    pub(crate) values_max: Option<usize>,
}

/// What a line of a terminal has room for, beside the key.
const VALUES_MAX: usize = 64;

impl Values {
    fn max(self) -> usize {
        self.values_max.unwrap_or(if io::stdout().is_terminal() { VALUES_MAX } else { usize::MAX })
    }
}

fn values_max(text: &str) -> Result<usize, String> {
    match text {
        "all" | "0" => Ok(usize::MAX),
        _ => text.parse().map_err(|_| "a number of bytes, or `all`".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct Condition {
    /// Only if the key exists.
    #[arg(long)]
    pub(crate) if_present: bool,
    /// Only if this revision was the last to change the key.
    #[arg(long, value_name = "REVISION", conflicts_with = "if_present")]
    pub(crate) if_revision: Option<u64>,
    /// Only if the key has this value, of up to 1 KiB.
    #[arg(long, value_name = "VALUE", conflicts_with_all = ["if_present", "if_revision"])]
    pub(crate) if_value: Option<String>,
}

impl Condition {
    fn is_given(&self) -> bool {
        self.if_present || self.if_revision.is_some() || self.if_value.is_some()
    }
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
        Kv::Get { keys, values, read } => return get(client, keys, *values, read, output).await,
        Kv::Delete { key, many, condition, write } => {
            let Some(key) = key else {
                if condition.is_given() {
                    let message = "a condition is for one key, and --prefix is for many";
                    return Err(Failure::usage(message.to_owned()));
                }
                return prefix::run(client, Kind::Key, many, output).await;
            };
            many.is_for_one()?;
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
        Kv::Scan { prefix, start, end, keys_only, values, pages, read } => {
            let fetch = async |token: Option<String>, _| {
                let mut scan = client.keys().scan().prefix(prefix).start(start).end(end);
                scan = scan.page_size(pages.size());
                if *keys_only {
                    scan = scan.keys_only();
                }
                if let Some(token) = token {
                    scan = scan.page_token(token);
                }
                scan.level(read.read.clone()).await
            };
            let most = if *keys_only { None } else { Some(values.max()) };
            let text = |page: &Page<KeyValue>, _| {
                page.items.iter().map(|item| row(item, most)).collect::<Vec<_>>().join("\n")
            };
            pages::show(pages, output, fetch, text).await?;
        }
    }
    Ok(Exit::Done)
}

fn value_of(value: Option<&str>, file: Option<&Path>) -> Result<Vec<u8>, Failure> {
    match (value, file) {
        (_, Some(file)) => std::fs::read(file)
            .map_err(|error| Failure::usage(format!("{}: {error}", file.display()))),
        (Some("-"), None) => Ok(input::read()?),
        (Some(value), None) => Ok(value.as_bytes().to_vec()),
        (None, None) => Err(Failure::usage("a value or --file is needed".to_owned())),
    }
}

fn changed(change: &KeyChange) -> String {
    let remark = if change.write.replayed { "  (stored before; nothing was done now)" } else { "" };
    format!("revision {}{remark}", change.revision)
}

/// One line for a value, or so much of it: text as it is if that is clear, else quoted. Without a bound, the
/// key alone.
fn row(item: &KeyValue, values_max: Option<usize>) -> String {
    let key = word(&item.key);
    let Some(most) = values_max else { return key.into_owned() };
    let value = &item.value;
    let text = std::str::from_utf8(value).ok();
    let mut end = value.len().min(most);
    while text.is_some_and(|text| !text.is_char_boundary(end)) {
        end -= 1;
    }
    let shown = match text {
        Some(text) => word(&text[..end]).into_owned(),
        None => format!("\"{}\"", value[..end].escape_ascii()),
    };
    if end == value.len() {
        return format!("{key}  {shown}");
    }
    format!("{key}  {shown}…  ({} bytes)", grouped(value.len() as u64))
}

async fn get(
    client: &Client,
    keys: &[String],
    values: Values,
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
        let items = batch.items.iter().map(|item| row(item, Some(values.max())));
        items.chain(missing).collect::<Vec<_>>().join("\n")
    })?;
    worth::tell(&batch.header, output);
    // As if each had been asked for alone.
    Ok(if batch.missing.is_empty() { Exit::Done } else { Exit::NotFound })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_cut_where_its_text_allows_and_binary_is_escaped() {
        let shown = |value: &[u8], most| {
            let value = bytes::Bytes::copy_from_slice(value);
            row(&KeyValue { key: "k".into(), value, ..Default::default() }, most)
        };
        assert_eq!(shown(b"hello", None), "k");
        assert_eq!(shown(b"hello", Some(5)), "k  hello");
        assert_eq!(shown(b"hello", Some(4)), "k  hell…  (5 bytes)");
        // Two bytes a letter: half of one is not shown.
        assert_eq!(shown("ääää".as_bytes(), Some(5)), "k  ää…  (8 bytes)");
        assert_eq!(shown(b"\xff\x00\x1b[2J", Some(2)), "k  \"\\xff\\x00\"…  (6 bytes)");
        assert_eq!((values_max("all"), values_max("0")), (Ok(usize::MAX), Ok(usize::MAX)));
        assert_eq!(values_max("80"), Ok(80));
        assert!(values_max("-1").is_err() && values_max("some").is_err());
    }
}
