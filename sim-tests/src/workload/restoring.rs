//! An operator who backs the cluster up and restores the backup into another, empty one, whose nodes break meanwhile.
//!
//! **What is judged.** What the other cluster holds then is read there, all of it, and recorded as a linearizable read of
//! the first one: it began before the backup was asked for, and is of the backup's revision. So the judge of histories
//! finds what is missing, what is there twice, what is of another revision than the backup says, and a backup that is
//! older than what was acknowledged before it was asked for. Nothing else has to be modelled.
//!
//! **The other cluster** has no users. After the reads the operator alone sends it what was written under idempotency
//! keys before ([`keyed`]). What is written after a restore else is `audit`'s and the processes' tests'
//! (`node/tests/process/restore.rs`).

mod keyed;

use std::{cell::Cell, rc::Rc, time::Duration};

use bytes::Bytes;
use tally_client::{
    Client, Error, ReadLevel, RestorePhase, Result,
    backup_format::{Footer, Header, Reader, Unreadable},
    history::{Pending, Record, Request, Told},
    reason,
};

use self::keyed::Keyed;
use super::Workload;
use crate::{
    cluster::Cluster,
    env::{connect_client, mix},
    trace_event,
};

/// Its turmoil host.
pub(crate) const HOST: &str = "restorer";
/// Its number among clients.
const RESTORER: u64 = 1_005;
/// Pause after what did not work.
const PAUSE: Duration = Duration::from_millis(150);
/// For one call to the other cluster: less than most of its power cuts last, so that the operator, and not only the
/// library, goes on where it was.
const PATIENCE: Duration = Duration::from_millis(800);
/// Names in one read.
const NAMES: usize = 64;

/// A restore: what is asked for, and how far it is.
#[derive(Debug, Default)]
pub(crate) struct Restoring {
    /// Nodes of the other cluster.
    pub(crate) addresses: Vec<String>,
    /// It is taken back once, half-way, and begun anew.
    pub(crate) is_taken_back: Cell<bool>,
    /// It was.
    pub(crate) was_taken_back: Cell<bool>,
    /// Calls that were made there, whatever came of them.
    pub(crate) steps: Cell<u64>,
    /// It has begun again after a call that failed.
    pub(crate) began_again: Cell<bool>,
    /// All was restored, read and recorded.
    pub(crate) is_done: Cell<bool>,
    /// It is being taken back.
    pub(crate) takes_back: Cell<bool>,
    /// All blocks were sent, and what came of the end is not known.
    pub(crate) may_be_finished: Cell<bool>,
}

/// A backup, read whole.
struct Backup {
    header: Header,
    footer: Footer,
    blocks: Vec<Bytes>,
}

/// What is read after a restore, as what the backup was made of.
struct AsOf<'a, T> {
    found: &'a T,
    header: &'a Header,
}

impl<T: Told> Told for AsOf<'_, T> {
    fn tell(&self, record: &mut Record) {
        self.found.tell(record);
        record.applied = Some(self.header.applied_index);
        record.revision = Some(self.header.revision);
        // Said of the other cluster.
        (record.node, record.term, record.staleness_ms) = (None, None, None);
    }
}

/// Reads that begin before the backup.
struct Reads {
    of_counters: Vec<(Vec<String>, Pending)>,
    of_keys: Vec<(Vec<String>, Pending)>,
}

impl Workload {
    /// All of it, until it has worked.
    pub(crate) async fn restore(self, cluster: Cluster, restoring: Rc<Restoring>) {
        let client = cluster.client(RESTORER).deadline(Duration::from_secs(5)).build();
        let client = client.expect("the settings are valid");
        let mut keyed = Keyed::default();
        keyed.write(&self, &client, 4).await;
        let (reads, backup) = loop {
            let reads = self.begin_reads();
            match back_up(&client).await {
                Ok(Ok(backup)) => break (reads, backup),
                Ok(Err(unreadable)) => {
                    self.shared.book.wrong(format!("a backup can't be read: {unreadable}"));
                    return;
                }
                Err(error) => self.give_up_reads(reads, error),
            }
            tokio::time::sleep(PAUSE).await;
        };
        let header = &backup.header;
        trace_event!(HOST, "has a backup at revision {}", header.revision);
        keyed.write(&self, &client, 3).await;
        self.restore_where_something_is(&client, &backup).await;
        let other = Client::builder(restoring.addresses.clone())
            .seed(mix(self.shared.seed, &[0x4e57, 1]))
            .connector(connect_client)
            .deadline(PATIENCE)
            .build()
            .expect("the settings are valid");
        while let Err(error) = restoring.attempt(&other, &backup).await {
            trace_event!(HOST, "{} at step {}", error.reason(), restoring.steps.get());
            let is_refused = [reason::RESTORE_REFUSED, reason::CLUSTER_NOT_EMPTY];
            if is_refused.contains(&error.reason()) {
                let what = format!("an empty cluster refuses a backup: {error}");
                self.shared.book.wrong(what);
                return;
            }
            restoring.began_again.set(true);
            tokio::time::sleep(PAUSE).await;
        }
        trace_event!(HOST, "has restored {} blocks", backup.blocks.len());
        self.read_all(&other, reads, header).await;
        keyed.send_again(&self, &other, header, &restoring).await;
        restoring.is_done.set(true);
    }

