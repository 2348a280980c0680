//! What containers share with their node and with each other, because they ask for it. Needs root and a static busybox.

mod support;

use std::path::PathBuf;
use std::time::Duration;

use support::{Node, exec, output, parent_of};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use waggle_runtime::spec::MountSpec;

#[tokio::test]
async fn the_node_shares_what_it_is_asked_to() {
    let node = Node::start("host").await;
    let spec = waggle_runtime::spec::SandboxSpec {
        pod: "p1".into(),
        namespace: "default".into(),
        name: "p1".into(),
        hostname: "h".into(),
        host_network: true,
        host_ipc: false,
        share_pid: false,
        sysctls: Vec::new(),
    };
    assert_eq!(
        node.client
            .create_sandbox(spec.clone())
            .await
            .unwrap()
            .netns,
        None
    );
    assert_eq!(
        node.client.create_sandbox(spec.clone()).await.unwrap().spec,
        spec
    );
    let hosts = node.dir.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 me\n").unwrap();
    let mut spec = node.container("p1", "c", "sleep 1000");
    spec.privileged = true;
    spec.mounts = vec![MountSpec {
        source: Some(hosts),
        target: "/etc/hosts".into(),
        read_only: false,
        ..MountSpec::default()
    }];
    node.run(spec).await;
    let (_, out, err) = output(
        &node,
        exec(
            "p1",
            "c",
            "cat /etc/hosts; ls -l /proc/1/ns/net; grep -E 'CapEff|Seccomp:' /proc/1/status",
        ),
    )
    .await;
    let net = std::fs::read_link("/proc/self/ns/net").unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let capabilities = status.lines().find(|l| l.starts_with("CapEff")).unwrap();
    assert!(
        out.starts_with("127.0.0.1 me\n") && out.contains(net.to_str().unwrap()),
        "{out}{err}"
    );
    assert!(
        out.contains(capabilities) && out.contains("Seccomp:\t0"),
        "{out}"
    );
    // mount(2) works, and devices of the host are there.
    let (code, _, err) = output(
        &node,
        exec("p1", "c", "mount -t tmpfs x /tmp && test -c /dev/kmsg"),
    )
    .await;
    assert_eq!((code, err.as_str()), (0, ""));
}

#[tokio::test]
async fn namespaces_are_shared_and_tuned_as_asked() {
    let node = Node::start("share").await;
    let spec = |pod: &str, host_ipc| waggle_runtime::spec::SandboxSpec {
        pod: pod.into(),
        namespace: "default".into(),
        name: pod.into(),
        hostname: "h".into(),
        host_network: false,
        host_ipc,
        share_pid: false,
        sysctls: vec![("net.ipv4.tcp_fin_timeout".into(), "17".into())],
    };
    node.client.create_sandbox(spec("p1", false)).await.unwrap();
    node.client.create_sandbox(spec("p2", true)).await.unwrap();
    let seen = "readlink /proc/self/ns/ipc; readlink /proc/self/ns/pid; cat /proc/sys/net/ipv4/tcp_fin_timeout";
    let ours = |kind: &str| {
        let link = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        link.to_str().unwrap().to_owned()
    };
    node.run(node.container("p1", "c", seen)).await;
    node.ended("p1", "c").await;
    let own = node.log("p1", "c").await;
    assert!(
        !own.contains(&ours("ipc")) && !own.contains(&ours("pid")),
        "{own}"
    );
    assert!(own.ends_with("17\n"), "{own}");
    let mut shared = node.container("p2", "c", &format!("{seen}; sleep 1000"));
    shared.host_pid = true;
    node.run(shared).await;
    let host = node.log_with("p2", "c", "17\n").await;
    assert!(
        host.contains(&ours("ipc")) && host.contains(&ours("pid")),
        "{host}"
    );
    // Without a process namespace of its own nothing of it may stay either.
    node.client.remove_container("p2", "c").await.unwrap();
}

#[tokio::test]
async fn a_profile_of_the_nodes_own_filters_calls() {
    let node = Node::start("profile").await;
    node.sandbox("p1").await;
    let profile = node.dir.path().join("no-mkdir.json");
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
        "syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    std::fs::write(&profile, text).unwrap();
    let mut spec = node.container(
        "p1",
        "c",
        "mkdir /tmp/x && echo made || echo refused; touch /f && echo touched",
    );
    spec.seccomp_profile = Some(profile);
    node.run(spec).await;
    node.ended("p1", "c").await;
    let log = node.log("p1", "c").await;
    assert!(log.contains("refused") && log.contains("touched"), "{log}");
}

