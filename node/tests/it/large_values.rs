//! The log of large values: bounded in bytes, however few entries that is.

use std::time::Duration;

use tally_node::machine::query;
use tally_proto::v1::{NodeStatus, answer::Response};
use tokio::time::Instant;

use crate::{
    client::unary,
    cluster::{Cluster, eventually},
    requests::{put, status},
};

const MIB: u64 = 1 << 20;

/// What a node says of itself.
async fn own_line(cluster: &Cluster, id: u64) -> NodeStatus {
    let shown = unary(&cluster.channel(id), status()).await.expect("it answers");
    let Response::ClusterStatus(shown) = shown else { panic!("another answer: {shown:?}") };
    shown.nodes.into_iter().find(|node| node.id == id).expect("it speaks of itself")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn their_log_is_bounded_and_who_was_away_gets_a_snapshot() {
    let cluster = Cluster::start_with(3, |config| {
        config.log_segment_bytes = 8 * MIB;
        config.snapshot_after_log_bytes = 16 * MIB;
        config.log_bytes_kept = 16 * MIB;
    })
    .await;
    let leader = cluster.leader().await;
    let away = cluster.follower().await;
    cluster.isolate(away);
    let channel = cluster.channel(leader);
    for n in 0..120 {
        let value = vec![n; MIB as usize];
        unary(&channel, put(&format!("k{}", n % 4), value)).await.expect("there is a quorum");
    }

    // Two segments are kept, two wait for the next snapshot and one is begun; two spares, and the
    // next one. Without the bound it would be all 120 MiB, as they are far below 10,000 entries.
    let until = Instant::now() + Duration::from_secs(20);
    let purged = loop {
        let NodeStatus { log_bytes: bytes, purged_index, .. } = own_line(&cluster, leader).await;
        if bytes <= 8 * 8 * MIB {
            break purged_index;
        }
        assert!(Instant::now() < until, "never: a log of {bytes} bytes gets shorter");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let last_of_away = || {
        let applied = cluster.node(away).consensus().state().applied();
        applied.map_or(0, |applied| applied.index)
    };
    assert!(last_of_away() < purged, "it lacks what the leader has no more: {purged}");

    cluster.switchboard.mend();
    let hash = |id| query::state_hash(&cluster.node(id).consensus().state().view());
    eventually("it has caught up", || last_of_away() > purged && hash(away) == hash(leader)).await;
    let received = own_line(&cluster, away).await.snapshot_index;
    assert!(received >= purged, "it shows the snapshot that it was sent: {received}");
}
