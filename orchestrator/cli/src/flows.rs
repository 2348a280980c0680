//! `waggle flows`: what the nodes' datapaths decide and why, across the cluster, in the order of time.

mod counters;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{AsyncBufReadExt, StreamExt};
use serde_json::Value;

use counters::Counted;

use crate::age::parse_duration;
use crate::connect::{Api, Globals, check_segment, refused_with, with_query};
use crate::get::put;

/// Arguments of `flows`.
#[derive(Debug, Default, clap::Args)]
#[command(
    long_about = "Show what the nodes' datapaths decide and why: the last drops that each node has kept, and with -f what \
                  comes, new calls and flows that are let through included. Without -n it shows the whole cluster. In a flood verdicts are left out, and how many is \
                  said; --counters are exact at any rate."
)]
pub struct FlowsArgs {
    /// Go on as they come
    #[arg(short, long)]
    follow: bool,
    /// Of this node only
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// From or to this pod only, NAMESPACE/NAME, or with -n its name
    #[arg(long, value_name = "NS/NAME")]
    pod: Option<String>,
    /// From or to this tenant only
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// What became of it
    #[arg(long, value_parser = ["drop", "forward", "translate"])]
    verdict: Option<String>,
    /// With this reason only, `tenant_wall`
    #[arg(long)]
    reason: Option<String>,
    /// From or to this port only
    #[arg(long)]
    port: Option<u16>,
    /// `tcp`, `udp`, `sctp`, `icmp`, `icmpv6` or a number
    #[arg(long)]
    protocol: Option<String>,
    /// Newer than this only, `5m`
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    since: Option<Duration>,
    /// Counts instead, exact: how often each verdict was given, or what each service or NetworkPolicy did
    #[arg(
        long,
        value_enum,
        value_name = "OF",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "verdicts",
        conflicts_with_all = ["follow", "pod", "tenant", "port", "protocol", "since"]
    )]
    counters: Option<Counted>,
    /// `json` writes one object a line, `wide` addresses and full reasons
    #[arg(short, long, value_parser = ["json", "wide"])]
    output: Option<String>,
}

