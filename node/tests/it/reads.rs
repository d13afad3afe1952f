//! The four read levels and what their answers say of themselves; tokens that carry a read from
//! node to node; pages.

use tally_proto::{
    reason,
    v1::{self, ReadLevel, Role, StalenessGround, answer::Response},
};
use tokio::time::Instant;
use tonic::{Code, transport::Channel};

use crate::{
    client::{Exchange, Failure, fails_both_ways, streamed, unary},
    cluster::Cluster,
    requests::*,
};

async fn read(channel: &Channel, options: Option<v1::ReadOptions>) -> v1::CountersGetResponse {
    let response = unary(channel, get_at("a", options)).await.expect("the read is answered");
    answer!(CountersGet, response)
}

#[tokio::test]
async fn each_level_says_what_it_provided_on_leader_and_follower() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let written = unary(&cluster.channel(leader), add("a", 7)).await.expect("it is applied");
    let written = header(&written);
    assert_eq!((written.node_id, written.role()), (leader, Role::Leader));
    let token = written.session_token.clone();
    for id in cluster.ids() {
        let channel = cluster.channel(id);
        let role = if id == leader { Role::Leader } else { Role::Follower };
        for (options, level) in [
            (None, ReadLevel::Linearizable),
            (at_level(ReadLevel::Unspecified), ReadLevel::Linearizable),
            (at_level(ReadLevel::Linearizable), ReadLevel::Linearizable),
            (bounded(5_000, false), ReadLevel::Bounded),
            (bounded(5_000, true), ReadLevel::Bounded),
            (with_token(token.clone(), 0), ReadLevel::Session),
            (at_level(ReadLevel::Local), ReadLevel::Local),
        ] {
            let answer = read(&channel, options).await;
            let header = answer.header.expect("a header");
            assert_eq!(answer.counter.expect("it is there").value, 7, "node {id}, {level:?}");
            assert_eq!(header.consistency(), level, "node {id}");
            assert_eq!((header.node_id, header.role()), (id, role));
            assert_eq!(header.cluster_id, written.cluster_id);
            assert_eq!(header.cluster_id.len(), 32);
            assert_eq!(header.term, written.term);
            assert_eq!(header.revision, written.revision);
            assert!(header.applied_index >= written.applied_index);
            assert!(!header.session_token.is_empty());
            assert!(header.staleness_ms_max.is_some(), "a round has been there: {level:?}");
            let ground = header.staleness_ground();
            match level {
                ReadLevel::Linearizable => assert_eq!(ground, StalenessGround::ReadIndex),
                _ => assert_ne!(ground, StalenessGround::Unspecified),
            }
        }
        let bounded = read(&channel, bounded(200, false)).await.header.expect("a header");
        assert!(bounded.staleness_ms_max.is_some_and(|ms| ms <= 200));
    }
}

#[tokio::test]
async fn a_read_on_any_node_sees_the_write_before_it() {
    let cluster = Cluster::start(3).await;
    let channels: Vec<_> = cluster.ids().into_iter().map(|id| cluster.channel(id)).collect();
    for n in 0..30 {
        let writer = &channels[n % 3];
        let written = unary(writer, add("a", 1)).await.expect("it is applied");
        let token = header(&written).session_token;
        let value = answer!(CountersAdd, written).change.expect("a change").value;
        for reader in &channels {
            let linear = read(reader, None).await.counter.expect("it is there");
            assert_eq!(linear.value, value);
            let session = read(reader, with_token(token.clone(), 0)).await;
            assert_eq!(session.counter.expect("it is there").value, value);
        }
    }
}

#[tokio::test]
async fn a_write_on_a_follower_is_forwarded_with_its_refusals() {
    let cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let (at_leader, at_follower) = (cluster.channel(leader), cluster.channel(follower));
    let written = unary(&at_follower, add("a", 1)).await.expect("it is forwarded");
    let said = header(&written);
    assert_eq!((said.node_id, said.role()), (leader, Role::Leader), "who knows the state");
    let refusal =
        compare_and_set("a", v1::counters_compare_and_set_request::Expect::ExpectValue(9), 1);
    let one = fails_both_ways(&at_leader, refusal.clone()).await;
    let mut other = fails_both_ways(&at_follower, refusal).await;
    other.details.header.clone_from(&one.details.header);
    other.details.request_id.clone_from(&one.details.request_id);
    assert_eq!(one, other, "a forwarded refusal is the same refusal");

    let opened = unary(&at_follower, open_session()).await.expect("it is forwarded");
    let id = answer!(SessionsOpen, opened).session_id;
    let request = add_with("a", 1, |add| add.options = under_session(stamp(id, 1)));
    let first = answer!(CountersAdd, unary(&at_follower, request.clone()).await.expect("applied"));
    let again = answer!(CountersAdd, unary(&at_leader, request).await.expect("replayed"));
    assert!(again.write.expect("said").replayed, "one session for all nodes");
    assert_eq!(first.change, again.change);
}

#[tokio::test]
async fn a_token_of_the_future_is_waited_for_and_then_refused() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let written = unary(&channel, add("a", 1)).await.expect("it is applied");
    let mut token = header(&written).session_token.to_vec();
    // The last eight bytes are the applied index.
    let at = token.len() - 8;
    token[at..].copy_from_slice(&u64::MAX.to_be_bytes());
    let request = get_at("a", with_token(token, 150));
    let began = Instant::now();
    let one = unary(&channel, request.clone()).await.expect_err("nobody has got there");
    let took = began.elapsed().as_millis();
    assert!((150..1000).contains(&took), "it waited as long as it was asked to: {took} ms");
    let other = streamed(&channel, request).await.expect_err("nobody has got there");
    for failure in [Failure::from(one), Failure::from(other)] {
        failure.assert_complete();
        assert_eq!(failure.row(), (Code::Unavailable, reason::TOKEN_NOT_REACHED, None));
        assert!(failure.details.retry_after.is_some());
    }
}

