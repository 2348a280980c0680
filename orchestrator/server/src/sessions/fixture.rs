//! For tests: a server over a store in a temporary folder, and agents that speak the real protocol over mTLS but run
//! nothing.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Status, Streaming};
use waggle_api::Part;
use waggle_model::network::NetworkState;
use waggle_store::EmbeddedStore;
use waggle_wire::v1;
use waggle_wire::v1::enrolment_client::EnrolmentClient;
use waggle_wire::v1::from_agent::Message as Up;
use waggle_wire::v1::from_server::Message as Down;
use waggle_wire::v1::node_client::NodeClient;

use super::{Numbers, Sessions, SessionsError, Settings, kind};
use crate::controllers::{Recorder, View};
use crate::objects::{Object, Objects, WriteOptions};
use crate::pki::Pki;
use crate::usage::UsageRegistry;

/// Nothing here takes longer, or it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that must happen.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what} did not happen in time"))
}

/// A server without its HTTP side.
pub(crate) struct Cluster {
    pub(crate) objects: Arc<Objects>,
    pub(crate) view: Arc<View>,
    pub(crate) numbers: Numbers,
    pub(crate) recorder: Recorder,
    pub(crate) usage: Arc<UsageRegistry>,
    pub(crate) sessions: Sessions,
    pub(crate) pki: Arc<Pki>,
    pub(crate) stop: CancellationToken,
    address: SocketAddr,
    folder: TempDir,
    task: JoinHandle<Result<(), SessionsError>>,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let cluster = Self::start_in(tempfile::tempdir().unwrap()).await;
        for name in ["default", "kube-system", "kube-node-lease", "shop"] {
            cluster
                .create(
                    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
                )
                .await;
        }
        cluster
    }

    async fn start_in(folder: TempDir) -> Self {
        let store = Arc::new(EmbeddedStore::open(&folder.path().join("store.redb")).unwrap());
        let pki = Pki::open(
            &folder.path().join("pki"),
            &["127.0.0.1".to_owned()],
            Timestamp::now(),
        )
        .unwrap();
        let pki = Arc::new(pki);
        let objects = Objects::open(store, Arc::new(Timestamp::now))
            .await
            .unwrap();
        let view = View::follow(&objects).await.unwrap();
        let numbers = Numbers::open(&objects).unwrap();
        let recorder = Recorder::start(Arc::clone(&objects));
        let usage = Arc::new(UsageRegistry::default());
        let sessions = Sessions::new(
            Arc::clone(&objects),
            Arc::clone(&view),
            numbers.clone(),
            Arc::clone(&usage),
            recorder.clone(),
            Settings::default(),
            Arc::clone(&pki),
        );
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let (serving, token) = (sessions.clone(), stop.clone());
        let task = tokio::spawn(async move { serving.serve(vec![listener], token).await });
        Self {
            objects,
            view,
            numbers,
            recorder,
            usage,
            sessions,
            pki,
            stop,
            address,
            folder,
            task,
        }
    }

    /// Ends the server and starts another one over the same store.
    pub(crate) async fn restart(self) -> Self {
        self.stop.cancel();
        soon("the end of serving", self.task)
            .await
            .unwrap()
            .unwrap();
        let Self {
            objects,
            view,
            numbers,
            recorder,
            sessions,
            folder,
            ..
        } = self;
        drop((view, numbers, recorder, sessions));
        soon("the end of the store's users", async {
            while Arc::strong_count(&objects) > 1 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        drop(objects);
        // The store's lock is released by a task that was just aborted.
        soon("the release of the store", async {
            let path = folder.path().join("store.redb");
            while EmbeddedStore::open(&path).is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        Self::start_in(folder).await
    }

    pub(crate) async fn create(&self, value: Value) -> Arc<Object> {
        let word = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let row = kind(&word("apiVersion"), &word("kind")).unwrap();
        self.objects
            .create(row, value, &WriteOptions::default())
            .await
            .unwrap()
    }

    /// Changes a part of an object.
    pub(crate) async fn change(
        &self,
        api_version: &str,
        kind_name: &str,
        (namespace, name): (&str, &str),
        part: Part,
        change: impl Fn(&mut Value) + Send + Sync,
    ) -> Arc<Object> {
        let change = |old: &Object| {
            let mut value = old.value.clone();
            change(&mut value);
            Ok(value)
        };
        let row = kind(api_version, kind_name).unwrap();
        self.objects
            .modify(row, namespace, name, part, &WriteOptions::default(), change)
            .await
            .unwrap()
    }

    /// A pod in namespace shop, bound to `node`.
    pub(crate) async fn bound_pod(&self, name: &str, node: &str) -> Arc<Object> {
        self.create(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "shop", "name": name, "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "main", "image": "web:1"}]},
        }))
        .await;
        self.objects.bind("shop", name, "", node).await.unwrap();
        self.pod(name).unwrap()
    }

    /// A pod of namespace shop.
    pub(crate) fn pod(&self, name: &str) -> Option<Arc<Object>> {
        self.objects.get(kind("v1", "Pod").unwrap(), "shop", name)
    }

    /// Waits until what is read of the objects satisfies `check`.
    pub(crate) async fn eventually<T>(
        &self,
        what: &str,
        mut check: impl FnMut(&Self) -> Option<T>,
    ) -> T {
        let mut changed = self.objects.changed();
        soon(what, async {
            loop {
                changed.borrow_and_update();
                if let Some(found) = check(self) {
                    return found;
                }
                changed.changed().await.unwrap();
            }
        })
        .await
    }

    fn endpoint(&self, identity: Option<(String, String)>) -> Endpoint {
        let mut tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.pki.ca_pem()));
        if let Some((certificate, key)) = identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address)).unwrap();
        endpoint.tls_config(tls).unwrap()
    }

    /// A connection without a certificate.
    pub(crate) async fn stranger(&self) -> Channel {
        self.endpoint(None).connect().await.unwrap()
    }

    /// Joins and connects with the certificate that it got.
    pub(crate) async fn joined(&self, node: &str) -> Channel {
        let (key, csr_pem) = request();
        let join = v1::JoinRequest {
            token: self.pki.join_token().to_owned(),
            node: node.into(),
            csr_pem,
        };
        let reply = EnrolmentClient::new(self.stranger().await)
            .join(join)
            .await
            .unwrap()
            .into_inner();
        let identity = (reply.certificate_pem, key.serialize_pem());
        self.endpoint(Some(identity)).connect().await.unwrap()
    }

    /// A node with a session.
    pub(crate) async fn agent(&self, node: &str) -> Agent {
        let channel = self.joined(node).await;
        Agent::connect(channel, node, Memory::default()).await
    }
}

