//! TLS to the end: certificates, names, and what is said when they do not fit. `tls/make.sh` made the keys.

use tally_client::{Client, Tls, Transport};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use crate::fake::Cluster;

const CA: &str = include_str!("tls/ca.pem");

fn identity(who: &str) -> (&'static str, &'static str) {
    match who {
        "node" => (include_str!("tls/node.pem"), include_str!("tls/node.key")),
        _ => (include_str!("tls/client.pem"), include_str!("tls/client.key")),
    }
}

/// Nodes that speak TLS, and perhaps ask who calls.
async fn cluster(asks_who_calls: bool) -> Cluster {
    Cluster::served_by(2, || {
        let (certificate, key) = identity("node");
        let mut config = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
        if asks_who_calls {
            config = config.client_ca_root(Certificate::from_pem(CA));
        }
        Server::builder().tls_config(config).unwrap()
    })
    .await
}

fn trusting() -> Tls {
    Tls::new().trust_only(CA).server_name("tally.test")
}

fn client(cluster: &Cluster, tls: Tls) -> Client {
    let endpoints = cluster.endpoints().into_iter().map(|at| format!("https://{at}"));
    Client::builder(endpoints).tls(tls).seed(1).build().unwrap()
}

async fn refused(client: &Client) -> String {
    let hits = client.counter("hits").get().max_attempts(2);
    hits.await.unwrap_err().to_string()
}

#[tokio::test]
async fn writes_travel_over_tls_and_members_are_reached_over_it_too() {
    let cluster = cluster(false).await;
    cluster.elect(1);
    for transport in [Transport::Stream, Transport::Unary] {
        let endpoints = cluster.endpoints();
        // One endpoint: the other node's address is told by it, as a bare one.
        let builder = Client::builder([format!("https://{}", endpoints[0])]).tls(trusting());
        let client = builder.transport(transport).build().unwrap();
        client.counter("hits").add(1).await.unwrap();
    }
    assert_eq!(cluster.value("hits"), 2);
    assert_eq!(cluster.nodes[1].seen.lock().unwrap().keys.len(), 2, "the leader executed them");
}

#[tokio::test]
async fn a_client_shows_who_it_is() {
    let cluster = cluster(true).await;
    let (certificate, key) = identity("client");
    client(&cluster, trusting().identity(certificate, key)).counter("hits").add(1).await.unwrap();
    assert_eq!(cluster.value("hits"), 1);
    let stranger = refused(&client(&cluster, trusting())).await;
    assert!(stranger.contains("CertificateRequired"), "{stranger}");
    assert_eq!(cluster.value("hits"), 1);
}

#[tokio::test]
async fn whom_it_does_not_trust_it_sends_nothing() {
    let cluster = cluster(false).await;
    let by_address = refused(&client(&cluster, Tls::new().trust_only(CA))).await;
    assert!(by_address.contains("not valid for name"), "{by_address}");
    let other_name = refused(&client(&cluster, trusting().server_name("other.test"))).await;
    assert!(other_name.contains("not valid for name"), "{other_name}");
    let other_root = Tls::new().trust_only(identity("node").0).server_name("tally.test");
    let unknown = refused(&client(&cluster, other_root)).await;
    assert!(unknown.contains("UnknownIssuer"), "{unknown}");
    assert_eq!(cluster.nodes[0].seen.lock().unwrap().reads, 0);
    // And a node without TLS is told as one.
    let plain = Cluster::start(1).await;
    let message = refused(&client(&plain, trusting())).await;
    assert!(message.contains("speaks no TLS") && message.contains("https://"), "{message}");
    assert_eq!(plain.nodes[0].seen.lock().unwrap().reads, 0);
}
