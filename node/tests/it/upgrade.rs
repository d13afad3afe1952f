//! Nodes of two releases in one cluster, and the end of an upgrade. Both are this build: the older one is played by
//! a node that reads the first version of the formats only.

use tally_node::{
    config::UpgradeFinalize,
    consensus::{
        members::{MemberError, Newcomer},
        upgrade::HEARD_WITHIN,
    },
    env::identity::IdentityError,
    machine::version::{FormatRange, FormatVersion},
    node::NodeError,
    peer::hello::NotWelcome,
};
use tally_proto::{
    reason,
    v1::{self, call::Request},
};
use tonic::{Code, transport::Channel};

use crate::{
    client::{Failure, unary},
    cluster::{Cluster, eventually},
    members::refused_for,
    requests::*,
};

const OLD: FormatRange = FormatRange::UNSAID;
const NEW: FormatRange = FormatRange::OURS;

fn finalize(preview: bool) -> Request {
    Request::ClusterFinalizeUpgrade(v1::ClusterFinalizeUpgradeRequest { preview })
}

/// A cluster of the older release.
async fn older(size: u64) -> Cluster {
    let mut cluster = Cluster::prepare(size, |_| {});
    cluster.ids().into_iter().for_each(|id| cluster.read_formats(id, OLD));
    cluster.start_all().await;
    cluster.known().await;
    cluster
}

impl Cluster {
    /// Every node knows its cluster.
    async fn known(&self) {
        eventually("every node knows its cluster", || {
            self.running_ids().into_iter().all(|id| self.node(id).consensus().is_cluster_known())
        })
        .await;
    }

    fn versions(&self) -> Vec<u32> {
        let ids = self.running_ids().into_iter();
        ids.map(|id| self.node(id).consensus().cluster_version().0).collect()
    }

    /// Stops a node and starts it with another release.
    async fn change_release(&mut self, id: u64, formats: FormatRange) {
        self.stop(id).await;
        self.read_formats(id, formats);
        self.start_node(id).await.expect("until the upgrade is finalized any may go either way");
        self.settled().await;
    }

    /// The leader has heard of every member what it reads, and nobody is in the way.
    async fn all_heard(&self) {
        eventually("all were heard", || {
            self.running_ids().into_iter().any(|id| {
                let consensus = self.node(id).consensus();
                consensus.must_lead().is_ok() && consensus.plan_upgrade().refusal.is_none()
            })
        })
        .await;
    }

    fn identity(&self, id: u64) -> String {
        std::fs::read_to_string(self.data_dir(id).join("IDENTITY")).expect("it is there")
    }

    async fn plan(&self, request: Request) -> v1::UpgradePlan {
        let asked = self.channel(self.follower().await);
        let done = unary(&asked, request).await.expect("it is not refused");
        *answer!(ClusterFinalizeUpgrade, done).plan.expect("it has a plan")
    }

    async fn finalize_refused(&self, parts: &[&str]) {
        let asked = self.channel(self.leader().await);
        let failure = Failure::from(unary(&asked, finalize(false)).await.expect_err("refused"));
        assert_eq!(failure.row().1, reason::UPGRADE_REFUSED, "{failure:?}");
        for part in parts {
            assert!(failure.message.contains(part), "{:?} says {part:?}", failure.message);
        }
    }
}

#[tokio::test]
async fn a_new_cluster_begins_with_what_its_members_read() {
    let cluster = Cluster::start(3).await;
    cluster.known().await;
    cluster.caught_up().await;
    assert_eq!(cluster.versions(), [FormatVersion::MAX.0; 3]);
    eventually("the directories say so", || {
        (1..=3).all(|id| cluster.identity(id).contains("\"format\": 2"))
    })
    .await;
    assert!(cluster.plan(finalize(false)).await.is_so);

    let mut mixed = Cluster::prepare(3, |_| {});
    mixed.read_formats(2, OLD);
    mixed.start_all().await;
    mixed.known().await;
    mixed.caught_up().await;
    assert_eq!(mixed.versions(), [1; 3]);
    mixed.finalize_refused(&["node 2 reads version 1", "new release first"]).await;
}

