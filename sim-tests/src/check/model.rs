//! What one operation does to one counter or key, as the semantics page has it.
//!
//! This is a second implementation on purpose: it shares no code with the node, works on a single
//! item, and also says what an answer would have to look like. An item of which nothing is known yet
//! (the history began on a store that was in use) agrees with every answer and learns from it.

use std::sync::Arc;

use tally_client::history::{Answer, Op, Part, Scalar};
use tally_proto::reason;

/// A value: comparable as the store compares it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Value {
    Int(i64),
    Bytes(Arc<[u8]>),
}

impl Value {
    pub(super) fn of(scalar: &Scalar) -> Result<Self, String> {
        match scalar {
            Scalar::Int(value) => Ok(Self::Int(*value)),
            Scalar::Text(text) => Ok(Self::Bytes(text.as_bytes().into())),
            Scalar::Bytes { base64 } => decode(base64)
                .map(|bytes| Self::Bytes(bytes.into()))
                .ok_or("it is no base64".into()),
        }
    }

    pub(super) fn int(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            Self::Bytes(_) => None,
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Int(value) => write!(f, "{value}"),
            Self::Bytes(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) if text.chars().count() <= 40 => write!(f, "{text:?}"),
                _ => write!(f, "{} bytes", bytes.len()),
            },
        }
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

/// A counter or key that exists. A key has no bounds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Item {
    pub(super) value: Value,
    pub(super) floor: Option<i64>,
    pub(super) ceiling: Option<i64>,
    /// The revision that last changed it.
    pub(super) version: u64,
    /// The one that created it, if that is known.
    pub(super) created: Option<u64>,
}

/// What is known of a counter or key at one point.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Slot {
    /// Nothing: the history began later than the store, and nobody has looked.
    Unseen,
    Absent,
    There(Item),
}

impl Slot {
    pub(super) fn item(&self) -> Option<&Item> {
        match self {
            Self::There(item) => Some(item),
            Self::Unseen | Self::Absent => None,
        }
    }

    pub(super) fn is_unseen(&self) -> bool {
        *self == Self::Unseen
    }

    pub(super) fn version(&self) -> u64 {
        self.item().map_or(0, |item| item.version)
    }

    /// Without the revision: for the check that does not believe in revisions.
    pub(super) fn without_version(mut self) -> Self {
        if let Self::There(item) = &mut self {
            (item.version, item.created) = (0, None);
        }
        self
    }
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unseen => write!(f, "unknown"),
            Self::Absent => write!(f, "absent"),
            Self::There(Item { value, floor, ceiling, version, .. }) => {
                write!(f, "{value}")?;
                if let Some(floor) = floor {
                    write!(f, ", floor {floor}")?;
                }
                if let Some(ceiling) = ceiling {
                    write!(f, ", ceiling {ceiling}")?;
                }
                write!(f, " (revision {version})")
            }
        }
    }
}

/// What a write expects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Expect {
    /// This value; `Some(None)`: that it does not exist.
    pub(super) value: Option<Option<Value>>,
    pub(super) version: Option<u64>,
    pub(super) present: bool,
}

/// What is done to one item.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Act {
    Read,
    Incr {
        delta: i64,
        floor: Option<i64>,
        ceiling: Option<i64>,
        saturate: bool,
        must_exist: bool,
    },
    /// Set, put and compare-and-set: what differs is only what they expect.
    Store {
        value: Value,
        expect: Expect,
    },
    Configure {
        floor: Option<i64>,
        ceiling: Option<i64>,
    },
    Delete {
        expect: Expect,
    },
}

impl Act {
    pub(super) fn of(part: &Part) -> Result<Self, String> {
        let counter = part.is_counter();
        let value = |scalar: &Scalar| match (Value::of(scalar)?, counter) {
            (Value::Bytes(_), true) => Err("a counter's value is a number".to_owned()),
            (Value::Int(_), false) => Err("a key's value is a text".to_owned()),
            (value, _) => Ok(value),
        };
        let stored = || value(part.value.as_ref().ok_or("it has no `value`")?);
        let expect = match &part.expect {
            None => None,
            Some(None) => Some(None),
            Some(Some(scalar)) => Some(Some(value(scalar)?)),
        };
        let expect =
            Expect { value: expect, version: part.expect_version, present: part.expect_present };
        Ok(match part.op {
            Op::Get | Op::Read => Self::Read,
            Op::Incr => Self::Incr {
                delta: part.delta.ok_or("it has no `delta`")?,
                floor: part.floor,
                ceiling: part.ceiling,
                saturate: part.saturate,
                must_exist: part.must_exist,
            },
            Op::Set | Op::Put => Self::Store { value: stored()?, expect: Expect::default() },
            Op::Cas if expect == Expect::default() => return Err("a cas expects nothing".into()),
            Op::Cas => Self::Store { value: stored()?, expect },
            Op::Configure => Self::Configure { floor: part.floor, ceiling: part.ceiling },
            Op::Delete => Self::Delete { expect },
            Op::Apply | Op::BatchGet => return Err("it can't be a part".into()),
        })
    }

