//! All of a lab: the cluster, the links, the clients, and what happened.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::Serialize;
use tokio::{sync::watch, time::Instant};

use crate::{
    calls::{Answer, Ask, Calls},
    clients::Clients,
    links::{Links, lock},
    nodes::Nodes,
    record::{Acknowledged, Came, Record},
    watching::{self, Watched},
};

/// So many records are kept: ten seconds of the fastest lab.
const RECORDS_MAX: usize = 20_000;

/// So many lines of what happened are kept.
const LINES_MAX: usize = 2_000;

/// A line of what happened: of a node's log, or what was done in the lab.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    pub(crate) seq: u64,
    /// When the lab knew of it, in ms since it began.
    pub(crate) at: f64,
    /// Whose log; 0: what was done here.
    pub(crate) node: u64,
    pub(crate) text: String,
}

/// What happened, oldest first.
#[derive(Default)]
pub(crate) struct Journal {
    records: VecDeque<Record>,
    lines: VecDeque<Line>,
    records_told: u64,
    lines_told: u64,
    /// Records before this do not count in the meters.
    pub(crate) measured_from: f64,
}

impl Journal {
    /// Those after a number, at most so many: the newest.
    pub(crate) fn records_after(&self, seq: u64, most: usize) -> Vec<Record> {
        let newer = self.records.iter().rev().take_while(|record| record.seq > seq);
        let mut newer: Vec<_> = newer.take(most).cloned().collect();
        newer.reverse();
        newer
    }

    pub(crate) fn lines_after(&self, seq: u64) -> Vec<Line> {
        let newer = self.lines.iter().rev().take_while(|line| line.seq > seq);
        let mut newer: Vec<_> = newer.cloned().collect();
        newer.reverse();
        newer
    }

    /// Those that ended at this time or later, newest first.
    pub(crate) fn records_since(&self, at: f64) -> impl Iterator<Item = &Record> {
        self.records.iter().rev().take_while(move |record| record.end >= at)
    }
}

pub(crate) struct Lab {
    began: Instant,
    pub(crate) links: Arc<Links>,
    pub(crate) nodes: Nodes,
    pub(crate) calls: Calls,
    pub(crate) journal: Mutex<Journal>,
    acknowledged: Mutex<BTreeMap<String, Acknowledged>>,
    pub(crate) watched: Mutex<BTreeMap<u64, Watched>>,
    pub(crate) clients: Clients,
    /// The newest state, as JSON.
    pub(crate) state: watch::Sender<Arc<str>>,
}

/// Who asks what of whom.
pub(crate) struct Call<'a> {
    pub(crate) client: u64,
    pub(crate) node: u64,
    pub(crate) counter: &'a str,
    pub(crate) ask: &'a Ask,
    pub(crate) patience: Duration,
}

impl Lab {
    /// Starts the nodes, and looks at them from then on.
    pub(crate) async fn start(nodes: u64, tallyd: &Path) -> io::Result<Arc<Lab>> {
        let links = Arc::new(Links::new(nodes));
        let nodes = Nodes::start(nodes, &links, tallyd).await?;
        let lab = Arc::new(Lab {
            began: Instant::now(),
            links,
            nodes,
            calls: Calls::default(),
            journal: Mutex::default(),
            acknowledged: Mutex::default(),
            watched: Mutex::default(),
            clients: Clients::default(),
            state: watch::Sender::new("{}".into()),
        });
        for id in lab.nodes.ids() {
            tokio::spawn(watching::watch(Arc::clone(&lab), id));
        }
        Ok(lab)
    }

    /// In ms since the lab began.
    pub(crate) fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64() * 1000.0
    }

    /// Adds a line of what happened.
    pub(crate) fn tell(&self, node: u64, text: impl Into<String>) {
        let at = self.now();
        let mut journal = lock(&self.journal);
        journal.lines_told += 1;
        let seq = journal.lines_told;
        if journal.lines.len() == LINES_MAX {
            journal.lines.pop_front();
        }
        journal.lines.push_back(Line { seq, at, node, text: text.into() });
    }

    /// Makes a call, and records it.
    pub(crate) async fn call(&self, call: Call<'_>) -> Record {
        self.call_for_token(call).await.0
    }

    /// The same, with the session token of its answer: that is for whoever asked, and no part of the record.
    pub(crate) async fn call_for_token(&self, call: Call<'_>) -> (Record, Vec<u8>) {
        let Call { client, node, counter, ask, patience } = call;
        let start = self.now();
        let address = self.nodes.addresses(node).client_via;
        let mut answer = self.calls.ask(address, counter, ask, patience).await;
        let end = self.now();
        let (kind, asked) = match ask {
            Ask::Add { .. } => ("add", String::new()),
            Ask::Get { level } => ("get", level.shown()),
        };
        let seen_ms = self.judge(counter, ask, &mut answer, (start, end));
        let mut record = Record {
            seq: 0,
            client,
            node,
            kind,
            counter: counter.to_owned(),
            asked,
            start,
            end,
            came: answer.came,
            code: answer.code,
            reason: answer.reason,
            message: answer.message,
            value: answer.value,
            replayed: answer.replayed,
            header: answer.header,
            seen_ms,
        };
        let mut journal = lock(&self.journal);
        journal.records_told += 1;
        record.seq = journal.records_told;
        if journal.records.len() == RECORDS_MAX {
            journal.records.pop_front();
        }
        journal.records.push_back(record.clone());
        (record, answer.token)
    }

    /// Remembers a write that was acknowledged, and says how stale a read is beside those.
    fn judge(
        &self,
        counter: &str,
        ask: &Ask,
        answer: &mut Answer,
        (start, end): (f64, f64),
    ) -> Option<f64> {
        // Of a counter that a node does not have yet, the state is before its first write.
        if matches!(ask, Ask::Get { .. }) && answer.reason == "COUNTER_NOT_FOUND" {
            (answer.came, answer.value) = (Came::Ok, Some(0));
        }
        let value = answer.value.filter(|_| answer.came == Came::Ok)?;
        let mut acknowledged = lock(&self.acknowledged);
        let of_counter = acknowledged.entry(counter.to_owned()).or_default();
        match ask {
            Ask::Add { .. } if answer.replayed => None,
            Ask::Add { .. } => {
                of_counter.add(value, end);
                None
            }
            Ask::Get { .. } => Some(of_counter.stale_ms(value, start)),
        }
    }
}