#[tokio::test]
async fn until_it_is_finalized_any_node_may_go_back_and_from_then_on_none() {
    let mut cluster = older(3).await;
    unary(&cluster.channel(1), add("a", 1)).await.expect("a healthy cluster");
    assert!(cluster.plan(finalize(true)).await.is_so, "nobody reads more");
    for id in [1, 2] {
        cluster.change_release(id, NEW).await;
        unary(&cluster.channel(id), add("a", 1)).await.expect("a mixed cluster works");
    }
    cluster.finalize_refused(&["node 3 reads version 1"]).await;
    // Back, and forth again.
    cluster.change_release(1, OLD).await;
    unary(&cluster.channel(1), add("a", 1)).await.expect("the older release goes on");
    cluster.change_release(1, NEW).await;
    cluster.change_release(3, NEW).await;
    cluster.all_heard().await;
    let plan = cluster.plan(finalize(true)).await;
    assert_eq!((plan.version, plan.to, plan.is_so), (1, 2, false), "{plan:?}");
    let heard = |it: &v1::MemberFormats| (it.node_id, it.format_min, it.format_max);
    assert_eq!(
        plan.members.iter().map(heard).collect::<Vec<_>>(),
        [(1, 1, 2), (2, 1, 2), (3, 1, 2)]
    );
    assert_eq!(cluster.versions(), [1; 3], "nothing was done");
    assert!((1..=3).all(|id| cluster.identity(id).contains("\"format\": 1")));

    let plan = cluster.plan(finalize(false)).await;
    assert_eq!((plan.version, plan.to, plan.is_so), (1, 2, false), "{plan:?}");
    cluster.caught_up().await;
    assert_eq!(cluster.versions(), [2; 3]);
    assert!((1..=3).all(|id| cluster.identity(id).contains("\"format\": 2")));
    assert!(cluster.plan(finalize(false)).await.is_so, "asked again");

    let follower = cluster.follower().await;
    cluster.stop(follower).await;
    let before = cluster.identity(follower);
    cluster.read_formats(follower, OLD);
    let error = cluster.start_node(follower).await.expect_err("there is no way back");
    assert!(error.needs_a_person(), "{error}");
    let says = error.to_string();
    assert!(matches!(error, NodeError::Identity(IdentityError::ClusterVersion { .. })), "{says}");
    assert!(says.contains("start the newer release again") && says.contains("Nothing was changed"));
    assert_eq!(cluster.identity(follower), before);
    cluster.read_formats(follower, NEW);
    cluster.start_node(follower).await.expect("the newer release starts");
    cluster.settled().await;

    // Nor is one added that does not read it.
    cluster.add(4);
    cluster.read_formats(4, OLD);
    let launched = cluster.launch(4);
    let peer_address = cluster.peer_address(4);
    eventually("node 4 waits to be added", || std::net::TcpStream::connect(&peer_address).is_ok())
        .await;
    let request = v1::ClusterAddLearnerRequest { node_id: 4, peer_address, preview: false };
    refused_for(
        reason::UPGRADE_REFUSED,
        &cluster,
        Request::ClusterAddLearner(request),
        &["node 4 reads version 1", "version 2"],
    )
    .await;
    drop(launched);
}

/// It had said that it reads what comes, stopped, and is started with the older release after the end of the upgrade:
/// its directory knows nothing of it, and its peers tell it before it takes part.
#[tokio::test]
async fn a_node_that_missed_the_end_of_an_upgrade_is_told_by_its_peers() {
    let mut cluster = older(3).await;
    for id in 1..=3 {
        cluster.change_release(id, NEW).await;
    }
    cluster.all_heard().await;
    let missing = cluster.follower().await;
    cluster.stop(missing).await;
    let leader = cluster.channel(cluster.leader().await);
    unary(&leader, finalize(false)).await.expect("it was heard just now");
    cluster.read_formats(missing, OLD);
    let error = cluster.start_node(missing).await.expect_err("it can't take part");
    let says = error.to_string();
    let told = matches!(error, NodeError::NotWelcome(NotWelcome::ClusterVersion { .. }));
    assert!(told && says.contains("start the newer release again"), "{says}");
    assert!(cluster.identity(missing).contains("\"format\": 1"), "it has written nothing of it");
    cluster.caught_up().await;
    assert_eq!(cluster.versions(), [2; 2]);
    // (It could start again with the newer release; not in this process, which still has its state open.)
}

