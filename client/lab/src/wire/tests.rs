//! What real clients and servers of HTTP/2 send, recorded and shown again in other pieces; and what nobody sends.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use h2::{RecvStream, server::SendResponse};
use loona_hpack::Encoder;
use prost::Message;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tally_proto::peer::v1::{self as peer, peer_client::PeerClient};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tonic::{Request, transport::Channel};

use super::*;
use crate::{
    links::Links,
    proxy::{self, Way},
};

/// Serves each call as a node does as far as this is seen on the wire: an append's messages are answered one by one,
/// all others once.
async fn node() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(answer(request, respond));
                }
            });
        }
    });
    address
}

/// Fails where the caller gives up.
async fn answer(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let is_append = request.uri().path() == "/tally.peer.v1.Peer/Append";
    let one = match request.uri().path().ends_with("Vote") {
        true => grpc(&peer::VoteResponse { granted: true, ..Default::default() }),
        false => grpc(&peer::TermResponse::default()),
    };
    let head = http::Response::builder().header("content-type", "application/grpc").body(());
    let mut answers = respond.send_response(head.unwrap(), false)?;
    let (mut body, mut received) = (request.into_body(), Vec::new());
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        received.extend_from_slice(&data);
        while let Some(length) = received.first_chunk::<5>().map(|head| length(head) + 5)
            && received.len() >= length
        {
            received.drain(..length);
            if is_append {
                answers.send_data(one.clone(), false)?;
            }
        }
    }
    if !is_append {
        answers.send_data(one, false)?;
    }
    answers.send_trailers(
        [("grpc-status".parse().unwrap(), "0".parse().unwrap())].into_iter().collect(),
    )
}

fn length([_, l0, l1, l2, l3]: &[u8; 5]) -> usize {
    u32::from_be_bytes([*l0, *l1, *l2, *l3]) as usize
}

/// A message as gRPC sends it.
fn grpc(message: &impl Message) -> Bytes {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[0][..], &length, &bytes].concat().into()
}

fn heartbeat() -> peer::AppendRequest {
    peer::AppendRequest {
        cluster_id: "a cluster".to_owned(),
        target_node_id: 2,
        ballot: Some(peer::Ballot { term: 300, node_id: Some(1), committed: true }),
        previous: Some(peer::LogId { term: 299, index: 5 }),
        entries: Vec::new(),
        leader_commit: Some(peer::LogId { term: 299, index: 1 << 40 }),
    }
}

fn append(bytes: usize) -> peer::AppendRequest {
    let payload = Some(peer::entry::Payload::Batch(vec![0x2a; bytes].into()));
    let entry = peer::Entry { payload, ..Default::default() };
    peer::AppendRequest { entries: vec![entry; 2], ..heartbeat() }
}

fn snapshot_part(bytes: usize) -> peer::InstallSnapshotRequest {
    let part = peer::install_snapshot_request::Part::Chunk(vec![0x2a; bytes].into());
    peer::InstallSnapshotRequest { part: Some(part) }
}

/// Makes the calls whose messages [`EXPECTED`] counts; with longer entries where that is asked for.
async fn talk(mut client: PeerClient<Channel>, bytes: usize) {
    client.hello(peer::HelloRequest::default()).await.unwrap();
    client.vote(peer::VoteRequest::default()).await.unwrap();
    // More headers than HPACK remembers, and not all of them the same: what it knows is made anew some times.
    for call in 0..30_u8 {
        let mut request = Request::new(peer::TermRequest::default());
        let every = (b' '..=b'~').cycle().skip(usize::from(call) * 7).take(150);
        let text = format!("x{}x", String::from_utf8(every.collect()).unwrap());
        request.metadata_mut().insert("x-changes", text.parse().unwrap());
        client.term(request).await.unwrap();
    }
    client.pre_vote(peer::PreVoteRequest::default()).await.unwrap();
    client.vote(peer::VoteRequest::default()).await.unwrap();
    let requests = [heartbeat(), append(10), heartbeat(), append(bytes), append(1)];
    let mut answers = client.append(stream::iter(requests)).await.unwrap().into_inner();
    for _ in 0..5 {
        answers.message().await.unwrap().unwrap();
    }
    assert!(answers.message().await.unwrap().is_none());
    // One that its caller gives up, in the middle.
    let requests = stream::iter([heartbeat()]).chain(stream::pending());
    let mut answers = client.append(requests).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    drop(answers);
    let parts = stream::iter([snapshot_part(bytes), snapshot_part(3), snapshot_part(bytes)]);
    client.install_snapshot(parts).await.unwrap();
    client.vote(peer::VoteRequest::default()).await.unwrap();
}

