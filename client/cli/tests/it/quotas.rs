//! Quotas: setting, listing and removing them, and what is said where one refuses.

use serde_json::json;
use tally_client::{proto as v1, reason};
use tally_proto::{status::StatusBuilder, v1::answer::Response};
use tonic::Code;

use crate::{
    fake::{Act, Cluster},
    runs::{line, tally},
};

#[tokio::test]
async fn a_quota_is_set_listed_and_removed() {
    let cluster = Cluster::start(1).await;
    let run = line(&cluster, "quota list").await;
    assert_eq!((run.exit, run.stdout.as_str()), (0, "there are no quotas\n"), "{}", run.stderr);
    let set = "quota set cart/ --scope keys --soft-items 80 --hard-items 100 --hard-bytes 4096";
    let run = line(&cluster, set).await;
    assert_eq!(
        (run.exit, run.stdout.as_str()),
        (0, "quota on keys with cart/\n"),
        "{}",
        run.stderr
    );
    let run = tally(&cluster, &["quota", "set", "", "--scope", "counters", "--json"]).await;
    assert_eq!(run.json(), json!({ "scope": "counters", "prefix": "", "existed": false }));
    let run = line(&cluster, &format!("{set} --json")).await;
    assert_eq!(run.json()["existed"], true);

    {
        // Let go of before the next command, which asks the model.
        let mut model = cluster.model();
        let quota = &mut model.quotas[1];
        assert_eq!(quota.scope(), v1::QuotaScope::Keys);
        (quota.used_items, quota.used_bytes, quota.soft_passed) = (99, 4000, true);
    }
    let run = line(&cluster, "quota list").await;
    let table = "scope     prefix  items  soft  hard  bytes  soft  hard  state\n\
                 counters  \"\"      0      -     -     0      -     -     ok\n\
                 keys      cart/   99     80    100   4000   -     4096  above soft\n";
    assert_eq!((run.exit, run.stdout.as_str()), (0, table));
    let run = line(&cluster, "quota list --json").await;
    let keys = json!({
        "scope": "keys", "prefix": "cart/", "used_items": 99, "used_bytes": 4000, "soft_items": 80,
        "hard_items": 100, "soft_bytes": null, "hard_bytes": 4096, "soft_passed": true, "counting": false,
    });
    assert_eq!(run.json()["quotas"][1], keys);

    let run = line(&cluster, "quota delete cart/ --scope keys").await;
    assert_eq!((run.exit, run.stdout.as_str()), (0, "removed the quota on keys with cart/\n"));
    let run = line(&cluster, "quota delete cart/ --scope keys").await;
    assert_eq!((run.exit, run.stdout.as_str()), (0, "no quota on keys with cart/\n"));
    assert_eq!(cluster.model().quotas.len(), 1);
}

#[tokio::test]
async fn what_a_quota_lacks_is_a_wrong_command_line() {
    let cluster = Cluster::start(1).await;
    for wrong in [
        "quota set cart/ --hard-items 1",
        "quota set --scope keys",
        "quota set cart/ --scope sessions",
        "quota set cart/ --scope keys --hard-items -1",
        "quota set cart/ --scope keys --hard-items many",
        "quota delete cart/",
    ] {
        assert_eq!(line(&cluster, wrong).await.exit, 2, "{wrong}");
    }
    assert!(cluster.model().quotas.is_empty());
}

/// Sending it again is safe, and may be let through: status 4. It is not sent again by itself.
#[tokio::test]
async fn where_a_quota_refuses_it_is_named() {
    let cluster = Cluster::start(1).await;
    let failure = v1::QuotaFailure {
        scope: v1::QuotaScope::Keys as i32,
        prefix: "cart/".to_owned(),
        unit: v1::QuotaUnit::Items as i32,
        used: Some(100),
        limit: Some(100),
        grows_by: Some(1),
    };
    let outcome =
        v1::WriteOutcome { outcome: v1::Outcome::NotApplied as i32, ..v1::WriteOutcome::default() };
    let refused = StatusBuilder::new(
        Code::ResourceExhausted,
        reason::QUOTA_EXCEEDED,
        "a quota does not allow it",
    )
    .detail(&outcome)
    .detail(&failure);
    cluster.script(0, [Act::Refuse(Response::Error(refused.build()).into())]);
    let run = line(&cluster, "kv put cart/1 x --json").await;
    let error = &run.json()["error"];
    assert_eq!((run.exit, &error["reason"]), (4, &reason::QUOTA_EXCEEDED.into()), "{error}");
    assert_eq!((&error["outcome"], &error["attempts"]), (&"NOT_APPLIED".into(), &1.into()));
    let quota = json!({
        "scope": "keys", "prefix": "cart/", "unit": "items", "used": 100, "limit": 100, "grows_by": 1,
    });
    assert_eq!(error["quota"], quota);
    assert_eq!(cluster.writes(), 1);
}
