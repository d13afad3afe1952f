//! Operations on counters.
//!
//! All arithmetic is done in 128 bits, where the sum or difference of two 64-bit values always
//! fits; what does not fit back is refused or saturated, so nothing wraps.

use tally_seeded_bugs as seeded_bugs;

use super::{
    command::{
        Bounds, CounterChange, CounterExpectation, CounterRecord, Found, OnViolation, Refusal,
        Target,
    },
    view::View,
    work::Work,
};

/// What stands in the way of a new value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obstacle {
    Floor(i64),
    Ceiling(i64),
    Overflow,
}

impl Obstacle {
    /// As a refusal of a write on the counter that holds `value`.
    pub(super) fn refuse(self, name: &str, value: i64) -> Refusal {
        let name = name.to_owned();
        match self {
            Obstacle::Floor(floor) => Refusal::BelowFloor { name, value, floor },
            Obstacle::Ceiling(ceiling) => Refusal::AboveCeiling { name, value, ceiling },
            Obstacle::Overflow => Refusal::Overflow { name, value },
        }
    }
}

impl<V: View + ?Sized> Work<'_, '_, V> {
    pub(super) fn counter_add(
        &mut self,
        name: &str,
        delta: i64,
        asked: Bounds,
        on_violation: OnViolation,
        must_exist: bool,
    ) -> Result<CounterChange, Refusal> {
        let before = self.counter(name);
        if must_exist && before.is_none() {
            return Err(Refusal::CounterNotFound { name: name.to_owned() });
        }
        let (value, stored) = value_and_bounds(before);
        let mut bounds = tighter(stored, asked);
        if seeded_bugs::is_on("bounds-before-proposing") && on_violation == OnViolation::Reject {
            bounds = Bounds::default();
        }
        let (value, obstacle) = sum(value, delta, bounds);
        if let (Some(obstacle), OnViolation::Reject) = (obstacle, on_violation) {
            return Err(obstacle.refuse(name, value_and_bounds(before).0));
        }
        let mut change = if before.is_some_and(|before| before.value == value) {
            self.counter_unchanged(before)
        } else {
            self.counter_write(name, before, value, stored)
        };
        change.delta_requested = delta;
        Ok(change)
    }

    pub(super) fn counter_set(&mut self, name: &str, value: i64) -> Result<CounterChange, Refusal> {
        let before = self.counter(name);
        let (present, bounds) = value_and_bounds(before);
        if let Some(obstacle) = obstacle(value, bounds) {
            return Err(obstacle.refuse(name, present));
        }
        Ok(self.counter_write(name, before, value, bounds))
    }

    pub(super) fn counter_compare_and_set(
        &mut self,
        name: &str,
        expect: CounterExpectation,
        value: i64,
    ) -> Result<CounterChange, Refusal> {
        let before = self.counter(name);
        let holds = match expect {
            CounterExpectation::Value(value) => before.is_some_and(|before| before.value == value),
            // A missing counter has revision 0, here as in the conditions of an atomic step.
            CounterExpectation::Revision(revision) => {
                before.map_or(0, |before| before.modified_revision) == revision
            }
            CounterExpectation::Absent => before.is_none(),
        };
        if !holds {
            let target = Target::Counter(name.to_owned());
            return Err(Refusal::ConditionFailed { target, found: found(before) });
        }
        self.counter_set(name, value)
    }

    pub(super) fn counter_delete(&mut self, name: &str) -> CounterChange {
        let before = self.counter(name);
        let Some(record) = before else {
            return self.counter_unchanged(None);
        };
        let revision = self.next_revision();
        self.set_counter(name, None);
        change(before, 0, record.bounds, revision)
    }

    pub(super) fn counter_configure(
        &mut self,
        name: &str,
        bounds: Bounds,
    ) -> Result<CounterChange, Refusal> {
        let before = self.counter(name);
        let (value, _) = value_and_bounds(before);
        if let Some(obstacle) = obstacle(value, bounds) {
            return Err(obstacle.refuse(name, value));
        }
        // Like Set: storing the same bounds again is a change with a revision of its own.
        Ok(self.counter_write(name, before, value, bounds))
    }

    fn counter_write(
        &mut self,
        name: &str,
        before: Option<CounterRecord>,
        value: i64,
        bounds: Bounds,
    ) -> CounterChange {
        let revision = self.next_revision();
        let record = CounterRecord {
            value,
            bounds,
            created_revision: before
                .filter(|_| !seeded_bugs::is_on("created-revision-renewed"))
                .map_or(revision, |before| before.created_revision),
            modified_revision: revision,
            modified_wall_time_ms: self.wall_time_ms,
        };
        self.set_counter(name, Some(record));
        change(before, value, bounds, revision)
    }

