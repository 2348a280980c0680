//! The machine under the node: what it has, how it does, what it is called. And its usage, from cgroups.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ContainerImage, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use waggle_runtime::cgroup::Cgroups;
use waggle_wire::v1;

use crate::eviction::{EvictionOptions, Pressure};
use crate::node::Node;
use crate::options::Reserved;
use crate::pods::resize::Amounts;
use crate::pods::table::Table;
use crate::refused;
use crate::{clock, kernel};

/// Between two measurements.
const MEASURE: Duration = Duration::from_secs(5);
/// Images that a node's status names.
const IMAGES: usize = 50;

/// One reading of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) cpus: u64,
    pub(crate) memory: u64,
    pub(crate) memory_available: u64,
    /// What holds the node's folder.
    pub(crate) disk: Disk,
    /// What holds images; the same one unless somebody mounted another there.
    pub(crate) images: Disk,
    pub(crate) tasks: u64,
    pub(crate) most_tasks: u64,
}

/// One reading of a file system; all 0 when it can't be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) bytes: u64,
    pub(crate) bytes_free: u64,
    /// 0 where they are not counted.
    pub(crate) inodes: u64,
    pub(crate) inodes_free: u64,
}

impl Disk {
    /// Reads the file system that holds `path`.
    pub(crate) fn read(path: &Path) -> Self {
        let Ok(stat) = nix::sys::statvfs::statvfs(path) else {
            return Self::default();
        };
        Self {
            // As df counts: blocks that are kept for root are nobody's to use.
            bytes: (stat.blocks() - stat.blocks_free() + stat.blocks_available())
                * stat.fragment_size(),
            bytes_free: stat.blocks_available() * stat.fragment_size(),
            inodes: stat.files(),
            inodes_free: stat.files_available(),
        }
    }
}

impl Machine {
    /// Reads /proc and the file systems of the node's folder and of its images.
    pub(crate) fn read(data: &Path, images: &Path) -> Self {
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let meminfo = file("/proc/meminfo");
        let kib = |key: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
                .unwrap_or(0)
                * 1024
        };
        let loadavg = file("/proc/loadavg");
        let tasks = loadavg
            .split_whitespace()
            .nth(3)
            .and_then(|part| part.split_once('/')?.1.parse().ok());
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory: kib("MemTotal:"),
            memory_available: kib("MemAvailable:"),
            disk: Disk::read(data),
            images: Disk::read(images),
            tasks: tasks.unwrap_or(0),
            most_tasks: file("/proc/sys/kernel/pid_max")
                .trim()
                .parse()
                .unwrap_or(u64::MAX),
        }
    }
}

/// A pressure as a condition of the node: kind, whether it holds, reason and message.
fn pressure(
    held: &BTreeSet<Pressure>,
    which: Pressure,
) -> (&'static str, bool, &'static str, &'static str) {
    let holds = held.contains(&which);
    let (kind, yes, no) = match which {
        Pressure::Memory => (
            "MemoryPressure",
            ("HasInsufficientMemory", "too little memory is available"),
            ("HasSufficientMemory", "memory is available"),
        ),
        Pressure::Disk => (
            "DiskPressure",
            ("HasDiskPressure", "too little of the disk is free"),
            ("HasNoDiskPressure", "the disk has room"),
        ),
        Pressure::Pid => (
            "PIDPressure",
            ("HasInsufficientPID", "most process numbers are taken"),
            ("HasSufficientPID", "process numbers are available"),
        ),
    };
    let (reason, message) = if holds { yes } else { no };
    (kind, holds, reason, message)
}

/// What pods may have of the processor and of memory.
pub(crate) fn allocatable(
    machine: &Machine,
    eviction: &EvictionOptions,
    reserved: Reserved,
) -> Amounts {
    let (memory_kept, _) = eviction.kept(machine);
    Amounts {
        cpu: (machine.cpus * 1000).saturating_sub(reserved.cpu),
        memory: machine.memory.saturating_sub(memory_kept + reserved.memory),
    }
}

