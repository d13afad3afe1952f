//! The audit log, over the wire: who, from where, what, what was decided and what came of it; once in a cluster, and
//! nothing that is a secret.

use std::{path::PathBuf, time::Duration};

use serde_json::Value;
use tally_client::{
    Client, Transport,
    apply::{Compare, Condition, Operation},
    reason,
};
use tally_node::config::Config;
use tally_proto::v1::{
    self, AuthPermission, AuthRole, AuthRule, AuthScope, auth_change_request::Change,
    cluster_client::ClusterClient, counters_client::CountersClient,
};
use tonic::Request;

use crate::{
    auth::{change, client, secure_with, token, user},
    cluster::{Cluster, eventually},
    raw::raw,
};

/// A folder with the audit log of each node.
pub(crate) struct Logs(tempfile::TempDir);

impl Logs {
    pub(crate) fn new() -> Logs {
        Logs(tempfile::tempdir().unwrap())
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.0.path().join("audit")
    }

    pub(crate) fn keep(&self, config: &mut Config) {
        std::fs::create_dir_all(self.folder()).unwrap();
        config.audit_log_file = self.path(config.node_id);
    }

    fn path(&self, id: u64) -> PathBuf {
        self.folder().join(format!("node-{id}.log"))
    }

    pub(crate) fn text(&self, id: u64) -> String {
        std::fs::read_to_string(self.path(id)).unwrap_or_default()
    }

    pub(crate) fn lines(&self, id: u64) -> Vec<Value> {
        // The last may just be written.
        let text = self.text(id);
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        whole.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// The only line of a node's log of which this holds.
    pub(crate) async fn only(&self, id: u64, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || self.lines(id).iter().any(&is_it)).await;
        let mut found: Vec<Value> = self.lines(id).into_iter().filter(is_it).collect();
        assert_eq!(found.len(), 1, "{what}: {found:#?}");
        found.remove(0)
    }

    /// … that is about this counter.
    pub(crate) async fn about(&self, id: u64, counter: &str) -> Value {
        self.only(id, counter, |line| line["operations"][0]["counter"] == counter).await
    }
}

pub(crate) fn assert_fields(line: &Value, fields: &[(&str, Value)]) {
    for (field, value) in fields {
        assert_eq!(&line[*field], value, "{field} of {line:#}");
    }
}

const READ: &[AuthPermission] = &[AuthPermission::Read];
const SPEND: &[AuthPermission] = &[AuthPermission::Decrease];

/// A client that tries each call once.
pub(crate) fn once(cluster: &Cluster, id: u64, token: &str, transport: Transport) -> Client {
    let builder = Client::builder([cluster.client_address(id)]).transport(transport).one_shot();
    let builder = if token.is_empty() { builder } else { builder.bearer_token(token) };
    builder.deadline(Duration::from_secs(5)).build().unwrap()
}

