//! Who may do what, over the wire: every path by which something is asked for or told.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use tally_client::{Client, Transport, apply::Operation, reason};
use tally_node::config::Config;
use tally_proto::v1::{
    self, AuthChangeRequest, AuthCreateToken, AuthPermission, AuthRole, AuthRule, AuthScope,
    AuthUser, auth_change_request::Change,
};
use tonic::{Code, Request, Status};

use crate::cluster::{Cluster, eventually};

pub(super) const ALL: &[AuthPermission] = &[
    AuthPermission::Read,
    AuthPermission::Increase,
    AuthPermission::Decrease,
    AuthPermission::Write,
    AuthPermission::Configure,
];

/// A cluster that asks who calls, and its first token.
pub(crate) async fn secure(size: u64) -> (Cluster, String) {
    secure_with(size, |_| {}).await
}

pub(super) async fn secure_with(size: u64, also: impl Fn(&mut Config)) -> (Cluster, String) {
    let change = |config: &mut Config| {
        config.authentication = true;
        also(config);
    };
    let cluster = Cluster::start_with(size, change).await;
    let found = || {
        // Theirs alone who run the node.
        for file in cluster.ids().into_iter().map(|id| cluster.data_dir(id).join("admin-token")) {
            if let Ok(about) = std::fs::metadata(&file) {
                assert_eq!(about.permissions().mode() & 0o777, 0o600, "{}", file.display());
            }
        }
        let files = cluster.ids().into_iter().map(|id| cluster.data_dir(id).join("admin-token"));
        let tokens: Vec<String> =
            files.filter_map(|file| std::fs::read_to_string(file).ok()).collect();
        (tokens.len() == 1).then(|| tokens[0].trim().to_owned())
    };
    eventually("one node has the first token", || found().is_some()).await;
    let token = found().expect("it was there");
    (cluster, token)
}

pub(crate) fn client(cluster: &Cluster, ids: &[u64], token: &str) -> Client {
    let endpoints: Vec<String> = ids.iter().map(|id| cluster.client_address(*id)).collect();
    let builder = Client::builder(endpoints).deadline(Duration::from_secs(8));
    let builder = if token.is_empty() { builder } else { builder.bearer_token(token) };
    builder.build().expect("a client")
}

pub(super) async fn change(admin: &Client, change: Change) -> v1::AuthChangeResponse {
    let request = AuthChangeRequest { change: Some(change), dry_run: false };
    admin.auth_change(request).await.expect("an admin may")
}

/// A user with one role that has these rules; its token.
pub(super) async fn user(
    admin: &Client,
    name: &str,
    rules: &[(AuthScope, &str, &[AuthPermission])],
) -> String {
    let rule = |(scope, prefix, permissions): &(AuthScope, &str, &[AuthPermission])| AuthRule {
        scope: *scope as i32,
        prefix: (*prefix).to_owned(),
        permissions: permissions.iter().map(|permission| *permission as i32).collect(),
    };
    let role = AuthRole {
        name: name.to_owned(),
        rules: rules.iter().map(rule).collect(),
        ..AuthRole::default()
    };
    change(admin, Change::PutRole(role)).await;
    let put = AuthUser { name: name.to_owned(), roles: vec![name.to_owned()] };
    change(admin, Change::PutUser(put)).await;
    token(admin, name, 0).await.1
}

pub(crate) async fn token(admin: &Client, user: &str, lifetime_ms: u64) -> (u64, String) {
    let user = user.to_owned();
    let create = AuthCreateToken { user, label: String::new(), lifetime_ms };
    let made = change(admin, Change::CreateToken(create)).await;
    (made.id, made.token)
}

pub(crate) fn assert_denied<T: std::fmt::Debug>(result: tally_client::Result<T>, what: &str) {
    let error = result.expect_err(what);
    assert_eq!(error.reason(), reason::PERMISSION_DENIED, "{what}: {error}");
    assert_eq!(error.code(), tally_client::Code::PermissionDenied, "{what}");
    if let Some(outcome) = error.outcome() {
        assert_eq!(outcome, tally_client::Outcome::NotApplied, "{what}");
    }
}

