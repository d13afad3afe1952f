//! Histories of adds and reads: the verdict in little memory against that of the general checks, on
//! random small histories, good ones and ones of which something was changed.

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use super::*;
use crate::check::adds::Pack;

/// What is done to counters `a`, `b`, `c`, and how often nobody hears of it.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub(super) counters: usize,
    pub(super) operations: usize,
    /// Of a hundred adds.
    pub(super) unknown: u32,
    /// Adds of other signs and sizes.
    pub(super) mixed: bool,
    /// It began with this revision, and with these values.
    pub(super) base: u64,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Copy, Default)]
struct Counter {
    value: i64,
    version: u64,
    created: u64,
}

impl Counter {
    fn told(self) -> Answer {
        if self.version == 0 {
            return absent();
        }
        Answer { created: Some(self.created), ..bounds(value(self.value, self.version)) }
    }
}

fn bounds(answer: Answer) -> Answer {
    Answer { floor: Some(None), ceiling: Some(None), ..answer }
}

/// A history of a store that keeps its promises: each operation takes place at one moment between its
/// call and its answer; one of unknown outcome at one after its call, or never.
pub(super) fn history(seed: u64, kind: Kind) -> Vec<Record> {
    let mut random = SmallRng::seed_from_u64(seed);
    // Moments of calls, effects and answers, in the order of effects.
    let mut asked = Vec::new();
    for at in 0..kind.operations as u64 {
        let call = 10 * at + random.random_range(0..40);
        let lasts = random.random_range(0..60);
        let effect = call + random.random_range(0..=lasts);
        asked.push((effect, call, call + lasts));
    }
    asked.sort_unstable();
    let mut counters = vec![Counter::default(); kind.counters];
    if kind.base > 0 {
        for counter in &mut counters {
            *counter = Counter { value: random.random_range(-3..9), version: 2, created: 1 };
        }
    }
    let mut revision = kind.base;
    let mut records = Vec::new();
    if kind.base > 0 || random.random_bool(0.5) {
        let parts: Vec<_> = (0..kind.counters).map(|at| (NAMES[at], counters[at].told())).collect();
        records.push(batch(0, 0, 0, revision, &parts));
    }
    for (effect, call, ret) in asked {
        let (call, ret) = (call + 1, ret + 1);
        let client = random.random_range(1..9);
        let at = random.random_range(0..kind.counters);
        let counter = &mut counters[at];
        if random.random_range(0..100) < 20 {
            let mut record = ok(client, call, ret, Part::get(NAMES[at]), counter.told());
            record.revision = Some(revision);
            records.push(record);
            continue;
        }
        let delta = if kind.mixed { [1, 1, 2, -1][random.random_range(0..4)] } else { 1 };
        let add = Part::incr(NAMES[at], delta);
        if random.random_range(0..100) < kind.unknown {
            records.push(unknown(client, call.min(effect + 1), add));
            if random.random() {
                continue;
            }
        } else {
            let answer = Answer {
                before: Some(counter.value),
                existed: Some(counter.version > 0),
                applied_delta: Some(delta),
                ..bounds(value(counter.value + delta, revision + 1))
            };
            records.push(ok(client, call, ret, add, answer));
        }
        revision += 1;
        let created = if counter.version == 0 { revision } else { counter.created };
        *counter = Counter { value: counter.value + delta, version: revision, created };
    }
    if random.random_bool(0.7) {
        let end = 10 * kind.operations as u64 + 200;
        let parts: Vec<_> = (0..kind.counters).map(|at| (NAMES[at], counters[at].told())).collect();
        records.push(batch(0, end, end + 1, revision, &parts));
    }
    records
}

/// Changes something, so that the history is perhaps none that a store may have.
pub(super) fn corrupt(seed: u64, records: &mut Vec<Record>) {
    let mut random = SmallRng::seed_from_u64(seed ^ 0x5eed);
    for _ in 0..random.random_range(1..3) {
        if records.len() < 3 {
            return;
        }
        let (at, other) =
            (random.random_range(0..records.len()), random.random_range(0..records.len()));
        let step = [-2, -1, 1, 2][random.random_range(0..4)];
        let moved = |revision: u64| (revision as i64 + step).max(1) as u64;
        match random.random_range(0..9) {
            0 => {
                records.swap_remove(at);
            }
            1 => {
                let theirs = records[other].part.result.clone();
                if records[other].part.op == records[at].part.op && records[at].ops.is_empty() {
                    records[other].part.result =
                        std::mem::replace(&mut records[at].part.result, theirs);
                }
            }
            2 => {
                if let Some(result) = &mut records[at].part.result
                    && let Some(Some(tally_client::history::Scalar::Int(value))) = &mut result.value
                {
                    *value += step;
                    result.before = result.before.map(|before| before + step);
                }
            }
            3 => {
                if let Some(result) = &mut records[at].part.result
                    && let Some(Some(tally_client::history::Scalar::Int(value))) = &mut result.value
                {
                    *value += step;
                }
            }
            4 => {
                if let Some(version) =
                    records[at].part.result.as_mut().and_then(|result| result.version.as_mut())
                    && *version > 0
                {
                    *version = moved(*version);
                }
            }
            5 => records[at].revision = records[at].revision.map(moved),
            6 => {
                let (call, ret) = (records[other].call, records[other].ret);
                if records[at].ret.is_some() && ret.is_some() {
                    (records[at].call, records[at].ret) = (call, ret);
                }
            }
            7 => {
                let by = random.random_range(1..80) * MS;
                records[at].call += by;
                records[at].ret = records[at].ret.map(|ret| ret + by);
            }
            _ => {
                if !records[at].is_read() && records[at].status == Status::Ok {
                    records[at] = Record {
                        ret: None,
                        status: Status::Unknown,
                        part: Part { result: None, ..records[at].part.clone() },
                        ..records[at].clone()
                    };
                }
            }
        }
    }
}

