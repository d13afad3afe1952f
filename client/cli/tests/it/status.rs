//! `tally status` and `tally session`.

use serde_json::Value;

use crate::{fake::Cluster, runs::tally};

#[tokio::test]
async fn status_shows_every_node() {
    let cluster = Cluster::start(3).await;
    cluster.elect(2);
    let run = tally(&cluster, &["status", "--json"]).await;
    let nodes = run.json()["nodes"].clone();
    assert_eq!(nodes.as_array().unwrap().len(), 3);
    assert_eq!((&nodes[2]["role"], &nodes[0]["role"]), (&"leader".into(), &"follower".into()));
    for name in ["id", "role", "address", "pid", "term", "applied_index"] {
        assert!(nodes[0].get(name).is_some(), "{name}");
    }
    let run = tally(&cluster, &["status"]).await;
    assert!(run.stdout.contains("leader") && run.exit == 0, "{}", run.stdout);
    let healthy = "healthy: 3 of 3 voters answer, node 3 leads; any one may fail";
    assert_eq!(run.stdout.lines().next(), Some(healthy));
    let run = tally(&cluster, &["status", "--check", "--json"]).await;
    let health = run.json()["health"].clone();
    assert_eq!((run.exit, &health["verdict"]), (0, &"HEALTHY".into()), "{health}");
    let run = tally(&cluster, &["status", "--local", "--json"]).await;
    assert_eq!((run.exit, &run.json()["health"]), (0, &Value::Null));
    cluster.elect(9);
    let run = tally(&cluster, &["status", "--check"]).await;
    assert_eq!(run.exit, 8, "{}", run.stdout);
    assert!(run.stdout.starts_with("NO LEADER: 3 of 3 voters answer"), "{}", run.stdout);
    assert_eq!(tally(&cluster, &["status"]).await.exit, 0);
}

#[tokio::test]
async fn sessions_are_listed_and_closed() {
    let cluster = Cluster::start(1).await;
    let open = |ids: std::ops::RangeInclusive<u64>| {
        let mut model = cluster.model();
        model.log_index = 100;
        model.sessions.extend(ids.map(|id| (id, Default::default())));
    };
    let left = || cluster.model().sessions.keys().copied().collect::<Vec<_>>();
    open(1..=6);
    let run = tally(&cluster, &["session", "list", "--limit", "4"]).await;
    assert_eq!(run.exit, 0, "{}", run.stderr);
    assert!(run.stdout.starts_with("6 of 10 sessions are open"), "{}", run.stdout);
    assert!(run.stdout.contains("10.0.0.1 holds 2\n"), "{}", run.stdout);
    assert_eq!(
        run.stderr, "-- more: --page-token 4, or --all\n",
        "what is piped on is the list alone"
    );
    let run = tally(&cluster, &["session", "list", "--owner", "10.0.0.0", "--json"]).await;
    let ids: Vec<_> = run.json()["sessions"].as_array().unwrap().to_vec();
    assert_eq!(ids.len(), 3);
    assert_eq!(ids[0]["session_id"], 2);

    // Sessions change without a revision.
    let run = tally(&cluster, &["session", "list", "--all", "--limit", "4", "--json"]).await;
    let all = &run.json_lines()[1]["all"];
    assert_eq!((&all["items"], &all["one_point"]), (&6.into(), &false.into()), "{all}");
    assert!(all["applied_index_min"].as_u64() < all["applied_index_max"].as_u64(), "{all}");

    let run = tally(&cluster, &["session", "close", "1", "99", "--json"]).await;
    assert_eq!(
        (run.exit, &run.json()["closed"], &run.json()["not_open"]),
        (0, &1.into(), &1.into())
    );
    assert_eq!(left(), [2, 3, 4, 5, 6]);

    let all = ["session", "close", "--owner", "10.0.0.0"];
    let run = tally(&cluster, &all).await;
    assert_eq!((run.exit, left().len()), (2, 5), "not without --yes");
    assert!(run.stderr.contains("--yes"), "{}", run.stderr);
    let run = tally(&cluster, &[&all[..], &["--yes"]].concat()).await;
    assert_eq!((run.exit, run.stdout.as_str()), (0, "closed 3\n"));
    assert_eq!(left(), [3, 5]);

    for wrong in [
        &["session", "close"][..],
        &["session", "close", "3", "--owner", "10.0.0.1"],
        &["session", "close", "3", "--yes"],
    ] {
        assert_eq!(tally(&cluster, wrong).await.exit, 2, "{wrong:?}");
    }
    assert_eq!(left(), [3, 5]);
}
