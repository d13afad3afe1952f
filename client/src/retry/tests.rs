//! Every sequence of up to four failures, for every kind of call, against a plain account of what
//! can have happened.

use tally_proto::{status::StatusBuilder, v1};

use super::*;

/// One way in which an attempt fails.
#[derive(Debug, Clone)]
struct Case {
    name: &'static str,
    failure: Failure,
    /// This attempt may have been executed, or may still be.
    may_execute: bool,
    /// It is remembered under the session number, or the key, that the write carried.
    settles: fn(Stamps) -> bool,
}

fn node(code: Code, reason: &str, outcome: v1::Outcome, decided_in_apply: bool) -> Failure {
    let outcome = v1::WriteOutcome {
        outcome: outcome as i32,
        decided_in_apply,
        ..v1::WriteOutcome::default()
    };
    Failure::new(true, StatusBuilder::new(code, reason, reason).detail(&outcome).build())
}

fn here(sent: bool, code: Code) -> Failure {
    let message = "here".to_owned();
    Failure::new(sent, v1::CallStatus { code: code as i32, message, details: Vec::new() })
}

fn cases() -> Vec<Case> {
    use v1::Outcome::{NotApplied, Unknown};
    let case = |name, failure, may_execute| Case { name, failure, may_execute, settles: |_| false };
    let refused = |reason: &'static str| {
        case(reason, node(Code::Unavailable, reason, NotApplied, false), false)
    };
    let full = node(Code::ResourceExhausted, "IN_FLIGHT_MAX", NotApplied, false);
    let invalid = node(Code::InvalidArgument, "name", NotApplied, false);
    let floor = node(Code::FailedPrecondition, reason::BELOW_FLOOR, NotApplied, true);
    let table = node(Code::ResourceExhausted, reason::DEDUP_TABLE_FULL, NotApplied, true);
    let old = node(Code::FailedPrecondition, reason::SEQUENCE_TOO_OLD, Unknown, true);
    let unknown = node(Code::Unavailable, reason::OUTCOME_UNKNOWN, Unknown, false);
    let of_another = |said: Failure| Failure::of_another_cluster(Some(said), "b".into());
    let expired = node(Code::FailedPrecondition, reason::SESSION_EXPIRED, Unknown, true);
    vec![
        case("not sent", here(false, Code::Unavailable), false),
        case("lost", here(true, Code::Unavailable), true),
        case("too slow", here(true, Code::DeadlineExceeded), true),
        case("a proxy's word", here(true, Code::Unimplemented), true),
        refused(reason::NOT_LEADER),
        refused(reason::NO_QUORUM),
        refused(reason::SHUTTING_DOWN),
        refused(reason::AUDIT_LOG_UNAVAILABLE),
        case("full", full, false),
        case("invalid", invalid, false),
        Case {
            settles: |stamps| stamps.session || stamps.key,
            ..case("floor", floor.clone(), false)
        },
        Case { settles: |stamps| stamps.session, ..case("table full", table, false) },
        case("too old", old, true),
        case("unknown", unknown.clone(), true),
        case("expired", expired.clone(), false),
        case(
            "behind",
            node(Code::Unavailable, reason::TOKEN_NOT_REACHED, NotApplied, false),
            false,
        ),
        case("another's answer", Failure::of_another_cluster(None, "b".into()), true),
        case("another's floor", of_another(floor), false),
        case("another's end", of_another(expired), false),
        case("another's unknown", of_another(unknown), true),
    ]
}

/// Runs one sequence for as long as the machine wants to go on, and checks each step.
fn check(class: Class, stamps: Stamps, sequence: &[&Case]) {
    let names: Vec<_> = sequence.iter().map(|case| case.name).collect();
    let context = format!("{class:?} {stamps:?} {names:?}");
    let mut retry = Retry::new(class, stamps, 3);
    let mut may_have_executed = false;
    for case in sequence {
        let before = may_have_executed;
        may_have_executed = !(case.settles)(stamps) && (before || case.may_execute);
        match retry.failed(Box::new(case.failure.clone())) {
            Next::Again(_) | Next::Another => {
                let may_repeat = match class {
                    Class::Read | Class::Control => true,
                    Class::Write => stamps.session || stamps.key || !may_have_executed,
                    Class::Change => !may_have_executed,
                };
                assert!(may_repeat, "repeated what may have been executed: {context}");
            }
            Next::NewSession => {
                assert!(!before || stamps.key, "a second number for one write: {context}");
            }
            Next::Fail(error) => {
                verdict(class, &error, may_have_executed, &context);
                return;
            }
        }
        verdict(class, &retry.gave_up(Duration::from_secs(1)), may_have_executed, &context);
    }
}

fn verdict(class: Class, error: &Error, may_have_executed: bool, context: &str) {
    let expected = match class {
        Class::Read | Class::Control => None,
        _ if may_have_executed => Some(Outcome::Unknown),
        _ => Some(Outcome::NotApplied),
    };
    assert_eq!(error.outcome(), expected, "{context}: {error}");
    assert!(!error.reason().is_empty(), "{context}");
    if expected == Some(Outcome::Unknown) {
        assert!(!error.is_decided(), "{context}");
    }
}

#[test]
fn no_sequence_of_failures_leads_to_a_false_claim() {
    let cases = cases();
    let mut kinds = vec![(Class::Read, Stamps::default()), (Class::Control, Stamps::default())];
    kinds.push((Class::Change, Stamps::default()));
    for (session, key) in [(true, false), (false, true), (true, true), (false, false)] {
        kinds.push((Class::Write, Stamps { session, key }));
    }
    for (class, stamps) in kinds {
        // Only what carries a session can be told that it has ended.
        let possible: Vec<_> =
            cases.iter().filter(|case| stamps.session || case.name != "expired").collect();
        for a in &possible {
            for b in &possible {
                for c in &possible {
                    for d in &possible {
                        check(class, stamps, &[a, b, c, d]);
                    }
                }
            }
        }
    }
}

