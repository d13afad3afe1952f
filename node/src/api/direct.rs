//! Single writes that come over a stream at the leader: from the reader of the stream to the proposer
//! and from there to the writer of its answers, without a task, a timer or a channel of their own.
//!
//! They are by far the most of a busy node's work, and a task for each costs more than applying it.
//! Everything else (reads, atomic steps, writes to forward, writes for which there is no room at once)
//! has its task.
//!
//! # Who answers
//! A [`Flight`] is answered once: by the proposer, by the sweep that finds its deadline passed, or by
//! being dropped with the proposer's queue. Whoever takes it out of [`Flights`] answers, so what comes
//! later finds nothing and says nothing. What may be said at the deadline is the ticket's to decide, as
//! for every write (see `consensus::propose`).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tally_proto::v1::{self, answer::Response};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tonic::Status;

use super::{
    Api, Call, Who,
    audit::{Record, Way},
    guest::Guest,
    requests, seen,
    status::Kind,
    writes::{Facts, Respond, Single, Split, split},
};
use crate::{
    consensus::{
        DecidedAtOnce, WhenFull,
        propose::{Answerer, Outcome, Ticket, at_deadline, gone},
    },
    machine::{limits, reply::Refusal},
    metrics::{
        Metrics,
        requests::{Method, Transport},
    },
    port::room::{Held, Place},
};

/// How often deadlines are looked at: a write that has passed its own is answered this much later at
/// most.
const SWEEP_INTERVAL: Duration = Duration::from_millis(10);

/// Room that a call takes until it is answered.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) place: Place,
    pub(super) bytes: Held,
    pub(super) answer: Held,
}

#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are answers, and a box would cost each of them an allocation"
)]
#[derive(Debug)]
pub(super) enum Ready {
    /// An answer, with the room that it takes.
    Answer(v1::Answer, Held),
    /// A write whose answer is made when it goes out.
    Landed(Box<Landed>, Held),
    /// The stream can't go on; the last thing it says.
    Broken(Status),
}

impl Ready {
    pub(super) fn made(self, api: &Api) -> Ready {
        match self {
            Ready::Landed(landed, room) => Ready::Answer(landed.answer(api), room),
            made => made,
        }
    }
}

/// One write under way.
#[derive(Debug)]
struct Flight {
    call: Call,
    method: Method,
    respond: Respond,
    facts: Facts,
    ticket: Arc<Ticket>,
    room: Room,
    record: Option<Box<Record>>,
}

/// A write whose outcome is known.
#[derive(Debug)]
pub(super) struct Landed {
    id: u64,
    call: Call,
    respond: Respond,
    facts: Facts,
    outcome: Outcome,
    /// Written when this is dropped: away from the task that lands it.
    record: Option<Box<Record>>,
}

impl Landed {
    /// The answer, as it goes out.
    pub(super) fn answer(self, api: &Api) -> v1::Answer {
        let Landed { id, call, respond, facts, outcome, record: _written } = self;
        let response = match api.written(&call, facts, outcome) {
            Ok(written) => respond(written),
            Err(error) => Response::Error(error),
        };
        api.end_span_with(&call, &response);
        v1::Answer { id, response: Some(response) }
    }
}

/// The calls of one stream that are under way, by their ids.
#[derive(Debug)]
pub(super) struct Flights {
    calls: Mutex<Calls>,
    answers: mpsc::Sender<Ready>,
    metrics: Arc<Metrics>,
    /// Who makes them.
    guest: Arc<Guest>,
    /// There is something to sweep again, or the stream has ended.
    begun: Notify,
}

#[derive(Debug, Default)]
struct Calls {
    /// `None` for those that have a task.
    by_id: BTreeMap<u64, Option<Box<Flight>>>,
    /// How many are flights.
    flights: usize,
    ended: bool,
}

