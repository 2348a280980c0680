//! Several servers: three etcd members, three servers of which one leads, two nodes. Whatever dies, services go on, what
//! was acknowledged is there, and the cluster can be changed; and it moves into one file and back.
#![forbid(unsafe_code)]

mod dying;
mod etcd;
mod flood;
mod moving;
mod sealed;
mod shared;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use etcd::Etcd;
use harness::{Cluster, Suite, eventually, run};
use serde_json::Value;

pub(crate) const SETTLE: Duration = Duration::from_secs(90);
pub(crate) const SERVERS: [&str; 3] = ["server", "server2", "server3"];

/// The cluster goes before its etcd.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    etcd: Mutex<Etcd>,
    /// Where the shop answers on this machine.
    door: String,
    pub(crate) folder: tempfile::TempDir,
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    match world() {
        Ok(world) => Suite::new(world)
            .test("every_server_shows_what_any_took", shared::objects)
            .test(
                "definitions_and_webhooks_are_everybodys",
                shared::extensions,
            )
            .test("secrets_are_sealed_in_an_etcd", sealed::at_rest)
            .test("a_flood_of_one_is_no_flood_of_others", flood::of_one)
            .test("each_server_dies_and_services_go_on", dying::servers)
            .test("an_etcd_member_dies_and_nothing_stops", dying::member)
            .test(
                "the_cluster_moves_into_one_file_and_back",
                moving::there_and_back,
            )
            .run(),
        Err(error) => {
            eprintln!("no cluster to test: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn world() -> Result<World> {
    let etcd = Etcd::start(3)?;
    let store = format!("etcd={}", etcd.urls());
    let cluster = Cluster::up_with("wgt-servers", 2, &["--servers", "3", "--store", &store])?;
    let manifest = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop.yaml");
    cluster
        .waggle(&["apply", "-f", &manifest.to_string_lossy()])?
        .ok()?;
    cluster.rolled_out("shop", "redis")?;
    cluster.rolled_out("shop", "user-center")?;
    let door = std::net::SocketAddr::from(([127, 0, 0, 1], harness::free_ports(1)?));
    cluster
        .waggle(&["dev", "publish", &format!("{door}=shop/user-center:80")])?
        .ok()?;
    let world = World {
        cluster,
        etcd: Mutex::new(etcd),
        door: door.to_string(),
        folder: tempfile::tempdir()?,
    };
    eventually("the shop answers", SETTLE, || world.page())?;
    Ok(world)
}

/// kubectl, aimed by a kubeconfig.
pub(crate) fn kubectl(config: &std::path::Path, arguments: &[&str]) -> Result<Command> {
    let binary = std::env::var_os("WAGGLE_KUBECTL").context("WAGGLE_KUBECTL is not set")?;
    let mut command = Command::new(binary);
    command.arg("--kubeconfig").arg(config);
    let cache = config.with_extension("cache");
    command.arg("--cache-dir").arg(cache).args(arguments);
    Ok(command)
}

impl World {
    /// A kubeconfig that points at one server.
    fn kubeconfig(&self, server: usize) -> Result<PathBuf> {
        let port = usize::from(self.cluster.api_port());
        let text = std::fs::read_to_string(self.cluster.folder().join("kubeconfig"))?;
        let text = text.replace(&format!(":{port}"), &format!(":{}", port + server));
        let path = self.folder.path().join(SERVERS[server]);
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// kubectl aimed at one server.
    pub(crate) fn command(&self, server: usize, arguments: &[&str]) -> Result<Command> {
        kubectl(&self.kubeconfig(server)?, arguments)
    }

    /// Runs kubectl at one server.
    pub(crate) fn at(&self, server: usize, arguments: &[&str]) -> Result<String> {
        run(&mut self.command(server, arguments)?, SETTLE)?.ok()
    }

    /// Applies a manifest through one server.
    pub(crate) fn apply(&self, server: usize, manifest: &str) -> Result<String> {
        let file = self.folder.path().join("applied.yaml");
        std::fs::write(&file, manifest)?;
        self.at(server, &["apply", "-f", &file.to_string_lossy()])
    }

    /// Who of these leads, by its own log: of no use for one that was killed while it led.
    pub(crate) fn leader(&self, alive: &[usize]) -> Result<usize> {
        let led = |server: &&usize| {
            let log = format!("{}.log", SERVERS[**server]);
            let log = std::fs::read_to_string(self.cluster.folder().join(log)).unwrap_or_default();
            log.rfind("this server leads\n") > log.rfind("leads no longer")
        };
        alive.iter().find(led).copied().context("nobody leads")
    }

    /// A page of the shop, asked inside the first node by the Service's address.
    pub(crate) fn page(&self) -> Result<Value> {
        let asked = Command::new("curl")
            .args([
                "--silent",
                "--max-time",
                "5",
                &format!("http://{}/", self.door),
            ])
            .output()?;
        serde_json::from_slice(&asked.stdout).context("no page")
    }

    /// The etcd's members.
    pub(crate) fn etcd(&self) -> MutexGuard<'_, Etcd> {
        self.etcd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Scales the shop through a server and waits until it is so.
    pub(crate) fn scale(&self, server: usize, replicas: usize) -> Result<()> {
        let (shop, replicas) = ("deployment/user-center", format!("--replicas={replicas}"));
        let scale = ["scale", "-n", "shop", shop, &replicas];
        eventually("a scaling is taken", SETTLE, || self.at(server, &scale))?;
        let rollout = ["rollout", "status", "-n", "shop", shop, "--timeout=60s"];
        eventually("it is rolled out", SETTLE, || self.at(server, &rollout))?;
        Ok(())
    }
}
