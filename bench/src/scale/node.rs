//! A node that runs nothing: it joins, holds a session as an agent does, says that its pods run and that it has what it
//! was told, and beats.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use prost::Message as _;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use waggle_wire::Pieces;
use waggle_wire::v1;
use waggle_wire::v1::enrolment_client::EnrolmentClient;
use waggle_wire::v1::from_agent::Message as Up;
use waggle_wire::v1::from_server::Message as Down;
use waggle_wire::v1::node_client::NodeClient;

use crate::sight::Sight;

/// As an agent's.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Largest message from a server, in bytes.
const LARGEST: usize = 1 << 30;

/// Where nodes dial in, and what they trust.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) url: String,
    pub(crate) authority: String,
    pub(crate) token: String,
}

/// Who a node is.
pub(crate) struct Name {
    pub(crate) node: String,
    pub(crate) address: String,
    identity: Identity,
}

/// What is known of a node from outside.
#[derive(Default)]
pub(crate) struct Standing {
    /// Network generation that it has acknowledged.
    pub(crate) acknowledged: AtomicU64,
    /// Ends it, as when its machine is gone.
    pub(crate) stop: CancellationToken,
}

/// The generation of a whole network state, without the rest.
#[derive(Clone, PartialEq, prost::Message)]
struct StateHead {
    #[prost(uint64, tag = "1")]
    generation: u64,
}

/// The generation that a step leads to, without the rest.
#[derive(Clone, PartialEq, prost::Message)]
struct StepHead {
    #[prost(uint64, tag = "2")]
    generation: u64,
}

impl Gate {
    fn endpoint(&self, tls: ClientTlsConfig) -> Result<Endpoint> {
        let authority = Certificate::from_pem(&self.authority);
        Ok(Endpoint::from_shared(self.url.clone())?
            .tls_config(tls.ca_certificate(authority))?
            .tcp_nodelay(true)
            .tcp_keepalive(Some(TCP_KEEP_ALIVE))
            .tcp_keepalive_interval(Some(Duration::from_secs(1)))
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(Duration::from_secs(60))
            .keep_alive_while_idle(true))
    }

    /// A connection to join through.
    pub(crate) async fn desk(&self) -> Result<EnrolmentClient<Channel>> {
        let channel = self.endpoint(ClientTlsConfig::new())?.connect().await?;
        Ok(EnrolmentClient::new(channel))
    }

    /// Buys node number `number` its certificate.
    pub(crate) async fn join(
        &self,
        desk: &mut EnrolmentClient<Channel>,
        number: usize,
    ) -> Result<Name> {
        let node = format!("n{number}");
        let key = KeyPair::generate()?;
        let csr = CertificateParams::new(vec![node.clone()])?.serialize_request(&key)?;
        let request = v1::JoinRequest {
            token: self.token.clone(),
            node: node.clone(),
            csr_pem: csr.pem()?,
        };
        let reply = desk.join(request).await?.into_inner();
        Ok(Name {
            address: format!(
                "172.{}.{}.{}",
                20 + number / 62_500,
                number / 250 % 250,
                number % 250 + 1
            ),
            identity: Identity::from_pem(reply.certificate_pem, key.serialize_pem()),
            node,
        })
    }

    /// Holds a session until it ends or the node is stopped; says at the first list of pods that it is up.
    pub(crate) async fn live(
        &self,
        name: Name,
        standing: Arc<Standing>,
        sight: Arc<Sight>,
        up: mpsc::Sender<()>,
    ) -> Result<()> {
        let tls = ClientTlsConfig::new().identity(name.identity.clone());
        let channel = self.endpoint(tls)?.connect().await?;
        let (say, messages) = mpsc::channel(64);
        let hello = v1::Hello {
            node: name.node.clone(),
            agent_version: "0.1.0".into(),
            address: name.address.clone(),
            ..v1::Hello::default()
        };
        let mut session = Session {
            say,
            standing: Arc::clone(&standing),
            sight,
            acknowledged: v1::Ack::default(),
            known: HashSet::new(),
            pieces: Pieces::default(),
            up: Some(up),
        };
        session.tell(Up::Hello(hello)).await?;
        let mut client = NodeClient::new(channel).max_decoding_message_size(LARGEST);
        let answer = client.session(ReceiverStream::new(messages)).await?;
        let mut down = answer.into_inner();
        let status: Bytes = status(&name).to_string().into();
        let mut pause = Duration::from_secs(3600);
        let mut last = Instant::now();
        loop {
            tokio::select! {
                () = standing.stop.cancelled() => return Ok(()),
                message = down.message() => {
                    let message = message?.context("the server ended the session")?;
                    if let Some(Down::Welcome(welcome)) = &message.message {
                        let first = pause > Duration::from_secs(60);
                        pause = Duration::from_secs(welcome.heartbeat_seconds.into());
                        if first {
                            last = Instant::now() - pause;
                        }
                    } else {
                        session.take(message).await?;
                    }
                }
                () = tokio::time::sleep_until(last + pause) => {
                    last = Instant::now();
                    let status_json = status.clone();
                    session.tell(Up::NodeStatus(v1::NodeStatus { status_json })).await?;
                    session.tell(Up::Usage(v1::Usage::default())).await?;
                }
            }
        }
    }
}

