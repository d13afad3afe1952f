//! A client certificate as a user: known by its name at every node, over both transports, for what the user may do
//! and no more, and for as long as it is good.

use std::time::Duration;

use tally_certificates::{Lifetime, Pair, now_ms};
use tally_client::{Client, Transport, reason};
use tally_proto::v1::{AuthScope, AuthUser, auth_change_request::Change};

use crate::{
    audit::Logs,
    auth::{ALL, assert_denied, change, secure_with, user},
    cluster::Cluster,
    tls::{Pki, good},
};

/// What a client shows.
#[derive(Default)]
struct Shows {
    certificate: Option<Pair>,
    token: String,
}

fn client(cluster: &Cluster, id: u64, pki: &Pki, transport: Transport, shows: Shows) -> Client {
    let tls = match shows.certificate {
        Some(pair) => pki.trusting().identity(pair.certificate, pair.key),
        None => pki.trusting(),
    };
    let builder = Client::builder([cluster.client_address(id)]).tls(tls).transport(transport);
    let builder = match &*shows.token {
        "" => builder,
        token => builder.bearer_token(token),
    };
    builder.one_shot().deadline(Duration::from_secs(8)).build().expect("a client")
}

/// A cluster with the user `billing`, who may do everything to counters below `own/`, and a token of its admin.
async fn with_billing(size: u64, pki: &Pki, logs: &Logs) -> (Cluster, String) {
    let (cluster, first) = secure_with(size, |config| {
        pki.of_known_clients(config);
        logs.keep(config);
    })
    .await;
    let shows = Shows { token: first.clone(), ..Shows::default() };
    let leader = cluster.leader().await;
    let admin = client(&cluster, leader, pki, Transport::Unary, shows);
    user(&admin, "own", &[(AuthScope::Counters, "own/", ALL)]).await;
    let billing = AuthUser { name: "billing".into(), roles: vec!["own".into()] };
    change(&admin, Change::PutUser(billing)).await;
    admin.counter("other/a").set(5).await.expect("an admin may");
    cluster.caught_up().await;
    (cluster, first)
}

#[tokio::test]
async fn a_certificate_is_its_user_at_every_node_and_over_both_transports() {
    let (pki, logs) = (Pki::new(), Logs::new());
    let (cluster, first) = with_billing(3, &pki, &logs).await;
    let named = |name: &str| pki.authority.client(name, good()).ok();
    for id in cluster.ids() {
        for transport in [Transport::Stream, Transport::Unary] {
            let shows = Shows { certificate: named("billing"), ..Shows::default() };
            let billing = client(&cluster, id, &pki, transport, shows);
            let name = format!("own/{id}-{transport:?}");
            billing.counter(&name).add(1).await.expect("it may");
            assert_eq!(billing.counter(&name).get().await.expect("it may").value, 1);
            assert_denied(billing.counter("other/a").add(1).await, "another's");
            assert_denied(billing.counter("other/a").get().await, "another's");
            assert_denied(billing.status().await, "what takes monitor");

            // A name that is no user's, and none.
            for certificate in [named("nobody-here"), None] {
                let shows = Shows { certificate, ..Shows::default() };
                let stranger = client(&cluster, id, &pki, transport, shows);
                for error in [
                    stranger.counter(&name).add(1).await.expect_err("it is nobody"),
                    stranger.counter(&name).get().await.expect_err("it is nobody"),
                ] {
                    assert_eq!(error.reason(), reason::UNAUTHENTICATED, "{error}");
                }
            }

            // A token counts more: a proxy has a certificate, and shows others' tokens.
            let shows = Shows { certificate: named("billing"), token: first.clone() };
            let admin = client(&cluster, id, &pki, transport, shows);
            assert_eq!(admin.counter("other/a").get().await.expect("an admin may").value, 5);
            let shows = Shows { certificate: named("billing"), token: "tally_9_00".into() };
            let wrong = client(&cluster, id, &pki, transport, shows);
            let error = wrong.counter(&name).get().await.expect_err("a wrong token is none");
            assert_eq!(error.reason(), reason::UNAUTHENTICATED, "{error}");

            let is_its = |line: &serde_json::Value| {
                line["operations"][0]["counter"] == *name && line["decision"] == "allowed"
            };
            let line = logs.only(id, "its line", is_its).await;
            for (field, value) in
                [("user", "billing"), ("how", "certificate"), ("certificate", "billing")]
            {
                assert_eq!(line[field], value, "{line:#}");
            }
        }
    }
}

/// The library keeps its streams for as long as they work.
#[tokio::test]
async fn a_certificate_that_ends_is_over_on_open_connections_too() {
    let (pki, logs) = (Pki::new(), Logs::new());
    let (cluster, _) = with_billing(1, &pki, &logs).await;
    let until_ms = now_ms() + 4000;
    let lifetime = Lifetime { from_ms: now_ms() - 3_600_000, until_ms };
    let mut clients = Vec::new();
    for transport in [Transport::Stream, Transport::Unary] {
        let certificate = pki.authority.client("billing", lifetime).ok();
        let shows = Shows { certificate, ..Shows::default() };
        let billing = client(&cluster, 1, &pki, transport, shows);
        billing.counter("own/a").add(1).await.expect("it is good");
        clients.push(billing);
    }
    // Certificates know whole seconds.
    let left = (until_ms + 1000).saturating_sub(now_ms());
    tokio::time::sleep(Duration::from_millis(left)).await;
    for billing in clients {
        for error in [
            billing.counter("own/a").add(1).await.expect_err("it is over"),
            billing.counter("own/a").get().await.expect_err("it is over"),
        ] {
            assert_eq!(error.reason(), reason::UNAUTHENTICATED, "{error}");
            assert!(error.message().contains("is over"), "{error}");
        }
    }
}