/// The node's status of the moment. `fault` says why it is not ready.
pub(crate) fn status(
    node: &Node,
    machine: &Machine,
    fault: Option<&str>,
    images: Vec<ContainerImage>,
) -> NodeStatus {
    let quantities = |cpu: String, memory: u64, disk: u64| -> BTreeMap<String, Quantity> {
        [
            ("cpu", cpu),
            ("memory", format!("{}Ki", memory / 1024)),
            ("ephemeral-storage", format!("{}Ki", disk / 1024)),
            ("pods", node.max_pods.to_string()),
        ]
        .map(|(name, text)| (name.to_owned(), Quantity(text)))
        .into()
    };
    let condition = |kind: &str, holds: bool, reason: &str, message: &str| NodeCondition {
        type_: kind.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..NodeCondition::default()
    };
    let held = node.pressures.borrow().clone();
    let mut conditions: Vec<NodeCondition> = [Pressure::Memory, Pressure::Disk, Pressure::Pid]
        .into_iter()
        .map(|which| {
            let (kind, holds, reason, message) = pressure(&held, which);
            condition(kind, holds, reason, message)
        })
        .collect();
    conditions.push(match refused::condition(&node.refused.borrow()) {
        Some(full) => condition("DatapathFull", true, "CapacityExceeded", &full),
        None => condition(
            "DatapathFull",
            false,
            "TablesHaveRoom",
            "everything is in the datapath's tables",
        ),
    });
    conditions.push(match kernel::condition(&kernel::limits(&node.datapath)) {
        Some(missing) => condition("KernelLimited", true, "FeaturesMissing", &missing),
        None => condition(
            "KernelLimited",
            false,
            "NothingMissing",
            "the kernel has everything that a node uses",
        ),
    });
    conditions.push(match fault {
        None => condition(
            "Ready",
            true,
            "AgentReady",
            "the agent reports and is ready",
        ),
        Some(fault) => condition("Ready", false, "AgentNotReady", fault),
    });
    let address = |kind: &str, address: String| NodeAddress {
        type_: kind.to_owned(),
        address,
    };
    let (_, disk_kept) = node.eviction.kept(machine);
    let Amounts { cpu, memory } = node.allocatable;
    let cpu = match cpu {
        milli if milli % 1000 == 0 => (milli / 1000).to_string(),
        milli => format!("{milli}m"),
    };
    let disk = machine
        .disk
        .bytes
        .saturating_sub(disk_kept + node.reserved.ephemeral_storage);
    NodeStatus {
        capacity: Some(quantities(
            machine.cpus.to_string(),
            machine.memory,
            machine.disk.bytes,
        )),
        allocatable: Some(quantities(cpu, memory, disk)),
        conditions: Some(conditions),
        addresses: Some(
            node.addresses
                .iter()
                .map(|one| address("InternalIP", one.to_string()))
                .chain([address("Hostname", node.name.clone())])
                .collect(),
        ),
        daemon_endpoints: Some(NodeDaemonEndpoints::default()),
        images: Some(images),
        node_info: Some(system_info(&node.version)),
        ..NodeStatus::default()
    }
}

fn system_info(version: &str) -> NodeSystemInfo {
    let file = |path: &str| {
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let release = file("/etc/os-release");
    let pretty = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    NodeSystemInfo {
        architecture: match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
        .to_owned(),
        boot_id: file("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: format!("waggle://{version}"),
        kernel_version: file("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: format!("v{version}"),
        machine_id: file("/etc/machine-id"),
        operating_system: "linux".to_owned(),
        os_image: pretty
            .map(|name| name.trim_matches('"').to_owned())
            .unwrap_or_default(),
        system_uuid: file("/sys/class/dmi/id/product_uuid"),
        ..NodeSystemInfo::default()
    }
}

/// Reports the node's status, as its heartbeat, for as long as it runs.
pub(crate) async fn report(node: Arc<Node>, data: std::path::PathBuf) {
    let mut clusters = node.cluster.subscribe();
    let mut refused = node.refused.subscribe();
    let mut pressures = node.pressures.subscribe();
    loop {
        refused.mark_unchanged();
        pressures.mark_unchanged();
        let mut cluster = clusters.borrow_and_update().clone();
        let machine = Machine::read(&data, &node.folder.images());
        let ping = tokio::time::timeout(Duration::from_secs(2), async {
            node.containers.client().await.ping().await
        });
        let fault = match ping.await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the supervisor does not answer".to_owned()),
        };
        let status = status(&node, &machine, fault.as_deref(), images(&node).await);
        match serde_json::to_vec(&status) {
            Ok(json) => node.outbox.node_status(v1::NodeStatus {
                status_json: json.into(),
            }),
            Err(error) => tracing::error!(%error, "the node's status can't be encoded"),
        }
        let said = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(said + cluster.heartbeat()) => break,
                changed = clusters.changed() => if changed.is_err() { return },
                changed = refused.changed() => if changed.is_err() { return } else { break },
                changed = pressures.changed() => if changed.is_err() { return } else { break },
            }
            // All nodes are told at once to speak more or less often: they don't all speak at once therefore.
            let before = std::mem::replace(&mut cluster, clusters.borrow_and_update().clone());
            if before.epoch != cluster.epoch {
                break;
            }
        }
    }
}

