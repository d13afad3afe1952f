//! What the audit log has of the metrics port: changes, and who was refused for who it is.

use http::{StatusCode, header::AUTHORIZATION};

use super::Eyes;
use crate::{
    audit::Line,
    port::plain::{Asked, Page},
};

impl Eyes {
    /// Begins the line of a page; none without an audit log, or where nothing could be recorded. An error if a change
    /// must be recorded and can't be.
    pub(super) fn record(&self, asked: &Asked, changes: bool) -> Result<Option<Line>, Page> {
        let Some(log) = &self.audit else { return Ok(None) };
        // A probe that shows nothing is told less for it, and refused nothing.
        let shows = asked.headers.contains_key(AUTHORIZATION) || asked.caller.is_some();
        if asked.path == "/readyz" && !shows {
            return Ok(None);
        }
        let mut line = log.line("page");
        line.word("method", asked.method.as_str());
        line.word("path", &asked.path);
        if let Some(from) = asked.from {
            line.word("from", &from.to_canonical().to_string());
        }
        if changes {
            line.word("log_filter", asked.body.trim());
            if line.reserve().is_err() {
                log.refused_request();
                let why = "the audit log can't be written, and what it must not drop is refused\n";
                return Err(Page::text(StatusCode::SERVICE_UNAVAILABLE, why));
            }
        }
        Ok(Some(line))
    }
}

/// Writes what was decided, if that is recorded.
pub(super) fn write(mut line: Line, changes: bool, refused: Option<&Page>) {
    let decision = match refused.map(|page| page.status) {
        None => "allowed",
        Some(StatusCode::UNAUTHORIZED) => "UNAUTHENTICATED",
        Some(StatusCode::FORBIDDEN) => "PERMISSION_DENIED",
        Some(_) => "undecided",
    };
    if !changes && matches!(decision, "allowed" | "undecided") {
        return;
    }
    line.word("decision", decision);
    if let Some(page) = refused {
        line.word("why", page.body.trim_end());
    }
    line.write();
}
