//! What a node refuses to start on: another's directory, a newer format, damage, a wiped disk under
//! a known id, addresses of another cluster. Each refusal names the file, the reason and the way
//! out, and nothing is changed or deleted. And what a cluster that begins with authentication begins with.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tally_client::{Client, reason};
use tonic::Code;

use crate::{
    client::unary,
    cluster::{Cluster, eventually, files},
    requests::*,
};

/// A stopped cluster of one node that has stored something.
async fn stopped() -> Cluster {
    let mut cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    for n in 0..40 {
        let value = format!("MARK-{n:02}-{}", "x".repeat(2000));
        unary(&channel, put(&format!("k{n}"), value)).await.expect("it is stored");
    }
    cluster.stop(1).await;
    cluster
}

/// Starts node 1, which must refuse in words that hold all of `parts` and leave every file as it is.
async fn refuses(cluster: &mut Cluster, parts: &[&str]) {
    let dir = cluster.data_dir(1);
    refuses_in(cluster, &dir, parts).await;
}

/// … and leave every file below a directory as it is.
async fn refuses_in(cluster: &mut Cluster, dir: &Path, parts: &[&str]) {
    let before = files(dir);
    let error = cluster.start_node(1).await.expect_err("the node does not start").to_string();
    for part in parts {
        assert!(error.contains(part), "{error:?} says {part:?}");
    }
    let after = files(dir);
    let changed: Vec<&PathBuf> = before
        .keys()
        .chain(after.keys())
        .filter(|path| before.get(*path) != after.get(*path))
        .collect();
    assert!(changed.is_empty(), "changed after {error:?}: {changed:?}");
    cluster.take_fatal(1);
}

/// The first file below a directory that holds these bytes, and where.
fn find(dir: &Path, bytes: &[u8]) -> (PathBuf, usize) {
    let found = files(dir).into_iter().find_map(|(path, content)| {
        let at = content.windows(bytes.len()).position(|window| window == bytes)?;
        Some((path, at))
    });
    found.expect("the bytes are stored somewhere")
}

/// Changes the byte at a place of a file, and gives what was there.
fn flip(path: &Path, at: usize) {
    let mut content = std::fs::read(path).expect("the file can be read");
    content[at] ^= 0x40;
    std::fs::write(path, content).expect("the file can be written");
}

fn edit_identity(cluster: &Cluster, change: impl FnOnce(String) -> String) {
    let path = cluster.data_dir(1).join("IDENTITY");
    let text = std::fs::read_to_string(&path).expect("a node has an identity");
    std::fs::write(path, change(text)).expect("the file can be written");
}

#[tokio::test]
async fn another_nodes_directory_is_refused() {
    let mut cluster = stopped().await;
    let config = cluster.config(1);
    config.node_id = 2;
    let address = config.peer_listen.clone();
    config.initial_cluster = format!("2={address}").parse().expect("a member");
    let parts =
        ["IDENTITY", "belongs to node 1, not to node 2", "Start with node id 1", "nothing was"];
    refuses(&mut cluster, &parts).await;
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let mut cluster = stopped().await;
    edit_identity(&cluster, |text| text.replace("\"format\": 2", "\"format\": 3"));
    let parts =
        ["IDENTITY", "format 3", "up to 2", "Start the newer version", "nothing was changed"];
    refuses(&mut cluster, &parts).await;
}

#[tokio::test]
async fn a_damaged_or_lost_identity_is_refused() {
    let mut cluster = stopped().await;
    edit_identity(&cluster, |text| text[..text.len() / 2].to_owned());
    refuses(&mut cluster, &["IDENTITY", "can't be read", "restore the file"]).await;
    std::fs::remove_file(cluster.data_dir(1).join("IDENTITY")).expect("it can be removed");
    refuses(&mut cluster, &["holds", "but no IDENTITY", "restore the file"]).await;
}

