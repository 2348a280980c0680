//! The session with a server: dials out, says what this node has, takes plans and tells what it sees. When the session
//! ends, pods and datapath go on; it is dialled again, more and more slowly, at each server in turn.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use waggle_model::network::PerFamily;
use waggle_wire::Pieces;
use waggle_wire::v1;
use waggle_wire::v1::from_agent::Message as Up;
use waggle_wire::v1::from_server::Message as Down;
use waggle_wire::v1::node_client::NodeClient;

use crate::AgentError;
use crate::clock;
use crate::enrol::{Enrolment, JoinFault, NodeIdentity};
use crate::node::{Cluster, Node};
use crate::persist::Keeper;
use crate::pods::desired::Desired;
use crate::pods::table::Table;
use crate::streams;

/// First and longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// How long a server may take to say which pods are wanted, if it has anything new to say.
const SETTLED: Duration = Duration::from_secs(5);
/// Messages on their way up.
const QUEUE: usize = 64;
/// Largest message from a server, bytes.
const LARGEST: usize = 256 << 20;

/// The node's side of its sessions.
pub(crate) struct Session {
    pub(crate) node: Arc<Node>,
    pub(crate) table: Table,
    pub(crate) enrolment: Enrolment,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) addresses: PerFamily<IpAddr>,
    pub(crate) labels: BTreeMap<String, String>,
    /// The pods as last told, by UID.
    pub(crate) pods: BTreeMap<String, v1::PodAssignment>,
    pub(crate) pods_generation: u64,
    /// Of a network state that has not come to its end.
    pub(crate) pieces: Pieces,
}

/// Why a session ended.
enum Ended {
    /// The certificate was renewed; go on at once.
    Renewed(Box<NodeIdentity>),
    /// After it had begun.
    Lost(String),
    /// Before the server said welcome.
    Never(String),
}

