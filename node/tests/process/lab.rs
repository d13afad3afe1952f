//! `tallyd lab`: its cuts are felt by clients, and it leaves nothing, however it ends.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};
use tally_client::{Client, ReadLevel};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::Child,
};

use crate::support::{
    PATIENCE, eventually,
    nodes::{TALLYD, is_alive, send_signal},
};

struct Lab {
    child: Child,
    host: String,
    directory: PathBuf,
    token: String,
}

impl Lab {
    /// Starts three nodes and waits until all answer and one leads.
    async fn start() -> Lab {
        let mut command = tokio::process::Command::from(Command::new(TALLYD));
        let mut child = command
            .args(["lab", "--port", "0", "--no-browser"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the lab can be started");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut said = String::new();
        while !said.contains("http://") {
            let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
            said += &line.expect("in time").expect("a line").expect("it goes on");
            said += " ";
        }
        let after = |what: &str| said.split(what).nth(1).expect(&said).to_owned();
        let first = |text: String, end: char| text.split(end).next().expect("a part").to_owned();
        let host = first(after("http://"), '/');
        let directory = first(after("files in "), ' ').into();
        let mut lab = Lab { child, host, directory, token: String::new() };
        let state = eventually("the state is there", async || {
            lab.state().await.filter(|state| {
                let nodes = state["nodes"].as_array();
                let leads = |node: &Value| node["role"] == "leader";
                nodes.is_some_and(|nodes| {
                    nodes.iter().all(|node| node["answers"] == true) && nodes.iter().any(leads)
                })
            })
        });
        state.await;
        // Of a page without the packing; the token is what a page of another site can't read.
        lab.token = lab.token().await;
        lab
    }

    /// A request, and all of its answer's body.
    async fn http(&self, head: &str, body: &str) -> Vec<u8> {
        tokio::time::timeout(PATIENCE, self.ask(head, body)).await.expect("it answers in time")
    }

    async fn ask(&self, head: &str, body: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(&self.host).await.expect("it listens");
        let request = format!(
            "{head}\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        );
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("it answers");
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        answer.split_off(end + 4)
    }

    async fn state(&self) -> Option<Value> {
        let body = self.http("GET /api/state HTTP/1.1", "").await;
        serde_json::from_slice(&body).ok()
    }

    async fn token(&self) -> String {
        let packed = self.http("GET / HTTP/1.1", "").await;
        let mut page = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&packed[..]), &mut page)
            .expect("a packed page");
        let token = page.split("lab-token\" content=\"").nth(1).expect("a token");
        token.split('"').next().expect("its end").to_owned()
    }

    async fn command(&self, command: Value) {
        let head = format!("POST /api/command HTTP/1.1\r\nx-lab-token: {}", self.token);
        let body = self.http(&head, &command.to_string()).await;
        let answer: Value = serde_json::from_slice(&body).expect("JSON");
        assert!(answer.get("error").is_none(), "{command}: {answer}");
    }

    async fn nodes(&self) -> Vec<Value> {
        let state = self.state().await.expect("a state");
        state["nodes"].as_array().expect("nodes").clone()
    }

    async fn pids(&self) -> Vec<u32> {
        let pid = |node: &Value| u32::try_from(node["pid"].as_u64().expect("a pid")).expect("one");
        self.nodes().await.iter().map(pid).collect()
    }
}

#[tokio::test]
async fn a_cut_is_felt_by_clients_and_an_end_leaves_nothing() {
    let mut lab = Lab::start().await;
    let address = lab.nodes().await[0]["client_address"].as_str().expect("one").to_owned();
    let client = Client::builder([address]).build().expect("an endpoint");
    let reads = async || {
        let read = client.counters().list().level(ReadLevel::Local);
        read.deadline(Duration::from_millis(700)).await.is_ok()
    };
    assert!(reads().await);
    for node in 1..=3 {
        lab.command(json!({"do": "link", "from": node, "to": 0, "cut": true})).await;
    }
    assert!(!reads().await, "answers of no node arrive");
    lab.command(json!({"do": "heal"})).await;
    eventually("answers arrive again", async || reads().await.then_some(())).await;

    let pids = lab.pids().await;
    lab.command(json!({"do": "pause", "node": 2})).await;
    send_signal(lab.child.id().expect("it runs"), Signal::TERM);
    let status = tokio::time::timeout(PATIENCE, lab.child.wait()).await;
    assert!(status.expect("in time").expect("a status").success());
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "a node is left");
    assert!(!lab.directory.exists(), "its directory is left");
}

/// Nobody can act on SIGKILL: the kernel ends the nodes, a paused one too, and the next lab removes the files.
#[tokio::test]
async fn a_lab_that_is_killed_leaves_no_process_and_its_files_only_until_the_next() {
    let mut lab = Lab::start().await;
    let pids = lab.pids().await;
    lab.command(json!({"do": "pause", "node": 1})).await;
    lab.child.kill().await.expect("it can be killed");
    eventually("no node is left", async || pids.iter().all(|pid| !is_alive(*pid)).then_some(()))
        .await;
    assert!(lab.directory.exists());
    let next = Lab::start().await;
    assert!(!lab.directory.exists(), "{} is left", lab.directory.display());
    drop(next);
}
