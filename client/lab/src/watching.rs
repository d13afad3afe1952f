//! Looking at the nodes: what each says of itself, over its own port beside all faults, and the lines of its log.

use std::{
    io::{Read as _, Seek as _, SeekFrom},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use tally_proto::v1::{self, cluster_client::ClusterClient};

use crate::{calls::role, lab::Lab, links::lock, nodes::Process};

/// From one look to the next.
const EVERY: Duration = Duration::from_millis(100);

/// A node that runs says how it is in less; without an answer for so long, what it said is not shown as its present.
const ANSWERS_WITHIN: Duration = Duration::from_millis(500);

/// The longest part of a log that is read at once; more is left for the next look.
const LOG_BYTES_MAX: u64 = 64 * 1024;

/// What a node said of itself.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Watched {
    /// When, in ms since the lab began.
    pub(crate) at: f64,
    /// It answered the last question. If not, all below is of the past.
    pub(crate) answers: bool,
    pub(crate) role: &'static str,
    pub(crate) term: u64,
    /// Who leads, as it thinks; 0: it knows of none.
    pub(crate) leader: u64,
    /// Appended, …
    pub(crate) last: u64,
    /// … known as committed, and applied: log indexes.
    pub(crate) committed: u64,
    pub(crate) applied: u64,
    pub(crate) revision: u64,
    /// Set if it can't serve linearizable reads, and why.
    pub(crate) local_only: String,
}

/// Looks at a node until the lab ends.
pub(crate) async fn watch(lab: Arc<Lab>, id: u64) {
    let address = lab.nodes.addresses(id).client;
    let mut client = ClusterClient::new(lab.calls.channel(address));
    let mut turns = tokio::time::interval(EVERY);
    let mut log_read = 0;
    loop {
        turns.tick().await;
        read_log(&lab, id, &mut log_read);
        let is_running = lab.nodes.process(id).1 == Process::Running;
        let asking = client.status(v1::ClusterStatusRequest { local_only: true });
        let answer = match is_running {
            true => tokio::time::timeout(ANSWERS_WITHIN, asking).await.ok().and_then(Result::ok),
            false => None,
        };
        let own = answer
            .and_then(|answer| answer.into_inner().nodes.into_iter().find(|node| node.id == id));
        let at = lab.now();
        let mut watched = lock(&lab.watched);
        let known = watched.entry(id).or_default();
        match own {
            None => known.answers = false,
            Some(node) => *known = said(&node, at),
        }
    }
}

fn said(node: &v1::NodeStatus, at: f64) -> Watched {
    Watched {
        at,
        answers: true,
        role: role(node.role()),
        term: node.term,
        leader: node.leader_id,
        last: node.last_log_index,
        committed: node.commit_index,
        applied: node.applied_index,
        revision: node.revision,
        local_only: node.local_reads_only.clone(),
    }
}

/// Tells what a node has logged since the last look.
fn read_log(lab: &Lab, id: u64, read: &mut u64) {
    let mut text = Vec::new();
    let Ok(mut file) = std::fs::File::open(lab.nodes.log_path(id)) else { return };
    if file.seek(SeekFrom::Start(*read)).is_err() {
        return;
    }
    if file.take(LOG_BYTES_MAX).read_to_end(&mut text).is_err() {
        return;
    }
    // Up to the last whole line.
    let Some(end) = text.iter().rposition(|byte| *byte == b'\n') else { return };
    *read += end as u64 + 1;
    for line in String::from_utf8_lossy(&text[..end]).lines() {
        // "2026-… INFO text": the time is the machine's, and the lab has its own.
        let line = line.split_once('Z').map_or(line, |(_, rest)| rest).trim();
        // Its whole configuration is behind it.
        let line = line.split(" config=").next().unwrap_or(line);
        lab.tell(id, line);
    }
}
