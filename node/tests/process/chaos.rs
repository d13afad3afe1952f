//! `tallyd chaos`: its exit code is the command's, unless the cluster is what failed, and it leaves nothing.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::nodes::{TALLYD, is_alive, send_signal};

/// Far more than any of this takes, and less than a command that nobody ends.
const PATIENCE: Duration = Duration::from_secs(60);

fn chaos(directory: &Path, arguments: &[&str], command: &str) -> Output {
    Command::new(TALLYD)
        .arg("chaos")
        .args(arguments)
        .args(["--", "sh", "-c", command])
        // Its nodes' directories are in here, so what it leaves would be seen.
        .env("TMPDIR", directory)
        .output()
        .expect("it can be started")
}

/// Begins one that is to be ended early. A test runner that was told to ignore hangups passes that on.
fn begin(directory: &Path, command: &str) -> Child {
    Command::new("env")
        .args(["--default-signal", TALLYD, "chaos", "--", "sh", "-c", command])
        .env("TMPDIR", directory)
        .stderr(Stdio::piped())
        .spawn()
        .expect("it can be started")
}

#[expect(
    clippy::disallowed_methods,
    reason = "processes are waited for, and nothing of it is simulated"
)]
fn until(what: &str, fact: impl Fn() -> bool) {
    let began = Instant::now();
    while !fact() {
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The process id that a command wrote into a file.
fn written_pid(file: &Path) -> u32 {
    let read = || fs::read_to_string(file).ok()?.trim().parse().ok();
    until("the command writes its process id", || read().is_some());
    read().expect("it was there")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn plan(directory: &Path, text: &str) -> String {
    let file = directory.join("plan");
    fs::write(&file, text).expect("it can be written");
    file.to_str().expect("a path").to_owned()
}

fn left(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("it is there");
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("tally-lab-")).collect()
}

#[test]
fn the_command_finds_the_nodes_and_its_exit_code_is_the_result() {
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let (page, junit) = (at.join("out.html"), at.join("out.xml"));
    let plan = plan(at, "every 3s\nat 200ms for 300ms kill leader\nat 1s for 500ms cut follower\n");
    let outputs = ["--report", page.to_str().unwrap(), "--junit", junit.to_str().unwrap()];
    let arguments = [&["--seed", "5", "--plan", &plan], &outputs[..]].concat();
    let output = chaos(at, &arguments, "echo $TALLY_ENDPOINTS; sleep 4; exit 3");
    let told = said(&output);
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(told.contains("kept its promises"), "{told}");
    assert!(told.contains("tallyd chaos --seed 5 --plan"), "how to have it again: {told}");
    assert!(
        told.contains("-- sh -c 'echo $TALLY_ENDPOINTS; sleep 4; exit 3'"),
        "for a shell: {told}"
    );
    let endpoints = String::from_utf8_lossy(&output.stdout);
    let endpoints: Vec<&str> = endpoints.trim().split(',').collect();
    assert!(endpoints.len() == 3 && endpoints.iter().all(|one| one.starts_with("127.0.0.1:")));
    let junit = fs::read_to_string(junit).expect("it was written");
    assert!(junit.contains("tests=\"6\" failures=\"1\""), "the command's own: {junit}");
    assert!(fs::read_to_string(page).expect("it was written").contains("id=\"window-0\""));
    assert_eq!(left(at), Vec::<String>::new());
}

#[test]
fn a_cluster_that_breaks_a_promise_is_the_result_whatever_the_command_says() {
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let plan = plan(at, "every 20s\nat 1s for 2s kill all\n");
    // Two disks of three are lost while no process runs: what was acknowledged can't be answered for any more.
    let command =
        "sleep 2; rm -rf \"$TMPDIR\"/tally-lab-*/node-2 \"$TMPDIR\"/tally-lab-*/node-3; sleep 2";
    let output = chaos(at, &["--plan", &plan], command);
    let told = said(&output);
    assert_eq!(output.status.code(), Some(99), "{told}");
    assert!(told.contains("BROKEN: all is answered once everything is mended"), "{told}");
    assert_eq!(left(at), Vec::<String>::new());
}

#[test]
fn what_can_t_be_tested_says_why() {
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let plan = plan(at, "at 1s for 1s explode leader\n");
    let endless = at.join("endless");
    fs::write(&endless, "every 0s\nat 0s for 0s kill leader\n").expect("it can be written");
    for (arguments, says) in [
        (vec!["--plan", endless.to_str().unwrap()], "line 2: a fault that lasts for no time"),
        (vec!["--plan", &plan], "line 1: \"explode\" is none of kill"),
        (vec!["--plan", "nowhere"], "the plan nowhere: No such file"),
        (vec!["--report", "nowhere/page.html"], "nowhere/page.html: No such file"),
        (vec!["--junit", "nowhere/out.xml"], "nowhere/out.xml: No such file"),
    ] {
        let output = chaos(at, &arguments, "true");
        assert_eq!(output.status.code(), Some(125));
        assert!(said(&output).contains(says), "{}", said(&output));
    }
    // What an earlier run wrote is not taken for what came of this one.
    let junit = at.join("old.xml");
    fs::write(&junit, "all well").expect("it can be written");
    let output = Command::new(TALLYD)
        .args(["chaos", "--junit", junit.to_str().unwrap(), "--", "no-such-command-of-all"])
        .env("TMPDIR", at)
        .output()
        .expect("it can be started");
    assert_eq!(output.status.code(), Some(125));
    assert!(said(&output).contains("no-such-command-of-all: "), "{}", said(&output));
    assert!(!junit.exists(), "{:?}", fs::read_to_string(&junit));
    assert_eq!(left(at), Vec::<String>::new());
    let printed = |seed: &str| {
        let output = Command::new(TALLYD)
            .args(["chaos", "--print-plan", "--plan", "rough", "--seed", seed])
            .output()
            .expect("it can be started");
        String::from_utf8(output.stdout).expect("text")
    };
    assert_eq!(printed("7"), printed("7"));
    assert_ne!(printed("7"), printed("8"));
    assert!(printed("7").starts_with("every 60s\nat "), "{}", printed("7"));
}

#[test]
fn the_command_has_no_input_and_what_it_left_running_ends_with_it() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("pid");
    let command = format!(
        "if read -r word; then exit 7; fi; sleep 600 >/dev/null 2>&1 & echo $! > {}",
        file.display()
    );
    let mut chaos = Command::new(TALLYD)
        .args(["chaos", "--", "sh", "-c", &command])
        .env("TMPDIR", directory.path())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it can be started");
    // To be had by whoever reads it, as a terminal would be.
    let mut input = chaos.stdin.take().expect("piped");
    input.write_all(b"word\n").expect("it is open");
    let output = chaos.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let sleeper = written_pid(&file);
    until("what the command left is gone", || !is_alive(sleeper));
    assert_eq!(left(directory.path()), Vec::<String>::new());
}

#[test]
fn a_command_that_was_stopped_is_told_of_and_hears_that_it_is_to_end() {
    let directory = TempDir::new().unwrap();
    let mut chaos = begin(directory.path(), "kill -STOP $$; exec sleep 600");
    let mut lines = BufReader::new(chaos.stderr.take().expect("piped")).lines();
    let told = lines.find(|line| line.as_ref().unwrap().contains("the command was stopped"));
    assert!(told.is_some(), "nobody is told");
    send_signal(chaos.id(), Signal::TERM);
    // It is its end by SIGTERM, and not by SIGKILL ten seconds later.
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(chaos.wait().unwrap().code(), Some(128 + 15), "{rest:?}");
    assert_eq!(left(directory.path()), Vec::<String>::new());
}

#[test]
fn a_run_that_is_ended_early_leaves_nothing() {
    // While the nodes start.
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let chaos = begin(at, "sleep 600");
    until("the nodes have a directory", || !left(at).is_empty());
    send_signal(chaos.id(), Signal::TERM);
    let output = chaos.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    assert!(said(&output).contains("before the command began"), "{}", said(&output));
    assert_eq!(left(at), Vec::<String>::new());

    // While the command runs, by whatever means.
    for (signal, code) in
        [(Signal::HUP, Some(128 + 15)), (Signal::QUIT, Some(128 + 15)), (Signal::KILL, None)]
    {
        let directory = TempDir::new().unwrap();
        let at = directory.path();
        let file = at.join("pid");
        let chaos = begin(at, &format!("echo $$ > {}; exec sleep 600 2>/dev/null", file.display()));
        let command = written_pid(&file);
        send_signal(chaos.id(), signal);
        let output = chaos.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), code, "{}", said(&output));
        until("the command is gone", || !is_alive(command));
        // Who is killed removes nothing; the next one does.
        assert!(signal == Signal::KILL || left(at).is_empty(), "{signal:?}: {:?}", left(at));
    }
}
