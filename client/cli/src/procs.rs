//! Processes of this machine: their CPU time, and their end.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// Linux counts CPU time in hundredths of a second, whatever its own tick is (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// User and system time that these processes have used so far.
pub(crate) fn cpu_time(pids: &[u32]) -> io::Result<Duration> {
    let mut ticks = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        let stat = std::fs::read_to_string(&path)
            .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
        ticks += cpu_ticks(&stat).ok_or_else(|| io::Error::other(format!("{path}: unreadable")))?;
    }
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// Fields 14 and 15. The second field is a name in parentheses that may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Resident memory of a process, in bytes; nothing if it has ended.
pub(crate) fn memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// This process runs on this machine and is a node.
pub(crate) fn is_node(pid: u32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    name.is_ok_and(|name| name.trim().starts_with("tallyd"))
}

/// Sends SIGKILL.
pub(crate) fn kill(pid: u32) -> io::Result<()> {
    signal(pid, Signal::KILL)
}

fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("no such process"))?;
    Ok(kill_process(pid, signal)?)
}

/// `tallyd` beside this executable, or else in PATH.
fn find_tallyd() -> io::Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("tallyd");
    if beside.is_file() {
        return Ok(beside);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&path).map(|directory| directory.join("tallyd"));
    candidates
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| io::Error::other("tallyd is neither beside this executable nor in PATH"))
}

/// A cluster that this process started, in a directory that is removed with it.
#[derive(Debug)]
pub(crate) struct OwnCluster {
    child: Child,
    directory: PathBuf,
}

/// Nodes stop by themselves within this time, or are killed with their supervisor.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

impl OwnCluster {
    pub(crate) fn start() -> io::Result<Self> {
        let tallyd = find_tallyd()?;
        let directory = std::env::temp_dir().join(format!("tally-demo-{}", std::process::id()));
        std::fs::create_dir(&directory)?;
        let log = std::fs::File::create(directory.join("dev.log"))?;
        let child = Command::new(tallyd)
            .arg("dev")
            .arg("--data")
            .arg(directory.join("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self { child, directory })
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.directory.join("dev.log")
    }

    /// The supervisor has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().map_or(true, |status| status.is_some())
    }

    /// Stops the nodes; keeps their data if something is to be looked into.
    pub(crate) async fn stop(mut self, keep: bool) -> Option<PathBuf> {
        if let Some(pid) = self.child.id() {
            let _ = signal(pid, Signal::TERM);
        }
        if tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
        if keep {
            return Some(self.directory);
        }
        remove(&self.directory);
        None
    }
}

fn remove(directory: &Path) {
    let _ = std::fs::remove_dir_all(directory);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "7 (a ) b (c) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20 0";
        assert_eq!(cpu_ticks(stat), Some(400));
        assert_eq!(cpu_ticks("7 (x"), None);
        assert!(cpu_time(&[std::process::id()]).is_ok());
    }

    #[test]
    fn this_test_is_not_a_node() {
        assert!(!is_node(std::process::id()));
    }
}