/// With no token, a wrong one, one that was revoked or is over: every service of the client port.
#[tokio::test]
async fn who_shows_nothing_that_counts_is_told_nothing() {
    let (cluster, first) = secure(1).await;
    let admin = client(&cluster, &[1], &first);
    admin.counter("secret").add(5).await.unwrap();
    let (revoked_id, revoked) = token(&admin, "admin", 0).await;
    let over = token(&admin, "admin", 1).await.1;
    let (soon_id, soon) = token(&admin, "admin", 0).await;
    let lives = client(&cluster, &[1], &soon);
    lives.counter("secret").add(1).await.unwrap();
    change(&admin, Change::RevokeToken(revoked_id)).await;
    let wrong =
        first.replace(&first[10..14], if &first[10..14] == "0000" { "1111" } else { "0000" });
    let other_id = first.replace("tally_2_", "tally_1_");
    for token in ["", "nonsense", "tally_2_00", &wrong, &other_id, &revoked, &over] {
        for transport in [Transport::Stream, Transport::Unary] {
            let endpoint = [cluster.client_address(1)];
            let builder = Client::builder(endpoint).transport(transport).one_shot();
            let builder = if token.is_empty() { builder } else { builder.bearer_token(token) };
            let client = builder.deadline(Duration::from_secs(4)).build().unwrap();
            let mut errors = vec![
                client.counter("secret").get().await.err(),
                client.counter("none").get().await.err(),
                client.counter("secret").add(1).await.err(),
                client.keys().put("k", "v").await.err(),
                client.status().await.err(),
                client.auth_list().await.err(),
                client.auth_can(v1::AuthCanRequest::default()).await.err(),
            ];
            let disable = Some(Change::Disable(v1::AuthDisable {}));
            let request = AuthChangeRequest { change: disable, dry_run: false };
            errors.push(client.auth_change(request).await.err());
            for (at, error) in errors.into_iter().enumerate() {
                let error = error.unwrap_or_else(|| panic!("{token:?} got an answer to {at}"));
                assert_eq!(error.reason(), reason::UNAUTHENTICATED, "{token:?}, {at}: {error}");
                assert!(!error.message().contains('5'), "{error}");
            }
        }
    }
    // A stream that is open learns of it with the next call.
    change(&admin, Change::RevokeToken(soon_id)).await;
    let write = lives.counter("secret").add(1).await.expect_err("it was revoked");
    assert_eq!(write.reason(), reason::UNAUTHENTICATED, "{write}");
    let read = lives.counter("secret").get().await.expect_err("it was revoked");
    assert_eq!(read.reason(), reason::UNAUTHENTICATED, "{read}");
    assert_eq!(admin.counter("secret").get().await.unwrap().value, 6);
}

/// At the leader and forwarded by a follower alike: the leader decides for the caller.
#[tokio::test]
async fn a_right_is_a_prefix_of_counters_or_keys_at_every_node() {
    let (cluster, first) = secure(3).await;
    let admin = client(&cluster, &[1, 2, 3], &first);
    for name in ["own/a", "own/b", "other/a"] {
        admin.counter(name).set(10).await.unwrap();
        admin.keys().put(name, "v").await.unwrap();
    }
    let rules = [(AuthScope::Counters, "own/", ALL), (AuthScope::Keys, "own/", ALL)];
    let token = user(&admin, "owner", &rules).await;
    cluster.caught_up().await;
    for id in cluster.ids() {
        let owner = client(&cluster, &[id], &token);
        owner.counter("own/a").add(1).await.unwrap();
        owner.keys().put("own/a", "w").await.unwrap();
        assert_eq!(owner.counter("own/b").get().await.unwrap().value, 10);
        for name in ["other/a", "own", "none"] {
            assert_denied(owner.counter(name).add(1).await, "add");
            assert_denied(owner.counter(name).set(1).await, "set");
            assert_denied(owner.counter(name).delete().await, "delete");
            assert_denied(owner.counter(name).get().await, "get");
            assert_denied(owner.keys().put(name, "x").await, "put");
            assert_denied(owner.keys().get(name).await, "get of a key");
            assert_denied(owner.keys().delete(name).await, "delete of a key");
            assert_denied(owner.counters().batch_get(["own/a", name]).await, "one of a batch");
            assert_denied(owner.keys().batch_get(["own/a", name]).await, "one of a batch of keys");
            let add = Operation::counter_add;
            let step = owner.apply().then(add("own/a", 1)).then(add(name, 1));
            assert_denied(step.await, "one of a step");
        }
        // A list must be allowed whole.
        assert_eq!(owner.counters().list().prefix("own/").await.unwrap().items.len(), 2);
        assert_eq!(owner.keys().scan().prefix("own/a").await.unwrap().items.len(), 1);
        for prefix in ["", "o", "own", "other/", "none"] {
            assert_denied(owner.counters().list().prefix(prefix).await, "list");
            assert_denied(owner.keys().scan().prefix(prefix).await, "scan");
        }
        let level = tally_client::ReadLevel::Local;
        assert_denied(owner.counter("other/a").get().level(level).await, "a LOCAL read");
        // Nodes, sessions, members, users.
        assert_denied(owner.status().await, "status");
        assert_denied(owner.list_sessions().await, "sessions");
        assert_denied(owner.auth_list().await, "users");
        let disable = Some(Change::Disable(v1::AuthDisable {}));
        for dry_run in [true, false] {
            let request = AuthChangeRequest { change: disable.clone(), dry_run };
            assert_denied(owner.auth_change(request).await, "a change of users");
        }
    }
    assert_eq!(admin.counter("other/a").get().await.unwrap().value, 10);
    assert_eq!(admin.counter("own/a").get().await.unwrap().value, 13);
}

