//! What the rules of authentication come to, over whole entries.

use super::{
    apply,
    auth::*,
    command::{
        Action, Answer, ApplyStep, Batch, Bounds, Command, Comparison, Condition, CounterConfigure,
        CounterGet, CounterRecord, CounterSet, Fingerprint, IdempotencyKey, KeyGet, KeyPut,
        OnViolation, OperationAnswer, Refusal, Reply, SessionStamp, Settings, Test,
    },
    item::Target,
    memory::MemoryView,
    operation::{CounterAdd, KeyExpectation, Operation},
    query,
    rights::{Decision, Need, Rights},
    view::{Overlay, Writes},
};

/// A cluster with authentication on, and what its entries do.
struct Cluster {
    state: MemoryView,
    index: u64,
    admin: Caller,
}

impl Cluster {
    fn new() -> Cluster {
        let admin = Caller { user: 1, token: 2 };
        let mut cluster = Cluster { state: MemoryView::default(), index: 0, admin };
        let settings = Settings::default();
        cluster.run(
            None,
            Action::CreateSecureCluster { cluster_id: 7, settings, secret_hash: [9; 32] },
        );
        cluster
    }

    fn entry(&mut self, commands: Vec<Command>) -> Vec<Reply> {
        self.index += 1;
        // As every node does it: what the log holds is what is applied.
        let batch = Batch { log_time_ms: self.index, wall_time_ms: 1_000 + self.index, commands };
        let bytes = crate::codec::encode_batch(&batch);
        let batch = crate::codec::decode_batch(&bytes).unwrap();
        let mut writes = Writes::default();
        let replies = apply(&mut Overlay::new(&self.state, &mut writes), self.index, &batch);
        self.state.commit(writes);
        replies
    }

    fn run(&mut self, caller: Option<Caller>, action: Action) -> Reply {
        self.entry(vec![command(caller, action)]).remove(0)
    }

    fn auth(&mut self, change: AuthCommand) -> Result<u64, Refusal> {
        let admin = self.admin;
        match self.run(Some(admin), Action::Auth(change)).result? {
            Answer::AuthChanged { id } => Ok(id),
            other => panic!("{other:?}"),
        }
    }

    /// A user with a role of its own that has these rules.
    fn user(&mut self, name: &str, rules: &[(Scope, &str, Permissions)]) -> Caller {
        let rule = |(scope, prefix, permissions): &(Scope, &str, Permissions)| Rule {
            scope: *scope,
            prefix: (*prefix).to_owned(),
            permissions: *permissions,
        };
        let role = RoleRecord { rules: rules.iter().map(rule).collect(), ..RoleRecord::default() };
        self.auth(AuthCommand::PutRole { name: name.into(), role }).unwrap();
        let roles = vec![name.to_owned()];
        let user = self.auth(AuthCommand::PutUser { name: name.into(), roles }).unwrap();
        let token = self.auth(token(name)).unwrap();
        Caller { user, token }
    }

    fn single(&mut self, caller: Caller, operation: Operation) -> Reply {
        self.run(Some(caller), Action::Single(operation))
    }

    fn value(&self, name: &str) -> Option<i64> {
        query::counter(&self.state, name).map(|counter| counter.value)
    }
}

fn command(caller: Option<Caller>, action: Action) -> Command {
    let fingerprint = Fingerprint::of(&action);
    Command { session: None, idempotency: None, fingerprint, action, caller }
}

fn token(user: &str) -> AuthCommand {
    AuthCommand::CreateToken {
        user: user.to_owned(),
        secret_hash: [3; 32],
        label: String::new(),
        expires_wall_time_ms: 0,
    }
}

fn add(name: &str, delta: i64) -> Operation {
    Operation::CounterAdd(CounterAdd {
        name: name.to_owned(),
        delta,
        bounds: Bounds::default(),
        on_violation: OnViolation::Reject,
        must_exist: false,
    })
}

fn set(name: &str, value: i64) -> Operation {
    Operation::CounterSet(CounterSet { name: name.to_owned(), value })
}

fn configure(name: &str, floor: i64) -> Operation {
    let bounds = Bounds { floor: Some(floor), ceiling: None };
    Operation::CounterConfigure(CounterConfigure { name: name.to_owned(), bounds })
}

fn put(key: &str) -> Operation {
    let value = bytes::Bytes::from_static(b"v");
    Operation::KeyPut(KeyPut { key: key.to_owned(), value, expect: KeyExpectation::Any })
}

