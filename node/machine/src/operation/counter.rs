//! Operations on counters.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};
use tally_seeded_bugs as seeded_bugs;

use super::{
    super::{
        canonical::Canonical,
        item::{Bounds, CounterChange, CounterRecord, Found, Target},
        reply::{
            OperationAnswer::{self, CounterChanged},
            Refusal,
        },
        view::View,
        work::Work,
    },
    Kind,
    bounds::{Obstacle, obstacle, sum, tighter},
};

/// Moves a counter; a missing one is created at 0 first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterAdd {
    /// Name of the counter.
    pub name: String,
    /// What to add.
    pub delta: i64,
    /// Bounds of this request.
    pub bounds: Bounds,
    /// What happens at a bound.
    pub on_violation: OnViolation,
    /// Refuse, instead of creating it at 0, if it is missing.
    pub must_exist: bool,
}

/// What an Add does that would pass a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnViolation {
    /// Nothing changes.
    #[default]
    Reject,
    /// Moves to the bound, never against the sign of delta.
    Saturate,
}

impl CounterAdd {
    /// How far it moves a counter, and what is in the way of all of it.
    pub(crate) fn reach(&self, stored: Option<CounterRecord>) -> (i64, Option<Obstacle>) {
        let (value, bounds) = value_and_bounds(stored);
        sum(value, self.delta, tighter(bounds, self.bounds))
    }
}

impl Kind for CounterAdd {
    const TAG: u8 = 1;

    fn name(&self) -> &str {
        &self.name
    }

    fn canonical(&self, into: &mut Canonical) {
        let CounterAdd { name, delta, bounds, on_violation, must_exist } = self;
        into.text(name);
        into.i64(*delta);
        into.bounds(bounds);
        into.tag(match on_violation {
            OnViolation::Reject => 1,
            OnViolation::Saturate => 2,
        });
        into.bool(*must_exist);
    }

    fn run<V: View + ?Sized>(
        &self,
        work: &mut Work<'_, '_, V>,
    ) -> Result<OperationAnswer, Refusal> {
        let CounterAdd { name, delta, on_violation, must_exist, .. } = self;
        let before = work.counter(name);
        if *must_exist && before.is_none() {
            return Err(Refusal::CounterNotFound { name: name.clone() });
        }
        let (value_before, stored) = value_and_bounds(before);
        let unchecked = seeded_bugs::is_on("bounds-before-proposing");
        let (value, obstacle) = if unchecked && *on_violation == OnViolation::Reject {
            sum(value_before, *delta, Bounds::default())
        } else {
            self.reach(before)
        };
        if let (Some(obstacle), OnViolation::Reject) = (obstacle, on_violation) {
            return Err(obstacle.refuse(name, value_before));
        }
        let mut change = if before.is_some_and(|before| before.value == value) {
            unchanged(work, before)
        } else {
            write(work, name, before, value, stored)?
        };
        change.delta_requested = *delta;
        Ok(CounterChanged(change))
    }
}

impl Display for CounterAdd {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let CounterAdd { name, delta, bounds, on_violation, must_exist } = self;
        write!(f, "add {name:?} {delta}{bounds}")?;
        if *on_violation == OnViolation::Saturate {
            write!(f, " saturate")?;
        }
        if *must_exist {
            write!(f, " must_exist")?;
        }
        Ok(())
    }
}

/// Reads a counter (inside an [`crate::command::ApplyStep`] only).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterGet {
    /// Name of the counter.
    pub name: String,
}

impl Kind for CounterGet {
    const TAG: u8 = 2;
    const IS_READ: bool = true;

    fn name(&self) -> &str {
        &self.name
    }

    fn canonical(&self, into: &mut Canonical) {
        into.text(&self.name);
    }

    fn run<V: View + ?Sized>(
        &self,
        work: &mut Work<'_, '_, V>,
    ) -> Result<OperationAnswer, Refusal> {
        Ok(OperationAnswer::CounterRead(work.counter(&self.name)))
    }
}

impl Display for CounterGet {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "counter {:?}", self.name)
    }
}

/// Replaces a counter's value, within its stored bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterSet {
    /// Name of the counter.
    pub name: String,
    /// The new value.
    pub value: i64,
}

impl Kind for CounterSet {
    const TAG: u8 = 3;

    fn name(&self) -> &str {
        &self.name
    }

    fn canonical(&self, into: &mut Canonical) {
        into.text(&self.name);
        into.i64(self.value);
    }

    fn run<V: View + ?Sized>(
        &self,
        work: &mut Work<'_, '_, V>,
    ) -> Result<OperationAnswer, Refusal> {
        set(work, &self.name, self.value)
    }
}

impl Display for CounterSet {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "set {:?} {}", self.name, self.value)
    }
}

/// Replaces a counter's value if what is stored is as expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterCompareAndSet {
    /// Name of the counter.
    pub name: String,
    /// What must be stored.
    pub expect: CounterExpectation,
    /// The new value.
    pub value: i64,
}

/// What a compare-and-set expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CounterExpectation {
    /// This value.
    Value(i64),
    /// This revision.
    Revision(u64),
    /// No such counter.
    Absent,
}

impl Kind for CounterCompareAndSet {
    const TAG: u8 = 4;

    fn name(&self) -> &str {
        &self.name
    }

    fn canonical(&self, into: &mut Canonical) {
        into.text(&self.name);
        match self.expect {
            CounterExpectation::Value(value) => {
                into.tag(1);
                into.i64(value);
            }
            CounterExpectation::Revision(revision) => {
                into.tag(2);
                into.u64(revision);
            }
            CounterExpectation::Absent => into.tag(3),
        }
        into.i64(self.value);
    }

