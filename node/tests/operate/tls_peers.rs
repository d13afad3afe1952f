//! TLS between nodes: each proves which node it is, to whom it calls and to who calls it, and speaks for no other.

use std::{future::Future, time::Duration};

use hyper_util::rt::TokioIo;
use tally_certificates::{Authority, Pair};
use tally_proto::{
    peer::v1::{self as peer, peer_client::PeerClient},
    v1::{self, call::Request as Call},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    client::unary,
    cluster::{Cluster, PATIENCE, eventually},
    requests::*,
    tls::{CLUSTER, Pki, connector, early, ended, good, localhost},
};

async fn secured(pki: &Pki) -> Cluster {
    Cluster::start_with(3, |config| pki.of_peers(config)).await
}

/// Calls a peer port by rustls itself.
fn channel(address: &str, tls: TlsConnector) -> Channel {
    let address = address.to_owned();
    let connect = tower::service_fn(move |_: http::Uri| {
        let (address, tls) = (address.clone(), tls.clone());
        async move {
            let stream = TcpStream::connect(&address).await?;
            Ok::<_, std::io::Error>(TokioIo::new(tls.connect(localhost(), stream).await?))
        }
    });
    Endpoint::from_static("http://peer.test").connect_with_connector_lazy(connect)
}

/// Who a call says it comes from.
fn stamped<T>(message: T, from: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("tally-from", from.parse().unwrap());
    request
}

/// A node's incarnation, which is no secret: every peer is told.
fn incarnation(cluster: &Cluster, id: u64) -> String {
    let bytes = std::fs::read(cluster.data_dir(id).join("IDENTITY")).unwrap();
    let identity: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    identity["incarnation"].as_str().unwrap().to_owned()
}

async fn term(channel: &Channel, target_node_id: u64, from: &str) -> Result<u64, Status> {
    let request = peer::TermRequest { cluster_id: String::new(), target_node_id };
    let answer = PeerClient::new(channel.clone()).term(stamped(request, from)).await?;
    Ok(answer.into_inner().term)
}

async fn denied<T>(what: &str, call: impl Future<Output = Result<T, Status>>) {
    let status = call.await.err().unwrap_or_else(|| panic!("{what} is refused"));
    assert_eq!(status.code(), Code::PermissionDenied, "{what}: {status}");
    assert!(status.message().contains("certificate is that of node 3"), "{what}: {status}");
}

