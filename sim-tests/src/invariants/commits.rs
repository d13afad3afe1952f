//! Commitment itself: what is applied anywhere is held durably by a majority of the voters.
//!
//! State machine safety shows a wrong commitment only when the few who hold the entry are gone before
//! the others get it. So the rule behind it is checked at the first apply of every entry, against what
//! the nodes' logs have called durable. While the voters change, it must be a majority by one of the
//! memberships that a leader may have counted with then: openraft counts with the newest one in its log.
//!
//! And a node acts on no membership that it knows to be overruled: once it has applied another entry at
//! that index, or a snapshot that covers it, the one before is in force.

use std::collections::{BTreeMap, BTreeSet};

type Voters = Vec<BTreeSet<u64>>;

/// How long a node may take to show a membership that it has got, in ms: a disk may be slow meanwhile.
const SHOWN_WITHIN_MS: u64 = 5_000;

/// Who holds what, and who votes.
#[derive(Debug, Default)]
pub(super) struct Commits {
    /// Nodes that have held an entry durably at any time, by its index and term.
    held: BTreeMap<(u64, u64), BTreeSet<u64>>,
    /// Memberships that were in a log at any time, by index and term.
    memberships: BTreeMap<(u64, u64), Voters>,
    /// Since when a node has shown an overruled membership, and which one.
    overruled: BTreeMap<u64, (u64, (u64, u64))>,
}

impl Commits {
    /// An entry is durable on a node.
    pub(super) fn holds(&mut self, node: u64, index: u64, term: u64) {
        self.held.entry((index, term)).or_default().insert(node);
    }

    /// An entry that names voters is in a log.
    pub(super) fn names(&mut self, index: u64, term: u64, voters: &[BTreeSet<u64>]) {
        self.memberships.entry((index, term)).or_insert_with(|| voters.to_vec());
    }

    /// An entry is applied for the first time: says what is wrong with that. `of` is the term of the entry
    /// that was applied at an index.
    pub(super) fn committed(
        &self,
        index: u64,
        term: u64,
        of: impl Fn(u64) -> Option<u64>,
    ) -> Option<String> {
        let nobody = BTreeSet::new();
        let holders = self.held.get(&(index, term)).unwrap_or(&nobody);
        // The first one is written before there are terms.
        let in_force = |at: u64, term: u64| at == 0 || of(at) == Some(term);
        let known = self.memberships.range(..=(index, u64::MAX)).rev();
        let (from, _) = known.into_iter().find(|((at, term), _)| in_force(*at, *term))?;
        let counted_with: Vec<&Voters> =
            self.memberships.range(from..).map(|(_, voters)| voters).collect();
        let decides = |voters: &Voters| {
            voters.iter().all(|set| 2 * set.intersection(holders).count() > set.len())
        };
        let decided = counted_with.iter().any(|voters| decides(voters));
        (!decided).then(|| {
            format!(
                "entry {term}-{index} is applied, and only {holders:?} have called it durable; the \
                 voters are {counted_with:?}"
            )
        })
    }

    /// A node shows this membership, and has applied an entry of this term at its index.
    pub(super) fn shows(
        &mut self,
        node: u64,
        (term, index): (u64, u64),
        applied_term: Option<u64>,
        now_ms: u64,
    ) -> Option<String> {
        let overruled = applied_term.filter(|applied| *applied != term);
        let Some(applied_term) = overruled else {
            self.overruled.remove(&node);
            return None;
        };
        let (since_ms, which) = *self.overruled.entry(node).or_insert((now_ms, (term, index)));
        if which != (term, index) {
            self.overruled.insert(node, (now_ms, (term, index)));
            return None;
        }
        (now_ms - since_ms > SHOWN_WITHIN_MS).then(|| {
            format!(
                "membership: it acts on entry {term}-{index} for {SHOWN_WITHIN_MS} ms, and has applied \
                 {applied_term}-{index}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<u64> {
        ids.iter().copied().collect()
    }

    fn held(by: &[u64]) -> Commits {
        let mut commits = Commits::default();
        commits.names(0, 0, &[set(&[1, 2, 3, 4, 5])]);
        by.iter().for_each(|node| commits.holds(*node, 7, 2));
        commits
    }

    /// All that was applied is of term 2.
    fn wrong(commits: &Commits, term: u64) -> bool {
        commits.committed(7, term, |_| Some(2)).is_some()
    }

    #[test]
    fn a_majority_commits_and_less_does_not() {
        assert!(!wrong(&held(&[1, 4, 5]), 2));
        assert!(wrong(&held(&[1, 4]), 2));
        assert!(wrong(&held(&[1, 4, 6, 7]), 2));
        // What they hold is another entry.
        assert!(wrong(&held(&[1, 4, 5]), 3));
    }

    #[test]
    fn a_membership_that_is_newer_than_the_entry_may_count() {
        let mut commits = held(&[1, 4]);
        commits.names(8, 2, &[set(&[1, 2, 4])]);
        assert!(!wrong(&commits, 2));
        let mut commits = held(&[1, 4]);
        commits.names(6, 2, &[set(&[1, 2, 4])]);
        assert!(!wrong(&commits, 2));
        commits.names(7, 2, &[set(&[1, 2, 4]), set(&[2, 3, 4])]);
        assert!(wrong(&commits, 2));
    }

    #[test]
    fn an_overruled_membership_takes_nothing_away() {
        let mut commits = held(&[1, 4, 5]);
        commits.names(6, 1, &[set(&[2, 3])]);
        assert!(!wrong(&commits, 2));
    }

    #[test]
    fn an_overruled_membership_must_go_in_time() {
        let mut commits = Commits::default();
        assert_eq!(commits.shows(1, (2, 7), None, 0), None);
        assert_eq!(commits.shows(1, (2, 7), Some(2), 100), None);
        assert_eq!(commits.shows(1, (2, 7), Some(3), 200), None);
        assert_eq!(commits.shows(1, (2, 7), Some(3), 5_200), None);
        assert!(commits.shows(1, (2, 7), Some(3), 5_201).is_some());
        assert_eq!(commits.shows(1, (3, 9), Some(3), 5_300), None);
        assert_eq!(commits.shows(1, (2, 7), Some(3), 5_400), None);
    }
}
