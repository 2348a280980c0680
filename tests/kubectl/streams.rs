//! `kubectl logs`, `exec`, `cp`, `port-forward` and `top`: by SPDY where kubectl is older than 1.30, by WebSocket since.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Background, Cluster, eventually};

use super::Kubectl;

const SETTLE: Duration = Duration::from_secs(60);
const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: one, namespace: default}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: c
      image: shop/client:1.0
      command: [sh, -c, "echo hello; mkdir /tmp/www; echo a page > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www"]
"#;

pub(crate) fn into_a_pod(cluster: &Cluster, variable: &str) -> Result<()> {
    let kubectl = Kubectl::new(cluster, variable)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("pod.yaml");
    std::fs::write(&file, POD)?;
    kubectl.ok(&["apply", "-f", &file.to_string_lossy()])?;
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/one", "--timeout=60s"])?;
    let logs = kubectl.ok(&["logs", "one"])?;
    ensure!(logs == "hello\n", "{logs}");
    let output = kubectl.run(&[
        "exec",
        "one",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 3",
    ])?;
    ensure!(
        output.stdout == "out\n" && output.stderr.contains("err\n") && output.code == 3,
        "{output:?}"
    );
    carries_much(&kubectl, folder.path())?;
    copies(&kubectl, folder.path())?;
    forwards(&kubectl)?;
    eventually("usage", SETTLE, || kubectl.ok(&["top", "nodes"]))?;
    kubectl.ok(&["delete", "pod", "one", "--timeout=30s"])?;
    Ok(())
}

/// More than all buffers on the way hold, in both directions at once.
fn carries_much(kubectl: &Kubectl, folder: &std::path::Path) -> Result<()> {
    let input = folder.join("much");
    let text = (0..600_000)
        .map(|line| format!("{line}\n"))
        .collect::<String>();
    std::fs::write(&input, &text)?;
    let output = kubectl.fed(&input, &["exec", "-i", "one", "--", "cat"])?;
    ensure!(
        output.code == 0 && output.stdout == text,
        "{} of {} bytes came back; {}",
        output.stdout.len(),
        text.len(),
        output.stderr
    );
    // Input that nobody reads takes neither the output nor the exit code with it.
    let output = kubectl.fed(
        &input,
        &["exec", "-i", "one", "--", "sh", "-c", "head -n 1; exit 4"],
    )?;
    ensure!(output.code == 4 && output.stdout == "0\n", "{output:?}");
    Ok(())
}

fn copies(kubectl: &Kubectl, folder: &std::path::Path) -> Result<()> {
    let (there, back) = (folder.join("much"), folder.join("back"));
    kubectl.ok(&["cp", &there.to_string_lossy(), "one:/tmp/much"])?;
    kubectl.ok(&["cp", "one:/tmp/much", &back.to_string_lossy()])?;
    ensure!(
        std::fs::read(&there)? == std::fs::read(&back)?,
        "the copy of the copy differs"
    );
    Ok(())
}

fn forwards(kubectl: &Kubectl) -> Result<()> {
    let port = harness::free_ports(1)?;
    let ports = format!("{port}:8080");
    let mut forward =
        Background::start(&mut kubectl.command(&["port-forward", "pod/one", &ports]))?;
    let connect = || {
        ensure!(forward.is_running(), "kubectl port-forward ended");
        TcpStream::connect(("127.0.0.1", port)).context("connect")
    };
    let first = eventually("the port is there", SETTLE, connect)?;
    // One connection waits while others are served.
    for _ in 0..3 {
        let text = page(TcpStream::connect(("127.0.0.1", port))?)?;
        ensure!(text.ends_with("a page\n"), "{text}");
    }
    let last = page(first)?;
    ensure!(last.ends_with("a page\n"), "{last}");
    Ok(())
}

fn page(mut connection: TcpStream) -> Result<String> {
    connection.set_read_timeout(Some(Duration::from_secs(20)))?;
    connection.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    connection.read_to_string(&mut text)?;
    Ok(text)
}
