//! Requests that are wrong by themselves: INVALID_ARGUMENT, naming the field and the limit, before
//! anything is proposed.

use tally_proto::{
    reason,
    v1::{self, Outcome, call::Request},
};
use tonic::Code;

use crate::{
    client::{fails_both_ways, unary},
    cluster::Cluster,
    requests::*,
};

/// A value that no enum of this version has.
const UNKNOWN: i32 = 77;

/// The request, the field to blame, and a part of what is said of it.
type Row = (Request, &'static str, &'static str);

#[tokio::test]
async fn a_wrong_field_is_named_with_its_limit() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let rows = names().into_iter().chain(enums()).chain(values()).chain(steps());
    let rows = rows.chain(options_of_parts()).chain(options());
    for (request, field, part) in rows {
        let what = format!("{:.200}", format!("{request:?}"));
        let failure = fails_both_ways(&channel, request).await;
        let row = (Code::InvalidArgument, reason::INVALID_REQUEST, Some(Outcome::NotApplied));
        assert_eq!(failure.row(), row, "{what}");
        assert_named(&failure.details.fields, field, part, &what);
    }
    for (request, field, part) in reads().into_iter().chain(pages()) {
        let what = format!("{:.200}", format!("{request:?}"));
        let failure = fails_both_ways(&channel, request).await;
        assert_eq!(failure.row(), (Code::InvalidArgument, reason::INVALID_REQUEST, None), "{what}");
        assert_named(&failure.details.fields, field, part, &what);
    }
    let revision = header(&unary(&channel, status()).await.expect("it answers")).revision;
    assert_eq!(revision, 0, "nothing was applied");
}

fn assert_named(fields: &[(String, String)], field: &str, part: &str, what: &str) {
    let [(named, description)] = fields else {
        panic!("{what}: one field is to blame: {fields:?}")
    };
    assert_eq!(named, field, "{what}: {description}");
    assert!(description.contains(part), "{what}: {description:?} says {part:?}");
}

fn names() -> Vec<Row> {
    let long = "n".repeat(513);
    let long = long.as_str();
    let delete_key = |key: &str| key_delete(key, None);
    let absent = v1::counters_compare_and_set_request::Expect::ExpectAbsent(true);
    vec![
        (add("", 1), "name", "1 to 512 bytes"),
        (add(long, 1), "name", "has 513"),
        (set("", 1), "name", "512"),
        (set(long, 1), "name", "512"),
        (delete(""), "name", "512"),
        (configure(long, None, None), "name", "512"),
        (compare_and_set("", absent, 1), "name", "512"),
        (put("", "x"), "key", "512"),
        (put(long, "x"), "key", "512"),
        (delete_key(""), "key", "512"),
        (delete_key(long), "key", "512"),
    ]
}

fn enums() -> Vec<Row> {
    let comparison = |target, test| v1::Condition {
        target: Some(target),
        test: Some(test),
        comparison: UNKNOWN,
    };
    let unknown = "not a value of this version's enum";
    vec![
        (add_with("a", 1, |add| add.on_violation = UNKNOWN), "on_violation", unknown),
        (add_with("a", 1, |add| add.if_missing = -1), "if_missing", unknown),
        (
            apply(|step| {
                let add = v1::CountersAddRequest {
                    name: "a".into(),
                    on_violation: 9,
                    ..Default::default()
                };
                step.operations = vec![operation(v1::operation::Kind::CounterAdd(add))];
            }),
            "operations[0].on_violation",
            unknown,
        ),
        (
            apply(|step| {
                step.operations = vec![step_add("a", 1)];
                step.conditions = vec![comparison(
                    v1::condition::Target::Counter("a".into()),
                    v1::condition::Test::CounterValue(1),
                )];
            }),
            "conditions[0].comparison",
            unknown,
        ),
    ]
}