fn is_denied(reply: &Reply) -> bool {
    matches!(reply.result, Err(Refusal::PermissionDenied { .. }))
}

const SPEND: Permissions = Permissions::DECREASE;

#[test]
fn nobody_and_strangers_do_nothing() {
    let mut cluster = Cluster::new();
    let unknown = [
        None,
        Some(Caller { user: 1, token: 3 }),
        Some(Caller { user: 2, token: 2 }),
        Some(Caller { user: 9, token: 0 }),
        Some(Caller { user: 0, token: 0 }),
    ];
    for caller in unknown {
        for action in [
            Action::Single(add("hits", 1)),
            Action::OpenSession { idle_timeout_ms: 0 },
            Action::RenewSession { session_id: 1, lowest_unanswered: 1 },
            Action::CloseSession { session_id: 1 },
            Action::Auth(AuthCommand::Disable),
        ] {
            let reply = cluster.run(caller, action);
            assert_eq!(reply.result, Err(Refusal::Unauthenticated), "{caller:?}");
        }
    }
    assert_eq!(cluster.value("hits"), None);
    assert_eq!(query::meta(&cluster.state).revision, 0);
    // What nodes ask for by themselves goes on.
    assert_eq!(cluster.run(None, Action::Tick).result, Ok(Answer::Done));
}

/// A service that may spend stock, and never refill it, nor see it.
#[test]
fn who_may_spend_may_not_refill() {
    let mut cluster = Cluster::new();
    let admin = cluster.admin;
    let shop = cluster.user("shop", &[(Scope::Counters, "stock/", SPEND)]);
    cluster.single(admin, set("stock/1", 2)).result.unwrap();
    cluster.single(admin, configure("stock/1", 0)).result.unwrap();
    for operation in [
        add("stock/1", 1),
        set("stock/1", 9),
        configure("stock/1", -9),
        add("stoc", -1),
        put("stock/1"),
    ] {
        let reply = cluster.single(shop, operation.clone());
        assert!(is_denied(&reply), "{operation}: {reply}");
        assert_eq!(reply.revision, query::meta(&cluster.state).revision);
    }
    let reply = cluster.single(shop, add("stock/1", -2));
    let Ok(Answer::Single(OperationAnswer::CounterChanged(change))) = reply.result else {
        panic!("{reply}");
    };
    assert!(reply.hidden);
    assert_eq!((change.value, change.value_before, change.delta_applied), (0, 0, -2));
    assert_eq!((change.bounds, change.existed), (Bounds::default(), false));
    assert_eq!(cluster.value("stock/1"), Some(0));
    // The refusal tells that it is a floor, and not where it is, nor how far away.
    let reply = cluster.single(shop, add("stock/1", -1));
    let which = crate::command::BoundReached::Floor;
    assert_eq!(reply.result, Err(Refusal::BoundHidden { name: "stock/1".into(), which }));
    assert!(reply.hidden);
    // Bounds of the request's own would let it find out by asking often.
    let mut probe = CounterAdd {
        name: "stock/1".into(),
        delta: -1,
        bounds: Bounds { floor: Some(-5), ceiling: None },
        on_violation: OnViolation::Reject,
        must_exist: false,
    };
    assert!(is_denied(&cluster.single(shop, Operation::CounterAdd(probe.clone()))));
    probe.bounds = Bounds::default();
    assert!(!is_denied(&cluster.single(shop, Operation::CounterAdd(probe))));
    // The admin sees all of it.
    let reply = cluster.single(admin, add("stock/1", 5));
    assert!(!reply.hidden, "{reply}");
}

