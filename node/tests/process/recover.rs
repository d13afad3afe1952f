//! `tallyd recover`: a quorum that is lost for good, the node that is left, and whoever comes back.

use std::{process::Stdio, time::Duration};

use rustix::process::Signal;
use tally_client::{Client, ReadLevel, reason};

use super::{
    members::{Operator, goes_on},
    refusal::REFUSED,
};
use crate::support::{
    eventually,
    load::{Book, Load},
    nodes::{Cluster, TALLYD},
};

/// The flag that names the loss.
const FLAG: &str = "--unsafe-lose-what-only-the-lost-nodes-hold";

/// What the command ended with, and what it said.
struct Ran {
    code: Option<i32>,
    said: String,
}

impl Ran {
    #[track_caller]
    fn ended(self, code: i32, parts: &[&str]) -> Ran {
        assert_eq!(self.code, Some(code), "{}", self.said);
        for part in parts {
            assert!(self.said.contains(part), "{part:?} is not in: {}", self.said);
        }
        self
    }
}

/// Runs it for a node as it is configured.
async fn recover(cluster: &mut Cluster, id: u64, flags: &[&str]) -> Ran {
    let node = cluster.node(id);
    let data = node.data.display().to_string();
    let mut command = tokio::process::Command::new(TALLYD);
    command.args(["recover", "--node-id", &id.to_string(), "--data-dir", &data]);
    command.args(["--client-listen", &node.client, "--peer-listen", &node.peer]);
    command.args(["--metrics-listen", "", "--log-filter", "warn"]).args(flags);
    // The first members, without which nobody starts; it joined otherwise.
    command.args(["--initial-cluster", &format!("{id}={}", node.peer)]);
    let output = command.stdin(Stdio::null()).output().await.expect("it can run");
    let said = [output.stdout, output.stderr].concat();
    Ran { code: output.status.code(), said: String::from_utf8_lossy(&said).into_owned() }
}

/// Node `id` ends as one that the cluster went on without, and says the way back.
async fn is_refused(cluster: &mut Cluster, id: u64) {
    let status = cluster.node(id).wait_ended().await;
    let log = cluster.node(id).log_text();
    assert_eq!(status.code(), Some(REFUSED), "{log}");
    for part in ["goes on without it", "tallyd recover", "wipe its data directory", "--join"] {
        assert!(log.contains(part), "{part:?} is not in: {log}");
    }
}

