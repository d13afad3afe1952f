//! The unary services: the same operations, one call each.

use std::{future::Future, pin::Pin, sync::Arc};

use prost::Message;
use tally_proto::{
    status::to_tonic,
    v1::{self, CallStatus, stream_server},
};
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    Api, Call,
    answer_bytes::{AnswerBytes, ITEM_BYTES},
    audit::Way,
    audited::{Audited, Tells},
    guest::Guest,
    layer::share_exceeded,
    rates::operations_of,
    requests::Runs,
    seen::Under,
    status::{Invalid, Kind},
    stream,
    who::{Shown, Who},
};
use crate::{
    consensus::WhenFull,
    env::shares::ShareRule,
    machine::{command::Owner, limits},
    metrics::requests::Transport,
    port::{
        SMALL_BYTES, call as port,
        deadline::{DEADLINE_DEFAULT, answer_by},
        room::{Along, ConnectionRoom, NodeRoom},
    },
};

/// The header in which a caller names its request.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

impl Api {
    /// The facts of a unary call.
    fn unary<T>(&self, request: &Request<T>) -> (Call, Shown) {
        let metadata = request.metadata();
        let request_id =
            metadata.get(REQUEST_ID_HEADER).and_then(|id| id.to_str().ok()).unwrap_or_default();
        let deadline = match request.extensions().get::<Arc<port::Call>>().map(|at| at.answer_by())
        {
            Some(Some(answer_by)) => answer_by,
            _ => answer_by(metadata.as_ref(), DEADLINE_DEFAULT),
        };
        let from = request.extensions().get::<Arc<port::Call>>().and_then(|at| at.from());
        let call = self.call_until(Instant::now(), deadline, request_id, WhenFull::Refuse);
        let call = Call { who: Who::at(from.map(Owner::new)), ..call };
        (call, Shown::of(metadata, request.extensions().get()))
    }

    /// Refuses a request above the limit.
    pub(super) fn check_size(
        &self,
        call: &Call,
        request: &impl Message,
        kind: Kind,
    ) -> Result<(), CallStatus> {
        let size = request.encoded_len();
        if size <= limits::REQUEST_BYTES_MAX {
            return Ok(());
        }
        let description =
            format!("must have at most {} bytes, has {size}", limits::REQUEST_BYTES_MAX);
        Err(self.invalid(call, kind, &Invalid::new("request", description)))
    }
}

/// Serves one request of a client.
async fn serve<Q>(api: &Api, request: Request<Q>) -> Result<Response<Q::Response>, Status>
where
    Q: Runs + AnswerBytes + Audited + 'static,
    Q::Response: Tells,
{
    served(api, request).await.map_err(|error| to_tonic(&error))
}

/// Finds out who calls, counts the request, runs it, and records it: whoever asks, over whichever port.
pub(super) async fn served<Q>(
    api: &Api,
    request: Request<Q>,
) -> Result<Response<Q::Response>, CallStatus>
where
    Q: Runs + AnswerBytes + Audited + 'static,
    Q::Response: Tells,
{
    let (mut call, shown) = api.unary(&request);
    let method = (Q::METHOD, Transport::Unary);
    call.span = api.unary_span(Q::METHOD.name(), request.metadata());
    let under = Under::begin(&api.node.metrics, call.began, method);
    let (call, answered) = serve_recorded(api, call, &shown, request).await;
    under.end(&call, answered.as_ref().err());
    api.end_span(&call, answered.as_ref().err().map_or(Code::Ok, |error| Code::from(error.code)));
    answered
}