    /// Its outcome hangs on a revision.
    pub(super) fn expects_version(&self) -> bool {
        match self {
            Self::Store { expect, .. } | Self::Delete { expect } => expect.version.is_some(),
            _ => false,
        }
    }
}

/// What an operation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ran {
    pub(super) after: Slot,
    /// It took a revision.
    pub(super) mutated: bool,
}

/// Does it. `revision` is the one that it takes if it changes something. A refusal is its reason.
///
/// On an item of which nothing is known a write is taken to succeed and to change something.
pub(super) fn run(act: &Act, slot: &Slot, revision: u64) -> Result<Ran, &'static str> {
    let unchanged = |slot: &Slot| Ok(Ran { after: slot.clone(), mutated: false });
    let (value, floor, ceiling) = match slot {
        Slot::Unseen if *act == Act::Read => return unchanged(slot),
        Slot::Unseen => return Ok(Ran { after: blind(act, revision), mutated: true }),
        Slot::Absent => (None, None, None),
        Slot::There(item) => (Some(&item.value), item.floor, item.ceiling),
    };
    let present = value.and_then(Value::int).unwrap_or(0);
    let created = slot.item().map_or(Some(revision), |item| item.created);
    let store = |value: Value, floor, ceiling| {
        let after = Slot::There(Item { value, floor, ceiling, version: revision, created });
        Ok(Ran { after, mutated: true })
    };
    match act {
        Act::Read => unchanged(slot),
        Act::Incr { must_exist: true, .. } if value.is_none() => Err(reason::COUNTER_NOT_FOUND),
        Act::Incr { delta, floor: asked_floor, ceiling: asked_ceiling, saturate, .. } => {
            let bound = if *delta >= 0 {
                tighter(ceiling, *asked_ceiling, i64::min)
            } else {
                tighter(floor, *asked_floor, i64::max)
            };
            let sum = match moved(present, *delta, bound) {
                Ok(sum) => sum,
                Err((limit, _)) if *saturate => limit,
                Err((_, refusal)) => return Err(refusal),
            };
            if value.is_some() && sum == present {
                return unchanged(slot);
            }
            store(Value::Int(sum), floor, ceiling)
        }
        Act::Store { expect, .. } | Act::Delete { expect } if !holds(expect, slot) => {
            Err(reason::CONDITION_FAILED)
        }
        Act::Store { value, .. } => {
            within(value, floor, ceiling)?;
            store(value.clone(), floor, ceiling)
        }
        Act::Configure { floor, ceiling } => {
            let value = Value::Int(present);
            within(&value, *floor, *ceiling)?;
            store(value, *floor, *ceiling)
        }
        Act::Delete { .. } if value.is_none() => unchanged(slot),
        Act::Delete { .. } => Ok(Ran { after: Slot::Absent, mutated: true }),
    }
}

/// The reads of one atomic step return at most this many bytes together …
pub(super) const STEP_READ_BYTES_MAX: usize = 16 * 1024;

/// … of which the read of this item is so many.
pub(super) fn bytes_read(act: &Act, slot: &Slot) -> usize {
    match (act, slot.item().map(|item| &item.value)) {
        (Act::Read, Some(Value::Int(_))) => 8,
        (Act::Read, Some(Value::Bytes(bytes))) => bytes.len(),
        _ => 0,
    }
}

/// What is known of an item after a write of which it is unknown what it met.
fn blind(act: &Act, revision: u64) -> Slot {
    match act {
        // Only a counter has bounds that one would have to know.
        Act::Store { value: value @ Value::Bytes(_), .. } => Slot::There(Item {
            value: value.clone(),
            floor: None,
            ceiling: None,
            version: revision,
            created: None,
        }),
        Act::Delete { .. } => Slot::Absent,
        _ => Slot::Unseen,
    }
}

