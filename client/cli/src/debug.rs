//! `tally debug bundle`: what explains a cluster to somebody who can't look at it, in one archive.
//!
//! It asks one node, which asks the others, and takes what comes. What does not come is in the manifest, with the
//! reason: an archive of half a cluster is what there is to have when half of it is gone. Nothing of this machine is
//! in it but the version of this program. What nodes leave out by themselves is told in docs/command-line.md.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use flate2::{Compression, write::GzEncoder};
use futures_util::future::join_all;
use serde::Serialize;
use serde_json::json;
use tally_client::{Client, Code, Error, Status};

use crate::{
    output::{Exit, Failure, Output, escaped, print},
    status::bytes,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Debug {
    /// Gathers status, metrics, configuration without secrets, recent logs, storage layout and versions of all nodes
    /// that answer into one archive (tar.gz). It takes a role that is admin.
    Bundle(Bundle),
}

#[derive(Debug, Args)]
pub(crate) struct Bundle {
    /// The file to write, which must not exist; - is standard output. Default: a name with the cluster and the
    /// time, in this directory.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What is in the archive, and what is not.
#[derive(Debug, Serialize)]
struct Manifest {
    /// Of this file: readers know by it what to expect.
    format: u32,
    cluster_id: String,
    /// The node that was asked for the others.
    asked_node_id: u64,
    created_wall_time_ms: u64,
    tally_version: &'static str,
    files: Vec<Listed>,
    missing: Vec<Missing>,
}

#[derive(Debug, Serialize)]
struct Listed {
    path: String,
    bytes: usize,
}

/// What could not be had, or not whole.
#[derive(Debug, Clone, Serialize)]
struct Missing {
    what: String,
    why: String,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Written {
    file: String,
    bytes: usize,
    /// Nodes that told something.
    nodes: usize,
    missing: Vec<Missing>,
}

/// What was gathered.
#[derive(Debug, Default)]
struct Gathered {
    files: Vec<(String, String)>,
    missing: Vec<Missing>,
    nodes: usize,
}

impl Gathered {
    fn take(&mut self, path: String, text: String, problem: &str) {
        if !problem.is_empty() {
            self.miss(&path, problem);
        }
        if !text.is_empty() || problem.is_empty() {
            self.files.push((path, text));
        }
    }

    fn miss(&mut self, what: &str, why: &str) {
        self.missing.push(Missing { what: what.to_owned(), why: why.to_owned() });
    }
}

pub(crate) async fn run(client: &Client, command: &Debug, output: Output) -> Result<Exit, Failure> {
    let Debug::Bundle(bundle) = command;
    let status = client.status().await?;
    let now_ms = tally_certificates::now_ms();
    let Gathered { files, missing, nodes } = gather(client, &status).await?;
    let folder = format!("tally-debug-{}-{}", short(&status.header.cluster_id), now_ms / 1000);
    let manifest = Manifest {
        format: 1,
        cluster_id: status.header.cluster_id.clone(),
        asked_node_id: status.header.node_id,
        created_wall_time_ms: now_ms,
        tally_version: crate::version::LINE,
        files: files
            .iter()
            .map(|(path, text)| Listed { path: path.clone(), bytes: text.len() })
            .collect(),
        missing: missing.clone(),
    };
    let manifest = format!("{:#}\n", json!(manifest));
    let archive = archive(&folder, now_ms / 1000, &manifest, &files)
        .map_err(|error| Failure::unable(format!("the archive can't be made: {error}")))?;
    let path = match &bundle.out {
        Some(path) if path == Path::new("-") => {
            print(&archive).map_err(|error| {
                Failure::not_printed(&error, "the archive could not be written")
            })?;
            return Ok(Exit::Done);
        }
        Some(path) => path.clone(),
        None => PathBuf::from(format!("{folder}.tar.gz")),
    };
    write(&path, &archive)
        .map_err(|error| Failure::unable(format!("{}: {error}", path.display())))?;
    let file = path.display().to_string();
    output.result(&Written { file, bytes: archive.len(), nodes, missing }, show)?;
    Ok(Exit::Done)
}

/// A name that can be part of a file's.
fn short(cluster_id: &str) -> String {
    let short: String = cluster_id.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    if short.is_empty() { "unknown".to_owned() } else { short }
}

async fn gather(client: &Client, status: &Status) -> Result<Gathered, Failure> {
    let mut gathered = Gathered::default();
    let health = status.health();
    let shown = json!({ "health": health, "status": status });
    gathered.take("status.json".to_owned(), format!("{shown:#}\n"), "");
    let answers = join_all(status.nodes.iter().map(async |node| {
        // A node that did not answer just now is asked all the same: it may be slow.
        let diagnosis = client.diagnose(node.id).max_attempts(1);
        let metrics = client.metrics(node.id).max_attempts(1);
        tokio::join!(diagnosis.into_future(), metrics.into_future())
    }))
    .await;
    for (node, (diagnosis, metrics)) in status.nodes.iter().zip(answers) {
        let folder = format!("nodes/{}", node.id);
        let mut told = false;
        match metrics {
            Ok(answer) => {
                told |= answer.problem.is_empty();
                gathered.take(format!("{folder}/metrics.txt"), answer.text, &answer.problem);
            }
            Err(error) => gathered.miss(&format!("{folder}/metrics.txt"), &why(&error)),
        }
        match diagnosis {
            Ok(answer) if answer.problem.is_empty() => {
                told = true;
                for file in answer.files {
                    let path = format!("{folder}/{}", file_name(&file.name));
                    gathered.take(path, file.text, &file.problem);
                }
            }
            Ok(answer) => gathered.miss(&folder, &answer.problem),
            // Who may not ask one may ask none.
            Err(error) if error.code() == Code::PermissionDenied => return Err(error.into()),
            Err(error) => gathered.miss(&folder, &why(&error)),
        }
        gathered.nodes += usize::from(told);
    }
    Ok(gathered)
}

fn why(error: &Error) -> String {
    match error.code() {
        Code::Unimplemented => "the asked node is too old to tell it".to_owned(),
        _ => format!("{} ({})", error.message(), error.reason()),
    }
}

/// A node says what its files are called, not where they go.
fn file_name(name: &str) -> String {
    let is_plain =
        |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_');
    let name: String = name.chars().map(|it| if is_plain(it) { it } else { '_' }).collect();
    let name = name.trim_start_matches('.');
    if name.is_empty() { "unnamed".to_owned() } else { name.to_owned() }
}

fn archive(
    folder: &str,
    seconds: u64,
    manifest: &str,
    files: &[(String, String)],
) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let manifest = ("manifest.json", manifest);
    let files = files.iter().map(|(path, text)| (path.as_str(), text.as_str()));
    for (path, text) in std::iter::once(manifest).chain(files) {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(seconds);
        archive.append_data(&mut header, format!("{folder}/{path}"), text.as_bytes())?;
    }
    archive.into_inner()?.finish()
}

/// Makes the file, for its owner alone. What is there already stays.
fn write(path: &Path, archive: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(archive).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half an archive is none.
        let _ = fs::remove_file(path);
    }
    written
}

fn show(written: &Written) -> String {
    let Written { file, bytes: size, nodes, missing } = written;
    let mut text = format!("{}: {}, of {nodes} nodes", escaped(file), bytes(*size as u64));
    if !missing.is_empty() {
        text += "\nnot in it, or not whole:";
    }
    for Missing { what, why } in missing {
        text += &format!("\n  {}: {}", escaped(what), escaped(why));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_can_not_say_where_a_file_goes() {
        assert_eq!(file_name("config.toml"), "config.toml");
        assert_eq!(file_name("../../.ssh/keys"), "_.._.ssh_keys");
        assert_eq!(file_name(".."), "unnamed");
        assert_eq!(short("../c0-ffee1234567"), "c0ffee12");
        assert_eq!(short(""), "unknown");
    }

    #[test]
    fn what_is_there_already_stays() {
        let path = std::env::temp_dir().join(format!("tally-bundle-{}", std::process::id()));
        write(&path, b"one").unwrap();
        let again = write(&path, b"two").unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
    }
}
