//! `kubectl run -i` and `kubectl attach`: to a container's own streams, to the end of its stdin, with its exit code.

use anyhow::{Result, ensure};
use harness::Cluster;

use super::Kubectl;

pub(crate) fn runs_and_attaches(cluster: &Cluster, variable: &str) -> Result<()> {
    let kubectl = Kubectl::new(cluster, variable)?;
    let folder = tempfile::tempdir()?;
    let input = folder.path().join("input");
    // More than a pipe holds; its end is what the program waits for.
    std::fs::write(&input, "0123456789abcdef\n".repeat(10_000))?;
    let program = "wc -c; exit 5";
    let words = [
        "run",
        "counts",
        "-i",
        "--rm",
        "--restart=Never",
        "--image=shop/client:1.0",
        "--",
        "sh",
        "-c",
        program,
    ];
    let output = kubectl.fed(&input, &words)?;
    ensure!(
        output.code == 5 && output.stdout.contains("170000"),
        "{output:?}"
    );
    let gone = kubectl.run(&["get", "pod", "counts"])?.fault()?;
    ensure!(gone.contains("not found"), "{gone}");

    let script = "while sleep 0.2; do echo tick; test -e /stop && exit 0; done";
    kubectl.ok(&[
        "run",
        "ticks",
        "--restart=Never",
        "--image=shop/client:1.0",
        "--",
        "sh",
        "-c",
        script,
    ])?;
    kubectl.ok(&[
        "wait",
        "--for=condition=Ready",
        "pod/ticks",
        "--timeout=60s",
    ])?;
    let attached = harness::Background::start(&mut kubectl.command(&["attach", "ticks"]))?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    kubectl.ok(&["exec", "ticks", "--", "touch", "/stop"])?;
    let output = attached.finish(std::time::Duration::from_secs(30))?.ok()?;
    ensure!(output.contains("tick\ntick\n"), "{output}");
    kubectl.ok(&["delete", "pod", "ticks", "--timeout=60s"])?;
    Ok(())
}
