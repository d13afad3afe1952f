//! One counter that moves in one direction: the order by sorting against the search.

use super::{
    adds::{Kind, corrupt, history},
    *,
};
use crate::check::{
    chain::{Alone, Chain, Deed, Step},
    logical::History,
    order::Order,
    single::by_both,
};

/// Of a counter that rises or falls, by one size of steps: what both say, without revisions.
fn compare(seed: u64, records: &mut [Record], seen: &mut [u32; 3]) {
    let delta = [1, -1, 3][(seed / 3 % 3) as usize];
    for record in &mut *records {
        record.revision = None;
        for part in std::iter::once(&mut record.part).chain(&mut record.ops) {
            part.delta = part.delta.map(|_| delta);
            let Some(result) = &mut part.result else { continue };
            (result.version, result.created) = (None, None);
            result.before = result.before.map(|before| before * delta);
            result.applied_delta = result.applied_delta.map(|_| delta);
            if let Some(Some(tally_client::history::Scalar::Int(value))) = &mut result.value {
                *value *= delta;
            }
        }
    }
    let mut verdict = Verdict::default();
    let assumptions = Assumptions { from_the_beginning: true, ..Assumptions::default() };
    let history = History::read(records, assumptions, &mut verdict);
    let order = Order::find(&history, &mut verdict);
    let (searched, chained) = by_both(&history, &order);
    let Some(searched) = searched else { return };
    let told = || format!("seed {seed}: {chained:?}, and the search {searched}: {records:#?}");
    match &chained {
        Alone::Linearizable => assert!(searched, "{}", told()),
        Alone::Contradiction { operations, .. } => {
            assert!(!searched && (1..=2).contains(&operations.len()), "{}", told());
        }
        Alone::NotOneWay => seen[2] += 1,
    }
    seen[usize::from(!searched)] += 1;
}

#[test]
fn the_order_by_sorting_agrees_with_the_search() {
    let mut seen = [0; 3];
    for seed in 0..12_000 {
        let kind = Kind {
            counters: 1,
            operations: 3 + (seed % 9) as usize,
            unknown: [0, 30, 60][(seed / 2 % 3) as usize],
            mixed: false,
            base: 0,
        };
        let mut records = history(seed, kind);
        if seed % 4 > 0 {
            corrupt(seed, &mut records);
        }
        compare(seed, &mut records, &mut seen);
    }
    assert!(seen[0] > 4_000 && seen[1] > 2_000 && seen[2] < 300, "{seen:?}");
}

fn step(call: u64, ret: u64, deed: Deed) -> Step {
    Step { call, ret, deed, operation: call as usize }
}

fn added(call: u64, ret: u64, after: i64) -> Step {
    step(call, ret, Deed::Add { delta: 1, before: after - 1, after, existed: None })
}

#[test]
fn an_unknown_add_fills_a_jump_only_after_its_call() {
    let judge = |call| {
        let steps = vec![added(0, 1, 1), added(10, 11, 3)];
        Chain { steps, unknown: vec![(call, 1)], unseen: false }.judge()
    };
    assert_eq!(judge(11), Alone::Linearizable);
    assert!(matches!(judge(12), Alone::Contradiction { operations, .. } if operations == [0, 10]));
}

#[test]
fn what_was_before_the_first_look_is_learned() {
    let steps = vec![added(0, 1, 8), step(2, 3, Deed::Read(Some(8)))];
    assert_eq!(Chain { steps, unknown: Vec::new(), unseen: true }.judge(), Alone::Linearizable);
    let steps = vec![added(0, 1, 8), step(2, 3, Deed::Read(None))];
    let judged = Chain { steps, unknown: Vec::new(), unseen: true }.judge();
    assert!(matches!(judged, Alone::Contradiction { .. }));
}

#[test]
fn several_sizes_of_unknown_adds_are_left_to_the_search_where_there_is_a_jump() {
    let judge = |after| {
        let steps = vec![added(0, 1, 1), added(10, 11, after)];
        Chain { steps, unknown: vec![(0, 1), (0, 2)], unseen: false }.judge()
    };
    assert_eq!(judge(2), Alone::Linearizable);
    assert_eq!(judge(5), Alone::NotOneWay);
}
