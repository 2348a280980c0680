//! `waggle describe`: one object in detail, for people, with its events. Pods, nodes, Services and Deployments have layouts of
//! their own; every other kind is shown as its fields.

mod fields;
mod node;
mod pod;
mod workload;

use std::process::ExitCode;

use anyhow::Result;
use jiff::Timestamp;
use serde_json::Value;

use crate::age;
use crate::connect::{Api, Globals, with_query};
use crate::get::put;
use crate::kinds::{Kind, Kinds};
use crate::tab;

/// Arguments of `describe`.
#[derive(Debug, clap::Args)]
pub struct DescribeArgs {
    /// TYPE, TYPE NAME... or TYPE/NAME...
    #[arg(required = true)]
    what: Vec<String>,
    /// In all Namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Label selector
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// Show the object's events
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    show_events: bool,
}

/// Runs it.
pub(crate) async fn run(args: DescribeArgs, globals: &Globals) -> Result<ExitCode> {
    let api = Api::connect(globals).await?;
    let kinds = Kinds::discover(&api).await?;
    let mut shown = 0;
    for target in kinds.targets(&args.what)? {
        let objects = match &target.name {
            Some(name) => vec![api.get(&target.kind.object(&api.namespace, name)).await?],
            None => {
                let namespace = if args.all_namespaces {
                    None
                } else {
                    Some(api.namespace.as_str())
                };
                let query: Vec<_> = args
                    .selector
                    .iter()
                    .map(|selector| ("labelSelector", selector.clone()))
                    .collect();
                let mut list = api
                    .list(&with_query(&target.kind.collection(namespace), &query))
                    .await?;
                list["items"]
                    .as_array_mut()
                    .map(std::mem::take)
                    .unwrap_or_default()
            }
        };
        for object in &objects {
            let text = describe(&api, target.kind, object, args.show_events).await?;
            put(&if shown > 0 {
                format!("\n\n{text}")
            } else {
                text
            })?;
            shown += 1;
        }
    }
    if shown == 0 {
        eprintln!("No resources found in {} namespace.", api.namespace);
    }
    Ok(ExitCode::SUCCESS)
}

async fn describe(api: &Api, kind: &Kind, object: &Value, show_events: bool) -> Result<String> {
    let now = Timestamp::now();
    let text = |field: &str| {
        object["metadata"][field]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let (name, namespace) = (text("name"), text("namespace"));
    let mut body = match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => pod::pod(object, now),
        ("", "Node") => {
            let query = [("fieldSelector", format!("spec.nodeName={name}"))];
            let pods = api.list(&with_query("/api/v1/pods", &query)).await?;
            node::node(
                object,
                pods["items"]
                    .as_array()
                    .map(Vec::as_slice)
                    .unwrap_or_default(),
                now,
            )
        }
        ("", "Service") => {
            let query = [(
                "labelSelector",
                format!("kubernetes.io/service-name={name}"),
            )];
            let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
            let slices = api.list(&with_query(&path, &query)).await?;
            workload::service(
                object,
                slices["items"]
                    .as_array()
                    .map(Vec::as_slice)
                    .unwrap_or_default(),
            )
        }
        ("apps", "Deployment") => {
            let selector = crate::logs::selector_of(object).unwrap_or_default();
            let path = format!("/apis/apps/v1/namespaces/{namespace}/replicasets");
            let sets = api
                .list(&with_query(&path, &[("labelSelector", selector)]))
                .await?;
            workload::deployment(
                object,
                sets["items"]
                    .as_array()
                    .map(Vec::as_slice)
                    .unwrap_or_default(),
                now,
            )
        }
        _ => fields::generic(object),
    };
    if show_events {
        let mut query = vec![
            format!("involvedObject.name={name}"),
            format!("involvedObject.kind={}", kind.kind),
            format!("involvedObject.uid={}", text("uid")),
        ];
        if !namespace.is_empty() {
            query.push(format!("involvedObject.namespace={namespace}"));
        }
        let path = if namespace.is_empty() {
            "/api/v1/events".to_owned()
        } else {
            format!("/api/v1/namespaces/{namespace}/events")
        };
        // A node's events name it by its name as UID, as the kubelet does.
        if kind.kind == "Node" {
            query.remove(2);
        }
        match api
            .list(&with_query(&path, &[("fieldSelector", query.join(","))]))
            .await
        {
            Ok(list) => body.push_str(&events(
                list["items"]
                    .as_array()
                    .map(Vec::as_slice)
                    .unwrap_or_default(),
                now,
            )),
            Err(error) => body.push_str(&format!("Events:\t<cannot be listed: {error:#}>\n")),
        }
    }
    Ok(tab::align(&body, 0, 2))
}

fn event_time(event: &Value) -> &str {
    ["lastTimestamp", "eventTime", "firstTimestamp"]
        .iter()
        .find_map(|field| event[field].as_str())
        .or(event["metadata"]["creationTimestamp"].as_str())
        .unwrap_or_default()
}

/// Events, oldest first.
fn events(events: &[Value], now: Timestamp) -> String {
    if events.is_empty() {
        return "Events:\t<none>\n".to_owned();
    }
    let mut sorted: Vec<&Value> = events.iter().collect();
    // Times have whole seconds; revisions tell the order within one.
    let revision = |event: &Value| {
        event["metadata"]["resourceVersion"]
            .as_str()
            .and_then(|text| text.parse::<u64>().ok())
    };
    sorted.sort_by_key(|event| (event_time(event).to_owned(), revision(event)));
    let mut text = String::from(
        "Events:\n  Type\tReason\tAge\tFrom\tMessage\n  ----\t------\t----\t----\t-------\n",
    );
    for event in sorted {
        let field = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let from = event["source"]["component"]
            .as_str()
            .or(event["reportingComponent"].as_str())
            .unwrap_or_default();
        let age = age::since(event_time(event), now);
        let count = event["count"]
            .as_i64()
            .or(event["series"]["count"].as_i64())
            .unwrap_or(1);
        let first = event["firstTimestamp"].as_str().unwrap_or_default();
        let age = if count > 1 {
            format!("{age} (x{count} over {})", age::since(first, now))
        } else {
            age
        };
        let message = field("message").trim().replace('\n', " ");
        text.push_str(&format!(
            "  {}\t{}\t{age}\t{from}\t{message}\n",
            field("type"),
            field("reason")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_come_oldest_first_with_their_count() {
        let now = "2026-01-01T00:10:00Z".parse().unwrap();
        let list = [
            json!({"type": "Warning", "reason": "BackOff", "message": "again\n", "count": 3, "source": {"component": "agent"},
                "firstTimestamp": "2026-01-01T00:05:00Z", "lastTimestamp": "2026-01-01T00:09:30Z"}),
            json!({"type": "Normal", "reason": "Scheduled", "message": "to node1", "reportingComponent": "scheduler",
                "eventTime": "2026-01-01T00:04:00.000000Z"}),
        ];
        assert_eq!(
            tab::align(&events(&list, now), 0, 2),
            "Events:\n\
             \x20 Type     Reason     Age               From       Message\n\
             \x20 ----     ------     ----              ----       -------\n\
             \x20 Normal   Scheduled  6m                scheduler  to node1\n\
             \x20 Warning  BackOff    30s (x3 over 5m)  agent      again\n"
        );
        assert_eq!(events(&[], now), "Events:\t<none>\n");
    }
}
