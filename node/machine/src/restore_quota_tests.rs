//! Quotas on the way of a backup: they come with their limits and count anew, and a file is not believed.

use super::*;
use crate::{
    limits::QUOTAS_MAX,
    quota::{
        Counted, QuotaCommand, QuotaLimits, QuotaMeta, QuotaRecord, QuotaUnit, Scope, Used,
        counter_bytes,
    },
    quotas::quotas,
    records::Meta,
};

fn set(prefix: &str, hard_items: u64) -> Command {
    let limits = QuotaLimits { hard_items: Some(hard_items), ..QuotaLimits::default() };
    let (scope, prefix) = (Scope::Counters, prefix.to_owned());
    command(Action::Quota(QuotaCommand::Set { scope, prefix, limits }))
}

fn delete_quota(prefix: &str) -> Command {
    let (scope, prefix) = (Scope::Counters, prefix.to_owned());
    command(Action::Quota(QuotaCommand::Delete { scope, prefix }))
}

fn record_of(hard_items: u64, used: Used) -> Bytes {
    let limits = QuotaLimits { hard_items: Some(hard_items), ..QuotaLimits::default() };
    QuotaRecord { limits, used, counted: Counted::All }.encode()
}

fn delete(name: &str) -> Action {
    Action::Single(Operation::CounterDelete(CounterDelete { name: name.into() }))
}

/// A backup of these records, in blocks of two.
fn backup_of(records: &[(Vec<u8>, Bytes)]) -> (RestoreBegin, Vec<Bytes>) {
    let blocks: Vec<Bytes> = records.chunks(2).map(block).collect();
    let content = blocks.iter().fold([0; 32], |chain, block| next_in_chain(&chain, block));
    let begin = RestoreBegin { content, blocks: blocks.len() as u64, ..used().backup().0 };
    (begin, blocks)
}

#[test]
fn quotas_are_restored_and_ready_with_the_last_step() {
    let mut old = used();
    old.run(set("", 3)).result.unwrap();
    old.run(set("a", 9)).result.unwrap();
    let mut new = Replica::new(2);
    new.restore(&old.backup());
    assert_eq!(quotas(&new.state), quotas(&old.state));
    assert_eq!(query::meta(&new.state).quotas, QuotaMeta { quotas: 2, counting: 0 });
    // Three counters are three; what is there goes on, and a delete makes room.
    let refused = new.run(command(add("d", 1))).result;
    let at_three = Refusal::QuotaExceeded {
        scope: Scope::Counters,
        prefix: String::new(),
        unit: QuotaUnit::Items,
        used: 3,
        limit: 3,
        grows_by: 1,
    };
    assert_eq!(refused, Err(at_three));
    new.run(command(add("a", 1))).result.unwrap();
    new.run(command(delete("b"))).result.unwrap();
    new.run(command(add("d", 1))).result.unwrap();
}

/// What a file says is used would stop the nodes at a delete, or refuse what there is room for.
#[test]
fn what_a_backup_says_is_used_is_not_believed() {
    let key = RecordKey::Quota { scope: Scope::Counters, prefix: "" }.encode().to_vec();
    let counters = used().records(&[Space::Counter]);
    for said in [Used::default(), Used { items: 1000, bytes: u64::MAX }] {
        let mut records = counters.clone();
        records.push((key.clone(), record_of(4, said)));
        let mut new = Replica::new(2);
        new.restore(&backup_of(&records));
        let used = Used { items: 3, bytes: 3 * counter_bytes("a") };
        assert_eq!(quotas(&new.state)[0].2.used, used);
        for name in ["a", "b", "c"] {
            new.run(command(delete(name))).result.unwrap();
        }
        assert_eq!(quotas(&new.state)[0].2.used, Used::default());
    }
}

