//! Members that have another address than before: a machine that got another one, or another name.
//!
//! Each node says in its introductions where its peer port is, if that was set (`peer_advertise`, or its own line of
//! `initial_cluster`). A leader that hears of an address that the membership does not have looks whether that very node
//! answers there, with its directory, and writes it into the log; from there everybody else has it. A node that moved reaches
//! the others where they were, so it takes one of them that did not move at the same time. A name whose address changes
//! needs none of this: names are looked up whenever a connection is made.
//!
//! An address that is wrong does no harm: nobody answers there, and the membership stays as it is.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{consensus::Consensus, peer::hello::Greeter};

/// How often it is looked. Introductions come once a second.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long those that moved have to answer where they say they are.
const PATIENCE: Duration = Duration::from_secs(2);

/// Writes down who moved, while this node leads.
pub(super) async fn watch(consensus: Consensus, greeter: Arc<Greeter>) {
    loop {
        sleep(INTERVAL).await;
        if consensus.must_lead().is_err() {
            continue;
        }
        for (node_id, address) in greeter.moved(Instant::now() + PATIENCE).await {
            match consensus.readdress(node_id, address.clone()).await {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!(node = node_id, %address, "a member has another address")
                }
                Err(error) => tracing::debug!(node = node_id, %address, %error, "not written yet"),
            }
        }
    }
}