impl Flights {
    pub(super) fn new(
        answers: mpsc::Sender<Ready>,
        metrics: Arc<Metrics>,
        guest: Arc<Guest>,
    ) -> Arc<Flights> {
        let (calls, begun) = (Mutex::default(), Notify::new());
        let flights = Arc::new(Flights { calls, answers, metrics, guest, begun });
        tokio::spawn(sweep(Arc::clone(&flights)));
        flights
    }

    /// Notes that a call is under way; false if one with its id is already.
    pub(super) fn begin(&self, id: u64) -> bool {
        match self.lock().by_id.entry(id) {
            std::collections::btree_map::Entry::Occupied(_) => false,
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(None);
                true
            }
        }
    }

    /// A call that had a task is answered.
    pub(super) fn end(&self, id: u64) {
        self.lock().by_id.remove(&id);
    }

    /// No more calls begin.
    pub(super) fn close(&self) {
        self.lock().ended = true;
        self.begun.notify_one();
    }

    fn depart(&self, id: u64, flight: Box<Flight>) {
        let mut calls = self.lock();
        calls.by_id.insert(id, Some(flight));
        calls.flights += 1;
        let is_first = calls.flights == 1;
        drop(calls);
        if is_first {
            self.begun.notify_one();
        }
    }

    /// Takes a flight out; nothing if it was answered before.
    fn take(&self, id: u64, ticket: &Arc<Ticket>) -> Option<Flight> {
        let mut calls = self.lock();
        // The client may use the id again as soon as it has its answer.
        let is_it = |flight: &Flight| Arc::ptr_eq(&flight.ticket, ticket);
        if !calls.by_id.get(&id).and_then(Option::as_ref).is_some_and(|flight| is_it(flight)) {
            return None;
        }
        calls.flights -= 1;
        calls.by_id.remove(&id).flatten().map(|flight| *flight)
    }

    fn land(&self, id: u64, flight: Flight, outcome: Outcome) {
        let Flight { call, method, respond, facts, room, mut record, .. } = flight;
        seen::landed(&self.metrics, &call, method, &outcome);
        if outcome.as_ref().is_ok_and(|it| matches!(it.reply.result, Err(Refusal::Unauthenticated)))
        {
            self.guest.forget();
        }
        if let Some(record) = &mut record {
            record.decide(&outcome);
        }
        let Room { place, bytes, answer } = room;
        drop((place, bytes));
        let landed = Landed { id, call, respond, facts, outcome, record };
        self.send(Ready::Landed(Box::new(landed), answer));
    }

    /// Answers a call that did not become a flight.
    fn answer_now(&self, id: u64, response: Response, room: Room) {
        self.end(id);
        let answer = v1::Answer { id, response: Some(response) };
        self.send(Ready::Answer(answer, room.answer));
    }

    fn send(&self, ready: Ready) {
        // The queue has a place for each answer that there is room for, so this can only fail because
        // the client has gone.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.answers.try_send(ready) {
            unreachable!("more answers wait than there is room for");
        }
    }

    fn overdue(&self, now: Instant) -> Vec<(u64, Arc<Ticket>)> {
        let calls = self.lock();
        let flights = calls.by_id.iter().filter_map(|(id, flight)| Some((id, flight.as_ref()?)));
        flights
            .filter(|(_, flight)| flight.call.deadline <= now)
            .map(|(id, flight)| (*id, Arc::clone(&flight.ticket)))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers what has passed its deadline, until the stream has ended and everything is answered.
async fn sweep(flights: Arc<Flights>) {
    loop {
        let begun = flights.begun.notified();
        let (is_empty, ended) = {
            let calls = flights.lock();
            (calls.flights == 0, calls.ended)
        };
        match (is_empty, ended) {
            (true, true) => return,
            (true, false) => begun.await,
            (false, _) => tokio::time::sleep(SWEEP_INTERVAL).await,
        }
        for (id, ticket) in flights.overdue(Instant::now()) {
            if let Some(flight) = flights.take(id, &ticket) {
                flights.land(id, flight, Err(at_deadline(&ticket)));
            }
        }
    }
}

/// What the proposer calls when it knows the outcome.
struct Lander {
    flights: Arc<Flights>,
    id: u64,
    ticket: Arc<Ticket>,
}

impl Lander {
    fn land(&self, outcome: impl FnOnce() -> Outcome) {
        if let Some(flight) = self.flights.take(self.id, &self.ticket) {
            self.flights.land(self.id, flight, outcome());
        }
    }
}

impl Answerer for Lander {
    fn answer(self: Box<Self>, outcome: Outcome) {
        self.land(|| outcome);
    }
}

impl Drop for Lander {
    fn drop(&mut self) {
        self.land(|| Err(gone(&self.ticket)));
    }
}

impl Api {
    /// Starts a call that is a single write, if this node leads and there is room; gives back what
    /// needs a task. Its id has begun.
    pub(super) fn start(
        &self,
        call: v1::Call,
        size: usize,
        room: Room,
        (who, guest, way): (Who, &Guest, Way),
        flights: &Arc<Flights>,
    ) -> Option<(v1::Call, Room)> {
        // An upper bound of the request's own size.
        let is_small = size <= limits::REQUEST_BYTES_MAX;
        let can_be_here = self.consensus.leadership().term_as_leader().is_some()
            && self.consensus.is_cluster_known();
        if !is_small || !can_be_here {
            return Some((call, room));
        }
        let Some(admission) = self.consensus.try_admit(who.identity(), size) else {
            return Some((call, room));
        };
        let v1::Call { id, deadline_ms, request_id, traceparent, request } = call;
        if !request.as_ref().is_some_and(requests::is_single_write) {
            let call = v1::Call { id, deadline_ms, request_id, traceparent, request };
            return Some((call, room));
        }
        let asked = Duration::from_millis(u64::from(deadline_ms));
        let mut call = Call { who, ..self.call(Some(asked), &request_id, WhenFull::Wait) };
        let record = request.as_ref().map_or(Ok(None), |request| {
            self.record(requests::audited(request), &call, guest.from(), way)
        });
        let (Single { action, options }, method, respond) = match split(request) {
            Split::Write(single, method, respond) => (single, method, respond),
            Split::Other(request) => unreachable!("{request:?} was a write of one operation"),
        };
        call.span = self.stream_span(method.name(), &traceparent);
        let admission = admission.traced(call.trace_context(), self.consensus.tracer());
        let admission = admission.known_at(who.known_at());
        let metrics = &self.node.metrics;
        let number = metrics.requests.begin(method, Transport::Stream);
        let mut record = match record {
            Ok(record) => record,
            Err(error) => {
                seen::refused(metrics, &call, method, &error);
                flights.answer_now(id, Response::Error(error), room);
                return None;
            }
        };
        if let Some(record) = &mut record {
            guest.tell(self, record, Some(&who));
        }
        let counted = self.count(&call, Kind::Write, &who, 1);
        let command = match counted.and_then(|()| self.command(&call, action, options)) {
            Ok(command) => command,
            Err(error) => {
                let error = self.recorded(record, &call, Err(&error)).unwrap_or(error);
                seen::refused(metrics, &call, method, &error);
                flights.answer_now(id, Response::Error(error), room);
                return None;
            }
        };
        if metrics.hot.wants(number) {
            seen::count_hot(metrics, &command.action);
        }
        let facts = Facts::of(&command);
        let ticket = Arc::new(Ticket::default());
        let times = (call.began, call.deadline);
        let ticket_of = Arc::clone(&ticket);
        let flight = Flight { call, method, respond, facts, ticket: ticket_of, room, record };
        flights.depart(id, Box::new(flight));
        let lander = Lander { flights: Arc::clone(flights), id, ticket: Arc::clone(&ticket) };
        let decided =
            self.consensus.propose_here(command, admission, ticket, times, Box::new(lander));
        if let Some(DecidedAtOnce { outcome, answerer }) = decided {
            answerer.answer(outcome);
        }
        None
    }
}
