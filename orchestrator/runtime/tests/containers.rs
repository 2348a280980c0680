//! Real containers under a real supervisor: lives, ends, limits, streams, and what survives the death of whom. Needs
//! root and a static busybox.

mod support;

use std::time::Duration;

use support::{Node, connect, exec, output, parent_of};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waggle_runtime::error::FaultKind;
use waggle_runtime::spec::{ContainerPhase, MountSpec, ResourceSpec, UserSpec};

#[tokio::test]
async fn a_container_lives_and_ends() {
    let node = Node::start("life").await;
    let sandbox = node.sandbox("p1").await;
    assert!(sandbox.netns.as_ref().unwrap().exists());
    assert!(sandbox.cgroup.is_dir());

    node.run(node.container("p1", "ok", "echo out; echo err >&2; printf torn"))
        .await;
    assert_eq!(node.ended("p1", "ok").await, (0, None, false));
    assert_eq!(node.stream("p1", "ok", "stdout"), ["F out", "P torn"]);
    assert_eq!(node.stream("p1", "ok", "stderr"), ["F err"]);
    let state = node.state("p1", "ok").await.unwrap();
    assert_eq!(state.spec.annotations["k"], "v");
    assert!(state.started_ns > 0 && state.notes.is_empty(), "{state:?}");

    node.run(node.container("p1", "bad", "exit 7")).await;
    assert_eq!(node.ended("p1", "bad").await, (7, None, false));

    node.run(node.container(
        "p1",
        "long",
        "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.1; done",
    ))
    .await;
    node.log_with("p1", "long", "up").await;
    node.client
        .signal_container("p1", "long", 15)
        .await
        .unwrap();
    assert_eq!(node.ended("p1", "long").await, (3, None, false));
    node.run(node.container("p1", "deaf", "sleep 1000")).await;
    node.client.signal_container("p1", "deaf", 9).await.unwrap();
    assert_eq!(node.ended("p1", "deaf").await, (137, Some(9), false));

    let busy = node.client.remove_sandbox("p1").await.unwrap_err();
    assert_eq!(busy.kind(), Some(FaultKind::InvalidState), "{busy}");
    for name in ["ok", "bad", "long", "deaf", "never-was"] {
        node.client.remove_container("p1", name).await.unwrap();
    }
    node.client.remove_sandbox("p1").await.unwrap();
    assert!(!sandbox.cgroup.exists());
    let (sandboxes, containers) = node.client.list().await.unwrap();
    assert!(sandboxes.is_empty() && containers.is_empty());
}

#[tokio::test]
async fn containers_of_a_pod_share_what_they_should() {
    let node = Node::start("share").await;
    node.sandbox("p1").await;
    let look = "hostname; cat /proc/net/dev | grep -c lo:; id -u; echo $GREETING; ls /proc | grep -c '^1$'; \
                ls /data; grep ' /dev/shm ' /proc/mounts | grep -o 'size=[0-9]*k'; \
                touch /sys/x 2>/dev/null || echo sys-ro; unshare -m true 2>/dev/null || echo no-unshare; sleep 1000";
    let shared = node.dir.path().join("volume");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "x").unwrap();
    let mut spec = node.container("p1", "a", look);
    spec.mounts = vec![
        MountSpec {
            source: Some(shared.clone()),
            target: "/data".into(),
            read_only: true,
            ..MountSpec::default()
        },
        MountSpec {
            source: None,
            target: "/cache".into(),
            read_only: false,
            tmpfs_bytes: Some(1 << 20),
            ..MountSpec::default()
        },
    ];
    node.run(spec).await;
    let log = node.log_with("p1", "a", "no-unshare").await;
    assert_eq!(
        log,
        "host-p1\n1\n0\nhello\n1\nfile\nsize=65536k\nsys-ro\nno-unshare\n"
    );
    // The same pod's other container sees the same shared memory, as another user.
    let mut spec = node.container(
        "p1",
        "b",
        "touch /dev/shm/mark; id; touch /root-fs 2>&1; sleep 1000",
    );
    spec.user = UserSpec {
        uid: 1000,
        gid: 1001,
        additional_gids: vec![7],
    };
    spec.read_only_root = true;
    spec.cwd = "/made/for/it".into();
    node.run(spec).await;
    let log = node.log_with("p1", "b", "root-fs").await;
    assert!(
        log.contains("uid=1000(app) gid=1001 groups=7") && log.contains("Read-only file system"),
        "{log}"
    );
    assert_eq!(
        output(&node, exec("p1", "a", "ls /dev/shm")).await,
        (0, "mark\n".into(), String::new())
    );
    let (code, _, said) = output(&node, exec("p1", "a", "echo x > /data/file")).await;
    assert!(code != 0 && said.contains("Read-only"), "{said}");
    assert_eq!(
        output(&node, exec("p1", "a", "touch /cache/x && ls /cache"))
            .await
            .1,
        "x\n"
    );
}

