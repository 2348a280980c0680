//! Looks at what the node is short of, tells, makes room by removing images, and gives pods up. What follows from a look is
//! `eviction`'s to say.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use waggle_runtime::cgroup::{Cgroups, pod_path};

use crate::clock;
use crate::disk_usage::{Held, local_storage};
use crate::eviction::{Candidate, Pressure, Share, Watcher, victim};
use crate::image_gc;
use crate::machine::Machine;
use crate::node::Node;
use crate::pods::desired::Desired;
use crate::pods::qos::requested;
use crate::pods::table::Table;

/// Between two looks, as kubelet has it.
const PERIOD: Duration = Duration::from_secs(10);
/// How long a pod that was given up may take to end before the next one goes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Looks for as long as it runs.
pub(crate) async fn run(node: Arc<Node>, table: Table, data: PathBuf) {
    let options = &node.eviction;
    let cgroups = match Cgroups::detect() {
        Ok(cgroups) => cgroups,
        Err(error) => return tracing::error!(%error, "no eviction: cgroups can't be found"),
    };
    let mut watcher = Watcher::default();
    let mut going: Option<(String, Instant)> = None;
    loop {
        let mut look = || {
            let machine = Machine::read(&data, &node.folder.images());
            let (pressures, due) = watcher.look(options, &machine, clock::now());
            for due in due.iter().filter(|due| due.news) {
                node.recorder.node("EvictionThresholdMet", due.message());
            }
            (pressures, due.into_iter().next())
        };
        let (mut pressures, mut due) = look();
        let of_disk = due
            .as_ref()
            .is_some_and(|d| d.signal.pressure() == Pressure::Disk);
        if of_disk {
            match image_gc::collect(&node, &table, u64::MAX).await {
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "disk pressure, and images can't be removed"),
            }
            // That may have been enough.
            (pressures, due) = look();
        }
        node.pressures.send_if_modified(|known| {
            let news = *known != pressures;
            *known = pressures;
            news
        });
        let pods = table.living();
        going = going.filter(|(uid, since)| {
            since.elapsed() < PATIENCE && pods.iter().any(|pod| pod.key.uid == *uid)
        });
        if let Some(due) = due
            && going.is_none()
        {
            tracing::warn!(?due, "the node is short of something");
            let on_disk = due.signal.pressure() == Pressure::Disk;
            let (observer, cgroups) = (Arc::clone(&node), cgroups.clone());
            let look = move || {
                let one = |pod: &Arc<Desired>| candidate(&observer, &cgroups, pod, on_disk);
                pods.iter().filter(|pod| !pod.ending()).map(one).collect()
            };
            let candidates: Vec<_> = tokio::task::spawn_blocking(look).await.unwrap_or_default();
            if let Some(victim) = victim(&due, &candidates) {
                table.evict(&victim.uid, victim.message, victim.grace);
                going = Some((victim.uid, Instant::now()));
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

fn candidate(node: &Node, cgroups: &Cgroups, pod: &Desired, on_disk: bool) -> Candidate {
    let cgroup = pod_path(&node.cgroup, &pod.key.uid);
    let memory = cgroups.usage(&cgroup).unwrap_or_default().memory_bytes;
    let disk = match on_disk {
        true => local_storage(
            &node.folder.pod(&pod.key.uid),
            &node.folder.runtime(),
            &pod.key.uid,
        ),
        false => Held::default(),
    };
    Candidate {
        uid: pod.key.uid.clone(),
        priority: pod
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.priority)
            .unwrap_or(0),
        is_static: is_static(&pod.pod),
        memory: Share {
            used: memory,
            asked: requested(pod, "memory"),
        },
        disk: Share {
            used: disk.bytes,
            asked: requested(pod, "ephemeral-storage"),
        },
        inodes: disk.inodes,
        processes: cgroups.tasks(&cgroup).unwrap_or(0),
    }
}

/// Made from a file of this node.
fn is_static(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.is_some_and(|all| all.contains_key("kubernetes.io/config.mirror"))
}
