//! Bad histories, one fault each.

use tally_proto::reason;

use super::*;

/// The history breaks this promise, among others perhaps.
#[track_caller]
fn breaks(rule: Rule, records: &[Record]) -> Verdict {
    let (verdict, rules) = rules(records);
    assert!(rules.contains(&rule), "not {rule:?} but {verdict:#?}");
    verdict
}

#[test]
fn stale_read() {
    let history = [incr(1, 0, 1, 1, 0, 1), incr(1, 2, 3, 1, 1, 2), get(2, 10, 11, value(1, 1), 1)];
    let verdict = breaks(Rule::RealTime, &history);
    assert!(verdict.violations[0].message.contains("stale"), "{verdict:#?}");
    // It is as stale if it lies about its revision, and if nobody believes in revisions.
    let mut lies = history.clone();
    lies[2].revision = Some(2);
    breaks(Rule::WrongAnswer, &lies);
    breaks(Rule::NotLinearizable, &history);
}

#[test]
fn lost_write() {
    let history = [incr(1, 0, 1, 1, 0, 1), incr(2, 2, 3, 1, 0, 2), get(1, 10, 11, value(1, 2), 2)];
    breaks(Rule::WrongAnswer, &history);
    breaks(Rule::NotLinearizable, &history);
    breaks(Rule::WrongSum, &history);
}

#[test]
fn doubled_write() {
    let history = [incr(1, 0, 1, 1, 0, 1), get(1, 10, 11, value(2, 2), 2)];
    breaks(Rule::UnexplainedRevision, &history);
    breaks(Rule::NotLinearizable, &history);
    breaks(Rule::WrongSum, &history);
}

#[test]
fn doubled_unknown_write() {
    let history = [
        unknown(1, 0, Part::incr("hot", 1)),
        get(2, 10, 11, value(1, 1), 1),
        get(2, 20, 21, value(2, 2), 2),
    ];
    breaks(Rule::UnexplainedRevision, &history);
    breaks(Rule::NotLinearizable, &history);
    breaks(Rule::WrongSum, &history);
}

#[test]
fn unknown_write_that_is_seen_and_then_unseen() {
    let history = [
        unknown(1, 0, Part::incr("hot", 5)),
        get(2, 10, 11, value(5, 1), 1),
        get(2, 20, 21, absent(), 0),
    ];
    breaks(Rule::RealTime, &history);
    breaks(Rule::NotLinearizable, &history);
    breaks(Rule::RevisionFell, &{
        let mut history = history;
        for record in &mut history {
            (record.node, record.consistency) = (Some(1), Some(Level::Linearizable));
        }
        history
    });
}

#[test]
fn unknown_write_before_its_call() {
    let history = [get(2, 10, 11, value(5, 1), 1), unknown(1, 20, Part::incr("hot", 5))];
    breaks(Rule::WrongAnswer, &history);
    breaks(Rule::NotLinearizable, &history);
}

#[test]
fn refused_and_applied() {
    let take = Part::incr("hot", -1).floor(0);
    let refusal = refused(1, 10, 11, take, reason::BELOW_FLOOR, 1);
    let history = [incr(1, 0, 1, 1, 0, 1), refusal, get(2, 20, 21, value(0, 2), 2)];
    breaks(Rule::UnexplainedRevision, &history);
    breaks(Rule::NotLinearizable, &history);
}

#[test]
fn refused_with_nothing_in_the_way() {
    let take = Part::incr("hot", -1).floor(0);
    let mut history = [incr(1, 0, 1, 1, 0, 1), refused(1, 10, 11, take, reason::BELOW_FLOOR, 1)];
    breaks(Rule::WrongAnswer, &history);
    breaks(Rule::NotLinearizable, &history);
    // A refusal that tells no state has to fit one between its call and its end.
    history[1].revision = None;
    let verdict = breaks(Rule::WrongAnswer, &history);
    assert!(verdict.violations[0].message.contains("nothing was in its way"), "{verdict:#?}");
}

#[test]
fn read_of_the_future() {
    let history = [get(2, 0, 1, value(1, 1), 1), incr(1, 10, 11, 1, 0, 1)];
    breaks(Rule::RealTime, &history);
    breaks(Rule::NotLinearizable, &history);
    // Nor may a local read see what nobody has written yet.
    let local = at_level(history[0].clone(), Level::Local);
    breaks(Rule::RealTime, &[local, history[1].clone()]);
}

#[test]
fn swapped_real_time_order() {
    let history = [put(1, 0, 1, "a", "x", 2), put(2, 10, 11, "b", "y", 1)];
    let verdict = breaks(Rule::RealTime, &history);
    assert_eq!(verdict.violations.len(), 1, "each key alone is fine: {verdict:#?}");
}

#[test]
fn broken_sum() {
    let history = [
        transfer(1, 0, 1, 1, 5, ("a", 0), ("b", 0)),
        batch(2, 10, 11, 2, &[("a", value(-5, 1)), ("b", value(6, 2))]),
    ];
    breaks(Rule::BrokenSum, &history);
    breaks(Rule::WrongAnswer, &history);
}

