//! `waggle schedule`: what the scheduler says of a pod, node by node. The server's scheduler is asked, so what it answers is
//! what it would do.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::Value;

use crate::connect::{Api, Globals, check_segment};
use crate::get::{Output, encode, put};
use crate::tab;

/// Arguments of `schedule`.
#[derive(Debug, clap::Args)]
pub struct ScheduleArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show, for every node, the filter that keeps a pod away or the scores that compare it
    Explain {
        /// Pod
        #[arg(value_name = "POD")]
        pod: String,
        /// How it is printed
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
}

/// Runs it.
pub(crate) async fn run(args: ScheduleArgs, globals: &Globals) -> Result<ExitCode> {
    let What::Explain { pod, output } = args.what;
    let api = Api::connect(globals).await?;
    let name = check_segment("pod", pod.strip_prefix("pod/").unwrap_or(&pod))?;
    let namespace = &api.namespace;
    let path = format!("/apis/waggle.dev/v1/namespaces/{namespace}/schedulingexplanations/{name}");
    let answer = api.get(&path).await?;
    let text = match output {
        Output::Json | Output::Yaml => encode(&answer, output)?,
        Output::Name => format!("pod/{name}\n"),
        Output::Table | Output::Wide => tab::align(&table(&answer), 6, 3),
    };
    put(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Columns of scores, and the plugins that they are from.
const SCORES: [(&str, &str); 7] = [
    ("FIT", "NodeResourcesFit"),
    ("BALANCED", "NodeResourcesBalancedAllocation"),
    ("SPREAD", "PodTopologySpread"),
    ("AFFINITY", "NodeAffinity"),
    ("PODS", "InterPodAffinity"),
    ("TAINTS", "TaintToleration"),
    ("IMAGES", "ImageLocality"),
];

fn table(answer: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut out = String::new();
    let state = match (&answer["bound"], &answer["message"]) {
        (Value::String(node), _) => format!("on {node}"),
        (_, Value::String(message)) => format!("waits: {message}"),
        _ => "waits".to_owned(),
    };
    let _ = writeln!(out, "{} {state}", text(&answer["metadata"]["name"]));
    let _ = write!(out, "{}", gang(&answer["gang"]));
    let nodes = answer["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    if nodes.is_empty() {
        let _ = writeln!(
            out,
            "no node to tell of; its scheduler is {}",
            text(&answer["scheduler"])
        );
        return out;
    }
    let of = |node: &Value, plugin: &str| node["scores"][plugin].as_i64();
    let shown: Vec<_> = SCORES
        .into_iter()
        .filter(|(_, plugin)| nodes.iter().any(|node| of(node, plugin).is_some()))
        .collect();
    let heads: String = shown.iter().map(|(head, _)| format!("{head}\t")).collect();
    let _ = writeln!(out, "\nNODE\tSCORE\t{heads}FILTER\tREASON");
    for node in nodes {
        let number =
            |value: Option<i64>| value.map_or_else(|| "-".to_owned(), |one| one.to_string());
        let cells: String = shown
            .iter()
            .map(|(_, plugin)| number(of(node, plugin)) + "\t")
            .collect();
        let reasons = node["reasons"].as_array().into_iter().flatten().map(text);
        let reasons: Vec<String> = reasons.collect();
        let best = if node["name"] == answer["best"] {
            "*"
        } else {
            ""
        };
        let filter = node["filter"].as_str().unwrap_or("-");
        let (name, score) = (text(&node["name"]), number(node["total"].as_i64()));
        let _ = writeln!(
            out,
            "{name}{best}\t{score}\t{cells}{filter}\t{}",
            reasons.join(", ")
        );
    }
    out
}

/// What is said of the pod's gang; nothing for a pod without one.
fn gang(gang: &Value) -> String {
    let Some(name) = gang["name"].as_str() else {
        return String::new();
    };
    let members = gang["members"].as_array().map_or(&[][..], Vec::as_slice);
    let number = |field: &str| gang[field].as_u64().unwrap_or(0);
    let mut out = format!(
        "gang {name}: {} must run together, {} have a node, {} of {} that wait fit at once\n",
        number("minCount"),
        number("bound"),
        number("fitting"),
        members.len()
    );
    for one in members {
        let node = one["node"].as_str().unwrap_or("nowhere");
        let _ = writeln!(
            out,
            "  {} would be on {node}",
            one["pod"].as_str().unwrap_or_default()
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nodes_are_shown_with_scores_or_reasons() {
        let answer = json!({"metadata": {"name": "web-1"}, "scheduler": "default-scheduler", "best": "n1",
            "message": "0/2 nodes are available", "nodes": [
            {"name": "n1", "total": 120, "scores": {"NodeResourcesFit": 40, "NodeResourcesBalancedAllocation": 80}},
            {"name": "n2", "filter": "NodePorts", "reasons": ["node(s) didn't have free ports"]}]});
        assert_eq!(
            tab::align(&table(&answer), 6, 3),
            "web-1 waits: 0/2 nodes are available\n\n\
             NODE   SCORE   FIT   BALANCED   FILTER      REASON\n\
             n1*    120     40    80         -\n\
             n2     -       -     -          NodePorts   node(s) didn't have free ports\n"
        );
        let mut one = answer.clone();
        one["gang"] = json!({"name": "red", "minCount": 3, "bound": 0, "fitting": 1,
            "members": [{"pod": "web-1", "node": "n1"}, {"pod": "web-2"}]});
        assert!(table(&one).starts_with(
            "web-1 waits: 0/2 nodes are available\n\
             gang red: 3 must run together, 0 have a node, 1 of 2 that wait fit at once\n  \
             web-1 would be on n1\n  web-2 would be on nowhere\n\nNODE"
        ));
        let foreign = json!({"metadata": {"name": "web-1"}, "scheduler": "mine", "nodes": []});
        assert_eq!(
            table(&foreign),
            "web-1 waits\nno node to tell of; its scheduler is mine\n"
        );
    }
}
