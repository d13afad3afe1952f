//! Which write of unknown outcome made which revision that nobody was told?
//!
//! **Claim.** If the unknown adds to each counter all ask for the same, [`fill`] finds an assignment if
//! there is one, in O(n log n).
//!
//! **What it relies on.** Between two looks at a counter, one after the other in the order of revisions,
//! what they saw differs by a known number of unknown adds (`order.rs`): so many *jobs*, each of which
//! takes one of the revisions between the two looks that have no writer. After the last look any number
//! may have happened: jobs that may be left. An add may make revision s if nobody had seen s or a later
//! one before its call, so all revisions from some *release* on: one above the highest that was reached
//! before its call. Each revision without a writer has exactly one.
//!
//! **Steps.**
//!
//! 1. The adds to one counter are alike but for their calls, and a later call has no earlier release. So
//!    in any assignment two of them can change places until they stand in the order of their calls, and
//!    those which are left were called last. So the n-th job of a counter takes its n-th add, which gives
//!    each job one release and one deadline; both never fall from one job of a counter to the next.
//! 2. What is left is the scheduling of jobs of length one with releases and deadlines on one machine,
//!    whose times are the revisions without a writer. *Earliest deadline first* misses a deadline only if
//!    every schedule does (two jobs in the wrong order can change places, as all have the same length).
//! 3. It never rests while a job is released. So if it rests at s, all jobs released by then are done,
//!    one at each revision before s: there are too few of them for s to have a writer in any schedule.
//!
//! **What breaks it.** Two unknown deltas on one counter (the number of jobs is a puzzle, and 1 fails),
//! atomic steps (jobs of another length). `order.rs` leaves such histories to the search, unless there is
//! no revision without a writer.

use std::{cmp::Reverse, collections::BinaryHeap};

/// So many unknown adds must have happened; each takes one revision without a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) name: u32,
    pub(super) from: u64,
    /// The last revision that it may take; none if it need not happen.
    pub(super) to: Option<u64>,
    /// The looks before and behind it, for whoever asks.
    pub(super) looks: (Option<u32>, Option<u32>),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fill {
    /// So many revisions got their writer.
    Filled(u64),
    /// This job can't be done in time.
    TooLate(Job),
    /// Nobody can have made this revision.
    NoWriter(u64),
}

/// Gives each revision without a writer its writer. `jobs` are released at their `from`; `gaps` are the
/// revisions without a writer, ascending, both ends included. Unless `must_fill`, others may have made
/// them as well.
pub(super) fn fill(mut jobs: Vec<Job>, gaps: &[(u64, u64)], must_fill: bool) -> Fill {
    jobs.sort_by_key(|job| job.from);
    let mut released: BinaryHeap<Reverse<(u64, u32, usize)>> = BinaryHeap::new();
    let mut next = 0;
    let mut filled = 0;
    for &(first, last) in gaps {
        let mut at = first;
        while at <= last {
            while let Some(job) = jobs.get(next).filter(|job| job.from <= at) {
                released.push(Reverse((job.to.unwrap_or(u64::MAX), job.name, next)));
                next += 1;
            }
            match released.pop() {
                Some(Reverse((deadline, _, job))) if deadline < at => {
                    return Fill::TooLate(jobs[job]);
                }
                Some(_) => {
                    filled += 1;
                    at += 1;
                }
                None if must_fill => return Fill::NoWriter(at),
                // On to where there is something to do.
                None => at = jobs.get(next).map_or(u64::MAX, |job| job.from.max(at + 1)),
            }
            if at == u64::MAX {
                break;
            }
        }
    }
    let rest = released.into_iter().map(|Reverse((_, _, job))| jobs[job]);
    match rest.chain(jobs[next..].iter().copied()).find(|job| job.to.is_some()) {
        Some(job) => Fill::TooLate(job),
        None => Fill::Filled(filled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: u32, from: u64, to: Option<u64>) -> Job {
        Job { name, from, to, looks: (None, None) }
    }

    #[test]
    fn those_that_can_wait_do() {
        let jobs = vec![job(0, 1, None), job(1, 1, Some(9)), job(2, 2, Some(2))];
        assert_eq!(fill(jobs, &[(1, 2), (9, 9)], true), Fill::Filled(3));
    }

    #[test]
    fn too_many_for_the_revisions_there_are() {
        let jobs = vec![job(0, 1, Some(2)), job(1, 1, Some(2)), job(2, 1, Some(2))];
        assert!(matches!(fill(jobs, &[(1, 2), (7, 7)], true), Fill::TooLate(_)));
    }

    #[test]
    fn a_revision_that_nobody_was_called_for() {
        let jobs = vec![job(0, 5, None)];
        assert_eq!(fill(jobs.clone(), &[(3, 3), (6, 6)], true), Fill::NoWriter(3));
        assert_eq!(fill(jobs, &[(3, 3), (6, 6)], false), Fill::Filled(1));
    }

    /// Against all assignments that there are.
    #[test]
    fn it_finds_one_if_there_is_one() {
        use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

        fn any(slots: &[u64], jobs: &[Job], used: &mut Vec<bool>) -> bool {
            let Some((slot, rest)) = slots.split_first() else {
                return jobs.iter().zip(&*used).all(|(job, used)| *used || job.to.is_none());
            };
            (0..jobs.len()).any(|at| {
                let job = jobs[at];
                let fits = job.from <= *slot && job.to.is_none_or(|to| *slot <= to);
                if used[at] || !fits {
                    return false;
                }
                used[at] = true;
                let found = any(rest, jobs, used);
                used[at] = false;
                found
            })
        }
        let mut seen = [0; 2];
        for seed in 0..3_000 {
            let mut random = SmallRng::seed_from_u64(seed);
            let slots: Vec<u64> = (1..10).filter(|_| random.random_bool(0.5)).collect();
            let jobs: Vec<Job> = (0..random.random_range(0..7))
                .map(|name| {
                    let from = random.random_range(1..10);
                    let to = random.random_bool(0.7).then(|| from + random.random_range(0..6));
                    job(name, from, to)
                })
                .collect();
            let gaps: Vec<_> = slots.iter().map(|slot| (*slot, *slot)).collect();
            let there_is = any(&slots, &jobs, &mut vec![false; jobs.len()]);
            let found = matches!(fill(jobs.clone(), &gaps, true), Fill::Filled(_));
            assert_eq!(found, there_is, "seed {seed}: {slots:?} {jobs:?}");
            seen[usize::from(found)] += 1;
        }
        assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
    }
}
