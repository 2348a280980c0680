//! `waggle logs`: the log of one container, or of all that a selector names.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures::stream::FuturesUnordered;
use futures::{AsyncBufReadExt, AsyncReadExt, StreamExt};
use serde_json::Value;

use crate::age::parse_duration;
use crate::connect::{Api, Globals, check_segment, with_query};
use crate::get::put;
use crate::kinds::Kinds;

/// Arguments of `logs`.
#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// POD, or TYPE/NAME such as deploy/user-center
    what: Option<String>,
    /// Container (`-c NAME`, or after the pod)
    container_name: Option<String>,
    /// Container
    #[arg(short, long)]
    container: Option<String>,
    /// Every container of the pod
    #[arg(long)]
    all_containers: bool,
    /// All pods with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR", conflicts_with = "what")]
    selector: Option<String>,
    /// Go on as it grows
    #[arg(short, long)]
    follow: bool,
    /// Of the container before its last restart
    #[arg(short, long)]
    previous: bool,
    /// Last lines only
    #[arg(long, default_value_t = -1, hide_default_value = true, value_name = "LINES", allow_hyphen_values = true)]
    tail: i64,
    /// Newer than this only, `5m`
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    since: Option<Duration>,
    /// At most so many bytes of each log
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    limit_bytes: Option<u64>,
    /// Write each line's time before it
    #[arg(long)]
    timestamps: bool,
    /// Write each line's pod and container before it
    #[arg(long)]
    prefix: bool,
}

/// One log to read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    pod: String,
    container: Option<String>,
}