    fn counter_unchanged(&self, present: Option<CounterRecord>) -> CounterChange {
        let (value, bounds) = value_and_bounds(present);
        change(present, value, bounds, self.meta.revision)
    }
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
pub(super) fn value_and_bounds(record: Option<CounterRecord>) -> (i64, Bounds) {
    record.map_or((0, Bounds::default()), |record| (record.value, record.bounds))
}

/// The bounds that hold for a write: of stored and asked ones the tighter on each side. The result
/// may be empty (floor above ceiling), if what is asked lies beyond what is stored. That needs no
/// rule of its own, because an Add is judged against one side only.
pub(super) fn tighter(stored: Bounds, asked: Bounds) -> Bounds {
    let pick = |stored: Option<i64>, asked: Option<i64>, tighter: fn(i64, i64) -> i64| match (
        stored, asked,
    ) {
        (Some(stored), Some(asked)) => Some(tighter(stored, asked)),
        (one, other) => one.or(other),
    };
    Bounds {
        floor: pick(stored.floor, asked.floor, i64::max),
        ceiling: pick(stored.ceiling, asked.ceiling, i64::min),
    }
}

/// What is in the way of a value that is set as it is.
fn obstacle(value: i64, bounds: Bounds) -> Option<Obstacle> {
    match bounds {
        Bounds { floor: Some(floor), .. } if value < floor => Some(Obstacle::Floor(floor)),
        Bounds { ceiling: Some(ceiling), .. } if value > ceiling => {
            Some(Obstacle::Ceiling(ceiling))
        }
        _ => None,
    }
}

/// How far `value` may move by `delta`: to the sum, or with what is in the way as far as that
/// allows. Only the bound in the direction of the movement counts, so a value outside a request's
/// own bound can come back; and a value that is beyond it already stays where it is, so the
/// movement is never against the sign of `delta`.
pub(super) fn sum(value: i64, delta: i64, bounds: Bounds) -> (i64, Option<Obstacle>) {
    let wide = i128::from(value) + i128::from(delta);
    let (limit, obstacle) = if delta >= 0 {
        bounds.ceiling.map_or((i64::MAX, Obstacle::Overflow), |bound| {
            (bound.max(value), Obstacle::Ceiling(bound))
        })
    } else {
        bounds.floor.map_or((i64::MIN, Obstacle::Overflow), |bound| {
            (bound.min(value), Obstacle::Floor(bound))
        })
    };
    let passed = if delta >= 0 { wide > i128::from(limit) } else { wide < i128::from(limit) };
    if passed {
        if obstacle == Obstacle::Overflow && seeded_bugs::is_on("overflow-saturates") {
            return (limit, None);
        }
        return (limit, Some(obstacle));
    }
    let value = i64::try_from(wide).expect("what lies between two 64-bit values fits in 64 bits");
    (value, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_stops_at_the_bound_that_it_moves_toward() {
        let bounds = |floor, ceiling| Bounds { floor, ceiling };
        let free = bounds(None, None);
        for (value, delta, bounds, expected) in [
            (1, 2, free, (3, None)),
            (i64::MAX, 1, free, (i64::MAX, Some(Obstacle::Overflow))),
            (i64::MIN, -1, free, (i64::MIN, Some(Obstacle::Overflow))),
            (i64::MIN, i64::MAX, free, (-1, None)),
            (-1, i64::MIN, free, (i64::MIN, Some(Obstacle::Overflow))),
            (5, 10, bounds(None, Some(9)), (9, Some(Obstacle::Ceiling(9)))),
            (5, 4, bounds(None, Some(9)), (9, None)),
            (5, -6, bounds(Some(0), None), (0, Some(Obstacle::Floor(0)))),
            // Beyond the bound already: it stays, or comes back.
            (5, 1, bounds(None, Some(3)), (5, Some(Obstacle::Ceiling(3)))),
            (5, -1, bounds(None, Some(3)), (4, None)),
            (-5, 2, bounds(Some(0), None), (-3, None)),
            // A movement by 0 passes nothing.
            (5, 0, bounds(Some(7), Some(3)), (5, None)),
            // An explicit bound is hit before the end of the range.
            (5, i64::MAX, bounds(None, Some(9)), (9, Some(Obstacle::Ceiling(9)))),
            (
                5,
                i64::MAX,
                bounds(None, Some(i64::MAX)),
                (i64::MAX, Some(Obstacle::Ceiling(i64::MAX))),
            ),
        ] {
            assert_eq!(sum(value, delta, bounds), expected, "{value} + {delta} within {bounds:?}");
        }
    }
}
