//! Nodes as child processes: start, kill, pause, continue, terminate.
//!
//! They are killed when their cluster is dropped. If that happens in a panic, the ends of their logs
//! are printed and the directory with all of it is kept.

use std::{
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use rustix::process::{Pid, Signal};
use tally_client::{Client, NodeInfo};
use tokio::time::Instant;

use super::{PATIENCE, eventually};

/// The binary under test.
pub(crate) const TALLYD: &str = env!("CARGO_BIN_EXE_tallyd");

/// `tally`, which a build of the workspace puts beside it; nothing where only this crate was built.
pub(crate) fn command_line() -> Option<PathBuf> {
    Some(Path::new(TALLYD).with_file_name("tally")).filter(|tally| tally.exists())
}

/// Lines of each node's log that a failed test prints.
const LOG_LINES: usize = 60;

/// Two ports for each node come from below the range from which Linux takes the ports of outgoing
/// connections: else one of those could sit on a dead node's port when it starts again.
const PORTS: std::ops::Range<u16> = 10_000..30_000;

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let span = PORTS.end - PORTS.start;
    // Test programs that run at the same time start far apart.
    let first = (std::process::id().wrapping_mul(7919) % u32::from(span)) as u16;
    for _ in 0..span {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + (first + step % span) % span;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// A run of ports that nobody listens on.
pub(crate) fn free_ports(count: u16) -> u16 {
    'start: loop {
        let first = free_port();
        for step in 1..count {
            if free_port() != first + step {
                continue 'start;
            }
        }
        return first;
    }
}

/// Directory for one test's data and logs. Kept when the test panics, or `TALLY_TEST_KEEP` is set.
#[derive(Debug)]
pub(crate) struct TestDir(Option<tempfile::TempDir>);

impl TestDir {
    pub(crate) fn new(test: &str) -> TestDir {
        let made = tempfile::Builder::new()
            .prefix(&format!("{test}-"))
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        TestDir(Some(made.expect("a directory for the test")))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.as_ref().expect("taken only when dropped").path()
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let is_wanted = std::thread::panicking() || std::env::var_os("TALLY_TEST_KEEP").is_some();
        if is_wanted && let Some(dir) = self.0.take() {
            eprintln!("kept: {}", dir.keep().display());
        }
    }
}

/// One node: its addresses, and the process while it runs.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) client: String,
    pub(crate) peer: String,
    pub(crate) data: PathBuf,
    pub(crate) log: PathBuf,
    /// The program; [`TALLYD`] unless a test says another one.
    pub(crate) program: PathBuf,
    arguments: Vec<String>,
    /// How many file descriptors it may have; `None` for as many as this process.
    pub(crate) descriptors_max: Option<u32>,
    process: Option<Child>,
}

impl Node {
    fn new(id: u64, dir: &TestDir, data: &Path, peer: String, flags: &[&str]) -> Node {
        let client = format!("127.0.0.1:{}", free_port());
        let data = data.join(format!("node-{id}"));
        let log = dir.path().join(format!("node-{id}.log"));
        let (descriptors_max, process) = (None, None);
        let arguments = vec!["serve".to_owned()];
        let program = PathBuf::from(TALLYD);
        let mut node =
            Node { id, client, peer, data, log, program, arguments, descriptors_max, process };
        let (client, peer, data) =
            (node.client.clone(), node.peer.clone(), node.data.display().to_string());
        node.with(&["--client-listen", &client, "--peer-listen", &peer, "--data-dir", &data]);
        if !flags.contains(&"--metrics-listen") {
            node.with(&["--metrics-listen", ""]);
        }
        node.with(flags);
        node
    }

    /// Starts the process; returns at once.
    pub(crate) fn start(&mut self) {
        assert!(self.process.is_none(), "node {} runs already", self.id);
        let log = File::options().create(true).append(true).open(&self.log).expect("a log file");
        let mut command = match self.descriptors_max {
            None => Command::new(&self.program),
            Some(max) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {max} && exec \"$@\""), "sh"]);
                shell.arg(&self.program);
                shell
            }
        };
        let child = command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the node can be started");
        self.process = Some(child);
    }

    /// Runs `recover` as the node is configured, which looks and does nothing.
    pub(crate) fn recover(&self) -> std::process::Output {
        let mut command = Command::new(&self.program);
        command.arg("recover").args(&self.arguments[1..]).stdin(Stdio::null());
        command.output().expect("it can run")
    }

    /// More flags, before a start.
    pub(crate) fn with(&mut self, flags: &[&str]) {
        self.arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
    }

    /// Takes flags away again that have a value.
    pub(crate) fn without(&mut self, flag: &str) {
        while let Some(at) = self.arguments.iter().position(|argument| argument == flag) {
            self.arguments.drain(at..at + 2);
        }
    }

    /// Another directory for its data, before the first start.
    pub(crate) fn put_data_at(&mut self, data: &Path) {
        let flag = self.arguments.iter().position(|argument| argument == "--data-dir");
        let value = flag.expect("every node has one") + 1;
        self.arguments[value] = data.display().to_string();
        self.data = data.to_path_buf();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("the node runs").id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        send_signal(self.pid(), signal);
    }

    /// `kill -9`, and waits until the process is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            child.kill().expect("a child can be killed");
            child.wait().expect("a child can be waited for");
        }
    }

    /// Whether the process ended by itself, and how.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut()?.try_wait().expect("a child can be asked")?;
        self.process = None;
        Some(status)
    }

    /// Waits until the process ends by itself.
    pub(crate) async fn wait_ended(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.ended() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("node {} did not end", self.id);
    }

    /// What the node says of itself, if it answers.
    pub(crate) async fn status(&self) -> Option<NodeInfo> {
        let client = Client::builder([self.client.clone()]).deadline(Duration::from_secs(1));
        let status = client.build().ok()?.status().local_only().await.ok()?;
        status.nodes.into_iter().find(|node| node.id == self.id)
    }

    pub(crate) fn log_text(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn print_log(&self) {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        eprintln!("--- end of {} ({} lines)", self.log.display(), lines.len());
        for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
            eprintln!("{line}");
        }
    }
}

