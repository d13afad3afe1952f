//! What gRPC's own machinery refuses, before an operation sees it: undecodable bytes, text that is
//! not UTF-8, messages above the transport's limit, unknown methods. Such a status has no details;
//! this gives it the ones that the error table promises. Nothing was proposed, so a write's outcome
//! is NOT_APPLIED.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderValue, Request, Response};
use tally_proto::{reason, status::StatusBuilder, v1};
use tonic::{Code, Status};
use tower::{Layer, Service};

/// Gives details to statuses that lack them.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExplainLayer;

impl<S> Layer<S> for ExplainLayer {
    type Service = Explain<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Explain { inner }
    }
}

/// See [`ExplainLayer`].
#[derive(Debug, Clone)]
pub struct Explain<S> {
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Explain<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let response = self.inner.call(request);
        Box::pin(async move {
            let mut response = response.await?;
            explain_headers(response.headers_mut());
            Ok(response)
        })
    }
}

/// An error of a call that never reached its operation is in the response's head.
fn explain_headers(headers: &mut HeaderMap<HeaderValue>) {
    let is_error = headers.get(Status::GRPC_STATUS).is_some_and(|status| status != "0");
    if !is_error || headers.contains_key("grpc-status-details-bin") {
        return;
    }
    let Some(status) = Status::from_header_map(headers) else { return };
    // On failure the plain status stands, which is true as far as it goes.
    let _ = explain(&status, v1::Outcome::NotApplied).add_header(headers);
}

/// The status with what the table promises. `outcome` is what it means for writes: of a whole stream
/// that ends, other than of one call, nothing can be said.
pub(crate) fn explain(status: &Status, outcome: v1::Outcome) -> Status {
    if !status.details().is_empty() {
        return status.clone();
    }
    let message = status.message();
    let is_request = message.contains("decode") || message.contains("decoding");
    let too_large = message.contains("too large") || message.contains("length");
    match status.code() {
        Code::Internal | Code::OutOfRange | Code::ResourceExhausted | Code::InvalidArgument
            if is_request || too_large =>
        {
            StatusBuilder::new(Code::InvalidArgument, reason::INVALID_REQUEST, message)
                .field("request", message)
                .outcome(outcome)
                .into_tonic()
        }
        Code::Unimplemented => {
            StatusBuilder::new(Code::Unimplemented, reason::UNIMPLEMENTED, "no such method")
                .outcome(outcome)
                .into_tonic()
        }
        _ => status.clone(),
    }
}
