//! `waggle node`: what a node of a cluster on this machine knows itself, asked through its agent's own socket.

use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::dev::Which;
use crate::get::put;
use crate::image::{ask, sockets};
use crate::tab;

/// Arguments of `node`.
#[derive(Debug, clap::Args)]
pub struct NodeArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Count what the node's datapath let through, translated and dropped, by reason
    Drops {
        /// `node1`; else all nodes
        node: Vec<String>,
    },
    /// Show the agent's version, its pods and its network generation
    Status {
        /// `node1`; else all nodes
        node: Vec<String>,
    },
}

/// Runs it.
pub(crate) async fn run(args: NodeArgs) -> Result<ExitCode> {
    let (op, nodes, header) = match &args.action {
        Action::Drops { node } => ("drops", node, "NODE\tREASON\tMEANING\tBYTES\tPACKETS\n"),
        Action::Status { node } => ("status", node, "NODE\tVERSION\tPODS\tNETWORK\n"),
    };
    let mut table = header.to_owned();
    for (name, socket) in sockets(&args.which, nodes)? {
        let answer = ask(&socket, &json!({"op": op}))
            .await
            .with_context(|| format!("cannot ask {name}"))?;
        table.push_str(&match args.action {
            Action::Drops { .. } => verdicts(&name, &answer),
            Action::Status { .. } => status(&name, &answer),
        });
    }
    put(&tab::align(&table, 6, 3))?;
    Ok(ExitCode::SUCCESS)
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn verdicts(node: &str, answer: &Value) -> String {
    let verdicts = answer["verdicts"].as_array().into_iter().flatten();
    let line = |one: &Value| {
        let [reason, meaning, bytes, packets] =
            ["reason", "text", "bytes", "packets"].map(|field| text(&one[field]));
        format!("{node}\t{reason}\t{meaning}\t{bytes}\t{packets}\n")
    };
    verdicts.map(line).collect()
}

fn status(node: &str, answer: &Value) -> String {
    let [version, pods, network] =
        ["version", "pods", "network_generation"].map(|field| text(&answer[field]));
    format!("{node}\t{version}\t{pods}\t{network}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_a_line_that_ends_in_its_count() {
        let answer = json!({"verdicts": [{"reason": "InvalidSource", "text": "not its own", "packets": 5, "bytes": 300}]});
        assert_eq!(
            verdicts("node1", &answer),
            "node1\tInvalidSource\tnot its own\t300\t5\n"
        );
        let answer = json!({"node": "node1", "version": "0.1.0", "pods": 3, "network_generation": 9, "epoch": "e"});
        assert_eq!(status("node1", &answer), "node1\t0.1.0\t3\t9\n");
    }
}
