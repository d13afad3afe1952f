//! What answers say of the state that they come from, at the moments at which that is hard: while a
//! cluster is being formed, on a node that knows nothing yet, and where several writes share one entry.

use std::{collections::BTreeMap, time::Duration};

use tally_proto::{
    reason,
    v1::{self, answer::Response},
};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::{
    client::{Exchange, Failure, unary},
    cluster::Cluster,
    requests::*,
};

/// Adds until one is acknowledged, from before the node answers at all.
async fn first_write(channel: Channel, name: String) -> v1::ResponseHeader {
    loop {
        if let Ok(written) = unary(&channel, add(&name, 1)).await {
            return header(&written);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A write that is acknowledged without a token can't be waited for by the read after it.
#[tokio::test]
async fn the_first_writes_of_a_cluster_are_seen_by_session_reads_everywhere() {
    for round in 0..4 {
        let mut cluster = Cluster::prepare(3, |_| {});
        let mut writing = JoinSet::new();
        for id in cluster.ids() {
            for n in 0..4 {
                writing.spawn(first_write(cluster.channel(id), format!("{id}-{n}")));
            }
        }
        cluster.start_all().await;
        let mut clusters = BTreeMap::new();
        while let Some(written) = writing.join_next().await {
            let header = written.expect("no writer panics");
            assert!(!header.session_token.is_empty(), "round {round}: {header:?}");
            *clusters.entry(header.cluster_id.clone()).or_insert(0) += 1;
            for id in cluster.ids() {
                let read = get_at("none", with_token(header.session_token.clone(), 0));
                let missing = unary(&cluster.channel(id), read).await.expect_err("it has no name");
                let missing = Failure::from(missing);
                assert_eq!(missing.details.reason, reason::COUNTER_NOT_FOUND);
                let seen = missing.details.header.expect("a header").applied_index;
                assert!(seen >= header.applied_index, "round {round}: {seen} of {header:?}");
            }
        }
        assert_eq!(clusters.len(), 1, "all are of one cluster: {clusters:?}");
    }
}

/// Writes that gather while entries are under way share one: its index names one state, which has one
/// revision. A write's own revision is in its answer, and a replay is not of the state it is told with.
#[tokio::test]
async fn an_applied_index_has_one_revision_whatever_is_answered_with_it() {
    const CALLS: u64 = 600;
    let cluster = Cluster::start(3).await;
    for node in [cluster.leader().await, cluster.follower().await] {
        let channel = cluster.channel(node);
        let mut exchange = Exchange::open(&channel).await;
        let mut revisions: BTreeMap<u64, u64> = BTreeMap::new();
        let (mut shared, mut replays) = (0, 0);
        for part in 0..2 {
            // The second part repeats the keys of the first, among writes of its own.
            let calls = (0..CALLS).map(|id| v1::Call {
                id,
                request: Some(match id % 3 {
                    0 => add_with("a", 1, |add| {
                        add.options = under_key(&format!("{node}-{id}"));
                    }),
                    // Refused in apply.
                    1 => compare_and_set(
                        "a",
                        v1::counters_compare_and_set_request::Expect::ExpectValue(-1),
                        0,
                    ),
                    _ => add(&format!("b-{part}"), 1),
                }),
                ..Default::default()
            });
            exchange.send(calls.collect()).await;
            for _ in 0..CALLS {
                let answer = exchange.next().await.expect("the stream goes on").expect("an answer");
                let response = answer.response.expect("a response");
                let (header, own) = match &response {
                    Response::Error(error) => {
                        let failure = Failure::from(error.clone());
                        (failure.details.header.expect("a header"), 0)
                    }
                    Response::CountersAdd(added) => {
                        replays += u64::from(added.write.expect("said").replayed);
                        (header(&response), added.change.as_ref().expect("a change").revision)
                    }
                    other => panic!("{other:?}"),
                };
                assert!(own <= header.revision, "it is part of that state");
                let at = header.applied_index;
                if let Some(before) = revisions.insert(at, header.revision) {
                    shared += 1;
                    assert_eq!(before, header.revision, "two states at applied index {at}");
                }
            }
        }
        let ascending = revisions.values().zip(revisions.values().skip(1)).all(|(a, b)| a <= b);
        assert!(ascending, "revisions grow with the index: {revisions:?}");
        assert!(shared > 0 && replays > 0, "{shared} answers shared an index, {replays} replays");
    }
}