#[tokio::test]
async fn processes_are_shared_in_a_pod_that_asks_for_it() {
    let node = Node::start("share-pid").await;
    let spec = waggle_runtime::spec::SandboxSpec {
        pod: "p1".into(),
        namespace: "default".into(),
        name: "p1".into(),
        hostname: "h".into(),
        host_network: false,
        host_ipc: false,
        share_pid: true,
        sysctls: Vec::new(),
    };
    node.client.create_sandbox(spec).await.unwrap();
    // The second leaves a child behind, which the pod's first process inherits and reaps.
    node.run(node.container("p1", "a", "sleep 4242")).await;
    let left = "(sh -c \"sleep 0.3; exit 3\" &); exec sleep 4243";
    node.run(node.container("p1", "b", left)).await;
    let seen = "sleep 0.6; cat /proc/1/comm; cat /proc/[0-9]*/cmdline | tr '\\0' ' '; grep -l '^State:.Z' /proc/[0-9]*/status";
    let (_, out, err) = output(&node, exec("p1", "a", seen)).await;
    assert!(out.starts_with("pause\n"), "{out}");
    assert!(
        out.contains("sleep 4242") && out.contains("sleep 4243"),
        "{out}"
    );
    assert!(!out.contains("/status\n"), "zombies: {out} {err}");
    // One container ends, with all of its processes; the other goes on.
    node.client.remove_container("p1", "b").await.unwrap();
    let (_, out, _) = output(
        &node,
        exec("p1", "a", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"),
    )
    .await;
    assert!(
        out.contains("sleep 4242") && !out.contains("sleep 4243"),
        "{out}"
    );
    // Another container may be in the namespace of one that has its own.
    node.sandbox("p2").await;
    node.run(node.container("p2", "target", "exec sleep 4244"))
        .await;
    let mut debug = node.container("p2", "debug", "cat /proc/1/cmdline | tr '\\0' ' '");
    debug.pid_of = Some("target".into());
    node.run(debug).await;
    assert_eq!(node.ended("p2", "debug").await.0, 0);
    assert_eq!(node.log("p2", "debug").await, "sleep 4244 ");
    node.client.remove_container("p1", "a").await.unwrap();
    let core = node.client.ping().await.unwrap().pid as i32;
    assert_eq!(pauses(core).len(), 1);
    node.client.remove_sandbox("p1").await.unwrap();
    let since = std::time::Instant::now();
    while !pauses(core).is_empty() {
        assert!(
            since.elapsed() < Duration::from_secs(5),
            "{:?}",
            pauses(core)
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// First processes of pods' process namespaces under this supervisor.
fn pauses(core: i32) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains("(pause)") && parent_of(*pid) == core
    })
    .collect()
}

/// Mounts of this host's that go when the test does.
struct Mounted(Vec<PathBuf>);

impl Mounted {
    fn tmpfs(&mut self, at: PathBuf) {
        std::fs::create_dir_all(&at).unwrap();
        let none = None::<&str>;
        mount(Some("wgt"), &at, Some("tmpfs"), MsFlags::empty(), none).unwrap();
        mount(none, &at, none, MsFlags::MS_SHARED, none).unwrap();
        self.0.push(at);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for place in self.0.iter().rev() {
            // What a container mounted there may be gone already.
            let _ = umount2(place, MntFlags::MNT_DETACH);
        }
    }
}

#[tokio::test]
async fn mounts_cross_between_node_and_container_as_asked() {
    let node = Node::start("crossing").await;
    node.sandbox("p1").await;
    let volume = node.dir.path().join("volume");
    let mut mounted = Mounted(Vec::new());
    mounted.tmpfs(volume.clone());
    mounted.tmpfs(volume.join("sub"));
    std::fs::write(volume.join("sub/theirs"), "x").unwrap();
    let with = |name: &str, script: &str| {
        let mut spec = node.container("p1", name, &format!("{script}; sleep 1000"));
        spec.privileged = true;
        spec.mounts = vec![MountSpec {
            source: Some(volume.clone()),
            target: "/v".into(),
            ..MountSpec::default()
        }];
        spec
    };
    let mut plain = with("plain", "true");
    plain.mounts[0].read_only = true;
    node.run(plain).await;
    let mut deep = with("deep", "true");
    (deep.mounts[0].read_only, deep.mounts[0].recursive) = (true, true);
    node.run(deep).await;
    let mut receives = with("receives", "true");
    receives.mounts[0].receives_mounts = true;
    node.run(receives).await;
    // A copy of the folder came and went with each creation; what is mounted in the node's own is still there.
    assert!(
        volume.join("sub/theirs").exists(),
        "a mount of the node's is gone"
    );
    let mut sends = with(
        "sends",
        "mkdir /v/new && mount -t tmpfs new /v/new && touch /v/new/ours && echo done",
    );
    sends.mounts[0].sends_mounts = true;
    mounted.0.push(volume.join("new"));
    node.run(sends).await;
    node.log_with("p1", "sends", "done\n").await;
    assert!(
        volume.join("new/ours").exists(),
        "the node sees nothing of it"
    );
    let sees = "ls /v/new; touch /v/sub/written && echo written || echo refused";
    let of = async |name: &str| output(&node, exec("p1", name, sees)).await.1;
    assert_eq!(of("plain").await, "written\n");
    assert_eq!(of("deep").await, "refused\n");
    assert_eq!(of("receives").await, "ours\nwritten\n");
    for name in ["sends", "receives", "deep", "plain"] {
        node.client.remove_container("p1", name).await.unwrap();
    }
    assert!(
        volume.join("sub/theirs").exists(),
        "a mount of the node's is gone"
    );
}
