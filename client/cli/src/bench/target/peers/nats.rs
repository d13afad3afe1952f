//! NATS JetStream: counters of a stream with `allow_msg_counter`, and its key-value store; both with
//! three replicas.

use async_nats::{
    Client, HeaderMap,
    jetstream::{
        self, Context,
        kv::Store,
        stream::{Config, StorageType},
    },
};
use bytes::Bytes;

use crate::{
    bench::{
        args::Bench,
        workload::{Step, counter, hot, key},
    },
    load::Failed,
    output::Failure,
};

const REPLICAS: usize = 3;
const COUNTERS: &str = "BENCH_COUNTERS";
/// Subjects of the counters; each is a counter of its own.
const SUBJECTS: &str = "bench-counters";
const KEYS: &str = "bench_keys";
/// The header of a message that adds to a counter.
const INCREMENT: &str = "Nats-Incr";

struct Connection {
    context: Context,
    keys: Store,
}

pub(crate) struct Target {
    /// Connections, to one endpoint after the other.
    connections: Vec<Connection>,
    value: Bytes,
}

impl Target {
    pub(crate) async fn connect(endpoints: &[String], bench: &Bench) -> Result<Self, Failure> {
        let unable =
            |what: &str, error: &dyn std::fmt::Display| Failure::unable(format!("{what}: {error}"));
        let mut connections = Vec::new();
        for at in endpoints.iter().cycle().take(bench.connections as usize) {
            let client: Client =
                async_nats::connect(at.as_str()).await.map_err(|error| unable(at, &error))?;
            let context = jetstream::new(client);
            let counters = Config {
                name: COUNTERS.to_owned(),
                subjects: vec![format!("{SUBJECTS}.>")],
                num_replicas: REPLICAS,
                storage: StorageType::File,
                allow_message_counter: true,
                allow_direct: true,
                // The newest message of a subject has the counter's value; older ones are history.
                max_messages_per_subject: 1,
                ..Default::default()
            };
            let made = context.get_or_create_stream(counters).await;
            made.map_err(|error| unable("the stream of the counters", &error))?;
            let keys = jetstream::kv::Config {
                bucket: KEYS.to_owned(),
                history: 1,
                num_replicas: REPLICAS,
                storage: StorageType::File,
                ..Default::default()
            };
            let keys = match context.get_key_value(KEYS).await {
                Ok(keys) => keys,
                Err(_) => {
                    let made = context.create_key_value(keys).await;
                    made.map_err(|error| unable("the bucket of the keys", &error))?
                }
            };
            connections.push(Connection { context, keys });
        }
        Ok(Self { connections, value: vec![b'v'; bench.value_size].into() })
    }

    pub(crate) async fn perform(&self, caller: usize, step: Step) -> Result<(), Failed> {
        let Connection { context, keys } = &self.connections[caller % self.connections.len()];
        match step {
            Step::AddHot => add(context, &hot()).await,
            Step::Add(item) => add(context, &counter(item)).await,
            Step::Put(item) => {
                let put = keys.put(key(item), self.value.clone()).await;
                put.map(drop).map_err(|error| Failed::because(error.to_string()))
            }
            Step::Get(item) => match keys.get(key(item)).await {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err(Failed { reason: "KEY_NOT_FOUND".to_owned(), unknown: false }),
                Err(error) => Err(Failed::because(error.to_string())),
            },
            Step::Transfer(..) => Err(Failed::unsupported()),
        }
    }
}

async fn add(context: &Context, name: &str) -> Result<(), Failed> {
    let mut headers = HeaderMap::new();
    headers.insert(INCREMENT, "+1");
    let subject = format!("{SUBJECTS}.{}", name.replace('/', "."));
    let sent = context.publish_with_headers(subject, headers, Bytes::new()).await;
    let acknowledged = sent.map_err(|error| Failed::because(error.to_string()))?.await;
    acknowledged.map(drop).map_err(|error| Failed::because(error.to_string()))
}