#[tokio::test]
async fn a_line_says_who_did_what_and_what_came_of_it_and_has_no_secret() {
    let logs = Logs::new();
    let (cluster, first) = secure_with(1, |config| logs.keep(config)).await;
    let admin = client(&cluster, &[1], &first);
    let shop = user(&admin, "shop", &[(AuthScope::Counters, "stock/", SPEND)]).await;
    let shop_id = shop.split('_').nth(1).unwrap().parse::<u64>().unwrap();
    for (transport, way) in [(Transport::Stream, "stream"), (Transport::Unary, "unary")] {
        let (admin, shop) =
            (once(&cluster, 1, &first, transport), once(&cluster, 1, &shop, transport));
        let name = |what: &str| format!("stock/{way}/{what}");
        admin.counter(name("made")).add(424_242).await.unwrap();
        let line = logs.about(1, &name("made")).await;
        assert_fields(
            &line,
            &[
                ("v", 1.into()),
                ("kind", "request".into()),
                ("node", 1.into()),
                ("method", "tally.v1.Counters/Add".into()),
                ("from", "127.0.0.1".into()),
                ("user", "admin".into()),
                ("how", "token".into()),
                ("decision", "allowed".into()),
                ("code", "OK".into()),
                ("outcome", "APPLIED".into()),
                ("replayed", false.into()),
                ("forwarded_to", Value::Null),
            ],
        );
        assert_eq!(line["operations"][0]["op"], "increase");
        assert!(line["revision"].as_u64().unwrap() > 0 && line["took_us"].as_u64().is_some());
        assert!(!line["request_id"].as_str().unwrap().is_empty());
        assert_eq!(line["stream"].is_null(), transport == Transport::Unary, "{line}");

        // Twice under one key: the second is an answer to the first.
        let key = format!("order-{way}");
        for replayed in [false, true] {
            let write = admin.counter(name("keyed")).add(1).idempotency_key(&key);
            assert_eq!(write.await.unwrap().write.replayed, replayed);
        }
        let is_keyed = |line: &Value| line["operations"][0]["counter"] == name("keyed");
        eventually("both lines", || {
            logs.lines(1).iter().filter(|line| is_keyed(line)).count() == 2
        })
        .await;
        let keyed: Vec<Value> = logs.lines(1).into_iter().filter(is_keyed).collect();
        assert_fields(&keyed[0], &[("replayed", false.into()), ("outcome", "APPLIED".into())]);
        assert_fields(&keyed[1], &[("replayed", true.into()), ("outcome", "APPLIED".into())]);
        assert_eq!(keyed[0]["revision"], keyed[1]["revision"]);
        assert_eq!(keyed[0]["idempotency_key_sha256"], keyed[1]["idempotency_key_sha256"]);
        assert_eq!(keyed[0]["idempotency_key_sha256"].as_str().unwrap().len(), 32);

        // Refused by a bound, which says nothing of the value.
        let refused = admin.counter(name("bound")).add(-7).floor(0).await.expect_err("below");
        assert_eq!(refused.reason(), reason::BELOW_FLOOR);
        let line = logs.about(1, &name("bound")).await;
        assert_fields(
            &line,
            &[
                ("decision", "allowed".into()),
                ("code", "FAILED_PRECONDITION".into()),
                ("reason", reason::BELOW_FLOOR.into()),
                ("outcome", "NOT_APPLIED".into()),
                ("why", Value::Null),
            ],
        );

        // Refused for who asks: a write, and a read, which is not recorded otherwise.
        shop.counter(name("made")).set(1).await.expect_err("it may only spend");
        shop.counter(name("seen")).get().await.expect_err("it may not look");
        admin.counter(name("made")).get().await.unwrap();
        let made = name("made");
        let set = |line: &Value| {
            line["method"] == "tally.v1.Counters/Set" && line["operations"][0]["counter"] == made
        };
        let line = logs.only(1, "the set", set).await;
        assert_fields(
            &line,
            &[
                ("user", "shop".into()),
                ("token", shop_id.into()),
                ("decision", "PERMISSION_DENIED".into()),
                ("code", "PERMISSION_DENIED".into()),
                ("outcome", "NOT_APPLIED".into()),
                ("why", format!("user \"shop\" lacks write on counter {made:?}").into()),
            ],
        );
        let line = logs.about(1, &name("seen")).await;
        assert_fields(&line, &[("decision", "PERMISSION_DENIED".into()), ("outcome", Value::Null)]);

        // Wrong by itself: nothing was decided about who asks.
        admin.counter("x".repeat(600)).add(1).await.expect_err("too long");
        admin.keys().put(name("key"), "s3cret-value").await.unwrap();
    }
    let wrong = |line: &&Value| line["code"] == "INVALID_ARGUMENT";
    eventually("both", || logs.lines(1).iter().filter(wrong).count() == 2).await;
    let lines = logs.lines(1);
    let wrong = lines.iter().find(wrong).unwrap();
    assert_fields(wrong, &[("decision", "undecided".into()), ("field", "name".into())]);
    assert!(wrong["operations"][0]["counter"].as_str().unwrap().ends_with("x…"));
    assert!(
        !lines
            .iter()
            .any(|line| line["method"] == "tally.v1.Counters/Get" && line["decision"] == "allowed")
    );

    let text = logs.text(1);
    for secret in ["424242", "s3cret-value", "order-stream", "order-unary", &first, &shop] {
        assert!(!text.contains(secret), "{secret} is in the log");
    }
    let secret_part = first.rsplit('_').next().unwrap();
    assert!(!text.contains(secret_part));
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(logs.path(1)).unwrap());
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn reads_are_recorded_where_that_is_asked_for() {
    let logs = Logs::new();
    let keep = |config: &mut Config| {
        logs.keep(config);
        config.audit_log_reads = true;
    };
    let cluster = Cluster::start_with(1, keep).await;
    let client = client(&cluster, &[1], "");
    client.counter("a").add(1).await.unwrap();
    client.counter("a").get().await.unwrap();
    client.counter("gone").get().await.expect_err("there is none");
    let found = |line: &Value| {
        line["method"] == "tally.v1.Counters/Get" && line["operations"][0]["counter"] == "a"
    };
    let line = logs.only(1, "the read", found).await;
    assert_fields(
        &line,
        &[("how", "anonymous".into()), ("decision", "allowed".into()), ("code", "OK".into())],
    );
    let line = logs.about(1, "gone").await;
    assert_fields(
        &line,
        &[("decision", "allowed".into()), ("reason", reason::COUNTER_NOT_FOUND.into())],
    );
}

