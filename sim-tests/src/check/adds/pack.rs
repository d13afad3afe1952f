//! From lines to operations of a few numbers, if they are of this kind.

use std::collections::BTreeMap;

use tally_client::history::{Answer, Level, Op as Asked, Part, Record, Scalar, Status};

use super::Adds;
use crate::check::{Assumptions, Verdict, logical::is_decided};

/// What an answer did not tell. (No revision is as high.)
pub(super) const NOT_TOLD: u64 = u64::MAX;

/// One operation on one counter: of a batch read each part is one, in the same state.
#[derive(Debug, Clone, Copy)]
pub(super) struct Op {
    /// Where it came from.
    pub(super) line: u64,
    pub(super) call: u64,
    pub(super) ret: u64,
    /// That it made, or the state that it saw.
    pub(super) revision: u64,
    pub(super) deed: Deed,
    pub(super) name: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Deed {
    Add {
        delta: i64,
        before: i64,
        after: i64,
        existed: Option<bool>,
    },
    /// Nothing if there was no counter; the revision that last changed it, and the one that created it.
    Read {
        value: Option<i64>,
        version: u64,
        created: u64,
    },
    Unknown {
        delta: i64,
    },
}

/// Values and deltas beyond these may overflow, which is a refusal.
const VALUE_MAX: u64 = 1 << 62;
const DELTA_MAX: u64 = 1 << 40;

/// Takes lines in any order, as long as each is of this kind.
#[derive(Debug, Default)]
pub(in crate::check) struct Pack {
    ops: Vec<Op>,
    names: BTreeMap<String, u32>,
    verdict: Verdict,
    /// Some answer says nothing of the bounds of a counter that exists.
    bounds_untold: bool,
}

impl Pack {
    /// Takes a line; false if the history is none of this kind.
    pub(in crate::check) fn take(&mut self, line: u64, record: &Record) -> bool {
        let taken = self.packed(line, record).is_some();
        if taken {
            let counts = &mut self.verdict.counts;
            counts.operations += 1;
            match record.status {
                Status::Ok => counts.ok += 1,
                Status::Fail => counts.failed += 1,
                Status::Unknown => counts.unknown += 1,
            }
            counts.replayed += u64::from(record.replayed == Some(true));
        }
        taken
    }

    fn packed(&mut self, line: u64, record: &Record) -> Option<()> {
        let is_alone = record.when.is_empty() && record.else_ops.is_empty();
        let is_alone = is_alone && record.branch.is_none() && record.token.is_none();
        if !is_alone || (record.idem.is_some() && !record.is_read()) {
            return None;
        }
        let has_ended = record.ret.is_some_and(|ret| ret >= record.call);
        match (record.part.op, record.status) {
            (Asked::Incr, Status::Fail) if has_ended && !is_decided(record) => {
                plain_add(&record.part).and_then(|_| self.name(record.part.key.as_ref()?))?;
            }
            (Asked::Get | Asked::BatchGet, Status::Fail) => {
                if record.ret.is_some() && !has_ended {
                    return None;
                }
                for part in parts(record)? {
                    self.name(part.key.as_ref()?)?;
                }
            }
            (Asked::Incr, Status::Unknown) => {
                let (delta, name) =
                    (plain_add(&record.part)?, self.name(record.part.key.as_ref()?)?);
                let deed = Deed::Unknown { delta };
                let call = record.call;
                self.ops.push(Op { line, call, ret: u64::MAX, revision: NOT_TOLD, deed, name });
            }
            (Asked::Incr, Status::Ok) if has_ended => {
                let (deed, revision) = self.add(&record.part)?;
                let name = self.name(record.part.key.as_ref()?)?;
                let (call, ret) = (record.call, record.ret?);
                self.ops.push(Op { line, call, ret, revision, deed, name });
            }
            (Asked::Get | Asked::BatchGet, Status::Ok) if has_ended => self.read(line, record)?,
            _ => return None,
        }
        Some(())
    }

    fn name(&mut self, name: &str) -> Option<u32> {
        if let Some(index) = self.names.get(name) {
            return Some(*index);
        }
        let next = u32::try_from(self.names.len()).ok()?;
        self.names.insert(name.to_owned(), next);
        Some(next)
    }

    fn no_bounds(&mut self, answer: &Answer) -> Option<()> {
        let is_absent = answer.value == Some(None);
        self.bounds_untold |= !is_absent && (answer.floor.is_none() || answer.ceiling.is_none());
        let bounds = [answer.floor, answer.ceiling];
        bounds.iter().all(|bound| bound.flatten().is_none()).then_some(())
    }