/// What a request says besides its operation is the whole step's, in an atomic one: who says it of a part
/// may mean that the part is done once, or that it reads what is newest.
fn options_of_parts() -> Vec<Row> {
    use v1::operation::Kind;

    let whole = "belongs to the whole step";
    let part = |kind: Kind| {
        apply(|step| {
            step.operations = vec![step_add("a", 1)];
            step.else_operations = vec![operation(kind)];
        })
    };
    let key = v1::WriteOptions { idempotency_key: Some("once".into()), ..Default::default() };
    let add = v1::CountersAddRequest { name: "a".into(), options: Some(key), ..Default::default() };
    let stamp = v1::SessionStamp { session_id: 1, sequence: 1, lowest_unanswered: 1 };
    let stamped = v1::WriteOptions { session: Some(stamp), ..Default::default() };
    let delete =
        v1::KeysDeleteRequest { key: "a".into(), options: Some(stamped), ..Default::default() };
    let read = v1::ReadOptions { level: v1::ReadLevel::Local as i32, ..Default::default() };
    let get = v1::CountersGetRequest { name: "a".into(), read: Some(read.clone()) };
    let key_get = v1::KeysGetRequest { key: "a".into(), read: Some(read) };
    vec![
        (part(Kind::CounterAdd(add)), "else_operations[0].options", whole),
        (part(Kind::KeyDelete(delete)), "else_operations[0].options", whole),
        (part(Kind::CounterGet(get)), "else_operations[0].read", whole),
        (part(Kind::KeyGet(key_get)), "else_operations[0].read", whole),
    ]
}

fn values() -> Vec<Row> {
    use v1::key_condition::Expect;

    let bounds = |floor, ceiling| Some(v1::Bounds { floor, ceiling });
    vec![
        (configure("a", Some(2), Some(1)), "bounds", "floor 2 is above ceiling 1"),
        (
            configure("a", Some(i64::MAX), Some(i64::MIN)),
            "bounds",
            "floor 9223372036854775807 is above ceiling -9223372036854775808",
        ),
        (add_with("a", 1, |add| add.bounds = bounds(Some(1), Some(0))), "bounds", "above ceiling"),
        (
            Request::CountersCompareAndSet(v1::CountersCompareAndSetRequest {
                name: "a".into(),
                ..Default::default()
            }),
            "expect",
            "is required",
        ),
        (
            compare_and_set(
                "a",
                v1::counters_compare_and_set_request::Expect::ExpectAbsent(false),
                1,
            ),
            "expect_absent",
            "must be true",
        ),
        (put("k", vec![0; 1024 * 1024 + 1]), "value", "at most 1048576 bytes, has 1048577"),
        (put("k", vec![0; 2 * 1024 * 1024 + 1]), "request", "at most 2097152 bytes"),
        (
            put_with("k", "x", |put| put.condition = Some(v1::KeyCondition::default())),
            "condition.expect",
            "is required",
        ),
        (
            put_with("k", "x", |put| put.condition = condition_on_key(Expect::Absent(false))),
            "condition.absent",
            "must be true",
        ),
        (
            key_delete("k", condition_on_key(Expect::Present(false))),
            "condition.present",
            "must be true",
        ),
        (
            key_delete("k", condition_on_key(Expect::Value(vec![0; 1024 * 1024 + 1].into()))),
            "condition.value",
            "at most 1048576 bytes, has 1048577",
        ),
        (
            Request::SessionsOpen(v1::SessionsOpenRequest { idle_timeout_ms: 9_999 }),
            "idle_timeout_ms",
            "10000 to 86400000",
        ),
        (
            Request::SessionsOpen(v1::SessionsOpenRequest { idle_timeout_ms: u64::MAX }),
            "idle_timeout_ms",
            "10000 to 86400000",
        ),
        (Request::ClusterRemove(v1::ClusterRemoveRequest::default()), "node_id", "above 0"),
        (
            Request::ClusterAddLearner(v1::ClusterAddLearnerRequest {
                node_id: 4,
                peer_address: "nowhere".into(),
                preview: false,
            }),
            "peer_address",
            "host:port",
        ),
    ]
}

