//! From lines to logical operations: the same write sent twice on purpose is one.
//!
//! **Argument.** A write under one `idem` must take effect at most once, after its first call. If
//! one attempt was answered, all attempts share that answer's effect, so the effect was there when
//! the first answer came back: the logical write lasts from its first call to its first answer. An
//! attempt that certainly had no effect (it was never proposed) is not an attempt at all: it says
//! nothing of the others, whenever it came. If none
//! was answered and one is unknown, the whole is unknown. Every further answer, a refusal too, must
//! be the first one again; two that were both not replayed were two executions.

use std::collections::BTreeMap;

use tally_client::{
    Branch,
    history::{Answer, Condition, Kind, Level, Op, Part, Record, Status},
};
use tally_proto::reason;

use super::{
    Assumptions, Rule, Verdict,
    model::{Act, Value},
    show::{show, show_all},
};

/// One thing that is done to one item, and what was answered.
#[derive(Debug, Clone)]
pub(super) struct Deed<'a> {
    /// Index of the item in [`History::names`].
    pub(super) name: usize,
    pub(super) act: Act,
    pub(super) answer: Option<&'a Answer>,
}

/// A condition of an atomic step.
#[derive(Debug, Clone)]
pub(super) struct When<'a> {
    pub(super) name: usize,
    pub(super) condition: &'a Condition,
    pub(super) value: Option<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Answered,
    /// Refused by the state that it met.
    Refused,
    Unknown,
    /// No effect, for reasons that no state has to explain.
    Failed,
}

/// Where the revisions that were told place an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It made these revisions.
    Made { first: u64, last: u64 },
    /// It saw the state of this revision.
    Saw(u64),
    /// Nothing was told.
    Nowhere,
}

impl Place {
    /// The revision that must have existed when the answer was there.
    pub(super) fn reached(self) -> Option<u64> {
        match self {
            Self::Made { last, .. } => Some(last),
            Self::Saw(revision) => Some(revision),
            Self::Nowhere => None,
        }
    }
}

/// A logical operation.
#[derive(Debug, Clone)]
pub(super) struct Logical<'a> {
    /// The record that has the answer; the first one if none has.
    pub(super) record: &'a Record,
    pub(super) call: u64,
    /// When the first answer was there; the end of time if none came.
    pub(super) ret: u64,
    pub(super) outcome: Outcome,
    pub(super) when: Vec<When<'a>>,
    pub(super) then: Vec<Deed<'a>>,
    pub(super) otherwise: Vec<Deed<'a>>,
    pub(super) place: Place,
}

impl<'a> Logical<'a> {
    pub(super) fn is_read(&self) -> bool {
        self.record.is_read()
    }

    /// What ran, if it is known what ran.
    pub(super) fn deeds(&self) -> &[Deed<'a>] {
        match self.record.branch {
            Some(Branch::Else) => &self.otherwise,
            Some(Branch::Then) | None => &self.then,
        }
    }

    /// All that may run.
    pub(super) fn possible(&self) -> impl Iterator<Item = &Deed<'a>> {
        self.then.iter().chain(&self.otherwise)
    }

    /// The promise that a read has to keep.
    pub(super) fn level(&self) -> Level {
        let asked = self.record.level.unwrap_or(Level::Linearizable);
        match self.record.consistency {
            Some(Level::Linearizable) => Level::Linearizable,
            Some(Level::Local) if self.record.fallback => Level::Local,
            _ => asked,
        }
    }
}

/// A history, understood.
#[derive(Debug)]
pub(super) struct History<'a> {
    pub(super) records: &'a [Record],
    pub(super) operations: Vec<Logical<'a>>,
    /// Counters (true) and keys by name.
    pub(super) names: Vec<(bool, String)>,
    /// The revision that the history begins after; what was before is not known unless it is 0.
    pub(super) base: u64,
    pub(super) assumptions: Assumptions,
}

impl History<'_> {
    pub(super) fn name(&self, name: usize) -> String {
        let (counter, key) = &self.names[name];
        if *counter { counter_named(key) } else { format!("key {key:?}") }
    }
}

pub(super) fn counter_named(key: &str) -> String {
    format!("counter {key:?}")
}

#[derive(Default)]
struct Names(BTreeMap<(bool, String), usize>);

impl Names {
    fn of(&mut self, counter: bool, key: &str) -> usize {
        let next = self.0.len();
        *self.0.entry((counter, key.to_owned())).or_insert(next)
    }
}

/// Refusals that the state decides.
const DECIDED: [&str; 6] = [
    reason::ANSWER_TOO_LARGE,
    reason::BELOW_FLOOR,
    reason::ABOVE_CEILING,
    reason::OVERFLOW,
    reason::CONDITION_FAILED,
    reason::COUNTER_NOT_FOUND,
];

