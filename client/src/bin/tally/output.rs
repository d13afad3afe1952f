//! What is printed, and with which status the process exits.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use serde::Serialize;
use serde_json::{Value, json};
use tally_client::{Code, Error, Outcome};

/// How the process exits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done = 0,
    /// The demonstration's audit found something.
    AuditFailed = 1,
    Usage = 2,
    Refused = 3,
    NotApplied = 4,
    Unknown = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    value: Value,
    text: String,
}

impl Failure {
    pub(crate) fn usage(message: String) -> Self {
        let error = json!({ "code": "INVALID_ARGUMENT", "reason": "USAGE", "message": message });
        Self { exit: Exit::Usage, value: json!({ "error": error }), text: message }
    }

    /// The command could not do its work, and changed nothing.
    pub(crate) fn unable(message: String) -> Self {
        let error = json!({ "code": "UNAVAILABLE", "reason": "UNABLE", "message": message });
        Self { exit: Exit::NotApplied, value: json!({ "error": error }), text: message }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { exit: exit(&error), value: json!({ "error": describe(&error) }), text: text(&error) }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::usage(error.to_string())
    }
}

fn exit(error: &Error) -> Exit {
    if error.outcome() == Some(Outcome::Unknown) {
        return Exit::Unknown;
    }
    match error.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::ResourceExhausted
            if !error.is_decided() =>
        {
            Exit::NotApplied
        }
        Code::Unknown | Code::Internal if !error.is_decided() => Exit::NotApplied,
        _ => Exit::Refused,
    }
}

