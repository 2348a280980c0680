//! The peers of the VIP benchmark: a node with two plain pods (veth pairs and routes in namespaces of our own), and
//! rules of the shape that kube-proxy writes, for N services of which the last is the one that is measured.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run::quiet;

const HOST: &str = "waggle-bench-host";
const CLIENT: &str = "waggle-bench-client";
const SERVER: &str = "waggle-bench-server";
const CLIENT_IP: &str = "10.245.0.2";
/// Address of the server's pod.
pub(crate) const SERVER_IP: &str = "10.245.0.3";

/// Who translates VIPs on the plain node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rules {
    /// kube-proxy's nftables mode: one verdict map.
    Nftables,
    /// kube-proxy's iptables mode, legacy backend: one rule after the other.
    Iptables,
}

/// The node; removed when dropped.
pub(crate) struct PlainNode {
    answering: std::process::Child,
    binary: PathBuf,
}

impl PlainNode {
    /// Makes the namespaces and starts the server.
    pub(crate) fn create(client: PathBuf) -> Result<Self> {
        remove();
        for netns in [HOST, CLIENT, SERVER] {
            ip(&["netns", "add", netns])?;
            ip(&["-n", netns, "link", "set", "lo", "up"])?;
        }
        for (netns, link, address) in [(CLIENT, "client", CLIENT_IP), (SERVER, "server", SERVER_IP)]
        {
            ip(&[
                "-n", HOST, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns",
                netns,
            ])?;
            ip(&["-n", HOST, "link", "set", link, "up"])?;
            ip(&["-n", netns, "link", "set", "eth0", "up"])?;
            ip(&["-n", HOST, "address", "add", "169.254.1.1/32", "dev", link])?;
            ip(&["-n", HOST, "route", "add", address, "dev", link])?;
            ip(&[
                "-n",
                netns,
                "address",
                "add",
                &format!("{address}/32"),
                "dev",
                "eth0",
            ])?;
            ip(&["-n", netns, "route", "add", "169.254.1.1", "dev", "eth0"])?;
            ip(&["-n", netns, "route", "add", "default", "via", "169.254.1.1"])?;
        }
        // This namespace's own switch, not the machine's.
        ip(&[
            "netns",
            "exec",
            HOST,
            "sysctl",
            "-qw",
            "net.ipv4.ip_forward=1",
        ])?;
        let mut server = Command::new("ip");
        server
            .args(["netns", "exec", SERVER])
            .arg(&client)
            .args(["answer", "--port", "7000"]);
        let answering = server
            .stdout(Stdio::null())
            .spawn()
            .context("start the server")?;
        Ok(Self {
            answering,
            binary: client,
        })
    }

    /// Replaces the rules by those for `count` services.
    pub(crate) fn load(&self, rules: Rules, count: u32) -> Result<()> {
        self.unload()?;
        match rules {
            Rules::Nftables => feed("nft", &["-f", "-"], &nftables(count)),
            Rules::Iptables => feed("iptables-legacy-restore", &["--noflush"], &iptables(count)),
        }
    }

    /// A node without any rule.
    pub(crate) fn unload(&self) -> Result<()> {
        feed("nft", &["-f", "-"], "flush ruleset\n")?;
        feed(
            "iptables-legacy-restore",
            &[],
            "*nat\nCOMMIT\n*filter\nCOMMIT\n",
        )
    }

    /// Runs the client's `race`; prints its JSON.
    pub(crate) fn race(&self, vip: &str, rounds: u32) -> Result<String> {
        let mut race = Command::new("ip");
        race.args(["netns", "exec", CLIENT]).arg(&self.binary);
        race.args([
            "race",
            "--direct",
            &format!("{SERVER_IP}:7000"),
            "--vip",
            vip,
            "--rounds",
            &rounds.to_string(),
        ]);
        quiet(&mut race)
    }
}

impl Drop for PlainNode {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.answering.kill();
        let _ = self.answering.wait();
        remove();
    }
}

/// VIP of the `index`th service.
pub(crate) fn vip(index: u32) -> String {
    format!("10.96.{}.{}", 1 + index / 250, 1 + index % 250)
}

fn remove() {
    for netns in [HOST, CLIENT, SERVER] {
        // Absent is what is wanted.
        let _ = ip(&["netns", "delete", netns]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    quiet(Command::new("ip").args(arguments)).map(drop)
}

fn feed(program: &str, arguments: &[&str], text: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", HOST, program])
        .args(arguments)
        .stdin(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let mut stdin = child.stdin.take().context("stdin")?;
    std::io::Write::write_all(&mut stdin, text.as_bytes())?;
    drop(stdin);
    let status = child.wait()?;
    if !status.success() {
        bail!("{program}: {status}");
    }
    Ok(())
}

/// One chain a service and one an endpoint, reached by one verdict map from the nat hooks.
fn nftables(count: u32) -> String {
    let mut text = String::from("flush ruleset\ntable ip kube-proxy {\n");
    let mut elements = Vec::new();
    for index in 0..count {
        let _ = writeln!(
            text,
            "  chain endpoint-{index} {{ meta l4proto tcp dnat to {SERVER_IP}:7000; }}"
        );
        let _ = writeln!(
            text,
            "  chain service-{index} {{ numgen random mod 1 vmap {{ 0 : goto endpoint-{index} }}; }}"
        );
        elements.push(format!("{} . tcp . 80 : goto service-{index}", vip(index)));
    }
    let _ = writeln!(
        text,
        "  map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {} }} }}",
        elements.join(", ")
    );
    text.push_str("  chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }\n");
    text.push_str(
        "  chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }\n",
    );
    text.push_str("  chain nat-output { type nat hook output priority -100; jump services; }\n");
    text.push_str("  chain masquerading { meta mark & 0x4000 != 0 masquerade; }\n");
    text.push_str("  chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }\n}\n");
    text
}

fn iptables(count: u32) -> String {
    let mut chains = String::from("*nat\n:KUBE-SERVICES - [0:0]\n");
    let mut rules = String::from("-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n");
    for index in 0..count {
        let _ = writeln!(
            chains,
            ":KUBE-SVC-{index} - [0:0]\n:KUBE-SEP-{index} - [0:0]"
        );
        let _ = writeln!(
            rules,
            "-A KUBE-SERVICES -d {}/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-{index}",
            vip(index)
        );
        let _ = writeln!(rules, "-A KUBE-SVC-{index} -j KUBE-SEP-{index}");
        let _ = writeln!(
            rules,
            "-A KUBE-SEP-{index} -p tcp -m tcp -j DNAT --to-destination {SERVER_IP}:7000"
        );
    }
    format!("{chains}{rules}COMMIT\n")
}
