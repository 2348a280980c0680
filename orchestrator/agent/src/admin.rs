//! The node's own socket, `DATA/agent.sock`, for `waggle image` on this machine. Only root gets in (mode 0600).
//!
//! One JSON object a line, one request a connection:
//!
//! | request | answers |
//! | --- | --- |
//! | `{"op":"import","path":"/abs/olute/path","name":"optional name"}` | `{"images":[{"name":…,"digest":…,"size":…}]}` |
//! | `{"op":"pull","image":"registry/name:tag"}` | any number of `{"progress":"sha256:… 12/34 kB"}`, then as above |
//! | `{"op":"list"}` | `{"images":[…]}`, one entry a name |
//! | `{"op":"drops"}` | `{"verdicts":[{"reason":…,"text":…,"packets":n,"bytes":n}]}`, one entry a reason |
//! | `{"op":"status"}` | `{"node":…,"version":…,"pods":n,"network_generation":n,"epoch":…}` |
//!
//! Every failure is one `{"error":"what went wrong"}`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use waggle_runtime::images::{Image, LayerState, PullProgress};

use crate::AgentError;
use crate::node::Node;
use crate::pods::table::Table;

/// Longest request, bytes.
const LONGEST: u64 = 64 << 10;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
enum Request {
    Import { path: PathBuf, name: Option<String> },
    Pull { image: String },
    List {},
    Drops {},
    Status {},
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Line {
    Progress {
        progress: String,
    },
    Images {
        images: Vec<Row>,
    },
    Verdicts {
        verdicts: Vec<Verdict>,
    },
    Status {
        node: String,
        version: String,
        pods: usize,
        network_generation: u64,
        epoch: String,
    },
    Error {
        error: String,
    },
}

/// An image under one of its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Row {
    name: String,
    digest: String,
    size: u64,
}

/// How often the datapath gave one verdict, since the node's counters were made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Verdict {
    reason: String,
    text: &'static str,
    packets: u64,
    bytes: u64,
}

/// Binds the socket, in place of what an agent left that is gone.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, AgentError> {
    let fault = |operation: &'static str| {
        let path = path.to_owned();
        move |error: std::io::Error| AgentError::Data {
            operation,
            path,
            cause: error.to_string(),
        }
    };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(fault("replace")(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(fault("listen on"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(fault("protect"))?;
    Ok(listener)
}

/// Answers for as long as it runs.
pub(crate) async fn serve(listener: UnixListener, node: Arc<Node>, table: Table) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (node, table) = (Arc::clone(&node), table.clone());
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, &node, &table).await {
                        tracing::debug!(%error, "a caller of the agent's socket went away");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the agent's socket fails");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, node: &Node, table: &Table) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    tokio::io::AsyncReadExt::take(BufReader::new(reader), LONGEST)
        .read_line(&mut line)
        .await?;
    let (sender, mut lines) = mpsc::unbounded_channel();
    let done = async {
        let last = match serde_json::from_str::<Request>(&line) {
            Ok(request) => carry_out(request, node, table, &sender).await,
            Err(error) => Err(format!("the request is not understood: {error}")),
        };
        drop(sender.send(last.unwrap_or_else(|error| Line::Error { error })));
        drop(sender);
    };
    let write = async {
        while let Some(line) = lines.recv().await {
            let mut json = serde_json::to_vec(&line)?;
            json.push(b'\n');
            writer.write_all(&json).await?;
        }
        writer.shutdown().await
    };
    let ((), written) = tokio::join!(done, write);
    written
}

async fn carry_out(
    request: Request,
    node: &Node,
    table: &Table,
    progress: &mpsc::UnboundedSender<Line>,
) -> Result<Line, String> {
    let store = &node.images;
    match request {
        Request::Import { path, name } => {
            let names = store
                .import(&path, name.as_deref())
                .await
                .map_err(|e| e.to_string())?;
            table.image_added();
            let find = |name: &String| {
                store
                    .resolve(name)
                    .ok()
                    .flatten()
                    .map(|image| (name.clone(), image))
            };
            let images = names
                .iter()
                .filter_map(find)
                .map(|(name, image)| row(name, &image))
                .collect();
            Ok(Line::Images { images })
        }
        Request::Pull { image } => {
            let sender = progress.clone();
            let tell = move |step: PullProgress| {
                drop(sender.send(Line::Progress {
                    progress: text(&step),
                }))
            };
            let pulled = store
                .pull(&image, &node.pull, tell)
                .await
                .map_err(|e| e.to_string())?;
            table.image_added();
            Ok(Line::Images {
                images: rows(&pulled),
            })
        }
        Request::List {} => {
            let store = store.clone();
            let listed = tokio::task::spawn_blocking(move || store.list())
                .await
                .map_err(|e| e.to_string())?;
            let images = listed.map_err(|e| e.to_string())?;
            Ok(Line::Images {
                images: images.iter().flat_map(rows).collect(),
            })
        }
        Request::Drops {} => {
            let tallies = node.datapath.counters().map_err(|e| e.to_string())?;
            let verdict = |tally: &waggle_datapath::Tally| Verdict {
                reason: format!("{:?}", tally.reason),
                text: tally.reason.text(),
                packets: tally.packets,
                bytes: tally.bytes,
            };
            Ok(Line::Verdicts {
                verdicts: tallies.iter().map(verdict).collect(),
            })
        }
        Request::Status {} => Ok(Line::Status {
            node: node.name.clone(),
            version: node.version.clone(),
            pods: table.count(),
            network_generation: node.network.generation().0,
            epoch: node.cluster.borrow().epoch.clone(),
        }),
    }
}

fn row(name: String, image: &Image) -> Row {
    Row {
        name,
        digest: image.id.clone(),
        size: image.size,
    }
}

/// An image once for each of its names, or once without.
fn rows(image: &Image) -> Vec<Row> {
    if image.names.is_empty() {
        return vec![row("<none>".to_owned(), image)];
    }
    image
        .names
        .iter()
        .map(|name| row(name.clone(), image))
        .collect()
}

fn text(step: &PullProgress) -> String {
    let layer: String = step.layer.chars().take("sha256:".len() + 12).collect();
    match step.state {
        LayerState::Exists => format!("{layer} already here"),
        LayerState::Fetching { done, total } => {
            format!("{layer} {}/{} kB", done / 1000, total / 1000)
        }
        LayerState::Done => format!("{layer} done"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_have_the_documented_form() {
        let read = |text: &str| serde_json::from_str::<Request>(text);
        assert_eq!(read(r#"{"op":"list"}"#).unwrap(), Request::List {});
        assert_eq!(
            read(r#"{"op":"import","path":"/x"}"#).unwrap(),
            Request::Import {
                path: "/x".into(),
                name: None
            }
        );
        assert_eq!(
            read(r#"{"op":"pull","image":"a:1"}"#).unwrap(),
            Request::Pull {
                image: "a:1".into()
            }
        );
        assert!(read(r#"{"op":"remove"}"#).is_err());
        let write = |line: &Line| serde_json::to_string(line).unwrap();
        let images = Line::Images {
            images: vec![Row {
                name: "a:1".into(),
                digest: "sha256:x".into(),
                size: 5,
            }],
        };
        assert_eq!(
            write(&images),
            r#"{"images":[{"name":"a:1","digest":"sha256:x","size":5}]}"#
        );
        assert_eq!(
            write(&Line::Error { error: "no".into() }),
            r#"{"error":"no"}"#
        );
    }
}
