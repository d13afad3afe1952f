//! A backup's way from one state into another, and each wrong step on it.

use bytes::{BufMut, BytesMut};
use tally_state_hash::Part;

use super::{
    super::{
        apply,
        auth::{AuthCommand, Caller},
        codec,
        command::*,
        keys::MACHINE_END,
        memory::MemoryView,
        query,
        records::Settings,
        reply::Reply,
        restore::{SESSIONS_PER_EPOCH, is_in_backup},
        view::{Overlay, Writes},
    },
    *,
};

#[path = "restore_quota_tests.rs"]
mod quotas;
#[path = "recovery_tests.rs"]
mod recovery;

/// One replica: a state, and where its log is.
#[derive(Default)]
struct Replica {
    state: MemoryView,
    index: u64,
    log_time_ms: u64,
}

fn command(action: Action) -> Command {
    Command {
        session: None,
        idempotency: None,
        fingerprint: Fingerprint::default(),
        action,
        caller: None,
    }
}

fn add(name: &str, delta: i64) -> Action {
    let add = CounterAdd {
        name: name.into(),
        delta,
        must_exist: false,
        bounds: Bounds::default(),
        on_violation: OnViolation::Reject,
    };
    Action::Single(Operation::CounterAdd(add))
}

fn keyed(key: &str, action: Action) -> Command {
    Command {
        idempotency: Some(IdempotencyKey { key: key.into(), window_ms: 100_000 }),
        fingerprint: Fingerprint::of(&action),
        ..command(action)
    }
}

impl Replica {
    fn new(cluster_id: u128) -> Self {
        let mut new = Self::default();
        let settings = Settings::default();
        new.run(command(Action::CreateCluster { cluster_id, settings })).result.unwrap();
        new
    }

    fn run(&mut self, command: Command) -> Reply {
        self.run_all(vec![command]).remove(0)
    }

    fn run_all(&mut self, commands: Vec<Command>) -> Vec<Reply> {
        self.index += 1;
        let batch = Batch { log_time_ms: self.log_time_ms, wall_time_ms: 0, commands };
        // As each replica has it: from bytes.
        let batch = codec::decode_batch(&codec::encode_batch(&batch)).unwrap();
        let mut writes = Writes::default();
        let replies = apply(&mut Overlay::new(&self.state, &mut writes), self.index, &batch);
        self.state.commit(writes);
        replies
    }