#[tokio::test]
async fn of_an_atomic_step_the_part_that_was_refused_is_named_however_long_it_is() {
    let logs = Logs::new();
    let (cluster, first) = secure_with(1, |config| logs.keep(config)).await;
    let admin = client(&cluster, &[1], &first);
    let rules: &[(AuthScope, &str, &[AuthPermission])] =
        &[(AuthScope::Counters, "mine/", &[AuthPermission::Increase, AuthPermission::Read])];
    let mine = user(&admin, "mine", rules).await;
    let long = |number: usize| format!("mine/{number:03}/{}", "\u{1b}".repeat(490));
    for transport in [Transport::Stream, Transport::Unary] {
        let mine = once(&cluster, 1, &mine, transport);
        // All may be done but the 100th.
        let mut step = mine.apply();
        for number in 0..128 {
            step = match number {
                100 => step.then(Operation::counter_set(long(100), 5)),
                number => step.then(Operation::counter_add(long(number), 1)),
            };
        }
        let refused = step.await.expect_err("one may not be done");
        assert_eq!(refused.reason(), reason::PERMISSION_DENIED, "{refused}");
    }
    let is_step = |line: &&Value| line["method"] == "tally.v1.Transactions/Apply";
    eventually("both", || logs.lines(1).iter().filter(is_step).count() == 2).await;
    for line in logs.lines(1).iter().filter(is_step) {
        let listed = line["operations"].as_array().unwrap().len() as u64;
        assert_eq!(listed + line["operations_left_out"].as_u64().unwrap(), 128);
        assert!((1..100).contains(&listed), "bounded: {listed}");
        let refused = &line["refused"][0];
        assert_fields(
            refused,
            &[
                ("in", "operations".into()),
                ("index", 100.into()),
                ("op", "set".into()),
                ("counter", long(100).into()),
            ],
        );
        assert_fields(
            line,
            &[("decision", "PERMISSION_DENIED".into()), ("outcome", "NOT_APPLIED".into())],
        );
    }
    // One that is refused for what is stored.
    let step = admin.apply().when(Condition::counter_value("a", Compare::Equal, 3));
    step.then(Operation::counter_add("b", 1)).await.expect_err("a is missing");
    let line = logs.only(1, "the step", |line| line["reason"] == reason::CONDITION_FAILED).await;
    assert_fields(
        &line["refused"][0],
        &[("in", "conditions".into()), ("index", 0.into()), ("counter", "a".into())],
    );
    assert_eq!(line["conditions"][0]["op"], "check");
}

#[tokio::test]
async fn a_forwarded_write_is_recorded_once_by_the_node_that_its_client_asked() {
    let logs = Logs::new();
    let (cluster, first) = secure_with(3, |config| logs.keep(config)).await;
    let admin = client(&cluster, &[1, 2, 3], &first);
    let spends = user(&admin, "spends", &[(AuthScope::Counters, "stock/", SPEND)]).await;
    cluster.caught_up().await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    for (transport, way) in [(Transport::Stream, "stream"), (Transport::Unary, "unary")] {
        let name = |what: &str| format!("stock/{way}/{what}");
        let admin = once(&cluster, follower, &first, transport);
        admin.counter(name("allowed")).add(1).await.unwrap();
        let spends = once(&cluster, follower, &spends, transport);
        spends.counter(name("denied")).add(1).await.expect_err("it may only spend");
        let line = logs.about(follower, &name("allowed")).await;
        assert_fields(
            &line,
            &[
                ("node", follower.into()),
                ("forwarded_to", leader.into()),
                ("outcome", "APPLIED".into()),
            ],
        );
        let line = logs.about(follower, &name("denied")).await;
        assert_fields(
            &line,
            &[
                ("forwarded_to", leader.into()),
                ("user", "spends".into()),
                ("decision", "PERMISSION_DENIED".into()),
                ("outcome", "NOT_APPLIED".into()),
            ],
        );
        // Lines come in their order: what the others recorded before this, they have recorded by then.
        for other in cluster.ids().into_iter().filter(|id| *id != follower) {
            let marker = format!("marker/{way}/{other}");
            once(&cluster, other, &first, transport).counter(&marker).add(1).await.unwrap();
            logs.about(other, &marker).await;
            for what in ["allowed", "denied"] {
                assert!(!logs.text(other).contains(&name(what)), "node {other} has it, too");
            }
        }
    }
}

