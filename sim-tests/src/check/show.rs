//! Operations as a message quotes them: on one line, with what was asked, when, and what came back.

use std::fmt::Write as _;

use tally_client::{
    Branch,
    history::{Answer, Compare, Condition, Op, Part, Record, Scalar, Status},
};

/// `[client 3: incr "stock" -1 floor 0, 1.200..5.300 ms, ok: 6 at revision 42]`
pub(crate) fn show(record: &Record) -> String {
    let mut text = format!("[client {}: {}", record.client, request(record));
    let ms = |ns: u64| format!("{}.{:06}", ns / 1_000_000, ns % 1_000_000);
    let ret = record.ret.map_or("?".to_owned(), ms);
    let _ = write!(text, ", {}..{ret} ms, {}", ms(record.call), status(record));
    if let Some(result) = answers(record) {
        let _ = write!(text, ": {result}");
    }
    if let Some(reason) = &record.reason {
        let _ = write!(text, " {reason}");
    }
    if let Some(revision) = record.revision {
        let _ = write!(text, ", state {revision}");
    }
    if let Some(node) = record.node {
        let _ = write!(text, " of node {node}");
    }
    if record.replayed == Some(true) {
        text += ", replayed";
    }
    text + "]"
}

/// Several, each on a line of its own, and no more than can be read.
pub(super) fn show_all<'a>(records: impl IntoIterator<Item = &'a Record>) -> String {
    const SHOWN_MAX: usize = 5;
    let mut text = String::new();
    let mut count = 0;
    for record in records {
        if count < SHOWN_MAX {
            let _ = write!(text, "\n  {}", show(record));
        }
        count += 1;
    }
    if count > SHOWN_MAX {
        let _ = write!(text, "\n  and {} more", count - SHOWN_MAX);
    }
    text
}

fn status(record: &Record) -> &'static str {
    match record.status {
        Status::Ok => "ok",
        Status::Fail => "failed",
        Status::Unknown => "unknown",
    }
}

fn request(record: &Record) -> String {
    let mut text = part(&record.part);
    let parts = if record.branch == Some(Branch::Else) { &record.else_ops } else { &record.ops };
    if !parts.is_empty() {
        let parts: Vec<_> = parts.iter().map(part).collect();
        let _ = write!(text, " ({})", parts.join("; "));
    }
    for when in &record.when {
        let _ = write!(text, " when {}", condition(when));
    }
    if let Some(level) = record.level {
        let _ = write!(text, " {level:?}").map(|()| text.make_ascii_lowercase());
    }
    if let Some(bound) = record.bound_ms {
        let _ = write!(text, " {bound} ms");
    }
    if let Some(idem) = &record.idem {
        let _ = write!(text, " idem {idem}");
    }
    text
}

fn condition(when: &Condition) -> String {
    let compare = match when.compare.unwrap_or(Compare::Equal) {
        Compare::Equal => "==",
        Compare::NotEqual => "!=",
        Compare::Less => "<",
        Compare::LessOrEqual => "<=",
        Compare::Greater => ">",
        Compare::GreaterOrEqual => ">=",
    };
    let key = &when.key;
    match (when.exists, when.version, &when.value) {
        (Some(true), ..) => format!("{key:?} exists"),
        (Some(false), ..) => format!("{key:?} is absent"),
        (None, Some(version), _) => format!("revision of {key:?} {compare} {version}"),
        (None, None, value) => format!("{key:?} {compare} {}", scalar(value)),
    }
}

fn scalar(value: &Option<Scalar>) -> String {
    match value {
        None => "absent".into(),
        Some(Scalar::Int(value)) => value.to_string(),
        Some(Scalar::Text(text)) if text.chars().count() <= 40 => format!("{text:?}"),
        Some(Scalar::Text(text)) => format!("{} bytes", text.len()),
        Some(Scalar::Bytes { base64 }) => format!("{} bytes", base64.len() / 4 * 3),
    }
}

fn part(part: &Part) -> String {
    let mut text = match part.op {
        Op::BatchGet => "batch_get".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    };
    if let Some(key) = &part.key {
        let _ = write!(text, " {key:?}");
    }
    if let Some(delta) = part.delta {
        let _ = write!(text, " {delta:+}");
    }
    if part.value.is_some() {
        let _ = write!(text, " to {}", scalar(&part.value));
    }
    for (name, bound) in [("floor", part.floor), ("ceiling", part.ceiling)] {
        if let Some(bound) = bound {
            let _ = write!(text, " {name} {bound}");
        }
    }
    if let Some(expect) = &part.expect {
        let _ = write!(text, " if {}", scalar(expect));
    }
    if let Some(version) = part.expect_version {
        let _ = write!(text, " if revision {version}");
    }
    for (flag, name) in [
        (part.saturate, "saturate"),
        (part.must_exist, "must exist"),
        (part.expect_present, "if present"),
    ] {
        if flag {
            let _ = write!(text, " {name}");
        }
    }
    text
}

fn answers(record: &Record) -> Option<String> {
    let parts = if record.branch == Some(Branch::Else) { &record.else_ops } else { &record.ops };
    if record.status != Status::Ok || parts.is_empty() {
        return record.part.result.as_ref().map(answer);
    }
    let told = |part: &Part| part.result.as_ref().map_or("not told".to_owned(), answer);
    Some(parts.iter().map(told).collect::<Vec<_>>().join("; "))
}

fn answer(answer: &Answer) -> String {
    let mut text = answer.value.as_ref().map_or(String::new(), scalar);
    if let Some(before) = answer.before {
        let _ = write!(text, " (was {before})");
    }
    if let Some(version) = answer.version {
        let _ = write!(text, " at revision {version}");
    }
    text.trim_start().to_owned()
}
