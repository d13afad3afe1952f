//! What is printed, and with which status the process exits.

mod words;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use serde::Serialize;
use serde_json::{Value, json};
use tally_client::{Code, Error, Outcome};

pub(crate) use self::words::{escaped, table, word};
use crate::{
    json::{self, Integers},
    key,
};

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
    /// It was done, and what came of it could not be printed.
    NotPrinted = 6,
    /// `status --check`: something wants to be looked at, and writes are answered.
    Degraded = 7,
    /// `status --check`: writes are not answered.
    NoWrites = 8,
    /// What was to be read, or a part of it, does not exist.
    NotFound = 9,
    /// A node found the request itself wrong.
    WrongRequest = 10,
    /// `--one-point`: something was written while it was read, each time.
    NotOnePoint = 11,
    /// Ctrl-C, or SIGTERM, cut it short.
    CutShort = 130,
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
    pub(crate) text: String,
    /// Standard output takes nothing, or has had its object: this is not printed there.
    output_failed: bool,
}

impl Failure {
    pub(crate) fn usage(message: String) -> Self {
        let error = json!({ "code": "INVALID_ARGUMENT", "reason": "USAGE", "message": message });
        Self::new(Exit::Usage, json!({ "error": error }), message)
    }

    fn new(exit: Exit, value: Value, text: String) -> Self {
        Self { exit, value, text, output_failed: false }
    }

    /// What was done could not be printed. A reader that has gone away wants no more, and is told
    /// nothing.
    pub(crate) fn not_printed(error: &io::Error, done: &str) -> Self {
        let gone = error.kind() == io::ErrorKind::BrokenPipe;
        let exit = if gone { Exit::Done } else { Exit::NotPrinted };
        let text = if gone { String::new() } else { format!("{done}: {error}") };
        Self { output_failed: true, ..Self::new(exit, Value::Null, text) }
    }

    /// The cluster had no place for a part of it, behind what was printed of the rest, if anything was.
    pub(crate) fn no_place(message: String, is_printed: bool) -> Self {
        let (code, reason) = ("RESOURCE_EXHAUSTED", tally_client::reason::SESSION_TABLE_FULL);
        let error = json!({ "code": code, "reason": reason, "message": message });
        let failure = Self::new(Exit::Refused, json!({ "error": error }), message);
        Self { output_failed: is_printed, ..failure }
    }

    /// Pages were to be one point of the history, and were not.
    pub(crate) fn not_one_point(message: String) -> Self {
        let error = json!({ "code": "ABORTED", "reason": "NOT_ONE_POINT", "message": message });
        Self::new(Exit::NotOnePoint, json!({ "error": error }), message)
    }

    /// A command that is many writes broke off. It is safe to be repeated, whatever became of the last one.
    pub(crate) fn broken_off(error: Error, so_far: &str, deleted: u64) -> Self {
        let (exit, mut value) = (exit(&error), describe(&error));
        value["deleted"] = json!(deleted);
        let text = format!("{} ({})\n{so_far}", escaped(error.message()), escaped(error.reason()));
        Self::new(exit, json!({ "error": value }), text)
    }

    /// Somebody cut it short, before there was anything to print.
    pub(crate) fn cut_short(message: String) -> Self {
        let error = json!({ "code": "CANCELLED", "reason": "CUT_SHORT", "message": message });
        Self::new(Exit::CutShort, json!({ "error": error }), message)
    }

    /// A change of the members is refused; what it would have done is known.
    pub(crate) fn membership(message: String, plan: &Value) -> Self {
        let (code, reason) = ("FAILED_PRECONDITION", tally_client::reason::MEMBERSHIP_REFUSED);
        let error = json!({ "code": code, "reason": reason, "message": message, "plan": plan });
        Self::new(Exit::Refused, json!({ "error": error }), escaped(&message))
    }

    /// What was asked for is refused for what the cluster is now; that is in `plan`.
    pub(crate) fn refused_now(reason: &str, message: String, plan: &Value) -> Self {
        let code = "FAILED_PRECONDITION";
        let error = json!({ "code": code, "reason": reason, "message": message, "plan": plan });
        Self::new(Exit::Refused, json!({ "error": error }), escaped(&message))
    }

    /// The command could not do its work, and changed nothing.
    pub(crate) fn unable(message: String) -> Self {
        let error = json!({ "code": "UNAVAILABLE", "reason": "UNABLE", "message": message });
        Self::new(Exit::NotApplied, json!({ "error": error }), message)
    }
}

