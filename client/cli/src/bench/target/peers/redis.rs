//! Redis. A write is followed by WAIT 1 on the same connection: it is answered when one replica has
//! received it too. That is no consensus, and the replica's own sync is not waited for.

use std::time::Duration;

use bytes::Bytes;
use redis::{AsyncConnectionConfig, Client, Pipeline, RedisError, aio::MultiplexedConnection};

use crate::{
    bench::{
        args::Bench,
        workload::{Step, account, counter, hot, key},
    },
    load::Failed,
    output::Failure,
};

/// Replicas that must have a write.
const REPLICAS: u64 = 1;
/// WAIT gives up after this, in ms.
const WAIT_MS: u64 = 10_000;
/// An answer that takes longer never comes.
const TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) struct Target {
    client: Client,
    value: Bytes,
    wait: bool,
}

impl Target {
    /// The first endpoint is the primary.
    pub(crate) fn new(endpoints: &[String], bench: &Bench) -> Result<Self, Failure> {
        let at = endpoints.first().map(String::as_str).unwrap_or_default();
        let client = Client::open(format!("redis://{at}/"));
        let client = client.map_err(|error| Failure::usage(format!("{at}: {error}")))?;
        let value = vec![b'v'; bench.value_size].into();
        Ok(Self { client, value, wait: !bench.no_wait })
    }

    /// A connection of the caller's own: WAIT is about the writes of its connection.
    pub(crate) async fn caller(&self) -> Result<Caller, Failure> {
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(TIMEOUT));
        let connection = self.client.get_multiplexed_async_connection_with_config(&config).await;
        let connection = connection.map_err(|error| Failure::unable(error.to_string()))?;
        Ok(Caller { connection, value: self.value.clone(), wait: self.wait })
    }
}

#[derive(Clone)]
pub(crate) struct Caller {
    connection: MultiplexedConnection,
    value: Bytes,
    wait: bool,
}

impl Caller {
    pub(crate) async fn perform(&self, step: Step) -> Result<(), Failed> {
        let mut pipeline = redis::pipe();
        match step {
            Step::AddHot => pipeline.cmd("INCR").arg(hot()).ignore(),
            Step::Add(item) => pipeline.cmd("INCR").arg(counter(item)).ignore(),
            Step::Put(item) => pipeline.cmd("SET").arg(key(item)).arg(&self.value[..]).ignore(),
            Step::Transfer(from, to) => pipeline
                .atomic()
                .cmd("DECR")
                .arg(account(from))
                .ignore()
                .cmd("INCR")
                .arg(account(to))
                .ignore(),
            Step::Get(item) => return self.get(key(item)).await,
        };
        self.write(pipeline).await
    }

    async fn get(&self, key: String) -> Result<(), Failed> {
        let mut connection = self.connection.clone();
        let found: Option<Vec<u8>> =
            redis::cmd("GET").arg(key).query_async(&mut connection).await.map_err(failed)?;
        match found {
            Some(_) => Ok(()),
            None => Err(Failed { reason: "KEY_NOT_FOUND".to_owned(), unknown: false }),
        }
    }

    async fn write(&self, mut pipeline: Pipeline) -> Result<(), Failed> {
        let mut connection = self.connection.clone();
        if !self.wait {
            return pipeline.query_async(&mut connection).await.map_err(failed);
        }
        pipeline.cmd("WAIT").arg(REPLICAS).arg(WAIT_MS);
        let (replicas,): (u64,) = pipeline.query_async(&mut connection).await.map_err(failed)?;
        if replicas < REPLICAS { Err(Failed::because("NOT_REPLICATED")) } else { Ok(()) }
    }
}

fn failed(error: RedisError) -> Failed {
    Failed::because(format!("{:?}", error.kind()))
}
