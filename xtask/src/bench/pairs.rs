//! The peers of the pod-to-pod benchmarks: two namespaces joined by nothing but a veth pair; two behind a bridge whose
//! packets pass netfilter and connection tracking, as Docker's do; and two behind a host each, whose link is a bridge,
//! with plain routes or through a VXLAN of the kernel's.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::cluster::wait;
use crate::run::quiet;

const CLIENT: &str = "waggle-bench-ping";
const SERVER: &str = "waggle-bench-pong";
const BRIDGE: &str = "waggle-bench-bridge";
/// The hosts of the client and of the server.
const HOSTS: [&str; 2] = ["waggle-bench-host1", "waggle-bench-host2"];
/// What pods of a host send to.
const GATEWAY: &str = "169.254.1.1";
/// Where the server echoes.
const PORT: &str = "7001";

/// How two namespaces are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joint {
    /// One veth pair.
    Veth,
    /// Two veth pairs and a bridge with netfilter.
    Bridge,
    /// Two hosts that have routes to each other's pod.
    Routes,
    /// Two hosts with a VXLAN between them.
    Vxlan,
}

impl Joint {
    /// What its namespaces' names end with.
    fn suffix(self) -> &'static str {
        match self {
            Self::Veth => "",
            Self::Bridge => "-b",
            Self::Routes => "-r",
            Self::Vxlan => "-x",
        }
    }

    /// Addresses of the client and of the server.
    fn addresses(self) -> [&'static str; 2] {
        match self {
            Self::Veth | Self::Bridge => ["10.246.0.2", "10.246.0.3"],
            Self::Routes | Self::Vxlan => ["10.246.1.2", "10.246.2.2"],
        }
    }
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
            Joint::Veth => {
                let (client, server) = (name(joint, CLIENT), name(joint, SERVER));
                veth((&client, "eth0"), (&server, "eth0"))?;
                subnet(joint)?;
            }
            Joint::Bridge => {
                bridge(joint)?;
                subnet(joint)?;
            }
            Joint::Routes | Joint::Vxlan => hosts(joint)?,
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
        let [_, server] = self.joint.addresses();
        let mut client = Command::new("ip");
        client
            .args(["netns", "exec", &name(self.joint, CLIENT)])
            .arg(&self.client)
            .args(["pingpong", "--target", &format!("{server}:{PORT}")])
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
    format!("{role}{}", joint.suffix())
}

fn namespaces(joint: Joint) -> Vec<String> {
    let between: &[&str] = match joint {
        Joint::Veth => &[],
        Joint::Bridge => &[BRIDGE],
        Joint::Routes | Joint::Vxlan => &[BRIDGE, HOSTS[0], HOSTS[1]],
    };
    let roles = [CLIENT, SERVER].into_iter().chain(between.iter().copied());
    roles.map(|role| name(joint, role)).collect()
}

/// A veth pair with its ends where they are told.
fn veth(one: (&str, &str), other: (&str, &str)) -> Result<()> {
    ip(&[
        "-n", one.0, "link", "add", one.1, "type", "veth", "peer", "name", other.1, "netns",
        other.0,
    ])?;
    for (netns, link) in [one, other] {
        ip(&["-n", netns, "link", "set", link, "up"])?;
    }
    Ok(())
}

/// Addresses of both ends of one link.
fn subnet(joint: Joint) -> Result<()> {
    for (role, address) in [CLIENT, SERVER].into_iter().zip(joint.addresses()) {
        let netns = name(joint, role);
        let address = format!("{address}/24");
        ip(&["-n", &netns, "address", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &netns, "link", "set", "eth0", "up"])?;
    }
    Ok(())
}

/// A host for each end, and a bridge between the hosts.
fn hosts(joint: Joint) -> Result<()> {
    let wire = name(joint, BRIDGE);
    ip(&["-n", &wire, "link", "add", "br0", "type", "bridge"])?;
    ip(&["-n", &wire, "link", "set", "br0", "up"])?;
    let pods = joint.addresses();
    for (index, role) in [CLIENT, SERVER].into_iter().enumerate() {
        let (pod, host) = (name(joint, role), name(joint, HOSTS[index]));
        veth((&host, "pod"), (&pod, "eth0"))?;
        let address = format!("{}/32", pods[index]);
        ip(&["-n", &pod, "address", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &pod, "route", "add", GATEWAY, "dev", "eth0"])?;
        ip(&["-n", &pod, "route", "add", "default", "via", GATEWAY])?;
        let gateway = format!("{GATEWAY}/32");
        ip(&["-n", &host, "address", "add", &gateway, "dev", "pod"])?;
        ip(&["-n", &host, "route", "add", &address, "dev", "pod"])?;
        let port = format!("host{index}");
        veth((&wire, &port), (&host, "eth0"))?;
        ip(&["-n", &wire, "link", "set", &port, "master", "br0"])?;
        let own = |subnet: u8| format!("172.31.{subnet}.{}/24", index + 1);
        let other = |subnet: u8| format!("172.31.{subnet}.{}", 2 - index);
        ip(&["-n", &host, "address", "add", &own(0), "dev", "eth0"])?;
        let far = format!("{}/32", pods[1 - index]);
        let mut via = other(0);
        if joint == Joint::Vxlan {
            ip(&[
                "-n", &host, "link", "add", "vxlan0", "type", "vxlan", "id", "42", "dstport",
                "4789", "remote", &via, "dev", "eth0",
            ])?;
            ip(&["-n", &host, "address", "add", &own(1), "dev", "vxlan0"])?;
            ip(&["-n", &host, "link", "set", "vxlan0", "up"])?;
            // A pod's packets have to fit with what goes around them.
            ip(&["-n", &pod, "link", "set", "eth0", "mtu", "1450"])?;
            via = other(1);
        }
        ip(&["-n", &host, "route", "add", &far, "via", &via])?;
        // This namespace's own switch, not the machine's.
        let forward = ["sysctl", "-qw", "net.ipv4.ip_forward=1"];
        ip(&[&["netns", "exec", &host], &forward[..]].concat())?;
    }
    Ok(())
}

/// The bridge with both ends, and rules of the shape that Docker writes, so that every packet is tracked.
fn bridge(joint: Joint) -> Result<()> {
    let netns = name(joint, BRIDGE);
    let at = ["-n", &netns];
    ip(&[&at[..], &["link", "add", "br0", "type", "bridge"]].concat())?;
    let address = ["address", "add", "10.246.0.1/24", "dev", "br0"];
    ip(&[&at[..], &address].concat())?;
    ip(&[&at[..], &["link", "set", "br0", "up"]].concat())?;
    for (role, link) in [(CLIENT, "client"), (SERVER, "server")] {
        veth((&netns, link), (&name(joint, role), "eth0"))?;
        ip(&["-n", &netns, "link", "set", link, "master", "br0"])?;
    }
    let inside = |words: &[&str]| ip(&[&["netns", "exec", &netns], words].concat());
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

fn remove(joint: Joint) {
    for netns in namespaces(joint) {
        // Absent is what is wanted.
        let _ = ip(&["netns", "delete", &netns]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    quiet(Command::new("ip").args(arguments)).map(drop)
}