/// Runs it.
pub(crate) async fn run(args: LogsArgs, globals: &Globals) -> Result<ExitCode> {
    let api = Api::connect(globals).await?;
    let sources = sources(&api, &args).await?;
    if let [source] = sources.as_slice()
        && !args.prefix
    {
        copy(&api, source, &args).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut running: FuturesUnordered<_> = sources
        .iter()
        .map(|source| prefixed(&api, source, &args))
        .collect();
    while let Some(done) = running.next().await {
        done?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn sources(api: &Api, args: &LogsArgs) -> Result<Vec<Source>> {
    let pods = match (&args.what, &args.selector) {
        (_, Some(selector)) => pods_with(api, selector).await?,
        (Some(what), None) => vec![pod_of(api, what).await?],
        (None, None) => bail!("name a pod, TYPE/NAME, or give a selector with -l"),
    };
    let wanted = args.container.as_ref().or(args.container_name.as_ref());
    let mut sources = Vec::new();
    for pod in &pods {
        let name = pod["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let containers = container_names(pod);
        match wanted {
            Some(container) if !containers.contains(container) => {
                bail!(
                    "pod {name} has no container {container:?}: it has {}",
                    containers.join(", ")
                )
            }
            Some(container) => sources.push(Source {
                pod: name,
                container: Some(container.clone()),
            }),
            None if args.all_containers => sources.extend(containers.into_iter().map(|c| Source {
                pod: name.clone(),
                container: Some(c),
            })),
            None => sources.push(Source {
                container: default_container(pod),
                pod: name,
            }),
        }
    }
    Ok(sources)
}

async fn pods_with(api: &Api, selector: &str) -> Result<Vec<Value>> {
    let path = format!("/api/v1/namespaces/{}/pods", api.namespace);
    let mut list = api
        .list(&with_query(
            &path,
            &[("labelSelector", selector.to_owned())],
        ))
        .await?;
    let pods = list["items"]
        .as_array_mut()
        .map(std::mem::take)
        .unwrap_or_default();
    if pods.is_empty() {
        bail!("no pod in namespace {} matches {selector:?}", api.namespace);
    }
    Ok(pods)
}

/// The pod that `what` names: itself, or a running one behind a Deployment, ReplicaSet, Service or the like.
pub(crate) async fn pod_of(api: &Api, what: &str) -> Result<Value> {
    let Some((kind, name)) = what.split_once('/') else {
        return api
            .get(&format!(
                "/api/v1/namespaces/{}/pods/{}",
                api.namespace,
                check_segment("pod name", what)?
            ))
            .await;
    };
    let kinds = Kinds::discover(api).await?;
    let kind = kinds.find(kind)?;
    let object = api
        .get(&kind.object(&api.namespace, check_segment("name", name)?))
        .await?;
    if kind.kind == "Pod" {
        return Ok(object);
    }
    let selector = selector_of(&object).ok_or_else(|| anyhow!("{what} selects no pods"))?;
    let mut pods = pods_with(api, &selector)
        .await
        .with_context(|| format!("{what} has no pod to look at"))?;
    pods.sort_by_key(readiness_rank);
    Ok(pods.swap_remove(0))
}

/// Ready first, then running, then the rest; ending ones last.
fn readiness_rank(pod: &Value) -> u8 {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions
        .into_iter()
        .any(|c| c["type"] == "Ready" && c["status"] == "True");
    match pod["status"]["phase"].as_str() {
        _ if !pod["metadata"]["deletionTimestamp"].is_null() => 3,
        _ if ready => 0,
        Some("Running") => 1,
        _ => 2,
    }
}

/// Label selector of a workload or Service, as text.
pub(crate) fn selector_of(object: &Value) -> Option<String> {
    let selector = &object["spec"]["selector"];
    let labels = if selector["matchLabels"].is_object() {
        &selector["matchLabels"]
    } else {
        selector
    };
    let mut parts: Vec<String> = labels
        .as_object()?
        .iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
        .collect();
    for term in selector["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let key = term["key"].as_str()?;
        let values: Vec<&str> = term["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        parts.push(match term["operator"].as_str()? {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    if parts.is_empty() {
        None
    } else {
        Some(parts.join(","))
    }
}

/// Names of a pod's containers, init containers first.
fn container_names(pod: &Value) -> Vec<String> {
    let names = |field: &str| {
        pod["spec"][field]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|container| Some(container["name"].as_str()?.to_owned()))
            .collect::<Vec<_>>()
    };
    let mut all = names("initContainers");
    all.extend(names("containers"));
    all
}

/// The container to use when none is named: the annotated one, else the first; says so when there are several.
pub(crate) fn default_container(pod: &Value) -> Option<String> {
    let annotated =
        pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    let containers = pod["spec"]["containers"].as_array()?;
    let first = containers.first()?["name"].as_str()?;
    if annotated.is_none() && containers.len() > 1 {
        let names: Vec<&str> = containers
            .iter()
            .filter_map(|container| container["name"].as_str())
            .collect();
        eprintln!(
            "Defaulted container \"{first}\" out of: {}",
            names.join(", ")
        );
    }
    Some(annotated.unwrap_or(first).to_owned())
}

fn path(api: &Api, source: &Source, args: &LogsArgs) -> String {
    let mut query = Vec::new();
    if let Some(container) = &source.container {
        query.push(("container", container.clone()));
    }
    for (name, on) in [
        ("follow", args.follow),
        ("previous", args.previous),
        ("timestamps", args.timestamps),
    ] {
        if on {
            query.push((name, "true".to_owned()));
        }
    }
    if args.tail >= 0 {
        query.push(("tailLines", args.tail.to_string()));
    }
    if let Some(since) = args.since {
        query.push(("sinceSeconds", since.as_secs().max(1).to_string()));
    }
    if let Some(bytes) = args.limit_bytes {
        query.push(("limitBytes", bytes.to_string()));
    }
    with_query(
        &format!(
            "/api/v1/namespaces/{}/pods/{}/log",
            api.namespace, source.pod
        ),
        &query,
    )
}

async fn copy(api: &Api, source: &Source, args: &LogsArgs) -> Result<()> {
    let mut body = Box::pin(api.stream(&path(api, source, args), "*/*").await?);
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let read = body
            .read(&mut buffer)
            .await
            .with_context(|| format!("the log of {} broke off", source.pod))?;
        if read == 0 {
            return Ok(());
        }
        write_bytes(&buffer[..read])?;
    }
}

fn write_bytes(bytes: &[u8]) -> Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

async fn prefixed(api: &Api, source: &Source, args: &LogsArgs) -> Result<()> {
    let mut lines = Box::pin(api.stream(&path(api, source, args), "*/*").await?).lines();
    let container = source.container.as_deref().unwrap_or_default();
    while let Some(line) = lines.next().await {
        let line = line.with_context(|| format!("the log of {} broke off", source.pod))?;
        put(&if args.prefix {
            format!("[pod/{}/{container}] {line}\n", source.pod)
        } else {
            format!("{line}\n")
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_workload_selects_its_pods() {
        let deployment = json!({"spec": {"selector": {"matchLabels": {"app": "web"}, "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "old", "operator": "DoesNotExist"}]}}});
        assert_eq!(
            selector_of(&deployment).unwrap(),
            "app=web,tier in (a,b),!old"
        );
        assert_eq!(
            selector_of(&json!({"spec": {"selector": {"app": "web"}}})).unwrap(),
            "app=web"
        );
        assert_eq!(selector_of(&json!({"spec": {}})), None);
    }

    #[test]
    fn a_ready_pod_is_preferred() {
        let pod = |phase: &str, ready: &str| json!({"metadata": {}, "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}});
        let mut ending = pod("Running", "True");
        ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let ranks: Vec<u8> = [
            pod("Running", "True"),
            pod("Running", "False"),
            pod("Pending", "False"),
            ending,
        ]
        .iter()
        .map(readiness_rank)
        .collect();
        assert_eq!(ranks, [0, 1, 2, 3]);
    }

    #[test]
    fn the_annotated_container_wins() {
        let mut pod = json!({"metadata": {}, "spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(default_container(&pod).as_deref(), Some("a"));
        assert_eq!(container_names(&pod), ["i", "a", "b"]);
        pod["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/default-container": "b"});
        assert_eq!(default_container(&pod).as_deref(), Some("b"));
    }
}
