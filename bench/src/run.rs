//! One case from an empty cluster to its figures.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::{Value, json};
use waggle_plan::{Plan, Snapshot, Write, scheduler};
use waggle_store::{EmbeddedStore, Expect, Revision, Store};

use crate::cases::{Case, Churn};
use crate::reference::Placement;

/// Batches after which a case ends though some pods are not bound.
const PATIENCE: usize = 20;

/// A cluster on paper: its objects in the store, and the snapshot that shows them.
struct Cluster {
    store: EmbeddedStore,
    snapshot: Snapshot,
    pods: HashMap<String, (Value, Revision)>,
    placement: Placement,
    now: Timestamp,
    planning: Duration,
    violated: usize,
}

/// Runs it and prints its line.
pub(crate) async fn case(case: &Case, batch: usize) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("waggle-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let outcome = measure(case, batch, &folder.join(format!("{}.redb", case.name))).await;
    std::fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    outcome
}

async fn measure(case: &Case, batch: usize, path: &std::path::Path) -> Result<()> {
    let mut cluster = Cluster {
        store: EmbeddedStore::open(path).context("open the store")?,
        snapshot: Snapshot::new([("v1", "Pod"), ("v1", "Node"), ("v1", "Namespace")]),
        pods: HashMap::new(),
        placement: Placement::new(case),
        now: "2026-01-01T00:00:00Z".parse()?,
        planning: Duration::ZERO,
        violated: 0,
    };
    for number in 0..case.nodes {
        cluster.snapshot.upsert(&case.node(number))?;
    }
    let before = (0..case.before).map(|number| case.pod_before(number));
    cluster.create(before.collect()).await?;
    cluster.round(case, false).await?;
    let mut plain = Placement::new(case);
    for _ in 0..case.before {
        plain.place(case.wish, cpu_of(&case.pod_before(0)));
    }
    (cluster.planning, cluster.violated) = (Duration::ZERO, 0);

    let measured: Vec<Value> = (0..case.measured).map(|number| case.pod(number)).collect();
    let (mut placed, mut spent, mut rounds) = (0, Duration::ZERO, 0);
    for wave in measured.chunks(batch) {
        cluster.disturb(case, rounds).await?;
        cluster.create(wave.to_vec()).await?;
        let began = Instant::now();
        placed += cluster.round(case, true).await?;
        spent += began.elapsed();
        rounds += 1;
    }
    while placed < case.measured && rounds < case.measured.div_ceil(batch) + PATIENCE {
        let began = Instant::now();
        placed += cluster.round(case, true).await?;
        spent += began.elapsed();
        rounds += 1;
    }
    for _ in 0..case.measured {
        plain.place(case.wish, cpu_of(&case.pod(0)));
    }
    report(case, &cluster, placed, spent, &plain);
    cluster.store.close().await;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "thousands of pods")]
fn report(case: &Case, cluster: &Cluster, placed: usize, spent: Duration, plain: &Placement) {
    let rate = |time: Duration| placed as f64 / time.as_secs_f64();
    println!(
        "{:<26}{:>7}{:>7}{:>10.0}{:>10.0}{:>7}{:>8}{:>9}{:>8.2}{:>8.2}",
        case.name,
        case.nodes,
        case.measured,
        rate(spent),
        rate(cluster.planning),
        case.floor
            .map_or_else(String::new, |floor| floor.to_string()),
        placed,
        cluster.violated,
        cluster.placement.unevenness(),
        plain.unevenness(),
    );
}

impl Cluster {
    /// Objects come to be, in the store and in the snapshot.
    async fn create(&mut self, pods: Vec<Value>) -> Result<()> {
        if pods.is_empty() {
            return Ok(());
        }
        let writes = pods.iter().map(|pod| write(pod, Expect::Absent)).collect();
        let revision = self.store.commit(writes).await.context("create pods")?;
        for pod in pods {
            self.snapshot.upsert(&pod)?;
            self.pods.insert(key_of(&pod), (pod, revision));
        }
        Ok(())
    }

