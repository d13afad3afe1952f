//! What one client may have: operations a second by its roles, and a share of a node's room.

use std::time::Duration;

use tally_client::{Client, Outcome, Transport, apply::Operation, reason};
use tally_node::config::Config;
use tally_proto::v1::{
    AuthLimit, AuthPermission, AuthRole, AuthRule, AuthScope, auth_change_request::Change,
};
use tonic::Code;

use crate::{
    auth::{ALL, change, client, secure, secure_with, user},
    cluster::{Cluster, eventually},
};

const RULES: [(AuthScope, &str, &[AuthPermission]); 1] = [(AuthScope::Counters, "", ALL)];

/// A user with a limit: its token.
async fn limited(admin: &Client, name: &str, limit: AuthLimit) -> String {
    let token = user(admin, name, &RULES).await;
    let rule = AuthRule {
        scope: AuthScope::Counters as i32,
        prefix: String::new(),
        permissions: ALL.iter().map(|permission| *permission as i32).collect(),
    };
    let role = AuthRole {
        name: name.to_owned(),
        rules: vec![rule],
        limit: Some(limit),
        ..AuthRole::default()
    };
    change(admin, Change::PutRole(role)).await;
    token
}

fn impatient(cluster: &Cluster, token: &str, transport: Transport) -> Client {
    let builder = Client::builder([cluster.client_address(1)]).bearer_token(token);
    builder.transport(transport).build().expect("a client")
}

/// Why one of a few calls was refused, that follow each other faster than the rate allows.
async fn first_refusal(call: impl AsyncFn() -> Option<tally_client::Error>) -> String {
    for _ in 0..5 {
        if let Some(error) = call().await {
            return error.reason().to_owned();
        }
    }
    panic!("none of them was refused");
}

async fn limits_of(admin: &Client) -> tally_client::Limits {
    let status = admin.status().local_only().await.expect("a status");
    status.nodes[0].limits.expect("this version has them")
}

#[tokio::test]
async fn a_user_has_the_rate_of_its_roles_and_is_told_when_to_come_again() {
    let (cluster, first) = secure(1).await;
    let admin = client(&cluster, &[1], &first);
    let limit = AuthLimit { operations_per_second: 5, burst: 5 };
    let token = limited(&admin, "batch", limit).await;
    let free = client(&cluster, &[1], &user(&admin, "free", &RULES).await);

    for transport in [Transport::Stream, Transport::Unary] {
        let batch = impatient(&cluster, &token, transport);
        let add = || batch.counter("hits").add(1).max_attempts(1).into_future();
        // (Opening a session is an operation, too.)
        let mut refused = None;
        for _ in 0..100 {
            refused = add().await.err();
            if refused.is_some() {
                break;
            }
        }
        let refused = refused.expect("a hundred at once are too many");
        let told = (refused.code(), refused.reason(), refused.outcome());
        let not_applied = Some(Outcome::NotApplied);
        assert_eq!(told, (Code::ResourceExhausted, reason::RATE_LIMITED, not_applied));
        let wait = refused.retry_after().expect("it says when");
        assert!(wait <= Duration::from_millis(201), "{wait:?}");
        // Reads count, too, and so does each operation of a step.
        let read = async || batch.counter("hits").get().max_attempts(1).await.err();
        assert_eq!(first_refusal(read).await, reason::RATE_LIMITED);
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let step =
            (0..5).fold(batch.apply(), |step, _| step.then(Operation::counter_add("hits", 1)));
        step.max_attempts(1).await.expect("five are allowed at once");
        assert_eq!(first_refusal(async || add().await.err()).await, reason::RATE_LIMITED);
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    for _ in 0..50 {
        free.counter("others").add(1).await.expect("somebody else has no limit");
    }
    let limits = limits_of(&admin).await;
    assert!(limits.rates_exceeded > 0 && limits.shares_exceeded == 0, "{limits:?}");

    // Who waits as it is told gets everything done, each once.
    let before = admin.counter("hits").get().await.unwrap().value;
    let patient = client(&cluster, &[1], &token);
    let adds = (0..15).map(|_| patient.counter("hits").add(1).into_future());
    for added in futures_util::future::join_all(adds).await {
        added.expect("there is time");
    }
    assert_eq!(admin.counter("hits").get().await.unwrap().value, before + 15);

    // Without a limit it has none, within a second.
    let _ = user(&admin, "batch", &RULES).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let batch = impatient(&cluster, &token, Transport::Stream);
    for _ in 0..30 {
        batch.counter("hits").add(1).max_attempts(1).await.expect("the role has no limit any more");
    }
}

#[tokio::test]
async fn what_is_only_reported_is_refused_to_nobody() {
    let (cluster, first) = secure_with(1, |config| config.limit_report_only = true).await;
    let admin = client(&cluster, &[1], &first);
    let token = limited(&admin, "batch", AuthLimit { operations_per_second: 1, burst: 1 }).await;
    let batch = impatient(&cluster, &token, Transport::Stream);
    for _ in 0..10 {
        batch.counter("hits").add(1).max_attempts(1).await.expect("it is only counted");
    }
    let limits = limits_of(&admin).await;
    assert!(limits.report_only && limits.rates_exceeded >= 8, "{limits:?}");
}

/// One who asks for all the room there is leaves some to another.
#[tokio::test]
async fn one_client_has_a_share_of_the_room_for_writes() {
    let small = |config: &mut Config| {
        config.writes_in_flight = 8;
        config.limit_share_percent = 50;
    };
    let (cluster, first) = secure_with(1, small).await;
    let admin = client(&cluster, &[1], &first);
    let greedy = impatient(&cluster, &user(&admin, "greedy", &RULES).await, Transport::Unary);
    let modest = impatient(&cluster, &user(&admin, "modest", &RULES).await, Transport::Unary);
    for client in [&greedy, &modest] {
        client.counter("a").add(1).await.expect("it opens its session");
    }
    // So that everything waits.
    cluster.syncs(1).shut();
    let add =
        |client: &Client| tokio::spawn(client.counter("a").add(1).max_attempts(1).into_future());
    let waiting: Vec<_> = (0..8).map(|_| add(&greedy)).collect();
    eventually("half of them were refused", || {
        waiting.iter().filter(|waiting| waiting.is_finished()).count() == 4
    })
    .await;
    let beside = add(&modest);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!beside.is_finished(), "it waits for the disk as the others do");
    cluster.syncs(1).open();
    beside.await.unwrap().expect("there was room for another");
    let mut refused = 0;
    for waiting in waiting {
        if let Err(error) = waiting.await.unwrap() {
            assert_eq!(error.reason(), reason::SHARE_EXCEEDED, "{error:?}");
            assert_eq!(error.outcome(), Some(Outcome::NotApplied));
            refused += 1;
        }
    }
    assert_eq!((refused, limits_of(&admin).await.shares_exceeded), (4, 4));
}
