//! `tallyd dev`: a small cluster on this machine, to try and to break.
//!
//! Each node is a process of its own, so that `kill -9` kills one for real. A node that ends is
//! started again after a few seconds, unless it says that it must not run.

mod certificates;
mod ports;

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use clap::Args;
use tally_proto::v1::{self, cluster_client::ClusterClient};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::Instant,
};

use self::certificates::Certificates;
use super::{EXIT_REFUSED, ask::connect, serve};
use crate::{storage::real_disk::create_dir_durably, tls::Asking};

/// Said of a cluster without certificates.
const IS_OPEN: &str = "It is open: any program of this machine may read, write and break it (with --tls, one that has the certificate).\n";

/// How long a dead node stays dead: long enough to see what the others do without it.
const RESTART_AFTER: Duration = Duration::from_secs(3);

/// A node that ends sooner than this after its start has a problem that a restart does not solve.
const TOO_SOON: Duration = Duration::from_secs(2);

/// How long the cluster has to elect its first leader before the user is told to look.
const FIRST_LEADER: Duration = Duration::from_secs(30);

/// How long the nodes have to stop by themselves.
const STOP_GRACE: Duration = Duration::from_secs(8);

/// Flags of `tallyd dev`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Directory for the nodes' data and logs; kept, so that the next start goes on from it.
    #[arg(long, value_name = "DIR", default_value = "tally-dev")]
    data: PathBuf,
    /// Number of nodes, 1 to 9.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    nodes: u64,
    /// Leave a node dead that was killed.
    #[arg(long)]
    no_restart: bool,
    /// Client port of node 1; the others follow.
    #[arg(long, default_value_t = 7401)]
    client_port: u16,
    /// Peer port of node 1; the others follow.
    #[arg(long, default_value_t = 7501)]
    peer_port: u16,
    /// TLS on all ports, with certificates that are made in DIR/certificates: a CA, one for each node, and one for a
    /// client named "dev".
    #[arg(long)]
    tls: bool,
    /// Metrics port of node 1; the others follow. 0: none. Default: 200 above the client port, where that is free.
    #[arg(long, value_name = "PORT")]
    metrics_port: Option<u16>,
    /// A console in the browser at each node: its page is at the address that is printed.
    #[arg(long)]
    console: bool,
    /// Console port of node 1; the others follow, and --console is meant. Default: 300 above the client port.
    #[arg(long, value_name = "PORT")]
    console_port: Option<u16>,
    /// Further flags for every node, as for `tallyd serve`.
    #[arg(last = true)]
    serve_flags: Vec<String>,
}

/// What happened to a node.
struct Ended {
    node: u64,
    status: io::Result<ExitStatus>,
    ran_for: Duration,
}

