//! The page itself, which is in the binary.

use http::StatusCode;

use crate::port::plain::Page;

/// The page runs its own scripts and asks its own node; nothing else is run, loaded, asked or framed.
const PAGE: &[(&str, &str)] = &[
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
];

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// What is at a path, if it is of the page.
pub(super) fn of(path: &str) -> Option<Page> {
    let (content_type, body) = match path {
        "/" => ("text/html; charset=utf-8", include_str!("page/index.html")),
        "/console.css" => ("text/css; charset=utf-8", include_str!("page/console.css")),
        "/console.js" => (SCRIPT, include_str!("page/console.js")),
        "/base.js" => (SCRIPT, include_str!("page/base.js")),
        "/metrics.js" => (SCRIPT, include_str!("page/metrics.js")),
        "/browse.js" => (SCRIPT, include_str!("page/browse.js")),
        _ => return None,
    };
    Some(Page { status: StatusCode::OK, content_type, body: body.to_owned(), headers: PAGE })
}
