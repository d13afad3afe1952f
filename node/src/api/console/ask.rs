//! A question of the page becomes a call of the API.

use std::{sync::Arc, time::Duration};

use http::header::AUTHORIZATION;
use tally_proto::{
    status::{Details, from_tonic},
    v1::{self, CallStatus},
};
use tokio::time::Instant;
use tonic::{Code, Request, Response, metadata::MetadataMap};

use super::{Console, READ_TIME_MAX, tells};
use crate::{
    api::{
        answer_bytes::AnswerBytes,
        audited::{Audited, Tells},
        layer::share_exceeded,
        requests::Runs,
        unary::served,
    },
    machine::limits,
    port::{
        call as port,
        plain::{Asked, Page},
    },
};

/// What a call gave, and how long it took.
type Told<A> = (A, Duration);

impl Console {
    /// Asks, as the caller.
    pub(super) async fn ask<Q>(
        &self,
        asked: &Asked,
        request: Q,
        patience: Duration,
    ) -> Result<Told<Response<Q::Response>>, Page>
    where
        Q: Runs + AnswerBytes + Audited + 'static,
        Q::Response: Tells,
    {
        let (told, took) = self.call(asked, request, patience).await;
        told.map(|told| (told, took)).map_err(|status| tells::refused(&status, took))
    }

    /// Asks for one item, which may not be there: then the answer is from which state it is missing.
    pub(super) async fn ask_item<Q>(
        &self,
        asked: &Asked,
        request: Q,
    ) -> Result<Told<Result<Response<Q::Response>, v1::ResponseHeader>>, Page>
    where
        Q: Runs + AnswerBytes + Audited + 'static,
        Q::Response: Tells,
    {
        let (told, took) = self.call(asked, request, READ_TIME_MAX).await;
        let status = match told {
            Ok(told) => return Ok((Ok(told), took)),
            Err(status) => status,
        };
        if Code::from(status.code) == Code::NotFound
            && let Some(header) = Details::parse_call(&status).header
        {
            return Ok((Err(header), took));
        }
        Err(tells::refused(&status, took))
    }

    async fn call<Q>(
        &self,
        asked: &Asked,
        request: Q,
        patience: Duration,
    ) -> Told<Result<Response<Q::Response>, CallStatus>>
    where
        Q: Runs + AnswerBytes + Audited + 'static,
        Q::Response: Tells,
    {
        let began = Instant::now();
        let room = Arc::clone(&self.room);
        let bytes_max = limits::REQUEST_BYTES_MAX;
        let call = port::Call::alone(room, asked.from, bytes_max, began + patience);
        let told = if call.may_begin() {
            served(&self.api, as_caller(asked, request, call)).await
        } else {
            Err(from_tonic(&share_exceeded("calls")))
        };
        (told, began.elapsed())
    }
}

/// The request with what its caller shows.
fn as_caller<Q>(asked: &Asked, request: Q, call: Arc<port::Call>) -> Request<Q> {
    let mut request = Request::new(request);
    if let Some(shown) = asked.headers.get(AUTHORIZATION) {
        let headers = [(AUTHORIZATION, shown.clone())].into_iter().collect();
        *request.metadata_mut() = MetadataMap::from_headers(headers);
    }
    if let Some(name) = &asked.caller {
        request.extensions_mut().insert(name.clone());
    }
    request.extensions_mut().insert(call);
    request
}
