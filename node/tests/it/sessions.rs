//! Who holds sessions: a share for each address, lists, and closing by somebody else.

use std::net::{Ipv4Addr, SocketAddr};

use hyper_util::rt::TokioIo;
use tally_node::config::Config;
use tally_proto::{
    reason,
    v1::{self, Outcome, call::Request},
};
use tokio::net::TcpSocket;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::{
    client::{fails_both_ways, streamed, unary},
    cluster::Cluster,
    requests::{add_with, answer, open_session},
};

/// A connection from another address of this machine.
async fn from(address: Ipv4Addr, to: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{to}")).expect("an address");
    let to: SocketAddr = to.parse().expect("an address");
    let connector = tower::service_fn(move |_: http::Uri| async move {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(address.into(), 0))?;
        Ok::<_, std::io::Error>(TokioIo::new(socket.connect(to).await?))
    });
    endpoint.connect_with_connector(connector).await.expect("it connects")
}

const ONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const TWO: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const THREE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

async fn opened(channel: &Channel) -> u64 {
    let answer = unary(channel, open_session()).await.expect("there is room");
    answer!(SessionsOpen, answer).session_id
}

fn list(owner: &str) -> v1::SessionsListRequest {
    v1::SessionsListRequest { owner: owner.to_owned(), ..Default::default() }
}

async fn listed(channel: &Channel, request: v1::SessionsListRequest) -> v1::SessionsListResponse {
    let answer = unary(channel, Request::SessionsList(request)).await.expect("it is shown");
    answer!(SessionsList, answer)
}

fn ids(list: &v1::SessionsListResponse) -> Vec<u64> {
    list.sessions.iter().map(|session| session.session_id).collect()
}

#[tokio::test]
async fn one_address_has_a_share_of_the_table_and_newcomers_have_places() {
    let small = |config: &mut Config| config.sessions_max = 8;
    let cluster = Cluster::start_with(1, small).await;
    let address = cluster.client_address(1);
    let one = from(ONE, &address).await;
    for _ in 0..2 {
        opened(&one).await;
        streamed(&one, open_session()).await.expect("the same over a stream");
    }
    let failure = fails_both_ways(&one, open_session()).await;
    let row = (Code::ResourceExhausted, reason::SESSION_TABLE_FULL, Some(Outcome::NotApplied));
    assert_eq!(failure.row(), row);
    let message = "the session table has no more room for 127.0.0.1: sessions it holds: 4, sessions \
                   it may hold: 4, 50 % of what the others leave of 8";
    assert_eq!(failure.message, message);

    let two = from(TWO, &address).await;
    opened(&two).await;
    opened(&two).await;
    assert_eq!(fails_both_ways(&two, open_session()).await.row(), row, "a half of what is left");
    opened(&from(THREE, &address).await).await;

    let shown = listed(&one, v1::SessionsListRequest { owners_max: 2, ..list("") }).await;
    assert_eq!((shown.sessions_open, shown.sessions_max, shown.share_percent), (7, 8, 50));
    let owners: Vec<_> = shown.owners.iter().map(|it| (it.owner.as_str(), it.sessions)).collect();
    assert_eq!(owners, [("127.0.0.1", 4), ("127.0.0.2", 2)]);
    let status = unary(&one, crate::requests::status()).await.expect("it is told");
    let dedup = answer!(ClusterStatus, status).dedup.expect("the tables");
    assert!(dedup.sessions_warning, "7 of 8 are more than 80 %");
    assert_eq!(dedup.sessions_share_percent, 50);
}

#[tokio::test]
async fn an_open_that_is_forwarded_belongs_to_its_client_and_not_to_the_node() {
    let small = |config: &mut Config| config.sessions_max = 4;
    let cluster = Cluster::start_with(3, small).await;
    let follower = cluster.follower().await;
    let two = from(TWO, &cluster.client_address(follower)).await;
    let mine = [opened(&two).await, opened(&two).await];
    assert!(unary(&two, open_session()).await.is_err(), "its share, wherever it asks");
    for id in 1..=3 {
        let asked = from(THREE, &cluster.client_address(id)).await;
        assert_eq!(ids(&listed(&asked, list("127.0.0.2")).await), mine, "node {id}");
        assert_eq!(ids(&listed(&asked, list("127.0.0.3")).await), [] as [u64; 0]);
    }
    // The leader sees who forwards, not the client; by that address there is still room.
    opened(&from(ONE, &cluster.client_address(cluster.leader().await)).await).await;
}

#[tokio::test]
async fn a_list_comes_in_pages_and_anybody_may_close_what_is_in_it() {
    let cluster = Cluster::start(1).await;
    let address = cluster.client_address(1);
    let (one, two) = (from(ONE, &address).await, from(TWO, &address).await);
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(opened(&one).await);
        all.push(opened(&two).await);
    }
    let stamp = v1::SessionStamp { session_id: all[0], sequence: 1, lowest_unanswered: 1 };
    let options = v1::WriteOptions { session: Some(stamp), ..Default::default() };
    unary(&one, add_with("a", 1, |add| add.options = Some(options.clone())))
        .await
        .expect("it is added");

    let mut page = v1::SessionsListRequest { page_size: 3, ..list("") };
    let mut seen = Vec::new();
    loop {
        let answer = listed(&two, page.clone()).await;
        seen.extend(answer.sessions);
        page.page_token = answer.next_page_token;
        if page.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen.iter().map(|session| session.session_id).collect::<Vec<_>>(), all);
    assert_eq!((seen[0].answers, seen[0].owner.as_str()), (1, "127.0.0.1"));
    assert!(seen[0].answer_bytes > 0 && seen[1].answers == 0);
    for session in &seen {
        assert_eq!(session.idle_timeout_ms, 3_600_000);
        assert!(session.idle_for_ms < 600_000 && session.expires_in_ms > 3_000_000, "{session:?}");
    }

    for (wrong, field) in [
        (list("localhost"), "owner"),
        (list("127.0.0.1:7401"), "owner"),
        (v1::SessionsListRequest { page_size: 1001, ..list("") }, "page_size"),
        (v1::SessionsListRequest { page_token: "zz".into(), ..list("") }, "page_token"),
        (v1::SessionsListRequest { owners_max: 101, ..list("") }, "owners_max"),
    ] {
        let failure = fails_both_ways(&one, Request::SessionsList(wrong)).await;
        assert_eq!(failure.code, Code::InvalidArgument);
        assert!(failure.details.fields.iter().any(|(name, _)| name == field), "{failure:?}");
    }
    let first = listed(&one, v1::SessionsListRequest { page_size: 1, ..list("127.0.0.1") }).await;
    let other = v1::SessionsListRequest { page_token: first.next_page_token, ..list("") };
    fails_both_ways(&one, Request::SessionsList(other)).await;

    let close = v1::SessionsCloseRequest { session_id: all[0] };
    let closed = unary(&two, Request::SessionsClose(close)).await.expect("it closes");
    assert!(answer!(SessionsClose, closed).closed);
    let failure =
        fails_both_ways(&one, add_with("a", 1, |add| add.options = Some(options.clone()))).await;
    assert_eq!(failure.details.reason, reason::SESSION_EXPIRED);
    assert_eq!(ids(&listed(&one, list("")).await), all[1..]);
}