#[test]
fn who_allows_few_attempts_is_told_at_the_last() {
    let stamps = Stamps { session: true, key: false };
    let mut retry = Retry::new(Class::Write, stamps, 3).at_most(Some(2));
    assert!(matches!(retry.failed(Box::new(here(true, Code::Unavailable))), Next::Again(_)));
    let Next::Fail(error) = retry.failed(Box::new(here(false, Code::Unavailable))) else {
        panic!("two attempts were allowed");
    };
    assert_eq!(error.outcome(), Some(Outcome::Unknown), "the first may have been executed");
    assert_eq!(error.attempts(), 2);
}

/// What a read is told when nobody is left to ask, and whether its client forgets the cluster.
fn asked_all(failures: &[Failure]) -> (String, bool) {
    let mut retry = Retry::new(Class::Read, Stamps::default(), 3);
    for failure in failures {
        let next = retry.failed(Box::new(failure.clone()));
        assert!(matches!(next, Next::Another | Next::Again(_)), "{next:?}");
    }
    (retry.asked_all().reason().to_owned(), retry.all_name_another_cluster())
}

#[test]
fn only_when_all_that_answer_name_another_cluster_is_it_one() {
    let not_applied = v1::Outcome::NotApplied;
    let of = |reason| node(Code::FailedPrecondition, reason, not_applied, false);
    let (another, behind) = (of(reason::TOKEN_OF_ANOTHER_CLUSTER), of(reason::TOKEN_NOT_REACHED));
    let (silent, no_quorum) = (here(true, Code::Unavailable), of(reason::NO_QUORUM));
    let answered = Failure::of_another_cluster(None, "b".into());
    let token = reason::TOKEN_OF_ANOTHER_CLUSTER;
    for (failures, reason, forgets) in [
        (vec![&another], token, true),
        (vec![&another, &silent, &another], token, true),
        (vec![&answered, &silent], reason::ANOTHER_CLUSTER, true),
        // One of this cluster is worth more, whenever it came.
        (vec![&another, &behind], reason::TOKEN_NOT_REACHED, false),
        (vec![&behind, &another], reason::TOKEN_NOT_REACHED, false),
        (vec![&no_quorum, &another], reason::NO_QUORUM, false),
        (vec![&silent], reason::NO_ANSWER, false),
    ] {
        let failures: Vec<_> = failures.into_iter().cloned().collect();
        assert_eq!(asked_all(&failures), (reason.to_owned(), forgets), "{failures:?}");
    }
}

#[test]
fn other_nodes_are_asked_at_once_then_with_a_pause() {
    let mut retry = Retry::new(Class::Write, Stamps { session: true, key: false }, 3);
    let pauses: Vec<_> = (0..4)
        .map(|_| match retry.failed(Box::new(here(false, Code::Unavailable))) {
            Next::Again(pause) => pause,
            next => panic!("{next:?}"),
        })
        .collect();
    assert_eq!(pauses, [Pause::None, Pause::None, Pause::Backoff, Pause::Backoff]);
}

#[test]
fn the_backoff_grows_to_its_limit_and_obeys_the_node() {
    let mut backoff = Backoff::new();
    let waits: Vec<_> = (0..7).map(|_| backoff.wait(Pause::Backoff, 1.0).as_millis()).collect();
    assert_eq!(waits, [10, 20, 40, 80, 160, 250, 250]);
    assert_eq!(Backoff::new().wait(Pause::Backoff, 0.0).as_millis(), 5);
    let asked = Pause::AtLeast(Duration::from_millis(100));
    assert!((100..=125).contains(&backoff.wait(asked, 0.9).as_millis()));
    assert_eq!(backoff.wait(Pause::None, 0.9), Duration::ZERO);
}

#[test]
fn a_write_leaves_its_session_only_where_that_can_not_count_twice() {
    let lost = || Box::new(here(true, Code::Unavailable));
    let expired = || {
        let why = reason::SESSION_EXPIRED;
        Box::new(node(Code::FailedPrecondition, why, v1::Outcome::Unknown, true))
    };
    let by_session = Stamps { session: true, key: false };
    let by_both = Stamps { session: true, key: true };

    let mut nothing_sent = Retry::new(Class::Write, by_session, 3);
    assert!(nothing_sent.may_leave_session());
    nothing_sent.leave_session();
    assert_eq!(nothing_sent.stamps, Stamps { session: false, key: true });

    let mut never_executed = Retry::new(Class::Write, by_session, 3);
    assert!(matches!(never_executed.failed(expired()), Next::NewSession));
    never_executed.leave_session();
    let error = never_executed.gave_up(Duration::from_secs(1));
    assert_eq!(error.outcome(), Some(Outcome::NotApplied), "its number's end says nothing more");

    let mut unsure = Retry::new(Class::Write, by_session, 3);
    assert!(matches!(unsure.failed(lost()), Next::Again(_)));
    assert!(!unsure.may_leave_session(), "it may have been executed under its number");

    let mut keyed = Retry::new(Class::Write, by_both, 3);
    assert!(matches!(keyed.failed(lost()), Next::Again(_)));
    assert!(matches!(keyed.failed(expired()), Next::NewSession));
    keyed.leave_session();
    let error = keyed.gave_up(Duration::from_secs(1));
    assert_eq!(error.outcome(), Some(Outcome::Unknown), "what is unknown stays so");
}
