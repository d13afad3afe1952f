//! The table of errors: the refusals that are decided in apply. Each is sent as a unary call and in
//! the stream, and must be the same error both times.

use tally_proto::{
    reason,
    v1::{self, Outcome, call::Request},
};
use tonic::Code;

use crate::{
    client::{Failure, fails_both_ways, unary},
    cluster::Cluster,
    requests::*,
};

/// A request that must be refused in apply, with its row of the table.
struct Row {
    request: Request,
    code: Code,
    reason: &'static str,
    check: fn(&Failure),
}

fn row(request: Request, code: Code, reason: &'static str, check: fn(&Failure)) -> Row {
    Row { request, code, reason, check }
}

fn nothing(_: &Failure) {}

#[tokio::test]
async fn refusals_of_the_machine_have_their_rows() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let long = vec![b'x'; 1024];
    for request in [
        configure("stock", Some(0), Some(10)),
        add("stock", 5),
        set("high", i64::MAX),
        set("low", i64::MIN),
        put("key", "old"),
        put("kilobyte", long.clone()),
        put("longer", [long, vec![b'x']].concat()),
        put("large", vec![0; 17 * 1024]),
    ] {
        unary(&channel, request).await.expect("the data is stored");
    }
    for row in counter_rows().into_iter().chain(key_rows()).chain(step_rows()) {
        let what = format!("{:?}", row.request);
        let failure = fails_both_ways(&channel, row.request).await;
        assert_eq!(failure.row(), (row.code, row.reason, Some(Outcome::NotApplied)), "{what}");
        let outcome = failure.details.outcome.as_ref().expect("it was just compared");
        assert!(outcome.decided_in_apply, "{what}");
        (row.check)(&failure);
    }
}

fn counter_rows() -> Vec<Row> {
    use v1::counters_compare_and_set_request::Expect;

    let must_exist = |name| add_with(name, 1, |add| add.set_if_missing(v1::IfMissing::Fail));
    let bounded = |delta, floor, ceiling| {
        add_with("stock", delta, |add| add.bounds = Some(v1::Bounds { floor, ceiling }))
    };
    vec![
        row(must_exist("none"), Code::NotFound, reason::COUNTER_NOT_FOUND, nothing),
        row(add("stock", -6), Code::FailedPrecondition, reason::BELOW_FLOOR, |failure| {
            assert_eq!(bound_of(failure), (5, Some(0)));
        }),
        row(add("stock", 6), Code::FailedPrecondition, reason::ABOVE_CEILING, |failure| {
            assert_eq!(bound_of(failure), (5, Some(10)));
        }),
        row(bounded(-1, Some(5), None), Code::FailedPrecondition, reason::BELOW_FLOOR, |failure| {
            assert_eq!(bound_of(failure), (5, Some(5)), "the tighter bound is named");
        }),
        row(set("stock", -1), Code::FailedPrecondition, reason::BELOW_FLOOR, nothing),
        row(set("stock", i64::MAX), Code::FailedPrecondition, reason::ABOVE_CEILING, nothing),
        row(
            configure("stock", Some(6), None),
            Code::FailedPrecondition,
            reason::BELOW_FLOOR,
            nothing,
        ),
        row(
            configure("stock", None, Some(4)),
            Code::FailedPrecondition,
            reason::ABOVE_CEILING,
            nothing,
        ),
        row(add("high", 1), Code::OutOfRange, reason::OVERFLOW, |failure| {
            assert_eq!(bound_of(failure), (i64::MAX, None));
        }),
        row(add("low", i64::MIN), Code::OutOfRange, reason::OVERFLOW, |failure| {
            assert_eq!(bound_of(failure), (i64::MIN, None));
        }),
        row(
            compare_and_set("stock", Expect::ExpectValue(4), 1),
            Code::Aborted,
            reason::CONDITION_FAILED,
            |failure| {
                let found = failure.details.condition.as_ref().expect("what is stored instead");
                assert_eq!(found.counter_value, Some(5));
                assert!(found.exists && found.modified_revision > 0);
            },
        ),
        row(
            compare_and_set("stock", Expect::ExpectAbsent(true), 1),
            Code::Aborted,
            reason::CONDITION_FAILED,
            nothing,
        ),
        row(
            compare_and_set("none", Expect::ExpectRevision(7), 1),
            Code::Aborted,
            reason::CONDITION_FAILED,
            |failure| {
                let found = failure.details.condition.as_ref().expect("what is stored instead");
                assert_eq!(*found, v1::ConditionFailure::default(), "nothing is there");
            },
        ),
    ]
}

fn bound_of(failure: &Failure) -> (i64, Option<i64>) {
    let bound = failure.details.bound.as_ref().expect("the bound is named");
    (bound.value, bound.bound)
}