#[tokio::test]
async fn nodes_with_their_own_certificates_form_a_cluster() {
    let pki = Pki::new();
    let mut cluster = secured(&pki).await;
    let follower = cluster.follower().await;
    unary(&cluster.channel(follower), status()).await.expect_err("clients speak TLS, too");
    let asked = channel(&cluster.client_address(follower), connector(&pki.authority, None));
    // A write that a follower forwards, a restart, and a node that is added later.
    unary(&asked, add("hits", 1)).await.unwrap();
    cluster.stop(follower).await;
    cluster.start_node(follower).await.unwrap();
    cluster.settled().await;
    cluster.add(4);
    pki.give(4, &pki.node(4, good()));
    pki.of_peers(cluster.config(4));
    let launched = cluster.launch(4);
    // Also what the leader is asked through a follower.
    let leader = cluster.client_address(cluster.follower().await);
    let leader = channel(&leader, connector(&pki.authority, None));
    let peer_address = cluster.peer_address(4);
    let join = v1::ClusterAddLearnerRequest { node_id: 4, peer_address, preview: false };
    unary(&leader, Call::ClusterAddLearner(join)).await.unwrap();
    cluster.adopt(4, launched.await.unwrap());
    let vote =
        || Call::ClusterPromote(v1::ClusterPromoteRequest { node_id: 4, ..Default::default() });
    let until = Instant::now() + PATIENCE;
    while let Err(status) = unary(&leader, vote()).await {
        // It has to be heard of first.
        assert!(Instant::now() < until, "never: {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.caught_up().await;
}

/// Node 3's key in the wrong hands: it can say what node 3 may say, and nothing in the name of node 2.
#[tokio::test]
async fn another_nodes_certificate_speaks_for_nobody() {
    let pki = Pki::new();
    let cluster = secured(&pki).await;
    let pair = pki.paths(3).read().unwrap();
    let channel = channel(&cluster.peer_address(1), connector(&pki.authority, Some(&pair)));
    let own = format!("3:{}", incarnation(&cluster, 3));
    let of_two = format!("2:{}", incarnation(&cluster, 2));
    let before = term(&channel, 1, &own).await.expect("it speaks for itself");

    let client = || PeerClient::new(channel.clone());
    let ballot =
        |node_id| Some(peer::Ballot { term: before + 10, node_id: Some(node_id), committed: true });
    let vote = |node_id| peer::VoteRequest {
        target_node_id: 1,
        ballot: ballot(node_id),
        ..Default::default()
    };
    let hello = |node_id| peer::HelloRequest { node_id, target_node_id: 1, ..Default::default() };
    let head = |node_id| {
        let head =
            peer::SnapshotHead { target_node_id: 1, ballot: ballot(node_id), ..Default::default() };
        let part = Some(peer::install_snapshot_request::Part::Head(head));
        tokio_stream::iter([peer::InstallSnapshotRequest { part }])
    };
    let transfer = |node_id| peer::TransferLeaderRequest {
        target_node_id: 1,
        from_ballot: ballot(node_id),
        to_node_id: 1,
        ..Default::default()
    };
    let append = |node_id| {
        let message = peer::AppendRequest {
            target_node_id: 1,
            ballot: ballot(node_id),
            ..Default::default()
        };
        tokio_stream::iter([message])
    };

    // What is stamped as node 2's, whatever it is.
    let from = of_two.as_str();
    denied("a term", term(&channel, 1, from)).await;
    denied("a hello", client().hello(stamped(hello(2), from))).await;
    denied("a hello with an own name", client().hello(stamped(hello(3), from))).await;
    denied("a vote", client().vote(stamped(vote(2), from))).await;
    let pre_vote = peer::PreVoteRequest { vote: Some(vote(2)) };
    denied("a pre-vote", client().pre_vote(stamped(pre_vote, from))).await;
    denied("an append", client().append(stamped(append(2), from))).await;
    denied("a snapshot", client().install_snapshot(stamped(head(2), from))).await;
    denied("a transfer", client().transfer_leader(stamped(transfer(2), from))).await;
    let read = peer::ReadIndexRequest { target_node_id: 1, ..Default::default() };
    denied("a read index", client().read_index(stamped(read, from))).await;
    let propose = peer::ProposeRequest { target_node_id: 1, ..Default::default() };
    denied("a forwarded write", client().propose(stamped(propose, from))).await;
    denied("a status", client().status(stamped(peer::StatusRequest::default(), from))).await;
    // … or says nothing of where it comes from.
    let nobody = Request::new(peer::TermRequest { target_node_id: 1, ..Default::default() });
    denied("a term of nobody", client().term(nobody)).await;

    // What is stamped as its own, and says otherwise inside.
    let from = own.as_str();
    denied("a hello of another", client().hello(stamped(hello(2), from))).await;
    denied("another's vote", client().vote(stamped(vote(2), from))).await;
    let pre_vote = peer::PreVoteRequest { vote: Some(vote(2)) };
    denied("another's pre-vote", client().pre_vote(stamped(pre_vote, from))).await;
    denied("another's snapshot", client().install_snapshot(stamped(head(2), from))).await;
    denied("another's transfer", client().transfer_leader(stamped(transfer(2), from))).await;
    let answers = client().append(stamped(append(2), from)).await.unwrap();
    let none = answers.into_inner().message().await.unwrap();
    assert!(none.is_none(), "another's append is not answered: {none:?}");

    assert_eq!(term(&channel, 1, from).await.unwrap(), before, "nothing reached Raft");
}

/// A key may be that of a node which was never added, or was removed since: what it says of its callers counts for
/// nothing, and it is told nothing.
#[tokio::test]
async fn the_certificate_of_no_member_speaks_for_no_callers() {
    let pki = Pki::new();
    let cluster = secured(&pki).await;
    let pair = pki.node(9, good());
    let channel = channel(&cluster.peer_address(1), connector(&pki.authority, Some(&pair)));
    let from = format!("9:{}", "ab".repeat(16));
    let client = || PeerClient::new(channel.clone());
    let propose = peer::ProposeRequest { target_node_id: 1, ..Default::default() };
    let read = peer::ReadIndexRequest { target_node_id: 1, ..Default::default() };
    let operate = peer::OperateRequest { target_node_id: 1, ..Default::default() };
    let about = peer::TellAbout::Diagnosis as i32;
    let tell = peer::TellRequest { target_node_id: 1, about, ..Default::default() };
    for (what, refused) in [
        ("a forwarded write", client().propose(stamped(propose, &from)).await.err()),
        ("a read index", client().read_index(stamped(read, &from)).await.err()),
        ("a change of the cluster", client().operate(stamped(operate, &from)).await.err()),
        ("a diagnosis", client().tell(stamped(tell, &from)).await.err()),
    ] {
        let refused = refused.unwrap_or_else(|| panic!("{what} was answered"));
        assert_eq!(refused.code(), Code::FailedPrecondition, "{what}: {refused}");
        assert!(refused.message().contains("no member"), "{what}: {refused}");
    }
}

/// Who may not come in at all, and what the caller is told.
#[tokio::test]
async fn the_peer_port_is_for_nodes_of_this_cluster() {
    let pki = Pki::new();
    let cluster = secured(&pki).await;
    let hosts = ["127.0.0.1".to_owned()];
    let stranger = Authority::new("another CA", good()).unwrap();
    let cases: [(&str, Option<Pair>, &str); 6] = [
        ("nobody", None, "CertificateRequired"),
        ("a client", pki.authority.client("billing", good()).ok(), "alert"),
        ("a node of another cluster", pki.authority.node("mall", 3, &hosts, good()).ok(), "alert"),
        ("a node by another CA", stranger.node(CLUSTER, 3, &hosts, good()).ok(), "UnknownCA"),
        ("a node whose time is over", Some(pki.node(3, ended())), "CertificateExpired"),
        // TLS has one word for both.
        ("a node whose time has not come", Some(pki.node(3, early())), "CertificateExpired"),
    ];
    for (who, pair, said) in cases {
        let tls = connector(&pki.authority, pair.as_ref());
        let stream = TcpStream::connect(cluster.peer_address(1)).await.unwrap();
        let mut stream = tls.connect(localhost(), stream).await.unwrap();
        // In TLS 1.3 a caller learns by its first read whether it was taken.
        let error = match stream.read(&mut [0; 64]).await {
            Err(error) => error.to_string(),
            Ok(read) => panic!("{who} was let in and read {read}"),
        };
        assert!(error.contains(said), "{who}: {error}");
    }
    let mut plain = TcpStream::connect(cluster.peer_address(1)).await.unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    let told = tokio::time::timeout(PATIENCE, plain.read_to_end(&mut said));
    // It is told, and closed when it does not go.
    let _ = told.await.expect("it is closed");
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("this port speaks TLS"), "{said}");
}

/// Somebody with node 3's key sits at the address of node 2: it is called by nobody as node 2.
#[tokio::test]
async fn a_node_that_is_called_is_the_one_that_is_meant() {
    let pki = Pki::new();
    let mut cluster = secured(&pki).await;
    let down = cluster.follower().await;
    let other = cluster.ids().into_iter().find(|id| *id != down).unwrap();
    cluster.stop(down).await;
    let address = cluster.peer_address(down);
    let pair = pki.paths(other).read().unwrap();
    let listener = TcpListener::bind(&address).await.unwrap();
    tokio::spawn(impostor(listener, pair));
    let asked = cluster.leader().await;
    let said = format!("the certificate is that of node {other}, not of node {down}");
    eventually("it is told apart", || {
        let reason = cluster.node(asked).peers().unmet_reason(down);
        reason.is_some_and(|reason| reason.contains(&said))
    })
    .await;
}

/// Answers on TLS as a node does, with a pair, whoever calls.
async fn impostor(listener: TcpListener, pair: Pair) {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let chain = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let mut sent = Vec::new();
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.read_to_end(&mut sent).await;
            }
        });
    }
}

