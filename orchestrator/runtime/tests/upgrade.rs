//! A supervisor becomes another program under its containers, and takes the place of its dead keeper. Needs root.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Node, PROGRAM, connect};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use waggle_runtime::spec::{ContainerPhase, ExecSpec};

/// Waits until something is so.
async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !so().await {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn program_of(pid: i32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default()
}

fn parent_of(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit_once(')').unwrap().1;
    fields.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Kills a process and sees it dead: until then it may still answer.
fn die(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
    {
        assert!(Instant::now() < deadline, "{pid} lives on");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The supervisor's program at another place.
fn copy_of_program(folder: &Path) -> PathBuf {
    let path = folder.join("another");
    fs::copy(PROGRAM, &path).unwrap();
    path
}

#[tokio::test]
async fn a_supervisor_becomes_another_program_and_drops_nothing() {
    let mut node = Node::start("upgrade").await;
    node.sandbox("p1").await;
    let count = "n=0; while [ $n -lt 150 ]; do echo $n; n=$((n+1)); sleep 0.01; done; exit 9";
    node.run(node.container("p1", "count", count)).await;
    let mut cat = node.container(
        "p1",
        "cat",
        "while read line; do echo got $line; done; exit 7",
    );
    (cat.stdin, cat.stdin_once) = (true, true);
    let cat = node.run(cat).await;
    let mut looker = node.client.attach("p1", "cat").await.unwrap();
    let mut stdin = looker.stdin.take().unwrap();
    let command = ExecSpec {
        pod: "p1".into(),
        container: "cat".into(),
        args: ["/bin/sh", "-c", "sleep 1; exit 5"]
            .map(String::from)
            .into(),
        env: Vec::new(),
        terminal_size: None,
        tty: false,
        stdin: false,
    };
    let mut command = node.client.exec(command).await.unwrap();
    let mut events = node.client.events().await.unwrap();

    let core = node.client.ping().await.unwrap().pid as i32;
    let keeper = parent_of(core);
    let mut another = copy_of_program(node.dir.path());
    for round in 0..4 {
        if round > 0 {
            let next = node.dir.path().join(format!("another-{round}"));
            fs::rename(&another, &next).unwrap();
            another = next;
        }
        node.client.upgrade(&another).await.unwrap();
        // On the connection from before.
        assert_eq!(node.client.ping().await.unwrap().pid as i32, core);
        assert_eq!(program_of(core), another);
        until("the keeper follows", async || program_of(keeper) == another).await;
    }
    assert_eq!(node.state("p1", "cat").await.unwrap().pid, cat.pid);
    assert_eq!(command.wait().await.unwrap(), 5);
    stdin.write_all(b"one\n").await.unwrap();
    drop(stdin);
    let mut seen = String::new();
    looker.stdout.read_to_string(&mut seen).await.unwrap();
    assert_eq!(seen, "got one\n");
    let code_of = |phase: &ContainerPhase| match phase {
        ContainerPhase::Exited { code, .. } => Some(*code),
        _ => None,
    };
    let mut codes = Vec::new();
    while codes.len() < 2 {
        let next = tokio::time::timeout(Duration::from_secs(10), events.next());
        let state = next.await.unwrap().unwrap();
        codes.extend(code_of(&state.phase));
    }
    codes.sort_unstable();
    assert_eq!(codes, [7, 9], "on the stream from before");
    let lines: Vec<String> = (0..150).map(|n| n.to_string()).collect();
    assert_eq!(
        node.log("p1", "count").await.lines().collect::<Vec<_>>(),
        lines
    );

    // The keeper has kept what it had, and starts its own program.
    node.run(node.container("p1", "late", "sleep 0.3; exit 4"))
        .await;
    die(core);
    node.client = connect(&node.options).await;
    assert_eq!(node.ended("p1", "late").await, (4, None, false));
    let core = node.client.ping().await.unwrap().pid as i32;
    assert_eq!((parent_of(core), program_of(core)), (keeper, another));
}

#[tokio::test]
async fn what_is_no_program_changes_nothing() {
    let node = Node::start("no-program").await;
    node.sandbox("p1").await;
    node.run(node.container("p1", "c", "sleep 0.5; exit 3"))
        .await;
    let text = node.dir.path().join("text");
    fs::write(&text, "hello").unwrap();
    let error = node.client.upgrade(&text).await.unwrap_err().to_string();
    assert!(error.contains("upgrade supervisor"), "{error}");
    assert_eq!(node.ended("p1", "c").await, (3, None, false));
    node.run(node.container("p1", "d", "echo on")).await;
    node.log_with("p1", "d", "on").await;
}

#[tokio::test]
async fn a_dead_keeper_has_a_successor() {
    let mut node = Node::start("keeperless").await;
    node.sandbox("p1").await;
    let mut tty = node.container("p1", "tty", "echo one; read line; echo $line; exit 8");
    (tty.tty, tty.stdin) = (true, true);
    let before = node.run(tty).await;
    node.log_with("p1", "tty", "one").await;
    for round in 0..2 {
        let core = node.client.ping().await.unwrap().pid as i32;
        die(parent_of(core));
        until("another supervises", async || {
            node.client = connect(&node.options).await;
            let now = node.client.ping().await;
            now.is_ok_and(|info| parent_of(info.pid as i32) == core)
        })
        .await;
        assert_eq!(node.state("p1", "tty").await.unwrap().pid, before.pid);
        let name = format!("c{round}");
        node.run(node.container("p1", &name, "sleep 0.3; exit 6"))
            .await;
        die(node.client.ping().await.unwrap().pid as i32);
        node.client = connect(&node.options).await;
        assert_eq!(node.ended("p1", &name).await, (6, None, false));
    }
    let mut looker = node.client.attach("p1", "tty").await.unwrap();
    looker
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"two\n")
        .await
        .unwrap();
    node.log_with("p1", "tty", "two").await;
}