/// Runs the cluster until it is told to stop.
pub fn run(arguments: Arguments) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made while the process starts");
    match runtime.block_on(supervise(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("tallyd dev: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// One line to the terminal; nobody listening is no reason to stop.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

async fn supervise(arguments: Arguments) -> Result<(), String> {
    let problem = |what: &str, error: io::Error| format!("{what}: {error}");
    serve::environment_is_ours()?;
    // Before anything is made: what answers there would be taken for the nodes that are started here.
    ports::are_free(&arguments).await?;
    create_dir_durably(&arguments.data)
        .map_err(|error| problem(&arguments.data.display().to_string(), error))?;
    let certificates = match arguments.tls {
        true => Some(Certificates::made(&arguments.data, arguments.nodes)?),
        false => None,
    };
    let asking = certificates.as_ref().map(Certificates::asking).transpose()?;
    let cluster =
        Cluster::new(arguments, certificates).map_err(|error| problem("this program", error))?;
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|error| problem("signals", error))?;
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(|error| problem("signals", error))?;

    say(&format!("Starting {} nodes in {}", cluster.nodes, cluster.data.display()));
    if let Some(word) = what_may_fail(cluster.nodes) {
        say(&word);
    }
    let (ended_sender, mut ended) = mpsc::channel(16);
    let mut pids = vec![None; usize::try_from(cluster.nodes).expect("at most nine")];
    for node in 1..=cluster.nodes {
        pids[cluster.slot(node)] = Some(cluster.start(node, &ended_sender)?);
    }
    cluster.introduce(&pids);

    let started = cluster.client_addresses().into_iter().zip(pids.iter().copied()).collect();
    let watching = watch_first_leader(started, asking);
    tokio::pin!(watching);
    let mut is_watching = true;
    let (restart_sender, mut restarts) = mpsc::channel(16);
    let failure = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            first = &mut watching, if is_watching => {
                is_watching = false;
                match first {
                    Some((leader, term)) => cluster.invite(leader, term, &pids),
                    None => say("No leader yet; the nodes' logs say why."),
                }
            }
            Some(end) = ended.recv() => {
                pids[cluster.slot(end.node)] = None;
                if let Some(problem) = cluster.must_stop(&end) {
                    break Some(problem);
                }
                let how = end.status.map_or_else(|error| error.to_string(), |status| status.to_string());
                if cluster.restart {
                    say(&format!("node {} ended ({how}); it is started again in {} s",
                        end.node, RESTART_AFTER.as_secs()));
                    let restart_sender = restart_sender.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(RESTART_AFTER).await;
                        let _ = restart_sender.send(end.node).await;
                    });
                } else {
                    say(&format!("node {} ended ({how}); it stays dead (--no-restart)", end.node));
                }
            }
            Some(node) = restarts.recv() => {
                let pid = cluster.start(node, &ended_sender)?;
                pids[cluster.slot(node)] = Some(pid);
                say(&format!("node {node} is back with pid {pid}"));
            }
        }
    };
    say("Stopping the nodes");
    stop(&mut pids, &cluster, &mut ended).await;
    match failure {
        None => Ok(()),
        Some(problem) => Err(problem),
    }
}

/// Asks the nodes to stop, and kills those that do not.
async fn stop(pids: &mut [Option<u32>], cluster: &Cluster, ended: &mut mpsc::Receiver<Ended>) {
    use rustix::process::Signal;
    send(pids, Signal::TERM);
    let until = Instant::now() + STOP_GRACE;
    while pids.iter().any(Option::is_some) {
        match tokio::time::timeout_at(until, ended.recv()).await {
            Ok(Some(end)) => pids[cluster.slot(end.node)] = None,
            Ok(None) => return,
            Err(_) => {
                send(pids, Signal::KILL);
                return;
            }
        }
    }
}

