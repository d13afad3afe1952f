//! The command that is tested. Its processes are a group of their own, of which nothing is left when the run is over,
//! however that ends.

use std::{
    ffi::OsString,
    io,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, ChildStdin, Command},
};

use super::named;
use crate::ends::Ends;

/// A command that was told to stop is killed after this.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// How often it is looked whether the command was stopped: soon enough for who waits for it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How the command ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
}

impl Ended {
    pub(super) fn code(&self) -> u8 {
        let code = self.status.code();
        let code = code.or_else(|| self.status.signal().map(|signal| 128 + signal)).unwrap_or(1);
        u8::try_from(code).unwrap_or(1)
    }

    pub(super) fn failed(&self) -> Option<String> {
        (!self.status.success()).then(|| self.status.to_string())
    }
}

/// A command that runs.
pub(super) struct Running {
    child: Child,
    group: Pid,
    guard: Guard,
}

/// A process that kills the group should we be killed: it reads what nobody writes, and the system ends that for it.
struct Guard {
    process: Child,
    /// Open for as long as we live.
    line: ChildStdin,
}

/// It is told the group's id. `kill -- -ID` is no `kill` for every shell.
const GUARD: &str = r#"read -r group && { read -r nothing; kill -KILL "-$group"; }"#;

impl Guard {
    fn start() -> io::Result<Guard> {
        let mut process = Command::new("sh")
            .args(["-c", GUARD])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What comes from the terminal is not for it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| named(Path::new("sh"), &error))?;
        let line = process.stdin.take().expect("it was asked for");
        Ok(Guard { process, line })
    }
}

/// Starts it, with the addresses of the nodes.
pub(super) async fn start(command: &[OsString], endpoints: &str) -> io::Result<Running> {
    // Before the command, as that may run on by itself as soon as it has begun.
    let mut guard = Guard::start()?;
    let (program, rest) = command.split_first().expect("clap asks for a command");
    let child = Command::new(program)
        .args(rest)
        .env("TALLY_ENDPOINTS", endpoints)
        // A group that is not the terminal's is stopped when it reads from there.
        .stdin(Stdio::null())
        // Of its own, so that all of it can be ended; what was begun on a terminal is told by us of Ctrl-C.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| named(Path::new(program), &error))?;
    let group = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    let group = group.expect("it has not been waited for");
    let id = format!("{}\n", group.as_raw_nonzero());
    guard.line.write_all(id.as_bytes()).await.inspect_err(|_| tell(group, Signal::KILL))?;
    Ok(Running { child, group, guard })
}

fn tell(group: Pid, signal: Signal) {
    // All of it may have ended.
    let _ = rustix::process::kill_process_group(group, signal);
}

impl Running {
    /// Waits until it has ended, and passes on a word that it is to stop. What it has left running ends with it.
    pub(super) async fn ended(mut self, ends: &mut Ends) -> io::Result<Ended> {
        let status = self.status(ends).await;
        // Before the guard's line closes: by the time it would kill, the id may be another group's.
        let _ = self.guard.process.kill().await;
        // No other process can have the id while one of the group lives; if none does, nobody had time to get it.
        tell(self.group, Signal::KILL);
        Ok(Ended { status: status? })
    }

    async fn status(&mut self, ends: &mut Ends) -> io::Result<ExitStatus> {
        let mut turns = tokio::time::interval(LOOK_EVERY);
        let mut is_told = false;
        loop {
            tokio::select! {
                status = self.child.wait() => return status,
                () = ends.come() => break,
                _ = turns.tick() => {}
            }
            if !is_told && is_stopped(self.group) {
                is_told = true;
                eprintln!(
                    "tallyd chaos: the command was stopped, as who asks the terminal is: it has none here; \
                     kill -CONT -{} lets it go on",
                    self.group.as_raw_nonzero()
                );
            }
        }
        tell(self.group, Signal::TERM);
        // One that was stopped hears of it only when it goes on.
        tell(self.group, Signal::CONT);
        match tokio::time::timeout(STOP_GRACE, self.child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                tell(self.group, Signal::KILL);
                self.child.wait().await
            }
        }
    }
}

/// Whether a child stands still. That is only looked at: how it ends is for whoever waits for it.
fn is_stopped(child: Pid) -> bool {
    let looking = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let found = rustix::process::waitid(WaitId::Pid(child), looking);
    found.is_ok_and(|status| status.is_some_and(|status| status.stopped()))
}
