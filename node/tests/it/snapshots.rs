//! Snapshots on their way to other nodes.

use std::time::Duration;

use tally_node::consensus::sending::SendingCounts;
use tonic::transport::Channel;

use crate::{
    client::unary,
    cluster::{Cluster, eventually},
    requests::*,
};

fn newest_snapshot(cluster: &Cluster, id: u64) -> u64 {
    let snapshot = cluster.node(id).consensus().state().current_snapshot();
    snapshot.map_or(0, |snapshot| snapshot.last_log_id.index)
}

fn purged(cluster: &Cluster, id: u64) -> u64 {
    let metrics = cluster.node(id).consensus().leadership().metrics();
    metrics.purged.map_or(0, |purged| purged.index)
}

/// Writes until something is so.
async fn write_until(channel: &Channel, what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if is_so() {
            return;
        }
        unary(channel, add("a", 1)).await.expect("two of three go on");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("{what}: not in 2,000 writes");
}

/// A node that takes longer for a snapshot than the log takes to grow by the next few is sent what follows it, and not one
/// snapshot after the other, for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_that_follows_a_snapshot_stays_while_it_is_sent() {
    let mut cluster = Cluster::start_with(3, |config| {
        config.snapshot_after_entries = 20;
        config.log_entries_kept = 5;
    })
    .await;
    let leader = cluster.leader().await;
    let slow = cluster.ids().into_iter().find(|id| *id != leader).expect("there are three");
    let channel = cluster.channel(leader);
    cluster.stop(slow).await;
    let missed = cluster.last_log_index(leader);
    write_until(&channel, "what the slow one misses is purged", || {
        purged(&cluster, leader) > missed
    })
    .await;
    // It takes the snapshot, and its disk does not come to an end with it.
    cluster.syncs(slow).shut_with("snap/incoming-*");
    cluster.start_node(slow).await.expect("it starts");
    eventually("the slow one receives a snapshot", || cluster.syncs(slow).is_shut()).await;
    let sending = cluster.node(leader).consensus().sending().clone();
    let (before, sent) = (sending.counts(), newest_snapshot(&cluster, leader));
    write_until(&channel, "several more are built", || {
        newest_snapshot(&cluster, leader) > sent + 80
    })
    .await;
    // It is looked every half a second whether something is to be purged.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!((sending.under_way(), sending.counts()), (1, before), "it is still the same");
    let purged_meanwhile = purged(&cluster, leader);
    assert!(purged_meanwhile <= sent, "{purged_meanwhile} is purged, and {sent} is sent");
    cluster.syncs(slow).open();
    cluster.settled().await;
    cluster.caught_up().await;
    let SendingCounts { installed, failed } = before;
    assert_eq!(sending.counts(), SendingCounts { installed: installed + 1, failed });
    // What was kept for it goes.
    write_until(&channel, "the log is purged again", || purged(&cluster, leader) > sent + 20).await;
}