fn send(pids: &[Option<u32>], signal: rustix::process::Signal) {
    for pid in pids.iter().flatten() {
        let pid = i32::try_from(*pid).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // A process that is gone needs no signal.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

struct Cluster {
    program: PathBuf,
    data: PathBuf,
    nodes: u64,
    restart: bool,
    client_port: u16,
    peer_port: u16,
    /// Where metrics are served, if they are.
    metrics_port: Option<u16>,
    /// Where consoles are, if they are.
    console_port: Option<u16>,
    serve_flags: Vec<String>,
    certificates: Option<Certificates>,
}

impl Cluster {
    fn new(arguments: Arguments, certificates: Option<Certificates>) -> io::Result<Cluster> {
        let metrics_port = ports::metrics(&arguments);
        let console_port = ports::console(&arguments);
        Ok(Cluster {
            program: std::env::current_exe()?,
            data: arguments.data,
            nodes: arguments.nodes,
            restart: !arguments.no_restart,
            client_port: arguments.client_port,
            peer_port: arguments.peer_port,
            metrics_port,
            console_port,
            serve_flags: arguments.serve_flags,
            certificates,
        })
    }

    fn slot(&self, node: u64) -> usize {
        usize::try_from(node - 1).expect("at most nine")
    }

    fn client_address(&self, node: u64) -> String {
        address(self.client_port, node)
    }

    fn client_addresses(&self) -> Vec<String> {
        (1..=self.nodes).map(|node| self.client_address(node)).collect()
    }

    fn peer_address(&self, node: u64) -> String {
        address(self.peer_port, node)
    }

    /// Empty for none.
    fn metrics_address(&self, node: u64) -> String {
        self.metrics_port.map(|first| address(first, node)).unwrap_or_default()
    }

    /// Where its console is, if it is to have one.
    fn console_address(&self, node: u64) -> Option<String> {
        self.console_port.map(|first| address(first, node))
    }

    /// Of something that is on a port of each node.
    fn say_each(&self, what: &str, one: impl Fn(u64) -> String) {
        let each: Vec<_> = (1..=self.nodes).map(one).collect();
        say(&format!("  {what:<7}  {}", each.join("  ")));
    }

    fn log_path(&self, node: u64) -> PathBuf {
        self.data.join(format!("node-{node}.log"))
    }

    fn start(&self, node: u64, ended: &mpsc::Sender<Ended>) -> Result<u32, String> {
        let members: Vec<String> =
            (1..=self.nodes).map(|id| format!("{id}={}", self.peer_address(id))).collect();
        let path = self.log_path(node);
        let log = File::options().create(true).append(true).open(&path);
        let log = log.map_err(|error| format!("{}: {error}", path.display()))?;
        let mut child = Command::new(&self.program)
            .arg("serve")
            .args(["--exit-with-parent", &std::process::id().to_string()])
            .args(["--node-id", &node.to_string()])
            .args(["--client-listen", &self.client_address(node)])
            .args(["--peer-listen", &self.peer_address(node)])
            .args(["--metrics-listen", &self.metrics_address(node)])
            // Not said where there is none: the further flags may say another one.
            .args(self.console_address(node).map(|address| format!("--console-listen={address}")))
            // On loopback, and to be tried: what is hot is to be seen.
            .args(["--hot-item-names", "shown"])
            .args(["--initial-cluster", &members.join(",")])
            .arg("--data-dir")
            .arg(self.data.join(format!("node-{node}")))
            .args(self.certificates.iter().flat_map(|certificates| certificates.serve_flags(node)))
            .args(&self.serve_flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // The terminal's Ctrl-C is for this process, which stops the nodes in good order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("node {node} can't be started: {error}"))?;
        let pid = child.id().ok_or_else(|| format!("node {node} ended at once"))?;
        let ended = ended.clone();
        tokio::spawn(async move {
            let started = Instant::now();
            let status = wait(&mut child).await;
            let _ = ended.send(Ended { node, status, ran_for: started.elapsed() }).await;
        });
        Ok(pid)
    }

    /// A node that must not run, or can't, ends the whole: starting it again would hide why.
    fn must_stop(&self, end: &Ended) -> Option<String> {
        let status = end.status.as_ref().ok()?;
        let refuses = status.code() == Some(EXIT_REFUSED) || status.code() == Some(2);
        let fails = !status.success() && status.code().is_some() && end.ran_for < TOO_SOON;
        if !refuses && !fails {
            return None;
        }
        let path = self.log_path(end.node);
        let why = last_lines(&path, 3).unwrap_or_default();
        Some(format!("node {} does not run ({status}):\n{why}(log: {})", end.node, path.display()))
    }

    fn introduce(&self, pids: &[Option<u32>]) {
        for node in 1..=self.nodes {
            say(&format!(
                "  node {node}   pid {:<7} clients {}   peers {}   log {}",
                pids[self.slot(node)].unwrap_or(0),
                self.client_address(node),
                self.peer_address(node),
                self.log_path(node).display(),
            ));
        }
        if self.metrics_port.is_some() {
            self.say_each("metrics", |node| {
                format!("http://{}/metrics", self.metrics_address(node))
            });
        }
        if let Some(first) = self.console_port {
            let scheme = if self.certificates.is_some() { "https" } else { "http" };
            self.say_each("console", |node| format!("{scheme}://{}/", address(first, node)));
        }
    }

    fn invite(&self, leader: u64, term: u64, pids: &[Option<u32>]) {
        let tally = self.tally();
        let endpoints = if self.client_port == 7401 && self.nodes == 3 {
            String::new()
        } else {
            format!(" --endpoints {}", self.client_addresses().join(","))
        };
        let tls = self.certificates.as_ref().map(Certificates::tally_flags).unwrap_or_default();
        let endpoints = format!("{endpoints}{tls}");
        let pid = pids.get(self.slot(leader)).copied().flatten().unwrap_or(0);
        let again = if self.restart {
            format!("it comes back after {} s", RESTART_AFTER.as_secs())
        } else {
            "it stays dead".to_owned()
        };
        say(&format!(
            "Node {leader} leads in term {term}. In another terminal:\n\
             \n  {tally}{endpoints} counter add hits 1\
             \n  {tally}{endpoints} status\
             \n  kill -9 {pid}          # the leader; {again}\
             \n  {tally}{endpoints} counter add hits 1\
             \n  {tally}{endpoints} counter get hits\
             \n  {tally}{endpoints} demo\
             \n\n{}Ctrl-C stops all nodes; the data stays in {}.",
            if self.certificates.is_none() { IS_OPEN } else { "" },
            self.data.display(),
        ));
    }

    /// The command line that lies beside this program, as a user would type it.
    fn tally(&self) -> String {
        let beside = self.program.with_file_name("tally");
        if !beside.exists() {
            return "tally".to_owned();
        }
        let here = std::env::current_dir().ok();
        let short = here.and_then(|here| beside.strip_prefix(here).map(Path::to_owned).ok());
        short.unwrap_or(beside).display().to_string()
    }
}

/// Of a node, where that of node 1 has this port.
fn address(first: u16, node: u64) -> String {
    format!("127.0.0.1:{}", u64::from(first) + node - 1)
}

async fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    child.wait().await
}

fn last_lines(path: &Path, count: usize) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(count);
    Some(lines[from..].iter().map(|line| format!("  {line}\n")).collect())
}

/// The first leader that any of these processes names.
async fn watch_first_leader(
    started: Vec<(String, Option<u32>)>,
    tls: Option<Asking>,
) -> Option<(u64, u64)> {
    let until = Instant::now() + FIRST_LEADER;
    while Instant::now() < until {
        for (address, pid) in &started {
            let Some((_, node)) = asked(address, tls.as_ref()).await else { continue };
            if node.leader_id != 0 && *pid == Some(node.pid) {
                return Some((node.leader_id, node.term));
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    None
}

/// The cluster of the node at this address, and what it says of itself.
async fn asked(address: &str, tls: Option<&Asking>) -> Option<(String, v1::NodeStatus)> {
    let mut client = ClusterClient::new(connect(address, tls).await.ok()?);
    let status = client.status(v1::ClusterStatusRequest { local_only: true }).await.ok()?;
    let status = status.into_inner();
    let node = status.nodes.into_iter().next()?;
    Some((status.header.unwrap_or_default().cluster_id, node))
}

/// A word where fewer nodes may fail than somebody might think.
fn what_may_fail(nodes: u64) -> Option<String> {
    let (quorum, tolerated) = (nodes / 2 + 1, nodes - (nodes / 2 + 1));
    match nodes {
        1 => Some("One node tolerates no failure.".to_owned()),
        _ if nodes.is_multiple_of(2) => Some(format!(
            "{nodes} nodes tolerate no more failures than {}: a majority is {quorum}, so {} may fail.",
            nodes - 1,
            if tolerated == 0 { "none".to_owned() } else { tolerated.to_string() },
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::what_may_fail;

    #[test]
    fn an_even_number_of_nodes_is_no_better_than_one_less() {
        let two = "2 nodes tolerate no more failures than 1: a majority is 2, so none may fail.";
        assert_eq!(what_may_fail(2).as_deref(), Some(two));
        let four = "4 nodes tolerate no more failures than 3: a majority is 3, so 1 may fail.";
        assert_eq!(what_may_fail(4).as_deref(), Some(four));
        assert_eq!(what_may_fail(1).as_deref(), Some("One node tolerates no failure."));
        assert_eq!((what_may_fail(3), what_may_fail(5)), (None, None));
    }
}
