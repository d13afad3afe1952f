//! The trap of the restarted leader, as a directed scenario.
//!
//! A leader replicates while its own log is still being synced, so its followers may commit entries
//! that it has not made durable itself. If the power fails then, it comes back without the tail of
//! its log. Going on in its old term, it would use the same (term, index) again for other entries:
//! two nodes would hold different entries under one id, and acknowledged writes would be gone. So a
//! restarted node must win a new term before it leads (`enable_leader_restore` is off).

use std::time::Duration;

use tally_node::{machine::query, storage::simulated_disk::Latency};
use tally_proto::v1::answer::Response;

use crate::{
    client::unary,
    cluster::{Cluster, eventually},
    requests::{add, get},
};

async fn add_one(cluster: &Cluster, at: u64) -> bool {
    unary(&cluster.channel(at), add("hits", 1)).await.is_ok()
}

async fn read(cluster: &Cluster, at: u64) -> i64 {
    match unary(&cluster.channel(at), get("hits")).await {
        Ok(Response::CountersGet(response)) => response.counter.expect("it exists").value,
        other => panic!("the counter can't be read: {other:?}"),
    }
}

/// Applied index and hash of a node's state.
fn state_of(cluster: &Cluster, id: u64) -> (u64, [u8; 32]) {
    let view = cluster.node(id).consensus().state().view();
    (view.applied().map_or(0, |applied| applied.index), query::state_hash(&view))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_lost_its_unsynced_tail_does_not_go_on_in_its_old_term() {
    let mut cluster = Cluster::start_simulated(3).await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    assert!(add_one(&cluster, leader).await, "the cluster takes writes");
    let old_term = cluster.node(leader).consensus().leadership().role().1;

    // From here on the leader's own syncs take longer than the rest of its life: what is
    // acknowledged now is durable on the two followers only.
    let slow = Latency { sync: Duration::from_secs(60), ..Latency::default() };
    cluster.simulated(leader).disk.set_latency(slow);
    let mut acknowledged = 1;
    for _ in 0..20 {
        acknowledged += i64::from(add_one(&cluster, leader).await);
    }
    assert!(acknowledged > 10, "the followers commit without the leader's disk: {acknowledged}");

    // The power fails, and the followers can't reach each other: nobody can lead without the node
    // that comes back first, which has forgotten what was acknowledged.
    cluster.switchboard.cut(others[0], others[1]);
    cluster.cut_power(leader).await;
    cluster.simulated(leader).disk.set_latency(Latency::default());
    cluster.start_node(leader).await.expect("it starts again by itself");

    let next = cluster.leader().await;
    assert_ne!(next, leader, "a node that lacks acknowledged entries must not lead");
    let term = cluster.node(next).consensus().leadership().role().1;
    assert!(term > old_term, "term {term} is not a new one after {old_term}");
    for _ in 0..10 {
        acknowledged += i64::from(add_one(&cluster, next).await);
    }
    assert_eq!(read(&cluster, next).await, acknowledged, "an acknowledged add is missing");

    cluster.switchboard.mend();
    eventually("all three hold the same state", || {
        let states: Vec<_> = cluster.ids().iter().map(|id| state_of(&cluster, *id)).collect();
        states.iter().all(|state| *state == states[0])
    })
    .await;
    for id in cluster.ids() {
        assert_eq!(read(&cluster, id).await, acknowledged, "as node {id} reads it");
    }
}