    fn run<V: View + ?Sized>(
        &self,
        work: &mut Work<'_, '_, V>,
    ) -> Result<OperationAnswer, Refusal> {
        let CounterCompareAndSet { name, expect, value } = self;
        let before = work.counter(name);
        let holds = match *expect {
            CounterExpectation::Value(value) => before.is_some_and(|before| before.value == value),
            // A missing counter has revision 0, here as in the conditions of an atomic step.
            CounterExpectation::Revision(revision) => {
                before.map_or(0, |before| before.modified_revision) == revision
            }
            CounterExpectation::Absent => before.is_none(),
        };
        if !holds {
            let target = Target::Counter(name.clone());
            return Err(Refusal::ConditionFailed { target, found: found(before) });
        }
        set(work, name, *value)
    }
}

impl Display for CounterCompareAndSet {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let CounterCompareAndSet { name, expect, value } = self;
        match expect {
            CounterExpectation::Value(expected) => {
                write!(f, "cas {name:?} {value} value={expected}")
            }
            CounterExpectation::Revision(revision) => {
                write!(f, "cas {name:?} {value} revision={revision}")
            }
            CounterExpectation::Absent => write!(f, "cas {name:?} {value} absent"),
        }
    }
}

/// Removes a counter and its bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterDelete {
    /// Name of the counter.
    pub name: String,
}

impl Kind for CounterDelete {
    const TAG: u8 = 5;
    const FREES_ROOM: bool = true;

    fn name(&self) -> &str {
        &self.name
    }

    fn canonical(&self, into: &mut Canonical) {
        into.text(&self.name);
    }

    fn run<V: View + ?Sized>(
        &self,
        work: &mut Work<'_, '_, V>,
    ) -> Result<OperationAnswer, Refusal> {
        let before = work.counter(&self.name);
        let Some(record) = before else {
            return Ok(CounterChanged(unchanged(work, None)));
        };
        let revision = work.next_revision();
        work.set_counter(&self.name, None)?;
        Ok(CounterChanged(change(before, 0, record.bounds, revision)))
    }
}

impl Display for CounterDelete {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "delete {:?}", self.name)
    }
}

/// Replaces a counter's stored bounds; creates a missing one at 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterConfigure {
    /// Name of the counter.
    pub name: String,
    /// The bounds to store.
    pub bounds: Bounds,
}

impl Kind for CounterConfigure {
    const TAG: u8 = 6;

    fn name(&self) -> &str {
        &self.name
    }

    fn canonical(&self, into: &mut Canonical) {
        into.text(&self.name);
        into.bounds(&self.bounds);
    }

    fn run<V: View + ?Sized>(
        &self,
        work: &mut Work<'_, '_, V>,
    ) -> Result<OperationAnswer, Refusal> {
        let CounterConfigure { name, bounds } = self;
        let before = work.counter(name);
        let (value, _) = value_and_bounds(before);
        if let Some(obstacle) = obstacle(value, *bounds) {
            return Err(obstacle.refuse(name, value));
        }
        // Like Set: storing the same bounds again is a change with a revision of its own.
        Ok(CounterChanged(write(work, name, before, value, *bounds)?))
    }
}

impl Display for CounterConfigure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "configure {:?}{}", self.name, self.bounds)
    }
}

fn set<V: View + ?Sized>(
    work: &mut Work<'_, '_, V>,
    name: &str,
    value: i64,
) -> Result<OperationAnswer, Refusal> {
    let before = work.counter(name);
    let (present, bounds) = value_and_bounds(before);
    if let Some(obstacle) = obstacle(value, bounds) {
        return Err(obstacle.refuse(name, present));
    }
    Ok(CounterChanged(write(work, name, before, value, bounds)?))
}

fn write<V: View + ?Sized>(
    work: &mut Work<'_, '_, V>,
    name: &str,
    before: Option<CounterRecord>,
    value: i64,
    bounds: Bounds,
) -> Result<CounterChange, Refusal> {
    let revision = work.next_revision();
    let record = CounterRecord {
        value,
        bounds,
        created_revision: before
            .filter(|_| !seeded_bugs::is_on("created-revision-renewed"))
            .map_or(revision, |before| before.created_revision),
        modified_revision: revision,
        modified_wall_time_ms: work.wall_time_ms,
    };
    work.set_counter(name, Some(record))?;
    Ok(change(before, value, bounds, revision))
}

fn unchanged<V: View + ?Sized>(
    work: &Work<'_, '_, V>,
    present: Option<CounterRecord>,
) -> CounterChange {
    let (value, bounds) = value_and_bounds(present);
    change(present, value, bounds, work.meta.revision)
}

/// What a failed condition says about a counter.
pub(super) fn found(record: Option<CounterRecord>) -> Found {
    match record {
        Some(CounterRecord { value, created_revision, .. })
            if seeded_bugs::is_on("refusal-tells-another-revision") =>
        {
            Found::Counter { value, modified_revision: created_revision }
        }
        Some(CounterRecord { value, modified_revision, .. }) => {
            Found::Counter { value, modified_revision }
        }
        None => Found::Nothing,
    }
}

fn change(
    before: Option<CounterRecord>,
    value: i64,
    bounds: Bounds,
    revision: u64,
) -> CounterChange {
    let (value_before, _) = value_and_bounds(before);
    let delta = value.saturating_sub(value_before);
    CounterChange {
        value_before,
        value,
        delta_requested: delta,
        delta_applied: delta,
        revision,
        existed: before.is_some(),
        bounds,
    }
}

/// A missing counter counts as 0 without bounds.
fn value_and_bounds(record: Option<CounterRecord>) -> (i64, Bounds) {
    record.map_or((0, Bounds::default()), |record| (record.value, record.bounds))
}