#[tokio::test]
async fn what_cannot_run_says_why_and_leaves_nothing() {
    let node = Node::start("faults").await;
    node.sandbox("p1").await;
    let check = async |change: fn(&mut waggle_runtime::spec::ContainerSpec), kind, text: &str| {
        let mut spec = node.container("p1", "x", "true");
        change(&mut spec);
        let error = node.client.create_container(spec).await.unwrap_err();
        assert_eq!(error.kind(), Some(kind), "{error}");
        assert!(error.to_string().contains(text), "{error}");
        assert!(node.client.list().await.unwrap().1.is_empty());
    };
    check(
        |s| s.args = vec!["nope".into()],
        FaultKind::Invalid,
        "nope: executable file not found in $PATH",
    )
    .await;
    check(
        |s| s.args = vec!["/etc/passwd".into()],
        FaultKind::Invalid,
        "/etc/passwd: permission denied",
    )
    .await;
    check(|s| s.args.clear(), FaultKind::Invalid, "no command").await;
    check(
        |s| s.layers = vec!["/nonexistent".into()],
        FaultKind::Invalid,
        "layer /nonexistent is missing",
    )
    .await;
    check(
        |s| s.pod = "ghost".into(),
        FaultKind::NotFound,
        "no sandbox",
    )
    .await;
    check(
        |s| s.name = "../up".into(),
        FaultKind::Invalid,
        "can't name a container",
    )
    .await;
    let missing = |s: &mut waggle_runtime::spec::ContainerSpec| {
        let source = Some("/nonexistent/volume".into());
        s.mounts = vec![MountSpec {
            source,
            target: "/v".into(),
            read_only: false,
            ..MountSpec::default()
        }];
    };
    check(
        missing,
        FaultKind::Invalid,
        "mount /nonexistent/volume at /v",
    )
    .await;

    node.run(node.container("p1", "x", "sleep 1000")).await;
    let again = node
        .client
        .create_container(node.container("p1", "x", "true"))
        .await
        .unwrap_err();
    assert_eq!(again.kind(), Some(FaultKind::AlreadyExists));
    let mut bad = exec("p1", "x", "");
    bad.args = vec!["nope".into()];
    let error = node.client.exec(bad).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("nope: executable file not found"),
        "{error}"
    );
    let error = node.client.exec(exec("p1", "y", "true")).await.unwrap_err();
    assert_eq!(error.kind(), Some(FaultKind::NotFound));
    // A failed exec must not keep the container from ending.
    node.client.signal_container("p1", "x", 9).await.unwrap();
    assert_eq!(node.ended("p1", "x").await.0, 137);
    // The next attempt takes the place of the one that ended.
    let mut next = node.container("p1", "x", "echo second; exit 4");
    next.attempt = 1;
    node.run(next).await;
    assert_eq!(node.ended("p1", "x").await.0, 4);
}

