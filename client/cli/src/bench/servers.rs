//! The processes of the servers, if they run on this machine: CPU time and memory.

use std::{net::IpAddr, time::Duration};

use tally_client::{Client, NodeInfo};

use crate::{output::Failure, procs};

/// Processes whose use of the machine is reported; none if they are elsewhere.
#[derive(Debug, Clone, Default)]
pub(super) struct Servers {
    pids: Vec<u32>,
}

/// What the servers used.
#[derive(Debug, Clone)]
pub(super) struct Usage {
    /// User and system time of all of them.
    pub(super) cpu: Duration,
    /// Resident memory of each, at most.
    pub(super) memory: Vec<u64>,
}

impl Usage {
    pub(super) fn since(mut self, before: &Self) -> Self {
        self.cpu = self.cpu.saturating_sub(before.cpu);
        self
    }

    pub(super) fn with_memory(mut self, memory: Vec<u64>) -> Self {
        self.memory = memory;
        self
    }
}

impl Servers {
    pub(super) fn of(pids: &[u32]) -> Self {
        Self { pids: pids.to_vec() }
    }

    /// The nodes of a cluster, if all of them run here.
    pub(super) async fn local_nodes(client: &Client) -> Self {
        let Ok(status) = client.status().await else { return Self::default() };
        if status.nodes.iter().all(is_here) {
            Self { pids: status.nodes.iter().map(|node| node.pid).collect() }
        } else {
            Self::default()
        }
    }

    pub(super) fn usage(&self) -> Result<Option<Usage>, Failure> {
        if self.pids.is_empty() {
            return Ok(None);
        }
        let cpu = procs::cpu_time(&self.pids);
        let cpu = cpu.map_err(|error| Failure::usage(format!("--pids: {error}")))?;
        Ok(Some(Usage { cpu, memory: Vec::new() }))
    }

    /// Resident memory of each, in bytes. One that has ended has none.
    pub(super) fn memory(&self) -> Vec<u64> {
        self.pids.iter().map(|pid| procs::memory(*pid).unwrap_or_default()).collect()
    }
}

/// The same id may be another process on this machine, so the address and the name count too.
fn is_here(node: &NodeInfo) -> bool {
    let host = node.address.rsplit_once(':').map_or("", |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback =
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    node.reachable && is_loopback && procs::is_node(node.pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_this_machine_that_is_no_node_is_not_counted() {
        let node = NodeInfo {
            address: "127.0.0.1:7401".to_owned(),
            reachable: true,
            pid: std::process::id(),
            ..Default::default()
        };
        assert!(!is_here(&node));
    }

    #[test]
    fn this_process_has_memory_and_time() {
        let servers = Servers::of(&[std::process::id()]);
        assert!(servers.memory()[0] > 100_000);
        assert!(matches!(servers.usage(), Ok(Some(_))));
        assert!(Servers::of(&[u32::MAX]).usage().is_err());
        assert!(matches!(Servers::default().usage(), Ok(None)));
    }
}