/// What [`talk`] says, and what is said back.
const EXPECTED: [Carried; 2] = [
    Carried { votes: 4, appends: 3, heartbeats: 3, answers: 0, snapshots: 3, others: 31 },
    Carried { votes: 4, appends: 0, heartbeats: 0, answers: 7, snapshots: 0, others: 31 },
];

/// What was sent, in the order in which it came: by who dialled (0), or by the other side (1).
type Recording = Vec<(usize, Vec<u8>)>;

/// Has two sides talk, and keeps what they say.
async fn recorded(bytes: usize) -> Recording {
    let target = node().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (talked, mut is_over) = oneshot::channel();
    let recording = tokio::spawn(async move {
        let (mut inbound, _) = listener.accept().await.unwrap();
        let mut outbound = TcpStream::connect(target).await.unwrap();
        let (mut forth, mut back) = ([0; 4096], [0; 4096]);
        let mut recording = Recording::new();
        loop {
            let piece = tokio::select! {
                read = inbound.read(&mut forth) => (0, forth[..read.unwrap_or(0)].to_vec()),
                read = outbound.read(&mut back) => (1, back[..read.unwrap_or(0)].to_vec()),
                _ = &mut is_over => return recording,
            };
            let to = if piece.0 == 0 { &mut outbound } else { &mut inbound };
            if piece.1.is_empty() || to.write_all(&piece.1).await.is_err() {
                return recording;
            }
            recording.push(piece);
        }
    });
    let client = PeerClient::connect(format!("http://{address}")).await.unwrap();
    talk(client, bytes).await;
    // The connection stays, for the call that was given up: its questions have not ended.
    talked.send(()).unwrap();
    recording.await.unwrap()
}

/// Shows a recording to new observers, in pieces as they are cut.
fn shown(recording: &Recording, mut cut: impl FnMut(&[u8]) -> usize) -> [Carried; 2] {
    let (asks, answers) = observers();
    let (mut observers, mut carried) = ([asks, answers], [Carried::default(); 2]);
    for (side, bytes) in recording {
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            let most = cut(bytes);
            carried[*side] += observers[*side].pass(take(&mut bytes, most));
            is_bounded(&observers);
        }
    }
    carried
}

fn is_bounded(observers: &[Observer; 2]) {
    assert!(observers[0].shared.lock().unwrap().calls.len() <= CALLS_MAX);
    let block = observers[0].asking.as_ref().map_or(0, |asking| asking.block.len());
    assert!(block <= PEER_PORT.header_bytes_max as usize);
}

#[tokio::test]
async fn votes_entries_and_heartbeats_are_told_apart() {
    for bytes in [100, 300_000] {
        let recording = recorded(bytes).await;
        assert_eq!(shown(&recording, <[u8]>::len), EXPECTED, "as it came, with {bytes} bytes");
    }
}

#[tokio::test]
async fn it_is_no_matter_where_bytes_are_cut() {
    let recording = recorded(30_000).await;
    // One by one, so at every place; then at others, and with more on either side.
    for most in [1, 2, 3, 5, 7, 8, 9, 10, 13, 64] {
        assert_eq!(shown(&recording, |_| most), EXPECTED, "{most} at once");
    }
    let small = recorded(40).await;
    let mut random = SmallRng::seed_from_u64(1);
    for round in 0..100 {
        let carried = shown(&small, |bytes| random.random_range(1..=bytes.len()));
        assert_eq!(carried, EXPECTED, "round {round}");
    }
}

#[tokio::test]
async fn what_is_not_understood_counts_no_more_and_breaks_nothing() {
    let recording = recorded(40).await;
    // Behind a good beginning: from there on nothing counts, not even what would be well.
    let middle = recording.len() / 2;
    for garbage in [&[0xff; 100][..], b"GET / HTTP/1.1\r\nhost: elsewhere\r\n\r\n", &[0; 100]] {
        for side in [0, 1] {
            let mut broken = recording[..middle].to_vec();
            let before = shown(&broken, <[u8]>::len);
            broken.push((side, garbage.to_vec()));
            broken.extend_from_slice(&recording[middle..]);
            assert_eq!(shown(&broken, <[u8]>::len), before, "{garbage:?} of side {side}");
        }
    }
    // From its first byte.
    let foreign =
        vec![(0, b"GET / HTTP/1.1\r\n\r\n".to_vec()), (1, b"HTTP/1.1 200 OK\r\n\r\n".to_vec())];
    let broken = [foreign, recording].concat();
    assert_eq!(shown(&broken, <[u8]>::len), [Carried::default(); 2]);
}