impl Session {
    /// Keeps a session for as long as it runs.
    ///
    /// # Errors
    /// [`AgentError::Join`] when the cluster refuses this node for good.
    pub(crate) async fn run(mut self, kept: Option<NodeIdentity>) -> Result<(), AgentError> {
        let mut identity = match kept {
            Some(identity) => identity,
            None => join(&self.enrolment).await?,
        };
        let mut pause = PAUSES.0;
        let mut turn = 0;
        loop {
            self.node.server.send_replace(None);
            let server = self.enrolment.servers[turn % self.enrolment.servers.len()].clone();
            let why = match self.once(&server, &identity).await {
                Ended::Renewed(fresh) => {
                    tracing::info!("certificate renewed");
                    identity = *fresh;
                    continue;
                }
                Ended::Lost(why) => {
                    pause = PAUSES.0;
                    why
                }
                Ended::Never(why) => {
                    turn += 1;
                    why
                }
            };
            tracing::warn!(
                server,
                why,
                pods = self.table.count(),
                "no session with a server; pods and network go on"
            );
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn once(&mut self, server: &str, identity: &NodeIdentity) -> Ended {
        let channel = match identity.connect(server).await {
            Ok(channel) => channel,
            Err(why) => return Ended::Never(why),
        };
        let mut client = NodeClient::new(channel.clone()).max_decoding_message_size(LARGEST);
        let (up, messages) = mpsc::channel(QUEUE);
        let hello = v1::FromAgent {
            message: Some(Up::Hello(self.hello())),
        };
        drop(up.send(hello).await);
        let mut inbound = match client.session(ReceiverStream::new(messages)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Ended::Never(status.message().to_owned()),
        };
        let renew = tokio::time::sleep(identity.renew_in(clock::seconds()));
        tokio::pin!(renew);
        self.pieces = Pieces::default();
        let outbox = Arc::clone(&self.node.outbox);
        outbox.restart();
        let tell = async {
            loop {
                for message in outbox.take().await {
                    if up.send(message).await.is_err() {
                        // The stream has ended; the reading side will say why.
                        std::future::pending::<()>().await;
                    }
                }
            }
        };
        tokio::pin!(tell);
        // A session that goes on where the last one ended brings no list of pods: none within this time confirms ours.
        let settled = tokio::time::sleep(SETTLED);
        tokio::pin!(settled);
        let mut welcome = false;
        let mut confirmed = false;
        loop {
            tokio::select! {
                message = inbound.message() => match message {
                    Ok(Some(message)) => {
                        if let Err(why) = self.take(message, &channel, &mut welcome) {
                            return Ended::Lost(why);
                        }
                    }
                    Ok(None) => return ended(welcome, "the server ended the session".to_owned()),
                    Err(status) => return ended(welcome, status.message().to_owned()),
                },
                () = &mut renew => match self.enrolment.renew(identity, channel.clone()).await {
                    Ok(fresh) => return Ended::Renewed(Box::new(fresh)),
                    Err(why) => {
                        tracing::warn!(why, "the certificate can't be renewed yet");
                        renew.as_mut().reset(tokio::time::Instant::now() + Duration::from_secs(60));
                    }
                },
                () = &mut tell, if welcome => {}
                () = &mut settled, if welcome && !confirmed => {
                    confirmed = true;
                    self.table.confirm();
                }
            }
        }
    }

    fn hello(&self) -> v1::Hello {
        let boot_id =
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        v1::Hello {
            node: self.node.name.clone(),
            agent_version: self.node.version.clone(),
            boot_id: boot_id.trim().to_owned(),
            pods_generation: self.pods_generation,
            network_generation: self.node.network.generation().0,
            epoch: self.node.cluster.borrow().epoch.clone(),
            address: self.addresses.to_string(),
            labels: self.labels.clone().into_iter().collect(),
            volumes_folder: self.node.folder.volumes().to_string_lossy().into_owned(),
        }
    }

    /// Takes one message; an error ends the session.
    fn take(
        &mut self,
        message: v1::FromServer,
        channel: &Channel,
        welcome: &mut bool,
    ) -> Result<(), String> {
        match message.message {
            Some(Down::Welcome(said)) => {
                // A second one in a session changes how often this node is to speak.
                if !std::mem::replace(welcome, true) {
                    self.node.server.send_replace(Some(channel.clone()));
                    let resumed = self.node.cluster.borrow().epoch == said.epoch;
                    tracing::info!(epoch = said.epoch, resumed, "session with a server");
                }
                self.welcome(said);
                Ok(())
            }
            Some(Down::PodsSnapshot(snapshot)) => {
                self.pods = snapshot
                    .pods
                    .into_iter()
                    .map(|pod| (pod.uid.clone(), pod))
                    .collect();
                self.pods_generation = snapshot.generation;
                self.table.set(decode(self.pods.values()), true);
                self.keep_pods();
                Ok(())
            }
            Some(Down::PodsDelta(delta)) => {
                for pod in delta.removals {
                    self.pods.remove(&pod.uid);
                    self.table.remove(&pod.uid);
                }
                decode(delta.upserts.iter())
                    .into_iter()
                    .for_each(|pod| self.table.upsert(pod));
                self.pods
                    .extend(delta.upserts.into_iter().map(|pod| (pod.uid.clone(), pod)));
                self.pods_generation = delta.generation;
                self.keep_pods();
                Ok(())
            }
            Some(Down::NetworkPiece(piece)) => {
                self.pieces.take(&piece).map_err(|error| error.to_string())
            }
            Some(Down::NetworkSnapshot(rest)) => {
                let bytes = self.pieces.whole(rest);
                let state =
                    waggle_wire::decode_snapshot(bytes).map_err(|error| error.to_string())?;
                self.node.network.replace(state);
                self.keep_network();
                Ok(())
            }
            Some(Down::NetworkDelta(rest)) => {
                let bytes = self.pieces.whole(rest);
                self.network_delta(bytes)
            }
            Some(Down::OpenStream(request)) => {
                streams::open(&self.node, &self.table, channel.clone(), request);
                Ok(())
            }
            None => {
                tracing::warn!("the server sent a message that this version does not know");
                Ok(())
            }
        }
    }

    fn welcome(&mut self, said: v1::Welcome) {
        let cluster = Cluster::from(said);
        self.node.cluster.send_if_modified(|known| {
            let changed = *known != cluster;
            *known = cluster.clone();
            changed
        });
        self.keeper.cluster(cluster);
    }

    fn network_delta(&mut self, bytes: bytes::Bytes) -> Result<(), String> {
        let delta = waggle_wire::decode_delta(bytes).map_err(|error| error.to_string())?;
        let advanced = self.node.network.advance(delta);
        advanced.map_err(|gap| gap.to_string())?;
        self.keep_network();
        Ok(())
    }

    fn keep_pods(&self) {
        let generation = self.pods_generation;
        let pods = self.pods.values().cloned().collect();
        self.keeper.pods(v1::PodsSnapshot { generation, pods });
        self.node.outbox.ack(|ack| ack.pods_generation = generation);
    }

    fn keep_network(&self) {
        self.keeper.network(Arc::clone(&self.node.network));
    }
}

/// Joins the cluster, as soon as a server answers.
///
/// # Errors
/// [`AgentError::Join`] when the cluster refuses this node for good.
pub(crate) async fn join(enrolment: &Enrolment) -> Result<NodeIdentity, AgentError> {
    let mut pause = PAUSES.0;
    loop {
        match enrolment.join().await {
            Ok(identity) => {
                tracing::info!(node = %enrolment.node, "joined the cluster");
                return Ok(identity);
            }
            Err(JoinFault::Refused(why)) => return Err(AgentError::Join(why)),
            Err(JoinFault::Later(why)) => tracing::warn!(why, "can't join yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

fn ended(welcome: bool, why: String) -> Ended {
    if welcome {
        Ended::Lost(why)
    } else {
        Ended::Never(why)
    }
}

/// Assignments that can be read; the others are told and left out.
pub(crate) fn decode<'a>(pods: impl Iterator<Item = &'a v1::PodAssignment>) -> Vec<Desired> {
    pods.filter_map(|pod| match Desired::try_from(pod.clone()) {
        Ok(pod) => Some(pod),
        Err(error) => {
            tracing::error!(%error, "a pod can't be taken on");
            None
        }
    })
    .collect()
}