pub(crate) fn send_signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    rustix::process::kill_process(pid, signal).expect("a signal can be sent to a child");
}

/// Whether a process exists (a zombie does not count).
pub(crate) fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

/// A cluster of processes.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    /// Held for its `Drop`, which comes after that of the cluster itself.
    pub(crate) dir: TestDir,
}

impl Cluster {
    /// Lays out a cluster with its data below the test's own directory; nothing is started.
    pub(crate) fn new(test: &str, count: u64, flags: &[&str]) -> Cluster {
        let dir = TestDir::new(test);
        let data = dir.path().to_path_buf();
        Cluster::at(dir, &data, count, flags)
    }

    /// … with its data somewhere else.
    pub(crate) fn at(dir: TestDir, data: &Path, count: u64, flags: &[&str]) -> Cluster {
        let peers: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let members: Vec<String> =
            (1..=count).zip(&peers).map(|(id, port)| format!("{id}=127.0.0.1:{port}")).collect();
        let nodes = (1..=count).zip(&peers).map(|(id, peer)| {
            let mut node = Node::new(id, &dir, data, format!("127.0.0.1:{peer}"), flags);
            node.with(&["--node-id", &id.to_string(), "--initial-cluster", &members.join(",")]);
            node
        });
        let nodes = nodes.collect();
        Cluster { nodes, dir }
    }

    /// Lays out one more node, which belongs to no cluster yet. `id` is what tests call it by; which one it has, its
    /// flags say, or the cluster.
    pub(crate) fn newcomer(&mut self, id: u64, flags: &[&str]) -> &mut Node {
        assert!(self.nodes.iter().all(|node| node.id != id), "an id is never used twice");
        let data = self.dir.path().to_path_buf();
        let peer = format!("127.0.0.1:{}", free_port());
        self.nodes.push(Node::new(id, &self.dir, &data, peer, flags));
        self.node(id)
    }

    /// A cluster that has been started and has a leader.
    pub(crate) async fn started(test: &str, count: u64, flags: &[&str]) -> Cluster {
        let mut cluster = Cluster::new(test, count, flags);
        cluster.start_all();
        cluster.leader().await;
        cluster
    }

    pub(crate) fn start_all(&mut self) {
        self.nodes.iter_mut().for_each(Node::start);
    }

    pub(crate) fn kill_all(&mut self) {
        // First the signals, so that they die as much at once as can be.
        for node in &mut self.nodes {
            if let Some(child) = &mut node.process {
                child.kill().expect("a child can be killed");
            }
        }
        self.nodes.iter_mut().for_each(Node::kill);
    }

    pub(crate) fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id == id).expect("a node of this cluster")
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client.clone()).collect()
    }

    /// A client of all nodes. It need not reach one yet. It has patience: how fast the cluster is
    /// back is measured by itself, and on a busy machine an election can take many times as long.
    pub(crate) fn client(&self) -> Client {
        let client = Client::builder(self.addresses()).deadline(PATIENCE);
        client.build().expect("the addresses are well-formed")
    }

    /// Waits for a leader that leads by its own word, and gives its id and term.
    pub(crate) async fn leader(&self) -> (u64, u64) {
        eventually("a leader", || async {
            let mut found = None;
            for node in self.nodes.iter().filter(|node| node.process.is_some()) {
                if let Some(info) = node.status().await
                    && info.role == Some(tally_client::Role::Leader)
                    && found.is_none_or(|(_, term)| info.term > term)
                {
                    found = Some((info.id, info.term));
                }
            }
            found
        })
        .await
    }

    /// Waits until every running node has applied what the leader has committed by now.
    pub(crate) async fn caught_up(&self) {
        let (leader, _) = self.leader().await;
        let target = eventually("the leader's status", || async {
            let node = self.nodes.iter().find(|node| node.id == leader)?;
            Some(node.status().await?.commit_index)
        })
        .await;
        for node in self.nodes.iter().filter(|node| node.process.is_some()) {
            eventually(&format!("node {} at index {target}", node.id), || async {
                (node.status().await?.applied_index >= target).then_some(())
            })
            .await;
        }
    }

    /// No node ended by itself.
    pub(crate) fn assert_running(&mut self) {
        for node in &mut self.nodes {
            if let Some(status) = node.ended() {
                panic!("node {} ended by itself: {status}", node.id);
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_all();
        if std::thread::panicking() {
            self.nodes.iter().for_each(Node::print_log);
        }
    }
}
