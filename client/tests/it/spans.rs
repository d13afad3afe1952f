//! What `tracing` sees of calls.

use std::{
    collections::BTreeMap,
    fmt,
    future::IntoFuture as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::fake::{Act, Cluster};

/// Keeps the spans of calls, and counts what else happens inside them.
#[derive(Clone, Default)]
struct Seen(Arc<State>);

#[derive(Default)]
struct State {
    ids: AtomicU64,
    open: Mutex<BTreeMap<u64, Fields>>,
    closed: Mutex<Vec<Fields>>,
}

type Fields = BTreeMap<&'static str, String>;

struct Into<'a>(&'a mut Fields);

impl Visit for Into<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let before = self.0.insert(field.name(), format!("{value:?}").trim_matches('"').to_owned());
        assert_eq!(before, None, "{} was told twice", field.name());
    }
}

impl Subscriber for Seen {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "tally_client::call"
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        assert_eq!(span.metadata().name(), "tally.call");
        let mut fields = Fields::new();
        span.record(&mut Into(&mut fields));
        let id = self.0.ids.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.open.lock().unwrap().insert(id, fields);
        span::Id::from_u64(id)
    }

    fn record(&self, span: &span::Id, values: &span::Record<'_>) {
        let mut open = self.0.open.lock().unwrap();
        values.record(&mut Into(open.get_mut(&span.into_u64()).unwrap()));
    }

    fn clone_span(&self, id: &span::Id) -> span::Id {
        *self
            .0
            .open
            .lock()
            .unwrap()
            .get_mut(&id.into_u64())
            .unwrap()
            .entry("handles")
            .or_default() += "+";
        id.clone()
    }

    fn try_close(&self, id: span::Id) -> bool {
        let mut open = self.0.open.lock().unwrap();
        let handles = open.get_mut(&id.into_u64()).unwrap().entry("handles").or_default();
        if handles.pop().is_some() {
            return false;
        }
        let mut fields = open.remove(&id.into_u64()).unwrap();
        fields.remove("handles");
        self.0.closed.lock().unwrap().push(fields);
        true
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn each_call_is_one_span_that_says_who_was_asked_how_often_and_what_came_of_it() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client();
    // Finds the leader, and opens the session.
    client.counter("warm/up").add(1).await.unwrap();
    let seen = Seen::default();
    let _guard = tracing::subscriber::set_default(seen.clone());

    client.counter("secret/name").add(1).await.unwrap();
    cluster.script(0, [Act::ExecuteAndBreak]);
    client.counter("secret/name").add(1).idempotency_key("secret-key").await.unwrap();
    let refused = client.counter("secret/name").add(-5).floor(0).await;
    refused.expect_err("it is 2");
    let unknown = client.counter("secret/name").add(1).max_attempts(1);
    cluster.script(0, [Act::ExecuteAndBreak]);
    unknown.await.expect_err("the answer was lost");
    client.counter("nobody/here").get().await.expect_err("it does not exist");
    cluster.script(0, [Act::Silence]);
    let written = cluster.writes();
    let dropped = tokio::spawn(client.counter("secret/name").add(1).into_future());
    cluster.has_seen(written + 1).await;
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());

    assert!(seen.0.open.lock().unwrap().is_empty(), "each span has ended");
    let closed = seen.0.closed.lock().unwrap().clone();
    let told: Vec<_> = closed
        .iter()
        .map(|call| {
            (call["operation"].as_str(), call["attempts"].as_str(), call["outcome"].as_str())
        })
        .collect();
    assert_eq!(
        told,
        [
            ("counters_add", "1", "ok"),
            ("counters_add", "2", "ok"),
            ("counters_add", "1", "NOT_APPLIED"),
            ("counters_add", "1", "UNKNOWN"),
            ("counters_get", "1", "failed"),
            ("counters_add", "1", "dropped"),
        ]
    );
    let endpoints = cluster.endpoints();
    assert!(closed.iter().all(|call| endpoints.contains(&call["node"])), "{closed:?}");
    let all = format!("{closed:?}");
    for value in ["secret", "nobody"] {
        assert!(!all.contains(value), "{all}");
    }
}
