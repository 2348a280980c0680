//! Data that outlives pods: claims get volumes on the node of their first user, come back with it, and go when they are
//! deleted.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Cluster, eventually};

use crate::serving::pod_is_ready;

const SETTLE: Duration = Duration::from_secs(60);

const SET: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: keeper, namespace: shop}
spec: {clusterIP: None, selector: {app: keeper}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: keeper, namespace: shop}
spec:
  serviceName: keeper
  replicas: 2
  selector: {matchLabels: {app: keeper}}
  template:
    metadata: {labels: {app: keeper}}
    spec:
      terminationGracePeriodSeconds: 0
      securityContext: {runAsUser: 1000, fsGroup: 2000}
      containers:
        - name: main
          image: shop/client:1.0
          command: [sh, -c, "date >> /data/starts; sleep 1000"]
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 64Mi}}}
"#;

pub(crate) fn claims_keep_their_data(cluster: &Cluster) -> Result<()> {
    cluster.apply(SET)?.ok()?;
    let starts = |pod: &str| -> Result<usize> {
        let text = cluster.exec("shop", pod, &["cat", "/data/starts"])?.ok()?;
        Ok(text.lines().count())
    };
    let node_of = |pod: &str| -> Result<String> {
        let pod = cluster.json(&["pod", pod, "-n", "shop"])?;
        Ok(pod["spec"]["nodeName"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    };
    for pod in ["keeper-0", "keeper-1"] {
        pod_is_ready(cluster, "shop", pod)?;
        ensure!(starts(pod)? == 1);
    }
    let claim = cluster.json(&["pvc", "data-keeper-0", "-n", "shop"])?;
    ensure!(
        claim["status"]["phase"] == "Bound" && claim["spec"]["storageClassName"] == "local-path",
        "{claim}"
    );
    let volume = claim["spec"]["volumeName"].as_str().context("no volume")?;
    let node = node_of("keeper-0")?;
    let folder = cluster.folder().join(&node).join("volumes").join(volume);
    ensure!(folder.join("starts").exists(), "{}", folder.display());

    cluster
        .waggle(&["delete", "pod", "keeper-0", "-n", "shop"])?
        .ok()?;
    eventually("the pod is back with its data", SETTLE, || {
        pod_is_ready(cluster, "shop", "keeper-0")?;
        ensure!(starts("keeper-0")? == 2);
        Ok(())
    })?;
    ensure!(node_of("keeper-0")? == node, "it went to another node");

    cluster
        .waggle(&["delete", "statefulset", "keeper", "-n", "shop"])?
        .ok()?;
    cluster
        .waggle(&["delete", "service", "keeper", "-n", "shop"])?
        .ok()?;
    ensure!(
        folder.exists(),
        "data goes with its claim, not with its pods"
    );
    for claim in ["data-keeper-0", "data-keeper-1"] {
        cluster
            .waggle(&["delete", "pvc", claim, "-n", "shop"])?
            .ok()?;
    }
    eventually("volumes and data are gone", SETTLE, || {
        let volumes = cluster.json(&["pv"])?;
        let left = volumes["items"].as_array().map_or(0, Vec::len);
        ensure!(left == 0 && !folder.exists(), "{volumes}");
        Ok(())
    })
}

/// A container that may write 1 MiB and writes more.
const GREEDY: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: greedy, namespace: shop}
spec:
  containers:
    - name: main
      image: shop/client:1.0
      command: [sh, -c, "head -c 4000000 /dev/zero > /tmp/much; sleep 1000"]
      resources: {limits: {ephemeral-storage: 1Mi}}
"#;

pub(crate) fn local_storage_is_limited(cluster: &Cluster) -> Result<()> {
    cluster.apply(GREEDY)?.ok()?;
    eventually("the pod is evicted", SETTLE, || {
        let pod = cluster.json(&["pod", "greedy", "-n", "shop"])?;
        let status = &pod["status"];
        let told = status["message"].as_str().unwrap_or_default();
        ensure!(
            status["phase"] == "Failed"
                && status["reason"] == "Evicted"
                && told.contains("exceeds the total limit of containers 1Mi"),
            "{status}"
        );
        let conditions = status["conditions"].as_array().cloned();
        let target = conditions.unwrap_or_default().into_iter();
        let mut target = target.filter(|c| c["type"] == "DisruptionTarget");
        ensure!(
            target.any(|c| c["reason"] == "TerminationByKubelet"),
            "{status}"
        );
        Ok(())
    })?;
    let deleted = cluster.waggle(&["delete", "pod", "greedy", "-n", "shop"])?;
    deleted.ok().map(drop)
}
