//! What is shown of a cluster at one look: what the nodes say of themselves, and what their counters say since the
//! look before.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::Instant;

use serde::Serialize;
use tally_client::{Health, NodeInfo, Role, Status};

use super::scrape::{Quantiles, Scrape, Wanted};

/// What was asked at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    pub(crate) at: Instant,
    pub(crate) wall_ms: u64,
    pub(crate) status: Status,
    /// Metrics of each node that answered, or why there are none.
    pub(crate) metrics: BTreeMap<u64, Result<Scrape, String>>,
}

/// What is shown of it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    pub(crate) wall_time_ms: u64,
    pub(crate) cluster_id: String,
    /// The node that was asked for the others.
    pub(crate) asked_node_id: u64,
    pub(crate) revision: u64,
    pub(crate) health: Health,
    /// Of all nodes.
    pub(crate) operations_per_second: Option<f64>,
    pub(crate) nodes: Vec<NodeFigures>,
    /// The most used items of all nodes, the hottest first.
    pub(crate) hot: Vec<Hot>,
}

/// One node.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct NodeFigures {
    pub(crate) id: u64,
    /// Nothing if it does not answer.
    pub(crate) role: Option<Role>,
    pub(crate) address: String,
    pub(crate) version: String,
    pub(crate) term: u64,
    pub(crate) applied_index: u64,
    pub(crate) lag_entries: u64,
    pub(crate) log_bytes: u64,
    pub(crate) state_bytes: u64,
    pub(crate) disk_free_bytes: u64,
    pub(crate) note: String,
    /// Why its metrics are not known, if so.
    pub(crate) problem: Option<String>,
    #[serde(flatten)]
    pub(crate) measured: Measured,
}

/// From its metrics. Rates, and quantiles of times, are of the time since the look before.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Measured {
    pub(crate) operations_per_second: Option<f64>,
    pub(crate) writes_per_second: Option<f64>,
    pub(crate) reads_per_second: Option<f64>,
    /// Failed or refused.
    pub(crate) errors_per_second: Option<f64>,
    pub(crate) write_p50_ms: Option<f64>,
    pub(crate) write_p99_ms: Option<f64>,
    pub(crate) read_p50_ms: Option<f64>,
    pub(crate) read_p99_ms: Option<f64>,
    pub(crate) in_flight: Option<f64>,
    pub(crate) proposals_waiting: Option<f64>,
    pub(crate) applied_per_second: Option<f64>,
    pub(crate) syncs_per_second: Option<f64>,
    pub(crate) sync_p50_ms: Option<f64>,
    pub(crate) sync_p99_ms: Option<f64>,
    pub(crate) queue_p99_ms: Option<f64>,
    pub(crate) apply_p99_ms: Option<f64>,
    pub(crate) elections: Option<f64>,
    pub(crate) client_connections: Option<f64>,
    /// CPU seconds in a second.
    pub(crate) cpu: Option<f64>,
    pub(crate) memory_bytes: Option<f64>,
    pub(crate) dirty_bytes: Option<f64>,
    pub(crate) sessions: Option<f64>,
    pub(crate) methods: Vec<Method>,
    pub(crate) errors: Vec<Reason>,
    pub(crate) peers: Vec<Peer>,
    pub(crate) hot: Vec<Hot>,
}

/// What was asked by one method.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Method {
    pub(crate) method: String,
    pub(crate) per_second: f64,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
}

/// Why requests did not do what they were asked.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Reason {
    pub(crate) reason: String,
    pub(crate) per_second: f64,
}

/// What a leader knows of a member.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Peer {
    pub(crate) id: String,
    pub(crate) lag_entries: f64,
    pub(crate) silence_ms: Option<f64>,
}

/// A counter or a key that is used much.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Hot {
    pub(crate) kind: String,
    /// Its name, or a hash of it, as the nodes are configured.
    pub(crate) item: String,
    pub(crate) per_second: f64,
}

macro_rules! kinds {
    ($($service:ident($client_in:ident::$client:ident, $server_in:ident::$server:ident) {
        $($kind:ident $field:ident $variant:ident($request:ident) -> $response:ident: $method:ident;)*
    })*) => {
        /// Every method, as metrics name it, and its kind.
        const KINDS: &[(&str, &str)] = &[$($((stringify!($variant), stringify!($kind)),)*)*];
    };
}
tally_proto::requests!(kinds);

fn kind(method: &str) -> &'static str {
    KINDS.iter().find(|(name, _)| *name == method).map_or("", |(_, kind)| kind)
}

/// Of data, and not of nodes.
fn is_write(method: &str) -> bool {
    matches!(kind(method), "write" | "apply" | "session")
}

fn is_read(method: &str) -> bool {
    kind(method) == "read"
}

