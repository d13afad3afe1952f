//! One counter that only moves in one direction: an order of all operations on it, by sorting.
//!
//! **Claim.** If every add to a counter, known or of unknown outcome, has the same sign, and the unknown
//! ones all ask for the same, [`Chain::judge`] says whether the counter is linearizable: neither verdict
//! is ever wrong, and it takes O(n log n). It believes in no revision.
//!
//! **What it relies on.** An answer of an add tells the values before and after it, which differ by its
//! delta; a read tells the value. A came before B for certain only if A was answered before B was
//! called. A write of unknown outcome may be anywhere after its call, or nowhere.
//!
//! **Steps**, for a counter that rises (one that falls is its mirror image):
//!
//! 1. *The order of what was answered is forced.* Adds move the value strictly up, so the value after an
//!    add is above that after any add before it: adds stand in the order of their answers, and a read of
//!    v between the last add that leads to at most v and the next one. Reads of one value change nothing,
//!    so among themselves they may stand in the order of their calls, which agrees with real time.
//! 2. *Two answers whose moves overlap* (the value before the later is below what the earlier left
//!    behind) can't both be true: a lost or a doubled add, or an invented value.
//! 3. *Real time:* the forced order is wrong if one in it was answered before one in front of it was
//!    called. The latest call in front is enough to compare with. If none is, the order agrees.
//! 4. *A jump* (the value before the next is above what the last left behind) must have been made by
//!    writes of unknown outcome, all of one delta d: so by exactly (jump / d) of them. Such a write may
//!    stand in front of all that was answered at or after its call, so its call may not be later than the
//!    earliest answer behind the jump; behind a later jump that bound is no lower. So whoever uses a
//!    write called later at the earlier of two jumps can change it for the one called first: it is enough
//!    to hand them out in the order of their calls.
//!
//! **What breaks it.** A second sign (a value may come back, so 1 fails), a delta of 0, bounds (a write
//! of unknown outcome may be refused), several unknown deltas where there is a jump (which of them made
//! it is a puzzle of its own). Of these it says nothing; `single.rs` searches. `tests/chain.rs` holds it
//! against that search.

use std::cmp::Reverse;

/// An operation that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) call: u64,
    pub(super) ret: u64,
    pub(super) deed: Deed,
    /// For whoever asks: which operation it is.
    pub(super) operation: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    /// An add, the values before and after it, and whether the counter existed, if that was told.
    Add { delta: i64, before: i64, after: i64, existed: Option<bool> },
    /// A read; nothing if there was no counter.
    Read(Option<i64>),
}

/// All operations on one counter.
#[derive(Debug, Default)]
pub(super) struct Chain {
    pub(super) steps: Vec<Step>,
    /// Adds of unknown outcome: call and delta.
    pub(super) unknown: Vec<(u64, i64)>,
    /// What was before the first is not known; else there was no counter.
    pub(super) unseen: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Alone {
    Linearizable,
    /// It is not, and of these operations no two orders can be told apart that would make it so.
    Contradiction {
        message: String,
        operations: Vec<usize>,
    },
    /// It is none of the counters that can be judged so.
    NotOneWay,
}

/// Where the walk along the chain is.
#[derive(Clone, Copy)]
struct Place {
    /// The value, mirrored if the counter falls.
    at: i128,
    exists: bool,
    /// Whose answer says so.
    by: Option<usize>,
}

impl Chain {
    pub(super) fn judge(&mut self) -> Alone {
        let mut signs = self.unknown.iter().map(|(_, delta)| delta.signum()).collect::<Vec<_>>();
        signs.extend(self.steps.iter().filter_map(|step| match step.deed {
            Deed::Add { delta, .. } => Some(delta.signum()),
            Deed::Read(_) => None,
        }));
        signs.sort_unstable();
        signs.dedup();
        let sign = match signs[..] {
            [] => 1,
            [sign] if sign != 0 => i128::from(sign),
            _ => return Alone::NotOneWay,
        };
        self.unknown.sort_unstable();
        self.steps.sort_by_key(|step| match step.deed {
            Deed::Read(None) => (i128::MIN, 0, step.call),
            // Of two adds to one value the one that ended first: the other is the contradiction.
            Deed::Add { after, .. } => (sign * i128::from(after), 1, step.ret),
            Deed::Read(Some(value)) => (sign * i128::from(value), 2, step.call),
        });
        match self.walk(sign).and_then(|()| self.real_time()) {
            Ok(()) => Alone::Linearizable,
            Err(end) => end,
        }
    }