fn tighter(stored: Option<i64>, asked: Option<i64>, pick: fn(i64, i64) -> i64) -> Option<i64> {
    match (stored, asked) {
        (Some(stored), Some(asked)) => Some(pick(stored, asked)),
        (one, other) => one.or(other),
    }
}

/// The sum; or how far it may go, and why no further.
fn moved(value: i64, delta: i64, bound: Option<i64>) -> Result<i64, (i64, &'static str)> {
    let sum = i128::from(value) + i128::from(delta);
    let up = delta >= 0;
    // What is beyond the bound already stays where it is.
    let limit = match bound {
        Some(bound) if up => bound.max(value),
        Some(bound) => bound.min(value),
        None if up => i64::MAX,
        None => i64::MIN,
    };
    let passed = if up { sum > i128::from(limit) } else { sum < i128::from(limit) };
    match (passed, bound, i64::try_from(sum)) {
        (false, _, Ok(sum)) => Ok(sum),
        (_, None, _) | (false, _, Err(_)) => Err((limit, reason::OVERFLOW)),
        (true, Some(_), _) if up => Err((limit, reason::ABOVE_CEILING)),
        (true, Some(_), _) => Err((limit, reason::BELOW_FLOOR)),
    }
}

fn within(value: &Value, floor: Option<i64>, ceiling: Option<i64>) -> Result<(), &'static str> {
    let Some(value) = value.int() else { return Ok(()) };
    if floor.is_some_and(|floor| value < floor) {
        return Err(reason::BELOW_FLOOR);
    }
    if ceiling.is_some_and(|ceiling| value > ceiling) {
        return Err(reason::ABOVE_CEILING);
    }
    Ok(())
}

pub(super) fn holds(expect: &Expect, slot: &Slot) -> bool {
    let value = slot.item().map(|item| &item.value);
    expect.value.as_ref().is_none_or(|expected| expected.as_ref() == value)
        && expect.version.is_none_or(|expected| expected == slot.version())
        && (!expect.present || value.is_some())
}

/// Whether an answer is what an operation on this item has to say; else what differs. Only what the
/// answer tells is compared. With `versions` off, revisions are not believed.
pub(super) fn agrees(
    act: &Act,
    before: &Slot,
    ran: &Ran,
    answer: &Answer,
    versions: bool,
) -> Result<(), String> {
    if before.is_unseen() {
        return Ok(());
    }
    let differs = |what: &str, told: &dyn std::fmt::Display, is: &dyn std::fmt::Display| {
        Err(format!("it was told {what} {told}, but that was {is} (the item was {before})"))
    };
    let show = |value: Option<&Value>| value.map_or("absent".to_owned(), Value::to_string);
    let item_before = before.item();
    // What a delete says of bounds is what they were.
    let bounds_of = if matches!(act, Act::Delete { .. }) { item_before } else { ran.after.item() };
    if let Some(told) = &answer.value {
        let told = told.as_ref().and_then(|scalar| Value::of(scalar).ok());
        let is = ran.after.item().map(|item| &item.value);
        if told.as_ref() != is {
            return differs("the value", &show(told.as_ref()), &show(is));
        }
    }
    let value_before = item_before.and_then(|item| item.value.int()).unwrap_or(0);
    if let Some(told) = answer.before.filter(|told| *told != value_before) {
        return differs("the value before,", &told, &value_before);
    }
    let value_after = ran.after.item().and_then(|item| item.value.int()).unwrap_or(0);
    let applied = i128::from(value_after) - i128::from(value_before);
    if let Some(told) = answer.applied_delta.filter(|told| i128::from(*told) != applied) {
        return differs("the delta applied,", &told, &applied);
    }
    if let Some(told) = answer.existed.filter(|told| *told != item_before.is_some()) {
        return differs("whether it existed,", &told, &item_before.is_some());
    }
    let bound = |bound: Option<i64>| bound.map_or("none".to_owned(), |bound| bound.to_string());
    for (what, told, is) in [
        ("the floor", answer.floor, bounds_of.and_then(|item| item.floor)),
        ("the ceiling", answer.ceiling, bounds_of.and_then(|item| item.ceiling)),
    ] {
        if let Some(told) = told.filter(|told| *told != is) {
            return differs(what, &bound(told), &bound(is));
        }
    }
    if !versions {
        return Ok(());
    }
    if let Some(told) = answer.previous_version.filter(|told| *told != before.version()) {
        return differs("the revision before,", &told, &before.version());
    }
    let created = ran.after.item().and_then(|item| item.created);
    if let (Some(told), Some(is)) = (answer.created, created)
        && told != is
    {
        return differs("the revision that created it,", &told, &is);
    }
    // What a write says of its own revision decides where it is placed, and is checked there.
    match answer.version.filter(|told| *act == Act::Read && *told != ran.after.version()) {
        Some(told) => differs("the revision", &told, &ran.after.version()),
        None => Ok(()),
    }
}

