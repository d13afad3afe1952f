//! A dashboard that reads at a follower, costs the leader nothing, and says how old its numbers may be.
//!
//! ```sh
//! cargo run -p tally-node --bin tallyd -- dev          # in another terminal
//! cargo run -p tally-client --example dashboard -- hits stock/chair
//! ```
//!
//! It looks five times, once a second. `TALLY_ENDPOINTS` names other nodes than those of `tallyd dev`, with
//! commas between them. Stop the other two nodes while it looks (`kill -STOP`) and see the bound grow.

use std::{error::Error as StdError, time::Duration};

use tally_client::{Client, Header, ReadLevel, Role};

const LOOKS: usize = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// Older numbers are shown all the same, with a word of warning.
const STALENESS_MAX: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let mut names: Vec<String> = std::env::args().skip(1).collect();
    if names.is_empty() {
        names.extend(["hits", "stock/chair", "page/home"].map(str::to_owned));
    }
    let endpoints = std::env::var("TALLY_ENDPOINTS")
        .unwrap_or_else(|_| "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403".to_owned());
    let client = Client::connect(endpoints.split(',')).await?;
    let status = client.status().await?;
    let follower = status.nodes.iter().find(|node| node.role == Some(Role::Follower));
    let follower = follower.ok_or("there is no follower")?;
    println!("reading at node {}, {}", follower.id, follower.address);
    // Reads that need no leader go to the endpoint, so that a client with one endpoint reads there for as
    // long as it answers. When it does not, another node is asked; the header says which.
    let at_follower = Client::builder([follower.address.as_str()]).build()?;

    // Proven to be young if that is possible, and shown all the same if it is not.
    let level = ReadLevel::Bounded { max_staleness: STALENESS_MAX, allow_fallback: true };
    for look in 0..LOOKS {
        if look > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let seen = at_follower.counters().batch_get(names.clone()).level(level.clone()).await?;
        println!("\n{}", worth(&seen.header));
        for counter in &seen.items {
            println!("{:>12}  {}", counter.value, counter.name);
        }
        for name in &seen.missing {
            println!("{:>12}  {name}", "-");
        }
    }

    // Without a promise, and so without a reason to fail while that node lives: not even a majority is needed.
    let seen = at_follower.counters().batch_get(names).level(ReadLevel::Local).await?;
    println!("\n{}", worth(&seen.header));
    Ok(())
}

/// How much the numbers are worth.
fn worth(header: &Header) -> String {
    let Header { consistency, node_id, role, revision, .. } = header;
    let age = match header.staleness_max {
        Some(age) if age > STALENESS_MAX => format!("STALE, up to {} ms old", age.as_millis()),
        Some(age) => format!("at most {} ms old", age.as_millis()),
        None => "of unknown age".to_owned(),
    };
    format!("{consistency} at node {node_id} ({role}), revision {revision}, {age}")
}
