//! Quotas over the wire: at the leader and at a follower, who may change them, and what is told of them.

use std::time::Duration;

use tally_client::{
    Client, Code, Error, Outcome,
    apply::Operation,
    proto::{
        self as v1, Quota, QuotaLimits, QuotaScope, QuotaUnit, QuotasDeleteRequest,
        QuotasSetRequest,
    },
    reason,
};
use tally_node::config::HotItemNames;

use super::{
    auth::{self, assert_denied},
    cluster::Cluster,
    identities::Backup,
    metrics::scrape,
};

async fn set(client: &Client, scope: QuotaScope, prefix: &str, limits: QuotaLimits) -> bool {
    let (scope, prefix) = (scope as i32, prefix.to_owned());
    let request = QuotasSetRequest { scope, prefix, limits: Some(limits) };
    client.quota_set(request).await.expect("the quota is set").existed
}

fn items(hard: u64) -> QuotaLimits {
    QuotaLimits { hard_items: Some(hard), ..QuotaLimits::default() }
}

async fn listed(client: &Client) -> Vec<Quota> {
    client.quota_list().await.expect("quotas are listed").quotas
}

/// It is the refusal of a quota, and nothing was done.
fn assert_exceeded(error: &Error, prefix: &str, unit: QuotaUnit, used: u64, limit: u64) {
    assert_eq!(error.reason(), reason::QUOTA_EXCEEDED, "{error}");
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert_eq!(error.outcome(), Some(Outcome::NotApplied));
    // It is not remembered, so it speaks of this attempt alone, of which there was one.
    assert_eq!((error.is_decided(), error.attempts()), (false, 1));
    let failure = error.quota().expect("the quota is named");
    assert_eq!((failure.prefix.as_str(), failure.unit()), (prefix, unit));
    assert_eq!((failure.used, failure.limit), (Some(used), Some(limit)));
}

#[tokio::test]
async fn what_grows_is_refused_and_nothing_else_at_leader_and_follower() {
    let cluster = Cluster::start(3).await;
    let ids = [cluster.leader().await, cluster.follower().await];
    for (which, id) in ["leader", "follower"].into_iter().zip(ids) {
        let client = auth::client(&cluster, &[id], "");
        let name = |rest: &str| format!("{which}/{rest}");
        let prefix = name("");
        let keys = client.keys();
        client.counter(name("a")).add(1).await.unwrap();
        keys.put(name("k"), "four").await.unwrap();
        assert!(!set(&client, QuotaScope::Counters, &prefix, items(2)).await);
        assert!(set(&client, QuotaScope::Counters, &prefix, items(1)).await);
        let bytes = (prefix.len() + 5) as u64;
        let limits = QuotaLimits { hard_bytes: Some(bytes), ..QuotaLimits::default() };
        set(&client, QuotaScope::Keys, &prefix, limits).await;

        let refused = client.counter(name("b")).add(1).await.unwrap_err();
        assert_exceeded(&refused, &prefix, QuotaUnit::Items, 1, 1);
        let refused = keys.put(name("k"), "fives").await.unwrap_err();
        assert_exceeded(&refused, &prefix, QuotaUnit::Bytes, bytes, bytes);
        assert_eq!(refused.quota().unwrap().grows_by, Some(1));

        // What is there goes on, and is read.
        assert_eq!(client.counter(name("a")).add(i64::MAX - 1).await.unwrap().value, i64::MAX);
        client.counter(name("a")).set(3).await.unwrap();
        keys.put(name("k"), "more").await.unwrap();
        assert_eq!(client.counter(name("a")).get().await.unwrap().value, 3);

        // One operation of a step that grows refuses all of it.
        let step = client
            .apply()
            .then(Operation::counter_add(name("a"), 1))
            .then(Operation::key_put("elsewhere", which))
            .then(Operation::counter_add(name("b"), 1));
        let refused = step.await.unwrap_err();
        assert_exceeded(&refused, &prefix, QuotaUnit::Items, 1, 1);
        let part = refused.step().and_then(|step| step.part);
        assert_eq!(part, Some(v1::step_failure::Part::OperationIndex(2)));
        assert_eq!(client.counter(name("a")).get().await.unwrap().value, 3);

        // A delete makes room, and the same write under the same key is done then: once.
        let again = |key: &'static str| {
            let write = client.counter(name("b")).add(5).idempotency_key(format!("{which}-{key}"));
            async move { write.await }
        };
        assert_exceeded(&again("order").await.unwrap_err(), &prefix, QuotaUnit::Items, 1, 1);
        client.counter(name("a")).delete().await.unwrap();
        let first = again("order").await.unwrap();
        assert_eq!((first.value, first.write.replayed), (5, false));
        let second = again("order").await.unwrap();
        assert_eq!((second.value, second.write.replayed), (5, true));
        assert_eq!(client.counter(name("b")).get().await.unwrap().value, 5);

        let quotas = listed(&client).await;
        let own: Vec<_> = quotas.iter().filter(|quota| quota.prefix == prefix).collect();
        let told =
            |quota: &Quota| (quota.scope(), quota.used_items, quota.used_bytes, quota.counting);
        let counter_bytes = (prefix.len() + 1 + 8) as u64;
        assert_eq!(
            own.into_iter().map(told).collect::<Vec<_>>(),
            [(QuotaScope::Counters, 1, counter_bytes, false), (QuotaScope::Keys, 1, bytes, false)]
        );
        for scope in [QuotaScope::Counters, QuotaScope::Keys] {
            let (scope, prefix) = (scope as i32, prefix.clone());
            let request = QuotasDeleteRequest { scope, prefix };
            assert!(client.quota_delete(request.clone()).await.unwrap().existed);
            assert!(!client.quota_delete(request).await.unwrap().existed);
        }
        client.counter(name("a")).add(1).await.unwrap();
    }
    let client = auth::client(&cluster, &cluster.ids(), "");
    assert_eq!(listed(&client).await, []);
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_refused_by_its_field() {
    let cluster = Cluster::start(1).await;
    let client = auth::client(&cluster, &[1], "");
    let good = QuotasSetRequest { scope: 1, prefix: String::new(), limits: None };
    let above = QuotaLimits { soft_bytes: Some(2), hard_bytes: Some(1), ..QuotaLimits::default() };
    for (field, wrong) in [
        ("scope", QuotasSetRequest { scope: 0, ..good.clone() }),
        ("scope", QuotasSetRequest { scope: 3, ..good.clone() }),
        ("prefix", QuotasSetRequest { prefix: "x".repeat(513), ..good.clone() }),
        ("limits.soft_bytes", QuotasSetRequest { limits: Some(above), ..good.clone() }),
    ] {
        let error = client.quota_set(wrong).await.expect_err(field);
        assert_eq!(error.code(), Code::InvalidArgument, "{field}");
        assert_eq!(error.fields()[0].0, field);
    }
    assert_eq!(listed(&client).await, []);
}