/// Two of three are gone for good under load. The leader is left, so it has all that was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quorum_lost_for_good_goes_on_from_the_node_that_is_left() {
    let test = "a_quorum_lost_for_good_goes_on_from_the_node_that_is_left";
    let mut cluster = Cluster::started("recover", 3, &[]).await;
    let (client, book) = (cluster.client(), Book::default());
    let load = Load::start(&client, 4, &book);
    eventually("some load", || async { (book.acknowledged() > 200).then_some(()) }).await;
    let (left, _) = cluster.leader().await;
    let lost: Vec<u64> = (1..=3).filter(|id| *id != left).collect();
    // The wrong step: it runs.
    recover(&mut cluster, left, &[FLAG]).await.ended(REFUSED, &["is in use by another process"]);
    lost.iter().for_each(|id| cluster.node(*id).kill());
    // One of the lost directories is kept aside, as an operator may who is not sure.
    cluster.node(left).kill();

    let looked = recover(&mut cluster, left, &[]).await;
    let looked = looked.ended(
        REFUSED,
        &[
            "What would be done",
            "is gone, also one that was acknowledged",
            "nothing was done",
            FLAG,
        ],
    );
    for id in &lost {
        assert!(looked.said.contains(&format!("node {id}")), "{}", looked.said);
    }
    assert!(looked.said.contains("epoch 0, a voter"), "{}", looked.said);
    let audit_log = cluster.dir.path().join("recover-audit.log").display().to_string();
    let done = recover(&mut cluster, left, &[FLAG, "--audit-log-file", &audit_log]).await;
    done.ended(0, &["is the only voter of a new epoch", "a recovery from a lost quorum begins"]);
    let audited = std::fs::read_to_string(&audit_log).expect("it was written");
    assert!(audited.contains(r#""kind":"recover","what":"done""#), "{audited}");

    // The same clients go on, with the node that is left.
    cluster.node(left).start();
    let before = book.acknowledged();
    eventually("the load goes on", || async { (book.acknowledged() > before + 50).then_some(()) })
        .await;
    let status = cluster.node(left).status().await.expect("it answers");
    assert_eq!(status.restore_epoch, 1);

    // Again: it needs nobody.
    cluster.node(left).signal(Signal::TERM);
    cluster.node(left).wait_ended().await;
    recover(&mut cluster, left, &[FLAG])
        .await
        .ended(REFUSED, &["is the only voter of its cluster"]);
    cluster.node(left).start();

    // Those that were lost come back with their directories, and are refused; and again.
    for id in &lost {
        cluster.node(*id).start();
        is_refused(&mut cluster, *id).await;
    }
    let again = lost[0];
    std::fs::remove_file(&cluster.node(again).log).expect("a log");
    cluster.node(again).start();
    is_refused(&mut cluster, again).await;

    // Two new nodes, up to three voters.
    let Some(operator) = Operator::of(test, &[cluster.node(left).client.clone()]) else { return };
    let member = cluster.node(left).client.clone();
    for id in [4, 5] {
        cluster.newcomer(id, &["--join", &member]);
        cluster.node(id).start();
        eventually("it is a learner", || async {
            operator.ids("learners").await.contains(&id).then_some(())
        })
        .await;
        operator.gets_done(&["cluster", "promote", &id.to_string()]).await;
    }
    assert_eq!(operator.ids("voters").await, [left, 4, 5]);
    let before = book.acknowledged();
    eventually("the load goes on", || async { (book.acknowledged() > before + 50).then_some(()) })
        .await;
    load.stop().await;
    cluster.assert_running();
    cluster.caught_up().await;
    for id in [left, 4, 5] {
        assert_eq!(
            cluster.node(id).status().await.expect("it answers").restore_epoch,
            1,
            "node {id}"
        );
    }
    book.report(test);
    book.audit(&client).await;
}

/// Of two nodes both have to agree: one that is gone for good stops the other, which then goes on alone, whichever of
/// them led, and all that was acknowledged is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_goes_on_alone() {
    for is_leader_lost in [true, false] {
        let mut cluster = Cluster::started("recover-two", 2, &[]).await;
        let (client, book) = (cluster.client(), Book::default());
        let load = Load::start(&client, 4, &book);
        goes_on(&book).await;
        let (leader, _) = cluster.leader().await;
        let other = 3 - leader;
        let (lost, left) = if is_leader_lost { (leader, other) } else { (other, leader) };
        cluster.node(lost).kill();
        // Nothing is acknowledged by one of two.
        let alone =
            Client::builder([cluster.node(left).client.clone()]).build().expect("an address");
        let refused = alone.counter("alone").add(1).max_attempts(1).await;
        refused.expect_err("the quorum is lost");
        cluster.node(left).kill();

        let looked = recover(&mut cluster, left, &[]).await;
        looked.ended(REFUSED, &[&format!("node {lost}"), "nothing was done", FLAG]);
        recover(&mut cluster, left, &[FLAG]).await.ended(
            0,
            &["is the only voter of a new epoch", "a recovery from a lost quorum begins"],
        );
        cluster.node(left).start();
        goes_on(&book).await;
        let status = cluster.node(left).status().await.expect("it answers");
        assert_eq!(status.restore_epoch, 1);
        // The one that was gone comes back nevertheless, and changes nothing.
        cluster.node(lost).start();
        is_refused(&mut cluster, lost).await;
        goes_on(&book).await;
        load.stop().await;
        book.report("one_of_two_goes_on_alone");
        book.audit(&client).await;
    }
}

/// The node that is left was behind: what only the lost nodes held is gone, and nothing of it is mistaken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_the_lost_nodes_held_is_gone_and_not_mistaken() {
    let mut cluster = Cluster::started("recover-behind", 3, &[]).await;
    let client = cluster.client();
    let add = async |key: &str| {
        let added = client.counter("hits").add(1).idempotency_key(key).await;
        let added = added.expect("a quorum");
        (added.value, added.write.replayed)
    };
    assert_eq!(add("held-by-all").await, (1, false));
    cluster.caught_up().await;
    let (leader, _) = cluster.leader().await;
    let left = leader % 3 + 1;
    cluster.node(left).kill();
    for n in 0..5 {
        add(&format!("lost-{n}")).await;
    }
    let seen = client.counter("hits").get().await.expect("a quorum");
    assert_eq!(seen.value, 6);

    // A quorum is there with this one: nothing has to be lost.
    let refused = recover(&mut cluster, left, &[FLAG]).await;
    refused.ended(REFUSED, &["the quorum is not lost", "start this node (`tallyd serve`)"]);
    let lost: Vec<u64> = (1..=3).filter(|id| *id != left).collect();
    lost.iter().for_each(|id| cluster.node(*id).kill());
    recover(&mut cluster, left, &[FLAG]).await.ended(0, &["every write that only the nodes"]);
    cluster.node(left).start();

    let client = cluster.client();
    let value = eventually("a linearizable read", || async {
        Some(client.counter("hits").get().deadline(Duration::from_secs(2)).await.ok()?.value)
    })
    .await;
    assert_eq!(value, 1, "what it held");
    let add = async |key: &str| {
        let added = client.counter("hits").add(1).idempotency_key(key).await.expect("one voter");
        (added.value, added.write.replayed)
    };
    assert_eq!(add("held-by-all").await, (1, true), "its answer is remembered");
    assert_eq!(add("lost-0").await, (2, false), "it is not there, so it is applied, once");
    assert_eq!(add("lost-0").await, (2, true));
    let level = ReadLevel::Session(Some(seen.header.session_token));
    let refused = client
        .counter("hits")
        .get()
        .level(level)
        .deadline(Duration::from_secs(5))
        .await
        .expect_err("of before");
    assert_eq!(refused.reason(), reason::TOKEN_OF_ANOTHER_CLUSTER, "{refused}");
    // Both of the lost ones come back at once: they would be a quorum of before.
    lost.iter().for_each(|id| cluster.node(*id).start());
    for id in &lost {
        is_refused(&mut cluster, *id).await;
    }
    cluster.assert_running();
    assert_eq!(client.counter("hits").get().await.expect("one voter").value, 2);
}

