//! One hot counter: what a plain search would not survive.

use super::{
    store::{Fault, Mix, Store},
    *,
};

fn hot() -> Mix {
    Mix { clients: 50, operations: 10_000, unknown: 50, hot: true }
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

#[test]
fn a_hot_counter_without_revisions_is_judged_too() {
    let mut store = Store::run(2, Mix { operations: 2_000, ..hot() }, Fault::None);
    for record in &mut store.history {
        record.revision = None;
        if let Some(result) = &mut record.part.result {
            result.version = None;
        }
    }
    let began = tokio::time::Instant::now();
    let verdict = judge(&store.history);
    println!("{:?} for {:?}", began.elapsed(), verdict.counts);
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
