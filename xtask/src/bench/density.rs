//! How many real containers one machine holds: fills a cluster of one machine with small ones, each with an address, a name,
//! a policy and a virtual address that leads to it, and tells what each takes and how fast they come. A sample is called
//! by name and by virtual address, by one who may and by one who may not.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::cluster::{BenchCluster, wait};
use super::memory::{Kind, Memory};
use crate::build::{self, Profile};
use crate::images;
use crate::oci_layout::Layout;
use crate::run::{quiet, root};

/// How much to fill in.
#[derive(Args)]
pub(crate) struct Options {
    /// Pods.
    #[arg(long, default_value_t = 500)]
    pods: u32,
    /// Nodes that share them.
    #[arg(long, default_value_t = 6)]
    nodes: u32,
    /// Pods of each Service.
    #[arg(long, default_value_t = 10)]
    share: u32,
    /// Pods that are asked for at a time.
    #[arg(long, default_value_t = 500)]
    step: u32,
    /// Services that are called.
    #[arg(long, default_value_t = 20)]
    sample: u32,
    /// MiB of the machine's memory that stay free: filling stops there.
    #[arg(long, default_value_t = 2048)]
    keep_free: u64,
    /// A `waggle` that was built before.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// Pods that a node takes beside those of the benchmark.
const OWN_PODS: u32 = 2;
/// Services that one who may not asks.
const REFUSALS: usize = 3;
/// What one step may take when nothing moves any more.
const STUCK: Duration = Duration::from_secs(120);
const KIB: u64 = 1024;

/// Fills, measures, asks, and prints.
pub(crate) fn run(options: &Options) -> Result<()> {
    let binary = match &options.binary {
        Some(file) => file.clone(),
        None => build::waggle(Profile::Release)?,
    };
    let layout = image()?;
    let each = options.pods.div_ceil(options.nodes.max(1)) + OWN_PODS;
    // A little more than an even share: the scheduler weighs other things too.
    let most = (each + each / 10).max(110).to_string();
    let mut more = vec!["--timeout", "10m"];
    if most != "110" {
        more.extend(["--max-pods", &most]);
    }
    let cluster = BenchCluster::up_with(binary, &layout, options.nodes, &more)?;
    cluster.apply(POLICY)?;
    for role in ["caller", "stranger"] {
        cluster.apply(&pod(role))?;
    }
    for role in ["caller", "stranger"] {
        wait(&format!("{role} runs"), STUCK, || running(&cluster, role))?;
    }
    // What starts a cluster is over.
    std::thread::sleep(Duration::from_secs(10));
    let before = Memory::read("waggle/bench")?;
    let (ready, seconds) = fill(options, &cluster)?;
    std::thread::sleep(Duration::from_secs(10));
    let after = Memory::read("waggle/bench")?;
    report(&before, &after, ready, options.nodes);
    println!(
        "  {ready} pods in {seconds:.0} s: {:.1} a second",
        f64::from(ready) / seconds
    );
    sample(options, &cluster, ready)
}

/// Statically linked, so that a pod is one process with nothing beside it.
fn image() -> Result<PathBuf> {
    let source = root().join("xtask/programs/answer.rs");
    let text = fs::read(&source).with_context(|| format!("read {}", source.display()))?;
    let key = Sha256::new()
        .chain_update(text)
        .chain_update(include_bytes!("density.rs"));
    images::kept("density", "a program that answers", key, |work| {
        let folder = work.join("tree");
        fs::create_dir_all(&folder)?;
        quiet(
            Command::new("rustc")
                .args([
                    "--edition",
                    "2024",
                    "-C",
                    "opt-level=s",
                    "-C",
                    "panic=abort",
                ])
                .args([
                    "-C",
                    "strip=symbols",
                    "-C",
                    "target-feature=+crt-static",
                    "-o",
                ])
                .arg(folder.join("answer"))
                .arg(&source),
        )?;
        let mut layout = Layout::create(&work.join("layout"))?;
        let layer = layout.layer(&folder)?;
        let config = json!({"Entrypoint": ["/answer"], "Cmd": ["serve"], "User": "65534:65534"});
        layout.image("bench/answer:1", &[layer], &config)?;
        layout.finish()
    })
}

/// Nobody but the caller may talk to the pods.
const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: callers-only, namespace: bench}
spec:
  podSelector: {matchLabels: {bench: density}}
  policyTypes: [Ingress]
  ingress:
    - from: [{podSelector: {matchLabels: {role: caller}}}]
      ports: [{port: 8080}]
";

const POD_SPEC: &str = "terminationGracePeriodSeconds: 0, enableServiceLinks: false, automountServiceAccountToken: false, \
                        containers: [{name: c, image: \"bench/answer:1\", ports: [{containerPort: 8080}]}]";

fn pod(role: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {role}, namespace: bench, labels: {{role: {role}}}}}\nspec: {{{POD_SPEC}}}\n"
    )
}

fn running(cluster: &BenchCluster, pod: &str) -> Result<()> {
    let found = cluster.get(&["pod", pod, "-n", "bench"])?;
    ensure!(found["status"]["phase"] == "Running", "{}", found["status"]);
    Ok(())
}

/// A Deployment and its Service.
fn group(index: u32, replicas: u32) -> String {
    let name = format!("d{index}");
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: bench}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}, bench: density}}}}\n    \
         spec: {{{POD_SPEC}}}\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: bench}}\nspec: {{selector: \
         {{app: {name}}}, ports: [{{port: 8080}}]}}\n---\n"
    )
}

