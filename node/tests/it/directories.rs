//! Data directories of which a part is lost, old, or somebody else's: what the parts say of each other
//! is checked at the start, and what they can't say, the peers remember. `docs/storage-format.md` has
//! the table.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tally_node::node::NodeError;

use crate::{
    client::unary,
    cluster::{Cluster, eventually, files},
    requests::*,
};

async fn add_some(cluster: &Cluster, count: u32) {
    let channel = cluster.channel(cluster.leader().await);
    for _ in 0..count {
        unary(&channel, add("a", 1)).await.expect("a majority is there");
    }
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    for (path, bytes) in files(from) {
        let to = to.join(path.strip_prefix(from).expect("it is below"));
        fs::create_dir_all(to.parent().expect("it is below")).expect("a directory can be made");
        fs::write(to, bytes).expect("a file can be written");
    }
}

/// Starts a node, which must refuse in words that hold all of `parts` and leave every file as it is.
async fn refuses(cluster: &mut Cluster, id: u64, parts: &[&str]) -> NodeError {
    let dir = cluster.data_dir(id);
    let before = files(&dir);
    let error = cluster.start_node(id).await.expect_err("the node does not start");
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{text:?} says {part:?}");
    }
    assert!(error.needs_a_person(), "starting again does not help: {text}");
    let after = files(&dir);
    let changed: Vec<&PathBuf> = before
        .keys()
        .chain(after.keys())
        .filter(|path| before.get(*path) != after.get(*path))
        .collect();
    assert!(changed.is_empty(), "changed after {text:?}: {changed:?}");
    cluster.take_fatal(id);
    error
}

/// The follower had acknowledged what its log held, and voted. With a new log it could elect a leader
/// that lacks it: the state and the identity beside it know better.
#[tokio::test]
async fn a_log_that_is_gone_empty_older_or_anothers_is_refused() {
    let mut cluster = Cluster::start(3).await;
    add_some(&cluster, 10).await;
    let follower = cluster.follower().await;
    let other = cluster.ids().into_iter().find(|id| *id != follower).expect("there are three");
    cluster.stop(follower).await;
    let wal = cluster.data_dir(follower).join("wal");
    let (aside, older) = (wal.with_file_name("../wal-aside"), wal.with_file_name("../wal-older"));
    copy(&wal, &older);
    cluster.start_node(follower).await.expect("nothing is wrong yet");
    cluster.settled().await;
    add_some(&cluster, 10).await;
    // A follower that has not heard of them yet has forgotten nothing in an older log.
    cluster.caught_up().await;
    cluster.stop(follower).await;
    copy(&wal, &aside);

    let way_out = "under a new id";
    fs::remove_dir_all(&wal).expect("it can be removed");
    refuses(&mut cluster, follower, &["the log in wal/ is gone", "not mounted", way_out]).await;
    fs::create_dir(&wal).expect("it can be made");
    refuses(&mut cluster, follower, &["the log in wal/ is gone", way_out]).await;
    fs::write(wal.join("00000001.wal"), "").expect("it can be written");
    refuses(&mut cluster, follower, &["the log in wal/ is gone", way_out]).await;
    fs::write(wal.join("00000002.wal"), "").expect("it can be written");
    refuses(&mut cluster, follower, &["the log is damaged", way_out]).await;
    copy(&older, &wal);
    let error = cluster.start_node(follower).await.expect_err("the state is ahead of it");
    let text = error.to_string();
    assert!(text.contains("older copy") && text.contains(way_out), "{text}");
    copy(&cluster.data_dir(other).join("wal"), &wal);
    refuses(&mut cluster, follower, &["was made in another data directory", way_out]).await;

    copy(&aside, &wal);
    cluster.start_node(follower).await.expect("with its own log back, nothing is wrong");
    cluster.settled().await;
    add_some(&cluster, 1).await;
    cluster.stop(follower).await;
    // One from before the last start tells by itself that it is older.
    copy(&older, &wal);
    refuses(&mut cluster, follower, &["the log in wal/ is an older copy", way_out]).await;
}

/// The state is never ahead of its own log, not even in the middle of an install.
#[tokio::test]
async fn a_state_ahead_of_its_log_is_refused() {
    let mut cluster = Cluster::start(1).await;
    add_some(&cluster, 10).await;
    cluster.stop(1).await;
    let dir = cluster.data_dir(1);
    // As if the log had never been: what the identity knows of it is gone as well.
    fs::remove_dir_all(dir.join("wal")).expect("it can be removed");
    let identity = fs::read_to_string(dir.join("IDENTITY")).expect("it is there");
    let mut content: serde_json::Value = serde_json::from_str(&identity).expect("it is JSON");
    content["log_sequence"] = serde_json::Value::Null;
    fs::write(dir.join("IDENTITY"), content.to_string()).expect("it can be written");
    let error = cluster.start_node(1).await.expect_err("it must not serve what it can't vouch for");
    let text = error.to_string();
    assert!(text.contains("the state is after entry") && text.contains("the log ends"), "{text}");
    assert!(error.needs_a_person());
    let aside = files(&dir.join("state"))
        .into_keys()
        .find(|path| path.to_string_lossy().contains("damaged"));
    assert_eq!(aside, None, "nothing of the state was moved");
}

