//! One trace across the nodes, as a collector gets it: real processes, and a receiver of OTLP in this one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use tally_proto::v1::{
    Call, CountersAddRequest, CountersGetRequest, StreamExchangeRequest, call,
    counters_client::CountersClient, stream_client::StreamClient,
};
use tonic::{Request, Response, Status, transport::Server};

use crate::support::{eventually, nodes::Cluster};

/// What came: the node, and its span.
#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<Vec<(String, Span)>>>);

fn text(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_node in request.into_inner().resource_spans {
            let attributes = of_node.resource.map(|it| it.attributes).unwrap_or_default();
            assert_eq!(text(&attributes, "service.name").as_deref(), Some("tallyd"));
            let node = text(&attributes, "service.instance.id").expect("the node's id");
            let spans = of_node.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().unwrap().extend(spans.map(|span| (node.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Receiver {
    async fn listen() -> (Receiver, String) {
        let receiver = Receiver::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let service = TraceServiceServer::new(receiver.clone());
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        (receiver, endpoint)
    }

    /// The spans of one trace.
    fn of(&self, trace: u128) -> Vec<(String, Span)> {
        let all = self.0.lock().unwrap();
        all.iter().filter(|(_, span)| span.trace_id == trace.to_be_bytes()).cloned().collect()
    }
}

/// Which nodes told of each kind of span.
fn nodes_of(spans: &[(String, Span)]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut nodes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (node, span) in spans {
        nodes.entry(&span.name).or_default().insert(node);
    }
    nodes
}

const CALLER: u64 = 0x00f0_67aa_0ba9_02b7;

fn traceparent(trace: u128, flags: u8) -> String {
    format!("00-{trace:032x}-{CALLER:016x}-{flags:02x}")
}

fn add(name: &str) -> CountersAddRequest {
    CountersAddRequest { name: name.to_owned(), delta: 1, ..CountersAddRequest::default() }
}

/// Waits until all of a write's spans are there: so many nodes append and apply.
async fn whole(receiver: &Receiver, trace: u128, method: &str) -> Vec<(String, Span)> {
    eventually("a whole trace", || async {
        let spans = receiver.of(trace);
        let nodes = nodes_of(&spans);
        let has = |name: &str, count| nodes.get(name).is_some_and(|of| of.len() == count);
        (has("append", 3) && has("apply", 3) && has("queue", 1) && has(method, 1)).then_some(spans)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_one_trace_across_caller_receiver_leader_and_followers() {
    let (receiver, endpoint) = Receiver::listen().await;
    let flags = ["--traces-otlp-endpoint", &endpoint, "--traces-sample-ratio", "0"];
    let cluster = Cluster::started("traces", 3, &flags).await;
    cluster.caught_up().await;
    let (leader, _) = cluster.leader().await;
    let follower = cluster.nodes.iter().find(|node| node.id != leader).unwrap();
    let (leader_text, follower_text) = (leader.to_string(), follower.id.to_string());

    // A unary call at a follower, which forwards it.
    let mut client = CountersClient::connect(format!("http://{}", follower.client)).await.unwrap();
    let forwarded = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
    let mut request = Request::new(add("planted-name"));
    request.metadata_mut().insert("traceparent", traceparent(forwarded, 1).parse().unwrap());
    client.add(request).await.unwrap();
    let spans = whole(&receiver, forwarded, "CountersAdd").await;
    let by_name = |name: &str| spans.iter().find(|(_, span)| span.name == name).unwrap();
    let (node, server) = by_name("CountersAdd");
    assert_eq!((node, &*server.parent_span_id), (&follower_text, &CALLER.to_be_bytes()[..]));
    assert_eq!(text(&server.attributes, "rpc.grpc.status_code").as_deref(), Some("0"));
    let (node, at_leader) = by_name("forwarded write");
    assert_eq!((node, &at_leader.parent_span_id), (&leader_text, &server.span_id));
    for (_, span) in &spans {
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
        if ["queue", "append", "apply"].contains(&&*span.name) {
            assert_eq!(span.parent_span_id, at_leader.span_id, "{}", span.name);
        }
        assert!(!format!("{span:?}").contains("planted-name"), "items are not named: {span:?}");
    }
    let ids: BTreeSet<_> = spans.iter().map(|(_, span)| &span.span_id).collect();
    assert_eq!(ids.len(), spans.len(), "each span has an id of its own");

    // A call of a stream at the leader, the short way.
    let at_leader = &cluster.nodes.iter().find(|node| node.id == leader).unwrap().client;
    let mut client = StreamClient::connect(format!("http://{at_leader}")).await.unwrap();
    let (direct, asked_not_to) = (0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 77);
    let call = |id, traceparent: String, request| Call {
        id,
        traceparent,
        request: Some(request),
        ..Call::default()
    };
    let get = CountersGetRequest { name: "planted-name".to_owned(), read: None };
    let calls = vec![
        call(1, traceparent(direct, 1), call::Request::CountersAdd(add("planted-name"))),
        call(2, traceparent(asked_not_to, 0), call::Request::CountersAdd(add("planted-name"))),
        call(3, String::new(), call::Request::CountersAdd(add("planted-name"))),
        call(4, traceparent(direct, 1), call::Request::CountersGet(get)),
    ];
    let packs = tokio_stream::once(StreamExchangeRequest { calls });
    let mut answers = client.exchange(packs).await.unwrap().into_inner();
    let mut answered = 0;
    while let Some(pack) = answers.message().await.unwrap() {
        answered += pack.answers.len();
    }
    assert_eq!(answered, 4);
    let spans = whole(&receiver, direct, "CountersGet").await;
    let (node, server) = spans.iter().find(|(_, span)| span.name == "CountersAdd").unwrap();
    assert_eq!((node, &*server.parent_span_id), (&leader_text, &CALLER.to_be_bytes()[..]));
    assert_eq!(text(&server.attributes, "tally.transport").as_deref(), Some("stream"));
    assert!(spans.iter().all(|(_, span)| span.name != "forwarded write"));
    assert!(receiver.of(asked_not_to).is_empty(), "its caller did not want it");
    let traces: BTreeSet<_> =
        receiver.0.lock().unwrap().iter().map(|(_, span)| span.trace_id.clone()).collect();
    assert_eq!(traces.len(), 2, "with a ratio of 0 only callers decide");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_callers_chance_decides_and_a_stop_sends_the_last_spans() {
    let (receiver, endpoint) = Receiver::listen().await;
    let flags = ["--traces-otlp-endpoint", &endpoint, "--traces-sample-ratio", "1"];
    let mut cluster = Cluster::started("traces-all", 1, &flags).await;
    let client = cluster.client();
    client.counter("hits").add(1).await.unwrap();
    cluster.node(1).signal(rustix::process::Signal::TERM);
    cluster.node(1).wait_ended().await;
    let spans = receiver.0.lock().unwrap().clone();
    let (_, add) = spans.iter().find(|(_, span)| span.name == "CountersAdd").expect("it came");
    assert!(add.parent_span_id.is_empty(), "it is the first of its trace");
    let below: Vec<_> = spans.iter().filter(|(_, it)| it.parent_span_id == add.span_id).collect();
    let names: BTreeSet<_> = below.iter().map(|(_, span)| &*span.name).collect();
    assert_eq!(names, BTreeSet::from(["queue", "append", "apply"]));
}