    fn begin_reads(&self) -> Reads {
        let level = ReadLevel::Linearizable;
        let begin = |request: Request| self.shared.book.begin(RESTORER, request.level(&level));
        let of_counters = self.counters();
        let of_counters = of_counters
            .chunks(NAMES)
            .map(|names| (names.to_vec(), begin(Request::batch_get(names.iter().cloned()))));
        let of_keys = self.keys();
        let of_keys = of_keys
            .chunks(NAMES)
            .map(|names| (names.to_vec(), begin(Request::batch_read(names.iter().cloned()))));
        Reads { of_counters: of_counters.collect(), of_keys: of_keys.collect() }
    }

    fn give_up_reads(&self, reads: Reads, error: Error) {
        trace_event!(HOST, "has no backup yet: {}", error.reason());
        let nothing: Result<tally_client::Batch<tally_client::CounterValue>> = Err(error);
        for (_, pending) in reads.of_counters.into_iter().chain(reads.of_keys) {
            self.shared.book.finish(pending, &nothing);
        }
    }

    /// What an operator does who has mistaken the one for the other.
    async fn restore_where_something_is(&self, client: &Client, backup: &Backup) {
        match client.begin_restore(&backup.header, &backup.footer).await {
            Ok(_) => {
                self.shared.book.wrong("a backup is restored over what is there".to_owned());
            }
            Err(error) if error.reason() == reason::CLUSTER_NOT_EMPTY => {
                self.shared.book.happened("restore over what is there refused");
            }
            Err(error) => trace_event!(HOST, "over what is there: {}", error.reason()),
        }
    }

    async fn read_all(&self, other: &Client, reads: Reads, header: &Header) {
        for (names, pending) in reads.of_counters {
            loop {
                match other.counters().batch_get(names.clone()).await {
                    Ok(found) => {
                        let told = AsOf { found: &found, header };
                        self.shared.book.finish_told(pending, told);
                        break;
                    }
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
        }
        for (names, pending) in reads.of_keys {
            loop {
                match other.keys().batch_get(names.clone()).await {
                    Ok(found) => {
                        let told = AsOf { found: &found, header };
                        self.shared.book.finish_told(pending, told);
                        break;
                    }
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
        }
    }
}

/// The file, and what is wrong with it if it can't be read.
async fn back_up(client: &Client) -> Result<std::result::Result<Backup, String>> {
    let mut stream = client.backup().await?;
    let mut reader = Reader::new();
    while let Some(part) = stream.next().await? {
        reader.give(&part.data);
    }
    Ok(read(reader).map_err(|unreadable| unreadable.to_string()))
}

fn read(mut reader: Reader) -> std::result::Result<Backup, Unreadable> {
    let mut blocks = Vec::new();
    while let Some(block) = reader.next_block()? {
        blocks.push(block);
    }
    let (header, footer) = reader.finish()?;
    Ok(Backup { header, footer, blocks })
}

impl Restoring {
    /// From wherever it is, as far as it goes.
    async fn attempt(&self, other: &Client, backup: &Backup) -> Result<()> {
        if self.may_be_finished.get() {
            self.step();
            other.finish_restore(&backup.footer).await?;
            return Ok(());
        }
        if self.takes_back.get() {
            self.take_back(other).await?;
        }
        self.step();
        let begun = other.begin_restore(&backup.header, &backup.footer).await?;
        for (number, block) in (0..).zip(&backup.blocks).skip(begun.next_block as usize) {
            self.step();
            other.restore_block(number, block.clone()).await?;
            if number as usize >= backup.blocks.len() / 2 && self.is_taken_back.take() {
                trace_event!(HOST, "takes back what was restored");
                self.takes_back.set(true);
                self.take_back(other).await?;
                return Box::pin(self.attempt(other, backup)).await;
            }
        }
        self.may_be_finished.set(true);
        self.step();
        other.finish_restore(&backup.footer).await?;
        Ok(())
    }

    /// Where the answer to the last call was lost there is nothing left to take back.
    async fn take_back(&self, other: &Client) -> Result<()> {
        loop {
            self.step();
            match other.abort_restore().await {
                Ok(progress) if progress.phase == RestorePhase::Aborting => {}
                Ok(_) => break,
                Err(error) if error.reason() == reason::RESTORE_REFUSED => break,
                Err(error) => return Err(error),
            }
        }
        self.takes_back.set(false);
        self.was_taken_back.set(true);
        Ok(())
    }

    fn step(&self) {
        self.steps.set(self.steps.get() + 1);
    }
}