#[test]
fn oversold() {
    let take = || Part::incr("hot", -1).floor(0);
    let history =
        [incr(1, 0, 1, 1, 0, 1), add(1, 10, 11, take(), 1, 2), add(2, 10, 11, take(), 0, 3)];
    breaks(Rule::BoundBroken, &history);
    breaks(Rule::WrongAnswer, &history);
    breaks(Rule::NotLinearizable, &history);
    // The stored bound is the same for those who do not ask for it.
    let mut bounded = value(-1, 1);
    (bounded.floor, bounded.before, bounded.existed) = (Some(Some(0)), Some(0), Some(false));
    breaks(Rule::BoundBroken, &[ok(1, 0, 1, Part::incr("hot", -1), bounded)]);
    let mut configured = value(0, 1);
    (configured.floor, configured.ceiling) = (Some(Some(0)), Some(None));
    let configure = ok(1, 0, 1, Part::configure("hot").floor(0), configured);
    breaks(Rule::WrongAnswer, &[configure, incr(1, 10, 11, -1, 0, 2)]);
}

#[test]
fn bounded_read_too_old() {
    let mut read = at_level(get(2, 1000, 1001, value(1, 1), 1), Level::Bounded);
    read.bound_ms = Some(100);
    let mut history = vec![incr(1, 0, 1, 1, 0, 1), incr(1, 890, 895, 1, 1, 2), read];
    breaks(Rule::TooOld, &history);
    // Within the bound, but not within what the answer claims.
    history[2].bound_ms = Some(500);
    assert!(rules(&history).0.passed());
    history[2].staleness_ms = Some(50);
    breaks(Rule::TooOld, &history);
}

#[test]
fn weaker_than_asked() {
    let mut read = get(2, 10, 11, value(1, 1), 1);
    read.consistency = Some(Level::Local);
    breaks(Rule::WeakerThanAsked, &[incr(1, 0, 1, 1, 0, 1), read]);
}

#[test]
fn session_going_back() {
    let own_write_unseen =
        [incr(1, 0, 1, 1, 0, 1), at_level(get(1, 10, 11, absent(), 0), Level::Session)];
    breaks(Rule::SessionWentBack, &own_write_unseen);
    let another = incr(2, 2, 3, 1, 1, 2);
    let went_back = [
        incr(1, 0, 1, 1, 0, 1),
        another,
        at_level(get(1, 10, 11, value(2, 2), 2), Level::Local),
        at_level(get(1, 20, 21, value(1, 1), 1), Level::Session),
    ];
    breaks(Rule::SessionWentBack, &went_back);
    let mut token = at_level(get(3, 30, 31, value(2, 2), 2), Level::Session);
    (token.token, token.applied) = (Some(9), Some(8));
    breaks(Rule::SessionWentBack, &[went_back[0].clone(), went_back[1].clone(), token]);
}

#[test]
fn local_read_of_a_state_that_never_was() {
    let history = [
        incr(1, 0, 1, 1, 0, 1),
        incr(1, 2, 3, 1, 1, 2),
        at_level(get(2, 10, 11, value(7, 1), 1), Level::Local),
    ];
    breaks(Rule::WrongAnswer, &history);
}

#[test]
fn duplicate_revision() {
    breaks(Rule::DuplicateRevision, &[put(1, 0, 9, "a", "x", 1), put(2, 0, 9, "b", "y", 1)]);
}

#[test]
fn replay_with_a_different_answer() {
    let with_idem = |mut record: Record, replayed| {
        record.idem = Some("order-1".into());
        record.replayed = Some(replayed);
        record
    };
    let first = with_idem(incr(1, 0, 1, 1, 0, 1), false);
    let other = with_idem(incr(1, 10, 11, 1, 1, 2), true);
    breaks(Rule::ReplayDiffers, &[first.clone(), other]);
    let again = with_idem(incr(1, 10, 11, 1, 1, 2), false);
    breaks(Rule::ExecutedTwice, &[first.clone(), again]);
    let mut refusal = refused(1, 10, 11, Part::incr("hot", 1), reason::ABOVE_CEILING, 1);
    refusal.idem = first.idem.clone();
    breaks(Rule::ReplayDiffers, &[first, refusal]);
}

#[test]
fn torn_batch_and_torn_step() {
    let step = transfer(1, 0, 50, 1, 5, ("a", 0), ("b", 0));
    let torn = batch(2, 10, 11, 2, &[("a", value(-5, 1)), ("b", absent())]);
    breaks(Rule::WrongAnswer, &[step.clone(), torn]);
    let middle = batch(2, 10, 11, 1, &[("a", value(-5, 1)), ("b", absent())]);
    let verdict = breaks(Rule::WrongAnswer, &[step.clone(), middle]);
    assert!(verdict.violations[0].message.contains("middle of an atomic step"), "{verdict:#?}");
    // One part's revision is another's: the parts are not at one step.
    let mut apart = step;
    apart.ops[1].result.as_mut().unwrap().version = Some(3);
    breaks(Rule::WrongAnswer, &[apart]);
}

