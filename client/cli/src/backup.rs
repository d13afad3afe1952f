//! `tally backup` and `tally restore`.
//!
//! A backup is written beside its name, synced, read again from the disk and found right, and only then gets its name:
//! a file that is called as asked is a whole one.

mod choose;
mod store;

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde::Serialize;
use tally_client::{
    BackupStream, Client, RestorePhase, RestoreProgress,
    backup_format::{Footer, Header, Reader, SteadyFile},
};

use crate::{
    load::grouped,
    output::{Exit, Failure, Output, escaped, print, progress, progress_done},
    status::bytes,
};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Backup {
    #[command(subcommand)]
    command: Option<BackupFile>,
    /// The file to write; - is standard output. It has its name only once it is whole.
    #[arg(value_name = "FILE", required = true)]
    file: Option<PathBuf>,
    /// Replace the file if it exists.
    #[arg(long)]
    force: bool,
    /// Take it from the node at this address. Default: from a follower.
    #[arg(long, value_name = "HOST:PORT")]
    from: Option<String>,
    /// Take the node's state as it is, also where there is no quorum: what was acknowledged before may be missing.
    #[arg(long, requires = "from")]
    local: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BackupFile {
    /// Reads a backup whole and says whether all of it is right; needs no cluster.
    Verify(OfFile),
    /// Shows what a backup says of itself, after having read it whole; needs no cluster.
    Inspect(OfFile),
}

#[derive(Debug, Args)]
pub(crate) struct OfFile {
    /// The file, or s3://BUCKET/NAME.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    store: store::StoreOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The backup, or s3://BUCKET/NAME. It is read whole and found right before anything is restored.
    #[arg(value_name = "FILE", required_unless_present = "abort")]
    file: Option<PathBuf>,
    /// Take back what was restored so far by a restore that did not come to its end.
    #[arg(long, conflicts_with = "file")]
    abort: bool,
    #[command(flatten)]
    point: choose::Point,
    #[command(flatten)]
    store: store::StoreOptions,
}

/// What a backup is, for people and programs.
#[derive(Debug, Serialize)]
struct Known {
    file: String,
    file_bytes: u64,
    cluster_id: String,
    restore_epoch: u64,
    revision: u64,
    log_time_ms: u64,
    applied_index: u64,
    applied_term: u64,
    wall_time_ms: u64,
    node_version: String,
    counters: u64,
    keys: u64,
    idempotency_keys: u64,
    users: u64,
    authentication: bool,
    blocks: u64,
    records: u64,
    record_bytes: u64,
    state_hash: String,
    data_hash: String,
    content: String,
}

impl Known {
    fn new(path: &Path, file_bytes: u64, header: &Header, footer: &Footer) -> Self {
        Self {
            file: path.display().to_string(),
            file_bytes,
            cluster_id: format!("{:032x}", header.cluster_id),
            restore_epoch: header.restore_epoch,
            revision: header.revision,
            log_time_ms: header.log_time_ms,
            applied_index: header.applied_index,
            applied_term: header.applied_term,
            wall_time_ms: header.wall_time_ms,
            node_version: header.version.clone(),
            counters: header.counters,
            keys: header.keys,
            idempotency_keys: header.idempotency_keys,
            users: header.users,
            authentication: header.auth_enabled,
            blocks: footer.blocks,
            records: footer.records,
            record_bytes: footer.block_bytes,
            state_hash: hex(&footer.state_hash),
            data_hash: hex(&footer.data_hash),
            content: hex(&footer.content),
        }
    }

    fn short(&self) -> String {
        format!(
            "revision {}: counters: {}, keys: {}, remembered idempotency keys: {}, users: {}",
            self.revision,
            grouped(self.counters),
            grouped(self.keys),
            grouped(self.idempotency_keys),
            grouped(self.users)
        )
    }

    fn long(&self) -> String {
        let made_at = tally_certificates::date(self.wall_time_ms);
        let rows = [
            ("file", format!("{}, {}", escaped(&self.file), bytes(self.file_bytes))),
            ("of cluster", format!("{}, restore epoch {}", self.cluster_id, self.restore_epoch)),
            ("made at", format!("{made_at}, by a node of version {}", escaped(&self.node_version))),
            ("state at", format!("revision {}, log index {}", self.revision, self.applied_index)),
            ("counters", grouped(self.counters)),
            ("keys", grouped(self.keys)),
            ("idempotency keys", grouped(self.idempotency_keys)),
            (
                "users",
                format!(
                    "{}, authentication {}",
                    self.users,
                    if self.authentication { "on" } else { "off" }
                ),
            ),
            ("records", format!("{}, {}", grouped(self.records), bytes(self.record_bytes))),
            ("state hash", self.state_hash.clone()),
            ("data hash", self.data_hash.clone()),
            ("content", self.content.clone()),
        ];
        let rows = rows.map(|(name, value)| format!("{name:<18}{value}"));
        rows.join("\n")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn at(path: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::unable(format!("{}: {error}", escaped(&path.display().to_string())))
}

impl Backup {
    /// What needs no cluster.
    pub(crate) fn of_file(&self) -> Option<&BackupFile> {
        self.command.as_ref()
    }
}

pub(crate) async fn look(command: &BackupFile, output: Output) -> Result<Exit, Failure> {
    let (BackupFile::Verify(asked) | BackupFile::Inspect(asked)) = command;
    let known = match store::location(&asked.file)? {
        Some(location) => {
            let (store, name) = asked.store.open_object(&location)?;
            let checked = store::check(&store, &name).await?;
            Known::new(&asked.file, checked.bytes, &checked.header, &checked.footer)
        }
        None => verify(&asked.file)?.0,
    };
    match command {
        BackupFile::Verify(_) => output
            .result(&known, |known| format!("the backup is whole and right: {}", known.short())),
        BackupFile::Inspect(_) => output.result(&known, Known::long),
    }?;
    Ok(Exit::Done)
}

/// Reads a file whole.
fn verify(path: &Path) -> Result<(Known, Header, Footer), Failure> {
    let all = || {
        let (mut file, mut reader) = (File::open(path)?, Reader::new());
        while reader.next_block_of(&mut file)?.is_some() {}
        let bytes = reader.bytes();
        let (header, footer) = reader.finish()?;
        Ok((Known::new(path, bytes, &header, &footer), header, footer))
    };
    all().map_err(|error: io::Error| at(path, error))
}

pub(crate) async fn back_up(
    client: &Client,
    asked: &Backup,
    output: Output,
) -> Result<Exit, Failure> {
    let path = asked.file.as_deref().expect("clap asks for a file where there is no command");
    let to_stdout = path == Path::new("-");
    if !to_stdout && !asked.force && fs::symlink_metadata(path).is_ok() {
        let shown = escaped(&path.display().to_string());
        return Err(Failure::unable(format!("{shown} exists: --force replaces it")));
    }
    if to_stdout {
        let mut stream = open(client, asked).await?;
        while let Some(part) = stream.next().await? {
            print(&part.data)
                .map_err(|error| Failure::not_printed(&error, "the backup was not written"))?;
        }
        return Ok(Exit::Done);
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    // The file first: a node makes few backups at a time, and keeps a place for one that nobody fetches for a while.
    let mut file = SteadyFile::new(begin(&partial).map_err(|error| at(&partial, error))?);
    let mut stream = match open(client, asked).await {
        Ok(stream) => stream,
        Err(failure) => {
            // Nothing is in it. If it stays, the next attempt takes it away.
            let _ = fs::remove_file(&partial);
            return Err(failure);
        }
    };
    while let Some(part) = stream.next().await? {
        file.write_all(&part.data).map_err(|error| at(&partial, error))?;
        if let Some(percent) = (100 * part.done_bytes).checked_div(part.total_bytes) {
            progress(&format!("backup from {}: {percent} %", escaped(stream.address())));
        }
    }
    progress_done();
    file.finish().map_err(|error| at(&partial, error))?;
    let (known, ..) = verify(&partial)?;
    give_name(&partial, path, asked.force).map_err(|error| at(path, error))?;
    let known = Known { file: path.display().to_string(), ..known };
    output.result(&known, |known| {
        format!("wrote {} ({}) of {}", escaped(&known.file), bytes(known.file_bytes), known.short())
    })?;
    Ok(Exit::Done)
}

/// Asks a node for a backup.
async fn open(client: &Client, asked: &Backup) -> Result<BackupStream, Failure> {
    Ok(match &asked.from {
        Some(address) => client.backup_from(address, asked.local).await?,
        None => client.backup().await?,
    })
}

/// What an earlier attempt left is of no use. A backup has all that is stored: it is for its owner alone.
fn begin(partial: &Path) -> io::Result<File> {
    match fs::remove_file(partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(partial)
}

/// Gives the file its name, durably. Without `force` nothing is replaced, also not what somebody has made meanwhile.
fn give_name(partial: &Path, path: &Path, force: bool) -> io::Result<()> {
    if force {
        fs::rename(partial, path)?;
    } else {
        fs::hard_link(partial, path)?;
        fs::remove_file(partial)?;
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// What was restored.
#[derive(Debug, Serialize)]
struct Restored {
    cluster_id: String,
    revision: u64,
    backup: Known,
}

pub(crate) async fn restore(
    client: &Client,
    asked: &Restore,
    output: Output,
) -> Result<Exit, Failure> {
    if asked.abort {
        while client.abort_restore().await?.phase == RestorePhase::Aborting {
            progress("taking back what was restored");
        }
        progress_done();
        output.result(&serde_json::json!({ "aborted": true }), |_| {
            "what was restored is taken back: the cluster is empty".to_owned()
        })?;
        return Ok(Exit::Done);
    }
    let path = asked.file.as_deref().expect("clap asks for a file");
    let fetched = match store::location(path)? {
        Some(location) => Some(asked.point.object(location, &asked.store).await?),
        None => None,
    };
    let path = &match &fetched {
        Some(fetched) => fetched.file.path().to_owned(),
        None => asked.point.file(path)?,
    };
    let (mut backup, header, footer) = verify(path)?;
    if let Some(fetched) = &fetched {
        backup.file.clone_from(&fetched.from);
    }
    let begun = client.begin_restore(&header, &footer).await?;
    send(client, path, begun.next_block, &footer).await?;
    let RestoreProgress { header, .. } = client.finish_restore(&footer).await?;
    progress_done();
    let restored = Restored { cluster_id: header.cluster_id, revision: header.revision, backup };
    output.result(&restored, |restored| {
        format!(
            "restored {} into cluster {}\nrevisions go on above {}",
            restored.backup.short(),
            restored.cluster_id,
            restored.revision
        )
    })?;
    Ok(Exit::Done)
}

/// Sends the blocks from one on.
async fn send(client: &Client, path: &Path, from: u64, footer: &Footer) -> Result<(), Failure> {
    let mut file = File::open(path).map_err(|error| at(path, error))?;
    let mut reader = Reader::new();
    let (mut number, mut next) = (0, from);
    while let Some(block) = reader.next_block_of(&mut file).map_err(|error| at(path, error))? {
        if number >= next {
            next = client.restore_block(number, block).await?.next_block;
        }
        number += 1;
        progress(&format!("restored {number} of {} blocks", footer.blocks));
    }
    // Somebody who has changed the file meanwhile is found out, by the cluster too.
    reader.finish().map(drop).map_err(|error| at(path, error))
}
