//! Nodes whose names resolve to other addresses later, as a rescheduled pod's do. Each node's process has a mount
//! namespace of its own in which `/etc/hosts` is a file of the test's, so this needs root and Linux.

use std::{fmt::Write as _, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use crate::{
    members::goes_on,
    support::{
        load::{Book, Load},
        nodes::{Cluster, TALLYD},
        skip,
    },
};

/// Starts the node with these hosts; it stays the same process.
fn program_with(hosts: &Path) -> String {
    let hosts = hosts.display();
    format!(
        "#!/bin/sh\nexec unshare --mount sh -c 'mount --bind \"$0\" /etc/hosts && exec \"$@\"' '{hosts}' '{TALLYD}' \"$@\"\n"
    )
}

/// Where each node is now. The file stays the same one: it is mounted.
fn resolve_to(hosts: &Path, addresses: &[u8]) {
    let mut text = String::from("127.0.0.1 localhost\n");
    for (at, host) in addresses.iter().enumerate() {
        let _ = writeln!(text, "127.0.0.{host} node-{}.test", at + 1);
    }
    std::fs::write(hosts, text).expect("the hosts can be written");
}

fn may_mount(hosts: &Path) -> bool {
    let mut command = Command::new("unshare");
    command.args(["--mount", "mount", "--bind"]).arg(hosts).arg("/etc/hosts");
    command.output().is_ok_and(|output| output.status.success())
}

/// One after the other, all nodes come back at another address, under the name that they have in the membership.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_move_are_found_by_their_names() {
    let test = "nodes_that_move_are_found_by_their_names";
    let mut cluster = Cluster::new("names", 3, &[]);
    let (hosts, program) = (cluster.dir.path().join("hosts"), cluster.dir.path().join("tallyd"));
    let mut addresses = [11, 12, 13];
    resolve_to(&hosts, &addresses);
    if !may_mount(&hosts) {
        return skip(test, "mounting a file over /etc/hosts needs root");
    }
    std::fs::write(&program, program_with(&hosts)).expect("a script");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&program, mode).expect("it may be run");
    let name = |id: u64, peer: &str| {
        let (_, port) = peer.rsplit_once(':').expect("a port");
        format!("node-{id}.test:{port}")
    };
    let members: Vec<String> = cluster
        .nodes
        .iter()
        .map(|node| format!("{}={}", node.id, name(node.id, &node.peer)))
        .collect();
    for node in &mut cluster.nodes {
        node.program.clone_from(&program);
        for flag in ["--peer-listen", "--initial-cluster"] {
            node.without(flag);
        }
        node.with(&["--peer-listen", &name(node.id, &node.peer)]);
        node.with(&["--initial-cluster", &members.join(",")]);
        // A name may lead anywhere.
        node.with(&["--insecure-listen-without-tls", "true"]);
    }
    cluster.start_all();
    cluster.leader().await;
    let (client, book) = (cluster.client(), Book::default());
    let load = Load::start(&client, 4, &book);
    goes_on(&book).await;

    for id in [1, 2, 3] {
        cluster.node(id).kill();
        addresses[id as usize - 1] += 10;
        resolve_to(&hosts, &addresses);
        cluster.node(id).start();
        cluster.caught_up().await;
        // It counts: without it there is no quorum now.
        let other = id % 3 + 1;
        cluster.node(other).kill();
        goes_on(&book).await;
        cluster.node(other).start();
        cluster.caught_up().await;
    }
    assert_eq!(addresses, [21, 22, 23], "all have moved");
    cluster.assert_running();
    load.stop().await;
    book.report(test);
    book.audit(&client).await;
}
