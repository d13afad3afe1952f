//! The trace of a program that has OpenTelemetry: its span, the library's below it, and what goes to nodes.

use std::sync::{Arc, Mutex};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use tracing::Instrument as _;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::fake::{Act, Cluster};

/// Where a program's spans go.
#[derive(Clone, Debug, Default)]
struct Collector(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Collector {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

impl Collector {
    fn only(&self, name: &str) -> SpanData {
        let spans = self.0.lock().unwrap();
        let mut named = spans.iter().filter(|span| span.name == name);
        let only = named.next().unwrap_or_else(|| panic!("no span {name}: {spans:?}"));
        assert!(named.next().is_none(), "more than one span {name}: {spans:?}");
        only.clone()
    }
}

#[tokio::test]
async fn what_nodes_tell_is_below_the_span_of_the_call_which_is_below_the_callers() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    // Finds the leader, and opens the session: in nobody's trace.
    client.counter("warm/up").add(1).await.unwrap();
    let traceparents = || cluster.nodes[0].seen.lock().unwrap().traceparents.clone();
    assert_eq!(traceparents(), [""; 0]);

    let collector = Collector::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(collector.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("shop"));
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    // The answer to the first attempt is lost.
    cluster.script(0, [Act::ExecuteAndBreak]);
    let order = async { client.counter("stock").add(1).idempotency_key("order-1").await };
    order.instrument(tracing::info_span!("order")).await.expect("the second attempt");

    let (order, call) = (collector.only("order"), collector.only("tally.call"));
    let trace = order.span_context.trace_id();
    assert_eq!(call.span_context.trace_id(), trace);
    assert_eq!(call.parent_span_id, order.span_context.span_id());
    let expected = format!("00-{trace}-{}-01", call.span_context.span_id());
    assert_eq!(traceparents(), [expected.clone(), expected], "each attempt is below the call");
}
