//! Membership safety: whoever decides by the voters before a change, and whoever decides by the
//! voters after it, must not decide without each other.
//!
//! So each entry that names voters is compared with the one before it in the same log: there must be
//! no majority of the one that is disjoint from a majority of the other. In joint consensus a
//! majority is one of each set.

use std::collections::{BTreeMap, BTreeSet};

/// Sets of voters, of each of which a majority is needed: one, or two while they change.
pub(super) type Voters = Vec<BTreeSet<u64>>;

/// The entries of one node's log that name voters, by index.
#[derive(Debug, Default)]
pub(super) struct VotersInLog(BTreeMap<u64, Voters>);

impl VotersInLog {
    /// An entry that names voters is appended: says what is wrong with it.
    pub(super) fn appended(&mut self, index: u64, voters: &[BTreeSet<u64>]) -> Option<String> {
        drop(self.0.split_off(&index));
        let before = self.0.last_key_value().map(|(_, voters)| voters.clone());
        self.0.insert(index, voters.to_vec());
        let before = before?;
        may_disagree(&before, voters).then(|| {
            format!(
                "membership: entry {index} changes the voters from {before:?} to {voters:?}, whose \
                 majorities need not overlap"
            )
        })
    }

    pub(super) fn truncated(&mut self, keep: u64) {
        drop(self.0.split_off(&(keep + 1)));
    }

    /// The log was left behind: by a start, which tells then what it finds, or for a snapshot. What was
    /// before is not known now.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

/// Whether there are disjoint majorities. There are few voters, so all sets of them are tried.
fn may_disagree(before: &[BTreeSet<u64>], after: &[BTreeSet<u64>]) -> bool {
    let all: Vec<u64> = before
        .iter()
        .chain(after)
        .flatten()
        .copied()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    (0_u64..1 << all.len()).any(|mask| {
        let is_in = |id: &u64| {
            all.iter().position(|other| other == id).is_some_and(|at| mask >> at & 1 == 1)
        };
        let decides = |sets: &[BTreeSet<u64>], side: bool| {
            sets.iter().all(|set| {
                let count = set.iter().filter(|id| is_in(id) == side).count();
                2 * count > set.len()
            })
        };
        decides(before, true) && decides(after, false)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<u64> {
        ids.iter().copied().collect()
    }

    #[test]
    fn one_voter_at_a_time_and_joint_consensus_are_safe() {
        let (old, new) = (set(&[1, 2, 3]), set(&[1, 4, 5]));
        assert!(!may_disagree(&[set(&[1, 2, 3])], &[set(&[1, 2, 3, 4])]));
        assert!(!may_disagree(&[set(&[1, 2, 3, 4])], &[set(&[1, 2, 3])]));
        assert!(!may_disagree(std::slice::from_ref(&old), &[old.clone(), new.clone()]));
        assert!(!may_disagree(&[old, new.clone()], &[new]));
    }

    /// Of an even number, half is no majority.
    #[test]
    fn growing_and_shrinking_through_even_sizes_is_safe() {
        for size in 1..6 {
            let (few, many) = ((1..=size).collect::<Vec<_>>(), (1..=size + 1).collect::<Vec<_>>());
            let (few, many) = (set(&few), set(&many));
            let joint = [few.clone(), many.clone()];
            for one in [&few, &many] {
                assert!(!may_disagree(std::slice::from_ref(one), &joint));
                assert!(!may_disagree(&joint, std::slice::from_ref(one)));
            }
        }
        assert!(!may_disagree(&[set(&[1, 2, 3, 4])], &[set(&[1, 2, 3, 4])]));
        assert!(may_disagree(&[set(&[1, 2, 3, 4])], &[set(&[1, 2, 5, 6])]));
    }

    /// From one joint membership to the next: a change that was left open, and then another one.
    #[test]
    fn two_changes_in_a_row_share_a_set() {
        let (a, b, c) = (set(&[1, 2, 3]), set(&[1, 2, 3, 4]), set(&[2, 3, 4]));
        assert!(!may_disagree(&[a.clone(), b.clone()], &[b, c.clone()]));
        assert!(may_disagree(&[a], &[c]));
    }

    #[test]
    fn a_voter_swapped_in_one_step_is_not() {
        assert!(may_disagree(&[set(&[1, 2, 3])], &[set(&[1, 2, 4])]));
        assert!(may_disagree(&[set(&[1, 2, 3])], &[set(&[4, 5, 6])]));
    }

    #[test]
    fn what_was_truncated_is_not_compared_with() {
        let mut log = VotersInLog::default();
        assert_eq!(log.appended(1, &[set(&[1, 2, 3])]), None);
        assert_eq!(log.appended(5, &[set(&[1, 2, 3, 4])]), None);
        log.truncated(4);
        assert_eq!(log.appended(5, &[set(&[2, 3])]), None);
    }
}
