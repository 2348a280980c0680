//! Other people's software as Debian packages it, by the manifests of `examples/software`, applied by kubectl: what its users rely on
//! when pods come and go.
#![forbid(unsafe_code)]

mod nats;
mod nginx;
mod postgresql;
mod prometheus;
mod redis;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Cluster, Kubectl, Suite, eventually, run};

/// A pod to ask from.
const CLIENT: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: default}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: client, image: "shop/client:1.0", command: [sleep, infinity]}]
"#;

/// How long software may take to be there, or to be back.
const SETTLE: Duration = Duration::from_secs(90);

/// The cluster and the kubectl that everything is done by.
struct World {
    kubectl: Kubectl,
    cluster: Cluster,
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    match World::up() {
        Ok(world) => Suite::new(world)
            .test("nginx_serves_a_page_that_changes", nginx::serves)
            .test("redis_is_replicated", redis::is_replicated)
            .test("redis_comes_back", redis::comes_back)
            .test("postgresql_keeps_its_rows", postgresql::keeps_its_rows)
            .test("nats_passes_messages", nats::passes_messages)
            .test("nats_keeps_a_stream", nats::keeps_a_stream)
            .test("prometheus_scrapes_waggle", prometheus::scrapes)
            .test("all_of_it_goes", World::goes)
            .run(),
        Err(error) => {
            eprintln!("no cluster to test: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl World {
    fn up() -> Result<Self> {
        let cluster = Cluster::up("wgt-software", 2)?;
        let images = std::env::var_os("WAGGLE_SOFTWARE_IMAGES")
            .context("WAGGLE_SOFTWARE_IMAGES is not set")?;
        let mut import = cluster.command(&["image", "import"]);
        run(import.arg(images), Duration::from_secs(240))?.ok()?;
        let kubectl = Kubectl::new(&cluster, "WAGGLE_KUBECTL")?;
        kubectl.ok(&["apply", "-f", &manifests()])?;
        cluster.apply(CLIENT)?.ok()?;
        kubectl.ok(&["wait", "--for=condition=Ready", "pod/client"])?;
        Ok(Self { kubectl, cluster })
    }

    /// `kubectl rollout status`, of something in the namespace of this name.
    fn rolled_out(&self, namespace: &str, workload: &str) -> Result<()> {
        let status = ["rollout", "status", workload, "-n", namespace];
        let rolled = self
            .kubectl
            .run(&[&status[..], &["--timeout=80s"]].concat())?;
        rolled.ok().map(drop).map_err(|error| {
            let described = self
                .kubectl
                .ok(&["describe", "pods", "-n", namespace])
                .unwrap_or_default();
            error.context(described)
        })
    }

    /// What a shell in the client's pod prints.
    fn client(&self, script: &str) -> Result<String> {
        self.shell("default", "client", script)
    }

    /// What a shell in this pod prints.
    fn shell(&self, namespace: &str, pod: &str, script: &str) -> Result<String> {
        let exec = ["exec", "-n", namespace, pod, "--", "sh", "-c", script];
        Ok(self.kubectl.ok(&exec)?.trim_end().to_owned())
    }

    /// A script that ends the container that it runs in, and so may itself be killed.
    fn last_words(&self, namespace: &str, pod: &str, script: &str) -> Result<()> {
        let exec = ["exec", "-n", namespace, pod, "--", "sh", "-c", script];
        let said = self.kubectl.run(&exec)?;
        ensure!([0, 137].contains(&said.code), "{said:?}");
        Ok(())
    }

    /// A field of an object.
    fn field(&self, namespace: &str, object: &str, path: &str) -> Result<String> {
        let path = format!("jsonpath={{{path}}}");
        self.kubectl
            .ok(&["get", object, "-n", namespace, "-o", &path])
    }

    /// Deletes a pod and waits until it is gone.
    fn delete_pod(&self, namespace: &str, pod: &str) -> Result<()> {
        let delete = ["delete", "pod", pod, "-n", namespace, "--timeout=60s"];
        self.kubectl.ok(&delete).map(drop)
    }

    /// Everything is deleted, and the volumes go with their claims.
    fn goes(&self) -> Result<()> {
        let delete = ["delete", "-f", &manifests(), "--timeout=80s"];
        // A namespace takes along what the same files name after it.
        let delete = [&delete[..], &["--ignore-not-found"]].concat();
        self.kubectl.ok(&delete)?;
        eventually("volumes are gone", SETTLE, || {
            let left = self.cluster.json(&["pv"])?;
            ensure!(
                left["items"].as_array().is_some_and(Vec::is_empty),
                "{left}"
            );
            Ok(())
        })
    }
}

fn manifests() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/software");
    folder.to_string_lossy().into_owned()
}
