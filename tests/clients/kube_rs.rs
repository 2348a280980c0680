//! kube-rs: its client, a reflector over a streaming list, and a controller of its runtime with a finalizer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _};
use harness::Cluster;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use kube::api::{
    AttachParams, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::{Api, Client, Config, Resource as _, ResourceExt as _};
use kube_runtime::controller::Action;
use kube_runtime::finalizer::Event;
use kube_runtime::reflector::store;
use kube_runtime::wait::{await_condition, conditions, delete::delete_and_finalize};
use kube_runtime::{Controller, WatchStreamExt as _, finalizer, reflector, watcher};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const NAMESPACE: &str = "kube-rs";
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn client_and_runtime(cluster: &Cluster) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let config = Kubeconfig::read_from(cluster.folder().join("kubeconfig"))?;
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        let namespaces = Api::<Namespace>::all(client.clone());
        let namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
        namespaces
            .create(&PostParams::default(), &namespace)
            .await?;
        within("objects", objects(&client)).await?;
        within("reflector", reflected(&client)).await?;
        within("controller", controlled(&client)).await?;
        within("pod", into_a_pod(&client)).await?;
        let how = DeleteParams::default();
        let deleted = delete_and_finalize(namespaces, NAMESPACE, &how);
        within("namespace", async { Ok(deleted.await?) }).await
    })
}

async fn within(what: &'static str, part: impl Future<Output = Result<()>>) -> Result<()> {
    let ended = tokio::time::timeout(PATIENCE, part).await;
    ended
        .with_context(|| format!("{what}: not within {PATIENCE:?}"))?
        .context(what)
}

fn map(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: kube::core::ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([("set".to_owned(), "rust".to_owned())])),
            ..Default::default()
        },
        data: Some(BTreeMap::from([("a".to_owned(), value.to_owned())])),
        ..Default::default()
    }
}

/// What the server said when it refused.
fn refusal<T>(result: kube::Result<T>) -> Result<Status> {
    match result {
        Err(kube::Error::Api(status)) => Ok(*status),
        Err(error) => Err(error.into()),
        Ok(_) => anyhow::bail!("it was not refused"),
    }
}

async fn objects(client: &Client) -> Result<()> {
    let maps = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
    let made = maps
        .create(&PostParams::default(), &map("one", "1"))
        .await?;
    let again = refusal(maps.create(&PostParams::default(), &map("one", "1")).await)?;
    ensure!(
        (again.code, again.reason.as_str()) == (409, "AlreadyExists"),
        "{again:?}"
    );
    ensure!(maps.get_opt("none").await?.is_none(), "none is there");
    let merged = maps
        .patch(
            "one",
            &PatchParams::default(),
            &Patch::Merge(json!({"data": {"b": "2"}})),
        )
        .await?;
    ensure!(
        merged.data.as_ref().is_some_and(|data| data.len() == 2),
        "{merged:?}"
    );
    let mut stale = made.clone();
    stale.data = None;
    let conflict = refusal(maps.replace("one", &PostParams::default(), &stale).await)?;
    ensure!(
        (conflict.code, conflict.reason.as_str()) == (409, "Conflict"),
        "{conflict:?}"
    );
    let apply = |value: &str| {
        let mut wanted = map("one", value);
        wanted.metadata.labels = None;
        Patch::Apply(
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": wanted.metadata, "data": wanted.data}),
        )
    };
    let mine = PatchParams::apply("rust");
    let conflict = refusal(maps.patch("one", &mine, &apply("3")).await)?;
    ensure!(conflict.message.contains(".data.a"), "{conflict:?}");
    let applied = maps
        .patch("one", &mine.clone().force(), &apply("3"))
        .await?;
    ensure!(
        applied.data.as_ref().is_some_and(|data| data["a"] == "3"),
        "{applied:?}"
    );
    let metadata = maps.get_metadata("one").await?;
    ensure!(metadata.uid() == made.uid(), "{metadata:?}");
    for number in 0..5 {
        maps.create(&PostParams::default(), &map(&format!("many-{number}"), "m"))
            .await?;
    }
    let (mut names, mut page) = (
        Vec::new(),
        ListParams::default().labels("set=rust").limit(2),
    );
    loop {
        let list = maps.list(&page).await?;
        names.extend(list.items.iter().map(|one| one.name_any()));
        match list.metadata.continue_.filter(|more| !more.is_empty()) {
            Some(more) => page = page.continue_token(&more),
            None => break,
        }
    }
    ensure!(
        names == ["many-0", "many-1", "many-2", "many-3", "many-4", "one"],
        "{names:?}"
    );
    maps.delete_collection(
        &DeleteParams::default(),
        &ListParams::default().labels("set=rust"),
    )
    .await?;
    Ok(())
}

/// A reflector keeps what a streaming list begins with and what comes after.
async fn reflected(client: &Client) -> Result<()> {
    let maps = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
    maps.create(&PostParams::default(), &map("before", "1"))
        .await?;
    for config in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
    ] {
        let (reader, writer) = store();
        let stream = reflector(writer, watcher(maps.clone(), config.labels("set=rust")));
        let kept = tokio::spawn(
            stream
                .default_backoff()
                .touched_objects()
                .try_for_each(|_| async { Ok(()) }),
        );
        reader.wait_until_ready().await?;
        let names = || {
            reader
                .state()
                .iter()
                .map(|one| one.name_any())
                .collect::<Vec<_>>()
        };
        ensure!(names() == ["before"], "{:?}", names());
        maps.create(&PostParams::default(), &map("after", "1"))
            .await?;
        until(|| names().len() == 2).await;
        maps.delete("after", &DeleteParams::default()).await?;
        until(|| names() == ["before"]).await;
        ensure!(!kept.is_finished(), "the watch ended");
        kept.abort();
    }
    maps.delete("before", &DeleteParams::default()).await?;
    Ok(())
}