fn steps() -> Vec<Row> {
    use v1::condition::{Target, Test};

    let many = |count| (0..count).map(|_| step_add("a", 1)).collect::<Vec<_>>();
    let one_condition = |target, test| {
        apply(|step| {
            step.operations = vec![step_add("a", 1)];
            step.conditions = vec![v1::Condition { target, test, comparison: 0 }];
        })
    };
    let counter = || Some(Target::Counter("a".into()));
    let key = || Some(Target::Key("a".into()));
    vec![
        (apply(|_| {}), "operations", "at least one"),
        (apply(|step| step.operations = many(129)), "operations", "at most 128, holds 129"),
        (apply(|step| step.else_operations = many(129)), "else_operations", "at most 128"),
        (
            apply(|step| {
                step.operations = many(1);
                let exists = || condition_on_counter("a", Test::Exists(true));
                step.conditions = (0..129).map(|_| exists()).collect();
            }),
            "conditions",
            "at most 128, holds 129",
        ),
        (
            apply(|step| step.operations = vec![step_add("a", 1), v1::Operation::default()]),
            "operations[1].kind",
            "is required",
        ),
        (
            apply(|step| step.operations = vec![step_add("a", 1), step_add("", 1)]),
            "operations[1].name",
            "1 to 512 bytes",
        ),
        (one_condition(None, Some(Test::Exists(true))), "conditions[0].target", "is required"),
        (one_condition(counter(), None), "conditions[0].test", "is required"),
        (
            one_condition(key(), Some(Test::CounterValue(1))),
            "conditions[0].counter_value",
            "the target is a key",
        ),
        (
            one_condition(counter(), Some(Test::KeyValue("x".into()))),
            "conditions[0].key_value",
            "the target is a counter",
        ),
    ]
}

fn options() -> Vec<Row> {
    let with = |options| add_with("a", 1, |add| add.options = Some(options));
    vec![
        (
            with(v1::WriteOptions { session: Some(stamp(1, 0)), ..Default::default() }),
            "options.session.sequence",
            "begin at 1",
        ),
        (
            with(v1::WriteOptions { idempotency_key: Some(String::new()), ..Default::default() }),
            "options.idempotency_key",
            "is empty",
        ),
        (
            with(v1::WriteOptions { idempotency_key: Some("k".repeat(129)), ..Default::default() }),
            "options.idempotency_key",
            "at most 128 bytes, has 129",
        ),
        (
            with(v1::WriteOptions {
                idempotency_key: Some("k".into()),
                idempotency_window_ms: 59_999,
                ..Default::default()
            }),
            "options.idempotency_window_ms",
            "at least 60000",
        ),
        (
            with(v1::WriteOptions { idempotency_window_ms: 60_000, ..Default::default() }),
            "options.idempotency_window_ms",
            "without",
        ),
    ]
}

fn reads() -> Vec<Row> {
    let read = |change: fn(&mut v1::ReadOptions)| {
        let mut options = v1::ReadOptions::default();
        change(&mut options);
        get_at("a", Some(options))
    };
    let batch = |names: Vec<String>| {
        Request::CountersBatchGet(v1::CountersBatchGetRequest { names, read: None })
    };
    let batch_keys =
        |keys: Vec<String>| Request::KeysBatchGet(v1::KeysBatchGetRequest { keys, read: None });
    vec![
        (get(""), "name", "1 to 512 bytes"),
        (key_get(&"k".repeat(513)), "key", "1 to 512 bytes"),
        (read(|read| read.level = UNKNOWN), "read.level", "77 is not a value"),
        (read(|read| read.level = i32::MIN), "read.level", "is not a value"),
        (get_at("a", bounded(0, false)), "read.max_staleness_ms", "above 0"),
        (read(|read| read.max_staleness_ms = 1), "read.max_staleness_ms", "needs level BOUNDED"),
        (read(|read| read.allow_fallback = true), "read.allow_fallback", "needs level BOUNDED"),
        (
            read(|read| read.session_token = "token".into()),
            "read.session_token",
            "needs level SESSION",
        ),
        (read(|read| read.wait_ms = 5), "read.wait_ms", "needs level SESSION"),
        (get_at("a", with_token("nonsense", 0)), "read.session_token", "is not a session token"),
        (get_at("a", with_token("", 0)), "read.session_token", "is not a session token"),
        (batch(vec![]), "names", "1 to 128 names, holds 0"),
        (batch(vec!["a".into(); 129]), "names", "1 to 128 names, holds 129"),
        (batch(vec!["a".into(), String::new()]), "names[1]", "1 to 512 bytes"),
        (batch_keys(vec![]), "keys", "holds 0"),
        (batch_keys(vec!["a".into(); 129]), "keys", "holds 129"),
    ]
}

