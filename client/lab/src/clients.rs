//! The clients that run by themselves: each asks one node for one thing, again and again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{task::AbortHandle, time::MissedTickBehavior};

use crate::{
    calls::{Ask, Level},
    lab::{Call, Lab},
    links::lock,
};

/// More are no longer to be told apart on a screen.
const CLIENTS_MAX: usize = 32;

/// The most that a client may ask in a second; it asks one thing after the other.
const PER_SECOND_MAX: u32 = 500;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_millis(1_000);

/// A client, as it is asked for and shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Client {
    /// Given by the lab.
    #[serde(default)]
    pub(crate) id: u64,
    /// Reads at this level; empty: it writes.
    #[serde(default)]
    pub(crate) level: String,
    /// The node that it asks.
    pub(crate) node: u64,
    #[serde(default = "per_second")]
    pub(crate) per_second: u32,
    #[serde(default = "counter")]
    pub(crate) counter: String,
}

fn per_second() -> u32 {
    5
}

pub(crate) fn counter() -> String {
    "hits".to_owned()
}

#[derive(Default)]
pub(crate) struct Clients {
    last: AtomicU64,
    running: Mutex<BTreeMap<u64, (Client, AbortHandle)>>,
}

impl Clients {
    pub(crate) fn shown(&self) -> Vec<Client> {
        lock(&self.running).values().map(|(client, _)| client.clone()).collect()
    }

    /// Ends one, or all.
    pub(crate) fn remove(&self, id: Option<u64>) {
        lock(&self.running).retain(|known, (_, task)| {
            let goes = id.is_none_or(|id| id == *known);
            if goes {
                task.abort();
            }
            !goes
        });
    }

    /// Starts one, and says its number.
    pub(crate) fn add(lab: &Arc<Lab>, mut client: Client) -> Result<u64, String> {
        if !lab.nodes.has(client.node) {
            return Err(format!("there is no node {}", client.node));
        }
        if !(1..=PER_SECOND_MAX).contains(&client.per_second) {
            return Err(format!("per_second: 1 to {PER_SECOND_MAX}"));
        }
        if !client.level.is_empty() {
            Level::parse(&client.level, Vec::new())?;
        }
        let clients = &lab.clients;
        let mut running = lock(&clients.running);
        if running.len() >= CLIENTS_MAX {
            return Err(format!("{CLIENTS_MAX} clients are enough"));
        }
        client.id = clients.last.fetch_add(1, Ordering::Relaxed) + 1;
        let task = tokio::spawn(run(Arc::clone(lab), client.clone())).abort_handle();
        let id = client.id;
        running.insert(id, (client, task));
        Ok(id)
    }
}

async fn run(lab: Arc<Lab>, client: Client) {
    let mut turns = tokio::time::interval(Duration::from_secs(1) / client.per_second);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut token = Vec::new();
    loop {
        turns.tick().await;
        let ask = match client.level.as_str() {
            "" => Ask::Add { delta: 1, key: None },
            level => {
                Ask::Get { level: Level::parse(level, token.clone()).expect("it was read before") }
            }
        };
        let Client { id, node, ref counter, .. } = client;
        let call = Call { client: id, node, counter, ask: &ask, patience: PATIENCE };
        let (record, newest) = lab.call_for_token(call).await;
        if record.header.is_some() {
            token = newest;
        }
    }
}

/// As hexadecimal digits.
pub(crate) fn digits_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What those stand for.
pub(crate) fn bytes_of(hexadecimal: &str) -> Option<Vec<u8>> {
    if !hexadecimal.is_ascii() || !hexadecimal.len().is_multiple_of(2) {
        return None;
    }
    let pairs = (0..hexadecimal.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(&hexadecimal[at..at + 2], 16).ok()).collect()
}
