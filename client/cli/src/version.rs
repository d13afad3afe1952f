//! `tally version`: which program this is, and which ones the nodes run.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tally_client::{Client, NodeInfo};

use crate::output::{Exit, Failure, Output, escaped, note};

/// In one line, for `--version`.
pub(crate) const LINE: &str = env!("BUILD_VERSION");

/// Nodes are asked this long at most: it is this program that was asked for first.
pub(crate) const NODES_WITHIN: Duration = Duration::from_secs(2);

/// Where nothing listens there is nobody to wait for.
pub(crate) const UNHEARD_MAX: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(crate) struct VersionOptions {
    /// Show this program's alone, and ask no node.
    #[arg(long)]
    pub(crate) client: bool,
}

#[derive(Serialize)]
struct Shown {
    client: Build,
    /// Nothing if nobody was asked, or answered.
    nodes: Option<Vec<Node>>,
}

#[derive(Serialize)]
struct Build {
    version: &'static str,
    commit: &'static str,
    built: &'static str,
}

#[derive(Serialize)]
struct Node {
    id: u64,
    address: String,
    /// Nothing if it does not answer.
    version: Option<String>,
}

/// Shows this program's version, and those of the nodes that the client reaches.
pub(crate) async fn run(client: Option<&Client>, output: Output) -> Result<Exit, Failure> {
    let status = match client {
        Some(client) => Some(client.status().await),
        None => None,
    };
    let (nodes, why) = match status {
        Some(Ok(status)) => (Some(status.nodes.iter().map(node).collect()), None),
        Some(Err(error)) => (None, Some(error)),
        None => (None, None),
    };
    let client = Build {
        version: env!("CARGO_PKG_VERSION"),
        commit: env!("BUILD_COMMIT"),
        built: env!("BUILD_BUILT"),
    };
    output.result(&Shown { client, nodes }, text)?;
    if let (Some(error), false) = (why, output.json) {
        note(&format!("-- no node says which it runs: {}", escaped(error.message())));
    }
    Ok(Exit::Done)
}

fn node(node: &NodeInfo) -> Node {
    let version = node.reachable.then(|| node.version.clone());
    Node { id: node.id, address: node.address.clone(), version }
}

fn text(shown: &Shown) -> String {
    let Build { version, commit, built } = shown.client;
    let mut text = format!("tally {version}\ncommit: {commit}\nbuilt: {built}");
    for Node { id, address, version } in shown.nodes.iter().flatten() {
        let version = version.as_deref().map_or("unreachable".into(), escaped);
        text += &format!("\nnode {id}: {version}, at {}", escaped(address));
    }
    text
}
