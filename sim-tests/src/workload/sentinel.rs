//! Who overwrites one key again and again that nobody reads.
//!
//! It is what a flipped bit is put into ([`Fault::StoredBit`](crate::faults::plan::Fault::StoredBit)). Between the flip
//! and the next comparison a replica answers as it always does, and nobody promises otherwise: were it a record that
//! somebody reads, clients would be told what is wrong, and nothing could be asked of their history. Here nothing hangs
//! on the value: a put is answered by its revision. So the history is judged as ever, with all the answers of that
//! replica in it, and what has to be found out shows in nothing but the hash of the state.

use std::{rc::Rc, time::Duration};

use tally_client::history::Part;

use super::{Workload, user::lull};
use crate::cluster::Cluster;

/// The key.
const KEY: &str = "sentinel";
/// What begins a record of a key in the state's store.
const RECORD_OF_KEY: u8 = 0x11;
/// Its number among clients.
const SENTINEL: u64 = 1_004;
/// Between two puts.
const PAUSE: Duration = Duration::from_millis(300);

/// Whether a record of the state's store is the one that is overwritten.
pub(crate) fn is_overwritten(record: &[u8]) -> bool {
    record.strip_prefix(&[RECORD_OF_KEY]) == Some(KEY.as_bytes())
}

impl Workload {
    /// Puts it until users end.
    pub(super) async fn overwrite(self, cluster: Cluster) {
        let shared = Rc::clone(&self.shared);
        let client = cluster.client(SENTINEL).deadline(Duration::from_secs(3)).build();
        let client = client.expect("the settings are valid");
        while !shared.ready.get() && !shared.stop.get() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut puts = 0_u64;
        while !shared.stop.get() {
            tokio::time::sleep(PAUSE).await;
            lull(&shared).await;
            puts += 1;
            // Of one length: it grows nothing that there is a quota on.
            let value = format!("{puts:06}");
            let pending = shared.book.begin(SENTINEL, Part::put(KEY, value.clone()));
            shared.book.finish(pending, &client.keys().put(KEY, value).await);
        }
        shared.running.set(shared.running.get() - 1);
    }
}
