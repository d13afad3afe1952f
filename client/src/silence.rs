//! A leader that falls silent: whether another one leads meanwhile is asked of the other nodes.
//!
//! A node that dies closes its connections, and its callers know at once. One that stands still, loses
//! its network or its power says nothing. Its connection is given up when HTTP/2's keepalive has not been
//! answered, after seconds; a call, at the end of its attempt, which is as long. The other nodes have
//! elected another leader long before. So when the leader (or whoever is asked while none is known) owes answers and has
//! said nothing for [`SUSPECT_AFTER`], the others are asked; and if one of them leads, the silent one's stream is given up.
//! A client that is new may have asked a follower, which is only slow: its calls are sent again to the leader.
//!
//! Why that is safe: what was sent on the stream may have been executed or may yet be, as on any stream
//! that breaks. Writes are sent again under the same session number or idempotency key, and reads are
//! asked anew. Why it does no harm: while the node that is asked leads nothing is given up, however slow it is, and
//! what a deposed leader or a slow follower would still answer the leader answers sooner.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tally_proto::v1;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    exchange::{Answers, Reply},
    node::Node,
    shared::Shared,
    wire::{Response, Rpc as _},
};

/// Longer than a healthy leader takes for anything but a stall of its disk, shorter than an election.
const SUSPECT_AFTER: Duration = Duration::from_millis(400);

/// The others are asked again this often while the silence lasts.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Who does not answer in this time is not waited for.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);

/// Watches one stream until it ends.
pub(crate) async fn watch(client: Weak<Shared>, address: String, answers: Answers) {
    while answers.fall_silent(SUSPECT_AFTER).await {
        let Some(shared) = client.upgrade() else { return };
        if shared.router.leads_elsewhere(&address) {
            // Nobody hurries to this one. It may owe what takes its time, as a look at all members does,
            // and what it does not answer ends with its attempts.
            drop(shared);
            sleep(SUSPECT_AFTER).await;
            continue;
        }
        let ask_again = Instant::now() + ASK_EVERY;
        let others = shared.router.others(&address);
        let mut asked: FuturesUnordered<_> = others.iter().map(|node| ask(&shared, node)).collect();
        // The silent one may be among them, when a follower is silent since it waits for it.
        while asked.next().await.is_some() && !shared.router.leads_elsewhere(&address) {}
        drop(asked);
        if shared.router.leads_elsewhere(&address) {
            tracing::debug!(node = address, "the leader is silent, and another one leads");
            answers.give_up("it is silent, and another node leads");
            return;
        }
        drop(shared);
        sleep_until(ask_again).await;
    }
}

/// Asks a node what it is.
async fn ask(shared: &Arc<Shared>, node: &Arc<Node>) {
    let request = v1::ClusterStatusRequest { local_only: true };
    let until = Instant::now() + ASK_TIMEOUT;
    if let Reply::Answer(Response::ClusterStatus(status)) =
        node.call(&shared.network, request.request(), until).await
        && status.header.as_ref().is_none_or(|header| shared.tokens.saw(header))
    {
        shared.router.saw_roles(&status);
    }
}
