//! One client floods the leader with lists and creates over hundreds of connections. Who else asks, the controllers and the
//! nodes go on.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::run;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;
use tokio::task::JoinSet;

use crate::{SETTLE, World};

/// Connections of the flood.
const CONNECTIONS: usize = 300;
/// Objects that it makes, and lists, at most.
const MOST: u64 = 2000;
const LENGTH: Duration = Duration::from_secs(15);
/// How long others may wait, generously: an unoptimized server, whose client and two nodes share its processors.
const OTHERS: Duration = Duration::from_secs(3);
const CONTROLLERS: Duration = Duration::from_secs(10);

const USERS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: flood}
---
apiVersion: v1
kind: Namespace
metadata: {name: calm}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: user, namespace: flood}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: user, namespace: calm}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: user, namespace: flood}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}
subjects: [{kind: ServiceAccount, name: user, namespace: flood}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: user, namespace: calm}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}
subjects: [{kind: ServiceAccount, name: user, namespace: calm}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: idle, namespace: calm}
spec:
  replicas: 0
  selector: {matchLabels: {app: idle}}
  template:
    metadata: {labels: {app: idle}}
    spec: {containers: [{name: main, image: none}]}
"#;

/// How the flood was answered.
#[derive(Default)]
struct Answered {
    well: AtomicU64,
    later: AtomicU64,
    otherwise: AtomicU64,
}

pub(crate) fn of_one(world: &World) -> Result<()> {
    let leader = world.leader(&[0, 1, 2])?;
    world.apply(leader, USERS)?;
    let token = |namespace: &str| -> Result<String> {
        let create = ["create", "token", "user", "-n", namespace];
        Ok(world.at(leader, &create)?.trim().to_owned())
    };
    let tokens = (token("flood")?, token("calm")?);
    let kubeconfig = Kubeconfig::read_from(world.kubeconfig(leader)?)?;
    let measured = measure(&kubeconfig, &tokens);
    for namespace in ["flood", "calm"] {
        let delete = ["delete", "namespace", namespace, "--wait=false"];
        run(&mut world.command(leader, &delete)?, SETTLE)?.ok()?;
    }
    let (quiet, busy, controllers, answered) = measured?;
    let [well, later, otherwise] = [&answered.well, &answered.later, &answered.otherwise]
        .map(|count| count.load(Ordering::Relaxed));
    println!(
        "flood over {CONNECTIONS} connections: {well} answered, {later} told to come later, {otherwise} otherwise, in about {LENGTH:?}; \
         another user: p50 {:?}, p99 {:?} of {} requests, before it {:?} and {:?}; controllers: p50 {:?}, slowest {:?} of {}",
        at(&busy, 0.5),
        at(&busy, 0.99),
        busy.len(),
        at(&quiet, 0.5),
        at(&quiet, 0.99),
        at(&controllers, 0.5),
        at(&controllers, 1.0),
        controllers.len()
    );
    ensure!(well > 100, "the flood was none");
    ensure!(
        otherwise == 0,
        "the flood was answered wrongly {otherwise} times"
    );
    ensure!(busy.len() > 10 && controllers.len() > 2, "too few requests");
    ensure!(
        at(&busy, 0.99) < OTHERS,
        "another user waits: p99 {:?}",
        at(&busy, 0.99)
    );
    ensure!(
        at(&controllers, 1.0) < CONTROLLERS,
        "controllers wait: {:?}",
        at(&controllers, 1.0)
    );
    Ok(())
}

type Measured = (Vec<Duration>, Vec<Duration>, Vec<Duration>, Arc<Answered>);

/// The flood has threads of its own, and the processors that nobody else wants: what others wait for is the server.
fn measure(kubeconfig: &Kubeconfig, tokens: &(String, String)) -> Result<Measured> {
    let runtime = |threads: usize| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(threads).enable_all();
        builder
    };
    let flooding = runtime(2).on_thread_start(give_way).build()?;
    let measuring = runtime(1).build()?;
    measuring.block_on(async {
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig.clone(), &options).await?;
        let calm = client(&config, &tokens.1)?;
        let quiet = others(&calm, "quiet", Duration::from_secs(4)).await?;
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::<Answered>::default());
        let mut flood = JoinSet::new();
        for number in 0..CONNECTIONS {
            let (config, token) = (config.clone(), tokens.0.clone());
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            // Each has connections of its own.
            let poured =
                async move { pour(client(&config, &token)?, number, stop, answered).await };
            flood.spawn_on(poured, flooding.handle());
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let nodes = Api::<Node>::all(Client::try_from(config)?);
        let (busy, controllers, ready) = tokio::join!(
            others(&calm, "busy", LENGTH),
            controllers(&calm, LENGTH),
            nodes_stay(&nodes, LENGTH)
        );
        stop.store(true, Ordering::Relaxed);
        while let Some(ended) = flood.join_next().await {
            ended??;
        }
        ready?;
        Ok((quiet, busy?, controllers?, answered))
    })
}