/// A file whose quotas come in front of the items, and a restore that is the whole of one entry.
#[test]
fn it_does_not_matter_in_which_order_items_and_quotas_come() {
    let key = RecordKey::Quota { scope: Scope::Counters, prefix: "" }.encode().to_vec();
    let quota = [(key, record_of(4, Used::default()))];
    let blocks = vec![block(&quota), block(&used().records(&[Space::Counter]))];
    let content = blocks.iter().fold([0; 32], |chain, block| next_in_chain(&chain, block));
    let begin = RestoreBegin { content, blocks: 2, ..used().backup().0 };
    let mut in_steps = Replica::new(2);
    in_steps.restore(&(begin, blocks.clone()));
    assert_eq!(quotas(&in_steps.state)[0].2.used.items, 3);

    let mut at_once = Replica::new(2);
    let mut steps = vec![set("", 7), delete_quota("")];
    steps.push(command(Action::Restore(RestoreCommand::Begin(begin))));
    for (number, payload) in (0..).zip(blocks) {
        steps.push(command(Action::Restore(RestoreCommand::Block { number, payload })));
    }
    steps.push(command(Action::Restore(RestoreCommand::Finish { content })));
    steps.push(command(add("d", 1)));
    steps.push(command(delete("a")));
    for reply in at_once.run_all(steps) {
        reply.result.unwrap();
    }
    let quota = &quotas(&at_once.state)[0].2;
    assert_eq!((quota.used.items, quota.is_ready()), (3, true));
}

#[test]
fn nothing_is_counted_before_the_end_and_taking_back_takes_the_quotas() {
    let mut old = used();
    old.run(set("", 3)).result.unwrap();
    let (begin, blocks) = old.backup();
    let mut new = Replica::new(2);
    new.step(RestoreCommand::Begin(begin)).unwrap();
    for (number, payload) in (0..).zip(&blocks) {
        new.step(RestoreCommand::Block { number, payload: payload.clone() }).unwrap();
        new.run(command(Action::Tick)).result.unwrap();
    }
    let quota = quotas(&new.state).remove(0).2;
    assert_eq!((quota.used, quota.counted), (Used::default(), Counted::Nothing));
    assert_eq!(new.run(set("x", 1)).result, Err(Refusal::RestoreUnderWay));
    assert_eq!(new.run(delete_quota("")).result, Err(Refusal::RestoreUnderWay));
    assert_eq!(new.step(RestoreCommand::Abort), Ok((RestorePhase::Nothing, 0)));
    assert_eq!(query::meta(&new.state).quotas, QuotaMeta::default());
    // Log time went on, which nothing undoes.
    let taken_back = Meta { log_time_ms: 0, ..query::meta(&new.state) };
    assert_eq!(taken_back, query::meta(&Replica::new(2).state));
    assert_eq!(new.records(&[Space::Quota, Space::Counter, Space::Key]), []);
}

#[test]
fn a_cluster_with_quotas_and_a_file_with_too_many_or_a_wrong_one_are_refused() {
    let (begin, _) = used().backup();
    let mut new = Replica::new(2);
    new.run(set("x", 1)).result.unwrap();
    let before = query::state_hash(&new.state);
    let refused = new.step(RestoreCommand::Begin(begin));
    assert_eq!(refused, Err(RestoreRefusal::OtherQuotas { quotas: 1 }));
    assert_eq!(query::state_hash(&new.state), before, "nothing was changed");
    new.run(delete_quota("x")).result.unwrap();
    new.step(RestoreCommand::Begin(begin)).unwrap();
    new.step(RestoreCommand::Abort).unwrap();

    let key = |prefix: &str| RecordKey::Quota { scope: Scope::Counters, prefix }.encode().to_vec();
    let good = record_of(1, Used::default());
    let too_many = (0..=QUOTAS_MAX).map(|at| (key(&format!("{at:04}")), good.clone())).collect();
    let too_long = vec![(key(&"x".repeat(NAME_BYTES_MAX + 1)), good.clone())];
    let unreadable = vec![(key("x"), Bytes::from_static(b"\xff"))];
    for (records, what) in [
        (too_many, "more quotas than a cluster may have"),
        (too_long, "a quota that can't be"),
        (unreadable, "a record can't be read"),
    ] {
        let records: Vec<(Vec<u8>, Bytes)> = records;
        let (begin, blocks) = backup_of(&records);
        new.step(RestoreCommand::Begin(begin)).unwrap();
        let mut outcome = Ok((RestorePhase::UnderWay, 0));
        for (number, payload) in (0..).zip(blocks) {
            outcome = new.step(RestoreCommand::Block { number, payload });
            if outcome.is_err() {
                break;
            }
        }
        assert_eq!(outcome, Err(RestoreRefusal::Malformed(what.to_owned())));
        new.step(RestoreCommand::Abort).unwrap();
        assert_eq!(query::meta(&new.state).quotas, QuotaMeta::default());
    }
}
