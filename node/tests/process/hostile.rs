//! Clients that mean no good, over real connections to a real process: thousands that say nothing, some that
//! are half gone, one that reads slowly, and one that asks for more than there is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tally_certificates::{Authority, Lifetime, Paths, write_pair};
use tally_client::{Client, Tls, apply::Operation};
use tally_proto::v1::{
    AuthChangeRequest, AuthCreateToken, AuthRole, AuthUser, auth_change_request::Change,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::Instant,
};
use tokio_rustls::TlsConnector;

use super::bounds::{connect, resident_bytes};
use crate::support::{PATIENCE, nodes::Cluster, report};

const KIB: usize = 1024;

/// What a client says first, with empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Idle connections that are asked for; as many as the limit on descriptors allows are made.
const IDLE_CONNECTIONS: usize = 10_000;

/// Descriptors that this process needs besides.
const OTHERS: usize = 600;

/// When the client port has asked a silent connection whether it lives, and waited for an answer.
const SILENT_TIME_MAX: Duration = Duration::from_secs(40);

/// How much longer things may take on a busy machine.
const SLACK: Duration = Duration::from_secs(20);

/// Lets this process have as many descriptors as it may allow itself.
fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("a limit may be raised up to its maximum");
    limit.maximum.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// One after the other, for so many times; how long each took, the shortest first.
async fn adds(client: &Client, name: &str, times: usize) -> Vec<Duration> {
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        let began = Instant::now();
        client.counter(name).add(1).await.expect("a write is acknowledged");
        took.push(began.elapsed());
    }
    took.sort();
    took
}

/// Of these, the one that so many percent are not above.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

fn shown(sorted: &[Duration]) -> String {
    let ms = |percent| percentile(sorted, percent).as_secs_f64() * 1000.0;
    format!("p50 {:.2} ms, p99 {:.2} ms", ms(50), ms(99))
}

/// Each takes a node a place and some memory, and keeps nobody else out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_keep_nobody_out() {
    // One address has its share of a node's connections, which are about as many as its descriptors.
    let count = IDLE_CONNECTIONS.min(descriptors().saturating_sub(OTHERS) / 10 * 7);
    let mut cluster = Cluster::started("idle", 1, &[]).await;
    let address = cluster.node(1).client.clone();
    let client = cluster.client();
    let alone = adds(&client, "hits", 300).await;
    let before = resident_bytes(cluster.node(1).pid());

    let mut idle = Vec::with_capacity(count);
    for _ in 0..count {
        let mut socket = TcpStream::connect(&address).await.expect("the port is open");
        socket.write_all(PREFACE).await.expect("it is sent");
        idle.push(socket);
    }
    // Whoever is refused hears so at once, so all that have settings and nothing else are there.
    let mut there = 0;
    for socket in &mut idle {
        let mut head = [0; 9];
        let read = tokio::time::timeout(SLACK, socket.read_exact(&mut head)).await;
        there += usize::from(read.is_ok_and(|read| read.is_ok()) && head[3] == 4);
    }
    let beside = adds(&client, "hits", 300).await;
    let newcomer = Client::builder([address]).deadline(PATIENCE).build().expect("an address");
    newcomer.counter("hits").add(1).await.expect("who comes now is served too");
    let each = resident_bytes(cluster.node(1).pid()).saturating_sub(before) / count;
    report(&format!(
        "idle_connections: {there} of {IDLE_CONNECTIONS}, {each} bytes of memory each; adds alone {}, \
         beside them {}",
        shown(&alone),
        shown(&beside)
    ));
    assert_eq!(there, count, "an idle connection was refused");
    assert!(each < 64 * KIB, "{each} bytes for a connection that does nothing");
    cluster.assert_running();
}

/// Reads until the other side has closed the connection, and gives how long that took.
async fn closed(mut socket: TcpStream) -> Duration {
    let (began, mut read) = (Instant::now(), [0; 4096]);
    let closing = async { while socket.read(&mut read).await.is_ok_and(|bytes| bytes > 0) {} };
    tokio::time::timeout(SILENT_TIME_MAX + SLACK, closing).await.expect("it is closed in time");
    began.elapsed()
}

