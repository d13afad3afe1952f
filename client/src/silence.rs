//! A leader that falls silent: whether another one leads meanwhile is asked of the other nodes.
//!
//! A node that dies closes its connections, and its callers know at once. One that stands still, loses
//! its network or its power says nothing. Its connection is given up when HTTP/2's keepalive has not been
//! answered, after seconds; a call, at the end of its attempt, which is as long. The other nodes have
//! elected another leader long before. So when the leader (or whoever is asked while none is known) owes answers and has
//! said nothing for [`SUSPECT_AFTER`], the others are asked; and if one of them leads in a newer term than was known when
//! the silence began, the silent one's stream is given up.
//!
//! # Newer than what
//! Than the term in which the silent node was known to lead; or, of one that was not, than the newest term that was known
//! to have had a leader. It is noted when the silence begins, with the call that is owed, and not when it is suspected:
//! who leads may be learnt from another call meanwhile. Where the leader was known to be elsewhere all the time, nothing is
//! newer: what was sent to a follower waits for that follower.
//!
//! A client that is new knows of no term. It takes for known what the others say when they are first asked. If that is
//! that the leader is elsewhere, the silent node was no leader, and is asked for its own status, which takes it no time: if
//! it says that or anything else, it is slow and is waited for as any follower; if not, it stands still, and another node
//! does what was asked of it.
//!
//! Why that is safe: what was sent on the stream may have been executed or may yet be, as on any stream
//! that breaks. Writes are sent again under the same session number or idempotency key, and reads are
//! asked anew. Why it does no harm: without a *newer* leader no leader is given up, however slow it is, and no other node
//! that says anything; and what a deposed leader would still answer another one answers sooner.

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
    // Since when it may be silent, and the newest term known then; 0 for none.
    let mut noted: Option<(Instant, u64)> = None;
    loop {
        let note = |since: Instant| {
            if noted.is_none_or(|(of, _)| of != since)
                && let Some(shared) = client.upgrade()
            {
                noted = Some((since, shared.router.term_known_at(&address)));
            }
        };
        let Some(since) = answers.fall_silent(SUSPECT_AFTER, note).await else { return };
        let Some(shared) = client.upgrade() else { return };
        let router = &shared.router;
        let known = noted.map_or(0, |(_, known)| known);
        let leads_newer = || router.leads_elsewhere(&address).is_some_and(|term| term > known);
        if known > 0 && router.leads_elsewhere(&address).is_some() && !leads_newer() {
            // Nobody hurries to this one. It may owe what takes its time, as a look at all members does,
            // and what it does not answer ends with its attempts.
            drop(shared);
            sleep(SUSPECT_AFTER).await;
            continue;
        }
        let ask_again = Instant::now() + ASK_EVERY;
        let others = router.others(&address);
        let mut asked: FuturesUnordered<_> = others.iter().map(|node| ask(&shared, node)).collect();
        // The silent one may be among them, when a follower is silent since it waits for it.
        while !leads_newer() && asked.next().await.is_some() {}
        drop(asked);
        if leads_newer() {
            if known > 0 {
                tracing::debug!(node = address, "it is silent, and another node leads since");
                answers.give_up("it is silent, and another node leads in a newer term");
                return;
            }
            // Nothing was known, so this leader may have led all the time.
            let is_there = match router.at(&address) {
                Some(node) => ask(&shared, &node).await,
                None => false,
            };
            if !is_there && answers.is_silent_since(since) {
                tracing::debug!(node = address, "it stands still, and another node leads");
                answers.give_up("it does not say how it is, and another node leads");
                return;
            }
        }
        if known == 0 {
            noted = Some((since, router.term_known_at(&address)));
        }
        drop(shared);
        sleep_until(ask_again).await;
    }
}

/// Asks a node what it is; false if it did not answer.
async fn ask(shared: &Arc<Shared>, node: &Arc<Node>) -> bool {
    let request = v1::ClusterStatusRequest { local_only: true };
    let until = Instant::now() + ASK_TIMEOUT;
    let reply = node.call(&shared.network, request.request(), until).await;
    let is_answered = matches!(&reply, Reply::Answer(_));
    if let Reply::Answer(Response::ClusterStatus(status)) = reply
        && status.header.as_ref().is_none_or(|header| shared.tokens.saw(header))
    {
        shared.router.saw_roles(&status);
    }
    is_answered
}