/// `NotFound` as `NOT_FOUND`.
fn code(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

fn describe(error: &Error) -> Value {
    let mut value = json!({
        "code": code(error.code()),
        "reason": error.reason(),
        "message": error.message(),
        "outcome": error.outcome(),
        "decided": error.is_decided(),
        "attempts": error.attempts(),
    });
    let mut put = |name: &str, detail: Value| value[name] = detail;
    if let Some(key) = error.idempotency_key() {
        put("idempotency_key", json!(key));
    }
    if error.speaks_of_this_call_only() {
        put("this_call_only", json!(true));
    }
    if let Some(leader) = error.leader() {
        let leader =
            json!({ "node_id": leader.node_id, "address": leader.address, "term": leader.term });
        put("leader", leader);
    }
    if let Some(stored) = error.condition() {
        put("stored", stored_instead(stored));
    }
    if let Some(failure) = error.bound() {
        put("bound", json!({ "value": failure.value, "bound": failure.bound }));
    }
    if let Some(step) = error.step() {
        use tally_client::proto::step_failure::Part;
        let (part, index) = match step.part {
            Some(Part::ConditionIndex(index)) => ("condition_index", json!(index)),
            Some(Part::OperationIndex(index)) => ("operation_index", json!(index)),
            None => ("part", Value::Null),
        };
        put("step", json!({ part: index, "else_branch": step.else_branch }));
    }
    if let Some(best) = error.best_staleness() {
        put("best_staleness_ms", json!(best.as_millis() as u64));
    }
    if let Some(pause) = error.retry_after() {
        put("retry_after_ms", json!(pause.as_millis() as u64));
    }
    if !error.fields().is_empty() {
        let fields = error.fields().iter();
        let fields: Vec<_> =
            fields.map(|(field, wrong)| json!({ "field": field, "description": wrong })).collect();
        put("fields", json!(fields));
    }
    if let Some(header) = error.header() {
        put("header", json!(header));
    }
    if let Some(id) = error.request_id() {
        put("request_id", json!(id));
    }
    value
}

fn stored_instead(stored: &tally_client::proto::ConditionFailure) -> Value {
    let mut value = json!({
        "exists": stored.exists,
        "modified_revision": stored.modified_revision,
    });
    if let Some(counter) = stored.counter_value {
        value["value"] = json!(counter);
    }
    if let Some(bytes) = &stored.value {
        let item = tally_client::KeyValue { value: bytes.clone(), ..Default::default() };
        let item = json!(item);
        for name in ["value", "value_base64"] {
            if let Some(text) = item.get(name) {
                value[name] = text.clone();
            }
        }
        value["value_size_bytes"] = json!(stored.value_size_bytes);
    }
    value
}

/// What a person needs to know: above all whether it happened.
fn text(error: &Error) -> String {
    let mut text = format!("{} ({})", error.message(), error.reason());
    for (field, wrong) in error.fields() {
        text += &format!("\n  {field}: {wrong}");
    }
    if let Some(stored) = error.condition() {
        text += &match stored.counter_value {
            Some(value) => {
                format!("\n  stored: {value}, revision {}", stored.modified_revision)
            }
            None if stored.exists => format!(
                "\n  stored: {} bytes, revision {}",
                stored.value_size_bytes, stored.modified_revision
            ),
            None => "\n  stored: nothing".to_owned(),
        };
    }
    match (error.outcome(), error.idempotency_key()) {
        (Some(Outcome::Unknown), Some(key)) => {
            text += &format!(
                "\nThe outcome is UNKNOWN: it may have been applied, or may still be. To find out, \
                 or to make\nsure of it, run the same command with --idempotency-key {key}: under \
                 that key it can't count\ntwice for as long as the cluster remembers it (at least a \
                 minute)."
            );
        }
        (Some(Outcome::Unknown), None) => {
            text += "\nThe outcome is UNKNOWN: it may have been applied, or may still be.";
        }
        (Some(Outcome::NotApplied), _) if error.speaks_of_this_call_only() => {
            text += "\nNothing was done by this call; an earlier one under this key may have been \
                     applied: send it\nagain under the same key to know.";
        }
        (Some(Outcome::NotApplied), _) if exit(error) == Exit::NotApplied => {
            text += "\nIt was not applied; sending it again is safe.";
        }
        (Some(Outcome::NotApplied), _) => text += "\nIt was not applied.",
        (None, _) => {}
    }
    text
}

/// Prints results: for people, or as JSON.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

impl Output {
    /// Prints a result in one of its two forms.
    pub(crate) fn result<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) {
        if self.json {
            match serde_json::to_string(value) {
                Ok(json) => line(&json),
                Err(error) => line(&format!("{{\"error\":{{\"message\":\"{error}\"}}}}")),
            }
        } else {
            let text = text(value);
            if !text.is_empty() {
                line(&text);
            }
        }
    }

    /// Prints an error: JSON goes where results go.
    pub(crate) fn failure(self, failure: &Failure) -> ExitCode {
        if self.json {
            line(&failure.value.to_string());
        } else {
            let _ = writeln!(io::stderr(), "tally: {}", failure.text);
        }
        failure.exit.into()
    }
}

/// Prints a line; a reader that has gone away is no reason to panic.
pub(crate) fn line(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Prints to standard error, over the line before on a terminal.
pub(crate) fn progress(text: &str) {
    use std::io::IsTerminal as _;
    let mut stderr = io::stderr();
    let _ = if stderr.is_terminal() {
        write!(stderr, "\r\x1b[2K{text}")
    } else {
        writeln!(stderr, "{text}")
    };
    let _ = stderr.flush();
}

/// Ends what `progress` wrote.
pub(crate) fn progress_done() {
    use std::io::IsTerminal as _;
    if io::stderr().is_terminal() {
        let _ = writeln!(io::stderr());
    }
}

/// A line that stays.
pub(crate) fn note(text: &str) {
    progress(text);
    progress_done();
}

/// Columns, aligned; the first row is the head.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_spelled_as_grpc_does() {
        assert_eq!(code(Code::NotFound), "NOT_FOUND");
        assert_eq!(code(Code::DeadlineExceeded), "DEADLINE_EXCEEDED");
        assert_eq!(code(Code::Ok), "OK");
    }

    #[test]
    fn tables_are_aligned() {
        let rows = [vec!["id".into(), "role".into()], vec!["10".into(), "leader".into()]];
        assert_eq!(table(&rows), "id  role\n10  leader");
    }
}
