//! Removes the data of local volumes that were given back, when the server says so, and tells it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use waggle_runtime::mount_table::unmount_below;
use waggle_wire::v1;
use waggle_wire::v1::node_client::NodeClient;

use crate::node::Node;

/// Between two questions.
const PAUSE: Duration = Duration::from_secs(10);
/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks and removes for as long as it runs.
pub(crate) async fn run(node: Arc<Node>) {
    let mut removed = Vec::new();
    loop {
        tokio::time::sleep(PAUSE).await;
        let Some(channel) = node.server.borrow().clone() else {
            continue;
        };
        // What was removed is told until the server has it from its list.
        loop {
            let request = v1::VolumesRequest {
                removed: std::mem::take(&mut removed),
            };
            let mut client = NodeClient::new(channel.clone());
            let answer = tokio::time::timeout(PATIENCE, client.volumes(request)).await;
            let Ok(Ok(reply)) = answer else { break };
            let folder = node.folder.volumes();
            for name in reply.into_inner().remove {
                let place = folder.clone();
                let volume = name.clone();
                let done = tokio::task::spawn_blocking(move || remove(&place, &volume)).await;
                match done {
                    Ok(Ok(())) => removed.push(name),
                    Ok(Err(error)) => {
                        tracing::error!(volume = name, %error, "the data of a volume can't be removed");
                    }
                    Err(error) => tracing::error!(%error, "removing a volume broke off"),
                }
            }
            if removed.is_empty() {
                break;
            }
        }
    }
}

/// Removes a volume's folder; none is as good.
fn remove(folder: &Path, name: &str) -> std::io::Result<()> {
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    let folder = folder.join(name);
    // What privileged containers mounted there is not the volume's.
    unmount_below(&folder)?;
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => {
            tracing::info!(volume = name, "removed the data of a volume");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_removed_and_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["pvc-1", "pvc-2"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("x"), "x").unwrap();
        }
        remove(folder.path(), "pvc-1").unwrap();
        remove(folder.path(), "pvc-1").unwrap();
        assert!(!folder.path().join("pvc-1").exists());
        assert!(folder.path().join("pvc-2/x").exists());
        for name in ["", ".", "..", "../x", "/etc"] {
            assert!(remove(folder.path(), name).is_err(), "{name}");
        }
    }
}