#[tokio::test]
async fn commands_run_in_containers() {
    let node = Node::start("exec").await;
    node.sandbox("p1").await;
    let mut spec = node.container("p1", "c", "sleep 1000");
    spec.user = UserSpec {
        uid: 1000,
        gid: 1001,
        additional_gids: Vec::new(),
    };
    node.run(spec).await;
    let mut ask = exec(
        "p1",
        "c",
        "echo $GREETING $MORE; echo oops >&2; id -u; grep Seccomp: /proc/self/status; exit 5",
    );
    ask.env = vec!["MORE=world".into()];
    let (code, out, err) = output(&node, ask).await;
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (5, "hello world\n1000\nSeccomp:\t2\n", "oops\n")
    );
    // The same capabilities and filter as the container itself.
    let (_, caps, _) = output(
        &node,
        exec(
            "p1",
            "c",
            "grep Cap /proc/self/status; grep Sig[BI] /proc/self/status",
        ),
    )
    .await;
    let (_, init, _) = output(
        &node,
        exec(
            "p1",
            "c",
            "grep Cap /proc/1/status; grep Sig[BI] /proc/1/status",
        ),
    )
    .await;
    assert_eq!(caps, init);

    let mut ask = exec("p1", "c", "cat");
    ask.stdin = true;
    let mut session = node.client.exec(ask).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let big = vec![b'x'; 1 << 20];
    let (mut stdout, sent) = (session.stdout.take().unwrap(), big.clone());
    let writing = tokio::spawn(async move { stdin.write_all(&sent).await });
    let mut back = Vec::new();
    stdout.read_to_end(&mut back).await.unwrap();
    writing.await.unwrap().unwrap();
    assert_eq!(back.len(), big.len());
    assert_eq!(session.wait().await.unwrap(), 0);

    let mut ask = exec(
        "p1",
        "c",
        "stty size; echo $TERM; read line; echo got $line; stty size",
    );
    ask.tty = true;
    ask.stdin = true;
    ask.terminal_size = Some((100, 30));
    let mut session = node.client.exec(ask).await.unwrap();
    let (mut stdin, mut stdout) = (
        session.stdin.take().unwrap(),
        session.stdout.take().unwrap(),
    );
    let mut seen = String::new();
    let mut chunk = [0_u8; 256];
    while !seen.contains("xterm") {
        let n = stdout.read(&mut chunk).await.unwrap();
        assert!(n > 0, "{seen}");
        seen.push_str(std::str::from_utf8(&chunk[..n]).unwrap());
    }
    session.resize(120, 40).unwrap();
    stdin.write_all(b"line\n").await.unwrap();
    stdout.read_to_string(&mut seen).await.unwrap();
    assert!(
        seen.contains("got line") && seen.ends_with("40 120\r\n"),
        "{seen:?}"
    );
    assert_eq!(session.wait().await.unwrap(), 0);

    let mut session = node
        .client
        .exec(exec("p1", "c", "sleep 1000"))
        .await
        .unwrap();
    session.signal(9).await.unwrap();
    assert_eq!(session.wait().await.unwrap(), 137);
}