#[test]
fn one_forbidden_part_forbids_the_whole_step() {
    let mut cluster = Cluster::new();
    let own = Permissions::READ.and(Permissions::INCREASE);
    let rules = [(Scope::Counters, "own/", own), (Scope::Keys, "own/", Permissions::READ)];
    let user = cluster.user("user", &rules);
    let allowed = || (0..127).map(|_| add("own/hits", 1)).collect::<Vec<_>>();
    let condition = |name: &str| Condition {
        target: Target::Counter(name.to_owned()),
        test: Test::CounterValue(Comparison::Greater, 5),
    };
    let step = |conditions: Vec<Condition>, operations, else_operations| {
        Action::Apply(ApplyStep { conditions, operations, else_operations })
    };
    for at in [0, 64, 127] {
        for forbidden in [
            add("others", 1),
            set("own/hits", 1),
            put("own/key"),
            Operation::CounterGet(CounterGet { name: "others".into() }),
            Operation::KeyGet(KeyGet { key: "others".into() }),
        ] {
            let mut operations = allowed();
            operations.insert(at, forbidden.clone());
            let then = cluster.run(Some(user), step(vec![], operations.clone(), vec![]));
            assert!(is_denied(&then), "{forbidden} at {at}: {then}");
            // Also in a branch that would not run.
            let conditions = vec![condition("own/hits")];
            let other = step(conditions, operations, allowed());
            assert!(is_denied(&cluster.run(Some(user), other)));
            let conditions = vec![condition("own/hits")];
            let other = step(conditions, allowed(), vec![forbidden]);
            assert!(is_denied(&cluster.run(Some(user), other)));
        }
    }
    let peeks = step(vec![condition("own/hits"), condition("others")], allowed(), vec![]);
    assert!(is_denied(&cluster.run(Some(user), peeks)));
    assert_eq!(cluster.value("own/hits"), None);
    let fine = step(vec![], allowed(), vec![]);
    assert!(cluster.run(Some(user), fine).result.is_ok());
    assert_eq!(cluster.value("own/hits"), Some(127));
}

/// Not even whether it is there is told: the refusal is the same.
#[test]
fn a_refusal_tells_nothing_of_the_item() {
    let mut cluster = Cluster::new();
    let (admin, user) = (cluster.admin, cluster.user("user", &[]));
    cluster.single(admin, set("there", 1)).result.unwrap();
    for operation in [add, set] {
        let of = |cluster: &mut Cluster, name: &str| {
            cluster.single(user, operation(name, 1)).to_string().replace(name, "it")
        };
        assert_eq!(of(&mut cluster, "there"), of(&mut cluster, "gone"));
    }
}

#[test]
fn a_right_begins_and_ends_with_its_entry() {
    let mut cluster = Cluster::new();
    let admin = cluster.admin;
    let user = cluster.user("user", &[]);
    let role = |permissions| {
        let rule = Rule { scope: Scope::Counters, prefix: String::new(), permissions };
        let role = RoleRecord { rules: vec![rule], ..RoleRecord::default() };
        command(Some(admin), Action::Auth(AuthCommand::PutRole { name: "user".into(), role }))
    };
    let hit = || command(Some(user), Action::Single(add("hits", 1)));
    // Within one entry, too.
    let replies = cluster.entry(vec![
        hit(),
        role(Permissions::INCREASE),
        hit(),
        role(Permissions::READ),
        hit(),
        role(Permissions::INCREASE),
        hit(),
        command(Some(admin), Action::Auth(AuthCommand::RevokeToken { id: user.token })),
        hit(),
    ]);
    let denied: Vec<bool> = replies.iter().map(is_denied).collect();
    assert_eq!(denied, [true, false, false, false, true, false, false, false, false]);
    assert_eq!(replies[8].result, Err(Refusal::Unauthenticated));
    assert_eq!(cluster.value("hits"), Some(2));
}

/// Unauthorised leaves no trace: number and key can be used again.
#[test]
fn a_denied_write_leaves_its_number_and_key_usable() {
    let mut cluster = Cluster::new();
    let user = cluster.user("user", &[]);
    let open = cluster.run(Some(user), Action::OpenSession { idle_timeout_ms: 0 });
    let Ok(Answer::SessionOpened { session_id, .. }) = open.result else { panic!("{open}") };
    let stamped = |keyed: bool| {
        let mut command = command(Some(user), Action::Single(add("hits", 1)));
        match keyed {
            true => command.idempotency = Some(IdempotencyKey { key: "k".into(), window_ms: 0 }),
            false => {
                let stamp = SessionStamp { session_id, sequence: 1, lowest_unanswered: 1 };
                command.session = Some(stamp);
            }
        }
        command
    };
    for keyed in [false, true] {
        assert!(is_denied(&cluster.entry(vec![stamped(keyed)])[0]));
    }
    let rule = |permissions| Rule { scope: Scope::Counters, prefix: String::new(), permissions };
    let put = |rules| AuthCommand::PutRole {
        name: "user".into(),
        role: RoleRecord { rules, ..RoleRecord::default() },
    };
    cluster.auth(put(vec![rule(Permissions::INCREASE.and(Permissions::READ))])).unwrap();
    for (keyed, value) in [(false, 1), (true, 2)] {
        let reply = cluster.entry(vec![stamped(keyed)]).remove(0);
        assert!(!reply.replayed && reply.result.is_ok(), "{reply}");
        assert_eq!(cluster.value("hits"), Some(value));
    }
    // What was applied stays a fact for the one who did it, when it may not do it any more; without the value,
    // as it may not read it.
    cluster.auth(put(vec![])).unwrap();
    for keyed in [false, true] {
        let reply = cluster.entry(vec![stamped(keyed)]).remove(0);
        assert!(reply.replayed && reply.hidden && reply.result.is_ok(), "{reply}");
        let Ok(Answer::Single(OperationAnswer::CounterChanged(change))) = reply.result else {
            panic!("not a change");
        };
        assert_eq!((change.value, change.delta_applied), (0, 1));
    }
    assert_eq!(cluster.value("hits"), Some(2));
}