pub(super) fn is_decided(record: &Record) -> bool {
    let reason = record.reason.as_deref().unwrap_or_default();
    record.status == Status::Fail && !record.is_read() && DECIDED.contains(&reason)
}

impl<'a> History<'a> {
    pub(super) fn read(
        records: &'a [Record],
        assumptions: Assumptions,
        verdict: &mut Verdict,
    ) -> Self {
        let mut names = Names::default();
        let mut operations = Vec::with_capacity(records.len());
        for attempts in by_write(records) {
            count(&attempts, verdict);
            match logical(&attempts, &mut names, verdict) {
                Ok(operation) => operations.push(operation),
                Err(wrong) => {
                    let message = format!("{wrong}: {}", show(attempts[0]));
                    verdict.violation(Rule::Malformed, message);
                }
            }
        }
        operations.sort_by_key(|operation| (operation.call, operation.ret));
        place(&mut operations);
        let told = operations.iter().filter_map(|operation| match operation.place {
            Place::Made { first, .. } => Some(first - 1),
            Place::Saw(revision) => Some(revision),
            Place::Nowhere => None,
        });
        let base = if assumptions.from_the_beginning { 0 } else { told.min().unwrap_or(0) };
        let mut list = vec![(false, String::new()); names.0.len()];
        for (name, index) in names.0 {
            list[index] = name;
        }
        verdict.counts.names = list.len() as u64;
        Self { records, operations, names: list, base, assumptions }
    }
}

/// The attempts at each logical operation, in the order of their calls.
fn by_write(records: &[Record]) -> Vec<Vec<&Record>> {
    let mut alone = Vec::new();
    let mut shared: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in records {
        match &record.idem {
            Some(idem) if !record.is_read() => shared.entry(idem).or_default().push(record),
            _ => alone.push(vec![record]),
        }
    }
    alone.extend(shared.into_values());
    for attempts in &mut alone {
        attempts.sort_by_key(|record| (record.call, record.ret));
    }
    alone
}

fn count(attempts: &[&Record], verdict: &mut Verdict) {
    let counts = &mut verdict.counts;
    for record in attempts {
        counts.operations += 1;
        match record.status {
            Status::Ok => counts.ok += 1,
            Status::Fail => counts.failed += 1,
            Status::Unknown => counts.unknown += 1,
        }
        counts.replayed += u64::from(record.replayed == Some(true));
    }
}

fn logical<'a>(
    attempts: &[&'a Record],
    names: &mut Names,
    verdict: &mut Verdict,
) -> Result<Logical<'a>, String> {
    for record in attempts {
        let answered =
            record.status != Status::Unknown && !(record.is_read() && record.ret.is_none());
        if answered && record.ret.is_none_or(|ret| ret < record.call) {
            return Err("an operation that ended has no end, or one before its call".into());
        }
    }
    let has_answer = |record: &&&Record| record.status == Status::Ok || is_decided(record);
    let mut answered: Vec<&'a Record> = attempts.iter().filter(has_answer).copied().collect();
    answered.sort_by_key(|record| record.ret);
    same_answers(&answered, verdict);
    let may_have_run = |record: &&&Record| record.status != Status::Fail || is_decided(record);
    let call = attempts.iter().filter(may_have_run).map(|record| record.call).min();
    let unknown = attempts.iter().copied().find(|record| record.status == Status::Unknown);
    let (record, outcome) = match (answered.first(), unknown) {
        (Some(record), _) if record.status == Status::Ok => (*record, Outcome::Answered),
        (Some(record), _) => (*record, Outcome::Refused),
        (None, Some(record)) => (record, Outcome::Unknown),
        (None, None) => (attempts[0], Outcome::Failed),
    };
    let is_apply = record.part.op == Op::Apply;
    let heads = std::slice::from_ref(&record.part);
    let several = is_apply || record.part.op == Op::BatchGet;
    let answers = outcome == Outcome::Answered;
    let then = deeds(if several { &record.ops } else { heads }, answers, names)?;
    if answers && record.is_read() && then.iter().any(|deed| deed.answer.is_none()) {
        return Err("a read that was answered does not say what it read".into());
    }
    Ok(Logical {
        record,
        call: call.unwrap_or(record.call),
        ret: match outcome {
            Outcome::Unknown => u64::MAX,
            _ => record.ret.unwrap_or(u64::MAX),
        },
        outcome,
        when: record.when.iter().map(|when| condition(when, names)).collect::<Result<_, _>>()?,
        then,
        otherwise: deeds(&record.else_ops, answers, names)?,
        place: Place::Nowhere,
    })
}

