//! The peers of the pod-to-pod benchmark: two namespaces joined by nothing but a veth pair, and two behind a bridge whose
//! packets pass netfilter and connection tracking, as Docker's do.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::cluster::wait;
use crate::run::quiet;

const CLIENT: &str = "waggle-bench-ping";
const SERVER: &str = "waggle-bench-pong";
const BRIDGE: &str = "waggle-bench-bridge";
/// Where the server echoes.
const PORT: &str = "7001";

/// How two namespaces are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joint {
    /// One veth pair.
    Veth,
    /// Two veth pairs and a bridge with netfilter.
    Bridge,
}

/// Two namespaces with an echo in one; removed when dropped.
pub(crate) struct Pair {
    joint: Joint,
    echo: Child,
    client: PathBuf,
}

impl Pair {
    /// Makes it.
    pub(crate) fn create(joint: Joint, client: PathBuf) -> Result<Self> {
        remove(joint);
        for netns in namespaces(joint) {
            ip(&["netns", "add", &netns])?;
            ip(&["-n", &netns, "link", "set", "lo", "up"])?;
        }
        match joint {
            Joint::Veth => ip(&[
                "-n",
                &name(joint, CLIENT),
                "link",
                "add",
                "eth0",
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                &name(joint, SERVER),
            ])?,
            Joint::Bridge => bridge(joint)?,
        }
        for (netns, address) in [(CLIENT, "10.246.0.2/24"), (SERVER, "10.246.0.3/24")] {
            let netns = name(joint, netns);
            ip(&["-n", &netns, "address", "add", address, "dev", "eth0"])?;
            ip(&["-n", &netns, "link", "set", "eth0", "up"])?;
        }
        let mut echo = Command::new("ip");
        echo.args(["netns", "exec", &name(joint, SERVER)])
            .arg(&client)
            .args(["echo", "--port", PORT])
            .stdout(Stdio::null());
        let echo = echo.spawn().context("start the echo")?;
        let pair = Self {
            joint,
            echo,
            client,
        };
        wait("the echo answers", Duration::from_secs(10), || {
            pair.pingpong(10, 1)
        })?;
        Ok(pair)
    }

    /// Runs the client; its JSON.
    pub(crate) fn pingpong(&self, rounds: u32, megabytes: u32) -> Result<String> {
        let mut client = Command::new("ip");
        client
            .args(["netns", "exec", &name(self.joint, CLIENT)])
            .arg(&self.client)
            .args(["pingpong", "--target", &format!("10.246.0.3:{PORT}")])
            .args(["--rounds", &rounds.to_string()])
            .args(["--megabytes", &megabytes.to_string()]);
        quiet(&mut client)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.echo.kill();
        let _ = self.echo.wait();
        remove(self.joint);
    }
}

fn name(joint: Joint, role: &str) -> String {
    match joint {
        Joint::Veth => role.to_owned(),
        Joint::Bridge => format!("{role}-b"),
    }
}

fn namespaces(joint: Joint) -> Vec<String> {
    let mut all = vec![name(joint, CLIENT), name(joint, SERVER)];
    if joint == Joint::Bridge {
        all.push(BRIDGE.into());
    }
    all
}

/// The bridge with both ends, and rules of the shape that Docker writes, so that every packet is tracked.
fn bridge(joint: Joint) -> Result<()> {
    ip(&["-n", BRIDGE, "link", "add", "br0", "type", "bridge"])?;
    ip(&[
        "-n",
        BRIDGE,
        "address",
        "add",
        "10.246.0.1/24",
        "dev",
        "br0",
    ])?;
    ip(&["-n", BRIDGE, "link", "set", "br0", "up"])?;
    for (role, link) in [(CLIENT, "client"), (SERVER, "server")] {
        let netns = name(joint, role);
        ip(&[
            "-n", BRIDGE, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns",
            &netns,
        ])?;
        ip(&["-n", BRIDGE, "link", "set", link, "master", "br0", "up"])?;
    }
    // Switches and rules of this namespace, not the machine's.
    inside(&["sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1"])?;
    inside(&["sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
    for rule in [
        "-t nat -A POSTROUTING -s 10.246.0.0/24 ! -o br0 -j MASQUERADE",
        "-A FORWARD -o br0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A FORWARD -i br0 -j ACCEPT",
        "-P FORWARD DROP",
    ] {
        let words: Vec<_> = ["iptables-legacy"]
            .into_iter()
            .chain(rule.split(' '))
            .collect();
        inside(&words)?;
    }
    Ok(())
}

fn inside(words: &[&str]) -> Result<()> {
    ip(&[&["netns", "exec", BRIDGE], words].concat())
}

fn remove(joint: Joint) {
    for netns in namespaces(joint) {
        // Absent is what is wanted.
        let _ = ip(&["netns", "delete", &netns]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    quiet(Command::new("ip").args(arguments)).map(drop)
}