/// Runs it.
pub(crate) async fn run(args: FlowsArgs, globals: &Globals) -> Result<ExitCode> {
    let api = Api::connect(globals).await?;
    if let Some(counted) = args.counters {
        return counters::run(&api, &args, counted, globals.namespace.as_deref()).await;
    }
    let namespace = globals.namespace.as_deref();
    let path = path(&args, namespace)?;
    let body = api.stream(&path, "*/*").await.map_err(|error| {
        if refused_with(&error, 403) && namespace.is_none() {
            error.context(
                "the flows of the whole cluster are not yours to see: name a namespace with -n",
            )
        } else {
            error
        }
    })?;
    let mut lines = Box::pin(body).lines();
    while let Some(line) = lines.next().await {
        let line = line.context("the flow log broke off")?;
        let value: Value = serde_json::from_str(&line).context("the server sent no flow")?;
        match value["type"].as_str() {
            Some("warning" | "note") => {
                eprintln!(
                    "{}: {}",
                    value["type"].as_str().unwrap_or_default(),
                    value["message"].as_str().unwrap_or_default()
                );
            }
            _ if args.output.as_deref() == Some("json") => put(&format!("{line}\n"))?,
            _ => put(&sentence(&value, args.output.is_some()))?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn path(args: &FlowsArgs, namespace: Option<&str>) -> Result<String> {
    let path = match namespace {
        Some(namespace) => format!(
            "/apis/waggle.dev/v1/namespaces/{}/flows",
            check_segment("namespace", namespace)?
        ),
        None => "/apis/waggle.dev/v1/flows".to_owned(),
    };
    if let Some(pod) = &args.pod
        && namespace.is_none()
        && !pod.contains('/')
    {
        bail!(
            "--pod {pod}: write NAMESPACE/NAME, such as default/{pod}, or name its namespace with -n"
        );
    }
    let mut query = Vec::new();
    if args.follow {
        query.push(("watch", "true".to_owned()));
    }
    for (name, value) in [
        ("node", &args.node),
        ("pod", &args.pod),
        ("tenant", &args.tenant),
        ("verdict", &args.verdict),
        ("reason", &args.reason),
        ("protocol", &args.protocol),
    ] {
        query.extend(value.as_ref().map(|value| (name, value.clone())));
    }
    query.extend(args.port.map(|port| ("port", port.to_string())));
    query.extend(
        args.since
            .map(|since| ("sinceSeconds", since.as_secs().max(1).to_string())),
    );
    Ok(with_query(&path, &query))
}

/// A flow, or what was skipped, as people read it.
fn sentence(flow: &Value, wide: bool) -> String {
    let text = |field: &str| flow[field].as_str().unwrap_or("?");
    let time = if wide {
        text("time")
    } else {
        // The day is today's, and a millisecond is enough.
        text("time")
            .split_once('T')
            .and_then(|(_, time)| time.get(..12))
            .unwrap_or("?")
    };
    let (node, verdict) = (text("node"), text("verdict").to_uppercase());
    if flow["type"] == "skipped" {
        return format!("{time}  {node}  ...  {}\n", text("message"));
    }
    let (source, destination) = (end(&flow["source"], wide), end(&flow["destination"], wide));
    let protocol = flow["protocol"].as_str().unwrap_or("-");
    let mut line = format!(
        "{time}  {node}  {verdict:<4}  {protocol:<4}  {source} -> {destination}  {}",
        text("reason")
    );
    if wide {
        let _ = write!(line, "  {}: {}", text("hook"), text("message"));
    }
    line.push('\n');
    line
}

/// The name of an end, or its address, with its port and its tenant.
fn end(end: &Value, wide: bool) -> String {
    let text = |field: &str| end[field].as_str();
    let Some(address) = text("address") else {
        return "?".to_owned();
    };
    let mut line = match (text("kind"), text("namespace"), text("name")) {
        (Some("service"), Some(namespace), Some(name)) => format!("service {namespace}/{name}"),
        (_, Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        (_, None, Some(name)) => format!("node {name}"),
        _ if address.contains(':') => format!("[{address}]"),
        _ => address.to_owned(),
    };
    let named = text("name").is_some();
    if let Some(port) = end["port"].as_u64() {
        let _ = write!(line, ":{port}");
    }
    let tenant = text("tenant");
    if let Some(tenant) = tenant {
        let _ = write!(line, " [{tenant}]");
    }
    if wide && named {
        let _ = write!(line, " ({address})");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_flow_is_a_sentence() {
        let flow = json!({"type": "flow", "time": "2026-01-01T01:02:03.456789Z", "node": "node1", "verdict": "drop",
            "reason": "tenant_wall", "message": "other tenant", "hook": "connect", "protocol": "tcp",
            "source": {"address": "10.244.0.2", "kind": "pod", "namespace": "billing", "name": "app", "tenant": "billing"},
            "destination": {"address": "10.96.0.5", "port": 80, "kind": "service", "namespace": "shop", "name": "cart"}});
        assert_eq!(
            sentence(&flow, false),
            "01:02:03.456  node1  DROP  tcp   billing/app [billing] -> service shop/cart:80  tenant_wall\n"
        );
        assert_eq!(
            sentence(&flow, true),
            "2026-01-01T01:02:03.456789Z  node1  DROP  tcp   billing/app [billing] (10.244.0.2) -> \
             service shop/cart:80 (10.96.0.5)  tenant_wall  connect: other tenant\n"
        );
        let skipped = json!({"type": "skipped", "time": "2026-01-01T01:02:03.456789Z", "node": "node1", "count": 7,
            "message": "7 verdicts came faster"});
        assert_eq!(
            sentence(&skipped, false),
            "01:02:03.456  node1  ...  7 verdicts came faster\n"
        );
    }

    #[test]
    fn an_end_without_a_name_is_its_address() {
        assert_eq!(end(&Value::Null, false), "?");
        let outside = json!({"address": "2001:db8::1", "port": 53, "kind": "outside"});
        assert_eq!(end(&outside, true), "[2001:db8::1]:53");
        let node = json!({"address": "172.30.0.11", "kind": "node", "name": "node1"});
        assert_eq!(end(&node, false), "node node1");
        let foreign = json!({"address": "10.244.0.2", "kind": "pod", "tenant": "shop"});
        assert_eq!(end(&foreign, true), "10.244.0.2 [shop]");
    }

    #[test]
    fn what_is_asked_for_is_in_the_path() {
        let args = FlowsArgs {
            follow: true,
            pod: Some("shop/web".into()),
            since: Some(Duration::from_millis(10)),
            ..FlowsArgs::default()
        };
        assert_eq!(
            path(&args, None).unwrap(),
            "/apis/waggle.dev/v1/flows?watch=true&pod=shop%2Fweb&sinceSeconds=1"
        );
        let bare = FlowsArgs {
            pod: Some("web".into()),
            ..FlowsArgs::default()
        };
        assert!(path(&bare, None).is_err());
        assert_eq!(
            path(&bare, Some("shop")).unwrap(),
            "/apis/waggle.dev/v1/namespaces/shop/flows?pod=web"
        );
    }
}
