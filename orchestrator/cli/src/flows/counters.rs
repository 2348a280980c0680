//! `waggle flows --counters`: how often each node's datapath gave each verdict, and what it did for services and policies,
//! from the nodes' metrics.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use futures::future::join_all;
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use serde_json::{Map, Value};

use super::FlowsArgs;
use crate::connect::{Api, check_segment};
use crate::get::put;
use crate::tab;

/// What counts are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Counted {
    /// Verdicts by reason, packets and bytes
    Verdicts,
    /// Calls of each Service, and those it refused
    Services,
    /// Flows that each NetworkPolicy allowed, and what was denied to pods that it selects
    Policies,
}

/// A label that a sample must have.
type Must = Option<(&'static str, &'static str)>;

/// Which samples make up a row.
struct Shape {
    /// Columns, named by labels.
    labels: &'static [&'static str],
    /// Columns and the metrics that they are filled from.
    values: &'static [(&'static str, &'static str, Must)],
}

impl Counted {
    fn shape(self) -> Shape {
        match self {
            Self::Verdicts => Shape {
                labels: &["verdict", "reason"],
                values: &[
                    ("packets", "waggle_datapath_verdicts_total", None),
                    ("bytes", "waggle_datapath_verdict_bytes_total", None),
                ],
            },
            Self::Services => Shape {
                labels: &["namespace", "service"],
                values: &[
                    ("calls", "waggle_service_calls_total", None),
                    ("refused", "waggle_service_refused_total", None),
                ],
            },
            Self::Policies => Shape {
                labels: &["namespace", "policy"],
                values: &[
                    ("allowed", "waggle_policy_allowed_total", None),
                    (
                        "deniedIn",
                        "waggle_policy_denied_total",
                        Some(("direction", "ingress")),
                    ),
                    (
                        "deniedOut",
                        "waggle_policy_denied_total",
                        Some(("direction", "egress")),
                    ),
                ],
            },
        }
    }
}

/// Counts by the values of their labels.
type Rows = BTreeMap<Vec<String>, Vec<u64>>;

