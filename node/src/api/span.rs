//! The span of a call that is traced: from its arrival at this node until its answer is known.

use tally_proto::v1::{CallStatus, answer::Response};
use tonic::{Code, metadata::MetadataMap};

use super::{Api, Call};
use crate::env::traces::{Asked, Ended, Open, Side, TraceContext, Value};

/// Metadata in which a caller of a unary call says of which trace it is.
const TRACEPARENT_HEADER: &str = "traceparent";

/// A call's span.
#[derive(Debug, Clone)]
pub(crate) struct CallSpan {
    open: Open,
    method: &'static str,
    transport: &'static str,
}

impl Call {
    /// What is below it, if it is traced.
    pub(super) fn trace_context(&self) -> Option<TraceContext> {
        self.span.as_ref().map(|span| span.open.context)
    }
}

impl Api {
    /// The span of a unary call.
    pub(super) fn unary_span(
        &self,
        method: &'static str,
        metadata: &MetadataMap,
    ) -> Option<Box<CallSpan>> {
        let asked = || {
            let given = metadata.get(TRACEPARENT_HEADER).and_then(|value| value.to_str().ok());
            given.map_or(Asked::Nothing, Asked::of)
        };
        let open = *self.consensus.tracer().request(asked)?;
        Some(Box::new(CallSpan { open, method, transport: "unary" }))
    }

    /// The span of a call of a stream.
    pub(super) fn stream_span(
        &self,
        method: &'static str,
        traceparent: &str,
    ) -> Option<Box<CallSpan>> {
        let open = *self.consensus.tracer().request(|| Asked::of(traceparent))?;
        Some(Box::new(CallSpan { open, method, transport: "stream" }))
    }

    /// A call is answered.
    pub(super) fn end_span(&self, call: &Call, code: Code) {
        let Some(span) = &call.span else { return };
        let CallSpan { open, method, transport } = &**span;
        let attributes = vec![
            ("rpc.system", Value::Name("grpc")),
            ("rpc.method", Value::Name(method)),
            ("rpc.grpc.status_code", Value::Number(code as u64)),
            ("tally.transport", Value::Name(transport)),
            ("tally.request_id", Value::Text(call.request_id.to_string())),
        ];
        // Not its message, which may have names.
        let error = (code != Code::Ok).then(|| code.description().to_owned());
        self.consensus.tracer().end(open, method, Side::Server, Ended { attributes, error });
    }

    /// The same of a call of a stream.
    pub(super) fn end_span_with(&self, call: &Call, response: &Response) {
        if call.span.is_some() {
            let code = match response {
                Response::Error(CallStatus { code, .. }) => Code::from(*code),
                _ => Code::Ok,
            };
            self.end_span(call, code);
        }
    }
}