#[tokio::test]
async fn a_token_of_another_cluster_is_refused() {
    let (one, other) = tokio::join!(Cluster::start(1), Cluster::start(1));
    let written = unary(&one.channel(1), add("a", 1)).await.expect("it is applied");
    let token = header(&written).session_token;
    let mut earlier_life = token.to_vec();
    // Version and cluster id are 17 bytes; the restore epoch follows.
    earlier_life[24] ^= 1;
    for (channel, token) in [(other.channel(1), token.to_vec()), (one.channel(1), earlier_life)] {
        let failure = fails_both_ways(&channel, get_at("a", with_token(token, 0))).await;
        let row = (Code::FailedPrecondition, reason::TOKEN_OF_ANOTHER_CLUSTER, None);
        assert_eq!(failure.row(), row);
    }
}

#[tokio::test]
async fn a_refusal_brings_the_token_of_the_state_that_refused() {
    let cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let leader = cluster.channel(cluster.leader().await);
    unary(&leader, configure("a", Some(0), None)).await.expect("it is configured");
    unary(&leader, add("a", 3)).await.expect("it is applied");
    let refused = Failure::from(unary(&leader, add("a", -4)).await.expect_err("below the floor"));
    let token = refused.details.header.expect("the state that refused").session_token;
    let seen = read(&cluster.channel(follower), with_token(token, 0)).await;
    assert_eq!(seen.counter.expect("it is there").value, 3);
}

#[tokio::test]
async fn pages_ascend_without_repeats_and_their_tokens_belong_to_a_query() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let mut stream = Exchange::open(&channel).await;
    let names: Vec<String> = (0..25).map(|n| format!("item/{n:03}")).collect();
    for (id, name) in (1..).step_by(2).zip(&names) {
        let call = |id, request| v1::Call { id, request: Some(request), ..Default::default() };
        stream.call(call(id, add(name, 1))).await.expect("it is applied");
        stream.call(call(id + 1, put(name, "x"))).await.expect("it is applied");
    }
    for request in [add("itemz", 1), add("a", 1), put("itemz", "x"), put("", "x")] {
        let _ = unary(&channel, request).await;
    }
    for page_size in [1, 7, 25, 1000, 0] {
        let page = |token: &str| list("item/", page_size, token);
        assert_eq!(all_pages(&channel, page).await, names, "counters by {page_size}");
        let page = |token: &str| scan_page("item/", page_size, token);
        assert_eq!(all_pages(&channel, page).await, names, "keys by {page_size}");
    }
    let first = unary(&channel, list("item/", 5, "")).await.expect("a page");
    let token = answer!(CountersList, first).next_page_token;
    for changed in [list("item", 5, &token), scan_page("item/", 5, &token)] {
        let failure = fails_both_ways(&channel, changed).await;
        assert_eq!(failure.code, Code::InvalidArgument);
        assert_eq!(failure.details.fields[0].0, "page_token");
        assert!(failure.message.contains("another query"), "{failure:?}");
    }
    unary(&channel, list("item/", 9, &token)).await.expect("another page size is fine");
}

fn scan_page(prefix: &str, page_size: i32, token: &str) -> v1::call::Request {
    scan(|scan| {
        scan.prefix = prefix.to_owned();
        scan.page_size = page_size;
        scan.page_token = token.to_owned();
    })
}

/// The names on all pages, one after the other.
async fn all_pages(channel: &Channel, page: impl Fn(&str) -> v1::call::Request) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut token = String::new();
    loop {
        let (on_page, next): (Vec<String>, String) =
            match unary(channel, page(&token)).await.expect("a page") {
                Response::CountersList(page) => {
                    let names = page.counters.into_iter().map(|counter| counter.name);
                    (names.collect(), page.next_page_token)
                }
                Response::KeysScan(page) => {
                    let names = page.items.into_iter().map(|item| item.key);
                    (names.collect(), page.next_page_token)
                }
                other => panic!("no page: {other:?}"),
            };
        names.extend(on_page);
        assert!(names.is_sorted_by(|one, other| one < other), "strictly ascending: {names:?}");
        if next.is_empty() {
            return names;
        }
        token = next;
    }
}

#[tokio::test]
async fn a_page_of_large_values_ends_early_and_the_next_goes_on() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let keys: Vec<String> = (0..5).map(|n| format!("k{n}")).collect();
    for key in &keys {
        unary(&channel, put(key, vec![1; 900 * 1024])).await.expect("it is stored");
    }
    let page = unary(&channel, scan_page("k", 0, "")).await.expect("a page");
    let page = answer!(KeysScan, page);
    assert!(page.items.len() < 5 && !page.next_page_token.is_empty());
    assert_eq!(all_pages(&channel, |token| scan_page("k", 0, token)).await, keys);
    let bare = scan(|scan| scan.keys_only = true);
    let bare = answer!(KeysScan, streamed(&channel, bare).await.expect("a page"));
    assert_eq!(bare.items.len(), 5);
    assert!(bare.items.iter().all(|item| item.value.is_empty()));
}