/// A new key and a request for its certificate.
pub(crate) fn request() -> (KeyPair, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(Vec::<String>::new()).unwrap();
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    (key, request)
}

/// What an agent remembers of an earlier session.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    pub(crate) epoch: String,
    pub(crate) pods_generation: u64,
    pub(crate) network: NetworkState,
    pub(crate) pods: BTreeMap<String, v1::PodAssignment>,
}

/// A node's end of a session.
pub(crate) struct Agent {
    pub(crate) node: String,
    pub(crate) channel: Channel,
    pub(crate) welcome: v1::Welcome,
    pub(crate) memory: Memory,
    /// Network messages as they came, snapshots and deltas.
    pub(crate) network_messages: Vec<(&'static str, Bytes)>,
    /// Pod messages as they came.
    pub(crate) pod_messages: Vec<&'static str>,
    /// Stream requests not yet answered.
    pub(crate) requests: Vec<v1::OpenStream>,
    pub(crate) acknowledges: bool,
    pieces: waggle_wire::Pieces,
    up: mpsc::Sender<v1::FromAgent>,
    down: Streaming<v1::FromServer>,
}

impl Agent {
    /// Says hello with what is remembered, and waits for the welcome.
    pub(crate) async fn connect(channel: Channel, node: &str, memory: Memory) -> Self {
        let hello = v1::Hello {
            node: node.into(),
            agent_version: "test".into(),
            pods_generation: memory.pods_generation,
            network_generation: memory.network.generation.0,
            epoch: memory.epoch.clone(),
            address: format!(
                "172.30.0.{}",
                node.bytes().last().map_or(0, |last| last - b'0') + 10
            ),
            ..v1::Hello::default()
        };
        let (up, mut down) = Self::dial(channel.clone(), hello).await.unwrap();
        let welcome = match soon("a welcome", down.message())
            .await
            .unwrap()
            .and_then(|message| message.message)
        {
            Some(Down::Welcome(welcome)) => welcome,
            other => panic!("a session starts with a welcome, not {other:?}"),
        };
        let memory = Memory {
            epoch: welcome.epoch.clone(),
            ..memory
        };
        Self {
            node: node.to_owned(),
            channel,
            welcome,
            memory,
            network_messages: Vec::new(),
            pod_messages: Vec::new(),
            requests: Vec::new(),
            acknowledges: true,
            pieces: waggle_wire::Pieces::default(),
            up,
            down,
        }
    }