fn pages() -> Vec<Row> {
    let long = "p".repeat(513);
    let mut rows = Vec::new();
    for size in [-1, i32::MIN, 1001, i32::MAX] {
        rows.push((list("", size, ""), "page_size", "0 to 1000"));
        rows.push((scan(|scan| scan.page_size = size), "page_size", "0 to 1000"));
    }
    for token in ["x", "zz", "00", "0101", "ÿ", &"f".repeat(64)] {
        let token = token.to_owned();
        rows.push((list("", 0, &token), "page_token", "is not a page token"));
        rows.push((scan(|scan| scan.page_token = token), "page_token", "is not a page token"));
    }
    rows.push((list(&long, 0, ""), "prefix", "at most 512 bytes, has 513"));
    rows.push((scan(|scan| scan.prefix.clone_from(&long)), "prefix", "at most 512 bytes"));
    rows.push((scan(|scan| scan.start.clone_from(&long)), "start", "at most 512 bytes"));
    rows.push((scan(|scan| scan.end.clone_from(&long)), "end", "at most 512 bytes"));
    rows
}

#[tokio::test]
async fn the_limits_themselves_are_allowed() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let name = "n".repeat(512);
    let many = |count| (0..count).map(|_| step_add("many", 1)).collect::<Vec<_>>();
    for request in [
        add(&name, i64::MAX),
        add(&name, -i64::MAX),
        add(&name, i64::MIN),
        set(&name, i64::MAX),
        configure("unbounded", Some(i64::MIN), Some(i64::MAX)),
        put(&name, vec![7; 1024 * 1024]),
        put("empty", ""),
        key_get(&name),
        apply(|step| step.operations = many(128)),
        list(&name, 1000, ""),
        Request::CountersBatchGet(v1::CountersBatchGetRequest {
            names: vec!["many".into(); 128],
            read: None,
        }),
        get_at("many", bounded(u64::MAX, false)),
        add_with("many", 1, |add| add.options = under_key(&"k".repeat(128))),
    ] {
        let what = format!("{:.100}", format!("{request:?}"));
        if let Err(status) = unary(&channel, request).await {
            panic!("{what}: {status}");
        }
    }
    let read = answer!(CountersGet, unary(&channel, get("many")).await.expect("it is there"));
    assert_eq!(read.counter.expect("it is there").value, 129);
}

#[tokio::test]
async fn a_batch_above_the_cap_is_refused_and_names_it() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let keys: Vec<String> = (0..4).map(|n| format!("large-{n}")).collect();
    for key in &keys {
        unary(&channel, put(key, vec![1; 1024 * 1024])).await.expect("it is stored");
    }
    let request = Request::KeysBatchGet(v1::KeysBatchGetRequest { keys, read: None });
    let failure = fails_both_ways(&channel, request).await;
    assert_eq!(failure.row(), (Code::InvalidArgument, reason::ANSWER_TOO_LARGE, None));
    assert_named(&failure.details.fields, "keys", "3145728", "the batch");
}