struct Session {
    say: mpsc::Sender<v1::FromAgent>,
    standing: Arc<Standing>,
    sight: Arc<Sight>,
    acknowledged: v1::Ack,
    /// Pods that it has, by uid.
    known: HashSet<String>,
    /// Of a network state that has not come to its end.
    pieces: Pieces,
    up: Option<mpsc::Sender<()>>,
}

impl Session {
    async fn tell(&self, message: Up) -> Result<()> {
        let message = Some(message);
        let said = self.say.send(v1::FromAgent { message }).await;
        said.ok().context("the session is over")
    }

    async fn take(&mut self, message: v1::FromServer) -> Result<()> {
        match message.message {
            Some(Down::NetworkPiece(piece)) => self.pieces.take(&piece)?,
            Some(Down::NetworkSnapshot(rest)) => {
                let bytes = self.pieces.whole(rest);
                let generation = StateHead::decode(bytes.clone())?.generation;
                self.sight.snapshot(generation, bytes);
                self.network(generation).await?;
            }
            Some(Down::NetworkDelta(rest)) => {
                let bytes = self.pieces.whole(rest);
                let generation = StepHead::decode(bytes.clone())?.generation;
                self.sight.delta(generation, bytes);
                self.network(generation).await?;
            }
            Some(Down::PodsSnapshot(all)) => {
                self.acknowledged.pods_generation = all.generation;
                self.pods(all.pods).await?;
                if let Some(up) = self.up.take() {
                    up.send(()).await.ok().context("nobody waits")?;
                }
            }
            Some(Down::PodsDelta(delta)) => {
                self.acknowledged.pods_generation = delta.generation;
                for pod in delta.removals {
                    self.known.remove(&pod.uid);
                }
                self.pods(delta.upserts).await?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn network(&mut self, generation: u64) -> Result<()> {
        self.acknowledged.network_generation = generation;
        self.tell(Up::Ack(self.acknowledged.clone())).await?;
        let known = &self.standing.acknowledged;
        known.fetch_max(generation, Ordering::Relaxed);
        Ok(())
    }

    /// What is new runs at once, what is to end is gone at once.
    async fn pods(&mut self, pods: Vec<v1::PodAssignment>) -> Result<()> {
        for pod in pods {
            let object: Value = serde_json::from_slice(&pod.pod_json)?;
            let (namespace, name, uid) = (pod.namespace, pod.name, pod.uid);
            if object["metadata"]["deletionTimestamp"].is_string() {
                let gone = v1::PodGone {
                    namespace,
                    name,
                    uid,
                };
                self.tell(Up::PodGone(gone)).await?;
            } else if self.known.insert(uid.clone()) {
                self.sight.starts(&pod.address);
                let status_json = running(&object).to_string().into();
                let status = v1::PodStatus {
                    namespace,
                    name,
                    uid,
                    status_json,
                };
                self.tell(Up::PodStatus(status)).await?;
            }
        }
        Ok(())
    }
}

/// The status of a pod that runs.
fn running(pod: &Value) -> Value {
    let moment = jiff::Timestamp::now().to_string();
    let condition =
        |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": moment});
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let containers: Vec<Value> = containers
        .map(|one| {
            json!({"name": one["name"], "image": one["image"], "imageID": "", "ready": true, "started": true,
                "restartCount": 0, "state": {"running": {"startedAt": moment}}})
        })
        .collect();
    let conditions = ["Initialized", "ContainersReady", "Ready"].map(condition);
    json!({"phase": "Running", "startTime": moment, "containerStatuses": containers, "conditions": conditions})
}

/// What the node says of itself, about as long as what an agent says.
fn status(name: &Name) -> Value {
    let condition = |kind: &str, status: &str, reason: &str| json!({"type": kind, "status": status, "reason": reason, "message": format!("the node says {reason}")});
    let room = json!({"cpu": "64", "memory": "256Gi", "pods": "110", "ephemeral-storage": "100Gi"});
    json!({"capacity": room, "allocatable": room,
        "conditions": [condition("Ready", "True", "AgentReady"),
            condition("MemoryPressure", "False", "AgentHasSufficientMemory"),
            condition("DiskPressure", "False", "AgentHasNoDiskPressure"),
            condition("PIDPressure", "False", "AgentHasSufficientPID")],
        "addresses": [{"type": "InternalIP", "address": name.address}, {"type": "Hostname", "address": name.node}],
        "nodeInfo": {"architecture": "amd64", "operatingSystem": "linux", "machineID": "", "systemUUID": "",
            "bootID": "", "kernelVersion": "6", "osImage": "Debian", "containerRuntimeVersion": "waggle",
            "kubeletVersion": "v0.1.0", "kubeProxyVersion": ""}})
}
