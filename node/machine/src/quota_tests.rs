//! Quotas: what the scripts (`testscripts/quota`) and the properties do not show.

use std::{cell::Cell, ops::ControlFlow};

use bytes::Bytes;

use super::{
    apply,
    auth::{AuthCommand, AuthMeta, Caller, Permissions, RoleRecord, Rule},
    codec,
    command::*,
    keys::{RecordKey, Space},
    limits::QUOTAS_MAX,
    memory::MemoryView,
    query,
    quota::*,
    records::{Meta, Record},
    restore::{RestoreMeta, RestorePhase},
    view::{Overlay, View, Writes},
};

fn command(action: Action, caller: Option<Caller>) -> Command {
    let fingerprint = Fingerprint::of(&action);
    Command { session: None, idempotency: None, fingerprint, action, caller }
}

fn run_over<V: View>(view: &V, commands: Vec<Command>) -> (Vec<Reply>, Writes) {
    let mut writes = Writes::default();
    let batch = Batch { log_time_ms: 0, wall_time_ms: 0, commands };
    let replies = apply(&mut Overlay::new(view, &mut writes), 7, &batch);
    (replies, writes)
}

fn run(state: &mut MemoryView, action: Action, caller: Option<Caller>) -> Reply {
    let (mut replies, writes) = run_over(state, vec![command(action, caller)]);
    state.commit(writes);
    replies.remove(0)
}

fn set(scope: Scope, prefix: &str, hard_items: Option<u64>) -> Action {
    let limits = QuotaLimits { hard_items, ..QuotaLimits::default() };
    Action::Quota(QuotaCommand::Set { scope, prefix: prefix.to_owned(), limits })
}

fn put(key: &str, value: &'static [u8]) -> Action {
    let (key, value) = (key.to_owned(), Bytes::from_static(value));
    Action::Single(Operation::KeyPut(KeyPut { key, value, expect: KeyExpectation::Any }))
}

fn add(name: &str) -> Action {
    Action::Single(Operation::CounterAdd(CounterAdd {
        name: name.to_owned(),
        delta: 1,
        bounds: Bounds::default(),
        on_violation: OnViolation::Reject,
        must_exist: false,
    }))
}

/// Counts what is looked up, and in which spaces is scanned.
struct Watched<'a> {
    state: &'a MemoryView,
    gets: Cell<usize>,
    scans_of_quotas: Cell<usize>,
}

impl View for Watched<'_> {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.gets.set(self.gets.get() + 1);
        assert_ne!(key[0], Space::Quota as u8, "a quota is looked up by itself");
        self.state.get(key)
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) {
        if start[0] == Space::Quota as u8 {
            self.scans_of_quotas.set(self.scans_of_quotas.get() + 1);
        }
        self.state.scan(start, end, visit);
    }
}

fn watched(state: &MemoryView, actions: Vec<Action>) -> (usize, usize) {
    let view = Watched { state, gets: Cell::new(0), scans_of_quotas: Cell::new(0) };
    run_over(&view, actions.into_iter().map(|action| command(action, None)).collect());
    (view.gets.get(), view.scans_of_quotas.get())
}

/// Who does not grow does not pay, and who grows pays once for each entry.
#[test]
fn quotas_are_read_by_entries_that_grow_and_once() {
    let mut state = MemoryView::default();
    run(&mut state, add("a"), None);
    run(&mut state, put("k", b"xy"), None);
    let hot = || vec![add("a"), add("a"), put("k", b"ab")];
    let growing = || vec![add("b"), add("c"), put("l", b"")];
    // The meta record, and each item.
    assert_eq!(watched(&state, hot()), (3, 0));
    assert_eq!(watched(&state, growing()), (4, 0));
    run(&mut state, set(Scope::Counters, "", None), None);
    run(&mut state, set(Scope::Keys, "", None), None);
    assert_eq!(watched(&state, hot()), (3, 0));
    assert_eq!(watched(&state, growing()), (4, 1));
    // Nor is their record written.
    let (_, writes) = run_over(&state, vec![command(add("a"), None)]);
    let is_quota = |key: &[u8]| key[0] == Space::Quota as u8;
    assert!(!writes.records.iter().any(|(key, _)| is_quota(&key)), "{writes:?}");
}

