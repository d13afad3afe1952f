//! `tallyd health`: asks a node how it is, for a probe that has no other tool.
//!
//! A container image without a shell has nothing else to run as its health check. The question is
//! the standard one (`grpc.health.v1`), so that a probe which speaks gRPC needs no `tallyd`.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use tally_proto::v1::{self, cluster_client::ClusterClient};
use tonic::transport::Channel;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::ask::connect;
use crate::tls::{Asking, Trusted};

/// Flags of `tallyd health`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Client port of the node; where it listens on every interface, this machine's is asked.
    #[arg(long, env = "TALLY_CLIENT_LISTEN", default_value = "127.0.0.1:7401")]
    address: String,
    /// What to ask for: empty, whether the process answers; `tally.linearizable`, whether
    /// linearizable reads and writes work.
    #[arg(long, default_value = "")]
    service: String,
    /// Ask over TLS, and trust the CAs in this file (PEM) for the address that is asked.
    #[arg(long, env = "TALLY_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Ask over TLS, and trust this one certificate, the node's own (PEM), whatever it names: where the node is
    /// configured by the environment, its health check needs nothing else.
    #[arg(long, env = "TALLY_CLIENT_TLS_CERT_FILE", value_name = "FILE")]
    client_tls_cert_file: Option<PathBuf>,
    /// Show this certificate, with its chain (PEM).
    #[arg(long, env = "TALLY_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of --tls-cert (PEM).
    #[arg(long, env = "TALLY_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// How long to wait for the answer, in ms.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..))]
    timeout_ms: u64,
}

impl Arguments {
    fn tls(&self) -> Result<Option<Asking>, String> {
        let given =
            |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        let (ca, own) = (given(&self.tls_ca), given(&self.client_tls_cert_file));
        // The node's own certificate first: it needs no name for the address.
        let trusted = match (&own, &ca) {
            (Some(own), _) => Trusted::Own(own),
            (None, Some(ca)) => Trusted::Ca(ca),
            (None, None) => return Ok(None),
        };
        let shown = self.tls_cert.as_deref().zip(self.tls_key.as_deref());
        Asking::new(trusted, shown).map(Some)
    }
}

/// Asks once. Success means SERVING; everything else, no answer too, is a failure.
pub fn run(arguments: Arguments) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made while the process starts");
    match runtime.block_on(ask(arguments)) {
        Ok(Health { status: ServingStatus::Serving, .. }) => {
            say("SERVING");
            ExitCode::SUCCESS
        }
        Ok(Health { status, why }) => {
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            say(&format!("{}{why}", status.as_str_name()));
            ExitCode::FAILURE
        }
        Err(problem) => {
            eprintln!("tallyd health: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// For people. The exit code is the answer: a probe whose output nobody keeps must not restart a node.
fn say(status: &str) {
    let _ = writeln!(io::stdout(), "{status}");
}

struct Health {
    status: ServingStatus,
    /// What the node waits for, if it says so.
    why: Option<String>,
}

async fn ask(arguments: Arguments) -> Result<Health, String> {
    let address = reachable(&arguments.address);
    let tls = arguments.tls()?;
    let timeout = Duration::from_millis(arguments.timeout_ms);
    let answer = tokio::time::timeout(timeout, async {
        let channel = connect(&address, tls.as_ref()).await?;
        let request = HealthCheckRequest { service: arguments.service };
        let answer = HealthClient::new(channel.clone()).check(request).await;
        let answer = answer
            .map_err(|status| format!("{address}: {}: {}", status.code(), status.message()))?;
        let status = answer.into_inner().status();
        let why = match status {
            ServingStatus::NotServing => why_not(channel).await,
            _ => None,
        };
        Ok(Health { status, why })
    });
    match answer.await {
        Ok(answer) => answer,
        Err(_) => Err(format!("{address}: no answer within {} ms", timeout.as_millis())),
    }
}

/// What a node that does not serve says to a call, if it says something: gRPC's health has no room for it.
async fn why_not(channel: Channel) -> Option<String> {
    let request = v1::ClusterStatusRequest { local_only: true };
    let refused = ClusterClient::new(channel).status(request).await.err()?;
    Some(refused.message().to_owned())
}

/// A node that listens on every interface is asked on the loopback one.
fn reachable(listen: &str) -> String {
    match listen.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => listen.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::reachable;

    #[test]
    fn every_interface_means_the_loopback_one() {
        assert_eq!(reachable("0.0.0.0:7401"), "127.0.0.1:7401");
        assert_eq!(reachable("[::]:7401"), "[::1]:7401");
        assert_eq!(reachable("node1:7401"), "node1:7401");
    }
}
