//! `tally cluster` and the nodes that come and go by it, while clients write.
//!
//! Commands are run as an operator gives them, of the `tally` that was built beside `tallyd`; where there is none these
//! tests say that they are skipped.

use std::process::Stdio;

use serde_json::Value;

use super::refusal::REFUSED;
use crate::support::{
    PATIENCE, eventually,
    load::{Book, Load},
    nodes::{Cluster, command_line},
    skip,
};

/// What a command ended with, and all that it printed.
#[derive(Debug)]
pub(crate) struct Ran {
    code: Option<i32>,
    out: String,
    said: String,
}

impl Ran {
    pub(crate) fn is_done(&self) -> bool {
        self.code == Some(0)
    }

    /// It is done, and says all of this.
    #[track_caller]
    pub(crate) fn done(self, parts: &[&str]) -> Ran {
        self.ended(0, parts)
    }

    /// It was refused, and nothing was done.
    #[track_caller]
    pub(crate) fn refused(self, parts: &[&str]) -> Ran {
        self.ended(3, parts)
    }

    #[track_caller]
    pub(crate) fn ended(self, code: i32, parts: &[&str]) -> Ran {
        assert_eq!(self.code, Some(code), "{}", self.said);
        for part in parts {
            assert!(self.said.contains(part), "{part:?} is not in: {}", self.said);
        }
        self
    }

    /// What it printed as its result.
    pub(crate) fn out(&self) -> &str {
        &self.out
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.said))
    }
}

/// An operator with a terminal of his own.
#[derive(Debug)]
pub(crate) struct Operator {
    /// Flags of each command: whom to ask, and how.
    flags: Vec<String>,
}

impl Operator {
    /// One that asks these nodes; none where there is no command line to do it with.
    pub(crate) fn of(test: &str, endpoints: &[String]) -> Option<Operator> {
        if command_line().is_none() {
            skip(test, "tally is not built beside tallyd (cargo build -p tally-cli)");
            return None;
        }
        let flags = ["--endpoints".to_owned(), endpoints.join(",")];
        Some(Operator { flags: flags.to_vec() })
    }

    pub(crate) fn with(mut self, flags: &[&str]) -> Operator {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    pub(crate) async fn runs(&self, arguments: &[&str]) -> Ran {
        let mut command = tokio::process::Command::new(command_line().expect("looked for before"));
        command.args(&self.flags).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await;
        let output =
            output.unwrap_or_else(|_| panic!("{arguments:?} does not end")).expect("it can run");
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = format!("{out}{}", String::from_utf8_lossy(&output.stderr));
        Ran { code: output.status.code(), out, said }
    }

    /// Gives a command again and again until it is done. (Each of its steps is done once.)
    pub(crate) async fn gets_done(&self, arguments: &[&str]) -> Ran {
        eventually(&format!("{arguments:?} is done"), || async {
            Some(self.runs(arguments).await).filter(Ran::is_done)
        })
        .await
    }

    /// What `tally cluster members` shows to programs.
    pub(crate) async fn members(&self) -> Value {
        self.gets_done(&["cluster", "members", "--json"]).await.json()
    }

    pub(crate) async fn ids(&self, of: &str) -> Vec<u64> {
        let members = self.members().await;
        members[of].as_array().expect("ids").iter().filter_map(Value::as_u64).collect()
    }
}

/// The load goes on.
pub(crate) async fn goes_on(book: &Book) {
    let before = book.acknowledged();
    eventually("some load", || async { (book.acknowledged() > before + 20).then_some(()) }).await;
}

/// Node `id` has ended as one that must not run, and says why.
async fn has_ended(cluster: &mut Cluster, id: u64, parts: &[&str]) {
    let status = cluster.node(id).wait_ended().await;
    let log = cluster.node(id).log_text();
    assert_eq!(status.code(), Some(REFUSED), "{log}");
    for part in parts {
        assert!(log.contains(part), "{part:?} is not in: {log}");
    }
}

/// Every workflow, each given as one command at any node. No write fails, none is lost, and none counts twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_under_load() {
    let test = "members_come_and_go_under_load";
    let mut cluster = Cluster::started("members-under-load", 3, &[]).await;
    let Some(operator) = Operator::of(test, &cluster.addresses()) else { return };
    let (client, book) = (cluster.client(), Book::default());
    let load = Load::start(&client, 4, &book);
    goes_on(&book).await;

