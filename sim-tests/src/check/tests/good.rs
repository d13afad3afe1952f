//! Good histories that look suspicious.

use tally_proto::reason;

use super::*;

fn good(records: &[Record]) -> Verdict {
    let (verdict, _) = rules(records);
    assert!(verdict.passed(), "{verdict:#?}");
    verdict
}

#[test]
fn an_unknown_write_applied_long_after_its_call() {
    let verdict = good(&[
        incr(1, 0, 1, 1, 0, 1),
        unknown(2, 2, Part::incr("hot", 10)),
        get(1, 10, 11, value(1, 1), 1),
        get(1, 20, 21, value(11, 2), 2),
        incr(1, 30, 31, 1, 11, 3),
    ]);
    assert_eq!(verdict.counts.unknown_applied, 1);
}

#[test]
fn an_unknown_write_never_applied() {
    let verdict = good(&[
        incr(1, 0, 1, 1, 0, 1),
        unknown(2, 2, Part::incr("hot", 10)),
        get(1, 10, 11, value(1, 1), 1),
    ]);
    assert_eq!((verdict.counts.unknown, verdict.counts.unknown_applied), (1, 0));
    assert_eq!(verdict.counts.sums, 1);
}

#[test]
fn concurrent_operations_in_any_order() {
    // The later call has the lower revision, and a read sees neither.
    good(&[incr(1, 0, 100, 1, 1, 2), incr(2, 50, 101, 1, 0, 1), get(3, 60, 99, absent(), 0)]);
}

#[test]
fn which_unknown_write_it_was_is_found_by_what_is_read_later() {
    // Three unknown writes, two revisions that nobody was told: only the last read tells which.
    let keys = ["a", "b", "c"];
    let mut history: Vec<_> = keys.iter().map(|key| unknown(9, 0, Part::put(*key, *key))).collect();
    history.push(incr(1, 10, 11, 1, 0, 3));
    let read = |key: &str, answer, call| {
        let mut record = ok(1, call, call + 1, Part::read(key), answer);
        record.revision = Some(3);
        record
    };
    history.push(read("b", text("b", 2), 20));
    history.push(read("a", absent(), 30));
    let verdict = good(&history);
    assert_eq!(verdict.counts.unknown_applied, 2);
}

#[test]
fn weak_reads_may_be_old_as_long_as_they_keep_their_promise() {
    let mut bounded = at_level(get(3, 1050, 1051, value(1, 1), 1), Level::Bounded);
    bounded.bound_ms = Some(100);
    bounded.staleness_ms = Some(80);
    let history = [
        incr(1, 0, 1, 1, 0, 1),
        incr(1, 1000, 1001, 1, 1, 2),
        at_level(get(2, 1100, 1101, absent(), 0), Level::Local),
        at_level(get(2, 1200, 1201, value(1, 1), 1), Level::Session),
        bounded,
    ];
    let verdict = good(&history);
    let Verdict { counts, .. } = verdict;
    let reads = (counts.local_reads, counts.session_reads, counts.bounded_reads);
    assert_eq!((reads, counts.staleness_claims), ((1, 1, 1), 1));
}

#[test]
fn the_same_write_sent_twice_and_answered_twice() {
    let mut first = incr(1, 0, 5, 1, 0, 1);
    first.replayed = Some(false);
    let mut again = incr(1, 10, 12, 1, 0, 1);
    again.replayed = Some(true);
    for record in [&mut first, &mut again] {
        record.idem = Some("order-1".into());
    }
    let mut unanswered = unknown(1, 20, Part::incr("hot", 5));
    unanswered.idem = Some("order-2".into());
    let mut answered = incr(1, 30, 31, 5, 1, 2);
    answered.idem = Some("order-2".into());
    let verdict = good(&[first, again, unanswered, answered, get(2, 40, 41, value(6, 2), 2)]);
    assert_eq!(verdict.counts.replayed, 1);
}

#[test]
fn a_refusal_fits_the_state_that_refused() {
    let stock = Part::incr("hot", -1).floor(0);
    let mut without_revision = refused(2, 4, 6, stock.clone(), reason::BELOW_FLOOR, 0);
    without_revision.revision = None;
    let verdict = good(&[
        incr(1, 0, 1, 1, 0, 1),
        add(1, 2, 3, stock.clone(), 1, 2),
        refused(2, 4, 6, stock, reason::BELOW_FLOOR, 2),
        without_revision,
        incr(1, 5, 8, 1, 0, 3),
    ]);
    assert_eq!(verdict.counts.refusals, 2);
}

#[test]
fn delete_and_create_again() {
    let read = |call, answer, revision| {
        let mut record = ok(2, call, call + 1, Part::read("k"), answer);
        record.revision = Some(revision);
        record
    };
    let delete = |call, existed, revision| {
        let mut answer = written(revision);
        answer.existed = Some(existed);
        ok(1, call, call + 1, Part::delete("k"), answer)
    };
    good(&[
        put(1, 0, 1, "k", "one", 1),
        delete(10, true, 2),
        read(20, absent(), 2),
        delete(30, false, 2),
        ok(1, 40, 41, Part::put("k", "two").if_absent(), written(3)),
        read(50, text("two", 3), 3),
        refused(1, 60, 61, Part::put("k", "x").if_version(1), reason::CONDITION_FAILED, 3),
    ]);
}

