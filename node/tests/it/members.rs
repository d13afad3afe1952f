//! Who may be added, promoted and removed, and what strangers at a member's address do to it: nothing.

use std::time::Duration;

use tally_proto::{
    reason,
    v1::{self, answer::Response, call::Request},
};
use tonic::{Code, Status, transport::Channel};

use crate::{
    client::{Failure, unary},
    cluster::{Cluster, ELECTION_TIMEOUT_MAX, eventually},
    requests::*,
};

fn add_learner(node_id: u64, peer_address: String) -> Request {
    Request::ClusterAddLearner(v1::ClusterAddLearnerRequest {
        node_id,
        peer_address,
        preview: false,
    })
}

fn promote(node_id: u64) -> Request {
    Request::ClusterPromote(v1::ClusterPromoteRequest { node_id, ..Default::default() })
}

fn remove(node_id: u64) -> Request {
    Request::ClusterRemove(v1::ClusterRemoveRequest { node_id, ..Default::default() })
}

/// Though fewer may fail then.
fn remove_all_the_same(node_id: u64) -> Request {
    Request::ClusterRemove(v1::ClusterRemoveRequest {
        node_id,
        preview: false,
        accept_fewer_failures: true,
    })
}

/// Asks the leader, which must refuse in words that hold all of `parts`.
pub(crate) async fn refused(cluster: &Cluster, request: Request, parts: &[&str]) {
    refused_for(reason::MEMBERSHIP_REFUSED, cluster, request, parts).await;
}

/// The same, for this reason.
pub(crate) async fn refused_for(reason: &str, cluster: &Cluster, request: Request, parts: &[&str]) {
    let channel = cluster.channel(cluster.leader().await);
    let failure = Failure::from(unary(&channel, request).await.expect_err("it is refused"));
    let not_applied = Some(v1::Outcome::NotApplied);
    let row = (Code::FailedPrecondition, reason, not_applied);
    assert_eq!(failure.row(), row, "{failure:?}");
    for part in parts {
        assert!(failure.message.contains(part), "{:?} says {part:?}", failure.message);
    }
}

/// Adds a node that is just starting, so that none may answer there yet.
async fn added(channel: &Channel, request: Request) -> Result<Response, Status> {
    loop {
        match unary(channel, request.clone()).await {
            Err(status) if status.message().contains("no node answers") => {}
            done => return done,
        }
    }
}

async fn notes(cluster: &Cluster, asked: u64) -> Vec<(u64, bool, String)> {
    let shown = unary(&cluster.channel(asked), status()).await.expect("status always answers");
    let nodes = answer!(ClusterStatus, shown).nodes.into_iter();
    nodes.map(|node| (node.id, node.reachable, node.note)).collect()
}

/// Who answers at the address of a member that is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stranger {
    /// A node of another cluster. It was founded before: until that entry is applied, a node has no cluster to
    /// name, and is the next one.
    OfAnotherCluster,
    /// A node that has no cluster yet, with an id that is another's here.
    WithAnotherId,
    /// … with the member's own.
    WithTheSameId,
}

/// The stranger, answering at an address, and its id; and its start, if it waits for others of its own.
async fn stranger_at(
    address: &str,
    down: u64,
    kind: Stranger,
) -> (Cluster, u64, Option<tokio::task::JoinHandle<()>>) {
    let (size, id) = match kind {
        Stranger::OfAnotherCluster => (1, 1),
        Stranger::WithAnotherId => (3, down % 3 + 1),
        Stranger::WithTheSameId => (3, down),
    };
    let mut stranger = Cluster::prepare(size, |_| {});
    let is_formed = kind == Stranger::OfAnotherCluster;
    if is_formed {
        stranger.start_all().await;
        unary(&stranger.channel(id), add("a", 1)).await.expect("it is a cluster of its own");
        stranger.stop(id).await;
    }
    stranger.config(id).peer_listen = address.to_owned();
    let started = stranger.launch(id);
    if is_formed {
        let node = started.await.expect("it is a cluster of its own");
        stranger.adopt(id, node);
        return (stranger, id, None);
    }
    let waits = tokio::spawn(async {
        drop(started.await);
    });
    (stranger, id, Some(waits))
}

