//! What is stored.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use tally_client::history::{Answer, Part, Record as Line, Status};
use tally_machine::{
    auth::{
        AuthCommand, Permissions, RoleLimit, RoleRecord, Rule, Scope, TokenRecord, UserIdRecord,
        UserRecord,
    },
    codec,
    command::{
        Action, Answer as Reply0, ApplyStep, Batch, Command, Comparison, Condition, CounterChange,
        CounterRecord, CounterSet, IdempotencyKey, Kept, KeyGet, KeyRecord, Operation,
        OperationAnswer, Refusal, Reply, Settings, Target, Test,
    },
    keys::RecordKey,
    quota::{Counted, QuotaCommand, QuotaLimits, QuotaRecord, Used},
    records::{IdempotencyRecord, Meta, OwnerRecord, Record, SessionAnswerRecord, SessionRecord},
};
use tally_node::{
    config::Config,
    env::identity::{Identity, Start},
};
use tally_proto::backup::{Header, Writer};
use tally_storage::{fuzzing as door, simulated_disk::SimulatedDisk};

use super::{Seed, chosen, of_wire};
use crate::{log::seed_record, now, piece};

pub(super) fn seeds() -> Vec<Seed> {
    [entries(), records(), log(), snapshots(), backups(), settings(), vec![history()]].concat()
}

fn entries() -> Vec<Seed> {
    let name = || "stock".to_owned();
    let set = || Operation::CounterSet(CounterSet { name: name(), value: -7 });
    let apply = ApplyStep {
        conditions: vec![Condition {
            target: Target::Key(name()),
            test: Test::KeyValue(Comparison::Less, Bytes::from_static(b"x")),
        }],
        operations: vec![set(), Operation::KeyGet(KeyGet { key: name() })],
        else_operations: vec![set()],
    };
    let actions = [
        Action::Single(set()),
        Action::Apply(apply),
        Action::OpenSession { idle_timeout_ms: 5 },
        Action::OpenOwnedSession {
            idle_timeout_ms: 5,
            owner: "2001:db8::1".parse().expect("an address"),
            share_percent: 50,
        },
        Action::RenewSession { session_id: 7, lowest_unanswered: 2 },
        Action::CloseSession { session_id: 7 },
        Action::Tick,
        Action::CreateCluster { cluster_id: 1 << 100, settings: Settings::default() },
        Action::Auth(AuthCommand::Begin { secret_hash: [7; 32] }),
        Action::Auth(AuthCommand::PutRole { name: name(), role: role() }),
        Action::Auth(AuthCommand::PutUser { name: name(), roles: vec![name(), name()] }),
        Action::Quota(QuotaCommand::Set { scope: Scope::Keys, prefix: name(), limits: limits() }),
        Action::Quota(QuotaCommand::Delete { scope: Scope::Counters, prefix: name() }),
    ];
    let command = |action| Command {
        caller: None,
        session: None,
        idempotency: Some(IdempotencyKey { key: "order-1".to_owned(), window_ms: 60_000 }),
        fingerprint: Default::default(),
        action,
    };
    let mut seeds = Vec::new();
    for (at, action) in actions.into_iter().enumerate() {
        let command = command(action);
        let bytes = codec::encode_command(&command);
        seeds.push(chosen("log_entry", &format!("command-{at}"), 1, &bytes));
        let batch = Batch { log_time_ms: 300, wall_time_ms: 2, commands: vec![command] };
        seeds.push(chosen("log_entry", &format!("batch-{at}"), 0, &codec::encode_batch(&batch)));
    }
    for (at, reply) in replies().into_iter().enumerate() {
        seeds.push(chosen("log_entry", &format!("reply-{at}"), 2, &codec::encode_reply(&reply)));
    }
    seeds
}

