//! What a recording says of a run.

use tally_player::WINDOW_MS;

use super::*;
use crate::{
    run::{Options, run},
    scenarios,
    trace::Keep,
};

fn outcome(keep: Keep) -> Outcome {
    let scenario = scenarios::named("minority-leader");
    run(1, &Options { seconds: 20, keep, scenario, ..Options::default() })
}

#[test]
fn a_run_that_is_recorded_is_the_run_that_is_not() {
    assert_eq!(outcome(Keep::Recording).trace, outcome(Keep::Story).trace);
}

#[test]
fn it_has_what_nodes_did_and_what_every_client_was_told() {
    let mut outcome = outcome(Keep::Recording);
    let recorder = outcome.recorder.take().expect("it was recorded");
    let recording = of_outcome(&outcome, recorder, None, "tally-sim replay 1".to_owned());
    assert!(recording.passed && recording.nodes.len() >= 3);
    assert!(recording.roles.iter().any(|(_, _, role, term)| *role == "leader" && *term > 0));
    assert!(recording.cuts.iter().any(|(_, cut)| !cut.is_empty()), "a link was cut");
    let operations: usize = recording.windows.iter().map(|window| window.operations.len()).sum();
    assert_eq!(operations, outcome.records.len());
    let messages = || recording.windows.iter().flat_map(|window| &window.messages);
    let arrived = messages().filter(|(_, _, _, took, _)| *took >= 0).count();
    assert!(
        arrived > 100 && arrived < messages().count(),
        "most arrive, and some are lost at the cut"
    );
    for (bit, word) in tally_player::MESSAGE_WORDS.iter().enumerate() {
        let count = messages().filter(|(.., has)| has & 1 << bit != 0).count();
        assert!(count > 0 || *word == "snapshots", "no message with {word}");
    }
    for (at, window) in recording.windows.iter().enumerate() {
        assert!(window.messages.iter().all(|(_, _, sent, ..)| *sent < 2 * WINDOW_MS));
        let known = window.logs.iter().filter(|(ms, ..)| *ms == 0).count();
        assert!(known > 0 || at == 0, "what was so before");
        for (_, _, last, committed, applied) in &window.logs {
            assert!(applied <= committed && applied <= last, "{applied} of {committed} of {last}");
        }
    }
}

#[test]
fn a_broken_promise_leads_to_the_calls_that_it_names() {
    let mut outcome = outcome(Keep::Recording);
    let named = [3, 7].map(|number: usize| show(&outcome.records[number]));
    let what = format!("a stale read: {}\n  {}", named[0], named[1]);
    outcome.violations = vec![Violation { kind: "history".to_owned(), what, at_ms: 20_000 }];
    let recorder = outcome.recorder.take().expect("it was recorded");
    let recording = of_outcome(&outcome, recorder, None, String::new());
    let [broken] = &recording.violations[..] else { panic!("there is one") };
    assert!(!recording.passed);
    assert_eq!(broken.operations, [3, 7]);
    let end = |number: usize| outcome.records[number].ret.unwrap_or_default() / 1_000_000;
    assert_eq!(broken.happened_ms, end(3).max(end(7)));
}
