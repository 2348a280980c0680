//! The last plans on disk, so that an agent that starts without a server goes on with them: the pods, the network
//! state and what the cluster said of itself. Written shortly after they change, in the background.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::Notify;
use waggle_model::network::NetworkState;
use waggle_wire::v1;

use crate::AgentError;
use crate::folder::{read, write};
use crate::network::Network;
use crate::node::Cluster;

/// Changes within this time are written once.
const TOGETHER: Duration = Duration::from_millis(200);
/// Writing takes at most one part in this many of the time: what is long to write is written less often.
const SHARE: u32 = 20;
/// What is known is never older on disk than this.
const OLDEST: Duration = Duration::from_secs(10);

/// What was known when it was last written.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) cluster: Cluster,
    pub(crate) pods: v1::PodsSnapshot,
    pub(crate) network: NetworkState,
}

/// Keeps plans in a folder.
#[derive(Debug)]
pub(crate) struct Keeper {
    folder: PathBuf,
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    cluster: Option<Cluster>,
    pods: Option<v1::PodsSnapshot>,
    network: Option<Arc<Network>>,
}

impl Keeper {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            waiting: Mutex::default(),
            news: Notify::new(),
        }
    }

    /// What is on disk; nothing for what is not there.
    ///
    /// # Errors
    /// [`AgentError::Data`] for a file that can't be read or holds something else.
    pub(crate) fn load(&self) -> Result<Known, AgentError> {
        let file = |name: &str| self.folder.join(name);
        let unusable = |name: &str, cause: String| AgentError::Data {
            operation: "use",
            path: file(name),
            cause: format!("{cause}; remove it, the server will send it again"),
        };
        let mut known = Known::default();
        if let Some(bytes) = read(&file("cluster.json"))? {
            known.cluster = serde_json::from_slice(&bytes)
                .map_err(|e| unusable("cluster.json", e.to_string()))?;
        }
        if let Some(bytes) = read(&file("pods.bin"))? {
            known.pods = v1::PodsSnapshot::decode(Bytes::from(bytes))
                .map_err(|e| unusable("pods.bin", e.to_string()))?;
        }
        if let Some(bytes) = read(&file("network.bin"))? {
            known.network = waggle_wire::decode_snapshot(Bytes::from(bytes))
                .map_err(|e| unusable("network.bin", e.to_string()))?;
        }
        Ok(known)
    }

    fn change(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.news.notify_one();
    }

    pub(crate) fn cluster(&self, cluster: Cluster) {
        self.change(|w| w.cluster = Some(cluster));
    }

    pub(crate) fn pods(&self, pods: v1::PodsSnapshot) {
        self.change(|w| w.pods = Some(pods));
    }

    pub(crate) fn network(&self, network: Arc<Network>) {
        self.change(|w| w.network = Some(network));
    }

    /// Writes for as long as it runs.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut pause = TOGETHER;
        loop {
            self.news.notified().await;
            tokio::time::sleep(pause).await;
            let keeper = Arc::clone(&self);
            let started = std::time::Instant::now();
            let written = tokio::task::spawn_blocking(move || keeper.write_now()).await;
            if let Ok(Err(error)) = written {
                tracing::error!(%error, "the last plan can't be kept on disk");
            }
            pause = (started.elapsed() * SHARE).clamp(TOGETHER, OLDEST);
        }
    }

    /// Writes what waits.
    pub(crate) fn write_now(&self) -> Result<(), AgentError> {
        let waiting =
            std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(cluster) = waiting.cluster {
            let json = serde_json::to_vec(&cluster).unwrap_or_default();
            write(&self.folder.join("cluster.json"), &json, 0o600)?;
        }
        if let Some(pods) = waiting.pods {
            write(&self.folder.join("pods.bin"), &pods.encode_to_vec(), 0o600)?;
        }
        if let Some(network) = waiting.network {
            write(
                &self.folder.join("network.bin"),
                &network.read(waggle_wire::encode_snapshot),
                0o600,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let keeper = Keeper::new(folder.path().to_owned());
        assert_eq!(keeper.load().unwrap().pods, v1::PodsSnapshot::default());
        let cluster = Cluster {
            epoch: "e".into(),
            dns_vip: "10.96.0.10".parse().ok(),
            ..Cluster::default()
        };
        let pods = v1::PodsSnapshot {
            generation: 3,
            pods: vec![v1::PodAssignment {
                uid: "u1".into(),
                ..Default::default()
            }],
        };
        keeper.cluster(cluster.clone());
        keeper.pods(pods.clone());
        keeper.network(Arc::new(Network::new(NetworkState {
            generation: waggle_model::Generation(9),
            ..Default::default()
        })));
        keeper.write_now().unwrap();
        let known = Keeper::new(folder.path().to_owned()).load().unwrap();
        assert_eq!(
            (known.cluster, known.pods, known.network.generation.0),
            (cluster, pods, 9)
        );
        std::fs::write(folder.path().join("pods.bin"), [0xff; 9]).unwrap();
        let error = keeper.load().unwrap_err().to_string();
        assert!(error.contains("pods.bin"), "{error}");
    }
}