/// Who changes the cluster is an admin; nobody else learns whether a member is there.
#[tokio::test]
async fn members_are_changed_by_admins_alone() {
    let (cluster, first) = secure(1).await;
    let admin = client(&cluster, &[1], &first);
    let owner = user(&admin, "owner", &[(AuthScope::Counters, "", ALL)]).await;
    let watcher = AuthRole { name: "watcher".into(), monitor: true, ..AuthRole::default() };
    change(&admin, Change::PutRole(watcher)).await;
    let put = AuthUser { name: "watcher".into(), roles: vec!["watcher".into()] };
    change(&admin, Change::PutUser(put)).await;
    let watcher = token(&admin, "watcher", 0).await.1;
    let mut cluster_client = v1::cluster_client::ClusterClient::new(cluster.channel(1));
    for (token, code) in [
        ("", Code::Unauthenticated),
        (&*owner, Code::PermissionDenied),
        (&*watcher, Code::PermissionDenied),
    ] {
        let mut told = Vec::new();
        for node_id in [1, 9] {
            macro_rules! refused {
                ($method:ident($request:expr)) => {{
                    let mut request = Request::new($request);
                    if !token.is_empty() {
                        let shown = format!("Bearer {token}").parse().unwrap();
                        request.metadata_mut().insert("authorization", shown);
                    }
                    let refused: Status = cluster_client.$method(request).await.unwrap_err();
                    assert_eq!(refused.code(), code, "{refused}");
                    told.push(refused.message().to_owned());
                }};
            }
            let peer_address = "127.0.0.1:1".to_owned();
            for preview in [false, true] {
                let peer_address = peer_address.clone();
                let accept_fewer_failures = true;
                refused!(add_learner(v1::ClusterAddLearnerRequest {
                    node_id,
                    peer_address,
                    preview
                }));
                refused!(promote(v1::ClusterPromoteRequest {
                    node_id,
                    preview,
                    accept_fewer_failures
                }));
                refused!(remove(v1::ClusterRemoveRequest {
                    node_id,
                    preview,
                    accept_fewer_failures
                }));
                refused!(transfer_leader(v1::ClusterTransferLeaderRequest { node_id, preview }));
                refused!(drain(v1::ClusterDrainRequest { node_id, undo: false, preview }));
            }
        }
        let (there, not_there) = told.split_at(told.len() / 2);
        assert_eq!(there, not_there, "a refusal tells who is a member");
        let mut claim = Request::new(v1::ClusterClaimNodeIdRequest { incarnation: "1".repeat(32) });
        if !token.is_empty() {
            claim
                .metadata_mut()
                .insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let refused: Status = cluster_client.claim_node_id(claim).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
    }
}

/// Not even by the limits that a leader guards before it proposes is somebody else told of a session.
#[tokio::test]
async fn a_session_of_another_user_is_none() {
    let (cluster, first) = secure(3).await;
    let admin = client(&cluster, &[1, 2, 3], &first);
    let owner = user(&admin, "owner", &[(AuthScope::Counters, "", ALL)]).await;
    let other = user(&admin, "other", &[(AuthScope::Counters, "", ALL)]).await;
    cluster.caught_up().await;
    let with = |token: &str, session_id, sequence| {
        let stamp = v1::SessionStamp { session_id, sequence, lowest_unanswered: 0 };
        let options = v1::WriteOptions { session: Some(stamp), ..Default::default() };
        let request = v1::CountersAddRequest {
            name: "a".into(),
            delta: 1,
            options: Some(options),
            ..Default::default()
        };
        let mut request = Request::new(request);
        let shown = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", shown);
        request
    };
    for id in cluster.ids() {
        let mut counters = v1::counters_client::CountersClient::new(cluster.channel(id));
        let mut open = Request::new(v1::SessionsOpenRequest::default());
        let shown = format!("Bearer {owner}").parse().unwrap();
        open.metadata_mut().insert("authorization", shown);
        let mut sessions = v1::sessions_client::SessionsClient::new(cluster.channel(id));
        let session = sessions.open(open).await.unwrap().into_inner().session_id;
        // Its watermark rises, and with it what numbers it takes.
        let far = 60_000;
        let mut raised = with(&owner, session, far);
        let stamp = raised.get_mut().options.as_mut().unwrap().session.as_mut().unwrap();
        stamp.lowest_unanswered = far;
        counters.add(raised).await.expect("its own");
        counters.add(with(&owner, session, far + 65_535)).await.expect("within its window");
        for sequence in [0, 1, 65_535, 65_536, far + 65_535, far + 65_536, u64::MAX] {
            let theirs = counters.add(with(&other, session, sequence)).await.unwrap_err();
            let none = counters.add(with(&other, 123_456, sequence)).await.unwrap_err();
            let words = |status: &Status, id: u64| status.message().replace(&id.to_string(), "ID");
            assert_eq!(theirs.code(), none.code(), "{sequence}: {theirs}, {none}");
            assert_eq!(words(&theirs, session), words(&none, 123_456), "{sequence}");
        }
    }
}

/// The leader decides for the caller that a follower names, by what it knows itself: neither for the follower, nor
/// by the rights that the caller has lost since.
#[tokio::test]
async fn a_change_of_the_cluster_that_is_forwarded_is_its_callers() {
    let (cluster, first) = secure(3).await;
    let admin = client(&cluster, &[1, 2, 3], &first);
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let owner = user(&admin, "owner", &[(AuthScope::Counters, "own/", ALL)]).await;
    let (other_id, other) = token(&admin, "admin", 0).await;
    let ask = async |at: u64, token: &str, preview: bool| {
        let mut asked = v1::cluster_client::ClusterClient::new(cluster.channel(at));
        let request = v1::ClusterTransferLeaderRequest { node_id: follower, preview };
        let mut request = Request::new(request);
        if !token.is_empty() {
            let bearer = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", bearer);
        }
        asked.transfer_leader(request).await.map(|answer| answer.into_inner().leader_id)
    };
    for at in [leader, follower] {
        for preview in [true, false] {
            let refused: Status = ask(at, &owner, preview).await.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
            assert!(refused.message().contains("\"owner\" lacks admin"), "{refused}");
            let refused: Status = ask(at, "", preview).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
        }
        assert_eq!(ask(at, &other, true).await.unwrap(), leader);
    }
    change(&admin, Change::RevokeToken(other_id)).await;
    let refused: Status = ask(follower, &other, true).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    assert_eq!(ask(follower, &first, false).await.unwrap(), follower);
}

/// A page token is bound to its query, and its caller needs the right with each page.
#[tokio::test]
async fn a_page_token_gives_no_right() {
    let (cluster, first) = secure(1).await;
    let admin = client(&cluster, &[1], &first);
    for name in ["a/1", "a/2", "b/1", "b/2"] {
        admin.counter(name).set(1).await.unwrap();
    }
    let rules: [(AuthScope, &str, &[AuthPermission]); 1] = [(AuthScope::Counters, "a/", ALL)];
    let owner = client(&cluster, &[1], &user(&admin, "owner", &rules).await);
    let own = owner.counters().list().prefix("a/").page_size(1).await.unwrap();
    let more = own.next_page_token.expect("there is more");
    let next = owner.counters().list().prefix("a/").page_size(1).page_token(more);
    assert_eq!(next.await.unwrap().items[0].name, "a/2");
    let theirs = admin
        .counters()
        .list()
        .prefix("b/")
        .page_size(1)
        .await
        .unwrap()
        .next_page_token
        .expect("more");
    assert_denied(owner.counters().list().prefix("b/").page_token(theirs.clone()).await, "theirs");
    let mixed = owner.counters().list().prefix("a/").page_token(theirs).await.expect_err("bound");
    assert_eq!(mixed.reason(), reason::INVALID_REQUEST);
}

/// A service that may spend stock, and neither refill nor see it.
#[tokio::test]
async fn who_may_not_read_gets_answers_without_values() {
    let (cluster, first) = secure(3).await;
    let admin = client(&cluster, &[1, 2, 3], &first);
    // A floor that no cluster id, request id or index happens to have among its digits.
    let floor = 123_456_789;
    admin.counter("stock").set(floor + 2).await.unwrap();
    admin.counter("stock").configure().floor(floor).await.unwrap();
    let spend: &[AuthPermission] = &[AuthPermission::Decrease];
    let token = user(&admin, "shop", &[(AuthScope::Counters, "stock", spend)]).await;
    let follower = cluster.follower().await;
    cluster.caught_up().await;
    for id in [cluster.leader().await, follower] {
        let shop = client(&cluster, &[id], &token);
        let spent =
            shop.counter("stock").add(-1).idempotency_key(format!("order-{id}")).await.unwrap();
        assert_eq!((spent.value, spent.value_before, spent.delta_applied), (0, 0, -1), "{spent:?}");
        assert!(spent.write.values_hidden, "{spent:?}");
        assert_denied(shop.counter("stock").add(1).await, "refill");
        assert_denied(shop.counter("stock").get().await, "see");
        assert_denied(shop.counter("stock").add(-1).floor(floor - 5).await, "probe");
        let again =
            shop.counter("stock").add(-1).idempotency_key(format!("order-{id}")).await.unwrap();
        assert!(again.write.replayed && again.write.values_hidden && again.value == 0, "{again:?}");
    }
    let shop = client(&cluster, &[follower], &token);
    let refused = shop.counter("stock").add(-1).await.expect_err("nothing is left");
    assert_eq!(refused.reason(), reason::BELOW_FLOOR);
    assert!(!format!("{refused:?}").contains(&floor.to_string()), "{refused:?}");
    assert_eq!(admin.counter("stock").get().await.unwrap().value, floor);
}

/// Two users' equal keys are two keys; nobody takes another's.
#[tokio::test]
async fn idempotency_keys_are_their_users_own() {
    let (cluster, first) = secure(1).await;
    let admin = client(&cluster, &[1], &first);
    let rules: [(AuthScope, &str, &[AuthPermission]); 1] = [(AuthScope::Counters, "", ALL)];
    let one = client(&cluster, &[1], &user(&admin, "one", &rules).await);
    let other = client(&cluster, &[1], &user(&admin, "other", &rules).await);
    for (client, value) in [(&one, 1), (&other, 2)] {
        let first = client.counter("hits").add(1).idempotency_key("order-1").await.unwrap();
        assert_eq!((first.value, first.write.replayed), (value, false));
        let again = client.counter("hits").add(1).idempotency_key("order-1").await.unwrap();
        assert_eq!((again.value, again.write.replayed), (value, true));
    }
    let reserved = one.counter("hits").add(1).idempotency_key("\u{1}2\u{1}order-1").await;
    assert_eq!(reserved.expect_err("reserved").reason(), reason::INVALID_REQUEST);
}

#[tokio::test]
async fn what_decides_is_told_and_a_change_can_be_tried_out() {
    let (cluster, first) = secure(1).await;
    let admin = client(&cluster, &[1], &first);
    let read: &[AuthPermission] = &[AuthPermission::Read];
    let reader =
        client(&cluster, &[1], &user(&admin, "reader", &[(AuthScope::Keys, "a/", read)]).await);
    let me = reader.auth_can(v1::AuthCanRequest::default()).await.unwrap();
    assert_eq!((me.user.as_str(), me.roles), ("reader", vec!["reader".to_owned()]));
    let can = |user: &str, name: &str| v1::AuthCanRequest {
        user: user.to_owned(),
        permissions: vec![AuthPermission::Read as i32],
        scope: AuthScope::Keys as i32,
        name: name.to_owned(),
        read: None,
    };
    let may = reader.auth_can(can("", "a/x")).await.unwrap();
    assert!(may.allowed && may.grants[0].rule.as_ref().is_some_and(|rule| rule.prefix == "a/"));
    let may_not = admin.auth_can(can("reader", "b")).await.unwrap();
    assert_eq!((may_not.allowed, may_not.lacks), (false, vec![AuthPermission::Read as i32]));
    assert_denied(reader.auth_can(can("admin", "b")).await, "of another");
    let unknown = admin.auth_can(can("nobody", "b")).await.expect_err("unknown");
    assert_eq!(unknown.reason(), reason::USER_NOT_FOUND);
    for (delete, refusal) in [
        (Change::DeleteUser("nobody".into()), reason::USER_NOT_FOUND),
        (Change::DeleteUser("admin".into()), reason::LAST_ADMIN),
        (Change::DeleteRole("reader".into()), reason::ROLE_IN_USE),
        (Change::RevokeToken(99), reason::TOKEN_NOT_FOUND),
    ] {
        for dry_run in [true, false] {
            let request = AuthChangeRequest { change: Some(delete.clone()), dry_run };
            let error = admin.auth_change(request).await.expect_err("refused");
            assert_eq!(error.reason(), refusal, "{error}");
        }
    }
    let delete = Some(Change::DeleteUser("reader".into()));
    let tried = AuthChangeRequest { change: delete, dry_run: true };
    admin.auth_change(tried).await.unwrap();
    let listed = admin.auth_list().await.unwrap();
    assert!(listed.enabled);
    let names: Vec<&str> = listed.users.iter().map(|user| user.name.as_str()).collect();
    assert_eq!(names, ["admin", "reader"], "nothing was removed");
    assert_eq!((listed.tokens.len(), listed.roles.len()), (2, 2));
}

/// A cluster that began open is closed by whoever asks first, and opened by an admin.
#[tokio::test]
async fn it_is_switched_on_and_off() {
    let cluster = Cluster::start(3).await;
    let open = client(&cluster, &[1, 2, 3], "");
    open.counter("hits").add(1).await.unwrap();
    // Not before somebody can get in again.
    let enable =
        AuthChangeRequest { change: Some(Change::Enable(v1::AuthEnable {})), dry_run: false };
    let refused = open.auth_change(enable).await.expect_err("nobody is admin");
    assert_eq!(refused.reason(), reason::LAST_ADMIN, "{refused}");
    let chief = AuthRole { name: "chief".into(), admin: true, ..AuthRole::default() };
    change(&open, Change::PutRole(chief)).await;
    let anna = AuthUser { name: "anna".into(), roles: vec!["chief".into()] };
    change(&open, Change::PutUser(anna)).await;
    let token = token(&open, "anna", 0).await.1;
    change(&open, Change::Enable(v1::AuthEnable {})).await;
    cluster.caught_up().await;
    let shut_out = open.counter("hits").add(1).await.expect_err("it is on");
    assert_eq!(shut_out.reason(), reason::UNAUTHENTICATED);
    assert_eq!(open.counter("hits").get().await.expect_err("on").reason(), reason::UNAUTHENTICATED);
    let admin = client(&cluster, &[1, 2, 3], &token);
    assert_eq!(admin.counter("hits").add(1).await.unwrap().value, 2);
    change(&admin, Change::Disable(v1::AuthDisable {})).await;
    assert_eq!(open.counter("hits").add(1).await.unwrap().value, 3);
}

/// A token that was made a moment ago counts at a node that has not applied it yet.
#[tokio::test]
async fn a_new_token_counts_at_every_node_at_once() {
    let (cluster, first) = secure(3).await;
    let admin = client(&cluster, &[1, 2, 3], &first);
    for _ in 0..5 {
        let new = token(&admin, "admin", 0).await.1;
        for id in cluster.ids() {
            client(&cluster, &[id], &new).counter("hits").get().await.map_or_else(
                |error| assert_eq!(error.reason(), reason::COUNTER_NOT_FOUND, "{error}"),
                drop,
            );
        }
    }
}

/// A node that is cut off can't know whether there is such a token: who shows a new one is told to ask again, and
/// not that it is nobody, which it would take for the last word.
#[tokio::test]
async fn a_node_without_a_quorum_does_not_call_a_new_token_unknown() {
    let (cluster, first) = secure(3).await;
    let admin = client(&cluster, &[1, 2, 3], &first);
    admin.counter("hits").add(1).await.unwrap();
    cluster.caught_up().await;
    let cut_off = cluster.follower().await;
    cluster.isolate(cut_off);
    let new = token(&admin, "admin", 0).await.1;
    // Without the library, which would go on to a node that knows.
    let mut client = v1::counters_client::CountersClient::new(cluster.channel(cut_off));
    let level = v1::ReadLevel::Local as i32;
    let read = v1::ReadOptions { level, ..v1::ReadOptions::default() };
    let get = v1::CountersGetRequest { name: "hits".into(), read: Some(read) };
    let add = v1::CountersAddRequest { name: "hits".into(), delta: 1, ..Default::default() };
    let read = client.get(shown(get, &new)).await.expect_err("it is cut off");
    let write = client.add(shown(add, &new)).await.expect_err("it is cut off");
    for status in [read, write] {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
}

/// A request with a token, that waits for a few seconds.
fn shown<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(8));
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}