/// Who has said that no more comes goes at once; who answers nothing, as one does whose machine has lost its
/// power, when it was asked whether it lives. Also in the middle of a request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_half_gone_are_closed() {
    let mut cluster = Cluster::started("half-open", 1, &[]).await;
    let address = cluster.node(1).client.clone();
    // The head of a call whose message never comes: HEADERS that are not the end of the stream.
    let mut begun = PREFACE.to_vec();
    begun.extend_from_slice(&[0, 0, 4, 1, 4, 0, 0, 0, 1, 0x83, 0x86, 0x84, 0x41]);
    let mut gone = Vec::new();
    for said in [PREFACE, &begun[..PREFACE.len() + 9], &begun[..PREFACE.len() + 5]] {
        let mut socket = TcpStream::connect(&address).await.expect("the port is open");
        socket.write_all(said).await.expect("it is sent");
        socket.shutdown().await.expect("its side is closed");
        gone.push(closed(socket));
    }
    for took in futures_util::future::join_all(gone).await {
        assert!(took < SLACK, "a connection whose other side is closed stayed for {took:?}");
    }
    let mut silent = Vec::new();
    for said in [PREFACE, &begun[..PREFACE.len() + 9], &begun[..PREFACE.len() + 5]] {
        let mut socket = TcpStream::connect(&address).await.expect("the port is open");
        socket.write_all(said).await.expect("it is sent");
        silent.push(closed(socket));
    }
    let client = cluster.client();
    let (took, _) = tokio::join!(futures_util::future::join_all(silent), adds(&client, "hits", 50));
    report(&format!("half_open: closed after {took:?}"));
    cluster.assert_running();
}

/// A client that reads 8 KiB at a time, with pauses, gets all of its answer; and it holds up nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_gets_its_answer_and_holds_up_nobody() {
    let mut cluster = Cluster::started("slow-reader", 1, &[]).await;
    let client = cluster.client();
    let value = vec![7; 600 * KIB];
    client.keys().put("large", value.clone()).await.expect("it is put");
    let alone = adds(&client, "hits", 300).await;

    let (sender, connection) = connect(&cluster.node(1).client.clone()).await;
    let request = http::Request::post("http://tally/tally.v1.Keys/Get")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a request");
    let mut ready = sender.ready().await.expect("there is a place");
    let (response, mut stream) = ready.send_request(request, false).expect("it is sent");
    // A message of a name: field 1, five bytes.
    stream.send_data(Bytes::from_static(b"\0\0\0\0\x07\x0a\x05large"), true).expect("it is sent");
    let slow = tokio::spawn(async move {
        let mut body = response.await.expect("it is answered").into_body();
        let mut received = 0;
        while let Some(part) = body.data().await {
            let part = part.expect("the answer goes on");
            received += part.len();
            for piece in part.chunks(8 * KIB) {
                tokio::time::sleep(Duration::from_millis(20)).await;
                body.flow_control().release_capacity(piece.len()).expect("it was received");
            }
        }
        received
    });
    let beside = adds(&client, "hits", 300).await;
    let received = tokio::time::timeout(PATIENCE, slow).await.expect("it ends").expect("no panic");
    report(&format!("slow_reader: adds alone {}, beside it {}", shown(&alone), shown(&beside)));
    assert!(received > value.len(), "{received} bytes of an answer of more than {}", value.len());
    assert!(percentile(&beside, 99) < Duration::from_secs(1), "a slow reader holds up others");
    drop(connection);
    cluster.assert_running();
}

