//! A cluster for a benchmark, made by the product's own `waggle dev` and removed when dropped.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::run::quiet;

const CLIENT: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: bench}
spec:
  nodeName: node1
  containers: [{name: c, image: "shop/client:1.0", command: [sleep, infinity]}]
"#;

/// The cluster.
pub(crate) struct BenchCluster {
    binary: PathBuf,
    home: PathBuf,
}

impl BenchCluster {
    /// Sweeps an earlier one and brings it up with this many nodes, images imported, with a Namespace `bench`.
    pub(crate) fn up(binary: PathBuf, layout: &Path, nodes: u32) -> Result<Self> {
        let cluster = Self {
            binary,
            home: std::env::temp_dir().join("waggle-bench"),
        };
        quiet(&mut cluster.command(&["dev", "down"]))?;
        let nodes = nodes.to_string();
        quiet(&mut cluster.command(&["dev", "up", "--nodes", &nodes, "--api-port", "16643"]))?;
        quiet(cluster.command(&["image", "import"]).arg(layout))?;
        cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: bench}\n")?;
        Ok(cluster)
    }

    /// The binary, aimed at this cluster.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .env("WAGGLE_HOME", &self.home)
            .env("WAGGLE_CLUSTER", "bench")
            .env_remove("KUBECONFIG");
        command
    }

    /// `waggle get ... -o json`.
    pub(crate) fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = quiet(&mut self.command(&[&["get"], arguments, &["-o", "json"]].concat()))?;
        serde_json::from_str(&text).context("no JSON")
    }

    /// Starts `server`, the manifest of a pod `server`, and a pod `client` on the first node; returns the server's address once
    /// both run.
    pub(crate) fn with_client(&self, server: &str) -> Result<String> {
        self.apply(&format!("{server}---{CLIENT}"))?;
        self.address("client")?;
        self.address("server")
    }

    fn address(&self, pod: &str) -> Result<String> {
        wait(&format!("pod {pod} runs"), Duration::from_secs(60), || {
            let status = self.get(&["pod", pod, "-n", "bench"])?["status"].clone();
            let address = status["podIP"]
                .as_str()
                .filter(|_| status["phase"] == "Running");
            address
                .map(str::to_owned)
                .with_context(|| status.to_string())
        })
    }

    /// Runs the sample application's client in the pod `client`; returns what it prints.
    pub(crate) fn run_client(&self, arguments: &[&str]) -> Result<String> {
        let exec = ["exec", "-n", "bench", "client", "--", "shop-client"];
        quiet(self.command(&exec).args(arguments))
    }

    /// Applies manifests given as text.
    pub(crate) fn apply(&self, manifests: &str) -> Result<()> {
        let mut command = self.command(&["apply", "-f", "-"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let mut stdin = child.stdin.take().context("stdin")?;
        stdin.write_all(manifests.as_bytes())?;
        drop(stdin);
        let status = child.wait()?;
        if status.success() {
            Ok(())
        } else {
            bail!("waggle apply: {status}")
        }
    }
}

impl Drop for BenchCluster {
    fn drop(&mut self) {
        if let Err(error) = quiet(&mut self.command(&["dev", "down"])) {
            eprintln!("the benchmark's cluster was not removed: {error:#}");
        }
    }
}

/// Asks again until `condition` gives a value or `limit` is over.
pub(crate) fn wait<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("not within {limit:?}: {what}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}
