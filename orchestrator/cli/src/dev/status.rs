//! `waggle dev status`: the processes of a cluster and whether they work.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::down::parts;
use super::layout::{Layout, node_address};
use super::process::Process;
use super::up::readiness;
use crate::connect::Api;
use crate::get::put;
use crate::tab;

/// Runs it. Exit code 1 when something does not work.
pub(crate) fn run(layout: &Layout) -> Result<ExitCode> {
    if !layout.dir.exists() {
        put(&format!(
            "Cluster {} does not run. Start it with: waggle dev up\n",
            layout.name
        ))?;
        return Ok(ExitCode::FAILURE);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let nodes = runtime.block_on(ask(layout));
    let mut table = String::from("NAME\tSTATUS\tPID\tADDRESS\tLOG\n");
    let mut well = true;
    for part in parts(layout) {
        let process = Process::from_file(&layout.pid_file(&part));
        let (address, health) = describe(&part, &nodes);
        let status = if process.is_none() {
            "Stopped".to_owned()
        } else {
            health
        };
        well &= status == "Ready" || status == "Running";
        let pid = process.map_or_else(|| "-".to_owned(), |process| process.pid.to_string());
        table.push_str(&format!(
            "{part}\t{status}\t{pid}\t{address}\t{}\n",
            layout.log(&part).display()
        ));
    }
    put(&tab::align(&table, 6, 3))?;
    if let Err(error) = &nodes {
        eprintln!("error: {error:#}");
    }
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The API's address and its nodes.
async fn ask(layout: &Layout) -> Result<(String, Value)> {
    let api = Api::from_file(&layout.kubeconfig(), None).await?;
    let nodes = tokio::time::timeout(Duration::from_secs(5), api.get("/api/v1/nodes"))
        .await
        .context("the API does not answer within 5 s")??;
    Ok((api.server().to_owned(), nodes))
}

/// Address and health of a part whose process runs.
fn describe(part: &str, nodes: &Result<(String, Value)>) -> (String, String) {
    let word =
        |result: Result<(), String>| if result.is_ok() { "Ready" } else { "NotReady" }.to_owned();
    let number = part
        .strip_prefix("node")
        .and_then(|digits| digits.parse::<u16>().ok());
    match (number, nodes) {
        (Some(number), Ok((_, nodes))) => (
            node_address(number).to_string(),
            word(readiness(nodes, part)),
        ),
        (Some(number), Err(_)) => (node_address(number).to_string(), "Unknown".to_owned()),
        (None, Ok((server, _))) if part == "server" => (server.clone(), "Ready".to_owned()),
        (None, Err(_)) if part == "server" => ("-".to_owned(), "NotReady".to_owned()),
        (None, _) if part.starts_with("server") => ("-".to_owned(), "Running".to_owned()),
        (None, _) => (
            part.trim_start_matches("door-").to_owned(),
            "Running".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_part_has_its_health() {
        let nodes = json!({"items": [{"metadata": {"name": "node1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}]});
        let up = Ok(("https://127.0.0.1:6443".to_owned(), nodes));
        let down = Err(anyhow::anyhow!("refused"));
        let check = |part: &str, nodes: &Result<(String, Value)>, address: &str, health: &str| {
            assert_eq!(
                describe(part, nodes),
                (address.to_owned(), health.to_owned()),
                "{part}"
            );
        };
        check("server", &up, "https://127.0.0.1:6443", "Ready");
        check("server", &down, "-", "NotReady");
        check("node1", &up, "172.30.0.11", "Ready");
        check("node2", &up, "172.30.0.12", "NotReady");
        check("node2", &down, "172.30.0.12", "Unknown");
        check("door-8080", &down, "8080", "Running");
    }
}