pub(super) fn kind(seed: u64) -> Kind {
    Kind {
        counters: 1 + (seed % 3) as usize,
        operations: 3 + (seed / 3 % 12) as usize,
        unknown: [0, 20, 50, 80][(seed / 5 % 4) as usize],
        mixed: seed.is_multiple_of(11),
        base: [0, 0, 7][(seed / 7 % 3) as usize],
    }
}

fn packed(records: &[Record], assumptions: Assumptions) -> Option<Verdict> {
    let mut pack = Pack::default();
    for (at, record) in records.iter().enumerate() {
        if !pack.take(at as u64, record) {
            return None;
        }
    }
    let quote = |at: u64| super::super::show::show(&records[at as usize]);
    let (adds, verdict) = pack.finish(assumptions, &quote)?;
    adds.judge(verdict)
}

/// Compares both verdicts, and counts: decided good, decided bad, left open.
fn compare(seed: u64, records: &[Record], assumptions: Assumptions, seen: &mut [u32; 3]) {
    let whole = judge_with(records, assumptions);
    let Some(quick) = packed(records, assumptions) else {
        seen[2] += 1;
        return;
    };
    if whole.counts.undecided > 0 && whole.violations.is_empty() {
        return;
    }
    let told = || format!("seed {seed}: {quick:#?}\n{whole:#?}\n{records:#?}");
    assert_eq!(quick.violations.is_empty(), whole.violations.is_empty(), "{}", told());
    seen[usize::from(!quick.violations.is_empty())] += 1;
    if quick.passed() {
        let mut counts = quick.counts.clone();
        if assumptions.others_write {
            // How much of it others did is a choice.
            counts.unknown_applied = whole.counts.unknown_applied;
        }
        assert_eq!(counts, whole.counts, "{}", told());
    }
    for violation in &quick.violations {
        assert!(violation.message.contains("[client "), "{}", violation.message);
    }
}

#[test]
fn both_checks_agree_on_good_histories() {
    let mut seen = [0; 3];
    for seed in 0..2_000 {
        let kind = kind(seed);
        let from_the_beginning = kind.base == 0 && seed.is_multiple_of(2);
        let assumptions = Assumptions { from_the_beginning, ..Assumptions::default() };
        let records = history(seed, kind);
        compare(seed, &records, assumptions, &mut seen);
        assert_eq!(seen[1], 0, "seed {seed}: a good history is called bad: {records:#?}");
    }
    assert!(seen[0] > 1_500, "{seen:?}");
}

#[test]
fn both_checks_agree_on_changed_histories() {
    let mut seen = [0; 3];
    for seed in 0..8_000 {
        let kind = kind(seed);
        let others_write = seed.is_multiple_of(5);
        let from_the_beginning = kind.base == 0 && seed.is_multiple_of(2);
        let assumptions =
            Assumptions { from_the_beginning, others_write, ..Assumptions::default() };
        let mut records = history(seed, kind);
        corrupt(seed, &mut records);
        compare(seed, &records, assumptions, &mut seen);
    }
    // Not vacuous: changes that are seen, and some that nobody can see.
    assert!(seen[0] > 800 && seen[1] > 3_000, "{seen:?}");
}

/// What is told of one altered answer in a history that is good but for that.
fn told(alter: impl FnOnce(&mut Vec<Record>)) -> Vec<Violation> {
    let kind = Kind { counters: 1, operations: 40, unknown: 0, mixed: false, base: 0 };
    let mut records = history(3, kind);
    records.sort_by_key(|record| record.part.result.as_ref().and_then(|result| result.version));
    alter(&mut records);
    packed(&records, Assumptions::default()).expect("it is of that kind").violations
}

#[test]
fn one_altered_answer_is_told_by_what_contradicts_it() {
    let adds = |records: &mut Vec<Record>| -> Vec<usize> {
        let is_add = |at: &usize| records[*at].part.delta.is_some();
        (0..records.len()).filter(is_add).collect()
    };
    // A count that two were told.
    let twice = told(|records| {
        let adds = adds(records);
        let (one, other) = (adds[5], adds[6]);
        records[other].part.result = records[one].part.result.clone();
    });
    assert_eq!(twice[0].rule, Rule::DuplicateRevision, "{twice:#?}");
    // An answer that does not count what was before.
    let lost = told(|records| {
        let at = adds(records)[9];
        let result = records[at].part.result.as_mut().unwrap();
        result.before = result.before.map(|before| before - 1);
        let tally_client::history::Scalar::Int(after) = result.value.clone().unwrap().unwrap()
        else {
            panic!("a counter's value is a number");
        };
        result.value = Some(Some((after - 1).into()));
    });
    assert_eq!(lost[0].rule, Rule::WrongAnswer, "{lost:#?}");
    assert_eq!(lost.iter().filter(|one| one.rule == Rule::WrongAnswer).count(), 1, "{lost:#?}");
    assert!(lost[0].message.contains("nobody moved it"), "{lost:#?}");
    // Two answers that changed places although one had ended before the other began.
    let swapped = told(|records| {
        let adds = adds(records);
        let (one, other) = (adds[2], adds[adds.len() - 3]);
        let first = records[one].part.result.clone();
        records[one].part.result = std::mem::replace(&mut records[other].part.result, first);
    });
    assert!(swapped.iter().any(|one| one.rule == Rule::RealTime), "{swapped:#?}");
    assert!(swapped.iter().any(|one| one.rule == Rule::NotLinearizable), "{swapped:#?}");
}
