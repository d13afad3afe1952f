//! What each level was worth of late, and the state that the page shows.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;

use crate::{
    clients::Client,
    lab::{Journal, Lab},
    links::{Shown, lock},
    nodes::{Process, Wrong},
    record::{Came, Record},
    watching::Watched,
};

/// From one state to the next.
pub(crate) const EVERY: Duration = Duration::from_millis(100);

/// A meter looks so far back, in ms.
const WINDOW_MS: f64 = 10_000.0;

/// Meters are made anew with each so many states: nobody reads a figure that changes ten times a second.
const METERS_EVERY: u64 = 5;

/// What the answers at a level were worth, of those that ended within the window.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Meter {
    /// `add`, or the level that was asked for.
    pub(crate) what: String,
    pub(crate) asked: usize,
    pub(crate) answered: usize,
    pub(crate) refused: usize,
    /// Unknown, or no answer at all.
    pub(crate) silent: usize,
    /// Latency of those that were answered, in ms.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    /// The stalest answer, by the acknowledged writes that it missed.
    pub(crate) seen_max: Option<f64>,
    /// The greatest age that a node proved an answer not to exceed.
    pub(crate) proven_max: Option<u64>,
    /// Answers that missed a write longer than the node had proven. It must be 0.
    pub(crate) understated: usize,
}

impl Meter {
    fn of(what: String, records: &[&Record]) -> Meter {
        let answered: Vec<_> = records.iter().filter(|record| record.came == Came::Ok).collect();
        let mut latencies: Vec<f64> =
            answered.iter().map(|record| record.end - record.start).collect();
        latencies.sort_by(f64::total_cmp);
        let proven = |record: &Record| record.header.as_ref().and_then(|header| header.proven_ms);
        let refused = records.iter().filter(|record| record.came == Came::Refused).count();
        let understates = |record: &Record| {
            // The node's figure is cut to whole milliseconds.
            let bound = proven(record).map(|ms| ms as f64 + 1.0);
            bound.is_some_and(|bound| record.seen_ms.is_some_and(|seen| seen > bound))
        };
        Meter {
            what,
            asked: records.len(),
            answered: answered.len(),
            refused,
            silent: records.len() - answered.len() - refused,
            p50: quantile(&latencies, 50),
            p99: quantile(&latencies, 99),
            seen_max: answered.iter().filter_map(|record| record.seen_ms).max_by(f64::total_cmp),
            proven_max: answered.iter().filter_map(|record| proven(record)).max(),
            understated: answered.iter().filter(|record| understates(record)).count(),
        }
    }
}

/// The smallest value that so many percent do not exceed.
fn quantile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

fn meters(journal: &Journal, now: f64) -> Vec<Meter> {
    let since = journal.measured_from.max(now - WINDOW_MS);
    let mut by_level: BTreeMap<(bool, &str), Vec<&Record>> = BTreeMap::new();
    for record in journal.records_since(since) {
        by_level.entry((record.kind == "get", &record.asked)).or_default().push(record);
    }
    let name = |(is_read, level): (bool, &str)| if is_read { level } else { "add" }.to_owned();
    by_level.into_iter().map(|(which, records)| Meter::of(name(which), &records)).collect()
}

#[derive(Serialize)]
struct NodeShown {
    id: u64,
    pid: Option<u32>,
    process: Process,
    client_address: String,
    #[serde(flatten)]
    wrong: Wrong,
    #[serde(flatten)]
    said: Watched,
}

#[derive(Serialize)]
struct State<'a> {
    /// In ms since the lab began.
    t: f64,
    nodes: Vec<NodeShown>,
    links: Vec<Shown>,
    clients: Vec<Client>,
    meters: &'a [Meter],
}

/// Makes the state again and again, until the lab ends.
pub(crate) async fn keep(lab: Arc<Lab>) {
    let mut turns = tokio::time::interval(EVERY);
    let mut newest = Vec::new();
    for turn in 0_u64.. {
        turns.tick().await;
        let now = lab.now();
        if turn % METERS_EVERY == 0 {
            newest = meters(&lock(&lab.journal), now);
        }
        let watched = lock(&lab.watched).clone();
        let nodes = lab.nodes.ids().map(|id| {
            let (pid, process) = lab.nodes.process(id);
            let client_address = lab.nodes.addresses(id).client_via.to_string();
            let said = watched.get(&id).cloned().unwrap_or_default();
            let wrong = lab.nodes.wrong(id);
            NodeShown { id, pid, process, client_address, wrong, said }
        });
        let state = State {
            t: now,
            nodes: nodes.collect(),
            links: lab.links.shown(&lab.links.take_arrived()),
            clients: lab.clients.shown(),
            meters: &newest,
        };
        let text = serde_json::to_string(&state).expect("plain values");
        lab.state.send_replace(text.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&hundred, 50), Some(50.0));
        assert_eq!(quantile(&hundred, 99), Some(99.0));
        assert_eq!((quantile(&[7.0], 99), quantile(&[], 50)), (Some(7.0), None));
    }
}