#[tokio::test]
async fn limits_hold() {
    let node = Node::start("limits").await;
    node.sandbox("p1").await;
    let mut spec = node.container("p1", "greedy", "exec tail -n 1 /dev/zero");
    spec.resources.memory_limit = Some(16 << 20);
    spec.resources.cpu_limit_milli = Some(1500);
    spec.oom_score_adj = -500;
    let state = node.run(spec).await;
    assert_eq!(node.ended("p1", "greedy").await, (137, Some(9), true));
    let clamped = state.notes.iter().any(|n| n.contains("oom_score_adj"));
    let could = std::fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .any(|l| {
            l.strip_prefix("CapEff:")
                .is_some_and(|m| u64::from_str_radix(m.trim(), 16).unwrap() & (1 << 24) != 0)
        });
    assert_eq!(clamped, !could);

    let mut spec = node.container(
        "p1",
        "forks",
        "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; echo all",
    );
    spec.resources.pids_limit = Some(4);
    node.run(spec).await;
    assert!(node.ended("p1", "forks").await.0 != 0);

    // 64 MiB of a variable, in the shell itself.
    let mut spec = node.container(
        "p1",
        "holds",
        "x=0123456789abcdef; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22; do x=$x$x; done; echo full; \
         while :; do sleep 1000; done",
    );
    spec.resources.memory_limit = Some(256 << 20);
    let mut resources = spec.resources.clone();
    node.run(spec).await;
    node.log_with("p1", "holds", "full").await;
    resources.memory_limit = Some(32 << 20);
    let resize = |resources: &ResourceSpec| {
        node.client
            .resize_container("p1", "holds", resources.clone())
    };
    let refused = resize(&resources).await.unwrap_err().to_string();
    assert!(refused.contains("below what it uses"), "{refused}");
    resources.memory_limit = Some(512 << 20);
    resize(&resources).await.unwrap();

    node.run(node.container("p1", "busy", "echo on; while :; do :; done"))
        .await;
    node.log_with("p1", "busy", "on").await;
    let mut used = 0;
    for _ in 0..500 {
        used = node.client.usage("p1", "busy").await.unwrap().cpu_ns;
        if used > 50_000_000 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(used > 50_000_000, "{used}");
    assert!(node.client.usage("p1", "busy").await.unwrap().memory_bytes > 0);
    let of = |pod: &str| waggle_runtime::cgroup::pod_path(&node.options.cgroup, pod);
    let cgroups = waggle_runtime::cgroup::Cgroups::detect().unwrap();
    assert!(cgroups.usage(&of("p1")).unwrap().cpu_ns >= used);
}

#[tokio::test]
async fn processes_are_where_programs_are_attached() {
    let node = Node::start("unified").await;
    let sandbox = node.sandbox("p1").await;
    node.run(node.container("p1", "c", "grep '^0::' /proc/self/cgroup; sleep 1000"))
        .await;
    let expected = format!("0::/{}/pods/p1\n", node.options.cgroup);
    assert_eq!(node.log_with("p1", "c", "0::").await, expected);
    assert_eq!(
        output(&node, exec("p1", "c", "grep '^0::' /proc/self/cgroup"))
            .await
            .1,
        expected
    );
    let there = std::fs::read_to_string(sandbox.cgroup.join("cgroup.procs")).unwrap();
    assert!(there.lines().count() >= 1, "{there}");
    // Where limits are, both ways into a container.
    let script = "grep -c ':\\(memory\\|pids\\|cpu\\|devices\\):.*/pods/p1/c$' /proc/self/cgroup";
    let (_, inside, _) = output(&node, exec("p1", "c", script)).await;
    let own = std::fs::read_to_string(format!("/proc/{}/cgroup", there.lines().next().unwrap()));
    let limited = |line: &&str| line.ends_with("/pods/p1/c");
    let outside = own.unwrap().lines().filter(limited).count();
    if !waggle_runtime::cgroup::Cgroups::detect().unwrap().is_v2() {
        assert_eq!(inside, "4\n");
        assert!(outside >= 4, "{outside}");
    }
}

#[tokio::test]
async fn terminals_and_big_outputs_reach_the_log() {
    let node = Node::start("logs").await;
    node.sandbox("p1").await;
    let mut spec = node.container("p1", "tty", "test -t 1 && echo terminal; echo done");
    spec.tty = true;
    node.run(spec).await;
    assert_eq!(node.ended("p1", "tty").await.0, 0);
    assert_eq!(node.log("p1", "tty").await, "terminal\ndone\n");
    // Past a rotation, with a line that is longer than a part may be.
    node.run(node.container(
        "p1",
        "big",
        "seq 1 900000; head -c 50000 /dev/zero; echo end",
    ))
    .await;
    assert_eq!(node.ended("p1", "big").await.0, 0);
    let log = node.log("p1", "big").await;
    let mut expected: String = (1..=900_000).map(|n| format!("{n}\n")).collect();
    expected.push_str(&"\0".repeat(50_000));
    expected.push_str("end\n");
    assert!(
        log == expected,
        "{} bytes instead of {}",
        log.len(),
        expected.len()
    );
    assert!(waggle_runtime::logs::rotated(&node.container("p1", "big", "").log_path, 1).exists());
}

#[tokio::test]
async fn a_client_that_goes_away_takes_nothing_with_it() {
    let mut node = Node::start("client").await;
    node.sandbox("p1").await;
    let before = node
        .run(node.container(
            "p1",
            "c",
            "n=0; while :; do echo $n; n=$((n+1)); sleep 0.05; done",
        ))
        .await;
    let socket = node.options.socket();
    node.client = waggle_runtime::Client::connect(&socket).await.unwrap();
    let after = node.state("p1", "c").await.unwrap();
    assert_eq!(
        (after.pid, &after.phase),
        (before.pid, &ContainerPhase::Running)
    );
    let lines = node.log("p1", "c").await.lines().count();
    node.log_with("p1", "c", &format!("\n{}\n", lines + 3))
        .await;
}

#[tokio::test]
async fn a_killed_supervisor_is_replaced_and_loses_nothing() {
    let mut node = Node::start("replace").await;
    node.sandbox("p1").await;
    let count = "n=0; while [ $n -lt 200 ]; do echo $n; n=$((n+1)); sleep 0.01; done; exit 9";
    let before = node.run(node.container("p1", "count", count)).await;
    node.run(node.container("p1", "quick", "sleep 0.2; echo last words; exit 6"))
        .await;
    let mut tty = node.container("p1", "tty", "echo one; sleep 1; echo two; sleep 1000");
    tty.tty = true;
    node.run(tty).await;
    node.log_with("p1", "tty", "one").await;
    for round in 0..3 {
        let pid = node.client.ping().await.unwrap().pid;
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid as i32),
            nix::sys::signal::Signal::SIGKILL,
        )
        .unwrap();
        node.client = connect(&node.options).await;
        assert_ne!(node.client.ping().await.unwrap().pid, pid, "round {round}");
    }
    assert_eq!(node.ended("p1", "quick").await.0, 6);
    assert_eq!(node.log("p1", "quick").await, "last words\n");
    let state = node.state("p1", "count").await.unwrap();
    assert!(state.exited() || state.pid == before.pid, "{state:?}");
    assert_eq!(node.ended("p1", "count").await, (9, None, false));
    // Killed between writing and taking, the next one writes that once more: lines come at least once.
    let log = node.log("p1", "count").await;
    let mut lines: Vec<_> = log.lines().map(str::to_owned).collect();
    lines.dedup();
    let expected: Vec<_> = (0..200).map(|n| n.to_string()).collect();
    assert_eq!(lines, expected);
    assert_eq!(node.log_with("p1", "tty", "two").await, "one\ntwo\n");
    assert_eq!(
        node.state("p1", "tty").await.unwrap().phase,
        ContainerPhase::Running
    );
    assert_eq!(
        output(&node, exec("p1", "tty", "echo in")).await,
        (0, "in\n".into(), String::new())
    );
}

