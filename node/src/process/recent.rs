//! What a process knows of itself for a debug bundle: the last lines of its log, and the machine it is on.
//!
//! The lines are kept in memory, so that they can be asked for where nobody knows where standard error went. Only
//! those from info up: below it logs have names and values (docs/security-model.md).

use std::{
    collections::VecDeque,
    fmt::Write as _,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use tracing_subscriber::fmt::MakeWriter;

use crate::env::{RecentLog, Surroundings};

/// So many lines are kept …
const LINES_MAX: usize = 4096;

/// … and so many bytes of them.
const BYTES_MAX: usize = 1 << 20;

/// A longer line is cut.
const LINE_BYTES_MAX: usize = 16 << 10;

/// The last lines of the log of this process. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct RecentLines(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    lines: VecDeque<String>,
    bytes: usize,
    forgotten: u64,
}

impl RecentLines {
    fn keep(&self, line: &[u8]) {
        let mut line = String::from_utf8_lossy(line).into_owned();
        if line.len() > LINE_BYTES_MAX {
            let end = (0..=LINE_BYTES_MAX).rev().find(|at| line.is_char_boundary(*at));
            line.truncate(end.unwrap_or(0));
            line.push_str(" … (cut)\n");
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += line.len();
        kept.lines.push_back(line);
        while kept.lines.len() > LINES_MAX || kept.bytes > BYTES_MAX {
            let Some(oldest) = kept.lines.pop_front() else { break };
            kept.bytes -= oldest.len();
            kept.forgotten += 1;
        }
    }
}

impl Surroundings for RecentLines {
    fn recent_log(&self) -> RecentLog {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = kept.lines.iter().map(String::as_str).collect();
        RecentLog { lines, forgotten: kept.forgotten }
    }

    fn machine(&self) -> String {
        let system = rustix::system::uname();
        let mut text = String::new();
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            let _ = writeln!(text, "{name} {value}");
        };
        line("tallyd", &env!("BUILD_VERSION"));
        line("profile", &env!("BUILD_PROFILE"));
        line("architecture", &std::env::consts::ARCH);
        line("system", &system.sysname().to_string_lossy());
        line("kernel", &system.release().to_string_lossy());
        line("cores", &std::thread::available_parallelism().map_or(0, usize::from));
        line("pid", &std::process::id());
        for (name, path) in [("memory", "/proc/meminfo"), ("load", "/proc/loadavg")] {
            if let Ok(found) = std::fs::read_to_string(path) {
                line(name, &found.lines().next().unwrap_or_default());
            }
        }
        if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
            for wanted in ["VmRSS:", "VmHWM:", "Threads:"] {
                let found = status.lines().find_map(|line| line.strip_prefix(wanted));
                line(wanted.trim_end_matches(':'), &found.unwrap_or_default().trim());
            }
        }
        if let Ok(limits) = std::fs::read_to_string("/proc/self/limits") {
            let files = limits.lines().find(|line| line.starts_with("Max open files"));
            line(
                "limit",
                &files.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" "),
            );
        }
        text
    }
}

/// Takes one event.
#[derive(Debug)]
pub struct OneLine<'a>(&'a RecentLines);

impl io::Write for OneLine<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.keep(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for RecentLines {
    type Writer = OneLine<'a>;

    fn make_writer(&'a self) -> OneLine<'a> {
        OneLine(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept() {
        let recent = RecentLines::default();
        for number in 0..LINES_MAX + 3 {
            recent.keep(format!("line {number}\n").as_bytes());
        }
        let RecentLog { lines, forgotten } = recent.recent_log();
        assert_eq!((lines.lines().next(), forgotten), (Some("line 3"), 3));
        assert_eq!(lines.lines().count(), LINES_MAX);

        recent.keep(&vec![b'x'; 2 * LINE_BYTES_MAX]);
        let last = recent.recent_log().lines.lines().last().map(str::len);
        assert!(last.is_some_and(|len| len < LINE_BYTES_MAX + 20), "{last:?}");
        for _ in 0..2 * BYTES_MAX / LINE_BYTES_MAX {
            recent.keep(&vec![b'y'; LINE_BYTES_MAX]);
        }
        assert!(recent.recent_log().lines.len() <= BYTES_MAX);
    }

    #[test]
    fn the_machine_is_described() {
        let text = RecentLines::default().machine();
        for name in ["tallyd ", "kernel ", "cores ", "memory ", "VmRSS "] {
            assert!(text.lines().any(|line| line.starts_with(name)), "{name} is not in\n{text}");
        }
    }
}