/// Several operators at once, at every node: the version rises once, and whoever comes second is told that it is so, or
/// that somebody is at it.
#[tokio::test]
async fn two_who_finalize_at_once_raise_the_version_once() {
    let mut cluster = older(3).await;
    for id in 1..=3 {
        cluster.change_release(id, NEW).await;
    }
    cluster.all_heard().await;
    let channels: Vec<Channel> = (1..=3).map(|id| cluster.channel(id)).collect();
    let (mut raised, mut is_so, mut unknown) = (0, 0, 0);
    while raised + is_so == 0 {
        let asked = channels.iter().cycle().take(9).map(|channel| unary(channel, finalize(false)));
        for answered in futures_util::future::join_all(asked).await {
            match answered {
                Ok(done) => {
                    let plan = answer!(ClusterFinalizeUpgrade, done).plan.expect("it has a plan");
                    assert_eq!(plan.to, 2, "{plan:?}");
                    raised += u32::from(!plan.is_so);
                    is_so += u32::from(plan.is_so);
                }
                // Another is at it; or, on a slow machine, nobody is known to lead at the moment.
                Err(status) => {
                    let failure = Failure::from(status);
                    assert_eq!(failure.row().0, Code::Unavailable, "{failure:?}");
                    unknown += u32::from(failure.row().2 == Some(v1::Outcome::Unknown));
                }
            }
        }
    }
    assert!(raised <= 1 && raised + unknown >= 1, "{raised} raised it, {unknown} may have");
    assert!(cluster.plan(finalize(false)).await.is_so, "asked again");
    cluster.caught_up().await;
    assert_eq!(cluster.versions(), [2; 3]);
}

/// A learner counts as a voter does, and whoever is down or silent is in the way until it is heard or taken out.
#[tokio::test]
async fn learners_and_whoever_is_down_are_in_the_way_and_named() {
    let mut cluster = older(3).await;
    for id in 1..=3 {
        cluster.change_release(id, NEW).await;
    }
    cluster.add(4);
    cluster.read_formats(4, OLD);
    let starting = tokio::spawn(cluster.launch(4));
    let channel = cluster.channel(cluster.leader().await);
    let peer_address = cluster.peer_address(4);
    let answers = || std::net::TcpStream::connect(&peer_address).is_ok();
    eventually("node 4 waits to be added", answers).await;
    let learner = v1::ClusterAddLearnerRequest { node_id: 4, peer_address, preview: false };
    let added = unary(&channel, Request::ClusterAddLearner(learner)).await;
    added.expect("until the upgrade is finalized an older release is a member as any");
    cluster.adopt(4, starting.await.expect("it does not panic").expect("it starts"));
    cluster.settled().await;
    // Each says it once a second.
    eventually("all were heard", || {
        cluster.running_ids().into_iter().any(|id| {
            let consensus = cluster.node(id).consensus();
            let heard = || consensus.plan_upgrade().members.iter().all(|it| it.said.is_some());
            consensus.must_lead().is_ok() && heard()
        })
    })
    .await;
    cluster.finalize_refused(&["node 4 reads version 1", "new release first"]).await;

    cluster.stop(4).await;
    cluster.read_formats(4, NEW);
    cluster.finalize_refused(&["node 4"]).await;
    tokio::time::sleep(HEARD_WITHIN).await;
    cluster.finalize_refused(&["node 4 has not said for", "tally cluster remove 4"]).await;
    let remove =
        v1::ClusterRemoveRequest { node_id: 4, preview: false, accept_fewer_failures: false };
    let channel = cluster.channel(cluster.leader().await);
    unary(&channel, Request::ClusterRemove(remove)).await.expect("it is taken out");
    let plan = cluster.plan(finalize(false)).await;
    assert_eq!((plan.version, plan.to), (1, 2), "{plan:?}");
    eventually("all have it", || cluster.versions() == [2; 3]).await;
}

/// Its probe was answered while the cluster had the version that it reads.
#[tokio::test]
async fn who_was_asked_before_the_end_of_an_upgrade_is_not_added_behind_it() {
    let cluster = Cluster::start(1).await;
    cluster.known().await;
    let newcomer = |node_id, formats| Newcomer {
        node_id,
        peer_address: "127.0.0.1:1".to_owned(),
        incarnation: format!("{node_id:032x}"),
        formats,
    };
    let consensus = cluster.node(1).consensus();
    let refused = consensus.add_learner(newcomer(7, OLD), &[]).await;
    let Err(MemberError::UpgradeRefused(says)) = refused else {
        panic!("it is added: {refused:?}")
    };
    assert!(says.contains("node 7 reads version 1") && says.contains("version 2"), "{says}");
    assert!(!consensus.is_member(7));
    consensus.add_learner(newcomer(8, NEW), &[]).await.expect("one that reads it is");
}

