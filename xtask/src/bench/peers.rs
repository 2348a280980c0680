//! The peers of the VIP benchmark: a node with two plain pods (veth pairs and routes in namespaces of our own), and
//! rules of the shape that kube-proxy writes, for N services of which the last is the one that is measured.

use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

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
        rules.feed(&rules.all(count), None).map(drop)
    }

    /// The same, and how long the rules' program took from text to kernel; `None` when it was stopped after `patience`.
    pub(crate) fn program(
        &self,
        rules: Rules,
        count: u32,
        patience: Duration,
    ) -> Result<Option<Duration>> {
        self.unload()?;
        rules.feed(&rules.all(count), Some(patience))
    }

    /// Adds the `index`th service to those that are there.
    pub(crate) fn program_one_more(
        &self,
        rules: Rules,
        index: u32,
        patience: Duration,
    ) -> Result<Option<Duration>> {
        rules.feed(&rules.one_more(index), Some(patience))
    }

    /// A node without any rule.
    pub(crate) fn unload(&self) -> Result<()> {
        feed("nft", &["-f", "-"], "flush ruleset\n", None)?;
        let empty = "*nat\nCOMMIT\n*filter\nCOMMIT\n";
        feed("iptables-legacy-restore", &[], empty, None).map(drop)
    }

    /// Runs the client's `race`; prints its JSON.
    pub(crate) fn race(&self, vip: &str, rounds: u32) -> Result<String> {
        let direct = format!("{SERVER_IP}:7000");
        let rounds = rounds.to_string();
        self.run_client(&[
            "race", "--direct", &direct, "--vip", vip, "--rounds", &rounds,
        ])
    }

    /// Connections in a second to the last of `count` services.
    pub(crate) fn rate(&self, count: u32, milliseconds: u32) -> Result<String> {
        let vip = format!("{}:80", vip(count - 1));
        let milliseconds = milliseconds.to_string();
        self.run_client(&["rate", "--target", &vip, "--milliseconds", &milliseconds])
    }

    fn run_client(&self, arguments: &[&str]) -> Result<String> {
        let mut client = Command::new("ip");
        client
            .args(["netns", "exec", CLIENT])
            .arg(&self.binary)
            .args(arguments);
        quiet(&mut client)
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

impl Rules {
    fn all(self, count: u32) -> String {
        match self {
            Self::Nftables => nftables(count),
            Self::Iptables => iptables(0..count, true),
        }
    }

    fn one_more(self, index: u32) -> String {
        match self {
            Self::Nftables => format!(
                "table ip kube-proxy {{\n{}}}\nadd element ip kube-proxy service-ips {{ {} }}\n",
                nft_chains(index),
                nft_element(index)
            ),
            Self::Iptables => iptables(index..index + 1, false),
        }
    }

    fn feed(self, text: &str, patience: Option<Duration>) -> Result<Option<Duration>> {
        match self {
            Self::Nftables => feed("nft", &["-f", "-"], text, patience),
            Self::Iptables => feed("iptables-legacy-restore", &["--noflush"], text, patience),
        }
    }
}

/// Runs a program on the node with `text` as its input; how long it took, or `None` when it was stopped after `patience`.
fn feed(
    program: &str,
    arguments: &[&str],
    text: &str,
    patience: Option<Duration>,
) -> Result<Option<Duration>> {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", HOST, program])
        .args(arguments)
        .stdin(Stdio::piped());
    let started = Instant::now();
    let mut child = command
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let mut stdin = child.stdin.take().context("stdin")?;
    stdin.write_all(text.as_bytes())?;
    drop(stdin);
    let Some(patience) = patience else {
        let status = child.wait()?;
        return finished(program, status, started);
    };
    loop {
        if let Some(status) = child.try_wait()? {
            return finished(program, status, started);
        }
        if started.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn finished(program: &str, status: ExitStatus, started: Instant) -> Result<Option<Duration>> {
    if status.success() {
        Ok(Some(started.elapsed()))
    } else {
        bail!("{program}: {status}")
    }
}

fn nft_chains(index: u32) -> String {
    format!(
        "  chain endpoint-{index} {{ meta l4proto tcp dnat to {SERVER_IP}:7000; }}\n  \
         chain service-{index} {{ numgen random mod 1 vmap {{ 0 : goto endpoint-{index} }}; }}\n"
    )
}

fn nft_element(index: u32) -> String {
    format!("{} . tcp . 80 : goto service-{index}", vip(index))
}

/// One chain a service and one an endpoint, reached by one verdict map from the nat hooks.
fn nftables(count: u32) -> String {
    let mut text = String::from("flush ruleset\ntable ip kube-proxy {\n");
    let mut elements = Vec::new();
    for index in 0..count {
        text.push_str(&nft_chains(index));
        elements.push(nft_element(index));
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

/// One chain a service and one an endpoint; `whole` with the chain that leads to them and its jumps.
fn iptables(services: Range<u32>, whole: bool) -> String {
    let (mut chains, mut rules) = (String::from("*nat\n"), String::new());
    if whole {
        chains.push_str(":KUBE-SERVICES - [0:0]\n");
        rules.push_str("-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n");
    }
    for index in services {
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