#[tokio::test]
async fn containers_outlive_supervisor_and_keeper() {
    let mut node = Node::start("orphans").await;
    node.sandbox("p1").await;
    let before = node
        .run(node.container("p1", "c", "echo up; sleep 1000"))
        .await;
    node.log_with("p1", "c", "up").await;
    let core = node.client.ping().await.unwrap().pid as i32;
    let keeper = parent_of(core);
    for pid in [keeper, core] {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        )
        .unwrap();
    }
    node.client = connect(&node.options).await;
    let after = node.state("p1", "c").await.unwrap();
    assert_eq!(
        (after.pid, after.phase),
        (before.pid, ContainerPhase::Running)
    );
    assert_eq!(
        output(&node, exec("p1", "c", "echo still")).await.1,
        "still\n"
    );
    node.client.signal_container("p1", "c", 9).await.unwrap();
    // The kernel tells the code of a stranger's child from 6.15 on.
    assert!(matches!(node.ended("p1", "c").await.0, 137 | 255));
}

#[tokio::test]
async fn workers_that_die_at_it_leave_nothing() {
    let node = Node::start("workers").await;
    node.sandbox("p1").await;
    let core = node.client.ping().await.unwrap().pid as i32;
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone();
    let killer = std::thread::spawn(move || {
        let mut pause = 0;
        while !stopped.is_cancelled() {
            // Spread over the whole length of a creation.
            pause = (pause + 7) % 40;
            std::thread::sleep(Duration::from_millis(pause));
            let text = std::fs::read_to_string(format!("/proc/{core}/task/{core}/children"))
                .unwrap_or_default();
            for pid in text.split_whitespace().filter(|p| is_worker(p)) {
                let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
                // It may have ended since.
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
    });
    let mut failed = 0;
    for n in 0..60 {
        let name = format!("c{n}");
        match node
            .client
            .create_container(node.container("p1", &name, "sleep 1000"))
            .await
        {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), Some(FaultKind::Internal), "{error}");
                assert!(!error.to_string().contains("worker died"), "{error}");
                failed += 1;
            }
        }
    }
    stop.cancel();
    killer.join().unwrap();
    assert!(failed > 0, "no creation was hit");
    let (_, containers) = node.client.list().await.unwrap();
    assert_eq!(containers.len(), 60 - failed);
    for container in containers {
        node.client
            .remove_container("p1", &container.spec.name)
            .await
            .unwrap();
    }
    assert!(node.client.list().await.unwrap().1.is_empty());
    // What killed workers left goes by and by.
    let strangers = || {
        let children =
            std::fs::read_to_string(format!("/proc/{core}/task/{core}/children")).unwrap();
        let others = children.split_whitespace().filter(|p| !is_worker(p));
        others
            .map(|p| std::fs::read_to_string(format!("/proc/{p}/stat")).unwrap_or_default())
            .collect::<Vec<_>>()
    };
    let folders = || {
        std::fs::read_dir(node.options.data.join("containers"))
            .unwrap()
            .count()
    };
    for _ in 0..1000 {
        if strangers().is_empty() && folders() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(folders(), 0);
    assert_eq!(strangers(), Vec::<String>::new());
}

fn is_worker(pid: &str) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"waggle\0worker\0")
}

#[tokio::test]
async fn many_start_at_once() {
    let node = Node::start("many").await;
    let begin = std::time::Instant::now();
    let starts = (0..20).map(|n| format!("p{n}")).map(async |pod| {
        node.sandbox(&pod).await;
        node.run(node.container(&pod, "c", "echo up; exec sleep 1000"))
            .await;
        pod
    });
    let pods = futures::future::join_all(starts).await;
    eprintln!("20 pods in {:?}", begin.elapsed());
    for pod in &pods {
        node.log_with(pod, "c", "up").await;
    }
    let begin = std::time::Instant::now();
    for n in 0..20 {
        node.run(node.container("p0", &format!("s{n}"), "exec true"))
            .await;
        node.ended("p0", &format!("s{n}")).await;
        node.client
            .remove_container("p0", &format!("s{n}"))
            .await
            .unwrap();
    }
    eprintln!("20 cycles in {:?}", begin.elapsed());
}
