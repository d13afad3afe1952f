//! Directories and addresses that are not this node's to use: refused, with what to do about it.

use std::process::{Command, ExitStatus, Output, Stdio};

use crate::support::{
    load::Book,
    nodes::{Cluster, TALLYD, TestDir, free_port},
};

/// Exit status of a node that must not run as it is configured.
pub(crate) const REFUSED: i32 = 78;

/// Runs a node that is expected to end soon.
async fn run(arguments: Vec<String>) -> Output {
    let running = tokio::process::Command::from(Command::new(TALLYD))
        .args(arguments)
        .kill_on_drop(true)
        .output();
    tokio::time::timeout(crate::support::PATIENCE, running)
        .await
        .expect("the node ends by itself")
        .expect("the node can be started")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn serve(id: u64, data: &std::path::Path, client: &str, peer: &str) -> Vec<String> {
    let members = format!("{id}={peer}");
    let data = data.display().to_string();
    let id = id.to_string();
    [
        "serve",
        "--node-id",
        &id,
        "--data-dir",
        &data,
        "--client-listen",
        client,
        "--peer-listen",
        peer,
        "--initial-cluster",
        &members,
    ]
    .map(str::to_owned)
    .to_vec()
}

fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

fn assert_refused(status: ExitStatus, text: &str, parts: &[&str]) {
    assert_eq!(status.code(), Some(REFUSED), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[tokio::test]
async fn directory_in_use() {
    let mut cluster = Cluster::started("in-use", 1, &[]).await;
    let data = cluster.nodes[0].data.clone();
    let pid = cluster.nodes[0].pid().to_string();
    let output = run(serve(1, &data, &free_address(), &free_address())).await;
    assert_refused(output.status, &said(&output), &["in use by another process", &pid]);
    // The one that runs is not disturbed.
    let book = Book::default();
    book.add(&cluster.client(), "hits").await.expect("the first process goes on");
    cluster.assert_running();
}

#[tokio::test]
async fn directory_of_another_node() {
    let mut cluster = Cluster::started("another-node", 1, &[]).await;
    let data = cluster.nodes[0].data.clone();
    cluster.kill_all();
    let output = run(serve(2, &data, &free_address(), &free_address())).await;
    assert_refused(output.status, &said(&output), &["belongs to node 1, not to node 2"]);
}

#[tokio::test]
async fn directory_of_something_else() {
    let cluster = Cluster::new("something-else", 1, &[]);
    let data = &cluster.nodes[0].data;
    std::fs::create_dir_all(data).expect("a directory");
    std::fs::write(data.join("holiday.jpg"), "not ours").expect("a file");
    let output = run(serve(1, data, &free_address(), &free_address())).await;
    assert_refused(output.status, &said(&output), &["holiday.jpg", "Nothing was changed"]);
    assert_eq!(std::fs::read(data.join("holiday.jpg")).expect("still there"), b"not ours");
}

#[tokio::test]
async fn port_in_use() {
    let mut cluster = Cluster::started("port-in-use", 1, &[]).await;
    let taken = cluster.nodes[0].client.clone();
    let data = cluster.dir.path().join("other");
    let output = run(serve(1, &data, &taken, &free_address())).await;
    assert_refused(output.status, &said(&output), &["can't listen on", &taken, "client_listen"]);
    let output = run(serve(1, &data, &free_address(), &taken)).await;
    assert_refused(output.status, &said(&output), &["can't listen on", &taken, "peer_listen"]);
    cluster.assert_running();
}

/// Nobody opens a node to others by accident.
#[tokio::test]
async fn listening_beyond_loopback_without_tls() {
    let dir = TestDir::new("open");
    for (flag, key) in [("--client-listen", "client_listen"), ("--peer-listen", "peer_listen")] {
        let data = dir.path().join("data").display().to_string();
        let arguments = ["serve", "--node-id", "1", "--data-dir", &data, flag, "0.0.0.0:1"];
        let advertised = ["--client-advertise", "127.0.0.1:1", "--peer-advertise", "127.0.0.1:2"];
        let output =
            run([&arguments[..], &advertised].concat().into_iter().map(str::to_owned).collect())
                .await;
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        for part in [key, "insecure_listen_without_tls", "_tls_cert_file"] {
            assert!(said.contains(part), "{said}");
        }
        assert!(!dir.path().join("data").exists(), "nothing was made");
    }
}

/// A voter that lost its disk has forgotten what it acknowledged and voted for. Its peers remember
/// which directory they met, and it does not come back under its old id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wiped_voter() {
    let mut cluster = Cluster::started("wiped-voter", 3, &[]).await;
    let client = cluster.client();
    let book = Book::default();
    for _ in 0..20 {
        book.add(&client, "hits").await.expect("a healthy cluster");
    }
    cluster.caught_up().await;
    let (leader, _) = cluster.leader().await;
    let wiped = cluster.nodes.iter().map(|node| node.id).find(|id| *id != leader);
    let wiped = wiped.expect("there are three");
    cluster.node(wiped).kill();
    std::fs::remove_dir_all(&cluster.node(wiped).data).expect("a directory to wipe");
    cluster.node(wiped).start();
    let status = cluster.node(wiped).wait_ended().await;
    let log = cluster.node(wiped).log_text();
    assert_refused(status, &log, &["an empty or another data directory", "under a new id"]);
    book.add(&client, "hits").await.expect("the other two go on");
    book.audit(&client).await;
}

#[tokio::test]
async fn an_output_that_takes_nothing_is_told_of() {
    let print_config = ["serve", "--print-config", "--node-id", "1"];
    for arguments in [&["--help"][..], &["--version"], &["serve", "--help"], &print_config] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = tokio::process::Command::from(Command::new(TALLYD));
        command.args(arguments).stdout(full).stderr(Stdio::piped()).kill_on_drop(true);
        let running = command.spawn().expect("the node can be started").wait_with_output();
        let output = tokio::time::timeout(crate::support::PATIENCE, running).await;
        let output = output.expect("it ends by itself").expect("it can be waited for");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains("No space left"), "{arguments:?}: {}", said(&output));
    }
}

#[tokio::test]
async fn a_misspelt_variable_is_refused_with_what_was_meant() {
    for arguments in [&["serve", "--node-id", "1"][..], &["dev"]] {
        let mut command = tokio::process::Command::from(Command::new(TALLYD));
        command.args(arguments).env("TALLY_FLUSH_INTERVAL", "5").kill_on_drop(true);
        let running = tokio::time::timeout(crate::support::PATIENCE, command.output());
        let output = running.await.expect("it ends by itself").expect("it can be started");
        let said = said(&output);
        assert!(said.contains("TALLY_FLUSH_INTERVAL means nothing"), "{said}");
        assert!(said.contains("TALLY_FLUSH_INTERVAL_MS?"), "{said}");
        assert_ne!(output.status.code(), Some(0));
    }
}
