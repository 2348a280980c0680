//! Pods that a node runs because their manifests are in a folder of its own: the server is told what is there, shows a pod
//! for each and has the node run it. What was running goes on without a server, as every pod does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use waggle_wire::v1;
use waggle_wire::v1::node_client::NodeClient;

use crate::node::Node;

/// Between two looks into the folder.
const PAUSE: Duration = Duration::from_secs(2);
/// Looks after which the server is told although nothing changed: what it could not do before may work by now.
const REPEAT: u32 = 5;
/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest manifest, bytes.
const LARGEST: u64 = 1 << 20;

/// Tells for as long as it runs: of `folder`, or of the node's usual one, which need not be there.
pub(crate) async fn tell(node: Arc<Node>, folder: Option<PathBuf>) {
    let needed = folder.is_some();
    let folder = folder.unwrap_or_else(|| node.folder.static_pods());
    let (mut told, mut looks, mut faults) = (None, 0, Vec::new());
    loop {
        tokio::time::sleep(PAUSE).await;
        let place = folder.clone();
        let (pods, too_large) = match tokio::task::spawn_blocking(move || read(&place)).await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) if !needed && error.kind() == std::io::ErrorKind::NotFound => {
                Default::default()
            }
            Ok(Err(error)) => {
                tracing::warn!(folder = %folder.display(), %error, "static pods stay: their folder can't be read");
                continue;
            }
            Err(error) => {
                tracing::error!(%error, "reading the static pods broke off");
                continue;
            }
        };
        looks += 1;
        let again = !pods.is_empty() && looks >= REPEAT;
        if told.as_ref() == Some(&pods) && !again {
            continue;
        }
        let Some(channel) = node.server.borrow().clone() else {
            continue;
        };
        let request = v1::StaticPodsRequest { pods: pods.clone() };
        let mut client = NodeClient::new(channel);
        let answer = tokio::time::timeout(PATIENCE, client.static_pods(request)).await;
        let said = match answer {
            Ok(Ok(reply)) => reply
                .into_inner()
                .faults
                .into_iter()
                .chain(too_large)
                .collect(),
            Ok(Err(status)) => vec![unheard(status.message())],
            Err(_) => vec![unheard("no answer")],
        };
        let heard = said
            .iter()
            .all(|fault: &v1::StaticPodFault| !fault.file.is_empty());
        if said != faults {
            for fault in &said {
                tracing::warn!(file = fault.file, "static pods: {}", fault.message);
            }
            faults = said;
        }
        if !heard {
            continue;
        }
        (told, looks) = (Some(pods), 0);
    }
}

/// The server did not take them.
fn unheard(why: &str) -> v1::StaticPodFault {
    v1::StaticPodFault {
        file: String::new(),
        message: format!("the server does not take them: {why}"),
    }
}

/// The manifests in a folder, by their files' names, and what is too large to be one. Hidden files are somebody's half-written
/// ones.
fn read(folder: &Path) -> std::io::Result<(Vec<v1::StaticPod>, Vec<v1::StaticPodFault>)> {
    let (mut found, mut too_large) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let file = entry.file_name().to_string_lossy().into_owned();
        if file.starts_with('.') {
            continue;
        }
        // What goes while it is looked at, and links to nowhere, are not there.
        let Some(manifest) = there(manifest_at(&entry.path()))? else {
            continue;
        };
        match manifest {
            Some(manifest) => found.push(v1::StaticPod {
                file,
                manifest: manifest.into(),
            }),
            None => too_large.push(v1::StaticPodFault {
                file,
                message: format!("it is larger than {LARGEST} bytes: make it smaller"),
            }),
        }
    }
    found.sort_by(|one, other| one.file.cmp(&other.file));
    Ok((found, too_large))
}

/// The content of a file; `None` of one that is too large.
fn manifest_at(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let about = std::fs::metadata(path)?;
    if !about.is_file() {
        return Err(std::io::ErrorKind::NotFound.into());
    }
    if about.len() > LARGEST {
        return Ok(None);
    }
    std::fs::read(path).map(Some)
}

fn there<T>(found: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_in_order_and_hidden_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("b.yaml", "b"), ("a.json", "a"), (".a.json.swp", "x")] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        std::fs::create_dir(folder.path().join("more")).unwrap();
        let long = vec![b' '; usize::try_from(LARGEST).unwrap() + 1];
        std::fs::write(folder.path().join("long.yaml"), long).unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("link.yaml")).unwrap();
        let (found, too_large) = read(folder.path()).unwrap();
        assert_eq!(too_large[0].file, "long.yaml");
        let names: Vec<&str> = found.iter().map(|one| one.file.as_str()).collect();
        assert_eq!(names, ["a.json", "b.yaml"]);
        assert_eq!(found[0].manifest.as_ref(), b"a");
        assert!(read(&folder.path().join("none")).is_err());
    }
}
