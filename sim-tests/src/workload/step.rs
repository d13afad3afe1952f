//! Atomic steps of every shape: any condition, any operation, one name several times, an `else` that
//! writes, reads up to the limit and beyond.

use rand::{Rng, rngs::SmallRng, seq::IndexedRandom};
use tally_client::{
    apply::{self, Operation},
    counter::Expect,
    history::{Compare, Condition, Kind, Op, Part, Scalar},
};

/// Reads in a step that is to come near the limit on what it may return.
const READS_MAX: usize = 24;

/// Where names, values and what is known of them come from.
pub(super) trait Names {
    fn counter(&mut self) -> String;
    fn key(&mut self) -> String;
    fn rng(&mut self) -> &mut SmallRng;
    /// Value and revision as last seen.
    fn known(&self, name: &str) -> Option<(i64, u64)>;
    /// The value of a key as last seen.
    fn text(&self, key: &str) -> Option<String>;
    /// A value that no other write stores.
    fn value(&mut self) -> String;
}

/// An atomic step.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) when: Vec<Condition>,
    pub(super) then: Vec<Part>,
    pub(super) otherwise: Vec<Part>,
}

impl Step {
    pub(super) fn draw(names: &mut impl Names) -> Step {
        if names.rng().random_bool(0.2) {
            let reads = names.rng().random_range(1..=READS_MAX);
            let then = (0..reads).map(|_| Part::read(names.key())).collect();
            return Step { when: Vec::new(), then, otherwise: Vec::new() };
        }
        let conditions = *[0, 1, 1, 2].choose(names.rng()).expect("not empty");
        let when = (0..conditions).map(|_| condition(names)).collect();
        let then = branch(names, 5);
        let with_else = conditions > 0 && names.rng().random_bool(0.6);
        let otherwise = if with_else { branch(names, 3) } else { Vec::new() };
        Step { when, then, otherwise }
    }

    pub(super) fn call(&self, client: &tally_client::Client) -> apply::Apply {
        let mut call = client.apply();
        for when in &self.when {
            call = call.when(condition_of(when));
        }
        for part in &self.then {
            call = call.then(operation_of(part));
        }
        for part in &self.otherwise {
            call = call.otherwise(operation_of(part));
        }
        call
    }
}

fn branch(names: &mut impl Names, most: usize) -> Vec<Part> {
    let count = names.rng().random_range(1..=most);
    let mut parts: Vec<Part> = Vec::with_capacity(count);
    for _ in 0..count {
        let mut part = part(names);
        // The same name again, so that a later part meets what an earlier one did.
        let again = parts.last().filter(|before| before.is_counter() == part.is_counter());
        if let Some(key) = again.and_then(|before| before.key.clone())
            && names.rng().random_bool(0.5)
        {
            part.key = Some(key);
        }
        parts.push(part);
    }
    parts
}

fn part(names: &mut impl Names) -> Part {
    match names.rng().random_range(0..12) {
        0..3 => {
            let name = names.counter();
            let delta = names.rng().random_range(-9..=9);
            let mut part = Part::incr(name, delta);
            if names.rng().random_bool(0.3) {
                part = part.floor(names.rng().random_range(-20..5));
            }
            if names.rng().random_bool(0.2) {
                part = part.ceiling(names.rng().random_range(5..60));
            }
            part.saturate = names.rng().random_bool(0.2);
            part.must_exist = names.rng().random_bool(0.1);
            part
        }
        3 => Part::get(names.counter()),
        4 => Part::set(names.counter(), names.rng().random_range(-20..20)),
        5 => {
            let name = names.counter();
            let expect = match (names.known(&name), names.rng().random_range(0..3)) {
                (Some((value, _)), 0) => Expect::Value(value),
                (Some((_, revision)), 1) => Expect::Revision(revision),
                _ => Expect::Absent,
            };
            Part::cas_counter(name, expect, names.rng().random_range(-20..20))
        }
        6 => Part::delete_counter(names.counter()),
        7 => {
            let floor = names.rng().random_range(-60..0);
            Part::configure(names.counter()).floor(floor).ceiling(80)
        }
        8 => Part::read(names.key()),
        9 | 10 => {
            let (key, value) = (names.key(), names.value());
            conditional(names, Part::put(key, value))
        }
        _ => {
            let key = names.key();
            conditional(names, Part::delete(key))
        }
    }
}

fn conditional(names: &mut impl Names, part: Part) -> Part {
    let is_put = part.op == Op::Put;
    let known = part.key.as_deref().and_then(|key| names.known(key));
    let text = part.key.as_deref().and_then(|key| names.text(key));
    match (known, text, names.rng().random_range(0..7)) {
        (Some((_, revision)), _, 0) => part.if_version(revision),
        (_, _, 1) => part.if_present(),
        (_, _, 2) if is_put => part.if_absent(),
        (_, Some(text), 3) => part.if_value(text),
        _ => part,
    }
}

