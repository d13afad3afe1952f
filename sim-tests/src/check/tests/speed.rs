//! One hot counter: what a plain search would not survive.

use super::{
    store::{Fault, Mix, Store},
    *,
};

fn hot() -> Mix {
    Mix { clients: 50, operations: 10_000, unknown: 50, hot: true, rising: false }
}

#[test]
fn a_hot_counter_with_50_clients_and_10_000_operations() {
    let store = Store::run(1, hot(), Fault::None);
    // The clock of the test: nothing is decided by it.
    let began = tokio::time::Instant::now();
    let verdict = judge(&store.history);
    let took = began.elapsed();
    let counts = &verdict.counts;
    println!("{took:?} for {counts:?}");
    assert!(verdict.passed(), "{verdict:#?}");
    assert!(counts.operations >= 10_000 && counts.unknown > 300, "{counts:?}");
    assert!(counts.unknown_applied > 50 && counts.refusals > 300, "{counts:?}");
    // In release it takes well below a second.
    assert!(took.as_secs() < 30, "it took {took:?}");
}

fn without_revisions(mut history: Vec<Record>) -> Vec<Record> {
    for record in &mut history {
        record.revision = None;
        if let Some(result) = &mut record.part.result {
            result.version = None;
        }
    }
    history
}

/// A counter that only rises leaves no choice, so that even without revisions, and with hundreds of
/// unknown outcomes, it is decided: the search is a sort.
#[test]
fn a_rising_counter_without_revisions() {
    let mut history =
        without_revisions(Store::run(2, Mix { rising: true, ..hot() }, Fault::None).history);
    let began = tokio::time::Instant::now();
    let verdict = judge(&history);
    println!("{:?} for {:?}", began.elapsed(), verdict.counts);
    assert!(verdict.passed() && verdict.counts.unknown > 300, "{verdict:#?}");
    assert!(began.elapsed().as_secs() < 30);

    // One answer that is off by one is found as well.
    let wrong = |record: &&mut Record| record.part.result.is_some() && record.is_read();
    let record = history.iter_mut().filter(wrong).nth(300).unwrap();
    record.part.result.as_mut().unwrap().value = Some(Some(1.into()));
    let began = tokio::time::Instant::now();
    let (verdict, rules) = rules(&history);
    assert_eq!(rules, [Rule::NotLinearizable], "{verdict:#?}");
    assert!(began.elapsed().as_secs() < 30);
}

/// One that rises and falls is a puzzle without revisions: it may stay undecided, but is not
/// accused.
#[test]
fn a_hot_counter_without_revisions_is_not_accused() {
    let mix = Mix { operations: 2_000, ..hot() };
    let verdict = judge(&without_revisions(Store::run(2, mix, Fault::None).history));
    assert!(verdict.violations.is_empty(), "{verdict:#?}");
}

#[test]
fn a_fault_on_a_hot_counter_is_found_in_time() {
    for fault in [Fault::Lost, Fault::Doubled] {
        let mut store = Store::run(3, hot(), fault);
        assert!(store.did);
        let began = tokio::time::Instant::now();
        let verdict = judge(&store.history);
        println!("{fault:?}: {:?} for {:?}", began.elapsed(), verdict.counts);
        // A doubled add may pass for one of the many of unknown outcome, and so may its revision.
        assert!(!verdict.violations.is_empty() || fault == Fault::Doubled, "{verdict:#?}");
        assert!(began.elapsed().as_secs() < 120);
        store.history.clear();
    }
}
