//! `tally top` and `tally debug bundle`.

use std::{io::Read as _, time::Duration};

use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::{
    fake::Cluster,
    runs::{ended_by_signal, into_full, on_terminal, tally, typed},
};

#[tokio::test]
async fn once_it_looks_for_an_interval_and_prints_lines() {
    let cluster = Cluster::start(3).await;
    cluster.elect(1);
    let run = tally(&cluster, &["top", "--once", "--interval", "200ms"]).await;
    assert_eq!(run.exit, 0, "{}", run.stderr);
    let lines: Vec<Vec<&str>> =
        run.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..5], ["time", "node", "role", "term", "ops/s"]);
    assert_eq!((lines[1][1], lines[2][1..3].to_vec()), ("1", vec!["2", "leader"]));
    let rate: f64 = lines[1][5].parse().unwrap();
    assert!(rate > 0.0, "{}", run.stdout);
    assert!(run.stdout.contains("no metrics: no answer in time"), "{}", run.stdout);
    assert!(run.stdout.contains("hot: counter stock 15/s"), "of all nodes: {}", run.stdout);

    let sorted = ["top", "--once", "--interval", "100ms", "--sort", "node", "--reverse", "--json"];
    let run = tally(&cluster, &sorted).await;
    let shown = run.json();
    assert_eq!(shown["health"]["verdict"], "HEALTHY", "{shown}");
    let nodes = shown["nodes"].as_array().unwrap();
    let ids: Vec<_> = nodes.iter().map(|node| node["id"].clone()).collect();
    assert_eq!(ids, [3, 2, 1]);
    assert_eq!(nodes[0]["problem"], "no answer in time");
    assert!(nodes[0]["writes_per_second"].is_null(), "what is not known is no zero: {shown}");
    assert!(nodes[1]["writes_per_second"].as_f64().unwrap() > 0.0, "{shown}");
    assert!(nodes[1]["write_p99_ms"].as_f64().unwrap() <= 2.0, "{shown}");
    assert_eq!(nodes[1]["methods"][0]["method"], "CountersAdd");

    for wrong in [&["top", "--interval", "10ms"][..], &["top", "--sort", "beauty"]] {
        assert_eq!(tally(&cluster, wrong).await.exit, 2, "{wrong:?}");
    }
    let full = into_full(&cluster, &["top", "--once", "--interval", "100ms"]).await;
    assert_eq!(full.exit, 6, "{}", full.stderr);
    let nobody = ["top", "--once", "--endpoints", "127.0.0.1:1", "--deadline", "1s"];
    assert_eq!(tally(&cluster, &nobody).await.exit, 4);
}

#[tokio::test]
async fn into_a_pipe_it_prints_a_look_after_each_interval() {
    let cluster = Cluster::start(2).await;
    cluster.elect(0);
    let waits = async || tokio::time::sleep(Duration::from_secs(2)).await;
    let shown = ended_by_signal(&cluster, &["top", "--interval", "100ms"], waits).await;
    let heads = shown.lines().filter(|line| line.starts_with("time")).count();
    let leaders = shown.lines().filter(|line| line.contains("leader")).count();
    assert!(heads == 1 && leaders > 1, "{shown}");
}

#[tokio::test]
async fn on_a_terminal_it_is_a_view_that_keys_move() {
    let cluster = Cluster::start(2).await;
    cluster.elect(0);
    // Its input is no terminal here, so it prints lines.
    let once = ["top", "--once", "--interval", "100ms"];
    assert!(on_terminal(&cluster, &once).await.0.contains("leader"));
    let (shown, exit) = typed(&cluster, &["top", "--interval", "100ms"], &["\r", "q"]).await;
    assert_eq!(exit, 0, "{shown}");
    let (enter, leave) = ("\u{1b}[?1049h", "\u{1b}[?1049l");
    let (begins, ends) = (shown.find(enter).expect("a screen of its own"), shown.rfind(leave));
    assert!(ends.is_some_and(|ends| ends > begins), "the screen before comes back: {shown:?}");
    assert!(shown.contains("follower"), "{shown:?}");
    let (_, exit) = typed(&cluster, &["top"], &["\u{3}"]).await;
    assert_eq!(exit, 130, "Ctrl-C");
}

/// Paths in an archive, with what is in them.
fn unpacked(archive: &[u8]) -> Vec<(String, String)> {
    let mut archive = tar::Archive::new(GzDecoder::new(archive));
    let entries = archive.entries().unwrap();
    let unpack = |entry: Result<tar::Entry<'_, _>, _>| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        assert_eq!(entry.header().mode().unwrap(), 0o600, "{path}");
        (path.split_once('/').expect("it is in a folder").1.to_owned(), text)
    };
    entries.map(unpack).collect()
}

#[tokio::test]
async fn a_bundle_has_what_there_is_and_says_what_is_not() {
    let cluster = Cluster::start(3).await;
    cluster.elect(0);
    let folder = std::env::temp_dir().join(format!("tally-debug-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("bundle.tar.gz");
    let bundle = ["debug", "bundle", "--json", "--out", path.to_str().unwrap()];
    let run = tally(&cluster, &bundle).await;
    assert_eq!(run.exit, 0, "{}", run.stderr);
    assert_eq!(run.json()["nodes"], 2, "{}", run.stdout);
    let archive = std::fs::read(&path).unwrap();
    assert_eq!(run.json()["bytes"], archive.len());
    let again = tally(&cluster, &bundle).await;
    assert_eq!(again.exit, 4, "what is there already stays: {}", again.stdout);
    std::fs::remove_dir_all(&folder).unwrap();

    let files = unpacked(&archive);
    let paths: Vec<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "manifest.json",
            "status.json",
            "nodes/1/metrics.txt",
            "nodes/1/log.txt",
            "nodes/1/_config.toml",
            "nodes/2/metrics.txt",
            "nodes/2/_config.toml",
        ]
    );
    let manifest: Value = serde_json::from_str(&files[0].1).unwrap();
    assert_eq!(manifest["format"], 1);
    let listed: Vec<_> = manifest["files"].as_array().unwrap().iter().collect();
    assert_eq!(listed.len(), files.len() - 1);
    for (listed, (path, text)) in listed.iter().zip(&files[1..]) {
        assert_eq!(**listed, json!({ "path": path, "bytes": text.len() }));
    }
    let missing = |what: &str, why: &str| json!({ "what": what, "why": why });
    let all = [
        missing("nodes/1/log.txt", "3 earlier lines are no longer kept"),
        missing("nodes/2/log.txt", "this process keeps no log lines"),
        missing("nodes/3/metrics.txt", "no answer in time"),
        missing("nodes/3", "no answer in time"),
    ];
    assert_eq!(manifest["missing"], json!(all));
    assert!(files[2].1.contains("tally_requests_total"), "{}", files[2].1);
}