/// Calls that nothing ends are as many as their address may have, and others are served beside them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_stay_open_are_a_share_of_the_node() {
    const CONNECTIONS: usize = 16;
    const CALLS: usize = 1024;
    let mut cluster = Cluster::started("open-calls", 1, &[]).await;
    let address = cluster.node(1).client.clone();
    let client = cluster.client();
    adds(&client, "hits", 50).await;
    let before = resident_bytes(cluster.node(1).pid());
    // Reflection, which is open until its caller ends it, and says nothing before it is asked.
    let watch = || {
        let path = "http://tally/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        http::Request::post(path)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("a request")
    };
    let (mut open, mut refused) = (Vec::new(), 0);
    for _ in 0..CONNECTIONS {
        let (sender, connection) = connect(&address).await;
        let mut sender = sender.ready().await.expect("settings were exchanged");
        let mut answers = Vec::new();
        for _ in 0..CALLS {
            sender = sender.ready().await.expect("there is a place");
            let (answer, stream) = sender.send_request(watch(), false).expect("it is sent");
            answers.push((answer, stream));
        }
        for (answer, stream) in answers {
            let answer = answer.await.expect("it is answered");
            // What is refused is answered in the head, and ends.
            match answer.headers().get("grpc-status") {
                Some(status) => {
                    assert_eq!(status, "8", "RESOURCE_EXHAUSTED: {answer:?}");
                    refused += 1;
                }
                None => open.push((answer, stream)),
            }
        }
        open.shrink_to_fit();
        drop(connection);
    }
    let each = resident_bytes(cluster.node(1).pid()).saturating_sub(before) / open.len();
    let beside = adds(&client, "hits", 50).await;
    report(&format!(
        "open_calls: {} open with {each} bytes each, {refused} refused; adds beside them {}",
        open.len(),
        shown(&beside)
    ));
    // 75 % of 16,384, from one address.
    assert_eq!(open.len() + refused, CONNECTIONS * CALLS);
    assert!(refused > 0 && open.len() <= 12_288, "{} open, {refused} refused", open.len());
    assert!(each < 40 * KIB, "{each} bytes for a call that waits");
    // Another address has its own.
    let socket = connect_from(&address, "127.0.0.2").await;
    let (sender, connection) = h2::client::handshake(socket).await.expect("it is HTTP/2");
    let other = tokio::spawn(connection);
    let mut sender = sender.ready().await.expect("there is a place");
    let (answer, _stream) = sender.send_request(watch(), false).expect("it is sent");
    let answer = answer.await.expect("it is answered");
    assert_eq!(answer.headers().get("grpc-status"), None, "{answer:?}");
    other.abort();
    cluster.assert_running();
}

/// From another address of this machine.
async fn connect_from(address: &str, from: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    let from = format!("{from}:0").parse().expect("an address");
    socket.bind(from).expect("all of 127/8 is this machine");
    socket.connect(address.parse().expect("an address")).await.expect("the port is open")
}

/// Whoever begins more handshakes than may be under way, and goes on with none, is waited for by itself alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_stop_half_way_are_a_share_of_the_port() {
    descriptors();
    let certificates = tempfile::tempdir().expect("a directory");
    let authority = Authority::new("a test's CA", Lifetime::days(9)).expect("a CA");
    let hosts = ["127.0.0.1".to_owned()];
    let pair = authority.node("tally", 1, &hosts, Lifetime::days(9)).expect("a certificate");
    let paths = Paths::new(certificates.path(), "node");
    write_pair(&paths, &pair).expect("it is written");
    let path = |path: &std::path::Path| path.to_str().expect("text").to_owned();
    let (file, key) = (path(&paths.certificate), path(&paths.key));
    let flags = ["--client-tls-cert-file", &file, "--client-tls-key-file", &key];
    let mut cluster = Cluster::new("handshakes", 1, &flags);
    cluster.start_all();
    let address = cluster.node(1).client.clone();
    let tls = || Tls::new().trust_only(authority.pair().certificate.as_bytes());
    let client = Client::builder([address.clone()]).tls(tls()).deadline(PATIENCE).build();
    client.expect("a client").counter("hits").add(1).await.expect("it is up");

    // Three of four of 1,024 are one address's.
    let mut begun = Vec::new();
    for _ in 0..1200 {
        let mut socket = TcpStream::connect(&address).await.expect("the port is open");
        socket.write_all(&[22, 3, 1]).await.expect("it is sent");
        begun.push(socket);
    }
    let began = Instant::now();
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(authority.pair().certificate.as_bytes());
    roots.add(ca.expect("PEM")).expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let host = ServerName::try_from("127.0.0.1").expect("a name");
    let shaken = connector.connect(host, connect_from(&address, "127.0.0.2").await).await;
    shaken.expect("another address shakes hands meanwhile");
    let took = began.elapsed();
    report(&format!("handshakes: another address took {took:?} beside 1,200 that were begun"));
    assert!(took < Duration::from_secs(3), "it waited until the others' time was over: {took:?}");
    drop(begun);
    cluster.assert_running();
}

