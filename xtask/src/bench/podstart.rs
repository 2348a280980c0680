//! How quickly containers and pods start. A container's whole cycle beside crun and runc, driven by the runtime's own
//! benchmark; and, over a cluster of one node, from a pod's creation to Running, both as a watch shows them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::cluster::BenchCluster;
use super::statistics::{Spread, quantile};
use crate::build::{self, Profile};
use crate::images;
use crate::run::{cargo, quiet};

/// How much to measure.
#[derive(Args)]
pub(crate) struct Options {
    /// Cycles of each runtime.
    #[arg(long, default_value_t = 200)]
    cycles: u32,
    /// Pods, one after the other.
    #[arg(long, default_value_t = 50)]
    pods: u32,
    /// Pods at once.
    #[arg(long, default_value_t = 50)]
    burst: u32,
}

/// Runs both and prints them.
pub(crate) fn run(options: &Options) -> Result<()> {
    containers(options)?;
    let binary = build::waggle(Profile::Release)?;
    let layout = images::sample_application(Profile::Release)?;
    pods(options, &BenchCluster::up(binary, &layout, 1)?)
}

fn containers(options: &Options) -> Result<()> {
    let mut cycle = cargo();
    cycle.args([
        "bench",
        "--quiet",
        "--locked",
        "--package",
        "waggle-runtime",
        "--bench",
        "cycle",
        "--",
    ]);
    let text = quiet(cycle.arg(options.cycles.to_string()))?;
    let samples: BTreeMap<String, Vec<f64>> =
        serde_json::from_str(&text).with_context(|| format!("no samples: {text}"))?;
    let crun = samples
        .get("crun")
        .and_then(|samples| quantile(samples, 0.5));
    println!(
        "container create + start + wait + delete of /bin/true, ms, {} cycles, interleaved",
        options.cycles
    );
    for (name, samples) in &samples {
        let spread = Spread::between(samples, 0.25, 0.75)
            .with_context(|| format!("no samples of {name}"))?;
        let p99 = quantile(samples, 0.99).unwrap_or(f64::NAN);
        let ratio = crun.map_or_else(|| "-".into(), |crun| format!("{:.2}", spread.median / crun));
        println!("  {name:<8} p50 {spread:.1} (quartiles)  p99 {p99:.1}  p50/crun's {ratio}");
    }
    Ok(())
}

fn pods(options: &Options, cluster: &BenchCluster) -> Result<()> {
    println!("pod created to Running on a watch, network and policy in place, ms");
    let mut watch = PodWatch::open(cluster)?;
    // The first pod shows that the watch is open; it is not counted.
    watch.start_pods(cluster, "first", 1)?;
    let mut alone = Vec::new();
    for index in 0..options.pods {
        alone.extend(watch.start_pods(cluster, &format!("alone{index}"), 1)?.0);
    }
    report("alone", &alone);
    let (burst, seconds) = watch.start_pods(cluster, "burst", options.burst)?;
    report(&format!("{} at once", options.burst), &burst);
    println!("  {:.1} pods a second", f64::from(options.burst) / seconds);
    Ok(())
}

fn report(name: &str, samples: &[f64]) {
    let at = |share| quantile(samples, share).unwrap_or(f64::NAN);
    println!(
        "  {name:<12} p50 {:.0}  p99 {:.0}  slowest {:.0}",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// One watch over all pods of the benchmark's Namespace, read line by line.
struct PodWatch {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl PodWatch {
    fn open(cluster: &BenchCluster) -> Result<Self> {
        let mut watch = cluster.command(&["get", "pods", "-n", "bench", "-w"]);
        let mut child = watch.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
        Ok(Self { child, lines })
    }

    /// Milliseconds from each pod's first line to its first `Running`, and seconds from the first line of all to the last
    /// `Running`. The pods are removed again.
    fn start_pods(
        &mut self,
        cluster: &BenchCluster,
        prefix: &str,
        count: u32,
    ) -> Result<(Vec<f64>, f64)> {
        let pod = |index| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {prefix}-{index}, namespace: bench, labels: {{bench: {prefix}}}}}\n\
                 spec:\n  terminationGracePeriodSeconds: 0\n  containers: [{{name: c, image: \"shop/client:1.0\", command: [sleep, \
                 infinity], resources: {{requests: {{cpu: 1m, memory: 1Mi}}}}}}]\n"
            )
        };
        cluster.apply(&(0..count).map(pod).collect::<Vec<_>>().join("---\n"))?;
        let measured = self.follow(&format!("{prefix}-"), count)?;
        quiet(&mut cluster.command(&[
            "delete",
            "pods",
            "-n",
            "bench",
            "-l",
            &format!("bench={prefix}"),
        ]))?;
        Ok(measured)
    }

    fn follow(&mut self, prefix: &str, count: u32) -> Result<(Vec<f64>, f64)> {
        let mut created: BTreeMap<String, Instant> = BTreeMap::new();
        let mut running: BTreeMap<String, f64> = BTreeMap::new();
        let mut first = None;
        for line in &mut self.lines {
            let (line, now) = (line?, Instant::now());
            let Some(name) = line
                .split_whitespace()
                .next()
                .filter(|name| name.starts_with(prefix))
            else {
                continue;
            };
            let start = *first.get_or_insert(now);
            let seen = *created.entry(name.to_owned()).or_insert(now);
            if line.contains("Running") {
                running
                    .entry(name.to_owned())
                    .or_insert_with(|| (now - seen).as_secs_f64() * 1e3);
            }
            if running.len() == count as usize {
                return Ok((running.into_values().collect(), (now - start).as_secs_f64()));
            }
        }
        bail!(
            "the watch ended with {} of {count} pods running",
            running.len()
        )
    }
}

impl Drop for PodWatch {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
