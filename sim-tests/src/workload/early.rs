//! Clients that come first: each asks one node, from before that node answers at all until the cluster
//! stands.
//!
//! A node that has applied nothing yet knows neither cluster nor state. Its callers must be able to see
//! what they wrote all the same: an acknowledged write brings a token, and a SESSION read after it sees it,
//! on this node too. What they write changes nothing (they delete a counter that is never made), so that
//! the history is none the longer for them.

use std::time::Duration;

use tally_client::{Client, Consistency, ReadLevel};

use super::Workload;
use crate::{
    cluster::{CLIENT_PORT, Cluster, host_of},
    env::{connect_client, mix},
};

/// A counter that nobody makes.
const NOWHERE: &str = "nowhere";

/// Pause between two attempts, while nothing answers.
const PAUSE: Duration = Duration::from_millis(3);

/// How long a write and a read may take.
const DEADLINE: Duration = Duration::from_millis(1500);

impl Workload {
    /// Writes to one node and reads there, until the users come.
    pub(super) async fn come_first(self, cluster: Cluster, node: u64) {
        let address = format!("{}:{CLIENT_PORT}", host_of(node));
        let client = Client::builder([address])
            .seed(mix(self.shared.seed, &[0xea, node]))
            .connector(connect_client)
            .deadline(DEADLINE)
            .one_shot()
            .build()
            .expect("the settings are valid");
        drop(cluster);
        while !self.shared.ready.get() && !self.shared.stop.get() {
            self.write_and_read(&client, node).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn write_and_read(&self, client: &Client, node: u64) {
        let Ok(written) = client.counter(NOWHERE).delete().await else { return };
        let book = &self.shared.book;
        book.happened("writes of clients that came first");
        let token = written.header.session_token.clone();
        if written.header.cluster_id.is_empty() || token.to_string().is_empty() {
            book.wrong(format!("node {node} acknowledged a write without a token"));
            return;
        }
        let read = client.counter(NOWHERE).get().level(ReadLevel::Session(Some(token))).await;
        let seen = read.as_ref().err().and_then(|error| error.header());
        if let Some(seen) = seen.filter(|seen| seen.consistency == Consistency::Session) {
            book.happened("session reads of clients that came first");
            if seen.applied_index < written.header.applied_index {
                let (at, wrote) = (seen.applied_index, written.header.applied_index);
                book.wrong(format!("node {node} showed index {at} to who had written at {wrote}"));
            }
        }
        if let Err(error) = &read
            && error.reason() == tally_client::reason::TOKEN_OF_ANOTHER_CLUSTER
        {
            book.wrong(format!("node {node} took a token of its own cluster for another's"));
        }
    }
}