/// A mistake in its own files ends a node's start, with the key, the file and what is wrong.
#[tokio::test]
async fn a_node_with_another_nodes_certificate_does_not_start() {
    let pki = Pki::new();
    let mut cluster = Cluster::prepare(1, |config| pki.of_peers(config));
    let stranger = Authority::new("another CA", good()).unwrap();
    let hosts = ["127.0.0.1".to_owned()];
    let mixed = Pair { key: pki.node(1, good()).key, ..pki.node(1, good()) };
    for (pair, key, said) in [
        (
            pki.node(2, good()),
            "peer_tls_cert_file",
            "it is that of node 2, and this is tally://shop/node/1",
        ),
        (
            pki.authority.client("x", good()).unwrap(),
            "peer_tls_cert_file",
            "no node of this cluster",
        ),
        (
            stranger.node(CLUSTER, 1, &hosts, good()).unwrap(),
            "peer_tls_cert_file",
            "does not lead to it",
        ),
        (mixed, "client_tls_key_file", "does not fit client_tls_cert_file"),
        (
            Pair { certificate: String::new(), key: String::new() },
            "client_tls_cert_file",
            "no certificate",
        ),
    ] {
        pki.give(1, &pair);
        let error = cluster.start_node(1).await.unwrap_err();
        assert!(error.needs_a_person());
        let error = error.to_string();
        assert!(error.starts_with(key) && error.contains(said), "{error}");
    }
    std::fs::remove_file(pki.ca()).unwrap();
    pki.give(1, &pki.node(1, good()));
    let error = cluster.start_node(1).await.unwrap_err().to_string();
    assert!(error.starts_with("peer_tls_ca_file") && error.contains("ca.crt"), "{error}");
}
