//! The judge is judged: by histories made by hand, good ones and such with one lie.

use tally_client::reason;
use tally_node::machine::{
    auth::{AuthCommand, Caller, Permissions, RoleRecord, Rule, Scope},
    codec::encode_batch,
    command::{
        Action, Answer, Batch, Bounds, Command, CounterAdd, CounterChange, OnViolation, Operation,
        OperationAnswer, Refusal, Reply,
    },
};

use super::{
    calls::{Asked, Freshness, Known, Told},
    log::Log,
    model::{Need, Rights},
};

/// User 1 may spend and not read `g/`, by token 2, which is over at 10,000; user 3 may read, by token 4.
fn given() -> Vec<(u64, AuthCommand, u64)> {
    let role = |permissions| RoleRecord {
        rules: vec![Rule { scope: Scope::Counters, prefix: "g/".into(), permissions }],
        ..RoleRecord::default()
    };
    let put_role = |name: &str, permissions| AuthCommand::PutRole {
        name: name.into(),
        role: role(permissions),
    };
    let put_user =
        |name: &str, of: &str| AuthCommand::PutUser { name: name.into(), roles: vec![of.into()] };
    let token = |user: &str, expires_wall_time_ms| AuthCommand::CreateToken {
        user: user.into(),
        secret_hash: [0; 32],
        label: String::new(),
        expires_wall_time_ms,
    };
    vec![
        (1, put_role("spender", Permissions::DECREASE), 0),
        (2, put_role("reader", Permissions::READ), 0),
        (3, put_user("one", "spender"), 1),
        (4, token("one", 10_000), 2),
        (5, put_user("two", "reader"), 3),
        (6, token("two", 0), 4),
        (7, AuthCommand::Enable, 0),
        (10, AuthCommand::RevokeToken { id: 4 }, 0),
    ]
}

fn versions() -> Vec<(u64, Rights)> {
    let mut rights = Rights::default();
    let changed = |(index, change, id): (u64, AuthCommand, u64)| {
        rights.change(&change, id);
        (index, rights.clone())
    };
    given().into_iter().map(changed).collect()
}

fn judge(asked: Asked, told: Told) -> Option<String> {
    let (versions, none) = (versions(), Rights::default());
    // Token 4 was revoked by entry 10, of which somebody heard at 5,000 ms.
    let acked = [(100, 7), (5_000, 10)];
    let (versions, acked) = (&versions[..], &acked[..]);
    Known { versions, acked, clocks: (0, 0), epoch_ms: 0, none: &none }.judge(&asked, &told)
}

fn write(token: u64, permissions: Permissions) -> Asked {
    Asked {
        what: String::new(),
        needs: vec![Need::counter("g/a", permissions)],
        writes: Some(vec![Need::counter("g/a", Permissions::READ)]),
        level: Freshness::Any,
        token: Some(token),
        call_ms: 1_000,
    }
}

fn read(token: u64, level: Freshness, call_ms: u64) -> Asked {
    let needs = vec![Need::counter("g/a", Permissions::READ)];
    Asked { needs, writes: None, level, call_ms, ..write(token, Permissions::READ) }
}

fn told(applied: u64) -> Told {
    Told { applied: Some(applied), ret_ms: 1_010, ..Told::default() }
}

fn refused(reason: &str, applied: Option<u64>) -> Told {
    Told { reason: reason.to_owned(), applied, ret_ms: 1_010, ..Told::default() }
}

#[test]
fn a_write_is_judged_by_its_entry() {
    let spend = || write(2, Permissions::DECREASE);
    let blank = Told { hidden: true, ..told(8) };
    assert_eq!(judge(spend(), blank.clone()), None);
    assert!(judge(spend(), told(8)).is_some(), "it was not said that values are hidden");
    assert!(judge(spend(), Told { shows: true, ..blank.clone() }).is_some(), "a value");
    assert!(judge(write(2, Permissions::INCREASE), blank.clone()).is_some(), "refilled");
    assert!(judge(write(4, Permissions::DECREASE), told(8)).is_some(), "spent by who may read");
    // The fact of a remembered answer takes no right, but its user has to be there.
    let again =
        |token| (write(token, Permissions::INCREASE), Told { replayed: true, ..blank.clone() });
    let (asked, answer) = again(2);
    assert_eq!(judge(asked, answer), None);
    let (asked, answer) = again(9);
    assert!(judge(asked, answer).is_some(), "to nobody");
}