#[tokio::test]
async fn failed_logins_say_what_was_shown_and_never_the_secret() {
    let logs = Logs::new();
    let (cluster, first) = secure_with(1, |config| logs.keep(config)).await;
    let admin = client(&cluster, &[1], &first);
    let (revoked_id, revoked) = token(&admin, "admin", 0).await;
    let (over_id, over) = token(&admin, "admin", 1).await;
    change(&admin, Change::RevokeToken(revoked_id)).await;
    let id = first.split('_').nth(1).unwrap().parse::<u64>().unwrap();
    let wrong = format!("tally_{id}_{}", "0".repeat(64));
    for (shown, token, why) in [
        ("nonsense", Value::Null, "no token of Tally's"),
        (&*wrong, id.into(), "unknown, or was revoked"),
        (&*revoked, revoked_id.into(), "unknown, or was revoked"),
        (&*over, over_id.into(), "its token or certificate is over"),
    ] {
        for transport in [Transport::Stream, Transport::Unary] {
            let name = format!("try/{}/{transport:?}", &shown[..8.min(shown.len())]);
            let name = format!("{name}/{why}");
            let client = once(&cluster, 1, shown, transport);
            client.counter(&name).get().await.expect_err("it is not known");
            let line = logs.about(1, &name).await;
            assert_fields(
                &line,
                &[
                    ("how", "unknown".into()),
                    ("user", Value::Null),
                    ("token", token.clone()),
                    ("from", "127.0.0.1".into()),
                    ("decision", "UNAUTHENTICATED".into()),
                    ("code", "UNAUTHENTICATED".into()),
                ],
            );
            assert!(line["why"].as_str().unwrap().contains(why), "{line}");
        }
    }
    let text = logs.text(1);
    for secret in [&first, &revoked, &over, &wrong] {
        assert!(!text.contains(secret.rsplit('_').next().unwrap()));
    }
}

#[tokio::test]
async fn changes_of_users_and_of_the_cluster_say_what_was_given_to_whom() {
    let logs = Logs::new();
    let (cluster, first) = secure_with(1, |config| logs.keep(config)).await;
    let admin = client(&cluster, &[1], &first);
    let role = AuthRole {
        name: "reader".into(),
        rules: vec![AuthRule {
            scope: AuthScope::Keys as i32,
            prefix: "cart/".into(),
            permissions: READ.iter().map(|permission| *permission as i32).collect(),
        }],
        monitor: true,
        ..AuthRole::default()
    };
    change(&admin, Change::PutRole(role.clone())).await;
    let tried = v1::AuthChangeRequest { change: Some(Change::PutRole(role)), dry_run: true };
    admin.auth_change(tried).await.unwrap();
    let (id, _) = token(&admin, "admin", 5000).await;
    change(&admin, Change::RevokeToken(id)).await;
    let mut request = Request::new(v1::ClusterRemoveRequest { node_id: 9, ..Default::default() });
    let bearer = format!("Bearer {first}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    ClusterClient::new(cluster.channel(1)).remove(request).await.expect_err("there is none");

    let op = |op: &'static str, dry_run: bool| {
        move |line: &Value| {
            line["operations"][0]["op"] == op && line["dry_run"].is_null() != dry_run
        }
    };
    let line = logs.only(1, "a role", op("put_role", false)).await;
    assert_fields(
        &line,
        &[
            ("method", "tally.v1.Auth/Change".into()),
            ("outcome", "APPLIED".into()),
            ("admin", false.into()),
            ("monitor", true.into()),
        ],
    );
    assert_eq!(
        line["rules"],
        serde_json::json!([{"on": "KEYS", "prefix": "cart/", "permissions": "READ"}])
    );
    let line = logs.only(1, "what was only tried", op("put_role", true)).await;
    assert_fields(&line, &[("outcome", "NOT_APPLIED".into()), ("code", "OK".into())]);
    let line = logs.only(1, "a token", op("create_token", false)).await;
    assert_fields(&line, &[("made_token", id.into()), ("user", "admin".into())]);
    assert_fields(
        &line["operations"][0],
        &[("lifetime_ms", 5000.into()), ("user", "admin".into())],
    );
    let line = logs.only(1, "its end", op("revoke_token", false)).await;
    assert_eq!(line["operations"][0]["token"], id);
    let line = logs.only(1, "a member", op("remove", false)).await;
    assert_fields(
        &line,
        &[
            ("method", "tally.v1.Cluster/Remove".into()),
            ("outcome", "NOT_APPLIED".into()),
            ("reason", reason::MEMBERSHIP_REFUSED.into()),
        ],
    );
}

