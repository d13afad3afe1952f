//! How bounds judge a counter's new value.
//!
//! All arithmetic is done in 128 bits, where the sum or difference of two 64-bit values always
//! fits; what does not fit back is refused or saturated, so nothing wraps.

use tally_seeded_bugs as seeded_bugs;

use super::super::{item::Bounds, reply::Refusal};

/// What stands in the way of a new value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Obstacle {
    Floor(i64),
    Ceiling(i64),
    Overflow,
}

impl Obstacle {
    /// As a refusal of a write on the counter that holds `value`.
    pub(crate) fn refuse(self, name: &str, value: i64) -> Refusal {
        let name = name.to_owned();
        match self {
            Obstacle::Floor(floor) => Refusal::BelowFloor { name, value, floor },
            Obstacle::Ceiling(ceiling) => Refusal::AboveCeiling { name, value, ceiling },
            Obstacle::Overflow => Refusal::Overflow { name, value },
        }
    }
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
pub(super) fn obstacle(value: i64, bounds: Bounds) -> Option<Obstacle> {
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
