//! A whole cluster on this machine, made and removed by the product's own `waggle dev`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::{Background, Output, run};
use crate::ports::free_ports;

/// Servers that a cluster may have; each takes the next port.
const SERVERS: u16 = 5;
const MINUTE: Duration = Duration::from_secs(60);

/// A running cluster. Removed when dropped, unless `WAGGLE_KEEP` is set.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    binary: PathBuf,
    home: PathBuf,
    nodes: u32,
    api_port: u16,
}

/// One of its nodes.
#[derive(Debug, Clone)]
pub struct Node {
    /// `node1`.
    pub name: String,
    /// Name of its network namespace, as `ip netns` knows it.
    pub netns: String,
}

impl Cluster {
    /// Sweeps what an earlier run of the same name left, and brings up a fresh one with the sample images imported.
    ///
    /// # Errors
    /// An environment variable is missing, or the cluster does not come up.
    pub fn up(name: &str, nodes: u32) -> Result<Self> {
        Self::up_with(name, nodes, &[])
    }

    /// The same, with further arguments of `waggle dev up`.
    ///
    /// # Errors
    /// As [`Cluster::up`].
    pub fn up_with(name: &str, nodes: u32, arguments: &[&str]) -> Result<Self> {
        let setting = |name: &str| {
            std::env::var_os(name)
                .with_context(|| format!("{name} is not set; run these tests by: cargo xtask test"))
        };
        let binary = PathBuf::from(setting("WAGGLE_BIN")?);
        let images = setting("WAGGLE_TEST_IMAGES")?;
        // A fixed place, so that the next run finds what a killed one left.
        let home = std::env::temp_dir().join("waggle-tests");
        let api_port = free_ports(SERVERS)?;
        let cluster = Self {
            name: name.to_owned(),
            binary,
            home,
            nodes,
            api_port,
        };
        cluster.down()?;
        cluster.run_up(&cluster.binary, arguments)?;
        run(cluster.command(&["image", "import"]).arg(images), MINUTE)?.ok()?;
        Ok(cluster)
    }

    /// `waggle dev up`: starts it, or upgrades it in place.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(&self) -> Result<String> {
        self.run_up(&self.binary, &[])
    }

    /// `waggle dev up` of another program: upgrades it in place.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start_by(&self, program: &Path) -> Result<String> {
        self.run_up(program, &[])
    }

    fn run_up(&self, program: &Path, arguments: &[&str]) -> Result<String> {
        let (nodes, port) = (self.nodes.to_string(), self.api_port.to_string());
        let mut command = self.command_of(program);
        command.args(["dev", "up", "--nodes", &nodes, "--api-port", &port]);
        command.args(arguments);
        // `WAGGLE_TEST_DEV_UP=--routed` has everything tested through tunnels.
        let more = std::env::var("WAGGLE_TEST_DEV_UP").unwrap_or_default();
        command.args(more.split_whitespace());
        run(&mut command, 2 * MINUTE)?.ok()
    }

    /// `waggle dev down`.
    ///
    /// # Errors
    /// Something is left.
    pub fn down(&self) -> Result<String> {
        run(&mut self.command(&["dev", "down"]), MINUTE)?.ok()
    }

    /// The binary, aimed at this cluster.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command_of(&self.binary);
        command.args(arguments);
        command
    }

    fn command_of(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("WAGGLE_HOME", &self.home)
            .env("WAGGLE_CLUSTER", &self.name)
            .env_remove("KUBECONFIG");
        command
    }

    /// Runs `waggle` to its end.
    ///
    /// # Errors
    /// It can't be started or doesn't end within a minute.
    pub fn waggle(&self, arguments: &[&str]) -> Result<Output> {
        run(&mut self.command(arguments), MINUTE)
    }

    /// Starts `waggle` beside the test.
    ///
    /// # Errors
    /// It can't be started.
    pub fn background(&self, arguments: &[&str]) -> Result<Background> {
        Background::start(&mut self.command(arguments))
    }

    /// Applies a manifest given as text.
    ///
    /// # Errors
    /// It can't be written or the command not be run.
    pub fn apply(&self, manifest: &str) -> Result<Output> {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
        std::fs::write(file.path(), manifest)?;
        run(self.command(&["apply", "-f"]).arg(file.path()), MINUTE)
    }

    /// `waggle get ... -o json`, decoded.
    ///
    /// # Errors
    /// It failed or printed no JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self
            .waggle(&[&["get"], arguments, &["-o", "json"]].concat())?
            .ok()?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    /// Runs a program in a container.
    ///
    /// # Errors
    /// `waggle exec` can't be run.
    pub fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<Output> {
        self.waggle(&[&["exec", "-n", namespace, pod, "--"], command].concat())
    }

    /// The same, beside the test.
    ///
    /// # Errors
    /// `waggle exec` can't be started.
    pub fn exec_background(
        &self,
        namespace: &str,
        pod: &str,
        command: &[&str],
    ) -> Result<Background> {
        self.background(&[&["exec", "-n", namespace, pod, "--"], command].concat())
    }

    /// Waits until a Deployment is rolled out.
    ///
    /// # Errors
    /// Not within 90 s.
    pub fn rolled_out(&self, namespace: &str, deployment: &str) -> Result<String> {
        let name = format!("deployment/{deployment}");
        let arguments = [
            "rollout",
            "status",
            &name,
            "-n",
            namespace,
            "--timeout",
            "90s",
        ];
        run(&mut self.command(&arguments), 2 * MINUTE)?.ok()
    }

    /// Its nodes.
    pub fn nodes(&self) -> Vec<Node> {
        (1..=self.nodes).map(|number| self.node(number)).collect()
    }

    /// What joins them: a namespace with a bridge, at 172.30.0.1.
    pub fn fabric(&self) -> Node {
        Node {
            netns: format!("waggle-{}-fabric", self.name),
            name: "fabric".into(),
        }
    }

    /// The node of this number, from 1.
    pub fn node(&self, number: u32) -> Node {
        let name = format!("node{number}");
        Node {
            netns: format!("waggle-{}-{name}", self.name),
            name,
        }
    }

    /// Port of its API on loopback.
    pub fn api_port(&self) -> u16 {
        self.api_port
    }

    /// Folder with everything of this cluster.
    pub fn folder(&self) -> PathBuf {
        self.home.join(&self.name)
    }

    /// Pid of `server` or of a node's agent, from the pid file that `dev up` wrote.
    ///
    /// # Errors
    /// There is none.
    pub fn pid(&self, process: &str) -> Result<i32> {
        let path = self.folder().join(format!("{process}.pid"));
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let first = text
            .split_whitespace()
            .next()
            .context("an empty pid file")?;
        first
            .parse()
            .with_context(|| format!("{}: {text:?}", path.display()))
    }

    /// kill -9 of `server` or of a node's agent.
    ///
    /// # Errors
    /// It is not running.
    pub fn kill(&self, process: &str) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(self.pid(process)?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)
            .with_context(|| format!("kill {process}, pid {pid}"))
    }
}

impl Node {
    /// A command that runs in this node's network namespace, with this machine's mounts (`ip netns exec` would hide
    /// the cgroups).
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.netns))
            .arg(program)
            .args(arguments);
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::env::var_os("WAGGLE_KEEP").is_some() {
            return;
        }
        if let Err(error) = self.down() {
            eprintln!("cluster {:?} was not removed: {error:#}", self.name);
        }
    }
}
