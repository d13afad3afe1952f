//! Steps of the membership at the console: what is shown of one, what is refused, and what is done.

use serde_json::Value;

use super::{GET, PUT, ask, with_console};
use crate::cluster::{Cluster, PATIENCE};

/// What a refusal says.
fn message(told: &Value) -> &str {
    told["refused"]["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn only_a_learner_that_is_gone_is_forgotten() {
    let mut cluster = Cluster::start_with(3, with_console).await;
    cluster.add(4);
    let starting = tokio::spawn(cluster.launch(4));
    let asked = cluster.follower().await;
    let add = format!("/api/members/add-learner?node=4&address={}", cluster.peer_address(4));
    let added = ask(&cluster, asked, PUT, &add).await;
    assert_eq!(added.status, 200, "{}", added.body);
    cluster.adopt(4, starting.await.expect("it does not panic").expect("it starts"));
    cluster.caught_up().await;

    let forget = |node: u64| format!("/api/members/forget?node={node}");
    let preview = |node: u64| format!("{}&preview=1", forget(node));
    let voter = cluster.ids().into_iter().find(|id| *id != 4 && *id != asked).expect("a voter");
    for (node, why) in [(voter, "has a vote"), (4, "answers, and would be stopped")] {
        let shown = ask(&cluster, asked, PUT, &preview(node)).await;
        let told = shown.json();
        assert_eq!((shown.status, &told["preview"]), (200, &Value::Bool(true)), "{told:#}");
        let refusal = told["plan"]["refusal"].as_str().expect("a text");
        assert!(refusal.contains(why), "{told:#}");
        assert_eq!(told["plan"]["passes"], false, "{told:#}");
        let refused = ask(&cluster, asked, PUT, &forget(node)).await;
        let told = refused.json();
        assert_eq!((refused.status, &*refused.reason()), (409, "MEMBERSHIP_REFUSED"), "{told:#}");
        assert_eq!(told["refused"]["outcome"], "NOT_APPLIED", "{told:#}");
        assert!(message(&told).contains(why), "{told:#}");
    }
    // It takes no word that would let it cost a failure.
    let fewer = format!("{}&accept_fewer_failures=1", forget(4));
    let got = ask(&cluster, asked, PUT, &fewer).await;
    assert_eq!((got.status, &*got.reason()), (400, "INVALID_REQUEST"), "{}", got.body);

    cluster.kill(4).await;
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let told = ask(&cluster, asked, GET, "/api/status").await.json();
        let nodes = told["nodes"].as_array().expect("nodes");
        if nodes.iter().any(|node| node["id"] == 4 && node["reachable"] == false) {
            break;
        }
        assert!(
            tokio::time::Instant::now() < until,
            "node 4 is still taken for reachable: {told:#}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let told = ask(&cluster, asked, PUT, &preview(4)).await.json();
    assert_eq!(told["plan"]["refusal"], "", "{told:#}");
    assert_eq!(told["plan"]["before"]["learners"], serde_json::json!([4]), "{told:#}");
    assert_eq!(told["plan"]["after"]["learners"], serde_json::json!([]), "{told:#}");
    let is_learner = async || {
        let path = "/api/members/remove?node=4&preview=1";
        let told = ask(&cluster, asked, PUT, path).await.json();
        told["plan"]["before"]["learners"] == serde_json::json!([4])
    };
    assert!(is_learner().await, "it was only shown");
    let done = ask(&cluster, asked, PUT, &forget(4)).await;
    assert_eq!(done.status, 200, "{}", done.body);
    assert!(!is_learner().await);
    let again = ask(&cluster, asked, PUT, &forget(4)).await.json();
    assert_eq!(again["plan"]["is_so"], true, "{again:#}");
}
