//! The nodes: real processes, each `tallyd serve`, in a directory that goes when the lab ends.

use std::{
    fs::File,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions},
};
use serde::Serialize;
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    time::Instant,
};

use crate::{
    links::{CLIENTS, Links, lock},
    proxy::{self, Way},
};

/// Slower than a node's defaults, so that a person sees an election happen, and a busy laptop causes none.
const HEARTBEAT_MS: u64 = 100;
const ELECTION_TIMEOUT_MS_MIN: u64 = 500;
const ELECTION_TIMEOUT_MS_MAX: u64 = 900;

/// What a small cluster on a laptop needs of memory and disk, where the defaults are for a server.
const SMALL: [&str; 8] = [
    "--log-segment-bytes=8388608",
    "--log-cache-bytes=4194304",
    "--dirty-bytes-max=4194304",
    "--state-cache-bytes=8388608",
    "--metrics-listen=",
    "--worker-threads=1",
    "--shutdown-grace-ms=500",
    "--slow-operation-ms=0",
];

/// How long the nodes have to stop by themselves.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Names of the directories: the lab's process id is behind it.
const DIRECTORY_PREFIX: &str = "tally-lab-";

/// What a node's process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Process {
    /// It runs.
    Running,
    /// It is stopped in the middle of whatever it did (SIGSTOP).
    Paused,
    /// It was killed, or has ended.
    Dead,
}

struct Node {
    child: Option<Child>,
    pid: Option<u32>,
    is_paused: bool,
    wrong: Wrong,
}

/// What is wrong with a node's machine: the node reads it from a file (`test_faults_file`), so it strikes a process that
/// runs, and stays when that is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Wrong {
    /// So far its wall clock is ahead; negative: behind.
    pub(crate) clock_offset_ms: i64,
    /// Nothing is free on its disk.
    pub(crate) disk_full: bool,
}

/// Where a node is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    /// The client port itself: for looking on, beside all faults.
    pub(crate) client: SocketAddr,
    /// The client port behind the link between clients and it.
    pub(crate) client_via: SocketAddr,
    peer: SocketAddr,
}

/// All nodes.
pub(crate) struct Nodes {
    program: PathBuf,
    directory: PathBuf,
    addresses: Vec<Addresses>,
    /// Of each node: by which addresses it reaches the others.
    peer_via: Vec<String>,
    nodes: Mutex<Vec<Node>>,
}

impl Nodes {
    /// Opens all proxies and starts all nodes.
    pub(crate) async fn start(count: u64, links: &Arc<Links>, tallyd: &Path) -> io::Result<Nodes> {
        let directory = make_directory()?;
        let mut addresses = Vec::new();
        let (held, free) = free_ports(count).await?;
        for (to, (client, peer)) in (1..).zip(free) {
            let links = Arc::clone(links);
            let client_via = proxy::open(Way { links, from: CLIENTS, to, target: client }).await?;
            addresses.push(Addresses { client, client_via, peer });
        }
        let mut peer_via = Vec::new();
        for from in 1..=count {
            let mut ways = Vec::new();
            for (to, there) in (1..).zip(&addresses).filter(|(to, _)| *to != from) {
                let way = Way { links: Arc::clone(links), from, to, target: there.peer };
                ways.push(format!("{to}={}", proxy::open(way).await?));
            }
            peer_via.push(ways.join(","));
        }
        // Not before: a proxy that got the port of the node it leads to would carry to itself, without an end.
        drop(held);
        let wrong = Wrong::default();
        let nodes = (0..count).map(|_| Node { child: None, pid: None, is_paused: false, wrong });
        let nodes = Nodes {
            program: tallyd.to_owned(),
            directory,
            addresses,
            peer_via,
            nodes: Mutex::new(nodes.collect()),
        };
        for id in nodes.ids() {
            nodes.start_one(id)?;
        }
        Ok(nodes)
    }

    pub(crate) fn ids(&self) -> std::ops::RangeInclusive<u64> {
        1..=self.addresses.len() as u64
    }

    pub(crate) fn count(&self) -> u64 {
        self.addresses.len() as u64
    }

    pub(crate) fn has(&self, id: u64) -> bool {
        self.ids().contains(&id)
    }

    pub(crate) fn addresses(&self, id: u64) -> Addresses {
        self.addresses[slot(id)]
    }

    pub(crate) fn log_path(&self, id: u64) -> PathBuf {
        self.directory.join(format!("node-{id}.log"))
    }

    fn faults_path(&self, id: u64) -> PathBuf {
        self.directory.join(format!("node-{id}.faults"))
    }

    pub(crate) fn wrong(&self, id: u64) -> Wrong {
        lock(&self.nodes)[slot(id)].wrong
    }

