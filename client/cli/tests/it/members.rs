//! Steps of the membership, against a node that answers them by a script.

use tally_client::proto as v1;
use tally_proto::v1::answer::Response;

use crate::{
    fake::Cluster,
    runs::{Run, line},
};

/// Three voters, and node 5 without a vote.
fn voters() -> Option<v1::ClusterVoters> {
    let voters = v1::ClusterVoters {
        voters: vec![1, 2, 3],
        learners: vec![5],
        quorum: 2,
        tolerated_failures: 1,
        ..Default::default()
    };
    Some(voters)
}

fn plan(node_id: u64, is_so: bool) -> Option<Box<v1::ClusterPlan>> {
    let (before, after) = (voters(), voters());
    Some(Box::new(v1::ClusterPlan { node_id, is_so, before, after, ..Default::default() }))
}

fn learner(node_id: u64, is_so: bool) -> Response {
    let plan = plan(node_id, is_so);
    Response::ClusterAddLearner(v1::ClusterAddLearnerResponse { plan, ..Default::default() })
}

fn gone(node_id: u64) -> Response {
    let plan = plan(node_id, true);
    Response::ClusterRemove(v1::ClusterRemoveResponse { plan, ..Default::default() })
}

/// Runs it against a node that gives these answers, and no others: what is left of them is how many it was not asked for.
async fn runs(arguments: &str, answers: impl IntoIterator<Item = Response>) -> (Run, usize) {
    let cluster = Cluster::start(1).await;
    cluster.nodes[0].refuses_reads.lock().unwrap().extend(answers);
    let run = line(&cluster, arguments).await;
    let left = cluster.nodes[0].refuses_reads.lock().unwrap().len();
    (run, left)
}

/// The old one was a learner, or nobody knows: its successor gets no vote by the command being given again.
#[tokio::test]
async fn a_replacement_that_is_given_again_gives_no_vote() {
    let answers = || [gone(4), learner(5, true), gone(4), gone(4)];
    let (run, left) = runs("cluster replace 4 127.0.0.1:9", answers()).await;
    assert_eq!((run.exit, left), (0, 0), "{}{}", run.stdout, run.stderr);
    assert!(!run.stdout.contains("make node 5 a voter"), "{}", run.stdout);
    assert!(
        run.stdout.contains("node 5 has the place of node 4: it is a learner"),
        "{}",
        run.stdout
    );
    let (run, left) = runs("cluster replace 4 127.0.0.1:9 --preview", answers()).await;
    assert_eq!((run.exit, left), (0, 2), "{}{}", run.stdout, run.stderr);
    assert!(!run.stdout.contains("becomes a voter"), "{}", run.stdout);
}

/// Its place was taken by another one: this one would be one more.
#[tokio::test]
async fn a_node_that_is_gone_is_not_replaced_by_one_that_is_no_member() {
    for how in ["", " --preview"] {
        let answers = [gone(3), learner(6, false), learner(6, false)];
        let (run, left) = runs(&format!("cluster replace 3 127.0.0.1:9{how}"), answers).await;
        assert_eq!((run.exit, left), (3, 1), "{}{}", run.stdout, run.stderr);
        assert!(run.stderr.contains("`tally cluster add 6 127.0.0.1:9`"), "{}", run.stderr);
    }
}

/// It is not what was asked for, though a transfer was made.
#[tokio::test]
async fn a_transfer_by_which_another_node_leads_is_not_done() {
    let answer = |leader_id| {
        let plan = plan(1, false);
        let header = None;
        Response::ClusterTransferLeader(v1::ClusterTransferLeaderResponse {
            header,
            leader_id,
            plan,
        })
    };
    let (run, _) = runs("cluster transfer-leader 1", [answer(0), answer(2)]).await;
    assert_eq!(run.exit, 4, "{}{}", run.stdout, run.stderr);
    assert!(run.stderr.contains("node 2 leads, not node 1"), "{}", run.stderr);
    assert!(!run.stdout.contains("done"), "{}", run.stdout);
    let (run, _) = runs("cluster transfer-leader 1 --json", [answer(0), answer(2)]).await;
    let message = run.json()["error"]["message"].to_string();
    assert!(run.exit == 4 && message.contains("node 2 leads, not node 1"), "{message}");
    // Nobody in particular was asked for; or it is the one that was.
    for (arguments, leader_id) in [("", 2), (" 1", 1)] {
        let arguments = format!("cluster transfer-leader{arguments}");
        let (run, left) = runs(&arguments, [answer(0), answer(leader_id)]).await;
        assert_eq!((run.exit, left), (0, 0), "{}{}", run.stdout, run.stderr);
        assert!(run.stdout.contains("done"), "{}", run.stdout);
    }
}