#[test]
fn condition_and_branch_disagree() {
    let mut step = several("apply", 1, 0, 1);
    step.when = vec![tally_client::history::Condition::exists(
        tally_client::history::Kind::Counter,
        "gone",
        true,
    )];
    step.ops = vec![add(0, 0, 0, Part::incr("hot", 1), 0, 1).part];
    step.part.result = Some(written(1));
    breaks(Rule::WrongAnswer, &[step]);
}

#[test]
fn a_line_that_makes_no_sense() {
    let mut backwards = incr(1, 10, 11, 1, 0, 1);
    backwards.ret = Some(5);
    breaks(Rule::Malformed, &[backwards]);
    let mut no_delta = incr(1, 10, 11, 1, 0, 1);
    no_delta.part.delta = None;
    breaks(Rule::Malformed, &[no_delta]);
    let mut untold = get(1, 0, 1, value(0, 0), 0);
    untold.part.result = None;
    breaks(Rule::Malformed, &[untold]);
}

#[test]
fn every_message_quotes_the_operations_concerned() {
    let history = [incr(1, 0, 1, 1, 0, 1), get(2, 10, 11, absent(), 0)];
    for violation in judge(&history).violations {
        assert!(violation.message.contains("[client "), "{}", violation.message);
    }
}

#[test]
fn another_created_revision() {
    let created = |revision| Answer { created: Some(revision), ..value(2, 2) };
    let written = [incr(1, 0, 1, 1, 0, 1), incr(1, 2, 3, 1, 1, 2)];
    let with = |answer| [&written[..], &[get(1, 10, 11, answer, 2)]].concat();
    assert!(judge(&with(created(1))).passed());
    breaks(Rule::WrongAnswer, &with(created(2)));
}

/// A step that reads two keys of so many bytes together.
fn reads_two(bytes: usize, refused: bool) -> Vec<Record> {
    let long = "x".repeat(bytes / 2);
    let mut step = several("apply", 1, 10, 11);
    let read = |key: &str, version| Part { result: Some(text(&long, version)), ..Part::read(key) };
    step.ops = vec![read("a", 1), read("b", 2)];
    step.part.result = Some(written(2));
    if refused {
        step.status = Status::Fail;
        step.reason = Some(reason::ANSWER_TOO_LARGE.to_owned());
        step.revision = Some(2);
        step.part.result = None;
    }
    vec![put(1, 0, 1, "a", &long, 1), put(1, 2, 3, "b", &long, 2), step]
}

#[test]
fn a_step_that_reads_more_than_it_may() {
    const LIMIT: usize = 16 * 1024;
    assert!(judge(&reads_two(LIMIT, false)).passed());
    assert!(judge(&reads_two(LIMIT + 2, true)).passed());
    breaks(Rule::WrongAnswer, &reads_two(LIMIT + 2, false));
    breaks(Rule::WrongAnswer, &reads_two(LIMIT, true));
}

#[test]
fn a_page_that_leaves_an_item_out() {
    let history = |middle: Answer| {
        let mut page = several("batch_get", 2, 10, 11);
        page.revision = Some(3);
        let read = |key: &str, answer| Part { result: Some(answer), ..Part::read(key) };
        page.ops = vec![read("a", text("1", 1)), read("b", middle), read("c", text("3", 3))];
        let puts =
            [put(1, 0, 1, "a", "1", 1), put(1, 2, 3, "b", "2", 2), put(1, 4, 5, "c", "3", 3)];
        [&puts[..], &[page]].concat()
    };
    assert!(judge(&history(text("2", 2))).passed());
    breaks(Rule::WrongAnswer, &history(absent()));
}

#[test]
fn an_effect_of_calls_of_which_none_was_proposed() {
    let add = || Part::incr("hot", 1);
    let [first, second] =
        under_one_key([not_proposed(1, 0, 1, add()), not_proposed(2, 10, 11, add())]);
    let history = [first, second, get(3, 20, 21, value(1, 1), 1)];
    breaks(Rule::UnexplainedRevision, &history);
    breaks(Rule::NotLinearizable, &history);
}

#[test]
fn a_write_under_one_key_applied_twice_around_a_call_that_was_not_proposed() {
    let add = || Part::incr("hot", 1);
    let [first, second, third] = under_one_key([
        unknown(1, 0, add()),
        not_proposed(2, 10, 11, add()),
        unknown(3, 20, add()),
    ]);
    let history =
        [first, second, third, get(4, 30, 31, value(1, 1), 1), get(4, 40, 41, value(2, 2), 2)];
    breaks(Rule::UnexplainedRevision, &history);
    breaks(Rule::WrongSum, &history);
}