impl Failure {
    /// Nobody waited for the end of a write: it may have been sent.
    pub(crate) fn cut_short_write(key: &str) -> Self {
        let message = "cut short before an answer came";
        let error = json!({ "code": "CANCELLED", "reason": "CUT_SHORT", "message": message,
            "outcome": Outcome::Unknown, "idempotency_key": key });
        Self::new(Exit::Unknown, json!({ "error": error }), message.to_owned() + &unknown(key))
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whoever read the output has gone away.
    pub(crate) fn is_nobody_there(&self) -> bool {
        self.output_failed && self.exit == Exit::Done
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(exit(&error), json!({ "error": describe(&error) }), text(&error))
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
        Code::NotFound if error.outcome().is_none() => Exit::NotFound,
        Code::InvalidArgument if !error.is_decided() => Exit::WrongRequest,
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
    if speaks_of_this_call_only(error) {
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
    if let Some(failure) = error.quota() {
        put("quota", quota(failure));
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

fn quota(failure: &tally_client::proto::QuotaFailure) -> Value {
    let short = |name: &str, of: &str| name.trim_start_matches(of).to_lowercase();
    json!({
        "scope": short(failure.scope().as_str_name(), "QUOTA_SCOPE_"),
        "prefix": failure.prefix,
        "unit": short(failure.unit().as_str_name(), "QUOTA_UNIT_"),
        "used": failure.used,
        "limit": failure.limit,
        "grows_by": failure.grows_by,
    })
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

/// What to do where nobody knows whether a write was applied.
fn unknown(key: &str) -> String {
    format!(
        "\nThe outcome is UNKNOWN: it may have been applied, or may still be. To find out, or to make\nsure \
         of it, run the same command with --idempotency-key {}: under that key it can't count\ntwice for as \
         long as the cluster remembers it (at least a minute).",
        word(key)
    )
}

/// Whether an earlier call under its key may have been applied, though this one was not.
fn speaks_of_this_call_only(error: &Error) -> bool {
    error.speaks_of_this_call_only() && !key::is_drawn(error.idempotency_key())
}

/// What a person needs to know: above all whether it happened.
fn text(error: &Error) -> String {
    let mut text = format!("{} ({})", escaped(error.message()), escaped(error.reason()));
    for (field, wrong) in error.fields() {
        // With one wrong field, the message is about it.
        if error.message() == format!("{field}: {wrong}") {
            continue;
        }
        text += &format!("\n  {}: {}", escaped(field), escaped(wrong));
    }
    // A node's message has it already.
    if let Some(stored) = error.condition()
        && !error.message().contains(&format!("at revision {}", stored.modified_revision))
        && !error.message().contains("does not exist")
    {
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
    if error.nobody_listens() {
        text += "\nIs the cluster running? `tallyd dev` starts one on this machine; --endpoints names others.";
    }
    match (error.outcome(), error.idempotency_key()) {
        (Some(Outcome::Unknown), Some(key)) => {
            text += &unknown(key);
        }
        (Some(Outcome::Unknown), None) => {
            text += "\nThe outcome is UNKNOWN: it may have been applied, or may still be.";
        }
        (Some(Outcome::NotApplied), _) if speaks_of_this_call_only(error) => {
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
    /// How JSON has its integers.
    pub(crate) integers: Integers,
    /// What answers are worth is said beside them.
    pub(crate) verbose: bool,
}

impl Output {
    pub(crate) fn new(json: Option<Integers>, verbose: bool) -> Self {
        Self { json: json.is_some(), integers: json.unwrap_or_default(), verbose }
    }

    /// Prints what was read, or measured, in one of its two forms.
    pub(crate) fn result<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        print_form(&self.form(value, text))
    }

    /// Prints what came of a write. If it can't be, it is said on standard error: the write was done.
    pub(crate) fn written<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let form = self.form(value, text);
        print_line(&form).map_err(|error| {
            let done = format!(
                "the write WAS APPLIED, and this could not be written to the output:\n  {}\nDo not \
                 send it again to see it, but under the same --idempotency-key. Why it could not",
                form.replace('\n', "\n  ")
            );
            Failure::not_printed(&error, &done)
        })
    }

    /// One of its two forms.
    pub(crate) fn form<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> String {
        if self.json {
            json::text(value, self.integers)
                .unwrap_or_else(|error| format!("{{\"error\":{{\"message\":\"{error}\"}}}}"))
        } else {
            text(value)
        }
    }

    /// Prints an error: JSON goes where results go, and to standard error if it can't.
    pub(crate) fn failure(self, failure: &Failure) -> ExitCode {
        let printed = self.json
            && !failure.output_failed
            && print_line(&self.form(&failure.value, Value::to_string)).is_ok();
        if !printed && !failure.text.is_empty() {
            let _ = writeln!(io::stderr(), "tally: {}", failure.text);
        }
        failure.exit.into()
    }

    /// Says that the command line is wrong, or what was asked of the program itself.
    pub(crate) fn usage(self, error: &clap::Error) -> ExitCode {
        if !error.use_stderr() {
            let printed = error.print().and_then(|()| io::stdout().flush());
            let failed = printed
                .map_err(|error| Failure::not_printed(&error, "the output could not be written"));
            return failed.map_or_else(|failure| self.failure(&failure), |()| Exit::Done.into());
        }
        if self.json {
            let text = error.render().to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text).trim();
            return self.failure(&Failure::usage(text.to_owned()));
        }
        // In colours, on a terminal.
        let _ = error.print();
        Exit::Usage.into()
    }
}

/// Something went to standard output.
static PRINTED: AtomicBool = AtomicBool::new(false);

pub(crate) fn has_printed() -> bool {
    PRINTED.load(Ordering::Relaxed)
}

pub(crate) fn forget_printed() {
    PRINTED.store(false, Ordering::Relaxed);
}

/// Writes to standard output, through to its end: what was not flushed was not written.
pub(crate) fn print(bytes: &[u8]) -> io::Result<()> {
    PRINTED.store(true, Ordering::Relaxed);
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// A line, unless there is nothing to say.
fn print_line(form: &str) -> io::Result<()> {
    if form.is_empty() { Ok(()) } else { print(format!("{form}\n").as_bytes()) }
}

/// Prints what [`Output::form`] made of a result.
pub(crate) fn print_form(form: &str) -> Result<(), Failure> {
    let printed = print_line(form);
    printed.map_err(|error| Failure::not_printed(&error, "the output could not be written"))
}

/// Prints a line of its own.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    print(format!("{text}\n").as_bytes())
        .map_err(|error| Failure::not_printed(&error, "the output could not be written"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_spelled_as_grpc_does() {
        assert_eq!(code(Code::NotFound), "NOT_FOUND");
        assert_eq!(code(Code::DeadlineExceeded), "DEADLINE_EXCEEDED");
        assert_eq!(code(Code::Ok), "OK");
    }
}