/// What an answer tells of an item of which nothing was known.
pub(super) fn learn(act: &Act, ran: &Ran, answer: &Answer, revision: u64) -> Slot {
    if matches!(act, Act::Delete { .. }) {
        return Slot::Absent;
    }
    let value = match (&answer.value, act) {
        (Some(None), _) => return Slot::Absent,
        (Some(Some(scalar)), _) => Value::of(scalar).ok(),
        (None, Act::Store { value, .. }) => Some(value.clone()),
        (None, _) => None,
    };
    let Some(value) = value else { return ran.after.clone() };
    // A counter whose bounds were not told may have any.
    if value.int().is_some() && (answer.floor.is_none() || answer.ceiling.is_none()) {
        return Slot::Unseen;
    }
    let version = match act {
        Act::Read => answer.version.unwrap_or(revision),
        _ => revision,
    };
    let (floor, ceiling) = (answer.floor.flatten(), answer.ceiling.flatten());
    let created = answer.created.filter(|_| *act == Act::Read);
    Slot::There(Item { value, floor, ceiling, version, created })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_round_trips() {
        for bytes in [&b"\xff"[..], b"\xff\x00", b"\xff\x00\x10", b"\xfe\xff\x00\x01"] {
            let scalar = Scalar::from(bytes);
            assert_eq!(Value::of(&scalar), Ok(Value::Bytes(bytes.into())), "{scalar:?}");
        }
        assert!(Value::of(&Scalar::Bytes { base64: "!".into() }).is_err());
    }

    #[test]
    fn bounds_as_the_semantics_page_has_them() {
        let there = |value, floor, ceiling| {
            Slot::There(Item {
                value: Value::Int(value),
                floor,
                ceiling,
                version: 1,
                created: Some(1),
            })
        };
        let incr = |delta, floor, saturate| Act::Incr {
            delta,
            floor,
            ceiling: None,
            saturate,
            must_exist: false,
        };
        let after = |act: &Act, slot: &Slot| {
            run(act, slot, 9).map(|ran| ran.after.item().and_then(|item| item.value.int()))
        };
        let stock = there(5, Some(0), None);
        assert_eq!(after(&incr(-6, None, false), &stock), Err(reason::BELOW_FLOOR));
        assert_eq!(after(&incr(-6, None, true), &stock), Ok(Some(0)));
        // A looser bound of the request has no effect, a tighter one counts.
        assert_eq!(after(&incr(-6, Some(-9), false), &stock), Err(reason::BELOW_FLOOR));
        assert_eq!(after(&incr(-4, Some(3), false), &stock), Err(reason::BELOW_FLOOR));
        // Outside the request's own bound it can come back, and never moves against its sign.
        assert_eq!(after(&incr(1, Some(9), false), &stock), Ok(Some(6)));
        assert_eq!(after(&incr(-1, Some(9), true), &stock), Ok(Some(5)));
        let top = there(i64::MAX, None, None);
        assert_eq!(after(&incr(1, None, false), &top), Err(reason::OVERFLOW));
        let set = Act::Store { value: Value::Int(-1), expect: Expect::default() };
        assert_eq!(after(&set, &stock), Err(reason::BELOW_FLOOR));
        let bad = Act::Configure { floor: Some(6), ceiling: None };
        assert_eq!(after(&bad, &stock), Err(reason::BELOW_FLOOR));
        assert!(!run(&incr(0, None, false), &stock, 9).unwrap().mutated);
        assert!(run(&incr(0, None, false), &Slot::Absent, 9).unwrap().mutated);
    }
}