#[tokio::test]
async fn a_damaged_log_is_refused() {
    let mut cluster = stopped().await;
    let (path, at) = find(&cluster.data_dir(1).join("wal"), b"MARK-20");
    flip(&path, at);
    let name = path.file_name().expect("a file").to_string_lossy().into_owned();
    refuses(&mut cluster, &["damaged", &name, "at byte", "Way out: remove this node"]).await;
    flip(&path, at);
    cluster.start_node(1).await.expect("with the byte back, nothing is wrong");
    cluster.settled().await;
    let channel = cluster.channel(1);
    for n in 0..40 {
        let read = answer!(KeysGet, unary(&channel, key_get(&format!("k{n}"))).await.expect("it"));
        assert!(read.item.expect("it").value.starts_with(format!("MARK-{n:02}").as_bytes()));
    }
}

#[tokio::test]
async fn a_damaged_state_is_set_aside_and_made_again_from_a_whole_log() {
    let mut cluster = stopped().await;
    let pointer = cluster.data_dir(1).join("state/CURRENT");
    flip(&pointer, 3);
    cluster.start_node(1).await.expect("the log holds everything");
    cluster.settled().await;
    let channel = cluster.channel(1);
    let read = answer!(KeysGet, unary(&channel, key_get("k39")).await.expect("it is there"));
    assert!(read.item.expect("it").value.starts_with(b"MARK-39"));
    let aside = files(&cluster.data_dir(1).join("state"));
    let damaged = |path: &PathBuf| path.to_string_lossy().contains("damaged");
    assert!(aside.keys().any(damaged), "nothing is deleted that somebody may want to look at");
}

#[tokio::test]
async fn a_state_of_a_newer_format_is_refused() {
    let mut cluster = stopped().await;
    let pointer = cluster.data_dir(1).join("state/CURRENT");
    let text = std::fs::read_to_string(&pointer).expect("the pointer is text");
    std::fs::write(&pointer, text.replacen(" 1", " 2", 1)).expect("it can be written");
    // The log is open by then and has begun a run of its own; the state is untouched.
    let state = cluster.data_dir(1).join("state");
    refuses_in(&mut cluster, &state, &["state/CURRENT", "format version 2", "up to 1"]).await;
}

#[tokio::test]
async fn a_wiped_directory_under_a_known_id_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    cluster.kill(follower).await;
    std::fs::remove_dir_all(cluster.data_dir(follower)).expect("it can be wiped");
    let error = cluster.start_node(follower).await.expect_err("it must not vote again").to_string();
    for part in
        ["empty or another data directory", "The way out", "tally cluster replace", "new id"]
    {
        assert!(error.contains(part), "{error:?} says {part:?}");
    }
    let leader = cluster.leader().await;
    unary(&cluster.channel(leader), add("a", 1)).await.expect("the others go on");
}

/// Whoever waits for the file with the first token has it before the entry that makes it count.
#[tokio::test]
async fn the_first_token_waits_for_the_entry_that_founds_the_cluster() {
    let mut cluster = Cluster::prepare(1, |config| config.authentication = true);
    cluster.syncs(1).shut_with("admin-token");
    cluster.start_node(1).await.expect("it starts");
    let file = cluster.data_dir(1).join("admin-token");
    let read = || std::fs::read_to_string(&file).ok().filter(|token| token.ends_with('\n'));
    eventually("the file is there", || read().is_some()).await;
    assert!(cluster.syncs(1).is_shut(), "nothing is durable from here on");
    let endpoint = [cluster.client_address(1)];
    let at_once = Client::builder(endpoint).bearer_token(read().expect("it was there").trim());
    let at_once = at_once.deadline(Duration::from_millis(500)).build().expect("a client");
    for error in [
        at_once.counter("early").add(1).await.expect_err("nothing can be written yet"),
        at_once.counter("early").get().await.expect_err("nothing can be read yet"),
    ] {
        assert_ne!(error.reason(), reason::UNAUTHENTICATED, "{error}");
        assert!(matches!(error.code(), Code::Unavailable | Code::DeadlineExceeded), "{error:?}");
    }
    let patient = Client::builder([cluster.client_address(1)]);
    let patient = patient.bearer_token(read().expect("it was there").trim());
    let patient = patient.deadline(Duration::from_secs(8)).build().expect("a client");
    let writing = tokio::spawn(async move { patient.counter("early").add(1).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.syncs(1).open();
    assert_eq!(writing.await.expect("no panic").expect("it waited").value, 1);
}