    // Added and promoted.
    let address = cluster.newcomer(4, &["--node-id", "4"]).peer.clone();
    cluster.node(4).start();
    let add = ["cluster", "add", "auto", &address];
    operator.runs(&add).await.done(&[
        "after   voters 1, 2, 3, 4: 3 have to agree, 1 may fail",
        "4 voters tolerate no more failures than 3",
        "node 4 is a voter",
    ]);
    operator.runs(&add).await.done(&["it is so already", "node 4 is a voter"]);
    goes_on(&book).await;

    // A learner, until it is promoted.
    let address = cluster.newcomer(5, &["--node-id", "5"]).peer.clone();
    cluster.node(5).start();
    operator.runs(&["cluster", "add", "5", &address, "--learner"]).await.done(&["is a learner"]);
    assert_eq!(operator.ids("learners").await, [5]);
    // It may be behind at first, and is told so.
    operator.gets_done(&["cluster", "promote", "5"]).await;
    assert_eq!(operator.ids("voters").await, [1, 2, 3, 4, 5]);

    // Leadership goes where it is told to.
    let (leader, _) = cluster.leader().await;
    let next = leader % 3 + 1;
    operator.runs(&["cluster", "transfer-leader", &next.to_string()]).await.done(&["done"]);
    eventually("the one that was named leads", || async {
        (cluster.leader().await.0 == next).then_some(())
    })
    .await;
    goes_on(&book).await;

    // The leader's place is taken.
    let address = cluster.newcomer(6, &["--node-id", "6"]).peer.clone();
    cluster.node(6).start();
    let replace = ["cluster", "replace", &next.to_string(), &address];
    let taken = format!("node 6 has the place of node {next}");
    operator.runs(&replace).await.done(&["make node 6 a voter", &taken]);
    operator.runs(&replace).await.done(&["it is so already", &taken]);
    has_ended(&mut cluster, next, &["was removed from its cluster"]).await;
    goes_on(&book).await;

    // Kept from leading until told otherwise; and snapshots that somebody wants.
    let (leader, _) = cluster.leader().await;
    let drain = ["cluster", "drain", &leader.to_string()].map(str::to_owned);
    let drain: Vec<&str> = drain.iter().map(String::as_str).collect();
    operator.runs(&drain).await.done(&["hands leadership over", "done"]);
    eventually("another one leads", || async {
        (cluster.leader().await.0 != leader).then_some(())
    })
    .await;
    let back = ["cluster", "transfer-leader", &leader.to_string()];
    operator.runs(&back).await.refused(&["is drained", "--undo"]);
    operator.runs(&[&drain[..], &["--undo"]].concat()).await.done(&["done"]);
    let built = operator.runs(&["cluster", "snapshot", "--json"]).await.done(&[]).json();
    let built = built["snapshots"].as_array().expect("a list").clone();
    assert_eq!(built.len(), 5, "of each member: {built:?}");
    assert!(built.iter().all(|one| one["log_index"].as_u64() > Some(0)), "{built:?}");
    goes_on(&book).await;

