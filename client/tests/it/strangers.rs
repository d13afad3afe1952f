//! Addresses at which somebody answers who is no node: told as such, soon, and no reason to leave the others.

use std::time::Duration;

use tally_client::{Client, Outcome};
use tokio::{io::AsyncWriteExt as _, net::TcpListener, time::Instant};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, service::Routes, transport::Server};

use crate::fake::Cluster;

/// A web server of the old kind. It reads nothing.
async fn web() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            // Dropped with what it did not read, it would reset, and the words would be lost.
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            });
        }
    });
    address
}

/// A gRPC server without our services, as a node's peer port is.
async fn grpc() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = Server::builder().add_routes(Routes::default());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

/// Far longer than this takes: nobody waits for a stranger to become a node.
const PATIENCE: Duration = Duration::from_secs(30);

fn client(addresses: &[&str]) -> Client {
    let addresses: Vec<String> = addresses.iter().map(|address| (*address).to_owned()).collect();
    Client::builder(addresses).deadline(PATIENCE).build().unwrap()
}

#[tokio::test]
async fn a_stranger_is_named_at_once() {
    for (address, what) in
        [(web().await, "does not speak gRPC"), (grpc().await, "speaks gRPC, but not Tally's API")]
    {
        let began = Instant::now();
        let client = client(&[&address]);
        let read = client.counter("hits").get().await.unwrap_err();
        let write = client.counter("hits").add(1).idempotency_key("k").await.unwrap_err();
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
        for error in [&read, &write] {
            assert_eq!(error.code(), Code::Unavailable, "{error}");
            assert!(error.message().contains(what), "{error}");
            assert!(error.message().contains(&address), "{error}");
        }
        // To neither a session was opened, so no write was sent.
        assert_eq!(write.outcome(), Some(Outcome::NotApplied), "{write}");
    }
}

#[tokio::test]
async fn strangers_beside_a_node_are_no_obstacle() {
    let cluster = Cluster::start(1).await;
    let (web, grpc) = (web().await, grpc().await);
    for _ in 0..5 {
        let client = client(&[&web, &grpc, &cluster.nodes[0].address]);
        client.counter("hits").add(1).await.unwrap();
        client.counter("hits").get().await.unwrap();
    }
    assert_eq!(cluster.value("hits"), 5);
}
