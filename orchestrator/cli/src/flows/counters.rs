//! `waggle flows --counters`: how often each node's datapath gave each verdict, from the node's metrics.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use futures::future::join_all;
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use serde_json::json;

use super::FlowsArgs;
use crate::connect::{Api, check_segment};
use crate::get::put;
use crate::tab;

/// How often one verdict was given for one reason.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Count {
    verdict: String,
    reason: String,
    packets: u64,
    bytes: u64,
}

pub(super) async fn run(api: &Api, args: &FlowsArgs) -> Result<ExitCode> {
    let nodes = match &args.node {
        Some(node) => vec![check_segment("node name", node)?.to_owned()],
        None => names(&api.list("/api/v1/nodes").await?),
    };
    let read = join_all(nodes.iter().map(|node| read(api, node))).await;
    let mut told = 0;
    let mut text = String::from("NODE\tVERDICT\tREASON\tPACKETS\tBYTES\n");
    for (node, counts) in nodes.iter().zip(read) {
        let counts = match counts {
            Ok(counts) => counts,
            Err(error) => {
                eprintln!("warning: the counters of node {node} are missing: {error:#}");
                continue;
            }
        };
        told += 1;
        for count in counts.iter().filter(|count| wanted(count, args)) {
            let Count {
                verdict,
                reason,
                packets,
                bytes,
            } = count;
            if args.output.as_deref() == Some("json") {
                let row = json!({"node": node, "verdict": verdict, "reason": reason, "packets": packets, "bytes": bytes});
                put(&format!("{row}\n"))?;
            } else {
                let _ = writeln!(text, "{node}\t{verdict}\t{reason}\t{packets}\t{bytes}");
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

/// Verdicts that were never given are shown in `wide` and `json` only.
fn wanted(count: &Count, args: &FlowsArgs) -> bool {
    (count.packets > 0 || args.output.is_some())
        && args
            .verdict
            .as_ref()
            .is_none_or(|verdict| *verdict == count.verdict)
        && args
            .reason
            .as_ref()
            .is_none_or(|reason| *reason == count.reason)
}

fn names(list: &serde_json::Value) -> Vec<String> {
    let items = list["items"].as_array().into_iter().flatten();
    let names = items.filter_map(|node| node["metadata"]["name"].as_str());
    names.map(str::to_owned).collect()
}

async fn read(api: &Api, node: &str) -> Result<Vec<Count>> {
    let path = format!("/api/v1/nodes/{node}/metrics");
    let lines = Box::pin(api.stream(&path, "*/*").await?).lines();
    let lines: Vec<String> = lines.boxed().try_collect().await?;
    Ok(counts(&lines))
}

fn counts(lines: &[String]) -> Vec<Count> {
    let mut all: Vec<Count> = Vec::new();
    for line in lines {
        let Some((sample, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let Some((name, labels)) = sample.split_once('{') else {
            continue;
        };
        let bytes = match name {
            "waggle_datapath_verdicts_total" => false,
            "waggle_datapath_verdict_bytes_total" => true,
            _ => continue,
        };
        // Reasons and verdicts are plain words: nothing in them is escaped.
        let label = |name: &str| {
            let start = format!("{name}=\"");
            let mut labels = labels.trim_end_matches('}').split(',');
            let found = labels.find_map(|one| one.strip_prefix(&start));
            found.map_or("", |value| value.trim_end_matches('"'))
        };
        let (verdict, reason) = (label("verdict").to_owned(), label("reason").to_owned());
        let number = value.parse().unwrap_or(0);
        let known = all
            .iter_mut()
            .find(|one| one.reason == reason && one.verdict == verdict);
        match known {
            Some(count) if bytes => count.bytes = number,
            Some(count) => count.packets = number,
            None => all.push(Count {
                verdict,
                reason,
                packets: if bytes { 0 } else { number },
                bytes: if bytes { number } else { 0 },
            }),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_the_metrics() {
        let lines = [
            "# TYPE waggle_datapath_verdicts_total counter",
            r#"waggle_datapath_verdicts_total{reason="tenant_wall",verdict="drop"} 12"#,
            r#"waggle_datapath_verdicts_total{reason="forwarded",verdict="forward"} 9007199254740992"#,
            r#"waggle_datapath_verdict_bytes_total{reason="tenant_wall",verdict="drop"} 800"#,
            "waggle_network_services 3",
        ];
        let count = |verdict: &str, reason: &str, packets, bytes| Count {
            verdict: verdict.into(),
            reason: reason.into(),
            packets,
            bytes,
        };
        assert_eq!(
            counts(&lines.map(str::to_owned)),
            [
                count("drop", "tenant_wall", 12, 800),
                count("forward", "forwarded", 1 << 53, 0)
            ]
        );
    }
}