#[test]
fn there_are_so_many_quotas_at_most() {
    let mut state = MemoryView::default();
    for number in 0..QUOTAS_MAX {
        let reply = run(&mut state, set(Scope::Keys, &format!("{number:03}"), Some(1)), None);
        assert_eq!(reply.result, Ok(Answer::QuotaChanged { existed: false }));
    }
    let refused = run(&mut state, set(Scope::Keys, "x", Some(1)), None);
    let quotas_max = QUOTAS_MAX as u64;
    assert_eq!(refused.result, Err(Refusal::QuotaTableFull { quotas_max }));
    // One that is there can be changed, and one that is removed makes room.
    let changed = run(&mut state, set(Scope::Keys, "007", Some(2)), None);
    assert_eq!(changed.result, Ok(Answer::QuotaChanged { existed: true }));
    let delete = QuotaCommand::Delete { scope: Scope::Keys, prefix: "007".to_owned() };
    run(&mut state, Action::Quota(delete), None);
    let made = run(&mut state, set(Scope::Keys, "x", Some(1)), None);
    assert_eq!(made.result, Ok(Answer::QuotaChanged { existed: false }));
    let meta = query::meta(&state);
    assert_eq!(meta.quotas, QuotaMeta { quotas: quotas_max, counting: 0 });
}

/// A store without quotas has the bytes that it always had, also after the last one is gone.
#[test]
fn the_record_of_a_store_without_quotas_is_as_ever() {
    let old = Meta { revision: 1, keys: 1, ..Meta::default() };
    let mut state = MemoryView::default();
    run(&mut state, put("k", b"x"), None);
    let meta = |state: &MemoryView| state.get(&RecordKey::Meta.encode()).unwrap();
    assert_eq!((meta(&state)[0], meta(&state)), (1, old.encode()));
    run(&mut state, set(Scope::Keys, "k", Some(1)), None);
    let quotas = QuotaMeta { quotas: 1, counting: 0 };
    let with = meta(&state);
    assert_eq!((with[0], Meta::decode(&with)), (4, Ok(Meta { quotas, ..old })));
    let delete = QuotaCommand::Delete { scope: Scope::Keys, prefix: "k".to_owned() };
    run(&mut state, Action::Quota(delete), None);
    assert_eq!(meta(&state), old.encode());
    assert_eq!(state.records.len(), 2, "the record of the quota is gone");
    let fifth = Bytes::from([&[6][..], &with[1..]].concat());
    let error = Meta::decode(&fifth).unwrap_err().to_string();
    assert_eq!(error, "an encoded meta record has format 6, this release reads up to 5");
}

/// Pins the bytes: what a store without quotas has of users and of a restore, and theirs behind it.
#[test]
fn the_record_of_a_store_with_quotas_holds_the_rest_too() {
    let auth = AuthMeta { enabled: true, users: 1, last_id: 7, ..AuthMeta::default() };
    let restore = RestoreMeta { phase: RestorePhase::Done, ..RestoreMeta::default() };
    let quotas = QuotaMeta { quotas: 300, counting: 2 };
    let without = Meta { revision: 9, auth, restore, ..Meta::default() };
    let all = Meta { quotas, ..without };
    let (without, bytes) = (without.encode(), all.encode());
    assert_eq!((without[0], bytes[0]), (3, 4));
    assert_eq!(bytes[1..], [&without[1..], &[0xac, 2, 2]].concat());
    assert_eq!(Meta::decode(&bytes), Ok(all));
}

/// Pins the bytes.
#[test]
fn a_quota_is_stored_so() {
    let limits = QuotaLimits { soft_items: Some(1), hard_bytes: Some(300), ..Default::default() };
    let used = Used { items: 2, bytes: 3 };
    let head = [1, 1, 1, 0, 0, 1, 0xac, 2, 2, 3];
    for (counted, tail) in [
        (Counted::All, &[0][..]),
        (Counted::Nothing, &[1]),
        (Counted::UpTo("ab".to_owned()), &[2, 2, b'a', b'b']),
    ] {
        let record = QuotaRecord { limits, used, counted };
        let bytes = Bytes::from([&head[..], tail].concat());
        assert_eq!((record.encode(), QuotaRecord::decode(&bytes)), (bytes, Ok(record)));
    }
}