#[tokio::test]
async fn whatever_clients_choose_as_names_stays_in_its_line() {
    let logs = Logs::new();
    let cluster = Cluster::start_with(1, |config| logs.keep(config)).await;
    let nasty =
        "a\n{\"v\":1,\"kind\":\"request\",\"user\":\"forged\"}\n\u{1b}[2J\u{9b}\u{2028}\"\\";
    let client = client(&cluster, &[1], "");
    client.counter(nasty).add(1).await.unwrap();
    client.keys().put(nasty, "v").await.unwrap();
    let mut raw = CountersClient::new(cluster.channel(1));
    let mut request =
        Request::new(v1::CountersAddRequest { name: nasty.into(), ..Default::default() });
    request.metadata_mut().insert("x-request-id", "mine \"quoted\"\\".parse().unwrap());
    raw.add(request).await.unwrap();
    let line = logs.only(1, "by its id", |line| line["request_id"] == "mine \"quoted\"\\").await;
    assert_eq!(line["operations"][0]["counter"], nasty);
    logs.only(1, "the key", |line| line["operations"][0]["key"] == nasty).await;
    assert!(logs.lines(1).iter().all(|line| line["user"] != "forged"));
    assert!(!logs.text(1).contains(|char: char| char.is_control() && char != '\n'));
}

#[tokio::test]
async fn streams_have_an_opening_and_an_end_and_what_is_no_request_has_a_line() {
    let logs = Logs::new();
    let (cluster, first) = secure_with(1, |config| logs.keep(config)).await;
    let admin = client(&cluster, &[1], &first);
    for number in 0..3 {
        admin.counter(format!("s/{number}")).add(1).await.unwrap();
    }
    let line = logs.about(1, "s/0").await;
    let stream = line["stream"].as_u64().expect("it came on a stream");
    drop(admin);
    let is_of = |kind: &'static str| {
        move |line: &Value| line["kind"] == kind && line["stream"].as_u64() == Some(stream)
    };
    let open = logs.only(1, "the opening", is_of("stream_open")).await;
    assert_fields(&open, &[("from", "127.0.0.1".into())]);
    assert!(open["token"].as_u64().is_some());
    let close = logs.only(1, "the end", is_of("stream_close")).await;
    // The three, and the opening of the session with which they came.
    assert!(close["requests"].as_u64().unwrap() >= 3, "{close}");
    let of_it = logs.lines(1).into_iter();
    let of_it = of_it.filter(|line| line["kind"] == "request" && line["stream"] == stream).count();
    assert!(of_it as u64 <= close["requests"].as_u64().unwrap());

    // A method that there is not, and bytes that are no message.
    let channel = cluster.channel(1);
    for (path, code) in [
        ("/tally.v1.Counters/Nothing", "UNIMPLEMENTED"),
        ("/tally.v1.Counters/Add", "INVALID_ARGUMENT"),
    ] {
        raw(&channel, path, b"\xff\xff\xff").await.expect_err("it is no request");
        let line = logs.only(1, path, |line| line["method"] == path[1..] && line["code"] == code);
        assert_fields(
            &line.await,
            &[("decision", "undecided".into()), ("outcome", "NOT_APPLIED".into())],
        );
    }
}
