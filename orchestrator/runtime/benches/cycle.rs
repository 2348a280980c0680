//! One container's whole life, create + start + wait + delete of `/bin/true`, by this runtime and by crun and runc in
//! turn. Prints the samples in milliseconds as one JSON object; `cargo xtask bench podstart` makes a table of them.
//! The peers get the same root folder (without the overlay that ours has to mount) and the same network namespace.

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::{Value, json};
use support::Node;
use waggle_runtime::client::Events;
use waggle_runtime::spec::ContainerPhase;

const PEERS: [&str; 2] = ["crun", "runc"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [verb, folder] = arguments.as_slice()
        && verb == "peers"
    {
        return peers(Path::new(folder));
    }
    let cycles = arguments.iter().find_map(|argument| argument.parse().ok());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let samples = runtime
        .expect("a runtime")
        .block_on(measure(cycles.unwrap_or(20)));
    println!("{}", json!(samples));
}

async fn measure(cycles: usize) -> BTreeMap<&'static str, Vec<f64>> {
    let node = Node::start("cycle").await;
    let sandbox = node.sandbox("p1").await;
    let netns = sandbox.netns.expect("a network namespace of its own");
    let bundle = node.dir.path().join("bundle");
    for peer in PEERS {
        write_bundle(&bundle.join(peer), peer, &node.image.layers[0], &netns);
    }
    let mut runner = Runner::start(&bundle);
    let mut events = node.client.events().await.expect("events");
    let mut samples: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for cycle in 0..cycles + 3 {
        let ours = our_cycle(&node, &mut events).await;
        let theirs = PEERS.map(|peer| (peer, runner.cycle(peer, cycle)));
        // The first ones warm up.
        if cycle >= 3 {
            samples.entry("waggle").or_default().push(ours);
            for (peer, took) in theirs {
                samples.entry(peer).or_default().extend(took);
            }
        }
    }
    drop(runner);
    node.client
        .remove_sandbox("p1")
        .await
        .expect("remove the sandbox");
    samples
}

async fn our_cycle(node: &Node, events: &mut Events) -> f64 {
    let mut spec = node.container("p1", "c", "");
    spec.args = vec!["/bin/true".into()];
    spec.seccomp_default = false;
    let start = Instant::now();
    node.run(spec).await;
    let ended = async {
        while let Some(state) = events.next().await {
            if matches!(state.phase, ContainerPhase::Exited { code: 0, .. })
                && state.spec.name == "c"
            {
                return;
            }
        }
        panic!("the events ended");
    };
    tokio::time::timeout(Duration::from_secs(30), ended)
        .await
        .expect("it ends");
    node.client
        .remove_container("p1", "c")
        .await
        .expect("remove");
    start.elapsed().as_secs_f64() * 1e3
}

fn write_bundle(folder: &Path, peer: &str, root: &Path, netns: &Path) {
    std::fs::create_dir_all(folder).expect("bundle folder");
    let made = Command::new(peer).arg("spec").current_dir(folder).status();
    if !made.is_ok_and(|status| status.success()) {
        return;
    }
    let path = folder.join("config.json");
    let text = std::fs::read(&path).expect("the peer's own spec");
    let mut config: Value = serde_json::from_slice(&text).expect("JSON");
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["/bin/true"]);
    config["root"] = json!({"path": root, "readonly": true});
    config["linux"]["cgroupsPath"] = json!(format!("/wgt-runtime-cycle/{peer}"));
    config["linux"]["namespaces"] = json!([
        {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network", "path": netns},
    ]);
    std::fs::write(path, config.to_string()).expect("write the bundle");
}

/// A process in a mount namespace without the unified hierarchy, which crun refuses beside version 1. It times the
/// peers there, so that nothing but the peer itself is in the figure.
struct Runner {
    child: Child,
    answers: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Runner {
    fn start(bundle: &Path) -> Self {
        let script = "mount --make-rprivate / && if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi && exec \"$0\" peers \"$1\"";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", script])
            .arg(std::env::current_exe().expect("own path"))
            .arg(bundle);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the peers' runner");
        let answers = BufReader::new(child.stdout.take().expect("stdout")).lines();
        Self { child, answers }
    }

    /// Milliseconds; `None` when this peer does not run on this host.
    fn cycle(&mut self, peer: &str, cycle: usize) -> Option<f64> {
        let stdin = self.child.stdin.as_mut().expect("stdin");
        writeln!(stdin, "{peer} {cycle}").expect("ask the runner");
        self.answers
            .next()
            .expect("an answer")
            .expect("a line")
            .parse()
            .ok()
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn peers(bundles: &Path) {
    for line in std::io::stdin().lines() {
        let line = line.expect("a line");
        let (peer, cycle) = line.split_once(' ').expect("peer and cycle");
        let start = Instant::now();
        let mut command = Command::new(peer);
        command
            .arg("run")
            .arg("--bundle")
            .arg(bundles.join(peer))
            .arg(format!("wgt-{peer}-{cycle}"));
        let output = command.stdin(Stdio::null()).output();
        match output {
            Ok(output) if output.status.success() => {
                println!("{}", start.elapsed().as_secs_f64() * 1e3)
            }
            Ok(output) => {
                eprintln!("{peer}: {}", String::from_utf8_lossy(&output.stderr));
                println!("failed");
            }
            Err(error) => {
                eprintln!("{peer}: {error}");
                println!("failed");
            }
        }
    }
}
