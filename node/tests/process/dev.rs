//! `tallyd dev`: its nodes are real processes, and it looks after them.

use std::{
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use tally_client::Client;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout},
};

use crate::support::{
    PATIENCE, eventually,
    load::Book,
    nodes::{TALLYD, TestDir, free_ports, is_alive, send_signal},
};

struct Dev {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    addresses: Vec<String>,
    said: Vec<String>,
    pids: Vec<u32>,
    leader: usize,
    _dir: TestDir,
}

impl Dev {
    /// Starts three nodes and waits until one leads.
    async fn start(test: &str, flags: &[&str]) -> Dev {
        let dir = TestDir::new(test);
        let (clients, peers) = (free_ports(3), free_ports(3));
        let mut command = tokio::process::Command::from(Command::new(TALLYD));
        let mut child = command
            .arg("dev")
            .arg("--data")
            .arg(dir.path().join("data"))
            .args(["--client-port", &clients.to_string(), "--peer-port", &peers.to_string()])
            .args(["--metrics-port", "0"])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("dev can be started");
        let stdout = child.stdout.take().expect("it is piped");
        let mut dev = Dev {
            child,
            lines: BufReader::new(stdout).lines(),
            addresses: (0..3).map(|nth| format!("127.0.0.1:{}", clients + nth)).collect(),
            said: Vec::new(),
            pids: Vec::new(),
            leader: 0,
            _dir: dir,
        };
        for node in 1..=3 {
            let line = dev.line_with(&format!("node {node} ")).await;
            let pid = line.split_whitespace().skip_while(|word| *word != "pid").nth(1);
            dev.pids.push(pid.and_then(|pid| pid.parse().ok()).expect("a pid in the line"));
        }
        let line = dev.line_with("leads in term").await;
        let leader = line.split_whitespace().nth(1).and_then(|id| id.parse::<usize>().ok());
        dev.leader = leader.expect("the leader's id in the line") - 1;
        dev
    }

    async fn line_with(&mut self, part: &str) -> String {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
            match next {
                Ok(Ok(Some(line))) => {
                    self.said.push(line.clone());
                    if line.contains(part) {
                        return line;
                    }
                }
                other => panic!("no line with {part:?} ({other:?}) in {:#?}", self.said),
            }
        }
    }

    /// Has patience, as that of [`crate::support`]'s clusters has: on a busy machine an election can take
    /// many times as long.
    fn client(&self) -> Client {
        Client::builder(self.addresses.clone()).deadline(PATIENCE).build().expect("well-formed")
    }

    fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    async fn ended(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.expect("dev ends").expect("a child can be waited for")
    }
}

async fn gone(pids: &[u32]) {
    eventually("no node is left", || async {
        (!pids.iter().any(|pid| is_alive(*pid))).then_some(())
    })
    .await;
}

impl Drop for Dev {
    fn drop(&mut self) {
        for pid in &self.pids {
            if is_alive(*pid) && is_a_node(*pid) {
                send_signal(*pid, Signal::KILL);
            }
        }
    }
}

fn is_a_node(pid: u32) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut arguments = command.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    // By name, not by path: the build directory may be a link.
    let program = arguments.next().is_some_and(|program| program.ends_with("/tallyd"));
    program && arguments.next().is_some_and(|argument| argument == "serve")
}

#[tokio::test]
async fn killed_node_comes_back() {
    let mut dev = Dev::start("dev-restart", &[]).await;
    assert!(dev.pids.iter().all(|pid| is_a_node(*pid)), "the pids printed are the nodes'");
    let client = dev.client();
    let book = Book::default();
    for _ in 0..5 {
        book.add(&client, "hits").await.expect("a healthy cluster");
    }
    let old = dev.pids[dev.leader];
    send_signal(old, Signal::KILL);
    for _ in 0..5 {
        book.add(&client, "hits").await.expect("two of three go on");
    }
    let line = dev.line_with("is back with pid").await;
    assert!(line.contains(&format!("node {} is back", dev.leader + 1)), "{line}");
    let new = line.split_whitespace().last().and_then(|pid| pid.parse::<u32>().ok());
    let new = new.expect("the new pid in the line");
    let leader = dev.leader;
    dev.pids[leader] = new;
    assert_ne!(new, old);
    // A process that has just been made does not show its arguments yet.
    eventually("the new node's process", || async { is_a_node(new).then_some(()) }).await;
    book.audit(&client).await;

    send_signal(dev.pid(), Signal::TERM);
    assert_eq!(dev.ended().await.code(), Some(0));
    gone(&dev.pids).await;
}

#[tokio::test]
async fn killed_node_stays_dead() {
    let mut dev = Dev::start("dev-no-restart", &["--no-restart"]).await;
    let client = dev.client();
    let book = Book::default();
    book.add(&client, "hits").await.expect("a healthy cluster");
    let old = dev.pids[dev.leader];
    send_signal(old, Signal::KILL);
    dev.line_with("it stays dead").await;
    // Longer than a restart would take.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let address = dev.addresses[dev.leader].clone();
    assert!(tokio::net::TcpStream::connect(&address).await.is_err(), "{address} answers");
    book.add(&client, "hits").await.expect("two of three go on");
    book.audit(&client).await;

    send_signal(dev.pid(), Signal::INT);
    assert_eq!(dev.ended().await.code(), Some(0));
    gone(&dev.pids).await;
}

/// A node whose parent ended before it could ask for the news of that.
#[tokio::test]
async fn a_node_without_its_parent_ends() {
    let dir = TestDir::new("no-parent");
    // Not this process's id: whoever should have started it is gone.
    let output = tokio::process::Command::from(Command::new(TALLYD))
        .args(["serve", "--exit-with-parent", "1", "--node-id", "1", "--data-dir"])
        .arg(dir.path().join("data"))
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, output).await.expect("it ends");
    let output = output.expect("it can be started");
    assert_eq!(output.status.code(), Some(0));
    assert!(!dir.path().join("data").exists(), "it did nothing");
}