#[test]
fn transfers_known_and_unknown_keep_their_sum() {
    let mut lost = transfer(2, 10, 11, 5, 3, ("a", 7), ("b", 3));
    (lost.status, lost.ret, lost.part.result) = (Status::Unknown, None, None);
    lost.ops.iter_mut().for_each(|part| part.result = None);
    let verdict = good(&[
        add(1, 0, 1, Part::incr("a", 10), 0, 1),
        add(1, 2, 3, Part::incr("b", 0), 0, 2),
        transfer(1, 4, 5, 3, 3, ("a", 10), ("b", 0)),
        batch(3, 6, 7, 4, &[("a", value(7, 3)), ("b", value(3, 4))]),
        lost,
        batch(3, 20, 21, 6, &[("a", value(4, 5)), ("b", value(6, 6))]),
    ]);
    assert_eq!((verdict.counts.transfer_sums, verdict.counts.unknown_applied), (2, 1));
}

#[test]
fn a_store_that_was_in_use_before() {
    let mut elsewhere = get(1, 0, 1, value(40, 17), 100);
    elsewhere.part.result.as_mut().unwrap().floor = Some(Some(0));
    elsewhere.part.result.as_mut().unwrap().ceiling = Some(None);
    let history = [
        elsewhere,
        unknown(2, 0, Part::incr("hot", 2)),
        incr(1, 10, 11, 1, 42, 102),
        refused(1, 20, 21, Part::incr("hot", -50), reason::BELOW_FLOOR, 102),
    ];
    let verdict = judge_with(&history, Assumptions::default());
    assert!(verdict.passed(), "{verdict:#?}");
    assert_eq!(verdict.counts.unknown_applied, 1);
    // What was before is unknown, but not whatever one likes.
    let mut wrong = history;
    wrong[2].part.result.as_mut().unwrap().before = Some(41);
    assert!(!judge_with(&wrong, Assumptions::default()).passed());
}

#[test]
fn others_may_have_written_elsewhere_if_that_is_said() {
    let history = [incr(1, 0, 1, 1, 0, 1), incr(1, 10, 11, 1, 1, 9)];
    assert_eq!(rules(&history).1, [Rule::UnexplainedRevision]);
    let shared = Assumptions { others_write: true, ..Default::default() };
    assert!(judge_with(&history, shared).passed());
}

#[test]
fn a_history_without_revisions_is_judged_by_each_name_alone() {
    let mut history =
        vec![incr(1, 0, 1, 1, 0, 0), incr(2, 2, 3, 1, 1, 0), get(1, 4, 5, value(2, 0), 0)];
    for record in &mut history {
        record.revision = None;
        record.part.result.as_mut().unwrap().version = None;
    }
    assert_eq!(good(&history).notes.len(), 1);
    history[2].part.result.as_mut().unwrap().value = Some(Some(1.into()));
    assert_eq!(rules(&history).1, [Rule::NotLinearizable, Rule::WrongSum]);
}

/// Which of many writes of unknown outcome made which revision: what later reads say of single
/// revisions settles it, where trying all orders would take for ever.
#[test]
fn many_unknown_writes_are_told_apart_by_the_revisions_that_reads_tell() {
    const WRITES: u64 = 24;
    let mut history = Vec::new();
    for at in 0..WRITES {
        history.push(unknown(at, 0, Part::put(format!("key-{at:02}"), format!("{at}"))));
    }
    // All of them happened, in an order that looks like none, before anybody reads.
    for at in 0..WRITES {
        let revision = (at * 7) % WRITES + 1;
        let key = format!("key-{at:02}");
        let mut read =
            ok(99, 100 + at, 101 + at, Part::read(key), text(&format!("{at}"), revision));
        read.revision = Some(WRITES);
        history.push(read);
    }
    let verdict = judge(&history);
    assert!(verdict.passed(), "{verdict:#?}");
    assert_eq!(verdict.counts.unknown_applied, WRITES);
}

#[test]
fn a_call_that_was_not_proposed_says_nothing_of_an_earlier_one_under_its_key() {
    let take = || Part::incr("hot", -1);
    let other = || ok(9, 0, 1, Part::set("hot", 5), value(5, 1));
    let calls = || under_one_key([unknown(1, 2, take()), not_proposed(2, 10, 11, take())]);
    // The first was applied, before or after the second was refused; or was not.
    for (seen, revision) in [(4, 2), (5, 1)] {
        let [first, second] = calls();
        let verdict =
            good(&[other(), first, second, get(3, 20, 21, value(seen, revision), revision)]);
        assert_eq!(verdict.counts.unknown_applied, u64::from(revision == 2));
    }
    // A third call under the key says what became of it: it was applied between the two.
    let [first, second] = calls();
    let mut third = add(3, 30, 31, take(), 5, 2);
    (third.idem, third.replayed) = (Some("order-1".into()), Some(true));
    good(&[other(), first, second, get(4, 5, 6, value(4, 2), 2), third]);
}
