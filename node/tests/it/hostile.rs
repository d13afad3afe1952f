//! Input that no well-meant client sends: garbage, other protocols, messages that can't be decoded,
//! too large ones, text that is not UTF-8. Each time: a clear error or a closed connection, and a
//! node that goes on. That no node panics is checked when its cluster is dropped.

use std::time::Duration;

use bytes::Bytes;

use tally_proto::{
    peer::v1::{self as peer, peer_client::PeerClient},
    reason,
    v1::{self, Outcome},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;

use crate::{
    client::{Failure, unary},
    cluster::{Cluster, channel_to},
    raw::raw,
    requests::*,
};

/// A protobuf field of bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut len = content.len();
    while len > 127 {
        bytes.push((len % 128) as u8 | 128);
        len /= 128;
    }
    bytes.push(len as u8);
    bytes.extend_from_slice(content);
    bytes
}

async fn still_answers(cluster: &Cluster) {
    let channel = cluster.channel(1);
    let answer = unary(&channel, add("alive", 1));
    let answer = tokio::time::timeout(Duration::from_secs(5), answer).await;
    answer.expect("the node answers in time").expect("the node answers");
}

const ADD: &str = "/tally.v1.Counters/Add";
const GET: &str = "/tally.v1.Counters/Get";

#[tokio::test]
async fn messages_that_are_none_are_refused_as_invalid() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let not_utf8 = [0xff, 0xfe, 0x41];
    let messages: [(&str, &'static str, Vec<u8>); 7] = [
        ("a name that is not UTF-8", ADD, field(1, &not_utf8)),
        ("a name of half a character", GET, field(1, &"é".as_bytes()[..1])),
        ("a key that is not UTF-8", "/tally.v1.Keys/Put", field(1, &not_utf8)),
        ("an idempotency key that is not UTF-8", ADD, field(6, &field(2, &not_utf8))),
        ("a length beyond the end", ADD, vec![1 << 3 | 2, 100, b'a']),
        ("no protobuf at all", ADD, vec![0xff; 64]),
        ("a field of another type", ADD, field(2, b"text")),
    ];
    for (what, path, message) in messages {
        let failure = Failure::from(raw(&channel, path, &message).await.expect_err(what));
        let row = (Code::InvalidArgument, reason::INVALID_REQUEST, Some(Outcome::NotApplied));
        assert_eq!(failure.row(), row, "{what}: {failure:?}");
        assert!(!failure.details.fields.is_empty(), "{what}: {failure:?}");
    }
    let failure = raw(&channel, "/tally.v1.Counters/Explode", b"").await.expect_err("no method");
    let failure = Failure::from(failure);
    assert_eq!(failure.row().0, Code::Unimplemented);
    assert_eq!(failure.details.reason, reason::UNIMPLEMENTED);
    still_answers(&cluster).await;
}

#[tokio::test]
async fn unknown_fields_are_skipped_as_protobuf_wants() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let message = [field(1, b"a"), vec![2 << 3, 5], field(15, b"of a newer version")].concat();
    raw(&channel, ADD, &message).await.expect("a newer client is understood");
    let now = unary(&channel, get("a")).await.expect("it is there");
    assert_eq!(answer!(CountersGet, now).counter.expect("it").value, 5);
}

#[tokio::test]
async fn messages_that_are_too_large_are_refused_by_size() {
    const MIB: usize = 1024 * 1024;
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    for size in [2 * MIB + 1, 4 * MIB - 100, 4 * MIB + 1, 16 * MIB] {
        let message = [field(1, b"k"), field(2, &vec![7; size])].concat();
        let failed = raw(&channel, "/tally.v1.Keys/Put", &message).await;
        let failure = Failure::from(failed.expect_err("it is too large"));
        let row = (Code::InvalidArgument, reason::INVALID_REQUEST, Some(Outcome::NotApplied));
        assert_eq!(failure.row(), row, "{size}: {failure:?}");
        assert!(failure.message.contains("2097152") || failure.message.contains("2101248"));
    }
    still_answers(&cluster).await;
}

/// Two bytes each on the wire, and two hundred in memory: 4 MiB of them took 400.
#[tokio::test]
async fn very_many_empty_parts_are_refused_before_they_take_memory() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    for (path, part, outcome) in [
        ("/tally.v1.Transactions/Apply", 1, Outcome::NotApplied),
        ("/tally.v1.Transactions/Apply", 2, Outcome::NotApplied),
        ("/tally.v1.Transactions/Apply", 3, Outcome::NotApplied),
        // Of what came before on its stream nothing can be said.
        ("/tally.v1.Stream/Exchange", 1, Outcome::Unknown),
    ] {
        let message = field(part, b"").repeat(1 << 19);
        let failed = raw(&channel, path, &message).await;
        let failure = Failure::from(failed.expect_err("there are too many"));
        let row = (Code::InvalidArgument, reason::INVALID_REQUEST, Some(outcome));
        assert_eq!(failure.row(), row, "{path}: {failure:?}");
        assert!(failure.message.contains("more than"), "{path}: {failure:?}");
    }
    still_answers(&cluster).await;
}

/// Sends bytes to a port as they are, and waits until the node closes the connection or has been
/// silent for a while.
async fn throw(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).await.expect("the port is open");
    // The node may close it half-way.
    let _ = socket.write_all(bytes).await;
    let mut answer = Vec::new();
    let reading = socket.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_millis(300), reading).await;
    answer
}

