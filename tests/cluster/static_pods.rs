//! Pods that a node runs because their manifests are in its folder.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Cluster, eventually};
use serde_json::Value;

use crate::serving::pod_is_ready;

const SETTLE: Duration = Duration::from_secs(60);
const POD: &str = "keeper-of-node1-node1";

const MANIFEST: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: keeper-of-node1, namespace: shop}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: shop/client:1.0, command: [sleep, "1000"], env: [{name: TURN, value: "1"}]}]
"#;

fn uid(pod: &Value) -> String {
    pod["metadata"]["uid"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

pub(crate) fn run_come_back_and_go(cluster: &Cluster) -> Result<()> {
    let folder = cluster.folder().join("node1").join("static-pods");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("broken.yaml"), "kind: Pod\n")?;
    let file = folder.join("keeper.yaml");
    std::fs::write(&file, MANIFEST)?;
    pod_is_ready(cluster, "shop", POD)?;
    let first = cluster.json(&["pod", POD, "-n", "shop"])?;
    ensure!(first["spec"]["nodeName"] == "node1", "{first}");
    ensure!(
        cluster
            .exec("shop", POD, &["sh", "-c", "echo $TURN"])?
            .ok()?
            .trim()
            == "1"
    );
    let log = std::fs::read_to_string(cluster.folder().join("node1.log"))?;
    ensure!(
        log.contains("broken.yaml"),
        "the log says nothing of the broken file"
    );

    cluster
        .waggle(&["delete", "pod", POD, "-n", "shop"])?
        .ok()?;
    let another = |before: &Value, what: &str| {
        eventually(what, SETTLE, || {
            let pod = cluster.json(&["pod", POD, "-n", "shop"])?;
            let runs = pod["status"]["phase"] == "Running" && uid(&pod) != uid(before);
            runs.then_some(pod).context("not yet")
        })
    };
    let second = another(&first, "the deleted one is back")?;

    std::fs::write(&file, MANIFEST.replace(r#"value: "1""#, r#"value: "2""#))?;
    another(&second, "the changed one runs")?;
    ensure!(
        cluster
            .exec("shop", POD, &["sh", "-c", "echo $TURN"])?
            .ok()?
            .trim()
            == "2"
    );

    std::fs::remove_dir_all(&folder)?;
    eventually("the pod is gone with its file", SETTLE, || {
        let there = cluster.json(&["pod", POD, "-n", "shop"]).is_ok();
        (!there).then_some(()).context("it is there")
    })
}
