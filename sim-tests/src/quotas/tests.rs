//! The judge is judged: by histories made by hand, good ones and such with one lie.

use bytes::Bytes;
use tally_node::machine::{
    codec::encode_batch,
    command::{
        Action, Answer, Batch, Command, CounterChange, CounterDelete, CounterSet, KeyExpectation,
        KeyPut, Operation, OperationAnswer, Refusal, Reply,
    },
    quota::{QuotaCommand, QuotaLimits, QuotaUnit, Scope},
};

use super::log::{Listed, Log};

#[derive(Default)]
struct History {
    log: Log,
    index: u64,
}

fn limits(hard_items: u64) -> QuotaLimits {
    QuotaLimits { hard_items: Some(hard_items), ..QuotaLimits::default() }
}

fn set(name: &str) -> Action {
    Action::Single(Operation::CounterSet(CounterSet { name: name.into(), value: 1 }))
}

fn delete(name: &str) -> Action {
    Action::Single(Operation::CounterDelete(CounterDelete { name: name.into() }))
}

fn put(key: &str, bytes: usize) -> Action {
    let value = Bytes::from(vec![b'x'; bytes]);
    Action::Single(Operation::KeyPut(KeyPut {
        key: key.into(),
        value,
        expect: KeyExpectation::Any,
    }))
}

fn quota(scope: Scope, prefix: &str, limits: QuotaLimits) -> Action {
    Action::Quota(QuotaCommand::Set { scope, prefix: prefix.into(), limits })
}

fn exceeded(used: u64, limit: u64) -> Refusal {
    Refusal::QuotaExceeded {
        scope: Scope::Counters,
        prefix: "a".into(),
        unit: QuotaUnit::Items,
        used,
        limit,
        grows_by: 1,
    }
}

fn done() -> Result<Answer, Refusal> {
    // Of an answer only its kind is looked at.
    Ok(Answer::Single(OperationAnswer::CounterChanged(CounterChange {
        value_before: 0,
        value: 1,
        delta_requested: 1,
        delta_applied: 1,
        revision: 1,
        existed: false,
        bounds: Default::default(),
    })))
}

fn made() -> Result<Answer, Refusal> {
    Ok(Answer::QuotaChanged { existed: false })
}

impl History {
    /// Two counters under a quota of two.
    fn full() -> History {
        let mut history = History::default();
        history.entry(set("a1"), done(), false);
        history.entry(quota(Scope::Counters, "a", limits(2)), made(), false);
        history.entry(set("a2"), done(), false);
        history
    }

    fn entry(&mut self, action: Action, result: Result<Answer, Refusal>, replayed: bool) {
        self.index += 1;
        let command = Command {
            session: None,
            idempotency: None,
            fingerprint: Default::default(),
            action,
            caller: None,
        };
        let batch = Batch { log_time_ms: 0, wall_time_ms: 0, commands: vec![command] };
        self.log.appended(1, self.index, &encode_batch(&batch));
        let reply = Reply { result, revision: 1, replayed, kept: None, hidden: false };
        self.log.applied(1, self.index, &[reply]);
    }

    fn says(mut self, action: Action, result: Result<Answer, Refusal>) -> usize {
        self.entry(action, result, false);
        self.log.wrong.len()
    }
}

#[test]
fn growth_above_a_hard_limit_is_refused_and_nothing_else() {
    assert_eq!(History::full().says(set("a3"), Err(exceeded(2, 2))), 0);
    assert_eq!(History::full().says(set("a2"), done()), 0);
    assert_eq!(History::full().says(set("b"), done()), 0);
    assert_eq!(History::full().says(delete("a1"), done()), 0);
    assert_eq!(History::full().says(set("a3"), done()), 1, "it never refuses");
    assert_eq!(History::full().says(set("a2"), Err(exceeded(2, 2))), 1, "it does not grow");
    assert_eq!(History::full().says(delete("a1"), Err(exceeded(2, 2))), 1, "a delete");
    assert_eq!(History::full().says(set("a3"), Err(exceeded(3, 2))), 1, "of what is used");
    assert_eq!(History::full().says(set("a3"), Err(exceeded(2, 1))), 1, "of another limit");
    assert_eq!(History::full().says(set("b"), Err(exceeded(2, 2))), 1, "it is about others");
}

#[test]
fn room_comes_back_and_a_refusal_is_not_remembered() {
    let mut history = History::full();
    history.entry(delete("a1"), done(), false);
    history.entry(set("a3"), done(), false);
    assert_eq!(history.log.wrong, [""; 0]);
    history.entry(delete("a3"), done(), false);
    assert_eq!(history.says(set("a4"), Err(exceeded(2, 2))), 1, "a delete was forgotten");
    let mut history = History::full();
    history.entry(set("a3"), Err(exceeded(2, 2)), true);
    assert_eq!(history.log.wrong.len(), 1);
    // A remembered answer changes nothing.
    let mut history = History::full();
    history.entry(delete("a1"), done(), false);
    history.entry(set("a2"), done(), true);
    history.entry(set("a3"), done(), false);
    assert_eq!(history.log.wrong, [""; 0]);
    assert_eq!(history.says(set("a4"), Err(exceeded(2, 2))), 0);
}

#[test]
fn values_count_with_their_bytes() {
    let full = || {
        let mut history = History::default();
        history.entry(put("k", 10), done(), false);
        let limits = QuotaLimits { hard_bytes: Some(11), ..QuotaLimits::default() };
        history.entry(quota(Scope::Keys, "", limits), made(), false);
        history
    };
    let refused = |grows_by| {
        Err(Refusal::QuotaExceeded {
            scope: Scope::Keys,
            prefix: String::new(),
            unit: QuotaUnit::Bytes,
            used: 11,
            limit: 11,
            grows_by,
        })
    };
    assert_eq!(full().says(put("k", 10), done()), 0);
    assert_eq!(full().says(put("k", 3), done()), 0);
    assert_eq!(full().says(put("k", 12), refused(2)), 0);
    assert_eq!(full().says(put("l", 0), refused(1)), 0);
    assert_eq!(full().says(put("k", 10), refused(1)), 1);
    assert_eq!(full().says(put("k", 11), done()), 1);
}

#[test]
fn a_list_is_held_against_the_state_that_it_is_of() {
    let mut history = History::full();
    history.entry(delete("a1"), done(), false);
    let told = |items| {
        let used = (items, items * 10);
        let prefix = "a".to_owned();
        vec![Listed { scope: Scope::Counters, prefix, limits: limits(2), used, sure: true }]
    };
    let is_right = |applied, told: &[Listed]| history.log.differs(applied, told).is_none();
    assert!(is_right(0, &[]) && is_right(1, &[]) && is_right(2, &told(1)));
    assert!(is_right(3, &told(2)) && is_right(4, &told(1)));
    assert!(!is_right(1, &told(1)), "it was not set yet");
    assert!(!is_right(4, &told(2)), "a delete was forgotten");
    assert!(!is_right(4, &[]), "it is there");
}