/// Finds out who calls, runs the request and records both. Gives back the call with who makes it.
async fn serve_recorded<Q>(
    api: &Api,
    call: Call,
    shown: &Shown,
    request: Request<Q>,
) -> (Call, Result<Response<Q::Response>, CallStatus>)
where
    Q: Runs + AnswerBytes + Audited + 'static,
    Q::Response: Tells,
{
    let from = call.who.from;
    let mut record = match api.record((Q::AUDITED, request.get_ref()), &call, from, Way::Unary) {
        Ok(record) => record,
        Err(refused) => return (call, Err(refused)),
    };
    let who = api.identify(&call, Q::KIND, from, shown).await;
    if let Some(record) = &mut record {
        let known = who.as_ref().ok().map(|who| who.caller);
        api.who_fields(record.line(), known, shown.recorded());
    }
    let at = request.extensions().get::<Arc<port::Call>>().cloned();
    let request = request.into_inner();
    let (answered, call) = match who {
        Ok(who) => {
            let call = Call { who, ..call };
            let counted = api.count(&call, Q::KIND, &who, operations_of(&request));
            let checked = counted.and_then(|()| api.check_size(&call, &request, Q::KIND));
            let answered = match checked {
                Ok(()) => {
                    let run = |request: Q| request.run(api, &call);
                    answered(api, at, &call, Q::KIND, request, run).await
                }
                Err(refused) => Err(refused),
            };
            (answered, call)
        }
        Err(refused) => (Err(refused), call),
    };
    let told = answered.as_ref().map(|response| response.get_ref().told());
    match api.recorded(record, &call, told) {
        Some(instead) => (call, Err(instead)),
        None => (call, answered),
    }
}

/// Runs one operation, with room for its answer before it runs if that may be large.
async fn answered<Q: AnswerBytes + Message, A: Message, F>(
    api: &Api,
    at: Option<Arc<port::Call>>,
    call: &Call,
    kind: Kind,
    request: Q,
    run: impl Fn(Q) -> F,
) -> Result<Response<A>, CallStatus>
where
    F: Future<Output = Result<A, CallStatus>>,
{
    let Some(at) = at.filter(|_| request.answer_bytes() > SMALL_BYTES || Q::MAY_BE_LARGER) else {
        return run(request).await.map(Response::new);
    };
    let room = async |bytes| {
        let room = tokio::time::timeout_at(call.deadline, at.room().answer(bytes)).await;
        room.map_err(|_| api.no_room_for_answer(call, kind))
    };
    let mut again = Q::MAY_BE_LARGER.then(|| request.clone());
    let mut bytes = request.answer_bytes();
    let mut held = if bytes > SMALL_BYTES { Some(room(bytes).await?) } else { None };
    let mut answer = run(request).await?;
    if let Some(again) = again.take()
        && answer.encoded_len() > SMALL_BYTES
    {
        // It is not held while room for it is waited for.
        drop(answer);
        bytes = limits::VALUE_BYTES_MAX + ITEM_BYTES;
        held = Some(room(bytes).await?);
        answer = run(again).await?;
    }
    let mut response = Response::new(answer);
    if let Some(held) = held {
        response.extensions_mut().insert(Along::with(held));
    }
    Ok(response)
}

/// The services: each method runs its request.
macro_rules! services {
    ($($service:ident($client_in:ident::$client:ident, $server_in:ident::$server:ident) {
        $($kind:ident $field:ident $variant:ident($request:ident) -> $response:ident: $method:ident;)*
    })*) => {
        $(#[tonic::async_trait]
        impl v1::$server_in::$server for Api {
            $(async fn $method(
                &self,
                request: Request<v1::$request>,
            ) -> Result<Response<v1::$response>, Status> {
                serve(self, request).await
            })*
        })*
    };
}
tally_proto::requests!(services);

#[tonic::async_trait]
impl stream_server::Stream for Api {
    type ExchangeStream = Pin<
        Box<dyn futures_util::Stream<Item = Result<v1::StreamExchangeResponse, Status>> + Send>,
    >;

    async fn exchange(
        &self,
        request: Request<Streaming<v1::StreamExchangeRequest>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let at = request.extensions().get::<Arc<port::Call>>();
        let room = match at {
            Some(at) => Arc::clone(at.room()),
            // Called in this process, without a port.
            None => ConnectionRoom::new(NodeRoom::new(ShareRule::NONE), None),
        };
        let from = at.and_then(|at| at.from()).map(Owner::new);
        let guest = Guest::new(from, Shown::of(request.metadata(), request.extensions().get()));
        let Some(share) = room.node().stream(Who::at(from).identity()) else {
            return Err(share_exceeded("streams"));
        };
        let (call, shown) = self.unary(&request);
        let record = self.stream_record(&call, from, shown.recorded());
        let record = record.map_err(|error| to_tonic(&error))?;
        let along = Along::default();
        let calls = request.into_inner();
        let answers =
            stream::exchange(self.clone(), calls, (room, share), guest, record, along.clone());
        let mut response = Response::new(answers);
        response.extensions_mut().insert(along);
        Ok(response)
    }
}
