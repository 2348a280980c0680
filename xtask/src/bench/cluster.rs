//! A cluster for a benchmark, made by the product's own `waggle dev` and removed when dropped.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::run::quiet;

/// The cluster.
pub(crate) struct BenchCluster {
    binary: PathBuf,
    home: PathBuf,
}

impl BenchCluster {
    /// Sweeps an earlier one and brings it up with this many nodes, images imported, with a Namespace `bench`.
    pub(crate) fn up(binary: PathBuf, layout: &Path, nodes: u32) -> Result<Self> {
        Self::up_with(binary, layout, nodes, &[])
    }

    /// The same with more arguments for `dev up`.
    pub(crate) fn up_with(
        binary: PathBuf,
        layout: &Path,
        nodes: u32,
        more: &[&str],
    ) -> Result<Self> {
        let cluster = Self {
            binary,
            home: std::env::temp_dir().join("waggle-bench"),
        };
        quiet(&mut cluster.command(&["dev", "down"]))?;
        let nodes = nodes.to_string();
        let up = ["dev", "up", "--nodes", &nodes, "--api-port", "16643"];
        quiet(cluster.command(&up).args(more))?;
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

    /// Starts a pod that does nothing on one of the nodes, as a room for processes.
    pub(crate) fn room(&self, pod: &str, node: u32) -> Result<Room> {
        self.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}, namespace: bench, labels: {{app: {pod}}}}}\nspec:\n  nodeName: \
             node{node}\n  containers: [{{name: c, image: \"shop/client:1.0\", command: [sleep, infinity]}}]\n"
        ))?;
        wait(&format!("pod {pod} runs"), Duration::from_secs(60), || {
            let found = self.get(&["pod", pod, "-n", "bench"])?;
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let address = text(&found["status"]["podIP"]);
            address
                .filter(|_| found["status"]["phase"] == "Running")
                .zip(text(&found["metadata"]["uid"]))
                .with_context(|| found["status"].to_string())
                .and_then(|(address, uid)| Room::of(address, &uid))
        })
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

/// A pod as a room for plain processes: they are in its network namespace and, because of the socket hooks, in its cgroup of the
/// unified hierarchy, but without what a container costs at each system call. So are the peers' processes.
pub(crate) struct Room {
    pub(crate) address: String,
    netns: PathBuf,
    cgroup: PathBuf,
}

impl Room {
    /// By the process that the pod has.
    fn of(address: String, uid: &str) -> Result<Self> {
        for entry in fs::read_dir("/proc")? {
            let process = entry?.path();
            let Ok(cgroups) = fs::read_to_string(process.join("cgroup")) else {
                continue;
            };
            let unified = cgroups.lines().find_map(|line| line.strip_prefix("0::/"));
            if let Some(own) = unified.filter(|own| own.split('/').any(|part| part == uid)) {
                return Ok(Self {
                    address,
                    netns: process.join("ns/net"),
                    cgroup: unified_hierarchy().join(own),
                });
            }
        }
        bail!("no process of pod {uid}")
    }

    /// A program that will run in here.
    pub(crate) fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let enter =
            r#"echo $$ > "$1/cgroup.procs"; netns=$2; shift 2; exec nsenter --net="$netns" "$@""#;
        let mut command = Command::new("sh");
        command
            .args(["-ec", enter, "sh"])
            .args([&self.cgroup, &self.netns])
            .arg(program)
            .args(arguments);
        command
    }
}

fn unified_hierarchy() -> &'static Path {
    let hybrid = Path::new("/sys/fs/cgroup/unified");
    if hybrid.exists() {
        hybrid
    } else {
        Path::new("/sys/fs/cgroup")
    }
}

/// A program that serves until it is dropped.
pub(crate) struct Serving(Child);

impl Serving {
    /// Starts it.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let child = command.stdout(Stdio::null()).spawn();
        child.map(Self).context("start the server")
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
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