/// Lowers the priority of this thread.
fn give_way() {
    let thread = nix::unistd::gettid().to_string();
    let lowered = Command::new("renice")
        .args(["-n", "19", "-p", &thread])
        .output();
    if let Err(error) = lowered {
        eprintln!("the flood keeps its priority: {error}");
    }
}

fn client(config: &Config, token: &str) -> Result<Client> {
    let mut config = config.clone();
    config.auth_info = kube::config::AuthInfo {
        token: Some(token.to_owned().into()),
        ..kube::config::AuthInfo::default()
    };
    Ok(Client::try_from(config)?)
}

/// The duration below which a part of them are.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "an index below the number of samples"
)]
fn at(samples: &[Duration], part: f64) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().saturating_sub(1);
    let index = (last as f64 * part).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}

fn config_map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: kube::core::ObjectMeta {
            name: Some(name.to_owned()),
            ..kube::core::ObjectMeta::default()
        },
        data: Some([("text".to_owned(), "x".repeat(300))].into()),
        ..ConfigMap::default()
    }
}

/// Asks as fast as it is answered.
async fn pour(
    client: Client,
    number: usize,
    stop: Arc<AtomicBool>,
    answered: Arc<Answered>,
) -> Result<()> {
    let maps = Api::<ConfigMap>::namespaced(client, "flood");
    let mut turn = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        let name = format!("c{number}-{}", turn % (MOST / CONNECTIONS as u64));
        let result = if turn.is_multiple_of(2) {
            maps.list(&ListParams::default()).await.map(drop)
        } else {
            let (options, map) = (PostParams::default(), config_map(&name));
            maps.create(&options, &map).await.map(drop)
        };
        let count = match result {
            Ok(()) => &answered.well,
            // The same names again and again.
            Err(kube::Error::Api(status)) if status.code == 409 => &answered.well,
            Err(kube::Error::Api(status)) if status.code == 429 => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                &answered.later
            }
            Err(error) => {
                eprintln!("the flood: {error}");
                &answered.otherwise
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// How long each request of another user takes.
async fn others(client: &Client, prefix: &str, length: Duration) -> Result<Vec<Duration>> {
    let maps = Api::<ConfigMap>::namespaced(client.clone(), "calm");
    let (mut took, began) = (Vec::new(), Instant::now());
    while began.elapsed() < length {
        let name = format!("{prefix}{}", took.len());
        let start = Instant::now();
        maps.create(&PostParams::default(), &config_map(&name))
            .await
            .context("another user's create")?;
        took.push(start.elapsed());
        let start = Instant::now();
        maps.get(&name).await.context("another user's get")?;
        took.push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(took)
}

/// How long each change of a Deployment waits for its controller.
async fn controllers(client: &Client, length: Duration) -> Result<Vec<Duration>> {
    let deployments = Api::<Deployment>::namespaced(client.clone(), "calm");
    let (mut took, began) = (Vec::new(), Instant::now());
    while began.elapsed() < length {
        let change = Patch::Merge(json!({"spec": {"minReadySeconds": took.len() + 1}}));
        let (start, options) = (Instant::now(), PatchParams::default());
        let changed = deployments.patch("idle", &options, &change).await?;
        let wanted = changed.metadata.generation;
        loop {
            let seen = deployments.get("idle").await?.status;
            if seen.and_then(|status| status.observed_generation) >= wanted {
                break;
            }
            ensure!(start.elapsed() < SETTLE, "the controller is not heard of");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        took.push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(took)
}

/// Every node is ready, all the time.
async fn nodes_stay(nodes: &Api<Node>, length: Duration) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < length {
        let all = nodes.list(&ListParams::default()).await?;
        ensure!(!all.items.is_empty(), "no nodes");
        for node in all {
            let conditions = node.status.and_then(|status| status.conditions);
            let ready = conditions.into_iter().flatten();
            let ready = ready.filter(|one| one.type_ == "Ready" && one.status == "True");
            ensure!(ready.count() == 1, "{:?} is not ready", node.metadata.name);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}
