//! Random histories: a store that keeps its promises is never accused, and one that breaks a promise
//! once, where somebody could see it, always is.

use super::{
    store::{Fault, Mix, Store},
    *,
};

fn mix(seed: u64) -> Mix {
    Mix {
        clients: 2 + (seed % 7) as usize,
        operations: 120,
        unknown: [0, 30, 150, 400][(seed / 7 % 4) as usize],
        hot: false,
        rising: false,
    }
}

#[test]
fn good_histories_pass() {
    let mut sum = Verdict::default().counts;
    for seed in 0..120 {
        let store = Store::run(seed, mix(seed), Fault::None);
        let verdict = judge(&store.history);
        assert!(verdict.passed(), "seed {seed}: {verdict:#?}");
        for (sum, one) in [
            (&mut sum.unknown_applied, verdict.counts.unknown_applied),
            (&mut sum.refusals, verdict.counts.refusals),
            (&mut sum.replayed, verdict.counts.replayed),
            (&mut sum.linearizable_reads, verdict.counts.linearizable_reads),
            (&mut sum.bounded_reads, verdict.counts.bounded_reads),
            (&mut sum.session_reads, verdict.counts.session_reads),
            (&mut sum.local_reads, verdict.counts.local_reads),
        ] {
            *sum += one;
        }
    }
    // Not vacuous: each kind of thing was there to be judged.
    let seen = [
        sum.unknown_applied,
        sum.refusals,
        sum.replayed,
        sum.linearizable_reads,
        sum.bounded_reads,
        sum.session_reads,
        sum.local_reads,
    ];
    assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
}

/// Every history with the fault in it is found out. Without unknown outcomes, since a write of
/// unknown outcome may explain what the fault did.
fn is_caught(fault: Fault) {
    let mut caught = 0;
    for seed in 0..60 {
        let store = Store::run(seed, Mix { unknown: 0, ..mix(seed) }, fault);
        if store.is_unclear {
            continue;
        }
        let verdict = judge(&store.history);
        assert_eq!(verdict.violations.is_empty(), !store.did, "seed {seed}: {verdict:#?}");
        caught += u64::from(store.did);
    }
    assert!(caught > 30, "{fault:?} happened in {caught} of 60 histories only");
}

#[test]
fn a_lost_write_is_caught() {
    is_caught(Fault::Lost);
}

#[test]
fn a_doubled_write_is_caught() {
    is_caught(Fault::Doubled);
}

#[test]
fn a_stale_read_is_caught() {
    is_caught(Fault::Stale);
}

#[test]
fn a_stale_read_that_lies_about_its_revision_is_caught() {
    is_caught(Fault::StaleAndLies);
}

#[test]
fn a_write_acknowledged_before_it_is_applied_is_caught() {
    is_caught(Fault::Late);
}

#[test]
fn a_write_that_the_recorder_lost_is_caught() {
    is_caught(Fault::Unrecorded);
}

#[test]
fn faults_among_unknown_outcomes_are_caught_most_of_the_time() {
    for fault in [Fault::Lost, Fault::StaleAndLies] {
        let (mut did, mut caught) = (0, 0);
        for seed in 0..60 {
            let store = Store::run(seed, Mix { unknown: 100, ..mix(seed) }, fault);
            if store.did {
                did += 1;
                caught += u64::from(!judge(&store.history).violations.is_empty());
            }
        }
        assert!(caught * 10 >= did * 9, "{fault:?}: {caught} of {did}");
    }
}