/// Step by step until all are there, or no memory is left to give. How many are ready, and seconds.
fn fill(options: &Options, cluster: &BenchCluster) -> Result<(u32, f64)> {
    let share = options.share.max(1);
    let (mut asked, mut ready) = (0, 0);
    let start = Instant::now();
    while asked < options.pods {
        let (step_start, had) = (Instant::now(), ready);
        let goal = options.pods.min(asked + options.step.max(1));
        let mut manifests = String::new();
        while asked < goal {
            let replicas = share.min(options.pods - asked);
            manifests += &group(asked / share, replicas);
            asked += replicas;
        }
        cluster.apply(&manifests)?;
        let mut moved = Instant::now();
        while ready < asked {
            std::thread::sleep(Duration::from_millis(500));
            let now = count_ready(cluster)?;
            if now != ready {
                (ready, moved) = (now, Instant::now());
            }
            let free = Memory::available()? / KIB;
            if free < options.keep_free {
                println!("stopped at {ready} pods: {free} MiB of memory are left");
                return Ok((ready, start.elapsed().as_secs_f64()));
            }
            if moved.elapsed() > STUCK {
                println!("stopped at {ready} of {asked} pods: none came for {STUCK:?}");
                return Ok((ready, start.elapsed().as_secs_f64()));
            }
        }
        println!(
            "{ready} pods, {:.1} a second in this step, {} MiB of memory are left",
            f64::from(ready - had) / step_start.elapsed().as_secs_f64(),
            Memory::available()? / KIB
        );
    }
    Ok((ready, start.elapsed().as_secs_f64()))
}

fn count_ready(cluster: &BenchCluster) -> Result<u32> {
    let list = cluster.get(&["deployments", "-n", "bench"])?;
    let items = list["items"].as_array().context("no list")?;
    let ready = |item: &Value| item["status"]["readyReplicas"].as_u64().unwrap_or(0);
    Ok(u32::try_from(items.iter().map(ready).sum::<u64>())?)
}

fn report(before: &Memory, after: &Memory, pods: u32, nodes: u32) {
    let each =
        |new: u64, old: u64| (i128::from(new) - i128::from(old)) as f64 / f64::from(pods.max(1));
    println!("{pods} pods on {nodes} nodes; memory a pod, KiB");
    let of = |kind| (after.of(kind), before.of(kind));
    let rows = [
        ("all (MemAvailable)", (before.available, after.available)),
        ("its processes", of(Kind::Pod)),
        ("supervisors", of(Kind::Supervisor)),
        ("agents", of(Kind::Agent)),
        ("server", of(Kind::Server)),
        ("kernel: slab", (after.slab, before.slab)),
        (
            "kernel: stacks, page tables",
            (after.stacks_and_tables, before.stacks_and_tables),
        ),
        ("kernel: per CPU", (after.per_cpu, before.per_cpu)),
    ];
    for (name, (new, old)) in rows {
        println!("  {name:<28} {:>8.0}", each(new, old));
    }
    println!(
        "  processes a pod {:.2}; an agent has {} MiB, a supervisor {} MiB, the server {} MiB",
        each(after.count(Kind::Pod), before.count(Kind::Pod)),
        after.of(Kind::Agent) / KIB / u64::from(nodes.max(1)),
        after.of(Kind::Supervisor) / KIB / u64::from(nodes.max(1)),
        after.of(Kind::Server) / KIB,
    );
}

/// Calls Services from all over the list.
fn sample(options: &Options, cluster: &BenchCluster, ready: u32) -> Result<()> {
    let list = cluster.get(&["services", "-n", "bench"])?;
    let vips: BTreeMap<u32, &str> = list["items"]
        .as_array()
        .context("no list")?
        .iter()
        .filter_map(|item| {
            let index = item["metadata"]["name"].as_str()?.strip_prefix('d')?;
            Some((index.parse().ok()?, item["spec"]["clusterIP"].as_str()?))
        })
        .collect();
    let served = ready / options.share.max(1);
    let every = (served / options.sample.max(1)).max(1) as usize;
    let pairs: Vec<String> = vips
        .iter()
        .filter(|(index, _)| **index < served)
        .step_by(every)
        .map(|(index, vip)| format!("d{index}.bench.svc.cluster.local={vip}"))
        .collect();
    ensure!(!pairs.is_empty(), "no Service is served");
    let call = |role: &str, pairs: &[String]| {
        let mut words = vec!["exec", "-n", "bench", role, "--", "/answer", "call"];
        words.extend(pairs.iter().map(String::as_str));
        let output = cluster.command(&words).output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&text).into_owned())
    };
    let text = call("caller", &pairs)?;
    let answered = answers(&text);
    println!(
        "{answered} of {} Services answered by name and by VIP",
        pairs.len()
    );
    if answered < pairs.len() {
        bail!("not all answered:\n{text}");
    }
    // A few: each is a refusal that has to be waited for where the packet is dropped.
    let few = &pairs[..pairs.len().min(REFUSALS)];
    let let_in = answers(&call("stranger", few)?);
    ensure!(let_in == 0, "{let_in} answered one who may not call");
    println!("none answered who may not call");
    Ok(())
}

/// Lines whose answers, by name and by address, are of pods of the Service that was meant.
fn answers(text: &str) -> usize {
    let right = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, one, other] = words[..] else {
            return false;
        };
        let meant = format!("{}-", name.split('.').next().unwrap_or_default());
        one.starts_with(&meant) && other.starts_with(&meant)
    };
    text.lines().filter(right).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_when_both_are_of_the_service() {
        let text = "d1.bench.svc.cluster.local d1-5d-x d1-5d-y\n\
                    d2.bench.svc.cluster.local d2-5d-x d20-5d-y\n\
                    d3.bench.svc.cluster.local !timed-out d3-5d-x\n";
        assert_eq!(answers(text), 1);
    }
}
