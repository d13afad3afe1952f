//! What is refused before an operation sees it. By gRPC's own machinery: undecodable bytes, text that is not UTF-8,
//! messages above the transport's limit, unknown methods; such a status has no details, and this gives it the ones that
//! the error table promises. And here: one call more than an address may have open. Nothing was proposed, so a write's
//! outcome is NOT_APPLIED.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderValue, Request, Response};
use tally_proto::{
    reason,
    status::{Details, StatusBuilder},
    v1,
};
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::{audit::record_unread, status::RETRY_AFTER};
use crate::{audit::AuditLog, machine::command::Owner, port::call as port};

/// Gives details to statuses that lack them.
#[derive(Debug, Clone, Default)]
pub struct ExplainLayer {
    audit: Option<Arc<AuditLog>>,
}

impl ExplainLayer {
    /// One that records such calls, too.
    pub(crate) fn new(audit: Option<Arc<AuditLog>>) -> ExplainLayer {
        ExplainLayer { audit }
    }
}

impl<S> Layer<S> for ExplainLayer {
    type Service = Explain<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Explain { inner, audit: self.audit.clone() }
    }
}

/// See [`ExplainLayer`].
#[derive(Debug, Clone)]
pub struct Explain<S> {
    inner: S,
    audit: Option<Arc<AuditLog>>,
}

impl<S, B, R> Service<Request<B>> for Explain<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let at = request.extensions().get::<Arc<port::Call>>();
        if at.is_some_and(|at| !at.may_begin()) {
            return Box::pin(async { Ok(share_exceeded("calls").into_http()) });
        }
        let unread = self.audit.clone().map(|log| {
            let from = at.and_then(|at| at.from());
            (log, request.uri().path().to_owned(), from.map(Owner::new))
        });
        let response = self.inner.call(request);
        Box::pin(async move {
            let mut response = response.await?;
            let explained = explain_headers(response.headers_mut());
            if let (Some((code, reason)), Some((log, path, from))) = (explained, unread)
                // Of health and reflection only what is unknown has no details.
                && (!path.starts_with("/grpc.") || code == Code::Unimplemented)
            {
                record_unread(&log, &path, from, (code, reason));
            }
            Ok(response)
        })
    }
}

/// A client has as many open as it may.
pub(super) fn share_exceeded(what: &str) -> Status {
    let message = format!("this client has its share of the {what} that may be open");
    StatusBuilder::new(Code::ResourceExhausted, reason::SHARE_EXCEEDED, message)
        .outcome(v1::Outcome::NotApplied)
        .retry_after(RETRY_AFTER)
        .into_tonic()
}

/// An error of a call that never reached its operation is in the response's head. Its code and reason, if there is one.
fn explain_headers(headers: &mut HeaderMap<HeaderValue>) -> Option<(Code, String)> {
    let is_error = headers.get(Status::GRPC_STATUS).is_some_and(|status| status != "0");
    if !is_error || headers.contains_key("grpc-status-details-bin") {
        return None;
    }
    let status = Status::from_header_map(headers)?;
    let explained = explain(&status, v1::Outcome::NotApplied);
    // On failure the plain status stands, which is true as far as it goes.
    let _ = explained.add_header(headers);
    Some((explained.code(), Details::parse(&explained).reason))
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
            // The router says nothing. What else there is has a message: a compression that nobody here reads.
            let message = if message.is_empty() { "no such method" } else { message };
            StatusBuilder::new(Code::Unimplemented, reason::UNIMPLEMENTED, message)
                .outcome(outcome)
                .into_tonic()
        }
        _ => status.clone(),
    }
}
