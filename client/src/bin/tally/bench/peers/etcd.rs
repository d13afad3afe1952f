//! etcd, over its v3 gRPC API. It has no counters: an add reads the number and puts the next one in
//! a transaction that compares the revision, again and again until it wins.

use bytes::Bytes;
use prost::Message;
use tally_client::ReadLevel;
use tonic::{
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};

use super::etcd_api::{
    Compare, CompareTarget, Compared, PutRequest, PutResponse, RangeRequest, RangeResponse,
    Request, RequestOp, TxnRequest, TxnResponse,
};
use crate::{
    args::Bench,
    bench::{
        target::Failed,
        workload::{Step, counter, hot, key},
    },
    output::Failure,
};

const RANGE: PathAndQuery = PathAndQuery::from_static("/etcdserverpb.KV/Range");
const PUT: PathAndQuery = PathAndQuery::from_static("/etcdserverpb.KV/Put");
const TXN: PathAndQuery = PathAndQuery::from_static("/etcdserverpb.KV/Txn");

/// Rounds of one add before it is given up. With as many callers as a counter has here, some are
/// unlucky for long.
const ROUNDS_MAX: u32 = 100_000;

pub(crate) struct Target {
    /// Connections, to one endpoint after the other.
    channels: Vec<Channel>,
    value: Bytes,
    serializable: bool,
}

impl Target {
    pub(crate) async fn connect(endpoints: &[String], bench: &Bench) -> Result<Self, Failure> {
        let mut channels = Vec::new();
        for at in endpoints.iter().cycle().take(bench.connections as usize) {
            let endpoint = Endpoint::from_shared(format!("http://{at}"));
            let endpoint = endpoint.map_err(|error| Failure::usage(format!("{at}: {error}")))?;
            // As our own client does, so that both send alike.
            let channel = tally_client::connect(endpoint).await;
            channels.push(channel.map_err(|error| Failure::unable(format!("{at}: {error}")))?);
        }
        // Both read what the asked node has; etcd has nothing between that and linearizable.
        let serializable = bench.read.read != ReadLevel::Linearizable;
        Ok(Self { channels, value: vec![b'v'; bench.value_size].into(), serializable })
    }

    pub(crate) async fn perform(&self, caller: usize, step: Step) -> Result<(), Failed> {
        let channel = &self.channels[caller % self.channels.len()];
        match step {
            Step::AddHot => add(channel, hot()).await,
            Step::Add(item) => add(channel, counter(item)).await,
            Step::Put(item) => {
                let put = PutRequest { key: key(item).into_bytes(), value: self.value.clone() };
                call::<_, PutResponse>(channel, PUT, put).await.map(drop)
            }
            Step::Get(item) => {
                let serializable = self.serializable;
                let range = RangeRequest { key: key(item).into_bytes(), serializable };
                let found: RangeResponse = call(channel, RANGE, range).await?;
                if found.kvs.is_empty() {
                    return Err(Failed { reason: "KEY_NOT_FOUND".to_owned(), unknown: false });
                }
                Ok(())
            }
            Step::Transfer(..) => Err(Failed::unsupported()),
        }
    }
}

async fn add(channel: &Channel, name: String) -> Result<(), Failed> {
    let name = name.into_bytes();
    for _ in 0..ROUNDS_MAX {
        let range = RangeRequest { key: name.clone(), serializable: false };
        let found: RangeResponse = call(channel, RANGE, range).await?;
        // A key that does not exist was last changed at revision 0.
        let (revision, number) = match found.kvs.first() {
            None => (0, 0),
            Some(stored) => {
                let text = std::str::from_utf8(&stored.value).ok();
                let number = text.and_then(|text| text.parse::<i64>().ok());
                (stored.mod_revision, number.ok_or_else(|| Failed::because("NOT_A_NUMBER"))?)
            }
        };
        let put = PutRequest { key: name.clone(), value: (number + 1).to_string().into() };
        let compare = Compare {
            target: CompareTarget::Mod as i32,
            key: name.clone(),
            compared: Some(Compared::ModRevision(revision)),
        };
        let txn = TxnRequest {
            compare: vec![compare],
            success: vec![RequestOp { request: Some(Request::Put(put)) }],
        };
        let decided: TxnResponse = call(channel, TXN, txn).await?;
        if decided.succeeded {
            return Ok(());
        }
    }
    Err(Failed { reason: "NEVER_WON".to_owned(), unknown: false })
}

async fn call<Q, A>(channel: &Channel, path: PathAndQuery, request: Q) -> Result<A, Failed>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Failed::because(error.to_string()))?;
    let codec = tonic_prost::ProstCodec::default();
    Ok(grpc.unary(tonic::Request::new(request), path, codec).await?.into_inner())
}
