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
    requests::Runs,
    seen::Under,
    status::{Invalid, Kind},
    stream,
    who::{Guest, Shown},
};
use crate::{
    consensus::WhenFull,
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
    /// The facts of a unary call, but for who calls.
    fn unary<T>(&self, request: &Request<T>) -> Call {
        let metadata = request.metadata();
        let request_id =
            metadata.get(REQUEST_ID_HEADER).and_then(|id| id.to_str().ok()).unwrap_or_default();
        let deadline = match request.extensions().get::<Arc<port::Call>>().map(|at| at.answer_by())
        {
            Some(Some(answer_by)) => answer_by,
            _ => answer_by(metadata.as_ref(), DEADLINE_DEFAULT),
        };
        self.call_until(Instant::now(), deadline, request_id, WhenFull::Refuse)
    }

    /// Finds out who calls, and refuses what is too large.
    async fn let_in<T: Message>(
        &self,
        call: Call,
        request: &Request<T>,
        kind: Kind,
    ) -> (Call, Result<(), CallStatus>) {
        let from = request.extensions().get::<Arc<port::Call>>().and_then(|at| at.from());
        let shown = Shown::of(request.metadata(), request.extensions().get());
        let call = match self.identify(&call, kind, from.map(Owner::new), &shown).await {
            Ok(who) => Call { who, ..call },
            Err(refused) => return (call, Err(refused)),
        };
        let checked = self.check_size(&call, request.get_ref(), kind);
        (call, checked)
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

/// Runs one operation, with room for its answer before it runs if that may be large.
async fn answered<Q: AnswerBytes, A: Message, F>(
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
                let kind = <v1::$request as Runs>::KIND;
                let mut call = self.unary(&request);
                let method = (<v1::$request as Runs>::METHOD, Transport::Unary);
                call.span = self.unary_span(method.0.name(), request.metadata());
                let under = Under::begin(&self.node.metrics, call.began, method);
                let (call, let_in) = self.let_in(call, &request, kind).await;
                let at = request.extensions().get::<Arc<port::Call>>().cloned();
                let request = request.into_inner();
                let run = |request: v1::$request| request.run(self, &call);
                let answered = match let_in {
                    Ok(()) => answered(self, at, &call, kind, request, run).await,
                    Err(refused) => Err(refused),
                };
                under.end(&call, answered.as_ref().err());
                let code = answered.as_ref().err().map_or(Code::Ok, |error| Code::from(error.code));
                self.end_span(&call, code);
                answered.map_err(|status| to_tonic(&status))
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
            None => ConnectionRoom::new(NodeRoom::new()),
        };
        let from = at.and_then(|at| at.from()).map(Owner::new);
        let guest = Guest::new(from, Shown::of(request.metadata(), request.extensions().get()));
        let along = Along::default();
        let calls = request.into_inner();
        let answers = stream::exchange(self.clone(), calls, room, guest, along.clone());
        let mut response = Response::new(answers);
        response.extensions_mut().insert(along);
        Ok(response)
    }
}
