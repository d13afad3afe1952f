//! What clients can use up of a process: file descriptors and memory.

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tally_client::Client;
use tokio::{net::TcpStream, task::JoinHandle, time::Instant};

use crate::support::{eventually, nodes::Cluster, report};

const MIB: usize = 1 << 20;

/// A connection that has begun HTTP/2 and waits, as a client's does between two calls.
pub(crate) async fn connect(
    address: &str,
) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let socket = TcpStream::connect(address).await.expect("the port is open");
    let (sender, connection) = h2::client::handshake(socket).await.expect("it is HTTP/2");
    (sender, tokio::spawn(connection))
}

/// With 128 descriptors and a hundred idle clients at each node: those that are too many are told so,
/// and the cluster writes on, into new segments of its log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_clients_leave_a_node_the_descriptors_that_it_needs() {
    let mut cluster = Cluster::new("descriptors", 3, &["--log-segment-bytes", "8388608"]);
    cluster.nodes.iter_mut().for_each(|node| node.descriptors_max = Some(128));
    cluster.start_all();
    let (leader, _) = cluster.leader().await;
    let client = cluster.client();
    client.counter("before").add(1).await.expect("there is a quorum");
    let address = cluster.node(leader).client.clone();
    let its = Client::builder([address]).build().expect("an address");
    its.status().local_only().await.expect("it answers");

    let mut idle = Vec::new();
    for address in cluster.addresses() {
        for _ in 0..100 {
            idle.push(connect(&address).await);
        }
    }
    let refused = eventually("those that are too many are refused", || async {
        let refused = idle.iter().filter(|(_, ended)| ended.is_finished()).count();
        (refused >= 3 * 90).then_some(refused)
    })
    .await;
    for n in 0..40 {
        let value = vec![n; MIB - 1024];
        client.keys().put(format!("k{}", n % 4), value).await.expect("a write is acknowledged");
    }
    let status = its.status().local_only().await.expect("who was there before is answered");
    let note = &status.nodes.iter().find(|node| node.id == leader).expect("itself").note;
    assert!(note.contains("connections are refused"), "{note:?}");
    report(&format!("idle_clients: {refused} of {} refused", idle.len()));
    cluster.assert_running();

    // Some are told why. Of those that come together most are just closed.
    let mut told = 0;
    for (_, ended) in &mut idle {
        if ended.is_finished() {
            let said = ended.await.expect("it does not panic").err();
            let why = said.and_then(|said| said.reason());
            told += usize::from(why == Some(h2::Reason::ENHANCE_YOUR_CALM));
        }
    }
    assert!(told > 0, "none of {refused} was told why");
    // The places come back.
    drop(idle);
    let address = cluster.node(leader).client.clone();
    eventually("there is a place again", || async {
        let client = Client::builder([address.clone()]).deadline(Duration::from_secs(1));
        client.build().ok()?.counter("after").add(1).await.ok()
    })
    .await;
}

pub(crate) fn resident_bytes(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it says so");
    let kib: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}

/// Two hundred answers of nearly 3 MiB that nobody reads were 800 MiB for as long as their connection
/// lived.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_answers_take_little_memory() {
    let mut cluster = Cluster::started("unread-answers", 1, &[]).await;
    let client = cluster.client();
    for key in ["a", "b", "c"] {
        client.keys().put(key, vec![7; MIB - 1024]).await.expect("it is put");
    }
    let pid = cluster.node(1).pid();
    let before = resident_bytes(pid);
    let (sender, connection) = connect(&cluster.node(1).client.clone()).await;
    let mut unread = Vec::new();
    for _ in 0..200 {
        let request = http::Request::post("http://tally/tally.v1.Keys/Scan")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("a request");
        let mut ready = sender.clone().ready().await.expect("there is a place");
        let (response, mut stream) = ready.send_request(request, false).expect("it is sent");
        stream.send_data(Bytes::from_static(&[0; 5]), true).expect("it is sent");
        unread.push(response);
    }
    let mut most = before;
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        most = most.max(resident_bytes(pid));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let grown = most.saturating_sub(before) / MIB;
    report(&format!("unread_answers: {} MiB, and {grown} MiB more", before / MIB));
    // 64 MiB are held; the rest is what makes and codes them.
    assert!(grown < 300, "{grown} MiB for answers that nobody reads");
    drop((unread, connection));
}