/// A leader that lost its quorum wrote on, so its log is the longest; but what the others acknowledged without it, in the
/// next term, it does not have. A node that has it answers, and it is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_longer_log_of_an_earlier_term_is_refused_where_a_later_one_is_there() {
    // Each write that waits for its majority can have an entry of its own.
    let mut cluster = Cluster::started("recover-terms", 5, &["--entries-in-flight", "64"]).await;
    let client = cluster.client();
    client.counter("acked").add(1).await.expect("a quorum");
    let (old, _) = cluster.leader().await;
    let alone = Client::builder([cluster.node(old).client.clone()]).build().expect("a client");
    alone.counter("known").add(1).await.expect("a quorum, and a session");
    cluster.caught_up().await;
    let others: Vec<u64> = (1..=5).filter(|id| *id != old).collect();
    others.iter().for_each(|id| cluster.node(*id).kill());
    // More than the next term will have.
    let mut unknown = Vec::new();
    for _ in 0..40 {
        let counter = alone.counter("unknown");
        let write = async move { counter.add(1).deadline(Duration::from_secs(2)).await };
        unknown.push(tokio::spawn(write));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for write in unknown {
        write.await.expect("it ends").expect_err("nobody else is there");
    }
    cluster.node(old).kill();
    others.iter().for_each(|id| cluster.node(*id).start());
    let value = eventually("the others go on", || async {
        Some(client.counter("acked").add(41).deadline(Duration::from_secs(2)).await.ok()?.value)
    })
    .await;
    assert!(value >= 42, "{value}");
    eventually("each of them has it", || async {
        for id in &others {
            let (node, level) = (&cluster.nodes[*id as usize - 1], ReadLevel::Local);
            let at = Client::builder([node.client.clone()]).build().ok()?;
            let read = at.counter("acked").get().level(level).await.ok()?;
            if read.value != value {
                return None;
            }
        }
        Some(())
    })
    .await;
    let kept = others[0];
    others[1..].iter().for_each(|id| cluster.node(*id).kill());
    let refused = recover(&mut cluster, old, &[FLAG]).await;
    let refused = refused.ended(
        REFUSED,
        &[&format!("node {kept} answers, and its log ends at index"), "Nothing was changed"],
    );
    let ends: Vec<u64> = refused
        .said
        .split("ends at index ")
        .skip(1)
        .filter_map(|it| it.split(',').next()?.parse().ok())
        .collect();
    assert!(ends.len() == 2 && ends[1] > ends[0], "the longer log is the lesser one: {ends:?}");
    // The other way round nothing is in the way.
    cluster.node(kept).kill();
    recover(&mut cluster, kept, &[FLAG]).await.ended(0, &["every write that only the nodes"]);
    cluster.node(kept).start();
    let read = eventually("it goes on", || async {
        Some(client.counter("acked").get().deadline(Duration::from_secs(2)).await.ok()?.value)
    })
    .await;
    assert_eq!(read, value);
}

/// Directories that are none of a node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_directory_is_refused_and_stays_as_it_is() {
    let mut cluster = Cluster::new("recover-wrong", 2, &[]);
    let missing = recover(&mut cluster, 1, &[FLAG]).await;
    missing.ended(REFUSED, &["there is no directory", "Nothing was changed"]);
    assert!(!cluster.node(1).data.exists(), "it was not made");
    std::fs::create_dir_all(&cluster.node(1).data).expect("a directory");
    recover(&mut cluster, 1, &[FLAG]).await.ended(REFUSED, &["holds no node", "data_dir"]);

    // Of another node; and of one that never was in a cluster.
    cluster.node(2).start();
    let data = cluster.node(2).data.clone();
    eventually("it has its directory", || async { data.join("IDENTITY").exists().then_some(()) })
        .await;
    cluster.node(2).kill();
    recover(&mut cluster, 2, &[FLAG]).await.ended(REFUSED, &["never was in a cluster"]);
    std::fs::remove_dir_all(&cluster.node(1).data).expect("a directory");
    std::fs::rename(&data, &cluster.node(1).data).expect("a directory");
    recover(&mut cluster, 1, &[FLAG]).await.ended(REFUSED, &["belongs to node 2, not to node 1"]);
}