#[test]
fn keys_and_sessions_are_their_users_own() {
    let mut cluster = Cluster::new();
    let all = [(Scope::Counters, "", Permissions::READ.and(Permissions::INCREASE))];
    let (one, other) = (cluster.user("one", &all), cluster.user("other", &all));
    let keyed = |caller, delta| Command {
        idempotency: Some(IdempotencyKey { key: "order-1".into(), window_ms: 0 }),
        ..command(Some(caller), Action::Single(add("hits", delta)))
    };
    // Neither the answer of another nor that there is one: nobody can take another's key before it does.
    for (caller, delta, value) in [(one, 1, 1), (other, 10, 11)] {
        let reply = cluster.entry(vec![keyed(caller, delta)]).remove(0);
        assert!(!reply.replayed && reply.result.is_ok(), "{reply}");
        assert_eq!(cluster.value("hits"), Some(value));
        assert!(cluster.entry(vec![keyed(caller, delta)])[0].replayed);
    }
    assert_eq!(cluster.value("hits"), Some(11));
    let status = query::first_idempotency_expiry(&cluster.state).unwrap();
    assert_eq!(status.key, "order-1");

    let open = cluster.run(Some(one), Action::OpenSession { idle_timeout_ms: 0 });
    let Ok(Answer::SessionOpened { session_id, .. }) = open.result else { panic!("{open}") };
    let stamp = SessionStamp { session_id, sequence: 1, lowest_unanswered: 1 };
    let numbered = |caller| Command {
        session: Some(stamp),
        ..command(Some(caller), Action::Single(add("hits", 1)))
    };
    let gone = Err(Refusal::SessionExpired { session_id });
    assert_eq!(cluster.entry(vec![numbered(other)])[0].result, gone);
    let renew = Action::RenewSession { session_id, lowest_unanswered: 9 };
    assert_eq!(cluster.run(Some(other), renew).result, gone);
    let close = Action::CloseSession { session_id };
    let closed = |existed| Ok(Answer::SessionClosed { existed });
    assert_eq!(cluster.run(Some(other), close.clone()).result, closed(false));
    assert!(cluster.entry(vec![numbered(one)])[0].result.is_ok(), "its watermark was not raised");
    // With a user of the same name that is another one, too.
    cluster.auth(AuthCommand::DeleteUser { name: "one".into() }).unwrap();
    let again = cluster.user("one", &all);
    assert_ne!(again.user, one.user);
    assert_eq!(cluster.entry(vec![numbered(again)])[0].result, gone);
    assert!(!cluster.entry(vec![keyed(again, 1)])[0].replayed);
    // An operator closes anybody's.
    let admin = cluster.admin;
    assert_eq!(cluster.run(Some(admin), close.clone()).result, closed(true));
    assert_eq!(cluster.run(Some(admin), close).result, closed(false));
}

