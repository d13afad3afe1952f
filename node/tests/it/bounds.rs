//! Callers that begin and do not go on: connections that say nothing, requests that never end, answers
//! that nobody reads. Each is bounded and given up, the node goes on, and others do not notice.

use std::time::Duration;

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use prost::Message;
use tally_proto::{
    reason,
    v1::{self, call::Request},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};
use tonic::{Code, Status};

use crate::{
    client::{Failure, read_backup, read_part, unary},
    cluster::{Cluster, eventually},
    requests::*,
};

const MIB: usize = 1 << 20;

/// What a node holds of the requests, and of the answers, of one connection; of `docs/configuration.md`.
const CONNECTION_REQUEST_BYTES_MAX: usize = 32 * MIB;
const CONNECTION_ANSWER_BYTES_MAX: usize = 64 * MIB;

/// Within this time a connection must have begun HTTP/2.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);

/// What a node takes beyond a deadline, on a busy machine.
const SLACK: Duration = Duration::from_secs(4);

const SCAN: &str = "/tally.v1.Keys/Scan";
const PUT: &str = "/tally.v1.Keys/Put";
const EXCHANGE: &str = "/tally.v1.Stream/Exchange";

/// A client without any manners of its own: it reads when it is told to.
struct Raw {
    sender: SendRequest<Bytes>,
    ended: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

impl Raw {
    /// With the windows that HTTP/2 begins with, 64 KiB.
    async fn connect(address: &str) -> Raw {
        let socket = TcpStream::connect(address).await.expect("the port is open");
        let connected = h2::client::handshake(socket).await;
        let (sender, connection) = connected.expect("it is HTTP/2");
        Raw { sender, ended: tokio::spawn(connection) }
    }

    async fn call(
        &mut self,
        path: &str,
        deadline: Option<Duration>,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut request = http::Request::post(format!("http://tally{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(deadline) = deadline {
            request = request.header("grpc-timeout", format!("{}m", deadline.as_millis()));
        }
        let request = request.body(()).expect("a request");
        let mut sender = self.sender.clone().ready().await.expect("there is a place for it");
        sender.send_request(request, false).expect("it is sent")
    }

    async fn whole(
        &mut self,
        path: &str,
        deadline: Option<Duration>,
        message: &impl Message,
    ) -> ResponseFuture {
        let (response, mut stream) = self.call(path, deadline).await;
        stream.send_data(framed(message), true).expect("it is sent");
        response
    }
}

/// A message with its length before it.
fn framed(message: &impl Message) -> Bytes {
    let message = message.encode_to_vec();
    let mut bytes = vec![0];
    bytes.extend_from_slice(&u32::try_from(message.len()).expect("it is short").to_be_bytes());
    bytes.extend_from_slice(&message);
    bytes.into()
}

/// The begin of a message: what it announces, and some of it.
fn begun(announced: usize, sent: usize) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&u32::try_from(announced).expect("it fits").to_be_bytes());
    bytes.resize(5 + sent, 0);
    bytes.into()
}

async fn refused(response: ResponseFuture, within: Duration) -> Failure {
    let response = timeout(within, response).await.expect("it is answered in time");
    let response = response.expect("it is answered");
    let status = Status::from_header_map(response.headers()).expect("it is refused");
    Failure::from(status)
}

/// A cluster with more than an answer may hold: three values of a MiB, nearly.
async fn with_large_values() -> Cluster {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    for key in ["a", "b", "c"] {
        unary(&channel, put(key, vec![7; MIB - 1024])).await.expect("it is put");
    }
    cluster
}

fn scan_all() -> v1::KeysScanRequest {
    v1::KeysScanRequest::default()
}

