//! `tally cluster snapshot`.

use serde::Serialize;
use tally_client::{Client, Error, Outcome};
use tokio::time::{Instant, sleep};

use super::{Snapshot, steps::LOOK_EVERY};
use crate::{
    args::Time,
    output::{Exit, Failure, Output},
};

/// What was built.
#[derive(Debug, Serialize)]
struct Built {
    snapshots: Vec<OfNode>,
}

#[derive(Debug, Serialize)]
struct OfNode {
    node_id: u64,
    log_index: u64,
}

/// One node after the other, so that the others serve meanwhile.
pub(super) async fn build(
    client: &Client,
    asked: &Snapshot,
    output: Output,
) -> Result<Exit, Failure> {
    let ids = match asked.node_id {
        Some(id) => vec![id],
        None => client.status().await?.nodes.iter().map(|node| node.id).collect(),
    };
    let mut snapshots = Vec::new();
    for id in ids {
        snapshots.push(of_node(client, id, asked.wait).await?);
    }
    output.result(&Built { snapshots }, |built| {
        let lines = built.snapshots.iter().map(|OfNode { node_id, log_index }| match log_index {
            0 => format!("node {node_id} holds nothing yet, so there is no snapshot of it"),
            _ => format!("node {node_id} has a snapshot of everything up to log index {log_index}"),
        });
        lines.collect::<Vec<_>>().join("\n")
    })?;
    Ok(Exit::Done)
}

/// A call waits as long as its deadline; one that ends before the snapshot is there is made again.
async fn of_node(client: &Client, id: u64, Time(wait): Time) -> Result<OfNode, Failure> {
    let until = Instant::now() + wait;
    loop {
        match client.snapshot(id).await {
            Ok(built) => return Ok(OfNode { node_id: built.node_id, log_index: built.log_index }),
            // It may have ended at once, as of a node that is just starting again.
            Err(error) if is_building(&error) && Instant::now() < until => sleep(LOOK_EVERY).await,
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_building(error: &Error) -> bool {
    error.outcome() == Some(Outcome::Unknown)
}