fn deeds<'a>(
    parts: &'a [Part],
    answered: bool,
    names: &mut Names,
) -> Result<Vec<Deed<'a>>, String> {
    let deed = |part: &'a Part| {
        let key = part.key.as_deref().ok_or("it has no `key`")?;
        Ok(Deed {
            name: names.of(part.is_counter(), key),
            act: Act::of(part)?,
            answer: part.result.as_ref().filter(|_| answered),
        })
    };
    parts.iter().map(deed).collect()
}

fn condition<'a>(condition: &'a Condition, names: &mut Names) -> Result<When<'a>, String> {
    Ok(When {
        name: names.of(condition.kind == Kind::Counter, &condition.key),
        condition,
        value: condition.value.as_ref().map(Value::of).transpose()?,
    })
}

/// Every answer to one write must be the first one again.
fn same_answers(answered: &[&Record], verdict: &mut Verdict) {
    let Some((first, others)) = answered.split_first() else { return };
    let executed: Vec<_> =
        answered.iter().filter(|record| record.replayed == Some(false)).copied().collect();
    // A refusal does not say whether it was replayed; that it is the same is all there is to see.
    if executed.len() > 1 {
        verdict.violation(
            Rule::ExecutedTwice,
            format!("one write, sent again, was executed again:{}", show_all(executed)),
        );
        return;
    }
    let told = |record: &Record| {
        let parts =
            |parts: &[Part]| -> Vec<_> { parts.iter().map(|part| part.result.clone()).collect() };
        let results = (record.part.result.clone(), parts(&record.ops), parts(&record.else_ops));
        (record.status, record.reason.clone(), results, record.branch)
    };
    for other in others {
        if told(first) != told(other) {
            verdict.violation(
                Rule::ReplayDiffers,
                format!("one write was answered in two ways:{}", show_all([*first, *other])),
            );
        }
    }
}

/// Whether a part made a revision of its own, if its answer says so.
pub(super) fn makes_revision(deed: &Deed<'_>) -> Option<bool> {
    let answer = deed.answer?;
    match deed.act {
        Act::Read => Some(false),
        Act::Store { .. } | Act::Configure { .. } => Some(true),
        Act::Delete { .. } => answer.existed,
        Act::Incr { delta, .. } => {
            let moved = answer.applied_delta.map(|delta| delta != 0);
            // Without it: a delta that is not 0 moves, unless it was cut short.
            let moved = moved.or((delta != 0 && !saturates(&deed.act)).then_some(true));
            if moved == Some(true) { moved } else { answer.existed.map(|existed| !existed) }
        }
    }
}

fn saturates(act: &Act) -> bool {
    matches!(act, Act::Incr { saturate: true, .. })
}

/// Places operations by the revisions that their answers tell.
///
/// Of some answers nobody can tell whether the operation made the revision or only saw it (an add
/// of 0 by a client that does not record whether the counter existed). It made it, unless another
/// operation did.
fn place(operations: &mut [Logical<'_>]) {
    let mut made = std::collections::BTreeSet::new();
    let mut unclear = Vec::new();
    for (index, operation) in operations.iter_mut().enumerate() {
        let state = operation.record.revision;
        operation.place = match operation.outcome {
            Outcome::Unknown | Outcome::Failed => Place::Nowhere,
            Outcome::Refused => state.map_or(Place::Nowhere, Place::Saw),
            Outcome::Answered if operation.is_read() => state.map_or(Place::Nowhere, Place::Saw),
            Outcome::Answered => match written(operation) {
                Written::Place(place) => place,
                Written::Unclear(version) => {
                    unclear.push((index, version));
                    Place::Nowhere
                }
            },
        };
        if let Place::Made { first, last } = operation.place {
            made.extend(first..=last);
        }
    }
    for (index, version) in unclear {
        operations[index].place = if version > 0 && made.insert(version) {
            Place::Made { first: version, last: version }
        } else {
            Place::Saw(version)
        };
    }
}

enum Written {
    Place(Place),
    Unclear(u64),
}

fn written(operation: &Logical<'_>) -> Written {
    let deeds = operation.deeds();
    let told = operation.record.part.result.as_ref().and_then(|result| result.version);
    let of_parts = deeds.iter().filter(|deed| deed.act != Act::Read);
    let of_parts = of_parts.filter_map(|deed| deed.answer?.version).max();
    let Some(version) = told.or(of_parts) else { return Written::Place(Place::Nowhere) };
    let count: Option<u64> = deeds.iter().map(|deed| makes_revision(deed).map(u64::from)).sum();
    Written::Place(match count {
        Some(0) => Place::Saw(version),
        Some(count) if count <= version => {
            Place::Made { first: version - count + 1, last: version }
        }
        // More changes than there are revisions: it can't be placed, and the order says so.
        Some(_) => Place::Made { first: 1, last: version.max(1) },
        None => return Written::Unclear(version),
    })
}
