//! `Stream.Exchange`: many calls on one stream, answered in any order.
//!
//! # Back-pressure
//! The streams of a connection may have [`CALLS_IN_FLIGHT_MAX`] calls and
//! `room::REQUEST_BYTES_MAX` bytes of them under way. Above that, or above what the node has for all
//! connections, it stops reading: HTTP/2's window fills, and the client waits.
//! Nothing that was sent fails for that. A client that sends and never reads its answers fills the
//! bounded queue of answers, then its calls stay under way, and so it stops itself.
//!
//! A small call can have a large answer, so each reserves room for its answer before it runs, and
//! gives it back when the answer has gone out: `room::ANSWER_BYTES_MAX` for the connection. A read of
//! one key reserves little at first; if the value turns out large, it is dropped, and read again
//! once there is room for it.
//!
//! # Packing
//! Calls come in packs and answers go in packs: as many as are ready when the writer is, with no
//! timer.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use prost::Message;
use tally_proto::{
    reason,
    status::StatusBuilder,
    v1::{self, answer::Response, call::Request},
};
use tokio::{sync::mpsc, time::Instant};
use tonic::{Code, Status, Streaming};

use super::{
    Api,
    answer_bytes::{ITEM_BYTES, SMALL_ANSWER_BYTES, answer_bytes_of},
    audit::{self, StreamRecord, Way},
    direct::{Flights, Ready, Room},
    guest::Guest,
    rates::operations_of_call,
    requests::{self, method_of},
    seen::Under,
    status::Kind,
};
use crate::{
    consensus::WhenFull,
    env::shares::Share,
    machine::limits,
    metrics::requests::Transport,
    port::room::{self, Along, ConnectionRoom, Held},
};

/// Calls of one connection's streams that are under way at once: the window of one session, so that a
/// client that uses all of it is not held up here first. As each takes room for an answer, there can't be
/// more.
pub const CALLS_IN_FLIGHT_MAX: usize = limits::SESSION_WINDOW as usize;

/// Calls in one pack.
pub const CALLS_PER_PACK_MAX: usize = 1024;

/// Answers in one pack.
const ANSWERS_PER_PACK_MAX: usize = 1024;

/// A pack of answers is closed at this many bytes, unless its first answer alone is larger.
const PACK_BYTES_MAX: usize = 1024 * 1024;

/// Answers that wait for the writer: each holds room for [`SMALL_ANSWER_BYTES`] at least, so there
/// can't be more. Besides, the last word of a broken stream.
const ANSWERS_QUEUED_MAX: usize = CALLS_IN_FLIGHT_MAX + 1;

const _: () = {
    assert!(room::ANSWER_BYTES_MAX == CALLS_IN_FLIGHT_MAX * SMALL_ANSWER_BYTES);
    assert!(room::NODE_CALLS_MAX >= 2 * CALLS_IN_FLIGHT_MAX);
};

/// The answers of one stream.
pub type Answers = Pin<Box<dyn Stream<Item = Result<v1::StreamExchangeResponse, Status>> + Send>>;

/// Starts one stream.
pub(super) fn exchange(
    api: Api,
    calls: Streaming<v1::StreamExchangeRequest>,
    (room, share): (Arc<ConnectionRoom>, Share<1>),
    guest: Guest,
    record: Option<StreamRecord>,
    along: Along,
) -> Answers {
    let (answers, ready) = mpsc::channel(ANSWERS_QUEUED_MAX);
    let guest = Arc::new(guest);
    let flights = Flights::new(answers.clone(), Arc::clone(&api.node.metrics), Arc::clone(&guest));
    let its_api = api.clone();
    tokio::spawn(async move {
        read_calls(its_api, calls, answers, &flights, room, guest, record).await;
        flights.close();
        drop(share);
    });
    packs(api, ready, along).boxed()
}