fn replies() -> Vec<Reply> {
    let change = CounterChange {
        value_before: 1,
        value: 2,
        delta_requested: 1,
        delta_applied: 1,
        revision: 9,
        existed: true,
        bounds: Default::default(),
    };
    let answers = vec![OperationAnswer::CounterChanged(change), OperationAnswer::KeyRead(None)];
    let below = Refusal::BelowFloor { name: "stock".to_owned(), value: 0, floor: 0 };
    let kept = Some(Kept { until_log_time_ms: 100, for_ms: 50 });
    [Ok(Reply0::Apply { else_branch: false, answers }), Ok(Reply0::Done), Err(below)]
        .map(|result| Reply { result, revision: 9, replayed: false, kept, hidden: false })
        .into()
}

fn limits() -> QuotaLimits {
    QuotaLimits { soft_items: Some(300), hard_bytes: Some(0), ..QuotaLimits::default() }
}

fn role() -> RoleRecord {
    let rule = |scope, prefix: &str| Rule {
        scope,
        prefix: prefix.to_owned(),
        permissions: Permissions::READ.and(Permissions::DECREASE),
    };
    let rules = vec![rule(Scope::Counters, "stock/"), rule(Scope::Keys, "")];
    RoleRecord { rules, admin: false, monitor: true }
}

fn records_of_auth() -> Vec<(usize, Bytes)> {
    let user = UserRecord { name: "till".to_owned(), roles: vec!["a".to_owned(), "b".to_owned()] };
    let token = TokenRecord {
        user: 300,
        secret_hash: [9; 32],
        label: "the till at the door".to_owned(),
        created_wall_time_ms: 1,
        expires_wall_time_ms: u64::MAX,
    };
    let used = Used { items: 300, bytes: u64::MAX };
    let up_to = Counted::UpTo("stock".to_owned());
    vec![
        (11, user.encode()),
        (12, UserIdRecord { id: 300 }.encode()),
        (13, role().encode()),
        (14, token.encode()),
        (15, RoleLimit { operations_per_second: 300, burst: 1 }.encode()),
        (16, QuotaRecord { limits: limits(), used, counted: Counted::All }.encode()),
        (16, QuotaRecord { limits: limits(), used, counted: up_to }.encode()),
    ]
}

fn records() -> Vec<Seed> {
    let counter = CounterRecord {
        value: i64::MIN,
        bounds: Default::default(),
        created_revision: 1,
        modified_revision: 300,
        modified_wall_time_ms: 3,
    };
    let key = KeyRecord {
        value: Bytes::from_static(b"value"),
        created_revision: 1,
        modified_revision: u64::MAX,
        modified_wall_time_ms: 3,
    };
    let session = |owner: Option<&str>| SessionRecord {
        user: 0,
        idle_timeout_ms: 1,
        expires_at_ms: 2,
        watermark: 3,
        removed_below: 4,
        highest_sequence: u64::MAX,
        answers: 6,
        answer_bytes: 7,
        garbage_queued: true,
        opened_wall_time_ms: 8,
        owner: owner.map(|owner| owner.parse().expect("an address")),
    };
    let [reply, ..] = &replies()[..] else { unreachable!("there are some") };
    let reply = reply.clone();
    let fingerprint = Default::default();
    let answer = SessionAnswerRecord { fingerprint, reply: reply.clone() };
    let kept = IdempotencyRecord { fingerprint, expires_at_ms: 9, stored_at_ms: 1, reply };
    let (meta, pointer) = door::state_seeds();
    let mut seeds = vec![
        (0, Meta { cluster_id: 1 << 99, revision: 5, ..Meta::default() }.encode()),
        (1, counter.encode()),
        (2, key.encode()),
        (3, session(None).encode()),
        (3, session(Some("10.0.0.7")).encode()),
        (3, session(Some("2001:db8::1")).encode()),
        (4, answer.encode()),
        (5, kept.encode()),
        (6, OwnerRecord { sessions: 300 }.encode()),
        (9, meta.slice(..meta.len() - 4)),
        (8, meta),
        (10, pointer.into()),
    ];
    seeds.extend(records_of_auth());
    let owner = "10.0.0.7".parse().expect("an address");
    for key in [
        RecordKey::Meta,
        RecordKey::Counter("a"),
        RecordKey::Session(258),
        RecordKey::SessionOwner(owner),
        RecordKey::SessionAnswer { session_id: 1, sequence: 2 },
        RecordKey::SessionExpiry { expires_at_ms: 1, session_id: 2 },
        RecordKey::IdempotencyExpiry { expires_at_ms: 1, key: "a" },
    ] {
        seeds.push((7, key.encode()));
    }
    let numbered = seeds.iter().enumerate();
    numbered
        .map(|(at, (which, bytes))| chosen("state_record", &format!("{which}-{at}"), *which, bytes))
        .collect()
}