const REQUESTS: &str = "tally_requests_total";
const DURATION: &str = "tally_request_duration_seconds";

/// Two readings of one node.
struct Between<'a> {
    now: &'a Scrape,
    before: Option<(&'a Scrape, Duration)>,
}

impl Between<'_> {
    /// How much a counter grew in a second. One that fell began anew.
    fn rate(&self, count: impl Fn(&Scrape) -> Option<f64>) -> Option<f64> {
        let (before, elapsed) = self.before?;
        let (now, before) = (count(self.now)?, count(before).unwrap_or(0.0));
        let grown = if now < before { now } else { now - before };
        Some(grown / elapsed.as_secs_f64().max(1e-3))
    }

    fn quantiles(&self, name: &str, wanted: &[Wanted<'_>]) -> Quantiles {
        let Some((before, _)) = self.before else { return Quantiles::default() };
        self.now.histogram(name, wanted).since(&before.histogram(name, wanted))
    }

    fn rates_by(&self, name: &str, label: &str) -> Vec<(String, f64)> {
        let names: BTreeSet<String> = self.now.by(name, label).into_keys().collect();
        let rate = |of: String| {
            let rate = self.rate(|scrape| scrape.by(name, label).get(&of).copied())?;
            (rate > 0.0).then_some((of, rate))
        };
        let mut rates: Vec<_> = names.into_iter().filter_map(rate).collect();
        rates.sort_by(|one, other| other.1.total_cmp(&one.1));
        rates
    }

    fn measured(&self) -> Measured {
        let requests = |fits: fn(&str) -> bool| {
            self.rate(|scrape| {
                // A node that nobody has asked yet has no samples, and none is known to be zero.
                Some(scrape.sum(REQUESTS, &[("method", &fits)]).unwrap_or(0.0))
            })
        };
        let times = |fits: fn(&str) -> bool| {
            let is_ok = |outcome: &str| outcome == "ok";
            self.quantiles(DURATION, &[("method", &fits), ("outcome", &is_ok)])
        };
        let ms = |quantiles: &Quantiles, share| quantiles.quantile(share).map(|it| it * 1e3);
        let (writes, reads) = (times(is_write), times(is_read));
        let syncs = self.quantiles("tally_log_sync_duration_seconds", &[]);
        let queue = self.quantiles("tally_entry_queue_duration_seconds", &[]);
        let apply = self.quantiles("tally_apply_duration_seconds", &[]);
        let (writes_per_second, reads_per_second) = (requests(is_write), requests(is_read));
        let went_wrong = |outcome: &str| matches!(outcome, "failed" | "refused");
        let of_data = |method: &str| is_write(method) || is_read(method);
        let wrong = |scrape: &Scrape| {
            let wanted: [Wanted<'_>; 2] = [("outcome", &went_wrong), ("method", &of_data)];
            Some(scrape.sum(REQUESTS, &wanted).unwrap_or(0.0))
        };
        Measured {
            operations_per_second: writes_per_second.zip(reads_per_second).map(|(w, r)| w + r),
            writes_per_second,
            reads_per_second,
            errors_per_second: self.rate(wrong),
            write_p50_ms: ms(&writes, 0.5),
            write_p99_ms: ms(&writes, 0.99),
            read_p50_ms: ms(&reads, 0.5),
            read_p99_ms: ms(&reads, 0.99),
            in_flight: self.now.sum("tally_requests_in_flight", &[("method", &of_data)]),
            proposals_waiting: self.now.value("tally_proposals_waiting"),
            applied_per_second: self.rate(|scrape| scrape.value("tally_applied_commands_total")),
            syncs_per_second: self.rate(|it| it.value("tally_log_sync_duration_seconds_count")),
            sync_p50_ms: ms(&syncs, 0.5),
            sync_p99_ms: ms(&syncs, 0.99),
            queue_p99_ms: ms(&queue, 0.99),
            apply_p99_ms: ms(&apply, 0.99),
            elections: self.now.value("tally_elections_total"),
            client_connections: self.now.value("tally_client_connections"),
            cpu: self.rate(|scrape| scrape.value("process_cpu_seconds_total")),
            memory_bytes: self.now.value("process_resident_memory_bytes"),
            dirty_bytes: self.now.value("tally_state_dirty_bytes"),
            sessions: self.now.value("tally_sessions"),
            methods: self.methods(),
            errors: self
                .rates_by("tally_request_errors_total", "reason")
                .into_iter()
                .map(|(reason, per_second)| Reason { reason, per_second })
                .collect(),
            peers: self.peers(),
            hot: hot_of(self.now),
        }
    }

    fn methods(&self) -> Vec<Method> {
        let method = |(method, per_second): (String, f64)| {
            let is_it = |other: &str| other == method;
            let times = self.quantiles(DURATION, &[("method", &is_it)]);
            let ms = |share| times.quantile(share).map(|it| it * 1e3);
            Method { per_second, p50_ms: ms(0.5), p99_ms: ms(0.99), method }
        };
        self.rates_by(REQUESTS, "method").into_iter().map(method).collect()
    }

    fn peers(&self) -> Vec<Peer> {
        let silence = self.now.by("tally_peer_silence_seconds", "peer");
        let peer = |(id, lag_entries): (String, f64)| {
            let silence_ms = silence.get(&id).map(|seconds| seconds * 1e3);
            Peer { id, lag_entries, silence_ms }
        };
        self.now.by("tally_peer_lag_entries", "peer").into_iter().map(peer).collect()
    }
}

fn hot_of(scrape: &Scrape) -> Vec<Hot> {
    let items = scrape.by_two("tally_hot_item_operations_per_second", "kind", "item");
    items.into_iter().map(|(kind, item, per_second)| Hot { kind, item, per_second }).collect()
}

impl Figures {
    /// Of a look, with rates since the one before.
    pub(crate) fn of(look: &Look, before: Option<&Look>) -> Figures {
        let nodes: Vec<NodeFigures> =
            look.status.nodes.iter().map(|node| node_figures(node, look, before)).collect();
        let rates: Vec<f64> =
            nodes.iter().filter_map(|node| node.measured.operations_per_second).collect();
        let mut hot: BTreeMap<(String, String), f64> = BTreeMap::new();
        for Hot { kind, item, per_second } in nodes.iter().flat_map(|node| &node.measured.hot) {
            *hot.entry((kind.clone(), item.clone())).or_default() += per_second;
        }
        let mut hot: Vec<Hot> = hot
            .into_iter()
            .map(|((kind, item), per_second)| Hot { kind, item, per_second })
            .collect();
        hot.sort_by(|one, other| other.per_second.total_cmp(&one.per_second));
        let header = &look.status.header;
        Figures {
            wall_time_ms: look.wall_ms,
            cluster_id: header.cluster_id.clone(),
            asked_node_id: header.node_id,
            revision: header.revision,
            health: look.status.health(),
            operations_per_second: (!rates.is_empty()).then(|| rates.iter().sum()),
            nodes,
            hot,
        }
    }
}

fn node_figures(node: &NodeInfo, look: &Look, before: Option<&Look>) -> NodeFigures {
    let (measured, problem) = match look.metrics.get(&node.id) {
        Some(Ok(now)) => {
            let before = before.and_then(|before| {
                let scrape = before.metrics.get(&node.id)?.as_ref().ok()?;
                Some((scrape, look.at.saturating_duration_since(before.at)))
            });
            (Between { now, before }.measured(), None)
        }
        Some(Err(problem)) => (Measured::default(), Some(problem.clone())),
        None => (Measured::default(), None),
    };
    let mut notes = Vec::new();
    if node.disk_nearly_full {
        notes.push("disk nearly full: writes are refused".to_owned());
    }
    if !node.local_reads_only.is_empty() {
        notes.push(format!("local reads only: {}", node.local_reads_only));
    }
    notes.extend((!node.note.is_empty()).then(|| node.note.clone()));
    NodeFigures {
        id: node.id,
        role: node.role,
        address: node.address.clone(),
        version: node.version.clone(),
        term: node.term,
        applied_index: node.applied_index,
        lag_entries: node.lag_entries,
        log_bytes: node.log_bytes,
        state_bytes: node.state_bytes,
        disk_free_bytes: node.disk_free_bytes,
        note: notes.join("; "),
        problem,
        measured,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A look at three nodes: 1 leads, 2 follows, 3 does not answer.
    pub(crate) fn look(at: Instant, metrics: &[(u64, &str)]) -> Look {
        let node = |id, role: Option<Role>| NodeInfo {
            id,
            role,
            is_voter: true,
            reachable: role.is_some(),
            address: format!("10.0.0.{id}:7401"),
            term: 4,
            applied_index: 100 * id,
            lag_entries: id,
            leader_id: 1,
            log_bytes: 5 << 20,
            disk_free_bytes: 7 << 30,
            note: if role.is_none() { "connection refused".into() } else { String::new() },
            ..NodeInfo::default()
        };
        let nodes = vec![node(1, Some(Role::Leader)), node(2, Some(Role::Follower)), node(3, None)];
        let read = |(id, text): &(u64, &str)| match text.strip_prefix("problem: ") {
            Some(problem) => (*id, Err(problem.to_owned())),
            None => (*id, Ok(Scrape::read(text))),
        };
        Look {
            at,
            wall_ms: 1_700_000_000_000,
            status: Status {
                nodes,
                dedup: tally_client::DedupTables::default(),
                next_node_id: 0,
                header: tally_client::Header {
                    cluster_id: "c0ffee".to_owned(),
                    node_id: 1,
                    revision: 42,
                    ..tally_client::Header::default()
                },
            },
            metrics: metrics.iter().map(read).collect(),
        }
    }

    pub(crate) const BEFORE: &str = r#"
tally_requests_total{method="CountersAdd",transport="stream",outcome="ok"} 100
tally_requests_total{method="ClusterMetrics",transport="unary",outcome="ok"} 5
tally_request_duration_seconds_bucket{method="CountersAdd",transport="stream",outcome="ok",le="0.002"} 100
tally_request_duration_seconds_bucket{method="CountersAdd",transport="stream",outcome="ok",le="+Inf"} 100
tally_log_sync_duration_seconds_count 10
process_cpu_seconds_total 1.5
"#;

    pub(crate) const NOW: &str = r#"
tally_requests_total{method="CountersAdd",transport="stream",outcome="ok"} 300
tally_requests_total{method="CountersAdd",transport="stream",outcome="failed"} 20
tally_requests_total{method="KeysGet",transport="unary",outcome="ok"} 40
tally_requests_total{method="ClusterMetrics",transport="unary",outcome="ok"} 6
tally_requests_in_flight{method="CountersAdd",transport="stream"} 3
tally_request_errors_total{method="CountersAdd",reason="NO_QUORUM"} 20
tally_request_duration_seconds_bucket{method="CountersAdd",transport="stream",outcome="ok",le="0.002"} 100
tally_request_duration_seconds_bucket{method="CountersAdd",transport="stream",outcome="ok",le="0.004"} 300
tally_request_duration_seconds_bucket{method="CountersAdd",transport="stream",outcome="ok",le="+Inf"} 300
tally_log_sync_duration_seconds_count 30
tally_log_sync_duration_seconds_bucket{le="0.001"} 20
tally_log_sync_duration_seconds_bucket{le="+Inf"} 20
process_cpu_seconds_total 2.5
tally_peer_lag_entries{peer="2"} 17
tally_peer_silence_seconds{peer="2"} 0.25
tally_hot_item_operations_per_second{kind="counter",item="stock"} 90.5
"#;

    #[test]
    fn rates_are_of_the_time_between_two_looks() {
        let began = Instant::now();
        let before = look(began, &[(1, BEFORE), (2, "problem: too old")]);
        let now = look(began + Duration::from_secs(2), &[(1, NOW), (2, "problem: too old")]);
        let figures = Figures::of(&now, Some(&before));
        assert_eq!(figures.health.leader, Some(1));
        let [one, two, three] = &figures.nodes[..] else { panic!("{:?}", figures.nodes) };
        let m = &one.measured;
        assert_eq!(m.writes_per_second, Some(110.0), "failed ones were asked for, too");
        assert_eq!((m.reads_per_second, m.operations_per_second), (Some(20.0), Some(130.0)));
        assert_eq!((m.errors_per_second, m.in_flight), (Some(10.0), Some(3.0)));
        assert_eq!((m.write_p50_ms, m.read_p50_ms), (Some(3.0), None));
        assert_eq!((m.syncs_per_second, m.cpu), (Some(10.0), Some(0.5)));
        assert_eq!((m.peers[0].lag_entries, m.peers[0].silence_ms), (17.0, Some(250.0)));
        assert_eq!(m.errors[0].reason, "NO_QUORUM");
        let methods: Vec<_> = m.methods.iter().map(|it| (&*it.method, it.per_second)).collect();
        assert_eq!(methods, [("CountersAdd", 110.0), ("KeysGet", 20.0), ("ClusterMetrics", 0.5)]);
        assert_eq!(two.problem.as_deref(), Some("too old"));
        assert_eq!((three.role, &*three.note), (None, "connection refused"));
        assert_eq!(figures.operations_per_second, Some(130.0));
        assert_eq!(figures.hot[0].item, "stock");
        let first = Figures::of(&now, None);
        assert_eq!(first.nodes[0].measured.writes_per_second, None, "nothing to compare with");
        assert_eq!(first.nodes[0].measured.in_flight, Some(3.0));
        // The node began anew.
        let again = look(began + Duration::from_secs(4), &[(1, BEFORE)]);
        let again = Figures::of(&again, Some(&now));
        assert_eq!(again.nodes[0].measured.writes_per_second, Some(50.0));
    }

    #[test]
    fn every_method_is_of_some_kind() {
        assert!(is_write("CountersAdd") && is_write("TransactionsApply") && is_read("KeysScan"));
        for other in ["ClusterStatus", "ClusterMetrics", "AuthChange", "NewOne"] {
            assert!(!is_write(other) && !is_read(other), "{other}");
        }
    }
}
