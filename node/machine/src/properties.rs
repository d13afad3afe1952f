//! Properties of the machine over random histories: it answers as the model does, how commands are
//! grouped changes nothing, and replicas agree.
//!
//! Commands draw from few names, numbers and keys, so that retries, reuse and conflicts are the
//! common case rather than the rare one. `PROPTEST_CASES` sets how many histories are tried.

use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{
    apply::{apply, apply_with},
    codec,
    command::*,
    limits::{ANSWER_BYTES_MAX, PAGE_SIZE_MAX},
    memory::MemoryView,
    model::Model,
    query::{self, PageLimits, Range},
    quota::{Counted, QuotaLimits, Scope},
    quotas::quotas,
    view::{Overlay, Writes},
};

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => -4..=4i64,
        2 => select(vec![i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX]),
        1 => any::<i64>(),
    ]
}

fn bounds() -> impl Strategy<Value = Bounds> {
    (option::weighted(0.3, number()), option::weighted(0.3, number()))
        .prop_map(|(floor, ceiling)| Bounds { floor, ceiling })
}

fn name() -> impl Strategy<Value = String> {
    select(vec!["a", "b", "c"]).prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        4 => select(vec!["", "x", "y"]).prop_map(Bytes::from),
        1 => select(vec![1024usize, 1025, 9000]).prop_map(|length| Bytes::from(vec![7; length])),
    ]
}

