//! What every gRPC tool expects: reflection and health, and the status of the cluster.

use std::time::Duration;

use prost::Message as _;
use prost_types::FileDescriptorProto;
use tally_proto::{
    reason,
    v1::{self, Outcome, call::Request},
};
use tokio::time::Instant;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{
    v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    },
    v1alpha,
};

use crate::{
    client::{Asked, Failure, streamed_asked, unary, unary_asked},
    cluster::{Cluster, ELECTION_TIMEOUT_MAX},
    requests::*,
};

async fn reflect(channel: &Channel, message_request: MessageRequest) -> MessageResponse {
    let request =
        ServerReflectionRequest { host: String::new(), message_request: Some(message_request) };
    let mut client = ServerReflectionClient::new(channel.clone());
    let answers = client.server_reflection_info(tokio_stream::once(request)).await;
    let answer = answers.expect("reflection answers").into_inner().message().await;
    answer.expect("an answer").expect("an answer").message_response.expect("a message")
}

#[tokio::test]
async fn reflection_lists_every_service_and_describes_them() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let listed = reflect(&channel, MessageRequest::ListServices(String::new())).await;
    let MessageResponse::ListServicesResponse(listed) = listed else { panic!("{listed:?}") };
    let names: Vec<_> = listed.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["Counters", "Keys", "Transactions", "Sessions", "Cluster", "Stream"] {
        let name = format!("tally.v1.{name}");
        assert!(names.contains(&name.as_str()), "{name} in {names:?}");
        let file = reflect(&channel, MessageRequest::FileContainingSymbol(name)).await;
        assert!(matches!(file, MessageResponse::FileDescriptorResponse(_)));
    }
    assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("peer")), "the peer port is no public API");
}

/// Full names of the messages in what reflection says of a symbol, by its first version.
async fn described_by_v1alpha(channel: &Channel, symbol: &str) -> Vec<String> {
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(symbol.into()),
        ),
    };
    let mut client =
        v1alpha::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let mut answers =
        client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    match answers.message().await.unwrap().unwrap().message_response.unwrap() {
        v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(files) => {
            messages(files.file_descriptor_proto)
        }
        other => panic!("{symbol}: {other:?}"),
    }
}

fn messages(files: Vec<Vec<u8>>) -> Vec<String> {
    let files = files.iter().map(|file| FileDescriptorProto::decode(&**file).unwrap());
    let names = |file: FileDescriptorProto| {
        let package = file.package().to_owned();
        file.message_type.into_iter().map(move |message| format!("{package}.{}", message.name()))
    };
    files.flat_map(names).collect()
}

#[tokio::test]
async fn both_versions_of_reflection_describe_each_detail_of_an_error() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    let names = tally_proto::status::DETAIL_NAMES;
    assert!(names.contains(&"google.rpc.ErrorInfo") && names.contains(&"tally.v1.WriteOutcome"));
    // The envelope of the details, which a tool needs first.
    for name in names.iter().chain(&["google.rpc.Status"]) {
        let asked = MessageRequest::FileContainingSymbol((*name).to_owned());
        let file = match reflect(&channel, asked).await {
            MessageResponse::FileDescriptorResponse(files) => messages(files.file_descriptor_proto),
            other => panic!("{name}: {other:?}"),
        };
        assert!(file.iter().any(|message| message == name), "{name} in {file:?}");
        let file = described_by_v1alpha(&channel, name).await;
        assert!(file.iter().any(|message| message == name), "{name} in {file:?}");
    }
}

async fn health(channel: &Channel, service: &str) -> Result<ServingStatus, Code> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel.clone()).check(request).await;
    answer.map(|answer| answer.into_inner().status()).map_err(|status| status.code())
}

/// Waits for a status of `tally.linearizable`.
async fn until_linearizable(channel: &Channel, wanted: ServingStatus) {
    for _ in 0..500 {
        if health(channel, "tally.linearizable").await == Ok(wanted) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("tally.linearizable never became {wanted:?}");
}

#[tokio::test]
async fn health_tells_a_node_that_lives_from_one_that_has_a_quorum() {
    let cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let channel = cluster.channel(follower);
    assert_eq!(health(&channel, "").await, Ok(ServingStatus::Serving));
    until_linearizable(&channel, ServingStatus::Serving).await;
    assert_eq!(health(&channel, "nobody").await, Err(Code::NotFound));
    cluster.isolate(follower);
    until_linearizable(&channel, ServingStatus::NotServing).await;
    assert_eq!(health(&channel, "").await, Ok(ServingStatus::Serving), "LOCAL reads work");
    cluster.switchboard.mend();
    until_linearizable(&channel, ServingStatus::Serving).await;
}

#[tokio::test]
async fn the_status_shows_every_node_even_one_that_is_dead() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let channel = cluster.channel(leader);
    let shown = answer!(ClusterStatus, unary(&channel, status()).await.expect("it answers"));
    assert_eq!(shown.nodes.iter().map(|node| node.id).collect::<Vec<_>>(), [1, 2, 3]);
    for node in &shown.nodes {
        assert!(node.reachable);
        assert_eq!(node.leader_id, leader);
        assert_eq!(node.address, cluster.client_address(node.id));
        assert_eq!(node.peer_address, cluster.peer_address(node.id));
        assert!(node.log_bytes > 0 && !node.version.is_empty());
    }
    cluster.kill(follower).await;
    let shown = answer!(ClusterStatus, unary(&channel, status()).await.expect("it answers"));
    let dead = shown.nodes.iter().find(|node| node.id == follower).expect("it is shown");
    assert!(!dead.reachable);
    assert_eq!(dead.address, cluster.client_address(follower), "known from before");
    let own = Request::ClusterStatus(v1::ClusterStatusRequest { local_only: true });
    let shown = answer!(ClusterStatus, unary(&channel, own).await.expect("it answers"));
    assert_eq!(shown.nodes.len(), 1);
}