/// Pins the bytes of the log: a failure here means that old logs can't be read.
#[test]
fn a_change_is_logged_so() {
    let limits = QuotaLimits { soft_items: Some(1), hard_bytes: Some(300), ..Default::default() };
    let prefix = || "ab".to_owned();
    for (change, bytes) in [
        (
            QuotaCommand::Set { scope: Scope::Counters, prefix: prefix(), limits },
            &[0, 0, 2, b'a', b'b', 1, 1, 0, 0, 1, 0xac, 2][..],
        ),
        (QuotaCommand::Delete { scope: Scope::Keys, prefix: prefix() }, &[1, 1, 2, b'a', b'b']),
    ] {
        let mut command = command(Action::Quota(change), None);
        command.fingerprint = Fingerprint::default();
        let batch = Batch { log_time_ms: 0, wall_time_ms: 0, commands: vec![command] };
        let head = [&[1, 0, 0, 1, 0, 0][..], &[0; 32], &[12]].concat();
        let all = [&head[..], bytes].concat();
        assert_eq!(codec::encode_batch(&batch), all);
        assert_eq!(codec::decode_batch(&all).unwrap(), batch);
    }
}

/// Only admins change quotas, and how much is used is told to whoever may list all of it.
#[test]
fn what_is_used_is_told_to_those_who_may_read_it() {
    let mut state = MemoryView::default();
    let auth = |state: &mut MemoryView, change, caller| {
        let reply = run(state, Action::Auth(change), caller);
        match reply.result {
            Ok(Answer::AuthChanged { id }) => id,
            other => panic!("{other:?}"),
        }
    };
    auth(&mut state, AuthCommand::Begin { secret_hash: [0; 32] }, None);
    let admin = Caller { user: 1, token: 2 };
    let mut user = |name: &str, prefix: &str, permissions| {
        let rules = vec![Rule { scope: Scope::Keys, prefix: prefix.to_owned(), permissions }];
        let role = RoleRecord { rules, ..RoleRecord::default() };
        let (role_name, name) = (name.to_owned(), name.to_owned());
        auth(&mut state, AuthCommand::PutRole { name: role_name, role }, Some(admin));
        let roles = vec![name.clone()];
        let user = auth(&mut state, AuthCommand::PutUser { name, roles }, Some(admin));
        Caller { user, token: 0 }
    };
    let both = Permissions::READ.and(Permissions::WRITE);
    let narrow = user("narrow", "cart/1/", both);
    let wide = user("wide", "cart/", both);

    let denied = run(&mut state, set(Scope::Keys, "cart/", Some(0)), Some(wide));
    assert!(matches!(denied.result, Err(Refusal::PermissionDenied { .. })), "{denied:?}");
    let delete = QuotaCommand::Delete { scope: Scope::Keys, prefix: "cart/".to_owned() };
    let denied = run(&mut state, Action::Quota(delete), Some(wide));
    assert!(matches!(denied.result, Err(Refusal::PermissionDenied { .. })), "{denied:?}");
    run(&mut state, set(Scope::Keys, "cart/", Some(0)), Some(admin));

    let (scope, prefix, unit) = (Scope::Keys, "cart/".to_owned(), QuotaUnit::Items);
    let shown = run(&mut state, put("cart/1/a", b""), Some(wide));
    let all = Refusal::QuotaExceeded {
        scope,
        prefix: prefix.clone(),
        unit,
        used: 0,
        limit: 0,
        grows_by: 1,
    };
    assert_eq!((shown.result, shown.hidden), (Err(all), false));
    let hidden = run(&mut state, put("cart/1/a", b""), Some(narrow));
    let some = Refusal::QuotaHidden { scope, prefix, unit };
    assert_eq!((hidden.result, hidden.hidden), (Err(some), true));
}
