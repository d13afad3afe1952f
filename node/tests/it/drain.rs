//! Nodes that are not to lead, and snapshots that are asked for.

use std::collections::BTreeSet;

use tally_proto::v1::{self, call::Request};

use crate::{
    client::unary,
    cluster::{Cluster, eventually},
    members::refused,
    requests::*,
};

fn drain(node_id: u64, undo: bool) -> Request {
    Request::ClusterDrain(v1::ClusterDrainRequest { node_id, undo, preview: false })
}

fn transfer_to(node_id: u64) -> Request {
    Request::ClusterTransferLeader(v1::ClusterTransferLeaderRequest { node_id, preview: false })
}

async fn drained(cluster: &Cluster, asked: u64) -> Vec<u64> {
    let shown = unary(&cluster.channel(asked), status()).await.expect("status always answers");
    let nodes = answer!(ClusterStatus, shown).nodes.into_iter();
    nodes.filter(|node| node.drained).map(|node| node.id).collect()
}

#[tokio::test]
async fn a_drained_node_leads_again_only_when_told() {
    let mut cluster = Cluster::start(3).await;
    let (first, follower) = (cluster.leader().await, cluster.follower().await);
    let asked = cluster.channel(follower);
    let mut request = v1::ClusterDrainRequest { node_id: first, undo: false, preview: true };
    let shown = unary(&asked, Request::ClusterDrain(request)).await.expect("it is only shown");
    let plan = answer!(ClusterDrain, shown).plan.expect("it has a plan");
    assert!(plan.note.contains("hands leadership over") && !plan.is_so, "{plan:?}");
    assert_eq!(cluster.leader().await, first, "nothing was done");
    request.preview = false;
    let done = unary(&asked, Request::ClusterDrain(request)).await.expect("others can lead");
    assert!(!answer!(ClusterDrain, done).plan.expect("it has a plan").is_so);
    cluster.settled().await;
    let second = cluster.leader().await;
    assert_ne!(second, first, "it has handed leadership over");
    let again = unary(&asked, drain(first, false)).await.expect("asked again");
    assert!(answer!(ClusterDrain, again).plan.expect("it has a plan").is_so);

    // Whoever stops hands leadership to the one that may have it, and to no other.
    let third = (1..=3).find(|id| ![first, second].contains(id)).expect("there are three");
    cluster.caught_up().await;
    assert_eq!(drained(&cluster, first).await, [first]);
    refused(&cluster, transfer_to(first), &["is drained", "--undo"]).await;
    cluster.stop(second).await;
    assert_eq!(cluster.leader().await, third);
    unary(&cluster.channel(first), add("a", 1)).await.expect("it still counts for a majority");
    eventually("the one that stopped is missed", || {
        let consensus = cluster.node(third).consensus();
        let nodes = BTreeSet::from([second]);
        !consensus.leadership().silent(&nodes, consensus.no_quorum_after()).is_empty()
    })
    .await;
    refused(&cluster, drain(third, false), &["nobody would be left to lead", "--undo"]).await;
    cluster.start_node(second).await.expect("it is whole");
    cluster.settled().await;

    unary(&cluster.channel(second), drain(first, true)).await.expect("it may lead again");
    assert!(drained(&cluster, cluster.leader().await).await.is_empty());
    unary(&cluster.channel(second), transfer_to(first)).await.expect("it may lead again");
    cluster.settled().await;
    assert_eq!(cluster.leader().await, first);
    refused(&cluster, drain(9, false), &["node 9 is not a voter"]).await;
}

/// Of three, two are drained, and the third goes: those that are left are a majority, and one of them leads, as nobody
/// could tell them otherwise. When the third is back it leads.
#[tokio::test]
async fn a_drained_node_leads_if_nobody_else_can() {
    let mut cluster = Cluster::start(3).await;
    for id in [1, 2] {
        unary(&cluster.channel(3), drain(id, false)).await.expect("node 3 can lead");
    }
    eventually("node 3 leads", || {
        cluster.node(3).consensus().leadership().term_as_leader().is_some()
    })
    .await;
    cluster.caught_up().await;
    cluster.stop(3).await;
    eventually("a drained node leads", || {
        [1, 2]
            .iter()
            .any(|id| cluster.node(*id).consensus().leadership().term_as_leader().is_some())
    })
    .await;
    cluster.settled().await;
    eventually("both know that there is a quorum", || {
        [1, 2].iter().all(|id| !cluster.node(*id).consensus().quorum_lost())
    })
    .await;
    unary(&cluster.channel(1), add("a", 1)).await.expect("two of three go on");
    cluster.start_node(3).await.expect("it is whole");
    eventually("node 3 leads again", || {
        cluster.node(3).consensus().leadership().term_as_leader().is_some()
    })
    .await;
    cluster.settled().await;
    unary(&cluster.channel(1), add("a", 1)).await.expect("all go on");
}

/// Of any node, asked at any node: it holds at least what that node had applied.
#[tokio::test]
async fn a_snapshot_is_built_when_somebody_asks() {
    let cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    for (asked, of) in [(follower, leader), (leader, follower), (follower, 0), (leader, leader)] {
        unary(&cluster.channel(leader), add("a", 1)).await.expect("a healthy cluster");
        cluster.caught_up().await;
        let target = if of == 0 { asked } else { of };
        let applied = cluster.node(target).consensus().state().applied().expect("some").index;
        let request = Request::ClusterSnapshot(v1::ClusterSnapshotRequest { node_id: of });
        let built = unary(&cluster.channel(asked), request.clone()).await.expect("there is room");
        let built = answer!(ClusterSnapshot, built);
        assert_eq!(built.node_id, target);
        assert!(built.log_index >= applied, "{} of {applied}", built.log_index);
        let shown = unary(&cluster.channel(target), status()).await.expect("status answers");
        let nodes = answer!(ClusterStatus, shown).nodes;
        let own = nodes.into_iter().find(|node| node.id == target).expect("it is a member");
        assert!(own.snapshot_index >= built.log_index, "it is stored");
    }
    let nobody = Request::ClusterSnapshot(v1::ClusterSnapshotRequest { node_id: 9 });
    let status = unary(&cluster.channel(leader), nobody).await.expect_err("there is no node 9");
    assert!(status.message().contains("no member has the id 9"), "{status}");
}
