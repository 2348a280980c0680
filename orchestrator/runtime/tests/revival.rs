//! A process that asked for it is started again by the supervisor when it dies, and not when it took its leave. Needs root.

mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Node, connect};
use waggle_runtime::client::Revival;

/// Pids that the process wrote, one each time it was started by the supervisor.
fn started(file: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

async fn start_number(number: usize, file: &Path) -> i32 {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(pid) = started(file).get(number - 1) {
            return *pid;
        }
        assert!(Instant::now() < deadline, "not started {number} times");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_dies_comes_back_until_it_takes_leave() {
    let mut node = Node::start("revival").await;
    let file = node.dir.path().join("pids");
    let script = format!("echo $$ >> {}; exec sleep 1000", file.display());
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let revival = Revival::of_process(pid, Path::new("/bin/sh"), &["-c", &script]).unwrap();
    node.client.revive(revival).await.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let first = start_number(1, &file).await;

    // It died young: the next start waits, and a supervisor that dies meanwhile changes nothing.
    let since = Instant::now();
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    let core = node.client.ping().await.unwrap().pid as i32;
    kill(Pid::from_raw(core), Signal::SIGKILL).unwrap();
    let second = start_number(2, &file).await;
    assert!(since.elapsed() > Duration::from_millis(450), "{since:?}");

    node.client = connect(&node.options).await;
    node.client.take_leave().await.unwrap();
    kill(Pid::from_raw(second), Signal::SIGKILL).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(started(&file).len(), 2);
}