    /// What comes and goes between batches.
    async fn disturb(&mut self, case: &Case, round: usize) -> Result<()> {
        if case.churn == Churn::Nodes {
            let mut node = case.node(0);
            let name = format!("churn-{}", round / 2);
            node["metadata"]["name"] = json!(name);
            node["metadata"]["uid"] = json!(name);
            node["spec"]["unschedulable"] = json!(true);
            if round.is_multiple_of(2) {
                self.snapshot.upsert(&node)?;
            } else {
                self.snapshot.remove("v1", "Node", "", &name);
            }
        }
        let intruder = case.intruder(round);
        self.create(intruder.into_iter().collect()).await
    }

    /// Plans once for all that wait, binds them durably, and shows that to the next round. Answers how many measured
    /// pods were bound.
    async fn round(&mut self, case: &Case, own: bool) -> Result<usize> {
        let began = Instant::now();
        let plan = scheduler::plan(
            &self.snapshot,
            &Default::default(),
            &mut Default::default(),
            self.now,
        );
        self.planning += began.elapsed();
        let bound = self.bind(&plan).await?;
        self.displace(&plan).await?;
        let mut count = 0;
        for (key, node) in bound {
            let cpu = cpu_of(&self.pods[&key].0);
            let mine = !own || key.starts_with("/pods/sched-1/");
            if mine && !self.placement.admits(case.wish, node, cpu) {
                self.violated += 1;
            }
            self.placement.add(node, cpu, mine);
            count += usize::from(own && mine);
        }
        Ok(count)
    }

    /// All bindings in one transaction.
    async fn bind(&mut self, plan: &Plan) -> Result<Vec<(String, usize)>> {
        let mut bound = Vec::new();
        let mut writes = Vec::new();
        for one in &plan.writes {
            let Write::Bind {
                namespace,
                name,
                node,
                ..
            } = one
            else {
                continue;
            };
            let key = format!("/pods/{namespace}/{name}");
            let (pod, revision) = self
                .pods
                .get_mut(&key)
                .context("a bound pod that is unknown")?;
            pod["spec"]["nodeName"] = json!(node);
            pod["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "True"}]);
            writes.push(write(pod, Expect::Modified(*revision)));
            bound.push((key, number_of(node)?));
        }
        if writes.is_empty() {
            return Ok(bound);
        }
        let revision = self.store.commit(writes).await.context("bind")?;
        for (key, _) in &bound {
            if let Some((pod, last)) = self.pods.get_mut(key) {
                *last = revision;
                self.snapshot.upsert(pod)?;
            }
        }
        Ok(bound)
    }

    /// Statuses are written and displaced pods go, at once.
    async fn displace(&mut self, plan: &Plan) -> Result<()> {
        for one in &plan.writes {
            match one {
                Write::UpdateStatus(said) => {
                    let key = key_of(said);
                    if let Some((pod, revision)) = self.pods.get_mut(&key) {
                        pod["status"] = said["status"].clone();
                        let told = write(pod, Expect::Modified(*revision));
                        *revision = self.store.commit(vec![told]).await.context("status")?;
                        self.snapshot.upsert(pod)?;
                    }
                }
                Write::Delete {
                    namespace, name, ..
                } => {
                    let key = format!("/pods/{namespace}/{name}");
                    if let Some((pod, revision)) = self.pods.remove(&key) {
                        let gone = waggle_store::Write {
                            key,
                            expect: Expect::Modified(revision),
                            value: None,
                        };
                        self.store.commit(vec![gone]).await.context("displace")?;
                        self.snapshot.remove("v1", "Pod", namespace, name);
                        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
                        self.placement.remove(number_of(node)?, cpu_of(&pod));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn key_of(pod: &Value) -> String {
    let word = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
    format!("/pods/{}/{}", word("namespace"), word("name"))
}

fn write(pod: &Value, expect: Expect) -> waggle_store::Write {
    waggle_store::Write {
        key: key_of(pod),
        expect,
        value: Some(pod.to_string().into_bytes().into()),
    }
}

fn number_of(node: &str) -> Result<usize> {
    let number = node.strip_prefix("node-").unwrap_or(node);
    number
        .parse()
        .with_context(|| format!("a pod is bound to {node:?}"))
}

/// Milli-cores that a pod of these cases asks for.
fn cpu_of(pod: &Value) -> i64 {
    let text = pod["spec"]["containers"][0]["resources"]["requests"]["cpu"].as_str();
    let text = text.unwrap_or("0");
    match text.strip_suffix('m') {
        Some(milli) => milli.parse().unwrap_or(0),
        None => text.parse::<i64>().unwrap_or(0) * 1000,
    }
}
