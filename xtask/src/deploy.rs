//! `build-and-deploy`: from nothing to a cluster on this machine that serves the sample application, and `destroy`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;

use crate::build::{self, Profile};
use crate::run::{root, run};
use crate::{images, setup};

/// The cluster to bring up.
#[derive(Args)]
pub(crate) struct Options {
    /// Name of the cluster.
    #[arg(long, default_value = "local")]
    cluster: String,
    /// Nodes.
    #[arg(long, default_value_t = 3)]
    nodes: u32,
    /// Where the sample application answers on this machine.
    #[arg(long, default_value = "127.0.0.1:8080")]
    publish: String,
    /// Where the API answers on this machine.
    #[arg(long, default_value_t = 6443)]
    api_port: u16,
}

/// The cluster to remove.
#[derive(Args)]
pub(crate) struct DestroyOptions {
    /// Name of the cluster.
    #[arg(long, default_value = "local")]
    cluster: String,
}

/// Builds, brings up or upgrades, deploys, waits, and says what to try next.
pub(crate) fn up(options: &Options) -> Result<()> {
    let start = Instant::now();
    step("1/5", "tools");
    setup::build_tools()?;
    step("2/5", "building the eBPF programs and the waggle binary");
    let binary = build::waggle(Profile::Release)?;
    step("3/5", "images of the sample application");
    let layout = images::sample_application(Profile::Release)?;
    step(
        "4/5",
        &format!(
            "cluster {:?}: one server, {} nodes",
            options.cluster, options.nodes
        ),
    );
    let waggle = Waggle {
        binary,
        cluster: options.cluster.clone(),
    };
    let (nodes, port) = (options.nodes.to_string(), options.api_port.to_string());
    run(&mut waggle.command(&["dev", "up", "--nodes", &nodes, "--api-port", &port]))?;
    run(waggle.command(&["image", "import"]).arg(&layout))?;
    step("5/5", "the sample application, examples/shop.yaml");
    run(waggle
        .command(&["apply", "-f"])
        .arg(root().join("examples/shop.yaml")))?;
    for (namespace, deployment) in [
        ("shop", "redis"),
        ("shop", "user-center"),
        ("billing", "ledger"),
    ] {
        let name = format!("deployment/{deployment}");
        run(&mut waggle.command(&[
            "rollout",
            "status",
            &name,
            "-n",
            namespace,
            "--timeout",
            "180s",
        ]))?;
    }
    let publish = format!("{}=shop/user-center:80", options.publish);
    run(&mut waggle.command(&["dev", "publish", &publish]))?;
    summary(&waggle, &options.publish, start)
}

/// Removes the cluster. Without a built binary there can be no cluster of this clone, so one is built if need be.
pub(crate) fn destroy(options: &DestroyOptions) -> Result<()> {
    let binary = build::waggle(Profile::Release)?;
    run(&mut Waggle {
        binary,
        cluster: options.cluster.clone(),
    }
    .command(&["dev", "down"]))
}

struct Waggle {
    binary: PathBuf,
    cluster: String,
}

impl Waggle {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env("WAGGLE_CLUSTER", &self.cluster);
        command
    }
}

fn step(number: &str, what: &str) {
    println!("\n[{number}] {what}");
}

fn summary(waggle: &Waggle, publish: &str, start: Instant) -> Result<()> {
    println!("\nReady after {:.0} s.\n", start.elapsed().as_secs_f64());
    run(&mut waggle.command(&["get", "nodes,pods,services", "-A", "-o", "wide"]))?;
    let answer = ask(publish).with_context(|| format!("http://{publish}/ does not answer"))?;
    println!("\nThe shop answers at http://{publish}/\n  {answer}");
    let program = shown(&waggle.binary);
    println!("\nTry next:");
    for line in [
        "get pods -A -o wide",
        "scale deployment/user-center -n shop --replicas 10",
        "logs -n shop deployment/user-center -f",
        "exec -n shop -it deployment/user-center -- sh",
        "exec -n billing deployment/ledger -- shop-client http user-center.shop.svc.cluster.local:80",
    ] {
        println!("  {program} {line}");
    }
    println!("Everything goes away again by: cargo xtask destroy");
    Ok(())
}

/// The body of `GET /`.
fn ask(publish: &str) -> Result<String> {
    let mut stream = TcpStream::connect(publish)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {publish}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (_, body) = text
        .split_once("\r\n\r\n")
        .context("an answer without a body")?;
    Ok(body.to_owned())
}

fn shown(binary: &Path) -> String {
    binary.strip_prefix(root()).map_or_else(
        |_| binary.display().to_string(),
        |relative| format!("./{}", relative.display()),
    )
}
