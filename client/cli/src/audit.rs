//! What can be proven from what clients were told and what the counters hold.
//!
//! Every client adds 1. Each add ends acknowledged, refused (certainly not applied) or unknown. So
//! a counter must hold at least as much as was acknowledged, and at most that and all unknown ones.
//! Below it, acknowledged adds were lost; above it, some were counted twice. An acknowledged add
//! also names the value that it made, and no two adds make the same one.
//!
//! An unknown add can hide one fault: with none of them, the audit is exact.

use serde::Serialize;

/// The books of one counter.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Account {
    pub(crate) counter: String,
    /// Adds that were acknowledged.
    pub(crate) acknowledged: u64,
    /// Adds of which the client could not learn what became.
    pub(crate) unknown: u64,
    /// What the counter holds.
    pub(crate) applied: i64,
    /// The values that acknowledged adds were told.
    #[serde(skip)]
    pub(crate) values: Vec<i64>,
}

/// What is proven.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) acknowledged: u64,
    pub(crate) applied: i64,
    pub(crate) unknown: u64,
    /// At least this many acknowledged adds are missing.
    pub(crate) lost: u64,
    /// At least this many adds were counted more often than once.
    pub(crate) counted_twice: u64,
    /// At least this many acknowledged adds were told a value that another one made, or that no
    /// add can have made.
    pub(crate) wrong_values: u64,
}

impl Verdict {
    pub(crate) fn passed(&self) -> bool {
        self.lost == 0 && self.counted_twice == 0 && self.wrong_values == 0
    }
}

pub(crate) fn audit(accounts: &mut [Account]) -> Verdict {
    let mut verdict = Verdict::default();
    for account in accounts {
        let acknowledged = i128::from(account.acknowledged);
        let unknown = i128::from(account.unknown);
        let applied = i128::from(account.applied);
        let above = |difference: i128| u64::try_from(difference.max(0)).unwrap_or(u64::MAX);
        verdict.acknowledged += account.acknowledged;
        verdict.applied += account.applied;
        verdict.unknown += account.unknown;
        verdict.lost += above(acknowledged - applied);
        verdict.counted_twice += above(applied - acknowledged - unknown);
        verdict.wrong_values += wrong_values(account);
    }
    verdict
}

fn wrong_values(account: &mut Account) -> u64 {
    account.values.sort_unstable();
    let told = account.values.len() as u64;
    account.values.dedup();
    let impossible = |value: &&i64| **value < 1 || **value > account.applied;
    let out_of_range = account.values.iter().filter(impossible).count() as u64;
    told - account.values.len() as u64 + out_of_range
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(acknowledged: u64, unknown: u64, applied: i64) -> Account {
        // Values beyond what the counter holds are a fault of their own.
        let values = (1..=applied.min(acknowledged as i64)).collect();
        Account { counter: "c".into(), acknowledged, unknown, applied, values }
    }

    #[test]
    fn exact_without_unknown_adds() {
        for (acknowledged, unknown, applied, lost, twice) in [
            (10, 0, 10, 0, 0),
            (10, 0, 9, 1, 0),
            (10, 0, 12, 0, 2),
            (10, 3, 10, 0, 0),
            (10, 3, 13, 0, 0),
            (10, 3, 14, 0, 1),
            (10, 3, 8, 2, 0),
        ] {
            let verdict = audit(&mut [account(acknowledged, unknown, applied)]);
            assert_eq!((verdict.lost, verdict.counted_twice), (lost, twice));
            assert_eq!(verdict.passed(), lost == 0 && twice == 0);
        }
    }

    #[test]
    fn one_counter_cannot_make_up_for_another() {
        let verdict = audit(&mut [account(10, 0, 9), account(10, 0, 11)]);
        assert_eq!((verdict.lost, verdict.counted_twice), (1, 1));
        assert_eq!((verdict.acknowledged, verdict.applied), (20, 20));
    }

    #[test]
    fn no_two_adds_are_told_the_same_value() {
        let mut same = account(3, 0, 3);
        same.values = vec![1, 3, 3];
        let mut beyond = account(3, 0, 3);
        beyond.values = vec![1, 2, 4];
        for mut account in [same, beyond] {
            let verdict = audit(std::slice::from_mut(&mut account));
            assert_eq!((verdict.wrong_values, verdict.passed()), (1, false));
        }
    }
}
