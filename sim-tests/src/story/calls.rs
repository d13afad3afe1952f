//! Calls of clients that teach: refused for the cluster's sake, of unknown outcome, shown something old,
//! answered again from memory, or kept waiting.

use tally_client::history::{Kind, Level, Op, Part, Record, Scalar, Status};

use super::{Line, span};

const NS_PER_MS: u64 = 1_000_000;
/// A call that is answered later than this was kept waiting.
const SLOW_MS: u64 = 1_000;

pub(super) fn lines(records: &[Record]) -> Vec<Line> {
    let reached = reached(records);
    let told = records.iter().filter(|record| !is_for_the_checker(record));
    told.filter_map(|record| line(record, &reached)).collect()
}

/// What clients that speak to one node without the library ask so that there is an answer to judge, and
/// nobody else would: the same call twice, a number of long ago, a bound so low that it is refused at once.
fn is_for_the_checker(record: &Record) -> bool {
    let reason = record.reason.as_deref();
    let took_ms = record.ret.unwrap_or(u64::MAX).saturating_sub(record.call) / NS_PER_MS;
    !crate::workload::uses_library(record.client)
        && (record.replayed == Some(true)
            || reason == Some("SEQUENCE_TOO_OLD")
            || reason == Some("STALENESS_BOUND_EXCEEDED") && took_ms < SLOW_MS)
}

/// When writes were acknowledged, in ms, in order.
pub(super) fn acked_ms(records: &[Record]) -> Vec<u64> {
    let acked = records.iter().filter(|record| record.status == Status::Ok && !record.is_read());
    let mut acked_ms: Vec<u64> = acked.filter_map(|record| Some(record.ret? / NS_PER_MS)).collect();
    acked_ms.sort_unstable();
    acked_ms
}

/// By the time of the answer: the highest revision of an acknowledged write by then.
fn reached(records: &[Record]) -> Vec<(u64, u64)> {
    let written = |record: &Record| {
        let is_write = record.status == Status::Ok && !record.is_read();
        Some((record.ret?, record.part.result.as_ref()?.version?)).filter(|_| is_write)
    };
    let mut reached: Vec<(u64, u64)> = records.iter().filter_map(written).collect();
    reached.sort_unstable();
    for at in 1..reached.len() {
        reached[at].1 = reached[at].1.max(reached[at - 1].1);
    }
    reached
}

fn line(record: &Record, reached: &[(u64, u64)]) -> Option<Line> {
    let ms = record.call / NS_PER_MS;
    let took_ms = record.ret.map(|ret| ret.saturating_sub(record.call) / NS_PER_MS);
    let took = took_ms.map_or(String::new(), |took| format!(" after {}", span(took)));
    let (kind, end) = match record.status {
        Status::Fail => {
            let reason = record.reason.as_deref().filter(|reason| !is_business(reason))?;
            let node = record.node.map_or(String::new(), |node| format!(" (node {node})"));
            (reason.to_owned(), format!("refused with {reason}{took}{node}"))
        }
        Status::Unknown if record.is_read() => return None,
        Status::Unknown => {
            let reason = record.reason.as_deref().unwrap_or_default();
            let told = if reason.is_empty() {
                "given up before the answer".to_owned()
            } else {
                format!("outcome UNKNOWN ({reason})")
            };
            (format!("unknown {reason}"), format!("{told}: it may have been applied"))
        }
        Status::Ok => answered(record, took_ms?, reached)?,
    };
    let alike = format!("{kind} {:?} {:?}", record.level, record.is_read());
    let who = format!("client {}", record.client);
    Some(Line { alike: Some(alike), ..Line::new(ms, who, format!("{}: {end}", request(record))) })
}