    // Fewer, and only if that was said.
    let remove = ["cluster", "remove", "5"];
    let fewer = ["of whom 1 may fail now before writes stop; as it is, 2 may", "tally cluster add"];
    operator.runs(&[&remove[..], &["--preview"]].concat()).await.refused(&fewer);
    operator.runs(&remove).await.refused(&fewer);
    assert!(operator.ids("voters").await.contains(&5), "nothing was done");
    let all_the_same = [&remove[..], &["--accept-fewer-failures"]].concat();
    operator.runs(&all_the_same).await.done(&[]);
    operator.runs(&all_the_same).await.done(&["it is so already"]);
    has_ended(&mut cluster, 5, &["was removed from its cluster"]).await;
    goes_on(&book).await;

    load.stop().await;
    cluster.assert_running();
    book.report(test);
    book.audit(&client).await;
    assert_eq!((book.unknown(), book.not_applied()), (0, 0), "no write fails");
}

/// What somebody tired types: nothing happens, and it is said what would have, and what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_steps_are_refused_with_what_to_do() {
    let test = "wrong_steps_are_refused_with_what_to_do";
    let mut cluster = Cluster::started("wrong-steps", 3, &[]).await;
    let Some(operator) = Operator::of(test, &cluster.addresses()) else { return };
    let peer_of_2 = cluster.node(2).peer.clone();
    let fewer = ["0 may fail now before writes stop", "tally cluster replace"];
    operator.runs(&["cluster", "remove", "3"]).await.refused(&fewer);
    let itself = ["cluster", "replace", "2", &peer_of_2];
    operator.runs(&itself).await.refused(&["is node 2 itself", "empty directory", "4"]);
    let wrong: [(&[&str], &[&str]); 6] = [
        (&["add", "9", &peer_of_2], &["is node 2, not node 9"]),
        (&["add", "9", "127.0.0.1:1"], &["no node answers", "start node 9 there first"]),
        (&["remove", "99"], &["node 99 is no member, and never was one"]),
        (&["replace", "99", &peer_of_2], &["node 99 is no member, and never was one"]),
        (&["promote", "99"], &["not a learner", "tally cluster add"]),
        (&["transfer-leader", "99"], &["node 99 is not a voter"]),
    ];
    for (command, parts) in wrong {
        operator.runs(&[&["cluster"][..], command].concat()).await.refused(parts);
    }
    // One of another cluster; and the only voter of that.
    let mut other = Cluster::started("another-cluster", 1, &[]).await;
    // Once it has one to name.
    Book::default().add(&other.client(), "hits").await.expect("a healthy cluster");
    let elsewhere = ["cluster", "add", "1", &other.nodes[0].peer];
    operator.runs(&elsewhere).await.refused(&["is a member at", "never used again"]);
    let elsewhere = ["cluster", "add", "auto", &other.nodes[0].peer];
    operator.runs(&elsewhere).await.refused(&["is of cluster"]);
    let alone = Operator::of(test, &other.addresses()).expect("it is there");
    let last = ["cluster", "remove", "1", "--accept-fewer-failures"];
    alone.runs(&last).await.refused(&["is the only voter", "tally cluster replace 1 ADDRESS"]);
    other.assert_running();

    // A removed node that is started again, as it is and with an emptied directory.
    let address = cluster.newcomer(4, &["--node-id", "4"]).peer.clone();
    cluster.node(4).start();
    let add = ["cluster", "add", "4", &address, "--learner"];
    operator.runs(&add).await.done(&["node 4 is a learner"]);
    cluster.caught_up().await;
    operator.runs(&["cluster", "remove", "4"]).await.done(&["done"]);
    let gone = ["was removed from its cluster", "tally cluster members", "empty directory"];
    has_ended(&mut cluster, 4, &gone).await;
    std::fs::remove_file(&cluster.node(4).log).expect("a log");
    cluster.node(4).start();
    has_ended(&mut cluster, 4, &gone).await;
    std::fs::remove_dir_all(&cluster.node(4).data).expect("a directory to empty");
    cluster.node(4).start();
    operator.runs(&add).await.refused(&["an id is never used again"]);
    assert_eq!(operator.members().await["next_node_id"], 5);
    cluster.node(4).kill();

    // A learner's place is taken by a learner, also when the command is given again; and nobody takes it after that.
    let [first, second, third] = [11, 12, 13].map(|id: u64| {
        let address = cluster.newcomer(id, &["--node-id", &id.to_string()]).peer.clone();
        cluster.node(id).start();
        address
    });
    operator.runs(&["cluster", "add", "11", &first, "--learner"]).await.done(&[]);
    let replace = ["cluster", "replace", "11", &second];
    operator.runs(&replace).await.done(&["node 12 has the place of node 11"]);
    let stays = ["node 12 has the place of node 11: it is a learner, and stays one"];
    operator.runs(&replace).await.done(&stays);
    let again = ["cluster", "replace", "11", &third];
    let refused = ["node 11 is gone already", "`tally cluster add 13"];
    operator.runs(&again).await.refused(&refused);
    assert_eq!(operator.ids("learners").await, [12]);
    assert_eq!(operator.ids("voters").await, [1, 2, 3]);
    operator.runs(&["cluster", "remove", "12"]).await.done(&["done"]);
    cluster.node(13).kill();

    // Left-overs are forgotten: nobody with a vote, and nobody who answers.
    let voter = ["cluster", "forget", "3"];
    operator.runs(&voter).await.refused(&["has a vote", "tally cluster replace 3"]);
    operator.runs(&["cluster", "forget", "99"]).await.refused(&["is no member"]);
    let address = cluster.newcomer(14, &["--node-id", "14"]).peer.clone();
    cluster.node(14).start();
    operator.runs(&["cluster", "add", "14", &address, "--learner"]).await.done(&[]);
    operator.runs(&["cluster", "forget", "14"]).await.refused(&["answers, and would be stopped"]);
    cluster.node(14).kill();
    let forget = ["cluster", "forget", "14"];
    operator.runs(&[&forget[..], &["--preview"]].concat()).await.done(&["nothing was done"]);
    assert_eq!(operator.ids("learners").await, [14]);
    operator.runs(&forget).await.done(&["done"]);
    operator.runs(&forget).await.done(&["it is so already"]);
    assert!(operator.ids("learners").await.is_empty());
    assert_eq!(operator.members().await["next_node_id"], 15, "its id is never given again");

    // A voter that lost its disk, and the way back: its place is taken under a new id.
    let (leader, _) = cluster.leader().await;
    let wiped = leader % 3 + 1;
    cluster.node(wiped).kill();
    std::fs::remove_dir_all(&cluster.node(wiped).data).expect("a directory to wipe");
    cluster.node(wiped).start();
    let way_back = format!("`tally cluster replace {wiped} ADDRESS`");
    has_ended(&mut cluster, wiped, &["an empty or another data directory", &way_back]).await;
    // While it is down no other may go, whatever is said.
    let other = (1..=3).find(|id| ![leader, wiped].contains(id)).expect("there are three");
    let silent = format!("{{{wiped}}} have not been heard of");
    let no_quorum = ["would leave no quorum", &silent];
    eventually("the leader misses it", || async {
        let remove =
            ["cluster", "remove", &other.to_string(), "--accept-fewer-failures", "--preview"];
        let ran = operator.runs(&remove).await;
        (ran.code == Some(3) && no_quorum.iter().all(|part| ran.said.contains(part))).then_some(())
    })
    .await;
    let remove = ["cluster", "remove", &other.to_string(), "--accept-fewer-failures"];
    operator.runs(&remove).await.refused(&no_quorum);
    let address = cluster.newcomer(5, &["--node-id", "5"]).peer.clone();
    cluster.node(5).start();
    let taken = format!("node 5 has the place of node {wiped}");
    operator.runs(&["cluster", "replace", &wiped.to_string(), &address]).await.done(&[&taken]);
    Book::default().add(&cluster.client(), "hits").await.expect("three of three go on");
}