fn key_expectation() -> impl Strategy<Value = KeyExpectation> {
    prop_oneof![
        3 => Just(KeyExpectation::Any),
        1 => Just(KeyExpectation::Absent),
        1 => Just(KeyExpectation::Present),
        1 => (0..12u64).prop_map(KeyExpectation::Revision),
        1 => value().prop_map(KeyExpectation::Value),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let expectation = prop_oneof![
        number().prop_map(CounterExpectation::Value),
        (0..12u64).prop_map(CounterExpectation::Revision),
        Just(CounterExpectation::Absent),
    ];
    let on_violation = select(vec![OnViolation::Reject, OnViolation::Saturate]);
    prop_oneof![
        4 => (name(), number(), bounds(), on_violation, prop::bool::weighted(0.1)).prop_map(
            |(name, delta, bounds, on_violation, must_exist)| Operation::CounterAdd(CounterAdd {
                name, delta, bounds, on_violation, must_exist
            })
        ),
        1 => name().prop_map(|name| Operation::CounterGet(CounterGet { name })),
        2 => (name(), number()).prop_map(|(name, value)| Operation::CounterSet(CounterSet { name, value })),
        2 => (name(), expectation, number()).prop_map(
            |(name, expect, value)| Operation::CounterCompareAndSet(CounterCompareAndSet { name, expect, value })
        ),
        1 => name().prop_map(|name| Operation::CounterDelete(CounterDelete { name })),
        1 => (name(), bounds())
            .prop_map(|(name, bounds)| Operation::CounterConfigure(CounterConfigure { name, bounds })),
        2 => (name(), value(), key_expectation())
            .prop_map(|(key, value, expect)| Operation::KeyPut(KeyPut { key, value, expect })),
        1 => name().prop_map(|key| Operation::KeyGet(KeyGet { key })),
        1 => (name(), key_expectation())
            .prop_map(|(key, expect)| Operation::KeyDelete(KeyDelete { key, expect })),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    let comparison = || {
        select(vec![
            Comparison::Equal,
            Comparison::NotEqual,
            Comparison::Less,
            Comparison::LessOrEqual,
            Comparison::Greater,
            Comparison::GreaterOrEqual,
        ])
    };
    let target = prop_oneof![name().prop_map(Target::Counter), name().prop_map(Target::Key)];
    let test = prop_oneof![
        any::<bool>().prop_map(Test::Exists),
        (comparison(), 0..12u64)
            .prop_map(|(comparison, number)| Test::Revision(comparison, number)),
        (comparison(), number())
            .prop_map(|(comparison, number)| Test::CounterValue(comparison, number)),
        (comparison(), value()).prop_map(|(comparison, value)| Test::KeyValue(comparison, value)),
    ];
    (target, test).prop_map(|(target, test)| Condition { target, test })
}

fn write() -> impl Strategy<Value = Action> {
    let step = (vec(condition(), 0..3), vec(operation(), 0..5), vec(operation(), 0..3)).prop_map(
        |(conditions, operations, else_operations)| {
            Action::Apply(ApplyStep { conditions, operations, else_operations })
        },
    );
    prop_oneof![3 => operation().prop_map(Action::Single), 1 => step]
}

/// A command before it is known which sessions are open.
#[derive(Debug, Clone)]
enum Draft {
    Write {
        action: Action,
        session: Option<(usize, u64, u64)>,
        key: Option<(u8, u64)>,
    },
    /// An earlier write once more.
    Again(usize, Option<(usize, u64, u64)>),
    Open(u64, Option<(u8, u8)>),
    Renew(usize, u64),
    Close(usize),
    Tick,
    Quota(QuotaCommand),
}

/// Few limits, so that they are in the way; none at all on some.
fn quota() -> impl Strategy<Value = QuotaCommand> {
    let of = || (select(vec![Scope::Counters, Scope::Keys]), select(vec!["", "a", "b"]));
    let limit = || option::weighted(0.5, 0..4u64);
    let bytes = || option::weighted(0.5, select(vec![0u64, 2, 9, 17, 18, 1_030, 9_100]));
    let limits = (limit(), limit(), bytes(), bytes()).prop_map(
        |(soft_items, hard_items, soft_bytes, hard_bytes)| QuotaLimits {
            soft_items,
            hard_items,
            soft_bytes,
            hard_bytes,
        },
    );
    prop_oneof![
        3 => (of(), limits).prop_map(|((scope, prefix), limits)| {
            QuotaCommand::Set { scope, prefix: prefix.to_owned(), limits }
        }),
        1 => of().prop_map(|(scope, prefix)| {
            QuotaCommand::Delete { scope, prefix: prefix.to_owned() }
        }),
    ]
}

fn stamp() -> impl Strategy<Value = Option<(usize, u64, u64)>> {
    let sequence = prop_oneof![20 => 0..12u64, 1 => select(vec![65_536, 65_540, u64::MAX])];
    option::weighted(0.6, (0..4usize, sequence, 0..6u64))
}

/// Who opens a session, and in percent how much it may hold; nobody, as in old logs.
fn owner() -> impl Strategy<Value = Option<(u8, u8)>> {
    option::weighted(0.8, (0..3u8, select(vec![1u8, 25, 50, 51, 99, 100])))
}

fn draft() -> impl Strategy<Value = Draft> {
    let key = option::weighted(0.4, (0..4u8, select(vec![0u64, 50, 500, 5_000])));
    prop_oneof![
        10 => (write(), stamp(), key)
            .prop_map(|(action, session, key)| Draft::Write { action, session, key }),
        5 => (0..40usize, stamp()).prop_map(|(index, stamp)| Draft::Again(index, stamp)),
        3 => (select(vec![0u64, 100, 640, 6_400]), owner())
            .prop_map(|(idle, owner)| Draft::Open(idle, owner)),
        1 => (0..4usize, 0..8u64).prop_map(|(session, lowest)| Draft::Renew(session, lowest)),
        1 => (0..4usize).prop_map(Draft::Close),
        1 => Just(Draft::Tick),
        1 => quota().prop_map(Draft::Quota),
    ]
}

/// Steps of log time and the commands after each.
fn history() -> impl Strategy<Value = (Settings, Vec<(u64, Vec<Draft>)>)> {
    let settings =
        (1..8u64, select(vec![400u64, 900, 1_000_000])).prop_map(|(sessions, bytes)| Settings {
            sessions_max: sessions,
            session_idle_ms: 320,
            idempotency_window_ms: 1_000,
            idempotency_bytes_max: bytes,
        });
    // Around the ends of idle times and windows, where a millisecond decides.
    let edges =
        vec![45u64, 50, 95, 98, 99, 100, 101, 102, 315, 320, 325, 326, 500, 640, 650, 1_000];
    let pause =
        prop_oneof![4 => 0..6u64, 4 => select(edges), 1 => 50..400u64, 1 => 1_000..8_000u64];
    (settings, vec((pause, vec(draft(), 0..6)), 0..25))
}

/// Log entries of a history, with indexes far enough apart to split each of them.
fn entries(settings: Settings, history: Vec<(u64, Vec<Draft>)>) -> Vec<(u64, Batch)> {
    let create = Action::CreateCluster { cluster_id: 7, settings };
    let create = Command {
        session: None,
        idempotency: None,
        fingerprint: Fingerprint::default(),
        action: create,
        caller: None,
    };
    let batch = Batch { log_time_ms: 0, wall_time_ms: 0, commands: vec![create] };
    let mut entries = vec![(100, batch)];
    let mut sessions = vec![1u64];
    let mut writes: Vec<Command> = Vec::new();
    let mut time = 0u64;
    for (number, (pause, drafts)) in (2u64..).zip(history) {
        time += pause;
        let index = 100 * number;
        let mut commands = Vec::new();
        for draft in drafts {
            let id = |which: usize| sessions[sessions.len() - 1 - which % sessions.len()];
            let stamped = |stamp: Option<(usize, u64, u64)>| {
                stamp.map(|(which, sequence, back)| SessionStamp {
                    session_id: id(which),
                    sequence,
                    // Mostly at or below the number, sometimes one above it.
                    lowest_unanswered: sequence.saturating_add(1).saturating_sub(back),
                })
            };
            let plain = |action| Command {
                session: None,
                idempotency: None,
                fingerprint: Fingerprint::default(),
                action,
                caller: None,
            };
            commands.push(match draft {
                Draft::Write { action, session, key } => {
                    let key = key.map(|(key, window_ms)| IdempotencyKey {
                        key: format!("key-{key}"),
                        window_ms,
                    });
                    let fingerprint = Fingerprint::of(&action);
                    let session = stamped(session);
                    let command =
                        Command { session, idempotency: key, fingerprint, action, caller: None };
                    writes.push(command.clone());
                    command
                }
                Draft::Again(which, stamp) => match writes.len() {
                    0 => plain(Action::Tick),
                    count => {
                        let mut command = writes[count - 1 - which % count].clone();
                        // Half of them as a retry, half under another number.
                        command.session = stamped(stamp).or(command.session);
                        command
                    }
                },
                // First in its entry, so that its id is the same when the entry is split.
                Draft::Open(idle_timeout_ms, owner) if commands.is_empty() => {
                    sessions.push(index);
                    plain(match owner {
                        None => Action::OpenSession { idle_timeout_ms },
                        Some((owner, share_percent)) => Action::OpenOwnedSession {
                            idle_timeout_ms,
                            owner: Owner::new([10, 0, 0, owner].into()),
                            share_percent,
                        },
                    })
                }
                Draft::Renew(which, lowest_unanswered) => {
                    plain(Action::RenewSession { session_id: id(which), lowest_unanswered })
                }
                Draft::Close(which) => plain(Action::CloseSession { session_id: id(which) }),
                Draft::Quota(change) => plain(Action::Quota(change)),
                Draft::Open(..) | Draft::Tick => plain(Action::Tick),
            });
        }
        // Stamps may fall behind; log time does not.
        let log_time_ms = if number % 7 == 0 { time / 2 } else { time };
        entries.push((index, Batch { log_time_ms, wall_time_ms: number, commands }));
    }
    entries
}

fn run(state: &mut MemoryView, index: u64, batch: &Batch) -> Vec<Reply> {
    let mut writes = Writes::default();
    let replies = apply(&mut Overlay::new(&*state, &mut writes), index, batch);
    state.commit(writes);
    replies
}

fn everything() -> PageLimits {
    PageLimits { items_max: PAGE_SIZE_MAX, bytes_max: ANSWER_BYTES_MAX }
}

/// The counts in the meta record and in sessions are what counting gives.
fn check_counts(state: &MemoryView) {
    use super::{idempotency_entry_bytes, keys::RecordKey, records::*, session};

    let mut counted = Meta { settings: query::meta(state).settings, ..Meta::default() };
    let mut answers = std::collections::BTreeMap::<u64, (u64, u64)>::new();
    let mut owners = std::collections::BTreeMap::<Owner, u64>::new();
    let mut owners_counted = owners.clone();
    for (key, value) in &state.records {
        match RecordKey::decode(key).unwrap() {
            RecordKey::Counter(_) => counted.counters += 1,
            RecordKey::Key(_) => counted.keys += 1,
            RecordKey::Session(_) => {
                counted.sessions += 1;
                if let Some(owner) = SessionRecord::decode(value).unwrap().owner {
                    *owners.entry(owner).or_default() += 1;
                }
            }
            RecordKey::SessionOwner(owner) => {
                owners_counted.insert(owner, OwnerRecord::decode(value).unwrap().sessions);
            }
            RecordKey::SessionAnswer { session_id, .. } => {
                let bytes = session::session_answer_bytes(value.len());
                let of_session = answers.entry(session_id).or_default();
                of_session.0 += 1;
                of_session.1 += bytes;
                counted.session_answers += 1;
                counted.session_answer_bytes += bytes;
            }
            RecordKey::Idempotency(key) => {
                counted.idempotency_keys += 1;
                counted.idempotency_bytes += idempotency_entry_bytes(key.len(), value.len());
            }
            _ => {}
        }
    }
    for (scope, prefix, quota) in quotas(state) {
        counted.quotas.quotas += 1;
        counted.quotas.counting += u64::from(!quota.is_ready());
        let (mut items, mut bytes) = (0, 0);
        for (key, value) in &state.records {
            let (name, size) = match (scope, RecordKey::decode(key).unwrap()) {
                (Scope::Counters, RecordKey::Counter(name)) => (name, 8),
                (Scope::Keys, RecordKey::Key(name)) => {
                    (name, KeyRecord::decode(value).unwrap().value.len())
                }
                _ => continue,
            };
            let is_counted = match &quota.counted {
                Counted::All => true,
                Counted::Nothing => false,
                Counted::UpTo(last) => name <= last.as_str(),
            };
            if name.starts_with(&prefix) && is_counted {
                items += 1;
                bytes += (name.len() + size) as u64;
            }
        }
        let used = (quota.used.items, quota.used.bytes);
        assert_eq!(used, (items, bytes), "quota on {scope} {prefix:?}: {quota}");
    }
    let Meta { cluster_id, revision, log_time_ms, .. } = query::meta(state);
    let counted = Meta { cluster_id, revision, log_time_ms, ..counted };
    assert_eq!(query::meta(state), counted, "the meta record counts wrongly");
    assert_eq!(owners_counted, owners, "the sessions of each owner are counted wrongly");
    for (key, value) in &state.records {
        if let Ok(RecordKey::Session(id)) = RecordKey::decode(key) {
            let session = SessionRecord::decode(value).unwrap();
            let counted = answers.remove(&id).unwrap_or_default();
            assert_eq!((session.answers, session.answer_bytes), counted, "session {id}");
        }
    }
    for id in answers.keys() {
        let queued = state.records.contains_key(&RecordKey::SessionGarbage(*id).encode());
        assert!(queued, "session {id} is gone and its answers wait for nobody");
    }
}

proptest! {
    #[test]
    fn answers_as_the_model_does((settings, history) in history(), items in 0..3usize) {
        let mut state = MemoryView::default();
        let mut model = Model::default();
        for (index, batch) in entries(settings, history) {
            let mut writes = Writes::default();
            let replies =
                apply_with(&mut Overlay::new(&state, &mut writes), index, &batch, items);
            state.commit(writes);
            prop_assert_eq!(&replies, &model.apply(index, &batch, items), "entry {}", index);
            check_counts(&state);
        }
        let meta = query::meta(&state);
        prop_assert_eq!((meta.revision, meta.log_time_ms), (model.revision, model.now));
        let counters = query::list_counters(&state, Range::default(), everything());
        let mut expected: Vec<_> = model.counters.clone().into_iter().collect();
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        prop_assert_eq!(counters.items, expected);
        let keys = query::scan_keys(&state, Range::default(), everything(), false);
        let mut expected: Vec<_> = model.keys.clone().into_iter().collect();
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        prop_assert_eq!(keys.items, expected);
        let open = query::list_sessions(&state, 0, None, usize::MAX, usize::MAX).items;
        let ids: Vec<u64> = open.iter().map(|(id, _)| *id).collect();
        prop_assert_eq!(&ids, &model.live_sessions());
        for (id, session) in open {
            let load = query::session_load(&state, id).unwrap();
            prop_assert_eq!(load.watermark, session.watermark);
        }
    }

    #[test]
    fn grouping_commands_changes_nothing((settings, history) in history()) {
        let (mut whole, mut split) = (MemoryView::default(), MemoryView::default());
        for (index, batch) in entries(settings, history) {
            let replies = run(&mut whole, index, &batch);
            let mut alone = Vec::new();
            for (offset, command) in (0..).zip(&batch.commands) {
                let batch = Batch { commands: vec![command.clone()], ..batch.clone() };
                alone.extend(run(&mut split, index + offset, &batch));
            }
            prop_assert_eq!(replies, alone, "entry {}", index);
            // An empty entry still carries log time.
            run(&mut split, index + 99, &Batch { commands: Vec::new(), ..batch });
            prop_assert_eq!(query::state_hash(&whole), query::state_hash(&split));
        }
    }

    #[test]
    fn replicas_agree((settings, history) in history(), restart in 0..25usize) {
        let (mut one, mut other) = (MemoryView::default(), MemoryView::default());
        for (number, (index, batch)) in entries(settings, history).into_iter().enumerate() {
            if number == restart {
                let mut copy = MemoryView::default();
                copy.records.extend(one.records.clone());
                other = copy;
            }
            let replies = run(&mut one, index, &batch);
            // The other one applies what comes out of its log.
            let decoded = codec::decode_batch(&codec::encode_batch(&batch)).unwrap();
            prop_assert_eq!(&replies, &run(&mut other, index, &decoded));
            prop_assert_eq!(query::state_hash(&one), query::state_hash(&other));
            for reply in replies {
                let bytes = codec::encode_reply(&reply);
                prop_assert_eq!(codec::decode_reply(&bytes), Ok(reply));
            }
            for command in batch.commands {
                let bytes = codec::encode_command(&command);
                prop_assert_eq!(codec::decode_command(&bytes), Ok(command));
            }
        }
    }
}
