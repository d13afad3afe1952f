//! Replicas that compare themselves: a bit flips in what one of them has stored, and nobody who asks it is told
//! anything of it but what is only local.

use tally_proto::{
    reason,
    v1::{self, NodeStatus, Outcome, ReadLevel, answer::Response, call::Request},
};
use tonic::Code;

use crate::{
    client::{Failure, unary},
    cluster::{Cluster, eventually},
    requests::{apply, at_level, bounded, header, put, status, step_put},
};

const KEYS: u8 = 10;

/// Three nodes that compare themselves all the time, and read from their stores whatever they have not just written.
async fn cluster() -> Cluster {
    let cluster = Cluster::start_simulated_with(3, |config| {
        config.state_compare_interval_ms = 200;
        config.flush_interval_ms = 50;
        config.state_cache_bytes = 0;
    })
    .await;
    write_all(&cluster, 1).await;
    for id in cluster.ids() {
        is_flushed(&cluster, id).await;
    }
    cluster
}

fn key(n: u8) -> String {
    format!("key-{n}")
}

async fn write_all(cluster: &Cluster, value: u8) {
    let channel = cluster.channel(cluster.leader().await);
    for n in 0..KEYS {
        unary(&channel, put(&key(n), vec![value])).await.expect("there is a quorum");
    }
    cluster.caught_up().await;
}

/// What it has applied by now is in its store.
async fn is_flushed(cluster: &Cluster, id: u64) {
    let state = cluster.node(id).consensus().state();
    let applied = state.applied();
    eventually("it is flushed", || state.flushed_applied() >= applied).await;
}

/// A bit of this key's stored value flips.
fn rots(cluster: &Cluster, id: u64, n: u8) {
    let record = [&[0x11], key(n).as_bytes()].concat();
    let rotten = cluster.simulated(id).stores.rot(|key| key == record);
    assert!(rotten.is_some(), "the store has it");
}

fn differs(cluster: &Cluster, id: u64) -> bool {
    cluster.node(id).consensus().comparisons().differs()
}

fn read(n: u8, level: ReadLevel) -> Request {
    Request::KeysGet(v1::KeysGetRequest { key: key(n), read: at_level(level) })
}

async fn refused(cluster: &Cluster, id: u64, request: Request) -> Failure {
    let failed = unary(&cluster.channel(id), request).await;
    Failure::from(failed.expect_err("it must not answer"))
}

async fn own_line(cluster: &Cluster, id: u64) -> NodeStatus {
    let shown = unary(&cluster.channel(id), status()).await.expect("it answers");
    let Response::ClusterStatus(shown) = shown else { panic!("another answer: {shown:?}") };
    shown.nodes.into_iter().find(|node| node.id == id).expect("it speaks of itself")
}

/// It answers nothing but LOCAL reads, which say so, and says why to whoever asks for its status.
async fn serves_nobody(cluster: &Cluster, id: u64) {
    const READ: (Code, &str, Option<Outcome>) = (Code::Unavailable, reason::STATE_DIFFERS, None);
    const WRITE: (Code, &str, Option<Outcome>) =
        (Code::Unavailable, reason::STATE_DIFFERS, Some(Outcome::NotApplied));
    for options in [at_level(ReadLevel::Linearizable), bounded(60_000, false)] {
        let request = Request::KeysGet(v1::KeysGetRequest { key: key(0), read: options });
        let failure = refused(cluster, id, request).await;
        assert_eq!(failure.row(), READ, "{}", failure.message);
    }
    let failure = refused(cluster, id, put("other", vec![1])).await;
    assert_eq!(failure.row(), WRITE);
    failure.assert_complete();
    assert!(failure.message.contains("wipe its data directory"), "{}", failure.message);
    assert!(failure.details.header.expect("it has one").state_differs);
    let open = Request::BackupOpen(v1::BackupOpenRequest { local: true });
    assert_eq!(refused(cluster, id, open).await.row(), WRITE);
    let local = unary(&cluster.channel(id), read(0, ReadLevel::Local)).await.expect("it is there");
    assert!(header(&local).state_differs, "whoever reads it is told");
    let line = own_line(cluster, id).await;
    assert!(line.local_reads_only.contains("its state differs"), "{}", line.local_reads_only);
}

