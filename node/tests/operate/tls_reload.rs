//! Certificates that change while their nodes run: a whole cluster's, under load; and files that can't be used.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rustls::pki_types::CertificateDer;
use tally_certificates::{Authority, Pair, write_public};
use tally_client::{Client, Tls};
use tokio::{net::TcpStream, time::Instant};

use crate::{
    cluster::{Cluster, PATIENCE},
    tls::{CLUSTER, Pki, connector, ended, good, localhost},
};

/// The certificate that somebody shows who connects now.
async fn shown(address: &str, ca: &Authority) -> Option<CertificateDer<'static>> {
    let stream = TcpStream::connect(address).await.ok()?;
    let stream = connector(ca, None).connect(localhost(), stream).await.ok()?;
    let (_, session) = stream.get_ref();
    Some(session.peer_certificates()?[0].clone().into_owned())
}

/// Waits until a node shows another certificate than this one, which this CA signed.
async fn changed(address: &str, ca: &Authority, before: &CertificateDer<'_>) {
    let until = Instant::now() + PATIENCE;
    while shown(address, ca).await.is_none_or(|now| now == *before) {
        assert!(Instant::now() < until, "never: another certificate at {address}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A new CA beside the old one, then new certificates by it, then the old one is gone; on both ports, with each
/// connection of clients and nodes made anew in between. No request fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_changes_its_ca_under_load_and_no_request_fails() {
    let pki = Pki::new();
    let mut cluster = Cluster::start_with(3, |config| pki.of_peers(config)).await;
    let next = Authority::new("the next CA", good()).unwrap();
    let old = &pki.authority;
    let pem = |ca: &Authority| ca.pair().certificate.clone().into_bytes();
    let trusting = Tls::new().trust_only(pem(old)).trust_only(pem(&next));
    let endpoints: Vec<String> =
        cluster.ids().iter().map(|id| cluster.client_address(*id)).collect();
    let build = move || {
        Client::builder(endpoints.clone()).tls(trusting.clone()).deadline(PATIENCE).build().unwrap()
    };

    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut load = Vec::new();
    for writer in 0..4 {
        let (stop, acknowledged, build) = (stop.clone(), acknowledged.clone(), build.clone());
        load.push(tokio::spawn(async move {
            let mut client = build();
            let mut calls = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                client.counter("hits").add(1).await.expect("no request fails");
                acknowledged.fetch_add(1, Ordering::Relaxed);
                client.counter("hits").get().await.expect("no request fails");
                calls += 1;
                // Some stay connected throughout, others come anew all the time.
                if writer % 2 == 0 && calls.is_multiple_of(20) {
                    client.close().await;
                    client = build();
                }
            }
        }));
    }

    let mut before = Vec::new();
    for id in cluster.ids() {
        before.push((id, shown(&cluster.client_address(id), old).await.unwrap()));
    }
    pki.trust(&[old, &next]);
    // A file of CAs shows nothing of itself: the nodes' own figures say when it is in use.
    tokio::time::sleep(Duration::from_secs(5)).await;
    for (id, before) in &before {
        let hosts = ["127.0.0.1".to_owned()];
        pki.give(*id, &next.node(CLUSTER, *id, &hosts, good()).unwrap());
        changed(&cluster.client_address(*id), &next, before).await;
    }
    pki.trust(&[&next]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    // Every connection between nodes is made anew by what is in the files now.
    for id in cluster.ids() {
        cluster.stop(id).await;
        cluster.start_node(id).await.unwrap();
        cluster.settled().await;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in load {
        writer.await.expect("no request failed");
    }
    let value = build().counter("hits").get().await.unwrap().value;
    let acknowledged = acknowledged.load(Ordering::Relaxed);
    assert_eq!(value, i64::try_from(acknowledged).unwrap(), "each counted once");
    assert!(acknowledged > 100, "{acknowledged}");
}

/// What can't be used leaves what was in use, and what can be used afterwards is taken.
#[tokio::test]
async fn broken_files_leave_what_was_in_use() {
    let pki = Pki::new();
    let cluster = Cluster::start_with(1, |config| pki.of_clients(config)).await;
    let (address, ca) = (cluster.client_address(1), &pki.authority);
    let first = shown(&address, ca).await.unwrap();
    let other = pki.node(1, good());
    let halves = Pair { key: pki.node(1, good()).key, ..other.clone() };
    let over = pki.node(1, ended());
    for broken in [halves, over] {
        pki.give(1, &broken);
        // Longer than two looks, after which it is told.
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(shown(&address, ca).await.as_ref(), Some(&first));
    }
    write_public(&pki.paths(1).certificate, "no certificate").unwrap();
    std::fs::remove_file(pki.paths(1).key).unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(shown(&address, ca).await.as_ref(), Some(&first));
    pki.give(1, &other);
    changed(&address, ca, &first).await;
}