fn key_rows() -> Vec<Row> {
    use v1::key_condition::Expect;

    let put_if = |key, expect| put_with(key, "new", |put| put.condition = condition_on_key(expect));
    vec![
        row(
            put_if("key", Expect::Absent(true)),
            Code::Aborted,
            reason::CONDITION_FAILED,
            |failure| assert_eq!(found_value(failure), (3, Some(b"old".to_vec()))),
        ),
        row(put_if("none", Expect::Present(true)), Code::Aborted, reason::CONDITION_FAILED, |f| {
            assert_eq!(found_value(f), (0, None));
        }),
        row(
            put_if("kilobyte", Expect::Revision(1)),
            Code::Aborted,
            reason::CONDITION_FAILED,
            |failure| assert_eq!(found_value(failure), (1024, Some(vec![b'x'; 1024]))),
        ),
        row(
            key_delete("longer", condition_on_key(Expect::Revision(1))),
            Code::Aborted,
            reason::CONDITION_FAILED,
            |failure| assert_eq!(found_value(failure), (1025, None), "above 1 KiB: the size only"),
        ),
        row(
            put_if("key", Expect::Value("odd".into())),
            Code::Aborted,
            reason::CONDITION_FAILED,
            |failure| assert_eq!(found_value(failure), (3, Some(b"old".to_vec()))),
        ),
        row(
            key_delete("none", condition_on_key(Expect::Value("".into()))),
            Code::Aborted,
            reason::CONDITION_FAILED,
            |failure| assert_eq!(found_value(failure), (0, None), "a missing key has no value"),
        ),
    ]
}

fn found_value(failure: &Failure) -> (u64, Option<Vec<u8>>) {
    let found = failure.details.condition.as_ref().expect("what is stored instead");
    (found.value_size_bytes, found.value.as_ref().map(|value| value.to_vec()))
}

fn step_rows() -> Vec<Row> {
    use v1::{condition::Test, step_failure::Part};

    fn part(failure: &Failure) -> (Option<Part>, bool) {
        let step = failure.details.step.as_ref().expect("the part is named");
        (step.part, step.else_branch)
    }
    vec![
        row(
            apply(|step| {
                step.conditions = vec![
                    condition_on_counter("stock", Test::Exists(true)),
                    condition_on_counter("stock", Test::CounterValue(6)),
                ];
                step.operations = vec![step_add("stock", 1)];
            }),
            Code::Aborted,
            reason::CONDITION_FAILED,
            |failure| {
                assert_eq!(part(failure), (Some(Part::ConditionIndex(1)), false));
                let found = failure.details.condition.as_ref().expect("what is stored instead");
                assert_eq!(found.counter_value, Some(5));
            },
        ),
        row(
            apply(|step| step.operations = vec![step_put("order", "1"), step_add("stock", -6)]),
            Code::FailedPrecondition,
            reason::BELOW_FLOOR,
            |failure| {
                assert_eq!(part(failure), (Some(Part::OperationIndex(1)), false));
                assert_eq!(bound_of(failure), (5, Some(0)));
            },
        ),
        row(
            apply(|step| {
                step.conditions = vec![condition_on_counter("none", Test::Exists(true))];
                step.operations = vec![step_put("order", "1")];
                step.else_operations = vec![step_add("high", 1)];
            }),
            Code::OutOfRange,
            reason::OVERFLOW,
            |failure| assert_eq!(part(failure), (Some(Part::OperationIndex(0)), true)),
        ),
        row(
            apply(|step| step.operations = vec![step_read("key"), step_read("large")]),
            Code::InvalidArgument,
            reason::ANSWER_TOO_LARGE,
            |failure| assert_eq!(part(failure), (Some(Part::OperationIndex(1)), false)),
        ),
    ]
}

#[tokio::test]
async fn a_get_of_what_is_missing_is_not_found_and_no_write() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let counter = fails_both_ways(&channel, get("none")).await;
    assert_eq!(counter.row(), (Code::NotFound, reason::COUNTER_NOT_FOUND, None));
    let key = fails_both_ways(&channel, key_get("none")).await;
    assert_eq!(key.row(), (Code::NotFound, reason::KEY_NOT_FOUND, None));
}

#[tokio::test]
async fn an_aborted_step_changes_nothing() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let request = apply(|step| {
        let refused = v1::CountersAddRequest {
            name: "b".into(),
            delta: 1,
            if_missing: 2,
            ..Default::default()
        };
        step.operations =
            vec![step_add("a", 1), operation(v1::operation::Kind::CounterAdd(refused))];
    });
    let failure = fails_both_ways(&channel, request).await;
    assert_eq!(failure.details.reason, reason::COUNTER_NOT_FOUND);
    let failure = fails_both_ways(&channel, get("a")).await;
    assert_eq!(failure.details.reason, reason::COUNTER_NOT_FOUND);
    let added = answer!(CountersAdd, unary(&channel, add("a", 1)).await.expect("it works"));
    assert!(!added.change.expect("a change").existed);
}