fn condition(names: &mut impl Names) -> Condition {
    use Compare::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
    let compares = [Equal, NotEqual, Less, LessOrEqual, Greater, GreaterOrEqual];
    let compare = *compares.choose(names.rng()).expect("not empty");
    let is_counter = names.rng().random_bool(0.5);
    let (kind, name) =
        if is_counter { (Kind::Counter, names.counter()) } else { (Kind::Key, names.key()) };
    let known = names.known(&name);
    match names.rng().random_range(0..3) {
        0 => Condition::exists(kind, name, names.rng().random_bool(0.6)),
        1 => {
            let revision = known.map_or(0, |(_, revision)| revision);
            let revision = revision + names.rng().random_range(0..2);
            Condition::version(kind, name, compare, revision)
        }
        _ if is_counter => {
            let value = known.map_or(0, |(value, _)| value);
            let value = value.saturating_add(names.rng().random_range(-2..=2));
            Condition::value(kind, name, compare, value)
        }
        _ => {
            // Values begin with the number of their user.
            let value = names.rng().random_range(0..12_u64).to_string();
            Condition::value(kind, name, compare, value.as_bytes())
        }
    }
}

fn text(scalar: &Option<Scalar>) -> String {
    match scalar {
        Some(Scalar::Text(text)) => text.clone(),
        other => unreachable!("users store texts only, not {other:?}"),
    }
}

fn int(scalar: &Option<Scalar>) -> i64 {
    match scalar {
        Some(Scalar::Int(value)) => *value,
        other => unreachable!("a counter's value is a number, not {other:?}"),
    }
}

fn condition_of(when: &Condition) -> apply::Condition {
    let compare = match when.compare.unwrap_or(Compare::Equal) {
        Compare::Equal => apply::Compare::Equal,
        Compare::NotEqual => apply::Compare::NotEqual,
        Compare::Less => apply::Compare::Less,
        Compare::LessOrEqual => apply::Compare::LessOrEqual,
        Compare::Greater => apply::Compare::Greater,
        Compare::GreaterOrEqual => apply::Compare::GreaterOrEqual,
    };
    let key = &when.key;
    match (when.kind, when.exists, when.version) {
        (Kind::Counter, Some(exists), _) => apply::Condition::counter_exists(key, exists),
        (Kind::Key, Some(exists), _) => apply::Condition::key_exists(key, exists),
        (Kind::Counter, None, Some(revision)) => {
            apply::Condition::counter_revision(key, compare, revision)
        }
        (Kind::Key, None, Some(revision)) => apply::Condition::key_revision(key, compare, revision),
        (Kind::Counter, None, None) => {
            apply::Condition::counter_value(key, compare, int(&when.value))
        }
        (Kind::Key, None, None) => apply::Condition::key_value(key, compare, text(&when.value)),
    }
}

fn operation_of(part: &Part) -> Operation {
    let name = part.key.clone().unwrap_or_default();
    match (part.op, part.is_counter()) {
        (Op::Incr, _) => {
            let mut add = Operation::counter_add(name, part.delta.unwrap_or(0));
            if let Some(floor) = part.floor {
                add = add.floor(floor);
            }
            if let Some(ceiling) = part.ceiling {
                add = add.ceiling(ceiling);
            }
            if part.saturate {
                add = add.saturate();
            }
            if part.must_exist {
                add = add.fail_if_missing();
            }
            add
        }
        (Op::Get, _) => Operation::counter_get(name),
        (Op::Set, _) => Operation::counter_set(name, int(&part.value)),
        (Op::Cas, true) => {
            let expect = match (&part.expect, part.expect_version) {
                (Some(None), _) => Expect::Absent,
                (Some(value), _) => Expect::Value(int(value)),
                (None, revision) => Expect::Revision(revision.unwrap_or(0)),
            };
            Operation::counter_compare_and_set(name, expect, int(&part.value))
        }
        (Op::Delete, true) => Operation::counter_delete(name),
        (Op::Configure, _) => {
            let mut configure = Operation::counter_configure(name);
            if let Some(floor) = part.floor {
                configure = configure.floor(floor);
            }
            if let Some(ceiling) = part.ceiling {
                configure = configure.ceiling(ceiling);
            }
            configure
        }
        (Op::Put | Op::Cas, _) => expecting(Operation::key_put(name, text(&part.value)), part),
        (Op::Read, _) => Operation::key_get(name),
        (Op::Delete, false) => expecting(Operation::key_delete(name), part),
        (Op::Apply | Op::BatchGet, _) => unreachable!("it can't be a part"),
    }
}

fn expecting(operation: Operation, part: &Part) -> Operation {
    match (&part.expect, part.expect_version, part.expect_present) {
        (Some(Some(Scalar::Text(value))), ..) => operation.if_value(value.clone()),
        (Some(_), ..) => operation.if_absent(),
        (None, Some(revision), _) => operation.if_revision(revision),
        (None, None, true) => operation.if_present(),
        (None, None, false) => operation,
    }
}
