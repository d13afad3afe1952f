//! The golden signals: which requests came, how long they took and how they ended.
//!
//! Counted where a request has been read and where its answer is known: what gRPC itself refuses (an unknown
//! method, a message that is too long) is no request here, and the time until its caller has read the answer is
//! not the node's.
//!
//! A request costs an addition when it begins and two when it ends, in places of its method: all are of one
//! allocation, and nothing is looked up.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{catalog, text::Exposition};
use crate::storage::meters::{Counter, Durations};

macro_rules! methods {
    ($($service:ident($client_in:ident::$client:ident, $server_in:ident::$server:ident) {
        $($kind:ident $field:ident $variant:ident($request:ident) -> $response:ident: $method:ident;)*
    })*) => {
        /// A method of the API.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "they are the table's")]
        pub enum Method {
            $($($variant,)*)*
        }

        const METHODS: &[(Method, &str)] = &[$($(
            (Method::$variant, concat!(stringify!($service), ".", stringify!($variant))),
        )*)*];
    };
}
tally_proto::requests!(methods);

impl Method {
    /// Its name: `CountersAdd`.
    pub fn name(self) -> &'static str {
        let (_, name) = METHODS[self as usize];
        name.split_once('.').map_or(name, |(_, name)| name)
    }
}

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// As a call of its own.
    Unary,
    /// Packed with others on a stream.
    Stream,
}

impl Transport {
    const ALL: [Transport; 2] = [Transport::Unary, Transport::Stream];

    fn name(self) -> &'static str {
        match self {
            Transport::Unary => "unary",
            Transport::Stream => "stream",
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It did what it was asked.
    Ok,
    /// It was refused for what it asks, or for what the data is: the caller's to look at.
    Refused,
    /// The node or the cluster could not: the operator's to look at.
    Failed,
    /// Its caller went away first.
    Abandoned,
}

impl Ended {
    const ALL: [Ended; 4] = [Ended::Ok, Ended::Refused, Ended::Failed, Ended::Abandoned];

    /// As the label says it.
    pub fn name(self) -> &'static str {
        match self {
            Ended::Ok => "ok",
            Ended::Refused => "refused",
            Ended::Failed => "failed",
            Ended::Abandoned => "abandoned",
        }
    }
}

/// Reasons of one method that are told apart: there are some thirty, and this is against a mistake that makes more.
const REASONS_MAX: usize = 64;

/// How often each reason was given. A lock will do: an error costs a hundred times more to make.
type Reasons = Mutex<Vec<(String, u64)>>;

#[derive(Debug, Default)]
struct Cell {
    begun: Counter,
    ended: [Durations; Ended::ALL.len()],
}

/// The requests of one node.
#[derive(Debug)]
pub struct Requests {
    /// By method, and in that by transport.
    cells: Box<[Cell]>,
    /// By method.
    errors: Box<[Reasons]>,
    /// By method.
    slow: Box<[Counter]>,
}

impl Default for Requests {
    fn default() -> Self {
        let cells = METHODS.len() * Transport::ALL.len();
        Requests {
            cells: (0..cells).map(|_| Cell::default()).collect(),
            errors: METHODS.iter().map(|_| Reasons::default()).collect(),
            slow: METHODS.iter().map(|_| Counter::default()).collect(),
        }
    }
}