#[test]
fn only_an_admin_changes_users_and_one_stays() {
    let mut cluster = Cluster::new();
    let user = cluster.user("user", &[(Scope::Counters, "", Permissions::WRITE)]);
    for change in [token("user"), AuthCommand::Disable, token("admin")] {
        assert!(is_denied(&cluster.run(Some(user), Action::Auth(change))));
    }
    let weak = RoleRecord::default();
    let last = Err(Refusal::Auth(AuthRefusal::LastAdmin));
    for change in [
        AuthCommand::PutUser { name: "admin".into(), roles: vec!["user".into()] },
        AuthCommand::PutUser { name: "admin".into(), roles: vec![] },
        AuthCommand::PutRole { name: "admin".into(), role: weak.clone() },
        AuthCommand::DeleteUser { name: "admin".into() },
    ] {
        let before = cluster.state.clone();
        assert_eq!(cluster.auth(change.clone()), last, "{change}");
        // Only the log time has gone on.
        assert_eq!(query::meta(&cluster.state).auth, query::meta(&before).auth);
    }
    let in_use = AuthRefusal::RoleInUse { role: "user".into(), user: "user".into() };
    let delete = AuthCommand::DeleteRole { name: "user".into() };
    assert_eq!(cluster.auth(delete.clone()), Err(Refusal::Auth(in_use)));
    // With another admin the first may go.
    let chief = RoleRecord { admin: true, ..RoleRecord::default() };
    cluster.auth(AuthCommand::PutRole { name: "chief".into(), role: chief }).unwrap();
    let roles = vec!["chief".to_owned()];
    let id = cluster.auth(AuthCommand::PutUser { name: "user".into(), roles }).unwrap();
    assert_eq!(id, user.user, "it is the same user, with other roles");
    cluster.auth(AuthCommand::DeleteUser { name: "admin".into() }).unwrap();
    let gone = cluster.auth(AuthCommand::Disable);
    assert_eq!(gone, Err(Refusal::Unauthenticated), "its token went with it");
    cluster.admin = user;
    cluster.auth(delete).unwrap();
    let meta = query::meta(&cluster.state).auth;
    assert_eq!((meta.users, meta.roles, meta.tokens), (1, 2, 1));
    assert_eq!(
        cluster.auth(token("none")),
        Err(Refusal::Auth(AuthRefusal::NoSuchUser("none".into())))
    );
    let none = AuthCommand::RevokeToken { id: 99 };
    assert_eq!(cluster.auth(none), Err(Refusal::Auth(AuthRefusal::NoSuchToken(99))));
}

/// All together have room for so much; what does not fit leaves nothing behind.
#[test]
fn users_roles_and_tokens_have_room_together() {
    let mut cluster = Cluster::new();
    let label = |bytes| AuthCommand::CreateToken {
        user: ADMIN.to_owned(),
        secret_hash: [4; 32],
        label: "x".repeat(bytes),
        expires_wall_time_ms: 0,
    };
    let mut tokens = 0;
    while cluster.auth(label(60_000)).is_ok() {
        tokens += 1;
    }
    assert_eq!(tokens, 17);
    let mut many = Cluster::new();
    let commands = (0..10_000).map(|_| command(Some(many.admin), Action::Auth(label(32))));
    let commands = commands.collect();
    assert!(many.entry(commands).iter().all(|reply| reply.result.is_ok()), "10,000 with labels");
    let held = |cluster: &Cluster| {
        let mut bytes = 0;
        for (key, value) in &cluster.state.records {
            let is_auth = (0x40..0x50).contains(&key[0]);
            bytes += if is_auth { (key.len() + value.len()) as u64 } else { 0 };
        }
        bytes
    };
    assert_eq!(query::meta(&cluster.state).auth.bytes, held(&cluster));
    // Until a user's own record fits, and the one by its name does not.
    let left = AUTH_BYTES_MAX - held(&cluster);
    cluster.auth(label(left as usize - 80 - 110)).unwrap();
    let before = cluster.state.clone();
    let full = Err(Refusal::Auth(AuthRefusal::Full { bytes_max: AUTH_BYTES_MAX }));
    let mut refused = 0;
    for bytes in 1..100 {
        let put = AuthCommand::PutUser { name: "n".repeat(bytes), roles: vec![] };
        match cluster.auth(put) {
            Ok(_) => {
                cluster.auth(AuthCommand::DeleteUser { name: "n".repeat(bytes) }).unwrap();
            }
            error => {
                assert_eq!(error, full);
                refused += 1;
            }
        }
        let auth = query::meta(&cluster.state).auth;
        assert_eq!((auth.bytes, auth.users), (held(&cluster), 1), "{bytes}");
    }
    assert!(refused > 10 && refused < 95, "{refused}");
    let others = |state: &MemoryView| {
        let is_other = |(key, _): &(&bytes::Bytes, &bytes::Bytes)| key[0] != 1;
        state.records.iter().filter(is_other).map(|(key, _)| key.clone()).collect::<Vec<_>>()
    };
    assert_eq!(others(&cluster.state), others(&before));
}