#[tokio::test]
async fn nothing_that_may_come_makes_it_panic_or_grow() {
    let recording = recorded(40).await;
    for seed in 0..300 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut broken = recording.clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..broken.len());
            let piece = &mut broken[at].1;
            if piece.is_empty() {
                continue;
            }
            let byte = random.random_range(0..piece.len());
            match random.random_range(0..3) {
                0 => piece[byte] = random.random(),
                1 => {
                    piece.remove(byte);
                }
                _ => piece.insert(byte, random.random()),
            }
        }
        shown(&broken, |bytes| random.random_range(1..=bytes.len()));
    }
    // Good heads of frames with anything in them.
    for seed in 0..300 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut sides = [begun(), frame(SETTINGS, 0, 0, b"")];
        for _ in 0..50 {
            let mut payload = vec![0; random.random_range(0..60)];
            random.fill(&mut payload[..]);
            let (kind, flags) = (random.random_range(0..10), random.random());
            let stream = 2 * random.random_range(0..6) + 1;
            sides[random.random_range(0..2)].extend(frame(kind, flags, stream, &payload));
        }
        let recording = vec![(0, sides[0].clone()), (1, sides[1].clone())];
        shown(&recording, |bytes| random.random_range(1..=bytes.len()));
    }
}

// --- Frames that the clients and servers here do not make, and others may ---

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A client's beginning.
fn begun() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat()
}

fn path(name: &str) -> Vec<u8> {
    let path = format!("/tally.peer.v1.Peer/{name}");
    Encoder::new().encode([(&b":method"[..], &b"POST"[..]), (&b":path"[..], path.as_bytes())])
}

/// What is counted of what a client sends, cut in all ways into two.
fn of_client(frames: &[Vec<u8>]) -> Carried {
    let bytes = [begun(), frames.concat()].concat();
    let whole = shown(&vec![(0, bytes.clone())], <[u8]>::len)[0];
    for at in 1..bytes.len() {
        let (before, behind) = bytes.split_at(at);
        let halves = vec![(0, before.to_vec()), (0, behind.to_vec())];
        assert_eq!(shown(&halves, <[u8]>::len)[0], whole, "cut at {at}");
    }
    whole
}

#[test]
fn padding_priorities_and_headers_in_parts() {
    let path = path("Append");
    let message = grpc(&append(20));
    let (first, second) = path.split_at(7);
    let (front, rest) = message.split_at(3);
    let padded = |padding: u8, content: &[u8], before: &[u8]| {
        [&[padding][..], before, content, &vec![7; padding.into()]].concat()
    };
    let carried = of_client(&[
        frame(HEADERS, PADDED | PRIORITY, 1, &padded(9, first, &[0; PRIORITY_BYTES])),
        frame(CONTINUATION, 0, 1, b""),
        frame(CONTINUATION, END_HEADERS, 1, second),
        frame(DATA, PADDED, 1, &padded(255, front, b"")),
        frame(DATA, PADDED, 1, &padded(0, rest, b"")),
        // Of a kind that nobody knows, and a change of a window.
        frame(0x42, 0xff, 77, b"anything"),
        frame(8, 0, 0, &[0, 0, 0, 1]),
        frame(DATA, PADDED, 1, &padded(4, b"", b"")),
        frame(DATA, PADDED | END_STREAM, 1, &padded(3, &grpc(&heartbeat()), b"")),
    ]);
    assert_eq!(carried, Carried { appends: 1, heartbeats: 1, ..Carried::default() });
}

#[test]
fn calls_at_once_and_headers_behind_messages() {
    let (append, heartbeat) = (grpc(&append(20)), grpc(&heartbeat()));
    let (a, b) = (append.split_at(11), heartbeat.split_at(11));
    let trailers = Encoder::new().encode([(&b"x-late"[..], &b"yes"[..])]);
    let carried = of_client(&[
        frame(HEADERS, END_HEADERS, 1, &path("Append")),
        frame(HEADERS, END_HEADERS, 3, &path("Append")),
        frame(HEADERS, END_HEADERS, 5, &path("PreVote")),
        frame(DATA, 0, 1, a.0),
        frame(DATA, 0, 3, b.0),
        frame(DATA, END_STREAM, 5, &grpc(&peer::PreVoteRequest::default())),
        frame(DATA, 0, 3, b.1),
        frame(DATA, 0, 1, a.1),
        frame(HEADERS, END_HEADERS | END_STREAM, 3, &trailers),
        frame(DATA, 0, 1, &heartbeat),
        // Given up: what still comes of it counts nowhere.
        frame(RST_STREAM, 0, 1, &[0; 4]),
        frame(DATA, 0, 1, &heartbeat),
    ]);
    assert_eq!(carried, Carried { votes: 1, appends: 1, heartbeats: 2, ..Carried::default() });
}