    fn add(&mut self, part: &Part) -> Option<(Deed, u64)> {
        let delta = plain_add(part)?;
        let answer = part.result.as_ref()?;
        self.no_bounds(answer)?;
        let after = int(answer.value.as_ref()?.as_ref()?)?;
        // (What was told of the value before is not taken from the value after: they may disagree.)
        let before = answer.before.or_else(|| after.checked_sub(delta))?;
        let is_usual = before.unsigned_abs() < VALUE_MAX
            && answer.applied_delta.is_none_or(|told| told == delta)
            && answer.previous_version.is_none()
            && answer.created.is_none();
        let revision = answer.version.filter(|version| (1..NOT_TOLD).contains(version))?;
        let deed = Deed::Add { delta, before, after, existed: answer.existed };
        is_usual.then_some((deed, revision))
    }

    fn read(&mut self, line: u64, record: &Record) -> Option<()> {
        let is_linearizable =
            |level: Option<Level>| level.is_none_or(|level| level == Level::Linearizable);
        if !is_linearizable(record.level) || !is_linearizable(record.consistency) {
            return None;
        }
        let (call, ret, revision) = (record.call, record.ret?, record.revision?);
        for part in parts(record)? {
            let answer = part.result.as_ref()?;
            self.no_bounds(answer)?;
            let told = [answer.before.is_some(), answer.existed.is_some()];
            let others = [answer.applied_delta.is_some(), answer.previous_version.is_some()];
            if told != [false; 2] || others != [false; 2] || revision == NOT_TOLD {
                return None;
            }
            let value = match answer.value.as_ref()? {
                Some(scalar) => Some(int(scalar)?),
                None => None,
            };
            let version = answer.version.unwrap_or(NOT_TOLD);
            let created = answer.created.unwrap_or(NOT_TOLD);
            let name = self.name(part.key.as_ref()?)?;
            let deed = Deed::Read { value, version, created };
            self.ops.push(Op { line, call, ret, revision, deed, name });
        }
        self.verdict.counts.linearizable_reads += 1;
        self.verdict.counts.staleness_claims += u64::from(record.staleness_ms.is_some());
        Some(())
    }

    /// The history, if all of it was taken, and what was counted in it.
    pub(in crate::check) fn finish(
        self,
        assumptions: Assumptions,
        quote: &dyn Fn(u64) -> String,
    ) -> Option<(Adds<'_>, Verdict)> {
        let told = self.ops.iter().filter_map(|op| match op.deed {
            Deed::Add { .. } => Some(op.revision - 1),
            Deed::Read { .. } => Some(op.revision),
            Deed::Unknown { .. } => None,
        });
        let base = if assumptions.from_the_beginning { 0 } else { told.min().unwrap_or(0) };
        if (base > 0 && self.bounds_untold) || self.ops.len() >= u32::MAX as usize {
            return None;
        }
        let mut names = vec![String::new(); self.names.len()];
        for (name, index) in self.names {
            names[index as usize] = name;
        }
        let mut unknown = vec![Vec::new(); names.len()];
        for (index, op) in self.ops.iter().enumerate() {
            if let Deed::Unknown { .. } = op.deed {
                unknown[op.name as usize].push(index as u32);
            }
        }
        for unknown in &mut unknown {
            unknown.sort_by_key(|index| self.ops[*index as usize].call);
        }
        let ops = self.ops;
        Some((Adds { ops, names, unknown, base, assumptions, quote }, self.verdict))
    }
}

/// The delta of an add that can't be refused and always changes something.
fn plain_add(part: &Part) -> Option<i64> {
    let is_plain = part.floor.is_none() && part.ceiling.is_none() && !part.saturate;
    let delta = part.delta.filter(|delta| *delta != 0 && delta.unsigned_abs() < DELTA_MAX)?;
    (is_plain && !part.must_exist && part.kind.is_none()).then_some(delta)
}

/// What a read of counters reads.
fn parts(record: &Record) -> Option<&[Part]> {
    match record.part.op {
        Asked::Get => Some(std::slice::from_ref(&record.part)),
        _ => record.ops.iter().all(|part| part.op == Asked::Get).then_some(&record.ops),
    }
}

fn int(scalar: &Scalar) -> Option<i64> {
    match scalar {
        Scalar::Int(value) if value.unsigned_abs() < VALUE_MAX => Some(*value),
        _ => None,
    }
}
