//! The parts of `dev` against the real kernel: namespaces, links, mounts, cgroups, and their removal. They need root.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use super::layout::{FABRIC_ADDRESS, Layout, netns_path, node_address};
use super::process::Process;
use super::{cgroups, down, links, mounts, netns};

/// A cluster's parts that are removed even when the test fails.
struct Parts {
    layout: Layout,
    _home: tempfile::TempDir,
}

impl Parts {
    fn new(name: &str) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes network namespaces: run it as root"
        );
        let home = tempfile::tempdir().unwrap();
        let layout = Layout::new(home.path(), name.try_into().unwrap()).unwrap();
        down::run(&layout, true).unwrap();
        Self {
            layout,
            _home: home,
        }
    }

    fn network(&self, nodes: u16) {
        links::ensure_fabric(&self.layout).unwrap();
        for node in 1..=nodes {
            links::ensure_node(&self.layout, node).unwrap();
            mounts::ensure_bpffs(&self.layout.bpf_dir(node)).unwrap();
        }
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if let Err(error) = down::run(&self.layout, true) {
            eprintln!("not removed: {error:#}");
        }
    }
}

fn own_links() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/net/dev").unwrap();
    let names = table
        .lines()
        .skip(2)
        .filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}

fn own_routes() -> String {
    std::fs::read_to_string("/proc/self/net/route").unwrap()
}

/// One byte from a namespace to an address in another one.
fn reaches(from: &str, to: &str, address: Ipv4Addr) {
    let listener = netns::inside(to, move || Ok(TcpListener::bind((address, 0))?)).unwrap();
    let target: SocketAddr = listener.local_addr().unwrap();
    let answering =
        std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"x").unwrap());
    let client = netns::inside(from, move || {
        Ok(TcpStream::connect_timeout(&target, Duration::from_secs(5))?)
    });
    let mut byte = [0];
    client.unwrap().read_exact(&mut byte).unwrap();
    answering.join().unwrap();
    assert_eq!(&byte, b"x");
}

#[test]
fn nodes_reach_each_other_and_the_caller_is_left_alone() {
    let (links_before, routes_before) = (own_links(), own_routes());
    let parts = Parts::new("wgt-cli-net");
    parts.network(2);
    parts.network(2);
    let layout = &parts.layout;
    reaches(&layout.netns(1), &layout.netns(2), node_address(2));
    reaches(&layout.netns(2), &layout.fabric(), FABRIC_ADDRESS);
    reaches(&layout.fabric(), &layout.netns(1), node_address(1));
    let forwarding = netns::inside(&layout.netns(1), || {
        Ok(std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")?)
    });
    assert_eq!(forwarding.unwrap().trim(), "1");
    assert_eq!(layout.nodes(), [1, 2]);
    assert_eq!((own_links(), own_routes()), (links_before, routes_before));
}

#[test]
fn the_fabric_learns_the_way_to_pods() {
    let parts = Parts::new("wgt-cli-route");
    parts.network(1);
    for third in [1, 7] {
        let ranges = BTreeMap::from([(1, (Ipv4Addr::new(10, 244, third, 0), 24))]);
        links::ensure_pod_routes(&parts.layout, &ranges).unwrap();
        links::ensure_pod_routes(&parts.layout, &ranges).unwrap();
    }
    let table = netns::inside(&parts.layout.fabric(), || {
        Ok(std::fs::read_to_string("/proc/thread-self/net/route")?)
    });
    let table = table.unwrap();
    // Destinations are little-endian hex: 10.244.7.0.
    assert!(table.contains("0007F40A"), "{table}");
}

/// A process in a cgroup of the cluster, as a container would be.
fn sleeper_in(cgroup: &str) -> Child {
    let child = Command::new("sleep").arg("600").spawn().unwrap();
    for hierarchy in cgroups::hierarchies() {
        let name = hierarchy
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        if name == "unified" || name == "memory" || name == "cgroup" {
            let folder = hierarchy.join(cgroup);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
    }
    child
}

fn traces(layout: &Layout) -> Vec<String> {
    let mut found: Vec<String> = netns::names()
        .into_iter()
        .filter(|name| layout.owns_netns(name))
        .collect();
    found.extend(
        mounts::points_below(&layout.dir)
            .unwrap()
            .iter()
            .map(|point| point.display().to_string()),
    );
    let folders = cgroups::hierarchies()
        .into_iter()
        .map(|hierarchy| hierarchy.join(layout.cgroup()));
    found.extend(
        folders
            .filter(|folder| folder.exists())
            .map(|folder| folder.display().to_string()),
    );
    found.extend(Some(layout.dir.display().to_string()).filter(|_| layout.dir.exists()));
    found
}

#[test]
fn down_removes_every_trace_of_whatever_is_there() {
    let parts = Parts::new("wgt-cli-down");
    let layout = &parts.layout;
    parts.network(2);
    std::fs::write(layout.dir.join("node1/leftover"), "x").unwrap();
    // Left of a killed up: a file where a namespace was to be mounted.
    std::fs::write(netns_path(&layout.netns(9)), "").unwrap();
    let mut child = sleeper_in(&format!("{}/pods/uid/main", layout.cgroup_of("node1")));
    let process = Process::running(i32::try_from(child.id()).unwrap()).unwrap();
    let unified = cgroups::hierarchies().into_iter().next().unwrap();
    std::fs::create_dir_all(unified.join(layout.cgroup_of("node2/pods/empty"))).unwrap();
    assert!(traces(layout).len() >= 7, "{:?}", traces(layout));
    down::run(layout, true).unwrap();
    assert_eq!(traces(layout), Vec::<String>::new());
    assert!(!process.alive());
    child.wait().unwrap();
    // Again, on nothing.
    down::run(layout, true).unwrap();
}

#[test]
fn the_last_down_removes_the_empty_home() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    let of = |name: &str| Layout::new(&home, name.try_into().unwrap()).unwrap();
    let (one, other) = (of("wgt-cli-home-a"), of("wgt-cli-home-b"));
    for layout in [&one, &other] {
        std::fs::create_dir_all(layout.server_dir()).unwrap();
    }
    down::run(&one, true).unwrap();
    assert!(!one.dir.exists() && other.dir.exists());
    down::run(&other, true).unwrap();
    assert!(!home.exists() && folder.path().exists());
    // On nothing, too.
    down::run(&other, true).unwrap();
    assert!(!home.exists());
}

#[test]
fn another_clusters_things_stay() {
    let (one, other) = (Parts::new("wgt-cli-a"), Parts::new("wgt-cli-a-b"));
    one.network(1);
    other.network(1);
    let mut child = sleeper_in(&other.layout.cgroup_of("node1"));
    let before = traces(&other.layout);
    down::run(&one.layout, true).unwrap();
    assert_eq!(traces(&other.layout), before);
    assert!(Process::running(i32::try_from(child.id()).unwrap()).is_some());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn nothing_is_removed_through_a_mount_that_stays() {
    let parts = Parts::new("wgt-cli-mnt");
    parts.network(1);
    let point = parts.layout.bpf_dir(1);
    assert_eq!(
        mounts::points_below(&parts.layout.dir).unwrap(),
        std::slice::from_ref(&point)
    );
    let fault = down::remove_state(&parts.layout.dir)
        .unwrap_err()
        .to_string();
    assert!(
        fault.contains("still mounted") && Path::new(&point).exists(),
        "{fault}"
    );
}