    /// Makes a node's machine wrong in these ways. The node notices within a tenth of a second.
    pub(crate) fn set_wrong(&self, id: u64, wrong: Wrong) -> io::Result<()> {
        // Held while the file is written, so that what is remembered is what was written last.
        let mut nodes = lock(&self.nodes);
        if nodes[slot(id)].wrong == wrong {
            return Ok(());
        }
        let Wrong { clock_offset_ms, disk_full } = wrong;
        let text =
            format!("wall_clock_offset_ms = {clock_offset_ms}\ndisk_is_full = {disk_full}\n");
        let path = self.faults_path(id);
        // Whole or not at all, as the node may look at any moment.
        let new = path.with_extension("new");
        std::fs::write(&new, text)?;
        std::fs::rename(&new, path)?;
        nodes[slot(id)].wrong = wrong;
        Ok(())
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The process of a node, and what it does.
    pub(crate) fn process(&self, id: u64) -> (Option<u32>, Process) {
        let mut nodes = lock(&self.nodes);
        let node = &mut nodes[slot(id)];
        // Collects one that has ended by itself, too.
        if node.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None))) {
            (node.child, node.pid, node.is_paused) = (None, None, false);
        }
        let process = match (&node.child, node.is_paused) {
            (None, _) => Process::Dead,
            (Some(_), true) => Process::Paused,
            (Some(_), false) => Process::Running,
        };
        (node.pid, process)
    }

    /// Starts a node that does not run, or goes on with one that is paused.
    pub(crate) fn start_one(&self, id: u64) -> io::Result<()> {
        match self.process(id).1 {
            Process::Running => return Ok(()),
            Process::Paused => return self.pause(id, false),
            Process::Dead => {}
        }
        let members = (1..).zip(&self.addresses).map(|(id, there)| format!("{id}={}", there.peer));
        let own = self.addresses(id);
        let log = File::options().create(true).append(true).open(self.log_path(id))?;
        let child = Command::new(&self.program)
            .arg("serve")
            .args(["--exit-with-parent", &std::process::id().to_string()])
            .args(["--node-id", &id.to_string()])
            .args(["--client-listen", &own.client.to_string()])
            .args(["--client-advertise", &own.client_via.to_string()])
            .args(["--peer-listen", &own.peer.to_string()])
            .args(["--initial-cluster", &members.collect::<Vec<_>>().join(",")])
            .args(["--peer-via", &self.peer_via[slot(id)]])
            .arg("--test-faults-file")
            .arg(self.faults_path(id))
            .args(["--heartbeat-interval-ms", &HEARTBEAT_MS.to_string()])
            .args(["--election-timeout-ms-min", &ELECTION_TIMEOUT_MS_MIN.to_string()])
            .args(["--election-timeout-ms-max", &ELECTION_TIMEOUT_MS_MAX.to_string()])
            .args(SMALL)
            .arg("--data-dir")
            .arg(self.directory.join(format!("node-{id}")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // The terminal's Ctrl-C is for the lab. Besides, the kernel wakes and ends the stopped processes of a
            // group that loses its parent, so that a paused node does not outlive a lab that was killed.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let mut nodes = lock(&self.nodes);
        let pid = child.id();
        let node = &mut nodes[slot(id)];
        (node.child, node.pid, node.is_paused) = (Some(child), pid, false);
        Ok(())
    }

    /// Kills a node: no destructor runs, nothing is flushed.
    pub(crate) fn kill(&self, id: u64) {
        self.signal(id, Signal::KILL);
    }

    /// Stops a node in the middle of whatever it does, or lets it go on.
    pub(crate) fn pause(&self, id: u64, paused: bool) -> io::Result<()> {
        let (Some(pid), Process::Running | Process::Paused) = self.process(id) else {
            return Ok(());
        };
        self.signal(id, if paused { Signal::STOP } else { Signal::CONT });
        if paused {
            await_stopped(pid);
        }
        lock(&self.nodes)[slot(id)].is_paused = paused;
        Ok(())
    }

    fn signal(&self, id: u64, signal: Signal) {
        // The child is not waited for elsewhere, so its id can't be another process's yet.
        if let (Some(pid), process) = self.process(id)
            && process != Process::Dead
            && let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Ends all nodes, and removes what they wrote.
    pub(crate) async fn stop(&self) {
        for id in self.ids() {
            self.signal(id, Signal::TERM);
            self.signal(id, Signal::CONT);
        }
        let until = Instant::now() + STOP_GRACE;
        while self.ids().any(|id| self.process(id).1 != Process::Dead) {
            if Instant::now() >= until {
                self.ids().for_each(|id| self.kill(id));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            eprintln!("tallyd lab: {}: {error}", self.directory.display());
        }
    }
}

/// Waits until all threads of a process stand still, which takes a moment: no process can refuse it. Should the lab be
/// killed from then on, the kernel finds a stopped process in a group without a parent, and ends it; one that stops a
/// moment after the lab has gone would stay for ever.
fn await_stopped(pid: u32) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    // Whether it ended, or is stopped, is still to be seen by whoever waits for the child.
    let stopped_or_gone = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while matches!(rustix::process::waitid(WaitId::Pid(pid), stopped_or_gone), Err(Errno::INTR)) {}
}

fn slot(id: u64) -> usize {
    usize::try_from(id - 1).expect("a handful of nodes")
}

/// Free ports, two for each node, and what holds them: that is to be dropped before the nodes take them, and after
/// whoever else takes some free port.
async fn free_ports(count: u64) -> io::Result<(Vec<TcpListener>, Vec<(SocketAddr, SocketAddr)>)> {
    let mut held = Vec::new();
    for _ in 0..count * 2 {
        held.push(TcpListener::bind(("127.0.0.1", 0)).await?);
    }
    let addresses = held.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
    let pairs = addresses.chunks(2).map(|pair| (pair[0], pair[1])).collect();
    Ok((held, pairs))
}

/// A new directory of this process. What labs that were killed have left is removed first.
fn make_directory() -> io::Result<PathBuf> {
    let above = std::env::temp_dir();
    for entry in std::fs::read_dir(&above)?.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(DIRECTORY_PREFIX));
        let Some(pid) = pid.and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        if rustix::process::test_kill_process(pid) == Err(Errno::SRCH) {
            // Another user's can't be removed, and is not ours to remove.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let directory = above.join(format!("{DIRECTORY_PREFIX}{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    Ok(directory)
}