/// A quota over more items than an entry counts: it counts on by itself, and refuses from then on.
#[tokio::test]
async fn a_quota_over_many_items_counts_on_its_own() {
    let cluster = Cluster::start(3).await;
    let client = auth::client(&cluster, &cluster.ids(), "");
    const ITEMS: usize = 3_000;
    for from in (0..ITEMS).step_by(100) {
        let put = |number| Operation::key_put(format!("k{number:05}"), "x");
        let step = (from..from + 100).fold(client.apply(), |step, at| step.then(put(at)));
        step.await.unwrap();
    }
    set(&client, QuotaScope::Keys, "k", items(0)).await;
    assert!(listed(&client).await[0].counting, "one entry does not count so many");
    for _ in 0..200 {
        if !listed(&client).await[0].counting {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let quota = listed(&client).await.remove(0);
    assert_eq!((quota.counting, quota.used_items), (false, ITEMS as u64));
    assert_eq!(quota.used_bytes, (ITEMS * 7) as u64);
    let refused = client.keys().put("k", "x").await.unwrap_err();
    assert_exceeded(&refused, "k", QuotaUnit::Items, ITEMS as u64, 0);
}

#[tokio::test]
async fn who_may_change_and_see_quotas() {
    let (cluster, token) = auth::secure(1).await;
    let admin = auth::client(&cluster, &[1], &token);
    let rules = &[(v1::AuthScope::Keys, "cart/1/", auth::ALL)];
    let user = auth::client(&cluster, &[1], &auth::user(&admin, "user", rules).await);
    let role = v1::AuthRole { name: "eye".to_owned(), monitor: true, ..v1::AuthRole::default() };
    auth::change(&admin, v1::auth_change_request::Change::PutRole(role)).await;
    let eye = v1::AuthUser { name: "eye".to_owned(), roles: vec!["eye".to_owned()] };
    auth::change(&admin, v1::auth_change_request::Change::PutUser(eye)).await;
    let eye = auth::client(&cluster, &[1], &auth::token(&admin, "eye", 0).await.1);

    set(&admin, QuotaScope::Keys, "cart/", items(0)).await;
    let request = QuotasSetRequest { scope: 2, prefix: "cart/".to_owned(), limits: None };
    let delete = QuotasDeleteRequest { scope: 2, prefix: "cart/".to_owned() };
    for (who, client) in [("user", &user), ("monitor", &eye)] {
        assert_denied(client.quota_set(request.clone()).await, who);
        assert_denied(client.quota_delete(delete.clone()).await, who);
    }
    assert_denied(user.quota_list().await, "user");
    assert_eq!(listed(&eye).await, listed(&admin).await);

    // Who may not list all of it is not told how much there is.
    let refused = user.keys().put("cart/1/x", "").await.unwrap_err();
    assert_eq!(refused.reason(), reason::QUOTA_EXCEEDED, "{refused}");
    let failure = refused.quota().expect("the quota is named");
    assert_eq!((failure.prefix.as_str(), failure.unit()), ("cart/", QuotaUnit::Items));
    assert_eq!((failure.used, failure.limit, failure.grows_by), (None, None, None));
}

#[tokio::test]
async fn metrics_show_what_is_used() {
    let mut cluster = Cluster::prepare(1, |config| {
        config.metrics_listen = "127.0.0.1:0".to_owned();
        config.hot_item_names = HotItemNames::Hashed;
    });
    cluster.start_all().await;
    cluster.settled().await;
    let client = auth::client(&cluster, &[1], "");
    client.keys().put("cart/1", "four").await.unwrap();
    let soft = QuotaLimits { soft_items: Some(0), hard_bytes: Some(99), ..QuotaLimits::default() };
    set(&client, QuotaScope::Keys, "cart/", soft).await;
    set(&client, QuotaScope::Keys, "", QuotaLimits::default()).await;
    let told = scrape(cluster.node(1).metrics_address().expect("it has a metrics port")).await;
    // The first 16 digits of the prefix's SHA-256.
    let cart = "scope=\"keys\",prefix=\"CART\"".replace("CART", &hashed("cart/"));
    let all = "scope=\"keys\",prefix=\"\"";
    for (name, value) in [
        (format!("tally_quota_items{{{cart}}}"), 1.0),
        (format!("tally_quota_size_bytes{{{cart}}}"), 10.0),
        (format!("tally_quota_items_max{{{cart},limit=\"soft\"}}"), 0.0),
        (format!("tally_quota_max_bytes{{{cart},limit=\"hard\"}}"), 99.0),
        (format!("tally_quota_soft_passed{{{cart}}}"), 1.0),
        (format!("tally_quota_counting{{{cart}}}"), 0.0),
        (format!("tally_quota_items{{{all}}}"), 1.0),
        (format!("tally_quota_soft_passed{{{all}}}"), 0.0),
    ] {
        assert_eq!(told.get(&name), Some(&value), "{name}");
    }
    assert!(!told.contains_key(&format!("tally_quota_items_max{{{all},limit=\"hard\"}}")));
}

fn hashed(name: &str) -> String {
    use sha2::{Digest, Sha256};

    Sha256::digest(name.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// What is used is counted anew from what was restored.
#[tokio::test]
async fn a_backup_brings_its_quotas_into_a_cluster_without() {
    let old = Cluster::start(1).await;
    let client = auth::client(&old, &[old.leader().await], "");
    client.counter("a/1").add(1).await.unwrap();
    set(&client, QuotaScope::Counters, "a/", items(1)).await;
    set(&client, QuotaScope::Keys, "", items(7)).await;
    let before = listed(&client).await;
    let backup = Backup::of(&client).await;

    let new = Cluster::start(1).await;
    let client = auth::client(&new, &[new.leader().await], "");
    set(&client, QuotaScope::Keys, "x", items(1)).await;
    let refused = backup.begin_restore(&client).await.unwrap_err();
    assert_eq!(refused.reason(), reason::RESTORE_REFUSED, "{refused}");
    let delete = QuotasDeleteRequest { scope: QuotaScope::Keys as i32, prefix: "x".to_owned() };
    assert!(client.quota_delete(delete).await.unwrap().existed);

    backup.restore(&client).await;
    assert_eq!(listed(&client).await, before);
    client.counter("a/1").add(1).await.unwrap();
    let refused = client.counter("a/2").add(1).await.unwrap_err();
    assert_exceeded(&refused, "a/", QuotaUnit::Items, 1, 1);
    client.counter("a/1").delete().await.unwrap();
    client.counter("a/2").add(1).await.unwrap();
}
