//! Whom the load goes to. Each system is called as its users would call it: through its own client
//! library where there is one.

mod echo;
#[cfg(feature = "peers")]
mod peers;

use std::sync::Arc;

pub(crate) use self::echo::{OwnServer, serve as serve_echo};
use super::{tally, workload::Step};
use crate::{
    args::Common,
    bench::args::{Bench, TargetName},
    load::Failed,
    output::Failure,
};

#[cfg(feature = "peers")]
use self::peers::{etcd, nats, redis};

impl From<tonic::Status> for Failed {
    fn from(status: tonic::Status) -> Self {
        Self { reason: format!("{:?}", status.code()), unknown: true }
    }
}

/// A system, connected.
pub(crate) enum Target {
    Tally(Arc<tally::Target>),
    Echo(Arc<echo::Target>),
    #[cfg(feature = "peers")]
    Etcd(Arc<etcd::Target>),
    #[cfg(feature = "peers")]
    Redis(redis::Target),
    #[cfg(feature = "peers")]
    Nats(Arc<nats::Target>),
}

impl Target {
    /// What gRPC alone can do here.
    pub(super) fn echo(address: &str, bench: &Bench) -> Result<Self, Failure> {
        Ok(Self::Echo(Arc::new(echo::Target::connect(&[address.to_owned()], bench)?)))
    }

    pub(crate) async fn connect(common: &Common, bench: &Bench) -> Result<Self, Failure> {
        let endpoints = &common.endpoints;
        Ok(match bench.target {
            TargetName::Tally => {
                Self::Tally(Arc::new(tally::Target::connect(common, bench).await?))
            }
            TargetName::Echo => Self::Echo(Arc::new(echo::Target::connect(endpoints, bench)?)),
            #[cfg(feature = "peers")]
            TargetName::Etcd => Self::Etcd(Arc::new(etcd::Target::connect(common, bench).await?)),
            #[cfg(feature = "peers")]
            TargetName::Redis => Self::Redis(redis::Target::new(endpoints, bench)?),
            #[cfg(feature = "peers")]
            TargetName::Nats => {
                Self::Nats(Arc::new(nats::Target::connect(endpoints, bench).await?))
            }
        })
    }

    /// Writes what the workload reads or takes from.
    pub(crate) async fn prepare(&self, bench: &Bench) -> Result<(), Failure> {
        if bench.no_prepare {
            return Ok(());
        }
        match self {
            Self::Tally(target) => target.prepare(bench).await,
            Self::Echo(_) => Ok(()),
            #[cfg(feature = "peers")]
            _ => peers::prepare(self, bench).await,
        }
    }

    pub(crate) async fn caller(&self, index: usize) -> Result<Caller, Failure> {
        Ok(match self {
            Self::Tally(target) => Caller::Tally(target.clone(), index),
            Self::Echo(target) => Caller::Echo(target.caller(index).await?),
            #[cfg(feature = "peers")]
            Self::Etcd(target) => Caller::Etcd(target.clone(), index),
            #[cfg(feature = "peers")]
            Self::Redis(target) => Caller::Redis(target.caller().await?),
            #[cfg(feature = "peers")]
            Self::Nats(target) => Caller::Nats(target.clone(), index),
        })
    }

    /// The client of Tally, if that is the target.
    pub(crate) fn tally(&self) -> Option<&tally::Target> {
        match self {
            Self::Tally(target) => Some(target),
            _ => None,
        }
    }
}

/// What one caller calls through. Clones share its connection.
#[derive(Clone)]
pub(crate) enum Caller {
    Tally(Arc<tally::Target>, usize),
    Echo(echo::Caller),
    #[cfg(feature = "peers")]
    Etcd(Arc<etcd::Target>, usize),
    #[cfg(feature = "peers")]
    Redis(redis::Caller),
    #[cfg(feature = "peers")]
    Nats(Arc<nats::Target>, usize),
}

impl Caller {
    /// Does one step. A history calls `lane` the client: above 0, and one user of one client library.
    pub(crate) async fn perform(&self, lane: u64, step: Step) -> Result<(), Failed> {
        match self {
            Self::Tally(target, index) => {
                target.perform(*index, lane, step).await.map_err(|error| Failed::from(&error))
            }
            Self::Echo(caller) => caller.perform(step).await,
            #[cfg(feature = "peers")]
            Self::Etcd(target, index) => target.perform(*index, step).await,
            #[cfg(feature = "peers")]
            Self::Redis(caller) => caller.perform(step).await,
            #[cfg(feature = "peers")]
            Self::Nats(target, index) => target.perform(*index, step).await,
        }
    }
}
