//! A rolling upgrade and the way back, under load: nodes of two releases in one cluster.
//!
//! The older release is this same build, which reads and writes the first version of the formats only
//! (`--test-format-max 1`). With `OLDER_TALLYD` it is another program: `deploy/mixed-versions.sh` builds one from an
//! older commit and runs these tests with it.

use std::path::PathBuf;

use rustix::process::Signal;
use tally_client::{Client, Error, reason};

use super::refusal::REFUSED;
use crate::support::{
    eventually,
    load::{Book, Load},
    nodes::{Cluster, TALLYD, command_line},
    report,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Release {
    Older,
    Newer,
}

const FLAG: &str = "--test-format-max";

/// Elections of a machine that does much else. What is judged here is what was counted, and not how soon: with the usual
/// ones (180 to 300 ms) unoptimised nodes under a load of 20 on two processors wait for a processor longer than that, and
/// elect one leader after the other. For 90 s none kept its quorum, so eight writers gave up, with an unknown outcome,
/// and rightly.
const ELECTIONS: &[&str] = &[
    "--heartbeat-interval-ms",
    "200",
    "--election-timeout-ms-min",
    "1000",
    "--election-timeout-ms-max",
    "1500",
];

impl Cluster {
    /// From its next start on a node is of this release.
    fn be(&mut self, id: u64, release: Release) {
        let node = self.node(id);
        node.without(FLAG);
        node.program = PathBuf::from(TALLYD);
        if release == Release::Older {
            match std::env::var_os("OLDER_TALLYD") {
                Some(older) => node.program = older.into(),
                None => node.with(&[FLAG, "1"]),
            }
        }
    }

    /// Stops a node in good order and starts it with a release.
    async fn restart_as(&mut self, id: u64, release: Release) {
        self.node(id).signal(Signal::TERM);
        let status = self.node(id).wait_ended().await;
        assert_eq!(status.code(), Some(0), "node {id} stops in good order");
        self.be(id, release);
        self.node(id).start();
        self.caught_up().await;
    }

    /// One after the other, the leader last, as `tally cluster restart-plan` says.
    async fn roll(&mut self, release: Release, book: &Book) {
        let (leader, _) = self.leader().await;
        let others: Vec<u64> =
            self.nodes.iter().map(|node| node.id).filter(|id| *id != leader).collect();
        for id in others.into_iter().chain([leader]) {
            let before = book.acknowledged();
            self.restart_as(id, release).await;
            eventually("some load on a mixed cluster", || async {
                (book.acknowledged() > before + 30).then_some(())
            })
            .await;
        }
    }

    async fn versions(&self) -> Vec<(u32, u32)> {
        let mut versions = Vec::new();
        for node in &self.nodes {
            let status = eventually("a status", || async { node.status().await }).await;
            versions.push((status.format_max.max(1), status.cluster_version.max(1)));
        }
        versions
    }
}

/// An older leader does not know the call, and a member that was just restarted may not have been heard.
async fn finalize(client: &Client) -> Result<(), Error> {
    client.finalize_upgrade().await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolled_forth_and_back_and_forth_under_load_no_write_fails_and_none_counts_twice() {
    let mut cluster = Cluster::new("rolling-upgrade", 3, ELECTIONS);
    (1..=3).for_each(|id| cluster.be(id, Release::Older));
    cluster.start_all();
    cluster.leader().await;
    let client = cluster.client();
    let book = Book::default();
    let load = Load::start(&client, 8, &book);
    // Promises of the older release are kept by the newer one, and the other way round.
    let order = async |at: &str| {
        let counter = client.counter("orders");
        let add = counter.add(7).idempotency_key("order-1").await.expect("it is answered");
        report(&format!(
            "rolling-upgrade, {at}: the order is {} ({})",
            add.value, add.write.replayed
        ));
        assert_eq!(add.value, 7, "it counts once, {at}");
        add.write.replayed
    };
    // Whether this is an answer that was remembered is not asked: the library may have sent it twice, on a slow machine.
    order("at the older release").await;

    cluster.roll(Release::Newer, &book).await;
    assert_eq!(cluster.versions().await, [(2, 1); 3]);
    assert!(order("at the newer release").await);
    cluster.roll(Release::Older, &book).await;
    assert!(order("back at the older release").await);
    cluster.roll(Release::Newer, &book).await;
    eventually("the leader has heard all", || async { finalize(&client).await.ok() }).await;
    cluster.caught_up().await;
    assert_eq!(cluster.versions().await, [(2, 2); 3]);
    assert!(order("after the upgrade was finalized").await);
    let before = book.acknowledged();
    eventually("some load behind it", || async {
        (book.acknowledged() > before + 30).then_some(())
    })
    .await;
    load.stop().await;

    // There is no way back, and a node says so before it has changed anything.
    let id = 2;
    cluster.node(id).signal(Signal::TERM);
    cluster.node(id).wait_ended().await;
    let identity = cluster.node(id).data.join("IDENTITY");
    let was = std::fs::read(&identity).expect("it is there");
    cluster.be(id, Release::Older);
    cluster.node(id).start();
    let status = cluster.node(id).wait_ended().await;
    assert_eq!(status.code(), Some(REFUSED), "only a person can mend it");
    assert_eq!(std::fs::read(&identity).expect("it is there"), was, "nothing was changed");
    let log = cluster.node(id).log_text().to_lowercase();
    assert!(log.contains("newer") && log.contains("nothing was changed"), "{log}");
    cluster.be(id, Release::Newer);
    cluster.node(id).start();
    cluster.caught_up().await;

    book.report("rolling-upgrade");
    cluster.assert_running();
    book.audit(&client).await;
    assert_eq!((book.unknown(), book.not_applied()), (0, 0), "no write fails: {:?}", book.errors());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_is_not_finalized_while_one_is_of_the_older_release() {
    let mut cluster = Cluster::new("half-an-upgrade", 3, ELECTIONS);
    cluster.be(1, Release::Older);
    cluster.start_all();
    cluster.leader().await;
    let client = cluster.client();
    client.counter("a").add(1).await.expect("a mixed cluster forms at the older version");
    let refused = eventually("a leader of the newer release", || async {
        let (leader, _) = cluster.leader().await;
        match leader {
            1 => client.transfer_leader(2).await.map(drop).err().and(None),
            _ => finalize(&client)
                .await
                .err()
                .filter(|error| error.reason() == reason::UPGRADE_REFUSED),
        }
    })
    .await;
    assert!(refused.message().contains("node 1"), "{refused}");
    let Some(tally) = command_line() else { return };
    let asked = |arguments: &[&str]| {
        let endpoints = cluster.addresses().join(",");
        let mut command = std::process::Command::new(&tally);
        command.args(["--endpoints", &endpoints, "cluster"]).args(arguments);
        let output = command.output().expect("the command line runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, _) = asked(&["upgrade"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("the cluster has version 1") && out.contains("versions 1 to 2"), "{out}");
    let (code, _, error) = asked(&["upgrade", "finalize", "--yes"]);
    assert_eq!(code, Some(3), "{error}");
    assert!(error.contains("node 1 reads version 1"), "{error}");
    // All have just started, so who was restarted is told by a shorter time.
    let (code, out, error) = asked(&["restart-plan", "--within", "1ms", "--json"]);
    assert_eq!(code, Some(0), "{error}");
    let plan: serde_json::Value = serde_json::from_str(&out).expect("it is JSON");
    let (leader, _) = cluster.leader().await;
    assert_ne!(plan["next"].as_u64(), Some(leader), "the leader is the last: {plan}");
    assert_eq!(plan["nodes"][2]["id"].as_u64(), Some(leader), "{plan}");
}

/// Somebody away at the end of an upgrade, a new node, and the last resort: with the older release none of them gets in,
/// each says what to do, and does it with the newer one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_the_end_of_an_upgrade_the_older_release_gets_in_nowhere() {
    let mut cluster = Cluster::new("behind-the-end", 3, ELECTIONS);
    (1..=3).for_each(|id| cluster.be(id, Release::Older));
    cluster.start_all();
    cluster.leader().await;
    let client = cluster.client();
    let book = Book::default();
    let load = Load::start(&client, 2, &book);
    cluster.roll(Release::Newer, &book).await;
    eventually("the leader has heard all", || async {
        let plan = client.finalize_upgrade().preview().await.ok()?.plan?;
        (plan.refusal.is_empty() && !plan.is_so).then_some(())
    })
    .await;

    // It was heard a moment ago, stops, and comes back with the older release: its directory knows nothing of the end.
    let (leader, _) = cluster.leader().await;
    let away = (1..=3).find(|id| *id != leader).expect("there are three");
    cluster.node(away).kill();
    eventually("it was heard just now", || async { finalize(&client).await.ok() }).await;
    cluster.be(away, Release::Older);
    let before = cluster.node(away).log_text().len();
    cluster.node(away).start();
    let status = cluster.node(away).wait_ended().await;
    let log = cluster.node(away).log_text()[before..].to_owned();
    report(&format!("behind-the-end: the node that was away ends with {status}"));
    assert!(!status.success(), "it can't take part: {log}");
    let says =
        log.contains("start the newer release again") || log.contains("this release reads up to");
    assert!(says, "{log}");
    cluster.be(away, Release::Newer);
    cluster.node(away).start();
    cluster.caught_up().await;
    assert_eq!(cluster.versions().await, [(2, 2); 3]);

    // One that joins by itself is not let in, and says why for as long as it asks.
    let members = cluster.addresses().join(",");
    cluster.newcomer(14, &["--join", &members]);
    cluster.be(14, Release::Older);
    cluster.node(14).start();
    eventually("it is told why", || async {
        let joins = cluster.nodes.iter().find(|node| node.id == 14)?;
        let says = "reads version 1 of the formats, and this cluster has version 2: start it with";
        joins.log_text().contains(says).then_some(())
    })
    .await;
    let status = client.status().await.expect("a healthy cluster");
    assert_eq!(status.nodes.len(), 3, "it is no member");
    cluster.node(14).kill();
    cluster.be(14, Release::Newer);
    cluster.node(14).start();
    eventually("the newer release gets in", || async {
        (client.status().await.ok()?.nodes.len() == 4).then_some(())
    })
    .await;
    load.stop().await;
    book.report("behind-the-end");
    book.audit(&client).await;
    assert_eq!((book.unknown(), book.not_applied()), (0, 0), "no write fails: {:?}", book.errors());

    // Nor is the last resort one for the older release.
    cluster.kill_all();
    cluster.be(away, Release::Older);
    let ran = cluster.node(away).recover();
    assert_eq!(ran.status.code(), Some(REFUSED), "{ran:?}");
    let says = String::from_utf8_lossy(&ran.stderr).to_lowercase();
    assert!(says.contains("newer") && says.contains("nothing was changed"), "{says}");
}
