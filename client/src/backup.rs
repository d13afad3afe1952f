//! Backups of a cluster, and restoring one.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tally_proto::{
    backup::{Footer, Header},
    v1::{self, backup_restore_request::Step},
};

use crate::{
    answer::Header as AnswerHeader,
    call::{Read, answers},
    client::Client,
    error::Result,
    node::Node,
    plan::Plan,
    routing::Target,
    shared::Shared,
};

/// How long to wait for a node that still makes the snapshot that a backup is read from.
const SNAPSHOT_POLL: Duration = Duration::from_millis(200);

/// A backup on its way: the bytes of one file, part by part, in the format of
/// [`backup_format`](crate::backup_format).
///
/// The node sends what is asked for and no more, so a slow reader holds nothing up; who does not ask for a minute has
/// to begin again. It is whole if [`next`](Self::next) has given `None`; check the file with
/// [`Reader`](crate::backup_format::Reader) before you rely on it.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use tally_client::backup_format::SteadyFile;
///
/// let mut backup = client.backup().await?;
/// let mut file = SteadyFile::new(std::fs::File::create("tally.backup.partial")?);
/// while let Some(part) = backup.next().await? {
///     file.write_all(&part.data)?;
/// }
/// file.finish()?;
/// # Ok(()) }
/// ```
pub struct BackupStream {
    shared: Arc<Shared>,
    node: Arc<Node>,
    backup_id: u64,
    part: u64,
    is_over: bool,
}

impl std::fmt::Debug for BackupStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackupStream").field("node", &self.node.address).finish_non_exhaustive()
    }
}

/// A part of a backup.
///
/// ```no_run
/// # async fn example(mut backup: tally_client::BackupStream) -> tally_client::Result<()> {
/// while let Some(part) = backup.next().await? {
///     eprintln!("{} of {} bytes", part.done_bytes, part.total_bytes);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BackupPart {
    /// The next bytes of the file.
    pub data: Bytes,
    /// Bytes of the node's snapshot that were read for it and for those before …
    pub done_bytes: u64,
    /// … of so many. (The backup itself is compressed, and nobody knows how long it will be.)
    pub total_bytes: u64,
}

impl BackupStream {
    /// The node that it comes from.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// eprintln!("from {}", client.backup().await?.address());
    /// # Ok(()) }
    /// ```
    pub fn address(&self) -> &str {
        &self.node.address
    }

    /// The next part; `None` after the last. Dropped before its end, it may be called again.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let mut backup = client.backup().await?;
    /// let first = backup.next().await?;
    /// # Ok(()) }
    /// ```
    pub async fn next(&mut self) -> Result<Option<BackupPart>> {
        while !self.is_over {
            let request = v1::BackupReadRequest { backup_id: self.backup_id, part: self.part };
            let plan = at(&self.node);
            let answer: v1::BackupReadResponse = self.shared.drive(request, plan).await?;
            if answer.data.is_empty() && !answer.last {
                tokio::time::sleep(SNAPSHOT_POLL).await;
                continue;
            }
            self.part += 1;
            self.is_over = answer.last;
            return Ok(Some(BackupPart {
                data: answer.data,
                done_bytes: answer.done_bytes,
                total_bytes: answer.total_bytes,
            }));
        }
        Ok(None)
    }
}

/// A plan for one node alone.
fn at(node: &Arc<Node>) -> Plan {
    Plan { any_node: true, only: Some(Arc::clone(node)), ..Plan::default() }
}

/// How far the restore of a backup is.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// while client.abort_restore().await?.phase != tally_client::RestorePhase::Nothing {}
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RestoreProgress {
    /// Which node did the step, and the revision that it came to. (The revision of a node's status may be from before: it
    /// is what that node has applied.)
    pub header: AnswerHeader,
    /// What it waits for.
    pub phase: RestorePhase,
    /// The block that is to be sent next.
    pub next_block: u64,
}

/// What a restore waits for.
///
/// ```
/// assert_ne!(tally_client::RestorePhase::UnderWay, tally_client::RestorePhase::Done);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestorePhase {
    /// There is none, or it was taken back.
    Nothing,
    /// Blocks.
    UnderWay,
    /// More calls to take it back.
    Aborting,
    /// It is done.
    Done,
}

impl Client {
    /// Begins a backup from a follower, or from whichever node answers if there is none.
    ///
    /// It is the state at one revision, not older than what was acknowledged when this is called. It takes the right
    /// `admin`.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let mut backup = client.backup().await?;
    /// # Ok(()) }
    /// ```
    pub async fn backup(&self) -> Result<BackupStream> {
        let status = self.status().await?;
        let follower = status.nodes.iter().filter(|node| {
            node.reachable && node.is_voter && node.id != node.leader_id && !node.address.is_empty()
        });
        let nearest = follower.min_by_key(|node| node.lag_entries);
        let node = match nearest {
            Some(node) => Arc::new(Node::new(node.address.clone())),
            None => self.shared.router.pick(Target::Any),
        };
        match self.backup_of(node, false).await {
            // Members may go by addresses that can't be reached from here.
            Err(_) if nearest.is_some() => {
                self.backup_of(self.shared.router.pick(Target::Any), false).await
            }
            begun => begun,
        }
    }