/// Nobody is left to look after the nodes: they end too.
#[tokio::test]
async fn killed_dev_leaves_no_node() {
    let mut dev = Dev::start("dev-killed", &[]).await;
    send_signal(dev.pid(), Signal::KILL);
    dev.ended().await;
    gone(&dev.pids).await;
}

#[tokio::test]
async fn a_second_one_on_the_same_ports_says_who_is_there_and_makes_nothing() {
    let dev = Dev::start("dev-twice", &[]).await;
    // Another one may lead before it listens.
    eventually("node 1 listens", || async {
        tokio::net::TcpStream::connect(&dev.addresses[0]).await.ok()
    })
    .await;
    let dir = TestDir::new("dev-twice-second");
    let data = dir.path().join("data");
    let port = dev.addresses[0].rsplit(':').next().expect("an address has a port");
    let output = tokio::process::Command::from(Command::new(TALLYD))
        .arg("dev")
        .arg("--data")
        .arg(&data)
        .args(["--client-port", port])
        .stdin(Stdio::null())
        .output();
    let output = tokio::time::timeout(PATIENCE, output).await.expect("it ends by itself");
    let output = output.expect("it can be started");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for part in [
        &format!("{}: node 1 of cluster ", dev.addresses[0])[..],
        &format!("(pid {}) listens there", dev.pids[0]),
        "--client-port",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(output.stdout.is_empty(), "nothing of the other cluster is shown as its own");
    assert!(!data.exists(), "nothing was made");
    assert!(dev.pids.iter().all(|pid| is_a_node(*pid)), "the first one goes on");
}

/// From nothing to TLS on every port in one command: what it prints is what a client needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_from_end_to_end_in_one_command() {
    let mut dev = Dev::start("dev-tls", &["--tls"]).await;
    let line = dev.line_with("counter add hits 1").await;
    let flag = |name: &str| {
        let path = line.split_whitespace().skip_while(|word| *word != name).nth(1);
        std::path::PathBuf::from(path.unwrap_or_else(|| panic!("{name} in {line:?}")))
    };
    let read = |name: &str| std::fs::read(flag(name)).expect("the file is there");
    let tls = tally_client::Tls::new()
        .trust_only(read("--tls-ca"))
        .identity(read("--tls-cert"), read("--tls-key"));
    let client = Client::builder(dev.addresses.clone()).tls(tls).build().unwrap();
    assert_eq!(client.counter("hits").add(1).await.unwrap().value, 1);
    let status = client.status().await.unwrap();
    let keys =
        ["client_tls_cert_file", "client_tls_ca_file", "peer_tls_cert_file", "peer_tls_ca_file"];
    assert_eq!(status.nodes.len(), 3);
    for node in &status.nodes {
        let told: Vec<_> = node.certificates.iter().map(|told| told.key.as_str()).collect();
        assert_eq!(told, keys, "node {}", node.id);
        let own = &node.certificates[0];
        assert_eq!(own.name, format!("tally://tally/node/{}", node.id));
        assert!(own.not_before_wall_time_ms < own.not_after_wall_time_ms);
    }
    let plain = Client::builder(dev.addresses.clone()).build().unwrap();
    let error = plain.counter("hits").get().await.unwrap_err().to_string();
    assert!(error.contains("speaks TLS"), "{error}");

    // A probe asks over TLS, too, by the CA or by the node's own certificate.
    let ca = flag("--tls-ca");
    let own = ca.with_file_name("node-1.crt");
    let other = ca.with_file_name("node-2.crt");
    for (flags, is_good) in [
        (vec!["--tls-ca", ca.to_str().unwrap()], true),
        (vec!["--client-tls-cert-file", own.to_str().unwrap()], true),
        (vec!["--client-tls-cert-file", other.to_str().unwrap()], false),
        (vec![], false),
    ] {
        let mut health = Command::new(TALLYD);
        health.args(["health", "--address", &dev.addresses[0]]).args(&flags);
        let ended = health.output().unwrap();
        let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
        assert_eq!(ended.status.success(), is_good, "{flags:?}: {said}");
    }
    send_signal(dev.pid(), Signal::TERM);
    assert!(dev.ended().await.success());
}

/// What a browser gets at an address.
async fn page(address: &str, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let got = async {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("somebody listens");
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it takes a request");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("it answers");
        text
    };
    tokio::time::timeout(PATIENCE, got).await.expect("it ends")
}

#[tokio::test]
async fn one_flag_brings_a_console_to_each_node() {
    let first = free_ports(3);
    let mut dev =
        Dev::start("dev-console", &["--console", "--console-port", &first.to_string()]).await;
    let said = dev.said.iter().find(|line| line.trim_start().starts_with("console")).cloned();
    let said = said.unwrap_or_else(|| panic!("no addresses in {:#?}", dev.said));
    for node in 0..3 {
        let address = format!("127.0.0.1:{}", first + node);
        assert!(said.contains(&format!("http://{address}/")), "{said}");
        // Another one may lead before it listens.
        eventually("the console listens", || async {
            tokio::net::TcpStream::connect(&address).await.ok()
        })
        .await;
        let shown = page(&address, "/").await;
        assert!(shown.starts_with("HTTP/1.1 200") && shown.contains("<title>"), "{shown}");
        let status = page(&address, "/api/status").await;
        assert!(status.contains(r#""changes":true"#), "as it is on loopback: {status}");
    }
    send_signal(dev.pid(), Signal::TERM);
    assert!(dev.ended().await.success());
}