async fn still_answers(cluster: &Cluster) {
    let channel = cluster.channel(1);
    let scan = timeout(Duration::from_secs(5), unary(&channel, scan(|_| {}))).await;
    scan.expect("others are answered in time").expect("others are answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_are_bounded_and_go_at_their_deadlines() {
    let cluster = with_large_values().await;
    let mut raw = Raw::connect(&cluster.client_address(1)).await;
    let deadline = Duration::from_secs(3);
    let mut unread = Vec::new();
    let begin = Instant::now();
    for _ in 0..200 {
        unread.push(raw.whole(SCAN, Some(deadline), &scan_all()).await);
    }
    let mut most = 0;
    while begin.elapsed() < deadline - Duration::from_millis(500) {
        most = most.max(cluster.node(1).held_bytes().1);
        assert!(most <= CONNECTION_ANSWER_BYTES_MAX, "{most} bytes are held for one connection");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(most > CONNECTION_ANSWER_BYTES_MAX / 2, "as many run as may: {most}");
    still_answers(&cluster).await;

    let nothing = || cluster.node(1).held_bytes() == (0, 0);
    eventually("what nobody read is given up", nothing).await;
    assert!(begin.elapsed() < deadline + SLACK, "{:?}", begin.elapsed());
    // Nothing of what was not read is left on the connection either: it has place for as many again.
    assert!(!raw.ended.is_finished());
    let mut calls = 0;
    for response in unread {
        // Some were refused for want of room, and the others were cut.
        if let Ok(Ok(response)) = timeout(SLACK, response).await {
            calls += usize::from(Status::from_header_map(response.headers()).is_some());
        }
    }
    assert!(calls > 100, "those that found no room are told so: {calls}");
}

/// A few that read nothing can't keep the node's room for answers until their deadlines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_go_early_when_they_keep_others_out() {
    let cluster = with_large_values().await;
    let node = cluster.node(1);
    let mut connections = Vec::new();
    let far = Duration::from_secs(120);
    let begin = Instant::now();
    // More than half of what there is, so that there is still some for whoever comes.
    for _ in 0..5 {
        let mut raw = Raw::connect(&cluster.client_address(1)).await;
        let mut unread = Vec::new();
        for _ in 0..30 {
            unread.push(raw.whole(SCAN, Some(far), &scan_all()).await);
        }
        connections.push((raw, unread));
    }
    eventually("they hold much", || node.held_bytes().1 > 4 * CONNECTION_ANSWER_BYTES_MAX).await;
    still_answers(&cluster).await;
    while node.held_bytes().1 > 4 * CONNECTION_ANSWER_BYTES_MAX {
        assert!(begin.elapsed() < far / 2, "never: some of it is given up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Their connections live: only what was not read has gone.
    assert!(connections.iter().all(|(raw, _)| !raw.ended.is_finished()));
    still_answers(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_gets_all_answers_however_many_there_are() {
    let cluster = with_large_values().await;
    let mut raw = Raw::connect(&cluster.client_address(1)).await;
    let mut responses = Vec::new();
    for _ in 0..60 {
        responses.push(raw.whole(SCAN, Some(Duration::from_secs(60)), &scan_all()).await);
    }
    async fn drain(response: ResponseFuture) -> usize {
        let mut body: RecvStream = response.await.expect("it is answered").into_body();
        let mut bytes = 0;
        while let Some(data) = body.data().await {
            let data = data.expect("all of it comes");
            bytes += data.len();
            body.flow_control().release_capacity(data.len()).expect("it was received");
        }
        let trailers = body.trailers().await.expect("it ends well").expect("there are trailers");
        assert_eq!(trailers.get("grpc-status").expect("it says how it ended"), "0");
        bytes
    }
    let drained = futures_util::future::join_all(responses.into_iter().map(drain));
    let drained = timeout(Duration::from_secs(50), drained).await.expect("in time");
    assert!(drained.iter().all(|bytes| *bytes > 2 * MIB), "{drained:?}");
    eventually("all room is back", || cluster.node(1).held_bytes() == (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_not_read_ends_its_connection() {
    let cluster = with_large_values().await;
    let mut raw = Raw::connect(&cluster.client_address(1)).await;
    let mut streams = Vec::new();
    // More than one, as they share the room of their connection.
    for _ in 0..4 {
        let (response, mut stream) = raw.call(EXCHANGE, None).await;
        let request = || Some(v1::call::Request::KeysScan(scan_all()));
        let call = |id| v1::Call { id, request: request(), ..v1::Call::default() };
        let pack = v1::StreamExchangeRequest { calls: (0..100).map(call).collect() };
        stream.send_data(framed(&pack), false).expect("it is sent");
        streams.push((response, stream));
    }
    let node = cluster.node(1);
    eventually("answers wait", || node.held_bytes().1 > CONNECTION_ANSWER_BYTES_MAX / 2).await;
    let until = Instant::now() + Duration::from_secs(17);
    while !raw.ended.is_finished() {
        assert!(node.held_bytes().1 <= CONNECTION_ANSWER_BYTES_MAX, "{:?}", node.held_bytes());
        assert!(Instant::now() < until, "never: the connection is closed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eventually("all room is back", || node.held_bytes() == (0, 0)).await;
    still_answers(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_never_end_are_bounded_and_answered_at_their_deadlines() {
    let cluster = Cluster::start(1).await;
    let mut raw = Raw::connect(&cluster.client_address(1)).await;
    let deadline = Duration::from_secs(2);
    let mut responses = Vec::new();
    let mut streams = Vec::new();
    for _ in 0..128 {
        let (response, mut stream) = raw.call(PUT, Some(deadline)).await;
        stream.send_data(begun(2 * MIB, 2 * MIB - 1), false).expect("it is sent");
        responses.push(response);
        streams.push(stream);
    }
    let node = cluster.node(1);
    let some = || node.held_bytes().0 > CONNECTION_REQUEST_BYTES_MAX / 2;
    eventually("some are received", some).await;
    unary(&cluster.channel(1), put("mine", vec![7; MIB])).await.expect("others are served");
    for response in responses {
        let held = node.held_bytes().0;
        assert!(held <= CONNECTION_REQUEST_BYTES_MAX, "{held} bytes for one connection");
        let failure = refused(response, deadline + SLACK).await;
        let row = (Code::DeadlineExceeded, reason::NOT_PROPOSED, Some(v1::Outcome::NotApplied));
        assert_eq!(failure.row(), row, "{failure:?}");
    }
    eventually("all room is back", || node.held_bytes() == (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_a_deadline_has_one_from_its_headers_on() {
    let cluster = Cluster::start(1).await;
    let mut raw = Raw::connect(&cluster.client_address(1)).await;
    // One says nothing, one announces a message, one is in the middle of it, and one of a stream is.
    let (silent, _silent) = raw.call(PUT, None).await;
    let (announced, mut stream) = raw.call(PUT, None).await;
    stream.send_data(begun(MIB, 0), false).expect("it is sent");
    let (half, mut half_stream) = raw.call(PUT, None).await;
    half_stream.send_data(begun(MIB, MIB / 2), false).expect("it is sent");
    let (pack, mut pack_stream) = raw.call(EXCHANGE, None).await;
    pack_stream.send_data(begun(8 * MIB, MIB / 2), false).expect("it is sent");
    let by = Duration::from_secs(10) + SLACK;
    let failures = tokio::join!(refused(silent, by), refused(announced, by), refused(half, by));
    for failure in [failures.0, failures.1, failures.2] {
        let row = (Code::DeadlineExceeded, reason::NOT_PROPOSED, Some(v1::Outcome::NotApplied));
        assert_eq!(failure.row(), row, "{failure:?}");
    }
    let mut answers = pack.await.expect("a stream is answered").into_body();
    let ended = timeout(SLACK, answers.trailers()).await.expect("the stream ends in time");
    let trailers = ended.expect("it ends with a word").expect("there are trailers");
    let failure = Failure::from(Status::from_header_map(&trailers).expect("it says how"));
    let row = (Code::DeadlineExceeded, reason::DEADLINE_EXCEEDED, Some(v1::Outcome::Unknown));
    assert_eq!(failure.row(), row, "{failure:?}");
    eventually("all room is back", || cluster.node(1).held_bytes() == (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_refused_by_what_it_announces() {
    let cluster = Cluster::start(1).await;
    let mut raw = Raw::connect(&cluster.client_address(1)).await;
    for announced in [2 * MIB + 4097, 4 * MIB, 1 << 31] {
        let (response, mut stream) = raw.call(PUT, None).await;
        stream.send_data(begun(announced, 0), false).expect("it is sent");
        let failure = refused(response, Duration::from_secs(4)).await;
        let row = (Code::InvalidArgument, reason::INVALID_REQUEST, Some(v1::Outcome::NotApplied));
        assert_eq!(failure.row(), row, "{failure:?}");
        assert!(failure.message.contains("2101248"), "it names the limit: {failure:?}");
    }
}

/// Waits until the other side has closed a connection.
async fn closed(mut socket: TcpStream, by: Instant) {
    let mut read = [0; 1024];
    let closing = async { while socket.read(&mut read).await.is_ok_and(|bytes| bytes > 0) {} };
    tokio::time::timeout_at(by, closing).await.expect("it is closed in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_are_closed() {
    let cluster = Cluster::start(1).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for address in [cluster.client_address(1), cluster.peer_address(1)] {
        let by = Instant::now() + HANDSHAKE_TIME_MAX + SLACK;
        let mut closing = Vec::new();
        for said in [&b""[..], &preface[..1], &preface[..23]] {
            let mut socket = TcpStream::connect(&address).await.expect("the port is open");
            socket.write_all(said).await.expect("it is sent");
            closing.push(closed(socket, by));
        }
        if address == cluster.peer_address(1) {
            // Keepalive finds it: on this port, after two seconds.
            let mut socket = TcpStream::connect(&address).await.expect("the port is open");
            socket.write_all(preface).await.expect("it is sent");
            closing.push(closed(socket, by));
        }
        futures_util::future::join_all(closing).await;
    }
    eventually("their places are free", || cluster.node(1).client_connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_calls_and_not_for_sockets() {
    let grace = Duration::from_secs(60);
    let mut cluster =
        Cluster::start_with(1, |config| config.shutdown_grace_ms = grace.as_millis() as u64).await;
    let address = cluster.client_address(1);
    let silent = TcpStream::connect(&address).await.expect("the port is open");
    let mut half = TcpStream::connect(&address).await.expect("the port is open");
    half.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("it is sent");
    let silent_peer = TcpStream::connect(cluster.peer_address(1)).await.expect("it is open");
    let mut raw = Raw::connect(&address).await;
    let (_watched, mut watch) = raw.call("/grpc.health.v1.Health/Watch", None).await;
    watch.send_data(begun(0, 0), true).expect("it is sent");
    let (_never, mut never) = raw.call(PUT, None).await;
    never.send_data(begun(MIB, MIB / 2), false).expect("it is sent");
    // A call that is under way is answered: a read that waits for what does not come in time.
    let channel = cluster.channel(1);
    unary(&channel, add("a", 1)).await.expect("it is there");
    let stop = Instant::now();
    cluster.begin_shutdown(1).await.expect("the shutdown ends");
    assert!(stop.elapsed() < grace / 4, "it waited for sockets: {:?}", stop.elapsed());
    drop((silent, half, silent_peer, never, watch));
}

/// As many calls as a connection may have are given up together while the node does not look, again and
/// again; the others on the connection go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_given_up_together_take_no_other_with_them() {
    const CALLS: usize = 1024;
    let cluster = Cluster::start(1).await;
    let mut raw = Raw::connect(&cluster.client_address(1)).await;
    let (response, mut slow) = raw.call(PUT, Some(Duration::from_secs(50))).await;
    let request =
        v1::KeysPutRequest { key: "k".into(), value: vec![7].into(), ..Default::default() };
    for _ in 0..3 {
        // The client's own task sends when this one waits: all of them and their ends at once.
        let mut given_up = Vec::new();
        for _ in 0..CALLS - 1 {
            let head = http::Request::post(format!("http://tally{PUT}"))
                .header("content-type", "application/grpc")
                .body(())
                .expect("a request");
            given_up.push(raw.sender.send_request(head, false).expect("it is sent"));
        }
        for (_, stream) in &mut given_up {
            stream.send_reset(h2::Reason::CANCEL);
        }
        drop(given_up);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    slow.send_data(framed(&request), true).expect("it is sent");
    let response = timeout(Duration::from_secs(20), response).await.expect("in time");
    let mut body = response.expect("it is answered").into_body();
    body.data().await.expect("an answer").expect("an answer");
    let trailers = body.trailers().await.expect("it ends well").expect("trailers");
    assert_eq!(trailers.get("grpc-status").expect("a status"), "0");
}

/// A backup that is made holds no place: who makes one after the other is not refused, and whoever lost the answer with
/// the last part asks for it again.
#[tokio::test]
async fn a_node_makes_two_backups_at_once_and_those_that_are_made_do_not_count() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    unary(&channel, add("a", 1)).await.expect("it counts");
    let open = async || {
        let request = Request::BackupOpen(v1::BackupOpenRequest { local: false });
        Ok(answer!(BackupOpen, unary(&channel, request).await?).backup_id)
    };
    let (first, second) = (open().await.expect("one"), open().await.expect("two"));
    let third: Result<u64, Status> = open().await;
    let refused = Failure::from(third.expect_err("two are being made"));
    let outcome = Some(v1::Outcome::NotApplied);
    assert_eq!(refused.row(), (Code::ResourceExhausted, reason::TOO_MANY_BACKUPS, outcome));
    let (_, last) = read_backup(&channel, first).await;
    let again = read_part(&channel, first, last).await;
    assert!(again.expect("once more").last, "the last answer was lost");
    for _ in 0..4 {
        let another = open().await.expect("the one that is made gives its place");
        read_backup(&channel, another).await;
    }
    let gone =
        Failure::from(read_part(&channel, first, last).await.expect_err("it gave its place"));
    assert_eq!(gone.row().1, reason::BACKUP_NOT_FOUND);
    read_backup(&channel, second).await;
}
