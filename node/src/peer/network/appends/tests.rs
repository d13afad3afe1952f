//! What is sent of what openraft asks for, and after how long.

use openraft::entry::RaftEntry as _;

use super::*;
use crate::consensus::types::{self, Entry, Vote};

/// A request for what follows `prev`, with this many entries.
fn request(prev: Option<u64>, entries: u64) -> AppendEntriesRequest<TypeConfig> {
    let first = prev.map_or(0, |prev| prev + 1);
    AppendEntriesRequest {
        vote: Vote::new(1, 1),
        prev_log_id: prev.map(|prev| types::log_id(1, prev)),
        entries: (first..first + entries)
            .map(|index| Entry::new_blank(types::log_id(1, index)))
            .collect(),
        leader_commit: None,
    }
}

/// A follower stood still for ever because such a request was taken for a heartbeat.
#[test]
fn replication_ends_where_its_entries_are_purged() {
    assert!(is_purged(&request(Some(4), 0), Some(5)));
    assert!(is_purged(&request(None, 0), Some(0)));
    // Nothing to send, or nothing purged of what comes next.
    assert!(!is_purged(&request(Some(5), 0), Some(5)));
    assert!(!is_purged(&request(Some(4), 0), None));
    // What was read before it was purged may go.
    assert!(!is_purged(&request(Some(4), 2), Some(5)));
}

type Requests = futures_util::stream::BoxStream<'static, AppendEntriesRequest<TypeConfig>>;

fn outgoing(requests: Requests) -> Outgoing<Requests> {
    Outgoing {
        first: Some(request(Some(4), 1)),
        requests,
        held: None,
        hold: None,
        ended: false,
        purged: None,
        progress: Arc::default(),
        cluster_id: String::new(),
        target: 2,
    }
}

/// What is sent, as the number of entries in each, and after how long.
async fn sent(requests: Requests) -> Vec<(usize, Duration)> {
    let began = tokio::time::Instant::now();
    outgoing(requests).map(|sent| (sent.entries.len(), began.elapsed())).collect().await
}

/// Requests, each this long after the one before.
fn paced(requests: Vec<(u64, AppendEntriesRequest<TypeConfig>)>) -> Requests {
    stream::iter(requests)
        .then(|(after_us, request)| async move {
            if after_us > 0 {
                tokio::time::sleep(Duration::from_micros(after_us)).await;
            }
            request
        })
        .boxed()
}

#[tokio::test(start_paused = true)]
async fn a_commit_index_rides_with_the_next_entry() {
    let zero = Duration::ZERO;
    let soon = vec![(0, request(Some(5), 0)), (0, request(Some(5), 0)), (0, request(Some(5), 2))];
    assert_eq!(sent(paced(soon)).await, [(1, zero), (2, zero)]);

    // None comes.
    let alone = paced(vec![(0, request(Some(5), 0))]).chain(stream::pending()).boxed();
    let mut alone = outgoing(alone);
    assert_eq!(alone.next().await.map(|sent| sent.entries.len()), Some(1));
    let began = tokio::time::Instant::now();
    assert_eq!(alone.next().await.map(|sent| sent.entries.len()), Some(0));
    assert!(began.elapsed() >= COMMIT_HOLD && began.elapsed() <= 2 * COMMIT_HOLD);
}

#[tokio::test(start_paused = true)]
async fn a_held_commit_index_is_sent_when_requests_keep_coming_without_entries() {
    let empty = |_| (600, request(Some(5), 0));
    let commits = paced((0..10).map(empty).collect());
    let sent = sent(commits).await;
    assert!((3..=6).contains(&sent.len()), "{sent:?}");
    let gaps = sent.windows(2).map(|two| two[1].1 - two[0].1);
    assert!(gaps.max() <= Some(3 * COMMIT_HOLD), "{sent:?}");
}

#[tokio::test(start_paused = true)]
async fn the_last_commit_index_is_sent_when_requests_end() {
    let sent = sent(paced(vec![(0, request(Some(5), 0))])).await;
    assert_eq!(sent.iter().map(|(entries, _)| *entries).collect::<Vec<_>>(), [1, 0]);
}
