//! `Stream.Exchange`: many calls on one stream, answered in any order.
//!
//! # Back-pressure
//! A stream may have [`CALLS_IN_FLIGHT_MAX`] calls and [`CALL_BYTES_IN_FLIGHT_MAX`] bytes of them
//! under way. Above that the node stops reading it: HTTP/2's window fills, and the client waits.
//! Nothing that was sent fails for that. A client that sends and never reads its answers fills the
//! bounded queue of answers, then its calls stay under way, and so it stops itself.
//!
//! # Packing
//! Calls come in packs and answers go in packs: as many as are ready when the writer is, with no
//! timer.

use std::{collections::BTreeSet, pin::Pin, sync::Arc, sync::Mutex, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use prost::Message;
use tally_proto::{
    reason,
    status::StatusBuilder,
    v1::{self, CallStatus, answer::Response, call::Request},
};
use tokio::sync::{Semaphore, mpsc};
use tonic::{Code, Status, Streaming};

use super::{Api, status::Kind};
use crate::{consensus::WhenFull, machine::limits};

/// Calls of one stream that are under way at once: the window of one session, so that a client that
/// uses all of it is not held up here first.
pub const CALLS_IN_FLIGHT_MAX: usize = limits::SESSION_WINDOW as usize;

/// Bytes of those calls.
pub const CALL_BYTES_IN_FLIGHT_MAX: usize = 32 * 1024 * 1024;

/// Calls in one pack.
pub const CALLS_PER_PACK_MAX: usize = 1024;

/// Answers in one pack.
const ANSWERS_PER_PACK_MAX: usize = 1024;

/// A pack of answers is closed at this many bytes, unless its first answer alone is larger.
const PACK_BYTES_MAX: usize = 1024 * 1024;

/// Answers that wait for the writer.
const ANSWERS_QUEUED_MAX: usize = 4096;

const _: () = {
    assert!(CALL_BYTES_IN_FLIGHT_MAX >= 2 * limits::REQUEST_BYTES_MAX);
};

/// The answers of one stream.
pub type Answers = Pin<Box<dyn Stream<Item = Result<v1::StreamExchangeResponse, Status>> + Send>>;

/// Starts one stream.
pub fn exchange(api: Api, calls: Streaming<v1::StreamExchangeRequest>) -> Answers {
    let (answers, ready) = mpsc::channel(ANSWERS_QUEUED_MAX);
    tokio::spawn(read_calls(api, calls, answers));
    packs(ready).boxed()
}

enum Ready {
    Answer(v1::Answer),
    /// The stream can't go on; the last thing it says.
    Broken(Status),
}

/// Packs what is ready.
fn packs(
    ready: mpsc::Receiver<Ready>,
) -> impl Stream<Item = Result<v1::StreamExchangeResponse, Status>> {
    let state = (ready, None::<Ready>, false);
    stream::unfold(state, |(mut ready, mut left_over, ended)| async move {
        if ended {
            return None;
        }
        let first = match left_over.take() {
            Some(first) => first,
            None => ready.recv().await?,
        };
        let mut answers = match first {
            Ready::Broken(status) => return Some((Err(status), (ready, None, true))),
            Ready::Answer(answer) => vec![answer],
        };
        let mut size_bytes = answers[0].encoded_len();
        while answers.len() < ANSWERS_PER_PACK_MAX {
            match ready.try_recv() {
                Ok(Ready::Answer(answer)) => {
                    size_bytes += answer.encoded_len();
                    if size_bytes > PACK_BYTES_MAX {
                        left_over = Some(Ready::Answer(answer));
                        break;
                    }
                    answers.push(answer);
                }
                Ok(broken @ Ready::Broken(_)) => {
                    left_over = Some(broken);
                    break;
                }
                Err(_) => break,
            }
        }
        Some((Ok(v1::StreamExchangeResponse { answers }), (ready, left_over, false)))
    })
}

/// Reads packs and starts their calls until the stream ends or breaks.
async fn read_calls(
    api: Api,
    mut packs: Streaming<v1::StreamExchangeRequest>,
    answers: mpsc::Sender<Ready>,
) {
    let places = Arc::new(Semaphore::new(CALLS_IN_FLIGHT_MAX));
    let bytes = Arc::new(Semaphore::new(CALL_BYTES_IN_FLIGHT_MAX));
    let ids: Arc<Mutex<BTreeSet<u64>>> = Arc::default();
    loop {
        let pack = match packs.message().await {
            Ok(Some(pack)) => pack,
            Ok(None) => return,
            Err(status) => {
                // Most often the client went away; if not, it sent what is no message.
                let broken = super::layer::explain(&status, v1::Outcome::Unknown);
                let broken = Ready::Broken(broken);
                let _ = answers.send(broken).await;
                return;
            }
        };
        if pack.calls.len() > CALLS_PER_PACK_MAX {
            let message = format!("a pack may hold {CALLS_PER_PACK_MAX} calls");
            let broken = protocol_error("calls", &message);
            let _ = answers.send(Ready::Broken(broken)).await;
            return;
        }
        for call in pack.calls {
            let id = call.id;
            if !ids.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(id) {
                let message = format!("call {id} is still under way on this stream");
                let broken = protocol_error("calls.id", &message);
                let _ = answers.send(Ready::Broken(broken)).await;
                return;
            }
            let size = call.encoded_len().min(CALL_BYTES_IN_FLIGHT_MAX);
            let size = u32::try_from(size).expect("the limit fits");
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let Ok(room) = Arc::clone(&bytes).acquire_many_owned(size).await else { return };
            let api = api.clone();
            let answers = answers.clone();
            let ids = Arc::clone(&ids);
            tokio::spawn(async move {
                let answer = run(&api, call).await;
                ids.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&id);
                let _ = answers.send(Ready::Answer(answer)).await;
                drop((place, room));
            });
        }
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
async fn run(api: &Api, call: v1::Call) -> v1::Answer {
    let asked = Duration::from_millis(u64::from(call.deadline_ms));
    let context = api.call(Some(asked), &call.request_id, WhenFull::Wait);
    let size = call.encoded_len();
    if size > limits::REQUEST_BYTES_MAX {
        let invalid = super::status::Invalid::new(
            "request",
            format!("must have at most {} bytes, has {size}", limits::REQUEST_BYTES_MAX),
        );
        let error = api.invalid(&context, Kind::Write, &invalid);
        return v1::Answer { id: call.id, response: Some(Response::Error(error)) };
    }
    let response = match call.request {
        None => {
            let invalid = super::status::Invalid::new("request", "is required");
            Err(api.invalid(&context, Kind::Write, &invalid))
        }
        Some(request) => dispatch(api, &context, request).await,
    };
    v1::Answer { id: call.id, response: Some(response.unwrap_or_else(Response::Error)) }
}

/// Finds the operation. One line for each request of the API.
async fn dispatch(api: &Api, call: &super::Call, request: Request) -> Result<Response, CallStatus> {
    macro_rules! operations {
        ($($variant:ident => $method:ident),* $(,)?) => {
            match request {
                $(Request::$variant(request) => {
                    // Boxed, so that the largest operation does not size every call's task.
                    Box::pin(api.$method(call, request)).await.map(Response::$variant)
                })*
            }
        };
    }
    operations! {
        CountersAdd => counters_add,
        CountersGet => counters_get,
        CountersBatchGet => counters_batch_get,
        CountersSet => counters_set,
        CountersCompareAndSet => counters_compare_and_set,
        CountersDelete => counters_delete,
        CountersList => counters_list,
        CountersConfigure => counters_configure,
        KeysPut => keys_put,
        KeysGet => keys_get,
        KeysBatchGet => keys_batch_get,
        KeysDelete => keys_delete,
        KeysScan => keys_scan,
        TransactionsApply => transactions_apply,
        SessionsOpen => sessions_open,
        SessionsRenew => sessions_renew,
        SessionsClose => sessions_close,
        ClusterStatus => cluster_status,
        ClusterAddLearner => cluster_add_learner,
        ClusterPromote => cluster_promote,
        ClusterRemove => cluster_remove,
        ClusterTransferLeader => cluster_transfer_leader,
    }
}
