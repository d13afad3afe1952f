//! Tally as the target, through its client library.

use std::sync::Arc;

use bytes::Bytes;
use tally_client::{
    Client, ReadLevel, Result,
    apply::Operation,
    history::{Part, Request},
};
use tokio::task::JoinSet;

use super::workload::{Step, account, counter, hot, key, needs_keys};
use crate::{
    args::Common,
    bench::args::{Bench, Workload},
    book::{Book, OBSERVER},
    output::Failure,
};

/// What every account holds at first; a transfer moves 1.
const ACCOUNT: i64 = 1_000_000;
/// Items that one atomic step prepares: within its 128 operations and 2 MiB.
const PREPARE_OPERATIONS: u64 = 128;
const PREPARE_BYTES: usize = 1024 * 1024;
/// Steps that prepare at once.
const PREPARE_TASKS: u64 = 16;

pub(crate) struct Target {
    clients: Vec<Client>,
    value: Bytes,
    level: ReadLevel,
    max_attempts: u32,
    book: Arc<Book>,
}

impl Target {
    pub(super) async fn connect(common: &Common, bench: &Bench) -> Result<Self, Failure> {
        let mut clients = Vec::new();
        for _ in 0..bench.connections {
            let builder = common.builder()?.deadline(common.deadline.0);
            clients.push(builder.transport(bench.transport.into()).connect().await?);
        }
        Ok(Self {
            clients,
            value: vec![b'v'; bench.value_size].into(),
            level: bench.read.read.clone(),
            max_attempts: bench.max_attempts.unwrap_or(u32::MAX),
            book: Arc::new(Book::open(bench.history.history.as_deref())?),
        })
    }

    pub(super) fn client(&self) -> &Client {
        &self.clients[0]
    }

    pub(super) async fn perform(&self, caller: usize, lane: u64, step: Step) -> Result<()> {
        let (client, book) = (&self.clients[caller % self.clients.len()], &self.book);
        match step {
            Step::AddHot | Step::Add(_) => {
                let name = if let Step::Add(item) = step { counter(item) } else { hot() };
                let add = client.counter(&name).add(1).max_attempts(self.max_attempts);
                book.call(lane, || Part::incr(name, 1).into(), add).await.map(drop)
            }
            Step::Put(item) => {
                let put = client.keys().put(key(item), self.value.clone());
                let put = put.max_attempts(self.max_attempts);
                let request = || Part::put(key(item), self.value.clone()).into();
                book.call(lane, request, put).await.map(drop)
            }
            Step::Get(item) => {
                let request = || Request::from(Part::read(key(item))).level(&self.level);
                let get = client.keys().get(key(item)).level(self.level.clone());
                let get = get.max_attempts(self.max_attempts);
                book.call(lane, request, get).await.map(drop)
            }
            Step::Transfer(from, to) => {
                let (from, to) = (account(from), account(to));
                let transfer = client
                    .apply()
                    .then(Operation::counter_add(&from, -1).floor(0))
                    .then(Operation::counter_add(&to, 1))
                    .max_attempts(self.max_attempts);
                let request = || Request::apply([Part::incr(from, -1).floor(0), Part::incr(to, 1)]);
                book.call(lane, request, transfer).await.map(drop)
            }
        }
    }

    /// Writes what the workload reads or takes from.
    pub(super) async fn prepare(&self, bench: &Bench) -> Result<(), Failure> {
        let make: fn(u64, &Bytes) -> (Operation, Part) = match bench.workload {
            workload if needs_keys(workload) => |item, value| {
                let part = Part::put(key(item), value.clone());
                (Operation::key_put(key(item), value.clone()), part)
            },
            Workload::ApplyTransfer => |item, _| {
                let part = Part::set(account(item), ACCOUNT);
                (Operation::counter_set(account(item), ACCOUNT), part)
            },
            _ => return Ok(()),
        };
        let by_bytes = (PREPARE_BYTES / (bench.value_size + 64)).max(1) as u64;
        let step = by_bytes.min(PREPARE_OPERATIONS);
        let spread = bench.spread;
        // Who cuts it short drops them.
        let mut tasks = JoinSet::new();
        for task in 0..PREPARE_TASKS {
            let (client, book) = (self.client().clone(), self.book.clone());
            let value = self.value.clone();
            tasks.spawn(async move {
                let firsts = (task * step..spread).step_by((step * PREPARE_TASKS) as usize);
                for first in firsts {
                    let mut apply = client.apply();
                    let mut parts = Vec::new();
                    for item in first..(first + step).min(spread) {
                        let (operation, part) = make(item, &value);
                        apply = apply.then(operation);
                        parts.push(part);
                    }
                    book.call(OBSERVER, || Request::apply(parts), apply).await?;
                }
                Ok::<(), tally_client::Error>(())
            });
        }
        while let Some(task) = tasks.join_next().await {
            task.map_err(|error| Failure::unable(error.to_string()))??;
        }
        Ok(())
    }

    /// Ends the sessions.
    pub(super) async fn end_sessions(&self) {
        for client in &self.clients {
            client.close().await;
        }
    }

    /// Ends the history, and says where it is.
    pub(super) async fn end_history(&self, bench: &Bench) -> Result<Option<String>, Failure> {
        self.last_look(bench).await?;
        Ok(self.book.close()?.map(|path| path.display().to_string()))
    }

    /// A history ends with what all the adds came to.
    async fn last_look(&self, bench: &Bench) -> Result<(), Failure> {
        /// Names that one batch read takes.
        const NAMES_MAX: u64 = 128;
        let names: Vec<String> = match bench.workload {
            Workload::AddHot => vec![hot()],
            Workload::AddSpread => (0..bench.spread.min(NAMES_MAX)).map(counter).collect(),
            Workload::ApplyTransfer => (0..bench.spread.min(NAMES_MAX)).map(account).collect(),
            Workload::Put | Workload::Get | Workload::Mixed => return Ok(()),
        };
        if bench.history.history.is_some() {
            let look = self.client().counters().batch_get(names.clone());
            self.book.call(OBSERVER, || Request::batch_get(names), look).await?;
        }
        Ok(())
    }
}