/// All of a directory, or its identity alone, put back from a copy that was made before the last start:
/// everything in it fits together, and it has forgotten what it acknowledged since.
#[tokio::test]
async fn a_directory_put_back_from_an_older_copy_is_refused_by_its_peers() {
    let mut cluster = Cluster::start(3).await;
    add_some(&cluster, 10).await;
    let follower = cluster.follower().await;
    cluster.stop(follower).await;
    let dir = cluster.data_dir(follower);
    let (aside, older) = (dir.with_file_name("aside"), dir.with_file_name("older"));
    copy(&dir, &older);
    cluster.start_node(follower).await.expect("nothing is wrong yet");
    cluster.settled().await;
    add_some(&cluster, 10).await;
    // A follower that has not heard of them yet has forgotten nothing in an older log.
    cluster.caught_up().await;
    cluster.stop(follower).await;
    copy(&dir, &aside);

    let parts = ["is an older copy of itself", "put the newer directory back", "under a new id"];
    for whole in [true, false] {
        if whole {
            copy(&older, &dir);
        } else {
            copy(&aside, &dir);
            fs::copy(older.join("IDENTITY"), dir.join("IDENTITY")).expect("it can be copied");
        }
        let error = cluster.start_node(follower).await.expect_err("it must not vote");
        let text = error.to_string();
        for part in parts {
            assert!(text.contains(part), "{text:?} says {part:?}");
        }
        assert!(error.needs_a_person());
    }
    copy(&aside, &dir);
    cluster.start_node(follower).await.expect("the newest one is what its peers know");
    cluster.settled().await;
}

/// A state, or snapshots, that are gone or older are made again from what the log and the snapshot
/// hold: both carry the past, and neither a promise.
#[tokio::test]
async fn a_state_that_is_gone_or_older_is_made_again() {
    let mut cluster = Cluster::start(3).await;
    add_some(&cluster, 10).await;
    let follower = cluster.follower().await;
    cluster.stop(follower).await;
    let dir = cluster.data_dir(follower);
    let older = dir.with_file_name("older");
    copy(&dir.join("state"), &older);
    cluster.start_node(follower).await.expect("nothing is wrong yet");
    cluster.settled().await;
    add_some(&cluster, 10).await;
    // A follower that has not heard of them yet has forgotten nothing in an older log.
    cluster.caught_up().await;
    cluster.stop(follower).await;
    for change in ["older", "empty", "gone"] {
        match change {
            "older" => copy(&older, &dir.join("state")),
            "empty" => {
                fs::remove_dir_all(dir.join("state")).expect("it can be removed");
                fs::create_dir(dir.join("state")).expect("it can be made");
            }
            _ => fs::remove_dir_all(dir.join("state")).expect("it can be removed"),
        }
        let _ = fs::remove_dir_all(dir.join("snap"));
        cluster.start_node(follower).await.unwrap_or_else(|error| panic!("{change}: {error}"));
        cluster.settled().await;
        let read = unary(&cluster.channel(follower), get("a")).await.expect("it is there");
        assert_eq!(answer!(CountersGet, read).counter.expect("it").value, 20, "{change}");
        cluster.stop(follower).await;
    }
}

/// Two nodes of three that lost their data are a majority of `initial_cluster`: together they would
/// form a new cluster and serve it, empty, to the old one's clients.
#[tokio::test]
async fn nodes_that_were_wiped_do_not_form_a_new_cluster_without_the_others() {
    let mut cluster = Cluster::start(3).await;
    add_some(&cluster, 5).await;
    for id in 1..=3 {
        cluster.stop(id).await;
    }
    for id in 1..=2 {
        fs::remove_dir_all(cluster.data_dir(id)).expect("it can be wiped");
    }
    let (one, two) = (tokio::spawn(cluster.launch(1)), tokio::spawn(cluster.launch(2)));
    let knows = |cluster: &Cluster, id: u64, other: &str| {
        let identity = fs::read_to_string(cluster.data_dir(id).join("IDENTITY"));
        identity.is_ok_and(|text| text.contains(other))
    };
    eventually("the two wiped ones meet", || {
        knows(&cluster, 1, "\"2\": ") && knows(&cluster, 2, "\"1\": ")
    })
    .await;
    // Long enough for an election, had they begun to form a cluster.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!one.is_finished() && !two.is_finished(), "they wait for the third");
    cluster.start_node(3).await.expect("it has its data");
    for wiped in [one, two] {
        let error = wiped.await.expect("it does not panic").expect_err("the third remembers");
        assert!(error.to_string().contains("another data directory"), "{error}");
    }
}

#[tokio::test]
async fn a_majority_forms_a_cluster_where_that_is_wanted() {
    let mut cluster = Cluster::prepare(3, |config| config.form_without_all = true);
    cluster.start_these(&[1, 2]).await;
    let channel = cluster.channel(cluster.leader().await);
    unary(&channel, add("a", 1)).await.expect("two of three are a majority");
    cluster.start_node(3).await.expect("it joins late");
    cluster.settled().await;
    let read = unary(&cluster.channel(3), get("a")).await.expect("it is there");
    assert_eq!(answer!(CountersGet, read).counter.expect("it").value, 1);
}