/// Packs what is ready.
fn packs(
    api: Api,
    ready: mpsc::Receiver<Ready>,
    along: Along,
) -> impl Stream<Item = Result<v1::StreamExchangeResponse, Status>> {
    let state = (api, ready, along, None::<Ready>, false);
    stream::unfold(state, |(api, mut ready, along, mut left_over, ended)| async move {
        if ended {
            return None;
        }
        let first = match left_over.take() {
            Some(first) => first,
            None => ready.recv().await?.made(&api),
        };
        let (mut answers, mut rooms) = match first {
            Ready::Answer(answer, room) => (vec![answer], room),
            Ready::Broken(status) => return Some((Err(status), (api, ready, along, None, true))),
            Ready::Landed(..) => unreachable!("it was just made"),
        };
        let mut size_bytes = answers[0].encoded_len();
        while answers.len() < ANSWERS_PER_PACK_MAX {
            let Ok(next) = ready.try_recv() else { break };
            match next.made(&api) {
                Ready::Answer(answer, room) => {
                    size_bytes += answer.encoded_len();
                    if size_bytes > PACK_BYTES_MAX {
                        left_over = Some(Ready::Answer(answer, room));
                        break;
                    }
                    answers.push(answer);
                    rooms.merge(room);
                }
                broken => {
                    left_over = Some(broken);
                    break;
                }
            }
        }
        // Until the network has its bytes.
        along.put(rooms);
        Some((Ok(v1::StreamExchangeResponse { answers }), (api, ready, along, left_over, false)))
    })
}

