//! etcd, over its v3 gRPC API. It has no counters: an add reads the number and puts the next one in
//! a transaction that compares the revision, again and again until it wins. A transfer does so with two.

use bytes::Bytes;
use futures_util::future::try_join_all;
use prost::Message;
use tally_client::ReadLevel;
use tonic::{client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};

use super::etcd_api::{
    Compare, CompareTarget, Compared, PutRequest, PutResponse, RangeRequest, RangeResponse,
    Request, RequestOp, TxnRequest, TxnResponse,
};
use crate::{
    args::Common,
    bench::{
        args::Bench,
        workload::{Step, account, counter, hot, key},
    },
    load::Failed,
    output::Failure,
    tls::Secrets,
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
    pub(crate) async fn connect(common: &Common, bench: &Bench) -> Result<Self, Failure> {
        // With authentication on, etcd knows a caller by the common name of its certificate.
        let secrets = Secrets::read(&common.tls, &common.endpoints)?;
        let mut channels = Vec::new();
        for at in common.endpoints.iter().cycle().take(bench.connections as usize) {
            let endpoint = secrets.endpoint(at);
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
            Step::AddHot => add(channel, &[(hot(), 1)]).await,
            Step::Add(item) => add(channel, &[(counter(item), 1)]).await,
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
            Step::Transfer(from, to) => {
                add(channel, &[(account(from), -1), (account(to), 1)]).await
            }
        }
    }
}

/// The revision at which a key was last changed, and the number in it. One that does not exist was
/// changed at revision 0.
async fn read_number(channel: &Channel, name: &str) -> Result<(i64, i64), Failed> {
    let range = RangeRequest { key: name.as_bytes().to_vec(), serializable: false };
    let found: RangeResponse = call(channel, RANGE, range).await?;
    let Some(stored) = found.kvs.first() else { return Ok((0, 0)) };
    let text = std::str::from_utf8(&stored.value).ok();
    let number = text.and_then(|text| text.parse().ok());
    Ok((stored.mod_revision, number.ok_or_else(|| Failed::because("NOT_A_NUMBER"))?))
}

/// Adds to all of these, or to none.
async fn add(channel: &Channel, amounts: &[(String, i64)]) -> Result<(), Failed> {
    for _ in 0..ROUNDS_MAX {
        let reads = amounts.iter().map(|(name, _)| read_number(channel, name));
        let found = try_join_all(reads).await?;
        let mut transaction = TxnRequest { compare: Vec::new(), success: Vec::new() };
        for ((name, amount), (revision, number)) in amounts.iter().zip(found) {
            let name = name.clone().into_bytes();
            transaction.compare.push(Compare {
                target: CompareTarget::Mod as i32,
                key: name.clone(),
                compared: Some(Compared::ModRevision(revision)),
            });
            let put = PutRequest { key: name, value: (number + amount).to_string().into() };
            transaction.success.push(RequestOp { request: Some(Request::Put(put)) });
        }
        let decided: TxnResponse = call(channel, TXN, transaction).await?;
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
