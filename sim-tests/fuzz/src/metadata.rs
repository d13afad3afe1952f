//! What a call brings beside its message, of callers who were not asked who they are yet.

use tally_machine::auth::secret::{format_token, parse_token};
use tally_node::env::traces::{Asked, TraceContext};

use crate::{allocation::bounded, choose};

/// A bearer token, a `traceparent`, or the trace context of another node.
pub(crate) fn metadata(bytes: &[u8]) {
    let Some((which, bytes)) = choose(bytes, 3) else { return };
    if which == 2 {
        if let Some(context) = TraceContext::from_bytes(bytes) {
            assert_eq!(context.to_bytes(), bytes, "it has one encoding");
        }
        return;
    }
    let Ok(text) = str::from_utf8(bytes) else { return };
    if which == 0 {
        let Some((id, secret)) = bounded(text.len(), 1, 1024, || parse_token(text)) else { return };
        assert_eq!(parse_token(&format_token(id, &secret)), Some((id, secret)));
        return;
    }
    if let Asked::Yes(context) = bounded(text.len(), 2, 1024, || Asked::of(text)) {
        assert!(context.trace_id != 0 && context.span_id != 0, "zero is no id");
        let TraceContext { trace_id, span_id } = context;
        assert_eq!(
            Asked::of(&format!("00-{trace_id:032x}-{span_id:016x}-01")),
            Asked::Yes(context)
        );
        assert_eq!(TraceContext::from_bytes(&context.to_bytes()), Some(context));
    }
}
