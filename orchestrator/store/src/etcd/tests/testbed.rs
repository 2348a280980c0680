//! etcd clusters for tests: Debian's etcd-server on loopback with TLS towards clients, in a folder that goes with it.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::etcd::{EtcdOptions, EtcdTls};

/// Members that run until this is dropped.
pub(super) struct Testbed {
    folder: tempfile::TempDir,
    members: Vec<Member>,
    tls: EtcdTls,
}

struct Member {
    client: u16,
    peer: u16,
    running: Option<Child>,
}

impl Drop for Testbed {
    fn drop(&mut self) {
        for number in 0..self.members.len() {
            self.kill(number);
        }
    }
}

impl Testbed {
    /// A cluster of this many members, all started.
    pub(super) fn start(count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tls = certificates(folder.path());
        // Held until all are known, so that no two are the same.
        let held: Vec<TcpListener> = (0..count * 2)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
            .collect();
        let port = |index: usize| held[index].local_addr().unwrap().port();
        let members = (0..count)
            .map(|number| Member {
                client: port(number * 2),
                peer: port(number * 2 + 1),
                running: None,
            })
            .collect();
        drop(held);
        let mut testbed = Self {
            folder,
            members,
            tls,
        };
        (0..count).for_each(|number| testbed.run(number));
        testbed
    }

    /// Starts a member, or starts it again with what it has on disk.
    pub(super) fn run(&mut self, number: usize) {
        let cluster: Vec<String> = (self.members.iter().enumerate())
            .map(|(index, member)| format!("m{index}=http://127.0.0.1:{}", member.peer))
            .collect();
        let path = |name: &str| self.folder.path().join(name);
        let member = &self.members[number];
        let (client, peer) = (
            format!("https://127.0.0.1:{}", member.client),
            format!("http://127.0.0.1:{}", member.peer),
        );
        let log = std::fs::File::create(path(&format!("m{number}.log"))).unwrap();
        let child = Command::new("etcd")
            .env_clear()
            .args(["--name", &format!("m{number}")])
            .arg("--data-dir")
            .arg(path(&format!("m{number}")))
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
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .arg("--client-cert-auth")
            .arg("--trusted-ca-file")
            .arg(path("ca.crt"))
            .arg("--cert-file")
            .arg(path("server.crt"))
            .arg("--key-file")
            .arg(path("server.key"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd can't be started: install etcd-server (cargo xtask setup)");
        self.members[number].running = Some(child);
    }

    /// kill -9 of a member.
    pub(super) fn kill(&mut self, number: usize) {
        if let Some(mut child) = self.members[number].running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// How to reach it.
    pub(super) fn options(&self) -> EtcdOptions {
        let url = |member: &Member| format!("https://127.0.0.1:{}", member.client);
        EtcdOptions {
            endpoints: self.members.iter().map(url).collect(),
            tls: Some(self.tls.clone()),
        }
    }

    /// The same, one member only.
    pub(super) fn only(&self, number: usize) -> EtcdOptions {
        let mut options = self.options();
        options.endpoints = vec![options.endpoints.swap_remove(number)];
        options
    }
}

/// An authority, the members' certificate in `folder`, and one for us.
fn certificates(folder: &std::path::Path) -> EtcdTls {
    let named = |name: &str| {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = named("etcd-ca");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let signed = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let certificate = named(name).signed_by(&key, &issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    let (certificate, key) = signed("etcd");
    std::fs::write(folder.join("ca.crt"), &ca_pem).unwrap();
    std::fs::write(folder.join("server.crt"), certificate).unwrap();
    std::fs::write(folder.join("server.key"), key).unwrap();
    EtcdTls {
        ca_pem,
        identity_pem: Some(signed("waggle")),
    }
}
