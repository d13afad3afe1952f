//! The processes of the servers, if they run on this machine: CPU time and memory.

use std::time::Duration;

use tally_client::{Client, NodeInfo};
use tokio::time::Instant;

use crate::{output::Failure, procs, tls::is_loopback};

/// Processes whose use of the machine is reported; none if they are elsewhere.
#[derive(Debug, Clone, Default)]
pub(super) struct Servers {
    pids: Vec<u32>,
}

/// What the servers used.
#[derive(Debug, Clone)]
pub(super) struct Usage {
    /// User and system time of all of them, as far as it was seen.
    pub(super) cpu: Duration,
    /// Resident memory of each, at most.
    pub(super) memory: Vec<u64>,
    /// Those that ended meanwhile.
    pub(super) gaps: Vec<Gap>,
}

/// A process that ended, and what that hides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(super) struct Gap {
    pub(super) pid: u32,
    /// When it was seen that it had ended: milliseconds into the measurement. What it used after the look
    /// before, and what runs in its place, is in no figure.
    pub(super) seen_after_ms: u64,
}

impl Servers {
    /// These, all of which run.
    pub(super) fn of(pids: &[u32]) -> Result<Self, Failure> {
        procs::cpu_time(pids).map_err(|error| Failure::usage(format!("--pids: {error}")))?;
        Ok(Self { pids: pids.to_vec() })
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

    /// From now on.
    pub(super) fn watch(self) -> Watched {
        let servers = self.pids.iter().map(|pid| Server {
            pid: *pid,
            before: procs::cpu_time(&[*pid]).ok(),
            latest: None,
            memory: 0,
            ended: None,
        });
        let mut watched = Watched { began: Instant::now(), servers: servers.collect() };
        watched.look();
        watched
    }
}

#[derive(Debug)]
struct Server {
    pid: u32,
    /// CPU time when it began, and when it was last seen.
    before: Option<Duration>,
    latest: Option<Duration>,
    memory: u64,
    ended: Option<Duration>,
}

/// Servers while they are measured. One that ends is a gap, and takes nothing else with it.
#[derive(Debug)]
pub(super) struct Watched {
    began: Instant,
    servers: Vec<Server>,
}

impl Watched {
    /// Takes note of what they use. To be called often: what one uses between the last look and its end
    /// nobody knows.
    pub(super) fn look(&mut self) {
        for server in self.servers.iter_mut().filter(|server| server.ended.is_none()) {
            match procs::cpu_time(&[server.pid]) {
                Ok(cpu) => server.latest = Some(cpu),
                Err(_) => server.ended = Some(self.began.elapsed()),
            }
            server.memory = server.memory.max(procs::memory(server.pid).unwrap_or_default());
        }
    }

    /// What they used, if there are any.
    pub(super) fn usage(&self) -> Option<Usage> {
        if self.servers.is_empty() {
            return None;
        }
        let used = |server: &Server| Some(server.latest?.saturating_sub(server.before?));
        let gap = |server: &Server| {
            let seen_after_ms = server.ended?.as_millis() as u64;
            Some(Gap { pid: server.pid, seen_after_ms })
        };
        Some(Usage {
            cpu: self.servers.iter().filter_map(used).sum(),
            memory: self.servers.iter().map(|server| server.memory).collect(),
            gaps: self.servers.iter().filter_map(gap).collect(),
        })
    }
}

/// The same id may be another process on this machine, so the address and the name count too.
fn is_here(node: &NodeInfo) -> bool {
    node.reachable && is_loopback(&node.address) && procs::is_node(node.pid)
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
        let usage = Servers::of(&[std::process::id()]).unwrap().watch().usage().unwrap();
        assert!(usage.memory[0] > 100_000 && usage.gaps.is_empty());
        assert!(Servers::of(&[u32::MAX]).is_err());
        assert!(Servers::default().watch().usage().is_none());
    }

    #[test]
    fn a_server_that_ends_is_a_gap_and_costs_no_figure() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        let mut watched = Servers::of(&[std::process::id(), pid]).unwrap().watch();
        child.kill().unwrap();
        child.wait().unwrap();
        watched.look();
        let usage = watched.usage().unwrap();
        assert_eq!(usage.gaps.iter().map(|gap| gap.pid).collect::<Vec<_>>(), [pid]);
        assert!(usage.memory[0] > 100_000, "{usage:?}");
        // The first sighting counts.
        watched.look();
        assert_eq!(watched.usage().unwrap().gaps, usage.gaps);
    }
}