#[tokio::test]
async fn garbage_on_either_port_closes_one_connection() {
    let cluster = Cluster::start(1).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let noise: Vec<u8> =
        (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let thrown: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: tally\r\n\r\n",
        b"POST /tally.v1.Counters/Add HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &noise,
        &[&preface[..], &noise].concat(),
        &[&preface[..], &[0xff; 9 + 32]].concat(),
    ];
    for address in [cluster.client_address(1), cluster.peer_address(1)] {
        for bytes in thrown {
            throw(&address, bytes).await;
        }
    }
    still_answers(&cluster).await;
}

#[tokio::test]
async fn many_idle_connections_keep_nobody_out() {
    let cluster = Cluster::start(1).await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        let socket = TcpStream::connect(cluster.client_address(1)).await;
        idle.push(socket.expect("the port is open"));
    }
    still_answers(&cluster).await;
}

#[tokio::test]
async fn the_peer_port_refuses_what_is_not_meant_for_it() {
    let cluster = Cluster::start(1).await;
    let channel = channel_to(&cluster.peer_address(1));
    let mut client = PeerClient::new(channel.clone());
    let own = cluster.node(1).consensus().cluster_id().text();
    let other = "0123456789abcdef0123456789abcdef".to_owned();
    for (cluster_id, target_node_id, what) in
        [(other, 1, "is of cluster"), (own.clone(), 2, "is node 1, not 2")]
    {
        let vote = peer::VoteRequest { cluster_id, target_node_id, ..Default::default() };
        let status = client.vote(vote).await.expect_err("it is not meant for this node");
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains(what), "{status}");
        // Who had forwarded a write would know that it was not applied.
        assert!(status.metadata().contains_key("tally-not-acted-on"), "{status:?}");
    }
    let empty =
        peer::VoteRequest { cluster_id: own.clone(), target_node_id: 1, ..Default::default() };
    let status = client.vote(empty).await.expect_err("it has no ballot");
    assert_eq!(status.code(), Code::InvalidArgument);
    let command =
        peer::ForwardedCommand { command: Bytes::from_static(b"\xff\xff"), ..Default::default() };
    let propose = peer::ProposeRequest {
        cluster_id: own.clone(),
        target_node_id: 1,
        commands: vec![command],
    };
    let answered = client.propose(propose).await.expect("it is answered").into_inner();
    let result = answered.results[0].result.as_ref();
    assert!(matches!(result, Some(peer::forwarded_result::Result::Refusal(_))), "{result:?}");
    for path in [
        "/tally.peer.v1.Peer/Vote",
        "/tally.peer.v1.Peer/Append",
        "/tally.peer.v1.Peer/InstallSnapshot",
        "/tally.peer.v1.Peer/Hello",
    ] {
        raw(&channel, path, &[0xff; 64]).await.expect_err("it is no message");
    }
    let bad_head = peer::InstallSnapshotRequest {
        part: Some(peer::install_snapshot_request::Part::Chunk(Bytes::from_static(b"chunk"))),
    };
    let status = client.install_snapshot(tokio_stream::once(bad_head)).await.expect_err("no head");
    assert_eq!(status.code(), Code::InvalidArgument);
    still_answers(&cluster).await;
}

#[tokio::test]
async fn a_forwarded_write_is_not_forwarded_again() {
    use peer::forwarded_result::Result as Answer;

    let cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let consensus = cluster.node(follower).consensus();
    let command = tally_node::machine::command::Command {
        session: None,
        idempotency: None,
        fingerprint: Default::default(),
        action: tally_node::machine::command::Action::Tick,
        caller: None,
    };
    let propose = peer::ProposeRequest {
        cluster_id: consensus.cluster_id().text(),
        target_node_id: follower,
        commands: vec![peer::ForwardedCommand {
            command: tally_node::machine::codec::encode_command(&command),
            request_id: "forwarded".into(),
            deadline_ms: 1_000,
            ..Default::default()
        }],
    };
    let mut client = PeerClient::new(channel_to(&cluster.peer_address(follower)));
    let answered = client.propose(propose).await.expect("it is answered").into_inner();
    let Some(Answer::Refusal(refusal)) = &answered.results[0].result else {
        panic!("a follower proposes nothing: {answered:?}")
    };
    assert_eq!(refusal.reason(), peer::RefusalReason::NotLeader);
    assert_eq!(refusal.leader_id, leader);
}

#[tokio::test]
async fn the_edges_of_the_integers_are_held() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let saturating =
        |delta| add_with("edge", delta, |add| add.set_on_violation(v1::OnViolation::Saturate));
    for (request, value, applied) in [
        (add("edge", i64::MIN), i64::MIN, i64::MIN),
        (saturating(-1), i64::MIN, 0),
        (saturating(i64::MAX), -1, i64::MAX),
        (saturating(i64::MAX), i64::MAX - 1, i64::MAX),
        (saturating(i64::MAX), i64::MAX, 1),
        (saturating(i64::MIN), -1, i64::MIN),
    ] {
        let added = unary(&channel, request).await.expect("it is applied");
        let change = answer!(CountersAdd, added).change.expect("a change");
        assert_eq!((change.value, change.delta_applied), (value, applied), "{change:?}");
    }
    for (value, before) in [(i64::MAX, -1), (i64::MIN, i64::MAX), (i64::MAX, i64::MIN)] {
        let changed = unary(&channel, set("edge", value)).await.expect("it is set");
        let change = answer!(CountersSet, changed).change.expect("a change");
        assert_eq!((change.value_before, change.value), (before, value));
    }
}
