//! Runs of the binary against a cluster: into pipes, into an output that takes nothing, on a terminal, and
//! cut short.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
};
use serde_json::Value;

use crate::fake::Cluster;

pub(crate) struct Run {
    pub(crate) exit: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }

    /// Lines of JSON.
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn command(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tally"));
    command.args(arguments).env("TALLY_ENDPOINTS", cluster.endpoints().join(","));
    command
}

/// Runs `tally` against a cluster.
pub(crate) async fn tally(cluster: &Cluster, arguments: &[&str]) -> Run {
    with_input(cluster, arguments, "").await
}

/// The same, with the arguments in a line.
pub(crate) async fn line(cluster: &Cluster, arguments: &str) -> Run {
    tally(cluster, &arguments.split_whitespace().collect::<Vec<_>>()).await
}

pub(crate) async fn with_input(cluster: &Cluster, arguments: &[&str], input: &str) -> Run {
    run(cluster, arguments, input, Stdio::piped()).await
}

/// Runs `tally` with an output that takes nothing.
pub(crate) async fn into_full(cluster: &Cluster, arguments: &[&str]) -> Run {
    let full = File::options().write(true).open("/dev/full").unwrap();
    run(cluster, arguments, "", full.into()).await
}

pub(crate) async fn run(cluster: &Cluster, arguments: &[&str], input: &str, stdout: Stdio) -> Run {
    let mut command = command(cluster, arguments);
    command.stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::piped());
    let input = input.to_owned();
    let output = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    });
    ended(output.await.unwrap())
}

fn ended(output: std::process::Output) -> Run {
    Run {
        exit: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs `tally` and presses Ctrl-C when something is so.
pub(crate) async fn cut_short(
    cluster: &Cluster,
    arguments: &[&str],
    when: impl AsyncFnOnce(),
) -> Run {
    cut_short_again(cluster, arguments, when, 1).await
}

/// The same, so many times.
pub(crate) async fn cut_short_again(
    cluster: &Cluster,
    arguments: &[&str],
    when: impl AsyncFnOnce(),
    times: u32,
) -> Run {
    let mut command = command(cluster, arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let pid = Pid::from_raw(child.id() as i32).unwrap();
    when().await;
    for time in 0..times {
        if time > 0 {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        kill_process(pid, Signal::INT).unwrap();
    }
    ended(tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap())
}

/// Runs what ends by no other way than a signal: what it had printed.
pub(crate) async fn ended_by_signal(
    cluster: &Cluster,
    arguments: &[&str],
    when: impl AsyncFnOnce(),
) -> String {
    let mut command = command(cluster, arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    when().await;
    child.kill().unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

/// Runs `tally` where a person looks: what both outputs show, and the exit status.
pub(crate) async fn on_terminal(cluster: &Cluster, arguments: &[&str]) -> (String, i32) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let theirs: OwnedFd =
        ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    let mut command = command(cluster, arguments);
    command.stdin(Stdio::null()).stdout(theirs.try_clone().unwrap()).stderr(theirs);
    let ran = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        // The command holds the other end, too: without it there would be no end.
        drop(command);
        let (mut shown, mut terminal, mut some) = (Vec::new(), File::from(ours), [0; 4096]);
        // At the end the other side is gone, which is an error here.
        while let Ok(bytes @ 1..) = terminal.read(&mut some) {
            shown.extend(&some[..bytes]);
        }
        (String::from_utf8_lossy(&shown).replace("\r\n", "\n"), child.wait().unwrap())
    });
    let (shown, status) = ran.await.unwrap();
    (shown, status.code().unwrap())
}

/// Runs `tally` where a person types: each of the keys half a second after the one before.
pub(crate) async fn typed(cluster: &Cluster, arguments: &[&str], keys: &[&str]) -> (String, i32) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let theirs: OwnedFd =
        ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    rustix::termios::tcsetwinsize(
        &ours,
        rustix::termios::Winsize { ws_row: 30, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 },
    )
    .unwrap();
    let mut command = command(cluster, arguments);
    command.stdin(theirs.try_clone().unwrap());
    command.stdout(theirs.try_clone().unwrap()).stderr(theirs);
    let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    let ran = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        drop(command);
        let mut keyboard = File::from(ours.try_clone().unwrap());
        tokio::spawn(async move {
            for key in keys {
                tokio::time::sleep(Duration::from_millis(700)).await;
                let _ = keyboard.write_all(key.as_bytes());
            }
        });
        let (mut shown, mut terminal, mut some) = (Vec::new(), File::from(ours), [0; 4096]);
        while let Ok(bytes @ 1..) = terminal.read(&mut some) {
            shown.extend(&some[..bytes]);
        }
        (String::from_utf8_lossy(&shown).into_owned(), child.wait().unwrap())
    });
    let (shown, status) = ran.await.unwrap();
    (shown, status.code().unwrap())
}
