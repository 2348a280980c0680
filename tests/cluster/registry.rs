//! Images from a registry: Debian's docker-registry on an address inside the cluster's network.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Background, Cluster, eventually, run};

use crate::serving::pod_is_ready;

/// Where the registry listens: the fabric's own address, which every node reaches.
const REGISTRY: &str = "172.30.0.1:5000";

pub(crate) fn image_is_pulled(cluster: &Cluster) -> Result<()> {
    let data = tempfile::tempdir()?;
    let fabric = cluster.fabric();
    let config = data.path().join("config.yml");
    let storage = data.path().join("storage");
    std::fs::write(
        &config,
        format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {REGISTRY}\n",
            storage.display()
        ),
    )?;
    let config = config.to_string_lossy().into_owned();
    let _registry = Background::start(&mut fabric.command("docker-registry", &["serve", &config]))?;
    let layout = std::env::var("WAGGLE_TEST_IMAGES").context("WAGGLE_TEST_IMAGES")?;
    let (source, target) = (
        format!("oci:{layout}:shop/client:1.0"),
        format!("docker://{REGISTRY}/tools/client:1.0"),
    );
    eventually(
        "the registry takes an image",
        Duration::from_secs(20),
        || {
            let copy = [
                "copy",
                "--insecure-policy",
                "--dest-tls-verify=false",
                &source,
                &target,
            ];
            run(
                &mut fabric.command("skopeo", &copy),
                Duration::from_secs(30),
            )?
            .ok()
        },
    )?;

    let image = format!("{REGISTRY}/tools/client:1.0");
    cluster.apply(&pod(&image))?.ok()?;
    pod_is_ready(cluster, "shop", "pulled")?;
    let listed = cluster.waggle(&["image", "list"])?.ok()?;
    ensure!(listed.contains("tools/client"), "{listed}");
    cluster
        .waggle(&["image", "pull", &image, "--node", "node1"])?
        .ok()?;
    cluster
        .waggle(&["delete", "pod", "pulled", "-n", "shop"])?
        .ok()?;
    Ok(())
}

fn pod(image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: pulled, namespace: shop}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         containers: [{{name: main, image: \"{image}\", command: [sleep, infinity]}}]\n"
    )
}
