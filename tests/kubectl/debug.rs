//! `kubectl debug`: a container added to a pod that runs, among the processes of another one.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{Cluster, eventually};

use super::Kubectl;

const SETTLE: Duration = Duration::from_secs(60);

pub(crate) fn containers_are_added(cluster: &Cluster) -> Result<()> {
    let kubectl = Kubectl::new(cluster, "WAGGLE_KUBECTL")?;
    kubectl.ok(&[
        "run",
        "patient",
        "--image=shop/client:1.0",
        "--",
        "sleep",
        "98765",
    ])?;
    kubectl.ok(&[
        "wait",
        "--for=condition=Ready",
        "pod/patient",
        "--timeout=60s",
    ])?;
    let look = "cat /proc/[0-9]*/cmdline | tail -c 200; exit 3";
    kubectl.ok(&[
        "debug",
        "patient",
        "--image=shop/client:1.0",
        "--target=patient",
        "--container=doctor",
        "--profile=general",
        "--",
        "sh",
        "-c",
        look,
    ])?;
    eventually("the added container has run", SETTLE, || {
        let code = kubectl.ok(&[
            "get",
            "pod",
            "patient",
            "-o",
            "jsonpath={.status.ephemeralContainerStatuses[0].state.terminated.exitCode}",
        ])?;
        ensure!(code == "3", "{code:?}");
        Ok(())
    })?;
    let seen = kubectl.ok(&["logs", "patient", "-c", "doctor"])?;
    ensure!(seen.contains("98765"), "{seen:?}");
    let pod = cluster.json(&["pod", "patient"])?;
    ensure!(
        pod["status"]["phase"] == "Running"
            && pod["status"]["containerStatuses"][0]["restartCount"] == 0,
        "{}",
        pod["status"]
    );
    let removed = kubectl
        .run(&[
            "patch",
            "pod",
            "patient",
            "--subresource=ephemeralcontainers",
            "--type=json",
            "-p",
            r#"[{"op":"remove","path":"/spec/ephemeralContainers/0"}]"#,
        ])?
        .fault()?;
    ensure!(
        removed.contains("may not be changed or removed"),
        "{removed}"
    );
    kubectl.ok(&["delete", "pod", "patient", "--now", "--timeout=60s"])?;
    Ok(())
}