/// The others answer as ever.
async fn serves(cluster: &Cluster, id: u64) {
    assert!(!differs(cluster, id));
    let channel = cluster.channel(id);
    unary(&channel, put("other", vec![2])).await.expect("there is a quorum");
    let read = unary(&channel, read(0, ReadLevel::Linearizable)).await.expect("there is a quorum");
    assert!(!header(&read).state_differs);
    assert_eq!(own_line(cluster, id).await.local_reads_only, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_stored_byte_flips_serves_nobody_any_more() {
    let mut cluster = cluster().await;
    let leader = cluster.leader().await;
    let one = cluster.follower().await;
    rots(&cluster, one, 3);
    write_all(&cluster, 2).await;
    eventually("it is found out", || differs(&cluster, one)).await;
    serves_nobody(&cluster, one).await;
    for id in cluster.ids().into_iter().filter(|id| *id != one) {
        serves(&cluster, id).await;
    }
    assert_eq!(cluster.leader().await, leader, "nobody else is in the way");
    // What is on its disk is as wrong after a restart.
    cluster.stop(one).await;
    cluster.start_node(one).await.expect("it starts");
    cluster.settled().await;
    serves_nobody(&cluster, one).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_stored_byte_flips_hands_over_and_leads_no_more() {
    let cluster = cluster().await;
    let one = cluster.leader().await;
    rots(&cluster, one, 3);
    // One write: as soon as it is compared, this node takes no more.
    unary(&cluster.channel(one), put(&key(3), vec![2])).await.expect("there is a quorum");
    eventually("it is found out", || differs(&cluster, one)).await;
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != one).collect();
    let leads = |id: &u64| cluster.node(*id).consensus().leadership().term_as_leader().is_some();
    eventually("another node leads", || others.iter().any(leads) && !leads(&one)).await;
    cluster.settled().await;
    serves_nobody(&cluster, one).await;
    for id in others {
        serves(&cluster, id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_overwrites_is_found_when_a_snapshot_is_built_and_goes_nowhere() {
    let cluster = cluster().await;
    let one = cluster.follower().await;
    rots(&cluster, one, 3);
    let consensus = cluster.node(one).consensus();
    consensus.raft().trigger().snapshot().await.expect("Raft runs");
    eventually("it is found out", || differs(&cluster, one)).await;
    assert_eq!(consensus.state().current_snapshot(), None);
    serves_nobody(&cluster, one).await;
    serves(&cluster, cluster.leader().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_written_and_everybody_is_told() {
    let cluster = cluster().await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    rots(&cluster, others[0], 3);
    rots(&cluster, others[1], 4);
    let channel = cluster.channel(leader);
    // In one entry, so that no comparison comes in between.
    let both = apply(|step| {
        step.operations = vec![step_put(&key(3), vec![2]), step_put(&key(4), vec![2])];
    });
    unary(&channel, both).await.expect("there is a quorum");
    let stops = || {
        let comparisons = cluster.node(leader).consensus().comparisons();
        let text = comparisons.why_nothing_is_written();
        text.is_some_and(|text| others.iter().all(|id| text.contains(&format!("node {id} "))))
    };
    eventually("writes stop", stops).await;
    let failure = refused(&cluster, leader, put("other", vec![1])).await;
    let row = (Code::Unavailable, reason::NO_STATE_MAJORITY, Some(Outcome::NotApplied));
    assert_eq!(failure.row(), row, "{}", failure.message);
    assert_eq!(refused(&cluster, others[0], put("other", vec![1])).await.row(), row);
    assert!(own_line(&cluster, leader).await.note.contains("no majority of them agrees"));
    assert!(
        cluster.ids().into_iter().all(|id| !differs(&cluster, id)),
        "nobody knows who is right"
    );
    let read = unary(&channel, read(0, ReadLevel::Linearizable)).await;
    read.expect("what was acknowledged is read as ever");
}
