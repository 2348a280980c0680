//! Members of an etcd on loopback, in a folder that goes with them.

use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use harness::free_ports;

/// Members that run until this is dropped.
pub(crate) struct Etcd {
    folder: tempfile::TempDir,
    /// Port for clients, port for members, process.
    members: Vec<(u16, u16, Option<Child>)>,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
    }
}

impl Etcd {
    pub(crate) fn start(count: usize) -> Result<Self> {
        let first = free_ports(u16::try_from(count * 2)?)?;
        let ports: Vec<u16> = (first..).take(count * 2).collect();
        let mut etcd = Self {
            folder: tempfile::tempdir()?,
            members: ports
                .chunks(2)
                .map(|pair| (pair[0], pair[1], None))
                .collect(),
        };
        (0..count).try_for_each(|member| etcd.run(member))?;
        Ok(etcd)
    }

    pub(crate) fn urls(&self) -> String {
        let url = |member: &(u16, u16, Option<Child>)| format!("http://127.0.0.1:{}", member.0);
        self.members.iter().map(url).collect::<Vec<_>>().join(",")
    }

    /// What the members have on disk.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Starts a member, or starts it again with what it has on disk.
    pub(crate) fn run(&mut self, member: usize) -> Result<()> {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> = (self.members.iter().enumerate())
            .map(|(index, one)| format!("m{index}={}", url(one.1)))
            .collect();
        let (client, peer) = (url(self.members[member].0), url(self.members[member].1));
        let name = format!("m{member}");
        let log = std::fs::File::create(self.folder.path().join(format!("{name}.log")))?;
        let child = Command::new("etcd")
            .env_clear()
            .args(["--name", &name, "--data-dir"])
            .arg(self.folder.path().join(&name))
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &cluster.join(",")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start etcd; cargo xtask setup installs it")?;
        self.members[member].2 = Some(child);
        Ok(())
    }

    /// kill -9 of a member.
    pub(crate) fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].2.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Whether a member takes clients, which it does once it has found the others.
    pub(crate) fn answers(&self, member: usize) -> Result<()> {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.members[member].0))
            .map(drop)
            .with_context(|| format!("etcd member {member}"))
    }
}