#[test]
fn what_can_not_be_read_is_another_message() {
    let mut compressed = grpc(&append(20)).to_vec();
    compressed[0] = 1;
    let mut torn = grpc(&heartbeat()).to_vec();
    // Its last field says that it is longer than the message.
    let at = torn.len() - 12;
    assert_eq!(torn[at..at + 2], [6 << 3 | 2, 10]);
    torn[at + 1] += 1;
    let carried = of_client(&[
        frame(HEADERS, END_HEADERS, 1, &path("Append")),
        frame(DATA, 0, 1, &compressed),
        frame(DATA, 0, 1, &torn),
        frame(DATA, 0, 1, &grpc(&heartbeat())),
        frame(HEADERS, END_HEADERS, 3, &path("Propose")),
        frame(DATA, 0, 3, &grpc(&heartbeat())),
        frame(
            HEADERS,
            END_HEADERS,
            5,
            &Encoder::new().encode([(&b":path"[..], &b"/elsewhere/Vote"[..])]),
        ),
        frame(DATA, 0, 5, &grpc(&heartbeat())),
    ]);
    assert_eq!(carried, Carried { heartbeats: 1, others: 4, ..Carried::default() });
}

#[test]
fn headers_without_end_are_not_kept() {
    let part = vec![0; 1024];
    let mut frames = vec![frame(HEADERS, 0, 1, &path("Vote"))];
    frames.extend(vec![frame(CONTINUATION, 0, 1, &part); 16]);
    frames.push(frame(CONTINUATION, END_HEADERS, 1, b""));
    frames.push(frame(DATA, 0, 1, &grpc(&peer::VoteRequest::default())));
    let recording = vec![(0, begun()), (0, frames.concat())];
    assert_eq!(shown(&recording, |_| 512)[0], Carried::default());
}

#[test]
fn calls_without_end_are_not_kept() {
    let open = |call: u32| frame(HEADERS, END_HEADERS, 2 * call + 1, &path("Vote"));
    let calls =
        |count: usize| (0..u32::try_from(count).unwrap()).flat_map(open).collect::<Vec<_>>();
    let vote = frame(DATA, 0, 1, &grpc(&peer::VoteRequest::default()));
    let of = |count| shown(&vec![(0, begun()), (0, calls(count)), (0, vote.clone())], |_| 4096)[0];
    assert_eq!((of(CALLS_MAX).votes, of(CALLS_MAX + 1).votes), (1, 0));
}

// --- On a link ---

#[tokio::test]
async fn a_link_counts_what_arrives_in_each_direction() {
    let links = Arc::new(Links::new(2));
    let way = Way { links: Arc::clone(&links), from: 2, to: 1, target: node().await };
    let address = proxy::open(way.clone()).await.unwrap();
    talk(PeerClient::connect(format!("http://{address}")).await.unwrap(), 30_000).await;
    let arrived = links.take_arrived();
    assert_eq!([arrived[&(2, 1)].carried, arrived[&(1, 2)].carried], EXPECTED);
    // Between clients and a node bytes alone are counted.
    let address = proxy::open(Way { from: crate::links::CLIENTS, ..way }).await.unwrap();
    talk(PeerClient::connect(format!("http://{address}")).await.unwrap(), 30_000).await;
    let arrived = links.take_arrived()[&(crate::links::CLIENTS, 1)];
    assert!(arrived.bytes > 60_000 && arrived.carried == Carried::default(), "{arrived:?}");
}

#[tokio::test]
async fn what_is_not_understood_is_carried_as_it_is() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let target = listener.local_addr().unwrap();
    let links = Arc::new(Links::new(2));
    let address =
        proxy::open(Way { links: Arc::clone(&links), from: 1, to: 2, target }).await.unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (mut there, _) = listener.accept().await.unwrap();
    let vote = [
        frame(HEADERS, END_HEADERS, 1, &path("Vote")),
        frame(DATA, 0, 1, &grpc(&peer::VoteRequest::default())),
    ];
    let mut sent = [begun(), vote.concat()].concat();
    let mut garbage = vec![0; 300_000];
    SmallRng::seed_from_u64(7).fill(&mut garbage[..]);
    sent.extend(garbage);
    let to_send = sent.clone();
    tokio::spawn(async move {
        for piece in to_send.chunks(7_001) {
            stream.write_all(piece).await.unwrap();
        }
    });
    let mut received = Vec::new();
    there.read_to_end(&mut received).await.unwrap();
    assert!(received == sent, "each byte, and in order");
    let carried = links.take_arrived()[&(1, 2)].carried;
    assert_eq!(carried, Carried { votes: 1, ..Carried::default() });
}