pub(super) async fn run(
    api: &Api,
    args: &FlowsArgs,
    counted: Counted,
    namespace: Option<&str>,
) -> Result<ExitCode> {
    let nodes = match &args.node {
        Some(node) => vec![check_segment("node name", node)?.to_owned()],
        None => names(&api.list("/api/v1/nodes").await?),
    };
    let shape = counted.shape();
    let read = join_all(nodes.iter().map(|node| read(api, node, &shape))).await;
    let mut told = 0;
    let mut text = header(&shape);
    for (node, rows) in nodes.iter().zip(read) {
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => {
                eprintln!("warning: the counters of node {node} are missing: {error:#}");
                continue;
            }
        };
        told += 1;
        for (labels, values) in rows {
            if !wanted(&shape, &labels, &values, args, namespace) {
                continue;
            }
            if args.output.as_deref() == Some("json") {
                put(&format!("{}\n", object(&shape, node, &labels, &values)))?;
            } else {
                let values: Vec<String> = values.iter().map(u64::to_string).collect();
                let _ = writeln!(text, "{node}\t{}\t{}", labels.join("\t"), values.join("\t"));
            }
        }
    }
    if told == 0 {
        bail!("no node told its counters");
    }
    if args.output.as_deref() != Some("json") {
        put(&tab::align(&text, 6, 3))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn header(shape: &Shape) -> String {
    let values = shape.values.iter().map(|(column, ..)| *column);
    let columns: Vec<String> = std::iter::once("node")
        .chain(shape.labels.iter().copied())
        .chain(values)
        .map(heading)
        .collect();
    format!("{}\n", columns.join("\t"))
}

/// `deniedIn` is headed `DENIED-IN`.
fn heading(column: &str) -> String {
    let mut heading = String::new();
    for letter in column.chars() {
        if letter.is_ascii_uppercase() {
            heading.push('-');
        }
        heading.push(letter.to_ascii_uppercase());
    }
    heading
}

fn object(shape: &Shape, node: &str, labels: &[String], values: &[u64]) -> Value {
    let mut object = Map::new();
    object.insert("node".to_owned(), node.into());
    for (name, label) in shape.labels.iter().zip(labels) {
        object.insert((*name).to_owned(), label.as_str().into());
    }
    for ((column, ..), value) in shape.values.iter().zip(values) {
        object.insert((*column).to_owned(), (*value).into());
    }
    Value::Object(object)
}

/// What never happened is shown in `wide` and `json` only.
fn wanted(
    shape: &Shape,
    labels: &[String],
    values: &[u64],
    args: &FlowsArgs,
    namespace: Option<&str>,
) -> bool {
    let asked = [
        ("verdict", args.verdict.as_deref()),
        ("reason", args.reason.as_deref()),
        ("namespace", namespace),
    ];
    let fits = |(name, label): (&&str, &String)| {
        let asked = asked.iter().find(|(asked, _)| asked == name);
        asked
            .and_then(|(_, value)| *value)
            .is_none_or(|value| value == label)
    };
    (args.output.is_some() || values.iter().any(|value| *value > 0))
        && shape.labels.iter().zip(labels).all(fits)
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().into_iter().flatten();
    let names = items.filter_map(|node| node["metadata"]["name"].as_str());
    names.map(str::to_owned).collect()
}

async fn read(api: &Api, node: &str, shape: &Shape) -> Result<Rows> {
    let path = format!("/api/v1/nodes/{node}/metrics");
    let lines = Box::pin(api.stream(&path, "*/*").await?).lines();
    let lines: Vec<String> = lines.boxed().try_collect().await?;
    Ok(rows(&lines, shape))
}

fn rows(lines: &[String], shape: &Shape) -> Rows {
    let mut rows = Rows::new();
    for line in lines {
        let Some((sample, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let Some((name, labels)) = sample.split_once('{') else {
            continue;
        };
        // Reasons, verdicts and names are plain words: nothing in them is escaped.
        let label = |name: &str| {
            let start = format!("{name}=\"");
            let mut labels = labels.trim_end_matches('}').split(',');
            let found = labels.find_map(|one| one.strip_prefix(&start));
            found.map_or("", |value| value.trim_end_matches('"'))
        };
        let place = shape.values.iter().position(|(_, metric, must)| {
            *metric == name && must.is_none_or(|(name, value)| label(name) == value)
        });
        let Some(place) = place else {
            continue;
        };
        let key = shape.labels.iter().map(|name| label(name).to_owned());
        let row = rows.entry(key.collect()).or_default();
        row.resize(shape.values.len(), 0);
        row[place] = value.parse().unwrap_or(0);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str], counted: Counted) -> Vec<(String, Vec<u64>)> {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        let rows = rows(&lines, &counted.shape()).into_iter();
        rows.map(|(labels, values)| (labels.join(" "), values))
            .collect()
    }

    #[test]
    fn counters_are_read_from_the_metrics() {
        let lines = [
            "# TYPE waggle_datapath_verdicts_total counter",
            r#"waggle_datapath_verdicts_total{reason="tenant_wall",verdict="drop"} 12"#,
            r#"waggle_datapath_verdicts_total{reason="forwarded",verdict="forward"} 9007199254740992"#,
            r#"waggle_datapath_verdict_bytes_total{reason="tenant_wall",verdict="drop"} 800"#,
            r#"waggle_service_calls_total{namespace="shop",service="cart"} 7"#,
            r#"waggle_policy_denied_total{direction="egress",namespace="shop",policy="closed"} 3"#,
            r#"waggle_policy_denied_total{direction="ingress",namespace="shop",policy="closed"} 5"#,
            r#"waggle_policy_allowed_total{namespace="shop",policy="closed"} 2"#,
            "waggle_network_services 3",
        ];
        assert_eq!(
            read(&lines, Counted::Verdicts),
            [
                ("drop tenant_wall".to_owned(), vec![12, 800]),
                ("forward forwarded".to_owned(), vec![1 << 53, 0])
            ]
        );
        assert_eq!(
            read(&lines, Counted::Services),
            [("shop cart".to_owned(), vec![7, 0])]
        );
        assert_eq!(
            read(&lines, Counted::Policies),
            [("shop closed".to_owned(), vec![2, 5, 3])]
        );
        assert_eq!(
            header(&Counted::Policies.shape()),
            "NODE\tNAMESPACE\tPOLICY\tALLOWED\tDENIED-IN\tDENIED-OUT\n"
        );
    }
}
