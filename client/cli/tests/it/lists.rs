//! Lists: their pages, whether those are one point of the history, and values on a terminal.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    fake::Cluster,
    runs::{into_full, line, on_terminal, tally},
};

/// A cluster with so many counters.
async fn with_counters(count: usize) -> Cluster {
    let cluster = Cluster::start(1).await;
    let names = (0..count).map(|number| (format!("c/{number:05}"), 1));
    cluster.model().counters.extend(names);
    cluster.model().revision = 70;
    cluster
}

#[tokio::test]
async fn all_of_a_list_comes_in_pages_of_a_thousand_and_says_of_which_state_it_is() {
    let cluster = with_counters(2500).await;
    let run = line(&cluster, "counter list --all").await;
    assert_eq!((run.exit, run.stdout.lines().count()), (0, 2500));
    assert_eq!(run.stderr, "-- all 2,500 at revision 70\n");
    let run = line(&cluster, "counter list --all --json").await;
    let pages = run.json_lines();
    let items = |page: &Value| page["items"].as_array().unwrap().len();
    assert_eq!(pages.iter().map(items).collect::<Vec<_>>(), [1000, 1000, 500]);
    assert_eq!(run.stderr, "");
    let all = json!({ "pages": 3, "items": 2500, "one_point": true, "revision_min": 70, "revision_max": 70 });
    assert_eq!((&pages[0]["all"], &pages[2]["all"]), (&Value::Null, &all));
    // One page is what it was: a hundred, and how to go on.
    let run = line(&cluster, "counter list").await;
    assert_eq!(run.stdout.lines().count(), 100);
    assert_eq!(run.stderr, "-- more: --page-token c/00099, or --all\n");
    let run = line(&cluster, "counter list --all --limit 10 --json").await;
    assert_eq!(run.json_lines().len(), 250);
}

#[tokio::test]
async fn pages_between_which_something_was_written_are_not_called_one_point() {
    let cluster = with_counters(1500).await;
    cluster.model().writes_between_pages = 1;
    let run = line(&cluster, "counter list --all").await;
    assert_eq!((run.exit, run.stdout.lines().count()), (0, 1500));
    let told = "-- pages span revisions 70 to 71: not one point of the history; --one-point reads again until \
                they are, a few times\n";
    assert_eq!(run.stderr, told);
    cluster.model().writes_between_pages = 1;
    let run = line(&cluster, "counter list --all --json").await;
    assert_eq!(run.json_lines()[1]["all"]["one_point"], false);
}

#[tokio::test]
async fn one_point_is_read_again_until_it_is_one_and_refused_if_it_never_is() {
    let cluster = with_counters(1500).await;
    cluster.model().writes_between_pages = 2;
    let run = line(&cluster, "counter list --all --one-point").await;
    assert_eq!((run.exit, run.stdout.lines().count()), (0, 1500), "{}", run.stderr);
    assert_eq!(run.stderr, "-- all 1,500 at revision 72\n");

    cluster.model().writes_between_pages = 1000;
    let run = line(&cluster, "counter list --all --one-point").await;
    assert_eq!((run.exit, run.stdout.as_str()), (11, ""));
    assert!(run.stderr.contains("something was written while it was read"), "{}", run.stderr);
    let run = line(&cluster, "counter list --all --one-point --json").await;
    assert_eq!((run.exit, &run.json()["error"]["reason"]), (11, &"NOT_ONE_POINT".into()));
    // It was tried so often.
    assert_eq!(cluster.model().writes_between_pages, 990);

    assert_eq!(line(&cluster, "counter list --one-point").await.exit, 2);
    cluster.model().writes_between_pages = 0;
    let full = into_full(&cluster, &["counter", "list", "--all", "--one-point"]).await;
    assert_eq!(full.exit, 6, "{}", full.stderr);
}

#[tokio::test]
async fn values_are_cut_on_a_terminal_and_whole_in_a_pipe() {
    let cluster = Cluster::start(1).await;
    let long = "v".repeat(100);
    cluster.model().keys.insert("a".into(), long.clone().into());
    cluster.model().keys.insert("b".into(), Bytes::from_static(b"\xff\x1b[2J"));
    let cut = format!("a  {}…  (100 bytes)\n", "v".repeat(64));
    let binary = "b  \"\\xff\\x1b[2J\"\n";
    for command in [&["kv", "scan"][..], &["kv", "get", "a", "b"]] {
        let (shown, exit) = on_terminal(&cluster, command).await;
        assert_eq!((shown, exit), (format!("{cut}{binary}"), 0), "{command:?}");
        let (shown, _) = on_terminal(&cluster, &[command, &["--values-max", "all"]].concat()).await;
        assert_eq!(shown, format!("a  {long}\n{binary}"), "{command:?}");
        let run = tally(&cluster, command).await;
        assert_eq!(run.stdout, format!("a  {long}\n{binary}"), "{command:?}");
        let run = tally(&cluster, &[command, &["--values-max", "2"]].concat()).await;
        let both = "a  vv…  (100 bytes)\nb  \"\\xff\\x1b\"…  (5 bytes)\n";
        assert_eq!(run.stdout, both, "{command:?}");
    }
    // Alone, a value is itself anywhere.
    let run = line(&cluster, "kv get a --values-max 2").await;
    assert_eq!(run.stdout, long);
    assert_eq!(line(&cluster, "kv scan --values-max some").await.exit, 2);
}

#[tokio::test]
async fn a_value_on_a_terminal_ends_its_line() {
    let cluster = Cluster::start(1).await;
    cluster.model().keys.insert("a".into(), Bytes::from_static(b"v"));
    cluster.model().keys.insert("b".into(), Bytes::from_static(b"v\n"));
    for (key, piped) in [("a", "v"), ("b", "v\n")] {
        assert_eq!(on_terminal(&cluster, &["kv", "get", key]).await.0, "v\n");
        assert_eq!(tally(&cluster, &["kv", "get", key]).await.stdout, piped);
    }
}