/// Refusals that say something of the data, and nothing of the cluster.
fn is_business(reason: &str) -> bool {
    let reasons = [
        "BELOW_FLOOR",
        "ABOVE_CEILING",
        "OVERFLOW",
        "CONDITION_FAILED",
        "COUNTER_NOT_FOUND",
        "KEY_NOT_FOUND",
        "ANSWER_TOO_LARGE",
        "IDEMPOTENCY_KEY_REUSED",
        "SEQUENCE_REUSED",
        "SEQUENCE_TOO_OLD",
        "SESSION_WINDOW_FULL",
    ];
    reasons.contains(&reason)
}

fn answered(record: &Record, took_ms: u64, reached: &[(u64, u64)]) -> Option<(String, String)> {
    if record.replayed == Some(true) {
        let text = format!("{}, answered from memory: it counts once", value(record));
        return Some(("replayed".to_owned(), text));
    }
    let level = record.consistency.filter(|level| *level != Level::Linearizable);
    if let (Some(level), Some(shown)) = (level.filter(|_| record.is_read()), record.revision) {
        let before = reached.partition_point(|(ret, _)| *ret < record.call);
        let newest = before.checked_sub(1).map_or(0, |at| reached[at].1);
        if shown < newest {
            let node = record.node.map_or(String::new(), |node| format!("node {node}, "));
            let age = match record.staleness_ms {
                Some(ms) => format!("at most {} old", span(ms)),
                None => "of unknown age".to_owned(),
            };
            let text = format!(
                "{} ({node}{}, {age}); {} newer revisions were acknowledged before",
                value(record),
                name(level).to_uppercase(),
                newest - shown
            );
            return Some(("old".to_owned(), text));
        }
    }
    (took_ms >= SLOW_MS).then(|| {
        ("slow".to_owned(), format!("{}, answered after {}", value(record), span(took_ms)))
    })
}

fn name(level: Level) -> &'static str {
    match level {
        Level::Local => "local",
        Level::Session => "session",
        Level::Bounded => "bounded",
        Level::Linearizable => "linearizable",
    }
}

fn value(record: &Record) -> String {
    match record.part.result.as_ref().and_then(|result| result.value.as_ref()) {
        Some(Some(Scalar::Int(value))) => value.to_string(),
        Some(Some(Scalar::Text(text))) if text.chars().count() <= 20 => format!("{text:?}"),
        Some(Some(_)) => "a value".to_owned(),
        Some(None) => "absent".to_owned(),
        None => "done".to_owned(),
    }
}

/// As it is typed.
fn request(record: &Record) -> String {
    let mut text = match record.part.op {
        Op::Apply => format!("apply, {} operations", record.ops.len()),
        Op::BatchGet => {
            let counters = record.ops.first().is_none_or(Part::is_counter);
            let what = if counters { "counter get" } else { "kv get" };
            format!("{what}, {} names", record.ops.len())
        }
        _ => part(&record.part),
    };
    match (record.level, record.bound_ms) {
        (Some(Level::Bounded), Some(ms)) => text += &format!(" --read bounded:{ms}ms"),
        (Some(level), _) if level != Level::Linearizable => {
            text += &format!(" --read {}", name(level))
        }
        _ => {}
    }
    if record.idem.is_some() {
        text += " --idempotency-key …";
    }
    text
}

fn part(part: &Part) -> String {
    let key = part.key.as_deref().unwrap_or_default();
    let number = match &part.value {
        Some(Scalar::Int(value)) => value.to_string(),
        _ => "…".to_owned(),
    };
    let is_counter = part.is_counter() || part.kind == Some(Kind::Counter);
    let space = if is_counter { "counter" } else { "kv" };
    match part.op {
        Op::Incr => format!("counter add {key} {}", part.delta.unwrap_or(0)),
        Op::Get => format!("counter get {key}"),
        Op::Read => format!("kv get {key}"),
        Op::Set => format!("counter set {key} {number}"),
        Op::Configure => format!("counter configure {key}"),
        Op::Put => format!("kv put {key} {number}"),
        Op::Cas => format!("{space} cas {key} {number}"),
        Op::Delete => format!("{space} delete {key}"),
        Op::Apply | Op::BatchGet => String::new(),
    }
}
