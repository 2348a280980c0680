//! What the machine's memory is used for: by the kernel's own count, and by the kinds of processes of a cluster.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

/// Whose process it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Server,
    Agent,
    /// The keeper, the supervisor and its workers.
    Supervisor,
    Pod,
}

/// One reading. All amounts are KiB.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) available: u64,
    pub(crate) slab: u64,
    pub(crate) stacks_and_tables: u64,
    pub(crate) per_cpu: u64,
    /// Private memory and number of processes.
    processes: BTreeMap<Kind, (u64, u64)>,
}

impl Memory {
    /// Reads /proc; processes are those below this cgroup, `waggle/bench`.
    pub(crate) fn read(cgroup: &str) -> Result<Self> {
        let meminfo = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
        let mut memory = Self {
            available: field(&meminfo, "MemAvailable:"),
            slab: field(&meminfo, "Slab:"),
            stacks_and_tables: field(&meminfo, "KernelStack:") + field(&meminfo, "PageTables:"),
            per_cpu: field(&meminfo, "Percpu:"),
            processes: BTreeMap::new(),
        };
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            // Those that are no process, or have just ended, have no such files.
            let read = |file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
            let Some(kind) = kind(&read("cgroup"), &read("cmdline"), cgroup) else {
                continue;
            };
            let status = read("status");
            let (kib, count) = memory.processes.entry(kind).or_default();
            *kib += field(&status, "RssAnon:") + field(&status, "RssShmem:");
            *count += 1;
        }
        Ok(memory)
    }

    /// What programs can still have, KiB.
    pub(crate) fn available() -> Result<u64> {
        let meminfo = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
        Ok(field(&meminfo, "MemAvailable:"))
    }

    /// Private memory of all processes of a kind.
    pub(crate) fn of(&self, kind: Kind) -> u64 {
        self.processes.get(&kind).map_or(0, |(kib, _)| *kib)
    }

    /// How many there are.
    pub(crate) fn count(&self, kind: Kind) -> u64 {
        self.processes.get(&kind).map_or(0, |(_, count)| *count)
    }
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn kind(cgroups: &str, cmdline: &str, cgroup: &str) -> Option<Kind> {
    let below = format!("/{cgroup}/");
    let own = cgroups.lines().find(|line| line.contains(&below))?;
    if own.contains("/pods/") {
        return Some(Kind::Pod);
    }
    match cmdline.split('\0').nth(1)? {
        "server" => Some(Kind::Server),
        "agent" => Some(Kind::Agent),
        _ => Some(Kind::Supervisor),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_told_by_cgroup_and_arguments() {
        for (cgroups, cmdline, expect) in [
            ("0::/user.slice", "waggle\0agent", None),
            ("0::/waggle/other/node1/agent", "waggle\0agent", None),
            (
                "2:cpu:/\n0::/waggle/bench/node1/agent",
                "waggle\0agent",
                Some(Kind::Agent),
            ),
            (
                "0::/waggle/bench/server",
                "waggle\0server\0--data",
                Some(Kind::Server),
            ),
            (
                "0::/waggle/bench/node1/runtime",
                "waggle\0worker",
                Some(Kind::Supervisor),
            ),
            (
                "0::/waggle/bench/node1/pods/u/c",
                "/answer\0serve",
                Some(Kind::Pod),
            ),
        ] {
            assert_eq!(kind(cgroups, cmdline, "waggle/bench"), expect, "{cgroups}");
        }
        assert_eq!(field("A: 1 kB\nSlab:   12 kB\n", "Slab:"), 12);
        assert_eq!(field("", "Slab:"), 0);
    }
}
