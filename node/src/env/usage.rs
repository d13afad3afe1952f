//! What the process uses of the machine, for its metrics.

use super::descriptors::open_files_max;

/// What a process uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// CPU time, user and system, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// File descriptors that are open.
    pub open_files: u64,
    /// … and that may be.
    pub open_files_max: u64,
}

impl Usage {
    /// Of this process. What the system does not say is 0.
    pub(super) fn of_this_process() -> Usage {
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let open_files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Usage {
            cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
            resident_bytes: resident_bytes(&status),
            // The one that just looked is not among them.
            open_files: (open_files as u64).saturating_sub(1),
            open_files_max: open_files_max(),
        }
    }
}

fn resident_bytes(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let Usage { resident_bytes, open_files, open_files_max, .. } = Usage::of_this_process();
        assert!(resident_bytes > 1 << 20, "{resident_bytes}");
        assert!((3..open_files_max).contains(&open_files), "{open_files} of {open_files_max}");
    }

    #[test]
    fn memory_is_read_from_its_line() {
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t   12 kB\nRssAnon: 3 kB\n"), 12 * 1024);
        assert_eq!(resident_bytes(""), 0);
    }
}