    /// Opens a session with this hello.
    pub(crate) async fn dial(
        channel: Channel,
        hello: v1::Hello,
    ) -> Result<(mpsc::Sender<v1::FromAgent>, Streaming<v1::FromServer>), Status> {
        let (up, messages) = mpsc::channel(64);
        up.send(v1::FromAgent {
            message: Some(Up::Hello(hello)),
        })
        .await
        .unwrap();
        let mut client = NodeClient::new(channel);
        let session = client.session(ReceiverStream::new(messages));
        let down = soon("an answer to a session", session).await?.into_inner();
        Ok((up, down))
    }

    pub(crate) async fn say(&self, message: Up) {
        self.up
            .send(v1::FromAgent {
                message: Some(message),
            })
            .await
            .unwrap();
    }

    /// Says that everything received is applied.
    pub(crate) async fn acknowledge(&self) {
        let ack = v1::Ack {
            pods_generation: self.memory.pods_generation,
            network_generation: self.memory.network.generation.0,
            network_fault: String::new(),
        };
        self.say(Up::Ack(ack)).await;
    }

    /// Takes in messages until `check` finds what it looks for.
    pub(crate) async fn until<T>(
        &mut self,
        what: &str,
        mut check: impl FnMut(&Self) -> Option<T>,
    ) -> T {
        let what = format!("{}: {what}", self.node);
        soon(&what, async {
            loop {
                if let Some(found) = check(self) {
                    return found;
                }
                self.take().await;
            }
        })
        .await
    }

    /// Takes in one message.
    pub(crate) async fn take(&mut self) {
        let message = self
            .down
            .message()
            .await
            .unwrap()
            .expect("the session goes on");
        match message.message.expect("a known message") {
            Down::PodsSnapshot(snapshot) => {
                self.pod_messages.push("snapshot");
                self.memory.pods = snapshot
                    .pods
                    .into_iter()
                    .map(|pod| (pod.name.clone(), pod))
                    .collect();
                self.memory.pods_generation = snapshot.generation;
            }
            Down::PodsDelta(delta) => {
                self.pod_messages.push("delta");
                self.memory.pods_generation = delta.generation;
                delta
                    .removals
                    .iter()
                    .for_each(|pod| drop(self.memory.pods.remove(&pod.name)));
                self.memory
                    .pods
                    .extend(delta.upserts.into_iter().map(|pod| (pod.name.clone(), pod)));
            }
            Down::NetworkPiece(piece) => self.pieces.take(&piece).unwrap(),
            Down::NetworkSnapshot(rest) => {
                let bytes = self.pieces.whole(rest);
                self.network_messages.push(("snapshot", bytes.clone()));
                self.memory.network = waggle_wire::decode_snapshot(bytes).unwrap();
                self.acknowledge_if_wanted().await;
            }
            Down::NetworkDelta(rest) => {
                let bytes = self.pieces.whole(rest);
                self.network_messages.push(("delta", bytes.clone()));
                self.memory
                    .network
                    .apply(waggle_wire::decode_delta(bytes).unwrap())
                    .unwrap();
                self.acknowledge_if_wanted().await;
            }
            Down::OpenStream(request) => self.requests.push(request),
            Down::Welcome(welcome) => self.welcome = welcome,
        }
    }

    async fn acknowledge_if_wanted(&self) {
        if self.acknowledges {
            self.acknowledge().await;
        }
    }

    /// The JSON of a pod as this node was told.
    pub(crate) fn pod(&self, name: &str) -> Option<Value> {
        let pod = self.memory.pods.get(name)?;
        Some(serde_json::from_slice(&pod.pod_json).unwrap())
    }

    /// Reports a pod of namespace shop.
    pub(crate) async fn report(&self, name: &str, uid: &str, status: Value) {
        let status = v1::PodStatus {
            namespace: "shop".into(),
            name: name.into(),
            uid: uid.into(),
            status_json: status.to_string().into(),
        };
        self.say(Up::PodStatus(status)).await;
    }

    /// Reports the node itself.
    pub(crate) async fn heartbeat(&self) {
        let status = json!({
            "capacity": {"cpu": "2", "memory": "4Gi", "pods": "110"},
            "allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"},
            "nodeInfo": {"architecture": "amd64", "operatingSystem": "linux", "machineID": "", "systemUUID": "",
                         "bootID": "", "kernelVersion": "6", "osImage": "Debian", "containerRuntimeVersion": "waggle",
                         "kubeletVersion": "waggle", "kubeProxyVersion": "waggle"},
        });
        self.say(Up::NodeStatus(v1::NodeStatus {
            status_json: status.to_string().into(),
        }))
        .await;
    }

    /// Hangs up; what it remembers is for the next session.
    pub(crate) fn hang_up(self) -> (Channel, Memory) {
        (self.channel, self.memory)
    }
}