async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// For each ConfigMap a Secret that it owns; it goes before the ConfigMap may.
async fn controlled(client: &Client) -> Result<()> {
    let maps = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
    let secrets = Api::<Secret>::namespaced(client.clone(), NAMESPACE);
    let config = watcher::Config::default().labels("set=rust");
    let controller = Controller::new(maps.clone(), config.clone())
        .owns(secrets.clone(), watcher::Config::default())
        .run(
            reconcile,
            |_, _, _| Action::requeue(Duration::from_millis(200)),
            Arc::new(client.clone()),
        )
        .for_each(|_| async {});
    let controller = tokio::spawn(controller);
    maps.create(&PostParams::default(), &map("owner", "1"))
        .await?;
    let holds = |value: &'static str| {
        move |secret: Option<&Secret>| {
            let data = secret.and_then(|secret| secret.data.as_ref());
            data.is_some_and(|data| {
                data.get("a")
                    .is_some_and(|found| found.0 == value.as_bytes())
            })
        }
    };
    await_condition(secrets.clone(), "owner", holds("1")).await?;
    maps.patch(
        "owner",
        &PatchParams::default(),
        &Patch::Merge(json!({"data": {"a": "2"}})),
    )
    .await?;
    await_condition(secrets.clone(), "owner", holds("2")).await?;
    // What is owned comes back when it is taken away.
    let first = secrets.get("owner").await?.uid().unwrap_or_default();
    secrets.delete("owner", &DeleteParams::default()).await?;
    await_condition(secrets.clone(), "owner", conditions::is_deleted(&first)).await?;
    await_condition(secrets.clone(), "owner", holds("2")).await?;
    delete_and_finalize(maps.clone(), "owner", &DeleteParams::default()).await?;
    ensure!(
        secrets.get_opt("owner").await?.is_none(),
        "the finalizer did not clean up first"
    );
    ensure!(!controller.is_finished(), "the controller ended");
    controller.abort();
    Ok(())
}

async fn reconcile(
    map: Arc<ConfigMap>,
    client: Arc<Client>,
) -> Result<Action, finalizer::Error<kube::Error>> {
    let maps = Api::<ConfigMap>::namespaced((*client).clone(), NAMESPACE);
    let secrets = Api::<Secret>::namespaced((*client).clone(), NAMESPACE);
    finalizer(&maps, "clients.example.com/secret", map, |event| async {
        match event {
            Event::Apply(map) => {
                let owner = map.controller_owner_ref(&());
                let wanted = json!({
                    "apiVersion": "v1", "kind": "Secret",
                    "metadata": {"name": map.name_any(), "ownerReferences": [owner]},
                    "stringData": map.data,
                });
                let name = map.name_any();
                secrets
                    .patch(&name, &PatchParams::apply("rust"), &Patch::Apply(wanted))
                    .await?;
            }
            Event::Cleanup(map) => {
                secrets
                    .delete(&map.name_any(), &DeleteParams::default())
                    .await?;
            }
        }
        Ok(Action::await_change())
    })
    .await
}

fn following() -> LogParams {
    LogParams {
        follow: true,
        ..LogParams::default()
    }
}

async fn into_a_pod(client: &Client) -> Result<()> {
    let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    let pod = serde_json::from_value(json!({
        "metadata": {"name": "one"},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [
            {"name": "c", "image": "shop/client:1.0", "command": ["sh", "-c", "echo started; exec sleep 1000"]}]},
    }))?;
    pods.create(&PostParams::default(), &pod).await?;
    await_condition(pods.clone(), "one", conditions::is_pod_running()).await?;
    // It runs before it has said anything.
    let mut log = pods.log_stream("one", &following()).await?.lines();
    let said = log.try_next().await?;
    ensure!(said.as_deref() == Some("started"), "log: {said:?}");
    let streams = AttachParams::default()
        .stdin(true)
        .stdout(true)
        .stderr(true);
    let command = ["sh", "-c", "cat; echo err >&2; exit 3"];
    let mut process = pods.exec("one", command, &streams).await?;
    let status = process.take_status().context("a status")?;
    let mut stdin = process.stdin().context("stdin")?;
    stdin.write_all(b"words").await?;
    stdin.shutdown().await?;
    drop(stdin);
    let (mut out, mut err) = (String::new(), String::new());
    process
        .stdout()
        .context("stdout")?
        .read_to_string(&mut out)
        .await?;
    process
        .stderr()
        .context("stderr")?
        .read_to_string(&mut err)
        .await?;
    let status = status.await.context("an end")?;
    ensure!(
        out == "words" && err == "err\n",
        "{out:?} {err:?} {status:?}"
    );
    ensure!(
        status.reason.as_deref() == Some("NonZeroExitCode"),
        "{status:?}"
    );
    pods.delete("one", &DeleteParams::default()).await?;
    Ok(())
}
