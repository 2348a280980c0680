//! `waggle image`: brings images to the nodes of a cluster on this machine, through each agent's own socket
//! (`DATA/agent.sock`, one JSON object a line, see the agent's `admin`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::dev::{Which, layout};
use crate::get::put;
use crate::tab;

/// Arguments of `image`.
#[derive(Debug, clap::Args)]
pub struct ImageArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    which: Which,
    /// Nodes, `node1`; else all of the cluster
    #[arg(long, global = true, value_name = "NAME")]
    node: Vec<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Bring in images from an OCI layout (folder or tar) or a docker archive
    Import {
        /// Folder or file; may be given more than once
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Pull an image from its registry
    Pull {
        /// `registry/name:tag`
        image: String,
    },
    /// List the images of the nodes
    #[command(alias = "ls")]
    List,
}

/// Runs it.
pub(crate) async fn run(args: ImageArgs) -> Result<ExitCode> {
    let sockets = sockets(&args.which, &args.node)?;
    match &args.action {
        Action::Import { paths } => {
            for path in paths {
                let path = path
                    .canonicalize()
                    .with_context(|| format!("cannot find {}", path.display()))?;
                on_all(&sockets, &json!({"op": "import", "path": path})).await?;
            }
        }
        Action::Pull { image } => on_all(&sockets, &json!({"op": "pull", "image": image})).await?,
        Action::List => put(&list(&sockets).await?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The agents' sockets of the wanted nodes, of all if none is named.
pub(crate) fn sockets(which: &Which, wanted: &[String]) -> Result<BTreeMap<String, PathBuf>> {
    let layout = layout(which)?;
    let all: BTreeMap<String, PathBuf> = layout
        .nodes()
        .into_iter()
        .map(|node| {
            (
                format!("node{node}"),
                layout.node_dir(node).join("agent.sock"),
            )
        })
        .collect();
    if all.is_empty() {
        bail!(
            "there is no cluster {} on this machine: start it with `waggle dev up`",
            layout.name
        );
    }
    if let Some(unknown) = wanted.iter().find(|name| !all.contains_key(*name)) {
        let names: Vec<&str> = all.keys().map(String::as_str).collect();
        bail!(
            "the cluster {} has no node {unknown:?}: it has {}",
            layout.name,
            names.join(", ")
        );
    }
    Ok(all
        .into_iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.contains(name))
        .collect())
}

/// The same request to every node at once; prints what each did.
async fn on_all(sockets: &BTreeMap<String, PathBuf>, request: &Value) -> Result<()> {
    let asking = sockets
        .iter()
        .map(|(node, socket)| async move { (node, ask(socket, request).await) });
    let mut faults = Vec::new();
    for (node, answer) in futures::future::join_all(asking).await {
        match answer {
            Ok(answer) => {
                for image in answer["images"].as_array().into_iter().flatten() {
                    let (name, digest) = (
                        image["name"].as_str().unwrap_or_default(),
                        image["digest"].as_str().unwrap_or_default(),
                    );
                    put(&format!("{node}: {name} {digest}\n"))?;
                }
            }
            Err(error) => faults.push(format!("{node}: {error:#}")),
        }
    }
    if faults.is_empty() {
        Ok(())
    } else {
        bail!("{}", faults.join("; "))
    }
}

async fn list(sockets: &BTreeMap<String, PathBuf>) -> Result<String> {
    let mut rows: BTreeMap<(String, String, i64), Vec<&str>> = BTreeMap::new();
    for (node, socket) in sockets {
        let answer = ask(socket, &json!({"op": "list"}))
            .await
            .with_context(|| format!("cannot list the images of {node}"))?;
        for image in answer["images"].as_array().into_iter().flatten() {
            let text = |field: &str| image[field].as_str().unwrap_or_default().to_owned();
            let key = (
                text("name"),
                text("digest"),
                image["size"].as_i64().unwrap_or(0),
            );
            rows.entry(key).or_default().push(node);
        }
    }
    Ok(table(&rows))
}

fn table(rows: &BTreeMap<(String, String, i64), Vec<&str>>) -> String {
    let mut text = String::from("IMAGE\tDIGEST\tSIZE\tNODES\n");
    for ((name, digest, size), nodes) in rows {
        let short: String = digest.chars().take("sha256:".len() + 12).collect();
        text.push_str(&format!(
            "{name}\t{short}\t{}\t{}\n",
            human_size(*size),
            nodes.join(",")
        ));
    }
    tab::align(&text, 6, 3)
}

/// Bytes in the largest fitting unit, as image tools print them.
fn human_size(bytes: i64) -> String {
    let mut amount = bytes as f64;
    for unit in ["B", "kB", "MB"] {
        if amount < 1000.0 {
            return if unit == "B" {
                format!("{bytes}B")
            } else {
                format!("{amount:.1}{unit}")
            };
        }
        amount /= 1000.0;
    }
    format!("{amount:.2}GB")
}

/// One request, one answer.
pub(crate) async fn ask(socket: &Path, request: &Value) -> Result<Value> {
    let mut stream = UnixStream::connect(socket).await.with_context(|| {
        format!(
            "cannot reach the agent at {} (does it run? `waggle dev status`)",
            socket.display()
        )
    })?;
    stream
        .write_all(format!("{request}\n").as_bytes())
        .await
        .context("cannot ask the agent")?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next_line().await.context("the agent broke off")? {
        let answer: Value = serde_json::from_str(&line)
            .context("the agent answered with something that is no JSON")?;
        if let Some(error) = answer["error"].as_str() {
            bail!("{error}");
        }
        if answer["progress"].is_null() {
            return Ok(answer);
        }
    }
    Err(anyhow!("the agent ended without an answer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_listed_with_their_nodes() {
        let key = (
            "shop/redis:7".to_owned(),
            format!("sha256:{}", "a".repeat(64)),
            12_345_678,
        );
        let rows = BTreeMap::from([(key, vec!["node1", "node2"])]);
        assert_eq!(
            table(&rows),
            "IMAGE          DIGEST                SIZE     NODES\nshop/redis:7   sha256:aaaaaaaaaaaa   12.3MB   node1,node2\n"
        );
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1500, "1.5kB"),
            (2_500_000_000, "2.50GB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
    }
}