/// What a leader of the newer release sends is read by a follower of the older one, a whole state, too: it is written by
/// the cluster's version. And what that follower then has is opened by either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn until_it_is_finalized_an_older_follower_reads_a_newer_leaders_snapshot() {
    let mut cluster = Cluster::prepare(3, |config| {
        config.snapshot_after_entries = 20;
        config.log_entries_kept = 10;
    });
    cluster.ids().into_iter().for_each(|id| cluster.read_formats(id, OLD));
    cluster.start_all().await;
    cluster.known().await;
    for id in [1, 2] {
        cluster.change_release(id, NEW).await;
    }
    // If it leads, it hands over.
    cluster.stop(3).await;
    let leader = cluster.leader().await;
    let channel = cluster.channel(leader);
    let applied = |cluster: &Cluster, id| {
        cluster.node(id).consensus().state().applied().map_or(0, |applied| applied.index)
    };
    let missed = applied(&cluster, leader);
    eventually_purged(&cluster, leader, missed, &channel).await;
    cluster.start_node(3).await.expect("it is of the older release, as before");
    cluster.settled().await;
    cluster.caught_up().await;
    let snapshot = cluster.node(3).consensus().state().current_snapshot();
    assert!(snapshot.is_some(), "it was sent one");
    assert_eq!(cluster.versions(), [1; 3]);
    unary(&cluster.channel(3), add("a", 1)).await.expect("it takes part");
    cluster.change_release(3, NEW).await;
}

/// Writes until the leader has no entry at this index any more.
async fn eventually_purged(cluster: &Cluster, leader: u64, missed: u64, channel: &Channel) {
    for _ in 0..400 {
        for _ in 0..10 {
            unary(channel, add("a", 1)).await.expect("two of three go on");
        }
        let metrics = cluster.node(leader).consensus().leadership().metrics();
        if metrics.purged.is_some_and(|purged| purged.index > missed) {
            return;
        }
    }
    panic!("the leader still has what node 3 missed");
}

/// One node alone has nobody to wait for, and gives the way back away as any does.
#[tokio::test]
async fn a_single_node_is_upgraded_goes_back_and_is_finalized() {
    let mut cluster = older(1).await;
    unary(&cluster.channel(1), add("a", 1)).await.expect("it is alone");
    for formats in [NEW, OLD, NEW] {
        cluster.change_release(1, formats).await;
        // It goes on leading in its old term for a moment, and is elected anew: a read waits for that, a write does not.
        unary(&cluster.channel(1), get("a")).await.expect("it leads again");
        unary(&cluster.channel(1), add("a", 1)).await.expect("either release goes on");
        assert_eq!(cluster.versions(), [1]);
    }
    let request = finalize(false);
    let done = unary(&cluster.channel(1), request).await.expect("it is alone");
    let plan = *answer!(ClusterFinalizeUpgrade, done).plan.expect("it has a plan");
    assert_eq!((plan.version, plan.to), (1, 2), "{plan:?}");
    cluster.stop(1).await;
    cluster.read_formats(1, OLD);
    let error = cluster.start_node(1).await.expect_err("there is no way back");
    assert!(error.to_string().contains("Nothing was changed"), "{error}");
    cluster.read_formats(1, NEW);
    cluster.start_node(1).await.expect("the newer release starts");
    cluster.settled().await;
    let counter = unary(&cluster.channel(1), get("a")).await.expect("it is there");
    assert_eq!(answer!(CountersGet, counter).counter.expect("a counter").value, 4);
}

#[tokio::test]
async fn a_leader_finalizes_by_itself_if_it_is_to() {
    let mut cluster = Cluster::prepare(3, |config| config.upgrade_finalize = UpgradeFinalize::Auto);
    cluster.ids().into_iter().for_each(|id| cluster.read_formats(id, OLD));
    cluster.start_all().await;
    cluster.known().await;
    for id in 1..=3 {
        assert_eq!(cluster.versions(), [1; 3], "node {id} is of the older release");
        cluster.change_release(id, NEW).await;
    }
    eventually("the leader has finalized it", || cluster.versions() == [2; 3]).await;
}