/// A node of another cluster at the address of one that is down; and one that has no cluster yet, also under
/// the very id. All are strangers: nobody ends, nothing of the log reaches them, and the status says so.
#[tokio::test]
async fn a_stranger_at_a_members_address_harms_nobody() {
    let mut cluster = Cluster::start(3).await;
    let down = cluster.follower().await;
    cluster.stop(down).await;
    let asked = cluster.leader().await;
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != down).collect();
    for kind in [Stranger::OfAnotherCluster, Stranger::WithAnotherId, Stranger::WithTheSameId] {
        let mut line = notes(&cluster, asked).await;
        while line.iter().any(|(id, _, note)| *id == down && !note.is_empty()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            line = notes(&cluster, asked).await;
        }
        let address = cluster.peer_address(down);
        let (mut stranger, id, waits) = stranger_at(&address, down, kind).await;
        let expected = match kind {
            Stranger::OfAnotherCluster => "a node of cluster ".to_owned(),
            Stranger::WithAnotherId => format!("node {id} answers at"),
            Stranger::WithTheSameId => "a node with another data directory answers at".to_owned(),
        };
        let mut noted = String::new();
        for _ in 0..400 {
            let line = notes(&cluster, asked).await.into_iter().find(|(id, ..)| *id == down);
            let (_, reachable, note) = line.expect("it is still a member");
            assert!(!reachable, "a stranger is not the member: {note}");
            if !note.is_empty() {
                noted = note;
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let is_so = noted.starts_with(&expected) && noted.contains("answers at");
        assert!(is_so, "{kind:?}: {noted:?}");
        for id in &others {
            unary(&cluster.channel(*id), add("a", 1)).await.expect("two of three go on");
            assert!(!cluster.is_refused(*id).await, "what a stranger says ends nobody");
        }
        if let Some(waits) = waits {
            assert!(!waits.is_finished(), "it waits for its own first members");
            waits.abort();
        }
        stranger.kill(id).await;
    }
    cluster.start_node(down).await.expect("its address is its own again");
    cluster.settled().await;
    unary(&cluster.channel(down), add("a", 1)).await.expect("it takes part");
    let mut lines = Vec::new();
    for _ in 0..400 {
        lines = notes(&cluster, asked).await;
        if lines.iter().all(|(_, reachable, note)| *reachable && note.is_empty()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the trouble is over: {lines:?}");
}

#[tokio::test]
async fn only_a_new_node_of_no_other_cluster_is_added() {
    let mut cluster = Cluster::start(3).await;
    let other = Cluster::start(1).await;
    refused(&cluster, add_learner(9, other.peer_address(1)), &["is of cluster"]).await;
    refused(
        &cluster,
        add_learner(9, "127.0.0.1:1".to_owned()),
        &["no node answers", "start node 9"],
    )
    .await;
    let follower = cluster.follower().await;
    let at_member = add_learner(9, cluster.peer_address(follower));
    refused(&cluster, at_member, &[&format!("is node {follower}"), "not node 9"]).await;
    let elsewhere = add_learner(follower, other.peer_address(1));
    refused(&cluster, elsewhere, &["is a member at", "never used again"]).await;
    cluster.add(9);
    let starting = tokio::spawn(cluster.launch(9));
    let channel = cluster.channel(cluster.leader().await);
    let request = add_learner(9, cluster.peer_address(9));
    unary(&channel, request.clone()).await.expect("it waits to be added");
    unary(&channel, request).await.expect("asked again, it is so");
    starting.await.expect("it does not panic").expect("it starts");
    for id in cluster.ids().into_iter().filter(|id| *id != 9) {
        assert!(!cluster.is_refused(id).await);
    }
}

/// The id of the other cluster's only node is 1, which is a member here: so the same with another id.
#[tokio::test]
async fn a_node_of_another_cluster_is_not_added_under_its_own_id() {
    let mut other = Cluster::prepare(9, |_| {});
    let address = other.peer_address(9);
    other.config(9).initial_cluster = format!("9={address}").parse().expect("a member");
    other.start_node(9).await.expect("it is a cluster of its own");
    unary(&other.channel(9), add("a", 1)).await.expect("it serves");
    let cluster = Cluster::start(1).await;
    refused(&cluster, add_learner(9, address), &["is of cluster"]).await;
    unary(&other.channel(9), add("a", 1)).await.expect("it goes on");
}

#[tokio::test]
async fn what_would_cost_the_quorum_is_refused() {
    let mut cluster = Cluster::start(3).await;
    refused(&cluster, remove(99), &["node 99", "no member"]).await;
    refused(&cluster, promote(99), &["not a learner"]).await;

    cluster.add(9);
    let starting = tokio::spawn(cluster.launch(9));
    let channel = cluster.channel(cluster.leader().await);
    unary(&channel, add_learner(9, cluster.peer_address(9))).await.expect("it is added");
    cluster.adopt(9, starting.await.expect("it does not panic").expect("it starts"));
    cluster.kill(9).await;
    cluster.take_fatal(9);
    tokio::time::sleep(3 * ELECTION_TIMEOUT_MAX).await;
    refused(&cluster, promote(9), &["node 9", "has not been heard of"]).await;

    let (leader, down) = (cluster.leader().await, cluster.follower().await);
    let other = (1..=3).find(|id| ![leader, down].contains(id)).expect("there are three");
    cluster.stop(down).await;
    tokio::time::sleep(3 * ELECTION_TIMEOUT_MAX).await;
    refused(&cluster, remove(other), &["would leave no quorum", &down.to_string()]).await;
    let channel = cluster.channel(cluster.leader().await);
    unary(&channel, remove(down)).await.expect("the one that is down can go");
    unary(&channel, remove(down)).await.expect("asked again, it is so");
    unary(&channel, add("a", 1)).await.expect("two of two go on");
}

/// openraft takes the second step of a change for whoever asked for the first. A leader that dies in
/// between leaves both sets of voters; here it is the caller who goes away.
#[tokio::test]
async fn a_change_of_voters_that_was_left_open_is_ended_by_the_leader() {
    let mut cluster = Cluster::start(3).await;
    cluster.add(9);
    let starting = tokio::spawn(cluster.launch(9));
    let leader = cluster.leader().await;
    let channel = cluster.channel(leader);
    unary(&channel, add_learner(9, cluster.peer_address(9))).await.expect("it is added");
    cluster.adopt(9, starting.await.expect("it does not panic").expect("it starts"));
    let consensus = cluster.node(leader).consensus().clone();
    let voters = || {
        let membership = consensus.leadership().metrics().membership_config;
        membership.membership().get_joint_config().clone()
    };
    let begun = std::future::poll_fn(|_| match voters().len() {
        1 => std::task::Poll::Pending,
        _ => std::task::Poll::Ready(()),
    });
    let change = openraft::ChangeMembers::AddVoterIds([9].into());
    tokio::select! {
        biased;
        () = begun => {}
        changed = consensus.raft().change_membership(change, false) => panic!("{changed:?}"),
    }
    assert_eq!(
        voters(),
        [[1, 2, 3].into(), [1, 2, 3, 9].into()],
        "its caller takes no second step"
    );
    eventually("the leader takes it", || voters() == [[1, 2, 3, 9].into()]).await;
    unary(&channel, promote(9)).await.expect("asked again, it is so");
    unary(&channel, add("a", 1)).await.expect("four voters go on");
}

/// Whether it ran or not when it was removed: it knows, serves nothing, and does not start again.
#[tokio::test]
async fn a_removed_node_says_so_and_serves_nothing() {
    let mut cluster = Cluster::start(5).await;
    let leader = cluster.leader().await;
    let mut others = cluster.ids().into_iter().filter(|id| *id != leader);
    let (runs, down) = (others.next().expect("five"), others.next().expect("five"));
    drop(others);
    cluster.stop(down).await;
    for removed in [runs, down] {
        let channel = cluster.channel(cluster.leader().await);
        unary(&channel, remove_all_the_same(removed)).await.expect("three are left");
    }
    let reason = cluster.refused(runs).await;
    assert!(reason.contains("was removed from its cluster"), "{reason}");
    cluster.stop(runs).await;
    for removed in [runs, down, down] {
        let error = cluster.start_node(removed).await.expect_err("it serves nothing");
        let text = error.to_string();
        assert!(text.contains("was removed from its cluster"), "{text}");
        assert!(text.contains("new node id") && error.needs_a_person(), "{text}");
    }
    let channel = cluster.channel(cluster.leader().await);
    unary(&channel, add("a", 1)).await.expect("three of three go on");
}

fn plan_of(response: v1::answer::Response) -> v1::ClusterPlan {
    let plan = match response {
        v1::answer::Response::ClusterAddLearner(response) => response.plan,
        v1::answer::Response::ClusterPromote(response) => response.plan,
        v1::answer::Response::ClusterRemove(response) => response.plan,
        other => panic!("not a change of the membership: {other:?}"),
    };
    *plan.expect("it has a plan")
}

async fn preview(cluster: &Cluster, asked: u64, request: Request) -> v1::ClusterPlan {
    let request = match request {
        Request::ClusterAddLearner(request) => {
            Request::ClusterAddLearner(v1::ClusterAddLearnerRequest { preview: true, ..request })
        }
        Request::ClusterPromote(request) => {
            Request::ClusterPromote(v1::ClusterPromoteRequest { preview: true, ..request })
        }
        Request::ClusterRemove(request) => {
            Request::ClusterRemove(v1::ClusterRemoveRequest { preview: true, ..request })
        }
        other => panic!("not a change of the membership: {other:?}"),
    };
    let index = cluster.last_log_index(asked);
    let plan = plan_of(unary(&cluster.channel(asked), request).await.expect("it is only shown"));
    assert_eq!(cluster.last_log_index(asked), index, "nothing is done");
    plan
}

#[tokio::test]
async fn a_step_is_shown_before_it_is_done() {
    let mut cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let plan = preview(&cluster, follower, remove(follower)).await;
    let (before, after) = (plan.before.expect("before"), plan.after.expect("after"));
    assert_eq!((before.voters, before.quorum, before.tolerated_failures), (vec![1, 2, 3], 2, 1));
    assert_eq!((after.voters.len(), after.quorum, after.tolerated_failures), (2, 2, 0));
    assert!(plan.refusal.contains("--accept-fewer-failures"), "{}", plan.refusal);
    assert!(plan.note.contains("tolerate no more failures"), "{}", plan.note);
    assert_eq!(plan.next_node_id, 4);
    refused(&cluster, remove(follower), &["0 may fail now", "1 may"]).await;
    let plan = preview(&cluster, follower, remove_all_the_same(follower)).await;
    assert_eq!(plan.refusal, "", "it was said");
    let nobody = add_learner(4, "127.0.0.1:1".to_owned());
    let plan = preview(&cluster, follower, nobody).await;
    assert!(plan.refusal.contains("no node answers"), "{}", plan.refusal);

    cluster.add(4);
    let starting = tokio::spawn(cluster.launch(4));
    let request = add_learner(4, cluster.peer_address(4));
    let plan = preview(&cluster, follower, request.clone()).await;
    assert_eq!((plan.refusal.as_str(), plan.is_so), ("", false));
    assert_eq!(plan.after.expect("after").learners, [4]);
    let plan = plan_of(unary(&cluster.channel(follower), request.clone()).await.expect("added"));
    assert!(!plan.is_so);
    let plan = plan_of(unary(&cluster.channel(follower), request).await.expect("asked again"));
    assert!(plan.is_so && plan.refusal.is_empty());
    cluster.adopt(4, starting.await.expect("it does not panic").expect("it starts"));
    cluster.caught_up().await;
    let plan = preview(&cluster, follower, promote(4)).await;
    assert_eq!((plan.refusal.as_str(), plan.lag_entries.is_some()), ("", true), "{plan:?}");
    assert!(plan.note.contains("4 voters tolerate no more"), "{}", plan.note);
    // Who is silent is said.
    cluster.stop(follower).await;
    tokio::time::sleep(3 * ELECTION_TIMEOUT_MAX).await;
    let asked = cluster.leader().await;
    let before = preview(&cluster, asked, promote(4)).await.before.expect("before");
    assert_eq!((before.silent, before.spare), (vec![follower], 0));
}

/// Also by a leader that has never met the node, and after all that met it have forgotten.
/// A follower, then the leader, comes back at another address; and one that says it is where nobody answers.
#[tokio::test]
async fn a_node_that_moved_is_found() {
    let mut cluster = Cluster::start(3).await;
    for moved in [cluster.follower().await, cluster.leader().await] {
        cluster.stop(moved).await;
        cluster.settled().await;
        let before = cluster.peer_address(moved);
        cluster.move_node(moved);
        let now = cluster.peer_address(moved);
        assert_ne!(before, now);
        cluster.start_node(moved).await.expect("it is whole");
        for asked in cluster.ids() {
            eventually("the membership has the new address", || {
                let (_, members) = cluster.node(asked).consensus().members();
                members.iter().any(|(id, member)| *id == moved && member.peer_address == now)
            })
            .await;
        }
        cluster.settled().await;
        unary(&cluster.channel(moved), add("a", 1)).await.expect("a healthy cluster");
        cluster.caught_up().await;
    }
    let wrong = cluster.follower().await;
    cluster.stop(wrong).await;
    let before = cluster.peer_address(wrong);
    cluster.advertise(wrong, "127.0.0.1:1");
    cluster.start_node(wrong).await.expect("it is whole");
    cluster.settled().await;
    // Some introductions and looks long.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (_, members) = cluster.node(cluster.leader().await).consensus().members();
    let is_as_before = members.iter().any(|(id, it)| *id == wrong && it.peer_address == before);
    assert!(is_as_before, "nobody answers where it says it is: {members:?}");
}

#[tokio::test]
async fn an_id_that_was_a_members_is_nobodys_again() {
    let mut cluster = Cluster::start(3).await;
    cluster.add(4);
    let starting = tokio::spawn(cluster.launch(4));
    let channel = cluster.channel(cluster.leader().await);
    unary(&channel, add_learner(4, cluster.peer_address(4))).await.expect("it is added");
    cluster.adopt(4, starting.await.expect("it does not panic").expect("it starts"));
    // One that is taken out before it has heard that it is in does not know that it was.
    cluster.caught_up().await;
    unary(&channel, remove(4)).await.expect("a learner can go");
    unary(&channel, remove(4)).await.expect("asked again, it is so");
    cluster.refused(4).await;
    cluster.stop(4).await;

    // Whoever has met node 4 is replaced, one after the other.
    let mut ids: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != 4).collect();
    for (old, new) in [(1, 5), (2, 6), (3, 7)] {
        cluster.add(new);
        let starting = tokio::spawn(cluster.launch(new));
        let asked = *ids.iter().find(|id| **id != old).expect("others");
        let channel = cluster.channel(asked);
        let request = add_learner(new, cluster.peer_address(new));
        added(&channel, request).await.expect("it may be added");
        cluster.adopt(new, starting.await.expect("it does not panic").expect("it starts"));
        cluster.caught_up().await;
        unary(&channel, promote(new)).await.expect("it has caught up");
        let mut removed = unary(&channel, remove(old)).await;
        while removed.is_err() {
            // It led, perhaps.
            tokio::time::sleep(Duration::from_millis(50)).await;
            removed = unary(&channel, remove(old)).await;
        }
        ids.retain(|id| *id != old);
        ids.push(new);
        cluster.refused(old).await;
        cluster.stop(old).await;
    }
    let channel = cluster.channel(ids[0]);
    unary(&channel, remove(4)).await.expect("nobody here has met it, and it is so");
    let shown = unary(&channel, status()).await.expect("status always answers");
    assert_eq!(answer!(ClusterStatus, shown).next_node_id, 8);
    // Another directory under its id, which nobody here can know.
    let mut wiped = Cluster::prepare(1, |_| {});
    wiped.add(4);
    let starting = tokio::spawn(wiped.launch(4));
    let request = add_learner(4, wiped.peer_address(4));
    let failed = added(&channel, request).await.expect_err("the id is used");
    let failure = Failure::from(failed);
    assert_eq!(failure.row().1, reason::MEMBERSHIP_REFUSED);
    // By a node that has heard of the first directory, or else by the record of the id.
    assert!(failure.message.contains("an id is never used again"), "{}", failure.message);
    starting.abort();
}
