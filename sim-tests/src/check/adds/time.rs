//! The order of revisions against real time: the argument is `check/time.rs`'s.

use super::{Adds, Deed};
use crate::check::{Rule, Verdict};

/// By the time of the answer: the highest revision that had been reached by then, and whose answer that
/// was.
pub(super) struct Reached(Vec<(u64, u64, u32)>);

impl Reached {
    pub(super) fn new(adds: &Adds<'_>) -> Self {
        let answered = |deed: &Deed| !matches!(deed, Deed::Unknown { .. });
        let ops = adds.ops.iter().enumerate().filter(|(_, op)| answered(&op.deed));
        let mut all: Vec<_> = ops.map(|(index, op)| (op.ret, op.revision, index as u32)).collect();
        all.sort_unstable();
        for at in 1..all.len() {
            if all[at].1 < all[at - 1].1 {
                (all[at].1, all[at].2) = (all[at - 1].1, all[at - 1].2);
            }
        }
        Self(all)
    }

    pub(super) fn before(&self, time: u64) -> Option<(u64, u32)> {
        let answered = self.0.partition_point(|(ret, _, _)| *ret < time);
        answered.checked_sub(1).map(|last| (self.0[last].1, self.0[last].2))
    }
}

impl Adds<'_> {
    /// Whether all operations agree with real time.
    pub(super) fn in_time(&self, verdict: &mut Verdict) -> bool {
        let reached = Reached::new(self);
        let mut all_do = true;
        // One answer that is out of place contradicts all that come after it: the first of those tells it.
        let mut told = std::collections::BTreeSet::new();
        for (index, op) in self.ops.iter().enumerate() {
            let Some((floor, by)) = reached.before(op.call) else { continue };
            let saw = matches!(self.ops[by as usize].deed, Deed::Read { .. });
            let wrong = match (op.deed, saw) {
                (Deed::Add { .. }, true) if op.revision <= floor => {
                    "a read of the future: a revision was seen before the write that made it was \
                     called"
                }
                (Deed::Add { .. }, false) if op.revision <= floor => {
                    "writes in the wrong order: the later one made the lower revision"
                }
                (Deed::Read { .. }, true) if op.revision < floor => {
                    "reads in the wrong order: the later one saw the older state"
                }
                (Deed::Read { .. }, false) if op.revision < floor => {
                    "a stale answer: it does not see a write that was acknowledged before it began"
                }
                _ => continue,
            };
            all_do = false;
            // (The parts of a batch read are on one line.)
            let is_news = !told.contains(&op.line) && told.insert(self.ops[by as usize].line);
            if is_news {
                told.insert(op.line);
                let both = self.quoted([by, index as u32]);
                verdict.violation(Rule::RealTime, format!("{wrong}:{both}"));
            }
        }
        all_do
    }
}