fn lock(reasons: &Reasons) -> MutexGuard<'_, Vec<(String, u64)>> {
    reasons.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Requests {
    fn cell(&self, method: Method, transport: Transport) -> &Cell {
        &self.cells[method as usize * Transport::ALL.len() + transport as usize]
    }

    /// One begins. Says how many of its kind had begun before.
    pub fn begin(&self, method: Method, transport: Transport) -> u64 {
        self.cell(method, transport).begun.add(1)
    }

    /// One that begun ended, after so long; with the reason, if it did not do what it was asked.
    pub fn end(
        &self,
        (method, transport): (Method, Transport),
        ended: Ended,
        reason: Option<&str>,
        took: Duration,
    ) {
        self.cell(method, transport).ended[ended as usize].record(took);
        if let Some(reason) = reason {
            let mut reasons = lock(&self.errors[method as usize]);
            let reason = if reasons.len() < REASONS_MAX { reason } else { "OTHER" };
            match reasons.iter_mut().find(|(known, _)| known == reason) {
                Some((_, count)) => *count += 1,
                None => reasons.push((reason.to_owned(), 1)),
            }
        }
    }

    /// One took long enough to be told in the log.
    pub fn slow(&self, method: Method) {
        self.slow[method as usize].add(1);
    }

    /// Writes all of it. Methods that were never called have no samples: a hundred lines each.
    pub(super) fn write(&self, out: &mut Exposition) {
        let each = || {
            METHODS.iter().flat_map(|(method, _)| {
                Transport::ALL.map(|transport| (*method, transport, self.cell(*method, transport)))
            })
        };
        let begun = || each().filter(|(.., cell)| cell.begun.get() > 0);
        let mut samples = out.family(&catalog::REQUESTS);
        for (method, transport, cell) in begun() {
            for ended in Ended::ALL {
                let labels = [method.name(), transport.name(), ended.name()];
                samples.value(&labels, cell.ended[ended as usize].count());
            }
        }
        let mut samples = out.family(&catalog::REQUEST_DURATION);
        for (method, transport, cell) in begun() {
            for ended in Ended::ALL {
                let durations = &cell.ended[ended as usize];
                if ended == Ended::Ok || durations.count() > 0 {
                    let labels = [method.name(), transport.name(), ended.name()];
                    samples.durations(&labels, durations);
                }
            }
        }
        let mut samples = out.family(&catalog::REQUESTS_IN_FLIGHT);
        for (method, transport, cell) in begun() {
            // What ended is counted first, so that one which does both meanwhile is not below zero.
            let ended: u64 = cell.ended.iter().map(Durations::count).sum();
            let in_flight = cell.begun.get().saturating_sub(ended);
            samples.value(&[method.name(), transport.name()], in_flight);
        }
        let mut samples = out.family(&catalog::REQUEST_ERRORS);
        for ((method, _), reasons) in METHODS.iter().zip(&self.errors) {
            for (reason, count) in lock(reasons).iter() {
                samples.value(&[method.name(), reason], count);
            }
        }
        let mut samples = out.family(&catalog::SLOW_OPERATIONS);
        for ((method, _), count) in METHODS.iter().zip(&self.slow) {
            let begun = |transport| self.cell(*method, transport).begun.get() > 0;
            if Transport::ALL.into_iter().any(begun) {
                samples.value(&[method.name()], count.get());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::text::Format;

    #[test]
    fn methods_stand_where_they_count() {
        for (at, (method, _)) in METHODS.iter().enumerate() {
            assert_eq!(*method as usize, at);
        }
        assert_eq!(Method::CountersAdd.name(), "CountersAdd");
    }

    #[test]
    fn a_request_is_in_flight_until_it_ends_and_then_in_one_place() {
        let requests = Requests::default();
        let add = (Method::CountersAdd, Transport::Stream);
        for begun in 0..3 {
            assert_eq!(requests.begin(add.0, add.1), begun);
        }
        requests.end(add, Ended::Ok, None, Duration::from_millis(3));
        let full = Some(tally_proto::reason::TOO_MANY_IN_FLIGHT);
        requests.end(add, Ended::Failed, full, Duration::from_millis(1));
        requests.begin(Method::KeysGet, Transport::Unary);
        requests.end(
            (Method::KeysGet, Transport::Unary),
            Ended::Refused,
            Some("NEW_ONE"),
            Duration::ZERO,
        );
        let mut text = Exposition::new(Format::Prometheus);
        requests.write(&mut text);
        let text = text.finish();
        for line in [
            "tally_requests_total{method=\"CountersAdd\",transport=\"stream\",outcome=\"ok\"} 1",
            "tally_requests_total{method=\"CountersAdd\",transport=\"stream\",outcome=\"failed\"} 1",
            "tally_requests_in_flight{method=\"CountersAdd\",transport=\"stream\"} 1",
            "tally_requests_in_flight{method=\"KeysGet\",transport=\"unary\"} 0",
            "tally_request_errors_total{method=\"CountersAdd\",reason=\"TOO_MANY_IN_FLIGHT\"} 1",
            "tally_request_errors_total{method=\"KeysGet\",reason=\"NEW_ONE\"} 1",
            "tally_request_duration_seconds_count{method=\"CountersAdd\",transport=\"stream\",outcome=\"ok\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("KeysPut"), "nobody called it: {text}");
    }
}