    fn step(&mut self, step: RestoreCommand) -> Result<(RestorePhase, u64), RestoreRefusal> {
        match self.run(command(Action::Restore(step))).result {
            Ok(Answer::Restored { phase, next }) => Ok((phase, next)),
            Err(Refusal::Restore(refusal)) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    fn records(&self, spaces: &[Space]) -> Vec<(Vec<u8>, Bytes)> {
        let mut records = Vec::new();
        for space in spaces {
            let (start, end) = space.range();
            self.state.scan(&start, &end, &mut |key, value| {
                records.push((key.to_vec(), value.clone()));
                ControlFlow::Continue(())
            });
        }
        records
    }

    /// What a backup of it says, and its blocks of two records each.
    fn backup(&self) -> (RestoreBegin, Vec<Bytes>) {
        let records = self.records(&SPACES);
        let blocks: Vec<Bytes> = records.chunks(2).map(block).collect();
        let content = blocks.iter().fold([0; 32], |chain, block| next_in_chain(&chain, block));
        let meta = query::meta(&self.state);
        let begin = RestoreBegin {
            content,
            blocks: blocks.len() as u64,
            epoch: meta.restore_epoch,
            revision: meta.revision,
            log_time_ms: meta.log_time_ms,
            auth_enabled: meta.auth.enabled,
            auth_last_id: meta.auth.last_id,
        };
        (begin, blocks)
    }

    fn restore(&mut self, (begin, blocks): &(RestoreBegin, Vec<Bytes>)) {
        self.step(RestoreCommand::Begin(*begin)).unwrap();
        for (number, payload) in (0..).zip(blocks) {
            self.step(RestoreCommand::Block { number, payload: payload.clone() }).unwrap();
        }
        let finished = self.step(RestoreCommand::Finish { content: begin.content }).unwrap();
        assert_eq!(finished, (RestorePhase::Done, 0));
    }

    fn counter(&self, name: &str) -> Option<i64> {
        query::counter(&self.state, name).map(|counter| counter.value)
    }
}

fn block(records: &[(Vec<u8>, Bytes)]) -> Bytes {
    let mut block = BytesMut::new();
    for (key, value) in records {
        block.put_u32_le(key.len() as u32);
        block.put_u32_le(value.len() as u32);
        block.put_slice(key);
        block.put_slice(value);
    }
    block.freeze()
}

/// A cluster with counters, keys, a session, and keys that are remembered.
fn used() -> Replica {
    let mut used = Replica { log_time_ms: 50_000, ..Replica::new(1) };
    for name in ["a", "b", "c"] {
        used.run(command(add(name, 5))).result.unwrap();
    }
    let put = KeyPut { key: "k".into(), value: "v".into(), expect: KeyExpectation::Any };
    used.run(command(Action::Single(Operation::KeyPut(put)))).result.unwrap();
    used.run(command(Action::OpenSession { idle_timeout_ms: 0 })).result.unwrap();
    used.run(keyed("order-1", add("a", -1))).result.unwrap();
    used.log_time_ms = 60_000;
    used.run(command(Action::Tick)).result.unwrap();
    used
}

#[test]
fn what_is_restored_is_what_was_backed_up_and_goes_on_above_it() {
    let old = used();
    let backup = old.backup();
    let mut new = Replica::new(2);
    let mut other = Replica::new(2);
    new.restore(&backup);
    other.restore(&backup);
    assert_eq!(query::state_hash(&new.state), query::state_hash(&other.state), "replicas agree");
    let spaces = [Space::Counter, Space::Key, Space::Idempotency, Space::IdempotencyExpiry];
    assert_eq!(new.records(&spaces), old.records(&spaces));
    let (before, after) = (query::meta(&old.state), query::meta(&new.state));
    assert_eq!((after.counters, after.keys, after.sessions), (3, 1, 0));
    assert_eq!(after.idempotency_keys, before.idempotency_keys);
    assert_eq!(after.idempotency_bytes, before.idempotency_bytes);
    assert_eq!((after.cluster_id, after.restore_epoch), (2, before.restore_epoch + 1));
    assert_eq!(after.log_time_ms, before.log_time_ms);
    let next = new.run(command(add("a", 1)));
    assert_eq!(next.revision, before.revision + REVISION_JUMP + 1);
    // A backup of what was restored, restored: one epoch and one jump more.
    let mut third = Replica::new(3);
    third.restore(&new.backup());
    let third = query::meta(&third.state);
    assert_eq!((third.restore_epoch, third.revision), (2, next.revision + REVISION_JUMP));
}

#[test]
fn a_key_is_answered_and_not_applied_again() {
    let backup = used().backup();
    let mut new = Replica::new(2);
    new.restore(&backup);
    assert_eq!(new.counter("a"), Some(4));
    let again = new.run(keyed("order-1", add("a", -1)));
    assert!(again.replayed && again.result.is_ok(), "{again}");
    assert_eq!(new.counter("a"), Some(4));
    let reused = new.run(keyed("order-1", add("a", -2)));
    assert!(matches!(reused.result, Err(Refusal::IdempotencyKeyReused { .. })), "{reused}");
}

/// The key was stored at 50,000 for 100,000 ms, and the backup was made at 60,000: 90,000 are left.
#[test]
fn a_window_is_as_long_as_it_was_whichever_clock_is_ahead() {
    let backup = used().backup();
    for ahead_ms in [0, 1_000_000] {
        let mut new = Replica { log_time_ms: ahead_ms, ..Replica::new(2) };
        new.run(command(Action::Tick)).result.unwrap();
        new.restore(&backup);
        let from_ms = query::meta(&new.state).log_time_ms;
        assert_eq!(from_ms, ahead_ms.max(60_000));
        new.log_time_ms = from_ms + 89_999;
        let again = new.run(keyed("order-1", add("a", -1)));
        assert!(again.replayed, "{again}");
        assert_eq!(again.kept.map(|kept| kept.for_ms), Some(1));
        new.log_time_ms += 1;
        let late = new.run(keyed("order-1", add("a", -1)));
        assert!(!late.replayed, "its window has passed: {late}");
    }
}

#[test]
fn sessions_of_before_are_unknown_and_their_ids_are_not_given_again() {
    let old = used();
    let of_before = query::list_sessions(&old.state, 0, None, 10, 10).items[0].0;
    let mut new = Replica::new(2);
    new.restore(&old.backup());
    let mut repeated = command(add("a", 1));
    repeated.fingerprint = Fingerprint::of(&repeated.action);
    repeated.session =
        Some(SessionStamp { session_id: of_before, sequence: 1, lowest_unanswered: 1 });
    let reply = new.run(repeated);
    assert_eq!(reply.result, Err(Refusal::SessionExpired { session_id: of_before }));
    new.index = of_before - 1;
    let opened = new.run(command(Action::OpenSession { idle_timeout_ms: 0 }));
    let Ok(Answer::SessionOpened { session_id, .. }) = opened.result else { panic!("{opened}") };
    assert_eq!(session_id, SESSIONS_PER_EPOCH + of_before);
}

#[test]
fn nothing_else_happens_meanwhile() {
    let (begin, blocks) = used().backup();
    let mut new = Replica::new(2);
    new.step(RestoreCommand::Begin(begin)).unwrap();
    new.step(RestoreCommand::Block { number: 0, payload: blocks[0].clone() }).unwrap();
    let before = query::state_hash(&new.state);
    for refused in [
        command(add("x", 1)),
        keyed("order-1", add("a", -1)),
        command(Action::OpenSession { idle_timeout_ms: 0 }),
        command(Action::Auth(AuthCommand::Enable)),
    ] {
        assert_eq!(new.run(refused).result, Err(Refusal::RestoreUnderWay));
    }
    assert_eq!(query::state_hash(&new.state), before, "and leaves no trace");
    new.run(command(Action::Tick)).result.unwrap();
}

#[test]
fn it_goes_on_where_it_stopped_and_no_block_counts_twice() {
    let (begin, blocks) = used().backup();
    let mut new = Replica::new(2);
    let mut straight = Replica::new(2);
    straight.restore(&(begin, blocks.clone()));
    for (number, payload) in (0..).zip(&blocks) {
        // Whoever comes by begins again, is told where it is, and repeats what was sent.
        assert_eq!(new.step(RestoreCommand::Begin(begin)), Ok((RestorePhase::UnderWay, number)));
        let later = RestoreCommand::Block { number: number + 1, payload: payload.clone() };
        assert_eq!(new.step(later), Err(RestoreRefusal::OutOfOrder { next: number }));
        let finish = RestoreCommand::Finish { content: begin.content };
        let incomplete = RestoreRefusal::Incomplete { next: number, blocks: begin.blocks };
        assert_eq!(new.step(finish), Err(incomplete));
        let block = RestoreCommand::Block { number, payload: payload.clone() };
        assert_eq!(new.step(block.clone()), Ok((RestorePhase::UnderWay, number + 1)));
        assert_eq!(new.step(block), Ok((RestorePhase::UnderWay, number + 1)));
    }
    let finish = RestoreCommand::Finish { content: begin.content };
    assert_eq!(new.step(finish.clone()), Ok((RestorePhase::Done, 0)));
    assert_eq!(new.step(finish), Ok((RestorePhase::Done, 0)), "its answer was lost");
    assert_eq!(query::state_hash(&new.state), query::state_hash(&straight.state));
}

#[test]
fn what_is_not_empty_stays_as_it_is() {
    let (begin, _) = used().backup();
    let not_empty = |counters, keys, sessions, idempotency_keys| {
        Err(RestoreRefusal::NotEmpty { counters, keys, sessions, idempotency_keys })
    };
    let deleting = Operation::CounterDelete(CounterDelete { name: "x".into() });
    for (holds, refused) in [
        (vec![command(add("x", 1))], not_empty(1, 0, 0, 0)),
        (vec![command(Action::OpenSession { idle_timeout_ms: 0 })], not_empty(0, 0, 1, 0)),
        (vec![keyed("k", Action::Single(deleting))], not_empty(0, 0, 0, 1)),
    ] {
        let mut new = Replica::new(2);
        new.run_all(holds);
        let before = query::state_hash(&new.state);
        assert_eq!(new.step(RestoreCommand::Begin(begin)), refused);
        assert_eq!(query::state_hash(&new.state), before);
    }
    let mut restored = Replica::new(2);
    restored.restore(&used().backup());
    let refused = restored.step(RestoreCommand::Begin(begin));
    assert!(matches!(refused, Err(RestoreRefusal::NotEmpty { .. })), "{refused:?}");
    assert_eq!(restored.step(RestoreCommand::Abort), Err(RestoreRefusal::NotUnderWay));
}

/// What an entry wrote before it began is no reason to lose what comes after it in the same one.
#[test]
fn one_entry_may_hold_all_of_it() {
    let (begin, blocks) = used().backup();
    let delete = Operation::CounterDelete(CounterDelete { name: "a".into() });
    let mut commands = vec![command(add("a", 1)), command(Action::Single(delete))];
    commands.push(command(Action::Restore(RestoreCommand::Begin(begin))));
    for (number, payload) in (0..).zip(blocks) {
        commands.push(command(Action::Restore(RestoreCommand::Block { number, payload })));
    }
    let content = begin.content;
    commands.push(command(Action::Restore(RestoreCommand::Finish { content })));
    commands.push(command(add("a", 1)));
    let mut new = Replica::new(2);
    assert!(new.run_all(commands).iter().all(|reply| reply.result.is_ok()));
    assert_eq!(new.counter("a"), Some(5));
    assert_eq!(query::meta(&new.state).counters, 3);
}

#[test]
fn taken_back_it_leaves_nothing_and_another_may_begin() {
    let many = {
        let mut many = Replica::new(1);
        let commands = (0..ABORT_ITEMS + 10).map(|at| command(add(&format!("n{at:06}"), 1)));
        many.run_all(commands.collect());
        many.run(keyed("order-2", add("n000000", 1))).result.unwrap();
        many
    };
    let (begin, blocks) = many.backup();
    let mut new = Replica::new(2);
    let empty = query::state_hash(&new.state);
    new.step(RestoreCommand::Begin(begin)).unwrap();
    for (number, payload) in (0..).zip(blocks) {
        new.step(RestoreCommand::Block { number, payload }).unwrap();
    }
    let (another, _) = used().backup();
    let refused = Err(RestoreRefusal::AnotherUnderWay);
    assert_eq!(new.step(RestoreCommand::Begin(another)), refused);
    assert_eq!(new.step(RestoreCommand::Abort).unwrap().0, RestorePhase::Aborting);
    assert_eq!(new.step(RestoreCommand::Begin(begin)), Err(RestoreRefusal::Aborting));
    assert_eq!(new.run(command(add("x", 1))).result, Err(Refusal::RestoreUnderWay));
    while new.step(RestoreCommand::Abort).unwrap().0 == RestorePhase::Aborting {}
    assert_eq!(query::state_hash(&new.state), empty);
    new.restore(&used().backup());
    assert_eq!(new.counter("a"), Some(4));
}

#[test]
fn other_blocks_than_the_backups_do_not_come_to_an_end() {
    let (begin, mut blocks) = used().backup();
    let record = |name: &str, record: CounterRecord| {
        (RecordKey::Counter(name).encode().to_vec(), record.encode())
    };
    let stored = query::counter(&used().state, "b").unwrap();
    blocks[0] = block(&[record("other", stored)]);
    let mut new = Replica::new(2);
    new.step(RestoreCommand::Begin(begin)).unwrap();
    for (number, payload) in (0..).zip(&blocks) {
        let done = new.step(RestoreCommand::Block { number, payload: payload.clone() });
        done.unwrap();
    }
    let finish = RestoreCommand::Finish { content: begin.content };
    assert_eq!(new.step(finish), Err(RestoreRefusal::Mismatch));

    // And what could stop a node is not stored at all.
    let beyond = CounterRecord { modified_revision: begin.revision + 1, ..stored };
    let outside = Bounds { floor: Some(100), ceiling: None };
    let outside = CounterRecord { bounds: outside, ..stored };
    let session = (RecordKey::Session(1).encode().to_vec(), Bytes::from_static(b"\x01"));
    let garbage = (RecordKey::Counter("g").encode().to_vec(), Bytes::from_static(b"\x01"));
    let good = || record("g", stored);
    for wrong in [
        vec![good(), record("h", beyond)],
        vec![good(), record("h", outside)],
        vec![good(), session],
        vec![garbage],
        vec![record("", stored)],
        vec![good(), good()],
        vec![(b"\x7f".to_vec(), Bytes::new())],
    ] {
        let mut new = Replica::new(2);
        new.step(RestoreCommand::Begin(begin)).unwrap();
        let before = query::state_hash(&new.state);
        let refused = new.step(RestoreCommand::Block { number: 0, payload: block(&wrong) });
        assert!(matches!(refused, Err(RestoreRefusal::Malformed(_))), "{refused:?}");
        let cut = block(&[good()]).slice(..10);
        let refused = new.step(RestoreCommand::Block { number: 0, payload: cut });
        assert!(matches!(refused, Err(RestoreRefusal::Malformed(_))), "{refused:?}");
        assert_eq!(query::state_hash(&new.state), before);
    }
}

fn secure(cluster_id: u128, hash: u8) -> Replica {
    let mut secure = Replica::default();
    let (settings, secret_hash) = (Settings::default(), [hash; 32]);
    let create = Action::CreateSecureCluster { cluster_id, settings, secret_hash };
    secure.run(command(create)).result.unwrap();
    secure
}

#[test]
fn users_of_the_backup_take_the_place_of_the_first_ones_at_the_end() {
    let admin = Some(Caller { user: 1, token: 2 });
    let by_admin = |action| Command { caller: admin, ..command(action) };
    let mut old = secure(1, 1);
    let user = AuthCommand::PutUser { name: "u".into(), roles: vec!["admin".into()] };
    old.run(by_admin(Action::Auth(user))).result.unwrap();
    let keyed_by_admin = || Command { caller: admin, ..keyed("order-1", add("a", 1)) };
    old.run(keyed_by_admin()).result.unwrap();
    let (begin, blocks) = old.backup();

    let mut new = secure(2, 2);
    let begin_step = || Action::Restore(RestoreCommand::Begin(begin));
    assert_eq!(new.run(command(begin_step())).result, Err(Refusal::Unauthenticated));
    let spaces = [Space::User, Space::UserId, Space::Role, Space::Token];
    let first = new.records(&spaces);
    new.run(by_admin(begin_step())).result.unwrap();
    for (number, payload) in (0..).zip(blocks) {
        let step = Action::Restore(RestoreCommand::Block { number, payload });
        new.run(by_admin(step)).result.unwrap();
        assert_eq!(new.records(&spaces), first, "the rights to go on stay");
    }
    let finish = Action::Restore(RestoreCommand::Finish { content: begin.content });
    new.run(by_admin(finish)).result.unwrap();
    assert_eq!(new.records(&spaces), old.records(&spaces));
    assert_eq!(query::meta(&new.state).auth, query::meta(&old.state).auth);
    assert!(new.run(keyed_by_admin()).replayed);

    // Not where others were made before, nor where it would switch authentication off.
    let mut others = secure(2, 2);
    let user = AuthCommand::PutUser { name: "x".into(), roles: vec![] };
    others.run(by_admin(Action::Auth(user))).result.unwrap();
    let refused = others.run(by_admin(begin_step())).result;
    assert_eq!(refused, Err(Refusal::Restore(RestoreRefusal::OtherUsers)));
    let (open, _) = used().backup();
    let refused = secure(2, 2).run(by_admin(Action::Restore(RestoreCommand::Begin(open)))).result;
    assert_eq!(refused, Err(Refusal::Restore(RestoreRefusal::WithoutUsers)));
}

/// Pins the bytes of the log: a failure here means that old logs can't be read.
#[test]
fn the_steps_are_frozen() {
    let begin = RestoreBegin {
        content: [7; 32],
        blocks: 1,
        epoch: 2,
        revision: 3,
        log_time_ms: 4,
        auth_enabled: true,
        auth_last_id: 5,
    };
    let payload = Bytes::from_static(b"xy");
    let sevens = [7; 32];
    for (step, bytes) in [
        (RestoreCommand::Begin(begin), [&[0][..], &sevens, &[1, 2, 3, 4, 1, 5]].concat()),
        (RestoreCommand::Block { number: 1, payload }, vec![1, 1, 2, b'x', b'y']),
        (RestoreCommand::Finish { content: sevens }, [&[2][..], &sevens].concat()),
        (RestoreCommand::Abort, vec![3]),
        (
            RestoreCommand::Recover(Recovery { node_id: 2, lost: vec![1, 300] }),
            vec![4, 2, 2, 1, 0xac, 2],
        ),
    ] {
        let batch = Batch {
            log_time_ms: 0,
            wall_time_ms: 0,
            commands: vec![command(Action::Restore(step))],
        };
        let head = [&[1, 0, 0, 1, 0, 0][..], &[0; 32], &[10]].concat();
        assert_eq!(codec::encode_batch(&batch), [head, bytes].concat());
    }
}

/// A backup's hashes are those by which replicas are compared, so both divide the records alike.
#[test]
fn what_a_backup_holds_is_what_its_hash_counts() {
    for first in 0..MACHINE_END {
        let is_held = Part::of(&[first]) != Part::Rest;
        assert_eq!(is_held, is_in_backup(&[first, 0]), "space {first:#x}");
        let is_data = [Space::Counter as u8, Space::Key as u8].contains(&first);
        assert_eq!(is_data, Part::of(&[first]) == Part::Data, "space {first:#x}");
    }
}
