//! Histories made by hand, good and bad, and histories of a store that breaks one promise on
//! purpose. Times are in milliseconds.

mod adds;
mod bad;
mod chain;
mod good;
mod machine;
mod property;
mod speed;
mod store;

use tally_client::history::{Answer, Level, Part, Record, Status};
use tally_proto::reason;

use super::{Assumptions, Rule, Verdict, Violation, judge, judge_with};

const MS: u64 = 1_000_000;

/// An operation that was answered.
fn ok(client: u64, call: u64, ret: u64, part: Part, answer: Answer) -> Record {
    let mut record = Record::new(client, part, call * MS);
    record.ret = Some(ret * MS);
    record.status = Status::Ok;
    record.part.result = Some(answer);
    record
}

fn unknown(client: u64, call: u64, part: Part) -> Record {
    Record::new(client, part, call * MS)
}

fn refused(client: u64, call: u64, ret: u64, part: Part, reason: &str, revision: u64) -> Record {
    let mut record = ok(client, call, ret, part, Answer::default());
    record.status = Status::Fail;
    record.part.result = None;
    record.reason = Some(reason.to_owned());
    record.revision = Some(revision);
    record
}

/// It certainly had no effect, and the state had no part in that.
fn not_proposed(client: u64, call: u64, ret: u64, part: Part) -> Record {
    let mut record = refused(client, call, ret, part, reason::NO_QUORUM, 0);
    record.revision = None;
    record
}

/// Calls of one logical write, under a key that their callers chose.
fn under_one_key<const N: usize>(mut calls: [Record; N]) -> [Record; N] {
    for call in &mut calls {
        call.idem = Some("order-1".into());
    }
    calls
}

/// An add to a counter without bounds.
fn incr(client: u64, call: u64, ret: u64, delta: i64, before: i64, revision: u64) -> Record {
    add(client, call, ret, Part::incr("hot", delta), before, revision)
}

fn add(client: u64, call: u64, ret: u64, part: Part, before: i64, revision: u64) -> Record {
    let delta = part.delta.unwrap_or(0);
    let answer = Answer { before: Some(before), ..value(before + delta, revision) };
    ok(client, call, ret, part, answer)
}

fn value(value: i64, version: u64) -> Answer {
    Answer { value: Some(Some(value.into())), version: Some(version), ..Answer::default() }
}

fn text(value: &str, version: u64) -> Answer {
    let value = value.as_bytes().into();
    Answer { value: Some(Some(value)), version: Some(version), ..Answer::default() }
}

fn absent() -> Answer {
    Answer { value: Some(None), version: Some(0), ..Answer::default() }
}

fn written(version: u64) -> Answer {
    Answer { version: Some(version), ..Answer::default() }
}

/// A linearizable read of the counter `hot` in the state of a revision.
fn get(client: u64, call: u64, ret: u64, answer: Answer, revision: u64) -> Record {
    let mut record = ok(client, call, ret, Part::get("hot"), answer);
    record.revision = Some(revision);
    record
}

fn at_level(mut record: Record, level: Level) -> Record {
    record.level = Some(level);
    record.consistency = Some(level);
    record
}

fn put(client: u64, call: u64, ret: u64, key: &str, value: &str, revision: u64) -> Record {
    ok(client, call, ret, Part::put(key, value.to_owned()), written(revision))
}

fn batch(client: u64, call: u64, ret: u64, revision: u64, parts: &[(&str, Answer)]) -> Record {
    let mut record = several("batch_get", client, call, ret);
    record.revision = Some(revision);
    record.ops = parts
        .iter()
        .map(|(name, answer)| Part { result: Some(answer.clone()), ..Part::get(*name) })
        .collect();
    record
}

fn several(op: &str, client: u64, call: u64, ret: u64) -> Record {
    let (call, ret) = (call * MS, ret * MS);
    serde_json::from_value(serde_json::json!({
        "client": client, "op": op, "call": call, "ret": ret, "status": "ok"
    }))
    .unwrap()
}

/// Moves an amount from one account to another, in revisions `first` and `first + 1`.
fn transfer(
    client: u64,
    call: u64,
    ret: u64,
    first: u64,
    amount: i64,
    from: (&str, i64),
    to: (&str, i64),
) -> Record {
    let mut record = several("apply", client, call, ret);
    let part = |(name, before): (&str, i64), delta, revision| {
        add(0, 0, 0, Part::incr(name, delta), before, revision).part
    };
    record.ops = vec![part(from, -amount, first), part(to, amount, first + 1)];
    record.part.result = Some(written(first + 1));
    record
}

fn rules(records: &[Record]) -> (Verdict, Vec<Rule>) {
    let verdict = judge(records);
    let rules = verdict.violations.iter().map(|violation| violation.rule).collect();
    (verdict, rules)
}
