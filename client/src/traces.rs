//! The trace that a call is part of: with the feature `traces` the caller's current context of OpenTelemetry goes with
//! each attempt, so that what the nodes tell of it is below the caller's span. Without it there is none.

/// The current context as W3C's `traceparent`; empty if there is none.
#[cfg(feature = "traces")]
pub(crate) fn current() -> String {
    use opentelemetry::trace::TraceContextExt as _;

    let context = opentelemetry::Context::current();
    let span = context.span();
    let context = span.span_context();
    if !context.is_valid() {
        return String::new();
    }
    let sampled = u8::from(context.is_sampled());
    format!("00-{}-{}-{sampled:02x}", context.trace_id(), context.span_id())
}

/// Without the feature there is none.
#[cfg(not(feature = "traces"))]
pub(crate) fn current() -> String {
    String::new()
}

/// Puts it into the metadata of a unary call.
pub(crate) fn show<T>(request: &mut tonic::Request<T>) {
    let current = current();
    if !current.is_empty()
        && let Ok(value) = current.parse()
    {
        request.metadata_mut().insert("traceparent", value);
    }
}

#[cfg(all(test, feature = "traces"))]
mod tests {
    use opentelemetry::{
        Context,
        trace::{SpanContext, TraceContextExt as _, TraceFlags, TraceState},
    };

    use super::*;

    #[test]
    fn the_current_context_goes_along() {
        assert_eq!(current(), "");
        for (flags, end) in [(TraceFlags::SAMPLED, "01"), (TraceFlags::default(), "00")] {
            let span =
                SpanContext::new(0xabc.into(), 0x1.into(), flags, false, TraceState::default());
            let _current = Context::new().with_remote_span_context(span).attach();
            let expected = format!("00-{:032x}-{:016x}-{end}", 0xabc, 1);
            assert_eq!(current(), expected);
            let mut request = tonic::Request::new(());
            show(&mut request);
            assert_eq!(request.metadata().get("traceparent").unwrap(), &expected);
        }
    }
}