    /// Begins a backup from the node at an address. With `local` it takes that node's state as it is, also where there
    /// is no quorum: what was acknowledged before may be missing.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let mut backup = client.backup_from("10.0.0.3:7401", true).await?;
    /// # Ok(()) }
    /// ```
    pub async fn backup_from(&self, address: &str, local: bool) -> Result<BackupStream> {
        self.backup_of(Arc::new(Node::new(address.to_owned())), local).await
    }

    async fn backup_of(&self, node: Arc<Node>, local: bool) -> Result<BackupStream> {
        let request = v1::BackupOpenRequest { local };
        let answer: v1::BackupOpenResponse = self.shared.drive(request, at(&node)).await?;
        let shared = Arc::clone(&self.shared);
        Ok(BackupStream { shared, node, backup_id: answer.backup_id, part: 0, is_over: false })
    }

    /// Begins to restore a backup into this cluster, which must be empty; or says how far that is, if it was begun
    /// before. Header and footer are the backup's, as a [`Reader`](crate::backup_format::Reader) has found them.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use tally_client::backup_format::Reader;
    ///
    /// let file = std::fs::read("tally.backup")?;
    /// let mut reader = Reader::new();
    /// reader.give(&file);
    /// let mut blocks = Vec::new();
    /// while let Some(block) = reader.next_block()? {
    ///     blocks.push(block);
    /// }
    /// let (header, footer) = reader.finish()?;
    ///
    /// let next = client.begin_restore(&header, &footer).await?.next_block;
    /// for (number, block) in (0..).zip(blocks).skip(next as usize) {
    ///     client.restore_block(number, block).await?;
    /// }
    /// client.finish_restore(&footer).await?;
    /// # Ok(()) }
    /// ```
    pub fn begin_restore(
        &self,
        header: &Header,
        footer: &Footer,
    ) -> Read<v1::BackupRestoreRequest> {
        self.restore_step(Step::Begin(v1::BackupRestoreBegin {
            content: Bytes::copy_from_slice(&footer.content),
            blocks: footer.blocks,
            restore_epoch: header.restore_epoch,
            revision: header.revision,
            log_time_ms: header.log_time_ms,
            auth_enabled: header.auth_enabled,
            auth_last_id: header.auth_last_id,
        }))
    }

    /// Restores one block, the one that is awaited. One from before is left alone, and one from behind is refused. See
    /// [`begin_restore`](Self::begin_restore).
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client, block: bytes::Bytes) -> tally_client::Result<()> {
    /// let next = client.restore_block(0, block).await?.next_block;
    /// # Ok(()) }
    /// ```
    pub fn restore_block(&self, number: u64, payload: Bytes) -> Read<v1::BackupRestoreRequest> {
        self.restore_step(Step::Block(v1::BackupRestoreBlock { number, payload }))
    }

    /// Ends a restore: from here on the cluster is the one that was backed up. Refused unless all blocks are there and
    /// are the backup's. See [`begin_restore`](Self::begin_restore).
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client, footer: tally_client::backup_format::Footer)
    /// # -> tally_client::Result<()> {
    /// client.finish_restore(&footer).await?;
    /// # Ok(()) }
    /// ```
    pub fn finish_restore(&self, footer: &Footer) -> Read<v1::BackupRestoreRequest> {
        self.restore_step(Step::Finish(Bytes::copy_from_slice(&footer.content)))
    }

    /// Takes back some of a restore that did not come to its end; until the phase is
    /// [`Nothing`](RestorePhase::Nothing) there is more.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// while client.abort_restore().await?.phase == tally_client::RestorePhase::Aborting {}
    /// # Ok(()) }
    /// ```
    pub fn abort_restore(&self) -> Read<v1::BackupRestoreRequest> {
        self.restore_step(Step::Abort(true))
    }

    fn restore_step(&self, step: Step) -> Read<v1::BackupRestoreRequest> {
        Read::new(self, v1::BackupRestoreRequest { step: Some(step) })
    }
}

answers! {
    Read<v1::BackupRestoreRequest> -> RestoreProgress:
        |answer: v1::BackupRestoreResponse| RestoreProgress {
            phase: match answer.phase() {
                v1::BackupRestorePhase::UnderWay => RestorePhase::UnderWay,
                v1::BackupRestorePhase::Aborting => RestorePhase::Aborting,
                v1::BackupRestorePhase::Done => RestorePhase::Done,
                v1::BackupRestorePhase::Nothing | v1::BackupRestorePhase::Unspecified => {
                    RestorePhase::Nothing
                }
            },
            next_block: answer.next_block,
            header: AnswerHeader::of(answer.header),
        };
}
