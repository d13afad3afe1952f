//! Answers and refusals of the console, as pages of JSON.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use tally_proto::{
    status::Details,
    v1::{self, CallStatus},
};
use tonic::Code;

use super::json::header;
use crate::{api::audit::code_name, port::plain::Page};

/// What is no page is not taken for one, whatever is in it.
pub(super) const NOT_A_PAGE: &[(&str, &str)] = &[
    ("x-content-type-options", "nosniff"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
];

fn json_page(status: StatusCode, body: &Value) -> Page {
    Page {
        status,
        content_type: "application/json",
        body: format!("{body}\n"),
        headers: NOT_A_PAGE,
    }
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

/// An answer, what it is worth, and how long it took.
pub(super) fn answered(mut body: Value, of: Option<&v1::ResponseHeader>, took: Duration) -> Page {
    body["answer"] = of.map_or(Value::Null, header);
    body["took_us"] = json!(micros(took));
    json_page(StatusCode::OK, &body)
}

/// One item, or that there is none.
pub(super) fn item(item: Option<Value>, of: Option<&v1::ResponseHeader>, took: Duration) -> Page {
    answered(json!({ "found": item.is_some(), "item": item }), of, took)
}

/// A page of items.
pub(super) fn list(
    items: Vec<Value>,
    next: &str,
    of: Option<&v1::ResponseHeader>,
    took: Duration,
) -> Page {
    let next = (!next.is_empty()).then_some(next);
    answered(json!({ "items": items, "next": next }), of, took)
}

/// Text as it is.
pub(super) fn text(body: String) -> Page {
    Page { headers: NOT_A_PAGE, ..Page::text(StatusCode::OK, body) }
}

/// A refusal by the API, with all that it says.
pub(super) fn refused(status: &CallStatus, took: Duration) -> Page {
    let code = Code::from(status.code);
    let details = Details::parse_call(status);
    let outcome = details.outcome.map(|outcome| outcome.outcome().as_str_name());
    let ms = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let leader = details
        .leader
        .map(|leader| json!({ "node_id": leader.node_id, "address": leader.address, "term": leader.term }));
    let body = json!({
        "refused": {
            "code": code_name(code),
            "reason": details.reason,
            "message": status.message,
            "outcome": outcome.map(|name| name.trim_start_matches("OUTCOME_")),
            "retry_after_ms": details.retry_after.map(ms),
            "best_staleness_ms": details.staleness.and_then(|staleness| staleness.best_ms),
            "leader": leader,
            "request_id": details.request_id,
        },
        "answer": details.header.as_ref().map(header),
        "took_us": micros(took),
    });
    json_page(http_status(code), &body)
}

/// A refusal by the console itself.
pub(super) fn refused_page(status: StatusCode, reason: &str, why: &str) -> Page {
    json_page(status, &json!({ "refused": { "reason": reason, "message": why } }))
}

/// As which HTTP knows it.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::FailedPrecondition | Code::Aborted | Code::AlreadyExists => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