/// How somebody floods.
#[derive(Debug, Clone, Copy)]
struct Flood {
    connections: usize,
    /// Calls of each connection that are under way at once.
    at_a_time: usize,
    /// Adds in each call, as one atomic step if there are several.
    adds: usize,
}

impl Flood {
    /// Calls until it is told to stop.
    async fn run(self, clients: Vec<Client>, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) {
        let each =
            clients.into_iter().flat_map(|client| (0..self.at_a_time).map(move |_| client.clone()));
        let each = each.enumerate().map(|(which, client)| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                let name = format!("flood-{}", which % 64);
                while !stop.load(Ordering::Relaxed) {
                    let applied = match self.adds {
                        1 => client.counter(&name).add(1).await.is_ok(),
                        many => {
                            let step = (0..many).fold(client.apply(), |step, _| {
                                step.then(Operation::counter_add(name.clone(), 1))
                            });
                            step.await.is_ok()
                        }
                    };
                    done.fetch_add(u64::from(applied), Ordering::Relaxed);
                }
            })
        });
        futures_util::future::join_all(each.collect::<Vec<_>>()).await;
    }
}

/// A client that shows who it is: turns are between users.
async fn as_user(cluster: &Cluster, name: &str) -> (String, Client) {
    let client = cluster.client();
    let named = || name.to_owned();
    let role = AuthRole { name: named(), admin: true, ..AuthRole::default() };
    let user = AuthUser { name: named(), roles: vec![named()] };
    let token = AuthCreateToken { user: named(), ..AuthCreateToken::default() };
    let mut made = String::new();
    for change in [Change::PutRole(role), Change::PutUser(user), Change::CreateToken(token)] {
        let request = AuthChangeRequest { change: Some(change), dry_run: false };
        made = client.auth_change(request).await.expect("everybody may, while it is off").token;
    }
    let of_user = with_token(cluster, &made);
    (made, of_user)
}

fn with_token(cluster: &Cluster, token: &str) -> Client {
    let endpoints = cluster.nodes.iter().map(|node| node.client.clone());
    Client::builder(endpoints).bearer_token(token).build().expect("a client")
}

/// One client asks for all that a node can do; another one's writes are all acknowledged, and take turns with its own.
/// How much longer they take is reported: docs/security-model.md says what that was on a quiet machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_one_client_leaves_another_its_answers() {
    let cluster = Cluster::started("flood", 1, &[]).await;
    let (_, victim) = as_user(&cluster, "victim").await;
    let (token, _) = as_user(&cluster, "flood").await;
    // Its machine is another one, as far as that can be had here: what it computes itself delays nobody.
    let elsewhere = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .on_thread_start(|| {
            let _ = rustix::process::nice(19);
        })
        .build()
        .expect("threads can be started");
    adds(&victim, "hits", 100).await;
    let alone = adds(&victim, "hits", 500).await;
    for flood in [
        Flood { connections: 1, at_a_time: 64, adds: 1 },
        Flood { connections: 1, at_a_time: 1024, adds: 1 },
        Flood { connections: 16, at_a_time: 256, adds: 1 },
        Flood { connections: 1, at_a_time: 64, adds: 128 },
    ] {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients = (0..flood.connections).map(|_| with_token(&cluster, &token)).collect();
        let flooding = elsewhere.spawn(flood.run(clients, Arc::clone(&stop), Arc::clone(&done)));
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (began, before) = (Instant::now(), done.load(Ordering::Relaxed));
        let beside = adds(&victim, "hits", 300).await;
        let rate = (done.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        flooding.await.expect("no panic");
        let ratio =
            percentile(&beside, 99).as_secs_f64() / percentile(&alone, 99).as_secs_f64().max(1e-6);
        report(&format!(
            "{flood:?}: {rate:.0} calls/s; another's adds alone {}, beside it {} ({ratio:.1} times)",
            shown(&alone),
            shown(&beside)
        ));
        assert!(rate > 0.0, "nothing was flooded");
        assert!(
            percentile(&beside, 99) < Duration::from_secs(5),
            "a flood holds up another client"
        );
    }
    elsewhere.shutdown_background();
}
