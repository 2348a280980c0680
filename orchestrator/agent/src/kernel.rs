//! What this machine's kernel, or what it lets this process do, lacks of what a node uses: told in one line at the start and
//! as a condition of the node. Everything works without; what takes its place is named.

use waggle_datapath::{Datapath, PacketHooks};
use waggle_runtime::cgroup::Cgroups;

/// Bit of CAP_SYS_RESOURCE (linux/capability.h).
const SYS_RESOURCE: u32 = 24;

/// What is missing, each with what takes its place.
pub(crate) fn limits(datapath: &Datapath) -> Vec<String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let own = lacks_resources(&status).then(|| {
        "CAP_SYS_RESOURCE: containers get no higher limits and no lower OOM score than the agent has"
            .to_owned()
    });
    datapath.limits().into_iter().chain(own).collect()
}

/// Whether a process with this /proc/PID/status may not raise limits.
fn lacks_resources(status: &str) -> bool {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    effective.is_some_and(|mask| mask & 1 << SYS_RESOURCE == 0)
}

/// The words of the node's condition; `None` when nothing is missing.
pub(crate) fn condition(limits: &[String]) -> Option<String> {
    (!limits.is_empty()).then(|| format!("there is no {}", limits.join("; no ")))
}

/// Says it once.
pub(crate) fn tell(datapath: &Datapath) {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cgroups = match Cgroups::detect() {
        Ok(found) if found.is_v2() => "v2",
        _ => "v1",
    };
    let hooks = match datapath.packet_hooks() {
        PacketHooks::Tcx => "tcx",
        PacketHooks::Clsact => "clsact",
    };
    let missing = condition(&limits(datapath)).unwrap_or_else(|| "nothing is missing".to_owned());
    tracing::info!(
        kernel = kernel.trim(),
        cgroups,
        hooks,
        missing,
        "the kernel"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_capability_is_seen() {
        assert!(!lacks_resources("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(lacks_resources("Name:\tx\nCapEff:\t000001fffeffffff\n"));
        assert!(!lacks_resources("nothing"));
    }

    #[test]
    fn what_is_missing_is_one_sentence() {
        let limits = ["tcx: filters".to_owned(), "XDP: hooks".to_owned()];
        assert_eq!(
            condition(&limits).as_deref(),
            Some("there is no tcx: filters; no XDP: hooks")
        );
        assert_eq!(condition(&[]), None);
    }
}
