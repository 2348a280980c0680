//! Clients attached to containers: what they see, what they write, and when it ends. Needs root.

mod support;

use std::time::Duration;

use support::{Node, connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

/// Reads until `expect` has come.
async fn until(stream: &mut pipe::Receiver, expect: &str) {
    let mut seen = String::new();
    let read = async {
        while !seen.contains(expect) {
            let mut chunk = [0; 1024];
            let n = stream.read(&mut chunk).await.unwrap();
            assert!(n > 0, "ended after {seen:?}");
            seen.push_str(&String::from_utf8_lossy(&chunk[..n]));
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(10), read).await;
    assert!(read.is_ok(), "not {expect:?}");
}

#[tokio::test]
async fn a_stdin_that_is_used_once_ends_with_its_writer() {
    let mut node = Node::start("attach-once").await;
    node.sandbox("p1").await;
    let mut spec = node.container(
        "p1",
        "cat",
        "while read line; do echo got $line; done; exit 7",
    );
    (spec.stdin, spec.stdin_once) = (true, true);
    node.run(spec).await;
    let mut first = node.client.attach("p1", "cat").await.unwrap();
    let mut second = node.client.attach("p1", "cat").await.unwrap();
    let mut stdin = first.stdin.take().unwrap();
    stdin.write_all(b"one\n").await.unwrap();
    until(&mut first.stdout, "got one\n").await;
    until(&mut second.stdout, "got one\n").await;

    // The next supervisor keeps it open.
    let core = node.client.ping().await.unwrap().pid as i32;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(core),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    drop((first, second, stdin));
    node.client = connect(&node.options).await;
    let mut again = node.client.attach("p1", "cat").await.unwrap();
    let mut stdin = again.stdin.take().unwrap();
    stdin.write_all(b"two\n").await.unwrap();
    until(&mut again.stdout, "got two\n").await;
    drop(stdin);
    assert_eq!(node.ended("p1", "cat").await, (7, None, false));
    let mut rest = Vec::new();
    again.stdout.read_to_end(&mut rest).await.unwrap();
    assert_eq!(node.log("p1", "cat").await, "got one\ngot two\n");
}

#[tokio::test]
async fn a_terminal_is_shared_and_a_slow_client_holds_nothing_up() {
    let node = Node::start("attach-tty").await;
    node.sandbox("p1").await;
    let mut spec = node.container("p1", "sh", "while read line; do eval $line; done");
    (spec.tty, spec.stdin) = (true, true);
    node.run(spec).await;
    let idle = node.client.attach("p1", "sh").await.unwrap();
    let mut shell = node.client.attach("p1", "sh").await.unwrap();
    shell.terminal.as_ref().unwrap().resize(123, 45).unwrap();
    let stdin = shell.stdin.as_mut().unwrap();
    stdin.write_all(b"stty size\n").await.unwrap();
    until(&mut shell.stdout, "45 123").await;
    // More than the one that does not read has room for.
    let flood = "i=0; while [ $i -lt 3000 ]; do echo $i-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; i=$((i+1)); done; echo all\n";
    let stdin = shell.stdin.as_mut().unwrap();
    stdin.write_all(flood.as_bytes()).await.unwrap();
    until(&mut shell.stdout, "\nall\r\n").await;
    drop(idle);
    // A client that goes takes no terminal with it.
    drop(shell);
    let mut later = node.client.attach("p1", "sh").await.unwrap();
    let stdin = later.stdin.as_mut().unwrap();
    stdin.write_all(b"exit 4\n").await.unwrap();
    assert_eq!(node.ended("p1", "sh").await.0, 4);
}
