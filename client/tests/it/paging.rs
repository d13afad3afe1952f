//! Lists as streams: nothing ahead of the reader, the header of each page, the end, errors, drops.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use futures_core::FusedStream as _;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tally_client::Client;
use tally_proto::{reason, status::StatusBuilder, v1::answer::Response};
use tonic::Code;

use crate::fake::{Cluster, eventually};

/// A cluster with so many counters, named in order.
async fn counted(counters: usize) -> (Cluster, Client) {
    let cluster = Cluster::start(1).await;
    let names = (0..counters).map(|number| (format!("page/{number:04}"), number as i64));
    cluster.model().counters = names.collect();
    cluster.model().counters.insert("other".into(), -1);
    let client = cluster.client();
    (cluster, client)
}

fn reads(cluster: &Cluster) -> usize {
    cluster.nodes[0].seen.lock().unwrap().reads
}

#[tokio::test]
async fn all_items_come_in_order_and_no_page_ahead_of_its_reader() {
    let (cluster, client) = counted(25).await;
    let mut items = client.counters().list().prefix("page/").page_size(10).items();
    assert_eq!((reads(&cluster), items.header()), (0, None), "nothing before it is polled");
    for number in 0..25 {
        let counter = items.next().await.unwrap().unwrap();
        assert_eq!((counter.name, counter.value), (format!("page/{number:04}"), number));
        assert_eq!(reads(&cluster), 1 + number as usize / 10, "at {number}");
        let header = items.header().expect("there was a page");
        assert_eq!(header.applied_index, cluster.model().log_index, "it is this page's");
        assert_eq!(items.next_page_token().is_some(), number < 20);
    }
    assert!(items.next().await.is_none() && items.is_terminated());
    assert_eq!(reads(&cluster), 3, "the last page says that it is the last");
    let all: Vec<_> = client.counters().list().items().try_collect().await.unwrap();
    assert_eq!(all.len(), 26);
}

#[tokio::test]
async fn pages_come_one_by_one_each_with_its_header() {
    let (_cluster, client) = counted(25).await;
    let pages: Vec<_> = client.counters().list().page_size(10).pages().collect().await;
    let pages: Vec<_> = pages.into_iter().map(|page| page.unwrap()).collect();
    let sizes: Vec<_> = pages.iter().map(|page| page.items.len()).collect();
    assert_eq!(sizes, [10, 10, 6]);
    assert!(pages.is_sorted_by(|one, two| one.header.applied_index < two.header.applied_index));
    // From a page's token on, as by hand.
    let token = pages[0].next_page_token.clone().unwrap();
    let rest = client.counters().list().page_size(10).page_token(token).items();
    assert_eq!(rest.count().await, 16);
}

#[tokio::test]
async fn an_error_is_the_last_item_and_says_where_to_go_on() {
    let (cluster, client) = counted(25).await;
    let mut items = client.counters().list().prefix("page/").page_size(10).items();
    let mut seen = items.by_ref().take(10).try_collect::<Vec<_>>().await.unwrap();
    let refusal = StatusBuilder::new(Code::InvalidArgument, reason::INVALID_REQUEST, "no");
    cluster.nodes[0].refuses_reads.lock().unwrap().push_back(Response::Error(refusal.build()));
    let error = items.next().await.unwrap().unwrap_err();
    assert_eq!(error.reason(), reason::INVALID_REQUEST);
    assert!(items.next().await.is_none(), "nothing after an error");
    let token = items.next_page_token().expect("of the page that failed").to_owned();
    let rest = client.counters().list().prefix("page/").page_size(10).page_token(token);
    seen.extend(rest.items().try_collect::<Vec<_>>().await.unwrap());
    let names: Vec<_> = seen.iter().map(|counter| counter.value).collect();
    assert_eq!(names, (0..25).collect::<Vec<_>>(), "each exactly once");
}

#[tokio::test]
async fn a_dropped_future_loses_nothing_and_a_dropped_stream_asks_no_more() {
    let (cluster, client) = counted(25).await;
    let mut items = client.counters().list().prefix("page/").page_size(20).items();
    {
        let mut first = pin!(items.next());
        let mut context = Context::from_waker(Waker::noop());
        assert!(matches!(first.as_mut().poll(&mut context), Poll::Pending));
    }
    assert_eq!(items.next().await.unwrap().unwrap().value, 0);
    assert_eq!(reads(&cluster), 1, "the page that was under way is the one that came");
    drop(items);
    // Whatever it had asked for would be before this.
    client.counter("other").get().await.unwrap();
    assert_eq!(reads(&cluster), 2);
}

#[tokio::test]
async fn sessions_are_paged_too() {
    let cluster = Cluster::start(1).await;
    let clients: Vec<_> = (0..5).map(|_| cluster.client()).collect();
    for client in &clients {
        client.counter("hits").add(1).await.unwrap();
    }
    eventually("five sessions", || cluster.model().sessions.len() == 5).await;
    let sessions = clients[0].list_sessions().page_size(2).items();
    let ids: Vec<_> = sessions.map_ok(|session| session.session_id).try_collect().await.unwrap();
    assert_eq!(ids, cluster.model().sessions.keys().copied().collect::<Vec<u64>>());
    let pages: Vec<_> =
        clients[0].list_sessions().page_size(2).pages().try_collect().await.unwrap();
    assert_eq!(pages.iter().map(|page| page.sessions.len()).collect::<Vec<_>>(), [2, 2, 1]);
    assert!(pages.iter().all(|page| page.sessions_open == 5), "what only a page says");
}