async fn images(node: &Node) -> Vec<ContainerImage> {
    let store = node.images.clone();
    let list = tokio::task::spawn_blocking(move || store.list()).await;
    let mut images = list.ok().and_then(Result::ok).unwrap_or_default();
    images.sort_by_key(|image| std::cmp::Reverse(image.size));
    images.truncate(IMAGES);
    let row = |image: waggle_runtime::images::Image| ContainerImage {
        names: Some(image.names),
        size_bytes: i64::try_from(image.size).ok(),
    };
    images.into_iter().map(row).collect()
}

/// CPU time at an earlier moment, for rates.
type Before = HashMap<String, (u64, std::time::Instant)>;

/// Measures what the node and its containers use, for as long as it runs.
pub(crate) async fn measure(node: Arc<Node>, table: Table) {
    let cgroups = match Cgroups::detect() {
        Ok(cgroups) => cgroups,
        Err(error) => return tracing::error!(%error, "no usage: cgroups can't be found"),
    };
    let mut before = Before::new();
    loop {
        let usage = measure_once(&node, &table, &cgroups, &mut before).await;
        if usage.window_ns > 0 {
            node.outbox.usage(usage);
        }
        let heartbeat = node.cluster.borrow().heartbeat();
        tokio::time::sleep(MEASURE.max(heartbeat)).await;
    }
}

async fn measure_once(
    node: &Node,
    table: &Table,
    cgroups: &Cgroups,
    before: &mut Before,
) -> v1::Usage {
    let client = node.containers.client().await;
    let mut after = Before::new();
    let mut containers = Vec::new();
    for (pod, name) in table.running() {
        let Ok(used) = client.usage(&pod.uid, &name).await else {
            continue;
        };
        let rate = rate(
            before,
            &mut after,
            format!("{}/{name}", pod.uid),
            used.cpu_ns,
        );
        containers.extend(rate.map(|(cpu_nanocores, _)| v1::ContainerUsage {
            namespace: pod.namespace,
            pod: pod.name,
            container: name,
            cpu_nanocores,
            memory_bytes: used.memory_bytes,
        }));
    }
    let whole = cgroups.usage(&node.cgroup).unwrap_or_default();
    let (cpu_nanocores, window_ns) =
        rate(before, &mut after, String::new(), whole.cpu_ns).unwrap_or_default();
    *before = after;
    v1::Usage {
        time_ns: clock::now().unsigned_abs(),
        cpu_nanocores,
        memory_bytes: whole.memory_bytes,
        window_ns,
        containers,
    }
}

/// Cores in use times 1e9 since the last time, and the nanoseconds between; `None` the first time.
fn rate(before: &Before, after: &mut Before, key: String, cpu_ns: u64) -> Option<(u64, u64)> {
    let now = std::time::Instant::now();
    let last = before.get(&key).copied();
    after.insert(key, (cpu_ns, now));
    let (cpu_before, then) = last?;
    let window = u64::try_from(now.duration_since(then).as_nanos())
        .ok()
        .filter(|ns| *ns > 0)?;
    let used = u128::from(cpu_ns.saturating_sub(cpu_before));
    Some((
        u64::try_from(used * 1_000_000_000 / u128::from(window)).unwrap_or(u64::MAX),
        window,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::read(Path::new("/"), Path::new("/proc"));
        assert!(machine.cpus > 0 && machine.memory > 0 && machine.most_tasks > 0);
        assert!(machine.memory_available <= machine.memory);
        assert!(machine.disk.bytes > 0 && machine.disk.bytes_free <= machine.disk.bytes);
        assert_ne!(machine.disk, machine.images);
    }

    #[test]
    fn rates_need_two_readings() {
        let mut now = Before::new();
        assert_eq!(rate(&Before::new(), &mut now, "a".into(), 5), None);
        let second = std::time::Instant::now()
            .checked_sub(Duration::from_secs(1))
            .unwrap();
        let before = Before::from([("a".to_owned(), (0, second))]);
        let (cores, window) = rate(&before, &mut now, "a".into(), 500_000_000).unwrap();
        assert!(
            (400_000_000..=500_000_000).contains(&cores) && window >= 1_000_000_000,
            "{cores} {window}"
        );
    }
}
