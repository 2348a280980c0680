//! Several servers over one etcd, as processes: every one of them answers, one leads, and its death loses nothing.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A process that is killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn start(mut command: Command, log: &Path) -> Running {
    let log = std::fs::File::create(log).unwrap();
    let command = command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    Running(command.spawn().unwrap())
}

fn etcd(folder: &Path) -> (Running, String) {
    let (client, peer) = (free_port(), free_port());
    let (client, peer) = (
        format!("http://127.0.0.1:{client}"),
        format!("http://127.0.0.1:{peer}"),
    );
    let mut command = Command::new("etcd");
    command
        .env_clear()
        .args(["--name", "m", "--data-dir"])
        .arg(folder.join("etcd"))
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
        .args(["--initial-cluster", &format!("m={peer}")]);
    (start(command, &folder.join("etcd.log")), client)
}

struct Server {
    name: &'static str,
    data: PathBuf,
    port: u16,
    running: Running,
}

impl Server {
    fn start(folder: &Path, name: &'static str, etcd: &str) -> Self {
        Self::start_at(folder, name, etcd, free_port())
    }

    fn start_at(folder: &Path, name: &'static str, etcd: &str, port: u16) -> Self {
        Self::start_over(folder, name, &format!("etcd={etcd}"), port)
    }

    fn start_embedded(folder: &Path, name: &'static str) -> Self {
        Self::start_over(folder, name, "embedded", free_port())
    }

    fn start_over(folder: &Path, name: &'static str, store: &str, port: u16) -> Self {
        let data = folder.join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_waggle"));
        command
            .args(["server", "--store", store, "--data"])
            .arg(&data)
            .args(["--listen", &format!("127.0.0.1:{port}")]);
        let running = start(command, &folder.join(format!("{name}.log")));
        Self {
            name,
            data,
            port,
            running,
        }
    }

    /// `waggle` aimed at this server.
    fn waggle(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_waggle"))
            .args(arguments)
            .env("KUBECONFIG", self.data.join("admin.kubeconfig"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// The same, tried until it succeeds.
    fn soon(&self, arguments: &[&str]) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let output = self.waggle(arguments);
            if output.status.success() {
                return String::from_utf8(output.stdout).unwrap();
            }
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                Instant::now() < until,
                "{}: {arguments:?}: {said}",
                self.name
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn apply(&self, folder: &Path, name: &str) {
        let file = folder.join(format!("{name}.yaml"));
        let manifest = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
             spec: {{selector: {{app: x}}, ports: [{{port: 80}}]}}\n"
        );
        std::fs::write(&file, manifest).unwrap();
        self.soon(&["apply", "-f", file.to_str().unwrap()]);
    }

    fn leads(&self, folder: &Path) -> bool {
        let log = std::fs::read_to_string(folder.join(format!("{}.log", self.name)));
        log.unwrap_or_default().contains("this server leads")
    }
}

/// Names and virtual addresses of the Services `s*`.
fn services(server: &Server) -> Vec<(String, String)> {
    let table = server.soon(&["get", "services", "-n", "default", "--no-headers"]);
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[0].to_owned(), words[2].to_owned())
    };
    let mut rows: Vec<_> = table
        .lines()
        .map(row)
        .filter(|row| row.0.starts_with('s'))
        .collect();
    rows.sort();
    rows
}

#[test]
fn the_death_of_the_leader_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (_etcd, url) = etcd(folder.path());
    let one = Server::start(folder.path(), "one", &url);
    one.soon(&["get", "namespaces"]);
    let two = Server::start(folder.path(), "two", &url);
    let three = Server::start(folder.path(), "three", &url);
    assert!(one.leads(folder.path()));
    // Whoever is asked, the leader gives the addresses, and everybody shows them at once.
    for (index, server) in [&one, &two, &three].into_iter().cycle().take(9).enumerate() {
        server.apply(folder.path(), &format!("s{index}"));
        let asked = [&two, &three, &one][index % 3];
        assert_eq!(
            services(asked).len(),
            index + 1,
            "as {} sees it",
            asked.name
        );
    }
    let before = services(&three);
    let mut addresses: Vec<_> = before.iter().map(|row| row.1.clone()).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 9, "{before:?}");
    let port = one.port;
    drop(one.running);
    // Asked at once: the write waits for the next leader.
    two.apply(folder.path(), "s9");
    three.apply(folder.path(), "sa");
    let after = services(&three);
    assert_eq!(services(&two), after);
    assert_eq!(after.len(), 11);
    assert!(
        before.iter().all(|row| after.contains(row)),
        "{before:?} became {after:?}"
    );
    let mut addresses: Vec<_> = after.iter().map(|row| row.1.clone()).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 11, "{after:?}");
    assert!(
        two.leads(folder.path()) != three.leads(folder.path()),
        "one of them leads"
    );
    // The first comes back, as a follower.
    let one = Server::start_at(folder.path(), "one", &url, port);
    assert_eq!(services(&one), after);
    one.apply(folder.path(), "sb");
    assert_eq!(services(&two).len(), 12);
    assert!(!one.leads(folder.path()));
}

#[test]
fn a_store_that_can_not_be_reached_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_waggle"))
        .args(["server", "--store", "etcd=http://127.0.0.1:1", "--data"])
        .arg(folder.path().join("data"))
        .args(["--listen", "127.0.0.1:0"])
        .output()
        .unwrap();
    assert!(!output.status.success() && started.elapsed() < PATIENCE);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("etcd at http://127.0.0.1:1"), "{said}");
}

#[test]
fn a_cluster_moves_from_embedded_to_etcd_and_back_with_its_keys() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let restore = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waggle"));
        command.arg("restore").args(arguments).output().unwrap()
    };
    let ca = |data: &Path| std::fs::read(data.join("ca.crt")).unwrap();
    let one = Server::start_embedded(folder.path(), "one");
    one.soon(&["get", "namespaces"]);
    one.apply(folder.path(), "s1");
    let before = services(&one);
    one.soon(&["backup", &path("first")]);
    let authority = ca(&one.data);
    drop(one.running);

    let (_etcd, url) = etcd(folder.path());
    let store = format!("etcd={url}");
    let restored = restore(&[&path("first"), "--store", &store]);
    assert!(restored.status.success(), "{restored:?}");
    let again = restore(&[&path("first"), "--store", &store]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(
        !again.status.success() && said.contains("is not empty"),
        "{said}"
    );
    let two = Server::start(folder.path(), "two", &url);
    assert_eq!(services(&two), before);
    assert_eq!(ca(&two.data), authority);
    two.apply(folder.path(), "s2");
    let before = services(&two);
    let again = restore(&[&path("first"), "--store", &store]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(said.contains("stop all servers first"), "{said}");
    two.soon(&["backup", &path("second")]);
    drop(two.running);

    let restored = restore(&[&path("second"), "--data", &path("three")]);
    assert!(restored.status.success(), "{restored:?}");
    let three = Server::start_embedded(folder.path(), "three");
    assert_eq!(services(&three), before);
    assert_eq!(ca(&three.data), authority);
    three.apply(folder.path(), "s3");
    assert_eq!(services(&three).len(), 3);
}