#[test]
fn a_token_is_over_by_the_clock() {
    let late = Asked { call_ms: 10_500, ..write(2, Permissions::DECREASE) };
    let answer = Told { hidden: true, ret_ms: 10_510, ..told(8) };
    assert!(judge(late.clone(), answer).is_some());
    let over = Told { ret_ms: 10_510, ..refused(reason::UNAUTHENTICATED, None) };
    assert_eq!(judge(late, over), None);
    let early = judge(write(2, Permissions::DECREASE), refused(reason::UNAUTHENTICATED, None));
    assert!(early.is_some(), "it was good for long");
}

#[test]
fn a_refusal_has_to_be_one_of_the_rights() {
    let refill = || write(2, Permissions::INCREASE);
    assert_eq!(judge(refill(), refused(reason::PERMISSION_DENIED, Some(8))), None);
    let spend = write(2, Permissions::DECREASE);
    assert!(judge(spend, refused(reason::PERMISSION_DENIED, Some(8))).is_some());
    // Before it was switched on everybody might.
    assert!(judge(refill(), refused(reason::PERMISSION_DENIED, Some(6))).is_some());
}

#[test]
fn a_read_is_judged_by_the_state_that_it_reads() {
    let any = |token| read(token, Freshness::Any, 6_000);
    assert_eq!(judge(any(4), told(9)), None, "an old state, with the rights of then");
    assert!(judge(any(4), told(10)).is_some(), "it was revoked there");
    assert!(judge(any(2), told(9)).is_some(), "it may not read");
    assert!(
        judge(any(2), refused(reason::COUNTER_NOT_FOUND, Some(9))).is_some(),
        "nor be told that"
    );
    assert!(judge(read(4, Freshness::Linearizable, 6_000), told(9)).is_some(), "too old");
    assert_eq!(judge(read(4, Freshness::Linearizable, 4_000), told(9)), None);
    assert_eq!(judge(read(4, Freshness::Bounded(2_000), 6_000), told(9)), None);
    assert!(
        judge(read(4, Freshness::Bounded(500), 6_000), told(9)).is_some(),
        "older than its bound"
    );
    let claims = Told { staleness_ms: Some(500), ..told(9) };
    assert!(judge(any(4), claims).is_some(), "older than it says");
}

/// One entry behind the given ones, with an add asked for by somebody.
fn logged(caller: Option<Caller>, delta: i64, reply: Reply) -> Vec<String> {
    let mut log = Log::default();
    let command = |action, caller| Command {
        session: None,
        idempotency: None,
        fingerprint: Default::default(),
        action,
        caller,
    };
    let enter = |log: &mut Log, index, command: Command, reply: Reply| {
        let batch = Batch { log_time_ms: 0, wall_time_ms: 0, commands: vec![command] };
        log.appended(1, index, &encode_batch(&batch));
        log.applied(1, index, &[reply]);
    };
    for (index, change, id) in given().into_iter().filter(|(index, ..)| *index < 10) {
        let reply = answered(Ok(Answer::AuthChanged { id }), false);
        enter(&mut log, index, command(Action::Auth(change), None), reply);
    }
    let add = Operation::CounterAdd(CounterAdd {
        name: "g/a".into(),
        delta,
        bounds: Bounds::default(),
        on_violation: OnViolation::Reject,
        must_exist: false,
    });
    log.shown.insert(super::mark_of_add("g/a", delta), caller.map(|_| 2));
    enter(&mut log, 8, command(Action::Single(add), caller), reply);
    log.wrong
}

fn answered(result: Result<Answer, Refusal>, hidden: bool) -> Reply {
    Reply { result, revision: 1, replayed: false, kept: None, hidden }
}

fn changed(value: i64) -> Result<Answer, Refusal> {
    let change = CounterChange {
        value_before: 0,
        value,
        delta_requested: -1,
        delta_applied: -1,
        revision: 1,
        existed: false,
        bounds: Bounds::default(),
    };
    Ok(Answer::Single(OperationAnswer::CounterChanged(change)))
}

#[test]
fn each_entry_is_held_against_the_rights_before_it() {
    let one = Some(Caller { user: 1, token: 2 });
    assert_eq!(logged(one, -1, answered(changed(0), true)), [""; 0]);
    for (what, wrong) in [
        ("a value", logged(one, -1, answered(changed(-1), true))),
        ("done without a right", logged(one, 1, answered(changed(0), true))),
        ("done for nobody", logged(None, -1, answered(changed(0), true))),
        (
            "for another than asked",
            logged(Some(Caller { user: 3, token: 4 }), -1, answered(changed(0), true)),
        ),
        ("a stranger who is none", logged(one, -1, answered(Err(Refusal::Unauthenticated), false))),
        ("a remembered answer of nobody", {
            let replayed = Reply { replayed: true, ..answered(changed(0), true) };
            logged(one, -1, replayed)
        }),
    ] {
        assert!(!wrong.is_empty(), "{what}");
    }
}
