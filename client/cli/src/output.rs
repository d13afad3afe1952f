//! What is printed, and with which status the process exits.

use std::{
    borrow::Cow,
    io::{self, Write as _},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
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

    /// The command could not do its work, and changed nothing.
    pub(crate) fn unable(message: String) -> Self {
        let error = json!({ "code": "UNAVAILABLE", "reason": "UNABLE", "message": message });
        Self::new(Exit::NotApplied, json!({ "error": error }), message)
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
    let mut text = format!("{} ({})", escaped(error.message()), escaped(error.reason()));
    for (field, wrong) in error.fields() {
        // With one wrong field, the message is about it.
        if error.message() == format!("{field}: {wrong}") {
            continue;
        }
        text += &format!("\n  {}: {}", escaped(field), escaped(wrong));
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
    if error.nobody_listens() {
        text += "\nIs the cluster running? `tallyd dev` starts one on this machine; --endpoints names others.";
    }
    match (error.outcome(), error.idempotency_key()) {
        (Some(Outcome::Unknown), Some(key)) => {
            text += &format!(
                "\nThe outcome is UNKNOWN: it may have been applied, or may still be. To find out, \
                 or to make\nsure of it, run the same command with --idempotency-key {}: under \
                 that key it can't count\ntwice for as long as the cluster remembers it (at least a \
                 minute).",
                word(key)
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
    /// What answers are worth is said beside them.
    pub(crate) verbose: bool,
}

impl Output {
    /// Prints what was read, or measured, in one of its two forms.
    pub(crate) fn result<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let printed = self.print(&self.form(value, text));
        printed.map_err(|error| Failure::not_printed(&error, "the output could not be written"))
    }

    /// Prints what came of a write. If it can't be, it is said on standard error: the write was done.
    pub(crate) fn written<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let form = self.form(value, text);
        self.print(&form).map_err(|error| {
            let done = format!(
                "the write WAS APPLIED, and this could not be written to the output:\n  {}\nDo not \
                 send it again to see it, but under the same --idempotency-key. Why it could not",
                form.replace('\n', "\n  ")
            );
            Failure::not_printed(&error, &done)
        })
    }

    fn form<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> String {
        if self.json {
            serde_json::to_string(value)
                .unwrap_or_else(|error| format!("{{\"error\":{{\"message\":\"{error}\"}}}}"))
        } else {
            text(value)
        }
    }

    fn print(self, form: &str) -> io::Result<()> {
        if form.is_empty() { Ok(()) } else { print(format!("{form}\n").as_bytes()) }
    }

    /// Prints an error: JSON goes where results go, and to standard error if it can't.
    pub(crate) fn failure(self, failure: &Failure) -> ExitCode {
        let printed = self.json
            && !failure.output_failed
            && print(format!("{}\n", failure.value).as_bytes()).is_ok();
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

/// Writes to standard output, through to its end: what was not flushed was not written.
pub(crate) fn print(bytes: &[u8]) -> io::Result<()> {
    PRINTED.store(true, Ordering::Relaxed);
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// Prints a line of its own.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    print(format!("{text}\n").as_bytes())
        .map_err(|error| Failure::not_printed(&error, "the output could not be written"))
}

/// It prints as itself, and moves nothing: no control character, and none of those that hide text or
/// turn its direction.
fn is_plain(letter: char) -> bool {
    let moves = matches!(letter,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    !letter.is_control() && !moves
}

/// A text of somebody else's, on one line and without an effect on the terminal.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_plain(letter) {
            escaped.push(letter)
        } else {
            escaped.extend(letter.escape_default())
        }
    }
    escaped
}

/// A name, or a value, as a word of a line: as it is if nobody can take it for something else, in
/// quotes and escaped otherwise. Two spaces are what columns are separated by.
pub(crate) fn word(text: &str) -> Cow<'_, str> {
    let is_clear = text.chars().all(is_plain)
        && !text.is_empty()
        && !text.contains("  ")
        && !text.starts_with(['"', ' '])
        && !text.ends_with(' ');
    if is_clear {
        return Cow::Borrowed(text);
    }
    let mut quoted = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            _ if is_plain(letter) => quoted.push(letter),
            _ => quoted.extend(letter.escape_default()),
        }
    }
    quoted.push('"');
    Cow::Owned(quoted)
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

/// Columns, aligned; the first row is the head. What nodes say of themselves is escaped.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let escape = |row: &Vec<String>| row.iter().map(|cell| escaped(cell)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(escape).collect();
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
    fn words_can_be_taken_for_nothing_else() {
        for plain in ["a/x", "page views", "größe", "e\u{301}", "a\\b", "x\"y", "日本"] {
            assert_eq!(word(plain), plain);
        }
        for (name, quoted) in [
            ("", r#""""#),
            ("a/x  0\na/gold  1", r#""a/x  0\na/gold  1""#),
            ("\u{1b}[2J", r#""\u{1b}[2J""#),
            ("a\u{202e}b", r#""a\u{202e}b""#),
            ("\"a\\n\"", r#""\"a\\n\"""#),
            (" a", r#"" a""#),
        ] {
            assert_eq!(word(name), quoted);
        }
        assert_eq!(escaped("a\r\u{9b}b"), "a\\r\\u{9b}b");
    }

    #[test]
    fn tables_are_aligned() {
        let rows = [vec!["id".into(), "role".into()], vec!["10".into(), "leader".into()]];
        assert_eq!(table(&rows), "id  role\n10  leader");
    }
}