/// Reads packs and starts their calls until the stream ends or breaks.
async fn read_calls(
    api: Api,
    mut packs: Streaming<v1::StreamExchangeRequest>,
    answers: mpsc::Sender<Ready>,
    flights: &Arc<Flights>,
    connection: Arc<ConnectionRoom>,
    guest: Arc<Guest>,
    mut record: Option<StreamRecord>,
) {
    let way = Way::Stream(record.as_ref().map_or(0, |record| record.number));
    let mut stopping = api.node.stopping.clone();
    loop {
        let next = tokio::select! {
            next = packs.message() => next,
            // A client keeps its stream open for ever; so the node ends it, once what was read is
            // answered.
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        let pack = match next {
            Ok(Some(pack)) => pack,
            Ok(None) => return,
            Err(status) => {
                // Most often the client went away; if not, it sent what is no message.
                let broken = super::layer::explain(&status, v1::Outcome::Unknown);
                if broken.code() == Code::InvalidArgument {
                    record_unread(&api, &guest);
                }
                let _ = answers.send(Ready::Broken(broken)).await;
                return;
            }
        };
        if pack.calls.len() > CALLS_PER_PACK_MAX {
            let message = format!("a pack may hold {CALLS_PER_PACK_MAX} calls");
            let broken = protocol_error("calls", &message);
            record_unread(&api, &guest);
            let _ = answers.send(Ready::Broken(broken)).await;
            return;
        }
        for call in pack.calls {
            let id = call.id;
            if !flights.begin(id) {
                let message = format!("call {id} is still under way on this stream");
                let broken = protocol_error("calls.id", &message);
                record_unread(&api, &guest);
                let _ = answers.send(Ready::Broken(broken)).await;
                return;
            }
            if let Some(record) = &mut record {
                record.count();
            }
            let size = call.encoded_len();
            let place = connection.place(guest.identity(&api)).await;
            let bytes = Arc::clone(&connection).request(size).await;
            let answer = connection.answer(answer_bytes_of(&call)).await;
            let room = Room { place, bytes, answer };
            let left = match guest.known(&api) {
                Some(who) => api.start(call, size, room, (who, &guest, way), flights),
                None => Some((call, room)),
            };
            let Some((call, room)) = left else { continue };
            let guest = Arc::clone(&guest);
            let Room { place, bytes, answer: reserved } = room;
            let connection = Arc::clone(&connection);
            let api = api.clone();
            let answers = answers.clone();
            let flights = Arc::clone(flights);
            tokio::spawn(async move {
                let answered = run_within(&api, call, (&guest, way), reserved, &connection).await;
                flights.end(id);
                let (answer, reserved) = answered;
                let _ = answers.send(Ready::Answer(answer, reserved)).await;
                drop((place, bytes));
            });
        }
    }
}

/// Runs one call; a read of a value that does not fit in what is reserved runs a second time, when
/// there is room for any value.
async fn run_within(
    api: &Api,
    call: v1::Call,
    guest: (&Guest, Way),
    reserved: Held,
    connection: &ConnectionRoom,
) -> (v1::Answer, Held) {
    let method = call.request.as_ref().map(|request| (method_of(request), Transport::Stream));
    let under = method.map(|method| Under::begin(&api.node.metrics, Instant::now(), method));
    let again = matches!(&call.request, Some(Request::KeysGet(_))).then(|| call.clone());
    let (mut answer, mut context) = run(api, call, guest, false).await;
    let mut reserved = reserved;
    if let Some(again) = again
        && answer.encoded_len() > reserved.bytes()
    {
        // Neither is held while it waits, so nobody waits for a waiter.
        drop((answer, reserved));
        reserved = connection.answer(limits::VALUE_BYTES_MAX + ITEM_BYTES).await;
        (answer, context) = run(api, again, guest, true).await;
    }
    if let Some(under) = under {
        let error = match &answer.response {
            Some(Response::Error(error)) => Some(error),
            _ => None,
        };
        under.end(&context, error);
    }
    (answer, reserved)
}

/// Records that what came is no request, or breaks the stream's rules.
fn record_unread(api: &Api, guest: &Guest) {
    if let Some(log) = &api.node.audit {
        let verdict = (Code::InvalidArgument, reason::INVALID_REQUEST.to_owned());
        audit::record_unread(log, "tally.v1.Stream/Exchange", guest.from(), verdict);
    }
}

/// The client broke the stream's own rules: no call can be told, and what became of those that are
/// not answered yet can't be said.
fn protocol_error(field: &str, message: &str) -> Status {
    StatusBuilder::new(Code::InvalidArgument, reason::INVALID_REQUEST, message)
        .field(field, message)
        .outcome(v1::Outcome::Unknown)
        .into_tonic()
}

/// Runs one call.
async fn run(
    api: &Api,
    call: v1::Call,
    guest: (&Guest, Way),
    is_again: bool,
) -> (v1::Answer, super::Call) {
    let v1::Call { id, deadline_ms, request_id, traceparent, request } = call;
    let asked = Duration::from_millis(u64::from(deadline_ms));
    let mut context = api.call(Some(asked), &request_id, WhenFull::Wait);
    let method = request.as_ref().map_or("", |request| requests::method_of(request).name());
    context.span = api.stream_span(method, &traceparent);
    let response = match request {
        None => {
            record_unread(api, guest.0);
            let invalid = super::status::Invalid::new("request", "is required");
            Err(api.invalid(&context, Kind::Write, &invalid))
        }
        Some(request) => run_recorded(api, &mut context, request, guest, is_again).await,
    };
    let response = response.unwrap_or_else(Response::Error);
    api.end_span_with(&context, &response);
    (v1::Answer { id, response: Some(response) }, context)
}

/// Runs one request, and records it: once, unless it is refused when it is run again. Notes in the call who makes it.
async fn run_recorded(
    api: &Api,
    call: &mut super::Call,
    request: Request,
    (guest, way): (&Guest, Way),
    is_again: bool,
) -> Result<Response, v1::CallStatus> {
    let mut record = api.record(requests::audited(&request), call, guest.from(), way)?;
    if let Some(record) = &mut record
        && is_again
    {
        record.only_if_refused();
    }
    let kind = requests::kind_of(&request);
    let who = guest.who(api, call, kind).await;
    if let Some(record) = &mut record {
        guest.tell(api, record, who.as_ref().ok());
    }
    let answered = match who {
        Ok(who) => {
            call.who = who;
            let counted = match is_again {
                true => Ok(()), // It was, the first time.
                false => api.count(call, kind, &who, operations_of_call(&request)),
            };
            match counted {
                Ok(()) => requests::dispatch(api, call, request).await,
                Err(refused) => Err(refused),
            }
        }
        Err(refused) => Err(refused),
    };
    if answered.as_ref().is_err_and(|error| error.code == Code::Unauthenticated as i32) {
        guest.forget();
    }
    match api.recorded(record, call, answered.as_ref().map(requests::told)) {
        Some(instead) => Err(instead),
        None => answered,
    }
}