fn log() -> Vec<Seed> {
    let id = |term: u64, index: u64| [term.to_le_bytes(), index.to_le_bytes()].concat();
    let some = |id: Vec<u8>| [&[1], &id[..]].concat();
    let vote = [&3u64.to_le_bytes()[..], &[1, 1], &2u64.to_le_bytes()].concat();
    let begin = vec![0u8; 4];
    let entry = |index| [&id(1, index)[..], &[1], b"payload"].concat();
    let kinds: [(u8, Vec<u8>); 9] = [
        (1, begin.clone()),
        (2, vote),
        (4, entry(0)),
        (4, entry(1)),
        (3, some(id(1, 0))),
        (5, some(id(1, 0))),
        (4, entry(1)),
        (6, [&id(1, 0)[..], &[0]].concat()),
        (7, Vec::new()),
    ];
    let mut made_up = vec![1, 1, 4];
    let mut seeds = Vec::new();
    for (at, (kind, payload)) in kinds.iter().enumerate() {
        seed_record(&mut made_up, *kind, payload);
        let record = [&[*kind], &payload[..]].concat();
        seeds.push(chosen("wal_frame", &format!("record-{at}"), 1, &record));
    }
    seeds.push(("wal_segment", "made-up".to_owned(), made_up));
    let mut jump = vec![1, 1, 4];
    seed_record(&mut jump, 1, &begin);
    seed_record(&mut jump, 6, &[&id(5, 900)[..], &[1]].concat());
    seed_record(&mut jump, 4, &[&id(6, 901)[..], &[2], b"x"].concat());
    seeds.push(("wal_segment", "jump".to_owned(), jump));
    let options = tally_storage::wal::WalOptions::new(42);
    let records: Vec<(u8, &[u8])> =
        kinds.iter().map(|(kind, payload)| (*kind, &payload[..])).collect();
    // Without the length of a whole segment.
    let short = tally_storage::wal::WalOptions { segment_bytes: 0, ..options };
    let file = door::segment(&records, 1, 16 << 10, &short);
    let header = [&1u64.to_le_bytes()[..], &file[..8192]].concat();
    seeds.push(chosen("wal_frame", "header", 2, &header));
    // Frames of a segment have a salt of its own; the target has one for all.
    let frames = door::frames(&records, 42);
    seeds.push(chosen("wal_frame", "frame", 0, &frames));
    seeds.push(chosen("wal_frame", "scan", 3, &[&[0, 0], &frames[..]].concat()));
    seeds.push(chosen("wal_segment", "untouched", 0, &[]));
    for (at, change) in
        [[0, 0, 32, 1], [1, 200, 33, 255], [2, 64, 32, 7], [0xc2, 0, 40, 0], [0x80, 0, 0, 0]]
            .iter()
            .enumerate()
    {
        seeds.push(chosen("wal_segment", &format!("damaged-{at}"), 0, change));
    }
    seeds
}

fn snapshots() -> Vec<Seed> {
    let id = [&[1][..], &3u64.to_le_bytes(), &90u64.to_le_bytes()].concat();
    let members = of_wire::members();
    let length = u32::try_from(members.len()).expect("short").to_le_bytes();
    let body = [&id[..], &id, &length, &members].concat();
    let record = |key: &[u8], value: &[u8]| {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short").to_le_bytes();
        [&length(key)[..], &length(value), key, value].concat()
    };
    let mut parts = vec![1];
    piece(&mut parts, &body);
    piece(&mut parts, &[&[2], &record(b"\x10a", b"1")[..], &record(b"\x10b", b"2")].concat());
    piece(&mut parts, &[&[1], &record(b"\x11a", b"value")[..]].concat());
    let whole = crate::snapshot::put_together(&parts[1..]);
    vec![("snapshot_file", "parts".to_owned(), parts), chosen("snapshot_file", "whole", 0, &whole)]
}