#[test]
fn it_is_switched_on_once_and_off_by_an_admin() {
    let mut state =
        Cluster { state: MemoryView::default(), index: 0, admin: Caller { user: 0, token: 0 } };
    // Off, everybody may do everything, and what a command says of its caller means nothing.
    let anybody = Caller { user: 77, token: 8 };
    assert!(state.single(anybody, set("hits", 5)).result.is_ok());
    // Not before somebody can get in again.
    let enable = || Action::Auth(AuthCommand::Enable);
    let chief = RoleRecord { admin: true, ..RoleRecord::default() };
    let steps = [
        AuthCommand::PutRole { name: "chief".into(), role: chief },
        AuthCommand::PutUser { name: "anna".into(), roles: vec!["chief".into()] },
        token("anna"),
    ];
    let mut made = Vec::new();
    for step in steps {
        let reply = state.run(None, enable());
        assert_eq!(reply.result, Err(Refusal::Auth(AuthRefusal::LastAdmin)));
        let reply = state.run(None, Action::Auth(step));
        let Ok(Answer::AuthChanged { id }) = reply.result else { panic!("{reply}") };
        made.push(id);
    }
    assert_eq!(state.run(None, enable()).result, Ok(Answer::AuthChanged { id: 0 }));
    assert_eq!(state.run(None, enable()).result, Err(Refusal::Unauthenticated));
    assert_eq!(state.single(anybody, set("hits", 6)).result, Err(Refusal::Unauthenticated));
    state.admin = Caller { user: made[1], token: made[2] };
    let again = state.auth(AuthCommand::Enable);
    assert_eq!(again, Err(Refusal::Auth(AuthRefusal::AlreadyEnabled)));
    state.auth(AuthCommand::Disable).unwrap();
    assert!(state.single(anybody, set("hits", 7)).result.is_ok());
    assert_eq!(state.value("hits"), Some(7));
}

#[test]
fn what_decides_is_told() {
    let mut cluster = Cluster::new();
    let rules = [
        (Scope::Counters, "a/", Permissions::READ),
        (Scope::Counters, "a/b", Permissions::INCREASE.and(Permissions::READ)),
    ];
    let user = cluster.user("user", &rules);
    let rights = Rights::of(&cluster.state, Some(user)).unwrap();
    let need = |name, permissions| Need { scope: Scope::Counters, name, permissions };
    let both = Permissions::READ.and(Permissions::INCREASE);
    let Decision::Rules(deciding) = rights.decide(need("a/bc", both)) else { panic!("denied") };
    let prefixes: Vec<&str> = deciding.iter().map(|(_, rule)| rule.prefix.as_str()).collect();
    assert_eq!(prefixes, ["a/", "a/b"]);
    let decision = rights.decide(need("a/c", both));
    assert_eq!(decision, Decision::Denied { lacks: Permissions::INCREASE });
    assert!(!rights.decide(Need { scope: Scope::Keys, ..need("a/b", both) }).is_allowed());
    // A list must be allowed whole.
    assert!(rights.may_list(Scope::Counters, "a/") && rights.may_list(Scope::Counters, "a/x"));
    assert!(!rights.may_list(Scope::Counters, "a") && !rights.may_list(Scope::Keys, "a/"));
    let admin = Rights::of(&cluster.state, Some(cluster.admin)).unwrap();
    assert_eq!(admin.decide(need("x", both)), Decision::Admin { role: "admin".into() });
    assert!(admin.may_list(Scope::Keys, "") && admin.may_monitor() && !rights.may_monitor());
}

/// Entries without callers, and stores without users, have the bytes that they always had.
#[test]
fn bytes_of_before_are_the_same() {
    let plain = |caller| Batch {
        log_time_ms: 1,
        wall_time_ms: 2,
        commands: vec![command(caller, Action::Tick), command(None, Action::Tick)],
    };
    assert_eq!(crate::codec::encode_batch(&plain(None))[0], 1);
    let caller = Some(Caller { user: 300, token: 0 });
    let bytes = crate::codec::encode_batch(&plain(caller));
    assert_eq!(bytes[0], 2);
    assert_eq!(crate::codec::decode_batch(&bytes), Ok(plain(caller)));
    let one = command(caller, Action::Tick);
    assert_eq!(crate::codec::decode_command(&crate::codec::encode_command(&one)), Ok(one));
    let reply = Reply {
        result: Ok(Answer::Single(OperationAnswer::CounterRead(None::<CounterRecord>))),
        revision: 1,
        replayed: true,
        kept: None,
        hidden: true,
    };
    assert_eq!(crate::codec::decode_reply(&crate::codec::encode_reply(&reply)), Ok(reply));
    for cut in 1..bytes.len() {
        assert!(crate::codec::decode_batch(&bytes[..cut]).is_err());
    }
}