    /// The earliest answer from each step on.
    fn earliest_behind(&self) -> Vec<u64> {
        let mut earliest: Vec<u64> = self.steps.iter().map(|step| step.ret).collect();
        for at in (1..earliest.len()).rev() {
            earliest[at - 1] = earliest[at - 1].min(earliest[at]);
        }
        earliest
    }

    fn walk(&self, sign: i128) -> Result<(), Alone> {
        let earliest = self.earliest_behind();
        let mut used = 0;
        let mut place = (!self.unseen).then_some(Place { at: 0, exists: false, by: None });
        for (index, step) in self.steps.iter().enumerate() {
            let (before, after, existed) = match step.deed {
                Deed::Read(value) => {
                    let at = sign * i128::from(value.unwrap_or(0));
                    (at, at, Some(value.is_some()))
                }
                Deed::Add { delta, before, after, existed } => {
                    let (before, after) = (i128::from(before), i128::from(after));
                    if before + i128::from(delta) != after {
                        let message = "the answer contradicts itself".to_owned();
                        return Err(self.contradiction(message, None, index));
                    }
                    (sign * before, sign * after, existed)
                }
            };
            let exists = !matches!(step.deed, Deed::Read(None));
            if let Some(place) = place {
                let jumped = self.jump(place, before, sign, index, &mut used, &earliest)?;
                let existed_before = place.exists || jumped;
                if existed.is_some_and(|existed| existed != existed_before) {
                    let (is, told) =
                        if existed_before { ("existed", "not") } else { ("did not exist", "so") };
                    let message = format!("it {is} by then, but was told {told} to have existed");
                    return Err(self.contradiction(message, place.by, index));
                }
            } else if existed == Some(false) && before != 0 {
                let message = "it did not exist, but was not 0".to_owned();
                return Err(self.contradiction(message, None, index));
            }
            place = Some(Place { at: after, exists, by: Some(index) });
        }
        Ok(())
    }

    /// From where it is to what the next operation met; whether that took writes of unknown outcome.
    fn jump(
        &self,
        place: Place,
        before: i128,
        sign: i128,
        index: usize,
        used: &mut usize,
        earliest: &[u64],
    ) -> Result<bool, Alone> {
        let (is, met) = (sign * place.at, sign * before);
        let gap = before - place.at;
        if gap == 0 {
            return Ok(false);
        }
        if gap < 0 {
            let message = format!("it was {is} by then, and only moves away from {met}");
            return Err(self.contradiction(message, place.by, index));
        }
        let Some(&(_, delta)) = self.unknown.first() else {
            let message = format!("nobody moved it from {is} to {met}");
            return Err(self.contradiction(message, place.by, index));
        };
        if self.unknown.iter().any(|(_, other)| *other != delta) {
            return Err(Alone::NotOneWay);
        }
        let step = sign * i128::from(delta);
        let wanted = usize::try_from(gap / step).unwrap_or(usize::MAX);
        let in_time = self.unknown[*used..].partition_point(|(call, _)| *call <= earliest[index]);
        if gap % step != 0 || wanted > in_time {
            let message = format!(
                "nobody can have moved it from {is} to {met}: of the writes of unknown outcome, each \
                 of {delta}, {in_time} are left that were called by then"
            );
            return Err(self.contradiction(message, place.by, index));
        }
        *used += wanted;
        Ok(true)
    }

    fn real_time(&self) -> Result<(), Alone> {
        let mut latest: Option<usize> = None;
        for (index, step) in self.steps.iter().enumerate() {
            if let Some(before) = latest
                && step.ret < self.steps[before].call
            {
                let message =
                    "what they were told puts the first before the second, but the second \
                               was answered before the first was called"
                        .to_owned();
                return Err(self.contradiction(message, Some(before), index));
            }
            let called = |index: usize| (self.steps[index].call, Reverse(index));
            latest = latest.filter(|before| called(*before) >= called(index)).or(Some(index));
        }
        Ok(())
    }

    fn contradiction(&self, message: String, one: Option<usize>, other: usize) -> Alone {
        let concerned = one.into_iter().chain([other]);
        let operations = concerned.map(|index| self.steps[index].operation).collect();
        Alone::Contradiction { message, operations }
    }
}
