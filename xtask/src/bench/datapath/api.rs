//! From the API to the kernel: how long after the API's answer a caller finds the backends that were written, beside how many
//! services there are.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Options;
use crate::bench::cluster::{BenchCluster, wait};
use crate::bench::statistics::Spread;
use crate::{build, images};

/// Numbers of services beside those that are measured. Making more takes minutes.
const SERVICES: [u32; 3] = [1, 1_000, 10_000];
/// Services whose backends are measured at each visit.
const MEASURED: u32 = 50;
/// Runs it and prints the table.
pub(super) fn run(options: &Options) -> Result<()> {
    let profile = options.profile();
    let layout = images::sample_application(profile)?;
    let cluster = BenchCluster::up(build::waggle(profile)?, &layout, 1)?;
    let (client, server) = (cluster.room("client", 1)?, cluster.room("server", 1)?);
    let program = profile.folder().join("shop-client");
    let server = server.address;
    println!(
        "from the API's answer to the kernel, milliseconds: median of {} changes [5%, 95%]",
        options.rounds * MEASURED
    );
    println!("{:>8} {:>22}", "services", "after the answer");
    let mut made = 0;
    for count in SERVICES
        .into_iter()
        .filter(|count| *count <= options.most())
    {
        cluster.apply(&services("filler", made..count))?;
        cluster.apply(&slices("filler", made..count, &server))?;
        made = count;
        let mut delays = Vec::new();
        for round in 0..options.rounds {
            delays.extend(visit(
                &cluster,
                |targets| client.command(&program, targets),
                &format!("round{count}x{round}"),
                &server,
            )?);
        }
        let spread = Spread::between(&delays, 0.05, 0.95).context("no samples")?;
        println!("{count:>8} {:>22}", format!("{spread:.2}"));
    }
    Ok(())
}

/// Makes services without backends, then gives them backends one by one; milliseconds of each.
fn visit(
    cluster: &BenchCluster,
    client: impl FnOnce(&[&str]) -> Command,
    name: &str,
    server: &str,
) -> Result<Vec<f64>> {
    cluster.apply(&services(name, 0..MEASURED))?;
    let addresses = addresses(cluster, name)?;
    let targets: Vec<String> = addresses.values().map(|vip| format!("{vip}:80")).collect();
    let words = std::iter::once("await").chain(targets.iter().map(String::as_str));
    let mut waiting = client(&words.collect::<Vec<_>>());
    let waiting = waiting.stdout(Stdio::piped()).spawn()?;
    // It must look already when the first is written.
    std::thread::sleep(Duration::from_secs(1));
    let answered = write(cluster, &slices(name, 0..MEASURED, server))?;
    let output = waiting.wait_with_output()?;
    let report: Value = serde_json::from_slice(&output.stdout).context("no report")?;
    let times = report["seen_ns"].as_array().into_iter().flatten();
    let seen: Vec<u64> = times.filter_map(Value::as_u64).collect();
    if seen.len() != answered.len() {
        bail!(
            "{} of {} services came to have backends",
            seen.len(),
            answered.len()
        );
    }
    let apart = |(seen, answered): (u64, u64)| (seen as f64 - answered as f64) / 1e6;
    Ok(seen.into_iter().zip(answered).map(apart).collect())
}

/// Applies objects one by one; when each was answered for, nanoseconds since 1970.
fn write(cluster: &BenchCluster, manifests: &str) -> Result<Vec<u64>> {
    let mut command = cluster.command(&["apply", "-f", "-"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("stdin")?;
    stdin.write_all(manifests.as_bytes())?;
    drop(stdin);
    let mut answered = Vec::new();
    for line in BufReader::new(child.stdout.take().context("stdout")?).lines() {
        line?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        answered.push(u64::try_from(now.as_nanos())?);
    }
    if child.wait()?.success() {
        Ok(answered)
    } else {
        bail!("waggle apply failed")
    }
}

/// Addresses of the measured services, by number.
fn addresses(cluster: &BenchCluster, name: &str) -> Result<BTreeMap<u32, String>> {
    wait("services have addresses", Duration::from_secs(30), || {
        let list = cluster.get(&["services", "-n", "bench"])?;
        let items = list["items"].as_array().context("no list")?;
        let numbered = items.iter().filter_map(|item| {
            let number = item["metadata"]["name"].as_str()?.strip_prefix(name)?;
            let number = number.strip_prefix('-')?.parse().ok()?;
            Some((number, item["spec"]["clusterIP"].as_str()?.to_owned()))
        });
        let found: BTreeMap<u32, String> = numbered.collect();
        if found.len() == MEASURED as usize {
            Ok(found)
        } else {
            bail!("{} of {MEASURED}", found.len())
        }
    })
}

fn services(name: &str, numbers: std::ops::Range<u32>) -> String {
    let mut text = String::new();
    for number in numbers {
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}-{number}, namespace: bench}}\n\
             spec: {{ports: [{{name: p, port: 80, protocol: UDP}}]}}\n"
        );
    }
    text
}

fn slices(name: &str, numbers: std::ops::Range<u32>, server: &str) -> String {
    let mut text = String::new();
    for number in numbers {
        let _ = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{name: {name}-{number}, namespace: bench, labels: {{kubernetes.io/service-name: {name}-{number}}}}}\n\
             ports: [{{name: p, port: 8080, protocol: UDP}}]\n\
             endpoints: [{{addresses: [\"{server}\"], nodeName: node1}}]\n"
        );
    }
    text
}
