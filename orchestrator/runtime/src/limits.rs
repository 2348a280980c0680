//! What is written into cgroup files for a container's limits, on either version: pure. Who writes it: `cgroup` on
//! version 1 and for changes of a running container, libcontainer at creation on version 2.

use crate::spec::ResourceSpec;

/// CFS period, microseconds.
pub(crate) const CPU_PERIOD: u64 = 100_000;

/// Devices that every container may use, as runc and crun have them: making nodes; null, zero, full, tty, console,
/// random, urandom; terminals; tun.
const DEVICES: [&str; 12] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
    "c 10:200 rwm",
];

/// One write into a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Controller; on version 2 it only names what the file belongs to.
    pub(crate) controller: &'static str,
    pub(crate) file: &'static str,
    pub(crate) value: String,
}

fn setting(controller: &'static str, file: &'static str, value: impl ToString) -> Setting {
    Setting {
        controller,
        file,
        value: value.to_string(),
    }
}

/// Files of version 1 for the limits that are given.
pub(crate) fn v1(limits: &ResourceSpec) -> Vec<Setting> {
    let mut all = Vec::new();
    if let Some(milli) = limits.cpu_request_milli {
        all.push(setting("cpu", "cpu.shares", cpu_shares(milli)));
    }
    if let Some(milli) = limits.cpu_limit_milli {
        all.push(setting("cpu", "cpu.cfs_period_us", CPU_PERIOD));
        all.push(setting("cpu", "cpu.cfs_quota_us", cpu_quota(milli)));
    }
    if let Some(bytes) = limits.memory_limit {
        all.push(setting(
            "memory",
            "memory.limit_in_bytes",
            i64::try_from(bytes).unwrap_or(i64::MAX),
        ));
    }
    if let Some(pids) = limits.pids_limit {
        all.push(setting("pids", "pids.max", pids));
    }
    all
}

/// Files of version 2 for the limits that are given.
pub(crate) fn v2(limits: &ResourceSpec) -> Vec<Setting> {
    let mut all = Vec::new();
    if let Some(milli) = limits.cpu_request_milli {
        // As the OCI runtimes have it: 2 to 262,144 shares are 1 to 10,000.
        let weight = 1 + (cpu_shares(milli) - 2) * 9999 / 262_142;
        all.push(setting("cpu", "cpu.weight", weight));
    }
    if let Some(milli) = limits.cpu_limit_milli {
        let quota = format!("{} {CPU_PERIOD}", cpu_quota(milli));
        all.push(setting("cpu", "cpu.max", quota));
    }
    if let Some(bytes) = limits.memory_limit {
        all.push(setting("memory", "memory.max", bytes));
    }
    if let Some(pids) = limits.pids_limit {
        all.push(setting("pids", "pids.max", pids));
    }
    all
}

/// Rules of version 1's device controller.
pub(crate) fn v1_devices(privileged: bool) -> Vec<Setting> {
    if privileged {
        return vec![setting("devices", "devices.allow", "a *:* rwm")];
    }
    let mut all = vec![setting("devices", "devices.deny", "a *:* rwm")];
    all.extend(DEVICES.map(|rule| setting("devices", "devices.allow", rule)));
    all
}

/// 1,024 shares a core, and never fewer than the kernel takes.
pub(crate) fn cpu_shares(milli: u64) -> u64 {
    (milli.saturating_mul(1024) / 1000).clamp(2, 262_144)
}

/// Microseconds of a period; the kernel takes no less than a millisecond.
pub(crate) fn cpu_quota(milli: u64) -> i64 {
    i64::try_from(milli.saturating_mul(CPU_PERIOD) / 1000)
        .unwrap_or(i64::MAX)
        .max(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_stay_within_what_the_kernel_takes() {
        assert_eq!(cpu_shares(0), 2);
        assert_eq!(cpu_shares(1000), 1024);
        assert_eq!(cpu_shares(u64::MAX), 262_144);
        assert_eq!(cpu_quota(1), 1000);
        assert_eq!(cpu_quota(250), 25_000);
    }

    #[test]
    fn only_what_is_limited_is_written() {
        let none = v1(&ResourceSpec::default());
        assert_eq!(none, []);
        let all = v1(&ResourceSpec {
            cpu_request_milli: Some(100),
            cpu_limit_milli: Some(500),
            memory_limit: Some(1 << 20),
            pids_limit: Some(7),
        });
        let files: Vec<_> = all.iter().map(|s| (s.file, s.value.as_str())).collect();
        assert_eq!(
            files,
            [
                ("cpu.shares", "102"),
                ("cpu.cfs_period_us", "100000"),
                ("cpu.cfs_quota_us", "50000"),
                ("memory.limit_in_bytes", "1048576"),
                ("pids.max", "7"),
            ]
        );
    }

    #[test]
    fn version_2_has_the_same_limits_in_other_words() {
        let all = v2(&ResourceSpec {
            cpu_request_milli: Some(1000),
            cpu_limit_milli: Some(500),
            memory_limit: Some(1 << 20),
            pids_limit: None,
        });
        let files: Vec<_> = all.iter().map(|s| (s.file, s.value.as_str())).collect();
        let expect = [
            ("cpu.weight", "39"),
            ("cpu.max", "50000 100000"),
            ("memory.max", "1048576"),
        ];
        assert_eq!(files, expect);
    }

    #[test]
    fn devices_are_denied_before_some_are_allowed() {
        let rules = v1_devices(false);
        assert_eq!(rules[0].file, "devices.deny");
        assert!(rules[1..].iter().all(|r| r.file == "devices.allow"));
        assert_eq!(v1_devices(true).len(), 1);
    }
}
