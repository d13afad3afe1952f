//! Deleting what begins with a prefix.

use bytes::Bytes;

use crate::{
    fake::{Act, Cluster},
    model::refusal_for,
    runs::{cut_short, line, on_terminal, tally},
};
use std::time::Duration;
use tally_client::{proto as v1, reason};
use tonic::Code;

/// A cluster with so many keys, and one that is not meant.
async fn with_keys(count: usize) -> Cluster {
    let cluster = Cluster::start(1).await;
    let keys = (0..count).map(|number| (format!("k/{number:05}"), Bytes::from_static(b"v")));
    cluster.model().keys.extend(keys);
    cluster.model().keys.insert("kept".into(), Bytes::from_static(b"v"));
    cluster
}

fn left(cluster: &Cluster) -> usize {
    cluster.model().keys.len()
}

#[tokio::test]
async fn what_one_step_takes_goes_in_one() {
    let cluster = with_keys(128).await;
    let run = line(&cluster, "kv delete --prefix k/ --dry-run").await;
    assert!(
        run.stdout.starts_with("would delete 128 keys in one atomic step\n  k/00000\n"),
        "{}",
        run.stdout
    );
    assert!(run.stdout.ends_with("  k/00009\n  and 118 more\n"), "{}", run.stdout);
    let run = line(&cluster, "kv delete --prefix k/ --dry-run --json").await;
    assert_eq!((&run.json()["would_delete"], &run.json()["atomic"]), (&128.into(), &true.into()));
    assert_eq!((left(&cluster), cluster.writes()), (129, 0));

    let run = line(&cluster, "kv delete --prefix k/").await;
    assert_eq!((run.exit, run.stdout.as_str()), (0, "deleted 128 keys in one atomic step\n"));
    assert_eq!((run.stderr.as_str(), left(&cluster), cluster.writes()), ("", 1, 1));
    // Again, there is nothing to do.
    let run = line(&cluster, "kv delete --prefix k/").await;
    assert_eq!((run.exit, run.stdout.as_str(), cluster.writes()), (0, "deleted 0 keys\n", 1));
}

#[tokio::test]
async fn more_goes_in_several_steps_and_that_is_said_before_and_after() {
    let cluster = with_keys(2100).await;
    let run = line(&cluster, "kv delete --prefix k/").await;
    assert_eq!(run.exit, 0, "{}", run.stderr);
    let before = "-- 2,100 keys: one atomic step takes 128, so they go in 17 of them, each atomic by itself, and \
                  not at one point of the history\n";
    let after = "deleted 2,100 keys in 17 atomic steps: not at one point of the history\n";
    assert_eq!((run.stderr.as_str(), run.stdout.as_str()), (before, after));
    assert_eq!((left(&cluster), cluster.writes()), (1, 17));

    let names = (0..300).map(|number| (format!("c/{number:05}"), 1));
    cluster.model().counters.extend(names);
    let run = line(&cluster, "counter delete --prefix c/ --json").await;
    let result = run.json();
    assert_eq!((&result["deleted"], &result["steps"]), (&300.into(), &3.into()), "{result}");
    assert_eq!((&result["atomic"], run.stderr.as_str()), (&false.into(), ""));
    assert!(cluster.model().counters.is_empty());
}

#[tokio::test]
async fn on_a_terminal_it_shows_how_far_it_is() {
    let cluster = with_keys(300).await;
    let (shown, exit) = on_terminal(&cluster, &["kv", "delete", "--prefix", "k/"]).await;
    assert_eq!(exit, 0);
    assert!(shown.contains("deleted          300 of 300"), "{shown}");
}

#[tokio::test]
async fn an_empty_prefix_has_to_be_meant() {
    let cluster = with_keys(3).await;
    for wrong in [
        &["kv", "delete", "--prefix", ""][..],
        &["kv", "delete", "--prefix", "k/", "--all-of-them"],
        &["kv", "delete", "--all-of-them"],
        &["kv", "delete"],
        &["kv", "delete", "k/00000", "--prefix", "k/"],
        &["kv", "delete", "--prefix", "k/", "--if-present"],
        &["kv", "delete", "--prefix", "k/", "--idempotency-key", "order-1"],
        &["kv", "delete", "k/00000", "--dry-run"],
        &["kv", "delete", "k/00000", "--all-of-them"],
        &["counter", "delete", "--prefix", ""],
        &["counter", "delete", "c", "--dry-run"],
    ] {
        let run = tally(&cluster, wrong).await;
        assert_eq!((run.exit, left(&cluster)), (2, 4), "{wrong:?}: {}", run.stdout);
    }
    let run = tally(&cluster, &["kv", "delete", "--prefix", "", "--all-of-them"]).await;
    assert_eq!((run.exit, left(&cluster)), (0, 0), "{}", run.stderr);
}

#[tokio::test]
async fn a_step_that_fails_says_what_was_done_and_the_same_command_goes_on() {
    let cluster = with_keys(1000).await;
    let day = Duration::from_secs(86_400);
    let refusal =
        || refusal_for(day, Code::Unavailable, reason::NO_QUORUM, v1::Outcome::NotApplied);
    cluster.script(0, [Act::Answer, Act::Answer, Act::Refuse(refusal().into())]);
    let run = line(&cluster, "kv delete --prefix k/").await;
    assert_eq!((run.exit, run.stdout.as_str()), (4, ""));
    assert!(run.stderr.contains("the same command goes on from there"), "{}", run.stderr);
    assert!(!run.stderr.contains("--idempotency-key"), "{}", run.stderr);
    let gone = 1001 - left(&cluster);
    assert!((256..1000).contains(&gone), "{gone}");
    let count = format!("deleted {gone} keys so far");
    assert!(run.stderr.contains(&count), "{gone}: {}", run.stderr);
    let run = line(&cluster, "kv delete --prefix k/").await;
    assert_eq!((run.exit, left(&cluster)), (0, 1), "{}", run.stderr);

    // An answer that is lost is not counted, and is not applied twice: the same command settles it.
    let cluster = with_keys(3).await;
    cluster.script(0, [Act::ExecuteAndBreak, Act::Refuse(refusal().into())]);
    let run = line(&cluster, "kv delete --prefix k/ --json").await;
    assert_eq!((run.exit, &run.json()["error"]["deleted"]), (5, &0.into()));
    assert_eq!(left(&cluster), 1);
}

#[tokio::test]
async fn cut_short_it_says_how_far_it_came() {
    let cluster = with_keys(1000).await;
    cluster.script(0, [Act::Answer, Act::Answer, Act::Silence, Act::Silence]);
    cluster.script(0, (0..100).map(|_| Act::Silence));
    let arguments = ["kv", "delete", "--prefix", "k/", "--deadline", "60s"];
    let run = cut_short(&cluster, &arguments, async || {
        // The two that are answered, and others that are under way.
        cluster.has_seen(4).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    })
    .await;
    assert_eq!((run.exit, run.stdout.as_str()), (130, ""), "{}", run.stderr);
    assert!(run.stderr.contains("deleted 256 keys so far"), "{}", run.stderr);
}