fn backups() -> Vec<Seed> {
    let header = Header { counters: 2, keys: 1, version: "0.1.0".to_owned(), ..Header::default() };
    let long = [b'7'; 400];
    let items: [(&[u8], &[u8]); 3] = [(b"\x10a", b"1"), (b"\x10b", b"2"), (b"\x11a", &long)];
    let mut writer = Writer::new(&header);
    let begins = writer.take();
    items.iter().for_each(|(key, value)| writer.record(key, value));
    writer.finish();
    let whole = [&begins[..], &writer.take()].concat();
    let (mut plain, mut packed) = (Vec::new(), Vec::new());
    items[..2].iter().for_each(|(key, value)| crate::backup::record(&mut plain, key, value));
    crate::backup::record(&mut packed, items[2].0, items[2].1);
    let block = |packing: u8, count: u8, payload: &[u8], stored: &[u8]| {
        let length = u16::try_from(payload.len()).expect("a seed is short").to_le_bytes();
        [&[packing, count, length[0], length[1]], stored].concat()
    };
    let mut parts = vec![1];
    // The header's body, between its prefix and its checksum.
    piece(&mut parts, &begins[16..begins.len() - 4]);
    piece(&mut parts, &block(0, 2, &plain, &plain));
    piece(&mut parts, &block(1, 1, &packed, &lz4_flex::block::compress(&packed)));
    vec![
        chosen("backup_file", "whole", 0, &whole),
        ("backup_file", "parts".to_owned(), parts),
        chosen("backup_file", "records", 2, &plain),
    ]
}

fn settings() -> Vec<Seed> {
    let members: BTreeSet<u64> = (1..=3).collect();
    let cluster: Vec<String> = members.iter().map(|id| format!("{id}=127.0.0.1:750{id}")).collect();
    let initial_cluster = cluster.join(",");
    let config = Config {
        node_id: 1,
        initial_cluster: initial_cluster.parse().expect("it is one"),
        ..Config::default()
    };
    let text = toml::to_string(&config).expect("plain values");
    let disk = SimulatedDisk::new(1);
    now(async {
        let identity = Identity::open(Arc::new(disk.mount()), 7, 1).await.expect("it is empty");
        identity.meet(2, &"1b".repeat(16)).await.expect("there is room");
        let start = Start { number: 3, nonce: "0a".repeat(16) };
        identity.saw_start(2, start).await.expect("there is room");
        identity.begin_run(5, 9).await.expect("there is room");
        identity.learn_cluster("c1").await.expect("it is the first");
        identity.saw_membership(4, true).await.expect("there is room");
    });
    vec![
        chosen("config", "all", 0, text.as_bytes()),
        chosen("config", "short", 0, b"node_id = 1\nlog_format = \"json\"\n"),
        chosen("config", "cluster", 1, initial_cluster.as_bytes()),
        ("identity", "all".to_owned(), disk.contents()["IDENTITY"].clone()),
    ]
}

fn history() -> Seed {
    let mut lines = Vec::new();
    for (at, part) in [Part::incr("hits", 1), Part::put("greeting", "hello"), Part::get("hits")]
        .into_iter()
        .enumerate()
    {
        let at = at as u64;
        let mut line = Line::new(1, part, at * 100);
        line.ret = Some(at * 100 + 50);
        line.status = Status::Ok;
        line.revision = Some(at + 1);
        line.part.result = Some(Answer { version: Some(at.min(1)), ..Answer::default() });
        serde_json::to_writer(&mut lines, &line).expect("plain values");
        lines.push(b'\n');
    }
    ("history_file", "three".to_owned(), lines)
}