#[tokio::test]
async fn any_node_may_be_asked_to_change_the_membership() {
    let cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let promote =
        Request::ClusterPromote(v1::ClusterPromoteRequest { node_id: 9, ..Default::default() });
    for asked in [leader, follower] {
        let failed = unary(&cluster.channel(asked), promote.clone()).await;
        let failure = Failure::from(failed.expect_err("nobody has that id"));
        let row = (Code::FailedPrecondition, reason::MEMBERSHIP_REFUSED, Some(Outcome::NotApplied));
        assert_eq!(failure.row(), row, "asked {asked}");
        assert!(failure.message.contains("tally cluster add 9"), "{}", failure.message);
    }
    let transfer = Request::ClusterTransferLeader(v1::ClusterTransferLeaderRequest {
        node_id: follower,
        preview: true,
    });
    let shown = unary(&cluster.channel(follower), transfer).await.expect("it is only shown");
    let shown = answer!(ClusterTransferLeader, shown);
    assert_eq!((shown.leader_id, shown.plan.expect("a plan").node_id), (leader, follower));
    let transfer = Request::ClusterTransferLeader(v1::ClusterTransferLeaderRequest {
        node_id: follower,
        preview: false,
    });
    let moved = unary(&cluster.channel(follower), transfer).await.expect("it is handed over");
    assert_eq!(answer!(ClusterTransferLeader, moved).leader_id, follower);
    unary(&cluster.channel(leader), add("a", 1)).await.expect("it is forwarded to the new leader");
}

/// Nobody leads: nothing was done, which the caller is told before its deadline.
#[tokio::test]
async fn without_a_quorum_a_change_of_the_membership_is_not_done() {
    let cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    cluster.isolate(follower);
    let other = (1..=3).find(|id| ![leader, follower].contains(id)).expect("three");
    let remove = Request::ClusterRemove(v1::ClusterRemoveRequest {
        node_id: other,
        accept_fewer_failures: true,
        ..Default::default()
    });
    tokio::time::sleep(3 * ELECTION_TIMEOUT_MAX).await;
    let failed = unary(&cluster.channel(follower), remove).await.expect_err("no leader");
    let row = (Code::Unavailable, reason::NO_QUORUM, Some(Outcome::NotApplied));
    assert_eq!(Failure::from(failed).row(), row);
}

/// A leader shows a change of the membership as soon as it is in its own log. Found by the simulator:
/// asked a second time, it answered that the change is done, and the next leader overruled it.
#[tokio::test]
async fn a_membership_that_no_quorum_has_is_not_confirmed() {
    let cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let channel = cluster.channel(leader);
    cluster.isolate(leader);
    let remove = Request::ClusterRemove(v1::ClusterRemoveRequest {
        node_id: follower,
        accept_fewer_failures: true,
        ..Default::default()
    });
    let soon = Asked { timeout: Some(Duration::from_millis(150)), ..Asked::default() };
    for _ in 0..3 {
        unary_asked(&channel, remove.clone(), &soon).await.expect_err("there is no quorum");
    }
    cluster.switchboard.mend();
    // What is committed is confirmed, as often as it is asked for.
    let until = Instant::now() + Duration::from_secs(20);
    let mut confirmed = 0;
    while confirmed < 2 {
        let channel = cluster.channel(cluster.leader().await);
        match unary(&channel, remove.clone()).await {
            Ok(_) => confirmed += 1,
            Err(status) => assert!(Instant::now() < until, "{status}"),
        }
    }
}

#[tokio::test]
async fn a_request_keeps_the_id_that_its_caller_gave_it() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(1);
    for (given, kept) in [("order 7", "order 7".to_owned()), (&"x".repeat(500), "x".repeat(128))] {
        let asked = Asked { request_id: given.to_owned(), ..Asked::default() };
        let one = unary_asked(&channel, get("none"), &asked).await.expect_err("nothing is there");
        let other =
            streamed_asked(&channel, get("none"), &asked).await.expect_err("nothing is there");
        for failure in [Failure::from(one), Failure::from(other)] {
            assert_eq!(failure.details.request_id.as_deref(), Some(kept.as_str()));
        }
    }
}
