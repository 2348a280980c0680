//! What users get wrong: one clear error that names the field and the mend, and nothing is half applied.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{Cluster, eventually, run};

const GOOD: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: beside, namespace: shop}\ndata: {a: b}\n---\n";

pub(crate) fn bad_manifests(cluster: &Cluster) -> Result<()> {
    let deployment = |spec: &str, container: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: bad, namespace: shop}}\nspec:\n  selector: {{matchLabels: {{a: b}}}}\n  \
             {spec}\n  template:\n    metadata: {{labels: {{a: b}}}}\n    spec:\n      containers: [{{name: c, {container}}}]\n"
        )
    };
    let image = "image: shop/client:1.0";
    let cases = [
        (
            "an unknown field",
            deployment("replicaz: 3", image),
            "spec.replicaz",
        ),
        (
            "a missing image",
            deployment("replicas: 1", "command: [sh]"),
            "spec.template.spec.containers[0].image",
        ),
        (
            "negative replicas",
            deployment("replicas: -1", image),
            "spec.replicas",
        ),
        (
            "a port out of range",
            deployment(
                "replicas: 1",
                &format!("{image}, ports: [{{containerPort: 70000}}]"),
            ),
            "spec.template.spec.containers[0].ports[0].containerPort",
        ),
        (
            "a wrong type",
            deployment("replicas: many", image),
            "spec.replicas",
        ),
        (
            "broken YAML",
            "apiVersion: v1\nkind: [Pod\nmetadata: {name: x}\n".to_owned(),
            "line",
        ),
        (
            "an unknown kind",
            "apiVersion: v1\nkind: Pot\nmetadata: {name: x}\n".to_owned(),
            "Pot",
        ),
    ];
    for (what, manifest, named) in cases {
        let fault = cluster.apply(&format!("{GOOD}{manifest}"))?.fault()?;
        ensure!(
            fault.contains(named),
            "{what}: the error does not name {named}: {fault}"
        );
        ensure!(
            fault.trim().lines().count() <= 3,
            "{what}: not one clear error: {fault}"
        );
        let beside = cluster.waggle(&["get", "configmap", "beside", "-n", "shop"])?;
        ensure!(beside.code != 0, "{what}: half applied");
    }
    Ok(())
}

pub(crate) fn missing_image(cluster: &Cluster) -> Result<()> {
    cluster
        .apply(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: imageless, namespace: shop}\nspec:\n  \
             containers: [{name: main, image: \"172.30.0.1:5999/no/such:1\"}]\n",
        )?
        .ok()?;
    eventually("a reason on the pod", Duration::from_secs(30), || {
        let pod = cluster.json(&["pod", "imageless", "-n", "shop"])?;
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        ensure!(
            waiting["reason"] == "ErrImagePull" || waiting["reason"] == "ImagePullBackOff",
            "{}",
            pod["status"]
        );
        ensure!(
            waiting["message"]
                .as_str()
                .is_some_and(|text| text.contains("172.30.0.1:5999/no/such:1")),
            "{waiting}"
        );
        Ok(())
    })?;
    let shown = cluster
        .waggle(&["describe", "pod", "imageless", "-n", "shop"])?
        .ok()?;
    ensure!(shown.contains("Failed"), "no event tells: {shown}");
    cluster
        .waggle(&[
            "delete",
            "pod",
            "imageless",
            "-n",
            "shop",
            "--grace-period",
            "0",
        ])?
        .ok()
        .map(drop)
}

pub(crate) fn wrong_token_and_used_port(cluster: &Cluster) -> Result<()> {
    let data = tempfile::tempdir()?;
    let binary = cluster.command(&[]).get_program().to_owned();
    let token = std::fs::read_to_string(cluster.folder().join("server/join-token"))?;
    let wrong = format!("wrong{}", token.trim());
    let mut agent = cluster.fabric().command(&binary.to_string_lossy(), &[]);
    agent.args([
        "agent",
        "--server",
        "https://172.30.0.1:6444",
        "--node",
        "stranger",
        "--address",
        "172.30.0.1",
    ]);
    agent
        .args([
            "--token",
            &wrong,
            "--cgroup",
            "waggle/wgt/stranger",
            "--data",
        ])
        .arg(data.path());
    agent.arg("--bpf").arg(data.path().join("bpf"));
    let fault = run(&mut agent, Duration::from_secs(20))?.fault()?;
    ensure!(fault.contains("token"), "{fault}");

    let second = tempfile::tempdir()?;
    let used = format!("127.0.0.1:{}", cluster.api_port());
    let mut server = Command::new(&binary);
    server
        .args(["server", "--listen", &used, "--data"])
        .arg(second.path());
    let fault = run(&mut server, Duration::from_secs(20))?.fault()?;
    ensure!(fault.contains(&used) && fault.contains("in use"), "{fault}");
    Ok(())
}
