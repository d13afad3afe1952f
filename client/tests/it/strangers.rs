//! Addresses at which somebody answers who is no node: told as such, soon, and no reason to leave the others.

use std::time::Duration;

use tally_client::{Client, Outcome};
use tokio::{io::AsyncWriteExt as _, net::TcpListener, time::Instant};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{service::Routes, transport::Server};

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

/// Far longer than this takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn client(addresses: &[&str], deadline: Duration) -> Client {
    let addresses: Vec<String> = addresses.iter().map(|address| (*address).to_owned()).collect();
    Client::builder(addresses).deadline(deadline).build().unwrap()
}

/// Both calls fail with the same, and name whoever answers.
async fn name_it(address: &str, what: &str, deadline: Duration) {
    let client = client(&[address], deadline);
    let read = client.counter("hits").get().await.unwrap_err();
    let write = client.counter("hits").add(1).idempotency_key("k").await.unwrap_err();
    for error in [&read, &write] {
        assert!(error.message().contains(what), "{error}");
        assert!(error.message().contains(address), "{error}");
    }
    // No session was opened, so no write was sent.
    assert_eq!(write.outcome(), Some(Outcome::NotApplied), "{write}");
}

/// Nobody waits for another API to become ours.
#[tokio::test]
async fn another_api_is_named_at_once() {
    let began = Instant::now();
    name_it(&grpc().await, "speaks gRPC, but not Tally's API", PATIENCE).await;
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}

/// That may be a balancer whose nodes start, so it is asked again until the deadline.
#[tokio::test]
async fn what_speaks_no_grpc_is_named() {
    name_it(&web().await, "does not speak gRPC", Duration::from_millis(500)).await;
}

#[tokio::test]
async fn strangers_beside_a_node_are_no_obstacle() {
    let cluster = Cluster::start(1).await;
    let (web, grpc) = (web().await, grpc().await);
    for _ in 0..5 {
        let client = client(&[&web, &grpc, &cluster.nodes[0].address], PATIENCE);
        client.counter("hits").add(1).await.unwrap();
        client.counter("hits").get().await.unwrap();
    }
    assert_eq!(cluster.value("hits"), 5);
}

/// A deadline that ends in the middle of an attempt does not hide what the attempt before has said.
#[tokio::test]
async fn the_attempt_before_the_last_is_told() {
    let attempts = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let builder = Client::builder(["127.0.0.1:1"]).deadline(Duration::from_secs(1));
    let builder = builder.connector(move |_| {
        let is_first = attempts.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        async move {
            if !is_first {
                std::future::pending::<()>().await;
            }
            Err::<tonic::transport::Channel, _>("the certificate is of somebody else")
        }
    });
    let error = builder.build().unwrap().counter("hits").get().await.unwrap_err();
    for part in ["no connection before the deadline", "the certificate is of somebody else"] {
        assert!(error.message().contains(part), "{error}");
    }
}
