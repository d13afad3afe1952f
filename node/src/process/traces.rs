//! Spans on their way out of the process: in batches, to an OpenTelemetry collector, by OTLP over gRPC.
//!
//! A span is put into a bounded queue, from which a thread of its own sends some at a time; what does not fit is dropped,
//! so that a collector that is away holds up nobody. Ids come from one seed of the system's random numbers: they
//! have to differ from each other, and are no secrets.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor as _,
    },
};

use crate::{
    config::Config,
    env::traces::{Side, Span, Traces, Value},
};

/// Spans that wait to be sent; further ones are dropped. About a kilobyte each.
const QUEUE_MAX: usize = 8192;

/// How long spans gather.
const BATCH_INTERVAL: Duration = Duration::from_secs(1);

/// How long a stop waits for the last ones.
const LAST_WITHIN: Duration = Duration::from_secs(2);

/// Takes spans to a collector.
#[derive(Debug)]
pub struct Otlp {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
    /// Of 2^64 draws so many sample.
    threshold: u128,
    draws: AtomicU64,
}

impl Otlp {
    /// To the configured endpoint, within a runtime; nothing if there is none.
    pub fn start(config: &Config) -> Result<Option<Otlp>, String> {
        if config.traces_otlp_endpoint.is_empty() {
            return Ok(None);
        }
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&config.traces_otlp_endpoint)
            .build()
            .map_err(|error| format!("traces_otlp_endpoint: {error}"))?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_MAX)
            .with_scheduled_delay(BATCH_INTERVAL);
        let mut processor =
            BatchSpanProcessor::builder(exporter).with_batch_config(batches.build()).build();
        let resource = Resource::builder_empty().with_attributes([
            KeyValue::new("service.name", "tallyd"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", config.node_id.to_string()),
            KeyValue::new("service.namespace", config.cluster_name.clone()),
        ]);
        processor.set_resource(&resource.build());
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(|error| format!("no random numbers: {error}"))?;
        Ok(Some(Otlp {
            processor,
            scope: InstrumentationScope::builder("tallyd").build(),
            threshold: config.traces_sample_ratio.of_draws(),
            draws: AtomicU64::new(u64::from_le_bytes(seed)),
        }))
    }

    /// Sends what waits, and no more. It blocks.
    pub fn stop(&self) {
        // Who is not there gets no spans; nothing is lost that anybody was promised.
        let _ = self.processor.shutdown_with_timeout(LAST_WITHIN);
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): each draw is another number, of all 2^64.
    fn draw(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.draws.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Traces for Otlp {
    fn samples(&self) -> bool {
        u128::from(self.draw()) < self.threshold
    }

    fn new_id(&self) -> u64 {
        self.draw().max(1)
    }

    fn now_ns(&self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
    }

    fn take(&self, span: Span) {
        let Span { name, side, context, parent_id, began_ns, ended_ns, attributes, error } = span;
        let time = |ns| -> SystemTime { UNIX_EPOCH + Duration::from_nanos(ns) };
        let attribute = |(name, value): (&'static str, Value)| match value {
            Value::Number(number) => KeyValue::new(name, i64::try_from(number).unwrap_or(i64::MAX)),
            Value::Text(text) => KeyValue::new(name, text),
            Value::Name(text) => KeyValue::new(name, text),
        };
        self.processor.on_end(SpanData {
            span_context: SpanContext::new(
                TraceId::from(context.trace_id),
                SpanId::from(context.span_id),
                TraceFlags::SAMPLED,
                false,
                TraceState::default(),
            ),
            parent_span_id: SpanId::from(parent_id),
            parent_span_is_remote: side == Side::Server && parent_id != 0,
            span_kind: match side {
                Side::Internal => SpanKind::Internal,
                Side::Server => SpanKind::Server,
                Side::Client => SpanKind::Client,
            },
            name: name.into(),
            start_time: time(began_ns),
            end_time: time(ended_ns),
            attributes: attributes.into_iter().map(attribute).collect(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: error.map_or(Status::Unset, Status::error),
            instrumentation_scope: self.scope.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn otlp(ratio: &str) -> Otlp {
        let config = Config {
            traces_otlp_endpoint: "http://127.0.0.1:9".to_owned(),
            traces_sample_ratio: ratio.parse().unwrap(),
            ..Config::default()
        };
        Otlp::start(&config).unwrap().unwrap()
    }

    #[tokio::test]
    async fn about_as_many_are_sampled_as_are_to_be() {
        for (ratio, few, many) in [("0", 0, 0), ("1", 10_000, 10_000), ("0.1", 800, 1200)] {
            let otlp = otlp(ratio);
            let sampled = (0..10_000).filter(|_| otlp.samples()).count();
            assert!((few..=many).contains(&sampled), "{ratio}: {sampled}");
        }
        let otlp = otlp("1");
        let ids: std::collections::BTreeSet<u64> = (0..10_000).map(|_| otlp.new_id()).collect();
        assert!(ids.len() == 10_000 && !ids.contains(&0));
    }
}
